//! Guests: let in by every node, to blocks and nothing else, until their pass ends.

use std::sync::Arc;

use super::*;
use crate::swarm::visit::{IDENTIFY, PING};
use crate::swarm::{Admission, Standing};

/// A program that has the swarm's key and an identity of its own.
struct Visitor {
    keypair: Keypair,
    id: PeerId,
}

impl Visitor {
    fn new() -> Visitor {
        let keypair = Keypair::generate_ed25519();
        Visitor { id: keypair.public().to_peer_id(), keypair }
    }

    /// Connects; the connection lasts for as long as what this gives.
    async fn connect(&self, world: &World, node: &Node) -> (Intruder, Arc<Link>) {
        let key = &world.founded.swarm_key;
        let mut there = Intruder::at(node, self.keypair.clone(), key).await;
        let link = there.opened().await;
        (there, link)
    }

    fn standing(&self, swarm: &Swarm) -> Option<Standing> {
        let of = |admission: &Admission| admission.certificate.peer == self.id;
        swarm.admissions().iter().find(|a| of(a)).map(|admission| admission.standing)
    }
}

async fn is_refused(link: &Link, protocol: &'static str) -> bool {
    let opened = timeout(PATIENCE, link.open(protocol)).await.unwrap();
    matches!(opened, Err(OpenError::Unsupported))
}

/// Whether the connection is treated as anybody's who has the swarm's key.
async fn is_stranger(link: &Link) -> bool {
    is_refused(link, Protocol::Bitswap.name()).await && is_refused(link, IDENTIFY).await
}

