//! Connections of browsers: as many as there may be, each of which sends its requests in time or is closed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};

use crate::server::files;

/// Connections at the same time, if the process may open enough files; one more waits until another ends.
const MOST: usize = 1_024;
/// The head of a request comes within this, and an open connection brings its next request within it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers the connections of a listener until `stop` is done; then answers in the making may end.
pub(super) async fn serve<L>(mut listener: L, routes: Router, stop: impl Future<Output = ()>)
where
    L: Listener,
    L::Io: Unpin,
{
    let most = files::connections(MOST, 8);
    let places = Arc::new(Semaphore::new(most));
    let (ending, end) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let (routes, end) = (routes.clone(), end.clone());
        tokio::spawn(async move {
            let _place = place;
            answer(stream, routes, end).await;
        });
    }
    drop(listener);
    let _ = ending.send(true);
    // All places are free when the last connection is closed.
    let _ = places
        .acquire_many(u32::try_from(most).unwrap_or(u32::MAX))
        .await;
}

async fn answer<S>(stream: S, routes: Router, mut end: watch::Receiver<bool>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that goes away in the middle is no fault.
        _ = connection.as_mut() => return,
        _ = end.wait_for(|is_over| *is_over) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn served() -> (
        std::net::SocketAddr,
        tokio::sync::oneshot::Sender<()>,
        tokio::task::JoinHandle<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let routes = Router::new().route("/", get(|| async { "here" }));
        let task = tokio::spawn(serve(listener, routes, async {
            let _ = stopped.await;
        }));
        (address, stop, task)
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_closed_and_others_are_answered() {
        let (address, stop, task) = served().await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-")
            .await
            .unwrap();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut whole = TcpStream::connect(address).await.unwrap();
        whole
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut said = String::new();
        whole.read_to_string(&mut said).await.unwrap();
        assert!(said.ends_with("here"), "{said}");
        // Both end by themselves, however long that takes.
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        let _ = silent.read_to_end(&mut rest).await;
        stop.send(()).unwrap();
        task.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
