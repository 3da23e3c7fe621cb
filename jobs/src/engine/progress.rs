//! What users are told: how far the job is, why nothing runs, who did what.

use std::collections::BTreeMap;
use std::time::Duration;

use super::finish::Finish;
use super::limits::REFUSALS_SHOWN;
use super::rank::Unfit;
use super::state::TaskState;
use super::types::{CommitReport, JobReport, Phase, Progress, Refusal, StageProgress, TaskReport};
use super::{Engine, Peer};
use crate::ids::TaskId;
use crate::kind::ItemProgress;
use crate::message::Counters;

/// The counters of a job that are kept, those of its first tasks: more than fit a screen.
const JOB_COUNTERS_LIMIT: usize = 256;

/// The running items that are shown: as many as a large swarm runs at once, in ten kilobytes.
const RUNNING_ITEMS_SHOWN: usize = 256;

const MIB: u64 = 1 << 20;

impl Engine {
    /// How far the job is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let names = self.plan.kind.stages();
        let mut stages: Vec<StageProgress> = names
            .iter()
            .zip(&self.stages)
            .map(|(name, stage)| StageProgress {
                name: (*name).to_owned(),
                done: stage.done,
                running: 0,
                total: stage.total,
                bytes_done: 0,
                bytes_total: 0,
            })
            .collect();
        let mut memoized = 0;
        for (spec, task) in self.plan.tasks.iter().zip(&self.tasks) {
            let stage = &mut stages[usize::from(spec.stage)];
            let is_running = task.live().any(|(_, _, live)| live.running_since.is_some());
            stage.running += u32::from(is_running && task.commit.is_none());
            let furthest = task.live().map(|(_, _, live)| live.done).max().unwrap_or(0);
            let done = if task.commit.is_some() { spec.weight } else { furthest.min(spec.weight) };
            stage.bytes_done = stage.bytes_done.saturating_add(done);
            stage.bytes_total = stage.bytes_total.saturating_add(spec.weight);
            memoized += u32::from(task.commit.as_ref().is_some_and(|commit| commit.memoized));
        }
        let workers = self.peers.values().filter(|peer| !peer.held.is_empty()).count() as u32;
        let phase = self.phase(workers > 0);
        let why = if matches!(phase, Phase::Ended(_)) { None } else { self.why() };
        let counters = self.counted();
        // A kind may have stages that this job does without.
        stages.retain(|stage| stage.total > 0);
        // What later stages read was made from the same input: it counts once.
        let input = stages.iter().find(|stage| stage.bytes_total > 0);
        let (bytes_done, bytes_total) =
            input.map_or((0, 0), |stage| (stage.bytes_done, stage.bytes_total));
        let refusals = self.refusals();
        Progress {
            phase,
            stages,
            bytes_done,
            bytes_total,
            items: self.items(),
            running_items: self.running_items(),
            workers,
            memoized,
            counters,
            why,
            refusals,
        }
    }

    /// The items that run and said how far they are.
    fn running_items(&self) -> Vec<ItemProgress> {
        if self.end().is_some() {
            return Vec::new();
        }
        let held = self.peers.values().flat_map(|peer| &peer.held);
        let live = held.filter_map(|(task, attempt)| {
            let live = self.task(*task).live().find(|(made, ..)| made == attempt);
            live.and_then(|(_, _, live)| live.item)
        });
        let mut items: Vec<ItemProgress> = live.collect();
        items.sort_by_key(|item| item.n);
        // A task may have two attempts.
        items.dedup_by_key(|item| item.n);
        items.truncate(RUNNING_ITEMS_SHOWN);
        items
    }

    /// Who would not work for the job, now or before.
    fn refusals(&self) -> Vec<Refusal> {
        let refusals = self.peers.iter().filter_map(|(peer, known)| {
            let reason = known.facts.refuses.as_ref().or(known.last_refusal.as_ref())?;
            Some(Refusal { peer: *peer, reason: reason.clone() })
        });
        refusals.take(REFUSALS_SHOWN).collect()
    }

    /// What the committed attempts counted. Of a task whose output was lost nothing counts until it
    /// is committed again.
    fn counted(&self) -> Counters {
        let mut sums = Counters::new();
        for commit in self.tasks.iter().filter_map(|task| task.commit.as_ref()) {
            for (name, count) in &commit.counters {
                // A job's code may name them by its data: what a person can read is enough.
                if sums.len() < JOB_COUNTERS_LIMIT || sums.contains_key(name) {
                    let sum = sums.entry(name.clone()).or_default();
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        sums
    }

    fn phase(&self, has_workers: bool) -> Phase {
        match &self.finish {
            Finish::Working | Finish::Ending => {
                let has_begun = self.tasks.iter().any(|task| task.state != TaskState::Open);
                if has_workers || has_begun { Phase::Running } else { Phase::Queued }
            }
            Finish::Building { .. }
            | Finish::BuildAgain { .. }
            | Finish::Recording
            | Finish::Storing(_) => Phase::Storing,
            Finish::Farewell { end, .. } | Finish::Over { end } => Phase::Ended(end.state),
        }
    }

    /// Why nothing runs, or why it runs on fewer workers than were asked for.
    pub(super) fn why(&self) -> Option<String> {
        if !matches!(self.finish, Finish::Working) {
            return None;
        }
        let count = self.chosen.len();
        if self.is_adopting_now() {
            return Some("asking the workers what they have after a take-over".to_owned());
        }
        if count == 0 {
            return Some(format!("no peer can run this: {}", self.excuses()));
        }
        match self.plan.manifest.workers {
            Some(asked) if (count as u32) < asked => {
                let others = self.excuses();
                Some(format!("{asked} workers were asked for, {count} can be had: {others}"))
            }
            _ => None,
        }
    }

    fn is_adopting_now(&self) -> bool {
        self.adopt_until.is_some_and(|until| self.now < until)
    }

    /// Why the other peers do not work for this job: "2 lack the python runtime, 1 is away".
    fn excuses(&self) -> String {
        let mut excuses: BTreeMap<String, u32> = BTreeMap::new();
        for (_, peer) in self.peers.iter().filter(|(peer, _)| !self.chosen.contains(peer)) {
            *excuses.entry(self.excuse(peer)).or_default() += 1;
        }
        if excuses.is_empty() {
            return "no other peer is connected".to_owned();
        }
        let parts: Vec<String> =
            excuses.into_iter().map(|(excuse, count)| format!("{count} {excuse}")).collect();
        parts.join(", ")
    }

    fn excuse(&self, peer: &Peer) -> String {
        if peer.gone {
            return "away".to_owned();
        }
        if let Err(unfit) = self.fit(peer) {
            return match unfit {
                Unfit::TooSmall => self.too_small(),
                Unfit::Outgrown => self.outgrown(),
                unfit => unfit.to_string(),
            };
        }
        match &peer.refusal {
            Some(reason) => format!("unwilling ({reason})"),
            None if peer.is_blocked(self.now) => match &peer.fault {
                Some(code) => format!("avoided after failures ({code})"),
                None => "avoided after failures".to_owned(),
            },
            None => "not needed".to_owned(),
        }
    }

    /// What is said of a peer with less memory than the job asks for.
    fn too_small(&self) -> String {
        let asked = self.plan.manifest.limits.memory;
        let there = self.peers.values().filter(|peer| !peer.gone).map(|peer| peer.facts.memory);
        let most = there.filter(|memory| *memory < asked).max().unwrap_or(0);
        let (asked, most) = (asked.div_ceil(MIB), most / MIB);
        format!("too small (`limits.memory` is {asked} MiB, the largest has {most} MiB)")
    }

    /// What is said of a peer on which the job's code does not fit: what the largest of them said.
    fn outgrown(&self) -> String {
        let largest = self.outgrown.iter().max_by_key(|outgrown| outgrown.memory);
        let why = largest.map(|outgrown| format!(" ({})", outgrown.message));
        format!("too small{}", why.unwrap_or_default())
    }

    /// Who ran what, when and how long, so far.
    #[must_use]
    pub fn report(&self) -> JobReport {
        let names = self.plan.kind.stages();
        let tasks = self.plan.tasks.iter().zip(&self.tasks).enumerate();
        let tasks = tasks.map(|(index, (spec, task))| TaskReport {
            task: TaskId(index as u32),
            stage: names[usize::from(spec.stage)].to_owned(),
            commit: task.commit.as_ref().map(|commit| CommitReport {
                attempt: commit.attempt,
                worker: commit.worker,
                cost: commit.cost,
                memoized: commit.memoized,
                at_ms: commit.at.map(|at| millis(at.saturating_sub(self.born))),
                log: commit.log.clone(),
            }),
            attempts: task.next_n - 1,
            lost: task.tries.losses,
            failures: task.failures.clone(),
        });
        JobReport {
            job: self.plan.job,
            epoch: self.epoch,
            controller: self.plan.controller,
            elapsed_ms: millis(self.now.saturating_sub(self.born)),
            counters: self.counted(),
            tasks: tasks.collect(),
        }
    }

    /// Panics when what the engine knows does not hang together. Too slow for every event of a
    /// large job: the simulator and the tests call it after each.
    #[cfg(any(test, feature = "planted-faults"))]
    pub fn check(&self) {
        for (index, task) in self.tasks.iter().enumerate() {
            let id = TaskId(index as u32);
            let is_committed = matches!(task.state, TaskState::Committed | TaskState::Losing);
            assert_eq!(task.commit.is_some(), is_committed, "task {id}: {:?}", task.state);
            for (attempt, worker, _) in task.live() {
                let held = &self.peers[&worker].held;
                assert!(held.contains(&(id, attempt)), "{id} {attempt} is held by its worker");
            }
            assert!(task.live().count() <= 2, "task {id} has at most two live attempts");
            if let Some(waiting) = task.waiting {
                assert_eq!(task.state, TaskState::Open, "task {id} waits and is open");
                assert_eq!(task.live().count(), 0, "task {id} waits and is with nobody");
                let is_queued = match waiting.home {
                    Some(home) => self.peers[&home].queue.contains(&id),
                    None => self.homeless.contains(&id),
                };
                assert!(is_queued, "task {id} is in the queue it waits in");
            }
            let is_forgotten = self.started
                && matches!(self.finish, Finish::Working)
                && task.state == TaskState::Open
                && task.waiting.is_none()
                && task.live().next().is_none()
                && task.retry_at.is_none_or(|at| at <= self.now)
                && !self.is_missing_input(id);
            assert!(!is_forgotten, "task {id} can run and nobody sees to it");
        }
        for (peer, known) in &self.peers {
            for (task, attempt) in &known.held {
                let is_live = self.task(*task).live().any(|(a, w, _)| (a, w) == (*attempt, *peer));
                assert!(is_live, "{task} {attempt} at {peer} is live");
            }
            for task in &known.queue {
                let home = self.task(*task).waiting.and_then(|waiting| waiting.home);
                assert_eq!(home, Some(*peer), "task {task} waits where it is queued");
            }
        }
        for group in &self.groups {
            let missing = group
                .tasks
                .clone()
                .filter(|task| self.task(TaskId(*task)).state != TaskState::Committed)
                .count();
            assert_eq!(group.missing as usize, missing, "open tasks of {:?}", group.tasks);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
