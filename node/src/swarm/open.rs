//! Streams over admitted connections: [`Streams`] for the swarm.
//!
//! The opener writes a byte and waits for one: when it comes, somebody serves the stream. A stream
//! that the other side has no room for is dropped there, and opened again here.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ipdc_jobs::ids::PeerId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::conduct::{Conduct, Misdeed};
use super::streams::{BoxStream, Incoming, OPEN_TIMEOUT, Protocol, StreamError, Streams};
use super::{Core, Swarm, visit};
use ipdc_gate::{Arrival, Link, OpenError};

/// What both sides of a new stream say. Another greeting would come with other names of protocols.
const GREETING: u8 = 1;
/// How long a stream that arrived may wait for its greeting and for a taker; the opener gives up
/// after [`OPEN_TIMEOUT`], and tries more than once in it.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);
/// Streams of one protocol that may wait for their taker, from all peers.
const TAKER_LIMIT: usize = 64;
/// The wait before the second try; doubles with each.
const RETRY_START: Duration = Duration::from_millis(10);

/// Who takes the streams that peers open.
#[derive(Default)]
pub(super) struct Takers(Mutex<HashMap<Protocol, mpsc::Sender<(PeerId, BoxStream)>>>);

impl Takers {
    /// The streams of `protocol` from now on; whoever took them before gets no more.
    pub(super) fn take(&self, protocol: Protocol) -> Incoming {
        let (sender, receiver) = mpsc::channel(TAKER_LIMIT);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(protocol, sender);
        receiver
    }

    fn of(&self, protocol: Protocol) -> Option<mpsc::Sender<(PeerId, BoxStream)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&protocol).cloned()
    }
}

/// Hands a stream that arrived to its taker. Without one, or without room, it is dropped.
pub(super) async fn greet(core: Arc<Core>, arrival: Arrival) {
    if let visit::IDENTIFY | visit::PING = arrival.protocol {
        return visit::answer(&core, arrival).await;
    }
    let Arrival { peer, protocol, stream, place } = arrival;
    let Some(protocol) = Protocol::ALL.into_iter().find(|known| known.name() == protocol) else {
        return;
    };
    let mut stream = stream.compat();
    let greeted = timeout(GREETING_TIMEOUT, async {
        let taker = core.takers.of(protocol).ok_or(io::ErrorKind::NotConnected)?;
        // Before room is taken: who greets nobody keeps nobody else waiting.
        if protocol.is_greeted() {
            let greeting = stream.read_u8().await?;
            if greeting != GREETING {
                let why = format!("it begins with {greeting}");
                core.conduct.report(peer, Misdeed::Garbage { on: protocol.name(), why });
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let room = taker.reserve().await.map_err(|_| io::ErrorKind::NotConnected)?;
        if protocol.is_greeted() {
            stream.write_u8(GREETING).await?;
            stream.flush().await?;
        }
        room.send((peer, Box::new(stream) as BoxStream));
        io::Result::Ok(())
    });
    match greeted.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, ?protocol, %error, "stream dropped"),
        Err(_) => tracing::debug!(%peer, ?protocol, "stream dropped: not taken in time"),
    }
    drop(place);
}

/// Opens a stream on `link`, once. Unbounded: callers put their own time-out round it.
pub(super) async fn on_link(link: &Link, protocol: Protocol) -> io::Result<BoxStream> {
    let opened = link.open(protocol.name()).await;
    let mut stream = opened.map_err(|error| match error {
        OpenError::Closed => io::ErrorKind::NotConnected.into(),
        OpenError::Unsupported => io::ErrorKind::Unsupported.into(),
        OpenError::Io(error) => error,
    })?;
    if !protocol.is_greeted() {
        return Ok(Box::new(stream.compat()));
    }
    let mut stream = {
        use futures::AsyncWriteExt as _;
        stream.write_all(&[GREETING]).await?;
        stream.flush().await?;
        stream.compat()
    };
    match stream.read_u8().await? {
        GREETING => Ok(Box::new(stream)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[async_trait]
impl Streams for Swarm {
    fn local(&self) -> PeerId {
        self.core.local()
    }

    fn connected(&self) -> Vec<PeerId> {
        self.core.book().connected()
    }

    async fn open(&self, peer: PeerId, protocol: Protocol) -> Result<BoxStream, StreamError> {
        let trying = async {
            let mut wait = RETRY_START;
            loop {
                let link = match protocol {
                    Protocol::Bitswap => self.core.book().guest_link(peer),
                    _ => self.core.book().link(peer),
                };
                let link = link.ok_or(StreamError::NotConnected(peer))?;
                // Shorter than the whole, so that a stream lost on the way has a second chance.
                let opened = timeout(GREETING_TIMEOUT, on_link(&link, protocol)).await;
                match opened {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                        return Err(StreamError::Unsupported { peer, protocol });
                    }
                    Ok(Err(error)) => tracing::trace!(%peer, %error, "opening again"),
                    Err(_) => {}
                }
                sleep(wait).await;
                wait = (wait * 2).min(GREETING_TIMEOUT);
            }
        };
        let timed_out = Err(StreamError::Timeout { peer, protocol });
        timeout(OPEN_TIMEOUT, trying).await.unwrap_or(timed_out)
    }

    fn incoming(&self, protocol: Protocol) -> Incoming {
        self.core.takers.take(protocol)
    }

    fn conduct(&self) -> &Conduct {
        &self.core.conduct
    }

    fn guests(&self) -> Vec<PeerId> {
        self.core.book().guests_connected()
    }

    fn show_out(&self, guest: PeerId) {
        for link in self.core.book().guest_links(guest) {
            link.close();
        }
    }
}
