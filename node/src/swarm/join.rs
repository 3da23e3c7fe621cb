//! Making a swarm and joining one: what `ipdc init` and `ipdc join` write to the home.

use std::time::Duration;

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use tokio::time::timeout;

use super::admission::{self, NotAdmitted, Refusal};
use super::certificate::{self, BadCertificate, Certificate, Credential, OWNER_LIMIT, now_ms};
use super::identity::SwarmKey;
use super::invitation::{BadToken, Token};
use super::revocation::Revocations;
use super::{SwarmError, address, network};
use ipdc_gate::{self as gate, DialFailure, DialOpts};

/// How long one try to reach the issuer may take: a dial of 10 s and the handshake.
const TRY_TIMEOUT: Duration = Duration::from_secs(15);
/// Tries: an answer that was lost is asked for again, and costs no second use.
const TRIES: u32 = 3;

/// A new swarm, with its first member.
#[derive(Debug, Clone)]
pub struct Founded {
    /// The root's keypair: who has it decides who is a member. Worth a backup elsewhere.
    pub root_key: Keypair,
    /// The swarm's key.
    pub swarm_key: SwarmKey,
    /// The founder's certificate.
    pub credential: Credential,
}

/// What a node needs to be a member.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The swarm's name, for people.
    pub domain: String,
    /// The swarm's key.
    pub swarm_key: SwarmKey,
    /// The swarm's root.
    pub root: PeerId,
    /// The node's certificate.
    pub credential: Credential,
    /// What the certificate says.
    pub certificate: Certificate,
    /// Where to find the swarm first, each with `/p2p/<peer>`.
    pub bootstrap: Vec<Multiaddr>,
}

/// A swarm could not be joined.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum JoinError {
    /// The text is no genuine invitation.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Token(#[from] BadToken),
    /// Too late.
    #[error("the invitation has expired")]
    #[diagnostic(
        code("IPDC-2303"),
        help(
            "ask for a new one (`ipdc invite --ttl 7d`); if it is new, check both clocks (`date`)"
        )
    )]
    Expired,
    /// Others were faster.
    #[error("the invitation is used up")]
    #[diagnostic(
        code("IPDC-2304"),
        help("ask for a new one; `ipdc invite --uses 5` makes one for five machines")
    )]
    UsedUp,
    /// The node that gave it does not know it.
    #[error("{issuer} does not know the invitation")]
    #[diagnostic(
        code("IPDC-2305"),
        help("the node that gave it may have a new home; ask for a new invitation")
    )]
    Unknown {
        /// Who was asked.
        issuer: PeerId,
    },
    /// Nobody answered.
    #[error("the node that invited could not be reached: {why}")]
    #[diagnostic(
        code("IPDC-2306"),
        help(
            "it must run while others join, and its address must be reachable from here; tried: {tried}"
        )
    )]
    Unreachable {
        /// The last failure.
        why: String,
        /// The addresses.
        tried: String,
    },
    /// It answered, and said no for another reason.
    #[error("{issuer} did not let this node join")]
    #[diagnostic(code("IPDC-2307"), help("see the log of that node"))]
    Refused {
        /// Who was asked.
        issuer: PeerId,
        /// Why.
        #[source]
        why: Refusal,
    },
    /// It gave a certificate that does not hold.
    #[error("the certificate that came back does not hold")]
    #[diagnostic(code("IPDC-2308"), help("the node that invited is damaged or not honest"))]
    Certificate(#[from] BadCertificate),
    /// The network could not be started.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Start(#[from] SwarmError),
}

/// Makes a swarm whose first member is `peer`, owned by `owner`.
///
/// # Errors
/// When the owner's name is too long.
pub fn found(peer: PeerId, owner: &str) -> Result<Founded, SwarmError> {
    let root_key = Keypair::generate_ed25519();
    let credential = certify(&root_key, peer, owner)?;
    Ok(Founded { root_key, swarm_key: SwarmKey::generate(), credential })
}

/// Makes `peer` a member that may invite, with the root's key.
///
/// # Errors
/// When the owner's name is too long.
pub fn certify(root_key: &Keypair, peer: PeerId, owner: &str) -> Result<Credential, SwarmError> {
    check_owner(owner)?;
    Ok(certificate::certify(root_key, peer, owner, true).map_err(BadCertificate::from)?)
}

