//! Inventory of the folder of a job, file by file, for the consistency check. It only reads.

use crate::error::{Error, Result};
use crate::store::job_store::paths::{
    checkpoint_path, entry_path, log_folder, number_of, published_path, spec_path,
};
use crate::store::job_store::{JobId, JobStore};
use crate::store::wire::{
    UnreadableFile, read_checkpoint, read_entry, read_published, read_run_spec,
};

/// The files of a job by kind; each list is sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Numbers of entries of the log.
    pub entries: Vec<u64>,
    /// Numbers of checkpoints.
    pub checkpoints: Vec<u64>,
    /// Names of versions, committed or not.
    pub versions: Vec<String>,
    /// Names of files of keyed state.
    pub state: Vec<String>,
    /// Names of files of late rows.
    pub late: Vec<String>,
    /// Names of files of dead letters.
    pub dead: Vec<String>,
    /// Names of packs.
    pub packs: Vec<String>,
    /// Names of files of what was published.
    pub published: Vec<String>,
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// For the user.
    pub reason: String,
    /// Nothing is wrong with it: a newer program wrote it.
    pub is_newer: bool,
}

impl From<UnreadableFile> for FileProblem {
    fn from(why: UnreadableFile) -> Self {
        Self {
            reason: why.to_string(),
            is_newer: matches!(why, UnreadableFile::Newer(_)),
        }
    }
}

impl Inventory {
    /// The number of all files.
    pub fn files(&self) -> usize {
        let named = [
            &self.versions,
            &self.state,
            &self.late,
            &self.dead,
            &self.packs,
            &self.published,
        ];
        let named: usize = named.iter().map(|names| names.len()).sum();
        named + self.entries.len() + self.checkpoints.len()
    }
}

impl JobStore {
    /// The files of a job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn inventory(&self, id: JobId) -> Result<Inventory> {
        let dir = self.dir();
        let names = async |folder: &str, ending: &str| {
            let files = dir.list(&format!("jobs/{id}/{folder}")).await?;
            let names = files.iter().filter_map(|file| file.strip_suffix(ending));
            Ok::<_, Error>(names.map(str::to_owned).collect::<Vec<_>>())
        };
        let numbers =
            |files: Vec<String>| files.iter().filter_map(|file| number_of(file)).collect();
        Ok(Inventory {
            entries: numbers(dir.list(&log_folder(id)).await?),
            checkpoints: numbers(dir.list(&format!("jobs/{id}/checkpoint")).await?),
            versions: names("versions", ".json").await?,
            state: names("state", ".arrow").await?,
            late: names("late", ".arrow").await?,
            dead: names("dead", ".arrow").await?,
            packs: names("packs", ".pack").await?,
            published: self.published_names(id).await?,
        })
    }

    /// The path of a log entry in the data directory, and the reason if it cannot be read.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn check_entry(
        &self,
        id: JobId,
        number: u64,
    ) -> Result<(String, Option<FileProblem>)> {
        let read = |bytes: &[u8]| read_entry(bytes).map(drop);
        self.check_json(entry_path(id, number), read).await
    }

    /// The path of a checkpoint, and the reason if it cannot be read.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn check_checkpoint(
        &self,
        id: JobId,
        number: u64,
    ) -> Result<(String, Option<FileProblem>)> {
        let read = |bytes: &[u8]| read_checkpoint(bytes, number).map(drop);
        self.check_json(checkpoint_path(id, number), read).await
    }

    /// The path of a file of what batches have published, and the reason if it cannot be read.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn check_published(
        &self,
        id: JobId,
        name: &str,
    ) -> Result<(String, Option<FileProblem>)> {
        let read = |bytes: &[u8]| read_published(bytes).map(drop);
        self.check_json(published_path(id, name), read).await
    }

    /// The path of the spec of a run, and the reason if it cannot be read.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn check_run_spec(&self, id: JobId) -> Result<(String, Option<FileProblem>)> {
        let path = spec_path(id);
        let problem = match self.dir().read(&path).await? {
            None => Some(FileProblem {
                reason: "it is missing".to_owned(),
                is_newer: false,
            }),
            Some(bytes) => read_run_spec(&bytes).err().map(FileProblem::from),
        };
        Ok((path, problem))
    }

    async fn check_json(
        &self,
        path: String,
        read: impl Fn(&[u8]) -> Result<(), UnreadableFile>,
    ) -> Result<(String, Option<FileProblem>)> {
        let found = self.dir().read(&path).await?;
        let reason = match found {
            // A runner that shortens the log may just have deleted it.
            None => None,
            Some(bytes) => read(&bytes).err().map(FileProblem::from),
        };
        Ok((path, reason))
    }
}
