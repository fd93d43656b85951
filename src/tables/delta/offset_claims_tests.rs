#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::prelude::SessionContext;
use serde_json::{Value, json};

use super::*;
use crate::core::archive::claims_of_topic;
use crate::core::jobs::{BatchVersion, Identity, SourceProgress};
use crate::tables::delta::{DeltaColumn, DeltaSpec, TimeTravel, offset_claims};

/// A table in a folder, and the application of a job that archives partition 0 of a topic into it.
struct Archive {
    folder: tempfile::TempDir,
    handle: DeltaTableHandle,
    application: Application,
    claims: JobClaims,
    batch: u64,
}

async fn open(folder: &Path) -> DeltaTableHandle {
    let column = DeltaColumn {
        name: "offset".into(),
        data_type: DataType::Int64,
        nullable: true,
        generated: None,
        comment: None,
    };
    let interval = ("delta.checkpointInterval".to_owned(), "4".to_owned());
    let spec = DeltaSpec {
        location: folder.join("t").display().to_string(),
        columns: Some(vec![column]),
        options: BTreeMap::from([interval]),
        ..DeltaSpec::default()
    };
    DeltaTableHandle::create_or_open(spec).await.unwrap()
}

fn topic() -> Identity {
    Identity::Topic {
        topic: "visits".to_owned(),
        cluster: Some("c".to_owned()),
        id: Some("i".to_owned()),
    }
}

impl Archive {
    /// Version 0 creates the table, version 1 is the takeover.
    async fn new(id: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let handle = open(folder.path()).await;
        let mut archive = Self {
            folder,
            handle,
            application: Application {
                id: format!("anabranch/{id}"),
                owned: 0,
                version: 0,
                witness: format!("anabranch/{id}/rows"),
                checked: 0,
            },
            claims: JobClaims::default(),
            batch: 0,
        };
        archive.take_over().await;
        archive
    }

    /// Another runner takes the job over, and learns of the claims from the table alone.
    async fn take_over(&mut self) {
        let application = &mut self.application;
        application.owned += 1;
        let checked = self.handle.take_over(&application.id, application.owned);
        application.checked = checked.await.unwrap();
        self.claims = self.handle.claims_of(application).await.unwrap();
    }

    fn next(&mut self, start: i64, end: i64) -> BatchVersion {
        self.batch += 1;
        let read = SourceProgress { start, end };
        BatchVersion {
            batch: self.batch,
            parent: (self.batch > 1).then(|| "before".to_owned()),
            sources: [("v".to_owned(), [(0, read)].into())].into(),
            identities: [("v".to_owned(), topic())].into(),
            ..BatchVersion::default()
        }
    }

