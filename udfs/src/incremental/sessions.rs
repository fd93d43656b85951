//! Merge of session state rows: intervals by key first, then the groups of each session.
//!
//! A session consists of all rows of its key (SESS-1); its groups may be finer. So a state row has the bounds of its whole
//! session, and moves with it when the session grows or merges with another.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt32Array, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::EmitTo;

use crate::session::{merge_intervals, new_keys};
use crate::window::{ticks, timestamps};

/// The positions of a session's state columns: keys, first and last event time, then its further group keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionLayout {
    pub(super) keys: usize,
    pub(super) others: usize,
    pub(super) gap: i64,
    /// Whether a group changes when the session's last row changes.
    pub(super) has_end: bool,
}

/// State rows by group.
pub(super) struct SessionGroups {
    /// Per state row, its group.
    pub(super) of_row: Vec<usize>,
    pub(super) count: usize,
    /// Keys, times and other columns of the groups.
    pub(super) columns: Vec<ArrayRef>,
    /// Groups whose bounds differ from those in a row that was `kept`.
    pub(super) moved: Vec<usize>,
}

impl SessionLayout {
    /// Groups state rows, whose keys are `ids` in `key_values`; the first `kept` rows are the stored ones.
    pub(super) fn group(
        self,
        states: &[&RecordBatch],
        schema: &SchemaRef,
        ids: &[usize],
        key_values: &[ArrayRef],
        key_count: usize,
        kept: usize,
    ) -> Result<SessionGroups> {
        let rows = ids.len();
        let (mut starts, mut lasts) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for batch in states {
            starts.extend_from_slice(&ticks(batch.column(self.keys))?);
            lasts.extend_from_slice(&ticks(batch.column(self.keys + 1))?);
        }
        let ids = ids
            .iter()
            .map(|id| u32::try_from(*id).map_err(|_| exec_datafusion_err!("too many keys")))
            .collect::<Result<Vec<_>>>()?;
        let sessions = merge_intervals(&starts, &lasts, &ids, key_count, self.gap);
        let time = schema.field(self.keys).data_type();
        let mut groups = if self.others == 0 {
            let count = sessions.starts.len();
            SessionGroups {
                of_row: sessions.sessions,
                count,
                columns: self.columns(
                    key_values,
                    &sessions.keys,
                    sessions.starts,
                    sessions.lasts,
                    time,
                )?,
                moved: Vec::new(),
            }
        } else {
            let (of_row, of_group, others) = self.finer(states, schema, &sessions.sessions)?;
            let of_session = |values: &[i64]| of_group.iter().map(|of| values[*of]).collect();
            let group_starts: Vec<i64> = of_session(&sessions.starts);
            let group_lasts: Vec<i64> = of_session(&sessions.lasts);
            let moved = (0..kept).filter(|row| {
                let group = of_row[*row];
                group_starts[group] != starts[*row]
                    || (self.has_end && group_lasts[group] != lasts[*row])
            });
            let moved = moved.map(|row| of_row[row]).collect();
            let keys: Vec<u32> = of_group.iter().map(|of| sessions.keys[*of]).collect();
            let mut columns = self.columns(key_values, &keys, group_starts, group_lasts, time)?;
            columns.extend(others);
            SessionGroups {
                count: of_group.len(),
                of_row,
                columns,
                moved,
            }
        };
        groups.moved.sort_unstable();
        groups.moved.dedup();
        Ok(groups)
    }

    /// The groups of rows that are in these sessions: the group of each row, the session of each group, and the columns
    /// that tell a session's groups apart.
    fn finer(
        self,
        states: &[&RecordBatch],
        schema: &SchemaRef,
        sessions: &[usize],
    ) -> Result<(Vec<usize>, Vec<usize>, Vec<ArrayRef>)> {
        let first = self.keys + 2;
        let session: FieldRef = Arc::new(Field::new("session", DataType::UInt64, false));
        let others = schema.fields()[first..first + self.others].iter().cloned();
        let fields: Vec<FieldRef> = std::iter::once(session).chain(others).collect();
        let Some(mut groups) = new_keys(&Arc::new(Schema::new(fields)))? else {
            return Ok((vec![], vec![], vec![]));
        };
        let mut of_row = Vec::with_capacity(sessions.len());
        let mut of_batch = Vec::new();
        for batch in states {
            let rows = of_row.len()..of_row.len() + batch.num_rows();
            let session = sessions[rows].iter().map(|session| *session as u64);
            let session: ArrayRef = Arc::new(UInt64Array::from_iter_values(session));
            let others = batch.columns()[first..first + self.others].iter().cloned();
            let columns: Vec<ArrayRef> = std::iter::once(session).chain(others).collect();
            groups.intern(&columns, &mut of_batch)?;
            of_row.extend_from_slice(&of_batch);
        }
        if groups.is_empty() {
            let others = schema.fields()[first..first + self.others].iter();
            let empty = others.map(|field| arrow::array::new_empty_array(field.data_type()));
            return Ok((of_row, vec![], empty.collect()));
        }
        let mut columns = groups.emit(EmitTo::All)?;
        let session = columns.remove(0);
        let of_group = session.as_primitive::<UInt64Type>().values();
        let of_group = of_group.iter().map(|session| *session as usize);
        Ok((of_row, of_group.collect(), columns))
    }

    /// Keys, first and last event time.
    fn columns(
        self,
        key_values: &[ArrayRef],
        keys: &[u32],
        starts: Vec<i64>,
        lasts: Vec<i64>,
        time: &DataType,
    ) -> Result<Vec<ArrayRef>> {
        let places = UInt32Array::from(keys.to_vec());
        let mut columns = Vec::with_capacity(self.keys + 2 + self.others);
        for values in key_values {
            columns.push(take(values, &places, None)?);
        }
        columns.push(timestamps(ScalarBuffer::from(starts), time)?);
        columns.push(timestamps(ScalarBuffer::from(lasts), time)?);
        Ok(columns)
    }
}
