//! The `format` of a table and its options, checked when the table is created.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{SchemaRef, TimeUnit};

use super::codec::{RecordDecoder, RecordEncoder};
use super::column::ColumnBuilders;
use super::column_spelling::{plain_schema, written_schema};
use super::csv::{self, CsvDecoder, CsvEncoder};
use super::raw::{self, RawDecoder, RawEncoder};
use super::registry::SchemaRegistry;
use super::settings::{ReadOptions, WriteOptions};
use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};
use crate::formats::avro::decode::AvroDecoder;
use crate::formats::avro::encode::AvroEncoder;
use crate::formats::csv::text::CsvDialect;
use crate::formats::json::decode::JsonDecoder;
use crate::formats::json::encode::JsonEncoder;
use crate::formats::registry::http::{HttpRegistryOptions, HttpSchemaRegistry};
use crate::formats::text::time::TimestampFormat;
use crate::formats::text::zone::Zone;

/// The options that this layer reads; the caller reads the other options of a table.
pub const OPTION_NAMES: &[&str] = &[
    "format",
    "timezone",
    "json.timestamp_unit",
    "json.timestamp_format",
    "json.nulls",
    "csv.delimiter",
    "csv.quote",
    "csv.escape",
    "csv.null",
    "avro.subject",
    "avro.registry.url",
    "avro.registry.user",
    "avro.registry.password",
    "avro.registry.ca",
];

/// The encoding of a record's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatKind {
    /// One JSON object per message.
    Json,
    /// One CSV record per message.
    Csv,
    /// One Avro record per message, its schema in a registry (Confluent's wire format).
    Avro,
    /// The message is the value of the only column.
    Raw,
}

impl FormatKind {
    const ALL: [(&'static str, FormatKind); 4] = [
        ("json", FormatKind::Json),
        ("csv", FormatKind::Csv),
        ("avro", FormatKind::Avro),
        ("raw", FormatKind::Raw),
    ];

    /// The name of the format in option `format`.
    pub fn name(self) -> &'static str {
        match self {
            FormatKind::Json => "json",
            FormatKind::Csv => "csv",
            FormatKind::Avro => "avro",
            FormatKind::Raw => "raw",
        }
    }
}

/// A table's format with its options and declared value columns.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    kind: FormatKind,
    declared: SchemaRef,
    /// The declared columns, with their original spelling in the metadata.
    typed: SchemaRef,
    /// The declared columns, with the names used in records.
    written: SchemaRef,
    read: ReadOptions,
    write: WriteOptions,
    csv: CsvDialect,
    /// The subject under which the schema is registered, if the options give one.
    subject: Option<String>,
    topic: Option<String>,
    /// Always set for format `avro`.
    registry: Option<Arc<dyn SchemaRegistry>>,
}

