//! The table provider of an archived topic in a query (ARCH-1): of each partition the archive from its first offset up to the border, the
//! topic before that and from there on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::core::archive::{ArchiveOffsets, NotThePast, PartitionHalves, divide};
use crate::core::jobs::PartitionEnds;
use crate::error::{Error, Result, Subject};
use crate::tables::archive::coverage::unexplained;
use crate::tables::archive::narrowing::narrowed;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::archive::reading::{ArchiveRead, ReadFor};
use crate::tables::archive::scan::{ArchiveScanExec, ShownScan};
use crate::tables::boxed_methods::{boxed_insert_into, boxed_scan};
use crate::tables::kafka::{KafkaTable, KafkaTableProvider, OffsetRange, OnError};
use crate::tables::side_output::ScanOutlet;

/// A Kafka table with its archive, as one statement sees it: all its scans read one version of the archive and the same ends of the
/// topic.
#[derive(Debug)]
pub struct ArchivedTableProvider {
    topic: KafkaTableProvider,
    /// Or why it cannot be read: that is said by a statement that reads rows, and not by one that asks for columns.
    archive: Result<Arc<PinnedArchive>>,
    /// How each partition is read.
    halves: OnceCell<Vec<PartitionHalves>>,
    /// Warnings about records that neither half has.
    warnings: Mutex<Vec<String>>,
}

impl ArchivedTableProvider {
    /// A provider for one statement over a version of the table's archive, or over none, with the reason: then it has columns, and is
    /// inserted into, and a scan of it fails.
    pub fn new(table: Arc<KafkaTable>, archive: Result<Arc<PinnedArchive>>) -> Self {
        Self {
            topic: KafkaTableProvider::new(table),
            archive,
            halves: OnceCell::new(),
            warnings: Mutex::default(),
        }
    }

    /// The half that is in the topic. It takes the records of both that a statement sets aside.
    pub fn topic(&self) -> &KafkaTableProvider {
        &self.topic
    }

    /// The half that is in the archive.
    ///
    /// # Errors
    ///
    /// The archive cannot be read.
    pub fn archive(&self) -> Result<&Arc<PinnedArchive>> {
        self.archive.as_ref().map_err(Clone::clone)
    }

    /// Takes the warnings about records that neither half has.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How each partition is read, decided once. The version of the archive is pinned already: the topic's ends are newer.
    async fn halves(
        &self,
        archive: &PinnedArchive,
        session: &dyn Session,
    ) -> Result<&[PartitionHalves]> {
        let read = async || -> Result<Vec<PartitionHalves>> {
            let offsets = archive.offsets(session).await?;
            let ends = self.topic_ends(offsets).await?;
            let halves = divide(offsets, &ends).map_err(|why| not_the_past(archive, why))?;
            self.topic.leave_archived(&halves);
            let lost = unexplained(archive, &halves).await?;
            let lost = lost.iter().map(|(partition, from, to)| {
                format!("{} of partition {partition}", offsets_text(*from, *to))
            });
            let lost: Vec<String> = lost.collect();
            let lost = (!lost.is_empty()).then(|| {
                let table = archive.table();
                format!(
                    "topic '{}' no longer has {}, and archive {} does not have them yet or never got them: they are missing in {}",
                    table.topic(),
                    lost.join(", "),
                    archive.mapping().archive(),
                    table.name()
                )
            });
            let lacks_topic = archive.lacks_topic(offsets)?;
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.extend(lost.into_iter().chain(lacks_topic));
            Ok(halves)
        };
        Ok(self.halves.get_or_try_init(read).await?)
    }

    async fn topic_ends(&self, archive: &ArchiveOffsets) -> Result<Vec<PartitionEnds>> {
        let ends = self.topic.ends().await?;
        let next = |partition| archive.next(partition).unwrap_or(i64::MIN);
        // Other writers do not wait for transactions to end.
        let is_behind = ends
            .iter()
            .any(|(partition, _, stable)| next(*partition) > *stable);
        let latest = match is_behind {
            true => self.topic.latest().await?,
            false => BTreeMap::new(),
        };
        let ends = ends.iter().map(|(partition, low, stable)| PartitionEnds {
            partition: *partition,
            low: *low,
            high: *stable,
            latest: latest
                .get(partition)
                .map_or(*stable, |latest| *latest.max(stable)),
            unread: None,
            behind_hole: None,
        });
        Ok(ends.collect())
    }

