//! A job and runs over its past in one data directory (RUN-4): the job is killed, fenced, rewound and paused while its topic grows, is
//! archived and forgets, and two runs over neighbouring ranges read what they have pinned of it, with processes that die, sleep and go on
//! as zombies. The job gives what it gives alone, and the runs give what their definition says, however the job goes on (RUN-1, RUN-2, RUN-3).
//! A run that a statement ends meanwhile has in the sink what its log says, and writes nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};

use super::jobs::{Kind, SOURCE};
use super::past::PinnedTopic;
use super::random::Random;
use super::runs::{Hazards, RunPart, RunSchedule, expected, new_sink, watermark_of};
use super::schedule::Schedule;
use super::sink::{Commit, OutRow};
use super::source::{Row, SECOND, Topic};
use super::world::{PlantedFaults, Process, World};
use super::{ENOUGH, block_on, check, late, queries, runtime, versions};
use crate::core::jobs::{ChangeCounts, Gaps, Heartbeat};
use crate::core::runs::{Difference, EmitRows, FloatTolerance, OffsetSet, TimeRange};
use crate::core::schedules::{self, Schedules};
use crate::runtime::clock::Clock as _;
use crate::streaming::JobQuery;

/// How many schedules a test runs of each job, unless `ANABRANCH_SEEDS` says another number.
const SEEDS: u64 = 6;

/// How often of a thousand turns of each run a statement begins to end it.
const NEVER: [u64; 2] = [0, 0];
/// The same for the first of the runs alone, and seldom for the second.
const SOMETIMES: [u64; 2] = [30, 5];

/// A job and the runs beside it.
struct Beside<'q> {
    job: Schedule<'q>,
    runs: Vec<RunSchedule>,
    random: Random,
    /// What the runs emit together, in seconds.
    range: (i64, i64),
    watermark: Option<i64>,
    past: PinnedTopic,
    /// How many records the job says that it leaves.
    backlog: u64,
}

/// Lets the job run for a while and pins its topic; none if nothing has come yet. Statements end runs at these rates.
async fn beside(
    kind: Kind,
    mut job: Schedule<'_>,
    mut random: Random,
    aborts: [u64; 2],
) -> Result<(Option<Beside<'_>>, u64), String> {
    let alone = 30 + random.below(job.turns() / 2);
    for _ in 0..alone {
        job.go_on().await.map_err(|fault| traced(&fault, &job))?;
    }
    let left = job.turns() - alone.min(job.turns());
    let past = PinnedTopic::of(&job.world);
    let times: BTreeSet<i64> = past.rows().iter().map(|(.., row)| row.time).collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return Ok((None, left));
    };
    let length = u64::try_from(last - first).unwrap();
    let from = first + i64::try_from(random.below(length / 2 + 1)).unwrap();
    let middle = from + 1 + i64::try_from(random.below(length / 2 + 1)).unwrap();
    let to = middle + 1 + i64::try_from(random.below(length / 2 + 1)).unwrap();
    let watermark = watermark_of(&past, |_| random.chance(700));
    let mut runs = Vec::new();
    let ranges = [("first", (from, middle)), ("second", (middle, to))];
    for ((run_id, range), aborts) in ranges.into_iter().zip(aborts) {
        let part = RunPart {
            range,
            watermark,
            ..RunPart::of(kind, run_id, past.clone())
        };
        let mut own = Random::new(random.next());
        let hazards = Hazards::new(&mut own).with_aborts(aborts);
        runs.push(begin(&job, part, own, hazards).await);
    }
    let beside = Beside {
        job,
        runs,
        random,
        range: (from, to),
        watermark,
        past,
        backlog: 0,
    };
    Ok((Some(beside), left))
}

/// A run beside a job, to which it gives way, with a world and a sink of its own.
async fn begin(job: &Schedule<'_>, part: RunPart, random: Random, hazards: Hazards) -> RunSchedule {
    let part = RunPart {
        job: Some(job.id),
        ..part
    };
    let world = World::new(random, Topic::default(), new_sink(), hazards.rates);
    RunSchedule::begin(part, Arc::new(world), job.disk.clone(), hazards).await
}

