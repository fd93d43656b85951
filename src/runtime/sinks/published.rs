//! The rows that a sink shows to readers by key: a run compares its own with them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::TryStreamExt as _;

use crate::core::archive::OffsetRanges;
use crate::error::{Error, Result};
use crate::streaming::JobSinkTable;
use crate::tables::delta::{DeltaTableHandle, TimeTravel};
pub(in crate::runtime) use crate::tables::kafka::ReadRecords;
use crate::tables::kafka::last_rows;

/// Which rows of a sink are wanted. A sink may give others as well.
#[derive(Debug)]
pub(in crate::runtime) struct WantedRows<'a> {
    /// Where they are in a topic.
    pub(in crate::runtime) ranges: &'a BTreeMap<i32, OffsetRanges>,
    /// The part of the ranges that has rows of the job and its runs alone.
    pub(in crate::runtime) own: &'a BTreeMap<i32, OffsetRanges>,
    /// When their windows end, in microseconds since 1970 UTC.
    pub(in crate::runtime) ends: &'a RangeInclusive<i64>,
    /// The column of that time, and how much later it is than the column says; none if no column tells it.
    pub(in crate::runtime) end: Option<(usize, i64)>,
    /// Gets the bytes of the rows.
    pub(in crate::runtime) memory: &'a MemoryReservation,
    /// The records of a topic that were read before.
    pub(in crate::runtime) before: Option<ReadRecords>,
}

/// Rows of a sink, the last of each key.
#[derive(Debug)]
pub(in crate::runtime) struct SinkRows {
    /// In the columns of the sink: first those of the own part.
    pub(in crate::runtime) rows: RecordBatch,
    /// How many are of the own part. A table does not say who has written a row: all.
    pub(in crate::runtime) own: usize,
    /// The first offset that each partition of a topic has; none of a table, which has all rows.
    pub(in crate::runtime) low: Option<BTreeMap<i32, i64>>,
    /// The records of a topic that were read.
    pub(in crate::runtime) records: Option<ReadRecords>,
}

/// Reads rows of a sink as they are now.
///
/// # Errors
///
/// The sink cannot be read, or does not answer; it is no table.
pub(in crate::runtime) async fn rows_of(
    table: &JobSinkTable,
    state: &SessionState,
    wanted: WantedRows<'_>,
) -> Result<SinkRows> {
    match table {
        JobSinkTable::Kafka(table) => {
            let (context, before) = (state.task_ctx(), wanted.before);
            let read = last_rows(table, wanted.ranges, wanted.own, &context, before);
            let (found, records) = read.await?;
            wanted
                .memory
                .try_resize(found.rows.get_array_memory_size())?;
            Ok(SinkRows {
                rows: found.rows,
                own: found.own,
                low: Some(found.low),
                records,
            })
        }
        JobSinkTable::Delta(handle) => {
            let rows = rows_of_table(handle, state, &wanted).await?;
            Ok(SinkRows {
                own: rows.num_rows(),
                rows,
                low: None,
                records: None,
            })
        }
        JobSinkTable::Subscriber => Err(Error::internal("the job has no sink")),
    }
}

/// The columns of a sink.
///
/// # Errors
///
/// It does not answer; it is no table.
pub(in crate::runtime) async fn schema_of(table: &JobSinkTable) -> Result<SchemaRef> {
    match table {
        JobSinkTable::Kafka(table) => Ok(Arc::clone(table.schema())),
        JobSinkTable::Delta(handle) => handle.schema().await,
        JobSinkTable::Subscriber => Err(Error::internal("the job has no sink")),
    }
}

/// The columns of a sink that are values of its rows, by their places in `schema`: not those that say where or how a record is stored, and
/// not those that the table computes.
///
/// # Errors
///
/// The table cannot be read.
pub(in crate::runtime) async fn value_columns(
    table: &JobSinkTable,
    schema: &SchemaRef,
) -> Result<Vec<usize>> {
    let left_out: Vec<String> = match table {
        JobSinkTable::Kafka(table) => {
            let names = schema.fields().iter().map(|field| field.name());
            let names = names.filter(|name| table.metadata_key(name).is_some());
            names.cloned().collect()
        }
        JobSinkTable::Delta(handle) => {
            let generated = handle.generated_columns().await?.into_iter();
            generated.map(|(name, _)| name).collect()
        }
        JobSinkTable::Subscriber => Vec::new(),
    };
    let columns = schema.fields().iter().zip(0..);
    let columns = columns.filter(|(field, _)| !left_out.contains(field.name()));
    Ok(columns.map(|(_, place)| place).collect())
}

