//! Small batches for operators that produce much for each row (SAFE-1): they register the result of a batch with a memory pool
//! only after they have built it.
//!
//! UNNEST repeats the other columns of a row once for each element of its longest list, and pads all lists to that length: for
//! a whole batch at once if lists are nested, and for one row in any case. A row whose result would be too large is refused
//! beforehand. An aggregate by grouping sets makes a group of each row for each set, with all keys: `CUBE` by twelve columns
//! has 4,096 sets. And it stores the state of all its functions for a batch before it registers any of it with a pool: each
//! function may copy the same texts, or keep 16 KiB for each group.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anabranch_udfs::{only_child, passes_rows_on};
use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, OffsetSizeTrait, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, replace_children_if_necessary,
};
use futures::StreamExt as _;

use crate::session::limits::{array_bytes, memory_checks, type_fields};

/// Bytes that one part of a batch may produce without a check of its rows.
const PART: usize = 64 << 20;
/// Groups that one batch may produce without a check of the memory they take.
const GROUPS: usize = 1 << 18;
/// Fewer grouping sets than this keep little of a whole batch, if their keys are numbers.
const SETS: usize = 32;
/// Copies of a whole batch's large values that are accepted without a check of their size.
const COPIES: usize = 8;
/// Bytes per group of an aggregate's state that are accepted for a whole batch without a check.
const STATE: usize = 8 << 10;
/// Bytes of a centroid of an approximate percentile.
const CENTROID: usize = 16;
/// UNNEST may multiply the size of the lists by this factor without a check of its rows.
const TIMES: u64 = 8;

/// Puts [`FewRowsExec`] below each operator that may produce much for one row.
#[derive(Debug)]
pub(crate) struct SmallBatches;

impl PhysicalOptimizerRule for SmallBatches {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        options: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let budget = memory_checks::budget(options);
        let few = plan.transform_up(|plan| {
            let Some((input, by)) = makes_much(&plan, budget) else {
                return Ok(Transformed::no(plan));
            };
            if input.is::<FewRowsExec>() {
                return Ok(Transformed::no(plan));
            }
            let few: Arc<dyn ExecutionPlan> = Arc::new(FewRowsExec { input, by });
            let children = vec![few];
            Ok(Transformed::yes(replace_children_if_necessary(
                plan, children,
            )?))
        })?;
        Ok(few.data)
    }

    fn name(&self) -> &'static str {
        "few_at_a_time"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The input of an operator that may produce much for one row, and the measure for its rows.
fn makes_much(
    plan: &Arc<dyn ExecutionPlan>,
    budget: usize,
) -> Option<(Arc<dyn ExecutionPlan>, BatchMeasure)> {
    if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
        let lists = unnest.list_column_indices().into();
        let by = BatchMeasure::Elements { lists, budget };
        return may_make_much(unnest).then(|| (Arc::clone(unnest.input()), by));
    }
    let aggregate = plan.downcast_ref::<AggregateExec>()?;
    let by = kept_by(aggregate, budget)?;
    Some((Arc::clone(aggregate.input()), by))
}

/// The measure for the rows of an aggregate, if it may keep much of a batch.
fn kept_by(aggregate: &AggregateExec, budget: usize) -> Option<BatchMeasure> {
    let keys = aggregate.group_expr();
    let sets = keys.groups().len().max(1);
    let input = aggregate.input().schema();
    let is_large = |place: usize| {
        let field = input.fields().get(place);
        field.is_some_and(|field| !array_bytes::is_narrow(field.data_type()))
    };
    // How many times each column may be stored.
    let mut columns: BTreeMap<usize, usize> = BTreeMap::new();
    let mut keep = |expr: &Arc<dyn PhysicalExpr>| {
        for column in collect_columns(expr) {
            *columns.entry(column.index()).or_default() += sets;
        }
    };
    keys.expr().iter().for_each(|(key, _)| keep(key));
    // Partial states in the input are stored once already, and are not counted.
    if aggregate.mode().input_mode() == AggregateInputMode::Raw {
        let functions = aggregate.aggr_expr().iter();
        functions
            .flat_map(|function| function.expressions())
            .for_each(|expr| keep(&expr));
    }
    let state = match keys.expr().is_empty() {
        true => 0,
        false => {
            let functions = aggregate.aggr_expr().iter();
            functions.map(|function| state(function)).sum::<usize>() * sets
        }
    };
    let large = columns.iter().filter(|(place, _)| is_large(**place));
    let copies: usize = large.map(|(_, times)| times).sum();
    let is_much = sets > SETS || (sets > 1 && copies > 0) || copies > COPIES || state > STATE;
    is_much.then(|| BatchMeasure::Groups {
        sets,
        columns: columns.into_iter().collect(),
        state,
        budget,
    })
}

