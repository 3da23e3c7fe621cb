//! Runs attempts for the controllers of jobs, on this node and elsewhere.
//!
//! [`Worker`] is a handle to one task that owns the pure machine
//! [`ipdc_jobs::engine::Worker`]: letters, ends of attempts and the clock go in as events, and its
//! actions are carried out here. [`attempt`] is what one attempt sees of the world; [`early`] fetches
//! what later ones will read; [`memo`] is what was made here before; [`admit`] reads what a job
//! claims and [`policy`] says whether this node works for it; [`quota`] counts what owners have
//! here; [`room`] divides its memory.

mod admit;
mod attempt;
mod early;
mod memo;
mod policy;
mod quota;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Timelike as _;
use ipdc_jobs::engine::{
    CheckedManifest, Grant, Takes, Worker as Machine, WorkerAction, WorkerEvent, WorkerLimits,
    WorkerRecord,
};
use ipdc_jobs::ids::{Attempt, Cid, JobId, PeerId, TaskId};
use ipdc_jobs::message::{Cost, Outcome, ToWorker};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use admit::Claim;
pub use admit::Refusal;
use attempt::Running;
use early::Early;
use policy::Used;
pub use policy::{Now, Policy, Wish};
use quota::Held;
pub use room::Room;

use crate::audit::{self, Audit, Entry, What};
use crate::blocks::Blocks;
use crate::fetch::Fetcher;
use crate::machine::Gpu;
use crate::post::Post;
use crate::runtime::Runtime;
use crate::state::attempts::Change;
use crate::state::{self, Db, StateError};
use crate::swarm::conduct::Misdeed;
use crate::swarm::facts::PeerFacts;
use crate::swarm::{Swarm, SwarmEvent};

/// Events that wait for the machine: ends and progress of the attempts that run, a few each.
const EVENT_LIMIT: usize = 4_096;

/// The pause before records that could not be written (a full disk) are tried again.
const PERSIST_RETRY: Duration = Duration::from_secs(1);

/// What a worker works with.
pub struct Parts {
    /// This node.
    pub me: PeerId,
    /// Attempts at once, and what each may have.
    pub room: Room,
    /// The machine's GPUs.
    pub gpus: Vec<Gpu>,
    /// For whom it works.
    pub policy: Policy,
    /// What is now: whether the node is paused, how busy its machine is. It is looked at again each
    /// time this changes.
    pub facts: watch::Receiver<PeerFacts>,
    /// Who is a member.
    pub swarm: Swarm,
    /// Blocks.
    pub blocks: Blocks,
    /// The sandbox.
    pub runtime: Runtime,
    /// The network, for guests that may have it.
    pub fetcher: Fetcher,
    /// Letters out.
    pub post: Post,
    /// Durable records.
    pub db: Db,
    /// What was made here before.
    pub memo: Db,
    /// Where it is noted for whom it worked, and for whom not.
    pub audit: Audit,
}

/// The worker of this node.
#[derive(Clone)]
pub struct Worker {
    events: mpsc::Sender<WorkerEvent>,
    asked: Asked,
    load: watch::Receiver<Load>,
    remembered: Arc<[JobId]>,
}

/// Who waits for the answer to a [`WorkerEvent::Hold`].
type Asked = Arc<Mutex<HashMap<u64, oneshot::Sender<Option<Lease>>>>>;

/// Slots and GPUs of this node, for something that is no attempt, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    id: u64,
    /// As the driver knows them.
    pub gpus: Vec<String>,
    events: mpsc::Sender<WorkerEvent>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (events, event) = (self.events.clone(), WorkerEvent::LetGo { id: self.id });
        // Without a runtime the node is gone.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = events.send(event).await;
            });
        }
    }
}

/// What the worker holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Attempts that run.
    pub running: u32,
    /// Attempts held for each job, with the job's controller.
    pub jobs: Vec<(JobId, PeerId, u32)>,
}

