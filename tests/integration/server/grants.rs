//! An oracle of users and grants: random users with random grants send random statements of every class to one server.
//! The statements that run or are refused and the names that are listed are compared with the rules of
//! docs/security.md, which stand in the script below.
//!
//! A failure names the seed: `ANABRANCH_SEED=<n>` runs it alone, and `ANABRANCH_SEEDS=<count>` runs so many.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::TestServer;
use crate::support::{Random, Workspace};

/// How many seeds run, unless `ANABRANCH_SEEDS` says another number.
const SEEDS: u64 = 2;
/// Statements of one seed, besides those that make its first tables and views.
const STATEMENTS: usize = 120;
const USERS: usize = 10;
const ROLES: [&str; 6] = ["read", "read", "write", "write", "write", "admin"];
const PATTERNS: [&str; 15] = [
    "*",
    "a_*",
    "a*",
    "b_*",
    "*_1",
    "*_v*",
    "c_1",
    "c_v3",
    "*b*",
    "a_1",
    "*_sink_*",
    "*feed",
    "jobs",
    "system.jobs",
    "system.*",
];

const ORACLE: &str = r#"
import json, random, re
seed, users = int(sys.argv[2]), json.loads(sys.argv[3])
dice = random.Random(seed)
TABLES = ["a_1", "a_12", "ab_1", "b_1", "b_2", "c_1"]
# Tables of jobs, which stay: the first is read by all of them, the others are written by one each.
OF_JOBS = ["a_feed", "b_sink_1", "c_sink_2"]
VIEWS = ["a_v1", "b_v2", "c_v3", "ab_v4", "c_v5"]
JOBS, ROLES = ["job_1", "job_2"], ["read", "write", "admin"]
SYSTEM = ["batches", "dead_letters", "jobs", "late_rows", "partitions", "run_changes", "runs"]
# By name: ("table", place, whether its maker may name some tables only) or ("view", names that it reads).
relations, jobs, sent = {}, set(), []

# The rules of docs/security.md.
def lists(user, name, schema="public"):
    def fits(pattern, text): return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    def includes(pattern):
        of_schema, _, of_name = pattern.rpartition(".")
        return fits(of_schema or "public", schema) and fits(of_name, name)
    return user["tables"] is None or any(map(includes, user["tables"]))
def has(user, role):
    return ROLES.index(user["role"]) >= ROLES.index(role)
def is_bound(user):
    return user["tables"] is not None and not has(user, "admin")
def may_make(user, name):
    return not is_bound(user) or lists(user, name)
def is_table(name):
    return name in relations and relations[name][0] == "table"
def is_hidden_place(user, place, but=None):
    return any(is_table(name) and relations[name][1] == place and name != but and not lists(user, name) for name in relations)
def opens(user, name):
    if name not in relations: return False
    if is_table(name): return not (relations[name][2] and is_hidden_place(user, relations[name][1], but=name))
    return all(opens(user, read) for read in relations[name][1])
def is_stream(name):
    return is_table(name) or (name in relations and len(relations[name][1]) == 1 and is_stream(relations[name][1][0]))
def reads_hidden(user, name):
    return name in relations and not is_table(name) and any(not lists(user, read) or reads_hidden(user, read) for read in relations[name][1])
def hidden_names(user):
    hidden = {name for name in TABLES + OF_JOBS + VIEWS if not lists(user, name)}
    sees_jobs = not is_bound(user) or any(lists(user, name, "system") for name in SYSTEM)
    return hidden if sees_jobs else hidden | set(JOBS)

def script(db, sql):
    with db.cursor() as cur: cur.executescript(sql)
def schema(db, sql):
    with db.cursor() as cur: return [(str(cur.adbc_execute_schema(sql)),)]
def ingest(db, name):
    with db.cursor() as cur: return [(cur.adbc_ingest(name, pyarrow.table({"id": [7]}), mode="append"),)]
def columns(db, name):
    return [(str(db.adbc_get_table_schema(name)),)]
def objects(db, depth):
    found = db.adbc_get_objects(depth=depth).read_all().to_pylist()
    schemas = [schema for catalog in found for schema in catalog["catalog_db_schemas"]]
    return [(schema["db_schema_name"] + "." + table["table_name"],) for schema in schemas for table in schema["db_schema_tables"]]

