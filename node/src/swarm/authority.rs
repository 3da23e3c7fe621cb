//! What this node signs for the swarm: certificates of those that join, of delegates, renewed ones;
//! and revocations. With the root's key where that is, else in the root's name with its own.
//!
//! A member asks for its renewal in what it [tells](super::peers) those that may invite, from when a
//! third of the certificate's life is over. Whoever can signs a new one and takes it into its book:
//! so it reaches everybody, the member too, as any news does. What the member lacks then is asked of
//! the next.

use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use tokio::time::sleep;

use super::certificate::{BadCertificate, Certificate, Credential, new_serial, now_ms};
use super::guest::GuestPass;
use super::revocation::{Notice, Revocation, Whom};
use super::signed::{Signed, public_key};
use super::{Core, Swarm, SwarmError};
use crate::audit::{Entry, What};
use crate::state::guests;
use crate::state::members::{self, Grant};

/// How often the node with the root's key looks whether its own certificate is due: often in any
/// life that makes sense, and nothing on an idle machine.
const OWN_RENEWAL: Duration = Duration::from_secs(3600);

/// A member asks, and the root's key renews, when less than so many thirds of a life are left.
const ASKED_AT: u128 = 2;

/// A delegate renews when less than so many thirds are left.
const DELEGATES_AT: u128 = 1;

impl Swarm {
    /// Gives a member the right to invite, on the root's own word: whoever let it in may be revoked
    /// without it. It hears at once if it is connected. On the disk when this returns.
    ///
    /// # Errors
    /// When this node has not the root's key, the peer is no member, or the database fails.
    pub async fn delegate(&self, peer: PeerId) -> Result<(), SwarmError> {
        let core = &self.core;
        if core.root_key.is_none() {
            return Err(SwarmError::NotAllowed("let others invite"));
        }
        let old = core.book().certificate(peer).ok_or(SwarmError::NoMember(Whom::Peer(peer)))?;
        if old.may_invite && old.let_in_by() == core.root {
            return Ok(());
        }
        // The longer one holds.
        let expires_ms = core.life_from_now().max(old.expires_ms.saturating_add(1));
        let grant = Grant { owner: old.owner, may_invite: true, serial: new_serial(), expires_ms };
        let credential = core.issue(peer, Vec::new(), grant)?;
        core.publish(peer, credential)?;
        let unsaved = core.book().take_unsaved();
        core.db.call(move |c| members::save_members(c, &unsaved)).await?;
        tracing::info!(%peer, "may invite from now on");
        Ok(())
    }

    /// Lets a peer that is no member in as a [guest](super::guest), for `ttl` from now and no longer than
    /// this node's own certificate holds. Nodes that are connected hear at once, others when they
    /// meet one that knows. On the disk when this returns; gives when the pass ends, milliseconds
    /// since 1970.
    ///
    /// # Errors
    /// When this node may not invite, the peer is a member or was revoked, or the database fails.
    pub async fn admit_guest(&self, peer: PeerId, ttl: Duration) -> Result<u64, SwarmError> {
        let core = &self.core;
        if public_key(&peer).is_none() {
            return Err(SwarmError::GuestKey(peer));
        }
        let own = {
            let book = core.book();
            if book.certificate(peer).is_some() {
                return Err(SwarmError::Member(peer));
            }
            book.check(book.own(), core.local())?
        };
        if core.root_key.is_none() && !own.may_invite {
            return Err(SwarmError::NotAllowed("let guests in"));
        }
        let (keypair, issuer) = core.signer();
        let bound = if core.root_key.is_some() { u64::MAX } else { own.expires_ms };
        let expires_ms = now_ms().saturating_add(ttl.as_millis() as u64).min(bound);
        let says = Certificate {
            swarm: core.root,
            peer,
            owner: own.owner,
            serial: new_serial(),
            issuer: keypair.public().to_peer_id(),
            through: Vec::new(),
            may_invite: false,
            expires_ms,
        };
        let pass = GuestPass::sign(says, keypair, issuer).map_err(BadCertificate::from)?;
        let learned = core.book().learn_guest(&pass).map_err(|bad| match bad {
            BadCertificate::Revoked(_) => SwarmError::Revoked(Whom::Peer(peer)),
            other => other.into(),
        })?;
        core.note_guests(learned.as_slice());
        let passes = core.book().take_unsaved_guests();
        core.db.call(move |c| guests::save(c, &passes)).await?;
        let ends = core.book().guest(peer).map(|says| says.expires_ms);
        Ok(ends.unwrap_or(expires_ms))
    }

