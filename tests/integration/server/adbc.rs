//! ADBC for Python: the driver that pandas, polars and dbt-like tools use.

use super::{TestServer, WITHOUT_FRAMES};
use crate::support::{Workspace, python};

/// Runs a script with `db`, a connection, and `cur`, a cursor of it.
fn adbc(served: &TestServer, script: &str) -> String {
    let prelude = r#"
import sys, adbc_driver_flightsql.dbapi as flight, adbc_driver_manager as manager
db = flight.connect("grpc://" + sys.argv[1], autocommit=True)
cur = db.cursor()
def rows(sql):
    cur.execute(sql)
    return cur.fetchall()
def refused(sql):
    try:
        cur.execute(sql)
        cur.fetchall()
    except Exception as error:
        print(type(error).__name__, str(error).split("; ")[0].split("\n")[0])
    else:
        print("done")
"#;
    let end = "\ncur.close()\ndb.close()\n";
    let whole = [WITHOUT_FRAMES, prelude, script, end].concat();
    python(&whole, &[&served.address])
}

/// The start of a script with `client`, which knows Flight alone, and `descriptor` for the text of a statement.
const RAW: &str = r#"
import sys, pyarrow.flight as raw
client = raw.connect("grpc://" + sys.argv[1])
def text(field, value):
    value = value.encode()
    return bytes([field << 3 | 2]) + varint(len(value)) + value
def varint(n):
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out
def descriptor(sql):
    url = "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    query = text(1, sql)
    return raw.FlightDescriptor.for_command(text(1, url) + bytes([2 << 3 | 2]) + varint(len(query)) + query)
"#;

#[test]
fn queries_give_rows_of_every_type() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = adbc(
        &served,
        r#"
print(rows("SELECT 1 AS one, 'text' AS t, NULL AS nothing, true AS yes, 1.5 AS half"))
cur.execute("""SELECT CAST(1.25 AS DECIMAL(10, 2)) AS d, DATE '2025-01-02' AS day, TIMESTAMP '2025-01-02T03:04:05.000006' AS at,
    INTERVAL '1 day' AS i, [1, 2] AS list, named_struct('a', 1) AS s, X'00ff' AS b, arrow_cast('v', 'Utf8View') AS v""")
table = cur.fetch_arrow_table()
print([str(field.type) for field in table.schema])
print(table.to_pylist()[0])
cur.execute("SELECT 1 AS a WHERE false")
table = cur.fetch_arrow_table()
print(table.num_rows, table.schema.names)
cur.execute("SELECT value, concat('row ', CAST(value AS VARCHAR)) AS text FROM generate_series(1, 1000000)")
table = cur.fetch_arrow_table()
print(table.num_rows, sum(table["value"].to_pylist()), max(table["text"].to_pylist(), key=len))
print(cur.adbc_execute_schema("SELECT 1 AS one, 'x' AS two"))
"#,
    );
    insta::assert_snapshot!(said);
}

#[test]
fn tables_are_created_filled_and_described() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = adbc(
        &served,
        r#"
cur.execute("CREATE EXTERNAL TABLE people (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION 'people'")
print(rows("INSERT INTO people VALUES (1, 'one'), (2, 'two')"))
print(rows("SELECT * FROM people ORDER BY id"))
cur.execute("CREATE VIEW names AS SELECT name FROM people")
print(rows("SELECT count(*) FROM names"))
cur.executescript("INSERT INTO people VALUES (3, 'three')")
print(rows("SELECT count(*) FROM people"))
objects = db.adbc_get_objects(depth="columns", table_name_filter="peop%").read_all().to_pylist()
for catalog in objects:
    for schema in catalog["catalog_db_schemas"]:
        for table in schema["db_schema_tables"]:
            print(catalog["catalog_name"], schema["db_schema_name"], table["table_name"], table["table_type"],
                  [column["column_name"] for column in table["table_columns"]])
print(db.adbc_get_table_schema("people"))
print(sorted(db.adbc_get_table_types()))
for types in [["TABLE"], ["table", "BASE TABLE"], ["view"], ["SYSTEM TABLE"]]:
    found = db.adbc_get_objects(depth="tables", table_types_filter=types).read_all().to_pylist()
    print(types, [[(schema["db_schema_name"], table["table_name"]) for schema in catalog["catalog_db_schemas"] for table in schema["db_schema_tables"]] for catalog in found])
print(db.adbc_get_info()["vendor_name"])
print(rows("SHOW TABLES"))
"#,
    );
    insta::assert_snapshot!(said);
}

