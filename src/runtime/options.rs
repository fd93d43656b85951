//! The options of CREATE JOB … WITH (…) and SUBSCRIBE WITH (…).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::jobs::{BatchVersion, Retention, Startup};
use crate::error::{Error, Result, Subject};
use crate::planner::TableOption;
use crate::runtime::startup;
use crate::streaming::{StreamQuery, StreamTable};
use crate::tables::options::{self, Options};

/// The names of all options.
pub const OPTION_NAMES: &[&str] = &[
    "batch.max_bytes",
    "batch.max_rows",
    "on_change",
    "on_expression_error",
    "retention.age",
    "retention.runs",
    "retention.versions",
    startup::OPTION,
    "state.max_memory",
    "state.ttl",
    "trigger",
    "watermark.max_drift",
];

/// The names of all options of SUBSCRIBE.
const SUBSCRIPTION_OPTION_NAMES: &[&str] = &[
    "batch.max_bytes",
    "batch.max_rows",
    startup::OPTION,
    "state.max_memory",
    "state.ttl",
    "trigger",
    "watermark.max_drift",
];

/// How long runs that have ended are kept if the job does not say.
const RETENTION_OF_RUNS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// When a job looks for new records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// So long after the start of the batch before, or later if that one still runs.
    Every(Duration),
    /// As soon as the batch before is done.
    AsFastAsPossible,
    /// It reads the records that exist at its start, then stops.
    Once,
}

/// How long a job without windows keeps a key that no batch touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateTtl {
    /// So long.
    After(Duration),
    /// For ever.
    Never,
}

/// Handling of a record for which the job's expressions fail, or for which no row can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpressionError {
    /// The job stops, and its error names the record.
    Fail,
    /// The record becomes a dead letter, and the job continues.
    DeadLetter,
}

/// How a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOptions {
    /// When it looks for new records.
    pub trigger: Trigger,
    /// The most records of a batch, over all partitions of a table.
    pub max_rows: u64,
    /// The approximate number of bytes of a batch's records, estimated by the records of the batch before.
    pub max_bytes: u64,
    /// Whether a replaced statement with another stateful part begins with an empty state.
    pub resets_on_change: bool,
    /// The most bytes of keyed state; with more the job stops before it commits.
    pub state_max_memory: usize,
    /// How far a partition's watermark may be ahead of the slowest one's before it waits.
    pub max_drift: Option<Duration>,
    /// Which batches it can be rewound to.
    pub retention: Retention,
    /// How long reprocessing runs of the job are kept that have ended.
    pub retention_of_runs: Duration,
    /// When keys are dropped from the state, if the option is given.
    pub state_ttl: Option<StateTtl>,
    /// Handling of records for which its expressions fail.
    pub on_expression_error: OnExpressionError,
    /// Where it begins in sources that it has not read, if the option is given; otherwise their declarations say.
    pub startup: Option<Startup>,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            trigger: Trigger::Every(Duration::from_millis(100)),
            max_rows: 500_000,
            max_bytes: 256 << 20,
            resets_on_change: false,
            state_max_memory: 4 << 30,
            max_drift: None,
            retention: Retention::default(),
            retention_of_runs: RETENTION_OF_RUNS,
            state_ttl: None,
            on_expression_error: OnExpressionError::Fail,
            startup: None,
        }
    }
}

impl JobOptions {
    /// Parses the options of a job as they were typed.
    ///
    /// # Errors
    ///
    /// An unknown name or a value that does not fit, with its place.
    pub fn parse(given: &[TableOption]) -> Result<Self> {
        Self::default().with(given, OPTION_NAMES)
    }

