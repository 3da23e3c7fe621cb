//! `ipdc job debug`: one task of a job run in this process, where its logs and its end are seen.
//!
//! It asks the node what an attempt at the task is given and for the files it reads, and runs the
//! same kind in the same sandbox as a worker does. What the task writes stays in a temporary store.
//! It changes nothing of the job, and the node does not know that it runs.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::Args;
use ipdc_jobs::code::Code;
use ipdc_jobs::fetch::Rules;
use ipdc_jobs::ids::{FileRef, JobId, PeerId, TaskId};
use ipdc_jobs::kind::{
    self, Call, Calls, FileWriter, Given, Guest, Host, Kind, Lasting, Program, ReadAt, TaskError,
    Work,
};
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::{Counters, Payload};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Session;
use super::error::CliError;
use super::jobs::JobPrefix;
use super::output::{Answer, harmless, size, span};
use super::progress::Progress;
use super::transfer;
use crate::api::client::{Client, ClientError, Meter};
use crate::blocks::store::{self, Store, Tier};
use crate::blocks::unixfs::{BlockingReader, BlockingWriter, Caller, FileBuilder};
use crate::containers;
use crate::controller::SubmitError;
use crate::fetch::{self, FetchError, Fetched, Fetcher, Request};
use crate::interrupt::Interrupts;
use crate::machine;
use crate::problem::Problem;
use crate::runtime::{self, Allowance, Frame, GuestError, Listener, Runtime};
use crate::view::{ByteRange, TaskWork};

/// Bytes of a file that are asked for at once: few enough questions, little enough memory.
const READ: usize = 4 << 20;

/// Log lines that wait to be printed; a guest that logs faster waits.
const LINES_LIMIT: usize = 256;

#[derive(Debug, Args)]
pub(super) struct Debug {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
    /// The task's number
    #[arg(value_name = "TASK")]
    task: u32,
    /// Write the task's output, and the files it names, to this directory, which must not be there
    /// or be empty
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Debug {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        if let Some(out) = &self.out {
            transfer::check_goal(out)?;
        }
        let client = session.client()?;
        let mut interrupts = Interrupts::listen();
        let progress = Progress::new(session.output);
        progress.say("asking for the task");
        let work = client.task(&self.id.0, TaskId(self.task));
        let work = interrupts.unless(work).await??;
        let kind = kind::find(&work.kind).ok_or_else(|| unknown_kind(&work.kind))?;
        let label = format!("{} task {}", work.stage, work.task);

        let place =
            tempfile::tempdir().map_err(CliError::file("write in", std::env::temp_dir()))?;
        let (lines, mut said) = mpsc::channel(LINES_LIMIT);
        let stop = CancellationToken::new();
        let _stopped_at_last = stop.clone().drop_guard();
        let meter = Meter::default();
        let bench = Bench {
            client,
            store: open_store(place.path()).await?,
            runtime: Runtime::with_source_lines(place.path().join("wasm"), machine::memory()),
            caller: Caller::new(tokio::runtime::Handle::current(), stop.clone()),
            allowance: Allowance::new(&work.limits, stop),
            job: work.job,
            limits: work.limits,
            meter: meter.clone(),
            lines,
            started: Instant::now(),
        };
        let started = Instant::now();
        let running = async {
            let running = tokio::task::spawn_blocking(move || bench.run(kind, &work, self.out));
            // The bench holds the other end: this ends when the task does.
            while let Some(line) = said.recv().await {
                progress.above(|| eprintln!("{line}"));
            }
            running.await.unwrap_or_else(|error| Err(broken(&error)))
        };
        let running = progress.during(&label, &meter, None, running);
        let mut ran = interrupts.unless(running).await??;
        ran.seconds = started.elapsed().as_secs_f64();
        drop(progress);
        session.output.put(&ran)
    }
}

