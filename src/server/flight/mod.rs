//! The Flight SQL service: every call of the protocol is answered, or refused by name.

pub(crate) mod ingest;
pub(crate) mod messages;
#[cfg(test)]
mod messages_tests;
pub(crate) mod metadata;
pub(crate) mod sessions;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod wire;
pub(crate) mod xdbc;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, Any, Command, DoPutPreparedStatementResult,
    DoPutUpdateResult, ProstMessageExt as _, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria,
    Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, IpcMessage, PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket,
};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tokio::sync::Mutex;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{ParsedStatement, Script, Statement as ParsedKind, StatementClass};
use crate::server::auth::access::Caller;
use crate::server::auth::login::{COOKIE_NAME, Login, of_cookie};
use crate::server::engine::{CompletedStatement, Engine, QueryPlan, RequestContext};
use crate::server::flight::ingest::ingest;
use crate::server::flight::messages::{
    ActionCreatePreparedStatementResult, CloseSessionResult, GetSessionOptionsResult,
    SetSessionOptionsRequest, SetSessionOptionsResult, close_session_result,
    set_session_options_result,
};
use crate::server::flight::metadata::{garbled, unknown};
use crate::server::flight::sessions::no_session;
use crate::server::flight::status::status;
use crate::server::flight::transfer::{client_rows, encoded, no_rows, of_flight, sent_batches};
use crate::server::flight::wire::{to_wire, wire_schema};
use crate::server::parse::one_statement;
use crate::server::queries;
use crate::server::queries::handle_registry::HandleRegistry;
use crate::server::queries::limits::QUERY_LOG;
use crate::server::queries::prepared::{BoundStatements, PreparedStatement, bound_bytes};
use crate::server::queries::statement::ClientStatement;
use crate::server::queries::statement_cache::StatementCache;
use crate::session::{Planned, Session};

const CREATE_PREPARED: &str = "CreatePreparedStatement";
const CLOSE_PREPARED: &str = "ClosePreparedStatement";
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
const CANCEL_QUERY: &str = "CancelQuery";
const SET_SESSION: &str = "SetSessionOptions";
const GET_SESSION: &str = "GetSessionOptions";
/// Rows of values that are bound to one statement, which runs once for each.
const MAX_BOUND_ROWS: usize = 100_000;
/// Values in them.
const MAX_BOUND_VALUES: usize = 10_000_000;
const MAX_BOUND_BYTES: usize = 64 << 20;
/// Values of `ActionCancelQueryResult`.
const CANCELLED: i32 = 1;
const NOT_CANCELLABLE: i32 = 3;
const CLOSE_SESSION: &str = "CloseSession";

type FlightResponse<T> = std::result::Result<Response<T>, Status>;
/// Warnings of a statement, collected while its rows are read.
type CollectedWarnings = Mutex<Vec<String>>;
type FlightStream<T> = BoxStream<'static, std::result::Result<T, Status>>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct FlightHandler {
    engine: Arc<Engine>,
    login: Arc<Login>,
    results: Arc<HandleRegistry<Arc<PendingResult>>>,
    prepared: Arc<HandleRegistry<(Arc<str>, PreparedStatement)>>,
    known: Arc<StatementCache>,
}

/// A statement between GetFlightInfo and DoGet.
struct PendingResult {
    statement: Arc<ClientStatement>,
    /// The caller who started it: a caller with fewer rights by now does not get its rows.
    caller: Caller,
    schema: SchemaRef,
    rows: PendingRows,
    /// Warnings from planning.
    warnings: Vec<String>,
    /// The session that a setting is for: the caller who fetches the result must have that session. `None` for other
    /// statements.
    session: Option<Arc<str>>,
}

enum PendingRows {
    /// The rows of a statement that has run to its end: they can be fetched again.
    Done(RecordBatch),
    /// A query that was planned; fetched again, it is planned and run again.
    Query(Box<BoundQuery>),
}

impl PendingResult {
    /// About how many bytes it holds.
    fn bytes(&self) -> usize {
        match &self.rows {
            PendingRows::Done(batch) => batch.get_array_memory_size(),
            PendingRows::Query(query) => query.prepared.bytes(),
        }
    }

    /// The result of a statement that has run to its end.
    fn done(
        batch: &RecordBatch,
        asked: &RequestContext,
        statement: Arc<ClientStatement>,
    ) -> Result<Self> {
        let types = asked.settings.types;
        let schema = wire_schema(&batch.schema(), types);
        Ok(Self {
            rows: PendingRows::Done(to_wire(batch, &schema)?),
            schema,
            statement,
            caller: asked.caller.clone(),
            warnings: Vec::new(),
            session: None,
        })
    }
}

/// A query, once for each row of values that was bound.
struct BoundQuery {
    asked: RequestContext,
    prepared: PreparedStatement,
    /// For the first of them, planned; nothing if that made its rows.
    planned: Mutex<Option<(Session, Planned)>>,
}

/// Bytes of a statement that may begin a session.
const LONGEST_SETTING: usize = 1_000;

/// Whether a statement sets something for the session.
fn is_set(prepared: &PreparedStatement) -> bool {
    prepared.parsed().effect.class == StatementClass::Setting
}

