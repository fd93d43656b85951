//! Metrics of the service for Prometheus, beside those of its jobs.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};

use crate::core::heap;
use crate::error::Result;
use crate::server::engine::Engine;
use crate::server::flight::FlightHandler;

type ReadGauge = Box<dyn Fn() -> u64 + Send + Sync>;

/// Gauges that are read when Prometheus asks for them.
struct GaugeCollector(Vec<(IntGauge, ReadGauge)>);

impl Collector for GaugeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.0.iter().flat_map(|(gauge, _)| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let collected = self.0.iter().flat_map(|(gauge, look)| {
            gauge.set(i64::try_from(look()).unwrap_or(i64::MAX));
            gauge.collect()
        });
        collected.collect()
    }
}

/// Makes the metrics of a server part of `registry`.
///
/// # Errors
///
/// None that a caller could cause.
pub(crate) fn register(
    registry: &Registry,
    engine: &Arc<Engine>,
    flight: &FlightHandler,
) -> Result<()> {
    // The registry is the jobs' as well, which the engine holds.
    let of_engine = |look: fn(&Engine) -> u64| -> ReadGauge {
        let engine = Arc::downgrade(engine);
        Box::new(move || engine.upgrade().map_or(0, |engine| look(&engine)))
    };
    let [results, prepared] = flight.held();
    let gauges: [(&str, &str, ReadGauge); 9] = [
        (
            "anabranch_statements_running",
            "Running statements and subscriptions, and those that wait for others",
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
            "anabranch_threads_without_memory",
            "Threads of statements that wait for memory which the machine does not have",
            Box::new(|| heap::short().len() as u64),
        ),
        (
            "anabranch_tables_unopened",
            "Tables that are defined and could not be opened so far",
            of_engine(|engine| engine.forks.defined().unopened().len() as u64),
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
    let looked = gauges
        .into_iter()
        .map(|(name, help, look)| Ok((IntGauge::new(name, help)?, look)));
    registry.register(Box::new(GaugeCollector(looked.collect::<Result<_>>()?)))?;
    let counts = &engine.work.counts;
    registry.register(Box::new(counts.ended.clone()))?;
    registry.register(Box::new(counts.seconds.clone()))?;
    for counter in [&counts.rows, &counts.bytes, &counts.strangers] {
        registry.register(Box::new(counter.clone()))?;
    }
    Ok(())
}
