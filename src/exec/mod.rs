//! What runs: codecs between records and Arrow, and physical operators.

pub mod format;
pub mod keyed;
pub mod read;
pub mod side_output;
pub mod whole;
