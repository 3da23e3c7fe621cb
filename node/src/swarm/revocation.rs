//! Revocations: who is no longer a member, on whose word.
//!
//! One by the root holds against every certificate; one by a member that may invite, only against
//! those that it let in. It names a peer, or an owner: then it covers every certificate that names
//! the owner, also those that nobody here has seen yet. It is for good: there is no taking back, so
//! two nodes never disagree for longer than it takes them to talk.
//!
//! A [`Notice`] proves itself: what a node believes does not depend on what it heard first.

use std::collections::HashMap;
use std::fmt;

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::{Deserialize, Serialize};

use super::certificate::{BadCertificate, Certificate, OWNER_LIMIT};
use super::signed::{BadStatement, Signed, Statement};

/// The most notices by members that a node keeps; each has about 1 KB and is held in memory. The
/// root's word is always heard.
pub const NOTICES_LIMIT: usize = 4096;

/// Whom a revocation cuts off.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Whom {
    /// One peer.
    Peer(PeerId),
    /// All that belong to somebody.
    Owner {
        /// As certificates name it.
        owner: String,
    },
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Peer(peer) => write!(f, "{peer}"),
            Whom::Owner { owner } => write!(f, "owner {owner}"),
        }
    }
}

/// That somebody is no longer a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The swarm's root.
    pub swarm: PeerId,
    /// Who is cut off. The alias reads what was signed before owners could be.
    #[serde(alias = "peer")]
    pub whom: Whom,
    /// Who says so: the root, or a member that may invite.
    pub issuer: PeerId,
    /// When, milliseconds since 1970, for people.
    pub at_ms: u64,
}

impl Statement for Revocation {
    const CONTEXT: &'static [u8] = b"ipdc/revocation/1\n";

    fn signer(&self) -> PeerId {
        self.issuer
    }
}

/// A revocation and, when a member signed it, the member's certificate: all that is needed to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// The revocation.
    pub revocation: Signed<Revocation>,
    /// The certificate of its issuer; none when that is the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Signed<Certificate>>,
}

impl Notice {
    /// Signs `revocation` with `keypair`, whose certificate is `issuer`; none for the root's.
    ///
    /// # Errors
    /// When `keypair` is not the issuer that it names.
    pub fn sign(
        revocation: &Revocation,
        keypair: &Keypair,
        issuer: Option<Signed<Certificate>>,
    ) -> Result<Notice, BadStatement> {
        Ok(Notice { revocation: Signed::sign(revocation, keypair)?, issuer })
    }

    /// Checks that its issuer may revoke in the swarm `root` and gives what it says. Neither the
    /// end of the issuer's certificate nor its revocation takes the word back: it only ever
    /// concerns whom the issuer let in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(&self, root: PeerId) -> Result<Revocation, BadCertificate> {
        let said = self.revocation.open()?;
        if said.swarm != root {
            return Err(BadCertificate::OtherSwarm(said.swarm));
        }
        if let Whom::Owner { owner } = &said.whom
            && owner.len() > OWNER_LIMIT
        {
            return Err(BadStatement::Form("the owner's name is too long".into()).into());
        }
        if said.issuer == root {
            return Ok(said);
        }
        let not_allowed = || BadCertificate::Issuer(said.issuer);
        let issuer = self.issuer.as_ref().ok_or_else(not_allowed)?.open()?;
        let allowed = issuer.peer == said.issuer
            && issuer.issuer == root
            && issuer.swarm == root
            && issuer.may_invite;
        if allowed { Ok(said) } else { Err(not_allowed()) }
    }
}

/// The revocations that a node knows, in the order in which it learned them.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    /// By whom is cut off and who says so.
    known: HashMap<(Whom, PeerId), Revocation>,
    notices: Vec<Notice>,
}

