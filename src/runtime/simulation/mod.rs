//! The real runner of a job, with the job's real plans and state, in a world that is made from a seed: the broker, the store and
//! the clock are simulated.
//!
//! Several processes run the same job. They die, or sleep and go on afterwards as if no time had passed. The store and the
//! broker fail, and their answers get lost; the store writes late, twice, or only half of a file. Transactions time out, the sink
//! forgets its witness, retention deletes records, partitions are added, and the job is paused and rewound. In the end an oracle
//! computes what the job should have written, and all of it is compared (EXACT-1, EXACT-2, EXACT-3, LOSS-1).
//!
//! A test that fails names the seed: `ANABRANCH_SEED=<n>` runs the schedule of this seed alone, and `ANABRANCH_SEEDS=<count>` runs
//! as many schedules as it says.

mod beside;
mod jobs;
mod oracle;
mod past;
mod processes;
mod random;
mod runs;
mod schedule;
mod sink;
mod source;
mod world;

use world::PlantedFaults;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use datafusion::arrow::ipc::reader::FileReader;

use crate::core::jobs::{BatchVersion, JobHistory, JobPhase, JobTime};
use crate::core::schedules::{self, Schedules};
use crate::runtime::environment::Environment;
use crate::runtime::window_state::WindowState;
use crate::streaming::JobQuery;
use jobs::{Kind, SOURCE};
use oracle::{LateRowPosition, Oracle, RowPosition, begin_of};
use schedule::{PROCESSES, Schedule};
use sink::{Commit, OutRow, out_rows};
use source::{DELAY, SECOND};

/// How many schedules a test runs of each job, unless `ANABRANCH_SEEDS` says another number.
const SEEDS: u64 = 16;

/// A planted fault must be found in one of so many schedules.
const ENOUGH: u64 = 400;

/// Seeds whose schedules have found a fault of this program once: they are run as well.
const FOUND: [u64; 6] = [17, 29, 33, 116, 131, 133];

fn simulate(kind: Kind) {
    block_on(async {
        let queries = queries(kind).await;
        let counted = Schedules::of(format!("{kind:?}"));
        let mut failed = Vec::new();
        for seed in schedules::seeds(SEEDS, &FOUND) {
            counted.count();
            if let Err(fault) = run(kind, &queries, seed).await {
                failed.push(format!("ANABRANCH_SEED={seed} runs it again: {fault}"));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    });
}

/// The job's query, planned by each process for itself, and once for all schedules.
async fn queries(kind: Kind) -> Vec<Arc<JobQuery>> {
    let mut queries = Vec::new();
    for _ in 0..PROCESSES {
        queries.push(kind.query().await);
    }
    queries
}

async fn run(kind: Kind, queries: &[Arc<JobQuery>], seed: u64) -> Result<(), String> {
    run_in(kind, queries, seed, PlantedFaults::default()).await
}

async fn run_in(
    kind: Kind,
    queries: &[Arc<JobQuery>],
    seed: u64,
    hidden: PlantedFaults,
) -> Result<(), String> {
    let mut schedule = Schedule::new(kind, queries, seed).await;
    schedule.world.lock().hidden = hidden;
    let _told = ScheduleTrace {
        seed,
        world: Arc::clone(&schedule.world),
    };
    let outcome = match schedule.run().await {
        Ok(()) => check(kind, &schedule).await,
        failed => failed,
    };
    outcome.map_err(|fault| format!("{fault}\n{}", schedule.trace()))
}

/// When a test panics, prints what has happened in the schedule, and its seed.
struct ScheduleTrace {
    seed: u64,
    world: Arc<world::World>,
}

impl Drop for ScheduleTrace {
    #[expect(clippy::print_stderr, reason = "the output of a test that failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ScheduleTrace { seed, world } = self;
            eprintln!("{}", world.trace());
            eprintln!("ANABRANCH_SEED={seed} runs this schedule again");
        }
    }
}

