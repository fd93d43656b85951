//! A table read as a stream of the files that are added to it: the files after a place, and the choice of those that a
//! batch reads.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use deltalake::kernel::Action;
use deltalake::logstore::object_store::ObjectStoreExt as _;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::{extract_version_from_filename, get_actions};
use deltalake::{DeltaTable, ObjectStoreError};
use futures::{StreamExt as _, TryStreamExt as _};

use super::added_file::AddedFile;
use super::handle::DeltaTableHandle;
use super::spec::DeltaStream;
use crate::core::jobs::{FilePosition, RecordMark, ReportedChange, SourceProgress, choose_files};
use crate::error::{Error, ErrorKind, Result, Subject};

/// The most commits that one call reads; the next call continues from there.
const COMMITS: u64 = 1_000;

/// A table as the source of a job.
#[derive(Debug)]
pub struct DeltaJobSource {
    handle: DeltaTableHandle,
    stream: DeltaStream,
    /// Commits that are not read yet, by version.
    commits: Mutex<BTreeMap<u64, Arc<CommitFiles>>>,
    /// The files that the table had at the version that the job began with.
    all: Mutex<Option<(u64, Arc<Vec<AddedFile>>)>>,
}

/// The changes of one commit to the table's rows.
#[derive(Debug, Default)]
struct CommitFiles {
    /// Files with rows that are new.
    added: Vec<AddedFile>,
    /// Files that the table no longer has, for any reason.
    removed: Vec<String>,
    /// Rows were deleted or rewritten.
    has_changes: bool,
    /// The operation that made it, for people.
    operation: String,
    /// The checksum of its text.
    checksum: u64,
}

/// A job's request for the files of its next batch.
#[derive(Debug, Clone, Copy)]
pub struct StreamPoll<'a> {
    /// The table's name in SQL.
    pub table: &'a str,
    /// The offset where the job stands; none if it has not read the table.
    pub position: Option<i64>,
    /// About how many rows it reads next.
    pub max_rows: u64,
    /// Up to this offset the job may skip lost files.
    pub skip_to: Option<i64>,
}

impl StreamPoll<'_> {
    /// Whether the job may go on at `to`, behind lost files.
    fn skips(&self, to: FilePosition) -> bool {
        self.skip_to.is_some_and(|most| to.offset() <= most)
    }

    /// LOSS-1: lost files stop the job, which could go on at `to`.
    fn lost(&self, to: FilePosition, message: String, help: &str) -> Error {
        let start = self.position.unwrap_or_default();
        let gap = SourceProgress {
            start,
            end: to.offset(),
        };
        let mut report = ReportedChange::default();
        report.lost.insert(self.table.to_owned(), [(0, gap)].into());
        Error::data(message).with_help(help).with_report(report)
    }
}

/// A file that a batch reads.
#[derive(Debug, Clone)]
pub(super) struct StreamFile {
    pub(super) place: FilePosition,
    pub(super) file: AddedFile,
}

/// Files that a batch reads in one state of the table.
#[derive(Debug, Clone)]
pub(super) struct FileGroup {
    pub(super) table: DeltaTable,
    pub(super) files: Vec<StreamFile>,
}

/// The files that a batch reads.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The position of the job, behind the files that it skipped as lost.
    pub start: i64,
    /// Where the next batch begins.
    pub end: i64,
    /// Where the table ends now.
    pub high: i64,
    /// Rows that are known to be there and to come, as far as files say how many they have.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// The mark of the last version before `end`, by which that version is recognized later.
    pub mark: Option<RecordMark>,
    pub(super) groups: Vec<FileGroup>,
    /// The newest state of the table: its columns are those of the rows.
    pub(super) newest: DeltaTable,
}

impl FileRange {
    /// Whether there are files to read.
    pub fn has_files(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The same without its files: the job stays where it is.
    #[must_use]
    pub fn waiting(self) -> Self {
        Self {
            end: self.start,
            bytes: 0,
            groups: Vec::new(),
            ..self
        }
    }
}

impl DeltaJobSource {
    /// The source that `handle` is.
    pub fn new(handle: DeltaTableHandle, stream: DeltaStream) -> Self {
        Self {
            handle,
            stream,
            commits: Mutex::default(),
            all: Mutex::default(),
        }
    }

    /// The table.
    pub fn handle(&self) -> &DeltaTableHandle {
        &self.handle
    }

    /// How it is read.
    pub fn stream(&self) -> DeltaStream {
        self.stream
    }

