//! The plan of a chunk: the job's analyzed plan with its aggregate in place, over what the chunk reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::functions::core::get_field;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::{
    Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFunctionDefinition,
};
use datafusion::physical_expr::expressions::{Column, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, ScalarFunctionExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, create_window_expr};
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties as _, InputOrderMode, PhysicalExpr,
};

use super::chunk_columns::{ChunkColumns, ChunkRows, longest_session};
use super::facts::RunFacts;
use super::final_groups::{FinalGroupsExec, GroupRule};
use super::groups_table::{GroupsTable, put_in_place};
use crate::core::runs::{Chunk, Grouping, LeftGroups};
use crate::error::{Error, Result};
use crate::streaming::batch_tables::BatchInputs;
use crate::streaming::drain::DrainExec;
use crate::streaming::hidden_columns::{HIDDEN_SELECTED, find, with_hidden};
use crate::streaming::lineage::{ColumnOrigin, origins};
use crate::streaming::planning::plan_rows;
use crate::streaming::split::{
    above, aggregate_of, emitted_schema, tie_broken_call, without_subqueries,
};
use crate::streaming::stream_inputs::{BatchSource, StreamSources};
use crate::tables::time::{HIDDEN_END, HIDDEN_START, ROW_COLUMN};

/// Plans one chunk of a run.
pub(in crate::streaming) struct ChunkPlan<'a> {
    pub(in crate::streaming) facts: &'a RunFacts,
    /// The streams of the job.
    pub(in crate::streaming) streams: &'a StreamSources,
    /// What they are in this chunk.
    pub(in crate::streaming) sources: &'a BTreeMap<String, BatchSource>,
    /// Static tables and the values of arguments.
    pub(in crate::streaming) inputs: &'a BatchInputs,
    /// The columns of the sink's key.
    pub(in crate::streaming) key: &'a [usize],
}

/// A chunk, planned.
#[derive(Debug)]
pub(in crate::streaming) struct PlannedChunk {
    pub(in crate::streaming) plan: Arc<dyn ExecutionPlan>,
    /// What the plan leaves out, when it has run.
    pub(in crate::streaming) left: Arc<Mutex<LeftGroups>>,
}

/// An aggregate over what a chunk reads, and where its columns are.
struct ChunkAggregate {
    plan: LogicalPlan,
    rule: GroupRule,
    /// Where the columns of the job's own aggregate are.
    columns: Vec<usize>,
}