/// Compares the rows in the sink, the late rows, the dead letters and the state of the job with those that the oracle expects.
async fn check(kind: Kind, schedule: &Schedule<'_>) -> Result<(), String> {
    let history = schedule.history().await;
    let versions = versions(schedule, &history).await;
    let (topic, commits, taken_back) = {
        let state = schedule.world.lock();
        let sink = &state.sink;
        let taken_back: BTreeSet<String> = sink.taken_back.iter().cloned().collect();
        (
            state.topic.clone(),
            (sink.commits.clone(), sink.gone),
            taken_back,
        )
    };
    let (commits, gone) = commits;
    if schedule.world.lock().sink.was_filled_on {
        return Err("a sink that was made anew was filled on, and nobody was asked".to_owned());
    }
    let by_witness = by_witness(&history, &commits, gone)?;
    let mut oracle = Oracle::new(kind, &topic);
    let mut held = ReaderRows::default();
    for (name, version) in &versions {
        let expected = oracle.follow(version)?;
        let commit = by_witness.get(name.as_str());
        let mut rows = commit.map_or(vec![], |commit| commit.rows.clone());
        rows.sort_unstable();
        if rows != expected.rows {
            return Err(format!(
                "batch {} ({name}) has given {rows:?}, and should have given {:?}",
                version.batch, expected.rows
            ));
        }
        if !schedule.is_table() && commit.is_none() {
            return Err(format!("the sink does not have batch {name}"));
        }
        if commit.is_some_and(|commit| taken_back.contains(&commit.file)) {
            return Err(format!(
                "the rows of batch {name} are in the table no longer"
            ));
        }
        let late = late(schedule, name, version).await;
        let letters = schedule.store.dead_letters(schedule.id, name, version);
        let dead: BTreeSet<RowPosition> = letters
            .await
            .unwrap()
            .iter()
            .map(|letter| (letter.partition, letter.offset))
            .collect();
        if (&late, &dead) != (&expected.late, &expected.dead) {
            return Err(format!(
                "batch {name}: late rows {late:?} and dead letters {dead:?}, and should be {expected:?}"
            ));
        }
        if let Some(commit) = commit {
            held.take(commit);
        }
    }
    check_abandoned(schedule, &versions, &commits, &taken_back)?;
    if topic.starts_at_end {
        check_beginning(schedule, &history).await?;
    }
    let ends = (0..).zip(topic.partitions.iter().map(source::Partition::high));
    // An empty partition that was added after the last batch is in no version.
    let read = oracle.positions();
    let ends: BTreeMap<i32, i64> = ends
        .filter(|(partition, end)| *end > 0 || read.contains_key(partition))
        .collect();
    if read != ends && !versions.is_empty() {
        return Err(format!("it has read up to {read:?} of {ends:?}"));
    }
    if !kind.is_stateful() {
        return Ok(());
    }
    if kind.is_windowed() {
        oracle.check_rest()?;
    }
    let last = versions.last().map(|(_, version)| version);
    let open = state(schedule, last).await;
    if open != oracle.open() {
        return Err(format!(
            "open are {open:?}, and should be {:?}",
            oracle.open()
        ));
    }
    if kind.is_upsert() {
        held.check(&open)?;
    }
    Ok(())
}

/// A job chooses once where it begins: after each rewind to its beginning, its first batch begins where the first one did.
async fn check_beginning(schedule: &Schedule<'_>, history: &JobHistory) -> Result<(), String> {
    let mut began: BTreeMap<i32, i64> = BTreeMap::new();
    for name in history.known() {
        // Files of abandoned versions may be gone.
        let Ok(version) = schedule.store.version(schedule.id, name).await else {
            continue;
        };
        if version.parent.is_some() {
            continue;
        }
        for partition in version.sources[SOURCE].keys() {
            let begins = begin_of(&version, *partition);
            let first = *began.entry(*partition).or_insert(begins);
            if begins != first {
                return Err(format!(
                    "{name} begins at {begins} of partition {partition}, and the job began at {first}"
                ));
            }
        }
    }
    Ok(())
}

/// The commits of the sink by the names of their versions: each version was committed once, and the job's log has it.
fn by_witness<'c>(
    history: &JobHistory,
    commits: &'c [Commit],
    gone: usize,
) -> Result<BTreeMap<&'c str, &'c Commit>, String> {
    let mut by_witness = BTreeMap::new();
    for (number, commit) in commits.iter().enumerate() {
        let name = commit.witness.as_str();
        if by_witness.insert(name, commit).is_some() {
            return Err(format!("{name} was committed twice"));
        }
        // Commits to a sink that was deleted since may be missing in the log.
        if number >= gone && !history.was_committed(name) {
            return Err(format!(
                "{name} is in the sink, and the log does not know it"
            ));
        }
    }
    Ok(by_witness)
}

/// EXACT-3: a table has no rows of batches that a rewind has abandoned.
fn check_abandoned(
    schedule: &Schedule<'_>,
    versions: &[(String, BatchVersion)],
    commits: &[Commit],
    taken_back: &BTreeSet<String>,
) -> Result<(), String> {
    let counts: BTreeSet<&str> = versions.iter().map(|(name, _)| name.as_str()).collect();
    let left = commits.iter().find(|commit| {
        !counts.contains(commit.witness.as_str()) && !taken_back.contains(&commit.file)
    });
    match left {
        Some(left) if schedule.is_table() => {
            Err(format!("the table still has the rows of {}", left.witness))
        }
        _ => Ok(()),
    }
}

