//! One attempt: what it needs is fetched, the kind runs it on a thread of its own, and its end
//! goes back as one event.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use ipdc_jobs::code::Code;
use ipdc_jobs::engine::WorkerEvent;
use ipdc_jobs::fetch::Rules;
use ipdc_jobs::ids::{Attempt, Cid, FileRef, JobId, PeerId, TaskId};
use ipdc_jobs::kind::{
    self, Call, Calls, FileWriter, Given, Guest, Heard, Host, ItemProgress, Lasting, Program,
    ReadAt, TaskError, Work,
};
use ipdc_jobs::log::Tail;
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::memo::MemoKey;
use ipdc_jobs::message::{
    Assignment, COUNTERS_LIMIT, Cost, Counters, FailureClass, INLINE_LIMIT, Input, Outcome, Payload,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Parts, admit, early, memo, policy};
use crate::blocks::fetch::Session;
use crate::blocks::store::{Add, Tier};
use crate::blocks::unixfs::{self, FileBuilder, FileReader};
use crate::blocks::unixfs::{BlockingReader, BlockingWriter, Caller};
use crate::config::Size;
use crate::containers::Loaded;
use crate::fetch::{FetchError, Fetched, Request, Shelf};
use crate::runtime::{self, Allowance, GuestError, Listener, MODULE_LIMIT};
use crate::state::pins::Reason;

/// How often an attempt says how far it is at most: as often as anybody looks.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// The longest list of inputs or body that a worker reads: a million inputs.
pub(super) const PAYLOAD_LIMIT: usize = 128 << 20;

/// An attempt under way.
pub(super) struct Running {
    stop: CancellationToken,
    visits: Arc<AtomicU64>,
}

impl Running {
    /// Asks it to end soon.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Answers of the network that its guests got so far.
    pub(super) fn visits(&self) -> u64 {
        self.visits.load(Ordering::Relaxed)
    }
}

/// Runs the attempt; its end is a [`WorkerEvent::Finished`].
pub(super) fn start(
    parts: Arc<Parts>,
    job: JobId,
    assignment: Assignment,
    manifest: FileRef,
    (early, gpus): (early::Fetched, Vec<u32>),
    events: mpsc::Sender<WorkerEvent>,
) -> Running {
    let stop = CancellationToken::new();
    let visits = Arc::<AtomicU64>::default();
    let running = Running { stop: stop.clone(), visits: Arc::clone(&visits) };
    tokio::spawn(async move {
        let started = Instant::now();
        let (task, attempt) = (assignment.task, assignment.attempt);
        let (progress, said) = watch::channel(Said::default());
        tokio::spawn(tell_progress(job, (task, attempt), said, events.clone()));
        let desk = Desk::new(parts, job, assignment, stop, progress);
        let gpus = gpus.iter().filter_map(|gpu| desk.parts.gpus.get(*gpu as usize));
        let gpus = gpus.map(|gpu| gpu.uuid.clone()).collect();
        let desk = Arc::new(Desk { visits, gpus, ..desk });
        let result = run(&desk, manifest, &early).await;
        let cost = Cost { wall_ms: started.elapsed().as_millis() as u64, ..desk.cost() };
        let outcome = desk.outcome(result);
        let _ = events.send(WorkerEvent::Finished { job, task, attempt, outcome, cost }).await;
    });
    running
}

/// What an attempt said of how far it is.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    done: u64,
    total: u64,
    item: Option<ItemProgress>,
}

/// Tells the machine how far an attempt is, the newest of what it said, until it has ended.
async fn tell_progress(
    job: JobId,
    (task, attempt): (TaskId, Attempt),
    mut said: watch::Receiver<Said>,
    events: mpsc::Sender<WorkerEvent>,
) {
    while said.changed().await.is_ok() {
        let Said { done, total, item } = *said.borrow_and_update();
        let event = WorkerEvent::Progress { job, task, attempt, done, total, item };
        if events.send(event).await.is_err() {
            return;
        }
        sleep(PROGRESS_INTERVAL).await;
    }
}

