//! The controllers' side: engines, their journals, the building of results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Gifts, Happening, Wire, World};
use crate::engine::{Action, Engine, Event, GiftKey, JobPlan, Kept, Needs, Output, Record};
use crate::ids::{Attempt, CODEC_RAW, Cid, Epoch, FileRef, JobId, PeerId, TaskId, cid_of};
use crate::kind::Kind;
use crate::message::{Payload, ToWorker, WorkerOrder};
use crate::sim::growing::{self, Growing};
use crate::sim::laws::Broken;
use crate::sim::work::{self, Hashing};

impl World {
    pub(super) fn submit(&mut self, job: usize) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        if self.nodes[controller].worker.is_none() {
            self.at(Duration::from_secs(1), Happening::Submit(job));
            return Ok(());
        }
        self.jobs[job].is_submitted = true;
        self.tally.jobs += 1;
        self.tally.growing += u64::from(self.jobs[job].draw.growing.is_some());
        if self.jobs[job].draw.epoch_written {
            let record = Record::Epoch { epoch: Epoch(1) };
            self.jobs[job].laws.on_append(&record)?;
            self.jobs[job].journal.push(record);
        }
        self.start_engine(job, Epoch(1))
    }

    /// Hints of who gave the outputs last, right or wrong, for half of the terms.
    fn draw_warm(&mut self, job: usize) -> BTreeMap<TaskId, PeerId> {
        let tasks = self.jobs[job].tasks.len() as u32;
        if self.rng.chance(500) {
            return BTreeMap::new();
        }
        let nodes = self.nodes.len();
        (0..tasks).map(|task| (TaskId(task), self.nodes[self.rng.index(nodes)].id)).collect()
    }

    pub(super) fn start_engine(&mut self, job: usize, epoch: Epoch) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let peers = (0..self.nodes.len())
            .filter(|node| self.is_linked(controller, *node))
            .map(|node| (self.nodes[node].id, self.facts(node)))
            .collect();
        let warm = self.draw_warm(job);
        let known = &self.jobs[job];
        let plan = JobPlan {
            job: known.id,
            epoch,
            controller: self.nodes[controller].id,
            manifest_file: FileRef { cid: known.manifest.code, len: 1 },
            manifest: known.manifest.clone(),
            tasks: known.tasks.clone(),
            kind: known.kind(),
            needs: Needs { takes: known.draw.takes, ..Needs::default() },
            peers,
            warm,
            kept: known.reader(),
            secret: *b"known to no node but controllers",
            limits: self.scenario.limits.clone(),
        };
        let now = self.now + self.nodes[controller].ahead;
        let journal = known.journal.clone();
        self.jobs[job].laws.on_recovery(&journal);
        let (mut engine, actions) = Engine::new(plan, now, journal);
        if let Some(fault) = self.scenario.planted {
            engine = engine.with_fault(fault);
        }
        self.jobs[job].engine = Some(engine);
        self.carry_out(job, actions)?;
        self.plan_engine_wake(job);
        Ok(())
    }

    pub(super) fn tell_engine(&mut self, job: usize, event: Event) -> Result<(), Broken> {
        let actions = self.apply_to_engine(job, event);
        self.carry_out(job, actions)
    }

    pub(super) fn apply_to_engine(&mut self, job: usize, event: Event) -> Vec<Action> {
        let now = self.now + self.nodes[self.jobs[job].draw.controller].ahead;
        let Some(engine) = &mut self.jobs[job].engine else { return Vec::new() };
        let actions = engine.apply(now, event);
        engine.check();
        self.plan_engine_wake(job);
        actions
    }

    pub(super) fn plan_engine_wake(&mut self, job: usize) {
        let ahead = self.nodes[self.jobs[job].draw.controller].ahead;
        let life = self.controller_life(job);
        let now = self.now;
        let known = &mut self.jobs[job];
        let Some(due) = known.engine.as_ref().and_then(Engine::next_wake) else { return };
        let due = due.saturating_sub(ahead).max(now);
        if known.wake_at.is_none_or(|at| due < at) {
            known.wake_at = Some(due);
            self.at(due - now, Happening::WakeEngine { job, life });
        }
    }

    pub(super) fn carry_out(&mut self, job: usize, actions: Vec<Action>) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let life = self.controller_life(job);
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    self.watch_order(job, to, &message)?;
                    self.send(controller, to, Wire::Order(message));
                }
                Action::Append { seq, record } => {
                    self.watch_commit(job, &record);
                    let pause = self.rng.millis(0, 20);
                    let now = self.now;
                    let known = &mut self.jobs[job];
                    known.laws.on_append(&record)?;
                    if let Record::Committed { task, attempt, .. } = &record
                        && !known.laws.was_started(*task, *attempt)
                    {
                        // What the controller gave itself is in its journal.
                        self.nodes[controller].scratch.insert((known.id, *task));
                    }
                    assert_eq!(seq, (known.journal.len() + known.unwritten.len()) as u64);
                    known.unwritten.push_back((seq, record));
                    known.written_by = known.written_by.max(now + pause);
                    let pause = known.written_by - now;
                    self.at(pause, Happening::Journaled { job, life, seq });
                }
                Action::Build { outputs, report } => {
                    let report = serde_json::to_vec(&report).expect("a report encodes");
                    let report = cid_of(CODEC_RAW, &report);
                    let pause = self.rng.millis(5, 300);
                    self.at(pause, Happening::Built { job, life, outputs, report });
                }
                Action::Read { task, attempt, file, holders } => {
                    let pause = self.rng.millis(1, 100);
                    self.at(pause, Happening::Read { job, life, task, attempt, file, holders });
                }
                Action::Given { ticket, first } => self.given(job, ticket, first)?,
                Action::Withdrawn { items, .. } => self.withdrawn(job, &items)?,
                Action::Blame { peer, .. } => self.blamed(peer)?,
                Action::Ended(end) => self.jobs[job].laws.on_told(&end)?,
                Action::Over => {
                    let engine = self.jobs[job].engine.take();
                    self.tally.note_engine(engine.as_ref());
                    self.jobs[job].over = self.jobs[job].laws.epoch();
                }
            }
        }
        Ok(())
    }

    pub(super) fn watch_order(
        &mut self,
        job: usize,
        to: PeerId,
        message: &ToWorker,
    ) -> Result<(), Broken> {
        let hostile = self.scenario.hostile.map(|node| self.nodes[node].id);
        if let WorkerOrder::Assign { assignments, .. } = &message.body
            && hostile == Some(to)
        {
            let keys = assignments.iter().map(|given| (job, given.task, given.attempt));
            self.given_to_hostile.extend(keys);
        }
        if let WorkerOrder::Settled { attempts } = &message.body
            && !self.deceived.contains(&job)
        {
            for (task, attempt) in attempts {
                self.jobs[job].laws.on_settled(to, *task, *attempt)?;
            }
        }
        Ok(())
    }

    pub(super) fn journaled(&mut self, job: usize, seq: u64) -> Result<(), Broken> {
        let known = &mut self.jobs[job];
        while let Some((first, _)) = known.unwritten.front()
            && *first <= seq
            && let Some((_, record)) = known.unwritten.pop_front()
        {
            known.laws.on_durable(&record);
            known.journal.push(record);
        }
        self.tell_engine(job, Event::Appended { seq })
    }

    pub(super) fn built(
        &mut self,
        job: usize,
        outputs: &[Output],
        report: Cid,
    ) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        if self.are_faults_on && self.rng.chance(50) {
            self.tally.failed_builds += 1;
            let message = "the disk hiccuped".to_owned();
            let event = Event::BuildFailed { lost: Vec::new(), message };
            return self.tell_engine(job, event);
        }
        let id = self.jobs[job].id;
        let lost: Vec<TaskId> = outputs
            .iter()
            .filter(|output| !self.can_read(controller, id, output.task, &output.holders))
            .map(|output| output.task)
            .collect();
        if !lost.is_empty() {
            let message = "outputs are gone".to_owned();
            return self.tell_engine(job, Event::BuildFailed { lost, message });
        }
        let outputs: Vec<(TaskId, Payload)> =
            outputs.iter().map(|output| (output.task, output.payload.clone())).collect();
        let result = match self.jobs[job].draw.growing {
            Some(_) => growing::result_of(outputs.iter().map(|(_, output)| output)),
            None => work::result_of(&outputs),
        };
        self.nodes[controller].pinned.extend([result, report]);
        self.tell_engine(job, Event::ResultBuilt { result, report })
    }

    pub(super) fn can_read(
        &self,
        reader: usize,
        job: JobId,
        task: TaskId,
        holders: &[PeerId],
    ) -> bool {
        let of = self.job_index(job).map(|job| (job, task));
        let is_forged = of.is_some_and(|of| self.forged.contains(&of));
        holders.iter().filter_map(|holder| self.index.get(holder)).any(|holder| {
            let has_it = self.nodes[*holder].scratch.contains(&(job, task));
            let is_lie = is_forged && self.scenario.hostile == Some(*holder);
            self.is_linked(reader, *holder) && has_it && !is_lie
        })
    }
}

