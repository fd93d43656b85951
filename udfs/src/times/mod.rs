//! Times: TIMESTAMP is microseconds in UTC, for the years 1 to 9999 and in every function.
//!
//! DataFusion often converts through nanoseconds, which end in the year 2262. [`MicrosecondTime`] is an analyzer rule that
//! removes its casts to nanoseconds from a plan; the functions here compute in microseconds.

pub mod calendar;
mod date_bin;
mod date_part;
mod date_trunc;
mod interval_keys;
mod intervals;
mod microseconds;
mod now;
mod pattern;
mod seconds;
mod series;
mod to_char;
mod to_timestamp;
mod to_unixtime;

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::ScalarUDF;

pub(crate) use date_part::ExtractPlanner;
pub(crate) use intervals::with_interval_lengths;
pub(crate) use intervals::{INTERVAL_LENGTH, IntervalsByLength};
pub use microseconds::{MicrosecondTime, with_microseconds};
pub(crate) use seconds::{
    give_seconds, is_point_in_time, literals_with_seconds, texts_with_seconds, value_with_seconds,
};

/// The functions of times, by the names of the functions that they replace.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = vec![
        Arc::new(now::now()),
        Arc::new(date_trunc::date_trunc()),
        Arc::new(date_bin::date_bin()),
        Arc::new(date_part::date_part()),
        Arc::new(to_char::to_char()),
        Arc::new(to_unixtime::to_unixtime()),
    ];
    functions.extend(series::functions().map(Arc::new));
    functions.extend(to_timestamp::functions().into_iter().map(Arc::new));
    functions
}

/// TIMESTAMP.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}
