//! Decoder from Avro in Confluent's wire format to columns: a zero byte, the schema's number, the record.
//!
//! Each record says which schema it was written with. Records are read in groups of one schema,
//! with only the fields asked for, and conformed to the declared columns by name. A record that
//! cannot be read spoils the decoder it was given to, so the records before it are read again with
//! a fresh one.
//!
//! arrow-avro reads the records. To tell schemas apart and to conform columns costs about a tenth of its rows per second
//! (`BENCH_ONLY=formats`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::formats::avro::conform::{ConformError, Conformer, relaxed};
use crate::formats::avro::empty::has_items_without_bytes;
use crate::formats::codec::{
    BadRow, Decoded, RecordDecoder, batch_of, check_total_bytes, projected_schema,
};
use crate::formats::column_spelling::find_field;
use crate::formats::registry::SchemaRegistry;
use crate::formats::settings::ReadOptions;
use crate::formats::text::zone::ZoneOffsets;

/// The zero byte and the number.
const HEADER_BYTES: usize = 5;

/// Decodes messages that are one Avro record each.
pub(crate) struct AvroDecoder {
    schema: SchemaRef,
    /// The declared columns, with their NOT NULL.
    declared: Vec<Field>,
    offsets: ZoneOffsets,
    lenient: bool,
    registry: Arc<dyn SchemaRegistry>,
    writers: HashMap<u32, std::result::Result<WriterSchema, String>>,
}

/// A schema that records were written with.
struct WriterSchema {
    id: u32,
    schema: AvroSchema,
    /// The places of the fields to read; `None` if all are read.
    projection: Option<Vec<usize>>,
    /// `None` until it is needed, and after a record spoilt it.
    decoder: Option<Decoder>,
}

/// Rows that were read together.
struct DecodedChunk {
    rows: Vec<usize>,
    columns: Vec<ArrayRef>,
}

/// Why records could not be read together.
struct ChunkError {
    /// The place of the bad record, if it is known.
    at: Option<usize>,
    reason: String,
}

impl AvroDecoder {
    pub(crate) fn try_new(
        declared: &Schema,
        projection: &[usize],
        options: &ReadOptions,
        registry: &Arc<dyn SchemaRegistry>,
        lenient: bool,
    ) -> Result<Self> {
        Ok(Self {
            schema: projected_schema(declared, projection)?,
            declared: projection
                .iter()
                .map(|&index| declared.field(index).clone())
                .collect(),
            offsets: ZoneOffsets::new(options.zone),
            lenient,
            registry: Arc::clone(registry),
            writers: HashMap::new(),
        })
    }

