//! Catalog of a server: the statements that created it, in order (`catalog/<n>.json`), and snapshots of those before `n` that
//! are still in force (`catalog/snapshot/<n>.json`).
//!
//! The list is shortened like the log of a job: entries are deleted after a snapshot has passed them. The snapshot before the
//! last one stays, so that a reader of it still finds the entries after it. A writer that stalled meanwhile may find its number
//! free again. So it looks for snapshots after its write, and must try again if one has passed its number. A write is sent once: one
//! that is repeated after its entry was passed would be taken for such a write, and the statement would be there twice.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::checksum::{seal, unseal};
use crate::store::data_dir::{DataDir, SentOnce};

/// The format that this program writes and the newest it reads.
const FORMAT: u32 = 1;
/// Entries that are read at the same time.
const READS_AT_ONCE: usize = 16;
/// How often a read or write is retried when other processes interfere.
const ATTEMPTS: usize = 20;
/// How often an entry is sent at most while the answers say nothing.
const SENDS: u32 = 4;

/// A statement that was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    format: u32,
    /// The text as typed, with `${NAME}` unexpanded.
    pub statement: String,
    /// The values of its `$name` parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// When, in milliseconds since 1970 UTC.
    pub at: i64,
    /// The user who ran it may name only some tables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restricted: bool,
}

impl CatalogEntry {
    /// A statement that was run at `at`.
    pub fn new(statement: String, parameters: BTreeMap<String, String>, at: i64) -> Self {
        Self {
            format: FORMAT,
            statement,
            parameters,
            at,
            is_restricted: false,
        }
    }

    /// Sets whether the user who ran it may name only some tables.
    #[must_use]
    pub fn restricted(self, is_restricted: bool) -> Self {
        Self {
            is_restricted,
            ..self
        }
    }
}

/// The entries before a number that are still in force.
#[derive(Debug, Serialize, Deserialize)]
struct CatalogSnapshot {
    format: u32,
    in_force: Vec<CatalogEntry>,
}

/// The statements of the catalog, without those that a snapshot has dropped because later statements undid them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogList {
    /// In order.
    pub entries: Vec<CatalogEntry>,
    /// The number of the entry to be written next.
    pub next: u64,
    /// How many of the entries came after the last snapshot.
    pub since_snapshot: u64,
}

/// The catalog in a data directory.
#[derive(Debug, Clone)]
pub struct CatalogStore {
    dir: DataDir,
}

impl CatalogStore {
    /// The catalog of `dir`.
    pub fn new(dir: DataDir) -> Self {
        Self { dir }
    }

