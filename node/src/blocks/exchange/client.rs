//! Asking other peers.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipdc_jobs::ids::{Cid, PeerId};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::super::block::Block;
use super::Reply;
use super::wire::{self, ANSWER_TIME, Answer, REQUEST_LIMIT};
use crate::swarm::conduct::Misdeed;
use crate::swarm::streams::{Protocol, Streams};

/// Streams to one peer at most: the second is opened when the first has much to do, so that a small
/// block need not wait behind many large ones.
const LANES: usize = 2;

/// Blocks asked of one stream before a second is opened.
const BUSY: usize = 8;

/// Blocks asked and not answered on one stream at most: at 240 MB/s and 100 ms to the peer, 24 MiB
/// are on their way.
const IN_FLIGHT: usize = 32;

/// Asks that wait for a stream at most; whoever asks more waits.
const QUEUE: usize = REQUEST_LIMIT;

/// Asks peers for blocks. Clones share their streams.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    streams: Arc<dyn Streams>,
    silence: Duration,
    lanes: Mutex<HashMap<PeerId, Vec<Lane>>>,
}

/// A stream to a peer, and what it is asked.
#[derive(Clone)]
struct Lane {
    queue: mpsc::Sender<Ask>,
    asked: Arc<AtomicUsize>,
}

struct Ask {
    cid: Cid,
    answer: oneshot::Sender<Result<Answer, Reply>>,
}

/// One ask that counts as unanswered.
struct Unanswered(Arc<AtomicUsize>);

