//! Limits: statements that take long, give much, come all at once, or whose clients have gone.

use std::time::Instant;

use super::TestServer;
use super::rights::users;
use crate::signals::planned_for_long;
use crate::support::Workspace;

/// A statement that takes minutes.
const SLOW: &str = r#"
SLOW = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value % 7 = b.value % 11"
def running(db):
    return [row for row in rows(db, "SHOW QUERIES") if "generate_series" in row[6]]
"#;

#[test]
fn a_statement_is_ended_by_client_admin_or_timeout() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let script = r#"
reader, writer, admin = [connect(name, name + "-pw") for name in ["reader", "writer", "admin"]]
def begin(name, do=None):
    ended = []
    def work():
        with connect(name, name + "-pw") as db, db.cursor() as cur:
            ended.append(refused(lambda: (cur.execute(SLOW), cur.fetchall()) if do is None else do(db, cur)))
            ended.append(time.time())
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, ended
def killed(by, thread, ended):
    at = time.time()
    thread.join(600)
    # Behind that is the call that it met, which may be either of two.
    print(by, "|", ended[0].split("by")[0].split("(")[0], "| soon:", ended[1] - at < 60)
    until(lambda: running(admin), lambda found: not found)

thread, ended = begin("reader")
[(id, user, state, at, count, size, text)] = until(lambda: running(reader), len)
print(user, state, text == SLOW, len(id))
print("another sees", running(writer), refused(rows, writer, f"KILL QUERY '{id}'").replace(id, "ID"))
rows(reader, f"KILL QUERY '{id}'")
killed("its user", thread, ended)

thread, ended = begin("reader")
[row] = until(lambda: running(admin), len)
rows(admin, f"KILL QUERY '{row[0]}'")
killed("an administrator", thread, ended)

cursors = []
def cancelled(db, cur):
    cursors.append(cur)
    cur.execute(SLOW)
    cur.fetchall()
thread, ended = begin("reader", cancelled)
until(lambda: [row[2] for row in running(admin)], lambda found: found == ["RUNNING"])
def cancel():
    # Between two calls of its thread there is nothing to cancel.
    if not ended: cursors[0].adbc_cancel()
    thread.join(1)
    return ended
until(cancel, len)
print("its client |", ended[0].split(" ")[0])
until(lambda: running(admin), lambda found: not found)

with reader.cursor() as cur:
    cur.execute("SELECT a.value, concat('some text ', CAST(b.value AS VARCHAR)) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b")
    batches = cur.fetch_record_batch()
    print("half read |", batches.read_next_batch().num_rows > 0, len(running(admin)))
    batches.close()
until(lambda: running(admin), lambda found: not found)

rows(reader, "SET statement_timeout = '500 milliseconds'")
begun = time.time()
print(refused(rows, reader, SLOW), "| soon:", time.time() - begun < 60)
print("others go on", rows(writer, "SELECT 1"))
"#;
    insta::assert_snapshot!(served.python(&format!("{SLOW}{script}"), &[]));
    let log = served.log.lock().unwrap().clone();
    assert!(
        log.contains("cancelled by admin") && log.contains("abandoned by its client"),
        "{log}"
    );
    assert!(
        log.contains("user=\"writer\"") && log.contains("text=\"SELECT 1\""),
        "{log}"
    );
}

