//! What a worker knows of one job.

use std::collections::BTreeMap;
use std::time::Duration;

use super::types::Grant;
use crate::engine::limits::{WorkerLimits, back_off};
use crate::ids::{Attempt, Cid, Epoch, FileRef, PeerId, TaskId};
use crate::kind::ItemProgress;
use crate::message::{Assignment, Held, Report};

/// The name of an attempt within a job.
pub(super) type Key = (TaskId, Attempt);

/// A job that this node works for.
#[derive(Debug)]
pub(super) struct Job {
    /// The highest epoch seen from a member of the roster: 0, which no term has, before any.
    pub(super) epoch: Epoch,
    pub(super) controller: PeerId,
    pub(super) manifest: FileRef,
    /// Who is believed, by the manifest.
    pub(super) roster: Vec<PeerId>,
    /// Whether its attempts may begin.
    pub(super) standing: Standing,
    /// The record that must be durable before anything is said; none when it is.
    pub(super) awaits: Option<u64>,
    pub(super) lease: Duration,
    pub(super) attempts: BTreeMap<Key, Mine>,
    pub(super) reports: BTreeMap<Key, Unsettled>,
    /// The newest attempt of each task ever named here: older ones are late copies.
    pub(super) newest: BTreeMap<TaskId, Attempt>,
    /// Results being fetched, by their roots.
    pub(super) stores: BTreeMap<Vec<Cid>, Store>,
    pub(super) renew_at: Duration,
    /// Since when the controller is away, or owes an answer.
    pub(super) quiet_since: Option<Duration>,
}

/// Whether the node's policy lets attempts of a job begin.
#[derive(Debug)]
pub(super) enum Standing {
    /// Its manifest is being checked again, after a restart.
    Unknown,
    Granted(Grant),
    /// Why not, for the user.
    Refused(String),
}

/// An attempt of this worker.
#[derive(Debug)]
pub(super) struct Mine {
    pub(super) assignment: Assignment,
    /// Counts assignments on this node: who came first starts first.
    pub(super) arrival: u64,
    pub(super) stage: Stage,
    pub(super) done: u64,
    pub(super) total: u64,
    /// The item that said last how far it is.
    pub(super) item: Option<ItemProgress>,
}

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The memo is asked for its output.
    Recalling,
    /// For a slot.
    Waiting,
    Running,
    /// Told to stop; its slot is not free yet.
    Stopping,
}

/// A report that is repeated until it is settled.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) report: Report,
    pub(super) at: Duration,
    pub(super) sends: u32,
    /// Whether a record of it is kept. One from the memo has none: it costs nothing to look again.
    pub(super) is_written: bool,
}

/// A result that the controller wants held.
#[derive(Debug)]
pub(super) enum Store {
    Fetching,
    Ended(Option<String>),
}

impl Job {
    /// A job of which nothing is held yet.
    pub(super) fn new(
        controller: PeerId,
        manifest: FileRef,
        roster: Vec<PeerId>,
        idle_until: Duration,
    ) -> Job {
        Job {
            epoch: Epoch(0),
            controller,
            manifest,
            roster,
            standing: Standing::Unknown,
            awaits: None,
            lease: Duration::ZERO,
            attempts: BTreeMap::new(),
            reports: BTreeMap::new(),
            newest: BTreeMap::new(),
            stores: BTreeMap::new(),
            renew_at: idle_until,
            quiet_since: None,
        }
    }

    /// What it holds, for a renewal.
    pub(super) fn held(&self) -> Vec<Held> {
        let live = self.attempts.iter().filter(|(_, mine)| mine.stage != Stage::Stopping);
        live.map(|((task, attempt), mine)| Held {
            task: *task,
            attempt: *attempt,
            proof: mine.assignment.proof,
            running: matches!(mine.stage, Stage::Recalling | Stage::Running),
            done: mine.done,
            total: mine.total,
            item: mine.item,
        })
        .collect()
    }

    /// Attempts that take a slot.
    pub(super) fn running(&self) -> usize {
        let has_slot = |mine: &&Mine| matches!(mine.stage, Stage::Running | Stage::Stopping);
        self.attempts.values().filter(has_slot).count()
    }

    /// What it is granted, if attempts of it may begin.
    pub(super) fn grant(&self) -> Option<&Grant> {
        match &self.standing {
            Standing::Granted(grant) => Some(grant),
            Standing::Unknown | Standing::Refused(_) => None,
        }
    }

    /// The waiting attempt that came first.
    pub(super) fn first_waiting(&self) -> Option<(u64, Key)> {
        let waiting = self.attempts.iter().filter(|(_, mine)| mine.stage == Stage::Waiting);
        waiting.map(|(key, mine)| (mine.arrival, *key)).min()
    }

    /// The reports that are due, each noted as sent.
    pub(super) fn due_reports(&mut self, now: Duration, limits: &WorkerLimits) -> Vec<Report> {
        let due = self.reports.values_mut().filter(|unsettled| unsettled.at <= now);
        due.map(|unsettled| {
            unsettled.sends += 1;
            unsettled.at = now + back_off(limits.resend, limits.resend_max, unsettled.sends);
            unsettled.report.clone()
        })
        .collect()
    }

    /// How long until the next renewal: a few a lease while something is held, rarely otherwise.
    pub(super) fn renewal_pause(&self, limits: &WorkerLimits) -> Duration {
        if self.attempts.is_empty() { limits.idle_ping } else { self.lease / limits.renewals }
    }

    /// Whether the controller owes an answer.
    pub(super) fn is_owed(&self) -> bool {
        !self.reports.is_empty()
    }

    /// When something is due next.
    pub(super) fn next_wake(&self, limits: &WorkerLimits) -> Option<Duration> {
        if self.awaits.is_some() {
            return None;
        }
        let reports = self.reports.values().map(|unsettled| unsettled.at).min();
        let gone = self.quiet_since.map(|since| since + limits.controller_gone);
        [reports, gone, Some(self.renew_at)].into_iter().flatten().min()
    }
}
