//! Many streams over the stdin and stdout of one process: [yamux], as between nodes.
//!
//! [yamux]: https://github.com/hashicorp/yamux/blob/master/spec.md

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};
use yamux::{Config, Connection, Mode, Stream};

/// Streams at a time: connections to the ports of one container.
const STREAMS: usize = 1_024;

/// How long the other side may take to hear that it is over.
const GOODBYE: Duration = Duration::from_secs(1);

type Asker = oneshot::Sender<Stream>;

/// The side that opens streams.
pub(super) struct Mux {
    askers: mpsc::Sender<Asker>,
}

impl Mux {
    /// Over `socket`. It is over with this, or when the other side is.
    pub(super) fn new(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Mux {
        let (askers, asked) = mpsc::channel(16);
        tokio::spawn(open_streams(Connection::new(socket, config(), Mode::Client), asked));
        Mux { askers }
    }

    /// Whether the other side is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.askers.is_closed()
    }

    /// A new stream.
    pub(super) async fn open(&self) -> io::Result<Compat<Stream>> {
        let (asker, stream) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.askers.send(asker).await.map_err(|_| gone())?;
        Ok(stream.await.map_err(|_| gone())?.compat())
    }
}

/// Hands each stream that the other side opens to `serve`, until that side is gone.
pub(super) async fn take_streams(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin,
    mut serve: impl FnMut(Compat<Stream>),
) {
    let mut connection = Connection::new(socket, config(), Mode::Server);
    while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
        serve(stream.compat());
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(STREAMS);
    config
}

async fn open_streams<T: AsyncRead + AsyncWrite + Send + Unpin>(
    mut connection: Connection<T>,
    mut asked: mpsc::Receiver<Asker>,
) {
    let mut asker: Option<Asker> = None;
    poll_fn(|cx| {
        loop {
            if asker.is_none()
                && let Poll::Ready(next) = asked.poll_recv(cx)
            {
                let Some(next) = next else { return Poll::Ready(()) };
                asker = Some(next);
            }
            if asker.is_some() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        // Who asked may have gone.
                        let _ = asker.take().map(|asker| asker.send(stream));
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            match connection.poll_next_inbound(cx) {
                // It opens none: what is on this side is nobody's there.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    asked.close();
    let _ = timeout(GOODBYE, poll_fn(|cx| connection.poll_close(cx))).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    #[tokio::test]
    async fn many_streams_share_one_and_end_with_it() {
        let (ours, theirs) = duplex(1 << 10);
        let mux = Mux::new(ours.compat());
        let echo = tokio::spawn(async move {
            take_streams(theirs.compat(), |stream| {
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            })
            .await;
        });
        let talk = async |n: u8| {
            let (mut from, mut to) = tokio::io::split(mux.open().await.unwrap());
            let sent = vec![n; 100_000];
            let write = async {
                to.write_all(&sent).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let (_, read) = tokio::join!(write, from.read_to_end(&mut back));
            read.unwrap();
            assert!(back == sent, "stream {n}");
        };
        futures::future::join_all((0..20).map(talk)).await;
        echo.abort();
        let _ = echo.await;
        assert!(mux.open().await.is_err());
        assert!(mux.is_closed());
    }
}
