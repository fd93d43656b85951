//! SESSION and COMPLETE_SESSIONS against their definitions (SESS-1, SESS-2).

use std::sync::Arc;

use anabranch_udfs::{CompletionNotices, SessionsCapped};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use crate::oracle::{Assigned, complete_sessions, sessions};
use crate::support::{
    MINUTE, Visit, collect, context, context_with, numbers, plan_text, register_visits, rows,
};

const GAP: i64 = 10;

async fn assigned(context: &SessionContext, from: &str) -> Vec<Assigned> {
    let batches = collect(
        context,
        &format!("SELECT id, window_start, window_end FROM {from}"),
    )
    .await
    .unwrap_or_else(|error| panic!("{from}: {error}"));
    let column = |number| numbers(&batches, number).into_iter().map(Option::unwrap);
    let mut rows: Vec<_> = column(0)
        .zip(column(1))
        .zip(column(2))
        .map(|((id, start), end)| (id, start, end))
        .collect();
    rows.sort_unstable();
    rows
}

fn small_batches(partitions: usize) -> SessionConfig {
    SessionConfig::new()
        .with_batch_size(7)
        .with_target_partitions(partitions)
}

/// A session whose memory is too small to hold much, so that sessions are sorted with spilling.
fn little_memory(partitions: usize, bytes: usize) -> SessionContext {
    let mut config = small_batches(partitions);
    config.options_mut().execution.sort_spill_reservation_bytes = 1024;
    context_with(config, |builder| {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)))
            .build_arc()
            .unwrap();
        builder.with_runtime_env(runtime)
    })
}

/// Visits on a small scale: many ties, gaps of exactly [`GAP`], long chains, NULL keys.
fn visits() -> impl Strategy<Value = Vec<Visit>> {
    let site = prop::sample::select(vec![None, Some("a"), Some("b")]);
    let user = prop::option::weighted(0.8, 0_i64..3);
    let time = prop_oneof![
        4 => -300_i64..300,
        2 => (-30_i64..30).prop_map(|n| n * GAP),
        1 => (0_i64..3).prop_map(|n| n * 5),
    ];
    prop::collection::vec((site, user, time.prop_map(Some)), 0..120)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn sess_1_sessions_are_those_of_the_definition(
        visits in visits(), batch in 1_usize..40, partitions in 1_usize..4,
    ) {
        block_on(async {
            let context = context(small_batches(partitions));
            register_visits(&context, &visits, batch, partitions);
            let by_user = sessions(&visits, |visit| visit.1, GAP);
            for from in [
                "SESSION(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 microseconds')",
                "SESSION(visits, user_id, event_time, INTERVAL '10 microseconds')",
                "SESSION(TABLE (SELECT * FROM visits ORDER BY user_id NULLS FIRST, event_time LIMIT 1000) PARTITION BY user_id, \
                 DESCRIPTOR(event_time), INTERVAL '10 microseconds')",
            ] {
                assert_eq!(assigned(&context, from).await, by_user, "{from}");
            }
            let by_both = sessions(&visits, |visit| (visit.0, visit.1), GAP);
            for from in [
                "SESSION(TABLE visits PARTITION BY user_id, site, DESCRIPTOR(event_time), INTERVAL '10 microseconds')",
                "SESSION(TABLE visits PARTITION BY (site, user_id), DESCRIPTOR(event_time), INTERVAL '10 microseconds')",
                "SESSION(visits, (user_id, site), event_time, INTERVAL '10 microseconds')",
            ] {
                assert_eq!(assigned(&context, from).await, by_both, "{from}");
            }
            let all = sessions(&visits, |_| (), GAP);
            for from in [
                "SESSION(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 microseconds')",
                "SESSION(visits, DESCRIPTOR(event_time), INTERVAL '10 microseconds')",
            ] {
                assert_eq!(assigned(&context, from).await, all, "{from}");
            }
        });
    }

    #[test]
    fn sess_2_completion_equals_sessionizing_everything(
        visits in visits(), batch in 1_usize..40, partitions in 1_usize..4,
        from in -320_i64..320, length in 1_i64..100, keys in 0_usize..3,
    ) {
        block_on(async {
            let context = context(small_batches(partitions));
            register_visits(&context, &visits, batch, partitions);
            let to = from + length;
            let rest = format!(
                "INTERVAL '10 microseconds', to_timestamp_micros({from}), to_timestamp_micros({to})"
            );
            let (sql, expected) = match keys {
                0 => (
                    format!("COMPLETE_SESSIONS(TABLE visits, DESCRIPTOR(event_time), {rest})"),
                    complete_sessions(&visits, |_| (), GAP, from, to),
                ),
                1 => (
                    format!("COMPLETE_SESSIONS(visits, user_id, event_time, {rest})"),
                    complete_sessions(&visits, |visit| visit.1, GAP, from, to),
                ),
                _ => (
                    format!("COMPLETE_SESSIONS(TABLE visits PARTITION BY site, user_id, DESCRIPTOR(event_time), {rest}, INTERVAL '1 day')"),
                    complete_sessions(&visits, |visit| (visit.0, visit.1), GAP, from, to),
                ),
            };
            assert_eq!(assigned(&context, &sql).await, expected, "{sql}");
        });
    }
}

