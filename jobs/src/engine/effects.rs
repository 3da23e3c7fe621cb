//! What each journal record changes, once it is durable. The same code replays a journal, so a
//! recovered engine knows what the one before it was allowed to know.

use super::finish::Finish;
use super::state::{Commit, TaskState};
use super::types::{Action, End, Record};
use super::{Engine, Peer};
use crate::ids::{Attempt, Epoch, PeerId, TaskId};

impl Engine {
    /// The journal holds `seq` and all before it.
    pub(super) fn on_appended(&mut self, seq: u64) {
        while let Some(record) = self.journal.durable(seq) {
            match record {
                Record::Epoch { .. } => self.start(),
                Record::Committed { task, .. } => {
                    self.take_effect(record, false);
                    self.after_commit(task);
                    let more = self.follow_commit(task);
                    self.enqueue(&more);
                    self.tell_withdrawn(task);
                }
                Record::Given { items, key } => {
                    self.got_further();
                    let more = self.follow_gift(&items, key);
                    self.enqueue(&more);
                }
                Record::Closed => {
                    let more = self.follow_close();
                    self.enqueue(&more);
                }
                Record::Lost { task } => {
                    self.take_effect(record, false);
                    self.after_loss(task);
                }
                Record::Built { .. } => {
                    self.take_effect(record, false);
                    self.look_at_finish();
                }
                Record::Ended(end) => self.farewell_to_all(end),
            }
        }
    }

    /// Takes over a journal.
    pub(super) fn replay(&mut self, records: Vec<Record>) {
        let mut ended = None;
        let mut last_epoch = None;
        for record in records {
            match record {
                // What it says may be of tasks that would have followed.
                Record::Committed { .. } | Record::Lost { .. } if self.is_broken() => {}
                Record::Epoch { epoch } => {
                    assert!(last_epoch < Some(epoch), "epochs only rise");
                    last_epoch = Some(epoch);
                }
                Record::Ended(end) => ended = Some(end),
                // What follows from each is queued when the term begins.
                Record::Given { items, key } => drop(self.follow_gift(&items, key)),
                Record::Closed => drop(self.follow_close()),
                Record::Committed { task, .. } => {
                    self.take_effect(record, true);
                    self.follow_commit(task);
                }
                record => self.take_effect(record, true),
            }
        }
        if let Some(end) = ended {
            // Nothing is decided any more: the last term says goodbye again.
            self.epoch = last_epoch.unwrap_or(self.epoch);
            self.started = true;
            self.farewell_to_all(end);
        } else if last_epoch == Some(self.epoch) {
            self.start();
        } else {
            assert!(last_epoch < Some(self.epoch), "a term's epoch is above all before it");
        }
    }

    /// The term is durable: the engine may speak.
    fn start(&mut self) {
        self.started = true;
        self.progress_at = self.now;
        self.watch_for_stall();
        self.look_at_idle();
        if self.recovered {
            self.adopt_until = Some(self.now + self.plan.limits.adopt);
            self.timer(self.now + self.plan.limits.adopt, super::Timer::Assign);
            let up: Vec<PeerId> =
                self.peers.iter().filter(|(_, p)| p.is_up()).map(|(peer, _)| *peer).collect();
            up.into_iter().for_each(|peer| self.query(peer));
        }
        self.choose();
        self.enqueue_all();
        self.look_at_finish();
    }

    fn take_effect(&mut self, record: Record, replayed: bool) {
        match record {
            Record::Committed { task, attempt, worker, output, cost, memoized, counters, log } => {
                let at = (!replayed).then_some(self.now);
                if replayed {
                    self.log_room = self.log_room.saturating_sub(log.size());
                }
                let state = self.task_mut(task);
                assert!(state.commit.is_none(), "task {task} is committed once");
                assert!(state.last_commit < Some(attempt), "attempts of task {task} only rise");
                state.state = TaskState::Committed;
                state.last_commit = Some(attempt);
                let before = state.first_output.replace(output.clone());
                let is_replaced = before.is_some_and(|before| before != output);
                let holders = vec![worker];
                state.commit = Some(Commit {
                    attempt,
                    worker,
                    output,
                    cost,
                    memoized,
                    counters,
                    log,
                    at,
                    holders,
                });
                self.stage_mut(task).done += 1;
                for group in self.groups.iter_mut().filter(|g| g.tasks.contains(&task.0)) {
                    group.missing -= 1;
                }
                if is_replaced {
                    self.outdate_readers(task, replayed);
                }
            }
            Record::Lost { task } => {
                self.keep_lost(task);
                let state = self.task_mut(task);
                let commit = state.commit.take();
                let commit = commit.expect("only a committed output is recorded as lost");
                state.state = TaskState::Open;
                state.tries.losses += 1;
                state.avoid.extend(commit.holders);
                self.stage_mut(task).done -= 1;
                if replayed {
                    self.miss(task);
                }
            }
            Record::Built { result, report } => {
                self.finish = Finish::store(result, report, self.now);
            }
            Record::Given { .. } | Record::Closed | Record::Epoch { .. } | Record::Ended(_) => {}
        }
    }

