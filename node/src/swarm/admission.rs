//! The admission handshake, `/ipdc/admit/1`: what a connection must do to leave quarantine.
//!
//! ```text
//! dialler                                   listener
//!    │ Member{credential, revocations} ───────▶ │  checks it, opens its gate
//!    │ ◀─────────── Member{credential, revocations}
//!    │  checks it, opens its gate               │
//!    │ Done ──────────────────────────────────▶ │
//! ```
//!
//! Each side opens its gate before it tells the other, so that no stream meets a closed one. It is
//! run on every connection, known peer or not: it costs one round trip, carries revocations, and
//! there is no case where only one side believes the other.
//!
//! A joiner says `Redeem` instead and gets its certificate, then the connection is closed: it comes
//! back as a member. Who is refused is told why, once.

use ipdc_jobs::ids::PeerId;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::Core;
use super::book::Cut;
use super::certificate::{BadCertificate, Credential, new_serial, now_ms};
use super::conduct::Misdeed;
use super::frame;
use super::invitation::Token;
use super::revocation::{Notice, Whom};
use crate::audit::{Entry, What};
use crate::state::StateError;
use crate::state::members::{self, Redemption};
use ipdc_gate::{ADMIT, Link, OpenError};

/// The longest frame in quarantine, in bytes: a credential and [`REVOCATIONS_TOLD`] revocations.
pub(super) const FRAME_LIMIT: usize = 128 * 1024;

/// The revocations told in the handshake at most, newest first; the first telling brings the rest.
const REVOCATIONS_TOLD: usize = 100;

/// What the dialler says first, and the listener's answer to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// I am a member.
    Member {
        credential: Credential,
        revocations: Vec<Notice>,
        /// Which process I am: tells a copy of an identity from its other connections.
        #[serde(default)]
        run: u64,
    },
    /// I was invited; give me a certificate.
    Redeem { token: String },
    /// Here it is.
    Granted { credential: Box<Credential> },
    /// I believe you.
    Done,
    /// I do not.
    Refused(Refusal),
}

/// Why a peer is not let in, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Its certificate is no good.
    #[error("the certificate was refused: {0}")]
    Certificate(String),
    /// It, or the one that invited it, was cut off.
    #[error("it was revoked")]
    Revoked,
    /// Another machine is connected that has the same identity.
    #[error("another machine is connected with the same identity: a home must not be copied")]
    Copied,
    /// The invitation has expired.
    #[error("the invitation has expired")]
    Expired,
    /// It broke the rules again and again.
    #[error("it broke the swarm's rules, and is kept out for {seconds} s more")]
    PutOut {
        /// For how long it need not come back.
        seconds: u64,
    },
    /// As many as it allows have joined by it.
    #[error("the invitation is used up")]
    UsedUp,
    /// It is not of the peer that was asked, or that lost its database.
    #[error("the invitation is not known")]
    UnknownInvitation,
    /// The peer that was asked cannot do it now.
    #[error("the peer could not answer: {0}")]
    Trouble(String),
    /// It did not speak the protocol.
    #[error("unexpected message")]
    Unexpected,
}

impl From<BadCertificate> for Refusal {
    fn from(bad: BadCertificate) -> Self {
        match bad {
            BadCertificate::Revoked(_) => Refusal::Revoked,
            other => Refusal::Certificate(other.to_string()),
        }
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Refusal::Trouble(error.to_string())
    }
}

/// What a handshake ends with.
#[derive(Debug)]
pub(super) struct Admitted {
    /// What makes the peer a member.
    pub(super) credential: Credential,
    /// Which process it is.
    pub(super) run: u64,
}

/// How a handshake ended without a member.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAdmitted {
    /// We refused the peer.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer refused us.
    #[error("the peer refused us: {0}")]
    RefusedUs(Refusal),
    /// A joiner got its certificate and will come back.
    #[error("it joined")]
    Joined,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The peer does not know the protocol, or left.
    #[error("no admission stream: {0:?}")]
    Open(OpenError),
}

/// Runs the handshake on `link` and gives what makes the peer behind it a member; the link is then
/// admitted. Unbounded: the caller bounds it with the quarantine.
pub(super) async fn run(core: &Core, link: &Link) -> Result<Admitted, NotAdmitted> {
    if link.dialled.is_some() { dial(core, link).await } else { listen(core, link).await }
}

