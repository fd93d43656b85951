//! A session: the only place that builds a DataFusion context, and that runs statements in it.

mod catalog;
mod context;
mod create;
mod dead_letters;
mod describe;
mod jobs;
mod rewrite;
mod scope;
#[cfg(test)]
mod scope_tests;
mod streaming;
mod system;
mod yielding;

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_udfs::CompletionNotices;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SqlStatement;

use crate::error::{Error, Result};
use crate::planner::{ParsedStatement, Statement, Text, normalize};
use crate::session::catalog::{Catalog, TableEntry};
use crate::tables::delta::{OptimizeSpec, VacuumSpec};

pub use context::SessionOptions;
pub use jobs::{BatchPlan, BatchSource, FrontBatch, JobQuery, JobSinkTable};
pub use streaming::{FrontPlan, StreamQuery, StreamTable, late_rows};
pub use system::{batch_rows, job_rows, versions};

/// What a statement gives.
pub enum Outcome {
    /// Rows, as they come.
    Rows(Execution),
    /// An INSERT at work: its stream has one row with one count.
    Insert(Execution),
    /// Done, with a word for the user.
    Done(String),
}

/// The name of the one catalog there is.
pub const CATALOG: &str = context::CATALOG;

/// A running statement.
pub struct Execution {
    /// The rows.
    pub stream: SendableRecordBatchStream,
    /// The plan, whose metrics grow while the stream is read.
    pub plan: Arc<dyn ExecutionPlan>,
}

impl Execution {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

/// Tables, views and settings of one user, and the engine that runs statements over them.
pub struct Session {
    context: SessionContext,
    catalog: Arc<Catalog>,
    notices: Arc<CompletionNotices>,
    options: SessionOptions,
}

impl Session {
    /// A session without tables.
    ///
    /// # Errors
    /// Options the engine refuses.
    pub fn try_new(options: &SessionOptions) -> Result<Self> {
        let runtime = context::runtime(options)?;
        Self::with_catalog(options, Catalog::default(), runtime)
    }

    /// A session with the same tables, whose statements run beside those of this one.
    pub(crate) fn fork(&self) -> Result<Self> {
        let runtime = self.context.runtime_env();
        Self::with_catalog(&self.options, self.catalog.fork(), runtime)
    }

    fn with_catalog(
        options: &SessionOptions,
        catalog: Catalog,
        runtime: Arc<RuntimeEnv>,
    ) -> Result<Self> {
        let notices: Arc<CompletionNotices> = Arc::default();
        let (context, catalog) = context::build(options, Arc::clone(&notices), catalog, runtime)?;
        Ok(Self {
            options: options.clone(),
            context,
            catalog,
            notices,
        })
    }

    /// What the statements since the last call want said besides their rows.
    pub fn take_warnings(&self) -> Vec<String> {
        let capped = self.notices.drain().into_iter().map(|capped| {
            let (from, to) = &capped.searched;
            format!(
                "{} sessions were still open where COMPLETE_SESSIONS stopped searching ({from} to {to}): \
                 they may be incomplete; a larger max_extension searches further: {}",
                capped.sessions,
                capped.names()
            )
        });
        capped.collect()
    }

    /// The names of tables and views, sorted.
    pub fn table_names(&self) -> Vec<String> {
        self.catalog.names()
    }

    /// The column names of all tables that can be told without asking a broker or a store.
    pub fn column_names(&self) -> Vec<String> {
        self.catalog.column_names()
    }

    /// All tables and views with what they are called in metadata: schema, name, `TABLE`, `VIEW` or `SYSTEM TABLE`.
    pub fn relations(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found: Vec<_> = self
            .catalog
            .names()
            .into_iter()
            .map(|name| {
                let kind = match self.catalog.entry(&name) {
                    Some(TableEntry::View(_)) => "VIEW",
                    _ => "TABLE",
                };
                (context::SCHEMA, name, kind)
            })
            .collect();
        let system = self.context.catalog(context::CATALOG);
        let system = system.and_then(|catalog| catalog.schema(system::SYSTEM));
        let names = system.map_or_else(Vec::new, |schema| schema.table_names());
        found.extend(
            names
                .into_iter()
                .map(|name| (system::SYSTEM, name, "SYSTEM TABLE")),
        );
        found
    }

