//! Two pages over HTTP: the metrics of running jobs, and whether the program answers at all. Each connection gets one
//! answer and is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::cli::config::Settings;
use crate::cli::runner::eprint;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{JobState, Metrics};

/// Who does not ask or read within this time is not answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests are short: a line and some headers.
const MAX_REQUEST: usize = 8 << 10;
/// Answers in the making at the same time; others wait in the listener's queue.
const MAX_CONNECTIONS: usize = 16;
/// The content type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Serves metrics until dropped.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    metrics: Metrics,
    task: tokio::task::JoinHandle<()>,
}

impl MetricsServer {
    /// Listens where a flag, or else the configuration says; nowhere if nobody asks for metrics.
    pub(crate) async fn asked_for(
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
        let metrics = Metrics::try_new()?;
        let task = tokio::spawn(serve(listener, metrics.clone()));
        Ok(Self { metrics, task })
    }

    /// What is served.
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
            "metrics cannot be served at '{address}': it is no HOST:PORT"
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

async fn serve(listener: TcpListener, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors: others may be closed soon.
                tracing::warn!(%error, "a request for metrics was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, answer(stream, &metrics)).await;
            match answered {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a request for metrics broke off"),
                Err(_) => tracing::debug!("a request for metrics took too long"),
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    let Some(request) = read_request(&mut stream).await? else {
        return Ok(());
    };
    let answer = respond(&request, metrics).head_and_body(&request);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Get(String),
    Head(String),
    /// Another method.
    Other,
    /// Not HTTP, or too long.
    Bad,
}

/// Reads up to the end of the headers; nothing if the client left without asking.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut bytes = Vec::with_capacity(1 << 10);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok((!bytes.is_empty()).then_some(Request::Bad));
        }
        if let Some(request) = parse(&bytes) {
            return Ok(Some(request));
        }
        if bytes.len() > MAX_REQUEST {
            return Ok(Some(Request::Bad));
        }
    }
}

/// The request that the bytes are; nothing while there are too few.
fn parse(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Request::Bad),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    Some(match request.method {
        Some("GET") => Request::Get(path),
        Some("HEAD") => Request::Head(path),
        _ => Request::Other,
    })
}

struct Response {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Response {
    fn head_and_body(self, request: &Request) -> String {
        let allow = match request {
            Request::Other => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let length = self.body.len();
        let body = match request {
            Request::Head(_) => "",
            _ => &self.body,
        };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n{body}",
            self.status, self.content_type
        )
    }
}

fn respond(request: &Request, metrics: &Metrics) -> Response {
    let text = |status, body: &str| Response {
        status,
        content_type: TEXT,
        body: body.to_owned(),
    };
    let path = match request {
        Request::Get(path) | Request::Head(path) => path,
        Request::Other => return text("405 Method Not Allowed", "only GET and HEAD\n"),
        Request::Bad => return text("400 Bad Request", "this is no HTTP request\n"),
    };
    match path.as_str() {
        "/metrics" => match metrics.text(chrono::Utc::now().timestamp_micros()) {
            Ok(body) => Response {
                status: "200 OK",
                content_type: METRICS_TEXT,
                body,
            },
            Err(error) => text("500 Internal Server Error", error.message()),
        },
        "/health" => Response {
            status: "200 OK",
            content_type: "application/json",
            body: health(metrics),
        },
        _ => text("404 Not Found", "there are /metrics and /health\n"),
    }
}

/// The program answers; what its jobs are at is said beside. A job that has failed is no reason to restart the program: it
/// waits for a statement.
fn health(metrics: &Metrics) -> String {
    let jobs: serde_json::Map<_, _> = metrics
        .states()
        .into_iter()
        .map(|(job, state)| (job, state.map_or("ENDED", JobState::name).into()))
        .collect();
    format!("{}\n", serde_json::json!({"status": "ok", "jobs": jobs}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(request: &Request) -> String {
        let metrics = Metrics::try_new().unwrap();
        respond(request, &metrics).head_and_body(request)
    }

    #[test]
    fn requests_are_read_up_to_their_end() {
        let whole = b"GET /metrics?x=1 HTTP/1.1\r\nHost: here\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(parse(whole), Some(Request::Get("/metrics".to_owned())));
        let post = b"POST /metrics HTTP/1.1\r\n\r\n";
        assert_eq!(parse(post), Some(Request::Other));
        assert_eq!(parse(b"\x16\x03\x01 tls\r\n\r\n"), Some(Request::Bad));
    }

    #[test]
    fn each_answer_says_how_long_it_is_and_closes() {
        let whole = answered(&Request::Get("/metrics".to_owned()));
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(head.ends_with("Connection: close"), "{head}");
        let version = env!("CARGO_PKG_VERSION");
        assert!(body.contains(&format!("anabranch_build_info{{version=\"{version}\"}} 1")));
        let head_only = answered(&Request::Head("/metrics".to_owned()));
        assert_eq!(head_only, format!("{head}\r\n\r\n"));
        for (request, status) in [
            (Request::Get("/".to_owned()), "404 "),
            (Request::Other, "405 "),
            (Request::Bad, "400 "),
        ] {
            let answer = answered(&request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        }
        assert!(answered(&Request::Other).contains("\r\nAllow: GET, HEAD\r\n"));
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_had_is_told() {
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

    #[tokio::test]
    async fn who_leaves_or_stays_silent_holds_nobody_up() {
        let (listener, at) = listen("127.0.0.1:0").await.unwrap();
        let server = tokio::spawn(serve(listener, Metrics::try_new().unwrap()));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
        drop(TcpStream::connect(at).await.unwrap());
        let mut asking = TcpStream::connect(at).await.unwrap();
        asking
            .write_all(b"GET /health HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let read = asking.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        assert!(
            answer.ends_with("{\"jobs\":{},\"status\":\"ok\"}\n"),
            "{answer}"
        );
        server.abort();
    }
}
