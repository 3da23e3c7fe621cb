//! Links: how this node's messages reach other nodes' brokers, and theirs reach us.
//!
//! To say something to a peer, a node publishes to `ipdc/v1/from/<itself>/jobs` at the peer's
//! broker, over a `/ipdc/mqtt/1` stream. A link is one such stream with the messages that wait for
//! it. It is made when there is something to say, re-made while there is, and dropped when idle.
//!
//! A link keeps the order of messages and repeats what was not acknowledged when its stream broke,
//! so its peer may see a message twice. It may also drop messages, oldest first: when too many wait,
//! and when the peer stays away. The engine repeats what stays unanswered.
//!
//! A link speaks MQTT with the library's packets, not its client: see `docs/decisions/0002-broker.md`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipdc_jobs::ids::PeerId;
use ipdc_jobs::message::MESSAGE_LIMIT;
use mqtt5::packet::Packet;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::disconnect::DisconnectPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use mqtt5::transport::packet_io::{encode_packet_to_buffer, read_packet_from_stream};
use mqtt5::{ConnectOptions, QoS};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::PACKET_LIMIT;
use super::mqtt::is_garbage;
use super::{Broker, Sender, Subscription, topics};
use crate::swarm::conduct::{Conduct, Misdeed};
use crate::swarm::streams::{BoxStream, Protocol, StreamError, Streams};

/// Messages that may wait for one peer: some seconds of the fastest sender, at a few hundred bytes
/// each. Beyond, the oldest is dropped.
pub const QUEUE_LIMIT: usize = 16 * 1024;

/// Bytes that may wait for one peer. A node on a small board with 100 peers away still lives.
pub const QUEUE_BYTES: usize = 8 << 20;

/// Messages on their way without an acknowledgement: covers a round trip of 100 ms at 2,000 a
/// second, and their acknowledgements fit a stream's buffer, so that neither side waits for the
/// other to read.
const WINDOW: usize = 256;

/// Bytes that are encoded before they are written.
const BATCH_BYTES: usize = 64 * 1024;

/// A link with nothing to say is closed after this long; a new one takes under a millisecond on
/// a connection that stands.
const IDLE: Duration = Duration::from_secs(120);

/// How long a link is silent before it pings. The broker at the other end waits one and a half
/// times [`KEEP_ALIVE_S`].
const PING_AFTER: Duration = Duration::from_secs(12);

/// The keep-alive that a link promises, seconds.
const KEEP_ALIVE_S: u64 = 15;

/// How long any answer may take, to a CONNECT or to a ping: a broker that is busy with what we
/// sent before answers each of those in two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stream may take no byte. Longer than [`ANSWER_TIMEOUT`], because a stream opens its
/// window only when the other side has read a good part of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause before a link that broke is made again: at first, and at most. Doubled in between.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

/// What waits for a peer that cannot be reached for this long is dropped: by then its leases ran
/// out and its questions were put again.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The links of a node. Dropping it closes them.
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    streams: Arc<dyn Streams>,
    outboxes: Mutex<HashMap<PeerId, Arc<Outbox>>>,
    dropped: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What other nodes said about jobs.
pub struct Incoming(Subscription);

impl Incoming {
    /// The next message and its sender; none when the broker is gone. Messages of one sender come
    /// in its order. Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<(PeerId, Bytes)> {
        loop {
            let message = self.0.recv().await?;
            // The broker confines peers to their topics; this makes it two locks.
            match message.sender {
                Sender::Peer(peer) if topics::peer_about_jobs(&message.topic) == Some(peer) => {
                    return Some((peer, message.payload));
                }
                sender => tracing::debug!(?sender, topic = %message.topic, "message of a stranger"),
            }
        }
    }
}

