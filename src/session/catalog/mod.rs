//! Catalog of a session: it keeps the definitions of tables, and creates a table provider for each statement.

pub(crate) mod dead_letters;
pub(crate) mod entry;
pub(crate) mod exact_files;
pub(crate) mod file_names;
pub(crate) mod hidden_names;
pub(crate) mod unopened_table;
pub(crate) mod view_barrier;
#[cfg(test)]
pub(crate) mod view_barrier_tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use anabranch_udfs::Walk;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::cache::cache_manager::FileStatisticsCache;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Visitor};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::core::stack::with_stack;
use crate::core::suggest::closest;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::session::catalog::entry::{placeholder, with_statistics};
use crate::session::catalog::hidden_names::{table_of_change, table_of_coverage};
use crate::session::catalog::view_barrier::BarrierView;
use crate::session::names::inner_names::{EqualNames, renamed};
use crate::session::names::labels::Labels;
use crate::session::options::{ClosedTables, TableLocation};
use crate::session::rewrite::arguments::{Purpose, deferred, queries_of, with_values};
use crate::session::rewrite::asked_version::AskedVersion;
use crate::session::syntax::{find_relation, plain_name};
use crate::tables::archive::{ArchivedTableProvider, CoverageTable, PinnedArchive, topic_of};
use crate::tables::delta::{DeltaTableHandle, TimeTravel};
use crate::tables::kafka::{KafkaTable, KafkaTableProvider};

pub(crate) use crate::session::catalog::entry::{TableEntry, VIEWS, View, too_many_views};
pub(crate) use crate::session::catalog::hidden_names::{
    changes_name, coverage_name, rows_name, split_time_travel, time_travel_name,
};

/// Plans the queries of views over the tables of a catalog.
pub(crate) trait PlanViews: Send + Sync {
    /// The plan of a view's query.
    ///
    /// # Errors
    ///
    /// The query's, with its place in the text of the view.
    fn plan<'a>(
        &'a self,
        catalog: &'a Catalog,
        query: Box<Query>,
    ) -> BoxFuture<'a, Result<LogicalPlan>>;
}

#[derive(Default)]
struct CatalogTables {
    entries: BTreeMap<String, TableEntry>,
    /// Tables that views may use and statements may not.
    hidden: BTreeMap<String, TableEntry>,
    /// Whether statements may use certain tables only, even if they may use all that exist.
    is_restricted: bool,
    /// Tables declared by a restricted user: one who may use certain tables only.
    restricted: BTreeSet<String>,
    /// Decides whether a table may not be opened here, also from within a view.
    is_closed: Option<ClosedTables>,
    definitions: BTreeMap<String, String>,
}

/// The purpose of the running statement, and what was left open for it.
#[derive(Default)]
struct PlannedFor {
    purpose: Purpose,
    /// Versions of tables that are known only when it runs, those first that others may need.
    versions: Vec<AskedVersion>,
    /// Whether an argument has no value yet.
    is_open: bool,
}

/// The schema of a session, the only one.
#[derive(Default)]
pub(crate) struct Catalog {
    tables: RwLock<CatalogTables>,
    /// A new number after each change; only a fork that was made since has the same one.
    version: AtomicU64,
    /// Providers of the running statement: every mention of a table refers to the same snapshot.
    statement: Mutex<HashMap<String, Arc<dyn TableProvider>>>,
    /// What the running statement is planned for.
    planned: Mutex<PlannedFor>,
    /// Views being planned, innermost last, so that a view that uses itself is refused.
    planning: Mutex<Vec<String>>,
    /// Set once, after the context is built.
    views: OnceLock<Box<dyn PlanViews>>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("tables", &self.names())
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Enables the planning of views; called once, after the context is built.
    pub(crate) fn attach(&self, views: impl PlanViews + 'static) {
        let _ = self.views.set(Box::new(views));
    }

    /// Drops the snapshots of the previous statement.
    pub(crate) fn begin_statement(&self) {
        self.begin(Purpose::Run);
    }