impl Revocations {
    /// Takes in `notice`. Whether its issuer let in whom it names is decided when it meets a
    /// certificate. Returns what it says if that is news.
    ///
    /// # Errors
    /// When it cannot be believed.
    pub fn learn(
        &mut self,
        notice: &Notice,
        root: PeerId,
    ) -> Result<Option<Revocation>, BadCertificate> {
        let said = notice.open(root)?;
        let full = self.notices.len() >= NOTICES_LIMIT && said.issuer != root;
        let key = (said.whom.clone(), said.issuer);
        if full || self.known.contains_key(&key) {
            return Ok(None);
        }
        self.known.insert(key, said.clone());
        self.notices.push(notice.clone());
        Ok(Some(said))
    }

    /// The one that ends `certificate`, if any does: of its peer or its owner, or of one on whose
    /// word it rests.
    #[must_use]
    pub fn find(&self, certificate: &Certificate) -> Option<&Revocation> {
        let Certificate { swarm, peer, owner, issuer, through, .. } = certificate;
        let vouchers = || through.iter().chain([issuer]);
        let itself = [Whom::Peer(*peer), Whom::Owner { owner: owner.clone() }];
        let said = |whom: &Whom, by: PeerId| self.known.get(&(whom.clone(), by));
        itself
            .iter()
            .flat_map(|whom| vouchers().chain([swarm]).map(move |by| said(whom, *by)))
            .chain(vouchers().map(|voucher| said(&Whom::Peer(*voucher), *swarm)))
            .flatten()
            .next()
    }

    /// Whether `by` revoked `whom`.
    #[must_use]
    pub fn is_revoked(&self, whom: &Whom, by: PeerId) -> bool {
        self.known.contains_key(&(whom.clone(), by))
    }

