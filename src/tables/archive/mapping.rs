//! Which columns of an archive give which parts of the topic's records. Decided from the Kafka table's declaration and the columns of
//! the Delta table alone.

use std::fmt;

use datafusion::arrow::datatypes::{DataType, Schema};

use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};
use crate::formats::sql_name;
use crate::tables::archive::mapped_column::{MappedColumn, is_bytes, is_text, is_time};
use crate::tables::archive::time_parts::{TimeParts, looks_like_parts};
use crate::tables::archive::topic_rows::TopicRows;
use crate::tables::delta::same_delta_type;
use crate::tables::kafka::{
    ArchiveColumn, ArchiveEventTime, ArchiveOptions, ComparedParts, KafkaTable, MetadataKey,
    option_of,
};

/// How an archive keeps the values of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveContent {
    /// As they came, in this column: the table's own format decodes them.
    Raw(MappedColumn),
    /// Decoded: these columns are the value columns of the table, in their order.
    Decoded(Vec<MappedColumn>),
}

/// Columns from which follows where rows of a range of event time are. It is a claim, since another program computed them: it is compared
/// with the event time of every row that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTimeClaim {
    /// There are none: a range of event time reads all files.
    None,
    /// The event time itself, beside the value that it is also decoded from.
    Column(MappedColumn),
    /// The column that the table's event time is read from: there is nothing to compare.
    Own(MappedColumn),
    /// Parts of it: year, month, day, hour.
    Parts(TimeParts),
}

/// How the rows of an archive are records of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveMapping {
    archive: String,
    metadata: Vec<(MetadataKey, MappedColumn)>,
    /// Metadata that the archive lacks on purpose: its rows have NULL there.
    nulls: Vec<MetadataKey>,
    partition: MappedColumn,
    offset: MappedColumn,
    /// Where the archive has a column of the topic: the rows of the table's topic alone are its records.
    topic: Option<TopicRows>,
    content: ArchiveContent,
    claim: EventTimeClaim,
    /// What `'archive.event_time'` could say.
    proposal: Option<String>,
}

impl ArchiveMapping {
    /// Maps the columns of the Delta table that `options` name, which is partitioned by `partition_by`, to those of `table`.
    ///
    /// # Errors
    ///
    /// A column that is named and missing, a type that does not fit, no partition or offset, and neither the record's value nor all
    /// its columns: by name, with what would do.
    pub fn try_new(
        table: &KafkaTable,
        options: &ArchiveOptions,
        schema: &Schema,
        partition_by: &[String],
    ) -> Result<Self> {
        let columns = Columns {
            table,
            options,
            schema,
        };
        let mut metadata = Vec::new();
        let mut nulls = Vec::new();
        for (_, key) in MetadataKey::ALL {
            if key == MetadataKey::Value {
                if options.column(key) == Some(&ArchiveColumn::None) {
                    nulls.push(key);
                }
                continue;
            }
            match columns.of_key(key)? {
                FoundColumn::Column(column) => metadata.push((key, column)),
                FoundColumn::Null => nulls.push(key),
                FoundColumn::Nothing => {}
            }
        }
        let needed = |key: MetadataKey| {
            column_of(&metadata, key).cloned().ok_or_else(|| {
                columns
                    .error(format!("has no column '{}'", key.name()))
                    .about(Subject::option(option_of(key)))
                    .with_help(format!(
                        "every row of an archive has the partition and offset of its record: name the column by '{}'; the columns are {}",
                        option_of(key),
                        columns.names()
                    ))
            })
        };
        let (partition, offset) = (
            needed(MetadataKey::Partition)?,
            needed(MetadataKey::Offset)?,
        );
        let content = columns.content()?;
        let claim = columns.claim(&content, &metadata)?;
        let proposal = match (&claim, options.event_time(), table.event_time()) {
            (EventTimeClaim::None, ArchiveEventTime::Unsaid, Some(_)) => {
                looks_like_parts(schema, partition_by)
            }
            _ => None,
        };
        let topic = column_of(&metadata, MetadataKey::Topic).map(|column| TopicRows {
            column: column.clone(),
            topic: table.topic().to_owned(),
        });
        Ok(Self {
            archive: options.table().to_owned(),
            topic,
            metadata,
            nulls,
            partition,
            offset,
            content,
            claim,
            proposal,
        })
    }

    /// The name of the Delta table.
    pub fn archive(&self) -> &str {
        &self.archive
    }