    /// Drops the snapshots of the previous statement; the next one is planned for this purpose.
    pub(crate) fn begin(&self, purpose: Purpose) {
        lock(&self.statement).clear();
        lock(&self.planning).clear();
        *lock(&self.planned) = PlannedFor {
            purpose,
            ..PlannedFor::default()
        };
    }

    /// The purpose for which the running statement is planned.
    pub(crate) fn purpose(&self) -> Purpose {
        lock(&self.planned).purpose
    }

    /// Ends planning: from now on tables are asked for their columns alone, as by `information_schema`.
    pub(crate) fn end_planning(&self) {
        lock(&self.planned).purpose = Purpose::Describe;
    }

    /// Leaves the version of a table open until the statement runs; gives the table's hidden name.
    pub(crate) fn ask_version(&self, version: AskedVersion) -> String {
        let name = version.hidden_name();
        let mut planned = lock(&self.planned);
        planned.is_open = true;
        let mut known = planned.versions.iter();
        if !known.any(|known| known.hidden_name() == name) {
            planned.versions.push(version);
        }
        name
    }

    /// The versions of tables that are open until the running statement runs.
    pub(crate) fn asked_versions(&self) -> Vec<AskedVersion> {
        lock(&self.planned).versions.clone()
    }

    /// Whether an argument of the running statement has no value: its plan gives no rows, or others than it will.
    pub(crate) fn is_left_open(&self) -> bool {
        lock(&self.planned).is_open
    }

    /// Deals with the queries in the arguments of a statement's plan, or of a view's, as its purpose asks: runs them now, or leaves
    /// them in the plan.
    ///
    /// # Errors
    ///
    /// Errors of the queries.
    pub(crate) async fn with_arguments(
        &self,
        context: &SessionContext,
        plan: LogicalPlan,
    ) -> Result<LogicalPlan> {
        let plan = deferred(plan)?;
        match self.purpose() {
            Purpose::Run => with_values(context, plan).await,
            Purpose::Describe | Purpose::Batches => {
                if !queries_of(&plan)?.is_empty() {
                    lock(&self.planned).is_open = true;
                }
                Ok(plan)
            }
        }
    }

    /// The table behind the hidden name of a version that is open.
    fn table_of_version(&self, name: &str) -> Option<String> {
        let planned = lock(&self.planned);
        let mut versions = planned.versions.iter();
        let found = versions.find(|version| version.hidden_name() == name)?;
        Some(found.table.clone())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.read(|tables| tables.entries.keys().cloned().collect())
    }

    pub(crate) fn column_names(&self) -> Vec<String> {
        self.read(|tables| {
            let mut names: Vec<String> = tables
                .entries
                .values()
                .flat_map(|entry| match &entry.settled() {
                    TableEntry::Kafka(table) => field_names(table.schema()),
                    TableEntry::Delta { schema, .. } => field_names(schema),
                    TableEntry::Unopened(_) => Vec::new(),
                    TableEntry::Provider(provider) => field_names(&provider.schema()),
                    TableEntry::View(view) => view.columns.clone(),
                })
                .collect();
            names.sort();
            names.dedup();
            names
        })
    }

    pub(crate) fn entry(&self, name: &str) -> Option<TableEntry> {
        self.read(|tables| tables.entries.get(name).map(TableEntry::settled))
    }

    /// The entry of a table that a plan reads, also of one that only a view may use.
    pub(crate) fn entry_of_plan(&self, name: &str) -> Option<TableEntry> {
        self.read(|tables| {
            let entry = tables.entries.get(name);
            let entry = entry.or_else(|| tables.hidden.get(name));
            entry.map(TableEntry::settled)
        })
    }

