//! Items that their submitter wants no more.
//!
//! An item that has not ended is withdrawn by ending its task: that these items of it were cancelled, and the others
//! not begun, is committed as what the task gave, by this controller. So nothing else has to know of it. The journal
//! holds it as it holds every output; the commit stops the task's attempts; the others are given out again; and
//! the result, and who follows the job, find the cancelled ones where they find all.

use std::collections::BTreeSet;

use super::Engine;
use super::finish::Finish;
use super::state::{Fate, Made, TaskState};
use super::types::{Action, Record};
use crate::ids::{Attempt, TaskId};
use crate::kind::Withdrawn;
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
