//! What follows from the end of an attempt.

use super::Engine;
use super::attempts::WORKER_LOST;
use super::faults::Fault;
use super::finish::Finish;
use super::limits::{FAILURE_TEXT_LIMIT, FAILURES_KEPT, back_off};
use super::state::{Fate, Made, TaskState};
use super::types::{Action, FailureReport, Record};
use crate::ids::{Attempt, PeerId, TaskId};
use crate::kind::Failure;
use crate::log::{LOG_LIMIT, Log};
use crate::message::{self, Cost, FailureClass, Outcome, Payload, Proof, Report};

/// The code of a job whose code gives another output when it is run again.
const NOT_DETERMINISTIC: &str = "IPDC-5103";
/// The code of a job that keeps losing an output.
const OUTPUT_LOST: &str = "IPDC-5104";
/// The code of an attempt whose worker reported what is no output of its task.
const NO_OUTPUT: &str = "IPDC-5109";
/// What such a worker is remembered for.
const NO_OUTPUT_AT_ALL: &str = "an output that is none";
/// The code of an attempt whose input could not be had although somebody should have it.
const INPUT_MISSING: &str = "IPDC-5105";

/// A good report.
pub(super) struct Good {
    pub(super) task: TaskId,
    pub(super) attempt: Attempt,
    pub(super) worker: PeerId,
    pub(super) output: Payload,
    memoized: bool,
    counters: message::Counters,
    log: Log,
    cost: Cost,
}

impl Engine {
    pub(super) fn on_report(&mut self, from: PeerId, report: Report) {
        if matches!(self.finish, Finish::Ending) {
            // What is in the journal is final; the worker hears of the end next.
            return;
        }
        let Report { task, attempt, proof, outcome, cost } = report;
        if !self.is_known(from, task, attempt, proof) {
            self.blame_if_lied(from, task, attempt);
            self.settle(from, task, attempt);
            return;
        }
        match outcome {
            Outcome::Done { output, .. } if !self.plan.kind.is_output(self.spec(task), &output) => {
                let is_live = self.task_mut(task).live_mut(attempt).is_some();
                self.close(task, attempt, Fate::Closed);
                self.settle(from, task, attempt);
                if is_live && self.task(task).state == TaskState::Open {
                    self.on_false_output(task, attempt, from);
                } else {
                    self.blame(from, NO_OUTPUT_AT_ALL);
                }
            }
            Outcome::Done { output, memoized, counters, log } => {
                let worker = from;
                self.on_good(Good { task, attempt, worker, output, memoized, counters, log, cost });
            }
            outcome => {
                self.end_attempt(task, attempt, from, outcome);
                self.settle(from, task, attempt);
            }
        }
    }

    fn blame(&mut self, peer: PeerId, what: &'static str) {
        self.outbox.actions.push(Action::Blame { peer, what });
    }

    /// What a worker reported is no output of its task.
    pub(super) fn on_false_output(&mut self, task: TaskId, attempt: Attempt, worker: PeerId) {
        self.blame(worker, NO_OUTPUT_AT_ALL);
        let (class, log) = (FailureClass::Worker, Log::default());
        let message = "what it reported is no output of this task".to_owned();
        self.note_failure(task, attempt, worker, Some(class), NO_OUTPUT, &message, log.clone());
        self.on_failure(task, worker, class, NO_OUTPUT.to_owned(), message, log);
    }

    /// Whether this worker was given this attempt: by this term, or, as it proves, by an earlier one.
    fn is_known(&self, from: PeerId, task: TaskId, attempt: Attempt, proof: Proof) -> bool {
        let Some(state) = self.tasks.get(task.0 as usize) else { return false };
        match state.made.get(&attempt) {
            Some(made) => made.worker == from,
            None => self.is_of_earlier_term(from, task, attempt, proof),
        }
    }

    /// Whether an earlier term gave this attempt to this worker. What it knew of that died with it.
    pub(super) fn is_of_earlier_term(
        &self,
        from: PeerId,
        task: TaskId,
        attempt: Attempt,
        proof: Proof,
    ) -> bool {
        let is_earlier = attempt.epoch < self.epoch && self.recovered;
        is_earlier && self.proof(from, task, attempt) == proof
    }

    /// Remembers of a peer that it told of an attempt which it was never given. An attempt of an
    /// earlier term may be that of a worker too old to prove it.
    pub(super) fn blame_if_lied(&mut self, from: PeerId, task: TaskId, attempt: Attempt) {
        let state = self.tasks.get(task.0 as usize);
        let made = state.and_then(|state| state.made.get(&attempt));
        let may_be_true = match made {
            Some(made) => made.worker == from,
            None => state.is_some() && attempt.epoch < self.epoch,
        };
        if !may_be_true {
            let what = "of an attempt that it was not given";
            self.blame(from, what);
        }
    }

    /// The report needs no repeating.
    pub(super) fn settle(&mut self, from: PeerId, task: TaskId, attempt: Attempt) {
        self.outbox.settled.entry(from).or_default().push((task, attempt));
    }

