//! The shared state machines: one [`Engine`] per job on its controller, one [`Worker`] per node.
//!
//! Both are synchronous and pure: an event and the time go in, actions come out. They own every
//! decision about a running job; their drivers in `ipdc-node` own every effect. The simulator
//! drives them through the same doors.
//!
//! # The protocol
//!
//! Messages may be lost, doubled, late or out of order. These rules make that harmless:
//!
//! - **Epochs.** A controller's term is in the journal before anybody hears of it. A worker keeps
//!   the highest epoch it has seen from a member of the job's roster and ignores older ones; an
//!   engine ignores notes of another epoch, and tells the worker its own by a `Query`.
//! - **Attempts** are never reused. An `Assign` is repeated until a `Renew` or a `Report` names
//!   the attempt; an attempt that is not named for a lease is lost and its task is tried again.
//! - **Reports** are repeated until `Settled`. A good one is settled when the journal holds the
//!   commit, or when the task is decided already; a failure at once, as only live attempts count
//!   and a second copy finds its attempt closed.
//! - **Commits.** A task is committed at most once between two losses. The first good report wins,
//!   whichever attempt it is of; the others are revoked.
//! - **Losses.** An output that nobody has is un-committed by a record of its own and its task runs
//!   again. The new output must be the old one, byte for byte: else the code is not deterministic,
//!   and the job fails and says so.
//! - **The end** is in the journal before the user hears of it. `Store` and `End` are repeated until
//!   answered, for a bounded time.
//!
//! # What a driver owes
//!
//! - It feeds each machine from one thread, carries out actions in the order given, and calls with
//!   `Tick` when [`Engine::next_wake`] or [`Worker::next_wake`] is due (it may change after every
//!   event).
//! - `Append` and `Persist` go to the disk in the order of their `seq`; `Appended` and `Persisted`
//!   are said when they are there, never before, and may stand for many. A write that fails is
//!   tried again until it succeeds: the machine waits and says nothing that depends on it.
//! - It tells an engine of every peer that is connected, its own node included, and of changes; and
//!   a worker of the peers that control its jobs.
//! - `Send` may fail in silence. Payloads longer than [`INLINE_LIMIT`](crate::message::INLINE_LIMIT)
//!   become files first. A message to the node itself is delivered like any other.
//! - A note about a job that has no engine here, because it is over, is answered by
//!   [`Engine::farewell`], unless it is `Gone`.
//! - It tells a worker when the node's policy comes to another answer about a job of the worker's.
//! - A build, a manifest check, a store and a stopped attempt always come to an end, good or bad:
//!   their time-outs are the driver's.
//!
//! # The files
//!
//! | file | what it holds |
//! |---|---|
//! | `types` | events, actions, records, progress: what crosses the boundary |
//! | `limits` | every bound, and why it is what it is |
//! | `state` | what an engine knows |
//! | `rank` | who works for a job, where a task is at home |
//! | `assign` | queues, giving out, stealing, stragglers |
//! | `early` | outputs that travel while other tasks still run |
//! | `attempts` | renewals, leases, time-outs, peers that go |
//! | `course` | tasks that follow from results |
//! | `gifts` | what is given to a job while it runs |
//! | `withdraw` | items that are wanted no more |
//! | `reports` | what follows from the end of an attempt |
//! | `journal` | records on their way to the disk; what each changes is in `effects` |
//! | `finish` | building, storing and ending |
//! | `progress` | what users are told |
//! | `worker` | the other side |
//! | `faults` | mistakes planted on purpose, in tests only |

mod assign;
mod attempts;
mod course;
mod early;
mod effects;
mod faults;
mod finish;
mod gifts;
mod journal;
mod limits;
mod progress;
mod rank;
mod reports;
mod state;
mod takes;
#[cfg(test)]
mod tests;
mod types;
mod withdraw;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{Attempt, Epoch, JobId, PeerId, TaskId};
use crate::kind::TaskSpec;
use crate::message::{ToController, ToWorker, WorkerOrder};
use course::Ahead;
use early::Early;
use faults::Planted;
use finish::Finish;
use journal::Journal;
use state::{Group, Outgrown, Peer, Stage, Task, Timer};