async fn rows_of_table(
    handle: &DeltaTableHandle,
    state: &SessionState,
    wanted: &WantedRows<'_>,
) -> Result<RecordBatch> {
    let table = handle.snapshot(TimeTravel::Latest).await?;
    let schema = table.schema();
    let filters = filters(&schema, wanted);
    let mut plan: Arc<dyn ExecutionPlan> = table.scan(state, None, &filters, None).await?;
    if let Some(filter) = conjunction(filters) {
        let by_name = DFSchema::try_from(plan.schema())?;
        let predicate = state.create_physical_expr(filter, &by_name)?;
        plan = Arc::new(FilterExec::try_new(predicate, plan)?);
    }
    let schema = plan.schema();
    let mut rows = execute_stream(plan, state.task_ctx())?;
    let mut batches = Vec::new();
    while let Some(rows) = rows.try_next().await? {
        // The rows stand side by side for a moment, when the batches become one.
        wanted.memory.try_grow(2 * rows.get_array_memory_size())?;
        batches.push(rows);
    }
    let rows = concat_batches(&schema, &batches);
    let rows = rows.map_err(|error| Error::internal(error.to_string()))?;
    wanted.memory.try_resize(rows.get_array_memory_size())?;
    Ok(rows)
}

/// Rows whose windows end in the wanted range.
fn filters(schema: &SchemaRef, wanted: &WantedRows<'_>) -> Vec<Expr> {
    let end = wanted.end;
    let told = end.and_then(|(end, later)| Some((schema.fields().get(end)?, later)));
    let Some((field, later)) = told else {
        return Vec::new();
    };
    let DataType::Timestamp(TimeUnit::Microsecond, zone) = field.data_type() else {
        return Vec::new();
    };
    let column = || Expr::Column(Column::from_name(field.name()));
    let at = |time: i64| lit(ScalarValue::TimestampMicrosecond(Some(time), zone.clone()));
    let (start, end) = (*wanted.ends.start(), *wanted.ends.end());
    let mut filters = Vec::new();
    if start > i64::MIN {
        filters.push(column().gt_eq(at(start.saturating_sub(later))));
    }
    if end < i64::MAX {
        filters.push(column().lt_eq(at(end.saturating_sub(later))));
    }
    filters
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, UnboundedMemoryPool};

    use super::*;

    #[test]
    fn rows_of_a_table_are_found_by_their_ends_or_by_their_starts() {
        let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("start", time(), true),
            Field::new("end", time(), true),
            Field::new("n", DataType::Int64, true),
        ]));
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let memory = MemoryConsumer::new("t").register(&pool);
        let nothing = BTreeMap::new();
        let found = |end, ends: RangeInclusive<i64>| {
            let wanted = WantedRows {
                ranges: &nothing,
                own: &nothing,
                ends: &ends,
                end,
                memory: &memory,
                before: None,
            };
            filters(&schema, &wanted)
        };
        let at = |name: &str| Expr::Column(Column::from_name(name));
        let time = |at: i64| {
            lit(ScalarValue::TimestampMicrosecond(
                Some(at),
                Some("UTC".into()),
            ))
        };
        let ends = found(Some((1, 0)), 11..=40);
        assert_eq!(ends, [at("end").gt_eq(time(11)), at("end").lt_eq(time(40))]);
        let starts = found(Some((0, 10)), 11..=40);
        assert_eq!(
            starts,
            [at("start").gt_eq(time(1)), at("start").lt_eq(time(30))]
        );
        let later = found(Some((0, 10)), 11..=i64::MAX);
        assert_eq!(later, [at("start").gt_eq(time(1))]);
        for (end, ends) in [
            (Some((0, 10)), i64::MIN..=i64::MAX),
            (Some((2, 0)), 1..=2),
            (None, 1..=2),
        ] {
            assert!(found(end, ends).is_empty());
        }
    }
}