    /// What those that need `task` were given out with is no more: their attempts count no longer.
    pub(super) fn outdate_readers(&mut self, task: TaskId, replayed: bool) {
        let groups = self.groups.iter().filter(|group| group.tasks.contains(&task.0));
        let readers: Vec<TaskId> = groups.flat_map(|group| &group.consumers).copied().collect();
        // Which of them earlier terms gave out is not in the journal.
        let earlier = Attempt { epoch: Epoch(self.epoch.0.saturating_sub(1)), n: u32::MAX };
        for reader in readers {
            let state = self.task_mut(reader);
            let newest = state.made.keys().next_back().copied();
            let last = if replayed { Some(earlier) } else { newest };
            state.outdated = state.outdated.max(last);
            let live: Vec<_> = state.live().map(|(attempt, worker, _)| (attempt, worker)).collect();
            for (attempt, worker) in live {
                self.revoke(reader, attempt, worker);
            }
        }
    }

    /// A commit is durable: its reports are settled, its rivals stopped, its consumers freed.
    fn after_commit(&mut self, task: TaskId) {
        self.counters.commits += 1;
        self.got_further();
        let state = &mut self.tasks[task.0 as usize];
        for (peer, attempt) in std::mem::take(&mut state.to_settle) {
            self.outbox.settled.entry(peer).or_default().push((task, attempt));
        }
        let rivals: Vec<_> = state.live().map(|(attempt, worker, _)| (attempt, worker)).collect();
        let winner = state.commit.as_ref().map(|commit| commit.worker);
        let to_blame: Vec<_> = std::mem::take(&mut state.failed_on)
            .into_iter()
            .filter(|peer| Some(*peer) != winner)
            .collect();
        for (attempt, worker) in rivals {
            self.revoke(task, attempt, worker);
        }
        to_blame.into_iter().for_each(|peer| self.strike(peer));
        let freed: Vec<TaskId> = self
            .groups
            .iter()
            .filter(|group| group.missing == 0 && group.tasks.contains(&task.0))
            .flat_map(|group| group.consumers.iter().copied())
            .collect();
        self.enqueue(&freed);
        self.announce(task);
        self.unassigned = true;
    }

    /// An output cannot be had any more: whoever needs it waits. This takes effect before it is
    /// durable, for to wait is always safe.
    pub(super) fn miss(&mut self, task: TaskId) {
        let mut blocked: Vec<TaskId> = Vec::new();
        for group in self.groups.iter_mut().filter(|g| g.tasks.contains(&task.0)) {
            group.missing += 1;
            blocked.extend(&group.consumers);
        }
        blocked.into_iter().for_each(|consumer| self.dequeue(consumer));
    }

    /// A loss is durable: the task runs again.
    fn after_loss(&mut self, task: TaskId) {
        self.counters.lost_outputs += 1;
        self.enqueue(&[task]);
    }

    fn farewell_to_all(&mut self, end: End) {
        self.finish = Finish::Farewell {
            end: end.clone(),
            pending: self.peers_to_tell(),
            until: self.now + self.plan.limits.end,
        };
        self.timers.retain(|(_, timer)| matches!(timer, super::Timer::Peer(_)));
        self.outbox.actions.push(Action::Ended(end));
        self.look_at_finish();
    }

    /// Everybody who may have something of this job.
    fn peers_to_tell(&self) -> std::collections::BTreeMap<PeerId, super::finish::Repeat> {
        let workers = self.tasks.iter().flat_map(|task| task.made.values().map(|m| m.worker));
        let committed = self.tasks.iter().flat_map(|t| t.commit.as_ref().map(|c| c.worker));
        let stored = self.finish.asked_to_store();
        // After a take-over anybody may have been given something by an earlier term.
        let known = self.peers.keys().copied().filter(|_| self.recovered);
        let within_reach = |peer: &PeerId| self.peers.get(peer).is_some_and(|p: &Peer| !p.gone);
        workers
            .chain(committed)
            .chain(stored)
            .chain(known)
            .filter(within_reach)
            .map(|peer| (peer, super::finish::Repeat::at_once(self.now)))
            .collect()
    }
}
