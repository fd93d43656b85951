//! Windows of state by slice: the state has a row per slice, and the emitted windows are merged from their slices.

use std::ops::Range;

use anabranch_udfs::{IncrementalAggregate, MergedRows, Slices};
use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use datafusion::common::HashSet;
use datafusion::error::Result;

use crate::state::index::RowPlace;
use crate::state::step::StepRule;
use crate::state::table::StateTable;

/// The slices that a batch has touched.
pub(super) struct TouchedSlices<'a> {
    /// Their places in the state.
    pub(super) places: &'a [RowPlace],
    /// Their rows before the batch.
    pub(super) kept: &'a RecordBatch,
    /// Their rows after it.
    pub(super) merged: &'a MergedRows,
}

/// The windows that are emitted, and the rows that the windows of touched slices gave before.
pub(super) fn emit_windows(
    table: &StateTable,
    aggregate: &IncrementalAggregate,
    slices: &Slices,
    touched: &TouchedSlices,
    rule: StepRule,
) -> Result<(RecordBatch, RecordBatch)> {
    let schema = aggregate.state_schema();
    let MergedRows {
        rows, is_touched, ..
    } = touched.merged;
    let closing = slices.ended(rule.closed_before, rule.closed_by);
    let says_closed = !rule.changes || aggregate.uses_is_final();
    let with_closing = says_closed && !closing.is_empty();
    if !rule.changes && !with_closing {
        let nothing = RecordBatch::new_empty(aggregate.output().clone());
        return Ok((nothing.clone(), nothing));
    }
    let mut seen: HashSet<RowPlace> = touched.places.iter().copied().collect();
    let mut others: Vec<RowPlace> = Vec::new();
    let is_touched = BooleanArray::from(is_touched.clone());
    if rule.changes {
        let new = filter_record_batch(rows, &is_touched)?;
        for keys in aggregate.slices_of_windows(&new)? {
            let places = table.places_of(&[keys?])?;
            others.extend(places.into_iter().filter(|place| seen.insert(*place)));
        }
    }
    let of_touched = others.len();
    if with_closing {
        // `last` is the last slice of the last window that closes. Slices after it, which are final later, are in none of the
        // closing windows.
        let last = closing.end.saturating_sub(2);
        let until = slices
            .last_window(last)
            .and_then(|window| slices.start(window));
        let due = table.done_by(until.unwrap_or(i64::MAX));
        others.extend(due.into_iter().filter(|place| seen.insert(*place)));
    }
    let others = table.gather(&others)?;

    let all = concat_batches(schema, [rows, &others])?;
    let mut asked = aggregate.windows_of(&all)?;
    for (row, windows) in asked.iter_mut().enumerate() {
        let is_said = rule.changes && row < rows.num_rows() && is_touched.value(row);
        *windows = match (is_said, with_closing) {
            (true, _) => from(windows, closing.start),
            (false, true) => windows.start.max(closing.start)..windows.end.min(closing.end),
            (false, false) => 0..0,
        };
    }
    let emitted = aggregate.evaluate_windows(&all, all.num_rows(), &asked, closing.end)?;

    if !rule.changes || !rule.withdraws {
        let before = RecordBatch::new_empty(emitted.schema());
        return Ok((emitted, before));
    }
    let new = filter_record_batch(rows, &is_touched)?;
    let held = concat_batches(schema, [touched.kept, &others.slice(0, of_touched)])?;
    let mut asked = vec![0..0; held.num_rows()];
    let windows = aggregate.windows_of(&new)?;
    asked.extend(windows.iter().map(|windows| from(windows, closing.start)));
    let all = concat_batches(schema, [&held, &new])?;
    let before = aggregate.evaluate_windows(&all, held.num_rows(), &asked, i64::MIN)?;
    Ok((emitted, before))
}

/// The windows that were not closed before.
fn from(windows: &Range<i64>, first: i64) -> Range<i64> {
    windows.start.max(first)..windows.end
}
