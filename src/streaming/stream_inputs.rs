//! Stream side and static side of a job's plan: the parts that read its streams, and those that read static tables, which every
//! batch reads whole as they are at that time. Each stream of a batch is read, also one that the query does not need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableScan, TableScanBuilder};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerContext};
use datafusion::physical_plan::ExecutionPlan;

use crate::core::jobs::{PlannedRange, RecordMark};
use crate::core::runs::Chunk;
use crate::error::{Error, Result, Subject};
use crate::session::system::SYSTEM;
use crate::streaming::drain::DrainedPlan;
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::KafkaTable;
use crate::tables::side_output::ExpectedReport;
use crate::tables::time::EventTime;

/// A table that a job reads as a stream.
#[derive(Debug, Clone)]
pub enum StreamTable {
    /// A topic.
    Kafka(Arc<KafkaTable>),
    /// The files that are added to a Delta table.
    Delta(DeltaTableHandle),
}

impl StreamTable {
    /// Its WATERMARK FOR.
    pub fn event_time(&self) -> Option<&EventTime> {
        match self {
            StreamTable::Kafka(table) => table.event_time(),
            StreamTable::Delta(handle) => handle.event_time(),
        }
    }

    /// Its topic, if it is one.
    pub fn topic(&self) -> Option<&str> {
        match self {
            StreamTable::Kafka(table) => Some(table.topic()),
            StreamTable::Delta(_) => None,
        }
    }
}

/// A source restricted to the ranges of one batch.
#[derive(Debug, Clone)]
pub struct BatchSource {
    /// Provides the batch's rows; with the hidden columns, if the job has windows.
    pub provider: Arc<dyn TableProvider>,
    /// The ranges that its scans report, without those that are empty.
    pub ranges: Vec<PlannedRange>,
    /// By partition, the last record of the batch, where that is known before it is read.
    pub last_records: BTreeMap<i32, RecordMark>,
    /// The chunk of a run that is read by event time; none for a job, and for a run that is read by offsets.
    pub chunk: Option<Chunk>,
}

/// The streams of a job, by table name.
pub(crate) type StreamSources = BTreeMap<String, StreamTable>;

/// The tables of one batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchTables {
    /// Streams, by table name.
    pub(crate) streams: BTreeMap<String, Arc<dyn TableProvider>>,
    /// Static tables, by the name they have in a plan.
    pub(crate) statics: BTreeMap<TableReference, Arc<dyn TableProvider>>,
}

impl BatchTables {
    fn of(&self, scan: &TableScan) -> Option<&Arc<dyn TableProvider>> {
        let stream = table_of(scan).and_then(|name| self.streams.get(name));
        stream.or_else(|| self.statics.get(&scan.table_name))
    }
}

/// The name of the scanned table in the session's own schema; none for a system table.
pub(crate) fn table_of(scan: &TableScan) -> Option<&str> {
    name_of(&scan.table_name)
}

/// The same of a reference to a table.
pub(super) fn name_of(table: &TableReference) -> Option<&str> {
    (table.schema() != Some(SYSTEM)).then(|| table.table())
}

/// Whether a stream is read below `plan`, in subqueries as well.
pub(crate) fn reads_stream(plan: &LogicalPlan, sources: &StreamSources) -> bool {
    let mut found = false;
    // The closure does not fail.
    let _ = plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan
            && table_of(scan).is_some_and(|name| sources.contains_key(name))
        {
            found = true;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The inputs of `plan` that read a stream.
pub(super) fn stream_inputs<'a>(
    plan: &'a LogicalPlan,
    sources: &StreamSources,
) -> impl Iterator<Item = &'a LogicalPlan> {
    let inputs = plan.inputs().into_iter();
    inputs.filter(|input| reads_stream(input, sources))
}

