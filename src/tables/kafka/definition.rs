//! Definition of a Kafka table: columns, topic, format, client settings; checked once, when it is declared.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::core::jobs::WatermarkPolicy;
use crate::error::{Error, Result, Subject};
use crate::formats;
use crate::formats::{FormatOptions, plain_field};
use crate::tables::kafka::archive_options::ArchiveOptions;
use crate::tables::kafka::client::ClientSettings;
pub use crate::tables::kafka::metadata_key::MetadataKey;
use crate::tables::kafka::range::NarrowingColumns;
use crate::tables::options::{self, Options};
use crate::tables::time::{EventTime, OFFSET_COLUMN, PARTITION_COLUMN, check_event_time};

/// The options of a Kafka table besides `kafka.*` and those of its format.
pub const OPTION_NAMES: &[&str] = &[
    "archive",
    "archive.event_time",
    "archive.gaps",
    "archive.headers",
    "archive.key",
    "archive.offset",
    "archive.partition",
    "archive.timestamp",
    "archive.timestamp_type",
    "archive.timezone",
    "archive.topic",
    "archive.value",
    "connect.timeout",
    "dead_letter.table",
    "delivery",
    "format",
    "on_error",
    "scan.startup",
    "timezone",
    "topic.partitions",
    "topic.replication_factor",
    "transaction.timeout",
    "watermark.idle_after",
    "watermark.max_ahead",
    "watermark.partitions",
];

/// A column of a Kafka table.
#[derive(Debug, Clone)]
pub struct KafkaColumn {
    /// Name, type and nullability; as it was typed, if [`typed_as`](crate::formats::typed_as) says so.
    pub field: Field,
    /// Its metadata key; `None`: it is in the record's value.
    pub metadata: Option<MetadataKey>,
}

/// A table as declared.
#[derive(Debug, Clone)]
pub struct KafkaTableSpec {
    /// The table's name in SQL.
    pub name: String,
    /// The topic.
    pub topic: String,
    /// The columns in order.
    pub columns: Vec<KafkaColumn>,
    /// Columns of the upsert key.
    pub primary_key: Vec<String>,
    /// The event time column, the watermark's expression as SQL, and how far it is behind, in microseconds.
    pub watermark: Option<(String, String, i64)>,
    /// Options with lower-case keys and the environment expanded.
    pub options: Options,
}

/// The handling of a record that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The statement fails and names the record.
    Fail,
    /// Fields that do not fit become NULL.
    Null,
    /// The record goes to the dead letter table.
    DeadLetter,
}

/// Where a job begins in a topic it has not read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Startup {
    /// At the first record kept.
    Earliest,
    /// After the last record there is.
    Latest,
}

/// How an INSERT reaches the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// An idempotent producer: each row once, visible as it arrives.
    Idempotent,
    /// One transaction: all rows or none, for `read_committed` readers.
    Transactional,
    /// Rows are visible as they arrive, also those of jobs, which commit their offsets afterwards: after a crash in
    /// between the rows are sent again. For brokers that keep no transactions.
    AtLeastOnce,
}

/// A checked Kafka table.
#[derive(Debug)]
pub struct KafkaTable {
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) columns: Vec<KafkaColumn>,
    pub(crate) schema: SchemaRef,
    /// Column index of each value column, in order.
    pub(crate) value_columns: Vec<usize>,
    /// Column indices of the primary key.
    pub(crate) primary_key: Vec<usize>,
    pub(crate) event_time: Option<EventTime>,
    pub(crate) format: FormatOptions,
    pub(crate) client: ClientSettings,
    /// As declared; queries and jobs have defaults of their own.
    on_error: Option<OnError>,
    pub(crate) startup: Startup,
    pub(crate) dead_letter_table: Option<String>,
    pub(crate) delivery: Delivery,
    pub(crate) topic_partitions: Option<i32>,
    pub(crate) replication_factor: i32,
    /// Where its past is kept.
    pub(crate) archive: Option<ArchiveOptions>,
}

