//! Benchmarks of state with a million keys: its memory, its cost in a batch, and the time to read it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch::core::jobs::{BatchVersion, LogEntry, SourceProgress};
use anabranch::planner::{JobStatement, Parameters, Script, Statement, parse_statement};
use anabranch::session::Session;
use anabranch::state::{StateTable, StepResult, StepRule, encode_states, read_state_file, step};
use anabranch::store::{DataDir, JobId, JobStore};
use anabranch::streaming::JobQuery;
use anabranch_udfs::IncrementalAggregate;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::reader::FileReader;

use crate::measure::{ComparedFigure, Report, StepCost, best_of, measure, resident_bytes};
use crate::{Bench, DAY};

const KEYS: i64 = 1_000_000;
/// Keys of a batch while the state is filled.
const FILL: i64 = 100_000;
const TOUCHED: i64 = 1_000;
const BATCHES: i64 = 500;

/// Set in the environment of a process that fills a state and prints its memory.
pub(crate) const CHILD: &str = "BENCH_STATE_CHILD";

/// Count of the records per session of a user.
async fn aggregate(session: &Session) -> IncrementalAggregate {
    let sql = "CREATE EXTERNAL TABLE opened (user_id BIGINT, event_time TIMESTAMP,
          WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes')
        STORED AS KAFKA LOCATION 'opened' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
        CREATE EXTERNAL TABLE counted_sessions (user_id BIGINT, window_start TIMESTAMP, visits BIGINT)
        STORED AS KAFKA LOCATION 'counted_sessions' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
        CREATE JOB state AS INSERT INTO counted_sessions SELECT user_id, window_start, count(*)
        FROM SESSION(TABLE opened PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes')
        GROUP BY user_id, window_start";
    for raw in Script::new("bench", sql).split().unwrap() {
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        match parsed.statement {
            Statement::Job(job) => {
                let JobStatement::Create { insert, emit, .. } = *job else {
                    break;
                };
                let query = JobQuery::try_new(session, *insert, emit).await.unwrap();
                return query.aggregate().await.unwrap();
            }
            _ => {
                session.execute(parsed).await.unwrap();
            }
        }
    }
    panic!("no job in the script");
}

/// A state that batches have filled, and those batches.
struct FilledState {
    aggregate: IncrementalAggregate,
    table: StateTable,
    /// Microseconds; continues with each batch, within the gap of all sessions.
    now: i64,
}

impl FilledState {
    fn fill(aggregate: &IncrementalAggregate, keys: i64) -> Self {
        let schema = SchemaRef::clone(aggregate.state_schema());
        let mut held = Self {
            aggregate: aggregate.clone(),
            table: StateTable::try_new(schema, aggregate.key_columns()).unwrap(),
            now: DAY,
        };
        let mut from = 0;
        while from < keys {
            let to = keys.min(from + FILL);
            // As users come: in no order.
            held.batch((from..to).map(|user| user * 7_919 % keys), drop);
            from = to;
        }
        assert_eq!(held.table.len() as i64, keys);
        held
    }

    /// The partial states of a batch with one record of each user.
    fn partials(&self, users: impl Iterator<Item = i64>) -> RecordBatch {
        let users: Int64Array = users.map(Some).collect();
        // Some records later than others: rows are done in no order.
        let times = users.values().iter().map(|user| self.now + user % 1_000);
        let times: ArrayRef = Arc::new(times.map(Some).collect::<Int64Array>());
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![1; users.values().len()]));
        let users: ArrayRef = Arc::new(users);
        let schema = self.aggregate.state_schema();
        let columns = [&users, &times, &times, &counts];
        let columns = columns.iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap());
        RecordBatch::try_new(SchemaRef::clone(schema), columns.collect()).unwrap()
    }

    fn step(&self, partials: &[RecordBatch]) -> StepResult {
        let rule = StepRule {
            changes: true,
            withdraws: false,
            closed_before: None,
            closed_by: None,
        };
        step(&self.table, &self.aggregate, partials, rule).unwrap()
    }

    /// A batch as a job does it, from partial states to the changed state; the file that it leaves behind goes to `write`.
    fn batch(&mut self, users: impl Iterator<Item = i64>, write: impl FnOnce(Vec<u8>)) {
        let done = self.output(users, write);
        self.table.apply(done.change).unwrap();
    }

    /// The part of a batch before the commit: the rows that are emitted and written.
    fn output(
        &mut self,
        users: impl Iterator<Item = i64>,
        write: impl FnOnce(Vec<u8>),
    ) -> StepResult {
        self.now += 1_000;
        let partials = self.partials(users);
        let done = self.step(&[partials]);
        let log = std::slice::from_ref(&done.log);
        let bytes = encode_states(self.aggregate.state_schema(), log).unwrap();
        write(bytes);
        done
    }

    /// Batches of a thousand different users all over the state; gives how many rows they have.
    fn touch(&mut self, batches: std::ops::Range<i64>, write: impl Fn(i64, Vec<u8>)) -> u64 {
        let rows = TOUCHED * (batches.end - batches.start);
        let keys = self.table.len() as i64;
        for batch in batches {
            let stride = keys / TOUCHED;
            let users = (0..TOUCHED).map(|user| (user * stride + batch * 31 % stride) % keys);
            self.batch(users, |bytes| write(batch, bytes));
        }
        rows.unsigned_abs()
    }

    /// Bytes of the keys and states as plain arrays.
    fn plain(&self) -> usize {
        let rows = self.table.rows().unwrap();
        let columns = rows.columns().iter();
        columns
            .map(|column| column.to_data().get_slice_memory_size().unwrap())
            .sum()
    }
}

