//! Runs and their changes as rows.

use datafusion::arrow::array::{Float64Array, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::core::jobs::{BatchVersion, ChunkExtent, LogEntry, RunEvent};
use crate::core::runs::spec::fixture::spec;
use crate::core::runs::{FloatTolerance, TimeRange, chunk_progress, difference::Difference};

use crate::store::{JobStore, RunCreation};
use datafusion::arrow::array::BooleanArray;

const TEXT: &str = "CREATE JOB sessions AS INSERT INTO counts SELECT user_id, count(*) FROM visits";
const SINK: &str = "CREATE EXTERNAL TABLE counts (user_id VARCHAR, n DOUBLE, at TIMESTAMP, PRIMARY KEY (user_id) NOT ENFORCED) \
     STORED AS KAFKA LOCATION 'counts' OPTIONS ('kafka.bootstrap.servers' 'h:1', 'kafka.sasl.password' '***')";

/// A run of this id that was created.
pub(crate) async fn created(store: &RunStore, run_id: &str) -> StoredRun {
    let spec = RunSpec {
        text: TEXT.to_owned(),
        tables: vec![
            "CREATE EXTERNAL TABLE visits (user_id VARCHAR) STORED AS KAFKA LOCATION 'visits'"
                .into(),
            SINK.to_owned(),
        ],
        ..spec(run_id)
    };
    match store.create(spec, 1_000).await.unwrap() {
        RunCreation::Created(run) => run,
        RunCreation::Exists(run) => panic!("{} exists", run.spec.run_id),
    }
}

fn rows(of: &[(&str, f64)]) -> RecordBatch {
    let users = StringArray::from_iter_values(of.iter().map(|(user, _)| user));
    let numbers = Float64Array::from_iter_values(of.iter().map(|(_, number)| *number));
    let times = TimestampMicrosecondArray::from(vec![Some(0); of.len()]);
    RecordBatch::try_from_iter([
        ("user_id", Arc::new(users) as ArrayRef),
        ("n", Arc::new(numbers)),
        ("at", Arc::new(times)),
    ])
    .unwrap()
}

/// Compares rows of a chunk, as a plan does.
pub(crate) async fn compare(
    store: &RunStore,
    run: &mut StoredRun,
    (from, to): (i64, i64),
    published: &[(&str, f64)],
    computed: &[(&str, f64)],
) {
    let (published, computed) = (rows(published), rows(computed));
    let tolerance = FloatTolerance::default();
    let by_key = Difference::try_new(computed.schema(), vec![0], vec![1, 2], tolerance).unwrap();
    let is_readable = BooleanArray::from(vec![true; computed.num_rows()]);
    let found = by_key.compare(&published, &computed, &is_readable).unwrap();
    let changes = by_key.changes(&found, &published, &computed).unwrap();
    let mut writer = FileWriter::try_new(Vec::new(), &changes.schema()).unwrap();
    writer.write(&changes).unwrap();
    let bytes = writer.into_inner().unwrap();
    let count = changes.num_rows() as u64;
    let file = store.put_changes(run, count, bytes).await.unwrap();
    let chunk = ComparedChunk {
        extent: ChunkExtent::Time { from, to },
        counts: found.counts(),
        changes: (count > 0).then_some(file),
    };
    assert!(
        store
            .append(run, RunEvent::Compared(chunk), 2_000)
            .await
            .unwrap()
    );
}

/// Commits a chunk, as the runner of the run does.
pub(crate) async fn commit(store: &RunStore, run: &mut StoredRun, number: u64, range: (i64, i64)) {
    let range = TimeRange::try_new(range.0, range.1).unwrap();
    let name = JobStore::version_name(run.history.next);
    let version = BatchVersion {
        batch: number,
        sequence: run.history.next,
        sources: [(
            "visits".to_owned(),
            [(0, chunk_progress(None, range))].into(),
        )]
        .into(),
        rows_in: 10,
        rows_out: 3,
        ..BatchVersion::default()
    };
    store.jobs().stage(run.id, &name, &version).await.unwrap();
    let entry = LogEntry::Committed {
        batch: number,
        version: name,
        at: 5_000,
    };
    let appended = store
        .jobs()
        .append_next(run.id, &mut run.history, &entry)
        .await;
    assert!(appended.unwrap());
}

const HOUR: i64 = 3_600_000_000;

fn shown(rows: &RecordBatch, columns: &[&str]) -> String {
    let indices = columns
        .iter()
        .map(|name| rows.schema().index_of(name).unwrap());
    let rows = rows.project(&indices.collect::<Vec<_>>()).unwrap();
    pretty_format_batches(&[rows]).unwrap().to_string()
}

async fn runs(store: &RunStore, filter: &ScanFilter) -> RecordBatch {
    rows_in(store, "runs", filter).await.unwrap()
}

#[tokio::test]
async fn a_run_is_a_row() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut planned = created(&store, "a").await;
    compare(
        &store,
        &mut planned,
        (0, HOUR / 2),
        &[("x", 1.0), ("y", 2.0)],
        &[("x", 1.0), ("y", 3.0)],
    )
    .await;
    compare(
        &store,
        &mut planned,
        (HOUR / 2, HOUR),
        &[("z", 1.0)],
        &[("v", 1.0), ("w", f64::NAN)],
    )
    .await;
    assert!(
        store
            .append(&mut planned, RunEvent::Planned, 3_000)
            .await
            .unwrap()
    );
    let mut running = created(&store, "b").await;
    assert!(
        store
            .append(&mut running, RunEvent::Approved, 3_000)
            .await
            .unwrap()
    );
    commit(&store, &mut running, 1, (0, HOUR / 4)).await;
    created(&store, "c").await;
    let all = runs(&store, &ScanFilter::default()).await;
    assert_eq!(all.schema(), empty_of("runs").unwrap().schema());
    let columns = [
        "run_id", "job", "state", "emit", "chunks", "position", "same", "changed", "new", "gone",
        "since",
    ];
    let expected = "\
+--------+----------+----------+---------+--------+----------------------+------+---------+-----+------+----------------------+
| run_id | job      | state    | emit    | chunks | position             | same | changed | new | gone | since                |
+--------+----------+----------+---------+--------+----------------------+------+---------+-----+------+----------------------+
| a      | sessions | PLANNED  | CHANGED | 0      | 1970-01-01T01:00:00Z | 1    | 1       | 2   | 1    | 1970-01-01T00:00:03Z |
| b      | sessions | RUNNING  | CHANGED | 1      | 1970-01-01T00:15:00Z |      |         |     |      | 1970-01-01T00:00:03Z |
| c      | sessions | PLANNING | CHANGED | 0      |                      |      |         |     |      | 1970-01-01T00:00:01Z |
+--------+----------+----------+---------+--------+----------------------+------+---------+-----+------+----------------------+";
    assert_eq!(shown(&all, &columns), expected);
    let texts = ["asked", "emitted", "sql_version"];
    let shown = shown(&all.slice(0, 1), &texts);
    for text in [
        "event time 1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z",
        "sessions with a row in 1970-01-01T00:00:00Z",
        &planned.spec.text_version(),
    ] {
        assert!(shown.contains(text), "{shown}");
    }
    let only = |name: &str| Some([name.to_owned()].into());
    for (filter, count) in [
        (
            ScanFilter {
                runs: only("b"),
                ..ScanFilter::default()
            },
            1,
        ),
        (
            ScanFilter {
                runs: only("d"),
                ..ScanFilter::default()
            },
            0,
        ),
        (
            ScanFilter {
                jobs: only("sessions"),
                ..ScanFilter::default()
            },
            3,
        ),
        (
            ScanFilter {
                jobs: only("other"),
                ..ScanFilter::default()
            },
            0,
        ),
    ] {
        assert_eq!(runs(&store, &filter).await.num_rows(), count, "{filter:?}");
    }
}

