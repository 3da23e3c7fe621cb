#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use ipdc_jobs::ids::FileRef;

use super::*;
use crate::blocks::block::CHUNK;
use crate::blocks::exchange::tests::{Deed, Fake, Node, node};
use crate::blocks::unixfs::{FileBuilder, FileReader};
use crate::swarm::streams::memory::Network;

/// Longer than any test takes that does not wait for it.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn fetcher(node: &Node, stall: Duration) -> Fetcher {
    let (store, streams) = (node.world.store.clone(), node.streams.clone());
    let guests = Guests::new(store.clone(), streams.clone(), stall / 2);
    Fetcher::new(store, streams, guests, stall)
}

fn session(node: &Node, holders: &[PeerId]) -> Session {
    fetcher(node, LONG).session(holders, Tier::Cache)
}

fn block(text: &'static str) -> Block {
    Block::raw(Bytes::from_static(text.as_bytes()))
}

fn missing(result: Result<Block, FetchError>) -> Missing {
    match result {
        Err(FetchError::Missing(missing)) => *missing,
        other => panic!("expected a missing block, got {other:?}"),
    }
}

/// A file of `chunks` leaves, all different, held by `node`.
async fn file(node: &Node, chunks: usize) -> FileRef {
    let mut file = FileBuilder::new(node.world.store.add(Tier::Cache));
    for n in 0..chunks {
        file.write(&vec![n as u8; CHUNK]).await.unwrap();
    }
    file.finish().await.unwrap()
}

/// A peer that gives the blocks of `node`.
async fn giver(network: &Network, node: &Node, file: &FileRef, until: usize) -> Fake {
    let store = node.world.store.clone();
    let mut blocks = HashMap::new();
    let root = Store::get(&store, &file.cid).await.unwrap().unwrap();
    for cid in unixfs::links(&root).unwrap() {
        blocks.insert(cid, Store::get(&store, &cid).await.unwrap().unwrap().into_bytes());
    }
    blocks.insert(root.cid(), root.into_bytes());
    Fake::new(network, move |cid, before| match blocks.get(&cid) {
        _ if before >= until => Deed::BreakOff,
        Some(bytes) => Deed::Give(bytes.clone()),
        None => Deed::Deny,
    })
}

#[tokio::test]
async fn a_block_is_fetched_once_and_then_held_here() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let block = there.hold("far away").await;
    let session = session(&here, &[there.id]);
    assert_eq!(session.get(&block.cid()).await.unwrap(), block);
    assert_eq!(session.fetched(), block.len());
    network.remove(there.id);
    assert_eq!(session.get(&block.cid()).await.unwrap(), block);
    assert_eq!(session.fetched(), block.len());
}

#[tokio::test]
async fn a_large_block_is_cached_when_it_comes_the_second_time() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let block = there.hold(vec![7; SMALL as usize + 1]).await;
    let session = session(&here, &[there.id]);
    for held_after in [false, true] {
        assert_eq!(session.get(&block.cid()).await.unwrap(), block);
        assert_eq!(here.world.store.has(&block.cid()).await.unwrap(), held_after);
    }
    assert_eq!(session.get(&block.cid()).await.unwrap(), block);
    assert_eq!(session.fetched(), 2 * block.len());
}

#[test]
fn what_went_by_is_forgotten_in_the_order_in_which_it_came() {
    let mut passed = Passed::default();
    let name = |n: usize| Block::raw(n.to_be_bytes().to_vec().into()).cid();
    assert!((0..=PASSED).all(|n| !passed.again(&name(n))));
    assert!(passed.again(&name(1)));
    assert!(!passed.again(&name(0)));
    assert_eq!(passed.names.len(), PASSED);
}

#[tokio::test]
async fn a_corrupt_block_is_dropped_and_fetched_again() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let block = there.hold("precious").await;
    let session = fetcher(&here, LONG).session(&[], Tier::Durable);
    assert_eq!(session.get(&block.cid()).await.unwrap(), block);
    here.world.corrupt(&block.cid());
    assert_eq!(session.get(&block.cid()).await.unwrap(), block);
    assert_eq!(session.fetched(), 2 * block.len());
    assert_eq!(Store::get(&here.world.store, &block.cid()).await.unwrap(), Some(block));
}

