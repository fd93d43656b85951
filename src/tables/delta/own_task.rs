//! Work under a lock that jobs and statements share, on a task of its own.
//!
//! A statement may stop in the middle of its work: its thread waits for memory, or its plan for a place. If it
//! held a lock of the table then, jobs over this table would wait for it. A task of its own goes on, and its allocations are
//! counted for no statement and do not wait.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::error::{Error, Result};

/// Runs the work to its end, or until the caller is dropped.
///
/// # Errors
///
/// The work's own error; the runtime ends before the work.
pub(super) async fn on_own_task<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let Ok(runtime) = Handle::try_current() else {
        return work.await;
    };
    let task = AbortOnDropHandle::new(runtime.spawn(work.in_current_span()));
    match task.await {
        Ok(done) => done,
        Err(error) => Err(Error::internal(format!(
            "the log of a table was not read to its end: {error}"
        ))),
    }
}
