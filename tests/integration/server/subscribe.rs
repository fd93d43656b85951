//! Queries that stay open, from clients of the server and in the shell.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::TestServer;
use super::rights::users;
use crate::support::{Workspace, create_topic, kafka, produce, signal, topic};

/// Reads rows as they come until it has as many as are wanted.
const READ: &str = r#"
import contextlib, threading
@contextlib.contextmanager
def subscribed(db, sql):
    with db.cursor() as cur:
        cur.execute(sql)
        batches = cur.fetch_record_batch()
        found = []
        def more(count):
            while len(found) < count:
                found.extend(tuple(row.values()) for row in batches.read_next_batch().to_pylist())
            return found
        yield more
        batches.close()
def open_now(db):
    return [row for row in rows(db, "SHOW QUERIES") if row[6].startswith("SUBSCRIBE")]
"#;

const TABLES: &str = "CREATE EXTERNAL TABLE seen (id BIGINT, k VARCHAR) STORED AS DELTA LOCATION 'seen' OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE names (k VARCHAR, name VARCHAR) STORED AS DELTA LOCATION 'names';
CREATE VIEW open_large AS SELECT id, k FROM seen WHERE id > 10;
INSERT INTO names VALUES ('a', 'Anna'), ('b', 'Bert');
INSERT INTO seen VALUES (1, 'a'), (11, 'b');
";

/// A server with the tables.
fn served(work: &Workspace, arguments: &[&str]) -> TestServer {
    let made = TestServer::start(work, &[]);
    let script = "db = connect()\nfor sql in sys.argv[2].split(';\\n')[:-1]: rows(db, sql)\n";
    made.python(script, &[TABLES]);
    drop(made);
    TestServer::start(work, arguments)
}

#[test]
fn rows_are_delivered_as_they_arrive() {
    let work = Workspace::new();
    let served = served(
        &work,
        &["--max-result", "1KiB", "--keep-alive", "50 milliseconds"],
    );
    let script = r#"
db, other = connect(), connect()
with subscribed(db, "SUBSCRIBE SELECT id, k FROM seen WHERE id <> 3") as more:
    print(sorted(more(2)))
    rows(other, "INSERT INTO seen VALUES (3, 'c'), (4, 'd')")
    print(more(3)[-1])
    # Nothing comes for some time, and the stream is still there; it may become longer than a result.
    time.sleep(0.5)
    [row] = open_now(other)
    print(row[1:3], row[6])
    for n in range(30):
        rows(other, f"INSERT INTO seen VALUES ({100 + n}, '{'x' * 100}')")
    print(len(set(more(33))))
until(lambda: open_now(other), lambda found: not found)
# What is joined is as it is then; the end of the source may be the beginning.
with subscribed(db, "SUBSCRIBE WITH ('scan.startup' 'latest') WITH l AS (SELECT * FROM open_large) SELECT l.id, n.name FROM l JOIN names n ON l.k = n.k") as more:
    rows(other, "INSERT INTO seen VALUES (5, 'a')")
    # What is there before it has begun does not come: more is sent until something does.
    begun = threading.Event()
    def send():
        while not begun.wait(0.3):
            with connect() as own: rows(own, "INSERT INTO seen VALUES (500, 'a')")
    sender = threading.Thread(target=send)
    sender.start()
    more(1)
    begun.set()
    sender.join()
    print(sorted(set(more(1))))
# What is there, and no more.
print(rows(db, "SUBSCRIBE WITH ('trigger' 'once', 'batch.max_rows' 10) SELECT count(*) AS n FROM seen EMIT PER BATCH")[0][0] > 0)
print(sorted(rows(db, "SUBSCRIBE WITH ('trigger' 'once', 'state.ttl' 'none') SELECT k, count(*) AS n FROM seen WHERE id < 10 GROUP BY k EMIT CHANGES")))
print(rows(db, "SUBSCRIBE WITH ('trigger' 'once') SELECT id FROM seen WHERE id = $1", [4]))
"#;
    insta::assert_snapshot!(served.python(&format!("{READ}{script}"), &[]));
}

/// Nothing that a reader computes meets rows that a view leaves out, also where that view is below another one.
#[test]
fn views_that_hide_their_tables_are_subscribed_to() {
    let work = Workspace::new();
    let served = served(&work, &["--users", users(&work)]);
    let script = r#"
admin, some = connect("admin", "admin-pw"), connect("some", "some-pw")
rows(admin, "CREATE VIEW open_above AS SELECT id, k FROM open_large WHERE id > 0")
rows(admin, "CREATE VIEW open_top AS SELECT k, id FROM open_above")
rows(admin, "CREATE VIEW open_fails AS SELECT id, k FROM open_large WHERE 10 / (id - 1) > 0")
for view in ["open_large", "open_above", "open_top"]:
    print(rows(some, f"SUBSCRIBE WITH ('trigger' 'once') SELECT id, 10 / (id - 1) AS n, k FROM {view}"))
    print(rows(some, f"SUBSCRIBE WITH ('trigger' 'once') SELECT n, count(*) AS c FROM (SELECT 10 / (id - 1) AS n FROM {view}) GROUP BY n EMIT PER BATCH"))
    answer = refused(rows, some, f"SUBSCRIBE WITH ('trigger' 'once') SELECT id FROM {view} WHERE 10 / (id - 1) > 0")
    assert "only has conditions" in answer, answer
answer = refused(rows, some, "SUBSCRIBE WITH ('trigger' 'once') SELECT id FROM open_fails")
assert "view open_fails is not read as a stream" in answer and "10 /" not in answer and "open_large" not in answer, answer
"#;
    let said = served.python(&format!("{READ}{script}"), &[]);
    assert_eq!(said, "[(11, 1, 'b')]\n[(1, 1)]\n".repeat(3), "{said}");
}

