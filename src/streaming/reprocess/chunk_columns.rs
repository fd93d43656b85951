//! The streams of a job as a chunk of a run reads them: their rows of the chunk's event times, each window with its hidden columns, and
//! sessions completed over the chunk.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_udfs::{CompleteSessions, CompletionRange, EventWindow, SessionWindow};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::named_struct;
use datafusion::logical_expr::{
    Expr, ExprSchemable as _, LogicalPlan, LogicalPlanBuilder, TableScan, TableScanBuilder, cast,
    lit,
};

use super::selected_rows::is_selected;
use crate::core::runs::{Chunk, Grouping, OffsetSet, TimeRange};
use crate::error::{Error, Result, Subject};
use crate::streaming::hidden_columns::{
    HIDDEN_SELECTED, HiddenColumns, extension, find, with_window_columns,
};
use crate::streaming::stream_inputs::{BatchSource, StreamSources, StreamTable};
use crate::tables::kafka::MetadataKey;
use crate::tables::time::{OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN};

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
    /// None of a run by offsets, whose sources have the rows alone that are asked for.
    pub(super) chunk: Option<Chunk>,
    pub(super) grouping: Grouping,
    pub(super) streams: &'a StreamSources,
    pub(super) sources: &'a BTreeMap<String, BatchSource>,
    /// The rows to whose results the run is restricted.
    pub(super) selection: Option<&'a OffsetSet>,
    /// Of these rows, the event times that are asked for.
    pub(super) selected_times: Option<TimeRange>,
}