#[test]
fn values_are_bound_not_spliced() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = adbc(
        &served,
        r#"
import datetime
cur.execute("SELECT ? + 1 AS n, ? AS t, ? AS b, ? AS x", (41, "it's; DROP TABLE t --", True, b"\x00\xff"))
print(cur.fetchall())
cur.execute("SELECT $2 || '/' || $1 AS t", ("a", "b"))
print(cur.fetchall())
cur.execute("CREATE EXTERNAL TABLE bound (id BIGINT, at TIMESTAMP, name VARCHAR) STORED AS DELTA LOCATION 'bound'")
day = datetime.datetime(2025, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
cur.executemany("INSERT INTO bound VALUES (?, ?, ?)", [(n, day + datetime.timedelta(hours=n), None if n == 2 else f"n{n}") for n in range(1, 4)])
print(cur.rowcount)
print(rows("SELECT * FROM bound ORDER BY id"))
cur.execute("SELECT id FROM bound WHERE at > ? AND id < ?", (day + datetime.timedelta(hours=1), 3))
print(cur.fetchall())
cur.execute("SELECT id FROM bound LIMIT ?", (2,))
print(len(cur.fetchall()))
try:
    cur.execute("SELECT ?, ?", (1,))
except Exception as error:
    print(str(error).split(" (")[0])
cur.execute("SELECT 1 WHERE 1 = ?", (1,))
print(cur.fetchall())
"#,
    );
    insta::assert_snapshot!(said);
}

/// Bound values keep their types and every digit, in a result and in a table (VALUE-1).
#[test]
fn value_1_values_are_bound_as_they_are() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = served.python(
        r#"
import datetime, decimal
given = pyarrow.record_batch({
    "wide": pyarrow.array([decimal.Decimal("12345678901234567890.123456789012345678")], pyarrow.decimal128(38, 18)),
    "price": pyarrow.array([decimal.Decimal("1.10")], pyarrow.decimal128(10, 2)),
    "day": pyarrow.array([datetime.date(9999, 12, 31)], pyarrow.date32()),
    "nan": pyarrow.array([float("nan")], pyarrow.float64()),
    "tiny": pyarrow.array([1e-310], pyarrow.float64()),
    "whole": pyarrow.array([9007199254740993], pyarrow.int64())})
def alike(one, other):
    return one == other or one != one and other != other
def compare(found):
    found, wanted = found.combine_chunks(), pyarrow.Table.from_batches([given])
    rows = [list(table.to_pylist()[0].values()) for table in (found, wanted)]
    is_same = found.schema.types == wanted.schema.types and all(alike(*pair) for pair in zip(*rows))
    print("as it was" if is_same else (found.schema.types, rows))
db = connect()
with db.cursor() as cur:
    cur.execute("SELECT ? AS wide, ? AS price, ? AS day, ? AS nan, ? AS tiny, ? AS whole", given)
    compare(cur.fetch_arrow_table())
    cur.execute("CREATE EXTERNAL TABLE kept (wide DECIMAL(38, 18), price DECIMAL(10, 2), day DATE, nan DOUBLE, tiny DOUBLE, whole BIGINT) "
        "STORED AS DELTA LOCATION 'kept'")
    cur.executemany("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?)", given)
    cur.execute("SELECT * FROM kept")
    compare(cur.fetch_arrow_table())
    cur.execute("SELECT count(*) FROM kept WHERE wide = ? AND price = ? AND day = ? AND nan = ? AND tiny = ? AND whole = ?", given)
    print(cur.fetchall())
"#,
        &[],
    );
    assert_eq!(said, "as it was\nas it was\n[(1,)]\n");
}

/// All rows that are bound to an INSERT are one statement: either all are there, or none is.
#[test]
fn many_bound_rows_are_one_commit() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = served.python(
        r#"
db = connect()
rows(db, "CREATE EXTERNAL TABLE bound (id BIGINT NOT NULL, name VARCHAR) STORED AS DELTA LOCATION 'bound'")
def insert(values):
    with db.cursor() as cur:
        cur.executemany("INSERT INTO bound VALUES (?, ?)", values)
def stands():
    return rows(db, "SELECT count(*), sum(id) FROM bound"), len(rows(db, "DESCRIBE HISTORY bound"))
before = stands()
insert([(n, f"n{n}") for n in range(100)])
print(before, stands())
print(refused(insert, [(n if n != 70 else None, "x") for n in range(100)]).startswith("done"), stands())
"#,
        &[],
    );
    let (none, all) = ("[(0, None)]", "[(100, 4950)]");
    assert_eq!(said, format!("({none}, 1) ({all}, 2)\nFalse ({all}, 2)\n"));
}

