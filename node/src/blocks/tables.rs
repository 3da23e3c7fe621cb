//! Split tables: the chunks of a file, from its name or its tree's nodes where that can be, else
//! remembered, else found by reading it once.
//!
//! A chunk is named by the CID that its bytes have as a file of their own, as [`FileBuilder`] builds
//! it. So the same bytes have the same name in any file, of whatever make, and where a file was
//! added by ipdc a chunk's name is also where it lies in the file's tree.

use futures::{StreamExt as _, TryStreamExt as _};
use ipdc_jobs::chunk::{Chunk, MAX, MIN, RecordKind, Table};
use ipdc_jobs::ids::{CODEC_RAW, FileRef};

use super::block::{CHUNK, key};
use super::unixfs::{self, FileBuilder, FileReader, Parsed, Source};
use crate::state::{Db, StateError, chunks};

/// Bytes asked of a file that is read whole: so far ahead it is fetched.
const READ_AHEAD: usize = 8 << 20;

/// Nodes of a file's tree that are got at the same time.
const NODES_IN_FLIGHT: usize = 16;

/// The longest chunk that is known for one by its tree: the largest, and the rest of a long record.
/// Beyond, another program's file looks the same.
const SURE: u64 = MAX + (1 << 20);

/// The split tables of files. Clones share what is remembered.
#[derive(Clone)]
pub struct Tables {
    db: Db,
}

/// A file's chunks could not be told.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum TableError {
    /// It could not be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Read(#[from] unixfs::Error),
    /// What is remembered could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

impl Tables {
    /// The tables that `db` remembers.
    #[must_use]
    pub fn new(db: Db) -> Tables {
        Tables { db }
    }

    /// The chunks of whole `records` of `file`.
    ///
    /// # Errors
    /// When it must be read, and a block of it cannot be had.
    pub async fn of<S: Source>(
        &self,
        source: &S,
        file: &FileRef,
        records: RecordKind,
    ) -> Result<Table, TableError> {
        if let Some(table) = known(file) {
            return Ok(table);
        }
        let name = key(&file.cid);
        if let Some(table) = chunks::get(&self.db, name, records).await? {
            return Ok(table);
        }
        let table = match of_tree(source, file, records).await? {
            Some(table) => table,
            None => read(source, file, records).await?,
        };
        chunks::insert(&self.db, name, records, &table).await?;
        Ok(table)
    }

    /// Remembers the chunks of whole lines that `file` was built of, unless its name tells them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remember(&self, file: &FileRef, chunks: Vec<Chunk>) -> Result<(), StateError> {
        if known(file).is_some() {
            return Ok(());
        }
        let table = Table { chunks, subtrees: true };
        chunks::insert(&self.db, key(&file.cid), RecordKind::Lines, &table).await
    }
}

/// The chunks of a file that has none, or is one by its length and one block.
fn known(file: &FileRef) -> Option<Table> {
    const { assert!(CHUNK as u64 <= MIN, "a block's bytes are one chunk at most") };
    let name = key(&file.cid);
    let chunks = match file.len {
        0 => Vec::new(),
        len if len <= CHUNK as u64 && name.codec() == CODEC_RAW => vec![Chunk { len, name }],
        _ => return None,
    };
    Some(Table { chunks, subtrees: true })
}

/// The chunks of a file that ipdc added, here or elsewhere, read off the nodes of its tree; none when
/// that is not of the form. Should another program build such a tree over other cuts, whoever reads a
/// chunk finds out: it would not end a line.
pub(super) async fn of_tree<S: Source>(
    source: &S,
    file: &FileRef,
    records: RecordKind,
) -> Result<Option<Table>, unixfs::Error> {
    let root = Chunk { len: file.len, name: key(&file.cid) };
    let mut level = below(source, &[root]).await?.concat();
    // A file in the plain layout that may be one chunk is: its name is a chunk's whoever added it.
    let one_chunk = if records == RecordKind::Lines { MAX } else { MIN };
    if file.len <= one_chunk && are_leaves(&level) {
        return Ok(Some(Table { chunks: vec![root], subtrees: true }));
    }
    if records != RecordKind::Lines {
        return Ok(None);
    }
    // A level at a time, until its nodes are as long as chunks: all of these are at the same depth.
    loop {
        let Some((last, others @ [_, ..])) = level.split_last() else { return Ok(None) };
        if last.len <= SURE && others.iter().all(|node| (MIN..=SURE).contains(&node.len)) {
            break;
        }
        // Each node over chunks has two at least, but for the last; and so there are more below.
        if others.iter().any(|node| node.len < 2 * MIN) {
            return Ok(None);
        }
        level = below(source, &level).await?.concat();
    }
    let (single, inner): (Vec<Chunk>, Vec<Chunk>) =
        level.iter().partition(|chunk| chunk.name.codec() == CODEC_RAW);
    let leaves = below(source, &inner).await?;
    let is_ours = leaves.iter().chain([&single]).all(|leaves| are_leaves(leaves))
        && level.iter().map(|chunk| chunk.len).sum::<u64>() == file.len;
    Ok(is_ours.then_some(Table { chunks: level, subtrees: true }))
}

