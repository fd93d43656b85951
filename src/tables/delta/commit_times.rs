//! Commit times of a table's versions: the times in the log entries if the table has in-commit timestamps, else the
//! modification times of the entries' files.

use deltalake::DeltaTableError;
use deltalake::kernel::EagerSnapshot;
use deltalake::logstore::{LogStoreRef, extract_version_from_filename};
use futures::TryStreamExt as _;
use serde_json::Value;

/// The feature by which entries have their time.
const FEATURE: &str = "inCommitTimestamp";
const ENABLED: &str = "delta.enableInCommitTimestamps";
/// The first version that has its time, if the table had versions before.
const SINCE: &str = "delta.inCommitTimestampEnablementVersion";

/// The version of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionAtTime {
    /// The newest that was committed at or before it.
    Version(u64),
    /// All are newer; the oldest, with its time in microseconds, if there is one.
    Older(Option<(u64, i64)>),
}

/// Whether the entries of new versions have their times.
pub(super) fn are_in_entries(snapshot: &EagerSnapshot) -> bool {
    let features = snapshot.protocol().writer_features().unwrap_or_default();
    let mut names = features.iter().map(AsRef::<str>::as_ref);
    let enabled = snapshot.metadata().configuration().get(ENABLED);
    names.any(|feature| feature == FEATURE)
        && enabled.is_some_and(|enabled| enabled.eq_ignore_ascii_case("true"))
}

/// The time in an entry, in milliseconds; entries from before the feature was enabled have none.
pub(super) fn time_in<'a>(actions: impl IntoIterator<Item = &'a Value>) -> Option<i64> {
    let mut actions = actions.into_iter();
    let info = actions.find_map(|action| action.get("commitInfo"))?;
    info.get("inCommitTimestamp")?.as_i64()
}

/// Finds the version of a time, in microseconds, in the log of a table.
///
/// # Errors
///
/// The log cannot be read, or an entry has no time that should have one.
pub(super) async fn version_at(
    log: &LogStoreRef,
    snapshot: &EagerSnapshot,
    time: i64,
) -> Result<VersionAtTime, DeltaTableError> {
    let commits = commits(log).await?;
    let since = match are_in_entries(snapshot) {
        true => {
            let since = snapshot.metadata().configuration().get(SINCE);
            since.and_then(|since| since.parse().ok()).unwrap_or(0)
        }
        false => u64::MAX,
    };
    let before = commits.partition_point(|(version, _)| *version < since);
    let (of_files, of_entries) = commits.split_at(before);
    // The time in an entry is later than that in the one before it.
    let (mut low, mut high) = (0, of_entries.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match time_in_entry(log, of_entries[middle].0).await? <= time {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    if let Some((version, _)) = low.checked_sub(1).and_then(|found| of_entries.get(found)) {
        return Ok(VersionAtTime::Version(*version));
    }
    // Clocks of writers may differ: a version is never older than the one before it.
    let mut last = i64::MIN;
    let mut found = None;
    for (version, at) in of_files {
        last = last.max(*at);
        if last <= time {
            found = Some(*version);
        }
    }
    if let Some(version) = found {
        return Ok(VersionAtTime::Version(version));
    }
    Ok(VersionAtTime::Older(
        match (of_files.first(), of_entries.first()) {
            (Some(oldest), _) => Some(*oldest),
            (None, Some((version, _))) => Some((*version, time_in_entry(log, *version).await?)),
            (None, None) => None,
        },
    ))
}

/// The versions that the log has, in order, each with the time of its file in microseconds.
async fn commits(log: &LogStoreRef) -> Result<Vec<(u64, i64)>, DeltaTableError> {
    let store = log.object_store(None);
    let mut commits: Vec<(u64, i64)> = store
        .list(Some(log.log_path()))
        .try_filter_map(|file| {
            let name = file.location.as_ref();
            let version = name
                .ends_with(".json")
                .then(|| extract_version_from_filename(name))
                .flatten();
            let at = file.last_modified.timestamp_micros();
            futures::future::ready(Ok(version.map(|version| (version, at))))
        })
        .try_collect()
        .await?;
    commits.sort_unstable();
    Ok(commits)
}

/// The time in the entry of a version, in microseconds.
async fn time_in_entry(log: &LogStoreRef, version: u64) -> Result<i64, DeltaTableError> {
    let entry = log.read_commit_entry(version).await?;
    let entry = entry.ok_or(DeltaTableError::InvalidVersion(version))?;
    let lines = entry.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        let action: Value = serde_json::from_slice(line)
            .map_err(|json_err| DeltaTableError::SerializeLogJson { json_err })?;
        // It is the first one, but for writers that do not know of the feature.
        if action.get("commitInfo").is_some() {
            if let Some(time) = time_in([&action]) {
                return Ok(time.saturating_mul(1_000));
            }
            break;
        }
    }
    Err(DeltaTableError::generic(format!(
        "the entry of version {version} has no time, which the table asks for by {ENABLED}"
    )))
}
