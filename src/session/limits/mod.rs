//! Limits of a statement before and while it is planned (SAFE-1): sizes of values, of types, of plans, and planning that can be ended.

pub(crate) mod array_bytes;
pub(crate) mod bounded_literals;
pub(crate) mod cancellation;
pub(crate) mod expansion;
pub(crate) mod function_bounds;
pub(crate) mod function_measures;
pub(crate) mod memory_checks;
pub(crate) mod plan_limits;
pub(crate) mod query_size;
pub(crate) mod refusal;
pub(crate) mod type_fields;
