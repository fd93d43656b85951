//! Operators that make much of each row are given few rows at a time (SAFE-1): what they make of one batch no pool is told of before
//! it is made.
//!
//! UNNEST writes the other columns of a row as often as its lists have elements: of a whole batch at once where lists stand within lists,
//! and of one row in any case. A row that makes too much is refused before. An aggregate by grouping sets makes a group of each row
//! for each of them: `CUBE` by twelve columns has 4,096.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, OffsetSizeTrait, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    replace_children_if_necessary,
};
use futures::StreamExt as _;

use crate::session::{bytes, room};

/// Bytes that may be made of one part of a batch without a look at its rows.
const PART: usize = 64 << 20;
/// Groups that one batch may make without a look at the memory they take.
const GROUPS: usize = 1 << 18;
/// Fewer grouping sets than this make no more of a whole batch.
const SETS: usize = 32;

/// Puts [`FewRows`] below each operator that may make much of a row.
#[derive(Debug)]
pub(super) struct FewAtATime;

impl PhysicalOptimizerRule for FewAtATime {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        options: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let budget = room::budget(options);
        let few = plan.transform_up(|plan| {
            let Some((input, by)) = makes_much(&plan, budget) else {
                return Ok(Transformed::no(plan));
            };
            if input.is::<FewRows>() {
                return Ok(Transformed::no(plan));
            }
            let few: Arc<dyn ExecutionPlan> = Arc::new(FewRows { input, by });
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

/// What an operator that makes much of a row reads, and by what its rows are to be counted.
fn makes_much(
    plan: &Arc<dyn ExecutionPlan>,
    budget: usize,
) -> Option<(Arc<dyn ExecutionPlan>, By)> {
    if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
        let lists = unnest.list_column_indices().into();
        let by = By::Elements { lists, budget };
        return may_make_much(unnest).then(|| (Arc::clone(unnest.input()), by));
    }
    let aggregate = plan.downcast_ref::<AggregateExec>()?;
    let sets = aggregate.group_expr().groups().len();
    (sets > SETS).then(|| {
        let rows = (GROUPS / sets).max(1);
        (Arc::clone(aggregate.input()), By::Rows(rows))
    })
}

/// Whether there are lists within lists, or columns beside them whose values may be large.
fn may_make_much(unnest: &UnnestExec) -> bool {
    let lists = unnest.list_column_indices();
    let input = unnest.input().schema();
    let is_list = |place: usize| lists.iter().any(|list| list.index_in_input_schema == place);
    let mut others = input.fields().iter().enumerate();
    let is_large = others.any(|(place, field)| {
        let of = field.data_type();
        !is_list(place) && !of.is_primitive() && !matches!(of, DataType::Boolean | DataType::Null)
    });
    !lists.is_empty() && (is_large || lists.iter().any(|list| list.depth > 1))
}

/// Its input, in batches of which little is made.
#[derive(Debug)]
struct FewRows {
    input: Arc<dyn ExecutionPlan>,
    by: By,
}

/// By what the rows of a batch are counted.
#[derive(Debug, Clone)]
enum By {
    /// So many are few.
    Rows(usize),
    /// As many as make little when these lists are written element by element.
    Elements {
        lists: Arc<[ListUnnest]>,
        /// Bytes that one row may make.
        budget: usize,
    },
}

impl By {
    /// The batch in parts, in the order of its rows.
    fn parts(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        match self {
            By::Elements { lists, budget } => parts(batch, lists, *budget),
            By::Rows(rows) => {
                let starts = (0..batch.num_rows()).step_by(*rows);
                let parts = starts.map(|start| {
                    let count = (*rows).min(batch.num_rows() - start);
                    batch.slice(start, count)
                });
                Ok(parts.collect())
            }
        }
    }
}

/// The batch in parts, in the order of its rows.
fn parts(batch: &RecordBatch, lists: &[ListUnnest], budget: usize) -> Result<Vec<RecordBatch>> {
    let elements = elements(batch, lists);
    let mut parts = Vec::new();
    let mut left = vec![(0, batch.num_rows())];
    while let Some((start, count)) = left.pop() {
        let part = batch.slice(start, count);
        let elements = elements.get(start..start + count).unwrap_or_default();
        let longest = elements.iter().copied().max().unwrap_or(0);
        let made = beside(&part, lists).saturating_mul(longest);
        if count > 1 && made > PART {
            let half = count / 2;
            left.push((start + half, count - half));
            left.push((start, half));
            continue;
        }
        if count == 1 {
            room::check("UNNEST", made, longest, budget)?;
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Bytes of the columns that are written for each element.
fn beside(batch: &RecordBatch, lists: &[ListUnnest]) -> usize {
    let columns = batch.columns().iter().enumerate();
    let sizes = columns.map(|(place, column)| {
        let mut lists = lists.iter();
        match lists.any(|list| list.index_in_input_schema == place) {
            // A part of the lists is there at each level on the way to their elements.
            true => 8 * column.len(),
            false => bytes::of_array(column.as_ref()),
        }
    });
    sizes.fold(0, usize::saturating_add)
}

/// How many elements the longest of the lists of each row has, those of lists within lists added up.
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

/// How many elements each row of lists has, so many levels down. What is no list counts once.
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

/// What the elements of each list count together.
fn summed<O: OffsetSizeTrait>(offsets: &[O], elements: &ArrayRef, depth: usize) -> Vec<usize> {
    let spans = offsets.iter().zip(offsets.iter().skip(1));
    let spans = spans.map(|(start, end)| (start.as_usize(), end.as_usize()));
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

impl DisplayAs for FewRows {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FewRowsExec")
    }
}

impl ExecutionPlan for FewRows {
    fn name(&self) -> &'static str {
        "FewRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("FewRowsExec takes one child");
        };
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
    fn rows_that_make_much_are_given_apart() {
        const ALL: usize = usize::MAX;
        // Little is made of it all.
        assert_eq!(rows(&[10; 100], 100, ALL).unwrap(), [100]);
        assert_eq!(rows(&[], 100, ALL).unwrap(), [0]);
        // 8 rows of some 20 MB each.
        assert_eq!(rows(&[20_000; 8], 1_000, ALL).unwrap(), [2; 4]);
        // One of them makes much, the others little.
        let mut one = [1; 8];
        one[5] = 100_000;
        assert_eq!(rows(&one, 1_000, ALL).unwrap(), [4, 1, 1, 2]);
        assert_eq!(rows(&one, 1_000, 110_000_000).unwrap(), [4, 1, 1, 2]);
        assert!(rows(&one, 1_000, 90_000_000).is_err());
    }

    #[test]
    fn lists_within_lists_count_by_their_elements() {
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
    async fn grouping_sets_give_what_they_give_of_all_rows() {
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
        // Each row is in one group of each of the 64 sets; by some of n columns there are as many groups as their least common
        // multiple is.
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
    fn rows_are_given_so_many_at_a_time() {
        let parts = By::Rows(3).parts(&batch(&[1; 8], 1)).unwrap();
        let rows: Vec<usize> = parts.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [3, 3, 2]);
        assert!(By::Rows(3).parts(&batch(&[], 1)).unwrap().is_empty());
    }

    #[tokio::test]
    async fn unnest_gives_what_has_room() {
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
        let nested = "SELECT unnest(unnest([range(0, value), range(0, 2)])) AS e, repeat('x', 10 + value % 2) AS t
            FROM generate_series(1, 100)";
        assert_eq!(run(nested.to_owned()).await.unwrap(), 5_050 + 200);
    }
}
