//! The service: SQL over Arrow Flight for any client and a console for browsers, with jobs running behind them.
//!
//! With `client` the only module that names arrow-flight and tonic.

pub(crate) mod auth;
mod console;
mod counters;
mod definitions;
mod engine;
mod flight;
mod metrics;
pub(crate) mod network;
mod parse;
mod queries;
mod restore;
mod running_jobs;
#[cfg(test)]
mod simulation;
mod waiting_jobs;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::ServerTlsConfig;
use tonic::transport::server::TcpIncoming;

use crate::core::stack::STACK;
use crate::error::{Error, ErrorKind, Result};
use crate::planner::{Parameters, Script};
use crate::runtime::host::Host;
use crate::runtime::{Jobs, Metrics, StopSignal};
use crate::server::auth::layer::AuthLayer;
use crate::server::auth::locations::AllowedLocations;
use crate::server::auth::login::Login;
use crate::server::console::PublicAddress;
use crate::server::counters::StatementCounters;
use crate::server::engine::Engine;
use crate::server::flight::FlightHandler;
use crate::server::flight::sessions::Sessions;
use crate::server::network::admission::Connections;
use crate::server::network::connection::admitted;
use crate::server::queries::scheduler::QueryScheduler;
use crate::server::queries::session_pool::SessionPool;
use crate::server::running_jobs::RunningJobs;
use crate::server::waiting_jobs::WaitingJobs;
use crate::session::{Session, SessionOptions};
use crate::store::{CatalogStore, DataDir, JobStore};

pub use crate::server::auth::login::LoginOptions;
pub use crate::server::auth::users::{hash_password, new_token};
pub use crate::server::network::tls::TlsOptions;
pub use crate::server::queries::limits::{Limits, QUERY_LOG};

/// The most bytes of a client's message: parameters and statements.
const MAX_MESSAGE: usize = 64 << 20;
/// A stream's window: how much may be on its way.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// The most bytes of a call's headers: tokens and cookies.
const MAX_HEADERS: u32 = 64 << 10;
/// Connections of clients at the same time, if the process may open enough files.
const CONNECTIONS: usize = 4_096;
/// The first call of a known user comes within this, or the connection is closed.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a client that is silent is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long results in flight and batches of jobs may take to end when the server is told to stop.
const GRACE: Duration = Duration::from_secs(30);

/// Options of a server.
#[derive(Debug)]
pub struct ServeOptions {
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where the console is, if there is one: `HOST:PORT`.
    pub http: Option<String>,
    /// Names by which the console is asked, beside those of this machine; none: any.
    pub http_hosts: Vec<String>,
    /// A proxy before the console speaks TLS.
    pub http_behind_tls: bool,
    /// Accept connections from other machines without logins.
    pub insecure: bool,
    /// The data directory with the catalog and the jobs.
    pub data_dir: String,
    /// Options of the sessions of queries.
    pub session: SessionOptions,
    /// The users and the tokens that are accepted.
    pub login: LoginOptions,
    /// How the network is kept from others.
    pub tls: Option<TlsOptions>,
    /// How much clients may ask for.
    pub limits: Limits,
    /// Locations at or below which users other than administrators may have tables.
    pub roots: Vec<String>,
    /// Files that define tables, views and jobs; applied at each start.
    pub scripts: Vec<Script>,
    /// Values for their `$name`.
    pub parameters: Parameters,
    /// Where the service and its jobs count their work.
    pub metrics: Option<Metrics>,
}

/// A server that listens and is not yet asked.
pub struct Server {
    engine: Arc<Engine>,
    login: Arc<Login>,
    flight: FlightHandler,
    tls: Option<ServerTlsConfig>,
    /// The same for the console.
    web_tls: Option<ServerConfig>,
    listener: TcpListener,
    /// The listener of the console.
    http: Option<TcpListener>,
    seen_as: PublicAddress,
    /// Watches the memory that the process holds.
    _memory: AbortOnDropHandle<()>,
    /// Watches statements that are planned.
    _plans: AbortOnDropHandle<()>,
    /// Where statements and jobs run, apart from the network and from each other; held until the server ends.
    _threads: ServerRuntimes,
}

