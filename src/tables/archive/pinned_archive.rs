//! One version of an archive: its mapping, its files, and the offsets that they have.

use std::sync::Arc;

use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExecBuilder;
use tokio::sync::OnceCell;

use crate::core::archive::ArchiveOffsets;
use crate::error::{Error, Result, Subject};
use crate::tables::archive::file_spans::spans_of;
use crate::tables::archive::mapping::ArchiveMapping;
use crate::tables::archive::reading::duplicates;
use crate::tables::delta::{
    DeltaTableHandle, TimeTravel, file_bounds, has_no_nulls, partition_columns, snapshot_version,
};
use crate::tables::kafka::KafkaTable;

/// One version of the archive of a Kafka table.
#[derive(Debug)]
pub struct PinnedArchive {
    table: Arc<KafkaTable>,
    delta: Arc<dyn TableProvider>,
    version: u64,
    mapping: ArchiveMapping,
    offsets: OnceCell<ArchiveOffsets>,
}

impl PinnedArchive {
    /// A version of the archive of `table`, which is the Delta table behind `archive`.
    ///
    /// # Errors
    ///
    /// The version does not exist, the log cannot be read, or the table cannot be the archive ([`ArchiveMapping::try_new`]).
    pub async fn open(
        table: Arc<KafkaTable>,
        archive: &DeltaTableHandle,
        at: TimeTravel,
    ) -> Result<Self> {
        Self::over(table, archive.snapshot(at).await?)
    }

    /// The same over the provider of a version of the Delta table.
    ///
    /// # Errors
    ///
    /// The table cannot be the archive ([`ArchiveMapping::try_new`]).
    pub fn over(table: Arc<KafkaTable>, delta: Arc<dyn TableProvider>) -> Result<Self> {
        let options = table.archive();
        let options = options.ok_or_else(|| Error::internal("a table without an archive"))?;
        let version = snapshot_version(delta.as_ref());
        let version = version.ok_or_else(|| {
            let archive = options.table();
            Error::invalid(format!(
                "{archive} is no Delta table, so it keeps no archive"
            ))
            .about(Subject::table(archive))
            .about(Subject::option("archive"))
        })?;
        let partition_by = partition_columns(delta.as_ref());
        let mapping = ArchiveMapping::try_new(&table, options, &delta.schema(), &partition_by);
        let mapping = mapping.map_err(|error| error.about(Subject::option("archive")))?;
        Ok(Self {
            table,
            delta,
            version,
            mapping,
            offsets: OnceCell::new(),
        })
    }

    /// The Kafka table.
    pub fn table(&self) -> &Arc<KafkaTable> {
        &self.table
    }

    /// The version of the Delta table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether offsets that are missing between its rows are taken for control records and compacted ones.
    pub(super) fn accepts_gaps(&self) -> bool {
        self.table
            .archive()
            .is_some_and(|options| options.accepts_gaps())
    }

    /// How its rows are records.
    pub fn mapping(&self) -> &ArchiveMapping {
        &self.mapping
    }

    /// The provider of the version.
    pub fn delta(&self) -> &Arc<dyn TableProvider> {
        &self.delta
    }

    /// The offsets that it has. The log of the Delta table says them of files with rows of one partition alone; of each other file
    /// `session` reads partition and offset once, and its configuration keeps the result.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, rows without partition or offset, and more rows of a partition than it has offsets.
    pub async fn offsets(&self, session: &dyn Session) -> Result<&ArchiveOffsets> {
        let read = async || -> Result<ArchiveOffsets> {
            let files = spans_of(&self.delta, &self.mapping, session).await?;
            let offsets = ArchiveOffsets::of(files.iter().map(Arc::as_ref));
            let of_files = files.iter().flat_map(|file| file.iter());
            let of_files = of_files.map(|(partition, span)| (*partition, *span));
            let doubled = of_files
                .chain(offsets.partitions())
                .find(|(_, span)| span.has_duplicates());
            if let Some((partition, span)) = doubled {
                let said = format!(
                    "has {} rows of partition {partition} with the offsets {} to {}: some of them more than once",
                    span.rows, span.first, span.last
                );
                return Err(duplicates(self.mapping.archive(), &said));
            }
            Ok(offsets)
        };
        self.offsets.get_or_try_init(read).await
    }

    /// The warning for an archive that has rows, and none of the table's topic. `offsets` are those that it has.
    ///
    /// # Errors
    ///
    /// A log that cannot be read.
    pub(super) fn lacks_topic(&self, offsets: &ArchiveOffsets) -> Result<Option<String>> {
        let Some(topic) = self.mapping.topic() else {
            return Ok(None);
        };
        if offsets.partitions().next().is_some() {
            return Ok(None);
        }
        let files = file_bounds(self.delta.as_ref(), &[])?;
        let has_rows = files.iter().any(|file| file.rows != Some(0));
        Ok(has_rows.then(|| {
            format!(
                "archive {} has no row of topic '{}': its column {} names other topics; 'archive.topic' 'none' takes all rows for records of \
                 the topic",
                self.mapping.archive(),
                topic.topic,
                topic.column.name
            )
        }))
    }

    /// Rows of the table's topic, at most `limit` if it is given, and those that pass `filters` among them. `indices` are those of the
    /// columns to read.
    ///
    /// # Errors
    ///
    /// Errors of the engine.
    pub(super) async fn rows(
        &self,
        session: &dyn Session,
        indices: &[usize],
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let delta = self.delta();
        let Some(topic) = self.mapping().topic() else {
            let indices = indices.to_vec();
            return delta.scan(session, Some(&indices), filters, limit).await;
        };
        let may_be_null = !has_no_nulls(delta.as_ref(), &topic.column.name);
        let is_own = topic.predicate(may_be_null)?;
        let mut read = indices.to_vec();
        if !read.contains(&topic.column.index) {
            read.push(topic.column.index);
        }
        let mut filters = filters.to_vec();
        filters.push(is_own.clone());
        // Rows of other topics are no rows of the result: more are read for them.
        let rows = delta.scan(session, Some(&read), &filters, None).await?;
        let by_name = DFSchema::try_from(rows.schema())?;
        let is_own = session.create_physical_expr(is_own, &by_name)?;
        let asked = (0..indices.len()).collect();
        let rows = FilterExecBuilder::new(is_own, rows).apply_projection(Some(asked))?;
        Ok(Arc::new(rows.build()?))
    }
}
