//! The console over TLS: connections whose handshake is done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::server::files;
use crate::server::tls::HANDSHAKE;

/// Handshakes that are done and not yet served.
const WAITING: usize = 16;
/// Connections that shake hands, or have and wait to be served; one more waits until another is.
const SHAKING: usize = 256;
/// After a fault of the socket, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The same, where the process may open few files.
fn shaking() -> usize {
    files::connections(SHAKING, 16)
}

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// A listener behind TLS; one slow handshake holds up nobody.
pub(super) struct Secured {
    address: std::io::Result<SocketAddr>,
    places: Arc<Semaphore>,
    done: mpsc::Receiver<Connection>,
    task: tokio::task::JoinHandle<()>,
}

impl Secured {
    pub(super) fn new(listener: TcpListener, config: ServerConfig) -> Self {
        let (sender, done) = mpsc::channel(WAITING);
        let address = listener.local_addr();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let places = Arc::new(Semaphore::new(shaking()));
        let free = Arc::clone(&places);
        let task = tokio::spawn(async move {
            while let Ok(place) = Arc::clone(&free).acquire_owned().await {
                let Ok((stream, from)) = listener.accept().await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                // An answer need not wait for anything.
                let _ = stream.set_nodelay(true);
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = shaken {
                        let _ = sender.send((stream, from)).await;
                    }
                });
            }
        });
        Self {
            address,
            places,
            done,
            task,
        }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.places.close();
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

#[cfg(test)]
mod tests {
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;

    use super::*;

    /// No certificate: nobody gets beyond a handshake.
    #[derive(Debug)]
    struct Nobody;

    impl ResolvesServerCert for Nobody {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    #[tokio::test]
    async fn handshakes_have_an_end_and_a_number() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Nobody));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let secured = Secured::new(listener, config);
        let mut silent = Vec::new();
        for _ in 0..shaking() + 10 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let wait_for = async |free: usize| {
            while secured.places.available_permits() != free {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        wait_for(0).await;
        drop(silent);
        // One place is always held by the next connection.
        wait_for(shaking() - 1).await;
    }
}
