//! What a job kind must say, and the registry of kinds.
//!
//! A kind says which tasks a job has, what each needs of those before it, how one is run, and
//! what the job's result is made of. It decides nothing about where, when or how often: that is
//! the engine's. It touches the world only through [`Tree`] (reading the input while planning)
//! and [`Host`] (running a task on a worker).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::chunk::{RecordKind, Table};
use crate::code::Code;
use crate::engine::Needs;
use crate::fetch::Rules;
use crate::ids::{Cid, FileRef, PeerId, TaskId};
use crate::log::{Log, Tail};
use crate::message::{FailureClass, Input, Payload};
use crate::spec::{JobSpec, SpecError};

/// A job kind: `mr` and those to come. One folder each in this crate, one line in [`find`].
pub trait Kind: Send + Sync {
    /// Its name in `job.toml`.
    fn name(&self) -> &'static str;

    /// Its stages in order, for progress: `["map", "reduce"]`. [`TaskSpec::stage`] indexes it.
    fn stages(&self) -> &'static [&'static str];

    /// Jobs of this kind to begin with, each in another language, the one to offer first first.
    fn templates(&self) -> &'static [Template] {
        &[]
    }

    /// The key of `job.toml` that names the job's input.
    fn input_key(&self) -> &'static str {
        "input"
    }

    /// Whether a job so configured has an input at all.
    fn reads_input(&self, _config: &Value) -> bool {
        true
    }

    /// Checks the kind's part of a job's description whole and freezes it: the value that every
    /// worker will read back, with each file of the job directory it names resolved to a
    /// [`FileRef`]. Nothing that does not determine the outputs may be in it.
    ///
    /// # Errors
    /// All that is wrong, not only the first.
    fn configure(&self, spec: &JobSpec, files: &dyn JobFiles) -> Result<Value, Vec<SpecError>>;

    /// What a worker must have, and its policy grant, to run the job's tasks.
    fn needs(&self, config: &Value) -> Needs;

    /// The job's tasks. The same configuration and input give the same tasks, always.
    ///
    /// # Errors
    /// When the input cannot be read or fits no task.
    fn plan(&self, config: &Value, input: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError>;

    /// What follows from the outputs of the job's tasks, of a kind whose tasks are not all known from the
    /// start; `tasks` are those of [`Kind::plan`].
    fn course(&self, _config: &Value, _tasks: &[TaskSpec]) -> Option<Box<dyn Course>> {
        None
    }

    /// What determines the output of the task with this body and these inputs, beside the code that
    /// runs it and the job's limits: the same bytes, the same output. None when it is not worth
    /// remembering. See [`crate::memo`].
    fn memo_input(&self, _config: &Value, _body: &[u8], _inputs: &[Input]) -> Option<Vec<u8>> {
        None
    }

    /// What determines what a job so configured leaves behind, beside its input and its limits: the same bytes, the
    /// same result. None when more than that does. See [`crate::memo`].
    fn memo_result(&self, _config: &Value) -> Option<Vec<u8>> {
        None
    }

    /// The files that an output of the task with this body names, and what each was made for.
    /// `output` is the payload's bytes, from its file if they lie in one. None when they are not
    /// of the kind's form.
    fn output_files(&self, _body: &[u8], _output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
        None
    }

    /// Whether `output` has the form of an output of `task`, as far as can be seen without its
    /// file. What a worker reported that has not is none.
    fn is_output(&self, _task: &TaskSpec, _output: &Payload) -> bool {
        true
    }

    /// What `task` needs of the output of one task it depends on.
    fn pick(&self, task: &TaskSpec, output: &Payload) -> Payload;

    /// Whether outputs of this stage make the result though another stage follows. Those of the last always do.
    fn adds_to_result(&self, _stage: u16) -> bool {
        false
    }

    /// Whether its jobs have items, which are shown one by one.
    fn has_items(&self) -> bool {
        false
    }

    /// The lines that who follows the job sees of what a task gave.
    fn rows(&self, _config: &Value, _gave: &Gave) -> Vec<Row> {
        Vec::new()
    }

    /// What the job leaves behind, from the outputs of its last stage, and of what others [add](Kind::adds_to_result).
    ///
    /// # Errors
    /// What the job fails with: an output is not of the kind's form, or all outputs together break
    /// a rule of the job's that each of them keeps. Or what `outputs` failed with.
    fn finish(&self, config: &Value, outputs: &dyn Outputs) -> Result<Finished, TaskError>;

    /// Runs one attempt to its end, on a thread of its own.
    ///
    /// # Errors
    /// Why the attempt failed.
    fn run(&self, work: &Work<'_>, host: &dyn Host) -> Result<Payload, TaskError>;
}

/// The kind of this name, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// Every kind there is.
pub static KINDS: &[&dyn Kind] =
    &[&crate::mr::MapReduce, &crate::cl::Items, &crate::render::Render];

/// A job directory to begin with.
#[derive(Debug)]
pub struct Template {
    /// The language of its code, in one word.
    pub language: &'static str,
    /// Its files by path, `/` between parts. [`Template::NAME`] in their text stands for the job's name.
    pub files: &'static [(&'static str, &'static str)],
    /// The shell script among them that builds its code; none where nothing has to be built.
    pub build: Option<&'static str>,
}

impl Template {
    /// What stands for the job's name.
    pub const NAME: &'static str = "@NAME@";
}

/// What a running job still has to do, of a kind whose tasks follow from results.
///
/// It changes by [`Course::follow`] alone, which is told of what the journal holds, in the order of the
/// journal: so an engine that takes the job over comes to the same tasks.
pub trait Course: Send + Sync {
    /// The tasks that follow from this. They need no other task's output.
    ///
    /// # Errors
    /// When the output is not of the kind's form: the job fails.
    fn follow(&mut self, step: Step<'_>) -> Result<Vec<TaskSpec>, TaskError>;

    /// Whether this can be given to it, as [`Step::Given`].
    ///
    /// # Errors
    /// Why not, for the user.
    fn check(&self, given: &Bytes) -> Result<(), String>;

    /// What `task`, which has given nothing, gives when these of its items are wanted no more; none, when none of
    /// them is one of its, and has not ended.
    fn withdraw(&self, _task: &TaskSpec, _items: &BTreeSet<u64>) -> Option<Withdrawn> {
        None
    }

    /// What stands for the output of `task`, which failed for good, when the job goes on all the same; none, when it
    /// fails with it.
    fn give_up(&self, _task: &TaskSpec, _failure: &Failure) -> Option<Bytes> {
        None
    }

    /// Whether the job goes on when all its tasks are done: its submitter may give it more.
    fn is_open(&self) -> bool;

    /// How far it is.
    fn items(&self) -> Items;
}

/// What a task failed with, when it was not tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The stable code, `IPDC-xxxx`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What its guest logged.
    pub log: Log,
}

/// Items that are taken out of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// What the task gives then.
    pub output: Bytes,
    /// The items, by their numbers.
    pub items: Vec<u64>,
}

