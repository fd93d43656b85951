//! A column of an archive, and the kinds of types that its columns have.

use datafusion::arrow::datatypes::{DataType, Schema, TimeUnit};

use crate::formats::sql_name;

/// A column of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedColumn {
    /// Its index in the archive's columns.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
}

impl MappedColumn {
    /// The column of this name; none if there is none.
    pub(super) fn find(schema: &Schema, name: &str) -> Option<Self> {
        let (index, field) = schema.column_with_name(name)?;
        Some(Self {
            index,
            name: name.to_owned(),
            data_type: field.data_type().clone(),
        })
    }

    /// Its type, as a user declares it.
    pub(super) fn sql_type(&self) -> String {
        sql_name(&self.data_type)
    }
}

/// A time, with or without a zone.
pub(super) fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _))
}

/// Text of any layout.
pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// Bytes of any layout.
pub(super) fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}