/// Whether the connection is a guest's.
async fn is_guest(link: &Link) -> bool {
    timeout(PATIENCE, link.open(IDENTIFY)).await.unwrap().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_let_in_by_every_node_to_blocks_and_nothing_else() {
    let world = World::new().await;
    let node = world.joiner().await;
    let guest = Visitor::new();
    let ends = world.founder.swarm.admit_guest(guest.id, PATIENCE).await.unwrap();
    assert!(ends > now_ms());
    node.until("the pass", |swarm| guest.standing(swarm) == Some(Standing::Guest)).await;

    for node in [&world.founder, &node] {
        let mut taken = node.swarm.incoming(Protocol::Bitswap);
        let (_there, link) = guest.connect(&world, node).await;
        for protocol in [Protocol::Mqtt, Protocol::Blocks, Protocol::Peers] {
            assert!(is_refused(&link, protocol.name()).await, "{protocol:?}");
        }
        assert!(is_refused(&link, ADMIT).await);
        let mut ping = link.open(PING).await.unwrap().compat();
        ping.write_all(&[7; 32]).await.unwrap();
        ping.flush().await.unwrap();
        let mut pong = [0; 32];
        ping.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [7; 32]);
        let mut identity = Vec::new();
        let mut identify = link.open(IDENTIFY).await.unwrap().compat();
        identify.read_to_end(&mut identity).await.unwrap();
        assert_eq!(usize::from(identity[0]), identity.len() - 1);
        let text = String::from_utf8_lossy(&identity).into_owned();
        assert!(text.contains("/ipfs/bitswap/1.2.0") && !text.contains("/ipdc/"), "{text}");

        let mut blocks = link.open(Protocol::Bitswap.name()).await.unwrap().compat();
        blocks.write_all(b"x").await.unwrap();
        blocks.flush().await.unwrap();
        let (from, mut stream) = timeout(PATIENCE, taken.recv()).await.unwrap().unwrap();
        assert_eq!((from, stream.read_u8().await.unwrap()), (guest.id, b'x'));
        assert_eq!(node.swarm.guests(), [guest.id]);
        assert!(!node.swarm.connected().contains(&guest.id));
        assert!(node.swarm.peers().iter().all(|peer| peer.peer != guest.id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_guest_is_shown_out_everywhere_and_stays_out() {
    let world = World::new().await;
    let node = world.joiner().await;
    let guest = Visitor::new();
    world.founder.swarm.admit_guest(guest.id, PATIENCE).await.unwrap();
    node.until("the pass", |swarm| guest.standing(swarm) == Some(Standing::Guest)).await;
    let (mut there, link) = guest.connect(&world, &node).await;
    assert!(is_guest(&link).await);

    let whom = Whom::Peer(guest.id);
    assert_eq!(world.founder.swarm.revoke(whom.clone()).await.unwrap(), [guest.id]);
    assert!(matches!(there.event().await, gate::Event::Closed(_)));
    drop(there);
    for node in [&world.founder, &node] {
        let (_there, link) = guest.connect(&world, node).await;
        assert!(is_stranger(&link).await);
        assert_eq!(guest.standing(&node.swarm), Some(Standing::Revoked));
    }
    let again = world.founder.swarm.admit_guest(guest.id, PATIENCE).await;
    assert!(matches!(again, Err(SwarmError::Revoked(who)) if who == whom));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visit_ends_with_its_pass() {
    let world = World::new().await;
    let guest = Visitor::new();
    let swarm = &world.founder.swarm;
    swarm.admit_guest(guest.id, Duration::from_secs(2)).await.unwrap();
    let (mut there, link) = guest.connect(&world, &world.founder).await;
    assert!(is_guest(&link).await);
    assert!(matches!(there.event().await, gate::Event::Closed(_)));
    assert_eq!(guest.standing(swarm), Some(Standing::Expired));
    drop(there);
    // Closed at once; from then on it is anybody, and may join.
    let (mut there, _) = guest.connect(&world, &world.founder).await;
    assert!(matches!(there.event().await, gate::Event::Closed(_)));
    drop(there);
    let (there, link) = guest.connect(&world, &world.founder).await;
    assert!(is_stranger(&link).await);
    drop(there);

    // A longer pass lets it in again.
    swarm.admit_guest(guest.id, PATIENCE).await.unwrap();
    let (_there, link) = guest.connect(&world, &world.founder).await;
    assert!(is_guest(&link).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_known_after_a_restart() {
    let world = World::new().await;
    let guest = Visitor::new();
    world.founder.swarm.admit_guest(guest.id, PATIENCE).await.unwrap();
    let World { founded, founder } = world;
    let home = founder.stop().await;
    let founder = home.start(Vec::new(), None).await;
    let world = World { founded, founder };
    let (_there, link) = guest.connect(&world, &world.founder).await;
    assert!(is_guest(&link).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_invite_lets_no_guests_in_and_a_member_is_none() {
    let world = World::new().await;
    let member = world.joiner().await;
    world.founder.until_connected(&[member.id()]).await;
    let guest = Visitor::new();
    let refused = member.swarm.admit_guest(guest.id, PATIENCE).await;
    assert!(matches!(refused, Err(SwarmError::NotAllowed(_))));
    let refused = world.founder.swarm.admit_guest(member.id(), PATIENCE).await;
    assert!(matches!(refused, Err(SwarmError::Member(peer)) if peer == member.id()));
    let rsa: PeerId = "QmXDptyZHg5pQk5qt1JCUCVVkh4vSdx941Fo1TB5YwuxmV".parse().unwrap();
    let refused = world.founder.swarm.admit_guest(rsa, PATIENCE).await;
    assert!(matches!(refused, Err(SwarmError::GuestKey(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delegate_lets_guests_in_until_it_is_revoked() {
    let world = World::new().await;
    let guest = Visitor::new();
    let deputy = world.deputy().await;
    deputy.swarm.admit_guest(guest.id, PATIENCE).await.unwrap();
    let founder = &world.founder;
    founder.until("the pass", |swarm| guest.standing(swarm) == Some(Standing::Guest)).await;
    // What a revoked delegate signed is void.
    founder.swarm.revoke(Whom::Peer(deputy.id())).await.unwrap();
    assert_eq!(guest.standing(&founder.swarm), Some(Standing::Revoked));
    let (_there, link) = guest.connect(&world, founder).await;
    assert!(is_stranger(&link).await);
}