/// At each start of a server a table in memory would be created again, with other rows, and inserted rows would be
/// gone.
#[test]
fn tables_in_memory_are_refused() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = served.python(
        r#"
db = connect()
for sql in ["CREATE TABLE q AS SELECT 1 AS n", "CREATE OR REPLACE TABLE q AS VALUES (1)", "CREATE TABLE IF NOT EXISTS q AS SELECT 1 AS n"]:
    print(refused(rows, db, sql))
print(refused(rows, db, "SELECT * FROM q"))
"#,
        &[],
    );
    let lines: Vec<&str> = said.lines().collect();
    let (last, made) = lines.split_last().unwrap();
    assert_eq!(made.len(), 3, "{said}");
    for line in made {
        assert!(line.contains("makes a table in memory"), "{line}");
    }
    assert!(!last.starts_with("done"), "{last}");
}

#[test]
fn errors_name_their_kind_and_place() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = adbc(
        &served,
        r#"
for sql in ["SELEC 1", "SELECT nothing FROM nowhere", "SELECT\n  1 / 0", "", "SELECT 1; SELECT 2", "SELECT unknown(1)",
            "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION 't'",
            "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION 't'",
            "SUBSCRIBE SELECT 1", "SELECT $1", "SET datafusion.execution.batch_size = 7"]:
    refused(sql)
print(rows("SELECT 1"))
"#,
    );
    insta::assert_snapshot!(said);
}

/// A result is fetched as often as a client wants; an INSERT is done once.
#[test]
fn tickets_can_be_fetched_again() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
def twice(sql):
    info = client.get_flight_info(descriptor(sql))
    assert len(info.endpoints) == 1 and not info.endpoints[0].locations
    read = [client.do_get(info.endpoints[0].ticket).read_all() for _ in range(2)]
    assert all(table.schema.equals(info.schema) for table in read)
    print([table.to_pylist() for table in read])
twice("SELECT 1 AS one")
twice("CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION 't'")
twice("INSERT INTO t VALUES (1)")
twice("SELECT count(*) AS n FROM t")
ticket = bytearray(client.get_flight_info(descriptor("SELECT 2")).endpoints[0].ticket.ticket)
ticket[-1] ^= 1
for bad in [bytes(ticket), b"", b"nonsense"]:
    try:
        client.do_get(raw.Ticket(bad)).read_all()
    except Exception as error:
        print(type(error).__name__, str(error).split(";")[0].split(".")[0])
print(sorted(action.type for action in client.list_actions()))
"#;
    let said = python(&[RAW, script].concat(), &[&served.address]);
    insta::assert_snapshot!(said);
}

/// A driver is told the type of a parameter by the column beside it, also of lists and in the clauses of a MERGE.
#[test]
fn parameters_are_announced_with_the_types_of_columns() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = adbc(
        &served,
        r#"
import datetime, decimal
rows("CREATE EXTERNAL TABLE t (id BIGINT, a INT, s VARCHAR, d DATE, price DECIMAL(10, 2)) STORED AS DELTA LOCATION 't'")
rows("INSERT INTO t VALUES (1, 1, 'x', DATE '2025-01-01', 1), (2, 5, 'y', DATE '2025-01-02', 2)")
MERGE = ("MERGE INTO t USING (VALUES (CAST(1 AS BIGINT)), (3)) AS v (k) ON t.id = v.k AND t.id <> ? "
    "WHEN MATCHED THEN UPDATE SET a = ?, s = ?, d = ?, price = ? WHEN NOT MATCHED THEN INSERT (id, a) VALUES (v.k, ?)")
merged = ["int64", "int32", "string", "date32[day]", "decimal128(10, 2)", "int32"]
for sql, expected in [
    ("SELECT id FROM t WHERE a = ANY(?) AND a <> ANY(?)", ["list<item: int32>"] * 2),
    ("SELECT id FROM t WHERE d > SOME(?) AND s <= ALL(?)", ["list<item: date32[day]>", "list<item: string>"]),
    ("SELECT id FROM t WHERE price >= ALL(?) AND id < ?", ["list<item: decimal128(10, 2)>", "int64"]),
    ("DELETE FROM t WHERE a <> ANY(?)", ["list<item: int32>"]),
    ("UPDATE t SET price = ? WHERE d < ALL(?)", ["decimal128(10, 2)", "list<item: date32[day]>"]),
    (MERGE, merged),
    ("EXPLAIN ANALYZE " + MERGE, merged),
]:
    announced = [str(field.type) for field in cur.adbc_prepare(sql)]
    assert announced == expected, (sql, announced)
def bound(sql, *values):
    cur.execute(sql, values)
    return cur.fetchall()
print(bound("SELECT id FROM t WHERE a <> ANY(?) ORDER BY id", [1]), bound("SELECT id FROM t WHERE a > SOME(?) ORDER BY id", [0, 9]))
print(bound(MERGE, 7, 3, "z", datetime.date(2025, 2, 3), decimal.Decimal("1.25"), 4))
for row in rows("SELECT * FROM t ORDER BY id"): print(row)
"#,
    );
    assert_eq!(
        said,
        "[(2,)] [(1,), (2,)]\n\
         []\n\
         (1, 3, 'z', datetime.date(2025, 2, 3), Decimal('1.25'))\n\
         (2, 5, 'y', datetime.date(2025, 1, 2), Decimal('2.00'))\n\
         (3, 4, None, None, None)\n"
    );
}

