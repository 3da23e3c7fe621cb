//! The life of an attempt between its assignment and its end: renewals, leases, time-outs, and
//! peers that come, go, and are avoided.

use std::time::Duration;

use super::faults::Fault;
use super::finish::Finish;
use super::limits::{REASON_LIMIT, back_off};
use super::rank::Unfit;
use super::reports::clip;
use super::state::{Fate, Live, Made, Outgrown, Peer, TaskState, Timer};
use super::types::PeerFacts;
use super::{Engine, rank};
use crate::ids::{Attempt, PeerId, TaskId};
use crate::kind::Failure;
use crate::log::Log;
use crate::message::{ControllerNote, FailureClass, Held, Outcome};

/// The code of an attempt that its worker was lost with.
pub(super) const WORKER_LOST: &str = "IPDC-5101";
/// The code of an attempt that did not get on.
const NO_PROGRESS: &str = "IPDC-5102";

impl Engine {
    pub(super) fn on_note(&mut self, from: PeerId, note: ControllerNote) {
        if matches!(note, ControllerNote::Renew { .. } | ControllerNote::Report { .. })
            && let Some(known) = self.peers.get_mut(&from)
            && std::mem::take(&mut known.is_unwilling)
        {
            self.choose();
        }
        match note {
            ControllerNote::Renew { held, granted, .. } => {
                self.note_granted(from, granted);
                self.on_renew(from, &held);
            }
            ControllerNote::Report { reports } => {
                for report in reports {
                    self.on_report(from, report);
                }
            }
            ControllerNote::Refused { reason } => self.on_refused(from, reason),
            ControllerNote::Stored { roots, error } => self.on_stored(from, &roots, error),
            // Said by a worker that has nothing of a job: an answer to a query.
            ControllerNote::Gone => self.mark_answered(from),
        }
    }

    pub(super) fn on_peer_up(&mut self, peer: PeerId, facts: PeerFacts) {
        let now = self.now;
        let job = self.plan.job;
        let facts = rank::for_job(facts, &self.plan.needs);
        let known = self.peers.entry(peer).or_insert_with(|| {
            // Down until a moment ago, so that it counts as news.
            let mut known = Peer::new(rank::rank(&job, &peer), facts.clone(), now);
            known.down_since = Some(now);
            known
        });
        if known.is_up() && known.facts == facts {
            return;
        }
        let came_back = !known.is_up();
        // It refused, was stopping or paused; it may have been set up anew.
        let may_be_willing =
            came_back || (known.facts.refuses.is_some() && facts.refuses.is_none());
        known.facts = facts;
        known.down_since = None;
        known.gone = false;
        if came_back {
            known.answered = false;
            known.is_unwilling = false;
        }
        if may_be_willing && known.refusal.take().is_some() {
            known.blocked_until = None;
        }
        if self.recovered && self.started {
            self.query(peer);
        }
        self.choose();
    }

    pub(super) fn on_peer_down(&mut self, peer: PeerId) {
        let now = self.now;
        let Some(known) = self.peers.get_mut(&peer).filter(|known| known.is_up()) else { return };
        known.down_since = Some(now);
        self.timer(now + self.plan.limits.down_grace, Timer::Peer(peer));
        self.unassigned = true;
    }

    /// A peer's grace, its block, or the patience with its outputs may be over.
    pub(super) fn look_at_peer(&mut self, peer: PeerId) {
        let limits = &self.plan.limits;
        let (grace, patience) = (limits.down_grace, limits.holder_gone);
        let now = self.now;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.blocked_until.is_some_and(|until| until <= now) {
            known.blocked_until = None;
            known.refusal = None;
        }
        if let Some(since) = known.down_since {
            let gone_at = since + grace;
            let given_up_at = since + grace.max(patience);
            let is_news = !known.gone && now >= gone_at;
            known.gone |= is_news;
            let held = known.held.clone();
            if now < given_up_at {
                let due = if now < gone_at { gone_at } else { given_up_at };
                self.timer(due, Timer::Peer(peer));
            }
            if is_news && !self.planted.has(Fault::TrustsDeadWorkers) {
                held.into_iter().for_each(|(task, attempt)| self.lose_attempt(task, attempt));
            }
            if now >= given_up_at {
                self.lose_outputs_of(peer);
            }
        }
        self.choose();
        self.look_at_finish();
    }

