//! Whether a run waits for its job: it gives way while the running job falls behind.
//!
//! The heartbeats of a job say how many records its batch leaves in the sources. If a later heartbeat of the same process names more
//! than the one before, the job falls behind. A job that no process runs, or that waits for something itself, is not made slow by a run.

use crate::core::jobs::Heartbeat;
use crate::core::jobs::heartbeat::is_fresh;

/// After so many milliseconds of waiting one chunk is written all the same: a job that is too slow for its records falls behind without
/// the run as well, and a run comes to its end.
pub const LONGEST_WAIT: u64 = 600_000;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The run writes its next chunk.
    Run,
    /// The run waits.
    Job {
        /// How many records the job leaves in its sources.
        backlog: u64,
    },
}

/// What a run has seen of the job beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precedence {
    /// The last heartbeat of the running job, and the one that was seen before it.
    last: Option<Backlog>,
    before: Option<Backlog>,
    /// Since when the run waits, in milliseconds since 1970 UTC.
    waits_since: Option<i64>,
}

/// What a heartbeat says about the records that are left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backlog {
    owner: String,
    at: i64,
    records: u64,
}

impl Precedence {
    /// Decides before a chunk, and again while the run waits, by the last heartbeat of the job; `now` is milliseconds since 1970 UTC.
    pub fn look(&mut self, beat: Option<&Heartbeat>, now: i64) -> Turn {
        self.see(backlog_of(beat, now));
        let Some(backlog) = self.growing() else {
            self.waits_since = None;
            return Turn::Run;
        };
        let since = *self.waits_since.get_or_insert(now);
        if now.abs_diff(since) >= LONGEST_WAIT {
            self.waits_since = None;
            return Turn::Run;
        }
        Turn::Job { backlog }
    }

    fn see(&mut self, found: Option<Backlog>) {
        let is_of_owner = |last: &Backlog| {
            let found = found.as_ref();
            found.is_some_and(|found| found.owner == last.owner)
        };
        match self.last.take().filter(is_of_owner) {
            Some(last) if found.as_ref().is_some_and(|found| found.at == last.at) => {
                self.last = Some(last);
            }
            before => {
                self.before = before;
                self.last = found;
            }
        }
    }

    /// The records that the job leaves, if they become more.
    fn growing(&self) -> Option<u64> {
        let (before, last) = (self.before.as_ref()?, self.last.as_ref()?);
        (last.records > before.records).then_some(last.records)
    }
}

