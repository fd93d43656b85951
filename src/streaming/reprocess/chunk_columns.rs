//! The streams of a job as a chunk of a run reads them: their rows of the chunk's event times, each window with its hidden columns, and
//! sessions completed over the chunk.

use std::collections::BTreeMap;

use anabranch_udfs::{CompleteSessions, CompletionRange, EventWindow, SessionWindow};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableScan, TableScanBuilder, lit,
};

use super::selected_rows::is_selected;
use crate::core::runs::{Chunk, Grouping, OffsetSet, TimeRange};
use crate::error::{Error, Result, Subject};
use crate::streaming::hidden_columns::{
    HIDDEN_SELECTED, HiddenColumns, extension, find, with_window_columns,
};
use crate::streaming::stream_inputs::{BatchSource, StreamSources, StreamTable};
use crate::tables::kafka::MetadataKey;
use crate::tables::time::{HIDDEN_END, ROW_COLUMN};

/// How long a session may be in a run, in microseconds, if its gap is short: seven days. A longer one is counted and left out, since the
/// search for its ends would read ever more of the archive, in each chunk.
const LONGEST_SESSION: i64 = 7 * 24 * 3_600 * 1_000_000;
/// How many gaps it may always be long.
const LONGEST_IN_GAPS: i64 = 100;

/// How long a session with this gap may be in a run.
pub(super) fn longest_session(gap: i64) -> i64 {
    LONGEST_SESSION.max(gap.saturating_mul(LONGEST_IN_GAPS))
}

/// The streams of a job in one chunk.
pub(super) struct ChunkColumns<'a> {
    pub(super) chunk: Chunk,
    pub(super) grouping: Grouping,
    pub(super) streams: &'a StreamSources,
    pub(super) sources: &'a BTreeMap<String, BatchSource>,
    /// The rows to whose results the run is restricted.
    pub(super) selection: Option<&'a OffsetSet>,
}

impl ChunkColumns<'_> {
    /// Whether all sources tell the places of rows in the hidden column.
    pub(super) fn have_places(&self) -> bool {
        let mut sources = self.sources.values();
        sources.all(|source| source.provider.schema().index_of(ROW_COLUMN).is_ok())
    }

    /// The rows of a stream that belong to the chunk of a job without groups, in the columns of the scan.
    pub(super) fn rows(&self, scan: &TableScan) -> Result<LogicalPlan> {
        let rows = self.read(scan)?;
        let columns = scan.projected_schema.columns();
        let (_, table) = self.stream(scan)?;
        let rows = match self.selection {
            None => rows,
            Some(selection) => {
                let name = scan.table_name.table();
                let (partition, offset) = place(name, table, rows.schema())?;
                let selected = is_selected(selection.of_table(name), partition, offset);
                LogicalPlanBuilder::from(rows).filter(selected)?.build()?
            }
        };
        let columns = columns.into_iter().map(Expr::Column);
        Ok(LogicalPlanBuilder::from(rows).project(columns)?.build()?)
    }

    /// The scan of a stream over the source of the chunk, with all its columns, of the event times that the chunk reads.
    fn read(&self, scan: &TableScan) -> Result<LogicalPlan> {
        let (source, table) = self.stream(scan)?;
        let provider = provider_as_source(std::sync::Arc::clone(&source.provider));
        let rows = TableScanBuilder::new(scan.table_name.clone(), provider).build()?;
        let rows = LogicalPlan::TableScan(rows);
        if matches!(self.grouping, Grouping::Sessions { .. }) {
            // Its sessions are read slice by slice, each with a filter of its own.
            return Ok(rows);
        }
        let name = scan.table_name.table();
        let Some(event_time) = table.event_time() else {
            return Err(Error::invalid(format!(
                "{name} declares no event time, so a run cannot read a range of it"
            ))
            .about(Subject::table(name))
            .with_help("ask for OFFSETS, or declare WATERMARK FOR with the table"));
        };
        let column = Column::new(Some(scan.table_name.clone()), &event_time.column);
        let reads = self.chunk.reads().ok_or_else(out_of_range)?;
        let of_type = rows
            .schema()
            .field_from_column(&column)?
            .data_type()
            .clone();
        let within = within(&Expr::Column(column), reads, &of_type)?;
        Ok(LogicalPlanBuilder::from(rows).filter(within)?.build()?)
    }

    fn stream(&self, scan: &TableScan) -> Result<(&BatchSource, &StreamTable)> {
        let name = scan.table_name.table();
        let source = self.sources.get(name).zip(self.streams.get(name));
        source.ok_or_else(|| Error::internal(format!("the chunk has no source for {name}")))
    }
}

