//! What a job's controller and its workers say to each other.
//!
//! Every message names its job and the controller's epoch; what concerns one try of a task names
//! the attempt. Messages may be lost, doubled, late or out of order: each is safe to repeat, and
//! whoever needs an answer asks again until it has one (the rules are in [`crate::engine`]).
//! The sender is not in the message: the transport knows it and says it beside.
//!
//! On the wire a message is JSON. Nothing large travels in one: what is longer than
//! [`INLINE_LIMIT`] goes as a file's CID, and its receiver fetches it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, Cid, Epoch, FileRef, JobId, PeerId, TaskId};
use crate::kind::ItemProgress;
use crate::log::Log;

/// The longest byte string that travels inside a message, in bytes. A few such fit a network
/// packet train; anything longer is cheaper to fetch as blocks than to hold in broker queues.
pub const INLINE_LIMIT: usize = 4 * 1024;

/// The longest encoded message between nodes, in bytes. A batch is cut before it gets here.
pub const MESSAGE_LIMIT: usize = 256 * 1024;

/// The most counters of one attempt: a message holds the reports of sixteen.
pub const COUNTERS_LIMIT: usize = 32;

/// The longest name of a counter, in bytes.
pub const COUNTER_NAME_LIMIT: usize = 64;

/// What user code counted, by its names for it.
pub type Counters = BTreeMap<String, u64>;

/// Bytes that travel inside a message when they are few, else the file that holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// The bytes themselves.
    Inline(#[serde(with = "as_base64")] Bytes),
    /// A file to fetch.
    File(FileRef),
}

/// An output that a task needs as input, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The task that made it.
    pub task: TaskId,
    /// What this reader needs of it, as the kind picked it.
    pub payload: Payload,
    /// Peers that hold the files it names, best first.
    pub holders: Vec<PeerId>,
}

/// What a controller gives with an attempt, and knows it by when it has forgotten to whom it gave it:
/// nobody else can make it up. A worker says it with all that it says of the attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof(pub u64);

/// One attempt, given to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The task.
    pub task: TaskId,
    /// Which try of it this is.
    pub attempt: Attempt,
    /// That it was given to this worker.
    #[serde(default)]
    pub proof: Proof,
    /// What the kind wrote about the task when it planned the job.
    pub body: Payload,
    /// JSON of a `Vec<Input>`: the outputs this task depends on, in task order.
    pub inputs: Payload,
    /// Peers that hold the job's code and input, best first.
    pub holders: Vec<PeerId>,
}

/// A file that a later task of the job will read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The file.
    pub file: FileRef,
    /// Peers that hold it, best first.
    pub holders: Vec<PeerId>,
}

/// From a job's controller to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToWorker {
    /// The job.
    pub job: JobId,
    /// The controller's epoch.
    pub epoch: Epoch,
    /// What it says.
    pub body: WorkerOrder,
}

/// What a controller says to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOrder {
    /// Run these. Repeated until a [`ControllerNote::Renew`] or a report names the attempts.
    Assign {
        /// The job's signed manifest.
        manifest: FileRef,
        /// Milliseconds after which an attempt that was not renewed counts as lost.
        lease_ms: u64,
        /// The attempts.
        assignments: Vec<Assignment>,
    },
    /// Stop these, or do not start them. No answer is due.
    Revoke {
        /// The attempts.
        attempts: Vec<(TaskId, Attempt)>,
    },
    /// The reports of these attempts were dealt with: forget them.
    Settled {
        /// The attempts.
        attempts: Vec<(TaskId, Attempt)>,
    },
    /// Say what you have of this job: a renewal, and every unsettled report.
    Query,
    /// Hold these files and pin them: the job's result. Repeated until answered.
    Store {
        /// The job's signed manifest: this may be the first that the worker hears of the job.
        manifest: FileRef,
        /// Roots to fetch whole: the result, the report.
        #[serde(with = "crate::ids::cid_text::list")]
        roots: Vec<Cid>,
        /// Peers that hold them.
        holders: Vec<PeerId>,
    },
    /// A later task that reads these will most likely run there: fetch them when there is room. No
    /// answer is due.
    Fetch {
        /// The files.
        files: Vec<Wanted>,
    },
    /// The job ended: stop its attempts, forget it, free its scratch files. Repeated until
    /// [`ControllerNote::Gone`].
    End,
}

/// From a worker to a job's controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToController {
    /// The job.
    pub job: JobId,
    /// The highest epoch of this job that the worker has seen.
    pub epoch: Epoch,
    /// What it says.
    pub body: ControllerNote,
}

/// What a worker says to a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControllerNote {
    /// These attempts are alive here; so is this worker. Sent a few times a lease.
    Renew {
        /// Attempts held, with how far they are.
        held: Vec<Held>,
        /// Attempts the worker could start at once.
        free_slots: u32,
        /// Attempts of this job's owner that the worker runs at a time, where its policy grants
        /// fewer than it has slots.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        granted: Option<u32>,
    },
    /// These attempts ended. Repeated until [`WorkerOrder::Settled`].
    Report {
        /// One for each attempt.
        reports: Vec<Report>,
    },
    /// The worker will not work for this job (its policy, its disk, a manifest it cannot check).
    Refused {
        /// Why, for the user.
        reason: String,
    },
    /// Whether the files of a [`WorkerOrder::Store`] are held.
    Stored {
        /// The roots asked for.
        #[serde(with = "crate::ids::cid_text::list")]
        roots: Vec<Cid>,
        /// None when they are; else why not.
        error: Option<String>,
    },
    /// This worker holds nothing of the job any more.
    Gone,
}

