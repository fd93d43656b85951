//! Record batches on the wire: batches to messages and back.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::{CompressionType, root_as_message};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tonic::{Status, Streaming};

use crate::error::{Error, ErrorKind, Result};
use crate::server::flight::status::status;

/// Bytes of values in a message of rows that are written.
const MAX_MESSAGE: usize = 1 << 30;

/// Batches as messages, the schema first.
pub(crate) fn encoded(
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
pub(crate) fn no_rows(schema: &SchemaRef) -> Result<FlightData> {
    let none = RecordBatch::new_empty(Arc::clone(schema));
    let messages = arrow_flight::utils::batches_to_flight_data(schema, vec![none]);
    let messages = messages.map_err(|error| Error::internal(error.to_string()))?;
    messages
        .into_iter()
        .last()
        .ok_or_else(|| Error::internal("there is no message"))
}

/// The batches of a client, none of which is larger than `most` bytes once it is decompressed.
pub(crate) fn sent_batches(
    first: FlightData,
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
    most: usize,
) -> FlightRecordBatchStream {
    let sent = futures::stream::iter([Ok(first)]).chain(messages);
    let mut dictionaries = HashMap::new();
    let sent = sent.map(move |data| {
        let data = data.and_then(|data| with_room(data, most, &mut dictionaries));
        data.map_err(|status| FlightError::Tonic(Box::new(status)))
    });
    FlightRecordBatchStream::new_from_flight_data(sent)
}

/// A message whose decompressed buffers are within the limit. `dictionaries` are those that the decoder holds, by their
/// number, and the bytes of each.
fn with_room(
    data: FlightData,
    most: usize,
    dictionaries: &mut HashMap<i64, usize>,
) -> Result<FlightData, Status> {
    let Ok(message) = root_as_message(&data.data_header) else {
        // The decoder reports the error.
        return Ok(data);
    };
    let batch = message.header_as_record_batch();
    let batch = batch.or_else(|| message.header_as_dictionary_batch()?.data());
    let compression = batch.and_then(|batch| batch.compression());
    let is_lz4 = compression.is_some_and(|how| how.codec() == CompressionType::LZ4_FRAME);
    let buffers = batch.filter(|_| compression.is_some());
    let buffers = buffers.and_then(|batch| batch.buffers());
    let mut bytes = 0_usize;
    for buffer in buffers.into_iter().flatten() {
        // A buffer that a column does not need, such as its NULLs, has no bytes, and no length before them.
        if buffer.length() == 0 {
            continue;
        }
        let sent = usize::try_from(buffer.offset()).ok();
        let sent = sent.and_then(|at| data.data_body.get(at..));
        let prefix = sent.and_then(|sent| sent.first_chunk::<8>());
        // -1 says that a buffer is not compressed.
        let said = prefix.map_or(0, |said| i64::from_le_bytes(*said));
        let said = usize::try_from(said).unwrap_or(0);
        bytes = bytes.saturating_add(said);
        let length = usize::try_from(buffer.length()).unwrap_or(0);
        let frame = sent.and_then(|sent| sent.get(8..length));
        let is_looked_at = is_lz4 && said > 0 && bytes <= most;
        if is_looked_at && frame.is_some_and(|frame| is_longer(frame, said)) {
            let longer = Error::invalid("a buffer of a message has more bytes than it says");
            return Err(status(&longer));
        }
    }
    if let Some(dictionary) = message.header_as_dictionary_batch() {
        let own = bytes.max(data.data_body.len());
        let held = dictionaries.entry(dictionary.id()).or_default();
        *held = match dictionary.isDelta() {
            true => held.saturating_add(own),
            false => own,
        };
        let all = dictionaries.values();
        bytes = all.fold(0, |all, one| all.saturating_add(*one));
    }
    match bytes > most {
        true => Err(status(
            &Error::new(
                ErrorKind::Exhausted,
                format!("a message has {bytes} bytes of values, and the limit is {most}"),
            )
            .with_help("send fewer rows in one message"),
        )),
        false => Ok(data),
    }
}

/// Whether a frame of LZ4 has more in it than it says. The decoder takes memory for all that is in it, and compares then.
fn is_longer(frame: &[u8], said: usize) -> bool {
    let most = (said as u64).saturating_add(1);
    let mut within = lz4_flex::frame::FrameDecoder::new(frame).take(most);
    std::io::copy(&mut within, &mut std::io::sink()).is_ok_and(|read| read == most)
}

/// The rows of a client, as they come.
pub(crate) async fn client_rows(
    first: FlightData,
    messages: Streaming<FlightData>,
) -> Result<SendableRecordBatchStream, Status> {
    let mut batches = sent_batches(first, messages, MAX_MESSAGE);
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

pub(crate) fn of_flight(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::invalid_argument(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::encode::DictionaryHandling;
    use datafusion::arrow::array::{ArrayRef, DictionaryArray, Int64Array};
    use datafusion::arrow::datatypes::Int32Type;
    use datafusion::arrow::ipc::writer::IpcWriteOptions;

    use super::*;

    fn message(rows: i64, compression: Option<CompressionType>) -> Vec<FlightData> {
        let zeros: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|_| 0)));
        let batch = RecordBatch::try_from_iter([("a", zeros)]).unwrap();
        let options = IpcWriteOptions::default();
        let options = options.try_with_compression(compression).unwrap();
        let sent = FlightDataEncoderBuilder::new()
            .with_options(options)
            .with_max_flight_data_size(usize::MAX)
            .build(futures::stream::iter([Ok(batch)]));
        futures::executor::block_on(sent.try_collect()).unwrap()
    }

    #[test]
    fn held_dictionaries_count_together() {
        let texts: Vec<String> = (0..1_000).map(|n| format!("{n:>100}")).collect();
        let keys: DictionaryArray<Int32Type> = texts.iter().map(|text| text.as_str()).collect();
        let batch = RecordBatch::try_from_iter([
            ("a", Arc::new(keys.clone()) as ArrayRef),
            ("b", Arc::new(keys) as ArrayRef),
        ])
        .unwrap();
        let sent = FlightDataEncoderBuilder::new()
            .with_dictionary_handling(DictionaryHandling::Resend)
            .build(futures::stream::iter([Ok(batch)]));
        let sent: Vec<FlightData> = futures::executor::block_on(sent.try_collect()).unwrap();
        let fit = |most: usize| {
            let mut held = HashMap::new();
            let mut sent = sent.iter();
            sent.all(|data| with_room(data.clone(), most, &mut held).is_ok())
        };
        assert!(fit(1_000_000));
        assert!(!fit(150_000), "each has a little more than 100,000 bytes");
    }

    #[test]
    fn compressed_messages_are_limited_by_their_decompressed_size() {
        for (compression, is_small) in [
            (Some(CompressionType::ZSTD), true),
            (Some(CompressionType::LZ4_FRAME), true),
            (None, false),
        ] {
            let sent = message(100_000, compression);
            let size: usize = sent.iter().map(|data| data.data_body.len()).sum();
            assert_eq!(size < 100_000, is_small);
            for data in sent {
                assert!(with_room(data.clone(), 1_000_000, &mut HashMap::new()).is_ok());
                let has_rows = !data.data_body.is_empty();
                let refused = with_room(data, 100_000, &mut HashMap::new());
                assert_eq!(refused.is_err(), is_small && has_rows, "{compression:?}");
            }
        }
        // Memory for as much as it says would not be there.
        let mut data = message(10, Some(CompressionType::ZSTD)).remove(1);
        let mut body = data.data_body.to_vec();
        for chunk in body.chunks_mut(8) {
            if chunk == 80_i64.to_le_bytes() {
                chunk.copy_from_slice(&(1_i64 << 50).to_le_bytes());
            }
        }
        data.data_body = body.into();
        assert!(with_room(data, 1_000_000, &mut HashMap::new()).is_err());
        // Nor for the length that the buffer itself claims.
        let mut data = message(100_000, Some(CompressionType::LZ4_FRAME)).remove(1);
        let mut body = data.data_body.to_vec();
        let place = body
            .windows(8)
            .position(|part| part == 800_000_i64.to_le_bytes());
        let place = place.unwrap();
        body[place..place + 8].copy_from_slice(&1_i64.to_le_bytes());
        data.data_body = body.into();
        let refused = with_room(data, 1_000_000, &mut HashMap::new()).unwrap_err();
        assert!(
            refused.message().contains("more bytes than it says"),
            "{refused}"
        );
        let garbled = FlightData {
            data_header: vec![1, 2, 3].into(),
            ..FlightData::default()
        };
        assert!(with_room(garbled, 1, &mut HashMap::new()).is_ok());
    }
}
