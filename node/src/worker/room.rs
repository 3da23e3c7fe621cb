//! How a node's memory is divided among those who need it, so that it lasts in a small container too.
//!
//! The node itself has a fixed part, and so have blocks on their way. Of the rest one half is for
//! guests, who share it as they need it, and the other for what attempts hold beside their guests,
//! sorted records and runs that are merged, each attempt the same. No attempt takes more than its job allows, so on most machines none of
//! this is ever felt.

/// What the node takes for itself: some 20 MiB of heap, up to 30 of program, and what it has of others.
const NODE: u64 = 48 << 20;

/// What an attempt has on its way from and to other nodes and the disk: eight blocks that are read
/// ahead, and as many of the file that it writes.
const BLOCKS: u64 = 16 << 20;

/// What one attempt should have beside that. Word counts, joins and sorts of any size work with it; with
/// less they merge in more passes.
const ATTEMPT: u64 = 64 << 20;

/// The least that is given, however little there is.
const LEAST: u64 = 16 << 20;

/// The parts of a node's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many attempts run at a time.
    pub slots: u32,
    /// What each of them may hold beside its guest.
    pub buffers: u64,
    /// What all guests have together.
    pub guests: u64,
}

impl Room {
    /// Divides `memory` bytes. There are `slots` slots, or if that is not said as many as there are
    /// `cpus`, but fewer when each would have too little.
    #[must_use]
    pub fn divide(memory: u64, cpus: u32, slots: Option<u32>) -> Room {
        let rest = memory.saturating_sub(NODE);
        let fit = u32::try_from(rest / (BLOCKS + ATTEMPT)).unwrap_or(u32::MAX);
        let slots = slots.unwrap_or(cpus.min(fit)).max(1);
        let half = rest.saturating_sub(BLOCKS * u64::from(slots)) / 2;
        Room { slots, buffers: (half / u64::from(slots)).max(LEAST), guests: half.max(LEAST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_small_container_runs_one_attempt_at_a_time_in_what_it_has() {
        let room = Room::divide(128 * MIB, 16, None);
        assert_eq!(room, Room { slots: 1, buffers: 32 * MIB, guests: 32 * MIB });
    }

    #[test]
    fn slots_are_as_many_as_processors_where_memory_suffices_and_as_many_as_are_asked_for() {
        let slots = |memory, slots| Room::divide(memory * MIB, 4, slots).slots;
        assert_eq!([0, 64, 207, 208, 288, 65_536].map(|m| slots(m, None)), [1, 1, 1, 2, 3, 4]);
        assert_eq!([64, 65_536].map(|m| slots(m, Some(9))), [9, 9]);
    }
}
