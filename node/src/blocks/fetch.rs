//! Fetching: local first, then from the peers that are said to hold a block, then from any, then from
//! guests.
//!
//! [`Fetcher`] finds one block; whoever wants the same block meanwhile waits for the same answer.
//! A [`Session`] is one reader's view of it: which peers to ask first, where what comes is
//! kept, how many bytes came. It owns no block and no stream; what it keeps in memory is the
//! wants in flight, and who lied.
//!
//! A hunt for one block asks one peer after the other, the next at once when one says no and after
//! a tenth of the stall time when one says nothing. Half the stall time after it began it asks
//! all that are left, and a peer that is silent for the other half is given up: so a block that
//! nobody has is an error within the stall time. Only a peer that is sending may take longer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, Shared, WeakShared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use ipdc_jobs::ids::{CODEC_RAW, Cid, PeerId};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::bitswap::Guests;
use super::block::{BadBlock, Block};
use super::exchange::{Client, Reply};
use super::store::{Add, Store, StoreError, Tier};
use super::unixfs::{self, Source};
use crate::swarm::streams::Streams;

/// How long a block may be nowhere to be had before that is an error, unless the node's settings say
/// otherwise: two nodes that lose each other find back within 10 s.
pub const STALL: Duration = Duration::from_secs(20);

/// The part of the stall time after which a peer that says nothing is not waited for alone.
const HEDGE: u32 = 10;

/// How often a hunt that waits looks who has connected. Only while a block is wanted that none of
/// the connected peers has.
const LOOK: Duration = Duration::from_millis(200);

/// Peers that are asked in the last round at most: a block that 32 peers lack is not worth asking a
/// thousand.
const LAST_ROUND: usize = 32;

/// How long a peer that sent wrong bytes is not asked again: long enough that it costs nothing, short
/// enough that a node with new memory in it is used again.
const BLAME_TIME: Duration = Duration::from_secs(600);

/// Blocks that [`Session::fetch_all`] has on their way at a time, and so its memory in MiB.
const IN_FLIGHT: usize = 16;

/// Blocks up to this length are cached when they come first: to ask for one again takes longer than to
/// write it.
const SMALL: u64 = 64 * 1024;

/// Larger blocks that are remembered to have come once: 16 GiB of input.
const PASSED: usize = 1 << 14;

/// A block could not be had.
#[derive(Debug, Clone, thiserror::Error, miette::Diagnostic)]
pub enum FetchError {
    /// Nobody has it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Missing(Box<Missing>),
    /// It cannot be checked, so nobody is asked for it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Bad(#[from] BadBlock),
    /// This node's own disk is full or failing.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(Arc<StoreError>),
}

impl FetchError {
    /// The store alone was asked, and does not hold the block.
    pub(super) fn not_here(cid: Cid) -> FetchError {
        FetchError::Missing(Box::new(Missing { cid, asked: Vec::new() }))
    }
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
        if self.asked.is_empty() {
            return f.write_str(", and there was nobody to ask");
        }
        f.write_str("; asked")?;
        for (n, (peer, reply)) in self.asked.iter().enumerate() {
            write!(f, "{} {peer}: {reply}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Source for Store {
    /// The local store alone.
    async fn get(&self, cid: &Cid) -> Result<Block, FetchError> {
        Store::get(self, cid).await?.ok_or_else(|| FetchError::not_here(*cid))
    }
}

/// Finds blocks, here or at other peers. Clones share what they wait for.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    client: Client,
    guests: Guests,
    stall: Duration,
    hunts: Mutex<HashMap<Cid, WeakShared<Hunt>>>,
    passed: Mutex<Passed>,
    blamed: Mutex<HashMap<PeerId, Instant>>,
}

type Hunt = BoxFuture<'static, Result<Found, FetchError>>;

/// How a hunt ended well.
#[derive(Clone)]
struct Found {
    block: Block,
    /// Whether it came from a peer; it may also have come into the store meanwhile.
    fetched: bool,
}

impl Fetcher {
    /// A fetcher for `store` from the peers of `streams`, and from `guests` what no peer has. `stall`
    /// bounds the wait for a block that nobody has.
    #[must_use]
    pub fn new(
        store: Store,
        streams: Arc<dyn Streams>,
        guests: Guests,
        stall: Duration,
    ) -> Fetcher {
        let client = Client::new(streams, stall / 2);
        let (hunts, passed, blamed) = Default::default();
        Fetcher { inner: Arc::new(Inner { store, client, guests, stall, hunts, passed, blamed }) }
    }

