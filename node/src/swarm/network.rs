//! rust-ipfs, set up the way a closed swarm needs it.
//!
//! TCP with the swarm's key, Noise and Yamux, our gate, and nothing else: no QUIC (it goes round
//! the key), no bitswap, identify or ping (they would serve whoever has the key), no DHT.

use connexa::prelude::transport::pnet::PreSharedKey;
use libp2p_identity::Keypair;
use rust_ipfs::Ipfs;
use rust_ipfs::builder::IpfsBuilder;
use rust_ipfs::repo::{DefaultStorage, Repo};

use super::SwarmError;
use super::gate::{Gate, GateEnds};
use super::identity::SwarmKey;

/// Connections to one peer at most: two when both dial at once, and room for a dead one or two
/// that were not noticed yet.
const PER_PEER_LIMIT: u32 = 4;
/// Connections in all: a swarm of a thousand nodes, each connected to each. About 20 KiB apiece.
const CONNECTIONS_LIMIT: u32 = 1024;
/// Connections that shake hands at a time, each way: bounds what strangers without the key can
/// hold, and is drained within the 10 s that a handshake may take.
const PENDING_LIMIT: u32 = 64;

/// Starts rust-ipfs with `repo` as its block store.
pub(super) async fn start(
    keypair: &Keypair,
    key: &SwarmKey,
    repo: &Repo<DefaultStorage>,
) -> Result<(Ipfs, GateEnds), SwarmError> {
    let failed = |error| SwarmError::Start(Box::<dyn std::error::Error + Send + Sync>::from(error));
    let (gate, ends) = Gate::new();
    let ipfs = IpfsBuilder::with_keypair(keypair)
        .map_err(|error| SwarmError::Start(error.into()))?
        .enable_tcp()
        .enable_pnet(PreSharedKey::new(*key.as_bytes()))
        .set_repo(repo)
        .set_connection_limits(|limits| {
            limits
                .with_max_established_per_peer(Some(PER_PEER_LIMIT))
                .with_max_established(Some(CONNECTIONS_LIMIT))
                .with_max_pending_incoming(Some(PENDING_LIMIT))
                .with_max_pending_outgoing(Some(PENDING_LIMIT))
        })
        .with_custom_behaviour(move |_| Ok(gate))
        .start()
        .await
        .map_err(failed)?;
    Ok((ipfs, ends))
}
