//! Rows on their way: batches to messages and back.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::{Status, Streaming};

use crate::error::{Error, ErrorKind, Result};

/// Batches as messages, the schema first.
pub(super) fn encoded(
    schema: SchemaRef,
    rows: BoxStream<'static, Result<RecordBatch>>,
) -> impl futures::Stream<Item = Result<FlightData>> + Send + 'static {
    let rows = rows.map_err(|error| FlightError::ExternalError(Box::new(error)));
    let sent = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .build(rows);
    sent.map_err(|error| match error {
        FlightError::ExternalError(error) => match error.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::internal(other.to_string()),
        },
        other => Error::internal(other.to_string()),
    })
}

/// A message without rows, which says that more may come.
pub(super) fn no_rows(schema: &SchemaRef) -> Result<FlightData> {
    let none = RecordBatch::new_empty(Arc::clone(schema));
    let messages = arrow_flight::utils::batches_to_flight_data(schema, vec![none]);
    let messages = messages.map_err(|error| Error::internal(error.to_string()))?;
    messages
        .into_iter()
        .last()
        .ok_or_else(|| Error::internal("there is no message"))
}

/// The rows of a client, as they come.
pub(super) async fn client_rows(
    first: FlightData,
    messages: Streaming<FlightData>,
) -> Result<SendableRecordBatchStream, Status> {
    let sent = futures::stream::iter([Ok(first)]).chain(messages);
    let sent = sent.map_err(|status| FlightError::Tonic(Box::new(status)));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(sent);
    // The schema comes before the first batch, or alone.
    let first = batches.try_next().await.map_err(of_flight)?;
    let schema = batches.schema().cloned();
    let schema = schema.ok_or_else(|| Status::invalid_argument("the rows have no schema"))?;
    let lost = |error: FlightError| {
        let text = format!("the rows of the client ended: {error}");
        DataFusionError::from(Error::new(ErrorKind::Cancelled, text))
    };
    let rest = batches.map_err(lost);
    let rows = futures::stream::iter(first.map(Ok)).chain(rest);
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

pub(super) fn of_flight(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::invalid_argument(other.to_string()),
    }
}
