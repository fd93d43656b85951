//! The protocol of a job under a simulated store and sink: runners that crash, pause and wake as zombies at any step, in
//! schedules made from a seed. What the sink holds in the end is compared with what was to be read (EXACT-1, LOSS-1).

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::recovery::BEGINNING;
use super::version::{BatchVersion, FORMAT, SourceProgress};
use super::{Decision, Entry, JobHistory, PartitionFacts, Staged, choose, recover};

/// What outlives a process: the log, the versions, and the sink.
#[derive(Default)]
struct World {
    log: Vec<Entry>,
    versions: BTreeMap<String, BatchVersion>,
    sink: Sink,
    /// Records in each partition of the topic.
    highs: Vec<i64>,
    names: u64,
}

/// A transactional sink: whoever fenced last may commit, rows and witness together.
#[derive(Default)]
struct Sink {
    epoch: u64,
    witness: Option<String>,
    rows: Vec<(i32, i64)>,
}

/// A runner between two steps.
#[derive(Clone)]
enum Step {
    TakeOver,
    Fence {
        is_first: bool,
    },
    Recover {
        is_first: bool,
        epoch: u64,
    },
    Choose {
        history: JobHistory,
        epoch: u64,
    },
    Stage {
        history: JobHistory,
        epoch: u64,
        version: BatchVersion,
    },
    Commit {
        history: JobHistory,
        epoch: u64,
        version: BatchVersion,
        name: String,
    },
    Log {
        history: JobHistory,
        epoch: u64,
        batch: u64,
        name: String,
    },
}

impl World {
    fn new() -> Self {
        Self {
            log: vec![Entry::Created {
                name: "j".into(),
                text: String::new(),
                tables: vec![],
                at: 0,
            }],
            highs: vec![0, 0],
            ..Self::default()
        }
    }

    fn history(&self) -> JobHistory {
        JobHistory::of(&self.log).expect("a log begins with Created")
    }

    /// Put-if-absent.
    fn append(&mut self, number: u64, entry: Entry) -> bool {
        let free = number == self.log.len() as u64;
        if free {
            self.log.push(entry);
        }
        free
    }

    fn staged(&self, history: &JobHistory) -> Vec<Staged> {
        self.versions
            .iter()
            .filter(|(name, _)| !history.was_committed(name))
            .map(|(name, version)| Staged {
                name: name.clone(),
                batch: version.batch,
                parent: version.parent.clone(),
            })
            .collect()
    }

