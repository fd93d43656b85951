//! Incremental aggregate: its expressions, and the three steps rows to states, states to states, states to results.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::aggregate::LoweredAggregate;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::shape::StateShape;
use super::slices::slice_ends;
use crate::diagnostic::out_of_range;
use crate::incremental::sessions::SessionLayout;
use crate::is_final::IS_FINAL;
use crate::session::SessionPartialExec;
use crate::session::aggregate::{
    Accumulators, PartialRule, SessionAggregateExpr, SessionColumn, new_keys, session_columns,
};
use crate::window::{ticks, timestamps};

/// Metadata key in the schema of state rows: the number of leading columns that are the key.
pub const STATE_KEYS: &str = "anabranch.keys";
/// Metadata key: the column whose time completes a row.
pub const STATE_CLOSES: &str = "anabranch.closes";
/// Metadata key: a row is complete when the watermark is this many ticks past that column's time.
pub const STATE_CLOSES_AFTER: &str = "anabranch.closes_after";

/// The result of merging state rows.
#[derive(Debug)]
pub struct MergedRows {
    /// One row per group or session.
    pub rows: RecordBatch,
    /// For each row, whether a new row was merged into it, or its session differs from that of a kept row.
    pub is_touched: Vec<bool>,
    /// For each kept row, the row that it was merged into.
    pub group_of_kept: Vec<usize>,
}

/// An aggregate by key, window or session whose states are rows.
///
/// A state row has the key columns, the times (for a key `touched`, the time of the last batch with a row of it; for a window
/// `window_end`; for a slice its start and end, and the ends of the first and the last window for which its rows count; for a
/// session the first and last event time, and its further group keys), and the state columns of every aggregate, in this order.
#[derive(Debug, Clone)]
pub struct IncrementalAggregate {
    pub(super) shape: StateShape,
    pub(super) aggregates: Vec<SessionAggregateExpr>,
    /// For each aggregate, whether it is `is_final()`.
    finals: Vec<bool>,
    pub(super) state_schema: SchemaRef,
    pub(super) output: SchemaRef,
}

impl IncrementalAggregate {
    /// Aggregates rows of `input`; `output` has the group columns, then a column per aggregate.
    ///
    /// # Errors
    ///
    /// Expressions that do not fit the input.
    pub fn try_new(
        shape: StateShape,
        aggregates: Vec<LoweredAggregate>,
        input: &SchemaRef,
        output: SchemaRef,
    ) -> Result<Self> {
        let finals = aggregates
            .iter()
            .map(|lowered| lowered.aggregate.fun().name() == IS_FINAL)
            .collect();
        let aggregates: Vec<SessionAggregateExpr> = aggregates
            .into_iter()
            .map(SessionAggregateExpr::new)
            .collect();
        let mut fields = shape.fields(input, &output)?;
        let results = output.fields().iter().rev().take(aggregates.len()).rev();
        for (aggregate, result) in aggregates.iter().zip(results) {
            let of_aggregate = aggregate.function.state_fields()?;
            for (place, field) in of_aggregate.iter().enumerate() {
                let name = match of_aggregate.len() {
                    1 => format!("{} state", result.name()),
                    _ => format!("{} state {}", result.name(), place + 1),
                };
                // Partial aggregation of a group without rows leaves NULLs, even if the field is not nullable.
                let field = field.as_ref().clone().with_name(name).with_nullable(true);
                fields.push(Arc::new(field));
            }
        }
        let (closes, after) = shape.closes();
        let metadata = [
            (STATE_KEYS, shape.key_columns().to_string()),
            (STATE_CLOSES, closes.to_string()),
            (STATE_CLOSES_AFTER, after.to_string()),
        ];
        let metadata = metadata
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        Ok(Self {
            state_schema: Arc::new(Schema::new_with_metadata(distinct(fields), metadata)),
            shape,
            aggregates,
            finals,
            output,
        })
    }

