//! Reprocessing runs into topics: whole windows and sessions of a part of the past, once, marked, beside the running job; of processes that
//! die at any step, that have one run id, and that are aborted.

mod foreign_archives;
mod killed;
mod repairs;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Pipeline;
use super::crash::FAIL_POINTS;
use crate::support::{PATIENCE, ProcessGuard, ProgramOutput, numbers_of, read_by_kafka, topic};
use crate::topics::{delete_records_on, produce_in};

/// Jobs by name: the columns of their sink, and their query.
const JOBS: [(&str, &str, &str); 3] = [
    (
        "tumbling",
        "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT",
        "SELECT k, window_start, window_end, count(*) \
         FROM TUMBLE(TABLE visits, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start, window_end",
    ),
    (
        "sessions",
        "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT",
        "SELECT k, window_start, window_end, count(*) \
         FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds') GROUP BY k, window_start, window_end",
    ),
    (
        "rows",
        "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT",
        "SELECT k, t, t, o FROM visits",
    ),
];

/// The tables of a pipeline whose source has visits and is archived: `visits` is the archived topic. The job in `archive.sql` archives it.
pub(super) fn archived_visits(pipeline: &Pipeline) -> String {
    pipeline.work.file(
        "archive.sql",
        "CREATE JOB archiving WITH ('trigger' '10 milliseconds') AS INSERT INTO visits_raw \
         SELECT value, partition, \"offset\", \"timestamp\" FROM messages;\n",
    );
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    format!(
        "CREATE EXTERNAL TABLE messages (value VARCHAR, partition INT METADATA, \"offset\" BIGINT METADATA, \
         \"timestamp\" TIMESTAMP METADATA) STORED AS KAFKA LOCATION '{source}' \
         OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'format' 'raw');\n\
         CREATE EXTERNAL TABLE visits_raw (value VARCHAR, partition INT, \"offset\" BIGINT, \"timestamp\" TIMESTAMP) \
         STORED AS DELTA LOCATION 'visits_raw';\n\
         CREATE EXTERNAL TABLE visits (k BIGINT, t TIMESTAMP, o BIGINT METADATA FROM 'offset', p INT METADATA FROM 'partition', \
         WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS KAFKA LOCATION '{source}' \
         OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'watermark.idle_after' '1 hour', 'archive' 'visits_raw');\n"
    )
}

/// Archived visits, and jobs over them that write to topics.
pub(super) struct Past {
    pub(super) pipeline: Pipeline,
    /// The topics that the jobs write, by job.
    sinks: BTreeMap<&'static str, String>,
}

