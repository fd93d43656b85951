//! Statements of a session: how they are planned, started, and run.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::TableReference;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{CreateExternalTable, DdlStatement, LogicalPlan};
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::Statement as AnsiStatement;

use crate::core::stack::on_stack;
use crate::error::{Error, Result, Subject};
use crate::planner::{
    BOUND_ROWS, Effect, ParsedStatement, Statement, TextValue, WordSpans, Writes, normalize,
    read_bound_rows,
};
use crate::session::catalog::dead_letters;
use crate::session::catalog::file_names;
use crate::session::context::state_cache::StatementState;
use crate::session::limits::plan_limits;
use crate::session::names::distinct_columns::plan_apart;
use crate::session::names::inner_names;
use crate::session::names::labels::{Labels, readable};
use crate::session::results::{
    Planned, PlannedRows, PlannedStatement, StatementExecution, StatementOutcome,
};
use crate::session::rewrite;
use crate::session::rewrite::arguments::Purpose;
use crate::session::rewrite::insert_values;
use crate::session::rewrite::recursion;
use crate::session::rewrite::standard::{cast_types, with_spans};
use crate::session::sessions::Session;
use crate::session::statements::constants;
use crate::session::statements::create::{create_table, create_view};
use crate::session::statements::describe;
use crate::session::statements::parameters;
use crate::session::statements::summarize;
use crate::session::syntax::plain_name;
use crate::tables::delta::{OptimizeSpec, VacuumSpec};

impl Session {
    /// The types that a statement's unbound parameters should have, by name without `$`, as far as they can be inferred.
    pub async fn parameter_types(&self, parsed: &ParsedStatement) -> HashMap<String, DataType> {
        let Statement::Sql(sql) = &parsed.statement else {
            return HashMap::new();
        };
        // A parameter within a cast is bound as the type of the cast.
        let mut types = cast_types(sql);
        self.catalog.begin(Purpose::Describe);
        let found = async {
            let plan = match self.logical_plan(sql.as_ref().clone()).await {
                Ok((_, plan)) => plan,
                // The engine takes an operand added to a time for a time too, which has no type.
                Err(error) => match with_spans(sql) {
                    Some(spans) => self.logical_plan(spans).await?.1,
                    None => return Err(error),
                },
            };
            Ok::<_, Error>(parameters::types(&plan))
        };
        types.extend(on_stack(found).await.unwrap_or_default());
        types
    }

