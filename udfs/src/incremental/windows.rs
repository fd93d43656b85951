//! Results of windows whose state is kept by slice: it merges the slices of each window.
//!
//! A window has many slices, and a slice is in many windows. If few windows are requested, each merges the rows of its slices.
//! If that would read rows too often, rows are first merged two by two, four by four, and so on; a window then needs few of
//! these blocks, as in a segment tree.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{filter_record_batch, take_arrays};
use datafusion::common::{Result, internal_err};

use super::aggregate::IncrementalAggregate;
use super::shape::StateShape;
use super::slices::{apart, no_such_window};
use crate::session::SessionColumn;
use crate::session::aggregate::Accumulators;
use crate::window::{ticks, timestamps};

/// The average number of windows per row from which on blocks are built.
const READ_OFTEN: usize = 8;
/// The number of rows that are merged at once.
const TAKEN: usize = 65_536;

/// Requested windows: consecutive ones of one key.
struct WindowRun {
    key: usize,
    windows: Range<i64>,
    /// The index of the first window among all.
    first: usize,
    /// A row of the key.
    row: u32,
}

/// The requested windows, and the results so far.
struct RequestedWindows<'a> {
    aggregate: &'a IncrementalAggregate,
    runs: Vec<WindowRun>,
    count: usize,
    accumulators: Accumulators,
    has_rows: Vec<bool>,
}

/// State columns of blocks of slices: a row per key and block, in this order.
struct SliceBlocks {
    places: Vec<(usize, i64)>,
    states: Vec<ArrayRef>,
}

impl IncrementalAggregate {
    /// The results of windows, one row each. `states` are state rows by slice, of which those before `counted` count; `asked`
    /// has for each, whether it counts or not, the windows of its key that are requested. A window is final if its number is
    /// below `final_before`. Windows without rows give no result.
    ///
    /// # Errors
    ///
    /// States that are not by slice, or do not merge.
    pub fn evaluate_windows(
        &self,
        states: &RecordBatch,
        counted: usize,
        asked: &[Range<i64>],
        final_before: i64,
    ) -> Result<RecordBatch> {
        self.windows_given(states, counted, asked, final_before, READ_OFTEN)
    }

    /// The results of groups that are still open when everything up to `closed_by` is closed: for slices of their windows,
    /// otherwise of each row.
    ///
    /// # Errors
    ///
    /// States that do not merge.
    pub fn evaluate_open(
        &self,
        states: &RecordBatch,
        closed_by: Option<i64>,
    ) -> Result<RecordBatch> {
        let Some(slices) = self.slices() else {
            return self.evaluate(states, &vec![false; states.num_rows()].into());
        };
        let open = slices.ended(None, closed_by).end;
        let mut asked = self.windows_of(states)?;
        for windows in &mut asked {
            windows.start = windows.start.max(open);
        }
        self.evaluate_windows(states, states.num_rows(), &asked, i64::MIN)
    }

    fn windows_given(
        &self,
        states: &RecordBatch,
        counted: usize,
        asked: &[Range<i64>],
        final_before: i64,
        read_often: usize,
    ) -> Result<RecordBatch> {
        let keys = self.key_numbers(states)?;
        let mut asked = RequestedWindows::try_new(self, &keys, asked)?;
        let states_counted = states.slice(0, counted);
        let windows = self.windows_of(&states_counted)?;
        let rows: Vec<(usize, Range<i64>)> = keys.into_iter().zip(windows).collect();
        let reads: usize = rows.iter().map(|row| asked.reads(row)).sum();
        if reads <= read_often.saturating_mul(rows.len() + asked.count) {
            asked.take_rows(&states_counted, &rows, |_| true)?;
        } else {
            // A row that is late for some windows of its slice does not enter a block.
            let is_whole = self.whole_rows(&states_counted)?;
            asked.take_rows(&states_counted, &rows, |row| !is_whole[row])?;
            asked.take_blocks(self.blocks(&states_counted, &rows, &is_whole)?)?;
        }
        asked.results(states, final_before)
    }

