//! The rows of a run against the rows that are published, by key: same, changed, new, gone, unknown.

pub mod changes;
mod equality;
#[cfg(test)]
mod laws;
pub mod tolerance;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, Rows, SortField};

use super::spec::EmitRows;
use crate::core::jobs::run_event::ChangeCounts;
use equality::same_values;
use tolerance::FloatTolerance;

/// How a computed row relates to the published rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is published with the same values.
    Same,
    /// It is published with other values.
    Changed,
    /// No row of its key is published.
    New,
    /// The sink may have lost the published row of its key: it no longer has all records from where this row belongs.
    Unknown,
}

/// A computed row and the published row of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComparedRow {
    /// Its place among the computed rows.
    pub computed: u64,
    /// How it relates to the published rows.
    pub kind: ChangeKind,
    /// The place of the published row of its key, if there is one.
    pub published: Option<u64>,
}

/// Computed and published rows by key. Of several rows with one key the last one counts, as in a compacted topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The computed rows, in the order of their keys.
    pub rows: Vec<ComparedRow>,
    /// The places of published rows whose key no computed row has, in the order of their keys.
    pub gone: Vec<u64>,
}

/// What a run writes.
#[derive(Debug, Clone, PartialEq)]
pub struct EmittedRows {
    /// The places of published rows for whose keys it writes tombstones, in the order of keys. They come first.
    pub withdrawn: UInt64Array,
    /// The places of computed rows that it writes, in the order of keys.
    pub rows: UInt64Array,
}

impl Comparison {
    /// The number of rows of each kind.
    pub fn counts(&self) -> ChangeCounts {
        let mut counts = ChangeCounts {
            gone: self.gone.len() as u64,
            ..ChangeCounts::default()
        };
        for row in &self.rows {
            match row.kind {
                ChangeKind::Same => counts.same += 1,
                ChangeKind::Changed => counts.changed += 1,
                ChangeKind::New => counts.new += 1,
                ChangeKind::Unknown => counts.unknown += 1,
            }
        }
        counts
    }

    /// The rows and tombstones that the run writes (RUN-5). It writes a row too if the sink may have lost the published row of that
    /// key: readers by key have then the same rows as if the run wrote all.
    pub fn emitted(&self, emit: EmitRows, withdraw: bool) -> EmittedRows {
        let is_written = |row: &&ComparedRow| match emit {
            EmitRows::All => true,
            EmitRows::Changed => row.kind != ChangeKind::Same,
        };
        let rows = self.rows.iter().filter(is_written);
        let gone = self.gone.iter().filter(|_| withdraw);
        EmittedRows {
            withdrawn: gone.copied().collect::<Vec<u64>>().into(),
            rows: rows.map(|row| row.computed).collect::<Vec<u64>>().into(),
        }
    }
}

/// Compares rows of one schema by the columns of their key.
#[derive(Debug)]
pub struct Difference {
    schema: SchemaRef,
    keys: Vec<usize>,
    values: Vec<usize>,
    converter: RowConverter,
    tolerance: FloatTolerance,
}

impl Difference {
    /// Rows of `schema` are of one key if they agree in the columns `keys`, and the same if they agree in the columns `values` as well.
    /// NULL agrees with NULL.
    ///
    /// # Errors
    ///
    /// A column that the schema does not have, or no key; a type of a key that Arrow cannot compare.
    pub fn try_new(
        schema: SchemaRef,
        keys: Vec<usize>,
        values: Vec<usize>,
        tolerance: FloatTolerance,
    ) -> Result<Self, ArrowError> {
        let is_column = |at: &usize| *at < schema.fields().len();
        if keys.is_empty() || !keys.iter().chain(&values).all(is_column) {
            return Err(ArrowError::SchemaError(format!(
                "columns {keys:?} are not a key of {} columns",
                schema.fields().len()
            )));
        }
        let fields = keys.iter().map(|at| schema.field(*at).data_type().clone());
        let converter = RowConverter::new(fields.map(SortField::new).collect())?;
        Ok(Self {
            schema,
            keys,
            values,
            converter,
            tolerance,
        })
    }