async fn dial(core: &Core, link: &Link) -> Result<Admitted, NotAdmitted> {
    let mut stream = link.open(ADMIT).await.map_err(NotAdmitted::Open)?.compat();
    frame::write(&mut stream, &core.hello(), FRAME_LIMIT).await?;
    let answer = frame::read(&mut stream, FRAME_LIMIT).await?;
    let checked = match answer {
        Message::Refused(refusal) => return Err(NotAdmitted::RefusedUs(refusal)),
        Message::Member { credential, revocations, run } => {
            check(core, link.peer, Admitted { credential, run }, &revocations).await
        }
        _ => Err(Refusal::Unexpected),
    };
    match checked {
        Ok(member) => {
            link.admit();
            frame::write(&mut stream, &Message::Done, FRAME_LIMIT).await?;
            Ok(member)
        }
        Err(refusal) => Err(refuse(&mut stream, refusal).await),
    }
}

async fn listen(core: &Core, link: &Link) -> Result<Admitted, NotAdmitted> {
    let mut stream = link.accept_admission().await.map_err(NotAdmitted::Open)?.compat();
    let hello = frame::read(&mut stream, FRAME_LIMIT).await?;
    let checked = match hello {
        Message::Member { credential, revocations, run } => {
            check(core, link.peer, Admitted { credential, run }, &revocations).await
        }
        Message::Redeem { token } => match redeem(core, link.peer, &token).await {
            Ok(credential) => {
                let granted = Message::Granted { credential: Box::new(credential) };
                frame::write(&mut stream, &granted, FRAME_LIMIT).await?;
                read_to_end(&mut stream).await;
                return Err(NotAdmitted::Joined);
            }
            Err(refusal) => Err(refusal),
        },
        _ => Err(Refusal::Unexpected),
    };
    let member = match checked {
        Ok(member) => member,
        Err(refusal) => return Err(refuse(&mut stream, refusal).await),
    };
    link.admit();
    frame::write(&mut stream, &core.hello(), FRAME_LIMIT).await?;
    match frame::read(&mut stream, FRAME_LIMIT).await? {
        Message::Done => Ok(member),
        Message::Refused(refusal) => Err(NotAdmitted::RefusedUs(refusal)),
        _ => Err(refuse(&mut stream, Refusal::Unexpected).await),
    }
}

/// The joiner's side: redeems `token` over `link`, which we dialled.
pub(super) async fn ask_to_join(link: &Link, token: &Token) -> Result<Credential, NotAdmitted> {
    let mut stream = link.open(ADMIT).await.map_err(NotAdmitted::Open)?.compat();
    let ask = Message::Redeem { token: token.to_string() };
    frame::write(&mut stream, &ask, FRAME_LIMIT).await?;
    match frame::read(&mut stream, FRAME_LIMIT).await? {
        Message::Granted { credential } => Ok(*credential),
        Message::Refused(refusal) => Err(NotAdmitted::RefusedUs(refusal)),
        _ => Err(NotAdmitted::Refused(Refusal::Unexpected)),
    }
}

/// Tells the peer why, and waits until it heard it or the quarantine ends.
async fn refuse(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    refusal: Refusal,
) -> NotAdmitted {
    if frame::write(stream, &Message::Refused(refusal.clone()), FRAME_LIMIT).await.is_ok() {
        read_to_end(stream).await;
    }
    NotAdmitted::Refused(refusal)
}

/// Closing a connection drops what it has not sent yet: so wait for the other side to leave.
async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let _ = stream.read_u8().await;
}

async fn check(
    core: &Core,
    peer: PeerId,
    admitted: Admitted,
    revocations: &[Notice],
) -> Result<Admitted, Refusal> {
    if let Some(left) = core.conduct.is_out(peer) {
        return Err(Refusal::PutOut { seconds: left.as_secs() + 1 });
    }
    // A stranger's revocations are not even read.
    core.book().check(&admitted.credential, peer)?;
    core.learn_revocations(revocations, Some(peer)).await?;
    let book = core.book();
    book.check(&admitted.credential, peer)?;
    if book.is_copy(peer, admitted.run) {
        return Err(Refusal::Copied);
    }
    Ok(admitted)
}

