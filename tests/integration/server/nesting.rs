//! SAFE-1: no text ends the server or blocks the statements of other clients, sent over Flight, prepared, or by the console:
//! deep, long and wide texts of every production, and random ones.
//!
//! Each production is tried in its smallest size, in one way or another. Of the larger ones, and of all ways, a fifth is tried;
//! `ANABRANCH_FUZZ=N` tries all of them in all ways, and N random texts in place of a few.

use std::fmt::Write as _;

use super::TestServer;
use super::exhaustion::TABLES;
use crate::support::{Random, Workspace};

/// A production: its name, and its text of a size.
type Production = (&'static str, fn(usize) -> String);

fn chain(first: &str, link: &str, size: usize) -> String {
    format!("{first}{}", link.repeat(size))
}

fn nest(open: &str, inner: &str, close: &str, size: usize) -> String {
    format!("{}{inner}{}", open.repeat(size), close.repeat(size))
}

fn list(size: usize, separator: &str, item: impl Fn(usize) -> String) -> String {
    let items: Vec<String> = (0..size).map(item).collect();
    items.join(separator)
}

const PRODUCTIONS: &[Production] = &[
    ("or", |n| {
        format!("SELECT {}", list(n, " OR ", |n| format!("{n} = 1")))
    }),
    ("and", |n| {
        format!("SELECT {}", list(n, " AND ", |n| format!("{n} = {n}")))
    }),
    ("or of and", |n| {
        format!(
            "SELECT value FROM generate_series(1, 3) WHERE {}",
            list(n, " OR ", |n| format!("(value = {n} AND value < {n})"))
        )
    }),
    ("filter and", |n| {
        format!(
            "SELECT value FROM generate_series(1, 3) WHERE {}",
            list(n, " AND ", |n| format!("value <> {n}"))
        )
    }),
    ("filter or", |n| {
        format!(
            "SELECT value FROM generate_series(1, 3) WHERE {}",
            list(n, " OR ", |n| format!("value + 1 = {n}"))
        )
    }),
    ("plus", |n| chain("SELECT 1", " + 1", n)),
    ("minus", |n| chain("SELECT 1", " - 1", n)),
    ("times", |n| chain("SELECT 1", " * 1", n)),
    ("concat", |n| chain("SELECT 'a'", " || 'b'", n)),
    ("equal", |n| chain("SELECT 1", " = 1", n)),
    ("cast", |n| chain("SELECT 1", "::BIGINT", n)),
    ("is null", |n| chain("SELECT 1", " IS NULL", n)),
    ("is distinct", |n| {
        chain("SELECT 1", " IS DISTINCT FROM 1", n)
    }),
    ("between", |n| chain("SELECT 1", " BETWEEN 1 AND 1", n)),
    ("like", |n| chain("SELECT 'a'", " LIKE 'a'", n)),
    ("in", |n| chain("SELECT 1", " IN (1)", n)),
    ("zone", |n| chain("SELECT now()", " AT TIME ZONE 'UTC'", n)),
    ("collate", |n| chain("SELECT 'a'", " COLLATE \"C\"", n)),
    ("not", |n| format!("SELECT {}true", "NOT ".repeat(n))),
    ("signs", |n| format!("SELECT {}1", "- ".repeat(n))),
    ("mixed signs", |n| format!("SELECT {}1", "- + ".repeat(n))),
    ("interval", |n| {
        format!("SELECT {}'1 day'", "INTERVAL ".repeat(n))
    }),
    ("interval sign", |n| {
        format!("SELECT {}'1 day'", "INTERVAL - ".repeat(n))
    }),
    ("parentheses", |n| {
        format!("SELECT {}", nest("(", "1", ")", n))
    }),
    ("casts", |n| {
        format!("SELECT {}", nest("CAST(", "1", " AS BIGINT)", n))
    }),
    ("wrong casts", |n| {
        format!("SELECT {}", nest("CAST(", "1 1", " AS BIGINT)", n))
    }),
    ("try casts", |n| {
        format!("SELECT {}", nest("TRY_CAST(", "+", " AS BIGINT)", n))
    }),
    ("case", |n| {
        format!("SELECT {}", nest("CASE WHEN true THEN ", "1", " END", n))
    }),
    ("wrong case", |n| {
        format!("SELECT {}", nest("CASE WHEN ", "1 1", " THEN 1 END", n))
    }),
    ("long case", |n| {
        format!(
            "SELECT CASE 1 {} END",
            list(n, " ", |n| format!("WHEN {n} THEN {n}"))
        )
    }),
    ("functions", |n| {
        format!("SELECT {}", nest("abs(", "1", ")", n))
    }),
    ("lists", |n| format!("SELECT {}", nest("[", "1", "]", n))),
    ("structs", |n| {
        format!("SELECT {}", nest("{'a': ", "1", "}", n))
    }),
    ("subqueries", |n| {
        format!("SELECT {}", nest("(SELECT ", "1", ")", n))
    }),
    ("derived", |n| {
        format!(
            "{}SELECT 1 AS a{}",
            "SELECT * FROM (".repeat(n),
            ") t".repeat(n)
        )
    }),
    ("from parentheses", |n| {
        format!(
            "SELECT * FROM {}",
            nest("(", "generate_series(1, 2)", ")", n)
        )
    }),
    ("exists", |n| {
        format!(
            "SELECT 1 WHERE {}",
            nest("EXISTS (SELECT 1 WHERE ", "true", ")", n)
        )
    }),
    ("in queries", |n| {
        format!(
            "SELECT 1 WHERE {}",
            nest("1 IN (SELECT 1 WHERE ", "true", ")", n)
        )
    }),
    ("union all", |n| {
        list(n, " UNION ALL ", |n| format!("SELECT {n} AS a"))
    }),
    ("union", |n| {
        list(n, " UNION ", |n| format!("SELECT {n} AS a"))
    }),
    ("except", |n| {
        list(n, " EXCEPT ", |n| format!("SELECT {n} AS a"))
    }),
    ("intersect", |n| {
        list(n, " INTERSECT ", |n| format!("SELECT {n} AS a"))
    }),
    ("mixed sets", |n| {
        list(n, " UNION ALL ", |n| {
            format!("SELECT {n} AS a UNION SELECT 1 AS a")
        })
    }),
    ("joins", |n| {
        format!(
            "SELECT 1 FROM generate_series(1, 1) t0 {}",
            list(n, " ", |n| format!(
                "JOIN generate_series(1, 1) t{} USING (value)",
                n + 1
            ))
        )
    }),
    ("from list", |n| {
        format!(
            "SELECT 1 FROM {}",
            list(n, ", ", |n| format!("generate_series(1, 1) t{n}"))
        )
    }),
    ("common tables", |n| {
        format!(
            "WITH t0 AS (SELECT 1 AS a), {} SELECT * FROM t{n}",
            list(n, ", ", |n| format!("t{} AS (SELECT a FROM t{n})", n + 1))
        )
    }),
    ("doubled tables", |n| {
        format!(
            "WITH t0 AS (SELECT 1 AS a), {} SELECT * FROM t{n}",
            list(n, ", ", |n| format!(
                "t{} AS (SELECT x.a FROM t{n} x, t{n} y)",
                n + 1
            ))
        )
    }),
    ("doubled unions", |n| {
        format!(
            "WITH t0 AS (SELECT 1 AS a), {} SELECT * FROM t{n}",
            list(n, ", ", |n| format!(
                "t{} AS (SELECT a FROM t{n} UNION ALL SELECT a FROM t{n})",
                n + 1
            ))
        )
    }),
    ("doubled types", |n| {
        format!(
            "WITH t0 AS (SELECT value AS a FROM generate_series(1, 2)), {} SELECT * FROM t{n}",
            list(n, ", ", |n| format!(
                "t{} AS (SELECT named_struct('a', a, 'b', a) AS a FROM t{n})",
                n + 1
            ))
        )
    }),
    ("doubled view", |n| {
        format!(
            "CREATE OR REPLACE VIEW w AS WITH t0 AS (SELECT 1 AS a), {} SELECT * FROM t{n}",
            list(n, ", ", |n| format!(
                "t{} AS (SELECT x.a FROM t{n} x, t{n} y)",
                n + 1
            ))
        )
    }),
    ("doubled columns", |n| {
        format!(
            "WITH t0 AS (SELECT value AS a FROM generate_series(1, 2)), {} SELECT * FROM t{n} WHERE a > 0",
            list(n, ", ", |n| format!(
                "t{} AS (SELECT a + a AS a FROM t{n})",
                n + 1
            ))
        )
    }),
    ("explain", |n| format!("{}SELECT 1", "EXPLAIN ".repeat(n))),
    ("explain verbose", |n| {
        format!("{}SELECT 1", "EXPLAIN ANALYZE VERBOSE ".repeat(n))
    }),
    ("links", |n| chain("SELECT a", ".b", n)),
    ("subscripts", |n| chain("SELECT s", "['a']", n)),
    ("numbers", |n| chain("SELECT s", "[1]", n)),
    ("calls", |n| chain("SELECT f", "(1)", n)),
    ("array types", |n| {
        format!("SELECT CAST(1 AS {})", nest("ARRAY<", "INT", ">", n))
    }),
    ("struct types", |n| {
        format!("SELECT CAST(1 AS {})", nest("STRUCT<a ", "INT", ">", n))
    }),
    ("bracket types", |n| {
        format!("SELECT CAST(1 AS INT{})", "[]".repeat(n))
    }),
    ("columns", |n| {
        format!(
            "CREATE EXTERNAL TABLE t (a {}) STORED AS KAFKA LOCATION 't'",
            nest("STRUCT<b ", "INT", ">", n)
        )
    }),
    ("in list", |n| {
        format!(
            "SELECT value FROM generate_series(1, 3) WHERE value IN ({})",
            list(n, ", ", |n| n.to_string())
        )
    }),
    ("values", |n| {
        format!(
            "SELECT count(*) FROM (VALUES {})",
            list(n, ", ", |n| format!("({n})"))
        )
    }),
    ("select list", |n| {
        format!("SELECT {}", list(n, ", ", |n| format!("{n} AS c{n}")))
    }),
    ("cube", |n| {
        let columns = list(n, ", ", |n| format!("c{n}"));
        let named = list(n, ", ", |n| format!("{n} AS c{n}"));
        format!("SELECT count(*) FROM (SELECT {named}) GROUP BY CUBE({columns})")
    }),
    ("rollup", |n| {
        let columns = list(n, ", ", |n| format!("c{n}"));
        let named = list(n, ", ", |n| format!("{n} AS c{n}"));
        format!("SELECT count(*) FROM (SELECT {named}) GROUP BY ROLLUP({columns})")
    }),
    ("grouping sets", |n| {
        format!(
            "SELECT count(*) FROM generate_series(1, 3) GROUP BY GROUPING SETS({})",
            list(n, ", ", |n| format!("(value + {n})"))
        )
    }),
    ("many cubes", |n| {
        format!(
            "SELECT count(*) FROM generate_series(1, 3) GROUP BY {}",
            list(n, ", ", |n| format!("CUBE(value + {n}, value - {n})"))
        )
    }),
    ("view", |n| {
        format!(
            "CREATE OR REPLACE VIEW v AS SELECT {}",
            chain("1", " + 1", n)
        )
    }),
    ("json text", |n| chain("SELECT '{}'", " ->> 'a'", n)),
    ("json", |n| chain("SELECT '{}'", " -> 'a'", n)),
    ("json paths", |n| chain("SELECT '{}'", " #>> ['a']", n)),
    ("json numbers", |n| {
        format!(
            "SELECT {}",
            nest("((", "'{}'", ") -> 'a')::DECIMAL(10, 2)::VARCHAR", n)
        )
    }),
    ("with", |n| {
        nest("WITH a AS (", "SELECT 1 AS x", ") SELECT * FROM a", n)
    }),
    ("with in from", |n| {
        nest(
            "SELECT * FROM (WITH a AS (",
            "SELECT 1 AS x",
            ") SELECT * FROM a) AS b",
            n,
        )
    }),
    ("with in view", |n| {
        format!(
            "CREATE OR REPLACE VIEW u AS {}",
            nest("WITH a AS (", "SELECT 1 AS x", ") SELECT * FROM a", n)
        )
    }),
    ("windows", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            list(n, ", ", |n| format!(
                "sum(value) OVER (ORDER BY value % {}) AS c{n}",
                n + 2
            ))
        )
    }),
    ("windows of windows", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("sum(", "value", ") OVER ()", n)
        )
    }),
    ("ordered windows", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("sum(value) OVER (ORDER BY ", "value", ")", n)
        )
    }),
    ("many members", |n| {
        format!(
            "SELECT value FROM generate_series(1, 3) WHERE {}",
            list(n, " AND ", |n| format!("value IN (SELECT {n})"))
        )
    }),
    ("many exists", |n| {
        format!(
            "SELECT value FROM generate_series(1, 3) WHERE {}",
            list(n, " OR ", |n| format!("EXISTS (SELECT 1 WHERE {n} = 1)"))
        )
    }),
    ("many values of queries", |n| {
        format!(
            "SELECT {}",
            list(n, ", ", |n| format!("(SELECT {n}) AS c{n}"))
        )
    }),
    ("rows of queries", |n| {
        format!("VALUES {}", list(n, ", ", |n| format!("((SELECT {n}))")))
    }),
    ("coalesce", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("coalesce(", "value", ", 1)", n)
        )
    }),
    ("between booleans", |n| {
        format!(
            "{} FROM generate_series(1, 3)",
            chain("SELECT value > 1", " BETWEEN false AND true", n)
        )
    }),
    ("case in functions", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("abs(CASE WHEN value > 1 THEN ", "value", " END)", n)
        )
    }),
    ("case in sums", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("CASE WHEN value > 1 THEN 1 + ", "value", " END", n)
        )
    }),
    ("case of NULL", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("CASE WHEN (", "value", ") IS NULL THEN NULL END", n)
        )
    }),
    ("case of booleans", |n| {
        format!(
            "SELECT {} FROM generate_series(1, 3)",
            nest("CASE WHEN ", "value > 1", " THEN true ELSE false END", n)
        )
    }),
    ("many booleans", |n| {
        format!(
            "SELECT CASE {} ELSE false END FROM generate_series(1, 3)",
            list(n, " ", |n| format!("WHEN value = {n} THEN true"))
        )
    }),
    ("fields of elements", |n| chain("SELECT s", "[1].a", n)),
];

