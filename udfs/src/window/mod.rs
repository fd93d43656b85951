//! TUMBLE, HOP and CUMULATE: windows aligned to the epoch.

mod aligned;
mod exec;
mod node;
mod slices;

pub use aligned::{AlignedWindows, WindowKind};
pub use exec::EventWindowExec;
pub use node::EventWindow;
pub use slices::Slices;

pub(crate) use exec::column_name;
pub(crate) use node::necessary_columns;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::common::{DFSchema, DFSchemaRef, Result, ScalarValue};

/// The first column a window function adds.
pub const WINDOW_START: &str = "window_start";
/// The second column a window function adds.
pub const WINDOW_END: &str = "window_end";

/// The input's columns, then `window_start` and `window_end` of the event time's type.
pub(crate) fn windowed_schema(input: &DFSchema, event_time: &DataType) -> Result<DFSchemaRef> {
    let mut fields: Vec<_> = input
        .iter()
        .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
        .collect();
    for name in [WINDOW_START, WINDOW_END] {
        fields.push((None, Arc::new(Field::new(name, event_time.clone(), false))));
    }
    Ok(Arc::new(DFSchema::new_with_metadata(
        fields,
        input.metadata().clone(),
    )?))
}

/// The ticks of a timestamp array, in its own unit since the epoch.
pub(crate) fn ticks(array: &ArrayRef) -> Result<ScalarBuffer<i64>> {
    let ticks = cast(array, &DataType::Int64)?;
    Ok(ticks.as_primitive::<Int64Type>().values().clone())
}

/// The number of ticks of a timestamp type in an hour.
pub(crate) fn ticks_per_hour(data_type: &DataType) -> i64 {
    let DataType::Timestamp(unit, _) = data_type else {
        return i64::MAX;
    };
    3_600 * ticks_per_second(*unit)
}

/// The number of ticks of `unit` in a second.
pub(crate) fn ticks_per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A timestamp array of type `data_type` from ticks in its unit.
pub(crate) fn timestamps(ticks: ScalarBuffer<i64>, data_type: &DataType) -> Result<ArrayRef> {
    Ok(cast(&Int64Array::new(ticks, None), data_type)?)
}

/// `tick` as a timestamp text, for messages.
pub(crate) fn show_tick(tick: i64, data_type: &DataType) -> String {
    ScalarValue::Int64(Some(tick))
        .cast_to(data_type)
        .and_then(|value| value.to_array())
        .and_then(|array| Ok(array_value_to_string(&array, 0)?))
        .unwrap_or_else(|_| tick.to_string())
}

/// Whether a time zone is UTC by another name.
pub(crate) fn is_utc(zone: &str) -> bool {
    [
        "UTC", "Z", "+00:00", "-00:00", "+00", "+0000", "Etc/UTC", "GMT",
    ]
    .iter()
    .any(|utc| zone.eq_ignore_ascii_case(utc))
}
