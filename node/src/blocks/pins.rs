//! What is kept: pins, garbage collection, how the disk is used.
//!
//! The pins are rows in the node's database ([`crate::state::pins`]); nothing else says what is kept
//! (rust-ipfs's own pins are not used). A pin keeps the whole tree below its root. Garbage
//! collection reads the pins, walks their trees, and removes every durable block that is in none and
//! is not part of an addition in flight ([`Add`]). It may be killed at any moment:
//! what it left is garbage for the next time. Scratch is not its concern.

use std::collections::HashSet;

use ipdc_jobs::ids::{CODEC_RAW, Cid};

use super::block::key;
use super::fetch::FetchError;
use super::store::{Add, Store, StoreError, Swept, Tier};
use super::unixfs;
use crate::state::pins::{self as table, Pin, Reason};
use crate::state::{Db, StateError};

/// Blocks of a tree that are looked for at the same time: each waits for a thread and for the disk.
const LOOKS: usize = 16;

/// A tree could not be pinned or unpinned, or the garbage not collected.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PinError {
    /// Blocks of the tree are missing, or are not of a known form.
    #[error("{root} is not held whole")]
    #[diagnostic(
        code("IPDC-3401"),
        help("fetch it first: a pin keeps what is here, it does not get what is not")
    )]
    NotWhole {
        /// The root of the tree.
        root: Cid,
        /// What is missing.
        #[source]
        source: Box<unixfs::Error>,
    },
    /// There is no such pin.
    #[error("{root} is not pinned for {reason}")]
    #[diagnostic(code("IPDC-3402"), help("`ipdc pins` lists what is pinned, and why"))]
    NotPinned {
        /// The root of the tree.
        root: Cid,
        /// The reason given.
        reason: Reason,
    },
    /// The block store failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// The node's database failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

/// How the disk is used, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The durable tier.
    pub durable: u64,
    /// The part of it that pins keep.
    pub pinned: u64,
    /// Jobs' scratch files.
    pub scratch: u64,
    /// The cache of fetched blocks.
    pub cache: u64,
    /// Outputs that the memo names.
    pub memo: u64,
    /// What is free.
    pub free: u64,
}

/// The pins of one store. Clones are handles.
#[derive(Clone)]
pub struct Pins {
    db: Db,
    store: Store,
}

impl Pins {
    /// The pins that `db` holds for `store`.
    #[must_use]
    pub fn new(db: Db, store: Store) -> Pins {
        Pins { db, store }
    }

    /// Keeps the tree at `root`. Its blocks must all be here; those in scratch or cache are copied
    /// to the durable tier. When this returns, pin and blocks survive a crash. A tree that is kept for
    /// another reason already is not looked through again.
    ///
    /// # Errors
    /// [`PinError::NotWhole`] when a block is missing; when disk or database fail.
    pub async fn pin(&self, root: Cid, reason: Reason) -> Result<(), PinError> {
        let pin = Pin { root, reason };
        if table::insert_beside(&self.db, pin).await? {
            return Ok(());
        }
        // Nothing of the tree is swept while it is looked through.
        let add = self.store.add(Tier::Durable);
        let whole = self.make_durable(&add, root).await;
        whole.map_err(|source| PinError::NotWhole { root, source: Box::new(source) })?;
        Ok(table::insert(&self.db, pin).await?)
    }

    async fn make_durable(&self, add: &Add, root: Cid) -> Result<(), unixfs::Error> {
        let looked_at = async |cid: Cid| {
            add.spare(&cid).await;
            if cid.codec() == CODEC_RAW && self.store.has_in(Tier::Durable, &cid).await? {
                return Ok(None);
            }
            let block = self.store.get(&cid).await?.ok_or_else(|| FetchError::not_here(cid))?;
            add.put(&block).await?;
            Ok(Some(block))
        };
        unixfs::walk(root, LOOKS, looked_at, |_| {}).await
    }

