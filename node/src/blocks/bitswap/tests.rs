#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use ipdc_jobs::ids::{CODEC_RAW, cid_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::AbortOnDropHandle;

use super::wire::{Message, Payload, Want, Wanted};
use super::*;
use crate::blocks::block::CHUNK;
use crate::blocks::store::Tier;
use crate::blocks::store::tests::{World, world};
use crate::swarm::streams::memory::{Network, Peer};

/// Longer than any test takes that does not wait for it.
const LONG: Duration = Duration::from_secs(60);

/// A node with a guest.
struct Visited {
    id: PeerId,
    world: World,
    guests: Guests,
    guest: Guest,
    _serving: AbortOnDropHandle<()>,
}

/// The guest's end.
struct Guest {
    id: PeerId,
    streams: Arc<Peer>,
    incoming: Incoming,
    /// The stream on which the node speaks.
    heard: Option<BoxStream>,
}

async fn visited(silence: Duration) -> Visited {
    visited_by(silence, LONG).await
}

async fn visited_by(silence: Duration, patience: Duration) -> Visited {
    let network = Network::new();
    let (id, world) = (PeerId::random(), world().await);
    let streams = network.peer(id);
    drop(streams.incoming(Protocol::Blocks));
    let guests = Guests::patient(world.store.clone(), streams.clone(), silence, patience);
    let serving = tokio::spawn(guests.clone().serve(streams.incoming(Protocol::Bitswap)));
    let guest_id = PeerId::random();
    let streams = network.peer(guest_id);
    let incoming = streams.incoming(Protocol::Bitswap);
    let guest = Guest { id: guest_id, streams, incoming, heard: None };
    Visited { id, world, guests, guest, _serving: AbortOnDropHandle::new(serving) }
}

impl Visited {
    async fn hold(&self, bytes: impl Into<Bytes>) -> Block {
        let block = Block::raw(bytes.into());
        self.world.store.add(Tier::Cache).put(&block).await.unwrap();
        block
    }

    /// Opens a stream, as Kubo does for each message.
    async fn stream(&self) -> BoxStream {
        self.guest.streams.open(self.id, Protocol::Bitswap).await.unwrap()
    }

    async fn say(&self, message: &Message) {
        wire::write(&mut self.stream().await, message).await.unwrap();
    }

    async fn want(&self, wants: &[Want]) {
        self.say(&Message { wants: wants.to_vec(), ..Message::default() }).await;
    }

    async fn give(&self, block: &Block) {
        self.say(&Message { payload: vec![Payload::of(block)], ..Message::default() }).await;
    }

