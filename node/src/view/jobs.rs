//! What is said about jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipdc_jobs::engine::{GiftKey, Refusal};
use ipdc_jobs::ids::{Attempt, Cid, JobId, PeerId, TaskId, cid_text};
use ipdc_jobs::kind::{ItemProgress, Items};
use ipdc_jobs::log::Log;
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::{Input, Payload};
use ipdc_jobs::steps::AsStep;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::Problem;

/// Body of `POST /jobs`, and of the MQTT topic `ipdc/v1/jobs/submit`. One of `job` and `files`
/// must be there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The kind's name; without one, what `job.toml` says, and each step's own where it has steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The job directory.
    #[serde(default, with = "cid_text::option", skip_serializing_if = "Option::is_none")]
    pub job: Option<Cid>,
    /// The job directory's files as text, by path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    /// The input, of steps the first one's; without one, what `job.toml` says.
    #[serde(default, with = "cid_text::option", skip_serializing_if = "Option::is_none")]
    pub input: Option<Cid>,
    /// Several inputs by name, over `[inputs]` of `job.toml`: CIDs, or paths in the job directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Workers asked for; without a number, as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Whether workers may answer from their memos; without a word, what `job.toml` says, else yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<bool>,
    /// Added to `[params]` of `job.toml`, of each step, over what it says.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub params: serde_json::Map<String, Value>,
    /// The submitter's own name for the job: the same again is the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Answer to `POST /jobs`: the job is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its ID.
    pub job: JobId,
    /// What the submitter should know: fewer workers than asked for, and so on.
    pub notes: Vec<String>,
}

/// Query of `GET /jobs/{id}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobQuery {
    /// Answer as soon as the job's version is above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Or when this many seconds have passed; at most [`WAIT_LIMIT_S`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u64>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; no attempt has begun.
    Queued,
    /// Attempts are under way.
    Running,
    /// It has a result.
    Done,
    /// It has an error.
    Failed,
    /// Its submitter ended it.
    Cancelled,
}

impl JobState {
    /// Whether it stays as it is.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        })
    }
}

/// A job as its users see it: the answer to `GET /jobs/{id}`, and what MQTT's `ipdc/v1/jobs/<id>`
/// retains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its ID.
    pub job: JobId,
    /// The kind's name.
    pub kind: String,
    /// Where it is.
    pub state: JobState,
    /// Rises with every change.
    pub version: u64,
    /// When it was submitted, milliseconds since 1970.
    pub submitted_ms: u64,
    /// Whose it is.
    pub submitter: PeerId,
    /// Who decides for it.
    pub controller: PeerId,
    /// From submission to its end, or to now.
    pub seconds: f64,
    /// Tasks in all; 0 before it is planned.
    pub tasks: u64,
    /// Tasks whose output a worker remembered.
    pub memoized: u64,
    /// What the user's code counted, in the attempts that count.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Its stages, in order.
    pub stages: Vec<StageView>,
    /// Of a job of items, how many there are and have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Items>,
    /// Those that run and whose code said how far they are, by their numbers; the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running_items: Vec<ItemProgress>,
    /// Input bytes done.
    pub bytes_done: u64,
    /// Input bytes in all.
    pub bytes_total: u64,
    /// Bytes of tasks' input a second, all stages together, over the last seconds.
    #[serde(default)]
    pub bytes_per_s: u64,
    /// Seconds until its tasks are done, at that speed; none when it is not known.
    #[serde(default)]
    pub seconds_left: Option<f64>,
    /// How many nodes have worked for it at once.
    pub workers: u32,
    /// How many workers were asked for.
    pub workers_asked: Option<u32>,
    /// Why it is not running, when it is not.
    pub waiting: Option<String>,
    /// What its submitter should know.
    pub notes: Vec<String>,
    /// The workers that would not work for it, and what each said last; the first few.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
    /// The directory of its outputs, when done.
    #[serde(with = "cid_text::option")]
    pub result: Option<Cid>,
    /// Who ran what, when and how long, when done.
    #[serde(with = "cid_text::option")]
    pub report: Option<Cid>,
    /// Why it failed, when it did.
    pub error: Option<Problem>,
    /// Which step it is, of a job directory with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepView>,
    /// The job of the step after it, from when this one is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<JobId>,
    /// Why the step after it was not begun, when this one is done and it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Problem>,
    /// The job whose result it has: nothing had changed since, and nothing was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<JobId>,
}