impl Worker {
    /// Starts the worker, with what it remembers from before.
    ///
    /// # Errors
    /// When its records cannot be read.
    pub async fn start(
        parts: Parts,
        mail: mpsc::Receiver<(PeerId, ToWorker)>,
        swarm: mpsc::Receiver<SwarmEvent>,
    ) -> Result<Worker, StateError> {
        let recovered = state::attempts::all(&parts.db).await?;
        let recovered =
            recovered.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let results = Held::load(parts.db.clone()).await?;
        let (events_out, events) = mpsc::channel(EVENT_LIMIT);
        let (checks, checked) = mpsc::channel(EVENT_LIMIT);
        let (load_out, load) = watch::channel(Load::default());
        let (handle, asked) = (events_out.clone(), Asked::default());
        let started = Instant::now();
        let (machine, actions) =
            Machine::new(parts.room.slots, WorkerLimits::default(), Duration::ZERO, recovered);
        let machine = machine.with_gpus(parts.gpus.iter().map(|gpu| gpu.memory).collect());
        let remembered = machine.jobs().collect();
        let records = keep_records(parts.db.clone(), events_out.clone());
        let desk = Desk {
            parts: Arc::new(parts),
            machine,
            started,
            events: events_out,
            records,
            checks,
            judged: BTreeMap::new(),
            results,
            running: HashMap::new(),
            early: HashMap::new(),
            asked: Arc::clone(&asked),
            load: load_out,
        };
        let inbox = Inbox { events, checked, mail, swarm };
        tokio::spawn(desk.run(actions, inbox));
        Ok(Worker { events: handle, asked, load, remembered })
    }

    /// The jobs that it remembered when it started: what they left on the disk is still needed.
    #[must_use]
    pub fn remembered(&self) -> &[JobId] {
        &self.remembered
    }

    /// What it holds now.
    #[must_use]
    pub fn load(&self) -> Load {
        self.load.borrow().clone()
    }

    /// What something that is no attempt takes of this node, if there is so much; `id` is nobody else's.
    pub async fn lease(&self, id: u64, takes: Takes) -> Option<Lease> {
        let (answer, answered) = oneshot::channel();
        lock(&self.asked).insert(id, answer);
        self.events.send(WorkerEvent::Hold { id, takes }).await.ok()?;
        answered.await.ok()?
    }

    /// Hands back what waits, starts nothing more, and returns when nothing runs any more or
    /// after `bound`.
    pub async fn drain(&self, bound: Duration) {
        let _ = self.events.send(WorkerEvent::Drain).await;
        let mut load = self.load.clone();
        let idle = load.wait_for(|load| load.running == 0);
        let _ = tokio::time::timeout(bound, idle).await;
    }
}

type Key = (JobId, TaskId, Attempt);

/// The task that owns the machine.
struct Desk {
    parts: Arc<Parts>,
    machine: Machine,
    started: Instant,
    events: mpsc::Sender<WorkerEvent>,
    records: mpsc::UnboundedSender<(u64, WorkerRecord)>,
    checks: mpsc::Sender<Check>,
    /// The jobs that the machine has, as far as their manifests are checked.
    judged: BTreeMap<JobId, Judged>,
    results: Held,
    running: HashMap<Key, Running>,
    early: HashMap<JobId, Early>,
    asked: Asked,
    load: watch::Sender<Load>,
}

/// What a job claims, once the manifest that a peer named was looked at.
type Check = (JobId, PeerId, Result<Claim, Refusal>);

/// A job's claim, and what the policy said to it last.
struct Judged {
    claim: Claim,
    /// Whose it was when it was judged.
    owner: String,
    verdict: Result<Grant, String>,
}

/// What reaches the desk.
struct Inbox {
    events: mpsc::Receiver<WorkerEvent>,
    checked: mpsc::Receiver<Check>,
    mail: mpsc::Receiver<(PeerId, ToWorker)>,
    swarm: mpsc::Receiver<SwarmEvent>,
}