impl ChunkColumns<'_> {
    /// Whether the places of all rows are known.
    pub(super) fn have_places(&self) -> bool {
        self.sources.iter().all(|(name, source)| {
            let columns = source.provider.schema();
            let has = |column: &str| columns.index_of(column).is_ok();
            let table = self.streams.get(name);
            table.is_some_and(|table| place_columns(table, has).is_some())
        })
    }

    /// The chunk of a run by event time.
    pub(super) fn chunk(&self) -> Result<Chunk> {
        self.chunk
            .ok_or_else(|| Error::internal("a run by offsets of a job that groups rows"))
    }

    /// The rows of a stream that belong to the chunk of a job without groups, in the columns of the scan, each with its place.
    fn rows(&self, scan: &TableScan) -> Result<LogicalPlan> {
        let mut rows = LogicalPlanBuilder::from(self.read(scan)?);
        if self.selection.is_some() {
            let selected = self.is_selected(scan, rows.schema())?;
            rows = rows.filter(selected)?;
        }
        let (_, table) = self.stream(scan)?;
        let place = place(table, rows.schema());
        let place = place.ok_or_else(|| Error::internal("the rows of a run have no places"))?;
        let columns = scan.projected_schema.columns().into_iter();
        let columns = columns.map(Expr::Column).chain([row(place)]);
        Ok(rows.project(columns)?.build()?)
    }

    /// Whether a row of a stream is one of those to which the run is restricted.
    fn is_selected(&self, scan: &TableScan, schema: &DFSchema) -> Result<Expr> {
        let (_, table) = self.stream(scan)?;
        let name = scan.table_name.table();
        let Some((partition, offset)) = place(table, schema) else {
            return Err(Error::invalid(format!(
                "the rows of {name} do not tell their partition and offset, so a run cannot be restricted to some of them"
            ))
            .about(Subject::table(name))
            .with_help(
                "declare columns with METADATA FROM 'partition' and METADATA FROM 'offset'",
            ));
        };
        let offsets = self
            .selection
            .and_then(|selection| selection.of_table(name));
        let selected = is_selected(offsets, partition, offset);
        Ok(match self.selected_times {
            Some(times) => selected.and(within(event_time(scan, table)?, times, schema)?),
            None => selected,
        })
    }

    /// The scan of a stream over the source of the chunk, with all its columns, of the event times that the chunk reads.
    fn read(&self, scan: &TableScan) -> Result<LogicalPlan> {
        let (source, table) = self.stream(scan)?;
        let provider = provider_as_source(Arc::clone(&source.provider));
        let rows = TableScanBuilder::new(scan.table_name.clone(), provider).build()?;
        let rows = LogicalPlan::TableScan(rows);
        if matches!(self.grouping, Grouping::Sessions { .. }) {
            // Its sessions are read slice by slice, each with a filter of its own.
            return Ok(rows);
        }
        let Some(chunk) = self.chunk else {
            return Ok(rows);
        };
        let time = event_time(scan, table)?;
        let reads = chunk.reads().ok_or_else(out_of_range)?;
        let within = within(time, reads, rows.schema())?;
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
        let (_, table) = self.stream(scan)?;
        let columns = scan.projected_schema.columns().into_iter();
        let mut columns: Vec<Expr> = columns.map(Expr::Column).collect();
        if self.have_places()
            && let Some(place) = place(table, rows.schema())
        {
            columns.push(row(place));
        }
        if self.selection.is_some() {
            let selected = self.is_selected(scan, rows.schema())?;
            columns.push(selected.alias(HIDDEN_SELECTED));
        }
        Ok(LogicalPlanBuilder::from(rows).project(columns)?.build()?)
    }

    fn windows(&self, window: EventWindow) -> Result<LogicalPlan> {
        // The same as the chunk's rule for groups, before they are made: a row may be in many windows, and few of them in the chunk.
        let range = self.chunk()?.range;
        let after = |time: i64| time.checked_add(1).ok_or_else(out_of_range);
        let window = window.with_ends_in(after(range.from())?, after(range.to())?);
        with_window_columns(extension(window))
    }

    fn sessions(&self, window: SessionWindow) -> Result<LogicalPlan> {
        let gap = window.gap();
        let of_chunk = self.chunk()?.range;
        let range = CompletionRange {
            from: of_chunk.from(),
            to: of_chunk.to(),
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

/// The streams of a job without groups in one chunk.
pub(super) struct ChunkRows<'a>(pub(super) &'a ChunkColumns<'a>);

impl HiddenColumns for ChunkRows<'_> {
    fn scan(&self, scan: &TableScan) -> Result<LogicalPlan> {
        self.0.rows(scan)
    }

    fn windows(&self, window: EventWindow) -> Result<LogicalPlan> {
        Ok(extension(window))
    }

    fn are_above_rows(&self) -> bool {
        true
    }
}

/// The hidden column of a row at this partition and offset.
fn row((partition, offset): (Expr, Expr)) -> Expr {
    let fields = vec![lit("partition"), partition, lit("offset"), offset];
    named_struct(fields).alias(ROW_COLUMN)
}

/// The columns with partition and offset of the rows of a table: hidden ones, else those that it has declared. `has` says which columns
/// there are.
fn place_columns(table: &StreamTable, has: impl Fn(&str) -> bool) -> Option<[String; 2]> {
    let hidden = [PARTITION_COLUMN, OFFSET_COLUMN].map(str::to_owned);
    if hidden.iter().all(|column| has(column)) {
        return Some(hidden);
    }
    let StreamTable::Kafka(table) = table else {
        return None;
    };
    let own = |key| {
        let index = table.metadata_column(key)?;
        let name = table.schema().field(index).name().clone();
        has(&name).then_some(name)
    };
    Some([own(MetadataKey::Partition)?, own(MetadataKey::Offset)?])
}

/// Partition and offset of the rows of a table.
fn place(table: &StreamTable, schema: &DFSchema) -> Option<(Expr, Expr)> {
    let has = |column: &str| find(schema, column).is_some();
    let [partition, offset] = place_columns(table, has)?;
    let column = |name: &str, data_type| {
        let column = find(schema, name).map(Expr::Column)?;
        Some(cast(column, data_type))
    };
    Some((
        column(&partition, DataType::Int32)?,
        column(&offset, DataType::Int64)?,
    ))
}

/// The event time of the rows of a scan.
fn event_time(scan: &TableScan, table: &StreamTable) -> Result<Expr> {
    let Some(event_time) = table.event_time() else {
        let name = scan.table_name.table();
        return Err(Error::invalid(format!(
            "{name} declares no event time, so a run cannot read a range of it"
        ))
        .about(Subject::table(name))
        .with_help("ask for OFFSETS, or declare WATERMARK FOR with the table"));
    };
    let column = Column::new(Some(scan.table_name.clone()), &event_time.column);
    Ok(Expr::Column(column))
}

/// `time` within a range.
fn within(time: Expr, range: TimeRange, schema: &DFSchema) -> Result<Expr> {
    let of_type = time.get_type(schema)?;
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
    Ok(from.and(time.lt(at(range.to()))))
}

fn out_of_range() -> Error {
    Error::invalid("the range is beyond the event times that windows can have")
        .with_help("ask for a range of event times that there are")
}