    /// Does one step of a runner; gives the next one. A runner that lost starts anew.
    fn step(&mut self, runner: u64, step: Step) -> Step {
        match step {
            Step::TakeOver => {
                let history = self.history();
                let is_first = history.owner.is_none();
                let entry = Entry::Takeover {
                    owner: runner.to_string(),
                    at: 0,
                };
                if !self.append(history.next, entry) {
                    return Step::TakeOver;
                }
                Step::Fence { is_first }
            }
            Step::Fence { is_first } => {
                self.sink.epoch += 1;
                let epoch = self.sink.epoch;
                Step::Recover { is_first, epoch }
            }
            Step::Recover { is_first, epoch } => {
                // Between the takeover and the fence somebody else may have taken over, and even run batches.
                let mut history = self.history();
                if history.owner != Some(runner.to_string()) {
                    return Step::TakeOver;
                }
                let staged = self.staged(&history);
                match recover(&history, is_first, self.sink.witness.as_deref(), &staged) {
                    Decision::GoOn => {}
                    Decision::AppendCommitted { batch, version } => {
                        let entry = Entry::Committed {
                            batch,
                            version,
                            at: 0,
                        };
                        if !self.append(history.next, entry.clone()) {
                            return Step::TakeOver;
                        }
                        history.apply(&entry);
                    }
                    Decision::Unclear { reason, .. } => panic!("{reason}"),
                }
                if self.sink.epoch != epoch {
                    return Step::TakeOver;
                }
                let last = history.last().map(|last| last.version.clone());
                self.sink.witness = Some(last.unwrap_or_else(|| BEGINNING.to_owned()));
                for left in staged {
                    if !history.was_committed(&left.name) {
                        self.versions.remove(&left.name);
                    }
                }
                Step::Choose { history, epoch }
            }
            Step::Choose { history, epoch } => {
                let last = history.last().map(|last| &self.versions[&last.version]);
                let facts: Vec<PartitionFacts> = (0..)
                    .zip(&self.highs)
                    .map(|(partition, high)| PartitionFacts {
                        partition,
                        position: last.and_then(|last| last.next_offset("t", partition)),
                        low: 0,
                        high: *high,
                        waits: false,
                    })
                    .collect();
                let ranges = choose(&facts, false, 3, false).expect("nothing is lost");
                if ranges.iter().all(|range| range.start == range.end) {
                    return Step::Choose { history, epoch };
                }
                let progress = ranges.iter().map(|range| {
                    let at = SourceProgress {
                        start: range.start,
                        end: range.end,
                    };
                    (range.partition, at)
                });
                let version = BatchVersion {
                    format: FORMAT,
                    batch: history.next_batch(),
                    generation: history.generation,
                    sequence: history.next,
                    parent: history.last().map(|last| last.version.clone()),
                    sources: [("t".to_owned(), progress.collect())].into(),
                    skipped: BTreeMap::new(),
                    rows_in: 0,
                    bytes_in: 0,
                    rows_out: 0,
                    published: BTreeMap::new(),
                    files: vec![],
                    dead_letters: vec![],
                    time: None,
                    state: vec![],
                    fingerprint: None,
                    late_rows: 0,
                    started_at: 0,
                    took: 0,
                };
                Step::Stage {
                    history,
                    epoch,
                    version,
                }
            }
            Step::Stage {
                history,
                epoch,
                version,
            } => {
                self.names += 1;
                let name = format!("{:010}-{}", version.sequence, self.names);
                self.versions.insert(name.clone(), version.clone());
                Step::Commit {
                    history,
                    epoch,
                    version,
                    name,
                }
            }
            Step::Commit {
                history,
                epoch,
                version,
                name,
            } => {
                if self.sink.epoch != epoch {
                    return Step::TakeOver;
                }
                for (partition, at) in &version.sources["t"] {
                    let rows = (at.start..at.end).map(|offset| (*partition, offset));
                    self.sink.rows.extend(rows);
                }
                self.sink.witness = Some(name.clone());
                Step::Log {
                    history,
                    epoch,
                    batch: version.batch,
                    name,
                }
            }
            Step::Log {
                mut history,
                epoch,
                batch,
                name,
            } => {
                let entry = Entry::Committed {
                    batch,
                    version: name,
                    at: 0,
                };
                if !self.append(history.next, entry.clone()) {
                    return Step::TakeOver;
                }
                history.apply(&entry);
                Step::Choose { history, epoch }
            }
        }
    }
}

/// What a schedule does next.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A runner does its next step; the others sleep, perhaps for long.
    Step(usize),
    /// A runner dies and is started anew.
    Crash(usize),
    /// A record arrives.
    Arrive(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(
        prop_oneof![
            12 => (0_usize..3).prop_map(Event::Step),
            1 => (0_usize..3).prop_map(Event::Crash),
            4 => (0_usize..2).prop_map(Event::Arrive),
        ],
        0..400,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn exact_1_every_schedule_leaves_every_row_once(events in events()) {
        let mut world = World::new();
        let mut runners = vec![Step::TakeOver; 3];
        for event in events {
            match event {
                Event::Step(runner) => {
                    let step = runners[runner].clone();
                    runners[runner] = world.step(runner as u64, step);
                }
                Event::Crash(runner) => runners[runner] = Step::TakeOver,
                Event::Arrive(partition) => world.highs[partition] += 1,
            }
            // At every moment: no row twice, and none that was not there.
            let mut rows = world.sink.rows.clone();
            rows.sort_unstable();
            let count = rows.len();
            rows.dedup();
            prop_assert_eq!(rows.len(), count, "a row is there twice");
        }
        // Left alone, one runner brings everything to an end.
        let mut last = Step::TakeOver;
        for _ in 0..2_000 {
            last = world.step(9, last);
        }
        let mut rows = world.sink.rows.clone();
        rows.sort_unstable();
        let expected: Vec<(i32, i64)> = (0..)
            .zip(&world.highs)
            .flat_map(|(partition, high)| (0..*high).map(move |offset| (partition, offset)))
            .collect();
        prop_assert_eq!(rows, expected);
        let history = world.history();
        let ends: i64 = history
            .last()
            .map_or(0, |last| world.versions[&last.version].sources["t"].values().map(|at| at.end).sum());
        prop_assert_eq!(ends, world.highs.iter().sum::<i64>());
    }
}
