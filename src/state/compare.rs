//! Comparison of keys of new rows with keys in the chunks of the state, without copying either.

use datafusion::arrow::array::{DynComparator, RecordBatch, make_comparator};
use datafusion::arrow::compute::SortOptions;
use datafusion::error::Result;

use crate::state::index::RowPlace;

/// Compares keys of one batch with those in chunks of the state. NULL is a key like any other.
pub(super) struct Comparators {
    /// By chunk, per key column.
    of_chunk: Vec<Vec<DynComparator>>,
}

impl Comparators {
    /// Compares the first `keys` columns of `rows` with those of each chunk; places in a missing chunk must not be asked for.
    ///
    /// # Errors
    ///
    /// Keys of a type that cannot be compared.
    pub(super) fn try_new<'a>(
        rows: &RecordBatch,
        chunks: impl Iterator<Item = Option<&'a RecordBatch>>,
        keys: usize,
    ) -> Result<Self> {
        let with = |chunk: &RecordBatch| {
            let columns = rows.columns().iter().zip(chunk.columns()).take(keys);
            columns
                .map(|(left, right)| Ok(make_comparator(left, right, SortOptions::default())?))
                .collect::<Result<Vec<_>>>()
        };
        let of_chunk = chunks
            .map(|chunk| chunk.map_or_else(|| Ok(Vec::new()), &with))
            .collect::<Result<_>>()?;
        Ok(Self { of_chunk })
    }

    pub(super) fn is_same(&self, row: usize, place: RowPlace) -> bool {
        let compare = &self.of_chunk[place.chunk as usize];
        compare
            .iter()
            .all(|column| column(row, place.row as usize).is_eq())
    }
}