    /// Loads the schema with number `id`, or remembers that it cannot be used.
    fn load_writer(&mut self, id: u32) -> Result<()> {
        /// Corrupt records may name any number: the cache of unusable schemas is bounded.
        const MAX_USELESS: usize = 1000;
        if self.writers.contains_key(&id) {
            return Ok(());
        }
        let writer = match self.registry.schema_by_id(id) {
            Ok(schema) => self.check_writer(id, schema),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Data | ErrorKind::Unsupported => {
                    Err(error.message().to_owned())
                }
                _ => return Err(error),
            },
        };
        if self.writers.len() >= MAX_USELESS {
            self.writers.retain(|_, writer| writer.is_ok());
        }
        self.writers.insert(id, writer);
        Ok(())
    }

    /// A writer whose fields can be read as declared, or why they cannot.
    fn check_writer(
        &mut self,
        id: u32,
        schema: String,
    ) -> std::result::Result<WriterSchema, String> {
        let in_schema = |reason: String| format!("schema id {id}: {reason}");
        let places = field_places(&schema).map_err(in_schema)?;
        if has_items_without_bytes(&schema) {
            return Err(in_schema(
                "the items of an array have no bytes, so that a record of a few bytes may have any number of them".to_owned(),
            ));
        }
        let projection: Vec<usize> = self
            .declared
            .iter()
            .filter_map(|field| find_field(field, |name| places.get(name).copied()))
            .collect();
        let mut writer = WriterSchema {
            id,
            schema: AvroSchema::new(schema),
            projection: Some(projection),
            decoder: None,
        };
        // A field may use a type that is defined in one that is left out: then all are read.
        let decoder = match writer.new_decoder() {
            Ok(decoder) => decoder,
            Err(_) => {
                writer.projection = None;
                writer.new_decoder().map_err(in_schema)?
            }
        };
        let nothing = RecordBatch::new_empty(decoder.schema());
        writer.decoder = Some(decoder);
        self.conform(&nothing, &mut Vec::new()).map_err(in_schema)?;
        Ok(writer)
    }

    /// The declared columns of `written`; nested NOT NULLs are not in their types yet.
    fn conform(
        &mut self,
        written: &RecordBatch,
        misfits: &mut Vec<ConformError>,
    ) -> std::result::Result<Vec<ArrayRef>, String> {
        let mut conform = Conformer {
            offsets: &mut self.offsets,
            lenient: self.lenient,
        };
        let schema = written.schema();
        self.declared
            .iter()
            .map(
                |field| match find_field(field, |name| schema.column_with_name(name)) {
                    Some((place, written_field)) => {
                        let column = written.column(place);
                        conform.column(column, written_field, field, field.name(), misfits)
                    }
                    None => {
                        let nulls = new_null_array(&relaxed(field.data_type()), written.num_rows());
                        conform.column(&nulls, field, field, field.name(), misfits)
                    }
                },
            )
            .collect()
    }

    /// Reads the rows of one schema; rows that cannot be read are added to `bad`.
    fn decode_group(
        &mut self,
        id: u32,
        rows: &[usize],
        payloads: &[Option<&[u8]>],
        chunks: &mut Vec<DecodedChunk>,
        bad: &mut Vec<BadRow>,
    ) -> Result<()> {
        self.load_writer(id)?;
        let mut written = Vec::new();
        match self.writers.get_mut(&id) {
            Some(Ok(writer)) => writer.read(rows, payloads, &mut written, bad),
            Some(Err(reason)) => {
                bad.extend(rows.iter().map(|&row| BadRow {
                    row,
                    reason: reason.clone(),
                    column: None,
                }));
            }
            None => return Err(Error::internal("a loaded schema is missing")),
        }
        for (rows, batch) in written {
            let mut misfits = Vec::new();
            let columns = self
                .conform(&batch, &mut misfits)
                .map_err(Error::internal)?;
            let mut reasons = BTreeMap::new();
            for misfit in misfits {
                reasons
                    .entry(misfit.row)
                    .or_insert((misfit.reason, misfit.column));
            }
            bad.extend(reasons.into_iter().filter_map(|(at, (reason, column))| {
                rows.get(at).map(|&row| BadRow {
                    row,
                    reason,
                    column: Some(column),
                })
            }));
            chunks.push(DecodedChunk { rows, columns });
        }
        Ok(())
    }

    /// The rows in their order, null where no record was read.
    fn assemble(
        &self,
        chunks: &[DecodedChunk],
        bad: &[BadRow],
        rows: usize,
    ) -> Result<Vec<ArrayRef>> {
        let misfit = |error| Error::internal(format!("decoded values do not fit: {error}"));
        // Source 0 is a row that is null everywhere.
        let mut places = vec![(0_usize, 0_usize); rows];
        for (source, chunk) in chunks.iter().enumerate() {
            for (index, &row) in chunk.rows.iter().enumerate() {
                places[row] = (source + 1, index);
            }
        }
        for BadRow { row, .. } in bad {
            places[*row] = (0, 0);
        }
        let is_whole = matches!(chunks, [chunk] if chunk.rows.len() == rows) && bad.is_empty();
        let mut columns = Vec::with_capacity(self.declared.len());
        for (place, field) in self.schema.fields().iter().enumerate() {
            let null = new_null_array(&relaxed(field.data_type()), 1);
            let column = if is_whole {
                Arc::clone(&chunks[0].columns[place])
            } else {
                let mut sources: Vec<&dyn Array> = vec![null.as_ref()];
                sources.extend(chunks.iter().map(|chunk| chunk.columns[place].as_ref()));
                interleave(&sources, &places).map_err(misfit)?
            };
            let is_declared = column.data_type() == field.data_type();
            columns.push(if is_declared {
                column
            } else {
                cast(&column, field.data_type()).map_err(misfit)?
            });
        }
        Ok(columns)
    }
}

impl RecordDecoder for AvroDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn decode(&mut self, payloads: &[Option<&[u8]>]) -> Result<Decoded> {
        check_total_bytes(payloads)?;
        let mut bad = Vec::new();
        let mut chunks = Vec::new();
        if !self.declared.is_empty() {
            let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (row, payload) in payloads.iter().enumerate() {
                match payload.map(schema_id) {
                    None => {}
                    Some(Ok(id)) => groups.entry(id).or_default().push(row),
                    Some(Err(reason)) => bad.push(BadRow {
                        row,
                        reason: reason.to_owned(),
                        column: None,
                    }),
                }
            }
            for (id, rows) in groups {
                self.decode_group(id, &rows, payloads, &mut chunks, &mut bad)?;
            }
            bad.sort_by_key(|bad| bad.row);
        }
        let columns = self.assemble(&chunks, &bad, payloads.len())?;
        Ok(Decoded {
            columns: batch_of(&self.schema, columns, payloads.len())?,
            bad,
        })
    }
}