/// A process of the job says how many records are left, at a time of the clock of a run.
async fn beat(job: &Schedule<'_>, backlog: u64, run: &RunSchedule) {
    let beat = Heartbeat {
        owner: "the job".to_owned(),
        waiting: None,
        opening: false,
        backlog: Some(backlog),
        at: Process::new(&run.world, 0).now(),
    };
    job.store.put_heartbeat(job.id, &beat).await.unwrap();
}

fn traced(fault: &str, job: &Schedule<'_>) -> String {
    format!("{fault}\n{}", job.trace())
}

impl Beside<'_> {
    /// The job has so many turns, the runs have as many in between, and then all come to their end, in any order.
    async fn run(&mut self, turns: u64) -> Result<(), String> {
        for _ in 0..2 * turns {
            if self.random.chance(50) {
                self.beat().await;
            }
            match self.random.index(4) {
                number @ (0 | 1) => self.runs[number].go_on().await?,
                _ => self.job.go_on().await?,
            }
        }
        let is_job_first = self.random.chance(500);
        if is_job_first {
            self.job.finish().await?;
        }
        for run in &mut self.runs {
            run.finish().await?;
        }
        if !is_job_first {
            self.job.finish().await?;
        }
        Ok(())
    }

    /// The process of the job says how many records are left.
    async fn beat(&mut self) {
        self.backlog = match self.random.below(3) {
            0 => self.backlog / 2,
            _ => self.backlog + self.random.below(100),
        };
        beat(&self.job, self.backlog, &self.runs[0]).await;
    }

    async fn check(&mut self, kind: Kind) -> Result<(), String> {
        check(kind, &self.job)
            .await
            .map_err(|fault| format!("RUN-4: {fault}"))?;
        let mut together = BTreeSet::new();
        for run in &mut self.runs {
            run.check().await?;
            together.extend(run.given());
        }
        let is_whole = !self.runs.iter().any(RunSchedule::is_aborted);
        if !self.past.is_lost() && is_whole {
            self.check_together(kind, &together)?;
        }
        if kind.is_upsert() {
            for run in &self.runs {
                let commits = self.job.world.lock().sink.commits.clone();
                check_difference(&by_key(&commits), &run.given())?;
            }
        }
        Ok(())
    }

    /// RUN-3: runs over the parts of a range give what one run over it gives.
    fn check_together(&self, kind: Kind, together: &BTreeSet<OutRow>) -> Result<(), String> {
        let (from, to) = self.range;
        let range = TimeRange::try_new(from * SECOND, to * SECOND).unwrap();
        let whole = expected(kind, &self.past.rows(), range, self.watermark);
        let whole: BTreeSet<OutRow> = whole.into_iter().collect();
        match *together == whole {
            true => Ok(()),
            false => Err(format!(
                "RUN-3: both runs have given {together:?}, and one would have given {whole:?}"
            )),
        }
    }

    /// What has happened to the job and to its runs.
    fn trace(&self) -> String {
        let runs = self.runs.iter().map(RunSchedule::trace);
        let all: Vec<String> = std::iter::once(self.job.trace()).chain(runs).collect();
        all.join("\n\n")
    }
}

/// A key of rows: their first two columns.
type RowKey = (Option<i64>, Option<i64>);

/// What a reader by key has of these commits.
fn by_key(commits: &[Commit]) -> BTreeMap<RowKey, OutRow> {
    let mut rows = BTreeMap::new();
    for commit in commits {
        for row in &commit.withdrawn {
            rows.remove(&(row[0], row[1]));
        }
        for row in &commit.rows {
            rows.insert((row[0], row[1]), row.clone());
        }
    }
    rows
}

