//! Jobs in a data directory: `jobs/names/<name>`, and of each job the log (`jobs/<id>/log/<n>.json`) with its checkpoints
//! (`checkpoint/<n>.json`), its versions (`versions/<name>.json`), what belongs to a version under the same name: keyed state
//! (`state/<name>.arrow`), late rows (`late/<name>.arrow`) and dead letters (`dead/<name>.arrow`), and what swept versions had set
//! aside (`packs/<name>.pack`). A job that was dropped is named in `jobs/dropped/<id>` until its files are deleted. What stands in
//! the JSON files says `wire`.

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use crate::core::jobs::{
    BatchVersion, DeadLetter, Deletable, Entry, Heartbeat, JobHistory, Passed, Phase, Staged,
    StateFile, is_older, passed_by,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::checksum::{check_crc32, crc32};
use crate::store::data_dir::{DataDir, Opened, SentOnce};
use crate::store::letters::{decode_letters, encode_letters};
use crate::store::pack::Pack;
use crate::store::wire::{
    StoredEntry, Unreadable, checkpoint_bytes, entry_bytes, read_checkpoint, read_entry,
    read_version, version_bytes,
};

/// Names the jobs that were dropped and whose files are to be deleted.
const DROPPED: &str = "jobs/dropped";
/// A number that no log reaches: names have ten digits.
const LAST_NUMBER: u64 = 9_999_999_999;
/// How often an entry is sent at most, each time with another id, while the answers say nothing.
const SENDS: u32 = 4;
/// Entries or versions that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// The identity of a job, minted when it is created: a name that is dropped and made again is another job.
pub type JobId = uuid::Uuid;

/// A job, or the error if it cannot be read.
#[derive(Debug)]
pub struct FoundJob {
    /// The name in SQL.
    pub name: String,
    /// Its id and history.
    pub found: Result<(JobId, JobHistory)>,
}

/// The jobs of a data directory.
#[derive(Debug, Clone)]
pub struct JobStore {
    dir: DataDir,
    is_fleeting: bool,
}

impl JobStore {
    /// The jobs of `dir`.
    pub fn new(dir: DataDir) -> Self {
        Self {
            dir,
            is_fleeting: false,
        }
    }

    /// Jobs in memory that end with their process, such as subscriptions.
    pub fn fleeting() -> Self {
        Self {
            dir: DataDir::in_memory(),
            is_fleeting: true,
        }
    }

    /// Whether late rows and dead letters are deleted with their batches instead of being packed.
    pub fn is_fleeting(&self) -> bool {
        self.is_fleeting
    }

    /// The names of all jobs that have not been dropped.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn names(&self) -> Result<Vec<String>> {
        let files = self.dir.list("jobs/names").await?;
        Ok(files.iter().map(|file| name_of(file)).collect())
    }

    /// All jobs that have not been dropped, by name. A job that cannot be read does not hide the others.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn all(&self) -> Result<Vec<FoundJob>> {
        self.found(self.names().await?).await
    }

    /// The jobs of these names; names without a job are left out.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn found(&self, names: Vec<String>) -> Result<Vec<FoundJob>> {
        let found = futures::stream::iter(names)
            .map(|name| async move {
                let found = self.find(&name).await;
                match found {
                    Ok(None) => Ok(None),
                    Ok(Some(found)) => Ok(Some(FoundJob {
                        name,
                        found: Ok(found),
                    })),
                    Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
                    Err(error) => Ok(Some(FoundJob {
                        name,
                        found: Err(error),
                    })),
                }
            })
            .buffered(READS_AT_ONCE);
        found
            .try_filter_map(|job| std::future::ready(Ok(job)))
            .try_collect()
            .await
    }

    /// The job of a name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::all`].
    pub async fn find(&self, name: &str) -> Result<Option<(JobId, JobHistory)>> {
        self.at(&named(name)).await
    }

    /// The id of the job with this name, without reading its log.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub async fn id_of(&self, name: &str) -> Result<Option<JobId>> {
        self.id_at(&named(name)).await
    }

    async fn id_at(&self, path: &str) -> Result<Option<JobId>> {
        let Some(found) = self.dir.read(path).await? else {
            return Ok(None);
        };
        let id = std::str::from_utf8(&found)
            .ok()
            .and_then(|text| {
                let id = text.trim().parse::<JobId>().ok()?;
                // The text must be as it was written: a capital letter in it means damage.
                (id.to_string() == text.trim()).then_some(id)
            })
            .ok_or_else(|| self.corrupt(path, "it does not hold the id of a job"))?;
        Ok(Some(id))
    }

    /// The data directory that holds them.
    pub(super) fn dir(&self) -> &DataDir {
        &self.dir
    }

    async fn at(&self, path: &str) -> Result<Option<(JobId, JobHistory)>> {
        let Some(id) = self.id_at(path).await? else {
            return Ok(None);
        };
        let history = self.history(id).await;
        // A job's log is written before its name.
        if history.is_err() && self.dir.list(&format!("jobs/{id}")).await?.is_empty() {
            return Err(self.corrupt(path, "it leads to a job that is not there"));
        }
        Ok(Some((id, history?)))
    }

    /// Creates a job; `None` if the name is taken.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    #[expect(
        clippy::disallowed_methods,
        reason = "a job of a name that another one had is another job"
    )]
    pub async fn create(&self, created: &Entry, name: &str) -> Result<Option<JobId>> {
        let id = JobId::new_v4();
        // The log is written first: so a name always leads to a job.
        if !self.append(id, 0, created).await? {
            return Err(Error::internal("a new job's log exists already"));
        }
        let taken = self
            .dir
            .create(&named(name), id.to_string().into_bytes())
            .await?;
        if !taken {
            self.dir.delete(&entry_path(id, 0)).await?;
            return Ok(None);
        }
        Ok(Some(id))
    }

    /// Frees the name of a job that was dropped. Its log and versions stay until [`Self::sweep_dropped`] deletes them. If this
    /// process stalled after the drop, another job may have taken the name: then the name stays.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn forget(&self, name: &str, id: JobId) -> Result<()> {
        let path = named(name);
        let found = self.dir.read(&path).await?;
        let is_its_own = found.is_some_and(|found| found.trim_ascii() == id.to_string().as_bytes());
        if !is_its_own {
            return Ok(());
        }
        // The list of dropped jobs is written first, so that the job can be found at any time: by its name, or in that list.
        self.dir.create(&dropped_path(id), Vec::new()).await?;
        self.dir.delete(&path).await
    }

    /// Writes entry `number` of a log; false if another process has written it, be it deleted since. Lists the checkpoints:
    /// [`Self::append_next`] does not, where the log is known.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    pub async fn append(&self, id: JobId, number: u64, entry: &Entry) -> Result<bool> {
        match self.send(id, number, entry).await? {
            Some(_) => self.is_not_passed(id, number).await,
            None => Ok(false),
        }
    }

    /// Writes an entry if its number is free. Returns the id under which it is there; none if another process has written the
    /// number.
    ///
    /// No id is written twice. The client of an object store repeats a write whose answer was lost: if the entry was read by
    /// others and deleted before the repetition, it would be there again under the id that they know. So an entry is sent once.
    /// If the answer says nothing, the number is read, and if it is free, the entry is sent with another id. The first one may
    /// still arrive: it is refused then, or nobody has ever read it.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    async fn send(&self, id: JobId, number: u64, entry: &Entry) -> Result<Option<String>> {
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
    async fn is_not_passed(&self, id: JobId, number: u64) -> Result<bool> {
        Ok(self.last_checkpoint(id).await?.unwrap_or(0) <= number)
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
        entry: &Entry,
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
            _ => self.is_not_passed(id, number).await?,
        };
        if is_next {
            history.apply(entry);
            history.last_entry = Some(own);
        }
        Ok(is_next)
    }

    /// Says that a process runs the job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_heartbeat(&self, id: JobId, beat: &Heartbeat) -> Result<()> {
        let bytes = serde_json::to_vec(beat).map_err(|error| Error::internal(error.to_string()))?;
        self.dir.overwrite(&heartbeat_path(id), bytes).await
    }

    /// The last heartbeat of the job; none if it cannot be read.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn heartbeat(&self, id: JobId) -> Result<Option<Heartbeat>> {
        let found = self.dir.read(&heartbeat_path(id)).await?;
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Deletes the heartbeat: the process no longer runs the job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn delete_heartbeat(&self, id: JobId) -> Result<()> {
        self.dir.delete(&heartbeat_path(id)).await
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
            "the log of job {id} is made shorter all the time"
        )))
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

    /// The number of the newest checkpoint.
    async fn last_checkpoint(&self, id: JobId) -> Result<Option<u64>> {
        Ok(self.checkpoints(id).await?.pop())
    }

    /// The numbers of all checkpoints, ascending.
    async fn checkpoints(&self, id: JobId) -> Result<Vec<u64>> {
        let names = self.dir.list(&format!("jobs/{id}/checkpoint")).await?;
        Ok(names.iter().filter_map(|name| number_of(name)).collect())
    }

    async fn checkpoint(&self, id: JobId, number: u64) -> Result<JobHistory> {
        let read = |bytes: &[u8]| read_checkpoint(bytes, number);
        self.read_as(&checkpoint_path(id, number), read).await
    }

    /// Writes a checkpoint of the history so far, and deletes the entries that the checkpoint before has passed.
    /// [`Self::history`] starts from the new one. Returns the history in the checkpoint before; none if there is none, or if
    /// another process has written a newer checkpoint: then nothing is deleted.
    ///
    /// The process may stop at any step, and several processes may do this at the same time: only entries that a remaining
    /// checkpoint has passed are deleted.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn compact(&self, id: JobId, history: &JobHistory) -> Result<Option<JobHistory>> {
        let bytes = checkpoint_bytes(history)?;
        // The same entries give the same checkpoint: one that is there is as good.
        self.dir
            .create(&checkpoint_path(id, history.next), bytes)
            .await?;
        let checkpoints = self.checkpoints(id).await?;
        let Some(Passed { before, older }) = passed_by(history.next, &checkpoints) else {
            return Ok(None);
        };
        // A reader of the checkpoint before still finds the entries after it.
        let passed = self.checkpoint(id, before).await?;
        // Entries are deleted in order, so that a remaining entry always has those that follow it.
        for name in self.dir.list(&log_folder(id)).await? {
            if number_of(&name).is_some_and(|number| number < before) {
                self.dir
                    .delete(&format!("{}/{name}", log_folder(id)))
                    .await?;
            }
        }
        for number in older {
            self.dir.delete(&checkpoint_path(id, *number)).await?;
        }
        Ok(Some(passed))
    }

    /// Deletes the files that no reader needs any more, now that a checkpoint has passed the one that holds `passed`, which
    /// [`Self::compact`] returned. Returns the number of deleted files.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn sweep(&self, id: JobId, passed: &JobHistory) -> Result<u64> {
        let Some(first) = passed.batches.first() else {
            return Ok(0);
        };
        let deletable = Deletable::by(passed, &self.version(id, &first.version).await?);
        let mut deleted = 0;
        for (folder, ending) in [
            ("versions", ".json"),
            ("late", ".arrow"),
            ("dead", ".arrow"),
            ("state", ".arrow"),
            ("packs", ".pack"),
        ] {
            let path = format!("jobs/{id}/{folder}");
            for file in self.dir.list(&path).await? {
                let Some(name) = file.strip_suffix(ending) else {
                    continue;
                };
                let goes = match folder {
                    "packs" => deletable.has_pack(name),
                    "state" => deletable.has_state(name),
                    _ => deletable.has_version(name),
                };
                if goes {
                    self.dir.delete(&format!("{path}/{file}")).await?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// Deletes the files of dropped jobs whose names [`Self::forget`] has freed, by this DROP JOB or by earlier ones that died
    /// before they deleted the files. Reads no other job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn sweep_dropped(&self) -> Result<()> {
        for file in self.dir.list(DROPPED).await? {
            let Ok(id) = file.parse::<JobId>() else {
                continue;
            };
            // A damaged job is left for the consistency check.
            let Ok(history) = self.history(id).await else {
                continue;
            };
            if history.phase == Phase::Dropped {
                self.clear(id, history).await?;
                self.dir.delete(&dropped_path(id)).await?;
            }
        }
        Ok(())
    }

    /// Deletes the files of a job that was dropped. A checkpoint that says so stays, behind every number that a runner may
    /// still use: so its writes have no effect.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn clear(&self, id: JobId, mut history: JobHistory) -> Result<()> {
        if history.checkpoint < LAST_NUMBER {
            history.next = LAST_NUMBER;
            self.compact(id, &history).await?;
        }
        let tombstone = checkpoint_path(id, LAST_NUMBER);
        let folder = format!("jobs/{id}");
        for file in self.dir.list(&folder).await? {
            let path = format!("{folder}/{file}");
            if path != tombstone {
                self.dir.delete(&path).await?;
            }
        }
        Ok(())
    }

    /// A unique name for the version of log entry `sequence`; names sort by number.
    pub fn version_name(sequence: u64) -> String {
        format!("{sequence:010}-{}", short_random())
    }

    /// Writes a version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn stage(&self, id: JobId, name: &str, version: &BatchVersion) -> Result<()> {
        let bytes = version_bytes(version)?;
        self.put(&version_path(id, name), bytes).await
    }

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
    pub async fn open_state(&self, id: JobId, name: &str) -> Result<Opened> {
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

    async fn read_as<T>(
        &self,
        path: &str,
        read: impl FnOnce(&[u8]) -> Result<T, Unreadable>,
    ) -> Result<T> {
        let bytes = self.get(path).await?;
        read(&bytes).map_err(|why| why.of_file(path, self.dir.shown()))
    }

    async fn get_checked(&self, path: &str, written: Option<u32>) -> Result<Bytes> {
        let bytes = self.get(path).await?;
        if written.is_some() {
            let checked = check_crc32(crc32(&bytes), written);
            checked.map_err(|reason| self.corrupt(path, &reason))?;
        }
        Ok(bytes)
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        let found = self.dir.read(path).await?;
        found.ok_or_else(|| self.corrupt(path, "it is missing"))
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        if self.dir.create(path, bytes).await? {
            return Ok(());
        }
        Err(Error::internal(format!("{path} exists already")))
    }

    /// Reads versions, some at the same time; returns them in the order of their names.
    ///
    /// # Errors
    ///
    /// As [`Self::version`], at the position of the version that cannot be read.
    pub fn versions(
        &self,
        id: JobId,
        names: Vec<String>,
    ) -> impl Stream<Item = Result<BatchVersion>> + Send + use<> {
        let store = self.clone();
        let read = move |name: String| {
            let store = store.clone();
            async move { store.version(id, &name).await }
        };
        futures::stream::iter(names)
            .map(read)
            .buffered(READS_AT_ONCE)
    }

    /// Reads a version.
    ///
    /// # Errors
    ///
    /// It is missing, cannot be read, or was written by a newer program.
    pub async fn version(&self, id: JobId, name: &str) -> Result<BatchVersion> {
        self.read_as(&version_path(id, name), read_version).await
    }

    /// The versions that were written and never committed.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub async fn staged(&self, id: JobId, history: &JobHistory) -> Result<Vec<Staged>> {
        self.staged_before(id, history, history.next).await
    }

    /// The versions that the next runner will find: it first appends an entry to the log, by which it takes the job over.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub async fn staged_for_next(&self, id: JobId, history: &JobHistory) -> Result<Vec<Staged>> {
        self.staged_before(id, history, history.next + 1).await
    }

    async fn staged_before(
        &self,
        id: JobId,
        history: &JobHistory,
        number: u64,
    ) -> Result<Vec<Staged>> {
        let mut staged = Vec::new();
        for file in self.dir.list(&format!("jobs/{id}/versions")).await? {
            let Some(name) = file.strip_suffix(".json") else {
                continue;
            };
            // If this runner stalled here, another one may have taken the job over and committed: skip versions newer than our
            // log.
            if history.was_committed(name) || !is_older(name, number) {
                continue;
            }
            let version = match self.version(id, name).await {
                Ok(version) => version,
                // A version that was torn while it was written was not committed.
                Err(error) if error.kind() == ErrorKind::Data => continue,
                Err(error) => return Err(error),
            };
            staged.push(Staged {
                name: name.to_owned(),
                batch: version.batch,
                parent: version.parent,
            });
        }
        Ok(staged)
    }

    /// Deletes a version that was not committed, with its state and late rows.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn discard(&self, id: JobId, name: &str) -> Result<()> {
        self.dir.delete(&state_path(id, name)).await?;
        self.dir.delete(&late_path(id, name)).await?;
        self.dir.delete(&dead_path(id, name)).await?;
        self.dir.delete(&version_path(id, name)).await
    }

    fn corrupt(&self, path: &str, reason: &str) -> Error {
        Unreadable::Damaged(reason.to_owned()).of_file(path, self.dir.shown())
    }
}

