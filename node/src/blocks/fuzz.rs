//! The decoders of blocks: of frames between nodes, of nodes of trees, and of whole trees that lie.

#![allow(clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ipdc_jobs::chunk::RecordKind;
use ipdc_jobs::fuzz::Decoder;
use ipdc_jobs::ids::{CODEC_DAG_PB, Cid, FileRef, cid_of};
use tokio::runtime::{Builder, Runtime};

use super::block::Block;
use super::fetch::FetchError;
use super::tables;
use super::unixfs::dagpb::{Entry, Kind, Link, Node};
use super::unixfs::dir::{self, Room};
use super::unixfs::{self, FileReader, Source};
use super::{bitswap, car, exchange};

/// What a listing may take of memory: a node has more, and takes longer until that is full.
const LISTING: usize = 1 << 20;

pub(crate) fn decoders() -> Vec<Decoder> {
    let mut decoders = exchange::fuzz::decoders();
    decoders.extend(bitswap::fuzz::decoders());
    decoders.extend(car::fuzz::decoders());
    decoders.extend([
        Decoder { name: "dag_pb", decode: dag_pb, seeds: dag_pb_seeds },
        Decoder { name: "unixfs", decode: entry, seeds: entry_seeds },
        Decoder { name: "tree", decode: tree, seeds: tree_seeds },
    ]);
    decoders
}

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().build().expect("a runtime without I/O");
}

/// Waits for what waits for nothing outside this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// A block as it came from a peer.
fn dag_pb(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let block = Block::dag_pb(bytes.clone());
    let _ = (unixfs::links(&block), unixfs::Parsed::of(&block).map(|parsed| parsed.file_len()));
    if let Ok(node) = Node::decode(&bytes) {
        let again = Node::decode(&node.encode().into());
        assert_eq!(again.as_ref(), Ok(&node));
        let _ = Entry::decode(&node.data);
    }
}

fn dag_pb_seeds() -> Vec<Vec<u8>> {
    let leaf = Block::raw(Bytes::from_static(b"leaf"));
    let link = |name: &str| Link { cid: leaf.cid(), name: name.to_owned(), dag_size: leaf.len() };
    let file = Node { links: vec![link(""), link("")], data: Entry::inner(vec![4, 4]).encode() };
    let directory = Node { links: vec![link("a"), link("b")], data: Entry::directory().encode() };
    vec![file.encode(), directory.encode()]
}

/// The UnixFS part of one.
fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(Entry::decode(&entry.encode()).as_ref(), Ok(&entry));
    }
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let shard = Entry { kind: Kind::HamtShard, fanout: Some(256), ..Entry::directory() };
    let file = Entry { data: Bytes::from_static(b"inline"), ..Entry::inner(vec![1, 2]) };
    [Entry::directory(), shard, file].map(|entry| entry.encode().to_vec()).into()
}

/// The blocks of a tree.
#[derive(Clone)]
struct Blocks(Arc<HashMap<Cid, Block>>);

impl Source for Blocks {
    async fn get(&self, cid: &Cid) -> Result<Block, FetchError> {
        self.0.get(cid).cloned().ok_or_else(|| FetchError::not_here(*cid))
    }
}

/// Looks at a tree in all ways there are. Its blocks are what they are called: it is what they say of
/// each other that may be wrong. Blocks are built from `bytes`, each of those before it.
fn tree(bytes: &[u8]) {
    let Some((blocks, root)) = build(bytes) else { return };
    block_on(async {
        let room = || Room::of(LISTING);
        let _ = dir::files_in(&blocks, root, &mut room()).await;
        let _ = dir::ls_in(&blocks, root, &mut room()).await;
        let get = async |cid: Cid| Ok(Some(blocks.get(&cid).await?));
        let _ = unixfs::walk(root, 4, get, |_| {}).await;
        let Ok(Some(file)) = unixfs::stat(&blocks, root).await else { return };
        let _ = tables::of_tree(&blocks, &file, RecordKind::Lines).await;
        let _ = tables::of_tree(&blocks, &file, RecordKind::Csv).await;
        read(&blocks, &file).await;
    });
}

