//! The store: what this node holds, in two tiers.
//!
//! **Durable** blocks lie in rust-ipfs's repository: each is flushed, with its directory, before
//! [`Add::put`] returns, and a crash at any moment leaves each whole or absent. **Scratch** blocks
//! (a job's intermediate files, what the memo names, the cache of fetched input) are plain files that nobody
//! flushes. Every read hashes what it read: a corrupt block is removed, logged and reported as
//! absent, so that it is fetched again.
//!
//! It owns `scratch/` and all writing to the repository. It never asks the network
//! ([`super::fetch`] does) and does not know what is pinned ([`super::pins`] does). The repository is
//! never asked for a block by rust-ipfs's own `get_block`, which waits for the network, and its
//! own pins and garbage collection are not used.

mod add;
mod scratch;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use ipdc_jobs::ids::{Cid, JobId};
use rust_ipfs::repo::{DefaultStorage, Repo};

pub use self::add::Add;
use self::add::{Spared, Sweeping};
use self::scratch::{Group, Scratch};
use super::block::{Block, key};

/// Where a block is kept, and so how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Flushed to disk; kept while pinned, else until garbage collection.
    Durable,
    /// A plain file of a job, kept until [`Store::drop_job`].
    Scratch(JobId),
    /// A plain file that a memo names, kept until others need its room.
    Memo,
    /// A plain file, kept until the cache needs its room.
    Cache,
}

/// How much of the disk the store may use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most that the cache of fetched blocks may hold.
    pub cache: u64,
    /// The most that the outputs which the memo names may take.
    pub memo: u64,
    /// Less free space than this refuses new work ([`Store::room`]).
    pub low_water: u64,
    /// Less free space than this refuses every block, so that the node's database can go on.
    pub floor: u64,
}

impl Default for Limits {
    /// 1 GiB of cache: the input of a few hundred tasks. 2 GiB of memo: what the map tasks of some
    /// 20 GB of text leave, when they combine. 256 MiB below which no work is taken:
    /// the scratch files of a task or two. 32 MiB that are left to the database and the logs.
    fn default() -> Self {
        Limits { cache: 1 << 30, memo: 2 << 30, low_water: 256 << 20, floor: 32 << 20 }
    }
}

/// The store could not do what it was asked to.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StoreError {
    /// The disk has too little room left.
    #[error("the disk is full: {free} bytes are free, {wanted} must stay free")]
    #[diagnostic(
        code("IPDC-3101"),
        help(
            "make room on the disk that holds the node's home, or `ipdc gc`; work goes on by itself when there is room"
        )
    )]
    Full {
        /// Bytes free.
        free: u64,
        /// Bytes that must stay free.
        wanted: u64,
    },
    /// The file system failed.
    #[error("the block store failed to {action}")]
    #[diagnostic(
        code("IPDC-3102"),
        help("check the disk that holds the node's home, and who may write to it")
    )]
    Io {
        /// What it was doing.
        action: &'static str,
        /// How it failed.
        #[source]
        source: io::Error,
    },
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The blocks that this node holds. Clones are handles to one store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    repo: Repo<DefaultStorage>,
    /// More handles to the directory of `repo`, to write with. A handle has a lock that a put holds
    /// while it flushes: with one handle, puts would wait for each other and reads for them all.
    writers: [Repo<DefaultStorage>; WRITERS],
    next_writer: AtomicUsize,
    scratch: Arc<Scratch>,
    directory: PathBuf,
    limits: Limits,
    spared: Mutex<Spared>,
    /// Durable blocks that were found corrupt and removed, by the names they are kept under.
    spoilt: Mutex<HashSet<Cid>>,
    /// Held shared while one block is put, exclusively while some are removed; never for longer.
    removal: tokio::sync::RwLock<()>,
    /// One sweep at a time.
    sweep: tokio::sync::Mutex<()>,
}

/// Blocks that are written and flushed at the same time. Measured: 61 MB/s with one, 170 with four, 200
/// with eight.
const WRITERS: usize = 8;

/// Blocks that a sweep removes between two looks at whoever wants to put one: a few milliseconds.
const SWEEP_BATCH: usize = 16;