/// Bytes of a function's state for each group, beyond the stored values; 0 for a small state.
fn state(function: &AggregateFunctionExpr) -> usize {
    /// Bytes for a function without a shared accumulator for all groups.
    const OWN: usize = 2 << 10;
    let of_centroids = |place: usize| {
        let most = function.expressions().len() > place;
        CENTROID * if most { 1_000 } else { 100 }
    };
    match function.fun().name() {
        "approx_percentile_cont" => of_centroids(2),
        "approx_percentile_cont_with_weight" => of_centroids(3),
        // One bit for each 16 bit number.
        "approx_distinct" if !function.groups_accumulator_supported() => 8 << 10,
        _ if !function.groups_accumulator_supported() => OWN,
        _ => 0,
    }
}

/// Whether there are nested lists, columns beside them whose values may be large, or many columns.
fn may_make_much(unnest: &UnnestExec) -> bool {
    let lists = unnest.list_column_indices();
    let input = unnest.input().schema();
    let is_list = |place: usize| lists.iter().any(|list| list.index_in_input_schema == place);
    let others = input.fields().iter().enumerate();
    let others = others.filter(|(place, _)| !is_list(*place));
    let of_others = others.map(|(_, field)| field.data_type());
    if lists.is_empty() {
        return false;
    }
    if lists.iter().any(|list| list.depth > 1) || !of_others.clone().all(array_bytes::is_narrow) {
        return true;
    }
    let elements = lists
        .iter()
        .filter_map(|list| input.fields().get(list.index_in_input_schema))
        .map(|field| element(field.data_type(), 1));
    // An element of another type, or a boolean, may take almost no room.
    let least = elements
        .clone()
        .map(|of| of.primitive_width().unwrap_or(0) as u64)
        .min();
    let made = elements
        .chain(of_others)
        .map(type_fields::width)
        .fold(0, u64::saturating_add);
    made > TIMES.saturating_mul(least.unwrap_or(0))
}

/// The type of the elements in lists, `depth` levels down.
fn element(of: &DataType, depth: usize) -> &DataType {
    match of {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
            if depth > 0 =>
        {
            element(field.data_type(), depth - 1)
        }
        other => other,
    }
}

/// Splits the batches of its input so that the parent operator produces little for each.
#[derive(Debug)]
struct FewRowsExec {
    input: Arc<dyn ExecutionPlan>,
    by: BatchMeasure,
}

/// The measure for the rows of a batch.
#[derive(Debug, Clone)]
enum BatchMeasure {
    /// Splits by the number of groups, and the memory kept for them.
    Groups {
        sets: usize,
        /// The columns whose values are stored, each with the number of copies.
        columns: Arc<[(usize, usize)]>,
        /// Bytes of further state for each group.
        state: usize,
        /// Bytes that one row may produce.
        budget: usize,
    },
    /// Splits by the size of these lists once they are expanded.
    Elements {
        lists: Arc<[ListUnnest]>,
        /// Bytes that one row may produce.
        budget: usize,
    },
}

