//! Construction of the DataFusion context: types, functions, planners, memory.

pub(crate) mod memory;
pub(crate) mod state_cache;
pub(crate) mod yield_points;

use std::sync::Arc;

use anabranch_udfs::{Budget, CompletionNotices, NullFreeColumns};
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList};
use datafusion::config::ConfigOptions;
use datafusion::execution::cache::cache_manager::{CacheManager, CacheManagerConfig};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::registry::FunctionRegistry as _;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::error::{Error, Result};
use crate::planner::types::SqlTypes;
use crate::session::catalog::Catalog;
use crate::session::catalog::exact_files::ExactFiles;
use crate::session::context::memory::{JobPool, LimitedPool, limit_of};
use crate::session::context::yield_points::InsertYieldPoints;
use crate::session::limits::bounded_literals::BoundedLiterals;
use crate::session::limits::cancellation::{CancellableRewrite, make_rules_cancellable};
use crate::session::limits::function_bounds;
use crate::session::names::inner_names::NamedQueries;
use crate::session::options::{CATALOG, ForkOptions, JobMemory, SCHEMA, SessionOptions};
use crate::session::physical::bounded_plan::BoundedPlanner;
use crate::session::physical::delimiters::ShortDelimiters;
use crate::session::physical::guarded_projections::GuardedProjections;
use crate::session::physical::nan_statistics::{IgnoreFloatBounds, UnprunedFloats};
use crate::session::physical::normalize_nan::NormalizeNan;
use crate::session::physical::read_once::ReadOnce;
use crate::session::physical::small_batches::SmallBatches;
use crate::session::physical::top_groups::KeepAllGroups;
use crate::session::system::{SYSTEM, SystemSchema};
use crate::session::views::SessionViews;
use crate::tables::archive::CoveredFiles;
use crate::tables::delta;
use crate::tables::json::ExactJsonFactory;
use crate::tables::parquet::read_int96_in_microseconds;

/// The state that a session and its forks share: functions, rules and settings, without tables. Copying it is much cheaper than
/// building it.
pub(super) fn common(
    options: &SessionOptions,
    runtime: Arc<RuntimeEnv>,
) -> Result<Arc<SessionState>> {
    let mut config = SessionConfig::new()
        .with_extension(Arc::new(NullFreeColumns::new(delta::has_no_nulls)))
        .with_extension(Arc::new(CoveredFiles::default()))
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, SCHEMA);
    if let Some(partitions) = options.target_partitions {
        config = config.with_target_partitions(partitions);
    }
    let settings = config.options_mut();
    let limit = limit_of(runtime.memory_pool.as_ref());
    set_budget(settings, limit);
    settings.sql_parser.collect_spans = true;
    settings.sql_parser.map_string_types_to_utf8view = false;
    settings.sql_parser.support_varchar_with_length = true;
    read_int96_in_microseconds(settings);
    settings.sql_parser.parse_float_as_decimal = true;
    // For some expressions, such as IS NOT TRUE, the engine's operators are nullable and its plans are not: it would refuse an
    // aggregate over a shared one.
    settings.execution.skip_physical_aggregate_schema_check = true;

    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_type_planner(Arc::new(SqlTypes))
        .with_query_planner(Arc::new(BoundedPlanner::new(
            anabranch_udfs::query_planner(),
        )))
        .with_physical_optimizer_rules(physical_rules());
    let mut builder = anabranch_udfs::register(builder);
    // In front: the engine's own planners would choose functions without bounds.
    builder
        .expr_planners()
        .get_or_insert_default()
        .insert(0, Arc::new(BoundedLiterals));
    builder
        .relation_planners()
        .get_or_insert_default()
        .push(Arc::new(NamedQueries));
    make_rules_cancellable(&mut builder);
    let mut state = builder.build();
    state.register_function_rewrite(Arc::new(CancellableRewrite))?;
    anabranch_udfs::register_json(&mut state)?;
    function_bounds::bound(&mut state)?;
    state.register_file_format(Arc::new(ExactJsonFactory::new()), true)?;
    Ok(Arc::new(state))
}