    /// A session that asks `holders` first and keeps what comes in `tier`.
    #[must_use]
    pub fn session(&self, holders: &[PeerId], tier: Tier) -> Session {
        self.session_for(holders, self.inner.store.add(tier))
    }

    /// A session that asks `holders` first and keeps what comes as a part of `add`.
    #[must_use]
    pub fn session_for(&self, holders: &[PeerId], add: Add) -> Session {
        Session { fetcher: self.clone(), holders: holders.into(), add, fetched: Arc::default() }
    }

    /// The peers that sent wrong bytes lately and are not asked for now.
    #[must_use]
    pub fn blamed(&self) -> Vec<PeerId> {
        let mut blamed = lock(&self.inner.blamed);
        blamed.retain(|_, since| since.elapsed() < BLAME_TIME);
        blamed.keys().copied().collect()
    }

    /// The block, kept where one of those who want it keeps it; and whether it was fetched for this
    /// caller.
    async fn fetch(
        &self,
        cid: Cid,
        holders: &[PeerId],
        add: &Add,
    ) -> Result<(Block, bool), FetchError> {
        loop {
            let (hunt, mine) = self.hunt(cid, holders, add);
            match hunt.await {
                Ok(found) => return Ok((found.block, mine && found.fetched)),
                Err(error) if mine => return Err(error),
                // Whoever hunted may not have known of our holders, or had no room in another tier.
                Err(FetchError::Missing(missing)) => {
                    let asked = |peer| missing.asked.iter().any(|(asked, _)| asked == peer);
                    if holders.iter().all(asked) {
                        return Err(FetchError::Missing(missing));
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// Puts a block that came. A large one that is to be kept stays out of memory: a copy is there so that
    /// nothing is lost, and most who read it do so elsewhere. The cache takes a large one the second
    /// time that it comes: most of what a job reads is read once, by one task, and writing it would
    /// cost as much as its journey. (Maggs and Sitaraman, "Algorithmic nuggets in content
    /// delivery", 2015, section 3: cache on second hit.) What was durable until it went bad is
    /// durable again.
    async fn keep(&self, add: &Add, block: &Block) -> Result<(), StoreError> {
        let is_large = block.len() > SMALL;
        if add.tier() != Tier::Cache {
            return if is_large { add.put_away(block).await } else { add.put(block).await };
        }
        let store = &self.inner.store;
        let put = if store.is_spoilt(&block.cid()) {
            store.add(Tier::Durable).put(block).await
        } else if !is_large || lock(&self.inner.passed).again(&block.cid()) {
            add.put(block).await
        } else {
            return Ok(());
        };
        match put {
            // A cache without room need not hold what its reader has.
            Err(StoreError::Full { .. }) => Ok(()),
            put => put,
        }
    }

    /// The hunt for `cid` that is on, or a new one, and whether it is new.
    fn hunt(&self, cid: Cid, holders: &[PeerId], add: &Add) -> (Shared<Hunt>, bool) {
        let mut hunts = lock(&self.inner.hunts);
        if let Some(hunt) = hunts.get(&cid).and_then(WeakShared::upgrade) {
            return (hunt, false);
        }
        let forget = Forget { fetcher: self.clone(), cid };
        let (fetcher, holders, add) = (self.clone(), holders.to_vec(), add.clone());
        let hunt = async move {
            let _forget = forget;
            // An earlier hunt may have ended since its caller looked.
            if let Some(block) = fetcher.inner.store.get(&cid).await? {
                return Ok(Found { block, fetched: false });
            }
            let block = Hunting::new(&fetcher, cid, &holders).run().await?;
            // Before the hunt is off the list: whoever comes later finds it in the store, if it is kept.
            fetcher.keep(&add, &block).await?;
            Ok(Found { block, fetched: true })
        };
        let hunt = hunt.boxed().shared();
        if let Some(weak) = hunt.downgrade() {
            hunts.insert(cid, weak);
        }
        (hunt, true)
    }
}

/// The blocks that came once and went by, the last [`PASSED`] of them.
#[derive(Default)]
struct Passed {
    names: HashSet<u64>,
    in_order: VecDeque<u64>,
}

impl Passed {
    /// Whether the block went by before; it has by now.
    fn again(&mut self, cid: &Cid) -> bool {
        let digest = cid.hash().digest();
        let name = digest.first_chunk().map_or(0, |eight| u64::from_be_bytes(*eight));
        if !self.names.insert(name) {
            return true;
        }
        self.in_order.push_back(name);
        if self.in_order.len() > PASSED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.names.remove(&oldest);
        }
        false
    }
}

/// Takes a hunt off the list when it ended or everybody lost interest.
struct Forget {
    fetcher: Fetcher,
    cid: Cid,
}

impl Drop for Forget {
    fn drop(&mut self) {
        lock(&self.fetcher.inner.hunts).remove(&self.cid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The search for one block.
struct Hunting<'a> {
    fetcher: &'a Fetcher,
    cid: Cid,
    holders: &'a [PeerId],
    /// What was said, last by each.
    replies: HashMap<PeerId, Reply>,
    /// Who is being asked, or was asked and need not be again before the next look.
    asked: HashSet<PeerId>,
    /// Those who were asked that are guests.
    guests: HashSet<PeerId>,
}

impl<'a> Hunting<'a> {
    fn new(fetcher: &'a Fetcher, cid: Cid, holders: &'a [PeerId]) -> Hunting<'a> {
        let (replies, asked, guests) = Default::default();
        Hunting { fetcher, cid, holders, replies, asked, guests }
    }

    async fn run(mut self) -> Result<Block, FetchError> {
        let began = Instant::now();
        let Inner { stall, client, guests, .. } = &*self.fetcher.inner;
        let stall = *stall;
        let last_round = began + stall / 2;
        let mut hedge = began;
        let mut in_last_round = false;
        let mut asking = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let width = match (now >= last_round, asking.is_empty() || now >= hedge) {
                (true, _) if !in_last_round => LAST_ROUND,
                (false, true) => 1,
                _ => 0,
            };
            in_last_round = now >= last_round;
            for (peer, kind) in self.candidates().into_iter().take(width) {
                self.asked.insert(peer);
                if kind == Kind::Guest {
                    self.guests.insert(peer);
                }
                let cid = self.cid;
                asking.push(async move {
                    let said = match kind {
                        Kind::Member => client.ask(peer, cid).await,
                        Kind::Guest => guests.ask(peer, cid).await,
                    };
                    (peer, said)
                });
                hedge = now + stall / HEDGE;
            }
            if asking.is_empty() {
                if in_last_round || self.is_hopeless() {
                    return Err(self.missing());
                }
                sleep_until(last_round.min(now + LOOK)).await;
                // Whoever could not answer may be able to now.
                let replies = &self.replies;
                self.asked.retain(|peer| replies.get(peer).is_some_and(is_final));
                continue;
            }
            let until =
                if in_last_round { None } else { Some(last_round.min(hedge.max(now + LOOK))) };
            let answered = match until {
                Some(until) => timeout_at(until, asking.next()).await.ok().flatten(),
                None => asking.next().await,
            };
            match answered {
                Some((_, Ok(block))) => return Ok(block),
                Some((peer, Err(reply))) => self.note(peer, reply),
                None => {}
            }
        }
    }

    /// Whom to ask next: connected holders before others, of each the one that owes least first; then
    /// guests.
    fn candidates(&self) -> Vec<(PeerId, Kind)> {
        let Inner { client, guests, .. } = &*self.fetcher.inner;
        let blamed = self.fetcher.blamed();
        let mut peers = client.connected();
        peers.retain(|peer| !self.asked.contains(peer) && !blamed.contains(peer));
        peers.sort_by_cached_key(|peer| (!self.holders.contains(peer), client.load(peer)));
        let peers = peers.into_iter().map(|peer| (peer, Kind::Member));
        let guests = guests.connected().into_iter().filter(|guest| !self.asked.contains(guest));
        peers.chain(guests.map(|guest| (guest, Kind::Guest))).collect()
    }

    /// Whether waiting for somebody else to connect makes no sense: some members were asked, the holders
    /// among them, and all are sure.
    fn is_hopeless(&self) -> bool {
        let sure = |peer: &PeerId| self.replies.get(peer).is_some_and(is_final);
        self.replies.keys().any(|peer| !self.guests.contains(peer))
            && self.replies.keys().chain(self.holders).all(sure)
    }

    fn note(&mut self, peer: PeerId, reply: Reply) {
        if reply == Reply::Lied {
            lock(&self.fetcher.inner.blamed).insert(peer, Instant::now());
        }
        self.replies.insert(peer, reply);
    }

    fn missing(mut self) -> FetchError {
        for peer in self.holders {
            let away = || Reply::Unreachable("not connected".into());
            self.replies.entry(*peer).or_insert_with(away);
        }
        let mut asked: Vec<_> = self.replies.into_iter().collect();
        asked.sort_by_key(|(peer, _)| *peer);
        FetchError::Missing(Box::new(Missing { cid: self.cid, asked }))
    }
}

/// What a peer that can be asked is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Member,
    Guest,
}

/// Whether asking the peer again soon would give the same reply.
fn is_final(reply: &Reply) -> bool {
    matches!(reply, Reply::NotHeld | Reply::Lied)
}

/// One reader's fetching. Clones share the count of bytes. In the durable tier, no collection takes
/// what it got until the last clone is dropped.
#[derive(Clone)]
pub struct Session {
    fetcher: Fetcher,
    holders: Arc<[PeerId]>,
    add: Add,
    fetched: Arc<AtomicU64>,
}

impl Session {
    /// Bytes that came from other peers for this session.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// The block, held in the session's tier from now on if that is [`Tier::Durable`].
    ///
    /// # Errors
    /// [`FetchError::Missing`] within the stall time when nobody has it.
    pub async fn get(&self, cid: &Cid) -> Result<Block, FetchError> {
        self.add.spare(cid).await;
        let store = self.add.store();
        if let Some(block) = store.get(cid).await? {
            if self.add.tier() == Tier::Durable {
                self.add.put(&block).await?;
            }
            return Ok(block);
        }
        Block::can_check(cid)?;
        let (block, fetched) = self.fetcher.fetch(*cid, &self.holders, &self.add).await?;
        if fetched {
            self.fetched.fetch_add(block.len(), Ordering::Relaxed);
        } else {
            self.fetcher.keep(&self.add, &block).await?;
        }
        Ok(block)
    }

    /// Fetches all blocks below `root` that the session's tier lacks, several at a time from several
    /// peers. What was there before, or was kept before an error, is not fetched again. `progress`
    /// is told of each block: the bytes of all so far.
    ///
    /// # Errors
    /// When a block cannot be had or kept, or is not of a form whose links are known.
    pub async fn fetch_all(
        &self,
        root: Cid,
        mut progress: impl FnMut(u64),
    ) -> Result<(), unixfs::Error> {
        let missing = async |cid: Cid| {
            let leaf_is_held = cid.codec() == CODEC_RAW && self.holds(&cid).await?;
            Ok(if leaf_is_held { None } else { Some(self.get(&cid).await?) })
        };
        let mut bytes = 0;
        unixfs::walk(root, IN_FLIGHT, missing, |block| {
            bytes += block.len();
            progress(bytes);
        })
        .await
    }

    async fn holds(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.add.spare(cid).await;
        match self.add.tier() {
            Tier::Durable => self.add.store().has_in(Tier::Durable, cid).await,
            _ => self.add.store().has(cid).await,
        }
    }
}

impl Source for Session {
    async fn get(&self, cid: &Cid) -> Result<Block, FetchError> {
        Session::get(self, cid).await
    }
}

#[cfg(test)]
mod tests;