impl FormatOptions {
    /// Reads the options named in [`OPTION_NAMES`]; others are left to the caller. `declared` are
    /// the value columns of the table: those that are not metadata.
    ///
    /// # Errors
    ///
    /// An unknown value (with the closest known one), an option of another format, or a declared
    /// column that the format cannot hold, by its name.
    pub fn from_options<K: AsRef<str>, V: AsRef<str>>(
        options: impl IntoIterator<Item = (K, V)>,
        declared: SchemaRef,
    ) -> Result<Self> {
        let options: BTreeMap<String, String> = options
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned()))
            .collect();
        let get = |name: &str| options.get(name).map(String::as_str);
        let kind = parse_kind(get("format").unwrap_or("json"))?;
        check_owner(kind, options.keys())?;
        let zone = get("timezone").map_or(Ok(Zone::Utc), Zone::parse)?;
        let number_unit = get("json.timestamp_unit")
            .map(|value| choose("json.timestamp_unit", value, &TIMESTAMP_UNITS))
            .transpose()?;
        let timestamp_format = get("json.timestamp_format")
            .map(|value| choose("json.timestamp_format", value, &TIMESTAMP_FORMATS))
            .transpose()?
            .unwrap_or_default();
        let nulls = get("json.nulls")
            .map(|value| choose("json.nulls", value, &[("omit", false), ("write", true)]))
            .transpose()?
            .unwrap_or(false);
        let csv = csv_dialect(&get)?;
        let registry = match kind {
            FormatKind::Avro => Some(open_registry(&get)?),
            _ => None,
        };
        let format = Self {
            kind,
            declared: plain_schema(&declared),
            written: written_schema(&declared),
            typed: declared,
            read: ReadOptions { zone, number_unit },
            write: WriteOptions {
                zone,
                timestamp_format,
                nulls,
            },
            csv,
            subject: get("avro.subject").map(str::to_owned),
            topic: None,
            registry,
        };
        format.check_declared()?;
        Ok(format)
    }

    /// Names the topic, from which the subject of an Avro schema is `<topic>-value`.
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Uses another registry than the one that the options name.
    #[must_use]
    pub fn with_registry(mut self, registry: Arc<dyn SchemaRegistry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// The format.
    pub fn kind(&self) -> FormatKind {
        self.kind
    }

    /// The declared value columns.
    pub fn declared(&self) -> &SchemaRef {
        &self.declared
    }

    /// The zone in which text without one is read.
    pub(crate) fn zone(&self) -> Zone {
        self.read.zone
    }

    /// A decoder of the value columns at `projection`, in that order.
    ///
    /// With `lenient` (`'on_error' 'null'`) a field of the wrong type becomes NULL and its row is
    /// not bad; a record that cannot be read at all, or that breaks a `NOT NULL`, still is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`](crate::error::ErrorKind::Internal) for a column that is not declared.
    pub fn decoder(&self, projection: &[usize], lenient: bool) -> Result<Box<dyn RecordDecoder>> {
        Ok(match self.kind {
            FormatKind::Json => Box::new(JsonDecoder::try_new(
                &self.typed,
                projection,
                &self.read,
                lenient,
            )?),
            FormatKind::Csv => Box::new(CsvDecoder::try_new(
                &self.declared,
                projection,
                &self.read,
                &self.csv,
                lenient,
            )?),
            FormatKind::Avro => Box::new(AvroDecoder::try_new(
                &self.typed,
                projection,
                &self.read,
                self.registry()?,
                lenient,
            )?),
            FormatKind::Raw => Box::new(RawDecoder::try_new(&self.declared, projection)?),
        })
    }

    /// An encoder of batches that have all declared value columns.
    ///
    /// # Errors
    ///
    /// As [`from_options`](Self::from_options), for conditions that only writing has.
    pub fn encoder(&self) -> Result<Box<dyn RecordEncoder>> {
        Ok(match self.kind {
            FormatKind::Json => Box::new(JsonEncoder::new(&self.written, &self.write)),
            FormatKind::Csv => Box::new(CsvEncoder::new(&self.declared, &self.write, &self.csv)),
            FormatKind::Avro => Box::new(AvroEncoder::try_new(
                &self.written,
                &self.subject()?,
                self.registry()?,
            )?),
            FormatKind::Raw => Box::new(RawEncoder::try_new(&self.declared)?),
        })
    }

    fn registry(&self) -> Result<&Arc<dyn SchemaRegistry>> {
        self.registry
            .as_ref()
            .ok_or_else(|| Error::internal("format 'avro' has no registry"))
    }

    fn subject(&self) -> Result<String> {
        match (&self.subject, &self.topic) {
            (Some(subject), _) => Ok(subject.clone()),
            (None, Some(topic)) => Ok(format!("{topic}-value")),
            (None, None) => Err(Error::invalid(
                "format 'avro' needs option 'avro.subject' to be written",
            )
            .about(Subject::option("avro.subject"))
            .about(Subject::text("avro"))),
        }
    }

    fn check_declared(&self) -> Result<()> {
        match self.kind {
            FormatKind::Json | FormatKind::Avro => {
                ColumnBuilders::try_new(self.declared.fields(), "").map(|_| ())
            }
            FormatKind::Csv => csv::check_declared(&self.declared),
            FormatKind::Raw => raw::check_declared(&self.declared),
        }
    }
}

const TIMESTAMP_UNITS: [(&str, TimeUnit); 4] = [
    ("seconds", TimeUnit::Second),
    ("milliseconds", TimeUnit::Millisecond),
    ("microseconds", TimeUnit::Microsecond),
    ("nanoseconds", TimeUnit::Nanosecond),
];

