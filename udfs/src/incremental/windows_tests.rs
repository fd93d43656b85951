//! Windows merged from slices, directly and by blocks, compared with their definition.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, col};
use datafusion::physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::col as physical_col;
use proptest::prelude::*;

use super::*;
use crate::window::{AlignedWindows, WindowKind};

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// Count and sum of `v` per `k` and window.
fn aggregate(windows: AlignedWindows) -> IncrementalAggregate {
    let schema = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("slice", time(), false),
        Field::new("first", time(), false),
        Field::new("v", DataType::Int64, true),
    ]));
    let logical = DFSchema::try_from(Schema::clone(&schema)).unwrap();
    let lower = |expr: Expr| -> LoweredAggregate {
        let (properties, planning) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        LoweredAggregateBuilder::new(&expr, &logical, &schema, &properties, &planning)
            .build()
            .unwrap()
    };
    let output = Schema::new(vec![
        Field::new("s", time(), false),
        Field::new("k", DataType::Int64, true),
        Field::new("e", time(), false),
        Field::new("n", DataType::Int64, true),
        Field::new("total", DataType::Int64, true),
    ]);
    let shape = StateShape::Slices {
        keys: vec![physical_col("k", &schema).unwrap()],
        slice_start: physical_col("slice", &schema).unwrap(),
        first_window_end: physical_col("first", &schema).unwrap(),
        slices: windows.slices().unwrap(),
        groups: vec![
            SessionColumn::WindowStart,
            SessionColumn::Key(0),
            SessionColumn::WindowEnd,
        ],
    };
    let aggregates = vec![lower(count(col("v"))), lower(sum(col("v")))];
    IncrementalAggregate::try_new(shape, aggregates, &schema, Arc::new(output)).unwrap()
}

/// A state row: key, slice, how many of its windows it is late for, value.
type Row = (Option<i64>, i64, i64, i64);

/// State rows of one row of the input each.
fn states(aggregate: &IncrementalAggregate, rows: &[Row]) -> RecordBatch {
    let slices = aggregate.slices().unwrap();
    let tick = |number: i64| slices.start(number).unwrap();
    let times = |ticks: &dyn Fn(&Row) -> i64| {
        let ticks: Vec<i64> = rows.iter().map(ticks).collect();
        timestamps(ScalarBuffer::from(ticks), &time()).unwrap()
    };
    let values: Int64Array = rows.iter().map(|row| Some(row.3)).collect();
    let keys: Int64Array = rows.iter().map(|row| row.0).collect();
    let ones = Int64Array::from(vec![1; rows.len()]);
    let partial = RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(keys) as ArrayRef, true),
        ("slice", times(&|row| tick(row.1)), false),
        ("first", times(&|row| tick(first(slices, row))), false),
        ("n", Arc::new(ones) as ArrayRef, true),
        ("total", Arc::new(values) as ArrayRef, true),
    ]);
    aggregate.as_states(&partial.unwrap(), 0).unwrap()
}

fn first(slices: &crate::window::Slices, row: &Row) -> i64 {
    let windows = slices.windows_of(row.1).unwrap();
    (windows.start + row.2).min(windows.end - 1)
}

/// Key, start and end of a window, count and sum.
fn given(rows: &RecordBatch) -> Vec<(Option<i64>, i64, i64, i64, i64)> {
    let keys = rows.column(1).as_primitive::<Int64Type>();
    let time = |column: usize| {
        rows.column(column)
            .as_primitive::<TimestampMicrosecondType>()
    };
    let number = |column: usize| rows.column(column).as_primitive::<Int64Type>();
    let mut given: Vec<_> = (0..rows.num_rows())
        .map(|row| {
            let key = keys.is_valid(row).then(|| keys.value(row));
            let window = (time(0).value(row), time(2).value(row));
            (
                key,
                window.0,
                window.1,
                number(3).value(row),
                number(4).value(row),
            )
        })
        .collect();
    given.sort_unstable();
    given
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn windows_are_those_of_their_rows_with_and_without_blocks(
        is_hop: bool, step in 1_i64..5, count in 2_i64..40, offset in 0_i64..100,
        rows in prop::collection::vec(
            (prop::option::of(0..2_i64), -60..60_i64, prop_oneof![9 => Just(0), 1 => 0..40_i64], 0..9_i64), 0..80),
        asked in prop::collection::vec(prop::option::of((-80..80_i64, 0..40_i64)), 80),
        counted in 0..80_usize,
    ) {
        let kind = if is_hop { WindowKind::Hop } else { WindowKind::Cumulate };
        let windows = AlignedWindows::try_new(kind, step * count, step, offset).unwrap();
        let aggregate = aggregate(windows);
        let slices = *aggregate.slices().unwrap();
        // A slice has one row for each window that rows begin to count with.
        let mut seen = BTreeSet::new();
        let rows: Vec<Row> = rows
            .into_iter()
            .filter(|row| seen.insert((row.0, row.1, first(&slices, row))))
            .collect();
        let states = states(&aggregate, &rows);
        let counted = counted.min(rows.len());
        let asked: Vec<Range<i64>> = asked
            .into_iter()
            .take(rows.len())
            .map(|asked| asked.map_or(0..0, |(from, count)| from..from + count))
            .collect();
        let mut expected: BTreeMap<(Option<i64>, i64), (i64, i64)> = BTreeMap::new();
        let wanted: BTreeSet<(Option<i64>, i64)> = rows
            .iter()
            .zip(&asked)
            .flat_map(|(row, asked)| asked.clone().map(|window| (row.0, window)))
            .collect();
        for row in &rows[..counted] {
            for window in first(&slices, row)..slices.windows_of(row.1).unwrap().end {
                if wanted.contains(&(row.0, window)) {
                    let sums = expected.entry((row.0, window)).or_default();
                    *sums = (sums.0 + 1, sums.1 + row.3);
                }
            }
        }
        let mut expected: Vec<_> = expected
            .into_iter()
            .map(|((key, window), (count, sum))| {
                let first = slices.first_slice(window).unwrap();
                (key, slices.start(first).unwrap(), slices.start(window).unwrap(), count, sum)
            })
            .collect();
        expected.sort_unstable();
        for read_often in [0, READ_OFTEN, usize::MAX] {
            let found = aggregate
                .windows_given(&states, counted, &asked, i64::MIN, read_often)
                .unwrap();
            prop_assert_eq!(&given(&found), &expected);
        }
    }

    #[test]
    fn slices_of_windows_are_all_that_share_one(
        is_hop: bool, count in 2_i64..9, row in (prop::option::of(0..2_i64), -60..60_i64, 0..9_i64, 0..9_i64),
    ) {
        let kind = if is_hop { WindowKind::Hop } else { WindowKind::Cumulate };
        let aggregate = aggregate(AlignedWindows::try_new(kind, 3 * count, 3, 1).unwrap());
        let slices = *aggregate.slices().unwrap();
        let states = states(&aggregate, &[row]);
        let mut found = Vec::new();
        for keys in aggregate.slices_of_windows(&states).unwrap() {
            let keys = keys.unwrap();
            prop_assert_eq!(keys.num_columns(), aggregate.key_columns());
            found.extend(ticks(keys.column(1)).unwrap().iter().map(|tick| slices.number(*tick).unwrap()));
        }
        let windows = first(&slices, &row)..slices.windows_of(row.1).unwrap().end;
        let expected: Vec<i64> = (-90..90)
            .filter(|slice| {
                let of = slices.windows_of(*slice).unwrap();
                of.start < windows.end && windows.start < of.end
            })
            .collect();
        prop_assert_eq!(found, expected);
    }
}