    /// The columns of a query that is a part of a statement, whose places are `places`. No query runs, and no table is asked for its rows.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub(crate) async fn columns_of(
        &self,
        query: SqlStatement,
        places: &WordSpans,
    ) -> Result<SchemaRef> {
        self.catalog.begin(Purpose::Describe);
        let labels = Labels::of(&query);
        let planned = async { Ok::<_, Error>(self.logical_plan(query).await?.1) };
        let planned = on_stack(planned).await;
        self.catalog.end_planning();
        let plan = planned.map_err(|error| places.locate(error))?;
        Ok(labels.schema(Arc::clone(plan.schema().inner())))
    }

    /// Runs a statement whose parameters are bound.
    ///
    /// # Errors
    /// With the place in the statement's text if it is known, or else that of its first word.
    pub async fn execute(&self, parsed: ParsedStatement) -> Result<StatementOutcome> {
        let places = parsed.places.clone();
        let begun = async { self.begin_ready(self.ready(parsed, Purpose::Run).await?) };
        on_stack(begun).await.map_err(|error| places.locate(error))
    }

    /// Plans a statement that returns rows, and does not run it.
    ///
    /// # Errors
    /// As [`Session::execute`]; a statement without rows.
    pub async fn plan(&self, parsed: ParsedStatement) -> Result<Planned> {
        self.plan_for(parsed, Purpose::Run).await
    }

    /// Plans a statement that returns rows for this purpose. If it is only described, no query runs, and what depends on the value
    /// of one is left open.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub(crate) async fn plan_for(
        &self,
        parsed: ParsedStatement,
        purpose: Purpose,
    ) -> Result<Planned> {
        let places = parsed.places.clone();
        let planned = async { self.ready(parsed, purpose).await?.planned() };
        let planned = on_stack(planned).await;
        let mut planned = planned.map_err(|error| places.locate(error))?;
        planned.is_left_open =
            purpose == Purpose::Describe && planned.answer.is_none() && self.catalog.is_left_open();
        Ok(planned)
    }

    /// Starts a statement if it returns rows.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn begin_ready(&self, ready: PlannedStatement) -> Result<StatementOutcome> {
        Ok(match ready {
            PlannedStatement::Rows(planned) => StatementOutcome::Rows(self.begin(planned)?),
            PlannedStatement::Insert(planned) => StatementOutcome::Insert(self.begin(planned)?),
            PlannedStatement::Done(said) => StatementOutcome::Done(said),
        })
    }

    /// Starts a planned query.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn begin(&self, planned: Planned) -> Result<StatementExecution> {
        let Planned {
            plan,
            task,
            answer: _,
            is_left_open,
        } = planned;
        if is_left_open {
            return Err(Error::internal("the plan is for the columns alone"));
        }
        for warning in self.catalog.take_warnings() {
            self.warn(warning);
        }
        let stream = execute_stream(Arc::clone(&plan), task)?;
        let stream = match self.fork.only_reads {
            true => dead_letters::count(stream, &self.catalog, &self.warnings),
            false => dead_letters::keep(stream, &self.catalog, &self.context),
        };
        Ok(StatementExecution { stream, plan })
    }

    /// Runs a query or INSERT to its end and collects its rows: for tests and small results.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn collect(&self, parsed: ParsedStatement) -> Result<Vec<RecordBatch>> {
        let places = parsed.places.clone();
        match self.execute(parsed).await? {
            StatementOutcome::Done(_) => Ok(Vec::new()),
            StatementOutcome::Rows(execution) | StatementOutcome::Insert(execution) => {
                datafusion::physical_plan::common::collect(execution.stream)
                    .await
                    .map_err(|error| places.locate(error.into()))
            }
        }
    }

    /// Plans statements that return rows, and runs the others. The futures of rare statements are boxed: a query's future need
    /// not carry them.
    async fn ready(&self, parsed: ParsedStatement, purpose: Purpose) -> Result<PlannedStatement> {
        self.catalog
            .begin(match shows_only_columns(&parsed.statement) {
                true => Purpose::Describe,
                false => purpose,
            });
        let ready = self.planned_or_done(parsed).await;
        self.catalog.end_planning();
        ready
    }

    async fn planned_or_done(&self, parsed: ParsedStatement) -> Result<PlannedStatement> {
        match parsed.statement {
            Statement::CreateTable(table) => {
                let made = create_table(&self.catalog, &table, &parsed.text);
                Box::pin(made).await.map(PlannedStatement::Done)
            }
            Statement::CreateView(view) => {
                let made = create_view(&self.context, &self.catalog, *view, &parsed.text);
                Box::pin(made).await.map(PlannedStatement::Done)
            }
            Statement::ShowTables => self.report(describe::tables(&self.catalog)?),
            Statement::Describe(name) => {
                let name = plain_name(&name)?;
                let columns = describe::columns(&self.catalog, &name);
                self.report(Box::pin(columns).await?)
            }
            Statement::DescribeQuery(query) => {
                let labels = Labels::of(&query);
                let (_, plan) = Box::pin(self.logical_plan(*query)).await?;
                let schema = labels.schema(Arc::clone(plan.schema().inner()));
                self.report(describe::fields(&schema)?)
            }
            Statement::Summarize(query) => {
                let labels = Labels::of(&query);
                let (state, plan) = Box::pin(self.plan_with_arguments(*query)).await?;
                let schema = labels.schema(Arc::clone(plan.schema().inner()));
                let names: Vec<String> =
                    schema.fields().iter().map(|of| of.name().clone()).collect();
                let summary = summarize::summary(&state, plan, &names)?;
                Ok(PlannedStatement::Rows(
                    Box::pin(self.physical_plan(&state, &summary)).await?,
                ))
            }
            Statement::ShowCreateTable(name) => {
                let name = plain_name(&name)?;
                let definition = self.catalog.definition(&name)?;
                self.report(describe::definition(&name, &definition)?)
            }
            Statement::Optimize { table, zorder_by } => {
                let name = plain_name(&table)?;
                let spec = OptimizeSpec {
                    zorder_by: zorder_by.iter().map(normalize).collect(),
                };
                let runtime = self.context.runtime_env();
                let table = self.catalog.delta(&name).await?;
                let report = table.optimize(&spec, Some(runtime));
                self.report(Box::pin(report).await?)
            }
            Statement::Vacuum {
                table,
                retain_hours,
                dry_run,
            } => {
                let name = plain_name(&table)?;
                let spec = VacuumSpec {
                    retain_hours: retain_hours.map(parse_hours).transpose()?,
                    dry_run,
                };
                let table = self.catalog.delta(&name).await?;
                self.report(Box::pin(table.vacuum(&spec)).await?)
            }
            Statement::History(table) => {
                let name = plain_name(&table)?;
                let table = self.catalog.delta(&name).await?;
                self.report(Box::pin(table.history()).await?)
            }
            Statement::ShowQueries => Err(of_the_host("SHOW QUERIES")),
            Statement::KillQuery(_) => Err(of_the_host("KILL QUERY")),
            Statement::Job(job) => Err(of_the_host(job.verb())),
            Statement::Run(run) => Err(of_the_host(run.verb())),
            Statement::Sql(mut sql) => {
                let (effect, text) = (&parsed.effect, &parsed.text);
                let Some(rows) = parsed.rows else {
                    return self.run_sql(*sql, effect, text).await;
                };
                read_bound_rows(&mut sql)?;
                self.context
                    .register_batch(TableReference::bare(BOUND_ROWS), rows)?;
                let ready = Box::pin(self.run_sql(*sql, effect, text)).await;
                self.context
                    .deregister_table(TableReference::bare(BOUND_ROWS))?;
                ready
            }
        }
    }

    async fn run_sql(
        &self,
        sql: SqlStatement,
        effect: &Effect,
        text: &str,
    ) -> Result<PlannedStatement> {
        if let Writes::Drops { names, .. } = &effect.writes {
            for name in names {
                self.catalog.pin_for_drop(name);
            }
        }
        let labels = Labels::of(&sql);
        let typed = file_names::typed(&sql);
        let (state, plan) = self.plan_with_arguments(sql).await?;
        match &plan {
            LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) if !typed.is_empty() => {
                let verb = format!("table {}", table.name);
                let made = self.create_renamed(&state, table.as_ref().clone(), &typed);
                Box::pin(made).await?;
                self.states.change();
                self.catalog.describe_new(text);
                Ok(PlannedStatement::Done(verb))
            }
            LogicalPlan::Ddl(ddl) => {
                let verb = done_message(ddl)?;
                Box::pin(self.context.execute_logical_plan(plan)).await?;
                self.states.change();
                self.catalog.describe_new(text);
                Ok(PlannedStatement::Done(verb))
            }
            LogicalPlan::Statement(_) => {
                Box::pin(self.context.execute_logical_plan(plan)).await?;
                self.states.change();
                Ok(PlannedStatement::Done(first_words(text)))
            }
            LogicalPlan::Dml(_) => Ok(PlannedStatement::Insert(
                self.physical_plan(&state, &plan).await?,
            )),
            _ => match constants::row(&state, &plan)? {
                Some(mut answer) => {
                    answer.rows = labels.rows(&answer.rows)?;
                    Ok(PlannedStatement::Rows(self.planned_answer(answer)?))
                }
                None => {
                    let mut planned = self.physical_plan(&state, &plan).await?;
                    planned.plan = labels.plan(readable(planned.plan))?;
                    Ok(PlannedStatement::Rows(planned))
                }
            },
        }
    }

    /// Creates a table over files whose fields have the original spelling of the columns.
    async fn create_renamed(
        &self,
        state: &SessionState,
        table: CreateExternalTable,
        typed: &[Field],
    ) -> Result<()> {
        let name = table.name.clone();
        let is_there = self.context.table_exist(name.clone())?;
        let (table, names) = file_names::with_names_of_files(state, table, typed).await?;
        let keeps = is_there && table.if_not_exists;
        let plan = LogicalPlan::Ddl(DdlStatement::CreateExternalTable(Box::new(table)));
        self.context.execute_logical_plan(plan).await?;
        if !keeps {
            let files = self.context.table_provider(name.clone()).await?;
            self.context.deregister_table(name.clone())?;
            let renamed = file_names::RenamedTable::new(files, &names);
            self.context.register_table(name, Arc::new(renamed))?;
        }
        Ok(())
    }

    /// The plan with the values of the queries in its arguments, if it is to run, and the state in which it was made.
    async fn plan_with_arguments(
        &self,
        sql: SqlStatement,
    ) -> Result<(StatementState<'_>, LogicalPlan)> {
        let (state, plan) = self.logical_plan(sql).await?;
        let plan = self.catalog.with_arguments(&self.context, plan).await?;
        Ok((state, plan))
    }

    /// The plan, and the state in which it was made.
    async fn logical_plan(
        &self,
        mut sql: SqlStatement,
    ) -> Result<(StatementState<'_>, LogicalPlan)> {
        let made = Labels::of_made(&sql);
        Box::pin(rewrite::prepare(&self.context, &self.catalog, &mut sql)).await?;
        let state = self.states.state();
        match plan_apart(&state, &sql).await {
            Ok(plan) => {
                plan_limits::check(&plan)?;
                recursion::check(&plan, &sql)?;
                let plan = match made {
                    Some(names) => inner_names::with_created_names(plan, &names)?,
                    None => plan,
                };
                Ok((state, insert_values::with_nullable_values(plan)?))
            }
            Err(error) => Err(self.catalog.missing_table(error, sql)),
        }
    }

    /// A batch as the rows of a statement.
    pub(crate) fn report(&self, batch: RecordBatch) -> Result<PlannedStatement> {
        Ok(PlannedStatement::Rows(self.planned_batch(batch)?))
    }

    /// A batch as the rows of a statement that is started later.
    pub(crate) fn planned_batch(&self, batch: RecordBatch) -> Result<Planned> {
        self.planned_answer(PlannedRows {
            rows: batch,
            is_always: false,
        })
    }

    fn planned_answer(&self, answer: PlannedRows) -> Result<Planned> {
        let (rows, schema) = (answer.rows.clone(), answer.rows.schema());
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?;
        Ok(Planned {
            plan,
            task: self.states.task(),
            answer: Some(answer),
            is_left_open: false,
        })
    }

    /// An endless stream as the rows of a statement that is started later.
    pub(crate) fn planned_stream(&self, rows: Arc<dyn PartitionStream>) -> Result<Planned> {
        let schema = Arc::clone(rows.schema());
        let plan = StreamingTableExec::try_new(schema, vec![rows], None, [], true, None)?;
        Ok(Planned {
            plan: Arc::new(plan),
            task: self.states.task(),
            answer: None,
            is_left_open: false,
        })
    }

    async fn physical_plan(&self, state: &SessionState, plan: &LogicalPlan) -> Result<Planned> {
        Ok(Planned {
            plan: state.create_physical_plan(plan).await?,
            task: self.states.task(),
            answer: None,
            is_left_open: false,
        })
    }
}

