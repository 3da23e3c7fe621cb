//! CAR files, version 1: a tree of blocks as one stream of bytes, for everyone who is not in the swarm.
//!
//! ```text
//! [varint length] header      DAG-CBOR {"roots": [CID…], "version": 1}
//! [varint length] CID bytes   a block, again and again
//! ```
//!
//! What is written has one root, its blocks depth first, each once: the same bytes for the same CID
//! wherever it is exported, and those of Kubo's `ipfs dag export`. What is read may have any order. Of version 2,
//! the version 1 that it wraps is read, its index is not. Each block is hashed before it is put; how
//! much is in memory depends on the blocks' sizes and not on how many there are, but for the names of
//! those that were exported.
//!
//! It owns the format. It gets blocks from a [`Source`], puts them through an [`Add`], and pins nothing.

use std::collections::{HashMap, HashSet};
use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use ipdc_jobs::ids::Cid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::task::AbortOnDropHandle;

use super::block::{BLOCK_LIMIT, BadBlock, Block, key};
use super::fetch::FetchError;
use super::store::{Add, StoreError};
use super::unixfs::{self, Source};
use crate::varint;

/// Bytes of a header at most: 1,000 roots and room for long CIDs.
const HEADER_LIMIT: usize = 64 << 10;

/// Bytes of a section at most: the longest block behind a CID of 128 bytes.
const SECTION_LIMIT: usize = BLOCK_LIMIT + 128;

/// Blocks that are checked and flushed at the same time: as many as the store writes at a time.
const PUTS: usize = 8;

/// Blocks that are asked for before those ahead of them are written: hides a peer's latency, and is 16 MiB
/// of what ipdc adds.
const AHEAD: usize = 16;

/// Bytes of version 2 between its first header and what the second one points at: characteristics
/// (16), offset and length of the payload (8 each), offset of the index (8).
const V2_HEADER: u64 = 40;

/// A CAR could not be read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CarError {
    /// It does not begin as one.
    #[error("this is no CAR that ipdc can read: {0}")]
    #[diagnostic(
        code("IPDC-3501"),
        help("`ipdc export CID > x.car` and `ipfs dag export CID > x.car` make one")
    )]
    Header(String),
    /// It ends too early.
    #[error("the CAR is cut off: it ends at byte {at}, within what begins at byte {begun}")]
    #[diagnostic(
        code("IPDC-3502"),
        help("get the file again, whole; what came of it is taken from it again at no cost")
    )]
    CutOff {
        /// Where it ends.
        at: u64,
        /// Where its last section, or its header, begins.
        begun: u64,
    },
    /// A section is not of a block.
    #[error("what begins at byte {at} of the CAR {why}")]
    #[diagnostic(code("IPDC-3503"), help("the file is damaged: get it, or make it, again"))]
    Section {
        /// Where it begins.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A block is not what it is said to be.
    #[error("the block at byte {at} of the CAR cannot be taken")]
    #[diagnostic(code("IPDC-3504"), help("the file is damaged: get it, or make it, again"))]
    Block {
        /// Where its section begins.
        at: u64,
        /// What is wrong with it.
        #[source]
        source: BadBlock,
    },
    /// Whoever sends it broke off.
    #[error("the CAR could not be read further than byte {at}")]
    #[diagnostic(code("IPDC-3505"), help("send it again; what came is taken at no cost"))]
    Read {
        /// How far it was read.
        at: u64,
        /// Why no further.
        #[source]
        source: io::Error,
    },
    /// A block could not be put.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
}

/// What an [`import`] put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// What the file says that it holds. Whether it does is for whoever pins it to find out.
    pub roots: Vec<Cid>,
    /// Its blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The header. The order is that of DAG-CBOR: by length of the names.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(default)]
    roots: Vec<Cid>,
    version: u64,
}

