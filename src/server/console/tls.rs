//! The console over TLS: connections whose handshake is done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes that are done and not yet served.
const WAITING: usize = 16;
/// Whoever does not shake hands within this is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a fault of the socket, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// A listener behind TLS; one slow handshake holds up nobody.
pub(super) struct Secured {
    address: std::io::Result<SocketAddr>,
    done: mpsc::Receiver<Connection>,
    task: tokio::task::JoinHandle<()>,
}

impl Secured {
    pub(super) fn new(listener: TcpListener, config: ServerConfig) -> Self {
        let (sender, done) = mpsc::channel(WAITING);
        let address = listener.local_addr();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, from)) = listener.accept().await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                // An answer need not wait for anything.
                let _ = stream.set_nodelay(true);
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let shaken = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = shaken {
                        let _ = sender.send((stream, from)).await;
                    }
                });
            }
        });
        Self {
            address,
            done,
            task,
        }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.done.recv().await {
            Some(connection) => connection,
            // The task ends with this only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}