    /// Those learned after the first `n`, oldest first.
    #[must_use]
    pub fn after(&self, n: usize) -> &[Notice] {
        self.notices.get(n..).unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.notices.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::swarm::certificate::{Credential, certify, now_ms};

    struct World {
        root: Keypair,
        /// May invite; owned by ann.
        inviter: Keypair,
        /// Let in by the inviter; owned by bob.
        member: Keypair,
        revoked: Revocations,
    }

    impl World {
        fn new() -> World {
            let key = Keypair::generate_ed25519;
            World { root: key(), inviter: key(), member: key(), revoked: Revocations::default() }
        }

        fn inviter(&self) -> Credential {
            certify(&self.root, id(&self.inviter), "ann", true).unwrap()
        }

        fn member(&self) -> Credential {
            let certificate = Certificate {
                peer: id(&self.member),
                owner: "bob".into(),
                issuer: id(&self.inviter),
                may_invite: false,
                ..self.inviter().certificate.open().unwrap()
            };
            let certificate = Signed::sign(&certificate, &self.inviter).unwrap();
            Credential { certificate, issuer: Some(self.inviter().certificate) }
        }

        fn is_member(&self, of: &Keypair, credential: &Credential) -> bool {
            match credential.check(id(of), id(&self.root), now_ms(), &self.revoked) {
                Ok(_) => true,
                Err(BadCertificate::Revoked(peer)) if peer == id(of) => false,
                Err(other) => panic!("{other}"),
            }
        }

        fn notice(&self, whom: Whom, by: &Keypair, issuer: Option<Credential>) -> Notice {
            let said = Revocation { swarm: id(&self.root), whom, issuer: id(by), at_ms: 0 };
            Notice::sign(&said, by, issuer.map(|issuer| issuer.certificate)).unwrap()
        }

        fn learn(&mut self, notice: &Notice) -> Result<(), BadCertificate> {
            let learned = self.revoked.learn(notice, id(&self.root))?;
            assert!(learned.is_some(), "no news");
            assert_eq!(self.revoked.learn(notice, id(&self.root))?, None);
            Ok(())
        }
    }

    fn id(key: &Keypair) -> PeerId {
        key.public().to_peer_id()
    }

    fn owner(name: &str) -> Whom {
        Whom::Owner { owner: name.into() }
    }

    #[test]
    fn whom_the_root_revokes_is_out_with_all_that_it_let_in() {
        let mut world = World::new();
        let notice = world.notice(Whom::Peer(id(&world.inviter)), &world.root, None);
        world.learn(&notice).unwrap();
        assert!(!world.is_member(&world.inviter, &world.inviter()));
        assert!(!world.is_member(&world.member, &world.member()));
    }

    #[test]
    fn an_inviter_revokes_those_that_it_let_in_and_nobody_else() {
        let mut world = World::new();
        let inviter = Some(world.inviter());
        for peer in [id(&world.member), id(&world.inviter)] {
            let notice = world.notice(Whom::Peer(peer), &world.inviter, inviter.clone());
            world.learn(&notice).unwrap();
        }
        assert!(!world.is_member(&world.member, &world.member()));
        assert!(world.is_member(&world.inviter, &world.inviter()));
        let by_root = certify(&world.root, id(&world.member), "bob", false).unwrap();
        assert!(world.is_member(&world.member, &by_root));
    }

    #[test]
    fn a_renewal_does_not_hide_who_let_a_member_in() {
        for by_root in [true, false] {
            let mut world = World::new();
            let inviter = Some(world.inviter());
            // A thief of the inviter's key says that the root let the member in.
            let root = id(&world.root);
            let mut renewed = world.member().certificate.open().unwrap();
            renewed.through = vec![root];
            renewed.through = renewed.renewed_through().unwrap();
            renewed.issuer = root;
            let renewed = Credential::by_root(&renewed, &world.root).unwrap();
            assert!(world.is_member(&world.member, &renewed));
            let notice = if by_root {
                world.notice(Whom::Peer(id(&world.inviter)), &world.root, None)
            } else {
                world.notice(Whom::Peer(id(&world.member)), &world.inviter, inviter)
            };
            world.learn(&notice).unwrap();
            assert!(!world.is_member(&world.member, &renewed));
        }
    }

    #[test]
    fn the_word_of_who_may_not_invite_is_not_heard() {
        let mut world = World::new();
        let whom = || Whom::Peer(id(&world.inviter));
        let not_allowed = Err(BadCertificate::Issuer(id(&world.member)));
        for issuer in [None, Some(world.member()), Some(world.inviter())] {
            let notice = world.notice(whom(), &world.member, issuer);
            assert_eq!(notice.open(id(&world.root)).map(|_| ()), not_allowed);
        }
        let foreign = World::new();
        let notice = foreign.notice(whom(), &foreign.root, None);
        let other = Err(BadCertificate::OtherSwarm(id(&foreign.root)));
        assert_eq!(world.learn(&notice), other);
    }

    #[test]
    fn a_revoked_owner_takes_along_whoever_its_machines_let_in() {
        let mut world = World::new();
        let bob = world.notice(owner("bob"), &world.root, None);
        world.learn(&bob).unwrap();
        assert!(!world.is_member(&world.member, &world.member()));
        assert!(world.is_member(&world.inviter, &world.inviter()));

        let mut world = World::new();
        let ann = world.notice(owner("ann"), &world.root, None);
        world.learn(&ann).unwrap();
        assert!(!world.is_member(&world.inviter, &world.inviter()));
        let checked = world.member().check(id(&world.member), id(&world.root), 0, &world.revoked);
        assert_eq!(checked, Err(BadCertificate::Revoked(id(&world.inviter))));
    }

    #[test]
    fn an_owner_is_revoked_by_an_inviter_only_where_it_let_it_in() {
        let mut world = World::new();
        let inviter = Some(world.inviter());
        let notice = world.notice(owner("bob"), &world.inviter, inviter);
        world.learn(&notice).unwrap();
        assert!(!world.is_member(&world.member, &world.member()));
        let by_root = certify(&world.root, id(&world.member), "bob", false).unwrap();
        assert!(world.is_member(&world.member, &by_root));
    }

    #[test]
    fn a_revocation_of_before_owners_could_be_revoked_still_holds() {
        let world = World::new();
        let (root, peer) = (id(&world.root), id(&world.member));
        let old = format!(r#"{{"swarm":"{root}","peer":"{peer}","issuer":"{root}","at_ms":1}}"#);
        let said: Revocation = serde_json::from_str(&old).unwrap();
        assert_eq!(said.whom, Whom::Peer(peer));
    }
}
