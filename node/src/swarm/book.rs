//! The peer book: what this node knows of the swarm's members, and when to dial whom.
//!
//! No I/O and no tasks: `peers` feeds it what happens and does what it says. Held behind one lock
//! that is never kept across an await.
//!
//! Each change that others should hear of raises the book's version and marks the member with it:
//! a peer is told what is newer than what it was told before.

mod dials;
mod guests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use self::dials::{Contact, Dial};
use self::guests::Guest;
use super::SwarmEvent;
use super::address::{ADDRESSES_LIMIT, Whereabouts};
use super::admission::Admitted;
use super::certificate::{BadCertificate, Certificate, Credential, now_ms};
use super::conduct::Misdeed;
use super::facts::{FACTS_LIMIT, PeerFacts};
use super::guest::GuestPass;
use super::rekey::KeyChange;
use super::revocation::{Notice, Revocation, Revocations};
use super::signed::{BadStatement, Signed};
use crate::state::members;
use ipdc_gate::Link;

pub(super) use self::dials::{DueDial, Target};

/// Members at most: as many as connections, each with each. Beyond, a root has lost its key.
const MEMBERS_LIMIT: usize = 4096;
/// A connection shorter than this counts as a failed dial: two nodes that cannot agree do not
/// dial each other in a loop.
const PROVEN: Duration = Duration::from_secs(10);
/// Addresses kept that led to a peer but that it does not tell itself (port forwards, names).
const WORKED_LIMIT: usize = 4;
/// Members and revocations in one telling: about 1.5 KiB each, so a frame stays under its limit.
const TELLING_LIMIT: usize = 100;

/// What a peer tells another.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Telling {
    /// About itself, if that is news.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) facts: Option<PeerFacts>,
    /// Members it knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) members: Vec<ToldMember>,
    /// A change of the swarm's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Signed<KeyChange>>,
    /// Who was cut off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) revocations: Vec<Notice>,
    /// Guests it knows of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) guests: Vec<GuestPass>,
    /// Whether it asks for its certificate to be renewed. The answer is news like any other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) renew: bool,
}

/// A member as peers tell of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ToldMember {
    pub(super) peer: PeerId,
    pub(super) credential: Credential,
    pub(super) whereabouts: Option<Signed<Whereabouts>>,
}

/// How far a peer was told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    version: u64,
    revocations: usize,
}

/// A peer as others of this node see it.
#[derive(Debug, Clone, Serialize)]
pub struct PeerView {
    /// The peer.
    pub peer: PeerId,
    /// Whom it belongs to.
    pub owner: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// The round trip of the last telling, in milliseconds; none if never measured.
    pub latency_ms: Option<f64>,
    /// Where it is dialled.
    pub addresses: Vec<Multiaddr>,
    /// What it last told of itself; none if it was not connected in this run.
    pub facts: Option<PeerFacts>,
    /// When it was last connected, milliseconds since 1970; none for never.
    pub seen_ms: Option<u64>,
}

/// Where a peer stands, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Its certificate holds.
    Member,
    /// It is none, and its pass holds.
    Guest,
    /// It ended and was not renewed.
    Expired,
    /// It was cut off, or one on whose word it was let in.
    Revoked,
}

/// On whose word a peer is a member or a guest, or was one.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The last certificate that is known of it; what a guest's pass says.
    pub certificate: Certificate,
    /// Whether it holds.
    pub standing: Standing,
    /// What ended it, if it names the peer, its owner, or one that vouched for it.
    pub revocation: Option<Revocation>,
}

/// What came of a telling.
#[derive(Default)]
pub(super) struct Heard {
    /// What of it no honest node tells.
    pub(super) misdeed: Option<Misdeed>,
    /// What the passes say of guests that are new here.
    pub(super) guests: Vec<Certificate>,
}

/// What revocations changed.
#[derive(Default)]
pub(super) struct Cut {
    /// Those that are news.
    pub(super) notices: Vec<(Revocation, Notice)>,
    /// Who is a member no more: what is kept of it, and what let it in.
    pub(super) removed: Vec<(members::Member, Certificate)>,
    /// Who is a guest no more: what its pass said.
    pub(super) guests: Vec<Certificate>,
    /// The connections of all of them.
    pub(super) cut_off: Vec<Arc<Link>>,
    /// Whether one of those told was never signed by whom it names.
    pub(super) is_forged: bool,
}

