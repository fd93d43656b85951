//! `FinalGroupsExec`, the operator above the aggregate of a chunk: it gives the windows and sessions that the chunk gives and that are
//! final, and counts those that it leaves out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_udfs::{has_no_expressions, only_child};
use datafusion::arrow::array::{
    Array as _, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions,
};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
};
use futures::StreamExt as _;

use super::groups_table::properties_of;
use crate::core::runs::{Chunk, Finality, LeftGroups, LeftReason};
use crate::streaming::stateful::shown;
use crate::tables::time::event_times;

/// Which groups of a chunk are given, and where their columns are.
#[derive(Debug)]
pub(super) struct GroupRule {
    pub(super) chunk: Chunk,
    pub(super) finality: Finality,
    /// The first instant at which a window or session begins that has all of its rows; none if all have.
    pub(super) whole_from: Option<i64>,
    /// How long a session may be, in microseconds: a longer one is not read to its ends. None of windows.
    pub(super) longest: Option<i64>,
    /// The column with the first instant of the window or session.
    pub(super) start: usize,
    /// The column with the instant after its last.
    pub(super) end: usize,
    /// The column that says whether a selected row is in the group; none if all groups are given.
    pub(super) selected: Option<usize>,
    /// Name and place of the columns that identify a group beside its window.
    pub(super) keys: Vec<(String, usize)>,
}

impl GroupRule {
    /// Which rows are given. Those that are left out are added to `left`.
    fn given(&self, groups: &RecordBatch, left: &Mutex<LeftGroups>) -> DataFusionResult<Vec<bool>> {
        let times = |index: usize| event_times(groups.column(index));
        let (starts, ends) = (times(self.start)?, times(self.end)?);
        let selected = match self.selected {
            Some(index) => {
                let column = groups.column(index).as_boolean_opt();
                Some(column.ok_or_else(|| exec_datafusion_err!("is_selected is no boolean"))?)
            }
            None => None,
        };
        let is_asked = |row: usize| match selected {
            Some(selected) => selected.is_valid(row) && selected.value(row),
            None => true,
        };
        let mut given = Vec::with_capacity(groups.num_rows());
        let mut not_given: Vec<LeftGroup> = Vec::new();
        let bounds = starts.values().iter().zip(ends.values());
        for (row, (start, end)) in bounds.enumerate() {
            let is_of_chunk = is_asked(row) && self.chunk.gives(*start, *end);
            let reason = is_of_chunk.then(|| self.left_by(*start, *end)).flatten();
            given.push(is_of_chunk && reason.is_none());
            not_given.extend(reason.map(|reason| (*start, *end, row, reason)));
        }
        if !not_given.is_empty() {
            self.leave(groups, not_given, left);
        }
        Ok(given)
    }

    /// Why a group is left out.
    fn left_by(&self, start: i64, end: i64) -> Option<LeftReason> {
        if !self.finality.is_final(end) {
            return Some(LeftReason::NotFinal);
        }
        if self.whole_from.is_some_and(|whole_from| start < whole_from) {
            return Some(LeftReason::NotWhole);
        }
        let is_longer = |longest| end.saturating_sub(start) > longest;
        let is_capped = self.longest.is_some_and(is_longer);
        is_capped.then_some(LeftReason::Capped)
    }

    /// Counts groups that are left out. Only those that can be among the first ones are named.
    fn leave(
        &self,
        groups: &RecordBatch,
        mut left_groups: Vec<LeftGroup>,
        left: &Mutex<LeftGroups>,
    ) {
        left_groups.sort_unstable_by_key(|(start, end, ..)| (*start, *end));
        let last_named = left_groups.get(LeftGroups::NAMED.saturating_sub(1));
        let named = match last_named.map(|(start, end, ..)| (*start, *end)) {
            Some(last) => left_groups.partition_point(|(start, end, ..)| (*start, *end) <= last),
            None => left_groups.len(),
        };
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        for (start, end, row, reason) in left_groups.iter().take(named) {
            left.add(*start, *end, &self.key(groups, *row), *reason);
        }
        left.add_later(left_groups.len().saturating_sub(named) as u64);
    }

    fn key(&self, groups: &RecordBatch, row: usize) -> String {
        let keys = self.keys.iter();
        let texts = keys.map(|(name, at)| format!("{name} = {}", shown(groups.column(*at), row)));
        let texts: Vec<String> = texts.collect();
        match texts.is_empty() {
            true => "the window".to_owned(),
            false => texts.join(", "),
        }
    }
}

/// Start, end, row and reason of a group that is left out.
type LeftGroup = (i64, i64, usize, LeftReason);

/// Gives the groups of its input that the rule gives, in some of the columns.
#[derive(Debug)]
pub(super) struct FinalGroupsExec {
    input: Arc<dyn ExecutionPlan>,
    rule: Arc<GroupRule>,
    /// The columns of the input that it gives.
    columns: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    left: Arc<Mutex<LeftGroups>>,
}

