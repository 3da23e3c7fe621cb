//! Queues: where tasks wait, who gets them, and when somebody else takes them.
//!
//! A task that can run waits in the queue of its home. A worker is given as many as it has slots
//! and a few more; the rest waits here, where it costs nothing to change one's mind. A worker with
//! free slots and an empty queue helps out: first with what waits elsewhere, then with what was
//! given out and has not begun, then with a second attempt of what takes far too long.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::rank::Homes;
use super::state::{Fate, Live, Made, TaskState, Timer, Waiting};
use super::{Engine, Finish, Peer};
use crate::ids::{Attempt, PeerId, TaskId};
use crate::message::{Assignment, Input, Payload, Proof, WorkerOrder};

impl Engine {
    /// Picks the peers that work for the job: the first K by rank of those that can. Whoever was
    /// picked stays while it can; others come in at the tail.
    pub(super) fn choose(&mut self) {
        let asked = self.plan.manifest.workers.map_or(usize::MAX, |workers| workers as usize);
        let usable = |peer: &PeerId| {
            let known = self.peers.get(peer);
            known.is_some_and(|p| !p.gone && !p.is_blocked(self.now) && self.fit(p).is_ok())
        };
        let mut chosen = self.chosen.clone();
        chosen.retain(usable);
        let is_new = |peer: &PeerId| usable(peer) && !chosen.contains(peer);
        let others = self.peers.iter().filter(|(peer, _)| is_new(peer));
        let mut others: Vec<_> = others.map(|(peer, known)| (known.rank, *peer)).collect();
        others.sort_unstable();
        let room = asked.saturating_sub(chosen.len());
        chosen.extend(others.into_iter().take(room).map(|(_, peer)| peer));
        let has_changed = chosen != self.chosen;
        self.chosen = chosen;
        if has_changed {
            self.early.forget_homes();
        }
        if has_changed || !self.homeless.is_empty() {
            self.rehome();
        }
        self.unassigned = true;
        if !self.is_too_small_a_swarm() {
            self.too_small_since = None;
        } else if self.too_small_since.is_none() {
            self.too_small_since = Some(self.now);
            self.watch_for_stall();
        }
    }

    /// Gives every waiting task a home anew.
    fn rehome(&mut self) {
        let waiting: Vec<TaskId> = (0..self.tasks.len() as u32)
            .map(TaskId)
            .filter(|task| self.task(*task).waiting.is_some())
            .collect();
        for task in &waiting {
            self.dequeue(*task);
        }
        self.enqueue(&waiting);
    }

    /// Whether a task can be given out now.
    fn is_ready(&self, task: TaskId) -> bool {
        let state = self.task(task);
        state.state == TaskState::Open
            && state.waiting.is_none()
            && state.live().next().is_none()
            && state.retry_at.is_none_or(|at| at <= self.now)
            && !self.is_missing_input(task)
    }

    /// Puts every task that can run into the queue of its home.
    pub(super) fn enqueue_all(&mut self) {
        let all: Vec<TaskId> = (0..self.tasks.len() as u32).map(TaskId).collect();
        self.enqueue(&all);
    }

    /// Puts those of `tasks` that can run into the queues of their homes.
    pub(super) fn enqueue(&mut self, tasks: &[TaskId]) {
        if !self.started || !matches!(self.finish, Finish::Working) {
            return;
        }
        let mut homes: BTreeMap<u16, Homes> = BTreeMap::new();
        for &task in tasks {
            if !self.is_ready(task) {
                continue;
            }
            let stage = self.spec(task).stage;
            let stage_homes = homes.remove(&stage);
            let mut stage_homes = stage_homes.unwrap_or_else(|| self.homes_for(stage, tasks));
            let home = self.place(task, &mut stage_homes);
            homes.insert(stage, stage_homes);
            if let Some(home) = home
                && self.spec(task).stays
            {
                self.keep_place(self.affinity(task), home);
            }
            match home.and_then(|home| self.peers.get_mut(&home)) {
                Some(peer) => peer.queue.insert(task),
                None => self.homeless.insert(task),
            };
            self.task_mut(task).waiting = Some(Waiting { home, since: self.now });
            self.unassigned = true;
        }
    }