async fn versions(schedule: &Schedule<'_>, history: &JobHistory) -> Vec<(String, BatchVersion)> {
    let mut versions = Vec::new();
    for committed in &history.batches {
        let name = &committed.version;
        let version = schedule.store.version(schedule.id, name).await.unwrap();
        versions.push((name.clone(), version));
    }
    versions
}

async fn late(
    schedule: &Schedule<'_>,
    name: &str,
    version: &BatchVersion,
) -> BTreeSet<LateRowPosition> {
    let mut late = BTreeSet::new();
    if version.late_rows == 0 {
        return late;
    }
    let bytes = schedule
        .store
        .late(schedule.id, name, version)
        .await
        .unwrap();
    let mut file = FileReader::try_new(std::io::Cursor::new(&bytes[..]), None).unwrap();
    let rows = file.next().unwrap().unwrap();
    assert!(file.next().is_none());
    let partitions = rows.column(1).as_primitive::<Int32Type>();
    let offsets = rows.column(2).as_primitive::<Int64Type>();
    let starts = rows.column(5).as_primitive::<TimestampMicrosecondType>();
    let ends = rows.column(6).as_primitive::<TimestampMicrosecondType>();
    for row in 0..rows.num_rows() {
        let window = starts
            .is_valid(row)
            .then(|| (starts.value(row), ends.value(row)));
        let place = (partitions.value(row), offsets.value(row));
        assert!(late.insert((place, window)), "a late row is there twice");
    }
    assert_eq!(late.len() as u64, version.late_rows);
    late
}

/// The open windows as a runner reads them back from the state files: key, start, end, count and sum, sorted.
async fn state(schedule: &Schedule<'_>, version: Option<&BatchVersion>) -> Vec<OutRow> {
    let job = schedule.ready(0, Environment::real());
    let windows = WindowState::load(&schedule.store, &job, version)
        .await
        .unwrap();
    let state = windows.state.unwrap();
    let groups = state.table.rows().unwrap();
    let closed_by = state.time.closed_by;
    let groups = state.aggregate.evaluate_open(&groups, closed_by);
    let mut rows = out_rows(&groups.unwrap());
    for row in &mut rows {
        if schedule.kind() == Kind::KeyChanges {
            row.splice(1..1, [Some(0), Some(0)]);
        }
        row.truncate(5);
    }
    rows.sort_unstable();
    rows
}

/// The rows that a reader of the topic has who keeps the last row of each primary key: by key and start of the window.
#[derive(Default)]
struct ReaderRows {
    rows: BTreeMap<(Option<i64>, Option<i64>), OutRow>,
}

impl ReaderRows {
    fn take(&mut self, commit: &Commit) {
        for row in &commit.withdrawn {
            self.rows.remove(&(row[0], row[1]));
        }
        for row in &commit.rows {
            self.rows.insert((row[0], row[1]), row.clone());
        }
    }

    /// The rows that are not final are those of the open windows, and no others.
    fn check(&self, open: &[OutRow]) -> Result<(), String> {
        let held = self.rows.values().filter(|row| row[5] == Some(0));
        let mut held: Vec<OutRow> = held.map(|row| row[..5].to_vec()).collect();
        held.sort_unstable();
        if held != open {
            return Err(format!("a reader holds {held:?}, and open are {open:?}"));
        }
        Ok(())
    }
}

#[test]
fn exact_1_2_3_rows_are_written_once() {
    simulate(Kind::Rows);
}

#[test]
fn exact_1_2_3_closed_windows_are_written_once() {
    simulate(Kind::TumbleOnClose);
}

#[test]
fn exact_1_3_changed_windows_are_written_once() {
    simulate(Kind::TumbleChanges);
}

#[test]
fn exact_1_2_3_closed_overlapping_windows_are_written_once() {
    simulate(Kind::HopOnClose);
}

#[test]
fn exact_1_3_changed_overlapping_windows_are_written_once() {
    simulate(Kind::HopChanges);
}

#[test]
fn exact_1_3_changed_sessions_are_written_once() {
    simulate(Kind::SessionChanges);
}

#[test]
fn exact_1_3_changed_keys_are_written_once() {
    simulate(Kind::KeyChanges);
}

