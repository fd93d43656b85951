//! The clock of the machine that nobody sets: the time since it was started.

use std::sync::OnceLock;
use std::time::Instant;

use crate::core::jobs::SteadyTime;

/// The time now, by that clock. Where the system gives none, by one of this process alone.
pub(super) fn steady_time() -> SteadyTime {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    });
    match (boot, uptime()) {
        (Some(boot), Some(at)) => SteadyTime {
            boot: boot.clone(),
            at,
        },
        _ => of_process(),
    }
}

/// Milliseconds since the machine was started, the time that it slept included.
fn uptime() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, rest) = text.split_once('.')?;
    let hundredths = rest.get(..2)?;
    let (seconds, hundredths): (u64, u64) = (seconds.parse().ok()?, hundredths.parse().ok()?);
    seconds.checked_mul(1_000)?.checked_add(hundredths * 10)
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the system does not say which start of the machine this is, a process says its own"
)]
fn of_process() -> SteadyTime {
    static START: OnceLock<(String, Instant)> = OnceLock::new();
    let (name, start) =
        START.get_or_init(|| (format!("process-{}", uuid::Uuid::new_v4()), Instant::now()));
    SteadyTime {
        boot: name.clone(),
        at: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_go_back_and_is_one_clock() {
        let (first, second) = (steady_time(), steady_time());
        assert!(second.since(&first).is_some(), "{first:?} {second:?}");
        let (first, second) = (of_process(), of_process());
        assert!(second.since(&first).is_some());
        assert_eq!(first.since(&steady_time()), None, "they are two clocks");
    }
}
