//! Prometheus metrics of jobs. The caller that runs jobs creates a recorder and passes it in; there is no global one. A server
//! adds its own metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::core::jobs::BatchVersion;
use crate::error::{Error, Result};
use crate::runtime::batch_phase::BatchPhase;
use crate::runtime::source_ends::{SourceEnds, lags};
use crate::runtime::window_state::WindowState;

/// Seconds: batches take from milliseconds to minutes.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// Metrics of the jobs of a process, in a registry of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    families: Arc<MetricFamilies>,
    jobs: Arc<Mutex<BTreeMap<String, Arc<MetricsOfJob>>>>,
    /// Tables of a server that are defined and cannot be opened.
    unopened: Arc<Mutex<Vec<String>>>,
}

/// State of a job in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It runs a batch or looks for new records.
    Running,
    /// It waits for a fault to pass, or for its sink to confirm a batch.
    Waiting,
    /// It was paused by a statement.
    Paused,
    /// It stopped by itself and waits for RESUME JOB.
    Failed,
}

impl JobState {
    const ALL: [Self; 4] = [Self::Running, Self::Waiting, Self::Paused, Self::Failed];

    /// The name, as in `SHOW JOBS` and in progress.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Waiting => "WAITING",
            Self::Paused => "PAUSED",
            Self::Failed => "FAILED",
        }
    }
}

#[derive(Debug)]
struct MetricFamilies {
    rows_in: IntCounterVec,
    bytes_in: IntCounterVec,
    rows_out: IntCounterVec,
    late_rows: IntCounterVec,
    dead_letters: IntCounterVec,
    batches: IntCounterVec,
    retries: IntCounterVec,
    failures: IntCounterVec,
    lag: IntGaugeVec,
    watermark: GaugeVec,
    watermark_delay: GaugeVec,
    last_commit: GaugeVec,
    state: IntGaugeVec,
    state_rows: IntGaugeVec,
    state_bytes: IntGaugeVec,
    batch_seconds: HistogramVec,
    phase_seconds: HistogramVec,
}

/// The metrics of one job, found once.
#[derive(Debug)]
struct MetricsOfJob {
    name: String,
    families: Arc<MetricFamilies>,
    rows_in: IntCounter,
    bytes_in: IntCounter,
    rows_out: IntCounter,
    late_rows: IntCounter,
    dead_letters: IntCounter,
    batches: IntCounter,
    retries: IntCounter,
    failures: IntCounter,
    states: [IntGauge; 4],
    batch_seconds: Histogram,
    phase_seconds: [Histogram; 5],
    /// Created when they are known: a job without windows has none.
    of_time: Mutex<Option<WatermarkGauges>>,
    last_commit: Mutex<Option<Gauge>>,
}

#[derive(Debug)]
struct WatermarkGauges {
    /// Microseconds since 1970 UTC.
    watermark: i64,
    seconds: Gauge,
    delay: Gauge,
}

impl Metrics {
    /// Creates a registry without jobs.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub fn try_new() -> Result<Self> {
        let registry = Registry::new();
        let families = MetricFamilies::register(&registry)?;
        Ok(Self {
            registry,
            families: Arc::new(families),
            jobs: Arc::default(),
            unopened: Arc::default(),
        })
    }

    /// The registry, for further metrics of the process.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics in the text format of Prometheus, at `now`, in microseconds since 1970 UTC.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub fn text(&self, now: i64) -> Result<String> {
        for job in self.lock().values() {
            if let Some(time) = &*lock(&job.of_time) {
                time.delay.set(seconds(now.saturating_sub(time.watermark)));
            }
        }
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }

    /// The state of each job; none for a job that has ended or was taken over by another process.
    pub fn states(&self) -> BTreeMap<String, Option<JobState>> {
        let state = |job: &MetricsOfJob| {
            let mut states = JobState::ALL.iter().zip(&job.states);
            states
                .find(|(_, gauge)| gauge.get() == 1)
                .map(|(state, _)| *state)
        };
        self.lock()
            .iter()
            .map(|(name, job)| (name.clone(), state(job)))
            .collect()
    }

    /// The tables that are defined and cannot be opened, by name.
    pub fn unopened(&self) -> Vec<String> {
        lock(&self.unopened).clone()
    }

    /// Sets the tables that are defined and cannot be opened.
    pub(crate) fn set_unopened(&self, names: Vec<String>) {
        *lock(&self.unopened) = names;
    }

    fn job(&self, name: &str) -> Result<Arc<MetricsOfJob>> {
        if let Some(job) = self.lock().get(name) {
            return Ok(Arc::clone(job));
        }
        let job = MetricsOfJob::try_new(name, &self.families)?;
        let job = Arc::new(job);
        self.lock().insert(name.to_owned(), Arc::clone(&job));
        Ok(job)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<MetricsOfJob>>> {
        lock(&self.jobs)
    }
}

