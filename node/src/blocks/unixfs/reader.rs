//! Reading a file's bytes anywhere in it, of any make.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use ipdc_jobs::ids::{Cid, FileRef};
use tokio_util::task::AbortOnDropHandle;

use super::Malformed;
use super::{DEPTH_LIMIT, Error, Parsed, Source};
use crate::blocks::block::Block;
use crate::blocks::fetch::FetchError;

/// Blocks that are got ahead of a reader that reads on, and so its memory in MiB. At 240 MB/s and
/// 30 ms to the peer, seven are on their way at a time.
const AHEAD: usize = 8;

/// Reads one file, and gets ahead what is about to be read.
pub struct FileReader<S> {
    source: S,
    len: u64,
    /// The nodes from the root down to the one read last.
    path: Vec<Level>,
    ahead: HashMap<Cid, AbortOnDropHandle<Result<Block, FetchError>>>,
    /// The piece read last and where in the file it begins: most reads need no block.
    held: (u64, Bytes),
}

/// A node on the way from the root, and where in the file it begins.
struct Level {
    node: Arc<FileNode>,
    start: u64,
}

/// A node of a file: first its own bytes, then its children's.
struct FileNode {
    data: Bytes,
    children: Vec<Child>,
}

struct Child {
    cid: Cid,
    /// The file bytes it holds, counted from where its parent begins.
    range: Range<u64>,
}

impl FileNode {
    fn of(block: &Block) -> Result<FileNode, Error> {
        let parsed = Parsed::of(block)?;
        let malformed = |why| Error::Form { cid: block.cid(), why: Malformed(why) };
        let len = parsed.file_len().ok_or(Error::NotAFile(block.cid()))?;
        if parsed.entry.len.is_some_and(|said| said != len) {
            return Err(malformed("its parts are not as long as the whole"));
        }
        if parsed.links.len() != parsed.entry.block_sizes.len() {
            return Err(malformed("it has not one size a link"));
        }
        let mut end = parsed.entry.data.len() as u64;
        let mut children = Vec::with_capacity(parsed.links.len());
        for (link, size) in parsed.links.iter().zip(&parsed.entry.block_sizes) {
            let start = end;
            end = end.checked_add(*size).ok_or(malformed("its length has no end"))?;
            children.push(Child { cid: link.cid, range: start..end });
        }
        Ok(FileNode { data: parsed.entry.data, children })
    }

    fn len(&self) -> u64 {
        self.children.last().map_or(self.data.len() as u64, |child| child.range.end)
    }

    /// The child that holds the byte at `at`, counted from where the node begins.
    fn child_at(&self, at: u64) -> usize {
        self.children.partition_point(|child| child.range.end <= at)
    }
}

impl<S: Source> FileReader<S> {
    /// A reader of the file at `cid`.
    ///
    /// # Errors
    /// When its root block cannot be had or is no file.
    pub async fn open(source: S, cid: Cid) -> Result<FileReader<S>, Error> {
        let node = FileNode::of(&source.get(&cid).await?)?;
        let len = node.len();
        let path = vec![Level { node: Arc::new(node), start: 0 }];
        Ok(FileReader { source, len, path, ahead: HashMap::new(), held: (0, Bytes::new()) })
    }

    /// A reader of `file`, whose length must be as said.
    ///
    /// # Errors
    /// As [`FileReader::open`], and when the length is another.
    pub async fn open_file(source: S, file: &FileRef) -> Result<FileReader<S>, Error> {
        let reader = FileReader::open(source, file.cid).await?;
        if reader.len != file.len {
            let (found, said) = (reader.len, file.len);
            return Err(Error::Length { cid: file.cid, found, said });
        }
        Ok(reader)
    }

