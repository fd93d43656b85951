//! Runs and their changes as rows.

use datafusion::arrow::array::{BooleanArray, Date32Array};
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::core::jobs::{BatchVersion, ChunkExtent, Heartbeat, LogEntry, RunEvent};
use crate::core::runs::spec::fixture::spec;
use crate::core::runs::{Difference, FloatTolerance, RunSpec, TimeRange, chunk_progress};
use crate::session::system::scan::SystemTable;
use crate::store::{JobStore, RunCreation};

const TEXT: &str = "CREATE JOB sessions AS INSERT INTO counts SELECT user_id, count(*) FROM visits";
const SINK: &str = "CREATE EXTERNAL TABLE counts (user_id VARCHAR, n DOUBLE, PRIMARY KEY (user_id) NOT ENFORCED) \
     STORED AS KAFKA LOCATION 'counts' OPTIONS ('kafka.bootstrap.servers' 'h:1')";
const HOUR: i64 = 3_600_000_000;

/// A run of this id that was created.
pub(crate) async fn created(store: &RunStore, run_id: &str) -> StoredRun {
    let visits = "CREATE EXTERNAL TABLE visits (user_id VARCHAR) STORED AS KAFKA LOCATION 'visits'";
    let spec = RunSpec {
        text: TEXT.to_owned(),
        tables: vec![visits.to_owned(), SINK.to_owned()],
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
    let days = Date32Array::from(vec![1; of.len()]);
    let columns = [
        ("user_id", Arc::new(users) as ArrayRef),
        ("n", Arc::new(numbers)),
        ("day", Arc::new(days)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A file of these rows; `metadata` is that of its schema.
fn file(rows: &RecordBatch, metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata = metadata.iter();
    let metadata = metadata.map(|(name, places)| ((*name).to_owned(), (*places).to_owned()));
    let schema = rows.schema().as_ref().clone();
    let schema = Arc::new(schema.with_metadata(metadata.collect()));
    let rows = rows.clone().with_schema(Arc::clone(&schema)).unwrap();
    let mut writer = FileWriter::try_new(Vec::new(), &schema).unwrap();
    writer.write(&rows).unwrap();
    writer.into_inner().unwrap()
}

const PLACES: [(&str, &str); 2] = [(KEYS, "0,2"), (START, "2")];

/// Compares the rows of a chunk, as a plan does.
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
    let count = changes.num_rows() as u64;
    let changes = match count {
        0 => None,
        _ => {
            let kept = store.put_changes(run, count, file(&changes, &PLACES)).await;
            Some(kept.unwrap())
        }
    };
    let chunk = ComparedChunk {
        extent: ChunkExtent::Time { from, to },
        counts: found.counts(),
        changes,
        left: Default::default(),
    };
    let event = RunEvent::Compared(chunk);
    assert!(store.append(run, event, 2_000).await.unwrap());
}

/// Commits a chunk that was not compared, as the runner of the run does.
pub(crate) async fn commit(store: &RunStore, run: &mut StoredRun, number: u64, range: (i64, i64)) {
    commit_compared(store, run, (number, range), None).await;
}

/// Commits a chunk with these rows by kind.
pub(crate) async fn commit_compared(
    store: &RunStore,
    run: &mut StoredRun,
    (number, range): (u64, (i64, i64)),
    compared: Option<ChangeCounts>,
) {
    let range = TimeRange::try_new(range.0, range.1).unwrap();
    let name = JobStore::version_name(run.history.next);
    let progress = [(0, chunk_progress(None, range))];
    let version = BatchVersion {
        batch: number,
        sequence: run.history.next,
        sources: [("visits".to_owned(), progress.into())].into(),
        rows_in: 10,
        rows_out: 3,
        compared,
        ..BatchVersion::default()
    };
    store.jobs().stage(run.id, &name, &version).await.unwrap();
    let entry = LogEntry::Committed {
        batch: number,
        version: name,
        at: 5_000,
    };
    let history = &mut run.history;
    let appended = store.jobs().append_next(run.id, history, &entry).await;
    assert!(appended.unwrap());
}

async fn append(store: &RunStore, run: &mut StoredRun, event: RunEvent) {
    assert!(store.append(run, event, 3_000).await.unwrap());
}

fn shown(rows: &RecordBatch, columns: &[&str]) -> String {
    let schema = rows.schema();
    let indices = columns.iter().map(|name| schema.index_of(name).unwrap());
    let rows = rows.project(&indices.collect::<Vec<_>>()).unwrap();
    pretty_format_batches(&[rows]).unwrap().to_string()
}

/// All rows of a scan of changes.
async fn all_changes(store: &RunStore, wanted: ScanFilter) -> Result<RecordBatch> {
    let parts: Vec<RecordBatch> = changes(Some(store.clone()), wanted).try_collect().await?;
    let schema = empty_of("run_changes")?.schema();
    concat_batches(&schema, &parts).map_err(internal)
}

fn only(name: &str) -> Option<std::collections::BTreeSet<String>> {
    Some([name.to_owned()].into())
}

#[tokio::test]
async fn a_run_is_a_row() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut planned = created(&store, "a").await;
    let (published, computed) = ([("x", 1.0), ("y", 2.0)], [("x", 1.0), ("y", 3.0)]);
    compare(&store, &mut planned, (0, HOUR / 2), &published, &computed).await;
    let (published, computed) = ([("z", 1.0)], [("v", 1.0), ("w", f64::NAN)]);
    compare(
        &store,
        &mut planned,
        (HOUR / 2, HOUR),
        &published,
        &computed,
    )
    .await;
    append(&store, &mut planned, RunEvent::Planned).await;
    let mut running = created(&store, "b").await;
    append(&store, &mut running, RunEvent::Approved).await;
    commit(&store, &mut running, 1, (0, HOUR / 4)).await;
    created(&store, "c").await;
    let all = rows_in(&store, &ScanFilter::default()).await.unwrap();
    assert_eq!(all.schema(), empty_of("runs").unwrap().schema());
    let columns = [
        "run_id", "job", "state", "emit", "same", "changed", "new", "gone", "chunks", "rows_out",
        "done", "since",
    ];
    let expected = "\
+--------+----------+----------+---------+------+---------+-----+------+--------+----------+------+----------------------+
| run_id | job      | state    | emit    | same | changed | new | gone | chunks | rows_out | done | since                |
+--------+----------+----------+---------+------+---------+-----+------+--------+----------+------+----------------------+
| a      | sessions | PLANNED  | CHANGED | 1    | 1       | 2   | 1    | 0      | 0        | 1.0  | 1970-01-01T00:00:03Z |
| b      | sessions | RUNNING  | CHANGED |      |         |     |      | 1      | 3        | 0.25 | 1970-01-01T00:00:03Z |
| c      | sessions | PLANNING | CHANGED |      |         |     |      | 0      | 0        | 0.0  | 1970-01-01T00:00:01Z |
+--------+----------+----------+---------+------+---------+-----+------+--------+----------+------+----------------------+";
    assert_eq!(shown(&all, &columns), expected);
    let texts = shown(
        &all.slice(0, 1),
        &["asked", "emits", "position", "sql_version"],
    );
    for text in [
        "event time 1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z",
        "sessions with a row in 1970-01-01T00:00:00Z",
        "1970-01-01T00:30:00Z to 1970-01-01T01:00:00Z",
        &planned.spec.text_version(),
    ] {
        assert!(texts.contains(text), "{texts}");
    }
    for (runs, jobs, count) in [
        (only("b"), None, 1),
        (only("d"), None, 0),
        (None, only("sessions"), 3),
        (None, only("other"), 0),
        (only("b"), only("other"), 0),
    ] {
        let wanted = ScanFilter {
            runs,
            jobs,
            ..ScanFilter::default()
        };
        let found = rows_in(&store, &wanted).await.unwrap();
        assert_eq!(found.num_rows(), count, "{wanted:?}");
    }
}

#[tokio::test]
async fn rows_are_counted_by_the_plan_or_by_the_chunks_that_are_written() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let counts = |same, changed| ChangeCounts {
        same,
        changed,
        ..ChangeCounts::default()
    };
    // It was written at once; an earlier release has written its first chunk.
    let mut at_once = created(&store, "at_once").await;
    append(&store, &mut at_once, RunEvent::Approved).await;
    let quarter = HOUR / 4;
    commit(&store, &mut at_once, 1, (0, quarter)).await;
    let row = run_row(&store, &at_once).await.unwrap();
    assert_eq!((row.chunks_compared, row.counts), (0, counts(0, 0)));
    for (number, of_chunk) in [(2, counts(1, 2)), (3, counts(3, 4))] {
        let range = (quarter * (number - 1), quarter * number);
        let chunk = (number.unsigned_abs(), range);
        commit_compared(&store, &mut at_once, chunk, Some(of_chunk)).await;
    }
    let row = run_row(&store, &at_once).await.unwrap();
    assert_eq!((row.chunks_compared, row.counts), (2, counts(4, 6)));
    let found = rows_in(&store, &ScanFilter::default()).await.unwrap();
    let shown = shown(&found, &["same", "changed", "new"]);
    assert!(shown.contains("| 4    | 6       | 0   |"), "{shown}");
    // Its plan was complete when it was applied: that is what it says.
    let (published, computed) = ([("x", 1.0), ("y", 2.0)], [("x", 1.0), ("y", 3.0)]);
    let mut planned = created(&store, "planned").await;
    compare(&store, &mut planned, (0, HOUR), &published, &computed).await;
    append(&store, &mut planned, RunEvent::Planned).await;
    append(&store, &mut planned, RunEvent::Approved).await;
    for (number, range) in [(1, (0, quarter)), (2, (quarter, HOUR))] {
        commit_compared(&store, &mut planned, (number, range), Some(counts(7, 7))).await;
        let row = run_row(&store, &planned).await.unwrap();
        assert_eq!((row.chunks_compared, row.counts), (1, counts(1, 1)));
    }
    // Its plan was not complete, and the statement that writes it at once has come further.
    let mut further = created(&store, "further").await;
    compare(&store, &mut further, (0, quarter), &published, &computed).await;
    append(&store, &mut further, RunEvent::Approved).await;
    for (number, range, expected) in [
        (1, (0, quarter), counts(1, 1)),
        (2, (quarter, HOUR), counts(14, 14)),
    ] {
        commit_compared(&store, &mut further, (number, range), Some(counts(7, 7))).await;
        let row = run_row(&store, &further).await.unwrap();
        assert_eq!(row.counts, expected, "{number}");
    }
}

#[tokio::test]
async fn a_running_run_says_what_it_waits_for_while_its_process_is_alive() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut run = created(&store, "a").await;
    append(&store, &mut run, RunEvent::Approved).await;
    let takeover = LogEntry::Takeover {
        owner: "p".to_owned(),
        at: 4_000,
    };
    let history = &mut run.history;
    let appended = store.jobs().append_next(run.id, history, &takeover).await;
    assert!(appended.unwrap());
    let now = chrono::Utc::now().timestamp_millis();
    let waits = Some("job j falls behind".to_owned());
    for (owner, at, expected) in [
        ("p", now, waits.clone()),
        ("p", now - 60_000, None),
        ("another", now, None),
    ] {
        let beat = Heartbeat {
            owner: owner.to_owned(),
            waiting: waits.clone(),
            opening: false,
            backlog: None,
            at,
        };
        store.jobs().put_heartbeat(run.id, &beat).await.unwrap();
        let rows = rows_in(&store, &ScanFilter::default()).await;
        let rows = rows.unwrap();
        let reasons = rows.column_by_name("reason").unwrap();
        let reasons = reasons.as_string::<i32>();
        let reason = reasons.is_valid(0).then(|| reasons.value(0).to_owned());
        assert_eq!(reason, expected, "{beat:?}");
    }
}

