//! What must always hold, seen from outside the machines: a model of each job that is built from
//! nothing but the actions that were given and the records that became durable.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{End, EndState, GiftKey, Record};
use crate::ids::{Attempt, Cid, Epoch, JobId, PeerId, TaskId};

/// The attempts that a task may come to in one term. Failures, deaths and thefts come to thirty in the worst
/// of thousands of seeds; workers that take a task from each other in turns, to any number.
const ATTEMPTS_LIMIT: u32 = 40;

/// A law was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Two outputs of one task.
    #[error("task {0} was committed twice")]
    CommittedTwice(TaskId),
    /// An attempt's number went back.
    #[error("attempt {1} of task {0} was committed after a later one")]
    AttemptWentBack(TaskId, Attempt),
    /// A term's number went back.
    #[error("epoch {0} was written after a later one")]
    EpochWentBack(Epoch),
    /// A task gets somewhere.
    #[error("task {0} is passed around and came to attempt {1}")]
    PassedAround(TaskId, Attempt),
    /// The end is the last record.
    #[error("something was written after the end")]
    WrittenAfterTheEnd,
    /// An attempt ran twice, or on two nodes.
    #[error("attempt {1} of task {0} was started twice")]
    StartedTwice(TaskId, Attempt),
    /// A worker ran more than it has slots.
    #[error("a worker ran {0} attempts in {1} slots")]
    TooManyRunning(usize, usize),
    /// An attempt began without the GPUs that it takes, or with one that another has.
    #[error("an attempt of job {0} began without GPUs of its own")]
    BadLease(JobId),
    /// What is no attempt got a GPU that another has.
    #[error("node {0} lent a GPU twice")]
    LentTwice(usize),
    /// An attempt began that the node's policy does not allow.
    #[error("an attempt of job {0} began against the node's policy")]
    BegunAgainstPolicy(JobId),
    /// A worker was told to forget a good report that a crash could still undo.
    #[error("the report of task {0} was settled before its commit was durable")]
    SettledTooEarly(TaskId),
    /// The user was told of an end that a crash could still undo.
    #[error("the end was told before it was durable")]
    ToldTooEarly,
    /// The user was told two things.
    #[error("the job ended as {0:?}, then as {1:?}")]
    EndedTwice(Box<End>, Box<End>),
    /// Something old had an effect.
    #[error("a message of an older epoch made {0}")]
    OldEpochObeyed(String),
    /// A submitter was told that something is in the journal that is not.
    #[error("what was given was said to be taken before that was durable")]
    TakenTooEarly,
    /// A submitter that repeats itself gives something once.
    #[error("gift {0} was written twice")]
    GivenTwice(String),
    /// And hears of it what it heard before.
    #[error("what was given is said to begin at item {1}, after {0}")]
    OtherFirst(u64, u64),
    /// A wrong result.
    #[error("the result is {0}, not {1}")]
    WrongResult(String, Cid),
    /// A job that nothing was wrong with did not end as it should.
    #[error("the job ended as {0:?} without cause: {1}")]
    EndedBadly(EndState, String),
    /// A wait without a bound.
    #[error("job {0} had not ended long after the faults stopped: {1}")]
    NeverEnded(usize, String),
    /// A worker that was never told, or did not listen.
    #[error("node {0} still has something of an ended job")]
    NeverForgotten(usize),
    /// `done` was said and no other node has the result.
    #[error("the job is done without a note, and no other node holds its result")]
    NotStored,
    /// Who did nothing is accused.
    #[error("{0}, which is honest, was blamed")]
    BlamedUnjustly(PeerId),
    /// A machine found itself in a state that cannot be.
    #[error("a machine panicked: {0}")]
    Panicked(String),
}

/// What is known of one job from outside.
#[derive(Debug, Default)]
pub(super) struct Laws {
    /// Tasks whose commit was appended and not lost again.
    appended: BTreeMap<TaskId, Attempt>,
    newest: BTreeMap<TaskId, Attempt>,
    /// Tasks whose commit became durable at some time.
    durable: BTreeSet<TaskId>,
    /// Keys of gifts that were appended.
    given: BTreeSet<GiftKey>,
    epoch: Option<Epoch>,
    end_is_durable: bool,
    told: Option<End>,
    good_reports: BTreeSet<(PeerId, TaskId, Attempt)>,
    started: BTreeMap<(TaskId, Attempt), (PeerId, u32)>,
}