#[test]
fn loss_1_a_recreated_topic_is_not_taken_as_read_to_its_end() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = Schedule::quiet(Kind::Rows, &queries).await;
        schedule.idle(HOUR).await;
        schedule.recreate().await;
        let outcome = schedule.catch_up().await;
        let error = outcome.unwrap_err();
        assert!(
            error.message().contains("topic 'simulated' was recreated"),
            "{error}"
        );
    });
}

#[test]
fn an_idle_job_commits_its_position_again_after_a_day() {
    block_on(async {
        for kind in [Kind::Rows, Kind::TumbleOnClose] {
            let queries = [kind.query().await];
            let mut schedule = Schedule::quiet(kind, &queries).await;
            let count = |schedule: &Schedule<'_>| schedule.world.lock().sink.commits.len();
            schedule.idle(HOUR).await;
            let before = count(&schedule);
            schedule.idle(22 * HOUR).await;
            assert_eq!(count(&schedule), before, "{}", schedule.trace());
            for days in 1..=3 {
                schedule.idle(24 * HOUR).await;
                assert_eq!(count(&schedule), before + days, "{}", schedule.trace());
            }
            let state = schedule.world.lock();
            let last = state.sink.commits.last().unwrap();
            assert_eq!(last.rows, Vec::<OutRow>::new());
            assert_eq!(state.sink.witness.as_ref(), Some(&last.witness));
        }
    });
}

/// A runner that has taken its job over asks the store for files by their names alone.
#[test]
fn a_running_job_lists_no_folders() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for kind in [Kind::Rows, Kind::TumbleOnClose] {
            let queries = [kind.query().await];
            let mut schedule = Schedule::quiet(kind, &queries).await;
            schedule.idle(HOUR).await;
            let begun = schedule.history().await.batches.len();
            assert!(begun > 0, "{}", schedule.trace());
            let listed = std::mem::take(&mut schedule.world.lock().listed);
            assert!(!listed.is_empty(), "taking a job over lists its files");
            for _ in 0..5 {
                schedule.arrive();
                schedule.idle(HOUR).await;
            }
            let batches = schedule.history().await.batches.len();
            assert!(batches > begun + 3, "{}", schedule.trace());
            let listed = schedule.world.lock().listed.clone();
            assert_eq!(listed, [] as [&str; 0], "{}", schedule.trace());
        }
    });
}

#[test]
fn a_rewind_reads_a_version_once() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = Schedule::quiet(Kind::Rows, &queries).await;
        for _ in 0..5 {
            schedule.arrive();
            schedule.idle(HOUR).await;
        }
        let batches = schedule.history().await.batches.len();
        assert!(batches > 3, "{}", schedule.trace());
        let read = schedule.rewind_alone(1).await;
        assert_eq!(schedule.history().await.batches.len(), 1);
        let read = read.iter().filter(|path| path.contains("/versions/"));
        let read: Vec<&String> = read.collect();
        let different: BTreeSet<&String> = read.iter().copied().collect();
        assert_eq!(different.len(), batches);
        // The takeover that comes before the rewind reads the last version as well, however often.
        let last = different.iter().next_back();
        let others = read.iter().filter(|path| Some(*path) != last);
        assert_eq!(others.count(), batches - 1, "{read:?}");
    });
}

#[test]
fn exact_3_a_job_begins_again_where_it_began() {
    block_on(async {
        const MOMENT: std::time::Duration = std::time::Duration::from_secs(1);
        let queries = [Kind::Rows.query().await];
        let mut schedule = Schedule::quiet(Kind::Rows, &queries).await;
        schedule.world.lock().topic.starts_at_end = true;
        schedule.put(0, 1, 100);
        let began = schedule.world.lock().topic.partitions[0].high();
        schedule.idle(MOMENT).await;
        // It has read nothing, and its first batch says where it stands.
        assert_eq!(schedule.history().await.batches.len(), 1);
        for time in 101..104 {
            schedule.put(0, 1, time);
            schedule.idle(MOMENT).await;
        }
        assert!(schedule.history().await.batches.len() > 1);
        schedule.rewind_alone(0).await;
        assert!(schedule.history().await.batches.is_empty());
        schedule.put(0, 1, 104);
        schedule.catch_up().await.unwrap();
        let history = schedule.history().await;
        let versions = versions(&schedule, &history).await;
        let (_, first) = versions.first().unwrap();
        let first = first.sources[SOURCE][&0];
        assert_eq!((first.start, first.end), (began, began));
        if let Err(fault) = check(Kind::Rows, &schedule).await {
            panic!("{fault}\n{}", schedule.trace());
        }
    });
}