impl super::Job {
    fn kind(&self) -> &'static dyn Kind {
        if self.draw.growing.is_some() { &Growing } else { &Hashing }
    }

    /// What its controller keeps of it, as it is now.
    fn reader(&self) -> Kept {
        let kept = self.kept.clone();
        Arc::new(move |file| kept.get(&file.cid).cloned())
    }
}

impl World {
    /// An output is fetched to the controller, and kept there.
    pub(super) fn read(
        &mut self,
        job: usize,
        task: TaskId,
        attempt: Attempt,
        file: FileRef,
        holders: &[PeerId],
    ) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let is_there = self.can_read(controller, self.jobs[job].id, task, holders);
        let has_luck = !(self.are_faults_on && self.rng.chance(100));
        let output = if is_there && has_luck {
            self.tally.reads += 1;
            let bytes = growing::bytes_of(&self.jobs[job].roots(), file.cid);
            let bytes = bytes.expect("an honest worker names what a task gives");
            self.jobs[job].kept.insert(file.cid, bytes.clone());
            Ok(bytes)
        } else {
            self.tally.failed_reads += 1;
            Err("could not be fetched".to_owned())
        };
        self.tell_engine(job, Event::Read { task, attempt, output })
    }

    /// The submitter gives what it was not yet told is taken, then closes the job. It says all that
    /// again until it is told, or the job is over.
    pub(super) fn give(&mut self, job: usize) -> Result<(), Broken> {
        let Some(gifts) = &self.jobs[job].gifts else { return Ok(()) };
        let Gifts { first, end, taken } = gifts.clone();
        let pause = self.rng.millis(200, 4_000);
        self.at(pause, Happening::Give { job });
        let Some(n) = (first..end).find(|n| !taken.contains_key(n)) else {
            return self.tell_engine(job, Event::Close);
        };
        self.give_root(job, n)?;
        let (ticket, items) = (n.into(), (0..u64::from(n)).collect());
        self.tell_engine(job, Event::Withdraw { ticket, items })?;
        // It may have lost the answer of this one, or of one before.
        for again in [n, first] {
            self.tally.repeated_gifts += 1;
            self.give_root(job, again)?;
        }
        Ok(())
    }

    fn give_root(&mut self, job: usize, n: u32) -> Result<(), Broken> {
        let items = growing::root(n);
        let (key, payload) = (Some(gift_key(n)), Payload::Inline(items.clone()));
        self.tell_engine(job, Event::Give { ticket: n.into(), key, payload, items })
    }

    /// The engine says which trees lost tasks to their withdrawal.
    fn withdrawn(&mut self, job: usize, items: &[u64]) -> Result<(), Broken> {
        let known = &self.jobs[job];
        let own = known.journal.iter().filter(|record| match record {
            Record::Committed { task, attempt, .. } => !known.laws.was_started(*task, *attempt),
            _ => false,
        });
        if own.count() < items.len() {
            return Err(Broken::TakenTooEarly);
        }
        self.tally.withdrawn += items.len() as u64;
        Ok(())
    }

    /// The engine says whether it has what was given, and from which item on.
    fn given(&mut self, job: usize, ticket: u64, first: Result<u64, String>) -> Result<(), Broken> {
        let known = &mut self.jobs[job];
        let Ok(first) = first else { return Ok(()) };
        let n = ticket as u32;
        let (items, key) = (Payload::Inline(growing::root(n)), Some(gift_key(n)));
        if !known.journal.contains(&Record::Given { items, key }) {
            return Err(Broken::TakenTooEarly);
        }
        let gifts = known.gifts.as_mut().expect("it was given something");
        match gifts.taken.insert(n, first) {
            Some(before) if before != first => Err(Broken::OtherFirst(before, first)),
            before => {
                self.tally.gifts += u64::from(before.is_none());
                Ok(())
            }
        }
    }
}

fn gift_key(n: u32) -> GiftKey {
    n.to_string().parse().expect("a number is a key")
}
