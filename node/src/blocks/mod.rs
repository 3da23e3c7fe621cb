//! Content-addressed blocks: files and directories of the swarm, on this disk and from others'.
//!
//! | room | what it holds |
//! |---|---|
//! | [`block`] | bytes that were hashed and found to be what their CID names |
//! | [`store`] | the two tiers on this disk |
//! | [`unixfs`] | files and directories as trees of blocks |
//! | [`exchange`] | `/ipdc/blocks/1`: blocks between admitted peers |
//! | [`bitswap`] | the same for the swarm's guests, who speak what all IPFS nodes speak |
//! | [`fetch`] | local first, then holders, then any peer, then guests |
//! | [`pins`] | what is kept, and collecting the rest |
//! | [`tables`] | the chunks that files are cut into |
//! | [`car`] | trees of blocks as files, for everyone else |
//!
//! Blocks flow one way: a stream or a file gives bytes, hashing makes them a [`Block`](block::Block),
//! an [`Add`] puts it into a tier. No bytes get in unhashed, and none get out of the store unhashed.
//!
//! # What a crash may lose
//!
//! - **Durable** blocks: nothing. Each is flushed before its put returns, so when a
//!   [`FileBuilder`] has finished or [`build_dir`](unixfs::build_dir) returned, the whole tree
//!   survives kill -9 and power loss, and so does a pin once [`Pins::pin`](pins::Pins::pin)
//!   returned. Blocks of an addition that was not finished are garbage, for the next collection.
//! - **Scratch** and **cache** blocks: nothing when only the process dies; any of them when the
//!   machine does. They are found missing or corrupt when read, and made or fetched again.
//! - A fetch that is cut off keeps every block that was put, and goes on from there.
//!
//! When nobody asks for anything, nothing here runs: there are no timers.

pub mod bitswap;
pub mod block;
pub mod car;
pub mod exchange;
pub mod fetch;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
pub mod pins;
pub mod store;
pub mod tables;
pub mod unixfs;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipdc_jobs::ids::{CODEC_RAW, Cid, FileRef, PeerId};
use tokio_util::task::AbortOnDropHandle;

use self::bitswap::Guests;
use self::fetch::{FetchError, Fetcher, Session};
use self::pins::Pins;
use self::store::{Add, Store, StoreError, Tier};
use self::tables::Tables;
use self::unixfs::{FileBuilder, FileReader};
use crate::state::Db;
use crate::swarm::streams::{Protocol, Streams};

/// This node's blocks: the store, the peers it fetches from, the pins; and serving the store to
/// other peers for as long as a clone of this lives.
#[derive(Clone)]
pub struct Blocks {
    store: Store,
    fetcher: Fetcher,
    pins: Pins,
    tables: Tables,
    _serving: Arc<[AbortOnDropHandle<()>; 2]>,
}

impl Blocks {
    /// Starts serving `store` to the peers of `streams`, and fetching from them. `stall` is how
    /// long a block may be nowhere to be had before that is an error ([`fetch::STALL`]).
    ///
    /// To be called within the async runtime.
    #[must_use]
    pub fn start(store: Store, db: Db, streams: Arc<dyn Streams>, stall: Duration) -> Blocks {
        let guests = Guests::new(store.clone(), streams.clone(), stall / 2);
        let asked = streams.incoming(Protocol::Blocks);
        let serving = exchange::serve(store.clone(), asked, streams.conduct().clone());
        let serving = [
            tokio::spawn(serving),
            tokio::spawn(guests.clone().serve(streams.incoming(Protocol::Bitswap))),
        ];
        let serving = serving.map(AbortOnDropHandle::new);
        let fetcher = Fetcher::new(store.clone(), streams, guests, stall);
        let tables = Tables::new(db.clone());
        let pins = Pins::new(db, store.clone());
        Blocks { store, fetcher, pins, tables, _serving: Arc::new(serving) }
    }