#[test]
fn unsupported_subscriptions_are_refused() {
    let work = Workspace::new();
    let served = served(
        &work,
        &["--max-subscriptions", "1", "--users", users(&work)],
    );
    let script = r#"
db, admin = connect("reader", "reader-pw"), connect("admin", "admin-pw")
for sql in ["SELECT 1", "SELECT * FROM names", "SELECT * FROM seen ORDER BY id", "SELECT k, count(*) FROM seen GROUP BY k", "SELECT nothing FROM seen",
            "INSERT INTO seen SELECT * FROM seen", "SELECT s.id FROM seen s JOIN seen t ON s.id = t.id"]:
    print(sql, "|", refused(rows, db, "SUBSCRIBE " + sql))
for options in ["'scan.startup' 'yesterday'", "'scan.startup' '{\"seen\":{\"0\":1}}'", "'on_change' 'reset'", "'state.ttl' '1 day'"]:
    print(options, "|", refused(rows, db, f"SUBSCRIBE WITH ({options}) SELECT id FROM seen"))
with db.cursor() as cur:
    print(refused(cur.executescript, "SUBSCRIBE SELECT id FROM seen"))
with subscribed(db, "SUBSCRIBE SELECT id FROM seen") as more:
    more(2)
    print(refused(rows, admin, "SUBSCRIBE SELECT id FROM seen"))
    print(rows(admin, "SELECT 1"))
    [row] = open_now(admin)
    rows(admin, f"KILL QUERY '{row[0]}'")
    print(refused(more, 3).split("(")[0])
until(lambda: open_now(admin), lambda found: not found)
# Who may name some tables only may subscribe to them, and to views of others.
some = connect("some", "some-pw")
for sql in ["SELECT id FROM open_large", "SELECT id FROM open_large WHERE id = 11 AND k IS NOT NULL", "SELECT id FROM open_large WHERE 1 / (id - 3) = 0",
            "SELECT id FROM seen", "SELECT * FROM system.jobs"]:
    print(sql, "|", refused(rows, some, f"SUBSCRIBE WITH ('trigger' 'once') {sql}"))
"#;
    insta::assert_snapshot!(served.python(&format!("{READ}{script}"), &[]));
}

#[test]
fn a_stopping_server_does_not_wait_for_subscriptions() {
    let work = Workspace::new();
    let served = served(&work, &[]);
    let id = served.process.id().to_string();
    let script = r#"
import os
db = connect()
with subscribed(db, "SUBSCRIBE SELECT id FROM seen") as more:
    more(2)
    begun = time.time()
    os.kill(int(sys.argv[2]), 15)
    # For other statements it waits 30 seconds.
    print(refused(more, 3).split("(")[0], time.time() - begun < 25, flush=True)
    # There is no server that the cursor could be closed in.
    os._exit(0)
"#;
    insta::assert_snapshot!(served.python(&format!("{READ}{script}"), &[&id]));
    assert_eq!(served.stop(), Some(0));
}

/// Windows, over a topic, as the jobs have them.
#[test]
fn windows_are_emitted_when_they_change_or_close() {
    let work = Workspace::new();
    let (bootstrap, visits) = (kafka(), topic("subscribed"));
    create_topic(&visits, 1);
    let tables = format!(
        "CREATE EXTERNAL TABLE visits (user_id BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '1 minute') \
         STORED AS KAFKA LOCATION '{visits}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');"
    );
    work.file("tables.sql", &tables);
    let visit = |minute: u32| {
        let line = format!(r#"{{"user_id": 1, "t": "2025-09-04T10:{minute:02}:00"}}"#);
        produce(&visits, &(line + "\n"));
    };
    visit(1);
    visit(2);
    let query = "SUBSCRIBE SELECT window_start, count(*) AS n, is_final() AS is_final \
                 FROM TUMBLE(visits, t, INTERVAL '10 minutes') GROUP BY window_start EMIT CHANGES";
    // In the shell: each line is there when its batch is.
    let mut shell = work
        .command()
        .args(["sql", "-f", "tables.sql", "-c", query, "--format", "ndjson"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let first = line();
    visit(5);
    let second = line();
    visit(13);
    let third = line();
    visit(14);
    let (fourth, fifth) = (line(), line());
    let said = [first, second, third, fourth, fifth].join("\n");
    insta::assert_snapshot!(said);
    signal(&shell, "-INT");
    assert_eq!(shell.wait().unwrap().code(), Some(130));
    // Over the network the same subscription begins at the beginning.
    let served = TestServer::start(&work, &["tables.sql"]);
    let url = served.url();
    let once = query.replace("SUBSCRIBE", "SUBSCRIBE WITH ('trigger' 'once')");
    let there = work.anabranch(&["sql", "--url", &url, "-c", &once]).ok();
    insta::assert_snapshot!(there.out);
}
