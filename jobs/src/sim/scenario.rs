//! What one seed stands for: how many nodes and jobs, and which faults, how often.

use std::time::Duration;

use super::rng::Rng;
use crate::engine::Takes;
use crate::engine::{Fault, Limits, WorkerLimits};

/// Everything that is drawn before a run begins.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed itself.
    pub seed: u64,
    /// Nodes of the swarm.
    pub nodes: usize,
    /// The node that means harm, if any: one that controls no job.
    pub hostile: Option<usize>,
    /// The jobs submitted.
    pub jobs: Vec<JobDraw>,
    /// Messages lost, in a thousand, while faults last.
    pub loss: u64,
    /// Messages doubled, in a thousand.
    pub doubling: u64,
    /// The longest delay of a message.
    pub delay: Duration,
    /// How long faults last.
    pub faults_last: Duration,
    /// The usual pause between two faults; none, no faults but the network's.
    pub fault_every: Option<Duration>,
    /// Attempts that fail by the worker's or the guest's fault, in a thousand.
    pub failing: u64,
    /// Nodes that refuse a job, in a thousand.
    pub refusing: u64,
    /// Nodes that grant an owner fewer slots than they have, in a thousand.
    pub stinting: u64,
    /// The engine's bounds.
    pub limits: Limits,
    /// The workers' bounds.
    pub worker_limits: WorkerLimits,
    /// The mistake planted in every machine, if any.
    pub planted: Option<Fault>,
}

/// One job of a scenario.
#[derive(Debug, Clone)]
pub struct JobDraw {
    /// Index of its controller's node.
    pub controller: usize,
    /// When it is submitted.
    pub at: Duration,
    /// Tasks of its first stage.
    pub scatter: u32,
    /// Tasks of its second stage.
    pub gather: u32,
    /// Workers asked for.
    pub workers: Option<u32>,
    /// Whether the acceptance already wrote the first epoch.
    pub epoch_written: bool,
    /// When its submitter cancels it.
    pub cancel: Option<Duration>,
    /// A task whose guest always fails.
    pub poison: Option<u32>,
    /// What its code needs, if that is more than some nodes have.
    pub large: Option<Large>,
    /// What each of its attempts takes of a node.
    pub takes: Takes,
    /// Of what its tasks follow, if it is of the kind that grows: it has no other stages then.
    pub growing: Option<Growth>,
}

/// A job whose tasks follow from results.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Tasks from the start.
    pub roots: u32,
    /// And how many more are given to it while it runs; it is open until then.
    pub gifts: u32,
}

/// A job that does not fit everywhere.
#[derive(Debug, Clone, Copy)]
pub struct Large {
    /// Whether no node has so much, or those with the most, the job's controller among them.
    pub is_hopeless: bool,
    /// Whether the manifest says so, or only who tries finds out.
    pub is_declared: bool,
}

impl Scenario {
    /// What `seed` stands for.
    #[must_use]
    pub fn of(seed: u64, planted: Option<Fault>) -> Scenario {
        let mut rng = Rng::new(seed);
        let nodes = match rng.between(0, 99) {
            0..=4 => 1,
            5..=59 => rng.between(2, 8),
            60..=95 => rng.between(9, 30),
            96 | 97 => rng.between(31, 120),
            _ => 200,
        } as usize;
        let mut jobs: Vec<_> =
            (0..rng.between(1, 3)).map(|_| JobDraw::of(&mut rng, nodes)).collect();
        // Of chances of their own, so that what else a seed stands for stays.
        let mut growth = Rng::new(seed ^ 0x960);
        jobs.iter_mut().for_each(|job| job.growing = Growth::of(&mut growth));
        let mut takes = Rng::new(seed ^ 0x6b0);
        jobs.iter_mut().for_each(|job| job.takes = draw_takes(&mut takes));
        let mut hostile = Rng::new(seed ^ 0x0ff);
        let hostile = Some(hostile.index(nodes)).filter(|_| hostile.chance(400));
        let hostile = hostile.filter(|node| jobs.iter().all(|job| job.controller != *node));
        let is_calm = rng.chance(100);
        let mean = rng.millis(400, 8_000);
        Scenario {
            seed,
            nodes,
            hostile,
            jobs,
            loss: if is_calm { 0 } else { rng.between(0, 200) },
            doubling: if is_calm { 0 } else { rng.between(0, 150) },
            delay: if is_calm { Duration::from_millis(5) } else { rng.millis(5, 1_500) },
            faults_last: rng.millis(5_000, 90_000),
            fault_every: (!is_calm).then_some(mean),
            failing: if is_calm { 0 } else { rng.between(0, 120) },
            refusing: if rng.chance(200) { 150 } else { 0 },
            stinting: if rng.chance(300) { 500 } else { 0 },
            limits: Limits {
                // Faults here come a thousand times as often as in a real swarm: what tells a bad
                // task or a bad worker from bad luck there would give up here.
                deaths: 10_000,
                other_tries: 10_000,
                losses: 10_000,
                block: Duration::from_secs(5),
                block_max: Duration::from_secs(20),
                retry_max: Duration::from_secs(10),
                // Longer than any other wait, and not the day that it is: some runs last as long.
                stall: Duration::from_secs(1_800),
                ..Limits::default()
            },
            worker_limits: WorkerLimits::default(),
            planted,
        }
    }
}

impl JobDraw {
    fn of(rng: &mut Rng, nodes: usize) -> JobDraw {
        let scatter = rng.between(0, 40) as u32;
        let gather = rng.between(0, 6) as u32;
        let tasks = u64::from(scatter + gather);
        JobDraw {
            controller: rng.index(nodes),
            at: rng.millis(0, 3_000),
            scatter,
            gather,
            workers: rng.chance(300).then(|| rng.between(1, 5) as u32),
            epoch_written: rng.chance(500),
            cancel: rng.chance(60).then(|| rng.millis(0, 20_000)),
            poison: (tasks > 0 && rng.chance(50)).then(|| rng.between(0, tasks - 1) as u32),
            large: (tasks > 0 && rng.chance(120))
                .then(|| Large { is_hopeless: rng.chance(500), is_declared: rng.chance(500) }),
            growing: None,
            takes: Takes::default(),
        }
    }
}

/// Processors of each node: as many as any job wants.
pub(super) const CPUS: u32 = 3;

/// GPUs of a node that has some: bytes of memory of each.
pub(super) const GPUS: [u64; 2] = [8 << 30, 24 << 30];

/// What attempts of a job take: most a slot, some more, some a GPU or two.
fn draw_takes(rng: &mut Rng) -> Takes {
    match rng.between(0, 9) {
        0 => Takes { cpus: rng.between(2, CPUS.into()) as u32, ..Takes::default() },
        1 => {
            let (gpus, gpu_memory) = [(1, 0), (1, GPUS[1]), (2, GPUS[0])][rng.index(3)];
            Takes { gpus, gpu_memory, ..Takes::default() }
        }
        _ => Takes::default(),
    }
}

impl Growth {
    fn of(rng: &mut Rng) -> Option<Growth> {
        rng.chance(250).then(|| Growth {
            roots: rng.between(0, 12) as u32,
            gifts: if rng.chance(500) { rng.between(1, 5) as u32 } else { 0 },
        })
    }
}