#[test]
fn results_and_requests_of_clients_are_limited() {
    let work = Workspace::new();
    let limits = [
        "--max-statements",
        "1",
        "--max-queued",
        "1",
        "--max-result",
        "1MiB",
        "--statement-memory",
        "64MiB",
        "--max-statement",
        "1KiB",
        "--statement-timeout",
        "60 seconds",
        "--keep-alive",
        "100 milliseconds",
    ];
    let served = TestServer::start(&work, &limits);
    let script = r#"
db = connect()
print(refused(rows, db, "SELECT value FROM generate_series(1, 1000000)"))
print(refused(rows, db, f"SELECT '{'x' * 2000}'"), rows(db, "SELECT length(?)", ["x" * 2000]))
print("may hold 67108864" in refused(rows, db, "SELECT array_agg(value) FROM generate_series(1, 100000000)"))
print(rows(db, "SELECT count(*) FROM generate_series(1, 1000)"))
answers = []
def ask():
    with connect() as own, own.cursor() as cur:
        answers.append(refused(lambda: (cur.execute(SLOW), cur.fetchall())))
threads = [threading.Thread(target=ask) for _ in range(2)]
for thread in threads: thread.start()
until(lambda: sorted(row[2] for row in running(db)), lambda found: found == ["RUNNING", "WAITING"])
print(until(lambda: refused(rows, db, "SELECT 1"), lambda found: "are running" in found))
while any(thread.is_alive() for thread in threads):
    for row in running(db): refused(rows, db, f"KILL QUERY '{row[0]}'")
print(sorted(answer.split("(")[0] for answer in answers), rows(db, "SELECT 1"))
# A result that keeps its client waiting says that it is still there.
print(rows(db, "SELECT count(*) FROM generate_series(1, 4000) a, generate_series(1, 4000) b WHERE (a.value + b.value) % 7 = 1"))
"#;
    let said = served.python(&format!("{SLOW}{script}"), &[]);
    insta::assert_snapshot!(said);
}

/// While as many statements run as allowed, one more is refused, by every way and for every request; and no way accepts
/// a longer text, or more bound values, than others.
#[test]
fn every_entry_point_enforces_the_statement_limits() {
    let work = Workspace::new();
    let limits = [
        "--max-statements",
        "1",
        "--max-queued",
        "0",
        "--max-statement",
        "1KiB",
        "--http",
        "127.0.0.1:0",
    ];
    let served = TestServer::start(&work, &limits);
    let script = r#"
import json, urllib.request, urllib.error, pyarrow.flight as plain
def varint(number):
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)
def field(number, value):
    return bytes([number * 8 + 2]) + varint(len(value)) + value
def columns(sql):
    kind = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    with plain.connect("grpc://" + sys.argv[1]) as client:
        return client.get_schema(plain.FlightDescriptor.for_command(field(1, kind) + field(2, field(1, sql.encode())))).schema
def page(path, body=None):
    body = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request("http://" + sys.argv[2] + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return "done: " + str(len(answer.read()) > 0)
    except urllib.error.HTTPError as error:
        return json.load(error)["error"]["message"]
db = connect()
rows(db, "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION 't'")
QUERY, INSERT = "SELECT CAST(? AS BIGINT) AS n", "INSERT INTO t VALUES (?)"
query, insert = db.cursor(), db.cursor()
query.adbc_prepare(QUERY)
insert.adbc_prepare(INSERT)
ways = {
    "a query": lambda: refused(rows, db, "SELECT 7 AS n"),
    "a query with a value": lambda: refused(lambda: (query.execute(QUERY, (7,)), query.fetchall())),
    "rows that are inserted": lambda: refused(insert.executemany, INSERT, [(7,), (8,)]),
    "what is prepared": lambda: refused(db.cursor().adbc_prepare, "SELECT CAST(? AS BIGINT) + 1 AS n"),
    "the columns of a query": lambda: refused(columns, "SELECT 8 AS n"),
    "a query of the page": lambda: page("/api/query", {"sql": "SELECT 9 AS n", "id": "a"}),
    "an INSERT of the page": lambda: page("/api/query", {"sql": "INSERT INTO t VALUES (9)", "id": "b"}),
    "jobs of the page": lambda: page("/api/jobs"),
    "tables of the page": lambda: page("/api/tables"),
    "columns of the page": lambda: page("/api/tables/t/columns"),
    "a definition of the page": lambda: page("/api/tables/t/definition"),
}
# It is at work until it is read to its end, or left.
with connect() as other, other.cursor() as cur:
    cur.execute("SELECT a.value, concat('some text ', CAST(b.value AS VARCHAR)) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b")
    batches = cur.fetch_record_batch()
    batches.read_next_batch()
    for name, way in ways.items():
        answer = way()
        assert "1 statements are running and 0 wait" in answer, (name, answer)
    batches.close()
until(lambda: running(db), lambda found: not found)
for name, way in ways.items():
    # The turn of the one before is given back when its answer has been read.
    until(way, lambda answer: answer.startswith("done"))
print(rows(db, "SELECT count(*) > 0, min(id), max(id) FROM t"))
long = f"SELECT '{'x' * 2000}' AS t"
for way in [lambda: refused(rows, db, long), lambda: refused(db.cursor().adbc_prepare, long), lambda: refused(columns, long),
    lambda: refused(lambda: db.cursor().executescript(long)), lambda: page("/api/query", {"sql": long, "id": "c"})]:
    answer = way()
    assert "bytes, and the limit is 1024" in answer, answer
for sql in [QUERY, INSERT]:
    answer = refused(db.cursor().executemany, sql, [(7,)] * 100_001)
    assert "are bound to a statement" in answer, answer
"#;
    let console = served.console.clone().unwrap();
    let said = served.python(&format!("{SLOW}{script}"), &[&console]);
    assert_eq!(said, "[(True, 7, 9)]\n");
}