    /// The locations of the tables with these names.
    pub(crate) fn places(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<TableLocation> {
        self.read(|tables| {
            let entries = tables.entries.iter().chain(&tables.hidden);
            entries
                .filter(|(name, _)| is_wanted(name))
                .flat_map(|(_, entry)| entry.places())
                .collect()
        })
    }

    /// Records whether the user who declared a table may use certain tables only.
    pub(crate) fn set_restricted(&self, name: &str, is_restricted: bool) {
        let mut tables = self.write();
        match is_restricted {
            true => tables.restricted.insert(name.to_owned()),
            false => tables.restricted.remove(name),
        };
    }

    /// Whether a restricted user declared the table: one who may use certain tables only.
    pub(crate) fn is_restricted(&self, name: &str) -> bool {
        self.read(|tables| tables.restricted.contains(name))
    }

    /// Returns an error for a table that may not be opened here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`].
    pub(crate) fn check_open(&self, name: &str) -> Result<()> {
        // The check looks into another catalog, and at files: it runs without a lock on this catalog.
        let is_closed = self.read(|tables| tables.is_closed.clone());
        match is_closed.is_some_and(|is_closed| is_closed(name)) {
            false => Ok(()),
            true => {
                let message = format!("{name} is at the location of a table that you may not use");
                let error = Error::new(ErrorKind::Permission, message);
                Err(error.about(Subject::table(name)).with_help(
                    "it was declared before that table: DROP TABLE, and declare it at another location",
                ))
            }
        }
    }

    /// The entry, or an error that names close ones.
    pub(crate) fn expect(&self, name: &str) -> Result<TableEntry> {
        self.entry(name).ok_or_else(|| self.no_such_table(name))
    }

    pub(crate) fn no_such_table(&self, name: &str) -> Error {
        let names = self.names();
        let error = Error::not_found(format!("no table or view is named {name}"))
            .about(Subject::table(name));
        match closest(name, names.iter().map(String::as_str)) {
            Some(near) => error.with_help(format!("did you mean {near}?")),
            None if names.is_empty() => {
                error.with_help("declare it with CREATE EXTERNAL TABLE, or run the file that does")
            }
            None => error.with_help(format!("there are {}", names.join(", "))),
        }
    }

    /// DataFusion's error for a missing table, with its place and with similar names.
    pub(crate) fn missing_table(
        &self,
        error: impl Into<Error>,
        mut statement: SqlStatement,
    ) -> Error {
        let error = error.into();
        let mut subjects = error.subjects().iter();
        let Some(table) = subjects.find_map(|subject| match subject {
            Subject::UnknownTable(name) => Some(name.as_str()),
            _ => None,
        }) else {
            return error;
        };
        let missing = self.no_such_table(table);
        match find_relation(&mut statement, table) {
            Some(span) => missing.at(span),
            None => missing,
        }
    }

    /// The table of this name; opens it if it is not open yet.
    ///
    /// # Errors
    ///
    /// A missing table, with similar names; a table that may not be opened here; or the reason why it cannot be opened.
    pub(crate) async fn open(&self, name: &str) -> Result<TableEntry> {
        let entry = self.expect(name)?;
        self.check_open(name)?;
        match entry {
            TableEntry::Unopened(unopened) => unopened.open().await.map(TableEntry::from),
            entry => Ok(entry),
        }
    }

    /// The tables that are defined and not open, with the reason of each.
    pub(crate) fn unopened(&self) -> Vec<(String, String)> {
        let of = |name: String| match self.entry(&name) {
            Some(TableEntry::Unopened(unopened)) => Some((name, unopened.reason())),
            _ => None,
        };
        self.names().into_iter().filter_map(of).collect()
    }

    /// The Delta table of this name.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; another kind of table.
    pub(crate) async fn delta(&self, name: &str) -> Result<DeltaTableHandle> {
        match self.open(name).await? {
            TableEntry::Delta { handle, .. } => Ok(handle),
            other => Err(Error::invalid(format!(
                "{name} is a {}, and this statement is about Delta tables",
                other.kind_name()
            ))
            .about(Subject::table(name))),
        }
    }

    /// The same for a table that another one names, which statements need not be allowed to use.
    pub(crate) async fn delta_of_plan(&self, name: &str) -> Result<DeltaTableHandle> {
        self.check_open(name)?;
        let entry = match self.entry_of_plan(name) {
            Some(TableEntry::Unopened(unopened)) => Some(unopened.open().await?.into()),
            entry => entry,
        };
        match entry {
            Some(TableEntry::Delta { handle, .. }) => Ok(handle),
            _ => self.delta(name).await,
        }
    }

    pub(crate) fn definition(&self, name: &str) -> Result<String> {
        if let TableEntry::View(view) = self.expect(name)?
            && self.hides(&view)
        {
            return Err(Error::new(
                ErrorKind::Permission,
                format!("the definition of {name} names tables that you may not use"),
            )
            .about(Subject::table(name))
            .with_help("DESCRIBE has its columns"));
        }
        self.read(|tables| tables.definitions.get(name).cloned())
            .ok_or_else(|| {
                Error::unsupported(format!("{name} has no definition to show"))
                    .about(Subject::table(name))
            })
    }

    /// Adds or replaces a table. SHOW CREATE TABLE displays `definition`: it must have no secrets.
    pub(crate) fn put(&self, name: &str, entry: TableEntry, definition: String) {
        let mut tables = self.write();
        tables.restricted.remove(name);
        tables.entries.insert(name.to_owned(), entry);
        tables.definitions.insert(name.to_owned(), definition);
    }

    /// Keeps the text of the statement by which DataFusion's own DDL just created a table.
    pub(crate) fn describe_new(&self, text: &str) {
        let tables = &mut *self.write();
        for name in tables.entries.keys() {
            tables
                .definitions
                .entry(name.clone())
                .or_insert_with(|| text.to_owned());
        }
    }

    /// A catalog with the same tables, for statements that run concurrently with those of this one; they may use only the
    /// tables that `table_filter` allows, and open none for which `is_closed` returns true.
    pub(crate) fn fork(
        &self,
        may_name: Option<impl Fn(&str) -> bool>,
        is_closed: Option<&ClosedTables>,
    ) -> Self {
        let (tables, version) = self.read(|tables| {
            let mut entries = tables.entries.clone();
            let mut hidden = tables.hidden.clone();
            if let Some(may_name) = &may_name {
                hidden.extend(entries.extract_if(.., |name, _| !may_name(name)));
            }
            let tables = CatalogTables {
                is_restricted: tables.is_restricted || may_name.is_some(),
                restricted: tables.restricted.clone(),
                is_closed: is_closed.cloned(),
                entries,
                hidden,
                definitions: tables.definitions.clone(),
            };
            (tables, self.version())
        });
        Self {
            tables: RwLock::new(tables),
            version: AtomicU64::new(version),
            ..Self::default()
        }
    }

    /// Keeps statistics of files in this cache. A table starts with the cache of the session that declared it.
    pub(crate) fn keep_statistics_in(&self, statistics: Option<&Arc<FileStatisticsCache>>) {
        let mut tables = self.write();
        let CatalogTables {
            entries, hidden, ..
        } = &mut *tables;
        for entry in entries.values_mut().chain(hidden.values_mut()) {
            if let TableEntry::Provider(provider) = entry
                && let Some(own) = with_statistics(&**provider, statistics)
            {
                *provider = own;
            }
        }
    }

    /// Lets the running statement drop a table or view without opening it.
    pub(crate) fn pin_for_drop(&self, name: &str) {
        if let Some(entry) = self.entry(name) {
            self.pin(name, placeholder(&entry));
        }
    }

    /// Removes a name; returns its entry and definition.
    pub(crate) fn remove(&self, name: &str) -> Option<(TableEntry, String)> {
        let mut tables = self.write();
        tables.restricted.remove(name);
        let definition = tables.definitions.remove(name).unwrap_or_default();
        Some((tables.entries.remove(name)?, definition))
    }

    /// Sets the provider of a table for the running statement.
    pub(crate) fn pin(&self, name: &str, provider: Arc<dyn TableProvider>) {
        lock(&self.statement).insert(name.to_owned(), provider);
    }

    /// All tables and views that the running statement has mentioned, sorted.
    pub(crate) fn names_in_use(&self) -> Vec<String> {
        let table = |name: &String| match self.table_of_version(name) {
            Some(table) => table,
            None => {
                let name = table_of_change(name).unwrap_or(name);
                let name = table_of_coverage(name).unwrap_or(name);
                split_time_travel(name).0.to_owned()
            }
        };
        let mut names: Vec<String> = lock(&self.statement).keys().map(table).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Kafka tables that the running statement has read.
    pub(crate) fn kafka_tables_in_use(&self) -> Vec<Arc<dyn TableProvider>> {
        lock(&self.statement)
            .values()
            .filter(|provider| topic_of(provider.as_ref()).is_some())
            .cloned()
            .collect()
    }

    /// Takes warnings about records that tables of the running statement do not have.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        let statement = lock(&self.statement);
        let archived = statement.values().filter_map(|provider| {
            let archived = provider.downcast_ref::<ArchivedTableProvider>()?;
            Some(archived.take_warnings())
        });
        archived.flatten().collect()
    }

    /// The provider of a table for the running statement; `None`: no such table.
    pub(crate) async fn provider(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        // A view may use tables that its reader may not.
        let in_view = !lock(&self.planning).is_empty();
        self.provider_for(name, in_view).await
    }

    /// The same for a table that a plan reads, also one that only a view may use.
    pub(crate) async fn provider_of_plan(
        &self,
        name: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        self.provider_for(name, true).await
    }

    async fn provider_for(
        &self,
        name: &str,
        in_view: bool,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let of_change = self.hidden(name, table_of_change);
        let of_coverage = self.hidden(name, table_of_coverage);
        let of_version = self.table_of_version(name);
        let (base, travel) = match &of_version {
            Some(table) => (table.as_str(), TimeTravel::Latest),
            None => split_time_travel(of_change.or(of_coverage).unwrap_or(name)),
        };
        let found = self.read(|tables| {
            let hidden = || tables.hidden.get(base).filter(|_| in_view);
            let entry = tables.entries.get(base).or_else(hidden);
            entry.map(TableEntry::settled)
        });
        let Some(entry) = found else {
            return Ok(None);
        };
        self.check_open(base)?;
        if let Some(known) = lock(&self.statement).get(name) {
            return Ok(Some(Arc::clone(known)));
        }
        // Only the statement that changes rows, which created these names, may use them.
        if of_change.is_some() {
            return Ok(None);
        }
        let entry = match entry {
            TableEntry::Unopened(unopened) => unopened.open().await?.into(),
            entry => entry,
        };
        let provider: Arc<dyn TableProvider> = match entry {
            TableEntry::Unopened(unopened) => return Err(unopened.error()),
            entry if of_coverage.is_some() => {
                let (table, archive) = self.archived(base, entry).await?;
                Arc::new(CoverageTable::new(table, archive))
            }
            TableEntry::Kafka(table) => self.provider_of_topic(table).await,
            TableEntry::Delta { handle, .. } => handle.snapshot(travel).await?,
            TableEntry::View(view) => self.plan_view(base, &view).await?,
            TableEntry::Provider(provider) => provider,
        };
        lock(&self.statement).insert(name.to_owned(), Arc::clone(&provider));
        Ok(Some(provider))
    }

    /// The provider of a Kafka table. One that names an archive reads it in the version that the running statement sees anyway; who may
    /// read the table may read its archive through it.
    async fn provider_of_topic(&self, table: Arc<KafkaTable>) -> Arc<dyn TableProvider> {
        let Some(archive) = table.archive() else {
            return Arc::new(KafkaTableProvider::new(table));
        };
        let pinned = self.pinned_archive(&table, archive.table()).await;
        let pinned = pinned.map_err(|error| {
            let error = error.context(format!("the archive of table {}", table.name()));
            error.about(Subject::table(table.name()))
        });
        Arc::new(ArchivedTableProvider::new(table, pinned))
    }

    async fn pinned_archive(
        &self,
        table: &Arc<KafkaTable>,
        archive: &str,
    ) -> Result<Arc<PinnedArchive>> {
        let known = lock(&self.statement).get(archive).cloned();
        let delta = match known {
            Some(delta) => delta,
            None => {
                let handle = self.delta_of_plan(archive).await?;
                let delta = handle.snapshot(TimeTravel::Latest).await?;
                self.pin(archive, Arc::clone(&delta));
                delta
            }
        };
        PinnedArchive::over(Arc::clone(table), delta).map(Arc::new)
    }

    /// The table behind a hidden name, as `table_of` finds it there; `None` if a table has that name.
    fn hidden<'n>(&self, name: &'n str, table_of: fn(&str) -> Option<&str>) -> Option<&'n str> {
        let table = table_of(name)?;
        self.read(|tables| !tables.entries.contains_key(name))
            .then_some(table)
    }

    /// The Kafka table that an entry is, and the Delta table that it names as its archive.
    ///
    /// # Errors
    ///
    /// Another kind of table, one without an archive, or an archive that cannot be opened.
    pub(crate) async fn archived(
        &self,
        name: &str,
        entry: TableEntry,
    ) -> Result<(Arc<KafkaTable>, DeltaTableHandle)> {
        let kind = entry.kind_name();
        let TableEntry::Kafka(table) = entry else {
            return Err(Error::invalid(format!(
                "{name} is a {kind}, and an archive is the past of a Kafka table"
            ))
            .about(Subject::table(name))
            .with_help("name the table over the topic: the one with the option 'archive'"));
        };
        let Some(archive) = table.archive() else {
            return Err(
                Error::invalid(format!("Kafka table {name} names no archive"))
                    .about(Subject::table(name))
                    .with_help(
                        "declare it with the Delta table that keeps the topic's past: OPTIONS ('archive' 'visits_raw', …)",
                    ),
            );
        };
        let handle = self.delta_of_plan(archive.table()).await?;
        Ok((table, handle))
    }

    async fn plan_view(&self, name: &str, view: &View) -> Result<Arc<dyn TableProvider>> {
        let views = self.views.get();
        let views = views.ok_or_else(|| Error::internal("the session is not built yet"))?;
        {
            let mut planning = lock(&self.planning);
            if planning.iter().any(|planned| planned == name) {
                return Err(Error::invalid(format!("view {name} is defined by itself"))
                    .about(Subject::table(name)));
            }
            if planning.len() >= VIEWS {
                return Err(too_many_views(name));
            }
            planning.push(name.to_owned());
        }
        let hides = self.hides(view);
        let planned = views.plan(self, view.query.clone()).await;
        lock(&self.planning).pop();
        let plan = planned.map_err(|error| match hides {
            true => view_barrier::hidden(name, &error),
            false => error
                .context(format!("view {name}"))
                .within(Subject::table(name)),
        })?;
        let plan = match view.columns.is_empty() {
            true => renamed(plan, &Labels::of_query(&view.query), EqualNames::Kept)?,
            false => rename(plan, &view.columns)?,
        };
        if hides {
            return Ok(Arc::new(BarrierView::new(name, plan)));
        }
        let definition = self.read(|tables| tables.definitions.get(name).cloned());
        Ok(Arc::new(ViewTable::new(plan, definition)))
    }

    /// Whether a view reads tables that statements may not use.
    fn hides(&self, view: &View) -> bool {
        self.read(|tables| {
            if !tables.is_restricted {
                return false;
            }
            let mut reads = TableReferences {
                tables,
                seen: Vec::new(),
                within: 0,
            };
            with_stack(|| view.query.walk(&mut reads).is_break())
        })
    }

    /// Forks of the same version have the same tables.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn write(&self) -> RwLockWriteGuard<'_, CatalogTables> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        // Within the lock: a reader of the tables reads their version along with them.
        self.version
            .store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Release);
        tables
    }

    fn read<T>(&self, look: impl FnOnce(&CatalogTables) -> T) -> T {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Finds names of tables that are hidden or missing, also through nested views. The name of a common table expression counts as
/// missing: this closes a view too many rather than one too few.
struct TableReferences<'a> {
    tables: &'a CatalogTables,
    seen: Vec<String>,
    /// Depth of nested views.
    within: usize,
}