    /// The column of the partition.
    pub fn partition(&self) -> &MappedColumn {
        &self.partition
    }

    /// The column of the offset.
    pub fn offset(&self) -> &MappedColumn {
        &self.offset
    }

    /// The rows that are records of the table's topic; none if all are.
    pub(super) fn topic(&self) -> Option<&TopicRows> {
        self.topic.as_ref()
    }

    /// The column of a part of the record, the value excluded.
    pub fn metadata(&self, key: MetadataKey) -> Option<&MappedColumn> {
        column_of(&self.metadata, key)
    }

    /// How it keeps the values.
    pub fn content(&self) -> &ArchiveContent {
        &self.content
    }

    /// By which columns ranges of event time are looked up.
    pub fn claim(&self) -> &EventTimeClaim {
        &self.claim
    }

    /// What `'archive.event_time'` could say.
    pub fn proposal(&self) -> Option<&str> {
        self.proposal.as_deref()
    }

    /// Whether archived records have NULL for a key, as it was declared.
    pub(super) fn is_null(&self, key: MetadataKey) -> bool {
        self.nulls.contains(&key)
    }

    /// Whether a record's mark can be made of a row: its key, value and timestamp are there as they were in the topic.
    pub(super) fn has_whole_records(&self) -> bool {
        self.compared() == Some(ComparedParts::ALL)
    }

    /// By which parts its records can be compared with those of the topic; none if it does not have them as they were.
    pub(super) fn compared(&self) -> Option<ComparedParts> {
        let has = |key: MetadataKey| self.metadata(key).is_some();
        matches!(self.content, ArchiveContent::Raw(_)).then(|| ComparedParts {
            key: has(MetadataKey::Key),
            value: true,
            timestamp: has(MetadataKey::Timestamp),
        })
    }