    fn on_good(&mut self, good: Good) {
        let Good { task, attempt, worker, .. } = good;
        self.close(task, attempt, Fate::Closed);
        self.note_memo(task, worker, good.memoized);
        let commits_twice = self.planted.has(Fault::CommitsTwice);
        let state = self.task_mut(task);
        match state.state {
            TaskState::Committed => {
                if let Some(commit) = &mut state.commit
                    && commit.output == good.output
                    && !commit.holders.contains(&worker)
                {
                    commit.holders.push(worker);
                }
                self.settle(worker, task, attempt);
            }
            TaskState::Committing if !commits_twice => {
                if !state.to_settle.contains(&(worker, attempt)) {
                    state.to_settle.push((worker, attempt));
                }
            }
            // It comes again when the loss is durable.
            TaskState::Losing => {}
            TaskState::Open | TaskState::Committing => self.commit(good),
        }
    }

    /// The first good report of an open task: off into the journal.
    fn commit(&mut self, good: Good) {
        let Good { task, attempt, worker, memoized, cost, .. } = good;
        let state = self.task(task);
        if state.last_commit.max(state.outdated) >= Some(attempt) {
            // A copy of a report from before the output was lost, or it read another's that was.
            self.settle(worker, task, attempt);
            return;
        }
        if !matches!(self.finish, Finish::Working) {
            // Not needed now; if it is needed again, the report comes again.
            return;
        }
        let first = &self.task(task).first_output;
        // A worker may have reported what it never had, and nothing was made of it.
        let differs = first.as_ref().is_some_and(|first| *first != good.output);
        if differs && !self.has_course() && self.was_read(task) {
            self.on_difference(task, attempt, worker);
            return;
        }
        if differs {
            // From now on, and not when the journal holds it: else who read the other is committed meanwhile.
            self.outdate_readers(task, false);
        }
        self.dequeue(task);
        if !memoized {
            let took = std::time::Duration::from_millis(cost.wall_ms);
            // Not more than there was, whatever the worker says.
            let most = self.now.saturating_sub(self.born);
            self.stage_mut(task).sample(took.min(most));
        }
        if !self.task(task).made.contains_key(&attempt) {
            // An earlier term made it.
            self.counters.adopted += 1;
            self.task_mut(task).made.insert(attempt, Made { worker, fate: Fate::Closed });
        }
        let settles_early = self.planted.has(Fault::SettlesBeforeAppend);
        let state = self.task_mut(task);
        state.state = TaskState::Committing;
        state.retry_at = None;
        if settles_early {
            self.settle(worker, task, attempt);
        } else {
            state.to_settle.push((worker, attempt));
        }
        if let Some(good) = self.read_first(good) {
            self.append_commit(good);
        }
    }

    /// Off into the journal.
    pub(super) fn append_commit(&mut self, good: Good) {
        let Good { task, attempt, worker, output, memoized, counters, log, cost } = good;
        let log = log.last(LOG_LIMIT.min(self.log_room));
        self.log_room -= log.size();
        self.append(Record::Committed {
            task,
            attempt,
            worker,
            output,
            cost,
            memoized,
            counters,
            log,
        });
    }

    /// A task gave another output than the one that something was made of. Of one worker it
    /// may be its own doing; of two it is the code's.
    fn on_difference(&mut self, task: TaskId, attempt: Attempt, worker: PeerId) {
        let state = self.task_mut(task);
        state.tries.differing.insert(worker);
        let differing = state.tries.differing.len();
        let message = format!("task {task} gave another output when it was run again");
        let (code, log) = (NOT_DETERMINISTIC, Log::default());
        if differing > 1 {
            let message = format!("{message}: its code is not deterministic");
            self.fail(code, message, Some(task), log);
            return;
        }
        let class = FailureClass::Worker;
        self.settle(worker, task, attempt);
        self.note_failure(task, attempt, worker, Some(class), code, &message, log.clone());
        self.on_failure(task, worker, class, code.to_owned(), message, log);
    }

    /// A live attempt ended without an output. Later copies of the report change nothing.
    pub(super) fn end_attempt(
        &mut self,
        task: TaskId,
        attempt: Attempt,
        worker: PeerId,
        outcome: Outcome,
    ) {
        let given_at = self.task_mut(task).live_mut(attempt).map(|live| live.assigned_at);
        let Some(given_at) = given_at else { return };
        self.close(task, attempt, Fate::Closed);
        if self.task(task).state != TaskState::Open {
            return;
        }
        match outcome {
            Outcome::Done { .. } => {}
            Outcome::Failed { class, code, message, log } => {
                let log = log.last(LOG_LIMIT);
                let kept = log.clone();
                self.note_failure(task, attempt, worker, Some(class), &code, &message, kept);
                self.on_failure(task, worker, class, code, message, log);
            }
            Outcome::InputLost { tasks, message } => {
                let lost: Vec<TaskId> = tasks
                    .into_iter()
                    .filter(|needed| self.spec(task).needs.contains(&needed.0))
                    .filter(|needed| self.was_committed_before(*needed, given_at))
                    .filter(|needed| self.believes_loss(worker, *needed))
                    .collect();
                if lost.is_empty() && !self.is_missing_input(task) {
                    let class = FailureClass::Missing;
                    self.note_failure(
                        task,
                        attempt,
                        worker,
                        Some(class),
                        INPUT_MISSING,
                        &message,
                        Log::default(),
                    );
                    let code = INPUT_MISSING.to_owned();
                    self.on_failure(task, worker, class, code, message, Log::default());
                }
                for needed in lost {
                    *self.task_mut(needed).lost_by.entry(worker).or_default() += 1;
                    self.lose_output(needed);
                }
                self.retry(task, self.now);
            }
            Outcome::Returned { reason } => {
                self.refuse(worker, reason);
                self.retry(task, self.now);
            }
        }
    }

