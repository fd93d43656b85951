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

/// Milliseconds since 1970 UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of statements about jobs, which have no environment"
)]
pub(super) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