impl Desk {
    async fn run(mut self, actions: Vec<WorkerAction>, mut inbox: Inbox) {
        let mut facts = self.parts.facts.clone();
        self.carry_out(actions);
        loop {
            let wake = self.machine.next_wake().map(|at| self.started + at);
            let event = tokio::select! {
                Some(event) = inbox.events.recv() => event,
                Some((from, message)) = inbox.mail.recv() => WorkerEvent::Message { from, message },
                Some((job, from, claim)) = inbox.checked.recv() => self.judge_claim(job, from, claim),
                Ok(()) = facts.changed() => {
                    self.judge_again();
                    continue;
                }
                Some(event) = inbox.swarm.recv() => match event {
                    SwarmEvent::Up(peer) => WorkerEvent::PeerUp { peer },
                    SwarmEvent::Down(peer) => {
                        // It may have been cut off.
                        self.judge_again();
                        WorkerEvent::PeerDown { peer }
                    }
                    SwarmEvent::Facts(_) => continue,
                },
                () = sleep_until(wake.unwrap_or(self.started)), if wake.is_some() => WorkerEvent::Tick,
                else => return,
            };
            self.apply(event);
        }
    }

    fn apply(&mut self, event: WorkerEvent) {
        if let WorkerEvent::Finished { job, task, attempt, outcome, cost } = &event {
            let ran = self.running.remove(&(*job, *task, *attempt));
            let visits = ran.map_or(0, |ran| ran.visits());
            self.note_run(*job, outcome.as_ref(), cost, visits);
        }
        let checked = match &event {
            WorkerEvent::ManifestChecked { job, .. } => Some(*job),
            _ => None,
        };
        let actions = self.machine.apply(self.started.elapsed(), event);
        self.carry_out(actions);
        if let Some(job) = checked
            && !self.machine.jobs().any(|known| known == job)
        {
            self.judged.remove(&job);
        }
        self.load.send_if_modified(|load| {
            let now = Load {
                running: self.running.len() as u32,
                jobs: held(&self.running, &self.judged),
            };
            let changed = *load != now;
            *load = now;
            changed
        });
    }

    fn note_run(&self, job: JobId, outcome: Option<&Outcome>, cost: &Cost, visits: u64) {
        let Some(Judged { claim, owner, .. }) = self.judged.get(&job) else { return };
        self.parts.audit.ran(audit::Run {
            job,
            owner: owner.clone(),
            submitter: claim.submitter,
            is_good: matches!(outcome, Some(Outcome::Done { .. })),
            wall_ms: cost.wall_ms,
            visits,
        });
    }

    /// What the policy says to a job whose manifest was looked at.
    fn judge_claim(
        &mut self,
        job: JobId,
        from: PeerId,
        claim: Result<Claim, Refusal>,
    ) -> WorkerEvent {
        if matches!(&claim, Err(refusal) if refusal.is_forgery()) {
            self.parts.post.conduct().report(from, Misdeed::Forged("a manifest"));
        }
        let submitter = claim.as_ref().ok().map(|claim| claim.submitter);
        let owner = submitter.and_then(|peer| self.parts.swarm.owner(peer)).unwrap_or_default();
        let checked = claim.map_err(|refusal| refusal.to_string()).and_then(|claim| {
            let verdict = self.judge(job, &claim);
            let roster = claim.roster.clone();
            let judged = Judged { claim, owner: owner.clone(), verdict: verdict.clone() };
            self.judged.insert(job, judged);
            verdict.map(|grant| CheckedManifest { roster, grant })
        });
        if let Err(reason) = &checked {
            let entry = Entry::now(What::Refused, &owner, reason.as_str());
            self.parts.audit.note(Entry { peer: submitter, job: Some(job), ..entry });
        }
        WorkerEvent::ManifestChecked { job, from, checked }
    }

    /// Tells the machine where the policy has another answer by now.
    fn judge_again(&mut self) {
        let jobs: Vec<JobId> = self.judged.keys().copied().collect();
        // One after the other: what one is granted counts for the next.
        for job in jobs {
            let Some(Judged { claim, verdict, .. }) = self.judged.get(&job) else { continue };
            if self.judge(job, claim) != *verdict {
                let (claim, from) = (claim.clone(), claim.roster.first().copied());
                let event = self.judge_claim(job, from.unwrap_or(self.parts.me), Ok(claim));
                self.apply(event);
            }
        }
    }

