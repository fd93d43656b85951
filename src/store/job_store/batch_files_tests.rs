//! Dead letters beside their version.

use super::super::fixture::{created, files, store};
use super::*;

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