pub use faults::Fault;
pub use gifts::{BadGiftKey, GiftKey};
pub use limits::{BATCH_LIMIT, HOLDERS_LIMIT, Limits, WorkerLimits};
pub use rank::candidates;
pub use takes::Takes;
pub use types::{
    Action, CommitReport, Counters, End, EndState, Event, FailureReport, JobError, JobPlan,
    JobReport, Kept, Needs, Output, PeerFacts, Phase, Progress, Record, Refusal, Runtime,
    StageProgress, TaskReport,
};
pub use worker::{
    CheckedManifest, Grant, Remembered, Worker, WorkerAction, WorkerEvent, WorkerRecord,
};

/// The engine of one job: decides what its workers do, and when it ends.
pub struct Engine {
    plan: JobPlan,
    /// The term under which it speaks.
    epoch: Epoch,
    /// Whether the journal holds the term: nothing is sent before.
    started: bool,
    /// Whether there were earlier terms, so that workers may have more than we know.
    recovered: bool,
    /// After a take-over: nothing is given out before this, or before every peer answered.
    adopt_until: Option<Duration>,
    born: Duration,
    now: Duration,
    tasks: Vec<Task>,
    groups: Vec<Group>,
    stages: Vec<Stage>,
    peers: BTreeMap<PeerId, Peer>,
    /// The peers that work for the job: by rank at first, later ones at the tail.
    chosen: Vec<PeerId>,
    /// Tasks that wait while no peer can be their home.
    homeless: BTreeSet<TaskId>,
    journal: Journal,
    finish: Finish,
    timers: BTreeSet<(Duration, Timer)>,
    /// Whether something changed that may let a task be given out.
    unassigned: bool,
    /// When the job last got further.
    progress_at: Duration,
    /// Bytes of logs that the job may still keep.
    log_room: usize,
    /// The peers on which its code did not fit; none that another covers.
    outgrown: Vec<Outgrown>,
    /// Since when all that could run it are too small.
    too_small_since: Option<Duration>,
    early: Early,
    /// What follows from results, of kinds that have it so.
    ahead: Option<Ahead>,
    counters: Counters,
    planted: Planted,
    outbox: Outbox,
}

/// Orders gathered during one event: one message for each peer and sort.
#[derive(Default)]
struct Outbox {
    actions: Vec<Action>,
    settled: BTreeMap<PeerId, Vec<(TaskId, Attempt)>>,
    revoked: BTreeMap<PeerId, Vec<(TaskId, Attempt)>>,
    assigned: BTreeMap<PeerId, Vec<(TaskId, Attempt)>>,
}

impl Engine {
    /// An engine for `plan`, with the job's journal so far (empty for a new job). When the last
    /// record is already `Epoch` of the plan's epoch (written with the acceptance), the engine
    /// starts at once; else it appends one first.
    ///
    /// # Panics
    /// When the plan's epoch is not above every other epoch in the journal, or the journal names
    /// tasks that the plan lacks: it is another job's, or corrupt.
    #[must_use]
    pub fn new(plan: JobPlan, now: Duration, recovered: Vec<Record>) -> (Engine, Vec<Action>) {
        let mut engine = Engine::blank(plan, now, recovered.len());
        let epoch_is_written = recovered.last() == Some(&Record::Epoch { epoch: engine.epoch });
        let has_ended = matches!(recovered.last(), Some(Record::Ended(_)));
        let terms = recovered.iter().filter(|r| matches!(r, Record::Epoch { .. })).count();
        engine.recovered = terms > usize::from(epoch_is_written);
        engine.replay(recovered);
        if !has_ended && !epoch_is_written {
            engine.append(Record::Epoch { epoch: engine.plan.epoch });
        }
        let actions = engine.settle_down();
        (engine, actions)
    }

    /// An engine that makes a mistake on purpose.
    #[cfg(any(test, feature = "planted-faults"))]
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Engine {
        self.planted = Planted::plant(fault);
        self
    }

