//! `/ipfs/bitswap/1.2.0`: blocks for the swarm's guests, and blocks that only they have.
//!
//! Between members blocks go by [`exchange`](super::exchange); this is for programs that speak what
//! every IPFS node speaks. A guest is answered from the local store and never makes this node ask
//! others. It is asked for a block when no member has it ([`super::fetch`]).
//!
//! A message is no request and has no answer: each side sends what it has to say on a stream that it
//! opened, as many streams as it likes (Kubo opens one for each message with blocks). What is between this
//! node and one guest is a [`Session`]: it owns what the guest is owed and what it was asked for. A want
//! that cannot be met is not kept: who still wants it asks again, as Kubo does every minute.
//!
//! What comes is nothing until it is hashed and found to be what was asked for. A guest that sends what is
//! no message, does not read what it asked for, or sends what nobody asked for, is shown out, and
//! the log says why.

#[cfg(feature = "fuzz")]
pub(super) mod fuzz;
mod session;
mod wire;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipdc_jobs::ids::{Cid, PeerId};
use tokio::io::BufReader;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use self::session::Session;
use super::block::Block;
use super::exchange::Reply;
use super::store::Store;
use crate::swarm::streams::{BoxStream, Incoming, Protocol, Streams, serve_each};

/// Streams that one guest may have open: Kubo has one for its wants, and for a moment one for each of the
/// eight tasks that send its blocks.
const STREAMS_A_GUEST: usize = 16;

/// Blocks that are looked for or read at the same time for all guests: as many as leave members and the
/// node's own work what they need.
const READS: usize = 4;

/// Messages that are in memory at the same time, of all guests: 32 MiB. Of one guest it is one.
const MESSAGES: usize = 8;

/// The least time that one thing in a message takes: 10,000 wants of a guest in a second.
const PACE: Duration = Duration::from_micros(100);

/// Blocks that one guest is asked for at a time.
const ASKS: usize = 32;

/// The guests of this node, as far as blocks go. Clones share them.
#[derive(Clone)]
pub struct Guests {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    streams: Arc<dyn Streams>,
    /// How long a guest may be silent that was asked.
    silence: Duration,
    /// How long a guest may take to read a message.
    patience: Duration,
    reads: Semaphore,
    messages: Semaphore,
    sessions: Mutex<HashMap<PeerId, Arc<Session>>>,
}

impl Guests {
    /// The guests who are served from `store` and can be asked through `streams`. One that was asked and
    /// says nothing for `silence` is not waited for.
    #[must_use]
    pub fn new(store: Store, streams: Arc<dyn Streams>, silence: Duration) -> Guests {
        Guests::patient(store, streams, silence, wire::MESSAGE_TIME)
    }

    fn patient(
        store: Store,
        streams: Arc<dyn Streams>,
        silence: Duration,
        patience: Duration,
    ) -> Guests {
        let (reads, messages) = (Semaphore::new(READS), Semaphore::new(MESSAGES));
        let sessions = Mutex::default();
        let inner = Inner { store, streams, silence, patience, reads, messages, sessions };
        Guests { inner: Arc::new(inner) }
    }

    /// Those that are connected now.
    #[must_use]
    pub fn connected(&self) -> Vec<PeerId> {
        self.inner.streams.guests()
    }

    /// Asks `guest` for the block.
    ///
    /// # Errors
    /// What the guest said, or did, instead of giving it.
    pub async fn ask(&self, guest: PeerId, cid: Cid) -> Result<Block, Reply> {
        let session = self.session(guest);
        let asking = async {
            let _turn = session.asks.acquire().await;
            session.want(cid).await
        };
        timeout(self.inner.silence, asking).await.unwrap_or(Err(Reply::Silent(self.inner.silence)))
    }

    /// Reads every stream of `incoming`, until it is closed or this is dropped.
    pub async fn serve(self, incoming: Incoming) {
        let surplus = |guest: PeerId| {
            tracing::debug!(%guest, "too many streams of a guest: one is closed");
        };
        let serve = |guest, stream| {
            let guests = self.clone();
            async move { guests.read_stream(guest, stream).await }
        };
        serve_each(incoming, STREAMS_A_GUEST, surplus, serve).await;
    }

    async fn read_stream(&self, guest: PeerId, stream: BoxStream) {
        match self.read_messages(guest, stream).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%guest, %error, "a guest broke the rules: shown out");
                self.end(guest);
            }
            Err(error) => tracing::debug!(%guest, %error, "a guest's stream broke"),
        }
    }

    async fn read_messages(&self, guest: PeerId, stream: BoxStream) -> io::Result<()> {
        let mut from = BufReader::new(stream);
        let session = self.session(guest);
        while let Some(len) = wire::read_length(&mut from).await? {
            let _one_of_the_guest = session.message.acquire().await;
            let _one_of_all = self.inner.messages.acquire().await;
            let message = wire::read(&mut from, len).await?;
            let items = message.wants.len() + message.payload.len() + message.presences.len();
            session.hear(&self.inner.store, &self.inner.reads, message).await?;
            sleep(PACE * u32::try_from(items + 1).unwrap_or(u32::MAX)).await;
        }
        Ok(())
    }

    /// Sends a message on the stream that is open, or else on a new one.
    async fn say(
        &self,
        guest: PeerId,
        open: &mut Option<BoxStream>,
        message: &wire::Message,
    ) -> io::Result<()> {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => {
                let opened = self.inner.streams.open(guest, Protocol::Bitswap).await;
                opened.map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?
            }
        };
        timeout(self.inner.patience, wire::write(&mut stream, message)).await??;
        *open = Some(stream);
        Ok(())
    }

    /// Ends what is between us and a guest that broke the rules.
    fn end(&self, guest: PeerId) {
        if let Some(session) = self.sessions().remove(&guest) {
            session.end();
        }
        self.inner.streams.show_out(guest);
    }

    /// What is between us and `guest`.
    fn session(&self, guest: PeerId) -> Arc<Session> {
        let mut sessions = self.sessions();
        if let Some(session) = sessions.get(&guest).filter(|session| !session.is_over()) {
            return session.clone();
        }
        // Whoever left will begin anew.
        let here = self.connected();
        let left = sessions.extract_if(|guest, _| !here.contains(guest));
        left.for_each(|(_, session)| session.end());
        let session = Arc::new(Session::new());
        sessions.insert(guest, session.clone());
        tokio::spawn(speak(self.clone(), guest, session.clone()));
        session
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Session>>> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what there is to say to `guest`, until it is gone or does not read.
async fn speak(guests: Guests, guest: PeerId, session: Arc<Session>) {
    let mut open: Option<BoxStream> = None;
    while let Some(message) = session.next(&guests.inner.store, &guests.inner.reads).await {
        // A stream that was left over of an earlier connection is found broken; a new one is not.
        let is_old = open.is_some();
        let mut said = guests.say(guest, &mut open, &message).await;
        if is_old && said.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
            said = guests.say(guest, &mut open, &message).await;
        }
        match said {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tracing::warn!(%guest, "a guest does not read what it asked for: shown out");
                return guests.end(guest);
            }
            Err(error) => {
                tracing::debug!(%guest, %error, "a guest cannot be spoken to");
                return session.end();
            }
        }
    }
}

#[cfg(test)]
mod tests;
