//! Rights of each user, by every way of access.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::OnceLock;

use super::TestServer;
use crate::support::{Workspace, create_topic, kafka, produce, topic};

/// The hash that `anabranch password` gives.
pub(super) fn hash_of(work: &Workspace, password: &str) -> String {
    let mut program = work.command();
    let program = program.arg("password").stdin(Stdio::piped());
    let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{password}").unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Users `reader`, `writer` and `admin`, and `some` with limited tables; the password of each is the name and `-pw`.
pub(super) fn users(work: &Workspace) -> &'static str {
    // A hash takes long on purpose: it is made once.
    static USERS: OnceLock<String> = OnceLock::new();
    let text = USERS.get_or_init(|| {
        let user = |name: &str, role: &str, more: &str| {
            let hash = hash_of(work, &format!("{name}-pw"));
            format!("[users.{name}]\npassword = '{hash}'\nrole = '{role}'\n{more}\n")
        };
        [
            user("reader", "read", ""),
            user("writer", "write", ""),
            user("admin", "admin", ""),
            user("some", "write", "tables = ['open*', 'new']"),
        ]
        .concat()
    });
    work.file("users.toml", text)
}

const TABLES: &str = "
admin = connect('admin', 'admin-pw')
for name in ['open', 'secret']:
    rows(admin, f\"CREATE EXTERNAL TABLE {name} (id BIGINT) STORED AS DELTA LOCATION 'lake/{name}'\")
    rows(admin, f'INSERT INTO {name} VALUES (1)')
rows(admin, 'CREATE VIEW open_view AS SELECT id + 1 AS next FROM secret')
";

#[test]
fn each_role_has_the_same_rights_by_every_protocol() {
    let work = Workspace::new();
    let lake = work.path("lake").display().to_string();
    std::fs::create_dir(&lake).unwrap();
    work.file("plain.csv", "a\n1\n");
    let arguments = ["--users", users(&work), "--location-root", &lake];
    let served = TestServer::start(&work, &arguments);
    let script = r#"
table = pyarrow.table({"id": [7]})
def update(db, sql):
    with db.cursor() as cur:
        cur.executescript(sql)
def many(db, sql):
    with db.cursor() as cur:
        cur.executemany(sql, [(5,)])
def load(db, name, mode):
    with db.cursor() as cur:
        return cur.adbc_ingest(name, table, mode=mode)
def columns(db, sql):
    with db.cursor() as cur:
        return len(cur.adbc_execute_schema(sql))
statements = ["SELECT count(*) > 0 FROM open", "INSERT INTO open VALUES (2)",
    "EXPLAIN ANALYZE INSERT INTO open VALUES (3)",
    "CREATE EXTERNAL TABLE NAME (id BIGINT) STORED AS DELTA LOCATION 'lake/NAME'",
    "CREATE EXTERNAL TABLE NAME_out (id BIGINT) STORED AS DELTA LOCATION 'outside'",
    "CREATE EXTERNAL TABLE NAME_csv STORED AS CSV LOCATION 'plain.csv'",
    "CREATE VIEW NAME_view AS SELECT 1 AS one", "OPTIMIZE open", "VACUUM open DRY RUN",
    "COPY open TO 'copied.csv'", "SHOW JOBS", "PAUSE JOB nothing", "KILL QUERY 'nothing'", "SHOW QUERIES"]
for name in ["reader", "writer", "admin"]:
    db = connect(name, name + "-pw")
    print("--", name)
    for sql in statements:
        answer = refused(rows, db, sql.replace("NAME", name))
        print(sql[:40], "|", answer[:24] if answer.startswith("done") else answer)
    for way, answer in {
        "update": refused(update, db, "INSERT INTO open VALUES (4)"),
        "bound": refused(many, db, "INSERT INTO open VALUES (?)"),
        "append": refused(load, db, "open", "append"),
        "create": refused(load, db, "made_by_" + name, "create"),
        "columns": refused(columns, db, "SELECT id FROM open"),
    }.items():
        print(way, "|", answer)
print(rows(admin, "SELECT id, count(*) FROM open GROUP BY id ORDER BY id"))
"#;
    let said = served.python(&format!("{TABLES}{script}"), &[]);
    insta::with_settings!({filters => vec![(lake.as_str(), "[lake]")]}, {
        insta::assert_snapshot!(said);
    });
}

#[test]
fn tables_without_a_grant_do_not_exist_for_a_user() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let script = r#"
some = connect("some", "some-pw")
print(rows(some, "SHOW TABLES"))
print(rows(some, "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema <> 'information_schema' ORDER BY 2"))
print(rows(some, "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema <> 'information_schema'ORDER BY 1"))
found = some.adbc_get_objects(depth="columns").read_all().to_pylist()
print([(schema["db_schema_name"], [table["table_name"] for table in schema["db_schema_tables"]]) for schema in found[0]["catalog_db_schemas"]])
print(rows(some, "SELECT * FROM open_view"))
for sql in ["SELECT * FROM secret", "SELECT * FROM open, secret", "SELECT * FROM open_view, secret", "SELECT * FROM secrets",
    "SELECT (SELECT max(id) FROM secret)", "SELECT * FROM public.secret", "SELECT * FROM anabranch.public.secret",
    "SELECT * FROM secret FOR VERSION AS OF 0", "SELECT * FROM archive_coverage('secret')", "DESCRIBE secret", "SHOW CREATE TABLE secret", "DESCRIBE HISTORY secret",
    "INSERT INTO secret VALUES (2)", "INSERT INTO open SELECT id FROM secret", "OPTIMIZE secret", "DROP TABLE secret",
    "CREATE VIEW open_other AS SELECT * FROM secret", "CREATE VIEW other AS SELECT 1", "CREATE VIEW open_mine AS SELECT * FROM open",
    "CREATE OR REPLACE VIEW secret AS SELECT 1", "CREATE TABLE open_copy AS SELECT * FROM secret", "SELECT * FROM system.jobs",
    "SELECT * FROM system.late_rows", "SELECT * FROM job_state('j')", "SHOW JOBS", "EXPLAIN SELECT * FROM secret",
    "CREATE JOB j AS INSERT INTO open SELECT id FROM secret"]:
    print(sql[:46], "|", refused(rows, some, sql))
def load(name, mode):
    with some.cursor() as cur:
        return cur.adbc_ingest(name, pyarrow.table({"id": [7]}), mode=mode)
for name, mode in [("secret", "append"), ("secret", "create"), ("secret", "replace"), ("new", "create"), ("other", "create")]:
    print(name, mode, "|", refused(load, name, mode))
print(refused(some.adbc_get_table_schema, "secret"))
print(rows(admin, "SELECT * FROM secret"), rows(admin, "SELECT * FROM new"))
"#;
    let said = served.python(&format!("{TABLES}{script}"), &[]);
    insta::assert_snapshot!(said);
}

