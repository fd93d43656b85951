//! Dead letters: records that a statement could not decode, written to the Delta table that the Kafka table names.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result, Subject};
use crate::session::catalog::Catalog;
use crate::tables::archive::topic_of;
use crate::tables::bad_records::{BadRecord, BadRecords};
use crate::tables::delta::TimeTravel;

/// Bad records of one statement and the table they go to.
struct DeadLetterBatch {
    table: String,
    records: Arc<BadRecords>,
}

/// Writes the dead letters once the statement's own rows have all been read.
pub(crate) fn keep(
    stream: SendableRecordBatchStream,
    catalog: &Arc<Catalog>,
    context: &SessionContext,
) -> SendableRecordBatchStream {
    let letters = letters(catalog);
    if letters.is_empty() {
        return stream;
    }
    let schema = stream.schema();
    let catalog = Arc::clone(catalog);
    let context = context.clone();
    let write = futures::stream::once(async move {
        for letters in letters {
            write(&catalog, &context, &letters.table, &letters.records.take()).await?;
        }
        DataFusionResult::Ok(None)
    })
    .try_filter_map(|none: Option<RecordBatch>| async move { Ok(none) });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream.chain(write)))
}

fn letters(catalog: &Catalog) -> Vec<DeadLetterBatch> {
    catalog
        .kafka_tables_in_use()
        .iter()
        .filter_map(|provider| {
            let kafka = topic_of(provider.as_ref())?;
            let table = kafka.table().dead_letter_table()?.to_owned();
            Some(DeadLetterBatch {
                table,
                records: Arc::clone(kafka.bad_records()),
            })
        })
        .collect()
}

/// Warns how many records could not be decoded, once the statement's own rows have all been read: a statement with read access
/// only writes no dead letters.
pub(crate) fn count(
    stream: SendableRecordBatchStream,
    catalog: &Catalog,
    warnings: &Arc<Mutex<Vec<String>>>,
) -> SendableRecordBatchStream {
    let letters = letters(catalog);
    if letters.is_empty() {
        return stream;
    }
    let schema = stream.schema();
    let warnings = Arc::clone(warnings);
    let count = futures::stream::once(async move {
        let left_out: usize = letters
            .iter()
            .map(|letters| letters.records.take().len())
            .sum();
        if left_out > 0 {
            let warning = format!(
                "{left_out} records could not be decoded and are left out; the role read sets none aside in a table"
            );
            let mut warnings = warnings.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.push(warning);
        }
        DataFusionResult::Ok(None)
    })
    .try_filter_map(|none: Option<RecordBatch>| async move { Ok(none) });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream.chain(count)))
}

async fn write(
    catalog: &Catalog,
    context: &SessionContext,
    table: &str,
    records: &[BadRecord],
) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let name = table.to_owned();
    let inner = async {
        let provider = catalog
            .delta_of_plan(&name)
            .await?
            .snapshot(TimeTravel::Latest)
            .await?;
        let batch = to_batch(records, &provider.schema())?;
        let schema = batch.schema();
        let input = MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None)?;
        let state = context.state();
        let plan = provider
            .insert_into(&state, input, InsertOp::Append)
            .await?;
        datafusion::physical_plan::collect(plan, context.task_ctx()).await?;
        Ok::<(), Error>(())
    };
    inner
        .await
        .map_err(|error| error.context(format!("dead letters into {table}")))?;
    tracing::warn!(
        table,
        records = records.len(),
        "records that could not be decoded were set aside"
    );
    Ok(())
}

/// The columns of the dead letter table for records that could not be decoded.
pub(crate) fn columns(records: &[BadRecord]) -> [(&'static str, ArrayRef); 7] {
    [
        (
            "topic",
            Arc::new(StringArray::from_iter_values(
                records.iter().map(|r| &r.topic),
            )),
        ),
        (
            "partition",
            Arc::new(Int32Array::from_iter_values(
                records.iter().map(|r| r.partition),
            )),
        ),
        (
            "offset",
            Arc::new(Int64Array::from_iter_values(
                records.iter().map(|r| r.offset),
            )),
        ),
        (
            "timestamp",
            Arc::new(
                records
                    .iter()
                    .map(|r| r.timestamp.map(|millis| millis * 1_000))
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
        ),
        (
            "key",
            Arc::new(
                records
                    .iter()
                    .map(|r| r.key.as_deref())
                    .collect::<BinaryArray>(),
            ),
        ),
        (
            "value",
            Arc::new(
                records
                    .iter()
                    .map(|r| r.value.as_deref())
                    .collect::<BinaryArray>(),
            ),
        ),
        (
            "reason",
            Arc::new(StringArray::from_iter_values(
                records.iter().map(|r| &r.reason),
            )),
        ),
    ]
}

/// The columns a dead letter table may have; it needs at least `reason` and the coordinates.
fn to_batch(
    records: &[BadRecord],
    schema: &datafusion::arrow::datatypes::SchemaRef,
) -> Result<RecordBatch> {
    let known = columns(records);
    for needed in ["topic", "partition", "offset", "reason"] {
        if schema.field_with_name(needed).is_err() {
            let error = Error::invalid(format!("a dead letter table needs a column {needed}"))
                .about(Subject::column(needed));
            return Err(error.with_help(
                "declare it with topic VARCHAR, partition INT, \"offset\" BIGINT, timestamp TIMESTAMP, \
                 key BINARY, value BINARY, reason VARCHAR",
            ));
        }
    }
    let columns = schema
        .fields()
        .iter()
        .map(
            |field| match known.iter().find(|(name, _)| name == field.name()) {
                Some((_, array)) => datafusion::arrow::compute::cast(array, field.data_type())
                    .map_err(|error| {
                        Error::invalid(format!("column {}: {error}", field.name()))
                            .about(Subject::column(field.name()))
                    }),
                None => Ok(datafusion::arrow::array::new_null_array(
                    field.data_type(),
                    records.len(),
                )),
            },
        )
        .collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|error| Error::invalid(error.to_string()))
}