    /// Waits until the guest was shown out.
    async fn shown_out(&self) {
        let shown_out = async {
            while self.guests.connected().contains(&self.guest.id) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(2 * LONG, shown_out).await.expect("the guest is shown out");
    }
}

impl Guest {
    /// The next message of the node.
    async fn hear(&mut self) -> Message {
        let hearing = async {
            let stream = match &mut self.heard {
                Some(stream) => stream,
                none => none.insert(self.incoming.recv().await.unwrap().1),
            };
            let len = wire::read_length(stream).await.unwrap().unwrap();
            wire::read(stream, len).await.unwrap()
        };
        timeout(LONG, hearing).await.expect("the node speaks")
    }
}

fn block(cid: Cid) -> Want {
    Want { cid, what: Wanted::Block { or_dont_have: true } }
}

fn have(cid: Cid) -> Want {
    Want { cid, what: Wanted::Have { or_dont_have: true } }
}

fn cid(text: &str) -> Cid {
    cid_of(CODEC_RAW, text.as_bytes())
}

#[tokio::test]
async fn a_guest_gets_what_is_here_and_hears_what_is_not() {
    let mut node = visited(LONG).await;
    let held = node.hold(vec![1; CHUNK]).await;
    node.want(&[have(held.cid()), have(cid("absent"))]).await;
    let mut said = node.guest.hear().await.presences;
    if said.len() < 2 {
        said.extend(node.guest.hear().await.presences);
    }
    assert_eq!(said, [(held.cid(), true), (cid("absent"), false)]);

    node.want(&[block(held.cid())]).await;
    let message = node.guest.hear().await;
    let [payload] = &message.payload[..] else { panic!("{message:?}") };
    assert_eq!(payload.clone().hash().await, Ok(held));

    // Who does not ask to hear that a block is absent hears nothing of it.
    let silent = Want { cid: cid("absent"), what: Wanted::Block { or_dont_have: false } };
    node.want(&[silent, have(cid("absent too"))]).await;
    assert_eq!(node.guest.hear().await.presences, [(cid("absent too"), false)]);
}

#[tokio::test]
async fn a_block_that_only_a_guest_has_is_asked_of_it_and_checked() {
    let mut node = visited(LONG).await;
    let wanted = Block::raw(Bytes::from_static(b"the guest's"));
    let (guests, guest) = (node.guests.clone(), node.guest.id);
    let asked = wanted.cid();
    let asking = tokio::spawn(async move { guests.ask(guest, asked).await });
    assert_eq!(node.guest.hear().await.wants, [block(wanted.cid())]);
    // Something else is not taken for it, whatever its prefix says.
    node.give(&Block::raw(Bytes::from_static(b"something else"))).await;
    node.give(&wanted).await;
    assert_eq!(asking.await.unwrap(), Ok(wanted));

    let guests = node.guests.clone();
    let asking = tokio::spawn(async move { guests.ask(guest, cid("nobody's")).await });
    assert_eq!(node.guest.hear().await.wants, [block(cid("nobody's"))]);
    let presences = vec![(cid("nobody's"), false)];
    node.say(&Message { presences, ..Message::default() }).await;
    assert_eq!(asking.await.unwrap(), Err(Reply::NotHeld));
}

#[tokio::test]
async fn a_guest_that_says_nothing_is_given_up_and_told() {
    let silence = Duration::from_millis(50);
    let mut node = visited(silence).await;
    let said = node.guests.ask(node.guest.id, cid("x")).await;
    assert_eq!(said, Err(Reply::Silent(silence)));
    let mut wants = node.guest.hear().await.wants;
    if wants.len() < 2 {
        wants.extend(node.guest.hear().await.wants);
    }
    assert_eq!(wants, [block(cid("x")), Want { cid: cid("x"), what: Wanted::Nothing }]);
}

#[tokio::test]
async fn a_guest_that_sends_no_message_is_shown_out() {
    let garbage: [&[u8]; 3] = [
        b"\x05hello",
        // Longer than any message.
        b"\xff\xff\xff\x7f",
        // A length that never ends.
        &[0xff; 32],
    ];
    for bytes in garbage {
        let node = visited(LONG).await;
        node.stream().await.write_all(bytes).await.unwrap();
        node.shown_out().await;
    }
}

#[tokio::test]
async fn a_guest_that_sends_what_nobody_asked_for_is_shown_out() {
    let node = visited(LONG).await;
    let unasked = Block::raw(vec![7; 1 << 20].into());
    for _ in 0..9 {
        node.give(&unasked).await;
    }
    node.shown_out().await;
    assert!(!node.world.store.has(&unasked.cid()).await.unwrap());
}

#[tokio::test]
async fn a_guest_that_does_not_read_what_it_asked_for_is_shown_out() {
    let node = visited_by(LONG, Duration::from_millis(100)).await;
    // More than a stream holds.
    let held = node.hold(vec![1; CHUNK]).await;
    node.want(&[block(held.cid())]).await;
    node.shown_out().await;
}

#[tokio::test]
async fn a_guest_that_sends_a_little_that_it_was_not_asked_for_may_stay() {
    let node = visited(LONG).await;
    let late = Block::raw(vec![7; 1 << 20].into());
    for _ in 0..4 {
        node.give(&late).await;
    }
    let held = node.hold("x").await;
    let mut node = node;
    node.want(&[have(held.cid())]).await;
    assert_eq!(node.guest.hear().await.presences, [(held.cid(), true)]);
}

#[tokio::test]
async fn a_flood_of_wants_is_owed_up_to_a_limit() {
    let node = visited(LONG).await;
    let mut wants = Vec::new();
    for n in 0..3_000_u32 {
        wants.push(block(node.hold(n.to_be_bytes().to_vec()).await.cid()));
    }
    // The guest does not read meanwhile: what it is owed has to wait.
    let mut node = node;
    let flood = Message { wants: wants.clone(), full: true, ..Message::default() };
    for _ in 0..3 {
        node.say(&flood).await;
    }
    let mut got = 0;
    while got < 1024 {
        got += node.guest.hear().await.payload.len();
    }
    // It is served on.
    let last = node.hold("last").await;
    node.want(&[block(last.cid())]).await;
    let served = async {
        loop {
            for payload in node.guest.hear().await.payload {
                if payload.hash().await.as_ref() == Ok(&last) {
                    return;
                }
            }
        }
    };
    timeout(LONG, served).await.expect("it is served on");
}

#[tokio::test]
async fn more_streams_than_a_guest_needs_are_closed() {
    let node = visited(LONG).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_A_GUEST {
        streams.push(node.stream().await);
    }
    let mut refused = node.stream().await;
    let mut byte = [0];
    let read = timeout(LONG, refused.read(&mut byte)).await.expect("it is closed");
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn a_want_that_was_taken_back_is_not_met() {
    let session = Session::new();
    let world = world().await;
    let reads = Semaphore::new(1);
    let mut blocks = Vec::new();
    for text in ["a", "b", "c"] {
        let block = Block::raw(Bytes::from_static(text.as_bytes()));
        world.store.add(Tier::Cache).put(&block).await.unwrap();
        blocks.push(block);
    }
    let wants = |of: &[&Block]| Message {
        wants: of.iter().map(|b| block(b.cid())).collect(),
        ..Message::default()
    };
    let all: Vec<&Block> = blocks.iter().collect();
    session.hear(&world.store, &reads, wants(&all)).await.unwrap();
    let cancel = Want { cid: blocks[0].cid(), what: Wanted::Nothing };
    let message = Message { wants: vec![cancel], ..Message::default() };
    session.hear(&world.store, &reads, message).await.unwrap();
    // A full list forgets what is not in it.
    let full = Message { full: true, ..wants(&[&blocks[2]]) };
    session.hear(&world.store, &reads, full).await.unwrap();
    let next = session.next(&world.store, &reads).await.unwrap();
    assert_eq!(next.payload, [Payload::of(&blocks[2])]);
}

#[tokio::test]
async fn an_ended_session_lets_nobody_wait() {
    let session = Arc::new(Session::new());
    let waiting = {
        let session = session.clone();
        tokio::spawn(async move { session.want(cid("x")).await })
    };
    while session.asked_for() == 0 {
        tokio::task::yield_now().await;
    }
    session.end();
    assert_eq!(waiting.await.unwrap(), Err(Reply::Broken));
    assert_eq!(session.want(cid("x")).await, Err(Reply::Broken));
    let world = world().await;
    assert_eq!(session.next(&world.store, &Semaphore::new(1)).await, None);
}