fn named(name: &str) -> String {
    // Encodes any name that SQL allows in characters that every store accepts unchanged.
    let plain: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!(".{other:02x}"),
        })
        .collect();
    format!("jobs/names/{plain}")
}

fn dropped_path(id: JobId) -> String {
    format!("{DROPPED}/{id}")
}

/// The name of the job that a file of `jobs/names` belongs to.
fn name_of(file: &str) -> String {
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| *first == b'.') {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn log_folder(id: JobId) -> String {
    format!("jobs/{id}/log")
}

pub(super) fn entry_path(id: JobId, number: u64) -> String {
    format!("{}/{number:010}.json", log_folder(id))
}

fn heartbeat_path(id: JobId) -> String {
    format!("jobs/{id}/heartbeat.json")
}

pub(super) fn checkpoint_path(id: JobId, number: u64) -> String {
    format!("jobs/{id}/checkpoint/{number:010}.json")
}

fn pack_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/packs/{name}.pack")
}

/// The number in the name of a log entry or checkpoint.
pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".json")?.parse().ok()
}

fn version_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/versions/{name}.json")
}

fn state_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/state/{name}.arrow")
}

fn late_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/late/{name}.arrow")
}

fn dead_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/dead/{name}.arrow")
}

#[expect(
    clippy::disallowed_methods,
    reason = "two runners never give one file the same name, nor one entry the same id"
)]
fn short_random() -> String {
    let mut name = uuid::Uuid::new_v4().simple().to_string();
    name.truncate(12);
    name
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use futures::future::BoxFuture;

    use super::*;
    use crate::core::jobs::{AGGREGATE, OperatorState};
    use crate::store::simulated::{Fate, Faults, Later, Reads, SimulatedDisk};

    fn store(dir: &std::path::Path) -> JobStore {
        JobStore::new(DataDir::open(&dir.display().to_string()).unwrap())
    }

    fn created(name: &str) -> Entry {
        Entry::Created {
            name: name.into(),
            text: "CREATE JOB …".into(),
            tables: vec![],
            at: 0,
        }
    }

    fn takeover(owner: &str) -> Entry {
        Entry::Takeover {
            owner: owner.into(),
            at: 0,
        }
    }

    #[tokio::test]
    async fn a_name_is_one_job_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let odd = "a/b.c%d é";
        let first = store.create(&created(odd), odd).await.unwrap().unwrap();
        assert_eq!(store.create(&created(odd), odd).await.unwrap(), None);
        assert_eq!(store.find(odd).await.unwrap().unwrap().0, first);
        assert_eq!(store.names().await.unwrap(), [odd]);
        assert_eq!(store.all().await.unwrap()[0].name, odd);
        store.forget(odd, first).await.unwrap();
        let second = store.create(&created(odd), odd).await.unwrap().unwrap();
        assert_ne!(first, second);
        // A DROP JOB of the first one that stalled until now does not free the name of the second.
        store.forget(odd, first).await.unwrap();
        assert_eq!(store.find(odd).await.unwrap().unwrap().0, second);
    }

    #[tokio::test]
    async fn of_two_that_write_the_same_entry_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut writers = Vec::new();
        for writer in 0..8 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                store
                    .append(id, 1, &takeover(&format!("runner {writer}")))
                    .await
                    .unwrap()
            }));
        }
        let mut won = 0;
        for writer in writers {
            won += usize::from(writer.await.unwrap());
        }
        assert_eq!(won, 1);
        let history = store.history(id).await.unwrap();
        assert_eq!(history.next, 2);
        assert!(history.owner.unwrap().starts_with("runner"));
    }

    fn committed(batch: u64, sequence: u64) -> Entry {
        Entry::Committed {
            batch,
            version: format!("{sequence:010}-v"),
            at: 0,
        }
    }

    fn files(dir: &std::path::Path, id: JobId, folder: &str) -> Vec<String> {
        let Ok(found) = std::fs::read_dir(dir.join(format!("jobs/{id}/{folder}"))) else {
            return Vec::new();
        };
        let names = found.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn a_log_that_was_made_shorter_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut all = vec![created("j")];
        let mut shortened = 0;
        for number in 1..=40 {
            let entry = match number {
                20 => Entry::Trimmed {
                    oldest: 15,
                    packs: vec!["p".into()],
                    at: 7,
                },
                _ if number % 7 == 0 => takeover("me"),
                _ => committed(number, number),
            };
            assert!(store.append(id, number, &entry).await.unwrap());
            all.push(entry);
            let mut history = store.history(id).await.unwrap();
            assert_eq!(history.checkpoint, shortened);
            history.checkpoint = 0;
            assert!(history.last_entry.take().is_some(), "{number}");
            assert_eq!(history, JobHistory::of(&all).unwrap(), "{number}");
            if number % 10 == 5 {
                store.compact(id, &history).await.unwrap();
                shortened = history.next;
            }
        }
        // Checkpoints at 6, 16, 26 and 36: the last two stay, and the entries that the last but one has not passed.
        let checkpoints = files(dir.path(), id, "checkpoint");
        assert_eq!(checkpoints, ["0000000026.json", "0000000036.json"]);
        assert_eq!(files(dir.path(), id, "log")[0], "0000000026.json");
        assert_eq!(files(dir.path(), id, "log").len(), 15);
        // A writer that stalled all the time finds its number free, and learns that it lost.
        assert!(!store.append(id, 9, &takeover("zombie")).await.unwrap());
        assert_eq!(store.history(id).await.unwrap().owner.unwrap(), "me");
        // Its entry is swept with the rest.
        let history = store.history(id).await.unwrap();
        store.compact(id, &history).await.unwrap();
        assert_eq!(files(dir.path(), id, "log")[0], "0000000036.json");
    }

    #[tokio::test]
    async fn a_gap_behind_a_checkpoint_and_a_newer_checkpoint_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let history = store.history(id).await.unwrap();
        store.compact(id, &history).await.unwrap();
        store.append(id, 2, &takeover("late")).await.unwrap();
        let error = store.history(id).await.unwrap_err();
        assert!(error.message().contains("log/0000000001.json"), "{error}");
        let newer = dir
            .path()
            .join(format!("jobs/{id}/checkpoint/0000000002.json"));
        std::fs::write(newer, r#"{"format":3,"history":{"next":2}}"#).unwrap();
        let error = store.history(id).await.unwrap_err();
        assert!(
            error.message().contains("newer program (format 3"),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn an_entry_is_won_once_while_the_log_is_made_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut writers = Vec::new();
        for writer in 0..4_u64 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                let mut won = Vec::new();
                for round in 0..60_u64 {
                    let history = store.history(id).await.unwrap();
                    if round % 10 == writer {
                        // Long enough for the others to write, and for their entries to be deleted.
                        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
                    }
                    let owner = format!("{writer}/{round}");
                    if store
                        .append(id, history.next, &takeover(&owner))
                        .await
                        .unwrap()
                    {
                        won.push((history.next, owner));
                    }
                }
                won
            }));
        }
        let sweeper = {
            let store = store.clone();
            tokio::spawn(async move {
                let mut deleted = false;
                loop {
                    let history = store.history(id).await.unwrap();
                    deleted |= store.compact(id, &history).await.unwrap().is_some();
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    if history.owner.as_deref() == Some("end") {
                        return deleted;
                    }
                }
            })
        };
        let mut won = std::collections::BTreeMap::new();
        for writer in writers {
            for (number, owner) in writer.await.unwrap() {
                assert_eq!(won.insert(number, owner), None, "{number} was won twice");
            }
        }
        let history = store.history(id).await.unwrap();
        // A winner may have got the answer that it lost, never the other way round.
        assert!((won.len() as u64) < history.next);
        assert!(won.len() > 60, "{}", won.len());
        if let Some(last) = won.get(&(history.next - 1)) {
            assert_eq!(history.owner.as_ref(), Some(last));
        }
        // An entry that is written is in the log, even if its writer got the answer that it lost.
        let next = history.next;
        store.append(id, next, &takeover("end")).await.unwrap();
        assert_eq!(store.history(id).await.unwrap().owner.unwrap(), "end");
        assert!(sweeper.await.unwrap(), "entries were deleted");
    }

    /// A version whose state is in these files.
    fn version_with(sequence: u64, state: &[&str]) -> BatchVersion {
        let file = |name: &&str| StateFile {
            name: (*name).to_owned(),
            is_snapshot: false,
            closed_by: None,
            rows: 0,
            bytes: 1,
            crc32: Some(crc32(b"x")),
        };
        BatchVersion {
            batch: sequence,
            sequence,
            operators: [(
                AGGREGATE.to_owned(),
                OperatorState {
                    fingerprint: None,
                    files: state.iter().map(file).collect(),
                },
            )]
            .into(),
            ..BatchVersion::default()
        }
    }

    /// A batch with state, late rows and its entry.
    async fn commit(store: &JobStore, id: JobId, number: u64, state: &[&str]) {
        let name = format!("{number:010}-v");
        let version = version_with(number, state);
        store.stage(id, &name, &version).await.unwrap();
        for file in [state_path(id, &name), late_path(id, &name)] {
            store.put(&file, b"x".to_vec()).await.unwrap();
        }
        let entry = committed(number, number);
        assert!(store.append(id, number, &entry).await.unwrap());
    }

    async fn trim(store: &JobStore, id: JobId, oldest: u64, packs: &[&str]) -> JobHistory {
        let next = store.history(id).await.unwrap().next;
        let trimmed = Entry::Trimmed {
            oldest,
            packs: packs.iter().map(|pack| (*pack).to_owned()).collect(),
            at: 0,
        };
        assert!(store.append(id, next, &trimmed).await.unwrap());
        store.history(id).await.unwrap()
    }

    #[tokio::test]
    async fn two_that_sweep_at_once_do_what_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        for number in 1..=20 {
            commit(&store, id, number, &["0000000007-v"]).await;
        }
        for pack in ["0000000005-p", "0000000021-p", "0000000022-p"] {
            store
                .put(&pack_path(id, pack), b"x".to_vec())
                .await
                .unwrap();
        }
        let history = trim(&store, id, 18, &["0000000021-p"]).await;
        assert_eq!(store.compact(id, &history).await.unwrap(), None);
        assert!(store.append(id, 22, &takeover("me")).await.unwrap());
        let history = store.history(id).await.unwrap();
        let sweep = async || {
            let passed = store.compact(id, &history).await.unwrap().unwrap();
            store.sweep(id, &passed).await.unwrap()
        };
        let (one, other) = tokio::join!(sweep(), sweep());
        assert!(one + other >= 3 * 17, "{one} {other}");
        let last = ["0000000018-v", "0000000019-v", "0000000020-v"];
        let named = |ending: &str| last.map(|name| format!("{name}.{ending}"));
        assert_eq!(files(dir.path(), id, "versions"), named("json"));
        assert_eq!(files(dir.path(), id, "late"), named("arrow"));
        let state = files(dir.path(), id, "state");
        assert_eq!(
            state[0], "0000000007-v.arrow",
            "later versions go on from it"
        );
        assert_eq!(state[1..], named("arrow"));
        // A pack that no entry names yet may be named soon.
        let packs = files(dir.path(), id, "packs");
        assert_eq!(packs, ["0000000021-p.pack", "0000000022-p.pack"]);
        assert_eq!(store.history(id).await.unwrap().next, 23);
    }

    #[tokio::test]
    async fn loss_1_a_sweeper_that_slept_deletes_nothing_that_lives() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        for number in 1..=20 {
            commit(&store, id, number, &["0000000001-v"]).await;
        }
        // It has trimmed the history, and stalls before it writes its checkpoint.
        let slept = trim(&store, id, 10, &["0000000021-p"]).await;
        // Meanwhile other runners trim twice and die before they sweep. Their batches go on from a snapshot of their own, and
        // their pack has the rows of the one before.
        for number in 22..=40 {
            commit(&store, id, number, &["0000000022-v"]).await;
        }
        for pack in ["0000000021-p", "0000000041-p", "0000000062-p"] {
            let bytes = Pack::default();
            store.put_pack(id, pack, &bytes).await.unwrap();
        }
        let first = trim(&store, id, 35, &["0000000041-p"]).await;
        store.compact(id, &first).await.unwrap();
        for number in 42..=60 {
            commit(&store, id, number, &["0000000022-v", "0000000042-v"]).await;
        }
        let second = trim(&store, id, 55, &["0000000041-p", "0000000061-p"]).await;
        let passed = store.compact(id, &second).await.unwrap().unwrap();
        let log = files(dir.path(), id, "log");

        assert_eq!(store.compact(id, &slept).await.unwrap(), None);
        assert_eq!(files(dir.path(), id, "log"), log);
        assert!(store.sweep(id, &passed).await.unwrap() > 0);

        let history = store.history(id).await.unwrap();
        let mut checked = 0;
        for batch in &history.batches {
            let version = store.version(id, &batch.version).await.unwrap();
            store.late(id, &batch.version, &version).await.unwrap();
            for file in version.state_files() {
                store.state(id, file).await.unwrap();
                checked += 1;
            }
        }
        assert_eq!(checked, 2 * 6);
        store.pack(id, "0000000041-p").await.unwrap();
    }

    /// LOSS-1: a sweeper that slept until another one had written the first checkpoint does not take its own for the passed one.
    #[tokio::test]
    async fn loss_1_a_sweeper_that_slept_does_not_go_by_its_own_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        for number in 1..=20 {
            commit(&store, id, number, &["0000000001-v"]).await;
        }
        let slept = trim(&store, id, 10, &[]).await;
        assert!(store.append(id, 22, &takeover("other")).await.unwrap());
        let newer = store.history(id).await.unwrap();
        assert_eq!(store.compact(id, &newer).await.unwrap(), None);
        assert_eq!(store.compact(id, &slept).await.unwrap(), None);
        assert_eq!(files(dir.path(), id, "log").len(), 23);
        let checkpoints = files(dir.path(), id, "checkpoint");
        assert_eq!(checkpoints, ["0000000022.json", "0000000023.json"]);
        // The next one sweeps it with the rest.
        assert!(store.append(id, 23, &takeover("next")).await.unwrap());
        let next = store.history(id).await.unwrap();
        let passed = store.compact(id, &next).await.unwrap().unwrap();
        assert_eq!(passed.next, 23);
        let checkpoints = files(dir.path(), id, "checkpoint");
        assert_eq!(checkpoints, ["0000000023.json", "0000000024.json"]);
    }

    #[tokio::test]
    async fn a_dropped_job_leaves_a_mark_that_no_runner_gets_past() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let other = store.create(&created("k"), "k").await.unwrap().unwrap();
        store
            .put_state(id, "0000000001-v", b"x".to_vec())
            .await
            .unwrap();
        store.append(id, 1, &takeover("runner")).await.unwrap();
        store
            .append(id, 2, &Entry::Dropped { at: 0 })
            .await
            .unwrap();
        store.forget("j", id).await.unwrap();
        for round in 0..2 {
            match round {
                0 => store.sweep_dropped().await.unwrap(),
                // By the runner, when it notices.
                _ => {
                    let history = store.history(id).await.unwrap();
                    store.clear(id, history).await.unwrap();
                }
            }
            assert_eq!(files(dir.path(), id, "state"), Vec::<String>::new());
            assert_eq!(files(dir.path(), id, "log"), Vec::<String>::new());
            assert_eq!(files(dir.path(), id, "checkpoint"), ["9999999999.json"]);
            // The runner of the job has not noticed yet.
            let entry = committed(1, 1);
            assert!(!store.is_free(id, 2).await.unwrap());
            assert!(!store.append(id, 2, &entry).await.unwrap());
            assert_eq!(store.history(id).await.unwrap().phase, Phase::Dropped);
        }
        assert_eq!(store.find("k").await.unwrap().unwrap().0, other);
        assert_eq!(files(dir.path(), other, "log"), ["0000000000.json"]);
    }

    /// One process runs a job: what it does of the store for a batch is known, and nothing is listed.
    #[tokio::test]
    async fn a_batch_lists_nothing() {
        let reads = Arc::new(Reads::default());
        let dir = SimulatedDisk::default().seen_with(Arc::clone(&reads) as Arc<dyn Faults>);
        let store = JobStore::new(dir);
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut history = store.history(id).await.unwrap();
        let me = takeover("me");
        assert!(store.append_next(id, &mut history, &me).await.unwrap());
        for batch in 1..=30 {
            let name = JobStore::version_name(history.next);
            reads.take();
            reads.take_listed();
            // The look for statements of other processes, and a batch with all that it can leave behind.
            assert!(store.is_free(id, history.next).await.unwrap());
            store.put_state(id, &name, b"x".to_vec()).await.unwrap();
            store.put_late(id, &name, b"x".to_vec()).await.unwrap();
            let letters = store.put_dead_letters(id, &name, &[]).await.unwrap();
            let version = BatchVersion {
                dead_letters_crc32: Some(letters),
                ..version_with(history.next, &[name.as_str()])
            };
            store.stage(id, &name, &version).await.unwrap();
            let entry = Entry::Committed {
                batch,
                version: name,
                at: 0,
            };
            let before = entry_path(id, history.next - 1);
            assert!(store.append_next(id, &mut history, &entry).await.unwrap());
            assert_eq!(reads.take_listed(), [] as [&str; 0], "{batch}");
            let read = reads.take();
            // The number itself and the mark of DROP JOB, and the entry before.
            assert_eq!((read.len(), read.last()), (3, Some(&before)), "{read:?}");
            // A log that is made shorter meanwhile changes nothing.
            if batch % 7 == 0 {
                store.compact(id, &history).await.unwrap();
            }
        }
        let read = store.history(id).await.unwrap();
        assert_eq!(read.last_entry, history.last_entry);
        // A process that begins with the checkpoint knows the entry before as well.
        store.compact(id, &read).await.unwrap();
        let mut other = store.history(id).await.unwrap();
        assert_eq!(other.checkpoint, other.next);
        reads.take_listed();
        let other_takes = takeover("other");
        assert!(
            store
                .append_next(id, &mut other, &other_takes)
                .await
                .unwrap()
        );
        assert_eq!(reads.take_listed(), [] as [&str; 0]);
        // The first one is told that it lost, and its history is what it was.
        let (next, known) = (history.next, history.last_entry.clone());
        let entry = committed(31, history.next);
        assert!(!store.append_next(id, &mut history, &entry).await.unwrap());
        assert_eq!((history.next, history.last_entry), (next, known));
    }

    /// Decides by a list what becomes of the writes of entries; all other calls succeed.
    #[derive(Default)]
    struct Listed {
        fates: Mutex<VecDeque<Fate>>,
        later: Mutex<Vec<Later>>,
        /// Delayed writes arrive before the next one, and not when the test says so.
        is_hurried: bool,
    }

    impl std::fmt::Debug for Listed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Listed")
        }
    }

    impl Faults for Listed {
        fn step(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }

        fn fate(&self, path: &str, writes: bool) -> Fate {
            if !writes || !path.contains("/log/") {
                return Fate::Done;
            }
            if self.is_hurried {
                self.arrive();
            }
            let next = self.fates.lock().unwrap().pop_front();
            next.unwrap_or(Fate::Done)
        }

        fn later(&self, later: Later) {
            self.later.lock().unwrap().push(later);
        }
    }

    impl Listed {
        fn next(&self, fates: &[Fate]) {
            self.fates.lock().unwrap().extend(fates);
        }

        /// The delayed writes arrive. Returns how many there are.
        fn arrive(&self) -> usize {
            let later = std::mem::take(&mut *self.later.lock().unwrap());
            let count = later.len();
            later.into_iter().for_each(|later| later());
            count
        }
    }

    /// LOSS-1: the answer to an entry is lost, and its write is repeated, or arrives for the first time, when the entry and the one
    /// after it were swept. A process that knows the entry and slept meanwhile loses.
    #[tokio::test]
    async fn loss_1_an_entry_that_arrives_after_a_sweep_does_not_let_another_win() {
        for (fate, late) in [(Fate::Repeated, 0), (Fate::Late, 1)] {
            let faults = Arc::new(Listed::default());
            let seen = Arc::clone(&faults) as Arc<dyn Faults>;
            let store = JobStore::new(SimulatedDisk::default().seen_with(seen));
            let id = store.create(&created("j"), "j").await.unwrap().unwrap();
            let mut history = store.history(id).await.unwrap();
            for number in 1..=9 {
                let entry = committed(number, number);
                assert!(store.append_next(id, &mut history, &entry).await.unwrap());
            }
            faults.next(&[fate]);
            let writer = takeover("writer");
            let won = store.append_next(id, &mut history, &writer).await;
            assert!(won.is_ok_and(|won| won), "it reads its number: {fate:?}");
            let mut sleeper = store.history(id).await.unwrap();
            assert_eq!(sleeper.last_entry, history.last_entry);
            for number in 11..=40 {
                let entry = committed(number, number);
                assert!(store.append_next(id, &mut history, &entry).await.unwrap());
                if number % 10 == 0 {
                    store.compact(id, &history).await.unwrap();
                }
            }
            for swept in [10, 11] {
                let found = store.dir.read(&entry_path(id, swept)).await.unwrap();
                assert_eq!(found, None);
            }
            assert_eq!(faults.arrive(), late, "{fate:?}");
            let entry = takeover("sleeper");
            assert!(!store.append_next(id, &mut sleeper, &entry).await.unwrap());
            let owner = store.history(id).await.unwrap().owner;
            assert_eq!(owner.as_deref(), Some("writer"));
        }
    }

    #[tokio::test]
    async fn an_entry_is_sent_again_with_another_id_while_the_answers_say_nothing() {
        use Fate::{Late, Refused, Unheard};
        for (fates, is_hurried) in [
            (&[Unheard][..], false),
            (&[Refused, Refused, Unheard], false),
            (&[Late, Refused], false),
            // It finds an entry at its number that is its own.
            (&[Late], true),
            (&[Late, Late], true),
        ] {
            let faults = Arc::new(Listed {
                is_hurried,
                ..Listed::default()
            });
            let seen = Arc::clone(&faults) as Arc<dyn Faults>;
            let store = JobStore::new(SimulatedDisk::default().seen_with(seen));
            let id = store.create(&created("j"), "j").await.unwrap().unwrap();
            let mut history = store.history(id).await.unwrap();
            for number in 1..=3 {
                faults.next(fates);
                let entry = committed(number, number);
                assert!(store.append_next(id, &mut history, &entry).await.unwrap());
                faults.arrive();
                let read = store.history(id).await.unwrap();
                assert_eq!(read, history, "{fates:?}: {number}");
            }
        }
        let faults = Arc::new(Listed::default());
        let seen = Arc::clone(&faults) as Arc<dyn Faults>;
        let store = JobStore::new(SimulatedDisk::default().seen_with(seen));
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut history = store.history(id).await.unwrap();
        faults.next(&[Refused; SENDS as usize]);
        let entry = committed(1, 1);
        let error = store.append_next(id, &mut history, &entry).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(store.history(id).await.unwrap(), history);
    }

    /// LOSS-1: processes that slept until the log was made shorter find their numbers free, two of them next to each other, and lose.
    #[tokio::test]
    async fn loss_1_the_rest_of_one_sleeper_does_not_let_another_win() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut history = store.history(id).await.unwrap();
        let mut slept = Vec::new();
        for number in 1..=30 {
            if number == 4 || number == 5 {
                slept.push(history.clone());
            }
            let entry = committed(number, number);
            assert!(store.append_next(id, &mut history, &entry).await.unwrap());
            if number % 10 == 0 {
                store.compact(id, &history).await.unwrap();
            }
        }
        assert_eq!(files(dir.path(), id, "log")[0], "0000000021.json");
        for mut sleeper in slept {
            let entry = takeover("sleeper");
            assert!(!store.append_next(id, &mut sleeper, &entry).await.unwrap());
        }
        let left = files(dir.path(), id, "log");
        assert_eq!(left[..2], ["0000000004.json", "0000000005.json"]);
        assert_eq!(store.history(id).await.unwrap().owner, None);
        let entry = committed(31, 31);
        assert!(store.append_next(id, &mut history, &entry).await.unwrap());
    }

    /// Entries of format 1 have no ids: the checkpoints say whether one is the next.
    #[tokio::test]
    async fn a_log_of_the_first_format_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let log = dir.path().join(format!("jobs/{id}/log"));
        let first = [
            r#"{"entry":"created","name":"j","text":"t","tables":[],"at":0}"#,
            r#"{"entry":"takeover","owner":"me","at":0}"#,
        ];
        for (number, text) in first.into_iter().enumerate() {
            std::fs::write(log.join(format!("{number:010}.json")), text).unwrap();
        }
        let mut history = store.history(id).await.unwrap();
        assert_eq!((history.next, &history.last_entry), (2, &None));
        for number in 2..=4 {
            let entry = committed(number, number);
            assert!(store.append_next(id, &mut history, &entry).await.unwrap());
            assert!(history.last_entry.is_some());
        }
        assert_eq!(store.history(id).await.unwrap(), history);
    }

    #[tokio::test]
    async fn dead_letters_are_kept_beside_the_version() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let letter = DeadLetter {
            table: "t".into(),
            topic: "t".into(),
            partition: 0,
            offset: 4,
            timestamp: None,
            key: None,
            value: Some(vec![0, 255]),
            reason: "bad".into(),
        };
        let letters = vec![letter];
        let name = JobStore::version_name(1);
        let crc32 = store.put_dead_letters(id, &name, &letters).await.unwrap();
        let mut version = BatchVersion {
            dead_letters: 1,
            dead_letters_crc32: Some(crc32),
            ..BatchVersion::default()
        };
        let read = store.dead_letters(id, &name, &version).await.unwrap();
        assert_eq!(read, letters);
        version.dead_letters = 2;
        let error = store.dead_letters(id, &name, &version).await.unwrap_err();
        assert!(error.message().contains("1 rows of 2"), "{error}");
        store.discard(id, &name).await.unwrap();
        assert_eq!(files(dir.path(), id, "dead"), [] as [&str; 0]);
        let error = store.dead_letters(id, &name, &version).await.unwrap_err();
        assert!(error.message().contains("dead/"), "{error}");
    }

    /// A DROP JOB that dies at any step is brought to its end: by another one of the same name while there is the name, and by any
    /// other one after that.
    #[tokio::test]
    async fn what_a_drop_that_died_has_left_is_swept_by_the_next_one() {
        for steps in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path());
            let id = store.create(&created("j"), "j").await.unwrap().unwrap();
            let dropped = Entry::Dropped { at: 0 };
            store.append(id, 1, &dropped).await.unwrap();
            if steps > 0 {
                let mark = dropped_path(id);
                assert!(store.dir.create(&mark, Vec::new()).await.unwrap());
            }
            if steps > 1 {
                store.dir.delete(&named("j")).await.unwrap();
            }
            store.forget("j", id).await.unwrap();
            store.sweep_dropped().await.unwrap();
            assert_eq!(store.names().await.unwrap(), [] as [&str; 0]);
            assert_eq!(files(dir.path(), id, "log"), [] as [&str; 0], "{steps}");
            assert_eq!(files(dir.path(), id, "checkpoint"), ["9999999999.json"]);
            assert_eq!(store.dir.list(DROPPED).await.unwrap(), [] as [&str; 0]);
        }
    }

    #[tokio::test]
    async fn versions_are_staged_and_torn_ones_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let version = BatchVersion {
            batch: 1,
            sequence: 1,
            rows_in: 3,
            rows_out: 3,
            ..BatchVersion::default()
        };
        let name = JobStore::version_name(1);
        store.stage(id, &name, &version).await.unwrap();
        assert_eq!(store.version(id, &name).await.unwrap(), version);
        std::fs::write(
            dir.path().join(format!("jobs/{id}/versions/torn.json")),
            "{\"format\":",
        )
        .unwrap();
        store.append(id, 1, &takeover("me")).await.unwrap();
        let history = store.history(id).await.unwrap();
        // Versions that a later owner of the job has staged must not be discarded by this one.
        let later = JobStore::version_name(history.next);
        store.stage(id, &later, &version).await.unwrap();
        let staged = store.staged(id, &history).await.unwrap();
        assert_eq!(staged.len(), 1);
        assert_eq!(staged[0].name, name);
        let error = store.version(id, "torn").await.unwrap_err();
        assert!(error.message().contains("torn.json"), "{error}");
        store.discard(id, &name).await.unwrap();
        assert_eq!(store.staged(id, &history).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_gap_in_a_log_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        store.append(id, 2, &takeover("late")).await.unwrap();
        let error = store.history(id).await.unwrap_err();
        assert!(error.message().contains("0000000001.json"), "{error}");
    }
}
