//! A Kafka table as a reprocessing run sees it (ARCH-1): its whole past, at one version of the archive and up to fixed ends of the topic.
//! Archive and topic share no offset; the topic gives what the archive does not cover.
//!
//! Filters on event time leave out files of the archive, and parts of the topic ([`tail_times`]).

mod facts;
mod in_offsets;
#[cfg(test)]
mod past_tests;
#[cfg(test)]
mod session_tests;
mod tail_times;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, execute_stream};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use tokio::sync::OnceCell;

use crate::core::archive::{OffsetRange as Offsets, OffsetRanges, PartitionOffsets, PastParts};
use crate::error::Result;
use crate::tables::archive::job_archive::CoveredArchive;
use crate::tables::archive::narrowing::narrowed;
use crate::tables::archive::past::in_offsets::rows_in;
use crate::tables::archive::past::tail_times::TailTimes;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::archive::reading::{ArchiveRead, ReadFor};
use crate::tables::archive::scan::{ArchiveScanExec, ShownScan};
use crate::tables::bad_records::{BadRecords, SetAside};
use crate::tables::boxed_methods::boxed_scan;
use crate::tables::delta::time_ranges;
use crate::tables::kafka::{KafkaScanExec, KafkaTable, OffsetRange, row_bounds};
use crate::tables::side_output::{BatchScan, ScanOutlet};

/// A predicate on the archive names at most so many ranges of offsets: it only leaves out files.
const MOST_RANGES: usize = 256;

/// The past of a table, or a part of it.
#[derive(Debug, Clone)]
pub(crate) struct PinnedPast {
    pinned: Arc<PinnedState>,
    /// The offsets that are read.
    parts: Arc<BTreeMap<i32, PastParts>>,
    /// Whether these are not all that the archive has.
    is_part: bool,
    outlet: PastOutlet,
}

/// What does not change while a run goes on.
struct PinnedState {
    archive: Arc<PinnedArchive>,
    session: Arc<SessionState>,
    /// The Kafka table, with the coordinates of records in two more columns.
    table: Arc<KafkaTable>,
    /// Whether rows without a time of this world are left out, as a job that keeps time does.
    keeps_time: bool,
    /// All offsets of the past.
    all: Arc<BTreeMap<i32, PastParts>>,
    /// The event times in the topic's part.
    tail_times: OnceCell<TailTimes>,
}

impl fmt::Debug for PinnedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedState")
            .field("archive", &self.archive.mapping().archive())
            .field("version", &self.archive.version())
            .finish_non_exhaustive()
    }
}

/// Where records go that a run cannot use.
#[derive(Debug, Clone)]
enum PastOutlet {
    /// Nowhere: the job has set them aside, and chunks of event time meet them again and again.
    LeftOut,
    /// They are dead letters of the batch.
    Batch {
        /// What the job calls the table.
        table: Arc<str>,
        aside: Arc<SetAside>,
        scans: Arc<AtomicI32>,
    },
}

impl PinnedPast {
    /// The past of the archive's table, which is divided like this. `keeps_time` says that the job leaves out rows without a time of
    /// this world.
    pub(crate) fn new(
        archive: &CoveredArchive,
        parts: BTreeMap<i32, PastParts>,
        keeps_time: bool,
    ) -> Self {
        let is_all = |(partition, covered): (&i32, &OffsetRanges)| {
            let part = parts.get(partition).map(|parts| &parts.archive);
            covered.is_empty() || part == Some(covered)
        };
        let is_part = !archive.partitions().iter().all(is_all);
        let pinned = archive.pinned();
        let parts = Arc::new(parts);
        Self {
            pinned: Arc::new(PinnedState {
                archive: Arc::clone(pinned),
                session: Arc::clone(archive.session()),
                table: Arc::new(pinned.table().with_coordinates()),
                keeps_time,
                all: Arc::clone(&parts),
                tail_times: OnceCell::new(),
            }),
            parts,
            is_part,
            outlet: PastOutlet::LeftOut,
        }
    }

    /// The records at these offsets alone.
    #[must_use]
    pub(crate) fn restricted_to(&self, offsets: &PartitionOffsets) -> Self {
        let none = OffsetRanges::default();
        self.changed(|partition, of| of.within(offsets.get(&partition).unwrap_or(&none)))
    }

    /// The records at other offsets than these.
    #[must_use]
    pub(crate) fn without(&self, offsets: &PartitionOffsets) -> Self {
        self.changed(|partition, of| {
            let mut left = of.clone();
            let removed = offsets.get(&partition).into_iter();
            removed
                .flat_map(OffsetRanges::ranges)
                .for_each(|range| left.remove(range));
            left
        })
    }

    fn changed(&self, change: impl Fn(i32, &OffsetRanges) -> OffsetRanges) -> Self {
        let parts = self.parts.iter().map(|(partition, of)| {
            let parts = PastParts {
                archive: change(*partition, &of.archive),
                topic: change(*partition, &of.topic),
            };
            (*partition, parts)
        });
        let parts: BTreeMap<i32, PastParts> = parts.collect();
        let is_same = parts == *self.parts;
        Self {
            parts: Arc::new(parts),
            is_part: self.is_part || !is_same,
            ..self.clone()
        }
    }

