//! Who works for a job, and where a task is at home.
//!
//! Both are rendezvous hashes: each peer gets a score from its own ID and the job's (or the
//! data's), and the highest win. A peer that comes or goes changes nobody else's score, so the
//! same data goes to the same node next time, where memo and blocks are warm.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::types::{Needs, PeerFacts};
use crate::ids::{JobId, PeerId};
use crate::manifest::Limits;

/// How far above its fair share a worker may be loaded before a task goes to its next choice, in
/// percent. With three equal workers the least loaded then still gets over a quarter.
const OVERLOAD_PERCENT: u64 = 10;

/// A peer's rank for a job: `sha256(job ID ‖ peer ID)`, the lowest first.
pub(super) fn rank(job: &JobId, peer: &PeerId) -> [u8; 32] {
    rank_of(job.as_bytes(), peer)
}

fn rank_of(name: &[u8], peer: &PeerId) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update(peer.to_bytes());
    hasher.finalize().into()
}

/// Who can run something that needs `needs` and may take `memory` bytes: the peers in the order of their rank for its
/// `name`; and why each of the others cannot.
#[must_use]
pub fn candidates(
    name: &[u8],
    needs: &Needs,
    memory: u64,
    peers: impl IntoIterator<Item = (PeerId, PeerFacts)>,
) -> (Vec<PeerId>, Vec<(PeerId, String)>) {
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    for (peer, facts) in peers {
        match fit(&for_job(facts, needs), needs, memory) {
            Ok(()) => able.push(peer),
            Err(unfit) => unable.push((peer, unfit.to_string())),
        }
    }
    able.sort_by_cached_key(|peer| rank_of(name, peer));
    (able, unable)
}

/// Why a peer cannot work for a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum Unfit {
    /// It lacks a runtime or a label.
    #[error("without {0}")]
    Lacks(String),
    /// It has less memory than the job asks for.
    #[error("with less memory than is asked for")]
    TooSmall,
    /// It has, as was found out, less memory than the job's code takes.
    #[error("with less memory than it takes")]
    Outgrown,
    /// Its policy, or it said so itself.
    #[error("unwilling ({0})")]
    Refuses(String),
    /// It has no slots at all.
    #[error("without slots")]
    NoSlots,
}

/// What is known of a peer, as far as a job goes: its slots are as many as it has room for attempts of that.
pub(super) fn for_job(facts: PeerFacts, needs: &Needs) -> PeerFacts {
    PeerFacts { slots: needs.takes.room(&facts), ..facts }
}

/// Whether a peer with these facts can run attempts that need `needs` and may take `memory` bytes.
///
/// The memory is what an attempt may take at most, and few do: a job that leaves it as it is by
/// default runs anywhere, and a worker that has too little for its code after all gives the attempt back. Who
/// asks for more than the default means it.
pub(super) fn fit(facts: &PeerFacts, needs: &Needs, memory: u64) -> Result<(), Unfit> {
    if let Some(reason) = &facts.refuses {
        return Err(Unfit::Refuses(reason.clone()));
    }
    if let Some(runtime) = needs.runtimes.difference(&facts.runtimes).next() {
        return Err(Unfit::Lacks(format!("the {} runtime", runtime.name())));
    }
    if needs.fetch.is_some() && !facts.fetch {
        return Err(Unfit::Lacks("the right to fetch".to_owned()));
    }
    if needs.network && !facts.network {
        return Err(Unfit::Lacks("the right to have a network in a container".to_owned()));
    }
    if let Some(what) = needs.takes.lack(facts) {
        return Err(Unfit::Lacks(what));
    }
    if let Some(label) = needs.labels.difference(&facts.labels).next() {
        return Err(Unfit::Lacks(format!("the label `{label}`")));
    }
    if memory > Limits::default().memory && facts.memory < memory {
        return Err(Unfit::TooSmall);
    }
    if facts.slots == 0 {
        return Err(Unfit::NoSlots);
    }
    Ok(())
}

/// What draws tasks to peers: a peer's share of the load is by its slots.
#[derive(Debug, Clone)]
pub(super) struct Homes {
    workers: Vec<Home>,
    total: u64,
    slots: u64,
}

#[derive(Debug, Clone)]
struct Home {
    peer: PeerId,
    seed: u64,
    slots: u64,
    load: u64,
}

impl Homes {
    /// Homes for a load of `total` on `workers` (each with its slots and what it already has).
    pub(super) fn new(
        workers: impl Iterator<Item = (PeerId, u32)>,
        loads: &BTreeMap<PeerId, u64>,
        total: u64,
    ) -> Homes {
        let workers: Vec<_> = workers
            .map(|(peer, slots)| Home {
                peer,
                seed: first_8(&Sha256::digest(peer.to_bytes())),
                slots: u64::from(slots.max(1)),
                load: loads.get(&peer).copied().unwrap_or(0),
            })
            .collect();
        let slots = workers.iter().map(|w| w.slots).sum();
        Homes { workers, total, slots }
    }

    /// Makes `peer` the home of this weight whatever it has already, if it is one of these.
    pub(super) fn take(&mut self, peer: PeerId, weight: u64) -> Option<PeerId> {
        let home = self.workers.iter_mut().find(|home| home.peer == peer)?;
        home.load = home.load.saturating_add(weight);
        Some(peer)
    }