    /// The home of a task among `homes` of its stage.
    pub(super) fn place(&self, task: TaskId, homes: &mut Homes) -> Option<PeerId> {
        let spec = self.spec(task);
        let affinity = self.affinity(task);
        let (weight, allowed) = (spec.weight.max(1), |peer: &PeerId| self.may_run(task, peer));
        let kept = if spec.stays { self.place_kept(&affinity) } else { None };
        let warm = kept.or_else(|| self.warm(task)).filter(allowed);
        let taken = warm.and_then(|peer| homes.take(peer, weight));
        taken.or_else(|| homes.place(&affinity, weight, allowed))
    }

    /// Takes a task out of its queue.
    pub(super) fn dequeue(&mut self, task: TaskId) {
        let Some(waiting) = self.task_mut(task).waiting.take() else { return };
        match waiting.home.and_then(|home| self.peers.get_mut(&home)) {
            Some(peer) => peer.queue.remove(&task),
            None => self.homeless.remove(&task),
        };
    }

    /// The peer whose memo should have this task's output.
    pub(super) fn warm(&self, task: TaskId) -> Option<PeerId> {
        let peer = *self.plan.warm.get(&task)?;
        let is_trusted = self.peers.get(&peer).is_some_and(|known| !known.forgot);
        is_trusted.then_some(peer)
    }

    /// Notes whether `worker` gave a task's output from its memo.
    pub(super) fn note_memo(&mut self, task: TaskId, worker: PeerId, memoized: bool) {
        let is_warm = self.warm(task) == Some(worker);
        let most = self.plan.limits.memo_ahead;
        let Some(peer) = self.peers.get_mut(&worker) else { return };
        peer.ahead = if memoized { most.min(peer.ahead + 1) } else { 0 };
        peer.forgot |= is_warm && !memoized;
    }

    /// What draws a task to its home.
    fn affinity(&self, task: TaskId) -> [u8; 32] {
        self.spec(task).affinity.unwrap_or_else(|| self.own_affinity(task))
    }

    /// The homes for `tasks` of a stage. Where tasks follow from results nobody knows how many there will be: then
    /// what is open is shared evenly.
    fn homes_for(&self, stage: u16, tasks: &[TaskId]) -> Homes {
        if !self.has_course() {
            return self.homes_of(stage);
        }
        let weight = |task: &TaskId| self.spec(*task).weight.max(1);
        let load = |peer: &PeerId| {
            let known = self.peers.get(peer)?;
            let held = known.held.iter().map(|(task, _)| weight(task));
            Some((*peer, held.chain(known.queue.iter().map(weight)).sum()))
        };
        let loads: BTreeMap<PeerId, u64> = self.chosen.iter().filter_map(load).collect();
        let total = loads.values().sum::<u64>() + tasks.iter().map(weight).sum::<u64>();
        Homes::new(self.up_with_slots(), &loads, total)
    }

    /// The homes of a stage, loaded with what its tasks already mean for each worker.
    pub(super) fn homes_of(&self, stage: u16) -> Homes {
        let mut loads: BTreeMap<PeerId, u64> = BTreeMap::new();
        for (spec, task) in self.plan.tasks.iter().zip(&self.tasks) {
            if spec.stage != stage {
                continue;
            }
            let live = task.live().next().map(|(_, worker, _)| worker);
            let waiting = task.waiting.and_then(|waiting| waiting.home);
            let committed = task.commit.as_ref().map(|commit| commit.worker);
            if let Some(peer) = committed.or(live).or(waiting) {
                *loads.entry(peer).or_default() += spec.weight.max(1);
            }
        }
        Homes::new(self.up_with_slots(), &loads, self.stages[usize::from(stage)].weight)
    }

    fn up_with_slots(&self) -> impl Iterator<Item = (PeerId, u32)> {
        self.chosen.iter().filter_map(|peer| {
            let known = self.peers.get(peer)?;
            known.is_up().then_some((*peer, known.slots() as u32))
        })
    }