    /// Cuts off a peer, or all that belong to an owner. The node with the root's key may cut off
    /// anyone, another only whom it let in. Whom they let in goes with them. What is connected
    /// hears at once, others when they meet anyone who knows. On the disk when this returns; gives
    /// the members that are none any more.
    ///
    /// # Errors
    /// When this node may not, knows none of them, or the database fails.
    pub async fn revoke(&self, whom: Whom) -> Result<Vec<PeerId>, SwarmError> {
        let core = &self.core;
        let (keypair, credential) = core.signer();
        let issuer = keypair.public().to_peer_id();
        let at_ms = now_ms();
        let notices: Vec<Notice> = core
            .revocable(&whom, issuer)?
            .into_iter()
            .map(|whom| {
                let said = Revocation { swarm: core.root, whom, issuer, at_ms };
                Notice::sign(&said, keypair, credential.clone())
            })
            .collect::<Result<_, _>>()
            .map_err(BadCertificate::from)?;
        Ok(core.learn_revocations(&notices, None).await?)
    }
}

impl Core {
    /// With what this node signs for the swarm: the root's key where it is, else its own with the
    /// certificate that lets it.
    fn signer(&self) -> (&Keypair, Option<Signed<Certificate>>) {
        match &self.root_key {
            Some(root_key) => (root_key, None),
            None => (&self.keypair, Some(self.book().own().certificate.clone())),
        }
    }

    /// What `issuer`, who signs here, has to revoke to cut `whom` off: itself and, of an owner, each
    /// peer that is known, so that a certificate that one of them renewed is covered as well.
    fn revocable(&self, whom: &Whom, issuer: PeerId) -> Result<Vec<Whom>, SwarmError> {
        let book = self.book();
        let concerned: Vec<Certificate> = match whom {
            Whom::Peer(peer) => book.certificate(*peer).or(book.guest(*peer)).into_iter().collect(),
            Whom::Owner { owner } => {
                let mut concerned = book.certificates_of(owner);
                concerned.extend(book.guests_of(owner));
                concerned
            }
        };
        let itself = [self.local(), self.root].map(Whom::Peer).contains(whom);
        if itself || concerned.iter().any(|certificate| certificate.peer == self.local()) {
            return Err(SwarmError::NotAllowed("revoke itself"));
        }
        // The root may know a peer's name from elsewhere; an owner's that nobody has is mistyped.
        let known = self.root_key.is_some() && matches!(whom, Whom::Peer(_));
        if concerned.is_empty() && !known {
            return Err(SwarmError::NoMember(whom.clone()));
        }
        let own = |certificate: &Certificate| {
            certificate.issuer == issuer || certificate.through.contains(&issuer)
        };
        if self.root_key.is_none() && !concerned.iter().all(own) {
            return Err(SwarmError::NotAllowed("revoke a peer that it did not invite"));
        }
        let mut all: Vec<Whom> = concerned.iter().map(|c| Whom::Peer(c.peer)).collect();
        if !all.contains(whom) {
            all.push(whom.clone());
        }
        Ok(all)
    }

    /// Notes the guests that are new here.
    pub(super) fn note_guests(&self, guests: &[Certificate]) {
        for says in guests {
            let holds = Duration::from_millis(says.expires_ms.saturating_sub(now_ms()));
            let holds = humantime::format_duration(Duration::from_secs(holds.as_secs()));
            let detail = format!("as a guest for {holds}, by {}", says.issuer);
            let entry = Entry::now(What::Admitted, &says.owner, detail);
            self.audit.note(Entry { peer: Some(says.peer), ..entry });
        }
    }

