//! Connections of clients: as many as there may be, each of which asks something in time, and each of which sends a small answer
//! at once. The transport writes what stands around a message by itself, so that an answer would take two calls of the system,
//! and two packets for its client to wake up for.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures::{Stream, StreamExt as _};
use http::Extensions;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::server::files::connections;

/// What is written in smaller parts waits for the rest, until it is flushed.
const SMALL: usize = 4 << 10;
/// So much waits at most.
const MOST: usize = 16 << 10;
/// After a fault of the socket, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections there may be, and how long each may ask nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    /// Connections at the same time; one more waits until another ends.
    pub(super) most: usize,
    /// The first call of a known user comes within this, or the connection is closed.
    pub(super) patience: Duration,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            most: connections(4_096, 2),
            patience: Duration::from_secs(30),
        }
    }
}

/// The connections of a listener, as they are admitted.
pub(super) fn admitted<S, I>(
    incoming: I,
    admission: Admission,
) -> impl Stream<Item = io::Result<Gathered<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Stream<Item = io::Result<S>> + Unpin,
{
    let places = Arc::new(Semaphore::new(admission.most));
    futures::stream::unfold(incoming, move |mut incoming| {
        let places = Arc::clone(&places);
        async move {
            let place = places.acquire_owned().await.ok()?;
            loop {
                match incoming.next().await? {
                    Ok(stream) => {
                        let mut connection = Gathered::new(stream);
                        connection.silence = Some(Box::pin(tokio::time::sleep(admission.patience)));
                        connection._place = Some(place);
                        return Some((Ok(connection), incoming));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    })
}

/// Whether a known user has called on a connection: the transport gives it to each call.
#[derive(Debug, Clone, Default)]
pub(super) struct FirstCall(Arc<AtomicBool>);

impl FirstCall {
    /// That of the connection that a call with these extensions came on.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// A user who is known has called.
    pub(super) fn came(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream whose small writes go out together.
pub(super) struct Gathered<S> {
    stream: S,
    /// Written and not sent.
    waiting: BytesMut,
    first: FirstCall,
    /// Until when a known user must have called; nothing once one has.
    silence: Option<Pin<Box<Sleep>>>,
    /// Among the connections that there may be.
    _place: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: BytesMut::new(),
            first: FirstCall::default(),
            silence: None,
            _place: None,
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.waiting.advance(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.len() <= SMALL {
            if this.waiting.len() + bytes.len() > MOST {
                ready!(this.poll_send(context))?;
            }
            this.waiting.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        // What is large is not copied, and takes along what waits.
        loop {
            let both = [IoSlice::new(&this.waiting), IoSlice::new(bytes)];
            let stream = Pin::new(&mut this.stream);
            let sent = ready!(stream.poll_write_vectored(context, &both))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_waiting = sent.min(this.waiting.len());
            this.waiting.advance(of_waiting);
            if sent > of_waiting {
                return Poll::Ready(Ok(sent - of_waiting));
            }
        }
    }

    // Not vectored: then the transport copies a small message next to what stands around it.

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.0.load(Ordering::Relaxed) {
            this.silence = None;
        }
        if let Some(silence) = &mut this.silence
            && silence.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_read(context, into)
    }
}

impl<S> Connected for Gathered<S> {
    type ConnectInfo = FirstCall;

    fn connect_info(&self) -> FirstCall {
        self.first.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use arrow_flight::Empty;
    use arrow_flight::flight_service_client::FlightServiceClient;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tonic::Code;
    use tonic::transport::server::TcpIncoming;
    use tonic::transport::{Endpoint, Server};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::server::gate::Gate;
    use crate::server::login::{Login, LoginOptions};
    use crate::server::metrics::Counts;

    /// Sends messages, each in parts of these lengths, flushed and answered by a byte, over a stream that takes `room` bytes
    /// at a time.
    async fn talk(messages: Vec<Vec<usize>>, room: usize) {
        let (here, mut there) = tokio::io::duplex(room);
        let lengths: Vec<usize> = messages.iter().map(|parts| parts.iter().sum()).collect();
        let answering = tokio::spawn(async move {
            let mut came = Vec::new();
            for length in lengths {
                let mut message = vec![0; length];
                there.read_exact(&mut message).await.unwrap();
                came.extend(message);
                there.write_all(&[7]).await.unwrap();
            }
            there.read_to_end(&mut came).await.unwrap();
            came
        });
        let mut gathered = Gathered::new(here);
        let mut written = Vec::new();
        for message in messages {
            for part in message {
                let part: Vec<u8> = (0..part).map(|at| (written.len() + at) as u8).collect();
                gathered.write_all(&part).await.unwrap();
                assert!(gathered.waiting.len() <= MOST);
                written.extend(part);
            }
            gathered.flush().await.unwrap();
            assert_eq!(gathered.read_u8().await.unwrap(), 7);
        }
        gathered.write_all(b"the end").await.unwrap();
        written.extend(b"the end");
        gathered.shutdown().await.unwrap();
        assert_eq!(answering.await.unwrap(), written);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn all_arrives_in_order(
            messages in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![1..100usize, 1..40_000usize], 1..20), 0..8),
            room in prop_oneof![1..64usize, 1_000..200_000usize],
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let talk = tokio::time::timeout(std::time::Duration::from_secs(60), talk(messages, room));
                talk.await.unwrap();
            });
        }
    }

    #[tokio::test]
    async fn small_parts_go_out_together_and_large_ones_at_once() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let mut gathered = Gathered::new(here);
        let mut came = vec![0; 1 << 20];
        for part in [10, 20, 30] {
            gathered.write_all(&vec![1; part]).await.unwrap();
        }
        gathered.flush().await.unwrap();
        assert_eq!(there.read(&mut came).await.unwrap(), 60);
        gathered.write_all(&[2; 100]).await.unwrap();
        gathered.write_all(&[3; 10_000]).await.unwrap();
        let mut long = vec![0; 10_100];
        there.read_exact(&mut long).await.unwrap();
        assert!(gathered.waiting.is_empty());
    }

    #[tokio::test]
    async fn a_connection_without_a_call_of_a_user_makes_room_for_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let admission = Admission {
            most: 2,
            patience: Duration::from_secs(3),
        };
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let incoming = admitted(TcpIncoming::from(listener), admission);
        let incoming = incoming.inspect(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let counts = Arc::new(Counts::try_new().unwrap());
        let login = Login::try_new(&LoginOptions::default(), counts).unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let served = Server::builder()
            .layer(Gate::new(Arc::new(login)))
            .add_service(health)
            .serve_with_incoming(incoming);
        tokio::spawn(served);
        let wait_for = async |count: usize| {
            while accepted.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
        // A probe says nothing about who asks.
        let mut probe = HealthClient::new(channel.connect().await.unwrap());
        probe.check(HealthCheckRequest::default()).await.unwrap();
        let probed = std::time::Instant::now();
        // A user does, also by a call that no service of this server answers.
        let connected = channel.connect().await.unwrap();
        let mut user = FlightServiceClient::new(connected.clone());
        let refused = user.list_actions(Empty {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        wait_for(2).await;
        let mut begun = TcpStream::connect(address).await.unwrap();
        begun
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        // There is no place for it until the probe has to leave; its time began a little before its answer came.
        wait_for(3).await;
        assert!(probed.elapsed() >= admission.patience / 2);
        let mut rest = Vec::new();
        let _ = begun.read_to_end(&mut rest).await;
        tokio::time::sleep(2 * admission.patience).await;
        // The user is still there.
        let mut still = HealthClient::new(connected);
        still.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(accepted.load(Ordering::SeqCst), 3);
    }
}