    fn blank(plan: JobPlan, now: Duration, records: usize) -> Engine {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_range: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        let mut tasks = Vec::with_capacity(plan.tasks.len());
        let mut stages: Vec<Stage> = plan.kind.stages().iter().map(|_| Stage::default()).collect();
        for (index, spec) in plan.tasks.iter().enumerate() {
            let needs = &spec.needs;
            assert!(
                needs.is_empty() || needs.end <= index as u32,
                "a task needs only earlier ones"
            );
            let group = (!needs.is_empty()).then(|| {
                *by_range.entry((needs.start, needs.end)).or_insert_with(|| {
                    let missing = needs.len() as u32;
                    groups.push(Group { tasks: needs.clone(), missing, consumers: Vec::new() });
                    groups.len() - 1
                })
            });
            if let Some(group) = group {
                groups[group].consumers.push(TaskId(index as u32));
            }
            tasks.push(Task::new(group));
            let stage = &mut stages[usize::from(spec.stage)];
            stage.total += 1;
            stage.weight = stage.weight.saturating_add(spec.weight.max(1));
        }
        let peers = plan.peers.iter().map(|(peer, facts)| {
            let rank = rank::rank(&plan.job, peer);
            (*peer, Peer::new(rank, rank::for_job(facts.clone(), &plan.needs), now))
        });
        let peers = peers.collect();
        let ahead = plan.kind.course(&plan.manifest.config, &plan.tasks).map(Ahead::new);
        Engine {
            epoch: plan.epoch,
            plan,
            started: false,
            recovered: false,
            adopt_until: None,
            born: now,
            now,
            tasks,
            groups,
            stages,
            peers,
            chosen: Vec::new(),
            homeless: BTreeSet::new(),
            journal: Journal::after(records),
            finish: Finish::Working,
            timers: BTreeSet::new(),
            unassigned: true,
            progress_at: now,
            log_room: limits::JOB_LOG_LIMIT,
            outgrown: Vec::new(),
            too_small_since: None,
            early: Early::default(),
            ahead,
            counters: Counters::default(),
            planted: Planted::default(),
            outbox: Outbox::default(),
        }
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.advance(now);
        match event {
            Event::Message { from, body } => self.on_message(from, body),
            Event::PeerUp { peer, facts } => self.on_peer_up(peer, facts),
            Event::PeerDown { peer } => self.on_peer_down(peer),
            Event::Appended { seq } => self.on_appended(seq),
            Event::ResultBuilt { result, report } => self.on_built(result, report),
            Event::BuildFailed { lost, message } => self.on_build_failed(&lost, message),
            Event::ResultRefused { code, message } => self.on_refused_result(&code, message),
            Event::Read { task, attempt, output } => self.on_read(task, attempt, output),
            Event::Give { ticket, key, payload, items } => {
                self.on_give(ticket, key, payload, items)
            }
            Event::Withdraw { ticket, items } => self.on_withdraw(ticket, &items),
            Event::Close => self.on_close(),
            Event::Cancel => self.on_cancel(),
            Event::Tick => {}
        }
        self.settle_down()
    }

