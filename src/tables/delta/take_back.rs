//! Taking the files of abandoned batches out of a table (EXACT-3).
//!
//! A rewind may die half-way, and whoever brings it to its end finds files gone. They may have been taken back already, or
//! deleted by others: then their rows are gone. Or OPTIMIZE has rewritten them: then the rows are in other files, with rows of
//! other batches, and cannot be taken back. The log tells these apart, and the commit that takes files back leaves a mark, so
//! that the log is not asked again each time.

use std::collections::HashSet;

use deltalake::DeltaTable;
use deltalake::kernel::Action;
use deltalake::logstore::object_store::path::Path as StorePath;
use deltalake::protocol::SaveMode;
use serde_json::Value;

use super::Application;
use super::handle::DeltaTableHandle;
use super::write::Written;
use crate::error::{Error, Result};

impl DeltaTableHandle {
    /// Takes those of `paths` that are files of the table out of it, in one commit, as the application that owns it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Cancelled`](crate::error::ErrorKind::Cancelled) if another writer has taken the application over; a table
    /// that is append-only; files that were rewritten together with others.
    pub async fn remove_files(&self, paths: &[String], application: &Application) -> Result<()> {
        let table = self.refresh().await?;
        let snapshot = self.owned_snapshot(&table, application).await?;
        if paths.is_empty() {
            return Ok(());
        }
        let mark = (
            format!("{}/taken-back", application.witness),
            mark_of(paths),
        );
        let log = table.log_store();
        let marked = snapshot.transaction_version(log.as_ref(), &mark.0).await;
        if marked.map_err(|error| self.fail(error))? == Some(mark.1) {
            return Ok(());
        }
        let present = self.files(&table, paths).await?;
        let missing = paths.iter().filter(|path| !present.contains_key(*path));
        let missing: HashSet<&str> = missing.map(String::as_str).collect();
        self.check_gone(&table, missing).await?;
        let removed: Vec<Action> = present.into_values().collect();
        if removed.is_empty() {
            return Ok(());
        }
        let store = log.object_store(None);
        let written = Written {
            removed,
            ..Written::default()
        };
        // What the witness names stays: no rows were added.
        let transactions = [(application.id.clone(), application.owned), mark];
        self.finish(
            &table,
            snapshot,
            &store,
            written,
            SaveMode::Append,
            &transactions,
        )
        .await
        .map(|_| ())
    }

    /// Makes sure that the rows of files that the table no longer has are not in others.
    async fn check_gone(&self, table: &DeltaTable, mut missing: HashSet<&str>) -> Result<()> {
        let log = table.log_store();
        let newest = table.version().unwrap_or_default();
        let total = missing.len();
        for version in (0..=newest).rev() {
            if missing.is_empty() {
                break;
            }
            let entry = log.read_commit_entry(version).await;
            // What the log's cleanup has taken is older than any batch that can be abandoned.
            let Some(entry) = entry.map_err(|error| self.fail(error))? else {
                break;
            };
            for line in entry.split(|byte| *byte == b'\n') {
                let Ok(action) = serde_json::from_slice::<Value>(line) else {
                    continue;
                };
                let Some(path) = action.pointer("/remove/path").and_then(Value::as_str) else {
                    continue;
                };
                // As in a URL.
                let decoded = StorePath::from_url_path(path).map(String::from);
                let was_missing =
                    missing.remove(path) || decoded.is_ok_and(|path| missing.remove(path.as_str()));
                let is_rewrite = action.pointer("/remove/dataChange") == Some(&Value::Bool(false));
                if was_missing && is_rewrite {
                    return Err(Error::data(format!(
                        "Delta table '{}': of {total} files to be taken back that are no longer in it, {path} was rewritten in \
                         version {version}",
                        self.location()
                    ))
                    .with_help(
                        "OPTIMIZE has put its rows into other files: restore the table to before that, then RESUME JOB",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Stands for these files, in whatever order (FNV-1a).
fn mark_of(paths: &[String]) -> i64 {
    let mut sorted: Vec<&str> = paths.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in sorted.join("\n").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash >> 1).cast_signed()
}
