//! Files beside versions: keyed state, late rows, dead letters, and packs of what swept versions had set aside.

use bytes::Bytes;

use super::JobStore;
use super::paths::{JobId, dead_path, late_path, pack_path, state_path};
use crate::core::jobs::{BatchVersion, DeadLetter, StateFile};
use crate::error::Result;
use crate::store::checksum::crc32;
use crate::store::data_dir::OpenObject;
use crate::store::dead_letters::{decode_letters, encode_letters};
use crate::store::pack::Pack;

impl JobStore {
    /// Writes a file of keyed state.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_state(&self, id: JobId, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.put(&state_path(id, name), bytes).await
    }

    /// Reads a file of keyed state.
    ///
    /// # Errors
    ///
    /// It is missing or damaged, or the store does not answer.
    pub async fn state(&self, id: JobId, file: &StateFile) -> Result<Bytes> {
        self.get_checked(&state_path(id, &file.name), file.crc32)
            .await
    }

    /// Opens the keyed state of a version: a file in a folder is read in place, and its reader checks the checksum.
    ///
    /// # Errors
    ///
    /// It is missing, or the store does not answer.
    pub async fn open_state(&self, id: JobId, name: &str) -> Result<OpenObject> {
        let path = state_path(id, name);
        let opened = self.dir.open_object(&path).await?;
        opened.ok_or_else(|| self.corrupt(&path, "it is missing"))
    }

    /// Writes the late rows of a version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_late(&self, id: JobId, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.put(&late_path(id, name), bytes).await
    }

    /// Reads the late rows of a version of this name.
    ///
    /// # Errors
    ///
    /// They are missing or damaged, or the store does not answer.
    pub async fn late(&self, id: JobId, name: &str, version: &BatchVersion) -> Result<Bytes> {
        let path = late_path(id, name);
        self.get_checked(&path, version.late_crc32).await
    }

    /// Writes the dead letters of a version. Gives their checksum, which belongs into the version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_dead_letters(
        &self,
        id: JobId,
        name: &str,
        letters: &[DeadLetter],
    ) -> Result<u32> {
        let bytes = encode_letters(letters)?;
        let crc32 = crc32(&bytes);
        self.put(&dead_path(id, name), bytes).await?;
        Ok(crc32)
    }

    /// The dead letters of a version of this name. One of format 1 has them itself.
    ///
    /// # Errors
    ///
    /// They are missing or damaged, or the store does not answer.
    pub async fn dead_letters(
        &self,
        id: JobId,
        name: &str,
        version: &BatchVersion,
    ) -> Result<Vec<DeadLetter>> {
        if version.dead_letters == 0 || !version.inline_dead_letters.is_empty() {
            return Ok(version.inline_dead_letters.clone());
        }
        let path = dead_path(id, name);
        let bytes = self.get_checked(&path, version.dead_letters_crc32).await?;
        let letters = decode_letters(&bytes).map_err(|reason| self.corrupt(&path, &reason))?;
        if letters.len() as u64 != version.dead_letters {
            let reason = format!("it has {} rows of {}", letters.len(), version.dead_letters);
            return Err(self.corrupt(&path, &reason));
        }
        Ok(letters)
    }

    /// Writes what versions have set aside into one file.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_pack(&self, id: JobId, name: &str, pack: &Pack) -> Result<()> {
        self.put(&pack_path(id, name), pack.encode()?).await
    }

    /// Reads the late rows and dead letters of swept versions.
    ///
    /// # Errors
    ///
    /// It is missing, damaged, or the store does not answer.
    pub async fn pack(&self, id: JobId, name: &str) -> Result<Pack> {
        let path = pack_path(id, name);
        let bytes = self.get(&path).await?;
        Pack::decode(&bytes).map_err(|why| why.of_file(&path, self.dir.shown()))
    }
}

#[cfg(test)]
#[path = "batch_files_tests.rs"]
mod tests;