/// The engine's rules, after one that must precede all readers of statistics, and before those that must follow all pushdown of
/// predicates. The rule that moves projections leaves those that a filter guards.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(IgnoreFloatBounds)];
    let guarded: Arc<dyn PhysicalOptimizerRule + Send + Sync> =
        Arc::new(GuardedProjections::default());
    let of_engine = PhysicalOptimizer::new().rules.into_iter();
    rules.extend(of_engine.map(|rule| match rule.name() == guarded.name() {
        true => Arc::clone(&guarded),
        false => rule,
    }));
    rules.push(Arc::new(UnprunedFloats));
    rules.push(Arc::new(KeepAllGroups));
    rules.push(Arc::new(ShortDelimiters));
    rules.push(Arc::new(SmallBatches));
    rules.push(Arc::new(ReadOnce));
    rules.push(Arc::new(InsertYieldPoints));
    rules.push(Arc::new(NormalizeNan));
    rules.push(Arc::new(ExactFiles));
    rules
}

/// A context over the tables of `catalog`.
pub(super) fn build(
    options: &SessionOptions,
    fork: &ForkOptions,
    notices: Arc<CompletionNotices>,
    catalog: Catalog,
    common: &SessionState,
) -> Result<(SessionContext, Arc<Catalog>)> {
    let mut state = match (&fork.time_zone, fork.memory_limit) {
        (None, None) => common.clone(),
        (zone, limit) => {
            // Functions learn the zone when a state is built.
            let mut config = common.config().clone();
            if let Some(zone) = zone {
                config.options_mut().execution.time_zone = Some(zone.clone());
            }
            if let Some(limit) = limit {
                set_budget(config.options_mut(), limit);
            }
            SessionStateBuilder::new_from_existing(common.clone())
                .with_config(config)
                .with_runtime_env(limited(common.runtime_env(), limit))
                .build()
        }
    };
    state.config_mut().set_extension(notices);
    state.register_catalog_list(Arc::new(MemoryCatalogProviderList::new()));
    let context = SessionContext::new_with_state(state);

    let catalog = Arc::new(catalog);
    let root = MemoryCatalogProvider::new();
    root.register_schema(SCHEMA, Arc::clone(&catalog) as _)
        .map_err(|error| Error::internal(error.to_string()))?;
    if let Some(data_dir) = &options.data_dir {
        let system = Arc::new(SystemSchema::new(data_dir.clone(), fork.may_name.clone()));
        root.register_schema(SYSTEM, system)
            .map_err(|error| Error::internal(error.to_string()))?;
    }
    context.register_catalog(CATALOG, Arc::new(root));
    catalog.attach(SessionViews::of(&context));
    Ok((context, catalog))
}

/// Sets the budget of one function call from the statement's memory: the result is copied once or twice on its way.
fn set_budget(settings: &mut ConfigOptions, limit: usize) {
    settings.extensions.insert(Budget(limit / 4));
}

/// Memory, disk and caches of files of a session, shared by its forks.
#[derive(Debug, Clone)]
pub(super) struct SessionResources {
    /// The environment of statements.
    pub(super) statements: Arc<RuntimeEnv>,
    /// The environment of jobs; that of statements, if jobs have no memory of their own.
    pub(super) jobs: Arc<RuntimeEnv>,
}

