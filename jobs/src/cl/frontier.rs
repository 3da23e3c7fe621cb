//! What a job has found and not begun: the items that its items named, each once.
//!
//! URLs of one host go to one worker, which keeps to that host's limits: hosts are dealt into lanes by hash, and the
//! tasks of a lane stay where its others are. Of a lane few tasks are open at a time, so that one is made of many
//! items, of several hosts where there are, and none waits behind all of one slow host.

use std::collections::{BTreeMap, HashSet, VecDeque};

use sha2::{Digest, Sha256};

use super::item::{Found, Items};
use super::scope::{Gate, Link, Scope};

/// Lanes that hosts are dealt into: several for each worker of a small swarm.
const LANES: u8 = 64;

/// Tasks of one lane that are open at a time: one that runs, and one that waits for it.
const OPEN: u32 = 2;

/// Items of one task: of pages that come at once, a quarter of a second's work.
pub(super) const TASK_ITEMS: u32 = 256;

/// The items that were found.
pub(super) struct Frontier {
    gate: Option<Gate>,
    /// How many items there may be in all.
    most: u64,
    seen: HashSet<u64>,
    lanes: BTreeMap<Lane, Waiting>,
    /// Items that were named and not taken.
    pub(super) left_out: u64,
}

/// Where items wait: of a host's lane, or of no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane(Option<u8>);

#[derive(Default)]
struct Waiting {
    /// By depth: what is nearer to the first items goes first.
    found: BTreeMap<u32, VecDeque<Found>>,
    open: u32,
}

impl Lane {
    fn of_host(host: Option<&str>) -> Lane {
        let lane = |host: &str| Sha256::digest(host).first().copied().unwrap_or(0) % LANES;
        Lane(host.map(lane))
    }

    /// That of an item.
    pub(super) fn of_text(text: &str) -> Lane {
        Lane::of_host(Link::of(text).host.as_deref())
    }

    /// That of the items of a task.
    pub(super) fn of(items: &Items) -> Lane {
        match items {
            Items::Found { found, .. } => {
                found.first().map_or(Lane(None), |first| Lane::of_text(&first.text))
            }
            _ => Lane(None),
        }
    }

    /// Whether it is one of hosts.
    pub(super) fn is_of_hosts(self) -> bool {
        self.0.is_some()
    }

    /// What draws its tasks to one peer; none, when they may run anywhere.
    pub(super) fn affinity(self) -> Option<[u8; 32]> {
        self.0.map(|lane| Sha256::digest([b"lane".as_slice(), &[lane]].concat()).into())
    }
}

impl Frontier {
    /// That of a job which begins with these items. Without a scope it takes nothing that is named.
    pub(super) fn new(scope: Option<&Scope>, begin: &[Items]) -> Self {
        let hosts = begin.iter().flat_map(Items::texts).filter_map(|text| Link::of(text).host);
        let gate = scope.map(|scope| Gate::new(scope, hosts.collect()));
        let most = scope.map_or(0, |scope| scope.items);
        let (seen, lanes) = Default::default();
        let mut frontier = Frontier { gate, most, seen, lanes, left_out: 0 };
        for items in begin {
            frontier.opened(Lane::of(items));
            items.texts().into_iter().for_each(|text| frontier.know(text));
        }
        frontier
    }

    /// An item of the job's own, which nobody has to find.
    pub(super) fn know(&mut self, text: &str) {
        self.seen.insert(hash(&Link::of(text).text));
    }

    /// A task of this lane was given out.
    pub(super) fn opened(&mut self, lane: Lane) {
        self.lanes.entry(lane).or_default().open += 1;
    }

    /// A task of this lane ended.
    pub(super) fn closed(&mut self, lane: Lane) {
        let open = &mut self.lanes.entry(lane).or_default().open;
        *open = open.saturating_sub(1);
    }

    /// Takes in what an item at `depth` named, if it is new and of the job's; `total` items are known.
    pub(super) fn find(&mut self, named: &str, depth: u32, total: &mut u64) {
        let taken = self.gate.as_ref().and_then(|gate| gate.take(named, depth));
        let Some(Link { text, host }) = taken else {
            self.left_out += 1;
            return;
        };
        let name = hash(&text);
        if self.seen.contains(&name) {
            return;
        }
        if *total >= self.most {
            self.left_out += 1;
            return;
        }
        self.seen.insert(name);
        let lane = self.lanes.entry(Lane::of_host(host.as_deref())).or_default();
        lane.found.entry(depth).or_default().push_back(Found { n: *total, text });
        *total += 1;
    }

    /// Items for new tasks, of the lanes that have few open.
    pub(super) fn next(&mut self) -> Vec<Items> {
        let mut tasks = Vec::new();
        for (lane, waiting) in &mut self.lanes {
            while waiting.open < OPEN || lane.0.is_none() {
                let Some(items) = waiting.take() else { break };
                waiting.open += 1;
                tasks.push(items);
            }
        }
        tasks
    }
}

impl Waiting {
    /// Items for a task, all of one depth, the nearest.
    fn take(&mut self) -> Option<Items> {
        let mut entry = self.found.first_entry()?;
        let depth = *entry.key();
        let links = entry.get_mut();
        let rest = links.split_off(links.len().min(TASK_ITEMS as usize));
        let taken = std::mem::replace(links, rest);
        if entry.get().is_empty() {
            entry.remove();
        }
        Some(Items::Found { depth, found: taken.into() })
    }
}

/// What an item is known by: of ten million, two are alike once in a hundred thousand jobs.
fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    digest.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}
