//! Connections of browsers: each has a place, and sends its requests in time or is closed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tower::Layer as _;

use crate::server::network::admission::{ConnectionSlot, Connections};
use crate::server::network::file_limit;

/// Connections at the same time, if the process may open enough files.
const MOST: usize = 1_024;
/// The head of a request comes within this, and an open connection brings its next request within it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The places of the console's connections.
pub(super) fn places() -> Arc<Connections> {
    Connections::new(file_limit::connections(MOST, 8))
}

/// The connections of a listener without TLS.
pub(super) fn plain(
    listener: TcpListener,
    connections: Arc<Connections>,
) -> BoxStream<'static, (TcpStream, ConnectionSlot)> {
    let both = (listener, connections);
    futures::stream::unfold(both, |(mut listener, connections)| async move {
        // The `accept` of axum, which goes on after a fault of the socket.
        let (stream, from) = Listener::accept(&mut listener).await;
        // An answer need not wait for anything.
        let _ = stream.set_nodelay(true);
        let place = connections.place(from.ip()).await;
        Some(((stream, place), (listener, connections)))
    })
    .boxed()
}

/// Answers these connections until `stop` is done; then answers in the making may end.
pub(super) async fn serve<S>(
    mut incoming: impl Stream<Item = (S, ConnectionSlot)> + Unpin,
    routes: Router,
    stop: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = TaskTracker::new();
    let (ending, end) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let next = tokio::select! {
            next = incoming.next() => next,
            () = &mut stop => break,
        };
        let Some((stream, place)) = next else {
            // A listener ends only when it is stopped.
            stop.await;
            break;
        };
        open.spawn(answer(stream, place, routes.clone(), end.clone()));
    }
    drop(incoming);
    let _ = ending.send(true);
    open.close();
    open.wait().await;
}

async fn answer<S>(stream: S, place: ConnectionSlot, routes: Router, mut end: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = axum::Extension(place.first_call()).layer(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that goes away in the middle is no fault.
        _ = connection.as_mut() => return,
        () = place.closing().cancelled() => return,
        _ = end.wait_for(|is_over| *is_over) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn served(
        most: usize,
    ) -> (
        std::net::SocketAddr,
        tokio::sync::oneshot::Sender<()>,
        tokio::task::JoinHandle<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let routes = Router::new().route("/", get(|| async { "here" }));
        let incoming = plain(listener, Connections::new(most));
        let task = tokio::spawn(serve(incoming, routes, async {
            let _ = stopped.await;
        }));
        (address, stop, task)
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_closed_and_others_are_answered() {
        let (address, stop, task) = served(MOST).await;
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

    #[tokio::test]
    async fn silent_connections_do_not_block_others() {
        let (address, stop, task) = served(2).await;
        let mut silent = Vec::new();
        for _ in 0..5 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut whole = TcpStream::connect(address).await.unwrap();
        whole
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut said = String::new();
        whole.read_to_string(&mut said).await.unwrap();
        assert!(said.ends_with("here"), "{said}");
        // The connections that came first were closed for it.
        let mut rest = Vec::new();
        for mut closed in silent.drain(..4) {
            let _ = closed.read_to_end(&mut rest).await;
        }
        drop(silent);
        stop.send(()).unwrap();
        task.await.unwrap();
    }
}
