//! libp2p as a node speaks it, and no more: what tests make strangers, guests and liars of.

use std::time::Duration;

use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{Swarm, Transport as _, noise, tcp, yamux};
use libp2p_stream::Behaviour;

/// A peer with this identity and swarm key, which closes no connection that is used within `idle`.
pub(crate) fn outsider(identity: Keypair, key: PreSharedKey, idle: Duration) -> Swarm<Behaviour> {
    libp2p::SwarmBuilder::with_existing_identity(identity)
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
        .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
        .build()
}