/// What the journal holds that a [`Course`] is told of.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// A task gave an output. The same task may do so again, and another one, when what it gave was lost.
    Output {
        /// What it was to do.
        task: &'a TaskSpec,
        /// What it gave, from its file if it lies in one.
        output: &'a Bytes,
    },
    /// The submitter gave more to do.
    Given(&'a Bytes),
    /// The submitter gives no more.
    Closed,
}

/// How far a job of items is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Items {
    /// Known so far.
    pub total: u64,
    /// Ended well.
    pub done: u64,
    /// Failed for good.
    pub failed: u64,
    /// Withdrawn before they had ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cancelled: u64,
    /// Named by others, and left out by the job's rules.
    #[serde(default)]
    pub left_out: u64,
}

/// How far one item of a job is that runs, by its guest's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemProgress {
    /// Its number.
    pub n: u64,
    /// Of what the guest counts, what is done.
    pub done: u64,
    /// And how much there is.
    pub total: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The outputs that make a job's result in task order, and where what is made of them is written.
pub trait Outputs {
    /// How many there are.
    fn count(&self) -> usize;
    /// The `index`-th.
    ///
    /// # Errors
    /// When its file cannot be had.
    fn read(&self, index: usize) -> Result<Gave, TaskError>;
    /// A writer of a new file of the result.
    ///
    /// # Errors
    /// When the disk is full or failing.
    fn create(&self) -> Result<Box<dyn FileWriter>, TaskError>;
}

