//! Connections of clients: each has a place, sends a request in time, and sends a small answer at once. The transport
//! writes the frame around a message in a call of its own. Unbuffered, an answer would take two system calls, and two
//! packets that wake up the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use crate::server::network::admission::{ConnectionSlot, Connections, FirstCall};

/// Smaller writes are buffered until the next flush.
const SMALL: usize = 4 << 10;
/// The most bytes that the buffer holds.
const MOST: usize = 16 << 10;
/// After a fault of the socket, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener that have a place. One on which no known user has called when its `patience` is over is closed, and
/// sooner if another one needs its place. `patience` begins when it is called, once for each connection.
#[expect(
    clippy::disallowed_methods,
    reason = "connections are closed in real time"
)]
pub(crate) fn admitted<I, P>(
    incoming: I,
    connections: Arc<Connections>,
    patience: impl Fn() -> P + Clone,
) -> impl Stream<Item = io::Result<CoalescedWrites<TcpStream>>>
where
    I: Stream<Item = io::Result<TcpStream>> + Unpin,
    P: Future<Output = ()> + Send + 'static,
{
    futures::stream::unfold(incoming, move |mut incoming| {
        let (connections, patience) = (Arc::clone(&connections), patience.clone());
        async move {
            loop {
                let accepted = incoming.next().await?;
                let accepted = accepted.and_then(|stream| Ok((stream.peer_addr()?, stream)));
                match accepted {
                    Ok((from, stream)) => {
                        let place = connections.place(from.ip()).await;
                        let connection = CoalescedWrites::admitted(stream, place, patience());
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

/// A stream whose small writes go out together.
pub(crate) struct CoalescedWrites<S> {
    stream: S,
    /// Written and not sent.
    waiting: BytesMut,
    first: FirstCall,
    /// Done when the connection is to be closed, with why; nothing once a known user has called.
    leaves: Option<BoxFuture<'static, io::ErrorKind>>,
    /// Why it was closed.
    closed: Option<io::ErrorKind>,
    /// Among the connections that there may be.
    _place: Option<ConnectionSlot>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> CoalescedWrites<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: BytesMut::new(),
            first: FirstCall::default(),
            leaves: None,
            closed: None,
            _place: None,
        }
    }

    fn admitted(
        stream: S,
        place: ConnectionSlot,
        patience: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let closing = place.closing().clone();
        let leaves = async move {
            tokio::select! {
                () = patience => io::ErrorKind::TimedOut,
                () = closing.cancelled() => io::ErrorKind::ConnectionAborted,
            }
        };
        Self {
            first: place.first_call(),
            leaves: Some(leaves.boxed()),
            _place: Some(place),
            ..Self::new(stream)
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CoalescedWrites<S> {
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
        // A large write is not copied, and goes out together with the buffered bytes.
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

    // Not vectored: so the transport copies a small message into one buffer with its frame.

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CoalescedWrites<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.is_known() {
            this.leaves = None;
        }
        if let Some(leaves) = &mut this.leaves
            && let Poll::Ready(why) = leaves.poll_unpin(context)
        {
            this.leaves = None;
            this.closed = Some(why);
        }
        if let Some(why) = this.closed {
            return Poll::Ready(Err(why.into()));
        }
        Pin::new(&mut this.stream).poll_read(context, into)
    }
}

impl<S> Connected for CoalescedWrites<S> {
    type ConnectInfo = FirstCall;

    fn connect_info(&self) -> FirstCall {
        self.first.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow_flight::Empty;
    use arrow_flight::flight_service_client::FlightServiceClient;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic::transport::server::TcpIncoming;
    use tonic::transport::{Endpoint, Server};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::server::auth::layer::AuthLayer;
    use crate::server::auth::login::{Login, LoginOptions};
    use crate::server::counters::StatementCounters;

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
        let mut gathered = CoalescedWrites::new(here);
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
        fn written_bytes_arrive_in_order(
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
    async fn small_writes_are_coalesced_and_large_ones_sent_at_once() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let mut gathered = CoalescedWrites::new(here);
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
        // One for each connection, cancelled when its patience is over.
        let ends: [CancellationToken; 3] = std::array::from_fn(|_| CancellationToken::new());
        let patience = {
            let (ends, next) = (ends.clone(), Arc::new(AtomicUsize::new(0)));
            move || {
                let number = next.fetch_add(1, Ordering::SeqCst);
                ends[number].clone().cancelled_owned()
            }
        };
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let incoming = admitted(TcpIncoming::from(listener), Connections::new(2), patience);
        let incoming = incoming.inspect(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let counts = Arc::new(StatementCounters::try_new().unwrap());
        let login = Login::try_new(&LoginOptions::default(), counts).unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let served = Server::builder()
            .layer(AuthLayer::new(Arc::new(login)))
            .add_service(health)
            .serve_with_incoming(incoming);
        tokio::spawn(served);
        let wait_for = async |count: usize| {
            while accepted.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let begin = async || {
            let mut begun = TcpStream::connect(address).await.unwrap();
            begun
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .unwrap();
            begun
        };
        let end = async |mut begun: TcpStream| {
            let mut rest = Vec::new();
            let _ = begun.read_to_end(&mut rest).await;
        };
        let first = begin().await;
        wait_for(1).await;
        // A user calls, also if no service of this server answers.
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let connected = channel.connect().await.unwrap();
        let mut user = FlightServiceClient::new(connected.clone());
        let refused = user.list_actions(Empty {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        wait_for(2).await;
        ends[1].cancel();
        // There is no place for the second one until the first one has left.
        let second = begin().await;
        wait_for(3).await;
        end(first).await;
        // The connection is closed when it has sent nothing for long enough, and by then the user is still there.
        ends[2].cancel();
        end(second).await;
        let mut still = HealthClient::new(connected);
        still.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(accepted.load(Ordering::SeqCst), 3);
    }
}
