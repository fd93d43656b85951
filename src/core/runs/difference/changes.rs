//! The rows of a run that differ from the published ones, as a plan keeps them and shows them.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray, StructArray, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::{ChangeKind, Comparison, Difference};
use crate::core::jobs::run_event::ChangeCounts;

/// The column of how a row differs: `changed`, `new`, `unknown` or `gone`.
pub const KIND: &str = "kind";
/// The column of the published row; NULL where none is.
pub const BEFORE: &str = "before";
/// The column of the computed row; NULL where it is gone.
pub const AFTER: &str = "after";

/// Where the schema of a file of changes has the columns of the key: their places in the rows, with commas between.
pub const KEYS: &str = "anabranch.keys";
/// Where it has the column of the window's start: its place in the rows.
pub const START: &str = "anabranch.start";
/// Where it has the column of the window's end: its place in the rows.
pub const END: &str = "anabranch.end";

impl ChangeKind {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Changed => "changed",
            Self::New => "new",
            Self::Unknown => "unknown",
        }
    }
}

/// The kind of rows that were published, and that are not computed any more.
const GONE: &str = "gone";

impl ChangeCounts {
    /// The kinds of rows that differ, each with its count.
    pub fn differing(self) -> [(&'static str, u64); 4] {
        [
            (ChangeKind::Changed.name(), self.changed),
            (ChangeKind::New.name(), self.new),
            (GONE, self.gone),
            (ChangeKind::Unknown.name(), self.unknown),
        ]
    }
}

impl Difference {
    /// The columns of [`Self::changes`]: [`KIND`], then [`BEFORE`] and [`AFTER`] as structs of the columns of the rows.
    pub fn changes_schema(&self) -> SchemaRef {
        let row = DataType::Struct(self.row_fields());
        Arc::new(Schema::new(vec![
            Field::new(KIND, DataType::Utf8, false),
            Field::new(BEFORE, row.clone(), true),
            Field::new(AFTER, row, true),
        ]))
    }

    /// The rows that are not the same: those that were computed in the order of their keys, then those that are gone.
    ///
    /// # Errors
    ///
    /// The comparison is not one of these rows.
    pub fn changes(
        &self,
        comparison: &Comparison,
        published: &RecordBatch,
        computed: &RecordBatch,
    ) -> Result<RecordBatch, ArrowError> {
        let differ = comparison.rows.iter();
        let differ = differ.filter(|row| row.kind != ChangeKind::Same);
        let computed_rows = differ.map(|row| (row.kind.name(), row.published, Some(row.computed)));
        let gone = comparison.gone.iter().map(|at| (GONE, Some(*at), None));
        let mut kinds = Vec::new();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (kind, of_published, of_computed) in computed_rows.chain(gone) {
            kinds.push(kind);
            before.push(of_published);
            after.push(of_computed);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(kinds)),
            self.rows_at(published, before)?,
            self.rows_at(computed, after)?,
        ];
        RecordBatch::try_new(self.changes_schema(), columns)
    }

    /// The rows at these places; NULL where there is no place.
    fn rows_at(&self, rows: &RecordBatch, at: Vec<Option<u64>>) -> Result<ArrayRef, ArrowError> {
        let at = UInt64Array::from(at);
        let columns: Result<Vec<ArrayRef>, ArrowError> = rows
            .columns()
            .iter()
            .map(|column| take(column, &at, None))
            .collect();
        let rows = StructArray::try_new(self.row_fields(), columns?, at.nulls().cloned())?;
        Ok(Arc::new(rows))
    }

    /// The fields of a row, all of which may be NULL: a published row is what readers got.
    fn row_fields(&self) -> Fields {
        let fields = self.schema.fields().iter();
        fields
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, BooleanArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::core::runs::difference::tolerance::FloatTolerance;

    fn rows(of: &[(i64, i64)]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("k", DataType::Int64, false),
            Field::new("v", DataType::Int64, false),
        ]);
        let keys: Int64Array = of.iter().map(|(key, _)| Some(*key)).collect();
        let values: Int64Array = of.iter().map(|(_, value)| Some(*value)).collect();
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys), Arc::new(values)]).unwrap()
    }

    #[test]
    fn what_differs_has_both_rows() {
        let (published, computed) = (
            rows(&[(1, 10), (2, 20), (9, 90)]),
            rows(&[(3, 30), (2, 21), (1, 10)]),
        );
        let tolerance = FloatTolerance::default();
        let by_key = Difference::try_new(computed.schema(), vec![0], vec![1], tolerance).unwrap();
        let is_readable = BooleanArray::from(vec![true; 3]);
        let found = by_key.compare(&published, &computed, &is_readable).unwrap();
        let changes = by_key.changes(&found, &published, &computed).unwrap();
        let kinds: Vec<_> = changes
            .column(0)
            .as_string::<i32>()
            .iter()
            .flatten()
            .collect();
        assert_eq!(kinds, ["changed", "new", "gone"]);
        let of = |column: usize| -> Vec<Option<i64>> {
            let row = changes.column(column).as_struct();
            let values = row.column(1).as_primitive::<Int64Type>();
            let at = |at: usize| row.is_valid(at).then(|| values.value(at));
            (0..row.len()).map(at).collect()
        };
        assert_eq!(of(1), [Some(20), None, Some(90)]);
        assert_eq!(of(2), [Some(21), Some(30), None]);
        // Nothing differs from itself.
        let found = by_key.compare(&computed, &computed, &is_readable).unwrap();
        let none = by_key.changes(&found, &computed, &computed).unwrap();
        assert_eq!(
            (none.num_rows(), none.schema()),
            (0, by_key.changes_schema())
        );
    }
}
