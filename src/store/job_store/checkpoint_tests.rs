//! A log that was made shorter says what it said before.

use super::super::fixture::{commit, committed, created, files, store, takeover, trim};
use super::*;
use crate::core::jobs::LogEntry;

#[tokio::test]
async fn a_compacted_log_has_the_same_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let mut all = vec![created("j")];
    let mut shortened = 0;
    for number in 1..=40 {
        let entry = match number {
            20 => LogEntry::Trimmed {
                oldest: 15,
                packs: vec!["p".into()],
                at: 7,
            },
            _ if number % 7 == 0 => takeover("me"),
            _ => committed(number, number),
        };
        assert!(store.append(id, number, &entry).await.unwrap());
        all.push(entry);
        let mut history = store.history(id).await.unwrap();
        assert_eq!(history.checkpoint, shortened);
        history.checkpoint = 0;
        assert!(history.last_entry.take().is_some(), "{number}");
        assert_eq!(history, JobHistory::of(&all).unwrap(), "{number}");
        if number % 10 == 5 {
            store.compact(id, &history).await.unwrap();
            shortened = history.next;
        }
    }
    // Checkpoints at 6, 16, 26 and 36: the last two stay, and the entries that the last but one has not passed.
    let checkpoints = files(dir.path(), id, "checkpoint");
    assert_eq!(checkpoints, ["0000000026.json", "0000000036.json"]);
    assert_eq!(files(dir.path(), id, "log")[0], "0000000026.json");
    assert_eq!(files(dir.path(), id, "log").len(), 15);
    // A writer that stalled all the time finds its number free, and learns that it lost.
    assert!(!store.append(id, 9, &takeover("zombie")).await.unwrap());
    assert_eq!(store.history(id).await.unwrap().owner.unwrap(), "me");
    // Its entry is swept with the rest.
    let history = store.history(id).await.unwrap();
    store.compact(id, &history).await.unwrap();
    assert_eq!(files(dir.path(), id, "log")[0], "0000000036.json");
}

#[tokio::test]
async fn a_gap_after_a_checkpoint_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let history = store.history(id).await.unwrap();
    store.compact(id, &history).await.unwrap();
    store.append(id, 2, &takeover("late")).await.unwrap();
    let error = store.history(id).await.unwrap_err();
    assert!(error.message().contains("log/0000000001.json"), "{error}");
    let newer = dir
        .path()
        .join(format!("jobs/{id}/checkpoint/0000000002.json"));
    std::fs::write(newer, r#"{"format":3,"history":{"next":2}}"#).unwrap();
    let error = store.history(id).await.unwrap_err();
    assert!(
        error.message().contains("newer program (format 3"),
        "{error}"
    );
}

/// LOSS-1: a sweeper that slept until another one had written the first checkpoint does not take its own for the passed one.
#[tokio::test]
async fn loss_1_a_sweeper_that_slept_does_not_go_by_its_own_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    for number in 1..=20 {
        commit(&store, id, number, &["0000000001-v"]).await;
    }
    let slept = trim(&store, id, 10, &[]).await;
    assert!(store.append(id, 22, &takeover("other")).await.unwrap());
    let newer = store.history(id).await.unwrap();
    assert_eq!(store.compact(id, &newer).await.unwrap(), None);
    assert_eq!(store.compact(id, &slept).await.unwrap(), None);
    assert_eq!(files(dir.path(), id, "log").len(), 23);
    let checkpoints = files(dir.path(), id, "checkpoint");
    assert_eq!(checkpoints, ["0000000022.json", "0000000023.json"]);
    // The next one sweeps it with the rest.
    assert!(store.append(id, 23, &takeover("next")).await.unwrap());
    let next = store.history(id).await.unwrap();
    let passed = store.compact(id, &next).await.unwrap().unwrap();
    assert_eq!(passed.next, 23);
    let checkpoints = files(dir.path(), id, "checkpoint");
    assert_eq!(checkpoints, ["0000000023.json", "0000000024.json"]);
}
