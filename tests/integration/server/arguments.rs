//! Queries in arguments over Flight: they run when rows are fetched, and not before.

use super::TestServer;
use crate::support::Workspace;

#[test]
fn what_only_describes_a_statement_runs_no_query_of_it() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let script = r#"
import pyarrow.flight as plain
def varint(number):
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)
def field(number, value):
    return bytes([number * 8 + 2]) + varint(len(value)) + value
def described(sql):
    kind = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return plain.FlightDescriptor.for_command(field(1, kind) + field(2, field(1, sql.encode())))
db = connect()
rows(db, "CREATE EXTERNAL TABLE t (p BIGINT, o BIGINT) STORED AS DELTA LOCATION 't'")
rows(db, "INSERT INTO t VALUES (0, 0), (0, 1), (1, 0)")
# Each of these arguments divides by zero when it runs.
broken = [
    "SELECT p, o FROM t WHERE offsets_from(p, o, (SELECT CAST(1 / (count(*) - 3) AS VARCHAR) FROM t))",
    "SELECT p, o FROM t FOR TIMESTAMP AS OF (SELECT CASE WHEN 1 / (count(*) - 3) > 0 THEN now() END FROM t)",
]
for sql in broken:
    with db.cursor() as cur:
        cur.adbc_prepare(sql)
    rows(db, "EXPLAIN " + sql)
    rows(db, "DESCRIBE " + sql)
    rows(db, "CREATE OR REPLACE VIEW asked AS " + sql)
    with plain.connect("grpc://" + sys.argv[1]) as client:
        for text in [sql, "SELECT * FROM asked"]:
            assert client.get_schema(described(text)).schema.names == ["p", "o"], text
            info = client.get_flight_info(described(text))
            fetched = refused(lambda: client.do_get(info.endpoints[0].ticket).read_all())
            assert not fetched.startswith("done"), (text, fetched)
    for text in [sql, "SELECT * FROM asked", "EXPLAIN ANALYZE " + sql]:
        answer = refused(rows, db, text)
        assert not answer.startswith("done"), (text, answer)
resumed = "SELECT p, o FROM t WHERE offsets_from(p, o, (SELECT next_offsets(p, o) FROM t WHERE p = 0 AND o < ?)) ORDER BY p, o"
with db.cursor() as cur:
    cur.adbc_prepare(resumed)
    cur.execute(resumed, (1,))
    print(cur.fetchall())
print(rows(db, "SELECT count(*) FROM t FOR TIMESTAMP AS OF (SELECT now())"))
"#;
    let said = served.python(script, &[]);
    assert_eq!(said, "[(0, 1), (1, 0)]\n[(3,)]\n");
}
