//! State of one execution of COMPLETE_SESSIONS, of rows or of aggregates: its planning, metrics and notices.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::StreamExt;

use super::keys::KeyNumbers;
use super::notice::{CompletionNotices, SessionsCapped};
use super::scan::files_of;
use super::search::{Direction, FoundSession, SessionSearch, TickRange};
use super::slices::{SliceReader, count_files};
use crate::diagnostic::null_event_time;
use crate::window::{column_name, show_tick};

/// The state that every execution has.
pub(super) struct ExecutionState {
    pub(super) search: SessionSearch,
    pub(super) reader: SliceReader,
    pub(super) keys: KeyNumbers,
    pub(super) event_time: Arc<dyn PhysicalExpr>,
    /// The type of the event time, and of the window columns.
    pub(super) time_type: DataType,
    pub(super) reservation: MemoryReservation,
    pub(super) context: Arc<TaskContext>,
    pub(super) baseline: BaselineMetrics,
    pub(super) rows_read: Count,
    slices: Count,
    files_read: Count,
    capped_sessions: Count,
    /// A plan of the slices that may come next, for all keys.
    ahead: Option<PlanAhead>,
    /// The files of the slices that were planned, by the hashes of their paths.
    files: HashSet<u64>,
    /// The notice that the displayed plan shows after the execution.
    capped: Arc<OnceLock<SessionsCapped>>,
}

/// The metrics that EXPLAIN ANALYZE shows.
#[derive(Debug, Clone, Default)]
pub(super) struct ExplainMetrics {
    pub(super) metrics: ExecutionPlanMetricsSet,
    /// The sessions that the limit of the search cut.
    pub(super) capped: Arc<OnceLock<SessionsCapped>>,
}

/// The next slice to read, with its plan.
pub(super) struct PlannedSlice {
    pub(super) side: Direction,
    pub(super) slice: TickRange,
    pub(super) plan: Arc<dyn ExecutionPlan>,
}

/// A plan that is made before the search asks for it, and the slice it covers.
struct PlanAhead {
    reach: TickRange,
    plan: PlanningState,
}

enum PlanningState {
    Begun(SpawnedTask<Result<Arc<dyn ExecutionPlan>>>),
    Done(Arc<dyn ExecutionPlan>),
}

/// A search for a NULL event time: its plan, and whether it found one; `None` if the column cannot have one.
pub(super) type NullCheck = SpawnedTask<Result<Option<(Arc<dyn ExecutionPlan>, bool)>>>;

/// The error of a task that ended without a result.
pub(super) fn failed_task(error: impl std::fmt::Display) -> DataFusionError {
    exec_datafusion_err!("a slice could not be read: {error}")
}

impl ExecutionState {
    /// A run over rows of `input`.
    pub(super) fn try_new(
        search: SessionSearch,
        reader: SliceReader,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        event_time: Arc<dyn PhysicalExpr>,
        input: &SchemaRef,
        context: Arc<TaskContext>,
        shown: &ExplainMetrics,
    ) -> Result<Self> {
        let counter = |name: &'static str| MetricBuilder::new(&shown.metrics).global_counter(name);
        Ok(Self {
            search,
            reader,
            keys: KeyNumbers::try_new(keys, input)?,
            time_type: event_time.data_type(input)?,
            event_time,
            reservation: MemoryConsumer::new("CompleteSessionsExec")
                .register(context.memory_pool()),
            baseline: BaselineMetrics::new(&shown.metrics, 0),
            slices: counter("slices"),
            rows_read: counter("rows_read"),
            files_read: counter("files_read"),
            capped_sessions: counter("capped_sessions"),
            ahead: None,
            files: HashSet::new(),
            capped: Arc::clone(&shown.capped),
            context,
        })
    }

    /// NULL-1: starts to search for a row of the input without event time, concurrently with everything else.
    pub(super) fn look_for_null_event_times(&self) -> NullCheck {
        let (reader, context) = (self.reader.clone(), Arc::clone(&self.context));
        SpawnedTask::spawn(async move {
            let Some(plan) = reader.plan_null_event_times().await? else {
                return Ok(None);
            };
            let mut input = reader.execute(Arc::clone(&plan), &context)?;
            while let Some(batch) = input.next().await {
                if batch?.num_rows() > 0 {
                    return Ok(Some((plan, true)));
                }
            }
            Ok(Some((plan, false)))
        })
    }

    /// Fails if there was such a row.
    pub(super) async fn refuse_null_event_times(&mut self, check: NullCheck) -> Result<()> {
        let found = check.join().await.map_err(failed_task)??;
        if let Some((plan, has_null)) = found {
            count_files(plan.as_ref(), &self.files_read);
            if has_null {
                return Err(null_event_time(&self.event_time_name()));
            }
        }
        Ok(())
    }