    /// What is held here.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is kept, and the collection of the rest.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The chunks that files are cut into.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Fetching.
    #[must_use]
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// A source of blocks that asks `holders` first and keeps what comes in `tier`.
    #[must_use]
    pub fn session(&self, holders: &[PeerId], tier: Tier) -> Session {
        self.fetcher.session(holders, tier)
    }

    /// Adds a file that is in memory already, as a part of `add`: pin it before `add` is dropped.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub async fn add_bytes(&self, add: &Add, bytes: &[u8]) -> Result<FileRef, StoreError> {
        let mut file = FileBuilder::new(add.clone());
        file.write(bytes).await?;
        file.finish().await
    }

    /// The blocks of the tree at `root`, which must be here.
    ///
    /// # Errors
    /// When a node of the tree is not, or is not of a known form.
    pub async fn tree(&self, root: Cid) -> Result<Vec<Cid>, unixfs::Error> {
        let mut blocks = vec![root];
        let mut looked_at = 0;
        while let Some(cid) = blocks.get(looked_at).copied() {
            looked_at += 1;
            if cid.codec() != CODEC_RAW {
                let block = self.store.get(&cid).await?;
                blocks.extend(unixfs::links(&block.ok_or_else(|| FetchError::not_here(cid))?)?);
            }
        }
        Ok(blocks)
    }

    /// All bytes of a small file.
    ///
    /// # Errors
    /// When it has more than `limit` bytes, or a block of it cannot be had.
    pub async fn read(
        &self,
        session: &Session,
        file: &FileRef,
        limit: usize,
    ) -> Result<Bytes, unixfs::Error> {
        let too_long = || unixfs::Error::Limit { what: "a file longer", limit };
        let len =
            usize::try_from(file.len).ok().filter(|len| *len <= limit).ok_or_else(too_long)?;
        let mut reader = FileReader::open_file(session.clone(), file).await?;
        let first = reader.read_at(0, len).await?;
        if first.len() == len {
            return Ok(first);
        }
        let mut bytes = BytesMut::with_capacity(len);
        bytes.extend_from_slice(&first);
        while bytes.len() < len {
            let at = bytes.len();
            bytes.extend_from_slice(&reader.read_at(at as u64, len - at).await?);
        }
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::blocks::fetch::STALL;
    use crate::blocks::store::tests::world;
    use crate::state::pins::Reason;
    use crate::swarm::streams::memory::Network;

    async fn blocks(network: &Network) -> (PeerId, Blocks, tempfile::TempDir) {
        let (id, world) = (PeerId::random(), world().await);
        let db = Db::in_memory().unwrap();
        let blocks = Blocks::start(world.store, db, network.peer(id), STALL);
        (id, blocks, world.directory)
    }

    #[tokio::test]
    async fn what_one_node_adds_another_reads_keeps_and_serves() {
        let network = Network::new();
        let (one, first, _first_home) = blocks(&network).await;
        let (other, second, _second_home) = blocks(&network).await;
        let (_, third, _third_home) = blocks(&network).await;
        let bytes = vec![42; 3 << 20];
        let add = first.store().add(Tier::Durable);
        let file = first.add_bytes(&add, &bytes).await.unwrap();
        first.pins().pin(file.cid, Reason::User).await.unwrap();
        drop(add);

        let session = second.session(&[one], Tier::Durable);
        session.fetch_all(file.cid, |_| {}).await.unwrap();
        second.pins().pin(file.cid, Reason::User).await.unwrap();
        drop(session);
        second.pins().gc().await.unwrap();
        network.remove(one);

        let session = third.session(&[one, other], Tier::Cache);
        assert!(third.read(&session, &file, bytes.len()).await.unwrap() == bytes);
        let too_long = third.read(&session, &file, bytes.len() - 1).await;
        assert!(matches!(too_long, Err(unixfs::Error::Limit { .. })));
    }
}
