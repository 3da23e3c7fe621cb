//! From the last commit to the last goodbye: building the result, copying it to another node,
//! ending, telling everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::faults::Fault;
use super::limits::{FAILURE_TEXT_LIMIT, LOG_LINES, REASON_LIMIT, back_off};
use super::reports::clip;
use super::state::TaskState;
use super::types::{Action, End, EndState, JobError, Output, Record};
use super::{Engine, Timer};
use crate::ids::{Cid, PeerId, TaskId};
use crate::log::Log;
use crate::message::{ControllerNote, ToController, WorkerOrder};

/// The code of a job that made no progress.
const STALLED: &str = "IPDC-5106";
/// The code of a job for which no node has enough memory.
const TOO_SMALL: &str = "IPDC-5108";
/// The code of a job whose result could not be put together.
const NOT_BUILT: &str = "IPDC-5107";

/// How far the end is.
#[derive(Debug)]
pub(super) enum Finish {
    /// Tasks are open.
    Working,
    /// The driver builds the result, for the `tries`-th time.
    Building { tries: u32 },
    /// It failed and is tried again at `at`.
    BuildAgain { tries: u32, at: Duration },
    /// The result is on its way into the journal.
    Recording,
    /// Another node is asked to hold the result.
    Storing(Storing),
    /// The end is on its way into the journal.
    Ending,
    /// The job ended; workers are told until they say that they know.
    Farewell { end: End, pending: BTreeMap<PeerId, Repeat>, until: Duration },
    /// Nothing is left to do.
    Over { end: End },
}

/// A result that is being copied.
#[derive(Debug)]
pub(super) struct Storing {
    result: Cid,
    report: Cid,
    since: Duration,
    /// Peers that were asked, and since when.
    asked: BTreeMap<PeerId, (Duration, Repeat)>,
    /// Peers that cannot.
    failed: BTreeSet<PeerId>,
}

/// An order that is repeated until it is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeat {
    at: Duration,
    sends: u32,
}

impl Repeat {
    /// Not sent yet; due now.
    pub(super) fn at_once(now: Duration) -> Repeat {
        Repeat { at: now, sends: 0 }
    }

    /// Whether to send it now; if so, when again is noted.
    fn is_due(&mut self, now: Duration, limits: &super::Limits) -> bool {
        if now < self.at {
            return false;
        }
        self.sends += 1;
        self.at = now + back_off(limits.resend, limits.resend_max, self.sends);
        true
    }
}

impl Finish {
    pub(super) fn store(result: Cid, report: Cid, now: Duration) -> Finish {
        let (asked, failed) = (BTreeMap::new(), BTreeSet::new());
        Finish::Storing(Storing { result, report, since: now, asked, failed })
    }

