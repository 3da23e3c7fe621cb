//! The dials' part of the book: whom to dial, when, and what came of it.

use std::time::Duration;

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use tokio::time::Instant;

use super::Book;
use crate::swarm::{QUARANTINE, address};
use ipdc_gate::DialFailure;

/// The wait after the first failed dial; doubles with each.
pub(super) const BACK_OFF_START: Duration = Duration::from_millis(250);
/// The longest wait between dials of one peer: a machine that wakes up is found within it.
pub(super) const BACK_OFF_CAP: Duration = Duration::from_secs(30);
/// Dials under way at most: half of the connections that may shake hands.
const DIALS_LIMIT: usize = 32;

/// Whom to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::swarm) enum Target {
    Member(PeerId),
    /// A bootstrap address, by its place in the settings.
    Contact(usize),
}

/// A dial that is due.
#[derive(Debug)]
pub(in crate::swarm) struct DueDial {
    pub(in crate::swarm) target: Target,
    /// Who must answer; none if that is not known.
    pub(in crate::swarm) peer: Option<PeerId>,
    /// Names not resolved yet.
    pub(in crate::swarm) addresses: Vec<Multiaddr>,
}

/// When a peer is dialled next.
pub(super) struct Dial {
    pub(super) due: Instant,
    failures: u32,
    under_way: bool,
}

impl Dial {
    pub(super) fn now() -> Dial {
        Dial { due: Instant::now(), failures: 0, under_way: false }
    }

    pub(super) fn failed(&mut self) {
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        let doubled = BACK_OFF_START.saturating_mul(1 << (self.failures - 1).min(16));
        self.due = Instant::now() + jittered(doubled.min(BACK_OFF_CAP));
    }

    pub(super) fn at_once(&mut self) {
        self.due = Instant::now();
        self.failures = 0;
    }

    /// The other side dials first.
    pub(super) fn after_the_other(&mut self) {
        self.due += jittered(2 * BACK_OFF_START);
    }
}

/// Between three quarters and all of `wait`, so that nodes that lost each other together do not
/// come back together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.75..=1.0))
}

/// An address of the settings.
pub(super) struct Contact {
    pub(super) address: Multiaddr,
    pub(super) peer: Option<PeerId>,
    pub(super) dial: Dial,
}

impl Book {
    /// The dials that are due; they count as under way from now.
    pub(in crate::swarm) fn due(&mut self, now: Instant) -> Vec<DueDial> {
        let under_way = self.members.values().filter(|m| m.dial.under_way).count()
            + self.contacts.iter().filter(|c| c.dial.under_way).count();
        let mut due = Vec::new();
        for target in self.waiting(now).take(DIALS_LIMIT.saturating_sub(under_way)) {
            due.push(match target {
                Target::Member(peer) => {
                    let addresses = self.members[&peer].addresses();
                    DueDial { target, peer: Some(peer), addresses }
                }
                Target::Contact(i) => {
                    let contact = &self.contacts[i];
                    let addresses = vec![contact.address.clone()];
                    DueDial { target, peer: contact.peer, addresses }
                }
            });
        }
        for dial in &due {
            if let Some(dial) = self.dial_mut(dial.target) {
                dial.under_way = true;
            }
        }
        due
    }

    /// Those that could be dialled at `by`.
    fn waiting(&self, by: Instant) -> impl Iterator<Item = Target> {
        self.schedule().filter(move |(_, due)| *due <= by).map(|(target, _)| target)
    }

    /// When the next dial is due; none if nobody is to be dialled.
    pub(in crate::swarm) fn next_due(&self) -> Option<Instant> {
        self.schedule().map(|(_, due)| due).min()
    }

    fn schedule(&self) -> impl Iterator<Item = (Target, Instant)> {
        let members = self
            .members
            .iter()
            .filter(|(peer, member)| **peer != self.local && member.links.is_empty())
            .filter(|(_, member)| !member.dial.under_way && !member.addresses().is_empty())
            .map(|(peer, member)| (Target::Member(*peer), self.when_in(*peer, member.dial.due)));
        let contacts = self
            .contacts
            .iter()
            .enumerate()
            .filter(|(_, contact)| !contact.dial.under_way && !self.is_connected(contact.peer))
            .map(|(i, contact)| {
                let due = contact.dial.due;
                (Target::Contact(i), contact.peer.map_or(due, |peer| self.when_in(peer, due)))
            });
        members.chain(contacts)
    }

    /// `due`, or when the time is over for which `peer` was put out.
    fn when_in(&self, peer: PeerId, due: Instant) -> Instant {
        self.put_out.get(&peer).map_or(due, |until| due.max(*until))
    }

    fn is_connected(&self, peer: Option<PeerId>) -> bool {
        let member = peer.and_then(|peer| self.members.get(&peer));
        member.is_some_and(|member| !member.links.is_empty())
    }

    fn dial_mut(&mut self, target: Target) -> Option<&mut Dial> {
        match target {
            Target::Member(peer) => self.members.get_mut(&peer).map(|member| &mut member.dial),
            Target::Contact(i) => self.contacts.get_mut(i).map(|contact| &mut contact.dial),
        }
    }

    /// A dial led to a connection.
    pub(in crate::swarm) fn dial_succeeded(&mut self, target: Target) {
        if let Some(dial) = self.dial_mut(target) {
            // Until the connection is admitted or closed, no other.
            dial.under_way = false;
            dial.due = Instant::now() + QUARANTINE;
        }
    }

    /// A dial came to nothing.
    pub(in crate::swarm) fn dial_failed(&mut self, target: Target, failure: &DialFailure) {
        if let (Target::Member(peer), DialFailure::WrongPeer(address)) = (target, failure)
            && let Some(member) = self.members.get_mut(&peer)
        {
            let (address, _) = address::split_peer(address);
            member.worked.retain(|known| *known != address);
            if !member.wrong.contains(&address) {
                member.wrong.push(address);
            }
        }
        let Some(dial) = self.dial_mut(target) else { return };
        match failure {
            DialFailure::NotNeeded => {
                dial.under_way = false;
                dial.due = Instant::now() + BACK_OFF_START;
            }
            DialFailure::WrongPeer(_) | DialFailure::Unreachable(_) => dial.failed(),
        }
        self.stir();
    }
}
