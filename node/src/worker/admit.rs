//! What a job claims: a manifest is believed when it is its job's and its submitter signed it.
//! Whether this node works for it then is [`policy`](super::policy)'s to say.

use ipdc_jobs::engine::{Needs, Runtime};
use ipdc_jobs::fetch::Range;
use ipdc_jobs::ids::{FileRef, JobId, PeerId};
use ipdc_jobs::kind;
use ipdc_jobs::manifest::{BadManifest, Limits, MANIFEST_LIMIT, Manifest, SignedManifest};

use super::Parts;
use crate::blocks::store::Tier;
use crate::config::Hours;

/// What a believed manifest asks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// Whose user signed it.
    pub(super) submitter: PeerId,
    /// Whose orders are to be believed.
    pub(super) roster: Vec<PeerId>,
    /// What its code needs.
    pub(super) needs: Needs,
    /// The most that one attempt may take.
    pub(super) limits: Limits,
}

/// Why this node does not work for a job.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Refusal {
    /// The manifest could not be had.
    #[error("the job's manifest cannot be had: {0}")]
    #[diagnostic(code("IPDC-5411"), help("the job's controller holds it; is it connected?"))]
    Missing(String),
    /// It is not what it says.
    #[error(transparent)]
    #[diagnostic(code("IPDC-5412"), help("submit the job again from a node of this swarm"))]
    Forged(#[from] BadManifest),
    /// Its submitter is no member of the swarm.
    #[error("{0}, which submitted the job, is no member of this swarm")]
    #[diagnostic(code("IPDC-5413"), help("its certificate may have expired or been revoked"))]
    Stranger(PeerId),
    /// A newer or older ipdc wrote it.
    #[error("this node knows no job kind `{0}`")]
    #[diagnostic(code("IPDC-5414"), help("compare `ipdc --version` on both nodes"))]
    UnknownKind(String),
    /// It asks for more than this node gives.
    #[error("an attempt of the job may take {wanted}, and this node gives {given} at most")]
    #[diagnostic(
        code("IPDC-5416"),
        help(
            "ask for less under [limits] in job.toml, or let the node's owner raise [limits] in its ipdc.toml"
        )
    )]
    Limit {
        /// What it wants.
        wanted: String,
        /// What there is.
        given: String,
    },
    /// The policy says no.
    #[error("this node's policy does not let {owner} ({submitter}) run {} code", runtime.name())]
    #[diagnostic(
        code("IPDC-5415"),
        help("the node's owner decides, under [policy] in its ipdc.toml")
    )]
    Policy {
        /// Whom it belongs to who wants to.
        owner: String,
        /// Who wants to.
        submitter: PeerId,
        /// What.
        runtime: Runtime,
    },
    /// It takes nothing at all.
    #[error("this node is paused: it takes no new attempts")]
    #[diagnostic(code("IPDC-5417"), help("its owner ends that with `ipdc resume`"))]
    Paused,
    /// Not at this time of the day.
    #[error("this node works for {owner} at {hours} only, by its own clock")]
    #[diagnostic(
        code("IPDC-5418"),
        help("the node's owner decides, by `hours` under [policy] in its ipdc.toml")
    )]
    Hours {
        /// For whom.
        owner: String,
        /// When.
        hours: Hours,
    },
    /// Its machine is in use.
    #[error("this node works for {owner} only while its machine is idle, and it is in use")]
    #[diagnostic(
        code("IPDC-5419"),
        help("the node's owner decides, by `idle` under [policy] in its ipdc.toml")
    )]
    Busy {
        /// For whom.
        owner: String,
    },
    /// Its owner has as much as it may have.
    #[error(
        "{owner} has {used} {quota} here, and this node's policy gives one owner {most} at most"
    )]
    #[diagnostic(
        code("IPDC-5420"),
        help("the node's owner decides, under [policy] in its ipdc.toml")
    )]
    Quota {
        /// Who.
        owner: String,
        /// Of what.
        quota: &'static str,
        /// How much it has.
        used: u64,
        /// How much it may have.
        most: u64,
    },
    /// Nobody said that its containers may have a network.
    #[error("this node's policy does not let containers of {owner} ({submitter}) have a network")]
    #[diagnostic(
        code("IPDC-5421"),
        help("the node's owner decides, by `network` under [policy] in its ipdc.toml")
    )]
    Network {
        /// Whose the job is.
        owner: String,
        /// Who submitted it.
        submitter: PeerId,
    },
    /// Nobody said that its containers may be their images' users.
    #[error(
        "this node's policy does not let containers of {owner} ({submitter}) run as the users of their images"
    )]
    #[diagnostic(
        code("IPDC-5422"),
        help(
            "leave out --root; or the node's owner says `container_root = true` under [policy] in its ipdc.toml"
        )
    )]
    Root {
        /// Whose it is.
        owner: String,
        /// Who asked.
        submitter: PeerId,
    },
    /// It asks for the network.
    #[error("this node's policy does not let {owner} ({submitter}) fetch from the network")]
    #[diagnostic(
        code("IPDC-5500"),
        help("the node's owner decides, by `fetch` under [policy] in its ipdc.toml")
    )]
    Fetch {
        /// Whom it belongs to who wants to.
        owner: String,
        /// Who wants to.
        submitter: PeerId,
    },
    /// It asks for a network that is not public.
    #[error("this node's policy lets nobody fetch from {range}, which is not public")]
    #[diagnostic(
        code("IPDC-5501"),
        help(
            "leave it out of `fetch.private` in job.toml, or let the node's owner add it to `fetch_private` under [policy] in its ipdc.toml"
        )
    )]
    Reach {
        /// What it asks for.
        range: Range,
    },
}

