//! Certificates: who is a member, on whose word.
//!
//! A certificate says that a peer belongs to the swarm and who owns it. The root signs it, or a
//! member to whom the root gave the right to invite ([`Certificate::may_invite`]); so a chain has
//! at most two links, and such a member cannot pass its right on. The swarm's name is the root's
//! peer ID.
//!
//! A member that is [revoked](super::revocation) takes those it invited with it: what a thief
//! signed cannot be told from what the owner signed.
//!
//! Wall clocks decide only expiry. There is no "not before": the clock of a small board starts in 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::{Deserialize, Serialize};

use super::revocation::Revocations;
use super::signed::{BadStatement, Signed, Statement};

/// How long a certificate is valid: a machine that was off for a summer is still a member, one
/// that was given away and forgotten is none after half a year.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(180 * 24 * 3600);

/// The most peers on whose word a certificate rests besides its issuer: more than a swarm has
/// delegates, unless it has too many. Such a certificate is not renewed.
pub const THROUGH_LIMIT: usize = 8;

/// The longest name of an owner, in bytes: it fits a table's column.
pub const OWNER_LIMIT: usize = 64;

/// That a peer is a member of a swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The root of the swarm.
    pub swarm: PeerId,
    /// The member.
    pub peer: PeerId,
    /// The person or group it belongs to.
    pub owner: String,
    /// Tells apart the certificates of one issuer.
    pub serial: u64,
    /// Who signed it: the root, or a member that may invite.
    pub issuer: PeerId,
    /// On whose word it rests besides: who let the member in, then those that renewed its
    /// certificate before, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<PeerId>,
    /// Whether the member may invite others. Only the root can give this.
    pub may_invite: bool,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
}

impl Certificate {
    /// Who let the member in: the root, or a member that may invite.
    #[must_use]
    pub fn let_in_by(&self) -> PeerId {
        self.through.first().copied().unwrap_or(self.issuer)
    }

    /// On whose word a renewal of this one rests besides its issuer's. The issuer of this one is
    /// always among them, whatever it wrote: a thief of its key could else have another whitewash
    /// what it signed. None when they are more than [`THROUGH_LIMIT`].
    #[must_use]
    pub fn renewed_through(&self) -> Option<Vec<PeerId>> {
        let mut through = self.through.clone();
        if !through.contains(&self.issuer) {
            through.push(self.issuer);
        }
        (through.len() <= THROUGH_LIMIT).then_some(through)
    }

    /// Whether it has ended at `now_ms`.
    #[must_use]
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms <= now_ms
    }
}

impl Statement for Certificate {
    const CONTEXT: &'static [u8] = b"ipdc/certificate/1\n";

    fn signer(&self) -> PeerId {
        self.issuer
    }
}

/// A certificate and, when a member issued it, the issuer's own: all that is needed to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The certificate.
    pub certificate: Signed<Certificate>,
    /// The certificate of its issuer; none when that is the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Signed<Certificate>>,
}

/// A certificate that does not make its bearer a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum BadCertificate {
    /// It is damaged or forged.
    #[error("the certificate cannot be believed")]
    #[diagnostic(
        code("IPDC-2201"),
        help(
            "the file `certificate` was changed or is of another swarm; restore it, or join again"
        )
    )]
    Statement(#[from] BadStatement),
    /// It belongs to another swarm.
    #[error("the certificate is of the swarm {0}, not of this one")]
    #[diagnostic(
        code("IPDC-2202"),
        help("the node's home mixes two swarms; join again with a fresh home")
    )]
    OtherSwarm(PeerId),
    /// It was issued to another peer.
    #[error("the certificate belongs to peer {0}")]
    #[diagnostic(
        code("IPDC-2203"),
        help("a certificate holds for one identity; copy both files or neither")
    )]
    OtherPeer(PeerId),
    /// Its issuer had no right to issue it.
    #[error("{0} issued the certificate, but may not invite")]
    #[diagnostic(code("IPDC-2204"), help("ask the swarm's founder for an invitation"))]
    Issuer(PeerId),
    /// It has expired.
    #[error("the certificate of {peer} expired {} ago", humantime::format_duration(Duration::from_secs(*.seconds)))]
    #[diagnostic(
        code("IPDC-2205"),
        help(
            "check the clock of both machines (`date`); if it is right, ask for a new invitation"
        )
    )]
    Expired {
        /// Whose.
        peer: PeerId,
        /// How long ago.
        seconds: u64,
    },
    /// It, or its issuer's, was revoked.
    #[error("the certificate of {0} was revoked")]
    #[diagnostic(
        code("IPDC-2206"),
        help("it stays revoked; to come back, make a new home and ask for an invitation")
    )]
    Revoked(PeerId),
}