fn unknown_kind(given: &str) -> CliError {
    let known: Vec<_> = kind::KINDS.iter().map(|kind| kind.name()).collect();
    let unknown = SubmitError::UnknownKind { given: given.to_owned(), known: known.join(", ") };
    Box::new(unknown).into()
}

fn broken(error: &tokio::task::JoinError) -> CliError {
    let error = TaskError::Failed {
        class: ipdc_jobs::message::FailureClass::Worker,
        code: "IPDC-5403",
        message: format!("the attempt's thread broke: {error}"),
    };
    failed(error)
}

async fn open_store(place: &Path) -> Result<Store, CliError> {
    let opened = Store::open(&place.join("blocks"), store::Limits::default()).await;
    opened.map_err(|error| CliError::file("write in", place)(io::Error::other(error)))
}

/// Why the task failed, as the command's own end.
fn failed(error: TaskError) -> CliError {
    match error {
        TaskError::Stopped => CliError::Interrupted,
        TaskError::Missing { message, .. } => CliError::TaskInput { message },
        TaskError::Failed { code, message, .. } => {
            let help = format!("docs/errors/{code}.md says more");
            let (causes, details) = (Vec::new(), Vec::new());
            let code = code.to_owned();
            CliError::Job(Problem { code, message, causes, help: Some(help), details }.into())
        }
    }
}

/// What the task ran to.
#[derive(Debug, Serialize)]
struct Debugged {
    job: JobId,
    task: TaskId,
    stage: String,
    seconds: f64,
    /// Bytes of its output and the files it names.
    bytes: u64,
    out: Option<PathBuf>,
}

impl Answer for Debugged {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let time = span(Duration::from_secs_f64(self.seconds));
        let (stage, task, bytes) = (&self.stage, self.task, size(self.bytes));
        writeln!(to, "{stage} task {task} ended well in {time}, with {bytes} of output")?;
        self.quiet(to)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.out.iter().try_for_each(|out| writeln!(to, "{}", out.display()))
    }
}

/// What the kind sees in place of a worker.
struct Bench {
    client: Client,
    /// What the task writes.
    store: Store,
    runtime: Runtime,
    caller: Caller,
    allowance: Allowance,
    job: JobId,
    limits: Limits,
    meter: Meter,
    lines: mpsc::Sender<String>,
    started: Instant,
}

impl Bench {
    fn run(
        self,
        kind: &dyn Kind,
        work: &TaskWork,
        out: Option<PathBuf>,
    ) -> Result<Debugged, CliError> {
        let body = self.bytes_of(&work.body).map_err(failed)?;
        let given =
            Work { config: &work.config, task: work.task, body: &body, inputs: &work.inputs };
        let output = kind.run(&given, &self).map_err(failed)?;
        let output = self.bytes_of(&output).map_err(failed)?;
        let files = kind.output_files(&body, &output).unwrap_or_default();
        let bytes = output.len() as u64 + files.iter().map(|(file, _)| file.len).sum::<u64>();
        if let Some(out) = &out {
            fs::create_dir_all(out).map_err(CliError::file("create", out))?;
            let path = out.join("output");
            fs::write(&path, &output).map_err(CliError::file("write", &path))?;
            for (n, (file, _)) in files.iter().enumerate() {
                self.save(file, &out.join(format!("file-{n:05}")))?;
            }
        }
        let TaskWork { job, task, ref stage, .. } = *work;
        Ok(Debugged { job, task, stage: stage.clone(), seconds: 0.0, bytes, out })
    }

    fn bytes_of(&self, payload: &Payload) -> Result<Bytes, TaskError> {
        match payload {
            Payload::Inline(bytes) => Ok(bytes.clone()),
            Payload::File(file) => self.read_whole(file),
        }
    }

    fn read_whole(&self, file: &FileRef) -> Result<Bytes, TaskError> {
        let mut reader = self.open(file, &[])?;
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < file.len {
            let part = reader.read_at(bytes.len() as u64, READ);
            bytes.extend_from_slice(&part.map_err(|error| TaskError::of_read(file, error))?);
        }
        Ok(bytes.freeze())
    }