impl Refusal {
    /// Whether somebody made up the manifest: no version of any node reads it otherwise.
    #[must_use]
    pub fn is_forgery(&self) -> bool {
        matches!(self, Refusal::Forged(BadManifest::Signature(_) | BadManifest::OtherJob(_)))
    }

    /// Its stable code.
    #[must_use]
    pub fn stable_code(&self) -> &'static str {
        match self {
            Refusal::Missing(_) => "IPDC-5411",
            Refusal::Forged(_) => "IPDC-5412",
            Refusal::Stranger(_) => "IPDC-5413",
            Refusal::UnknownKind(_) => "IPDC-5414",
            Refusal::Policy { .. } => "IPDC-5415",
            Refusal::Limit { .. } => "IPDC-5416",
            Refusal::Paused => "IPDC-5417",
            Refusal::Hours { .. } => "IPDC-5418",
            Refusal::Busy { .. } => "IPDC-5419",
            Refusal::Quota { .. } => "IPDC-5420",
            Refusal::Network { .. } => "IPDC-5421",
            Refusal::Root { .. } => "IPDC-5422",
            Refusal::Fetch { .. } => "IPDC-5500",
            Refusal::Reach { .. } => "IPDC-5501",
        }
    }
}

/// The manifest of `job`, fetched from `holders` if it is not here, and believed.
pub(super) async fn manifest(
    parts: &Parts,
    job: JobId,
    file: FileRef,
    holders: &[PeerId],
) -> Result<Manifest, Refusal> {
    // Signature, key and JSON quoting come on top of the manifest's own bytes.
    let limit = 3 * MANIFEST_LIMIT;
    let session = parts.blocks.session(holders, Tier::Cache);
    let bytes = parts.blocks.read(&session, &file, limit).await;
    let bytes = bytes.map_err(|error| Refusal::Missing(error.to_string()))?;
    let signed: SignedManifest =
        serde_json::from_slice(&bytes).map_err(|error| Refusal::Forged(error.into()))?;
    if signed.job() != job {
        return Err(BadManifest::OtherJob(signed.job()).into());
    }
    Ok(signed.open()?)
}

/// What `job` claims.
pub(super) async fn claim(
    parts: &Parts,
    job: JobId,
    file: FileRef,
    from: PeerId,
) -> Result<Claim, Refusal> {
    let manifest = manifest(parts, job, file, &[from]).await?;
    let kind =
        kind::find(&manifest.kind).ok_or_else(|| Refusal::UnknownKind(manifest.kind.clone()))?;
    Ok(Claim {
        submitter: manifest.submitter,
        needs: kind.needs(&manifest.config),
        limits: manifest.limits,
        roster: manifest.roster,
    })
}
