//! Claims of jobs about the rows of a pinned version of a table, as its readers take them.

use std::collections::BTreeMap;

use datafusion::catalog::TableProvider;
use deltalake::{DeltaTable, DeltaTableError};

use super::claims_wire::{PREFIX, claims_in, is_claim};
use super::error::delta_error;
use super::lineage::Lineage;
use super::location::without_credentials;
use super::provider::DeltaTableProvider;
use super::transactions::transactions;
use crate::core::archive::JobClaims;
use crate::error::{Error, Result};

/// Claims by the ids of their applications.
type Claims = BTreeMap<String, JobClaims>;

/// What jobs claim about the rows of the version that a provider of a Delta table reads, by the ids of their applications. Claims of
/// commits that a RESTORE has undone do not count; if the log no longer tells which it has undone, no claims count.
///
/// # Errors
///
/// Another provider than that of a Delta table; the log cannot be read.
pub async fn offset_claims(table: &dyn TableProvider) -> Result<Claims> {
    let table = table.downcast_ref::<DeltaTableProvider>();
    let table =
        table.ok_or_else(|| Error::internal("claims about a table that is not of Delta"))?;
    let reader = ClaimsReader {
        table: &table.table,
    };
    reader.counted().await
}

/// Reads the log of a table for them.
struct ClaimsReader<'a> {
    table: &'a DeltaTable,
}

impl ClaimsReader<'_> {
    async fn counted(&self) -> Result<Claims> {
        let version = self.table.version();
        let version = version.ok_or_else(|| Error::internal("a loaded table has no version"))?;
        let claims = self.at(version).await?;
        if claims.is_empty() {
            return Ok(claims);
        }
        let mut lineage = Lineage::of(self.table.log_store(), version);
        let mut is_restored = false;
        while let Some(commit) = lineage.older().await.map_err(|error| self.fail(error))? {
            if !commit.counts {
                continue;
            }
            if commit.has_recorded(is_claim) {
                return match is_restored {
                    true => self.then(commit.version).await,
                    false => Ok(claims),
                };
            }
            is_restored |= commit.restores().is_some();
        }
        match lineage.base() {
            _ if !is_restored => Ok(claims),
            Some(base) => self.then(base).await,
            None => Ok(Claims::new()),
        }
    }

    /// The claims of an earlier version; none if log cleanup has deleted it.
    async fn then(&self, version: u64) -> Result<Claims> {
        match self.at(version).await {
            Err(error) if !error.may_pass() => Ok(Claims::new()),
            claims => claims,
        }
    }

    /// All claims that the log has at a version.
    async fn at(&self, version: u64) -> Result<Claims> {
        let found = transactions(&self.table.log_store(), version, PREFIX).await;
        Ok(claims_in(&found.map_err(|error| self.fail(error))?))
    }

    fn fail(&self, error: DeltaTableError) -> Error {
        let location = without_credentials(self.table.log_store().root_url());
        delta_error(&location, error)
    }
}
