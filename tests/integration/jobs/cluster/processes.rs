//! The processes that run the jobs, killed at any moment and started again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::fire::{Fire, Place};
use crate::jobs::endurance::{Moments, duration};

/// One process for each place where what lasts of jobs is kept.
pub(super) struct Processes<'a> {
    fire: &'a Fire,
    all: Vec<Running>,
    pub(super) kills: u32,
    /// How often one has ended since the store refused what its first statements asked for.
    pub(super) failed_starts: u32,
}

impl<'a> Processes<'a> {
    pub(super) fn start(fire: &'a Fire) -> Self {
        let all = [Place::Folder, Place::Store].map(|place| Running::start(fire, place, &[]));
        Self {
            fire,
            all: all.into(),
            kills: 0,
            failed_starts: 0,
        }
    }

    /// Kills one of them and starts it again, or none.
    pub(super) fn strike(&mut self, moments: &mut Moments) {
        let number = usize::try_from(moments.below(4)).unwrap();
        if let Some(victim) = self.all.get_mut(number) {
            victim.again(self.fire);
            self.kills += 1;
        }
    }

    /// Starts those again that could not begin. One that has begun goes on whatever happens to brokers and store.
    pub(super) fn keep(&mut self) {
        for running in &mut self.all {
            let Some(status) = running.process.try_wait().unwrap() else {
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

    /// Kills them, and lets others do what is left: all that is there is read once they have ended.
    pub(super) fn catch_up(self) {
        let Self { fire, all, .. } = self;
        drop(all);
        for place in [Place::Folder, Place::Store] {
            let mut last = Running::start(fire, place, &["--until-caught-up"]);
            // However far behind they are.
            let deadline = Instant::now() + crate::support::PATIENCE + duration();
            let status = loop {
                if let Some(status) = last.process.try_wait().unwrap() {
                    break status;
                }
                assert!(
                    Instant::now() < deadline,
                    "the jobs of the {place:?} do not catch up: {}",
                    last.said(fire)
                );
                std::thread::sleep(Duration::from_millis(100));
            };
            assert!(status.success(), "{status}: {}", last.said(fire));
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
    place: Place,
    process: Child,
    /// How long the file was, when this one began, to which all of its place say what they have to say.
    from: u64,
}

impl Running {
    fn start(fire: &Fire, place: Place, more: &[&str]) -> Self {
        let said = fire.said(place);
        let from = std::fs::metadata(&said).map_or(0, |before| before.len());
        let said = std::fs::File::options()
            .create(true)
            .append(true)
            .open(said)
            .unwrap();
        let mut command: Command = fire.jobs(place);
        let process = command
            .args(more)
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        Self {
            place,
            process,
            from,
        }
    }

    /// Kills it if it still runs, and starts another.
    fn again(&mut self, fire: &Fire) {
        self.end();
        *self = Self::start(fire, self.place, &[]);
    }

    /// What it has said so far.
    fn said(&self, fire: &Fire) -> String {
        let all = std::fs::read(fire.said(self.place)).unwrap();
        let from = usize::try_from(self.from).unwrap();
        String::from_utf8_lossy(&all[from..]).into_owned()
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
