//! Pure decisions, from facts to values: without clock, I/O or DataFusion.

pub mod archive;
pub mod heap;
pub mod jobs;
pub(crate) mod random;
pub mod redact;
pub mod runs;
#[cfg(test)]
pub(crate) mod schedules;
pub mod stack;
pub mod suggest;
