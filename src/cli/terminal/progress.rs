//! Progress: of a running statement on a terminal, after its first second; of running jobs, everywhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::physical_plan::ExecutionPlan;
use indicatif::{
    HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use crate::cli::terminal::messages::eprint;
use crate::runtime::{JobStatus, JobStatuses};
use crate::tables::read_metrics::{planned, rows_of_leaves};

const QUIET: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// Shows how far a plan's scans are, until dropped. Nothing is shown in a pipe.
pub(crate) struct Progress {
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Progress {
    /// Watches `plan`.
    pub(crate) fn watch(plan: &Arc<dyn ExecutionPlan>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { task: None };
        }
        let plan = Arc::clone(plan);
        let total = planned(&plan);
        Self {
            task: Some(tokio::spawn(draw(total, move || {
                format_rows(rows_of_leaves(&plan), "read")
            }))),
        }
    }

    /// Shows nothing.
    pub(crate) fn none() -> Self {
        Self { task: None }
    }

    /// Sets the number of rows that came from a server.
    pub(crate) fn receiving(rows: &Arc<AtomicU64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { task: None };
        }
        let rows = Arc::clone(rows);
        Self {
            task: Some(tokio::spawn(draw(None, move || {
                format_rows(rows.load(Ordering::Relaxed), "received")
            }))),
        }
    }
}

fn format_rows(rows: u64, done: &str) -> (u64, String) {
    (rows, format!("{} rows {done}", HumanCount(rows)))
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Clears the line when the task is aborted.
struct ProgressLine(ProgressBar);

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn draw(total: Option<u64>, look: impl Fn() -> (u64, String)) {
    tokio::time::sleep(QUIET).await;
    let bar = ProgressLine(ProgressBar::with_draw_target(
        total,
        ProgressDrawTarget::stderr(),
    ));
    let template = if total.is_some() {
        "{bar:30} {percent:>3}% {msg} [{elapsed_precise}, {eta} left]"
    } else {
        "{spinner} {msg} [{elapsed_precise}]"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.0.set_style(style);
    }
    loop {
        let (position, message) = look();
        bar.0.set_position(position);
        bar.0.set_message(message);
        tokio::time::sleep(TICK).await;
    }
}

/// How often a job says how it is doing where there is no terminal.
const LINES: Duration = Duration::from_secs(10);

/// Shows the progress of running jobs or reprocessing runs until dropped: on a terminal one changing line for each, elsewhere now
/// and then a line of text for each that has made progress.
pub(crate) struct JobProgress {
    task: tokio::task::JoinHandle<()>,
}

impl JobProgress {
    /// Watches the jobs of `statuses`.
    pub(crate) fn watch(statuses: &JobStatuses) -> Self {
        Self::watch_by(statuses.clone(), job_line)
    }

    /// Watches the reprocessing runs of `statuses`.
    pub(crate) fn watch_runs(statuses: &JobStatuses) -> Self {
        Self::watch_by(statuses.of_runs(), run_line)
    }

    fn watch_by(statuses: JobStatuses, line: Line) -> Self {
        let task = if std::io::stderr().is_terminal() {
            tokio::spawn(draw_jobs(statuses, line))
        } else {
            tokio::spawn(print_jobs(statuses, line))
        };
        Self { task }
    }
}

impl Drop for JobProgress {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Clears all lines when the task is aborted.
struct ProgressLines(MultiProgress);

impl Drop for ProgressLines {
    fn drop(&mut self) {
        let _ = self.0.clear();
    }
}

async fn draw_jobs(statuses: JobStatuses, line: Line) {
    let lines = ProgressLines(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
    let mut bars: BTreeMap<String, ProgressBar> = BTreeMap::new();
    let mut before: BTreeMap<String, JobStatus> = BTreeMap::new();
    loop {
        let now = statuses.all();
        for (name, status) in &now {
            let bar = bars.entry(name.clone()).or_insert_with(|| {
                let bar = lines.0.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                    bar.set_style(style);
                }
                bar
            });
            bar.set_message(line(name, status, before.get(name), SECOND));
            bar.tick();
        }
        before = now;
        tokio::time::sleep(SECOND).await;
    }
}

async fn print_jobs(statuses: JobStatuses, line: Line) {
    let mut before: BTreeMap<String, JobStatus> = BTreeMap::new();
    loop {
        tokio::time::sleep(LINES).await;
        let now = statuses.all();
        for (name, status) in &now {
            if before.get(name) != Some(status) {
                eprint(&format!(
                    "{}\n",
                    line(name, status, before.get(name), LINES)
                ));
            }
        }
        before = now;
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// The progress line of a job or run by its name, its status, and that of the interval before.
type Line = fn(&str, &JobStatus, Option<&JobStatus>, Duration) -> String;

/// The progress line of a reprocessing run.
fn run_line(
    name: &str,
    status: &JobStatus,
    before: Option<&JobStatus>,
    interval: Duration,
) -> String {
    if let Some(fault) = &status.waiting {
        return format!("run {name}: WAITING: {fault}");
    }
    let report = &status.report;
    let mut line = format!(
        "run {name}: {} chunks, {} records read, {} rows, last chunk {} ms",
        HumanCount(report.batches),
        HumanCount(report.rows_in),
        HumanCount(report.rows_out),
        status.last_batch.as_millis(),
    );
    // Both are microseconds of event time or both are offsets: their ratio tells the time.
    let passed = before.map_or(0, |before| before.lag.saturating_sub(status.lag));
    if let Some(steps) = status.lag.checked_div(passed) {
        let seconds = steps.saturating_mul(interval.as_secs());
        line += &format!(
            ", about {} left",
            HumanDuration(Duration::from_secs(seconds))
        );
    }
    line
}

/// The progress line of a job.
fn job_line(
    name: &str,
    status: &JobStatus,
    before: Option<&JobStatus>,
    interval: Duration,
) -> String {
    if let Some(fault) = &status.waiting {
        return format!("job {name}: WAITING: {fault}");
    }
    let rows = status.report.rows_in - before.map_or(0, |before| before.report.rows_in);
    let rate = u64::try_from(u128::from(rows) * 1_000 / interval.as_millis().max(1)).unwrap_or(0);
    let mut line = format!(
        "job {name}: RUNNING: {} records/s, {} behind, batch {} ms, {} records read, {} rows written",
        HumanCount(rate),
        HumanCount(status.lag),
        status.last_batch.as_millis(),
        HumanCount(status.report.rows_in),
        HumanCount(status.report.rows_out)
    );
    let watermark = status
        .watermark
        .and_then(chrono::DateTime::from_timestamp_micros);
    if let Some(watermark) = watermark {
        line += &format!(
            ", watermark {}, {} groups open",
            watermark.format("%Y-%m-%dT%H:%M:%SZ"),
            HumanCount(status.state_rows)
        );
    }
    line
}