    async fn scan_archive(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let archive = self.archive()?;
        let halves = self.halves(archive, session).await?;
        if halves.iter().all(|half| half.archive.is_none()) {
            return Ok(None);
        }
        let (table, mapping) = (archive.table(), archive.mapping());
        let of_archive = halves.iter().filter_map(|half| {
            let (start, end) = half.archive?;
            Some(OffsetRange {
                partition: half.partition,
                start,
                end,
            })
        });
        let narrowed = narrowed(archive, of_archive, false, filters)?;
        let projection: Vec<usize> = match projection {
            Some(columns) => columns.clone(),
            None => (0..table.schema().fields().len()).collect(),
        };
        let schema = Arc::new(table.schema().project(&projection)?);
        let read = ArchiveRead::try_new(
            Arc::clone(table),
            mapping.clone(),
            projection,
            schema,
            (ReadFor::Query, narrowed.by_claim),
        )?;
        let delta = archive.delta();
        let indices = read.columns.indices().to_vec();
        let rows: Arc<dyn ExecutionPlan> = match narrowed.ranges.is_empty() {
            true => Arc::new(EmptyExec::new(Arc::new(delta.schema().project(&indices)?))),
            false => {
                // Rows that are set aside or dropped by a filter are no rows of the result: more are read for them.
                let is_each_a_row = filters.is_empty() && read.on_error != OnError::DeadLetter;
                let limit = limit.filter(|_| is_each_a_row);
                archive
                    .rows(session, &indices, &narrowed.filters, limit)
                    .await?
            }
        };
        let border = halves.iter().filter_map(|half| {
            half.archive?;
            Some((half.partition, half.topic.0))
        });
        let shown = ShownScan {
            version: archive.version(),
            border: border.collect(),
            pruned_by: narrowed.filters,
            is_of_run: false,
        };
        let outlet = ScanOutlet::Query(Arc::clone(self.topic.bad_records()));
        Ok(Some(Arc::new(ArchiveScanExec::new(
            Arc::new(read),
            rows,
            narrowed.ranges,
            outlet,
            Arc::new(shown),
        ))))
    }

    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        async move {
            // First: it decides what is left to the topic's half.
            let archive = self
                .scan_archive(session, projection, filters, limit)
                .await?;
            let topic = self.topic.scan(session, projection, filters, limit).await?;
            match archive {
                None => Ok(topic),
                Some(archive) => UnionExec::try_new(vec![archive, topic]),
            }
        }
        .boxed()
    }
}

/// The error of an archive that has rows which its topic never had.
fn not_the_past(archive: &PinnedArchive, why: NotThePast) -> Error {
    let (topic, archive) = (archive.table().topic(), archive.mapping().archive());
    Error::data(format!(
        "archive {archive} is not the past of topic '{topic}': {why}"
    ))
    .about(Subject::table(archive))
    .about(Subject::location(topic))
    .with_help(
        "the topic was deleted and created again, or the archive is another topic's: read the archive under its own name, and give the new topic a new archive",
    )
}

/// The part of a table that is in the topic, if it is a Kafka table; it takes the records that a statement sets aside.
pub fn topic_of(table: &dyn TableProvider) -> Option<&KafkaTableProvider> {
    match table.downcast_ref::<ArchivedTableProvider>() {
        Some(archived) => Some(archived.topic()),
        None => table.downcast_ref::<KafkaTableProvider>(),
    }
}

fn offsets_text(from: i64, to: i64) -> String {
    match to - from {
        1 => format!("offset {from}"),
        _ => format!("offsets {from} to {}", to - 1),
    }
}

impl TableProvider for ArchivedTableProvider {
    fn schema(&self) -> SchemaRef {
        self.topic.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        self.topic.supports_filters_pushdown(filters)
    }

    boxed_scan!(|table, session, projection, filters, limit| {
        table.scan_boxed(session, projection, filters, limit)
    });

    boxed_insert_into!(|table, session, input, op| table.topic.insert_into(session, input, op));
}