#[tokio::test]
async fn changes_have_key_and_both_rows() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut run = created(&store, "a").await;
    let same = [("x", 1.0)];
    compare(&store, &mut run, (0, HOUR / 2), &same, &same).await;
    let (published, computed) = ([("y", 2.0), ("z", 1.0)], [("y", 3.0), ("w", f64::NAN)]);
    compare(&store, &mut run, (HOUR / 2, HOUR), &published, &computed).await;
    created(&store, "b").await;
    let all = all_changes(&store, ScanFilter::default()).await.unwrap();
    assert_eq!(all.schema(), empty_of("run_changes").unwrap().schema());
    // JSON has no number that is not finite.
    let expected = r#"
| run_id | chunk | kind    | key                                | window_start         | window_end | before                                     | after                                        |
| a      | 2     | new     | {"user_id":"w","day":"1970-01-02"} | 1970-01-02T00:00:00Z |            |                                            | {"user_id":"w","n":"NaN","day":"1970-01-02"} |
| a      | 2     | changed | {"user_id":"y","day":"1970-01-02"} | 1970-01-02T00:00:00Z |            | {"user_id":"y","n":2.0,"day":"1970-01-02"} | {"user_id":"y","n":"3.0","day":"1970-01-02"} |
| a      | 2     | gone    | {"user_id":"z","day":"1970-01-02"} | 1970-01-02T00:00:00Z |            | {"user_id":"z","n":1.0,"day":"1970-01-02"} |                                              |"#;
    let columns = [
        "run_id",
        "chunk",
        "kind",
        "key",
        "window_start",
        "window_end",
        "before",
        "after",
    ];
    let cells = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| line.starts_with('|'));
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
        lines.map(cells).collect()
    };
    assert_eq!(cells(&shown(&all, &columns)), cells(expected));
    let range = shown(&all.slice(0, 1), &["job", "range"]);
    let text = "1970-01-01T00:30:00Z to 1970-01-01T01:00:00Z";
    assert!(range.contains(text), "{range}");
}

