//! A container engine of a test's own: a real `dockerd` with its own folder and socket, and a small image in it.
//!
//! It takes Linux, root, and Debian's packages docker.io and busybox-static. `IPDC_TEST_NO_DOCKER=1` says that there can
//! be none here.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Program, Ran, Running, SOON};

/// The image that each engine has: a shell and its tools, 2 MB.
pub const BASE: &str = "base:1";

/// How long an engine may take to end its containers and itself.
const STOP: Duration = Duration::from_secs(60);

/// An engine that a test may kill, hang and start again.
pub struct Engine {
    folder: TempDir,
    /// Whether it has the machine's network, to install packages in images.
    is_online: bool,
    daemon: Option<Running>,
}

impl Engine {
    /// A started engine with [`BASE`]; none where these tests are left out.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Option<Engine> {
        Self::start_with(false)
    }

    /// The same with the machine's network.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn online() -> Option<Engine> {
        Self::start_with(true)
    }

    fn start_with(is_online: bool) -> Option<Engine> {
        if std::env::var_os("IPDC_TEST_NO_DOCKER").is_some() {
            eprintln!("left out: IPDC_TEST_NO_DOCKER is set");
            return None;
        }
        let folder = TempDir::with_prefix("ipdc-d-").expect("a temp folder");
        let mut engine = Engine { folder, is_online, daemon: None };
        engine.run();
        engine.import(BASE, &[]);
        Some(engine)
    }

    /// Starts the daemon, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn run(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        // Of one that was killed. Where nobody waits for orphans, a dead process seems to be there.
        for pid in ["pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(at(pid));
        }
        let program = if self.is_online {
            Program::new("dockerd")
        } else {
            // In a network of its own: it changes nothing of the machine's.
            Program::new("unshare").args(["--net", "dockerd"])
        };
        let daemon = program
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(self.url())
            .args(["--iptables=false", "--ip6tables=false"])
            .start();
        self.daemon = Some(daemon);
        let deadline = Instant::now() + SOON;
        while !self.docker(["version"]).run().status.success() {
            let said = self.daemon.as_ref().map(Running::stderr).unwrap_or_default();
            assert!(Instant::now() < deadline, "the engine does not answer; it said: {said}");
            sleep(Duration::from_millis(100));
        }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The settings of a node that uses it and runs containers for every member.
    #[must_use]
    pub fn settings(&self) -> String {
        let socket = self.socket();
        let members = ["wasm", "python", "container"];
        format!("[containers]\nengine = {socket:?}\n[policy]\nmembers = {members:?}\n")
    }

    /// `docker ARGS` of this engine.
    #[must_use]
    pub fn docker<const N: usize>(&self, args: [&str; N]) -> Program {
        Program::new("docker").arg("--host").arg(self.url()).args(args)
    }

    /// Gives it an image of a shell, its tools and these files.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn import(&self, name: &str, files: &[(&str, &[u8])]) {
        let root = TempDir::new_in(self.folder.path()).expect("a writable temp folder");
        let bin = root.path().join("bin");
        fs::create_dir(&bin).expect("a writable temp folder");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("Debian's busybox-static");
        for tool in Program::new("/bin/busybox").arg("--list").run().ok().text().lines() {
            // It lists itself too.
            let _ = symlink("busybox", bin.join(tool));
        }
        for (name, bytes) in files {
            let file = root.path().join(name);
            fs::write(&file, bytes).expect("a writable temp folder");
            // It may be a program.
            fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("our own file");
        }
        let archive = self.folder.path().join("image.tar");
        let _ = Program::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(root.path())
            .arg(".")
            .run()
            .ok();
        let archive = archive.to_str().expect("a temp folder's path").to_owned();
        let _ = self.docker(["import", &archive, name]).run().ok();
    }

    /// Writes one of its images into a file, as its user would.
    ///
    /// # Panics
    /// When it does not.
    pub fn save(&self, name: &str, to: &Path) {
        let to = to.to_str().expect("a temp folder's path");
        let _ = self.docker(["save", "--output", to, name]).run().ok();
    }

    /// The containers that there are, in whatever state.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        let listed = self.docker(["ps", "--all", "--quiet", "--no-trunc"]).run().ok();
        listed.text().lines().map(str::to_owned).collect()
    }

    /// How many containers were made since the Unix time `since`, of the last few dozen.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn made_since(&self, since: u64) -> usize {
        // To the end of this second.
        let (since, until) = (since.to_string(), (unix_time() + 1).to_string());
        let made: Ran = self
            .docker(["events", "--filter", "event=create", "--since", &since, "--until", &until])
            .run()
            .ok();
        made.text().lines().count()
    }

    /// Kills the daemon; its containers run on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.daemon.take().expect("the engine runs").kill();
    }

    /// Has the daemon do nothing, or go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn hang(&self, hangs: bool) {
        let daemon = self.daemon.as_ref().expect("the engine runs");
        daemon.signal(if hangs { Signal::STOP } else { Signal::CONT });
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The Unix time of the second that begins now: nothing that was done before is in it.
///
/// # Panics
/// When the clock is before 1970.
#[must_use]
pub fn next_second() -> u64 {
    let before = unix_time();
    while unix_time() == before {
        sleep(Duration::from_millis(10));
    }
    unix_time()
}

fn unix_time() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is set").as_secs()
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.daemon.is_none() && !std::thread::panicking() {
            // What it left running it ends itself.
            self.run();
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.signal(Signal::CONT);
            daemon.signal(Signal::TERM);
            let _ = daemon.wait(STOP);
        }
        self.end_shims();
    }
}

impl Engine {
    /// Ends what an engine that was killed has left of its containers, and a later one did not find.
    fn end_shims(&self) {
        let folder = self.folder.path().to_string_lossy().into_owned();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_own = line.contains("containerd-shim") && line.contains(&folder);
            let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw).filter(|_| is_own) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