impl BadCertificate {
    /// Whether nobody believes it, now or ever, whatever version it runs and time it has: a node
    /// that passes it on made it up.
    #[must_use]
    pub fn is_forgery(&self) -> bool {
        match self {
            BadCertificate::Statement(BadStatement::Signature(_))
            | BadCertificate::OtherSwarm(_)
            | BadCertificate::OtherPeer(_)
            | BadCertificate::Issuer(_) => true,
            BadCertificate::Statement(BadStatement::Form(_))
            | BadCertificate::Expired { .. }
            | BadCertificate::Revoked(_) => false,
        }
    }
}

impl Credential {
    /// Signs `certificate` with the root's key.
    ///
    /// # Errors
    /// When `root` is not the issuer that it names.
    pub fn by_root(certificate: &Certificate, root: &Keypair) -> Result<Self, BadStatement> {
        Ok(Credential { certificate: Signed::sign(certificate, root)?, issuer: None })
    }

    /// Checks that this makes `peer` a member of the swarm `root` at `now_ms` and gives what it says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        peer: PeerId,
        root: PeerId,
        now_ms: u64,
        revoked: &Revocations,
    ) -> Result<Certificate, BadCertificate> {
        let certificate = self.certificate.open()?;
        if certificate.peer != peer {
            return Err(BadCertificate::OtherPeer(certificate.peer));
        }
        let issuer = self.issuer.as_ref().map(Signed::open).transpose()?;
        check_chain(&certificate, issuer.as_ref(), root, now_ms, revoked)?;
        Ok(certificate)
    }
}

/// Checks that what `certificate` says holds: by the root's word, or by that of the member whose own
/// certificate is `issuer`. Both signatures were checked.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_chain(
    certificate: &Certificate,
    issuer: Option<&Certificate>,
    root: PeerId,
    now_ms: u64,
    revoked: &Revocations,
) -> Result<(), BadCertificate> {
    check_one(certificate, root, now_ms, revoked)?;
    if certificate.issuer == root {
        return Ok(());
    }
    let not_allowed = BadCertificate::Issuer(certificate.issuer);
    let Some(issuer) = issuer else { return Err(not_allowed) };
    let allowed = issuer.peer == certificate.issuer
        && issuer.issuer == root
        && issuer.may_invite
        && !certificate.may_invite;
    if !allowed {
        return Err(not_allowed);
    }
    check_one(issuer, root, now_ms, revoked)
}

fn check_one(
    certificate: &Certificate,
    root: PeerId,
    now_ms: u64,
    revoked: &Revocations,
) -> Result<(), BadCertificate> {
    if certificate.swarm != root {
        return Err(BadCertificate::OtherSwarm(certificate.swarm));
    }
    if revoked.find(certificate).is_some() {
        return Err(BadCertificate::Revoked(certificate.peer));
    }
    if certificate.has_expired(now_ms) {
        let seconds = (now_ms - certificate.expires_ms) / 1000;
        return Err(BadCertificate::Expired { peer: certificate.peer, seconds });
    }
    Ok(())
}

/// Certifies `peer` with the root's key, for [`CERTIFICATE_LIFE`].
///
/// # Errors
/// When the key cannot sign.
pub fn certify(
    root: &Keypair,
    peer: PeerId,
    owner: &str,
    may_invite: bool,
) -> Result<Credential, BadStatement> {
    let swarm = root.public().to_peer_id();
    let certificate = Certificate {
        swarm,
        peer,
        owner: owner.to_owned(),
        serial: new_serial(),
        issuer: swarm,
        through: Vec::new(),
        may_invite,
        expires_ms: now_ms().saturating_add(CERTIFICATE_LIFE.as_millis() as u64),
    };
    Credential::by_root(&certificate, root)
}