    /// When a certificate that is signed now ends.
    pub(super) fn life_from_now(&self) -> u64 {
        now_ms().saturating_add(self.certificate_life.as_millis() as u64)
    }

    /// Signs a certificate for `peer`, which rests on the word of those in `through` as well. It does
    /// not outlive the one of its issuer.
    pub(super) fn issue(
        &self,
        peer: PeerId,
        through: Vec<PeerId>,
        grant: Grant,
    ) -> Result<Credential, SwarmError> {
        let (keypair, issuer) = self.signer();
        let own = issuer.as_ref().map(Signed::open).transpose().map_err(BadCertificate::from)?;
        let bound = own.map_or(u64::MAX, |own| own.expires_ms);
        let certificate = Certificate {
            swarm: self.root,
            peer,
            owner: grant.owner,
            serial: grant.serial,
            issuer: keypair.public().to_peer_id(),
            through,
            may_invite: grant.may_invite,
            expires_ms: grant.expires_ms.min(bound),
        };
        let signed = Signed::sign(&certificate, keypair).map_err(BadCertificate::from)?;
        Ok(Credential { certificate: signed, issuer })
    }

    /// Takes a credential that was signed here into the book: from there it reaches everybody.
    fn publish(&self, peer: PeerId, credential: Credential) -> Result<(), SwarmError> {
        let mut book = self.book();
        let certificate = book.check(&credential, peer)?;
        book.learn_member(peer, credential, certificate);
        Ok(())
    }

    /// Whether less than so many thirds of a life are left of `certificate`.
    fn is_due(&self, certificate: &Certificate, thirds: u128) -> bool {
        let left = certificate.expires_ms.saturating_sub(now_ms());
        u128::from(left) < self.certificate_life.as_millis() * thirds / 3
    }

    /// Whether to ask `peer` for a renewal.
    pub(super) fn asks_renewal_of(&self, peer: PeerId) -> bool {
        let book = self.book();
        let own = book.certificate(self.local());
        let peer = book.certificate(peer);
        drop(book);
        own.is_some_and(|own| self.is_due(&own, ASKED_AT))
            && peer.is_some_and(|peer| peer.may_invite)
    }

    /// Renews the certificate of `peer`, which asks for it and was admitted, if it is due and this
    /// node may and can make it last longer. Only the root's key renews those that may invite; of
    /// others a delegate waits longer, for they had better rest on nobody's word but the root's.
    pub(super) fn renew(&self, peer: PeerId) -> Result<(), SwarmError> {
        let book = self.book();
        let (old, own) = (book.certificate(peer), book.certificate(self.local()));
        drop(book);
        let (Some(old), Some(own)) = (old, own) else { return Ok(()) };
        let thirds = match &self.root_key {
            Some(_) => ASKED_AT,
            None if own.may_invite && !old.may_invite => DELEGATES_AT,
            None => return Ok(()),
        };
        let bound = if self.root_key.is_some() { u64::MAX } else { own.expires_ms };
        let expires_ms = self.life_from_now().min(bound);
        if !self.is_due(&old, thirds) || expires_ms <= old.expires_ms {
            return Ok(());
        }
        let Some(through) = old.renewed_through() else {
            tracing::warn!(%peer, "not renewed: too many delegates had to do with its certificate");
            return Ok(());
        };
        let grant = Grant {
            owner: old.owner,
            may_invite: old.may_invite,
            serial: new_serial(),
            expires_ms,
        };
        let credential = self.issue(peer, through, grant)?;
        self.publish(peer, credential)?;
        tracing::debug!(%peer, "certificate renewed");
        Ok(())
    }
}

/// Renews the certificate of the node with the root's key, which asks nobody, until the node stops.
pub(super) async fn renew_own(core: Arc<Core>) {
    while core.root_key.is_some() {
        if let Err(error) = core.renew(core.local()) {
            tracing::warn!(%error, "this node's certificate was not renewed");
        }
        sleep(OWN_RENEWAL).await;
    }
}
