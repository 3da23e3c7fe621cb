//! The worker machine: what a node answers to the controllers of all jobs it works for.
//!
//! It owns the node's slots and decides which attempt gets one. It believes the controller with
//! the highest epoch that it has seen from a member of a job's roster, and says nothing about a
//! job before that epoch is durable. It repeats what the controller must know until that answers;
//! when nothing is held and nothing is owed it is silent. It runs nothing itself: its driver does.
//!
//! What a crash may take: attempts that had not ended (their leases run out), the last report when
//! its record was still on its way, and reports from the memo, which are never written. What it may not take: an epoch that anybody was answered
//! under.

mod job;
mod slots;
#[cfg(test)]
mod tests;
mod types;
mod unchecked;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::faults::{Fault, Planted};
use super::limits::{BATCH_LIMIT, NAMES_LIMIT, WorkerLimits};
use crate::ids::{Attempt, Cid, Epoch, JobId, PeerId, TaskId};
use crate::log::Log;
use crate::message::{
    Assignment, ControllerNote, Cost, Outcome, Report, ToController, ToWorker, WorkerOrder,
};
use job::{Job, Key, Mine, Stage, Store, Unsettled};
use slots::Taken;
use unchecked::Unchecked;

pub use types::{CheckedManifest, Grant, Remembered, WorkerAction, WorkerEvent, WorkerRecord};

/// Orders for tasks from this on are not looked at: a job has 100,000 maps and 1,024 reducers at most.
const TASKS_LIMIT: u32 = 1 << 17;

/// Results of one job that are held or fetched: it has one, and a few that were built before it.
const STORES_LIMIT: usize = 16;

/// The bounds of a lease. A shorter one is all renewals, a longer one is never missed.
const LEASES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// Why a stopping node takes nothing.
const STOPPING: &str = "the node is stopping";

/// The worker machine of one node.
pub struct Worker {
    slots: usize,
    /// Bytes of memory of each GPU.
    gpus: Vec<u64>,
    limits: WorkerLimits,
    now: Duration,
    jobs: BTreeMap<JobId, Job>,
    /// Orders for jobs whose manifests are being checked, by who gave them.
    unchecked: BTreeMap<(PeerId, JobId), Unchecked>,
    /// Jobs that ended while attempts of theirs were still stopping, and whom to tell then.
    leaving: BTreeMap<JobId, Leaving>,
    /// Attempts that have a slot.
    started: BTreeMap<(JobId, TaskId, Attempt), Taken>,
    /// What is no attempt, and what it has of the node.
    held: BTreeMap<u64, Taken>,
    /// Ended jobs, the oldest first.
    ended: VecDeque<(JobId, Epoch)>,
    down: BTreeSet<PeerId>,
    draining: bool,
    arrivals: u64,
    next_seq: u64,
    planted: Planted,
    actions: Vec<WorkerAction>,
}

/// A job on its way out.
#[derive(Debug)]
struct Leaving {
    epoch: Epoch,
    tell: Option<PeerId>,
}

impl Worker {
    /// A worker with `slots` attempts at once, and what it had written before a crash, in order.
    #[must_use]
    pub fn new(
        slots: u32,
        limits: WorkerLimits,
        now: Duration,
        recovered: Vec<WorkerRecord>,
    ) -> (Worker, Vec<WorkerAction>) {
        let mut worker = Worker {
            slots: slots as usize,
            gpus: Vec::new(),
            limits,
            now,
            jobs: BTreeMap::new(),
            unchecked: BTreeMap::new(),
            leaving: BTreeMap::new(),
            started: BTreeMap::new(),
            held: BTreeMap::new(),
            ended: VecDeque::new(),
            down: BTreeSet::new(),
            draining: false,
            arrivals: 0,
            next_seq: 0,
            planted: Planted::default(),
            actions: Vec::new(),
        };
        for record in recovered {
            worker.recover(record);
        }
        worker.check_again();
        let actions = worker.settle_down();
        (worker, actions)
    }

    /// The same, with GPUs: bytes of memory of each.
    #[must_use]
    pub fn with_gpus(mut self, gpus: Vec<u64>) -> Worker {
        self.gpus = gpus;
        self
    }