    /// The file's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Up to `want` bytes from `offset`, at least one unless `want` is 0 or `offset` is at the
    /// end or behind: what one block holds, shared with it and not copied. The blocks that the rest
    /// of `want` lies in are got ahead, and when the reader reads on, one more.
    ///
    /// # Errors
    /// When a block cannot be had or is no part of a file.
    pub async fn read_at(&mut self, offset: u64, want: usize) -> Result<Bytes, Error> {
        if offset >= self.len || want == 0 {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.held(offset, want) {
            return Ok(bytes);
        }
        let reads_on = offset == self.held.0 + self.held.1.len() as u64;
        if !reads_on {
            self.ahead.clear();
        }
        let end = offset.saturating_add(want as u64);
        let piece = self.piece(offset, end, reads_on).await?;
        self.held = (offset, piece.clone());
        Ok(piece.slice(..piece.len().min(want)))
    }

    /// The bytes of a range of the file, piece by piece, at most `want` at a time.
    pub fn stream(
        self,
        range: Range<u64>,
        want: usize,
    ) -> impl Stream<Item = Result<Bytes, Error>> + use<S> {
        stream::try_unfold((self, range), move |(mut file, range)| async move {
            let left = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(want);
            let bytes = file.read_at(range.start, want.min(left)).await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let rest = range.start + bytes.len() as u64..range.end;
            Ok(Some((bytes, (file, rest))))
        })
    }

    /// What [`FileReader::read_at`] would give without waiting.
    pub(super) fn held(&self, offset: u64, want: usize) -> Option<Bytes> {
        let (start, piece) = &self.held;
        let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
        (at < piece.len()).then(|| piece.slice(at..piece.len().min(at.saturating_add(want))))
    }

    /// The whole rest of one block from `offset` on.
    async fn piece(&mut self, offset: u64, end: u64, reads_on: bool) -> Result<Bytes, Error> {
        // Up to the deepest node of the last path that holds the offset; the root holds all.
        while let Some(level) = self.path.last()
            && self.path.len() > 1
            && !(level.start..level.start + level.node.len()).contains(&offset)
        {
            self.path.pop();
        }
        loop {
            let level = self.path.last().expect("the root is never popped");
            let (node, start) = (level.node.clone(), level.start);
            let at = offset - start;
            if let Some(rest) = usize::try_from(at).ok().filter(|at| *at < node.data.len()) {
                return Ok(node.data.slice(rest..));
            }
            let index = node.child_at(at);
            let child = &node.children[index];
            if self.path.len() >= DEPTH_LIMIT {
                return Err(Error::Limit { what: "a file tree deeper", limit: DEPTH_LIMIT });
            }
            let later = &node.children[index + 1..];
            let wanted = later.iter().take_while(|child| start + child.range.start < end).count();
            let coming = later.len().min(wanted.max(usize::from(reads_on)));
            self.get_ahead(&later[..coming]);
            let block = self.block(&child.cid).await?;
            let below = FileNode::of(&block)?;
            if below.len() != child.range.end - child.range.start {
                let why = Malformed("it is not as long as its parent says");
                return Err(Error::Form { cid: child.cid, why });
            }
            let start = start + child.range.start;
            if below.children.is_empty() {
                // A leaf: no need to keep it on the path.
                let rest = usize::try_from(offset - start).expect("less than a block's length");
                return Ok(below.data.slice(rest..));
            }
            self.path.push(Level { node: Arc::new(below), start });
        }
    }

    async fn block(&mut self, cid: &Cid) -> Result<Block, FetchError> {
        match self.ahead.remove(cid) {
            Some(coming) => coming.await.unwrap_or_else(|panicked| {
                let source = io::Error::other(panicked);
                Err(crate::blocks::store::StoreError::Io { action: "read ahead", source }.into())
            }),
            None => self.source.get(cid).await,
        }
    }

    fn get_ahead(&mut self, children: &[Child]) {
        for child in children {
            if self.ahead.len() >= AHEAD {
                break;
            }
            let (source, cid) = (self.source.clone(), child.cid);
            self.ahead.entry(cid).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(async move { source.get(&cid).await }))
            });
        }
    }
}
