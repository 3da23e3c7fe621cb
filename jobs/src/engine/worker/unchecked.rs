//! Orders for jobs that this node does not know: whose they may be is not known before the manifest
//! is checked that they name.
//!
//! Any member may send them. Until then each sender's are kept apart, and few of each: what one
//! claims of a job does not touch what another says of it, nor take its place.

use super::job::{Job, Standing};
use super::types::{CheckedManifest, WorkerAction};
use super::{STOPPING, Worker};
use crate::ids::{Epoch, FileRef, JobId, PeerId};
use crate::message::{ControllerNote, ToWorker, WorkerOrder};

/// Orders of one sender that are kept while manifests are checked. The rest comes again.
pub(super) const UNCHECKED_LIMIT: usize = 64;

/// What a sender says of a job, until the manifest that it names is checked.
#[derive(Debug)]
pub(super) struct Unchecked {
    manifest: FileRef,
    orders: Vec<ToWorker>,
}

impl Worker {
    /// A message about a job that this node has nothing of.
    pub(super) fn on_unknown(&mut self, from: PeerId, message: ToWorker) {
        let ToWorker { job, epoch, body } = message;
        if let Some(leaving) = self.leaving.get_mut(&job) {
            if matches!(body, WorkerOrder::End) {
                leaving.tell = Some(from);
            }
            return;
        }
        let has_ended = self.has_ended(job, epoch);
        match &body {
            WorkerOrder::End => {
                self.unchecked.remove(&(from, job));
                self.say(from, job, epoch, ControllerNote::Gone);
            }
            WorkerOrder::Query => {
                let free_slots = self.free_slots();
                let held = Vec::new();
                let note = ControllerNote::Renew { held, free_slots, granted: None };
                self.say(from, job, epoch, note);
            }
            // Late copies: an ended job does not come back.
            _ if has_ended => {}
            WorkerOrder::Assign { .. } if self.draining => {
                let reason = STOPPING.to_owned();
                self.say(from, job, epoch, ControllerNote::Refused { reason });
            }
            WorkerOrder::Assign { .. } if self.is_full() => {
                let reason = self.fullness();
                self.say(from, job, epoch, ControllerNote::Refused { reason });
            }
            WorkerOrder::Assign { manifest, .. } | WorkerOrder::Store { manifest, .. } => {
                let manifest = *manifest;
                self.keep_unchecked(from, ToWorker { job, epoch, body }, Some(manifest));
            }
            WorkerOrder::Revoke { .. }
            | WorkerOrder::Settled { .. }
            | WorkerOrder::Fetch { .. } => {
                self.keep_unchecked(from, ToWorker { job, epoch, body }, None);
            }
        }
    }

    /// Keeps an order until its job's manifest is checked; `manifest` has that begun.
    fn keep_unchecked(&mut self, from: PeerId, order: ToWorker, manifest: Option<FileRef>) {
        let of_sender = self.unchecked.iter().filter(|((sender, _), _)| *sender == from);
        if of_sender.map(|(_, kept)| kept.orders.len()).sum::<usize>() >= UNCHECKED_LIMIT {
            return;
        }
        let job = order.job;
        if let Some(known) = self.unchecked.get_mut(&(from, job)) {
            known.orders.push(order);
        } else if let Some(manifest) = manifest {
            self.unchecked.insert((from, job), Unchecked { manifest, orders: vec![order] });
            self.actions.push(WorkerAction::CheckManifest { job, manifest, from });
        }
    }

    fn has_ended(&self, job: JobId, epoch: Epoch) -> bool {
        self.ended.iter().any(|(ended, last)| *ended == job && epoch <= *last)
    }

    fn is_full(&self) -> bool {
        self.jobs.len() >= self.limits.jobs
    }

    /// Why a node that is full takes no more jobs.
    fn fullness(&self) -> String {
        format!("the node works for {} jobs already", self.jobs.len())
    }

    pub(super) fn on_checked(
        &mut self,
        id: JobId,
        from: PeerId,
        checked: Result<CheckedManifest, String>,
    ) {
        let Some(Unchecked { manifest, orders }) = self.unchecked.remove(&(from, id)) else {
            self.reconsider(id, checked.map(|checked| checked.grant));
            return;
        };
        let checked = checked.and_then(|checked| match self.jobs.contains_key(&id) {
            false if self.is_full() => Err(self.fullness()),
            _ => Ok(checked),
        });
        match checked {
            Ok(CheckedManifest { roster, .. }) if !roster.contains(&from) => {
                self.actions.push(WorkerAction::Blame { peer: from, job: id });
            }
            Ok(CheckedManifest { roster, grant }) => {
                // The first order says which epoch to begin with.
                let epoch = orders.first().map_or(Epoch(0), |first| first.epoch);
                if !self.jobs.contains_key(&id) && !self.has_ended(id, epoch) {
                    let idle_until = self.now + self.limits.idle_ping;
                    let mut job = Job::new(from, manifest, roster, idle_until);
                    job.standing = Standing::Granted(grant);
                    self.jobs.insert(id, job);
                    self.follow(id, from, epoch);
                }
                for message in orders {
                    self.on_message(from, message);
                }
            }
            Err(reason) => {
                for ToWorker { epoch, body, .. } in orders {
                    let note = match body {
                        WorkerOrder::Store { roots, .. } => {
                            ControllerNote::Stored { roots, error: Some(reason.clone()) }
                        }
                        _ => ControllerNote::Refused { reason: reason.clone() },
                    };
                    self.say(from, id, epoch, note);
                }
            }
        }
    }
}
