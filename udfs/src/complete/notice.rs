//! What a run of COMPLETE_SESSIONS tells whoever started it.

use std::sync::{Mutex, PoisonError};

/// Sessions that were still open when the search reached `max_extension`: their rows further out,
/// if there are any, are not in the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsCapped {
    /// How many sessions.
    pub sessions: usize,
    /// The event times, as text, between which the table was read.
    pub searched: (String, String),
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
