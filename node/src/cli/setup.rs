//! Homes: found, made, opened. What `init`, `join` and `run --local` write into them.

use std::path::{Path, PathBuf};

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::Serialize;

use super::error::CliError;
use super::start::Flags;
use crate::config::{self, Config};
use crate::home::Home;
use crate::swarm;
use crate::swarm::certificate::OWNER_LIMIT;
use crate::swarm::identity::{self, SwarmKey};
use crate::swarm::membership::Membership;

/// The swarm's name when nobody gave one.
const DOMAIN: &str = "ipdc";

/// The owner when the system does not say who the user is.
const OWNER: &str = "owner";

/// The name of a local swarm, in its nodes' logs.
const LOCAL_DOMAIN: &str = "local";

/// What a node became by `init` or `join`.
#[derive(Debug, Serialize)]
pub(super) struct Member {
    pub(super) peer_id: PeerId,
    pub(super) domain: String,
    pub(super) owner: String,
    pub(super) home: PathBuf,
}

/// The settings of a start: the flags over `IPDC_*` over `ipdc.toml` over defaults.
pub(super) fn config(home: &Home, flags: Flags) -> Result<Config, CliError> {
    let flags = config::Flags {
        listen: flags.listen,
        mqtt: flags.mqtt,
        http: flags.http,
        bootstrap: flags.bootstrap,
    };
    Ok(Config::load(&home.config_file(), flags)?)
}

/// Makes a home, a swarm, and the home's node its first member.
pub(super) fn init(home: &Path, domain: Option<String>) -> Result<Member, CliError> {
    let home = Home::create(home)?;
    let domain = domain.unwrap_or_else(|| DOMAIN.to_owned());
    let root = key_at(&home.root_key())?;
    let key = if home.swarm_key().exists() {
        SwarmKey::load(&home.swarm_key())?
    } else {
        SwarmKey::generate()
    };
    become_member(&home, &key, &root, &domain)
}

/// Redeems an invitation and makes the home of the new member.
pub(super) async fn join(home: &Path, token: &str) -> Result<Member, CliError> {
    let home = Home::create(home)?;
    let keypair = key_at(&home.identity())?;
    let joined = swarm::join::join(token, &keypair).await?;
    let membership = Membership {
        domain: joined.domain,
        credential: joined.credential,
        bootstrap: joined.bootstrap,
    };
    finish(&home, &joined.swarm_key, &membership)
}

/// The peer ID of the home's node.
pub(super) fn peer_id(home: &Path) -> Result<PeerId, CliError> {
    let home = Home::open(home)?;
    Ok(identity::load(&home.identity())?.public().to_peer_id())
}

/// Makes `nodes` homes below `dir`, members of one new swarm, ready to start.
pub(super) fn local_homes(dir: &Path, nodes: u32) -> Result<Vec<Home>, CliError> {
    let root = Keypair::generate_ed25519();
    let key = SwarmKey::generate();
    let make = |number: u32| {
        let home = Home::create(&dir.join(number.to_string()))?;
        become_member(&home, &key, &root, LOCAL_DOMAIN)?;
        Ok(home)
    };
    (1..=nodes).map(make).collect()
}

/// Makes the node's key and has the root, which is at hand, certify it.
fn become_member(
    home: &Home,
    key: &SwarmKey,
    root: &Keypair,
    domain: &str,
) -> Result<Member, CliError> {
    let keypair = key_at(&home.identity())?;
    let peer_id = keypair.public().to_peer_id();
    let credential = swarm::join::certify(root, peer_id, &owner())?;
    let membership = Membership { domain: domain.to_owned(), credential, bootstrap: Vec::new() };
    finish(home, key, &membership)
}

/// Writes what makes the home whole: the swarm's key, and last the certificate.
fn finish(home: &Home, key: &SwarmKey, membership: &Membership) -> Result<Member, CliError> {
    if !home.swarm_key().exists() {
        key.save(&home.swarm_key())?;
    }
    membership.save(&home.certificate())?;
    let certificate = membership.certificate()?;
    Ok(Member {
        peer_id: certificate.peer,
        domain: membership.domain.clone(),
        owner: certificate.owner,
        home: home.path().to_owned(),
    })
}

/// The key at `path`; a new one when a try that failed half-way left none. The issuer may have
/// certified the old one.
fn key_at(path: &Path) -> Result<Keypair, CliError> {
    let key = if path.exists() { identity::load(path) } else { identity::create(path) };
    Ok(key?)
}

/// Who runs the command: the owner that the first node's certificate names.
fn owner() -> String {
    let mut owner = ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| OWNER.to_owned());
    while owner.len() > OWNER_LIMIT {
        owner.pop();
    }
    owner
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::home::HomeError;
    use crate::swarm::certificate::Revocations;

    #[test]
    fn a_new_swarm_s_first_node_is_certified_by_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let member = init(&dir.path().join("home"), Some("lab".into())).unwrap();
        assert_eq!(member.domain, "lab");
        assert_eq!(peer_id(&member.home).unwrap(), member.peer_id);
        let again = init(&member.home, None);
        assert!(matches!(again, Err(CliError::Home(HomeError::Initialised(_)))));
    }

    #[test]
    fn local_homes_are_members_of_one_swarm() {
        let dir = tempfile::tempdir().unwrap();
        let homes = local_homes(dir.path(), 3).unwrap();
        assert_eq!(homes.len(), 3);
        let mut roots = Vec::new();
        let mut keys = Vec::new();
        for home in &homes {
            assert_eq!(&Home::open(home.path()).unwrap(), home);
            let text = std::fs::read(home.certificate()).unwrap();
            let credential: Credential = serde_json::from_slice(&text).unwrap();
            let certificate = credential.certificate.open().unwrap();
            let peer = identity::load(&home.identity()).unwrap().public().to_peer_id();
            let known = Revocations::default();
            credential.check(peer, certificate.swarm, 0, &known).unwrap();
            roots.push(certificate.swarm);
            keys.push(std::fs::read_to_string(home.swarm_key()).unwrap());
        }
        roots.dedup();
        keys.dedup();
        assert_eq!((roots.len(), keys.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_token_that_is_none_makes_no_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let joined = join(&home, "not a token").await;
        assert!(matches!(joined, Err(CliError::Token(_))));
        assert!(!home.exists());
    }
}