async fn run(
    desk: &Arc<Desk>,
    manifest: FileRef,
    early: &early::Fetched,
) -> Result<Payload, TaskError> {
    let manifest =
        admit::manifest(&desk.parts, desk.job, manifest, &desk.assignment.holders).await.map_err(
            |refusal| failed(FailureClass::Worker, refusal.stable_code(), refusal.to_string()),
        )?;
    let body = desk.load(&desk.assignment.body).await?;
    let inputs = desk.load(&desk.assignment.inputs).await?;
    let inputs: Vec<Input> = serde_json::from_slice(&inputs).map_err(|error| {
        failed(
            FailureClass::Worker,
            "IPDC-5401",
            format!("the list of inputs cannot be read: {error}"),
        )
    })?;
    if !inputs.is_empty() {
        desk.came_early.store(early.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
    let kind = kind::find(&manifest.kind).ok_or_else(|| {
        failed(
            FailureClass::Worker,
            "IPDC-5402",
            format!("this node knows no job kind `{}`", manifest.kind),
        )
    })?;
    let attempt = (Arc::clone(desk), body.clone());
    let ran = tokio::task::spawn_blocking(move || {
        let (desk, body) = attempt;
        let key = || MemoKey::of(kind, &manifest.config, &manifest.limits, &body, &inputs);
        let key = manifest.memo.then(key).flatten();
        let allowance = Allowance::new(&manifest.limits, desk.stop.clone());
        let (started, shelf) = (Instant::now(), Arc::default());
        let host = AttemptHost { desk: &desk, manifest: &manifest, allowance, started, shelf };
        let work = Work {
            config: &manifest.config,
            task: desk.assignment.task,
            body: &body,
            inputs: &inputs,
        };
        let output = kind.run(&work, &host)?;
        Ok((host.shorten(output)?, key))
    })
    .await;
    let (output, key) = ran.unwrap_or_else(|error| {
        Err(failed(
            FailureClass::Worker,
            "IPDC-5403",
            format!("the attempt's thread broke: {error}"),
        ))
    })?;
    if let Some(key) = key {
        let counters = desk.counters().clone();
        memo::remember(&desk.parts, desk.job, key, kind, &body, &output, counters).await;
    }
    Ok(output)
}

fn failed(class: FailureClass, code: &'static str, message: String) -> TaskError {
    TaskError::Failed { class, code, message }
}

/// What an attempt shares between its thread, its fetches and its end.
struct Desk {
    parts: Arc<Parts>,
    job: JobId,
    assignment: Assignment,
    stop: CancellationToken,
    caller: Caller,
    log: Mutex<Tail>,
    counters: Mutex<Counters>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Bytes fetched for it, and maybe others that read outputs, before it began.
    came_early: AtomicU64,
    /// What fetches for this attempt; the first one asks the assignment's holders.
    sessions: Mutex<Vec<Session>>,
    progress: watch::Sender<Said>,
    /// Answers of the network.
    visits: Arc<AtomicU64>,
    /// The GPUs that are its own, as the driver knows them.
    gpus: Vec<String>,
}

impl Desk {
    fn new(
        parts: Arc<Parts>,
        job: JobId,
        assignment: Assignment,
        stop: CancellationToken,
        progress: watch::Sender<Said>,
    ) -> Self {
        let caller = Caller::new(tokio::runtime::Handle::current(), stop.clone());
        Desk {
            parts,
            job,
            assignment,
            stop,
            caller,
            log: Mutex::default(),
            counters: Mutex::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            came_early: AtomicU64::new(0),
            sessions: Mutex::default(),
            progress,
            visits: Arc::default(),
            gpus: Vec::new(),
        }
    }

    fn stopped(&self) -> Result<(), TaskError> {
        if self.stop.is_cancelled() { Err(TaskError::Stopped) } else { Ok(()) }
    }

    fn cost(&self) -> Cost {
        Cost {
            wall_ms: 0,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            fetched: self.came_early.load(Ordering::Relaxed)
                + self.sessions().iter().map(Session::fetched).sum::<u64>(),
        }
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Tail> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What fetches from `holders`, or, when there are none, from those that the assignment names.
    fn session(&self, holders: &[PeerId]) -> Session {
        let holders = if holders.is_empty() { &self.assignment.holders } else { holders };
        let session = self.parts.blocks.session(holders, Tier::Cache);
        self.sessions().push(session.clone());
        session
    }

    fn open(
        self: &Arc<Self>,
        file: &FileRef,
        holders: &[PeerId],
    ) -> Result<Box<dyn ReadAt>, TaskError> {
        self.open_by(self.session(holders), file)
    }

    fn open_by(
        self: &Arc<Self>,
        session: Session,
        file: &FileRef,
    ) -> Result<Box<dyn ReadAt>, TaskError> {
        self.stopped()?;
        let inner = BlockingReader::open(session, file, self.caller.clone())
            .map_err(|error| TaskError::of_read(file, error))?;
        Ok(Box::new(CountedReader { inner, desk: Arc::clone(self) }))
    }

    /// An image, in this machine's engine.
    fn image(&self, root: Cid) -> Result<Loaded, TaskError> {
        let holders = &self.assignment.holders;
        let images = self.parts.runtime.containers()?.images();
        // As long as the job runs here, others may have it from here.
        let session = self.parts.blocks.session(holders, Tier::Scratch(self.job));
        self.sessions().push(session.clone());
        // Whoever waits for a large image sees that it comes.
        let progress = |bytes| self.progress(bytes, u64::MAX);
        let loaded = self.caller.wait(images.load(root, &session, progress, &self.stop));
        let loaded = loaded.ok_or(TaskError::Stopped)?;
        self.progress(0, 0);
        Ok(loaded?)
    }

    /// A writer of a new file; all of the attempt's have `limit` bytes at most.
    fn create(
        self: &Arc<Self>,
        lasting: Lasting,
        limit: u64,
    ) -> Result<Box<dyn FileWriter>, TaskError> {
        self.stopped()?;
        let tier = match lasting {
            Lasting::Scratch => Tier::Scratch(self.job),
            Lasting::Kept => Tier::Durable,
        };
        let add = self.parts.blocks.store().add(tier);
        let builder = FileBuilder::new(add.clone());
        let inner = BlockingWriter::new(builder, self.caller.clone());
        Ok(Box::new(CountedWriter { inner, add, desk: Arc::clone(self), limit }))
    }

    async fn load(&self, payload: &Payload) -> Result<Bytes, TaskError> {
        match payload {
            Payload::Inline(bytes) => Ok(bytes.clone()),
            Payload::File(file) => self.fetch(file, PAYLOAD_LIMIT).await,
        }
    }

    async fn fetch(&self, file: &FileRef, limit: usize) -> Result<Bytes, TaskError> {
        let read = self.parts.blocks.read(&self.session(&[]), file, limit).await;
        read.map_err(|error| TaskError::of_read(file, error.into()))
    }

    /// The attempt is so far, and begins with what comes next.
    fn progress(&self, done: u64, total: u64) {
        self.progress.send_replace(Said { done, total, item: None });
    }

    /// An item of its is so far.
    fn item_progress(&self, item: ItemProgress) {
        self.progress.send_modify(|said| said.item = Some(item));
    }

    /// None when the attempt was stopped: nobody waits for it.
    fn outcome(&self, result: Result<Payload, TaskError>) -> Option<Outcome> {
        let log = self.log().take();
        match result {
            Ok(output) => {
                let counters = std::mem::take(&mut *self.counters());
                Some(Outcome::Done { output, memoized: false, counters, log })
            }
            Err(TaskError::Stopped) => None,
            Err(TaskError::Missing { task: Some(task), message, .. }) => {
                Some(Outcome::InputLost { tasks: vec![task], message })
            }
            Err(TaskError::Missing { message, .. }) => Some(Outcome::Failed {
                class: FailureClass::Missing,
                code: "IPDC-3201".into(),
                message,
                log,
            }),
            Err(TaskError::Failed { class, code, message }) => {
                Some(Outcome::Failed { class, code: code.into(), message, log })
            }
        }
    }
}

/// What the kind sees.
struct AttemptHost<'a> {
    desk: &'a Arc<Desk>,
    manifest: &'a Manifest,
    allowance: Allowance,
    started: Instant,
    /// What its guests fetch.
    shelf: Arc<Shelf>,
}

impl AttemptHost<'_> {
    /// Moves a long output into a file.
    fn shorten(&self, output: Payload) -> Result<Payload, TaskError> {
        match output {
            Payload::Inline(bytes) if bytes.len() > INLINE_LIMIT => {
                let mut file = self.create(Lasting::Scratch)?;
                file.write(&bytes)?;
                file.finish().map(Payload::File)
            }
            short => Ok(short),
        }
    }
}

impl Host for AttemptHost<'_> {
    fn open(&self, file: &FileRef, holders: &[PeerId]) -> Result<Box<dyn ReadAt>, TaskError> {
        self.desk.open(file, holders)
    }

    fn create(&self, lasting: Lasting) -> Result<Box<dyn FileWriter>, TaskError> {
        self.desk.create(lasting, self.manifest.limits.output)
    }

    fn program(&self, code: &Code) -> Result<Box<dyn Program>, TaskError> {
        self.desk.stopped()?;
        let read = |module: &FileRef| {
            let fetched = self.desk.caller.wait(self.desk.fetch(module, MODULE_LIMIT));
            fetched.ok_or(TaskError::Stopped)?
        };
        let runtime = &self.desk.parts.runtime;
        let program = match code {
            Code::Container(container) => {
                let image = self.desk.image(container.image)?;
                runtime.container(container, image, self.desk.gpus.clone())?
            }
            code => runtime.program(code, read, &self.desk.stop)?,
        };
        let (desk, allowance) = (Arc::clone(self.desk), self.allowance.clone());
        let session = self.desk.session(&[]);
        let (shelf, limit) = (Arc::clone(&self.shelf), self.manifest.limits.output);
        let submitter = self.manifest.submitter;
        Ok(Box::new(AttemptProgram { desk, allowance, program, session, submitter, shelf, limit }))
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn archive(&self) -> Result<Option<FileRef>, TaskError> {
        self.shelf.clear()
    }

    fn memory(&self) -> u64 {
        self.manifest.limits.memory
    }

    fn room(&self) -> u64 {
        self.memory().min(self.desk.parts.room.buffers)
    }

    fn progress(&self, done: u64, total: u64) {
        self.desk.progress(done, total);
    }

    fn log(&self, line: &str) {
        self.desk.log().push(line.to_owned());
    }
}

/// Code of the job, ready to run.
struct AttemptProgram {
    desk: Arc<Desk>,
    allowance: Allowance,
    program: runtime::Program,
    /// What fetches the side files of its instances.
    session: Session,
    submitter: PeerId,
    /// Where what they fetch is kept, and how much of it may be.
    shelf: Arc<Shelf>,
    limit: u64,
}

impl Program for AttemptProgram {
    fn guest(&self, given: Given) -> Result<Box<dyn Guest>, TaskError> {
        self.desk.stopped()?;
        let attempt = self.attempt(&given, self.allowance.clone(), None);
        self.program.instantiate(attempt, given)
    }

    fn each(&self, function: &str, given: &Given, calls: &mut dyn Calls) {
        let attempts =
            |call: &Call| self.attempt(given, self.allowance.whole(), call.heard.clone());
        self.program.each(function, given, calls, &attempts, Some(self.desk.job));
    }
}

impl AttemptProgram {
    /// For whom an instance works to which this is `given`.
    fn attempt(
        &self,
        given: &Given,
        allowance: Allowance,
        heard: Option<Arc<Heard>>,
    ) -> runtime::Attempt {
        let (desk, session) = (Arc::clone(&self.desk), self.session.clone());
        let network = given.fetch.clone().map(|rules| {
            let (submitter, limit) = (self.submitter, self.limit);
            Network { rules, submitter, shelf: Arc::clone(&self.shelf), limit }
        });
        let listener = Box::new(Ear { desk, session, mute: given.mute, network, heard });
        runtime::Attempt { allowance, listener }
    }
}

/// Hears a guest.
struct Ear {
    desk: Arc<Desk>,
    /// What fetches its side files: one for all, however often it opens them.
    session: Session,
    /// What it counts does not count.
    mute: bool,
    /// What it has of the network, if it may fetch.
    network: Option<Network>,
    /// What it says is work of its own, and heard there.
    heard: Option<Arc<Heard>>,
}

struct Network {
    rules: Arc<Rules>,
    submitter: PeerId,
    shelf: Arc<Shelf>,
    /// Bytes of the archive at most, with the task's other output.
    limit: u64,
}

impl Listener for Ear {
    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        self.desk.open_by(self.session.clone(), file)
    }

    fn find(&mut self, cid: &Cid) -> Result<Option<FileRef>, TaskError> {
        self.desk.stopped()?;
        let opened = FileReader::open(self.session.clone(), *cid);
        let opened = self.desk.caller.wait(opened).ok_or(TaskError::Stopped)?;
        match opened {
            Ok(file) => Ok(Some(FileRef { cid: *cid, len: file.len() })),
            Err(unixfs::Error::NotAFile(_)) => Ok(None),
            Err(error) => Err(TaskError::of_read(&FileRef { cid: *cid, len: 0 }, error.into())),
        }
    }

    fn fetched(&self) -> u64 {
        self.session.fetched()
    }

    fn fetch(&mut self, request: &Request, within: Duration) -> Result<Fetched, TaskError> {
        let network = self.network.as_ref().ok_or(GuestError::NoFetch)?;
        let mut visits = Vec::new();
        let Network { rules, submitter, shelf, limit } = network;
        let fetching = self.desk.parts.fetcher.fetch(rules, Some(*submitter), request, &mut visits);
        // This thread may be one that the runtime does not know.
        let fetching = async { timeout(within, fetching).await };
        let fetched = self.desk.caller.wait(fetching).ok_or(TaskError::Stopped)?;
        self.desk.visits.fetch_add(visits.len() as u64, Ordering::Relaxed);
        shelf.keep(&visits, rules, || self.desk.create(Lasting::Kept, *limit))?;
        let late = |_| Err(FetchError::Timeout(within.as_millis() as u64));
        Ok(fetched.unwrap_or_else(late))
    }

    fn log(&mut self, line: &str) {
        match &self.heard {
            Some(heard) => heard.log(line.to_owned()),
            None => self.desk.log().push(line.to_owned()),
        }
    }

    fn enqueue(&mut self, item: &str) -> bool {
        self.heard.as_ref().is_some_and(|heard| heard.name(item))
    }

    fn progress(&mut self, done: u64, total: u64) {
        match &self.heard {
            Some(heard) => self.desk.item_progress(heard.progress(done, total)),
            None => self.desk.progress(done, total),
        }
    }

    fn count(&mut self, counted: Counters) -> bool {
        if self.mute {
            return true;
        }
        let mut counters = self.desk.counters();
        for (name, by) in counted {
            let count = counters.entry(name).or_default();
            *count = count.saturating_add(by);
        }
        counters.len() <= COUNTERS_LIMIT
    }
}