pub(super) fn check_owner(owner: &str) -> Result<(), SwarmError> {
    let short = !owner.is_empty() && owner.len() <= OWNER_LIMIT;
    let plain = !owner.chars().any(char::is_control);
    if short && plain { Ok(()) } else { Err(SwarmError::Owner(owner.to_owned())) }
}

/// Joins the swarm that `token` invites to, as the node of `keypair`. The node that gave the
/// invitation must be running. Takes at most [`TRIES`] × [`TRY_TIMEOUT`]. May be repeated: the same node
/// gets the same certificate again.
///
/// # Errors
/// When the token is no good, was used up, or its issuer cannot be reached.
pub async fn join(token: &str, keypair: &Keypair) -> Result<Joined, JoinError> {
    let token: Token = token.parse()?;
    let invitation = &token.invitation;
    if invitation.expires_ms <= now_ms() {
        return Err(JoinError::Expired);
    }
    let (ipfs, mut ends) = network(keypair, &invitation.swarm_key).await?;
    let mut asked = Err(NotAdmitted::Io(std::io::ErrorKind::TimedOut.into()));
    for _ in 0..TRIES {
        let answer = timeout(TRY_TIMEOUT, ask(&token, &mut ends)).await;
        asked = answer.unwrap_or(Err(NotAdmitted::Io(std::io::ErrorKind::TimedOut.into())));
        if matches!(asked, Ok(_) | Err(NotAdmitted::RefusedUs(_))) {
            break;
        }
    }
    ipfs.exit_daemon().await;
    let credential = asked.map_err(|error| explain(&token, error))?;
    let peer = keypair.public().to_peer_id();
    let certificate = credential.check(peer, invitation.root, now_ms(), &Revocations::default())?;
    let with_peer = |address: &Multiaddr| address.clone().with_p2p(invitation.issuer).ok();
    Ok(Joined {
        domain: invitation.domain.clone(),
        swarm_key: invitation.swarm_key.clone(),
        root: invitation.root,
        bootstrap: invitation.addresses.iter().filter_map(with_peer).collect(),
        credential,
        certificate,
    })
}

/// Dials the issuer once and asks.
async fn ask(token: &Token, ends: &mut gate::Ends) -> Result<Credential, NotAdmitted> {
    let mut addresses = Vec::new();
    for named in &token.invitation.addresses {
        addresses.extend(address::resolve(named).await);
    }
    let dial = DialOpts::peer_id(token.invitation.issuer).addresses(addresses);
    let dial = dial.allocate_new_port().build();
    let id = dial.connection_id();
    let gone = || NotAdmitted::Io(std::io::ErrorKind::BrokenPipe.into());
    ends.orders.send(gate::Order::Dial(Box::new(dial))).map_err(|_| gone())?;
    loop {
        match ends.events.recv().await.ok_or_else(gone)? {
            gate::Event::Opened(link) if link.id == id => {
                let answer = admission::ask_to_join(&link, token).await;
                link.close();
                return answer;
            }
            gate::Event::DialFailed(failed, why) if failed == id => {
                let why = match why {
                    DialFailure::Unreachable(why) => why,
                    DialFailure::WrongPeer(_) => "another node answers at its address".into(),
                    DialFailure::NotNeeded => "it is being dialled already".into(),
                };
                return Err(NotAdmitted::Io(std::io::Error::other(why)));
            }
            _ => {}
        }
    }
}

fn explain(token: &Token, error: NotAdmitted) -> JoinError {
    let issuer = token.invitation.issuer;
    match error {
        NotAdmitted::RefusedUs(Refusal::Expired) => JoinError::Expired,
        NotAdmitted::RefusedUs(Refusal::UsedUp) => JoinError::UsedUp,
        NotAdmitted::RefusedUs(Refusal::UnknownInvitation) => JoinError::Unknown { issuer },
        NotAdmitted::RefusedUs(why) => JoinError::Refused { issuer, why },
        other => {
            let tried: Vec<String> =
                token.invitation.addresses.iter().map(ToString::to_string).collect();
            JoinError::Unreachable { why: other.to_string(), tried: tried.join(", ") }
        }
    }
}
