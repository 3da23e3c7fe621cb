//! Statements that their signer can be held to: certificates, revocations, addresses.
//!
//! A statement is JSON, signed behind a context of its own, so that a signature under one kind of
//! statement never stands for another. The signed bytes are kept and passed on as they are:
//! nothing re-encodes them. The signer is named in the statement by its peer ID, which for Ed25519
//! holds the public key, so no key travels beside.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ipdc_jobs::ids::PeerId;
use libp2p_identity::{Keypair, PublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes a statement may have: a certificate has about 400, a list of addresses 1,000.
pub const STATEMENT_LIMIT: usize = 8 * 1024;

/// Something a peer can sign.
pub trait Statement: Serialize + DeserializeOwned {
    /// What is put before the bytes when they are signed. Ends with the version and a newline.
    const CONTEXT: &'static [u8];

    /// Whose signature makes it valid.
    fn signer(&self) -> PeerId;
}

/// A [`Statement`] with its signature.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    /// JSON of the statement, exactly as signed.
    body: Box<str>,
    /// Ed25519 over the context and the body, in base64.
    signature: Box<str>,
    #[serde(skip)]
    statement: PhantomData<fn() -> T>,
}

/// A signed statement that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStatement {
    /// It is longer than [`STATEMENT_LIMIT`] or not of the known form.
    #[error("it cannot be read: {0}")]
    Form(String),
    /// The signature is not by the signer it names.
    #[error("it is not signed by {0}, whom it names as its signer")]
    Signature(PeerId),
}

impl<T: Statement> Signed<T> {
    /// Signs `statement`. The same statement and key give the same bytes.
    ///
    /// # Errors
    /// When `keypair` is not the signer that the statement names.
    pub fn sign(statement: &T, keypair: &Keypair) -> Result<Self, BadStatement> {
        let signer = statement.signer();
        if keypair.public().to_peer_id() != signer {
            return Err(BadStatement::Signature(signer));
        }
        let body = serde_json::to_string(statement).map_err(form)?;
        let signature =
            keypair.sign(&signed_bytes::<T>(&body)).map_err(|_| BadStatement::Signature(signer))?;
        Ok(Signed {
            body: body.into(),
            signature: STANDARD_NO_PAD.encode(signature).into(),
            statement: PhantomData,
        })
    }

    /// Checks form and signature and gives what was signed.
    ///
    /// # Errors
    /// When it cannot be believed.
    pub fn open(&self) -> Result<T, BadStatement> {
        if self.body.len() > STATEMENT_LIMIT {
            return Err(BadStatement::Form(format!("it has {} bytes", self.body.len())));
        }
        let statement: T = serde_json::from_str(&self.body).map_err(form)?;
        let signer = statement.signer();
        let unsigned = || BadStatement::Signature(signer);
        let key = public_key(&signer).ok_or_else(unsigned)?;
        let signature = STANDARD_NO_PAD.decode(&*self.signature).map_err(|_| unsigned())?;
        if key.verify(&signed_bytes::<T>(&self.body), &signature) {
            Ok(statement)
        } else {
            Err(unsigned())
        }
    }
}

/// The public key inside a peer ID; none for keys too long to be inside (RSA).
pub(super) fn public_key(peer: &PeerId) -> Option<PublicKey> {
    const IDENTITY: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    PublicKey::try_decode_protobuf(hash.digest()).ok()
}

fn signed_bytes<T: Statement>(body: &str) -> Vec<u8> {
    [T::CONTEXT, body.as_bytes()].concat()
}

fn form(error: serde_json::Error) -> BadStatement {
    BadStatement::Form(error.to_string())
}

// By hand: a derive would ask the same of `T`.
impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Signed {
            body: self.body.clone(),
            signature: self.signature.clone(),
            statement: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({})", self.body)
    }
}
