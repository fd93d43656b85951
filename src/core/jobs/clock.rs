//! Clock of a job: it advances by the monotonic clock of the machine and trusts the wall clock only as far as the two agree.
//!
//! A wall clock may jump, ahead by a year and back again. If a job used it directly, keys would expire and batches would be
//! trimmed too early. So a job's clock advances from its last reading by the time that the machine's monotonic clock has
//! measured since. After a restart of the machine or on another one that time is unknown. Then the job's clock follows the wall
//! clock only as far as the timestamps of records confirm it.

/// How far the wall clock may be off before it is not believed, in milliseconds; and the share of the time that has passed.
const SLACK: i64 = 60_000;
const SLACK_SHARE: i64 = 1_000;

/// A reading of a clock that runs since the machine was started and that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteadyTime {
    /// Id of this start of this machine: readings with another id cannot be compared.
    pub boot: String,
    /// Milliseconds since the machine was started.
    pub at: u64,
}

impl SteadyTime {
    /// Milliseconds since an earlier reading; none if the two readings come from different clocks.
    pub fn since(&self, earlier: &Self) -> Option<u64> {
        if self.boot != earlier.boot {
            return None;
        }
        self.at.checked_sub(earlier.at)
    }
}

/// The job's clock as a batch has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockReading {
    /// Milliseconds since 1970 UTC.
    pub at: i64,
    /// The monotonic clock at the same moment.
    pub steady: SteadyTime,
}

/// How the wall clock compares with the job's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WallClock {
    /// The job's clock is the wall clock.
    Trusted,
    /// It differs by so many milliseconds from the value that the elapsed time allows.
    Drifted(i64),
    /// It is ahead of the job's last reading by so many milliseconds, the reading comes from another machine or from before a
    /// restart of this one, and no record confirms the difference.
    Unconfirmed(i64),
}

/// The clock of a job in one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobClock {
    /// The reading from which the clock advances.
    origin: Option<ClockReading>,
    /// The time that passed before the origin is not known.
    is_open: bool,
    /// The last time that was given; the clock never goes back.
    now: Option<i64>,
    /// The latest time of a record.
    seen: Option<i64>,
}

impl JobClock {
    /// Continues from the reading of the last version, if it has one. Without one, `at` is a time that the job's clock is known
    /// to have had.
    pub fn after(reading: Option<&ClockReading>, at: Option<i64>) -> Self {
        let unknown = |at| ClockReading {
            at,
            steady: SteadyTime {
                boot: String::new(),
                at: 0,
            },
        };
        Self {
            origin: reading.cloned().or(at.map(unknown)),
            ..Self::default()
        }
    }

    /// A record was written at this time, in milliseconds since 1970 UTC.
    pub fn observe_record(&mut self, written: i64) {
        self.seen = self.seen.max(Some(written));
    }

