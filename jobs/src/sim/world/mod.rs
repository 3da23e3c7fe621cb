//! The simulated swarm: nodes with their machines and disks, a network that misbehaves, and one
//! queue of what happens next. Everything is drawn from the scenario's seed; nothing else is read.
//!
//! This file holds the state and the loop; `network`, `controllers`, `workers`, `faults` and `malice`
//! hold what happens where.

mod controllers;
mod faults;
mod malice;
mod network;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Tally;
use super::laws::{Broken, Laws};
use super::rng::Rng;
use super::scenario::{JobDraw, Large, Scenario};
use super::{growing, work};
use crate::engine::{EndState, Engine, Event, Output, Record, Worker, WorkerEvent, WorkerRecord};
use crate::ids::{Attempt, CODEC_RAW, Cid, Epoch, FileRef, JobId, PeerId, TaskId, cid_of};
use crate::kind::TaskSpec;
use crate::manifest::{Limits, Manifest, VERSION};
use crate::message::{Assignment, ToController, ToWorker};

/// After the faults stop, and whoever is waited for in vain is given up, every job must have ended within this.
const ENDS_WITHIN: Duration = Duration::from_secs(300);
/// And every node must have forgotten it within this: two of a worker's idle pings.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(1_500);
/// The memory of a large node; half of it is enough for most jobs.
const MEMORY: u64 = 1 << 30;

/// Something that happens at a certain time.
#[derive(Debug, Clone)]
enum Happening {
    Submit(usize),
    Cancel(usize),
    Deliver {
        link: u64,
        seq: u64,
        from: usize,
        to: usize,
        wire: Wire,
    },
    WakeWorker {
        node: usize,
        life: u32,
    },
    WakeEngine {
        job: usize,
        life: u32,
    },
    Journaled {
        job: usize,
        life: u32,
        seq: u64,
    },
    Persisted {
        node: usize,
        life: u32,
        seq: u64,
    },
    Checked {
        node: usize,
        life: u32,
        job: JobId,
        from: PeerId,
        is_forged: bool,
    },
    Recalled {
        node: usize,
        life: u32,
        job: JobId,
        assignments: Vec<Assignment>,
    },
    Halfway {
        node: usize,
        life: u32,
        run: RunKey,
    },
    Ran {
        node: usize,
        life: u32,
        run: RunKey,
    },
    Stored {
        node: usize,
        life: u32,
        job: JobId,
        roots: Vec<Cid>,
        holders: Vec<PeerId>,
    },
    Lend {
        node: usize,
        life: u32,
    },
    LetGo {
        node: usize,
        life: u32,
        id: u64,
    },
    Built {
        job: usize,
        life: u32,
        outputs: Vec<Output>,
        report: Cid,
    },
    Read {
        job: usize,
        life: u32,
        task: TaskId,
        attempt: Attempt,
        file: FileRef,
        holders: Vec<PeerId>,
    },
    Give {
        job: usize,
    },
    Hint {
        job: usize,
        node: usize,
    },
    Mishap,
    Malice,
    Mend,
    Restart {
        node: usize,
    },
    Resume {
        node: usize,
    },
    Crash {
        node: usize,
    },
    StopFaults,
}

type RunKey = (JobId, TaskId, Attempt);

#[derive(Debug, Clone)]
enum Wire {
    Order(ToWorker),
    Note(ToController),
}

/// One node.
struct Node {
    id: PeerId,
    slots: u32,
    memory: u64,
    /// None while it is crashed.
    worker: Option<Worker>,
    /// Counts its starts: what an earlier life began does not reach a later one.
    life: u32,
    /// What its clock is ahead of the world's.
    ahead: Duration,
    /// It does nothing before this.
    frozen_until: Duration,
    /// Its tasks take this many times as long.
    slowness: u32,
    /// Never comes back.
    is_scrap: bool,
    refuses: BTreeSet<JobId>,
    /// Its policy lets nothing begin. Outlasts a crash.
    is_paused: bool,
    /// The slots that its policy grants each owner.
    owner_slots: Option<u32>,
    /// Its disk: durable records, those on the way, pinned results.
    records: Vec<WorkerRecord>,
    unwritten: VecDeque<(u64, WorkerRecord)>,
    written_by: Duration,
    pinned: BTreeSet<Cid>,
    /// Scratch: outputs of tasks it ran. A crash takes them.
    scratch: BTreeSet<(JobId, TaskId)>,
    /// Outputs it made before and remembers, jobs and crashes through.
    memo: BTreeSet<Bytes>,
    running: BTreeMap<RunKey, Run>,
    /// What is no attempt and runs there, and the GPUs that it has.
    lent: BTreeMap<u64, Vec<u32>>,
    wake_at: Option<Duration>,
}

