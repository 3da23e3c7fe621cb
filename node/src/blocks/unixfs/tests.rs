#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ipdc_jobs::ids::{CODEC_RAW, JobId, cid_of};
use ipdc_jobs::kind::{FileWriter as _, Tree as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::blocks::block::CHUNK;
use crate::blocks::store::tests::{World, world};
use crate::blocks::store::{Add, Tier};
use crate::blocks::tables::Tables;
use crate::state::Db;

/// The bytes that the reference CIDs below were made of.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + (i >> 8) * 13 + (i >> 16) * 31) as u8).collect()
}

fn scratch(world: &World) -> Add {
    world.store.add(Tier::Scratch(JobId::of_manifest(b"unixfs")))
}

async fn add(add: &Add, bytes: &[u8]) -> FileRef {
    let mut file = FileBuilder::new(add.clone());
    file.write(bytes).await.unwrap();
    file.finish().await.unwrap()
}

async fn read_all<S: Source>(source: &S, file: &FileRef) -> Vec<u8> {
    let mut reader = FileReader::open_file(source.clone(), file).await.unwrap();
    let mut all = Vec::new();
    loop {
        let bytes = reader.read_at(all.len() as u64, usize::MAX).await.unwrap();
        if bytes.is_empty() {
            return all;
        }
        all.extend_from_slice(&bytes);
    }
}