impl KafkaTable {
    /// How rows reach the topic.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Checks a declaration. Nothing is connected.
    ///
    /// # Errors
    /// A column or an option that is wrong, by name.
    pub fn try_new(mut spec: KafkaTableSpec) -> Result<Self> {
        // How columns were typed is for the format alone.
        let plain: Vec<Field> = spec
            .columns
            .iter()
            .map(|column| plain_field(&column.field))
            .collect();
        let columns = spec.columns.iter_mut().zip(plain);
        let typed: Vec<Field> = columns
            .map(|(column, plain)| std::mem::replace(&mut column.field, plain))
            .collect();
        let names: Vec<&str> = OPTION_NAMES
            .iter()
            .chain(formats::OPTION_NAMES)
            .copied()
            .collect();
        options::check_names(&spec.options, &names, &["kafka."])?;
        check_topic(&spec.topic)?;
        if spec.columns.is_empty() {
            return Err(
                Error::invalid(format!("table {} has no columns", spec.name))
                    .about(Subject::table(&spec.name))
                    .with_help(
                        "declare the columns of the record's value; Kafka does not know them",
                    ),
            );
        }
        check_metadata(&spec.columns)?;
        let value_columns: Vec<usize> = (0..spec.columns.len())
            .filter(|index| spec.columns[*index].metadata.is_none())
            .collect();
        let value_fields: Vec<Field> = value_columns
            .iter()
            .map(|index| typed[*index].clone())
            .collect();
        let value_schema = Arc::new(Schema::new(value_fields));
        let position = |name: &String| {
            spec.columns
                .iter()
                .position(|column| column.field.name() == name)
                .ok_or_else(|| {
                    Error::invalid(format!("PRIMARY KEY names {name}, which is not a column"))
                        .about(Subject::column(name))
                })
        };
        let primary_key = spec
            .primary_key
            .iter()
            .map(position)
            .collect::<Result<Vec<_>>>()?;
        let format =
            FormatOptions::from_options(&spec.options, value_schema)?.with_topic(&spec.topic);
        let client = ClientSettings::from_options(&spec.options)?;
        let archive = ArchiveOptions::from_options(&spec.options)?;
        let on_error = options::choice(
            &spec.options,
            "on_error",
            &[
                ("fail", Some(OnError::Fail)),
                ("null", Some(OnError::Null)),
                ("dead_letter", Some(OnError::DeadLetter)),
            ],
            None,
        )?;
        let dead_letter_table = spec.options.get("dead_letter.table").cloned();
        if on_error == Some(OnError::DeadLetter) && dead_letter_table.is_none() {
            return Err(Error::invalid(
                "option 'on_error' 'dead_letter' needs a table to keep them",
            )
            .about(Subject::option("on_error"))
            .with_help("name a Delta table: 'dead_letter.table' 'visits_dead'"));
        }
        let delivery = options::choice(
            &spec.options,
            "delivery",
            &[
                ("idempotent", Delivery::Idempotent),
                ("transactional", Delivery::Transactional),
                ("at_least_once", Delivery::AtLeastOnce),
            ],
            Delivery::Idempotent,
        )?;
        // Read by jobs; a value that no job could use is refused where it is written.
        let startup = options::choice(
            &spec.options,
            "scan.startup",
            &[("earliest", Startup::Earliest), ("latest", Startup::Latest)],
            Startup::Earliest,
        )?;
        let policy = options::choice(
            &spec.options,
            "watermark.partitions",
            &[
                ("min", WatermarkPolicy::Lowest),
                ("max", WatermarkPolicy::Highest),
            ],
            WatermarkPolicy::Lowest,
        )?;
        let idle_after = options::duration(
            &spec.options,
            "watermark.idle_after",
            Duration::from_secs(10),
        )?;
        let max_ahead = options::duration(
            &spec.options,
            "watermark.max_ahead",
            Duration::from_secs(24 * 60 * 60),
        )?;
        let schema = Arc::new(Schema::new(
            spec.columns
                .iter()
                .map(|column| column.field.clone())
                .collect::<Vec<_>>(),
        ));
        let event_time = match spec.watermark {
            Some((column, expr, delay)) => {
                check_event_time(&schema, &column)?;
                Some(EventTime {
                    column,
                    expr,
                    delay,
                    policy,
                    idle_after,
                    max_ahead,
                })
            }
            None => None,
        };
        Ok(Self {
            name: spec.name,
            topic: spec.topic,
            columns: spec.columns,
            schema,
            value_columns,
            primary_key,
            event_time,
            format,
            client,
            on_error,
            startup,
            dead_letter_table,
            delivery,
            topic_partitions: options::integer(&spec.options, "topic.partitions", 1)?,
            replication_factor: options::integer(&spec.options, "topic.replication_factor", 1)?
                .unwrap_or(-1),
            archive,
        })
    }

    /// The same topic as records that are not decoded: partition, offset, timestamp, key and value, in this order.
    pub(crate) fn of_records(&self) -> Self {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = [
            (MetadataKey::Partition, DataType::Int32),
            (MetadataKey::Offset, DataType::Int64),
            (MetadataKey::Timestamp, utc),
            (MetadataKey::Key, DataType::Binary),
            (MetadataKey::Value, DataType::Binary),
        ];
        let columns: Vec<KafkaColumn> = columns
            .into_iter()
            .map(|(key, data_type)| KafkaColumn {
                field: Field::new(key.name(), data_type, true),
                metadata: Some(key),
            })
            .collect();
        let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
        Self {
            name: self.name.clone(),
            topic: self.topic.clone(),
            columns,
            schema: Arc::new(Schema::new(fields)),
            value_columns: Vec::new(),
            primary_key: Vec::new(),
            event_time: None,
            format: self.format.clone(),
            client: self.client.clone(),
            on_error: None,
            startup: self.startup,
            dead_letter_table: None,
            delivery: self.delivery,
            topic_partitions: self.topic_partitions,
            replication_factor: self.replication_factor,
            archive: None,
        }
    }