async fn redeem(core: &Core, peer: PeerId, token: &str) -> Result<Credential, Refusal> {
    let token: Token = token.parse().map_err(|_| Refusal::UnknownInvitation)?;
    if token.invitation.issuer != core.local() {
        return Err(Refusal::UnknownInvitation);
    }
    let id = token.invitation.id;
    let now = now_ms();
    let expires = core.life_from_now();
    let redeemed =
        core.db.call(move |c| members::redeem(c, id, &peer, now, new_serial(), expires)).await?;
    let grant = match redeemed {
        Redemption::Granted(grant) => grant,
        Redemption::Expired => return Err(Refusal::Expired),
        Redemption::UsedUp => return Err(Refusal::UsedUp),
        Redemption::Unknown => return Err(Refusal::UnknownInvitation),
    };
    let owner = grant.owner.clone();
    let credential =
        core.issue(peer, Vec::new(), grant).map_err(|e| Refusal::Trouble(e.to_string()))?;
    core.book().check(&credential, peer)?;
    tracing::info!(%peer, "joined by an invitation of this node");
    let entry = Entry::now(What::Joined, &owner, "by an invitation of this node");
    core.audit.note(Entry { peer: Some(peer), ..entry });
    Ok(credential)
}

impl Core {
    fn hello(&self) -> Message {
        let book = self.book();
        let skip = book.revocations().count().saturating_sub(REVOCATIONS_TOLD);
        Message::Member {
            credential: book.own().clone(),
            revocations: book.revocations().after(skip).to_vec(),
            run: self.run,
        }
    }

    /// Takes in revocations that `teller` told, or this node signed: closes the connections of those
    /// they cut off, and keeps them. Gives who is a member no more.
    pub(super) async fn learn_revocations(
        &self,
        notices: &[Notice],
        teller: Option<PeerId>,
    ) -> Result<Vec<PeerId>, StateError> {
        let cut = self.book().learn_revocations(notices);
        if let Some(teller) = teller.filter(|_| cut.is_forged) {
            self.conduct.report(teller, Misdeed::Forged("a revocation"));
        }
        for link in &cut.cut_off {
            tracing::info!(peer = %link.peer, "cut off: its certificate was revoked");
            link.close();
        }
        if cut.notices.is_empty() {
            return Ok(Vec::new());
        }
        self.note_revoked(&cut);
        let removed = cut.removed.iter().map(|(_, certificate)| certificate);
        let removed = removed.chain(&cut.guests).map(|certificate| certificate.peer).collect();
        self.db
            .call(move |c| {
                let removed: Vec<_> = cut.removed.into_iter().map(|(member, _)| member).collect();
                members::save_members(c, &removed)?;
                let mut notices = cut.notices.iter();
                notices.try_for_each(|(said, notice)| members::save_revocation(c, said, notice))
            })
            .await?;
        Ok(removed)
    }

    /// Notes whom the notices name, and who is cut off besides: with an owner, or with the one that
    /// let it in.
    fn note_revoked(&self, cut: &Cut) {
        let named = |peer: PeerId| {
            let mut notices = cut.notices.iter();
            notices.any(|(said, _)| said.whom == Whom::Peer(peer))
        };
        for (said, _) in &cut.notices {
            let (owner, peer) = match &said.whom {
                Whom::Owner { owner } => (owner.clone(), None),
                Whom::Peer(peer) => {
                    let removed = cut.removed.iter().map(|(_, certificate)| certificate);
                    let mut removed = removed.chain(&cut.guests);
                    let removed = removed.find(|certificate| certificate.peer == *peer);
                    (removed.map(|c| c.owner.clone()).unwrap_or_default(), Some(*peer))
                }
            };
            let entry = Entry::now(What::Revoked, &owner, format!("by {}", said.issuer));
            self.audit.note(Entry { peer, ..entry });
        }
        let removed = cut.removed.iter().map(|(_, certificate)| certificate).chain(&cut.guests);
        for certificate in removed.filter(|certificate| !named(certificate.peer)) {
            let detail = "its owner, or the one that let it in, was revoked";
            let entry = Entry::now(What::Revoked, &certificate.owner, detail);
            self.audit.note(Entry { peer: Some(certificate.peer), ..entry });
        }
    }
}