    /// The places of the rows that stay of a log of rows: the last one of each key, unless that is a tombstone. In the order of the log.
    ///
    /// # Errors
    ///
    /// Rows of another schema, or not as many as there are marks.
    pub fn last_rows(
        &self,
        rows: &RecordBatch,
        is_tombstone: &BooleanArray,
    ) -> Result<UInt64Array, ArrowError> {
        let keys = self.keys_of(rows)?;
        check_marks(rows, is_tombstone)?;
        let mut places: Vec<u64> = last_by_key(&keys)
            .into_values()
            .filter(|at| !(is_tombstone.is_valid(*at) && is_tombstone.value(*at)))
            .map(|at| at as u64)
            .collect();
        places.sort_unstable();
        Ok(places.into())
    }

    /// Compares `computed` rows with the `published` ones, of which there are no tombstones. `is_readable` says of each computed row
    /// whether the sink still has all that was published where it belongs.
    ///
    /// # Errors
    ///
    /// Rows of another schema, or not as many as there are marks; a type that Arrow cannot compare.
    pub fn compare(
        &self,
        published: &RecordBatch,
        computed: &RecordBatch,
        is_readable: &BooleanArray,
    ) -> Result<Comparison, ArrowError> {
        check_marks(computed, is_readable)?;
        let (published_keys, computed_keys) = (self.keys_of(published)?, self.keys_of(computed)?);
        let published_by_key = last_by_key(&published_keys);
        let computed_by_key = last_by_key(&computed_keys);
        let mut last: Vec<(Row<'_>, usize)> = computed_by_key
            .iter()
            .map(|(key, at)| (*key, *at))
            .collect();
        last.sort_unstable();
        let pairs: Vec<(u64, u64)> = last
            .iter()
            .filter_map(|(key, at)| Some((*at as u64, *published_by_key.get(key)? as u64)))
            .collect();
        let same = self.same_pairs(published, computed, &pairs)?;
        // Pairs come in the order of the rows that have one.
        let mut pairs = pairs.into_iter().zip(same.iter()).peekable();
        let mut rows = Vec::with_capacity(last.len());
        for (_, at) in &last {
            let at = *at;
            let own = pairs.next_if(|((computed, _), _)| *computed == at as u64);
            let is_readable = is_readable.is_valid(at) && is_readable.value(at);
            rows.push(ComparedRow {
                computed: at as u64,
                kind: match own {
                    Some((_, true)) => ChangeKind::Same,
                    Some((_, false)) => ChangeKind::Changed,
                    None if is_readable => ChangeKind::New,
                    None => ChangeKind::Unknown,
                },
                published: own.map(|((_, published), _)| published),
            });
        }
        let mut gone: Vec<(Row<'_>, usize)> = published_by_key
            .into_iter()
            .filter(|(key, _)| !computed_by_key.contains_key(key))
            .collect();
        gone.sort_unstable();
        Ok(Comparison {
            rows,
            gone: gone.into_iter().map(|(_, at)| at as u64).collect(),
        })
    }

    /// Of each pair of a computed and a published row, whether their values are the same.
    fn same_pairs(
        &self,
        published: &RecordBatch,
        computed: &RecordBatch,
        pairs: &[(u64, u64)],
    ) -> Result<BooleanBuffer, ArrowError> {
        let (of_computed, of_published): (Vec<u64>, Vec<u64>) = pairs.iter().copied().unzip();
        let (of_computed, of_published) = (
            UInt64Array::from(of_computed),
            UInt64Array::from(of_published),
        );
        let all = BooleanBuffer::new_set(pairs.len());
        self.values.iter().try_fold(all, |all, column| {
            let computed = take(computed.column(*column), &of_computed, None)?;
            let published = take(published.column(*column), &of_published, None)?;
            Ok(&all & &same_values(&computed, &published, self.tolerance)?)
        })
    }

    fn keys_of(&self, rows: &RecordBatch) -> Result<Rows, ArrowError> {
        let types = |schema: &SchemaRef| -> Vec<_> {
            let fields = schema.fields().iter();
            fields.map(|field| field.data_type().clone()).collect()
        };
        if types(&rows.schema()) != types(&self.schema) {
            return Err(ArrowError::SchemaError(format!(
                "rows of {} were compared as rows of {}",
                rows.schema(),
                self.schema
            )));
        }
        let columns: Vec<ArrayRef> = self
            .keys
            .iter()
            .map(|at| Arc::clone(rows.column(*at)))
            .collect();
        self.converter.convert_columns(&columns)
    }
}

/// Refuses marks that are not of these rows.
fn check_marks(rows: &RecordBatch, marks: &BooleanArray) -> Result<(), ArrowError> {
    match rows.num_rows() == marks.len() {
        true => Ok(()),
        false => Err(ArrowError::InvalidArgumentError(format!(
            "{} marks of {} rows",
            marks.len(),
            rows.num_rows()
        ))),
    }
}

/// The place of the last row of each key.
fn last_by_key(keys: &Rows) -> HashMap<Row<'_>, usize> {
    keys.iter().zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("v", DataType::Float64, true),
        ]))
    }

    fn rows(of: &[(Option<&str>, f64)]) -> RecordBatch {
        let keys: Vec<Option<&str>> = of.iter().map(|(key, _)| *key).collect();
        let values: Vec<f64> = of.iter().map(|(_, value)| *value).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(keys)),
            Arc::new(Float64Array::from(values)),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn by_key() -> Difference {
        Difference::try_new(schema(), vec![0], vec![1], FloatTolerance::default()).unwrap()
    }

    #[test]
    fn rows_are_told_apart_by_key() {
        let published = rows(&[
            (Some("b"), 0.3),
            (Some("c"), 1.0),
            (None, 5.0),
            (Some("z"), 1.0),
            (Some("b"), 2.0),
        ]);
        let computed = rows(&[
            (Some("d"), 4.0),
            (Some("c"), 1.5),
            (Some("b"), 2.0 + 1e-13),
            (None, 5.0),
            (Some("e"), 4.0),
        ]);
        let is_readable = BooleanArray::from(vec![true, true, true, true, false]);
        let found = by_key()
            .compare(&published, &computed, &is_readable)
            .unwrap();
        let row = |computed, kind, published| ComparedRow {
            computed,
            kind,
            published,
        };
        assert_eq!(
            found.rows,
            [
                row(3, ChangeKind::Same, Some(2)),
                row(2, ChangeKind::Same, Some(4)),
                row(1, ChangeKind::Changed, Some(1)),
                row(0, ChangeKind::New, None),
                row(4, ChangeKind::Unknown, None),
            ]
        );
        assert_eq!(found.gone, [3]);
        let changed = found.emitted(EmitRows::Changed, true);
        assert_eq!(changed.rows, UInt64Array::from(vec![1, 0, 4]));
        assert_eq!(changed.withdrawn, UInt64Array::from(vec![3]));
        let all = found.emitted(EmitRows::All, false);
        assert_eq!(all.rows, UInt64Array::from(vec![3, 2, 1, 0, 4]));
        assert_eq!(all.withdrawn.len(), 0);
    }

    #[test]
    fn tombstones_remove_what_was_published() {
        let log = rows(&[
            (Some("a"), 1.0),
            (Some("b"), 1.0),
            (Some("a"), 2.0),
            (Some("b"), 0.0),
            (Some("c"), 0.0),
            (Some("c"), 3.0),
        ]);
        let is_tombstone = BooleanArray::from(vec![false, false, false, true, true, false]);
        let found = by_key().last_rows(&log, &is_tombstone).unwrap();
        assert_eq!(found, UInt64Array::from(vec![2, 5]));
    }

    #[test]
    fn rows_of_another_schema_are_refused() {
        let other = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let none = BooleanArray::from(Vec::<bool>::new());
        assert!(by_key().compare(&other, &other, &none).is_err());
        for (keys, values) in [(vec![], vec![1]), (vec![2], vec![1]), (vec![0], vec![7])] {
            let tolerance = FloatTolerance::default();
            assert!(Difference::try_new(schema(), keys, values, tolerance).is_err());
        }
    }
}
