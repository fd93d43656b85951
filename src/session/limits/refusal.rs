//! The error for a statement that is too large to be planned.

use crate::error::{Error, ErrorKind};

/// The error for a statement that is too large.
pub(crate) fn too_large(what: String) -> Error {
    Error::new(ErrorKind::Exhausted, what)
        .with_help("store a part of it in a table, or split it into several statements")
}
