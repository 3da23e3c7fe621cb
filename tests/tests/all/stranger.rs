//! Somebody who has the swarm's key, and no certificate: libp2p as a node speaks it, and no more.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::upgrade::Version;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, Transport as _, noise, tcp, yamux};
use libp2p_stream::{Behaviour, OpenStreamError};

use ipdc_tests::Node;

/// What a node serves its members.
const MEMBERS_ONLY: [&str; 3] = ["/ipdc/mqtt/1", "/ipdc/blocks/1", "/ipfs/bitswap/1.2.0"];

/// The quarantine's five seconds, and what a busy machine adds.
const QUARANTINE: Duration = Duration::from_secs(20);

fn stranger(key: PreSharedKey) -> Swarm<Behaviour> {
    libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|identity| {
            tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
                .and_then(move |socket, _| PnetConfig::new(key).handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(identity).expect("a key can sign"))
                .multiplex(yamux::Config::default())
        })
        .expect("a transport")
        .with_behaviour(|_| Behaviour::new())
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(QUARANTINE * 10))
        .build()
}

#[tokio::test]
async fn the_key_without_a_certificate_opens_nothing_and_is_shown_out() {
    let mut node = Node::first();
    let status = node.start().status();
    let key = std::fs::read_to_string(node.home().join("swarm.key")).unwrap();
    let peer: PeerId = status["peer_id"].as_str().unwrap().parse().unwrap();
    let listen = status["listen"][0].as_str().unwrap().split("/p2p/").next().unwrap().to_owned();
    let address: Multiaddr = listen.parse().unwrap();

    let mut stranger = stranger(key.parse().unwrap());
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
