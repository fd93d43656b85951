//! Two HTTP endpoints: `/metrics`, and `/health`, which answers as long as the program runs.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::cli::config::Settings;
use crate::cli::terminal::messages::eprint;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{JobState, Metrics};

/// The content type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves metrics until dropped.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    metrics: Metrics,
    task: tokio::task::JoinHandle<()>,
}

impl MetricsServer {
    /// Listens at the address of the flag, or else of the configuration; does nothing if neither gives one.
    pub(crate) async fn start_if_configured(
        flag: Option<&String>,
        settings: &Settings,
    ) -> Result<Option<Self>> {
        match flag.or(settings.metrics.as_ref()) {
            Some(address) => Self::start(address).await.map(Some),
            None => Ok(None),
        }
    }

    /// Listens at `HOST:PORT` and says where.
    async fn start(address: &str) -> Result<Self> {
        let (listener, at) = listen(address).await?;
        eprint(&format!("metrics at http://{at}/metrics\n"));
        Self::with(listener)
    }

    fn with(listener: TcpListener) -> Result<Self> {
        let metrics = Metrics::try_new()?;
        let pages = pages(metrics.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, pages).await {
                tracing::error!(%error, "metrics are no longer served");
            }
        });
        Ok(Self { metrics, task })
    }

    /// The metrics that are served.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(address: &str) -> Result<(TcpListener, SocketAddr)> {
    let well_formed = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(Error::invalid(format!(
            "metrics cannot be served at '{address}': it is not HOST:PORT"
        ))
        .with_help(
            "write it as --metrics 127.0.0.1:9464, or 0.0.0.0:9464 for all networks of the machine",
        ));
    }
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let at = listener.local_addr()?;
        Ok((listener, at))
    };
    bound.await.map_err(|error: std::io::Error| {
        let (reason, help) = match error.kind() {
            std::io::ErrorKind::AddrInUse => (
                "the address is in use".to_owned(),
                "another process listens there: choose another port, or 0 for one that is free",
            ),
            _ => (
                error.to_string(),
                "the host must be a name or an address of this machine, such as 127.0.0.1 or 0.0.0.0",
            ),
        };
        Error::new(
            ErrorKind::Unavailable,
            format!("metrics cannot be served at '{address}': {reason}"),
        )
        .with_help(help)
    })
}

/// The pages; each collects the metrics at the time of the request.
fn pages(metrics: Metrics) -> Router {
    let nothing = (
        StatusCode::NOT_FOUND,
        "the endpoints are /metrics and /health\n",
    );
    Router::new()
        .route("/metrics", get(text))
        .route("/health", get(health))
        .fallback(async move || nothing)
        .with_state(metrics)
}

async fn text(State(metrics): State<Metrics>) -> Response {
    match metrics.text(chrono::Utc::now().timestamp_micros()) {
        Ok(text) => ([(CONTENT_TYPE, METRICS_TEXT)], text).into_response(),
        Err(error) => {
            let said = error.message().to_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, said).into_response()
        }
    }
}

/// Answers that the program is alive, with the states of its jobs. A job that has failed is no reason to restart the
/// program: the job waits for a statement of the user.
async fn health(State(metrics): State<Metrics>) -> impl IntoResponse {
    let jobs: serde_json::Map<_, _> = metrics
        .states()
        .into_iter()
        .map(|(job, state)| (job, state.map_or("ENDED", JobState::name).into()))
        .collect();
    let mut said = serde_json::json!({"status": "ok", "jobs": jobs});
    let unopened = metrics.unopened();
    if !unopened.is_empty() {
        said["unopened"] = unopened.into();
    }
    let said = format!("{said}\n");
    ([(CONTENT_TYPE, "application/json")], said)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// The answer to a request, from the pages at an address.
    async fn answered(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn served() -> (MetricsServer, SocketAddr) {
        let (listener, at) = listen("127.0.0.1:0").await.unwrap();
        (MetricsServer::with(listener).unwrap(), at)
    }

    #[tokio::test]
    async fn metrics_and_health_pages_are_served() {
        let (_served, at) = served().await;
        let whole = answered(at, "GET /metrics?x=1").await;
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(METRICS_TEXT), "{head}");
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        let version = env!("CARGO_PKG_VERSION");
        assert!(body.contains(&format!("anabranch_build_info{{version=\"{version}\"}} 1")));
        for (request, status) in [
            ("HEAD /metrics", "200 "),
            ("GET /", "404 "),
            ("POST /metrics", "405 "),
            ("nonsense", "400 "),
        ] {
            let answer = answered(at, request).await;
            let status = format!("HTTP/1.1 {status}");
            assert!(answer.starts_with(&status), "{request}: {answer}");
        }
        let head = answered(at, "HEAD /metrics").await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let other = answered(at, "POST /metrics").await;
        assert!(other.contains("\r\nallow: GET,HEAD\r\n"), "{other}");
    }

    #[tokio::test]
    async fn clients_that_disconnect_or_stay_idle_do_not_block_others() {
        let (_served, at) = served().await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(at).await.unwrap());
            drop(TcpStream::connect(at).await.unwrap());
        }
        let answer = answered(at, "GET /health").await;
        let said = "{\"jobs\":{},\"status\":\"ok\"}\n";
        assert!(answer.ends_with(said), "{answer}");
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_bound_is_reported() {
        for bad in [
            "9464",
            ":9464",
            "localhost",
            "localhost:",
            "localhost:99999",
            "::1:x",
        ] {
            let error = listen(bad).await.unwrap_err();
            assert!(error.message().contains("HOST:PORT"), "{bad}: {error}");
            assert!(
                error
                    .help()
                    .is_some_and(|help| help.contains("127.0.0.1:9464"))
            );
        }
        let (_first, at) = listen("127.0.0.1:0").await.unwrap();
        let error = listen(&at.to_string()).await.unwrap_err();
        assert!(
            error.message().ends_with("the address is in use"),
            "{error}"
        );
        let error = listen("192.0.2.1:9464").await.unwrap_err();
        assert!(
            error
                .help()
                .is_some_and(|help| help.contains("of this machine"))
        );
    }
}