/// The caller that the gate has identified.
fn known_caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.ok_or_else(|| Status::unauthenticated("a login is required"))
}

/// A client without a session that sets something begins one; gives its id, which the client keeps as a cookie.
fn begin_session(asked: &mut RequestContext) -> String {
    let id = new_session();
    asked.caller.session = Some(of_cookie(&id));
    id
}

#[expect(
    clippy::disallowed_methods,
    reason = "the id of a session cannot be guessed"
)]
fn new_session() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn with_cookie<T>(mut answer: Response<T>, id: Option<&str>) -> Response<T> {
    if let Some(id) = id
        && let Ok(cookie) = MetadataValue::try_from(format!("{COOKIE_NAME}={id}"))
    {
        answer.metadata_mut().insert("set-cookie", cookie);
    }
    answer
}

impl FlightHandler {
    pub(super) fn new(engine: Arc<Engine>, login: Arc<Login>) -> Self {
        let limits = engine.work.limits();
        Self {
            results: Arc::new(HandleRegistry::new(limits.sessions, limits.idle)),
            prepared: Arc::new(HandleRegistry::new(limits.sessions, limits.idle)),
            known: Arc::new(StatementCache::new()),
            engine,
            login,
        }
    }

    /// Functions that count the results and prepared statements held.
    pub(super) fn held(&self) -> [Box<dyn Fn() -> usize + Send + Sync>; 2] {
        let (results, prepared) = (Arc::clone(&self.results), Arc::clone(&self.prepared));
        [
            Box::new(move || results.count()),
            Box::new(move || prepared.count()),
        ]
    }

    /// The caller of a request, as the gate has identified it, with the settings.
    fn asked<T>(&self, request: &Request<T>) -> Result<RequestContext, Status> {
        let mut asked = self.engine.asked(known_caller(request)?.clone());
        let settings = asked.settings.with_headers(request.metadata());
        asked.settings = settings.map_err(|error| status(&error))?;
        Ok(asked)
    }

    /// Logs an error that a caller receives, and converts it to a status.
    fn logged_status(&self, asked: &RequestContext, error: &Error) -> Status {
        self.engine.work.refused(&asked.caller, error);
        status(error)
    }

    /// Plans a query that reads something, or runs another statement to its end; the result waits to be fetched.
    async fn begin(
        &self,
        asked: &RequestContext,
        prepared: &PreparedStatement,
    ) -> Result<(Arc<PendingResult>, Bytes)> {
        let statement = self.engine.statement(asked, prepared.parsed());
        let types = asked.settings.types;
        let begun = match (prepared.parsed().effect.class, prepared.answer()) {
            (_, Some(rows)) => {
                self.engine.check(asked, prepared.parsed())?;
                self.engine.work.answered(&statement, rows);
                PendingResult::done(rows, asked, statement)?
            }
            (StatementClass::Query, None)
                if matches!(prepared.parsed().statement, ParsedKind::ShowQueries) =>
            {
                // The list of running queries is answered even if no more statements can run.
                let batch = queries::running(&self.engine.work, &asked.caller)?;
                PendingResult::done(&batch, asked, statement)?
            }
            (StatementClass::Query, None) => {
                let mut statements = prepared.statements()?;
                let is_all = statements.len() == 1;
                let first = match statements.next() {
                    Some(first) => first?,
                    None => prepared.with_nulls()?,
                };
                match self.plan(asked, &statement, first, is_all).await? {
                    QueryPlan::Answered(answer) => {
                        if answer.is_always {
                            prepared.is_always(&answer.rows);
                        }
                        PendingResult::done(&answer.rows, asked, statement)?
                    }
                    QueryPlan::Open(planned) => PendingResult {
                        warnings: planned.0.take_warnings(),
                        schema: wire_schema(&planned.1.schema(), types),
                        rows: PendingRows::Query(Box::new(BoundQuery {
                            asked: asked.clone(),
                            prepared: prepared.clone(),
                            // A statement that has its rows already would hold them until a client fetches them. One whose
                            // arguments are queries runs these when its rows are fetched.
                            planned: Mutex::new(is_to_run(&planned.1).then_some(*planned)),
                        })),
                        session: None,
                        statement,
                        caller: asked.caller.clone(),
                    },
                }
            }
            (
                StatementClass::Report
                | StatementClass::Update
                | StatementClass::Definition
                | StatementClass::Setting
                | StatementClass::Cancel,
                None,
            ) => {
                let done = self.complete(asked, prepared.statements()?).await?;
                let batch = done.map_or_else(
                    || RecordBatch::new_empty(Arc::new(Schema::empty())),
                    |done| done.batch,
                );
                let mut begun = PendingResult::done(&batch, asked, statement)?;
                if is_set(prepared) {
                    begun.session = asked.caller.session.clone();
                }
                begun
            }
        };
        log_warnings(&begun.statement, &begun.warnings);
        let (begun, owner) = (Arc::new(begun), &asked.caller.name);
        let held = Arc::clone(&begun);
        let name = self.results.put(held, owner, begun.bytes(), Instant::now());
        let name = name.ok_or_else(|| too_many("results that are not fetched"))?;
        Ok((begun, name.into()))
    }

