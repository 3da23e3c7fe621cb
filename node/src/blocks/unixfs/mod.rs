//! UnixFS version 1: files and directories as trees of blocks.
//!
//! What is built here in the plain layout has the same CIDs as `ipfs add --cid-version=1 --raw-leaves
//! --chunker=size-1048576`: raw leaves of 1 MiB, a balanced tree with 174 links a node, one
//! raw block for a file that fits it, plain directories sorted by name. So are a job's outputs. What
//! users add is cut by its content into chunks of about 4 MiB first: each chunk is such a tree, and
//! the file a balanced tree over them. What is read may be of any make: other chunkers and widths,
//! leaves with a protobuf header, CIDv0, sharded directories.
//!
//! It owns the two wire formats (`dagpb`) and the shape of the trees. It gets blocks from a
//! [`Source`] and puts them through an [`super::store::Add`], and knows nothing of peers or disks.

mod blocking;
mod builder;
pub(in crate::blocks) mod dagpb;
pub(in crate::blocks) mod dir;
mod reader;

use std::collections::HashSet;
use std::future::Future;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ipdc_jobs::ids::{CODEC_DAG_PB, CODEC_RAW, Cid, FileRef};

pub use self::blocking::{BlockingReader, BlockingTree, BlockingWriter, Caller};
pub use self::builder::FileBuilder;
pub(in crate::blocks) use self::dagpb::Link;
use self::dagpb::{Entry, Kind, Node};
pub use self::dir::{DirEntry, build_dir, files, ls, resolve};
pub use self::reader::FileReader;
use super::block::{Block, key};
use super::fetch::FetchError;
use super::store::StoreError;
pub use crate::protobuf::Malformed;

/// Where blocks come from: the store alone, or the store and then other peers.
pub trait Source: Clone + Send + Sync + 'static {
    /// The block, checked.
    ///
    /// # Errors
    /// [`FetchError::Missing`] when it is nowhere to be had.
    fn get(&self, cid: &Cid) -> impl Future<Output = Result<Block, FetchError>> + Send;
}

/// A file or directory could not be read or built.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// A block could not be had.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fetch(#[from] FetchError),
    /// A block could not be put.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// The block is not of a form that is known.
    #[error("block {cid} is no UnixFS node: {why}")]
    #[diagnostic(
        code("IPDC-3201"),
        help("was it added as a file or directory? ipdc reads UnixFS version 1 and raw blocks")
    )]
    Form {
        /// The block.
        cid: Cid,
        /// What is wrong with it.
        why: Malformed,
    },
    /// A file was expected.
    #[error("{0} is not a file")]
    #[diagnostic(code("IPDC-3202"), help("`ipdc ls` shows what is in a directory"))]
    NotAFile(Cid),
    /// A directory was expected.
    #[error("{0} is not a directory")]
    #[diagnostic(code("IPDC-3203"), help("`ipdc cat` shows a file"))]
    NotADirectory(Cid),
    /// A path that leads nowhere.
    #[error("there is no `{path}` in {root}")]
    #[diagnostic(code("IPDC-3204"), help("`ipdc ls` shows what is in a directory"))]
    NotFound {
        /// Where the path begins.
        root: Cid,
        /// The path.
        path: String,
    },
    /// A path that no file in a directory may have.
    #[error("`{path}` cannot be the path of a file: {why}")]
    #[diagnostic(
        code("IPDC-3205"),
        help("use relative paths with `/` between names, without `.` and `..`, each once")
    )]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than is read or built.
    #[error("{what} than {limit}")]
    #[diagnostic(code("IPDC-3206"), help("split it into several directories or files"))]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A file that is not as long as it was said to be.
    #[error("file {cid} has {found} bytes, not {said}")]
    #[diagnostic(
        code("IPDC-3207"),
        help("whoever named the file gave a wrong length: name it again by its CID")
    )]
    Length {
        /// The file.
        cid: Cid,
        /// Its length by its own account, in bytes.
        found: u64,
        /// The length that was given with its name.
        said: u64,
    },
}

