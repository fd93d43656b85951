//! A data directory in memory for simulations: the simulation decides which calls fail, and how.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::store::DataDir;

/// Outcome of a call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFate {
    /// The call succeeds.
    Done,
    /// The call fails and has no effect.
    Refused,
    /// The call takes effect, but returns an error.
    AnswerLost,
    /// The call returns an error, and its write takes effect later.
    Late,
    /// The call returns an error and writes half of the object.
    Torn,
    /// The call takes effect, and its answer is lost: a client that repeats calls makes the same write once more, later. One that
    /// does not returns an error, as for [`CallFate::AnswerLost`].
    Repeated,
}

/// A delayed write.
pub(crate) type DelayedWrite = Box<dyn FnOnce() + Send>;

/// Decides the outcome of calls to the store.
pub(crate) trait Faults: fmt::Debug + Send + Sync + 'static {
    /// Gives other processes a chance to run: before each call and after it.
    fn step(&self) -> BoxFuture<'static, ()>;
    /// Decides about a call.
    fn fate(&self, path: &str, writes: bool) -> CallFate;
    /// Takes a delayed write.
    fn later(&self, later: DelayedWrite);
    /// A folder is listed.
    fn listed(&self, _folder: &str) {}
}

/// Lets no call fail, and keeps the paths of the files that were read and of the folders that were listed.
#[derive(Debug, Default)]
pub(crate) struct RecordedReads {
    files: Mutex<Vec<String>>,
    folders: Mutex<Vec<String>>,
}

impl RecordedReads {
    /// The paths of the files that were read since the last call, in order.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.files.lock().unwrap())
    }

    /// The same of the folders that were listed.
    pub(crate) fn take_listed(&self) -> Vec<String> {
        std::mem::take(&mut *self.folders.lock().unwrap())
    }
}

impl Faults for RecordedReads {
    fn step(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn fate(&self, path: &str, writes: bool) -> CallFate {
        // Listings of folders are not recorded.
        if !writes && (path.ends_with(".json") || path.starts_with("jobs/names/")) {
            self.files.lock().unwrap().push(path.to_owned());
        }
        CallFate::Done
    }

    fn later(&self, later: DelayedWrite) {
        later();
    }

    fn listed(&self, folder: &str) {
        self.folders.lock().unwrap().push(folder.to_owned());
    }
}

/// The objects in the directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk {
    objects: Arc<InMemory>,
}

impl SimulatedDisk {
    /// A copy of the directory as it is now.
    pub(crate) async fn copy(&self) -> Self {
        let copy = InMemory::new();
        let mut files = self.objects.list(None);
        while let Some(file) = files.next().await {
            let path = file.unwrap().location;
            let found = self.objects.get_opts(&path, GetOptions::default()).await;
            let bytes = found.unwrap().bytes().await.unwrap();
            let put = copy.put_opts(&path, bytes.into(), PutOptions::default());
            put.await.unwrap();
        }
        Self {
            objects: Arc::new(copy),
        }
    }

    /// The directory as one process sees it.
    pub(crate) fn seen_with(&self, faults: Arc<dyn Faults>) -> DataDir {
        let client = |is_repeating| {
            Arc::new(SeenPaths {
                objects: Arc::clone(&self.objects),
                faults: Arc::clone(&faults),
                is_repeating,
            })
        };
        DataDir::of_store(client(true), client(false))
    }
}

#[derive(Debug)]
struct SeenPaths {
    objects: Arc<InMemory>,
    faults: Arc<dyn Faults>,
    /// Whether it repeats a write whose answer was lost.
    is_repeating: bool,
}

impl fmt::Display for SeenPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

fn failed() -> StoreError {
    StoreError::Generic {
        store: "simulated",
        source: "the store does not answer".into(),
    }
}

impl SeenPaths {
    fn put_later(&self, location: &Path, payload: PutPayload, opts: PutOptions) {
        let (objects, location) = (Arc::clone(&self.objects), location.clone());
        self.faults.later(Box::new(move || {
            // The store in memory answers at once. An object that was written meanwhile stays as it is.
            let _ = objects.put_opts(&location, payload, opts).now_or_never();
        }));
    }
}

#[async_trait]
impl ObjectStore for SeenPaths {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.faults.step().await;
        let done = match self.faults.fate(location.as_ref(), true) {
            CallFate::Done => self.objects.put_opts(location, payload, opts).await,
            CallFate::Refused => Err(failed()),
            CallFate::AnswerLost => {
                let _ = self.objects.put_opts(location, payload, opts).await;
                Err(failed())
            }
            CallFate::Late => {
                self.put_later(location, payload, opts);
                Err(failed())
            }
            CallFate::Repeated => {
                let first = (payload.clone(), opts.clone());
                let _ = self.objects.put_opts(location, first.0, first.1).await;
                if self.is_repeating {
                    self.put_later(location, payload, opts);
                }
                Err(failed())
            }
            CallFate::Torn => {
                let bytes = bytes::Bytes::from(payload);
                let half = bytes.slice(..bytes.len() / 2);
                let _ = self.objects.put_opts(location, half.into(), opts).await;
                Err(failed())
            }
        };
        self.faults.step().await;
        done
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(StoreError::NotImplemented {
            operation: "put_multipart_opts".into(),
            implementer: "simulated".into(),
        })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.step().await;
        match self.faults.fate(location.as_ref(), false) {
            CallFate::Done => self.objects.get_opts(location, options).await,
            _ => Err(failed()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (objects, faults) = (Arc::clone(&self.objects), Arc::clone(&self.faults));
        let delete = move |location: Path| {
            let (objects, faults) = (Arc::clone(&objects), Arc::clone(&faults));
            async move {
                faults.step().await;
                if faults.fate(location.as_ref(), true) == CallFate::Refused {
                    return Err(failed());
                }
                let one = futures::stream::once(async move { Ok(location) });
                let mut deleted = objects.delete_stream(one.boxed());
                deleted.next().await.unwrap_or_else(|| Err(failed()))
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, faults) = (Arc::clone(&self.objects), Arc::clone(&self.faults));
        let prefix = prefix.cloned();
        let listed = async move {
            faults.step().await;
            let path = prefix.as_ref().map_or("", |path| path.as_ref());
            faults.listed(path);
            match faults.fate(path, false) {
                CallFate::Done => objects.list(prefix.as_ref()),
                _ => futures::stream::once(async { Err(failed()) }).boxed(),
            }
        };
        listed.into_stream().flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
