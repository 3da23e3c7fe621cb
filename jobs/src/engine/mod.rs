//! The shared state machines: one [`Engine`] per job on its controller, one [`Worker`] per node.

mod limits;
mod types;
mod worker;

use std::time::Duration;

use crate::ids::{Epoch, JobId};
use crate::message::{ToWorker, WorkerOrder};

pub use limits::{BATCH_LIMIT, HOLDERS_LIMIT, Limits, WorkerLimits};
pub use types::{
    Action, CommitReport, Counters, End, EndState, Event, FailureReport, JobError, JobPlan,
    JobReport, Needs, Output, PeerFacts, Phase, Progress, Record, Runtime, StageProgress,
    TaskReport,
};
pub use worker::{CheckedManifest, Worker, WorkerAction, WorkerEvent, WorkerRecord};

/// The engine of one job.
pub struct Engine {
    plan: JobPlan,
}

impl Engine {
    /// An engine for `plan`, with the job's journal so far (empty for a new job). When the last
    /// record is already `Epoch` of the plan's epoch (written with the acceptance), the engine
    /// starts at once; else it appends one first.
    #[must_use]
    pub fn new(plan: JobPlan, now: Duration, recovered: Vec<Record>) -> (Engine, Vec<Action>) {
        let _ = (now, recovered);
        (Engine { plan }, vec![])
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let _ = (now, event, &self.plan);
        vec![]
    }

    /// When an [`Event::Tick`] is due next, at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        None
    }

    /// What to answer to a worker that asks about a job which ended and whose engine is gone.
    #[must_use]
    pub fn farewell(job: JobId, epoch: Epoch) -> ToWorker {
        ToWorker { job, epoch, body: WorkerOrder::End }
    }
}
