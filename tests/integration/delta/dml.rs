//! DELETE, UPDATE and MERGE as sessions run them: counts, tables of other engines, other writers at the same time.

use anabranch::error::{ErrorKind, Result};
use anabranch::planner::{ChangeKind, ParsedStatement, Script, parse_statement};
use anabranch::session::{Planned, Session, SessionOptions};

use super::foreign::{inline_deletion_vector, require, rewrite, six_rows};
use super::*;
use crate::support::python;

/// A session with the table of this folder as `t`.
pub(super) async fn session_of(folder: &Path) -> Session {
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    let location = folder.display();
    let declared = format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{location}'");
    rows(&session, &declared).await.unwrap();
    session
}

fn parsed(text: &str) -> ParsedStatement {
    let mut statements = Script::new("t", text).split().unwrap();
    parse_statement(&statements.remove(0)).unwrap()
}

async fn rows(session: &Session, text: &str) -> Result<Vec<RecordBatch>> {
    session.collect(parsed(text)).await
}

/// How many rows a statement changes.
pub(super) async fn change(session: &Session, text: &str) -> Result<u64> {
    let planned = session.plan(parsed(text)).await?;
    written(session, planned).await
}

async fn written(session: &Session, planned: Planned) -> Result<u64> {
    session.begin(planned)?.written().await
}

/// The numbers that a query gives.
pub(super) async fn numbers(session: &Session, text: &str) -> Vec<i64> {
    let batches = rows(session, text).await.unwrap();
    let mut numbers = Vec::new();
    for batch in &batches {
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>();
        numbers.extend(column.unwrap().values().iter());
    }
    numbers
}

