//! Building a file's tree while its bytes come in.
//!
//! A file is a tree over chunks, and each chunk is the tree that its bytes would have as a file of
//! their own: raw leaves of 1 MiB below balanced nodes. In the plain layout all of a file is one
//! chunk, and so it is Kubo's; in the other the chunks are cut by content ([`chunk`]), and an edit
//! changes only the subtrees of those it touches.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use ipdc_jobs::chunk::{Chunk, Chunker, RecordKind};
use ipdc_jobs::ids::{Cid, FileRef};
use tokio_util::task::AbortOnDropHandle;

use super::dagpb::{Entry, Link, Node};
use crate::blocks::block::{Block, CHUNK};
use crate::blocks::store::{Add, StoreError};

/// Links of a node: Kubo's number, so that a chunk's CID is what Kubo gives its bytes.
const WIDTH: usize = 174;

/// Leaves that are hashed and written at the same time, and so the builder's memory in MiB. Enough to
/// keep four cores and one disk busy.
const IN_FLIGHT: usize = 8;

/// Builds one file. Its leaves are hashed and put in parallel; what a crash or a drop leaves behind
/// is unpinned blocks.
pub struct FileBuilder {
    to: Destination,
    /// Cuts the file into chunks; none in the plain layout.
    cuts: Option<Chunker>,
    leaf: BytesMut,
    /// Whether the current leaf is its chunk's last.
    at_cut: bool,
    leaves: VecDeque<Leaf>,
    /// The chunk whose leaves come in.
    chunk: Levels,
    /// The file, whose leaves are chunks.
    file: Levels,
    chunks: Vec<Chunk>,
    len: u64,
}

/// Where finished blocks go; none, when only their names are wanted.
type Destination = Option<Add>;

/// A leaf on its way.
struct Leaf {
    putting: AbortOnDropHandle<Result<Child, StoreError>>,
    ends_chunk: bool,
}

/// A finished subtree.
struct Child {
    cid: Cid,
    len: u64,
    dag_size: u64,
}

impl FileBuilder {
    /// A builder of a file in the plain layout, whose blocks go where `add` puts them.
    #[must_use]
    pub fn new(add: Add) -> FileBuilder {
        Self::with(Some(add), None)
    }

    /// A builder of a file that is cut by its content into chunks of whole lines.
    #[must_use]
    pub fn chunked(add: Add) -> FileBuilder {
        Self::with(Some(add), Some(Chunker::new(RecordKind::Lines)))
    }

    /// A builder that keeps nothing: it names the chunks of whole `records` that a file has.
    #[must_use]
    pub fn naming(records: RecordKind) -> FileBuilder {
        Self::with(None, Some(Chunker::new(records)))
    }

    fn with(to: Destination, cuts: Option<Chunker>) -> FileBuilder {
        FileBuilder {
            to,
            cuts,
            leaf: BytesMut::new(),
            at_cut: false,
            leaves: VecDeque::new(),
            chunk: Levels::default(),
            file: Levels::default(),
            chunks: Vec::new(),
            len: 0,
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends. Waits when many leaves are on their way to the disk.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            bytes = self.fill(bytes);
            if self.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Takes as many bytes as belong to the current leaf, and gives back the rest.
    pub(super) fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let room = &bytes[..bytes.len().min(CHUNK - self.leaf.len())];
        let cut = self.cuts.as_mut().and_then(|cuts| cuts.cut(room));
        self.at_cut = cut.is_some();
        let (now, later) = bytes.split_at(cut.unwrap_or(room.len()));
        self.leaf.extend_from_slice(now);
        self.len += now.len() as u64;
        later
    }

    /// Whether the current leaf must be [flushed](Self::flush) before more is filled in.
    pub(super) fn is_full(&self) -> bool {
        self.leaf.len() == CHUNK || self.at_cut
    }

    /// Sends the current leaf off to be hashed and written.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        // After one full leaf another is likely: no need to grow to it by doubling.
        let next = BytesMut::with_capacity(if self.is_full() { CHUNK } else { 0 });
        let leaf = std::mem::replace(&mut self.leaf, next).freeze();
        let putting = AbortOnDropHandle::new(tokio::spawn(put_leaf(self.to.clone(), leaf)));
        let ends_chunk = std::mem::take(&mut self.at_cut);
        self.leaves.push_back(Leaf { putting, ends_chunk });
        if self.leaves.len() >= IN_FLIGHT {
            self.take_leaf().await?;
        }
        Ok(())
    }