impl Store {
    /// Opens the store in `directory`, or makes it: `blocks/` the repository, `scratch/` the rest.
    ///
    /// # Errors
    /// When the directory cannot be written, or another process has the repository open.
    pub async fn open(directory: &Path, limits: Limits) -> Result<Store, StoreError> {
        let (blocks, root) = (directory.join("blocks"), directory.join("scratch"));
        let made = blocks.clone();
        blocking("make its directory", move || std::fs::create_dir_all(made)).await?;
        let repo = Repo::new_fs(&blocks);
        repo.init().await.map_err(io_error("open its repository"))?;
        let killed = blocks.join("blockstore");
        blocking("remove unfinished files", move || remove_unfinished(&killed)).await?;
        let scratch = blocking("open", move || Scratch::open(root, limits)).await?;
        let inner = Inner {
            repo,
            writers: std::array::from_fn(|_| Repo::new_fs(&blocks)),
            next_writer: AtomicUsize::new(0),
            scratch: Arc::new(scratch),
            directory: directory.to_path_buf(),
            limits,
            spared: Mutex::default(),
            spoilt: Mutex::default(),
            removal: tokio::sync::RwLock::default(),
            sweep: tokio::sync::Mutex::default(),
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Begins an addition of blocks to `tier`.
    #[must_use]
    pub fn add(&self, tier: Tier) -> Add {
        Add::new(self.clone(), tier)
    }

    /// The block, from whichever tier has it, checked. `None` when it is not held or was corrupt.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if let Some(block) = Block::inlined(cid) {
            return Ok(Some(block));
        }
        if self.inner.scratch.has(cid) {
            let (scratch, wanted) = (self.inner.scratch.clone(), *cid);
            let found = blocking("read a scratch block", move || scratch.read(&wanted)).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        self.durable(cid).await
    }

    /// Whether the block is held in any tier. A block that is held may turn out to be corrupt;
    /// only [`Store::get`] knows.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.inner.scratch.has(cid) || self.has_in(Tier::Durable, cid).await?)
    }

    /// Whether the block is held in `tier`, as [`Store::has`].
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn has_in(&self, tier: Tier, cid: &Cid) -> Result<bool, StoreError> {
        if Block::inlined(cid).is_some() {
            return Ok(true);
        }
        match group(tier) {
            Some(group) => Ok(self.inner.scratch.has_in(group, cid)),
            None => self.inner.repo.contains(cid).await.map_err(io_error("look for a block")),
        }
    }

    /// Whether the block was durable until it was found corrupt, and is to be so again.
    #[must_use]
    pub fn is_spoilt(&self, cid: &Cid) -> bool {
        self.spoilt().contains(&key(cid))
    }