/// The metrics of one job, for its runner; does nothing if metrics are off. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct JobMetrics(Option<Arc<MetricsOfJob>>);

impl JobMetrics {
    pub(super) fn try_new(metrics: Option<&Metrics>, job: &str) -> Result<Self> {
        Ok(Self(metrics.map(|metrics| metrics.job(job)).transpose()?))
    }

    /// Sets the state of the job; none when it has ended here.
    pub(super) fn state(&self, now: Option<JobState>) {
        let Some(job) = &self.0 else { return };
        for (state, gauge) in JobState::ALL.iter().zip(&job.states) {
            gauge.set(i64::from(now == Some(*state)));
        }
    }

    /// Counts a retry after a fault that may pass.
    pub(super) fn retry(&self) {
        self.state(Some(JobState::Waiting));
        if let Some(job) = &self.0 {
            job.retries.inc();
        }
    }

    /// Counts a failure: the job has stopped by itself.
    pub(super) fn failed(&self) {
        self.state(Some(JobState::Failed));
        if let Some(job) = &self.0 {
            job.failures.inc();
        }
    }

    /// Updates the lag: topics end at `ends`, and `last` is the job's last version.
    pub(super) fn lag(&self, last: Option<&BatchVersion>, ends: &SourceEnds) {
        let Some(job) = &self.0 else { return };
        for (table, partition, lag) in lags(last, ends) {
            let labels = [job.name.as_str(), table, &partition.to_string()];
            let gauge = job.families.lag.with_label_values(&labels);
            gauge.set(signed(lag));
        }
    }

    /// Records the duration of a phase of a batch.
    pub(super) fn phase(&self, phase: BatchPhase, took: Duration) {
        if let Some(job) = &self.0 {
            job.phase_seconds[phase as usize].observe(took.as_secs_f64());
        }
    }

    /// Counts a batch that was committed `at` milliseconds since 1970 UTC.
    pub(super) fn committed(&self, version: &BatchVersion, took: Duration, at: i64) {
        let Some(job) = &self.0 else { return };
        job.rows_in.inc_by(version.rows_in);
        job.bytes_in.inc_by(version.bytes_in);
        job.rows_out.inc_by(version.rows_out);
        job.late_rows.inc_by(version.late_rows);
        job.dead_letters.inc_by(version.dead_letters);
        job.batches.inc();
        job.batch_seconds.observe(took.as_secs_f64());
        let mut last_commit = lock(&job.last_commit);
        let family = &job.families.last_commit;
        last_commit
            .get_or_insert_with(|| family.with_label_values(&[&job.name]))
            .set(seconds(at.saturating_mul(1_000)));
    }

