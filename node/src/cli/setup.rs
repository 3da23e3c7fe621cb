//! What `init`, `join` and `run --local` write into a home.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ipdc_jobs::ids::PeerId;
use libp2p_identity::Keypair;
use serde::Serialize;
use toml::Value;

use super::error::CliError;
use crate::config::{Config, Flags};
use crate::home::Home;
use crate::swarm::certificate::{Credential, OWNER_LIMIT};
use crate::swarm::identity::{self, SwarmKey};
use crate::swarm::invitation::Token;
use crate::swarm::join::{self, JoinError};

/// The owner when neither the settings nor the system say who the user is.
const OWNER: &str = "owner";

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
    if let Some(domain) = domain {
        set(&home, &[("node", "domain", domain.into())])?;
    }
    let config = Config::load(&home.config_file(), Flags::default())?;
    let keypair = key_at(&home.identity())?;
    let peer_id = keypair.public().to_peer_id();
    let owner = owner(&config);
    let swarm = join::found(peer_id, &owner)?;
    identity::save(&home.root_key(), &swarm.root_key)?;
    swarm.swarm_key.save(&home.swarm_key())?;
    finish(&home, &swarm.credential)?;
    Ok(Member { peer_id, domain: config.node.domain, owner, home: home.path().to_owned() })
}

/// Redeems an invitation and makes the home of the new member.
pub(super) async fn join(home: &Path, token: &str) -> Result<Member, CliError> {
    // What is no invitation makes no home.
    token.parse::<Token>().map_err(JoinError::from)?;
    let home = Home::create(home)?;
    let keypair = key_at(&home.identity())?;
    let joined = join::join(token, &keypair).await?;
    let bootstrap: Vec<_> = joined.bootstrap.iter().map(ToString::to_string).collect();
    set(
        &home,
        &[
            ("node", "domain", joined.domain.clone().into()),
            ("swarm", "bootstrap", bootstrap.into()),
        ],
    )?;
    joined.swarm_key.save(&home.swarm_key())?;
    finish(&home, &joined.credential)?;
    Ok(Member {
        peer_id: joined.certificate.peer,
        domain: joined.domain,
        owner: joined.certificate.owner,
        home: home.path().to_owned(),
    })
}

/// The peer ID of the home's node.
pub(super) fn peer_id(home: &Path) -> Result<PeerId, CliError> {
    let home = Home::open(home)?;
    Ok(identity::load(&home.identity())?.public().to_peer_id())
}

/// Makes `nodes` homes below `dir`, members of one new swarm, that share the machine's `cpus`.
pub(super) fn local_homes(dir: &Path, nodes: u32, cpus: u32) -> Result<Vec<Home>, CliError> {
    let owner = owner(&Config::default());
    let root = Keypair::generate_ed25519();
    let swarm_key = SwarmKey::generate();
    let slots = (cpus / nodes).max(1);
    let make = |number: u32| {
        let home = Home::create(&dir.join(number.to_string()))?;
        set(&home, &[("node", "slots", slots.into())])?;
        let keypair = identity::create(&home.identity())?;
        let credential = join::certify(&root, keypair.public().to_peer_id(), &owner)?;
        swarm_key.save(&home.swarm_key())?;
        finish(&home, &credential)?;
        Ok(home)
    };
    (1..=nodes).map(make).collect()
}

/// Writes the certificate, which makes the home whole.
fn finish(home: &Home, credential: &Credential) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(credential).expect("a credential is strings");
    let path = home.certificate();
    write(&path, &text).map_err(CliError::file("write", &path))
}

/// The key at `path`; a new one when there is none. A try that failed half-way left one, and its
/// issuer may have certified it.
fn key_at(path: &Path) -> Result<Keypair, CliError> {
    let key = if path.exists() { identity::load(path) } else { identity::create(path) };
    Ok(key?)
}

/// The owner that a first node's certificate names: by the settings, else who runs the command.
fn owner(config: &Config) -> String {
    let named = Some(config.node.owner.clone());
    let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let fits = |owner: &String| !owner.is_empty() && owner.len() <= OWNER_LIMIT;
    named.filter(fits).or_else(user).filter(fits).unwrap_or_else(|| OWNER.to_owned())
}