impl SessionResources {
    /// # Errors
    ///
    /// Options that reserve all memory for jobs.
    pub(super) fn try_new(options: &SessionOptions) -> Result<Self> {
        let whole = options.memory_limit.unwrap_or_else(default_memory_limit);
        let of_jobs = match options.job_memory {
            JobMemory::Shared => None,
            JobMemory::Half => Some(whole / 2),
            JobMemory::Bytes(bytes) if bytes < whole => Some(bytes),
            JobMemory::Bytes(bytes) => {
                return Err(Error::invalid(format!(
                    "jobs cannot have {bytes} bytes of the {whole} for jobs and statements"
                ))
                .with_help(
                    "--job-memory is a part of --memory-limit: lower it, or raise --memory-limit",
                ));
            }
        };
        let disk = || {
            let mode = match &options.spill_dir {
                Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
                None => DiskManagerMode::default(),
            };
            DiskManagerBuilder::default().with_mode(mode)
        };
        let of_statements = whole - of_jobs.unwrap_or(0);
        let statements = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(of_statements)))
            .with_disk_manager_builder(disk())
            .build_arc()?;
        let jobs = match of_jobs {
            None => Arc::clone(&statements),
            // Spill files of statements do not count against the limit of jobs. And a thread of a statement may wait for memory
            // while it holds the lock of a cache: jobs have other caches.
            Some(of_jobs) => Arc::new(RuntimeEnv {
                memory_pool: Arc::new(FairSpillPool::new(of_jobs)),
                disk_manager: Arc::new(disk().build()?),
                cache_manager: CacheManager::try_new(&CacheManagerConfig::default())?,
                ..statements.as_ref().clone()
            }),
        };
        Ok(Self { statements, jobs })
    }

    /// The pools: one or two.
    fn pools(&self) -> impl Iterator<Item = &Arc<dyn MemoryPool>> {
        let own = (!Arc::ptr_eq(&self.statements, &self.jobs)).then_some(&self.jobs);
        [&self.statements]
            .into_iter()
            .chain(own)
            .map(|runtime| &runtime.memory_pool)
    }

    /// Bytes that statements and jobs may hold together.
    pub(super) fn limit(&self) -> usize {
        let limits = self.pools().map(|pool| limit_of(pool.as_ref()));
        limits.fold(0, usize::saturating_add)
    }

    /// Bytes that they hold.
    pub(super) fn reserved(&self) -> usize {
        self.pools().map(|pool| pool.reserved()).sum()
    }

    /// The state that the sessions of a job share, with the memory of jobs as this job sees it. Each job has its own cache of
    /// file listings, since each of its batches lists files again; the cache of file metadata is shared by all jobs.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn of_job(
        &self,
        common: &SessionState,
    ) -> Result<(Arc<SessionState>, Arc<JobPool>)> {
        let pool = Arc::new(JobPool::new(Arc::clone(&self.jobs.memory_pool)));
        let of_jobs = &self.jobs.cache_manager;
        let caches = CacheManagerConfig::default()
            .with_file_statistics_cache(of_jobs.get_file_statistic_cache())
            .with_file_metadata_cache(Some(of_jobs.get_file_metadata_cache()));
        let runtime = RuntimeEnv {
            memory_pool: Arc::clone(&pool) as _,
            cache_manager: CacheManager::try_new(&caches)?,
            ..self.jobs.as_ref().clone()
        };
        let mut config = common.config().clone();
        set_budget(config.options_mut(), limit_of(pool.as_ref()));
        let state = SessionStateBuilder::new_from_existing(common.clone())
            .with_config(config)
            .with_runtime_env(Arc::new(runtime))
            .build();
        Ok((Arc::new(state), pool))
    }
}

/// The environment with the same memory and disk, and a limit for one fork.
fn limited(runtime: &RuntimeEnv, limit: Option<usize>) -> Arc<RuntimeEnv> {
    let mut runtime = runtime.clone();
    if let Some(limit) = limit {
        runtime.memory_pool = Arc::new(LimitedPool::new(runtime.memory_pool, limit));
    }
    Arc::new(runtime)
}

