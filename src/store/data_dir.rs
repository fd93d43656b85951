//! Data directory: a folder or object store with atomic creation of durable objects.

#![expect(
    clippy::disallowed_methods,
    reason = "files have names that no other process gives, writing them to disk blocks, and an object store that fails gets a pause"
)]

use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read, Seek, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use tokio::sync::OnceCell;

use super::s3::{Bucket, is_s3};
use crate::error::{Error, ErrorKind, Result};
use crate::store::unfinished_files::{ABANDONED, unfinished_files};

/// The folder or object store that keeps logs, versions, state, late rows and runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DataDir {
    store: Arc<dyn ObjectStore>,
    /// The same store by a client that sends each request once; `store` may repeat one whose answer was lost.
    once: Arc<dyn ObjectStore>,
    /// Where its objects are in the store.
    root: Path,
    /// The folder of the store, if it is one: files that are written there are synced to disk, and new folders up to this one.
    folder: Option<PathBuf>,
    /// Folders that are known to be on disk themselves.
    synced: Arc<Mutex<HashSet<PathBuf>>>,
    /// Set when a probe has shown that the store refuses to create an object that exists.
    refuses: Arc<OnceCell<()>>,
    /// Whether requests go over a network: then a store that fails gets a pause before the next one.
    is_remote: bool,
    shown: String,
}

/// Answer to a conditional write that was sent once.
#[derive(Debug)]
pub(super) enum SentOnce {
    /// The object is written.
    Written,
    /// The store refuses it: an object of this name exists, or is being written.
    Refused,
    /// The store failed. The object may be written now or later, or never.
    Unclear(Error),
}