/// The children of each of these nodes of a file.
async fn below<S: Source>(source: &S, nodes: &[Chunk]) -> Result<Vec<Vec<Chunk>>, unixfs::Error> {
    let children = futures::stream::iter(nodes).map(async |node| {
        let parsed = Parsed::of(&source.get(&node.name).await?)?;
        let sizes = parsed.entry.block_sizes.into_iter();
        let child = |(len, link): (u64, unixfs::Link)| Chunk { len, name: key(&link.cid) };
        Ok::<_, unixfs::Error>(sizes.zip(parsed.links).map(child).collect::<Vec<_>>())
    });
    children.buffered(NODES_IN_FLIGHT).try_collect().await
}

/// Whether these are leaves as ipdc makes them: full, but for the last.
fn are_leaves(leaves: &[Chunk]) -> bool {
    let full = CHUNK as u64;
    let others = &leaves[..leaves.len().saturating_sub(1)];
    leaves.iter().all(|leaf| leaf.name.codec() == CODEC_RAW && leaf.len <= full)
        && others.iter().all(|leaf| leaf.len == full)
}

/// Reads the whole of `file` and names its chunks.
async fn read<S: Source>(
    source: &S,
    file: &FileRef,
    records: RecordKind,
) -> Result<Table, unixfs::Error> {
    let mut reader = FileReader::open_file(source.clone(), file).await?;
    let mut naming = FileBuilder::naming(records);
    while naming.len() < file.len {
        let bytes = reader.read_at(naming.len(), READ_AHEAD).await?;
        naming.write(&bytes).await?;
    }
    let (built, chunks) = naming.finish_chunks().await?;
    Ok(Table { chunks, subtrees: built.cid == key(&file.cid) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use ipdc_jobs::ids::JobId;

    use super::*;
    use crate::blocks::block::Block;
    use crate::blocks::fetch::FetchError;
    use crate::blocks::store::tests::{World, world};
    use crate::blocks::store::{Add, Tier};
    use crate::blocks::unixfs::Link;
    use crate::blocks::unixfs::dagpb::{Entry, Node};

    /// Lines, none twice.
    fn text(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut text = Vec::with_capacity(len + 100);
        while text.len() < len {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.extend_from_slice(format!("{state:x}, a line\n").as_bytes());
        }
        text
    }

    fn adding(world: &World) -> Add {
        world.store.add(Tier::Scratch(JobId::of_manifest(b"tables")))
    }

    async fn build(mut file: FileBuilder, bytes: &[u8]) -> (FileRef, Vec<Chunk>) {
        file.write(bytes).await.unwrap();
        file.finish_chunks().await.unwrap()
    }

    /// Adds a file as other programs do: leaves of 256 KiB, all below one node.
    async fn add_elsewhere(world: &World, bytes: &[u8]) -> FileRef {
        let (mut links, mut sizes) = (Vec::new(), Vec::new());
        for leaf in bytes.chunks(256 << 10) {
            let block = Block::raw(Bytes::copy_from_slice(leaf));
            adding(world).put(&block).await.unwrap();
            links.push(Link { cid: block.cid(), name: String::new(), dag_size: block.len() });
            sizes.push(block.len());
        }
        let node = Node { links, data: Entry::inner(sizes).encode() };
        let root = Block::dag_pb(node.encode().into());
        adding(world).put(&root).await.unwrap();
        FileRef { cid: root.cid(), len: bytes.len() as u64 }
    }

    #[tokio::test]
    async fn a_file_is_a_tree_over_chunks_that_are_files_of_their_own() {
        let world = world().await;
        let text = text(20 << 20);
        let (file, chunks) = build(FileBuilder::chunked(adding(&world)), &text).await;
        assert!((4..=8).contains(&chunks.len()), "{} chunks", chunks.len());
        let mut whole = FileReader::open_file(world.store.clone(), &file).await.unwrap();
        let mut start = 0;
        for chunk in chunks {
            let bytes = &text[start..start + chunk.len as usize];
            assert!(bytes.ends_with(b"\n"));
            let (alone, _) = build(FileBuilder::new(adding(&world)), bytes).await;
            assert_eq!(alone, FileRef { cid: chunk.name, len: chunk.len });
            let mut part = FileReader::open_file(world.store.clone(), &alone).await.unwrap();
            let (here, there) = (
                part.read_at(0, 100).await.unwrap(),
                whole.read_at(start as u64, 100).await.unwrap(),
            );
            assert_eq!(here, there);
            start += chunk.len as usize;
        }
        assert_eq!(start, text.len());
    }

    #[tokio::test]
    async fn a_file_has_the_same_chunks_whoever_added_it() {
        let world = world().await;
        let tables = Tables::new(Db::in_memory().unwrap());
        let text = text(20 << 20);
        let (ours, chunks) = build(FileBuilder::chunked(adding(&world)), &text).await;
        let theirs = add_elsewhere(&world, &text).await;
        assert_ne!(ours.cid, theirs.cid);
        let lines = RecordKind::Lines;
        let table = tables.of(&world.store, &theirs, lines).await.unwrap();
        assert_eq!(table, Table { chunks: chunks.clone(), subtrees: false });
        // It is enough to have read the file to know it for ours.
        let table = tables.of(&world.store, &ours, lines).await.unwrap();
        assert_eq!(table, Table { chunks, subtrees: true });
        // Other records, other chunks; of as many bytes.
        let fixed = tables.of(&world.store, &ours, RecordKind::Fixed(7)).await.unwrap();
        assert!(!fixed.subtrees);
        assert_eq!(fixed.chunks.iter().map(|chunk| chunk.len).sum::<u64>(), ours.len);
    }

    /// A source that has a file's nodes but none of its bytes.
    #[derive(Clone)]
    struct NodesOnly(crate::blocks::store::Store);

    impl Source for NodesOnly {
        async fn get(&self, cid: &ipdc_jobs::ids::Cid) -> Result<Block, FetchError> {
            match cid.codec() {
                CODEC_RAW => Err(FetchError::not_here(*cid)),
                _ => Source::get(&self.0, cid).await,
            }
        }
    }

    #[tokio::test]
    async fn a_node_that_did_not_add_a_file_tells_its_chunks_without_reading_it() {
        let world = world().await;
        let nodes = NodesOnly(world.store.clone());
        let lines = RecordKind::Lines;
        let text = text(20 << 20);
        let (file, chunks) = build(FileBuilder::chunked(adding(&world)), &text).await;
        let elsewhere = Tables::new(Db::in_memory().unwrap());
        let table = elsewhere.of(&nodes, &file, lines).await.unwrap();
        assert_eq!(table, Table { chunks, subtrees: true });
        let (small, _) = build(FileBuilder::new(adding(&world)), &text[..5 << 20]).await;
        let table = elsewhere.of(&nodes, &small, lines).await.unwrap();
        let chunk = Chunk { len: small.len, name: small.cid };
        assert_eq!(table, Table { chunks: vec![chunk], subtrees: true });
        // What may be another's is read, and so it is here.
        let (plain, _) = build(FileBuilder::new(adding(&world)), &text).await;
        for other in [plain, add_elsewhere(&world, &text).await] {
            let unread = elsewhere.of(&nodes, &other, lines).await;
            assert!(matches!(unread, Err(TableError::Read(_))), "{unread:?}");
        }
    }

    #[tokio::test]
    async fn what_was_added_or_read_once_is_not_read_again() {
        let world = world().await;
        let nobody = world.store.clone();
        let tables = Tables::new(Db::in_memory().unwrap());
        let lines = RecordKind::Lines;
        let text = text(5 << 20);
        // Built, and kept nowhere.
        let (file, chunks) = build(FileBuilder::naming(lines), &text).await;
        let missing = tables.of(&nobody, &file, lines).await;
        assert!(matches!(missing, Err(TableError::Read(unixfs::Error::Fetch(_)))));
        tables.remember(&file, chunks.clone()).await.unwrap();
        let table = tables.of(&nobody, &file, lines).await.unwrap();
        assert_eq!(table, Table { chunks, subtrees: true });
    }

    #[tokio::test]
    async fn a_file_of_one_block_or_none_tells_its_chunks_by_its_name() {
        let nobody = world().await.store;
        let tables = Tables::new(Db::in_memory().unwrap());
        for len in [0, 1, CHUNK] {
            let bytes = vec![b'x'; len];
            let (file, _) = build(FileBuilder::naming(RecordKind::Lines), &bytes).await;
            let table = tables.of(&nobody, &file, RecordKind::Csv).await.unwrap();
            let chunk = Chunk { len: len as u64, name: file.cid };
            assert_eq!(table.chunks, if len == 0 { vec![] } else { vec![chunk] });
        }
    }
}
