//! What a hostile member says. It is admitted, so that everybody hears it; it works for jobs as any
//! node does; and between that it gives orders for jobs that it does not control and tells
//! controllers of attempts that it was not given, true epochs and manifests included. Whatever it
//! says, no job may end otherwise, and nobody but it may be blamed.

use std::time::Duration;

use bytes::Bytes;

use super::{Happening, Wire, World};
use crate::engine::Record;
use crate::ids::{Attempt, CODEC_RAW, Epoch, FileRef, PeerId, TaskId, cid_of};
use crate::log::Log;
use crate::message::{
    Assignment, ControllerNote, Cost, FailureClass, Held, Outcome, Payload, Proof, Report,
    ToController, ToWorker, WorkerOrder,
};
use crate::sim::laws::Broken;

/// The manifest that it shows instead of a job's own.
pub(super) fn forged_manifest() -> FileRef {
    FileRef { cid: cid_of(CODEC_RAW, b"forged"), len: 6 }
}

/// What it says that a task gave.
fn forged_output() -> Payload {
    Payload::Inline(Bytes::from_static(b"forged"))
}

impl World {
    /// It says something, and will again.
    pub(super) fn malice(&mut self) {
        let Some(hostile) = self.scenario.hostile.filter(|_| self.are_faults_on) else { return };
        let pause = Duration::from_millis(self.malice.between(1, 400));
        self.at(pause, Happening::Malice);
        if self.nodes[hostile].worker.is_none() {
            return;
        }
        let job = self.malice.index(self.jobs.len());
        self.tally.lies += 1;
        if self.malice.chance(400) {
            let to = self.malice.index(self.nodes.len());
            let order = self.false_order(job);
            self.send(hostile, self.nodes[to].id, Wire::Order(order));
        } else {
            let to = self.jobs[job].draw.controller;
            if let Some(note) = self.false_note(job) {
                self.send(hostile, self.nodes[to].id, Wire::Note(note));
            }
        }
    }

    fn false_order(&mut self, job: usize) -> ToWorker {
        let known = &self.jobs[job];
        let true_manifest = FileRef { cid: known.manifest.code, len: 1 };
        let epoch = known.laws.epoch().unwrap_or(Epoch(1));
        let rng = &mut self.malice;
        let manifest = if rng.chance(500) { forged_manifest() } else { true_manifest };
        let epoch = if rng.chance(500) { epoch } else { Epoch(rng.between(0, 9)) };
        let epoch = if rng.chance(100) { Epoch(u64::MAX) } else { epoch };
        let (task, attempt) = self.some_attempt(job);
        let assignment = Assignment {
            task,
            attempt,
            proof: Proof::default(),
            body: Payload::Inline(Bytes::from_static(b"forged")),
            inputs: Payload::Inline(Bytes::from_static(b"[]")),
            holders: Vec::new(),
        };
        let body = match self.malice.between(0, 6) {
            0 | 1 => WorkerOrder::Assign { manifest, lease_ms: 0, assignments: vec![assignment] },
            2 => WorkerOrder::Revoke { attempts: vec![(task, attempt)] },
            3 => WorkerOrder::Settled { attempts: vec![(task, attempt)] },
            4 => WorkerOrder::Query,
            5 => WorkerOrder::Store { manifest, roots: vec![manifest.cid], holders: Vec::new() },
            _ => WorkerOrder::End,
        };
        ToWorker { job: self.jobs[job].id, epoch, body }
    }

    /// None when it would be no lie.
    fn false_note(&mut self, job: usize) -> Option<ToController> {
        let epoch = self.jobs[job].laws.epoch().unwrap_or(Epoch(1));
        let (task, attempt) = self.some_attempt(job);
        let proof = Proof(self.malice.word());
        let is_its_own = self.given_to_hostile.contains(&(job, task, attempt));
        let draw = &self.jobs[job].draw;
        let is_read_by_others = draw.gather > 0 && task.0 < draw.scatter;
        let message = "so it says".to_owned();
        let fail = |class| Outcome::Failed {
            class,
            code: "IPDC-5000".to_owned(),
            message: "so it says".to_owned(),
            log: Log::default(),
        };
        let makes_up = is_its_own && is_read_by_others && self.malice.chance(600);
        let outcome = match if makes_up { 0 } else { self.malice.between(0, 4) } {
            // Of an attempt that is its own, this would have to be believed. What others read they find
            // to be nowhere; the last outputs nobody reads.
            0 if is_its_own && !is_read_by_others => return None,
            1 if is_its_own => return None,
            0 => Outcome::Done {
                output: forged_output(),
                memoized: false,
                counters: Default::default(),
                log: Log::default(),
            },
            1 => fail(FailureClass::Guest),
            2 => fail(FailureClass::Missing),
            3 => fail(FailureClass::TooSmall),
            _ => {
                let tasks = (0..self.jobs[job].tasks.len() as u32).map(TaskId).collect();
                Outcome::InputLost { tasks, message }
            }
        };
        let body = match self.malice.between(0, 9) {
            0 => {
                let done = self.malice.word();
                let held =
                    vec![Held { task, attempt, proof, running: true, done, total: 0, item: None }];
                ControllerNote::Renew { held, free_slots: u32::MAX, granted: None }
            }
            1 => ControllerNote::Stored { roots: vec![forged_manifest().cid], error: None },
            2 => ControllerNote::Gone,
            _ => {
                let cost = Cost { wall_ms: u64::MAX, bytes_out: u64::MAX, ..Cost::default() };
                let report = Report { task, attempt, proof, outcome, cost };
                ControllerNote::Report { reports: vec![report] }
            }
        };
        Some(ToController { job: self.jobs[job].id, epoch, body })
    }

    /// An attempt that there may be; now and then one of its own, or of no task.
    fn some_attempt(&mut self, job: usize) -> (TaskId, Attempt) {
        let tasks = self.jobs[job].tasks.len() as u64;
        let epoch = self.jobs[job].laws.epoch().unwrap_or(Epoch(1));
        let rng = &mut self.malice;
        let its_own: Vec<_> =
            self.given_to_hostile.iter().filter(|(of, _, _)| *of == job).collect();
        if !its_own.is_empty() && rng.chance(300) {
            let (_, task, attempt) = its_own[rng.index(its_own.len())];
            return (*task, *attempt);
        }
        let newest = epoch.0 + u64::from(rng.chance(50));
        let epoch = Epoch(rng.between(epoch.0.saturating_sub(2), newest));
        let attempt = Attempt { epoch, n: rng.between(1, 4) as u32 };
        (TaskId(rng.between(0, tasks) as u32), attempt)
    }

    /// An output is committed: one that the hostile node made up, nobody can read from it.
    pub(super) fn watch_commit(&mut self, job: usize, record: &Record) {
        let Record::Committed { task, worker, output, .. } = record else { return };
        let hostile = self.scenario.hostile.map(|node| self.nodes[node].id);
        if hostile == Some(*worker) && *output == forged_output() {
            self.tally.forged += 1;
            self.forged.insert((job, *task));
            self.deceived.insert(job);
        } else {
            self.forged.remove(&(job, *task));
        }
    }

    /// A machine says that this peer broke the rules.
    pub(super) fn blamed(&mut self, peer: PeerId) -> Result<(), Broken> {
        self.tally.blames += 1;
        let hostile = self.scenario.hostile.map(|node| self.nodes[node].id);
        if hostile == Some(peer) { Ok(()) } else { Err(Broken::BlamedUnjustly(peer)) }
    }
}
