//! The rows of an archive that are records of the table's topic: an archive with a column of the topic may have those of others too.

use std::collections::HashMap;

use datafusion::arrow::array::{AsArray as _, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, ident, lit};

use crate::error::Result;
use crate::tables::archive::mapped_column::MappedColumn;
use crate::tables::delta::{FileBounds, TextShare, files_with};

/// Rows of one topic, by the archive's column of the topic. A row that names none is of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicRows {
    pub(super) column: MappedColumn,
    pub(super) topic: String,
}

/// What the log says of the rows of files.
pub(super) struct TopicFiles(Option<HashMap<String, TextShare>>);

impl TopicRows {
    /// The rows alone, without those of other topics; `column` is the place of the topic among their columns.
    ///
    /// # Errors
    ///
    /// Topics that are no texts.
    pub(super) fn of(&self, rows: &RecordBatch, column: usize) -> Result<RecordBatch> {
        let topics = cast(rows.column(column), &DataType::Utf8).map_err(DataFusionError::from)?;
        let topics: &StringArray = topics.as_string::<i32>();
        let is_own = topics
            .iter()
            .map(|topic| Some(topic.is_none_or(|topic| topic == self.topic)));
        let is_own: BooleanArray = is_own.collect();
        Ok(filter_record_batch(rows, &is_own).map_err(DataFusionError::from)?)
    }

    /// That a row is one of these; `may_be_null` says whether the column may have NULL.
    ///
    /// # Errors
    ///
    /// Returns no error of its own: the column has texts.
    pub(super) fn predicate(&self, may_be_null: bool) -> DataFusionResult<Expr> {
        let column = ident(&self.column.name);
        // Text is compared with text of the same layout.
        let topic = ScalarValue::from(self.topic.as_str()).cast_to(&self.column.data_type)?;
        let is_own = column.clone().eq(lit(topic));
        Ok(match may_be_null {
            true => is_own.or(column.is_null()),
            false => is_own,
        })
    }
}

impl TopicFiles {
    /// Of the files of `delta`; all are of the topic without a column that says it.
    ///
    /// # Errors
    ///
    /// A log that cannot be read.
    pub(super) fn new(delta: &dyn TableProvider, topic: Option<&TopicRows>) -> Result<Self> {
        let files = topic.map(|of| files_with(delta, &of.column.name, &of.topic));
        Ok(Self(files.transpose()?))
    }

    /// How many of its rows are of the topic.
    pub(super) fn share(&self, file: &FileBounds) -> TextShare {
        match &self.0 {
            None => TextShare::All,
            Some(files) => files.get(&file.path).copied().unwrap_or(TextShare::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_that_name_no_topic_are_of_this_one() {
        let topics: ArrayRef = Arc::new(StringViewArray::from(vec![
            Some("a"),
            Some("b"),
            None,
            Some("A"),
        ]));
        let offsets: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("o", offsets, false),
            ("topic", topics, true),
        ]);
        let rows = rows.unwrap();
        let column = MappedColumn::find(&rows.schema(), "topic").unwrap();
        let topic = TopicRows {
            column,
            topic: "a".to_owned(),
        };
        let own = topic.of(&rows, 1).unwrap();
        let offsets: Vec<i64> = own.column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(offsets, [1, 3]);
        let said = |may_be_null| topic.predicate(may_be_null).unwrap().to_string();
        assert!(said(true).contains("IS NULL"), "{}", said(true));
        assert!(said(false).contains("Utf8View(\"a\")"), "{}", said(false));
        assert!(!said(false).contains("IS NULL"), "{}", said(false));
    }
}