    /// Checks that the archive has what a statement reads.
    ///
    /// # Errors
    ///
    /// Metadata that the archive lacks.
    pub(super) fn check_reads(&self, table: &KafkaTable, projection: &[usize]) -> Result<()> {
        for index in projection {
            let Some(column) = table.columns.get(*index) else {
                continue;
            };
            let Some(key) = column.metadata else {
                continue;
            };
            let is_there = match (key, &self.content) {
                (MetadataKey::Topic, _) => true,
                (MetadataKey::Value, ArchiveContent::Raw(_)) => true,
                (key, _) => self.metadata(key).is_some() || self.nulls.contains(&key),
            };
            if is_there {
                continue;
            }
            let (name, archive) = (column.field.name(), &self.archive);
            let option = option_of(key);
            return Err(Error::invalid(format!(
                "archive {archive} has no column for {name}, which is the record's {}",
                key.name()
            ))
            .about(Subject::column(name))
            .about(Subject::table(archive))
            .with_help(format!(
                "read the table without {name}, or declare it with '{option}' and the column that has it, or '{option}' 'none', which gives NULL for archived records"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for ArchiveMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            ArchiveContent::Raw(value) => write!(f, "raw [value={}", value.name)?,
            ArchiveContent::Decoded(columns) => {
                let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                write!(f, "decoded [columns=({})", names.join(", "))?;
            }
        }
        for (key, column) in &self.metadata {
            write!(f, ", {}={}", key.name(), column.name)?;
            if let (MetadataKey::Topic, Some(of)) = (key, &self.topic) {
                write!(f, " of '{}' alone", of.topic)?;
            }
        }
        for key in &self.nulls {
            write!(f, ", {}=NULL", key.name())?;
        }
        f.write_str("]")
    }
}

/// What was found for a metadata key.
enum FoundColumn {
    Column(MappedColumn),
    /// Its rows have NULL, as declared.
    Null,
    Nothing,
}

/// The columns of an archive, looked up for a table.
struct Columns<'a> {
    table: &'a KafkaTable,
    options: &'a ArchiveOptions,
    schema: &'a Schema,
}

impl Columns<'_> {
    fn error(&self, said: String) -> Error {
        let archive = self.options.table();
        Error::invalid(format!(
            "Delta table {archive} cannot be the archive of {}: it {said}",
            self.table.name()
        ))
        .about(Subject::table(archive))
    }

    fn names(&self) -> String {
        let fields = self.schema.fields().iter();
        let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        names.join(", ")
    }

    /// The column that an option names.
    fn named(&self, option: &str, name: &str) -> Result<MappedColumn> {
        MappedColumn::find(self.schema, name).ok_or_else(|| {
            let error = self
                .error(format!("has no column '{name}'"))
                .about(Subject::option(option));
            let fields = self.schema.fields().iter();
            match closest(name, fields.map(|field| field.name().as_str())) {
                Some(near) => error.with_help(format!("did you mean '{near}'?")),
                None => error.with_help(format!("the columns are {}", self.names())),
            }
        })
    }

    fn wrong_type(&self, column: &MappedColumn, what: &str, types: &str, option: &str) -> Error {
        self.error(format!(
            "has {what} in column {} of type {}, which is to be {types}",
            column.name,
            column.sql_type()
        ))
        .about(Subject::option(option))
        .with_help(format!("name another column by '{option}'"))
    }

    /// The name that the table has for a metadata key.
    fn own_name(&self, key: MetadataKey) -> Option<&str> {
        let column = self.table.metadata_column(key)?;
        Some(self.table.columns[column].field.name())
    }

    /// Whether the record's value has a field of this name, so that a column of the archive may be that field.
    fn is_value_column(&self, name: &str) -> bool {
        self.value_columns().any(|(known, _)| known == name)
    }

    /// Name and type of each value column.
    fn value_columns(&self) -> impl Iterator<Item = (&str, &DataType)> {
        self.table.value_columns.iter().map(|index| {
            let field = &self.table.columns[*index].field;
            (field.name().as_str(), field.data_type())
        })
    }

    /// The column for a key: the one that was named, else one named as the table's own column for it, else one named as the key.
    fn of_key(&self, key: MetadataKey) -> Result<FoundColumn> {
        let option = option_of(key);
        let (column, is_named) = match self.options.column(key) {
            Some(ArchiveColumn::None) => return Ok(FoundColumn::Null),
            Some(ArchiveColumn::Named(name)) => (self.named(option, name)?, true),
            None => {
                let of_key = Some(key.name()).filter(|name| !self.is_value_column(name));
                let mut names = [self.own_name(key), of_key].into_iter().flatten();
                match names.find_map(|name| MappedColumn::find(self.schema, name)) {
                    Some(column) => (column, false),
                    None => return Ok(FoundColumn::Nothing),
                }
            }
        };
        if holds(key, &column.data_type) {
            return Ok(FoundColumn::Column(column));
        }
        // A column that only has the name, of something that this table does not read.
        let is_needed = matches!(
            key,
            MetadataKey::Partition | MetadataKey::Offset | MetadataKey::Value
        );
        match is_named || is_needed || self.own_name(key).is_some() {
            true => {
                Err(self.wrong_type(&column, &format!("the {}", key.name()), types(key), option))
            }
            false => Ok(FoundColumn::Nothing),
        }
    }

    fn content(&self) -> Result<ArchiveContent> {
        let raw = match self.options.column(MetadataKey::Value) {
            // The values are in columns of their own, also if a column is named as the value.
            Some(ArchiveColumn::None) => Ok(FoundColumn::Nothing),
            _ => self.of_key(MetadataKey::Value),
        };
        let mut decoded = Vec::new();
        let mut missing = Vec::new();
        for (name, data_type) in self.value_columns() {
            match MappedColumn::find(self.schema, name) {
                Some(column) if same_delta_type(&column.data_type, data_type) => {
                    decoded.push(column);
                }
                Some(column) => missing.push(format!(
                    "{name} {} (it has {})",
                    sql_name(data_type),
                    column.sql_type()
                )),
                None => missing.push(format!("{name} {}", sql_name(data_type))),
            }
        }
        let is_decoded = missing.is_empty() && !decoded.is_empty();
        match raw {
            Ok(FoundColumn::Column(value)) => Ok(ArchiveContent::Raw(value)),
            Err(error) if !is_decoded => Err(error),
            _ if is_decoded => Ok(ArchiveContent::Decoded(decoded)),
            // A table of metadata alone decodes nothing.
            _ if missing.is_empty() && self.table.metadata_column(MetadataKey::Value).is_none() => {
                Ok(ArchiveContent::Decoded(decoded))
            }
            _ => {
                let lacks = match missing.is_empty() {
                    true => String::new(),
                    false => format!(", and lacks {}", missing.join(", ")),
                };
                Err(self
                    .error(format!("has no column 'value'{lacks}"))
                    .about(Subject::option("archive"))
                    .with_help(
                        "an archive has the record's value as STRING or BINARY, named by 'archive.value', or all value columns of the table by name and type",
                    ))
            }
        }
    }

    fn claim(
        &self,
        content: &ArchiveContent,
        metadata: &[(MetadataKey, MappedColumn)],
    ) -> Result<EventTimeClaim> {
        const OPTION: &str = "archive.event_time";
        let names = match self.options.event_time() {
            ArchiveEventTime::None => return Ok(EventTimeClaim::None),
            ArchiveEventTime::Unsaid => None,
            ArchiveEventTime::Columns(names) => Some(names),
        };
        let Some(event_time) = self.table.event_time() else {
            return match names {
                None => Ok(EventTimeClaim::None),
                Some(_) => Err(Error::invalid(format!(
                    "option '{OPTION}' is about the event time, and table {} has none",
                    self.table.name()
                ))
                .about(Subject::option(OPTION))
                .with_help(
                    "declare it: WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes'",
                )),
            };
        };
        let own = self.own_event_time(&event_time.column, content, metadata);
        let Some(names) = names else {
            if let Some(own) = own {
                return Ok(EventTimeClaim::Own(own));
            }
            let column = MappedColumn::find(self.schema, &event_time.column);
            let column = column.filter(|column| is_time(&column.data_type));
            return Ok(column.map_or(EventTimeClaim::None, EventTimeClaim::Column));
        };
        let columns = names.iter().map(|name| self.named(OPTION, name));
        let mut columns = columns.collect::<Result<Vec<_>>>()?;
        if columns.len() == 1 && is_time(&columns[0].data_type) {
            let column = columns.remove(0);
            return Ok(match own == Some(column.clone()) {
                true => EventTimeClaim::Own(column),
                false => EventTimeClaim::Column(column),
            });
        }
        let zone = self.options.zone();
        let zone = zone.unwrap_or_else(|| self.table.format.zone());
        let parts = TimeParts::try_new(columns, zone).map_err(|error| {
            error
                .about(Subject::table(self.options.table()))
                .about(Subject::option(OPTION))
        })?;
        Ok(EventTimeClaim::Parts(parts))
    }

    /// The column of the archive that the table's event time is read from, if there is one.
    fn own_event_time(
        &self,
        name: &str,
        content: &ArchiveContent,
        metadata: &[(MetadataKey, MappedColumn)],
    ) -> Option<MappedColumn> {
        if let Some(key) = self.table.metadata_key(name) {
            return column_of(metadata, key).cloned();
        }
        match content {
            ArchiveContent::Raw(_) => None,
            ArchiveContent::Decoded(columns) => {
                columns.iter().find(|column| column.name == name).cloned()
            }
        }
    }
}

/// The column of a key among those that were found.
fn column_of(metadata: &[(MetadataKey, MappedColumn)], key: MetadataKey) -> Option<&MappedColumn> {
    let mut columns = metadata.iter();
    columns.find(|(of, _)| *of == key).map(|(_, column)| column)
}

/// Whether a column of this type can hold what an archive keeps for a key.
fn holds(key: MetadataKey, data_type: &DataType) -> bool {
    match key {
        MetadataKey::Topic => is_text(data_type),
        MetadataKey::Partition | MetadataKey::Offset => data_type.is_signed_integer(),
        MetadataKey::Timestamp => is_time(data_type),
        // Spark's is a number.
        MetadataKey::TimestampType => is_text(data_type) || data_type.is_signed_integer(),
        MetadataKey::Key | MetadataKey::Value => is_text(data_type) || is_bytes(data_type),
        MetadataKey::Headers => match data_type {
            DataType::List(item) | DataType::LargeList(item) => is_pair(item.data_type()),
            DataType::Map(entries, _) => is_pair(entries.data_type()),
            _ => false,
        },
    }
}

/// Whether it is a key and a value of a header.
fn is_pair(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else {
        return false;
    };
    let [key, value] = fields.as_ref() else {
        return false;
    };
    let value = value.data_type();
    is_text(key.data_type()) && (is_text(value) || is_bytes(value))
}

fn types(key: MetadataKey) -> &'static str {
    match key {
        MetadataKey::Topic => "VARCHAR",
        MetadataKey::Partition | MetadataKey::Offset => "INT or BIGINT",
        MetadataKey::Timestamp => "TIMESTAMP",
        MetadataKey::TimestampType => "VARCHAR or INT",
        MetadataKey::Key | MetadataKey::Value => "VARCHAR or BINARY",
        MetadataKey::Headers => "ARRAY<STRUCT<key VARCHAR, value BINARY>> or MAP<VARCHAR, VARCHAR>",
    }
}
