//! Split tables: the chunks of a file, from its name alone where that can be, else remembered, else
//! found by reading it once.
//!
//! A chunk is named by the CID that its bytes have as a file of their own, as [`FileBuilder`] builds
//! it. So the same bytes have the same name in any file, of whatever make, and where a file was
//! added by ipdc a chunk's name is also where it lies in the file's tree.

use ipdc_jobs::chunk::{Chunk, MIN, RecordKind, Table};
use ipdc_jobs::ids::{CODEC_RAW, FileRef};

use super::block::{CHUNK, key};
use super::unixfs::{self, FileBuilder, FileReader, Source};
use crate::state::{Db, StateError, chunks};

/// Bytes asked of a file that is read whole: so far ahead it is fetched.
const READ_AHEAD: usize = 8 << 20;

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
        let table = read(source, file, records).await?;
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
    use crate::blocks::store::tests::{World, world};
    use crate::blocks::store::{Add, Tier};
    use crate::blocks::unixfs::dagpb::{Entry, Link, Node};

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
