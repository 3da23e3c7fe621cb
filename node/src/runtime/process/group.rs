//! The control groups of programs: how much memory and how many processes each has.
//!
//! Owns their folders. Version 2 has one tree of groups, version 1 one for each thing that is limited; where both
//! are mounted, the one that limits memory is taken. Nothing outside knows which it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::cgroup;

/// Processes and threads that a program may have at a time, its launcher among them: a shell with a pipeline has
/// ten, a program with a thread for each core of a large machine some hundred. They take no memory beyond the
/// group's.
const TASKS: u32 = 512;

/// Bytes of swap where memory and swap are limited together: next to nothing, but when the sum is used up at the same
/// time as the memory the kernel does not count that.
const SWAP: u64 = 64 << 10;

/// How long the kernel may take to end killed processes: it is done in milliseconds, unless a disk hangs.
const GONE: Duration = Duration::from_secs(5);

/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(1);

/// A group: its folders in the trees that limit memory and processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    names: &'static Names,
    memory: PathBuf,
    tasks: PathBuf,
}

/// The names of a group's files.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    memory: &'static str,
    /// Memory and swap together, or swap alone.
    swap: &'static str,
    swap_is_sum: bool,
    /// Says how many processes were killed because memory was used up.
    kills: &'static str,
    /// Says how often memory was used up to this group's own limit, after this word.
    full: &'static str,
    full_after: &'static str,
}

const V2: Names = Names {
    memory: "memory.max",
    swap: "memory.swap.max",
    swap_is_sum: false,
    kills: "memory.events",
    full: "memory.events.local",
    full_after: "oom ",
};

const V1: Names = Names {
    memory: "memory.limit_in_bytes",
    swap: "memory.memsw.limit_in_bytes",
    swap_is_sum: true,
    kills: "memory.oom_control",
    full: "memory.failcnt",
    full_after: "",
};

/// What happened in a group so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// Processes killed because memory was used up.
    pub(super) kills: u64,
    /// Times that the group's own memory was used up, and not that of one above.
    pub(super) full: u64,
    /// Processes that were refused because there were too many.
    pub(super) refused: u64,
}

impl Group {
    /// The deepest group of this process that gives memory and processes to groups below it.
    ///
    /// # Errors
    /// When there is none: no such groups are mounted, or they are not given on.
    pub(super) fn own() -> io::Result<Group> {
        let own = |controller| cgroup::own(controller).unwrap_or_default();
        Group::of(&own(None), own(Some("memory")).first(), own(Some("pids")).first())
    }

    /// As [`Group::own`], for a process whose groups of version 2 are `unified`, the deepest first, and of version 1
    /// these.
    fn of(
        unified: &[PathBuf],
        memory: Option<&PathBuf>,
        tasks: Option<&PathBuf>,
    ) -> io::Result<Group> {
        let gives_on = |folder: &Path| {
            let given = fs::read_to_string(folder.join("cgroup.subtree_control"));
            let given = given.unwrap_or_default();
            ["memory", "pids"].iter().all(|name| given.split_whitespace().any(|one| one == *name))
        };
        // A group that has processes cannot give memory on: one above it does.
        if let Some(folder) = unified.iter().find(|folder| gives_on(folder)) {
            return Ok(Group { names: &V2, memory: folder.clone(), tasks: folder.clone() });
        }
        match (memory, tasks) {
            (Some(memory), Some(tasks)) => {
                Ok(Group { names: &V1, memory: memory.clone(), tasks: tasks.clone() })
            }
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "no control group here gives `memory` and `pids` on to groups below it",
            )),
        }
    }

    /// A new group below this one. What was left in one of the name is ended first.
    pub(super) fn create(&self, name: &str) -> io::Result<Group> {
        let below = |folder: &Path| folder.join(name);
        let group =
            Group { names: self.names, memory: below(&self.memory), tasks: below(&self.tasks) };
        group.remove()?;
        for folder in group.folders() {
            fs::create_dir(folder)?;
        }
        Ok(group)
    }

    /// Whether there is a group of the name below this one.
    #[cfg(test)]
    pub(super) fn holds(&self, name: &str) -> bool {
        self.folders().iter().any(|folder| folder.join(name).exists())
    }

    /// Lets groups below this one, which has no processes, have limits of their own.
    pub(super) fn give_on(&self) -> io::Result<()> {
        if self.names.swap_is_sum {
            return Ok(());
        }
        fs::write(self.memory.join("cgroup.subtree_control"), "+memory +pids")
    }

    /// Gives it `bytes` of memory, and no swap.
    pub(super) fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let write = |name, text: &str| fs::write(self.memory.join(name), text);
        let swap = |text: &str| match write(self.names.swap, text) {
            // The kernel does not count swap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        };
        let memory = || write(self.names.memory, &bytes.to_string());
        if !self.names.swap_is_sum {
            swap("0")?;
            return memory();
        }
        // The sum may never be below the memory alone.
        swap("-1")?;
        memory()?;
        swap(&(bytes + SWAP).to_string())
    }

    /// Bounds its processes.
    pub(super) fn limit_tasks(&self) -> io::Result<()> {
        fs::write(self.tasks.join("pids.max"), TASKS.to_string())
    }

    /// What happened in it.
    pub(super) fn events(&self) -> Events {
        Events {
            kills: number(&self.memory.join(self.names.kills), "oom_kill "),
            full: number(&self.memory.join(self.names.full), self.names.full_after),
            refused: number(&self.tasks.join("pids.events"), "max "),
        }
    }

    /// Where a process joins it, by writing 0 there.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.folders().iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// Kills what runs in it and in groups below, and removes them.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) fn remove(&self) -> io::Result<()> {
        let until = Instant::now() + GONE;
        self.folders().into_iter().try_for_each(|folder| remove(folder, until))
    }

    fn folders(&self) -> Vec<&Path> {
        let all = [self.memory.as_path(), self.tasks.as_path()];
        all[..if self.memory == self.tasks { 1 } else { 2 }].to_vec()
    }
}