/// Start, end, rows, sum of ids and even ids of each session, by the definition.
fn aggregated<K: Ord + Copy>(visits: &[Visit], key: impl Fn(&Visit) -> K + Copy) -> Vec<[i64; 5]> {
    aggregated_of(visits, &sessions(visits, key, GAP), key)
}

/// The same of the sessions that rows were assigned to.
fn aggregated_of<K: Ord + Copy>(
    visits: &[Visit],
    assigned: &[Assigned],
    key: impl Fn(&Visit) -> K,
) -> Vec<[i64; 5]> {
    let mut groups = std::collections::BTreeMap::new();
    for (id, start, end) in assigned.iter().copied() {
        let visit = &visits[usize::try_from(id).unwrap()];
        let row = groups
            .entry((key(visit), start))
            .or_insert([start, end, 0, 0, 0]);
        row[2] += 1;
        row[3] += id;
        row[4] += i64::from(id % 2 == 0);
    }
    let mut rows: Vec<_> = groups.into_values().collect();
    rows.sort_unstable();
    rows
}

/// What of `visits` may be read: those at most `extension` before `from` or past `to`; the sessions of the range among
/// them, by the definition.
fn completed<K: Ord + Copy>(
    visits: &[Visit],
    key: impl Fn(&Visit) -> K + Copy,
    gap: i64,
    (from, to): (i64, i64),
    extension: i64,
) -> Vec<[i64; 5]> {
    let is_read = |visit: &Visit| (from - extension..to + extension).contains(&visit.2.unwrap());
    let ids: Vec<usize> = (0..visits.len())
        .filter(|id| is_read(&visits[*id]))
        .collect();
    let read: Vec<Visit> = ids.iter().map(|id| visits[*id]).collect();
    let assigned: Vec<Assigned> = complete_sessions(&read, key, gap, from, to)
        .into_iter()
        .map(|(id, start, end)| (ids[usize::try_from(id).unwrap()] as i64, start, end))
        .collect();
    aggregated_of(visits, &assigned, key)
}