/// Sets settings in the home's `ipdc.toml`, and leaves the rest of it, comments too.
fn set(home: &Home, settings: &[(&str, &str, Value)]) -> Result<(), CliError> {
    let path = home.config_file();
    let mut text = fs::read_to_string(&path).map_err(CliError::file("read", &path))?;
    for (section, name, value) in settings {
        text = with_setting(&text, section, name, value);
    }
    write(&path, &text).map_err(CliError::file("write", &path))
}

/// `text` with the setting in the place of its commented default, else below its section's head.
fn with_setting(text: &str, section: &str, name: &str, value: &Value) -> String {
    let head = format!("[{section}]");
    let setting = format!("{name} = {value}");
    let mut lines: Vec<&str> = text.lines().collect();
    let Some(begin) = lines.iter().position(|line| line.trim() == head) else {
        return format!("{text}\n{head}\n{setting}\n");
    };
    let length = lines[begin + 1..].iter().take_while(|line| !line.starts_with('[')).count();
    let is_it = |line: &&str| {
        let said = line.trim_start_matches('#').split_once('=');
        said.is_some_and(|(known, _)| known.trim_end() == name)
    };
    match lines[begin + 1..=begin + length].iter().position(is_it) {
        Some(at) => lines[begin + 1 + at] = &setting,
        None => lines.insert(begin + 1, &setting),
    }
    lines.join("\n") + "\n"
}

/// Writes a file for this user alone, whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_TOML;
    use crate::home::HomeError;
    use crate::swarm::certificate::Revocations;

    #[test]
    fn a_new_swarm_has_its_name_and_a_first_member_and_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let member = init(&dir.path().join("home"), Some("lab \"1\"".into())).unwrap();
        assert_eq!(member.domain, "lab \"1\"");
        assert_eq!(peer_id(&member.home).unwrap(), member.peer_id);
        let home = Home::open(&member.home).unwrap();
        let config = Config::load(&home.config_file(), Flags::default()).unwrap();
        assert_eq!(config.node.domain, "lab \"1\"");
        let again = init(&member.home, None);
        assert!(matches!(again, Err(CliError::Home(HomeError::Initialised(_)))));
    }

    #[test]
    fn local_homes_are_members_of_one_swarm_and_share_the_processors() {
        let dir = tempfile::tempdir().unwrap();
        let homes = local_homes(dir.path(), 3, 8).unwrap();
        let mut swarms = Vec::new();
        for home in &homes {
            assert_eq!(&Home::open(home.path()).unwrap(), home);
            let text = fs::read(home.certificate()).unwrap();
            let credential: Credential = serde_json::from_slice(&text).unwrap();
            let root = credential.certificate.open().unwrap().swarm;
            let peer = peer_id(home.path()).unwrap();
            credential.check(peer, root, 0, &Revocations::default()).unwrap();
            swarms.push((root, fs::read_to_string(home.swarm_key()).unwrap()));
            let config = Config::load(&home.config_file(), Flags::default()).unwrap();
            assert_eq!(config.node.slots, Some(2));
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

    #[test]
    fn a_setting_takes_the_place_of_its_default_and_nothing_else_changes() {
        let set = |text: &str| with_setting(text, "mqtt", "listen", &"here".into());
        let text = set(DEFAULT_TOML);
        let changed: Vec<_> =
            text.lines().zip(DEFAULT_TOML.lines()).filter(|(a, b)| a != b).collect();
        assert_eq!(changed, [("listen = \"here\"", "#listen = \"127.0.0.1:1883\"")]);
        assert_eq!(text.lines().count(), DEFAULT_TOML.lines().count());
        assert_eq!(
            set("[mqtt]\nx = 1\n[http]\nlisten = 2"),
            "[mqtt]\nlisten = \"here\"\nx = 1\n[http]\nlisten = 2\n"
        );
        assert_eq!(set(&set("a = 1\n")), "a = 1\n\n[mqtt]\nlisten = \"here\"\n");
    }
}
