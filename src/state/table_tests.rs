//! Tests of the state table against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;

use super::StateTable;

/// Two key columns, the second of them text; the time at which the row is final; a value.
type Row = (Option<i64>, Option<String>, i64, i64);
type Key = (Option<i64>, Option<String>);

fn schema() -> SchemaRef {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    Arc::new(Schema::new(vec![
        field("key", DataType::Int64),
        field("text", DataType::Utf8),
        field("closes", DataType::Int64),
        field("value", DataType::Int64),
    ]))
}

fn batch(rows: &[Row]) -> (RecordBatch, Vec<i64>) {
    let keys: Int64Array = rows.iter().map(|row| row.0).collect();
    let texts: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
    let closes_at: Vec<i64> = rows.iter().map(|row| row.2).collect();
    let values: Int64Array = rows.iter().map(|row| Some(row.3)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys),
        Arc::new(texts),
        Arc::new(Int64Array::from(closes_at.clone())),
        Arc::new(values),
    ];
    (RecordBatch::try_new(schema(), columns).unwrap(), closes_at)
}

fn rows_of(rows: &RecordBatch) -> Vec<Row> {
    let number = |column: usize| rows.column(column).as_primitive::<Int64Type>();
    let (keys, texts) = (number(0), rows.column(1).as_string::<i32>());
    let (closes, values) = (number(2), number(3));
    (0..rows.num_rows())
        .map(|row| {
            let key = keys.is_valid(row).then(|| keys.value(row));
            let text = texts.is_valid(row).then(|| texts.value(row).to_owned());
            (key, text, closes.value(row), values.value(row))
        })
        .collect()
}

fn held(table: &StateTable) -> Vec<Row> {
    let mut held = rows_of(&table.rows().unwrap());
    held.sort_unstable();
    held
}

/// A map with the rows of each key, as the expected state.
#[derive(Default)]
struct Expected(BTreeMap<Key, Vec<(i64, i64)>>);