impl ControllerNote {
    /// What of it is beyond the limits that every worker keeps.
    #[must_use]
    pub fn excess(&self) -> Option<&'static str> {
        let ControllerNote::Report { reports } = self else { return None };
        reports.iter().find_map(|report| match &report.outcome {
            Outcome::Done { output: Payload::Inline(bytes), .. } if bytes.len() > INLINE_LIMIT => {
                Some("an output too long for a message")
            }
            Outcome::Done { counters, .. } => {
                let is_long = |name: &String| name.len() > COUNTER_NAME_LIMIT;
                let is_excess = counters.len() > COUNTERS_LIMIT || counters.keys().any(is_long);
                is_excess.then_some("more counters than an attempt has")
            }
            _ => None,
        })
    }
}

/// An attempt that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// As it came with the assignment.
    #[serde(default)]
    pub proof: Proof,
    /// False while it waits for a slot.
    pub running: bool,
    /// Input bytes done.
    pub done: u64,
    /// Input bytes in all; 0 when not known.
    pub total: u64,
    /// Of a task of items: the one that said last how far it is, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemProgress>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// As it came with the assignment.
    #[serde(default)]
    pub proof: Proof,
    /// How.
    pub outcome: Outcome,
    /// What it cost.
    pub cost: Cost,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It gave this output; the files it names are held by the worker that reports.
    Done {
        /// The kind's output of the task.
        output: Payload,
        /// True when it came from the worker's memo and nothing was run.
        memoized: bool,
        /// What the attempt counted; of one from a memo, what the one remembered counted.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        counters: Counters,
        /// What its guests logged; nothing, when it came from a memo.
        #[serde(flatten)]
        log: Log,
    },
    /// It failed.
    Failed {
        /// Whether another try can help.
        class: FailureClass,
        /// The stable code of the error, `IPDC-xxxx`.
        code: String,
        /// What happened, for the user.
        message: String,
        /// What its guests logged.
        #[serde(flatten)]
        log: Log,
    },
    /// It could not start or go on: the outputs of these tasks are nowhere to be had.
    InputLost {
        /// Tasks whose outputs are gone.
        tasks: Vec<TaskId>,
        /// Who was asked and what they said, for the user.
        message: String,
    },
    /// It was handed back without an end: the node is stopping. Nobody is to blame.
    Returned {
        /// Why, for the user.
        reason: String,
    },
}

/// Whether another try of a failed attempt can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The guest's own fault: a trap, a limit. The same code on the same input; tried again a few
    /// times elsewhere in case the machine was at fault, then the job fails.
    Guest,
    /// The worker's fault: its disk, its runtime. Tried elsewhere.
    Worker,
    /// A block that nobody has. Tried again after a while, then the job fails.
    Missing,
    /// What it needs at once is more memory than the worker ever has for it. Tried on larger ones only.
    TooSmall,
}

/// What an attempt cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time, milliseconds.
    pub wall_ms: u64,
    /// Input bytes read.
    pub bytes_in: u64,
    /// Output bytes written.
    pub bytes_out: u64,
    /// Bytes fetched from other peers.
    pub fetched: u64,
}

/// [`Bytes`] as base64 text, for JSON.
mod as_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::BATCH_LIMIT;
    use crate::log::{LOG_LIMIT, Tail};

    #[test]
    fn a_batch_of_the_longest_good_reports_fits_a_message() {
        let mut log = Tail::default();
        // Each is six bytes of JSON.
        log.push("\u{1b}".repeat((LOG_LIMIT - 3) / 6));
        let name = |n| format!("{n:\"<COUNTER_NAME_LIMIT$}");
        let outcome = Outcome::Done {
            output: Payload::Inline(vec![0; INLINE_LIMIT].into()),
            memoized: false,
            counters: (0..COUNTERS_LIMIT).map(|n| (name(n), u64::MAX)).collect(),
            log: log.take(),
        };
        let attempt = Attempt { epoch: Epoch(u64::MAX), n: u32::MAX };
        let (wall_ms, bytes_in, bytes_out, fetched) = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
        let cost = Cost { wall_ms, bytes_in, bytes_out, fetched };
        let proof = Proof(u64::MAX);
        let report = Report { task: TaskId(u32::MAX), attempt, proof, outcome, cost };
        let body = ControllerNote::Report { reports: vec![report; BATCH_LIMIT] };
        let message = ToController { job: JobId::of_manifest(b"job"), epoch: attempt.epoch, body };
        let text = serde_json::to_vec(&message).unwrap();
        assert!(text.len() <= MESSAGE_LIMIT, "{} bytes", text.len());
        assert_eq!(serde_json::from_slice::<ToController>(&text).unwrap(), message);
    }

    #[test]
    fn reports_without_a_log_are_as_they_were_and_older_ones_are_read() {
        let done = r#"{"done":{"output":{"inline":"b3V0"},"memoized":false}}"#;
        let outcome: Outcome = serde_json::from_str(done).unwrap();
        assert_eq!(serde_json::to_string(&outcome).unwrap(), done);
        let failed = r#"{"failed":{"class":"guest","code":"IPDC-5301","message":"it trapped","log":["a line"]}}"#;
        let outcome: Outcome = serde_json::from_str(failed).unwrap();
        assert_eq!(serde_json::to_string(&outcome).unwrap(), failed);
    }
}