/// Whether a statement shows columns or a plan, or keeps a query: then the query's arguments need no values.
fn shows_only_columns(statement: &Statement) -> bool {
    match statement {
        Statement::CreateView(_) | Statement::Describe(_) | Statement::DescribeQuery(_) => true,
        Statement::Sql(sql) => match sql.as_ref() {
            SqlStatement::Explain(explain) => !explain.options.analyze,
            SqlStatement::Statement(ansi) => matches!(
                ansi.as_ref(),
                AnsiStatement::Explain { analyze: false, .. } | AnsiStatement::CreateView(_)
            ),
            _ => false,
        },
        _ => false,
    }
}

/// The error for a statement that the host of sessions and jobs runs: a session alone cannot.
fn of_the_host(statement: &str) -> Error {
    Error::unsupported(format!("a session alone does not run {statement}"))
        .with_help("run it with `anabranch sql`, or send it to `anabranch serve`")
}

fn parse_hours(hours: TextValue) -> Result<u64> {
    hours.value.parse().map_err(|_| {
        Error::invalid(format!(
            "RETAIN takes a whole number of hours, not '{}'",
            hours.value
        ))
        .about(Subject::text(&hours.value))
        .at(hours.span)
    })
}

/// The message for a statement of DataFusion's own DDL, if it is about tables and views: there is one catalog with one schema,
/// and no other kind of object in it.
fn done_message(ddl: &DdlStatement) -> Result<String> {
    Ok(match ddl {
        DdlStatement::CreateExternalTable(table) => format!("table {}", table.name),
        DdlStatement::CreateMemoryTable(table) => format!("table {}", table.name),
        DdlStatement::DropTable(table) => format!("dropped {}", table.name),
        DdlStatement::DropView(view) => format!("dropped {}", view.name),
        other => {
            let verb = other.name().to_lowercase();
            return Err(Error::unsupported(format!("{verb} is not supported"))
                .with_help("only tables, views and jobs can be created and dropped; all are in the schema public"));
        }
    })
}

/// The leading upper-case words of a statement, for the message that it is done.
fn first_words(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_alphabetic()))
        .take(2)
        .map(str::to_uppercase)
        .collect();
    words.join(" ")
}
