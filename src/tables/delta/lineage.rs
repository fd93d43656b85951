//! Lineage of a table: the commits that its newest version comes from (EXACT-2, EXACT-3).
//!
//! A RESTORE is a commit like any other: it takes files out and puts earlier ones back, and it keeps the versions that
//! applications have recorded. The last version that a job has recorded may then be of rows that the table no longer
//! has. [`Lineage`] goes back over the log from the newest commit and says of each whether a later RESTORE has undone
//! it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::logstore::LogStoreRef;
use deltalake::logstore::object_store::path::Path as StorePath;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;

use super::handle::DeltaTableHandle;
use crate::error::{Error, Result};

/// Entries that are read at the same time.
const READS_AT_ONCE: usize = 8;

/// Up to which commit of an application a table has its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsUpTo {
    /// Rows up to the commit that recorded this number; none if the table has no rows of the application.
    Number(Option<i64>),
    /// It was restored in this version; the log no longer tells to which earlier one.
    Unknown(u64),
}

/// See the module.
pub(super) struct Lineage {
    entries: LogEntries,
    undone: UndoneCommits,
    /// The oldest commit that counts, of those seen.
    oldest: Option<u64>,
    /// The commit seen last.
    seen: u64,
}

/// Which older commits do not count.
enum UndoneCommits {
    None,
    /// The commits after this version.
    After(u64),
    /// The commits until the table is in the restored state again: these files make the difference.
    UntilAlike(HashSet<String>),
}

/// A commit, as its entry in the log describes it.
pub(super) struct LoggedCommit {
    pub(super) version: u64,
    /// No later RESTORE has undone it.
    pub(super) counts: bool,
    actions: Vec<Value>,
}

/// How a commit took a file out of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileRemoval {
    /// Its rows are gone.
    Gone,
    /// Its rows may be in other files.
    Rewritten,
}

impl Lineage {
    /// The lineage of the table with this log, whose newest version is `newest`.
    pub(super) fn of(log: LogStoreRef, newest: u64) -> Self {
        Self {
            entries: entries(log, (0..=newest).rev()),
            undone: UndoneCommits::None,
            oldest: None,
            seen: newest,
        }
    }

    /// The next older commit; none at the beginning of the log.
    pub(super) async fn older(
        &mut self,
    ) -> std::result::Result<Option<LoggedCommit>, DeltaTableError> {
        let Some((version, Some(entry))) = self.entries.try_next().await? else {
            return Ok(None);
        };
        self.seen = version;
        let mut commit = LoggedCommit {
            version,
            counts: match &self.undone {
                UndoneCommits::None => true,
                UndoneCommits::After(target) => version <= *target,
                UndoneCommits::UntilAlike(files) => files.is_empty(),
            },
            actions: Vec::new(),
        };
        let lines = entry.split(|byte| *byte == b'\n');
        let actions = lines.filter_map(|line| serde_json::from_slice(line).ok());
        commit.actions.extend(actions);
        if commit.counts {
            self.oldest = Some(version);
            self.undone = match commit.restores() {
                None => UndoneCommits::None,
                Some(Some(target)) => UndoneCommits::After(target),
                Some(None) => UndoneCommits::UntilAlike(HashSet::new()),
            };
        }
        if let UndoneCommits::UntilAlike(files) = &mut self.undone {
            for file in commit.changed() {
                if !files.remove(&file) {
                    files.insert(file);
                }
            }
        }
        Ok(Some(commit))
    }

    /// Among the versions that are not read yet, the newest one that the table comes from; none if the state that the
    /// table was restored to is not found so far.
    pub(super) fn base(&self) -> Option<u64> {
        match &self.undone {
            UndoneCommits::None => self.oldest,
            UndoneCommits::After(target) => Some(*target),
            UndoneCommits::UntilAlike(files) if files.is_empty() => self.seen.checked_sub(1),
            UndoneCommits::UntilAlike(_) => None,
        }
    }
}

impl LoggedCommit {
    /// The number that an application has recorded in it.
    pub(super) fn recorded(&self, application: &str) -> Option<i64> {
        let mut transactions = self.actions.iter().filter_map(|action| action.get("txn"));
        let own = transactions.find(|txn| txn["appId"] == application)?;
        own.get("version")?.as_i64()
    }

