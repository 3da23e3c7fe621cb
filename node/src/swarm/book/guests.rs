//! The guests' part of the book: their passes, and their connections.
//!
//! A pass is news as a member's certificate is. Whoever holds a good one is let in by the gate, which
//! hears of each change here.

use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::ids::PeerId;

use super::{Admission, Book, Cut, Standing};
use crate::swarm::certificate::{BadCertificate, Certificate, now_ms};
use crate::swarm::guest::{GuestPass, OpenPass};
use ipdc_gate::Link;

/// Passes at most, each about 1 KB; those that ended make room.
const GUESTS_LIMIT: usize = 1024;

/// Guests' connections at most: a few for each of a team's machines, and little beside the members'.
const LINKS_LIMIT: usize = 64;

/// A guest.
pub(super) struct Guest {
    pass: GuestPass,
    open: OpenPass,
    /// Its connections, the newest last.
    links: Vec<Arc<Link>>,
    /// The book's version when the pass came.
    pub(super) version: u64,
}

impl Book {
    /// Has the gate hear from here on who is a guest.
    pub(in crate::swarm) fn set_door(&mut self, door: ipdc_gate::Guests) {
        self.door = door;
        self.tell_door();
    }

    pub(super) fn tell_door(&self) {
        let guests = self.guests.keys().filter(|guest| !self.still_guest(**guest).is_zero());
        self.door.set(guests.copied().collect());
    }

    fn check_pass(&self, pass: &OpenPass) -> Result<(), BadCertificate> {
        pass.check(self.root, now_ms(), &self.revocations)
    }

    /// Takes in a pass that was kept of a run before, for people to see if it does not hold any more.
    pub(in crate::swarm) fn restore_guest(&mut self, pass: GuestPass) {
        if let Ok(open) = pass.open() {
            let guest = Guest { pass, open, links: Vec::new(), version: 0 };
            self.guests.insert(guest.open.says.peer, guest);
        }
    }

