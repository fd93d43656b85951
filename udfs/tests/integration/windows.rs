//! TUMBLE, HOP and CUMULATE in SQL: forms, shapes, errors.

use datafusion::prelude::{SessionConfig, SessionContext};

use crate::support::{
    MINUTE, SECOND, collect, context, failure, numbers, plan_text, register_visits, rows,
};

fn visits() -> SessionContext {
    let context = context(SessionConfig::new().with_target_partitions(2));
    let visits = [
        (Some("a"), Some(1), Some(0)),
        (Some("a"), Some(2), Some(10 * MINUTE)),
        (Some("b"), Some(1), Some(-1)),
        (None, None, Some(25 * MINUTE + SECOND)),
    ];
    register_visits(&context, &visits, 2, 2);
    context
}

async fn windows_of(context: &SessionContext, from: &str) -> Vec<(i64, i64, i64)> {
    let sql = format!("SELECT id, window_start, window_end FROM {from} ORDER BY 1, 2, 3");
    let batches = collect(context, &sql).await.unwrap();
    let column = |number| numbers(&batches, number).into_iter().map(Option::unwrap);
    column(0)
        .zip(column(1))
        .zip(column(2))
        .map(|((id, start), end)| (id, start, end))
        .collect()
}

#[tokio::test]
async fn tumble_floors_times_before_the_epoch() {
    let context = visits();
    let expected = vec![
        (0, 0, 10 * MINUTE),
        (1, 10 * MINUTE, 20 * MINUTE),
        (2, -10 * MINUTE, 0),
        (3, 20 * MINUTE, 30 * MINUTE),
    ];
    for from in [
        "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 minutes')",
        "TUMBLE(visits, event_time, INTERVAL '10 minutes')",
        "TUMBLE(visits, visits.event_time, INTERVAL '4 minutes' + INTERVAL '6 minutes')",
        "tumble(TABLE (SELECT * FROM visits), DESCRIPTOR(event_time), INTERVAL '10' MINUTE)",
        "Tumble((SELECT * FROM visits), event_time, '10 minutes')",
        "TUMBLE(TABLE public.visits, DESCRIPTOR(event_time), INTERVAL '10 minutes') AS w",
    ] {
        assert_eq!(windows_of(&context, from).await, expected, "{from}");
    }
}

#[tokio::test]
async fn an_offset_shifts_every_boundary() {
    let context = visits();
    for (offset, shift) in [
        ("3 minutes", 3),
        ("-7 minutes", 3),
        ("23 minutes", 3),
        ("0 minutes", 0),
    ] {
        let from =
            format!("TUMBLE(visits, event_time, INTERVAL '10 minutes', INTERVAL '{offset}')");
        for (id, start, end) in windows_of(&context, &from).await {
            assert_eq!(
                (start.rem_euclid(10 * MINUTE), end - start),
                (shift * MINUTE, 10 * MINUTE),
                "{id}"
            );
        }
    }
    let hop =
        "HOP(visits, event_time, INTERVAL '5 minutes', INTERVAL '10 minutes', INTERVAL '1 minute')";
    let first: Vec<_> = windows_of(&context, hop)
        .await
        .into_iter()
        .filter(|row| row.0 == 0)
        .collect();
    assert_eq!(
        first,
        [(0, -9 * MINUTE, MINUTE), (0, -4 * MINUTE, 6 * MINUTE)]
    );
}

#[tokio::test]
async fn hop_and_cumulate_repeat_rows() {
    let context = visits();
    let hop =
        "HOP(TABLE visits, DESCRIPTOR(event_time), INTERVAL '5 minutes', INTERVAL '10 minutes')";
    let expected = vec![
        (0, -5 * MINUTE, 5 * MINUTE),
        (0, 0, 10 * MINUTE),
        (1, 5 * MINUTE, 15 * MINUTE),
        (1, 10 * MINUTE, 20 * MINUTE),
        (2, -10 * MINUTE, 0),
        (2, -5 * MINUTE, 5 * MINUTE),
        (3, 20 * MINUTE, 30 * MINUTE),
        (3, 25 * MINUTE, 35 * MINUTE),
    ];
    assert_eq!(windows_of(&context, hop).await, expected);
    let cumulate = "CUMULATE(visits, event_time, INTERVAL '10 minutes', INTERVAL '30 minutes')";
    let expected = vec![
        (0, 0, 10 * MINUTE),
        (0, 0, 20 * MINUTE),
        (0, 0, 30 * MINUTE),
        (1, 0, 20 * MINUTE),
        (1, 0, 30 * MINUTE),
        (2, -30 * MINUTE, 0),
        (3, 0, 30 * MINUTE),
    ];
    assert_eq!(windows_of(&context, cumulate).await, expected);
}