/// Whether schedules in which the world hides something from the runners find it: those of the known seeds are tried first.
fn is_found(kind: Kind, hidden: PlantedFaults, known: &[u64]) -> bool {
    let runtime = runtime();
    let queries = runtime.block_on(queries(kind));
    let planted = format!("{kind:?}, {}", hidden.what());
    let finds = |seed| {
        let run = run_in(kind, &queries, seed, hidden);
        runtime.block_on(run).is_err()
    };
    schedules::found_by(&planted, known, ENOUGH, finds).is_some()
}

#[test]
fn a_runner_that_does_not_compare_identities_is_found() {
    let hidden = PlantedFaults {
        identities: true,
        ..PlantedFaults::default()
    };
    assert!(is_found(Kind::Rows, hidden, &[24]));
    assert!(is_found(Kind::TumbleOnClose, hidden, &[8]));
}

#[test]
fn a_runner_that_trusts_the_wall_clock_is_found() {
    let hidden = PlantedFaults {
        steady_clock: true,
        ..PlantedFaults::default()
    };
    assert!(is_found(Kind::Rows, hidden, &[4]));
    assert!(is_found(Kind::KeyChanges, hidden, &[26]));
}

#[test]
fn time_1_a_runner_that_treats_open_transactions_as_idle_is_found() {
    let hidden = PlantedFaults {
        open_transactions: true,
        ..PlantedFaults::default()
    };
    assert!(is_found(Kind::TumbleOnClose, hidden, &[62]));
}

#[test]
fn time_1_a_runner_that_waits_for_deleted_partitions_is_found() {
    let hidden = PlantedFaults {
        gone_partitions: true,
        ..PlantedFaults::default()
    };
    assert!(is_found(Kind::TumbleOnClose, hidden, &[31]));
}

#[test]
fn time_1_a_runner_that_counts_idle_time_from_its_own_start_is_found() {
    let hidden = PlantedFaults {
        silence_before: true,
        ..PlantedFaults::default()
    };
    assert!(is_found(Kind::TumbleOnClose, hidden, &[]));
    assert!(is_found(Kind::SessionChanges, hidden, &[]));
}

/// A job that has read all rows of its topic and waits for more.
async fn rested(kind: Kind, queries: &[Arc<JobQuery>]) -> Schedule<'_> {
    let mut schedule = Schedule::quiet(kind, queries).await;
    schedule.idle(std::time::Duration::from_secs(1)).await;
    schedule
}

fn block_on(test: impl Future<Output = ()>) {
    runtime().block_on(test);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

/// The watermarks in the version of the last batch.
async fn last_time(schedule: &Schedule<'_>) -> JobTime {
    let history = schedule.history().await;
    let versions = versions(schedule, &history).await;
    let (_, last) = versions.last().unwrap();
    last.time.clone().unwrap()
}

/// The watermarks of a job whose topic had two partitions, was deleted, was created again with one partition, and has got rows
/// since.
async fn time_with_a_partition_gone(hidden: PlantedFaults) -> JobTime {
    let queries = [Kind::TumbleOnClose.query().await];
    let mut schedule = rested(Kind::TumbleOnClose, &queries).await;
    schedule.world.lock().hidden = hidden;
    schedule.add_partition();
    schedule.put(1, 1, 120);
    schedule.idle(std::time::Duration::from_secs(1)).await;
    schedule.recreate_topic(1).await;
    let error = schedule.catch_up().await.unwrap_err();
    assert!(
        error.message().contains("replaced by another one"),
        "{error}"
    );
    schedule.answer_now().await.unwrap();
    schedule.put(0, 1, 500);
    schedule.put(0, 1, 600);
    schedule.catch_up().await.unwrap();
    last_time(&schedule).await
}

#[test]
fn time_1_a_deleted_partition_does_not_hold_the_watermark_back() {
    block_on(async {
        let reached = Some((600 - DELAY) * SECOND);
        let time = time_with_a_partition_gone(PlantedFaults::default()).await;
        assert_eq!(time.watermark, reached, "{time:?}");
        // With the fault that is planted the partition that is gone holds the watermark back.
        let hidden = PlantedFaults {
            gone_partitions: true,
            ..PlantedFaults::default()
        };
        let time = time_with_a_partition_gone(hidden).await;
        assert!(time.watermark < reached, "{time:?}");
    });
}

/// The watermarks of a job after some runs that end when they have caught up. One partition is behind in event time, another one
/// is empty, and no records come any more.
async fn time_of_timer_runs(hidden: PlantedFaults, empty_comes_last: bool) -> JobTime {
    let queries = [Kind::TumbleOnClose.query().await];
    let mut schedule = rested(Kind::TumbleOnClose, &queries).await;
    schedule.world.lock().hidden = hidden;
    schedule.crash(0);
    schedule.add_partition();
    if !empty_comes_last {
        schedule.add_partition();
    }
    // When the second run begins, the last batch has all partitions.
    for (ahead, behind) in [(300, 290), (600, 500)] {
        schedule.put(0, 1, ahead);
        schedule.put(1, 1, behind);
        schedule.catch_up().await.unwrap();
    }
    if empty_comes_last {
        schedule.add_partition();
    }
    for _ in 0..2 {
        schedule.world.pass(std::time::Duration::from_secs(1));
        schedule.catch_up().await.unwrap();
    }
    last_time(&schedule).await
}

#[test]
fn time_1_periodic_runs_detect_an_idle_empty_partition() {
    block_on(async {
        let reached = Some((600 - DELAY) * SECOND);
        for empty_comes_last in [false, true] {
            let time = time_of_timer_runs(PlantedFaults::default(), empty_comes_last).await;
            assert_eq!(time.watermark, reached, "{empty_comes_last}: {time:?}");
        }
        // Runs that count the silence of partitions from their own start find no partition idle.
        let hidden = PlantedFaults {
            silence_before: true,
            ..PlantedFaults::default()
        };
        let time = time_of_timer_runs(hidden, false).await;
        assert!(time.watermark < reached, "{time:?}");
    });
}

/// What a job has lost or kept after its wall clock was a year ahead for a moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct JumpEffects {
    /// A key is gone although a row of it came a second before.
    forgets_early: bool,
    /// A key is still there although no row of it came for longer than keys are kept.
    keeps_for_ever: bool,
    /// Batches of the last hours are gone.
    trims: bool,
}

