//! What `init`, `join`, `run --local` and `root restore` write into a home.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::Serialize;

use super::error::CliError;
use crate::config::{Config, Flags};
use crate::home::Home;
use crate::swarm::backup::{self, BACKUP_LIMIT};
use crate::swarm::certificate::{OWNER_LIMIT, now_ms};
use crate::swarm::identity::{self, SwarmKey};
use crate::swarm::invitation::{Invitation, Token};
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

impl Member {
    fn of(home: &Home, membership: &Membership) -> Result<Member, CliError> {
        let certificate = membership.certificate()?;
        Ok(Member {
            peer_id: certificate.peer,
            domain: membership.domain.clone(),
            owner: certificate.owner,
            home: home.path().to_owned(),
        })
    }
}

/// Makes a home, a swarm, and the home's node its first member.
pub(super) fn init(home: &Path, domain: Option<String>) -> Result<Member, CliError> {
    let home = Home::create(home)?;
    let config = Config::load(&home.config_file(), Flags::default())?;
    let domain = domain.unwrap_or_else(|| config.node.domain.clone());
    let root = key_at(&home.root_key())?;
    become_member(&home, &SwarmKey::generate(), &root, &domain, &owner(&config), Vec::new())
}

/// Redeems an invitation and makes the home of the new member.
pub(super) async fn join(home: &Path, token: &str) -> Result<Member, CliError> {
    // What is no invitation makes no home.
    let invitation = token.parse::<Token>().map_err(JoinError::from)?.invitation;
    if let Ok(home) = Home::open(home)
        && let Some(member) = take_key(&home, &invitation)?
    {
        return Ok(member);
    }
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

/// Takes the swarm's key out of an invitation, for a member that was away when it changed; none if the
/// home is of another swarm or has that key.
fn take_key(home: &Home, invitation: &Invitation) -> Result<Option<Member>, CliError> {
    let membership = Membership::load(&home.certificate())?;
    let has = SwarmKey::load(&home.swarm_key())? == invitation.swarm_key;
    if has || membership.certificate()?.swarm != invitation.root {
        return Ok(None);
    }
    if invitation.expires_ms <= now_ms() {
        return Err(JoinError::Expired.into());
    }
    let _stopped = home.lock()?;
    invitation.swarm_key.replace(&home.swarm_key())?;
    Ok(Some(Member::of(home, &membership)?))
}

/// Writes the root's key to `file`, encrypted; gives the root.
pub(super) fn export_root(home: &Path, file: &Path, passphrase: &str) -> Result<PeerId, CliError> {
    let home = Home::open(home)?;
    let path = home.root_key();
    if !path.exists() {
        return Err(CliError::NoRootKey(home.path().to_owned()));
    }
    let key = identity::load(&path)?;
    identity::write_secret(file, &backup::seal(&key, passphrase)?)?;
    Ok(key.public().to_peer_id())
}

/// Puts the root's key of a backup into the home of a member; gives the root.
pub(super) fn restore_root(home: &Path, file: &Path, passphrase: &str) -> Result<PeerId, CliError> {
    let home = Home::open(home)?;
    let key = opened(file, passphrase)?;
    let found = key.public().to_peer_id();
    let swarm = Membership::load(&home.certificate())?.certificate()?.swarm;
    if found != swarm {
        return Err(CliError::OtherRoot { found: found.into(), swarm: swarm.into() });
    }
    let _stopped = home.lock()?;
    if !home.root_key().exists() {
        identity::save(&home.root_key(), &key)?;
    }
    Ok(found)
}

/// What only people know of a swarm whose root comes back on a new machine.
pub(super) struct NewHome {
    pub(super) domain: Option<String>,
    pub(super) bootstrap: Vec<Multiaddr>,
}

/// Makes a home with the root's key of a backup, a member of the swarm that has the key at `swarm_key`;
/// gives the root.
pub(super) fn root_home(
    home: &Path,
    file: &Path,
    passphrase: &str,
    swarm_key: &Path,
    new: NewHome,
) -> Result<PeerId, CliError> {
    let root = opened(file, passphrase)?;
    let swarm_key = SwarmKey::load(swarm_key)?;
    let home = Home::create(home)?;
    let config = Config::load(&home.config_file(), Flags::default())?;
    let domain = new.domain.unwrap_or_else(|| config.node.domain.clone());
    if !home.root_key().exists() {
        identity::save(&home.root_key(), &root)?;
    }
    become_member(&home, &swarm_key, &root, &domain, &owner(&config), new.bootstrap)?;
    Ok(root.public().to_peer_id())
}

fn opened(file: &Path, passphrase: &str) -> Result<Keypair, CliError> {
    let mut text = String::new();
    let read = File::open(file).and_then(|f| f.take(BACKUP_LIMIT).read_to_string(&mut text));
    read.map_err(CliError::file("read", file))?;
    Ok(backup::open(&text, passphrase)?)
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
        become_member(&home, &swarm_key, &root, LOCAL_DOMAIN, &owner, Vec::new())?;
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
    bootstrap: Vec<Multiaddr>,
) -> Result<Member, CliError> {
    let peer_id = key_at(&home.identity())?.public().to_peer_id();
    let credential = join::certify(root, peer_id, owner)?;
    let membership = Membership { domain: domain.to_owned(), credential, bootstrap };
    finish(home, swarm_key, &membership)
}

/// Writes what makes the home whole: the swarm's key, and last the certificate.
fn finish(home: &Home, key: &SwarmKey, membership: &Membership) -> Result<Member, CliError> {
    if !home.swarm_key().exists() {
        key.save(&home.swarm_key())?;
    }
    membership.save(&home.certificate())?;
    Member::of(home, membership)
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