    fn judge(&self, job: JobId, claim: &Claim) -> Result<Grant, String> {
        let Parts { me, policy, facts, swarm, .. } = &*self.parts;
        let stranger = || Refusal::Stranger(claim.submitter).to_string();
        let owner = swarm.owner(claim.submitter).ok_or_else(stranger)?;
        let (paused, others) = {
            let facts = facts.borrow();
            (facts.paused, facts.cpu_others)
        };
        let now = Now { me: *me, paused, minute: minute(), others };
        let used = self.used(&owner, job);
        policy.judge(claim, &owner, used, &now).map_err(|refusal| refusal.to_string())
    }

    /// What `owner` has here, but for `job` as a job: its bytes count.
    fn used(&self, owner: &str, job: JobId) -> Used {
        let granted =
            |judged: &Judged| judged.verdict.as_ref().is_ok_and(|grant| grant.owner == owner);
        let others = self.judged.iter().filter(|(other, judged)| **other != job && granted(judged));
        let is_its = |of: &JobId| *of == job || self.judged.get(of).is_some_and(granted);
        let scratch = self.parts.blocks.store().scratch_jobs().into_iter();
        let scratch: u64 = scratch.filter(|(of, _)| is_its(of)).map(|(_, bytes)| bytes).sum();
        Used { jobs: others.count() as u32, stored: scratch.saturating_add(self.results.of(owner)) }
    }

    /// Whose result it is that is to be held, and how much of it may be.
    fn room(&self, job: JobId) -> Result<policy::Room, Refusal> {
        let Parts { me, policy, swarm, .. } = &*self.parts;
        let submitter = self.judged.get(&job).map_or(*me, |judged| judged.claim.submitter);
        let owner = swarm.owner(submitter).ok_or(Refusal::Stranger(submitter))?;
        Ok(policy.room(submitter, &owner, self.used(&owner, job).stored))
    }

    fn carry_out(&mut self, actions: Vec<WorkerAction>) {
        for action in actions {
            match action {
                WorkerAction::CheckManifest { job, manifest, from } => {
                    let (parts, checks) = (Arc::clone(&self.parts), self.checks.clone());
                    tokio::spawn(async move {
                        let claim = admit::claim(&parts, job, manifest, from).await;
                        let _ = checks.send((job, from, claim)).await;
                    });
                }
                WorkerAction::Recall { job, assignments, manifest } => {
                    let (parts, events) = (Arc::clone(&self.parts), self.events.clone());
                    tokio::spawn(async move {
                        let attempts = memo::recall(&parts, job, manifest, assignments).await;
                        let _ = events.send(WorkerEvent::Recalled { job, attempts }).await;
                    });
                }
                WorkerAction::Start { job, assignment, manifest, gpus } => {
                    let key = (job, assignment.task, assignment.attempt);
                    let early = self.early.get(&job).map(|early| Arc::clone(early.fetched()));
                    let running = attempt::start(
                        Arc::clone(&self.parts),
                        job,
                        assignment,
                        manifest,
                        (early.unwrap_or_default(), gpus),
                        self.events.clone(),
                    );
                    self.running.insert(key, running);
                }
                WorkerAction::Fetch { job, files } => {
                    let start = || Early::start(Arc::clone(&self.parts), job);
                    self.early.entry(job).or_insert_with(start).want(files);
                }
                WorkerAction::Stop { job, task, attempt } => {
                    if let Some(running) = self.running.get(&(job, task, attempt)) {
                        running.stop();
                    }
                }
                WorkerAction::Send { to, message } => self.parts.post.to_controller(to, message),
                // The receiver lives as long as this desk does.
                WorkerAction::Persist { seq, record } => drop(self.records.send((seq, record))),
                WorkerAction::Store { job, roots, holders } => {
                    let (parts, events) = (Arc::clone(&self.parts), self.events.clone());
                    let (room, results) = (self.room(job), self.results.clone());
                    tokio::spawn(async move {
                        let held = hold(&parts, &results, room, job, &roots, &holders).await;
                        let error = held.err();
                        let _ = events.send(WorkerEvent::StoreDone { job, roots, error }).await;
                    });
                }
                WorkerAction::Held { id, gpus } => {
                    let name = |gpu: u32| self.parts.gpus.get(gpu as usize);
                    let lease = gpus.map(|gpus| Lease {
                        id,
                        gpus: gpus
                            .into_iter()
                            .filter_map(name)
                            .map(|gpu| gpu.uuid.clone())
                            .collect(),
                        events: self.events.clone(),
                    });
                    if let Some(asked) = lock(&self.asked).remove(&id) {
                        // When nobody waits for it any more, it ends here.
                        let _ = asked.send(lease);
                    }
                }
                WorkerAction::Blame { peer, job } => {
                    self.parts.post.conduct().report(peer, Misdeed::Order(job));
                }
                WorkerAction::Forget { job } => {
                    let parts = Arc::clone(&self.parts);
                    let early = self.early.remove(&job);
                    self.judged.remove(&job);
                    parts.audit.over(job);
                    tokio::spawn(async move {
                        if let Some(early) = early {
                            early.end().await;
                        }
                        attempt::forget(&parts, job).await;
                    });
                }
            }
        }
    }
}

