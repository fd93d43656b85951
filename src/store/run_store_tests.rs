//! A run id is one run, also if the store fails; statements about a run and its runner agree by its log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

use super::*;
use crate::core::jobs::{ChangeCounts, ComparedChunk};
use crate::core::runs::spec::fixture::spec;
use crate::core::runs::{AbortDecision, RunOptions, chunk_progress, decide_abort};
use crate::store::simulated::{CallFate, DelayedWrite, Faults, SimulatedDisk};

/// Decides by a list what becomes of the writes; all other calls succeed.
#[derive(Default)]
struct ListedFates {
    fates: Mutex<VecDeque<CallFate>>,
    later: Mutex<Vec<DelayedWrite>>,
}

impl std::fmt::Debug for ListedFates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ListedFates")
    }
}

impl Faults for ListedFates {
    fn step(&self) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }

    fn fate(&self, _: &str, writes: bool) -> CallFate {
        let next = writes.then(|| self.fates.lock().unwrap().pop_front());
        next.flatten().unwrap_or(CallFate::Done)
    }

    fn later(&self, later: DelayedWrite) {
        self.later.lock().unwrap().push(later);
    }
}

impl ListedFates {
    fn of(fates: impl IntoIterator<Item = CallFate>) -> Arc<Self> {
        Arc::new(Self {
            fates: Mutex::new(fates.into_iter().collect()),
            later: Mutex::default(),
        })
    }

    /// The delayed writes arrive.
    fn arrive(&self) {
        let later = std::mem::take(&mut *self.later.lock().unwrap());
        later.into_iter().for_each(|later| later());
    }
}

fn seen(disk: &SimulatedDisk, faults: &Arc<ListedFates>) -> RunStore {
    RunStore::new(&disk.seen_with(Arc::clone(faults) as Arc<dyn Faults>))
}

async fn created(store: &RunStore, run_id: &str) -> StoredRun {
    match store.create(spec(run_id), 1).await.unwrap() {
        RunCreation::Created(run) => run,
        RunCreation::Exists(run) => panic!("{} exists", run.spec.run_id),
    }
}

fn compared(from: i64, to: i64) -> RunEvent {
    RunEvent::Compared(ComparedChunk {
        extent: ChunkExtent::Time { from, to },
        counts: ChangeCounts {
            new: 1,
            ..ChangeCounts::default()
        },
        changes: None,
        left: Default::default(),
    })
}

/// The run commits a chunk, as its runner does.
async fn commit(store: &RunStore, run: &mut StoredRun, number: u64, extent: (i64, i64)) -> bool {
    let (from, to) = extent;
    let range = crate::core::runs::TimeRange::try_new(from, to).unwrap();
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
        rows_out: number,
        ..BatchVersion::default()
    };
    store.jobs().stage(run.id, &name, &version).await.unwrap();
    let entry = LogEntry::Committed {
        batch: number,
        version: name,
        at: 5,
    };
    let history = &mut run.history;
    let appended = store.jobs().append_next(run.id, history, &entry).await;
    appended.unwrap()
}

