//! Jobs that a server keeps running: each on a task of its own, started again after RESUME JOB and when its text
//! changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::runtime::{JobStatus, JobStatuses, Jobs, Metrics, NextAction, RunOptions, StopSignal};

/// How often a job that does not run is checked.
const LOOK: Duration = Duration::from_millis(500);
/// A job that ended although it is to run, as when another process has taken it over, is left alone for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// The running jobs.
pub(crate) struct RunningJobs {
    jobs: Arc<Jobs>,
    statuses: JobStatuses,
    metrics: Option<Metrics>,
    /// Where they run.
    runtime: Handle,
    tasks: Mutex<HashMap<String, JobTask>>,
    /// Set when the server ends: no job begins any more.
    has_ended: AtomicBool,
    changed: ChangedJobs,
}

struct JobTask {
    stop: StopSignal,
    handle: JoinHandle<()>,
}

impl RunningJobs {
    pub(crate) fn new(jobs: Arc<Jobs>, metrics: Option<Metrics>, runtime: Handle) -> Self {
        Self {
            jobs,
            statuses: JobStatuses::default(),
            metrics,
            runtime,
            tasks: Mutex::default(),
            has_ended: AtomicBool::new(false),
            changed: ChangedJobs::default(),
        }
    }

    /// Runs each job that was made or confirmed and is not run yet; none after [`Self::stop_all`].
    pub(crate) async fn start_new(&self) {
        let mut tasks = self.tasks.lock().await;
        if self.has_ended.load(Ordering::Relaxed) {
            return;
        }
        tasks.retain(|_, task| !task.handle.is_finished());
        for name in self.jobs.ready_names().await {
            tasks.entry(name.clone()).or_insert_with(|| {
                let stop = StopSignal::default();
                let options = self.options(stop.clone());
                let jobs = Arc::clone(&self.jobs);
                let changed = self.changed.clone();
                let kept = async move { keep_running(&jobs, &name, &options, &changed).await };
                let handle = self.runtime.spawn(kept);
                JobTask { stop, handle }
            });
        }
    }

    /// Gives up the jobs that another process has changed since this was asked last: they are to be made ready again.
    pub(crate) fn take_changed(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.changed.lock())
    }

    /// How they are run.
    pub(crate) fn options(&self, stop: StopSignal) -> RunOptions {
        RunOptions {
            until_caught_up: false,
            stop,
            statuses: self.statuses.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Stops a job, if it runs, until [`Self::start_new`] begins it again: with its new text, if that has changed.
    pub(crate) async fn stop(&self, name: &str) {
        let task = self.tasks.lock().await.remove(name);
        if let Some(task) = task {
            task.stop.stop();
            let _ = task.handle.await;
        }
    }

    /// How those are doing that run here or have run, by name.
    pub(crate) fn statuses(&self) -> BTreeMap<String, JobStatus> {
        self.statuses.all()
    }

    /// Stops all; the batches in hand are taken back.
    pub(crate) async fn stop_all(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        let tasks: Vec<JobTask> = self
            .tasks
            .lock()
            .await
            .drain()
            .map(|(_, task)| task)
            .collect();
        tasks.iter().for_each(|task| task.stop.stop());
        for task in tasks {
            let _ = task.handle.await;
        }
    }
}

/// The names of jobs that another process has changed.
#[derive(Debug, Clone, Default)]
struct ChangedJobs(Arc<std::sync::Mutex<BTreeSet<String>>>);

impl ChangedJobs {
    fn put(&self, name: &str) {
        self.lock().insert(name.to_owned());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a job that ended is looked at again in real time"
)]
async fn keep_running(jobs: &Jobs, name: &str, options: &RunOptions, changed: &ChangedJobs) {
    loop {
        match jobs.run_one(name, options).await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(job = name, help = error.help(), "{}", error.message());
            }
        }
        let mut pause = PAUSE;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = options.stop.wait() => return,
            }
            let to_do = tokio::select! {
                to_do = jobs.next_action(name) => to_do,
                () = options.stop.wait() => return,
            };
            match to_do {
                Ok(NextAction::Run) => break,
                Ok(NextAction::Nothing) => pause = LOOK,
                Ok(NextAction::Forget) => return,
                Ok(NextAction::MakeReady) => {
                    changed.put(name);
                    return;
                }
                Err(error) => tracing::warn!(job = name, "{}", error.message()),
            }
        }
    }
}
