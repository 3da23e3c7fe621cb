//! Control groups of Linux: programs that get only so much memory, as in a small container.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Program;

/// How long the kernel may take to see that the last process of a group is gone.
const GONE: Duration = Duration::from_secs(10);

/// A control group below the one of this process, with a limit of memory and no swap.
pub struct Cgroup {
    folder: PathBuf,
    /// Where the kernel says how many processes it killed for memory.
    kills: &'static str,
}

impl Cgroup {
    /// One whose programs get `bytes` of memory together, page cache and all.
    ///
    /// # Errors
    /// When none can be made here: it takes Linux and, most often, root.
    pub fn with_memory(bytes: u64) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path_of = |controller: &str| {
            let mut lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            lines.find(|(names, _)| names.split(',').any(|name| name == controller))
        };
        let name = format!("ipdc-tests-{}", std::process::id());
        let limit = bytes.to_string();
        if let Some((_, path)) = path_of("memory") {
            let folder = below(Path::new("/sys/fs/cgroup/memory"), path).join(name);
            fs::create_dir(&folder)?;
            let group = Cgroup { folder, kills: "memory.oom_control" };
            group.write("memory.limit_in_bytes", &limit)?;
            // Memory and swap together; not there where the kernel does not count swap.
            match group.write("memory.memsw.limit_in_bytes", &limit) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(group),
            }
        } else {
            let (_, path) = path_of("").ok_or(io::ErrorKind::Unsupported)?;
            let own = below(Path::new("/sys/fs/cgroup"), path);
            // A group that has processes may not give memory on to groups below it.
            let gives = |folder: &&Path| {
                let given = fs::read_to_string(folder.join("cgroup.subtree_control"));
                given.is_ok_and(|given| given.split_whitespace().any(|name| name == "memory"))
            };
            let parent = own.ancestors().find(gives).ok_or(io::ErrorKind::Unsupported)?;
            let folder = parent.join(name);
            fs::create_dir(&folder)?;
            let group = Cgroup { folder, kills: "memory.events" };
            group.write("memory.max", &limit)?;
            group.write("memory.swap.max", "0")?;
            Ok(group)
        }
    }

    /// `program`, to be run in this group.
    #[must_use]
    pub fn program(&self, program: impl AsRef<OsStr>) -> Program {
        let enter = r#"echo $$ > "$0" && exec "$@""#;
        Program::new("sh").args(["-c", enter]).arg(self.folder.join("cgroup.procs")).arg(program)
    }

    /// How many of its processes the kernel killed because the memory was used up.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn killed(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.kills)).expect("the group is there");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.folder.join(file), text)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + GONE;
        while fs::remove_dir(&self.folder).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The folder of the group `path` in the tree that is mounted at `mount`. In a container the path may be
/// the host's, and the container's own group at the top.
fn below(mount: &Path, path: &str) -> PathBuf {
    let folder = mount.join(path.trim_start_matches('/'));
    if folder.is_dir() { folder } else { mount.into() }
}