struct Member {
    credential: Credential,
    certificate: Certificate,
    whereabouts: Option<(Whereabouts, Signed<Whereabouts>)>,
    /// Addresses that led to it, the last first.
    worked: Vec<Multiaddr>,
    /// Addresses of its where somebody else answered.
    wrong: Vec<Multiaddr>,
    /// Its admitted connections and since when, the newest last.
    links: Vec<(Arc<Link>, Instant)>,
    /// The process that they lead to.
    run: u64,
    latency: Option<Duration>,
    facts: Option<PeerFacts>,
    seen_ms: u64,
    dial: Dial,
    /// The book's version when something of it changed that others should hear.
    version: u64,
}

impl Member {
    fn new(credential: Credential, certificate: Certificate) -> Member {
        Member {
            credential,
            certificate,
            whereabouts: None,
            worked: Vec::new(),
            wrong: Vec::new(),
            links: Vec::new(),
            run: 0,
            latency: None,
            facts: None,
            seen_ms: 0,
            dial: Dial::now(),
            version: 0,
        }
    }

    /// What is kept of it on the disk.
    fn to_keep(&self, peer: PeerId) -> members::Member {
        members::Member {
            peer,
            credential: self.credential.clone(),
            whereabouts: self.whereabouts.as_ref().map(|(_, signed)| signed.clone()),
            worked: self.worked.clone(),
            seen_ms: self.seen_ms,
        }
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let told = self.whereabouts.iter().flat_map(|(said, _)| &said.addresses);
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in self.worked.iter().chain(told) {
            if !addresses.contains(address) && !self.wrong.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }
}

/// The peer book.
pub(super) struct Book {
    local: PeerId,
    root: PeerId,
    /// Our own credential.
    own: Credential,
    members: BTreeMap<PeerId, Member>,
    /// Who was cut off, for people to see: [`MEMBERS_LIMIT`] at most.
    former: BTreeMap<PeerId, Certificate>,
    contacts: Vec<Contact>,
    guests: BTreeMap<PeerId, Guest>,
    /// Where the gate hears who is a guest.
    door: ipdc_gate::Guests,
    revocations: Revocations,
    /// Who was put out for its conduct, and until when it is not dialled.
    put_out: BTreeMap<PeerId, Instant>,
    version: u64,
    /// Members that changed since they were last kept.
    unsaved: BTreeSet<PeerId>,
    unsaved_guests: BTreeSet<PeerId>,
    events: broadcast::Sender<SwarmEvent>,
    /// Tells the tasks round the book to look again.
    stirred: watch::Sender<()>,
}

impl Book {
    pub(super) fn new(
        local: PeerId,
        root: PeerId,
        own: Credential,
        events: broadcast::Sender<SwarmEvent>,
        revoked: Vec<Notice>,
    ) -> Book {
        let mut revocations = Revocations::default();
        for notice in &revoked {
            // They were checked before they were kept; a damaged one is heard again from peers.
            if let Err(error) = revocations.learn(notice, root) {
                tracing::warn!(%error, "a revocation in the database is damaged");
            }
        }
        Book {
            local,
            root,
            own,
            members: BTreeMap::new(),
            former: BTreeMap::new(),
            contacts: Vec::new(),
            guests: BTreeMap::new(),
            door: ipdc_gate::Guests::default(),
            revocations,
            put_out: BTreeMap::new(),
            version: 0,
            unsaved: BTreeSet::new(),
            unsaved_guests: BTreeSet::new(),
            events,
            stirred: watch::Sender::new(()),
        }
    }

    /// Changes whenever there may be something to dial, to tell or to save.
    pub(super) fn stirred(&self) -> watch::Receiver<()> {
        self.stirred.subscribe()
    }

    pub(super) fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Checks that `credential` makes `peer` a member now.
    pub(super) fn check(
        &self,
        credential: &Credential,
        peer: PeerId,
    ) -> Result<Certificate, BadCertificate> {
        credential.check(peer, self.root, now_ms(), &self.revocations)
    }