    fn remote(&self, file: &FileRef) -> Remote {
        Remote {
            client: self.client.clone(),
            caller: self.caller.clone(),
            file: *file,
            held: (0, Bytes::new()),
            meter: self.meter.clone(),
        }
    }

    fn save(&self, file: &FileRef, path: &Path) -> Result<(), CliError> {
        let mut reader = self.open(file, &[]).map_err(failed)?;
        let mut to = fs::File::create_new(path).map_err(CliError::file("write", path))?;
        let mut at = 0;
        while at < file.len {
            let part = reader.read_at(at, READ);
            let part = part.map_err(|error| failed(TaskError::of_read(file, error)))?;
            to.write_all(&part).map_err(CliError::file("write", path))?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

impl Host for Bench {
    fn open(&self, file: &FileRef, _: &[PeerId]) -> Result<Box<dyn ReadAt>, TaskError> {
        let is_own = self.caller.wait(self.store.has(&file.cid)).ok_or(TaskError::Stopped)?;
        if is_own.unwrap_or(false) {
            let reader = BlockingReader::open(self.store.clone(), file, self.caller.clone());
            return Ok(Box::new(reader.map_err(|error| TaskError::of_read(file, error))?));
        }
        Ok(Box::new(self.remote(file)))
    }

    fn create(&self, _: Lasting) -> Result<Box<dyn FileWriter>, TaskError> {
        let builder = FileBuilder::new(self.store.add(Tier::Scratch(self.job)));
        Ok(Box::new(BlockingWriter::new(builder, self.caller.clone())))
    }

    fn program(&self, code: &Code) -> Result<Box<dyn Program>, TaskError> {
        let read = |module: &FileRef| self.read_whole(module);
        let program = self.runtime.program(code, read, &CancellationToken::new())?;
        let module = code
            .module()
            .ok_or_else(|| containers::Trouble::Unfit("`ipdc job debug` runs none"))?;
        let (lines, remote) = (self.lines.clone(), self.remote(module));
        Ok(Box::new(BenchProgram {
            program,
            ear: Ear { lines, remote, network: None },
            allowance: self.allowance.clone(),
        }))
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn memory(&self) -> u64 {
        self.limits.memory
    }

    fn progress(&self, _: u64, _: u64) {}

    fn log(&self, line: &str) {
        let _ = self.lines.blocking_send(line.to_owned());
    }
}

/// Code of the job, compiled with its source lines.
struct BenchProgram {
    program: runtime::Program,
    ear: Ear,
    allowance: Allowance,
}

impl Program for BenchProgram {
    fn guest(&self, given: Given) -> Result<Box<dyn Guest>, TaskError> {
        self.program.instantiate(self.attempt(&given, self.allowance.clone()), given)
    }

    /// What they log is shown as it comes.
    fn each(&self, function: &str, given: &Given, calls: &mut dyn Calls) {
        let attempts = |_: &Call| self.attempt(given, self.allowance.whole());
        self.program.each(function, given, calls, &attempts, None);
    }
}

impl BenchProgram {
    /// For whom an instance works to which this is `given`.
    fn attempt(&self, given: &Given, allowance: Allowance) -> runtime::Attempt {
        let network = given.fetch.clone().map(|rules| (network(&rules), rules));
        let listener = Box::new(Ear { network, ..self.ear.clone() });
        runtime::Attempt { allowance, listener }
    }
}

/// Below a backtrace without lines.
const NO_LINES: &str = "the module does not say where in its source that is; one built with DWARF does: \
                        docs/guest.md, source lines";

/// Prints what a guest logs, and where it failed. It wrote these lines: what would steer a terminal is escaped.
#[derive(Clone)]
struct Ear {
    lines: mpsc::Sender<String>,
    /// How files of the swarm are read.
    remote: Remote,
    /// What fetches from the network, if the job does.
    network: Option<(Fetcher, Arc<Rules>)>,
}

impl Ear {
    fn say(&self, line: &str) {
        let line = harmless(line);
        // Nobody listens after an interrupt.
        let _ = self.lines.blocking_send(line);
    }
}

/// Fetches from this machine, on which the user may ask what the job may ask.
fn network(rules: &Rules) -> Fetcher {
    let options = fetch::Options { private: rules.private.clone(), ..fetch::Options::default() };
    Fetcher::new(options, None)
}

impl Listener for Ear {
    fn fetch(&mut self, request: &Request, within: Duration) -> Result<Fetched, TaskError> {
        let (fetcher, rules) = self.network.as_ref().ok_or(GuestError::NoFetch)?;
        // Nothing is kept: an archive is the job's.
        let mut visits = Vec::new();
        let fetching = fetcher.fetch(rules, None, request, &mut visits);
        let fetched = self.remote.caller.wait(timeout(within, fetching));
        let late = |_| Err(FetchError::Timeout(within.as_millis() as u64));
        Ok(fetched.ok_or(TaskError::Stopped)?.unwrap_or_else(late))
    }

    fn log(&mut self, line: &str) {
        self.say(line);
    }

    fn failed_in(&mut self, calls: &[Frame]) {
        for (n, call) in calls.iter().enumerate() {
            self.say(&format!("  {} {call}", if n == 0 { "in" } else { "called by" }));
        }
        if calls.iter().all(|call| call.place.is_none()) {
            self.say(NO_LINES);
        }
    }

    fn progress(&mut self, _: u64, _: u64) {}

    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        Ok(Box::new(Remote { file: *file, held: (0, Bytes::new()), ..self.remote.clone() }))
    }

    /// Items that it names are the job's, and this attempt is not.
    fn enqueue(&mut self, item: &str) -> bool {
        self.say(&format!("enqueue {item}"));
        true
    }

    /// A count is the job's, and this attempt is not.
    fn count(&mut self, _: Counters) -> bool {
        true
    }
}

/// A file of the swarm, through the node.
#[derive(Clone)]
struct Remote {
    client: Client,
    caller: Caller,
    file: FileRef,
    /// What was asked for last, and where in the file it begins.
    held: (u64, Bytes),
    meter: Meter,
}

impl ReadAt for Remote {
    fn len(&self) -> u64 {
        self.file.len
    }

    fn read_at(&mut self, offset: u64, want: usize) -> io::Result<Bytes> {
        let held = |(start, bytes): &(u64, Bytes)| {
            let skip = usize::try_from(offset.checked_sub(*start)?).ok()?;
            let rest = bytes.get(skip..).filter(|rest| !rest.is_empty())?;
            Some(bytes.slice_ref(&rest[..rest.len().min(want)]))
        };
        if offset >= self.file.len || want == 0 {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = held(&self.held) {
            return Ok(bytes);
        }
        let last = offset.saturating_add(want.max(READ) as u64).min(self.file.len) - 1;
        let range = ByteRange { first: offset, last: Some(last) };
        let stopped = || io::Error::new(io::ErrorKind::Interrupted, TaskError::Stopped);
        let fetched = self.caller.wait(fetch(&self.client, &self.file, range));
        let bytes = fetched.ok_or_else(stopped)?.map_err(as_io)?;
        self.meter.add(bytes.len() as u64);
        self.held = (offset, bytes);
        held(&self.held).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

async fn fetch(client: &Client, file: &FileRef, range: ByteRange) -> Result<Bytes, ClientError> {
    let mut download = client.cat(&file.cid.into(), Some(range)).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = download.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// What the node refuses to give, nobody that it reaches has.
fn as_io(error: ClientError) -> io::Error {
    let kind = match &error {
        ClientError::Refused(_) => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
