//! Runs attempts for the controllers of jobs, on this node and elsewhere.
//!
//! [`Worker`] is a handle to one task that owns the pure machine
//! [`ipdc_jobs::engine::Worker`]: letters, ends of attempts and the clock go in as events, and its
//! actions are carried out here. [`attempt`] is what one attempt sees of the world; [`early`] fetches
//! what later ones will read; [`memo`] is what was made here before; [`admit`] says for whom this
//! node works; [`room`] divides its memory.

mod admit;
mod attempt;
mod early;
mod memo;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::engine::{
    CheckedManifest, Worker as Machine, WorkerAction, WorkerEvent, WorkerLimits, WorkerRecord,
};
use ipdc_jobs::ids::{Attempt, JobId, PeerId, TaskId};
use ipdc_jobs::message::ToWorker;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

pub use admit::{Policy, Refusal};
use attempt::Running;
use early::Early;
pub use room::Room;

use crate::blocks::Blocks;
use crate::post::Post;
use crate::runtime::Runtime;
use crate::state::attempts::Change;
use crate::state::{self, Db, StateError};
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
    /// For whom it works.
    pub policy: Policy,
    /// Who is a member.
    pub swarm: Swarm,
    /// Blocks.
    pub blocks: Blocks,
    /// The sandbox.
    pub runtime: Runtime,
    /// Letters out.
    pub post: Post,
    /// Durable records.
    pub db: Db,
    /// What was made here before.
    pub memo: Db,
}

/// The worker of this node.
#[derive(Clone)]
pub struct Worker {
    drain: mpsc::Sender<WorkerEvent>,
    load: watch::Receiver<Load>,
    remembered: Arc<[JobId]>,
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
        let (events_out, events) = mpsc::channel(EVENT_LIMIT);
        let (load_out, load) = watch::channel(Load::default());
        let drain = events_out.clone();
        let started = Instant::now();
        let (machine, actions) =
            Machine::new(parts.room.slots, WorkerLimits::default(), Duration::ZERO, recovered);
        let remembered = machine.jobs().collect();
        let records = keep_records(parts.db.clone(), events_out.clone());
        let desk = Desk {
            parts: Arc::new(parts),
            machine,
            started,
            events: events_out,
            records,
            running: HashMap::new(),
            early: HashMap::new(),
            controllers: BTreeMap::new(),
            load: load_out,
        };
        tokio::spawn(desk.run(actions, events, mail, swarm));
        Ok(Worker { drain, load, remembered })
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

    /// Hands back what waits, starts nothing more, and returns when nothing runs any more or
    /// after `bound`.
    pub async fn drain(&self, bound: Duration) {
        let _ = self.drain.send(WorkerEvent::Drain).await;
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
    running: HashMap<Key, Running>,
    early: HashMap<JobId, Early>,
    controllers: BTreeMap<JobId, PeerId>,
    load: watch::Sender<Load>,
}

impl Desk {
    async fn run(
        mut self,
        actions: Vec<WorkerAction>,
        mut events: mpsc::Receiver<WorkerEvent>,
        mut mail: mpsc::Receiver<(PeerId, ToWorker)>,
        mut swarm: mpsc::Receiver<SwarmEvent>,
    ) {
        self.carry_out(actions);
        loop {
            let wake = self.machine.next_wake().map(|at| self.started + at);
            let event = tokio::select! {
                Some(event) = events.recv() => event,
                Some((from, message)) = mail.recv() => WorkerEvent::Message { from, message },
                Some(event) = swarm.recv() => match event {
                    SwarmEvent::Up(peer) => WorkerEvent::PeerUp { peer },
                    SwarmEvent::Down(peer) => WorkerEvent::PeerDown { peer },
                    SwarmEvent::Facts(_) => continue,
                },
                () = sleep_until(wake.unwrap_or(self.started)), if wake.is_some() => WorkerEvent::Tick,
                else => return,
            };
            match &event {
                WorkerEvent::Finished { job, task, attempt, .. } => {
                    self.running.remove(&(*job, *task, *attempt));
                }
                WorkerEvent::ManifestChecked { job, checked: Ok(CheckedManifest { roster }) } => {
                    self.controllers.extend(roster.first().map(|first| (*job, *first)));
                }
                _ => {}
            }
            let actions = self.machine.apply(self.started.elapsed(), event);
            self.carry_out(actions);
            self.load.send_if_modified(|load| {
                let now = Load {
                    running: self.running.len() as u32,
                    jobs: held(&self.running, &self.controllers),
                };
                let changed = *load != now;
                *load = now;
                changed
            });
        }
    }

    fn carry_out(&mut self, actions: Vec<WorkerAction>) {
        for action in actions {
            match action {
                WorkerAction::CheckManifest { job, manifest, from } => {
                    let (parts, events) = (Arc::clone(&self.parts), self.events.clone());
                    tokio::spawn(async move {
                        let checked = admit::check(&parts, job, manifest, from).await;
                        let checked = checked.map_err(|refusal| refusal.to_string());
                        let _ = events.send(WorkerEvent::ManifestChecked { job, checked }).await;
                    });
                }
                WorkerAction::Recall { job, assignments, manifest } => {
                    let (parts, events) = (Arc::clone(&self.parts), self.events.clone());
                    tokio::spawn(async move {
                        let attempts = memo::recall(&parts, job, manifest, assignments).await;
                        let _ = events.send(WorkerEvent::Recalled { job, attempts }).await;
                    });
                }
                WorkerAction::Start { job, assignment, manifest } => {
                    let key = (job, assignment.task, assignment.attempt);
                    let early = self.early.get(&job).map(|early| Arc::clone(early.fetched()));
                    let running = attempt::start(
                        Arc::clone(&self.parts),
                        job,
                        assignment,
                        manifest,
                        early.unwrap_or_default(),
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
                    tokio::spawn(async move {
                        let stored = attempt::store(&parts, job, &roots, &holders).await;
                        let error = stored.err();
                        let _ = events.send(WorkerEvent::StoreDone { job, roots, error }).await;
                    });
                }
                WorkerAction::Forget { job } => {
                    let parts = Arc::clone(&self.parts);
                    let early = self.early.remove(&job);
                    self.controllers.remove(&job);
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

/// The jobs that attempts run for, each with its controller and how many.
fn held(
    running: &HashMap<Key, Running>,
    controllers: &BTreeMap<JobId, PeerId>,
) -> Vec<(JobId, PeerId, u32)> {
    let count = |job: JobId| running.keys().filter(|key| key.0 == job).count() as u32;
    let held = controllers.iter().map(|(job, controller)| (*job, *controller, count(*job)));
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