    /// The home of data `affinity` with this weight, among the peers that `allowed` says yes to:
    /// the highest score that is not overloaded, else the least loaded. The load is counted.
    pub(super) fn place(
        &mut self,
        affinity: &[u8; 32],
        weight: u64,
        allowed: impl Fn(&PeerId) -> bool,
    ) -> Option<PeerId> {
        let data = first_8(affinity);
        let cap = |w: &Home| share(self.total, w.slots, self.slots, 100 + OVERLOAD_PERCENT);
        let open = || self.workers.iter().enumerate().filter(|(_, w)| allowed(&w.peer));
        let best = open()
            .filter(|(_, w)| w.load.saturating_add(weight) <= cap(w))
            .max_by_key(|(_, w)| (mix(data ^ w.seed), w.peer));
        let least = || {
            open().min_by(|(_, a), (_, b)| {
                let a_load = u128::from(a.load) * u128::from(b.slots);
                let b_load = u128::from(b.load) * u128::from(a.slots);
                a_load.cmp(&b_load).then(mix(data ^ b.seed).cmp(&mix(data ^ a.seed)))
            })
        };
        let (index, _) = best.or_else(least)?;
        let home = &mut self.workers[index];
        home.load = home.load.saturating_add(weight);
        Some(home.peer)
    }
}

fn share(total: u64, part: u64, of: u64, percent: u64) -> u64 {
    let share = u128::from(total) * u128::from(part) * u128::from(percent);
    u64::try_from(share / (u128::from(of.max(1)) * 100)).unwrap_or(u64::MAX)
}

fn first_8(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The finalizer of SplitMix64: every input bit reaches every output bit. Scores need to be
/// spread, not secret; a SHA-256 for each (task, peer) would cost a second on a large job.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId::from_multihash(multihash::Multihash::wrap(0x12, &[n; 32]).unwrap()).unwrap()
    }

    fn data(n: u32) -> [u8; 32] {
        Sha256::digest(n.to_be_bytes()).into()
    }

    fn place_all(peers: &[PeerId], tasks: u32) -> Vec<PeerId> {
        let workers = peers.iter().map(|p| (*p, 2));
        let mut homes = Homes::new(workers, &BTreeMap::new(), u64::from(tasks) * 7);
        (0..tasks).map(|n| homes.place(&data(n), 7, |_| true).unwrap()).collect()
    }

    #[test]
    fn with_three_workers_each_gets_a_quarter_of_25_equal_tasks() {
        for seed in 0..200_u8 {
            let peers = [peer(seed), peer(seed.wrapping_add(1)), peer(seed.wrapping_add(77))];
            let homes = place_all(&peers, 25);
            for peer in peers {
                assert!(homes.iter().filter(|home| **home == peer).count() >= 7);
            }
        }
    }

    #[test]
    fn a_joiner_moves_little_else() {
        let peers: Vec<_> = (0..10).map(peer).collect();
        let before = place_all(&peers[..9], 900);
        let after = place_all(&peers, 900);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a && **a != peer(9)).count();
        assert!(moved < 180, "{moved} of 900 tasks moved between old homes");
    }

    #[test]
    fn a_peer_with_more_slots_gets_more() {
        let workers = [(peer(1), 1), (peer(2), 7)].into_iter();
        let mut homes = Homes::new(workers, &BTreeMap::new(), 80);
        let all: Vec<_> = (0..80).map(|n| homes.place(&data(n), 1, |_| true).unwrap()).collect();
        let large = all.iter().filter(|home| **home == peer(2)).count();
        assert!((67..=77).contains(&large), "{large}");
    }

    #[test]
    fn candidates_come_in_the_order_of_their_rank_and_the_others_with_what_they_lack() {
        let able = PeerFacts { slots: 2, cpus: 2, memory: 1 << 30, ..PeerFacts::default() };
        let paused = PeerFacts { refuses: Some("it is paused".to_owned()), ..able.clone() };
        let peers = (0..8).map(|n| (peer(n), if n == 3 { paused.clone() } else { able.clone() }));
        let peers: Vec<_> = peers.collect();
        let needs = Needs::default();
        let (first, unable) = candidates(b"one", &needs, 0, peers.clone());
        assert_eq!(unable, [(peer(3), "unwilling (it is paused)".to_owned())]);
        assert_eq!(first.len(), 7);
        let (same, _) = candidates(b"one", &needs, 0, peers.iter().rev().cloned());
        assert_eq!(first, same, "whatever order they are named in");
        let (other, _) = candidates(b"other", &needs, 0, peers);
        assert_ne!(first, other);
    }

    #[test]
    fn a_peer_that_lacks_something_is_told_what() {
        let facts = PeerFacts {
            slots: 1,
            runtimes: [super::super::Runtime::Wasm].into(),
            labels: ["gpu".to_owned()].into(),
            memory: 128 << 20,
            cpus: 1,
            ..PeerFacts::default()
        };
        let mut needs = Needs::default();
        assert_eq!(fit(&facts, &needs, 256 << 20), Ok(()));
        let lacks = |what: &str| Err(Unfit::Lacks(what.to_owned()));
        assert_eq!(fit(&facts, &needs, 257 << 20), Err(Unfit::TooSmall));
        assert_eq!(fit(&PeerFacts { memory: 1 << 30, ..facts.clone() }, &needs, 1 << 30), Ok(()));
        needs.labels.insert("fast".to_owned());
        assert_eq!(fit(&facts, &needs, 0), lacks("the label `fast`"));
        needs.fetch = Some(crate::fetch::Reach::default());
        assert_eq!(fit(&facts, &needs, 0), lacks("the right to fetch"));
        needs.runtimes.insert(super::super::Runtime::Container);
        assert_eq!(fit(&facts, &needs, 0), lacks("the container runtime"));
    }
}