#[tokio::test]
async fn damaged_changes_are_named() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut run = created(&store, "a").await;
    for bytes in [b"not arrow".to_vec(), file(&rows(&[("x", 1.0)]), &[])] {
        let chunk = ComparedChunk {
            extent: ChunkExtent::Time { from: 0, to: HOUR },
            counts: ChangeCounts::default(),
            changes: Some(store.put_changes(&run, 1, bytes).await.unwrap()),
            left: Default::default(),
        };
        let error = change_rows(&store, &run, 3, &chunk).await.unwrap_err();
        let message = error.message();
        let begins = "the changes of chunk 3 of run 'a' cannot be read: ";
        assert!(message.starts_with(begins), "{message}");
        // The next file of the run has another name.
        append(&store, &mut run, RunEvent::Planned).await;
    }
}

/// A run with a new row in its first chunk, a changed one in its second, and a file of the third that is damaged and has another new row.
async fn with_damage(store: &RunStore, run_id: &str) {
    let mut run = created(store, run_id).await;
    let third = HOUR / 3;
    compare(store, &mut run, (0, third), &[], &[("x", 1.0)]).await;
    let (published, computed) = ([("y", 2.0)], [("y", 3.0)]);
    compare(store, &mut run, (third, 2 * third), &published, &computed).await;
    let file = store.put_changes(&run, 1, b"not arrow".to_vec()).await;
    let chunk = ComparedChunk {
        extent: ChunkExtent::Time {
            from: 2 * third,
            to: HOUR,
        },
        counts: ChangeCounts {
            new: 1,
            ..ChangeCounts::default()
        },
        changes: Some(file.unwrap()),
        left: Default::default(),
    };
    append(store, &mut run, RunEvent::Compared(chunk)).await;
}