/// The static tables of `plan`, subqueries included, each once.
pub(crate) fn static_tables(plan: &LogicalPlan, sources: &StreamSources) -> Vec<TableReference> {
    let mut found = Vec::new();
    // The closure does not fail.
    let _ = plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan
            && table_of(scan).is_none_or(|name| !sources.contains_key(name))
            && !found.contains(&scan.table_name)
        {
            found.push(scan.table_name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Replaces the tables of `plan` by these; other tables stay.
pub(super) fn over(plan: LogicalPlan, tables: &BatchTables) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::TableScan(scan) => match tables.of(&scan) {
            Some(provider) => Ok(Transformed::yes(rebased(scan, provider)?)),
            None => Ok(Transformed::no(LogicalPlan::TableScan(scan))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

/// The plan of a batch's rows, and beside it scans of the streams that the optimizer has removed from it: it leaves no scan below
/// `WHERE false`, or below a join with an empty relation. Their records are read all the same, with the columns that the query names:
/// they move the watermark, and one that cannot be decoded is a dead letter, as below any other filter. `analyzed` is
/// the logical plan before it is optimized.
pub(super) async fn with_removed(
    rows: Arc<dyn ExecutionPlan>,
    sources: &BTreeMap<String, BatchSource>,
    analyzed: &LogicalPlan,
    state: &SessionState,
) -> Result<DrainedPlan> {
    let rows = DrainedPlan::of(rows)?;
    let left = &rows.expected;
    let is_left = |name: &str| left.iter().any(|expected| *expected.table == *name);
    let removed = sources.iter();
    let removed = removed.filter(|(name, source)| !source.ranges.is_empty() && !is_left(name));
    let removed: Vec<(&String, &BatchSource)> = removed.collect();
    if removed.is_empty() {
        return Ok(rows);
    }
    let columns = columns_read(analyzed.clone())?;
    let mut scans = Vec::with_capacity(removed.len());
    for (name, source) in removed {
        let schema = source.provider.schema();
        let read = columns.get(name);
        let is_read = |field: &Field| read.is_some_and(|read| read.contains(field.name()));
        let read = schema.fields().iter().enumerate();
        let read = read.filter(|(_, field)| is_read(field));
        let read: Vec<usize> = read.map(|(index, _)| index).collect();
        let table = provider_as_source(Arc::clone(&source.provider));
        let scan = TableScanBuilder::new(TableReference::bare(name.as_str()), table)
            .with_projection(Some(read))
            .build()?;
        let scan = LogicalPlan::TableScan(scan);
        let planner = state.query_planner();
        let scan = planner.create_physical_plan(&scan, state).await?;
        scans.push(DrainedPlan::of(scan)?);
    }
    Ok(rows.beside(scans))
}

/// The columns that an analyzed plan reads of its tables, by table name.
fn columns_read(plan: LogicalPlan) -> Result<BTreeMap<String, BTreeSet<String>>> {
    // No other rule runs: it might remove the table.
    let optimizer = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    let plan = optimizer.optimize(plan, &OptimizerContext::new(), |_, _| {})?;
    let mut columns: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan
            && let Some(name) = table_of(scan)
        {
            let fields = scan.projected_schema.fields().iter();
            let of_table = columns.entry(name.to_owned()).or_default();
            of_table.extend(fields.map(|field| field.name().clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}

/// Checks that the scans of a plan are to report each range of these sources (LOSS-1).
///
/// # Errors
///
/// A range that none of them reads.
pub(super) fn check_planned(
    expected: &[ExpectedReport],
    sources: &BTreeMap<String, BatchSource>,
) -> Result<()> {
    for (name, source) in sources {
        for range in &source.ranges {
            let reads = |expected: &ExpectedReport| {
                *expected.table == **name
                    && (expected.partition, expected.start, expected.end)
                        == (range.partition, range.start, range.end)
            };
            if !expected.iter().any(reads) {
                return Err(Error::internal(format!(
                    "table {name}: no scan of the batch reads partition {} from offset {} to {}",
                    range.partition, range.start, range.end
                )));
            }
        }
    }
    Ok(())
}

/// Replaces the table of a scan by another state of it: the columns it was planned with must still exist, others may have been
/// added.
fn rebased(mut scan: TableScan, provider: &Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let (planned, now) = (scan.source.schema(), provider.schema());
    let source = provider_as_source(Arc::clone(provider));
    if planned.fields() == now.fields() {
        scan.source = source;
        return Ok(LogicalPlan::TableScan(scan));
    }
    let wanted = scan.projection.take();
    let wanted = wanted.unwrap_or_else(|| (0..planned.fields().len()).collect());
    let columns = wanted.into_iter().map(|index| {
        let field = planned.field(index);
        let found = now.column_with_name(field.name()).filter(|(_, found)| {
            found.data_type() == field.data_type() && found.is_nullable() == field.is_nullable()
        });
        found.map(|(index, _)| index).ok_or_else(|| {
            Error::invalid(format!(
                "{} has changed: its column {} is no longer the {} that the job was planned with",
                scan.table_name,
                field.name(),
                field.data_type()
            ))
            .about(Subject::table(scan.table_name.table()))
            .about(Subject::column(field.name()))
            .with_help("run the job's file again; CREATE OR REPLACE JOB changes the query")
        })
    });
    let columns = columns.collect::<Result<Vec<usize>>>()?;
    let scan = TableScanBuilder::new(scan.table_name, source)
        .with_projection(Some(columns))
        .with_filters(scan.filters)
        .with_fetch(scan.fetch)
        .build()?;
    Ok(LogicalPlan::TableScan(scan))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::empty::EmptyTable;
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};

    use super::*;

    fn table(columns: &[(&str, DataType)]) -> Arc<dyn TableProvider> {
        let field =
            |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
        let fields: Vec<Field> = columns.iter().map(field).collect();
        Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))))
    }

    fn over_now(columns: &[(&str, DataType)]) -> Result<LogicalPlan> {
        let planned = table(&[("id", DataType::Int64), ("name", DataType::Utf8)]);
        let plan = LogicalPlanBuilder::scan("dim", provider_as_source(planned), None)?
            .filter(col("dim.id").gt(lit(1)))?
            .build()?;
        let tables = BatchTables {
            statics: [(TableReference::bare("dim"), table(columns))].into(),
            ..BatchTables::default()
        };
        let schema = Arc::clone(plan.schema());
        let over = over(plan, &tables)?;
        assert_eq!(over.schema(), &schema);
        Ok(over)
    }

    #[test]
    fn columns_that_a_filter_needs_are_read_even_if_no_row_passes() {
        let columns = ["id", "name", "more"].map(|name| (name, DataType::Int64));
        let plan = LogicalPlanBuilder::scan("t", provider_as_source(table(&columns)), None)
            .unwrap()
            .filter(col("t.id").gt(lit(1)))
            .unwrap()
            .filter(lit(false))
            .unwrap()
            .project([col("t.name")])
            .unwrap()
            .build()
            .unwrap();
        let read = columns_read(plan).unwrap();
        let read: Vec<&str> = read["t"].iter().map(String::as_str).collect();
        assert_eq!(read, ["id", "name"]);
    }

    #[test]
    fn a_static_table_may_gain_columns_but_not_lose_used_ones() {
        let (id, name) = (("id", DataType::Int64), ("name", DataType::Utf8));
        over_now(&[id.clone(), name.clone()]).unwrap();
        over_now(&[name.clone(), ("more", DataType::Date32), id.clone()]).unwrap();
        let gone = over_now(std::slice::from_ref(&id)).unwrap_err();
        assert!(
            gone.message().contains("dim has changed: its column name"),
            "{gone}"
        );
        let other = over_now(&[id, ("name", DataType::Int32)]).unwrap_err();
        assert!(other.message().contains("no longer the Utf8"), "{other}");
    }
}
