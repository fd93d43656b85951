//! Names of owners in the log of a job, and the time of entries that statements write.

/// Prefix of the owner's name in the log when a statement owns the job for a moment.
pub(super) const STATEMENT: &str = "statement ";

/// Name of this process in the log: host, process id and a random part.
#[expect(
    clippy::disallowed_methods,
    reason = "a random part tells two runners of a process apart"
)]
pub(super) fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{}/{}/{}", host.trim(), std::process::id(), &random[..8])
}

/// A run id for a run that the user has not named.
#[expect(
    clippy::disallowed_methods,
    reason = "the run is named by the time of its statement, and two statements of a second differ by chance"
)]
pub(super) fn new_run_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let at = chrono::Utc::now().format("%Y%m%d_%H%M%S");
    format!("run_{at}_{}", &random[..4])
}

/// Milliseconds since 1970 UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of statements about jobs, which have no environment"
)]
pub(super) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
