#![allow(clippy::unwrap_used)]

use ipdc_jobs::ids::{CODEC_DAG_PB, CODEC_RAW, FileRef, cid_of};

use super::*;
use crate::blocks::block::CHUNK;
use crate::blocks::pins::Pins;
use crate::blocks::store::Tier;
use crate::blocks::store::tests::{World, world};
use crate::blocks::unixfs::{FileBuilder, build_dir};
use crate::state::Db;
use crate::state::pins::Reason;

/// A directory with two files of the same bytes, several blocks each, and a small one.
async fn directory(world: &World) -> Cid {
    let add = world.store.add(Tier::Durable);
    let mut entries = Vec::new();
    for (name, len) in [("a", 3 * CHUNK + 7), ("b", 3 * CHUNK + 7), ("sub/c", 5)] {
        let mut file = FileBuilder::new(add.clone());
        file.write(&vec![7; len - 1]).await.unwrap();
        file.write(&[8]).await.unwrap();
        let file: FileRef = file.finish().await.unwrap();
        entries.push((name.to_owned(), file));
    }
    build_dir(&add, &world.store, entries).await.unwrap()
}

async fn exported(world: &World, root: Cid) -> Vec<u8> {
    let parts: Vec<Bytes> = export(world.store.clone(), root).try_collect().await.unwrap();
    parts.concat()
}

async fn imported(world: &World, car: &[u8]) -> Result<Imported, CarError> {
    import(&world.store.add(Tier::Durable), car).await
}

fn header(roots: Vec<Cid>, version: u64) -> Bytes {
    framed(&[&serde_ipld_dagcbor::to_vec(&Header { roots, version }).unwrap()])
}

fn section(cid: Cid, bytes: &[u8]) -> Bytes {
    framed(&[&cid.to_bytes(), bytes])
}

/// A version 2 with a gap before the version 1 that it wraps, and something behind it.
fn v2(car: &[u8]) -> Vec<u8> {
    let first = header(Vec::new(), 2);
    let payload = first.len() as u64 + V2_HEADER + 3;
    let mut all = BytesMut::from(&first[..]);
    all.put_bytes(0, 16);
    all.put_u64_le(payload);
    all.put_u64_le(car.len() as u64);
    all.put_u64_le(payload + car.len() as u64);
    all.put_bytes(0, 3);
    all.put_slice(car);
    all.put_slice(b"an index");
    all.to_vec()
}

#[tokio::test]
async fn what_is_exported_is_imported_elsewhere_whole() {
    let (one, other) = (world().await, world().await);
    let root = directory(&one).await;
    let car = exported(&one, root).await;
    assert!(exported(&one, root).await == car, "the same tree gave two files");

    let add = other.store.add(Tier::Durable);
    let imported = import(&add, &car[..]).await.unwrap();
    // Two directories, one of the two equal files: a node, its first leaf three times over, its last.
    assert_eq!((imported.roots, imported.blocks), (vec![root], 2 + 3 + 1));
    let pins = Pins::new(Db::in_memory().unwrap(), other.store.clone());
    pins.pin(root, Reason::User).await.unwrap();
    drop(add);
    pins.gc().await.unwrap();
    assert!(exported(&other, root).await == car);
}

#[tokio::test]
async fn blocks_are_written_depth_first_and_each_once() {
    let world = world().await;
    let root = directory(&world).await;
    let car = exported(&world, root).await;
    let mut reader = Reader { from: &car[..], at: 0, end: u64::MAX };
    assert_eq!(reader.header().await.unwrap().roots, [root]);
    let mut found = Vec::new();
    while let Some(section) = reader.section().await.unwrap() {
        found.push(section.cid);
    }
    let mut expected = Vec::new();
    let mut open = vec![root];
    while let Some(cid) = open.pop() {
        if !expected.contains(&cid) {
            expected.push(cid);
            let block = world.store.get(&cid).await.unwrap().unwrap();
            open.extend(unixfs::links(&block).unwrap().into_iter().rev());
        }
    }
    assert_eq!(found, expected);
    assert_eq!(reader.at, car.len() as u64);
}

