//! Tasks that follow from results, of kinds that have a [`Course`].
//!
//! A course is told of what the journal holds, and of nothing else, in the order of the journal: so the
//! tasks that it names are the same, with the same numbers, for every engine of the job. It must see what a
//! task gave. An output that lies in a file is therefore read by the driver, who keeps it as long as the
//! job lives, before the commit goes into the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::Engine;
use super::finish::Finish;
use super::gifts::Gifts;
use super::limits::{FAILURE_TEXT_LIMIT, TASKS_LIMIT};
use super::reports::{Good, clip};
use super::state::{Task, TaskState, Timer};
use super::types::{Action, Output};
use super::withdraw::Withdrawing;
use crate::ids::{Attempt, PeerId, TaskId};
use crate::kind::{Course, Items, Step, TaskError, TaskSpec};
use crate::log::Log;
use crate::message::{FailureClass, Payload};

/// The code of an attempt whose output could not be read from its worker.
const OUTPUT_MISSING: &str = "IPDC-5110";
/// The code of a job that has become too large.
const TOO_MANY_TASKS: &str = "IPDC-5111";
/// The code of a job of which this node has lost what tasks gave.
const OUTPUT_GONE: &str = "IPDC-5112";

/// A course, and what is on its way to it.
pub(super) struct Ahead {
    pub(super) course: Box<dyn Course>,
    pub(super) gifts: Gifts,
    pub(super) withdrawing: Vec<Withdrawing>,
    /// Good reports whose outputs are being read.
    reading: BTreeMap<TaskId, Good>,
    /// Outputs that were read, until the journal holds that they are.
    read: BTreeMap<TaskId, Bytes>,
    /// The tasks in the order of their commits.
    order: Vec<TaskId>,
    /// Of those whose outputs were lost since, by their places in that order: what they gave.
    lost: BTreeMap<usize, Output>,
    /// Where tasks that stay do, by their affinity.
    places: BTreeMap<[u8; 32], PeerId>,
    /// Why it cannot go on.
    broken: Option<Broken>,
}

struct Broken {
    code: &'static str,
    message: String,
    task: Option<TaskId>,
}

impl Ahead {
    pub(super) fn new(course: Box<dyn Course>) -> Ahead {
        Ahead {
            course,
            gifts: Gifts::default(),
            withdrawing: Vec::new(),
            reading: BTreeMap::new(),
            read: BTreeMap::new(),
            order: Vec::new(),
            lost: BTreeMap::new(),
            places: BTreeMap::new(),
            broken: None,
        }
    }
}

impl Engine {
    /// How far a job of items is.
    pub(super) fn items(&self) -> Option<Items> {
        self.ahead.as_ref().map(|ahead| ahead.course.items())
    }