    /// Plans the first statement of a query; if it is the only one, it may be answered at once.
    async fn plan(
        &self,
        asked: &RequestContext,
        statement: &Arc<ClientStatement>,
        parsed: ParsedStatement,
        is_all: bool,
    ) -> Result<QueryPlan> {
        let (engine, asked) = (Arc::clone(&self.engine), asked.clone());
        let of = Arc::clone(statement);
        let planned = async move {
            if is_all {
                return engine.describe_or_answer(&asked, parsed, &of).await;
            }
            let planned = engine.describe(&asked, parsed, &of).await?;
            Ok(QueryPlan::Open(Box::new(planned)))
        };
        let goes_on = |planned: &QueryPlan| matches!(planned, QueryPlan::Open(..));
        // It is handed on several times: only where it is.
        let work = &self.engine.work;
        work.plan(statement, Box::pin(planned), goes_on).await
    }

    /// Runs statements one after the other; gives the message of the last one, with the rows of all.
    async fn complete(
        &self,
        asked: &RequestContext,
        statements: BoundStatements,
    ) -> Result<Option<CompletedStatement>> {
        let mut last: Option<CompletedStatement> = None;
        for statement in statements {
            // Boxed: most calls do not run this, and its future would make all of them large.
            let done = Box::pin(self.engine.complete(asked, statement?)).await?;
            last = Some(match last {
                None => done,
                Some(before) => done.after(&before)?,
            });
        }
        Ok(last)
    }

