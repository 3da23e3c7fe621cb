//! What the book does with news, old and new.

#![allow(clippy::unwrap_used)]

use libp2p_identity::Keypair;

use super::dials::{BACK_OFF_CAP, BACK_OFF_START};
use super::*;
use crate::swarm::certificate::certify;
use ipdc_gate::DialFailure;

struct World {
    root: Keypair,
    book: Book,
}

impl World {
    fn new() -> World {
        let root = Keypair::generate_ed25519();
        let local = Keypair::generate_ed25519().public().to_peer_id();
        let (events, _) = broadcast::channel(1);
        let own = certify(&root, local, "ann", false).unwrap();
        let book = Book::new(local, root.public().to_peer_id(), own, events, Vec::new());
        World { root, book }
    }

    fn member(&mut self) -> Keypair {
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let credential = certify(&self.root, peer, "ann", false).unwrap();
        let certificate = self.book.check(&credential, peer).unwrap();
        self.book.learn_member(peer, credential, certificate);
        keypair
    }

    fn told(&mut self, by: PeerId, of: &Keypair, number: u64, address: &str) {
        let peer = of.public().to_peer_id();
        let said = Whereabouts { peer, number, addresses: vec![address.parse().unwrap()] };
        let whereabouts = Some(Signed::sign(&said, of).unwrap());
        let credential = self.book.members[&peer].credential.clone();
        let members = vec![ToldMember { peer, credential, whereabouts }];
        self.book.heard(by, Telling { members, ..Telling::default() });
    }

    fn address_of(&self, of: &Keypair) -> String {
        let view = self.book.views().into_iter().find(|v| v.peer == of.public().to_peer_id());
        view.unwrap().addresses[0].to_string()
    }
}

const OLD: &str = "/ip4/10.0.0.1/tcp/1";
const NEW: &str = "/ip4/10.0.0.1/tcp/2";

#[test]
fn news_that_is_older_than_what_is_known_changes_nothing() {
    let mut world = World::new();
    let (teller, moved) = (world.member(), world.member());
    let teller = teller.public().to_peer_id();
    world.told(teller, &moved, 2, NEW);
    world.told(teller, &moved, 1, OLD);
    assert_eq!(world.address_of(&moved), NEW);
    let (_, told) = world.book.news(Told::default());
    world.told(teller, &moved, 2, NEW);
    assert!(!world.book.has_news(told), "what is known already was news");
    world.told(teller, &moved, 3, OLD);
    assert!(world.book.has_news(told));
}

#[test]
fn a_member_is_dialled_for_ever_but_ever_less_often() {
    let mut world = World::new();
    let (teller, lost) = (world.member(), world.member());
    world.told(teller.public().to_peer_id(), &lost, 1, OLD);
    let nobody = DialFailure::Unreachable("nobody".into());
    let mut waits = Vec::new();
    for _ in 0..12 {
        let next = world.book.next_due().unwrap();
        waits.push(next.saturating_duration_since(Instant::now()));
        let due = world.book.due(next);
        assert_eq!(due.len(), 1);
        assert!(world.book.due(next).is_empty(), "dialled twice at once");
        world.book.dial_failed(due[0].target, &nobody);
    }
    assert_eq!(waits[0], Duration::ZERO);
    assert!(waits[1] <= BACK_OFF_START, "{waits:?}");
    assert!(waits[11] > BACK_OFF_CAP / 2 && waits[11] <= BACK_OFF_CAP, "{waits:?}");
    // It moved: no waiting.
    world.told(teller.public().to_peer_id(), &lost, 2, NEW);
    assert!(world.book.next_due().unwrap() <= Instant::now());
}

#[test]
fn an_address_where_somebody_else_answers_is_given_up() {
    let mut world = World::new();
    let (teller, moved) = (world.member(), world.member());
    world.told(teller.public().to_peer_id(), &moved, 1, OLD);
    let due = world.book.due(Instant::now());
    let wrong = DialFailure::WrongPeer(OLD.parse().unwrap());
    world.book.dial_failed(due[0].target, &wrong);
    assert_eq!(world.book.next_due(), None);
}
