//! Additions: what garbage collection spares before anything pins it.
//!
//! A block that is put is not pinned yet. From its put until the last clone of its [`Add`] is
//! dropped, no sweep removes it; whoever adds keeps the [`Add`] until the root is pinned. A
//! sweep that runs meanwhile also spares what was released since it began, because it read
//! the pins before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipdc_jobs::ids::Cid;

use super::super::block::{Block, key};
use super::{Store, StoreError, Tier};

/// Blocks on their way into the store, spared by garbage collection while a clone of this lives.
#[derive(Clone)]
pub struct Add {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tier: Tier,
    spared: Mutex<Vec<Cid>>,
}

impl Add {
    pub(super) fn new(store: Store, tier: Tier) -> Add {
        Add { inner: Arc::new(Inner { store, tier, spared: Mutex::default() }) }
    }

    /// The store it adds to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Where its blocks go.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.inner.tier
    }

    /// Puts a block. In [`Tier::Durable`] it is on the disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or failing; then nothing of the block is left.
    pub async fn put(&self, block: &Block) -> Result<(), StoreError> {
        self.inner.store.put(self, block).await
    }

    /// Puts a block that nobody is about to read here, as [`Add::put`]: from [`Tier::Durable`] the system
    /// keeps no copy of it in memory.
    ///
    /// # Errors
    /// As [`Add::put`].
    pub async fn put_away(&self, block: &Block) -> Result<(), StoreError> {
        self.put(block).await?;
        if self.tier() == Tier::Durable {
            self.inner.store.cool(&block.cid()).await?;
        }
        Ok(())
    }

    /// Spares a block that is, or may be, in the store already.
    pub async fn spare(&self, cid: &Cid) {
        self.inner.store.spare(self, cid).await;
    }

    pub(super) fn remember(&self, cid: &Cid) {
        let name = key(cid);
        self.inner.store.spared().insert(name);
        self.inner.spared.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let names = std::mem::take(self.spared.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.store.spared().release(names);
    }
}

/// The blocks that additions in flight have put, each with how many spare it.
#[derive(Default)]
pub(super) struct Spared {
    blocks: HashMap<Cid, u32>,
    sweeping: bool,
    /// Released while a sweep runs: spared until it ends.
    released: Vec<Cid>,
}

impl Spared {
    fn insert(&mut self, name: Cid) {
        *self.blocks.entry(name).or_insert(0) += 1;
    }

    fn release(&mut self, names: Vec<Cid>) {
        if self.sweeping {
            self.released.extend(names);
            return;
        }
        for name in names {
            if let Some(count) = self.blocks.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.blocks.remove(&name);
                }
            }
        }
    }

    pub(super) fn holds(&self, cid: &Cid) -> bool {
        self.blocks.contains_key(&key(cid))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// While this lives, what additions release stays spared.
pub(super) struct Sweeping<'a> {
    spared: &'a Mutex<Spared>,
}

impl<'a> Sweeping<'a> {
    pub(super) fn begin(spared: &'a Mutex<Spared>) -> Sweeping<'a> {
        lock(spared).sweeping = true;
        Sweeping { spared }
    }
}

impl Drop for Sweeping<'_> {
    fn drop(&mut self) {
        let mut spared = lock(self.spared);
        spared.sweeping = false;
        let released = std::mem::take(&mut spared.released);
        spared.release(released);
    }
}

pub(super) fn lock(spared: &Mutex<Spared>) -> MutexGuard<'_, Spared> {
    spared.lock().unwrap_or_else(PoisonError::into_inner)
}