    /// Commits a batch that has read `start..end`, and of which one row is left.
    async fn batch(&mut self, start: i64, end: i64) {
        let version = self.next(start, end);
        let schema = Schema::new(vec![Field::new("offset", DataType::Int64, true)]);
        let schema = Arc::new(schema);
        let rows = vec![Arc::new(Int64Array::from(vec![start])) as _];
        let rows = RecordBatch::try_new(Arc::clone(&schema), rows).unwrap();
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).unwrap();
        let context = SessionContext::new().task_ctx();
        let prepared = self.handle.prepare(plan, context).await.unwrap();
        let now = self.claims.after("sync", &version);
        self.application.version = self.application.owned + 1;
        let change = ClaimChange {
            before: &self.claims,
            now: &now,
            job: "sync",
            batch: version.batch,
        };
        let prepared = prepared.claiming(&self.application, &change);
        let committed = self.handle.commit_prepared(prepared, &self.application);
        self.application.checked = committed.await.unwrap().version;
        self.application.owned = self.application.version;
        self.claims = now;
    }

    /// Makes the table say `now` without rows.
    async fn claim(&mut self, now: JobClaims) {
        let change = ClaimChange {
            before: &self.claims,
            now: &now,
            job: "sync",
            batch: self.batch,
        };
        let claimed = self.handle.claim(&self.application, &change).await;
        self.application.checked = claimed.unwrap();
        self.claims = now;
    }

    fn entry(&self, version: u64) -> PathBuf {
        let name = format!("t/_delta_log/{version:020}.json");
        self.folder.path().join(name)
    }

    async fn restore(&self, to: u64) {
        let table = self.handle.refresh().await.unwrap();
        table.restore().with_version_to_restore(to).await.unwrap();
    }

    /// The ranges that the table says are covered, to a program that opens it now.
    async fn covered(&self, version: Option<u64>) -> Vec<(i64, i64)> {
        let handle = open(self.folder.path()).await;
        let travel = version.map_or(TimeTravel::Latest, TimeTravel::Version);
        let table = handle.snapshot(travel).await.unwrap();
        let claims = offset_claims(table.as_ref()).await.unwrap();
        let claims = claims_of_topic(claims.values(), &topic());
        let of_partition = claims.get(&0).into_iter();
        let ranges = of_partition.flat_map(|claimed| claimed.covered.ranges());
        ranges.map(|range| (range.from, range.to)).collect()
    }

    /// The commit info of a version.
    fn info(&self, version: u64) -> Value {
        let entry = std::fs::read_to_string(self.entry(version)).unwrap();
        let mut actions = entry
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        actions
            .find_map(|action| action.get("commitInfo").cloned())
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_committed_with_the_rows_and_outlive_log_cleanup() {
    let mut archive = Archive::new("j").await;
    assert_eq!(archive.covered(None).await, []);
    archive.batch(3, 10).await;
    // The batch from 10 to 14 had no rows and made no commit.
    archive.next(10, 14);
    archive.batch(14, 20).await;
    assert_eq!(archive.covered(None).await, [(3, 20)]);
    assert_eq!(archive.covered(Some(2)).await, [(3, 10)]);
    assert_eq!(archive.covered(Some(1)).await, []);
    let expected = json!({
        "format": 1, "job": "sync", "jobId": "j", "batch": 3,
        "topics": [{
            "topic": "visits", "cluster": "c", "id": "i",
            "partitions": [{"partition": 0, "covered": [{"from": 10, "to": 20}]}],
        }],
    });
    assert_eq!(archive.info(3)["anabranchOffsets"], expected);
    // A runner that takes the job over knows what the one before it has claimed.
    archive.take_over().await;
    archive.batch(20, 21).await;
    for _ in 0..3 {
        archive.take_over().await;
    }
    assert_eq!(archive.handle.version().await.unwrap(), 8);
    // The last checkpoint is of version 7: entries before it are no longer needed.
    for gone in 0..=6 {
        std::fs::remove_file(archive.entry(gone)).unwrap();
    }
    assert_eq!(archive.covered(None).await, [(3, 21)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_3_claims_of_abandoned_batches_are_withdrawn() {
    let mut archive = Archive::new("j").await;
    archive.batch(0, 10).await;
    let first = archive.claims.clone();
    archive.batch(10, 20).await;
    archive.claim(first).await;
    assert_eq!(archive.covered(None).await, [(0, 10)]);
    // A commit that only withdraws claims adds none.
    assert_eq!(archive.info(4).get("anabranchOffsets"), None);
    archive.claim(JobClaims::default()).await;
    assert_eq!(archive.covered(None).await, []);
    archive.batch(15, 17).await;
    assert_eq!(archive.covered(None).await, [(15, 17)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_claims_of_another_owner_are_refused() {
    let mut archive = Archive::new("j").await;
    archive.batch(0, 10).await;
    let stale = archive.application.clone();
    archive.take_over().await;
    let now = JobClaims::default();
    let change = ClaimChange {
        before: &archive.claims,
        now: &now,
        job: "sync",
        batch: 2,
    };
    let refused = archive.handle.claim(&stale, &change).await.unwrap_err();
    assert_eq!(refused.kind(), crate::error::ErrorKind::Cancelled);
    assert_eq!(archive.covered(None).await, [(0, 10)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_commits_that_a_restore_has_undone_do_not_count() {
    let mut archive = Archive::new("j").await;
    archive.batch(0, 10).await;
    archive.batch(10, 20).await;
    archive.restore(2).await;
    assert_eq!(archive.covered(None).await, [(0, 10)]);
    assert_eq!(archive.covered(Some(3)).await, [(0, 20)]);
    // Back to the state before that RESTORE, and then to the one without rows.
    archive.restore(3).await;
    assert_eq!(archive.covered(None).await, [(0, 20)]);
    archive.restore(1).await;
    assert_eq!(archive.covered(None).await, []);
    // What comes later counts again.
    archive.take_over().await;
    archive.claim(JobClaims::default()).await;
    archive.batch(30, 31).await;
    assert_eq!(archive.covered(None).await, [(30, 31)]);
}
