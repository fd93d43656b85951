//! The client of a server: statements over Flight SQL, their rows as they come.
//!
//! With `server` the only module that names arrow-flight and tonic.

mod address;
mod errors;
mod tls;
mod warnings;

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use arrow_flight::decode::DecodedPayload;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetTables, SqlInfo};
use arrow_flight::{FlightInfo, HandshakeRequest, IpcMessage};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use datafusion::arrow::array::{AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::error::{Error, Result};
use crate::planner::BoundText;

pub use address::Address;
pub use tls::TlsFiles;
pub use warnings::Warnings;

/// The time within which a server must answer a new connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the client pings a silent server, and how long it waits for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// The login of the client.
#[derive(Clone, Default)]
pub enum Login {
    /// The server knows no users.
    #[default]
    Anonymous,
    /// A user, whose password is exchanged for a token.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// A connection to a server. Statements may run side by side.
pub struct Client {
    address: Address,
    login: Login,
    channel: Channel,
    /// The token that the server gave for the password, or the one that the user gave.
    token: RwLock<Option<String>>,
}

/// The result of a statement.
pub struct StatementRows {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows, as they come. Dropped, the statement is cancelled.
    pub rows: BoxStream<'static, Result<RecordBatch>>,
    /// Warnings of the server: some when the statement has started, more when its rows have been read.
    pub warnings: Warnings,
}

impl Client {
    /// Connects, logs in, and checks that the server is an Anabranch server.
    ///
    /// # Errors
    ///
    /// No server answers, or one of another kind; the server refuses the login, or a certificate is not accepted.
    pub async fn connect(address: Address, login: Login, tls: &TlsFiles) -> Result<Self> {
        let endpoint = endpoint(&address, tls)?;
        let connected = async {
            let channel = endpoint.connect().await;
            let channel = channel.map_err(|error| errors::not_reached(&address, &error))?;
            let token = match &login {
                Login::Token(token) => Some(checked(token)?),
                Login::Anonymous | Login::User { .. } => None,
            };
            let client = Self {
                address: address.clone(),
                login,
                channel,
                token: RwLock::new(token),
            };
            client.log_in().await?;
            let mut flight = client.flight_sql();
            let asked = flight
                .get_sql_info(vec![SqlInfo::FlightSqlServerName])
                .await;
            asked.map_err(|error| errors::failure(error, &address))?;
            Ok(client)
        };
        match tokio::time::timeout(CONNECT, connected).await {
            Ok(connected) => connected,
            Err(_) => Err(errors::silent(&address, CONNECT)),
        }
    }

    /// The address of the server.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Runs a statement: a query has started when this returns, any other statement has ended.
    ///
    /// # Errors
    ///
    /// The statement's error, with its place in the text that was typed.
    pub async fn run(&self, statement: &BoundText) -> Result<StatementRows> {
        let mut flight = self.flight_sql();
        let mut begun = flight.execute(statement.text().to_owned(), None).await;
        if begun.as_ref().is_err_and(|error| self.is_expired(error)) {
            self.log_in().await?;
            flight = self.flight_sql();
            begun = flight.execute(statement.text().to_owned(), None).await;
        }
        let failed = {
            let (address, statement) = (self.address.clone(), statement.clone());
            move |error| errors::of_statement(error, &address, &statement)
        };
        let warnings = Warnings::default();
        let info = begun.map_err(&failed)?;
        warnings.read(&info.app_metadata);
        let (schema, rows) = fetched(flight, info, warnings.clone())?;
        Ok(StatementRows {
            schema,
            rows: rows.map_err(failed).boxed(),
            warnings,
        })
    }

    /// The names of all tables and of their columns.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn names(&self) -> Result<Vec<String>> {
        let question = CommandGetTables {
            include_schema: true,
            ..CommandGetTables::default()
        };
        let failed = |error| errors::failure(error, &self.address);
        let mut flight = self.flight_sql();
        let info = flight.get_tables(question).await.map_err(failed)?;
        let (_, mut rows) = fetched(flight, info, Warnings::default())?;
        let mut names = Vec::new();
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            let tables = batch.column_by_name("table_name");
            let tables = tables.and_then(|column| column.as_string_opt::<i32>());
            names.extend(tables.into_iter().flatten().flatten().map(str::to_owned));
            let schemas = batch.column_by_name("table_schema");
            let schemas = schemas.and_then(|column| column.as_binary_opt::<i32>());
            for schema in schemas.into_iter().flatten().flatten() {
                let schema = Schema::try_from(IpcMessage(Bytes::copy_from_slice(schema)))
                    .map_err(|error| failed(error.into()))?;
                names.extend(schema.fields().iter().map(|field| field.name().clone()));
            }
        }
        Ok(names)
    }

    /// Exchanges the password for a token, where there is one.
    async fn log_in(&self) -> Result<()> {
        let Login::User { name, password } = &self.login else {
            return Ok(());
        };
        let basic = BASE64_STANDARD.encode(format!("{name}:{password}"));
        let hello = futures::stream::iter([HandshakeRequest::default()]);
        let mut request = Request::new(hello);
        let basic = MetadataValue::try_from(format!("Basic {basic}"))
            .map_err(|error| Error::internal(error.to_string()))?;
        request.metadata_mut().insert("authorization", basic);
        let mut flight = FlightServiceClient::new(self.channel.clone());
        let answer = flight.handshake(request).await;
        let answer = answer.map_err(|status| errors::failure(status.into(), &self.address))?;
        let token = answer.metadata().get("authorization");
        let token = token
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or_else(|| {
                Error::unavailable(format!("the server at {} returned no token", self.address))
            })?;
        let mut held = self.token.write().unwrap_or_else(PoisonError::into_inner);
        *held = Some(token.to_owned());
        Ok(())
    }

    /// Whether the server refuses the token as expired, and the client can get another one.
    fn is_expired(&self, error: &FlightError) -> bool {
        let FlightError::Tonic(status) = error else {
            return false;
        };
        status.code() == Code::Unauthenticated && matches!(self.login, Login::User { .. })
    }

    fn flight_sql(&self) -> FlightClient {
        let inner =
            FlightServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let mut flight = FlightSqlServiceClient::new_from_inner(inner);
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = token.as_ref() {
            flight.set_token(token.clone());
        }
        flight
    }
}