#[tokio::test]
async fn a_row_in_many_windows_leaves_in_bounded_batches() {
    let context = context(
        SessionConfig::new()
            .with_batch_size(100)
            .with_target_partitions(1),
    );
    let visits: Vec<_> = (0..50).map(|n| (None, Some(n), Some(n * SECOND))).collect();
    register_visits(&context, &visits, 50, 1);
    let sql = "SELECT * FROM HOP(visits, event_time, INTERVAL '1 second', INTERVAL '30 seconds')";
    let batches = collect(&context, sql).await.unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        50 * 30
    );
    assert!(batches.iter().all(|batch| batch.num_rows() <= 100));
}

#[tokio::test]
async fn windows_stand_over_ctes_views_aliases_and_joins() {
    let context = visits();
    context
        .sql("CREATE VIEW recent AS SELECT * FROM visits WHERE id > 0")
        .await
        .unwrap();
    let cte = "WITH some AS (SELECT * FROM visits WHERE user_id = 1) \
               SELECT w.id, w.window_start FROM TUMBLE(TABLE some, DESCRIPTOR(event_time), INTERVAL '1 hour') AS w \
               ORDER BY w.id";
    assert_eq!(
        rows(&context, cte).await.unwrap(),
        [["0", "1970-01-01T00:00:00Z"], ["2", "1969-12-31T23:00:00Z"]]
    );
    let view = "SELECT count(*) FROM TUMBLE(recent, event_time, INTERVAL '1 hour')";
    assert_eq!(rows(&context, view).await.unwrap(), [["3"]]);
    let qualified = "SELECT visits.id FROM TUMBLE(visits, event_time, INTERVAL '1 hour') \
                     WHERE visits.user_id = 2";
    assert_eq!(rows(&context, qualified).await.unwrap(), [["1"]]);
    let join = "SELECT a.id, b.id FROM TUMBLE(visits, event_time, INTERVAL '1 hour') a \
                JOIN HOP(TABLE visits, DESCRIPTOR(event_time), INTERVAL '1 hour', INTERVAL '1 hour') b \
                ON a.window_start = b.window_start AND a.id < b.id ORDER BY 1, 2";
    assert_eq!(
        rows(&context, join).await.unwrap(),
        [["0", "1"], ["0", "3"], ["1", "3"]]
    );
    let nested = "SELECT count(*) FROM TUMBLE(TABLE (SELECT id, window_end - INTERVAL '1 second' AS t \
                  FROM TUMBLE(visits, event_time, INTERVAL '1 hour')), DESCRIPTOR(t), INTERVAL '1 day')";
    assert_eq!(rows(&context, nested).await.unwrap(), [["4"]]);
}

#[tokio::test]
async fn table_arguments_do_not_change_other_statements() {
    let context = visits();
    for sql in [
        "SELECT 'x' AS \"table\" FROM visits WHERE id = 0",
        "SELECT \"table\" FROM (SELECT 'x' AS \"table\")",
        "SELECT concat(\"table\", '') FROM (SELECT 'x' AS \"table\")",
    ] {
        assert_eq!(rows(&context, sql).await.unwrap(), [["x"]], "{sql}");
    }
    let session = "SELECT session FROM (SELECT 1 AS session)";
    assert_eq!(rows(&context, session).await.unwrap(), [["1"]]);
}

#[tokio::test]
async fn only_the_columns_in_use_are_read() {
    let context = visits();
    let sql = "SELECT window_start, count(*) FROM TUMBLE(visits, event_time, INTERVAL '1 hour') \
               WHERE id > 1 GROUP BY window_start";
    let plan = plan_text(&context, sql).await;
    let window = plan.find("EventWindowExec").expect(&plan);
    assert!(
        plan[window..].contains("FilterExec: id@0 > 1"),
        "the filter moves below: {plan}"
    );
    assert!(!plan[window..].contains("site"), "{plan}");
}

