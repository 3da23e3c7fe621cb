//! Accepts jobs and brings them to their end.
//!
//! | | |
//! |---|---|
//! | [`submit`] | from a submission to an accepted job |
//! | [`drive`] | one task per job: engine events in, actions out |
//! | [`following`] | the step after a job, and what of it is known already |
//! | [`task`] | one task: what it logged, and all of it again, to run it at home |
//! | [`pace`] | how fast a job gets on |
//! | [`rows`] | a job's items as they end, and what is given to it |
//! | [`assemble`] | the result, the report, and what is too long for a message |
//!
//! What each job is about to do next is decided by [`ipdc_jobs::engine`], not here.

mod assemble;
mod drive;
mod following;
mod pace;
mod rows;
mod submit;
mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ipdc_jobs::engine::{
    Engine, Event, GiftKey, JobError, JobPlan, Kept, Limits, Output, PeerFacts, Record,
};
use ipdc_jobs::ids::{CODEC_RAW, Epoch, FileRef, JobId, PeerId, TaskId, cid_of};
use ipdc_jobs::kind::{self, Kind, TaskSpec};
use ipdc_jobs::manifest::{BadManifest, Manifest, SignedManifest};
use ipdc_jobs::memo::MemoKey;
use ipdc_jobs::message::{Payload, ToController};
use ipdc_jobs::steps::next_key;
use libp2p_identity::{Keypair, SigningError};
use sha2::{Digest, Sha256};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::blocks::Blocks;
use crate::blocks::store::Tier;
use crate::blocks::unixfs::{BlockingTree, Caller};
use crate::containers::Importer;
use crate::interpreters::Interpreters;
use crate::post::Post;
use crate::runtime::Runtime;
use crate::state::jobs::{self, StoredJob};
use crate::state::pins::Reason;
use crate::state::{Db, StateError, memo};
use crate::view::{JobLogs, JobState, JobView, StepView};
pub use following::StepError;
pub use rows::{GIFT_LIMIT, ItemsError};
pub use submit::SubmitError;
pub use task::TaskWorkError;

/// Views that a slow follower may lag behind before it misses some; it then reads the latest.
pub const CHANGES_LIMIT: usize = 1_024;

/// Users that wait for one job's engine at once.
const ASKED_LIMIT: usize = 64;

/// Put before a job's ID when its [`secret`] is signed: the signature stands for nothing else.
const SECRET_CONTEXT: &[u8] = b"ipdc/attempts/1\n";

/// What every job under control works with.
pub struct Context {
    /// This node.
    pub me: PeerId,
    /// The owner that its certificate names.
    pub owner: String,
    /// How many jobs of its local user may be under way; none, any number.
    pub jobs_taken_in: Option<u32>,
    /// Signs for its local user.
    pub keypair: Keypair,
    /// Durable state.
    pub db: Db,
    /// Who made what before.
    pub memo: Db,
    /// Where it is noted what is taken in.
    pub audit: Audit,
    /// Blocks.
    pub blocks: Blocks,
    /// Checks code before a job is accepted.
    pub runtime: Runtime,
    /// What interprets code.
    pub interpreters: Interpreters,
    /// Brings container images in.
    pub importer: Importer,
    /// Letters out.
    pub post: Post,
    /// Every change of every job's view.
    pub changes: broadcast::Sender<JobView>,
}

/// The controller side of this node.
#[derive(Clone)]
pub struct Controller {
    context: Arc<Context>,
    live: Arc<Mutex<BTreeMap<JobId, Live>>>,
    peers: Arc<Mutex<BTreeMap<PeerId, PeerFacts>>>,
    draining: Arc<AtomicBool>,
}

/// A job whose engine runs.
struct Live {
    manifest: Arc<Manifest>,
    events: mpsc::Sender<Event>,
    view: watch::Receiver<JobView>,
    /// How many outputs were committed, of kinds whose tasks follow from results.
    commits: watch::Receiver<usize>,
    asked: mpsc::Sender<Asked>,
    /// Whether its user has ended it: then no step follows.
    cancelled: bool,
    /// The step that follows, when it has begun.
    next: Option<JobId>,
}

