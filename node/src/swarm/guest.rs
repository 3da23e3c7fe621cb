//! Guests: peers that are no members, and may fetch blocks for a while.
//!
//! A guest is a program that has the swarm's key and knows nothing of admission: a stock Kubo. It can
//! show nothing but its peer ID, so its *pass* travels among the members, as certificates do, and each of them
//! lets it in. The root signs a pass, or a member to which the root gave the right to invite. It ends
//! when it says, and at once when the guest, or who signed it, is [revoked](super::revocation).

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::{Deserialize, Serialize};

use super::certificate::{self, BadCertificate, Certificate};
use super::revocation::Revocations;
use super::signed::{BadStatement, Signed, Statement};

/// That a peer is a guest. It says what a certificate says (of the owner, whose guest it is), but is signed
/// as something else: neither stands for the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Pass(Certificate);

impl Statement for Pass {
    const CONTEXT: &'static [u8] = b"ipdc/guest/1\n";

    fn signer(&self) -> PeerId {
        self.0.issuer
    }
}

/// A pass and, when a member signed it, the member's certificate: all that is needed to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPass {
    pass: Signed<Pass>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<Signed<Certificate>>,
}

impl GuestPass {
    /// Signs `says` with `keypair`, whose certificate is `issuer`; none for the root's.
    ///
    /// # Errors
    /// When `keypair` is not the issuer that it names.
    pub fn sign(
        says: Certificate,
        keypair: &Keypair,
        issuer: Option<Signed<Certificate>>,
    ) -> Result<GuestPass, BadStatement> {
        Ok(GuestPass { pass: Signed::sign(&Pass(says), keypair)?, issuer })
    }

    /// Checks the signatures and gives what was signed.
    ///
    /// # Errors
    /// When it is damaged or forged.
    pub fn open(&self) -> Result<OpenPass, BadStatement> {
        let Pass(says) = self.pass.open()?;
        let issuer = self.issuer.as_ref().map(Signed::open).transpose()?;
        Ok(OpenPass { says, issuer })
    }
}

/// A pass whose signatures were checked, which takes longer than all else.
#[derive(Debug, Clone)]
pub struct OpenPass {
    /// What it says.
    pub says: Certificate,
    issuer: Option<Certificate>,
}

impl OpenPass {
    /// Checks that it makes somebody a guest of the swarm `root` at `now_ms`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        root: PeerId,
        now_ms: u64,
        revoked: &Revocations,
    ) -> Result<(), BadCertificate> {
        certificate::check_chain(&self.says, self.issuer.as_ref(), root, now_ms, revoked)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::swarm::certificate::{Credential, certify, now_ms};
    use crate::swarm::revocation::{Notice, Revocation, Whom};

    fn id(key: &Keypair) -> PeerId {
        key.public().to_peer_id()
    }

    struct World {
        root: Keypair,
        delegate: Keypair,
        guest: PeerId,
    }

    impl World {
        fn new() -> World {
            let key = Keypair::generate_ed25519;
            World { root: key(), delegate: key(), guest: id(&key()) }
        }

        fn delegate(&self, may_invite: bool) -> Credential {
            certify(&self.root, id(&self.delegate), "ann", may_invite).unwrap()
        }

        fn says(&self, issuer: &Keypair) -> Certificate {
            Certificate {
                swarm: id(&self.root),
                peer: self.guest,
                owner: "ann".into(),
                serial: 1,
                issuer: id(issuer),
                through: Vec::new(),
                may_invite: false,
                expires_ms: now_ms() + 60_000,
            }
        }

        fn by_delegate(&self, may_invite: bool) -> GuestPass {
            let issuer = Some(self.delegate(may_invite).certificate);
            GuestPass::sign(self.says(&self.delegate), &self.delegate, issuer).unwrap()
        }

        fn check(&self, pass: &GuestPass, revoked: &Revocations) -> Result<(), BadCertificate> {
            pass.open().unwrap().check(id(&self.root), now_ms(), revoked)
        }
    }

    #[test]
    fn a_pass_is_good_by_the_root_or_a_delegate_and_nobody_else() {
        let world = World::new();
        let none = Revocations::default();
        let by_root = GuestPass::sign(world.says(&world.root), &world.root, None).unwrap();
        assert_eq!(world.check(&by_root, &none), Ok(()));
        assert_eq!(world.check(&world.by_delegate(true), &none), Ok(()));
        let not_allowed = Err(BadCertificate::Issuer(id(&world.delegate)));
        assert_eq!(world.check(&world.by_delegate(false), &none), not_allowed);
        let other = World::new();
        let foreign = Err(BadCertificate::OtherSwarm(id(&world.root)));
        assert_eq!(other.check(&by_root, &none), foreign);
    }

    #[test]
    fn a_pass_is_no_certificate_and_a_certificate_no_pass() {
        let world = World::new();
        let says = world.says(&world.root);
        let certificate = Signed::sign(&says, &world.root).unwrap();
        let swapped = serde_json::to_value(&certificate).unwrap();
        let pass: GuestPass = serde_json::from_value(serde_json::json!({"pass": swapped})).unwrap();
        assert!(matches!(pass.open().map(drop), Err(BadStatement::Signature(_))));
        let pass = GuestPass::sign(says, &world.root, None).unwrap();
        let swapped = serde_json::to_value(&pass.pass).unwrap();
        let certificate: Signed<Certificate> = serde_json::from_value(swapped).unwrap();
        assert!(matches!(certificate.open(), Err(BadStatement::Signature(_))));
    }

    #[test]
    fn a_pass_ends_with_its_time_its_guest_and_who_signed_it() {
        let world = World::new();
        let pass = world.by_delegate(true);
        let late = pass.open().unwrap();
        let late = late.check(id(&world.root), now_ms() + 120_000, &Revocations::default());
        assert!(matches!(late, Err(BadCertificate::Expired { .. })));
        let whom = [world.guest, id(&world.delegate)].map(Whom::Peer);
        for whom in whom.into_iter().chain([Whom::Owner { owner: "ann".into() }]) {
            let mut revoked = Revocations::default();
            let root = id(&world.root);
            let said = Revocation { swarm: root, whom, issuer: root, at_ms: 0 };
            let notice = Notice::sign(&said, &world.root, None).unwrap();
            revoked.learn(&notice, root).unwrap();
            let checked = world.check(&pass, &revoked);
            assert!(matches!(checked, Err(BadCertificate::Revoked(_))), "{said:?}: {checked:?}");
        }
    }
}
