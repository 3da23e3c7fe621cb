//! The decoders of the swarm: of what anybody with the swarm key may send, and of the tokens that
//! people paste.

#![allow(clippy::expect_used)]

use connexa::prelude::Multiaddr;
use ipdc_jobs::fuzz::{Decoder, json};
use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::Serialize;

use super::address::{self, Whereabouts};
use super::admission::{self, Message};
use super::book::{Telling, ToldMember};
use super::certificate::{Certificate, Credential};
use super::facts::PeerFacts;
use super::frame;
use super::guest::GuestPass;
use super::identity::SwarmKey;
use super::invitation::{self, Invitation, InvitationId, TOKEN_LIMIT, Token};
use super::rekey::KeyChange;
use super::revocation::{Notice, Revocation, Revocations, Whom};
use super::signed::{Signed, Statement};

/// A time before which nothing in the seeds ends.
const NOW: u64 = 1_000;

pub(crate) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "token", decode: token, seeds: token_seeds },
        Decoder { name: "invitation", decode: invitation, seeds: invitation_seeds },
        Decoder { name: "swarm_key", decode: swarm_key, seeds: swarm_key_seeds },
        Decoder { name: "credential", decode: credential, seeds: credential_seeds },
        Decoder { name: "statement", decode: statement, seeds: statement_seeds },
        Decoder { name: "admission", decode: admission, seeds: admission_seeds },
        Decoder { name: "telling", decode: telling, seeds: telling_seeds },
    ]
}

fn keypair(n: u8) -> Keypair {
    Keypair::ed25519_from_bytes([n; 32]).expect("32 bytes are a key")
}

fn id(keypair: &Keypair) -> PeerId {
    keypair.public().to_peer_id()
}

fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string(), text.trim());
    }
}

fn an_invitation() -> Invitation {
    let addresses = ["/ip4/10.0.0.1/tcp/4001", "/dns4/example.org/tcp/4001"];
    let addresses = addresses.map(|text| text.parse().expect("an address"));
    Invitation {
        swarm_key: SwarmKey::from_bytes([3; 32]),
        root: id(&keypair(1)),
        domain: "lab".into(),
        issuer: id(&keypair(2)),
        addresses: addresses.into(),
        id: InvitationId([4; 16]),
        expires_ms: NOW + 1,
        uses: 5,
    }
}

fn token_seeds() -> Vec<Vec<u8>> {
    let token = Token::sign(an_invitation(), &keypair(2)).expect("the issuer signs").to_string();
    let long = format!("ipdc1-{}", "A".repeat(TOKEN_LIMIT));
    vec![token.into_bytes(), long.into_bytes()]
}

/// What is signed of a token, whoever signed it.
fn invitation(bytes: &[u8]) {
    if let Ok(read) = invitation::decode(bytes) {
        let written = invitation::encode(&read).expect("its keys were read");
        assert!(invitation::decode(&written).as_ref() == Ok(&read));
    }
}

fn invitation_seeds() -> Vec<Vec<u8>> {
    vec![invitation::encode(&an_invitation()).expect("its keys are right")]
}

fn swarm_key(bytes: &[u8]) {
    let _ = std::str::from_utf8(bytes).map(str::parse::<SwarmKey>);
}

fn swarm_key_seeds() -> Vec<Vec<u8>> {
    vec![SwarmKey::from_bytes([3; 32]).to_file_text().into_bytes()]
}

fn certificate(peer: u8, issuer: u8, may_invite: bool) -> Certificate {
    Certificate {
        swarm: id(&keypair(1)),
        peer: id(&keypair(peer)),
        owner: "ann".into(),
        serial: 7,
        issuer: id(&keypair(issuer)),
        through: vec![id(&keypair(2))],
        may_invite,
        expires_ms: NOW + 1,
    }
}

fn signed<T: Statement>(statement: &T, by: u8) -> Signed<T> {
    Signed::sign(statement, &keypair(by)).expect("the signer signs")
}

/// Of a member that a member invited.
fn a_credential() -> Credential {
    let issuer = Some(signed(&certificate(2, 1, true), 1));
    Credential { certificate: signed(&certificate(3, 2, false), 2), issuer }
}

fn check(credential: &Credential) {
    let nobody = Revocations::default();
    let _ = credential.check(id(&keypair(3)), id(&keypair(1)), NOW, &nobody);
}

fn credential(bytes: &[u8]) {
    if let Ok(credential) = serde_json::from_slice(bytes) {
        check(&credential);
    }
}

fn credential_seeds() -> Vec<Vec<u8>> {
    let by_root = Credential { certificate: signed(&certificate(3, 1, true), 1), issuer: None };
    vec![json(&a_credential()), json(&by_root)]
}

fn a_revocation() -> Revocation {
    let (root, peer) = (id(&keypair(1)), id(&keypair(3)));
    Revocation { swarm: root, whom: Whom::Peer(peer), issuer: root, at_ms: NOW }
}