/// Removes the group at `folder`, with all below it and what runs there.
fn remove(folder: &Path, until: Instant) -> io::Result<()> {
    let below = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        below => below?,
    };
    for entry in below {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path(), until)?;
        }
    }
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if Instant::now() >= until {
                    return Err(error);
                }
            }
            _ => return Ok(()),
        }
        for process in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Some(process) = process.parse().ok().and_then(Pid::from_raw) {
                // One that has ended is what is wanted.
                let _ = kill_process(process, Signal::KILL);
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// The number after `key` in a file of a group; 0 when it is not there.
fn number(file: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    number.unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A folder that stands for a tree of groups of version 2, in which the upper one gives on.
    fn tree() -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let own: Vec<_> =
            ["slice/service", "slice", ""].iter().map(|path| folder.path().join(path)).collect();
        fs::create_dir_all(&own[0]).unwrap();
        for (group, given) in own.iter().zip(["", "cpu memory pids\n", "cpu memory pids\n"]) {
            fs::write(group.join("cgroup.subtree_control"), given).unwrap();
        }
        (folder, own)
    }

    #[test]
    fn in_version_2_programs_are_below_the_deepest_group_that_gives_on() {
        let (folder, own) = tree();
        let v1 = folder.path().join("v1");
        let above = Group::of(&own, Some(&v1), Some(&v1)).unwrap();
        assert_eq!((&above.memory, above.names), (&own[1], &V2));
        let group = above.create("ipdc-x").unwrap();
        assert_eq!(group.doors(), [own[1].join("ipdc-x/cgroup.procs")]);
        group.give_on().unwrap();
        group.limit_memory(1 << 20).unwrap();
        group.limit_tasks().unwrap();
        let read = |name: &str| fs::read_to_string(group.memory.join(name)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids");
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("pids.max"), TASKS.to_string());
    }

    #[test]
    fn what_happened_in_a_group_of_version_2_is_read() {
        let (_folder, own) = tree();
        let group = Group::of(&own, None, None).unwrap().create("ipdc-x").unwrap();
        assert_eq!(group.events(), Events::default());
        let write = |name: &str, text: &str| fs::write(group.memory.join(name), text).unwrap();
        write("memory.events", "low 0\nhigh 0\nmax 9\noom 5\noom_kill 3\noom_group_kill 7\n");
        write("memory.events.local", "max 9\noom 4\noom_kill 3\n");
        write("pids.events", "max 2\n");
        assert_eq!(group.events(), Events { kills: 3, full: 4, refused: 2 });
    }

    #[test]
    fn where_memory_is_given_on_in_neither_version_there_is_no_group() {
        let (_folder, own) = tree();
        fs::write(own[1].join("cgroup.subtree_control"), "cpu memory").unwrap();
        fs::write(own[2].join("cgroup.subtree_control"), "cpu").unwrap();
        assert!(Group::of(&own, None, Some(&own[0])).is_err());
        let (memory, tasks) = (PathBuf::from("/memory/own"), PathBuf::from("/pids"));
        let group = Group::of(&own, Some(&memory), Some(&tasks)).unwrap();
        assert_eq!((group.memory, group.tasks, group.names), (memory, tasks, &V1));
    }
}