    /// A peer is gone for long: what only it had and somebody still needs is lost.
    fn lose_outputs_of(&mut self, peer: PeerId) {
        if !matches!(self.finish, Finish::Working) {
            return;
        }
        let lost: Vec<TaskId> = (0..self.tasks.len() as u32)
            .map(TaskId)
            .filter(|task| {
                let state = self.task(*task);
                let Some(commit) = &state.commit else { return false };
                let within_reach =
                    |p: &PeerId| *p != peer && self.peers.get(p).is_some_and(|p| !p.gone);
                state.state == TaskState::Committed
                    && commit.cost.bytes_out > 0
                    && commit.holders.contains(&peer)
                    && !commit.holders.iter().any(within_reach)
                    && self.is_needed(*task)
            })
            .collect();
        lost.into_iter().for_each(|task| self.lose_output(task));
    }

    /// A worker says how many attempts of this job's owner it runs at a time.
    fn note_granted(&mut self, from: PeerId, granted: Option<u32>) {
        if let Some(peer) = self.peers.get_mut(&from)
            && std::mem::replace(&mut peer.granted, granted) != granted
        {
            self.unassigned = true;
        }
    }

    /// A worker says what it holds.
    fn on_renew(&mut self, from: PeerId, held: &[Held]) {
        self.mark_answered(from);
        for held in held {
            if held.task.0 as usize >= self.tasks.len() {
                continue;
            }
            if !self.renew(from, held) && !self.take_back(from, held) {
                self.blame_if_lied(from, held.task, held.attempt);
                self.outbox.revoked.entry(from).or_default().push((held.task, held.attempt));
            }
        }
    }

    /// Renews a live attempt. False when it is not one of this worker's.
    fn renew(&mut self, from: PeerId, held: &Held) -> bool {
        let (now, lease) = (self.now, self.plan.limits.lease);
        let task = self.task_mut(held.task);
        if task.made.get(&held.attempt).is_none_or(|made| made.worker != from) {
            return false;
        }
        let Some(live) = task.live_mut(held.attempt) else { return false };
        live.acked = true;
        live.lease_until = now + lease;
        let said_more = held.item.is_some() && held.item != live.item;
        live.item = held.item;
        let got_further =
            said_more || held.done > live.done || held.running != live.running_since.is_some();
        if got_further {
            live.progress_at = now;
            live.done = live.done.max(held.done);
            live.running_since = if held.running { live.running_since.or(Some(now)) } else { None };
            self.got_further();
            self.unassigned = true;
        }
        true
    }