type FlightClient = FlightSqlServiceClient<Channel>;
type RowStream = BoxStream<'static, Result<RecordBatch, FlightError>>;

/// The columns and rows of a query that has started.
fn fetched(
    flight: FlightClient,
    info: FlightInfo,
    warnings: Warnings,
) -> Result<(SchemaRef, RowStream)> {
    let tickets: Vec<_> = info
        .endpoint
        .iter()
        .filter_map(|part| part.ticket.clone())
        .collect();
    let schema = info.try_decode_schema().map_err(|error| {
        Error::internal(format!("the server's columns cannot be read: {error}"))
    })?;
    let rows = futures::stream::iter(tickets).then(move |ticket| {
        let mut flight = flight.clone();
        async move { Ok::<_, FlightError>(flight.do_get(ticket).await?.into_inner()) }
    });
    let rows = rows.try_flatten().try_filter_map(move |message| {
        warnings.read(&message.app_metadata());
        let rows = match message.payload {
            DecodedPayload::RecordBatch(rows) => Some(rows),
            DecodedPayload::Schema(_) | DecodedPayload::None => None,
        };
        std::future::ready(Ok(rows))
    });
    Ok((SchemaRef::new(schema), rows.boxed()))
}

fn endpoint(address: &Address, tls: &TlsFiles) -> Result<Endpoint> {
    let unusable = |error: tonic::transport::Error| errors::not_reached(address, &error);
    let endpoint = Endpoint::from_shared(address.http())
        .map_err(unusable)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match tls.config(address)? {
        Some(config) => endpoint.tls_config(config).map_err(unusable),
        None => Ok(endpoint),
    }
}

/// The token, if it can be sent.
fn checked(token: &str) -> Result<String> {
    match MetadataValue::try_from(format!("Bearer {token}")) {
        Ok(_) => Ok(token.to_owned()),
        Err(_) => Err(Error::invalid(
            "the token has characters that cannot be sent",
        )),
    }
}