impl ChunkPlan<'_> {
    /// The chunk of the sources, which is the same of each; none of a run by offsets.
    ///
    /// # Errors
    ///
    /// Their chunks differ.
    pub(in crate::streaming) fn chunk(&self) -> Result<Option<Chunk>> {
        let mut chunks = self.sources.values().map(|source| source.chunk);
        let first = chunks.next().flatten();
        match chunks.all(|chunk| chunk == first) {
            true => Ok(first),
            false => Err(Error::internal("the sources of a run have several chunks")),
        }
    }

    /// Plans `chunk` of a job with the analyzed plan `input`; none of offsets.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner; offsets of a job that groups rows.
    pub(in crate::streaming) async fn plan(
        &self,
        state: &SessionState,
        input: &LogicalPlan,
        chunk: Option<Chunk>,
    ) -> Result<PlannedChunk> {
        let columns = ChunkColumns {
            chunk,
            grouping: self.facts.grouping,
            streams: self.streams,
            sources: self.sources,
            selection: self.facts.selection.as_ref().filter(|_| chunk.is_some()),
            selected_times: self.facts.selected_times,
        };
        let left = Arc::default();
        let plan = match self.facts.grouping {
            Grouping::Rows => self.rows(state, input, &columns).await?,
            Grouping::Aligned(_) | Grouping::Sessions { .. } => {
                self.groups(state, input, &columns, &left).await?
            }
        };
        Ok(PlannedChunk { plan, left })
    }

    /// The rows of a job without groups, in the order of the sink's key. Those of one key are in the order of their partitions and
    /// offsets: readers by key take the last one.
    async fn rows(
        &self,
        state: &SessionState,
        input: &LogicalPlan,
        columns: &ChunkColumns<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = with_hidden(input, self.streams, &ChunkRows(columns))?;
        let place = find(rows.schema(), ROW_COLUMN);
        let place = place.ok_or_else(|| Error::internal("the places of the rows are gone"))?;
        let columns = input.schema().columns().into_iter().chain([place]);
        let rows = LogicalPlanBuilder::from(rows)
            .project(columns.map(Expr::Column))?
            .build()?;
        let rows = plan_rows(state, self.inputs.put_into(rows)?).await?;
        in_order(rows, self.key, state)
    }

    /// The windows or sessions of a job, and what stands above its aggregate.
    async fn groups(
        &self,
        state: &SessionState,
        input: &LogicalPlan,
        columns: &ChunkColumns<'_>,
        left: &Arc<Mutex<LeftGroups>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let aggregate = aggregate_of(input, self.streams)
            .ok_or_else(|| Error::internal("the job has no aggregate"))?;
        let below = self.aggregate(state, aggregate, columns)?;
        let groups = plan_rows(state, self.inputs.put_into(below.plan)?).await?;
        let schema = emitted_schema(&aggregate.schema);
        let table = GroupsTable {
            schema: Arc::clone(&schema),
            partitions: groups.output_partitioning().partition_count(),
        };
        let above = above(
            input.clone(),
            &aggregate.schema,
            self.streams,
            Arc::new(table),
        )?;
        let above = plan_rows(state, self.inputs.put_into(above)?).await?;
        let rule = Arc::new(below.rule);
        put_in_place(above, |read| {
            let of_aggregate = read.iter().map(|index| below.columns.get(*index).copied());
            let of_aggregate: Option<Vec<usize>> = of_aggregate.collect();
            let final_groups = FinalGroupsExec::new(
                Arc::clone(&groups),
                Arc::clone(&rule),
                of_aggregate.ok_or_else(|| Error::internal("an aggregate without a column"))?,
                Arc::new(schema.project(read).map_err(DataFusionError::from)?),
                Arc::clone(left),
            );
            // A join above may need fewer groups; those that are left out are counted all the same.
            Ok(Arc::new(DrainExec::new(Arc::new(final_groups))))
        })
    }

    /// The job's aggregate over what the chunk reads. The window's start and end are among its keys, also if the job's are without them:
    /// they follow from these.
    fn aggregate(
        &self,
        state: &SessionState,
        aggregate: &Aggregate,
        columns: &ChunkColumns<'_>,
    ) -> Result<ChunkAggregate> {
        let below = without_subqueries(aggregate.input.as_ref().clone())?;
        let rows = with_hidden(&below, self.streams, columns)?;
        let hidden = |name: &str| {
            let column = find(rows.schema(), name).map(Expr::Column);
            column.ok_or_else(|| Error::internal("the window of a chunk is gone"))
        };
        let own_groups = aggregate.group_expr.len();
        let mut groups = aggregate.group_expr.clone();
        groups.extend([hidden(HIDDEN_START)?, hidden(HIDDEN_END)?]);
        // Ties are in the order of the job's state, if the places of rows are known.
        let row = match columns.have_places() {
            true => find(rows.schema(), ROW_COLUMN),
            false => None,
        };
        let names = aggregate.schema.fields().iter().skip(own_groups);
        let with_ties = aggregate.aggr_expr.iter().zip(names).map(|(expr, field)| {
            let row = row.as_ref();
            let call = row.and_then(|row| tie_broken_call(expr, self.streams, row));
            match call {
                Some(call) => Expr::AggregateFunction(call).alias(field.name()),
                None => expr.clone(),
            }
        });
        let mut aggregates: Vec<Expr> = with_ties.collect();
        let (start, end) = (own_groups, own_groups + 1);
        let own_aggregates = end + 1..end + 1 + aggregates.len();
        let own_columns: Vec<usize> = (0..own_groups).chain(own_aggregates).collect();
        let selected = match columns.selection {
            None => None,
            Some(_) => {
                let is_selected = hidden(HIDDEN_SELECTED)?;
                let any = state.aggregate_functions().get("bool_or");
                let any = any.ok_or_else(|| Error::internal("bool_or is gone"))?;
                aggregates.push(any.call(vec![is_selected]).alias(HIDDEN_SELECTED));
                Some(end + aggregates.len())
            }
        };
        let rule = GroupRule {
            chunk: columns.chunk()?,
            finality: self.facts.finality,
            whole_from: self.facts.begins.map(|begins| match columns.grouping {
                // A row that is gone may be as far as the gap before its session.
                Grouping::Sessions { gap } => begins.saturating_add(gap),
                Grouping::Rows | Grouping::Aligned(_) => begins,
            }),
            longest: match columns.grouping {
                Grouping::Sessions { gap } => Some(longest_session(gap)),
                Grouping::Rows | Grouping::Aligned(_) => None,
            },
            start,
            end,
            selected,
            keys: keys_of(aggregate, self.streams),
        };
        let plan = Aggregate::try_new(Arc::new(rows), groups, aggregates)?;
        check_columns(&plan.schema, &aggregate.schema, &own_columns)?;
        Ok(ChunkAggregate {
            plan: LogicalPlan::Aggregate(plan),
            rule,
            columns: own_columns,
        })
    }
}