/// Byte for byte as the specification has it: <https://ipld.io/specs/transport/car/carv1/>.
#[tokio::test]
async fn header_and_sections_are_those_of_the_specification() {
    let world = world().await;
    let leaf = Block::raw(Bytes::from_static(b"leaf"));
    world.store.add(Tier::Durable).put(&leaf).await.unwrap();
    let cid = leaf.cid().to_bytes();
    // A map of two: "roots", a list of one CID (tag 42, 37 bytes that begin with 0); "version", 1.
    let roots = [b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00", &cid[..]].concat();
    let header = [&roots[..], b"\x67version\x01"].concat();
    let expected = [&[58], &header[..], &[36 + 4], &cid[..], b"leaf"].concat();
    assert_eq!(exported(&world, leaf.cid()).await, expected);
}

#[tokio::test]
async fn a_missing_block_is_named() {
    let world = world().await;
    let root = directory(&world).await;
    let leaf = cid_of(CODEC_RAW, &vec![7; CHUNK]);
    world.store.remove(&leaf).await.unwrap();
    let parts: Result<Vec<Bytes>, _> = export(world.store.clone(), root).try_collect().await;
    assert!(parts.unwrap_err().to_string().contains(&leaf.to_string()));
}

#[tokio::test]
async fn wherever_a_file_is_cut_off_it_is_said_where() {
    let from = world().await;
    let leaf = section(cid_of(CODEC_RAW, b"leaf"), b"leaf");
    let car = [header(vec![cid_of(CODEC_RAW, b"leaf")], 1), leaf.clone()].concat();
    let begun = car.len() - leaf.len();
    for len in 1..car.len() {
        match imported(&from, &car[..len]).await {
            Err(CarError::CutOff { at, begun: since }) => {
                assert_eq!(since, if len < begun { 0 } else { begun as u64 });
                assert_eq!(at, len as u64);
            }
            // Between header and block there is a file of no blocks.
            Ok(imported) => assert_eq!((len, imported.blocks), (begun, 0)),
            Err(other) => panic!("{len} bytes: {other}"),
        }
    }
}

#[tokio::test]
async fn what_is_no_car_is_refused_and_what_is_wrong_with_it_said() {
    let world = world().await;
    let root = cid_of(CODEC_RAW, b"leaf");
    let long = [header(vec![root], 1), section(root, &vec![0; SECTION_LIMIT])].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "it is empty"),
        (b"hello, world".repeat(20), "its header is none"),
        (vec![0], "header is empty"),
        (vec![0xff; 64], "header has no length"),
        (vec![0xff, 0xff, 0xff, 0xff, 0x0f], "at most 65536"),
        (header(Vec::new(), 1).to_vec(), "no root"),
        (header(vec![root], 3).to_vec(), "version 3"),
        (v2(&v2(&header(vec![root], 1))), "version 2"),
        ([&header(vec![root], 1)[..], &[0]].concat(), "byte 59 of the CAR is empty"),
        ([&header(vec![root], 1)[..], &[3, 9, 9, 9]].concat(), "does not begin with a CID"),
        (long, "at most 2097280"),
    ];
    for (car, said) in cases {
        let error = imported(&world, &car).await.unwrap_err().to_string();
        assert!(error.contains(said), "`{error}` does not say `{said}`");
    }
}

#[tokio::test]
async fn a_block_that_is_not_what_its_name_says_is_not_taken() {
    let world = world().await;
    let (good, evil) = (cid_of(CODEC_RAW, b"good"), cid_of(CODEC_DAG_PB, b"honest"));
    let car = [header(vec![evil], 1), section(good, b"good"), section(evil, b"a lie")].concat();
    let at = (car.len() - section(evil, b"a lie").len()) as u64;
    let error = imported(&world, &car).await.unwrap_err();
    assert!(matches!(error, CarError::Block { at: found, .. } if found == at), "{error:?}");
    assert!(!world.store.has(&evil).await.unwrap());
}

#[tokio::test]
async fn a_version_2_is_read_for_what_it_wraps() {
    let world = world().await;
    let root = cid_of(CODEC_RAW, b"leaf");
    let car = v2(&[header(vec![root], 1), section(root, b"leaf")].concat());
    let imported = imported(&world, &car).await.unwrap();
    assert_eq!(imported, Imported { roots: vec![root], blocks: 1, bytes: 4 });
    assert!(world.store.has(&root).await.unwrap());
}

#[tokio::test]
async fn no_bytes_make_the_reader_panic_or_run_on() {
    let world = world().await;
    let root = cid_of(CODEC_RAW, b"leaf");
    let car = v2(&[header(vec![root], 1), section(root, b"leaf")].concat());
    for at in 0..car.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = car.clone();
            changed[at] = byte;
            // Any answer will do, as long as there is one.
            let _ = imported(&world, &changed).await;
        }
    }
}