const TIMESTAMP_FORMATS: [(&str, TimestampFormat); 7] = [
    ("iso", TimestampFormat::Iso),
    ("iso_millis", TimestampFormat::IsoMillis),
    ("iso_micros", TimestampFormat::IsoMicros),
    ("sql", TimestampFormat::Sql),
    ("epoch_seconds", TimestampFormat::EpochSeconds),
    ("epoch_millis", TimestampFormat::EpochMillis),
    ("epoch_micros", TimestampFormat::EpochMicros),
];

fn parse_kind(name: &str) -> Result<FormatKind> {
    if matches!(name, "protobuf" | "debezium") {
        return Err(
            Error::unsupported(format!("format '{name}' is not supported yet"))
                .about(Subject::text(name))
                .with_help(format!("the formats are {}", names_of(&FormatKind::ALL))),
        );
    }
    choose("format", name, &FormatKind::ALL)
}

/// An option of another format would have no effect: it is refused.
fn check_owner<'a>(kind: FormatKind, names: impl Iterator<Item = &'a String>) -> Result<()> {
    for name in names {
        let Some((owner, _)) = name.split_once('.') else {
            continue;
        };
        let is_format = FormatKind::ALL.iter().any(|(format, _)| *format == owner);
        if is_format && owner != kind.name() && OPTION_NAMES.contains(&name.as_str()) {
            return Err(Error::invalid(format!(
                "option '{name}' is of format '{owner}', the table has format '{}'",
                kind.name()
            ))
            .about(Subject::option(name)));
        }
    }
    Ok(())
}

fn csv_dialect<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Result<CsvDialect> {
    let mut dialect = CsvDialect::default();
    if let Some(text) = get("csv.delimiter") {
        dialect.delimiter = one_character("csv.delimiter", text)?;
    }
    match get("csv.quote") {
        Some("") => dialect.quote = None,
        Some(text) => dialect.quote = Some(one_character("csv.quote", text)?),
        None => {}
    }
    dialect.escape = get("csv.escape")
        .map(|text| one_character("csv.escape", text))
        .transpose()?;
    if let Some(text) = get("csv.null") {
        dialect.null = text.to_owned();
    }
    if dialect.quote == Some(dialect.delimiter) || dialect.escape == Some(dialect.delimiter) {
        return Err(Error::invalid(
            "options 'csv.delimiter', 'csv.quote' and 'csv.escape' must not be the same character",
        )
        .about(Subject::option("csv.delimiter"))
        .about(Subject::option("csv.escape"))
        .about(Subject::option("csv.quote")));
    }
    let is_special =
        |b: u8| b == dialect.delimiter || Some(b) == dialect.quote || matches!(b, b'\n' | b'\r');
    if dialect.null.bytes().any(is_special) {
        return Err(Error::invalid(
            "option 'csv.null' must not hold the delimiter, the quote or a line break",
        )
        .about(Subject::option("csv.null")));
    }
    Ok(dialect)
}

fn open_registry<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Result<Arc<dyn SchemaRegistry>> {
    let url = get("avro.registry.url").ok_or_else(|| {
        Error::invalid("format 'avro' needs option 'avro.registry.url'")
            .about(Subject::option("avro.registry.url"))
            .about(Subject::text("avro"))
    })?;
    let owned = |name: &str| get(name).map(str::to_owned);
    Ok(Arc::new(HttpSchemaRegistry::try_new(
        &HttpRegistryOptions {
            url: url.to_owned(),
            user: owned("avro.registry.user"),
            password: owned("avro.registry.password"),
            ca: owned("avro.registry.ca"),
            timeout: None,
        },
    )?))
}

/// One ASCII character, or `\t` for a tab.
fn one_character(option: &str, text: &str) -> Result<u8> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
        _ => Err(Error::invalid(format!(
            "option '{option}' takes one ASCII character, not '{text}'"
        ))
        .about(Subject::option(option))),
    }
}

/// The choice named `value`.
fn choose<T: Copy>(option: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*choice);
    }
    let error = Error::invalid(format!("unknown value '{value}' of option '{option}'"))
        .about(Subject::option(option));
    Err(
        match closest(value, choices.iter().map(|(name, _)| *name)) {
            Some(name) => error.with_help(format!("did you mean '{name}'?")),
            None => error.with_help(format!("use one of {}", names_of(choices))),
        },
    )
}

fn names_of<T>(choices: &[(&str, T)]) -> String {
    choices
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