impl WriterSchema {
    fn new_decoder(&self) -> std::result::Result<Decoder, String> {
        let fingerprint = Fingerprint::Id(self.id);
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store
            .set(fingerprint, self.schema.clone())
            .map_err(|error| error.to_string())?;
        let mut builder = ReaderBuilder::new()
            .with_batch_size(usize::MAX)
            .with_writer_schema_store(store)
            .with_active_fingerprint(fingerprint);
        if let Some(projection) = &self.projection {
            builder = builder.with_projection(projection.clone());
        }
        builder.build_decoder().map_err(|error| error.to_string())
    }

    /// Reads `rows` into batches; each bad record costs one more reading of those before it.
    fn read(
        &mut self,
        rows: &[usize],
        payloads: &[Option<&[u8]>],
        written: &mut Vec<(Vec<usize>, RecordBatch)>,
        bad: &mut Vec<BadRow>,
    ) {
        let mut ranges = Vec::from([(0, rows.len())]);
        while let Some((start, end)) = ranges.pop() {
            let part = &rows[start..end];
            if part.is_empty() {
                continue;
            }
            match self.read_together(part, payloads) {
                Ok(batch) => written.push((part.to_vec(), batch)),
                Err(ChunkError { at, reason }) => {
                    self.decoder = None;
                    match at {
                        Some(at) => {
                            bad.push(BadRow {
                                row: part[at],
                                reason,
                                column: None,
                            });
                            ranges.push((start + at + 1, end));
                            ranges.push((start, start + at));
                        }
                        None if part.len() == 1 => bad.push(BadRow {
                            row: part[0],
                            reason,
                            column: None,
                        }),
                        None => {
                            let middle = start + part.len() / 2;
                            ranges.push((middle, end));
                            ranges.push((start, middle));
                        }
                    }
                }
            }
        }
    }

    fn read_together(
        &mut self,
        rows: &[usize],
        payloads: &[Option<&[u8]>],
    ) -> std::result::Result<RecordBatch, ChunkError> {
        let unknown = |reason: String| ChunkError { at: None, reason };
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => self.new_decoder().map_err(unknown)?,
        };
        for (at, &row) in rows.iter().enumerate() {
            let payload = payloads.get(row).copied().flatten().unwrap_or_default();
            let spoilt = |reason: String| ChunkError {
                at: Some(at),
                reason,
            };
            let capacity = decoder.capacity();
            let read = decoder.decode(payload).map_err(|error| {
                spoilt(format!(
                    "not an Avro record of schema id {}: {error}",
                    self.id
                ))
            })?;
            if read != payload.len() || capacity - decoder.capacity() != 1 {
                return Err(spoilt(format!(
                    "not exactly one Avro record of schema id {} in {} bytes",
                    self.id,
                    payload.len()
                )));
            }
        }
        let batch = decoder
            .flush()
            .map_err(|error| {
                unknown(format!(
                    "not an Avro record of schema id {}: {error}",
                    self.id
                ))
            })?
            .filter(|batch| batch.num_rows() == rows.len())
            .ok_or_else(|| unknown("the record was not read".to_owned()))?;
        self.decoder = Some(decoder);
        Ok(batch)
    }
}

/// The number of the schema a payload was written with.
fn schema_id(payload: &[u8]) -> std::result::Result<u32, &'static str> {
    match payload {
        [] => Err("the message is empty, an Avro record was expected"),
        [0, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ if payload.len() < HEADER_BYTES => {
            Err("the message is too short for the number of a schema")
        }
        _ => Err("the message does not begin with a zero byte and the number of a schema"),
    }
}

/// The position of each field of a record's schema.
fn field_places(schema: &str) -> std::result::Result<HashMap<String, usize>, String> {
    let schema: Value =
        serde_json::from_str(schema).map_err(|error| format!("the schema is not JSON: {error}"))?;
    let is_record = schema.get("type").and_then(Value::as_str) == Some("record");
    let fields = schema
        .get("fields")
        .and_then(Value::as_array)
        .filter(|_| is_record);
    let fields = fields.ok_or("the schema is not one of a record")?;
    let names = fields
        .iter()
        .map(|field| field.get("name").and_then(Value::as_str));
    names
        .enumerate()
        .map(|(place, name)| Some((name?.to_owned(), place)))
        .collect::<Option<_>>()
        .ok_or_else(|| "a field of the schema has no name".to_owned())
}

#[cfg(test)]
#[path = "decode_tests.rs"]
pub(crate) mod tests;