    /// Adds addresses to dial until a connection to whoever is there lasts.
    pub(super) fn add_contacts(
        &mut self,
        contacts: impl Iterator<Item = (Multiaddr, Option<PeerId>)>,
    ) {
        for (address, peer) in contacts {
            if peer != Some(self.local) {
                self.contacts.push(Contact { address, peer, dial: Dial::now() });
            }
        }
    }

    /// Takes in what was kept of a run before. Who expired may have been renewed meanwhile.
    pub(super) fn restore(&mut self, kept: members::Member) {
        let checked = self.check(&kept.credential, kept.peer);
        let Ok(certificate) = kept.credential.certificate.open() else { return };
        match checked {
            Ok(_) | Err(BadCertificate::Expired { .. }) => {}
            Err(BadCertificate::Revoked(_)) => return self.remember_former(kept.peer, certificate),
            Err(_) => return,
        }
        let mut member = Member::new(kept.credential, certificate);
        member.whereabouts =
            kept.whereabouts.and_then(|signed| Some((signed.open().ok()?, signed)));
        member.worked = kept.worked;
        member.seen_ms = kept.seen_ms;
        self.members.insert(kept.peer, member);
    }

    fn remember_former(&mut self, peer: PeerId, certificate: Certificate) {
        if self.former.len() < MEMBERS_LIMIT {
            self.former.insert(peer, certificate);
        }
    }

    /// Takes in our own credential: the one that the home was made with, or the one that was kept
    /// since if that holds for longer.
    ///
    /// # Errors
    /// When neither makes us a member.
    pub(super) fn restore_own(&mut self) -> Result<(), BadCertificate> {
        if let Some(kept) = self.members.get(&self.local) {
            let (kept, longer) = (kept.credential.clone(), kept.certificate.expires_ms);
            if self.own.certificate.open()?.expires_ms < longer {
                self.own = kept;
            }
        }
        let certificate = self.check(&self.own, self.local)?;
        self.learn_member(self.local, self.own.clone(), certificate);
        Ok(())
    }

    /// The members to keep: those that changed since they were last taken.
    pub(super) fn take_unsaved(&mut self) -> Vec<members::Member> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let unsaved = unsaved.into_iter();
        unsaved
            .filter_map(|peer| Some((peer, self.members.get(&peer)?)))
            .map(|(peer, member)| member.to_keep(peer))
            .collect()
    }

    /// Takes in a credential that was checked.
    pub(super) fn learn_member(
        &mut self,
        peer: PeerId,
        credential: Credential,
        certificate: Certificate,
    ) {
        let full = self.members.len() >= MEMBERS_LIMIT && peer != self.local;
        match self.members.get_mut(&peer) {
            // The longer one holds; so all nodes end with the same.
            Some(member) => {
                let order = |c: &Certificate| (c.expires_ms, c.serial);
                if order(&certificate) <= order(&member.certificate) {
                    return;
                }
                member.credential = credential;
                member.certificate = certificate;
            }
            None if full => return,
            None => {
                self.former.remove(&peer);
                self.members.insert(peer, Member::new(credential, certificate));
                if self.guests.contains_key(&peer) {
                    self.tell_door();
                }
            }
        }
        if let Some(member) = self.members.get(&peer)
            && peer == self.local
        {
            self.own = member.credential.clone();
        }
        self.changed(peer);
    }

    /// Takes in where a member says it is, if that is news.
    ///
    /// # Errors
    /// When the member did not say so.
    fn learn_whereabouts(
        &mut self,
        peer: PeerId,
        signed: &Signed<Whereabouts>,
    ) -> Result<(), BadStatement> {
        let Some(member) = self.members.get_mut(&peer) else { return Ok(()) };
        if member.whereabouts.as_ref().is_some_and(|(_, known)| known == signed) {
            return Ok(());
        }
        let said = match signed.open() {
            Ok(said) if said.peer == peer => said,
            Ok(_) => return Err(BadStatement::Signature(peer)),
            // As a newer version may say it.
            Err(BadStatement::Form(_)) => return Ok(()),
            Err(forged) => return Err(forged),
        };
        let newer = member.whereabouts.as_ref().is_none_or(|(old, _)| old.number < said.number);
        if !newer || said.addresses.len() > ADDRESSES_LIMIT {
            return Ok(());
        }
        member.whereabouts = Some((said, signed.clone()));
        member.wrong.clear();
        member.dial.at_once();
        self.changed(peer);
        Ok(())
    }