impl BatchMeasure {
    /// The batch in parts, in the order of its rows.
    fn parts(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        match self {
            BatchMeasure::Elements { lists, budget } => parts(batch, lists, *budget),
            BatchMeasure::Groups {
                sets,
                columns,
                state,
                budget,
            } => halved(batch, |start, count| {
                let part = batch.slice(start, count);
                let sizes = columns.iter().filter_map(|(place, times)| {
                    let column = part.columns().get(*place)?;
                    Some(array_bytes::of_array(column.as_ref()).saturating_mul(*times))
                });
                let own = state.saturating_mul(count);
                let kept = sizes.fold(own, usize::saturating_add);
                if count == 1 {
                    memory_checks::check("GROUP BY", kept, count, *budget)?;
                }
                Ok(kept <= PART && sets.saturating_mul(count) <= GROUPS)
            }),
        }
    }
}

/// The batch in parts, in the order of its rows.
fn parts(batch: &RecordBatch, lists: &[ListUnnest], budget: usize) -> Result<Vec<RecordBatch>> {
    let elements = elements(batch, lists);
    halved(batch, |start, count| {
        let part = batch.slice(start, count);
        let elements = elements.get(start..start + count).unwrap_or_default();
        let longest = elements.iter().copied().max().unwrap_or(0);
        let made = beside(&part, lists).saturating_mul(longest);
        if count == 1 {
            memory_checks::check("UNNEST", made, longest, budget)?;
        }
        Ok(made <= PART)
    })
}

/// The batch halved repeatedly, until each part produces little or has one row.
fn halved(
    batch: &RecordBatch,
    mut makes_little: impl FnMut(usize, usize) -> Result<bool>,
) -> Result<Vec<RecordBatch>> {
    let mut parts = Vec::new();
    let mut left = vec![(0, batch.num_rows())];
    while let Some((start, count)) = left.pop() {
        if makes_little(start, count)? || count <= 1 {
            parts.push(batch.slice(start, count));
            continue;
        }
        let half = count / 2;
        left.push((start + half, count - half));
        left.push((start, half));
    }
    Ok(parts)
}

/// Bytes written for each element: the other columns, and padding in each list.
fn beside(batch: &RecordBatch, lists: &[ListUnnest]) -> usize {
    let columns = batch.columns().iter().enumerate();
    let sizes = columns.map(|(place, column)| {
        let mut of_it = lists
            .iter()
            .filter(|list| list.index_in_input_schema == place)
            .peekable();
        if of_it.peek().is_none() {
            return array_bytes::of_array(column.as_ref());
        }
        // Each level on the way to the elements holds a part of the lists, and a short list is padded.
        let widths = of_it.map(|list| type_fields::width(element(column.data_type(), list.depth)));
        let width = widths.fold(0, u64::saturating_add);
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        width.max(8).saturating_mul(column.len())
    });
    sizes.fold(0, usize::saturating_add)
}

/// The length of the longest list in each row; for nested lists the sum of their elements.
fn elements(batch: &RecordBatch, lists: &[ListUnnest]) -> Vec<usize> {
    let mut longest = vec![0; batch.num_rows()];
    for list in lists {
        let Some(column) = batch.columns().get(list.index_in_input_schema) else {
            continue;
        };
        let counts = counts(column, list.depth);
        for (longest, count) in longest.iter_mut().zip(counts) {
            *longest = count.max(*longest);
        }
    }
    longest
}