struct Run {
    assignment: Assignment,
    gpus: Vec<u32>,
    is_stopped: bool,
}

/// One job and its controller's side.
struct Job {
    id: JobId,
    draw: JobDraw,
    manifest: Manifest,
    tasks: Vec<TaskSpec>,
    expected: Cid,
    engine: Option<Engine>,
    is_submitted: bool,
    /// Its engine is over and dropped; the last epoch.
    over: Option<Epoch>,
    was_cancelled: bool,
    journal: Vec<Record>,
    unwritten: VecDeque<(u64, Record)>,
    written_by: Duration,
    laws: Laws,
    guest_failures: BTreeMap<TaskId, u32>,
    /// What is given to it while it runs.
    gifts: Option<Gifts>,
    /// Outputs that its controller was told to keep, on its disk.
    kept: BTreeMap<Cid, Bytes>,
    /// What was last said of the link to each node.
    beliefs: BTreeMap<usize, Belief>,
    wake_at: Option<Duration>,
}

/// Roots that are given to a job that grows.
#[derive(Debug, Clone)]
struct Gifts {
    first: u32,
    end: u32,
    /// Those that the submitter was told are taken, and from which item on.
    taken: BTreeMap<u32, u64>,
}

impl Job {
    /// All the roots that it has or may be given.
    fn roots(&self) -> std::ops::Range<u32> {
        let growth = self.draw.growing;
        growth.map_or(0..0, |growth| 0..growth.roots + growth.gifts)
    }
}

/// Of a link: whether it is up, in which lives of its ends, and whether the far end is paused.
type Belief = (bool, u32, u32, bool);

