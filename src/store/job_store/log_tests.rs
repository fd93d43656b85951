//! An entry is won once, by a process that knows the entry before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

use super::super::fixture::{committed, created, files, store, takeover, version_with};
use super::*;
use crate::core::jobs::BatchVersion;
use crate::error::ErrorKind;
use crate::store::simulated::{CallFate, DelayedWrite, Faults, RecordedReads, SimulatedDisk};

#[tokio::test]
async fn one_of_two_writers_of_an_entry_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let mut writers = Vec::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            store
                .append(id, 1, &takeover(&format!("runner {writer}")))
                .await
                .unwrap()
        }));
    }
    let mut won = 0;
    for writer in writers {
        won += usize::from(writer.await.unwrap());
    }
    assert_eq!(won, 1);
    let history = store.history(id).await.unwrap();
    assert_eq!(history.next, 2);
    assert!(history.owner.unwrap().starts_with("runner"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_is_won_once_during_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let mut writers = Vec::new();
    for writer in 0..4_u64 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for round in 0..60_u64 {
                let history = store.history(id).await.unwrap();
                if round % 10 == writer {
                    // Long enough for the others to write, and for their entries to be deleted.
                    tokio::time::sleep(std::time::Duration::from_millis(40)).await;
                }
                let owner = format!("{writer}/{round}");
                if store
                    .append(id, history.next, &takeover(&owner))
                    .await
                    .unwrap()
                {
                    won.push((history.next, owner));
                }
            }
            won
        }));
    }
    let sweeper = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut deleted = false;
            loop {
                let history = store.history(id).await.unwrap();
                deleted |= store.compact(id, &history).await.unwrap().is_some();
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                if history.owner.as_deref() == Some("end") {
                    return deleted;
                }
            }
        })
    };
    let mut won = std::collections::BTreeMap::new();
    for writer in writers {
        for (number, owner) in writer.await.unwrap() {
            assert_eq!(won.insert(number, owner), None, "{number} was won twice");
        }
    }
    let history = store.history(id).await.unwrap();
    // A winner may have got the answer that it lost, never the other way round.
    assert!((won.len() as u64) < history.next);
    assert!(won.len() > 60, "{}", won.len());
    if let Some(last) = won.get(&(history.next - 1)) {
        assert_eq!(history.owner.as_ref(), Some(last));
    }
    // An entry that is written is in the log, even if its writer got the answer that it lost.
    let next = history.next;
    store.append(id, next, &takeover("end")).await.unwrap();
    assert_eq!(store.history(id).await.unwrap().owner.unwrap(), "end");
    assert!(sweeper.await.unwrap(), "entries were deleted");
}

/// One process runs a job: what it does of the store for a batch is known, and nothing is listed.
#[tokio::test]
async fn a_batch_lists_no_folders() {
    let reads = Arc::new(RecordedReads::default());
    let dir = SimulatedDisk::default().seen_with(Arc::clone(&reads) as Arc<dyn Faults>);
    let store = JobStore::new(dir);
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let mut history = store.history(id).await.unwrap();
    let me = takeover("me");
    assert!(store.append_next(id, &mut history, &me).await.unwrap());
    for batch in 1..=30 {
        let name = JobStore::version_name(history.next);
        reads.take();
        reads.take_listed();
        // The look for statements of other processes, and a batch with all that it can leave behind.
        assert!(store.is_free(id, history.next).await.unwrap());
        store.put_state(id, &name, b"x".to_vec()).await.unwrap();
        store.put_late(id, &name, b"x".to_vec()).await.unwrap();
        let letters = store.put_dead_letters(id, &name, &[]).await.unwrap();
        let version = BatchVersion {
            dead_letters_crc32: Some(letters),
            ..version_with(history.next, &[name.as_str()])
        };
        store.stage(id, &name, &version).await.unwrap();
        let entry = LogEntry::Committed {
            batch,
            version: name,
            at: 0,
        };
        let before = entry_path(id, history.next - 1);
        assert!(store.append_next(id, &mut history, &entry).await.unwrap());
        assert_eq!(reads.take_listed(), [] as [&str; 0], "{batch}");
        let read = reads.take();
        // The number itself and the mark of DROP JOB, and the entry before.
        assert_eq!((read.len(), read.last()), (3, Some(&before)), "{read:?}");
        // A log that is made shorter meanwhile changes nothing.
        if batch % 7 == 0 {
            store.compact(id, &history).await.unwrap();
        }
    }
    let read = store.history(id).await.unwrap();
    assert_eq!(read.last_entry, history.last_entry);
    // A process that begins with the checkpoint knows the entry before as well.
    store.compact(id, &read).await.unwrap();
    let mut other = store.history(id).await.unwrap();
    assert_eq!(other.checkpoint, other.next);
    reads.take_listed();
    let other_takes = takeover("other");
    assert!(
        store
            .append_next(id, &mut other, &other_takes)
            .await
            .unwrap()
    );
    assert_eq!(reads.take_listed(), [] as [&str; 0]);
    // The first one is told that it lost, and its history is what it was.
    let (next, known) = (history.next, history.last_entry.clone());
    let entry = committed(31, history.next);
    assert!(!store.append_next(id, &mut history, &entry).await.unwrap());
    assert_eq!((history.next, history.last_entry), (next, known));
}

