//! Versions that were staged and never committed.

use super::super::fixture::{created, store, takeover};
use super::*;

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
