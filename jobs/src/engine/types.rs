//! What goes into an engine and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::GiftKey;
use super::takes::Takes;
use crate::fetch::Reach;
use crate::ids::{Attempt, Cid, Epoch, FileRef, JobId, PeerId, TaskId, cid_text};
use crate::kind::{ItemProgress, Items, Kind, TaskSpec};
use crate::log::Log;
use crate::manifest::Manifest;
use crate::message::{self, Cost, FailureClass, Payload, ToController, ToWorker};

/// A job that is to be brought to its end.
#[derive(Clone)]
pub struct JobPlan {
    /// The job.
    pub job: JobId,
    /// This controller's term: higher than any in the job's journal.
    pub epoch: Epoch,
    /// This node.
    pub controller: PeerId,
    /// The signed manifest as a file, for the workers.
    pub manifest_file: FileRef,
    /// What it says.
    pub manifest: Manifest,
    /// The kind's plan.
    pub tasks: Vec<TaskSpec>,
    /// The kind.
    pub kind: &'static dyn Kind,
    /// What a peer must have to work for this job, besides the manifest's memory.
    pub needs: Needs,
    /// The peers that are connected now, this node among them: known at once, so that the first
    /// of them is not given everything. Later ones come by [`Event::PeerUp`].
    pub peers: Vec<(PeerId, PeerFacts)>,
    /// Who gave a task's output the last time it was asked for: that peer's memo may have it. A
    /// hint: wrong ones cost time only.
    pub warm: BTreeMap<TaskId, PeerId>,
    /// Reads what this node was told to keep by [`Action::Read`] and [`Event::Give`], when a journal is replayed.
    pub kept: Kept,
    /// Known to the job's controllers alone, and the same in all their terms: it proves to whom an
    /// attempt was given.
    pub secret: [u8; 32],
    /// The bounds to keep.
    pub limits: super::Limits,
}

/// Reads a file that this node holds; none when it does not.
pub type Kept = Arc<dyn Fn(&FileRef) -> Option<Bytes> + Send + Sync>;

/// Something that runs user code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A core wasm module.
    Wasm,
    /// A WASI command.
    Wasi,
    /// CPython compiled to WASI.
    Python,
    /// A native process.
    Process,
    /// A container.
    Container,
}

impl Runtime {
    /// Its name in `job.toml` and to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Wasm => "wasm",
            Runtime::Wasi => "wasi",
            Runtime::Python => "python",
            Runtime::Process => "process",
            Runtime::Container => "container",
        }
    }

    /// The runtime of this name; none that this version knows.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Runtime> {
        let all =
            [Runtime::Wasm, Runtime::Wasi, Runtime::Python, Runtime::Process, Runtime::Container];
        all.into_iter().find(|runtime| runtime.name() == name)
    }
}

/// What a peer must have to work for a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Runtimes, all of them.
    pub runtimes: BTreeSet<Runtime>,
    /// Labels, all of them.
    pub labels: BTreeSet<String>,
    /// What it must let the job fetch, if the job fetches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Reach>,
    /// Whether it must let containers of the job have a network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
    /// What each attempt takes of it.
    #[serde(default, skip_serializing_if = "Takes::is_usual")]
    pub takes: Takes,
}

/// What is known of a peer when work is given out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Attempts it runs at once.
    pub slots: u32,
    /// Processors.
    pub cpus: u32,
    /// Its GPUs: bytes of memory of each.
    pub gpus: Vec<u64>,
    /// Whether it lets containers of somebody have a network.
    pub network: bool,
    /// Runtimes it has.
    pub runtimes: BTreeSet<Runtime>,
    /// Labels its owner gave it.
    pub labels: BTreeSet<String>,
    /// Whether it lets somebody fetch from the network.
    #[serde(default)]
    pub fetch: bool,
    /// Bytes of memory it may use: not what is free this moment.
    pub memory: u64,
    /// Why it will not work for this job's submitter, when that is known beforehand.
    pub refuses: Option<String>,
}

