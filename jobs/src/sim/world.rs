//! The simulated swarm: nodes with their machines and disks, a network that misbehaves, and one
//! queue of what happens next. Everything is drawn from the scenario's seed; nothing else is read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Tally;
use super::laws::{Broken, Laws};
use super::rng::Rng;
use super::scenario::{JobDraw, Scenario};
use super::work::{self, Hashing};
use crate::engine::{
    Action, CheckedManifest, EndState, Engine, Event, JobPlan, Needs, Output, PeerFacts, Record,
    Worker, WorkerAction, WorkerEvent, WorkerRecord,
};
use crate::ids::{Attempt, CODEC_RAW, Cid, Epoch, FileRef, JobId, PeerId, TaskId, cid_of};
use crate::kind::TaskSpec;
use crate::manifest::{Limits, Manifest, VERSION};
use crate::message::{
    Assignment, ControllerNote, Cost, FailureClass, Input, Outcome, Payload, ToController,
    ToWorker, WorkerOrder,
};

/// After the faults stop, every job must have ended within this.
const ENDS_WITHIN: Duration = Duration::from_secs(300);
/// And every node must have forgotten it within this: two of a worker's idle pings.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(1_500);
/// The memory of every node: enough.
const MEMORY: u64 = 1 << 30;

/// Something that happens at a certain time.
#[derive(Debug, Clone)]
enum Happening {
    Submit(usize),
    Cancel(usize),
    Deliver { link: u64, seq: u64, from: usize, to: usize, wire: Wire },
    WakeWorker { node: usize, life: u32 },
    WakeEngine { job: usize, life: u32 },
    Journaled { job: usize, life: u32, seq: u64 },
    Persisted { node: usize, life: u32, seq: u64 },
    Checked { node: usize, life: u32, job: JobId },
    Halfway { node: usize, life: u32, run: RunKey },
    Ran { node: usize, life: u32, run: RunKey },
    Stored { node: usize, life: u32, job: JobId, roots: Vec<Cid>, holders: Vec<PeerId> },
    Built { job: usize, life: u32, outputs: Vec<Output>, report: Cid },
    Hint { job: usize, node: usize },
    Mishap,
    Mend,
    Restart { node: usize },
    Crash { node: usize },
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
    /// Its disk: durable records, those on the way, pinned results.
    records: Vec<WorkerRecord>,
    unwritten: VecDeque<(u64, WorkerRecord)>,
    written_by: Duration,
    pinned: BTreeSet<Cid>,
    /// Scratch: outputs of tasks it ran. A crash takes them.
    scratch: BTreeSet<(JobId, TaskId)>,
    running: BTreeMap<RunKey, Run>,
    wake_at: Option<Duration>,
}

struct Run {
    assignment: Assignment,
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
    wake_at: Option<Duration>,
}