    /// Whether more may be given to the job.
    pub(super) fn is_open(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.course.is_open())
    }

    /// How many outputs were committed, of a kind whose tasks follow from results.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.ahead.as_ref().map_or(0, |ahead| ahead.order.len())
    }

    /// At most `most` of those outputs from the `from`-th on, in the order of their commits. Each place has the same
    /// output whenever it is asked for, and for every engine of the job.
    #[must_use]
    pub fn gave(&self, from: usize, most: usize) -> Vec<Output> {
        let Some(ahead) = &self.ahead else { return Vec::new() };
        let places = from..self.commits().min(from.saturating_add(most));
        let gave =
            |place| ahead.lost.get(&place).cloned().or_else(|| self.output(ahead.order[place]));
        places.map(|place| gave(place).expect("what is no loss is committed")).collect()
    }

    /// Whether what a task gave cannot be read any more on this node, so that what followed from it is not known.
    #[must_use]
    pub fn has_lost_its_way(&self) -> bool {
        let broken = self.ahead.as_ref().and_then(|ahead| ahead.broken.as_ref());
        broken.is_some_and(|broken| broken.code == OUTPUT_GONE)
    }

    /// The output of this task is lost: what it was is not forgotten.
    pub(super) fn keep_lost(&mut self, task: TaskId) {
        let output = self.output(task);
        if let Some(ahead) = &mut self.ahead
            && let Some(place) = ahead.order.iter().rposition(|committed| *committed == task)
        {
            output.map(|output| ahead.lost.entry(place).or_insert(output));
        }
    }

    /// Whether outputs tell how far an attempt came, so that another one may give another.
    pub(super) fn has_course(&self) -> bool {
        self.ahead.is_some()
    }

    /// Has the output of a good report read first, if it must be.
    pub(super) fn read_first(&mut self, good: Good) -> Option<Good> {
        let Some(ahead) = &mut self.ahead else { return Some(good) };
        let Payload::File(file) = good.output else { return Some(good) };
        let (task, attempt, worker) = (good.task, good.attempt, good.worker);
        ahead.reading.insert(task, good);
        self.outbox.actions.push(Action::Read { task, attempt, file, holders: vec![worker] });
        None
    }

    /// An output was read, or could not be.
    pub(super) fn on_read(
        &mut self,
        task: TaskId,
        attempt: Attempt,
        output: Result<Bytes, String>,
    ) {
        let Some(ahead) = &mut self.ahead else { return };
        if ahead.reading.get(&task).is_none_or(|good| good.attempt != attempt) {
            return;
        }
        let Some(good) = ahead.reading.remove(&task) else { return };
        if !matches!(self.finish, Finish::Working) {
            return;
        }
        match output {
            Ok(output) if !self.is_output(task, &output) => {
                let Good { worker, .. } = good;
                self.reopen(task);
                self.settle(worker, task, attempt);
                self.on_false_output(task, attempt, worker);
            }
            Ok(output) => {
                if let Some(ahead) = &mut self.ahead {
                    ahead.read.insert(task, output);
                }
                self.append_commit(good);
            }
            Err(message) => self.on_unreadable(&good, &message),
        }
    }

    fn is_output(&self, task: TaskId, output: &Bytes) -> bool {
        self.plan.kind.is_output(self.spec(task), &Payload::Inline(output.clone()))
    }

    /// What was reported is no commit: the task is open as before. Who reported a good output meanwhile does
    /// so again.
    fn reopen(&mut self, task: TaskId) {
        let state = self.task_mut(task);
        state.state = TaskState::Open;
        state.to_settle.clear();
    }

    /// A worker reported an output that cannot be had from it now. It says so again, and is asked for it again,
    /// unless another attempt ends well before.
    fn on_unreadable(&mut self, good: &Good, message: &str) {
        let Good { task, attempt, worker, .. } = *good;
        self.reopen(task);
        let (class, code, log) = (FailureClass::Missing, OUTPUT_MISSING, Log::default());
        let message = format!("what task {task} gave could not be read: {message}");
        self.note_failure(task, attempt, worker, Some(class), code, &message, log.clone());
        self.on_failure(task, worker, class, code.to_owned(), message, log);
    }

    /// The journal holds this commit: what follows from it.
    pub(super) fn follow_commit(&mut self, task: TaskId) -> Vec<TaskId> {
        let Some(ahead) = &mut self.ahead else { return Vec::new() };
        let commit = self.tasks[task.0 as usize].commit.as_ref();
        let commit = commit.expect("its commit took effect");
        let output = match &commit.output {
            Payload::Inline(output) => Some(output.clone()),
            Payload::File(file) => ahead.read.remove(&task).or_else(|| (self.plan.kept)(file)),
        };
        let Some(output) = output else {
            let message = format!("what task {task} gave cannot be read any more on this node");
            self.lose_way(&message, Some(task));
            return Vec::new();
        };
        ahead.order.push(task);
        let spec = self.plan.tasks[task.0 as usize].clone();
        self.follow(Step::Output { task: &spec, output: &output }, Some(task))
    }

    /// What the job's way depends on is gone.
    pub(super) fn lose_way(&mut self, message: &str, task: Option<TaskId>) {
        if let Some(ahead) = &mut self.ahead {
            let message = message.to_owned();
            ahead.broken.get_or_insert(Broken { code: OUTPUT_GONE, message, task });
        }
    }

    /// The tasks that follow from this step.
    pub(super) fn follow(&mut self, step: Step<'_>, task: Option<TaskId>) -> Vec<TaskId> {
        let Some(ahead) = &mut self.ahead else { return Vec::new() };
        let specs = match ahead.course.follow(step) {
            Ok(specs) if self.tasks.len() + specs.len() <= TASKS_LIMIT => specs,
            Ok(_) => {
                let message = format!("the job has more than {TASKS_LIMIT} tasks");
                ahead.broken.get_or_insert(Broken { code: TOO_MANY_TASKS, message, task });
                return Vec::new();
            }
            Err(error) => {
                let code =
                    if let TaskError::Failed { code, .. } = error { code } else { OUTPUT_GONE };
                let message = clip(&error.to_string(), FAILURE_TEXT_LIMIT);
                ahead.broken.get_or_insert(Broken { code, message, task });
                return Vec::new();
            }
        };
        specs.into_iter().map(|spec| self.add_task(spec)).collect()
    }

    fn add_task(&mut self, spec: TaskSpec) -> TaskId {
        assert!(spec.needs.is_empty(), "a task that follows needs no other's output");
        let id = TaskId(self.tasks.len() as u32);
        let stage = &mut self.stages[usize::from(spec.stage)];
        stage.total += 1;
        stage.weight = stage.weight.saturating_add(spec.weight.max(1));
        let mut task = Task::new(None);
        if spec.delay_ms > 0 {
            let at = self.now + Duration::from_millis(spec.delay_ms);
            task.retry_at = Some(at);
            self.timer(at, Timer::Retry(id));
        }
        self.tasks.push(task);
        self.plan.tasks.push(spec);
        id
    }

    /// Whether the course could not go on.
    pub(super) fn is_broken(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.broken.is_some())
    }

    /// Fails a job whose course cannot go on.
    pub(super) fn fail_if_broken(&mut self) {
        if !self.started || !matches!(self.finish, Finish::Working) {
            return;
        }
        let broken = self.ahead.as_mut().and_then(|ahead| ahead.broken.take());
        if let Some(Broken { code, message, task }) = broken {
            self.fail(code, message, task, Log::default());
        }
    }

    /// Where tasks of this affinity stay, while that peer works for the job.
    pub(super) fn place_kept(&self, affinity: &[u8; 32]) -> Option<PeerId> {
        let peer = *self.ahead.as_ref()?.places.get(affinity)?;
        self.chosen.contains(&peer).then_some(peer)
    }

    pub(super) fn keep_place(&mut self, affinity: [u8; 32], peer: PeerId) {
        if let Some(ahead) = &mut self.ahead {
            ahead.places.insert(affinity, peer);
        }
    }
}