/// What happened. Events may come in any order, any number of times.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A worker said something.
    Message {
        /// Who, by the transport's word.
        from: PeerId,
        /// What.
        body: ToController,
    },
    /// A peer is connected, or its facts changed. The controller's own node counts as a peer.
    PeerUp {
        /// Who.
        peer: PeerId,
        /// What it has.
        facts: PeerFacts,
    },
    /// A peer's connection is gone. A hint only: it may come back within the grace.
    PeerDown {
        /// Who.
        peer: PeerId,
    },
    /// The journal holds this record and all before it, durably.
    Appended {
        /// As in [`Action::Append`].
        seq: u64,
    },
    /// The result of [`Action::Build`] is built; all its blocks are on this node's disk.
    ResultBuilt {
        /// Root of the result directory.
        result: Cid,
        /// Root of the report.
        report: Cid,
    },
    /// [`Action::Build`] failed, and may succeed another time.
    BuildFailed {
        /// Tasks whose outputs nobody has any more: they are run again.
        lost: Vec<TaskId>,
        /// Why, for the user.
        message: String,
    },
    /// [`Action::Build`] found that the outputs make no result: the job fails.
    ResultRefused {
        /// The stable code, `IPDC-xxxx`.
        code: String,
        /// Why, for the user.
        message: String,
    },
    /// What [`Action::Read`] asked for.
    Read {
        /// As in the action.
        task: TaskId,
        /// As in the action.
        attempt: Attempt,
        /// The file's bytes, which this node keeps until the job is over; else why they cannot be had.
        output: Result<Bytes, String>,
    },
    /// The submitter gives an open job more to do. Answered by [`Action::Given`].
    Give {
        /// Names it in the answer.
        ticket: u64,
        /// By this the submitter knows it: repeated, it is taken once.
        key: Option<GiftKey>,
        /// How the journal keeps it: as a file, if it is too long for a message. This node has that, and keeps it
        /// until the job is over.
        payload: Payload,
        /// All of it, as the kind reads it.
        items: Bytes,
    },
    /// The submitter wants these items, by their numbers, no more. Answered by [`Action::Withdrawn`].
    Withdraw {
        /// Names it in the answer.
        ticket: u64,
        /// Which.
        items: BTreeSet<u64>,
    },
    /// The submitter gives no more.
    Close,
    /// The submitter or root wants the job ended.
    Cancel,
    /// Time passed: [`Engine::next_wake`](super::Engine::next_wake) is due.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send it. It may be lost: the engine sends it again where that matters.
    Send {
        /// To whom; may be this node.
        to: PeerId,
        /// What.
        message: ToWorker,
    },
    /// Write to the job's journal, in the order of `seq`, then say [`Event::Appended`].
    Append {
        /// Counts the journal's records from 0.
        seq: u64,
        /// What.
        record: Record,
    },
    /// Fetch this output to this node, keep it until the job is over, then say [`Event::Read`].
    Read {
        /// Whose output it is.
        task: TaskId,
        /// The attempt that gave it.
        attempt: Attempt,
        /// Where it lies.
        file: FileRef,
        /// Who has it.
        holders: Vec<PeerId>,
    },
    /// What was given under this ticket is in the journal, or is not taken.
    Given {
        /// Of [`Event::Give`].
        ticket: u64,
        /// How many items the job had before; else why nothing was taken.
        first: Result<u64, String>,
    },
    /// The journal holds that these items, of those that were to be withdrawn under this ticket, were cancelled. The
    /// others were not: they have ended, or are about to, or are none.
    Withdrawn {
        /// Of [`Event::Withdraw`].
        ticket: u64,
        /// Which.
        items: Vec<u64>,
    },
    /// Fetch these outputs to this node, build the result directory by
    /// [`Kind::finish`], store both it and the report durably, then say [`Event::ResultBuilt`],
    /// [`Event::BuildFailed`] or [`Event::ResultRefused`]. A later `Build` replaces one under way.
    Build {
        /// The outputs of the last stage in task order.
        outputs: Vec<Output>,
        /// Who ran what, when and how long.
        report: Box<JobReport>,
    },
    /// The job ended, and its journal says so durably: tell the user.
    Ended(End),
    /// Nothing is left to do: the engine can be dropped. What workers still ask about this job is
    /// answered by [`Engine::farewell`](super::Engine::farewell).
    Over,
    /// Remember of this peer what it told of the job: no worker of it would.
    Blame {
        /// Who.
        peer: PeerId,
        /// What it told.
        what: &'static str,
    },
}

