//! The clock of a running job, by which keys are forgotten and batches trimmed: the wall clock, as far as the time that has passed and
//! the job's records bear it out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::core::jobs::{BatchVersion, ClockReading, JobClock, WallClock};
use crate::runtime::clock::Clock;
use crate::streaming::LastRecords;

/// The clock of one run.
#[derive(Debug)]
pub(super) struct RunningClock<'a> {
    job: &'a str,
    machine: &'a dyn Clock,
    clock: Mutex<JobClock>,
    /// How the wall clock compared with the job's clock at the last look.
    wall: Mutex<WallClock>,
}

impl<'a> RunningClock<'a> {
    /// A clock that goes by the one of the machine.
    pub(super) fn new(job: &'a str, machine: &'a dyn Clock) -> Self {
        Self {
            job,
            machine,
            clock: Mutex::default(),
            wall: Mutex::new(WallClock::Trusted),
        }
    }

    /// Starts from the reading in the last version, unless it runs already.
    pub(super) fn begin(&self, version: Option<&BatchVersion>, committed_at: Option<i64>) {
        let mut clock = lock(&self.clock);
        if *clock != JobClock::default() {
            return;
        }
        let reading = version.and_then(|version| version.clock.as_ref());
        let keyed = version.and_then(|version| version.time.as_ref()?.clock);
        // A version of an earlier release has no reading.
        let at = keyed.map(|at| at.div_euclid(1_000)).max(committed_at);
        *clock = JobClock::after(reading, at);
    }

    /// The present reading.
    pub(super) fn time(&self) -> ClockReading {
        let (steady, wall) = (self.machine.steady(), self.machine.now());
        let (at, seen) = lock(&self.clock).look(wall, &steady);
        let before = std::mem::replace(&mut *lock(&self.wall), seen);
        if std::mem::discriminant(&before) != std::mem::discriminant(&seen) {
            let job = self.job;
            match seen {
                WallClock::Trusted => {
                    tracing::info!(job, "the job's clock is the wall clock again")
                }
                WallClock::Drifted(by) => tracing::warn!(
                    job,
                    milliseconds = by,
                    "the wall clock differs from the elapsed time: the job uses the elapsed time"
                ),
                WallClock::Unconfirmed(by) => tracing::warn!(
                    job,
                    milliseconds = by,
                    "the wall clock is ahead of the job's, which ran on another machine or before this one was started again, and no \
                     record confirms it yet: keys and old batches are kept until one does"
                ),
            }
        }
        ClockReading { at, steady }
    }

    /// Takes the timestamps of the last records, which confirm the wall clock.
    pub(super) fn observe_records(&self, last: &LastRecords) {
        let times = last.values().flat_map(BTreeMap::values);
        if let Some(latest) = times.filter_map(|mark| mark.timestamp).max() {
            lock(&self.clock).observe_record(latest);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