/// Number of elements in each row of lists, `depth` levels down. A value that is not a list counts once.
fn counts(column: &ArrayRef, depth: usize) -> Vec<usize> {
    if depth == 0 {
        return vec![1; column.len()];
    }
    match column.data_type() {
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            summed(lists.value_offsets(), lists.values(), depth)
        }
        DataType::LargeList(_) => {
            let lists = column.as_list::<i64>();
            summed(lists.value_offsets(), lists.values(), depth)
        }
        DataType::ListView(_) => {
            let lists = column.as_list_view::<i32>();
            viewed(
                lists.value_offsets(),
                lists.value_sizes(),
                lists.values(),
                depth,
            )
        }
        DataType::LargeListView(_) => {
            let lists = column.as_list_view::<i64>();
            viewed(
                lists.value_offsets(),
                lists.value_sizes(),
                lists.values(),
                depth,
            )
        }
        DataType::FixedSizeList(_, length) => {
            let length = usize::try_from(*length).unwrap_or(0);
            let counts = counts(column.as_fixed_size_list().values(), depth - 1);
            (0..column.len())
                .map(|row| sum(&counts, row * length, (row + 1) * length))
                .collect()
        }
        _ => vec![1; column.len()],
    }
}

/// The sum of the elements' counts in each list.
fn summed<O: OffsetSizeTrait>(offsets: &[O], elements: &ArrayRef, depth: usize) -> Vec<usize> {
    let spans = offsets.iter().zip(offsets.iter().skip(1));
    of_spans(
        spans.map(|(start, end)| (start.as_usize(), end.as_usize())),
        elements,
        depth,
    )
}

/// The same for list views, which have a start and a length.
fn viewed<O: OffsetSizeTrait>(
    offsets: &[O],
    lengths: &[O],
    elements: &ArrayRef,
    depth: usize,
) -> Vec<usize> {
    let spans = offsets.iter().zip(lengths).map(|(start, length)| {
        let start = start.as_usize();
        (start, start.saturating_add(length.as_usize()))
    });
    of_spans(spans, elements, depth)
}

fn of_spans(
    spans: impl Iterator<Item = (usize, usize)>,
    elements: &ArrayRef,
    depth: usize,
) -> Vec<usize> {
    if depth == 1 {
        return spans
            .map(|(start, end)| end.saturating_sub(start))
            .collect();
    }
    let counts = counts(elements, depth - 1);
    spans.map(|(start, end)| sum(&counts, start, end)).collect()
}

fn sum(counts: &[usize], start: usize, end: usize) -> usize {
    let counts = counts.get(start..end).unwrap_or_default();
    counts
        .iter()
        .fold(0, |sum, count| sum.saturating_add(*count))
}

impl DisplayAs for FewRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FewRowsExec")
    }
}