    /// No longer keeps the tree for `reason`; others may.
    ///
    /// # Errors
    /// [`PinError::NotPinned`] when it was not kept for that; when the database fails.
    pub async fn unpin(&self, root: Cid, reason: Reason) -> Result<(), PinError> {
        let was_pinned = table::delete(&self.db, Pin { root, reason }).await?;
        if was_pinned { Ok(()) } else { Err(PinError::NotPinned { root, reason }) }
    }

    /// No longer keeps anything for `reason`, and says how many trees that were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(&self, reason: Reason) -> Result<usize, PinError> {
        Ok(table::delete_all(&self.db, reason).await?)
    }

    /// All pins, by root.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<Pin>, PinError> {
        Ok(table::all(&self.db).await?)
    }

    /// Removes every durable block that no pin keeps and no addition spares.
    ///
    /// # Errors
    /// When disk or database fail; then some garbage is left.
    pub async fn gc(&self) -> Result<Swept, PinError> {
        // Before the pins are read: what is pinned from here on was spared from here on.
        let sweep = self.store.begin_sweep().await;
        let kept = self.kept().await?;
        Ok(sweep.run(&kept).await?)
    }

    /// How the disk is used. Looks at every file.
    ///
    /// # Errors
    /// When disk or database fail.
    pub async fn du(&self) -> Result<Usage, PinError> {
        let mut pinned = 0;
        for cid in self.kept().await? {
            pinned += self.store.size_of(&cid).await?;
        }
        Ok(Usage {
            durable: self.store.durable_bytes().await?,
            pinned,
            scratch: self.store.scratch_jobs().iter().map(|(_, bytes)| bytes).sum(),
            cache: self.store.cached(),
            memo: self.store.remembered(),
            free: self.store.free()?,
        })
    }

    /// The blocks of all pinned trees, by their version 1 names.
    async fn kept(&self) -> Result<HashSet<Cid>, PinError> {
        let mut open: Vec<Cid> = self.list().await?.into_iter().map(|pin| pin.root).collect();
        let mut kept = HashSet::new();
        while let Some(cid) = open.pop() {
            if !kept.insert(key(&cid)) || cid.codec() == CODEC_RAW {
                continue;
            }
            match self.store.get(&cid).await? {
                Some(block) => match unixfs::links(&block) {
                    Ok(links) => open.extend(links),
                    Err(error) => tracing::warn!(%cid, %error, "a pinned tree has a foreign node"),
                },
                // It was corrupt. What only it named is lost track of until it is fetched again.
                None => tracing::warn!(%cid, "a node of a pinned tree is missing"),
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use ipdc_jobs::ids::{FileRef, JobId};

    use super::*;
    use crate::blocks::block::{Block, CHUNK};
    use crate::blocks::store::tests::{World, world};
    use crate::blocks::unixfs::{FileBuilder, FileReader, build_dir};

    fn pins(world: &World) -> Pins {
        Pins::new(Db::in_memory().unwrap(), world.store.clone())
    }

    async fn file(add: &Add, seed: u8) -> FileRef {
        let mut file = FileBuilder::new(add.clone());
        file.write(&vec![seed; CHUNK]).await.unwrap();
        file.write(&vec![seed + 1; CHUNK + 7]).await.unwrap();
        file.finish().await.unwrap()
    }

    async fn is_whole(world: &World, file: &FileRef) -> bool {
        let reader = FileReader::open_file(world.store.clone(), file).await;
        let Ok(mut reader) = reader else { return false };
        let mut at = 0;
        while at < file.len {
            match reader.read_at(at, usize::MAX).await {
                Ok(bytes) => at += bytes.len() as u64,
                Err(_) => return false,
            }
        }
        true
    }

    #[tokio::test]
    async fn a_tree_stays_while_any_of_its_reasons_does() {
        let world = world().await;
        let pins = pins(&world);
        let job = Reason::Job(JobId::of_manifest(b"live"));
        let add = world.store.add(Tier::Durable);
        let kept = file(&add, 10).await;
        drop(add);
        for reason in [Reason::User, job] {
            pins.pin(kept.cid, reason).await.unwrap();
        }
        pins.unpin(kept.cid, Reason::User).await.unwrap();
        pins.gc().await.unwrap();
        assert!(is_whole(&world, &kept).await);
        pins.unpin(kept.cid, job).await.unwrap();
        pins.gc().await.unwrap();
        assert!(!is_whole(&world, &kept).await);
        let gone = pins.pin(kept.cid, job).await;
        assert!(matches!(gone, Err(PinError::NotWhole { .. })));
    }

    #[tokio::test]
    async fn collection_spares_pinned_trees_and_additions_in_flight() {
        let world = world().await;
        let pins = pins(&world);
        let job = Reason::Job(JobId::of_manifest(b"live"));
        let add = world.store.add(Tier::Durable);
        let (user, live, garbage) =
            (file(&add, 10).await, file(&add, 20).await, file(&add, 30).await);
        let entries = [("sub/file".to_owned(), user)];
        let root = build_dir(&add, &world.store, entries).await.unwrap();
        pins.pin(root, Reason::User).await.unwrap();
        pins.pin(live.cid, job).await.unwrap();
        drop(add);
        let add = world.store.add(Tier::Durable);
        let adding = file(&add, 40).await;

        let swept = pins.gc().await.unwrap();
        assert_eq!(swept.blocks, 4);
        for file in [&user, &live, &adding] {
            assert!(is_whole(&world, file).await);
        }
        assert!(!is_whole(&world, &garbage).await);
        let usage = pins.du().await.unwrap();
        assert!(usage.pinned > 4 * CHUNK as u64 && usage.pinned < usage.durable);

        // What nothing needs any more goes, what another reason keeps stays.
        pins.pin(live.cid, Reason::User).await.unwrap();
        assert_eq!(pins.release(job).await.unwrap(), 1);
        pins.unpin(root, Reason::User).await.unwrap();
        drop(add);
        pins.gc().await.unwrap();
        assert!(is_whole(&world, &live).await);
        assert!(!is_whole(&world, &user).await && !is_whole(&world, &adding).await);
        pins.unpin(live.cid, Reason::User).await.unwrap();
        pins.gc().await.unwrap();
        assert_eq!(world.store.durable_bytes().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn collections_during_additions_take_nothing_that_gets_pinned() {
        let world = world().await;
        let pins = pins(&world);
        let collecting = async {
            for _ in 0..20 {
                pins.gc().await.unwrap();
            }
        };
        let adding = async {
            let mut files = Vec::new();
            for seed in 0..20 {
                let add = world.store.add(Tier::Durable);
                let file = file(&add, seed * 2).await;
                pins.pin(file.cid, Reason::User).await.unwrap();
                files.push(file);
            }
            files
        };
        let ((), files) = tokio::join!(collecting, adding);
        pins.gc().await.unwrap();
        for file in &files {
            assert!(is_whole(&world, file).await);
        }
    }

    #[tokio::test]
    async fn a_tree_with_a_hole_cannot_be_pinned() {
        let world = world().await;
        let pins = pins(&world);
        let file = file(&world.store.add(Tier::Durable), 1).await;
        let leaf = Block::raw(Bytes::from(vec![1; CHUNK]));
        world.store.remove(&leaf.cid()).await.unwrap();
        let error = pins.pin(file.cid, Reason::User).await.unwrap_err();
        let PinError::NotWhole { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(&leaf.cid().to_string()));
        assert_eq!(pins.list().await.unwrap(), []);
        let unpinned = pins.unpin(file.cid, Reason::User).await;
        assert!(matches!(unpinned, Err(PinError::NotPinned { .. })));
    }

    #[tokio::test]
    async fn pinning_makes_scratch_durable() {
        let world = world().await;
        let pins = pins(&world);
        let job = JobId::of_manifest(b"job");
        let file = file(&world.store.add(Tier::Scratch(job)), 1).await;
        pins.pin(file.cid, Reason::Result(job)).await.unwrap();
        world.store.drop_job(job).await.unwrap();
        pins.gc().await.unwrap();
        assert!(is_whole(&world, &file).await);
    }
}