    /// Sets our own whereabouts.
    pub(super) fn set_own_whereabouts(&mut self, signed: &Signed<Whereabouts>) {
        // Signed here.
        let _ = self.learn_whereabouts(self.local, signed);
    }

    /// The number of our own whereabouts; 0 before the first.
    pub(super) fn own_number(&self) -> u64 {
        let own = self.members.get(&self.local).and_then(|member| member.whereabouts.as_ref());
        own.map_or(0, |(said, _)| said.number)
    }

    /// Takes in those of `notices` that can be believed.
    pub(super) fn learn_revocations(&mut self, notices: &[Notice]) -> Cut {
        let mut cut = Cut::default();
        let guests = self.guests_now();
        for notice in notices {
            match self.revocations.learn(notice, self.root) {
                Ok(Some(said)) => cut.notices.push((said, notice.clone())),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a revocation cannot be believed");
                    cut.is_forged |= error.is_forgery();
                }
            }
        }
        if cut.notices.is_empty() {
            return cut;
        }
        let gone: Vec<PeerId> = self
            .members
            .iter()
            .filter(|(peer, member)| {
                let checked = self.check(&member.credential, **peer);
                matches!(checked, Err(BadCertificate::Revoked(_)))
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            if peer == self.local {
                // Nobody lets it in any more, and it does not start again; what runs here may end.
                tracing::error!("this node was revoked: it is no member of the swarm any more");
                continue;
            }
            let Some(member) = self.members.remove(&peer) else { continue };
            if !member.links.is_empty() {
                self.tell_us(SwarmEvent::Down(peer));
            }
            cut.removed.push((member.to_keep(peer), member.certificate.clone()));
            cut.cut_off.extend(member.links.into_iter().map(|(link, _)| link));
            self.remember_former(peer, member.certificate);
        }
        self.cut_guests(&guests, &mut cut);
        self.stir();
        cut
    }

    /// A connection was made, and is in quarantine. `target` is whom we dialled for it.
    pub(super) fn opened(&mut self, link: &Link, target: Option<Target>) {
        if let Some(Target::Contact(i)) = target
            && let Some(contact) = self.contacts.get_mut(i)
        {
            contact.peer = Some(link.peer);
        }
    }

    /// Whether `peer` is connected now as another process than `run`. One process has several
    /// connections when both sides dialled at once; two have the same identity when a home was copied.
    pub(super) fn is_copy(&self, peer: PeerId, run: u64) -> bool {
        let member = self.members.get(&peer);
        member.is_some_and(|m| m.run != run && m.links.iter().any(|(link, _)| !link.is_gone()))
    }

    /// A connection left quarantine. False if it is gone already, or what let it in no longer
    /// holds: close it then.
    pub(super) fn admitted(&mut self, link: &Arc<Link>, admitted: Admitted) -> bool {
        let Admitted { credential, run } = admitted;
        let Ok(certificate) = self.check(&credential, link.peer) else { return false };
        if self.is_copy(link.peer, run) {
            return false;
        }
        self.learn_member(link.peer, credential, certificate);
        let Some(member) = self.members.get_mut(&link.peer) else { return false };
        if link.is_gone() {
            return false;
        }
        member.run = run;
        member.links.push((link.clone(), Instant::now()));
        member.seen_ms = now_ms();
        if let Some(address) = &link.dialled {
            let (address, _) = super::address::split_peer(address);
            member.worked.retain(|known| *known != address);
            member.worked.insert(0, address);
            member.worked.truncate(WORKED_LIMIT);
        }
        if member.links.len() == 1 {
            self.tell_us(SwarmEvent::Up(link.peer));
        }
        self.unsaved.insert(link.peer);
        self.stir();
        true
    }