    async fn info(
        &self,
        asked: &RequestContext,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo> {
        let command = command(&descriptor.cmd)?;
        let (schema, ticket, warnings) = match command {
            Command::CommandStatementQuery(query) => {
                let prepared = self.prepare(query.query).await?;
                self.statement_ticket(asked, &prepared).await?
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(asked, &query.prepared_statement_handle)?;
                self.statement_ticket(asked, &prepared).await?
            }
            other => match metadata::schema(&other) {
                Some(schema) => (
                    schema,
                    other.into_any().encode_to_vec().into(),
                    Bytes::new(),
                ),
                None => return Err(unknown(&other)),
            },
        };
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
        let info = FlightInfo::new()
            .try_with_schema(&schema)
            .map_err(|error| Error::internal(error.to_string()))?;
        Ok(info
            .with_descriptor(descriptor)
            .with_endpoint(endpoint)
            .with_app_metadata(warnings)
            .with_ordered(true))
    }

    async fn statement_ticket(
        &self,
        asked: &RequestContext,
        prepared: &PreparedStatement,
    ) -> Result<(SchemaRef, Bytes, Bytes)> {
        let (begun, statement_handle) = self.begin(asked, prepared).await?;
        let ticket = TicketStatementQuery { statement_handle };
        let ticket = ticket.as_any().encode_to_vec().into();
        Ok((Arc::clone(&begun.schema), ticket, warned(&begun.warnings)))
    }

    /// The columns of a command's result, without running it.
    async fn schema(
        &self,
        asked: &RequestContext,
        descriptor: &FlightDescriptor,
    ) -> Result<SchemaRef> {
        match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                let prepared = self.prepare(query.query).await?;
                self.schema_of(asked, &prepared).await
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(asked, &query.prepared_statement_handle)?;
                self.schema_of(asked, &prepared).await
            }
            other => metadata::schema(&other).ok_or_else(|| unknown(&other)),
        }
    }

    /// The columns of a statement that is planned for them. Others have none here: clients take them for statements without
    /// rows.
    async fn schema_of(
        &self,
        asked: &RequestContext,
        prepared: &PreparedStatement,
    ) -> Result<SchemaRef> {
        if !prepared.parsed().effect.is_known_by_planning() {
            return Ok(Arc::new(Schema::empty()));
        }
        if let Some(rows) = prepared.answer() {
            self.engine.check(asked, prepared.parsed())?;
            return Ok(wire_schema(&rows.schema(), asked.settings.types));
        }
        if matches!(prepared.parsed().statement, ParsedKind::ShowQueries) {
            let rows = queries::running(&self.engine.work, &asked.caller)?;
            return Ok(wire_schema(&rows.schema(), asked.settings.types));
        }
        let (engine, by, parsed) = (
            Arc::clone(&self.engine),
            asked.clone(),
            prepared.with_nulls()?,
        );
        // It is planned only for its columns: limits of number and time hold as for a statement that runs, but it is
        // not listed as running.
        let statement = self.engine.statement(asked, prepared.parsed());
        let of = Arc::clone(&statement);
        let planned = async move { engine.describe(&by, parsed, &of).await };
        let work = &self.engine.work;
        match work.unlisted(&statement, Box::pin(planned)).await {
            Ok((session, planned)) => {
                let schema = wire_schema(&planned.schema(), asked.settings.types);
                drop(planned);
                self.engine.forks.return_fork(session);
                Ok(schema)
            }
            // A parameter stands where NULL cannot, such as in an interval: the client gets the columns when it is
            // bound.
            Err(error) if prepared.has_parameters() && error.kind() == ErrorKind::Invalid => {
                Ok(Arc::new(Schema::empty()))
            }
            Err(error) => Err(error),
        }
    }

    /// The one statement of a client's text.
    async fn prepare(&self, text: String) -> Result<PreparedStatement> {
        self.engine.work.check_length(&text)?;
        let (known, length) = (Arc::clone(&self.known), text.len());
        let prepare = move || {
            let parse = || PreparedStatement::try_new(one_statement(&text)?);
            known.prepared(&text, parse)
        };
        self.engine.work.read(length, prepare).await
    }

    /// Whether a text is a statement that sets something for the session.
    async fn sets(&self, text: String) -> bool {
        // A longer text is read once, by the call itself.
        if text.len() > LONGEST_SETTING {
            return false;
        }
        let prepared = self.prepare(text).await;
        prepared.is_ok_and(|prepared| is_set(&prepared))
    }

    fn prepared(&self, asked: &RequestContext, handle: &[u8]) -> Result<PreparedStatement> {
        let found = self.prepared.get(handle, Instant::now());
        let own = found.filter(|(owner, _)| *owner == asked.caller.name);
        let own = own.ok_or_else(|| {
            Error::not_found("there is no such prepared statement, or it was closed")
        })?;
        Ok(own.1)
    }

    fn keep(&self, asked: &RequestContext, prepared: PreparedStatement) -> Result<Bytes> {
        let (owner, bytes) = (&asked.caller.name, prepared.bytes());
        let kept = (Arc::clone(owner), prepared);
        let name = self.prepared.put(kept, owner, bytes, Instant::now());
        Ok(name.ok_or_else(|| too_many("prepared statements"))?.into())
    }

    /// The result under a handle, if it belongs to the caller.
    fn pending_result(&self, asked: &RequestContext, handle: &[u8]) -> Result<Arc<PendingResult>> {
        let found = self.results.get(handle, Instant::now());
        let own = found.filter(|begun| begun.caller.has_same_rights_as(&asked.caller));
        own.ok_or_else(|| {
            Error::not_found("there is no such result, or it has expired")
                .with_help("run the statement again")
        })
    }

    async fn fetch(
        &self,
        asked: RequestContext,
        ticket: &Ticket,
    ) -> Result<FlightStream<FlightData>, Status> {
        let told = |error: Error| self.logged_status(&asked, &error);
        match command(&ticket.ticket).map_err(told)? {
            Command::TicketStatementQuery(ticket) => {
                let begun = self.pending_result(&asked, &ticket.statement_handle);
                let begun = begun.map_err(told)?;
                self.results.done(&ticket.statement_handle);
                if begun.session.is_some() && begun.session != asked.caller.session {
                    // The cookie of the first answer did not come back: the client keeps none.
                    let mut other = asked.caller.clone();
                    other.session.clone_from(&begun.session);
                    self.engine.sessions.close(&other);
                    return Err(told(no_session()));
                }
                self.rows(begun)
            }
            other => {
                let answered = async {
                    let session = self.engine.fork(&asked)?;
                    let answer = metadata::answer(other, &session, asked.settings.types).await?;
                    self.engine.forks.return_fork(session);
                    Ok(answer)
                };
                let batch = answered.await.map_err(told)?;
                let schema = batch.schema();
                let rows = futures::stream::iter([Ok(batch)]).boxed();
                Ok(encoded(schema, rows)
                    .map_err(|error| status(&error))
                    .boxed())
            }
        }
    }

    fn rows(&self, begun: Arc<PendingResult>) -> Result<FlightStream<FlightData>, Status> {
        let schema = Arc::clone(&begun.schema);
        let statement = Arc::clone(&begun.statement);
        if let PendingRows::Done(batch) = &begun.rows {
            let rows = futures::stream::iter([Ok(batch.clone())]).boxed();
            let told = move |error| status(&error);
            return Ok(encoded(schema, rows).map_err(told).boxed());
        }
        let limit = self.engine.work.limits().result_bytes;
        let limit = limit.filter(|_| !statement.is_endless());
        let idle = no_rows(&schema).map_err(|error| status(&error))?;
        let (engine, of) = (Arc::clone(&self.engine), Arc::clone(&statement));
        let (said, last) = (Arc::new(CollectedWarnings::default()), idle.clone());
        let made = async move {
            let rows = queried(engine, begun, Arc::clone(&said)).await?;
            let statement = Arc::clone(&of);
            let counted = Arc::clone(&of);
            let rows = rows.inspect_ok(move |batch| counted.count(batch.num_rows(), 0));
            let sent = encoded(schema, rows.boxed());
            let counted = sent.map(move |data| {
                let data = data?;
                of.count(0, data.data_header.len() + data.data_body.len());
                match limit.filter(|limit| of.counted().1 > *limit) {
                    None => Ok(data),
                    Some(limit) => Err(Error::new(
                        ErrorKind::Exhausted,
                        format!("the result is larger than {limit} bytes"),
                    )
                    .with_help("reduce it by WHERE, LIMIT or an aggregate")),
                }
            });
            // Warnings about the rows are complete when all rows have been read.
            let warnings = futures::stream::once(async move {
                let warnings = std::mem::take(&mut *said.lock().await);
                log_warnings(&statement, &warnings);
                let last = FlightData {
                    app_metadata: warned(&warnings),
                    ..last
                };
                Ok((!warnings.is_empty()).then_some(last))
            });
            let warnings = warnings.try_filter_map(|last| std::future::ready(Ok(last)));
            Ok(counted.chain(warnings).boxed())
        };
        let work = &self.engine.work;
        let sent = work.stream(Arc::clone(&statement), made, Some(idle));
        Ok(sent.map_err(move |error| status(&error)).boxed())
    }

    async fn put(
        &self,
        asked: &RequestContext,
        command: Command,
        bound: Vec<RecordBatch>,
    ) -> Result<Bytes> {
        let (prepared, bound) = match command {
            Command::CommandStatementUpdate(update) => {
                self.engine.work.check_length(&update.query)?;
                let length = update.query.len();
                let script = Script::new("sql", update.query);
                let split = move || script.split();
                let mut rows = 0;
                for raw in self.engine.work.read(length, split).await? {
                    let prepare = move || PreparedStatement::try_new(raw);
                    let prepared = self.engine.work.read(length, prepare).await?;
                    let done = self.complete(asked, prepared.statements()?).await?;
                    rows = written(done);
                }
                return Ok(updated(rows));
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(asked, &query.prepared_statement_handle)?;
                let result = DoPutPreparedStatementResult {
                    prepared_statement_handle: Some(self.keep(asked, prepared.bind(&bound)?)?),
                };
                return Ok(result.encode_to_vec().into());
            }
            Command::CommandPreparedStatementUpdate(update) => (
                self.prepared(asked, &update.prepared_statement_handle)?,
                bound,
            ),
            other => return Err(unknown(&other)),
        };
        let bound = match prepared.has_parameters() && !bound.is_empty() {
            true => prepared.bind(&bound)?,
            false => prepared,
        };
        let done = self.complete(asked, bound.statements()?).await?;
        Ok(updated(written(done)))
    }

    async fn act(&self, asked: &RequestContext, action: &Action) -> Result<Option<Bytes>> {
        match action.r#type.as_str() {
            CREATE_PREPARED => {
                let request: ActionCreatePreparedStatementRequest = unpack(&action.body)?;
                let prepared = self.prepare(request.query).await?;
                let types = match prepared.has_parameters() {
                    true => {
                        let (engine, session) =
                            (Arc::clone(&self.engine), self.engine.fork(asked)?);
                        let statement = self.engine.statement(asked, prepared.parsed());
                        let (of, running) = (prepared.clone(), Arc::clone(&statement));
                        let types = async move {
                            let types = async { Ok(session.parameter_types(of.parsed()).await) };
                            let types = engine.work.planners.plan(&running, types).await?;
                            engine.forks.return_fork(session);
                            Ok(types)
                        };
                        self.engine
                            .work
                            .unlisted(&statement, Box::pin(types))
                            .await?
                    }
                    false => HashMap::new(),
                };
                let parameters =
                    prepared.parameter_schema(&types, asked.settings.binds_milliseconds);
                let result = ActionCreatePreparedStatementResult {
                    dataset_schema: ipc(&*self.schema_of(asked, &prepared).await?)?,
                    parameter_schema: ipc(&parameters)?,
                    is_update: Some(!prepared.parsed().effect.is_known_by_planning()),
                    prepared_statement_handle: self.keep(asked, prepared)?,
                };
                let any = Any {
                    type_url: "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult".to_owned(),
                    value: result.encode_to_vec().into(),
                };
                Ok(Some(any.encode_to_vec().into()))
            }
            CLOSE_PREPARED => {
                let request: ActionClosePreparedStatementRequest = unpack(&action.body)?;
                if self
                    .prepared(asked, &request.prepared_statement_handle)
                    .is_ok()
                {
                    self.prepared.remove(&request.prepared_statement_handle);
                }
                Ok(None)
            }
            CANCEL_FLIGHT_INFO => {
                let request = CancelFlightInfoRequest::decode(&*action.body);
                let info = request.map_err(|_| garbled())?.info.unwrap_or_default();
                let is_cancelled = self.cancel(asked, &info);
                let result = CancelFlightInfoResult::new(match is_cancelled {
                    true => CancelStatus::Cancelled,
                    false => CancelStatus::NotCancellable,
                });
                Ok(Some(result.encode_to_vec().into()))
            }
            CANCEL_QUERY => {
                let request: ActionCancelQueryRequest = unpack(&action.body)?;
                let info = FlightInfo::decode(&*request.info).map_err(|_| garbled())?;
                let result = ActionCancelQueryResult {
                    result: match self.cancel(asked, &info) {
                        true => CANCELLED,
                        false => NOT_CANCELLABLE,
                    },
                };
                Ok(Some(result.as_any().encode_to_vec().into()))
            }
            SET_SESSION => {
                let request =
                    SetSessionOptionsRequest::decode(&*action.body).map_err(|_| garbled())?;
                let result = self.set_session(asked, request)?;
                Ok(Some(result.encode_to_vec().into()))
            }
            GET_SESSION => {
                let options = GetSessionOptionsResult::of(&asked.settings);
                Ok(Some(options.encode_to_vec().into()))
            }
            CLOSE_SESSION => {
                self.engine.sessions.close(&asked.caller);
                let status = close_session_result::Status::Closed.into();
                let closed = CloseSessionResult { status };
                Ok(Some(closed.encode_to_vec().into()))
            }
            other => Err(Error::unsupported(format!("there is no action {other}"))),
        }
    }

    /// Ends the statement of a flight; whether it is one of the caller's.
    fn cancel(&self, asked: &RequestContext, info: &FlightInfo) -> bool {
        let tickets = info.endpoint.iter().filter_map(|at| at.ticket.as_ref());
        let mut is_cancelled = false;
        for ticket in tickets {
            if let Ok(Command::TicketStatementQuery(ticket)) = command(&ticket.ticket)
                && let Ok(begun) = self.pending_result(asked, &ticket.statement_handle)
                && matches!(begun.rows, PendingRows::Query(_))
            {
                begun.statement.cancel(&asked.caller.name);
                is_cancelled = true;
            }
        }
        is_cancelled
    }

    /// Sets what can be set; of the rest says why not.
    fn set_session(
        &self,
        asked: &RequestContext,
        request: SetSessionOptionsRequest,
    ) -> Result<SetSessionOptionsResult> {
        // Not those of the call's headers, which are for it alone.
        let sessions = &self.engine.sessions;
        let mut settings = sessions.of(&asked.caller, Instant::now());
        let mut result = SetSessionOptionsResult::default();
        for (name, value) in request.session_options {
            if let Err(error) = settings.set(&name, &value.text()) {
                let value = match error.kind() {
                    ErrorKind::NotFound => set_session_options_result::ErrorValue::InvalidName,
                    _ => set_session_options_result::ErrorValue::InvalidValue,
                };
                let why = set_session_options_result::Error {
                    value: value.into(),
                };
                result.errors.insert(name, why);
            }
        }
        sessions.keep(&asked.caller, settings, Instant::now())?;
        Ok(result)
    }
}