impl Unanswered {
    fn count(asked: &Arc<AtomicUsize>) -> Unanswered {
        asked.fetch_add(1, Ordering::Relaxed);
        Unanswered(asked.clone())
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// A client over `streams`. A peer that owes an answer and sends nothing for `silence` is
    /// taken for gone.
    #[must_use]
    pub fn new(streams: Arc<dyn Streams>, silence: Duration) -> Client {
        Client { inner: Arc::new(Inner { streams, silence, lanes: Mutex::default() }) }
    }

    /// The peers that can be asked now.
    #[must_use]
    pub fn connected(&self) -> Vec<PeerId> {
        self.inner.streams.connected()
    }

    /// How many blocks `peer` owes us.
    #[must_use]
    pub fn load(&self, peer: &PeerId) -> usize {
        let lanes = self.lanes();
        let lanes = lanes.get(peer).map(Vec::as_slice).unwrap_or_default();
        lanes.iter().map(|lane| lane.asked.load(Ordering::Relaxed)).sum()
    }

    /// Asks `peer` for the block, and checks what comes.
    ///
    /// # Errors
    /// What the peer said, or did, instead of giving it.
    pub async fn ask(&self, peer: PeerId, cid: Cid) -> Result<Block, Reply> {
        let (lane, fresh) = self.lane(peer);
        let answer = match lane.ask(cid).await {
            // The stream was a leftover of an earlier connection.
            Err(Reply::Broken) if !fresh => self.lane(peer).0.ask(cid).await,
            answer => answer,
        };
        match answer? {
            Answer::Block(bytes) => Block::check_async(cid, bytes).await.map_err(|error| {
                tracing::debug!(%peer, %error, "a peer sent other bytes than it was asked for");
                self.inner.streams.conduct().report(peer, Misdeed::WrongBlock);
                self.lanes().remove(&peer);
                Reply::Lied
            }),
            Answer::NotHeld => Err(Reply::NotHeld),
            Answer::Unable => Err(Reply::Unable),
        }
    }

    /// The lane to `peer` that has least to do, or a new one, and whether it is new.
    fn lane(&self, peer: PeerId) -> (Lane, bool) {
        let mut all = self.lanes();
        let lanes = all.entry(peer).or_default();
        lanes.retain(|lane| !lane.queue.is_closed());
        let idlest = lanes.iter().min_by_key(|lane| lane.asked.load(Ordering::Relaxed));
        if let Some(lane) = idlest
            && (lanes.len() == LANES || lane.asked.load(Ordering::Relaxed) < BUSY)
        {
            return (lane.clone(), false);
        }
        let (queue, asks) = mpsc::channel(QUEUE);
        let lane = Lane { queue, asked: Arc::default() };
        let (streams, silence) = (self.inner.streams.clone(), self.inner.silence);
        tokio::spawn(run(streams, peer, asks, silence));
        lanes.push(lane.clone());
        (lane, true)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<PeerId, Vec<Lane>>> {
        self.inner.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    async fn ask(&self, cid: Cid) -> Result<Answer, Reply> {
        let _unanswered = Unanswered::count(&self.asked);
        let (answer, answered) = oneshot::channel();
        self.queue.send(Ask { cid, answer }).await.map_err(|_| Reply::Broken)?;
        answered.await.unwrap_or(Err(Reply::Broken))
    }
}

/// Carries asks to `peer` until the stream ends or nobody can ask any more. Whoever still waits
/// then hears that it broke.
async fn run(
    streams: Arc<dyn Streams>,
    peer: PeerId,
    mut asks: mpsc::Receiver<Ask>,
    silence: Duration,
) {
    let stream = match streams.open(peer, Protocol::Blocks).await {
        Ok(stream) => stream,
        Err(error) => {
            asks.close();
            while let Some(ask) = asks.recv().await {
                // Whoever asked may have gone.
                let _ = ask.answer.send(Err(Reply::Unreachable(error.to_string())));
            }
            return;
        }
    };
    let (from, to) = tokio::io::split(stream);
    let (asked, owed) = mpsc::channel(IN_FLIGHT);
    let ended = tokio::select! {
        ended = write_requests(to, asks, asked) => ended,
        ended = read_answers(BufReader::new(from), owed, silence) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a block stream broke");
        if error.kind() == io::ErrorKind::InvalidData {
            let misdeed = Misdeed::Garbage { on: Protocol::Blocks.name(), why: error.to_string() };
            streams.conduct().report(peer, misdeed);
        }
    }
}

type Answered = oneshot::Sender<Result<Answer, Reply>>;

async fn write_requests<W: AsyncWrite + Unpin>(
    mut to: W,
    mut asks: mpsc::Receiver<Ask>,
    asked: mpsc::Sender<Answered>,
) -> io::Result<()> {
    while let Some(first) = asks.recv().await {
        // What else waits goes with it, as far as there is room for its answers.
        let mut next = Some(first);
        let mut cids = Vec::new();
        let Ok(mut room) = asked.reserve().await else { return Ok(()) };
        while let Some(ask) = next.take() {
            if !ask.answer.is_closed() {
                room.send(ask.answer);
                cids.push(ask.cid);
                let Ok(more) = asked.try_reserve() else { break };
                room = more;
            }
            if cids.len() < REQUEST_LIMIT {
                next = asks.try_recv().ok();
            }
        }
        if !cids.is_empty() {
            wire::write_request(&mut to, &cids).await?;
        }
    }
    Ok(())
}

async fn read_answers<R: AsyncRead + Unpin>(
    mut from: BufReader<R>,
    mut owed: mpsc::Receiver<Answered>,
    silence: Duration,
) -> io::Result<()> {
    loop {
        // Between answers the peer may only close the stream; then nobody is to ask here any more.
        let next = tokio::select! {
            biased;
            next = owed.recv() => next,
            closed = from.fill_buf() => {
                closed?;
                return Ok(());
            }
        };
        let Some(answered) = next else { return Ok(()) };
        let reading = wire::read_answer(&mut from, silence);
        match timeout(ANSWER_TIME, reading).await.map_err(io::Error::from).flatten() {
            // Whoever asked may have gone.
            Ok(answer) => drop(answered.send(Ok(answer))),
            Err(error) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    let silent = Err(Reply::Silent(silence));
                    let _ = answered.send(silent.clone());
                    while let Ok(answered) = owed.try_recv() {
                        let _ = answered.send(silent.clone());
                    }
                }
                return Err(error);
            }
        }
    }
}
