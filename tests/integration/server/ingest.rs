//! Bulk ingest: rows of a client into a Delta or Kafka table.

use super::TestServer;
use crate::support::{Workspace, kafka, topic};

#[test]
fn rows_are_loaded_in_every_mode() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
import datetime, decimal
db = connect()
def load(name, table, mode, **given):
    with db.cursor() as cur:
        return cur.adbc_ingest(name, table, mode=mode, **given)
two = pyarrow.table({"id": [1, 2], "name": ["a", None]})
for name, mode in [("t", "append"), ("t", "create"), ("t", "create"), ("t", "append"), ("t", "create_append"), ("u", "create_append"), ("t", "replace")]:
    print(name, mode, "|", refused(load, name, two, mode), "|", refused(rows, db, f"SELECT count(*) FROM {name}"))
print(refused(load, "t", pyarrow.table({"name": ["x"]}), "append"), rows(db, "SELECT * FROM t ORDER BY name"))
print(refused(load, "t", pyarrow.table({"nothing": ["x"]}), "append"))
print(refused(load, "t", pyarrow.table({"id": ["x"]}), "append"), rows(db, "SELECT count(*) FROM t"))
print(refused(load, "wrong", pyarrow.table({"id": pyarrow.array([datetime.time(1)])}), "create"), refused(rows, db, "SELECT 1 FROM wrong"))
print(refused(load, "other", two, "create", db_schema_name="elsewhere"), refused(load, "other", two, "create", temporary=True))
print(refused(load, "it's \"quoted\"", two, "create"), rows(db, 'SELECT count(*) FROM "it\'s ""quoted"""'))
every = pyarrow.table({
    "b": [True, None], "i8": pyarrow.array([1, None], pyarrow.int8()), "u8": pyarrow.array([255, None], pyarrow.uint8()),
    "u64": pyarrow.array([2**64 - 1, None], pyarrow.uint64()), "f": pyarrow.array([0.5, None], pyarrow.float32()),
    "d": pyarrow.array([decimal.Decimal("1.25"), None], pyarrow.decimal128(10, 2)), "t": ["x", None], "lt": pyarrow.array(["x", None], pyarrow.large_string()),
    "vt": pyarrow.array(["x", None], pyarrow.string_view()), "x": [b"\x00", None], "day": [datetime.date(2025, 1, 2), None],
    "s": pyarrow.array([1, None], pyarrow.timestamp("s")), "ns": pyarrow.array([1_000, None], pyarrow.timestamp("ns", "Europe/Paris")),
    "list": [[1, None], None], "struct": [{"a": 1, "b": ["y"]}, None], "dict": pyarrow.array(["k", None]).dictionary_encode()})
print(load("every", every, "create"))
with db.cursor() as cur:
    cur.execute("SELECT * FROM every")
    found = cur.fetch_arrow_table()
print([f"{field.name} {field.type}" for field in found.schema])
print(found.to_pylist()[0] if found.to_pylist()[0]["b"] else found.to_pylist()[1])
many = pyarrow.table({"id": range(1_000_000)})
print(load("many", many, "create"), rows(db, "SELECT count(*), sum(id) FROM many"))
"#;
    insta::assert_snapshot!(served.python(script, &[]));
    assert_eq!(served.stop(), Some(0));
    // Tables that were made for the rows are there after a restart.
    let served = TestServer::start(&work, &[]);
    let again = r#"print(rows(connect(), "SELECT count(*), sum(id) FROM many"))"#;
    assert_eq!(served.python(again, &[]), "[(1000000, 499999500000)]\n");
}

#[test]
fn rows_are_loaded_into_a_topic() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
db = connect()
rows(db, f"CREATE EXTERNAL TABLE t (id BIGINT, name VARCHAR, PRIMARY KEY (id) NOT ENFORCED) STORED AS KAFKA LOCATION '{sys.argv[3]}' "
    f"OPTIONS ('kafka.bootstrap.servers' '{sys.argv[2]}', 'format' 'json', 'topic.partitions' '1')")
with db.cursor() as cur:
    print(cur.adbc_ingest("t", pyarrow.table({"name": ["a", "b"], "id": [1, 2]}), mode="append"))
print(sorted(rows(db, "SELECT id, name FROM t")))
"#;
    let said = served.python(script, &[&kafka(), &topic("ingest")]);
    assert_eq!(said, "2\n[(1, 'a'), (2, 'b')]\n");
}