/// Which of several steps a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// Its place, from 1.
    pub place: u32,
    /// How many steps there are.
    pub of: u32,
}

impl From<&AsStep> for StepView {
    fn from(AsStep { name, place, of, .. }: &AsStep) -> Self {
        StepView { name: name.clone(), place: *place, of: *of }
    }
}

/// Query of `GET /jobs/{id}/items`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemsQuery {
    /// The lines in the order in which items ended, without so many of the first: those that were read before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// Query of `POST /jobs/{id}/items`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GiveQuery {
    /// The submitter's own: what is given again with it is taken once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<GiftKey>,
}

/// Body of `POST /jobs/{id}/files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needed {
    /// What the job's items name.
    #[serde(with = "cid_text::list")]
    pub files: Vec<Cid>,
}

/// Body of `POST /jobs/{id}/items/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unwanted {
    /// The numbers of the items.
    pub items: BTreeSet<u64>,
}

/// Answer to `POST /jobs/{id}/items/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The numbers of those that were cancelled: they had not ended.
    pub cancelled: Vec<u64>,
}

/// Answer to `POST /jobs/{id}/items`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The number of the first of the items that were given; the others follow.
    pub first: u64,
}

/// One stage of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// Its name: `map`, `reduce`.
    pub name: String,
    /// Tasks in all.
    pub total: u64,
    /// Tasks committed.
    pub done: u64,
    /// Tasks with an attempt under way.
    pub running: u64,
    /// Bytes of its tasks' input done.
    #[serde(default)]
    pub bytes_done: u64,
    /// Bytes of its tasks' input in all.
    #[serde(default)]
    pub bytes_total: u64,
}

/// Query of `GET /jobs/{id}/logs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Only of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
}

/// Answer to `GET /jobs/{id}/logs`: task by task, of each the oldest attempt first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLogs {
    /// What the user's code logged last, in attempts that count and in those that failed.
    pub lines: Vec<LogLine>,
    /// The attempts that logged more than is kept.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The attempts that failed.
    pub failures: Vec<AttemptFailure>,
}

impl JobLogs {
    /// Adds what an attempt logged.
    pub fn add(&mut self, task: TaskId, attempt: Attempt, worker: PeerId, log: &Log) {
        let line = |line: &String| LogLine { task, attempt, worker, line: line.clone() };
        self.lines.extend(log.lines.iter().map(line));
        if log.left_out > 0 {
            self.left_out.push(LeftOut { task, attempt, worker, lines: log.left_out });
        }
    }

    /// What of it is about one task.
    #[must_use]
    pub fn of_task(mut self, task: TaskId) -> JobLogs {
        self.lines.retain(|line| line.task == task);
        self.left_out.retain(|left_out| left_out.task == task);
        self.failures.retain(|failure| failure.task == task);
        self
    }
}

/// One line that the user's code logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// Where it ran.
    pub worker: PeerId,
    /// The line, without its end.
    pub line: String,
}

/// Lines of an attempt that were not kept: those before the ones that were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// Where it ran.
    pub worker: PeerId,
    /// How many.
    pub lines: u64,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFailure {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// Where it ran.
    pub worker: PeerId,
    /// The error's code, `IPDC-xxxx`.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// Answer to `GET /jobs/{id}/tasks/{task}`: what an attempt at the task is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskWork {
    /// The job.
    pub job: JobId,
    /// The task.
    pub task: TaskId,
    /// Its stage: `map`, `reduce`.
    pub stage: String,
    /// The kind's name.
    pub kind: String,
    /// What the kind froze of `job.toml`.
    pub config: Value,
    /// The limits of an attempt.
    pub limits: Limits,
    /// What the kind wrote about the task.
    pub body: Payload,
    /// The outputs it needs, in task order.
    pub inputs: Vec<Input>,
}
