//! What an attempt takes of the node that runs it, beside memory: processors and GPUs.
//!
//! The controller asks how many attempts a node has room for; the worker, what is free now, and leases it.

use serde::{Deserialize, Serialize};

use super::types::PeerFacts;

/// What an attempt takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Takes {
    /// Processors, and no more: as many slots of a node, or all where it has fewer. 0: one slot, and what is free.
    pub cpus: u32,
    /// GPUs, each for itself alone.
    pub gpus: u32,
    /// Bytes of memory that each of them must have.
    pub gpu_memory: u64,
}

impl Takes {
    /// Whether it is one slot and nothing else.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Takes::default()
    }

    /// How many of `slots` it takes.
    #[must_use]
    pub fn slots(&self, slots: usize) -> usize {
        (self.cpus as usize).clamp(1, slots.max(1))
    }

    /// How many such attempts a node with these facts runs at once.
    pub(super) fn room(&self, facts: &PeerFacts) -> u32 {
        let slots = facts.slots as usize;
        let by_slots = (slots / self.slots(slots)) as u32;
        let gpus = self.fitting(&facts.gpus).count() as u32;
        gpus.checked_div(self.gpus).map_or(by_slots, |by_gpus| by_slots.min(by_gpus))
    }

    /// What a node with these facts lacks for even one.
    pub(super) fn lack(&self, facts: &PeerFacts) -> Option<String> {
        if facts.cpus < self.cpus {
            return Some(format!("{} processors", self.cpus));
        }
        (self.fitting(&facts.gpus).count() < self.gpus as usize).then(|| {
            let memory = match self.gpu_memory.div_ceil(1 << 30) {
                0 => String::new(),
                memory => format!(" with {memory} GiB"),
            };
            if self.gpus == 1 {
                format!("a GPU{memory}")
            } else {
                format!("{} GPUs{memory}", self.gpus)
            }
        })
    }

    /// Those of the free GPUs that it gets: the smallest that will do. None, when there are too few.
    pub(super) fn lease(&self, gpus: &[u64], is_free: impl Fn(u32) -> bool) -> Option<Vec<u32>> {
        let mut fitting: Vec<(u64, u32)> = self
            .fitting(gpus)
            .filter(|(gpu, _)| is_free(*gpu))
            .map(|(gpu, memory)| (memory, gpu))
            .collect();
        fitting.sort_unstable();
        let enough = fitting.len() >= self.gpus as usize;
        enough.then(|| fitting.iter().take(self.gpus as usize).map(|(_, gpu)| *gpu).collect())
    }

    /// The GPUs, by their numbers, that have enough memory.
    fn fitting(&self, gpus: &[u64]) -> impl Iterator<Item = (u32, u64)> {
        let least = self.gpu_memory;
        (0..).zip(gpus.iter().copied()).filter(move |(_, memory)| *memory >= least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn facts() -> PeerFacts {
        PeerFacts {
            slots: 8,
            cpus: 8,
            gpus: vec![24 * GIB, 8 * GIB, 24 * GIB],
            ..PeerFacts::default()
        }
    }

    #[test]
    fn a_node_has_room_for_as_many_as_its_slots_and_gpus_allow() {
        let room = |cpus, gpus, gpu_memory| Takes { cpus, gpus, gpu_memory }.room(&facts());
        assert_eq!([room(0, 0, 0), room(1, 0, 0)], [8, 8]);
        assert_eq!(room(3, 0, 0), 2);
        // With fewer slots than it wants processors, it takes all.
        assert_eq!(room(20, 0, 0), 1);
        assert_eq!(room(1, 1, 0), 3);
        assert_eq!(room(1, 1, 10 * GIB), 2);
        assert_eq!(room(5, 1, 0), 1);
        assert_eq!(room(1, 2, 10 * GIB), 1);
        assert_eq!(room(1, 3, 10 * GIB), 0);
    }

    #[test]
    fn what_a_node_lacks_is_told() {
        let lack = |cpus, gpus, gpu_memory| Takes { cpus, gpus, gpu_memory }.lack(&facts());
        assert_eq!(lack(8, 3, 8 * GIB), None);
        assert_eq!(lack(9, 0, 0).as_deref(), Some("9 processors"));
        assert_eq!(lack(1, 4, 0).as_deref(), Some("4 GPUs"));
        assert_eq!(lack(1, 1, 40 * GIB).as_deref(), Some("a GPU with 40 GiB"));
    }

    #[test]
    fn the_smallest_free_gpus_that_will_do_are_leased() {
        let gpus = facts().gpus;
        let lease = |gpus_wanted, gpu_memory, taken: &[u32]| {
            let takes = Takes { cpus: 1, gpus: gpus_wanted, gpu_memory };
            takes.lease(&gpus, |gpu| !taken.contains(&gpu))
        };
        assert_eq!(lease(0, 0, &[0, 1, 2]), Some(vec![]));
        assert_eq!(lease(1, 0, &[]), Some(vec![1]));
        assert_eq!(lease(1, 10 * GIB, &[]), Some(vec![0]));
        assert_eq!(lease(1, 10 * GIB, &[0]), Some(vec![2]));
        assert_eq!(lease(2, 10 * GIB, &[0]), None);
    }
}
