//! ADBC for Python: the driver that pandas, polars and dbt-like tools use.

use super::{Served, WITHOUT_FRAMES};
use crate::support::{Workspace, python};

/// Runs a script with `db`, a connection, and `cur`, a cursor of it.
fn adbc(served: &Served, script: &str) -> String {
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

#[test]
fn queries_give_rows_of_every_type() {
    let work = Workspace::new();
    let served = Served::start(&work, &[]);
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
fn tables_are_made_filled_and_described() {
    let work = Workspace::new();
    let served = Served::start(&work, &[]);
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
    let served = Served::start(&work, &[]);
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

#[test]
fn errors_name_their_kind_and_place() {
    let work = Workspace::new();
    let served = Served::start(&work, &[]);
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
    let served = Served::start(&work, &[]);
    let said = python(
        r#"
import sys, pyarrow.flight as flight
client = flight.connect("grpc://" + sys.argv[1])
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
    return flight.FlightDescriptor.for_command(text(1, url) + bytes([2 << 3 | 2]) + varint(len(query)) + query)
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
        client.do_get(flight.Ticket(bad)).read_all()
    except Exception as error:
        print(type(error).__name__, str(error).split(";")[0].split(".")[0])
print(sorted(action.type for action in client.list_actions()))
"#,
        &[&served.address],
    );
    insta::assert_snapshot!(said);
}
