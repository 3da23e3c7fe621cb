//! The scratch tier: plain files, not flushed, grouped by job, and the cache of fetched blocks.
//!
//! It owns `scratch/`: one directory a job, `cache/`, and `memo/`, the outputs of tasks that may be
//! asked for again. A block may be in several: then its files are links to one.
//! Which block lies where is kept in memory
//! and read back from the directories at the start. A crash of the process loses nothing; a
//! crash of the machine may lose any of it, or leave files with wrong bytes, which are found out
//! when they are read.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ipdc_jobs::ids::{Cid, JobId};

use super::super::block::{Block, key};
use super::Limits;

const CACHE: &str = "cache";
const MEMO: &str = "memo";
const UNFINISHED: &str = "tmp";

/// Where a scratch block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// With a job, until it ends.
    Job(JobId),
    /// With the memo, until there is need of its room.
    Memo,
    /// In the cache, until there is need of its room.
    Cache,
}

pub(super) struct Scratch {
    root: PathBuf,
    limits: Limits,
    index: Mutex<Index>,
    /// Makes the names of unfinished files unique.
    unfinished: AtomicU64,
}

#[derive(Default)]
struct Index {
    jobs: HashMap<JobId, HashMap<Cid, u64>>,
    memo: Cache,
    cache: Cache,
}

impl Scratch {
    /// Reads back what the directory holds, and removes files that were not finished.
    pub(super) fn open(root: PathBuf, limits: Limits) -> io::Result<Scratch> {
        std::fs::create_dir_all(root.join(CACHE))?;
        std::fs::create_dir_all(root.join(MEMO))?;
        let mut index = Index::default();
        for directory in std::fs::read_dir(&root)? {
            let directory = directory?;
            let name = directory.file_name();
            let Some(name) = name.to_str() else { continue };
            let kept = match name {
                CACHE => Some(&mut index.cache),
                MEMO => Some(&mut index.memo),
                _ => None,
            };
            if let Some(kept) = kept {
                for (cid, size) in blocks_in(&directory.path())? {
                    kept.insert(cid, size);
                }
            } else if let Ok(job) = name.parse() {
                index.jobs.insert(job, blocks_in(&directory.path())?.into_iter().collect());
            }
        }
        let unfinished = AtomicU64::new(0);
        let scratch = Scratch { root, limits, index: Mutex::new(index), unfinished };
        scratch.shrink(Group::Cache, limits.cache);
        scratch.shrink(Group::Memo, limits.memo);
        Ok(scratch)
    }

    pub(super) fn has(&self, cid: &Cid) -> bool {
        self.index().find(&key(cid)).is_some()
    }

    pub(super) fn has_in(&self, group: Group, cid: &Cid) -> bool {
        self.index().holds(group, &key(cid))
    }

