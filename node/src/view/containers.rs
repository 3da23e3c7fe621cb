//! Containers that people run by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use ipdc_jobs::ids::{Cid, FileRef, PeerId, cid_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::problem::Problem;

/// What names a container: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub u64);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that names no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no container's ID is so: they have 16 digits of 0-9 and a-f; see `ipdc container ls`")]
pub struct BadContainerId;

impl FromStr for ContainerId {
    type Err = BadContainerId;

    fn from_str(text: &str) -> Result<Self, BadContainerId> {
        let is_right = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_right);
        id.map(ContainerId).ok_or(BadContainerId)
    }
}

impl Serialize for ContainerId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a transport carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carried {
    /// Streams of bytes.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Carried::Tcp => "tcp",
            Carried::Udp => "udp",
        })
    }
}

/// A port of a container that is to be had on the loopback of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRequest {
    /// The container's.
    pub port: NonZeroU16,
    /// The one here; none, any that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<NonZeroU16>,
    /// What it carries.
    #[serde(default)]
    pub carries: Carried,
}

/// Body of `POST /containers`. What is not said has the node's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerRequest {
    /// An image of this node's engine, by its name, or one in blocks, by its CID.
    pub image: String,
    /// The file that the image is in, as `docker save` writes it; `image` is only its name then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<FileRef>,
    /// In place of the image's own.
    pub command: Vec<String>,
    /// Its environment, over that of the image.
    pub env: BTreeMap<String, String>,
    /// The node that it is to run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<PeerId>,
    /// Labels that its node must have.
    pub labels: Vec<String>,
    /// Processors.
    pub cpus: Option<u32>,
    /// GPUs.
    pub gpus: u32,
    /// Bytes of memory that each of them must have.
    pub gpu_memory: u64,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes that it may write into its own file system, where it can.
    pub disk: Option<u64>,
    /// How long it may run, in seconds.
    pub time_s: Option<u64>,
    /// Whether it has its node's network.
    pub network: bool,
    /// Whether it runs as the image's user, in a file system that it can write.
    pub root: bool,
    /// Containers that belong together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Ports of it that are to be had here.
    pub ports: Vec<PortRequest>,
    /// Public keys of whom may get into it by SSH from here, a line each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_keys: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Its image is fetched.
    Starting,
    /// Its command runs.
    Running,
    /// It is over.
    Ended,
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContainerState::Starting => "starting",
            ContainerState::Running => "running",
            ContainerState::Ended => "ended",
        })
    }
}

/// A port of a container on the loopback of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The container's.
    pub port: NonZeroU16,
    /// Where it is here.
    pub local: SocketAddr,
    /// What it carries.
    pub carries: Carried,
}

/// A container that somebody runs by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// What names it.
    pub id: ContainerId,
    /// The node that it runs on.
    pub node: PeerId,
    /// Whose it is.
    pub owner: String,
    /// The node that asked for it.
    pub renter: PeerId,
    /// How its image was named.
    pub image: String,
    /// The image.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// What it runs in place of the image's own; empty, that.
    pub command: Vec<String>,
    /// Containers that belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Its exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i64>,
    /// Why it ended, if not by itself and well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Processors.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether it has its node's network.
    pub network: bool,
    /// Whether it runs as the image's user.
    pub root: bool,
    /// When it was asked for, milliseconds since 1970 by its node's clock.
    pub since_ms: u64,
    /// Seconds until its time is over; of one that has ended, until it is forgotten.
    pub left_s: u64,
    /// Its ports on the loopback of the node that was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Forward>,
    /// Where one gets into it by SSH, on the same loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<SocketAddr>,
}

/// A line of the answer to `POST /containers`: the last one says how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Starting {
    /// It is asked of this node now.
    Asked(PeerId),
    /// Bytes of its image that have come there.
    Fetched(u64),
    /// It runs.
    Container(Box<ContainerView>),
    /// It does not.
    Error(Problem),
}

/// Query of `GET /containers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainersQuery {
    /// Only those of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Answer to `GET /containers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerList {
    /// Those of this node's owner, and all that run on this node.
    pub containers: Vec<ContainerView>,
    /// Nodes that could be asked and did not answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentPeer>,
}

/// A node that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentPeer {
    /// Who.
    pub peer: PeerId,
    /// Why.
    pub why: String,
}

/// Body of `POST /containers/{id}/extend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// How long it may run from now on, in seconds.
    pub time_s: u64,
}

/// Query of `GET /containers/{id}/logs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLogsQuery {
    /// Whether what it writes later is sent too, until it ends.
    #[serde(default)]
    pub follow: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// How many lines.
    pub rows: u16,
    /// How many in a line.
    pub columns: u16,
}

/// Body of `POST /containers/{id}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The command.
    pub command: Vec<String>,
    /// The terminal that it runs on; none, pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// Body of `POST /containers/{id}/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortsRequest {
    /// Ports of it that are to be had here.
    pub ports: Vec<PortRequest>,
    /// Public keys of whom may get into it by SSH from here, a line each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_keys: Option<String>,
}

/// An image that is known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// The image.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// What the user of this node's engine calls it.
    pub names: Vec<String>,
    /// Bytes of the engine's disk that it takes, if the engine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<u64>,
    /// Whether its blocks are kept here for the user.
    pub kept: bool,
}

/// Body of `POST /images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewImage {
    /// Its name in this node's engine; of an archive, for people.
    pub name: String,
    /// The file that it is in, as `docker save` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<FileRef>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_by_16_hexadecimal_digits() {
        let id = ContainerId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(id));
        for wrong in ["", "ab", "00000000000000ag", "+0000000000000ab", "00000000000000abc"] {
            assert_eq!(wrong.parse::<ContainerId>(), Err(BadContainerId), "{wrong}");
        }
    }

    #[test]
    fn a_request_needs_only_an_image() {
        let asked: ContainerRequest = serde_json::from_str(r#"{"image": "base:1"}"#).unwrap();
        assert_eq!(asked, ContainerRequest { image: "base:1".into(), ..Default::default() });
        assert!(serde_json::from_str::<ContainerRequest>(r#"{"imag": "base:1"}"#).is_err());
    }
}
