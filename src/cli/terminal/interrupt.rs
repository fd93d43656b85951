//! Signals that end the process.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::error::ErrorKind;

/// The longest wait for a statement to end after a signal.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ctrl-C and SIGTERM.
pub(crate) struct Interrupt;

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self
    }

    /// Waits for a signal until this is dropped. If the process has not ended some seconds after the signal, this ends
    /// it: a thread that plans a statement does not check for signals.
    pub(crate) fn insists() -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(Self::end_later()))
    }

    async fn end_later() {
        let code = Self::new().wait().await;
        tokio::time::sleep(PATIENCE).await;
        std::process::exit(code.into())
    }

    /// Waits for a signal; gives the exit code for it.
    pub(crate) async fn wait(&self) -> u8 {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => ErrorKind::Cancelled.exit_code(),
            _ = terminate.recv() => 143,
        }
    }
}
