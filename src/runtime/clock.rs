//! The trait of a runner's clock, and the real one.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::jobs::SteadyTime;
use crate::runtime::boot_clock::steady_time;

/// The time of a runner. A runner reads no other clock for its decisions, and sleeps by no other.
#[async_trait]
pub(super) trait Clock: Debug + Send + Sync {
    /// The wall clock: milliseconds since 1970 UTC.
    fn now(&self) -> i64;

    /// The monotonic clock of the machine.
    fn steady(&self) -> SteadyTime;

    /// The clock by which durations are measured.
    fn instant(&self) -> Instant;

    /// Waits for a duration.
    async fn sleep(&self, duration: Duration);

    /// How long ago that was.
    fn since(&self, began: Instant) -> Duration {
        self.instant() - began
    }

    /// A pseudo-random part of up to half of the pause, so that jobs that wait for the same fault do not all retry at the same
    /// time.
    fn jitter(&self, pause: Duration) -> Duration {
        pause.mul_f64(f64::from(self.now() as u8) / 512.0)
    }
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MachineClock;

#[async_trait]
#[expect(
    clippy::disallowed_methods,
    reason = "the real clock of the runner; the simulation has another"
)]
impl Clock for MachineClock {
    fn now(&self) -> i64 {
        chrono::Utc::now().timestamp_millis()
    }

    fn steady(&self) -> SteadyTime {
        steady_time()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