impl Visitor for TableReferences<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let Ok(name) = plain_name(relation) else {
            return ControlFlow::Break(());
        };
        match self.tables.entries.get(&name) {
            None => ControlFlow::Break(()),
            Some(TableEntry::View(view)) if !self.seen.contains(&name) => {
                // The planner refuses views nested more deeply.
                if self.within >= VIEWS {
                    return ControlFlow::Break(());
                }
                self.seen.push(name);
                self.within += 1;
                let read = view.query.walk(self);
                self.within -= 1;
                read
            }
            Some(_) => ControlFlow::Continue(()),
        }
    }
}

fn rename(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    let columns = plan.schema().columns();
    if columns.len() != names.len() {
        return Err(Error::invalid(format!(
            "the view names {} columns and its query has {}",
            names.len(),
            columns.len()
        )));
    }
    let renamed = columns
        .into_iter()
        .zip(names)
        .map(|(column, name)| datafusion::logical_expr::Expr::Column(column).alias(name));
    Ok(LogicalPlanBuilder::from(plan).project(renamed)?.build()?)
}

fn field_names(schema: &SchemaRef) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Catalog {
    fn table_boxed<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn TableProvider>>, DataFusionError>> {
        async move { Ok(self.provider(name).await?) }.boxed()
    }
}

