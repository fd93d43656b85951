//! Statements that run in this process: a session, and the jobs of its data directory.

use std::time::Duration;

use crate::cli::config::Settings;
use crate::cli::terminal::interrupt::Interrupt;
use crate::cli::terminal::messages::eprint;
use crate::cli::terminal::progress::{JobProgress, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::planner::ParsedStatement;
use crate::runtime::host::Host;
use crate::runtime::{JobStatuses, Metrics, RunOptions, StopSignal};
use crate::session::{Session, StatementExecution, StatementOutcome};
use crate::store::DataDir;

/// When the process is told to end, running batches are aborted, and may take so long for it.
const GRACE: Duration = Duration::from_secs(30);

/// A session with its jobs.
pub(crate) struct LocalSession<'a> {
    session: &'a Session,
    data_dir: &'a str,
    host: Host,
}

impl<'a> LocalSession<'a> {
    pub(crate) fn new(session: &'a Session, settings: &'a Settings) -> Self {
        Self {
            session,
            data_dir: &settings.data_dir,
            host: Host::of_dir(&settings.data_dir, false),
        }
    }

    /// Jobs may deliver at least once.
    pub(crate) fn allowing_repeats(mut self) -> Self {
        self.host = Host::of_dir(self.data_dir, true);
        self
    }

    pub(crate) fn session(&self) -> &'a Session {
        self.session
    }

    /// Begins a statement. The chunks of a reprocessing run are shown while it runs.
    pub(crate) async fn execute(&self, parsed: ParsedStatement) -> Result<StatementOutcome> {
        if !parsed.effect.runs() {
            return self.host.begin(self.session, parsed).await;
        }
        let options = RunOptions::default();
        let _shown = JobProgress::watch_runs(&options.statuses);
        let interrupt = Interrupt::new();
        let begun = self.host.begin_with(self.session, parsed, &options);
        tokio::pin!(begun);
        tokio::select! {
            begun = &mut begun => begun,
            _ = interrupt.wait() => {
                // The chunk that is being written is aborted: readers of a topic would wait for its transaction.
                options.stop.stop();
                match tokio::time::timeout(GRACE, &mut begun).await {
                    Ok(Err(error)) => Err(error),
                    Ok(Ok(_)) | Err(_) => Err(Error::new(ErrorKind::Cancelled, "the run was stopped")
                        .with_help("SHOW RUNS shows where it stands; the same statement with its 'run_id' continues it")),
                }
            }
        }
    }

    /// Runs the jobs that the scripts have made until they are interrupted, or have caught up; gives the exit code.
    pub(crate) async fn run_jobs(&self, until_caught_up: bool, metrics: Option<Metrics>) -> u8 {
        let Some(jobs) = self.host.open_jobs() else {
            return 0;
        };
        if !jobs.has_ready().await {
            return 0;
        }
        if let Ok(dir) = DataDir::open(self.data_dir) {
            dir.sweep_unfinished(&["jobs", "runs/jobs"]);
        }
        let options = RunOptions {
            until_caught_up,
            stop: StopSignal::default(),
            statuses: JobStatuses::default(),
            metrics,
        };
        let shown = JobProgress::watch(&options.statuses);
        let interrupt = Interrupt::new();
        let runs = jobs.run(&options);
        tokio::pin!(runs);
        let (mut code, ended) = tokio::select! {
            ended = &mut runs => (0, ended),
            code = interrupt.wait() => {
                // Running batches are aborted; the jobs go on from there next time.
                options.stop.stop();
                match tokio::time::timeout(GRACE, &mut runs).await {
                    Ok(ended) => (code, ended),
                    Err(_) => {
                        drop(shown);
                        eprint("error: some jobs have not stopped in time: the process ends without them\n");
                        return code;
                    }
                }
            }
        };
        drop(shown);
        for (name, outcome) in ended {
            match outcome {
                Ok(report) => {
                    let unit = if report.batches == 1 {
                        "batch"
                    } else {
                        "batches"
                    };
                    eprint(&format!(
                        "job {name}: {} {unit}, {} records read, {} rows written\n",
                        report.batches, report.rows_in, report.rows_out
                    ));
                }
                Err(error) => {
                    eprint(&format!("error: job {name}: {}\n", error.message()));
                    if let Some(help) = error.help() {
                        eprint(&format!("  = help: {help}\n"));
                    }
                    code = error.kind().exit_code();
                }
            }
        }
        code
    }
}

/// Runs an INSERT to its end; gives the number of rows written.
pub(crate) async fn insert(execution: StatementExecution) -> Result<u64> {
    let _progress = Progress::watch(&execution.plan);
    execution.written().await
}