/// None if the job does not run, or its process does not say how many records are left.
fn backlog_of(beat: Option<&Heartbeat>, now: i64) -> Option<Backlog> {
    let beat =
        beat.filter(|beat| is_fresh(beat, now) && beat.waiting.is_none() && !beat.opening)?;
    Some(Backlog {
        owner: beat.owner.clone(),
        at: beat.at,
        records: beat.backlog?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::jobs::heartbeat::HEARTBEAT_EVERY;

    fn beat(at: i64, backlog: u64) -> Heartbeat {
        Heartbeat {
            owner: "a".into(),
            waiting: None,
            opening: false,
            backlog: Some(backlog),
            at,
        }
    }

    /// The decisions after these heartbeats, one each ten seconds.
    fn turns(backlogs: &[u64]) -> Vec<Turn> {
        let mut precedence = Precedence::default();
        let beats = (1..).zip(backlogs);
        let turns = beats.map(|(number, backlog)| {
            let at = number * HEARTBEAT_EVERY;
            precedence.look(Some(&beat(at, *backlog)), at + 1)
        });
        turns.collect()
    }

    #[test]
    fn a_run_waits_while_the_backlog_grows() {
        let job = |backlog| Turn::Job { backlog };
        assert_eq!(
            turns(&[0, 5, 9, 9, 8, 20, 3]),
            [
                Turn::Run,
                job(5),
                job(9),
                Turn::Run,
                Turn::Run,
                job(20),
                Turn::Run
            ]
        );
    }

    #[test]
    fn a_heartbeat_that_is_seen_again_changes_nothing() {
        let mut precedence = Precedence::default();
        let look = |precedence: &mut Precedence, at, backlog, now| {
            precedence.look(Some(&beat(at, backlog)), now)
        };
        assert_eq!(look(&mut precedence, 10, 1, 20), Turn::Run);
        assert_eq!(look(&mut precedence, 10, 1, 30), Turn::Run);
        assert_eq!(look(&mut precedence, 40, 2, 50), Turn::Job { backlog: 2 });
        assert_eq!(look(&mut precedence, 40, 2, 60), Turn::Job { backlog: 2 });
        assert_eq!(look(&mut precedence, 70, 2, 80), Turn::Run);
    }

    #[test]
    fn another_process_that_runs_the_job_is_not_compared_with_the_one_before() {
        let mut precedence = Precedence::default();
        assert_eq!(precedence.look(Some(&beat(10, 1)), 11), Turn::Run);
        let other = Heartbeat {
            owner: "b".into(),
            ..beat(20, 9)
        };
        assert_eq!(precedence.look(Some(&other), 21), Turn::Run);
        let later = Heartbeat {
            backlog: Some(10),
            at: 30,
            ..other
        };
        let waits = Turn::Job { backlog: 10 };
        assert_eq!(precedence.look(Some(&later), 31), waits);
        // It says no longer how many are left, as earlier releases do.
        let silent = Heartbeat {
            backlog: None,
            at: 40,
            ..later
        };
        assert_eq!(precedence.look(Some(&silent), 41), Turn::Run);
    }

    #[test]
    fn a_run_waits_no_longer_than_a_chunk_may_wait() {
        let mut precedence = Precedence::default();
        precedence.look(Some(&beat(0, 0)), 0);
        let longest = i64::try_from(LONGEST_WAIT).unwrap();
        let mut at = 0;
        let mut look = |later: i64| {
            at += later;
            let backlog = u64::try_from(at).unwrap();
            precedence.look(Some(&beat(at, backlog)), at)
        };
        assert!(matches!(look(1), Turn::Job { .. }));
        assert!(matches!(look(longest - 1), Turn::Job { .. }));
        assert_eq!(look(1), Turn::Run);
        // The next chunk waits as long.
        assert!(matches!(look(1), Turn::Job { .. }));
        assert!(matches!(look(longest - 1), Turn::Job { .. }));
        assert_eq!(look(1), Turn::Run);
        // The clock was set back by a day.
        assert!(matches!(look(1), Turn::Job { .. }));
        assert_eq!(precedence.look(Some(&beat(5, u64::MAX)), 5), Turn::Run);
    }

    /// A heartbeat as it is found at a look: how long before, by which process, whether it waits, and the records that are left.
    fn found() -> impl Strategy<Value = Option<(i64, bool, bool, bool, Option<u64>)>> {
        let backlog = prop::option::weighted(0.9, 0_u64..6);
        let beat = (0_i64..40_000, any::<bool>(), prop::bool::weighted(0.1));
        let beat = (beat, prop::bool::weighted(0.1), backlog);
        prop::option::weighted(
            0.9,
            beat.prop_map(|((age, is_other, waits), opening, backlog)| {
                (age, is_other, waits, opening, backlog)
            }),
        )
    }

    proptest! {
        #[test]
        fn only_a_running_job_that_falls_behind_is_waited_for(
            looks in prop::collection::vec((1_i64..200_000, found()), 1..60),
        ) {
            let mut precedence = Precedence::default();
            let (mut now, mut waits_since) = (0_i64, None);
            // The heartbeats of the same running process, the newest last.
            let mut seen: Vec<(bool, i64, u64)> = Vec::new();
            for (later, found) in looks {
                now += later;
                let beat = found.map(|(age, is_other, waits, opening, backlog)| Heartbeat {
                    owner: if is_other { "b".into() } else { "a".into() },
                    waiting: waits.then(|| "no broker".to_owned()),
                    opening,
                    backlog,
                    at: now - age,
                });
                let turn = precedence.look(beat.as_ref(), now);
                let runs = beat.filter(|beat| {
                    now - beat.at < 30_000 && beat.waiting.is_none() && !beat.opening && beat.backlog.is_some()
                });
                match runs {
                    None => seen.clear(),
                    Some(beat) => {
                        let is_other = beat.owner == "b";
                        seen.retain(|one| one.0 == is_other);
                        if seen.last().is_none_or(|last| last.1 != beat.at) {
                            seen.push((is_other, beat.at, beat.backlog.unwrap()));
                        }
                    }
                }
                let grows = match &seen[..] {
                    [.., before, last] => last.2 > before.2,
                    _ => false,
                };
                let has_waited = now.abs_diff(*waits_since.get_or_insert(now));
                let expected = match seen.last() {
                    Some(last) if grows && has_waited < LONGEST_WAIT => Turn::Job { backlog: last.2 },
                    _ => Turn::Run,
                };
                prop_assert_eq!(turn, expected, "{:?}", seen);
                if turn == Turn::Run {
                    waits_since = None;
                }
            }
        }

        #[test]
        fn a_job_that_keeps_up_is_never_waited_for(backlogs in prop::collection::vec(0_u64..100, 1..40)) {
            let mut falling = backlogs;
            falling.sort_unstable_by(|one, other| other.cmp(one));
            prop_assert!(turns(&falling).iter().all(|turn| *turn == Turn::Run));
        }
    }
}
