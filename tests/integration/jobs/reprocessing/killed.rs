//! KILL QUERY of statements that write runs: readers have whole chunks of the run then, and it goes on from there.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{FROM, Past, TO, key_and_count};
use crate::server::TestServer;
use crate::support::{PATIENCE, ProgramOutput, consume_on};

/// A chunk of two rows every two seconds. In between no transaction is open.
const PACED: &str = ", 'max_rows_per_second' '1'";

fn reprocess(run_id: &str, options: &str) -> String {
    format!(
        "REPROCESS JOB tumbling FROM '{FROM}' TO '{TO}' EMIT ALL \
         WITH ('run_id' '{run_id}', 'chunk' '10 seconds', 'yield' 'false'{options})"
    )
}

/// Clients of a server over archived visits.
struct Clients<'p> {
    past: &'p Past,
    served: TestServer,
}

impl<'p> Clients<'p> {
    fn of(past: &'p Past) -> Self {
        let served = TestServer::start(&past.pipeline.work, &["tables.sql"]);
        Self { past, served }
    }

    fn command(&self, statement: &str) -> Command {
        let mut command = self.past.pipeline.work.command();
        command.args(["sql", "--format", "ndjson", "-c", statement]);
        command.env("ANABRANCH_URL", self.served.url());
        command
    }

    fn sql(&self, statement: &str) -> ProgramOutput {
        ProgramOutput::of(&mut self.command(statement))
    }

    /// A client that waits for its statement.
    fn start(&self, statement: &str) -> Child {
        let mut command = self.command(statement);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The id of the running statement that names a run; none if its client has ended before.
    fn id_of(&self, run_id: &str, client: &mut Child) -> Option<String> {
        let named = format!("'{run_id}'");
        let began = Instant::now();
        loop {
            let has_ended = client.try_wait().unwrap().is_some();
            for row in self.sql("SHOW QUERIES").ok().rows() {
                if row["text"].as_str().unwrap().contains(&named) {
                    return Some(row["id"].as_str().unwrap().to_owned());
                }
            }
            if has_ended {
                return None;
            }
            assert!(began.elapsed() < PATIENCE, "{run_id} does not run");
        }
    }

    fn kill(&self, id: &str) -> ProgramOutput {
        self.sql(&format!("KILL QUERY '{id}'"))
    }
}

/// Records of a run, and of a key, that consumers of committed records have.
fn committed(past: &Past, run_id: &str, key: i64) -> (usize, usize) {
    let (bootstrap, sink) = (&past.pipeline.bootstrap, &past.sinks["tumbling"]);
    let printed = consume_on(bootstrap, sink, &["print.headers=true"]);
    let marked = format!("run_id:{run_id}");
    let mut counts = (0, 0);
    for line in printed.lines() {
        let (headers, value) = line.split_once('\t').unwrap();
        counts.0 += usize::from(headers.split(',').any(|header| header == marked));
        counts.1 += usize::from(key_and_count(value).0 == key);
    }
    counts
}

/// Rows by the start of their window.
fn by_window(rows: &[String]) -> BTreeMap<String, Vec<&str>> {
    let mut windows: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let value: serde_json::Value = serde_json::from_str(row).unwrap();
        let of_window = windows.entry(value["s"].to_string()).or_default();
        of_window.push(row);
    }
    windows
}

#[test]
fn run_2_a_statement_that_is_killed_leaves_whole_chunks_and_its_run_goes_on() {
    let past = Past::new("run-killed", "");
    past.visit(0..120, false);
    for file in ["archive.sql", "tumbling.sql"] {
        past.pipeline.catch_up(file).ok();
    }
    let expected = past.whole("tumbling", FROM, TO);
    let clients = Clients::of(&past);
    let plan = format!("PLAN {}", reprocess("planned", PACED));
    clients.sql(&plan).ok();
    let mut killed = Vec::new();
    for (run_id, statement) in [
        ("at_once", reprocess("at_once", PACED)),
        ("planned", "APPLY RUN 'planned'".to_owned()),
    ] {
        let mut client = clients.start(&statement);
        let id = clients.id_of(run_id, &mut client).expect("it runs");
        killed.push((run_id, id, client));
    }
    let began = Instant::now();
    while killed
        .iter()
        .any(|(run_id, ..)| committed(&past, run_id, 9).0 == 0)
    {
        assert!(began.elapsed() < PATIENCE, "a run has written nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (_, id, _) in &killed {
        clients.kill(id).ok();
    }
    // A transaction that stays open would hide this row.
    past.sql(&["INSERT INTO tumbling_out VALUES \
                (9, TIMESTAMP '2025-01-01T00:00:00', TIMESTAMP '2025-01-01T00:00:10', 1)"])
        .ok();
    let mut stopped = Vec::new();
    for (run_id, _, client) in killed {
        let ended = client.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{run_id}: {said}");
        assert!(said.contains("was cancelled"), "{run_id}: {said}");
        let written = past.rows_of_run("tumbling", run_id);
        assert!(written.len() < expected.len(), "{run_id}: {written:?}");
        assert_eq!(committed(&past, run_id, 9), (written.len(), 1), "{run_id}");
        let whole = by_window(&expected);
        for (start, rows) in by_window(&written) {
            assert_eq!(whole.get(&start), Some(&rows), "{run_id}: {start}");
        }
        stopped.push((run_id, written));
    }
    // A statement without a pace is killed wherever it is: it may have made no run yet, or be complete.
    for run_id in ["first", "second", "third"] {
        let order = reprocess(run_id, "");
        let mut client = clients.start(&order);
        if let Some(id) = clients.id_of(run_id, &mut client) {
            clients.kill(&id);
        }
        client.wait_with_output().unwrap();
        clients.sql(&order).ok();
        assert_eq!(past.rows_of_run("tumbling", run_id), expected, "{run_id}");
    }
    let listed = clients.sql("SHOW RUNS FOR JOB tumbling").ok().rows();
    for (run_id, written) in &stopped {
        assert_eq!(past.rows_of_run("tumbling", run_id), *written, "{run_id}");
        let run = listed.iter().find(|row| row["run_id"] == *run_id).unwrap();
        assert_eq!(run["state"], "RUNNING", "{run}");
        assert!(run["done"].as_f64().unwrap() < 1.0, "{run}");
        // The sink may have one chunk that the log does not have: two rows.
        let known = run["rows_out"].as_u64().unwrap() as usize;
        assert!((known..=known + 2).contains(&written.len()), "{run}");
        let described = clients.sql(&format!("DESCRIBE RUN '{run_id}'")).ok().out;
        let next = format!("APPLY RUN '{run_id}' continues it");
        assert!(described.contains(&next), "{described}");
    }
    let continued: Vec<(&str, Child)> = stopped
        .iter()
        .map(|(run_id, _)| (*run_id, clients.start(&format!("APPLY RUN '{run_id}'"))))
        .collect();
    for (run_id, client) in continued {
        let ended = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{run_id}: {said}");
        assert_eq!(past.rows_of_run("tumbling", run_id), expected, "{run_id}");
        let state = format!("SELECT state FROM system.runs WHERE run_id = '{run_id}'");
        assert!(clients.sql(&state).ok().out.contains("COMPLETE"));
    }
}