impl Expected {
    fn restore(&mut self, rows: &[Row], closed_by: i64) {
        for row in rows {
            self.0.remove(&(row.0, row.1.clone()));
        }
        for (key, text, closes, value) in rows {
            let of_key = self.0.entry((*key, text.clone())).or_default();
            of_key.push((*closes, *value));
        }
        for rows in self.0.values_mut() {
            rows.retain(|(closes, _)| *closes > closed_by);
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut all = Vec::new();
        for ((key, text), rows) in &self.0 {
            let of_key = rows.iter();
            all.extend(of_key.map(|(closes, value)| (*key, text.clone(), *closes, *value)));
        }
        all.sort_unstable();
        all
    }
}

/// The state restored from a snapshot of it, with rows that are not in the index yet.
fn restarted(table: &StateTable) -> StateTable {
    let rows = rows_of(&table.rows().unwrap());
    let mut restarted = StateTable::try_new(schema(), 2).unwrap();
    restarted.many_rows = 1;
    let batches = rows.chunks(1 + rows.len() / 5).map(batch).collect();
    restarted.restore(batches, None).unwrap();
    restarted
}

fn row(ahead: i64) -> impl Strategy<Value = Row> {
    (
        prop::option::of(0..20_i64),
        prop_oneof![
            Just(None),
            Just(Some(String::new())),
            Just(Some("text".to_owned())),
        ],
        0..ahead,
        any::<i64>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// So many small changes that chunks are merged many times; keys with several rows, as sessions have.
    #[test]
    fn many_changes_match_a_map(
        changes in prop::collection::vec(
            (prop::collection::vec(row(60), 0..6), 0..3_i64, 1..4_usize, prop::bool::weighted(0.05)),
            0..200,
        ),
    ) {
        let mut table = StateTable::try_new(schema(), 2).unwrap();
        let mut expected = Expected::default();
        let mut closed_by = 0;
        for (mut change, step, cut, is_restarted) in changes {
            if is_restarted {
                table = restarted(&table);
            }
            closed_by += step;
            for row in &mut change {
                row.2 += closed_by - 3;
            }
            let batches = change.chunks(cut).map(batch).collect();
            table.restore(batches, Some(closed_by)).unwrap();
            expected.restore(&change, closed_by);
            let all = expected.rows();
            prop_assert_eq!(table.len(), all.len());
            prop_assert_eq!(table.next_close(), all.iter().map(|row| row.2).min());
            prop_assert_eq!(held(&table), all);
        }
    }

}

proptest! {
    // Each case has tens of thousands of rows.
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Chunks of many keys, large enough to be rewritten because of their dead rows.
    #[test]
    fn large_changes_match_a_map(
        changes in prop::collection::vec(
            (1..3_000_usize, 0..20_000_i64, 1..30_i64, 0..40_i64, prop::bool::weighted(0.1)),
            1..60,
        ),
    ) {
        let mut table = StateTable::try_new(schema(), 2).unwrap();
        let mut expected = Expected::default();
        let mut closed_by = 0;
        for (count, first, stride, step, is_restarted) in changes {
            if is_restarted {
                table = restarted(&table);
            }
            closed_by += step;
            let change: Vec<Row> = (0_i64..)
                .take(count)
                .map(|row| {
                    let key = (first + row * stride) % 20_011;
                    (Some(key), None, closed_by + row * 7 % 200, row)
                })
                .collect();
            table.restore(vec![batch(&change)], Some(closed_by)).unwrap();
            expected.restore(&change, closed_by);
        }
        prop_assert_eq!(held(&table), expected.rows());
        let after = table.rows_after(&super::StateChange {
            dead: vec![],
            replaced: vec![],
            closed: RecordBatch::new_empty(schema()),
            added: vec![],
        });
        let mut after: Vec<Row> = after.unwrap().iter().flat_map(rows_of).collect();
        after.sort_unstable();
        prop_assert_eq!(after, expected.rows());
    }
}

#[test]
fn one_key_may_have_many_rows() {
    let mut table = StateTable::try_new(schema(), 2).unwrap();
    let rows: Vec<Row> = (0..10_000).map(|at| (Some(1), None, at, at)).collect();
    table.restore(vec![batch(&rows)], None).unwrap();
    // Some close, the others stay findable.
    table.restore(vec![], Some(4_999)).unwrap();
    assert_eq!(held(&table), rows[5_000..]);
    table.restore(vec![batch(&rows[..1])], None).unwrap();
    assert_eq!(held(&table), rows[..1]);
}

#[test]
fn a_state_without_key_columns_has_one_key() {
    let mut table = StateTable::try_new(schema(), 0).unwrap();
    let one = |at: i64| vec![batch(&[(Some(at), None, 10 * at, at)])];
    table.restore(one(1), None).unwrap();
    table.restore(one(2), Some(5)).unwrap();
    assert_eq!(held(&table), [(Some(2), None, 20, 2)]);
    table.restore(vec![], Some(20)).unwrap();
    assert!(table.is_empty());
}

/// More rows at once than are indexed before the first lookup.
#[test]
fn the_counted_size_is_the_held_size() {
    let mut table = StateTable::try_new(schema(), 2).unwrap();
    let rows: Vec<Row> = (0..200_000)
        .map(|at| {
            (
                Some(at % 150_000),
                Some(format!("text {}", at % 150_000)),
                at,
                at,
            )
        })
        .collect();
    table.restore(vec![batch(&rows)], None).unwrap();
    let columns = batch(&rows).0;
    let columns = columns.columns().iter();
    let plain: usize = columns.map(|column| column.get_buffer_memory_size()).sum();
    assert!(table.size() > plain, "{} of {plain}", table.size());
    assert!(table.size() < 3 * plain, "{} of {plain}", table.size());
    // All rows of a key are found: the rows of half of the keys are replaced by one each.
    let half: Vec<Row> = rows[..75_000].to_vec();
    table.restore(vec![batch(&half)], None).unwrap();
    assert_eq!(table.len(), 75_000 + 75_000);
    let mut expected: Vec<Row> = rows[..150_000].to_vec();
    expected.sort_unstable();
    assert_eq!(held(&table), expected);
    table.restore(vec![], Some(199_999)).unwrap();
    assert!(table.is_empty());
}