    /// Takes back an attempt that was given up, or that an earlier term made, while nobody else
    /// has its task.
    fn take_back(&mut self, from: PeerId, held: &Held) -> bool {
        let known = match self.task(held.task).made.get(&held.attempt) {
            Some(made) => made.worker == from && matches!(made.fate, Fate::Lost),
            None => self.is_of_earlier_term(from, held.task, held.attempt, held.proof),
        };
        let task = self.task(held.task);
        let is_free = task.state == TaskState::Open && task.live().next().is_none();
        let is_newer = task.last_commit.max(task.outdated) < Some(held.attempt);
        let is_peer = self.peers.contains_key(&from);
        let is_working = matches!(self.finish, Finish::Working);
        if !(known && is_free && is_newer && is_peer && is_working)
            || self.is_missing_input(held.task)
        {
            return false;
        }
        self.dequeue(held.task);
        let now = self.now;
        let live = Live {
            assigned_at: now,
            acked: true,
            running_since: held.running.then_some(now),
            lease_until: now + self.plan.limits.lease,
            resend_at: now,
            sends: 0,
            progress_at: now,
            done: held.done,
            item: held.item,
        };
        let due = live.lease_until;
        let made = Made { worker: from, fate: Fate::Live(live) };
        self.task_mut(held.task).made.insert(held.attempt, made);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.held.push((held.task, held.attempt));
        }
        self.counters.adopted += 1;
        self.got_further();
        self.timer(due, Timer::Attempt(held.task, held.attempt));
        true
    }

    /// Whether a task that it needs has no output.
    pub(super) fn is_missing_input(&self, task: TaskId) -> bool {
        self.task(task).group.is_some_and(|group| self.groups[group].missing > 0)
    }

    fn mark_answered(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer)
            && !std::mem::replace(&mut peer.answered, true)
        {
            self.unassigned = true;
        }
    }

    /// An attempt's lease, its next sending, or the patience with it may be due.
    pub(super) fn look_at_attempt(&mut self, task: TaskId, attempt: Attempt) {
        let (now, limits) = (self.now, &self.plan.limits);
        let guest_time = Duration::from_millis(self.plan.manifest.limits.time_ms);
        let patience = guest_time + limits.attempt_grace;
        let (resend, resend_max) = (limits.resend, limits.resend_max);
        let is_up = |peer: &PeerId| self.peers.get(peer).is_some_and(|peer| peer.is_up());
        let state = &mut self.tasks[task.0 as usize];
        let Some(Made { worker, fate: Fate::Live(live) }) = state.made.get_mut(&attempt) else {
            return;
        };
        let worker = *worker;
        if live.lease_until <= now {
            if self.planted.has(Fault::TrustsDeadWorkers) {
                live.lease_until = now + limits.lease;
                self.timer(now + self.plan.limits.lease, Timer::Attempt(task, attempt));
                return;
            }
            self.strike(worker);
            self.lose_attempt(task, attempt);
            return;
        }
        if live.running_since.is_some() && live.progress_at + patience <= now {
            self.outbox.revoked.entry(worker).or_default().push((task, attempt));
            let message = format!("no progress for {} s", patience.as_secs());
            let outcome = Outcome::Failed {
                class: FailureClass::Worker,
                code: NO_PROGRESS.to_owned(),
                message,
                log: Log::default(),
            };
            self.end_attempt(task, attempt, worker, outcome);
            return;
        }
        let mut due = live.lease_until;
        if live.running_since.is_some() {
            due = due.min(live.progress_at + patience);
        }
        if !live.acked {
            if live.resend_at <= now {
                live.resend_at = now + back_off(resend, resend_max, live.sends);
                live.sends += 1;
                if is_up(&worker) && !self.planted.has(Fault::NeverResends) {
                    self.counters.resends += 1;
                    self.outbox.assigned.entry(worker).or_default().push((task, attempt));
                }
            }
            due = due.min(live.resend_at);
        }
        self.timer(due, Timer::Attempt(task, attempt));
    }

    /// An attempt was not heard of in time, or its worker is gone.
    fn lose_attempt(&mut self, task: TaskId, attempt: Attempt) {
        let state = self.task_mut(task);
        let Some(live) = state.live_mut(attempt) else { return };
        let was_running = live.acked && live.running_since.is_some();
        self.counters.lost_attempts += 1;
        let Some(worker) = self.close(task, attempt, Fate::Lost) else { return };
        if self.task(task).state != TaskState::Open {
            return;
        }
        let (message, log) = ("its worker was lost", Log::default());
        self.note_failure(task, attempt, worker, None, WORKER_LOST, message, log);
        let limits = &self.plan.limits;
        let (retry, retry_max, most) = (limits.retry, limits.retry_max, limits.deaths);
        let now = self.now;
        let state = self.task_mut(task);
        if was_running {
            state.tries.deaths += 1;
        }
        let deaths = state.tries.deaths;
        if deaths >= most {
            let message = format!("task {task} was running on {deaths} workers when each was lost");
            let (code, log) = (WORKER_LOST.to_owned(), Log::default());
            self.give_up(task, Failure { code, message, log });
            return;
        }
        // The first loss is nobody's doing; a task that keeps losing its workers waits longer.
        let pause =
            if deaths < 2 { Duration::ZERO } else { back_off(retry, retry_max, deaths - 1) };
        self.retry(task, now + pause);
    }

    /// Ends a live attempt with this fate and gives its worker. Its worker's next waiting attempt
    /// is taken to run now.
    pub(super) fn close(&mut self, task: TaskId, attempt: Attempt, fate: Fate) -> Option<PeerId> {
        self.task_mut(task).live_mut(attempt)?;
        let made = self.task_mut(task).made.get_mut(&attempt)?;
        made.fate = fate;
        let worker = made.worker;
        let now = self.now;
        let peer = self.peers.get_mut(&worker)?;
        peer.held.retain(|held| *held != (task, attempt));
        peer.last_end = now;
        let held = peer.held.clone();
        let slots = peer.slots();
        for (other, attempt) in held.into_iter().take(slots) {
            if let Some(live) = self.task_mut(other).live_mut(attempt)
                && live.running_since.is_none()
            {
                live.running_since = Some(now);
                live.progress_at = now;
            }
        }
        self.unassigned = true;
        Some(worker)
    }

    /// Takes an attempt away from its worker.
    pub(super) fn revoke(&mut self, task: TaskId, attempt: Attempt, worker: PeerId) {
        self.close(task, attempt, Fate::Closed);
        self.outbox.revoked.entry(worker).or_default().push((task, attempt));
    }

    /// Queues a task at `at`, or now.
    pub(super) fn retry(&mut self, task: TaskId, at: Duration) {
        if at > self.now {
            self.task_mut(task).retry_at = Some(at);
            self.timer(at, Timer::Retry(task));
        } else {
            self.enqueue(&[task]);
        }
    }

    /// A worker will not work for this job: its attempts go elsewhere.
    fn on_refused(&mut self, from: PeerId, reason: String) {
        self.mark_answered(from);
        let Some(peer) = self.peers.get(&from) else { return };
        let held = peer.held.clone();
        self.refuse(from, reason);
        self.keeper_refused(from);
        for (task, attempt) in held {
            self.close(task, attempt, Fate::Closed);
            self.retry(task, self.now);
        }
        self.choose();
    }

    /// Avoids a peer that does not want work, until it comes back or has been left alone for a
    /// while. To ask costs two messages, and its answer may depend on the hour: unlike
    /// [`Engine::block`], the pause does not grow.
    pub(super) fn refuse(&mut self, peer: PeerId, reason: String) {
        let until = self.now + self.plan.limits.block;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let reason = clip(&reason, REASON_LIMIT);
        known.last_refusal = Some(reason.clone());
        known.refusal = Some(reason);
        known.is_unwilling = true;
        known.blocked_until = known.blocked_until.max(Some(until));
        self.counters.blocks += 1;
        self.timer(until, Timer::Peer(peer));
        self.choose();
    }

    /// A worker failed where it should not have. Three times, and this job avoids it for a while.
    pub(super) fn strike(&mut self, peer: PeerId) {
        let most = self.plan.limits.strikes;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.strikes += 1;
        if known.strikes >= most {
            known.strikes = 0;
            self.block(peer);
        }
    }

    /// Avoids a peer for a while, longer each time. What it holds it may finish.
    pub(super) fn block(&mut self, peer: PeerId) {
        let (first, longest) = (self.plan.limits.block, self.plan.limits.block_max);
        let now = self.now;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.is_blocked(now) {
            return;
        }
        known.blocks += 1;
        let until = now + back_off(first, longest, known.blocks);
        known.blocked_until = Some(until);
        self.counters.blocks += 1;
        self.timer(until, Timer::Peer(peer));
        self.choose();
    }

    /// The job's code did not fit on `peer`: it goes to larger ones only.
    pub(super) fn outgrow(&mut self, peer: PeerId, message: String) {
        let Some(PeerFacts { memory, slots, .. }) = self.peers.get(&peer).map(|known| &known.facts)
        else {
            return;
        };
        let outgrown = Outgrown { peer, memory: *memory, slots: *slots, message };
        self.outgrown.retain(|other| other.peer != peer);
        self.outgrown.push(outgrown);
        self.choose();
    }

    /// Whether a peer can work for the job, whatever state it is in.
    pub(super) fn fit(&self, peer: &Peer) -> Result<(), Unfit> {
        rank::fit(&peer.facts, &self.plan.needs, self.plan.manifest.limits.memory)?;
        let of_like = self.outgrown.iter().filter(|outgrown| outgrown.covers(&peer.facts));
        // Its own word holds for a peer, and that of two for others: one alone may say anything.
        let is_its_own =
            |outgrown: &Outgrown| rank::rank(&self.plan.job, &outgrown.peer) == peer.rank;
        if of_like.clone().count() > 1 || of_like.clone().any(is_its_own) {
            return Err(Unfit::Outgrown);
        }
        Ok(())
    }

    /// Whether no peer that would run the job ever can, for want of memory.
    pub(super) fn is_too_small_a_swarm(&self) -> bool {
        let is_small =
            |peer: &Peer| matches!(self.fit(peer), Err(Unfit::TooSmall | Unfit::Outgrown));
        // Who is away and would do may come back; of it one worker's word has to do.
        let is_like = |peer: &Peer| self.outgrown.iter().any(|o| o.covers(&peer.facts));
        let is_out = |peer: &Peer| self.fit(peer).is_err() || peer.gone && is_like(peer);
        self.peers.values().all(|peer| peer.is_unwilling || is_out(peer))
            && self.peers.values().any(|peer| !peer.gone && is_small(peer))
    }

    /// The driver slept: nobody else is to blame for that time.
    pub(super) fn postpone(&mut self, by: Duration) {
        for made in self.tasks.iter_mut().flat_map(|task| task.made.values_mut()) {
            if let Fate::Live(live) = &mut made.fate {
                live.lease_until += by;
                live.progress_at += by;
            }
        }
        for peer in self.peers.values_mut() {
            peer.down_since = peer.down_since.map(|since| since + by);
        }
        self.progress_at += by;
        self.too_small_since = self.too_small_since.map(|since| since + by);
    }

    /// The job got further.
    pub(super) fn got_further(&mut self) {
        self.progress_at = self.now;
    }

    pub(super) fn watch_for_stall(&mut self) {
        let limits = &self.plan.limits;
        let stalled_at = self.progress_at + limits.stall;
        let given_up_at = self.too_small_since.map(|since| since + limits.too_small);
        self.timer(given_up_at.map_or(stalled_at, |at| at.min(stalled_at)), Timer::Stall);
    }
}