    /// When an [`Event::Tick`] is due next, at the latest. None when nothing is waited for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// What the engine did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether nothing is left to do: [`Action::Over`] was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.finish, Finish::Over { .. })
    }

    /// How the job ended, once the journal says so.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match &self.finish {
            Finish::Farewell { end, .. } | Finish::Over { end } => Some(end),
            _ => None,
        }
    }

    /// What to answer to a worker that asks about a job which ended and whose engine is gone.
    #[must_use]
    pub fn farewell(job: JobId, epoch: Epoch) -> ToWorker {
        ToWorker { job, epoch, body: WorkerOrder::End }
    }

    /// Time is what the driver says, but never goes back. When the driver itself slept far beyond
    /// a wake that was due (a suspended laptop), nobody else is to blame for the silence: every
    /// deadline moves by as much.
    fn advance(&mut self, now: Duration) {
        let now = now.max(self.now);
        let late = self.next_wake().map_or(Duration::ZERO, |due| now.saturating_sub(due));
        if late > self.plan.limits.lease / 2 {
            self.postpone(late);
        }
        self.now = now;
    }

    /// Fires what is due, gives out what can be, and hands over the actions.
    fn settle_down(&mut self) -> Vec<Action> {
        while let Some((due, timer)) = self.timers.first().copied()
            && due <= self.now
        {
            self.timers.pop_first();
            match timer {
                Timer::Attempt(task, attempt) => self.look_at_attempt(task, attempt),
                Timer::Peer(peer) => self.look_at_peer(peer),
                Timer::Retry(task) => self.enqueue(&[task]),
                Timer::Assign => self.unassigned = true,
                Timer::Finish => self.look_at_finish(),
                Timer::Stall => self.look_at_stall(),
                Timer::Idle => self.look_at_idle(),
            }
        }
        // Answers go out before new work: a worker that is told to forget or stop has room sooner.
        self.say_answers();
        self.fail_if_broken();
        self.build_if_finished();
        if std::mem::take(&mut self.unassigned) {
            self.assign();
        }
        self.flush()
    }

    fn on_message(&mut self, from: PeerId, message: ToController) {
        if message.job != self.plan.job || !self.started {
            // Before its term is durable this engine must not speak; the sender asks again.
            return;
        }
        if self.end().is_some() {
            self.answer_after_the_end(from, &message);
            return;
        }
        let is_ours = message.epoch == self.epoch;
        if !is_ours && !self.planted.has(faults::Fault::BelievesOldEpochs) {
            self.counters.other_epochs += 1;
            if message.epoch < self.epoch {
                self.query(from);
            }
            return;
        }
        if let Some(what) = message.body.excess() {
            self.outbox.actions.push(Action::Blame { peer: from, what });
            return;
        }
        self.on_note(from, message.body);
    }

    fn spec(&self, task: TaskId) -> &TaskSpec {
        &self.plan.tasks[task.0 as usize]
    }

    fn task(&self, task: TaskId) -> &Task {
        &self.tasks[task.0 as usize]
    }

    fn task_mut(&mut self, task: TaskId) -> &mut Task {
        &mut self.tasks[task.0 as usize]
    }

    fn stage_of(&self, task: TaskId) -> &Stage {
        &self.stages[usize::from(self.spec(task).stage)]
    }

    fn stage_mut(&mut self, task: TaskId) -> &mut Stage {
        let stage = usize::from(self.spec(task).stage);
        &mut self.stages[stage]
    }

    fn timer(&mut self, due: Duration, timer: Timer) {
        self.timers.insert((due, timer));
    }

    fn append(&mut self, record: Record) {
        let action = self.journal.append(record);
        self.outbox.actions.push(action);
    }

    fn send(&mut self, to: PeerId, body: WorkerOrder) {
        let message = ToWorker { job: self.plan.job, epoch: self.epoch, body };
        self.outbox.actions.push(Action::Send { to, message });
    }

    /// Tells a peer this term's epoch and asks what it has; not more often than orders are
    /// repeated.
    fn query(&mut self, peer: PeerId) {
        let again = self.plan.limits.resend;
        let now = self.now;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.queried_at.is_none_or(|at| now >= at + again) {
            known.queried_at = Some(now);
            self.send(peer, WorkerOrder::Query);
        }
    }

    fn say_answers(&mut self) {
        for (peer, attempts) in std::mem::take(&mut self.outbox.settled) {
            for attempts in attempts.chunks(limits::NAMES_LIMIT) {
                self.send(peer, WorkerOrder::Settled { attempts: attempts.to_vec() });
            }
        }
        for (peer, attempts) in std::mem::take(&mut self.outbox.revoked) {
            for attempts in attempts.chunks(limits::NAMES_LIMIT) {
                self.send(peer, WorkerOrder::Revoke { attempts: attempts.to_vec() });
            }
        }
    }

    fn flush(&mut self) -> Vec<Action> {
        self.say_answers();
        for (peer, attempts) in std::mem::take(&mut self.outbox.assigned) {
            for attempts in attempts.chunks(BATCH_LIMIT) {
                self.send_assignments(peer, attempts);
            }
        }
        std::mem::take(&mut self.outbox.actions)
    }
}
