//! Benchmarks of the decoders of records, without Kafka: the same messages read by ours and by the readers of Arrow's crates.
//!
//! Ours take messages one by one, as a topic has them, and give a reason for each that cannot be read. Arrow's readers of JSON and
//! CSV take a text of many records and fail as a whole. So they are measured in two ways: the messages are joined to such a text
//! first, which is part of the time, or the reader gets them one by one. The faster of both is the peer. All give the same columns in
//! batches of the same size, which is checked before the time is taken.

use std::sync::{Arc, Mutex};

use anabranch::cli::visits::{Visit, VisitPlan, Visits};
use anabranch::error::Result;
use anabranch::formats::{FormatOptions, SchemaRegistry, renamed};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use datafusion::arrow::array::{
    ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::measure::{ComparedFigure, Report, StepCost, best_of, measure};
use crate::{Bench, DAY, USERS, record};

/// Messages of a batch: as many as DataFusion gives rows.
const ROWS: usize = 8192;
const RUNS: usize = 5;
const MOST: u64 = 1_000_000;

/// Messages as a topic has them.
type Messages<'a> = [Option<&'a [u8]>];

pub(crate) fn formats(bench: &Bench, report: &mut Report) {
    let plan = VisitPlan {
        seed: 42,
        users: USERS,
        visits: bench.records.min(MOST),
        start: DAY,
        slots: 48,
    };
    let visits: Vec<Visit> = Visits::new(plan).collect();
    let texts = visits.iter().map(|visit| record(visit).into_bytes());
    let texts: Vec<Vec<u8>> = texts.collect();
    let rows = json(&messages(&texts), report);
    avro(&rows, report);
    drop(rows);
    raw(&messages(&texts), report);
    drop(texts);
    let texts: Vec<Vec<u8>> = visits.iter().map(csv_record).collect();
    csv(&messages(&texts), report);
    let texts: Vec<Vec<u8>> = visits.iter().map(time_text).collect();
    times(&messages(&texts), report);
}

fn messages(texts: &[Vec<u8>]) -> Vec<Option<&[u8]>> {
    texts.iter().map(|text| Some(text.as_slice())).collect()
}

/// A visit as a CSV record with the fields of its JSON object, about 140 bytes.
fn csv_record(visit: &Visit) -> Vec<u8> {
    let time = String::from_utf8(time_text(visit)).unwrap();
    format!(
        "click-{},{},{time},page-{},{},https://www.example.com/articles/{},cable-{}",
        visit.number,
        visit.user_id,
        visit.page,
        visit.browser,
        visit.number % 9_973,
        visit.user_id % 17,
    )
    .into_bytes()
}

fn time_text(visit: &Visit) -> Vec<u8> {
    let time = chrono::DateTime::from_timestamp_micros(visit.event_time).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
        .into_bytes()
}

