//! Messages on standard error.

use std::io::Write as _;

use crate::error::Error;
use crate::planner::Script;

/// Writes `text` to standard error.
pub(crate) fn eprint(text: &str) {
    // An error is ignored: when standard error is closed, a message about it has no reader.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints an error with its place; gives its exit code.
pub(crate) fn report(error: &Error, script: &Script) -> u8 {
    eprint(&error.render(&script.name, &script.text));
    error.kind().exit_code()
}

/// Prints warnings, one a line.
pub(crate) fn warn(warnings: Vec<String>) {
    for warning in warnings {
        eprint(&format!("warning: {warning}\n"));
    }
}