def ask(user, sql, way="rows", needs="read", listed=True, works=True, names=None, target=None):
    """Sends a statement and compares; whether it was done. `works`: whether it can be done by one who may; None: the page does not say.
    `names`: the first column of all rows. `target`: the name that is answered as one that is not there, where it is not listed."""
    given = []
    answer = refused(lambda: given.extend(globals()[way](user["db"], sql) or []))
    is_done = answer.startswith("done")
    def check(is_right, what):
        assert is_right, f"ANABRANCH_SEED={seed}: {what}: {user['role']} of {user['tables']}, {way} {sql}: {answer} {given} after {sent}"
    if not has(user, needs): check("UNAUTHORIZED" in answer and "has the role" in answer, "the role is not enough")
    elif works is None: pass
    elif listed and works: check(is_done, "it may")
    elif works: check("UNAUTHORIZED" in answer or "NOT_FOUND" in answer, "it may not")
    else: check(not is_done, "it cannot be done")
    if is_done and names is not None: check({row[0] for row in given} == set(names), f"the names are {sorted(names)}")
    # What is not listed is told of by nothing that is answered.
    if is_bound(user) or not ("JOB" in sql or "system." in sql):
        words = set(re.findall(r"\w+", answer + str(given))) - set(re.findall(r"\w+", sql))
        check(not words & hidden_names(user), f"it tells of {words & hidden_names(user)}")
    if target and works and not listed and has(user, needs):
        ghost = "q" * len(target)
        like = refused(globals()[way], user["db"], sql.replace(target, ghost))
        check(answer.replace(target, ghost).split(";")[0] == like.split(";")[0], f"what is not there is answered by {like}")
    sent.append((users.index(user), sql))
    return is_done

def read_one(user, name):
    sql = dice.choice(["SELECT * FROM {}", "SELECT count(*) FROM public.{}", "SELECT max(id) FROM anabranch.public.{} WHERE id >= 0",
        "WITH w AS (SELECT id FROM {}) SELECT * FROM w WHERE id > 0", "SELECT (SELECT max(id) FROM {})", "SELECT 1 WHERE EXISTS (SELECT 1 FROM {})",
        "EXPLAIN SELECT id FROM {} WHERE id = 1", "EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM {}", "DESCRIBE {}", "DESCRIBE SELECT id FROM {}",
        "SHOW COLUMNS FROM {}", "SUMMARIZE {}"])
    way = dice.choice(["rows", "rows", "schema"]) if sql.startswith("SELECT") else "rows"
    ask(user, sql.format(name), way, listed=lists(user, name), works=opens(user, name), target=name)
def read_two(user, name):
    other = dice.choice(TABLES + OF_JOBS + VIEWS)
    sql = dice.choice(["SELECT count(*) FROM {} AS l JOIN {} AS r ON l.id = r.id", "SELECT id FROM {} UNION ALL SELECT id FROM {}",
        "SELECT id FROM {} WHERE id IN (SELECT id FROM {})"])
    ask(user, sql.format(name, other), listed=lists(user, name) and lists(user, other), works=opens(user, name) and opens(user, other))
def read_versions(user, name):
    sql = dice.choice(["DESCRIBE HISTORY {}", "SELECT count(*) FROM {} FOR VERSION AS OF 0"])
    ask(user, sql.format(name), listed=lists(user, name), works=is_table(name) and opens(user, name), target=name)
def show_create(user, name):
    works = name in relations
    if works and lists(user, name):
        if reads_hidden(user, name): works = False
        elif not opens(user, name): works = None
    ask(user, f"SHOW CREATE {'VIEW' if name in VIEWS else 'TABLE'} {name}", listed=lists(user, name), works=works, target=name)
def subscribe(user, name):
    sql = f"SUBSCRIBE WITH ('trigger' 'once') SELECT id FROM {name} WHERE id > 0"
    ask(user, sql, listed=lists(user, name), works=opens(user, name) and is_stream(name), target=name)
def insert(user, name):
    way, sql = dice.choice([("rows", "INSERT INTO {} VALUES (7)"), ("script", "INSERT INTO {} VALUES (8)"), ("rows", "EXPLAIN INSERT INTO {} VALUES (9)"),
        ("ingest", "{}")])
    works = is_table(name) and opens(user, name)
    # EXPLAIN writes nothing, and may show why there is no plan.
    explains = sql.startswith("EXPLAIN")
    if explains and name in VIEWS: works = None
    ask(user, sql.format(name), way, "read" if explains else "write", lists(user, name), works, target=name if way != "ingest" else None)
def insert_query(user, name):
    other = dice.choice(TABLES + OF_JOBS + VIEWS)
    works = is_table(name) and opens(user, name) and opens(user, other)
    ask(user, f"INSERT INTO {name} SELECT id FROM {other} LIMIT 3", needs="write", listed=lists(user, name) and lists(user, other), works=works)
