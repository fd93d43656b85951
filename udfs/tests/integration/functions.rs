//! Scalar and aggregate functions.

use datafusion::prelude::SessionConfig;
use proptest::prelude::*;

use crate::support::{collect, context, failure, numbers, plan_text, register_visits, rows};

#[tokio::test]
async fn is_final_is_true_in_a_query() {
    let context = context(SessionConfig::new().with_target_partitions(3));
    register_visits(
        &context,
        &[(None, Some(1), Some(0)), (None, Some(2), Some(0))],
        1,
        2,
    );
    let sql = "SELECT user_id, is_final(), count(*) FROM visits GROUP BY 1 ORDER BY 1";
    assert_eq!(
        rows(&context, sql).await.unwrap(),
        [["1", "true", "1"], ["2", "true", "1"]]
    );
    let nothing = "SELECT is_final(), count(*), sum(id) FROM visits WHERE id > 9";
    assert_eq!(
        rows(&context, nothing).await.unwrap(),
        [["true", "0", "NULL"]]
    );
}

#[tokio::test]
async fn offsets_in_plans_as_ranges() {
    let context = context(SessionConfig::new());
    register_visits(&context, &[(None, Some(1), Some(0))], 1, 1);
    let sql = r#"SELECT id FROM visits WHERE offsets_in(user_id, id, '{"v":{"0":23,"1":-2}}', '{"v":{"0":30,"1":-1}}')"#;
    let plan = plan_text(&context, sql).await;
    assert!(
        plan.contains("user_id@1 = 0 AND id@0 >= 23 AND id@0 < 30 OR user_id@1 = 1"),
        "{plan}"
    );
}

#[tokio::test]
async fn offsets_in_mistakes_are_named() {
    let context = context(SessionConfig::new());
    register_visits(&context, &[(None, Some(1), Some(0))], 1, 1);
    for (args, expected) in [
        (
            "user_id, id, '{', '{}'",
            "from has offsets that are not valid: EOF",
        ),
        (r#"user_id, id, '{"0":1,"0":2}', '{}'"#, "0 is named twice"),
        ("user_id, id, '{}', NULL", "not NULL"),
        ("user_id, id, '{}'", "offsets_in takes a partition"),
        ("site, id, '{}', '{}'", "Utf8 is not an integer"),
        ("user_id, id, '{}', site", "must be constants"),
    ] {
        let sql = format!("SELECT * FROM visits WHERE offsets_in({args})");
        let (message, ..) = failure(&context, &sql).await;
        assert!(message.contains(expected), "{args}: {message}");
    }
}

fn json(offsets: &[(i64, i64)]) -> String {
    let entries: Vec<_> = offsets
        .iter()
        .map(|(p, o)| format!("\"{p}\":{o}"))
        .collect();
    format!("{{{}}}", entries.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn offsets_in_matches_its_definition(
        from in prop::collection::btree_map(0_i64..4, -2_i64..12, 0..4),
        extent in prop::collection::btree_map(0_i64..4, prop::option::weighted(0.8, 0_i64..8), 0..4),
        rows in prop::collection::vec((prop::option::weighted(0.9, 0_i64..5), prop::option::weighted(0.9, 0_i64..20)), 1..60),
        volatile: bool,
    ) {
        let to: std::collections::BTreeMap<i64, i64> = extent
            .iter()
            .map(|(partition, length)| {
                let start = from.get(partition).copied().unwrap_or(0).max(0);
                (*partition, length.map_or(-1, |length| start + length))
            })
            .collect();
        let expected: Vec<i64> = (0_i64..)
            .zip(&rows)
            .filter(|(_, (partition, offset))| {
                let Some(partition) = partition else { return false };
                match (from.get(partition), to.get(partition)) {
                    (None | Some(-1), _) | (_, None) => false,
                    (Some(-2), Some(-1)) => true,
                    (Some(-2), Some(to)) => offset.is_some_and(|offset| offset < *to),
                    (Some(from), Some(-1)) => offset.is_some_and(|offset| offset >= *from),
                    (Some(from), Some(to)) => offset.is_some_and(|offset| (*from..*to).contains(&offset)),
                }
            })
            .map(|(id, _)| id)
            .collect();
        let pairs = |map: &std::collections::BTreeMap<i64, i64>| map.iter().map(|(p, o)| (*p, *o)).collect::<Vec<_>>();
        let (from, to) = (json(&pairs(&from)), json(&pairs(&to)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut config = SessionConfig::new().with_target_partitions(1);
            if volatile {
                // Without the optimizer the function itself is evaluated.
                config.options_mut().optimizer.max_passes = 0;
            }
            let context = context(config);
            let batch = crate::support::offsets_batch(&rows);
            context.register_batch("records", batch).unwrap();
            let sql = format!(
                "SELECT id FROM records WHERE offsets_in(\"partition\", \"offset\", '{from}', '{to}') ORDER BY id"
            );
            let found: Vec<i64> =
                numbers(&collect(&context, &sql).await.unwrap(), 0).into_iter().flatten().collect();
            assert_eq!(found, expected, "{sql}");
        });
    }
}