/// A statement ends the run, by the newest state.
async fn abort(store: &RunStore, run: &mut StoredRun) -> AbortDecision {
    loop {
        let decision = decide_abort(&run.state());
        let is_decided = decision != AbortDecision::Abort
            || store.append(run, RunEvent::Aborted, 4).await.unwrap();
        if is_decided {
            return decision;
        }
        run.history = store.jobs().history(run.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_run_id_is_one_run() {
    let disk = SimulatedDisk::default();
    let store = seen(&disk, &ListedFates::of([]));
    assert_eq!(store.find("r").await.unwrap(), None);
    let first = created(&store, "r").await;
    assert_eq!(first.state(), RunState::Planning);
    // Another range and other options: it exists, with what it was created with.
    let other = RunSpec {
        text: "CREATE JOB other …".into(),
        options: RunOptions {
            withdraw: false,
            ..spec("r").options
        },
        ..spec("r")
    };
    let found = store.create(other, 2).await.unwrap();
    assert_eq!(found, RunCreation::Exists(first.clone()));
    assert_eq!(store.find("r").await.unwrap(), Some(first));
    let second = created(&store, "s").await;
    let all = store.all().await.unwrap();
    let names: Vec<&str> = all.iter().map(|run| run.run_id.as_str()).collect();
    assert_eq!(names, ["r", "s"]);
    assert_eq!(all[1].found.as_ref().unwrap(), &second);
}

#[tokio::test]
async fn one_of_many_processes_creates_a_run() {
    let disk = SimulatedDisk::default();
    let creations = (0..8_i64).map(|process| {
        let store = seen(&disk, &ListedFates::of([]));
        let own = RunSpec {
            now: process,
            ..spec("r")
        };
        async move { store.create(own, process).await.unwrap() }
    });
    let found = futures::future::join_all(creations).await;
    let mut runs = BTreeMap::new();
    let mut won = 0;
    for creation in found {
        won += usize::from(matches!(creation, RunCreation::Created(_)));
        let (RunCreation::Created(run) | RunCreation::Exists(run)) = creation;
        runs.insert(run.id, run.spec.now);
    }
    assert_eq!((won, runs.len()), (1, 1), "{runs:?}");
}

/// The writes of a creation are the entry, the spec and the name. If any of them fails, the same call brings it to an end, and a run that
/// is found is whole.
#[tokio::test]
async fn a_creation_that_fails_can_be_repeated() {
    use CallFate::{AnswerLost, Done, Late, Refused, Repeated};
    for fate in [Refused, AnswerLost, Late, Repeated] {
        for at in 0..3 {
            let disk = SimulatedDisk::default();
            let faults = ListedFates::of((0..at).map(|_| Done).chain([fate]));
            let store = seen(&disk, &faults);
            let first = store.create(spec("r"), 1).await;
            // Between the two the other process sees no run, or the whole one.
            let between = seen(&disk, &ListedFates::of([]));
            let between = between.find("r").await.unwrap();
            assert!(
                between.is_none_or(|run| run.spec == spec("r")),
                "{fate:?} {at}"
            );
            let second = store.create(spec("r"), 1).await.unwrap();
            faults.arrive();
            let (RunCreation::Created(run) | RunCreation::Exists(run)) = second;
            if let Ok(RunCreation::Created(first)) = first {
                assert_eq!(first.id, run.id, "{fate:?} {at}");
            }
            let found = store.find("r").await.unwrap().unwrap();
            assert_eq!(
                (found.id, &found.spec),
                (run.id, &spec("r")),
                "{fate:?} {at}"
            );
        }
    }
}

#[tokio::test]
async fn runs_lie_beside_jobs_and_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
    let (store, jobs) = (RunStore::new(&dir), JobStore::new(dir));
    let run = created(&store, "a/b 'c'").await;
    assert_eq!(jobs.names().await.unwrap(), [] as [&str; 0]);
    let path = format!("runs/jobs/{}/spec.json", run.id);
    assert!(folder.path().join(path).is_file());
    assert_eq!(store.find("a/b 'c'").await.unwrap(), Some(run.clone()));
    // What differs is kept beside, and is checked when it is read.
    let file = store.put_changes(&run, 3, b"rows".to_vec()).await.unwrap();
    assert_eq!(store.changes(&run, &file).await.unwrap(), &b"rows"[..]);
    let path = format!("runs/jobs/{}/changes/{}.arrow", run.id, file.name);
    std::fs::write(folder.path().join(path), b"sown").unwrap();
    assert!(store.changes(&run, &file).await.is_err());
}

#[tokio::test]
async fn a_plan_is_applied_and_its_chunks_are_read_back() {
    let disk = SimulatedDisk::default();
    let store = seen(&disk, &ListedFates::of([]));
    let mut run = created(&store, "r").await;
    let refused = store.apply(&mut run, false, 2).await.unwrap();
    assert!(matches!(refused, ApplyDecision::Refuse(_)), "{refused:?}");
    for event in [compared(0, 10), compared(10, 20), RunEvent::Planned] {
        assert!(store.append(&mut run, event, 2).await.unwrap());
    }
    let applied = store.apply(&mut run, false, 3).await.unwrap();
    assert_eq!(
        (applied, run.state()),
        (ApplyDecision::Approve, RunState::Running)
    );
    assert!(commit(&store, &mut run, 1, (0, 15)).await);
    assert!(commit(&store, &mut run, 2, (15, 20)).await);
    assert!(
        store
            .append(&mut run, RunEvent::Completed, 6)
            .await
            .unwrap()
    );
    let read = store.find("r").await.unwrap().unwrap();
    assert_eq!((read.state(), &read), (RunState::Complete, &run));
    let chunks = store.chunks(&read).await.unwrap();
    let extents: Vec<(u64, &ChunkExtent, u64)> = chunks
        .iter()
        .map(|chunk| (chunk.number, &chunk.extent, chunk.rows_out))
        .collect();
    let extent = |from, to| ChunkExtent::Time { from, to };
    assert_eq!(extents, [(1, &extent(0, 15), 1), (2, &extent(15, 20), 2)]);
    let again = store.apply(&mut run, false, 7).await.unwrap();
    assert_eq!(again, ApplyDecision::Complete);
    assert_eq!(abort(&store, &mut run).await, AbortDecision::Complete);
}

/// A statement and a runner that do not know of each other: the one that writes its entry first is right, and the other one learns it.
#[tokio::test]
async fn statements_and_runners_agree_by_the_log() {
    let disk = SimulatedDisk::default();
    let store = seen(&disk, &ListedFates::of([]));
    let mut run = created(&store, "r").await;
    store.apply(&mut run, true, 2).await.unwrap();
    let takeover = |owner: &str| LogEntry::Takeover {
        owner: owner.into(),
        at: 3,
    };
    let jobs = store.jobs();
    let taken = jobs
        .append_next(run.id, &mut run.history, &takeover("one"))
        .await;
    assert!(taken.unwrap());
    let mut other = store.find("r").await.unwrap().unwrap();
    let taken = jobs
        .append_next(run.id, &mut other.history, &takeover("two"))
        .await;
    assert!(taken.unwrap());
    // The first runner is fenced off by the log: its chunk is not committed.
    assert!(!commit(&store, &mut run, 1, (0, 10)).await);
    assert!(commit(&store, &mut other, 1, (0, 10)).await);
    // It is aborted by a statement that knows an old state, and the runner loses its next entry.
    assert_eq!(abort(&store, &mut run).await, AbortDecision::Abort);
    assert!(!commit(&store, &mut other, 2, (10, 20)).await);
    let read = store.find("r").await.unwrap().unwrap();
    assert_eq!(read.state(), RunState::Aborted);
    assert_eq!(store.chunks(&read).await.unwrap().len(), 1);
    let mut newest = read;
    let refused = store.apply(&mut newest, false, 5).await.unwrap();
    assert!(matches!(refused, ApplyDecision::Refuse(_)), "{refused:?}");
}

/// APPLY and ABORT at the same time: all processes see the same end.
#[tokio::test]
async fn apply_and_abort_at_once_have_one_outcome() {
    for round in 0..20 {
        let disk = SimulatedDisk::default();
        let store = seen(&disk, &ListedFates::of([]));
        let mut run = created(&store, "r").await;
        assert!(store.append(&mut run, RunEvent::Planned, 2).await.unwrap());
        let (mut one, mut two) = (run.clone(), run);
        let apply = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            store.apply(&mut one, false, 3).await.unwrap()
        };
        let (applied, aborted) = futures::join!(apply, abort(&store, &mut two));
        assert_eq!(aborted, AbortDecision::Abort);
        let is_refused = matches!(applied, ApplyDecision::Refuse(_));
        assert!(
            is_refused || applied == ApplyDecision::Approve,
            "{applied:?}"
        );
        let read = store.find("r").await.unwrap().unwrap();
        assert_eq!(read.state(), RunState::Aborted);
    }
}

#[tokio::test]
async fn a_log_that_is_made_shorter_keeps_the_events_of_the_run() {
    let disk = SimulatedDisk::default();
    let store = seen(&disk, &ListedFates::of([]));
    let mut run = created(&store, "r").await;
    for number in 0..30 {
        let event = compared(number * 10, number * 10 + 10);
        assert!(store.append(&mut run, event, 2).await.unwrap());
        if number % 10 == 9 {
            store.jobs().compact(run.id, &run.history).await.unwrap();
        }
    }
    let read = store.find("r").await.unwrap().unwrap();
    assert!(read.history.checkpoint > 0);
    assert_eq!(read.history.run, run.history.run);
    assert_eq!(read.history.run.unwrap().counts().new, 30);
}