    /// Whether an application has recorded a number in it, of those whose ids these are.
    pub(super) fn has_recorded(&self, is_of: impl Fn(&str) -> bool) -> bool {
        let transactions = self.actions.iter().filter_map(|action| action.get("txn"));
        let mut ids = transactions.filter_map(|txn| txn.get("appId")?.as_str());
        ids.any(is_of)
    }

    /// If it is a RESTORE: to which version, as far as it says.
    pub(super) fn restores(&self) -> Option<Option<u64>> {
        let info = self.info().filter(|info| is_restore(info))?;
        // Some write numbers as texts.
        let target = info.pointer("/operationParameters/version");
        let target = target.and_then(|target| match target {
            Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        });
        Some(target.filter(|target| *target < self.version))
    }

    /// The files that it adds, as the log names them.
    pub(super) fn added(&self) -> impl Iterator<Item = &str> {
        let paths = self.actions.iter();
        paths.filter_map(|action| action.pointer("/add/path")?.as_str())
    }

    /// The files that it takes out of the table, and whether their rows are gone or in other files.
    pub(super) fn removed(&self) -> impl Iterator<Item = (&str, FileRemoval)> {
        let keeps_none = self.keeps_no_rows();
        self.actions.iter().filter_map(move |action| {
            let remove = action.get("remove")?;
            let path = remove.get("path")?.as_str()?;
            let is_same_data = remove.get("dataChange") == Some(&Value::Bool(false));
            let how = match keeps_none && !is_same_data {
                true => FileRemoval::Gone,
                false => FileRemoval::Rewritten,
            };
            Some((path, how))
        })
    }

    /// Whether it changes or deletes rows that the table had before.
    fn changes_rows(&self) -> bool {
        let mut removed = self.actions.iter();
        removed.any(|action| {
            let remove = action.get("remove");
            remove.is_some_and(|remove| remove.get("dataChange") != Some(&Value::Bool(false)))
        })
    }

    /// Whether the rows of the files that it takes out are in none of the files that it adds.
    fn keeps_no_rows(&self) -> bool {
        if !self
            .actions
            .iter()
            .any(|action| action.get("add").is_some())
        {
            return true;
        }
        let Some(info) = self.info() else {
            return false;
        };
        let operation = info.get("operation").and_then(Value::as_str);
        let operation = operation.unwrap_or_default().to_uppercase();
        let parameter = |name: &str| info.pointer(&format!("/operationParameters/{name}"));
        match operation.as_str() {
            "RESTORE" => true,
            // A write that replaces a part of the table may copy the other rows into new files.
            "WRITE" => parameter("predicate").is_none_or(Value::is_null),
            replaced => {
                replaced.starts_with("CREATE OR REPLACE TABLE")
                    || replaced.starts_with("REPLACE TABLE")
            }
        }
    }

    /// The files in which the table before it differs from the table after it.
    fn changed(&self) -> impl Iterator<Item = String> {
        self.actions.iter().filter_map(|action| {
            let file = action.get("add").or_else(|| action.get("remove"))?;
            let path = decoded(file.get("path")?.as_str()?);
            // A file is another one with other rows deleted from it.
            let vector = file.get("deletionVector").filter(|one| !one.is_null());
            let vector = vector.map(|vector| {
                format!(
                    "\n{}\n{}",
                    vector["pathOrInlineDv"],
                    vector.get("offset").unwrap_or(&Value::Null)
                )
            });
            Some(path + &vector.unwrap_or_default())
        })
    }

    fn info(&self) -> Option<&Value> {
        self.actions
            .iter()
            .find_map(|action| action.get("commitInfo"))
    }
}

type LogEntries = BoxStream<'static, std::result::Result<(u64, Option<Bytes>), DeltaTableError>>;

/// Entries of a log by version, several read at once; none where there is none.
pub(super) fn entries(
    log: LogStoreRef,
    versions: impl Iterator<Item = u64> + Send + 'static,
) -> LogEntries {
    let read = move |version: u64| {
        let log = log.clone();
        async move {
            let entry = log.read_commit_entry(version).await;
            entry.map(|entry| (version, entry))
        }
    };
    futures::stream::iter(versions)
        .map(read)
        .buffered(READS_AT_ONCE)
        .boxed()
}

