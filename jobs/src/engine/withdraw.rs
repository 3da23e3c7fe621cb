//! Tasks that this controller ends itself: of items that their submitter wants no more, and those given up.
//!
//! An item that has not ended is withdrawn by ending its task: that these items of it were cancelled, and the others
//! not begun, is committed as what the task gave, by this controller. So nothing else has to know of it. The journal
//! holds it as it holds every output; the commit stops the task's attempts; the others are given out again; and
//! the result, and who follows the job, find the cancelled ones where they find all. A task that failed for good ends
//! in the same way, of a kind whose jobs go on without.

use std::collections::BTreeSet;

use super::Engine;
use super::finish::Finish;
use super::state::{Fate, Made, TaskState};
use super::types::{Action, Record};
use crate::ids::{Attempt, TaskId};
use crate::kind::{Failure, Withdrawn};
use crate::log::Log;
use crate::message::{Cost, Payload};

/// A withdrawal that is on its way into the journal.
pub(super) struct Withdrawing {
    ticket: u64,
    items: Vec<u64>,
    /// The tasks that end by it.
    tasks: BTreeSet<TaskId>,
}

impl Engine {
    /// The submitter wants these items no more.
    pub(super) fn on_withdraw(&mut self, ticket: u64, items: &BTreeSet<u64>) {
        let mut withdrawing = Withdrawing { ticket, items: Vec::new(), tasks: BTreeSet::new() };
        if self.started && matches!(self.finish, Finish::Working) {
            for task in (0..self.tasks.len() as u32).map(TaskId) {
                if self.task(task).state != TaskState::Open {
                    continue;
                }
                let course = self.ahead.as_ref().map(|ahead| &ahead.course);
                let withdrawn = course.and_then(|course| course.withdraw(self.spec(task), items));
                if let Some(Withdrawn { output, items }) = withdrawn {
                    self.commit_here(task, Payload::Inline(output));
                    withdrawing.items.extend(items);
                    withdrawing.tasks.insert(task);
                }
            }
        }
        match &mut self.ahead {
            Some(ahead) if !withdrawing.tasks.is_empty() => ahead.withdrawing.push(withdrawing),
            _ => self.outbox.actions.push(Action::Withdrawn { ticket, items: Vec::new() }),
        }
    }

    /// A task failed for good: its job goes on without what it was to give, or fails.
    pub(super) fn give_up(&mut self, task: TaskId, failure: Failure) {
        let course = self.ahead.as_ref().map(|ahead| &ahead.course);
        let is_working = matches!(self.finish, Finish::Working);
        match course.and_then(|course| course.give_up(self.spec(task), &failure)) {
            Some(output) if is_working => {
                self.counters.given_up += 1;
                self.commit_here(task, Payload::Inline(output));
            }
            _ => {
                let Failure { code, message, log } = failure;
                self.fail(&code, message, Some(task), log);
            }
        }
    }

    /// An open task is ended by this controller.
    fn commit_here(&mut self, task: TaskId, output: Payload) {
        self.dequeue(task);
        let (epoch, worker) = (self.epoch, self.plan.controller);
        let state = self.task_mut(task);
        let attempt = Attempt { epoch, n: state.next_n };
        state.next_n += 1;
        state.made.insert(attempt, Made { worker, fate: Fate::Closed });
        state.state = TaskState::Committing;
        state.retry_at = None;
        // Who failed it failed nothing that another did.
        state.failed_on.clear();
        self.append(Record::Committed {
            task,
            attempt,
            worker,
            output,
            cost: Cost::default(),
            memoized: false,
            counters: Default::default(),
            log: Log::default(),
        });
    }

    /// The journal holds this commit: who waits for the last of a withdrawal's hears of it.
    pub(super) fn tell_withdrawn(&mut self, task: TaskId) {
        let Some(ahead) = &mut self.ahead else { return };
        for withdrawing in &mut ahead.withdrawing {
            withdrawing.tasks.remove(&task);
        }
        let told = ahead.withdrawing.extract_if(.., |withdrawing| withdrawing.tasks.is_empty());
        let told =
            told.map(|Withdrawing { ticket, items, .. }| Action::Withdrawn { ticket, items });
        self.outbox.actions.extend(told);
    }
}
