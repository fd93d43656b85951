//! Conversion between values and their text: numbers, times, and the zone of a table.

pub(crate) mod number;
pub(crate) mod offset;
pub(crate) mod scalar;
pub(crate) mod time;
pub(crate) mod zone;
