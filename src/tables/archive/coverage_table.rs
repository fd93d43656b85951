//! `archive_coverage('t')` as a table: a row for each range of offsets that the archive of a topic covers or lacks. It is computed when
//! the plan runs.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::FutureExt as _;

use crate::core::archive::{CoverageKind, OffsetRange};
use crate::error::Error;
use crate::tables::archive::coverage::{PartitionCoverage, coverage_of};
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::KafkaTable;

/// The coverage of a topic by its archive.
#[derive(Debug)]
pub struct CoverageTable {
    table: Arc<KafkaTable>,
    archive: DeltaTableHandle,
    schema: SchemaRef,
}

impl CoverageTable {
    /// The coverage of `table` by `archive`, the Delta table that it names.
    pub fn new(table: Arc<KafkaTable>, archive: DeltaTableHandle) -> Self {
        let schema = coverage_schema();
        Self {
            table,
            archive,
            schema,
        }
    }
}

fn coverage_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("from_offset", DataType::Int64, false),
        Field::new("to_offset", DataType::Int64, false),
        Field::new("kind", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, true),
        Field::new("in_topic", DataType::Boolean, false),
    ]))
}

#[async_trait]
impl TableProvider for CoverageTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let state = session.as_any().downcast_ref::<SessionState>();
        let state = state.ok_or_else(|| Error::internal("a session of another kind"))?;
        let rows = CoverageRows {
            table: Arc::clone(&self.table),
            archive: self.archive.clone(),
            schema: Arc::clone(&self.schema),
            state: Arc::new(state.clone()),
        };
        let plan = StreamingTableExec::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(rows)],
            projection,
            Vec::new(),
            false,
            limit,
        )?;
        Ok(Arc::new(plan))
    }
}

/// The rows of one scan.
struct CoverageRows {
    table: Arc<KafkaTable>,
    archive: DeltaTableHandle,
    schema: SchemaRef,
    state: Arc<SessionState>,
}

impl fmt::Debug for CoverageRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoverageRows")
            .field("table", &self.table.name())
            .finish_non_exhaustive()
    }
}

impl PartitionStream for CoverageRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (table, archive) = (Arc::clone(&self.table), self.archive.clone());
        let (schema, state) = (Arc::clone(&self.schema), Arc::clone(&self.state));
        let rows = async move {
            let partitions = coverage_of(&table, &archive, &state).await?;
            batch(schema, &partitions)
        };
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(
            schema,
            rows.boxed().into_stream(),
        ))
    }
}

/// A row for each range.
fn batch(schema: SchemaRef, partitions: &[PartitionCoverage]) -> Result<RecordBatch> {
    let ranges = || {
        let of_all = partitions.iter();
        of_all.flat_map(|of| of.ranges.iter().map(move |range| (of, range)))
    };
    let kinds = ranges().map(|(_, range)| match range.kind {
        CoverageKind::Covered => "covered",
        CoverageKind::Hole(_) => "hole",
    });
    let reasons = ranges().map(|(_, range)| match &range.kind {
        CoverageKind::Covered => None,
        CoverageKind::Hole(reason) => Some(reason.to_string()),
    });
    let in_topic = ranges().map(|(of, range)| {
        let OffsetRange { from, to } = range.range;
        Some(
            of.topic
                .is_some_and(|topic| topic.from <= from && to <= topic.to),
        )
    });
    let partition = ranges().map(|(of, _)| of.partition);
    let from = ranges().map(|(_, range)| range.range.from);
    let to = ranges().map(|(_, range)| range.range.to);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(partition)) as _,
        Arc::new(Int64Array::from_iter_values(from)) as _,
        Arc::new(Int64Array::from_iter_values(to)) as _,
        Arc::new(kinds.map(Some).collect::<StringArray>()) as _,
        Arc::new(reasons.collect::<StringArray>()) as _,
        Arc::new(in_topic.collect::<BooleanArray>()) as _,
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::core::archive::{CoverageRange, HoleReason};

    #[test]
    fn ranges_become_rows() {
        let range = |from, to, kind| CoverageRange {
            range: OffsetRange::new(from, to),
            kind,
        };
        let hole = CoverageKind::Hole;
        let partitions = [
            PartitionCoverage {
                partition: 0,
                topic: Some(OffsetRange::new(5, 12)),
                ranges: vec![
                    range(3, 8, CoverageKind::Covered),
                    range(8, 12, hole(HoleReason::NotArchivedYet)),
                ],
            },
            PartitionCoverage {
                partition: 1,
                topic: None,
                ranges: vec![range(0, 2, hole(HoleReason::Unknown))],
            },
        ];
        let schema = coverage_schema();
        let rows = batch(schema, &partitions).unwrap();
        let shown = datafusion::arrow::util::pretty::pretty_format_batches(&[rows]).unwrap();
        let expected = "\
+-----------+-------------+-----------+---------+------------------+----------+
| partition | from_offset | to_offset | kind    | reason           | in_topic |
+-----------+-------------+-----------+---------+------------------+----------+
| 0         | 3           | 8         | covered |                  | false    |
| 0         | 8           | 12        | hole    | not archived yet | true     |
| 1         | 0           | 2         | hole    | unknown          | false    |
+-----------+-------------+-----------+---------+------------------+----------+";
        assert_eq!(shown.to_string(), expected);
    }
}