/// Reads here and there, and then from the beginning on.
async fn read(blocks: &Blocks, file: &FileRef) {
    /// What is looked at of a file that says it is long.
    const ENOUGH: u64 = 1 << 16;
    let Ok(mut reader) = FileReader::open_file(blocks.clone(), file).await else { return };
    for at in [file.len / 2, file.len.saturating_sub(1), u64::MAX] {
        let _ = reader.read_at(at, 100).await;
    }
    let mut at = 0;
    while at < file.len.min(ENOUGH) {
        match reader.read_at(at, 1 << 20).await {
            Ok(read) => {
                assert!(!read.is_empty(), "nothing at {at} of {}", file.len);
                at += read.len() as u64;
            }
            Err(_) => return,
        }
    }
}

/// Each block is `[what][number of links][size of what is below each, a link]…[length][bytes]`, links
/// being to those before it, the last first; a byte of `what` chooses its kind, and whether sizes are
/// so many bytes or powers of two.
fn build(mut bytes: &[u8]) -> Option<(Blocks, Cid)> {
    const NAMES: [&str; 4] = ["", "a", "00", "0Fx"];
    let mut take = move |n: usize| {
        let (taken, rest) = bytes.split_at_checked(n)?;
        bytes = rest;
        Some(taken)
    };
    let mut made: Vec<Block> = Vec::new();
    while let Some(&[what, count]) = take(2) {
        let (mut links, mut block_sizes) = (Vec::new(), Vec::new());
        for n in 0..usize::from(count % 16) {
            let &[size] = take(1)? else { return None };
            let below = made.iter().rev().nth(n % 3).or(made.last());
            let cid = below.map_or(cid_of(CODEC_DAG_PB, b"not there"), Block::cid);
            let size = u64::from(size);
            let size = if what & 0x80 == 0 { size } else { 1 << (size % 64) };
            let name = NAMES[(usize::from(what >> 5) + n) % 4].to_owned();
            links.push(Link { cid, name, dag_size: size });
            block_sizes.push(size);
        }
        let &[len] = take(1)? else { return None };
        let data = Bytes::copy_from_slice(take(len.into())?);
        let kinds = [
            Kind::Raw,
            Kind::Directory,
            Kind::File,
            Kind::File,
            Kind::File,
            Kind::Metadata,
            Kind::Symlink,
            Kind::HamtShard,
        ];
        made.push(if count == 0xff {
            Block::raw(data)
        } else {
            let kind = kinds[usize::from(what) % 8];
            let len = (what & 0x10 != 0)
                .then(|| block_sizes.iter().copied().fold(data.len() as u64, u64::saturating_add));
            let entry = Entry { kind, data, len, block_sizes, fanout: Some(256) };
            Block::dag_pb(Node { links, data: entry.encode() }.encode().into())
        });
    }
    let root = made.last()?.cid();
    let blocks = made.into_iter().map(|block| (block.cid(), block)).collect();
    Some((Blocks(Arc::new(blocks)), root))
}

fn tree_seeds() -> Vec<Vec<u8>> {
    let leaf = |bytes: &[u8]| [&[0, 0xff][..], &[0; 15], &[bytes.len() as u8], bytes].concat();
    let node = |what: u8, sizes: &[u8]| [&[what, sizes.len() as u8], sizes, &[0]].concat();
    let file = [leaf(b"one\n"), leaf(b"two\n"), node(2, &[4, 4]), node(2, &[8])].concat();
    let directory = [leaf(b"one\n"), node(2, &[4]), node(0x21, &[4]), node(0x21, &[9, 9])].concat();
    let shards = [leaf(b"one\n"), node(2, &[4]), node(0x67, &[4]), node(0x47, &[9])].concat();
    // Each directory in the next one three times, or shard, or part of a file, forty deep.
    let deep = |what: u8| [leaf(b"one\n"), node(what, &[4; 3]).repeat(40)].concat();
    let vast = [leaf(b"x"), node(0x82, &[63, 63, 63]), node(0x92, &[62, 1])].concat();
    vec![file, directory, shards, deep(0x21), deep(0x47), deep(2), vast]
}
