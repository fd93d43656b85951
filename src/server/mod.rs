//! The service: SQL over Arrow Flight for any client and a console for browsers, with jobs running behind them.
//!
//! The only module that names arrow-flight, tonic and axum.

mod engine;
mod flight;
mod http;
mod jobs;
mod metadata;
mod prepared;
mod results;
mod status;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{Parameters, Script};
use crate::runtime::{Jobs, Metrics, Stop};
use crate::server::engine::Engine;
use crate::server::flight::Flight;
use crate::server::jobs::RunningJobs;
use crate::session::{Session, SessionOptions};
use crate::state::{CatalogStore, DataDir, JobStore};

/// What clients may send in one message: parameters and statements.
const MAX_MESSAGE: usize = 64 << 20;
/// A stream's window: how much may be on its way.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Results in flight have so long to end when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// What a server is given.
#[derive(Debug)]
pub struct ServeOptions {
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where the console is, if there is one: `HOST:PORT`.
    pub http: Option<String>,
    /// Clients of other machines may come although nobody has to log in.
    pub insecure: bool,
    /// Where the catalog and jobs last.
    pub data_dir: String,
    /// Of the queries.
    pub session: SessionOptions,
    /// Files that define tables, views and jobs; applied at each start.
    pub scripts: Vec<Script>,
    /// Values for their `$name`.
    pub parameters: Parameters,
    /// Where jobs count what they do.
    pub metrics: Option<Metrics>,
}

/// A server that listens and is not yet asked.
pub struct Server {
    engine: Arc<Engine>,
    listener: TcpListener,
    /// Of the console.
    http: Option<TcpListener>,
}

impl Server {
    /// Listens, restores the catalog and runs its jobs.
    ///
    /// # Errors
    ///
    /// An address that cannot be had, a data directory that cannot be used; of a file's statement, with the file.
    pub async fn start(options: ServeOptions) -> Result<Self, (Error, Option<Script>)> {
        let plain = |error: Error| (error, None);
        let flight = listen(
            &options.listen,
            options.insecure,
            "--listen 127.0.0.1:32010",
        );
        let listener = flight.await.map_err(plain)?;
        let http = match &options.http {
            Some(address) => {
                let http = listen(address, options.insecure, "--http 127.0.0.1:32080");
                Some(http.await.map_err(plain)?)
            }
            None => None,
        };
        let dir = DataDir::open(&options.data_dir).map_err(plain)?;
        let session = Session::try_new(&options.session).map_err(plain)?;
        let jobs = Arc::new(Jobs::new(JobStore::new(dir.clone())));
        let running = RunningJobs::new(Arc::clone(&jobs), options.metrics);
        let engine = Engine::new(session, CatalogStore::new(dir.clone()), jobs, running);
        engine.restore(&JobStore::new(dir)).await.map_err(plain)?;
        let mut parameters = options.parameters;
        for script in options.scripts {
            if let Err(error) = engine.apply(&script, &mut parameters).await {
                engine.stop().await;
                return Err((error, Some(script)));
            }
        }
        Ok(Self {
            engine: Arc::new(engine),
            listener,
            http,
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

    /// Answers clients until `stop` is done; then results in flight may end, and the jobs stop.
    ///
    /// # Errors
    ///
    /// The socket fails.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<()> {
        let flight = FlightServiceServer::new(Flight::new(Arc::clone(&self.engine)))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(usize::MAX);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<Flight>>().await;
        let stopping = Stop::default();
        let drained = |stopping: &Stop| {
            let stopping = stopping.clone();
            async move { stopping.wait().await }
        };
        let server = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_service(health_service)
            .add_service(flight)
            .serve_with_incoming_shutdown(TcpIncoming::from(self.listener), drained(&stopping));
        let server = async {
            server
                .await
                .map_err(|error| Error::unavailable(error.to_string()))
        };
        let console = async {
            match self.http {
                Some(http) => http::serve(http, Arc::clone(&self.engine), drained(&stopping)).await,
                None => Ok(()),
            }
        };
        let told = async {
            stop.await;
            health
                .set_not_serving::<FlightServiceServer<Flight>>()
                .await;
            stopping.stop();
        };
        let limit = async {
            stopping.wait().await;
            tokio::time::sleep(DRAIN).await;
        };
        let ended = async {
            tokio::select! {
                ended = async { tokio::try_join!(server, console) } => ended.map(|_| ()),
                () = limit => Ok(()),
            }
        };
        let (ended, ()) = tokio::join!(ended, told);
        self.engine.stop().await;
        ended
    }
}

/// Listens at `address`, which is written as in `example`.
async fn listen(address: &str, insecure: bool, example: &str) -> Result<TcpListener> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| {
        Error::invalid(format!("cannot listen at '{address}': {error}"))
            .with_help(format!("write it as {example}"))
    })?;
    let found: Vec<SocketAddr> = found.collect();
    if !insecure && !found.iter().all(|address| address.ip().is_loopback()) {
        return Err(Error::new(
            ErrorKind::Permission,
            format!("'{address}' can be reached from other machines, and nobody has to log in"),
        )
        .with_help("listen at 127.0.0.1, or say --insecure if the network is yours alone"));
    }
    TcpListener::bind(found.as_slice()).await.map_err(|error| {
        Error::unavailable(format!("cannot listen at '{address}': {error}"))
            .with_help("choose another port, or 0 for one that is free")
    })
}