async fn after_jump(hidden: PlantedFaults) -> JumpEffects {
    const YEAR: i64 = 366 * 24 * 3_600_000;
    const MOMENT: std::time::Duration = std::time::Duration::from_secs(1);
    let queries = [Kind::KeyChanges.query().await];
    let mut schedule = rested(Kind::KeyChanges, &queries).await;
    schedule.world.lock().hidden = hidden;
    schedule.put(0, 11, 100);
    schedule.idle(MOMENT).await;
    let first = schedule.history().await.batches[0].batch;
    schedule.world.lock().wall_is_ahead = YEAR;
    schedule.put(0, 12, 100);
    schedule.idle(MOMENT).await;
    let forgets_early = !has_key(&schedule, 11).await;
    schedule.world.lock().wall_is_ahead = 0;
    schedule.idle(2 * HOUR).await;
    schedule.put(0, 13, 100);
    schedule.idle(MOMENT).await;
    assert!(has_key(&schedule, 13).await, "{}", schedule.trace());
    JumpEffects {
        forgets_early,
        keeps_for_ever: has_key(&schedule, 12).await,
        trims: schedule.history().await.batches[0].batch != first,
    }
}

async fn has_key(schedule: &Schedule<'_>, key: i64) -> bool {
    let history = schedule.history().await;
    let versions = versions(schedule, &history).await;
    let last = versions.last().map(|(_, version)| version);
    let open = state(schedule, last).await;
    open.iter().any(|row| row[0] == Some(key))
}

#[test]
fn one_wall_clock_jump_does_not_affect_a_job() {
    block_on(async {
        let after = after_jump(PlantedFaults::default()).await;
        assert_eq!(after, JumpEffects::default());
    });
}

#[test]
fn a_runner_that_believes_a_jump_of_the_wall_clock_loses_keys_and_batches_and_keeps_keys() {
    block_on(async {
        let hidden = PlantedFaults {
            steady_clock: true,
            ..PlantedFaults::default()
        };
        let after = JumpEffects {
            forgets_early: true,
            keeps_for_ever: true,
            trims: true,
        };
        assert_eq!(after_jump(hidden).await, after);
    });
}

#[test]
fn temporary_store_errors_are_waited_out() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = rested(Kind::Rows, &queries).await;
        schedule.world.lock().rates.sink = 300;
        for _ in 0..6 {
            schedule.arrive();
            schedule.idle(std::time::Duration::from_secs(2)).await;
        }
        let trace = schedule.trace();
        assert!(trace.contains("no answer"), "{trace}");
        schedule.world.lock().rates.sink = 0;
        schedule.catch_up().await.unwrap();
        let history = schedule.history().await;
        assert_eq!(history.phase, JobPhase::Active, "{trace}");
        let last = history.last().unwrap();
        let version = schedule.store.version(schedule.id, &last.version).await;
        let read = version.unwrap().next_offset("visits", 0);
        let high = schedule.world.lock().topic.partitions[0].high();
        assert_eq!(read, Some(high));
    });
}