#[tokio::test]
async fn null_1_a_null_event_time_fails_with_a_hint() {
    let context = context(SessionConfig::new());
    register_visits(
        &context,
        &[(None, Some(1), Some(1)), (None, Some(2), None)],
        2,
        1,
    );
    for from in [
        "TUMBLE(visits, event_time, INTERVAL '1 minute')",
        "HOP(visits, event_time, INTERVAL '1 minute', INTERVAL '2 minutes')",
        "CUMULATE(visits, event_time, INTERVAL '1 minute', INTERVAL '2 minutes')",
        "SESSION(visits, user_id, event_time, INTERVAL '1 minute')",
        "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '1 minute', '1970-01-01', '1970-01-02')",
    ] {
        let (message, help, _) = failure(&context, &format!("SELECT * FROM {from}")).await;
        assert!(
            message.contains("the event time event_time is NULL"),
            "{from}: {message}"
        );
        assert!(
            help.contains("WHERE event_time IS NOT NULL"),
            "{from}: {help}"
        );
        let filtered = from.replacen(
            "visits",
            "(SELECT * FROM visits WHERE event_time IS NOT NULL)",
            1,
        );
        let ids = rows(&context, &format!("SELECT DISTINCT id FROM {filtered}"))
            .await
            .unwrap();
        assert_eq!(ids, [["0"]], "{from}");
    }
    for function in [
        "SESSION(visits, user_id, event_time, INTERVAL '1 minute')",
        "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '1 minute', '1970-01-01', '1970-01-02')",
    ] {
        let sql = format!("SELECT count(*) FROM {function} GROUP BY user_id, window_start");
        let (message, ..) = failure(&context, &sql).await;
        assert!(message.contains("is NULL"), "{function}: {message}");
    }
}