impl Past {
    /// `key` is the key of the sinks, as a part of their columns.
    pub(super) fn new(name: &str, key: &str) -> Self {
        let pipeline = Pipeline::between_topics(name, 2);
        let bootstrap = &pipeline.bootstrap;
        let mut tables = archived_visits(&pipeline);
        let mut sinks = BTreeMap::new();
        for (job, columns, query) in JOBS {
            let sink = topic(&format!("{name}-{job}"));
            tables += &format!(
                "CREATE EXTERNAL TABLE {job}_out ({columns}{key}) STORED AS KAFKA LOCATION '{sink}' \
                 OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
                 CREATE EXTERNAL TABLE {job}_seen ({columns}, headers MAP<VARCHAR, VARCHAR> METADATA, \"offset\" BIGINT METADATA) STORED AS KAFKA \
                 LOCATION '{sink}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n"
            );
            pipeline.work.file(
                &format!("{job}.sql"),
                &format!(
                    "CREATE JOB {job} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '20') AS \
                     INSERT INTO {job}_out {query};\n"
                ),
            );
            sinks.insert(job, sink);
        }
        pipeline.work.file("tables.sql", &tables);
        Self { pipeline, sinks }
    }

    /// A visit each second, of two keys; every ninth second there is none for four seconds, so that sessions end. With `late`, some come
    /// forty seconds late. Both partitions get visits of both keys, for one without any would hold back the watermark of all.
    pub(super) fn visit(&self, seconds: std::ops::Range<u32>, late: bool) {
        let mut visits = [vec![], vec![]];
        for n in seconds {
            let behind = if late && n % 11 == 3 { 40 } else { 0 };
            let second = (100 + n + n / 9 * 4).saturating_sub(behind);
            let visit = format!(
                "{{\"k\":{},\"t\":\"2025-01-01T00:{:02}:{:02}Z\"}}",
                n % 2,
                second / 60,
                second % 60
            );
            visits[n as usize / 2 % 2].push(visit);
        }
        let (bootstrap, source) = (&self.pipeline.bootstrap, &self.pipeline.source);
        for (partition, visits) in (0..).zip(&visits) {
            produce_in(bootstrap, source, partition, visits);
        }
    }

    /// Archives all visits, and lets the jobs handle them.
    fn catch_up(&self) {
        for file in ["archive.sql", "tumbling.sql", "sessions.sql", "rows.sql"] {
            self.pipeline.catch_up(file).ok();
        }
    }

    /// The topic forgets all that is archived.
    fn forget(&self) {
        self.forget_what_is_in("visits_raw");
    }

    /// The topic forgets the records that a table has.
    fn forget_what_is_in(&self, table: &str) {
        let next = format!(
            "SELECT partition, max(\"offset\") + 1 AS next FROM {table} GROUP BY partition"
        );
        let rows = self.sql(&[&next]).ok().rows();
        for row in rows {
            let partition = i32::try_from(row["partition"].as_i64().unwrap()).unwrap();
            let (bootstrap, source) = (&self.pipeline.bootstrap, &self.pipeline.source);
            let before = row["next"].as_i64().unwrap();
            delete_records_on(bootstrap, source, partition, before);
        }
    }

    pub(super) fn sql(&self, statements: &[&str]) -> ProgramOutput {
        self.pipeline.work.sql(&["tables.sql"], statements)
    }

    /// A process that runs one statement.
    fn process(&self, statement: &str) -> Command {
        let mut command = self.pipeline.work.command();
        command.args([
            "sql",
            "--format",
            "ndjson",
            "-f",
            "tables.sql",
            "-c",
            statement,
        ]);
        command
    }

    fn start(&self, statement: &str) -> Child {
        let mut command = self.process(statement);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Runs a statement in two processes that die at a step: in the first chunk, and in the second one after that.
    pub(super) fn die_twice(&self, statement: &str, fail_point: &str) {
        for time in 1..=2 {
            let fail_point = match fail_point {
                // A run is taken over once in each attempt.
                "taken-over" => fail_point.to_owned(),
                _ => format!("{fail_point}:{time}"),
            };
            let mut dying = self.process(statement);
            dying.env("ANABRANCH_FAIL_POINT", &fail_point);
            dying.stdout(Stdio::null()).stderr(Stdio::null());
            let status = dying.status().unwrap();
            assert_eq!(status.code(), None, "{fail_point}: it ended by itself");
        }
    }

    /// The rows of a query, sorted.
    pub(super) fn rows(&self, query: &str) -> Vec<String> {
        let printed = self.sql(&[query]).ok().out;
        let mut rows: Vec<String> = printed.lines().map(str::to_owned).collect();
        rows.sort_unstable();
        rows
    }

    /// The rows that a run has written; all of them have its headers.
    fn rows_of_run(&self, job: &str, run_id: &str) -> Vec<String> {
        const MARKED: &str = ",\"marked\":true}";
        let rows = self.rows(&format!(
            "SELECT k, s, e, n, headers['source'] = 'reprocessing' AND length(headers['sql_version']) = 12 AS marked \
             FROM {job}_seen WHERE headers['run_id'] = '{run_id}'"
        ));
        let without = |row: &String| format!("{}}}", row.strip_suffix(MARKED).expect(row));
        rows.iter().map(without).collect()
    }

    /// The rows that the job itself has written.
    fn rows_of_job(&self, job: &str) -> Vec<String> {
        self.rows(&format!(
            "SELECT k, s, e, n FROM {job}_seen WHERE headers IS NULL"
        ))
    }

    /// The windows or sessions of a job that have a row from one time to another, as a query over all of the past gives them.
    fn whole(&self, job: &str, from: &str, to: &str) -> Vec<String> {
        let (.., query) = JOBS.iter().find(|(name, ..)| *name == job).unwrap();
        let gap = if job == "sessions" { 3 } else { 0 };
        let named = query.replace(
            "window_start, window_end, count(*)",
            "window_start AS s, window_end AS e, count(*) AS n",
        );
        self.rows(&format!(
            "SELECT k, s, e, n FROM ({named}) WHERE s < TIMESTAMP '{to}' AND e > TIMESTAMP '{from}' \
             AND e - INTERVAL '{gap} seconds' >= TIMESTAMP '{from}'"
        ))
    }
}

pub(super) const FROM: &str = "2025-01-01T00:02:10";
pub(super) const TO: &str = "2025-01-01T00:03:20";

fn reprocess(job: &str, run_id: &str) -> String {
    format!(
        "REPROCESS JOB {job} FROM '{FROM}' TO '{TO}' EMIT ALL WITH ('run_id' '{run_id}', 'chunk' '10 seconds')"
    )
}

#[test]
fn run_1_a_run_writes_whole_windows_and_sessions_once_and_marked() {
    let past = Past::new("run-whole", "");
    past.visit(0..120, true);
    past.catch_up();
    past.forget();
    for job in ["tumbling", "sessions"] {
        let before = past.rows_of_job(job);
        let order = reprocess(job, job);
        past.sql(&[&order]).ok();
        let expected = past.whole(job, FROM, TO);
        assert!(expected.len() > 8, "{expected:?}");
        assert_eq!(past.rows_of_run(job, job), expected, "{job}");
        assert_eq!(past.rows_of_job(job), before, "{job}");
        // It is complete.
        past.sql(&[&order]).ok();
        assert_eq!(past.rows_of_run(job, job), expected, "{job}: again");
    }
    // A run id is one run over all jobs.
    let other = past.sql(&[&reprocess("rows", "sessions")]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.err.contains("exists already"), "{}", other.err);
}

#[test]
fn run_1_a_plan_writes_nothing_until_it_is_applied() {
    let past = Past::new("run-plan", "");
    past.visit(0..100, true);
    past.catch_up();
    let order = reprocess("sessions", "planned");
    past.sql(&[&format!("PLAN {order}")]).ok();
    assert_eq!(past.rows_of_run("sessions", "planned"), [""; 0]);
    // A session of the same key comes in later: the plan reads what was there when it was made.
    past.visit(100..110, false);
    past.catch_up();
    past.sql(&["APPLY RUN 'planned'"]).ok();
    let expected = past.whole("sessions", FROM, TO);
    assert_eq!(past.rows_of_run("sessions", "planned"), expected);
    past.sql(&["APPLY RUN 'planned'"]).ok();
    assert_eq!(past.rows_of_run("sessions", "planned"), expected);
}

#[test]
fn run_1_rows_of_offsets_are_written_once() {
    let past = Past::new("run-offsets", "");
    for part in 0..8 {
        past.visit(part * 10..part * 10 + 10, false);
        if part == 5 {
            past.catch_up();
            past.forget();
        }
    }
    let count = past.sql(&["SELECT count(*) AS v FROM visits WHERE p = 0"]);
    let count = numbers_of(&count.ok().out)[0];
    let (from, to) = (count / 3, count - count / 3);
    let order = format!(
        "REPROCESS JOB rows OFFSETS FROM '{{\"visits\":{{\"0\":{from},\"1\":-2}}}}' \
         TO '{{\"visits\":{{\"0\":{to},\"1\":-1}}}}' EMIT ALL WITH ('run_id' 'offsets')"
    );
    past.sql(&[&order]).ok();
    let expected = past.rows(&format!(
        "SELECT k, t AS s, t AS e, o AS n FROM visits WHERE (p = 0 AND o >= {from} AND o < {to}) OR p = 1"
    ));
    assert_eq!(past.rows_of_run("rows", "offsets"), expected);
}

#[test]
fn run_2_a_run_that_dies_at_any_step_goes_on() {
    let past = Past::new("run-crash", "");
    past.visit(0..120, true);
    past.catch_up();
    past.forget();
    let expected = past.whole("sessions", FROM, TO);
    for fail_point in FAIL_POINTS {
        let order = reprocess("sessions", fail_point);
        past.die_twice(&order, fail_point);
        past.sql(&[&format!("APPLY RUN '{fail_point}'")]).ok();
        let written = past.rows_of_run("sessions", fail_point);
        assert_eq!(written, expected, "{fail_point}");
    }
}

#[test]
fn run_2_a_run_of_offsets_that_dies_at_any_step_goes_on() {
    let past = Past::new("run-offsets-crash", "");
    past.visit(0..120, true);
    for file in ["archive.sql", "rows.sql"] {
        past.pipeline.catch_up(file).ok();
    }
    past.forget();
    // The topic alone has these.
    past.visit(120..130, false);
    let selected = "(p = 0 AND o >= 10 AND o < 50) OR p = 1";
    let expected = past.rows(&format!(
        "SELECT k, t AS s, t AS e, o AS n FROM visits WHERE {selected}"
    ));
    assert!(expected.len() > 100, "{expected:?}");
    for fail_point in FAIL_POINTS {
        let order = format!(
            "REPROCESS JOB rows OFFSETS FROM '{{\"visits\":{{\"0\":10,\"1\":-2}}}}' \
             TO '{{\"visits\":{{\"0\":50,\"1\":-1}}}}' EMIT ALL WITH ('run_id' '{fail_point}')"
        );
        past.die_twice(&order, fail_point);
        past.sql(&[&format!("APPLY RUN '{fail_point}'")]).ok();
        let written = past.rows_of_run("rows", fail_point);
        assert_eq!(written, expected, "{fail_point}");
    }
}

#[test]
fn run_2_two_processes_with_one_run_id_write_each_row_once() {
    let past = Past::new("run-two", "");
    past.visit(0..120, false);
    past.catch_up();
    let order = reprocess("tumbling", "two");
    let both = [past.start(&order), past.start(&order)];
    let ended_well = both.map(|mut one| one.wait().unwrap().success());
    // The one that loses gives way, and the other one completes the run.
    assert!(ended_well.contains(&true), "{ended_well:?}");
    past.sql(&[&order]).ok();
    let expected = past.whole("tumbling", FROM, TO);
    assert_eq!(past.rows_of_run("tumbling", "two"), expected);
}

#[test]
fn run_4_the_job_beside_a_run_gives_what_it_gives_alone() {
    let past = Past::new("run-beside", "");
    past.visit(0..100, false);
    past.catch_up();
    let mut live = ProcessGuard(past.pipeline.start("sessions.sql"));
    for (number, seconds) in [100..110, 110..120, 120..130].into_iter().enumerate() {
        past.visit(seconds, false);
        past.sql(&[&reprocess("sessions", &format!("beside_{number}"))])
            .ok();
    }
    live.end();
    past.catch_up();
    let expected = past.whole("sessions", FROM, TO);
    for number in 0..3 {
        let run_id = format!("beside_{number}");
        assert_eq!(past.rows_of_run("sessions", &run_id), expected);
    }
    // All sessions that are closed, each once.
    let closed = past.whole("sessions", "2025-01-01T00:00:00", "2025-01-01T01:00:00");
    let own = past.rows_of_job("sessions");
    let mut once = own.clone();
    once.dedup();
    assert_eq!(own, once);
    assert!(own.iter().all(|row| closed.contains(row)), "{own:?}");
    assert!(own.len() + 5 > closed.len(), "{own:?}");
}

/// The key of a record, and what its value says.
type KeyAndCounts<'a> = (&'a str, (i64, i64));

/// `k` and `n` of a row.
fn key_and_count(row: &str) -> (i64, i64) {
    let row: serde_json::Value = serde_json::from_str(row).unwrap();
    (row["k"].as_i64().unwrap(), row["n"].as_i64().unwrap())
}

/// The processes of the job and of a run beside it die at each step; Kafka's own consumer reads what both have committed.
#[test]
fn run_4_a_job_and_a_run_beside_it_die_at_any_step() {
    let past = Past::new("run-both", ", PRIMARY KEY (k, s) NOT ENFORCED");
    past.visit(0..120, false);
    past.catch_up();
    past.forget();
    let expected = past.whole("sessions", FROM, TO);
    let mut next = 120;
    for fail_point in FAIL_POINTS {
        past.visit(next..next + 10, false);
        next += 10;
        let mut dying = past.process(&reprocess("sessions", fail_point));
        dying.env("ANABRANCH_FAIL_POINT", fail_point);
        dying.stdout(Stdio::null()).stderr(Stdio::null());
        let mut run = ProcessGuard(dying.spawn().unwrap());
        past.pipeline.crash("sessions.sql", fail_point);
        let status = run.0.wait().unwrap();
        assert_eq!(status.code(), None, "{fail_point}: it ended by itself");
        let mut live = ProcessGuard(past.pipeline.start("sessions.sql"));
        past.sql(&[&format!("APPLY RUN '{fail_point}'")]).ok();
        live.end();
    }
    past.catch_up();
    let properties = ["print.headers=true", "print.key=true"];
    let (bootstrap, sink) = (&past.pipeline.bootstrap, &past.sinks["sessions"]);
    let printed = read_by_kafka(bootstrap, sink, &properties);
    // By the run that has written it; none of the job.
    let mut written: BTreeMap<&str, Vec<KeyAndCounts<'_>>> = BTreeMap::new();
    for line in printed.lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let [headers, key, value] = parts[..] else {
            panic!("{line}");
        };
        let run_id = headers
            .split(',')
            .find_map(|header| header.strip_prefix("run_id:"));
        let rows = written.entry(run_id.unwrap_or_default()).or_default();
        rows.push((key, key_and_count(value)));
    }
    let counts = |rows: &[KeyAndCounts<'_>]| {
        let keys: BTreeSet<&str> = rows.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys.len(), rows.len(), "a key is there twice: {rows:?}");
        let mut counts: Vec<(i64, i64)> = rows.iter().map(|(_, counts)| *counts).collect();
        counts.sort_unstable();
        counts
    };
    let mut of_definition: Vec<(i64, i64)> =
        expected.iter().map(|row| key_and_count(row)).collect();
    of_definition.sort_unstable();
    for fail_point in FAIL_POINTS {
        assert_eq!(counts(&written[fail_point]), of_definition, "{fail_point}");
    }
    // All sessions that are closed, each once, and none else.
    let closed = past.whole("sessions", "2025-01-01T00:00:00", "2025-01-01T01:00:00");
    let own = past.rows_of_job("sessions");
    assert_eq!(counts(&written[""]).len(), own.len());
    assert!(own.iter().all(|row| closed.contains(row)), "{own:?}");
    assert!(own.len() + 5 > closed.len(), "{own:?}");
    assert_eq!(written.len(), FAIL_POINTS.len() + 1, "{:?}", written.keys());
}