    /// A new folder below the data directory for the rows of a table that names no location.
    #[expect(
        clippy::disallowed_methods,
        reason = "two tables of one name, one after the other, have folders of their own"
    )]
    pub fn place_of_table(&self, table: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name: String = table.chars().filter(|c| is_plain(*c)).take(64).collect();
        let id = uuid::Uuid::new_v4().simple();
        self.dir.place(&format!("tables/{name}-{id}"))
    }

    /// All entries that may still be in force, in order.
    ///
    /// # Errors
    ///
    /// The store does not answer, or has an entry that is missing, damaged, or written by a newer program.
    pub async fn all(&self) -> Result<CatalogList> {
        for _ in 0..ATTEMPTS {
            let files = self.files().await?;
            let read = self.read_from(&files).await;
            // Another process may have deleted the files meanwhile.
            if self.files().await?.snapshot() == files.snapshot() {
                return read;
            }
        }
        Err(Error::unavailable(
            "other processes keep writing to the catalog",
        ))
    }

    async fn read_from(&self, files: &CatalogFiles) -> Result<CatalogList> {
        let snapshot = files.snapshot();
        let mut entries = Vec::new();
        if let Some(number) = snapshot {
            let path = snapshot_path(number);
            let read: CatalogSnapshot = self.parsed(&path).await?;
            self.check_format(&path, read.format)?;
            for entry in &read.in_force {
                self.check_format(&path, entry.format)?;
            }
            entries = read.in_force;
        }
        let first = snapshot.unwrap_or(0);
        let numbers: Vec<u64> = files.entries_from(first).collect();
        for (expected, number) in (first..).zip(&numbers) {
            if *number != expected {
                return Err(self.corrupt(&entry_path(expected), "it is missing"));
            }
        }
        let since_snapshot = numbers.len() as u64;
        let read = |number: u64| async move {
            let path = entry_path(number);
            let entry: CatalogEntry = self.parsed(&path).await?;
            self.check_format(&path, entry.format)?;
            Ok::<_, Error>(entry)
        };
        let newer: Vec<CatalogEntry> = futures::stream::iter(numbers)
            .map(read)
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        entries.extend(newer);
        Ok(CatalogList {
            entries,
            next: first + since_snapshot,
            since_snapshot,
        })
    }

    /// Appends an entry; returns its number.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    pub async fn append(&self, entry: &CatalogEntry) -> Result<u64> {
        let bytes = seal(entry)?;
        let mut failures = 0;
        for _ in 0..ATTEMPTS {
            let next = self.files().await?.next();
            let path = entry_path(next);
            let sent = self.dir.create_once(&path, bytes.clone()).await?;
            let is_there = match &sent {
                SentOnce::Written => true,
                _ => self.dir.read(&path).await? == Some(bytes.clone().into()),
            };
            let is_passed = self.files().await?.snapshot().unwrap_or(0) > next;
            if is_there && !is_passed {
                return Ok(next);
            }
            if let SentOnce::Unclear(error) = sent {
                failures += 1;
                // The snapshot may have the statement.
                if is_passed || failures == SENDS {
                    return Err(error);
                }
                self.dir.pause(failures).await;
            }
        }
        Err(Error::unavailable(
            "other processes keep writing to the catalog",
        ))
    }

    /// Writes a snapshot of the entries before `next` that are still in force, and deletes the entries that the snapshot before
    /// has passed. It may stop at any step without harm.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn compact(&self, next: u64, in_force: Vec<CatalogEntry>) -> Result<()> {
        let snapshot = CatalogSnapshot {
            format: FORMAT,
            in_force,
        };
        // The same entries give the same snapshot: an existing one is as good.
        self.dir
            .create(&snapshot_path(next), seal(&snapshot)?)
            .await?;
        let files = self.files().await?;
        let [older @ .., before, _newest] = files.snapshots.as_slice() else {
            return Ok(());
        };
        for number in files.entries.iter().filter(|number| *number < before) {
            self.dir.delete(&entry_path(*number)).await?;
        }
        for number in older {
            self.dir.delete(&snapshot_path(*number)).await?;
        }
        Ok(())
    }

    async fn files(&self) -> Result<CatalogFiles> {
        let mut files = CatalogFiles::default();
        for name in self.dir.list("catalog").await? {
            let number = |name: &str| name.strip_suffix(".json")?.parse::<u64>().ok();
            if let Some(name) = name.strip_prefix("snapshot/") {
                files.snapshots.extend(number(name));
            } else {
                files.entries.extend(number(&name));
            }
        }
        Ok(files)
    }

    async fn parsed<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let bytes = self.dir.read(path).await?;
        let bytes = bytes.ok_or_else(|| self.corrupt(path, "it is missing"))?;
        unseal(&bytes).map_err(|reason| self.corrupt(path, &reason))
    }

    fn check_format(&self, path: &str, format: u32) -> Result<()> {
        match format > FORMAT {
            true => Err(self.corrupt(path, "it was written by a newer program")),
            false => Ok(()),
        }
    }

    fn corrupt(&self, path: &str, reason: &str) -> Error {
        let shown = self.dir.shown();
        Error::data(format!(
            "{path} in the data directory '{shown}' cannot be read: {reason}"
        ))
        .with_help("restore the file from a backup of the data directory")
    }
}

/// The numbers of the entries and snapshots in the folder, ascending.
#[derive(Debug, Default)]
struct CatalogFiles {
    entries: Vec<u64>,
    snapshots: Vec<u64>,
}

impl CatalogFiles {
    fn snapshot(&self) -> Option<u64> {
        self.snapshots.last().copied()
    }

    fn entries_from(&self, first: u64) -> impl Iterator<Item = u64> {
        let entries = self.entries.iter().copied();
        entries.filter(move |number| *number >= first)
    }

    /// The number that follows all entries.
    fn next(&self) -> u64 {
        let last = self.entries.last().map_or(0, |last| last + 1);
        last.max(self.snapshot().unwrap_or(0))
    }
}

fn entry_path(number: u64) -> String {
    format!("catalog/{number:010}.json")
}

