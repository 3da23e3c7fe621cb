//! Fetching early: the peers that will read an output hear of it while other tasks still run, so that
//! its bytes travel meanwhile. These are hints. One that is lost, late or wrong costs time and
//! nothing else: a task fetches what it lacks, wherever it runs.

use std::collections::BTreeMap;

use super::finish::Finish;
use super::state::TaskState;
use super::{Engine, limits};
use crate::ids::{PeerId, TaskId};
use crate::message::{Payload, Wanted, WorkerOrder};

/// What is known of outputs that are to be read later.
#[derive(Default)]
pub(super) struct Early {
    /// Where tasks that still wait for outputs will run, as far as that was asked.
    homes: BTreeMap<TaskId, PeerId>,
    /// What to tell each peer; sent when there is a message full of it. What is left when the last output
    /// is there goes with the assignments.
    hints: BTreeMap<PeerId, Vec<Wanted>>,
}

impl Early {
    /// Other peers work for the job now.
    pub(super) fn forget_homes(&mut self) {
        self.homes.clear();
    }
}

impl Engine {
    /// `task` has an output: hints to the homes of those that need it and others that are still made. An
    /// output from a memo is of a job that ran before, and most likely so are the tasks that read it.
    pub(super) fn announce(&mut self, task: TaskId) {
        let Some(commit) = self.task(task).commit.as_ref().filter(|commit| !commit.memoized) else {
            return;
        };
        if !matches!(self.finish, Finish::Working) {
            return;
        }
        let (output, maker) = (commit.output.clone(), commit.worker);
        let is_waiting = |consumer: &TaskId| self.task(*consumer).state == TaskState::Open;
        let groups = self.groups.iter().filter(|g| g.missing > 0 && g.tasks.contains(&task.0));
        let consumers: Vec<TaskId> =
            groups.flat_map(|group| &group.consumers).copied().filter(is_waiting).collect();
        for consumer in consumers {
            let Some(home) = self.expected_home(consumer).filter(|home| *home != maker) else {
                continue;
            };
            // An output that is long as a text names hundreds of files: too many to take apart here.
            let Payload::Inline(text) = self.plan.kind.pick(self.spec(consumer), &output) else {
                continue;
            };
            let files = self.plan.kind.output_files(&self.spec(task).body, &text);
            let wanted = files.unwrap_or_default().into_iter();
            let wanted = wanted.map(|(file, _)| Wanted { file, holders: vec![maker] });
            self.early.hints.entry(home).or_default().extend(wanted);
        }
        self.send_hints();
    }

    /// Where a task will run once it can, if nothing changes.
    fn expected_home(&mut self, task: TaskId) -> Option<PeerId> {
        if !self.early.homes.contains_key(&task) {
            let stage = self.spec(task).stage;
            let mut homes = self.homes_of(stage);
            let tasks = (0..self.tasks.len() as u32).map(TaskId);
            let open = tasks.filter(|task| {
                self.spec(*task).stage == stage && self.task(*task).state == TaskState::Open
            });
            let placed = open.filter_map(|task| Some((task, self.place(task, &mut homes)?)));
            let placed: Vec<_> = placed.collect();
            self.early.homes.extend(placed);
        }
        self.early.homes.get(&task).copied()
    }

    fn send_hints(&mut self) {
        let is_full = |hints: &Vec<Wanted>| hints.len() >= limits::HINTS_BATCH;
        let full = self.early.hints.iter().filter(|(_, hints)| is_full(hints));
        for peer in full.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            let hints = self.early.hints.remove(&peer).unwrap_or_default();
            for files in hints.chunks(limits::BATCH_LIMIT) {
                self.send(peer, WorkerOrder::Fetch { files: files.to_vec() });
            }
        }
    }
}
