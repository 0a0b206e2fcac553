//! Counts what goes through a listener or a dialled connection.
//!
//! Counted above TLS: what was asked to be sent and what was received, HTTP/2's framing included and TLS's left out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes since the process began; shared by all connections that count into it.
#[derive(Debug, Default)]
pub struct ByteCounters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl ByteCounters {
    /// Bytes written to peers.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read from peers.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A connection that counts.
#[derive(Debug)]
pub struct Counted<IO> {
    io: IO,
    counters: Arc<ByteCounters>,
}

impl<IO> Counted<IO> {
    /// Counts what goes through `io` into `counters`.
    pub fn new(io: IO, counters: Arc<ByteCounters>) -> Self {
        Self { io, counters }
    }

    fn count_sent(&self, written: io::Result<usize>) -> io::Result<usize> {
        let bytes = written?;
        self.counters.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.counters
            .received
            .fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        Poll::Ready(self.count_sent(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        Poll::Ready(self.count_sent(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_directions_are_counted() {
        let counters = Arc::new(ByteCounters::default());
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Counted::new(near, Arc::clone(&counters));

        near.write_all(b"twelve bytes").await.unwrap();
        far.write_all(b"seven b").await.unwrap();
        drop(far);
        near.read_to_end(&mut Vec::new()).await.unwrap();

        assert_eq!((counters.sent(), counters.received()), (12, 7));
    }
}
