//! Metadata of a Kafka record: the parts beside its decoded value that a column can hold.

use datafusion::arrow::datatypes::{DataType, TimeUnit};

use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};

/// A column's place in a Kafka record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetadataKey {
    /// The topic's name.
    Topic,
    /// The partition.
    Partition,
    /// The offset within the partition.
    Offset,
    /// The record's timestamp.
    Timestamp,
    /// `CreateTime` or `LogAppendTime`.
    TimestampType,
    /// The key's bytes.
    Key,
    /// The value's bytes.
    Value,
    /// The headers.
    Headers,
}

impl MetadataKey {
    /// Each with its name in SQL.
    pub(crate) const ALL: [(&'static str, MetadataKey); 8] = [
        ("topic", MetadataKey::Topic),
        ("partition", MetadataKey::Partition),
        ("offset", MetadataKey::Offset),
        ("timestamp", MetadataKey::Timestamp),
        ("timestamp_type", MetadataKey::TimestampType),
        ("key", MetadataKey::Key),
        ("value", MetadataKey::Value),
        ("headers", MetadataKey::Headers),
    ];

    /// The key of this name.
    ///
    /// # Errors
    /// An unknown name, with the closest known one.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some((_, key)) = Self::ALL.iter().find(|(known, _)| *known == name) {
            return Ok(*key);
        }
        let names: Vec<&str> = Self::ALL.iter().map(|(known, _)| *known).collect();
        let help = match closest(name, names.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("the metadata keys are {}", names.join(", ")),
        };
        Err(Error::invalid(format!("unknown metadata key '{name}'"))
            .about(Subject::text(name))
            .with_help(help))
    }

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, key)| *key == self)
            .map_or("", |(name, _)| name)
    }

    /// True when an INSERT may give it.
    pub fn is_writable(self) -> bool {
        matches!(
            self,
            MetadataKey::Key
                | MetadataKey::Headers
                | MetadataKey::Timestamp
                | MetadataKey::Partition
        )
    }

    /// Whether a column of this type can hold it.
    pub(crate) fn accepts(self, data_type: &DataType) -> bool {
        match self {
            MetadataKey::Topic | MetadataKey::TimestampType => *data_type == DataType::Utf8,
            MetadataKey::Partition => matches!(data_type, DataType::Int32 | DataType::Int64),
            MetadataKey::Offset => *data_type == DataType::Int64,
            MetadataKey::Timestamp => {
                matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC")
            }
            MetadataKey::Key | MetadataKey::Value => {
                matches!(data_type, DataType::Utf8 | DataType::Binary)
            }
            MetadataKey::Headers => {
                super::headers::is_map(data_type) || super::headers::is_list(data_type)
            }
        }
    }

    /// The types that can hold it, in SQL.
    pub(crate) fn types(self) -> &'static str {
        match self {
            MetadataKey::Topic | MetadataKey::TimestampType => "VARCHAR",
            MetadataKey::Partition => "INT or BIGINT",
            MetadataKey::Offset => "BIGINT",
            MetadataKey::Timestamp => "TIMESTAMP",
            MetadataKey::Key | MetadataKey::Value => "VARCHAR or BINARY",
            MetadataKey::Headers => {
                "MAP<VARCHAR, VARCHAR> or ARRAY<STRUCT<key VARCHAR, value BINARY>>"
            }
        }
    }
}
