//! The store of a table, as the library sees it: its answers say correctly whether an entry of the log was written.
//!
//! A commit is one conditional write. A store may do it and lose the answer; the client asks again and gets the answer that the entry
//! exists. The library would take its own commit for another writer's, commit the same files a second time, or delete them.
//! [`TruthfulStore`] reads the entry back instead, and tries again if no entry is there. If it cannot find out, it
//! gives an error that leaves the question open, and never "exists".

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result,
};
use deltalake::logstore::{
    LogStoreFactory, LogStoreRef, ObjectStoreFactory, ObjectStoreRef, StorageConfig,
    default_logstore, logstore_factories, object_store_factories,
};
use deltalake::{DeltaTableBuilder, DeltaTableError};
use futures::stream::BoxStream;

use super::location::Location;
use super::options::DeltaOptions;
use crate::store::open_s3;

/// How often an entry is written before the question stays open, and the pause after the first try; each is four times the one
/// before. The client below retries too.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// The log of the table at a location, in the store that its options name.
pub(super) fn build_log_store(
    location: &Location,
    options: &DeltaOptions,
) -> std::result::Result<LogStoreRef, DeltaTableError> {
    if location.folder.is_none() {
        register_s3();
    }
    let builder = DeltaTableBuilder::from_url(location.url.clone())?
        .with_storage_options(options.storage.clone());
    let config = StorageConfig::parse_options(builder.storage_options())?;
    let no_store = || DeltaTableError::InvalidTableLocation(location.url.to_string());
    let scheme = url::Url::parse(&format!("{}://", location.url.scheme()));
    let factories = object_store_factories();
    let factory = factories.get(&scheme.map_err(|_| no_store())?);
    let factory = Arc::clone(factory.ok_or_else(no_store)?.value());
    let (root, _) = factory.parse_url_opts(&location.url, &config)?;
    builder
        .with_storage_backend(TruthfulStore::over(root), location.url.clone())
        .build_storage()
}

/// Tells the library how buckets are opened, and that their logs are like any other: a commit is a write on the condition that
/// there is no such entry.
fn register_s3() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        for scheme in ["s3://", "s3a://"] {
            let Ok(scheme) = url::Url::parse(scheme) else {
                continue;
            };
            object_store_factories().insert(scheme.clone(), Arc::new(BucketStores));
            logstore_factories().insert(scheme, Arc::new(BucketStores));
        }
    });
}

/// Tables in stores that speak S3.
struct BucketStores;

impl ObjectStoreFactory for BucketStores {
    fn parse_url_opts(
        &self,
        url: &url::Url,
        config: &StorageConfig,
    ) -> std::result::Result<(ObjectStoreRef, Path), DeltaTableError> {
        open_s3(url, &config.raw).map_err(|error| DeltaTableError::GenericError {
            source: Box::new(error),
        })
    }
}

impl LogStoreFactory for BucketStores {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &url::Url,
        options: &StorageConfig,
    ) -> std::result::Result<LogStoreRef, DeltaTableError> {
        Ok(default_logstore(
            prefixed_store,
            root_store,
            location,
            options,
        ))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct TruthfulStore {
    inner: ObjectStoreRef,
    pause: Duration,
}

impl TruthfulStore {
    /// The same store, with the truth about entries of logs.
    pub(super) fn over(inner: ObjectStoreRef) -> ObjectStoreRef {
        Arc::new(Self {
            inner,
            pause: PAUSE,
        })
    }

    /// The same without pauses, for stores of the memory.
    #[cfg(test)]
    pub(super) fn without_pauses(inner: ObjectStoreRef) -> ObjectStoreRef {
        Arc::new(Self {
            inner,
            pause: Duration::ZERO,
        })
    }

    /// Writes an entry that must not exist. `AlreadyExists` is another writer's.
    #[expect(
        clippy::disallowed_methods,
        reason = "a write whose outcome is not known is tried again after a pause"
    )]
    async fn put_entry(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let wanted = Bytes::from(payload.clone());
        let mut pause = self.pause;
        let mut tried = 1;
        loop {
            let put = self
                .inner
                .put_opts(location, payload.clone(), options.clone());
            let error = match put.await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match self.read(location).await {
                Ok(Some((found, result))) if found == wanted => {
                    tracing::debug!(%location, %error, "the entry is written, although the store said");
                    return Ok(result);
                }
                Ok(Some(_)) => {
                    return Err(StoreError::AlreadyExists {
                        path: location.to_string(),
                        source: Box::new(error),
                    });
                }
                // Whether a write that was not answered still comes, no reading tells. The same entry once more does no
                // harm: one of the two is refused.
                Ok(None) | Err(_) if tried < TRIES && !is_refusal(&error) => {}
                Ok(None) | Err(_) => return Err(undecided_entry(location, error)),
            }
            tracing::debug!(%location, %error, "whether the entry is written is not known: once more");
            tokio::time::sleep(pause).await;
            pause *= 4;
            tried += 1;
        }
    }

    async fn read(&self, location: &Path) -> Result<Option<(Bytes, PutResult)>> {
        let found = match self.inner.get(location).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let result = PutResult {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        Ok(Some((found.bytes().await?, result)))
    }
}

/// The store said that an entry exists, and then it did not: the library must not take that for another writer's
/// commit.
fn undecided_entry(location: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => StoreError::Generic {
            store: "the table's store",
            source: format!("it is unknown whether {location} is written: {error}").into(),
        },
        other => other,
    }
}

/// Asking again would not help.
fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::PermissionDenied { .. }
            | StoreError::Unauthenticated { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::InvalidPath { .. }
            | StoreError::NotFound { .. }
    )
}

/// Whether the object is a numbered entry of the log of a table.
fn is_log_entry(location: &Path) -> bool {
    let mut parts: Vec<_> = location.parts().collect();
    let (Some(name), Some(folder)) = (parts.pop(), parts.pop()) else {
        return false;
    };
    folder.as_ref() == "_delta_log"
        && name.as_ref().strip_suffix(".json").is_some_and(|number| {
            number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

impl fmt::Display for TruthfulStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for TruthfulStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if options.mode == PutMode::Create && is_log_entry(location) {
            return self.put_entry(location, payload, options).await;
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
