//! Statements of all clients over one catalog: definitions one after the other and kept, queries side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::Statement as AnsiStatement;
use futures::StreamExt as _;
use tokio::sync::Mutex;

use crate::error::{Error, Result};
use crate::planner::{
    JobStatement, Parameters, ParsedStatement, RawStatement, Script, Statement, normalize,
    parse_statement,
};
use crate::runtime::{JobStatus, Jobs};
use crate::server::jobs::RunningJobs;
use crate::session::{Execution, Outcome, Session};
use crate::state::{CatalogEntry, CatalogStore, JobStore};

/// What a statement does, as far as clients care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows; may be run again.
    Query,
    /// Rows, and something has changed.
    Report,
    /// Rows are written.
    Update,
    /// Tables, views or jobs change.
    Definition,
}

/// What a statement has done that was run to its end.
#[derive(Debug)]
pub(super) struct Done {
    /// What a client that asks for rows is given.
    pub(super) batch: RecordBatch,
    /// Rows written, where that is what it does.
    pub(super) rows: Option<i64>,
}

impl Done {
    /// What was done after something else.
    pub(super) fn after(self, before: &Self) -> Result<Self> {
        match (self.rows, before.rows) {
            (Some(rows), Some(more)) => Self::written(rows + more),
            _ => Ok(self),
        }
    }

    /// So many rows were written.
    fn written(rows: i64) -> Result<Self> {
        let count: ArrayRef = Arc::new(Int64Array::from(vec![rows]));
        Ok(Self {
            batch: batch("count", count)?,
            rows: Some(rows),
        })
    }
}

/// The tables, views and jobs of a server.
pub(super) struct Engine {
    /// Only definitions run here; queries run in forks of it.
    shared: Mutex<Session>,
    store: CatalogStore,
    jobs: Arc<Jobs>,
    running: RunningJobs,
}

impl Engine {
    pub(super) fn new(
        session: Session,
        store: CatalogStore,
        jobs: Arc<Jobs>,
        running: RunningJobs,
    ) -> Self {
        Self {
            shared: Mutex::new(session),
            store,
            jobs,
            running,
        }
    }

    /// Runs what was defined before again, and the jobs there are.
    ///
    /// # Errors
    ///
    /// The store does not answer. A table that cannot be opened any more is only warned of: the others are there.
    pub(super) async fn restore(&self, jobs: &JobStore) -> Result<()> {
        let session = self.shared.lock().await;
        for entry in self.store.all().await? {
            let mut parameters = Parameters::default();
            for (name, value) in &entry.parameters {
                parameters.set(name, value);
            }
            let restored = async {
                session
                    .execute(parse(&entry.statement, &mut parameters)?)
                    .await
            };
            if let Err(error) = restored.await {
                tracing::warn!(
                    statement = entry.statement,
                    "not restored: {}",
                    error.message()
                );
            }
        }
        for (_, history) in jobs.all().await? {
            let restored = async {
                // What the catalog does not have, a job's log does: it may have been made by a file.
                let session = session.fork()?;
                let known = session.table_names();
                for definition in &history.tables {
                    let parsed = parse(definition, &mut Parameters::default())?;
                    if defined(&parsed.statement).is_none_or(|name| !known.contains(&name)) {
                        session.execute(parsed).await?;
                    }
                }
                let parsed = parse(&history.text, &mut Parameters::default())?;
                let Statement::Job(job) = parsed.statement else {
                    return Err(Error::internal("the text of a job is no job"));
                };
                self.jobs.execute(&session, *job, &parsed.text).await
            };
            if let Err(error) = restored.await {
                tracing::warn!(job = history.name, "not run: {}", error.message());
            }
        }
        drop(session);
        self.running.start_new().await;
        Ok(())
    }

