//! Cache of the state in which a statement is planned and of the task in which it runs: one statement hands both to the next,
//! because copying the hundreds of functions is much of the work of a small statement.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::SessionContext;

/// Cached states of one context.
pub(crate) struct StateCache {
    context: SessionContext,
    kept: Mutex<CachedStates>,
}

#[derive(Default)]
struct CachedStates {
    /// A statement has changed the context itself, beyond its tables.
    has_changed: bool,
    state: Option<Arc<SessionState>>,
    task: Option<Arc<TaskContext>>,
}

impl StateCache {
    pub(crate) fn new(context: SessionContext) -> Self {
        Self {
            context,
            kept: Mutex::default(),
        }
    }

    /// The context's state with the current time, for one statement.
    pub(crate) fn state(&self) -> StatementState<'_> {
        let kept = self.lock().state.take();
        // A statement that runs concurrently with the last one gets a state of its own.
        let kept = kept.and_then(|mut kept| {
            Arc::get_mut(&mut kept)?.mark_start_execution();
            Some(kept)
        });
        StatementState {
            states: self,
            state: kept.unwrap_or_else(|| Arc::new(self.context.state())),
        }
    }

    /// The task context of statements. It has the session's functions, so that `information_schema.routines` lists them at
    /// execution.
    pub(crate) fn task(&self) -> Arc<TaskContext> {
        let mut kept = self.lock();
        if kept.has_changed {
            return self.context.task_ctx();
        }
        let task = kept.task.get_or_insert_with(|| self.context.task_ctx());
        Arc::clone(task)
    }

    /// Call this when settings, functions or variables of the context change: from then on nothing is cached.
    pub(crate) fn change(&self) {
        *self.lock() = CachedStates {
            has_changed: true,
            ..CachedStates::default()
        };
    }

    /// Whether no statement still runs in the task that it handed out.
    pub(crate) fn are_at_rest(&self) -> bool {
        let kept = self.lock();
        kept.task
            .as_ref()
            .is_none_or(|task| Arc::strong_count(task) == 1)
    }

    /// Whether a statement has changed more than tables.
    pub(crate) fn has_changed(&self) -> bool {
        self.lock().has_changed
    }

    fn lock(&self) -> MutexGuard<'_, CachedStates> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a statement, until it is planned.
pub(crate) struct StatementState<'s> {
    states: &'s StateCache,
    state: Arc<SessionState>,
}

impl Deref for StatementState<'_> {
    type Target = SessionState;

    fn deref(&self) -> &SessionState {
        &self.state
    }
}

impl Drop for StatementState<'_> {
    fn drop(&mut self) {
        let mut kept = self.states.lock();
        if !kept.has_changed {
            kept.state = Some(Arc::clone(&self.state));
        }
    }
}
