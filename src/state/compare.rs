//! Keys of some rows compared with keys of the state, where both lie.

use datafusion::arrow::array::{DynComparator, RecordBatch, make_comparator};
use datafusion::arrow::compute::SortOptions;
use datafusion::error::Result;

use crate::state::index::Place;

/// Compares keys of one batch with those in chunks of the state. NULL is a key like others.
pub(super) struct Comparators {
    /// By chunk, per key column.
    of_chunk: Vec<Vec<DynComparator>>,
}

impl Comparators {
    /// For the first `keys` columns of `rows` and of each chunk; where there is no chunk, no place is asked for.
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

    pub(super) fn is_same(&self, row: usize, place: Place) -> bool {
        let compare = &self.of_chunk[place.chunk as usize];
        compare
            .iter()
            .all(|column| column(row, place.row as usize).is_eq())
    }
}
