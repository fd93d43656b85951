//! Limits of what clients may ask for, and the name of the log of statements.

use std::time::Duration;

/// The target by which the log of statements is filtered.
pub const QUERY_LOG: &str = "anabranch::queries";

/// How much clients may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Statements that run at the same time.
    pub statements: usize,
    /// Statements that wait for others; one more is refused.
    pub queue: usize,
    /// Subscriptions that are open at the same time; one more is refused.
    pub subscriptions: usize,
    /// How long a statement may take, unless its session says less.
    pub timeout: Option<Duration>,
    /// How long a statement may be planned without a pause.
    pub planning: Duration,
    /// Bytes that a statement may hold before it spills or fails; `None`: all of the server's.
    pub memory: Option<usize>,
    /// Bytes of a result.
    pub result_bytes: Option<u64>,
    /// Bytes of a statement's text.
    pub statement_bytes: usize,
    /// Sessions, and of each kind things that are kept for clients between two calls.
    pub sessions: usize,
    /// The time without a call after which the server forgets settings and handles of a client.
    pub idle: Duration,
    /// A result that gives nothing for so long says that it is still there.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statements: 64,
            queue: 256,
            subscriptions: 256,
            timeout: None,
            planning: Duration::from_secs(60),
            memory: None,
            result_bytes: None,
            statement_bytes: 16 << 20,
            sessions: 10_000,
            idle: Duration::from_secs(3_600),
            keep_alive: Duration::from_secs(15),
        }
    }
}
