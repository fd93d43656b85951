//! Claims of jobs in a table: which offsets of a topic its rows cover, committed together with the rows, and read back.

use std::collections::BTreeMap;

use deltalake::DeltaTable;
use deltalake::protocol::SaveMode;

use super::claims_wire::{COMMIT_FIELD, PREFIX, changes, claims_in, commit_info, is_claim};
use super::commit::PreparedWrite;
use super::handle::DeltaTableHandle;
use super::lineage::Lineage;
use super::spec::Application;
use super::transactions::transactions;
use super::write::{CommitNotes, WrittenFiles};
use crate::core::archive::JobClaims;
use crate::error::{Error, Result};

/// A change of what a job claims about a table.
#[derive(Debug, Clone, Copy)]
pub struct ClaimChange<'a> {
    /// The claims that the table has.
    pub before: &'a JobClaims,
    /// Those that it gets.
    pub now: &'a JobClaims,
    /// The name of the job.
    pub job: &'a str,
    /// The batch that makes the change.
    pub batch: u64,
}

impl ClaimChange<'_> {
    fn notes(&self, application: &Application) -> CommitNotes {
        let Self {
            before,
            now,
            job,
            batch,
        } = *self;
        let added = now.since(before);
        let info = (!added.partitions.is_empty()).then(|| {
            let info = commit_info(&application.id, job, batch, &added);
            (COMMIT_FIELD.to_owned(), info)
        });
        CommitNotes {
            transactions: changes(&application.id, before, now),
            info: info.into_iter().collect(),
        }
    }
}

impl PreparedWrite {
    /// The same rows; their commit changes the claims of the application too.
    #[must_use]
    pub fn claiming(mut self, application: &Application, change: &ClaimChange<'_>) -> Self {
        self.set_notes(change.notes(application));
        self
    }
}

impl DeltaTableHandle {
    /// Changes the claims of the application that owns the table, in a commit without rows. Gives the table's version.
    ///
    /// # Errors
    ///
    /// As [`Self::commit_prepared`].
    pub async fn claim(&self, application: &Application, change: &ClaimChange<'_>) -> Result<u64> {
        let table = self.refresh().await?;
        let snapshot = self.owned_snapshot(&table, application).await?;
        let written = WrittenFiles {
            checked: Some(application.checked),
            notes: change.notes(application),
            ..WrittenFiles::default()
        };
        let store = table.log_store().object_store(None);
        // The witness stays the same: no rows were added.
        let owner = [(application.id.clone(), application.owned)];
        self.finish(&table, snapshot, &store, written, SaveMode::Append, &owner)
            .await
            .map(|commit| commit.version)
    }

    /// What an application claims, as the newest version says, also if a RESTORE has removed rows since.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn claims_of(&self, application: &Application) -> Result<JobClaims> {
        let table = self.refresh().await?;
        let mut claims = self.claims_at(&table, version_of(&table)?).await?;
        Ok(claims.remove(&application.id).unwrap_or_default())
    }

    /// What jobs claim about the rows of a version, the newest one if none is given, by the ids of their applications. Claims of
    /// commits that a RESTORE has undone do not count; if the log no longer tells which it has undone, no claims count.
    ///
    /// # Errors
    ///
    /// There is no such version; the log cannot be read.
    pub async fn offset_claims(&self, version: Option<u64>) -> Result<BTreeMap<String, JobClaims>> {
        let newest = self.refresh().await?;
        let table = match version {
            Some(version) => self.at_version(newest, version).await?,
            None => newest,
        };
        let version = version_of(&table)?;
        let claims = self.claims_at(&table, version).await?;
        if claims.is_empty() {
            return Ok(claims);
        }
        let mut lineage = Lineage::of(table.log_store(), version);
        let mut is_restored = false;
        while let Some(commit) = lineage.older().await.map_err(|error| self.fail(error))? {
            if !commit.counts {
                continue;
            }
            if commit.has_recorded(is_claim) {
                return match is_restored {
                    true => self.claims_then(&table, commit.version).await,
                    false => Ok(claims),
                };
            }
            is_restored |= commit.restores().is_some();
        }
        match lineage.base() {
            _ if !is_restored => Ok(claims),
            Some(base) => self.claims_then(&table, base).await,
            None => Ok(BTreeMap::new()),
        }
    }

    /// The claims of an earlier version; none if log cleanup has deleted it.
    async fn claims_then(
        &self,
        table: &DeltaTable,
        version: u64,
    ) -> Result<BTreeMap<String, JobClaims>> {
        match self.claims_at(table, version).await {
            Err(error) if !error.may_pass() => Ok(BTreeMap::new()),
            claims => claims,
        }
    }

    async fn claims_at(
        &self,
        table: &DeltaTable,
        version: u64,
    ) -> Result<BTreeMap<String, JobClaims>> {
        let found = transactions(&table.log_store(), version, PREFIX).await;
        Ok(claims_in(&found.map_err(|error| self.fail(error))?))
    }
}

fn version_of(table: &DeltaTable) -> Result<u64> {
    let version = table.version();
    version.ok_or_else(|| Error::internal("a loaded table has no version"))
}

#[cfg(test)]
#[path = "offset_claims_tests.rs"]
mod tests;