#[tokio::test]
async fn only_wanted_files_of_changes_are_read_and_only_when_their_rows_are() {
    let store = RunStore::beside(&JobStore::ephemeral());
    with_damage(&store, "a").await;
    with_damage(&store, "b").await;
    assert!(all_changes(&store, ScanFilter::default()).await.is_err());
    // Files of other kinds are not read.
    let changed = ScanFilter {
        kinds: only("changed"),
        ..ScanFilter::default()
    };
    let found = all_changes(&store, changed).await.unwrap();
    assert!(shown(&found, &["run_id", "kind"]).contains("| b      | changed |"));
    assert_eq!(found.num_rows(), 2);
    // A reader that has enough reads no further.
    let of_b = ScanFilter {
        runs: only("b"),
        ..ScanFilter::default()
    };
    let read: Vec<RecordBatch> = changes(Some(store), of_b)
        .take(2)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
}

/// A statement with a limit reads no further than that, and one that asks for a kind reads no other files.
#[tokio::test]
async fn a_limit_and_a_kind_reach_the_scan_of_changes() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    let store = RunStore::new(&DataDir::open(&place).unwrap());
    with_damage(&store, "a").await;
    let context = datafusion::prelude::SessionContext::new();
    let table = SystemTable::try_new("run_changes", &place).unwrap();
    context
        .register_table("run_changes", Arc::new(table))
        .unwrap();
    let count = async |sql: &str| {
        let rows = context.sql(sql).await.unwrap().collect().await?;
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        Ok::<_, datafusion::error::DataFusionError>(count)
    };
    let changed = "SELECT * FROM run_changes WHERE run_id = 'a' AND kind = 'changed'";
    assert_eq!(count(changed).await.unwrap(), 1);
    assert_eq!(count("SELECT * FROM run_changes LIMIT 2").await.unwrap(), 2);
    assert!(count("SELECT * FROM run_changes LIMIT 3").await.is_err());
}

/// A statement that has begun to read changes goes on when the rest of them is deleted.
#[tokio::test]
async fn changes_that_are_swept_meanwhile_are_passed_over() {
    let store = RunStore::beside(&JobStore::ephemeral());
    let mut run = created(&store, "a").await;
    for (from, to) in [(0, HOUR / 2), (HOUR / 2, HOUR)] {
        compare(&store, &mut run, (from, to), &[], &[("x", 1.0)]).await;
    }
    append(&store, &mut run, RunEvent::Approved).await;
    commit(&store, &mut run, 1, (0, HOUR)).await;
    append(&store, &mut run, RunEvent::Completed).await;
    let read = changes(Some(store.clone()), ScanFilter::default());
    let mut read = std::pin::pin!(read);
    assert_eq!(read.next().await.unwrap().unwrap().num_rows(), 1);
    store.sweep(&mut run, true, 9_000).await.unwrap();
    assert!(read.next().await.is_none());
}