/// In a process of its own: fills a state and prints the resident memory that it took, the size that the state reports,
/// and the memory of plain arrays with the same values.
pub(crate) fn child(bench: &Bench) {
    let aggregate = bench.runtime.block_on(aggregate(&bench.session));
    // A first fill loads code and memory pools, which do not count.
    drop(FilledState::fill(&aggregate, 1_000));
    let before = resident_bytes();
    let mut held = FilledState::fill(&aggregate, KEYS);
    held.touch(0..100, |_, bytes| drop(bytes));
    let after = resident_bytes();
    println!(
        "{} {} {}",
        after.saturating_sub(before),
        held.table.size(),
        held.plain()
    );
}

pub(crate) fn state(bench: &Bench, report: &mut Report) {
    memory(report);
    let aggregate = bench.runtime.block_on(aggregate(&bench.session));
    let mut few = FilledState::fill(&aggregate, 10_000);
    let mut many = FilledState::fill(&aggregate, KEYS);
    let only_in_memory = |_, bytes: Vec<u8>| drop(bytes);
    few.touch(0..200, only_in_memory);
    many.touch(0..200, only_in_memory);
    let (of_few, of_many) = alternately(&mut few, &mut many, 200, only_in_memory);
    report.add(
        "1,000 keys a batch, 10,000 held, in memory alone",
        &of_few,
        None,
    );
    report.add(
        "1,000 keys a batch, 1 million held, in memory alone",
        &of_many,
        Some((&of_few, ComparedFigure::Time, "")),
    );
    let folder = tempfile::tempdir().unwrap();
    let store = JobStore::new(DataDir::open(&folder.path().display().to_string()).unwrap());
    // The files that a batch of a job leaves behind before and after its transaction: its state, its version, its log
    // entry.
    let synced = |batch: i64, bytes: Vec<u8>| {
        let (id, number) = (JobId::nil(), batch.unsigned_abs());
        let name = format!("{number:010}");
        bench.runtime.block_on(async {
            store.put_state(id, &name, bytes).await.unwrap();
            store.stage(id, &name, &version(number)).await.unwrap();
            let entry = LogEntry::Committed {
                batch: number,
                version: name,
                at: 0,
            };
            assert!(store.append(id, number, &entry).await.unwrap());
        });
    };
    let (of_few, of_many) = alternately(&mut few, &mut many, 10_000, synced);
    report.add(
        "1,000 keys a batch, 10,000 held, with its files synced to disk",
        &of_few,
        None,
    );
    report.add(
        "1,000 keys a batch, 1 million held, with its files synced to disk",
        &of_many,
        Some((&of_few, ComparedFigure::Time, "≤ 1.5")),
    );
    restart(bench, &many, report);
}

/// A version as a batch writes it.
fn version(batch: u64) -> BatchVersion {
    let next = SourceProgress {
        start: 0,
        end: 1_000,
    };
    BatchVersion {
        batch,
        sequence: batch,
        parent: Some(format!("{batch:010}")),
        sources: BTreeMap::from([("opened".to_owned(), BTreeMap::from([(0, next)]))]),
        rows_in: 1_000,
        bytes_in: 200_000,
        rows_out: 1_000,
        ..BatchVersion::default()
    }
}