impl SchemaProvider for Catalog {
    fn table_names(&self) -> Vec<String> {
        self.names()
    }

    // Written out instead of `async fn`: among the bounds that async_trait adds, rustc proves for each function again that
    // plans are Send, which takes it many seconds each time. A function with one lifetime has no such bounds.
    fn table<'life0, 'life1, 'async_trait>(
        &'life0 self,
        name: &'life1 str,
    ) -> BoxFuture<'async_trait, Result<Option<Arc<dyn TableProvider>>, DataFusionError>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.table_boxed(name)
    }

    fn register_table(
        &self,
        name: String,
        table: Arc<dyn TableProvider>,
    ) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let mut tables = self.write();
        if tables.entries.contains_key(&name) {
            return Err(
                Error::new(ErrorKind::Exists, format!("table {name} exists already"))
                    .about(Subject::table(name))
                    .into(),
            );
        }
        tables.entries.insert(name, TableEntry::Provider(table));
        Ok(None)
    }

    fn deregister_table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let mut tables = self.write();
        tables.definitions.remove(name);
        tables.restricted.remove(name);
        let provider = lock(&self.statement).remove(name);
        Ok(match tables.entries.remove(name) {
            None => None,
            Some(TableEntry::Kafka(table)) => {
                Some(provider.unwrap_or_else(|| Arc::new(KafkaTableProvider::new(table))))
            }
            Some(TableEntry::Provider(table)) => Some(table),
            // DataFusion only checks whether a table was dropped.
            Some(entry) => provider.or_else(|| Some(placeholder(&entry))),
        })
    }

    fn table_type<'life0, 'life1, 'async_trait>(
        &'life0 self,
        name: &'life1 str,
    ) -> BoxFuture<'async_trait, DataFusionResult<Option<TableType>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        // Listings open no table: each of them would otherwise wait for a table that is unavailable.
        let entry = self.read(|tables| tables.entries.get(name).map(TableEntry::settled));
        let of_entry = entry.map(|entry| match entry {
            TableEntry::View(_) => TableType::View,
            TableEntry::Provider(provider) => provider.table_type(),
            _ => TableType::Base,
        });
        Box::pin(std::future::ready(Ok(of_entry)))
    }

    fn table_exist(&self, name: &str) -> bool {
        let of_version = self.table_of_version(name);
        let base = match &of_version {
            Some(table) => table.as_str(),
            None => {
                let hidden = self.hidden(name, table_of_change);
                let hidden = hidden.or_else(|| self.hidden(name, table_of_coverage));
                split_time_travel(hidden.unwrap_or(name)).0
            }
        };
        let in_view = !lock(&self.planning).is_empty();
        self.read(|tables| {
            tables.entries.contains_key(base) || (in_view && tables.hidden.contains_key(base))
        })
    }
}