    /// The files that a job reads next; a job that has never read the table begins as the table's declaration says.
    ///
    /// # Errors
    ///
    /// LOSS-1: a commit or a file that is no longer there, unless the job may skip it and go on behind it. A version that
    /// deletes or rewrites rows. A log that cannot be read.
    pub async fn next(&self, look: StreamPoll<'_>) -> Result<FileRange> {
        let max_rows = look.max_rows;
        let newest = self.handle.refresh().await?;
        let version = newest
            .version()
            .ok_or_else(|| Error::internal("a loaded table has no version"))?;
        let high = FilePosition::start_of(version + 1);
        let start = match look.position {
            // The table was restored to an earlier state; files that were added since are read.
            Some(offset) if look.skip_to.is_some_and(|to| to < offset) => {
                FilePosition::of_offset(look.skip_to.unwrap_or(offset))
            }
            Some(offset) => FilePosition::of_offset(offset),
            None if self.stream.starts_at_end => high,
            None => FilePosition::start_of_all(version),
        };
        if start.version > version + 1 {
            let message = format!(
                "Delta table '{}' ends with version {version}, before version {} where the job stands: it was restored to an \
                 earlier state",
                self.handle.location(),
                start.version
            );
            return Err(look.lost(
                high,
                message,
                "RESUME JOB … SKIPPING LOST continues with what is added from now on; REWIND JOB … TO BATCH n goes back to a batch \
                 that read no more than the table has; or restore the newer table and RESUME JOB",
            )
.about(Subject::location(self.handle.location())));
        }
        let (start, known, end) = self.known(&newest, start, version, look).await?;
        // Up to this version the files that later versions took out are known.
        let until = version.min(end.version.saturating_sub(1));
        let rows = || known.iter().map(|file| file.file.rows);
        let count = choose_files(rows(), max_rows);
        let total = rows().flatten().sum();
        let end = known.get(count).map_or(end, |next| next.place);
        let mut files = known;
        files.truncate(count);
        // A file that was taken away and added again is another one, with the same name: it waits for the next batch.
        let mut paths = HashSet::new();
        let again = files.iter().position(|file| !paths.insert(&file.file.path));
        let end = again.map_or(end, |again| files[again].place);
        files.truncate(again.unwrap_or(files.len()));
        let (start, files, end) = self.present(&newest, start, files, end, look).await?;
        let written = files.iter().map(|file| file.file.modified_at).max();
        let mark = self.mark_before(&newest, end).await?;
        Ok(FileRange {
            start: start.offset(),
            end: end.offset(),
            high: high.offset(),
            rows: total,
            bytes: files.iter().map(|file| file.file.bytes).sum(),
            mark: mark.map(|mark| RecordMark {
                timestamp: written,
                ..mark
            }),
            groups: self.groups(&newest, until, files).await?,
            newest,
        })
    }

    /// Gives the place to start from, the files from there on in order, and the place behind them. The first place is
    /// later than `start` if lost files are skipped.
    async fn known(
        &self,
        table: &DeltaTable,
        start: FilePosition,
        newest: u64,
        look: StreamPoll<'_>,
    ) -> Result<(FilePosition, Vec<StreamFile>, FilePosition)> {
        self.commits()
            .retain(|version, _| *version >= start.version);
        let mut start = start;
        let mut files = Vec::new();
        let mut version = start.version;
        if start.of_all {
            match self.all_files(table, version).await {
                Ok(all) => files = placed(FilePosition::start_of_all(version), &all, start.file),
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(_) if look.skips(FilePosition::start_of(version + 1)) => {
                    start = FilePosition::start_of(version + 1);
                }
                Err(error) => {
                    return Err(look.lost(
                        FilePosition::start_of(version + 1),
                        error.message().to_owned(),
                        "the job has not read all that the table had when it began: RESUME JOB … SKIPPING LOST continues with what was \
                         added later",
                    )
.about(Subject::location(self.handle.location())));
                }
            }
            version += 1;
        }
        let last = newest.min(version.saturating_add(COMMITS));
        while version <= last {
            let Some(commit) = self.commit(table, version).await? else {
                if !files.is_empty() {
                    break;
                }
                let oldest = self.oldest_commit(table, version).await?.min(newest + 1);
                if !look.skips(FilePosition::start_of(oldest)) {
                    let message = format!(
                        "Delta table '{}': its log no longer has versions {version} to {}",
                        self.handle.location(),
                        oldest - 1
                    );
                    return Err(look.lost(
                        FilePosition::start_of(oldest),
                        message,
                        "RESUME JOB … SKIPPING LOST continues with the first available version and records the gap; \
                         'delta.logRetentionDuration' says how long a log is kept",
                    )
.about(Subject::location(self.handle.location())));
                }
                version = oldest;
                start = FilePosition::start_of(oldest);
                continue;
            };
            if commit.has_changes && !self.stream.skips_changes {
                // The files before this version are read first.
                if !files.is_empty() {
                    break;
                }
                return Err(Error::data(format!(
                    "Delta table '{}': version {version} ({}) deletes or rewrites rows, and a stream is only appended to",
                    self.handle.location(),
                    commit.operation
                ))
                .about(Subject::location(self.handle.location()))
                .with_help(
                    "a table declared with 'scan.on_change' 'skip' leaves such versions out: what they add is not read, and what \
                     was read of what they delete stays",
                ));
            }
            if !commit.has_changes {
                let first = FilePosition::start_of(version);
                let done = if start.version == version {
                    start.file
                } else {
                    0
                };
                files.extend(placed(first, &commit.added, done));
            }
            version += 1;
        }
        Ok((start, files, FilePosition::start_of(version)))
    }