impl Links {
    /// Starts to serve `broker` to the peers of `streams`, and to reach theirs.
    pub async fn start(broker: Arc<dyn Broker>, streams: Arc<dyn Streams>) -> (Links, Incoming) {
        let from_peers = broker.subscribe(topics::FROM_PEERS_ABOUT_JOBS).await;
        let shared = Arc::new(Shared {
            streams,
            outboxes: Mutex::default(),
            dropped: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let mut opened = shared.streams.incoming(Protocol::Mqtt);
        let conduct = shared.streams.conduct().clone();
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    stream = opened.recv() => match stream {
                        Some((peer, stream)) => broker.serve(stream, peer, &conduct),
                        None => return,
                    },
                }
            }
        });
        (Links { shared }, Incoming(from_peers))
    }

    /// Sends `message`, of at most [`MESSAGE_LIMIT`] bytes, to the node `peer`, another than this. It waits if the peer
    /// cannot be reached at once. The caller never waits, and learns of no failure: the peer's
    /// own answer says that it came.
    pub fn send(&self, peer: PeerId, message: Bytes) {
        if message.len() > MESSAGE_LIMIT {
            self.shared.count_dropped(1, peer, "too long");
            return;
        }
        let mut outboxes = self.shared.outboxes();
        let outbox = outboxes.entry(peer).or_insert_with(|| {
            let outbox = Arc::new(Outbox::default());
            let link = Link { peer, outbox: Arc::clone(&outbox), shared: Arc::clone(&self.shared) };
            self.shared.tasks.spawn(link.run());
            outbox
        });
        // Under the lock: a link ends only when its outbox is empty, and says so under it too.
        let dropped = outbox.push(message);
        drop(outboxes);
        if dropped > 0 {
            self.shared.count_dropped(dropped, peer, "too many wait");
        }
    }

    /// Where to say what is wrong with a message that came.
    #[must_use]
    pub fn conduct(&self) -> &Conduct {
        self.shared.streams.conduct()
    }

    /// Messages dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Closes all links and ends when they are closed.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    fn outboxes(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Outbox>>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, n: usize, peer: PeerId, why: &str) {
        let total = self.dropped.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        tracing::warn!(%peer, n, total, why, "messages dropped");
    }
}

