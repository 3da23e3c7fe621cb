//! A TCP connection whose last words are heard.
//!
//! A broker that sends a client away says why and hangs up. If the client was still speaking, TCP then
//! takes the words back: what comes for a closed socket resets the connection, and the client's system
//! drops what it had not read. So the socket outlives the handler that it was lent to, for a moment
//! in which what comes is thrown away.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a client may take to hear that it is sent away. On one machine it needs a millisecond.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that a client may say meanwhile: more than any system holds for a socket.
const LINGER_BYTES: u64 = 16 << 20;

/// A share of a TCP connection, which is closed when all are gone.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<TcpStream>);

impl Shared {
    pub(super) fn new(stream: TcpStream) -> Self {
        Shared(Arc::new(stream))
    }

    /// Hangs up, and waits for a moment until the other side does.
    pub(super) async fn linger(self) {
        // It fails when the other side was first.
        let _ = socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write);
        let drained =
            async { tokio::io::copy(&mut self.take(LINGER_BYTES), &mut tokio::io::sink()).await };
        // Whether it heard us or not: it had the time.
        let _ = tokio::time::timeout(LINGER, drained).await;
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