    /// The files of a batch up to the first that was deleted from the store (VACUUM); it cannot begin with one, unless the lost
    /// ones are skipped.
    async fn present(
        &self,
        table: &DeltaTable,
        start: FilePosition,
        mut files: Vec<StreamFile>,
        end: FilePosition,
        look: StreamPoll<'_>,
    ) -> Result<(FilePosition, Vec<StreamFile>, FilePosition)> {
        let store = table.log_store().object_store(None);
        let looks: Vec<_> = files
            .iter()
            .map(|file| {
                let store = Arc::clone(&store);
                // As the library finds files: a path may be written in either way.
                let path = &file.file.path;
                let path = Path::parse(path).unwrap_or_else(|_| Path::from(path.as_str()));
                async move {
                    match store.head(&path).await {
                        Ok(_) => Ok(true),
                        Err(ObjectStoreError::NotFound { .. }) => Ok(false),
                        Err(error) => Err(self.handle.fail(error.into())),
                    }
                }
            })
            .collect();
        let is_there: Vec<bool> = futures::stream::iter(looks)
            .buffered(16)
            .try_collect()
            .await?;
        let lost = is_there.iter().take_while(|there| !**there).count();
        let behind = files.get(lost).map_or(end, |next| next.place);
        if lost > 0 && !look.skips(behind) {
            let file = files.first().map_or("", |file| file.file.path.as_str());
            let message = format!(
                "Delta table '{}': {lost} files that are to be read next are gone, the first is {file}",
                self.handle.location()
            );
            return Err(look.lost(
                behind,
                message,
                "VACUUM was faster than the job: RESUME JOB … SKIPPING LOST continues after them and records the gap",
            )
.about(Subject::location(self.handle.location())));
        }
        let there = is_there[lost..].iter().take_while(|there| **there).count();
        let start = match files.get(lost) {
            Some(first) if lost > 0 => first.place,
            None if lost > 0 => end,
            _ => start,
        };
        let end = files.get(lost + there).map_or(end, |next| next.place);
        let files = files.drain(lost..lost + there).collect();
        Ok((start, files, end))
    }

    /// The files of a batch, by the version of the table in which they are read: `version` if it has them as they were
    /// added, else the version that added them.
    async fn groups(
        &self,
        newest: &DeltaTable,
        version: u64,
        files: Vec<StreamFile>,
    ) -> Result<Vec<FileGroup>> {
        let mut of_states: BTreeMap<u64, Vec<StreamFile>> = BTreeMap::new();
        for file in files {
            let read_at = self.read_at(&file, version);
            of_states.entry(read_at).or_default().push(file);
        }
        let mut groups = Vec::with_capacity(of_states.len());
        for (read_at, files) in of_states {
            let table = self.handle.at_version(newest.clone(), read_at).await?;
            groups.push(FileGroup { table, files });
        }
        Ok(groups)
    }

    /// The version at which a file is read: rows that were deleted from it later are read.
    fn read_at(&self, file: &StreamFile, until: u64) -> u64 {
        let commits = self.commits();
        let mut later = file.place.version + 1..=until;
        let stays = later.all(|version| {
            let commit = commits.get(&version);
            commit.is_some_and(|commit| !commit.removed.contains(&file.file.path))
        });
        if stays { until } else { file.place.version }
    }