/// A serial number: random, of 53 bits, so that every JSON reader gets it right.
#[must_use]
pub(super) fn new_serial() -> u64 {
    rand::random::<u64>() >> 11
}

/// The wall clock, milliseconds since 1970.
#[must_use]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct World {
        root: Keypair,
        inviter: Keypair,
        member: Keypair,
        revoked: Revocations,
    }

    impl World {
        fn new() -> Self {
            let key = Keypair::generate_ed25519;
            World { root: key(), inviter: key(), member: key(), revoked: Revocations::default() }
        }

        /// The inviter's credential and the member's, which the inviter issued.
        fn chain(&self, inviter_may: bool) -> (Credential, Credential) {
            let by_root = certify(&self.root, id(&self.inviter), "ann", inviter_may).unwrap();
            let certificate = Certificate {
                swarm: id(&self.root),
                peer: id(&self.member),
                owner: "bob".into(),
                serial: 1,
                issuer: id(&self.inviter),
                through: Vec::new(),
                may_invite: false,
                expires_ms: now_ms() + 60_000,
            };
            let signed = Signed::sign(&certificate, &self.inviter).unwrap();
            let member =
                Credential { certificate: signed, issuer: Some(by_root.certificate.clone()) };
            (by_root, member)
        }

        fn check(&self, of: &Keypair, credential: &Credential) -> Result<(), BadCertificate> {
            let checked = credential.check(id(of), id(&self.root), now_ms(), &self.revoked);
            checked.map(|_| ())
        }
    }

    fn id(key: &Keypair) -> PeerId {
        key.public().to_peer_id()
    }

    #[test]
    fn a_member_that_may_invite_makes_members() {
        let world = World::new();
        let (inviter, member) = world.chain(true);
        assert_eq!(world.check(&world.inviter, &inviter), Ok(()));
        assert_eq!(world.check(&world.member, &member), Ok(()));
    }

    #[test]
    fn a_member_that_may_not_invite_makes_none() {
        let world = World::new();
        let (_, member) = world.chain(false);
        let refused = Err(BadCertificate::Issuer(id(&world.inviter)));
        assert_eq!(world.check(&world.member, &member), refused);
        let alone = Credential { issuer: None, ..member };
        assert_eq!(world.check(&world.member, &alone), refused);
    }

    #[test]
    fn the_right_to_invite_cannot_be_passed_on() {
        let world = World::new();
        let (inviter, member) = world.chain(true);
        let mut certificate = member.certificate.open().unwrap();
        certificate.may_invite = true;
        let signed = Signed::sign(&certificate, &world.inviter).unwrap();
        let greedy = Credential { certificate: signed, issuer: Some(inviter.certificate) };
        let refused = Err(BadCertificate::Issuer(id(&world.inviter)));
        assert_eq!(world.check(&world.member, &greedy), refused);
    }

    #[test]
    fn a_certificate_holds_for_one_peer_of_one_swarm() {
        let world = World::new();
        let (inviter, _) = world.chain(true);
        let stolen = world.check(&world.member, &inviter);
        assert_eq!(stolen, Err(BadCertificate::OtherPeer(id(&world.inviter))));
        let other = World { root: Keypair::generate_ed25519(), ..World::new() };
        let foreign = other.check(&world.inviter, &inviter);
        assert_eq!(foreign, Err(BadCertificate::OtherSwarm(id(&world.root))));
    }

    #[test]
    fn a_changed_certificate_is_forged() {
        let world = World::new();
        let (inviter, _) = world.chain(false);
        let text = serde_json::to_string(&inviter).unwrap();
        let text = text.replace("may_invite\\\":false", "may_invite\\\":true");
        let forged: Credential = serde_json::from_str(&text).unwrap();
        assert_ne!(forged, inviter);
        let refused = BadStatement::Signature(id(&world.root));
        assert_eq!(world.check(&world.inviter, &forged), Err(BadCertificate::Statement(refused)));
    }

    #[test]
    fn a_certificate_ends_when_it_expires() {
        let world = World::new();
        let (_, member) = world.chain(true);
        let later = now_ms() + 3_600_000;
        let checked = member.check(id(&world.member), id(&world.root), later, &world.revoked);
        assert!(matches!(checked, Err(BadCertificate::Expired { .. })));
    }
}
