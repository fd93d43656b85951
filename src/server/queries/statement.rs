//! One statement of a client: its id, its state, the rows and bytes sent so far, and the reason of an early end.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::core::heap;
use crate::error::{Error, ErrorKind};
use crate::server::auth::access::Caller;

/// The most characters of a statement's text in the list and the log.
const SHOWN: usize = 2_000;

/// How long a statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// As long as it takes.
    Any,
    /// At most this long.
    AtMost(Duration),
    /// Until its client goes: other statements do not wait for it.
    Endless,
}

/// A statement of a client, from when it is asked for until it has run or its rows are fetched.
#[derive(Debug)]
pub(crate) struct ClientStatement {
    /// By which it is listed, cancelled and logged.
    pub(crate) id: String,
    pub(crate) user: Arc<str>,
    /// Without secrets.
    pub(crate) text: String,
    /// In milliseconds since 1970 UTC.
    pub(crate) at: i64,
    time: TimeLimit,
    pub(super) is_waiting: AtomicBool,
    /// It has ended, and is still being planned.
    pub(super) is_ending: AtomicBool,
    /// How many wait for it.
    pub(super) waited_for: AtomicUsize,
    rows: AtomicU64,
    bytes: AtomicU64,
    /// Microseconds of running so far.
    pub(super) spent: AtomicU64,
    stopped: CancellationToken,
    stopped_by: OnceLock<StopReason>,
    /// Memory that its polls allocate is counted here.
    pub(super) owner: Arc<heap::MemoryOwner>,
    /// Cancelled when a thread of the statement waits for memory: then the statement cannot report its own end.
    pub(super) is_short: CancellationToken,
}

impl ClientStatement {
    #[expect(
        clippy::disallowed_methods,
        reason = "the id of a statement cannot be guessed"
    )]
    pub(crate) fn new(caller: &Caller, text: &str, at: i64, time: TimeLimit) -> Arc<Self> {
        Arc::new(Self {
            id: uuid::Uuid::new_v4().simple().to_string()[..16].to_owned(),
            user: Arc::clone(&caller.name),
            text: text.chars().take(SHOWN).collect(),
            at,
            time,
            is_waiting: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            waited_for: AtomicUsize::new(0),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            stopped: CancellationToken::new(),
            stopped_by: OnceLock::new(),
            owner: Arc::default(),
            is_short: CancellationToken::new(),
        })
    }

    /// Whether its rows come until its client goes.
    pub(crate) fn is_endless(&self) -> bool {
        self.time == TimeLimit::Endless
    }

    /// Ends it, now or as soon as it begins.
    pub(crate) fn cancel(&self, by: &str) {
        self.stop(StopReason::User(by.to_owned()));
    }

    pub(super) fn stop(&self, by: StopReason) {
        // Only the first reason is kept.
        let _ = self.stopped_by.set(by);
        self.owner.end();
        self.stopped.cancel();
    }

    /// `WAITING` for others to end, `RUNNING`, or `ENDING` where it has ended and is still being planned.
    pub(crate) fn state(&self) -> &'static str {
        match self.is_waiting.load(Ordering::Relaxed) {
            _ if self.is_ending.load(Ordering::Relaxed) => "ENDING",
            true => "WAITING",
            false => "RUNNING",
        }
    }

    /// The statement has ended, and its plan was cancelled.
    pub(crate) fn ends(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// How long it may take, if that is limited.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self.time {
            TimeLimit::AtMost(timeout) => Some(timeout),
            TimeLimit::Any | TimeLimit::Endless => None,
        }
    }

    /// Ends it, since it has been planned for so long.
    pub(crate) fn stop_planning(&self, limit: Duration) {
        self.stop(StopReason::Planning(limit));
    }

    /// Whether it was cancelled, or its client no longer waits.
    pub(crate) fn has_ended(&self) -> bool {
        self.waited_for.load(Ordering::Relaxed) == 0 || self.stopped.is_cancelled()
    }

    /// The error for its client if it was cancelled.
    pub(crate) fn stop_error(&self) -> Option<Error> {
        let by = self.stopped_by.get()?;
        Some(match by {
            StopReason::Server => is_ending(),
            StopReason::Memory => is_out_of_memory(),
            StopReason::Planning(limit) => Error::new(
                ErrorKind::Timeout,
                format!(
                    "planning the statement took longer than {:.1} s",
                    limit.as_secs_f64()
                ),
            )
            .with_help("split it into several statements, or store a part of it in a table"),
            StopReason::User(by) if **by != *self.user => Error::new(
                ErrorKind::Cancelled,
                format!("the statement was cancelled by {by}"),
            ),
            StopReason::User(_) => Error::new(ErrorKind::Cancelled, "the statement was cancelled"),
        })
    }

    /// Counts the rows and bytes sent.
    pub(crate) fn count(&self, rows: usize, bytes: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Rows and bytes that were sent so far.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let rows = self.rows.load(Ordering::Relaxed);
        (rows, self.bytes.load(Ordering::Relaxed))
    }

    /// Ends when it is stopped or has taken too long; gives why.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time limit of a statement is real time"
    )]
    pub(super) async fn stopped(&self) -> Error {
        let took_too_long = async {
            match self.timeout() {
                Some(timeout) => {
                    tokio::time::sleep(timeout).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stopped.cancelled() => self.stop_error().unwrap_or_else(client_gone),
            timeout = took_too_long => {
                self.owner.end();
                too_long(timeout)
            }
        }
    }
}

/// The reason why a statement is ended early.
#[derive(Debug)]
pub(super) enum StopReason {
    /// A user with the right to do so, by this name.
    User(String),
    /// The server, which ends before it.
    Server,
    /// The server, which would run out of memory with it.
    Memory,
    /// The server, which has planned it for so long.
    Planning(Duration),
}

pub(super) fn is_out_of_memory() -> Error {
    let ended = "the server ran out of memory: the statement was ended";
    Error::new(ErrorKind::Exhausted, ended)
        .with_help("read fewer rows or columns, or ask for an aggregate of them")
}

pub(super) fn is_ending() -> Error {
    Error::unavailable("the server is shutting down").with_help("try again soon")
}

pub(super) fn client_gone() -> Error {
    Error::new(ErrorKind::Cancelled, "the client has disconnected")
}

pub(super) fn too_long(timeout: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "the statement took longer than {:.1} s",
            timeout.as_secs_f64()
        ),
    )
    .with_help("SET statement_timeout changes that within the server's own limit")
}