#[test]
fn fifty_concurrent_clients_leave_no_resources() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
failed = []
def client(number):
    try:
        with connect() as db:
            for turn in range(4):
                assert rows(db, f"SELECT {number} + value FROM generate_series(1, 3)") == [(number + n,) for n in (1, 2, 3)]
            with db.cursor() as cur:
                cur.execute("SELECT value, concat('some text ', CAST(value AS VARCHAR)) FROM generate_series(1, 10000000)")
                batches = cur.fetch_record_batch()
                batches.read_next_batch()
                batches.close()
    except Exception as error:
        failed.append(said(error))
threads = [threading.Thread(target=client, args=(n,)) for n in range(50)]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
db = connect()
until(lambda: running(db), lambda found: not found)
print(failed, rows(db, "SELECT 1"))
"#;
    let script = format!("{SLOW}{script}");
    assert_eq!(served.python(&script, &[]), "[] [(1,)]\n");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", served.process.id()));
        let status = status.unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = resident();
    assert_eq!(served.python(&script, &[]), "[] [(1,)]\n");
    let after = resident();
    assert!(
        after < before + 200 * 1024,
        "{before} KiB, then {after} KiB"
    );
}

/// Clients that begin to read and never go on: the server makes no more rows for them.
#[test]
fn slow_readers_hold_little_memory_and_block_no_others() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
def resident():
    with open(f"/proc/{sys.argv[2]}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS:"))
db = connect()
rows(db, SLOW.replace("1000000", "1000"))
before = resident()
slow = []
for n in range(20):
    own = connect(**{"adbc.flight.sql.client_option.with_max_msg_size": "100000000"})
    cur = own.cursor()
    cur.execute("SELECT a.value, concat('some text ', CAST(b.value AS VARCHAR)) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE length(?) > 0", ["SLOW generate_series"])
    batches = cur.fetch_record_batch()
    batches.read_next_batch()
    slow.append((own, cur, batches))
# Until what is made ahead is there, however long that takes: then neither what was given nor what is held grows any more.
def made():
    return resident(), sorted((row[0], row[4], row[5]) for row in running(db))
def has_stopped():
    memory, given = made()
    time.sleep(2)
    later, given_later = made()
    return given == given_later and abs(later - memory) <= 5
until(has_stopped, bool)
# Twenty windows and what is made ahead.
held = resident() - before
print(len(running(db)), rows(db, "SELECT 1"), held < 1000 or held)
for own, cur, batches in slow:
    batches.close(); cur.close(); own.close()
until(lambda: running(db), lambda found: not found)
"#;
    let id = served.process.id().to_string();
    insta::assert_snapshot!(served.python(&format!("{SLOW}{script}"), &[&id]));
}

