//! Claims of a job in the table that it writes to: which offsets of topics the table covers, committed together with its rows.

use super::claims_wire::{COMMIT_FIELD, changes, claims_in, commit_info};
use super::commit::PreparedWrite;
use super::handle::DeltaTableHandle;
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
    /// What the commit of this change records.
    pub(super) fn notes(&self, application: &Application) -> CommitNotes {
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
        // The witness stays the same: no rows were added.
        let owner = [(application.id.clone(), application.owned)];
        self.record(&table, snapshot, written, &owner).await
    }

    /// What an application claims, as the newest version says, also if a RESTORE has removed rows since.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn claims_of(&self, application: &Application) -> Result<JobClaims> {
        let table = self.refresh().await?;
        let version = table
            .version()
            .ok_or_else(|| Error::internal("a loaded table has no version"))?;
        let prefix = format!("{}/", application.id);
        let found = transactions(&table.log_store(), version, &prefix).await;
        let mut claims = claims_in(&found.map_err(|error| self.fail(error))?);
        Ok(claims.remove(&application.id).unwrap_or_default())
    }
}

#[cfg(test)]
#[path = "offset_claims_tests.rs"]
mod tests;
