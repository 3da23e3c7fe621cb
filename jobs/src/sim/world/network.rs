//! The network: what is lost, doubled, late, out of order, split; and what peers believe of it.

use std::time::Duration;

use super::workers::PAUSED;
use super::{Happening, Wire, World};
use crate::engine::{Action, Engine, Event, PeerFacts, WorkerAction, WorkerEvent};
use crate::ids::PeerId;
use crate::message::{ControllerNote, ToController, ToWorker, WorkerOrder};
use crate::sim::laws::Broken;
use crate::sim::scenario;

impl World {
    pub(super) fn is_linked(&self, a: usize, b: usize) -> bool {
        let is_up = |node: usize| self.nodes[node].worker.is_some();
        let is_split = self.sides.as_ref().is_some_and(|sides| sides[a] != sides[b]);
        is_up(a) && is_up(b) && (a == b || !is_split)
    }

    pub(super) fn send(&mut self, from: usize, to: PeerId, wire: Wire) {
        let Some(&to) = self.index.get(&to) else { return };
        self.tally.messages += 1;
        self.order += 1;
        let seq = self.order;
        let link = (from * self.nodes.len() + to) as u64;
        let is_local = from == to;
        if !is_local && !self.is_linked(from, to) {
            return;
        }
        let is_noisy = self.are_faults_on && !is_local;
        if is_noisy && self.rng.chance(self.scenario.loss) {
            self.tally.lost += 1;
            return;
        }
        let copies = if is_noisy && self.rng.chance(self.scenario.doubling) { 2 } else { 1 };
        self.tally.doubled += copies - 1;
        let most = if is_noisy { self.scenario.delay.as_micros() as u64 } else { 2_000 };
        for _ in 0..copies {
            // Most messages are quick; the slow ones overtake nobody.
            let micros = if self.rng.chance(800) { most / 20 } else { most };
            let pause = Duration::from_micros(self.rng.between(50, micros.max(51)));
            let wire = wire.clone();
            self.at(pause, Happening::Deliver { link, seq, from, to, wire });
        }
    }

    pub(super) fn deliver(
        &mut self,
        link: u64,
        seq: u64,
        from: usize,
        to: usize,
        wire: Wire,
    ) -> Result<(), Broken> {
        if self.nodes[to].worker.is_none() {
            return Ok(());
        }
        let newest = self.arrived.entry(link).or_default();
        self.tally.reordered += u64::from(*newest > seq);
        *newest = seq.max(*newest);
        let from = self.nodes[from].id;
        match wire {
            Wire::Order(message) => self.deliver_order(to, from, message),
            Wire::Note(body) => self.deliver_note(to, from, body),
        }
    }

    pub(super) fn deliver_order(
        &mut self,
        to: usize,
        from: PeerId,
        message: ToWorker,
    ) -> Result<(), Broken> {
        let worker = self.nodes[to].worker.as_ref();
        let seen = worker.and_then(|worker| worker.epoch_of(message.job));
        let is_old = seen > Some(message.epoch);
        if !is_old {
            return self.tell_worker(to, WorkerEvent::Message { from, message });
        }
        // Whatever is due goes first, so that nothing but the old message can have an effect.
        self.tally.old_orders += 1;
        self.tell_worker(to, WorkerEvent::Tick)?;
        let actions = self.apply_to_worker(to, WorkerEvent::Message { from, message });
        let is_harmless = |action: &WorkerAction| matches!(action, WorkerAction::Blame { .. });
        let effect = actions.iter().find(|action| !is_harmless(action)).cloned();
        self.perform(to, actions)?;
        match effect {
            Some(action) => Err(Broken::OldEpochObeyed(format!("a worker do {action:?}"))),
            None => Ok(()),
        }
    }

    pub(super) fn deliver_note(
        &mut self,
        to: usize,
        from: PeerId,
        body: ToController,
    ) -> Result<(), Broken> {
        let Some(job) = self.job_index(body.job) else { return Ok(()) };
        if self.jobs[job].draw.controller != to {
            return Ok(());
        }
        if let Some(epoch) = self.jobs[job].over {
            if body.body != ControllerNote::Gone {
                let order = Engine::farewell(body.job, epoch);
                self.send(to, from, Wire::Order(order));
            }
            return Ok(());
        }
        let is_old = self.jobs[job].laws.epoch() > Some(body.epoch);
        if !is_old || self.jobs[job].engine.as_ref().is_none_or(|engine| engine.end().is_some()) {
            return self.tell_engine(job, Event::Message { from, body });
        }
        self.tally.old_notes += 1;
        self.tell_engine(job, Event::Tick)?;
        let actions = self.apply_to_engine(job, Event::Message { from, body });
        let is_harmless = |action: &Action| matches!(action, Action::Send { message, .. } if message.body == WorkerOrder::Query);
        if let Some(action) = actions.iter().find(|action| !is_harmless(action)) {
            return Err(Broken::OldEpochObeyed(format!("a controller do {action:?}")));
        }
        self.carry_out(job, actions)
    }

    /// What a peer and a controller believe about their connection, after a while.
    pub(super) fn hint_all(&mut self) {
        for job in 0..self.jobs.len() {
            for node in 0..self.nodes.len() {
                let pause = self.rng.millis(1, 500);
                self.at(pause, Happening::Hint { job, node });
            }
        }
    }

    pub(super) fn hint_about(&mut self, node: usize) {
        for job in 0..self.jobs.len() {
            if self.jobs[job].draw.controller == node {
                for other in 0..self.nodes.len() {
                    let pause = self.rng.millis(1, 500);
                    self.at(pause, Happening::Hint { job, node: other });
                }
            } else {
                let pause = self.rng.millis(1, 500);
                self.at(pause, Happening::Hint { job, node });
            }
        }
    }

    pub(super) fn hint(&mut self, job: usize, node: usize) -> Result<(), Broken> {
        let controller = self.jobs[job].draw.controller;
        let is_linked = self.is_linked(controller, node);
        let lives = (self.nodes[controller].life, self.nodes[node].life);
        let belief = (is_linked, lives.0, lives.1, self.nodes[node].is_paused);
        if self.jobs[job].beliefs.insert(node, belief) == Some(belief) {
            return Ok(());
        }
        let peer = self.nodes[node].id;
        let facts = self.facts(node);
        let event =
            if is_linked { Event::PeerUp { peer, facts } } else { Event::PeerDown { peer } };
        self.tell_engine(job, event)?;
        let peer = self.nodes[controller].id;
        let event =
            if is_linked { WorkerEvent::PeerUp { peer } } else { WorkerEvent::PeerDown { peer } };
        self.tell_worker(node, event)
    }

    /// Every other node has GPUs, and those of controllers: no job waits for one in vain.
    pub(super) fn gpus(&self, node: usize) -> Vec<u64> {
        let is_controller = self.jobs.iter().any(|job| job.draw.controller == node);
        if node.is_multiple_of(2) || is_controller { scenario::GPUS.to_vec() } else { Vec::new() }
    }

    pub(super) fn facts(&self, node: usize) -> PeerFacts {
        PeerFacts {
            slots: self.nodes[node].slots,
            cpus: scenario::CPUS,
            gpus: self.gpus(node),
            memory: self.nodes[node].memory,
            refuses: self.nodes[node].is_paused.then(|| PAUSED.to_owned()),
            ..PeerFacts::default()
        }
    }
}