/// The same from a query.
async fn aggregated_by_sql(context: &SessionContext, sql: &str) -> Vec<[i64; 5]> {
    let batches = collect(context, sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let columns: Vec<Vec<i64>> = (0..5)
        .map(|number| {
            numbers(&batches, number)
                .into_iter()
                .map(Option::unwrap)
                .collect()
        })
        .collect();
    let mut rows: Vec<[i64; 5]> = (0..columns[0].len())
        .map(|row| std::array::from_fn(|column| columns[column][row]))
        .collect();
    rows.sort_unstable();
    rows
}

const AGGREGATES: &str = "window_start, window_end, count(*), CAST(sum(id) AS BIGINT), \
                          count(CASE WHEN id % 2 = 0 THEN 1 END)";

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn sess_1_aggregates_by_session_are_those_of_the_definition(
        visits in visits(), batch in 1_usize..40, partitions in 1_usize..4, little in any::<bool>(),
    ) {
        block_on(async {
            let context = if little {
                // What does not fit leaves early and is merged later.
                little_memory(partitions, 60_000)
            } else {
                context(small_batches(partitions))
            };
            register_visits(&context, &visits, batch, partitions);
            let user = "SESSION(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 microseconds')";
            let by_user = aggregated(&visits, |visit| visit.1);
            for sql in [
                format!("SELECT {AGGREGATES} FROM {user} GROUP BY user_id, window_start, window_end"),
                format!("SELECT {AGGREGATES} FROM {user} AS s GROUP BY s.window_end, s.window_start, s.user_id"),
                format!("SELECT a, b, count(*), CAST(sum(i) AS BIGINT), count(CASE WHEN i % 2 = 0 THEN 1 END) FROM \
                         (SELECT user_id AS u, window_start AS a, window_end AS b, id AS i FROM {user}) GROUP BY u, a, b"),
            ] {
                assert_eq!(aggregated_by_sql(&context, &sql).await, by_user, "{sql}");
            }
            let by_both = aggregated(&visits, |visit| (visit.0, visit.1));
            let sql = format!(
                "SELECT {AGGREGATES} FROM SESSION(visits, (user_id, site), event_time, INTERVAL '10 microseconds') \
                 GROUP BY site, user_id, window_start, window_end"
            );
            assert_eq!(aggregated_by_sql(&context, &sql).await, by_both, "{sql}");
            let all = aggregated(&visits, |_| ());
            let sql = format!(
                "SELECT {AGGREGATES} FROM SESSION(visits, DESCRIPTOR(event_time), INTERVAL '10 microseconds') \
                 GROUP BY window_start, window_end"
            );
            assert_eq!(aggregated_by_sql(&context, &sql).await, all, "{sql}");
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn sess_2_aggregates_by_completed_session_are_those_of_the_definition(
        visits in visits(), batch in 1_usize..40, partitions in 1_usize..4,
        // On the scale of minutes slices end at whole hours.
        scale in prop::sample::select(vec![1, MINUTE]),
        from in -320_i64..320, length in prop_oneof![1_i64..10, 1_i64..150],
        // Little makes many slices; less is a session that is cut.
        extension in prop_oneof![10_i64..60, Just(10_000_i64)], keys in 0_usize..3,
    ) {
        block_on(async {
            let visits: Vec<Visit> = visits
                .iter()
                .map(|visit| (visit.0, visit.1, visit.2.map(|tick| tick * scale)))
                .collect();
            let context = context(small_batches(partitions));
            register_visits(&context, &visits, batch, partitions);
            let (gap, extension) = (GAP * scale, extension * scale);
            let range = (from * scale, (from + length) * scale);
            let rest = format!(
                "DESCRIPTOR(event_time), INTERVAL '{gap} microseconds', to_timestamp_micros({}), \
                 to_timestamp_micros({}), INTERVAL '{extension} microseconds'",
                range.0, range.1
            );
            let (partition_by, group_by, expected) = match keys {
                0 => ("", "", completed(&visits, |_| (), gap, range, extension)),
                1 => (
                    "PARTITION BY user_id",
                    "user_id, ",
                    completed(&visits, |visit| visit.1, gap, range, extension),
                ),
                _ => (
                    "PARTITION BY (site, user_id)",
                    "user_id, site, ",
                    completed(&visits, |visit| (visit.0, visit.1), gap, range, extension),
                ),
            };
            let sql = format!(
                "SELECT {AGGREGATES} FROM COMPLETE_SESSIONS(TABLE visits {partition_by}, {rest}) \
                 GROUP BY {group_by} window_start, window_end"
            );
            assert_eq!(aggregated_by_sql(&context, &sql).await, expected, "{sql}");
        });
    }
}

#[tokio::test]
async fn aggregates_by_completed_session_hold_no_rows_where_they_can() {
    let context = context(SessionConfig::new().with_target_partitions(2));
    register_visits(&context, &[(None, Some(1), Some(0))], 1, 1);
    let sessions = "COMPLETE_SESSIONS(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), \
                    INTERVAL '10 minutes', '1970-01-01', '1970-01-02')";
    let plan_of = async |select: &str, rest: &str| {
        let sql = format!("SELECT {select} FROM {sessions} {rest}");
        plan_text(&context, &sql).await
    };
    let plan = plan_of("user_id, count(*)", "GROUP BY user_id, window_start").await;
    assert!(plan.contains("aggr=[count("), "{plan}");
    assert!(!plan.contains("AggregateExec"), "{plan}");
    for (select, rest) in [
        (
            "avg(id), count(DISTINCT site)",
            "AS s GROUP BY window_end, s.window_start, s.user_id HAVING count(*) > 1",
        ),
        ("array_agg(id)", "GROUP BY user_id, window_start"),
        // It sorts by itself: rows may come in any order.
        (
            "array_agg(id ORDER BY event_time)",
            "GROUP BY user_id, window_start",
        ),
    ] {
        let plan = plan_of(select, rest).await;
        assert!(!plan.contains("AggregateExec"), "{select} {rest}: {plan}");
    }
    // A part of the keys, another column, the window inside an aggregate, an order: rows need their session.
    for (select, rest) in [
        ("count(*)", "GROUP BY window_start"),
        ("count(*)", "GROUP BY user_id"),
        ("count(*)", "GROUP BY user_id, window_start, site"),
        ("max(window_end)", "GROUP BY user_id, window_start"),
        (
            "nth_value(id, 1 ORDER BY event_time)",
            "GROUP BY user_id, window_start",
        ),
    ] {
        let plan = plan_of(select, rest).await;
        assert!(plan.contains("AggregateExec"), "{select} {rest}: {plan}");
        let leaf = plan
            .lines()
            .find(|line| line.contains("CompleteSessionsExec"));
        let leaf = leaf.expect(&plan);
        assert!(!leaf.contains("aggr="), "{select} {rest}: {plan}");
    }
}

#[tokio::test]
async fn aggregates_by_session_have_an_operator_of_their_own_where_they_can() {
    let context = context(SessionConfig::new().with_target_partitions(2));
    register_visits(&context, &[(None, Some(1), Some(0))], 1, 1);
    let session = "SESSION(visits, user_id, event_time, INTERVAL '10 minutes')";
    let has_own = async |select: &str, rest: &str| {
        let sql = format!("SELECT {select} FROM {session} {rest}");
        let plan = plan_text(&context, &sql).await;
        plan.contains("SessionMergeExec")
    };
    assert!(has_own("count(*)", "GROUP BY user_id, window_start").await);
    assert!(
        has_own(
            "count(*)",
            "GROUP BY user_id, window_start HAVING count(*) > 1"
        )
        .await
    );
    assert!(
        has_own(
            "user_id, avg(id), min(site)",
            "GROUP BY 1, window_end, window_start"
        )
        .await
    );
    // A part of the keys, another column, the window inside an aggregate, an order: rows need their session.
    for (select, rest) in [
        ("count(*)", "GROUP BY window_start"),
        ("count(*)", "GROUP BY user_id, window_end"),
        ("count(*)", "GROUP BY user_id, window_start, site"),
        ("max(window_end)", "GROUP BY user_id, window_start"),
        (
            "nth_value(id, 1 ORDER BY event_time)",
            "GROUP BY user_id, window_start",
        ),
    ] {
        assert!(!has_own(select, rest).await, "{select} {rest}");
    }
}

#[tokio::test]
async fn aggregates_in_order_are_the_same_with_an_operator_of_their_own() {
    let visits: Vec<Visit> = (0..3_000_i64)
        .map(|n| (None, Some(n * 7919 % 97), Some((n * 104_729) % 6_011)))
        .collect();
    let context = context(SessionConfig::new().with_target_partitions(2));
    register_visits(&context, &visits, 100, 2);
    for sessions in [
        "SESSION(visits, user_id, event_time, INTERVAL '10 microseconds')",
        "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '10 microseconds', '1970-01-01', '1970-01-02')",
    ] {
        let rows = async |more: &str, filter: &str| {
            let sql = format!(
                "SELECT user_id, window_start, ids, named FROM (SELECT user_id, window_start, \
                   array_agg(id ORDER BY event_time DESC, id) AS ids, first_value(id ORDER BY event_time, id) AS named{more} \
                 FROM {sessions} GROUP BY user_id, window_start) {filter} ORDER BY user_id, window_start"
            );
            let frame = crate::support::query(&context, &sql).await.unwrap();
            let batches = frame.collect().await.unwrap();
            arrow::util::pretty::pretty_format_batches(&batches)
                .unwrap()
                .to_string()
        };
        // What reads the window gives each row its session first.
        let of_rows = rows(", max(window_end) AS e", "WHERE e > '1900-01-01'").await;
        assert!(of_rows.lines().count() > 100, "{of_rows}");
        assert_eq!(rows("", "").await, of_rows, "{sessions}");
    }
}

#[tokio::test]
async fn aggregates_by_session_beyond_memory_are_sorted_with_spilling() {
    let visits: Vec<Visit> = (0..40_000_i64)
        .map(|n| (None, Some(n * 7919 % 9973), Some((n * 104_729) % 60_011)))
        .collect();
    let expected = aggregated(&visits, |visit| visit.1);
    let context = little_memory(2, 2_000_000);
    register_visits(&context, &visits, 1000, 2);
    let sql = format!(
        "SELECT {AGGREGATES} FROM SESSION(visits, user_id, event_time, INTERVAL '10 microseconds') \
         GROUP BY user_id, window_start, window_end"
    );
    let frame = crate::support::query(&context, &sql).await.unwrap();
    let physical = frame.create_physical_plan().await.unwrap();
    let batches = datafusion::physical_plan::collect(Arc::clone(&physical), context.task_ctx())
        .await
        .unwrap();
    let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, expected.len());
    assert!(
        metric(physical.as_ref(), "sorted_partitions") > 0,
        "nothing was sorted"
    );
    assert_eq!(aggregated_by_sql(&context, &sql).await, expected);
}

#[tokio::test]
async fn sessions_beyond_memory_are_sorted_with_spilling() {
    let visits: Vec<Visit> = (0..20_000_i64)
        .map(|n| {
            (
                None,
                Some(n * 7919 % 50).filter(|user| *user != 3),
                Some((n * 104_729) % 60_011),
            )
        })
        .collect();
    let expected = sessions(&visits, |visit| visit.1, GAP);
    let context = little_memory(2, 600_000);
    register_visits(&context, &visits, 1000, 2);
    let sql = "SELECT * FROM SESSION(visits, user_id, event_time, INTERVAL '10 microseconds')";
    let frame = crate::support::query(&context, sql).await.unwrap();
    let physical = frame.create_physical_plan().await.unwrap();
    let task = context.task_ctx();
    let batches = datafusion::physical_plan::collect(Arc::clone(&physical), task)
        .await
        .unwrap();
    let mut found: Vec<_> = numbers(&batches, 0)
        .into_iter()
        .zip(numbers(&batches, 4))
        .zip(numbers(&batches, 5))
        .map(|((id, start), end)| (id.unwrap(), start.unwrap(), end.unwrap()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(
        metric(physical.as_ref(), "sorted_partitions") > 0,
        "nothing was sorted"
    );
}

#[tokio::test]
async fn sess_1_the_last_row_plus_the_gap_ends_a_session() {
    let context = context(SessionConfig::new());
    let visits: Vec<Visit> = [0, 10, 20, 31]
        .map(|n| (None, None, Some(n * MINUTE)))
        .to_vec();
    register_visits(&context, &visits, 4, 1);
    let sql = "SELECT count(*), window_start, window_end FROM \
               SESSION(visits, user_id, event_time, INTERVAL '10 minutes') \
               GROUP BY user_id, window_start, window_end ORDER BY 2";
    let expected = [
        ["3", "1970-01-01T00:00:00Z", "1970-01-01T00:30:00Z"],
        ["1", "1970-01-01T00:31:00Z", "1970-01-01T00:41:00Z"],
    ];
    assert_eq!(rows(&context, sql).await.unwrap(), expected);
}

#[tokio::test]
async fn one_shuffle_serves_sessions_and_their_aggregate() {
    let context = context(SessionConfig::new().with_target_partitions(4));
    register_visits(&context, &[(None, Some(1), Some(0))], 1, 1);
    let sql = "SELECT user_id, window_start, count(*) FROM \
               SESSION(visits, user_id, event_time, INTERVAL '10 minutes') GROUP BY 1, 2";
    let plan = plan_text(&context, sql).await;
    assert_eq!(plan.matches("Hash([").count(), 1, "{plan}");
    let sql = "SELECT user_id, window_start, site, count(*) FROM \
               SESSION(visits, user_id, event_time, INTERVAL '10 minutes') GROUP BY 1, 2, 3";
    let plan = plan_text(&context, sql).await;
    assert_eq!(plan.matches("Hash([").count(), 1, "{plan}");
    assert!(!plan.contains("SortExec"), "{plan}");
}

#[tokio::test]
async fn only_filters_on_keys_move_below_sessions() {
    let context = context(SessionConfig::new().with_target_partitions(1));
    let visits = [
        (Some("a"), Some(1), Some(0)),
        (Some("b"), Some(1), Some(8)),
        (Some("a"), Some(1), Some(16)),
    ];
    register_visits(&context, &visits, 3, 1);
    let session = "SESSION(visits, user_id, event_time, INTERVAL '10 microseconds')";
    let sql = format!("SELECT id, window_start FROM {session} WHERE user_id = 1 AND site = 'a'");
    let plan = plan_text(&context, &sql).await;
    let (above, below) = plan.split_once("SessionExec").expect(&plan);
    assert!(
        above.contains("site@") && !above.contains("user_id@"),
        "{plan}"
    );
    assert!(below.contains("FilterExec: user_id@"), "{plan}");
    // Row 1, of another site, still holds rows 0 and 2 together.
    let starts = rows(
        &context,
        &format!("SELECT DISTINCT window_start FROM ({sql})"),
    )
    .await
    .unwrap();
    assert_eq!(starts, [["1970-01-01T00:00:00Z"]]);
    let columns = "SELECT count(*), window_start FROM SESSION(visits, user_id, event_time, INTERVAL '1 s') GROUP BY 2";
    assert!(!plan_text(&context, columns).await.contains("site"));
}

fn metric(plan: &dyn datafusion::physical_plan::ExecutionPlan, name: &str) -> usize {
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
async fn a_session_longer_than_max_extension_is_cut_and_reported() {
    let notices = Arc::new(CompletionNotices::default());
    let context = context(SessionConfig::new().with_extension(Arc::clone(&notices)));
    // User 1 visits every five minutes for days; user 2 once.
    let mut visits: Vec<Visit> = (-1000..1000)
        .map(|n| (None, Some(1), Some(n * 5 * MINUTE)))
        .collect();
    visits.push((None, Some(2), Some(MINUTE)));
    register_visits(&context, &visits, 100, 2);
    let call = |extension: &str| {
        format!(
            "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '10 minutes', \
             '1970-01-01T00:00:00', TIMESTAMP '1970-01-01T01:00:00Z'{extension})"
        )
    };
    let hours = |rows: &[Assigned]| {
        (
            rows.iter().map(|row| row.1).min(),
            rows.iter().map(|row| row.2).max(),
        )
    };
    let cut = assigned(&context, &call(", INTERVAL '2 hours'")).await;
    assert_eq!(
        hours(&cut),
        (Some(-120 * MINUTE), Some((180 - 5 + 10) * MINUTE))
    );
    assert_eq!(
        notices.drain(),
        [SessionsCapped {
            sessions: 1,
            named: vec!["user_id=1 from 1969-12-31T22:00:00Z to 1970-01-01T02:55:00Z".to_owned()],
            searched: (
                "1969-12-31T22:00:00Z".to_owned(),
                "1970-01-01T03:00:00Z".to_owned()
            ),
        }]
    );
    let explain = format!(
        "EXPLAIN ANALYZE SELECT * FROM {}",
        call(", INTERVAL '2 hours'")
    );
    let plan = format!("{:?}", rows(&context, &explain).await.unwrap());
    assert!(plan.contains("capped_sessions=1"), "{plan}");
    assert!(
        plan.contains("capped=[user_id=1 from 1969-12-31T22:00:00Z to 1970-01-01T02:55:00Z]"),
        "{plan}"
    );
    assert_eq!(notices.drain().len(), 1);
    // An aggregate by session says the same.
    let counted = format!(
        "SELECT user_id, window_start, count(*) FROM {} GROUP BY user_id, window_start",
        call(", INTERVAL '2 hours'")
    );
    let counts = rows(&context, &format!("{counted} ORDER BY user_id"))
        .await
        .unwrap();
    assert_eq!(
        counts,
        [
            ["1", "1969-12-31T22:00:00Z", "60"],
            ["2", "1970-01-01T00:01:00Z", "1"]
        ]
    );
    let noticed = notices.drain();
    assert_eq!(noticed.len(), 1);
    assert_eq!(
        noticed[0].named,
        ["user_id=1 from 1969-12-31T22:00:00Z to 1970-01-01T02:55:00Z"]
    );
    let plan = rows(&context, &format!("EXPLAIN ANALYZE {counted}")).await;
    let plan = format!("{:?}", plan.unwrap());
    for text in [
        "capped_sessions=1",
        "aggr=[count(",
        "capped=[user_id=1 from",
    ] {
        assert!(plan.contains(text), "{text}: {plan}");
    }
    assert_eq!(notices.drain().len(), 1);
    let day = assigned(&context, &call("")).await;
    assert_eq!(
        hours(&day),
        (Some(-24 * 60 * MINUTE), Some((25 * 60 - 5 + 10) * MINUTE))
    );
    assert_eq!(notices.drain().len(), 1);
    let whole = assigned(&context, &call(", INTERVAL '30 days'")).await;
    assert_eq!(
        whole,
        complete_sessions(&visits, |visit| visit.1, 10 * MINUTE, 0, 60 * MINUTE)
    );
    assert_eq!(notices.drain(), []);
}