impl Laws {
    /// The engine appended a record.
    ///
    /// # Errors
    /// When it may not.
    pub(super) fn on_append(&mut self, record: &Record) -> Result<(), Broken> {
        if self.end_is_durable {
            return Err(Broken::WrittenAfterTheEnd);
        }
        match record {
            Record::Epoch { epoch } => {
                if self.epoch >= Some(*epoch) {
                    return Err(Broken::EpochWentBack(*epoch));
                }
                self.epoch = Some(*epoch);
            }
            Record::Committed { task, attempt, .. } => {
                if self.appended.insert(*task, *attempt).is_some() {
                    return Err(Broken::CommittedTwice(*task));
                }
                if self.newest.insert(*task, *attempt) >= Some(*attempt) {
                    return Err(Broken::AttemptWentBack(*task, *attempt));
                }
            }
            Record::Lost { task } => {
                self.appended.remove(task);
            }
            Record::Given { key: Some(key), .. } => {
                if !self.given.insert(key.clone()) {
                    return Err(Broken::GivenTwice(key.clone().into()));
                }
            }
            Record::Given { .. } | Record::Closed | Record::Built { .. } | Record::Ended(_) => {}
        }
        Ok(())
    }

    /// The disk holds a record.
    pub(super) fn on_durable(&mut self, record: &Record) {
        match record {
            Record::Committed { task, .. } => {
                self.durable.insert(*task);
            }
            Record::Ended(_) => self.end_is_durable = true,
            _ => {}
        }
    }

    /// The controller crashed and comes back with this journal: what was not durable never was.
    pub(super) fn on_recovery(&mut self, journal: &[Record]) {
        self.appended.clear();
        self.newest.clear();
        self.given.clear();
        self.epoch = None;
        for record in journal {
            match record {
                Record::Epoch { epoch } => self.epoch = Some(*epoch),
                Record::Committed { task, attempt, .. } => {
                    self.appended.insert(*task, *attempt);
                    self.newest.insert(*task, *attempt);
                }
                Record::Lost { task } => {
                    self.appended.remove(task);
                }
                Record::Given { key, .. } => self.given.extend(key.clone()),
                Record::Closed | Record::Built { .. } | Record::Ended(_) => {}
            }
        }
    }

    /// A worker reported an output, or that it has none. The latter too after the former: what it answered from its
    /// memo is not on its disk, and after a crash it may run the same attempt again, and fail.
    pub(super) fn on_report(&mut self, of: PeerId, task: TaskId, attempt: Attempt, is_good: bool) {
        if is_good {
            self.good_reports.insert((of, task, attempt));
        } else {
            self.good_reports.remove(&(of, task, attempt));
        }
    }

    /// The engine told a worker to forget a report.
    ///
    /// # Errors
    /// When a crash could still undo what it stands for.
    pub(super) fn on_settled(
        &self,
        worker: PeerId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<(), Broken> {
        let was_good = self.good_reports.contains(&(worker, task, attempt));
        if was_good && !self.durable.contains(&task) && !self.end_is_durable {
            return Err(Broken::SettledTooEarly(task));
        }
        Ok(())
    }

    /// A worker starts an attempt, in the `life`-th life of its node.
    ///
    /// # Errors
    /// When another node did so, or this one in the same life, or the task was given out too often.
    pub(super) fn on_start(
        &mut self,
        task: TaskId,
        attempt: Attempt,
        worker: PeerId,
        life: u32,
    ) -> Result<(), Broken> {
        if attempt.n > ATTEMPTS_LIMIT {
            return Err(Broken::PassedAround(task, attempt));
        }
        match self.started.insert((task, attempt), (worker, life)) {
            Some((before, then)) if before != worker || then == life => {
                Err(Broken::StartedTwice(task, attempt))
            }
            _ => Ok(()),
        }
    }

    /// Whether a worker was seen to start this attempt.
    #[must_use]
    pub(super) fn was_started(&self, task: TaskId, attempt: Attempt) -> bool {
        self.started.contains_key(&(task, attempt))
    }

    /// The user is told how the job ended.
    ///
    /// # Errors
    /// When the journal does not say so, or the user was told otherwise before.
    pub(super) fn on_told(&mut self, end: &End) -> Result<(), Broken> {
        if !self.end_is_durable {
            return Err(Broken::ToldTooEarly);
        }
        match &self.told {
            Some(told) if told != end => {
                Err(Broken::EndedTwice(Box::new(told.clone()), Box::new(end.clone())))
            }
            _ => {
                self.told = Some(end.clone());
                Ok(())
            }
        }
    }

    /// The newest term in the journal, or on its way there.
    #[must_use]
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// What the user was told.
    #[must_use]
    pub(super) fn told(&self) -> Option<&End> {
        self.told.as_ref()
    }
}
