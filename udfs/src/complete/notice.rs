//! Notices from a run of COMPLETE_SESSIONS to its caller.

use std::sync::{Mutex, PoisonError};

/// Sessions that were still open when the search reached `max_extension`: their rows further out,
/// if there are any, are not in the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsCapped {
    /// The number of sessions.
    pub sessions: usize,
    /// Key, first and last row of the earliest ones, at most [`Self::MAX_NAMED`].
    pub named: Vec<String>,
    /// The event times, as text, between which the table was read.
    pub searched: (String, String),
}

impl SessionsCapped {
    /// The most sessions that are named.
    pub const MAX_NAMED: usize = 10;

    /// The named sessions and how many more there are, as one text.
    pub fn names(&self) -> String {
        let names = self.named.join("; ");
        match self.sessions.saturating_sub(self.named.len()) {
            0 => names,
            more => format!("{names}; and {more} more"),
        }
    }
}

/// Collects [`SessionsCapped`] while statements run. Put an `Arc` of it into the session with
/// `SessionConfig::with_extension` and drain it after each statement.
#[derive(Debug, Default)]
pub struct CompletionNotices {
    capped: Mutex<Vec<SessionsCapped>>,
}

impl CompletionNotices {
    /// All notices since the last call, in the order they came.
    pub fn drain(&self) -> Vec<SessionsCapped> {
        std::mem::take(&mut *self.capped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn push(&self, notice: SessionsCapped) {
        self.capped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(notice);
    }
}