/// The CAR of the tree at `root`, in pieces.
///
/// # Errors
/// The stream ends with one when a block cannot be had or is not of a form whose links are known.
pub fn export<S: Source>(
    source: S,
    root: Cid,
) -> impl Stream<Item = Result<Bytes, unixfs::Error>> + Send + use<S> {
    let header = Header { roots: vec![root], version: 1 };
    let header = serde_ipld_dagcbor::to_vec(&header).expect("a number and a CID are DAG-CBOR");
    let header = framed(&[&header]);
    let sections = stream::try_unfold(Walk::new(source, root), async |mut walk| {
        let Some(block) = walk.next().await? else { return Ok(None) };
        Ok(Some((framed(&[&block.cid().to_bytes(), block.bytes()]), walk)))
    });
    stream::once(async { Ok(header) }).chain(sections)
}

fn framed(parts: &[&[u8]]) -> Bytes {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(len + 10);
    varint::put(&mut frame, len as u64);
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

/// A tree, depth first, each block once.
struct Walk<S> {
    source: S,
    /// What is still to come, the next one last.
    open: Vec<Cid>,
    seen: HashSet<Cid>,
    ahead: HashMap<Cid, AbortOnDropHandle<Result<Block, FetchError>>>,
}

impl<S: Source> Walk<S> {
    fn new(source: S, root: Cid) -> Walk<S> {
        Walk { source, open: vec![root], seen: HashSet::new(), ahead: HashMap::new() }
    }

    async fn next(&mut self) -> Result<Option<Block>, unixfs::Error> {
        while let Some(cid) = self.open.pop() {
            if !self.seen.insert(key(&cid)) {
                continue;
            }
            self.get_ahead();
            let block = match self.ahead.remove(&cid) {
                Some(coming) => coming.await.map_err(panicked)??,
                None => self.source.get(&cid).await?,
            };
            self.open.extend(unixfs::links(&block)?.into_iter().rev());
            return Ok(Some(block));
        }
        Ok(None)
    }

    fn get_ahead(&mut self) {
        for cid in self.open.iter().rev().take(AHEAD) {
            if self.ahead.len() < AHEAD && !self.seen.contains(&key(cid)) {
                let (source, cid) = (self.source.clone(), *cid);
                self.ahead.entry(cid).or_insert_with(|| {
                    AbortOnDropHandle::new(tokio::spawn(async move { source.get(&cid).await }))
                });
            }
        }
    }
}

fn panicked(error: tokio::task::JoinError) -> StoreError {
    StoreError::Io { action: "read ahead", source: io::Error::other(error) }
}

/// Puts the blocks of a CAR as a part of `add`: pin its roots before `add` is dropped. After an error, what
/// came before it stays until it is collected.
///
/// # Errors
/// When it is no CAR, is damaged or cut off, or a block cannot be put.
pub async fn import(add: &Add, from: impl AsyncRead + Send + Unpin) -> Result<Imported, CarError> {
    let mut from = Reader { from, at: 0, end: u64::MAX };
    let header = from.header().await?;
    let roots = if header.version == 2 { from.unwrap_v2().await?.roots } else { header.roots };
    if roots.is_empty() {
        return Err(CarError::Header("it names no root, so nothing of it would be kept".into()));
    }
    let sections = stream::try_unfold(from, async |mut from| {
        Ok(from.section().await?.map(|section| (section, from)))
    });
    let put = async |Section { at, cid, bytes }: Section| {
        let len = bytes.len() as u64;
        let block = Block::check_async(cid, bytes).await;
        add.put(&block.map_err(|source| CarError::Block { at, source })?).await?;
        Ok::<_, CarError>(len)
    };
    let mut imported = Imported { roots, blocks: 0, bytes: 0 };
    let mut puts = std::pin::pin!(sections.map_ok(put).try_buffer_unordered(PUTS));
    while let Some(len) = puts.try_next().await? {
        imported.blocks += 1;
        imported.bytes += len;
    }
    Ok(imported)
}

/// A block, not checked yet.
struct Section {
    at: u64,
    cid: Cid,
    bytes: Bytes,
}

/// Reads a CAR, knowing where it is.
struct Reader<R> {
    from: R,
    at: u64,
    /// Where the blocks end, if that was said.
    end: u64,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn header(&mut self) -> Result<Header, CarError> {
        let begun = self.at;
        let header = match self.frame(HEADER_LIMIT).await {
            Ok(Some(header)) => header,
            Ok(None) => return Err(CarError::Header("it is empty".into())),
            Err(CarError::Section { why, .. }) => {
                return Err(CarError::Header(format!("its header {why}")));
            }
            Err(error) => return Err(error),
        };
        let header: Header = serde_ipld_dagcbor::from_slice(&header)
            .map_err(|error| CarError::Header(format!("its header is none: {error}")))?;
        // A version 2 begins the file; what it wraps is of version 1.
        match header.version {
            1 => Ok(header),
            2 if begun == 0 => Ok(header),
            version => Err(CarError::Header(format!("it is of version {version}"))),
        }
    }

    /// Goes to the version 1 that a version 2 wraps.
    async fn unwrap_v2(&mut self) -> Result<Header, CarError> {
        let begun = self.at;
        let fields = self.bytes(V2_HEADER as usize, begun).await?;
        let number = |at: usize| {
            let bytes = fields[at..].first_chunk().copied();
            bytes.map_or(0, u64::from_le_bytes)
        };
        let (payload, len) = (number(16), number(24));
        let gap = payload.checked_sub(self.at);
        let end = payload.checked_add(len);
        let (Some(gap), Some(end)) = (gap, end) else {
            return Err(CarError::Header("its version 2 points at no payload".into()));
        };
        let skipped = skip((&mut self.from).take(gap)).await;
        self.at += skipped.map_err(|error| self.broke(error, begun))?;
        self.end = end;
        self.header().await
    }

    async fn section(&mut self) -> Result<Option<Section>, CarError> {
        let at = self.at;
        if self.at == self.end {
            // The index of a version 2: read past it, for whoever sends it waits for that.
            let rest = skip(&mut self.from).await;
            rest.map_err(|error| self.broke(error, at))?;
            return Ok(None);
        }
        let Some(frame) = self.frame(SECTION_LIMIT).await? else {
            let whole = self.end == u64::MAX;
            return if whole { Ok(None) } else { Err(CarError::CutOff { at, begun: at }) };
        };
        let mut rest = &frame[..];
        let cid = Cid::read_bytes(&mut rest).map_err(|error| CarError::Section {
            at,
            why: format!("does not begin with a CID: {error}"),
        })?;
        let bytes = frame.slice(frame.len() - rest.len()..);
        Ok(Some(Section { at, cid, bytes }))
    }

    /// A length and as many bytes; `None` at the end.
    async fn frame(&mut self, limit: usize) -> Result<Option<Bytes>, CarError> {
        let begun = self.at;
        let len = match varint::read(&mut self.from).await {
            Ok(None) => return Ok(None),
            Ok(Some(len)) => len,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(CarError::Section { at: begun, why: "has no length in front".into() });
            }
            Err(error) => return Err(self.broke(error, begun)),
        };
        let wrong = |why| Err(CarError::Section { at: begun, why });
        let mut prefix = BytesMut::new();
        varint::put(&mut prefix, len);
        self.at += prefix.len() as u64;
        match usize::try_from(len) {
            Ok(0) => wrong("is empty".into()),
            Ok(len) if len <= limit => Ok(Some(self.bytes(len, begun).await?)),
            _ => wrong(format!("is said to have {len} bytes; at most {limit} are taken")),
        }
    }

    /// So many bytes of what began at `begun`. Memory grows with what arrives, not with what was
    /// announced.
    async fn bytes(&mut self, len: usize, begun: u64) -> Result<Bytes, CarError> {
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(len as u64).read_to_end(&mut bytes).await;
        self.at += bytes.len() as u64;
        read.map_err(|error| self.broke(error, begun))?;
        if bytes.len() < len {
            return Err(CarError::CutOff { at: self.at, begun });
        }
        Ok(bytes.into())
    }

    fn broke(&self, source: io::Error, begun: u64) -> CarError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => CarError::CutOff { at: self.at, begun },
            _ => CarError::Read { at: self.at, source },
        }
    }
}

/// Reads to the end and says how far that was.
async fn skip(mut from: impl AsyncRead + Unpin) -> io::Result<u64> {
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await
}

#[cfg(feature = "fuzz")]
pub(super) mod fuzz;

#[cfg(test)]
mod tests;