    /// Which rows count for all windows of their slice.
    fn whole_rows(&self, states: &RecordBatch) -> Result<Vec<bool>> {
        let keys = self.shape.keys().len();
        let ends = ticks(states.column(keys + 1))?;
        let firsts = ticks(states.column(keys + 2))?;
        // The first window of a slice ends with it.
        let is_whole = ends.iter().zip(firsts.iter());
        Ok(is_whole.map(|(end, first)| first == end).collect())
    }

    /// Builds the blocks of one slice each.
    fn blocks(
        &self,
        states: &RecordBatch,
        rows: &[(usize, Range<i64>)],
        is_whole: &[bool],
    ) -> Result<SliceBlocks> {
        let mut in_order: Vec<(usize, i64, u32)> = (0_u32..)
            .zip(rows)
            .filter(|(row, _)| is_whole[*row as usize])
            // The slice is the one before its first window's number.
            .map(|(row, (key, windows))| (*key, windows.start - 1, row))
            .collect();
        in_order.sort_unstable();
        let order = UInt32Array::from_iter_values(in_order.iter().map(|(_, _, row)| *row));
        let columns = &states.columns()[self.shape.columns_before_states()..];
        Ok(SliceBlocks {
            places: in_order
                .into_iter()
                .map(|(key, slice, _)| (key, slice))
                .collect(),
            states: take_arrays(columns, &order, None)?,
        })
    }
}

impl<'a> RequestedWindows<'a> {
    fn try_new(
        aggregate: &'a IncrementalAggregate,
        keys: &[usize],
        asked: &[Range<i64>],
    ) -> Result<Self> {
        let rows = (0_u32..).zip(keys.iter().zip(asked));
        let runs = rows.map(|(row, (key, windows))| (*key, windows.clone(), row));
        let mut count: usize = 0;
        let runs = apart(runs.collect())
            .into_iter()
            .map(|(key, windows, row)| {
                let first = count;
                count += usize::try_from(windows.end - windows.start).unwrap_or(usize::MAX);
                WindowRun {
                    key,
                    windows,
                    first,
                    row,
                }
            })
            .collect();
        Ok(Self {
            accumulators: Accumulators::try_new(&aggregate.aggregates)?,
            has_rows: vec![false; count],
            aggregate,
            runs,
            count,
        })
    }

    /// The indices of the windows for which a row of this key and these windows counts.
    fn places(
        &self,
        (key, windows): &(usize, Range<i64>),
    ) -> impl Iterator<Item = Range<usize>> + use<'_, 'a> {
        let (key, windows) = (*key, windows.clone());
        let from = self
            .runs
            .partition_point(|run| (run.key, run.windows.end) <= (key, windows.start));
        let runs = self.runs[from..].iter();
        runs.take_while(move |run| run.key == key && run.windows.start < windows.end)
            .map(move |run| {
                let place = |window: i64| {
                    run.first + usize::try_from(window - run.windows.start).unwrap_or(0)
                };
                place(windows.start.max(run.windows.start))..place(windows.end.min(run.windows.end))
            })
    }

    /// The number of times that a row would be read.
    fn reads(&self, row: &(usize, Range<i64>)) -> usize {
        self.places(row).map(|places| places.len()).sum()
    }

    /// Merges rows, each into all its windows.
    fn take_rows(
        &mut self,
        states: &RecordBatch,
        rows: &[(usize, Range<i64>)],
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let before_states = self.aggregate.shape.columns_before_states();
        let states = &states.columns()[before_states..];
        let (mut taken, mut groups) = (Vec::new(), Vec::new());
        for (number, row) in (0_u32..).zip(rows) {
            if !is_wanted(number as usize) {
                continue;
            }
            for places in self.places(row) {
                taken.extend(places.clone().map(|_| number));
                groups.extend(places);
            }
            if taken.len() >= TAKEN {
                self.merge(states, std::mem::take(&mut taken), &groups)?;
                groups.clear();
            }
        }
        self.merge(states, taken, &groups)
    }

