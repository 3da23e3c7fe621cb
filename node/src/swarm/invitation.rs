//! Invitations: one line of text that lets a machine join.
//!
//! A token holds all that a joiner needs: the swarm's key, the root, the issuer and where to reach
//! it. It is a secret until it is used up. The issuer signs it, so a mangled one is told from a
//! genuine one before anything is dialled; whether it can still be redeemed only the issuer knows.
//!
//! Form: `ipdc1-` and base64url of: swarm key, root key, issuer key (32 bytes each), ID (16),
//! expiry (8, big-endian, milliseconds since 1970), uses (4), the swarm's name and the addresses
//! (each with one or two bytes of length before), and the issuer's signature over all of that (64).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use libp2p_identity::{Keypair, PublicKey, ed25519};

use super::identity::SwarmKey;
use super::signed::public_key;

/// How every token begins. Carries the version.
const PREFIX: &str = "ipdc1-";
const SIGNING_CONTEXT: &[u8] = b"ipdc/invitation/1\n";
const SIGNATURE_LEN: usize = 64;

/// The longest token, in characters: eight long addresses fit, and a terminal can still paste it.
pub const TOKEN_LIMIT: usize = 4096;

/// The most addresses of the issuer in a token: more would not fit one line of a terminal.
pub const ADDRESSES_LIMIT: usize = 8;

/// The longest name of a swarm, in bytes: one byte of length.
pub const DOMAIN_LIMIT: usize = 255;

/// Names an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvitationId(pub [u8; 16]);

/// What a token says.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// What all connections are encrypted with.
    pub swarm_key: SwarmKey,
    /// The swarm's root.
    pub root: PeerId,
    /// The swarm's name, for people.
    pub domain: String,
    /// The node that redeems it.
    pub issuer: PeerId,
    /// Where to reach the issuer, without `/p2p`.
    pub addresses: Vec<Multiaddr>,
    /// Its name at the issuer.
    pub id: InvitationId,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// How many machines it lets in.
    pub uses: u32,
}

/// An invitation with its issuer's signature. Displays as the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it says.
    pub invitation: Invitation,
    /// The signed bytes and the signature.
    bytes: Vec<u8>,
}

/// A text that is no genuine invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum BadToken {
    /// It does not have the form of a token.
    #[error("this is no invitation: {0}")]
    #[diagnostic(
        code("IPDC-2301"),
        help("copy the whole line that `ipdc invite` printed; it begins with `ipdc1-`")
    )]
    Malformed(&'static str),
    /// Its signature is wrong.
    #[error("the invitation was changed or forged: its signature is wrong")]
    #[diagnostic(
        code("IPDC-2302"),
        help("copy the line again, or ask for a new invitation over a channel you trust")
    )]
    Forged,
}

impl Token {
    /// Signs `invitation` with its issuer's key. What does not fit a token is cut: the name at
    /// [`DOMAIN_LIMIT`], the addresses after [`ADDRESSES_LIMIT`].
    ///
    /// # Errors
    /// When `issuer` is not the issuer it names, or a key in it is not Ed25519.
    pub fn sign(mut invitation: Invitation, issuer: &Keypair) -> Result<Token, BadToken> {
        while invitation.domain.len() > DOMAIN_LIMIT {
            invitation.domain.pop();
        }
        invitation.addresses.truncate(ADDRESSES_LIMIT);
        if issuer.public().to_peer_id() != invitation.issuer {
            return Err(BadToken::Forged);
        }
        let mut bytes = encode(&invitation)?;
        let signature = issuer.sign(&signed_bytes(&bytes)).map_err(|_| BadToken::Forged)?;
        bytes.extend_from_slice(&signature);
        Ok(Token { invitation, bytes })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&self.bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(secret, of {})", self.invitation.issuer)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.len() > TOKEN_LIMIT {
            return Err(BadToken::Malformed("it is too long"));
        }
        let body = text.strip_prefix(PREFIX);
        let body = body.ok_or(BadToken::Malformed("it does not begin with `ipdc1-`"))?;
        let bytes = URL_SAFE_NO_PAD.decode(body);
        let bytes = bytes.map_err(|_| BadToken::Malformed("a character is missing or wrong"))?;
        let split = bytes.len().checked_sub(SIGNATURE_LEN);
        let (signed, signature) = bytes.split_at(split.ok_or(CUT)?);
        let invitation = decode(signed)?;
        let key = public_key(&invitation.issuer).ok_or(BadToken::Forged)?;
        if !key.verify(&signed_bytes(signed), signature) {
            return Err(BadToken::Forged);
        }
        Ok(Token { invitation, bytes })
    }
}

const CUT: BadToken = BadToken::Malformed("a part of it is missing");

fn signed_bytes(bytes: &[u8]) -> Vec<u8> {
    [SIGNING_CONTEXT, bytes].concat()
}