    async fn commit(&self, table: &DeltaTable, version: u64) -> Result<Option<Arc<CommitFiles>>> {
        if let Some(commit) = self.commits().get(&version) {
            return Ok(Some(Arc::clone(commit)));
        }
        let bytes = table
            .log_store()
            .read_commit_entry(version)
            .await
            .map_err(|error| self.handle.fail(error))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let actions = get_actions(version, &bytes).map_err(|error| self.handle.fail(error))?;
        let commit = Arc::new(CommitFiles {
            checksum: RecordMark::checksum_of(None, Some(&bytes)),
            ..CommitFiles::of(actions)
        });
        self.commits().insert(version, Arc::clone(&commit));
        Ok(Some(commit))
    }

    /// The mark of the last version before a place; none if its entry of the log is gone.
    async fn mark_before(
        &self,
        table: &DeltaTable,
        place: FilePosition,
    ) -> Result<Option<RecordMark>> {
        // A version that is read in several batches gives the mark itself.
        let read = match place.of_all || place.file > 0 {
            true => Some(place.version),
            false => place.version.checked_sub(1),
        };
        let Some(version) = read else {
            return Ok(None);
        };
        let known = self.commits().get(&version).map(|commit| commit.checksum);
        let checksum = match known {
            Some(checksum) => Some(checksum),
            None => self.checksum(table, version).await?,
        };
        Ok(checksum.map(|checksum| RecordMark {
            offset: FilePosition::start_of(version).offset(),
            timestamp: None,
            checksum,
        }))
    }

    async fn checksum(&self, table: &DeltaTable, version: u64) -> Result<Option<u64>> {
        let entry = table.log_store().read_commit_entry(version).await;
        let entry = entry.map_err(|error| self.handle.fail(error))?;
        Ok(entry.map(|bytes| RecordMark::checksum_of(None, Some(&bytes))))
    }

    /// Whether the version that was read last is another one now: the table was restored and written to. A version that the log
    /// no longer has tells nothing.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn is_other(&self, mark: RecordMark) -> Result<bool> {
        let table = self.handle.known().await;
        let version = FilePosition::of_offset(mark.offset).version;
        let checksum = self.checksum(&table, version).await?;
        Ok(checksum.is_some_and(|checksum| checksum != mark.checksum))
    }

    fn commits(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<CommitFiles>>> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All files of a version, in an order that is always the same.
    async fn all_files(&self, newest: &DeltaTable, version: u64) -> Result<Arc<Vec<AddedFile>>> {
        {
            let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((known, files)) = &*all
                && *known == version
            {
                return Ok(Arc::clone(files));
            }
        }
        let table = self.handle.at_version(newest.clone(), version).await?;
        let mut files = self.handle.added_files(&table).await?;
        files.sort_by(|a, b| (a.modified_at, &a.path).cmp(&(b.modified_at, &b.path)));
        let files = Arc::new(files);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        *all = Some((version, Arc::clone(&files)));
        Ok(files)
    }

    /// The first version from `version` on that the log has.
    async fn oldest_commit(&self, table: &DeltaTable, version: u64) -> Result<u64> {
        let log_store = table.log_store();
        let store = log_store.object_store(None);
        let versions: Vec<u64> = store
            .list(Some(log_store.log_path()))
            .try_filter_map(|file| {
                let name = file.location.as_ref();
                let found = name
                    .ends_with(".json")
                    .then(|| extract_version_from_filename(name))
                    .flatten();
                futures::future::ready(Ok(found.filter(|found| *found >= version)))
            })
            .try_collect()
            .await
            .map_err(|error| self.handle.fail(error.into()))?;
        Ok(versions.into_iter().min().unwrap_or(u64::MAX))
    }
}

fn placed(first: FilePosition, files: &[AddedFile], done: u64) -> Vec<StreamFile> {
    (0_u64..)
        .zip(files)
        .filter(|(number, _)| *number >= done)
        .map(|(number, file)| StreamFile {
            place: first.after(number),
            file: file.clone(),
        })
        .collect()
}

impl CommitFiles {
    fn of(actions: Vec<Action>) -> Self {
        let mut commit = Self::default();
        for action in actions {
            match action {
                Action::Add(add) if add.data_change => commit.added.push(AddedFile::of(add)),
                Action::Remove(remove) => {
                    commit.has_changes |= remove.data_change;
                    commit.removed.push(remove.path);
                }
                Action::CommitInfo(info) => commit.operation = info.operation.unwrap_or_default(),
                _ => {}
            }
        }
        commit
    }
}
