//! Taking the files of abandoned batches out of a table (EXACT-3).
//!
//! A rewind may die half-way, and the runner that completes it finds files gone. They may have been taken back already,
//! or deleted by others, or a RESTORE has undone the commit that added them: then their rows are gone. Or OPTIMIZE, an
//! UPDATE or a MERGE has rewritten them: then the rows are in other files, with rows of other batches, and cannot be
//! taken back. The log tells these apart, and the commit that takes files back leaves a mark, so that the whole log is
//! not read each time.

use std::collections::HashSet;

use deltalake::DeltaTable;
use deltalake::kernel::Action;
use deltalake::protocol::SaveMode;

use super::handle::DeltaTableHandle;
use super::lineage::{FileRemoval, Lineage, decoded};
use super::spec::Application;
use super::write::WrittenFiles;
use crate::error::{Error, Result, Subject};

impl DeltaTableHandle {
    /// Takes the paths among `paths` that are files of the table out of it, in one commit, as the application that owns
    /// it.
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
        // A RESTORE puts files back that were taken out, and leaves the mark. So the mark alone does not prove that no
        // file is there.
        let present = self.files(&table, paths).await?;
        let missing = paths.iter().filter(|path| !present.contains_key(*path));
        let missing: HashSet<&str> = missing.map(String::as_str).collect();
        let total = missing.len();
        if let Some(file) = self.rewritten(&table, missing, Some(&mark)).await? {
            return Err(Error::data(format!(
                "Delta table '{}': of {total} files to be removed that are no longer in it, {} was rewritten in version {}",
                self.location(),
                file.path,
                file.version
            ))
            .about(Subject::location(self.location()))
            .with_help(
                "OPTIMIZE has put its rows into other files: restore the table to before that, then RESUME JOB",
            ));
        }
        let removed: Vec<Action> = present.into_values().collect();
        if removed.is_empty() {
            return Ok(());
        }
        let store = log.object_store(None);
        let written = WrittenFiles {
            removed,
            ..WrittenFiles::default()
        };
        // The witness stays the same: no rows were added.
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

    /// One of `paths` that is no longer in the table while rows of it may be, in other files.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn rewritten_file(&self, paths: &[String]) -> Result<Option<RewrittenFile>> {
        let table = self.refresh().await?;
        let present = self.files(&table, paths).await?;
        let missing = paths.iter().filter(|path| !present.contains_key(*path));
        let missing = missing.map(String::as_str).collect();
        self.rewritten(&table, missing, None).await
    }

    /// One of the missing files with rows that may be in other files. In the commit with the `mark` all of them were
    /// out of the table.
    async fn rewritten(
        &self,
        table: &DeltaTable,
        mut missing: HashSet<&str>,
        mark: Option<&(String, i64)>,
    ) -> Result<Option<RewrittenFile>> {
        let newest = table.version().unwrap_or_default();
        let mut lineage = Lineage::of(table.log_store(), newest);
        // A file whose adding a RESTORE has undone, as long as it is not known how far the RESTORE goes back.
        let mut undone = None;
        while !missing.is_empty() || (undone.is_some() && lineage.base().is_none()) {
            // Entries that log cleanup has deleted are older than any batch that can be abandoned.
            let Some(commit) = lineage.older().await.map_err(|error| self.fail(error))? else {
                break;
            };
            if !commit.counts {
                // A RESTORE puts back files that an earlier commit has added: that commit is used.
                if commit.restores().is_some() {
                    continue;
                }
                // A commit may take a file out and add it again, with rows deleted from it: then the commit that added
                // it first is used.
                let again: HashSet<String> =
                    commit.removed().map(|(path, _)| decoded(path)).collect();
                for path in commit.added() {
                    if again.contains(&decoded(path)) {
                        continue;
                    }
                    if let Some(path) = take(&mut missing, path) {
                        undone = Some(RewrittenFile {
                            path: path.to_owned(),
                            version: commit.version,
                        });
                    }
                }
                continue;
            }
            if mark.is_some_and(|(id, files)| commit.recorded(id) == Some(*files)) {
                break;
            }
            // A RESTORE takes out files that were added after the version that it goes back to, or rewritten before it:
            // the commits that did so are used.
            if commit.restores().is_some() {
                continue;
            }
            for (path, how) in commit.removed() {
                let Some(path) = take(&mut missing, path) else {
                    continue;
                };
                if how == FileRemoval::Rewritten {
                    return Ok(Some(RewrittenFile {
                        path: path.to_owned(),
                        version: commit.version,
                    }));
                }
            }
        }
        Ok(undone.filter(|_| lineage.base().is_none()))
    }
}

/// A file with rows that may be in other files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewrittenFile {
    /// As it was added.
    pub path: String,
    /// The version that took it out of the table.
    pub version: u64,
}

/// Takes a file out of the missing ones; `path` is as the log has it.
fn take<'p>(missing: &mut HashSet<&'p str>, path: &str) -> Option<&'p str> {
    let found = missing.take(path);
    found.or_else(|| missing.take(decoded(path).as_str()))
}

/// A hash that stands for these files, in any order (FNV-1a).
fn mark_of(paths: &[String]) -> i64 {
    let mut sorted: Vec<&str> = paths.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in sorted.join("\n").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash >> 1).cast_signed()
}
