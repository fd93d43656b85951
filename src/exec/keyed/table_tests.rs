//! The state table against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;

use super::StateTable;

fn schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        field("key"),
        field("closes"),
        field("value"),
    ]))
}

fn rows(rows: &[(i64, i64, i64)]) -> RecordBatch {
    let column = |of: fn(&(i64, i64, i64)) -> i64| -> Arc<Int64Array> {
        Arc::new(rows.iter().map(|row| Some(of(row))).collect())
    };
    let columns: Vec<Arc<dyn datafusion::arrow::array::Array>> = vec![
        column(|row| row.0),
        column(|row| row.1),
        column(|row| row.2),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn held(table: &StateTable) -> Vec<(i64, i64, i64)> {
    let rows = table.rows().unwrap();
    let column = |index: usize| rows.column(index).as_primitive::<Int64Type>().clone();
    let (keys, closes, values) = (column(0), column(1), column(2));
    let mut held: Vec<_> = (0..rows.num_rows())
        .map(|row| (keys.value(row), closes.value(row), values.value(row)))
        .collect();
    held.sort_unstable();
    held
}

proptest! {
    /// Enough small changes for chunks to be put together many times; keys with several rows, as sessions have.
    #[test]
    fn many_changes_leave_what_a_map_would_hold(
        changes in prop::collection::vec(
            (prop::collection::vec((0..40_i64, 0..60_i64, any::<i64>()), 0..6), 0..3_i64),
            0..200,
        ),
    ) {
        let mut table = StateTable::try_new(schema(), 1).unwrap();
        let mut expected: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
        let mut closed_by = 0;
        for (change, step) in changes {
            closed_by += step;
            let change: Vec<_> = change
                .into_iter()
                .map(|(key, ahead, value)| (key, closed_by + ahead - 3, value))
                .collect();
            let closes_at: Vec<i64> = change.iter().map(|row| row.1).collect();
            table.restore(&rows(&change), &closes_at, Some(closed_by)).unwrap();
            for (key, _, _) in &change {
                expected.remove(key);
            }
            for (key, closes, value) in change {
                expected.entry(key).or_default().push((closes, value));
            }
            for rows in expected.values_mut() {
                rows.retain(|(closes, _)| *closes > closed_by);
            }
            let all = expected.iter().flat_map(|(key, rows)| {
                rows.iter().map(move |(closes, value)| (*key, *closes, *value))
            });
            let mut all: Vec<_> = all.collect();
            all.sort_unstable();
            prop_assert_eq!(table.len(), all.len());
            prop_assert_eq!(table.next_close(), all.iter().map(|row| row.1).min());
            prop_assert_eq!(held(&table), all);
        }
    }
}

#[test]
fn a_state_without_keys_has_one() {
    let mut table = StateTable::try_new(schema(), 0).unwrap();
    table.restore(&rows(&[(1, 10, 1)]), &[10], None).unwrap();
    table.restore(&rows(&[(2, 20, 2)]), &[20], Some(5)).unwrap();
    assert_eq!(held(&table), [(2, 20, 2)]);
    table.restore(&rows(&[]), &[], Some(20)).unwrap();
    assert!(table.is_empty());
}