#[tokio::test]
async fn a_block_that_nobody_has_names_at_once_who_was_asked() {
    let network = Network::new();
    let here = node(&network).await;
    let (one, other) = (node(&network).await, node(&network).await);
    let wanted = block("nowhere").cid();
    let began = Instant::now();
    let missing = missing(session(&here, &[one.id]).get(&wanted).await);
    let mut asked = vec![(one.id, Reply::NotHeld), (other.id, Reply::NotHeld)];
    asked.sort_by_key(|(peer, _)| *peer);
    assert_eq!(missing.asked, asked);
    let text = missing.to_string();
    assert!(text.contains(&format!("{}: does not hold it", one.id)), "{text}");
    assert!(began.elapsed() < LONG / 4);
}

#[tokio::test]
async fn a_holder_that_is_away_is_waited_for_but_not_for_ever() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let away = PeerId::random();
    let session = fetcher(&here, SHORT).session(&[away], Tier::Cache);
    let missing = missing(session.get(&block("nowhere").cid()).await);
    let of = |peer| missing.asked.iter().find(|(asked, _)| *asked == peer).unwrap().1.clone();
    assert_eq!(of(away), Reply::Unreachable("not connected".into()));
    assert_eq!(of(there.id), Reply::NotHeld);
}

#[tokio::test]
async fn a_holder_that_connects_meanwhile_is_asked() {
    let network = Network::new();
    let here = node(&network).await;
    let wanted = block("late");
    // Nobody is connected, so the hunt waits until somebody is.
    let session = session(&here, &[]);
    let cid = wanted.cid();
    let hunt = tokio::spawn(async move { session.get(&cid).await });
    tokio::task::yield_now().await;
    // It holds the block before it connects: asked between the two, it would rightly say no.
    let bytes = wanted.bytes().clone();
    let late = Fake::new(&network, move |_, _| Deed::Give(bytes.clone()));
    assert_eq!(hunt.await.unwrap().unwrap(), wanted);
    assert_eq!(late.asked(), 1);
}

#[tokio::test]
async fn a_silent_holder_does_not_keep_another_from_being_asked() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let hung = Fake::new(&network, |_, _| Deed::Hang);
    let block = there.hold("here it is").await;
    let session = fetcher(&here, Duration::from_secs(5)).session(&[hung.id], Tier::Cache);
    assert_eq!(session.get(&block.cid()).await.unwrap(), block);
    assert_eq!(hung.asked(), 1);
}

#[tokio::test]
async fn silent_holders_are_given_up_within_the_stall_time() {
    let network = Network::new();
    let here = node(&network).await;
    let hung: Vec<Fake> = (0..20).map(|_| Fake::new(&network, |_, _| Deed::Hang)).collect();
    let holders: Vec<PeerId> = hung.iter().map(|fake| fake.id).collect();
    let stall = Duration::from_secs(2);
    let began = Instant::now();
    let session = fetcher(&here, stall).session(&holders, Tier::Cache);
    let missing = missing(session.get(&block("nowhere").cid()).await);
    assert!(began.elapsed() < stall * 2, "it took {:?}", began.elapsed());
    assert_eq!(missing.asked.len(), 20);
    assert!(missing.asked.iter().all(|(_, reply)| *reply == Reply::Silent(stall / 2)));
}

#[tokio::test]
async fn a_liar_is_blamed_and_another_is_asked() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let liar = Fake::new(&network, |_, _| Deed::Give(Bytes::from_static(b"a lie")));
    let (first, second) = (there.hold("first").await, there.hold("second").await);
    let fetcher = fetcher(&here, LONG);
    let session = fetcher.session(&[liar.id], Tier::Cache);
    assert_eq!(session.get(&first.cid()).await.unwrap(), first);
    assert_eq!(fetcher.blamed(), [liar.id]);
    assert_eq!(session.get(&second.cid()).await.unwrap(), second);
    assert_eq!(liar.asked(), 1);
}

#[tokio::test]
async fn who_wants_the_same_block_shares_one_fetch() {
    let network = Network::new();
    let here = node(&network).await;
    let block = block("wanted by many");
    let bytes = block.bytes().clone();
    let giver = Fake::new(&network, move |_, _| Deed::Give(bytes.clone()));
    let fetcher = fetcher(&here, LONG);
    let sessions: Vec<Session> =
        (0..10).map(|_| fetcher.session(&[giver.id], Tier::Cache)).collect();
    let cid = block.cid();
    let gets = sessions.iter().map(|session| session.get(&cid));
    for got in futures::future::join_all(gets).await {
        assert_eq!(got.unwrap(), block);
    }
    assert_eq!(giver.asked(), 1);
    assert_eq!(sessions.iter().map(Session::fetched).sum::<u64>(), block.len());
    assert!(lock(&fetcher.inner.hunts).is_empty());
}

