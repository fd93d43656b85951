//! Monotonic clock of the machine: the time since it was started, which cannot be set.

use std::sync::OnceLock;
use std::time::Instant;

use crate::core::jobs::SteadyTime;

/// The present reading of that clock. If the system has no such clock, or no id of the machine's start, the clock of this
/// process is used.
pub(super) fn steady_time() -> SteadyTime {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = Some(id.trim()).filter(|id| !id.is_empty())?;
        Some(boot_name(id, uptime(), since_boot()?))
    });
    match (boot, since_boot()) {
        (Some(boot), Some(at)) => SteadyTime {
            boot: boot.clone(),
            at,
        },
        _ => of_process(),
    }
}

/// The name of a clock that counts from this start of the machine, and has counted so many milliseconds.
///
/// Earlier releases used `/proc/uptime`. That may be another time, for example in a container with an uptime of its own. Then
/// the clock gets another name, so that readings of earlier releases are not compared with it: the difference would look like
/// time that has passed.
fn boot_name(id: &str, uptime: Option<u64>, since_boot: u64) -> String {
    /// Two readings one after the other differ by less.
    const SAME: u64 = 10_000;
    match uptime.is_none_or(|uptime| uptime.abs_diff(since_boot) < SAME) {
        true => id.to_owned(),
        false => format!("{id}/boottime"),
    }
}

/// Milliseconds since the machine was started, including the time it was suspended; none if the system has no such clock.
#[cfg(target_os = "linux")]
fn since_boot() -> Option<u64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u64::try_from(time.tv_nsec).ok()?;
    seconds
        .checked_mul(1_000)?
        .checked_add(nanoseconds / 1_000_000)
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Option<u64> {
    None
}

/// The content of `/proc/uptime` in milliseconds: the same time, or the time since the start of a container with its own
/// `/proc/uptime`.
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
    fn the_boot_clock_is_monotonic_and_shared() {
        let (first, second) = (steady_time(), steady_time());
        assert!(second.since(&first).is_some(), "{first:?} {second:?}");
        let (first, second) = (of_process(), of_process());
        assert!(second.since(&first).is_some());
        assert_eq!(first.since(&steady_time()), None, "they are two clocks");
    }

    /// Compared to the millisecond: `/proc/uptime` has only hundredths of a second.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_boot_clock_is_the_clock_of_the_kernel() {
        let boottime = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            u64::try_from(time.tv_sec * 1_000 + time.tv_nsec / 1_000_000).unwrap()
        };
        for _ in 0..30 {
            let (before, at, after) = (boottime(), steady_time().at, boottime());
            assert!((before..=after).contains(&at), "{before} {at} {after}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// On a machine without containers earlier releases wrote the same time; with an uptime of the container it is another
    /// clock.
    #[test]
    fn readings_of_earlier_releases_are_read_if_comparable() {
        const HOUR: u64 = 3_600_000;
        for uptime in [None, Some(HOUR), Some(HOUR - 10), Some(HOUR + 10)] {
            assert_eq!(boot_name("7f", uptime, HOUR), "7f", "{uptime:?}");
        }
        let in_container = boot_name("7f", Some(HOUR / 2), HOUR);
        assert_ne!(in_container, "7f");
        assert_eq!(boot_name("7f", Some(HOUR / 3), 2 * HOUR), in_container);
        let reading = |boot: &str, at| SteadyTime {
            boot: boot.to_owned(),
            at,
        };
        let earlier = reading("7f", HOUR / 2);
        assert_eq!(reading(&in_container, HOUR).since(&earlier), None);
        assert_eq!(reading("7f", HOUR).since(&earlier), Some(HOUR / 2));
    }
}
