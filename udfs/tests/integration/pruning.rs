//! What is read: files and row groups, by the metrics of the scans.

use std::path::Path;
use std::sync::Arc;

use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use crate::oracle::{complete_sessions, sessions};
use crate::support::{
    MINUTE, Visit, context, numbers, query, rows, timestamp_type, visits_batch, visits_schema,
};

const HOUR: i64 = 60 * MINUTE;
const FILES: usize = 96;

/// A file per hour; in each, visits of many users every minute, and long sessions of users 1 and 2
/// in the hours 40 to 44.
fn archive() -> Vec<Vec<Visit>> {
    let file = |hour: i64| {
        let regular = (0..60).map(|minute| {
            let user = 100 + hour * 60 + minute;
            (Some("a"), Some(user), Some(hour * HOUR + minute * MINUTE))
        });
        let long = (0..12).filter(|_| (40..45).contains(&hour)).flat_map(|n| {
            let at = Some(hour * HOUR + n * 5 * MINUTE);
            [(None, Some(1), at), (None, None, at)]
        });
        regular.chain(long).collect()
    };
    (0..FILES as i64).map(file).collect()
}

async fn write(context: &SessionContext, folder: &Path, files: &[Vec<Visit>]) {
    let mut first = 0;
    for (number, visits) in files.iter().enumerate() {
        let file = std::fs::File::create(folder.join(format!("{number:03}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, visits_schema(), None).unwrap();
        writer.write(&visits_batch(first, visits)).unwrap();
        writer.close().unwrap();
        first += visits.len();
    }
    let url = ListingTableUrl::parse(format!("file://{}/", folder.display())).unwrap();
    let options =
        ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("parquet");
    let config = ListingTableConfig::new(url)
        .with_listing_options(options)
        .with_schema(visits_schema());
    let table = ListingTable::try_new(config).unwrap();
    context.register_table("visits", Arc::new(table)).unwrap();
}

struct Archive {
    context: SessionContext,
    visits: Vec<Visit>,
    _folder: tempfile::TempDir,
}

async fn archived() -> Archive {
    archived_in(SessionConfig::new().with_target_partitions(2)).await
}

async fn archived_in(config: SessionConfig) -> Archive {
    let folder = tempfile::tempdir().unwrap();
    let context = context(config);
    let files = archive();
    write(&context, folder.path(), &files).await;
    Archive {
        context,
        visits: files.concat(),
        _folder: folder,
    }
}

/// Runs a query; the result's first column, and the files that were read.
async fn run(context: &SessionContext, sql: &str) -> (Vec<i64>, usize, Arc<dyn ExecutionPlan>) {
    let physical = query(context, sql)
        .await
        .unwrap()
        .create_physical_plan()
        .await
        .unwrap();
    let batches = collect(Arc::clone(&physical), context.task_ctx())
        .await
        .unwrap();
    let mut ids: Vec<i64> = numbers(&batches, 0).into_iter().flatten().collect();
    ids.sort_unstable();
    let files = files_read(physical.as_ref());
    (ids, files, physical)
}

fn files_read(plan: &dyn ExecutionPlan) -> usize {
    let mut files = 0;
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        if let MetricValue::PruningMetrics {
            name,
            pruning_metrics,
        } = metric.value()
            && name == "row_groups_pruned_statistics"
        {
            files += pruning_metrics.matched();
        }
    }
    files
        + plan
            .children()
            .into_iter()
            .map(|child| files_read(child.as_ref()))
            .sum::<usize>()
}

fn metric(plan: &dyn ExecutionPlan, name: &str) -> usize {
    let own = plan
        .metrics()
        .and_then(|metrics| metrics.sum_by_name(name))
        .map_or(0, |v| v.as_usize());
    own + plan
        .children()
        .into_iter()
        .map(|child| metric(child.as_ref(), name))
        .sum::<usize>()
}

#[tokio::test]
async fn predicates_through_floors_and_windows_prune_files() {
    let archive = archived().await;
    let day = "1970-01-02T";
    for (from, predicate, most) in [
        (
            "visits",
            format!("date_trunc('hour', event_time) = '{day}10:00:00Z'"),
            1,
        ),
        (
            "visits",
            format!(
                "date_trunc('hour', event_time) >= '{day}10:00:00Z' AND date_trunc('hour', event_time) < '{day}13:00:00Z'"
            ),
            3,
        ),
        (
            "visits",
            format!("date_trunc('hour', event_time) BETWEEN '{day}10:00:00Z' AND '{day}12:00:00Z'"),
            3,
        ),
        (
            "visits",
            "date_trunc('day', event_time) <= '1970-01-01T12:00:00Z'".to_owned(),
            24,
        ),
        (
            "visits",
            "date_trunc('month', event_time) < '1970-01-01'".to_owned(),
            0,
        ),
        (
            "visits",
            "'1970-01-04T00:00:00Z' <= date_trunc('day', event_time)".to_owned(),
            24,
        ),
        (
            "visits",
            format!("date_bin(INTERVAL '2 hours', event_time) = '{day}10:00:00Z'"),
            2,
        ),
        (
            "visits",
            format!(
                "date_bin(INTERVAL '2 hours', event_time, TIMESTAMP '1970-01-01T01:00:00') > '{day}10:00:00Z' AND date_bin(INTERVAL '2 hours', event_time, TIMESTAMP '1970-01-01T01:00:00') <= '{day}12:00:00Z'"
            ),
            4,
        ),
        (
            "visits",
            "CAST(event_time AS DATE) = DATE '1970-01-03'".to_owned(),
            24,
        ),
        (
            "visits",
            "event_time::date < DATE '1970-01-02'".to_owned(),
            24,
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '1 hour')",
            format!("window_start = '{day}10:00:00Z'"),
            1,
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '1 hour')",
            format!("window_start > '{day}10:00:00Z' AND window_end <= '{day}13:00:00Z'"),
            2,
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '1 hour') AS w",
            format!("w.window_start BETWEEN '{day}10:00:00Z' AND '{day}12:00:00Z'"),
            3,
        ),
        (
            "HOP(visits, event_time, INTERVAL '1 hour', INTERVAL '3 hours')",
            format!("window_start = '{day}10:00:00Z'"),
            3,
        ),
        (
            "HOP(visits, event_time, INTERVAL '1 hour', INTERVAL '3 hours')",
            format!("window_end > '{day}10:00:00Z' AND window_end < '{day}12:00:00Z'"),
            3,
        ),
        (
            "CUMULATE(visits, event_time, INTERVAL '1 hour', INTERVAL '1 day')",
            "window_start = '1970-01-02'".to_owned(),
            24,
        ),
        (
            "CUMULATE(visits, event_time, INTERVAL '1 hour', INTERVAL '1 day')",
            format!("window_start = '1970-01-02' AND window_end = '{day}03:00:00Z'"),
            3,
        ),
    ] {
        let sql = format!("SELECT id FROM {from} WHERE {predicate}");
        let (found, files, plan) = run(&archive.context, &sql).await;
        let text = datafusion::physical_plan::displayable(plan.as_ref())
            .indent(false)
            .to_string();
        assert!(files <= most, "{sql} read {files} files\n{text}");
        // The same by an expression that nothing sees through.
        let opaque = from.replace("visits,", "(SELECT id, to_timestamp_micros(arrow_cast(event_time, 'Int64') + 0) AS event_time FROM visits),");
        let opaque = if opaque == from {
            "(SELECT id, to_timestamp_micros(arrow_cast(event_time, 'Int64') + 0) AS event_time FROM visits)".to_owned()
        } else {
            opaque
        };
        let (expected, all, _) = run(
            &archive.context,
            &format!("SELECT id FROM {opaque} WHERE {predicate}"),
        )
        .await;
        assert_eq!(found, expected, "{sql}");
        assert!(all >= FILES, "the comparison must read all: {all}");
    }
}

