//! The console over TLS: connections whose handshake is done.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::server::console::connections::plain;
use crate::server::network::admission::{ConnectionSlot, Connections};
use crate::server::network::tls::HANDSHAKE;

/// Handshakes that are done and not yet served.
const WAITING: usize = 16;

type Connection = (TlsStream<TcpStream>, ConnectionSlot);

/// The connections of a listener behind TLS; a slow handshake does not delay other connections. Each has its place from
/// its handshake on.
#[expect(
    clippy::disallowed_methods,
    reason = "handshakes run beside each other, before there is a statement"
)]
pub(super) fn secured(
    listener: TcpListener,
    config: ServerConfig,
    connections: Arc<Connections>,
) -> BoxStream<'static, Connection> {
    let (sender, done) = mpsc::channel(WAITING);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut incoming = plain(listener, connections);
    let task = tokio::spawn(async move {
        while let Some((stream, place)) = incoming.next().await {
            tokio::spawn(shake(acceptor.clone(), stream, place, sender.clone()));
        }
    });
    let accepting = AbortOnDropHandle::new(task);
    futures::stream::unfold((done, accepting), |(mut done, accepting)| async move {
        let connection = done.recv().await?;
        Some((connection, (done, accepting)))
    })
    .boxed()
}

/// Hands a connection over once it speaks TLS.
async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    place: ConnectionSlot,
    sender: mpsc::Sender<Connection>,
) {
    let shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let shaken = tokio::select! {
        shaken = shaken => shaken,
        () = place.closing().cancelled() => return,
    };
    if let Ok(Ok(stream)) = shaken {
        let _ = sender.send((stream, place)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// No certificate: no client gets beyond a handshake.
    #[derive(Debug)]
    struct NoCertificate;

    impl ResolvesServerCert for NoCertificate {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    #[tokio::test]
    async fn handshakes_are_limited_in_time_and_number() {
        const MOST: usize = 8;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(NoCertificate));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(MOST);
        let _secured = secured(listener, config, Arc::clone(&connections));
        let mut silent = Vec::new();
        for _ in 0..MOST + 10 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // The first ones make room for the last ones.
        let mut rest = Vec::new();
        for mut closed in silent.drain(..10) {
            let _ = closed.read_to_end(&mut rest).await;
            assert!(connections.open() <= MOST);
        }
        drop(silent);
        while connections.open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