    /// A connection is gone, admitted or not.
    pub(super) fn closed(&mut self, link: &Link) {
        let smaller = self.local < link.peer;
        for contact in self.contacts.iter_mut().filter(|c| c.peer == Some(link.peer)) {
            contact.dial.failed();
        }
        self.guest_closed(link);
        let Some(member) = self.members.get_mut(&link.peer) else { return };
        let since = member.links.iter().find(|(known, _)| known.id == link.id);
        let since = since.map(|(_, since)| *since);
        member.links.retain(|(known, _)| known.id != link.id);
        if !member.links.is_empty() {
            return;
        }
        match since {
            Some(since) if since.elapsed() >= PROVEN => {
                member.dial.at_once();
                // Both notice together: one dials at once, the other if that came to nothing.
                if !smaller {
                    member.dial.after_the_other();
                }
            }
            _ => member.dial.failed(),
        }
        if since.is_some() {
            member.seen_ms = now_ms();
            member.latency = None;
            self.unsaved.insert(link.peer);
            self.tell_us(SwarmEvent::Down(link.peer));
        }
        self.stir();
    }

    /// Does not dial `peer` before `until`, and gives its connections, to be closed.
    pub(super) fn put_out(&mut self, peer: PeerId, until: Instant) -> Vec<Arc<Link>> {
        let now = Instant::now();
        self.put_out.retain(|_, until| *until > now);
        self.put_out.insert(peer, until);
        let links = self.members.get(&peer).map(|member| &member.links);
        links.into_iter().flatten().map(|(link, _)| link.clone()).collect()
    }

    /// What is news to a peer that was told so far: tellings, without facts, and how far it is
    /// told with them.
    pub(super) fn news(&self, told: Told) -> (Vec<Telling>, Told) {
        let changed: Vec<ToldMember> = self
            .members
            .iter()
            .filter(|(_, member)| member.version > told.version)
            .map(|(peer, member)| ToldMember {
                peer: *peer,
                credential: member.credential.clone(),
                whereabouts: member.whereabouts.as_ref().map(|(_, signed)| signed.clone()),
            })
            .collect();
        let revocations = self.revocations.after(told.revocations).chunks(TELLING_LIMIT);
        let revocations =
            revocations.map(|chunk| Telling { revocations: chunk.to_vec(), ..Telling::default() });
        let members = changed.chunks(TELLING_LIMIT);
        let members =
            members.map(|chunk| Telling { members: chunk.to_vec(), ..Telling::default() });
        let guests = self.guests_after(told.version);
        let guests = guests.chunks(TELLING_LIMIT);
        let guests = guests.map(|chunk| Telling { guests: chunk.to_vec(), ..Telling::default() });
        let tellings = revocations.chain(members).chain(guests).collect();
        (tellings, Told { version: self.version, revocations: self.revocations.count() })
    }

    /// Whether there is anything that a peer was not told.
    pub(super) fn has_news(&self, told: Told) -> bool {
        told.version < self.version || told.revocations < self.revocations.count()
    }

    /// Takes in what `from` told, revocations and keys aside.
    pub(super) fn heard(&mut self, from: PeerId, telling: Telling) -> Heard {
        let mut heard = Heard::default();
        for pass in &telling.guests {
            match self.learn_guest(pass) {
                Ok(says) => heard.guests.extend(says),
                Err(bad) if bad.is_forgery() => {
                    heard.misdeed = Some(Misdeed::Forged("a guest's pass"));
                }
                // One that does not hold any more is no lie.
                Err(_) => {}
            }
        }
        for told in telling.members {
            let known = self.members.get(&told.peer);
            // Most of what is told is known: no signature is looked at twice.
            if known.is_none_or(|member| member.credential != told.credential) {
                match self.check(&told.credential, told.peer) {
                    Ok(certificate) => self.learn_member(told.peer, told.credential, certificate),
                    Err(bad) if bad.is_forgery() => {
                        heard.misdeed = Some(Misdeed::Forged("a certificate"));
                    }
                    Err(_) => {}
                }
            }
            // Where we are, we know best.
            if let Some(whereabouts) = told.whereabouts
                && told.peer != self.local
                && self.learn_whereabouts(told.peer, &whereabouts).is_err()
            {
                heard.misdeed = Some(Misdeed::Forged("an address"));
            }
        }
        let Some(member) = self.members.get_mut(&from) else { return heard };
        member.seen_ms = now_ms();
        if let Some(facts) = telling.facts {
            let size = facts.size();
            if size > FACTS_LIMIT {
                heard.misdeed = Some(Misdeed::Facts(size));
                return heard;
            }
            member.facts = Some(facts);
            self.tell_us(SwarmEvent::Facts(from));
        }
        heard
    }

