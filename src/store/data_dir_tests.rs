//! Object stores that honour conditional writes, and one that does not.

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutPayload, PutResult,
};

use super::*;

/// Accepts conditional writes and ignores the condition.
#[derive(Debug, Default)]
struct UnconditionalStore(InMemory);

impl std::fmt::Display for UnconditionalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Careless")
    }
}

type StoreResult<T> = std::result::Result<T, StoreError>;

#[async_trait::async_trait]
impl ObjectStore for UnconditionalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        let options = PutOptions {
            mode: PutMode::Overwrite,
            ..options
        };
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn existing_objects_are_not_overwritten() {
    let dir = DataDir::in_store(Arc::new(InMemory::new()), Path::default(), "memory://");
    assert!(dir.create("a/1", b"mine".to_vec()).await.unwrap());
    assert!(!dir.create("a/1", b"yours".to_vec()).await.unwrap());
    assert_eq!(dir.read("a/1").await.unwrap().unwrap(), "mine");
    assert_eq!(dir.list("").await.unwrap(), ["a/1"], "the probe is gone");
}

#[tokio::test]
async fn exact_1_a_store_that_ignores_conditions_is_refused() {
    let dir = DataDir::in_store(
        Arc::new(UnconditionalStore::default()),
        Path::default(),
        "s3://bucket",
    );
    let error = dir.create("a/1", b"mine".to_vec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("s3://bucket"), "{error}");
    assert!(
        error.message().contains("overwrites existing objects"),
        "{error}"
    );
}

#[tokio::test]
async fn old_unfinished_files_are_deleted() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(&root.path().display().to_string()).unwrap();
    assert!(
        dir.create("jobs/a/log/1.json", b"whole".to_vec())
            .await
            .unwrap()
    );
    let old = std::time::SystemTime::now() - ABANDONED - std::time::Duration::from_secs(1);
    let file = |name: &str, is_old: bool| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let made = std::fs::File::create(&path).unwrap();
        if is_old {
            made.set_modified(old).unwrap();
        }
        path
    };
    let left = file(
        "jobs/a/log/2.json#340282366920938463463374607431768211455",
        true,
    );
    let also = file("jobs/a/heartbeat.json#1", true);
    let young = file("jobs/a/log/3.json#77", false);
    let whole = [
        file("jobs/a/log/1.json", true),
        file("jobs/a/state/a#b", true),
    ];
    let elsewhere = file("tables/t/part.parquet#5", true);
    assert_eq!(dir.sweep_unfinished(&["jobs", "catalog"]), 2);
    assert!(!left.exists() && !also.exists());
    assert!(young.exists() && elsewhere.exists());
    assert!(whole.iter().all(|file| file.exists()));
    assert_eq!(dir.list("jobs/a/log").await.unwrap(), ["1.json"]);
}