/// Rows whose last column is their place, without it, in the order of their key and place. Rows that one record gives stay in the order in
/// which they come.
fn in_order(
    rows: Arc<dyn ExecutionPlan>,
    key: &[usize],
    state: &SessionState,
) -> Result<Arc<dyn ExecutionPlan>> {
    let own = rows.schema().fields().len().saturating_sub(1);
    let rows = numbered(rows)?;
    let schema = rows.schema();
    let column = |index: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(schema.field(index).name(), index))
    };
    // Not in the plan above: the optimizer moves the fields of a struct below columns that are renamed, and then two have one name.
    let part = |name: &str| -> Result<Arc<dyn PhysicalExpr>> {
        let options = Arc::clone(state.config().options());
        let field = ScalarFunctionExpr::try_new(
            get_field(),
            vec![column(own), lit(name)],
            &schema,
            options,
        );
        Ok(Arc::new(field?))
    };
    let by = key.iter().copied().map(column);
    let by = by.chain([part("partition")?, part("offset")?, column(own + 1)]);
    let order = LexOrdering::new(by.map(PhysicalSortExpr::new_default));
    let order = order.ok_or_else(|| Error::internal("an order by no column"))?;
    let sorted = Arc::new(SortExec::new(order, rows));
    let columns = (0..own).map(|index| (column(index), schema.field(index).name().clone()));
    let columns: Vec<(Arc<dyn PhysicalExpr>, String)> = columns.collect();
    Ok(Arc::new(ProjectionExec::try_new(columns, sorted)?))
}

/// The rows of all partitions with their numbers in one more column: those of a partition have ascending ones.
fn numbered(rows: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let number = create_window_expr(
        &WindowFunctionDefinition::WindowUDF(row_number_udwf()),
        "__number".to_owned(),
        &[],
        &[],
        &[],
        Arc::new(WindowFrame::new(None)),
        rows.schema(),
        false,
        false,
        None,
    )?;
    let all = Arc::new(CoalescePartitionsExec::new(rows));
    let mode = InputOrderMode::Sorted;
    let numbered = BoundedWindowAggExec::try_new(vec![number], all, mode, false)?;
    Ok(Arc::new(numbered))
}

/// Name and place of the columns that identify a group of an aggregate beside its window.
fn keys_of(aggregate: &Aggregate, streams: &StreamSources) -> Vec<(String, usize)> {
    let is_window = |expr: &Expr| {
        let origins = origins(&aggregate.input, expr, streams);
        let mut origins = origins.iter();
        origins.all(|origin| matches!(origin, ColumnOrigin::WindowStart | ColumnOrigin::WindowEnd))
    };
    let groups = aggregate.group_expr.iter().enumerate();
    let keys = groups.filter(|(_, expr)| !is_window(expr));
    let name = |index: usize| Some(aggregate.schema.fields().get(index)?.name().clone());
    keys.filter_map(|(index, _)| Some((name(index)?, index)))
        .collect()
}

/// Checks that an aggregate has the columns of the job's own one at these places.
fn check_columns(found: &DFSchema, own: &DFSchema, places: &[usize]) -> Result<()> {
    for (field, place) in own.fields().iter().zip(places) {
        let is_same = found
            .fields()
            .get(*place)
            .is_some_and(|found| found.data_type() == field.data_type());
        if !is_same {
            return Err(Error::internal(format!(
                "column {} of an aggregate has another type in a run",
                field.name()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch, StructArray};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Rows of one key: partition, offset and value.
    fn rows(of: &[(i64, i64, i64)]) -> RecordBatch {
        let numbers = |of: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(of)) };
        let place = StructArray::from(vec![
            (
                Arc::new(Field::new("partition", DataType::Int64, false)),
                numbers(of.iter().map(|row| row.0).collect()),
            ),
            (
                Arc::new(Field::new("offset", DataType::Int64, false)),
                numbers(of.iter().map(|row| row.1).collect()),
            ),
        ]);
        let values = of.iter().map(|row| row.2).collect();
        let columns = [
            ("k", numbers(vec![7; of.len()])),
            ("v", numbers(values)),
            (ROW_COLUMN, Arc::new(place) as ArrayRef),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[tokio::test]
    async fn rows_of_one_record_stay_in_their_order() {
        // The second record comes first, in a partition of the plan of its own, and both give many rows of one key.
        let descending = |offset: i64| -> Vec<(i64, i64, i64)> {
            let values = (0..200).map(|at| offset * 1_000 - at);
            values.map(|value| (0, offset, value)).collect()
        };
        let (first, second) = (descending(4), descending(5));
        let parts = [vec![rows(&second)], vec![rows(&first)]];
        let schema = rows(&[]).schema();
        let input = MemorySourceConfig::try_new_exec(&parts, schema, None).unwrap();
        let context = SessionContext::new();
        let sorted = in_order(input, &[0], &context.state()).unwrap();
        assert_eq!(sorted.schema().fields().len(), 2);
        let mut values = Vec::new();
        for batch in collect(sorted, context.task_ctx()).await.unwrap() {
            let of_batch = batch.column(1).as_primitive::<Int64Type>();
            values.extend(of_batch.values().to_vec());
        }
        let expected: Vec<i64> = first.iter().chain(&second).map(|row| row.2).collect();
        assert_eq!(values, expected);
    }
}