    /// Plans the first slice, and starts to plan those beyond it.
    pub(super) async fn plan_first(&mut self) -> Result<Arc<dyn ExecutionPlan>> {
        let slice = self.search.first_slice();
        let plan = self.reader.plan_slice(slice, None).await?;
        // If slices can be cut out of a plan, the plan is made now, while the first slice is read.
        if !self.reader.is_bounded_only(&plan, slice)? {
            if self.opens_again(&plan)? {
                self.coarsen();
            }
            return Ok(plan);
        }
        // A part that is cut out costs no planning, and its scan leaves files out only as it comes to them.
        self.coarsen();
        let (reader, reach) = (self.reader.clone(), self.search.reach());
        let ahead = SpawnedTask::spawn(async move { reader.plan_slice(reach, None).await });
        self.ahead = Some(PlanAhead {
            reach,
            plan: PlanningState::Begun(ahead),
        });
        self.reader.relaxed(plan)
    }

    /// Plans the next slices, one on each side where a session is open; empty if there is none.
    pub(super) async fn plan_outward(&mut self) -> Result<Vec<PlannedSlice>> {
        let mut planned = vec![];
        let mut planning = vec![];
        for side in [Direction::Before, Direction::After] {
            let Some(slice) = self.search.next_slice(side) else {
                continue;
            };
            let places: UInt32Array = self.search.open_keys(side).map(Some).collect();
            let open = self.keys.values(&places)?;
            if let Some(plan) = self.cut_out(slice, &open).await? {
                planned.push(PlannedSlice { side, slice, plan });
                continue;
            }
            // Planning a slice takes about as long as reading it: both sides at once.
            let reader = self.reader.clone();
            let plan =
                SpawnedTask::spawn(async move { reader.plan_slice(slice, Some(&open)).await });
            planning.push((side, slice, plan));
        }
        for (side, slice, plan) in planning {
            let plan = plan.join().await.map_err(failed_task)??;
            if self.opens_again(&plan)? {
                self.search.coarsen(side);
            }
            planned.push(PlannedSlice { side, slice, plan });
        }
        Ok(planned)
    }

    /// The plan of `slice` for `keys`, cut out of the plan made ahead; `None` if that does not cover the slice.
    async fn cut_out(
        &mut self,
        slice: TickRange,
        keys: &[ArrayRef],
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(PlanAhead { reach, plan }) = self.ahead.take() else {
            return Ok(None);
        };
        if slice.from < reach.from || slice.to > reach.to {
            return Ok(None);
        }
        let plan = match plan {
            PlanningState::Begun(plan) => plan.join().await.map_err(failed_task)??,
            PlanningState::Done(plan) => plan,
        };
        self.ahead = Some(PlanAhead {
            reach,
            plan: PlanningState::Done(Arc::clone(&plan)),
        });
        self.reader.cut_out(plan, reach, slice, keys)
    }

    /// Whether a slice reads rows that are in no files, or at least half of its files are those of earlier slices: a short slice costs
    /// nearly as much as a long one then.
    fn opens_again(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
        let Some(files) = files_of(plan)? else {
            return Ok(true);
        };
        let count = files.len();
        let known = self.files.len();
        self.files.extend(files);
        let again = count - (self.files.len() - known);
        Ok(again > 0 && 2 * again >= count)
    }

    fn coarsen(&mut self) {
        for side in [Direction::Before, Direction::After] {
            self.search.coarsen(side);
        }
    }

    /// Counts a slice that was read.
    pub(super) fn finish_slice(&self, plan: &dyn ExecutionPlan) {
        self.slices.add(1);
        count_files(plan, &self.files_read);
    }

    /// Counts and reports the sessions that are still open although everything within the limit was read.
    pub(super) fn report_capped(&self) -> Result<()> {
        let open = self.search.open_sessions();
        let mut sessions: Vec<FoundSession> = (0..open.len())
            .filter(|id| open[*id])
            .map(|id| self.search.session(id))
            .collect();
        if sessions.is_empty() {
            return Ok(());
        }
        let count = sessions.len();
        self.capped_sessions.add(count);
        sessions.sort_unstable_by_key(|session| (session.start, session.key));
        sessions.truncate(SessionsCapped::MAX_NAMED);
        let TickRange { from, to } = self.search.read();
        let show = |tick| show_tick(tick, &self.time_type);
        let name = |session: &FoundSession| {
            let key = self.keys.show(session.key)?;
            let (start, last) = (show(session.start), show(session.last));
            Ok(format!("{key}from {start} to {last}"))
        };
        let capped = SessionsCapped {
            sessions: count,
            named: sessions.iter().map(name).collect::<Result<_>>()?,
            searched: (show(from), show(to)),
        };
        let notices = self
            .context
            .session_config()
            .get_extension::<CompletionNotices>();
        if let Some(notices) = notices {
            notices.push(capped.clone());
        }
        // A plan that runs again keeps its first notice: it reads the same version.
        self.capped.get_or_init(|| capped);
        Ok(())
    }

    /// The event time's column, for messages.
    pub(super) fn event_time_name(&self) -> String {
        column_name(&self.event_time.to_string())
    }
}