    /// Where its past is kept; `None`: it has the records of the topic alone.
    pub fn archive(&self) -> Option<&ArchiveOptions> {
        self.archive.as_ref()
    }

    /// The table's columns, metadata included.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether another table's topic is on the same brokers.
    pub fn shares_cluster(&self, other: &Self) -> bool {
        self.client.same_cluster(&other.client)
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The event time column and its watermark.
    pub fn event_time(&self) -> Option<&EventTime> {
        self.event_time.as_ref()
    }

    /// The table's name in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns of the upsert key.
    pub fn primary_key(&self) -> &[usize] {
        &self.primary_key
    }

    /// Where a job begins.
    pub fn startup(&self) -> Startup {
        self.startup
    }

    /// The handling of a record that cannot be decoded, in a job or in a query.
    pub fn on_error(&self, in_job: bool) -> OnError {
        let default = if in_job {
            OnError::DeadLetter
        } else {
            OnError::Fail
        };
        self.on_error.unwrap_or(default)
    }

    /// The Delta table that keeps records which cannot be decoded.
    pub fn dead_letter_table(&self) -> Option<&str> {
        self.dead_letter_table.as_deref()
    }

    /// The columns an INSERT without a column list fills: those of the value.
    pub fn insert_columns(&self) -> Vec<&str> {
        self.value_columns
            .iter()
            .map(|index| self.columns[*index].field.name().as_str())
            .collect()
    }

    /// The metadata key of a column.
    pub fn metadata_key(&self, column: &str) -> Option<MetadataKey> {
        self.columns
            .iter()
            .find(|known| known.field.name() == column)?
            .metadata
    }

    /// The columns that narrow a scan.
    pub(crate) fn narrowing(&self) -> NarrowingColumns {
        let name = |key| {
            let index = self.metadata_column(key)?;
            Some(self.columns[index].field.name().clone())
        };
        NarrowingColumns {
            partition: name(MetadataKey::Partition),
            offset: name(MetadataKey::Offset),
            timestamp: name(MetadataKey::Timestamp),
        }
    }

    /// The same table with partition and offset of each record in two more columns at the end.
    pub(crate) fn with_coordinates(&self) -> Self {
        let more = [
            (PARTITION_COLUMN, DataType::Int32, MetadataKey::Partition),
            (OFFSET_COLUMN, DataType::Int64, MetadataKey::Offset),
        ];
        let mut columns = self.columns.clone();
        columns.extend(more.map(|(name, data_type, key)| KafkaColumn {
            field: Field::new(name, data_type, false),
            metadata: Some(key),
        }));
        let fields = columns.iter().map(|column| column.field.clone());
        Self {
            name: self.name.clone(),
            topic: self.topic.clone(),
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            columns,
            value_columns: self.value_columns.clone(),
            primary_key: self.primary_key.clone(),
            event_time: self.event_time.clone(),
            format: self.format.clone(),
            client: self.client.clone(),
            on_error: self.on_error,
            startup: self.startup,
            dead_letter_table: self.dead_letter_table.clone(),
            delivery: self.delivery,
            topic_partitions: self.topic_partitions,
            replication_factor: self.replication_factor,
            archive: self.archive.clone(),
        }
    }

    pub(crate) fn metadata_column(&self, key: MetadataKey) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| column.metadata == Some(key))
    }
}

fn check_topic(topic: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(legal) {
        return Err(Error::invalid(format!("invalid topic name '{topic}'"))
            .about(Subject::location(topic))
            .with_help("LOCATION names the topic: letters, digits, '.', '_' and '-'"));
    }
    Ok(())
}

fn check_metadata(columns: &[KafkaColumn]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        let Some(key) = column.metadata else { continue };
        let name = column.field.name();
        if !key.accepts(column.field.data_type()) {
            return Err(Error::invalid(format!(
                "column {name}: metadata '{}' is {}",
                key.name(),
                key.types()
            ))
            .about(Subject::column(name))
            .about(Subject::text(key.name())));
        }
        if !seen.insert(key) {
            return Err(Error::invalid(format!(
                "column {name}: metadata '{}' is declared twice",
                key.name()
            ))
            .about(Subject::column(name))
            .about(Subject::text(key.name())));
        }
    }
    Ok(())
}