/// Whether a plan that was made for its columns can give the rows too.
fn is_to_run(planned: &Planned) -> bool {
    planned.answer().is_none() && !planned.is_left_open()
}

/// Checks that a query's rows have the columns that its client was told.
fn same_columns(rows: &Schema, told: &Schema) -> Result<()> {
    let names = |schema: &Schema| -> Vec<String> {
        let fields = schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    };
    let (rows, told) = (names(rows), names(told));
    if rows.len() == told.len() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the rows have the columns {}, and the client was told {}",
        rows.join(", "),
        told.join(", ")
    ))
    .with_help(
        "a query gives the version of a table, which has other columns than the newest one: name the columns, or write the version",
    ))
}

/// The rows of a query, for each row of values that was bound, as they are sent.
async fn queried(
    engine: Arc<Engine>,
    begun: Arc<PendingResult>,
    said: Arc<CollectedWarnings>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let PendingRows::Query(query) = &begun.rows else {
        return Err(Error::internal("the rows are there already"));
    };
    let mut planned = query.planned.lock().await.take();
    let statements = futures::stream::iter(query.prepared.statements()?);
    let wire = Arc::clone(&begun.schema);
    let asked = query.asked.clone();
    let of = Arc::clone(&begun.statement);
    let rows = statements.then(move |statement| {
        let (engine, wire, of) = (Arc::clone(&engine), Arc::clone(&wire), Arc::clone(&of));
        let (planned, asked, said) = (planned.take(), asked.clone(), Arc::clone(&said));
        async move {
            let statement = statement?;
            let places = statement.places.clone();
            let (session, planned) = match planned {
                Some(planned) => planned,
                None => engine.plan(&asked, statement, &of).await?,
            };
            same_columns(&planned.schema(), &wire).map_err(|error| places.locate(error))?;
            let execution = session
                .begin(planned)
                .map_err(|error| places.locate(error))?;
            let rows = execution.stream.map(move |batch| {
                let batch = batch.map_err(|error| places.locate(error.into()))?;
                to_wire(&batch, &wire)
            });
            // The session of the query lives as long as its rows come; then the stream of rows is dropped.
            let end = futures::stream::once(async move {
                said.lock().await.extend(session.take_warnings());
                engine.forks.return_fork(session);
                Ok(None)
            });
            let end = end.try_filter_map(|none| std::future::ready(Ok(none)));
            Ok::<_, Error>(rows.chain(end))
        }
    });
    Ok(rows.try_flatten().boxed())
}