impl HiddenColumns for ChunkColumns<'_> {
    fn scan(&self, scan: &TableScan) -> Result<LogicalPlan> {
        let rows = self.read(scan)?;
        let Some(selection) = self.selection else {
            return Ok(rows);
        };
        let (_, table) = self.stream(scan)?;
        let name = scan.table_name.table();
        let (partition, offset) = place(name, table, rows.schema())?;
        let selected = is_selected(selection.of_table(name), partition, offset);
        let columns = rows.schema().columns().into_iter().map(Expr::Column);
        let columns: Vec<Expr> = columns.chain([selected.alias(HIDDEN_SELECTED)]).collect();
        Ok(LogicalPlanBuilder::from(rows).project(columns)?.build()?)
    }

    fn windows(&self, window: EventWindow) -> Result<LogicalPlan> {
        let rows = with_window_columns(extension(window))?;
        // The same as the chunk's rule for groups, before they are made.
        let end = find(rows.schema(), HIDDEN_END)
            .ok_or_else(|| Error::internal("the window's end is gone"))?;
        let of_type = rows.schema().field_from_column(&end)?.data_type().clone();
        let ends = TimeRange::try_new(
            self.chunk.range.from().saturating_add(1),
            self.chunk.range.to().saturating_add(1),
        );
        let within = within(&Expr::Column(end), ends.ok_or_else(out_of_range)?, &of_type)?;
        Ok(LogicalPlanBuilder::from(rows).filter(within)?.build()?)
    }

    fn sessions(&self, window: SessionWindow) -> Result<LogicalPlan> {
        let gap = window.gap();
        let range = CompletionRange {
            from: self.chunk.range.from(),
            to: self.chunk.range.to(),
            // One that is as long as it may be is read to its end, and a gap more, wherever it lies.
            max_extension: longest_session(gap).saturating_add(gap),
        };
        // A source sets rows without an event time aside.
        let sessions = CompleteSessions::try_new(
            window.input().clone(),
            window.keys().to_vec(),
            window.event_time().clone(),
            gap,
            range,
        )?
        .passing_over_nulls();
        with_window_columns(extension(sessions))
    }
}

/// Partition and offset of the rows of a table.
fn place(name: &str, table: &StreamTable, schema: &DFSchema) -> Result<(Expr, Expr)> {
    if let Some(row) = find(schema, ROW_COLUMN) {
        let row = Expr::Column(row);
        return Ok((
            get_field(row.clone(), "partition"),
            get_field(row, "offset"),
        ));
    }
    let column = |key| {
        let StreamTable::Kafka(table) = table else {
            return None;
        };
        let field = table.schema().field(table.metadata_column(key)?);
        find(schema, field.name()).map(Expr::Column)
    };
    let place = column(MetadataKey::Partition).zip(column(MetadataKey::Offset));
    place.ok_or_else(|| {
        Error::invalid(format!(
            "the rows of {name} do not tell their partition and offset, so a run cannot be restricted to some of them"
        ))
        .about(Subject::table(name))
        .with_help("declare the columns with METADATA FROM 'partition' and METADATA FROM 'offset'")
    })
}

/// `time` within a range.
fn within(time: &Expr, range: TimeRange, of_type: &DataType) -> Result<Expr> {
    let DataType::Timestamp(TimeUnit::Microsecond, zone) = of_type else {
        return Err(Error::unsupported(format!(
            "{time} is {of_type}, and a run counts event times in microseconds"
        ))
        .with_help("declare the event time as TIMESTAMP"));
    };
    let at = |micros| {
        lit(ScalarValue::TimestampMicrosecond(
            Some(micros),
            zone.clone(),
        ))
    };
    let from = time.clone().gt_eq(at(range.from()));
    Ok(from.and(time.clone().lt(at(range.to()))))
}

fn out_of_range() -> Error {
    Error::invalid("the range is beyond the event times that windows can have")
        .with_help("ask for a range of event times that there are")
}
