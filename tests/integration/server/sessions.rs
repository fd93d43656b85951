//! Settings that a client makes for its own session.

use super::TestServer;
use super::rights::users;
use crate::support::Workspace;

#[test]
fn settings_last_as_long_as_the_session() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    let said = served.python(
        r#"
ann, other, cookies = connect("reader", "reader-pw"), connect("reader", "reader-pw"), connect("writer", "writer-pw", cookies=True)
hour = "SELECT date_part('hour', CAST(to_timestamp('2025-07-01T12:00:00') AS TIMESTAMP))"
zone = "SHOW datafusion.execution.time_zone"
print(rows(ann, "SET TIME ZONE 'Europe/Paris'"), rows(ann, zone), rows(other, zone))
# The same text means what the session says, whoever has sent it before.
print([rows(db, hour) for db in (ann, other, ann, other)], [rows(db, "SELECT 1") for db in (ann, other, ann, other)])
print(rows(ann, "RESET time_zone"), rows(ann, zone))
for sql in ["SET time_zone = 'Mars'", "SET schema = 'other'", "SET datafusion.runtime.memory_limit = '1G'", "SET ROLE admin",
    "SET statement_timeout = '1 second'", "SELECT count(*) FROM generate_series(1, 100000000000)", "SET statement_timeout = 0"]:
    print(sql, "|", refused(rows, ann, sql))
def types(db):
    sql = "SELECT arrow_cast('v', 'Utf8View') AS v, 'x' AS t"
    with db.cursor() as cur:
        schema = cur.adbc_execute_schema(sql)
        cur.execute(sql)
        found = cur.fetch_arrow_table().schema
        assert found.equals(schema)
        return [str(field.type) for field in found]
print(types(ann), rows(ann, "SET view_types = true"), types(ann), types(other))
print(ann.adbc_current_catalog, ann.adbc_current_db_schema)
ann.adbc_current_catalog = "anabranch"
ann.adbc_current_db_schema = "public"
def choose(schema):
    ann.adbc_current_db_schema = schema
print(refused(choose, "elsewhere"))
print(types(cookies), rows(cookies, "SET view_types = true"), types(cookies))
"#,
        &[],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn a_client_without_a_session_gets_a_hint() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    // Nanoseconds are of the type of pandas.
    let said = served.python_with_frames(
        r#"
print(refused(rows, connect(), "SET TIME ZONE 'Europe/Paris'"))
db = connect(cookies=True)
db.adbc_current_catalog = "anabranch"
print(rows(db, "SET TIME ZONE 'Europe/Paris'"), rows(db, "SHOW datafusion.execution.time_zone"))
# The first call of a client with cookies may be the one that sets something.
fresh = connect(cookies=True)
print(rows(fresh, "SET TIME ZONE 'Asia/Tokyo'"), rows(fresh, "SHOW datafusion.execution.time_zone"))
def with_headers(**headers):
    headers = {"adbc.flight.sql.rpc.call_header.anabranch-" + name.replace("_", "-"): value for name, value in headers.items()}
    return connect(**headers)
def unit(db, sql):
    with db.cursor() as cur:
        cur.execute(sql)
        table = cur.fetch_arrow_table()
        return str(table.schema.field(0).type), table.column(0).to_pylist()
grafana = with_headers(timestamp_unit="nanosecond", time_zone="Europe/Paris")
at = "SELECT arrow_cast(TIMESTAMP '2025-01-01T10:00:00', 'Timestamp(Microsecond, None)') AS at"
print(unit(connect(), at), unit(grafana, at), rows(grafana, "SHOW datafusion.execution.time_zone"))
print(refused(unit, grafana, "SELECT arrow_cast(9000000000000000000, 'Timestamp(Microsecond, None)') AS at"))
print(refused(rows, with_headers(colour="red"), "SELECT 1"))
print(unit(with_headers(timestamp_zone="none"), "SELECT TIMESTAMP '2025-01-01T10:00:00+02:00' AS at"))
named = connect("anyone", "anything")
print(rows(named, "SET TIME ZONE 'Asia/Tokyo'"), rows(named, "SHOW datafusion.execution.time_zone"))
"#,
        &[],
    );
    insta::assert_snapshot!(said);
}
