//! What a statement orders: a run over a range of a job. It is made of the text of the statement alone.

use std::fmt;

use super::asked_range::OffsetBounds;
use super::spec::{EmitRows, LateRows, RunOptions};
use super::time_range::TimeRange;

/// A run that a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOrder {
    /// The name of the job.
    pub job: String,
    /// The part of the past.
    pub asked: AskedText,
    /// `EMIT ALL` or `EMIT CHANGED`, if the statement says so.
    pub emit: Option<EmitRows>,
    /// `'run_id'`, if the statement gives one.
    pub run_id: Option<String>,
    /// The other options that the statement gives.
    pub options: GivenRunOptions,
}

/// The part of the past that a statement names: the rows that are in each of the ranges that it has, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AskedText {
    /// `FROM … TO …`: by event time.
    pub time: Option<TimeRange>,
    /// `OFFSETS FROM … TO …`, by the names that the statement gives to tables.
    pub offsets: Option<OffsetBounds>,
    /// The text of the query in `FOR (…)`, without the brackets.
    pub rows: Option<String>,
}

/// The options of a statement that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GivenRunOptions {
    /// `'late'`.
    pub late: Option<LateRows>,
    /// `'withdraw'`.
    pub withdraw: Option<bool>,
    /// `'overwrite'`.
    pub overwrite: Option<bool>,
    /// `'write'`: whether rows are appended to a Delta table.
    pub append: Option<bool>,
    /// `'chunk'`, in microseconds of event time.
    pub chunk: Option<i64>,
    /// `'max_rows_per_second'`.
    pub max_rows_per_second: Option<u64>,
    /// `'yield'`.
    pub yields: Option<bool>,
}

impl RunOrder {
    /// The options of the run. `emit` is that of a statement without EMIT: what is changed where the sink has a key, all rows
    /// otherwise.
    pub fn options(&self, emit: EmitRows) -> RunOptions {
        self.options.with_emit(self.emit.unwrap_or(emit))
    }
}

impl GivenRunOptions {
    /// All options, with the default of each that was not given.
    pub fn with_emit(&self, emit: EmitRows) -> RunOptions {
        RunOptions {
            emit,
            late: self.late.unwrap_or_default(),
            withdraw: self.withdraw.unwrap_or(false),
            overwrite: self.overwrite.unwrap_or(false),
            append: self.append.unwrap_or(false),
            chunk: self.chunk,
            max_rows_per_second: self.max_rows_per_second,
            yields: self.yields.unwrap_or(true),
        }
    }

    /// The options of a run that goes on, with the pace that is given: it changes no result.
    #[must_use]
    pub fn paced(&self, of: RunOptions) -> RunOptions {
        RunOptions {
            chunk: self.chunk.or(of.chunk),
            max_rows_per_second: self.max_rows_per_second.or(of.max_rows_per_second),
            yields: self.yields.unwrap_or(of.yields),
            ..of
        }
    }
}

impl fmt::Display for EmitRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EmitRows::All => "ALL",
            EmitRows::Changed => "CHANGED",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_given_have_their_defaults() {
        let order = RunOrder {
            job: "j".into(),
            asked: AskedText::default(),
            emit: None,
            run_id: None,
            options: GivenRunOptions {
                late: Some(LateRows::Exclude),
                chunk: Some(5),
                ..GivenRunOptions::default()
            },
        };
        let options = RunOptions {
            emit: EmitRows::Changed,
            late: LateRows::Exclude,
            withdraw: false,
            overwrite: false,
            append: false,
            chunk: Some(5),
            max_rows_per_second: None,
            yields: true,
        };
        assert_eq!(order.options(EmitRows::Changed), options);
        let all = RunOrder {
            emit: Some(EmitRows::All),
            ..order
        };
        assert_eq!(all.options(EmitRows::Changed).emit, EmitRows::All);
    }

    #[test]
    fn a_run_goes_on_at_the_pace_that_is_given() {
        let of = GivenRunOptions {
            chunk: Some(5),
            ..GivenRunOptions::default()
        };
        let of = of.with_emit(EmitRows::All);
        assert_eq!(GivenRunOptions::default().paced(of), of);
        let given = GivenRunOptions {
            withdraw: Some(true),
            max_rows_per_second: Some(7),
            yields: Some(false),
            ..GivenRunOptions::default()
        };
        let paced = RunOptions {
            max_rows_per_second: Some(7),
            yields: false,
            ..of
        };
        assert_eq!(given.paced(of), paced);
    }
}