fn schema(fields: Vec<(&str, DataType)>) -> SchemaRef {
    let fields = fields.into_iter();
    let fields: Fields = fields
        .map(|(name, data_type)| Field::new(name, data_type, true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The type of event times; this zone is one that all readers know.
fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// The fields that JSON and CSV have in common.
fn scalars() -> Vec<(&'static str, DataType)> {
    vec![
        ("event_id", DataType::Utf8),
        ("user_id", DataType::Int64),
        ("event_time", timestamp()),
        ("page", DataType::Utf8),
    ]
}

fn json_schema() -> SchemaRef {
    let context = ["browser", "referral", "network"];
    let context = context.map(|name| Field::new(name, DataType::Utf8, true));
    let context = DataType::Struct(Fields::from(context.to_vec()));
    schema([scalars(), vec![("context", context)]].concat())
}

fn csv_schema() -> SchemaRef {
    let context = ["browser", "referral", "network"];
    let context = context.map(|name| (name, DataType::Utf8));
    schema([scalars(), context.to_vec()].concat())
}

fn format(options: &[(&str, &str)], declared: &SchemaRef) -> FormatOptions {
    let options = options.iter().copied();
    FormatOptions::from_options(options, Arc::clone(declared)).unwrap()
}

/// Columns that are read: all, or two of them as a job with windows does. The second is their name in the report.
fn projections(declared: &SchemaRef) -> [(Vec<usize>, &'static str); 2] {
    let all = (0..declared.fields().len()).collect();
    [(all, "all columns"), (vec![2, 3], "two columns")]
}

/// The batches that a reader gives for all messages.
fn batches(
    messages: &Messages<'_>,
    mut read: impl FnMut(&Messages<'_>) -> RecordBatch,
) -> Vec<RecordBatch> {
    messages.chunks(ROWS).map(&mut read).collect()
}

/// The best time of a reader over all messages.
fn taken(messages: &Messages<'_>, mut read: impl FnMut(&Messages<'_>) -> RecordBatch) -> StepCost {
    best_of((0..RUNS).map(|_| {
        measure(|| {
            let rows = messages.chunks(ROWS).map(|part| read(part).num_rows());
            rows.sum::<usize>() as u64
        })
    }))
}

/// Our reader of some columns.
fn ours(
    format: &FormatOptions,
    projection: &[usize],
) -> impl FnMut(&Messages<'_>) -> RecordBatch + use<> {
    let mut decoder = format.decoder(projection, false).unwrap();
    move |messages| {
        let decoded = decoder.decode(messages).unwrap();
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad[0]);
        decoded.columns
    }
}

/// Compares our decoder with a reader of Arrow's crates, which gets the messages joined to one text or one by one. The reader's
/// faster way is the peer. `names` are those of the case and of the reader's crate.
fn compare<Ours, Joined, Single>(
    messages: &Messages<'_>,
    report: &mut Report,
    (case, library): (String, &str),
    ours: impl Fn() -> Ours,
    whole: impl Fn() -> Joined,
    single: impl Fn() -> Single,
) where
    Ours: FnMut(&Messages<'_>) -> RecordBatch,
    Joined: FnMut(&Messages<'_>) -> RecordBatch,
    Single: FnMut(&Messages<'_>) -> RecordBatch,
{
    let read = batches(messages, ours());
    same(messages, &read, &batches(messages, whole()));
    same(messages, &read, &batches(messages, single()));
    drop(read);
    let (whole, single) = (taken(messages, whole()), taken(messages, single()));
    report.add(&format!("{case}: {library}, messages joined"), &whole, None);
    report.add(&format!("{case}: {library}, one by one"), &single, None);
    report.add(
        &format!("{case}: ours"),
        &taken(messages, ours()),
        Some((&faster(whole, single), ComparedFigure::Rate, "≥ 1")),
    );
}

/// The messages of a batch as the lines of a text.
fn joined<'a>(messages: &Messages<'_>, text: &'a mut Vec<u8>) -> &'a [u8] {
    text.clear();
    for message in messages.iter().flatten() {
        text.extend_from_slice(message);
        text.push(b'\n');
    }
    text
}

fn same(messages: &Messages<'_>, one: &[RecordBatch], other: &[RecordBatch]) {
    assert_eq!(one.len(), messages.len().div_ceil(ROWS));
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        assert_eq!(one.num_columns(), other.num_columns());
        for (one, other) in one.columns().iter().zip(other.columns()) {
            // Readers of Avro keep names of the schema in the types of nested fields.
            assert_eq!(one, &renamed(other, one.data_type()).unwrap());
        }
    }
}

fn faster(one: StepCost, other: StepCost) -> StepCost {
    best_of([one, other].into_iter())
}

fn json(messages: &Messages<'_>, report: &mut Report) -> Vec<RecordBatch> {
    let declared = json_schema();
    let format = format(&[("format", "json")], &declared);
    for (projection, what) in projections(&declared) {
        let projected = Arc::new(declared.project(&projection).unwrap());
        let decoder = || {
            let builder = arrow_json::ReaderBuilder::new(Arc::clone(&projected));
            builder.with_batch_size(ROWS).build_decoder().unwrap()
        };
        let whole = || {
            let (mut decoder, mut text) = (decoder(), Vec::new());
            move |messages: &Messages<'_>| {
                decoder.decode(joined(messages, &mut text)).unwrap();
                decoder.flush().unwrap().unwrap()
            }
        };
        let single = || {
            let mut decoder = decoder();
            move |messages: &Messages<'_>| {
                for message in messages.iter().flatten() {
                    assert_eq!(decoder.decode(message).unwrap(), message.len());
                }
                decoder.flush().unwrap().unwrap()
            }
        };
        let names = (format!("JSON, {what}"), "arrow-json");
        compare(
            messages,
            report,
            names,
            || ours(&format, &projection),
            whole,
            single,
        );
    }
    batches(messages, ours(&format, &projections(&declared)[0].0))
}

fn csv(messages: &Messages<'_>, report: &mut Report) {
    let declared = csv_schema();
    let format = format(&[("format", "csv")], &declared);
    for (projection, what) in projections(&declared) {
        let decoder = || {
            let builder = arrow_csv::ReaderBuilder::new(Arc::clone(&declared));
            let builder = builder.with_projection(projection.clone());
            builder.with_batch_size(ROWS).build_decoder()
        };
        let whole = || {
            let (mut decoder, mut text) = (decoder(), Vec::new());
            move |messages: &Messages<'_>| {
                decoder.decode(joined(messages, &mut text)).unwrap();
                decoder.flush().unwrap().unwrap()
            }
        };
        // A record ends at its line break, which messages do not have.
        let single = || {
            let mut decoder = decoder();
            move |messages: &Messages<'_>| {
                for message in messages.iter().flatten() {
                    assert_eq!(decoder.decode(message).unwrap(), message.len());
                    decoder.decode(b"\n").unwrap();
                }
                decoder.flush().unwrap().unwrap()
            }
        };
        let names = (format!("CSV, {what}"), "arrow-csv");
        compare(
            messages,
            report,
            names,
            || ours(&format, &projection),
            whole,
            single,
        );
    }
}

/// A registry of one schema.
#[derive(Debug, Default)]
struct OneSchema(Mutex<String>);

const ID: u32 = 1;

impl SchemaRegistry for OneSchema {
    fn schema_by_id(&self, _: u32) -> Result<String> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn register(&self, _: &str, schema: &str) -> Result<u32> {
        schema.clone_into(&mut self.0.lock().unwrap());
        Ok(ID)
    }
}

/// Our decoder calls arrow-avro for the records. The benchmark measures what our decoder adds: it reads the schema's id of each
/// message, conforms the columns to the declared ones, and refuses messages that have more than one record.
fn avro(rows: &[RecordBatch], report: &mut Report) {
    let declared = json_schema();
    let options = [
        ("format", "avro"),
        ("avro.registry.url", "http://127.0.0.1:1"),
        ("avro.subject", "visit"),
    ];
    let registry = Arc::new(OneSchema::default());
    let format = format(&options, &declared).with_registry(Arc::clone(&registry) as _);
    let mut encoder = format.encoder().unwrap();
    let encoded: Vec<_> = rows
        .iter()
        .map(|batch| encoder.encode(batch, None).unwrap())
        .collect();
    let messages: Vec<Option<&[u8]>> = encoded.iter().flat_map(|batch| batch.iter()).collect();
    let schema = registry.0.lock().unwrap().clone();
    for (projection, what) in projections(&declared) {
        let bare = || {
            let fingerprint = Fingerprint::Id(ID);
            let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
            store
                .set(fingerprint, AvroSchema::new(schema.clone()))
                .unwrap();
            let builder = arrow_avro::reader::ReaderBuilder::new()
                .with_batch_size(ROWS)
                .with_writer_schema_store(store)
                .with_active_fingerprint(fingerprint)
                .with_projection(projection.clone());
            let mut decoder = builder.build_decoder().unwrap();
            move |messages: &Messages<'_>| {
                for message in messages.iter().flatten() {
                    assert_eq!(decoder.decode(message).unwrap(), message.len());
                }
                decoder.flush().unwrap().unwrap()
            }
        };
        let read = batches(&messages, ours(&format, &projection));
        same(&messages, &read, &batches(&messages, bare()));
        drop(read);
        let bare = taken(&messages, bare());
        report.add(&format!("Avro, {what}: arrow-avro alone"), &bare, None);
        report.add(
            &format!("Avro, {what}: ours"),
            &taken(&messages, ours(&format, &projection)),
            Some((&bare, ComparedFigure::Rate, "≥ 0.8")),
        );
    }
}

