//! What owners have of this node: the results it holds for them, in bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipdc_jobs::ids::JobId;

use crate::state::{Db, StateError, held};

/// The results that this node holds for others, by owner. Clones share it.
#[derive(Clone)]
pub(super) struct Held {
    db: Db,
    bytes: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Held {
    /// What was held before.
    pub(super) async fn load(db: Db) -> Result<Held, StateError> {
        let bytes = held::by_owner(&db).await?;
        Ok(Held { db, bytes: Arc::new(Mutex::new(bytes)) })
    }

    /// Bytes of results held for `owner`.
    pub(super) fn of(&self, owner: &str) -> u64 {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.get(owner).copied().unwrap_or(0)
    }

    /// Counts what was fetched for the result of `job`.
    pub(super) async fn add(&self, job: JobId, owner: &str, more: u64) -> Result<(), StateError> {
        held::add(&self.db, job, owner.to_owned(), more).await?;
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let held = bytes.entry(owner.to_owned()).or_default();
        *held = held.saturating_add(more);
        Ok(())
    }
}