// Made with ipfs-unixfs-importer 17 and, where it says so, Kubo's own library.
const REFERENCE: [(usize, &str); 6] = [
    (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
    (CHUNK - 1, "bafkreifkctdfnvangsgg4p24sk66dynxh2qy7odcgpwbmymctc4wv2d45m"),
    (CHUNK, "bafkreid2jiargr6modzcmb2pudusdidp2dj7sbkx2r6vjyncvat745qc7i"),
    (CHUNK + 1, "bafybeiclbdq2x6etkfs5cg4asal2blpl36i6v3gumywudplpgh4nvyaycq"),
    (5 * CHUNK + 123, "bafybeidzzrcsz6n3qt52ytfcjsrjqyjuebtfgdvakm5vj7l3sxadxgzwom"),
];

#[tokio::test]
async fn files_of_every_size_have_the_reference_cids_and_read_back() {
    let world = world().await;
    for (len, cid) in REFERENCE {
        let bytes = pattern(len);
        let file = add(&scratch(&world), &bytes).await;
        assert_eq!((file.cid.to_string().as_str(), file.len), (cid, len as u64));
        assert!(read_all(&world.store, &file).await == bytes, "{len} bytes read back otherwise");
    }
}

#[tokio::test]
async fn a_full_node_and_one_leaf_more_have_the_reference_cids() {
    let world = world().await;
    let zeros = vec![0; CHUNK];
    let mut full = FileBuilder::new(scratch(&world));
    let mut more = FileBuilder::new(scratch(&world));
    for n in 0..175 {
        if n < 174 {
            full.write(&zeros).await.unwrap();
        }
        more.write(&zeros).await.unwrap();
    }
    more.write(&[0]).await.unwrap();
    let (full, more) = (full.finish().await.unwrap(), more.finish().await.unwrap());
    let expected = "bafybeiehkrmqsoci5u5g4pzahfhb64hzyg4wtn62vjewazp5zjcngoifca";
    assert_eq!(full.cid.to_string(), expected);
    let expected = "bafybeiarb5j65kwkfsc74mfoirm43ql352a4nz4s36pyfkkc4z3zkben54";
    assert_eq!(more.cid.to_string(), expected);
    // The last byte lies under another node than the rest.
    let mut reader = FileReader::open(world.store.clone(), more.cid).await.unwrap();
    assert_eq!(reader.read_at(175 << 20, 9).await.unwrap(), [0].as_slice());
    assert_eq!(reader.read_at(3, 9).await.unwrap().len(), 9);
}

#[tokio::test]
async fn ranges_read_the_bytes_they_name() {
    let world = world().await;
    let bytes = pattern(3 * CHUNK + 77);
    let file = add(&scratch(&world), &bytes).await;
    let mut reader = FileReader::open_file(world.store.clone(), &file).await.unwrap();
    let offsets = [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5, 3 * CHUNK + 76, 7, 3 * CHUNK];
    for offset in offsets {
        for want in [1, 100, CHUNK, usize::MAX] {
            let read = reader.read_at(offset as u64, want).await.unwrap();
            assert!(!read.is_empty() && read.len() <= want);
            assert!(read == bytes[offset..offset + read.len()], "at {offset}");
        }
    }
    assert!(reader.read_at(file.len, 1).await.unwrap().is_empty());
    assert!(reader.read_at(u64::MAX, usize::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_kubo_added_by_its_defaults_reads_back() {
    let world = world().await;
    let bytes = pattern(700_000);
    let v0 = |block: &Block| Cid::new_v0(*block.cid().hash()).unwrap();
    let (mut links, mut sizes) = (Vec::new(), Vec::new());
    let adding = scratch(&world);
    for chunk in bytes.chunks(262_144) {
        let (data, len) = (Bytes::copy_from_slice(chunk), Some(chunk.len() as u64));
        let leaf = Entry { kind: Kind::File, data, len, block_sizes: Vec::new(), fanout: None };
        let node = Node { links: Vec::new(), data: leaf.encode() };
        let leaf = Block::dag_pb(node.encode().into());
        adding.put(&leaf).await.unwrap();
        links.push(dagpb::Link { cid: v0(&leaf), name: String::new(), dag_size: leaf.len() });
        sizes.push(chunk.len() as u64);
    }
    let root = Block::dag_pb(Node { links, data: Entry::inner(sizes).encode() }.encode().into());
    adding.put(&root).await.unwrap();
    // Kubo's library gives this name, and so does the importer.
    assert_eq!(v0(&root).to_string(), "QmZqAAhDg5FLwzx2jP49Z6tPeUsCwSyf1nCmSDVcxqW7oN");
    let file = stat(&world.store, v0(&root)).await.unwrap().unwrap();
    assert_eq!(file.len, 700_000);
    assert!(read_all(&world.store, &file).await == bytes);
}

#[tokio::test]
async fn a_directory_has_the_reference_cid_and_lists_what_is_in_it() {
    let world = world().await;
    let adding = scratch(&world);
    let a = add(&adding, b"hello\n").await;
    let b = add(&adding, &pattern(CHUNK + 1)).await;
    let z = add(&adding, b"").await;
    let entries = [("sub/b.bin", b), ("a.txt", a), ("sub/Z", z)];
    let entries = entries.map(|(path, file)| (path.to_owned(), file));
    let root = build_dir(&adding, &world.store, entries).await.unwrap();
    let expected = "bafybeifcl76xans4zb6mlkjjzynqezqfld674q357ym7xmyza6zgqaqvji";
    assert_eq!(root.to_string(), expected);

    let names = ls(&world.store, root).await.unwrap().into_iter().map(|entry| entry.name);
    assert_eq!(names.collect::<Vec<_>>(), ["a.txt", "sub"]);
    let all = files(&world.store, root).await.unwrap();
    let expected = [("a.txt", a), ("sub/Z", z), ("sub/b.bin", b)];
    assert_eq!(all, expected.map(|(path, file)| (path.to_owned(), file)));
    assert_eq!(resolve(&world.store, root, "sub/b.bin").await.unwrap(), b.cid);
    assert_eq!(resolve(&world.store, root, "").await.unwrap(), root);
    let nowhere = resolve(&world.store, root, "sub/c").await;
    assert!(matches!(nowhere, Err(Error::NotFound { .. })));
    assert!(matches!(ls(&world.store, b.cid).await, Err(Error::NotADirectory(_))));
    let not_a_file = FileReader::open(world.store.clone(), root).await;
    assert!(matches!(not_a_file, Err(Error::NotAFile(_))));
}

#[tokio::test]
async fn paths_that_lead_out_of_a_directory_are_refused() {
    let world = world().await;
    let adding = scratch(&world);
    let file = add(&adding, b"x").await;
    let long = "x".repeat(256);
    let deep = vec!["d"; 65].join("/");
    let unfit = ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".", "nul\0", &long, &deep];
    for path in unfit {
        let built = build_dir(&adding, &world.store, [(path.to_owned(), file)]).await;
        assert!(matches!(built, Err(Error::Path { .. })), "{path:?} was taken");
    }
    for (one, other) in [("a", "a"), ("a", "a/b"), ("a/b", "a")] {
        let both = [(one.to_owned(), file), (other.to_owned(), file)];
        let built = build_dir(&adding, &world.store, both).await;
        assert!(matches!(built, Err(Error::Path { .. })), "{one} beside {other} was taken");
    }
    // Nor are they believed when somebody else built the directory.
    for name in ["..", "a/b", ""] {
        let links = vec![dagpb::Link { cid: file.cid, name: name.into(), dag_size: 1 }];
        let node = Node { links, data: Entry::directory().encode() };
        let block = Block::dag_pb(node.encode().into());
        adding.put(&block).await.unwrap();
        assert!(matches!(ls(&world.store, block.cid()).await, Err(Error::Form { .. })));
    }
}

#[tokio::test]
async fn a_directory_too_big_for_a_block_is_refused() {
    let world = world().await;
    let adding = scratch(&world);
    let file = add(&adding, b"x").await;
    let entries = (0..12_000).map(|n| (format!("{n:060}"), file));
    let built = build_dir(&adding, &world.store, entries).await;
    assert!(matches!(built, Err(Error::Limit { .. })));
}

/// Blocks in memory, so that a test can leave some out or make some that no builder would.
#[derive(Clone, Default)]
struct Heap(Arc<Mutex<HashMap<Cid, Block>>>);

impl Heap {
    fn put(&self, block: Block) -> Cid {
        let cid = block.cid();
        self.0.lock().unwrap().insert(cid, block);
        cid
    }
}

impl Source for Heap {
    async fn get(&self, cid: &Cid) -> Result<Block, FetchError> {
        self.0.lock().unwrap().get(cid).cloned().ok_or_else(|| FetchError::not_here(*cid))
    }
}

#[tokio::test]
async fn a_sharded_directory_lists_the_names_of_all_its_shards() {
    let heap = Heap::default();
    let leaf = heap.put(Block::raw(Bytes::from_static(b"x")));
    let link = |name: &str, cid| dagpb::Link { cid, name: name.into(), dag_size: 1 };
    let shard = |links| {
        let entry = Entry { kind: Kind::HamtShard, fanout: Some(256), ..Entry::directory() };
        heap.put(Block::dag_pb(Node { links, data: entry.encode() }.encode().into()))
    };
    let below = shard(vec![link("0Dcherry", leaf), link("FFbanana", leaf)]);
    let root = shard(vec![link("00date", leaf), link("A1", below), link("A2apple", leaf)]);
    let names = ls(&heap, root).await.unwrap().into_iter().map(|entry| entry.name);
    assert_eq!(names.collect::<Vec<_>>(), ["apple", "banana", "cherry", "date"]);
    assert_eq!(resolve(&heap, root, "cherry").await.unwrap(), leaf);
    let broken = shard(vec![link("0", leaf)]);
    assert!(matches!(ls(&heap, broken).await, Err(Error::Form { .. })));
}

#[tokio::test]
async fn a_node_that_stands_in_very_many_places_is_not_listed_in_all_of_them() {
    let heap = Heap::default();
    let leaf = heap.put(Block::raw(Bytes::from_static(b"x")));
    let empty = heap.put(Block::dag_pb(
        Node { links: Vec::new(), data: Entry::directory().encode() }.encode().into(),
    ));
    let shard = Entry { kind: Kind::HamtShard, fanout: Some(256), ..Entry::directory() };
    // Each names the one before it three times, forty times over. Of directories without files nothing
    // but time would be used up.
    for (entry, mut below, names) in [
        (Entry::directory(), leaf, ["a", "b", "c"]),
        (Entry::directory(), empty, ["a", "b", "c"]),
        (shard, leaf, ["00", "01", "02"]),
    ] {
        for _ in 0..40 {
            let link = |name: &str| dagpb::Link { cid: below, name: name.into(), dag_size: 1 };
            let node = Node { links: names.map(link).into(), data: entry.encode() };
            below = heap.put(Block::dag_pb(node.encode().into()));
        }
        let listed = dir::files_in(&heap, below, &mut dir::Room::of(1 << 20)).await;
        assert!(matches!(listed, Err(Error::Limit { .. } | Error::Form { .. })), "{listed:?}");
    }
}

#[tokio::test]
async fn a_tree_that_lies_about_its_lengths_is_refused() {
    let heap = Heap::default();
    let leaf = heap.put(Block::raw(Bytes::from_static(b"four")));
    let file = |sizes: Vec<u64>, len| {
        let link = |_: &u64| dagpb::Link { cid: leaf, name: String::new(), dag_size: 4 };
        let links = sizes.iter().map(link).collect();
        let entry = Entry { len: Some(len), ..Entry::inner(sizes) };
        heap.put(Block::dag_pb(Node { links, data: entry.encode() }.encode().into()))
    };
    let sum_is_wrong = FileReader::open(heap.clone(), file(vec![4, 4], 9)).await;
    assert!(matches!(sum_is_wrong, Err(Error::Form { .. })));
    let mut leaf_is_short = FileReader::open(heap.clone(), file(vec![4, 5], 9)).await.unwrap();
    assert_eq!(leaf_is_short.read_at(0, 9).await.unwrap(), b"four".as_slice());
    assert!(matches!(leaf_is_short.read_at(4, 9).await, Err(Error::Form { .. })));
    let said = FileRef { cid: leaf, len: 5 };
    let other_length = FileReader::open_file(heap.clone(), &said).await;
    assert!(matches!(other_length, Err(Error::Length { found: 4, said: 5, .. })));
}

#[tokio::test]
async fn a_tree_that_never_reaches_its_leaves_is_refused() {
    let heap = Heap::default();
    let mut cid = heap.put(Block::raw(Bytes::from_static(b"x")));
    for _ in 0..DEPTH_LIMIT {
        let links = vec![dagpb::Link { cid, name: String::new(), dag_size: 1 }];
        let node = Node { links, data: Entry::inner(vec![1]).encode() };
        cid = heap.put(Block::dag_pb(node.encode().into()));
    }
    let mut reader = FileReader::open(heap.clone(), cid).await.unwrap();
    assert!(matches!(reader.read_at(0, 1).await, Err(Error::Limit { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_thread_writes_and_reads_and_stops() {
    let world = world().await;
    let stop = CancellationToken::new();
    let caller = Caller::new(tokio::runtime::Handle::current(), stop.clone());
    let (store, adding) = (world.store.clone(), scratch(&world));
    let tables = Tables::new(Db::in_memory().unwrap());
    let work = move || {
        let bytes = pattern(2 * CHUNK + 9);
        let writer = BlockingWriter::new(FileBuilder::new(adding), caller.clone());
        let mut writer = Box::new(writer);
        for part in bytes.chunks(1000) {
            writer.write(part).unwrap();
        }
        let file = writer.finish().unwrap();

        let tree = BlockingTree::new(store.clone(), file.cid, tables, caller.clone());
        assert_eq!(tree.files().unwrap(), [(String::new(), file)]);
        let mut reader = tree.open(&file).unwrap();
        let mut at = 0;
        while at < reader.len() {
            let read = reader.read_at(at, 70_000).unwrap();
            assert_eq!(read, bytes[at as usize..at as usize + read.len()]);
            at += read.len() as u64;
        }
        assert_eq!(at, bytes.len() as u64);

        let nowhere = FileRef { cid: cid_of(CODEC_RAW, b"nobody has this"), len: 15 };
        let missing = tree.open(&nowhere).map(|_| ()).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);

        stop.cancel();
        let stopped = reader.read_at(0, 1).unwrap_err();
        assert_eq!(stopped.kind(), std::io::ErrorKind::Interrupted);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