pub(super) fn encode(invitation: &Invitation) -> Result<Vec<u8>, BadToken> {
    let key = |peer| public_key(peer).and_then(|key| key.try_into_ed25519().ok());
    let not_ed25519 = BadToken::Malformed("a key in it is not Ed25519");
    let root = key(&invitation.root).ok_or(not_ed25519.clone())?;
    let issuer = key(&invitation.issuer).ok_or(not_ed25519)?;
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(invitation.swarm_key.as_bytes());
    bytes.extend_from_slice(&root.to_bytes());
    bytes.extend_from_slice(&issuer.to_bytes());
    bytes.extend_from_slice(&invitation.id.0);
    bytes.extend_from_slice(&invitation.expires_ms.to_be_bytes());
    bytes.extend_from_slice(&invitation.uses.to_be_bytes());
    bytes.push(invitation.domain.len() as u8);
    bytes.extend_from_slice(invitation.domain.as_bytes());
    bytes.push(invitation.addresses.len() as u8);
    for address in &invitation.addresses {
        let address = address.to_vec();
        bytes.extend_from_slice(&(address.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&address);
    }
    Ok(bytes)
}

/// Reads what is signed of a token.
pub(super) fn decode(bytes: &[u8]) -> Result<Invitation, BadToken> {
    let mut reader = Reader(bytes);
    let swarm_key = SwarmKey::from_bytes(reader.array()?);
    let root = reader.peer()?;
    let issuer = reader.peer()?;
    let id = InvitationId(reader.array()?);
    let expires_ms = u64::from_be_bytes(reader.array()?);
    let uses = u32::from_be_bytes(reader.array()?);
    let [domain_len] = reader.array()?;
    let domain = String::from_utf8(reader.take(domain_len.into())?.to_vec());
    let domain = domain.map_err(|_| BadToken::Malformed("its name is not UTF-8"))?;
    let [count] = reader.array()?;
    if usize::from(count) > ADDRESSES_LIMIT {
        return Err(BadToken::Malformed("it has too many addresses"));
    }
    let mut addresses = Vec::with_capacity(count.into());
    for _ in 0..count {
        let len = u16::from_be_bytes(reader.array()?);
        let address = Multiaddr::try_from(reader.take(len.into())?.to_vec());
        addresses.push(address.map_err(|_| BadToken::Malformed("an address in it is damaged"))?);
    }
    if !reader.0.is_empty() {
        return Err(BadToken::Malformed("there is something behind its end"));
    }
    Ok(Invitation { swarm_key, root, domain, issuer, addresses, id, expires_ms, uses })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadToken> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadToken> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn peer(&mut self) -> Result<PeerId, BadToken> {
        let key = ed25519::PublicKey::try_from_bytes(&self.array::<32>()?);
        let key = key.map_err(|_| BadToken::Malformed("a key in it is damaged"))?;
        Ok(PublicKey::from(key).to_peer_id())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn token() -> Token {
        let issuer = Keypair::generate_ed25519();
        let invitation = Invitation {
            swarm_key: SwarmKey::generate(),
            root: Keypair::generate_ed25519().public().to_peer_id(),
            domain: "attic".into(),
            issuer: issuer.public().to_peer_id(),
            addresses: vec![
                "/ip4/192.168.1.7/tcp/4747".parse().unwrap(),
                "/dns4/attic.example/tcp/4747".parse().unwrap(),
            ],
            id: InvitationId([7; 16]),
            expires_ms: 1_800_000_000_000,
            uses: 3,
        };
        Token::sign(invitation, &issuer).unwrap()
    }

    #[test]
    fn a_token_reads_back_as_written_on_one_line() {
        let token = token();
        let text = token.to_string();
        assert!(text.starts_with("ipdc1-") && text.len() < 400, "{text}");
        assert!(!text.contains(char::is_whitespace));
        assert!(format!("  {text}\n").parse::<Token>().unwrap() == token);
    }

    #[test]
    fn a_token_with_one_changed_bit_is_refused() {
        let token = token();
        let mut forged = 0;
        for at in 0..token.bytes.len() {
            let mut bytes = token.bytes.clone();
            bytes[at] ^= 1;
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
            let refused = text.parse::<Token>().unwrap_err();
            forged += u32::from(refused == BadToken::Forged);
        }
        assert!(forged > 64, "only {forged} changes were found by the signature");
    }

    #[test]
    fn a_token_cut_short_is_malformed() {
        let text = token().to_string();
        for len in 0..text.len() {
            let refused = text[..len].parse::<Token>();
            assert!(refused.is_err(), "{len} characters were taken for a token");
        }
        assert!(matches!("hello".parse::<Token>(), Err(BadToken::Malformed(_))));
        assert!(matches!("ipdc1-AAAA".parse::<Token>(), Err(BadToken::Malformed(_))));
        let long = format!("{PREFIX}{}", "A".repeat(TOKEN_LIMIT));
        assert!(matches!(long.parse::<Token>(), Err(BadToken::Malformed(_))));
    }

    #[test]
    fn a_token_does_not_show_its_secret_in_logs() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(!shown.contains(&token.to_string()[6..]) && shown.contains("secret"));
    }
}
