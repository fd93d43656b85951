//! Identity of the table at a location (IDENT-1), also when a table was deleted and another one created there while
//! this process had it open.

use deltalake::logstore::object_store::ObjectStoreExt as _;
use deltalake::logstore::object_store::path::Path;
use deltalake::{DeltaTable, ObjectStoreError};

use super::handle::DeltaTableHandle;
use super::own_task::on_own_task;
use super::seen_commit::{FileStamp, SeenCommit};
use crate::core::jobs::Identity;
use crate::error::{Error, Result};

impl DeltaTableHandle {
    /// Which table it is now. The state that is known of a table that is gone is forgotten.
    ///
    /// # Errors
    ///
    /// There is no table any more, or the store does not answer.
    pub async fn identity(&self) -> Result<Identity> {
        let handle = self.clone();
        on_own_task(async move { handle.identify().await }).await
    }

    async fn identify(&self) -> Result<Identity> {
        let mut seen = self.seen().lock().await;
        let still = match &*seen {
            Some(commit) => self.if_unchanged(commit).await?,
            None => None,
        };
        // While the commit is checked, none counts as seen: the check may be cancelled.
        *seen = None;
        let commit = match still {
            Some(commit) => commit,
            None => self.reload().await?,
        };
        let id = commit.id.clone();
        *seen = Some(commit);
        Ok(Identity::DeltaTable {
            location: self.url_without_credentials(),
            id,
        })
    }

    /// The newest known commit, if the table is the one that has `seen` and has not lost that commit since: a table may be rolled
    /// back to an earlier version.
    async fn if_unchanged(&self, seen: &SeenCommit) -> Result<Option<SeenCommit>> {
        let known = self.known().await;
        let newest = version_of(&known)?;
        // Read first: if the table is replaced meanwhile, the seen commit differs afterwards.
        let stamp = match newest > seen.version {
            true => self.stamp(&known, newest).await?,
            false => None,
        };
        if self.stamp(&known, seen.version).await?.as_ref() != Some(&seen.stamp) {
            return Ok(None);
        }
        match (newest > seen.version, stamp) {
            (true, Some(stamp)) => Ok(Some(SeenCommit {
                version: newest,
                stamp,
                id: seen.id.clone(),
            })),
            (true, None) => Ok(None),
            (false, _) => Ok(Some(seen.clone())),
        }
    }

    /// Loads the table from its log, and chooses a commit that identifies it.
    async fn reload(&self) -> Result<SeenCommit> {
        let known = self.known().await;
        loop {
            let table = self.loaded(&known).await?;
            let version = version_of(&table)?;
            let id = self.id_of(&table)?;
            let Some(stamp) = self.stamp(&table, version).await? else {
                // The newest commit is only in a checkpoint: only the metadata identifies the table, and the next call
                // reads it again.
                self.replace(table).await;
                let nothing = FileStamp {
                    written: 0,
                    size: 0,
                    tag: None,
                };
                return Ok(SeenCommit {
                    version,
                    stamp: nothing,
                    id,
                });
            };
            // Between the two reads the table may have been replaced.
            let again = self.loaded(&known).await?;
            if self.id_of(&again)? == id {
                self.replace(again).await;
                return Ok(SeenCommit { version, stamp, id });
            }
        }
    }

    async fn loaded(&self, known: &DeltaTable) -> Result<DeltaTable> {
        let mut table = DeltaTable::new(known.log_store());
        table.load().await.map_err(|error| self.fail(error))?;
        Ok(table)
    }

    fn id_of(&self, table: &DeltaTable) -> Result<String> {
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        Ok(snapshot.metadata().id().to_owned())
    }

    /// Whether the store has the newest commit that is known.
    pub(super) async fn has_commit(&self, known: &DeltaTable) -> Result<bool> {
        let found = self.stamp(known, version_of(known)?).await?;
        Ok(found.is_some())
    }

    /// How the store has a commit; none if it does not.
    async fn stamp(&self, table: &DeltaTable, version: u64) -> Result<Option<FileStamp>> {
        let store = table.log_store().object_store(None);
        let path = Path::from(format!("_delta_log/{version:020}.json"));
        match store.head(&path).await {
            Ok(found) => Ok(Some(FileStamp {
                written: found.last_modified.timestamp_micros(),
                size: found.size,
                tag: found.e_tag,
            })),
            Err(ObjectStoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.fail(error.into())),
        }
    }
}

fn version_of(table: &DeltaTable) -> Result<u64> {
    table
        .version()
        .ok_or_else(|| Error::internal("a loaded table has no version"))
}