#[tokio::test]
async fn mistakes_are_named_with_their_place() {
    let context = visits();
    for (from, message, help, at) in [
        (
            "TUMBLE(visits, evnt_time, INTERVAL '1 minute')",
            "no column named evnt_time",
            "did you mean \"event_time\"?",
            "evnt_time",
        ),
        (
            "TUMBLE(TABLE visits, DESCRIPTOR(zzz), INTERVAL '1 minute')",
            "no column named zzz",
            "the columns are id, site, user_id, event_time",
            "zzz",
        ),
        (
            "TUMBLE(visits, user_id, INTERVAL '1 minute')",
            "event time user_id is of type Int64, not a timestamp",
            "cast it",
            "user_id",
        ),
        (
            "TUMBLE(visits, event_time)",
            "TUMBLE: wrong number of arguments (2)",
            "usage: TUMBLE(TABLE t, DESCRIPTOR(event_time), size [, offset])",
            "TUMBLE",
        ),
        (
            "HOP(visits, event_time, INTERVAL '1 minute')",
            "HOP: wrong number of arguments (3)",
            "usage: HOP",
            "HOP",
        ),
        (
            "SESSION(visits, user_id, event_time)",
            "SESSION: wrong number of arguments (3)",
            "usage: SESSION",
            "SESSION",
        ),
        (
            "TUMBLE()",
            "TUMBLE: the arguments are missing",
            "usage: TUMBLE",
            "TUMBLE",
        ),
        (
            "TUMBLE(visits)",
            "TUMBLE: the event time is missing",
            "usage: TUMBLE",
            "TUMBLE",
        ),
        (
            "TUMBLE(visits, DESCRIPTOR(id, event_time), INTERVAL '1 minute')",
            "DESCRIPTOR takes one column",
            "usage",
            "DESCRIPTOR(id, event_time",
        ),
        (
            "TUMBLE(1, event_time, INTERVAL '1 minute')",
            "TUMBLE: 1 is not a table",
            "usage",
            "1",
        ),
        (
            "TUMBLE(visits, size => event_time, INTERVAL '1 minute')",
            "is not possible here",
            "usage",
            "",
        ),
        (
            "TUMBLE(TABLE visits PARTITION BY id, DESCRIPTOR(event_time), INTERVAL '1 minute')",
            "PARTITION BY is not possible here",
            "usage",
            "",
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '0 minutes')",
            "the size must be positive",
            "INTERVAL '10 minutes'",
            "",
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '-1 minute')",
            "the size must be positive",
            "INTERVAL '10 minutes'",
            "",
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '1 month')",
            "cannot be measured in months",
            "date_trunc('month'",
            "",
        ),
        (
            "TUMBLE(visits, event_time, 10)",
            "the size must be an interval, got 10",
            "INTERVAL '10 minutes'",
            "10",
        ),
        (
            "TUMBLE(visits, event_time, 'x')",
            "the size must be",
            "INTERVAL",
            "",
        ),
        (
            "TUMBLE(visits, event_time, INTERVAL '1 nanosecond')",
            "finer than the event time",
            "round the interval",
            "",
        ),
        (
            "TUMBLE(visits, event_time, id)",
            "the size must be a constant",
            "literal",
            "id",
        ),
        (
            "TUMBLE(visits, event_time, NULL)",
            "which is NULL",
            "literal",
            "",
        ),
        (
            "HOP(visits, event_time, INTERVAL '3 minutes', INTERVAL '10 minutes')",
            "not a multiple of the slide",
            "the slide comes first",
            "",
        ),
        (
            "HOP(visits, event_time, INTERVAL '10 minutes', INTERVAL '5 minutes')",
            "not a multiple of the slide",
            "the slide comes first",
            "",
        ),
        (
            "CUMULATE(visits, event_time, INTERVAL '7 minutes', INTERVAL '10 minutes')",
            "not a multiple of the step",
            "the step comes first",
            "",
        ),
        (
            "HOP(visits, event_time, INTERVAL '1 microsecond', INTERVAL '1 day')",
            "a row would be in 86400000000 windows",
            "check the units",
            "",
        ),
        (
            "SESSION(visits, user_id + 1, event_time, INTERVAL '1 minute')",
            "a session's key must be a column",
            "subquery",
            "",
        ),
        (
            "SESSION(visits, user, event_time, INTERVAL '1 minute')",
            "no column named user",
            "the columns are",
            "user",
        ),
        (
            "SESSION(visits, user_id, event_time, INTERVAL '0 minutes')",
            "the gap must be positive",
            "INTERVAL",
            "",
        ),
        (
            "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '1 minute', '2025-01-02', '2025-01-01')",
            "from (2025-01-02T00:00:00Z) must be before to (2025-01-01T00:00:00Z)",
            "ends before to",
            "",
        ),
        (
            "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '1 minute', 1, '2025-01-01')",
            "from must be a timestamp, got 1",
            "TIMESTAMP '",
            "1",
        ),
        (
            "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '1 minute', 'soon', '2025-01-01')",
            "which cannot be read as one",
            "TIMESTAMP '",
            "",
        ),
        (
            "COMPLETE_SESSIONS(visits, user_id, event_time, INTERVAL '1 minute', '2025-01-01', '2025-01-02', INTERVAL '-1 hour')",
            "max_extension must not be negative",
            "24 hours",
            "",
        ),
        (
            "TUMBLE((SELECT id, event_time, event_time AS window_start FROM visits), event_time, INTERVAL '1 minute')",
            "already has a column window_start",
            "rename it",
            "TUMBLE",
        ),
        (
            "TUMBLE((SELECT arrow_cast(event_time, 'Timestamp(Second, Some(\"Europe/Paris\"))') AS t FROM visits), t, INTERVAL '1 day')",
            "is in time zone Europe/Paris",
            "cast it",
            "t",
        ),
        (
            "TUMBLE(TABLE nowhere, DESCRIPTOR(event_time), INTERVAL '1 minute')",
            "nowhere",
            "",
            "",
        ),
    ] {
        let (found, found_help, found_at) =
            failure(&context, &format!("SELECT * FROM {from}")).await;
        assert!(found.contains(message), "{from}: {found}");
        assert!(found_help.contains(help), "{from}: {found_help}");
        if !at.is_empty() {
            assert_eq!(found_at, at, "{from}: {found}");
        }
    }
}