/// The calls. They are functions with one lifetime and not `async fn` of the trait below: among the bounds that async_trait
/// adds, rustc proves for each function again that an engine and its plans are Send, which takes it many seconds each time.
impl FlightHandler {
    fn answer_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> BoxFuture<'_, FlightResponse<FlightStream<HandshakeResponse>>> {
        async move {
            let headers = request.metadata().clone().into_headers();
            let token = self.login.token_of(known_caller(&request)?, &headers);
            let token = token.map_err(|error| status(&error))?;
            let token = MetadataValue::try_from(format!("Bearer {token}"));
            let token = token.map_err(|error| Status::internal(error.to_string()))?;
            let mut answer =
                Response::new(futures::stream::empty().boxed() as FlightStream<HandshakeResponse>);
            answer.metadata_mut().insert("authorization", token);
            Ok(answer)
        }
        .boxed()
    }

    fn answer_get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> BoxFuture<'_, FlightResponse<FlightInfo>> {
        async move {
            let mut asked = self.asked(&request)?;
            let cookie = match command(&request.get_ref().cmd) {
                Ok(Command::CommandStatementQuery(query)) if asked.caller.session.is_none() => {
                    let sets = self.sets(query.query).await;
                    sets.then(|| begin_session(&mut asked))
                }
                _ => None,
            };
            let info = self.info(&asked, request.into_inner()).await;
            let info = info.map_err(|error| self.logged_status(&asked, &error))?;
            Ok(with_cookie(Response::new(info), cookie.as_deref()))
        }
        .boxed()
    }

    fn answer_poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> BoxFuture<'_, FlightResponse<PollInfo>> {
        async move {
            let asked = self.asked(&request)?;
            let info = self.info(&asked, request.into_inner()).await;
            let info = info.map_err(|error| self.logged_status(&asked, &error))?;
            // It is planned: the client need not poll again.
            let poll = PollInfo::new().with_info(info);
            let poll = poll.try_with_progress(1.0);
            let poll = poll.map_err(|error| Status::internal(error.to_string()))?;
            Ok(Response::new(poll))
        }
        .boxed()
    }

    fn answer_get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> BoxFuture<'_, FlightResponse<SchemaResult>> {
        async move {
            let asked = self.asked(&request)?;
            let schema = self.schema(&asked, request.get_ref()).await;
            let schema = schema.and_then(|schema| ipc(&schema));
            let schema = schema.map_err(|error| self.logged_status(&asked, &error))?;
            Ok(Response::new(SchemaResult { schema }))
        }
        .boxed()
    }

    fn answer_do_get(
        &self,
        request: Request<Ticket>,
    ) -> BoxFuture<'_, FlightResponse<FlightStream<FlightData>>> {
        async move {
            let asked = self.asked(&request)?;
            self.fetch(asked, request.get_ref())
                .await
                .map(Response::new)
        }
        .boxed()
    }

    fn answer_do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> BoxFuture<'_, FlightResponse<FlightStream<PutResult>>> {
        async move {
            let asked = self.asked(&request)?;
            let mut messages = request.into_inner();
            let first = messages.message().await?;
            let first = first.ok_or_else(|| Status::invalid_argument("no message was sent"))?;
            let descriptor = first.flight_descriptor.clone();
            let descriptor = descriptor
                .ok_or_else(|| Status::invalid_argument("the first message has no descriptor"))?;
            let told = |error: Error| self.logged_status(&asked, &error);
            let command = command(&descriptor.cmd).map_err(told)?;
            if let Command::CommandStatementIngest(command) = command {
                let rows = client_rows(first, messages).await?;
                let rows = Box::pin(ingest(&self.engine, &asked, &command, rows)).await;
                let app_metadata = updated(rows.map_err(told)?);
                let sent = futures::stream::iter([Ok(PutResult { app_metadata })]);
                return Ok(Response::new(sent.boxed()));
            }
            // An update without parameters may be sent without any columns.
            let mut bound = Vec::new();
            let (mut rows, mut values, mut bytes) = (0, 0, 0_usize);
            if !first.data_header.is_empty() {
                let mut batches = sent_batches(first, messages, MAX_BOUND_BYTES);
                while let Some(batch) = batches.try_next().await.map_err(of_flight)? {
                    rows += batch.num_rows();
                    values += batch.num_rows() * batch.num_columns();
                    bytes = bytes.saturating_add(bound_bytes(&batch));
                    if rows > MAX_BOUND_ROWS || values > MAX_BOUND_VALUES || bytes > MAX_BOUND_BYTES
                    {
                        return Err(told(too_much_bound()));
                    }
                    bound.push(batch);
                }
            }
            let done = self.put(&asked, command, bound).await;
            let app_metadata = done.map_err(told)?;
            let sent = futures::stream::iter([Ok(PutResult { app_metadata })]);
            Ok(Response::new(sent.boxed()))
        }
        .boxed()
    }

    fn answer_do_action(
        &self,
        request: Request<Action>,
    ) -> BoxFuture<'_, FlightResponse<FlightStream<arrow_flight::Result>>> {
        async move {
            let mut asked = self.asked(&request)?;
            let action = request.get_ref();
            // A client without a session that sets something begins one, and keeps it by a cookie.
            let cookie = match (action.r#type.as_str(), &asked.caller.session) {
                (SET_SESSION, None) => Some(begin_session(&mut asked)),
                // A prepared statement is run by a call of its own, which brings the cookie.
                (CREATE_PREPARED, None) => {
                    let request = unpack::<ActionCreatePreparedStatementRequest>(&action.body);
                    let sets = match request {
                        Ok(request) => self.sets(request.query).await,
                        Err(_) => false,
                    };
                    sets.then(new_session)
                }
                _ => None,
            };
            let done = self.act(&asked, action).await;
            let body = done.map_err(|error| self.logged_status(&asked, &error))?;
            let results = body
                .into_iter()
                .map(|body| Ok(arrow_flight::Result { body }));
            let results: Vec<_> = results.collect();
            let answer = Response::new(
                futures::stream::iter(results).boxed() as FlightStream<arrow_flight::Result>
            );
            Ok(with_cookie(answer, cookie.as_deref()))
        }
        .boxed()
    }
}

