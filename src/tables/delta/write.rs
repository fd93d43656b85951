//! Writing rows to data files: many partitions at a time, bounded memory, nothing committed.
//!
//! The caller's stream is checked and split in one task; the encoders run in tasks of their own,
//! each the owner of some partitions, behind short queues. A partition is written by one encoder
//! only, so an INSERT makes one file per partition unless files reach their target size or
//! memory runs short; then the fullest file is finished early.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::util::display::FormatOptions;
use datafusion::common::runtime::JoinSet;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::DeltaTableError;
use deltalake::datafile::writer::{PartitionWriter, PartitionWriterConfig};
use deltalake::kernel::scalars::ScalarExt;
use deltalake::kernel::{Action, Add};
use deltalake::logstore::ObjectStoreRef;
use deltalake::logstore::object_store::ObjectStoreExt as _;
use deltalake::logstore::object_store::path::Path;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::parquet::file::properties::WriterProperties;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::check::RowRules;
use super::error::delta_error;
use super::mapping::{MappedNames, relabel};
use super::nan_stats::NanColumns;
use super::options::WriteOptions;
use super::sink::nullable;
use super::split::{PartitionRows, PartitionSplitter};
use crate::error::{Error, Result, Subject};

/// Encoded bytes of a row group, which are the most that an open file holds in memory.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// Rows handed to the encoder at a time; the file's size is checked in between.
const ENCODE_ROWS: usize = 8_192;
/// Batches that may wait for an encoder.
const QUEUE: usize = 2;

/// Where and how to write.
#[derive(Debug, Clone)]
pub(super) struct WriteTarget {
    /// For messages.
    pub(super) location: String,
    pub(super) store: ObjectStoreRef,
    pub(super) rules: Arc<RowRules>,
    pub(super) partition_by: Vec<String>,
    /// With column mapping: how files name the columns.
    pub(super) mapped: Option<MappedNames>,
    pub(super) stats: StatsConfig,
    pub(super) target_file_size: NonZeroU64,
    pub(super) options: WriteOptions,
}

/// Which columns' statistics go to the log.
#[derive(Clone)]
pub(super) struct StatsConfig(pub(super) Arc<WriterStatsConfig>);

impl std::fmt::Debug for StatsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StatsConfig")
            .field(&self.0.stats_columns)
            .finish()
    }
}

/// How rows of a table change that are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RewriteMode {
    Delete,
    Update,
    Merge,
}

/// Files that are complete, but not yet in the table.
#[derive(Debug, Default)]
pub(super) struct WrittenFiles {
    pub(super) adds: Vec<Add>,
    pub(super) rows: u64,
    /// Files that the same commit takes out of the table.
    pub(super) removed: Vec<Action>,
    /// The version up to which the writer has read the log, for rows that must not follow a RESTORE that it does not
    /// know of.
    pub(super) checked: Option<u64>,
    /// The operation that the log records, for rows that take the place of others.
    pub(super) rewrite: Option<RewriteMode>,
    /// What the commit records besides.
    pub(super) notes: CommitNotes,
}

/// What a commit records besides the rows and their writer.
#[derive(Debug, Default, Clone)]
pub(super) struct CommitNotes {
    /// Numbers of applications.
    pub(super) transactions: Vec<(String, i64)>,
    /// Fields of the commit info.
    pub(super) info: Vec<(String, serde_json::Value)>,
}

/// Writes all rows of `input`, whose columns are the table's, in order.
///
/// # Errors
///
/// The input's own error, a row that breaks a rule of the table, or the store's. Files already
/// written are deleted again as far as possible.
pub(super) async fn write_files(
    target: &WriteTarget,
    mut input: SendableRecordBatchStream,
    context: &TaskContext,
) -> Result<WrittenFiles> {
    let mut splitter = PartitionSplitter::try_new(&target.rules.schema, &target.partition_by)?;
    let encoders = if target.partition_by.is_empty() {
        1
    } else {
        context.session_config().target_partitions().max(1)
    };
    let failed = Arc::new(AtomicBool::new(false));
    // Dropped with this future: a cancelled statement stops its encoders.
    let mut tasks = JoinSet::new();
    let mut queues = Vec::with_capacity(encoders);
    for index in 0..encoders {
        let (queue, parts) = mpsc::channel::<Vec<PartitionRows>>(QUEUE);
        let reservation =
            MemoryConsumer::new(format!("DeltaWriter[{index}]")).register(context.memory_pool());
        let encoder = PartitionEncoder {
            target: target.clone(),
            file_schema: match &target.mapped {
                Some(mapped) => mapped.file_schema(),
                None => Arc::clone(splitter.file_schema()),
            },
            max_memory: usize::try_from(target.options.max_memory).unwrap_or(usize::MAX) / encoders,
            reservation,
            open: HashMap::new(),
            partitions: HashMap::new(),
            adds: Vec::new(),
        };
        tasks.spawn(encoder.run(parts, Arc::clone(&failed)));
        queues.push(queue);
    }

    let produced = async {
        let mut rows = 0;
        while let Some(batch) = input.next().await {
            let batch = conform(batch?, &target.rules.schema)?;
            let batch = target.rules.apply(&batch)?;
            rows += batch.num_rows() as u64;
            let mut of_encoder: Vec<Vec<PartitionRows>> =
                (0..encoders).map(|_| Vec::new()).collect();
            for part in splitter.split(&batch)? {
                of_encoder[part.slot % encoders].push(part);
            }
            for (queue, parts) in queues.iter().zip(of_encoder) {
                if !parts.is_empty() && queue.send(parts).await.is_err() {
                    // The encoder ended early: its own error is reported.
                    failed.store(true, Ordering::Release);
                    return Ok(rows);
                }
            }
        }
        Ok::<u64, Error>(rows)
    }
    .await;
    if produced.is_err() {
        failed.store(true, Ordering::Release);
    }
    drop(queues);

    let mut adds = Vec::new();
    let mut error = produced.as_ref().err().map(|_| None);
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((files, outcome)) => {
                adds.extend(files);
                if let Err(of_encoder) = outcome {
                    failed.store(true, Ordering::Release);
                    error.get_or_insert(Some(of_encoder));
                }
            }
            Err(join) => {
                failed.store(true, Ordering::Release);
                error.get_or_insert(Some(Error::internal(format!("a writer ended: {join}"))));
            }
        }
    }
    match (produced, error) {
        (Ok(rows), None) => Ok(WrittenFiles {
            adds,
            rows,
            ..WrittenFiles::default()
        }),
        (Ok(_), Some(of_encoder)) => {
            discard(&target.store, &adds).await;
            Err(of_encoder.unwrap_or_else(|| Error::internal("a writer ended without a result")))
        }
        (Err(of_input), _) => {
            discard(&target.store, &adds).await;
            Err(of_input)
        }
    }
}