#[test]
fn an_older_data_directory_stops_the_job() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = rested(Kind::Rows, &queries).await;
        let backup = schedule.backup().await;
        schedule.arrive();
        schedule.idle(std::time::Duration::from_secs(1)).await;
        schedule.restore(backup);
        let error = schedule.catch_up().await.unwrap_err();
        let says = "the data directory is older than the sink";
        assert!(error.message().contains(says), "{error}");
    });
}

#[test]
fn loss_1_a_truncated_end_is_skipped_as_reported() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = rested(Kind::Rows, &queries).await;
        for _ in 0..3 {
            schedule.arrive();
        }
        schedule.idle(std::time::Duration::from_secs(1)).await;
        let high = schedule.world.lock().topic.partitions[0].high();
        schedule.cut_off(0, 1);
        let error = schedule.catch_up().await.unwrap_err();
        assert!(
            error.message().contains("was truncated at offset 1"),
            "{error}"
        );
        // Before the user says SKIPPING LOST, more records come than the partition had.
        while schedule.world.lock().topic.partitions[0].high() <= high {
            schedule.arrive();
        }
        schedule.answer_now().await.unwrap();
        schedule.catch_up().await.unwrap();
        let history = schedule.history().await;
        let versions = versions(&schedule, &history).await;
        let (_, first) = versions
            .iter()
            .find(|(_, version)| !version.skipped.is_empty())
            .unwrap();
        let gap = first.skipped["visits"][&0];
        assert_eq!((gap.start, gap.end), (high, 1));
        assert_eq!(first.sources["visits"][&0].start, 1);
    });
}

#[test]
fn loss_1_a_batch_whose_scan_has_not_reported_is_not_committed() {
    block_on(async {
        for kind in [Kind::Rows, Kind::TumbleOnClose, Kind::HopChanges] {
            let queries = [kind.query().await];
            let mut schedule = rested(kind, &queries).await;
            let before = schedule.history().await.batches.len();
            let commits = schedule.world.lock().sink.commits.len();
            schedule.world.lock().hidden.reports = true;
            schedule.put(0, 1, 1_000);
            schedule.idle(std::time::Duration::from_secs(5)).await;
            let history = schedule.history().await;
            assert_eq!(history.batches.len(), before, "{}", schedule.trace());
            assert_eq!(history.phase, JobPhase::Active, "{}", schedule.trace());
            let now = schedule.world.lock().sink.commits.len();
            assert_eq!(now, commits, "{}", schedule.trace());
            // When scans report again, the records are still there.
            schedule.world.lock().hidden.reports = false;
            schedule.catch_up().await.unwrap();
            let history = schedule.history().await;
            let last = history.last().unwrap();
            let version = schedule.store.version(schedule.id, &last.version).await;
            let read = version.unwrap().next_offset("visits", 0);
            let high = schedule.world.lock().topic.partitions[0].high();
            assert_eq!(read, Some(high), "{}", schedule.trace());
        }
    });
}

#[test]
fn loss_1_dead_letters_are_once_if_a_batch_is_made_smaller_after_it_has_seen_them() {
    block_on(async {
        for kind in [Kind::Rows, Kind::KeyChanges] {
            let queries = [kind.query().await];
            let mut schedule = rested(kind, &queries).await;
            let before = schedule.history().await.batches.len();
            schedule.world.lock().room = 1;
            for key in 1..=4 {
                schedule.put_bad(0);
                schedule.put(0, key, 1_000);
                schedule.put_bad(0);
            }
            schedule.catch_up().await.unwrap();
            let trace = schedule.trace();
            assert!(trace.contains("a scan: no room"), "{trace}");
            let after = schedule.history().await.batches.len();
            assert!(after >= before + 12, "{trace}");
            if let Err(fault) = check(kind, &schedule).await {
                panic!("{fault}\n{trace}");
            }
        }
    });
}

#[test]
fn ident_1_without_broker_ids_the_last_record_identifies_the_topic() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = rested(Kind::Rows, &queries).await;
        schedule.world.lock().topic.gives_ids = false;
        schedule.arrive();
        schedule.idle(std::time::Duration::from_secs(1)).await;
        schedule.cut_off(0, 0);
        for _ in 0..20 {
            schedule.arrive();
        }
        let error = schedule.catch_up().await.unwrap_err();
        let says = "which the job has read: it was recreated";
        assert!(error.message().contains(says), "{error}");
        assert!(error.help().unwrap().contains("ACCEPTING NEW visits"));
    });
}

