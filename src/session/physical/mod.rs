//! Operators and rules over physical plans that bound the memory of a statement, or correct answers of the engine's operators.

pub(crate) mod bounded_plan;
pub(crate) mod copies;
pub(crate) mod delimiters;
pub(crate) mod few_rows;
pub(crate) mod frames;
pub(crate) mod nan;
pub(crate) mod one_nan;
pub(crate) mod parts;
pub(crate) mod read_once;
pub(crate) mod spread;
pub(crate) mod top_groups;
