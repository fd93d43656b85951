//! What a batch makes of the state: merged rows, what is emitted, what is withdrawn, and the change to be applied.

use anabranch_udfs::{IncrementalAggregate, Merged};
use datafusion::arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use datafusion::error::Result;

use crate::exec::keyed::table::{StateChange, StateTable};

/// How a batch emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRule {
    /// A row per group that the batch touched; otherwise each group once, when it is done.
    pub changes: bool,
    /// What was emitted of touched groups before is asked for, to be withdrawn where it no longer holds.
    pub withdraws: bool,
    /// The watermark that closes windows; without windows, keys last touched by then are forgotten.
    pub closed_by: Option<i64>,
}

/// What a batch makes of the state.
#[derive(Debug)]
pub struct Step {
    /// Rows of the aggregate's output.
    pub emitted: RecordBatch,
    /// Rows of the aggregate's output that touched groups gave before.
    pub before: RecordBatch,
    /// All state rows that the batch touched, as they are now: what a changelog keeps.
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
) -> Result<Step> {
    let (touched, before) = table.touched(partials)?;
    let closed_by = rule.closed_by.unwrap_or(i64::MIN);
    let before = match aggregate.is_keyed() {
        true => remembered(aggregate, before, closed_by)?,
        false => before,
    };
    let Merged {
        rows: merged,
        is_touched,
        group_of_kept,
    } = aggregate.merge(&before, partials)?;
    let closes_at = aggregate.closes_at(&merged)?;
    let is_done: Vec<bool> = closes_at.iter().map(|at| *at <= closed_by).collect();
    let (closing, closed) = table.closing(closed_by, &touched)?;

    let rows_where = |wanted: &dyn Fn(usize) -> bool| -> UInt32Array {
        (0..is_done.len())
            .filter(|row| wanted(*row))
            .map(|row| u32::try_from(row).unwrap_or(u32::MAX))
            .collect()
    };
    let schema = aggregate.state_schema();
    let (states, is_final) = if rule.changes {
        // Other sessions of a key that was touched say something only when they are done.
        let with_closed = aggregate.uses_is_final();
        let said = rows_where(&|row| is_touched[row] || (with_closed && is_done[row]));
        let also = if with_closed { closed.num_rows() } else { 0 };
        let done = said.values().iter().map(|row| is_done[*row as usize]);
        let is_final: Vec<bool> = done.chain(std::iter::repeat_n(true, also)).collect();
        let said = take_record_batch(&merged, &said)?;
        let states = concat_batches(schema, [&said, &closed.slice(0, also)])?;
        (states, is_final)
    } else {
        let done = take_record_batch(&merged, &rows_where(&|row| is_done[row]))?;
        let states = concat_batches(schema, [&done, &closed])?;
        let is_final = vec![true; states.num_rows()];
        (states, is_final)
    };
    let emitted = aggregate.evaluate(&states, &BooleanArray::from(is_final))?;
    let before = if rule.changes && rule.withdraws {
        let of_touched: UInt32Array = (0_u32..)
            .zip(&group_of_kept)
            .filter(|(_, group)| is_touched[**group])
            .map(|(row, _)| row)
            .collect();
        let before = take_record_batch(&before, &of_touched)?;
        let not_final = BooleanArray::from(vec![false; before.num_rows()]);
        aggregate.evaluate(&before, &not_final)?
    } else {
        RecordBatch::new_empty(emitted.schema())
    };
    let open = rows_where(&|row| !is_done[row]);
    let added_closes_at = open
        .values()
        .iter()
        .map(|row| closes_at[*row as usize])
        .collect();
    let added = take_record_batch(&merged, &open)?;
    let mut dead = touched;
    dead.extend(closing);
    Ok(Step {
        emitted,
        before,
        rows_after: table.len() - dead.len() + added.num_rows(),
        change: StateChange {
            dead,
            replaced: vec![merged.clone()],
            closed,
            added: vec![(added, added_closes_at)],
        },
        log: merged,
    })
}

/// The rows of keys that are not forgotten: the others begin anew.
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