/// A swarm under one scenario.
pub(super) struct World {
    scenario: Scenario,
    rng: Rng,
    /// What the hostile node draws from: the others' luck does not depend on it.
    malice: Rng,
    /// The attempts that are its own, by the index of their jobs.
    given_to_hostile: BTreeSet<(usize, TaskId, Attempt)>,
    /// The tasks whose committed outputs it made up: nobody can read them from it.
    forged: BTreeSet<(usize, TaskId)>,
    /// The jobs that had such: what was made of them is thrown away, however good it was.
    deceived: BTreeSet<usize>,
    now: Duration,
    order: u64,
    agenda: BTreeMap<(Duration, u64), Happening>,
    nodes: Vec<Node>,
    index: BTreeMap<PeerId, usize>,
    jobs: Vec<Job>,
    /// While the network is split: which side each node is on.
    sides: Option<Vec<bool>>,
    are_faults_on: bool,
    faults_stopped_at: Option<Duration>,
    /// The newest message that arrived on each link, to see reordering.
    arrived: BTreeMap<u64, u64>,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(scenario: Scenario) -> World {
        let rng = Rng::new(scenario.seed ^ 0x5eed);
        let mut world = World {
            rng,
            malice: Rng::new(scenario.seed ^ 0xbad),
            given_to_hostile: BTreeSet::new(),
            forged: BTreeSet::new(),
            deceived: BTreeSet::new(),
            now: Duration::ZERO,
            order: 0,
            agenda: BTreeMap::new(),
            nodes: Vec::new(),
            index: BTreeMap::new(),
            jobs: Vec::new(),
            sides: None,
            are_faults_on: true,
            faults_stopped_at: None,
            arrived: BTreeMap::new(),
            tally: Tally::default(),
            scenario,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        for n in 0..self.scenario.nodes {
            let digest =
                Sha256::digest([&self.scenario.seed.to_be_bytes()[..], &n.to_be_bytes()].concat());
            let hash =
                multihash::Multihash::wrap(0x12, &digest).expect("a digest fits a multihash");
            let id = PeerId::from_multihash(hash).expect("a SHA-256 multihash names a peer");
            self.index.insert(id, n);
            let slots = self.rng.between(1, 4) as u32;
            let is_controller = self.scenario.jobs.iter().any(|job| job.controller == n);
            let is_small = self.rng.chance(300) && !is_controller;
            let is_stinting = self.rng.chance(self.scenario.stinting);
            let owner_slots = is_stinting.then(|| self.rng.between(1, 2) as u32);
            self.nodes.push(Node {
                id,
                slots,
                memory: if is_small { MEMORY / 2 } else { MEMORY },
                worker: None,
                life: 0,
                ahead: self.rng.millis(0, 100_000),
                frozen_until: Duration::ZERO,
                slowness: 1,
                is_scrap: false,
                refuses: BTreeSet::new(),
                is_paused: false,
                owner_slots,
                records: Vec::new(),
                unwritten: VecDeque::new(),
                written_by: Duration::ZERO,
                pinned: BTreeSet::new(),
                scratch: BTreeSet::new(),
                memo: BTreeSet::new(),
                running: BTreeMap::new(),
                lent: BTreeMap::new(),
                wake_at: None,
            });
        }
        for (n, draw) in self.scenario.jobs.clone().into_iter().enumerate() {
            self.add_job(n, draw);
        }
        for node in 0..self.nodes.len() {
            self.boot(node).expect("booting breaks no law");
        }
        if let Some(pause) = self.scenario.fault_every {
            self.at(pause, Happening::Mishap);
        }
        self.at(Duration::from_secs(1), Happening::Malice);
        self.at(self.scenario.faults_last, Happening::StopFaults);
    }

    fn add_job(&mut self, n: usize, draw: JobDraw) {
        let code = cid_of(CODEC_RAW, &self.scenario.seed.to_be_bytes());
        let controller = self.nodes[draw.controller].id;
        let declared = draw.large.filter(|large| large.is_declared).map(needs);
        let limits =
            Limits { memory: declared.unwrap_or(Limits::default().memory), ..Limits::default() };
        let manifest = Manifest {
            v: VERSION,
            kind: if draw.growing.is_some() { "growing" } else { "hashing" }.to_owned(),
            code,
            input: code,
            config: draw.growing.is_some_and(|growth| growth.gifts > 0).into(),
            limits,
            memo: true,
            workers: draw.workers,
            submitter: controller,
            roster: vec![controller],
            key: n.to_string(),
            submitted_ms: 0,
            step: None,
        };
        let id = JobId::of_manifest(&serde_json::to_vec(&manifest).expect("a manifest encodes"));
        let tasks = match draw.growing {
            Some(growth) => growing::plan(growth.roots),
            None => work::plan(draw.scatter, draw.gather),
        };
        let expected = match draw.growing {
            Some(growth) => growing::expected(0..growth.roots + growth.gifts),
            None => work::expected(&tasks),
        };
        let gifts = draw.growing.filter(|growth| growth.gifts > 0).map(|growth| {
            let end = growth.roots + growth.gifts;
            Gifts { first: growth.roots, end, taken: BTreeMap::new() }
        });
        if gifts.is_some() {
            self.at(draw.at, Happening::Give { job: n });
        }
        let refusing = self.scenario.refusing;
        for node in 0..self.nodes.len() {
            if node != draw.controller && self.rng.chance(refusing) {
                self.nodes[node].refuses.insert(id);
            }
        }
        self.at(draw.at, Happening::Submit(n));
        if let Some(at) = draw.cancel {
            self.at(draw.at + at, Happening::Cancel(n));
        }
        self.jobs.push(Job {
            id,
            expected,
            manifest,
            tasks,
            engine: None,
            is_submitted: false,
            over: None,
            was_cancelled: false,
            journal: Vec::new(),
            unwritten: VecDeque::new(),
            written_by: Duration::ZERO,
            laws: Laws::default(),
            guest_failures: BTreeMap::new(),
            gifts,
            kept: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            wake_at: None,
            draw,
        });
    }

    /// Runs to the end and says whether every law held.
    pub(super) fn run(&mut self) -> Result<(), Broken> {
        while let Some(((at, _), happening)) = self.agenda.pop_first() {
            self.now = at;
            self.tally.events += 1;
            self.happen(happening)?;
            let Some(stopped) = self.faults_stopped_at else { continue };
            let stopped_waiting = stopped + self.waits_for_scrap();
            if self.now > stopped_waiting + ENDS_WITHIN {
                self.all_ended()?;
            }
            let is_late = self.now > stopped_waiting + FORGOTTEN_WITHIN;
            if self.now > stopped && (self.is_quiet() || is_late) {
                break;
            }
        }
        self.all_ended()?;
        self.all_forgotten()?;
        self.ends_are_right()
    }

    fn at(&mut self, pause: Duration, happening: Happening) {
        self.order += 1;
        self.agenda.insert((self.now + pause, self.order), happening);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        if let Some(node) = self.node_of(&happening)
            && self.nodes[node].frozen_until > self.now
        {
            let pause = self.nodes[node].frozen_until - self.now;
            self.at(pause, happening);
            return Ok(());
        }
        match happening {
            Happening::Submit(job) => self.submit(job),
            Happening::Cancel(job) => {
                if self.jobs[job].engine.is_some() {
                    self.jobs[job].was_cancelled = true;
                    self.tally.cancels += 1;
                }
                self.tell_engine(job, Event::Cancel)
            }
            Happening::Deliver { link, seq, from, to, wire } => {
                self.deliver(link, seq, from, to, wire)
            }
            Happening::WakeWorker { node, life } if self.nodes[node].life == life => {
                self.nodes[node].wake_at = None;
                self.tell_worker(node, WorkerEvent::Tick)
            }
            Happening::WakeEngine { job, life } if self.controller_life(job) == life => {
                self.jobs[job].wake_at = None;
                self.tell_engine(job, Event::Tick)
            }
            Happening::Journaled { job, life, seq } if self.controller_life(job) == life => {
                self.journaled(job, seq)
            }
            Happening::Persisted { node, life, seq } if self.nodes[node].life == life => {
                let node_state = &mut self.nodes[node];
                while let Some((first, _)) = node_state.unwritten.front()
                    && *first <= seq
                    && let Some((_, record)) = node_state.unwritten.pop_front()
                {
                    node_state.records.push(record);
                }
                self.tell_worker(node, WorkerEvent::Persisted { seq })
            }
            Happening::Checked { node, life, job, from, is_forged }
                if self.nodes[node].life == life =>
            {
                let forged = || Err("the manifest is forged".to_owned());
                let checked = if is_forged { forged() } else { self.judge(node, job) };
                self.tell_worker(node, WorkerEvent::ManifestChecked { job, from, checked })
            }
            Happening::Recalled { node, life, job, assignments }
                if self.nodes[node].life == life =>
            {
                self.recalled(node, job, &assignments)
            }
            Happening::Halfway { node, life, run } if self.nodes[node].life == life => {
                let (job, task, attempt) = run;
                let item = None;
                let event =
                    WorkerEvent::Progress { job, task, attempt, done: 50, total: 100, item };
                self.tell_worker(node, event)
            }
            Happening::Ran { node, life, run } if self.nodes[node].life == life => {
                self.ran(node, run)
            }
            Happening::Stored { node, life, job, roots, holders }
                if self.nodes[node].life == life =>
            {
                self.stored(node, job, roots, &holders)
            }
            Happening::Lend { node, life } if self.nodes[node].life == life => self.lend(node),
            Happening::LetGo { node, life, id } if self.nodes[node].life == life => {
                self.nodes[node].lent.remove(&id);
                self.tell_worker(node, WorkerEvent::LetGo { id })
            }
            Happening::Built { job, life, outputs, report }
                if self.controller_life(job) == life =>
            {
                self.built(job, &outputs, report)
            }
            Happening::Read { job, life, task, attempt, file, holders }
                if self.controller_life(job) == life =>
            {
                self.read(job, task, attempt, file, &holders)
            }
            Happening::Give { job } => self.give(job),
            Happening::Hint { job, node } => self.hint(job, node),
            Happening::Mishap => self.mishap(),
            Happening::Malice => {
                self.malice();
                Ok(())
            }
            Happening::Mend => {
                self.sides = None;
                self.hint_all();
                Ok(())
            }
            Happening::Restart { node } => self.boot(node),
            Happening::Resume { node } => self.set_paused(node, false),
            Happening::Crash { node } => {
                self.mishap_crash(node);
                Ok(())
            }
            Happening::StopFaults => self.stop_faults(),
            // Of an earlier life.
            _ => Ok(()),
        }
    }

    /// The node that must be awake for this.
    fn node_of(&self, happening: &Happening) -> Option<usize> {
        match happening {
            Happening::Deliver { to, .. } => Some(*to),
            Happening::WakeWorker { node, .. }
            | Happening::Persisted { node, .. }
            | Happening::Checked { node, .. }
            | Happening::Recalled { node, .. }
            | Happening::Halfway { node, .. }
            | Happening::Ran { node, .. }
            | Happening::Lend { node, .. }
            | Happening::LetGo { node, .. }
            | Happening::Stored { node, .. } => Some(*node),
            Happening::WakeEngine { job, .. }
            | Happening::Journaled { job, .. }
            | Happening::Read { job, .. }
            | Happening::Built { job, .. } => Some(self.jobs[*job].draw.controller),
            _ => None,
        }
    }

    fn controller_life(&self, job: usize) -> u32 {
        self.nodes[self.jobs[job].draw.controller].life
    }

    fn job_index(&self, id: JobId) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == id)
    }

    fn is_quiet(&self) -> bool {
        let are_over = self.jobs.iter().all(|job| job.over.is_some());
        are_over
            && self.nodes.iter().all(|node| {
                node.worker.as_ref().is_none_or(|worker| worker.jobs().next().is_none())
            })
    }

    /// How long a job may wait for a node that is gone for good. Nobody knows that it is; and of one with other
    /// slots than the nodes that are there, nobody knows either whether the job would be too large for it.
    fn waits_for_scrap(&self) -> Duration {
        let is_hopeless =
            |job: &Job| job.draw.large.is_some_and(|large| large.is_hopeless && !large.is_declared);
        let is_any_gone = self.nodes.iter().any(|node| node.is_scrap);
        if is_any_gone && self.jobs.iter().any(is_hopeless) {
            self.scenario.limits.stall
        } else {
            Duration::ZERO
        }
    }

    fn all_ended(&self) -> Result<(), Broken> {
        for (n, job) in self.jobs.iter().enumerate() {
            if job.laws.told().is_none() || job.over.is_none() {
                let progress = job.engine.as_ref().map(|engine| format!("{:?}", engine.progress()));
                return Err(Broken::NeverEnded(n, progress.unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn all_forgotten(&self) -> Result<(), Broken> {
        let has_job = |node: &Node| node.worker.as_ref().is_some_and(|w| w.jobs().next().is_some());
        match self.nodes.iter().position(has_job) {
            Some(node) => Err(Broken::NeverForgotten(node)),
            None => Ok(()),
        }
    }

    fn ends_are_right(&mut self) -> Result<(), Broken> {
        for job in &self.jobs {
            let Some(end) = job.laws.told() else { continue };
            let why = end.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
            match end.state {
                EndState::Done => {
                    self.tally.done += 1;
                    if end.result != Some(job.expected) {
                        let result = end.result.map(|cid| cid.to_string()).unwrap_or_default();
                        return Err(Broken::WrongResult(result, job.expected));
                    }
                    let roots = [end.result, end.report];
                    let copies = self.nodes.iter().filter(|node| {
                        roots.iter().flatten().all(|root| node.pinned.contains(root))
                    });
                    if end.note.is_none() && copies.count() < 2 {
                        return Err(Broken::NotStored);
                    }
                }
                EndState::Cancelled if job.was_cancelled => self.tally.cancelled += 1,
                EndState::Failed if job.draw.poison.is_some() => self.tally.failed += 1,
                EndState::Failed if job.draw.large.is_some_and(|large| large.is_hopeless) => {
                    self.tally.failed += 1;
                }
                state => return Err(Broken::EndedBadly(state, why)),
            }
        }
        Ok(())
    }
}

/// The memory that such a job's code needs.
fn needs(large: Large) -> u64 {
    if large.is_hopeless { 2 * MEMORY } else { MEMORY }
}