/// RUN-5: of computed rows, those that differ from the published ones leave the same to readers by key as all of them.
fn check_difference(
    published: &BTreeMap<RowKey, OutRow>,
    computed: &[OutRow],
) -> Result<(), String> {
    let before: Vec<OutRow> = published.values().cloned().collect();
    let (of_sink, of_run) = (batch_of(&before), batch_of(computed));
    let tolerance = FloatTolerance::default();
    let by_key = Difference::try_new(of_sink.schema(), vec![0, 1], vec![2, 3, 4, 5], tolerance);
    let is_readable = BooleanArray::from(vec![true; computed.len()]);
    let found = by_key.unwrap().compare(&of_sink, &of_run, &is_readable);
    let found = found.unwrap();
    let mut counts = ChangeCounts::default();
    let keys: BTreeSet<RowKey> = computed.iter().map(|row| (row[0], row[1])).collect();
    for row in computed {
        match published.get(&(row[0], row[1])) {
            None => counts.new += 1,
            Some(before) if before == row => counts.same += 1,
            Some(_) => counts.changed += 1,
        }
    }
    let is_gone = |key: &&RowKey| !keys.contains(*key);
    counts.gone = published.keys().filter(is_gone).count() as u64;
    if found.counts() != counts {
        return Err(format!(
            "RUN-5: {:?} are counted, and {counts:?} differ",
            found.counts()
        ));
    }
    for withdraw in [false, true] {
        let after = |emit: EmitRows| {
            let emitted = found.emitted(emit, withdraw);
            let mut rows = published.clone();
            for at in emitted.withdrawn.values().iter() {
                let row = &before[usize::try_from(*at).unwrap()];
                rows.remove(&(row[0], row[1]));
            }
            for at in emitted.rows.values().iter() {
                let row = &computed[usize::try_from(*at).unwrap()];
                rows.insert((row[0], row[1]), row.clone());
            }
            rows
        };
        let (all, changed) = (after(EmitRows::All), after(EmitRows::Changed));
        if all != changed {
            return Err(format!(
                "RUN-5: readers have {changed:?} after EMIT CHANGED, and {all:?} after EMIT ALL"
            ));
        }
    }
    Ok(())
}