struct CountedReader {
    inner: BlockingReader<Session>,
    desk: Arc<Desk>,
}

impl ReadAt for CountedReader {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&mut self, offset: u64, want: usize) -> std::io::Result<Bytes> {
        self.desk.stopped().map_err(std::io::Error::other)?;
        let bytes = self.inner.read_at(offset, want)?;
        self.desk.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

struct CountedWriter {
    inner: BlockingWriter,
    /// Spares the file from collection until it is pinned.
    add: Add,
    desk: Arc<Desk>,
    limit: u64,
}

impl FileWriter for CountedWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        self.desk.stopped()?;
        let len = bytes.len() as u64;
        let written = self.desk.bytes_out.fetch_add(len, Ordering::Relaxed) + len;
        if written > self.limit {
            let message = format!(
                "the task wrote more than {}, its output limit (`limits.output` in job.toml)",
                Size(self.limit)
            );
            return Err(failed(FailureClass::Guest, "IPDC-5404", message));
        }
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<FileRef, TaskError> {
        let file = Box::new(self.inner).finish()?;
        if self.add.tier() == Tier::Durable {
            let pins = self.desk.parts.blocks.pins();
            let pinned = self.desk.caller.wait(pins.pin(file.cid, Reason::Job(self.desk.job)));
            pinned
                .ok_or(TaskError::Stopped)?
                .map_err(|error| failed(FailureClass::Worker, "IPDC-3401", error.to_string()))?;
        }
        Ok(file)
    }
}