/// Decides by a list what becomes of the writes of entries; all other calls succeed.
#[derive(Default)]
struct Listed {
    fates: Mutex<VecDeque<CallFate>>,
    later: Mutex<Vec<DelayedWrite>>,
    /// Delayed writes arrive before the next one, and not when the test says so.
    is_hurried: bool,
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listed")
    }
}

impl Faults for Listed {
    fn step(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn fate(&self, path: &str, writes: bool) -> CallFate {
        if !writes || !path.contains("/log/") {
            return CallFate::Done;
        }
        if self.is_hurried {
            self.arrive();
        }
        let next = self.fates.lock().unwrap().pop_front();
        next.unwrap_or(CallFate::Done)
    }

    fn later(&self, later: DelayedWrite) {
        self.later.lock().unwrap().push(later);
    }
}

impl Listed {
    fn next(&self, fates: &[CallFate]) {
        self.fates.lock().unwrap().extend(fates);
    }

    /// The delayed writes arrive. Returns how many there are.
    fn arrive(&self) -> usize {
        let later = std::mem::take(&mut *self.later.lock().unwrap());
        let count = later.len();
        later.into_iter().for_each(|later| later());
        count
    }
}

/// LOSS-1: the answer to an entry is lost, and its write is repeated, or arrives for the first time, when the entry and the one
/// after it were swept. A process that knows the entry and slept meanwhile loses.
#[tokio::test]
async fn loss_1_an_entry_that_arrives_after_a_sweep_does_not_let_another_win() {
    for (fate, late) in [(CallFate::Repeated, 0), (CallFate::Late, 1)] {
        let faults = Arc::new(Listed::default());
        let seen = Arc::clone(&faults) as Arc<dyn Faults>;
        let store = JobStore::new(SimulatedDisk::default().seen_with(seen));
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut history = store.history(id).await.unwrap();
        for number in 1..=9 {
            let entry = committed(number, number);
            assert!(store.append_next(id, &mut history, &entry).await.unwrap());
        }
        faults.next(&[fate]);
        let writer = takeover("writer");
        let won = store.append_next(id, &mut history, &writer).await;
        assert!(won.is_ok_and(|won| won), "it reads its number: {fate:?}");
        let mut sleeper = store.history(id).await.unwrap();
        assert_eq!(sleeper.last_entry, history.last_entry);
        for number in 11..=40 {
            let entry = committed(number, number);
            assert!(store.append_next(id, &mut history, &entry).await.unwrap());
            if number % 10 == 0 {
                store.compact(id, &history).await.unwrap();
            }
        }
        for swept in [10, 11] {
            let found = store.dir.read(&entry_path(id, swept)).await.unwrap();
            assert_eq!(found, None);
        }
        assert_eq!(faults.arrive(), late, "{fate:?}");
        let entry = takeover("sleeper");
        assert!(!store.append_next(id, &mut sleeper, &entry).await.unwrap());
        let owner = store.history(id).await.unwrap().owner;
        assert_eq!(owner.as_deref(), Some("writer"));
    }
}

#[tokio::test]
async fn an_entry_is_sent_again_with_another_id_while_the_answers_say_nothing() {
    use CallFate::{AnswerLost, Late, Refused};
    for (fates, is_hurried) in [
        (&[AnswerLost][..], false),
        (&[Refused, Refused, AnswerLost], false),
        (&[Late, Refused], false),
        // It finds an entry at its number that is its own.
        (&[Late], true),
        (&[Late, Late], true),
    ] {
        let faults = Arc::new(Listed {
            is_hurried,
            ..Listed::default()
        });
        let seen = Arc::clone(&faults) as Arc<dyn Faults>;
        let store = JobStore::new(SimulatedDisk::default().seen_with(seen));
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut history = store.history(id).await.unwrap();
        for number in 1..=3 {
            faults.next(fates);
            let entry = committed(number, number);
            assert!(store.append_next(id, &mut history, &entry).await.unwrap());
            faults.arrive();
            let read = store.history(id).await.unwrap();
            assert_eq!(read, history, "{fates:?}: {number}");
        }
    }
    let faults = Arc::new(Listed::default());
    let seen = Arc::clone(&faults) as Arc<dyn Faults>;
    let store = JobStore::new(SimulatedDisk::default().seen_with(seen));
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let mut history = store.history(id).await.unwrap();
    faults.next(&[Refused; SENDS as usize]);
    let entry = committed(1, 1);
    let error = store.append_next(id, &mut history, &entry).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.history(id).await.unwrap(), history);
}

