//! Stream side and static side of a job's plan: the parts that read its streams, and those that read static tables, which every
//! batch reads whole as they are at that time.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{LogicalPlan, TableScan, TableScanBuilder};

use crate::error::{Error, Result, Subject};
use crate::session::system::SYSTEM;
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::KafkaTable;
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
}

/// The streams of a job, by table name.
pub(crate) type Sources = BTreeMap<String, StreamTable>;

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
    (scan.table_name.schema() != Some(SYSTEM)).then(|| scan.table_name.table())
}

/// Whether a stream is read below `plan`, in subqueries as well.
pub(crate) fn reads_stream(plan: &LogicalPlan, sources: &Sources) -> bool {
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
    sources: &Sources,
) -> impl Iterator<Item = &'a LogicalPlan> {
    let inputs = plan.inputs().into_iter();
    inputs.filter(|input| reads_stream(input, sources))
}

/// The static tables of `plan`, subqueries included, each once.
pub(crate) fn static_tables(plan: &LogicalPlan, sources: &Sources) -> Vec<TableReference> {
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
    use datafusion::logical_expr::{LogicalPlanBuilder, col};

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
            .filter(col("dim.id").gt(datafusion::prelude::lit(1)))?
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
    fn a_static_table_may_get_columns_and_not_lose_those_in_use() {
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
