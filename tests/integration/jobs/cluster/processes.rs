//! The processes that run the jobs, killed at any moment and started again.

use std::process::Stdio;

use super::under_fire::{JobLocation, JobsUnderFire};
use crate::jobs::endurance::{RandomMoments, duration};
use crate::support::{PATIENCE, ProcessGuard, ProgramOutput};

/// One process for each data directory of jobs.
pub(super) struct Processes<'a> {
    fire: &'a JobsUnderFire,
    all: Vec<Running>,
    pub(super) kills: u32,
    /// How often a process has ended because the store refused a request of its first statements.
    pub(super) failed_starts: u32,
}

impl<'a> Processes<'a> {
    pub(super) fn start(fire: &'a JobsUnderFire) -> Self {
        let all =
            [JobLocation::Folder, JobLocation::Store].map(|place| Running::start(fire, place));
        Self {
            fire,
            all: all.into(),
            kills: 0,
            failed_starts: 0,
        }
    }

    /// Kills one of them and starts it again, or none.
    pub(super) fn strike(&mut self, moments: &mut RandomMoments) {
        let number = usize::try_from(moments.below(4)).unwrap();
        if let Some(victim) = self.all.get_mut(number) {
            victim.again(self.fire);
            self.kills += 1;
        }
    }

    /// Restarts a process that ended because the store refused its first statements. A process whose job has ended fails the test.
    pub(super) fn keep(&mut self) {
        for running in &mut self.all {
            let Some(status) = running.process.0.try_wait().unwrap() else {
                continue;
            };
            let said = running.said(self.fire);
            let has_begun = said.lines().any(is_end_of_job);
            let place = running.place;
            assert!(
                status.code() == Some(2) && !has_begun,
                "the jobs of the {place:?} have ended, {status}: {said}"
            );
            running.again(self.fire);
            self.failed_starts += 1;
        }
    }

    /// Kills the processes. Then one new process per place reads all records and ends.
    pub(super) fn catch_up(self) {
        let Self { fire, all, .. } = self;
        drop(all);
        for place in [JobLocation::Folder, JobLocation::Store] {
            let mut command = fire.jobs(place);
            let command = command.arg("--until-caught-up");
            // However far behind they are.
            ProgramOutput::within(command, PATIENCE + duration()).ok();
        }
    }
}

/// Whether a line says why a job has ended: `error: job NAME: …`.
fn is_end_of_job(line: &str) -> bool {
    let job = line.strip_prefix("error: job ");
    job.and_then(|rest| rest.split(' ').next())
        .is_some_and(|name| name.ends_with(':'))
}

/// A process, killed when this is dropped.
struct Running {
    place: JobLocation,
    process: ProcessGuard,
    /// Length of the place's file of messages when this process started; all processes of the place append to it.
    from: u64,
}

impl Running {
    fn start(fire: &JobsUnderFire, place: JobLocation) -> Self {
        let said = fire.said(place);
        let from = std::fs::metadata(&said).map_or(0, |before| before.len());
        let said = std::fs::File::options()
            .create(true)
            .append(true)
            .open(said)
            .unwrap();
        let process = fire
            .jobs(place)
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        Self {
            place,
            process: ProcessGuard(process),
            from,
        }
    }

    /// Kills it if it still runs, and starts another.
    fn again(&mut self, fire: &JobsUnderFire) {
        self.process.end();
        *self = Self::start(fire, self.place);
    }

    /// Its output so far.
    fn said(&self, fire: &JobsUnderFire) -> String {
        let all = std::fs::read(fire.said(self.place)).unwrap();
        let from = usize::try_from(self.from).unwrap();
        String::from_utf8_lossy(&all[from..]).into_owned()
    }
}