/// LOSS-1: processes that slept until the log was made shorter find their numbers free, two of them next to each other, and lose.
#[tokio::test]
async fn loss_1_a_stalled_writer_does_not_let_another_win() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let mut history = store.history(id).await.unwrap();
    let mut slept = Vec::new();
    for number in 1..=30 {
        if number == 4 || number == 5 {
            slept.push(history.clone());
        }
        let entry = committed(number, number);
        assert!(store.append_next(id, &mut history, &entry).await.unwrap());
        if number % 10 == 0 {
            store.compact(id, &history).await.unwrap();
        }
    }
    assert_eq!(files(dir.path(), id, "log")[0], "0000000021.json");
    for mut sleeper in slept {
        let entry = takeover("sleeper");
        assert!(!store.append_next(id, &mut sleeper, &entry).await.unwrap());
    }
    let left = files(dir.path(), id, "log");
    assert_eq!(left[..2], ["0000000004.json", "0000000005.json"]);
    assert_eq!(store.history(id).await.unwrap().owner, None);
    let entry = committed(31, 31);
    assert!(store.append_next(id, &mut history, &entry).await.unwrap());
}

/// Entries of format 1 have no ids: the checkpoints say whether one is the next.
#[tokio::test]
async fn a_log_of_the_first_format_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    let log = dir.path().join(format!("jobs/{id}/log"));
    let first = [
        r#"{"entry":"created","name":"j","text":"t","tables":[],"at":0}"#,
        r#"{"entry":"takeover","owner":"me","at":0}"#,
    ];
    for (number, text) in first.into_iter().enumerate() {
        std::fs::write(log.join(format!("{number:010}.json")), text).unwrap();
    }
    let mut history = store.history(id).await.unwrap();
    assert_eq!((history.next, &history.last_entry), (2, &None));
    for number in 2..=4 {
        let entry = committed(number, number);
        assert!(store.append_next(id, &mut history, &entry).await.unwrap());
        assert!(history.last_entry.is_some());
    }
    assert_eq!(store.history(id).await.unwrap(), history);
}

#[tokio::test]
async fn a_gap_in_a_log_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let id = store.create(&created("j"), "j").await.unwrap().unwrap();
    store.append(id, 2, &takeover("late")).await.unwrap();
    let error = store.history(id).await.unwrap_err();
    assert!(error.message().contains("0000000001.json"), "{error}");
}