/// The minute of the day, here.
#[must_use]
pub fn minute() -> u32 {
    let time = chrono::Local::now();
    time.hour() * 60 + time.minute()
}

/// Holds a job's result, if its owner has room for it.
async fn hold(
    parts: &Parts,
    results: &Held,
    room: Result<policy::Room, Refusal>,
    job: JobId,
    roots: &[Cid],
    holders: &[PeerId],
) -> Result<(), String> {
    let room = room.map_err(|refusal| refusal.to_string())?;
    let bytes = attempt::store(parts, job, roots, holders, &room).await?;
    results.add(job, &room.owner, bytes).await.map_err(|error| error.to_string())
}

/// The jobs that attempts run for, each with its first controller and how many.
fn held(
    running: &HashMap<Key, Running>,
    judged: &BTreeMap<JobId, Judged>,
) -> Vec<(JobId, PeerId, u32)> {
    let count = |job: JobId| running.keys().filter(|key| key.0 == job).count() as u32;
    let held = judged.iter().filter_map(|(job, judged)| {
        let controller = judged.claim.roster.first()?;
        Some((*job, *controller, count(*job)))
    });
    held.filter(|(_, _, attempts)| *attempts > 0).collect()
}

/// Writes records in their order, all that wait in one transaction, and tells the machine.
fn keep_records(
    db: Db,
    events: mpsc::Sender<WorkerEvent>,
) -> mpsc::UnboundedSender<(u64, WorkerRecord)> {
    // Bounded by the machine: a record for each attempt and job it holds.
    let (sender, mut records) = mpsc::unbounded_channel::<(u64, WorkerRecord)>();
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while records.recv_many(&mut batch, state::BATCH_LIMIT).await > 0 {
            let last = batch.last().map_or(0, |(seq, _)| *seq);
            let changes: Vec<_> =
                batch.drain(..).flat_map(|(_, record)| changes_of(record)).collect();
            while let Err(error) = state::attempts::change(&db, changes.clone()).await {
                tracing::error!(%error, "the worker's records could not be written; trying again");
                sleep(PERSIST_RETRY).await;
            }
            if events.send(WorkerEvent::Persisted { seq: last }).await.is_err() {
                return;
            }
        }
    });
    sender
}

fn changes_of(record: WorkerRecord) -> Vec<Change> {
    let name = |task: &TaskId, attempt: &Attempt| format!("report {task} {attempt}");
    let text = serde_json::to_string(&record).expect("a record has string keys only");
    match record {
        WorkerRecord::Epoch { job, .. } => {
            vec![Change::Put { job, name: "epoch".into(), record: text }]
        }
        WorkerRecord::Report { job, report } => {
            vec![Change::Put { job, name: name(&report.task, &report.attempt), record: text }]
        }
        WorkerRecord::Settled { job, attempts } => attempts
            .iter()
            .map(|(task, attempt)| Change::Forget { job, name: name(task, attempt) })
            .collect(),
        WorkerRecord::Gone { job } => vec![Change::ForgetJob { job }],
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