def maintain(user, name):
    sql, role = dice.choice([("OPTIMIZE {}", "write"), ("VACUUM {}", "admin"), ("VACUUM {} DRY RUN", "admin"), ("DELETE FROM {} WHERE id < 0", "write"),
        ("UPDATE {} SET id = id WHERE id < 0", "write")])
    ask(user, sql.format(name), needs=role, listed=lists(user, name), works=is_table(name) and opens(user, name), target=name)
def copy(user, name):
    ask(user, f"COPY {name} TO 'copied/{len(sent)}.csv'", needs="admin", listed=lists(user, name), works=opens(user, name), target=name)
def do_what_there_is_not(user, name):
    sql = dice.choice(["ALTER TABLE {} ADD COLUMN more INT", "CREATE TABLE {}_copy AS SELECT 1 AS id", "CREATE INDEX i ON {} (id)",
        "DROP SCHEMA public CASCADE"])
    assert not ask(user, sql.format(name), works=None), sql
def declare(user, name, place):
    may = may_make(user, name) and not is_hidden_place(user, place) and (has(user, "admin") or place.startswith("lake/"))
    sql = f"CREATE EXTERNAL TABLE {name} (id BIGINT) STORED AS DELTA LOCATION '{place}' OPTIONS ('scan.mode' 'stream')"
    if ask(user, sql, needs="write", listed=may, works=name not in relations):
        relations[name] = ("table", place, user["tables"] is not None)
def missing_tables():
    return [name for name in TABLES if name not in relations]
def create_table(user, name):
    # Places of tables of jobs are theirs alone.
    places = [f"lake/p{number}" for number in range(len(OF_JOBS), len(OF_JOBS) + 4)] + ["outside/p0"]
    declare(user, dice.choice(missing_tables() * 3 + TABLES), dice.choice(places))
def declare_over(user, name):
    """A user who may name some tables only declares one, and another table is declared there later: the first is closed to those who
    may not name the second."""
    makers = [(user, name) for user in users if user["tables"] is not None and has(user, "write") for name in missing_tables() if lists(user, name)]
    if not makers or len(missing_tables()) < 2: return
    (maker, name), place = dice.choice(makers), f"lake/q{len(sent)}"
    declare(maker, name, place)
    other = dice.choice(missing_tables())
    declare(admin, other, place)
    for user in users:
        if lists(user, name) and not lists(user, other):
            dice.choice([read_one, read_versions, subscribe, insert, maintain])(user, name)
def create_view(user, name):
    # Of tables and of views before it: none stands below itself.
    number = dice.randrange(len(VIEWS))
    view, reads = VIEWS[number], dice.choices(TABLES + OF_JOBS + VIEWS[:number], k=dice.choice([1, 1, 2]))
    query = f"SELECT id FROM {reads[0]} WHERE id > 0" if len(reads) == 1 else f"SELECT l.id FROM {reads[0]} AS l JOIN {reads[1]} AS r ON l.id = r.id"
    verb = dice.choice(["CREATE", "CREATE OR REPLACE"])
    may = may_make(user, view) and all(lists(user, read) for read in reads)
    works = all(opens(user, read) for read in reads) and (view not in relations or verb != "CREATE")
    if ask(user, f"{verb} VIEW {view} AS {query}", needs="write", listed=may, works=works):
        relations[view] = ("view", reads)
def drop(user, name):
    kind, name = dice.choice([("TABLE", dice.choice(TABLES)), ("VIEW", dice.choice(VIEWS))])
    if_exists = dice.choice(["", "IF EXISTS "])
    works = bool(if_exists) or name in relations
    if ask(user, f"DROP {kind} {if_exists}{name}", needs="write", listed=may_make(user, name), works=works, target=name):
        relations.pop(name, None)
def of_jobs(user, name):
    number = dice.randrange(len(JOBS))
    job, sink, may = JOBS[number], OF_JOBS[number + 1], not is_bound(user)
    create = f"CREATE JOB {job} WITH ('trigger' '1 hour') AS INSERT INTO {sink} SELECT id FROM a_feed"
    may_create = may and lists(user, sink) and lists(user, "a_feed")
    match dice.choice(["create", "create", "explain", "drop", "change", "show"]):
        case "create":
            if ask(user, create, needs="write", listed=may_create): jobs.add(job)
        case "explain": ask(user, f"EXPLAIN {create}", listed=may_create)
        case "drop":
            if ask(user, f"DROP JOB {job} CASCADE", needs="write", listed=may, works=job in jobs): jobs.remove(job)
        case "change": ask(user, f"{dice.choice(['PAUSE', 'RESUME'])} JOB {job}", needs="write", listed=may, works=job in jobs)
        case "show": ask(user, f"{dice.choice(['SHOW CREATE JOB', 'SHOW BATCHES FOR JOB'])} {job}", listed=may, works=job in jobs)