/// Runtimes that are shut down here without waiting for their running work.
struct ServerRuntimes(Vec<Runtime>);

impl Drop for ServerRuntimes {
    fn drop(&mut self) {
        // To wait for them is not allowed where others are served.
        for runtime in self.0.drain(..) {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Listens, restores the catalog and runs its jobs.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, a data directory that cannot be used; the error of a file's statement, with the
    /// file.
    pub async fn start(options: ServeOptions) -> Result<Self, (Error, Option<Script>)> {
        let plain = |error: Error| (error, None);
        let is_open = !options.login.is_closed() && !options.insecure;
        let flight = listen(&options.listen, is_open, "--listen 127.0.0.1:32010");
        let listener = flight.await.map_err(plain)?;
        let http = match &options.http {
            Some(address) => {
                let http = listen(address, is_open, "--http 127.0.0.1:32080");
                Some(http.await.map_err(plain)?)
            }
            None => None,
        };
        let counts = Arc::new(StatementCounters::try_new().map_err(plain)?);
        let login = Login::try_new(&options.login, Arc::clone(&counts)).map_err(plain)?;
        let login = Arc::new(login);
        let secured = options.tls.as_ref();
        let web_tls = secured
            .map(crate::server::network::tls::web)
            .transpose()
            .map_err(plain)?;
        let tls = secured
            .map(crate::server::network::tls::flight)
            .transpose()
            .map_err(plain)?;
        let dir = DataDir::open(&options.data_dir).map_err(plain)?;
        let session = Session::try_new(&options.session).map_err(plain)?;
        let (work, of_jobs) = (runtime("work"), runtime("jobs"));
        let (work, of_jobs) = (work.map_err(plain)?, of_jobs.map_err(plain)?);
        let (runtime, for_jobs) = (work.handle().clone(), of_jobs.handle().clone());
        let runtime_of_work = work.handle().clone();
        let threads = ServerRuntimes(vec![work, of_jobs]);
        let jobs = Arc::new(Jobs::new(JobStore::new(dir.clone())));
        let engine = Engine {
            forks: SessionPool::try_new(session, options.limits.statements).map_err(plain)?,
            store: CatalogStore::new(dir.clone()),
            running: RunningJobs::new(Arc::clone(&jobs), options.metrics.clone(), for_jobs),
            host: Host::over(Arc::clone(&jobs)),
            jobs,
            sessions: Sessions::new(options.limits.sessions, options.limits.idle),
            work: QueryScheduler::new(runtime, options.limits, counts),
            waiting: WaitingJobs::default(),
            places: AllowedLocations {
                roots: options.roots,
                data_dir: Some(options.data_dir.clone()),
            },
        };
        let seen_as = PublicAddress {
            hosts: options.http_hosts.into(),
            is_secure: options.http_behind_tls,
        };
        let engine = Arc::new(engine);
        let memory_of_all = engine.forks.defined().memory_of_all();
        engine.work.may_hold(memory_of_all);
        let memory =
            crate::server::queries::memory_watch::watch(Arc::clone(&engine.work), memory_of_all);
        let plans = crate::server::queries::scheduler::watch(Arc::clone(&engine.work));
        let flight = FlightHandler::new(Arc::clone(&engine), Arc::clone(&login));
        if let Some(metrics) = &options.metrics {
            metrics::register(metrics.registry(), &engine, &flight).map_err(plain)?;
        }
        dir.sweep_unfinished(&["catalog", "jobs", "runs/jobs"]);
        engine.restore(&JobStore::new(dir)).await.map_err(plain)?;
        let mut parameters = options.parameters;
        for script in options.scripts {
            if let Err(error) = engine.apply(&script, &mut parameters).await {
                engine.stop().await;
                return Err((error, Some(script)));
            }
        }
        runtime_of_work.spawn(restore::retry_until_opened(Arc::downgrade(&engine)));
        Ok(Self {
            engine,
            login,
            flight,
            tls,
            web_tls,
            listener,
            http,
            seen_as,
            _memory: memory,
            _plans: plans,
            _threads: threads,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// The socket is gone.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Whether clients must use TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Where the console is, if there is one.
    ///
    /// # Errors
    ///
    /// The socket is gone.
    pub fn http_address(&self) -> Result<Option<SocketAddr>> {
        Ok(self
            .http
            .as_ref()
            .map(TcpListener::local_addr)
            .transpose()?)
    }

    /// Answers clients until `stop` is done; then results in flight may end, and the jobs stop, within half a minute.
    ///
    /// # Errors
    ///
    /// The socket fails.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<()> {
        let flight = FlightServiceServer::new(self.flight)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(usize::MAX);
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_serving::<FlightServiceServer<FlightHandler>>()
            .await;
        let stopping = StopSignal::default();
        let drained = |stopping: &StopSignal| {
            let stopping = stopping.clone();
            async move { stopping.wait().await }
        };
        let mut server = tonic::transport::Server::builder();
        if let Some(tls) = self.tls {
            let secured = server.tls_config(tls);
            server = secured.map_err(|error| {
                Error::invalid(format!("TLS cannot be used as given: {}", cause(&error)))
                    .with_help("--tls-cert and --tls-key are a certificate and its key, as PEM")
            })?;
        }
        // Without it (Nagle's algorithm) the last small part of an answer waits until the one before is acknowledged,
        // which takes 40 ms.
        let incoming = TcpIncoming::from(self.listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEP_ALIVE));
        let connections = Connections::new(crate::server::network::file_limit::connections(
            CONNECTIONS,
            2,
        ));
        #[expect(
            clippy::disallowed_methods,
            reason = "connections are silent in real time"
        )]
        let incoming = admitted(incoming, connections, || tokio::time::sleep(SILENCE));
        let server = server
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_max_header_list_size(MAX_HEADERS)
            .layer(AuthLayer::new(Arc::clone(&self.login)))
            .add_service(health_service)
            .add_service(flight)
            .serve_with_incoming_shutdown(incoming, drained(&stopping));
        let server = async {
            server
                .await
                .map_err(|error| Error::unavailable(error.to_string()))
        };
        let console = async {
            match self.http {
                Some(http) => {
                    let (engine, login) = (Arc::clone(&self.engine), Arc::clone(&self.login));
                    console::serve(
                        http,
                        engine,
                        login,
                        self.web_tls,
                        self.seen_as,
                        drained(&stopping),
                    )
                    .await
                }
                None => Ok(()),
            }
        };
        let told = async {
            stop.await;
            health
                .set_not_serving::<FlightServiceServer<FlightHandler>>()
                .await;
            stopping.stop();
            self.engine.work.drain();
        };
        let serving = async { tokio::try_join!(server, console).map(|_| ()) };
        crate::server::network::shutdown::serve_until(serving, told, self.engine.stop(), GRACE)
            .await
    }
}

/// The threads of statements, and those of jobs: statements that keep theirs busy stop no job.
fn runtime(name: &str) -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        // Planning and nested expressions recurse.
        .thread_stack_size(STACK)
        .enable_all()
        .build();
    runtime.map_err(|error| Error::internal(format!("threads cannot be started: {error}")))
}

/// The message of the error at the end of the chain of sources.
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => cause(source),
        None => error.to_string(),
    }
}

/// Listens at `address`, which is written as in `example`; only on loopback if everybody may do everything.
async fn listen(address: &str, is_open: bool, example: &str) -> Result<TcpListener> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| {
        Error::invalid(format!("cannot listen at '{address}': {error}"))
            .with_help(format!("write it as {example}"))
    })?;
    let found: Vec<SocketAddr> = found.collect();
    if is_open && !found.iter().all(|address| address.ip().is_loopback()) {
        return Err(Error::new(
            ErrorKind::Permission,
            format!("'{address}' can be reached from other machines, and no login is required"),
        )
        .with_help(
            "give --users FILE, listen at 127.0.0.1, or use --insecure if the network is private",
        ));
    }
    TcpListener::bind(found.as_slice()).await.map_err(|error| {
        Error::unavailable(format!("cannot listen at '{address}': {error}"))
            .with_help("choose another port, or 0 for one that is free")
    })
}