    /// A telling to `peer` was acknowledged after `latency`.
    pub(super) fn measured(&mut self, peer: PeerId, latency: Duration) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.latency = Some(latency);
        }
    }

    /// For how long `peer`'s certificate still holds; zero if it does not.
    pub(super) fn still_member(&self, peer: PeerId) -> Duration {
        let holds = |member: &&Member| self.check(&member.credential, peer).is_ok();
        let expires_ms = self.members.get(&peer).filter(holds).map(|m| m.certificate.expires_ms);
        Duration::from_millis(expires_ms.unwrap_or_default().saturating_sub(now_ms()))
    }

    /// Our own credential.
    pub(super) fn own(&self) -> &Credential {
        &self.own
    }

    /// The newest admitted connection to `peer`: most probably the living one.
    pub(super) fn link(&self, peer: PeerId) -> Option<Arc<Link>> {
        self.members.get(&peer)?.links.last().map(|(link, _)| link.clone())
    }

    /// All admitted connections, and those of guests.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let links = self.members.values().flat_map(|member| &member.links);
        let guests = self.guests.keys().flat_map(|guest| self.guest_links(*guest));
        links.map(|(link, _)| link.clone()).chain(guests).collect()
    }

    /// The members that are connected, in the order of their IDs.
    pub(super) fn connected(&self) -> Vec<PeerId> {
        let connected = self.members.iter().filter(|(_, member)| !member.links.is_empty());
        connected.map(|(peer, _)| *peer).collect()
    }

    /// The certificate of a member.
    pub(super) fn certificate(&self, peer: PeerId) -> Option<Certificate> {
        self.members.get(&peer).map(|member| member.certificate.clone())
    }

    /// Whether the peer is a member that was connected before.
    pub(super) fn was_seen(&self, peer: PeerId) -> bool {
        self.members.get(&peer).is_some_and(|member| member.seen_ms > 0)
    }

    /// The certificates of the members that belong to `owner`.
    pub(super) fn certificates_of(&self, owner: &str) -> Vec<Certificate> {
        let certificates = self.members.values().map(|member| &member.certificate);
        certificates.filter(|certificate| certificate.owner == owner).cloned().collect()
    }

    /// All members but ourselves, in the order of their IDs.
    pub(super) fn views(&self) -> Vec<PeerView> {
        let others = self.members.iter().filter(|(peer, _)| **peer != self.local);
        others
            .map(|(peer, member)| PeerView {
                peer: *peer,
                owner: member.certificate.owner.clone(),
                connected: !member.links.is_empty(),
                latency_ms: member.latency.map(|latency| latency.as_secs_f64() * 1000.0),
                addresses: member.addresses(),
                facts: member.facts.clone(),
                seen_ms: (member.seen_ms > 0).then_some(member.seen_ms),
            })
            .collect()
    }

    /// Who is a member, ourselves included, or a guest, and who was one, on whose word, in the order of
    /// their IDs.
    pub(super) fn admissions(&self) -> Vec<Admission> {
        let now_ms = now_ms();
        let members = self.members.iter().map(|(peer, member)| {
            let standing = match self.check(&member.credential, *peer) {
                Err(BadCertificate::Revoked(_)) => Standing::Revoked,
                _ if member.certificate.has_expired(now_ms) => Standing::Expired,
                _ => Standing::Member,
            };
            (&member.certificate, standing)
        });
        let former = self.former.values().map(|certificate| (certificate, Standing::Revoked));
        let mut all: Vec<Admission> = members
            .chain(former)
            .map(|(certificate, standing)| Admission {
                revocation: self.revocations.find(certificate).cloned(),
                certificate: certificate.clone(),
                standing,
            })
            .chain(self.guest_admissions())
            .collect();
        all.sort_by_key(|admission| admission.certificate.peer);
        all
    }

    fn changed(&mut self, peer: PeerId) {
        self.version += 1;
        if let Some(member) = self.members.get_mut(&peer) {
            member.version = self.version;
        }
        self.unsaved.insert(peer);
        self.stir();
    }

    /// Has the tasks round the book look again.
    pub(super) fn stir(&self) {
        self.stirred.send_replace(());
    }

    fn tell_us(&self, event: SwarmEvent) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }
}

#[cfg(test)]
mod tests;
