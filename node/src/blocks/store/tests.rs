#![allow(clippy::unwrap_used)]

use bytes::Bytes;

use super::*;

/// A store in a directory of its own.
pub(in crate::blocks) struct World {
    pub(in crate::blocks) store: Store,
    pub(in crate::blocks) directory: tempfile::TempDir,
}

pub(in crate::blocks) async fn world() -> World {
    world_with(Limits { cache: 64 << 20, memo: 64 << 20, low_water: 0, floor: 0 }).await
}

async fn world_with(limits: Limits) -> World {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), limits).await;
    World { store, directory }
}

async fn open(directory: &Path, limits: Limits) -> Store {
    Store::open(directory, limits).await.unwrap()
}

impl World {
    /// Overwrites every file that is kept for `cid`.
    pub(in crate::blocks) fn corrupt(&self, cid: &Cid) {
        let files = files_below(self.directory.path());
        let of_block = files.iter().filter(|path| name_of(path).starts_with(&cid.to_string()));
        let mut corrupted = 0;
        for path in of_block {
            std::fs::write(path, b"corrupt").unwrap();
            corrupted += 1;
        }
        assert!(corrupted > 0, "{cid} is in no file");
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn block(text: &str) -> Block {
    Block::raw(Bytes::copy_from_slice(text.as_bytes()))
}

fn job(name: &str) -> JobId {
    JobId::of_manifest(name.as_bytes())
}

fn tiers() -> [Tier; 4] {
    [Tier::Durable, Tier::Scratch(job("a")), Tier::Memo, Tier::Cache]
}

#[tokio::test]
async fn every_tier_gives_back_what_was_put() {
    let world = world().await;
    for tier in tiers() {
        let block = block(&format!("in {tier:?}"));
        assert_eq!(world.store.get(&block.cid()).await.unwrap(), None);
        world.store.add(tier).put(&block).await.unwrap();
        assert!(world.store.has_in(tier, &block.cid()).await.unwrap());
        assert_eq!(world.store.get(&block.cid()).await.unwrap(), Some(block));
    }
}

#[tokio::test]
async fn what_is_put_away_is_read_as_any_other() {
    let world = world().await;
    for tier in tiers() {
        let block = block(&format!("away in {tier:?}"));
        world.store.add(tier).put_away(&block).await.unwrap();
        assert_eq!(world.store.get(&block.cid()).await.unwrap(), Some(block));
    }
    let block = block("on the disk");
    world.store.add(Tier::Durable).put_away(&block).await.unwrap();
    assert_eq!(std::fs::read(world.store.durable_file(&block.cid())).unwrap(), b"on the disk");
}

#[tokio::test]
async fn a_corrupt_block_is_dropped_and_can_be_put_again() {
    let world = world().await;
    for tier in tiers() {
        let block = block(&format!("in {tier:?}"));
        world.store.add(tier).put(&block).await.unwrap();
        world.corrupt(&block.cid());
        assert_eq!(world.store.get(&block.cid()).await.unwrap(), None);
        assert!(!world.store.has(&block.cid()).await.unwrap());
        world.store.add(tier).put(&block).await.unwrap();
        assert_eq!(world.store.get(&block.cid()).await.unwrap(), Some(block));
    }
}

#[tokio::test]
async fn putting_a_durable_block_heals_a_corrupt_one() {
    let world = world().await;
    let block = block("precious");
    world.store.add(Tier::Durable).put(&block).await.unwrap();
    world.corrupt(&block.cid());
    world.store.add(Tier::Durable).put(&block).await.unwrap();
    assert_eq!(world.store.get(&block.cid()).await.unwrap(), Some(block));
}

#[tokio::test]
async fn the_same_block_put_by_many_at_once_is_there_once() {
    let world = world().await;
    let block = Block::raw(Bytes::from(vec![1; 100_000]));
    let add = world.store.add(Tier::Durable);
    let puts = futures::future::join_all((0..50).map(|_| add.put(&block))).await;
    assert!(puts.into_iter().all(|put| put.is_ok()));
    assert_eq!(world.store.durable_bytes().await.unwrap(), block.len());
    let named = |path: &PathBuf| name_of(path).starts_with(&block.cid().to_string());
    assert_eq!(files_below(world.directory.path()).iter().filter(|path| named(path)).count(), 1);
}

#[tokio::test]
async fn a_restart_finds_every_tier_again_and_no_unfinished_files() {
    let World { store, directory } = world().await;
    let limits = store.inner.limits;
    for tier in tiers() {
        store.add(tier).put(&block(&format!("in {tier:?}"))).await.unwrap();
    }
    drop(store);
    let mut unfinished = Vec::new();
    for file in files_below(directory.path()) {
        if name_of(&file).starts_with("baf") {
            let half = file.with_extension("0.tmp");
            std::fs::write(&half, b"half").unwrap();
            unfinished.push(half);
        }
    }
    assert_eq!(unfinished.len(), tiers().len());

    let store = open(directory.path(), limits).await;
    for tier in tiers() {
        let block = block(&format!("in {tier:?}"));
        assert_eq!(store.get(&block.cid()).await.unwrap(), Some(block));
    }
    assert!(unfinished.iter().all(|file| !file.exists()));
    let expected = block(&format!("in {:?}", tiers()[1])).len();
    assert_eq!(store.scratch_jobs(), [(job("a"), expected)]);
}

#[tokio::test]
async fn dropping_a_job_frees_its_blocks_and_no_others() {
    let world = world().await;
    let (mine, shared) = (block("mine"), block("shared"));
    for name in ["a", "b"] {
        world.store.add(Tier::Scratch(job(name))).put(&shared).await.unwrap();
    }
    world.store.add(Tier::Scratch(job("a"))).put(&mine).await.unwrap();
    world.store.drop_job(job("a")).await.unwrap();
    assert_eq!(world.store.get(&mine.cid()).await.unwrap(), None);
    assert_eq!(world.store.get(&shared.cid()).await.unwrap(), Some(shared));
    world.store.drop_job(job("b")).await.unwrap();
    assert_eq!(world.store.scratch_jobs(), []);
    assert_eq!(files_below(&world.directory.path().join("scratch")), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn the_cache_lets_go_of_what_was_used_least_recently() {
    let world = world_with(Limits { cache: 30, memo: 30, low_water: 0, floor: 0 }).await;
    let blocks = ["first 10 b", "second 10 ", "third 10 b", "fourth 10 "].map(block);
    let cache = world.store.add(Tier::Cache);
    for block in &blocks[..3] {
        cache.put(block).await.unwrap();
    }
    world.store.get(&blocks[0].cid()).await.unwrap();
    cache.put(&blocks[3]).await.unwrap();
    let mut held = Vec::new();
    for block in &blocks {
        held.push(world.store.get(&block.cid()).await.unwrap().is_some());
    }
    assert_eq!(held, [true, false, true, true]);
    assert_eq!(world.store.cached(), 30);
}

#[tokio::test]
async fn a_full_disk_refuses_blocks_and_work_and_leaves_nothing_behind() {
    let full = Limits { cache: 100, memo: 100, low_water: u64::MAX, floor: u64::MAX };
    let world = world_with(full).await;
    assert!(matches!(world.store.room(), Err(StoreError::Full { .. })));
    for tier in tiers() {
        let block = block("no room");
        let put = world.store.add(tier).put(&block).await;
        assert!(matches!(put, Err(StoreError::Full { .. })));
        assert_eq!(world.store.get(&block.cid()).await.unwrap(), None);
    }
    let left = files_below(world.directory.path());
    assert!(left.iter().all(|path| name_of(path) == "repo_lock"), "{left:?}");
    // Room comes back, and with it the store.
    let World { store, directory } = world;
    drop(store);
    let store = open(directory.path(), Limits { low_water: 0, floor: 0, ..full }).await;
    store.room().unwrap();
    store.add(Tier::Durable).put(&block("room")).await.unwrap();
}

#[tokio::test]
async fn a_sweep_spares_what_is_kept_and_what_is_being_added() {
    let world = world().await;
    let [kept, adding, added_meanwhile, garbage] =
        ["kept", "adding", "added meanwhile", "garbage"].map(block);
    let before = world.store.add(Tier::Durable);
    before.put(&kept).await.unwrap();
    before.put(&garbage).await.unwrap();
    drop(before);
    let add = world.store.add(Tier::Durable);
    add.put(&adding).await.unwrap();

    let sweep = world.store.begin_sweep().await;
    let meanwhile = world.store.add(Tier::Durable);
    meanwhile.put(&added_meanwhile).await.unwrap();
    drop(meanwhile);
    let swept = sweep.run(&HashSet::from([kept.cid()])).await.unwrap();

    assert_eq!(swept, Swept { blocks: 1, bytes: garbage.len() });
    for spared in [&kept, &adding, &added_meanwhile] {
        assert!(world.store.has(&spared.cid()).await.unwrap());
    }
    assert!(!world.store.has(&garbage.cid()).await.unwrap());
    // The next sweep spares only what is still being added.
    let swept = world.store.begin_sweep().await.run(&HashSet::new()).await.unwrap();
    assert_eq!(swept.blocks, 2);
    assert!(world.store.has(&adding.cid()).await.unwrap());
    drop(add);
    let swept = world.store.begin_sweep().await.run(&HashSet::new()).await.unwrap();
    assert_eq!(swept.blocks, 1);
    assert!(world.store.spared().is_empty());
}

#[tokio::test]
async fn a_block_that_is_its_own_name_needs_no_place() {
    let world = world().await;
    let hash = multihash::Multihash::wrap(0, b"inlined").unwrap();
    let cid = Cid::new_v1(0x55, hash);
    let block = world.store.get(&cid).await.unwrap().unwrap();
    assert_eq!(block.bytes(), b"inlined".as_slice());
}

#[tokio::test]
async fn a_version_0_name_finds_the_same_block() {
    let world = world().await;
    let block = Block::dag_pb(Bytes::from_static(&[0x0a, 0x02, 0x08, 0x01]));
    for tier in tiers() {
        world.store.add(tier).put(&block).await.unwrap();
        let v0 = Cid::new_v0(*block.cid().hash()).unwrap();
        assert!(world.store.has_in(tier, &v0).await.unwrap());
        assert_eq!(world.store.get(&v0).await.unwrap().unwrap().bytes(), block.bytes());
    }
}

#[tokio::test]
async fn what_the_memo_has_outlives_the_job_that_made_it_and_serves_the_next() {
    let world = world().await;
    let (first, next) = (Tier::Scratch(job("first")), Tier::Scratch(job("next")));
    let block = block("output");
    let cids = vec![block.cid()];
    world.store.add(first).put(&block).await.unwrap();
    assert!(world.store.link(cids.clone(), first, Tier::Memo).await.unwrap());
    world.store.drop_job(job("first")).await.unwrap();
    assert_eq!(world.store.remembered(), block.len());
    assert!(world.store.link(cids.clone(), Tier::Memo, next).await.unwrap());
    world.store.inner.scratch.shrink(Group::Memo, 0);
    assert_eq!(world.store.get(&block.cid()).await.unwrap(), Some(block), "the job has it still");
    world.store.drop_job(job("next")).await.unwrap();
    assert!(!world.store.link(cids, Tier::Memo, next).await.unwrap(), "nobody has it");
}

#[tokio::test]
async fn the_memo_lets_go_of_what_was_used_least_recently() {
    let world = world_with(Limits { cache: 100, memo: 20, low_water: 0, floor: 0 }).await;
    let made = Tier::Scratch(job("a"));
    let blocks = ["ten bytes 1", "ten bytes 2"].map(block);
    for block in &blocks {
        world.store.add(made).put(block).await.unwrap();
        assert!(world.store.link(vec![block.cid()], made, Tier::Memo).await.unwrap());
    }
    assert!(!world.store.has_in(Tier::Memo, &blocks[0].cid()).await.unwrap());
    assert!(world.store.has_in(Tier::Memo, &blocks[1].cid()).await.unwrap());
}
