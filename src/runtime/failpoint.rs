//! Failpoints: places where tests end the process, to check that no row is lost or doubled.

/// Ends the process at once, without any cleanup, if `ANABRANCH_FAIL_POINT` names this place; with `name:3` at the third time.
/// Has an effect only in debug builds.
pub(super) fn reach(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU64, Ordering};
        static REACHED: AtomicU64 = AtomicU64::new(0);
        let Ok(wanted) = std::env::var("ANABRANCH_FAIL_POINT") else {
            return;
        };
        let (place, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        if place == name && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == times.parse().unwrap_or(1)
        {
            tracing::error!(place = name, "fail point");
            std::process::abort();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