    /// Runs the statements of a file that is given at each start: what is there already stays.
    ///
    /// # Errors
    ///
    /// The statement's, or one that does more than define.
    pub(super) async fn apply(&self, script: &Script, parameters: &mut Parameters) -> Result<()> {
        for raw in script.split()? {
            let mut parsed = parse_statement(&raw)?;
            let places = parsed.places.clone();
            let text = parsed.text.clone();
            let bound = parameters.bind(&mut parsed);
            bound.map_err(|error| places.locate(error))?;
            if kind(&parsed) != Kind::Definition {
                return Err(places.locate(
                    Error::invalid("a file of a server defines tables, views and jobs only")
                        .with_help("it is applied at each start; a client runs the rest"),
                ));
            }
            let is_there = match defined(&parsed.statement) {
                Some(name) => {
                    let session = self.shared.lock().await;
                    session.definition(&name).is_ok_and(|known| known == text)
                }
                None => false,
            };
            if !is_there {
                let given: BTreeMap<String, String> = parameters
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                self.define(parsed, given).await?;
            }
        }
        Ok(())
    }

    /// A session for one query: the tables are those of now.
    pub(super) async fn fork(&self) -> Result<Session> {
        self.shared.lock().await.fork()
    }

    /// Begins a query.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(super) async fn begin(&self, parsed: ParsedStatement) -> Result<(Session, Execution)> {
        let places = parsed.places.clone();
        let session = self.fork().await?;
        let outcome = self.execute(&session, parsed).await?;
        match outcome {
            Outcome::Rows(execution) | Outcome::Insert(execution) => Ok((session, execution)),
            Outcome::Done(_) => Err(places.locate(
                Error::unsupported("clients of a server have no settings of their own yet")
                    .with_help("SET works in `anabranch sql`"),
            )),
        }
    }

    /// Runs a statement to its end.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(super) async fn complete(&self, parsed: ParsedStatement) -> Result<Done> {
        if kind(&parsed) == Kind::Definition {
            let said = self.define(parsed, BTreeMap::new()).await?;
            let said: ArrayRef = Arc::new(StringArray::from(vec![said]));
            let batch = batch("status", said)?;
            return Ok(Done { batch, rows: None });
        }
        let places = parsed.places.clone();
        let is_update = kind(&parsed) == Kind::Update;
        let (_session, mut execution) = self.begin(parsed).await?;
        let schema = execution.schema();
        let mut batches = Vec::new();
        while let Some(next) = execution.stream.next().await {
            batches.push(next.map_err(|error| places.locate(error.into()))?);
        }
        if !is_update {
            let batch = datafusion::arrow::compute::concat_batches(&schema, &batches)
                .map_err(|error| Error::internal(error.to_string()))?;
            return Ok(Done { batch, rows: None });
        }
        let counts = batches.iter().filter_map(|batch| {
            let counts = batch.column(0).as_primitive_opt::<UInt64Type>()?;
            Some(counts.values().iter().sum::<u64>())
        });
        let rows = i64::try_from(counts.sum::<u64>()).unwrap_or(i64::MAX);
        Done::written(rows)
    }

    /// Changes tables, views or jobs; gives a word for the user.
    async fn define(
        &self,
        parsed: ParsedStatement,
        parameters: BTreeMap<String, String>,
    ) -> Result<String> {
        if let Statement::Job(job) = &parsed.statement {
            let begun_again = begun_again(job);
            // A statement about jobs may wait for a broker: queries do not wait for it.
            let session = self.fork().await?;
            let said = said(self.execute(&session, parsed).await?);
            if let Some(name) = begun_again {
                self.running.stop(&name).await;
            }
            self.running.start_new().await;
            return Ok(said);
        }
        let session = self.shared.lock().await;
        let text = parsed.text.clone();
        let said = said(self.execute(&session, parsed).await?);
        // What cannot be kept is not there after a restart: so it fails now.
        let at = chrono::Utc::now().timestamp_millis();
        self.store
            .append(&CatalogEntry::new(text, parameters, at))
            .await?;
        Ok(said)
    }

    async fn execute(&self, session: &Session, parsed: ParsedStatement) -> Result<Outcome> {
        let places = parsed.places.clone();
        match parsed.statement {
            Statement::Job(job) => {
                let done = self.jobs.execute(session, *job, &parsed.text).await;
                done.map_err(|error| places.locate(error))
            }
            _ => session.execute(parsed).await,
        }
    }

    /// How the jobs are doing that run here, by name.
    pub(super) fn statuses(&self) -> BTreeMap<String, JobStatus> {
        self.running.statuses()
    }

    /// Stops all jobs.
    pub(super) async fn stop(&self) {
        self.running.stop_all().await;
    }
}