/// Heartbeats of a process that runs a job and leaves more and more records, until this is dropped.
struct FallingBehind {
    ends: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl FallingBehind {
    fn of(past: &Past, job: &str) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let id = past.pipeline.id_of(job);
        let work = &past.pipeline.work;
        let (new, beat) = (
            work.path("beat.json"),
            work.path(&format!("anabranch-data/jobs/{id}/heartbeat.json")),
        );
        let writer = std::thread::spawn(move || {
            for records in 1_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                let at = at.as_millis();
                let text = format!("{{\"owner\":\"p\",\"backlog\":{records},\"at\":{at}}}");
                std::fs::write(&new, text).unwrap();
                std::fs::rename(&new, &beat).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
            std::fs::remove_file(&beat).unwrap();
        });
        Self {
            ends,
            writer: Some(writer),
        }
    }
}

impl Drop for FallingBehind {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.writer.take().unwrap().join();
    }
}

#[test]
fn a_run_waits_while_its_job_falls_behind() {
    let past = Past::new("run-waits", "");
    past.visit(0..120, false);
    past.catch_up();
    let expected = past.whole("tumbling", FROM, TO);
    let behind = FallingBehind::of(&past, "tumbling");
    let mut running = past.start(&reprocess("tumbling", "waits"));
    let reason = "SELECT reason FROM system.runs WHERE run_id = 'waits'";
    let began = Instant::now();
    loop {
        let reasons = past.rows(reason).concat();
        if reasons.contains("job tumbling falls behind") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it does not wait: {reasons}");
    }
    let written = past.rows_of_run("tumbling", "waits").len();
    assert!(written < expected.len(), "{written}");
    // Another run is not to wait.
    let order = format!(
        "REPROCESS JOB tumbling FROM '{FROM}' TO '{TO}' EMIT ALL \
         WITH ('run_id' 'goes_on', 'chunk' '10 seconds', 'yield' 'false')"
    );
    past.sql(&[&order]).ok();
    assert_eq!(past.rows_of_run("tumbling", "goes_on"), expected);
    assert_eq!(past.rows_of_run("tumbling", "waits").len(), written);
    // No process runs the job any more.
    drop(behind);
    assert!(running.wait().unwrap().success());
    assert_eq!(past.rows_of_run("tumbling", "waits"), expected);
}