    /// Takes in a pass, and gives what it says if it holds and is news.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::swarm) fn learn_guest(
        &mut self,
        pass: &GuestPass,
    ) -> Result<Option<Certificate>, BadCertificate> {
        let open = pass.open()?;
        self.check_pass(&open)?;
        let says = open.says.clone();
        if self.guests.len() >= GUESTS_LIMIT {
            let now_ms = now_ms();
            self.guests.retain(|_, guest| !guest.open.says.has_expired(now_ms));
        }
        let order = |c: &Certificate| (c.expires_ms, c.serial);
        // The longer one holds; so all nodes end with the same.
        match self.guests.get(&says.peer) {
            Some(known) if order(&known.open.says) >= order(&says) => return Ok(None),
            // The root's word is always heard.
            None if self.guests.len() >= GUESTS_LIMIT && says.issuer != self.root => {
                return Ok(None);
            }
            _ => {}
        }
        self.version += 1;
        let links = self.guests.remove(&says.peer).map(|guest| guest.links).unwrap_or_default();
        let guest = Guest { pass: pass.clone(), open, links, version: self.version };
        self.guests.insert(says.peer, guest);
        self.unsaved_guests.insert(says.peer);
        self.tell_door();
        self.stir();
        Ok(Some(says))
    }

    /// The passes to keep: those that came since they were last taken.
    pub(in crate::swarm) fn take_unsaved_guests(&mut self) -> Vec<(PeerId, GuestPass)> {
        let unsaved = std::mem::take(&mut self.unsaved_guests).into_iter();
        unsaved.filter_map(|peer| Some((peer, self.guests.get(&peer)?.pass.clone()))).collect()
    }

    /// The passes that came after `version`.
    pub(super) fn guests_after(&self, version: u64) -> Vec<GuestPass> {
        let newer = self.guests.values().filter(|guest| guest.version > version);
        newer.map(|guest| guest.pass.clone()).collect()
    }

    /// For how long the peer is still a guest; zero if it is none, or is a member.
    pub(in crate::swarm) fn still_guest(&self, peer: PeerId) -> Duration {
        let guest = self.guests.get(&peer).filter(|_| !self.members.contains_key(&peer));
        let holds = guest.filter(|guest| self.check_pass(&guest.open).is_ok());
        let expires_ms = holds.map(|guest| guest.open.says.expires_ms).unwrap_or_default();
        Duration::from_millis(expires_ms.saturating_sub(now_ms()))
    }

    /// A guest's connection was made. False if it is to be closed.
    pub(in crate::swarm) fn guest_opened(&mut self, link: &Arc<Link>) -> bool {
        let links: usize = self.guests.values().map(|guest| guest.links.len()).sum();
        if self.still_guest(link.peer).is_zero() {
            // The next time it is a stranger, who may join.
            self.tell_door();
            return false;
        }
        if links >= LINKS_LIMIT || link.is_gone() {
            return false;
        }
        if let Some(guest) = self.guests.get_mut(&link.peer) {
            guest.links.push(link.clone());
        }
        self.stir();
        true
    }

    pub(super) fn guest_closed(&mut self, link: &Link) {
        if let Some(guest) = self.guests.get_mut(&link.peer) {
            guest.links.retain(|known| known.id != link.id);
        }
    }

    /// The newest connection of a guest.
    pub(in crate::swarm) fn guest_link(&self, peer: PeerId) -> Option<Arc<Link>> {
        self.guests.get(&peer)?.links.last().cloned()
    }

    /// All connections of a guest.
    pub(in crate::swarm) fn guest_links(&self, peer: PeerId) -> Vec<Arc<Link>> {
        self.guests.get(&peer).map(|guest| guest.links.clone()).unwrap_or_default()
    }

    /// The guests that are connected.
    pub(in crate::swarm) fn guests_connected(&self) -> Vec<PeerId> {
        let connected = self.guests.iter().filter(|(_, guest)| !guest.links.is_empty());
        connected.map(|(peer, _)| *peer).collect()
    }

    /// Takes the connections off the book of those that are guests no more; gives them, and when the
    /// next pass ends of one that is connected.
    pub(in crate::swarm) fn end_visits(&mut self) -> (Vec<Arc<Link>>, Option<Duration>) {
        let mut next: Option<Duration> = None;
        let mut over = Vec::new();
        for peer in self.guests_connected() {
            let left = self.still_guest(peer);
            if left.is_zero() {
                over.extend(
                    self.guests.get_mut(&peer).map(|guest| std::mem::take(&mut guest.links)),
                );
            } else {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        (over.into_iter().flatten().collect(), next)
    }

    /// Notes in `cut` whose pass ended by what was just learned; `before` held until then.
    pub(super) fn cut_guests(&mut self, before: &[PeerId], cut: &mut Cut) {
        for peer in before {
            let is_over = self.still_guest(*peer).is_zero();
            if let Some(guest) = self.guests.get_mut(peer).filter(|_| is_over) {
                cut.guests.push(guest.open.says.clone());
                cut.cut_off.append(&mut guest.links);
            }
        }
        self.tell_door();
    }

    /// Those whose pass holds.
    pub(super) fn guests_now(&self) -> Vec<PeerId> {
        let guests = self.guests.keys().copied();
        guests.filter(|guest| !self.still_guest(*guest).is_zero()).collect()
    }

    /// What a guest's pass says.
    pub(in crate::swarm) fn guest(&self, peer: PeerId) -> Option<Certificate> {
        self.guests.get(&peer).map(|guest| guest.open.says.clone())
    }

    /// The passes of the guests of `owner`.
    pub(in crate::swarm) fn guests_of(&self, owner: &str) -> Vec<Certificate> {
        let passes = self.guests.values().map(|guest| &guest.open.says);
        passes.filter(|says| says.owner == owner).cloned().collect()
    }

    /// Who is a guest, and who was one, on whose word.
    pub(super) fn guest_admissions(&self) -> impl Iterator<Item = Admission> {
        let not_members = self.guests.iter().filter(|(peer, _)| !self.members.contains_key(*peer));
        not_members.map(|(_, guest)| Admission {
            revocation: self.revocations.find(&guest.open.says).cloned(),
            certificate: guest.open.says.clone(),
            standing: match self.check_pass(&guest.open) {
                Ok(_) => Standing::Guest,
                Err(BadCertificate::Expired { .. }) => Standing::Expired,
                Err(_) => Standing::Revoked,
            },
        })
    }
}
