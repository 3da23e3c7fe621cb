//! Building a file's tree while its bytes come in.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use ipdc_jobs::ids::{Cid, FileRef};
use tokio_util::task::AbortOnDropHandle;

use super::dagpb::{Entry, Link, Node};
use crate::blocks::block::{Block, CHUNK};
use crate::blocks::store::{Add, StoreError};

/// Links of a node: Kubo's number, so that the CIDs are Kubo's.
const WIDTH: usize = 174;

/// Leaves that are hashed and written at the same time, and so the builder's memory in MiB. Enough to
/// keep four cores and one disk busy.
const IN_FLIGHT: usize = 8;

/// Builds one file. Its leaves are hashed and put in parallel; what a crash or a drop leaves behind
/// is unpinned blocks.
pub struct FileBuilder {
    add: Add,
    chunk: BytesMut,
    leaves: VecDeque<AbortOnDropHandle<Result<Child, StoreError>>>,
    /// Nodes without a parent yet: leaves, their parents, and so on.
    levels: Vec<Vec<Child>>,
    len: u64,
}

/// A finished subtree.
struct Child {
    cid: Cid,
    len: u64,
    dag_size: u64,
}

impl FileBuilder {
    /// A builder of a file whose blocks go where `add` puts them.
    #[must_use]
    pub fn new(add: Add) -> FileBuilder {
        let (leaves, levels) = (VecDeque::new(), Vec::new());
        FileBuilder { add, chunk: BytesMut::new(), leaves, levels, len: 0 }
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

    /// Takes as many bytes as the current leaf has room for, and gives back the rest.
    pub(super) fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
        self.chunk.extend_from_slice(now);
        self.len += now.len() as u64;
        later
    }

    /// Whether the current leaf must be [flushed](Self::flush) before more is filled in.
    pub(super) fn is_full(&self) -> bool {
        self.chunk.len() == CHUNK
    }

    /// Sends the current leaf off to be hashed and written.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        // After one full leaf another is likely: no need to grow to it by doubling.
        let next = BytesMut::with_capacity(if self.is_full() { CHUNK } else { 0 });
        let leaf = std::mem::replace(&mut self.chunk, next).freeze();
        self.leaves.push_back(AbortOnDropHandle::new(tokio::spawn(put(self.add.clone(), leaf))));
        if self.leaves.len() >= IN_FLIGHT {
            self.take_leaf().await?;
        }
        Ok(())
    }

    /// Ends the file and names it. In the durable tier it is on the disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub async fn finish(mut self) -> Result<FileRef, StoreError> {
        if !self.chunk.is_empty() || self.len == 0 {
            self.flush().await?;
        }
        while !self.leaves.is_empty() {
            self.take_leaf().await?;
        }
        // What is left at each level becomes a node of the next, up to the single one at the top.
        let mut level = 0;
        while level + 1 < self.levels.len() || self.levels[level].len() > 1 {
            self.close(level).await?;
            level += 1;
        }
        let root = self.levels[level].pop().expect("a file has one leaf at least");
        Ok(FileRef { cid: root.cid, len: root.len })
    }

    async fn take_leaf(&mut self) -> Result<(), StoreError> {
        let Some(leaf) = self.leaves.pop_front() else { return Ok(()) };
        let leaf = leaf.await.map_err(|panicked| StoreError::Io {
            action: "write a leaf",
            source: io::Error::other(panicked),
        })??;
        self.append(0, leaf);
        let mut level = 0;
        while self.levels[level].len() == WIDTH {
            self.close(level).await?;
            level += 1;
        }
        Ok(())
    }

    /// Makes a node of what is at `level`, if anything is, and appends it to the next.
    async fn close(&mut self, level: usize) -> Result<(), StoreError> {
        let children = std::mem::take(&mut self.levels[level]);
        if children.is_empty() {
            return Ok(());
        }
        let lens: Vec<u64> = children.iter().map(|child| child.len).collect();
        let len = lens.iter().sum();
        let mut dag_size = children.iter().map(|child| child.dag_size).sum();
        let link = |child: Child| Link {
            cid: child.cid,
            name: String::new(),
            dag_size: child.dag_size,
        };
        let links = children.into_iter().map(link).collect();
        let block = Block::dag_pb(Node { links, data: Entry::inner(lens).encode() }.encode().into());
        self.add.put(&block).await?;
        dag_size += block.len();
        self.append(level + 1, Child { cid: block.cid(), len, dag_size });
        Ok(())
    }

    fn append(&mut self, level: usize, child: Child) {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(child);
    }
}

async fn put(add: Add, leaf: Bytes) -> Result<Child, StoreError> {
    let hashed = tokio::task::spawn_blocking(move || Block::raw(leaf)).await;
    let block = hashed.map_err(|panicked| StoreError::Io {
        action: "hash a leaf",
        source: io::Error::other(panicked),
    })?;
    add.put(&block).await?;
    Ok(Child { cid: block.cid(), len: block.len(), dag_size: block.len() })
}
