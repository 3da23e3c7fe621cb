//! What a user sees of a job: one value, the same over HTTP, MQTT and the command line.

use ipdc_jobs::engine::{EndState, JobError, Phase, Progress};
use ipdc_jobs::ids::{Cid, JobId, PeerId};
use serde::{Deserialize, Serialize};

/// A job's state, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; nothing has run yet.
    Queued,
    /// Attempts run, or the result is being stored.
    Running,
    /// Its result is there.
    Done,
    /// It ended with a cause.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// Whether this is the job's last state.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

impl From<Phase> for JobState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Queued => JobState::Queued,
            Phase::Running | Phase::Storing => JobState::Running,
            Phase::Ended(EndState::Done) => JobState::Done,
            Phase::Ended(EndState::Failed) => JobState::Failed,
            Phase::Ended(EndState::Cancelled) => JobState::Cancelled,
        }
    }
}

/// A job as its controller sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Its kind.
    pub kind: String,
    /// Where it stands.
    pub state: JobState,
    /// Rises with every change.
    pub version: u64,
    /// When it was submitted, milliseconds since 1970.
    pub submitted_ms: u64,
    /// Whose user submitted it.
    pub submitter: PeerId,
    /// The node that decides for it.
    pub controller: PeerId,
    /// Seconds since it was accepted, or that it took.
    pub seconds: f64,
    /// Tasks in all; 0 until the input was looked at.
    pub tasks: u32,
    /// Tasks whose output came from a memo.
    pub memoized: u32,
    /// Each stage of the kind, in order.
    pub stages: Vec<StageView>,
    /// Input bytes done, a guess while tasks run.
    pub bytes_done: u64,
    /// Input bytes in all.
    pub bytes_total: u64,
    /// Peers that hold attempts now.
    pub workers: u32,
    /// Workers asked for; none, as many as there are.
    pub workers_asked: Option<u32>,
    /// Why it is not running, or not on as many workers as asked.
    pub waiting: Option<String>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The result directory.
    pub result: Option<Cid>,
    /// Who ran what.
    pub report: Option<Cid>,
    /// Why it failed.
    pub error: Option<JobError>,
}

/// How far one stage is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// Tasks in all.
    pub total: u32,
    /// Tasks done.
    pub done: u32,
    /// Tasks that run now.
    pub running: u32,
}

impl JobView {
    /// Takes over how far the engine is.
    pub(super) fn follow(&mut self, progress: Progress) {
        self.state = progress.phase.into();
        self.tasks = progress.stages.iter().map(|stage| stage.total).sum();
        self.stages = progress
            .stages
            .into_iter()
            .map(|s| StageView { name: s.name, total: s.total, done: s.done, running: s.running })
            .collect();
        self.memoized = progress.memoized;
        self.bytes_done = progress.bytes_done;
        self.bytes_total = progress.bytes_total;
        self.workers = progress.workers;
        self.waiting = progress.why;
    }
}