/// The first version after `checked` and before `version` whose entry `is_sought`. Of the others, `checked` becomes the last one before it.
///
/// # Errors
///
/// An entry cannot be read.
pub(super) async fn first_version(
    log: &LogStoreRef,
    checked: &AtomicU64,
    version: u64,
    is_sought: &(dyn Fn(&[u8]) -> bool + Sync),
) -> std::result::Result<Option<u64>, DeltaTableError> {
    let since = checked.load(Ordering::Acquire).saturating_add(1)..version;
    let mut entries = entries(Arc::clone(log), since);
    while let Some((between, entry)) = entries.try_next().await? {
        if entry.is_some_and(|entry| is_sought(&entry)) {
            return Ok(Some(between));
        }
        checked.store(between, Ordering::Release);
    }
    Ok(None)
}

/// Whether an entry of a log is that of a RESTORE.
pub(super) fn restores(entry: &[u8]) -> bool {
    let lines = entry.split(|byte| *byte == b'\n');
    let infos = lines.filter(|line| line.windows(12).any(|part| part == b"\"commitInfo\""));
    infos
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter_map(|action| action.get("commitInfo").map(is_restore))
        .any(|restores| restores)
}

fn is_restore(info: &Value) -> bool {
    let operation = info.get("operation").and_then(Value::as_str);
    operation.is_some_and(|operation| operation.eq_ignore_ascii_case("RESTORE"))
}

/// A path as the library has it; entries of a log have it as in a URL.
pub(super) fn decoded(path: &str) -> String {
    match StorePath::from_url_path(path) {
        Ok(path) => path.into(),
        Err(_) => path.to_owned(),
    }
}

impl DeltaTableHandle {
    /// Whether rows of a version were changed or deleted since; also if the log no longer tells.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn has_changed_rows_since(&self, version: u64) -> Result<bool> {
        let table = self.refresh().await?;
        let newest = table
            .version()
            .ok_or_else(|| Error::internal("a loaded table has no version"))?;
        let mut lineage = Lineage::of(table.log_store(), newest);
        while let Some(commit) = lineage.older().await.map_err(|error| self.fail(error))? {
            if commit.version <= version {
                return Ok(false);
            }
            if commit.changes_rows() {
                return Ok(true);
            }
            if commit.version == version.saturating_add(1) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Up to where the table has the rows of an application that records a number in each commit of rows, under `application`.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn rows_up_to(&self, application: &str) -> Result<RowsUpTo> {
        let table = self.refresh().await?;
        let newest = table
            .version()
            .ok_or_else(|| Error::internal("a loaded table has no version"))?;
        let Some(number) = self.recorded(&table, application).await? else {
            return Ok(RowsUpTo::Number(None));
        };
        let mut lineage = Lineage::of(table.log_store(), newest);
        let (mut restored_in, mut first) = (None, None);
        while let Some(commit) = lineage.older().await.map_err(|error| self.fail(error))? {
            first = Some(commit.version);
            if !commit.counts {
                continue;
            }
            if let Some(number) = commit.recorded(application) {
                return Ok(RowsUpTo::Number(Some(number)));
            }
            if commit.restores().is_some() {
                restored_in.get_or_insert(commit.version);
            }
        }
        let Some(restored_in) = restored_in else {
            return Ok(RowsUpTo::Number(Some(number)));
        };
        let Some(base) = lineage.base() else {
            return Ok(RowsUpTo::Unknown(restored_in));
        };
        if first == Some(0) {
            return Ok(RowsUpTo::Number(None));
        }
        // For versions whose entries log cleanup deleted, a checkpoint has the number.
        match self.at_version(table, base).await {
            Ok(then) => Ok(RowsUpTo::Number(self.recorded(&then, application).await?)),
            Err(error) if error.may_pass() => Err(error),
            Err(_) => Ok(RowsUpTo::Unknown(restored_in)),
        }
    }
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
