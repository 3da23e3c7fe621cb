//! The node's home: the directory that holds all a node keeps.
//!
//! | file | what |
//! |---|---|
//! | `ipdc.toml` | the settings, see [`crate::config`] |
//! | `identity`, `swarm.key`, `certificate` | who the node is and what admits it to its swarm |
//! | `root.key` | the swarm's root, on the node that ran `ipdc init` |
//! | `mqtt.password`, `api.token` | what makes someone on this machine the local user |
//! | `ipdc.db` | the database |
//! | `blocks/`, `scratch/`, `cache/` | blocks; a job's intermediate data; compiled modules |
//! | `run.json` | how a running node is found, while it runs |
//! | `node.lock` | held while it runs |
//! | `node.log` | what a node in the background says |
//!
//! This module knows the places, makes the directory and the local secrets, and holds the lock. What
//! is in the other files is their owners' business. The directory is the user's alone (mode 0700),
//! each secret too (0600), and a file is written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::DEFAULT_TOML;

/// The variable that names the home.
pub const HOME_VARIABLE: &str = "IPDC_HOME";

/// The longest small file that is read here, in bytes: `run.json` with many addresses.
const FILE_LIMIT: u64 = 64 * 1024;

/// Random bytes in a password or token: not to be guessed.
const SECRET_BYTES: usize = 24;

const CONFIG: &str = "ipdc.toml";
const CERTIFICATE: &str = "certificate";
const MQTT_PASSWORD: &str = "mqtt.password";
const API_TOKEN: &str = "api.token";
const RUN_INFO: &str = "run.json";
const LOCK: &str = "node.lock";

/// A node's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

/// A home that cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum HomeError {
    /// No node was made there.
    #[error("{} is not the home of a node", .0.display())]
    #[diagnostic(
        code("IPDC-1001"),
        help(
            "make a new swarm with `ipdc init`, or join one with `ipdc join TOKEN`; another home is named with `--home DIR` or {HOME_VARIABLE}"
        )
    )]
    NotInitialised(PathBuf),
    /// A node was made there before.
    #[error("{} is the home of a node already", .0.display())]
    #[diagnostic(
        code("IPDC-1002"),
        help(
            "start it with `ipdc start`, or name another home with `--home DIR`; a home is never overwritten"
        )
    )]
    Initialised(PathBuf),
    /// The directory holds something else.
    #[error("{} holds other files: it cannot become the home of a node", .0.display())]
    #[diagnostic(code("IPDC-1003"), help("name an empty or a new directory with `--home DIR`"))]
    Foreign(PathBuf),
    /// The node of that home runs.
    #[error("the home {} is in use by {}", path.display(), Holder(*pid))]
    #[diagnostic(
        code("IPDC-1004"),
        help("stop that node with `ipdc stop`; several nodes on one machine each need a home")
    )]
    InUse {
        /// The home.
        path: PathBuf,
        /// The process, where it could be told.
        pid: Option<u32>,
    },
    /// The file system said no.
    #[error("cannot {did} {}", path.display())]
    #[diagnostic(
        code("IPDC-1005"),
        help(
            "the home must belong to the user that runs the node; is the disk full or read-only?"
        )
    )]
    File {
        /// `read`, `write`, …
        did: &'static str,
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The user has no place for data.
    #[error("there is no place for a home: neither {HOME_VARIABLE} nor HOME is set")]
    #[diagnostic(code("IPDC-1006"), help("name one with `--home DIR`"))]
    Nowhere,
}

/// Who holds the lock, in words.
struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "a running node, process {pid}"),
            None => f.write_str("a running node"),
        }
    }
}

