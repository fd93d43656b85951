//! Settings for reading values from text and writing them as text.

use arrow::datatypes::TimeUnit;

use super::text::time::TimestampFormat;
use super::text::zone::Zone;

/// Settings for reading values from text.
#[derive(Debug, Clone)]
pub(crate) struct ReadOptions {
    /// The zone of text without an offset.
    pub(crate) zone: Zone,
    /// The unit of numbers in a TIMESTAMP column, if the options give one.
    pub(crate) number_unit: Option<TimeUnit>,
}

/// Settings for writing values as text.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    /// The zone timestamps are written in.
    pub(crate) zone: Zone,
    pub(crate) timestamp_format: TimestampFormat,
    /// Whether a NULL field is written as `null` or left out.
    pub(crate) nulls: bool,
}
