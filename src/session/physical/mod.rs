//! Operators and rules over physical plans that bound what a statement takes, and that mend what the engine's operators answer.

pub(crate) mod bounded_plan;
pub(crate) mod copies;
pub(crate) mod delimiters;
pub(crate) mod few_rows;
pub(crate) mod frames;
pub(crate) mod nan;
pub(crate) mod one_nan;
pub(crate) mod parts;
pub(crate) mod spread;
pub(crate) mod top_groups;
