//! Errors for callers who are not known, or who lack a right.

use crate::error::{Error, ErrorKind};

/// The error for a caller who is not known.
pub(crate) fn unknown(why: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, why)
}

/// The error for an action that only an administrator may do.
pub(crate) fn refused(why: String) -> Error {
    Error::new(ErrorKind::Permission, why).with_help("ask an administrator of the server")
}
