//! Progress of a running statement, on a terminal, after its first second.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::tables::kafka::KafkaScanExec;

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
        Self {
            task: Some(tokio::spawn(draw(plan))),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Clears the line when the task is aborted.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn draw(plan: Arc<dyn ExecutionPlan>) {
    tokio::time::sleep(QUIET).await;
    let total = total_offsets(&plan);
    let bar = Bar(ProgressBar::with_draw_target(
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
        let read = rows_read(&plan);
        bar.0.set_position(read);
        bar.0.set_message(format!("{} rows read", HumanCount(read)));
        tokio::time::sleep(TICK).await;
    }
}

/// How many offsets all Kafka scans will read; `None` when another source is read as well.
fn total_offsets(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    if let Some(scan) = plan.downcast_ref::<KafkaScanExec>() {
        return Some(scan.total_offsets());
    }
    let children = plan.children();
    if children.is_empty() {
        return None;
    }
    children.into_iter().map(total_offsets).sum()
}

/// Rows that the leaves of a plan have given so far.
fn rows_read(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let children = plan.children();
    if !children.is_empty() {
        return children.into_iter().map(rows_read).sum();
    }
    let Some(metrics) = plan.metrics() else {
        return 0;
    };
    let rows: usize = metrics
        .iter()
        .filter_map(|metric| match metric.value() {
            MetricValue::OutputRows(rows) => Some(rows.value()),
            _ => None,
        })
        .sum();
    rows as u64
}
