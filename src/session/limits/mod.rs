//! Limits of a statement before and while it is planned (SAFE-1): sizes of values, of types, of plans, and planning that can be ended.

pub(crate) mod bounded_literals;
pub(crate) mod bytes;
pub(crate) mod expansion;
pub(crate) mod measures;
pub(crate) mod plan_limits;
pub(crate) mod refusal;
pub(crate) mod room;
pub(crate) mod sizes;
pub(crate) mod type_fields;
pub(crate) mod unwanted;
pub(crate) mod weights;