#[test]
fn a_run_that_is_aborted_ends_and_does_not_begin_again() {
    let past = Past::new("run-abort", "");
    past.visit(0..120, false);
    past.catch_up();
    let slow = format!(
        "REPROCESS JOB tumbling FROM '{FROM}' TO '{TO}' EMIT ALL \
         WITH ('run_id' 'slow', 'chunk' '10 seconds', 'max_rows_per_second' '1')"
    );
    let mut running = past.start(&slow);
    let began = Instant::now();
    while past.rows_of_run("tumbling", "slow").is_empty() {
        assert!(began.elapsed() < PATIENCE, "it has written nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    past.sql(&["ABORT RUN 'slow'"]).ok();
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    let written = past.rows_of_run("tumbling", "slow");
    assert!(written.len() < past.whole("tumbling", FROM, TO).len());
    for again in ["APPLY RUN 'slow'", &slow] {
        let refused = past.sql(&[again]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains("was aborted"), "{}", refused.err);
    }
    assert_eq!(past.rows_of_run("tumbling", "slow"), written);
    let states = past.sql(&["SHOW RUNS FOR JOB tumbling"]).ok().out;
    assert!(states.contains("ABORTED"), "{states}");
}

/// The process that writes a run dies with an open transaction, or between the sink and the log; another one ends the run.
#[test]
fn a_run_that_is_aborted_after_a_crash_has_all_rows_of_its_sink_in_its_log() {
    let past = Past::new("run-abort-crash", "");
    past.visit(0..120, true);
    past.catch_up();
    for fail_point in ["written", "committed"] {
        let mut dying = past.process(&reprocess("tumbling", fail_point));
        dying.env("ANABRANCH_FAIL_POINT", format!("{fail_point}:2"));
        dying.stdout(Stdio::null()).stderr(Stdio::null());
        let status = dying.status().unwrap();
        assert_eq!(status.code(), None, "{fail_point}: it ended by itself");
        past.sql(&[&format!("ABORT RUN '{fail_point}'")]).ok();
        let written = past.rows_of_run("tumbling", fail_point).len();
        let known = format!(
            "SELECT rows_out AS v FROM system.runs WHERE run_id = '{fail_point}' AND state = 'ABORTED'"
        );
        let known = numbers_of(&past.sql(&[&known]).ok().out);
        assert!(written > 0, "{fail_point}");
        assert_eq!(known, [written as u64], "{fail_point}");
    }
}

/// What readers by key have of the topic of a job.
fn by_key(past: &Past, job: &str) -> Vec<String> {
    past.rows(&format!(
        "SELECT k, s, e, n FROM (SELECT *, row_number() OVER (PARTITION BY k, s ORDER BY \"offset\" DESC) AS place \
         FROM {job}_seen) WHERE place = 1 AND n IS NOT NULL"
    ))
}

#[test]
fn run_5_a_run_writes_what_has_changed_and_withdraws_what_is_gone() {
    let past = Past::new("run-changed", ", PRIMARY KEY (k, s) NOT ENFORCED");
    past.visit(0..120, false);
    past.catch_up();
    // Each is as far as the gap from a session before it and from one behind it: of the two one becomes.
    past.pipeline.produce(
        "{\"k\":0,\"t\":\"2025-01-01T00:02:43Z\"}\n{\"k\":1,\"t\":\"2025-01-01T00:02:42Z\"}\n",
    );
    past.catch_up();
    let order = |options: &str| format!("REPROCESS JOB sessions FROM '{FROM}' TO '{TO}' {options}");
    let changed = order("WITH ('run_id' 'changed', 'withdraw' 'true')");
    past.sql(&[&format!("PLAN {changed}")]).ok();
    let before = past.rows_of_job("sessions");
    past.sql(&["APPLY RUN 'changed'"]).ok();
    let changed = past.rows_of_run("sessions", "changed");
    assert!(changed.len() < past.whole("sessions", FROM, TO).len());
    assert_eq!(past.rows_of_job("sessions"), before);
    let after = by_key(&past, "sessions");
    for row in past.whole("sessions", FROM, TO) {
        assert!(after.contains(&row), "{row} is not in {after:?}");
    }
    let gone = "SELECT key FROM system.run_changes WHERE run_id = 'changed' AND kind = 'gone'";
    assert!(!past.rows(gone).is_empty());
    past.sql(&[&order("EMIT ALL WITH ('run_id' 'all')")]).ok();
    assert_eq!(by_key(&past, "sessions"), after);
}

#[test]
fn run_1_windows_with_rows_of_before_the_past_are_left_out() {
    let past = Past::new("run-beginning", ", PRIMARY KEY (k, s) NOT ENFORCED");
    past.visit(0..60, false);
    // Nothing is archived yet: these visits are gone. Those that are left begin at 3:04 and at 3:06, and a row may be five seconds late.
    past.forget_what_is_in("messages");
    past.visit(60..130, false);
    past.catch_up();
    let order = |from: &str, options: &str| {
        format!(
            "REPROCESS JOB tumbling FROM '2025-01-01T00:{from}' TO '2025-01-01T00:04:00' EMIT ALL \
             WITH ('chunk' '10 seconds'{options})"
        )
    };
    let done = past.sql(&[&order("02:10", ", 'run_id' 'beginning'")]).ok();
    let expected = past.whole("tumbling", "2025-01-01T00:03:20", "2025-01-01T00:04:00");
    assert!(expected.len() > 4, "{expected:?}");
    assert_eq!(past.rows_of_run("tumbling", "beginning"), expected);
    for says in [
        "records of before 2025-01-01T00:03:11.000001Z are gone",
        "k = 0 from 2025-01-01T00:03:00Z to 2025-01-01T00:03:10Z: its first records may be gone",
    ] {
        assert!(done.out.contains(says), "{}", done.out);
    }
    // What was published of earlier times stays.
    let withdrawing = ", 'run_id' 'withdrawing', 'withdraw' 'true'";
    let refused = past.sql(&[&order("02:10", withdrawing)]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let says = "'withdraw' would remove published rows that the run cannot give again";
    assert!(refused.err.contains(says), "{}", refused.err);
    past.sql(&[&order("03:20", withdrawing)]).ok();
    assert_eq!(past.rows_of_run("tumbling", "withdrawing"), expected);
}

#[test]
fn run_5_rows_of_others_are_not_withdrawn_and_what_moved_since_the_plan_is_not_overwritten() {
    let past = Past::new("run-others", ", PRIMARY KEY (k, s) NOT ENFORCED");
    past.visit(0..120, false);
    past.catch_up();
    // Another writer has put a session into the range that the job does not give.
    past.sql(&["INSERT INTO sessions_out VALUES \
                (7, TIMESTAMP '2025-01-01T00:02:30', TIMESTAMP '2025-01-01T00:02:40', 1)"])
        .ok();
    let order = |run_id: &str| {
        format!(
            "REPROCESS JOB sessions FROM '{FROM}' TO '{TO}' \
             WITH ('run_id' '{run_id}', 'withdraw' 'true', 'chunk' '10 seconds')"
        )
    };
    let before = by_key(&past, "sessions");
    past.sql(&[&order("others")]).ok();
    assert_eq!(by_key(&past, "sessions"), before);
    // A row that is the same by the plan is another one when it is applied.
    past.sql(&[&format!("PLAN {}", order("moved"))]).ok();
    past.sql(&[
        "INSERT INTO sessions_out SELECT k, s, e, n + 1 FROM sessions_seen \
                WHERE k = 0 AND s >= TIMESTAMP '2025-01-01T00:02:30' ORDER BY s LIMIT 1",
    ])
    .ok();
    let before = by_key(&past, "sessions");
    let refused = past.sql(&["APPLY RUN 'moved'"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let said = "the plan does not show 1 of the rows that the run would change now";
    assert!(refused.err.contains(said), "{}", refused.err);
    assert_eq!(by_key(&past, "sessions"), before);
}
