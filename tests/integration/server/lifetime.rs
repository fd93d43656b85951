//! Lifetime of a server: the definitions that it keeps, and the clients that it lets in.

use std::time::{Duration, Instant};

use super::{TestServer, there, wait_for};
use crate::support::{PATIENCE, Workspace};

/// Runs statements, with the program itself as the client; gives all rows as lines of JSON.
fn rows(work: &Workspace, served: &TestServer, sql: &[&str]) -> String {
    let mut arguments = vec!["sql", "--format", "ndjson"];
    for statement in sql {
        arguments.extend(["-c", statement]);
    }
    there(work, served, &arguments).ok().out
}

const TABLES: &str = "CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION 'seen' OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'kept';
CREATE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * 10 FROM seen;
";

#[test]
fn tables_and_jobs_are_there_after_a_restart() {
    let work = Workspace::new();
    let file = work.file("tables.sql", TABLES);
    let served = TestServer::start(&work, &[file]);
    rows(
        &work,
        &served,
        &["CREATE VIEW small AS SELECT id FROM kept WHERE id < 100"],
    );
    rows(&work, &served, &["INSERT INTO seen VALUES (1), (2)"]);
    wait_for(&work, &served, "SELECT count(*) AS n FROM small", "n\n2\n");
    assert_eq!(served.stop(), Some(0));
    // With the file again, and without: nothing is made twice.
    for arguments in [&[file][..], &[]] {
        let served = TestServer::start(&work, arguments);
        rows(&work, &served, &["INSERT INTO seen VALUES (3)"]);
        let expected = if arguments.is_empty() {
            "n\n4\n"
        } else {
            "n\n3\n"
        };
        wait_for(&work, &served, "SELECT count(*) AS n FROM small", expected);
        served.kill();
    }
}

#[test]
fn a_job_of_a_file_keeps_the_values_of_its_parameters() {
    let work = Workspace::new();
    let file = work.file("tables.sql", &TABLES.replace("id * 10", "id * $factor"));
    let with_file: &[&str] = &[file, "-p", "factor=10"];
    let without: &[&str] = &[];
    for (id, arguments) in [(1, with_file), (2, with_file), (3, without)] {
        let served = TestServer::start(&work, arguments);
        let insert = format!("INSERT INTO seen VALUES ({id})");
        rows(&work, &served, &[&insert]);
        let expected = format!("id\n{id}0\n");
        wait_for(&work, &served, "SELECT max(id) AS id FROM kept", &expected);
        assert_eq!(served.stop(), Some(0));
    }
}

#[test]
fn a_job_created_by_a_file_runs_without_it() {
    let work = Workspace::new();
    let file = work.file("tables.sql", TABLES);
    work.anabranch(&["run", file, "--until-caught-up"]).ok();
    let served = TestServer::start(&work, &[]);
    rows(
        &work,
        &served,
        &[
            "CREATE EXTERNAL TABLE more (id BIGINT) STORED AS DELTA LOCATION 'seen'",
            "INSERT INTO more VALUES (4)",
            "CREATE EXTERNAL TABLE copied STORED AS DELTA LOCATION 'kept'",
        ],
    );
    wait_for(&work, &served, "SELECT id FROM copied", "id\n40\n");
}

