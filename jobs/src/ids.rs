//! The names of things. Types, not strings, so that one cannot stand for another.

use std::fmt;
use std::str::FromStr;

pub use cid::Cid;
pub use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names a job: the first 16 bytes of the SHA-256 of its manifest, written in lower-case base32.
///
/// Two manifests with the same name do not occur by accident, and a worker can check that the
/// manifest it fetched is the one it was asked to work for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId([u8; 16]);

impl JobId {
    /// Characters of the written form: 128 bits, 5 a character.
    pub const TEXT_LEN: usize = 26;
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// The name of the job that `manifest` (its exact signed bytes) describes.
    #[must_use]
    pub fn of_manifest(manifest: &[u8]) -> Self {
        let digest = Sha256::digest(manifest);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        JobId(id)
    }

    /// The 16 bytes, for hashing and storage.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for i in 0..Self::TEXT_LEN {
            let shift = 123_i32 - 5 * i as i32;
            let five = if shift >= 0 { bits >> shift } else { bits << -shift };
            write!(f, "{}", char::from(Self::ALPHABET[(five & 31) as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no job ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job ID: expected 26 characters of a-z and 2-7")]
pub struct BadJobId(pub String);

impl FromStr for JobId {
    type Err = BadJobId;

    fn from_str(text: &str) -> Result<Self, BadJobId> {
        let bad = || BadJobId(text.to_owned());
        if text.len() != Self::TEXT_LEN {
            return Err(bad());
        }
        let mut bits: u128 = 0;
        for (i, byte) in text.bytes().enumerate() {
            let five = Self::ALPHABET.iter().position(|&c| c == byte).ok_or_else(bad)? as u128;
            let shift = 123_i32 - 5 * i as i32;
            bits |= if shift >= 0 { five << shift } else { five >> -shift };
        }
        let id = JobId(bits.to_be_bytes());
        // The last character carries three bits only: two texts must not name one job.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A task's number within its job: its index in the kind's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub u32);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a controller's term. Only ever rises.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One try of a task. Never reused: within a task, attempts only rise, epoch first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The term of the controller that made this attempt.
    pub epoch: Epoch,
    /// The attempt's number within its task and epoch, from 1.
    pub n: u32,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// The multicodec of raw bytes.
pub const CODEC_RAW: u64 = 0x55;
/// The multicodec of a DAG-PB node.
pub const CODEC_DAG_PB: u64 = 0x70;
const MULTIHASH_SHA2_256: u64 = 0x12;

/// The CIDv1 (SHA-256) of one block's bytes under `codec`.
#[must_use]
pub fn cid_of(codec: u64, block: &[u8]) -> Cid {
    let digest = Sha256::digest(block);
    let hash = multihash::Multihash::wrap(MULTIHASH_SHA2_256, &digest)
        .expect("a SHA-256 digest is 32 bytes and a multihash holds 64");
    Cid::new_v1(codec, hash)
}

/// A file in the swarm: where its bytes begin (the root of its UnixFS tree, or one raw block)
/// and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// The root of the file's UnixFS tree.
    #[serde(with = "cid_text")]
    pub cid: Cid,
    /// The file's length in bytes.
    pub len: u64,
}

/// A CID in JSON as the text people know; the CID crate's own form is an array of numbers.
///
/// `#[serde(with = "cid_text")]` for a [`Cid`], `cid_text::option` and `cid_text::list` for some.
pub mod cid_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Cid;

    fn parse<E: serde::de::Error>(text: &str) -> Result<Cid, E> {
        text.parse().map_err(|error| E::custom(format_args!("`{text}` is not a CID: {error}")))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(cid: &Cid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cid)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the text is no CID.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cid, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    /// A CID that may be absent.
    pub mod option {
        use super::{Cid, Deserialize, Deserializer, Serializer, parse};

        /// Writes it.
        ///
        /// # Errors
        /// The serializer's own.
        pub fn serialize<S: Serializer>(cid: &Option<Cid>, out: S) -> Result<S::Ok, S::Error> {
            match cid {
                Some(cid) => out.collect_str(cid),
                None => out.serialize_none(),
            }
        }

        /// Reads it.
        ///
        /// # Errors
        /// When the text is no CID.
        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cid>, D::Error> {
            Option::<String>::deserialize(from)?.map(|text| parse(&text)).transpose()
        }
    }

    /// Several CIDs.
    pub mod list {
        use super::{Cid, Deserialize, Deserializer, Serializer, parse};

        /// Writes them.
        ///
        /// # Errors
        /// The serializer's own.
        pub fn serialize<S: Serializer>(cids: &[Cid], out: S) -> Result<S::Ok, S::Error> {
            out.collect_seq(cids.iter().map(ToString::to_string))
        }

        /// Reads them.
        ///
        /// # Errors
        /// When a text is no CID.
        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Cid>, D::Error> {
            let texts = Vec::<String>::deserialize(from)?;
            texts.iter().map(|text| parse(text)).collect::<Result<_, D::Error>>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_reads_back_as_written() {
        for seed in 0..200_u32 {
            let id = JobId::of_manifest(&seed.to_be_bytes());
            let text = id.to_string();
            assert_eq!(text.len(), JobId::TEXT_LEN);
            assert_eq!(text.parse(), Ok(id));
        }
    }

    #[test]
    fn a_text_with_spare_bits_set_is_no_job_id() {
        let mut text = JobId::of_manifest(b"x").to_string();
        text.pop();
        text.push('7');
        assert!(text.parse::<JobId>().is_err());
        assert!("short".parse::<JobId>().is_err());
        assert!("A".repeat(26).parse::<JobId>().is_err());
    }
}