/// Half a message, headers without end, bytes that are no protocol: the next client is served.
#[test]
fn garbage_requests_do_not_disturb_others() {
    use std::io::Write as _;
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let connect = || std::net::TcpStream::connect(&served.address).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut noise = 0x9e37_79b9_u32;
    let mut bytes = vec![0_u8; 100_000];
    for byte in &mut bytes {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (noise >> 24) as u8;
    }
    let mut held = Vec::new();
    for sent in [
        &bytes[..],
        b"GET / HTTP/1.1\r\n\r\n",
        preface,
        &[preface, &bytes[..]].concat(),
    ] {
        let mut stream = connect();
        let _ = stream.write_all(sent);
        held.push(stream);
    }
    let said = served.python(
        r#"
import pyarrow.flight as plain
client = plain.connect("grpc://" + sys.argv[1])
def ask(what, do):
    print(what, "|", refused(do).split(". ")[0].split(" {")[0][:110])
ask("nonsense", lambda: client.get_flight_info(plain.FlightDescriptor.for_command(b"\xff" * 100)))
ask("a path", lambda: client.get_flight_info(plain.FlightDescriptor.for_path("a")))
ask("an action", lambda: list(client.do_action(plain.Action("Nothing", b""))))
ask("a message of 80 MB", lambda: client.get_flight_info(plain.FlightDescriptor.for_command(b"x" * 80_000_000)))
headers = plain.FlightCallOptions(headers=[(b"x-large", b"y" * 100_000)])
ask("large headers", lambda: client.get_flight_info(plain.FlightDescriptor.for_command(b""), headers))
db = connect(**{"adbc.flight.sql.client_option.with_max_msg_size": str(64 << 20)})
print(rows(db, "SELECT length('" + "x" * 5_000_000 + "')"), len(rows(db, "SELECT ? AS t", ("y" * 20_000_000,))[0][0]))
"#,
        &[],
    );
    insta::assert_snapshot!(said);
    drop(held);
    let stopping = Instant::now();
    assert_eq!(served.stop(), Some(0));
    assert!(stopping.elapsed() < crate::support::AT_ONCE);
}

/// A server that is told to end does not wait for a statement that is being planned: its rows could not be fetched.
#[test]
fn a_statement_that_is_being_planned_does_not_hold_up_the_end_of_the_server() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
import os
from adbc_driver_manager import AdbcStatement
db, ended, slow = connect(), [], open(sys.argv[3]).read()
def ask():
    # Without preparing it.
    with connect() as own, AdbcStatement(own.adbc_connection) as statement:
        statement.set_sql_query(slow)
        ended.append(refused(statement.execute_query))
thread = threading.Thread(target=ask, daemon=True)
thread.start()
until(lambda: [row for row in rows(db, "SHOW QUERIES") if "value * 1 AS c1" in row[6]], len)
os.kill(int(sys.argv[2]), 15)
until(lambda: ended, len)
print("the server is shutting down" in ended[0] or ended[0])
"#;
    let id = served.process.id().to_string();
    let text = work.file("slow.sql", &planned_for_long());
    let text = work.path(text).display().to_string();
    assert_eq!(served.python(script, &[&id, &text]), "True\n");
    assert_eq!(served.stop(), Some(0));
}

/// More statements than there are threads, each of which is planned for minutes: when their time is over, others are answered.
#[test]
fn long_planning_does_not_block_others() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--statement-timeout", "10 seconds"]);
    let script = r#"
db, ended, slow = connect(), [], open(sys.argv[2]).read()
def ask():
    with connect() as own, own.cursor() as cur:
        ended.append(refused(lambda: (cur.execute(slow), cur.fetchall())))
threads = [threading.Thread(target=ask) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(ended), {"took longer than" in answer or answer for answer in ended})
def others():
    return refused(rows, db, "SELECT count(*) FROM generate_series(1, 10)")
print(until(others, lambda found: found.startswith("done")))
print({row[2] for row in rows(db, "SHOW QUERIES")} <= {"RUNNING", "ENDING"})
"#;
    let text = work.file("slow.sql", &planned_for_long());
    let text = work.path(text).display().to_string();
    let said = served.python(script, &[&text]);
    assert_eq!(said, "6 {True}\ndone: [(10,)]\nTrue\n");
}