/// What a task gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gave {
    /// The task.
    pub task: TaskId,
    /// Who ran it.
    pub worker: PeerId,
    /// What it was to do.
    pub body: Bytes,
    /// What it gave, from its file if it lies in one.
    pub output: Bytes,
    /// Whether that came from the worker's memo.
    pub memoized: bool,
}

/// A line of what who follows a job sees of it: keys and values.
pub type Row = serde_json::Map<String, Value>;

/// Files by their names, as a [`Row`] has them.
pub(crate) fn files_shown<'a>(files: impl IntoIterator<Item = (&'a String, &'a FileRef)>) -> Value {
    let file = |file: &FileRef| json!({ "cid": file.cid.to_string(), "bytes": file.len });
    Value::Object(files.into_iter().map(|(name, kept)| (name.clone(), file(kept))).collect())
}

/// What a job leaves behind.
#[derive(Debug, Default)]
pub struct Finished {
    /// The files of the result directory: nothing but what code, input and configuration determine.
    pub files: Vec<ResultFile>,
    /// The files of the report, beside who ran what.
    pub report: Vec<ResultFile>,
    /// What the job's report says beside who ran what: keys and values.
    pub remarks: serde_json::Map<String, Value>,
}

/// One task, as its kind planned it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Index into [`Kind::stages`].
    pub stage: u16,
    /// What the kind's [`Kind::run`] reads back.
    pub body: Bytes,
    /// The tasks whose outputs it needs: all of an earlier stage, or none.
    pub needs: Range<u32>,
    /// Draws tasks on the same data to the same peer (rendezvous hash); none, to any.
    /// What a task with one has done of its weight counts as progress through the job's input.
    pub affinity: Option<[u8; 32]>,
    /// Input bytes, to balance load; a guess is fine.
    pub weight: u64,
    /// Whether it runs where others of its affinity do, and nowhere else, as long as that peer is there.
    pub stays: bool,
    /// Milliseconds before it is given out for the first time.
    pub delay_ms: u64,
}

/// One file of a job's result, or of its report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultFile {
    /// The task that made it; none, when [`Kind::finish`] wrote it.
    pub task: Option<TaskId>,
    /// Its path in the directory.
    pub name: String,
    /// Its bytes.
    pub file: FileRef,
}

/// A job directory while a job is checked.
pub trait JobFiles {
    /// The file at `path` (relative, `/` between parts), if there is one.
    fn find(&self, path: &str) -> Option<FileRef>;
    /// The bytes of a file found, at most `limit`.
    ///
    /// # Errors
    /// When it is longer than `limit` or cannot be read.
    fn read(&self, file: &FileRef, limit: u64) -> io::Result<Bytes>;
    /// The first bytes of a file found: `limit` of them, or all.
    ///
    /// # Errors
    /// When they cannot be read.
    fn head(&self, file: &FileRef, limit: usize) -> io::Result<Bytes>;
    /// The paths of all its files.
    fn paths(&self) -> Vec<String>;
    /// The Python interpreter that its code is to be run by.
    ///
    /// # Errors
    /// Why none can be had, and what to do, for the user.
    fn interpreter(&self) -> Result<FileRef, String>;
    /// The container image of this name: one of this machine's engine, a file of the directory (as `docker save` writes
    /// it), or what a `Dockerfile` of the directory builds.
    ///
    /// # Errors
    /// Why it cannot be had, and what to do, for the user.
    fn image(&self, name: &str) -> Result<Cid, String>;
    /// Checks that `code` can be run and has `function`: a module (or wat) exports `memory`,
    /// `ipdc_alloc` and the function, or is a command, and imports nothing but what the sandbox
    /// has; Python files compile. Of a native program nothing is known before it runs.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    fn check(&self, code: &Code, function: &str) -> Result<(), String>;
}

