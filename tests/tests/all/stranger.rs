//! Somebody who has the swarm's key, and no certificate.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use libp2p_stream::OpenStreamError;

use crate::outsider::outsider;
use ipdc_tests::Node;

/// What a node serves its members.
const MEMBERS_ONLY: [&str; 3] = ["/ipdc/mqtt/1", "/ipdc/blocks/1", "/ipfs/bitswap/1.2.0"];

/// The quarantine's five seconds, and what a busy machine adds.
const QUARANTINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_key_without_a_certificate_opens_nothing_and_is_shown_out() {
    let mut node = Node::first();
    let status = node.start().status();
    let key = std::fs::read_to_string(node.home().join("swarm.key")).unwrap();
    let peer: PeerId = status["peer_id"].as_str().unwrap().parse().unwrap();
    let listen = status["listen"][0].as_str().unwrap().split("/p2p/").next().unwrap().to_owned();
    let address: Multiaddr = listen.parse().unwrap();

    let (identity, key) = (Keypair::generate_ed25519(), key.parse().unwrap());
    let mut stranger = outsider(identity, key, QUARANTINE * 10);
    let control = stranger.behaviour().new_control();
    stranger.dial(address.with_p2p(peer).unwrap()).unwrap();

    let mut connected = None;
    let mut answers = None;
    let deadline = Instant::now() + QUARANTINE * 3;
    loop {
        let event = tokio::time::timeout_at(deadline.into(), stranger.select_next_some()).await;
        match event.expect("the stranger is shown out in time") {
            SwarmEvent::ConnectionEstablished { .. } => {
                connected = Some(Instant::now());
                let mut control = control.clone();
                answers = Some(tokio::spawn(async move {
                    let mut answers = Vec::new();
                    for protocol in MEMBERS_ONLY {
                        answers
                            .push(control.open_stream(peer, StreamProtocol::new(protocol)).await);
                    }
                    answers
                }));
            }
            SwarmEvent::ConnectionClosed { .. } => break,
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                panic!("the key is right: {error}")
            }
            _ => {}
        }
    }
    let stayed = connected.expect("the key is right").elapsed();
    assert!(stayed < QUARANTINE, "the stranger stayed for {stayed:?}");
    for answer in answers.unwrap().await.unwrap() {
        match answer {
            Err(OpenStreamError::UnsupportedProtocol(_) | OpenStreamError::Io(_)) => {}
            other => panic!("expected no stream, got {other:?}"),
        }
    }
    assert_eq!(node.status()["peers_connected"], 0);
}
