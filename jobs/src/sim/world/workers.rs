//! The workers' side: machines that boot and crash, their disks, the attempts they run.

use super::malice::forged_manifest;
use super::{Happening, Job, Run, RunKey, Wire, World, needs};
use crate::engine::Takes;
use crate::engine::{
    CheckedManifest, Grant, Record, Remembered, Worker, WorkerAction, WorkerEvent,
};
use crate::ids::{Cid, Epoch, JobId, PeerId, TaskId};
use crate::log::Log;
use crate::message::{
    Assignment, ControllerNote, Cost, FailureClass, Input, Outcome, Payload, ToController,
};
use crate::sim::laws::Broken;
use crate::sim::scenario;
use crate::sim::work;

/// What a paused node says.
pub(super) const PAUSED: &str = "it is paused";

impl World {
    pub(super) fn boot(&mut self, node: usize) -> Result<(), Broken> {
        if self.nodes[node].worker.is_some() || self.nodes[node].is_scrap {
            return Ok(());
        }
        let gpus = self.gpus(node);
        let state = &mut self.nodes[node];
        state.life += 1;
        let now = self.now + state.ahead;
        let limits = self.scenario.worker_limits.clone();
        let (worker, actions) = Worker::new(state.slots, limits, now, state.records.clone());
        let mut worker = worker.with_gpus(gpus);
        if let Some(fault) = self.scenario.planted {
            worker = worker.with_fault(fault);
        }
        state.worker = Some(worker);
        self.perform(node, actions)?;
        self.plan_worker_wake(node);
        self.hint_about(node);
        let (life, pause) = (self.nodes[node].life, self.rng.millis(0, 5_000));
        self.at(pause, Happening::Lend { node, life });
        for job in 0..self.jobs.len() {
            let known = &self.jobs[job];
            if known.draw.controller == node && known.is_submitted && known.over.is_none() {
                let last = known.journal.iter().filter_map(|record| match record {
                    Record::Epoch { epoch } => Some(epoch.0),
                    _ => None,
                });
                let epoch = Epoch(last.max().unwrap_or(0) + 1);
                self.tally.take_overs += 1;
                self.start_engine(job, epoch)?;
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.worker = None;
        state.life += 1;
        state.unwritten.clear();
        state.scratch.clear();
        state.running.clear();
        state.lent.clear();
        state.wake_at = None;
        for job in self.jobs.iter_mut().filter(|job| job.draw.controller == node) {
            self.tally.note_engine(job.engine.as_ref());
            job.engine = None;
            job.unwritten.clear();
            job.wake_at = None;
        }
        self.hint_about(node);
    }

    pub(super) fn tell_worker(&mut self, node: usize, event: WorkerEvent) -> Result<(), Broken> {
        let actions = self.apply_to_worker(node, event);
        self.perform(node, actions)
    }

    pub(super) fn apply_to_worker(&mut self, node: usize, event: WorkerEvent) -> Vec<WorkerAction> {
        let now = self.now + self.nodes[node].ahead;
        let Some(worker) = &mut self.nodes[node].worker else { return Vec::new() };
        let actions = worker.apply(now, event);
        self.plan_worker_wake(node);
        actions
    }

    pub(super) fn plan_worker_wake(&mut self, node: usize) {
        let now = self.now;
        let state = &mut self.nodes[node];
        let Some(due) = state.worker.as_ref().and_then(Worker::next_wake) else { return };
        let due = due.saturating_sub(state.ahead).max(now);
        if state.wake_at.is_none_or(|at| due < at) {
            state.wake_at = Some(due);
            let life = state.life;
            self.at(due - now, Happening::WakeWorker { node, life });
        }
    }

    pub(super) fn perform(
        &mut self,
        node: usize,
        actions: Vec<WorkerAction>,
    ) -> Result<(), Broken> {
        let life = self.nodes[node].life;
        for action in actions {
            match action {
                WorkerAction::CheckManifest { job, manifest, from } => {
                    let pause = self.rng.millis(1, 200);
                    let is_forged = manifest == forged_manifest();
                    self.at(pause, Happening::Checked { node, life, job, from, is_forged });
                }
                WorkerAction::Recall { job, assignments, .. } => {
                    let pause = self.rng.millis(0, 50);
                    self.at(pause, Happening::Recalled { node, life, job, assignments });
                }
                WorkerAction::Start { job, assignment, gpus, .. } => {
                    self.start_run(node, job, assignment, gpus)?;
                }
                // A hint: here bytes take no time.
                WorkerAction::Fetch { .. } => {}
                WorkerAction::Stop { job, task, attempt } => {
                    let run = (job, task, attempt);
                    if let Some(running) = self.nodes[node].running.get_mut(&run) {
                        running.is_stopped = true;
                        let pause = self.rng.millis(1, 50);
                        self.at(pause, Happening::Ran { node, life, run });
                    }
                }
                WorkerAction::Send { to, message } => {
                    self.watch_note(node, &message);
                    self.send(node, to, Wire::Note(message));
                }
                WorkerAction::Persist { seq, record } => {
                    let pause = self.rng.millis(0, 20);
                    let now = self.now;
                    let state = &mut self.nodes[node];
                    state.unwritten.push_back((seq, record));
                    state.written_by = state.written_by.max(now + pause);
                    let pause = state.written_by - now;
                    self.at(pause, Happening::Persisted { node, life, seq });
                }
                WorkerAction::Store { job, roots, holders } => {
                    let pause = self.rng.millis(5, 500);
                    self.at(pause, Happening::Stored { node, life, job, roots, holders });
                }
                WorkerAction::Forget { job } => {
                    self.nodes[node].scratch.retain(|(of, _)| *of != job);
                }
                WorkerAction::Held { id, gpus } => self.held(node, id, gpus)?,
                WorkerAction::Blame { peer, .. } => self.blamed(peer)?,
            }
        }
        Ok(())
    }

    /// Somebody wants a container on the node.
    pub(super) fn lend(&mut self, node: usize) -> Result<(), Broken> {
        let slots = u64::from(self.nodes[node].slots);
        let takes = Takes {
            cpus: self.rng.between(0, slots + 1) as u32,
            gpus: self.rng.between(0, 2) as u32,
            gpu_memory: 0,
        };
        self.tell_worker(node, WorkerEvent::Hold { id: self.order, takes })
    }

    fn held(&mut self, node: usize, id: u64, gpus: Option<Vec<u32>>) -> Result<(), Broken> {
        let Some(gpus) = gpus else { return Ok(()) };
        let state = &mut self.nodes[node];
        let mut leased = state.running.values().map(|run| &run.gpus).chain(state.lent.values());
        if leased.any(|leased| leased.iter().any(|gpu| gpus.contains(gpu))) {
            return Err(Broken::LentTwice(node));
        }
        self.tally.lent += 1;
        state.lent.insert(id, gpus);
        let (life, pause) = (state.life, self.rng.millis(100, 20_000));
        self.at(pause, Happening::LetGo { node, life, id });
        Ok(())
    }

    /// What a node's policy says of a job now.
    pub(super) fn judge(&mut self, node: usize, job: JobId) -> Result<CheckedManifest, String> {
        let state = &self.nodes[node];
        if state.is_paused {
            return Err(PAUSED.to_owned());
        }
        if state.refuses.contains(&job) {
            self.tally.refusals += 1;
            return Err("its submitter is not welcome here".to_owned());
        }
        let known = self.job_index(job).map(|job| &self.jobs[job]);
        let Some(Job { manifest, draw, .. }) = known else { return Err("no such job".to_owned()) };
        let (owner, takes) = (manifest.submitter.to_string(), draw.takes);
        let grant = Grant { owner, slots: state.owner_slots, takes };
        Ok(CheckedManifest { roster: manifest.roster.clone(), grant })
    }

    /// The memo answers. Once in a while what it has goes right after.
    pub(super) fn recalled(
        &mut self,
        node: usize,
        job: JobId,
        assignments: &[Assignment],
    ) -> Result<(), Broken> {
        let mut attempts = Vec::new();
        for assignment in assignments {
            let Assignment { task, attempt, .. } = *assignment;
            let (body, inputs) = read(assignment);
            let output = work::output_of(body, &inputs);
            let name = work::name_of(&output);
            // What is not found was evicted, or its row was lost with the power.
            let is_found = self.nodes[node].memo.contains(&name) && self.rng.chance(300);
            let found = is_found.then(|| {
                self.tally.memo_hits += 1;
                if self.are_faults_on && self.rng.chance(100) {
                    self.tally.memo_losses += 1;
                    self.nodes[node].memo.remove(&name);
                } else {
                    self.nodes[node].scratch.insert((job, task));
                }
                Remembered { output: output.clone(), counters: Default::default(), bytes_out: 32 }
            });
            attempts.push((task, attempt, found));
        }
        self.tell_worker(node, WorkerEvent::Recalled { job, attempts })
    }

    pub(super) fn start_run(
        &mut self,
        node: usize,
        id: JobId,
        assignment: Assignment,
        gpus: Vec<u32>,
    ) -> Result<(), Broken> {
        let Some(job) = self.job_index(id) else { return Ok(()) };
        self.jobs[job].laws.on_start(
            assignment.task,
            assignment.attempt,
            self.nodes[node].id,
            self.nodes[node].life,
        )?;
        let run = (id, assignment.task, assignment.attempt);
        let state = &mut self.nodes[node];
        let (life, slowness) = (state.life, state.slowness);
        state.running.insert(run, Run { assignment, gpus, is_stopped: false });
        let slots = state.slots as usize;
        let takes = |id: &JobId| {
            let job = self.jobs.iter().find(|job| job.id == *id);
            job.map_or_else(Takes::default, |job| job.draw.takes)
        };
        let taken = self.nodes[node].running.keys().map(|(id, ..)| takes(id).slots(slots)).sum();
        if taken > slots {
            return Err(Broken::TooManyRunning(taken, slots));
        }
        let wanted = takes(&id);
        let running = &self.nodes[node].running;
        let leased = &running[&run].gpus;
        let lent = &self.nodes[node].lent;
        let is_shared = |gpu: &u32| {
            running.values().filter(|run| run.gpus.contains(gpu)).count() > 1
                || lent.values().any(|lent| lent.contains(gpu))
        };
        let is_small = |gpu: &u32| scenario::GPUS[*gpu as usize] < wanted.gpu_memory;
        let is_wrong = leased.iter().any(|gpu| is_shared(gpu) || is_small(gpu));
        if is_wrong || leased.len() != wanted.gpus as usize {
            return Err(Broken::BadLease(id));
        }
        self.tally.leases += leased.len() as u64;
        self.tally.wide += u64::from(wanted.cpus > 1);
        let state = &self.nodes[node];
        let (is_paused, granted) = (state.is_paused, state.owner_slots);
        let owner = self.jobs[job].draw.controller;
        let running = self.nodes[node].running.iter();
        let of_owner = running.filter(|((id, ..), run)| {
            let job = self.job_index(*id).map(|job| self.jobs[job].draw.controller);
            !run.is_stopped && job == Some(owner)
        });
        if is_paused || granted.is_some_and(|granted| of_owner.count() > granted as usize) {
            return Err(Broken::BegunAgainstPolicy(id));
        }
        let time = self.rng.millis(20, 1_000) * slowness;
        self.at(time / 2, Happening::Halfway { node, life, run });
        self.at(time, Happening::Ran { node, life, run });
        Ok(())
    }

    pub(super) fn watch_note(&mut self, node: usize, message: &ToController) {
        let ControllerNote::Report { reports } = &message.body else { return };
        if self.scenario.hostile == Some(node) {
            // It may say otherwise of the same attempt in the next moment.
            return;
        }
        let Some(job) = self.job_index(message.job) else { return };
        let worker = self.nodes[node].id;
        for report in reports {
            let is_good = matches!(report.outcome, Outcome::Done { .. });
            self.jobs[job].laws.on_report(worker, report.task, report.attempt, is_good);
        }
    }

    pub(super) fn ran(&mut self, node: usize, run: RunKey) -> Result<(), Broken> {
        let Some(Run { assignment, is_stopped, .. }) = self.nodes[node].running.remove(&run) else {
            return Ok(());
        };
        let (id, task, attempt) = run;
        let outcome = if is_stopped { None } else { Some(self.outcome(node, id, &assignment)) };
        if let Some(Outcome::Done { output, .. }) = &outcome {
            self.nodes[node].scratch.insert((id, task));
            self.nodes[node].memo.insert(work::name_of(output));
        }
        let cost = Cost { wall_ms: 300, bytes_in: 100, bytes_out: 32, fetched: 0 };
        self.tell_worker(node, WorkerEvent::Finished { job: id, task, attempt, outcome, cost })
    }

    pub(super) fn outcome(&mut self, node: usize, id: JobId, assignment: &Assignment) -> Outcome {
        let (body, inputs) = read(assignment);
        let lost: Vec<TaskId> = inputs
            .iter()
            .filter(|input| !self.can_read(node, id, input.task, &input.holders))
            .map(|input| input.task)
            .collect();
        if !lost.is_empty() {
            self.tally.lost_inputs += 1;
            return Outcome::InputLost { tasks: lost, message: "not found".to_owned() };
        }
        let fail = |class| Outcome::Failed {
            class,
            code: "IPDC-5000".to_owned(),
            message: "it failed".to_owned(),
            log: Log { lines: ["a line".to_owned()].into(), left_out: 0 },
        };
        let Some(job) = self.job_index(id) else { return fail(FailureClass::Worker) };
        if self.jobs[job].draw.poison == Some(assignment.task.0) {
            return fail(FailureClass::Guest);
        }
        if self.jobs[job].draw.large.is_some_and(|large| needs(large) > self.nodes[node].memory) {
            self.tally.misfits += 1;
            return fail(FailureClass::TooSmall);
        }
        if self.are_faults_on && self.rng.chance(self.scenario.failing) {
            self.tally.failed_attempts += 1;
            let failures = self.jobs[job].guest_failures.entry(assignment.task).or_default();
            if *failures < 2 && self.rng.chance(500) {
                *failures += 1;
                return fail(FailureClass::Guest);
            }
            let is_missing = self.rng.chance(300);
            return fail(if is_missing { FailureClass::Missing } else { FailureClass::Worker });
        }
        let output = work::output_of(body, &inputs);
        let (counters, log) = (Default::default(), Log::default());
        Outcome::Done { output, memoized: false, counters, log }
    }

    pub(super) fn stored(
        &mut self,
        node: usize,
        job: JobId,
        roots: Vec<Cid>,
        holders: &[PeerId],
    ) -> Result<(), Broken> {
        let is_there = holders.iter().filter_map(|holder| self.index.get(holder)).any(|holder| {
            let pinned = &self.nodes[*holder].pinned;
            self.is_linked(node, *holder) && roots.iter().all(|root| pinned.contains(root))
        });
        let has_luck = !(self.are_faults_on && self.rng.chance(100));
        let error = if is_there && has_luck {
            self.nodes[node].pinned.extend(roots.iter().copied());
            None
        } else {
            self.tally.failed_stores += 1;
            Some("could not be fetched".to_owned())
        };
        self.tell_worker(node, WorkerEvent::StoreDone { job, roots, error })
    }
}

/// What an attempt is to work on.
fn read(assignment: &Assignment) -> (&[u8], Vec<Input>) {
    let (Payload::Inline(body), Payload::Inline(inputs)) = (&assignment.body, &assignment.inputs)
    else {
        unreachable!("the simulator leaves payloads inline")
    };
    (body, serde_json::from_slice(inputs).expect("inputs decode"))
}