/// A job's input while it is planned: a file, or a directory of files.
pub trait Tree {
    /// Its files by path, sorted by path bytes; one file with an empty path when the input is a file.
    ///
    /// # Errors
    /// When a directory block cannot be had.
    fn files(&self) -> io::Result<Vec<(String, FileRef)>>;
    /// A reader of one of its files.
    ///
    /// # Errors
    /// When its root block cannot be had.
    fn open(&self, file: &FileRef) -> io::Result<Box<dyn ReadAt>>;
    /// The chunks of whole `records` that one of its files is cut into. Remembered; only a file that
    /// another IPFS program added is read for it, once.
    ///
    /// # Errors
    /// When the file must be read and a block of it cannot be had.
    fn chunks(&self, file: &FileRef, records: RecordKind) -> io::Result<Table>;
}

/// Reads of a file anywhere in it.
pub trait ReadAt: Send {
    /// The file's length in bytes.
    fn len(&self) -> u64;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Up to `want` bytes from `offset`, at least one unless `offset` is at the end. Blocks are
    /// checked against their CID and handed over without a copy where that can be.
    ///
    /// # Errors
    /// When a block cannot be had; its kind is `NotFound` when nobody has it.
    fn read_at(&mut self, offset: u64, want: usize) -> io::Result<Bytes>;
}

/// A task's input could not be made sense of.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The input could not be read.
    #[error("the input could not be read")]
    Read(#[from] io::Error),
    /// The kind's own words.
    #[error("{0}")]
    Unfit(String),
}

/// One attempt's work.
pub struct Work<'a> {
    /// The job's frozen configuration.
    pub config: &'a Value,
    /// The task's number.
    pub task: TaskId,
    /// [`TaskSpec::body`].
    pub body: &'a [u8],
    /// The outputs it depends on, in task order.
    pub inputs: &'a [Input],
}

/// The worker's side of the world, for one attempt. Every call may block; every call fails with
/// [`TaskError::Stopped`] soon after the attempt is revoked.
pub trait Host: Sync {
    /// A reader of `file`; blocks not held here are fetched, `holders` first, then the holders of
    /// the job's code and input.
    ///
    /// # Errors
    /// [`TaskError::Missing`] when nobody has its root.
    fn open(&self, file: &FileRef, holders: &[PeerId]) -> Result<Box<dyn ReadAt>, TaskError>;

    /// A writer of a new file.
    ///
    /// # Errors
    /// When the disk is full or failing.
    fn create(&self, lasting: Lasting) -> Result<Box<dyn FileWriter>, TaskError>;

    /// `code`, compiled and checked before, to make instances of.
    ///
    /// # Errors
    /// When the code cannot be had or compiled.
    fn program(&self, code: &Code) -> Result<Box<dyn Program>, TaskError>;

    /// A fresh instance of `code` that may read what is `given`.
    ///
    /// # Errors
    /// When the code cannot be had or compiled.
    fn guest(&self, code: &Code, given: Given) -> Result<Box<dyn Guest>, TaskError> {
        self.program(code)?.guest(given)
    }

    /// Since when the attempt works.
    fn elapsed(&self) -> Duration;

    /// Ends the archive of what guests of the attempt fetched since the last call, a WARC file, flushed to disk;
    /// none when nothing was sent to them.
    ///
    /// # Errors
    /// When the disk is full or failing.
    fn archive(&self) -> Result<Option<FileRef>, TaskError> {
        Ok(None)
    }

    /// Bytes of memory that the attempt may use in all, the guest's included.
    fn memory(&self) -> u64;

    /// Bytes of memory that the task's own buffers may take here: [`Host::memory`], or less where
    /// the node has less. No output, and no failure, may depend on it.
    fn room(&self) -> u64 {
        self.memory()
    }

    /// How far it is: input bytes done, of a total.
    fn progress(&self, done: u64, total: u64);

    /// Adds a line to its log.
    fn log(&self, line: &str);
}