    /// The job's time now, in milliseconds since 1970 UTC, and how the wall clock compares with it. The time never goes back.
    pub fn look(&mut self, wall: i64, steady: &SteadyTime) -> (i64, WallClock) {
        let origin = match self.origin.take() {
            // A job that never ran has no earlier reading to compare with.
            None => ClockReading {
                at: wall,
                steady: steady.clone(),
            },
            Some(origin) if steady.since(&origin.steady).is_some() => origin,
            Some(origin) => {
                self.is_open = true;
                ClockReading {
                    at: origin.at,
                    steady: steady.clone(),
                }
            }
        };
        let passed = steady.since(&origin.steady).unwrap_or(0);
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let line = origin.at.saturating_add(passed);
        let slack = SLACK.saturating_add(passed / SLACK_SHARE);
        let off = wall.saturating_sub(line);
        self.origin = Some(origin);
        let (now, wall) = if off.abs() <= slack {
            self.is_open = false;
            (wall, WallClock::Trusted)
        } else if off < 0 || !self.is_open {
            self.is_open = false;
            (line, WallClock::Drifted(off))
        } else {
            // As far as records confirm it.
            let confirmed = self.seen.map_or(line, |seen| seen.saturating_add(SLACK));
            let now = line.max(wall.min(confirmed));
            self.origin = Some(ClockReading {
                at: now,
                steady: steady.clone(),
            });
            self.is_open = now < wall;
            match self.is_open {
                true => (now, WallClock::Unconfirmed(wall.saturating_sub(now))),
                false => (now, WallClock::Trusted),
            }
        };
        let now = self.now.map_or(now, |before| before.max(now));
        self.now = Some(now);
        (now, wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 24 * 3_600_000;
    const START: i64 = 1_750_000_000_000;

    fn steady(boot: &str, at: u64) -> SteadyTime {
        SteadyTime {
            boot: boot.to_owned(),
            at,
        }
    }

    #[test]
    fn wall_clock_jumps_are_ignored() {
        let mut clock = JobClock::default();
        assert_eq!(
            clock.look(START, &steady("a", 500)),
            (START, WallClock::Trusted)
        );
        // Ahead by a year, for a while.
        for passed in [1, 10, 1_000] {
            let (now, wall) = clock.look(START + YEAR + passed, &steady("a", 500 + passed as u64));
            assert_eq!((now, wall), (START + passed, WallClock::Drifted(YEAR)));
        }
        // The wall clock is set back: the job's clock goes on as before.
        let (now, wall) = clock.look(START + 2_000, &steady("a", 2_500));
        assert_eq!((now, wall), (START + 2_000, WallClock::Trusted));
        // The wall clock is behind: the job's clock neither goes back nor stands still.
        let (now, _) = clock.look(START - YEAR, &steady("a", 3_500));
        assert_eq!(now, START + 3_000);
    }

    #[test]
    fn many_small_clock_jumps_are_treated_as_one_large_jump() {
        let mut clock = JobClock::default();
        clock.look(START, &steady("a", 0));
        let mut wall = START;
        for look in 1..1_000 {
            wall += 50_000;
            let (now, _) = clock.look(wall, &steady("a", look));
            assert!(now <= START + look as i64 + SLACK + 10, "{look}: {now}");
        }
    }

    #[test]
    fn a_new_process_on_the_same_machine_adds_the_elapsed_time() {
        let reading = ClockReading {
            at: START,
            steady: steady("a", 1_000),
        };
        let mut clock = JobClock::after(Some(&reading), None);
        let hour = 3_600_000;
        let later = steady("a", 1_000 + hour);
        let (now, wall) = clock.look(START + hour as i64 + YEAR, &later);
        assert_eq!((now, wall), (START + hour as i64, WallClock::Drifted(YEAR)));
    }

    #[test]
    fn on_another_machine_the_clock_follows_record_timestamps() {
        let reading = ClockReading {
            at: START,
            steady: steady("a", 1_000),
        };
        let day = 24 * 3_600_000;
        let mut clock = JobClock::after(Some(&reading), None);
        // No record confirms that a day has passed.
        let (now, wall) = clock.look(START + day, &steady("b", 70));
        assert_eq!((now, wall), (START, WallClock::Unconfirmed(day)));
        // What passes here is known.
        let (now, _) = clock.look(START + day + 500, &steady("b", 570));
        assert_eq!(now, START + 500);
        // The records of a backlog bring it nearer, recent ones to the wall clock.
        clock.observe_record(START + day / 2);
        let (now, wall) = clock.look(START + day + 600, &steady("b", 670));
        assert_eq!(now, START + day / 2 + SLACK);
        assert!(matches!(wall, WallClock::Unconfirmed(_)));
        clock.observe_record(START + day);
        let (now, wall) = clock.look(START + day + 700, &steady("b", 770));
        assert_eq!((now, wall), (START + day + 700, WallClock::Trusted));
        // From here on it goes by the time that passes.
        let (now, _) = clock.look(START + day + YEAR, &steady("b", 870));
        assert_eq!(now, START + day + 800);
    }

    #[test]
    fn a_clock_that_was_ahead_advances_again() {
        // As an earlier release may have left it.
        let mut clock = JobClock::after(None, Some(START + YEAR));
        let (now, wall) = clock.look(START, &steady("a", 0));
        assert_eq!((now, wall), (START + YEAR, WallClock::Drifted(-YEAR)));
        let (now, _) = clock.look(START + 5_000, &steady("a", 5_000));
        assert_eq!(now, START + YEAR + 5_000);
    }
}