/// Batches over a state of few keys and one of many in turns: load of the disk and of other programs affects both.
/// Their numbers begin at `first`.
fn alternately(
    few: &mut FilledState,
    many: &mut FilledState,
    first: i64,
    write: impl Fn(i64, Vec<u8>) + Copy,
) -> (StepCost, StepCost) {
    const TURNS: i64 = 10;
    let turns = (0..TURNS).map(|turn| {
        let (of_few, of_many) = (first + 2 * turn * BATCHES, first + (2 * turn + 1) * BATCHES);
        let of_few = measure(|| few.touch(of_few..of_few + BATCHES / TURNS, write));
        let of_many = measure(|| many.touch(of_many..of_many + BATCHES / TURNS, write));
        (of_few, of_many)
    });
    let sum = turns.reduce(|(few, many), (of_few, of_many)| (few.and(&of_few), many.and(&of_many)));
    sum.unwrap()
}

fn memory(report: &mut Report) {
    let program = std::env::current_exe().unwrap();
    let printed = std::process::Command::new(program)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let numbers: Vec<u64> = printed
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    let [resident, counted, plain] = numbers[..] else {
        panic!("{printed}");
    };
    report.bytes(
        "1 million open sessions with count, plain arrays",
        plain,
        None,
    );
    report.bytes(
        "the same as state: resident memory",
        resident,
        Some((plain, "≤ 4")),
    );
    report.bytes(
        "the same as `state.max_memory` counts it",
        counted,
        Some((plain, "≤ 4")),
    );
}

/// The state read back as a job does that starts, beside reading the same file with Arrow alone.
fn restart(bench: &Bench, held: &FilledState, report: &mut Report) {
    let aggregate = &held.aggregate;
    let change = held.step(&[]).change;
    let rows = held.table.rows_after(&change).unwrap();
    let bytes = encode_states(aggregate.state_schema(), &rows).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = JobStore::new(DataDir::open(&folder.path().display().to_string()).unwrap());
    let id = JobId::nil();
    let put = store.put_state(id, "snapshot", bytes);
    bench.runtime.block_on(put).unwrap();
    let path = folder
        .path()
        .join(format!("jobs/{id}/state/snapshot.arrow"));
    let best = |step: &dyn Fn() -> u64| -> StepCost { best_of((0..10).map(|_| measure(step))) };
    let plain = best(&|| {
        let file = std::fs::File::open(&path).unwrap();
        // As the state of a job does, this holds all batches in memory.
        let read = FileReader::try_new(file, None).unwrap();
        let batches: Result<Vec<RecordBatch>, _> = read.collect();
        let batches = batches.unwrap();
        batches.iter().map(|batch| batch.num_rows() as u64).sum()
    });
    report.add(
        "1 million keys read into memory with Arrow IPC",
        &plain,
        None,
    );
    let read = || {
        let opened = store.open_state(id, "snapshot");
        let opened = bench.runtime.block_on(opened).unwrap();
        let schema = SchemaRef::clone(aggregate.state_schema());
        let mut table = StateTable::try_new(schema, aggregate.key_columns()).unwrap();
        let closes_at = |rows: &RecordBatch| aggregate.closes_at(rows);
        let rows = read_state_file(&mut table, opened, None, closes_at).unwrap() as u64;
        (table, rows)
    };
    let of_read = best(&|| read().1);
    report.add(
        "1 million keys read as state",
        &of_read,
        Some((&plain, ComparedFigure::Time, "≤ 3")),
    );
    // A thousand records come, and their output is ready to be committed.
    let of_first = best(&|| {
        let (table, rows) = read();
        let mut begun = FilledState {
            aggregate: aggregate.clone(),
            table,
            now: held.now,
        };
        let users = (0..TOUCHED).map(|user| user * (KEYS / TOUCHED));
        let first = begun.output(users, drop);
        assert_eq!(first.emitted.num_rows() as i64, TOUCHED);
        rows
    });
    report.add(
        "the same and the output of the first batch",
        &of_first,
        Some((&plain, ComparedFigure::Time, "≤ 3")),
    );
}