impl DataDir {
    /// Opens a folder, or the URL of an object store such as `s3://bucket/path`. Creates the folder if it does not exist.
    ///
    /// # Errors
    ///
    /// A place that cannot be used.
    pub fn open(place: &str) -> Result<Self> {
        let url = url::Url::parse(place)
            .ok()
            .filter(|url| place.contains("://") && url.scheme() != "file");
        if let Some(url) = url {
            if is_s3(&url) {
                let bucket = Bucket::open(&url, &HashMap::new())
                    .map_err(|error| error.context(format!("the data directory '{place}'")))?;
                return Ok(Self {
                    once: bucket.once,
                    is_remote: true,
                    ..Self::in_store(bucket.store, bucket.path, place)
                });
            }
            let environment = std::env::vars().map(|(key, value)| (key.to_lowercase(), value));
            let (store, root) = object_store::parse_url_opts(&url, environment)
                .map_err(|error| store_error(place, &error))?;
            return Ok(Self::in_store(Arc::from(store), root, place));
        }
        let path = PathBuf::from(place.strip_prefix("file://").unwrap_or(place));
        let made = std::fs::create_dir_all(&path).and_then(|()| path.canonicalize());
        let folder = made.map_err(|error| {
            Error::from(error).context(format!("the data directory '{place}' cannot be used"))
        })?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| store_error(place, &error))?;
        Ok(Self {
            folder: Some(folder),
            ..Self::in_store(Arc::new(store), Path::default(), place)
        })
    }

    /// A directory in the memory of this process.
    pub(super) fn in_memory() -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        Self {
            refuses: Arc::new(OnceCell::new_with(Some(()))),
            ..Self::in_store(store, Path::default(), "memory")
        }
    }

    /// The part of it that lies in this folder, as a directory of its own.
    pub(super) fn within(&self, name: &str) -> Self {
        Self {
            root: self.path(name),
            shown: self.place(name),
            ..self.clone()
        }
    }

    /// The path or URL of an object in it, for code that opens the object without this directory.
    pub(super) fn place(&self, name: &str) -> String {
        match &self.folder {
            Some(folder) => self.file(folder, name).display().to_string(),
            None => format!("{}/{name}", self.shown.trim_end_matches('/')),
        }
    }

    /// A directory in any store, without a check of its conditional writes. `once` is the same store by a client that repeats
    /// nothing.
    #[cfg(test)]
    pub(crate) fn of_store(store: Arc<dyn ObjectStore>, once: Arc<dyn ObjectStore>) -> Self {
        let shown = store.to_string();
        Self {
            once,
            refuses: Arc::new(OnceCell::new_with(Some(()))),
            ..Self::in_store(store, Path::default(), &shown)
        }
    }

    fn in_store(store: Arc<dyn ObjectStore>, root: Path, shown: &str) -> Self {
        Self {
            once: Arc::clone(&store),
            store,
            root,
            folder: None,
            synced: Arc::default(),
            refuses: Arc::default(),
            is_remote: false,
            shown: shown.to_owned(),
        }
    }

    /// Whether a place may hold data: a folder that does not exist holds none, and this check does not create it.
    pub fn exists(place: &str) -> bool {
        let path = place.strip_prefix("file://").unwrap_or(place);
        path.contains("://") || std::path::Path::new(path).is_dir()
    }

    /// The place as it was given.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Checks with a probe that the store honours conditional writes. Some stores accept them and ignore the condition: then
    /// two runners would both win the same log entry.
    async fn check_refuses(&self) -> Result<()> {
        let path = self.path(&format!("probe-{}", uuid::Uuid::new_v4()));
        let failed = |error: &StoreError| store_error(&self.shown, error);
        let put = |text: &'static str| {
            let options = PutOptions::from(PutMode::Create);
            self.store.put_opts(&path, text.into(), options)
        };
        put("once").await.map_err(|error| failed(&error))?;
        let again = put("twice").await;
        self.store
            .delete(&path)
            .await
            .map_err(|error| failed(&error))?;
        match again {
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
            Ok(_) => Err(Error::unsupported(format!(
                "the data directory '{}': its store overwrites existing objects although a write is conditional",
                self.shown
            ))
            .with_help("jobs need a store with conditional writes (If-None-Match), or a folder")),
        }
    }

    /// Writes an object that must not exist; false if it does. It is on disk when this returns.
    ///
    /// The client of an object store repeats the write if its answer was lost: an object that was deleted meanwhile is there
    /// again. [`Self::create_once`] does not.
    pub(super) async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        if let Some(folder) = &self.folder {
            return self.create_file(folder, name, bytes).await;
        }
        self.refuses
            .get_or_try_init(|| self.check_refuses())
            .await?;
        let options = PutOptions::from(PutMode::Create);
        let wanted = Bytes::from(bytes);
        let put = self
            .store
            .put_opts(&self.path(name), wanted.clone().into(), options)
            .await;
        match put {
            Ok(_) => Ok(true),
            // After a retry because the first answer was lost, the store refuses the object that this call has written itself.
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                Ok(self.read(name).await?.is_some_and(|found| found == wanted))
            }
            Err(error) => Err(store_error(&self.shown, &error)),
        }
    }

    /// Writes an object that must not exist, with one request, which is not repeated.
    ///
    /// # Errors
    ///
    /// The store does not allow it, or a folder fails: then the object may be there or not.
    pub(super) async fn create_once(&self, name: &str, bytes: Vec<u8>) -> Result<SentOnce> {
        if let Some(folder) = &self.folder {
            let created = self.create_file(folder, name, bytes).await?;
            return Ok(match created {
                true => SentOnce::Written,
                false => SentOnce::Refused,
            });
        }
        self.refuses
            .get_or_try_init(|| self.check_refuses())
            .await?;
        let options = PutOptions::from(PutMode::Create);
        let put = self
            .once
            .put_opts(&self.path(name), bytes.into(), options)
            .await;
        match put {
            Ok(_) => Ok(SentOnce::Written),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                Ok(SentOnce::Refused)
            }
            Err(error) => {
                let error = store_error(&self.shown, &error);
                match error.kind() {
                    ErrorKind::Unavailable => Ok(SentOnce::Unclear(error)),
                    _ => Err(error),
                }
            }
        }
    }

    /// Waits before a request is sent again after it has failed `failures` times. Only an object store gets a pause.
    pub(super) async fn pause(&self, failures: u32) {
        const FIRST: Duration = Duration::from_millis(100);
        if self.is_remote && failures > 0 {
            tokio::time::sleep(FIRST * 2_u32.pow(failures.min(8) - 1)).await;
        }
    }

    async fn create_file(
        &self,
        folder: &std::path::Path,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<bool> {
        let file = SyncedFile {
            root: folder.to_owned(),
            path: self.file(folder, name),
            synced: Arc::clone(&self.synced),
        };
        let create = move || file.create(&bytes);
        let created = tokio::task::spawn_blocking(create).await;
        let created = created.map_err(|error| Error::internal(error.to_string()))?;
        created.map_err(|error| {
            let place = format!("the data directory '{}'", self.shown);
            Error::from(error).context(place)
        })
    }

    /// Writes an object, replacing an existing one: for data that has no value after a crash.
    pub(super) async fn overwrite(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let put = self.store.put(&self.path(name), bytes.into()).await;
        put.map(drop)
            .map_err(|error| store_error(&self.shown, &error))
    }

    /// Deletes the unfinished files in these folders, which writers left when they died. Such files have a name of their own,
    /// with `#` and a number at the end, and appear in no listing. Young ones are kept, since their writers may still run.
    /// Blocks; an object store has no such files.
    pub fn sweep_unfinished(&self, folders: &[&str]) -> u64 {
        let Some(store) = &self.folder else {
            return 0;
        };
        let unfinished = folders
            .iter()
            .flat_map(|folder| unfinished_files(&self.file(store, folder), ABANDONED));
        let swept = unfinished.filter(|path| std::fs::remove_file(path).is_ok());
        swept.count() as u64
    }

    /// Reads an object; `None` if there is none.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let found = match self.store.get(&self.path(name)).await {
            Ok(found) => found.bytes().await,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        };
        found
            .map(Some)
            .map_err(|error| store_error(&self.shown, &error))
    }

    /// Opens an object for reading; `None` if there is none.
    pub(super) async fn open_object(&self, name: &str) -> Result<Option<OpenObject>> {
        let Some(folder) = &self.folder else {
            let bytes = self.read(name).await?;
            return Ok(bytes.map(|bytes| OpenObject::Bytes(Cursor::new(bytes))));
        };
        match std::fs::File::open(self.file(folder, name)) {
            Ok(file) => Ok(Some(OpenObject::File(file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(Error::from(error).context(format!("the data directory '{}'", self.shown)))
            }
        }
    }

    /// The names of all objects in a folder and below, sorted, relative to it.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.path(folder);
        let depth = path.parts().count();
        let found: std::result::Result<Vec<_>, StoreError> = self
            .store
            .list(Some(&path))
            .map_ok(|object| {
                let parts = object.location.parts().skip(depth);
                let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
                parts.join("/")
            })
            .try_collect()
            .await;
        let mut names = found.map_err(|error| store_error(&self.shown, &error))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes an object; one that does not exist is fine.
    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error(&self.shown, &error)),
        }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/')
            .fold(self.root.clone(), |path, part| path.join(part))
    }

    /// The file of an object, in the folder of the store.
    fn file(&self, folder: &std::path::Path, name: &str) -> PathBuf {
        let root: &str = self.root.as_ref();
        folder.join(root).join(name)
    }
}