    /// Merges blocks: into each window those that it consists of.
    fn take_blocks(&mut self, mut blocks: SliceBlocks) -> Result<()> {
        let Some(slices) = self.aggregate.slices().copied() else {
            return internal_err!("blocks are made of slices");
        };
        // The remaining slices of each window, in blocks.
        let mut left: Vec<(usize, usize, Range<i64>)> = Vec::with_capacity(self.count);
        for run in &self.runs {
            for (place, window) in (run.first..).zip(run.windows.clone()) {
                let first = slices.first_slice(window).ok_or_else(no_such_window)?;
                left.push((run.key, place, first..window));
            }
        }
        while !left.is_empty() && !blocks.places.is_empty() {
            let (mut taken, mut groups) = (Vec::new(), Vec::new());
            for (key, place, range) in &mut left {
                let mut take = |block: i64| {
                    if let Ok(row) = blocks.places.binary_search(&(*key, block)) {
                        taken.push(u32::try_from(row).unwrap_or(u32::MAX));
                        groups.push(*place);
                    }
                };
                // A block that is the second half of a larger one, or the first half of one that is only partly needed.
                if range.start & 1 == 1 {
                    take(range.start);
                    range.start += 1;
                }
                if range.end & 1 == 1 {
                    range.end -= 1;
                    take(range.end);
                }
                *range = range.start >> 1..range.end >> 1;
            }
            self.merge(&blocks.states, taken, &groups)?;
            left.retain(|(_, _, range)| !range.is_empty());
            if !left.is_empty() {
                blocks = self.doubled(&blocks)?;
            }
        }
        Ok(())
    }

    /// Builds the blocks of twice the size.
    fn doubled(&self, blocks: &SliceBlocks) -> Result<SliceBlocks> {
        let mut places: Vec<(usize, i64)> = Vec::with_capacity(blocks.places.len());
        let mut groups = Vec::with_capacity(blocks.places.len());
        for (key, block) in &blocks.places {
            let place = (*key, block >> 1);
            if places.last() != Some(&place) {
                places.push(place);
            }
            groups.push(places.len() - 1);
        }
        let mut accumulators = Accumulators::try_new(&self.aggregate.aggregates)?;
        accumulators.merge(&blocks.states, &groups, places.len())?;
        Ok(SliceBlocks {
            states: accumulators.states()?,
            places,
        })
    }

    /// Merges rows of `states` into windows: row `taken[i]` into the window at index `groups[i]`.
    fn merge(&mut self, states: &[ArrayRef], taken: Vec<u32>, groups: &[usize]) -> Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        for place in groups {
            self.has_rows[*place] = true;
        }
        let taken = take_arrays(states, &UInt32Array::from(taken), None)?;
        self.accumulators.merge(&taken, groups, self.count)
    }

    fn results(self, states: &RecordBatch, final_before: i64) -> Result<RecordBatch> {
        let aggregate = self.aggregate;
        if !self.has_rows.contains(&true) {
            return Ok(RecordBatch::new_empty(Arc::clone(aggregate.output())));
        }
        let (StateShape::Slices { slices, groups, .. }, keys) =
            (&aggregate.shape, aggregate.shape.keys().len())
        else {
            return internal_err!("windows are made of slices");
        };
        let mut rows = Vec::with_capacity(self.count);
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        let mut is_final = Vec::with_capacity(self.count);
        for run in &self.runs {
            for window in run.windows.clone() {
                let start = slices.first_slice(window);
                let start = start.and_then(|first| slices.start(first));
                starts.push(start.ok_or_else(no_such_window)?);
                ends.push(slices.start(window).ok_or_else(no_such_window)?);
                is_final.push(window < final_before);
                rows.push(run.row);
            }
        }
        let of_keys = take_arrays(&states.columns()[..keys], &UInt32Array::from(rows), None)?;
        let time = states.column(keys).data_type();
        let starts = timestamps(ScalarBuffer::from(starts), time)?;
        let ends = timestamps(ScalarBuffer::from(ends), time)?;
        let columns = groups.iter().map(|group| match group {
            SessionColumn::Key(key) => Arc::clone(&of_keys[*key]),
            SessionColumn::WindowStart => Arc::clone(&starts),
            SessionColumn::WindowEnd => Arc::clone(&ends),
        });
        let (columns, is_final) = (columns.collect(), BooleanArray::from(is_final));
        let results = aggregate.output_batch(columns, self.accumulators, &is_final)?;
        if self.has_rows.iter().all(|has_rows| *has_rows) {
            return Ok(results);
        }
        Ok(filter_record_batch(&results, &self.has_rows.into())?)
    }
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