/// Lets go of all that `job` left here.
pub(super) async fn forget(parts: &Parts, job: JobId) {
    if let Err(error) = parts.blocks.store().drop_job(job).await {
        tracing::warn!(%job, %error, "a job's scratch files are still here");
    }
    if let Err(error) = parts.blocks.pins().release(Reason::Job(job)).await {
        tracing::warn!(%job, %error, "a job's blocks stay pinned");
    }
}

/// Fetches `roots` whole and pins them for `job`, if there is room. Gives the bytes that it fetched.
pub(super) async fn store(
    parts: &Parts,
    job: JobId,
    roots: &[Cid],
    holders: &[PeerId],
    room: &policy::Room,
) -> Result<u64, String> {
    let session = parts.blocks.session(holders, Tier::Durable);
    let (bytes, full) = (AtomicU64::new(0), CancellationToken::new());
    // Together: each waits for the disk.
    let stored = try_join_all(roots.iter().map(async |root| {
        let mut before = 0;
        let count = |all: u64| {
            let more = all - before;
            before = all;
            if room.check(bytes.fetch_add(more, Ordering::Relaxed) + more).is_err() {
                full.cancel();
            }
        };
        session.fetch_all(*root, count).await.map_err(|error| error.to_string())?;
        let pinned = parts.blocks.pins().pin(*root, Reason::Result(job)).await;
        pinned.map_err(|error| error.to_string())
    }));
    let stored = full.run_until_cancelled(stored).await;
    let bytes = bytes.load(Ordering::Relaxed);
    if let Err(refusal) = room.check(bytes) {
        // What was fetched is swept like anything that nothing needs.
        let released = parts.blocks.pins().release(Reason::Result(job)).await;
        released.map_err(|error| error.to_string())?;
        return Err(refusal.to_string());
    }
    stored.transpose()?;
    Ok(bytes)
}