/// An output of a committed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The task.
    pub task: TaskId,
    /// Who ran it.
    pub worker: PeerId,
    /// What it was to do.
    pub body: Bytes,
    /// Whether its output came from the worker's memo.
    pub memoized: bool,
    /// Its output.
    pub payload: Payload,
    /// Who has the files it names, best first.
    pub holders: Vec<PeerId>,
}

/// One entry of a job's journal. A record has no effect before it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A controller's term begins.
    Epoch {
        /// The term.
        epoch: Epoch,
    },
    /// A task's output is decided.
    Committed {
        /// The task.
        task: TaskId,
        /// The attempt that gave it.
        attempt: Attempt,
        /// Who ran it, and holds the files the output names.
        worker: PeerId,
        /// The output.
        output: Payload,
        /// What the attempt cost.
        cost: Cost,
        /// Whether it came from the worker's memo.
        memoized: bool,
        /// What the attempt counted.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        counters: message::Counters,
        /// What its guests logged, as far as the job has room for it.
        #[serde(flatten)]
        log: Log,
    },
    /// The submitter gave more to do.
    Given {
        /// What.
        items: Payload,
        /// By what the submitter knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<GiftKey>,
    },
    /// The submitter gives no more.
    Closed,
    /// A committed output is nowhere to be had: the task is run again.
    Lost {
        /// The task.
        task: TaskId,
    },
    /// The result is on this node's disk.
    Built {
        /// Root of the result directory.
        #[serde(with = "cid_text")]
        result: Cid,
        /// Root of the report.
        #[serde(with = "cid_text")]
        report: Cid,
    },
    /// The job ended. The last record.
    Ended(End),
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub state: EndState,
    /// Root of the result directory, when done.
    #[serde(with = "cid_text::option")]
    pub result: Option<Cid>,
    /// Root of the report, when done.
    #[serde(with = "cid_text::option")]
    pub report: Option<Cid>,
    /// The cause, when failed.
    pub error: Option<JobError>,
    /// What the user should know all the same ("no other node holds the result").
    pub note: Option<String>,
    /// The job whose result it is, of one for which nothing was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<JobId>,
}

impl End {
    /// One of which nothing is said but how.
    #[must_use]
    pub fn of(state: EndState) -> Self {
        End { state, result: None, report: None, error: None, note: None, same_as: None }
    }
}

/// How a job ended, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// With its result.
    Done,
    /// With a cause.
    Failed,
    /// By request.
    Cancelled,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// The stable code, `IPDC-xxxx`: a worker's own, or one of the engine's.
    pub code: String,
    /// What happened, for the user.
    pub message: String,
    /// The task at fault, if one was.
    pub task: Option<TaskId>,
    /// The last lines its guest logged, oldest first.
    pub log: Vec<String>,
}

/// Where a job stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No attempt runs, and none ever did.
    Queued,
    /// Attempts run.
    Running,
    /// The result is being built and copied to another node.
    Storing,
    /// It ended.
    Ended(EndState),
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Each stage of the kind, in order.
    pub stages: Vec<StageProgress>,
    /// Input bytes done, by the tasks that read the job's input; a guess while attempts run.
    pub bytes_done: u64,
    /// Input bytes in all: the weights of those tasks.
    pub bytes_total: u64,
    /// Of a job of items, how many there are and have ended.
    pub items: Option<Items>,
    /// Those that run and said how far they are, by their numbers; the first of them.
    pub running_items: Vec<ItemProgress>,
    /// Peers that hold attempts now.
    pub workers: u32,
    /// Committed tasks whose output came from a worker's memo.
    pub memoized: u32,
    /// What the committed attempts counted, added up.
    pub counters: message::Counters,
    /// What the user should know: why nothing runs, or why fewer workers than were asked for.
    pub why: Option<String>,
    /// Who would not work for the job, and what each said last.
    pub refusals: Vec<Refusal>,
}