/// A job that has not begun yet, over a partition with so many rows, of which some may be bad.
async fn before_the_job(kind: Kind, queries: &[Arc<JobQuery>], rows: i64) -> Schedule<'_> {
    let mut schedule = Schedule::quiet(kind, queries).await;
    schedule.crash(0);
    while schedule.world.lock().topic.partitions[0].high() < rows {
        schedule.arrive();
    }
    schedule
}

/// The kinds of jobs whose results depend on the order of rows in more than one way.
const ORDERED: [Kind; 4] = [
    Kind::Rows,
    Kind::TumbleOnClose,
    Kind::HopChanges,
    Kind::SessionChanges,
];

/// The first offset and the end of each batch in partition 0.
async fn batches(schedule: &Schedule<'_>) -> Vec<(i64, i64)> {
    let history = schedule.history().await;
    let versions = versions(schedule, &history).await;
    let progress = versions
        .iter()
        .map(|(_, version)| version.sources[jobs::SOURCE][&0]);
    progress.map(|of| (of.start, of.end)).collect()
}

/// The rows, late rows, dead letters and state are those that the oracle expects of a topic that never forgot.
async fn check_all(kind: Kind, schedule: &Schedule<'_>) {
    if let Err(fault) = check(kind, schedule).await {
        panic!("{kind:?}: {fault}\n{}", schedule.trace());
    }
}

#[test]
fn arch_1_a_job_begins_with_the_archive_and_goes_over_to_the_topic() {
    block_on(async {
        for kind in ORDERED {
            let queries = [kind.query().await];
            // The last border lies within the second batch of six.
            for (archived, low) in [(20, 20), (24, 6), (9, 9), (11, 3)] {
                let mut schedule = before_the_job(kind, &queries, 24).await;
                schedule.archive(0, archived);
                schedule.delete_before(0, low);
                schedule.catch_up().await.unwrap();
                check_all(kind, &schedule).await;
                let batches = batches(&schedule).await;
                assert_eq!(batches[..2], [(0, 6), (6, 12)], "{}", schedule.trace());
            }
        }
    });
}

#[test]
fn arch_1_a_job_that_fell_behind_retention_continues_in_the_archive() {
    block_on(async {
        for kind in ORDERED {
            let queries = [kind.query().await];
            let mut schedule = rested(kind, &queries).await;
            schedule.crash(0);
            let position = schedule.world.lock().topic.partitions[0].high();
            for _ in 0..10 {
                schedule.arrive();
            }
            let high = schedule.world.lock().topic.partitions[0].high();
            schedule.archive(0, high - 1);
            schedule.delete_before(0, high - 2);
            assert!(position < high - 2);
            schedule.catch_up().await.unwrap();
            check_all(kind, &schedule).await;
        }
    });
}

#[test]
fn exact_3_a_job_is_rewound_into_the_archive() {
    block_on(async {
        for kind in ORDERED {
            let queries = [kind.query().await];
            let mut schedule = before_the_job(kind, &queries, 20).await;
            schedule.catch_up().await.unwrap();
            let high = schedule.world.lock().topic.partitions[0].high();
            schedule.archive(0, high);
            schedule.delete_before(0, high);
            for batch in [2, 0] {
                schedule.rewind_alone(batch).await;
                assert_eq!(schedule.history().await.batches.len() as u64, batch);
                schedule.catch_up().await.unwrap();
                check_all(kind, &schedule).await;
            }
        }
    });
}

#[test]
fn loss_1_a_hole_between_archive_and_topic_stops_the_job_and_is_named() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut schedule = before_the_job(Kind::Rows, &queries, 20).await;
        schedule.archive(0, 8);
        schedule.delete_before(0, 11);
        let error = schedule.catch_up().await.unwrap_err();
        let says = "partition 0 lacks offsets 8 to 10";
        assert!(error.message().contains(says), "{error}");
        // What comes before the hole was read.
        assert_eq!(batches(&schedule).await, [(0, 6), (6, 8)]);
        schedule.answer_now().await.unwrap();
        schedule.catch_up().await.unwrap();
        assert_eq!(batches(&schedule).await[2].0, 11);
        check_all(Kind::Rows, &schedule).await;
    });
}

#[test]
fn arch_1_a_source_that_does_not_read_the_archive_is_found() {
    let hidden = PlantedFaults {
        archive: true,
        ..PlantedFaults::default()
    };
    assert!(is_found(Kind::Rows, hidden, &[]));
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);
