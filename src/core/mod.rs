//! Pure decisions: facts in, values out. No clock, no I/O, no DataFusion.

pub mod heap;
pub mod jobs;
pub(crate) mod random;
pub mod redact;
#[cfg(test)]
pub(crate) mod schedules;
pub mod stack;
pub mod suggest;
pub mod visits;
