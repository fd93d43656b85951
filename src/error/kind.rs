//! Who must act on an error.

/// Who must act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The text, an option or an argument is wrong: change it.
    Invalid,
    /// Something named does not exist.
    NotFound,
    /// Something to be created exists already.
    Exists,
    /// The statement is understood but not built, or not possible by design.
    Unsupported,
    /// A record, file or log holds something that cannot be read as declared.
    Data,
    /// A broker, store or registry did not answer, or refused the connection: try again or check it.
    Unavailable,
    /// The caller may not do this.
    Permission,
    /// The caller has not been authenticated.
    Unauthenticated,
    /// Memory, disk or a limit ran out.
    Exhausted,
    /// The caller cancelled it.
    Cancelled,
    /// It took longer than it may.
    Timeout,
    /// A fault of this program.
    Internal,
}

impl ErrorKind {
    /// In one word, as metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Exists => "exists",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Data => "data",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Permission => "permission",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Internal => "internal",
        }
    }

    /// The exit code of the command line: 1 for SQL and data, 2 for usage and connections.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Unavailable | ErrorKind::Permission | ErrorKind::Unauthenticated => 2,
            ErrorKind::Cancelled => 130,
            _ => 1,
        }
    }
}