    /// Removes the block from the durable tier, pinned or not.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, cid: &Cid) -> Result<(), StoreError> {
        let _nobody_puts = self.inner.removal.write().await;
        self.remove_durable(cid).await
    }

    /// Frees all that was kept in [`Tier::Scratch`] of `job`.
    ///
    /// # Errors
    /// When the disk fails; what could not be freed is found again at the next start.
    pub async fn drop_job(&self, job: JobId) -> Result<(), StoreError> {
        let scratch = self.inner.scratch.clone();
        blocking("free a job's scratch files", move || scratch.drop_job(job)).await
    }

    /// Puts blocks that `from` holds into `to` as well, without a copy: both are tiers of plain
    /// files. False when one of them is in neither any more.
    ///
    /// # Errors
    /// When the disk fails, or its file system has no links.
    pub async fn link(&self, blocks: Vec<Cid>, from: Tier, to: Tier) -> Result<bool, StoreError> {
        let (Some(from), Some(to)) = (group(from), group(to)) else { return Ok(false) };
        let scratch = self.inner.scratch.clone();
        blocking("link scratch blocks", move || scratch.link(&blocks, from, to)).await
    }

    /// The jobs that have scratch blocks here, with the bytes of each. After a restart, those that
    /// no longer live are to be dropped.
    #[must_use]
    pub fn scratch_jobs(&self) -> Vec<(JobId, u64)> {
        self.inner.scratch.jobs()
    }

    /// Bytes of the cache.
    #[must_use]
    pub fn cached(&self) -> u64 {
        self.inner.scratch.cached()
    }

    /// Bytes of the memo. Those of a live job's scratch may be the same files.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.inner.scratch.remembered()
    }

    /// Bytes of the durable tier. Looks at every file.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn durable_bytes(&self) -> Result<u64, StoreError> {
        let bytes = self.inner.repo.get_total_size().await.map_err(io_error("measure itself"))?;
        Ok(bytes as u64)
    }

    /// The length of a durable block in bytes; 0 when it is not held.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn size_of(&self, cid: &Cid) -> Result<u64, StoreError> {
        let size = self.inner.repo.get_blocks_size(&[*cid]).await;
        Ok(size.map_err(io_error("measure a block"))?.unwrap_or(0) as u64)
    }

    /// Bytes free on the disk that holds the store.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn free(&self) -> Result<u64, StoreError> {
        let free = fs4::available_space(&self.inner.directory);
        free.map_err(|source| StoreError::Io { action: "ask for free space", source })
    }

    /// Whether there is room for new work: more is free than the low-water limit.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is not.
    pub fn room(&self) -> Result<(), StoreError> {
        let (free, wanted) = (self.free()?, self.inner.limits.low_water);
        if free < wanted { Err(StoreError::Full { free, wanted }) } else { Ok(()) }
    }

    async fn put(&self, add: &Add, block: &Block) -> Result<(), StoreError> {
        if Block::inlined(&block.cid()).is_some() {
            return Ok(());
        }
        match group(add.tier()) {
            Some(group) => self.put_scratch(group, block).await,
            None => self.put_durable(add, block).await,
        }
    }

    async fn put_scratch(&self, group: Group, block: &Block) -> Result<(), StoreError> {
        self.keep_floor(block.len()).await?;
        let (scratch, block) = (self.inner.scratch.clone(), block.clone());
        blocking("write a scratch block", move || scratch.write(group, &block)).await
    }

    async fn put_durable(&self, add: &Add, block: &Block) -> Result<(), StoreError> {
        self.spare(add, &block.cid()).await;
        if self.durable(&block.cid()).await?.is_some() {
            return Ok(());
        }
        self.keep_floor(block.len()).await?;
        let block = rust_ipfs::Block::new_unchecked(block.cid(), block.bytes().clone());
        // Nobody listens to the broadcast: blocks go between nodes by our own exchange.
        let turn = self.inner.next_writer.fetch_add(1, Ordering::Relaxed);
        let writer = &self.inner.writers[turn % WRITERS];
        let put = writer.put_block(&block).broadcast_on_new_block(false).await;
        put.map_err(io_error("write a block"))?;
        self.spoilt().remove(&key(block.cid()));
        Ok(())
    }

    /// Gives back the memory in which the system holds what was written of a durable block: it is on the
    /// disk, and what is read again and again should not make room for it.
    async fn cool(&self, cid: &Cid) -> Result<(), StoreError> {
        if Block::inlined(cid).is_some() {
            return Ok(());
        }
        let file = self.durable_file(cid);
        blocking("let go of a block's memory", move || advise_unread(&std::fs::File::open(file)?))
            .await
    }

    /// Where the repository has a block's bytes.
    fn durable_file(&self, cid: &Cid) -> PathBuf {
        let name = key(cid).to_string();
        let shard = &name[name.len() - 3..name.len() - 1];
        self.inner.directory.join("blocks/blockstore").join(shard).join(format!("{name}.data"))
    }

    /// From here on, no sweep removes the block while `add` lives: one that already decided to has
    /// removed it when this returns.
    async fn spare(&self, add: &Add, cid: &Cid) {
        if add.tier() == Tier::Durable {
            let _nobody_removes = self.inner.removal.read().await;
            add.remember(cid);
        }
    }

    async fn durable(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        match self.inner.repo.get_block_now(cid).await.map_err(as_io) {
            Ok(found) => Ok(found.map(|block| {
                let (_, bytes) = block.into_inner();
                Block::checked_elsewhere(*cid, bytes)
            })),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.drop_corrupt(cid).await?;
                Ok(None)
            }
            Err(source) => Err(StoreError::Io { action: "read a block", source }),
        }
    }

    async fn drop_corrupt(&self, cid: &Cid) -> Result<(), StoreError> {
        let _nobody_puts = self.inner.removal.write().await;
        // Another reader may have dropped it, and a good copy may be there by now.
        let again = self.inner.repo.get_block_now(cid).await.map_err(as_io);
        if again.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            tracing::warn!(%cid, "a block is corrupt: dropped");
            self.remove_durable(cid).await?;
            self.spoilt().insert(key(cid));
        }
        Ok(())
    }

    async fn remove_durable(&self, cid: &Cid) -> Result<(), StoreError> {
        let removed = self.inner.repo.remove_block(cid, false).await;
        removed.map_err(io_error("remove a block"))?;
        Ok(())
    }

    /// Sees that `len` more bytes leave the floor free; the cache gives way first, then the memo.
    async fn keep_floor(&self, len: u64) -> Result<(), StoreError> {
        let wanted = self.inner.limits.floor.saturating_add(len);
        let free = self.free()?;
        if free >= wanted {
            return Ok(());
        }
        for (group, held) in [(Group::Cache, self.cached()), (Group::Memo, self.remembered())] {
            let limit = held.saturating_sub(wanted.saturating_sub(self.free()?));
            let scratch = self.inner.scratch.clone();
            blocking("make room", move || {
                scratch.shrink(group, limit);
                Ok(())
            })
            .await?;
        }
        let free = self.free()?;
        if free >= wanted { Ok(()) } else { Err(StoreError::Full { free, wanted }) }
    }

    /// Begins a sweep. What is put or spared from here on stays, so the pins are to be read after.
    pub(super) async fn begin_sweep(&self) -> Sweep<'_> {
        let alone = self.inner.sweep.lock().await;
        Sweep { store: self, _sweeping: Sweeping::begin(&self.inner.spared), _alone: alone }
    }

    fn spoilt(&self) -> MutexGuard<'_, HashSet<Cid>> {
        self.inner.spoilt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spared(&self) -> MutexGuard<'_, Spared> {
        add::lock(&self.inner.spared)
    }
}