impl FlightService for FlightHandler {
    type HandshakeStream = FlightStream<HandshakeResponse>;
    type ListFlightsStream = FlightStream<FlightInfo>;
    type DoGetStream = FlightStream<FlightData>;
    type DoPutStream = FlightStream<PutResult>;
    type DoExchangeStream = FlightStream<FlightData>;
    type DoActionStream = FlightStream<arrow_flight::Result>;
    type ListActionsStream = FlightStream<ActionType>;

    fn handshake<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::HandshakeStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_handshake(request)
    }

    fn list_flights<'life0, 'async_trait>(
        &'life0 self,
        _: Request<Criteria>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::ListFlightsStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let answer = Err(refused("ListFlights: ask with SQL, or for the tables"));
        std::future::ready(answer).boxed()
    }

    fn get_flight_info<'life0, 'async_trait>(
        &'life0 self,
        request: Request<FlightDescriptor>,
    ) -> BoxFuture<'async_trait, FlightResponse<FlightInfo>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_get_flight_info(request)
    }

    fn poll_flight_info<'life0, 'async_trait>(
        &'life0 self,
        request: Request<FlightDescriptor>,
    ) -> BoxFuture<'async_trait, FlightResponse<PollInfo>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_poll_flight_info(request)
    }

    fn get_schema<'life0, 'async_trait>(
        &'life0 self,
        request: Request<FlightDescriptor>,
    ) -> BoxFuture<'async_trait, FlightResponse<SchemaResult>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_get_schema(request)
    }

    fn do_get<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Ticket>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::DoGetStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_do_get(request)
    }

    fn do_put<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Streaming<FlightData>>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::DoPutStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_do_put(request)
    }

    fn do_exchange<'life0, 'async_trait>(
        &'life0 self,
        _: Request<Streaming<FlightData>>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::DoExchangeStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let answer = Err(refused("DoExchange"));
        std::future::ready(answer).boxed()
    }

    fn do_action<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Action>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::DoActionStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.answer_do_action(request)
    }

    fn list_actions<'life0, 'async_trait>(
        &'life0 self,
        _: Request<Empty>,
    ) -> BoxFuture<'async_trait, FlightResponse<Self::ListActionsStream>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let actions = [
            (CREATE_PREPARED, "Prepares a statement"),
            (CLOSE_PREPARED, "Forgets a prepared statement"),
            (CANCEL_FLIGHT_INFO, "Ends the statement of a flight"),
            (
                CANCEL_QUERY,
                "Ends the statement of a flight, for older clients",
            ),
            (SET_SESSION, "Sets options of the session"),
            (GET_SESSION, "What is set"),
            (CLOSE_SESSION, "Ends the session"),
        ];
        let actions = actions.map(|(name, does)| {
            Ok(ActionType {
                r#type: name.to_owned(),
                description: does.to_owned(),
            })
        });
        let answer = Ok(Response::new(futures::stream::iter(actions).boxed()));
        std::future::ready(answer).boxed()
    }
}

