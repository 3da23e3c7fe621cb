//! What goes into a worker machine and what comes out of it.

use serde::{Deserialize, Serialize};

use crate::engine::Takes;
use crate::ids::{Attempt, Cid, Epoch, FileRef, JobId, PeerId, TaskId};
use crate::kind::ItemProgress;
use crate::message::{
    Assignment, Cost, Counters, Outcome, Payload, Report, ToController, ToWorker, Wanted,
};

/// What happened on or to this node. Events may come in any order, any number of times.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerEvent {
    /// A controller said something.
    Message {
        /// Who, by the transport's word.
        from: PeerId,
        /// What.
        message: ToWorker,
    },
    /// The answer to [`WorkerAction::CheckManifest`]; said again when the node's policy comes to
    /// another answer. What runs may end then, and nothing else begins.
    ManifestChecked {
        /// The job.
        job: JobId,
        /// Who sent the order that named it; said again, a member of its roster.
        from: PeerId,
        /// What the manifest says, or why this node does not work for the job: it could not be
        /// had, is not what it claims, or the node's policy refuses its submitter.
        checked: Result<CheckedManifest, String>,
    },
    /// The answer to [`WorkerAction::Recall`].
    Recalled {
        /// The job.
        job: JobId,
        /// Each of the attempts asked about, with its output if the memo has it whole.
        attempts: Vec<(TaskId, Attempt, Option<Remembered>)>,
    },
    /// An attempt ended.
    Finished {
        /// The job.
        job: JobId,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: Attempt,
        /// How; none when it was stopped.
        outcome: Option<Outcome>,
        /// What it cost.
        cost: Cost,
    },
    /// A running attempt got further.
    Progress {
        /// The job.
        job: JobId,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: Attempt,
        /// Input bytes done.
        done: u64,
        /// Input bytes in all; 0 when not known.
        total: u64,
        /// Of a task of items: the one that said last how far it is, while it runs.
        item: Option<ItemProgress>,
    },
    /// This record and all before it are durable.
    Persisted {
        /// As in [`WorkerAction::Persist`].
        seq: u64,
    },
    /// The end of a [`WorkerAction::Store`].
    StoreDone {
        /// The job.
        job: JobId,
        /// The roots asked for.
        roots: Vec<Cid>,
        /// None when all their blocks are here, pinned and durable; else why not.
        error: Option<String>,
    },
    /// A peer is connected.
    PeerUp {
        /// Who.
        peer: PeerId,
    },
    /// A peer's connection is gone.
    PeerDown {
        /// Who.
        peer: PeerId,
    },
    /// Something that is no attempt is to run on this node: it wants this of it, until it lets go.
    Hold {
        /// Names it; another never has the same.
        id: u64,
        /// What it wants.
        takes: Takes,
    },
    /// What was held is free again.
    LetGo {
        /// As in [`WorkerEvent::Hold`].
        id: u64,
    },
    /// The node is stopping: start nothing, hand back what waits.
    Drain,
    /// Time passed: [`Worker::next_wake`](super::Worker::next_wake) is due.
    Tick,
}

/// What a worker needs of a manifest that it checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedManifest {
    /// The peers whose orders and epochs are believed.
    pub roster: Vec<PeerId>,
    /// What the node's policy grants the job.
    pub grant: Grant,
}

/// What a node's policy grants a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is: all jobs of one owner share its slots.
    pub owner: String,
    /// Attempts of this owner that run at a time; none, as many as the node has slots.
    pub slots: Option<u32>,
    /// What each attempt of the job takes.
    pub takes: Takes,
}

/// An output that this node made before and still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The output.
    pub output: Payload,
    /// What its guests counted.
    pub counters: Counters,
    /// Bytes of the files it names.
    pub bytes_out: u64,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerAction {
    /// Fetch the manifest, check its signature, that it is this job's, and the node's policy;
    /// then say [`WorkerEvent::ManifestChecked`].
    CheckManifest {
        /// The job.
        job: JobId,
        /// The manifest.
        manifest: FileRef,
        /// Who has it.
        from: PeerId,
    },
    /// Look whether the memo has the outputs of these attempts; then say
    /// [`WorkerEvent::Recalled`] of all of them, soon: they wait.
    Recall {
        /// The job.
        job: JobId,
        /// The attempts.
        assignments: Vec<Assignment>,
        /// The job's manifest.
        manifest: FileRef,
    },
    /// Fetch these for tasks that come later, if there is room: whether it is done is not asked.
    Fetch {
        /// The job.
        job: JobId,
        /// The files.
        files: Vec<Wanted>,
    },
    /// Run the attempt; say [`WorkerEvent::Finished`] when it ended, however it did.
    Start {
        /// The job.
        job: JobId,
        /// The attempt.
        assignment: Assignment,
        /// The job's manifest.
        manifest: FileRef,
        /// The GPUs that are its own meanwhile, by their numbers.
        gpus: Vec<u32>,
    },
    /// The answer to [`WorkerEvent::Hold`].
    Held {
        /// As asked.
        id: u64,
        /// The GPUs that are its own, by their numbers. None, when too few are free, or the node stops.
        gpus: Option<Vec<u32>>,
    },
    /// Stop the attempt soon; [`WorkerEvent::Finished`] is still due.
    Stop {
        /// The job.
        job: JobId,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: Attempt,
    },
    /// Send it. It may be lost.
    Send {
        /// To whom; may be this node.
        to: PeerId,
        /// What.
        message: ToController,
    },
    /// Write it durably, in the order of `seq`, then say [`WorkerEvent::Persisted`].
    Persist {
        /// Counts this node's records from where [`Worker::new`](super::Worker::new) began.
        seq: u64,
        /// What.
        record: WorkerRecord,
    },
    /// Fetch these files whole, pin them durably, then say [`WorkerEvent::StoreDone`].
    Store {
        /// The job.
        job: JobId,
        /// Roots of the files.
        roots: Vec<Cid>,
        /// Who has them.
        holders: Vec<PeerId>,
    },
    /// The job is over for this node: free its scratch files.
    Forget {
        /// The job.
        job: JobId,
    },
    /// Remember of this peer that it gave orders for a job of which it is no controller.
    Blame {
        /// Who.
        peer: PeerId,
        /// The job.
        job: JobId,
    },
}

/// What a worker must find again after a crash. Keyed by job (and attempt): a later record of the
/// same key replaces the earlier, so a table holds no more than what is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerRecord {
    /// The highest epoch seen of a job, and whose.
    Epoch {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// Its controller.
        controller: PeerId,
        /// The job's manifest.
        manifest: FileRef,
        /// The manifest's roster.
        roster: Vec<PeerId>,
    },
    /// A report that the controller has not dealt with yet.
    Report {
        /// The job.
        job: JobId,
        /// The report.
        report: Report,
    },
    /// It has.
    Settled {
        /// The job.
        job: JobId,
        /// The attempts.
        attempts: Vec<(TaskId, Attempt)>,
    },
    /// The job is over for this node: all its records can go.
    Gone {
        /// The job.
        job: JobId,
    },
}
