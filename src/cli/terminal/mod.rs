//! Standard output and standard error: results, progress, logs.

pub(crate) mod logging;
pub(crate) mod output;
pub(crate) mod progress;
