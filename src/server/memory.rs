//! The last line before the system ends the process for its memory (SAFE-1): statements end first.
//!
//! Operators hold memory within pools, and functions within the budget of their statement. What neither counts, such as rows
//! between two operators, is seen here by what the whole process holds.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::server::work::Work;

/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);
/// A statement that was told to end has so long to let go of what it holds before another is told.
const PATIENCE: Duration = Duration::from_millis(500);
/// What the process may hold at least beside the memory of its statements: code, caches, what is copied.
const BESIDE: usize = 2 << 30;
/// The same beyond what it held when no statement was at work: jobs keep their state.
const BEYOND: usize = 1 << 30;

/// Ends the newest statement, one after the other, as long as the process holds more than it may.
pub(super) fn watch(work: Arc<Work>, limit: usize) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut at_rest = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(held) = resident() else {
                continue;
            };
            if work.running().is_empty() {
                at_rest = held;
                continue;
            }
            let most = most(limit, at_rest);
            if held <= most {
                continue;
            }
            if let Some(ended) = work.relieve() {
                tracing::warn!(
                    query = ended,
                    held,
                    most,
                    "the process holds too much memory: a statement is ended"
                );
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }))
}

/// Bytes that the process may hold, which held so much when no statement was at work.
fn most(limit: usize, at_rest: usize) -> usize {
    limit.saturating_add(BESIDE.max(at_rest.saturating_add(BEYOND)))
}

/// Bytes that the process holds; none where the system does not say.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_told_and_has_room_beside_the_limit() {
        assert!(resident().unwrap() > 1 << 20);
        assert_eq!(most(100 << 20, 50 << 20), (100 << 20) + BESIDE);
        assert_eq!(most(16 << 30, 10 << 30), (26 << 30) + BEYOND);
        assert_eq!(most(usize::MAX, 1), usize::MAX);
    }
}
