//! Phases of a batch: a span for each within the span of the batch, an event at level debug when it ends, and the metrics. A
//! span that is not enabled costs one comparison.

use std::time::{Duration, Instant};

use tracing::{Instrument as _, Span};

use crate::core::jobs::JobHistory;
use crate::error::Result;
use crate::runtime::batch_phase::BatchPhase;
use crate::runtime::metrics::JobMetrics;

/// A batch that is running, or the search for the next one.
#[derive(Debug, Clone)]
pub(super) struct BatchPhases {
    span: Span,
    choose: Span,
    metrics: JobMetrics,
    began: Instant,
}

impl BatchPhases {
    /// Starts the search for the next batch.
    pub(super) fn begin(job: &str, history: &JobHistory, metrics: &JobMetrics) -> Self {
        let (generation, batch) = (history.generation, history.next_batch());
        let span = tracing::debug_span!("batch", job, generation, batch);
        Self {
            choose: span_of(BatchPhase::Choose, &span),
            span,
            metrics: metrics.clone(),
            began: Instant::now(),
        }
    }

    /// The span of the whole batch.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// How long ago it began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Runs the search for records: the phase counts only if it finds some.
    pub(super) async fn look<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        work.instrument(self.choose.clone()).await
    }

    /// Ends the search: there are records to read.
    pub(super) fn chosen(&self) {
        self.over(BatchPhase::Choose, &self.choose, self.elapsed());
    }

    /// Runs and times the work of a phase.
    pub(super) async fn time<T>(
        &self,
        phase: BatchPhase,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (span, began) = (span_of(phase, &self.span), Instant::now());
        let done = work.instrument(span.clone()).await?;
        self.over(phase, &span, began.elapsed());
        Ok(done)
    }

    fn over(&self, phase: BatchPhase, span: &Span, took: Duration) {
        self.metrics.phase(phase, took);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        span.in_scope(|| tracing::debug!(microseconds, "phase done"));
    }
}

/// The span of a phase within the span of its batch.
fn span_of(phase: BatchPhase, batch: &Span) -> Span {
    tracing::debug_span!(parent: batch, "phase", phase = phase.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::LogEntry;

    #[tokio::test]
    async fn disabled_spans_are_not_created() {
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let history = JobHistory::of(&[created]).unwrap();
        let metrics = JobMetrics::try_new(None, "j").unwrap();
        let quiet = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
        let quiet = tracing::subscriber::set_default(quiet.finish());
        let phases = BatchPhases::begin("j", &history, &metrics);
        assert!(phases.span.is_disabled() && phases.choose.is_disabled());
        let done = phases.time(BatchPhase::Run, async { Ok(7) }).await;
        assert_eq!(done.unwrap(), 7);
        drop(quiet);
        let asked = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
        let asked = asked.with_writer(std::io::sink).finish();
        let _asked = tracing::subscriber::set_default(asked);
        let phases = BatchPhases::begin("j", &history, &metrics);
        assert!(!phases.span.is_disabled() && !phases.choose.is_disabled());
    }
}