    /// The columns of state rows.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// The number of leading columns of a state row that are its key. Rows of one window's key are merged to one; a key's slice
    /// may have several rows, by the first window for which they count, and a session's key one per session.
    pub fn key_columns(&self) -> usize {
        self.shape.key_columns()
    }

    /// Whether its groups have no window: an expired row is dropped, and its key starts with an empty state.
    pub fn is_keyed(&self) -> bool {
        matches!(self.shape, StateShape::Keys { .. })
    }

    /// Whether the results depend on `is_final()`.
    pub fn uses_is_final(&self) -> bool {
        self.finals.iter().any(|is_final| *is_final)
    }

    /// The plan from rows to states: a key may occur in several rows.
    ///
    /// # Errors
    ///
    /// Expressions that do not fit the input.
    pub fn partial(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        match &self.shape {
            // Without keys, empty input gives no group, as for any other key.
            StateShape::Keys { groups } if groups.is_empty() => self.grouped(&[lit(true)], input),
            StateShape::Keys { groups } => self.grouped(groups, input),
            StateShape::Windows { groups, window_end } => {
                let groups: Vec<_> = groups.iter().chain([window_end]).map(Arc::clone).collect();
                self.grouped(&groups, input)
            }
            StateShape::Slices {
                keys,
                slice_start,
                first_window_end,
                ..
            } => {
                let times = [slice_start, first_window_end];
                let groups: Vec<_> = keys.iter().chain(times).map(Arc::clone).collect();
                self.grouped(&groups, input)
            }
            StateShape::Sessions {
                keys,
                others,
                event_time,
                gap,
                ..
            } => {
                // Rows of a group at most the gap apart are in one session, even if rows of other groups lie between them.
                let rule = PartialRule {
                    keys: keys.iter().chain(others).map(Arc::clone).collect(),
                    event_time: Arc::clone(event_time),
                    gap: *gap,
                    aggregates: self.aggregates.clone(),
                };
                Ok(Arc::new(SessionPartialExec::try_new(input, rule)?))
            }
        }
    }

    /// DataFusion's own partial aggregation.
    fn grouped(
        &self,
        groups: &[Arc<dyn PhysicalExpr>],
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let named = groups
            .iter()
            .enumerate()
            .map(|(number, expr)| (Arc::clone(expr), format!("key{number}")))
            .collect();
        let schema = input.schema();
        let functions = self.aggregates.iter();
        Ok(Arc::new(AggregateExec::try_new(
            AggregateMode::Partial,
            PhysicalGroupBy::new_single(named),
            functions
                .clone()
                .map(|aggregate| Arc::clone(&aggregate.function))
                .collect(),
            functions
                .map(|aggregate| aggregate.filter.clone())
                .collect(),
            input,
            schema,
        )?))
    }