#[test]
fn a_job_that_another_process_has_changed_is_run_as_it_is_now() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[work.file("tables.sql", TABLES)]);
    rows(&work, &served, &["INSERT INTO seen VALUES (1)"]);
    wait_for(&work, &served, "SELECT max(id) AS id FROM kept", "id\n10\n");
    let tables = "CREATE EXTERNAL TABLE seen (id BIGINT) STORED AS DELTA LOCATION 'seen' OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (id BIGINT) STORED AS DELTA LOCATION 'kept';";
    let job = |factor: u32| {
        format!(
            "{tables} CREATE OR REPLACE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * {factor} FROM seen;"
        )
    };
    work.anabranch(&["sql", "-f", work.file("changed.sql", &job(100))])
        .ok();
    rows(&work, &served, &["INSERT INTO seen VALUES (2)"]);
    wait_for(
        &work,
        &served,
        "SELECT max(id) AS id FROM kept",
        "id\n200\n",
    );
    // Dropped and created again, it begins at the beginning.
    work.sql(&[], &["DROP JOB copy"]).ok();
    let deadline = Instant::now() + PATIENCE;
    while !served.log.lock().unwrap().contains("job copy was dropped") {
        assert!(Instant::now() < deadline, "{}", served.log.lock().unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    // It looks again after five seconds. Whether it finds no job then or the next one already, the next one is run.
    std::thread::sleep(Duration::from_secs(6));
    work.anabranch(&["sql", "-f", work.file("changed.sql", &job(1_000))])
        .ok();
    wait_for(
        &work,
        &served,
        "SELECT max(id) AS id FROM kept",
        "id\n2000\n",
    );
    wait_for(&work, &served, "SELECT count(*) AS n FROM kept", "n\n4\n");
}

#[test]
fn a_job_is_paused_resumed_and_replaced_by_a_client() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[work.file("tables.sql", TABLES)]);
    rows(&work, &served, &["INSERT INTO seen VALUES (1)"]);
    wait_for(&work, &served, "SELECT max(id) AS id FROM kept", "id\n10\n");
    wait_for(
        &work,
        &served,
        "SELECT state FROM system.jobs",
        "state\nRUNNING\n",
    );
    rows(
        &work,
        &served,
        &["PAUSE JOB copy", "INSERT INTO seen VALUES (2)"],
    );
    wait_for(
        &work,
        &served,
        "SELECT state FROM system.jobs",
        "state\nPAUSED\n",
    );
    rows(&work, &served, &["RESUME JOB copy"]);
    wait_for(&work, &served, "SELECT max(id) AS id FROM kept", "id\n20\n");
    rows(
        &work,
        &served,
        &[
            "CREATE OR REPLACE JOB copy WITH ('trigger' '50 milliseconds') AS INSERT INTO kept SELECT id * 100 FROM seen",
            "INSERT INTO seen VALUES (3)",
        ],
    );
    wait_for(
        &work,
        &served,
        "SELECT max(id) AS id FROM kept",
        "id\n300\n",
    );
    rows(&work, &served, &["DROP JOB copy"]);
    assert_eq!(rows(&work, &served, &["SHOW JOBS"]), "");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn unservable_statements_are_reported_at_start() {
    let work = Workspace::new();
    let refused = |arguments: &[&str]| {
        let ran = work.anabranch(arguments);
        assert_ne!(ran.code, Some(0), "{arguments:?}");
        ran.err
    };
    let open = refused(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(
        open.contains("no login is required") && open.contains("--insecure"),
        "{open}"
    );
    let wrong = refused(&["serve", "--listen", "nowhere"]);
    assert!(wrong.contains("cannot listen at 'nowhere'"), "{wrong}");
    let file = work.file(
        "insert.sql",
        "CREATE VIEW v AS SELECT 1 AS one;\nINSERT INTO v VALUES (1);\n",
    );
    let more = refused(&["serve", "--listen", "127.0.0.1:0", file]);
    assert!(
        more.contains("insert.sql:2:1") && more.contains("defines tables, views and jobs only"),
        "{more}"
    );
    let served = TestServer::start(&work, &[]);
    let taken = refused(&["serve", "--listen", &served.address]);
    assert!(taken.contains("cannot listen at"), "{taken}");
}

/// Killed while it makes and drops views: those that were answered are as they were answered.
#[test]
fn a_catalog_that_was_being_written_can_be_read() {
    let work = Workspace::new();
    for turn in 0..5 {
        let served = TestServer::start(&work, &[]);
        let script = r#"
import itertools, os
db, said = connect(), {}
doing = None
killer = threading.Timer(0.1 + 0.13 * int(sys.argv[3]), lambda: os.kill(int(sys.argv[2]), 9))
for n in itertools.count():
    if n == 1: killer.start()
    doing = (f"v{n % 5}", None if n % 7 == 3 else n)
    name, value = doing
    try:
        rows(db, f"DROP VIEW IF EXISTS {name}" if value is None else f"CREATE OR REPLACE VIEW {name} AS SELECT {value} AS n")
    except Exception as error:
        break
    said[name] = value
print(repr((said, doing)), flush=True)
os._exit(0)
"#;
        let (id, turn) = (served.process.id().to_string(), turn.to_string());
        let said = served.python(script, &[&id, &turn]);
        drop(served);
        let served = TestServer::start(&work, &[]);
        let script = r#"
db = connect()
said, (doing, value) = eval(sys.argv[2])
names = {name for (_, name, *_) in rows(db, "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = 'public'")}
for name, expected in said.items():
    found = rows(db, f"SELECT n FROM {name}")[0][0] if name in names else None
    # The last one was not answered: it is there or not.
    assert found == expected or (name == doing and found == value), (name, found, expected, doing, value)
assert names <= set(said) | {doing}, names
for name in names: rows(db, f"DROP VIEW {name}")
print(len(said) > 0)
"#;
        assert_eq!(served.python(script, &[said.trim()]), "True\n");
        // Half-written entries do no harm.
        let log = served.log.lock().unwrap().clone();
        assert!(!log.contains("not opened"), "{log}");
    }
}

/// Bound values are a part of the definition.
#[test]
fn a_prepared_definition_is_there_after_a_restart() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let made = r#"
db = connect()
with db.cursor() as cur:
    cur.execute("CREATE VIEW small AS SELECT value FROM generate_series(1, 10) WHERE value < ? AND ? <> 'it''s'", (4, "it's; --"))
print(rows(db, "SELECT count(*) FROM small"))
"#;
    assert_eq!(served.python(made, &[]), "[(3,)]\n");
    served.kill();
    let served = TestServer::start(&work, &[]);
    assert_eq!(
        rows(&work, &served, &["SELECT count(*) AS n FROM small"]),
        "{\"n\":3}\n"
    );
    let secret = "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS KAFKA LOCATION 't' \
                  OPTIONS ('kafka.bootstrap.servers' 'localhost:1', 'format' 'json', 'kafka.sasl.password' 'geheim')";
    let script = "print(refused(rows, connect(), sys.argv[2]))";
    let said = served.python(script, &[secret]);
    assert!(
        said.contains("a definition with a secret in it cannot be kept"),
        "{said}"
    );
    assert!(!said.contains("geheim"));
}