/// The sole right to run the node of a home, until it is dropped or the process ends, however
/// that may be.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Home {
    /// Where the home is: as `named` on the command line, else as [`HOME_VARIABLE`] says, else in
    /// the user's directory for data.
    ///
    /// # Errors
    /// [`HomeError::Nowhere`] when nothing says where.
    pub fn locate(named: Option<PathBuf>) -> Result<PathBuf, HomeError> {
        let by_variable = || std::env::var_os(HOME_VARIABLE).filter(|dir| !dir.is_empty());
        let by_user = || {
            let dirs = directories::ProjectDirs::from("", "", "ipdc")?;
            Some(dirs.data_dir().to_owned())
        };
        named
            .or_else(|| by_variable().map(PathBuf::from))
            .or_else(by_user)
            .ok_or(HomeError::Nowhere)
    }

    /// Makes the directory with its settings and local secrets. It is the home of a node once its
    /// certificate is there; until then this may be repeated and keeps what it finds.
    ///
    /// # Errors
    /// When there is a node already, or something else, or the file system says no.
    pub fn create(path: &Path) -> Result<Home, HomeError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file("make", path))?;
        let home = Home { path: fs::canonicalize(path).map_err(file("find", path))? };
        if home.certificate().exists() {
            return Err(HomeError::Initialised(home.path));
        }
        let mut entries = fs::read_dir(path).map_err(file("list", path))?;
        let begun = home.file(API_TOKEN).exists();
        if !begun && entries.next().is_some() {
            return Err(HomeError::Foreign(home.path));
        }
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(file("protect", path))?;
        // The token comes first: it marks what follows as ours.
        for secret in [API_TOKEN, MQTT_PASSWORD] {
            let random: [u8; SECRET_BYTES] = rand::random();
            home.add(secret, &(URL_SAFE_NO_PAD.encode(random) + "\n"))?;
        }
        home.add(CONFIG, DEFAULT_TOML)?;
        Ok(home)
    }

    /// The home at `path`, which must have been made the home of a node.
    ///
    /// # Errors
    /// [`HomeError::NotInitialised`] when it was not.
    pub fn open(path: &Path) -> Result<Home, HomeError> {
        let none = || HomeError::NotInitialised(path.to_owned());
        let home = Home { path: fs::canonicalize(path).map_err(|_| none())? };
        if home.certificate().exists() { Ok(home) } else { Err(none()) }
    }

    /// Takes the right to run the home's node.
    ///
    /// # Errors
    /// [`HomeError::InUse`] when another process has it.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        let path = self.file(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&path).map_err(file("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is helps the user; that it is somebody is enough for us.
                let _ = (&lock).take(FILE_LIMIT).read_to_string(&mut holder);
                let pid = holder.trim().parse().ok();
                return Err(HomeError::InUse { path: self.path.clone(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(file("lock", &path)(source)),
        }
        let said = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        said.map_err(file("write", &path))?;
        Ok(Lock { _file: lock })
    }

    /// Says how the running node is found. Whoever reads it sees it whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_run_info<T: Serialize>(&self, info: &T) -> Result<(), HomeError> {
        let path = self.run_info();
        let text = serde_json::to_string_pretty(info).map_err(io::Error::other);
        let written = text.and_then(|text| self.put(&path, &text, true));
        written.map_err(file("write", &path))
    }

    /// How the running node is found; none when none runs, or it has not said so yet. After a
    /// crash it is what the last one said.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_run_info<T: DeserializeOwned>(&self) -> Result<Option<T>, HomeError> {
        let path = self.run_info();
        match read(&path) {
            Ok(text) => {
                let info = serde_json::from_str(&text).map_err(io::Error::other);
                info.map(Some).map_err(file("understand", &path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file("read", &path)(error)),
        }
    }

    /// Says that the node no longer runs.
    pub fn remove_run_info(&self) {
        // One that stays says too much, as after a crash; its readers are prepared for that.
        let _ = fs::remove_file(self.run_info());
    }

    /// The password of local MQTT users.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn mqtt_password(&self) -> Result<String, HomeError> {
        self.secret(MQTT_PASSWORD)
    }

    /// The token of local HTTP users.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn api_token(&self) -> Result<String, HomeError> {
        self.secret(API_TOKEN)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.file(CONFIG)
    }

    /// The node's keypair.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.file("identity")
    }

    /// The swarm's key.
    #[must_use]
    pub fn swarm_key(&self) -> PathBuf {
        self.file("swarm.key")
    }

    /// The root's keypair, on the node that made the swarm.
    #[must_use]
    pub fn root_key(&self) -> PathBuf {
        self.file("root.key")
    }

    /// What admits the node to its swarm. It is written last: with it the home is whole.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.file(CERTIFICATE)
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.file("ipdc.db")
    }

    /// The blocks that last.
    #[must_use]
    pub fn blocks(&self) -> PathBuf {
        self.file("blocks")
    }

    /// The blocks that need not last.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.file("scratch")
    }

    /// The memo's table, in a directory that is there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn memo(&self) -> Result<PathBuf, HomeError> {
        let cache = self.cache();
        let made = fs::create_dir_all(&cache);
        made.map_err(|source| HomeError::File { did: "make", path: cache.clone(), source })?;
        Ok(cache.join("memo.db"))
    }

    /// What can be made again: compiled modules, the memo's table.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.file("cache")
    }

    /// Native programs that run, and what they are given.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.file("processes")
    }

    /// What is mounted into containers.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.file("containers")
    }

    /// What a node in the background says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.file("node.log")
    }

    /// How a running node is found.
    #[must_use]
    pub fn run_info(&self) -> PathBuf {
        self.file(RUN_INFO)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn secret(&self, name: &str) -> Result<String, HomeError> {
        let path = self.file(name);
        let text = read(&path).map_err(file("read", &path))?;
        Ok(text.trim().to_owned())
    }

    /// Writes a file that is not there yet, and leaves one that is.
    fn add(&self, name: &str, text: &str) -> Result<(), HomeError> {
        let path = self.file(name);
        match self.put(&path, text, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            written => written.map_err(file("write", &path)),
        }
    }

    /// Writes beside and moves into place; when this returns, the file is on the disk.
    fn put(&self, path: &Path, text: &str, replace: bool) -> io::Result<()> {
        // A temporary file has mode 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        if replace {
            file.persist(path)?;
        } else {
            file.persist_noclobber(path)?;
        }
        File::open(&self.path)?.sync_all()
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

fn file(did: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::File { did, path, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// A home that is whole.
    fn home(dir: &tempfile::TempDir) -> Home {
        let home = Home::create(&dir.path().join("home")).unwrap();
        home.add(CERTIFICATE, "admitted").unwrap();
        home
    }

    #[test]
    fn a_new_home_is_its_user_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("open")).unwrap();
        for name in ["new/deep", "open"] {
            let home = Home::create(&dir.path().join(name)).unwrap();
            assert_eq!(mode(home.path()), 0o700);
            for secret in [MQTT_PASSWORD, API_TOKEN] {
                assert_eq!(mode(&home.file(secret)), 0o600);
            }
            assert_eq!(home.mqtt_password().unwrap().len(), 32);
            assert_ne!(home.mqtt_password().unwrap(), home.api_token().unwrap());
            assert_eq!(fs::read_to_string(home.config_file()).unwrap(), DEFAULT_TOML);
        }
    }

    #[test]
    fn a_home_is_whole_only_with_its_certificate_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        assert!(matches!(Home::open(&path), Err(HomeError::NotInitialised(_))));
        let begun = Home::create(&path).unwrap();
        assert!(matches!(Home::open(&path), Err(HomeError::NotInitialised(_))));
        let token = begun.api_token().unwrap();
        let home = home(&dir);
        assert_eq!(home.api_token().unwrap(), token, "a second try keeps what is there");
        assert_eq!(Home::open(&path).unwrap(), home);
        assert!(matches!(Home::create(&path), Err(HomeError::Initialised(_))));
    }

    #[test]
    fn a_directory_with_other_files_does_not_become_a_home() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "…").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Home::create(dir.path()), Err(HomeError::Foreign(_))));
        assert_eq!(mode(dir.path()), 0o755, "and is left as it was");
    }

    #[test]
    fn a_second_start_is_told_who_has_the_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let lock = home.lock().unwrap();
        let error = home.lock().unwrap_err();
        let pid = std::process::id();
        assert!(matches!(error, HomeError::InUse { pid: Some(holder), .. } if holder == pid));
        assert!(error.to_string().contains(&pid.to_string()), "{error}");
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn a_lock_ends_with_its_process_however_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let path = home.file(LOCK);
        drop(home.lock().unwrap());
        let mut other = Command::new("flock")
            .arg("--no-fork")
            .arg(&path)
            .args(["sh", "-c", "echo held; exec sleep 600"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        assert!(matches!(home.lock(), Err(HomeError::InUse { .. })));
        other.kill().unwrap();
        other.wait().unwrap();
        home.lock().unwrap();
    }

    #[test]
    fn a_running_node_is_found_by_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        assert_eq!(home.read_run_info::<Vec<u32>>().unwrap(), None);
        home.write_run_info(&[1, 2]).unwrap();
        home.write_run_info(&[3]).unwrap();
        assert_eq!(home.read_run_info().unwrap(), Some(vec![3]));
        assert_eq!(mode(&home.run_info()), 0o600);
        home.remove_run_info();
        assert_eq!(home.read_run_info::<Vec<u32>>().unwrap(), None);
    }

    #[test]
    fn the_home_that_was_named_is_the_home() {
        let named = PathBuf::from("/some/where");
        assert_eq!(Home::locate(Some(named.clone())).unwrap(), named);
    }
}