impl FinalGroupsExec {
    /// Over the groups of an aggregate. `columns` are those of the input that `schema` names; `left` gets the groups that are left out.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        rule: Arc<GroupRule>,
        columns: Vec<usize>,
        schema: SchemaRef,
        left: Arc<Mutex<LeftGroups>>,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        Self {
            properties: properties_of(&schema, partitions),
            input,
            rule,
            columns,
            schema,
            left,
        }
    }
}

impl DisplayAs for FinalGroupsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.rule.chunk.range;
        write!(f, "FinalGroupsExec: of={range}")?;
        match self.rule.finality.last_end() {
            Some(last) => write!(f, ", last_end={last}"),
            None => write!(f, ", none is final"),
        }
    }
}

impl ExecutionPlan for FinalGroupsExec {
    fn name(&self) -> &'static str {
        "FinalGroupsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    has_no_expressions!();

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = only_child("FinalGroupsExec", children)?;
        Ok(Arc::new(Self::new(
            input,
            Arc::clone(&self.rule),
            self.columns.clone(),
            Arc::clone(&self.schema),
            Arc::clone(&self.left),
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let groups = self.input.execute(partition, context)?;
        let (rule, left) = (Arc::clone(&self.rule), Arc::clone(&self.left));
        let (columns, schema) = (self.columns.clone(), Arc::clone(&self.schema));
        let given = groups.map(move |groups| {
            let groups = groups?;
            let given = BooleanArray::from(rule.given(&groups, &left)?);
            let groups = filter_record_batch(&groups.project(&columns)?, &given)?;
            let rows = groups.num_rows();
            let columns = groups.columns().to_vec();
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            Ok(RecordBatch::try_new_with_options(
                Arc::clone(&schema),
                columns,
                &options,
            )?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            given,
        )))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};
    use datafusion::arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};

    use super::*;
    use crate::core::runs::{Chunks, Grouping, TimeRange};

    fn groups(sessions: &[(i64, i64)]) -> RecordBatch {
        let times = |of: fn(&(i64, i64)) -> i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_iter_values(
                sessions.iter().map(of),
            ))
        };
        let keys = 0..sessions.len() as i64;
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(Int64Array::from_iter_values(keys))),
            ("start", times(|session| session.0)),
            ("end", times(|session| session.1)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn sessions_that_are_open_or_too_long_are_counted_once() {
        let grouping = Grouping::Sessions { gap: 10 };
        let chunks = Chunks::new(grouping, TimeRange::try_new(0, 1_000).unwrap().into());
        let rule = GroupRule {
            chunk: chunks.next(Some(100), 100).unwrap(),
            finality: Finality::new(grouping, Some(500)),
            whole_from: None,
            longest: Some(300),
            start: 1,
            end: 2,
            selected: None,
            keys: vec![("k".to_owned(), 0)],
        };
        let left = Mutex::default();
        // An earlier chunk has the first of these, although it is too long.
        let mut sessions = vec![(99, 900), (100, 120), (150, 499), (150, 500), (110, 450)];
        let given = rule.given(&groups(&sessions), &left).unwrap();
        assert_eq!(given, [false, true, false, false, false]);
        let text = left.lock().unwrap().to_string();
        let named: Vec<&str> = text.split("; ").collect();
        assert_eq!(named.len(), 4, "{text}");
        assert!(named[0] == "3 left out" && named[1].starts_with("k = 4 from "));
        assert!(named[1].ends_with(": longer than the search for its rows"));
        assert!(named[2].starts_with("k = 2 ") && named[3].ends_with(": not final"));
        // Many are counted, and the first ones named.
        sessions = (0..20).map(|at| (190 - at, 700)).collect();
        rule.given(&groups(&sessions), &left).unwrap();
        let left = left.lock().unwrap();
        assert_eq!(left.count(), 23);
        assert!(left.to_string().ends_with("; and 18 more"), "{left}");
    }

    #[test]
    fn windows_with_rows_of_before_the_past_are_counted() {
        let windows = AlignedWindows::try_new(WindowKind::Tumble, 10, 10, 0).unwrap();
        let grouping = Grouping::Aligned(windows);
        let chunks = Chunks::new(grouping, TimeRange::try_new(0, 100).unwrap().into());
        let rule = GroupRule {
            chunk: chunks.next(None, 100).unwrap(),
            finality: Finality::new(grouping, Some(50)),
            whole_from: Some(11),
            longest: None,
            start: 1,
            end: 2,
            selected: None,
            keys: Vec::new(),
        };
        let left = Mutex::default();
        let given = rule.given(&groups(&[(0, 10), (10, 20), (20, 30), (50, 60)]), &left);
        assert_eq!(given.unwrap(), [false, false, true, false]);
        let text = left.lock().unwrap().to_string();
        let gone = text.matches(": its first records may be gone").count();
        assert_eq!(
            (gone, text.matches(": not final").count()),
            (2, 1),
            "{text}"
        );
    }
}