    /// Ends the file and names it. In the durable tier it is on the disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub async fn finish(self) -> Result<FileRef, StoreError> {
        let (file, _) = self.finish_chunks().await?;
        Ok(file)
    }

    /// As [`FileBuilder::finish`], and gives the file's chunks, the one of an empty file too.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub async fn finish_chunks(mut self) -> Result<(FileRef, Vec<Chunk>), StoreError> {
        if !self.leaf.is_empty() || self.len == 0 {
            self.flush().await?;
        }
        while !self.leaves.is_empty() {
            self.take_leaf().await?;
        }
        self.end_chunk().await?;
        let root = self.file.finish(&self.to).await?.expect("a file has one leaf at least");
        Ok((FileRef { cid: root.cid, len: root.len }, self.chunks))
    }

    async fn take_leaf(&mut self) -> Result<(), StoreError> {
        let Some(Leaf { putting, ends_chunk }) = self.leaves.pop_front() else { return Ok(()) };
        let leaf = putting.await.map_err(|panicked| StoreError::Io {
            action: "write a leaf",
            source: io::Error::other(panicked),
        })??;
        self.chunk.append(leaf, &self.to).await?;
        if ends_chunk { self.end_chunk().await } else { Ok(()) }
    }

    /// Ends the current chunk, if it has begun.
    async fn end_chunk(&mut self) -> Result<(), StoreError> {
        let Some(chunk) = self.chunk.finish(&self.to).await? else { return Ok(()) };
        self.chunks.push(Chunk { len: chunk.len, name: chunk.cid });
        self.file.append(chunk, &self.to).await
    }
}

/// The nodes of a balanced tree that have no parent yet: leaves, their parents, and so on.
#[derive(Default)]
struct Levels(Vec<Vec<Child>>);

impl Levels {
    /// Takes the next leaf.
    async fn append(&mut self, leaf: Child, to: &Destination) -> Result<(), StoreError> {
        self.push(0, leaf);
        let mut level = 0;
        while self.0[level].len() == WIDTH {
            self.close(level, to).await?;
            level += 1;
        }
        Ok(())
    }

    /// Ends the tree, and begins another: its root, if it has a leaf.
    async fn finish(&mut self, to: &Destination) -> Result<Option<Child>, StoreError> {
        // What is left at each level becomes a node of the next, up to the single one at the top.
        let mut level = 0;
        while level + 1 < self.0.len() || self.0.get(level).is_some_and(|top| top.len() > 1) {
            self.close(level, to).await?;
            level += 1;
        }
        let top = std::mem::take(&mut self.0).pop();
        Ok(top.and_then(|mut top| top.pop()))
    }

    /// Makes a node of what is at `level`, if anything is, and appends it to the next.
    async fn close(&mut self, level: usize, to: &Destination) -> Result<(), StoreError> {
        let children = std::mem::take(&mut self.0[level]);
        if children.is_empty() {
            return Ok(());
        }
        let lens: Vec<u64> = children.iter().map(|child| child.len).collect();
        let len = lens.iter().sum();
        let mut dag_size = children.iter().map(|child| child.dag_size).sum();
        let link =
            |child: Child| Link { cid: child.cid, name: String::new(), dag_size: child.dag_size };
        let links = children.into_iter().map(link).collect();
        let block =
            Block::dag_pb(Node { links, data: Entry::inner(lens).encode() }.encode().into());
        put(to, &block).await?;
        dag_size += block.len();
        self.push(level + 1, Child { cid: block.cid(), len, dag_size });
        Ok(())
    }

    fn push(&mut self, level: usize, child: Child) {
        if level == self.0.len() {
            self.0.push(Vec::new());
        }
        self.0[level].push(child);
    }
}

async fn put_leaf(to: Destination, leaf: Bytes) -> Result<Child, StoreError> {
    let hashed = tokio::task::spawn_blocking(move || Block::raw(leaf)).await;
    let block = hashed.map_err(|panicked| StoreError::Io {
        action: "hash a leaf",
        source: io::Error::other(panicked),
    })?;
    put(&to, &block).await?;
    Ok(Child { cid: block.cid(), len: block.len(), dag_size: block.len() })
}

async fn put(to: &Destination, block: &Block) -> Result<(), StoreError> {
    match to {
        Some(add) => add.put(block).await,
        None => Ok(()),
    }
}
