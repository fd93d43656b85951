//! Names are free until a job takes them, and again after it was dropped.

use super::super::fixture::{created, files, store};
use super::super::paths::DROPPED;
use super::*;

#[tokio::test]
async fn a_name_belongs_to_one_job_until_it_is_dropped() {
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

/// A DROP JOB that dies at any step is brought to its end: by another one of the same name while there is the name, and by any
/// other one after that.
#[tokio::test]
async fn files_of_an_interrupted_drop_are_deleted_by_the_next() {
    for steps in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let dropped = LogEntry::Dropped { at: 0 };
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