/// EXPLAIN ANALYZE of a statement that changes rows changes them once, however often its rows are fetched; EXPLAIN changes none.
#[test]
fn explained_changes_are_made_once() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
def fetched(sql, times):
    info = client.get_flight_info(descriptor(sql))
    read = [client.do_get(info.endpoints[0].ticket).read_all() for _ in range(times)]
    assert all(table.schema.equals(info.schema) for table in read), sql
    return info.schema, read
def ids():
    [table] = fetched("SELECT id FROM t ORDER BY id", 1)[1]
    return table["id"].to_pylist()
def commits():
    [table] = fetched("DESCRIBE HISTORY t", 1)[1]
    return table.num_rows
statements = [
    ("INSERT INTO t VALUES (2)", [1, 2]),
    ("UPDATE t SET id = id + 10", [11, 12]),
    ("MERGE INTO t USING (VALUES (12), (13)) AS s (k) ON t.id = s.k WHEN MATCHED THEN UPDATE SET id = s.k * 10 "
     "WHEN NOT MATCHED THEN INSERT VALUES (s.k)", [11, 13, 120]),
    ("DELETE FROM t WHERE id > 100", [11, 13]),
]
fetched("CREATE EXTERNAL TABLE t (id BIGINT) STORED AS DELTA LOCATION 't'", 1)
fetched("INSERT INTO t VALUES (1)", 1)
for sql, after in statements:
    before, made = ids(), commits()
    columns = client.get_schema(descriptor("EXPLAIN ANALYZE " + sql)).schema
    for plain in ["EXPLAIN ", "EXPLAIN VERBOSE ", "EXPLAIN (ANALYZE FALSE) "]:
        assert fetched(plain + sql, 2)[1][0].num_rows > 0, sql
    assert (ids(), commits()) == (before, made), sql
    schema, [one, other] = fetched("EXPLAIN ANALYZE " + sql, 2)
    assert columns.equals(schema) and schema.names == ["plan_type", "plan"], (columns, schema)
    # The same times: it did not run again.
    assert one.equals(other) and "Delta" in one["plan"][0].as_py(), one
    assert (ids(), commits()) == (after, made + 1), (sql, ids(), commits())
import adbc_driver_flightsql.dbapi as adbc
with adbc.connect("grpc://" + sys.argv[1], autocommit=True) as db, db.cursor() as cur:
    for sql, values in [
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (?)", (14,)),
        ("EXPLAIN ANALYZE UPDATE t SET id = id + ? WHERE id = 14", (1,)),
        ("EXPLAIN ANALYZE DELETE FROM t WHERE id = ?", (15,)),
    ]:
        made = commits()
        cur.adbc_prepare(sql)
        assert commits() == made, sql
        cur.execute(sql, values)
        [(kind, plan)] = cur.fetchall()
        assert "Delta" in plan, plan
        assert commits() == made + 1, (sql, made, commits())
print(ids())
"#;
    let said = python(&[WITHOUT_FRAMES, RAW, script].concat(), &[&served.address]);
    assert_eq!(said, "[11, 13]\n");
}