/// Of an owner, by a member that may invite.
fn a_notice() -> Notice {
    let whom = Whom::Owner { owner: "bob".into() };
    let said = Revocation { whom, issuer: id(&keypair(2)), ..a_revocation() };
    Notice { revocation: signed(&said, 2), issuer: Some(signed(&certificate(2, 1, true), 1)) }
}

fn a_pass() -> GuestPass {
    let issuer = Some(signed(&certificate(2, 1, true), 1));
    GuestPass::sign(certificate(3, 2, false), &keypair(2), issuer).expect("the issuer signs")
}

fn a_key_change() -> KeyChange {
    KeyChange { swarm: id(&keypair(1)), number: NOW, key: SwarmKey::from_bytes([5; 32]) }
}

fn whereabouts() -> Whereabouts {
    let addresses: Vec<Multiaddr> = an_invitation().addresses;
    Whereabouts { peer: id(&keypair(3)), number: 9, addresses }
}

/// A signed statement of any kind, and what is in one, whoever signed it.
fn statement(bytes: &[u8]) {
    fn open<T: Statement>(bytes: &[u8]) {
        if let Ok(signed) = serde_json::from_slice::<Signed<T>>(bytes) {
            let _ = signed.open();
        }
        let _ = serde_json::from_slice::<T>(bytes).map(|statement| statement.signer());
    }
    open::<Certificate>(bytes);
    open::<Revocation>(bytes);
    open::<Whereabouts>(bytes);
    open::<KeyChange>(bytes);
    if let Ok(said) = serde_json::from_slice::<Whereabouts>(bytes) {
        let _ = said.addresses.iter().map(address::split_peer).count();
    }
}

fn statement_seeds() -> Vec<Vec<u8>> {
    vec![
        json(&certificate(3, 2, false)),
        json(&a_revocation()),
        json(&whereabouts()),
        json(&signed(&a_revocation(), 1)),
        json(&signed(&whereabouts(), 3)),
        json(&signed(&a_key_change(), 1)),
    ]
}

/// Reads frames of a stream to its end, or until one is none.
fn frames<T: serde::de::DeserializeOwned>(bytes: &[u8], limit: usize, mut take: impl FnMut(T)) {
    let mut stream = bytes;
    while let Ok(message) = futures::executor::block_on(frame::read(&mut stream, limit)) {
        take(message);
    }
}

/// A stream of these messages.
fn stream(messages: &[impl Serialize]) -> Vec<u8> {
    let mut stream = Vec::new();
    for message in messages {
        let written = frame::write(&mut stream, message, usize::MAX);
        futures::executor::block_on(written).expect("memory takes every write");
    }
    stream
}

/// The stream of `/ipdc/admit/1`: all that somebody with a leaked swarm key can reach.
fn admission(bytes: &[u8]) {
    frames(bytes, admission::FRAME_LIMIT, |message: Message| match message {
        Message::Member { credential, revocations, .. } => {
            check(&credential);
            learn(&revocations);
        }
        Message::Granted { credential } => check(&credential),
        Message::Redeem { token } => drop(token.parse::<Token>()),
        Message::Done | Message::Refused(_) => {}
    });
}

fn learn(revocations: &[Notice]) {
    let mut known = Revocations::default();
    for revocation in revocations {
        let _ = known.learn(revocation, id(&keypair(1)));
    }
}

fn admission_seeds() -> Vec<Vec<u8>> {
    let revocations = vec![a_notice()];
    let token = Token::sign(an_invitation(), &keypair(2)).expect("the issuer signs").to_string();
    let first = Message::Member { credential: a_credential(), revocations, run: 6 };
    let granted = Message::Granted { credential: Box::new(a_credential()) };
    let refused = Message::Refused(admission::Refusal::UsedUp);
    vec![stream(&[first, Message::Done]), stream(&[Message::Redeem { token }, granted, refused])]
}

/// The stream of `/ipdc/peers/1`.
fn telling(bytes: &[u8]) {
    frames(bytes, super::peers::FRAME_LIMIT, |telling: Telling| {
        telling.members.iter().for_each(|member| check(&member.credential));
        for said in telling.members.iter().filter_map(|member| member.whereabouts.as_ref()) {
            let _ = said.open();
        }
        learn(&telling.revocations);
        let _ = telling.key.map(|change| change.open());
        for pass in telling.guests.iter().filter_map(|pass| pass.open().ok()) {
            let _ = pass.check(id(&keypair(1)), NOW, &Revocations::default());
        }
    });
}

fn telling_seeds() -> Vec<Vec<u8>> {
    let facts = PeerFacts { host: "attic".into(), cpus: 4, cpu_use: 0.5, ..PeerFacts::default() };
    let (credential, peer) = (a_credential(), id(&keypair(3)));
    let whereabouts = Some(signed(&whereabouts(), 3));
    let members = vec![ToldMember { peer, credential, whereabouts }];
    let key = Some(signed(&a_key_change(), 1));
    let (guests, revocations) = (vec![a_pass()], vec![a_notice()]);
    let whole = Telling { facts: Some(facts), members, guests, key, revocations, renew: true };
    vec![stream(&[whole, Telling::default()])]
}
