//! The deterministic swarm simulator: whole swarms in one thread, from one seed.
//!
//! A seed says how many nodes there are, what they are given to do and what goes wrong: messages
//! lost, doubled, late and out of order; the network split; nodes crashed, frozen, slow, drained,
//! paused, gone for good; clocks that jump; outputs that vanish; nodes too small for a job; a member that lies. Each node is a real
//! [`Worker`](crate::engine::Worker), each job a real [`Engine`](crate::engine::Engine) with a
//! journal that forgets at a crash what was not yet on the disk. Then the faults stop, and every
//! job must end, with the result that it would have had without them.
//!
//! | file | what it holds |
//! |---|---|
//! | `scenario` | what a seed stands for |
//! | `world` | nodes, disks, network, faults: what happens next |
//! | `laws` | what must always hold |
//! | `work`, `growing` | synthetic kinds: stages of hashing, and a forest that grows |
//! | `rng` | the only source of chance |

pub(crate) mod growing;
mod laws;
mod rng;
mod scenario;
#[cfg(test)]
mod tests;
pub(crate) mod work;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::{Counters, Engine, Fault};
pub use laws::Broken;
pub use scenario::{JobDraw, Large, Scenario};
use world::World;

/// What happened in one or more runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each field says what it counts
pub struct Tally {
    pub events: u64,
    pub jobs: u64,
    pub done: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub cancels: u64,
    pub messages: u64,
    pub lost: u64,
    pub doubled: u64,
    pub reordered: u64,
    pub old_orders: u64,
    pub old_notes: u64,
    pub crashes: u64,
    pub controller_crashes: u64,
    pub take_overs: u64,
    pub scrapped: u64,
    pub partitions: u64,
    pub clock_jumps: u64,
    pub freezes: u64,
    pub slow_nodes: u64,
    pub wiped_disks: u64,
    pub drains: u64,
    pub pauses: u64,
    pub refusals: u64,
    pub failed_attempts: u64,
    pub misfits: u64,
    pub failed_builds: u64,
    pub failed_stores: u64,
    pub lost_inputs: u64,
    pub memo_hits: u64,
    pub memo_losses: u64,
    pub lies: u64,
    pub blames: u64,
    pub forged: u64,
    pub growing: u64,
    pub gifts: u64,
    pub repeated_gifts: u64,
    pub withdrawn: u64,
    pub leases: u64,
    pub wide: u64,
    pub lent: u64,
    pub reads: u64,
    pub failed_reads: u64,
    pub engines: Counters,
}

/// Runs the swarm of `seed`, with a mistake planted in every machine if asked for.
///
/// # Errors
/// The first law that was broken.
pub fn run(seed: u64, planted: Option<Fault>) -> Result<Tally, Broken> {
    let run = || {
        let mut world = World::new(Scenario::of(seed, planted));
        world.run().map(|()| world.tally)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken::Panicked(text.unwrap_or_default()))
    })
}

impl Tally {
    fn note_engine(&mut self, engine: Option<&Engine>) {
        if let Some(engine) = engine {
            self.engines.add(&engine.counters());
        }
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            events,
            jobs,
            done,
            failed,
            cancelled,
            cancels,
            messages,
            lost,
            doubled,
            reordered,
            old_orders,
            old_notes,
            crashes,
            controller_crashes,
            take_overs,
            scrapped,
            partitions,
            clock_jumps,
            freezes,
            slow_nodes,
            wiped_disks,
            drains,
            pauses,
            refusals,
            failed_attempts,
            misfits,
            failed_builds,
            failed_stores,
            lost_inputs,
            memo_hits,
            memo_losses,
            lies,
            blames,
            forged,
            growing,
            gifts,
            repeated_gifts,
            withdrawn,
            leases,
            wide,
            lent,
            reads,
            failed_reads,
            engines,
        } = other;
        self.events += events;
        self.jobs += jobs;
        self.done += done;
        self.failed += failed;
        self.cancelled += cancelled;
        self.cancels += cancels;
        self.messages += messages;
        self.lost += lost;
        self.doubled += doubled;
        self.reordered += reordered;
        self.old_orders += old_orders;
        self.old_notes += old_notes;
        self.crashes += crashes;
        self.controller_crashes += controller_crashes;
        self.take_overs += take_overs;
        self.scrapped += scrapped;
        self.partitions += partitions;
        self.clock_jumps += clock_jumps;
        self.freezes += freezes;
        self.slow_nodes += slow_nodes;
        self.wiped_disks += wiped_disks;
        self.drains += drains;
        self.pauses += pauses;
        self.refusals += refusals;
        self.failed_attempts += failed_attempts;
        self.misfits += misfits;
        self.failed_builds += failed_builds;
        self.failed_stores += failed_stores;
        self.lost_inputs += lost_inputs;
        self.memo_hits += memo_hits;
        self.memo_losses += memo_losses;
        self.lies += lies;
        self.blames += blames;
        self.forged += forged;
        self.growing += growing;
        self.gifts += gifts;
        self.repeated_gifts += repeated_gifts;
        self.withdrawn += withdrawn;
        self.leases += leases;
        self.wide += wide;
        self.lent += lent;
        self.reads += reads;
        self.failed_reads += failed_reads;
        self.engines.add(engines);
    }
}
