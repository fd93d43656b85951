//! Sessions and their forks: the catalog, the engine with its memory, and the warnings of statements.

use std::sync::{Arc, Mutex, PoisonError};

use anabranch_udfs::CompletionNotices;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::SessionContext;

use crate::error::Result;
use crate::session::catalog::Catalog;
use crate::session::context;
use crate::session::context::SessionResources;
use crate::session::context::memory::JobPool;
use crate::session::context::state_cache::StateCache;
use crate::session::options::{ForkOptions, SCHEMA, SessionOptions};

/// Tables, views and settings, and the engine that runs statements over them, for one user at a time.
pub struct Session {
    pub(crate) context: SessionContext,
    pub(crate) catalog: Arc<Catalog>,
    notices: Arc<CompletionNotices>,
    options: SessionOptions,
    /// Its restrictions, if it is a fork.
    pub(super) fork: ForkOptions,
    /// The state that it shares with its forks.
    common: Arc<SessionState>,
    /// The memory and disk of the session and its forks.
    resources: SessionResources,
    pub(crate) states: StateCache,
    pub(super) warnings: Arc<Mutex<Vec<String>>>,
}

impl Session {
    /// Creates a session without tables.
    ///
    /// # Errors
    /// Options that the engine refuses.
    pub fn try_new(options: &SessionOptions) -> Result<Self> {
        let resources = SessionResources::try_new(options)?;
        let common = context::common(options, Arc::clone(&resources.statements))?;
        let whole = ForkOptions::default();
        Self::with_catalog(options, &whole, Catalog::default(), common, resources)
    }

    /// A session with the same tables, whose statements run concurrently with those of this one.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn fork(&self, fork: &ForkOptions) -> Result<Self> {
        let common = Arc::clone(&self.common);
        self.forked(fork, common)
    }

    /// A fork with the same permissions, with the memory and caches of jobs instead of those of statements.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn fork_of_job(&self) -> Result<(Self, Arc<JobPool>)> {
        let fork = ForkOptions {
            memory_limit: None,
            ..self.fork.clone()
        };
        let (common, pool) = self.resources.of_job(&self.common)?;
        let session = self.forked(&fork, common)?;
        let runtime = session.context.runtime_env();
        let statistics = runtime.cache_manager.get_file_statistic_cache();
        session.catalog.keep_statistics_in(statistics.as_ref());
        Ok((session, pool))
    }

    fn forked(&self, fork: &ForkOptions, common: Arc<SessionState>) -> Result<Self> {
        let may_name = fork.may_name.as_ref();
        let may_name = may_name.map(|may_name| move |name: &str| may_name(SCHEMA, name));
        let catalog = self.catalog.fork(may_name, fork.is_closed.as_ref());
        let resources = self.resources.clone();
        Self::with_catalog(&self.options, fork, catalog, common, resources)
    }

    /// Whether this fork behaves for the next statement like a new fork of `whole`. A fork that may not use every table serves
    /// one statement only: it does not record for which user it was made.
    pub(crate) fn can_serve(&self, whole: &Session) -> bool {
        self.catalog.version() == whole.catalog.version()
            && !self.states.has_changed()
            && self.fork.may_name.is_none()
    }

    /// Whether no statement of this fork is still running: it could add warnings, or hold memory, at the expense of the next
    /// one.
    pub(crate) fn is_at_rest(&self) -> bool {
        let pool = &self.context.runtime_env().memory_pool;
        self.states.are_at_rest() && (self.fork.memory_limit.is_none() || pool.reserved() == 0)
    }

    /// Whether these are the options of this fork, and allow all tables.
    pub(crate) fn is_fork_with(&self, options: &ForkOptions) -> bool {
        options.may_name.is_none()
            && self.fork.time_zone == options.time_zone
            && self.fork.memory_limit == options.memory_limit
            && self.fork.only_reads == options.only_reads
    }

    /// Drops the table snapshots and warnings of the last statement: they are of no use to another one.
    pub(crate) fn end_statement(&self) {
        self.catalog.begin_statement();
        self.take_warnings();
    }

    /// A fork with the same permissions as this one.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn fork_alike(&self) -> Result<Self> {
        self.fork(&self.fork)
    }

    /// Bytes that its statements may hold, if it is limited more than the process.
    pub(crate) fn memory_limit(&self) -> Option<usize> {
        self.fork.memory_limit
    }

    /// Bytes that all statements and jobs of the process may hold.
    pub(crate) fn memory_of_all(&self) -> usize {
        self.resources.limit()
    }

    /// Bytes that statements and jobs of the process hold in sorts, aggregates and joins.
    pub(crate) fn memory_reserved(&self) -> usize {
        self.resources.reserved()
    }

    fn with_catalog(
        options: &SessionOptions,
        fork: &ForkOptions,
        catalog: Catalog,
        common: Arc<SessionState>,
        resources: SessionResources,
    ) -> Result<Self> {
        let notices: Arc<CompletionNotices> = Arc::default();
        let told = Arc::clone(&notices);
        let (context, catalog) = context::build(options, fork, told, catalog, &common)?;
        Ok(Self {
            options: options.clone(),
            fork: fork.clone(),
            common,
            resources,
            states: StateCache::new(context.clone()),
            warnings: Arc::default(),
            context,
            catalog,
            notices,
        })
    }

    /// Adds a warning to the result of the statement.
    pub(crate) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(warning);
    }

    /// Returns the warnings of the statements since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut said = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let said = std::mem::take(&mut *said);
        let capped = self.notices.drain().into_iter().map(|capped| {
            let (from, to) = &capped.searched;
            format!(
                "{} sessions were still open where COMPLETE_SESSIONS stopped searching ({from} to {to}): \
                 they may be incomplete; a larger max_extension searches further: {}",
                capped.sessions,
                capped.names()
            )
        });
        said.into_iter().chain(capped).collect()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tables", &self.table_names())
            .finish_non_exhaustive()
    }
}
