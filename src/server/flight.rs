//! The Flight SQL service: every call of the protocol, answered or refused by name.

use std::sync::Arc;
use std::time::Instant;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, Command,
    DoPutUpdateResult, ProstMessageExt as _, TicketStatementQuery,
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

use crate::error::{Error, Result};
use crate::planner::{Parameters, ParsedStatement};
use crate::server::engine::{Engine, Kind, kind, parse};
use crate::server::metadata::{self, garbled, unknown};
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
    prepared: Arc<Held<Arc<ParsedStatement>>>,
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
    Query {
        parsed: ParsedStatement,
        first: Mutex<Option<(Session, Execution)>>,
    },
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
    async fn begin(&self, parsed: ParsedStatement) -> Result<(SchemaRef, Bytes)> {
        let begun = match kind(&parsed) {
            Kind::Query => {
                let (session, execution) = self.engine.begin(parsed.clone()).await?;
                Begun {
                    schema: wire_schema(&execution.schema()),
                    rows: Rows::Query {
                        parsed,
                        first: Mutex::new(Some((session, execution))),
                    },
                }
            }
            Kind::Report | Kind::Update | Kind::Definition => {
                let done = self.engine.complete(parsed).await?;
                let schema = wire_schema(&done.batch.schema());
                Begun {
                    rows: Rows::Done(to_wire(&done.batch, &schema)?),
                    schema,
                }
            }
        };
        let schema = Arc::clone(&begun.schema);
        let name = self.results.put(Arc::new(begun), Instant::now());
        let name = name.ok_or_else(|| too_many("results that nobody fetches"))?;
        Ok((schema, name.into()))
    }

    async fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let command = command(&descriptor.cmd)?;
        let (schema, ticket) = match command {
            Command::CommandStatementQuery(query) => {
                let parsed = parse(&query.query, &mut Parameters::default())?;
                self.statement_ticket(parsed).await?
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(&query.prepared_statement_handle)?;
                self.statement_ticket(prepared.as_ref().clone()).await?
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

    async fn statement_ticket(&self, parsed: ParsedStatement) -> Result<(SchemaRef, Bytes)> {
        let (schema, statement_handle) = self.begin(parsed).await?;
        let ticket = TicketStatementQuery { statement_handle };
        Ok((schema, ticket.as_any().encode_to_vec().into()))
    }

    /// The columns of what a command gives, without running it.
    async fn schema(&self, descriptor: &FlightDescriptor) -> Result<SchemaRef> {
        match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                let parsed = parse(&query.query, &mut Parameters::default())?;
                self.schema_of(&parsed).await
            }
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared(&query.prepared_statement_handle)?;
                self.schema_of(&prepared).await
            }
            other => metadata::schema(&other).ok_or_else(|| unknown(&other)),
        }
    }

    /// Of a query, its columns; of another statement, none: clients take it for one without rows.
    async fn schema_of(&self, parsed: &ParsedStatement) -> Result<SchemaRef> {
        if kind(parsed) != Kind::Query {
            return Ok(Arc::new(Schema::empty()));
        }
        let (_session, execution) = self.engine.begin(parsed.clone()).await?;
        Ok(wire_schema(&execution.schema()))
    }

    fn prepared(&self, handle: &[u8]) -> Result<Arc<ParsedStatement>> {
        self.prepared.get(handle, Instant::now()).ok_or_else(|| {
            Error::not_found("there is no such prepared statement, or it was closed")
        })
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
        let (parsed, first) = match &begun.rows {
            Rows::Done(batch) => {
                let rows = futures::stream::iter([Ok(batch.clone())]).boxed();
                return Ok((schema, rows));
            }
            Rows::Query { parsed, first } => (parsed, first),
        };
        let planned = first.lock().await.take();
        let (session, execution) = match planned {
            Some(planned) => planned,
            None => self.engine.begin(parsed.clone()).await?,
        };
        let places = parsed.places.clone();
        let wire = Arc::clone(&schema);
        let rows = execution.stream.map(move |batch| {
            // What the query needs lives as long as its rows come.
            let _session = &session;
            let sent = batch
                .map_err(|error| places.locate(error.into()))
                .and_then(|batch| to_wire(&batch, &wire));
            sent.map_err(|error| status(&error, None))
        });
        Ok((schema, rows.boxed()))
    }

    /// Runs a statement that is sent as an update; gives how many rows it has written, -1 if that is not what it does.
    async fn update(&self, parsed: ParsedStatement) -> Result<i64> {
        let done = self.engine.complete(parsed).await?;
        Ok(done.rows.unwrap_or(-1))
    }

    async fn put(&self, descriptor: &FlightDescriptor) -> Result<i64> {
        match command(&descriptor.cmd)? {
            Command::CommandStatementUpdate(update) => {
                let parsed = parse(&update.query, &mut Parameters::default())?;
                self.update(parsed).await
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let prepared = self.prepared(&update.prepared_statement_handle)?;
                self.update(prepared.as_ref().clone()).await
            }
            other => Err(unknown(&other)),
        }
    }

    async fn act(&self, action: &Action) -> Result<Option<Bytes>> {
        match action.r#type.as_str() {
            CREATE_PREPARED => {
                let request: ActionCreatePreparedStatementRequest = unpack(&action.body)?;
                let parsed = parse(&request.query, &mut Parameters::default())?;
                let schema = self.schema_of(&parsed).await?;
                let is_update = kind(&parsed) != Kind::Query;
                let name = self.prepared.put(Arc::new(parsed), Instant::now());
                let name = name.ok_or_else(|| too_many("prepared statements"))?;
                let result = PreparedResult {
                    handle: name.into(),
                    dataset_schema: ipc(&schema)?,
                    parameter_schema: ipc(&Schema::empty())?,
                    is_update: Some(is_update),
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
        let sent = sent.map_err(|error| match error {
            FlightError::Tonic(status) => *status,
            other => Status::internal(other.to_string()),
        });
        Ok(Response::new(sent.boxed()))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        let mut messages = request.into_inner();
        let first = messages.message().await?;
        let descriptor = first.and_then(|first| first.flight_descriptor);
        let descriptor = descriptor
            .ok_or_else(|| Status::invalid_argument("the first message has no descriptor"))?;
        // What is sent beside the command, an empty schema as a rule, is read to its end.
        while messages.message().await?.is_some() {}
        let record_count = self.put(&descriptor).await;
        let record_count = record_count.map_err(|error| status(&error, None))?;
        let app_metadata = DoPutUpdateResult { record_count }.encode_to_vec().into();
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
        crate::error::ErrorKind::Exhausted,
        format!("the server holds too many {what}"),
    )
}

fn ipc(schema: &Schema) -> Result<Bytes> {
    let options = IpcWriteOptions::default();
    let message: std::result::Result<IpcMessage, _> = SchemaAsIpc::new(schema, &options).try_into();
    let IpcMessage(bytes) = message.map_err(|error| Error::internal(error.to_string()))?;
    Ok(bytes)
}