/// An object that is being read.
#[derive(Debug)]
pub enum OpenObject {
    /// A file of a folder.
    File(std::fs::File),
    /// An object of a store, which has been read whole.
    Bytes(Cursor<Bytes>),
}

impl Read for OpenObject {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.read(into),
            Self::Bytes(bytes) => bytes.read(into),
        }
    }
}

impl Seek for OpenObject {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Bytes(bytes) => bytes.seek(to),
        }
    }
}

/// A file that exists in a folder either whole or not at all, even after a power failure.
struct SyncedFile {
    root: PathBuf,
    path: PathBuf,
    /// Folders that are known to be on disk themselves.
    synced: Arc<Mutex<HashSet<PathBuf>>>,
}

impl SyncedFile {
    /// Creates the file; false if it exists already. Blocks until it is on disk.
    fn create(&self, bytes: &[u8]) -> std::io::Result<bool> {
        let folder = self.path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder)?;
        // The file gets its own name when it is whole; names with this ending appear in no listing.
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
        let unfinished = PathBuf::from(unfinished);
        let written = std::fs::File::create_new(&unfinished)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        let linked = written.and_then(|()| std::fs::hard_link(&unfinished, &self.path));
        let removed = std::fs::remove_file(&unfinished);
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
            linked => linked.and(removed)?,
        }
        self.sync_folders()?;
        Ok(true)
    }

    /// Syncs the folder, which has a new entry; folders above it are synced only the first time.
    fn sync_folders(&self) -> std::io::Result<()> {
        let mut is_new = true;
        for dir in self.path.ancestors().skip(1) {
            if !is_new || !dir.starts_with(&self.root) {
                break;
            }
            std::fs::File::open(dir)?.sync_all()?;
            let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
            is_new = synced.insert(dir.to_owned());
        }
        Ok(())
    }
}

fn store_error(place: &str, error: &StoreError) -> Error {
    let kind = match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            ErrorKind::Permission
        }
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => {
            ErrorKind::Unsupported
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("the data directory '{place}': {error}")).by_store()
}

#[cfg(test)]
#[path = "data_dir_tests.rs"]
mod tests;
