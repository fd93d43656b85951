//! What a run rests on, as far as its query needs it.

use std::collections::BTreeMap;

use crate::core::runs::{Finality, Grouping, OffsetSet, Pin, RunSpec, TimeRange};

/// What the query of a run rests on.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// How the job puts rows together in time.
    pub grouping: Grouping,
    /// Which windows and sessions are final.
    pub finality: Finality,
    /// The first instant of which the past has all records; none if none is missing.
    pub begins: Option<i64>,
    /// The value of `now()`, in microseconds since 1970 UTC.
    pub now: i64,
    /// The rows to whose results the run is restricted, by table and offset; none if it is not.
    pub selection: Option<OffsetSet>,
    /// The event times to which these rows are restricted besides.
    pub selected_times: Option<TimeRange>,
    /// Which version of each static table is read, by table.
    pub statics: BTreeMap<String, Pin>,
}

impl From<&RunSpec> for RunFacts {
    fn from(spec: &RunSpec) -> Self {
        Self {
            grouping: spec.grouping,
            finality: Finality::new(spec.grouping, spec.watermark),
            begins: spec.begins,
            now: spec.now,
            selection: spec.selection.clone(),
            selected_times: spec.asked.time,
            statics: spec.statics.clone(),
        }
    }
}
