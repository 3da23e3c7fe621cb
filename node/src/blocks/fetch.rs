//! Fetching blocks.

use std::fmt;
use std::sync::Arc;

use ipdc_jobs::ids::{Cid, PeerId};

use super::block::{BadBlock, Block};
use super::store::{Store, StoreError};
use super::unixfs::Source;

/// A block could not be had.
#[derive(Debug, Clone, thiserror::Error, miette::Diagnostic)]
pub enum FetchError {
    /// Nobody has it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Missing(Box<Missing>),
    /// It cannot be checked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Bad(#[from] BadBlock),
    /// This node's own disk failed or is full.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(Arc<StoreError>),
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> FetchError {
        FetchError::Store(Arc::new(error))
    }
}

/// A block that nobody has, and who was asked for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[diagnostic(
    code("IPDC-3301"),
    help(
        "start a node that holds it, or add the file again; blocks that nobody pins are collected"
    )
)]
pub struct Missing {
    /// The block.
    pub cid: Cid,
    /// Who was asked, and what each said.
    pub asked: Vec<(PeerId, Reply)>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} is not held here", self.cid)?;
        for (n, (peer, reply)) in self.asked.iter().enumerate() {
            write!(f, "{} {peer}: {reply}", if n == 0 { "; asked" } else { "," })?;
        }
        Ok(())
    }
}

/// What a peer said that was asked for a block and did not give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It does not hold it.
    NotHeld,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::NotHeld => f.write_str("does not hold it"),
        }
    }
}

impl Source for Store {
    async fn get(&self, cid: &Cid) -> Result<Block, FetchError> {
        let missing = || Missing { cid: *cid, asked: Vec::new() };
        Store::get(self, cid).await?.ok_or_else(|| FetchError::Missing(Box::new(missing())))
    }
}
