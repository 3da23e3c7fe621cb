//! Ranges of addresses, and which addresses are public.
//!
//! What is not public belongs to whoever runs the machine or its network: loopback, private and link-local
//! networks, the services that clouds offer to their machines. IPv6 addresses that stand for IPv4 ones
//! are judged as those.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A range of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range(IpNet);

impl Range {
    /// Whether `address`, or the one that it stands for, is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&meant(address))
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Range) -> bool {
        self.0.contains(&other.0)
    }
}

/// A text that is no range of addresses.
#[derive(Debug, thiserror::Error)]
#[error("expected a range of addresses as \"10.0.0.0/8\", or one as \"10.1.2.3\"")]
pub struct BadRange;

impl FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Range, BadRange> {
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        let net = text.parse::<IpNet>().or_else(|_| one()).map_err(|_| BadRange)?;
        // One of addresses that are judged as others would never match.
        let is_meant = meant(net.network()) == net.network();
        if is_meant { Ok(Range(net.trunc())) } else { Err(BadRange) }
    }
}

impl TryFrom<String> for Range {
    type Error = BadRange;

    fn try_from(text: String) -> Result<Range, BadRange> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> String {
        range.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether `address` belongs to the public internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match meant(address) {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The address that packets to `address` reach in the end: of an IPv4-mapped one, and of one behind the
/// well-known prefix of NAT64 (RFC 6052), the IPv4 address.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => address,
    }
}

/// IANA's registry of special addresses, and multicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match (a, b, c) {
        // This network; private; loopback; link-local, with the metadata services of clouds.
        (0 | 10 | 127, _, _) | (169, 254, _) | (172, 16..=31, _) | (192, 168, _) => true,
        // Carriers' NAT; protocols, documentation, 6to4 relays; benchmarks.
        (100, 64..=127, _) | (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) => true,
        (198, 51, 100) | (203, 0, 113) => true,
        // Multicast, reserved, broadcast.
        (224.., _, _) => true,
        _ => false,
    };
    !is_special
}

/// Of the one block that is given out, 2000::/3, what is not special.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let is_special = match (a, b) {
        // Protocols, Teredo and ORCHID; documentation; 6to4, which leads to any IPv4 address.
        (0x2001, 0..0x200 | 0xdb8) | (0x2002, _) => true,
        (0x3fff, 0..0x1000) => true,
        _ => false,
    };
    a & 0xe000 == 0x2000 && !is_special
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_known_in_each_of_its_forms() {
        let private = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.254 127.0.0.1 127.9.9.9 \
            169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 \
            198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 \
            :: ::1 fc00::1 fd00:ec2::254 fe80::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 64:ff9b::127.0.0.1 \
            64:ff9b::a01:203 64:ff9b:1::1 2001::1 2001:1ff::1 2001:db8::1 2002:7f00:1::1 3fff::1 fec0::1 \
            ::127.0.0.1 100::1 5f00::1 4000::1";
        for address in private.split_whitespace() {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        let public = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 192.167.1.1 \
            198.17.0.1 198.20.0.1 223.255.255.255 2001:200::1 2001:4860:4860::8888 2606:4700::1111 \
            2a00:1450::1 3fff:1000::1 ::ffff:8.8.8.8 64:ff9b::808:808";
        for address in public.split_whitespace() {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_range_has_addresses_and_smaller_ranges_in_it() {
        let range: Range = "127.0.0.0/8".parse().unwrap();
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"] {
            assert!(range.contains(address.parse().unwrap()), "{address}");
        }
        assert!(!range.contains("::1".parse().unwrap()));
        let one: Range = "127.0.0.1".parse().unwrap();
        assert!(range.covers(&one) && range.covers(&range) && !one.covers(&range));
        assert!(!range.covers(&"::1".parse().unwrap()));
        assert_eq!(String::from("10.1.2.3/8".parse::<Range>().unwrap()), "10.0.0.0/8");
        for text in ["", "10", "10.0.0.0/33", "localhost", "::ffff:10.0.0.0/104", "64:ff9b::/96"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