fn raw(messages: &Messages<'_>, report: &mut Report) {
    let format = format(
        &[("format", "raw")],
        &schema(vec![("value", DataType::Utf8)]),
    );
    let peer = || {
        |messages: &Messages<'_>| {
            let bytes: BinaryArray = messages.iter().copied().collect();
            let text: ArrayRef = Arc::new(StringArray::try_from_binary(bytes).unwrap());
            RecordBatch::try_from_iter([("value", text)]).unwrap()
        }
    };
    let read = batches(messages, ours(&format, &[0]));
    same(messages, &read, &batches(messages, peer()));
    drop(read);
    let bare = taken(messages, peer());
    report.add(
        "raw: a BinaryArray, checked as a whole to be text",
        &bare,
        None,
    );
    report.add(
        "raw: ours",
        &taken(messages, ours(&format, &[0])),
        Some((&bare, ComparedFigure::Rate, "≥ 0.8")),
    );
}

/// Texts of timestamps. Ours reads them as the only field of CSV records, chrono without records: hence the reach.
fn times(messages: &Messages<'_>, report: &mut Report) {
    let format = format(
        &[("format", "csv")],
        &schema(vec![("event_time", timestamp())]),
    );
    let peer = || {
        |messages: &Messages<'_>| {
            let times = messages.iter().flatten().map(|message| {
                let text = std::str::from_utf8(message).unwrap();
                let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
                Some(time.timestamp_micros())
            });
            let times: TimestampMicrosecondArray = times.collect();
            let times: ArrayRef = Arc::new(times.with_timezone("+00:00"));
            RecordBatch::try_from_iter([("event_time", times)]).unwrap()
        }
    };
    let read = batches(messages, ours(&format, &[0]));
    same(messages, &read, &batches(messages, peer()));
    drop(read);
    let bare = taken(messages, peer());
    report.add("texts of timestamps: chrono", &bare, None);
    report.add(
        "texts of timestamps: ours, in CSV records",
        &taken(messages, ours(&format, &[0])),
        Some((&bare, ComparedFigure::Rate, "≥ 0.5")),
    );
}