    /// The block, read and checked. What turns out to be missing or corrupt is forgotten.
    pub(super) fn read(&self, cid: &Cid) -> io::Result<Option<Block>> {
        let name = key(cid);
        loop {
            let Some(group) = self.index().touch(&name) else { return Ok(None) };
            let path = self.path(group, &name);
            match std::fs::read(&path) {
                Ok(bytes) => match Block::check(*cid, Bytes::from(bytes)) {
                    Ok(block) => return Ok(Some(block)),
                    Err(error) => {
                        tracing::warn!(%cid, ?group, %error, "a scratch block is corrupt: dropped");
                        remove_file(&path);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.index().forget(group, &name);
        }
    }

    /// Writes the block. After an error nothing of it is left.
    pub(super) fn write(&self, group: Group, block: &Block) -> io::Result<()> {
        let name = key(&block.cid());
        if self.has_in(group, &name) {
            return Ok(());
        }
        let path = self.path(group, &name);
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("{number}.{UNFINISHED}"));
        let written = write_and_rename(&unfinished, &path, block.bytes());
        if let Err(error) = written {
            remove_file(&unfinished);
            return Err(error);
        }
        self.index().insert(group, name, block.len());
        self.shrink(Group::Cache, self.limits.cache);
        Ok(())
    }

    /// Puts blocks of `from` into `to` as well, without a copy. False when one of them is in
    /// neither any more; then some may have been put.
    pub(super) fn link(&self, names: &[Cid], from: Group, to: Group) -> io::Result<bool> {
        std::fs::create_dir_all(self.directory(to))?;
        for name in names.iter().map(key).filter(|name| Block::inlined(name).is_none()) {
            if self.index().touch_in(to, &name) {
                continue;
            }
            let Some(size) = self.index().size_in(from, &name) else { return Ok(false) };
            match std::fs::hard_link(self.path(from, &name), self.path(to, &name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.index().forget(from, &name);
                    return Ok(false);
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            self.index().touch_in(from, &name);
            self.index().insert(to, name, size);
        }
        if to == Group::Memo {
            self.shrink(to, self.limits.memo);
        }
        Ok(true)
    }

    /// Frees everything that was kept for `job`.
    pub(super) fn drop_job(&self, job: JobId) -> io::Result<()> {
        self.index().jobs.remove(&job);
        match std::fs::remove_dir_all(self.root.join(job.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the least recently used blocks of `group`, the cache or the memo, until it holds at
    /// most `limit` bytes.
    pub(super) fn shrink(&self, group: Group, limit: u64) {
        let evicted = self.index().kept(group).map(|kept| kept.shrink(limit)).unwrap_or_default();
        for name in evicted {
            remove_file(&self.path(group, &name));
        }
    }

    /// Bytes kept for each job.
    pub(super) fn jobs(&self) -> Vec<(JobId, u64)> {
        let index = self.index();
        index.jobs.iter().map(|(job, blocks)| (*job, blocks.values().sum())).collect()
    }

    /// Bytes in the cache.
    pub(super) fn cached(&self) -> u64 {
        self.index().cache.bytes
    }

    /// Bytes in the memo.
    pub(super) fn remembered(&self) -> u64 {
        self.index().memo.bytes
    }

    fn directory(&self, group: Group) -> PathBuf {
        match group {
            Group::Job(job) => self.root.join(job.to_string()),
            Group::Memo => self.root.join(MEMO),
            Group::Cache => self.root.join(CACHE),
        }
    }

    fn path(&self, group: Group, name: &Cid) -> PathBuf {
        self.directory(group).join(name.to_string())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn find(&self, name: &Cid) -> Option<Group> {
        let job = self.jobs.iter().find(|(_, blocks)| blocks.contains_key(name));
        match job {
            Some((job, _)) => Some(Group::Job(*job)),
            None if self.memo.holds(name) => Some(Group::Memo),
            None => self.cache.holds(name).then_some(Group::Cache),
        }
    }

    /// The group's blocks in the order of their use; none for a job, which keeps all it has.
    fn kept(&mut self, group: Group) -> Option<&mut Cache> {
        match group {
            Group::Job(_) => None,
            Group::Memo => Some(&mut self.memo),
            Group::Cache => Some(&mut self.cache),
        }
    }

    fn holds(&self, group: Group, name: &Cid) -> bool {
        self.size_in(group, name).is_some()
    }

    fn size_in(&self, group: Group, name: &Cid) -> Option<u64> {
        match group {
            Group::Job(job) => self.jobs.get(&job)?.get(name).copied(),
            Group::Memo => self.memo.size(name),
            Group::Cache => self.cache.size(name),
        }
    }

    /// As [`Index::find`], and counts as a use.
    fn touch(&mut self, name: &Cid) -> Option<Group> {
        let group = self.find(name)?;
        self.touch_in(group, name);
        Some(group)
    }

    /// As [`Index::holds`], and counts as a use.
    fn touch_in(&mut self, group: Group, name: &Cid) -> bool {
        if let Some(kept) = self.kept(group) {
            kept.touch(name);
        }
        self.holds(group, name)
    }

    fn insert(&mut self, group: Group, name: Cid, size: u64) {
        match group {
            Group::Job(job) => {
                self.jobs.entry(job).or_default().insert(name, size);
            }
            Group::Memo => self.memo.insert(name, size),
            Group::Cache => self.cache.insert(name, size),
        }
    }

    fn forget(&mut self, group: Group, name: &Cid) {
        match group {
            Group::Job(job) => {
                if let Some(blocks) = self.jobs.get_mut(&job) {
                    blocks.remove(name);
                }
            }
            Group::Memo => self.memo.remove(name),
            Group::Cache => self.cache.remove(name),
        }
    }
}

/// Which blocks the cache, or the memo, holds, in the order of their last use.
#[derive(Default)]
struct Cache {
    blocks: HashMap<Cid, (u64, u64)>,
    by_use: BTreeMap<u64, Cid>,
    bytes: u64,
    uses: u64,
}

impl Cache {
    fn holds(&self, name: &Cid) -> bool {
        self.blocks.contains_key(name)
    }

    fn size(&self, name: &Cid) -> Option<u64> {
        self.blocks.get(name).map(|(_, size)| *size)
    }

    fn touch(&mut self, name: &Cid) {
        if let Some((used, _)) = self.blocks.get_mut(name) {
            self.uses += 1;
            self.by_use.remove(used);
            self.by_use.insert(self.uses, *name);
            *used = self.uses;
        }
    }

    fn insert(&mut self, name: Cid, size: u64) {
        self.remove(&name);
        self.uses += 1;
        self.blocks.insert(name, (self.uses, size));
        self.by_use.insert(self.uses, name);
        self.bytes += size;
    }

    fn remove(&mut self, name: &Cid) {
        if let Some((used, size)) = self.blocks.remove(name) {
            self.by_use.remove(&used);
            self.bytes -= size;
        }
    }

    fn shrink(&mut self, limit: u64) -> Vec<Cid> {
        let mut evicted = Vec::new();
        while self.bytes > limit
            && let Some((_, name)) = self.by_use.pop_first()
        {
            if let Some((_, size)) = self.blocks.remove(&name) {
                self.bytes -= size;
            }
            evicted.push(name);
        }
        evicted
    }
}

/// The blocks of a directory, the oldest first.
fn blocks_in(directory: &Path) -> io::Result<Vec<(Cid, u64)>> {
    let mut blocks = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let file = file?;
        let name = file.file_name();
        match name.to_str().and_then(|name| name.parse::<Cid>().ok()) {
            Some(cid) => {
                let metadata = file.metadata()?;
                blocks.push((metadata.modified()?, cid, metadata.len()));
            }
            None => remove_file(&file.path()),
        }
    }
    blocks.sort_unstable_by_key(|(written, ..)| *written);
    Ok(blocks.into_iter().map(|(_, cid, size)| (cid, size)).collect())
}

fn write_and_rename(unfinished: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::write(unfinished, bytes) {
        // The first block of its job.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(unfinished, bytes)?;
        }
        written => written?,
    }
    std::fs::rename(unfinished, path)
}

/// Removes a file that may be gone already; one that cannot be removed costs room and is found
/// again at the next start.
fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a scratch file cannot be removed");
    }
}
