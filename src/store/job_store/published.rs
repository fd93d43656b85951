//! What batches have published that were swept. A file has all of it, so that the newest one is enough. The log does not name it: a
//! program that does not know these files reads the log as before, and the versions that it sweeps are missing in the next file.

use super::JobStore;
use super::paths::{JobId, published_path};
use crate::core::runs::PublishedBatches;
use crate::error::{ErrorKind, Result};
use crate::store::wire::{published_bytes, read_published};

/// So many of the newest files stay: one may be damaged, and a reader may be about to read one.
const KEPT: usize = 2;

impl JobStore {
    /// Writes what batches have published, before their versions are trimmed by entry `number`.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_published(
        &self,
        id: JobId,
        number: u64,
        published: &PublishedBatches,
    ) -> Result<()> {
        let name = Self::version_name(number);
        let bytes = published_bytes(published)?;
        self.put(&published_path(id, &name), bytes).await
    }

    /// What batches have published, by the newest file that can be read; `None` if there is no such file. The versions that were trimmed
    /// since then, or by a program that writes no such files, are not in it.
    ///
    /// # Errors
    ///
    /// The store does not answer; the newest file was written by a newer program.
    pub async fn published(&self, id: JobId) -> Result<Option<PublishedBatches>> {
        for name in self.published_names(id).await?.iter().rev() {
            let path = published_path(id, name);
            match self.read_as(&path, read_published).await {
                Ok(published) => return Ok(Some(published)),
                Err(error) if error.kind() == ErrorKind::Data => {
                    tracing::warn!(%id, %error, "what batches have published is not known from this file");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The names of these files, in order.
    pub(in crate::store) async fn published_names(&self, id: JobId) -> Result<Vec<String>> {
        let files = self.dir.list(&format!("jobs/{id}/published")).await?;
        let names = files.iter().filter_map(|file| file.strip_suffix(".json"));
        Ok(names.map(str::to_owned).collect())
    }

    /// Deletes all but the newest of these files; returns how many it has deleted.
    pub(super) async fn sweep_published(&self, id: JobId) -> Result<u64> {
        let names = self.published_names(id).await?;
        let older = names.len().saturating_sub(KEPT);
        for name in names.iter().take(older) {
            self.dir.delete(&published_path(id, name)).await?;
        }
        Ok(older as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DataDir;
    use crate::store::wire::published_fixture;

    #[tokio::test]
    async fn the_newest_file_that_can_be_read_counts() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let (store, id) = (JobStore::new(dir), JobId::from_u128(7));
        assert_eq!(store.published(id).await.unwrap(), None);
        for number in [5, 9, 12] {
            let of = published_fixture(number);
            store.put_published(id, number, &of).await.unwrap();
        }
        let found = async || store.published(id).await.unwrap().unwrap().up_to;
        assert_eq!(found().await, 12);
        assert_eq!(store.sweep_published(id).await.unwrap(), 1);
        let names = store.published_names(id).await.unwrap();
        assert!(names[0].starts_with("0000000009-"), "{names:?}");
        let newest = published_path(id, &names[1]);
        std::fs::write(folder.path().join(newest), "{").unwrap();
        assert_eq!(found().await, 9);
    }
}