#[test]
fn the_console_has_the_same_users() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work), "--http", "127.0.0.1:0"]);
    let script = r#"
import json, urllib.request, urllib.error
def ask(path, body=None, cookie=None):
    headers = {"Content-Type": "application/json"} | ({"Cookie": cookie} if cookie else {})
    request = urllib.request.Request("http://" + sys.argv[2] + path, json.dumps(body).encode() if body is not None else None, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer), answer.headers.get("Set-Cookie")
    except urllib.error.HTTPError as error:
        found = json.load(error)["error"]
        return error.code, found["message"], found["sqlstate"]
print(ask("/api/jobs"), ask("/api/about"), ask("/api/query", {"sql": "SELECT 1", "id": "a"}))
print(ask("/api/login", {"user": "reader", "password": "wrong"}))
def login(name):
    status, body, cookie = ask("/api/login", {"user": name, "password": name + "-pw"})
    flags = cookie.split("; ")
    assert status == 200 and body == {"user": name} and {"Path=/api", "HttpOnly", "SameSite=Strict"} <= set(flags), cookie
    return flags[0]
reader, some, writer = login("reader"), login("some"), login("writer")
print(ask("/api/about", cookie=reader)[1]["user"], ask("/api/about", cookie=reader + "x")[:2])
def query(sql, cookie):
    status, body, *_ = ask("/api/query", {"sql": sql, "id": sql}, cookie)
    return status, body["rows"] if status == 200 else body
for cookie, sql in [(reader, "SELECT 1"), (reader, "CREATE VIEW v AS SELECT 1 AS one"), (writer, "CREATE VIEW v AS SELECT 1 AS one"),
    (reader, "SELECT * FROM v"), (some, "SELECT * FROM v"), (some, "SHOW TABLES"), (reader, "SHOW TABLES"), (some, "SELECT * FROM open_view")]:
    print(sql, "|", query(sql, cookie))
print(ask("/api/jobs", cookie=reader)[1]["jobs"], ask("/api/jobs", cookie=some)[:2], ask("/api/jobs/j/pause", {}, reader)[:2])
print(ask("/api/logout", {}, reader)[2])
"#;
    let console = served.console.clone().unwrap();
    let said = served.python(&format!("{TABLES}{script}"), &[&console]);
    insta::assert_snapshot!(said);
}

/// A reader's query leaves out records that cannot be decoded and writes nothing, whether or not the reader may name
/// the table that keeps such records; a writer's query keeps them.
#[test]
fn a_query_of_a_reader_sets_no_records_aside() {
    let source = topic("letters");
    create_topic(&source, 1);
    produce(&source, "{\"v\":1}\nnot json\n{\"v\":2}\n");
    let work = Workspace::new();
    let file = users(&work);
    let hash = hash_of(&work, "narrow-pw");
    let narrow =
        format!("[users.narrow]\npassword = '{hash}'\nrole = 'read'\ntables = ['visits']\n");
    work.append(file, &narrow);
    let served = TestServer::start(&work, &["--users", file]);
    let script = r#"
admin = connect("admin", "admin-pw")
rows(admin, """CREATE EXTERNAL TABLE letters (topic VARCHAR, partition INT, "offset" BIGINT, timestamp TIMESTAMP, key BINARY, value BINARY, reason VARCHAR)
    STORED AS DELTA LOCATION 'letters'""")
rows(admin, f"""CREATE EXTERNAL TABLE visits (v INT) STORED AS KAFKA LOCATION '{sys.argv[2]}' OPTIONS ('kafka.bootstrap.servers' '{sys.argv[3]}',
    'format' 'json', 'on_error' 'dead_letter', 'dead_letter.table' 'letters')""")
for name in ["reader", "narrow", "writer"]:
    with connect(name, name + "-pw") as db:
        print(name, rows(db, "SELECT v FROM visits ORDER BY v"), rows(admin, "SELECT count(*) FROM letters"))
"#;
    assert_eq!(
        served.python(script, &[&source, &kafka()]),
        "reader [(1,), (2,)] [(0,)]\nnarrow [(1,), (2,)] [(0,)]\nwriter [(1,), (2,)] [(1,)]\n"
    );
}
