//! Sweeps delete files that no reader needs, and no others, however late they come.

use super::super::fixture::{commit, committed, created, files, store, takeover, trim};
use super::super::paths::pack_path;
use super::*;
use crate::core::jobs::LogEntry;
use crate::store::pack::Pack;

#[tokio::test]
async fn concurrent_sweepers_have_the_effect_of_one() {
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
async fn loss_1_a_stalled_sweeper_deletes_no_live_files() {
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

#[tokio::test]
async fn a_dropped_job_leaves_a_tombstone_for_runners() {
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
        .append(id, 2, &LogEntry::Dropped { at: 0 })
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
        assert_eq!(store.history(id).await.unwrap().phase, JobPhase::Dropped);
    }
    assert_eq!(store.find("k").await.unwrap().unwrap().0, other);
    assert_eq!(files(dir.path(), other, "log"), ["0000000000.json"]);
}
