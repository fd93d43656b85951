//! The Flight SQL service: every call of the protocol, answered or refused by name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, Command,
    DoPutPreparedStatementResult, DoPutUpdateResult, ProstMessageExt as _, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, IpcMessage, PollInfo, PutResult, SchemaAsIpc,
    SchemaResult, Ticket,
};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{ParsedStatement, Script};
use crate::server::engine::{Done, Engine, Kind, kind, one_statement};
use crate::server::metadata::{self, garbled, unknown};
use crate::server::prepared::Prepared;
use crate::server::results::Held;
use crate::server::status::status;
use crate::server::wire::{to_wire, wire_schema};
use crate::session::{Execution, Session};

const CREATE_PREPARED: &str = "CreatePreparedStatement";
const CLOSE_PREPARED: &str = "ClosePreparedStatement";
const CLOSE_SESSION: &str = "CloseSession";

type Answer<T> = std::result::Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, std::result::Result<T, Status>>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Flight {
    engine: Arc<Engine>,
    results: Arc<Held<Arc<Begun>>>,
    prepared: Arc<Held<Prepared>>,
}

/// A statement between GetFlightInfo and DoGet.
struct Begun {
    schema: SchemaRef,
    rows: Rows,
}

enum Rows {
    /// Of a statement that has run to its end: they can be fetched again.
    Done(RecordBatch),
    /// Of a query that was planned; fetched again, it is run again.
    Query(Box<Query>),
}

/// A query, once for each row of values that was bound.
struct Query {
    statements: Vec<ParsedStatement>,
    /// The first of them, planned.
    planned: Mutex<Option<(Session, Execution)>>,
}

/// `ActionCreatePreparedStatementResult` with the field that newer clients read.
#[derive(Clone, PartialEq, prost::Message)]
struct PreparedResult {
    #[prost(bytes = "bytes", tag = "1")]
    handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    is_update: Option<bool>,
}