    /// Whether the output that an attempt given out at `given_at` was told of is still the one
    /// that counts.
    fn was_committed_before(&self, task: TaskId, given_at: std::time::Duration) -> bool {
        let task = self.task(task);
        let commit = task.commit.as_ref().filter(|_| task.state == TaskState::Committed);
        commit.is_some_and(|commit| commit.at.is_none_or(|at| at <= given_at))
    }

    /// Whether `worker` is believed that an output is lost: not again and again, or it could have any
    /// task made without end.
    fn believes_loss(&self, worker: PeerId, needed: TaskId) -> bool {
        let said = self.task(needed).lost_by.get(&worker).copied().unwrap_or(0);
        said < self.plan.limits.losses_a_worker
    }

    /// Whether anything was made of the outputs that this task gave so far.
    fn was_read(&self, task: TaskId) -> bool {
        let groups = self.groups.iter().filter(|group| group.tasks.contains(&task.0));
        groups.flat_map(|group| &group.consumers).any(|consumer| {
            let consumer = self.task(*consumer);
            consumer.state != TaskState::Open || consumer.last_commit.is_some()
        })
    }

    /// A committed output is nowhere to be had.
    pub(super) fn lose_output(&mut self, task: TaskId) {
        if self.task(task).state != TaskState::Committed
            || self.planted.has(Fault::ForgetsLostOutputs)
        {
            return;
        }
        if self.task(task).tries.losses >= self.plan.limits.losses {
            let message =
                format!("the output of task {task} was lost {} times", self.plan.limits.losses);
            self.fail(OUTPUT_LOST, message, Some(task), Log::default());
            return;
        }
        self.task_mut(task).state = TaskState::Losing;
        self.miss(task);
        self.append(Record::Lost { task });
    }

    /// Tries a failed task again, or gives the job up.
    pub(super) fn on_failure(
        &mut self,
        task: TaskId,
        worker: PeerId,
        class: FailureClass,
        code: String,
        message: String,
        log: Log,
    ) {
        let limits = &self.plan.limits;
        let (retry, retry_max) = (limits.retry, limits.retry_max);
        let (guest_tries, other_tries) = (limits.guest_tries, limits.other_tries);
        let state = self.task_mut(task);
        let (tries, most) = match class {
            FailureClass::Guest => {
                state.tries.guest += 1;
                state.avoid.insert(worker);
                state.failed_on.insert(worker);
                (state.tries.guest, guest_tries)
            }
            FailureClass::Worker => {
                state.tries.other += 1;
                state.avoid.insert(worker);
                let tries = state.tries.other;
                if let Some(known) = self.peers.get_mut(&worker) {
                    known.fault = Some(code.clone());
                }
                self.strike(worker);
                (tries, other_tries)
            }
            FailureClass::Missing => {
                state.tries.other += 1;
                state.avoid.insert(worker);
                (state.tries.other, other_tries)
            }
            FailureClass::TooSmall => {
                // Nothing is wrong with worker or task: it goes where there is more, now or when such a
                // node comes.
                self.outgrow(worker, message);
                self.retry(task, self.now);
                return;
            }
        };
        if tries >= most {
            let message = format!("task {task} failed {tries} times, at last with: {message}");
            self.give_up(task, Failure { code, message, log });
        } else {
            self.retry(task, self.now + back_off(retry, retry_max, tries));
        }
    }

    /// Keeps a failure for the report.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn note_failure(
        &mut self,
        task: TaskId,
        attempt: Attempt,
        worker: PeerId,
        class: Option<FailureClass>,
        code: &str,
        message: &str,
        log: Log,
    ) {
        let failures = &mut self.task_mut(task).failures;
        if failures.len() < FAILURES_KEPT {
            let message = clip(message, FAILURE_TEXT_LIMIT);
            let code = code.to_owned();
            failures.push(FailureReport { attempt, worker, class, code, message, log });
        }
        debug_assert!(class.is_some() || code == WORKER_LOST, "only a lost worker has no class");
    }
}

/// At most `limit` bytes of `text`, whole characters.
pub(super) fn clip(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
