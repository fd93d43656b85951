//! Objects that do not open when a server starts: they stay defined, say why, and are there as soon as they open.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::TestServer;
use crate::support::Workspace;

/// Passes all that is sent on to a server, or refuses each request as a store does to whom it does not know.
struct Proxy {
    address: String,
    refuses: Arc<AtomicBool>,
}

impl Proxy {
    /// Before the server at `http://HOST:PORT`.
    fn before(endpoint: &str) -> Self {
        let behind = endpoint
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let refuses = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&refuses);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (behind, flag) = (behind.clone(), Arc::clone(&flag));
                std::thread::spawn(move || match flag.load(Ordering::SeqCst) {
                    true => refuse(client),
                    false => pass(client, &behind),
                });
            }
        });
        Self { address, refuses }
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }
}

fn refuse(mut client: TcpStream) {
    let mut head = [0; 16 << 10];
    let _ = client.read(&mut head);
    let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = client.write_all(answer.as_bytes());
    let _ = client.shutdown(Shutdown::Write);
}

fn pass(client: TcpStream, behind: &str) {
    let Ok(server) = TcpStream::connect(behind) else {
        return;
    };
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ = std::io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = up.join();
}

/// Asks a server whose tables `seen` and `kept`, view `small` and job `copy` do not open; `reason` is a part of why.
const AWAY: &str = r#"
import json, urllib.request
db, reason, page = connect(), sys.argv[2], sys.argv[3]
tables = dict(rows(db, "SHOW TABLES"))
assert tables == {"seen": "Delta table", "kept": "Delta table", "small": "view"}, tables
listed = {name for (name,) in rows(db, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")}
assert listed == set(tables), listed
assert "STORED AS DELTA" in rows(db, "SHOW CREATE TABLE kept")[0][1]
job = until(lambda: rows(db, "SELECT state, reason FROM system.jobs WHERE job = 'copy'"), lambda job: job[0][0] == "WAITING", 90)
assert "cannot be opened" in job[0][1] and reason in job[0][1], job
assert rows(db, "SHOW JOBS")[0][1] == "WAITING"
used = refused(rows, db, "SELECT count(*) FROM small")
assert "kept cannot be opened" in used and reason in used, used
written = refused(rows, db, "INSERT INTO kept VALUES (7)")
assert "kept cannot be opened" in written, written
for name in tables:
    again = refused(rows, db, f"CREATE VIEW {name} AS SELECT 1 AS n")
    assert "exists already" in again, again
again = refused(rows, db, "CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'elsewhere'")
assert "exists already" in again, again
def get(path):
    with urllib.request.urlopen(f"http://{page}{path}") as answer:
        return answer.read().decode()
metrics = get("/metrics")
assert 'anabranch_job_state{job="copy",state="WAITING"} 1' in metrics, metrics
assert "anabranch_tables_unopened 2" in metrics, metrics
health = json.loads(get("/health"))
assert health["jobs"] == {"copy": "WAITING"} and health["unopened"] == ["kept", "seen"], health
print("asked")
"#;

/// The same when it opens.
const BACK: &str = r#"
import json, urllib.request
db, page = connect(), sys.argv[2]
def count(sql):
    def ask():
        try:
            return rows(db, sql)
        except Exception as error:
            return said(error)
    return ask
until(count("SELECT count(*) FROM small"), lambda found: found == [(1,)])
until(count("SELECT count(*) FROM seen"), lambda found: found == [(1,)])
rows(db, "INSERT INTO seen VALUES (2)")
until(count("SELECT count(*) FROM small"), lambda found: found == [(2,)])
until(lambda: rows(db, "SELECT state FROM system.jobs"), lambda found: found == [("RUNNING",)])
def get(path):
    with urllib.request.urlopen(f"http://{page}{path}") as answer:
        return answer.read().decode()
until(lambda: json.loads(get("/health")), lambda health: health == {"jobs": {"copy": "RUNNING"}, "status": "ok"})
assert "anabranch_tables_unopened 0" in get("/metrics")
print("back")
"#;

fn definitions(seen: &str, kept: &str, options: &str) -> String {
    let stream = format!("'scan.mode' 'stream'{options}");
    let plain = match options.strip_prefix(", ") {
        Some(options) => format!(" OPTIONS ({options})"),
        None => String::new(),
    };
    format!(
        r#"
db = connect()
for sql in ["""CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION '{seen}' OPTIONS ({stream})""",
            """CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION '{kept}'{plain}""",
            "CREATE VIEW small AS SELECT id FROM kept WHERE id < 100",
            "CREATE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * 10 FROM seen",
            "INSERT INTO seen VALUES (1)"]:
    rows(db, sql)
until(lambda: rows(db, "SELECT count(*) FROM small"), lambda found: found == [(1,)])
"#
    )
}

fn page(served: &TestServer) -> &str {
    served
        .metrics
        .as_deref()
        .unwrap()
        .trim_start_matches("http://")
}

/// A server that was killed counts as alive for half a minute after its last sign of life: here it was killed earlier than that.
fn take_sign_of_life(work: &Workspace) {
    let jobs = std::fs::read_dir(work.path("anabranch-data/jobs")).unwrap();
    let mut signs = jobs.map(|job| job.unwrap().path().join("heartbeat.json"));
    if let Some(sign) = signs.find(|sign| sign.exists()) {
        std::fs::remove_file(sign).unwrap();
    }
}

#[test]
fn a_failing_store_at_server_start_loses_no_definitions() {
    let test = "server::unopened::a_failing_store_at_server_start_loses_no_definitions";
    let Some((endpoint, bucket)) = crate::support::s3(test) else {
        return;
    };
    let proxy = Proxy::before(&endpoint);
    let options = format!(
        ", 'aws.endpoint' 'http://{}', 'aws.region' 'us-east-1', 'aws.access_key_id' '${{AWS_ACCESS_KEY_ID}}', \
         'aws.secret_access_key' '${{AWS_SECRET_ACCESS_KEY}}'",
        proxy.address
    );
    let folder = format!("s3://{bucket}/unopened-{}", std::process::id());
    let (seen, kept) = (format!("{folder}/seen"), format!("{folder}/kept"));
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    served.python(&definitions(&seen, &kept, &options), &[]);
    served.kill();
    take_sign_of_life(&work);
    proxy.refuse(true);
    let served = TestServer::start(&work, &["--metrics", "127.0.0.1:0"]);
    assert_eq!(served.python(AWAY, &["", page(&served)]), "asked\n");
    proxy.refuse(false);
    assert_eq!(served.python(BACK, &[page(&served)]), "back\n");
}

#[test]
fn an_unmounted_folder_is_not_recreated() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    served.python(&definitions("seen", "kept", ""), &[]);
    served.kill();
    take_sign_of_life(&work);
    for table in ["seen", "kept"] {
        std::fs::rename(work.path(table), work.path(&format!("{table}-away"))).unwrap();
    }
    let served = TestServer::start(&work, &["--metrics", "127.0.0.1:0"]);
    assert_eq!(
        served.python(AWAY, &["no longer exists", page(&served)]),
        "asked\n"
    );
    for table in ["seen", "kept"] {
        assert!(!work.path(table).exists(), "{table}");
        std::fs::rename(work.path(&format!("{table}-away")), work.path(table)).unwrap();
    }
    assert_eq!(served.python(BACK, &[page(&served)]), "back\n");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn unopened_objects_can_be_dropped_and_declared_again() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
db = connect()
for sql in ["CREATE EXTERNAL TABLE gone (id BIGINT) STORED AS DELTA LOCATION 'gone'",
            "CREATE EXTERNAL TABLE other (id BIGINT) STORED AS DELTA LOCATION 'other'",
            "CREATE VIEW over AS SELECT * FROM gone"]:
    rows(db, sql)
"#;
    served.python(script, &[]);
    served.kill();
    for table in ["gone", "other"] {
        std::fs::remove_dir_all(work.path(table)).unwrap();
    }
    // A definition that only a newer program can read.
    let newer = r#"{"format":1,"statement":"CREATE EXTERNAL TABLE newer (id BIGINT) STORED AS COMET LOCATION 'x'","at":1}"#;
    std::fs::write(work.path("anabranch-data/catalog/0000000003.json"), newer).unwrap();
    let script = r#"
db = connect()
names = lambda: {name for name, _ in rows(db, "SHOW TABLES")}
assert names() == {"gone", "other", "over", "newer"}, names()
used = refused(rows, db, "SELECT * FROM newer")
assert "this program cannot read its definition" in used, used
assert "exists already" in refused(rows, db, "CREATE VIEW newer AS SELECT 1 AS n")
rows(db, "DROP VIEW over")
rows(db, "DROP TABLE gone")
rows(db, "DROP TABLE IF EXISTS newer")
rows(db, "CREATE OR REPLACE EXTERNAL TABLE other (id BIGINT) STORED AS DELTA LOCATION 'another'")
assert rows(db, "SELECT count(*) FROM other") == [(0,)]
assert names() == {"other"}, names()
print("done")
"#;
    let served = TestServer::start(&work, &[]);
    assert_eq!(served.python(script, &[]), "done\n");
    served.kill();
    let served = TestServer::start(&work, &[]);
    let script = r#"
db = connect()
print(rows(db, "SHOW TABLES"), rows(db, "SELECT count(*) FROM other"))
"#;
    assert_eq!(
        served.python(script, &[]),
        "[('other', 'Delta table')] [(0,)]\n"
    );
}

/// Job `copy` waits, and why.
const WAITS: &str = r#"
db = connect()
job = until(lambda: rows(db, "SELECT state, reason FROM system.jobs WHERE job = 'copy'"), lambda job: job and job[0][0] == "WAITING", 90)
assert "cannot be opened" in job[0][1] and "no longer exists" in job[0][1], job
print("waits")
"#;

/// It runs.
const RUNS: &str = r#"
db = connect()
until(lambda: rows(db, "SELECT state FROM system.jobs WHERE job = 'copy'"), lambda job: job == [("RUNNING",)], 90)
print("runs")
"#;

const TABLES: &str = "
CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION 'seen' OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'kept';
";
const COPY: &str = "
CREATE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * 10 FROM seen;
";

fn take_away(work: &Workspace) {
    for table in ["seen", "kept"] {
        std::fs::rename(work.path(table), work.path(&format!("{table}-away"))).unwrap();
    }
}

fn bring_back(work: &Workspace) {
    for table in ["seen", "kept"] {
        assert!(!work.path(table).exists(), "{table} was made");
        std::fs::rename(work.path(&format!("{table}-away")), work.path(table)).unwrap();
    }
}

#[test]
fn a_server_creates_no_tables_for_jobs_of_files() {
    let work = Workspace::new();
    work.file("tables.sql", TABLES);
    work.file("job.sql", COPY);
    work.sql(&["tables.sql"], &["INSERT INTO seen VALUES (1)"])
        .ok();
    work.anabranch(&["run", "tables.sql", "job.sql", "--until-caught-up"])
        .ok();
    take_away(&work);
    let served = TestServer::start(&work, &[]);
    assert_eq!(served.python(WAITS, &[]), "waits\n");
    bring_back(&work);
    assert_eq!(served.python(RUNS, &[]), "runs\n");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn a_server_with_files_starts_without_the_tables_of_their_jobs() {
    let work = Workspace::new();
    work.file("all.sql", &format!("{TABLES}{COPY}"));
    let copied = |id: u32| {
        format!(
            r#"
db = connect()
rows(db, "INSERT INTO seen VALUES ({id})")
until(lambda: rows(db, "SELECT count(*) FROM kept WHERE id = {id} * 10"), lambda found: found == [(1,)])
print("copied")
"#
        )
    };
    let served = TestServer::start(&work, &["all.sql"]);
    assert_eq!(served.python(&copied(1), &[]), "copied\n");
    assert_eq!(served.stop(), Some(0));
    take_away(&work);
    let served = TestServer::start(&work, &["all.sql"]);
    assert_eq!(served.python(WAITS, &[]), "waits\n");
    bring_back(&work);
    assert_eq!(served.python(RUNS, &[]), "runs\n");
    assert_eq!(served.python(&copied(2), &[]), "copied\n");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn a_job_is_restored_with_its_tables_and_views() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
db = connect()
for sql in ["CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION 'seen' OPTIONS ('scan.mode' 'stream')",
            "CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'kept'",
            "CREATE VIEW more AS SELECT id * 2 AS id FROM seen",
            "CREATE OR REPLACE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id FROM more",
            "INSERT INTO seen VALUES (1)"]:
    rows(db, sql)
until(lambda: rows(db, "SELECT id FROM kept ORDER BY id"), lambda found: found == [(2,)])
rows(db, "CREATE OR REPLACE VIEW more AS SELECT id * 3 AS id FROM seen")
rows(db, "CREATE OR REPLACE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'elsewhere'")
print("made")
"#;
    assert_eq!(served.python(script, &[]), "made\n");
    assert_eq!(served.stop(), Some(0));
    let served = TestServer::start(&work, &[]);
    assert_eq!(served.python(RUNS, &[]), "runs\n");
    let script = r#"
db = connect()
rows(db, "INSERT INTO seen VALUES (10)")
rows(db, "CREATE EXTERNAL TABLE former (id BIGINT) STORED AS DELTA LOCATION 'kept'")
until(lambda: rows(db, "SELECT id FROM former ORDER BY id"), lambda found: found == [(2,), (20,)])
# Statements of clients see what was declared later.
assert rows(db, "SELECT id FROM more ORDER BY id") == [(3,), (30,)]
assert rows(db, "SELECT count(*) FROM kept") == [(0,)]
print("goes on")
"#;
    assert_eq!(served.python(script, &[]), "goes on\n");
    assert_eq!(served.stop(), Some(0));
}