    /// Parses the options of SUBSCRIBE, a job that is never resumed or rewound. Its batches are smaller, because each is held
    /// in memory until the client has read it.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn parse_subscription(given: &[TableOption]) -> Result<Self> {
        let fleeting = Self {
            max_rows: 100_000,
            max_bytes: 32 << 20,
            retention: Retention {
                versions: 1,
                age: i64::MAX,
            },
            ..Self::default()
        };
        fleeting.with(given, SUBSCRIPTION_OPTION_NAMES)
    }

    fn with(mut self, given: &[TableOption], names: &[&str]) -> Result<Self> {
        for option in given {
            let key = option.key.to_lowercase();
            let one: Options = [(key.clone(), option.value.value.clone())].into();
            options::check_names(&one, names, &[]).map_err(|error| error.at(option.key_span))?;
            self.take(&key, &one)
                .map_err(|error| error.at(option.value.span))?;
        }
        Ok(self)
    }

    /// How many records the batch after `last` may have.
    pub fn rows_of_batch(&self, last: Option<&BatchVersion>) -> u64 {
        /// Assumed size of a record before the first batch has shown it.
        const BYTES: u64 = 1_024;
        let within = match last {
            Some(last) => last.rows_within(self.max_bytes),
            None => (self.max_bytes / BYTES).max(1),
        };
        self.max_rows.min(within)
    }

    /// How many microseconds the state keeps a key that no batch touches; none is for ever.
    pub fn ttl(&self) -> Option<i64> {
        match self.state_ttl? {
            StateTtl::After(ttl) => i64::try_from(ttl.as_micros()).ok(),
            StateTtl::Never => None,
        }
    }

    /// Checks the options against a query; `stream` is its aggregate over batches, if it has one.
    ///
    /// # Errors
    ///
    /// An option does not apply to the query, or a required one is missing; `given` holds their places in the text.
    pub fn check(&self, stream: Option<&StreamQuery>, given: &[TableOption]) -> Result<()> {
        let is_keyed = stream.is_some_and(StreamQuery::is_keyed);
        self.check_ttl(is_keyed, given)?;
        self.check_drift(stream.is_some() && !is_keyed)
    }

    /// Checks the options against the sources of the job, and gives where it begins the names of its tables.
    ///
    /// # Errors
    ///
    /// A name that is not that of a source; rows of a Delta table have no offset at which a job could begin, or by which one of
    /// them could be set aside. `given` holds the places of the options in the text.
    pub fn with_sources(
        mut self,
        sources: &BTreeMap<String, StreamTable>,
        given: &[TableOption],
    ) -> Result<Self> {
        self.check_sources(sources, given)?;
        if let Some(startup) = self.startup.take() {
            let startup = startup::for_sources(startup, sources);
            let option = given_option(given, startup::OPTION);
            self.startup = Some(startup.map_err(|error| match option {
                Some(option) => error.at(option.value.span),
                None => error,
            })?);
        }
        Ok(self)
    }

    fn check_sources(
        &self,
        sources: &BTreeMap<String, StreamTable>,
        given: &[TableOption],
    ) -> Result<()> {
        if self.on_expression_error == OnExpressionError::Fail {
            return Ok(());
        }
        let table = sources
            .iter()
            .find(|(_, source)| matches!(source, StreamTable::Delta(_)));
        let Some((name, _)) = table else {
            return Ok(());
        };
        let error = Error::unsupported(format!(
            "'on_expression_error' 'dead_letter' is for records of topics, and {name} is a Delta table"
        ))
        .about(Subject::option("on_expression_error"))
        .with_help("use expressions that give NULL: try_cast, nullif, CASE");
        Err(match given_option(given, "on_expression_error") {
            Some(option) => error.at(option.key_span),
            None => error,
        })
    }

    /// Requires `state.ttl` of aggregates without a window, so that keys are not kept for ever by accident; windows do not need
    /// the option.
    fn check_ttl(&self, is_keyed: bool, given: &[TableOption]) -> Result<()> {
        if is_keyed && self.state_ttl.is_none() {
            return Err(Error::invalid(
                "an aggregate without a window keeps every key: set for how long",
            )
            .with_help(
                "WITH ('state.ttl' '7 days') drops a key that no batch has touched for this time, 'state.ttl' 'none' \
                 keeps all; or group by the window_start of TUMBLE, HOP, CUMULATE or SESSION, or use EMIT PER BATCH",
            ));
        }
        match given_option(given, "state.ttl") {
            Some(option) if !is_keyed => Err(Error::invalid(
                "'state.ttl' applies to the keys of an aggregate without a window, and the job has none",
            )
            .with_help("leave it out: the state of a window goes when the window closes")
            .at(option.key_span)),
            _ => Ok(()),
        }
    }

    /// Refuses `watermark.max_drift` without windows: only windows have a watermark.
    fn check_drift(&self, has_windows: bool) -> Result<()> {
        if self.max_drift.is_none() || has_windows {
            return Ok(());
        }
        Err(Error::invalid(
            "option 'watermark.max_drift' is for jobs with windows, and this one has none",
        )
        .about(Subject::option("watermark.max_drift"))
        .with_help("it holds back partitions that are ahead of others in event time"))
    }

    fn take(&mut self, key: &str, one: &Options) -> Result<()> {
        let value = one.get(key).map(String::as_str).unwrap_or_default();
        match key {
            "trigger" => {
                self.trigger = match value.to_lowercase().as_str() {
                    "once" => Trigger::Once,
                    "as fast as possible" => Trigger::AsFastAsPossible,
                    _ => Trigger::Every(options::duration(one, key, Duration::ZERO).map_err(
                        |_| {
                            Error::invalid(format!("option 'trigger' does not accept '{value}'"))
                                .about(Subject::option("trigger"))
                                .with_help(
                                    "it takes a duration such as '100 milliseconds', 'as fast as possible' or 'once'",
                                )
                        },
                    )?),
                };
            }
            "batch.max_bytes" => {
                if let Some(bytes) = options::bytes(one, key)? {
                    self.max_bytes = bytes;
                }
            }
            "on_change" => {
                let choices = [("refuse", false), ("reset", true)];
                self.resets_on_change = options::choice(one, key, &choices, false)?;
            }
            "on_expression_error" => {
                let choices = [
                    ("fail", OnExpressionError::Fail),
                    ("dead_letter", OnExpressionError::DeadLetter),
                ];
                let fail = OnExpressionError::Fail;
                self.on_expression_error = options::choice(one, key, &choices, fail)?;
            }
            startup::OPTION => self.startup = Some(startup::parse(value)?),
            "retention.age" => {
                let age = options::duration(one, key, Duration::ZERO)?;
                self.retention.age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            }
            "retention.runs" => {
                self.retention_of_runs = options::duration(one, key, RETENTION_OF_RUNS)?;
            }
            "retention.versions" => {
                if let Some(versions) = options::integer(one, key, 1)? {
                    self.retention.versions = u64::from(versions.unsigned_abs());
                }
            }
            "state.max_memory" => {
                if let Some(bytes) = options::bytes(one, key)? {
                    self.state_max_memory = usize::try_from(bytes).unwrap_or(usize::MAX);
                }
            }
            "watermark.max_drift" => {
                self.max_drift = match value.to_lowercase().as_str() {
                    "none" => None,
                    _ => Some(options::duration(one, key, Duration::ZERO)?),
                };
            }
            "state.ttl" => {
                self.state_ttl = Some(match value.to_lowercase().as_str() {
                    "none" => StateTtl::Never,
                    _ => match options::duration(one, key, Duration::ZERO) {
                        Ok(ttl) if !ttl.is_zero() => StateTtl::After(ttl),
                        _ => {
                            return Err(Error::invalid(format!(
                                "option 'state.ttl' does not accept '{value}'"
                            ))
                            .about(Subject::option("state.ttl"))
                            .with_help("it takes a duration such as '7 days', or 'none'"));
                        }
                    },
                });
            }
            _ => {
                if let Some(rows) = options::integer(one, key, 1)? {
                    self.max_rows = u64::from(rows.unsigned_abs());
                }
            }
        }
        Ok(())
    }
}

/// An option as it was typed.
fn given_option<'g>(given: &'g [TableOption], key: &str) -> Option<&'g TableOption> {
    given
        .iter()
        .find(|option| option.key.eq_ignore_ascii_case(key))
}
