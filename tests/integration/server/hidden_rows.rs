//! Barriers of rights: the rows that users with limited tables see and change, and statements that no user may run.

use super::TestServer;
use super::rights::users;
use crate::support::Workspace;

const TABLES: &str = "
admin = connect('admin', 'admin-pw')
rows(admin, \"CREATE EXTERNAL TABLE secret (id BIGINT, name STRING) STORED AS DELTA LOCATION 'lake/secret'\")
rows(admin, \"INSERT INTO secret VALUES (1, '10'), (2, '20'), (99, 'hidden-value')\")
rows(admin, 'CREATE VIEW open_names AS SELECT id, name FROM secret WHERE id < 10')
rows(admin, 'CREATE VIEW open_above AS SELECT * FROM open_names WHERE id > 0')
rows(admin, 'CREATE VIEW open_bad AS SELECT id, CAST(name AS BIGINT) AS n FROM secret')
some = connect('some', 'some-pw')
";

#[test]
fn a_view_hides_the_rows_it_filters() {
    let work = Workspace::new();
    std::fs::create_dir(work.path("lake")).unwrap();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let script = r#"
poison = ["SELECT * FROM {} WHERE CAST(name AS BIGINT) > 0", "SELECT * FROM {} WHERE CAST(name AS BIGINT) > 0 AND id > 0",
    "SELECT * FROM {} WHERE 1 / (id - 99) < 5", "SELECT * FROM {} WHERE name = '10' OR 1 / (id - 99) > 3",
    "SELECT count(*) FROM {} GROUP BY CAST(name AS BIGINT)", "SELECT id FROM {} ORDER BY CAST(name AS BIGINT) LIMIT 1",
    "SELECT a.id FROM {} a JOIN {} b ON CAST(a.name AS BIGINT) = CAST(b.name AS BIGINT)",
    "SELECT * FROM {} WHERE id = 99", "SELECT * FROM {} WHERE name LIKE 'hidden%'", "SELECT * FROM {} WHERE id IN (2, 99) AND name IS NOT NULL",
    "SELECT * FROM {} WHERE CASE WHEN id = 99 THEN CAST(name AS BIGINT) ELSE 0 END = 0", "SELECT name FROM {}", "SELECT count(*) FROM {}"]
for view in ["open_names", "open_above"]:
    for sql in poison:
        mine, theirs = refused(rows, some, sql.replace("{}", view)), refused(rows, admin, "WITH v AS (SELECT * FROM secret WHERE id < 10) " + sql.replace("{}", "v"))
        assert "hidden-value" not in mine and mine.startswith("done"), (sql, mine)
        if theirs.startswith("done") and "CAST" not in sql: assert mine == theirs, (sql, mine, theirs)
told = [refused(rows, some, sql) for sql in ["EXPLAIN SELECT * FROM open_names WHERE id = 1", "EXPLAIN ANALYZE VERBOSE SELECT * FROM open_above WHERE name > 'a'",
    "EXPLAIN VERBOSE SELECT count(*) FROM open_names", "SELECT * FROM information_schema.views", "SHOW CREATE VIEW open_above",
    "SHOW CREATE TABLE open_names", "SELECT * FROM open_bad", "SELECT n FROM open_bad WHERE id > 5", "SELECT nothing FROM open_bad", "DESCRIBE open_names",
    "SELECT * FROM information_schema.tables WHERE table_schema = 'public'"]]
for text in told:
    assert not any(word in text for word in ["secret", "hidden-value", "lake", "parquet", "DeltaScan"]), text
print(told[6], "|", told[7])
print("ViewExec: view=open_names" in told[0])
print(rows(admin, "SELECT count(*) FROM open_names"), "definition" in str(refused(rows, some, "SHOW CREATE VIEW open_names")))
rows(admin, "DROP TABLE secret")
print(refused(rows, some, "SELECT * FROM open_names"))
"#;
    let said = served.python(&format!("{TABLES}{script}"), &[]);
    assert_eq!(said.lines().nth(1).unwrap(), "True", "{said}");
    let first = said.lines().next().unwrap();
    assert_eq!(
        first.matches("an error in view open_bad").count(),
        2,
        "{said}"
    );
    assert!(
        said.lines().nth(2).unwrap().starts_with("[(2,)] True"),
        "{said}"
    );
    let last = said.lines().nth(3).unwrap();
    assert!(
        last.contains("an error in view open_names") && !last.contains("secret"),
        "{said}"
    );
    // The server's log has the message.
    assert!(served.log.lock().unwrap().contains("hidden-value"));
}

#[test]
fn locations_of_hidden_tables_cannot_be_declared_again() {
    let work = Workspace::new();
    let lake = work.path("lake").display().to_string();
    std::fs::create_dir(&lake).unwrap();
    let root = work.dir.path().display().to_string();
    let arguments = ["--users", users(&work), "--location-root", &root];
    let served = TestServer::start(&work, &arguments);
    let script = r#"
import os
lake = sys.argv[2]
os.symlink(lake + "/secret", lake + "/link")
# Files whose fields are called as the columns were typed are a place as well.
rows(admin, f"COPY (SELECT 1 AS \"userId\") TO '{lake}/typed/a.parquet' STORED AS PARQUET")
rows(admin, f"CREATE EXTERNAL TABLE typed (userId BIGINT) STORED AS PARQUET LOCATION '{lake}/typed/'")
declared = ["{}/secret", "{}/secret/", "{}//secret", "{}/./secret", "{}/other/../secret", "{}/link", "file://{}/secret", "file://{}/link/", "{}/%73ecret",
    "{}/open/%2e%2e/secret", "{}", "{}/..", "{}/../anabranch-data/catalog", "{}/../anabranch-data", "{}/secret/_delta_log", "lake/secret", "lake/link",
    "{}/[s]ecret/*.parquet", "{}/s?cret/x.parquet", "{}/*/*.parquet", "{}/secret/*.parquet", "{}/../*/secret/x.parquet", "lake/s*", "*/secret", "{}/typed"]
for place in declared:
    place = place.replace("{}", lake)
    for text in [f"CREATE EXTERNAL TABLE open_x (id BIGINT) STORED AS DELTA LOCATION '{place}'", f"CREATE EXTERNAL TABLE open_x STORED AS PARQUET LOCATION '{place}'",
        f"CREATE EXTERNAL TABLE open_x (a VARCHAR) STORED AS CSV LOCATION '{place}'", f"CREATE OR REPLACE EXTERNAL TABLE open_x STORED AS JSON LOCATION '{place}/'"]:
        answer = refused(rows, some, text)
        assert not answer.startswith("done"), (text, answer)
for key in ["dead_letter.table", "Dead_Letter.Table"]:
    for table in ["secret", "nowhere"]:
        answer = refused(rows, some, f"CREATE EXTERNAL TABLE open_letters (id BIGINT) STORED AS KAFKA LOCATION 'letters' OPTIONS ('format' 'json', 'on_error' 'dead_letter', '{key}' '{table}')")
        assert f"no table or view is named {table}" in answer, answer
print(refused(rows, some, f"CREATE EXTERNAL TABLE open_mine (id BIGINT) STORED AS DELTA LOCATION '{lake}/mine'")[:4])
print(rows(admin, "SELECT count(*) FROM secret"))
"#;
    let said = served.python(&format!("{TABLES}{script}"), &[&lake]);
    assert_eq!(said, "done\n[(3,)]\n");
}

/// A user declares a place first, and a table that is not theirs is declared there later.
#[test]
fn tables_declared_earlier_do_not_expose_a_hidden_table() {
    let work = Workspace::new();
    let lake = work.path("lake").display().to_string();
    std::fs::create_dir(&lake).unwrap();
    let root = work.dir.path().display().to_string();
    let arguments = ["--users", users(&work), "--location-root", &root];
    let served = TestServer::start(&work, &arguments);
    let script = r#"
lake = sys.argv[2]
rows(admin, f"COPY (SELECT 1 AS a) TO '{lake}/plain/a.parquet' STORED AS PARQUET")
rows(some, f"CREATE EXTERNAL TABLE open_first (id BIGINT) STORED AS DELTA LOCATION '{lake}/later'")
rows(some, f"CREATE EXTERNAL TABLE open_files STORED AS PARQUET LOCATION '{lake}/plain/'")
rows(some, "CREATE VIEW open_over AS SELECT * FROM open_first")
rows(some, "INSERT INTO open_first VALUES (1)")
print([rows(some, f"SELECT count(*) FROM {name}") for name in ["open_first", "open_over", "open_files"]])
rows(admin, f"CREATE EXTERNAL TABLE later (id BIGINT) STORED AS DELTA LOCATION '{lake}/later'")
rows(admin, "INSERT INTO later VALUES (777)")
rows(admin, f"CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION '{lake}/plain/'")
# What an administrator declares there is shown on purpose.
rows(admin, f"CREATE EXTERNAL TABLE open_shared (id BIGINT) STORED AS DELTA LOCATION '{lake}/later'")
"#;
    let closed = r#"
statements = ["SELECT * FROM open_first", "SELECT count(*) FROM open_over", "SELECT * FROM open_files", "SELECT * FROM open_first FOR VERSION AS OF 1",
    "INSERT INTO open_first VALUES (2)", "DESCRIBE HISTORY open_first", "OPTIMIZE open_first", "SELECT 1 WHERE EXISTS (SELECT 1 FROM open_files)"]
for sql in statements:
    answer = refused(rows, some, sql)
    assert not answer.startswith("done") and "777" not in answer, (sql, answer)
    assert "that you may not use" in answer, (sql, answer)
print(rows(some, "SELECT count(*) FROM open_shared"), rows(admin, "SELECT count(*) FROM open_first"))
"#;
    let said = served.python(&format!("{TABLES}{script}{closed}"), &[&lake]);
    assert_eq!(said, "[[(1,)], [(1,)], [(1,)]]\n[(2,)] [(2,)]\n");
    assert_eq!(served.stop(), Some(0));
    // The server still knows it after a restart, until the table is declared again.
    let served = TestServer::start(&work, &arguments);
    let again = r#"
admin, some = connect('admin', 'admin-pw'), connect('some', 'some-pw')
"#;
    let anew = r#"
lake = sys.argv[2]
rows(some, "DROP VIEW open_over")
rows(some, "DROP TABLE open_first")
print(refused(rows, some, f"CREATE EXTERNAL TABLE open_first (id BIGINT) STORED AS DELTA LOCATION '{lake}/later'")[:4] == "done")
rows(some, f"CREATE EXTERNAL TABLE open_first (id BIGINT) STORED AS DELTA LOCATION '{lake}/mine'")
rows(admin, f"CREATE OR REPLACE EXTERNAL TABLE open_files STORED AS PARQUET LOCATION '{lake}/plain/'")
print(rows(some, "SELECT count(*) FROM open_first"), rows(some, "SELECT count(*) FROM open_files"))
"#;
    let said = served.python(&format!("{again}{closed}{anew}"), &[&lake]);
    assert_eq!(said, "[(2,)] [(2,)]\nFalse\n[(0,)] [(1,)]\n");
}

#[test]
fn schemas_and_other_objects_cannot_be_created_or_dropped() {
    let work = Workspace::new();
    let file = users(&work);
    let served = TestServer::start(&work, &["--users", file]);
    let script = r#"
writer = connect("writer", "writer-pw")
for db in [writer, admin]:
    for sql in ["DROP SCHEMA public CASCADE", "DROP SCHEMA IF EXISTS anabranch.public CASCADE", "DROP SCHEMA system", "DROP DATABASE anabranch", "CREATE SCHEMA other",
        "CREATE DATABASE other", "CREATE FUNCTION f(BIGINT) RETURNS BIGINT RETURN $1", "DROP FUNCTION abs", "CREATE INDEX i ON secret (id)", "DROP MATERIALIZED VIEW open_names"]:
        answer = refused(rows, db, sql)
        assert not answer.startswith("done"), (sql, answer)
print(rows(admin, "SELECT count(*) FROM secret"), rows(admin, "SELECT abs(-1)"))
"#;
    assert_eq!(
        served.python(&format!("{TABLES}{script}"), &[]),
        "[(3,)] [(1,)]\n"
    );
    assert_eq!(served.stop(), Some(0));
    let served = TestServer::start(&work, &["--users", file]);
    let script =
        "admin = connect('admin', 'admin-pw')\nprint(rows(admin, 'SELECT count(*) FROM secret'))";
    assert_eq!(served.python(script, &[]), "[(3,)]\n");
}

#[test]
fn a_login_ends_with_its_password_and_a_result_with_its_rights() {
    let work = Workspace::new();
    let file = users(&work);
    let served = TestServer::start(&work, &["--users", file, "--http", "127.0.0.1:0"]);
    let script = r#"
import json, os, urllib.request, urllib.error, pyarrow.flight as plain
users, console = sys.argv[2], sys.argv[3]
client = plain.connect("grpc://" + sys.argv[1])
pair = client.authenticate_basic_token("writer", "writer-pw")
options = plain.FlightCallOptions(headers=[pair])
def text(field, value):
    value = value.encode() if isinstance(value, str) else value
    return bytes([field << 3 | 2]) + bytes([len(value)]) + value
def query(sql):
    return plain.FlightDescriptor.for_command(text(1, "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery") + text(2, text(1, sql)))
ticket = client.get_flight_info(query("SELECT value FROM generate_series(1, 3)"), options).endpoints[0].ticket
def ask(path, body, cookie=None):
    headers = {"Content-Type": "application/json"} | ({"Cookie": cookie} if cookie else {})
    try:
        with urllib.request.urlopen(urllib.request.Request("http://" + console + path, json.dumps(body).encode(), headers)) as answer:
            return answer.status, (answer.headers.get("Set-Cookie") or "").split("; ")[0]
    except urllib.error.HTTPError as error:
        return error.code, ""
cookie = ask("/api/login", {"user": "reader", "password": "reader-pw"})[1]
one = {"sql": "SELECT 1", "id": "a"}
print(ask("/api/query", one, cookie)[0], ask("/api/logout", {}, cookie)[0], ask("/api/query", one, cookie)[0])
# That the server has read the file again is seen by what is answered to others.
probe = connect("writer", "writer-pw")
def change(old, new, is_seen):
    written = open(users).read()
    assert old in written
    open(users, "w").write(written.replace(old, new))
    os.utime(users, (time.time() + 10, time.time() + 10))
    until(is_seen, bool)
def fetch():
    return client.do_get(ticket, options).read_all().num_rows
section = open(users).read().split("[users.writer]")[1].split("[users.admin]")[0]
change(section, section.replace("'write'", "'read'"), lambda: "has the role read" in refused(rows, probe, "PAUSE JOB nothing"))
print(refused(fetch)[:60])
hash = [line for line in section.splitlines() if line.startswith("password")][0]
other = [line for line in open(users).read().split("[users.admin]")[1].splitlines() if line.startswith("password")][0]
change(hash, other, lambda: refused(client.authenticate_basic_token, "writer", "admin-pw").startswith("done"))
print(refused(lambda: client.get_flight_info(query("SELECT 1"), options))[:200])
print(refused(lambda: client.authenticate_basic_token("writer", "writer-pw"))[:30], len(client.authenticate_basic_token("writer", "admin-pw")))
"#;
    let path = work.path("users.toml").display().to_string();
    let console = served.console.clone().unwrap();
    let said = served.python(script, &[&path, &console]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "200 200 401", "{said}");
    assert!(lines[1].contains("ArrowKeyError"), "{said}");
    assert!(
        lines[2].contains("the password has changed since this login"),
        "{said}"
    );
    assert!(
        lines[3].contains("Unauthenticated") && lines[3].ends_with('2'),
        "{said}"
    );
}

/// Wrong passwords by one name do not keep another waiting.
#[test]
fn wrong_logins_are_slowed_down() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let script = r#"
def wrong(n):
    for turn in range(3):
        refused(lambda: rows(connect("admin" if n % 2 else "nobody", f"wrong {n} {turn}"), "SELECT 1"))
threads = [threading.Thread(target=wrong, args=(n,)) for n in range(60)]
for thread in threads: thread.start()
print(rows(connect("reader", "reader-pw"), "SELECT 1"))
for thread in threads: thread.join()
print(rows(connect("admin", "admin-pw"), "SELECT 1"))
"#;
    assert_eq!(served.python(script, &[]), "[(1,)]\n[(1,)]\n");
    assert!(
        served
            .log
            .lock()
            .unwrap()
            .contains("there are too many logins with this name")
    );
}

#[test]
fn rows_are_changed_by_authorized_users_and_counted() {
    let work = Workspace::new();
    std::fs::create_dir(work.path("lake")).unwrap();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let script = r#"
rows(admin, "CREATE EXTERNAL TABLE open_rows (id BIGINT, name STRING) STORED AS DELTA LOCATION 'lake/open_rows'")
rows(admin, "INSERT INTO open_rows VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")
writer, reader = connect("writer", "writer-pw"), connect("reader", "reader-pw")
def changed(db, sql, parameters):
    with db.cursor() as cur:
        cur.executemany(sql, [parameters])
        return cur.rowcount
print(changed(some, "UPDATE open_rows SET name = upper(name) WHERE id < ?", (3,)))
print(changed(writer, "DELETE FROM open_rows WHERE id = ?", (4,)))
print(changed(writer, "MERGE INTO open_rows AS o USING (VALUES (3), (5)) AS s (k) ON o.id = s.k WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.k, ?)", ("new",)))
with writer.cursor() as cur:
    cur.executemany("UPDATE open_rows SET name = ? WHERE id = ?", [("x", 1), ("y", 2)])
    print(cur.rowcount)
print(rows(reader, "SELECT id, name FROM open_rows ORDER BY id"))
for sql in ["DELETE FROM open_rows", "UPDATE open_rows SET id = 1", "EXPLAIN ANALYZE DELETE FROM open_rows"]:
    assert "this statement needs write" in refused(rows, reader, sql), sql
for sql in ["DELETE FROM open_rows", "UPDATE open_rows SET id = 1", "INSERT INTO open_rows SELECT * FROM open_rows",
    "MERGE INTO open_rows AS o USING (VALUES (1)) AS s (k) ON o.id = s.k WHEN MATCHED THEN DELETE"]:
    answer = refused(rows, reader, "EXPLAIN " + sql)
    assert answer.startswith("done") and "Delta" in answer, (sql, answer)
answer = refused(rows, some, "EXPLAIN DELETE FROM secret")
assert "no table or view is named secret" in answer, answer
for sql in ["DELETE FROM secret", "UPDATE secret SET name = 'x'", "MERGE INTO secret USING open_rows AS o ON secret.id = o.id WHEN MATCHED THEN DELETE"]:
    answer = refused(rows, some, sql)
    assert "no table or view is named secret" in answer, (sql, answer)
for sql in ["DELETE FROM open_rows WHERE id IN (SELECT id FROM secret)", "UPDATE open_rows SET name = (SELECT max(name) FROM secret)",
    "MERGE INTO open_rows AS o USING secret AS s ON o.id = s.id WHEN MATCHED THEN UPDATE SET name = s.name"]:
    answer = refused(rows, some, sql)
    assert not answer.startswith("done") and "hidden-value" not in answer, (sql, answer)
print(rows(reader, "SELECT count(*) FROM open_rows"), rows(admin, "SELECT count(*) FROM secret"))
"#;
    let said = served.python(&format!("{TABLES}{script}"), &[]);
    assert_eq!(
        said,
        "2\n1\n2\n2\n[(1, 'x'), (2, 'y'), (5, 'new')]\n[(3,)] [(3,)]\n"
    );
}