/// `CloseSessionResult`: closed.
#[derive(Clone, PartialEq, prost::Message)]
struct SessionClosed {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Flight {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            results: Arc::new(Held::new()),
            prepared: Arc::new(Held::new()),
        }
    }

    /// Plans a query, or runs another statement to its end; what it gives waits to be fetched.
    async fn begin(&self, prepared: &Prepared) -> Result<(SchemaRef, Bytes)> {
        let statements = prepared.statements()?;
        let begun = match kind(prepared.parsed()) {
            Kind::Query => {
                let first = match statements.first() {
                    Some(first) => first.clone(),
                    None => prepared.with_nulls()?,
                };
                let planned = self.engine.begin(first).await?;
                Begun {
                    schema: wire_schema(&planned.1.schema()),
                    rows: Rows::Query(Box::new(Query {
                        statements,
                        planned: Mutex::new(Some(planned)),
                    })),
                }
            }
            Kind::Report | Kind::Update | Kind::Definition => {
                let done = self.complete(statements).await?;
                let batch = done.map_or_else(
                    || RecordBatch::new_empty(Arc::new(Schema::empty())),
                    |done| done.batch,
                );
                let schema = wire_schema(&batch.schema());
                Begun {
                    rows: Rows::Done(to_wire(&batch, &schema)?),
                    schema,
                }
            }
        };
        let schema = Arc::clone(&begun.schema);
        let name = self.results.put(Arc::new(begun), Instant::now());
        let name = name.ok_or_else(|| too_many("results that nobody fetches"))?;
        Ok((schema, name.into()))
    }

    /// Runs statements one after the other; gives what the last one said, with the rows of all.
    async fn complete(&self, statements: Vec<ParsedStatement>) -> Result<Option<Done>> {
        let mut last: Option<Done> = None;
        for statement in statements {
            let done = self.engine.complete(statement).await?;
            last = Some(match last {
                None => done,
                Some(before) => done.after(&before)?,
            });
        }
        Ok(last)
    }

    async fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let command = command(&descriptor.cmd)?;
        let (schema, ticket) = match command {
            Command::CommandStatementQuery(query) => {
                let prepared = Prepared::try_new(one_statement(&query.query)?)?;
                self.statement_ticket(&prepared).await?
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(&query.prepared_statement_handle)?;
                self.statement_ticket(&prepared).await?
            }
            other => match metadata::schema(&other) {
                Some(schema) => (schema, other.into_any().encode_to_vec().into()),
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
            .with_ordered(true))
    }

    async fn statement_ticket(&self, prepared: &Prepared) -> Result<(SchemaRef, Bytes)> {
        let (schema, statement_handle) = self.begin(prepared).await?;
        let ticket = TicketStatementQuery { statement_handle };
        Ok((schema, ticket.as_any().encode_to_vec().into()))
    }

    /// The columns of what a command gives, without running it.
    async fn schema(&self, descriptor: &FlightDescriptor) -> Result<SchemaRef> {
        match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                self.schema_of(&Prepared::try_new(one_statement(&query.query)?)?)
                    .await
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(&query.prepared_statement_handle)?;
                self.schema_of(&prepared).await
            }
            other => metadata::schema(&other).ok_or_else(|| unknown(&other)),
        }
    }

    /// Of a query, its columns; of another statement, none: clients take it for one without rows.
    async fn schema_of(&self, prepared: &Prepared) -> Result<SchemaRef> {
        if kind(prepared.parsed()) != Kind::Query {
            return Ok(Arc::new(Schema::empty()));
        }
        match self.engine.begin(prepared.with_nulls()?).await {
            Ok((_session, execution)) => Ok(wire_schema(&execution.schema())),
            // What stands where NULL cannot, such as an interval: the columns are told when it is bound.
            Err(error)
                if prepared.has_parameters() && !matches!(error.kind(), ErrorKind::NotFound) =>
            {
                Ok(Arc::new(Schema::empty()))
            }
            Err(error) => Err(error),
        }
    }

    fn prepared(&self, handle: &[u8]) -> Result<Prepared> {
        let found = self.prepared.get(handle, Instant::now());
        found.ok_or_else(|| {
            Error::not_found("there is no such prepared statement, or it was closed")
        })
    }

    fn keep(&self, prepared: Prepared) -> Result<Bytes> {
        let name = self.prepared.put(prepared, Instant::now());
        Ok(name.ok_or_else(|| too_many("prepared statements"))?.into())
    }

    async fn fetch(&self, ticket: &Ticket) -> Result<(SchemaRef, Stream<RecordBatch>)> {
        match command(&ticket.ticket)? {
            Command::TicketStatementQuery(ticket) => {
                let begun = self.results.get(&ticket.statement_handle, Instant::now());
                let begun = begun.ok_or_else(|| {
                    Error::not_found("there is no such result, or it has waited for too long")
                        .with_help("run the statement again")
                })?;
                self.rows(&begun).await
            }
            other => {
                let session = self.engine.fork().await?;
                let batch = metadata::answer(other, &session).await?;
                Ok((batch.schema(), futures::stream::iter([Ok(batch)]).boxed()))
            }
        }
    }

    async fn rows(&self, begun: &Begun) -> Result<(SchemaRef, Stream<RecordBatch>)> {
        let schema = Arc::clone(&begun.schema);
        let query = match &begun.rows {
            Rows::Done(batch) => {
                let rows = futures::stream::iter([Ok(batch.clone())]).boxed();
                return Ok((schema, rows));
            }
            Rows::Query(query) => query,
        };
        let mut statements = query.statements.clone().into_iter();
        let Some(first) = statements.next() else {
            return Ok((schema, futures::stream::empty().boxed()));
        };
        let planned = query.planned.lock().await.take();
        let planned = match planned {
            Some(planned) => planned,
            None => self.engine.begin(first.clone()).await?,
        };
        let of_first = rows_of(planned, first, Arc::clone(&schema));
        let (engine, wire) = (Arc::clone(&self.engine), Arc::clone(&schema));
        let of_rest = futures::stream::iter(statements).then(move |statement| {
            let (engine, wire) = (Arc::clone(&engine), Arc::clone(&wire));
            async move {
                let planned = engine.begin(statement.clone()).await;
                let planned = planned.map_err(|error| status(&error, None))?;
                Ok::<_, Status>(rows_of(planned, statement, wire))
            }
        });
        Ok((schema, of_first.chain(of_rest.try_flatten()).boxed()))
    }

    async fn put(&self, command: Command, bound: Vec<RecordBatch>) -> Result<Bytes> {
        let (prepared, bound) = match command {
            Command::CommandStatementUpdate(update) => {
                let script = Script::new("sql", update.query);
                let mut rows = 0;
                for raw in script.split()? {
                    let prepared = Prepared::try_new(raw)?;
                    let done = self.complete(prepared.statements()?).await?;
                    rows = written(done);
                }
                return Ok(updated(rows));
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(&query.prepared_statement_handle)?;
                let result = DoPutPreparedStatementResult {
                    prepared_statement_handle: Some(self.keep(prepared.bind(&bound)?)?),
                };
                return Ok(result.encode_to_vec().into());
            }
            Command::CommandPreparedStatementUpdate(update) => {
                (self.prepared(&update.prepared_statement_handle)?, bound)
            }
            other => return Err(unknown(&other)),
        };
        let bound = match prepared.has_parameters() && !bound.is_empty() {
            true => prepared.bind(&bound)?,
            false => prepared,
        };
        let done = self.complete(bound.statements()?).await?;
        Ok(updated(written(done)))
    }

    async fn act(&self, action: &Action) -> Result<Option<Bytes>> {
        match action.r#type.as_str() {
            CREATE_PREPARED => {
                let request: ActionCreatePreparedStatementRequest = unpack(&action.body)?;
                let prepared = Prepared::try_new(one_statement(&request.query)?)?;
                let types = match prepared.has_parameters() {
                    true => {
                        let session = self.engine.fork().await?;
                        session.parameter_types(prepared.parsed()).await
                    }
                    false => HashMap::new(),
                };
                let result = PreparedResult {
                    dataset_schema: ipc(&*self.schema_of(&prepared).await?)?,
                    parameter_schema: ipc(&prepared.parameter_schema(&types))?,
                    is_update: Some(kind(prepared.parsed()) != Kind::Query),
                    handle: self.keep(prepared)?,
                };
                let any = Any {
                    type_url: "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult".to_owned(),
                    value: result.encode_to_vec().into(),
                };
                Ok(Some(any.encode_to_vec().into()))
            }
            CLOSE_PREPARED => {
                let request: ActionClosePreparedStatementRequest = unpack(&action.body)?;
                self.prepared.remove(&request.prepared_statement_handle);
                Ok(None)
            }
            CLOSE_SESSION => Ok(Some(SessionClosed { status: 1 }.encode_to_vec().into())),
            other => Err(Error::unsupported(format!("there is no action {other}"))),
        }
    }
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoExchangeStream = Stream<FlightData>;
    type DoActionStream = Stream<arrow_flight::Result>;
    type ListActionsStream = Stream<ActionType>;

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<Self::HandshakeStream> {
        // Clients that log in look for a token here; without users any is as good.
        let mut answer = Response::new(futures::stream::empty().boxed() as Self::HandshakeStream);
        let token = tonic::metadata::MetadataValue::from_static("Bearer none");
        answer.metadata_mut().insert("authorization", token);
        Ok(answer)
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        Err(refused("ListFlights: ask with SQL, or for the tables"))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        let info = self.info(request.into_inner()).await;
        info.map(Response::new)
            .map_err(|error| status(&error, None))
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<PollInfo> {
        let info = self.info(request.into_inner()).await;
        let info = info.map_err(|error| status(&error, None))?;
        // It is planned: nothing is left to wait for.
        let poll = PollInfo::new().with_info(info);
        let poll = poll.try_with_progress(1.0);
        let poll = poll.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(poll))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        let schema = self.schema(request.get_ref()).await;
        let schema = schema.and_then(|schema| ipc(&schema));
        let schema = schema.map_err(|error| status(&error, None))?;
        Ok(Response::new(SchemaResult { schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let fetched = self.fetch(request.get_ref()).await;
        let (schema, rows) = fetched.map_err(|error| status(&error, None))?;
        let sent = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .build(rows.map_err(|status| FlightError::Tonic(Box::new(status))));
        Ok(Response::new(sent.map_err(of_flight).boxed()))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        let mut messages = request.into_inner();
        let first = messages.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("no message was sent"))?;
        let descriptor = first.flight_descriptor.clone();
        let descriptor = descriptor
            .ok_or_else(|| Status::invalid_argument("the first message has no descriptor"))?;
        let command = command(&descriptor.cmd).map_err(|error| status(&error, None))?;
        // An update without parameters may be sent without any columns.
        let mut bound = Vec::new();
        if !first.data_header.is_empty() {
            let sent = futures::stream::iter([Ok(first)]).chain(messages);
            let sent = sent.map_err(|status| FlightError::Tonic(Box::new(status)));
            let mut batches = FlightRecordBatchStream::new_from_flight_data(sent);
            while let Some(batch) = batches.try_next().await.map_err(of_flight)? {
                bound.push(batch);
            }
        }
        let done = self.put(command, bound).await;
        let app_metadata = done.map_err(|error| status(&error, None))?;
        let sent = futures::stream::iter([Ok(PutResult { app_metadata })]);
        Ok(Response::new(sent.boxed()))
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Answer<Self::DoExchangeStream> {
        Err(refused("DoExchange"))
    }

    async fn do_action(&self, request: Request<Action>) -> Answer<Self::DoActionStream> {
        let done = self.act(request.get_ref()).await;
        let body = done.map_err(|error| status(&error, None))?;
        let results = body
            .into_iter()
            .map(|body| Ok(arrow_flight::Result { body }));
        let results: Vec<_> = results.collect();
        Ok(Response::new(futures::stream::iter(results).boxed()))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        let actions = [
            (CREATE_PREPARED, "Prepares a statement"),
            (CLOSE_PREPARED, "Forgets a prepared statement"),
            (CLOSE_SESSION, "Ends what the client has begun"),
        ];
        let actions = actions.map(|(name, does)| {
            Ok(ActionType {
                r#type: name.to_owned(),
                description: does.to_owned(),
            })
        });
        Ok(Response::new(futures::stream::iter(actions).boxed()))
    }
}

/// The rows of a planned query as they are sent.
fn rows_of(
    planned: (Session, Execution),
    statement: ParsedStatement,
    wire: SchemaRef,
) -> Stream<RecordBatch> {
    let (session, execution) = planned;
    let rows = execution.stream.map(move |batch| {
        // What the query needs lives as long as its rows come.
        let _session = &session;
        let sent = batch
            .map_err(|error| statement.places.locate(error.into()))
            .and_then(|batch| to_wire(&batch, &wire));
        sent.map_err(|error| status(&error, None))
    });
    rows.boxed()
}

fn of_flight(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::invalid_argument(other.to_string()),
    }
}

/// Rows written. A definition writes none; were that told as unknown, JDBC would ask for its rows and so run it again.
fn written(done: Option<Done>) -> i64 {
    done.and_then(|done| done.rows).unwrap_or(0)
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
    status(
        &Error::unsupported(format!("{what} is not supported")),
        None,
    )
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
