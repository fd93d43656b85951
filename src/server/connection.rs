//! A connection that sends a small answer at once. The transport writes what stands around a message by itself, so that an
//! answer would take two calls of the system, and two packets for its client to wake up for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What is written in smaller parts waits for the rest, until it is flushed.
const SMALL: usize = 4 << 10;
/// So much waits at most.
const MOST: usize = 16 << 10;

/// A stream whose small writes go out together.
pub(super) struct Gathered<S> {
    stream: S,
    /// Written and not sent.
    waiting: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: BytesMut::new(),
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
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: Connected> Connected for Gathered<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

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
}
