//! Which attempts begin: free slots, whose they are, and what goes back because it may not begin here.
//!
//! What the node's policy grants each job comes from outside, and may change at any time. What runs
//! already may end whatever it says.

use std::collections::BTreeMap;

use super::job::{Key, Mine, Stage, Standing};
use super::types::{Grant, WorkerAction};
use super::{STOPPING, Worker};
use crate::engine::Takes;
use crate::engine::faults::Fault;
use crate::ids::JobId;
use crate::message::{Assignment, Cost, Outcome, Proof, Report};

/// What a running attempt, or what else runs, has of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) slots: usize,
    /// By their numbers.
    pub(super) gpus: Vec<u32>,
}

impl Worker {
    /// Fills free slots: the job with the fewest running first, within it the oldest attempt. An
    /// owner that has all the slots it is granted waits, whoever else does.
    pub(super) fn start_waiting(&mut self) {
        while self.slots_left() > 0 && !self.draining {
            let running = self.running_by_owner();
            let is_reckless = self.planted.has(Fault::WorkerIgnoresGrants);
            let has_slot = |grant: &Grant| {
                let running = running.get(grant.owner.as_str()).copied().unwrap_or(0);
                grant.slots.is_none_or(|slots| running < slots as usize || is_reckless)
            };
            let next = self
                .jobs
                .iter()
                .filter_map(|(id, job)| {
                    let grant = job.grant().filter(|grant| has_slot(grant))?;
                    // Who waits for a GPU holds up nobody else.
                    let gpus = self.lease(&grant.takes)?;
                    let first = job.first_waiting()?;
                    let slots = grant.takes.slots(self.slots);
                    Some((job.running(), first, *id, slots, gpus))
                })
                .min();
            let Some((_, (_, key), id, slots, gpus)) = next else { return };
            if slots.min(self.slots_of_attempts()) > self.slots_left() {
                // It waits until there are enough, and nobody overtakes it: or it would wait for ever.
                return;
            }
            let Some(job) = self.jobs.get_mut(&id) else { return };
            let manifest = job.manifest;
            let Some(mine) = job.attempts.get_mut(&key) else { return };
            mine.stage = Stage::Running;
            let assignment = mine.assignment.clone();
            self.started.insert((id, key.0, key.1), Taken { slots, gpus: gpus.clone() });
            self.actions.push(WorkerAction::Start { job: id, assignment, manifest, gpus });
        }
    }

    /// Slots that nobody has.
    pub(super) fn slots_left(&self) -> usize {
        let taken = self.started.values().map(|taken| taken.slots).sum();
        self.slots_of_attempts().saturating_sub(taken)
    }

    /// The slots that attempts share. What is no attempt leaves them one, or they would wait as long as it runs.
    fn slots_of_attempts(&self) -> usize {
        let held = self.held.values().map(|taken| taken.slots).sum();
        self.slots.saturating_sub(held).max(1)
    }

    /// GPUs for who takes this, if enough are free.
    fn lease(&self, takes: &Takes) -> Option<Vec<u32>> {
        let all = || self.started.values().chain(self.held.values());
        let is_free = |gpu| !all().any(|taken| taken.gpus.contains(&gpu));
        takes.lease(&self.gpus, is_free)
    }

    /// Gives something that is no attempt the GPUs that it takes, if they are free, and slots: of these others may have
    /// more than there are, for processors can be shared.
    pub(super) fn hold(&mut self, id: u64, takes: &Takes) {
        let gpus = self.lease(takes).filter(|_| !self.draining);
        if let Some(gpus) = gpus.clone() {
            self.held.insert(id, Taken { slots: takes.slots(self.slots), gpus });
        }
        self.actions.push(WorkerAction::Held { id, gpus });
    }

    /// Attempts that have a slot, by whose job they are of.
    fn running_by_owner(&self) -> BTreeMap<&str, usize> {
        let mut running = BTreeMap::new();
        for job in self.jobs.values() {
            if let Some(grant) = job.grant() {
                *running.entry(grant.owner.as_str()).or_default() += job.running();
            }
        }
        running
    }

    /// Has the manifests of jobs that are known from before a restart checked: the node's policy
    /// may have changed meanwhile.
    pub(super) fn check_again(&mut self) {
        let checks = self.jobs.iter().map(|(id, job)| WorkerAction::CheckManifest {
            job: *id,
            manifest: job.manifest,
            from: job.controller,
        });
        self.actions.extend(checks);
    }

    /// The policy has another answer for a job that this node works for.
    pub(super) fn reconsider(&mut self, id: JobId, grant: Result<Grant, String>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match grant {
            Ok(grant) => {
                job.standing = Standing::Granted(grant);
                self.start_waiting();
            }
            Err(reason) => {
                job.standing = Standing::Refused(reason.clone());
                self.hand_back(id, &reason);
            }
        }
    }

    /// Why attempts of the job are not taken on; none when they are.
    pub(super) fn unwillingness(&mut self, id: JobId) -> Option<String> {
        if self.draining {
            return Some(STOPPING.to_owned());
        }
        let job = self.jobs.get(&id)?;
        let Standing::Refused(reason) = &job.standing else { return None };
        let reason = reason.clone();
        // It may only have been that the manifest could not be had.
        let (manifest, from) = (job.manifest, job.controller);
        self.actions.push(WorkerAction::CheckManifest { job: id, manifest, from });
        Some(reason)
    }

    /// Hands back those of `assignments` that were not seen before. Only those: what runs goes on.
    pub(super) fn turn_away(&mut self, id: JobId, assignments: Vec<Assignment>, reason: &str) {
        for Assignment { task, attempt, proof, .. } in assignments {
            let Some(job) = self.jobs.get_mut(&id) else { return };
            let is_full = job.reports.len() >= self.limits.queue;
            if job.newest.get(&task) >= Some(&attempt) || is_full {
                continue;
            }
            job.newest.insert(task, attempt);
            self.return_attempt(id, (task, attempt), proof, reason);
        }
    }

    /// What has not begun of the job goes back at once.
    fn hand_back(&mut self, id: JobId, reason: &str) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let is_unbegun = |mine: &Mine| matches!(mine.stage, Stage::Recalling | Stage::Waiting);
        let unbegun = job.attempts.iter().filter(|(_, mine)| is_unbegun(mine));
        let keys: Vec<Key> = unbegun.map(|(key, _)| *key).collect();
        for key in keys {
            let mine = self.jobs.get_mut(&id).and_then(|job| job.attempts.remove(&key));
            let Some(mine) = mine else { continue };
            self.return_attempt(id, key, mine.assignment.proof, reason);
        }
        self.fall_silent_if_idle(id);
    }

    fn return_attempt(&mut self, id: JobId, key: Key, proof: Proof, reason: &str) {
        let outcome = Outcome::Returned { reason: reason.to_owned() };
        let ((task, attempt), cost) = (key, Cost::default());
        self.report(id, Report { task, attempt, proof, outcome, cost });
    }

    /// The node is stopping: what has not begun goes back at once.
    pub(super) fn on_drain(&mut self) {
        self.draining = true;
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            self.hand_back(id, STOPPING);
        }
    }
}