    /// The columns of a table or view.
    ///
    /// # Errors
    /// There is no such table, or it cannot be opened.
    pub async fn columns_of(&self, schema: &str, name: &str) -> Result<SchemaRef> {
        let catalog = self.context.catalog(context::CATALOG);
        let found = catalog.and_then(|catalog| catalog.schema(schema));
        let table = match found {
            Some(found) => found.table(name).await?,
            None => None,
        };
        let table = table.ok_or_else(|| self.catalog.no_such_table(name))?;
        Ok(table.schema())
    }

    /// How a table or view was declared, without secrets.
    ///
    /// # Errors
    /// No such table.
    pub fn definition(&self, name: &str) -> Result<String> {
        self.catalog.definition(name)
    }

    /// The names of all functions.
    pub fn function_names(&self) -> Vec<String> {
        let state = self.context.state();
        let mut names: Vec<String> = state.scalar_functions().keys().cloned().collect();
        names.extend(state.aggregate_functions().keys().cloned());
        names.extend(state.window_functions().keys().cloned());
        names.sort();
        names.dedup();
        names
    }

    /// Adds rows as a table of the session, in memory.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register_batch(&self, name: &str, batch: RecordBatch) -> Result<()> {
        self.context.register_batch(name, batch)?;
        Ok(())
    }

    /// The types that a statement's unbound parameters should have, by name without `$`, as far as they can be told.
    pub async fn parameter_types(&self, parsed: &ParsedStatement) -> HashMap<String, DataType> {
        let Statement::Sql(sql) = &parsed.statement else {
            return HashMap::new();
        };
        self.catalog.begin_statement();
        let mut sql = sql.as_ref().clone();
        let types = async {
            rewrite::prepare(&self.context, &self.catalog, &mut sql).await?;
            let plan = self.context.state().statement_to_plan(sql).await?;
            Ok::<_, Error>(plan.get_parameter_types()?)
        };
        let types = types.await.unwrap_or_default().into_iter();
        let known =
            types.filter_map(|(name, of)| Some((name.trim_start_matches('$').to_owned(), of?)));
        known.collect()
    }

    /// Runs a statement whose parameters are bound.
    ///
    /// # Errors
    /// With the place in the statement's text where it is known, else of its first word.
    pub async fn execute(&self, parsed: ParsedStatement) -> Result<Outcome> {
        let places = parsed.places.clone();
        self.run(parsed).await.map_err(|error| places.locate(error))
    }