/// A worker that would not work for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Who.
    pub peer: PeerId,
    /// Why, in its own words.
    pub reason: String,
}

/// How far one stage is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    /// Its name in the kind.
    pub name: String,
    /// Tasks committed.
    pub done: u32,
    /// Tasks with an attempt running.
    pub running: u32,
    /// Tasks in all.
    pub total: u32,
    /// Bytes of its tasks' input done; a guess while attempts run.
    pub bytes_done: u64,
    /// Bytes of its tasks' input in all: their weights.
    pub bytes_total: u64,
}

/// Who ran what, when and how long: what does not determine the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// The job.
    pub job: JobId,
    /// The controller's term.
    pub epoch: Epoch,
    /// The controller.
    pub controller: PeerId,
    /// Milliseconds since this controller began.
    pub elapsed_ms: u64,
    /// What the committed attempts counted, added up.
    #[serde(default)]
    pub counters: message::Counters,
    /// Each task, in order.
    pub tasks: Vec<TaskReport>,
}

/// One task's part of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// Its stage's name.
    pub stage: String,
    /// The committed attempt, who ran it and what it cost; none while there is none.
    pub commit: Option<CommitReport>,
    /// Attempts made in this term.
    pub attempts: u32,
    /// Times its output was lost.
    pub lost: u32,
    /// The first failures.
    pub failures: Vec<FailureReport>,
}

/// A committed attempt, for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReport {
    /// The attempt.
    pub attempt: Attempt,
    /// Who ran it.
    pub worker: PeerId,
    /// What it cost.
    pub cost: Cost,
    /// Whether it came from the worker's memo.
    pub memoized: bool,
    /// When it was reported, milliseconds since this controller began; none when an earlier one
    /// committed it.
    pub at_ms: Option<u64>,
    /// What its guests logged, as far as the job has room for it.
    #[serde(flatten)]
    pub log: Log,
}

/// A failed attempt, for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// The attempt.
    pub attempt: Attempt,
    /// Who ran it.
    pub worker: PeerId,
    /// Whose fault; none when the worker was lost.
    pub class: Option<FailureClass>,
    /// The stable code, `IPDC-xxxx`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What its guests logged.
    #[serde(flatten)]
    pub log: Log,
}

/// What an engine did so far: for metrics and the simulator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Attempts made.
    pub attempts: u64,
    /// Tasks committed.
    pub commits: u64,
    /// Attempts after a failure or a loss.
    pub retries: u64,
    /// Tasks taken from their home by an idle worker.
    pub steals: u64,
    /// Second attempts of stragglers.
    pub speculations: u64,
    /// Committed outputs found lost.
    pub lost_outputs: u64,
    /// Attempts that were never heard of again.
    pub lost_attempts: u64,
    /// Orders sent again for want of an answer.
    pub resends: u64,
    /// Tasks that failed for good, and their jobs went on.
    #[serde(default)]
    pub given_up: u64,
    /// Workers avoided for a while.
    pub blocks: u64,
    /// Attempts and reports of an earlier term that were taken over.
    pub adopted: u64,
    /// Messages that changed nothing because their term is not this one's.
    pub other_epochs: u64,
}

impl Counters {
    /// Adds another engine's.
    pub fn add(&mut self, other: &Counters) {
        let Counters {
            attempts,
            commits,
            retries,
            steals,
            speculations,
            lost_outputs,
            lost_attempts,
            resends,
            given_up,
            blocks,
            adopted,
            other_epochs,
        } = other;
        self.attempts += attempts;
        self.commits += commits;
        self.retries += retries;
        self.steals += steals;
        self.speculations += speculations;
        self.lost_outputs += lost_outputs;
        self.lost_attempts += lost_attempts;
        self.resends += resends;
        self.given_up += given_up;
        self.blocks += blocks;
        self.adopted += adopted;
        self.other_epochs += other_epochs;
    }
}