/// The messages that wait for one peer, oldest first.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    /// Adds a message and gives how many had to make room for it.
    fn push(&self, message: Bytes) -> usize {
        let mut waiting = self.waiting();
        waiting.bytes += message.len();
        waiting.messages.push_back(message);
        let mut dropped = 0;
        while waiting.messages.len() > QUEUE_LIMIT || waiting.bytes > QUEUE_BYTES {
            waiting.pop();
            dropped += 1;
        }
        drop(waiting);
        self.filled.notify_one();
        dropped
    }

    fn pop(&self) -> Option<Bytes> {
        self.waiting().pop()
    }

    /// Puts back what was popped, `messages` in their order, to be popped next.
    fn unpop(&self, messages: impl DoubleEndedIterator<Item = Bytes>) {
        let mut waiting = self.waiting();
        for message in messages.rev() {
            waiting.bytes += message.len();
            waiting.messages.push_front(message);
        }
    }

    fn clear(&self) -> usize {
        std::mem::take(&mut *self.waiting()).messages.len()
    }

    fn is_empty(&self) -> bool {
        self.waiting().messages.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

/// The task that carries one outbox to its peer.
struct Link {
    peer: PeerId,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no stream")]
    Stream(#[from] StreamError),
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error("not MQTT")]
    Mqtt(#[from] mqtt5::MqttError),
    #[error("the peer fell silent")]
    Silent,
    #[error("the peer's broker refused us: {0:?}")]
    Refused(ReasonCode),
    #[error("the peer's broker said what it may not say here")]
    Unexpected,
}

impl Broken {
    /// What the peer's broker said that no broker says.
    fn misdeed(&self) -> Option<String> {
        match self {
            Broken::Mqtt(error) if is_garbage(error) => Some(error.to_string()),
            Broken::Unexpected => Some(self.to_string()),
            _ => None,
        }
    }
}

impl Link {
    async fn run(self) {
        let stop = self.shared.stop.clone();
        stop.run_until_cancelled(self.carry()).await;
    }

    /// Makes conversations while there is something to say.
    async fn carry(&self) {
        let mut pause = BACK_OFF.0;
        let mut reached = Instant::now();
        loop {
            let mut conversation = Conversation::default();
            let ended = conversation.run(self).await;
            if conversation.acknowledged {
                pause = BACK_OFF.0;
                reached = Instant::now();
            }
            self.outbox.unpop(conversation.in_flight.into_iter().map(|(_, message)| message));
            if let Err(broken) = &ended {
                tracing::debug!(peer = %self.peer, error = broken as &dyn std::error::Error, "link broke");
                if let Some(why) = broken.misdeed() {
                    let misdeed = Misdeed::Garbage { on: Protocol::Mqtt.name(), why };
                    self.shared.streams.conduct().report(self.peer, misdeed);
                }
                if reached.elapsed() >= GIVE_UP {
                    let dropped = self.outbox.clear();
                    self.shared.count_dropped(dropped, self.peer, "the peer cannot be reached");
                }
            }
            if self.retire() {
                return;
            }
            if ended.is_err() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }

    /// Ends the link if nothing waits; the next message makes another.
    fn retire(&self) -> bool {
        let mut outboxes = self.shared.outboxes();
        let done = self.outbox.is_empty();
        if done {
            outboxes.remove(&self.peer);
        }
        done
    }
}

/// One stream's life, from CONNECT on.
#[derive(Default)]
struct Conversation {
    /// Sent and not acknowledged, oldest first, with their packet IDs.
    in_flight: VecDeque<(u16, Bytes)>,
    /// The packet ID that was used last.
    last_id: u16,
    /// Whether the peer has taken anything.
    acknowledged: bool,
}

impl Conversation {
    /// Carries the outbox until the link is idle.
    async fn run(&mut self, link: &Link) -> Result<(), Broken> {
        let local = link.shared.streams.local();
        let topic = topics::about_jobs(local);
        let mut wire = Wire::new(link.shared.streams.open(link.peer, Protocol::Mqtt).await?);
        wire.connect(local).await?;
        let mut said = Instant::now();
        let mut asked: Option<Instant> = None;
        let mut busy = Instant::now();
        loop {
            while self.in_flight.len() < WINDOW
                && wire.unsent.len() < BATCH_BYTES
                && let Some(message) = link.outbox.pop()
            {
                self.publish(&mut wire, &topic, message)?;
            }
            if !wire.unsent.is_empty() {
                wire.flush().await?;
                said = Instant::now();
                busy = said;
                continue;
            }
            let idle = self.in_flight.is_empty() && busy.elapsed() >= IDLE;
            if idle {
                wire.put(&Packet::Disconnect(DisconnectPacket::normal()))?;
                wire.flush().await?;
                return Ok(());
            }
            let wake = asked.map_or(said + PING_AFTER, |asked| asked + ANSWER_TIMEOUT);
            tokio::select! {
                packet = wire.read() => {
                    asked = None;
                    self.take(link, packet?)?;
                }
                () = link.outbox.filled.notified(), if self.in_flight.len() < WINDOW => {}
                () = tokio::time::sleep_until(wake) => {
                    if asked.is_some() {
                        return Err(Broken::Silent);
                    }
                    wire.put(&Packet::PingReq)?;
                    wire.flush().await?;
                    said = Instant::now();
                    asked = Some(said);
                }
            }
        }
    }

    fn publish(&mut self, wire: &mut Wire, topic: &str, message: Bytes) -> Result<(), Broken> {
        // Packet IDs go round without 0, and the window is far smaller than the round.
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let packet = PublishPacket::new(topic, message.clone(), QoS::AtLeastOnce);
        self.in_flight.push_back((self.last_id, message));
        wire.put(&Packet::Publish(packet.with_packet_id(self.last_id)))
    }

    fn take(&mut self, link: &Link, packet: Packet) -> Result<(), Broken> {
        match packet {
            Packet::PubAck(ack) => {
                // A broker acknowledges in the order in which it was sent to.
                let first = self.in_flight.pop_front().ok_or(Broken::Unexpected)?;
                if first.0 != ack.packet_id {
                    self.in_flight.push_front(first);
                    return Err(Broken::Unexpected);
                }
                self.acknowledged = true;
                if !ack.reason_code.is_success() {
                    link.shared.count_dropped(1, link.peer, "the peer's broker refused it");
                }
                Ok(())
            }
            Packet::PingResp => Ok(()),
            Packet::Disconnect(goodbye) => Err(Broken::Refused(goodbye.reason_code)),
            _ => Err(Broken::Unexpected),
        }
    }
}

/// MQTT packets on a stream.
struct Wire {
    stream: BoxStream,
    unread: BytesMut,
    unsent: BytesMut,
}

/// Links speak MQTT 5: only there is a refusal told from an acknowledgement.
const MQTT_VERSION: u8 = 5;

impl Wire {
    fn new(stream: BoxStream) -> Self {
        Wire { stream, unread: BytesMut::new(), unsent: BytesMut::new() }
    }

    async fn connect(&mut self, local: PeerId) -> Result<(), Broken> {
        let options = ConnectOptions::new(local.to_string())
            .with_clean_start(true)
            .with_keep_alive(Duration::from_secs(KEEP_ALIVE_S));
        self.put(&Packet::Connect(Box::new(ConnectPacket::new(options.protocol_options))))?;
        self.flush().await?;
        match timeout(ANSWER_TIMEOUT, self.read()).await.map_err(|_| Broken::Silent)?? {
            Packet::ConnAck(ack) if ack.reason_code == ReasonCode::Success => Ok(()),
            Packet::ConnAck(ack) => Err(Broken::Refused(ack.reason_code)),
            _ => Err(Broken::Unexpected),
        }
    }

    fn put(&mut self, packet: &Packet) -> Result<(), Broken> {
        Ok(encode_packet_to_buffer(packet, &mut self.unsent)?)
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        while !self.unsent.is_empty() {
            let write = self.stream.write_buf(&mut self.unsent);
            if timeout(WRITE_TIMEOUT, write).await.map_err(|_| Broken::Silent)?? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        Ok(timeout(WRITE_TIMEOUT, self.stream.flush()).await.map_err(|_| Broken::Silent)??)
    }

    /// The next packet. What was read of it stays when the future is dropped.
    async fn read(&mut self) -> Result<Packet, Broken> {
        let Wire { stream, unread, .. } = self;
        Ok(read_packet_from_stream(stream, MQTT_VERSION, unread, PACKET_LIMIT).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(n: usize) -> Bytes {
        n.to_string().into()
    }

    #[test]
    fn a_full_outbox_drops_its_oldest() {
        let outbox = Outbox::default();
        let dropped: usize = (0..QUEUE_LIMIT + 3).map(|n| outbox.push(numbered(n))).sum();
        assert_eq!(dropped, 3);
        assert_eq!(outbox.pop(), Some(numbered(3)));
        assert_eq!(outbox.push(Bytes::from(vec![0; QUEUE_BYTES])), QUEUE_LIMIT - 1);
    }

    #[test]
    fn what_was_put_back_comes_first_and_in_order() {
        let outbox = Outbox::default();
        for n in 0..4 {
            outbox.push(numbered(n));
        }
        let popped: Vec<_> = (0..2).filter_map(|_| outbox.pop()).collect();
        outbox.unpop(popped.into_iter());
        let all: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(all, [0, 1, 2, 3].map(numbered));
        assert_eq!(outbox.waiting().bytes, 0);
    }
}