fn snapshot_path(number: u64) -> String {
    format!("catalog/snapshot/{number:010}.json")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;

    use super::*;
    use crate::store::simulated::{CallFate, DelayedWrite, Faults, RecordedReads, SimulatedDisk};

    fn entry(text: &str) -> CatalogEntry {
        CatalogEntry::new(text.to_owned(), BTreeMap::new(), 7)
    }

    fn texts(list: &CatalogList) -> Vec<&str> {
        let entries = list.entries.iter();
        entries.map(|entry| entry.statement.as_str()).collect()
    }

    fn store() -> (tempfile::TempDir, CatalogStore) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().display().to_string();
        (dir, CatalogStore::new(DataDir::open(&place).unwrap()))
    }

    #[tokio::test]
    async fn a_compacted_catalog_lists_current_definitions() {
        let (dir, store) = store();
        for number in 0..30 {
            assert_eq!(
                store.append(&entry(&number.to_string())).await.unwrap(),
                number
            );
        }
        for (kept, next) in [(3, 30), (2, 31), (1, 32)] {
            let list = store.all().await.unwrap();
            assert_eq!(list.next, next);
            let in_force = list.entries[list.entries.len() - kept..].to_vec();
            store.compact(list.next, in_force.clone()).await.unwrap();
            let list = store.all().await.unwrap();
            assert_eq!((&list.entries, list.since_snapshot), (&in_force, 0));
            assert_eq!(store.append(&entry("more")).await.unwrap(), next);
        }
        let list = store.all().await.unwrap();
        assert_eq!(texts(&list), ["more", "more"]);
        let files = |folder: &str| std::fs::read_dir(dir.path().join(folder)).unwrap().count();
        assert_eq!(files("catalog/snapshot"), 2);
        assert_eq!(files("catalog"), 1 + 2, "entries 31 and 32, and the folder");
        // A writer that stalled finds its number free, but its entry does not count.
        let path = entry_path(5);
        assert!(
            store
                .dir
                .create(&path, seal(&entry("late")).unwrap())
                .await
                .unwrap()
        );
        assert_eq!(store.all().await.unwrap(), list);
        assert_eq!(store.append(&entry("last")).await.unwrap(), 33);
    }

    /// Loses the answers to the first writes of entries.
    #[derive(Debug)]
    struct Deaf(std::sync::atomic::AtomicU32);

    impl Faults for Deaf {
        fn step(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }

        fn fate(&self, _: &str, writes: bool) -> CallFate {
            use std::sync::atomic::Ordering::SeqCst;
            let count = |left: u32| left.checked_sub(1);
            match writes && self.0.fetch_update(SeqCst, SeqCst, count).is_ok() {
                true => CallFate::Repeated,
                false => CallFate::Done,
            }
        }

        fn later(&self, _: DelayedWrite) {
            panic!("a client repeats the write of an entry");
        }
    }

    #[tokio::test]
    async fn a_statement_whose_answer_was_lost_is_there_once() {
        let dir = SimulatedDisk::default().seen_with(Arc::new(Deaf(2.into())));
        let store = CatalogStore::new(dir);
        for number in 0..4 {
            let text = number.to_string();
            assert_eq!(store.append(&entry(&text)).await.unwrap(), number);
        }
        assert_eq!(texts(&store.all().await.unwrap()), ["0", "1", "2", "3"]);
    }

    /// Entries that others have undone are read once, by the process that shortens the list.
    #[tokio::test]
    async fn undone_definitions_are_not_read_again() {
        let reads = Arc::new(RecordedReads::default());
        let dir = SimulatedDisk::default().seen_with(Arc::clone(&reads) as Arc<dyn Faults>);
        let store = CatalogStore::new(dir);
        for number in 0..200 {
            store.append(&entry(&number.to_string())).await.unwrap();
        }
        // An entry is added without reading the others.
        assert_eq!(reads.take(), Vec::<String>::new());
        let list = store.all().await.unwrap();
        assert_eq!(reads.take().len(), 200);
        let in_force = list.entries[198..].to_vec();
        store.compact(list.next, in_force).await.unwrap();
        store.append(&entry("more")).await.unwrap();
        reads.take();
        assert_eq!(texts(&store.all().await.unwrap()), ["198", "199", "more"]);
        assert_eq!(reads.take(), [snapshot_path(200), entry_path(200)]);
    }

    #[tokio::test]
    async fn a_catalog_of_an_earlier_release_is_read_and_a_gap_reported() {
        let (dir, store) = store();
        let folder = dir.path().join("catalog");
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..3 {
            let text = format!("{{\"format\":1,\"statement\":\"{number}\",\"at\":1}}");
            std::fs::write(folder.join(format!("{number:010}.json")), text).unwrap();
        }
        assert_eq!(texts(&store.all().await.unwrap()), ["0", "1", "2"]);
        assert_eq!(store.append(&entry("3")).await.unwrap(), 3);
        std::fs::remove_file(folder.join("0000000001.json")).unwrap();
        let error = store.all().await.unwrap_err();
        assert!(
            error.message().contains("catalog/0000000001.json"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_damaged_entry_or_snapshot_is_reported() {
        let (dir, store) = store();
        for text in ["a", "b"] {
            store.append(&entry(text)).await.unwrap();
        }
        store.compact(1, vec![entry("a")]).await.unwrap();
        for file in [
            "catalog/0000000001.json",
            "catalog/snapshot/0000000001.json",
        ] {
            let path = dir.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            for byte in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[byte] ^= 4;
                std::fs::write(&path, damaged).unwrap();
                let error = store.all().await.unwrap_err();
                assert!(error.message().contains(file), "{error}");
            }
            std::fs::write(&path, whole).unwrap();
        }
        assert_eq!(store.all().await.unwrap().entries.len(), 2);
    }
}
