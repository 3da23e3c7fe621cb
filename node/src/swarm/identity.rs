//! Keys: the node's, the swarm's, the root's, and the files they live in.
//!
//! | file | what |
//! |---|---|
//! | `identity` | the node's Ed25519 keypair: it is the peer ID |
//! | `swarm.key` | what every member shares, in Kubo's form: without it no connection |
//! | `root.key` | the root's keypair, on the node that ran `ipdc init`: it signs certificates |
//!
//! Files are written whole, with mode 0600, and never over one that is there, but for a swarm key that
//! takes the place of the one before.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libp2p_identity::Keypair;
use serde::{Deserialize, Serialize};

/// The file of the node's keypair.
pub const IDENTITY_FILE: &str = "identity";
/// The file of the swarm's key.
pub const SWARM_KEY_FILE: &str = "swarm.key";
/// The file of the root's keypair.
pub const ROOT_KEY_FILE: &str = "root.key";

/// The longest key file that is read, in bytes; a real one has about 100.
const KEY_FILE_LIMIT: u64 = 4 * 1024;

/// A key file that could not be read or written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum IdentityError {
    /// The file system said no.
    #[error("the key file {} could not be {did}", path.display())]
    #[diagnostic(
        code("IPDC-2001"),
        help("check that the node's home exists and that this user may read and write it")
    )]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        did: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds no key.
    #[error("{} holds no key of the known form", path.display())]
    #[diagnostic(
        code("IPDC-2002"),
        help("restore the file from a backup; a new key is a new node to everybody else")
    )]
    Form {
        /// Which.
        path: PathBuf,
    },
}

/// Makes a new Ed25519 keypair and writes it to `path`, which must not exist.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn create(path: &Path) -> Result<Keypair, IdentityError> {
    let keypair = Keypair::generate_ed25519();
    save(path, &keypair)?;
    Ok(keypair)
}

/// Writes `keypair` to `path`, which must not exist.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn save(path: &Path, keypair: &Keypair) -> Result<(), IdentityError> {
    let bytes = keypair
        .to_protobuf_encoding()
        .map_err(|_| IdentityError::Form { path: path.to_owned() })?;
    write_secret(path, &(STANDARD.encode(bytes) + "\n"))
}

/// Reads the keypair that [`create`] or [`save`] wrote.
///
/// # Errors
/// When the file cannot be read or holds no keypair.
pub fn load(path: &Path) -> Result<Keypair, IdentityError> {
    let text = read_secret(path)?;
    let bytes = STANDARD.decode(text.trim()).ok();
    bytes
        .and_then(|bytes| Keypair::from_protobuf_encoding(&bytes).ok())
        .ok_or_else(|| IdentityError::Form { path: path.to_owned() })
}

/// The key that all connections in the swarm are encrypted with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SwarmKey([u8; SwarmKey::LEN]);

impl SwarmKey {
    /// Bytes of a key.
    pub const LEN: usize = 32;
    const HEADER: [&str; 2] = ["/key/swarm/psk/1.0.0/", "/base16/"];

    /// A new key, from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        SwarmKey(rand::random())
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SwarmKey::LEN]) -> Self {
        SwarmKey(bytes)
    }

    /// Its bytes. Secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SwarmKey::LEN] {
        &self.0
    }

    /// The text of a `swarm.key` file, as Kubo reads it. Secret.
    #[must_use]
    pub fn to_file_text(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}\n{}\n{hex}\n", Self::HEADER[0], Self::HEADER[1])
    }

    /// Writes a `swarm.key` file to `path`, which must not exist.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        write_secret(path, &self.to_file_text())
    }

    /// Writes a `swarm.key` file to `path` in place of the one that is there.
    ///
    /// # Errors
    /// When it cannot be written; the old one is whole then.
    pub fn replace(&self, path: &Path) -> Result<(), IdentityError> {
        put_secret(path, &self.to_file_text(), true)
    }

    /// Reads a `swarm.key` file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no key in Kubo's base16 form.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let text = read_secret(path)?;
        text.parse().map_err(|BadSwarmKey| IdentityError::Form { path: path.to_owned() })
    }
}

impl From<SwarmKey> for String {
    fn from(key: SwarmKey) -> String {
        key.to_file_text()
    }
}

impl TryFrom<String> for SwarmKey {
    type Error = BadSwarmKey;

    fn try_from(text: String) -> Result<Self, BadSwarmKey> {
        text.parse()
    }
}

impl fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SwarmKey(secret)")
    }
}

/// A text that is no swarm key in Kubo's base16 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a swarm key: expected `/key/swarm/psk/1.0.0/`, `/base16/` and 64 hex digits")]
pub struct BadSwarmKey;

impl FromStr for SwarmKey {
    type Err = BadSwarmKey;

    fn from_str(text: &str) -> Result<Self, BadSwarmKey> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let [version, encoding, hex] = lines[..] else { return Err(BadSwarmKey) };
        let digits_only = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if [version, encoding] != Self::HEADER || hex.len() != 2 * Self::LEN || !digits_only {
            return Err(BadSwarmKey);
        }
        let mut key = [0; Self::LEN];
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| BadSwarmKey)?;
        }
        Ok(SwarmKey(key))
    }
}

fn read_secret(path: &Path) -> Result<String, IdentityError> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_LIMIT).read_to_string(&mut text))
        .map_err(|source| IdentityError::File { path: path.to_owned(), did: "read", source })?;
    Ok(text)
}

/// Writes a secret to `path`, which must not exist.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    put_secret(path, text, false)
}

/// Writes beside and links into place: after a crash the file is whole, or as it was.
fn put_secret(path: &Path, text: &str, replace: bool) -> Result<(), IdentityError> {
    let write = || -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // A temporary file has mode 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        if replace {
            file.persist(path)?;
        } else {
            file.persist_noclobber(path)?;
        }
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| IdentityError::File { path: path.to_owned(), did: "written", source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_keypair_reads_back_from_a_file_that_only_its_user_can_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(IDENTITY_FILE);
        let made = create(&path).unwrap();
        assert_eq!(load(&path).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_file_is_never_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(IDENTITY_FILE);
        let made = create(&path).unwrap();
        assert!(matches!(create(&path), Err(IdentityError::File { did: "written", .. })));
        assert_eq!(load(&path).unwrap().public(), made.public());
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(IDENTITY_FILE);
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(load(&path), Err(IdentityError::Form { .. })));
        assert!(matches!(SwarmKey::load(&path), Err(IdentityError::Form { .. })));
    }

    #[test]
    fn a_swarm_key_has_kubos_form() {
        let key = SwarmKey::from_bytes([0xab; 32]);
        let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "ab".repeat(32));
        assert_eq!(key.to_file_text(), text);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.replace("base16", "base64").parse::<SwarmKey>(), Err(BadSwarmKey));
        assert_eq!(text.replace("abab", "ab+b").parse::<SwarmKey>(), Err(BadSwarmKey));
        assert_eq!(text.replace("abab", "ab").parse::<SwarmKey>(), Err(BadSwarmKey));
    }

    #[test]
    fn a_swarm_key_does_not_show_in_logs() {
        assert_eq!(format!("{:?}", SwarmKey::generate()), "SwarmKey(secret)");
    }
}