/// An expression of all kinds within each other.
fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return [
            "1", "'a'", "value", "NULL", "true", "1.5", "now()", "", ")", "SELECT",
        ][random.below(10)]
        .to_owned();
    }
    let inner = expression(random, depth - 1);
    let size = [1, 2, 3, 20][random.below(4)];
    match random.below(12) {
        0 => format!("({inner})"),
        1 => format!("CAST({inner} AS VARCHAR)"),
        2 => format!("CASE WHEN {inner} THEN {inner} END"),
        3 => list(size, " OR ", |_| inner.clone()),
        4 => format!("NOT {inner}"),
        5 => format!("abs({inner})"),
        6 => format!("[{inner}, {inner}]"),
        7 => format!("(SELECT {inner})"),
        8 => format!("{inner} IN ({inner})"),
        9 => format!(
            "{inner}{}",
            [" IS NULL", "::INT", "[1]", " + 1", " BETWEEN 1 AND 2"][random.below(5)].repeat(size)
        ),
        10 => format!("repeat({inner}, {inner})"),
        _ => format!("- {inner}"),
    }
}

/// A text, its name, and the ways in which it is tried.
struct Text {
    name: String,
    sql: String,
    ways: &'static [&'static str],
}

static WAYS: [&str; 3] = ["flight", "prepared", "console"];

