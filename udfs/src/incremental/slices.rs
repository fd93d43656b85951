//! State rows by slice: which windows they count for, and which other slices share these windows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_arrays;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};

use super::aggregate::IncrementalAggregate;
use super::shape::StateShape;
use crate::diagnostic::out_of_range;
use crate::session::aggregate::new_keys;
use crate::window::{Slices, ticks, timestamps};

/// The number of rows whose keys are looked up at once.
const LOOKED_UP: usize = 8_192;

impl IncrementalAggregate {
    /// The slices of its state rows; `None` if its state is not by slice.
    pub fn slices(&self) -> Option<&Slices> {
        match &self.shape {
            StateShape::Slices { slices, .. } => Some(slices),
            _ => None,
        }
    }

    /// For each state row the windows for which it counts, by their numbers; empty for rows that are not by slice.
    ///
    /// # Errors
    ///
    /// Times that are in no window.
    pub fn windows_of(&self, states: &RecordBatch) -> Result<Vec<Range<i64>>> {
        let Some(slices) = self.slices() else {
            return Ok(vec![]);
        };
        let keys = self.shape.keys().len();
        let number = |tick: &i64| slices.number(*tick).ok_or_else(no_such_window);
        let firsts = ticks(states.column(keys + 2))?;
        let lasts = ticks(states.column(keys + 3))?;
        let windows = firsts.iter().zip(lasts.iter());
        windows
            .map(|(first, last)| Ok(number(first)?..number(last)?.saturating_add(1)))
            .collect()
    }

    /// The keys, in the key columns of the state, of all slices of all windows for which one of these state rows counts.
    ///
    /// # Errors
    ///
    /// Times that are in no window.
    pub fn slices_of_windows(
        &self,
        states: &RecordBatch,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let mut runs = Vec::new();
        if let Some(slices) = self.slices() {
            let keys = self.key_numbers(states)?;
            let windows = self.windows_of(states)?;
            for (row, (key, windows)) in (0_u32..).zip(keys.into_iter().zip(windows)) {
                let first = slices.first_slice(windows.start);
                let first = first.ok_or_else(no_such_window)?;
                runs.push((key, first..windows.end.saturating_sub(1), row));
            }
        }
        let looked_up = apart(runs)
            .into_iter()
            .flat_map(|(_, slices, row)| slices.map(move |slice| (row, slice)));
        let width = self.key_columns();
        let schema = Arc::new(self.state_schema.project(&(0..width).collect::<Vec<_>>())?);
        let columns = states.columns()[..width].to_vec();
        let slices = self.slices().copied();
        let mut looked_up = looked_up.peekable();
        Ok(std::iter::from_fn(move || {
            looked_up.peek()?;
            let (rows, numbers): (Vec<u32>, Vec<i64>) = looked_up.by_ref().take(LOOKED_UP).unzip();
            Some(keys_of(&schema, &columns, slices?, rows, &numbers))
        }))
    }

    /// A number for each row's key, without its slice: equal keys have equal numbers, from 0 on.
    pub(super) fn key_numbers(&self, states: &RecordBatch) -> Result<Vec<usize>> {
        let width = self.shape.keys().len();
        let schema = self.state_schema.project(&(0..width).collect::<Vec<_>>())?;
        let Some(mut keys) = new_keys(&Arc::new(schema))? else {
            return Ok(vec![0; states.num_rows()]);
        };
        let mut numbers = Vec::with_capacity(states.num_rows());
        if states.num_rows() > 0 {
            keys.intern(&states.columns()[..width], &mut numbers)?;
        }
        Ok(numbers)
    }
}

/// Merges runs of one key that overlap or touch; the result is sorted by key and time. A run keeps the row of its first part.
pub(super) fn apart(mut runs: Vec<(usize, Range<i64>, u32)>) -> Vec<(usize, Range<i64>, u32)> {
    runs.retain(|(_, run, _)| !run.is_empty());
    runs.sort_unstable_by_key(|(key, run, row)| (*key, run.start, *row));
    runs.dedup_by(|(key, run, _), (of, before, _)| {
        let joins = *key == *of && run.start <= before.end;
        if joins {
            before.end = before.end.max(run.end);
        }
        joins
    });
    runs
}

/// The end of each slice, and that of the last window that has it.
pub(super) fn slice_ends(slices: &Slices, starts: &ArrayRef) -> Result<(ArrayRef, ArrayRef)> {
    let (mut ends, mut lasts) = (Vec::new(), Vec::new());
    for start in ticks(starts)?.iter() {
        let last = slices
            .number(*start)
            .and_then(|slice| slices.last_window(slice))
            .and_then(|last| slices.start(last));
        ends.push(start.saturating_add(slices.width()));
        lasts.push(last.ok_or_else(no_such_window)?);
    }
    let column = |ticks: Vec<i64>| timestamps(ScalarBuffer::from(ticks), starts.data_type());
    Ok((column(ends)?, column(lasts)?))
}

/// The keys of `rows`, each with the start of a slice.
fn keys_of(
    schema: &SchemaRef,
    columns: &[ArrayRef],
    slices: Slices,
    rows: Vec<u32>,
    numbers: &[i64],
) -> Result<RecordBatch> {
    let Some((starts, keys)) = columns.split_last() else {
        return Err(exec_datafusion_err!("a slice has a start"));
    };
    let numbers = numbers.iter();
    let ticks = numbers.map(|slice| slices.start(*slice).unwrap_or(i64::MIN));
    let ticks: Vec<i64> = ticks.collect();
    let mut columns = take_arrays(keys, &UInt32Array::from(rows), None)?;
    columns.push(timestamps(ScalarBuffer::from(ticks), starts.data_type())?);
    Ok(RecordBatch::try_new(Arc::<Schema>::clone(schema), columns)?)
}

pub(super) fn no_such_window() -> DataFusionError {
    out_of_range("the window")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn merged_runs_cover_the_same_slices_once(
            runs in prop::collection::vec((0..3_usize, -20..20_i64, 0..9_i64), 0..30),
        ) {
            let mut all: Vec<(usize, i64)> = runs
                .iter()
                .flat_map(|(key, start, length)| (*start..start + length).map(|at| (*key, at)))
                .collect();
            all.sort_unstable();
            all.dedup();
            let runs: Vec<_> = (0_u32..)
                .zip(&runs)
                .map(|(row, (key, start, length))| (*key, *start..start + length, row))
                .collect();
            let found = apart(runs.clone());
            for (key, run, row) in &found {
                prop_assert_eq!((runs[*row as usize].0, runs[*row as usize].1.start), (*key, run.start));
            }
            let found: Vec<(usize, i64)> = found
                .into_iter()
                .flat_map(|(key, run, _)| run.map(move |at| (key, at)))
                .collect();
            prop_assert_eq!(found, all);
        }
    }
}