/// A table of these rows, each with `n` 0, in a file of its own.
async fn table_of(folder: &Path, ids: std::ops::Range<i64>) -> Session {
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    let declared = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT, n BIGINT) STORED AS DELTA LOCATION '{}'",
        folder.display()
    );
    rows(&session, &declared).await.unwrap();
    for id in ids {
        let inserted = change(&session, &format!("INSERT INTO t VALUES ({id}, 0)")).await;
        assert_eq!(inserted.unwrap(), 1);
    }
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn each_statement_reports_the_changed_rows() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..6).await;
    for (text, count) in [
        ("UPDATE t SET n = 1 WHERE id < 4", 4),
        ("DELETE FROM t WHERE id IN (0, 5, 9)", 2),
        ("DELETE FROM t WHERE id > 100", 0),
        (
            "MERGE INTO t USING (VALUES (1), (2), (7)) AS s (k) ON t.id = s.k
             WHEN MATCHED AND s.k = 1 THEN DELETE
             WHEN MATCHED THEN UPDATE SET n = 5
             WHEN NOT MATCHED THEN INSERT (id) VALUES (s.k)",
            3,
        ),
    ] {
        assert_eq!(change(&session, text).await.unwrap(), count, "{text}");
    }
    assert_eq!(
        numbers(&session, "SELECT id FROM t ORDER BY id").await,
        [2, 3, 4, 7]
    );
    assert_eq!(
        numbers(&session, "SELECT coalesce(n, -1) FROM t ORDER BY id").await,
        [5, 1, 0, -1]
    );
    assert_eq!(
        parsed("DELETE FROM t").effect.change(),
        Some(ChangeKind::Delete)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_makes_the_changes_that_explain_shows() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..3).await;
    let all = "SELECT id * 10 + n FROM t ORDER BY 1";
    for (text, counted, after) in [
        (
            "INSERT INTO t VALUES (5, 0)",
            "rows_written=1",
            vec![0, 10, 20, 50],
        ),
        (
            "UPDATE t SET n = n + 1 WHERE id < 2",
            "rows_changed=2",
            vec![1, 11, 20, 50],
        ),
        (
            "MERGE INTO t USING (VALUES (2), (7)) AS s (k) ON t.id = s.k
             WHEN MATCHED THEN UPDATE SET n = 3 WHEN NOT MATCHED THEN INSERT VALUES (s.k, 4)",
            "rows_changed=2",
            vec![1, 11, 23, 50, 74],
        ),
        (
            "DELETE FROM t WHERE n > 1",
            "rows_changed=2",
            vec![1, 11, 50],
        ),
    ] {
        let before = numbers(&session, all).await;
        rows(&session, &format!("EXPLAIN {text}")).await.unwrap();
        assert_eq!(numbers(&session, all).await, before, "{text}");
        let explained = format!("EXPLAIN ANALYZE {text}");
        let explained = rows(&session, &explained).await.unwrap();
        let shown = pretty_format_batches(&explained).unwrap().to_string();
        assert!(shown.contains(counted), "{text}: {shown}");
        assert_eq!(numbers(&session, all).await, after, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_deletion_vector_hides_stay_hidden() {
    let dir = tempfile::tempdir().unwrap();
    six_rows(dir.path()).await;
    let features = ["deletionVectors"];
    require(
        dir.path(),
        &features,
        &["deletionVectors", "generatedColumns"],
    );
    rewrite(dir.path(), 1, |action| {
        if action.get("add").is_some() {
            action["add"]["deletionVector"] = inline_deletion_vector(&[1, 4]);
        }
    });
    let session = session_of(dir.path()).await;
    let offsets = "SELECT \"offset\" FROM t ORDER BY 1";
    assert_eq!(numbers(&session, offsets).await, [0, 2, 3, 5]);
    let deleted = change(&session, "DELETE FROM t WHERE \"offset\" IN (1, 2)").await;
    assert_eq!(deleted.unwrap(), 1);
    assert_eq!(numbers(&session, offsets).await, [0, 3, 5]);
    let updated = change(
        &session,
        "UPDATE t SET \"offset\" = \"offset\" + 10 WHERE \"offset\" > 0",
    )
    .await;
    assert_eq!(updated.unwrap(), 2);
    assert_eq!(numbers(&session, offsets).await, [0, 13, 15]);
    let mut removed = Vec::new();
    for version in 2..4 {
        let actions = log(dir.path(), version);
        let of_file = actions.iter().filter_map(|action| action.get("remove"));
        removed.extend(of_file.map(|remove| remove.get("deletionVector").cloned()));
    }
    // The file that had one leaves with it.
    assert!(
        removed[0].as_ref().is_some_and(|vector| !vector.is_null()),
        "{removed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn python_reads_what_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..4).await;
    for text in [
        "UPDATE t SET n = id * 10 WHERE id > 0",
        "DELETE FROM t WHERE id = 2",
        "MERGE INTO t USING (VALUES (3), (8)) AS s (k) ON t.id = s.k
         WHEN MATCHED THEN UPDATE SET n = NULL WHEN NOT MATCHED THEN INSERT VALUES (s.k, 80)",
    ] {
        change(&session, text).await.unwrap();
    }
    let shown = python(
        r#"
import sys
from deltalake import DeltaTable
table = DeltaTable(sys.argv[1])
print([entry["operation"] for entry in table.history()][:3])
for row in table.to_pyarrow_table().sort_by("id").to_pylist():
    print(row["id"], row["n"])
"#,
        &[dir.path().to_str().unwrap()],
    );
    assert_eq!(
        shown,
        "['MERGE', 'DELETE', 'UPDATE']\n0 0\n1 10\n3 None\n8 80\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_added_meanwhile_are_no_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..3).await;
    let other = session_of(dir.path()).await;
    let planned = session
        .plan(parsed("UPDATE t SET n = n + 1"))
        .await
        .unwrap();
    change(&other, "INSERT INTO t VALUES (9, 0)").await.unwrap();
    assert_eq!(written(&session, planned).await.unwrap(), 3);
    assert_eq!(
        numbers(&session, "SELECT n FROM t ORDER BY id").await,
        [1, 1, 1, 0]
    );

    // Many times, as they come.
    let added = async {
        for id in 100..110 {
            let insert = format!("INSERT INTO t VALUES ({id}, 0)");
            // An INSERT that another commit overtakes says so.
            while let Err(error) = change(&other, &insert).await {
                let help = error.help().unwrap_or_default();
                assert!(help.contains("run the statement again"), "{error}");
            }
        }
    };
    let changed = async {
        for _ in 0..6 {
            let update = "UPDATE t SET n = n + 1 WHERE id < 100";
            assert_eq!(change(&session, update).await.unwrap(), 4);
        }
    };
    tokio::join!(added, changed);
    assert_eq!(
        numbers(&session, "SELECT n FROM t WHERE id < 100 ORDER BY id").await,
        [7, 7, 7, 6]
    );
    assert_eq!(
        numbers(&session, "SELECT count(*) FROM t WHERE id >= 100 AND n = 0").await,
        [10]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_change_or_move_meanwhile_are_a_conflict() {
    for between in [
        "UPDATE t SET n = 100 WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "OPTIMIZE t",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let session = table_of(dir.path(), 0..3).await;
        let other = session_of(dir.path()).await;
        let planned = session
            .plan(parsed("UPDATE t SET n = n + 1"))
            .await
            .unwrap();
        rows(&other, between).await.unwrap();
        let before = numbers(&other, "SELECT id * 1000 + n FROM t ORDER BY 1").await;
        let error = written(&session, planned).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{between}: {error}");
        let help = error.help().unwrap_or_default();
        assert!(help.contains("run the statement again"), "{error:?}");
        let after = numbers(&other, "SELECT id * 1000 + n FROM t ORDER BY 1").await;
        assert_eq!(before, after, "{between}");
        // Over the newest rows it succeeds.
        change(&session, "UPDATE t SET n = n + 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_move_in_a_folder_with_an_escaped_name_are_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let declared = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT, n BIGINT, p VARCHAR) STORED AS DELTA PARTITIONED BY (p) LOCATION '{}'",
        dir.path().display()
    );
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        rows(&session, &declared).await.unwrap();
        sessions.push(session);
    }
    let [session, other] = &sessions[..] else {
        panic!("two sessions");
    };
    for id in 0..3 {
        let insert = format!("INSERT INTO t VALUES ({id}, 0, 'a b/ä:%')");
        change(session, &insert).await.unwrap();
    }
    let planned = session
        .plan(parsed("UPDATE t SET n = n + 1"))
        .await
        .unwrap();
    rows(other, "OPTIMIZE t").await.unwrap();
    let error = written(session, planned).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    change(session, "UPDATE t SET n = n + 1").await.unwrap();
    assert_eq!(
        numbers(session, "SELECT id * 10 + n FROM t ORDER BY 1").await,
        [1, 11, 21]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_do_not_add_the_same_row_twice() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..1).await;
    let other = session_of(dir.path()).await;
    let merge = "MERGE INTO t USING (VALUES (5)) AS s (k) ON t.id = s.k WHEN NOT MATCHED THEN INSERT VALUES (s.k, 0)";
    let planned = session.plan(parsed(merge)).await.unwrap();
    assert_eq!(change(&other, merge).await.unwrap(), 1);
    let error = written(&session, planned).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(change(&session, merge).await.unwrap(), 0);
    assert_eq!(
        numbers(&session, "SELECT id FROM t ORDER BY id").await,
        [0, 5]
    );
}

/// A MERGE that only adds rows has read the table: a statement that has not seen its rows runs again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_merge_adds_meanwhile_are_a_conflict() {
    let merge = "MERGE INTO t USING (VALUES (5)) AS s (k) ON t.id = s.k WHEN NOT MATCHED THEN INSERT VALUES (s.k, 0)";
    for (text, after) in [
        ("UPDATE t SET n = n + 1", vec![1, 11, 51]),
        ("DELETE FROM t WHERE n = 0", vec![]),
        (
            "MERGE INTO t USING (VALUES (1), (5)) AS s (k) ON t.id = s.k WHEN MATCHED THEN UPDATE SET n = 7",
            vec![0, 17, 57],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let session = table_of(dir.path(), 0..2).await;
        let other = session_of(dir.path()).await;
        let planned = session.plan(parsed(text)).await.unwrap();
        assert_eq!(change(&other, merge).await.unwrap(), 1);
        let error = written(&session, planned).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}: {error}");
        let all = "SELECT id * 10 + n FROM t ORDER BY 1";
        assert_eq!(numbers(&session, all).await, [0, 10, 50], "{text}");
        change(&session, text).await.unwrap();
        assert_eq!(numbers(&session, all).await, after, "{text}");
    }
}

/// The same of the MERGE of Python's library, which does not say that it has read the table; its appends are no conflict.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_python_merges_meanwhile_are_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..2).await;
    let location = dir.path().display().to_string();
    let script = r#"
import sys, pyarrow
from deltalake import DeltaTable, write_deltalake
def rows(id):
    return pyarrow.table({"id": pyarrow.array([id], pyarrow.int64()), "n": pyarrow.array([0], pyarrow.int64())})
"#;
    let append = format!("{script}write_deltalake(sys.argv[1], rows(8), mode='append')\n");
    let update = "UPDATE t SET n = n + 1";
    let planned = session.plan(parsed(update)).await.unwrap();
    python(&append, &[&location]);
    assert_eq!(written(&session, planned).await.unwrap(), 2);

    let merge = format!(
        "{script}table = DeltaTable(sys.argv[1])
merged = table.merge(rows(5), 't.id = s.id', source_alias='s', target_alias='t').when_not_matched_insert_all().execute()
assert merged['num_target_rows_inserted'] == 1, merged
assert 'isBlindAppend' not in table.history(1)[0], table.history(1)
"
    );
    let planned = session.plan(parsed(update)).await.unwrap();
    python(&merge, &[&location]);
    let error = written(&session, planned).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(change(&session, update).await.unwrap(), 4);
    let all = "SELECT id * 10 + n FROM t ORDER BY 1";
    assert_eq!(numbers(&session, all).await, [2, 12, 51, 81]);
}

/// In a table whose order of commits is that of its log, also rows that an INSERT adds count.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_added_to_a_serializable_table_are_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    drop(table_of(dir.path(), 0..2).await);
    rewrite(dir.path(), 0, |action| {
        if let Some(metadata) = action.get_mut("metaData") {
            metadata["configuration"]["delta.isolationLevel"] = "Serializable".into();
        }
    });
    let (session, other) = (session_of(dir.path()).await, session_of(dir.path()).await);
    let update = "UPDATE t SET n = n + 1";
    let planned = session.plan(parsed(update)).await.unwrap();
    change(&other, "INSERT INTO t VALUES (9, 0)").await.unwrap();
    let error = written(&session, planned).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(change(&session, update).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_keep_more_than_rows_are_refused() {
    for (property, what) in [
        ("delta.appendOnly", "append-only"),
        ("delta.enableChangeDataFeed", "change data feed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        drop(table_of(dir.path(), 0..1).await);
        rewrite(dir.path(), 0, |action| {
            if let Some(metadata) = action.get_mut("metaData") {
                metadata["configuration"][property] = "true".into();
            }
        });
        let session = session_of(dir.path()).await;
        for text in ["DELETE FROM t", "UPDATE t SET n = 1"] {
            let error = change(&session, text).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.message().contains(what), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_of_the_columns_they_are_assigned_to_or_compared_with() {
    let dir = tempfile::tempdir().unwrap();
    let session = table_of(dir.path(), 0..1).await;
    for text in [
        "UPDATE t SET n = $a WHERE id = $b",
        "MERGE INTO t USING (VALUES (1)) AS s (k) ON t.id = $b WHEN MATCHED THEN UPDATE SET n = $a",
    ] {
        let types = session.parameter_types(&parsed(text)).await;
        for name in ["a", "b"] {
            assert_eq!(types.get(name), Some(&DataType::Int64), "{text}: {types:?}");
        }
    }
}