/// Deletes files that no commit names. Files that cannot be deleted are left for VACUUM.
pub(super) async fn discard(store: &ObjectStoreRef, adds: &[Add]) {
    for add in adds {
        let deleted = match Path::parse(&add.path) {
            Ok(path) => store.delete(&path).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = deleted {
            tracing::warn!(path = %add.path, %error, "a file of a failed write is left behind");
        }
    }
}

/// Writes the partitions it owns.
struct PartitionEncoder {
    target: WriteTarget,
    file_schema: SchemaRef,
    max_memory: usize,
    reservation: MemoryReservation,
    open: HashMap<usize, OpenFile>,
    /// The values of each partition seen, one row per array.
    partitions: HashMap<usize, Vec<ArrayRef>>,
    adds: Vec<Add>,
}

struct OpenFile {
    writer: PartitionWriter,
    /// About the bytes that it holds in memory.
    held: usize,
    nan: NanColumns,
}

impl PartitionEncoder {
    /// Writes until the queue is closed. Gives the files that were completed in any case.
    async fn run(
        mut self,
        mut parts: mpsc::Receiver<Vec<PartitionRows>>,
        failed: Arc<AtomicBool>,
    ) -> (Vec<Add>, Result<()>) {
        let mut outcome = Ok(());
        while let Some(parts) = parts.recv().await {
            if failed.load(Ordering::Acquire) {
                break;
            }
            outcome = self.write_all(parts).await;
            if outcome.is_err() {
                break;
            }
        }
        // After a failure too: only a finished file has a name that can be deleted.
        let slots: Vec<usize> = self.open.keys().copied().collect();
        for slot in slots {
            let closed = self.close(slot).await;
            outcome = outcome.and(closed);
        }
        (self.adds, outcome)
    }

    async fn write_all(&mut self, parts: Vec<PartitionRows>) -> Result<()> {
        for part in parts {
            if let Some(values) = part.new {
                self.partitions.insert(part.slot, values);
            }
            self.make_room(part.slot, &part.rows).await?;
            let rows = match &self.target.mapped {
                Some(_) => relabel(&part.rows, &self.file_schema)?,
                None => part.rows,
            };
            let file = self.file(part.slot)?;
            file.nan.look_at(&rows);
            let written = file.writer.write(&rows).await;
            written.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// Accounts for the rows, and finishes the fullest files while the memory exceeds the limit.
    async fn make_room(&mut self, slot: usize, rows: &RecordBatch) -> Result<()> {
        let held = self.file(slot)?.held;
        // Text shrinks to half or less when it is encoded.
        let grown = (held + encoded_size(rows)).min(ROW_GROUP_BYTES);
        let more = grown - held;
        loop {
            let fits = self.reservation.size() + more <= self.max_memory;
            let error = match fits.then(|| self.reservation.try_grow(more)) {
                Some(Ok(())) => break,
                Some(Err(error)) => Some(error),
                None => None,
            };
            let fullest = self
                .open
                .iter()
                .filter(|(other, file)| **other != slot && file.held > 0)
                .max_by_key(|(_, file)| file.held)
                .map(|(other, _)| *other);
            match (fullest, error) {
                (Some(fullest), _) => self.close(fullest).await?,
                (None, Some(error)) => return Err(error.into()),
                // One file alone is more than the limit: it has to be written all the same.
                (None, None) => {
                    self.reservation.try_grow(more)?;
                    break;
                }
            }
        }
        self.file(slot)?.held = grown;
        Ok(())
    }

    fn file(&mut self, slot: usize) -> Result<&mut OpenFile> {
        if !self.open.contains_key(&slot) {
            let writer = self.new_writer(slot)?;
            let file = OpenFile {
                writer,
                held: 0,
                nan: NanColumns::default(),
            };
            self.open.insert(slot, file);
        }
        self.open
            .get_mut(&slot)
            .ok_or_else(|| Error::internal("an open file is missing"))
    }

    fn new_writer(&self, slot: usize) -> Result<PartitionWriter> {
        let target = &self.target;
        let values = self
            .partitions
            .get(&slot)
            .map(Vec::as_slice)
            .unwrap_or_default();
        // With column mapping, column names are generated, so they are kept out of paths.
        let (names, folder) = match &target.mapped {
            Some(mapped) => (&mapped.partition_by, Some(Path::from(random_folder()))),
            None => (&target.partition_by, None),
        };
        let values = names
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let value = in_log(name, value)?;
                ScalarExt::from_array(value.as_ref(), 0)
                    .map(|value| (name.clone(), value))
                    .ok_or_else(|| {
                        Error::unsupported(format!(
                            "column '{name}' of type {} cannot partition a table",
                            value.data_type()
                        ))
                        .about(Subject::column(name))
                    })
            })
            .collect::<Result<_>>()?;
        let properties = WriterProperties::builder()
            .set_created_by(concat!("anabranch ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(target.options.compression)
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .build();
        PartitionWriterConfig::try_new(
            Arc::clone(&self.file_schema),
            values,
            Some(properties),
            Some(target.target_file_size),
            Some(ENCODE_ROWS),
            None,
            folder,
        )
        .and_then(|config| {
            PartitionWriter::try_with_config(
                Arc::clone(&target.store),
                config,
                target.stats.0.num_indexed_cols,
                target.stats.0.stats_columns.clone(),
            )
        })
        .map_err(|error| self.error(error))
    }

    async fn close(&mut self, slot: usize) -> Result<()> {
        let Some(file) = self.open.remove(&slot) else {
            return Ok(());
        };
        self.reservation
            .shrink(file.held.min(self.reservation.size()));
        let closed = file.writer.close().await;
        let mut adds = closed.map_err(|error| self.error(error))?;
        adds.iter_mut().for_each(|add| file.nan.strike_from(add));
        self.adds.extend(adds);
        Ok(())
    }

    fn error(&self, error: DeltaTableError) -> Error {
        delta_error(&self.target.location, error)
    }
}

/// The partition value in a type whose text is that of the log. Bytes are read from the log as the bytes of its text; the library
/// would write another spelling of them.
fn in_log(name: &str, value: &ArrayRef) -> Result<ArrayRef> {
    let bytes = match value.data_type() {
        DataType::Binary => value.as_binary::<i32>().iter().next(),
        DataType::BinaryView => value.as_binary_view().iter().next(),
        _ => return Ok(Arc::clone(value)),
    };
    let text = bytes.flatten().map(std::str::from_utf8).transpose();
    let text = text.map_err(|_| {
        Error::data(format!(
            "column '{name}': bytes that are not UTF-8 cannot be a partition value, which is text"
        ))
        .about(Subject::column(name))
    })?;
    Ok(Arc::new(StringArray::from(vec![text])))
}

#[expect(
    clippy::disallowed_methods,
    reason = "folders spread files over the partitions of a store"
)]
fn random_folder() -> String {
    let mut name = uuid::Uuid::new_v4().simple().to_string();
    name.truncate(2);
    name
}

/// The batch in the table's own Arrow types.
fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let same = batch.num_columns() == schema.fields().len()
        && batch
            .columns()
            .iter()
            .zip(schema.fields())
            .all(|(column, field)| column.data_type() == field.data_type());
    if same {
        return Ok(batch);
    }
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::invalid(format!(
            "{} columns are given for the {} columns of the table",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let strict = CastOptions {
        safe: false,
        format_options: FormatOptions::default(),
    };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            cast_with_options(column, field.data_type(), &strict).map_err(|error| {
                Error::from(DataFusionError::from(error))
                    .context(format!("column '{}'", field.name()))
                    .within(Subject::column(field.name()))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let schema = Schema::new(nullable(schema));
    Ok(RecordBatch::try_new(Arc::new(schema), columns).map_err(DataFusionError::from)?)
}

/// About how much the rows take when they are encoded and wait for their row group.
fn encoded_size(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(plain_size).sum::<usize>() / 2
}

/// The bytes of the values; of a view, those of the text it shows.
fn plain_size(column: &ArrayRef) -> usize {
    let lengths = |views: &[u128]| {
        views
            .iter()
            .map(|view| *view as u32 as usize)
            .sum::<usize>()
    };
    match column.data_type() {
        DataType::Utf8View => lengths(column.as_string_view().views()),
        DataType::BinaryView => lengths(column.as_binary_view().views()),
        _ => column.to_data().get_slice_memory_size().unwrap_or_default(),
    }
}
