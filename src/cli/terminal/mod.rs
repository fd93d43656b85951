//! Standard output and standard error: results, progress, logs.

pub(crate) mod interrupt;
pub(crate) mod logging;
pub(crate) mod messages;
pub(crate) mod output;
pub(crate) mod progress;