/// What users ask of a job's engine, and wait for.
enum Asked {
    /// What its guests logged.
    Logs(oneshot::Sender<JobLogs>),
    /// More to do: by what its giver knows it, how the journal keeps it, and all of it. Answered with the number of
    /// its first item.
    Give {
        key: Option<GiftKey>,
        payload: Payload,
        items: Bytes,
        answer: oneshot::Sender<Result<u64, String>>,
    },
    /// These items are wanted no more. Answered with those that were cancelled.
    Withdraw { items: BTreeSet<u64>, answer: oneshot::Sender<Vec<u64>> },
    /// What tasks gave, in the order in which they were committed.
    Gave { from: usize, most: usize, answer: oneshot::Sender<Vec<Output>> },
}

/// A text that names no job, or several.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum FindError {
    /// None.
    #[error("this node knows no job `{0}`")]
    #[diagnostic(
        code("IPDC-5001"),
        help(
            "`ipdc jobs` lists the jobs of this node; a job is asked about at the node that took it"
        )
    )]
    None(String),
    /// Several.
    #[error("`{prefix}` begins the IDs of {count} jobs")]
    #[diagnostic(code("IPDC-5002"), help("give more characters"))]
    Several {
        /// What was given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The database failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

impl Controller {
    /// Starts it, and goes on with every job that was accepted and has not ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(context: Context) -> Result<Controller, StateError> {
        let controller = Controller {
            context: Arc::new(context),
            live: Arc::default(),
            peers: Arc::default(),
            draining: Arc::default(),
        };
        for stored in jobs::all(&controller.context.db).await? {
            if stored.ended.is_none()
                && let Err(error) = controller.resume(&stored).await
            {
                tracing::error!(job = %stored.id, %error, "a job could not be taken up again");
            }
        }
        Ok(controller)
    }

    async fn resume(&self, stored: &StoredJob) -> Result<(), StateError> {
        let manifest = match open(&stored.manifest) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::error!(job = %stored.id, %error, "an accepted manifest cannot be read");
                return Ok(());
            }
        };
        let records = self.context.journal(stored.id).await?;
        // Also of a job of which nothing but its first epoch was written: what that gave out before
        // is not known here.
        let before = records.iter().filter_map(|record| match record {
            Record::Epoch { epoch } => Some(epoch.0),
            _ => None,
        });
        let epoch = Epoch(before.max().unwrap_or(0) + 1);
        let notes = serde_json::from_str(&stored.notes).unwrap_or_default();
        let next = match manifest.goes_on() {
            true => jobs::by_key(&self.context.db, next_key(stored.id)).await?,
            false => None,
        };
        let cid = cid_of(CODEC_RAW, &stored.manifest);
        let file = FileRef { cid, len: stored.manifest.len() as u64 };
        self.drive((stored.id, epoch), file, manifest, notes, records, next);
        Ok(())
    }

    /// Sets a job's engine going, in this term, with its journal so far, and the step that follows if that has begun.
    fn drive(
        &self,
        (job, epoch): (JobId, Epoch),
        manifest_file: FileRef,
        manifest: Manifest,
        notes: Vec<String>,
        records: Vec<Record>,
        next: Option<JobId>,
    ) {
        let mut first = first_view(job, &manifest, notes, self.context.me);
        // Its journal says that it ended; only the telling was cut short.
        let end = records.iter().find_map(|record| match record {
            Record::Ended(end) => Some(end.clone()),
            _ => None,
        });
        // Of a step, nobody was told before the next had begun.
        if let Some(end) = end.clone().filter(|_| next.is_some() || !manifest.goes_on()) {
            drive::show_end(&mut first, end);
            first.next = next;
        }
        let (view, watched) = watch::channel(first);
        let (events, mail) = mpsc::channel(drive::EVENT_LIMIT);
        let (asks, asked) = mpsc::channel(ASKED_LIMIT);
        let (committed, commits) = watch::channel(0);
        let manifest = Arc::new(manifest);
        let live = Live {
            manifest: Arc::clone(&manifest),
            events: events.clone(),
            view: watched,
            commits,
            asked: asks,
            cancelled: false,
            next,
        };
        self.live().insert(job, live);
        let controller = self.clone();
        tokio::spawn(async move {
            let context = Arc::clone(&controller.context);
            if let Some(end) = end.as_ref().filter(|end| end.same_as.is_some()) {
                // Nothing is run: there is nothing to plan.
                controller.conclude(job, &manifest, &view, end.clone()).await;
                controller.live().remove(&job);
                return;
            }
            let peers = controller.peers().clone().into_iter().collect();
            let planned =
                plan(&context, (job, epoch), manifest_file, (*manifest).clone(), peers).await;
            match (planned, end) {
                (Ok((plan, names)), _) => {
                    let mail = drive::Mail { sender: events, events: mail, asked, committed };
                    let controller = controller.clone();
                    drive::Drive::run(controller, plan, names, records, view, mail).await;
                }
                (Err(_), Some(end)) => controller.conclude(job, &manifest, &view, end).await,
                (Err(error), None) => {
                    view.send_modify(|view| {
                        view.state = JobState::Failed;
                        view.version += 1;
                        view.error = Some(error.into());
                    });
                    let last = view.borrow().clone();
                    context.ended(&last, &JobLogs::default()).await;
                }
            }
            controller.live().remove(&job);
        });
    }

    /// Whether the job's engine runs here.
    #[must_use]
    pub fn controls(&self, job: JobId) -> bool {
        self.live().contains_key(&job)
    }

    /// A worker said something about a job.
    pub fn deliver(&self, from: PeerId, message: ToController) {
        let (job, epoch) = (message.job, message.epoch);
        let events = self.live().get(&job).map(|live| live.events.clone());
        match events {
            // A full queue drops it; the worker repeats what matters.
            Some(events) => drop(events.try_send(Event::Message { from, body: message })),
            None => self.context.post.to_worker(from, Engine::farewell(job, epoch)),
        }
    }

    /// A peer is there, with these facts; this node itself is one.
    pub fn peer_up(&self, peer: PeerId, facts: PeerFacts) {
        let before = self.peers().insert(peer, facts.clone());
        if before.as_ref() != Some(&facts) {
            self.tell_all(&Event::PeerUp { peer, facts });
        }
    }

    /// A peer's connection is gone.
    pub fn peer_down(&self, peer: PeerId) {
        self.peers().remove(&peer);
        self.tell_all(&Event::PeerDown { peer });
    }

    fn tell_all(&self, event: &Event) {
        for live in self.live().values() {
            let _ = live.events.try_send(event.clone());
        }
    }

    /// Ends a job, or, of steps, the one that is under way since this one ended; its view says so soon after.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn cancel(&self, job: JobId) -> Result<JobView, FindError> {
        let mut job = job;
        loop {
            let asked = self.live().get_mut(&job).map(|live| {
                live.cancelled = true;
                (live.events.clone(), live.next)
            });
            let next = match asked {
                Some((events, next)) => {
                    let _ = events.send(Event::Cancel).await;
                    next
                }
                None => self.view(job).await?.next,
            };
            match next {
                Some(next) => job = next,
                None => return self.view(job).await,
            }
        }
    }

    /// Tells an open job that nothing more is given to it; it ends when its items have.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn close(&self, job: JobId) -> Result<JobView, FindError> {
        let events = self.live().get(&job).map(|live| live.events.clone());
        if let Some(events) = events {
            let _ = events.send(Event::Close).await;
        }
        self.view(job).await
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn view(&self, job: JobId) -> Result<JobView, FindError> {
        if let Some(live) = self.live().get(&job) {
            return Ok(live.view.borrow().clone());
        }
        let ended = self.ended_views().await?;
        let found = ended.into_iter().find(|view| view.job == job);
        found.ok_or_else(|| FindError::None(job.to_string()))
    }

    /// Waits until the job's version is above `since` or it ended.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn wait(&self, job: JobId, since: u64) -> Result<JobView, FindError> {
        let watched = self.live().get(&job).map(|live| live.view.clone());
        if let Some(mut watched) = watched {
            // When the engine is gone the last view holds.
            let _ = watched.wait_for(|view| view.version > since || view.state.is_end()).await;
            return Ok(watched.borrow().clone());
        }
        self.view(job).await
    }

    /// Every job, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn views(&self) -> Result<Vec<JobView>, StateError> {
        let mut views: Vec<_> =
            self.live().values().map(|live| live.view.borrow().clone()).collect();
        let ended = self.ended_views().await?;
        views.extend(ended);
        // Steps that nothing is run for follow each other within a millisecond.
        let newest =
            |view: &JobView| (view.submitted_ms, view.step.as_ref().map(|step| step.place));
        views.sort_by_key(|view| (std::cmp::Reverse(newest(view)), view.job));
        views.dedup_by_key(|view| view.job);
        Ok(views)
    }

    async fn ended_views(&self) -> Result<Vec<JobView>, StateError> {
        let stored = jobs::all(&self.context.db).await?;
        let ended = stored.into_iter().filter_map(|job| job.ended);
        Ok(ended.filter_map(|text| serde_json::from_str(&text).ok()).collect())
    }

    /// The one job whose ID begins with `prefix`.
    ///
    /// # Errors
    /// When there is none, or several.
    pub async fn find(&self, prefix: &str) -> Result<JobId, FindError> {
        // Followers ask by the whole ID many times a second: no need to read every job for that.
        if let Ok(job) = prefix.parse()
            && self.controls(job)
        {
            return Ok(job);
        }
        let mut found: Vec<_> = self.views().await?.into_iter().map(|view| view.job).collect();
        found.retain(|job| !prefix.is_empty() && job.to_string().starts_with(prefix));
        match found[..] {
            [] => Err(FindError::None(prefix.to_owned())),
            [job] => Ok(job),
            _ => Err(FindError::Several { prefix: prefix.to_owned(), count: found.len() }),
        }
    }

    /// What a job's guests logged, and which attempts failed.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn logs(&self, job: JobId) -> Result<JobLogs, FindError> {
        let asked = self.live().get(&job).map(|live| live.asked.clone());
        if let Some(asked) = asked {
            let (answer, logs) = oneshot::channel();
            if asked.send(Asked::Logs(answer)).await.is_ok()
                && let Ok(logs) = logs.await
            {
                return Ok(logs);
            }
        }
        let kept = jobs::logs(&self.context.db, job).await?;
        let kept = kept.ok_or_else(|| FindError::None(job.to_string()))?;
        Ok(serde_json::from_str(&kept).unwrap_or_default())
    }

    /// Every change of every job from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<JobView> {
        self.context.changes.subscribe()
    }

    /// Takes no new job from now on. What was accepted goes on when the node is started again.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn workers_there(&self) -> u32 {
        self.peers().len() as u32
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<JobId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<PeerId, PeerFacts>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// What is kept of a job's journal.
    async fn journal(&self, job: JobId) -> Result<Vec<Record>, StateError> {
        let records = jobs::journal(&self.db, job).await?;
        Ok(records.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    /// Writes down that a job ended, and lets go of what it needed.
    async fn ended(&self, view: &JobView, logs: &JobLogs) {
        let _ = self.changes.send(view.clone());
        let text = serde_json::to_string(view).expect("a view has string keys only");
        let logs = serde_json::to_string(logs).expect("logs have string keys only");
        if let Err(error) = jobs::end(&self.db, view.job, text, logs).await {
            // Its journal says so too: the next start writes it again.
            tracing::error!(job = %view.job, %error, "the end of a job could not be written down");
            return;
        }
        if let Err(error) = self.blocks.pins().release(Reason::Job(view.job)).await {
            tracing::warn!(job = %view.job, %error, "an ended job's blocks stay pinned");
        }
        if let Err(error) = self.blocks.store().drop_job(view.job).await {
            tracing::warn!(job = %view.job, %error, "an ended job's scratch files are still here");
        }
    }
}

/// A manifest as it is stored.
fn open(stored: &[u8]) -> Result<Manifest, BadManifest> {
    serde_json::from_slice::<SignedManifest>(stored)?.open()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The job's plan: its kind looks at the input.
async fn plan(
    context: &Arc<Context>,
    (job, epoch): (JobId, Epoch),
    manifest_file: FileRef,
    manifest: Manifest,
    peers: Vec<(PeerId, PeerFacts)>,
) -> Result<(JobPlan, Names), JobError> {
    let failed = |code: &str, message: String| JobError {
        code: code.into(),
        message,
        task: None,
        log: vec![],
    };
    let kind = kind::find(&manifest.kind)
        .ok_or_else(|| failed("IPDC-4001", format!("no job kind `{}`", manifest.kind)))?;
    let needs = kind.needs(&manifest.config);
    let tasks = plan_tasks(context, kind, &manifest).await;
    let tasks = tasks.map_err(|error| failed("IPDC-5010", error.to_string()))?;
    let names = name(kind, &manifest, &tasks);
    let warm = warm(context, &names).await;
    let plan = JobPlan {
        job,
        epoch,
        controller: context.me,
        manifest_file,
        manifest,
        tasks,
        kind,
        needs,
        peers,
        warm,
        kept: kept(context),
        secret: secret(context, job).map_err(|error| failed("IPDC-5010", error.to_string()))?,
        limits: Limits::default(),
    };
    Ok((plan, names))
}

/// Reads what this node keeps of its jobs, on a thread that may block.
fn kept(context: &Arc<Context>) -> Kept {
    let caller = Caller::new(tokio::runtime::Handle::current(), CancellationToken::new());
    let context = Arc::clone(context);
    Arc::new(move |file| {
        let session = context.blocks.session(&[], Tier::Cache);
        caller.wait(context.blocks.read(&session, file, assemble::OUTPUT_LIMIT))?.ok()
    })
}

/// What only this node can know of a job, in whichever run: a signature that it shows nobody.
fn secret(context: &Context, job: JobId) -> Result<[u8; 32], SigningError> {
    let signed = context.keypair.sign(&[SECRET_CONTEXT, job.as_bytes()].concat())?;
    Ok(Sha256::digest(signed).into())
}

/// The names under which it is noted who gave the outputs of a job's tasks: their memo keys, those
/// of tasks that need others' outputs without them. None for a job that does not use the memo.
type Names = Vec<(TaskId, MemoKey)>;

fn name(kind: &dyn Kind, manifest: &Manifest, tasks: &[TaskSpec]) -> Names {
    if !manifest.memo {
        return Names::new();
    }
    let name = |(task, spec): (u32, &TaskSpec)| {
        let key = MemoKey::of(kind, &manifest.config, &manifest.limits, &spec.body, &[])?;
        Some((TaskId(task), key))
    };
    (0..).zip(tasks).filter_map(name).collect()
}

/// Who gave these outputs last.
async fn warm(context: &Context, names: &Names) -> BTreeMap<TaskId, PeerId> {
    let keys = names.iter().map(|(_, key)| *key).collect();
    let makers = memo::makers(&context.memo, keys).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the memo cannot be read");
        HashMap::new()
    });
    names.iter().filter_map(|(task, key)| Some((*task, *makers.get(key)?))).collect()
}