    /// The same, whose records that cannot be used are dead letters of the batch of a job, which calls it `table`; so are those `aside`.
    #[must_use]
    pub(crate) fn with_dead_letters(mut self, table: &str, aside: Arc<SetAside>) -> Self {
        self.outlet = PastOutlet::Batch {
            table: table.into(),
            aside,
            scans: Arc::default(),
        };
        self
    }

    /// The offsets that are read, by partition.
    pub(crate) fn parts(&self) -> &BTreeMap<i32, PastParts> {
        &self.parts
    }

    /// The plan of these columns, those of the coordinates behind the table's own among them.
    async fn plan(
        &self,
        session: &dyn Session,
        projection: Vec<usize>,
        filters: &[Expr],
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let outlet = self.outlet();
        let mut halves = Vec::with_capacity(2);
        if self.parts.values().any(|parts| !parts.archive.is_empty()) {
            halves.push(
                self.of_archive(session, &projection, filters, outlet.clone())
                    .await?,
            );
        }
        halves.extend(self.of_topic(session, &projection, filters, outlet).await?);
        match (halves.pop(), halves.pop()) {
            (Some(one), None) => Ok(one),
            (Some(topic), Some(archive)) => UnionExec::try_new(vec![archive, topic]),
            (None, _) => {
                let schema = self.pinned.table.schema().project(&projection)?;
                Ok(Arc::new(EmptyExec::new(Arc::new(schema))))
            }
        }
    }

    async fn of_archive(
        &self,
        session: &dyn Session,
        projection: &[usize],
        filters: &[Expr],
        outlet: ScanOutlet,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let PinnedState { archive, table, .. } = &*self.pinned;
        let each = (MOST_RANGES / self.parts.len().max(1)).max(1);
        let wanted = self.parts.iter().flat_map(|(partition, parts)| {
            let ranges: Vec<Offsets> = parts.archive.coarse(each).ranges().collect();
            let partition = *partition;
            let ranges = ranges.into_iter();
            ranges.map(move |range| range_of(partition, range))
        });
        let narrowed = narrowed(archive, wanted, self.is_part, filters)?;
        let read = ArchiveRead::try_new(
            Arc::clone(table),
            archive.mapping().clone(),
            projection.to_vec(),
            Arc::new(table.schema().project(projection)?),
            (
                ReadFor::Run {
                    keeps_time: self.pinned.keeps_time,
                },
                narrowed.by_claim,
            ),
        )?;
        let delta = archive.delta();
        let indices = read.columns.indices().to_vec();
        let rows: Arc<dyn ExecutionPlan> = match narrowed.ranges.is_empty() {
            true => Arc::new(EmptyExec::new(Arc::new(delta.schema().project(&indices)?))),
            false => {
                let rows = archive.rows(session, &indices, &narrowed.filters, None);
                let rows = rows.await?;
                let wanted = self.parts.iter();
                let wanted = wanted.map(|(partition, parts)| (*partition, &parts.archive));
                match self.is_part {
                    true => rows_in(rows, read.columns.coordinates(), wanted)?,
                    false => rows,
                }
            }
        };
        let border = self.parts.iter().filter_map(|(partition, parts)| {
            parts.archive.first()?;
            Some((*partition, parts.topic.first()?))
        });
        let shown = ShownScan {
            version: archive.version(),
            border: border.collect(),
            pruned_by: narrowed.filters,
            is_of_run: true,
        };
        Ok(Arc::new(ArchiveScanExec::new(
            Arc::new(read),
            rows,
            narrowed.ranges,
            outlet,
            Arc::new(shown),
        )))
    }