/// Rows of six numbers.
fn batch_of(rows: &[OutRow]) -> RecordBatch {
    let columns = ["k", "s", "e", "n", "total", "final"];
    let columns = (0..).zip(columns).map(|(at, name): (usize, _)| {
        let values: Int64Array = rows.iter().map(|row| row[at]).collect();
        (name, Arc::new(values) as ArrayRef, true)
    });
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The schedule of a seed. The runs do not see what `hidden` names, and statements end them at these rates. Gives how many were ended.
async fn run(
    kind: Kind,
    queries: &[Arc<JobQuery>],
    seed: u64,
    hidden: PlantedFaults,
    aborts: [u64; 2],
) -> Result<usize, String> {
    let mut random = Random::new(seed);
    let job = Schedule::over_one_topic(kind, queries, random.next()).await;
    let (Some(mut beside), turns) = beside(kind, job, random, aborts).await? else {
        return Ok(0);
    };
    for run in &beside.runs {
        run.world.lock().hidden = hidden;
    }
    let outcome = match beside.run(turns).await {
        Ok(()) => beside.check(kind).await,
        failed => failed,
    };
    outcome.map_err(|fault| format!("{fault}\n{}", beside.trace()))?;
    let ended = beside.runs.iter().filter(|run| run.is_aborted());
    Ok(ended.count())
}

/// Gives how many runs statements have ended.
fn simulate(kind: Kind, aborts: [u64; 2]) -> usize {
    let mut ended = 0;
    block_on(async {
        let queries = queries(kind).await;
        let counted = Schedules::of(format!("runs beside {kind:?}, ended at {aborts:?}"));
        let mut failed = Vec::new();
        for seed in schedules::seeds(SEEDS, &[]) {
            counted.count();
            match run(kind, &queries, seed, PlantedFaults::default(), aborts).await {
                Ok(count) => ended += count,
                Err(fault) => failed.push(format!("ANABRANCH_SEED={seed} runs it again: {fault}")),
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    });
    ended
}

#[test]
fn run_4_a_job_of_rows_beside_runs_gives_what_it_gives_alone() {
    simulate(Kind::Rows, NEVER);
}

#[test]
fn run_4_a_job_of_windows_beside_runs_gives_what_it_gives_alone() {
    simulate(Kind::TumbleOnClose, NEVER);
}

#[test]
fn run_4_a_job_of_overlapping_windows_beside_runs_gives_what_it_gives_alone() {
    simulate(Kind::HopChanges, NEVER);
}

#[test]
fn run_4_a_job_of_sessions_beside_runs_gives_what_it_gives_alone() {
    simulate(Kind::SessionChanges, NEVER);
}

#[test]
fn runs_of_rows_that_are_ended_have_the_chunks_of_their_log() {
    let ended = simulate(Kind::Rows, SOMETIMES);
    assert!(ended > 0 || has_few_seeds());
}

#[test]
fn runs_of_sessions_that_are_ended_have_the_chunks_of_their_log() {
    let ended = simulate(Kind::SessionChanges, SOMETIMES);
    assert!(ended > 0 || has_few_seeds());
}

/// Whether the environment asks for fewer schedules than usual: perhaps no run of them is ended.
fn has_few_seeds() -> bool {
    (schedules::seeds(SEEDS, &[]).len() as u64) < SEEDS
}

#[test]
fn run_2_a_run_that_reads_its_topic_as_it_is_now_is_found() {
    let runtime = runtime();
    let queries = runtime.block_on(queries(Kind::Rows));
    let hidden = PlantedFaults {
        pins: true,
        ..PlantedFaults::default()
    };
    let finds = |seed| {
        let run = run(Kind::Rows, &queries, seed, hidden, NEVER);
        runtime.block_on(run).is_err()
    };
    let planted = format!("a run beside {:?}, {}", Kind::Rows, hidden.what());
    assert!(schedules::found_by(&planted, &[], ENOUGH, finds).is_some());
}

/// What a job has done: the offsets and the watermark of each batch, how many rows it has read, written and left as late; its rows in the
/// sink, and its open windows.
#[derive(Debug, PartialEq)]
struct JobOutcome {
    batches: Vec<(Gaps, Option<i64>, [u64; 3])>,
    commits: Vec<(Vec<OutRow>, Vec<OutRow>)>,
    open: Vec<OutRow>,
}

/// A job over the same records, alone or beside a run that starts, goes on and dies between its batches.
async fn outcome_of(kind: Kind, queries: &[Arc<JobQuery>], has_run: bool) -> JobOutcome {
    let mut job = Schedule::quiet(kind, queries).await;
    job.crash(0);
    let mut run = None;
    for round in 0..8 {
        {
            let mut state = job.world.lock();
            let rows = &mut state.topic.partitions[0].rows;
            if round == 0 {
                rows.clear();
            }
            for number in 0..7 {
                let serial = round * 7 + number;
                let at = i64::try_from(serial).unwrap();
                // Each key has five rows and then a pause, so that sessions end. Some rows come late.
                let behind = if serial % 13 == 5 { 30 } else { 0 };
                rows.push(Row {
                    serial,
                    at: 0,
                    key: Some(1 + at / 5 % 3),
                    time: 100 + at * 2 - behind,
                    value: at * at,
                    is_bad: serial % 17 == 4,
                });
            }
        }
        job.catch_up().await.unwrap();
        if has_run && round == 3 {
            let past = PinnedTopic::of(&job.world);
            let part = RunPart {
                range: (80, 130),
                watermark: watermark_of(&past, |_| true),
                ..RunPart::of(kind, "beside", past)
            };
            run = Some(begin(&job, part, Random::new(1), Hazards::default()).await);
        }
        if let Some(run) = &mut run {
            for _ in 0..10 {
                run.go_on().await.unwrap();
            }
        }
    }
    if let Some(run) = &mut run {
        run.finish().await.unwrap();
        run.check().await.unwrap();
        assert!(!run.given().is_empty(), "{}", run.trace());
    }
    let history = job.history().await;
    let versions = versions(&job, &history).await;
    let last = versions.last().map(|(_, version)| version);
    let open = match kind.is_stateful() {
        true => super::state(&job, last).await,
        false => Vec::new(),
    };
    let batches = versions.iter().map(|(_, version)| {
        let watermark = version.time.as_ref().and_then(|time| time.watermark);
        let counts = [version.rows_in, version.rows_out, version.late_rows];
        (version.sources.clone(), watermark, counts)
    });
    let commits = job.world.lock().sink.commits.clone();
    let commits = commits.into_iter().map(|commit| {
        let (mut rows, mut withdrawn) = (commit.rows, commit.withdrawn);
        rows.sort_unstable();
        withdrawn.sort_unstable();
        (rows, withdrawn)
    });
    JobOutcome {
        batches: batches.collect(),
        commits: commits.collect(),
        open,
    }
}

#[test]
fn run_4_batches_rows_and_state_are_the_same_with_and_without_a_run() {
    block_on(async {
        for kind in [
            Kind::Rows,
            Kind::TumbleOnClose,
            Kind::HopChanges,
            Kind::SessionChanges,
        ] {
            let queries = [kind.query().await];
            let alone = outcome_of(kind, &queries, false).await;
            assert!(alone.batches.len() >= 8, "{alone:?}");
            let beside = outcome_of(kind, &queries, true).await;
            assert_eq!(alone, beside, "{kind:?}");
        }
    });
}

/// The rows that a job has given as final.
fn final_rows(job: &Schedule<'_>) -> Vec<OutRow> {
    let commits = job.world.lock().sink.commits.clone();
    let rows = commits.into_iter().flat_map(|commit| commit.rows);
    let mut rows: Vec<OutRow> = rows.filter(|row| row[5] == Some(1)).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn run_1_without_late_rows_a_run_over_everything_gives_what_the_job_has_given() {
    block_on(async {
        let mut with_late = 0;
        for kind in [
            Kind::TumbleOnClose,
            Kind::TumbleChanges,
            Kind::SessionChanges,
        ] {
            let queries = [kind.query().await];
            for more in 0..3 {
                let mut job = Schedule::quiet(kind, &queries).await;
                job.crash(0);
                for _ in 0..more {
                    job.world.lock().random.next();
                }
                for _ in 0..12 + more {
                    job.arrive();
                    job.catch_up().await.unwrap();
                }
                let history = job.history().await;
                let versions = versions(&job, &history).await;
                let mut left_out = Vec::new();
                for (name, version) in &versions {
                    let late = late(&job, name, version).await;
                    left_out.extend(late.into_iter().map(|((partition, offset), _)| {
                        (SOURCE.to_owned(), partition, offset..offset + 1)
                    }));
                }
                with_late += left_out.len();
                let (_, last) = versions.last().unwrap();
                let part = RunPart {
                    range: (60, 200),
                    watermark: last.time.as_ref().unwrap().closed_by,
                    left_out: OffsetSet::of(left_out),
                    ..RunPart::of(kind, "all", PinnedTopic::of(&job.world))
                };
                let mut run = begin(&job, part, Random::new(more), Hazards::default()).await;
                run.finish().await.unwrap();
                run.check().await.unwrap();
                let given = final_rows(&job);
                assert!(!given.is_empty(), "{}", job.trace());
                assert_eq!(run.given(), given, "{kind:?}\n{}", job.trace());
            }
        }
        assert!(with_late > 0, "no row came late");
    });
}

#[test]
fn a_run_waits_for_a_job_that_falls_behind_and_comes_to_its_end() {
    block_on(async {
        let queries = [Kind::Rows.query().await];
        let mut job = Schedule::quiet(Kind::Rows, &queries).await;
        job.crash(0);
        for _ in 0..12 {
            job.arrive();
        }
        let part = RunPart {
            range: (60, 200),
            ..RunPart::of(Kind::Rows, "waits", PinnedTopic::of(&job.world))
        };
        let mut run = begin(&job, part, Random::new(1), Hazards::default()).await;
        for backlog in 0..2_000 {
            beat(&job, backlog, &run).await;
            run.go_on().await.unwrap();
        }
        let trace = run.world.lock().trace.clone();
        let waits = trace.iter().filter(|line| line.contains("falls behind"));
        assert!(waits.count() > 5, "{}", run.trace());
        let given = run.given().len();
        run.finish().await.unwrap();
        run.check().await.unwrap();
        assert!(given < run.given().len(), "{}", run.trace());
    });
}