/// Code that is ready to run.
pub trait Program: Sync {
    /// A fresh instance that may read what is `given`. Instances of one attempt share its time.
    ///
    /// # Errors
    /// When it is too large for its limits, or breaks off as it begins.
    fn guest(&self, given: Given) -> Result<Box<dyn Guest>, TaskError>;

    /// Makes each of `calls` of `function`, to whoever may read what is `given`. Each is work of its own: it has all
    /// of an attempt's time, and is made to a fresh instance; or to one that asked for the next call when it had
    /// answered the last, as interpreters do, which take long to start. No call fails because of one before it.
    fn each(&self, function: &str, given: &Given, calls: &mut dyn Calls);
}

/// Calls of a guest, one after the other, and what comes of each.
pub trait Calls {
    /// The next call. It is under way until it has ended.
    fn next(&mut self) -> Option<Call>;
    /// Records that the call under way emits, as [`Guest::call`] gives them.
    ///
    /// # Errors
    /// What ends the call.
    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError>;
    /// A file that the call under way wrote, when it has ended well but for this. `name` [is a path](is_path).
    ///
    /// # Errors
    /// What ends the call.
    fn file(&mut self, name: &str, bytes: &mut dyn io::Read) -> Result<(), TaskError>;
    /// The call under way is made again: what was emitted and written for it, and heard, is void.
    fn again(&mut self);
    /// The call under way has ended.
    fn ended(&mut self, ended: Result<(), TaskError>);
}

/// Whether `name` is a path down from a directory: `/` between parts, none of which is empty, `.` or `..`.
#[must_use]
pub fn is_path(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// One call of a guest.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it is called with.
    pub input: Bytes,
    /// A file that it may read beside what is given to all, and the name of it.
    pub file: Option<(&'static str, FileRef)>,
    /// Where is heard what it says beside its records, when it is work of its own; else as of all of its attempt.
    pub heard: Option<Arc<Heard>>,
}

/// What an instance that works on an item said beside its records.
#[derive(Debug)]
pub struct Heard {
    n: u64,
    log: Mutex<Tail>,
    named: Mutex<Named>,
}

#[derive(Debug, Default)]
struct Named {
    items: Vec<String>,
    bytes: usize,
}

/// The most bytes of items that an instance may name: a page with ten thousand links.
const NAMED_LIMIT: usize = 1 << 20;

impl Heard {
    /// Of the item with this number nothing was heard yet.
    #[must_use]
    pub fn of(n: u64) -> Self {
        Heard { n, log: Mutex::default(), named: Mutex::default() }
    }

    /// It is so far with its item.
    #[must_use]
    pub fn progress(&self, done: u64, total: u64) -> ItemProgress {
        ItemProgress { n: self.n, done, total }
    }

    /// It logged a line.
    pub fn log(&self, line: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// It named an item; false, when it has named as many as it may.
    pub fn name(&self, item: &str) -> bool {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.bytes = named.bytes.saturating_add(item.len());
        let has_room = named.bytes <= NAMED_LIMIT;
        if has_room {
            named.items.push(item.to_owned());
        }
        has_room
    }

    /// What it logged.
    pub fn take_log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The items that it named.
    pub fn take_named(&self) -> Vec<String> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *named).items
    }
}

/// Keeps a file that a call has left. `name` is for people.
pub(crate) fn keep(
    host: &dyn Host,
    name: &str,
    bytes: &mut dyn io::Read,
) -> Result<FileRef, TaskError> {
    /// Bytes that are moved at a time.
    const PIECE: usize = 128 << 10;
    let unreadable = |error: io::Error| TaskError::Failed {
        class: FailureClass::Worker,
        code: "IPDC-5322",
        message: format!("the file {name} that was left cannot be read again: {error}"),
    };
    let mut file = host.create(Lasting::Kept)?;
    let mut piece = vec![0; PIECE];
    loop {
        match bytes.read(&mut piece).map_err(unreadable)? {
            0 => return file.finish(),
            read => file.write(&piece[..read])?,
        }
    }
}

/// What a file that a task writes is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// Addressed and served until the job ends; not flushed to disk, not pinned.
    Scratch,
    /// Part of the result: flushed to disk.
    Kept,
}

