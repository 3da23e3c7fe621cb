//! Addresses: what a node says about where it is, and names made dialable.

use std::net::IpAddr;

use connexa::prelude::{Multiaddr, Protocol};
use ipdc_jobs::ids::PeerId;
use serde::{Deserialize, Serialize};

use super::signed::Statement;

/// The most addresses a node tells of itself, and the most that are kept of another: a machine
/// has a few interfaces; more would only make dials slow.
pub const ADDRESSES_LIMIT: usize = 16;

/// Where a node can be reached, in its own words. Passed on by others, who cannot change it; of two
/// the one with the higher number holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whereabouts {
    /// The node.
    pub peer: PeerId,
    /// Rises with every change, across restarts.
    pub number: u64,
    /// At most [`ADDRESSES_LIMIT`], without `/p2p`.
    pub addresses: Vec<Multiaddr>,
}

impl Statement for Whereabouts {
    const CONTEXT: &'static [u8] = b"ipdc/whereabouts/1\n";

    fn signer(&self) -> PeerId {
        self.peer
    }
}

/// Splits `/…/p2p/<peer>` into the address and the peer.
#[must_use]
pub fn split_peer(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut plain = address.clone();
    match plain.pop() {
        Some(Protocol::P2p(peer)) => (plain, Some(peer)),
        _ => (address.clone(), None),
    }
}

/// What to tell others of the addresses that we listen on: not the loopback when there is any
/// other, for there every node finds itself; and nothing that needs a zone.
#[must_use]
pub(super) fn worth_telling(listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let (loopback, others): (Vec<_>, Vec<_>) = listening
        .iter()
        .filter(|address| !ip(address).is_some_and(needs_zone))
        .cloned()
        .partition(|address| ip(address).is_some_and(|ip| ip.is_loopback()));
    let mut told = if others.is_empty() { loopback } else { others };
    told.truncate(ADDRESSES_LIMIT);
    told
}

fn needs_zone(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Checks that nobody listens on `address`. libp2p shares its ports (`SO_REUSEPORT`): a second node
/// would get every other connection that is meant for the first, and neither would say so.
pub(super) fn check_free(address: &Multiaddr) -> std::io::Result<()> {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    match (ip(address), port) {
        (Some(ip), Some(port)) if port != 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

/// `address` with the port of `found`: which one port 0 came to be.
pub(super) fn with_port_of(address: &Multiaddr, found: &Multiaddr) -> Multiaddr {
    let is_port = |part: &Protocol<'_>| matches!(part, Protocol::Tcp(_));
    let port = found.iter().find(is_port);
    address.iter().map(|part| port.clone().filter(|_| is_port(&part)).unwrap_or(part)).collect()
}

/// The addresses behind `address`: itself, or, when it begins with a name, one for each IP address
/// of the name, at most [`ADDRESSES_LIMIT`]. None if the name is not known (now).
pub(super) async fn resolve(address: &Multiaddr) -> Vec<Multiaddr> {
    let name = match address.iter().next() {
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => name.to_string(),
        _ => return vec![address.clone()],
    };
    let wanted = |ip: &IpAddr| match address.iter().next() {
        Some(Protocol::Dns4(_)) => ip.is_ipv4(),
        Some(Protocol::Dns6(_)) => ip.is_ipv6(),
        _ => true,
    };
    let found = match tokio::net::lookup_host((name.as_str(), 0)).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(name, %error, "name not resolved");
            return Vec::new();
        }
    };
    let ips = found.map(|socket| socket.ip()).filter(wanted).take(ADDRESSES_LIMIT);
    ips.filter_map(|ip| address.replace(0, |_| Some(ip.into()))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn loopback_is_told_only_when_there_is_nothing_else() {
        let lonely = all(&["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]);
        assert_eq!(worth_telling(&lonely), lonely);
        let both = all(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.7/tcp/1", "/ip6/fe80::1/tcp/1"]);
        assert_eq!(worth_telling(&both), all(&["/ip4/10.0.0.7/tcp/1"]));
    }

    #[tokio::test]
    async fn a_name_is_resolved_before_it_is_dialled() {
        let named: Multiaddr = "/dns4/localhost/tcp/4747".parse().unwrap();
        assert_eq!(resolve(&named).await, all(&["/ip4/127.0.0.1/tcp/4747"]));
        let plain = all(&["/ip4/10.0.0.7/tcp/1"]);
        assert_eq!(resolve(&plain[0]).await, plain);
    }

    #[test]
    fn the_peer_is_split_off_an_address() {
        let peer = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let with: Multiaddr = format!("/ip4/10.0.0.7/tcp/1/p2p/{peer}").parse().unwrap();
        let without: Multiaddr = "/ip4/10.0.0.7/tcp/1".parse().unwrap();
        assert_eq!(split_peer(&with), (without.clone(), Some(peer)));
        assert_eq!(split_peer(&without), (without, None));
    }
}