/// A sweep that has begun.
pub(super) struct Sweep<'a> {
    store: &'a Store,
    _sweeping: Sweeping<'a>,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

impl Sweep<'_> {
    /// Removes every durable block that is neither in `keep` (version 1 CIDs) nor spared. A crash
    /// in the middle leaves some of them for the next sweep.
    pub(super) async fn run(self, keep: &HashSet<Cid>) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let unkept = self.store.inner.repo.list_blocks().await;
        let unkept = unkept.filter(|cid| std::future::ready(!keep.contains(cid)));
        let mut batches = std::pin::pin!(unkept.chunks(SWEEP_BATCH));
        while let Some(batch) = batches.next().await {
            let _nobody_puts = self.store.inner.removal.write().await;
            for cid in batch {
                if self.store.spared().holds(&cid) {
                    continue;
                }
                let bytes = self.store.size_of(&cid).await?;
                self.store.remove_durable(&cid).await?;
                swept.blocks += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }
}

#[cfg(target_os = "linux")]
fn advise_unread(file: &std::fs::File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Elsewhere the system finds out by itself.
#[cfg(not(target_os = "linux"))]
fn advise_unread(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}

/// Removes what a killed process left of the blocks it was writing: the repository does not.
fn remove_unfinished(blockstore: &Path) -> io::Result<()> {
    for shard in std::fs::read_dir(blockstore)? {
        for file in std::fs::read_dir(shard?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

fn group(tier: Tier) -> Option<Group> {
    match tier {
        Tier::Durable => None,
        Tier::Scratch(job) => Some(Group::Job(job)),
        Tier::Memo => Some(Group::Memo),
        Tier::Cache => Some(Group::Cache),
    }
}

/// Runs `work` on a blocking thread.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    done.map_err(|source| failure(action, source))
}

fn io_error(action: &'static str) -> impl FnOnce(rust_ipfs::Error) -> StoreError {
    move |error| failure(action, as_io(error))
}

fn failure(action: &'static str, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full { free: 0, wanted: 1 }
        }
        _ => StoreError::Io { action, source },
    }
}

fn as_io(error: rust_ipfs::Error) -> io::Error {
    error.downcast::<io::Error>().unwrap_or_else(io::Error::other)
}

#[cfg(test)]
pub(in crate::blocks) mod tests;