/// Nodes from a file's root to its leaves at most: 174 links a node reach 2^60 bytes with 6.
const DEPTH_LIMIT: usize = 32;

/// What a block says of itself.
pub(in crate::blocks) struct Parsed {
    pub(in crate::blocks) entry: Entry,
    pub(in crate::blocks) links: Vec<dagpb::Link>,
}

impl Parsed {
    /// Reads a raw or DAG-PB block as UnixFS.
    pub(in crate::blocks) fn of(block: &Block) -> Result<Parsed, Error> {
        let malformed = |why| Error::Form { cid: block.cid(), why };
        match block.cid().codec() {
            CODEC_RAW => Ok(Parsed::leaf(block.bytes().clone())),
            CODEC_DAG_PB => {
                let node = Node::decode(block.bytes()).map_err(malformed)?;
                let entry = Entry::decode(&node.data).map_err(malformed)?;
                Ok(Parsed { entry, links: node.links })
            }
            _ => Err(malformed(Malformed("its codec is neither raw nor DAG-PB"))),
        }
    }

    fn leaf(data: Bytes) -> Parsed {
        let len = Some(data.len() as u64);
        let entry = Entry { kind: Kind::Raw, data, len, block_sizes: Vec::new(), fanout: None };
        Parsed { entry, links: Vec::new() }
    }

    /// The file's length in bytes, if it is a file.
    pub(in crate::blocks) fn file_len(&self) -> Option<u64> {
        let inner: u64 = self.entry.block_sizes.iter().fold(0, |sum, len| sum.saturating_add(*len));
        let len = inner.saturating_add(self.entry.data.len() as u64);
        matches!(self.entry.kind, Kind::File | Kind::Raw).then_some(len)
    }
}

/// The blocks that `block` points at.
///
/// # Errors
/// When it is neither raw nor DAG-PB.
pub fn links(block: &Block) -> Result<Vec<Cid>, Error> {
    if block.cid().codec() == CODEC_RAW {
        return Ok(Vec::new());
    }
    Ok(Parsed::of(block)?.links.into_iter().map(|link| link.cid).collect())
}

/// Goes through the tree at `root`, with up to `width` blocks asked for at a time. `get` gives a block,
/// or none of a leaf that need not be looked at; `came` is told of each that it gives.
///
/// # Errors
/// The first of `get`, or when a block is neither raw nor DAG-PB.
pub(in crate::blocks) async fn walk<G: Future<Output = Result<Option<Block>, Error>>>(
    root: Cid,
    width: usize,
    get: impl Fn(Cid) -> G,
    mut came: impl FnMut(&Block),
) -> Result<(), Error> {
    let mut open = vec![root];
    // Nodes only: a tree may name one node very often, and each time means all below it again.
    let mut seen = HashSet::from([key(&root)]);
    let mut coming = FuturesUnordered::new();
    loop {
        while coming.len() < width
            && let Some(cid) = open.pop()
        {
            coming.push(get(cid));
        }
        let Some(got) = coming.next().await else { return Ok(()) };
        let Some(block) = got? else { continue };
        came(&block);
        let links = links(&block)?.into_iter().rev();
        open.extend(links.filter(|cid| cid.codec() == CODEC_RAW || seen.insert(key(cid))));
    }
}

/// The file at `cid`, with its length; `None` when it is a directory.
///
/// # Errors
/// When its root block cannot be had, or is neither.
pub async fn stat<S: Source>(source: &S, cid: Cid) -> Result<Option<FileRef>, Error> {
    let root = Parsed::of(&source.get(&cid).await?)?;
    match root.entry.kind {
        Kind::Directory | Kind::HamtShard => Ok(None),
        _ => root.file_len().map(|len| Some(FileRef { cid, len })).ok_or(Error::NotAFile(cid)),
    }
}

#[cfg(test)]
mod tests;
