#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ipdc_jobs::ids::{Cid, PeerId};
use tokio_util::task::AbortOnDropHandle;

use super::wire::{self, Answer};
use super::*;
use crate::blocks::block::Block;
use crate::blocks::store::Tier;
use crate::blocks::store::tests::{World, world};
use crate::swarm::streams::memory::Network;
use crate::swarm::streams::{BoxStream, Protocol, Streams};

const SILENCE: Duration = Duration::from_secs(10);

/// A peer with a store that serves it.
pub(in crate::blocks) struct Node {
    pub(in crate::blocks) id: PeerId,
    pub(in crate::blocks) world: World,
    pub(in crate::blocks) streams: Arc<dyn Streams>,
    _serving: AbortOnDropHandle<()>,
}

pub(in crate::blocks) async fn node(network: &Network) -> Node {
    let (id, world) = (PeerId::random(), world().await);
    let streams: Arc<dyn Streams> = network.peer(id);
    let serving =
        serve(world.store.clone(), streams.incoming(Protocol::Blocks), streams.conduct().clone());
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    Node { id, world, streams, _serving }
}

impl Node {
    pub(in crate::blocks) async fn hold(&self, bytes: impl Into<Bytes>) -> Block {
        let block = Block::raw(bytes.into());
        self.world.store.add(Tier::Cache).put(&block).await.unwrap();
        block
    }
}

/// What a peer that is no real one does when it is asked for a block.
pub(in crate::blocks) enum Deed {
    Give(Bytes),
    Deny,
    /// Says nothing ever more.
    Hang,
    /// Ends the stream.
    BreakOff,
}

/// A peer that does as it is told.
pub(in crate::blocks) struct Fake {
    pub(in crate::blocks) id: PeerId,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Fake {
    /// `deed` is told the CID and how many were asked for before.
    pub(in crate::blocks) fn new(
        network: &Network,
        deed: impl Fn(Cid, usize) -> Deed + Send + Sync + 'static,
    ) -> Fake {
        let (id, asked, deed) = (PeerId::random(), Arc::new(AtomicUsize::new(0)), Arc::new(deed));
        let mut incoming = network.peer(id).incoming(Protocol::Blocks);
        let count = asked.clone();
        let serving = async move {
            while let Some((_, stream)) = incoming.recv().await {
                let (count, deed) = (count.clone(), deed.clone());
                tokio::spawn(act(stream, move |cid| {
                    deed(cid, count.fetch_add(1, Ordering::SeqCst))
                }));
            }
        };
        Fake { id, asked, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    pub(in crate::blocks) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn act(stream: BoxStream, deed: impl Fn(Cid) -> Deed) {
    let (mut from, mut to) = tokio::io::split(stream);
    while let Ok(Some(cids)) = wire::read_request(&mut from).await {
        for cid in cids {
            let answer = match deed(cid) {
                Deed::Give(bytes) => Answer::Block(bytes),
                Deed::Deny => Answer::NotHeld,
                Deed::Hang => std::future::pending().await,
                Deed::BreakOff => return,
            };
            wire::write_answer(&mut to, &answer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_peer_gives_what_it_holds_and_denies_the_rest() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let client = Client::new(here.streams.clone(), SILENCE);
    for len in [0, 1, 1000, 1 << 20] {
        let block = there.hold(vec![7; len]).await;
        assert_eq!(client.ask(there.id, block.cid()).await, Ok(block));
    }
    let elsewhere = Block::raw(Bytes::from_static(b"elsewhere")).cid();
    assert_eq!(client.ask(there.id, elsewhere).await, Err(Reply::NotHeld));
    let stranger = client.ask(PeerId::random(), elsewhere).await;
    assert!(matches!(stranger, Err(Reply::Unreachable(_))));
    assert_eq!(client.load(&there.id), 0);
}

#[tokio::test]
async fn many_blocks_asked_at_once_all_come() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let client = Client::new(here.streams.clone(), SILENCE);
    let mut asks = tokio::task::JoinSet::new();
    for n in 0..500_usize {
        let block = there.hold(vec![n as u8; 1 + n * 300]).await;
        let (client, id) = (client.clone(), there.id);
        asks.spawn(async move { client.ask(id, block.cid()).await == Ok(block) });
    }
    assert!(asks.join_all().await.into_iter().all(|came| came));
}

#[tokio::test]
async fn a_stream_that_ended_while_idle_is_replaced() {
    let network = Network::new();
    let here = node(&network).await;
    // Gives one block a stream: the second is asked for on a stream that just broke off.
    let fake = Fake::new(&network, |_, before| match before {
        1 => Deed::BreakOff,
        _ => Deed::Give(Bytes::from_static(b"x")),
    });
    let client = Client::new(here.streams.clone(), SILENCE);
    let block = Block::raw(Bytes::from_static(b"x"));
    for _ in 0..2 {
        assert_eq!(client.ask(fake.id, block.cid()).await, Ok(block.clone()));
    }
    assert_eq!(fake.asked(), 3);
}

#[tokio::test]
async fn a_silent_peer_and_a_lying_peer_are_found_out() {
    let network = Network::new();
    let here = node(&network).await;
    let silence = Duration::from_millis(50);
    let client = Client::new(here.streams.clone(), silence);
    let block = Block::raw(Bytes::from_static(b"x"));
    let hung = Fake::new(&network, |_, _| Deed::Hang);
    assert_eq!(client.ask(hung.id, block.cid()).await, Err(Reply::Silent(silence)));
    let liar = Fake::new(&network, |_, _| Deed::Give(Bytes::from_static(b"y")));
    assert_eq!(client.ask(liar.id, block.cid()).await, Err(Reply::Lied));
    let conduct = here.streams.conduct();
    assert_eq!((conduct.misdeeds(liar.id), conduct.misdeeds(hung.id)), (1, 0));
    let unlucky = Fake::new(&network, |_, before| match before {
        0 => Deed::Deny,
        _ => Deed::BreakOff,
    });
    for _ in 0..3 {
        client.ask(unlucky.id, block.cid()).await.unwrap_err();
    }
    assert_eq!(conduct.misdeeds(unlucky.id), 0);
}

#[tokio::test]
async fn a_peer_that_speaks_nonsense_is_cut_off() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let mut stream = here.streams.open(there.id, Protocol::Blocks).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut end = [0];
    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut end);
    assert_eq!(tokio::time::timeout(SILENCE, read).await.unwrap().unwrap(), 0);
    assert_eq!(there.streams.conduct().misdeeds(here.id), 1);
}

#[tokio::test]
async fn a_peer_that_opens_many_streams_gets_a_few_and_one_that_never_reads_harms_nobody() {
    let network = Network::new();
    let (mute, there, other) = (node(&network).await, node(&network).await, node(&network).await);
    let block = there.hold(vec![7; 1 << 20]).await;
    let mut streams = Vec::new();
    for n in 0..24 {
        let mut stream = mute.streams.open(there.id, Protocol::Blocks).await.unwrap();
        // Hundreds of MiB, of which it reads none.
        let asked = wire::write_request(&mut stream, &[block.cid(); 64]).await;
        assert!(asked.is_ok() || n >= 4, "{asked:?}");
        streams.push(stream);
    }
    let client = Client::new(other.streams.clone(), SILENCE);
    assert_eq!(client.ask(there.id, block.cid()).await, Ok(block));
    // Twenty of them, of which ten may be bad luck.
    assert_eq!(there.streams.conduct().misdeeds(mute.id), 2);
    assert_eq!(there.streams.conduct().misdeeds(other.id), 0);
}