impl ExecutionPlan for FewRowsExec {
    passes_rows_on!("FewRowsExec");

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("FewRowsExec", children)?;
        let by = self.by.clone();
        Ok(Arc::new(Self { input, by }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let by = self.by.clone();
        let batches = self.input.execute(partition, context)?;
        let batches = batches.flat_map(move |batch| {
            let parts = match batch.and_then(|batch| by.parts(&batch)) {
                Ok(parts) => parts.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(parts)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        None
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, ListArray, StringArray};
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::{Field, Int64Type};
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::error::DataFusionError;

    use super::*;
    use crate::error::ErrorKind;
    use crate::planner::{Script, parse_statement};
    use crate::session::{ForkOptions, Session, SessionOptions};

    /// A column of lists with so many elements each.
    fn lists(lengths: &[usize]) -> ListArray {
        let lists = lengths.iter().map(|length| Some(vec![Some(7); *length]));
        ListArray::from_iter_primitive::<Int64Type, _, _>(lists)
    }

    fn batch(lengths: &[usize], width: usize) -> RecordBatch {
        let texts = lengths.iter().map(|_| "x".repeat(width));
        let columns: [(&str, ArrayRef); 2] = [
            ("l", Arc::new(lists(lengths))),
            ("t", Arc::new(StringArray::from_iter_values(texts))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn rows(lengths: &[usize], width: usize, budget: usize) -> Result<Vec<usize>> {
        let list = ListUnnest {
            index_in_input_schema: 0,
            depth: 1,
        };
        let parts = parts(&batch(lengths, width), &[list], budget)?;
        Ok(parts.iter().map(RecordBatch::num_rows).collect())
    }

    #[test]
    fn rows_with_large_results_are_split_into_small_batches() {
        const ALL: usize = usize::MAX;
        // The whole batch produces little.
        assert_eq!(rows(&[10; 100], 100, ALL).unwrap(), [100]);
        assert_eq!(rows(&[], 100, ALL).unwrap(), [0]);
        // 8 rows of some 20 MB each.
        assert_eq!(rows(&[20_000; 8], 1_000, ALL).unwrap(), [2; 4]);
        // One row produces much, the others little.
        let mut one = [1; 8];
        one[5] = 100_000;
        assert_eq!(rows(&one, 1_000, ALL).unwrap(), [4, 1, 1, 2]);
        assert_eq!(rows(&one, 1_000, 110_000_000).unwrap(), [4, 1, 1, 2]);
        assert!(rows(&one, 1_000, 90_000_000).is_err());
    }

    #[test]
    fn nested_lists_count_by_their_elements() {
        let inner: ArrayRef = Arc::new(lists(&[2, 0, 5, 1]));
        let field = Arc::new(Field::new_list_field(inner.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([1, 0, 3]);
        let outer: ArrayRef = Arc::new(ListArray::new(field, offsets, inner, None));
        assert_eq!(counts(&outer, 1), [1, 0, 3]);
        assert_eq!(counts(&outer, 2), [2, 0, 6]);
        assert_eq!(counts(&outer.slice(2, 1), 2), [6]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        assert_eq!(counts(&numbers, 1), [1, 1]);
    }

    #[tokio::test]
    async fn grouping_sets_return_the_same_over_small_batches() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let columns: Vec<String> = (1..7).map(|n| format!("value % {n}")).collect();
        let sql = format!(
            "SELECT count(*) AS groups, sum(n) AS rows FROM (
                SELECT count(*) AS n FROM generate_series(1, 20000) GROUP BY CUBE ({}))",
            columns.join(", ")
        );
        let raw = Script::new("test", &sql).split().unwrap().remove(0);
        let rows = session.collect(parse_statement(&raw).unwrap()).await;
        let shown = pretty_format_batches(&rows.unwrap()).unwrap().to_string();
        // Each row is in one group of each of the 64 sets; n columns together have as many groups as the least common multiple
        // of their periods.
        let groups: u64 = (0_u32..64)
            .map(|set| {
                (1..7)
                    .filter(|n| (set >> (n - 1)) & 1 == 1)
                    .fold(1, multiple)
            })
            .sum();
        assert!(shown.contains(&format!("| {groups} ")), "{shown}");
        assert!(shown.contains(&format!("| {} ", 20_000 * 64)), "{shown}");
    }

    /// The least common multiple.
    fn multiple(a: u64, b: u64) -> u64 {
        let (mut divisor, mut rest) = (a, b);
        while rest != 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        a / divisor * b
    }

    #[test]
    fn grouping_sets_over_small_batches_take_little_memory() {
        let rows = |lengths: &[usize], width: usize, sets: usize, state: usize, budget: usize| {
            let columns = Arc::from([(1, sets)]);
            let by = BatchMeasure::Groups {
                sets,
                columns,
                state,
                budget,
            };
            let parts = by.parts(&batch(lengths, width))?;
            Ok::<Vec<usize>, DataFusionError>(parts.iter().map(RecordBatch::num_rows).collect())
        };
        const ALL: usize = usize::MAX;
        assert_eq!(rows(&[1; 8], 1, 64, 0, ALL).unwrap(), [8]);
        assert_eq!(rows(&[], 1, 64, 0, ALL).unwrap(), [0]);
        // More groups than are accepted without a check.
        assert_eq!(rows(&[1; 8], 1, GROUPS / 2, 0, ALL).unwrap(), [2; 4]);
        assert_eq!(rows(&[1; 3], 1, GROUPS, 0, ALL).unwrap(), [1; 3]);
        // 8 rows of some 20 MB each, of all sets together.
        assert_eq!(rows(&[1; 8], 1_000_000, 20, 0, ALL).unwrap(), [2; 4]);
        assert!(rows(&[1; 8], 4_000_000, 20, 0, 10_000_000).is_err());
        // Functions with a large state for each group.
        assert_eq!(rows(&[1; 8], 1, 1, 10 << 20, ALL).unwrap(), [4; 2]);
    }

    /// Whether an aggregate of rows with a number and a text is given few rows at a time.
    async fn is_given_few(columns: &str) -> bool {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let rows = "SELECT value, 'a' || value AS t FROM generate_series(1, 9)";
        let sql = format!("EXPLAIN SELECT {columns} FROM ({rows}) GROUP BY value");
        let raw = Script::new("test", &sql).split().unwrap().remove(0);
        let rows = session.collect(parse_statement(&raw).unwrap()).await;
        let shown = pretty_format_batches(&rows.unwrap()).unwrap().to_string();
        shown.contains("FewRowsExec")
    }

    #[tokio::test]
    async fn aggregates_with_large_states_get_small_batches() {
        let many = |of: &dyn Fn(usize) -> String| {
            let columns: Vec<String> = (1..20).map(of).collect();
            columns.join(", ")
        };
        let percentiles = many(&|n| format!("approx_percentile_cont(value, 0.1{n:02}, 1000)"));
        assert!(is_given_few(&percentiles).await);
        let texts = many(&|n| format!("min(t) FILTER (WHERE value > {n})"));
        assert!(is_given_few(&texts).await);
        let numbers = many(&|n| format!("sum(value) FILTER (WHERE value > {n})"));
        assert!(!is_given_few(&numbers).await);
        assert!(!is_given_few("min(t), max(t), count(DISTINCT t)").await);
    }

    #[tokio::test]
    async fn unnest_is_limited_by_memory() {
        let whole = Session::try_new(&SessionOptions::default()).unwrap();
        let limited = ForkOptions {
            memory_limit: Some(512 << 20),
            ..ForkOptions::default()
        };
        let run = |sql: String| {
            let session = whole.fork(&limited).unwrap();
            async move {
                let raw = Script::new("test", &sql).split().unwrap().remove(0);
                let rows = session.collect(parse_statement(&raw).unwrap()).await?;
                let rows = rows.iter().map(RecordBatch::num_rows);
                Ok::<usize, crate::error::Error>(rows.sum())
            }
        };
        let unnested = |elements: &str, width: usize| {
            format!(
                "SELECT unnest(range(0, {elements})) AS e, t FROM (
                    SELECT value, repeat('x', {width} + value % 2) AS t FROM generate_series(1, 20))"
            )
        };
        let few = run(unnested("value * 100", 100)).await.unwrap();
        assert_eq!(few, 21_000);
        let much = run(unnested("100000 + value", 10_000)).await.unwrap_err();
        assert_eq!(much.kind(), ErrorKind::Exhausted, "{much}");
        // A short list is padded, and there may be many of them, or many numbers.
        let lists: Vec<String> = (0..200).map(|n| format!("unnest([value + {n}])")).collect();
        let numbers: Vec<String> = (0..200).map(|n| format!("value + {n} AS n{n}")).collect();
        for others in [lists.join(", "), numbers.join(", ")] {
            let of = |elements: &str| {
                format!(
                    "SELECT unnest(range(0, {elements} + value)), {others} FROM generate_series(1, 1)"
                )
            };
            assert_eq!(run(of("99")).await.unwrap(), 100);
            let much = run(of("1000000")).await.unwrap_err();
            assert_eq!(much.kind(), ErrorKind::Exhausted, "{much}");
        }
        let nested = "SELECT unnest(unnest([range(0, value), range(0, 2)])) AS e, repeat('x', 10 + value % 2) AS t
            FROM generate_series(1, 100)";
        assert_eq!(run(nested.to_owned()).await.unwrap(), 5_050 + 200);
    }
}