    /// Runs a query or INSERT to its end and collects what it gives: for tests and small results.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn collect(&self, parsed: ParsedStatement) -> Result<Vec<RecordBatch>> {
        let places = parsed.places.clone();
        match self.execute(parsed).await? {
            Outcome::Done(_) => Ok(Vec::new()),
            Outcome::Rows(execution) | Outcome::Insert(execution) => {
                datafusion::physical_plan::common::collect(execution.stream)
                    .await
                    .map_err(|error| places.locate(error.into()))
            }
        }
    }

    async fn run(&self, parsed: ParsedStatement) -> Result<Outcome> {
        self.catalog.begin_statement();
        match parsed.statement {
            Statement::CreateTable(table) => {
                create::create_table(&self.catalog, &table, &parsed.text).await
            }
            Statement::CreateView(view) => {
                create::create_view(&self.context, &self.catalog, *view, &parsed.text).await
            }
            Statement::ShowTables => self.one_batch(describe::tables(&self.catalog)?),
            Statement::Describe(name) => {
                let name = self.table_name(&name)?;
                self.one_batch(describe::columns(&self.catalog, &name).await?)
            }
            Statement::ShowCreateTable(name) => {
                let name = self.table_name(&name)?;
                let definition = self.catalog.definition(&name)?;
                self.one_batch(describe::definition(&name, &definition)?)
            }
            Statement::Optimize { table, zorder_by } => {
                let name = self.table_name(&table)?;
                let spec = OptimizeSpec {
                    zorder_by: zorder_by.iter().map(normalize).collect(),
                };
                let runtime = self.context.runtime_env();
                let report = self
                    .catalog
                    .delta(&name)?
                    .optimize(&spec, Some(runtime))
                    .await?;
                self.one_batch(report)
            }
            Statement::Vacuum {
                table,
                retain_hours,
                dry_run,
            } => {
                let name = self.table_name(&table)?;
                let spec = VacuumSpec {
                    retain_hours: retain_hours.map(parse_hours).transpose()?,
                    dry_run,
                };
                let report = self.catalog.delta(&name)?.vacuum(&spec).await?;
                self.one_batch(report)
            }
            Statement::History(table) => {
                let name = self.table_name(&table)?;
                let report = self.catalog.delta(&name)?.history().await?;
                self.one_batch(report)
            }
            Statement::Job(job) => Err(Error::unsupported(format!(
                "{} is for whoever runs the jobs",
                job.verb()
            ))),
            Statement::Sql(sql) => self.run_sql(*sql, &parsed.text).await,
        }
    }

    async fn run_sql(&self, mut sql: SqlStatement, text: &str) -> Result<Outcome> {
        rewrite::prepare(&self.context, &self.catalog, &mut sql).await?;
        let state = self.context.state();
        let typed = sql.clone();
        let plan = match state.statement_to_plan(sql).await {
            Ok(plan) => plan,
            Err(error) => return Err(self.catalog.missing_table(error, typed)),
        };
        match &plan {
            LogicalPlan::Ddl(ddl) => {
                let verb = done_message(ddl);
                self.context.execute_logical_plan(plan).await?;
                self.catalog.describe_new(text);
                Ok(Outcome::Done(verb))
            }
            LogicalPlan::Statement(_) => {
                self.context.execute_logical_plan(plan).await?;
                Ok(Outcome::Done(first_words(text)))
            }
            LogicalPlan::Dml(_) => Ok(Outcome::Insert(self.start(plan).await?)),
            _ => Ok(Outcome::Rows(self.start(plan).await?)),
        }
    }

    async fn start(&self, plan: LogicalPlan) -> Result<Execution> {
        let frame = self.context.execute_logical_plan(plan).await?;
        self.start_frame(frame).await
    }

    async fn start_frame(&self, frame: DataFrame) -> Result<Execution> {
        let task = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        let stream = execute_stream(Arc::clone(&plan), task)?;
        let stream = dead_letters::keep(stream, &self.catalog, &self.context);
        Ok(Execution { stream, plan })
    }

    /// A batch as the rows of a statement.
    pub(crate) fn one_batch(&self, batch: RecordBatch) -> Result<Outcome> {
        let schema = batch.schema();
        let plan = datafusion::datasource::memory::MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            schema,
            None,
        )?;
        let plan: Arc<dyn ExecutionPlan> = plan;
        let stream = execute_stream(Arc::clone(&plan), self.context.task_ctx())?;
        Ok(Outcome::Rows(Execution { stream, plan }))
    }

    fn table_name(&self, name: &datafusion::sql::sqlparser::ast::ObjectName) -> Result<String> {
        rewrite::plain_name(name)
    }
}

fn parse_hours(hours: Text) -> Result<u64> {
    hours.value.parse().map_err(|_| {
        Error::invalid(format!(
            "RETAIN takes a whole number of hours, not '{}'",
            hours.value
        ))
        .at(hours.span)
    })
}

/// What a statement of DataFusion's own DDL did.
fn done_message(ddl: &DdlStatement) -> String {
    match ddl {
        DdlStatement::CreateExternalTable(table) => format!("table {}", table.name),
        DdlStatement::CreateMemoryTable(table) => format!("table {}", table.name),
        DdlStatement::DropTable(table) => format!("dropped {}", table.name),
        DdlStatement::DropView(view) => format!("dropped {}", view.name),
        other => other.name().to_owned(),
    }
}

/// The leading upper-case words of a statement: what the user is told was done.
fn first_words(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_alphabetic()))
        .take(2)
        .map(str::to_uppercase)
        .collect();
    words.join(" ")
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tables", &self.table_names())
            .finish_non_exhaustive()
    }
}