    /// Converts the output of [`Self::partial`] to state rows; `now` is the time of the batch, which becomes the last change of
    /// its keys.
    ///
    /// # Errors
    ///
    /// Columns of other types.
    pub fn as_states(&self, partial: &RecordBatch, now: i64) -> Result<RecordBatch> {
        let mut columns = partial.columns().to_vec();
        if self.is_keyed() {
            let width = self.key_columns();
            // A single group of all rows has a constant as its key.
            columns.drain(width..width.max(1));
            let time = self.state_schema.field(width).data_type();
            let touched = ScalarBuffer::from(vec![now; partial.num_rows()]);
            columns.insert(width, timestamps(touched, time)?);
        }
        if let StateShape::Sessions { keys, others, .. } = &self.shape {
            // The times come before the further group keys of sessions.
            let (first, count) = (keys.len(), others.len());
            columns[first..first + count + 2].rotate_left(count);
        }
        if let StateShape::Slices { keys, slices, .. } = &self.shape {
            let (ends, lasts) = slice_ends(slices, &columns[keys.len()])?;
            columns.insert(keys.len() + 1, ends);
            columns.insert(keys.len() + 3, lasts);
        }
        let columns = columns
            .iter()
            .zip(self.state_schema.fields())
            .map(|(column, field)| Ok(cast(column, field.data_type())?))
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(
            Arc::clone(&self.state_schema),
            columns,
        )?)
    }

    /// When each state row is complete: as soon as the watermark has reached this tick. A key's row is complete when the expiry
    /// time has reached the time of its last change.
    ///
    /// # Errors
    ///
    /// A session so far out that its end does not fit a timestamp.
    pub fn closes_at(&self, states: &RecordBatch) -> Result<Vec<i64>> {
        let (column, after) = self.shape.closes();
        let times = ticks(states.column(column))?;
        if after == 0 {
            return Ok(times.to_vec());
        }
        times
            .iter()
            .map(|last| {
                last.checked_add(after)
                    .ok_or_else(|| out_of_range("the session"))
            })
            .collect()
    }

    /// Merges the state rows that were `kept` and those that are `new`, each in any order, to one per group or session.
    ///
    /// # Errors
    ///
    /// States that do not merge.
    pub fn merge(&self, kept: &RecordBatch, new: &[RecordBatch]) -> Result<MergedRows> {
        let states: Vec<&RecordBatch> = std::iter::once(kept).chain(new).collect();
        let width = self.shape.keys().len();
        let before_states = self.shape.columns_before_states();
        let grouped = self.shape.identity_columns();
        let key_schema = Arc::new(
            self.state_schema
                .project(&(0..grouped).collect::<Vec<_>>())?,
        );
        let mut keys = new_keys(&key_schema)?;
        let rows = states.iter().map(|batch| batch.num_rows()).sum();
        let mut ids: Vec<usize> = Vec::with_capacity(rows);
        let mut of_batch = Vec::new();
        for batch in &states {
            match &mut keys {
                Some(keys) => {
                    keys.intern(&batch.columns()[..grouped], &mut of_batch)?;
                    ids.extend_from_slice(&of_batch);
                }
                None => ids.resize(ids.len() + batch.num_rows(), 0),
            }
        }
        let key_count = keys
            .as_ref()
            .map_or(usize::from(rows > 0), |keys| keys.len());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.state_schema.fields().len());
        let mut emitted = match &mut keys {
            Some(keys) if key_count > 0 => keys.emit(EmitTo::All)?,
            _ => vec![],
        };
        let mut moved = Vec::new();
        let (groups, count) = match &self.shape {
            StateShape::Keys { .. } => {
                columns.append(&mut emitted);
                let mut touched = vec![i64::MIN; key_count];
                let mut of_row = ids.iter();
                for batch in &states {
                    for (at, id) in ticks(batch.column(width))?.iter().zip(&mut of_row) {
                        touched[*id] = touched[*id].max(*at);
                    }
                }
                let time = self.state_schema.field(width).data_type();
                columns.push(timestamps(ScalarBuffer::from(touched), time)?);
                (ids, key_count)
            }
            StateShape::Windows { .. } | StateShape::Slices { .. } => {
                columns.append(&mut emitted);
                (ids, key_count)
            }
            StateShape::Sessions {
                gap,
                others,
                groups: of_output,
                ..
            } => {
                let layout = SessionLayout {
                    keys: width,
                    others: others.len(),
                    gap: *gap,
                    has_end: of_output.contains(&SessionColumn::WindowEnd),
                };
                let schema = &self.state_schema;
                let kept = kept.num_rows();
                let grouped = layout.group(&states, schema, &ids, &emitted, key_count, kept)?;
                columns.extend(grouped.columns);
                moved = grouped.moved;
                (grouped.of_row, grouped.count)
            }
        };
        let (of_kept, of_new) = groups.split_at(kept.num_rows());
        let mut is_touched = vec![false; count];
        for group in of_new.iter().chain(&moved) {
            is_touched[*group] = true;
        }
        let group_of_kept = of_kept.to_vec();
        if count == 0 {
            return Ok(MergedRows {
                rows: RecordBatch::new_empty(Arc::clone(&self.state_schema)),
                is_touched,
                group_of_kept,
            });
        }
        let mut accumulators = Accumulators::try_new(&self.aggregates)?;
        let mut row = 0;
        for batch in &states {
            let of_batch = &groups[row..row + batch.num_rows()];
            row += batch.num_rows();
            accumulators.merge(&batch.columns()[before_states..], of_batch, count)?;
        }
        columns.extend(accumulators.states()?);
        Ok(MergedRows {
            rows: self.batch(columns)?,
            is_touched,
            group_of_kept,
        })
    }

    /// The results of state rows, one each; for slices use [`Self::evaluate_windows`]. `is_final` has the result of
    /// `is_final()` for each.
    ///
    /// # Errors
    ///
    /// A session so far out that its end does not fit a timestamp.
    pub fn evaluate(&self, states: &RecordBatch, is_final: &BooleanArray) -> Result<RecordBatch> {
        let rows = states.num_rows();
        if rows == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.output)));
        }
        let width = self.shape.keys().len();
        let mut accumulators = Accumulators::try_new(&self.aggregates)?;
        let each: Vec<usize> = (0..rows).collect();
        let of_states = &states.columns()[self.shape.columns_before_states()..];
        accumulators.merge(of_states, &each, rows)?;
        let columns: Vec<ArrayRef> = match &self.shape {
            StateShape::Keys { .. } | StateShape::Windows { .. } => {
                states.columns()[..width].to_vec()
            }
            StateShape::Slices { .. } => return internal_err!("a slice is not a group"),
            StateShape::Sessions {
                gap,
                groups,
                others,
                ..
            } => {
                let starts = states.column(width);
                let lasts = ticks(states.column(width + 1))?;
                let of_others = &states.columns()[width + 2..width + 2 + others.len()];
                let keys = [&states.columns()[..width], of_others].concat();
                session_columns(groups, &keys, starts, &lasts, *gap, "the session")?
            }
        };
        self.output_batch(columns, accumulators, is_final)
    }

    /// Rows of the output: their group columns, the aggregates' results, and the results of `is_final()`.
    pub(super) fn output_batch(
        &self,
        mut columns: Vec<ArrayRef>,
        mut accumulators: Accumulators,
        is_final: &BooleanArray,
    ) -> Result<RecordBatch> {
        let results = accumulators.evaluate(EmitTo::All)?;
        for (result, is_final_column) in results.into_iter().zip(&self.finals) {
            columns.push(if *is_final_column {
                Arc::new(is_final.clone())
            } else {
                result
            });
        }
        if columns.len() != self.output.fields().len() {
            return internal_err!("an aggregate has {} columns", columns.len());
        }
        let columns = columns
            .iter()
            .zip(self.output.fields())
            .map(|(column, field)| Ok(cast(column, field.data_type())?))
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.output), columns)?)
    }

    /// The columns of the output.
    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    fn batch(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let columns = columns
            .into_iter()
            .zip(self.state_schema.fields())
            .map(|(column, field)| cast_to(column, field.data_type()))
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(
            Arc::clone(&self.state_schema),
            columns,
        )?)
    }
}

/// Fields with unique names.
fn distinct(fields: Vec<FieldRef>) -> Vec<FieldRef> {
    let mut seen = std::collections::HashSet::new();
    let apart = |(place, field): (usize, FieldRef)| {
        if seen.insert(field.name().clone()) {
            return field;
        }
        let name = format!("{} ({})", field.name(), place + 1);
        Arc::new(field.as_ref().clone().with_name(name))
    };
    fields.into_iter().enumerate().map(apart).collect()
}

fn cast_to(column: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if column.data_type() == data_type {
        return Ok(column);
    }
    Ok(cast(&column, data_type)?)
}
