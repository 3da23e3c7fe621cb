//! One task as its controller knows it: what an attempt at it is given, for `ipdc job debug`, and
//! what its attempts logged.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipdc_jobs::engine::Record;
use ipdc_jobs::ids::{JobId, PeerId, TaskId};
use ipdc_jobs::kind;
use ipdc_jobs::message::{Input, Payload};

use super::{Controller, FindError, open, plan_tasks};
use crate::state::{StateError, jobs};
use crate::view::{JobLogs, TaskWork};

/// Why a task cannot be looked at, or run at home.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum TaskWorkError {
    /// The job has no such task.
    #[error("job {job} has no task {task}: they are numbered from 0 to {last}")]
    #[diagnostic(code("IPDC-5003"), help("`ipdc job show` and `ipdc job logs` name the tasks"))]
    NoTask {
        /// The job.
        job: JobId,
        /// The task asked for.
        task: TaskId,
        /// The last there is.
        last: usize,
    },
    /// What it reads of other tasks is not kept any more, or not there yet.
    #[error("task {task} needs the output of task {needed}, which is not there")]
    #[diagnostic(
        code("IPDC-5004"),
        help(
            "run the job again: what it does not remember it makes anew, and the outputs of the last jobs are kept; or debug task {needed} itself"
        )
    )]
    InputGone {
        /// The task.
        task: TaskId,
        /// Whose output.
        needed: TaskId,
    },
    /// The job's plan cannot be made again.
    #[error("the tasks of job {job} cannot be planned again: {why}")]
    #[diagnostic(code("IPDC-5005"), help("is the job's input still in the swarm?"))]
    NoPlan {
        /// The job.
        job: JobId,
        /// Why not.
        why: String,
    },
    /// There is no such job.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Find(#[from] FindError),
    /// The database failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

impl Controller {
    /// What an attempt at `task` is given.
    ///
    /// # Errors
    /// When there is no such task, or what it needs is gone.
    pub async fn task(&self, job: JobId, task: TaskId) -> Result<TaskWork, TaskWorkError> {
        let no_plan = |why: String| TaskWorkError::NoPlan { job, why };
        let stored = jobs::manifest(&self.context.db, job).await?;
        let stored = stored.ok_or_else(|| FindError::None(job.to_string()))?;
        let manifest = open(&stored).map_err(|error| no_plan(error.to_string()))?;
        let kind = kind::find(&manifest.kind)
            .ok_or_else(|| no_plan(format!("no job kind `{}`", manifest.kind)))?;
        let tasks = plan_tasks(&Arc::clone(&self.context), kind, &manifest).await;
        let tasks = tasks.map_err(|error| no_plan(error.to_string()))?;
        let Some(spec) = tasks.get(task.0 as usize) else {
            return Err(TaskWorkError::NoTask { job, task, last: tasks.len().saturating_sub(1) });
        };
        let outputs =
            if spec.needs.is_empty() { BTreeMap::new() } else { self.outputs(job).await? };
        let input = |needed: u32| {
            let needed = TaskId(needed);
            let (output, worker) =
                outputs.get(&needed).ok_or(TaskWorkError::InputGone { task, needed })?;
            let payload = kind.pick(spec, output);
            Ok(Input { task: needed, payload, holders: vec![*worker] })
        };
        let inputs: Result<Vec<Input>, TaskWorkError> = spec.needs.clone().map(input).collect();
        Ok(TaskWork {
            job,
            task,
            stage: kind.stages()[usize::from(spec.stage)].to_owned(),
            config: manifest.config,
            limits: manifest.limits,
            body: Payload::Inline(spec.body.clone()),
            inputs: inputs?,
            kind: manifest.kind,
        })
    }

    /// What the guests of `task` logged, and which of its attempts failed.
    ///
    /// # Errors
    /// When there is no such task.
    pub async fn task_logs(&self, job: JobId, task: TaskId) -> Result<JobLogs, TaskWorkError> {
        // None before they are planned.
        let tasks = self.view(job).await?.tasks;
        if tasks > 0 && u64::from(task.0) >= tasks {
            return Err(TaskWorkError::NoTask { job, task, last: tasks as usize - 1 });
        }
        Ok(self.logs(job).await?.of_task(task))
    }

    /// The committed outputs of a job's tasks, and who made them, as far as its journal is kept.
    async fn outputs(&self, job: JobId) -> Result<BTreeMap<TaskId, (Payload, PeerId)>, StateError> {
        let mut outputs = BTreeMap::new();
        for record in self.context.journal(job).await? {
            match record {
                Record::Committed { task, output, worker, .. } => {
                    outputs.insert(task, (output, worker));
                }
                Record::Lost { task } => {
                    outputs.remove(&task);
                }
                _ => {}
            }
        }
        Ok(outputs)
    }
}
