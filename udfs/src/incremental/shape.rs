//! Shape of state rows: how rows are grouped, and which columns a state row has besides the aggregates' states.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion::common::Result;
use datafusion::physical_plan::PhysicalExpr;

use crate::session::SessionColumn;
use crate::window::Slices;

/// How rows are grouped.
#[derive(Debug, Clone)]
pub enum StateShape {
    /// By key, without a window.
    Keys {
        /// The group columns of the output; without any there is one group of all rows.
        groups: Vec<Arc<dyn PhysicalExpr>>,
    },
    /// By group, each of one window.
    Windows {
        /// The group columns of the output.
        groups: Vec<Arc<dyn PhysicalExpr>>,
        /// The end of a group's window.
        window_end: Arc<dyn PhysicalExpr>,
    },
    /// By key, slice, and the first window that a row counts for.
    Slices {
        /// The output's group keys besides the window.
        keys: Vec<Arc<dyn PhysicalExpr>>,
        /// The start of a row's slice.
        slice_start: Arc<dyn PhysicalExpr>,
        /// The end of the first window that a row counts for.
        first_window_end: Arc<dyn PhysicalExpr>,
        /// The slices of the windows.
        slices: Slices,
        /// The contents of the output's group columns.
        groups: Vec<SessionColumn>,
    },
    /// By key and session.
    Sessions {
        /// The session's keys.
        keys: Vec<Arc<dyn PhysicalExpr>>,
        /// The event time.
        event_time: Arc<dyn PhysicalExpr>,
        /// The gap, in ticks of the event time's unit.
        gap: i64,
        /// Further group keys of a session's rows.
        others: Vec<Arc<dyn PhysicalExpr>>,
        /// The contents of the output's group columns; further group keys come after the session keys.
        groups: Vec<SessionColumn>,
    },
}

impl StateShape {
    /// The keys of groups, without times.
    pub(super) fn keys(&self) -> &[Arc<dyn PhysicalExpr>] {
        match self {
            StateShape::Keys { groups } | StateShape::Windows { groups, .. } => groups,
            StateShape::Slices { keys, .. } | StateShape::Sessions { keys, .. } => keys,
        }
    }

    /// The number of leading columns of a state row that are its key.
    pub(super) fn key_columns(&self) -> usize {
        // A slice is looked up by its start: a batch must not read all slices of a key.
        let slice = usize::from(matches!(self, StateShape::Slices { .. }));
        self.keys().len() + slice
    }

    /// The names of the columns after [`Self::keys`].
    fn times(&self) -> &'static [&'static str] {
        match self {
            StateShape::Keys { .. } => &["touched"],
            StateShape::Windows { .. } => &["window_end"],
            StateShape::Slices { .. } => &[
                "slice_start",
                "slice_end",
                "first_window_end",
                "last_window_end",
            ],
            StateShape::Sessions { .. } => &["interval_start", "interval_last"],
        }
    }

    /// The number of columns before the states of the aggregates.
    pub(super) fn columns_before_states(&self) -> usize {
        self.keys().len() + self.times().len() + self.others().len()
    }

    /// Further group keys; these columns come after the times.
    fn others(&self) -> &[Arc<dyn PhysicalExpr>] {
        match self {
            StateShape::Sessions { others, .. } => others,
            _ => &[],
        }
    }

    /// The number of leading columns that distinguish state rows which must not be merged; a session's interval is not one of
    /// them.
    pub(super) fn identity_columns(&self) -> usize {
        match self {
            StateShape::Keys { .. } | StateShape::Sessions { .. } => self.keys().len(),
            StateShape::Windows { .. } | StateShape::Slices { .. } => self.columns_before_states(),
        }
    }

    /// The column whose time completes a row, and the number of ticks after that time.
    pub(super) fn closes(&self) -> (usize, i64) {
        let keys = self.keys().len();
        match self {
            StateShape::Keys { .. } | StateShape::Windows { .. } => (keys, 0),
            StateShape::Slices { .. } => (keys + 3, 0),
            // Past the end, not at it: a row exactly the gap later still joins.
            StateShape::Sessions { gap, .. } => (keys + 1, gap.saturating_add(1)),
        }
    }

    /// The columns before the states of the aggregates, named for users; programs use positions.
    pub(super) fn fields(&self, input: &Schema, output: &Schema) -> Result<Vec<FieldRef>> {
        let key_name = |key: usize| -> String {
            let column = match self {
                StateShape::Keys { .. } | StateShape::Windows { .. } => Some(key),
                StateShape::Slices { groups, .. } | StateShape::Sessions { groups, .. } => groups
                    .iter()
                    .position(|group| *group == SessionColumn::Key(key)),
            };
            match column.and_then(|column| output.fields().get(column)) {
                Some(field) => field.name().clone(),
                None => format!("key{key}"),
            }
        };
        let time = match self {
            StateShape::Keys { .. } => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
            StateShape::Windows { window_end, .. } => window_end.data_type(input)?,
            StateShape::Slices { slice_start, .. } => slice_start.data_type(input)?,
            StateShape::Sessions { event_time, .. } => event_time.data_type(input)?,
        };
        let mut fields: Vec<FieldRef> = Vec::new();
        for (number, key) in self.keys().iter().enumerate() {
            let data_type = key.data_type(input)?;
            fields.push(Arc::new(Field::new(key_name(number), data_type, true)));
        }
        for name in self.times() {
            fields.push(Arc::new(Field::new(*name, time.clone(), false)));
        }
        for (number, other) in (self.keys().len()..).zip(self.others()) {
            let data_type = other.data_type(input)?;
            fields.push(Arc::new(Field::new(key_name(number), data_type, true)));
        }
        Ok(fields)
    }
}
