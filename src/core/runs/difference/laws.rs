//! RUN-5: after a run that writes what has changed, the topic read by key is that after a run that writes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;

use super::tolerance::FloatTolerance;
use super::{ChangeKind, Comparison, Difference};
use crate::core::runs::spec::EmitRows;

/// A record of a compacted topic: a tombstone has no value.
type Record = (i64, Option<i64>);

fn batch(records: &[Record]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("k", DataType::Int64, false),
        Field::new("v", DataType::Int64, true),
    ]);
    let keys: Int64Array = records.iter().map(|(key, _)| Some(*key)).collect();
    let values: Int64Array = records.iter().map(|(_, value)| *value).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values)];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn by_key() -> Difference {
    let schema = batch(&[]).schema();
    Difference::try_new(schema, vec![0], vec![1], FloatTolerance::default()).unwrap()
}

/// The oracle: what readers by key have.
fn read_by_key(log: &[Record]) -> BTreeMap<i64, i64> {
    let mut table = BTreeMap::new();
    for (key, value) in log {
        match value {
            Some(value) => drop(table.insert(*key, *value)),
            None => drop(table.remove(key)),
        }
    }
    table
}

/// The topic's rows, tombstones applied, by the code under test.
fn published(log: &[Record]) -> Vec<Record> {
    let is_tombstone: Vec<bool> = log.iter().map(|(_, value)| value.is_none()).collect();
    let last = by_key()
        .last_rows(&batch(log), &BooleanArray::from(is_tombstone))
        .unwrap();
    last.values().iter().map(|at| log[*at as usize]).collect()
}

/// Compares with what the topic still has from offset `first` on. What it has lost was published for the keys of `lost`.
fn comparison(kept: &[Record], computed: &[Record], lost: &BTreeSet<i64>) -> Comparison {
    let readable: Vec<bool> = computed
        .iter()
        .map(|(key, _)| !lost.contains(key))
        .collect();
    by_key()
        .compare(
            &batch(&published(kept)),
            &batch(computed),
            &BooleanArray::from(readable),
        )
        .unwrap()
}

/// The topic after the run.
fn applied(
    kept: &[Record],
    computed: &[Record],
    found: &Comparison,
    emit: EmitRows,
    withdraw: bool,
) -> Vec<Record> {
    let emitted = found.emitted(emit, withdraw);
    let before = published(kept);
    let mut log = kept.to_vec();
    let withdrawn = emitted.withdrawn.values().iter();
    log.extend(withdrawn.map(|at| (before[*at as usize].0, None)));
    let rows = emitted.rows.values().iter();
    log.extend(rows.map(|at| computed[*at as usize]));
    log
}

fn records(values: impl Strategy<Value = Option<i64>>) -> impl Strategy<Value = Vec<Record>> {
    prop::collection::vec((0_i64..12, values), 0..30)
}

proptest! {
    #[test]
    fn run_5_readers_by_key_have_the_same_after_all_and_after_changed(
        log in records(prop::option::weighted(0.8, 0_i64..3)),
        computed in records((0_i64..3).prop_map(Some)),
        first in 0_usize..20,
        withdraw: bool,
    ) {
        // Retention has deleted the records before `first`.
        let (deleted, kept) = log.split_at(first.min(log.len()));
        let lost = deleted.iter().map(|(key, _)| *key).collect();
        let found = comparison(kept, &computed, &lost);
        let all = applied(kept, &computed, &found, EmitRows::All, withdraw);
        let changed = applied(kept, &computed, &found, EmitRows::Changed, withdraw);
        prop_assert_eq!(read_by_key(&all), read_by_key(&changed));
        prop_assert!(changed.len() <= all.len());
        if withdraw {
            prop_assert_eq!(read_by_key(&all), read_by_key(&computed));
        }
    }

    #[test]
    fn kinds_are_those_of_the_definition(
        log in records(prop::option::weighted(0.8, 0_i64..3)),
        computed in records((0_i64..3).prop_map(Some)),
        first in 0_usize..20,
    ) {
        let (deleted, kept) = log.split_at(first.min(log.len()));
        let lost: BTreeSet<i64> = deleted.iter().map(|(key, _)| *key).collect();
        let found = comparison(kept, &computed, &lost);
        let (before, after) = (read_by_key(kept), read_by_key(&computed));
        let expected: Vec<(i64, ChangeKind)> = after
            .iter()
            .map(|(key, value)| {
                let kind = match before.get(key) {
                    Some(before) if before == value => ChangeKind::Same,
                    Some(_) => ChangeKind::Changed,
                    None if lost.contains(key) => ChangeKind::Unknown,
                    None => ChangeKind::New,
                };
                (*key, kind)
            })
            .collect();
        let kinds: Vec<(i64, ChangeKind)> = found
            .rows
            .iter()
            .map(|row| (computed[row.computed as usize].0, row.kind))
            .collect();
        prop_assert_eq!(kinds, expected);
        let rows = published(kept);
        prop_assert_eq!(rows.iter().copied().map(|(key, value)| (key, value.unwrap())).collect::<BTreeMap<_, _>>(), before.clone());
        let gone: Vec<i64> = found.gone.iter().map(|at| rows[*at as usize].0).collect();
        let expected: Vec<i64> = before.keys().filter(|key| !after.contains_key(key)).copied().collect();
        prop_assert_eq!(gone, expected);
        let counts = found.counts();
        prop_assert_eq!(counts.same + counts.changed + counts.new + counts.unknown, after.len() as u64);
    }
}