async fn plan_tasks(
    context: &Arc<Context>,
    kind: &'static dyn Kind,
    manifest: &Manifest,
) -> io::Result<Vec<TaskSpec>> {
    let caller = Caller::new(tokio::runtime::Handle::current(), CancellationToken::new());
    let session = context.blocks.session(&[], Tier::Cache);
    let tables = context.blocks.tables().clone();
    let tree = BlockingTree::new(session, manifest.input, tables, caller);
    let config = manifest.config.clone();
    tokio::task::spawn_blocking(move || kind.plan(&config, &tree).map_err(io::Error::other))
        .await
        .map_err(io::Error::other)?
}

fn first_view(job: JobId, manifest: &Manifest, notes: Vec<String>, me: PeerId) -> JobView {
    JobView {
        job,
        kind: manifest.kind.clone(),
        state: JobState::Queued,
        version: 1,
        submitted_ms: manifest.submitted_ms,
        submitter: manifest.submitter,
        controller: me,
        step: manifest.step.as_ref().map(StepView::from),
        next: None,
        same_as: None,
        stopped: None,
        seconds: 0.0,
        tasks: 0,
        memoized: 0,
        counters: BTreeMap::new(),
        stages: vec![],
        items: None,
        running_items: vec![],
        bytes_done: 0,
        bytes_total: 0,
        bytes_per_s: 0,
        seconds_left: None,
        workers: 0,
        workers_asked: manifest.workers,
        waiting: None,
        notes,
        refusals: vec![],
        result: None,
        report: None,
        error: None,
    }
}
