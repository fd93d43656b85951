//! The clock of the machine that nobody sets: the time since it was started, the time that it slept included.
//!
//! The system is asked for it by a call. `/proc/uptime` may be of a container, which runs for a shorter time than the machine, while
//! the id of the start is the machine's: what one container has read would say nothing to another one, and look as if it did. Where a
//! container has clocks of its own, in a time namespace, the name of the namespace tells them apart.

use std::sync::OnceLock;
use std::time::Instant;

use crate::core::jobs::SteadyTime;

/// The time now, by that clock. Where the system gives none, by one of this process alone.
pub(super) fn steady_time() -> SteadyTime {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let start = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = std::fs::read_link("/proc/self/ns/time").ok();
        let namespace = namespace.as_deref().and_then(|link| link.to_str());
        clock_name(start.trim(), namespace)
    });
    match (name, since_start()) {
        (Some(name), Some(at)) => SteadyTime {
            boot: name.clone(),
            at,
        },
        _ => of_process(),
    }
}

/// Which clock it is: of which start of which machine, and in which namespace. Earlier releases named clocks by the start alone and
/// read `/proc/uptime`: theirs are other ones.
fn clock_name(start: &str, namespace: Option<&str>) -> Option<String> {
    let namespace = namespace.unwrap_or("time");
    (!start.is_empty()).then(|| format!("{start} {namespace}"))
}

/// Milliseconds since the machine was started, the time that it slept included.
#[cfg(target_os = "linux")]
fn since_start() -> Option<u64> {
    use rustix::time::{ClockId, clock_gettime};
    let passed = std::time::Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    u64::try_from(passed.as_millis()).ok()
}

#[cfg(not(target_os = "linux"))]
fn since_start() -> Option<u64> {
    None
}

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

    #[test]
    fn clocks_of_another_start_or_namespace_are_others() {
        let names = [
            clock_name("a", Some("time:[1]")),
            clock_name("a", Some("time:[2]")),
            clock_name("a", None),
            clock_name("b", Some("time:[1]")),
            // As earlier releases named them.
            Some("a".to_owned()),
        ];
        let clocks = names.map(|name| SteadyTime {
            boot: name.unwrap(),
            at: 5,
        });
        for (index, one) in clocks.iter().enumerate() {
            for (other_index, other) in clocks.iter().enumerate() {
                let passed = one.since(other);
                assert_eq!(
                    passed,
                    (index == other_index).then_some(0),
                    "{one:?} {other:?}"
                );
            }
        }
        assert_eq!(clock_name("", Some("time:[1]")), None);
    }

    /// A file that a container may be shown in the place of the machine's is not asked.
    #[test]
    #[cfg(target_os = "linux")]
    fn it_is_the_clock_of_the_system() {
        use rustix::time::{ClockId, clock_gettime};
        let system = || u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap();
        let (before, passed, after) = (system(), since_start().unwrap() / 1_000, system());
        assert!(
            (before..=after).contains(&passed),
            "{before} {passed} {after}"
        );
    }
}