/// A swarm under one scenario.
pub(super) struct World {
    scenario: Scenario,
    rng: Rng,
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
            self.nodes.push(Node {
                id,
                slots,
                worker: None,
                life: 0,
                ahead: self.rng.millis(0, 100_000),
                frozen_until: Duration::ZERO,
                slowness: 1,
                is_scrap: false,
                refuses: BTreeSet::new(),
                records: Vec::new(),
                unwritten: VecDeque::new(),
                written_by: Duration::ZERO,
                pinned: BTreeSet::new(),
                scratch: BTreeSet::new(),
                running: BTreeMap::new(),
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
        self.at(self.scenario.faults_last, Happening::StopFaults);
    }

    fn add_job(&mut self, n: usize, draw: JobDraw) {
        let code = cid_of(CODEC_RAW, &self.scenario.seed.to_be_bytes());
        let controller = self.nodes[draw.controller].id;
        let manifest = Manifest {
            v: VERSION,
            kind: "hashing".to_owned(),
            code,
            input: code,
            config: serde_json::Value::Null,
            limits: Limits::default(),
            workers: draw.workers,
            submitter: controller,
            roster: vec![controller],
            key: n.to_string(),
            submitted_ms: 0,
        };
        let id = JobId::of_manifest(&serde_json::to_vec(&manifest).expect("a manifest encodes"));
        let tasks = work::plan(draw.scatter, draw.gather);
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
            expected: work::expected(&tasks),
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
            if self.now > stopped + ENDS_WITHIN {
                self.all_ended()?;
            }
            if self.now > stopped && (self.is_quiet() || self.now > stopped + FORGOTTEN_WITHIN) {
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
            Happening::Checked { node, life, job } if self.nodes[node].life == life => {
                let checked = if self.nodes[node].refuses.contains(&job) {
                    self.tally.refusals += 1;
                    Err("its submitter is not welcome here".to_owned())
                } else {
                    let known = self.jobs.iter().find(|known| known.id == job);
                    let roster = known.map(|job| job.manifest.roster.clone()).unwrap_or_default();
                    Ok(CheckedManifest { roster })
                };
                self.tell_worker(node, WorkerEvent::ManifestChecked { job, checked })
            }
            Happening::Halfway { node, life, run } if self.nodes[node].life == life => {
                let (job, task, attempt) = run;
                let event = WorkerEvent::Progress { job, task, attempt, done: 50, total: 100 };
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
            Happening::Built { job, life, outputs, report }
                if self.controller_life(job) == life =>
            {
                self.built(job, &outputs, report)
            }
            Happening::Hint { job, node } => self.hint(job, node),
            Happening::Mishap => self.mishap(),
            Happening::Mend => {
                self.sides = None;
                self.hint_all();
                Ok(())
            }
            Happening::Restart { node } => self.boot(node),
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
            | Happening::Halfway { node, .. }
            | Happening::Ran { node, .. }
            | Happening::Stored { node, .. } => Some(*node),
            Happening::WakeEngine { job, .. }
            | Happening::Journaled { job, .. }
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

    // ---- the network -------------------------------------------------------------------------

    fn is_linked(&self, a: usize, b: usize) -> bool {
        let is_up = |node: usize| self.nodes[node].worker.is_some();
        let is_split = self.sides.as_ref().is_some_and(|sides| sides[a] != sides[b]);
        is_up(a) && is_up(b) && (a == b || !is_split)
    }

    fn send(&mut self, from: usize, to: PeerId, wire: Wire) {
        let Some(&to) = self.index.get(&to) else { return };
        self.tally.messages += 1;
        self.order += 1;
        let seq = self.order;
        let link = (from * self.nodes.len() + to) as u64;
        let is_local = from == to;
        if !is_local && !self.is_linked(from, to) {
            return;
        }
        let is_noisy = self.are_faults_on && !is_local;
        if is_noisy && self.rng.chance(self.scenario.loss) {
            self.tally.lost += 1;
            return;
        }
        let copies = if is_noisy && self.rng.chance(self.scenario.doubling) { 2 } else { 1 };
        self.tally.doubled += copies - 1;
        let most = if is_noisy { self.scenario.delay.as_micros() as u64 } else { 2_000 };
        for _ in 0..copies {
            // Most messages are quick; the slow ones overtake nobody.
            let micros = if self.rng.chance(800) { most / 20 } else { most };
            let pause = Duration::from_micros(self.rng.between(50, micros.max(51)));
            let wire = wire.clone();
            self.at(pause, Happening::Deliver { link, seq, from, to, wire });
        }
    }

    fn deliver(
        &mut self,
        link: u64,
        seq: u64,
        from: usize,
        to: usize,
        wire: Wire,
    ) -> Result<(), Broken> {
        if self.nodes[to].worker.is_none() {
            return Ok(());
        }
        let newest = self.arrived.entry(link).or_default();
        self.tally.reordered += u64::from(*newest > seq);
        *newest = seq.max(*newest);
        let from = self.nodes[from].id;
        match wire {
            Wire::Order(message) => self.deliver_order(to, from, message),
            Wire::Note(body) => self.deliver_note(to, from, body),
        }
    }

    fn deliver_order(&mut self, to: usize, from: PeerId, message: ToWorker) -> Result<(), Broken> {
        let worker = self.nodes[to].worker.as_ref();
        let seen = worker.and_then(|worker| worker.epoch_of(message.job));
        let is_old = seen > Some(message.epoch);
        if !is_old {
            return self.tell_worker(to, WorkerEvent::Message { from, message });
        }
        // Whatever is due goes first, so that nothing but the old message can have an effect.
        self.tally.old_orders += 1;
        self.tell_worker(to, WorkerEvent::Tick)?;
        let actions = self.apply_to_worker(to, WorkerEvent::Message { from, message });
        match actions.first() {
            Some(action) => Err(Broken::OldEpochObeyed(format!("a worker do {action:?}"))),
            None => Ok(()),
        }
    }

    fn deliver_note(&mut self, to: usize, from: PeerId, body: ToController) -> Result<(), Broken> {
        let Some(job) = self.job_index(body.job) else { return Ok(()) };
        if self.jobs[job].draw.controller != to {
            return Ok(());
        }
        if let Some(epoch) = self.jobs[job].over {
            if body.body != ControllerNote::Gone {
                let order = Engine::farewell(body.job, epoch);
                self.send(to, from, Wire::Order(order));
            }
            return Ok(());
        }
        let is_old = self.jobs[job].laws.epoch() > Some(body.epoch);
        if !is_old || self.jobs[job].engine.as_ref().is_none_or(|engine| engine.end().is_some()) {
            return self.tell_engine(job, Event::Message { from, body });
        }
        self.tally.old_notes += 1;
        self.tell_engine(job, Event::Tick)?;
        let actions = self.apply_to_engine(job, Event::Message { from, body });
        let is_harmless = |action: &Action| matches!(action, Action::Send { message, .. } if message.body == WorkerOrder::Query);
        if let Some(action) = actions.iter().find(|action| !is_harmless(action)) {
            return Err(Broken::OldEpochObeyed(format!("a controller do {action:?}")));
        }
        self.carry_out(job, actions)
    }

    /// What a peer and a controller believe about their connection, after a while.
    fn hint_all(&mut self) {
        for job in 0..self.jobs.len() {
            for node in 0..self.nodes.len() {
                let pause = self.rng.millis(1, 500);
                self.at(pause, Happening::Hint { job, node });
            }
        }
    }

    fn hint_about(&mut self, node: usize) {
        for job in 0..self.jobs.len() {
            if self.jobs[job].draw.controller == node {
                for other in 0..self.nodes.len() {
                    let pause = self.rng.millis(1, 500);
                    self.at(pause, Happening::Hint { job, node: other });
                }
            } else {
                let pause = self.rng.millis(1, 500);
                self.at(pause, Happening::Hint { job, node });
            }
        }
    }

    fn hint(&mut self, job: usize, node: usize) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let is_linked = self.is_linked(controller, node);
        let peer = self.nodes[node].id;
        let facts = self.facts(node);
        let event =
            if is_linked { Event::PeerUp { peer, facts } } else { Event::PeerDown { peer } };
        self.tell_engine(job, event)?;
        let peer = self.nodes[controller].id;
        let event =
            if is_linked { WorkerEvent::PeerUp { peer } } else { WorkerEvent::PeerDown { peer } };
        self.tell_worker(node, event)
    }

    fn facts(&self, node: usize) -> PeerFacts {
        PeerFacts {
            slots: self.nodes[node].slots,
            runtimes: BTreeSet::new(),
            labels: BTreeSet::new(),
            memory: MEMORY,
            refuses: None,
        }
    }

    // ---- controllers -------------------------------------------------------------------------

    fn submit(&mut self, job: usize) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        if self.nodes[controller].worker.is_none() {
            self.at(Duration::from_secs(1), Happening::Submit(job));
            return Ok(());
        }
        self.jobs[job].is_submitted = true;
        self.tally.jobs += 1;
        if self.jobs[job].draw.epoch_written {
            let record = Record::Epoch { epoch: Epoch(1) };
            self.jobs[job].laws.on_append(&record)?;
            self.jobs[job].journal.push(record);
        }
        self.start_engine(job, Epoch(1))
    }

    fn start_engine(&mut self, job: usize, epoch: Epoch) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let peers = (0..self.nodes.len())
            .filter(|node| self.is_linked(controller, *node))
            .map(|node| (self.nodes[node].id, self.facts(node)))
            .collect();
        let known = &self.jobs[job];
        let plan = JobPlan {
            job: known.id,
            epoch,
            controller: self.nodes[controller].id,
            manifest_file: FileRef { cid: known.manifest.code, len: 1 },
            manifest: known.manifest.clone(),
            tasks: known.tasks.clone(),
            kind: &Hashing,
            needs: Needs::default(),
            peers,
            limits: self.scenario.limits.clone(),
        };
        let now = self.now + self.nodes[controller].ahead;
        let journal = known.journal.clone();
        self.jobs[job].laws.on_recovery(&journal);
        let (mut engine, actions) = Engine::new(plan, now, journal);
        if let Some(fault) = self.scenario.planted {
            engine = engine.with_fault(fault);
        }
        self.jobs[job].engine = Some(engine);
        self.carry_out(job, actions)?;
        self.plan_engine_wake(job);
        Ok(())
    }

    fn tell_engine(&mut self, job: usize, event: Event) -> Result<(), Broken> {
        let actions = self.apply_to_engine(job, event);
        self.carry_out(job, actions)
    }

    fn apply_to_engine(&mut self, job: usize, event: Event) -> Vec<Action> {
        let now = self.now + self.nodes[self.jobs[job].draw.controller].ahead;
        let Some(engine) = &mut self.jobs[job].engine else { return Vec::new() };
        let actions = engine.apply(now, event);
        engine.check();
        self.plan_engine_wake(job);
        actions
    }

    fn plan_engine_wake(&mut self, job: usize) {
        let ahead = self.nodes[self.jobs[job].draw.controller].ahead;
        let life = self.controller_life(job);
        let now = self.now;
        let known = &mut self.jobs[job];
        let Some(due) = known.engine.as_ref().and_then(Engine::next_wake) else { return };
        let due = due.saturating_sub(ahead).max(now);
        if known.wake_at.is_none_or(|at| due < at) {
            known.wake_at = Some(due);
            self.at(due - now, Happening::WakeEngine { job, life });
        }
    }

    fn carry_out(&mut self, job: usize, actions: Vec<Action>) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let life = self.controller_life(job);
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    self.watch_order(job, to, &message)?;
                    self.send(controller, to, Wire::Order(message));
                }
                Action::Append { seq, record } => {
                    let pause = self.rng.millis(0, 20);
                    let now = self.now;
                    let known = &mut self.jobs[job];
                    known.laws.on_append(&record)?;
                    assert_eq!(seq, (known.journal.len() + known.unwritten.len()) as u64);
                    known.unwritten.push_back((seq, record));
                    known.written_by = known.written_by.max(now + pause);
                    let pause = known.written_by - now;
                    self.at(pause, Happening::Journaled { job, life, seq });
                }
                Action::Build { outputs, report } => {
                    let report = serde_json::to_vec(&report).expect("a report encodes");
                    let report = cid_of(CODEC_RAW, &report);
                    let pause = self.rng.millis(5, 300);
                    self.at(pause, Happening::Built { job, life, outputs, report });
                }
                Action::Ended(end) => self.jobs[job].laws.on_told(&end)?,
                Action::Over => {
                    let engine = self.jobs[job].engine.take();
                    self.tally.note_engine(engine.as_ref());
                    self.jobs[job].over = self.jobs[job].laws.epoch();
                }
            }
        }
        Ok(())
    }

    fn watch_order(&mut self, job: usize, to: PeerId, message: &ToWorker) -> Result<(), Broken> {
        if let WorkerOrder::Settled { attempts } = &message.body {
            for (task, attempt) in attempts {
                self.jobs[job].laws.on_settled(to, *task, *attempt)?;
            }
        }
        Ok(())
    }

    fn journaled(&mut self, job: usize, seq: u64) -> Result<(), Broken> {
        let known = &mut self.jobs[job];
        while let Some((first, _)) = known.unwritten.front()
            && *first <= seq
            && let Some((_, record)) = known.unwritten.pop_front()
        {
            known.laws.on_durable(&record);
            known.journal.push(record);
        }
        self.tell_engine(job, Event::Appended { seq })
    }

    fn built(&mut self, job: usize, outputs: &[Output], report: Cid) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        if self.are_faults_on && self.rng.chance(50) {
            self.tally.failed_builds += 1;
            let message = "the disk hiccuped".to_owned();
            let event = Event::BuildFailed { lost: Vec::new(), fatal: false, message };
            return self.tell_engine(job, event);
        }
        let id = self.jobs[job].id;
        let lost: Vec<TaskId> = outputs
            .iter()
            .filter(|output| !self.can_read(controller, id, output.task, &output.holders))
            .map(|output| output.task)
            .collect();
        if !lost.is_empty() {
            let message = "outputs are gone".to_owned();
            return self.tell_engine(job, Event::BuildFailed { lost, fatal: false, message });
        }
        let outputs: Vec<(TaskId, Payload)> =
            outputs.iter().map(|output| (output.task, output.payload.clone())).collect();
        let result = work::result_of(&outputs);
        self.nodes[controller].pinned.extend([result, report]);
        self.tell_engine(job, Event::ResultBuilt { result, report })
    }

    fn can_read(&self, reader: usize, job: JobId, task: TaskId, holders: &[PeerId]) -> bool {
        holders.iter().filter_map(|holder| self.index.get(holder)).any(|holder| {
            self.is_linked(reader, *holder) && self.nodes[*holder].scratch.contains(&(job, task))
        })
    }

    // ---- workers -----------------------------------------------------------------------------

    fn boot(&mut self, node: usize) -> Result<(), Broken> {
        if self.nodes[node].worker.is_some() || self.nodes[node].is_scrap {
            return Ok(());
        }
        let state = &mut self.nodes[node];
        state.life += 1;
        let now = self.now + state.ahead;
        let limits = self.scenario.worker_limits.clone();
        let (mut worker, actions) = Worker::new(state.slots, limits, now, state.records.clone());
        if let Some(fault) = self.scenario.planted {
            worker = worker.with_fault(fault);
        }
        state.worker = Some(worker);
        self.perform(node, actions)?;
        self.plan_worker_wake(node);
        self.hint_about(node);
        for job in 0..self.jobs.len() {
            let known = &self.jobs[job];
            if known.draw.controller == node && known.is_submitted && known.over.is_none() {
                let last = known.journal.iter().filter_map(|record| match record {
                    Record::Epoch { epoch } => Some(epoch.0),
                    _ => None,
                });
                let epoch = Epoch(last.max().unwrap_or(0) + 1);
                self.tally.take_overs += 1;
                self.start_engine(job, epoch)?;
            }
        }
        Ok(())
    }

    fn crash(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.worker = None;
        state.life += 1;
        state.unwritten.clear();
        state.scratch.clear();
        state.running.clear();
        state.wake_at = None;
        for job in self.jobs.iter_mut().filter(|job| job.draw.controller == node) {
            self.tally.note_engine(job.engine.as_ref());
            job.engine = None;
            job.unwritten.clear();
            job.wake_at = None;
        }
        self.hint_about(node);
    }

    fn tell_worker(&mut self, node: usize, event: WorkerEvent) -> Result<(), Broken> {
        let actions = self.apply_to_worker(node, event);
        self.perform(node, actions)
    }

    fn apply_to_worker(&mut self, node: usize, event: WorkerEvent) -> Vec<WorkerAction> {
        let now = self.now + self.nodes[node].ahead;
        let Some(worker) = &mut self.nodes[node].worker else { return Vec::new() };
        let actions = worker.apply(now, event);
        self.plan_worker_wake(node);
        actions
    }

    fn plan_worker_wake(&mut self, node: usize) {
        let now = self.now;
        let state = &mut self.nodes[node];
        let Some(due) = state.worker.as_ref().and_then(Worker::next_wake) else { return };
        let due = due.saturating_sub(state.ahead).max(now);
        if state.wake_at.is_none_or(|at| due < at) {
            state.wake_at = Some(due);
            let life = state.life;
            self.at(due - now, Happening::WakeWorker { node, life });
        }
    }

    fn perform(&mut self, node: usize, actions: Vec<WorkerAction>) -> Result<(), Broken> {
        let life = self.nodes[node].life;
        for action in actions {
            match action {
                WorkerAction::CheckManifest { job, .. } => {
                    let pause = self.rng.millis(1, 200);
                    self.at(pause, Happening::Checked { node, life, job });
                }
                WorkerAction::Start { job, assignment, .. } => {
                    self.start_run(node, job, assignment)?;
                }
                WorkerAction::Stop { job, task, attempt } => {
                    let run = (job, task, attempt);
                    if let Some(running) = self.nodes[node].running.get_mut(&run) {
                        running.is_stopped = true;
                        let pause = self.rng.millis(1, 50);
                        self.at(pause, Happening::Ran { node, life, run });
                    }
                }
                WorkerAction::Send { to, message } => {
                    self.watch_note(node, &message);
                    self.send(node, to, Wire::Note(message));
                }
                WorkerAction::Persist { seq, record } => {
                    let pause = self.rng.millis(0, 20);
                    let now = self.now;
                    let state = &mut self.nodes[node];
                    state.unwritten.push_back((seq, record));
                    state.written_by = state.written_by.max(now + pause);
                    let pause = state.written_by - now;
                    self.at(pause, Happening::Persisted { node, life, seq });
                }
                WorkerAction::Store { job, roots, holders } => {
                    let pause = self.rng.millis(5, 500);
                    self.at(pause, Happening::Stored { node, life, job, roots, holders });
                }
                WorkerAction::Forget { job } => {
                    self.nodes[node].scratch.retain(|(of, _)| *of != job);
                }
            }
        }
        Ok(())
    }

    fn start_run(&mut self, node: usize, id: JobId, assignment: Assignment) -> Result<(), Broken> {
        let Some(job) = self.job_index(id) else { return Ok(()) };
        self.jobs[job].laws.on_start(
            assignment.task,
            assignment.attempt,
            self.nodes[node].id,
            self.nodes[node].life,
        )?;
        let run = (id, assignment.task, assignment.attempt);
        let state = &mut self.nodes[node];
        let (life, slowness) = (state.life, state.slowness);
        state.running.insert(run, Run { assignment, is_stopped: false });
        let (running, slots) = (state.running.len(), state.slots as usize);
        if running > slots {
            return Err(Broken::TooManyRunning(running, slots));
        }
        let time = self.rng.millis(20, 1_000) * slowness;
        self.at(time / 2, Happening::Halfway { node, life, run });
        self.at(time, Happening::Ran { node, life, run });
        Ok(())
    }

    fn watch_note(&mut self, node: usize, message: &ToController) {
        let ControllerNote::Report { reports } = &message.body else { return };
        let Some(job) = self.job_index(message.job) else { return };
        let worker = self.nodes[node].id;
        for report in reports {
            if matches!(report.outcome, Outcome::Done { .. }) {
                self.jobs[job].laws.on_good_report(worker, report.task, report.attempt);
            }
        }
    }

    fn ran(&mut self, node: usize, run: RunKey) -> Result<(), Broken> {
        let Some(Run { assignment, is_stopped }) = self.nodes[node].running.remove(&run) else {
            return Ok(());
        };
        let (id, task, attempt) = run;
        let outcome = if is_stopped { None } else { Some(self.outcome(node, id, &assignment)) };
        if let Some(Outcome::Done { .. }) = outcome {
            self.nodes[node].scratch.insert((id, task));
        }
        let cost = Cost { wall_ms: 300, bytes_in: 100, bytes_out: 32, fetched: 0 };
        self.tell_worker(node, WorkerEvent::Finished { job: id, task, attempt, outcome, cost })
    }

    fn outcome(&mut self, node: usize, id: JobId, assignment: &Assignment) -> Outcome {
        let (Payload::Inline(body), Payload::Inline(inputs)) =
            (&assignment.body, &assignment.inputs)
        else {
            unreachable!("the simulator leaves payloads inline")
        };
        let inputs: Vec<Input> = serde_json::from_slice(inputs).expect("inputs decode");
        let lost: Vec<TaskId> = inputs
            .iter()
            .filter(|input| !self.can_read(node, id, input.task, &input.holders))
            .map(|input| input.task)
            .collect();
        if !lost.is_empty() {
            self.tally.lost_inputs += 1;
            return Outcome::InputLost { tasks: lost, message: "not found".to_owned() };
        }
        let fail = |class| Outcome::Failed {
            class,
            code: "IPDC-5000".to_owned(),
            message: "it failed".to_owned(),
            log: vec!["a line".to_owned()],
        };
        let Some(job) = self.job_index(id) else { return fail(FailureClass::Worker) };
        if self.jobs[job].draw.poison == Some(assignment.task.0) {
            return fail(FailureClass::Guest);
        }
        if self.are_faults_on && self.rng.chance(self.scenario.failing) {
            self.tally.failed_attempts += 1;
            let failures = self.jobs[job].guest_failures.entry(assignment.task).or_default();
            if *failures < 2 && self.rng.chance(500) {
                *failures += 1;
                return fail(FailureClass::Guest);
            }
            let is_missing = self.rng.chance(300);
            return fail(if is_missing { FailureClass::Missing } else { FailureClass::Worker });
        }
        let memoized = self.rng.chance(30);
        Outcome::Done { output: work::output_of(body, &inputs), memoized }
    }

    fn stored(
        &mut self,
        node: usize,
        job: JobId,
        roots: Vec<Cid>,
        holders: &[PeerId],
    ) -> Result<(), Broken> {
        let is_there = holders.iter().filter_map(|holder| self.index.get(holder)).any(|holder| {
            let pinned = &self.nodes[*holder].pinned;
            self.is_linked(node, *holder) && roots.iter().all(|root| pinned.contains(root))
        });
        let has_luck = !(self.are_faults_on && self.rng.chance(100));
        let error = if is_there && has_luck {
            self.nodes[node].pinned.extend(roots.iter().copied());
            None
        } else {
            self.tally.failed_stores += 1;
            Some("could not be fetched".to_owned())
        };
        self.tell_worker(node, WorkerEvent::StoreDone { job, roots, error })
    }

    // ---- faults ------------------------------------------------------------------------------

    fn mishap(&mut self) -> Result<(), Broken> {
        if !self.are_faults_on {
            return Ok(());
        }
        let pause = self.scenario.fault_every.unwrap_or(Duration::from_secs(1)).as_millis() as u64;
        let next = self.rng.millis(1, 2 * pause);
        self.at(next, Happening::Mishap);
        let node = if self.rng.chance(250) {
            let job = self.rng.index(self.jobs.len());
            self.jobs[job].draw.controller
        } else {
            self.rng.index(self.nodes.len())
        };
        match self.rng.between(0, 99) {
            0..=34 => self.mishap_crash(node),
            35..=49 => {
                self.tally.partitions += 1;
                let share = self.rng.between(100, 900);
                let sides = (0..self.nodes.len()).map(|_| self.rng.chance(share)).collect();
                self.sides = Some(sides);
                self.hint_all();
                let pause = self.rng.millis(200, 15_000);
                self.at(pause, Happening::Mend);
            }
            50..=61 => {
                self.tally.clock_jumps += 1;
                self.nodes[node].ahead += self.rng.millis(100, 120_000);
                self.tell_worker(node, WorkerEvent::Tick)?;
                for job in 0..self.jobs.len() {
                    if self.jobs[job].draw.controller == node {
                        self.tell_engine(job, Event::Tick)?;
                    }
                }
            }
            62..=73 => {
                self.tally.freezes += 1;
                self.nodes[node].frozen_until = self.now + self.rng.millis(100, 20_000);
            }
            74..=83 => {
                self.tally.slow_nodes += 1;
                self.nodes[node].slowness = self.rng.between(1, 20) as u32;
            }
            84..=93 => {
                self.tally.wiped_disks += 1;
                self.nodes[node].scratch.clear();
            }
            _ => {
                self.tally.drains += 1;
                self.tell_worker(node, WorkerEvent::Drain)?;
                let pause = self.rng.millis(50, 2_000);
                self.at(pause, Happening::Crash { node });
            }
        }
        Ok(())
    }

    fn mishap_crash(&mut self, node: usize) {
        if self.nodes[node].worker.is_none() {
            return;
        }
        let is_controller = self.jobs.iter().any(|job| job.draw.controller == node);
        self.tally.crashes += 1;
        self.tally.controller_crashes += u64::from(is_controller);
        self.crash(node);
        if !is_controller && self.rng.chance(100) {
            self.tally.scrapped += 1;
            self.nodes[node].is_scrap = true;
            return;
        }
        let pause = self.rng.millis(50, 20_000);
        self.at(pause, Happening::Restart { node });
    }

    fn stop_faults(&mut self) -> Result<(), Broken> {
        self.are_faults_on = false;
        self.faults_stopped_at = Some(self.now);
        self.sides = None;
        for node in 0..self.nodes.len() {
            self.nodes[node].frozen_until = Duration::ZERO;
            self.nodes[node].slowness = 1;
            self.boot(node)?;
        }
        self.hint_all();
        Ok(())
    }

    // ---- the end -----------------------------------------------------------------------------

    fn is_quiet(&self) -> bool {
        let are_over = self.jobs.iter().all(|job| job.over.is_some());
        are_over
            && self.nodes.iter().all(|node| {
                node.worker.as_ref().is_none_or(|worker| worker.jobs().next().is_none())
            })
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
                        return Err(Broken::WrongResult(end.result, job.expected));
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
                state => return Err(Broken::EndedBadly(state, why)),
            }
        }
        Ok(())
    }
}