#[tokio::test]
async fn a_hunt_that_nobody_waits_for_ends() {
    let network = Network::new();
    let here = node(&network).await;
    let _hung = Fake::new(&network, |_, _| Deed::Hang);
    let fetcher = fetcher(&here, LONG);
    let session = fetcher.session(&[], Tier::Cache);
    let wanted = block("wanted").cid();
    let given_up = tokio::time::timeout(SHORT, session.get(&wanted)).await;
    assert!(given_up.is_err());
    assert!(lock(&fetcher.inner.hunts).is_empty());
}

#[tokio::test]
async fn a_whole_tree_comes_from_several_peers_and_only_once() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let file = file(&there, 40).await;
    let one = giver(&network, &there, &file, usize::MAX).await;
    let other = giver(&network, &there, &file, usize::MAX).await;
    network.remove(there.id);
    let session = fetcher(&here, LONG).session(&[one.id, other.id], Tier::Durable);
    let mut told = 0;
    session.fetch_all(file.cid, |bytes| told = bytes).await.unwrap();
    assert_eq!(told, session.fetched());
    assert_eq!(one.asked() + other.asked(), 41);
    assert!(one.asked() >= 10 && other.asked() >= 10, "{} and {}", one.asked(), other.asked());
    // All of it is here, and nothing is fetched again.
    session.fetch_all(file.cid, |_| {}).await.unwrap();
    assert_eq!(one.asked() + other.asked(), 41);
    let mut reader = FileReader::open_file(here.world.store.clone(), &file).await.unwrap();
    assert_eq!(reader.read_at(39 << 20, 1).await.unwrap(), [39].as_slice());
}

#[tokio::test]
async fn when_a_provider_dies_midway_another_takes_over() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let file = file(&there, 24).await;
    let dying = giver(&network, &there, &file, 5).await;
    let session = session(&here, &[dying.id, there.id]);
    session.fetch_all(file.cid, |_| {}).await.unwrap();
    assert!(dying.asked() > 5, "it was not asked when it died");
    let root = Store::get(&here.world.store, &file.cid).await.unwrap().unwrap();
    assert_eq!(session.fetched(), file.len + root.len());
}

#[tokio::test]
async fn an_interrupted_fetch_goes_on_where_it_was() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let file = file(&there, 24).await;
    let dying = giver(&network, &there, &file, 9).await;
    network.remove(there.id);
    let first = fetcher(&here, SHORT).session(&[dying.id], Tier::Durable);
    first.fetch_all(file.cid, |_| {}).await.unwrap_err();
    let held = here.world.store.durable_bytes().await.unwrap();
    assert!(held > 0);
    let healthy = giver(&network, &there, &file, usize::MAX).await;
    let second = fetcher(&here, LONG).session(&[healthy.id], Tier::Durable);
    second.fetch_all(file.cid, |_| {}).await.unwrap();
    let root = Store::get(&here.world.store, &file.cid).await.unwrap().unwrap();
    let whole = file.len + root.len();
    assert!(second.fetched() <= whole - held, "something was fetched twice");
    assert_eq!(here.world.store.durable_bytes().await.unwrap(), whole);
}

#[tokio::test]
async fn a_reader_fetches_only_what_it_reads() {
    let network = Network::new();
    let (here, there) = (node(&network).await, node(&network).await);
    let file = file(&there, 12).await;
    let root = Store::get(&there.world.store, &file.cid).await.unwrap().unwrap();
    let session = session(&here, &[there.id]);
    let mut reader = FileReader::open_file(session.clone(), &file).await.unwrap();
    // Three blocks, said at the beginning: they come at the same time, and no others.
    let (mut at, end) = (4_u64 << 20, 7_u64 << 20);
    while at < end {
        let want = usize::try_from(end - at).unwrap();
        at += reader.read_at(at, want).await.unwrap().len() as u64;
    }
    drop(reader);
    assert!(session.fetched() <= root.len() + 4 * CHUNK as u64);
    assert!(session.fetched() >= root.len() + 3 * CHUNK as u64);
}

#[tokio::test]
async fn a_name_that_cannot_be_checked_is_asked_of_nobody() {
    let network = Network::new();
    let here = node(&network).await;
    let fake = Fake::new(&network, |_, _| Deed::Give(Bytes::new()));
    let hash = multihash::Multihash::wrap(0x1e, &[0; 32]).unwrap();
    let got = session(&here, &[fake.id]).get(&Cid::new_v1(CODEC_RAW, hash)).await;
    assert!(matches!(got, Err(FetchError::Bad(BadBlock::Hash { code: 0x1e, .. }))));
    assert_eq!(fake.asked(), 0);
}