    fn own_affinity(&self, task: TaskId) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.plan.job.as_bytes());
        hasher.update(task.0.to_be_bytes());
        hasher.finalize().into()
    }

    /// Whether `helper` may take `task` from others. One that stays goes only while its home is
    /// not there.
    fn may_help(&self, task: TaskId, helper: &PeerId) -> bool {
        let spec = self.spec(task);
        let kept = if spec.stays { self.place_kept(&self.affinity(task)) } else { None };
        let is_up = |peer: &PeerId| self.peers.get(peer).is_some_and(Peer::is_up);
        kept.is_none_or(|home| home == *helper || !is_up(&home)) && self.may_run(task, helper)
    }

    /// Whether `peer` may be given `task`: not again to one it failed on, while there are others.
    fn may_run(&self, task: TaskId, peer: &PeerId) -> bool {
        let avoid = &self.task(task).avoid;
        let is_up = |p: &PeerId| self.peers.get(p).is_some_and(|p| p.is_up());
        !avoid.contains(peer) || self.chosen.iter().all(|p| avoid.contains(p) || !is_up(p))
    }

    /// Gives out what can be given out.
    pub(super) fn assign(&mut self) {
        if !self.started || !matches!(self.finish, Finish::Working) || self.is_adopting() {
            return;
        }
        let up = |peer: &PeerId| self.peers.get(peer).is_some_and(|p| p.is_up());
        let workers: Vec<PeerId> = self.chosen.iter().copied().filter(up).collect();
        for &worker in &workers {
            self.feed(worker);
        }
        let helpers: Vec<PeerId> =
            workers.into_iter().filter(|worker| self.free_slots(*worker) > 0).collect();
        if helpers.is_empty() {
            return;
        }
        self.share_waiting(&helpers);
        self.share_unstarted(&helpers);
        self.share_stragglers(&helpers);
    }

    /// After a take-over: whether to wait for what workers still have.
    fn is_adopting(&mut self) -> bool {
        let Some(until) = self.adopt_until else { return false };
        let mut up = self.peers.values().filter(|peer| peer.is_up()).peekable();
        let all_answered = up.peek().is_some() && up.all(|peer| peer.answered);
        if self.now < until && !all_answered {
            return true;
        }
        self.adopt_until = None;
        false
    }

    fn feed(&mut self, worker: PeerId) {
        let prefetch = self.plan.limits.prefetch as usize;
        while let Some(peer) = self.peers.get(&worker)
            && peer.held.len() < peer.slots() + prefetch + peer.ahead
            && let Some(task) = peer.queue.first().copied()
        {
            self.give(task, worker);
        }
    }

    /// Slots of `worker` that this job leaves unused.
    fn free_slots(&self, worker: PeerId) -> usize {
        self.peers.get(&worker).map_or(0, |peer| peer.slots().saturating_sub(peer.held.len()))
    }

    /// Gives helpers what waits in other queues.
    fn share_waiting(&mut self, helpers: &[PeerId]) {
        let victims = self.ripe_victims(|engine, victim| {
            let task = *engine.peers.get(&victim)?.queue.last()?;
            Some((task, engine.task(task).waiting?.since))
        });
        for &helper in helpers {
            while self.free_slots(helper) > 0
                && let Some(task) = self.waiting_elsewhere(&victims, helper)
            {
                self.counters.steals += 1;
                self.give(task, helper);
            }
        }
    }

    /// The workers whose `last` task (and since when it waits) should be taken from them. Who is
    /// not among them yet may be later: then this is looked at again.
    fn ripe_victims(
        &mut self,
        last: impl Fn(&Engine, PeerId) -> Option<(TaskId, Duration)>,
    ) -> Vec<PeerId> {
        let mut ripe = Vec::new();
        let mut look_again: Option<Duration> = None;
        for &victim in &self.chosen {
            let Some((task, since)) = last(self, victim) else { continue };
            match self.worth_taking(victim, task, since) {
                Ok(()) => ripe.push(victim),
                Err(at) => look_again = Some(look_again.map_or(at, |other| other.min(at))),
            }
        }
        if let Some(at) = look_again {
            self.timer(at, Timer::Assign);
        }
        ripe
    }

    /// Tasks and attempts that `worker` has not begun.
    fn backlog(&self, worker: PeerId) -> usize {
        let queued = self.peers.get(&worker).map_or(0, |peer| peer.queue.len());
        queued + self.unstarted(worker).count()
    }

    /// A task for `helper` from the longest of these queues.
    fn waiting_elsewhere(&self, victims: &[PeerId], helper: PeerId) -> Option<TaskId> {
        let offers = victims.iter().filter_map(|victim| {
            let mut from_the_end = self.peers.get(victim)?.queue.iter().rev();
            let task = *from_the_end.find(|task| self.may_help(**task, &helper))?;
            let since = self.task(task).waiting?.since;
            self.worth_taking(*victim, task, since).ok()?;
            Some((self.backlog(*victim), task))
        });
        offers.max_by_key(|(backlog, _)| *backlog).map(|(_, task)| task)
    }

    /// Attempts of `worker` that wait for a slot there.
    fn unstarted(&self, worker: PeerId) -> impl Iterator<Item = (TaskId, Attempt, Duration)> {
        let held = self.peers.get(&worker).map_or(&[][..], |peer| &peer.held);
        held.iter().filter_map(|(task, attempt)| match &self.task(*task).made.get(attempt)?.fate {
            Fate::Live(live) if live.running_since.is_none() => {
                Some((*task, *attempt, live.assigned_at))
            }
            _ => None,
        })
    }

    /// Whether a task that waits at `victim` since `since` should be taken away; if not yet, when
    /// to ask again. What would start within [`Limits::steal_after`](super::Limits) stays where its
    /// data is, while its home gets on.
    fn worth_taking(&self, victim: PeerId, task: TaskId, since: Duration) -> Result<(), Duration> {
        let patience = self.plan.limits.steal_after;
        let Some(peer) = self.peers.get(&victim).filter(|peer| peer.is_up()) else {
            return Ok(());
        };
        let backlog = u32::try_from(self.backlog(victim)).unwrap_or(u32::MAX);
        // What its memo has takes no time.
        let is_warm = self.warm(task) == Some(victim);
        let median = self.stage_of(task).median().filter(|_| !is_warm).unwrap_or(Duration::ZERO);
        let expected = median.saturating_mul(backlog) / (peer.slots() as u32).max(1);
        let at = peer.last_end.max(since) + patience;
        if expected >= patience || at <= self.now { Ok(()) } else { Err(at) }
    }

    /// Gives helpers what other workers were given and have not begun.
    fn share_unstarted(&mut self, helpers: &[PeerId]) {
        let victims = self.ripe_victims(|engine, victim| {
            let (task, _, since) = engine.unstarted(victim).last()?;
            Some((task, since))
        });
        for &helper in helpers {
            while self.free_slots(helper) > 0
                && let Some((task, attempt, victim)) = self.unstarted_elsewhere(&victims, helper)
            {
                self.counters.steals += 1;
                self.revoke(task, attempt, victim);
                self.give(task, helper);
            }
        }
    }

    /// An attempt for `helper` from the longest of these backlogs.
    fn unstarted_elsewhere(
        &self,
        victims: &[PeerId],
        helper: PeerId,
    ) -> Option<(TaskId, Attempt, PeerId)> {
        let is_free = |task: TaskId| self.may_help(task, &helper) && self.is_single(task);
        let offers = victims.iter().filter_map(|victim| {
            let unstarted = self.unstarted(*victim).filter(|(task, ..)| is_free(*task));
            let (task, attempt, since) = unstarted.last()?;
            self.worth_taking(*victim, task, since).ok()?;
            Some((self.backlog(*victim), (task, attempt, *victim)))
        });
        offers.max_by_key(|(backlog, _)| *backlog).map(|(_, offer)| offer)
    }

    /// Whether a task has one live attempt and no output on its way.
    fn is_single(&self, task: TaskId) -> bool {
        let task = self.task(task);
        task.state == TaskState::Open && task.live().count() == 1
    }

    /// Second attempts of what runs far longer than its like, once most of its stage is done.
    fn share_stragglers(&mut self, helpers: &[PeerId]) {
        let mut stragglers: Vec<(Duration, TaskId, PeerId)> = Vec::new();
        for (&worker, peer) in &self.peers {
            for (task, attempt) in &peer.held {
                let stage = self.stage_of(*task);
                let Some(median) = stage.median().filter(|_| stage.done * 2 >= stage.total) else {
                    continue;
                };
                let made = self.task(*task).made.get(attempt);
                if let Some(Made { fate: Fate::Live(live), .. }) = made
                    && let Some(since) = live.running_since
                    && self.is_single(*task)
                {
                    let limits = &self.plan.limits;
                    let usual = median.saturating_mul(limits.straggler);
                    stragglers.push((since + usual.max(limits.straggler_min), *task, worker));
                }
            }
        }
        stragglers.sort_unstable();
        for (at, task, worker) in stragglers {
            if at > self.now {
                self.timer(at, Timer::Assign);
                return;
            }
            let helper = helpers.iter().copied().find(|helper| {
                *helper != worker && self.free_slots(*helper) > 0 && self.may_help(task, helper)
            });
            if let Some(helper) = helper {
                self.counters.speculations += 1;
                self.give(task, helper);
            }
        }
    }

    /// What proves that an attempt was given to `worker`, in whichever term.
    pub(super) fn proof(&self, worker: PeerId, task: TaskId, attempt: Attempt) -> Proof {
        let mut hasher = Sha256::new();
        hasher.update(self.plan.secret);
        hasher.update(task.0.to_be_bytes());
        hasher.update(attempt.epoch.0.to_be_bytes());
        hasher.update(attempt.n.to_be_bytes());
        hasher.update(worker.to_bytes());
        let digest = hasher.finalize();
        Proof(digest.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    /// Makes an attempt of `task` for `worker`.
    fn give(&mut self, task: TaskId, worker: PeerId) {
        self.dequeue(task);
        let limits = &self.plan.limits;
        let (lease_until, resend_at) = (self.now + limits.lease, self.now + limits.resend);
        let starts_now = self.free_slots(worker) > 0;
        let live = Live {
            assigned_at: self.now,
            acked: false,
            running_since: starts_now.then_some(self.now),
            lease_until,
            resend_at,
            sends: 1,
            progress_at: self.now,
            done: 0,
            item: None,
        };
        let epoch = self.epoch;
        let state = self.task_mut(task);
        let attempt = Attempt { epoch, n: state.next_n };
        state.next_n += 1;
        state.retry_at = None;
        let is_retry = !state.failures.is_empty() || state.tries.losses > 0;
        let before = state.made.insert(attempt, Made { worker, fate: Fate::Live(live) });
        assert!(before.is_none(), "attempt {attempt} of task {task} is new");
        if let Some(peer) = self.peers.get_mut(&worker) {
            peer.held.push((task, attempt));
        }
        self.counters.attempts += 1;
        self.counters.retries += u64::from(is_retry);
        self.outbox.assigned.entry(worker).or_default().push((task, attempt));
        self.timer(resend_at.min(lease_until), Timer::Attempt(task, attempt));
    }

    /// Sends one batch of assignments. An attempt whose input was lost meanwhile is left out: it
    /// is not needed before that is there again.
    pub(super) fn send_assignments(&mut self, worker: PeerId, attempts: &[(TaskId, Attempt)]) {
        let assignments: Vec<Assignment> = attempts
            .iter()
            .filter(|(task, attempt)| {
                let made = self.task(*task).made.get(attempt);
                made.is_some_and(|made| matches!(made.fate, Fate::Live(_)))
            })
            .filter_map(|(task, attempt)| self.assignment(worker, *task, *attempt))
            .collect();
        if assignments.is_empty() {
            return;
        }
        let manifest = self.plan.manifest_file;
        let lease_ms = u64::try_from(self.plan.limits.lease.as_millis()).unwrap_or(u64::MAX);
        self.send(worker, WorkerOrder::Assign { manifest, lease_ms, assignments });
    }

    /// Holders as they are sent to a reader: those that are up first, not too many.
    pub(super) fn reachable_first(&self, holders: &[PeerId]) -> Vec<PeerId> {
        let mut holders = holders.to_vec();
        holders.sort_by_key(|peer| !self.peers.get(peer).is_some_and(|peer| peer.is_up()));
        holders.truncate(super::HOLDERS_LIMIT);
        holders
    }

    fn assignment(&self, worker: PeerId, task: TaskId, attempt: Attempt) -> Option<Assignment> {
        let spec = self.spec(task);
        let inputs: Option<Vec<Input>> = spec
            .needs
            .clone()
            .map(TaskId)
            .map(|needed| {
                let commit = self.task(needed).commit.as_ref()?;
                let payload = self.plan.kind.pick(spec, &commit.output);
                let holders = self.reachable_first(&commit.holders);
                Some(Input { task: needed, payload, holders })
            })
            .collect();
        let inputs = serde_json::to_vec(&inputs?).expect("inputs are plain data and encode");
        let mut holders = vec![self.plan.controller];
        if self.plan.manifest.submitter != self.plan.controller {
            holders.push(self.plan.manifest.submitter);
        }
        Some(Assignment {
            task,
            attempt,
            proof: self.proof(worker, task, attempt),
            body: Payload::Inline(spec.body.clone()),
            inputs: Payload::Inline(inputs.into()),
            holders,
        })
    }
}
