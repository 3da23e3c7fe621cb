//! One block: bytes that are known to hash to their CID.
//!
//! A [`Block`] cannot be made without hashing its bytes, so whatever takes one (the store, the
//! exchange's answers) need not ask whether they were checked.

use bytes::Bytes;
use ipdc_jobs::ids::{CODEC_DAG_PB, CODEC_RAW, Cid, cid_of};
use sha2::{Digest, Sha256};

/// Bytes of a leaf that ipdc makes: the largest block that every IPFS node takes.
pub const CHUNK: usize = 1 << 20;

/// The largest block that is read or taken, in bytes. Kubo's own limit: its 1 MiB chunks with a
/// protobuf header round them are a little longer than [`CHUNK`].
pub const BLOCK_LIMIT: usize = 2 << 20;

/// Below this a block is hashed where it is; above, on a blocking thread. Hashing 64 KiB takes
/// about 0.15 ms, the longest that a task should hold its thread.
const HASH_INLINE: usize = 64 * 1024;

pub(super) const SHA2_256: u64 = 0x12;
const IDENTITY: u64 = 0x00;

/// A block whose bytes were hashed and found to be those that its CID names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

impl Block {
    /// The raw block of these bytes.
    #[must_use]
    pub fn raw(bytes: Bytes) -> Block {
        Block { cid: cid_of(CODEC_RAW, &bytes), bytes }
    }

    /// The DAG-PB block of these bytes.
    #[must_use]
    pub fn dag_pb(bytes: Bytes) -> Block {
        Block { cid: cid_of(CODEC_DAG_PB, &bytes), bytes }
    }

    /// The block of these bytes in any codec, by version 1 of its name.
    #[must_use]
    pub(super) fn of(codec: u64, bytes: Bytes) -> Block {
        Block { cid: cid_of(codec, &bytes), bytes }
    }

    /// Takes `bytes` for the block `cid`, if they are.
    ///
    /// # Errors
    /// When they hash to something else, are too long, or `cid` names a hash that is not known.
    pub fn check(cid: Cid, bytes: Bytes) -> Result<Block, BadBlock> {
        if bytes.len() > BLOCK_LIMIT {
            return Err(BadBlock::TooLong { cid, len: bytes.len() });
        }
        Block::can_check(&cid)?;
        let same = match cid.hash().code() {
            IDENTITY => bytes == cid.hash().digest(),
            _ => Sha256::digest(&bytes).as_slice() == cid.hash().digest(),
        };
        if same { Ok(Block { cid, bytes }) } else { Err(BadBlock::Mismatch { cid }) }
    }

    /// Whether a block of this name could be checked.
    ///
    /// # Errors
    /// When `cid` names a hash that is not known.
    pub fn can_check(cid: &Cid) -> Result<(), BadBlock> {
        match cid.hash().code() {
            SHA2_256 | IDENTITY => Ok(()),
            code => Err(BadBlock::Hash { cid: *cid, code }),
        }
    }

    /// [`Block::check`] that does not hold up the async runtime.
    ///
    /// # Errors
    /// As [`Block::check`].
    pub async fn check_async(cid: Cid, bytes: Bytes) -> Result<Block, BadBlock> {
        if bytes.len() <= HASH_INLINE {
            return Block::check(cid, bytes);
        }
        let checked = tokio::task::spawn_blocking(move || Block::check(cid, bytes)).await;
        checked.unwrap_or(Err(BadBlock::Mismatch { cid }))
    }

    /// The block that its CID holds in itself, for CIDs that do (the identity hash).
    #[must_use]
    pub fn inlined(cid: &Cid) -> Option<Block> {
        let inlined = cid.hash().code() == IDENTITY;
        inlined.then(|| Block { cid: *cid, bytes: Bytes::copy_from_slice(cid.hash().digest()) })
    }

    /// Its name.
    #[must_use]
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its bytes, without the name.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// For bytes that a store hashed itself when it read them.
    pub(super) fn checked_elsewhere(cid: Cid, bytes: Bytes) -> Block {
        Block { cid, bytes }
    }
}

/// The one name under which a block is kept: version 1 of its CID.
pub(super) fn key(cid: &Cid) -> Cid {
    Cid::new_v1(cid.codec(), *cid.hash())
}

/// Bytes that are not the block they were said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum BadBlock {
    /// They hash to something else.
    #[error("the bytes are not those of block {cid}")]
    #[diagnostic(code("IPDC-3103"), help("the block is dropped and fetched again by itself"))]
    Mismatch {
        /// The block they should have been.
        cid: Cid,
    },
    /// They are more than a block may have.
    #[error("block {cid} has {len} bytes; at most {BLOCK_LIMIT} are taken")]
    #[diagnostic(
        code("IPDC-3104"),
        help("add the file again in smaller chunks, for example with `ipdc add`")
    )]
    TooLong {
        /// The block.
        cid: Cid,
        /// Its length in bytes.
        len: usize,
    },
    /// The CID's hash function is not one that ipdc knows.
    #[error("block {cid} is named by hash function {code:#x}; ipdc knows SHA-256 (0x12)")]
    #[diagnostic(code("IPDC-3105"), help("add the file again, for example with `ipdc add`"))]
    Hash {
        /// The block.
        cid: Cid,
        /// The multicodec of the hash function.
        code: u64,
    },
}
