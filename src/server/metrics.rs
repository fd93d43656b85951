//! What the service does, as metrics for Prometheus, beside those of its jobs.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::error::{Error, Result};
use crate::server::engine::Engine;
use crate::server::flight::Flight;
use crate::server::login::Login;

/// Seconds: statements take from less than a millisecond to hours.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1_800.0,
];

/// What the statements that have ended add up to.
pub(super) struct Counts {
    ended: IntCounterVec,
    seconds: Histogram,
    rows: IntCounter,
    bytes: IntCounter,
}

impl Counts {
    pub(super) fn try_new() -> Result<Self> {
        let seconds = HistogramOpts::new(
            "anabranch_statement_seconds",
            "How long statements were at work, but for subscriptions",
        );
        let made = || {
            let ended = Opts::new(
                "anabranch_statements_total",
                "Statements that have ended, by how",
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
            })
        };
        made().map_err(internal)
    }

    /// A statement has ended in this way, with so many rows and bytes; how long it took, if that says something.
    pub(super) fn ended(&self, outcome: &str, seconds: Option<f64>, rows: u64, bytes: u64) {
        self.ended.with_label_values(&[outcome]).inc();
        if let Some(seconds) = seconds {
            self.seconds.observe(seconds);
        }
        self.rows.inc_by(rows);
        self.bytes.inc_by(bytes);
    }
}

type Look = Box<dyn Fn() -> u64 + Send + Sync>;

/// Numbers that are looked up when somebody asks for them.
#[derive(Default)]
struct Looked {
    gauges: Vec<(IntGauge, Look)>,
    counters: Vec<(IntCounter, Look)>,
}

impl Collector for Looked {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges.iter().flat_map(|(gauge, _)| gauge.desc());
        let counters = self.counters.iter().flat_map(|(counter, _)| counter.desc());
        gauges.chain(counters).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut found = Vec::new();
        for (gauge, look) in &self.gauges {
            gauge.set(i64::try_from(look()).unwrap_or(i64::MAX));
            found.extend(gauge.collect());
        }
        for (counter, look) in &self.counters {
            counter.reset();
            counter.inc_by(look());
            found.extend(counter.collect());
        }
        found
    }
}

/// Makes the metrics of a server part of `registry`.
///
/// # Errors
///
/// None that a caller could cause.
pub(super) fn register(
    registry: &Registry,
    engine: &Arc<Engine>,
    login: &Arc<Login>,
    flight: &Flight,
) -> Result<()> {
    let mut looked = Looked::default();
    // The registry is the jobs' as well, which the engine holds.
    let of_engine = |look: fn(&Engine) -> u64| -> Look {
        let engine = Arc::downgrade(engine);
        Box::new(move || engine.upgrade().map_or(0, |engine| look(&engine)))
    };
    let [results, prepared] = flight.held();
    let gauges: [(&str, &str, Look); 7] = [
        (
            "anabranch_statements_running",
            "Statements and subscriptions at work, and those that wait for others",
            of_engine(|engine| engine.work.running().len() as u64),
        ),
        (
            "anabranch_statements_waiting",
            "Statements that wait for others to end",
            of_engine(|engine| engine.work.waiting() as u64),
        ),
        (
            "anabranch_subscriptions_open",
            "Subscriptions that are read",
            of_engine(|engine| engine.work.open_subscriptions() as u64),
        ),
        (
            "anabranch_sessions",
            "Sessions in which clients have set something",
            of_engine(|engine| engine.sessions.count() as u64),
        ),
        (
            "anabranch_memory_reserved_bytes",
            "Bytes that sorts, aggregates and joins of statements hold",
            of_engine(|engine| engine.forks.defined().memory_reserved() as u64),
        ),
        (
            "anabranch_results_held",
            "Results that wait for their client, or may be fetched again",
            Box::new(move || results() as u64),
        ),
        (
            "anabranch_prepared_statements_held",
            "Prepared statements that were not closed",
            Box::new(move || prepared() as u64),
        ),
    ];
    let counts = &engine.work.counts;
    let refused = Arc::clone(login);
    let registered = || {
        for (name, help, look) in gauges {
            looked.gauges.push((IntGauge::new(name, help)?, look));
        }
        let name = "anabranch_logins_refused_total";
        let counter = IntCounter::new(name, "Calls whose caller was not known")?;
        let look: Look = Box::new(move || refused.refused());
        looked.counters.push((counter, look));
        registry.register(Box::new(looked))?;
        registry.register(Box::new(counts.ended.clone()))?;
        registry.register(Box::new(counts.seconds.clone()))?;
        registry.register(Box::new(counts.rows.clone()))?;
        registry.register(Box::new(counts.bytes.clone()))
    };
    registered().map_err(internal)
}

fn internal(error: prometheus::Error) -> Error {
    Error::internal(format!("metrics: {error}"))
}