    async fn of_topic(
        &self,
        session: &dyn Session,
        projection: &[usize],
        filters: &[Expr],
        outlet: ScanOutlet,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let columns = self.pinned.archive.table().narrowing();
        let mut wanted = PartitionOffsets::new();
        for (partition, parts) in &*self.parts {
            let Some(bounds) = row_bounds(filters, &columns, *partition) else {
                continue;
            };
            let (first, last) = bounds.offset;
            let mut offsets = parts.topic.clone();
            offsets.remove(Offsets::new(i64::MIN, first));
            offsets.truncate(last.saturating_add(1));
            if !offsets.is_empty() {
                wanted.insert(*partition, offsets);
            }
        }
        let event_time = self.pinned.archive.table().event_time();
        let times = event_time.and_then(|time| time_ranges(filters, &time.column));
        if let Some(times) = times.filter(|_| tail_times::is_worth_it(&wanted)) {
            let tail = self
                .pinned
                .tail_times
                .get_or_try_init(|| self.read_tail_times(session));
            wanted = tail.await?.within(&wanted, &times);
        }
        let hull = |(partition, offsets): (&i32, &OffsetRanges)| {
            let hull = Offsets::new(offsets.first()?, offsets.end()?);
            Some(range_of(*partition, hull))
        };
        let ranges: Vec<OffsetRange> = wanted.iter().filter_map(hull).collect();
        if ranges.is_empty() {
            return Ok(None);
        }
        let has_gaps = wanted.values().any(|offsets| offsets.len() > 1);
        let scanned: Vec<usize> = match has_gaps {
            true => projection
                .iter()
                .copied()
                .chain(self.coordinates())
                .collect(),
            false => projection.to_vec(),
        };
        let table = &self.pinned.table;
        let scan = KafkaScanExec::new(
            Arc::clone(table),
            ranges,
            scanned.clone(),
            Arc::new(table.schema().project(&scanned)?),
            None,
            (table.on_error(true), outlet),
            session.config().target_partitions(),
        );
        let scan: Arc<dyn ExecutionPlan> = match self.pinned.keeps_time {
            true => Arc::new(scan.without_other_times()),
            false => Arc::new(scan),
        };
        if !has_gaps {
            return Ok(Some(scan));
        }
        let own = projection.len();
        let offsets = wanted
            .iter()
            .map(|(partition, offsets)| (*partition, offsets));
        let rows = rows_in(scan, (own, own + 1), offsets)?;
        let schema = rows.schema();
        let columns = (0..own).map(|index| {
            let name = schema.field(index).name();
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, index));
            (column, name.clone())
        });
        let columns: Vec<(Arc<dyn PhysicalExpr>, String)> = columns.collect();
        Ok(Some(Arc::new(ProjectionExec::try_new(columns, rows)?)))
    }

    /// Reads the event times in the topic's part of all of the past.
    async fn read_tail_times(&self, session: &dyn Session) -> Result<TailTimes> {
        let mut times = TailTimes::default();
        let all = self.pinned.all.iter().map(|(partition, parts)| {
            let topic = PastParts {
                topic: parts.topic.clone(),
                ..PastParts::default()
            };
            (*partition, topic)
        });
        let tail = Self {
            pinned: Arc::clone(&self.pinned),
            parts: Arc::new(all.collect()),
            is_part: true,
            outlet: PastOutlet::LeftOut,
        };
        tail.see_rows(session, &[], |rows| times.add(rows)).await?;
        Ok(times)
    }

    /// Reads event time, partition and offset of its records, one batch after the other; none of a table without an event time.
    async fn see_rows(
        &self,
        session: &dyn Session,
        filters: &[Expr],
        see: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        match self.time_and_place() {
            Some(columns) => self.see_columns(session, columns, filters, see).await,
            None => Ok(()),
        }
    }

    /// Shows `see` these columns of each record.
    ///
    /// # Errors
    ///
    /// A half cannot be read, or `see` has failed.
    async fn see_columns(
        &self,
        session: &dyn Session,
        columns: Vec<usize>,
        filters: &[Expr],
        mut see: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let plan = self.plan_boxed(session, columns, filters).await?;
        let mut rows = execute_stream(plan, session.task_ctx())?;
        while let Some(rows) = rows.try_next().await? {
            see(&rows)?;
        }
        Ok(())
    }

    /// Event time, partition and offset; none of a table without an event time.
    fn time_and_place(&self) -> Option<Vec<usize>> {
        let table = self.pinned.archive.table();
        let time = table.schema().index_of(&table.event_time()?.column).ok()?;
        let [partition, offset] = self.coordinates();
        Some(vec![time, partition, offset])
    }

    /// The columns of the coordinates.
    fn coordinates(&self) -> [usize; 2] {
        let own = self.pinned.archive.table().schema().fields().len();
        [own, own + 1]
    }

    fn outlet(&self) -> ScanOutlet {
        match &self.outlet {
            PastOutlet::LeftOut => ScanOutlet::Query(Arc::new(BadRecords::counting())),
            PastOutlet::Batch {
                table,
                aside,
                scans,
            } => ScanOutlet::Batch(BatchScan {
                table: Arc::clone(table),
                scan: scans.fetch_add(1, Ordering::Relaxed),
                aside: Arc::clone(aside),
                only: Some(Arc::new(self.offsets())),
            }),
        }
    }

    /// The offsets that are read, wherever they are.
    pub(crate) fn offsets(&self) -> PartitionOffsets {
        let offsets = self.parts.iter().map(|(partition, parts)| {
            let mut offsets = parts.archive.clone();
            offsets.extend(parts.topic.ranges());
            (*partition, offsets)
        });
        offsets.collect()
    }

    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        let all = || (0..self.schema().fields().len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        self.plan_boxed(session, projection, filters)
    }

    /// As [`Self::plan`], of a type that has a name.
    fn plan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Vec<usize>,
        filters: &'a [Expr],
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        self.plan(session, projection, filters).boxed()
    }
}

fn range_of(partition: i32, range: Offsets) -> OffsetRange {
    OffsetRange {
        partition,
        start: range.from,
        end: range.to,
    }
}

impl TableProvider for PinnedPast {
    /// The columns of the table, and hidden ones with partition and offset of each record behind them.
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.pinned.table.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // Files and ranges contain all matching rows and others: the filter above stays.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    boxed_scan!(
        |table, session, projection, filters, _| table.scan_boxed(session, projection, filters)
    );
}