/// The one statement of a client's text.
///
/// # Errors
///
/// No statement, or several.
pub(super) fn one_statement(text: &str) -> Result<RawStatement> {
    let mut statements = Script::new("sql", text).split()?.into_iter();
    match (statements.next(), statements.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(Error::invalid("the text has no statement")
                .with_help("write one, such as SELECT 1"))
        }
        (Some(_), Some(second)) => Err(Error::invalid("the text has several statements")
            .at(second.span)
            .with_help("send one after the other")),
    }
}

/// The statement, its parameters bound.
///
/// # Errors
///
/// One that cannot be parsed, or a parameter without a value.
pub(super) fn parse(text: &str, parameters: &mut Parameters) -> Result<ParsedStatement> {
    let mut parsed = parse_statement(&one_statement(text)?)?;
    let bound = parameters.bind(&mut parsed);
    bound.map_err(|error| parsed.places.locate(error))?;
    Ok(parsed)
}

/// What a statement does.
pub(super) fn kind(parsed: &ParsedStatement) -> Kind {
    match &parsed.statement {
        Statement::CreateTable(_) | Statement::CreateView(_) => Kind::Definition,
        Statement::ShowTables
        | Statement::Describe(_)
        | Statement::ShowCreateTable(_)
        | Statement::History(_) => Kind::Query,
        Statement::Optimize { .. } | Statement::Vacuum { .. } => Kind::Report,
        Statement::Job(job) => match job.as_ref() {
            JobStatement::Create { explain: true, .. }
            | JobStatement::ShowJobs
            | JobStatement::ShowBatches(_)
            | JobStatement::Describe(_) => Kind::Query,
            _ => Kind::Definition,
        },
        Statement::Sql(sql) => match sql.as_ref() {
            SqlStatement::Statement(statement) => match statement.as_ref() {
                AnsiStatement::Insert(_) => Kind::Update,
                AnsiStatement::Drop { .. } | AnsiStatement::CreateTable(_) => Kind::Definition,
                _ => Kind::Query,
            },
            SqlStatement::CopyTo(_) => Kind::Update,
            SqlStatement::Explain(_) => Kind::Query,
            _ => Kind::Definition,
        },
    }
}

/// The word for the user of a statement without rows.
fn said(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done(said) => said,
        Outcome::Rows(_) | Outcome::Insert(_) => String::new(),
    }
}

/// The table or view that a statement defines.
fn defined(statement: &Statement) -> Option<String> {
    let name = match statement {
        Statement::CreateTable(table) => &table.name,
        Statement::CreateView(view) => &view.name,
        _ => return None,
    };
    let last = name.0.last().and_then(|part| part.as_ident());
    last.map(normalize)
}

/// The job that a statement changes so that it is to be begun again.
fn begun_again(job: &JobStatement) -> Option<String> {
    match job {
        JobStatement::Create {
            explain: false,
            or_replace: true,
            name,
            ..
        }
        | JobStatement::Drop { name, .. } => Some(normalize(name)),
        _ => None,
    }
}

fn batch(name: &str, column: ArrayRef) -> Result<RecordBatch> {
    RecordBatch::try_from_iter([(name, column)]).map_err(|error| Error::internal(error.to_string()))
}