#[tokio::test]
async fn changes_have_key_and_both_rows() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut run = created(&store, "a").await;
    compare(
        &store,
        &mut run,
        (0, HOUR / 2),
        &[("x", 1.0)],
        &[("x", 1.0)],
    )
    .await;
    compare(
        &store,
        &mut run,
        (HOUR / 2, HOUR),
        &[("y", 2.0), ("z", 1.0)],
        &[("y", 3.0), ("w", f64::NAN)],
    )
    .await;
    created(&store, "b").await;
    let all = rows_in(&store, "run_changes", &ScanFilter::default())
        .await
        .unwrap();
    assert_eq!(all.schema(), empty_of("run_changes").unwrap().schema());
    let columns = ["run_id", "chunk", "kind", "key", "before", "after"];
    let expected = r#"+--------+-------+---------+-----------------+-----------------------------------------------------+-------------------------------------------------------+
| run_id | chunk | kind    | key             | before                                              | after                                                 |
+--------+-------+---------+-----------------+-----------------------------------------------------+-------------------------------------------------------+
| a      | 2     | new     | {"user_id":"w"} |                                                     | {"user_id":"w","n":"NaN","at":"1970-01-01T00:00:00Z"} |
| a      | 2     | changed | {"user_id":"y"} | {"user_id":"y","n":2.0,"at":"1970-01-01T00:00:00Z"} | {"user_id":"y","n":"3.0","at":"1970-01-01T00:00:00Z"} |
| a      | 2     | gone    | {"user_id":"z"} | {"user_id":"z","n":1.0,"at":"1970-01-01T00:00:00Z"} |                                                       |
+--------+-------+---------+-----------------+-----------------------------------------------------+-------------------------------------------------------+"#;
    assert_eq!(shown(&all, &columns), expected);
    // A sink without a key, or a text that cannot be read, gives no key.
    for (text, tables) in [
        (TEXT, vec![]),
        (
            TEXT,
            vec![SINK.replace("PRIMARY KEY (user_id) NOT ENFORCED", "x INT")],
        ),
        ("CREATE JOB …", vec![SINK.to_owned()]),
    ] {
        let spec = RunSpec {
            text: text.to_owned(),
            tables,
            ..spec("r")
        };
        assert_eq!(sink_key(&spec), [""; 0]);
    }
}

#[tokio::test]
async fn damaged_changes_are_named() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut run = created(&store, "a").await;
    let file = store
        .put_changes(&run, 1, b"not arrow".to_vec())
        .await
        .unwrap();
    let other = rows(&[("x", 1.0)]);
    let mut writer =
        FileWriter::try_new(Vec::new(), &Schema::new(other.schema().fields().clone())).unwrap();
    writer.write(&other).unwrap();
    let bytes = writer.into_inner().unwrap();
    let chunk = |changes| ComparedChunk {
        extent: ChunkExtent::Time { from: 0, to: HOUR },
        counts: ChangeCounts::default(),
        changes: Some(changes),
    };
    let chunks = [chunk(file), {
        assert!(store.append(&mut run, RunEvent::Planned, 0).await.unwrap());
        chunk(store.put_changes(&run, 1, bytes).await.unwrap())
    }];
    for chunk in &chunks {
        let error = change_rows(&store, &run, 3, chunk).await.unwrap_err();
        let message = error.message();
        assert!(
            message.starts_with("the changes of chunk 3 of run 'a' cannot be read: "),
            "{message}"
        );
    }
}
