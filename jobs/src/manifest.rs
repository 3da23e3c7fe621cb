//! The frozen, signed description of a submitted job.
//!
//! The bytes that were signed are kept and passed on as they are: nothing re-encodes a manifest.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Cid, JobId, PeerId, cid_text};
use crate::steps::AsStep;

/// The version of the manifest's form.
pub const VERSION: u32 = 1;

/// The most bytes a manifest may have: a job that needs more puts it in a file.
pub const MANIFEST_LIMIT: usize = 64 * 1024;

/// What a job is. Its ID is the hash of these bytes as signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub v: u32,
    /// The kind's name.
    pub kind: String,
    /// The job directory.
    #[serde(with = "cid_text")]
    pub code: Cid,
    /// The input: a file or a directory.
    #[serde(with = "cid_text")]
    pub input: Cid,
    /// What the kind froze of `job.toml`; with `kind` and `input` it determines the outputs.
    pub config: Value,
    /// The limits of one attempt.
    pub limits: Limits,
    /// Whether workers may answer from their memos, and remember. Part of no memo key: it changes
    /// who does the work, not what comes out.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub memo: bool,
    /// How many workers the submitter asked for; none, as many as there are.
    pub workers: Option<u32>,
    /// The peer whose user submits.
    pub submitter: PeerId,
    /// The peers that keep the job's journal, the first controller first.
    pub roster: Vec<PeerId>,
    /// The submitter's own key: the same key names the same job.
    pub key: String,
    /// When it was submitted, milliseconds since 1970, for people: nothing is decided by it.
    pub submitted_ms: u64,
    /// Which step it is, if it is one of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<AsStep>,
}

impl Manifest {
    /// Whether another job is to begin when this one has ended well.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.step.as_ref().is_some_and(AsStep::goes_on)
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_yes(memo: &bool) -> bool {
    *memo
}

/// The limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Milliseconds of wall time in the guest.
    pub time_ms: u64,
    /// Bytes of output.
    pub output: u64,
}

impl Default for Limits {
    /// What suits a small board: 256 MiB, ten minutes, 16 GiB.
    fn default() -> Self {
        Limits { memory: 256 << 20, time_ms: 600_000, output: 16 << 30 }
    }
}

/// A manifest with its submitter's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// JSON of a [`Manifest`], exactly as signed.
    pub manifest: Box<str>,
    /// The submitter's public key, protobuf-encoded as in libp2p, in base64.
    pub key: Box<str>,
    /// Ed25519 over [`SIGNING_CONTEXT`] and the bytes of `manifest`, in base64.
    pub signature: Box<str>,
}

/// What is put before a manifest's bytes when they are signed, so that no other signature of the
/// same key can stand for it.
pub const SIGNING_CONTEXT: &[u8] = b"ipdc/manifest/1\n";

/// A signed manifest that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum BadManifest {
    /// It is longer than [`MANIFEST_LIMIT`].
    #[error("the manifest has {0} bytes; at most {MANIFEST_LIMIT} are allowed")]
    TooLong(usize),
    /// It is not of the known form.
    #[error("the manifest cannot be read")]
    Form(#[from] serde_json::Error),
    /// It is of a version this node does not know.
    #[error("the manifest has version {0}; this node knows version {VERSION}")]
    Version(u32),
    /// The signature is not by the submitter it names.
    #[error("the manifest is not signed by {0}, its submitter")]
    Signature(PeerId),
    /// It is another job's.
    #[error("the manifest is of job {0}")]
    OtherJob(JobId),
}

impl SignedManifest {
    /// Signs `manifest` with its submitter's key.
    ///
    /// # Errors
    /// When it is too long, or the key cannot sign.
    pub fn sign(
        manifest: &Manifest,
        keypair: &libp2p_identity::Keypair,
    ) -> Result<Self, BadManifest> {
        let text = serde_json::to_string(manifest)?;
        if text.len() > MANIFEST_LIMIT {
            return Err(BadManifest::TooLong(text.len()));
        }
        let signature = keypair
            .sign(&signed_bytes(&text))
            .map_err(|_| BadManifest::Signature(manifest.submitter))?;
        Ok(SignedManifest {
            manifest: text.into(),
            key: base64(&keypair.public().encode_protobuf()),
            signature: base64(&signature),
        })
    }

    /// The job's ID.
    #[must_use]
    pub fn job(&self) -> JobId {
        JobId::of_manifest(self.manifest.as_bytes())
    }

    /// Checks form and signature and gives what was signed.
    ///
    /// # Errors
    /// When it cannot be believed.
    pub fn open(&self) -> Result<Manifest, BadManifest> {
        if self.manifest.len() > MANIFEST_LIMIT {
            return Err(BadManifest::TooLong(self.manifest.len()));
        }
        let manifest: Manifest = serde_json::from_str(&self.manifest)?;
        if manifest.v != VERSION {
            return Err(BadManifest::Version(manifest.v));
        }
        let unsigned = || BadManifest::Signature(manifest.submitter);
        let key = unbase64(&self.key).ok_or_else(unsigned)?;
        let key = libp2p_identity::PublicKey::try_decode_protobuf(&key).map_err(|_| unsigned())?;
        let signature = unbase64(&self.signature).ok_or_else(unsigned)?;
        let by_submitter = key.to_peer_id() == manifest.submitter;
        if by_submitter && key.verify(&signed_bytes(&self.manifest), &signature) {
            Ok(manifest)
        } else {
            Err(unsigned())
        }
    }

    /// Its bytes as a file of the swarm.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("a manifest of strings encodes").into()
    }
}

fn signed_bytes(manifest: &str) -> Vec<u8> {
    [SIGNING_CONTEXT, manifest.as_bytes()].concat()
}

fn base64(bytes: &[u8]) -> Box<str> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes).into()
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::{CODEC_RAW, FileRef, cid_of};

    #[test]
    fn a_job_alone_says_nothing_of_steps() {
        let peer = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let cid = cid_of(CODEC_RAW, b"code");
        let alone = Manifest {
            v: VERSION,
            kind: "mr".into(),
            code: cid,
            input: cid,
            config: Value::Null,
            limits: Limits::default(),
            memo: true,
            workers: None,
            submitter: peer,
            roster: vec![peer],
            key: "key".into(),
            submitted_ms: 1,
            step: None,
        };
        let text = serde_json::to_string(&alone).unwrap();
        assert!(
            text.ends_with(r#""key":"key","submitted_ms":1}"#),
            "as before there were steps: {text}"
        );
        assert!(!alone.goes_on());
        let steps = FileRef { cid, len: 4 };
        let step = AsStep { name: "a".into(), place: 1, of: 2, steps, earlier: vec![] };
        let first = Manifest { step: Some(step), ..alone };
        assert!(first.goes_on());
        let text = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), first);
    }
}
