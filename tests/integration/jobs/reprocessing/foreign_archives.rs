//! Runs over archives that other programs wrote: timestamps of other units, mapped columns, files by date, and no statistics.

use super::{FROM, Past, TO, reprocess};
use crate::support::python;
use crate::topics::produce_in;

/// Reads the records and gives each its day: the beginning of both scripts.
const RECORDS: &str = r#"
import sys, json, datetime as dt, pyarrow as pa
def instant(text):
    time = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=dt.timezone.utc)
records = [json.loads(line) for line in open(sys.argv[1])]
for record in records:
    record["timestamp"] = instant(record["timestamp"])
    record["day"] = instant(json.loads(record["value"])["t"]).date()
folder = sys.argv[2]
"#;

/// As Spark writes a table with mapped columns and without statistics: timestamps are INT96, and names in files are not those of columns.
const LIKE_SPARK: &str = r#"
import os, pyarrow.parquet as pq
types = {"value": "string", "partition": "integer", "offset": "long", "timestamp": "timestamp", "day": "date"}
columns = [pa.string(), pa.int32(), pa.int64(), pa.timestamp("us", "UTC")]
fields = [
    {"name": name, "type": type, "nullable": True, "metadata": {
        "delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"col-{number}"}}
    for number, (name, type) in enumerate(types.items(), 1)
]
actions = [
    {"commitInfo": {"timestamp": 1764000000000, "operation": "WRITE", "engineInfo": "as Spark does it"}},
    {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}},
    {"metaData": {
        "id": "0f9c7b9e-3c27-4a52-9f3b-6a7f3c1d2e44", "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}), "partitionColumns": ["day"],
        "configuration": {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "5"},
        "createdTime": 1764000000000}},
]
for day in sorted({record["day"] for record in records}):
    of_day = [record for record in records if record["day"] == day]
    # The rows of a file have any order.
    of_day.sort(key=lambda record: record["value"])
    os.makedirs(f"{folder}/col-5={day}")
    for number, first in enumerate(range(0, len(of_day), 40)):
        rows = of_day[first:first + 40]
        arrays = [pa.array([row[name] for row in rows], type) for name, type in zip(types, columns)]
        table = pa.table(arrays, names=[f"col-{number}" for number in range(1, 5)])
        path = f"col-5={day}/part-{number}.parquet"
        pq.write_table(table, f"{folder}/{path}", use_deprecated_int96_timestamps=True, store_schema=False)
        actions.append({"add": {
            "path": path, "partitionValues": {"col-5": str(day)}, "size": os.path.getsize(f"{folder}/{path}"),
            "modificationTime": 1764000000000, "dataChange": True}})
os.makedirs(f"{folder}/_delta_log")
with open(f"{folder}/_delta_log/{0:020}.json", "w") as log:
    log.write("\n".join(json.dumps(action) for action in actions))
"#;

/// As the `deltalake` package writes it, from timestamps in milliseconds, in two commits.
const BY_PACKAGE: &str = r#"
from deltalake import write_deltalake
half = len(records) // 2
for part in [records[:half], records[half:]]:
    column = lambda name, type: pa.array([record[name] for record in part], type)
    rows = pa.table({
        "value": column("value", pa.string()), "partition": column("partition", pa.int64()),
        "offset": column("offset", pa.int64()), "timestamp": column("timestamp", pa.timestamp("ms", "UTC")),
        "day": column("day", pa.date32()),
    })
    write_deltalake(folder, rows, mode="append", partition_by=["day"])
"#;

/// Visits of two days; the archive is written by a script, and then the topic has none of them.
fn archived_by(name: &str, script: &str) -> Past {
    let past = Past::new(name, "");
    past.visit(0..120, true);
    let (bootstrap, source) = (&past.pipeline.bootstrap, &past.pipeline.source);
    for partition in 0..2 {
        let visit = format!("{{\"k\":{partition},\"t\":\"2025-01-02T00:00:05Z\"}}");
        produce_in(bootstrap, source, partition, &[visit]);
    }
    let records = past.sql(&[
        "SELECT value, partition, \"offset\", \"timestamp\" FROM messages ORDER BY partition, \"offset\"",
    ]);
    let work = &past.pipeline.work;
    work.file("records.ndjson", &records.ok().out);
    let [from, to] = ["records.ndjson", "foreign"].map(|name| work.path(name));
    let script = format!("{RECORDS}{script}");
    python(&script, &[from.to_str().unwrap(), to.to_str().unwrap()]);
    past
}

/// From now on the archive is the one that the script wrote.
fn use_foreign(past: &Past) {
    let work = &past.pipeline.work;
    let tables = std::fs::read_to_string(work.path("tables.sql")).unwrap();
    let own = "visits_raw (value VARCHAR, partition INT, \"offset\" BIGINT, \"timestamp\" TIMESTAMP) STORED AS DELTA LOCATION 'visits_raw'";
    assert!(tables.contains(own), "{tables}");
    let tables = tables.replace(own, "visits_raw STORED AS DELTA LOCATION 'foreign'");
    let by_day = "'archive' 'visits_raw', 'archive.event_time' 'day'";
    work.file(
        "tables.sql",
        &tables.replace("'archive' 'visits_raw'", by_day),
    );
    past.forget();
    let left = "SELECT count(*) AS n FROM messages";
    assert_eq!(past.rows(left), ["{\"n\":0}"]);
}

fn check(name: &str, script: &str) {
    let past = archived_by(name, script);
    let jobs = ["tumbling", "sessions"];
    let expected = jobs.map(|job| past.whole(job, FROM, TO));
    use_foreign(&past);
    for (job, expected) in jobs.into_iter().zip(expected) {
        assert!(expected.len() > 8, "{expected:?}");
        past.pipeline.catch_up(&format!("{job}.sql")).ok();
        past.sql(&[&reprocess(job, job)]).ok();
        assert_eq!(past.rows_of_run(job, job), expected, "{job}");
    }
    past.pipeline.catch_up("rows.sql").ok();
    let order = "REPROCESS JOB rows OFFSETS FROM '{\"visits\":{\"0\":7,\"1\":-2}}' TO '{\"visits\":{\"0\":12,\"1\":3}}' \
                 EMIT ALL WITH ('run_id' 'rows')";
    past.sql(&[order]).ok();
    let of_offsets = "SELECT k, t AS s, t AS e, o AS n FROM visits WHERE (p = 0 AND o >= 7 AND o < 12) OR (p = 1 AND o < 3)";
    let expected = past.rows(of_offsets);
    assert_eq!(expected.len(), 8, "{expected:?}");
    assert_eq!(past.rows_of_run("rows", "rows"), expected);
}

#[test]
fn a_run_reads_an_archive_as_spark_writes_it() {
    check("run-spark", LIKE_SPARK);
}

#[test]
fn a_run_reads_an_archive_of_the_deltalake_package() {
    check("run-deltalake", BY_PACKAGE);
}