/// Half of the machine's memory; 2 GiB if its size is unknown.
fn default_memory_limit() -> usize {
    const FALLBACK: usize = 2 << 30;
    let Ok(info) = std::fs::read_to_string("/proc/meminfo") else {
        return FALLBACK;
    };
    info.lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .map_or(FALLBACK, |kib: usize| kib.saturating_mul(1024) / 2)
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadata};
    use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
    use datafusion::object_store::ObjectMeta;
    use datafusion::object_store::path::Path;

    use super::*;

    fn resources(limit: usize, job_memory: JobMemory) -> Result<SessionResources> {
        SessionResources::try_new(&SessionOptions {
            memory_limit: Some(limit),
            job_memory,
            ..SessionOptions::default()
        })
    }

    fn consumer(runtime: &RuntimeEnv) -> MemoryReservation {
        MemoryConsumer::new("test").register(&runtime.memory_pool)
    }

    #[test]
    fn safe_1_statements_cannot_use_the_memory_of_jobs() {
        for (given, of_jobs) in [(JobMemory::Half, 50), (JobMemory::Bytes(30), 30)] {
            let resources = resources(100, given).unwrap();
            let (statement, job) = (consumer(&resources.statements), consumer(&resources.jobs));
            statement.try_grow(100 - of_jobs).unwrap();
            statement.try_grow(1).unwrap_err();
            job.try_grow(of_jobs).unwrap();
            job.try_grow(1).unwrap_err();
            assert_eq!((resources.limit(), resources.reserved()), (100, 100));
        }
        let shared = resources(100, JobMemory::Shared).unwrap();
        let (statement, job) = (consumer(&shared.statements), consumer(&shared.jobs));
        statement.try_grow(60).unwrap();
        job.try_grow(41).unwrap_err();
        assert_eq!((shared.limit(), shared.reserved()), (100, 60));
        for too_much in [100, 101] {
            let error = resources(100, JobMemory::Bytes(too_much)).unwrap_err();
            assert!(error.help().unwrap().contains("--job-memory"), "{error}");
        }
    }

    #[test]
    fn functions_of_a_job_have_the_budget_of_jobs() {
        let resources = resources(100, JobMemory::Bytes(20)).unwrap();
        let common = common(
            &SessionOptions::default(),
            Arc::clone(&resources.statements),
        );
        let common = common.unwrap();
        let budget = |state: &SessionState| {
            let settings = state.config_options();
            settings.extensions.get::<Budget>().map(|budget| budget.0)
        };
        let (of_job, pool) = resources.of_job(&common).unwrap();
        assert_eq!((budget(&common), budget(&of_job)), (Some(20), Some(5)));
        let job = consumer(of_job.runtime_env());
        job.try_grow(15).unwrap();
        assert_eq!((pool.reserved(), resources.reserved()), (15, 15));
        job.try_grow(6).unwrap_err();
        let shortage = pool.take_shortage().unwrap();
        assert_eq!(
            (shortage.held, shortage.others, shortage.limit),
            (15, 0, 20)
        );
    }
    /// The addresses of the file caches: metadata, statistics, listings.
    fn caches(runtime: &RuntimeEnv) -> [*const (); 3] {
        let caches = &runtime.cache_manager;
        [
            Arc::as_ptr(&caches.get_file_metadata_cache()).cast(),
            Arc::as_ptr(&caches.get_file_statistic_cache().unwrap()).cast(),
            Arc::as_ptr(&caches.get_list_files_cache().unwrap()).cast(),
        ]
    }

    #[test]
    fn safe_1_jobs_have_caches_of_files_of_their_own() {
        let resources = resources(100, JobMemory::Half).unwrap();
        let statements = Arc::clone(&resources.statements);
        let common = common(&SessionOptions::default(), statements).unwrap();
        let of_job = || resources.of_job(&common).unwrap().0;
        let [one, other] = [of_job(), of_job()].map(|job| caches(job.runtime_env()));
        for (of_job, of_statements) in one.iter().zip(caches(&resources.statements)) {
            assert_ne!(*of_job, of_statements);
        }
        // All jobs share the cached file metadata; each has its own listings.
        assert_eq!(one[..2], other[..2]);
        assert_ne!(one[2], other[2]);
    }

    /// Metadata whose size becomes known when the test allows it: until then the cache that stores it is locked.
    struct SlowMetadata(Sender<()>, Mutex<Receiver<()>>);

    impl FileMetadata for SlowMetadata {
        fn as_any(&self) -> &dyn Any {
            self
        }

        fn memory_size(&self) -> usize {
            let _ = self.0.send(());
            let goes_on = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = goes_on.recv();
            1
        }

        fn extra_info(&self) -> datafusion::common::HashMap<String, String> {
            datafusion::common::HashMap::default()
        }
    }

    #[test]
    fn safe_1_a_locked_file_cache_of_statements_does_not_block_jobs() {
        let resources = resources(100, JobMemory::Half).unwrap();
        let of = |runtime: &RuntimeEnv| runtime.cache_manager.get_file_metadata_cache();
        let (of_statements, of_jobs) = (of(&resources.statements), of(&resources.jobs));
        let path = Path::from("a.parquet");
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: 1,
            e_tag: None,
            version: None,
        };
        let (is_held, held) = channel();
        let (goes_on, may_go_on) = channel();
        let entry = CachedFileMetadataEntry::new(
            meta,
            Arc::new(SlowMetadata(is_held, Mutex::new(may_go_on))),
        );
        let of_statement = path.clone();
        let statement = std::thread::spawn(move || of_statements.put(&of_statement, entry));
        held.recv().unwrap();
        let (asked, answer) = channel();
        std::thread::spawn(move || asked.send(of_jobs.get(&path).is_none()));
        let answer = answer.recv_timeout(Duration::from_secs(60));
        drop(goes_on);
        statement.join().unwrap();
        assert_eq!(answer, Ok(true));
    }
}
