//! What the process's control groups let it have, on Linux: containers, `systemd` slices, `docker
//! run --memory`. Version 2 and version 1.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory that a group lets its processes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// The most, in bytes.
    pub(super) limit: u64,
    /// What is left of it. What the kernel could drop at once, files that were read, counts as left.
    pub(super) free: u64,
}

/// This process's group in the tree for `controller` of version 1, or in that of version 2, and those above
/// it, the deepest first; none when no such tree is mounted.
pub(crate) fn own(controller: Option<&str>) -> Option<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().filter_map(Mount::parse).find(|mount| mount.is_for(controller))?;
    mount.groups(&own)
}

/// The memory of the narrowest of this process's groups; none without a limit.
pub(super) fn memory() -> Option<Memory> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    groups(&own, &mounts).iter().filter_map(Group::memory).min_by_key(|memory| memory.limit)
}

/// The names of a group's files.
struct Names {
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: files' pages that were not used lately.
    droppable: &'static str,
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: "total_inactive_file",
};

const V2: Names = Names { limit: "memory.max", used: "memory.current", droppable: "inactive_file" };

/// A group that limits memory.
struct Group {
    folder: PathBuf,
    names: &'static Names,
}

impl Group {
    fn memory(&self) -> Option<Memory> {
        // Without a limit version 2 says `max`, and version 1 a number beyond all memory.
        let limit = self.number(self.names.limit)?;
        let used = self.number(self.names.used)?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let droppable = stat.lines().find_map(|line| {
            let number = line.strip_prefix(self.names.droppable)?;
            number.trim().parse::<u64>().ok()
        });
        let used = used.saturating_sub(droppable.unwrap_or(0));
        Some(Memory { limit, free: limit.saturating_sub(used) })
    }

    fn number(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }
}

/// The groups of a process and those above them, by its `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
fn groups(own: &str, mounts: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let names = match mount.controllers {
            None => &V2,
            Some(_) if mount.is_for(Some("memory")) => &V1,
            Some(_) => continue,
        };
        let folders = mount.groups(own).unwrap_or_default();
        groups.extend(folders.into_iter().map(|folder| Group { folder, names }));
    }
    groups
}

/// A mounted tree of groups.
struct Mount<'a> {
    /// Which group is at its top.
    root: &'a str,
    /// Where it is mounted.
    at: &'a str,
    /// What it controls, with other options; none, in version 2, which has one tree for all.
    controllers: Option<&'a str>,
}

impl<'a> Mount<'a> {
    /// The mount of a line of `mountinfo`, if it is one of groups:
    /// `id parent device ROOT AT options … - TYPE source OPTIONS`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (mount.next()?, mount.next()?);
        let mut system = system.split(' ');
        let controllers = match (system.next()?, system.nth(1)?) {
            ("cgroup2", _) => None,
            ("cgroup", options) => Some(options),
            _ => return None,
        };
        Some(Mount { root, at, controllers })
    }

    /// Whether it is the tree for `controller` of version 1, or for none that of version 2.
    fn is_for(&self, controller: Option<&str>) -> bool {
        match (self.controllers, controller) {
            (None, None) => true,
            (Some(all), Some(one)) => all.split(',').any(|name| name == one),
            _ => false,
        }
    }

    /// The group in this tree of a process with this `/proc/self/cgroup`, and those above it.
    fn groups(&self, own: &str) -> Option<Vec<PathBuf>> {
        let path = own.lines().find_map(|line| self.path_of(line))?;
        // In a container the path may be that of the host, and the mount the container's own part.
        let below = Path::new(path).strip_prefix(self.root).unwrap_or(Path::new(""));
        let deepest = Path::new(self.at).join(below);
        let inside = deepest.ancestors().take_while(|folder| folder.starts_with(self.at));
        Some(inside.map(PathBuf::from).collect())
    }

    /// The process's group in this tree, from a line of `/proc/self/cgroup`: `id:controllers:PATH`;
    /// version 2 has no controllers there.
    fn path_of<'l>(&self, line: &'l str) -> Option<&'l str> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_ours = match self.controllers {
            None => controllers.is_empty(),
            Some(_) => controllers.split(',').any(|controller| self.is_for(Some(controller))),
        };
        is_ours.then_some(path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folders(own: &str, mounts: &str) -> Vec<String> {
        let groups = groups(own, mounts);
        groups
            .iter()
            .map(|group| group.folder.join(group.names.limit).display().to_string())
            .collect()
    }

    #[test]
    fn in_version_2_every_group_up_to_the_mount_counts() {
        let mounts = "25 1 0:22 / /proc rw - proc proc rw\n\
             30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let at = |folder: &str| format!("/sys/fs/cgroup{folder}/memory.max");
        let expected = [at("/user.slice/app.scope"), at("/user.slice"), at("")];
        assert_eq!(folders("0::/user.slice/app.scope\n", mounts), expected);
    }

    #[test]
    fn in_version_1_the_groups_of_memory_count_and_no_others() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "5:memory:/lab\n2:cpu:/other\n0::/\n";
        let expected = [
            "/sys/fs/cgroup/memory/lab/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/unified/memory.max",
        ];
        assert_eq!(folders(own, mounts), expected);
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_tree() {
        let mounts = "35 31 0:32 /docker/12ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let expected = ["/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        assert_eq!(folders("5:memory:/docker/12ab\n", mounts), expected);
        assert_eq!(folders("5:memory:/elsewhere\n", mounts), expected);
    }

    #[test]
    fn what_is_left_is_the_limit_less_what_cannot_be_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let group = Group { folder: folder.path().into(), names: &V2 };
        write("memory.max", "max\n");
        write("memory.current", "90\n");
        assert_eq!(group.memory(), None);
        write("memory.max", "100\n");
        assert_eq!(group.memory(), Some(Memory { limit: 100, free: 10 }));
        write("memory.stat", "anon 50\ninactive_file 30\nactive_file 10\n");
        assert_eq!(group.memory(), Some(Memory { limit: 100, free: 40 }));
    }
}