    /// Updates the metrics of the job's windows; a job without state has none.
    pub(super) fn windows(&self, windows: &WindowState) {
        let Some(job) = self.0.as_ref().filter(|_| windows.keep_state()) else {
            return;
        };
        let (families, labels) = (&job.families, [job.name.as_str()]);
        let rows = families.state_rows.with_label_values(&labels);
        rows.set(signed(windows.rows() as u64));
        let bytes = families.state_bytes.with_label_values(&labels);
        bytes.set(signed(windows.bytes() as u64));
        let Some(watermark) = windows.watermark() else {
            return;
        };
        let mut of_time = lock(&job.of_time);
        let time = of_time.get_or_insert_with(|| WatermarkGauges {
            watermark,
            seconds: families.watermark.with_label_values(&labels),
            delay: families.watermark_delay.with_label_values(&labels),
        });
        time.watermark = watermark;
        time.seconds.set(seconds(watermark));
    }
}

impl MetricFamilies {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let built = IntGaugeVec::new(
            Opts::new("anabranch_build_info", "The running program; always 1"),
            &["version"],
        )?;
        registry.register(Box::new(built.clone()))?;
        built.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let counter = |name: &str, help: &str| {
            let family = IntCounterVec::new(Opts::new(name, help), &["job"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let integer = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauge = |name: &str, help: &str| {
            let family = GaugeVec::new(Opts::new(name, help), &["job"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let family = HistogramVec::new(options, labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        Ok(Self {
            rows_in: counter(
                "anabranch_job_rows_in_total",
                "Records read by committed batches",
            )?,
            bytes_in: counter(
                "anabranch_job_bytes_in_total",
                "Bytes of the keys and values of records read by committed batches",
            )?,
            rows_out: counter(
                "anabranch_job_rows_out_total",
                "Rows that committed batches wrote to the sink",
            )?,
            late_rows: counter(
                "anabranch_job_late_rows_total",
                "Rows that came too late for a window, kept in system.late_rows",
            )?,
            dead_letters: counter(
                "anabranch_job_dead_letters_total",
                "Records that could not be decoded, kept in system.dead_letters",
            )?,
            batches: counter("anabranch_job_batches_total", "Batches committed")?,
            retries: counter(
                "anabranch_job_retries_total",
                "Temporary failures, each followed by another attempt",
            )?,
            failures: counter(
                "anabranch_job_failures_total",
                "Times the job stopped with an error and waits for RESUME JOB",
            )?,
            lag: integer(
                "anabranch_job_lag_offsets",
                "Offsets that are in the topic's partition and that no committed batch has read, as of the last poll",
                &["job", "table", "partition"],
            )?,
            watermark: gauge(
                "anabranch_job_watermark_timestamp_seconds",
                "The job's watermark, an event time, as seconds since 1970 UTC",
            )?,
            watermark_delay: gauge(
                "anabranch_job_watermark_delay_seconds",
                "Seconds from the job's watermark to now",
            )?,
            last_commit: gauge(
                "anabranch_job_last_commit_timestamp_seconds",
                "When the last batch was committed, as seconds since 1970 UTC",
            )?,
            state: integer(
                "anabranch_job_state",
                "1 for the current state of the job, 0 for the others; all 0 when it has ended in this process",
                &["job", "state"],
            )?,
            state_rows: integer(
                "anabranch_job_state_rows",
                "Rows of keyed state held",
                &["job"],
            )?,
            state_bytes: integer(
                "anabranch_job_state_bytes",
                "Bytes of keyed state held in memory",
                &["job"],
            )?,
            batch_seconds: histogram(
                "anabranch_job_batch_seconds",
                "How long committed batches took, from looking for records to the log",
                &["job"],
            )?,
            phase_seconds: histogram(
                "anabranch_job_batch_phase_seconds",
                "How long each phase of a batch took: choose, run, stage, commit, log",
                &["job", "phase"],
            )?,
        })
    }
}

impl MetricsOfJob {
    fn try_new(name: &str, families: &Arc<MetricFamilies>) -> prometheus::Result<Self> {
        let counter = |family: &IntCounterVec| family.get_metric_with_label_values(&[name]);
        let state = |state: JobState| {
            let labels = [name, state.name()];
            families.state.get_metric_with_label_values(&labels)
        };
        let phase = |phase: BatchPhase| {
            let labels = [name, phase.name()];
            families.phase_seconds.get_metric_with_label_values(&labels)
        };
        let [running, waiting, paused, failed] = JobState::ALL.map(state);
        let [choose, run, stage, commit, log] = BatchPhase::ALL.map(phase);
        Ok(Self {
            name: name.to_owned(),
            families: Arc::clone(families),
            rows_in: counter(&families.rows_in)?,
            bytes_in: counter(&families.bytes_in)?,
            rows_out: counter(&families.rows_out)?,
            late_rows: counter(&families.late_rows)?,
            dead_letters: counter(&families.dead_letters)?,
            batches: counter(&families.batches)?,
            retries: counter(&families.retries)?,
            failures: counter(&families.failures)?,
            states: [running?, waiting?, paused?, failed?],
            batch_seconds: families
                .batch_seconds
                .get_metric_with_label_values(&[name])?,
            phase_seconds: [choose?, run?, stage?, commit?, log?],
            of_time: Mutex::default(),
            last_commit: Mutex::default(),
        })
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Converts microseconds to seconds.
fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl From<prometheus::Error> for Error {
    fn from(error: prometheus::Error) -> Self {
        Self::internal(format!("metrics: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, sample: &str) -> Option<f64> {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
    }

    #[test]
    fn two_recorders_are_independent() {
        let (one, other) = (Metrics::try_new().unwrap(), Metrics::try_new().unwrap());
        let job = JobMetrics::try_new(Some(&one), "j").unwrap();
        job.retry();
        job.retry();
        job.failed();
        let text = one.text(0).unwrap();
        assert_eq!(
            value(&text, "anabranch_job_retries_total{job=\"j\"}"),
            Some(2.0)
        );
        assert_eq!(
            value(&text, "anabranch_job_failures_total{job=\"j\"}"),
            Some(1.0)
        );
        assert!(!other.text(0).unwrap().contains("job=\"j\""));
    }

    #[test]
    fn a_job_has_one_state_at_a_time() {
        let metrics = Metrics::try_new().unwrap();
        let job = JobMetrics::try_new(Some(&metrics), "j").unwrap();
        let mut seen = vec![metrics.states()["j"]];
        for state in JobState::ALL {
            job.state(Some(state));
            seen.push(metrics.states()["j"]);
            let text = metrics.text(0).unwrap();
            let ones = JobState::ALL.iter().filter(|state| {
                let sample = format!(
                    "anabranch_job_state{{job=\"j\",state=\"{}\"}}",
                    state.name()
                );
                value(&text, &sample) == Some(1.0)
            });
            assert_eq!(ones.count(), 1);
        }
        job.state(None);
        seen.push(metrics.states()["j"]);
        let all = JobState::ALL.into_iter().map(Some);
        let expected: Vec<_> = [None].into_iter().chain(all).chain([None]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_watermark_delay_is_computed_at_scrape_time() {
        let metrics = Metrics::try_new().unwrap();
        let job = JobMetrics::try_new(Some(&metrics), "j").unwrap();
        let delay = "anabranch_job_watermark_delay_seconds{job=\"j\"}";
        assert_eq!(value(&metrics.text(0).unwrap(), delay), None, "no windows");
        let of = job.0.as_ref().unwrap();
        *lock(&of.of_time) = Some(WatermarkGauges {
            watermark: 2_000_000,
            seconds: of.families.watermark.with_label_values(&["j"]),
            delay: of.families.watermark_delay.with_label_values(&["j"]),
        });
        assert_eq!(value(&metrics.text(5_500_000).unwrap(), delay), Some(3.5));
        assert_eq!(value(&metrics.text(9_000_000).unwrap(), delay), Some(7.0));
    }

    #[test]
    fn without_a_recorder_no_metrics_are_kept() {
        let job = JobMetrics::try_new(None, "j").unwrap();
        job.retry();
        job.failed();
        assert!(job.0.is_none());
    }
}