fn texts() -> Vec<Text> {
    let rounds = std::env::var("ANABRANCH_FUZZ")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let (mut all, mut more) = (Vec::new(), Vec::new());
    for (place, (name, production)) in PRODUCTIONS.iter().enumerate() {
        let text = |size| Text {
            name: format!("{name} {size}"),
            sql: production(size),
            ways: &WAYS,
        };
        let way = place % WAYS.len();
        all.push(Text {
            ways: match rounds {
                Some(_) => &WAYS,
                None => &WAYS[way..=way],
            },
            ..text(45)
        });
        more.extend([text(600), text(20_000)]);
    }
    let mut random = Random::new(7);
    for round in 0..rounds.unwrap_or(60) {
        let depth = random.below(9);
        let text = expression(&mut random, depth);
        let sql = format!("SELECT {text} FROM generate_series(1, 3)");
        if sql.len() < 200_000 {
            let name = format!("random {round}");
            let ways = &WAYS;
            more.push(Text { name, sql, ways });
        }
    }
    let step = if rounds.is_some() { 1 } else { 5 };
    all.extend(more.into_iter().step_by(step));
    all
}

#[test]
fn no_statement_text_crashes_the_server() {
    let work = Workspace::new();
    let tables = work.file("tables.sql", TABLES);
    let mut served = TestServer::start(
        &work,
        &[
            tables,
            "--http",
            "127.0.0.1:0",
            "--statement-timeout",
            "60 seconds",
            "--statement-memory",
            "256MiB",
        ],
    );
    let texts: Vec<_> = texts()
        .into_iter()
        .map(|text| (text.name, text.sql, text.ways))
        .collect();
    work.file("texts.json", &serde_json::to_string(&texts).unwrap());
    let script = r#"
import json, os, urllib.request, urllib.error
texts = json.load(open(sys.argv[2]))
db = connect(**{"adbc.flight.sql.client_option.with_max_msg_size": str(64 << 20)})
own = connect()
def flight(sql):
    return rows(db, sql)
def prepared(sql):
    with db.cursor() as cur:
        return cur.adbc_prepare(sql)
def console(sql):
    body = json.dumps({"sql": sql, "id": "text"}).encode()
    request = urllib.request.Request("http://" + sys.argv[3] + "/api/query", body, {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code
# A job is at work meanwhile: what is added to its source is in its sink soon.
over, copied = threading.Event(), []
def feed():
    while not over.is_set():
        # A statement of its own may be ended by what a text holds: it is said again.
        number = len(copied)
        until(lambda: refused(rows, own, f"INSERT INTO seen VALUES ({number})"), lambda answer: answer.startswith("done"))
        is_there = f"SELECT count(*) > 0 FROM kept WHERE id = {number * 10}"
        until(lambda: refused(rows, own, is_there), lambda answer: answer == "done: [(True,)]")
        copied.append(number)
        time.sleep(0.2)
fed = []
feeder = threading.Thread(target=lambda: fed.append(refused(feed)), daemon=True)
feeder.start()
before = 0
def goes_on():
    return fed or len(copied) > before
alive = "SELECT count(*) FROM generate_series(1, 10)"
for number, (name, sql, ways) in enumerate(texts):
    for way in ways:
        answer = refused(globals()[way], sql)
        others = refused(rows, db, alive)
        if others != "done: [(10,)]":
            print(name, way, "|", answer[:200], "|", others, flush=True)
            os._exit(0)
    # Since some texts ago it has committed, or does so soon.
    if number % 20 == 19:
        until(goes_on, bool)
        before = len(copied)
over.set()
feeder.join()
print("alive", fed, len(copied) > 0)
"#;
    let path = work.path("texts.json").display().to_string();
    let console = served.console.clone().unwrap();
    let said = served.python(script, &[&path, &console]);
    let log = served.log.lock().unwrap().clone();
    let end = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
    assert_eq!(said, "alive ['done: None'] True\n", "{end}");
    assert!(served.process.try_wait().unwrap().is_none());
}

#[test]
fn no_statement_text_crashes_the_program() {
    let work = Workspace::new();
    for Text { name, sql, .. } in texts() {
        if name.ends_with(" 600") {
            continue;
        }
        work.file("text.sql", &sql);
        let ran = work.anabranch(&["run", "text.sql"]);
        let said: String = ran.err.chars().take(500).collect();
        assert!(
            matches!(ran.code, Some(0..=2)),
            "{name}: {:?} {said}",
            ran.code
        );
    }
}

/// Definitions that an earlier version stored are read at start.
#[test]
fn nested_views_are_limited() {
    let work = Workspace::new();
    let mut script = "CREATE VIEW v0 AS SELECT 1 AS a;\n".to_owned();
    for n in 1..=200 {
        let _ = writeln!(script, "CREATE VIEW v{n} AS SELECT a FROM v{};", n - 1);
    }
    work.file("views.sql", &script);
    let ran = work.anabranch(&["run", "views.sql"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("levels of views"), "{ran:?}");
}

/// Each view names the one before it twice: the last one that may be made can still be read.
#[test]
fn doubling_views_are_limited() {
    let work = Workspace::new();
    let mut script = "CREATE VIEW v0 AS SELECT 1 AS a;\n".to_owned();
    for n in 1..=40 {
        let from = n - 1;
        let _ = writeln!(
            script,
            "CREATE VIEW v{n} AS SELECT x.a FROM v{from} x, v{from} y;"
        );
    }
    work.file("views.sql", &script);
    let ran = work.anabranch(&["run", "views.sql"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains("views and common table expressions"),
        "{ran:?}"
    );
}
