//! Pure decisions: facts in, values out. No clock, no I/O, no DataFusion.

pub mod jobs;
pub mod redact;
pub mod suggest;
pub mod visits;
