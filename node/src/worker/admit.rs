//! For whom this node works: a manifest is believed when it is its job's and its submitter
//! signed it, and accepted when the node's policy lets that submitter run what it asks for.

use std::collections::BTreeSet;

use ipdc_jobs::engine::{CheckedManifest, Runtime};
use ipdc_jobs::ids::{FileRef, JobId, PeerId};
use ipdc_jobs::kind;
use ipdc_jobs::manifest::{BadManifest, Limits, MANIFEST_LIMIT, Manifest, SignedManifest};

use super::Parts;
use crate::blocks::store::Tier;

/// What this node runs, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Runtimes that any member of the swarm may use.
    pub members: BTreeSet<Runtime>,
    /// The most that one attempt may ask for.
    pub limits: Limits,
}

impl Policy {
    /// The names of the runtimes that this node has and lets somebody use.
    #[must_use]
    pub fn offered(&self) -> Vec<String> {
        let has = |runtime: &&Runtime| **runtime == Runtime::Wasm;
        self.members.iter().filter(has).map(|runtime| runtime.name().to_owned()).collect()
    }
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
    #[error("this node's policy does not let {submitter} run {runtime:?} code")]
    #[diagnostic(
        code("IPDC-5415"),
        help("the node's owner decides, under [policy] in its ipdc.toml")
    )]
    Policy {
        /// Who wants to.
        submitter: PeerId,
        /// What.
        runtime: Runtime,
    },
}

impl Refusal {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Missing(_) => "IPDC-5411",
            Refusal::Forged(_) => "IPDC-5412",
            Refusal::Stranger(_) => "IPDC-5413",
            Refusal::UnknownKind(_) => "IPDC-5414",
            Refusal::Policy { .. } => "IPDC-5415",
            Refusal::Limit { .. } => "IPDC-5416",
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

/// Whether this node works for `job`, and whose orders it then believes.
pub(super) async fn check(
    parts: &Parts,
    job: JobId,
    file: FileRef,
    from: PeerId,
) -> Result<CheckedManifest, Refusal> {
    let manifest = manifest(parts, job, file, &[from]).await?;
    let submitter = manifest.submitter;
    if parts.swarm.owner(submitter).is_none() {
        return Err(Refusal::Stranger(submitter));
    }
    let kind =
        kind::find(&manifest.kind).ok_or_else(|| Refusal::UnknownKind(manifest.kind.clone()))?;
    for runtime in kind.runtimes(&manifest.config) {
        if !parts.policy.members.contains(&runtime) {
            return Err(Refusal::Policy { submitter, runtime });
        }
    }
    within(&manifest.limits, &parts.policy.limits)?;
    Ok(CheckedManifest { roster: manifest.roster })
}

fn within(wanted: &Limits, given: &Limits) -> Result<(), Refusal> {
    let pairs = [
        ("bytes of memory", wanted.memory, given.memory),
        ("ms", wanted.time_ms, given.time_ms),
        ("bytes of output", wanted.output, given.output),
    ];
    match pairs.into_iter().find(|(_, wanted, given)| wanted > given) {
        None => Ok(()),
        Some((unit, wanted, given)) => Err(Refusal::Limit {
            wanted: format!("{wanted} {unit}"),
            given: format!("{given} {unit}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_more_than_the_node_gives_is_refused_by_name() {
        let given = Limits::default();
        assert!(within(&given, &given).is_ok());
        let wanted = Limits { memory: given.memory + 1, ..given };
        let refused = within(&wanted, &given).map_err(|refusal| refusal.to_string());
        assert!(refused.is_err_and(|text| text.contains("bytes of memory")));
    }
}