    /// Who was asked to hold the result.
    pub(super) fn asked_to_store(&self) -> Vec<PeerId> {
        match self {
            Finish::Storing(storing) => {
                storing.asked.keys().chain(&storing.failed).copied().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Engine {
    /// Whether anything still waits for this task's output.
    pub(super) fn is_needed(&self, task: TaskId) -> bool {
        let mut groups = self.groups.iter().filter(|g| g.tasks.contains(&task.0)).peekable();
        let is_final = groups.peek().is_none() || self.adds_to_result(task);
        let is_open = |task: &TaskId| self.task(*task).state != TaskState::Committed;
        is_final || groups.any(|group| group.consumers.iter().any(is_open))
    }

    /// Whether the output of a task of an earlier stage makes the result too.
    fn adds_to_result(&self, task: TaskId) -> bool {
        self.plan.kind.adds_to_result(self.spec(task).stage)
    }

    /// The tasks whose outputs make the result: those of the last stage, and of what others add to it.
    fn final_tasks(&self) -> impl Iterator<Item = TaskId> {
        let last = self.plan.tasks.iter().map(|spec| spec.stage).max();
        let is_final =
            move |task: &TaskId| Some(self.spec(*task).stage) == last || self.adds_to_result(*task);
        (0..self.plan.tasks.len() as u32).map(TaskId).filter(is_final)
    }

    fn is_finished(&self) -> bool {
        if self.is_open() {
            return false;
        }
        let is_done = |task: TaskId| self.task(task).state == TaskState::Committed;
        let open = self.stages.iter().rev().find(|stage| stage.total > 0);
        open.is_none_or(|last| last.done == last.total)
            && (0..self.tasks.len() as u32)
                .map(TaskId)
                .all(|task| is_done(task) || !self.is_needed(task))
    }

    pub(super) fn build_if_finished(&mut self) {
        if self.started && matches!(self.finish, Finish::Working) && self.is_finished() {
            self.build(1);
        }
    }

    fn build(&mut self, tries: u32) {
        let outputs = self.final_tasks().filter_map(|task| self.output(task)).collect();
        let report = Box::new(self.report());
        self.finish = Finish::Building { tries };
        self.outbox.actions.push(Action::Build { outputs, report });
    }

    /// The output of a committed task.
    pub(super) fn output(&self, task: TaskId) -> Option<Output> {
        let commit = self.task(task).commit.as_ref()?;
        let holders = self.reachable_first(&commit.holders);
        Some(Output {
            task,
            worker: commit.worker,
            body: self.spec(task).body.clone(),
            memoized: commit.memoized,
            payload: commit.output.clone(),
            holders,
        })
    }

    pub(super) fn on_built(&mut self, result: Cid, report: Cid) {
        if matches!(self.finish, Finish::Building { .. }) {
            self.finish = Finish::Recording;
            self.got_further();
            self.append(Record::Built { result, report });
        }
    }

    pub(super) fn on_build_failed(&mut self, lost: &[TaskId], message: String) {
        let Finish::Building { tries } = self.finish else { return };
        let lost: Vec<TaskId> = self.final_tasks().filter(|task| lost.contains(task)).collect();
        if !lost.is_empty() {
            self.finish = Finish::Working;
            lost.into_iter().for_each(|task| self.lose_output(task));
            // What could have begun meanwhile was held back.
            self.enqueue_all();
            return;
        }
        let limits = &self.plan.limits;
        if tries >= limits.build_tries {
            let message = format!("the result could not be put together: {message}");
            self.fail(NOT_BUILT, message, None, Log::default());
            return;
        }
        let at = self.now + back_off(limits.resend, limits.resend_max, tries);
        self.finish = Finish::BuildAgain { tries: tries + 1, at };
        self.timer(at, Timer::Finish);
    }

    /// The outputs are all there, and make no result.
    pub(super) fn on_refused_result(&mut self, code: &str, message: String) {
        if matches!(self.finish, Finish::Building { .. }) {
            self.fail(code, message, None, Log::default());
        }
    }

    /// Something about the end may be due.
    pub(super) fn look_at_finish(&mut self) {
        match &mut self.finish {
            Finish::BuildAgain { tries, at } if *at <= self.now => {
                let tries = *tries;
                self.build(tries);
            }
            Finish::BuildAgain { at, .. } => {
                let at = *at;
                self.timer(at, Timer::Finish);
            }
            Finish::Storing(_) => self.store(),
            Finish::Farewell { .. } => self.say_goodbye(),
            _ => {}
        }
    }

    /// Peers that could hold the result, best first: who made the last outputs has most of it.
    fn keepers(&self, storing: &Storing) -> Vec<PeerId> {
        let makers: BTreeSet<PeerId> = self
            .final_tasks()
            .filter_map(|task| self.task(task).commit.as_ref().map(|commit| commit.worker))
            .collect();
        let mut keepers: Vec<(bool, [u8; 32], PeerId)> = self
            .peers
            .iter()
            .filter(|(peer, known)| {
                let is_new = !storing.asked.contains_key(peer) && !storing.failed.contains(peer);
                let is_willing = known.facts.refuses.is_none() && known.refusal.is_none();
                **peer != self.plan.controller && known.is_up() && is_willing && is_new
            })
            .map(|(peer, known)| (!makers.contains(peer), known.rank, *peer))
            .collect();
        keepers.sort_unstable();
        keepers.into_iter().map(|(_, _, peer)| peer).collect()
    }

    /// Asks one node after another to hold the result, until one does.
    fn store(&mut self) {
        let Finish::Storing(mut storing) = std::mem::replace(&mut self.finish, Finish::Recording)
        else {
            return;
        };
        let (now, limits) = (self.now, self.plan.limits.clone());
        let is_gone = |peer: &PeerId| self.peers.get(peer).is_none_or(|known| known.gone);
        storing.failed.extend(storing.asked.keys().copied().filter(is_gone));
        storing.asked.retain(|peer, _| !storing.failed.contains(peer));

        let newest = storing.asked.values().map(|(since, _)| *since).max();
        if newest.is_none_or(|since| now >= since + limits.store_each)
            && let Some(keeper) = self.keepers(&storing).first()
        {
            storing.asked.insert(*keeper, (now, Repeat::at_once(now)));
        }
        let may_still_come = self.recovered && now < storing.since + limits.adopt;
        let is_alone = storing.asked.is_empty() && !may_still_come;
        if is_alone || now >= storing.since + limits.store_all {
            let note = if is_alone && storing.failed.is_empty() {
                "there was no other node to hold a copy of the result"
            } else {
                "no other node could be made to hold a copy of the result"
            };
            self.done(&storing, Some(note.to_owned()));
            return;
        }
        let roots = vec![storing.result, storing.report];
        let mut due = storing.since + limits.store_all;
        if storing.asked.is_empty() {
            due = due.min(storing.since + limits.adopt);
        }
        for (keeper, (since, repeat)) in &mut storing.asked {
            let is_first = repeat.sends == 0;
            if repeat.is_due(now, &limits) && (is_first || !self.planted.has(Fault::NeverResends)) {
                self.counters.resends += u64::from(!is_first);
                let holders = vec![self.plan.controller];
                let manifest = self.plan.manifest_file;
                let order = WorkerOrder::Store { manifest, roots: roots.clone(), holders };
                self.send(*keeper, order);
            }
            due = due.min(repeat.at);
            if *since + limits.store_each > now {
                due = due.min(*since + limits.store_each);
            }
        }
        self.finish = Finish::Storing(storing);
        self.timer(due, Timer::Finish);
    }

    pub(super) fn on_stored(&mut self, from: PeerId, roots: &[Cid], error: Option<String>) {
        let Finish::Storing(storing) = &mut self.finish else { return };
        if roots != [storing.result, storing.report] || storing.asked.remove(&from).is_none() {
            return;
        }
        storing.failed.insert(from);
        if let Some(reason) = error {
            if let Some(known) = self.peers.get_mut(&from) {
                let reason = format!("cannot hold the result: {reason}");
                known.last_refusal = Some(clip(&reason, REASON_LIMIT));
            }
            self.store();
            return;
        }
        if let Finish::Storing(storing) = std::mem::replace(&mut self.finish, Finish::Recording) {
            self.done(&storing, None);
        }
    }

    /// A peer that was asked to hold the result will not.
    pub(super) fn keeper_refused(&mut self, from: PeerId) {
        if let Finish::Storing(storing) = &mut self.finish
            && storing.asked.remove(&from).is_some()
        {
            storing.failed.insert(from);
            self.store();
        }
    }

    fn done(&mut self, storing: &Storing, note: Option<String>) {
        let (result, report) = (Some(storing.result), Some(storing.report));
        self.end_with(End { result, report, note, ..End::of(EndState::Done) });
    }

    pub(super) fn on_cancel(&mut self) {
        self.end_with(End::of(EndState::Cancelled));
    }

    /// Ends the job with a cause.
    pub(super) fn fail(&mut self, code: &str, message: String, task: Option<TaskId>, log: Log) {
        let before = log.lines.len().saturating_sub(LOG_LINES);
        let log = log.lines.into_iter().skip(before).collect();
        let message = clip(&message, FAILURE_TEXT_LIMIT);
        let error = JobError { code: code.to_owned(), message, task, log };
        self.end_with(End { error: Some(error), ..End::of(EndState::Failed) });
    }

    /// Writes the end, once. Nothing is written after it.
    fn end_with(&mut self, end: End) {
        if !matches!(self.finish, Finish::Ending | Finish::Farewell { .. } | Finish::Over { .. }) {
            self.finish = Finish::Ending;
            self.append(Record::Ended(end));
        }
    }

    /// The bounds on a job that does not get on: no peer can run it, or none gets round to it.
    pub(super) fn look_at_stall(&mut self) {
        if !matches!(self.finish, Finish::Working) {
            return;
        }
        let (stall, patience) = (self.plan.limits.stall, self.plan.limits.too_small);
        let is_too_small = self.too_small_since.is_some_and(|since| self.now >= since + patience);
        if !is_too_small && self.now < self.progress_at + stall {
            self.watch_for_stall();
            return;
        }
        let why = self.why().unwrap_or_else(|| "its workers do not get on".to_owned());
        let (code, what) = if is_too_small {
            (TOO_SMALL, format!("no node was large enough for {} s", patience.as_secs()))
        } else {
            (STALLED, format!("no progress for {} minutes", stall.as_secs() / 60))
        };
        self.fail(code, format!("{what}: {why}"), None, Log::default());
    }

    /// Tells everybody who may have something of the job that it ended.
    fn say_goodbye(&mut self) {
        let (now, limits) = (self.now, self.plan.limits.clone());
        let Finish::Farewell { pending, until, end } = &mut self.finish else { return };
        let is_gone = |peer: &PeerId| self.peers.get(peer).is_none_or(|known| known.gone);
        pending.retain(|peer, _| !is_gone(peer) && now < *until);
        if pending.is_empty() {
            self.finish = Finish::Over { end: end.clone() };
            self.timers.clear();
            self.outbox.actions.push(Action::Over);
            return;
        }
        let mut due = *until;
        let mut told = Vec::new();
        for (peer, repeat) in pending.iter_mut() {
            let is_first = repeat.sends == 0;
            if repeat.is_due(now, &limits) && (is_first || !self.planted.has(Fault::NeverResends)) {
                self.counters.resends += u64::from(!is_first);
                told.push(*peer);
            }
            due = due.min(repeat.at);
        }
        told.into_iter().for_each(|peer| self.send(peer, WorkerOrder::End));
        self.timer(due, Timer::Finish);
    }

    /// The job ended, and somebody still speaks of it.
    pub(super) fn answer_after_the_end(&mut self, from: PeerId, message: &ToController) {
        if message.body != ControllerNote::Gone {
            self.send(from, WorkerOrder::End);
            return;
        }
        if message.epoch == self.epoch
            && let Finish::Farewell { pending, .. } = &mut self.finish
        {
            pending.remove(&from);
            self.say_goodbye();
        }
    }
}
