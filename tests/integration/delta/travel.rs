//! Earlier versions, and snapshots that do not change.

use anabranch::error::ErrorKind;

use super::*;

async fn count(handle: &DeltaTableHandle, at: TimeTravel) -> anabranch::error::Result<i64> {
    let context = SessionContext::new();
    context.register_table("t", handle.snapshot(at).await?)?;
    let batches = run(&context, "SELECT count(*) FROM t").await?;
    Ok(batches[0]
        .column(0)
        .as_any()
        .downcast_ref::<Int64Array>()
        .unwrap()
        .value(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn time_travel_by_version_and_timestamp() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    for offset in 0..3 {
        insert(&handle, RECORD, vec![records(offset, &[Some(DAY)])])
            .await
            .unwrap();
    }
    for version in 0..4 {
        assert_eq!(
            count(&handle, TimeTravel::Version(version)).await.unwrap(),
            version as i64
        );
    }
    assert_eq!(count(&handle, TimeTravel::Latest).await.unwrap(), 3);

    // The time of a version is the time of its file.
    for version in 0..4_i64 {
        let file = dir.path().join(format!("_delta_log/{version:020}.json"));
        let time =
            std::time::UNIX_EPOCH + std::time::Duration::from_micros((DAY + version * HOUR) as u64);
        std::fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    for (time, rows) in [
        (0, 0),
        (1, 0),
        (HOUR - 1, 0),
        (HOUR, 1),
        (2 * HOUR + 1, 2),
        (99 * HOUR, 3),
    ] {
        assert_eq!(
            count(&handle, TimeTravel::Timestamp(DAY + time))
                .await
                .unwrap(),
            rows,
            "{time}"
        );
    }
    let error = count(&handle, TimeTravel::Timestamp(DAY - 1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error
            .message()
            .contains("the oldest is version 0 of 2025-09-04T00:00:00.000000Z"),
        "{error}"
    );
    let error = count(&handle, TimeTravel::Version(4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error
            .message()
            .contains("has no version 4; the newest is 3"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_and_a_new_one_is_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let reader = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let writer = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let before = session(&reader).await;
    insert(&writer, RECORD, vec![records(0, &[Some(DAY)])])
        .await
        .unwrap();
    let rows = run(&before, "SELECT * FROM t").await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    assert_eq!(number(&reader, "SELECT count(*) FROM t").await, 1);
    assert_eq!(reader.version().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_version_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let context = SessionContext::new();
    context
        .register_table("t", handle.snapshot(TimeTravel::Version(0)).await.unwrap())
        .unwrap();
    let error = run(&context, "INSERT INTO t (value) VALUES ('x')")
        .await
        .unwrap_err();
    assert!(error.message().contains("earlier version"), "{error}");
}

/// Versions are found across the checkpoints that commits leave behind.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_do_not_change_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        options: [("delta.checkpointInterval".into(), "3".into())].into(),
        ..archive(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    for offset in 0..7 {
        insert(
            &handle,
            RECORD,
            vec![records(offset, &[Some(DAY + offset * HOUR)])],
        )
        .await
        .unwrap();
    }
    let checkpoint = dir
        .path()
        .join("_delta_log/00000000000000000005.checkpoint.parquet");
    assert!(checkpoint.exists(), "no checkpoint was written");
    let fresh = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    assert_eq!(count(&fresh, TimeTravel::Latest).await.unwrap(), 7);
    assert_eq!(count(&fresh, TimeTravel::Version(4)).await.unwrap(), 4);
    let sql = "SELECT * FROM t WHERE event_time >= '2025-09-04T02:00:00Z' AND event_time < '2025-09-04T03:00:00Z'";
    assert_eq!(scanned(&fresh, sql).await, (1, 1));
}

/// A folder that a backup was put back into, under a process that has the table open.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_put_back_to_an_earlier_version_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let add = async |handle: &DeltaTableHandle, rows: i64| {
        let times = vec![Some(DAY); usize::try_from(rows).unwrap()];
        insert(handle, RECORD, vec![records(0, &times)])
            .await
            .unwrap();
    };
    let put_back_to = |version: u64| {
        for gone in version + 1..=3 {
            let entry = format!("_delta_log/{gone:020}.json");
            std::fs::remove_file(dir.path().join(entry)).unwrap();
        }
    };
    for _ in 1..=3 {
        add(&handle, 1).await;
    }
    let identity = handle.identity().await.unwrap();
    put_back_to(1);
    assert_eq!(handle.version().await.unwrap(), 1);
    assert_eq!(count(&handle, TimeTravel::Latest).await.unwrap(), 1);
    assert_eq!(handle.identity().await.unwrap(), identity);
    add(&handle, 1).await;
    add(&handle, 1).await;
    assert_eq!(handle.version().await.unwrap(), 3);
    assert_eq!(handle.identity().await.unwrap(), identity);

    // Another process has gone on since to the same version: the commit that this handle has seen there is another one.
    put_back_to(1);
    let other = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    add(&other, 10).await;
    add(&other, 10).await;
    assert_eq!(other.version().await.unwrap(), 3);
    assert_eq!(handle.identity().await.unwrap(), identity);
    assert_eq!(count(&handle, TimeTravel::Latest).await.unwrap(), 21);
}
