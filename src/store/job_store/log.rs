//! The log of a job: how an entry is appended, and how the log is read.

use futures::{StreamExt as _, TryStreamExt as _};

use super::paths::{
    JobId, LAST_NUMBER, checkpoint_path, entry_path, log_folder, number_of, short_random,
};
use super::{JobStore, READS_AT_ONCE};
use crate::core::jobs::{JobHistory, LogEntry};
use crate::error::{Error, Result};
use crate::store::data_dir::SentOnce;
use crate::store::wire::{StoredEntry, entry_bytes, read_entry};

/// How often an entry is sent at most, each time with another id, while the answers say nothing.
const SENDS: u32 = 4;

impl JobStore {
    /// Writes entry `number` of a log; false if another process has written it, be it deleted since. Lists the checkpoints:
    /// [`Self::append_next`] does not, where the log is known.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    pub async fn append(&self, id: JobId, number: u64, entry: &LogEntry) -> Result<bool> {
        match self.send(id, number, entry).await? {
            Some(_) => self.is_before_checkpoint(id, number).await,
            None => Ok(false),
        }
    }

    /// Writes the entry that comes after those of `history`, and takes it in; false if another process has written one, be it deleted
    /// since. Then `history` stays as it is.
    ///
    /// Nothing is listed. The entry before is still there, with the id by which it is known: entries are deleted from the first on,
    /// and an id is never written twice, so nothing was deleted at this number either. The entry before the next one is never deleted
    /// while the job is there: a checkpoint lets the entries stay that come after the checkpoint before it.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    pub async fn append_next(
        &self,
        id: JobId,
        history: &mut JobHistory,
        entry: &LogEntry,
    ) -> Result<bool> {
        let number = history.next;
        let Some(own) = self.send(id, number, entry).await? else {
            return Ok(false);
        };
        let is_next = match (&history.last_entry, number.checked_sub(1)) {
            (Some(known), Some(before)) => {
                let found = self.dir.read(&entry_path(id, before)).await?;
                let found = found.and_then(|bytes| read_entry(&bytes).ok());
                found.is_some_and(|found| found.id.as_ref() == Some(known))
            }
            // It is of format 1.
            _ => self.is_before_checkpoint(id, number).await?,
        };
        if is_next {
            history.apply(entry);
            history.last_entry = Some(own);
        }
        Ok(is_next)
    }

    /// Whether entry `number` of a log is not written yet and the job is not dropped. If the caller stalled until the entry was
    /// deleted, only [`Self::append`] detects it.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn is_free(&self, id: JobId, number: u64) -> Result<bool> {
        let (entry, mark) = (entry_path(id, number), checkpoint_path(id, LAST_NUMBER));
        let (entry, mark) = futures::try_join!(self.dir.read(&entry), self.dir.read(&mark))?;
        Ok(entry.is_none() && mark.is_none())
    }

    /// The history of a job, which follows from its log.
    ///
    /// # Errors
    ///
    /// The store does not answer, an entry is missing or cannot be read.
    pub async fn history(&self, id: JobId) -> Result<JobHistory> {
        /// The most attempts if the log is shortened again between two looks: sweeps are not that frequent.
        const LOOKS: usize = 10;
        let mut last = self.last_checkpoint(id).await?;
        for _ in 0..LOOKS {
            let read = self.history_from(id, last).await;
            // Another process may have deleted entries while they were read, or a stalled writer may have written a number that
            // was deleted.
            let now = self.last_checkpoint(id).await?;
            if now == last {
                return read;
            }
            last = now;
        }
        Err(Error::unavailable(format!(
            "the log of job {id} is shortened by other processes all the time"
        )))
    }

    /// Writes an entry if its number is free. Returns the id under which it is there; none if another process has written the
    /// number.
    ///
    /// No id is written twice. The client of an object store repeats a write whose answer was lost: if the entry was read by
    /// others and deleted before the repetition, it would be there again under the id that they know. So an entry is sent once.
    /// If the answer says nothing, the number is read, and if it is free, the entry is sent with another id. The first one may
    /// still arrive: it is refused then, or no process has ever read it.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    async fn send(&self, id: JobId, number: u64, entry: &LogEntry) -> Result<Option<String>> {
        let path = entry_path(id, number);
        let mut sent = Vec::new();
        let mut failure = None;
        for failures in 0..SENDS {
            self.dir.pause(failures).await;
            let own = short_random();
            let bytes = entry_bytes(entry, &own)?;
            sent.push(own.clone());
            match self.dir.create_once(&path, bytes).await? {
                SentOnce::Written => return Ok(Some(own)),
                // It may still be an own entry that arrived late, and a store refuses two writes at the same time.
                SentOnce::Refused => {}
                SentOnce::Unclear(error) => failure = Some(error),
            }
            if let Some(found) = self.dir.read(&path).await? {
                let found = read_entry(&found).ok().and_then(|found| found.id);
                return Ok(found.filter(|found| sent.contains(found)));
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::unavailable(format!("{path} is refused by the store, and is not there"))
        }))
    }

    /// Entries are deleted after a checkpoint has passed them: a number that one has passed was taken before.
    async fn is_before_checkpoint(&self, id: JobId, number: u64) -> Result<bool> {
        Ok(self.last_checkpoint(id).await?.unwrap_or(0) <= number)
    }

    /// The history from a checkpoint on.
    async fn history_from(&self, id: JobId, checkpoint: Option<u64>) -> Result<JobHistory> {
        let history = match checkpoint {
            Some(number) => Some(self.checkpoint(id, number).await?),
            None => None,
        };
        let first = history.as_ref().map_or(0, |history| history.next);
        let names = self.dir.list(&log_folder(id)).await?;
        let numbers = names.iter().filter_map(|name| number_of(name));
        let mut paths = Vec::new();
        for (expected, number) in (first..).zip(numbers.filter(|number| *number >= first)) {
            if number != expected {
                return Err(self.corrupt(&entry_path(id, expected), "it is missing"));
            }
            paths.push(entry_path(id, number));
        }
        let entries: Vec<StoredEntry> = futures::stream::iter(paths)
            .map(|path| {
                let store = self.clone();
                async move { store.read_as(&path, read_entry).await }
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut entries = entries.into_iter();
        let mut history = match history {
            Some(history) => history,
            None => {
                let begins = entries.next().and_then(|first| {
                    let mut history = JobHistory::of(&[first.entry])?;
                    history.last_entry = first.id;
                    Some(history)
                });
                let missing = || self.corrupt(&entry_path(id, 0), "the log does not begin with it");
                begins.ok_or_else(missing)?
            }
        };
        for StoredEntry { entry, id } in entries {
            history.apply(&entry);
            history.last_entry = id;
        }
        Ok(history)
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
