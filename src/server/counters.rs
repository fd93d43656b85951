//! Counters of statements and callers, as metrics.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts};

use crate::error::Result;

/// Seconds: statements take from less than a millisecond to hours.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1_800.0,
];

/// Counters of statements and callers.
pub(crate) struct StatementCounters {
    pub(super) ended: IntCounterVec,
    pub(super) seconds: Histogram,
    pub(super) rows: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) strangers: IntCounter,
}

impl StatementCounters {
    pub(crate) fn try_new() -> Result<Self> {
        let ended = Opts::new(
            "anabranch_statements_total",
            "Statements that have ended, by outcome",
        );
        let seconds = HistogramOpts::new(
            "anabranch_statement_seconds",
            "How long statements ran, except subscriptions",
        );
        Ok(Self {
            ended: IntCounterVec::new(ended, &["outcome"])?,
            seconds: Histogram::with_opts(seconds.buckets(BUCKETS.to_vec()))?,
            rows: IntCounter::new(
                "anabranch_statement_rows_total",
                "Rows that statements have sent or written",
            )?,
            bytes: IntCounter::new(
                "anabranch_statement_bytes_total",
                "Bytes of the results that statements have sent",
            )?,
            strangers: IntCounter::new(
                "anabranch_logins_refused_total",
                "Calls of unknown callers",
            )?,
        })
    }

    /// Counts a caller whose login failed.
    pub(crate) fn stranger(&self) {
        self.strangers.inc();
    }

    /// A statement has ended in this way, with so many rows and bytes; how long it took, if that says something.
    pub(crate) fn ended(&self, outcome: &str, seconds: Option<f64>, rows: u64, bytes: u64) {
        self.ended.with_label_values(&[outcome]).inc();
        if let Some(seconds) = seconds {
            self.seconds.observe(seconds);
        }
        self.rows.inc_by(rows);
        self.bytes.inc_by(bytes);
    }
}