    /// A worker that makes a mistake on purpose.
    #[cfg(any(test, feature = "planted-faults"))]
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Worker {
        self.planted = Planted::plant(fault);
        self
    }

    fn recover(&mut self, record: WorkerRecord) {
        let now = self.now;
        let idle_until = now + self.limits.idle_ping;
        match record {
            WorkerRecord::Epoch { job, epoch, controller, manifest, roster } => {
                let known = self
                    .jobs
                    .entry(job)
                    .or_insert_with(|| Job::new(controller, manifest, roster, idle_until));
                known.epoch = epoch;
                known.controller = controller;
            }
            WorkerRecord::Report { job, report } => {
                let Some(known) = self.jobs.get_mut(&job) else { return };
                let key = (report.task, report.attempt);
                let newest = known.newest.entry(report.task).or_insert(report.attempt);
                *newest = report.attempt.max(*newest);
                known
                    .reports
                    .insert(key, Unsettled { report, at: now, sends: 0, is_written: true });
                known.quiet_since = Some(now);
            }
            WorkerRecord::Settled { job, attempts } => {
                let Some(known) = self.jobs.get_mut(&job) else { return };
                for key in attempts {
                    known.reports.remove(&key);
                }
            }
            WorkerRecord::Gone { job } => {
                self.jobs.remove(&job);
            }
        }
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn apply(&mut self, now: Duration, event: WorkerEvent) -> Vec<WorkerAction> {
        self.now = now.max(self.now);
        match event {
            WorkerEvent::Message { from, message } => self.on_message(from, message),
            WorkerEvent::ManifestChecked { job, from, checked } => {
                self.on_checked(job, from, checked);
            }
            WorkerEvent::Recalled { job, attempts } => self.on_recalled(job, attempts),
            WorkerEvent::Finished { job, task, attempt, outcome, cost } => {
                self.on_finished(job, (task, attempt), outcome, cost);
            }
            WorkerEvent::Progress { job, task, attempt, done, total, item } => {
                let mine = self.jobs.get_mut(&job);
                if let Some(mine) = mine.and_then(|job| job.attempts.get_mut(&(task, attempt))) {
                    mine.done = mine.done.max(done);
                    mine.total = total;
                    mine.item = item;
                }
            }
            WorkerEvent::Persisted { seq } => self.on_persisted(seq),
            WorkerEvent::StoreDone { job, roots, error } => self.on_store_done(job, roots, error),
            WorkerEvent::PeerUp { peer } => self.on_peer_up(peer),
            WorkerEvent::PeerDown { peer } => self.on_peer_down(peer),
            WorkerEvent::Hold { id, takes } => self.hold(id, &takes),
            WorkerEvent::LetGo { id } => {
                self.held.remove(&id);
                self.start_waiting();
            }
            WorkerEvent::Drain => self.on_drain(),
            WorkerEvent::Tick => {}
        }
        self.settle_down()
    }

    /// When a [`WorkerEvent::Tick`] is due next, at the latest. None when nothing is waited for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.jobs.values().filter_map(|job| job.next_wake(&self.limits)).min()
    }

