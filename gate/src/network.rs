//! rust-ipfs, set up the way a closed swarm needs it.
//!
//! TCP with the swarm's key, Noise and Yamux, our gate, and nothing else: no QUIC (it goes round
//! the key), no bitswap, identify or ping (they would serve whoever has the key; guests get the node's
//! own), no DHT.

use std::error::Error;
use std::pin::Pin;

use connexa::prelude::transport::pnet::PreSharedKey;
use libp2p_identity::Keypair;
use rust_ipfs::Ipfs;
use rust_ipfs::builder::IpfsBuilder;
use rust_ipfs::repo::{DefaultStorage, Repo};

use crate::{Ends, Gate, Offered};

/// Connections to one peer at most: two when both dial at once, and room for a dead one or two
/// that were not noticed yet.
const PER_PEER_LIMIT: u32 = 4;
/// Connections in all: a swarm of a thousand nodes, each connected to each. About 20 KiB apiece.
const CONNECTIONS_LIMIT: u32 = 1024;
/// Connections that shake hands at a time, each way: bounds what strangers without the key can
/// hold, and is drained within the 10 s that a handshake may take.
const PENDING_LIMIT: u32 = 64;

/// Why rust-ipfs did not start.
pub type StartError = Box<dyn Error + Send + Sync>;

/// rust-ipfs, starting. Not `Send`: its builder is not.
pub type Starting = Pin<Box<dyn Future<Output = Result<(Ipfs, Ends), StartError>>>>;

/// Starts rust-ipfs with `repo` as its block store and `key` as the swarm's key. Peers are
/// offered what `offered` says. Boxed, so that only this crate compiles what is inside.
#[must_use]
pub fn start(
    keypair: Keypair,
    key: [u8; 32],
    repo: Repo<DefaultStorage>,
    offered: Offered,
) -> Starting {
    Box::pin(async move {
        let (gate, ends) = Gate::new(offered);
        let ipfs = IpfsBuilder::with_keypair(keypair)?
            .enable_tcp()
            .enable_pnet(PreSharedKey::new(key))
            .set_repo(&repo)
            .set_connection_limits(|limits| {
                limits
                    .with_max_established_per_peer(Some(PER_PEER_LIMIT))
                    .with_max_established(Some(CONNECTIONS_LIMIT))
                    .with_max_pending_incoming(Some(PENDING_LIMIT))
                    .with_max_pending_outgoing(Some(PENDING_LIMIT))
            })
            .with_custom_behaviour(move |_| Ok(gate))
            .start()
            .await?;
        Ok((ipfs, ends))
    })
}