/// Writes one file of a task's output.
pub trait FileWriter: Send {
    /// Appends.
    ///
    /// # Errors
    /// When the disk is full or failing, or the output limit is reached.
    fn write(&mut self, bytes: &[u8]) -> Result<(), TaskError>;
    /// Ends the file and names it.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    fn finish(self: Box<Self>) -> Result<FileRef, TaskError>;
}

/// What a guest may read beside what its functions are called with. All of it is frozen with the
/// job, so what a guest makes of it is the same everywhere; unless it may fetch.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The job's `[params]`: one JSON object.
    pub params: Bytes,
    /// The job's side files, by the guest's names for them.
    pub files: BTreeMap<String, FileRef>,
    /// Which of the job's inputs the records come from; empty when it has but one.
    pub input: String,
    /// What it counts is thrown away: another task's guest counts the same records.
    pub mute: bool,
    /// How it fetches from the network, if it may.
    pub fetch: Option<Arc<Rules>>,
    /// Whether it may name more items for its job.
    pub enqueue: bool,
    /// Whether it may write files, [`Calls::file`].
    pub write: bool,
}

/// The most bytes that the key and the value of a record may have together. Bounds what a merge holds of
/// each of its runs; larger things belong in files of their own.
pub const RECORD_LIMIT: usize = 16 << 20;

/// One instance of a user's code.
pub trait Guest {
    /// Calls the export `function` with `input` in the guest's memory. `sink` gets what it emits,
    /// one frame a call: packed records `[klen u32 LE][vlen u32 LE][key][value]…`, unchecked. What
    /// the guest counts counts when the call ended well.
    ///
    /// # Errors
    /// A trap, a limit reached, or what `sink` failed with.
    fn call(
        &mut self,
        function: &str,
        input: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> Result<(), TaskError>,
    ) -> Result<(), TaskError>;

    /// Of which form its code is.
    fn form(&self) -> Form {
        Form::Functions
    }
}

/// The forms of user code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Exported functions, called again and again with bytes in the guest's memory.
    Functions,
    /// A command: each call is a run from its start to its end, with the input on stdin.
    Command,
}

/// Why an attempt failed, or why outputs make no result.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The attempt was revoked, or the node stops. Nobody is to blame.
    #[error("the attempt was stopped")]
    Stopped,
    /// Blocks of a file that nobody has.
    #[error("{message}")]
    Missing {
        /// The file.
        file: Box<FileRef>,
        /// The task whose output it is, if it is one: that task is run again.
        task: Option<TaskId>,
        /// Which block, who was asked, what they said.
        message: String,
    },
    /// Any other failure.
    #[error("{message}")]
    Failed {
        /// Whose fault.
        class: FailureClass,
        /// The stable code, `IPDC-xxxx`.
        code: &'static str,
        /// What happened.
        message: String,
    },
}

impl TaskError {
    /// Whether the guest's code broke off: it trapped, was killed by a signal, gave up, ended with an error of its own, asked for too much memory, or passed a wrong
    /// pointer. That may lie in the records it was given; that its time was up does not.
    #[must_use]
    pub fn is_trap(&self) -> bool {
        const TRAPS: [&str; 6] =
            ["IPDC-5301", "IPDC-5303", "IPDC-5304", "IPDC-5310", "IPDC-5316", "IPDC-5318"];
        matches!(self, TaskError::Failed { code, .. } if TRAPS.contains(code))
    }

    /// What a failed read of `file` means for the attempt: nobody has it, when the error's kind is
    /// `NotFound`, or `InvalidData`, for blocks are what their CIDs say and whoever named the file so
    /// never had it; the attempt was stopped, when it is `Interrupted`; else the worker's fault.
    #[must_use]
    pub fn of_read(file: &FileRef, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => {
                TaskError::Missing { file: Box::new(*file), task: None, message: error.to_string() }
            }
            io::ErrorKind::Interrupted => TaskError::Stopped,
            _ => TaskError::Failed {
                class: FailureClass::Worker,
                code: "IPDC-5359",
                message: format!("file {} could not be read: {error}", file.cid),
            },
        }
    }
}
