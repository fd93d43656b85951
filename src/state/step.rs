//! Step of a batch over the state: the merged rows, the emitted and withdrawn rows, and the change to apply.

use anabranch_udfs::{IncrementalAggregate, MergedRows};
use datafusion::arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use datafusion::error::Result;

use crate::state::slices::{TouchedSlices, emit_windows};
use crate::state::table::{StateChange, StateTable};

/// How a batch emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRule {
    /// If true, a row for each group that the batch touched; otherwise each group once, when it is final.
    pub changes: bool,
    /// Whether the step also returns the rows that touched groups gave before, so that rows that no longer hold can be
    /// withdrawn.
    pub withdraws: bool,
    /// The watermark that closed windows before this batch. State by slice does not store which of its windows are closed.
    pub closed_before: Option<i64>,
    /// The watermark that closes windows; without windows, the time up to which keys that were not touched later are dropped.
    pub closed_by: Option<i64>,
}

/// Result of a step.
#[derive(Debug)]
pub struct StepResult {
    /// Rows of the aggregate's output.
    pub emitted: RecordBatch,
    /// Rows of the aggregate's output that touched groups gave before.
    pub before: RecordBatch,
    /// All state rows that the batch touched, as they are now, for the changelog.
    pub log: RecordBatch,
    /// To be applied when the batch is committed.
    pub change: StateChange,
    /// Rows of the state after the change.
    pub rows_after: usize,
}

/// Merges the batch's partial states, in the columns of the state, with the state.
///
/// # Errors
///
/// States that do not merge.
pub fn step(
    table: &StateTable,
    aggregate: &IncrementalAggregate,
    partials: &[RecordBatch],
    rule: StepRule,
) -> Result<StepResult> {
    let (touched, kept) = table.touched(partials)?;
    let closed_by = rule.closed_by.unwrap_or(i64::MIN);
    let kept = match aggregate.is_keyed() {
        true => remembered(aggregate, kept, closed_by)?,
        false => kept,
    };
    let merged = aggregate.merge(&kept, partials)?;
    let closes_at = aggregate.closes_at(&merged.rows)?;
    let is_done: Vec<bool> = closes_at.iter().map(|at| *at <= closed_by).collect();
    let (closing, closed) = table.closing(closed_by, &touched)?;
    let (emitted, before) = match aggregate.slices() {
        Some(slices) => {
            let batch = TouchedSlices {
                places: &touched,
                kept: &kept,
                merged: &merged,
            };
            emit_windows(table, aggregate, slices, &batch, rule)?
        }
        None => emit_rows(aggregate, &kept, &merged, &is_done, &closed, rule)?,
    };
    let open = rows_where(&is_done, |row| !is_done[row]);
    let added_closes_at = open
        .values()
        .iter()
        .map(|row| closes_at[*row as usize])
        .collect();
    let added = take_record_batch(&merged.rows, &open)?;
    let mut dead = touched;
    dead.extend(closing);
    Ok(StepResult {
        emitted,
        before,
        rows_after: table.len() - dead.len() + added.num_rows(),
        change: StateChange {
            dead,
            replaced: vec![merged.rows.clone()],
            closed,
            added: vec![(added, added_closes_at)],
        },
        log: merged.rows,
    })
}

/// The emitted rows and the rows that they replace, for state whose rows are rows of the output.
fn emit_rows(
    aggregate: &IncrementalAggregate,
    kept: &RecordBatch,
    merged: &MergedRows,
    is_done: &[bool],
    closed: &RecordBatch,
    rule: StepRule,
) -> Result<(RecordBatch, RecordBatch)> {
    let MergedRows {
        rows,
        is_touched,
        group_of_kept,
    } = merged;
    let schema = aggregate.state_schema();
    let (states, is_final) = if rule.changes {
        // Other sessions of a touched key are emitted only when they are final.
        let with_closed = aggregate.uses_is_final();
        let said = rows_where(is_done, |row| {
            is_touched[row] || (with_closed && is_done[row])
        });
        let also = if with_closed { closed.num_rows() } else { 0 };
        let done = said.values().iter().map(|row| is_done[*row as usize]);
        let is_final: Vec<bool> = done.chain(std::iter::repeat_n(true, also)).collect();
        let said = take_record_batch(rows, &said)?;
        let states = concat_batches(schema, [&said, &closed.slice(0, also)])?;
        (states, is_final)
    } else {
        let done = take_record_batch(rows, &rows_where(is_done, |row| is_done[row]))?;
        let states = concat_batches(schema, [&done, closed])?;
        let is_final = vec![true; states.num_rows()];
        (states, is_final)
    };
    let emitted = aggregate.evaluate(&states, &BooleanArray::from(is_final))?;
    if !rule.changes || !rule.withdraws {
        let before = RecordBatch::new_empty(emitted.schema());
        return Ok((emitted, before));
    }
    let of_touched: UInt32Array = (0_u32..)
        .zip(group_of_kept)
        .filter(|(_, group)| is_touched[**group])
        .map(|(row, _)| row)
        .collect();
    let before = take_record_batch(kept, &of_touched)?;
    let not_final = BooleanArray::from(vec![false; before.num_rows()]);
    Ok((emitted, aggregate.evaluate(&before, &not_final)?))
}

/// The numbers of the wanted rows among those of `all`.
fn rows_where(all: &[bool], is_wanted: impl Fn(usize) -> bool) -> UInt32Array {
    (0..all.len())
        .filter(|row| is_wanted(*row))
        .map(|row| u32::try_from(row).unwrap_or(u32::MAX))
        .collect()
}

/// The rows of keys that have not expired: expired keys start again without their old rows.
fn remembered(
    aggregate: &IncrementalAggregate,
    rows: RecordBatch,
    forgotten_by: i64,
) -> Result<RecordBatch> {
    let touched = aggregate.closes_at(&rows)?;
    if touched.iter().all(|at| *at > forgotten_by) {
        return Ok(rows);
    }
    let fresh: BooleanArray = touched.iter().map(|at| Some(*at > forgotten_by)).collect();
    Ok(filter_record_batch(&rows, &fresh)?)
}
