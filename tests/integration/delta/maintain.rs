//! OPTIMIZE, VACUUM, history.

use anabranch::tables::delta::{OptimizeSpec, VacuumSpec};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;

use super::*;

fn value(batch: &RecordBatch, name: &str) -> i64 {
    batch
        .column_by_name(name)
        .unwrap()
        .as_primitive::<Int64Type>()
        .value(0)
}

async fn many_files(folder: &Path) -> DeltaTableHandle {
    let spec = DeltaSpec {
        options: [(
            "delta.deletedFileRetentionDuration".into(),
            "interval 0 hours".into(),
        )]
        .into(),
        ..archive(folder)
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    for file in 0..4 {
        let times = [Some(DAY + file), Some(DAY + HOUR + file), None];
        insert(&handle, RECORD, vec![records(file * 10, &times)])
            .await
            .unwrap();
    }
    handle
}

#[tokio::test(flavor = "multi_thread")]
async fn optimize_merges_files_and_keeps_rows() {
    let dir = tempfile::tempdir().unwrap();
    let handle = many_files(dir.path()).await;
    let everything = r#"SELECT * FROM t ORDER BY "offset""#;
    let before = query(&handle, everything).await;
    let metrics = handle
        .optimize(&OptimizeSpec::default(), None)
        .await
        .unwrap();
    assert_eq!(value(&metrics, "files_removed"), 12);
    assert_eq!(value(&metrics, "files_added"), 3);
    assert_eq!(query(&handle, everything).await, before);
    assert_eq!(scanned(&handle, "SELECT * FROM t").await, (12, 3));

    let zorder = OptimizeSpec {
        zorder_by: vec!["offset".into(), "partition".into()],
    };
    let metrics = handle.optimize(&zorder, None).await.unwrap();
    assert_eq!(value(&metrics, "files_added"), 3);
    assert_eq!(query(&handle, everything).await, before);

    for (name, part) in [
        ("ofset", "no column named ofset"),
        ("hour", "is a partition column"),
    ] {
        let spec = OptimizeSpec {
            zorder_by: vec![name.into()],
        };
        let error = handle.optimize(&spec, None).await.unwrap_err();
        assert!(error.message().contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vacuum_deletes_what_no_version_needs() {
    let dir = tempfile::tempdir().unwrap();
    let handle = many_files(dir.path()).await;
    handle
        .optimize(&OptimizeSpec::default(), None)
        .await
        .unwrap();
    std::fs::write(dir.path().join("year=2025/left-behind.parquet"), "x").unwrap();
    assert_eq!(data_files(dir.path()).len(), 16);

    let dry = VacuumSpec {
        retain_hours: Some(0),
        dry_run: true,
    };
    let listed = handle.vacuum(&dry).await.unwrap();
    assert_eq!(listed.num_rows(), 13);
    assert_eq!(listed.column(1).as_boolean().true_count(), 0);
    assert_eq!(data_files(dir.path()).len(), 16);

    let deleted = handle
        .vacuum(&VacuumSpec {
            retain_hours: Some(0),
            dry_run: false,
        })
        .await
        .unwrap();
    assert_eq!(deleted.column(1).as_boolean().true_count(), 13);
    assert_eq!(data_files(dir.path()).len(), 3);
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 12);
}

/// A writer that is killed leaves a file beside its place, under its name with `#` and a number.
#[tokio::test(flavor = "multi_thread")]
async fn vacuum_deletes_what_a_killed_writer_left_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    let handle = many_files(dir.path()).await;
    let hour = std::time::Duration::from_secs(60 * 60);
    let left = |name: &str, hours: u32| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(std::time::SystemTime::now() - hour * hours)
            .unwrap();
        path
    };
    let old = [
        left("_delta_log/00000000000000000009.json#1", 49),
        left("_delta_log/_last_checkpoint#12", 49),
        left("part-0.parquet#1", 49),
        left(
            "year=2025/part-0.parquet#340282366920938463463374607431768211455",
            49,
        ),
    ];
    let kept = [
        left("_delta_log/00000000000000000010.json#1", 47),
        left("year=2025/part-1.parquet#1", 47),
        left("_notes/list#1", 49),
    ];
    let vacuum = |retain_hours, dry_run| VacuumSpec {
        retain_hours: Some(retain_hours),
        dry_run,
    };
    let rows = handle.vacuum(&vacuum(48, true)).await.unwrap();
    assert_eq!(rows.num_rows(), 4);
    assert_eq!(rows.column(1).as_boolean().true_count(), 0);
    assert!(old.iter().all(|path| path.exists()));

    let rows = handle.vacuum(&vacuum(48, false)).await.unwrap();
    let paths = rows.column(0).as_string::<i32>();
    let wanted = old.iter().map(|path| {
        let path = path.strip_prefix(dir.path()).unwrap();
        path.to_str().unwrap()
    });
    assert_eq!(
        paths.iter().flatten().collect::<Vec<_>>(),
        wanted.collect::<Vec<_>>()
    );
    assert_eq!(rows.column(1).as_boolean().true_count(), 4);
    assert!(old.iter().all(|path| !path.exists()));
    assert!(kept.iter().all(|path| path.exists()));

    // For every retention, a writer has a day.
    let young = left("part-2.parquet#1", 23);
    let rows = handle.vacuum(&vacuum(0, false)).await.unwrap();
    assert_eq!(rows.num_rows(), 2);
    assert!(young.exists() && kept[2].exists());
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn vacuum_keeps_to_the_retention_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    insert(&handle, RECORD, vec![records(0, &[Some(DAY)])])
        .await
        .unwrap();
    let error = handle
        .vacuum(&VacuumSpec {
            retain_hours: Some(1),
            dry_run: false,
        })
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("RETAIN 1 HOURS is shorter than the 168 hours"),
        "{error}"
    );
    let none = handle.vacuum(&VacuumSpec::default()).await.unwrap();
    assert_eq!(none.num_rows(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let handle = many_files(dir.path()).await;
    handle
        .optimize(&OptimizeSpec::default(), None)
        .await
        .unwrap();
    let history = handle.history().await.unwrap();
    let versions = history.column_by_name("version").unwrap();
    assert_eq!(
        versions.as_primitive::<Int64Type>().values().to_vec(),
        [5, 4, 3, 2, 1, 0]
    );
    let operations: Vec<_> = history
        .column_by_name("operation")
        .unwrap()
        .as_string::<i32>()
        .iter()
        .flatten()
        .collect();
    assert_eq!(
        operations,
        [
            "OPTIMIZE",
            "WRITE",
            "WRITE",
            "WRITE",
            "WRITE",
            "CREATE TABLE"
        ]
    );
    let metrics = history
        .column_by_name("metrics")
        .unwrap()
        .as_string::<i32>();
    assert!(
        metrics.value(1).contains("\"numOutputRows\":\"3\""),
        "{}",
        metrics.value(1)
    );
    assert_eq!(history.column_by_name("timestamp").unwrap().null_count(), 0);
}