    /// The jobs that this node has something of.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.keys().chain(self.leaving.keys()).copied()
    }

    /// The highest epoch seen of a job that this node works for.
    #[must_use]
    pub fn epoch_of(&self, job: JobId) -> Option<Epoch> {
        self.jobs.get(&job).map(|job| job.epoch)
    }

    /// Attempts of all jobs: those that have a slot, and those that wait for one.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        let waiting: usize = self.jobs.values().map(|job| job.attempts.len() - job.running()).sum();
        (self.started.len() as u32, waiting as u32)
    }

    fn on_message(&mut self, from: PeerId, message: ToWorker) {
        if message.epoch == Epoch(0) {
            // No term has this number.
            return;
        }
        let Some(job) = self.jobs.get_mut(&message.job) else {
            self.on_unknown(from, message);
            return;
        };
        if !job.roster.contains(&from) {
            self.actions.push(WorkerAction::Blame { peer: from, job: message.job });
            return;
        }
        let is_older = message.epoch < job.epoch;
        if is_older && !self.planted.has(Fault::WorkerObeysOldEpochs) {
            return;
        }
        let is_newer = message.epoch > job.epoch;
        if is_newer {
            let job = message.job;
            self.follow(job, from, message.epoch);
        } else if from != job.controller {
            return;
        }
        self.obey(from, message);
    }

    /// A controller with a higher epoch took over.
    fn follow(&mut self, id: JobId, controller: PeerId, epoch: Epoch) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        assert!(epoch > job.epoch, "epochs only rise");
        job.epoch = epoch;
        job.controller = controller;
        let (manifest, roster) = (job.manifest, job.roster.clone());
        let record = WorkerRecord::Epoch { job: id, epoch, controller, manifest, roster };
        let seq = self.persist(record);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.awaits = Some(seq);
        }
    }

    /// Carries out an order of the controller that is believed.
    fn obey(&mut self, from: PeerId, message: ToWorker) {
        let ToWorker { job: id, body, .. } = message;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.quiet_since = None;
        match body {
            WorkerOrder::Assign { lease_ms, mut assignments, .. } => {
                assignments.retain(|assignment| assignment.task.0 < TASKS_LIMIT);
                job.lease = Duration::from_millis(lease_ms).clamp(LEASES.0, LEASES.1);
                if let Some(reason) = self.unwillingness(id) {
                    self.turn_away(id, assignments, &reason);
                    return;
                }
                self.take_on(id, assignments);
                self.renew_soon(id);
            }
            WorkerOrder::Revoke { attempts } => {
                for key in attempts.into_iter().filter(|(task, _)| task.0 < TASKS_LIMIT) {
                    self.give_up(id, key);
                }
                self.fall_silent_if_idle(id);
                self.start_waiting();
            }
            WorkerOrder::Settled { attempts } => {
                let is_kept =
                    |key: &Key| job.reports.remove(key).is_some_and(|report| report.is_written);
                let known: Vec<Key> = attempts.into_iter().filter(is_kept).collect();
                if !known.is_empty() {
                    self.persist(WorkerRecord::Settled { job: id, attempts: known });
                }
            }
            WorkerOrder::Query => {
                self.renew_soon(id);
                self.report_soon(id);
            }
            WorkerOrder::Store { roots, holders, .. } => self.store(id, roots, holders),
            WorkerOrder::Fetch { files } => {
                if !self.draining {
                    self.actions.push(WorkerAction::Fetch { job: id, files });
                }
            }
            WorkerOrder::End => self.leave(id, Some(from)),
        }
    }

    /// Takes on those attempts that were not seen before, and asks the memo for them.
    fn take_on(&mut self, id: JobId, assignments: Vec<Assignment>) {
        let (_, mut waiting) = self.load();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let mut fresh = Vec::new();
        for assignment in assignments {
            let newest = job.newest.get(&assignment.task);
            // Also of reports: a controller that settles none is given no more.
            let is_full = (waiting as usize).max(job.reports.len()) >= self.limits.queue;
            if newest >= Some(&assignment.attempt) || is_full {
                continue;
            }
            waiting += 1;
            job.newest.insert(assignment.task, assignment.attempt);
            let key = (assignment.task, assignment.attempt);
            let (arrival, stage) = (self.arrivals, Stage::Recalling);
            self.arrivals += 1;
            fresh.push(assignment.clone());
            job.attempts
                .insert(key, Mine { assignment, arrival, stage, done: 0, total: 0, item: None });
        }
        if !fresh.is_empty() {
            let manifest = job.manifest;
            self.actions.push(WorkerAction::Recall { job: id, assignments: fresh, manifest });
        }
    }

    /// The memo answered: what it has is reported, the rest waits for a slot.
    fn on_recalled(&mut self, id: JobId, attempts: Vec<(TaskId, Attempt, Option<Remembered>)>) {
        for (task, attempt, found) in attempts {
            let Some(job) = self.jobs.get_mut(&id) else { return };
            let Some(mine) = job.attempts.get_mut(&(task, attempt)) else { continue };
            if mine.stage != Stage::Recalling {
                continue;
            }
            mine.stage = Stage::Waiting;
            if let Some(Remembered { output, counters, bytes_out }) = found {
                let proof = mine.assignment.proof;
                job.attempts.remove(&(task, attempt));
                let log = Log::default();
                let outcome = Outcome::Done { output, memoized: true, counters, log };
                let cost = Cost { bytes_out, ..Cost::default() };
                self.report(id, Report { task, attempt, proof, outcome, cost });
            }
        }
        self.fall_silent_if_idle(id);
        self.start_waiting();
    }

    /// Drops an attempt, or stops it.
    fn give_up(&mut self, id: JobId, key: Key) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let newest = job.newest.entry(key.0).or_insert(key.1);
        *newest = key.1.max(*newest);
        let Some(mine) = job.attempts.get_mut(&key) else { return };
        match mine.stage {
            Stage::Recalling | Stage::Waiting => {
                job.attempts.remove(&key);
            }
            Stage::Running => {
                mine.stage = Stage::Stopping;
                let (task, attempt) = key;
                self.actions.push(WorkerAction::Stop { job: id, task, attempt });
            }
            Stage::Stopping => {}
        }
    }

    fn on_finished(&mut self, id: JobId, key: Key, outcome: Option<Outcome>, cost: Cost) {
        if self.started.remove(&(id, key.0, key.1)).is_none() {
            return;
        }
        if let Some(job) = self.jobs.get_mut(&id)
            && let Some(mine) = job.attempts.remove(&key)
            && mine.stage == Stage::Running
        {
            let reason = "the node stopped it".to_owned();
            let outcome = outcome.unwrap_or(Outcome::Returned { reason });
            let ((task, attempt), proof) = (key, mine.assignment.proof);
            self.report(id, Report { task, attempt, proof, outcome, cost });
        }
        self.fall_silent_if_idle(id);
        self.leave_if_stopped(id);
        self.start_waiting();
    }

    /// A worker that holds nothing of a job any more renews nothing.
    fn fall_silent_if_idle(&mut self, id: JobId) {
        let silence = self.now + self.limits.idle_ping;
        if let Some(job) = self.jobs.get_mut(&id)
            && job.attempts.is_empty()
        {
            job.renew_at = silence;
        }
    }

    /// Says, and goes on saying, how an attempt ended.
    fn report(&mut self, id: JobId, report: Report) {
        let now = self.now;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let key = (report.task, report.attempt);
        let is_written = !matches!(report.outcome, Outcome::Done { memoized: true, .. });
        let unsettled = Unsettled { report: report.clone(), at: now, sends: 0, is_written };
        job.reports.insert(key, unsettled);
        job.quiet_since = job.quiet_since.or(Some(now));
        if is_written {
            self.persist(WorkerRecord::Report { job: id, report });
        }
    }

    fn store(&mut self, id: JobId, roots: Vec<Cid>, holders: Vec<PeerId>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match job.stores.get(&roots) {
            Some(Store::Fetching) => {}
            Some(Store::Ended(error)) => {
                let (to, epoch, error) = (job.controller, job.epoch, error.clone());
                if error.is_some() {
                    // The next order tries afresh.
                    job.stores.remove(&roots);
                }
                self.say(to, id, epoch, ControllerNote::Stored { roots, error });
            }
            None if job.stores.len() >= STORES_LIMIT => {}
            None => {
                job.stores.insert(roots.clone(), Store::Fetching);
                self.actions.push(WorkerAction::Store { job: id, roots, holders });
            }
        }
    }

    fn on_store_done(&mut self, id: JobId, roots: Vec<Cid>, error: Option<String>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(store) = job.stores.get_mut(&roots) else { return };
        *store = Store::Ended(error);
        self.store(id, roots, Vec::new());
    }

    fn on_peer_up(&mut self, peer: PeerId) {
        self.down.remove(&peer);
        let led: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.controller == peer).map(|(id, _)| *id).collect();
        for id in led {
            if let Some(job) = self.jobs.get_mut(&id)
                && !job.is_owed()
            {
                job.quiet_since = None;
            }
            self.renew_soon(id);
            self.report_soon(id);
        }
    }

    fn on_peer_down(&mut self, peer: PeerId) {
        self.down.insert(peer);
        for job in self.jobs.values_mut().filter(|job| job.controller == peer) {
            job.quiet_since = job.quiet_since.or(Some(self.now));
        }
    }

    fn on_persisted(&mut self, seq: u64) {
        for job in self.jobs.values_mut() {
            if job.awaits.is_some_and(|awaited| awaited <= seq) {
                job.awaits = None;
            }
        }
    }

    /// The job is over for this node, by its controller's word or for want of one.
    fn leave(&mut self, id: JobId, tell: Option<PeerId>) {
        let Some(job) = self.jobs.remove(&id) else { return };
        for ((task, attempt), mine) in &job.attempts {
            if mine.stage == Stage::Running {
                let (task, attempt) = (*task, *attempt);
                self.actions.push(WorkerAction::Stop { job: id, task, attempt });
            }
        }
        if tell.is_some() {
            self.ended.push_back((id, job.epoch));
            if self.ended.len() > self.limits.tombstones {
                self.ended.pop_front();
            }
        }
        self.persist(WorkerRecord::Gone { job: id });
        self.leaving.insert(id, Leaving { epoch: job.epoch, tell });
        self.leave_if_stopped(id);
        self.start_waiting();
    }

    fn leave_if_stopped(&mut self, id: JobId) {
        if self.started.keys().any(|(job, _, _)| *job == id) {
            return;
        }
        let Some(Leaving { epoch, tell }) = self.leaving.remove(&id) else { return };
        self.actions.push(WorkerAction::Forget { job: id });
        if let Some(to) = tell {
            self.say(to, id, epoch, ControllerNote::Gone);
        }
    }

    fn renew_soon(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.renew_at = self.now;
        }
    }

    fn report_soon(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        for unsettled in job.reports.values_mut() {
            unsettled.at = self.now;
        }
    }

    /// Says what is due and hands over the actions.
    fn settle_down(&mut self) -> Vec<WorkerAction> {
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            self.look_at(id);
        }
        std::mem::take(&mut self.actions)
    }

    fn look_at(&mut self, id: JobId) {
        let (now, free_slots) = (self.now, self.free_slots());
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let is_down = self.down.contains(&job.controller);
        if is_down || job.is_owed() {
            job.quiet_since = job.quiet_since.or(Some(now));
        }
        if job.quiet_since.is_some_and(|since| since + self.limits.controller_gone <= now) {
            self.leave(id, None);
            return;
        }
        if job.awaits.is_some() {
            return;
        }
        let (to, epoch) = (job.controller, job.epoch);
        let reports = job.due_reports(now, &self.limits);
        let granted = job.grant().and_then(|grant| grant.slots);
        let mut renewal = None;
        if job.renew_at <= now {
            renewal = Some(job.held());
        }
        if renewal.is_some() || job.renew_at > now + job.renewal_pause(&self.limits) {
            job.renew_at = now + job.renewal_pause(&self.limits);
        }
        for reports in reports.chunks(BATCH_LIMIT) {
            self.say(to, id, epoch, ControllerNote::Report { reports: reports.to_vec() });
        }
        let Some(held) = renewal else { return };
        if held.is_empty() {
            self.say(to, id, epoch, ControllerNote::Renew { held, free_slots, granted });
            return;
        }
        for held in held.chunks(NAMES_LIMIT) {
            let held = held.to_vec();
            self.say(to, id, epoch, ControllerNote::Renew { held, free_slots, granted });
        }
    }

    fn free_slots(&self) -> u32 {
        if self.draining {
            return 0;
        }
        let (_, waiting) = self.load();
        (self.slots_left() as u32).saturating_sub(waiting)
    }

    fn persist(&mut self, record: WorkerRecord) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.actions.push(WorkerAction::Persist { seq, record });
        seq
    }

    /// Says something, unless the job's epoch is not durable yet: then it is asked again.
    fn say(&mut self, to: PeerId, job: JobId, epoch: Epoch, body: ControllerNote) {
        if self.jobs.get(&job).is_some_and(|job| job.awaits.is_some()) {
            return;
        }
        self.actions.push(WorkerAction::Send { to, message: ToController { job, epoch, body } });
    }
}
