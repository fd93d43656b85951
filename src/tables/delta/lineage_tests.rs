#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use serde_json::json;

use super::*;
use crate::error::ErrorKind;
use crate::tables::delta::{
    Application, DeltaColumn, DeltaSpec, OptimizeSpec, PreparedWrite, RewrittenFile, TimeTravel,
};

/// A table in a folder, and an application that has written to it: version 0 creates the table, version 1 is the takeover.
struct Lake {
    folder: tempfile::TempDir,
    handle: DeltaTableHandle,
    application: Application,
}

fn rows(of: i64) -> Arc<dyn ExecutionPlan> {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let ids = Int64Array::from_iter_values(10 * of..10 * of + 3);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids)]).unwrap();
    MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None).unwrap()
}

async fn open(folder: &Path) -> DeltaTableHandle {
    let column = DeltaColumn {
        name: "id".into(),
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

async fn count(handle: &DeltaTableHandle) -> usize {
    let context = SessionContext::new();
    let table = handle.snapshot(TimeTravel::Latest).await.unwrap();
    let batches = context.read_table(table).unwrap().collect().await.unwrap();
    batches.iter().map(RecordBatch::num_rows).sum()
}

impl Lake {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let handle = open(folder.path()).await;
        let checked = handle.take_over("job", 1).await.unwrap();
        let application = Application {
            id: "job".into(),
            owned: 1,
            version: 1,
            witness: "job/rows".into(),
            checked,
        };
        Self {
            folder,
            handle,
            application,
        }
    }

    async fn prepare(&self, of: i64) -> PreparedWrite {
        let context = SessionContext::new().task_ctx();
        self.handle.prepare(rows(of), context).await.unwrap()
    }

    /// Commits rows, and gives their files. The number that it records is the version that it makes.
    async fn batch(&mut self) -> Vec<String> {
        let number = i64::try_from(self.version().await).unwrap() + 1;
        let prepared = self.prepare(number).await;
        let files = prepared.files();
        self.application.version = number;
        let committed = self
            .handle
            .commit_prepared(prepared, &self.application)
            .await;
        self.application.owned = number;
        self.application.checked = committed.unwrap().version;
        files
    }

    async fn version(&self) -> u64 {
        self.handle.version().await.unwrap()
    }

    async fn restore(&self, to: u64) {
        let table = self.handle.refresh().await.unwrap();
        table.restore().with_version_to_restore(to).await.unwrap();
    }

    async fn optimize(&self) {
        let spec = OptimizeSpec::default();
        self.handle.optimize(&spec, None).await.unwrap();
    }

    async fn kept(&self) -> RowsUpTo {
        self.handle.rows_up_to("job/rows").await.unwrap()
    }

    async fn rewritten(&self, files: &[String]) -> Option<RewrittenFile> {
        self.handle.rewritten_file(files).await.unwrap()
    }

    fn entry(&self, version: u64) -> PathBuf {
        let name = format!("t/_delta_log/{version:020}.json");
        self.folder.path().join(name)
    }

    /// Another writer's commit.
    async fn write_entry(&self, actions: &[Value]) {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        let path = self.entry(self.version().await + 1);
        std::fs::write(path, lines.join("\n")).unwrap();
    }

    /// Lets a RESTORE say nothing of the version it went to, as one by a time does.
    fn hide_target(&self, version: u64) {
        let path = self.entry(version);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| {
            let mut action: Value = serde_json::from_str(line).unwrap();
            if let Some(info) = action.pointer_mut("/commitInfo/operationParameters") {
                assert!(info.get("version").is_some(), "{line}");
                *info = json!({"timestamp": "2025-09-04 10:00:00"});
            }
            action.to_string()
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_a_restore_removes_rows_and_keeps_the_transaction_version() {
    let mut lake = Lake::new().await;
    assert_eq!(lake.kept().await, RowsUpTo::Number(None));
    for _ in 0..3 {
        lake.batch().await;
    }
    assert_eq!(lake.version().await, 4);
    assert_eq!(lake.kept().await, RowsUpTo::Number(Some(4)));
    lake.restore(3).await;
    assert_eq!(count(&lake.handle).await, 6);
    let number = lake.handle.transaction_version("job/rows").await.unwrap();
    assert_eq!(number, Some(4), "the number stays");
    assert_eq!(lake.kept().await, RowsUpTo::Number(Some(3)));
    // A RESTORE to a still earlier state, then one forward to a state that was undone.
    lake.restore(2).await;
    assert_eq!(lake.kept().await, RowsUpTo::Number(Some(2)));
    lake.restore(4).await;
    assert_eq!(count(&lake.handle).await, 9);
    assert_eq!(lake.kept().await, RowsUpTo::Number(Some(4)));
    lake.restore(1).await;
    assert_eq!(lake.kept().await, RowsUpTo::Number(None));
    // A takeover records again which version the table has.
    lake.handle.take_over("job/rows", 4).await.unwrap();
    assert_eq!(lake.kept().await, RowsUpTo::Number(Some(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_a_restore_to_a_time_is_followed_by_its_files() {
    let mut lake = Lake::new().await;
    for _ in 0..4 {
        lake.batch().await;
    }
    // The files of the batches are in another one.
    lake.optimize().await;
    lake.batch().await;
    assert_eq!(lake.version().await, 7);
    for (to, kept) in [(6, Some(5)), (3, Some(3)), (7, Some(7)), (1, None)] {
        lake.restore(to).await;
        let restored = lake.version().await;
        lake.hide_target(restored);
        assert_eq!(lake.kept().await, RowsUpTo::Number(kept), "to {to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_without_log_entries_the_lineage_is_unknown() {
    let mut lake = Lake::new().await;
    for _ in 0..4 {
        lake.batch().await;
    }
    lake.restore(3).await;
    assert_eq!(lake.version().await, 6);
    // A takeover has read the RESTORE.
    lake.application.checked = 6;
    lake.batch().await;
    lake.restore(6).await;
    assert_eq!(lake.kept().await, RowsUpTo::Number(Some(3)));
    // Versions 3 and 7 have checkpoints.
    for hides in [false, true] {
        if hides {
            lake.hide_target(6);
        }
        for gone in 0..=3 {
            let _ = std::fs::remove_file(lake.entry(gone));
        }
        let handle = open(lake.folder.path()).await;
        let kept = handle.rows_up_to("job/rows").await.unwrap();
        assert_eq!(kept, RowsUpTo::Number(Some(3)), "{hides}");
    }
    std::fs::remove_file(lake.entry(4)).unwrap();
    let handle = open(lake.folder.path()).await;
    let kept = handle.rows_up_to("job/rows").await.unwrap();
    assert_eq!(kept, RowsUpTo::Unknown(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_rows_after_an_unnoticed_restore_are_detected() {
    let mut lake = Lake::new().await;
    for _ in 0..3 {
        lake.batch().await;
    }
    let prepared = lake.prepare(9).await;
    let file = lake.folder.path().join("t").join(&prepared.files()[0]);
    assert!(file.exists());
    lake.restore(2).await;
    lake.application.version = 9;
    let refused = lake
        .handle
        .commit_prepared(prepared, &lake.application)
        .await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.message().contains("version 5 has restored it"),
        "{error}"
    );
    assert!(!file.exists(), "it is sure that no commit names it");
    assert_eq!(lake.version().await, 5);
    // A writer that has seen the RESTORE may go on.
    lake.application.checked = lake.version().await;
    lake.batch().await;
    assert_eq!(count(&lake.handle).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_3_rows_put_back_by_a_restore_are_removed_again() {
    let mut lake = Lake::new().await;
    lake.batch().await;
    let mut last = lake.batch().await;
    last.extend(lake.batch().await);
    lake.handle
        .remove_files(&last, &lake.application)
        .await
        .unwrap();
    assert_eq!((lake.version().await, count(&lake.handle).await), (5, 3));
    lake.restore(4).await;
    assert_eq!(count(&lake.handle).await, 9);
    lake.handle
        .remove_files(&last, &lake.application)
        .await
        .unwrap();
    assert_eq!((lake.version().await, count(&lake.handle).await), (7, 3));
    // Once more there is nothing to do.
    lake.handle
        .remove_files(&last, &lake.application)
        .await
        .unwrap();
    assert_eq!(lake.version().await, 7);
    // Put back and rewritten they cannot be taken back.
    lake.restore(4).await;
    lake.optimize().await;
    let again = lake.handle.remove_files(&last, &lake.application).await;
    let error = again.unwrap_err();
    assert!(
        error.message().contains("was rewritten in version 9"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_3_deleted_files_are_distinguished_from_rewritten_ones() {
    let mut lake = Lake::new().await;
    let mut batches = Vec::new();
    for _ in 0..3 {
        batches.push(lake.batch().await);
    }
    lake.optimize().await;
    let later = batches[1..].concat();
    let rewritten = lake.rewritten(&later).await.unwrap();
    assert_eq!(rewritten.version, 5);
    assert!(later.contains(&rewritten.path));
    // Rows that were rewritten and then restored away are gone, with and without a target version in the RESTORE's
    // entry.
    lake.restore(2).await;
    assert_eq!(lake.rewritten(&later).await, None);
    lake.hide_target(6);
    assert_eq!(lake.rewritten(&later).await, None);
    assert_eq!(lake.rewritten(&batches[0]).await, None, "it is there");

    let file = &batches[0][0];
    let remove = json!({"remove": {"path": file, "dataChange": true, "deletionTimestamp": 1}});
    let info = |operation: &str| json!({"commitInfo": {"operation": operation}});
    let add = json!({"add": {"path": "other.parquet", "partitionValues": {}, "size": 1, "modificationTime": 1,
        "dataChange": true}});
    lake.write_entry(&[info("DELETE"), remove.clone()]).await;
    assert_eq!(lake.rewritten(&batches[0]).await, None);
    lake.restore(6).await;
    lake.write_entry(&[info("UPDATE"), remove, add]).await;
    let rewritten = lake.rewritten(&batches[0]).await.unwrap();
    assert_eq!((&rewritten.path, rewritten.version), (file, 9));
}

/// The log as it is now, in a folder of its own.
fn copied(lake: &Lake) -> PathBuf {
    let copy = lake.folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(lake.entry(0).parent().unwrap()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_a_table_restored_to_its_checkpoint_is_reloaded() {
    let mut lake = Lake::new().await;
    for _ in 0..2 {
        lake.batch().await;
    }
    // Version 3 has a checkpoint, and the log ends with it.
    let copy = copied(&lake);
    assert!(copy.join(format!("{:020}.checkpoint.parquet", 3)).exists());
    // One handle that has loaded this checkpoint, and one that has loaded a later one.
    let from_here = open(lake.folder.path()).await;
    lake.batch().await;
    lake.batch().await;
    assert_eq!(from_here.version().await.unwrap(), 5);
    for _ in 6..=8 {
        lake.batch().await;
    }
    let from_later = open(lake.folder.path()).await;
    let log = lake.entry(0).parent().unwrap().to_owned();
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(copy, &log).unwrap();
    for handle in [&from_here, &from_later, &lake.handle] {
        assert_eq!(handle.version().await.unwrap(), 3);
        let number = handle.transaction_version("job/rows").await.unwrap();
        assert_eq!(number, Some(3));
        assert_eq!(count(handle).await, 6);
    }
    let context = SessionContext::new().task_ctx();
    let committed = from_later.append(rows(50), context, None).await.unwrap();
    assert_eq!(committed.version, 4);
    assert_eq!(count(&open(lake.folder.path()).await).await, 9);
}
