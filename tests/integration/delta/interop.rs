//! The Python package `deltalake`, and through it PyArrow, reads what we write and the reverse.
//!
//! `tests/python/venv` installs the packages once; the tests fail if it cannot.

use super::*;
use crate::support::python;

#[tokio::test(flavor = "multi_thread")]
async fn python_reads_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let times = [Some(DAY + 1), Some(DAY + 10 * HOUR), None];
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();
    let shown = python(
        r#"
import sys
from deltalake import DeltaTable
table = DeltaTable(sys.argv[1])
print(table.version(), table.metadata().partition_columns)
print([(field.name, field.type.type) for field in table.schema().fields][:5])
rows = table.to_pyarrow_table().sort_by("offset")
print(rows.schema.field("value").type, rows.schema.field("event_time").type)
for row in rows.to_pylist():
    print(row["value"], row["event_time"], row["year"], row["hour"])
print(len(table.to_pyarrow_table(partitions=[("hour", "=", "10")])))
print(len(table.to_pyarrow_table(filters=[("offset", ">", 0)])))
"#,
        &[dir.path().to_str().unwrap()],
    );
    insta::assert_snapshot!(shown, @r#"
    1 ['year', 'month', 'day', 'hour']
    [('value', 'string'), ('partition', 'integer'), ('offset', 'long'), ('event_time', 'timestamp'), ('year', 'integer')]
    string timestamp[us, tz=UTC]
    {"n":0} 2025-09-04 00:00:00.000001+00:00 2025 0
    {"n":1} 2025-09-04 10:00:00+00:00 2025 10
    {"n":2} None None None
    1
    2
    "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_appends_to_our_table_and_we_to_its() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    python(
        r#"
import sys, datetime as dt, pyarrow as pa
from deltalake import write_deltalake
day = dt.datetime(2025, 9, 4, tzinfo=dt.timezone.utc)
rows = pa.table({
    "id": pa.array([1, 2, 3], pa.int64()),
    "at": pa.array([day, day + dt.timedelta(microseconds=1), None], pa.timestamp("us", "UTC")),
    "tags": pa.array([["a", None], [], None], pa.list_(pa.string())),
    "kind": pa.array(["x", "y z", None]),
})
write_deltalake(sys.argv[1], rows, partition_by=["kind"])
"#,
        &[folder.to_str().unwrap()],
    );
    let handle = DeltaTableHandle::create_or_open(open(&folder))
        .await
        .unwrap();
    run(
        &session(&handle).await,
        "INSERT INTO t VALUES (4, '2025-09-04T12:00:00Z', ['b'], 'y z'), (5, NULL, NULL, NULL)",
    )
    .await
    .unwrap();
    let shown = python(
        r#"
import sys, pyarrow as pa
from deltalake import DeltaTable, write_deltalake
write_deltalake(sys.argv[1], pa.table({"id": [6], "kind": ["x"]}), mode="append", schema_mode="merge")
for row in DeltaTable(sys.argv[1]).to_pyarrow_table().sort_by("id").to_pylist():
    print(row["id"], row["at"], row["tags"], row["kind"])
"#,
        &[folder.to_str().unwrap()],
    );
    insta::assert_snapshot!(shown, @r"
    1 2025-09-04 00:00:00+00:00 ['a', None] x
    2 2025-09-04 00:00:00.000001+00:00 [] y z
    3 None None None
    4 2025-09-04 12:00:00+00:00 ['b'] y z
    5 None None None
    6 None None x
    ");
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 6);
    assert_eq!(
        number(
            &handle,
            "SELECT sum(id) FROM t WHERE kind = 'y z' AND at IS NOT NULL"
        )
        .await,
        6
    );
}