#[tokio::test]
async fn aggregates_over_windows_prune_too() {
    let archive = archived().await;
    let sql = "SELECT count(*), window_start FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '1 hour') \
               GROUP BY window_start HAVING window_start >= '1970-01-04T22:00:00Z'";
    let (counts, files, plan) = run(&archive.context, sql).await;
    let text = datafusion::physical_plan::displayable(plan.as_ref())
        .indent(false)
        .to_string();
    assert_eq!((counts, files), (vec![60, 60], 2), "{text}");
}

#[tokio::test]
async fn sess_2_completion_reads_only_the_files_it_needs() {
    let archive = archived().await;
    let call = |from: &str, to: &str| {
        format!(
            "SELECT id FROM COMPLETE_SESSIONS(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), \
             INTERVAL '10 minutes', '{from}', '{to}')"
        )
    };
    // Hour 42 is in the middle of the long sessions, hour 10 has none.
    let (ids, _, plan) = run(
        &archive.context,
        &call("1970-01-01T10:20:00", "1970-01-01T10:40:00"),
    )
    .await;
    assert_eq!(ids.len(), 20);
    assert_eq!(metric(plan.as_ref(), "slices"), 1);
    assert_eq!(metric(plan.as_ref(), "files_read"), 1);
    assert_eq!(metric(plan.as_ref(), "capped_sessions"), 0);
    let (from, to) = (42 * HOUR, 43 * HOUR);
    let (ids, _, plan) = run(
        &archive.context,
        &call("1970-01-02T18:00:00Z", "1970-01-02T19:00:00Z"),
    )
    .await;
    let expected = complete_sessions(&archive.visits, |visit| visit.1, 10 * MINUTE, from, to);
    assert_eq!(ids, expected.iter().map(|row| row.0).collect::<Vec<_>>());
    assert_eq!(ids.len(), 60 + 2 * 5 * 12);
    let slices = metric(plan.as_ref(), "slices");
    assert!((3..=9).contains(&slices), "{slices}");
    // The sessions span 5 files; slices that share a file read it again, but none far away.
    let files = metric(plan.as_ref(), "files_read");
    assert!((5..=20).contains(&files), "{files}");
    let rows_read = metric(plan.as_ref(), "rows_read");
    assert!((180..=480).contains(&rows_read), "{rows_read}");
    let explain = format!(
        "EXPLAIN ANALYZE {}",
        call("1970-01-02T18:00:00Z", "1970-01-02T19:00:00Z")
    );
    let text = format!("{:?}", rows(&archive.context, &explain).await.unwrap());
    for name in ["slices=", "rows_read=", "files_read=", "capped_sessions=0"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

/// Counts by session, and what was read: slices, files and rows.
async fn counted(archive: &Archive, table: &str) -> (Vec<i64>, [usize; 3]) {
    let sql = format!(
        "SELECT count(*), user_id FROM COMPLETE_SESSIONS(TABLE {table} PARTITION BY user_id, DESCRIPTOR(event_time), \
         INTERVAL '10 minutes', '1970-01-02T18:00:00Z', '1970-01-02T19:00:00Z') GROUP BY user_id, window_start"
    );
    let (counts, _, plan) = run(&archive.context, &sql).await;
    let read = ["slices", "files_read", "rows_read"].map(|name| metric(plan.as_ref(), name));
    (counts, read)
}

#[tokio::test]
async fn sess_2_row_filters_only_remove_rows() {
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().execution.parquet.pushdown_filters = true;
    let filtering = archived_in(config).await;
    // 60 users visit once in the hour, 2 all the time from hour 40 to 44.
    let mut expected = vec![1; 60];
    expected.extend([60, 60]);
    let (counts, [slices, files, rows_read]) = counted(&filtering, "visits").await;
    assert_eq!(counts, expected);
    // Hours 41 to 43, the long sessions alone in 40 and 44, and nothing beyond.
    assert_eq!((slices, rows_read), (5, 3 * 84 + 2 * 24));
    assert!((5..=11).contains(&files), "{files}");
    let subquery = "(SELECT user_id, event_time FROM visits WHERE site IS NULL OR user_id % 2 = 0)";
    let even = expected.split_off(30);
    assert_eq!(counted(&filtering, subquery).await.0, even);
    let plain = archived().await;
    assert_eq!(counted(&plain, subquery).await.0, even);
    let rows = "SELECT id FROM COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '10 minutes', \
                '1970-01-02T18:00:00Z', '1970-01-02T19:00:00Z')";
    let (ids, ..) = run(&filtering.context, rows).await;
    let (from, to) = (42 * HOUR, 43 * HOUR);
    let expected = complete_sessions(&plain.visits, |visit| visit.1, 10 * MINUTE, from, to);
    assert_eq!(ids, expected.iter().map(|row| row.0).collect::<Vec<_>>());
}

#[tokio::test]
async fn sessions_over_files_are_those_of_the_definition() {
    let archive = archived().await;
    let sql = "SELECT id, window_start, window_end FROM SESSION(visits, user_id, event_time, INTERVAL '10 minutes')";
    let batches = crate::support::collect(&archive.context, sql)
        .await
        .unwrap();
    let column = |number| numbers(&batches, number).into_iter().map(Option::unwrap);
    let mut found: Vec<_> = column(0)
        .zip(column(1))
        .zip(column(2))
        .map(|((id, start), end)| (id, start, end))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        sessions(&archive.visits, |visit| visit.1, 10 * MINUTE)
    );
    assert_eq!(batches[0].schema().field(1).data_type(), &timestamp_type());
}

#[tokio::test]
async fn offsets_in_prunes_row_groups() {
    let archive = archived().await;
    // The ids of the archive are ascending over its files: they stand for offsets.
    let sql = r#"SELECT id FROM visits WHERE offsets_in(arrow_cast(0, 'Int32'), id, '{"0":60}', '{"0":120}')"#;
    let (ids, files, _) = run(&archive.context, sql).await;
    assert_eq!((ids, files), ((60..120).collect(), 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_derived_range_never_removes_a_row(
        ticks in prop::collection::vec(-200_000_000_i64..200_000_000, 1..40),
        value in -200_000_000_i64..200_000_000, on_grid: bool,
        call in prop::sample::select(vec![
            "date_trunc('minute', event_time)", "date_trunc('second', event_time)",
            "date_bin(INTERVAL '7 seconds', event_time)", "date_trunc('week', event_time)",
            "date_bin(INTERVAL '1 minute', event_time, TIMESTAMP '1970-01-01T00:00:13')",
        ]),
        op in prop::sample::select(vec!["=", "<", "<=", ">", ">=", "<>"]),
    ) {
        let value = if on_grid { value.div_euclid(MINUTE) * MINUTE } else { value };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let context = context(SessionConfig::new().with_target_partitions(1));
            let visits: Vec<Visit> = ticks.iter().map(|tick| (None, None, Some(*tick))).collect();
            crate::support::register_visits(&context, &visits, 7, 1);
            let literal = format!("arrow_cast(arrow_cast({value}, 'Timestamp(µs)'), 'Timestamp(µs, \"UTC\")')");
            let sql = format!("SELECT id FROM visits WHERE {call} {op} {literal} ORDER BY id");
            let plain = format!("SELECT id FROM visits WHERE ({call} {op} {literal}) IS TRUE ORDER BY id");
            assert_eq!(
                rows(&context, &sql).await.unwrap(),
                rows(&context, &plain).await.unwrap(),
                "{sql}"
            );
        });
    }
}