/// Rows written. A definition reports 0: for an unknown number JDBC would ask for its rows and so run it again.
fn written(done: Option<CompletedStatement>) -> i64 {
    done.and_then(|done| done.rows).unwrap_or(0)
}

/// Warnings besides the rows, as [`crate::client`] reads them.
fn warned(warnings: &[String]) -> Bytes {
    match warnings {
        [] => Bytes::new(),
        _ => serde_json::json!({ "warnings": warnings })
            .to_string()
            .into(),
    }
}

fn log_warnings(statement: &ClientStatement, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(target: QUERY_LOG, query = statement.id, user = &*statement.user, "{warning}");
    }
}

fn updated(record_count: i64) -> Bytes {
    DoPutUpdateResult { record_count }.encode_to_vec().into()
}

fn command(bytes: &[u8]) -> Result<Command> {
    let any = Any::decode(bytes).map_err(|_| garbled())?;
    Command::try_from(any).map_err(|_| garbled())
}

fn unpack<M: arrow_flight::sql::ProstMessageExt>(bytes: &[u8]) -> Result<M> {
    let any = Any::decode(bytes).map_err(|_| garbled())?;
    let message = any.unpack().map_err(|_| garbled())?;
    message.ok_or_else(garbled)
}

fn refused(what: &str) -> Status {
    status(&Error::unsupported(format!("{what} is not supported")))
}

fn too_much_bound() -> Error {
    Error::new(
        ErrorKind::Exhausted,
        format!(
            "more than {MAX_BOUND_ROWS} rows, {MAX_BOUND_VALUES} values or {MAX_BOUND_BYTES} bytes are bound to a statement"
        ),
    )
    .with_help("load many rows with bulk ingest")
}

fn too_many(what: &str) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        format!("the server holds too many {what}"),
    )
}

fn ipc(schema: &Schema) -> Result<Bytes> {
    let options = IpcWriteOptions::default();
    let message: std::result::Result<IpcMessage, _> = SchemaAsIpc::new(schema, &options).try_into();
    let IpcMessage(bytes) = message.map_err(|error| Error::internal(error.to_string()))?;
    Ok(bytes)
}
