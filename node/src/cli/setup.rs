//! What `init`, `join` and `run --local` write into a home.

use std::path::{Path, PathBuf};

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::Serialize;

use super::error::CliError;
use crate::config::{Config, Flags};
use crate::home::Home;
use crate::swarm::certificate::OWNER_LIMIT;
use crate::swarm::identity::{self, SwarmKey};
use crate::swarm::invitation::Token;
use crate::swarm::join::{self, JoinError};
use crate::swarm::membership::Membership;

/// The owner when neither the settings nor the system say who the user is.
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

/// Makes a home, a swarm, and the home's node its first member.
pub(super) fn init(home: &Path, domain: Option<String>) -> Result<Member, CliError> {
    let home = Home::create(home)?;
    let config = Config::load(&home.config_file(), Flags::default())?;
    let domain = domain.unwrap_or_else(|| config.node.domain.clone());
    let root = key_at(&home.root_key())?;
    become_member(&home, &SwarmKey::generate(), &root, &domain, &owner(&config))
}

/// Redeems an invitation and makes the home of the new member.
pub(super) async fn join(home: &Path, token: &str) -> Result<Member, CliError> {
    // What is no invitation makes no home.
    token.parse::<Token>().map_err(JoinError::from)?;
    let home = Home::create(home)?;
    let keypair = key_at(&home.identity())?;
    let joined = join::join(token, &keypair).await?;
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

/// Makes `nodes` homes below `dir`, members of one new swarm.
pub(super) fn local_homes(dir: &Path, nodes: u32) -> Result<Vec<Home>, CliError> {
    let owner = owner(&Config::default());
    let root = Keypair::generate_ed25519();
    let swarm_key = SwarmKey::generate();
    let make = |number: u32| {
        let home = Home::create(&dir.join(number.to_string()))?;
        become_member(&home, &swarm_key, &root, LOCAL_DOMAIN, &owner)?;
        Ok(home)
    };
    (1..=nodes).map(make).collect()
}

/// Makes the node's key and has the root, which is at hand, certify it.
fn become_member(
    home: &Home,
    swarm_key: &SwarmKey,
    root: &Keypair,
    domain: &str,
    owner: &str,
) -> Result<Member, CliError> {
    let peer_id = key_at(&home.identity())?.public().to_peer_id();
    let credential = join::certify(root, peer_id, owner)?;
    let membership = Membership { domain: domain.to_owned(), credential, bootstrap: Vec::new() };
    finish(home, swarm_key, &membership)
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

/// The key at `path`; a new one when a try that failed half-way left none. Its issuer may have
/// certified the old one.
fn key_at(path: &Path) -> Result<Keypair, CliError> {
    let key = if path.exists() { identity::load(path) } else { identity::create(path) };
    Ok(key?)
}

/// The owner that a first node's certificate names: by the settings, else who runs the command.
fn owner(config: &Config) -> String {
    let fits = |owner: &String| !owner.is_empty() && owner.len() <= OWNER_LIMIT;
    let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let named = Some(config.node.owner.clone()).filter(fits);
    named.or_else(user).filter(fits).unwrap_or_else(|| OWNER.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::home::HomeError;
    use crate::swarm::revocation::Revocations;

    #[test]
    fn a_new_swarm_has_its_name_and_a_first_member_and_is_made_once() {
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
        let mut swarms = Vec::new();
        for home in &homes {
            assert_eq!(&Home::open(home.path()).unwrap(), home);
            let membership = Membership::load(&home.certificate()).unwrap();
            let root = membership.certificate().unwrap().swarm;
            let peer = peer_id(home.path()).unwrap();
            membership.credential.check(peer, root, 0, &Revocations::default()).unwrap();
            swarms.push((root, fs::read_to_string(home.swarm_key()).unwrap()));
        }
        assert_eq!(swarms.len(), 3);
        swarms.dedup();
        assert_eq!(swarms.len(), 1);
    }

    #[tokio::test]
    async fn what_is_no_invitation_makes_no_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let joined = join(&home, "not a token").await;
        assert!(matches!(joined, Err(CliError::Join(JoinError::Token(_)))));
        assert!(!home.exists());
    }
}
