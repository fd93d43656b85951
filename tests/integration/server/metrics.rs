//! Metrics of a server about its clients, as a collector sees them.

use super::TestServer;
use super::rights::users;
use crate::support::Workspace;

#[test]
fn metrics_reflect_client_activity() {
    let work = Workspace::new();
    let served = TestServer::start(
        &work,
        &["--users", users(&work), "--metrics", "127.0.0.1:0"],
    );
    let script = r##"
import urllib.request
def metrics():
    with urllib.request.urlopen(f"http://{sys.argv[2]}/metrics") as page:
        lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name.removeprefix("anabranch_"): float(value) for name, value in lines}
def shown(*names):
    found = metrics()
    print({name: found.get(name) for name in names})
of = 'statements_total{{outcome="{}"}}'.format
shown(of("done"), "statement_seconds_count", "logins_refused_total", "sessions", "statements_running")

reader = connect("reader", "reader-pw")
with reader.cursor() as cur:
    # Read to its end: otherwise its client has left it.
    assert len(cur.execute("SELECT value FROM generate_series(1, 1000)").fetchall()) == 1000
    print(cur.execute("SELECT 7").fetchall())
print(refused(rows, reader, "SELEC 1"))
print(refused(rows, reader, "SELECT nothing"))
print(refused(rows, reader, "DROP TABLE t"))
print(refused(connect, "reader", "another"))
rows(reader, "SET time_zone = 'Europe/Paris'")
until(metrics, lambda found: found.get(of("done")) == 2)
shown(of("done"), of("invalid"), of("not_found"), of("permission"), "statement_seconds_count", "statement_rows_total",
      "sessions", "prepared_statements_held", "statements_running", "memory_reserved_bytes")
found = metrics()
print(found["logins_refused_total"] > 0, found["statement_bytes_total"] > 8_000, found["results_held"] >= 2)

LONG = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value % 7 = b.value % 11"
ended = []
thread = threading.Thread(target=lambda: ended.append(refused(rows, connect("reader", "reader-pw"), LONG)))
thread.start()
until(metrics, lambda found: found["statements_running"] == 1 and found["memory_reserved_bytes"] > 0)
[row] = [row for row in rows(reader, "SHOW QUERIES") if row[6] == LONG]
rows(reader, f"KILL QUERY '{row[0]}'")
thread.join()
found = until(metrics, lambda found: found["statements_running"] == 0 and found["memory_reserved_bytes"] == 0)
print(found[of("cancelled")], found["statements_waiting"], found["subscriptions_open"])
"##;
    let metrics = served.metrics.clone().unwrap();
    insta::assert_snapshot!(served.python(script, &[&metrics]));
    let log = served.log.lock().unwrap().clone();
    assert!(
        log.contains("user=\"reader\"") && log.contains("refused: Permission"),
        "{log}"
    );
    assert!(log.contains("a caller is refused: "), "{log}");
    assert!(!log.contains("reader-pw"), "{log}");
}