def read_system(user, name):
    name = dice.choice(SYSTEM)
    ask(user, f"SELECT count(*) FROM system.{name}", listed=lists(user, name, "system"))
def list_names(user, name):
    listed = [name for name in relations if lists(user, name)]
    of_schemas = [f"public.{name}" for name in listed] + [f"system.{name}" for name in SYSTEM if lists(user, name, "system")]
    query = "SELECT DISTINCT table_schema || '.' || table_name FROM information_schema.{} WHERE table_schema <> 'information_schema'"
    match dice.choice(["show", "tables", "columns", "objects", "one", "jobs", "system"]):
        case "show": ask(user, "SHOW TABLES", names=listed)
        case "tables": ask(user, query.format("tables"), names=of_schemas)
        # Of one that cannot be opened there are no columns to list.
        case "columns":
            if all(opens(user, name) for name in listed): ask(user, query.format("columns"), names=of_schemas)
        case "objects": ask(user, dice.choice(["tables", "columns"]), "objects", names=of_schemas)
        case "one":
            works = None if name in listed and not opens(user, name) else name in relations
            ask(user, name, "columns", listed=lists(user, name), works=works)
        case "jobs": ask(user, "SHOW JOBS", listed=not is_bound(user), names=jobs)
        case "system": ask(user, "SELECT job FROM system.jobs", listed=lists(user, "jobs", "system"), names=jobs)

for user in users: user["db"] = connect(token=user["token"])
admin = users[0]
for number, name in enumerate(OF_JOBS + TABLES[:3]):
    declare(admin, name, f"lake/p{number}")
    ask(admin, f"INSERT INTO {name} VALUES (1), (2)")
for turn in range(6): create_view(admin, None)
CLASSES = [read_one] * 5 + [read_two, read_versions, show_create, subscribe, insert, insert, insert_query, maintain, maintain, copy, do_what_there_is_not,
    create_table, declare_over, create_view, drop, drop, of_jobs, of_jobs, read_system, list_names, list_names]
for turn in range(int(sys.argv[4])):
    dice.choice(CLASSES)(dice.choice(users), dice.choice(TABLES + OF_JOBS + VIEWS))
print("as the page says")
"#;

/// An administrator with all tables, and other users; each has a token.
fn users(random: &mut Random) -> Vec<Value> {
    let all = (0..USERS).map(|number| {
        let token = format!("token-of-user-{number}");
        if number == 0 {
            return json!({"token": token, "role": "admin", "tables": null});
        }
        let role = ROLES[random.below(ROLES.len())];
        let patterns: Vec<&str> = (0..random.below(5))
            .map(|_| PATTERNS[random.below(PATTERNS.len())])
            .collect();
        let tables = (random.below(4) > 0).then_some(patterns);
        json!({"token": token, "role": role, "tables": tables})
    });
    all.collect()
}

fn file_of(users: &[Value]) -> String {
    let mut file = String::new();
    for (number, user) in users.iter().enumerate() {
        let mut hash = String::new();
        for byte in Sha256::digest(user["token"].as_str().unwrap()) {
            write!(hash, "{byte:02x}").unwrap();
        }
        let (role, tables) = (&user["role"], &user["tables"]);
        writeln!(
            file,
            "[users.u{number}]\ntokens = ['sha256:{hash}']\nrole = {role}"
        )
        .unwrap();
        if tables.is_array() {
            writeln!(file, "tables = {tables}").unwrap();
        }
    }
    file
}

fn run(seed: u64) {
    let users = users(&mut Random::new(seed));
    let work = Workspace::new();
    for folder in ["lake", "outside", "copied"] {
        std::fs::create_dir(work.path(folder)).unwrap();
    }
    let file = work.file("users.toml", &file_of(&users));
    let lake = work.path("lake").display().to_string();
    let served = TestServer::start(&work, &["--users", file, "--location-root", &lake]);
    let (users, statements) = (Value::Array(users).to_string(), STATEMENTS.to_string());
    let said = served.python(ORACLE, &[&seed.to_string(), &users, &statements]);
    assert_eq!(said, "as the page says\n", "ANABRANCH_SEED={seed}");
}

#[test]
fn users_have_the_rights_of_their_roles_and_grants() {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let seeds = match number("ANABRANCH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANABRANCH_SEEDS").unwrap_or(SEEDS),
    };
    seeds.for_each(run);
}
