//! The files that a program sees: the machine's programs and libraries, to be read; its job's files; a working
//! directory in memory. Nothing else of the machine is there.
//!
//! All of it is mounts of the launcher's own, which are gone with it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::pivot_root;

/// The job's side files.
pub(super) const JOB: &str = "job";

/// The folder with the program.
pub(super) const CODE: &str = "code";

/// The program's name there.
pub(super) const PROGRAM: &str = "program";

/// The working directory.
pub(super) const WORK: &str = "/work";

/// What there is of the machine, where it has it: programs, libraries and their settings.
const MACHINE: [&str; 10] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "nix"];

/// Devices that do nothing but give bytes or take them.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Names that stand for others.
const LINKS: [(&str, &str); 7] = [
    ("out", "work/out"),
    ("tmp", "work"),
    ("dev/shm", "../work"),
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
];

/// Files that a working directory may have: each takes a kilobyte of the program's memory.
const FILES_LIMIT: u32 = 1 << 16;

const HARMLESS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Makes `folder`'s `job` and `code`, and what there is of the machine, the whole of what this process sees. To be called
/// in namespaces of its own of mounts and processes.
pub(super) fn build(folder: &Path) -> io::Result<()> {
    // What happens here is not to be seen outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    mount("tmpfs", &root, "tmpfs", HARMLESS, c"mode=755,size=64k")?;
    for name in MACHINE {
        let there = Path::new("/").join(name);
        match fs::symlink_metadata(&there) {
            Ok(found) if found.is_symlink() => symlink(fs::read_link(&there)?, root.join(name))?,
            Ok(found) if found.is_dir() => show(&there, &root.join(name), MountFlags::empty())?,
            _ => {}
        }
    }
    for name in [JOB, CODE] {
        show(&folder.join(name), &root.join(name), MountFlags::empty())?;
    }
    fs::create_dir(root.join("dev"))?;
    for name in DEVICES {
        let at = root.join("dev").join(name);
        fs::write(&at, "")?;
        mount_bind(Path::new("/dev").join(name), &at)?;
    }
    fs::create_dir(root.join("proc"))?;
    mount("proc", root.join("proc"), "proc", HARMLESS | MountFlags::NOEXEC, None)?;
    fs::create_dir(root.join(WORK.trim_start_matches('/')))?;
    for (name, to) in LINKS {
        symlink(to, root.join(name))?;
    }
    std::env::set_current_dir(&root)?;
    // The old root comes to lie over the new one, and is taken away.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;
    Ok(mount_remount("/", HARMLESS | MountFlags::RDONLY, c"")?)
}

/// Shows the directory `there` at `here`, to be read.
fn show(there: &Path, here: &PathBuf, more: MountFlags) -> io::Result<()> {
    fs::create_dir(here)?;
    mount_bind(there, here)?;
    let flags = HARMLESS | MountFlags::BIND | MountFlags::RDONLY | more;
    Ok(mount_remount(here, flags, c"")?)
}

/// A fresh working directory for the user `uid`, with room for so many bytes.
pub(super) fn fresh_work(uid: u32, bytes: u64) -> io::Result<()> {
    match unmount(WORK, UnmountFlags::DETACH) {
        // There was none yet.
        Err(rustix::io::Errno::INVAL) => {}
        unmounted => unmounted?,
    }
    let options = format!("mode=700,uid={uid},gid={uid},size={bytes},nr_inodes={FILES_LIMIT}");
    let options = CString::new(options).expect("numbers have no NUL");
    Ok(mount("tmpfs", WORK, "tmpfs", HARMLESS, &*options)?)
}

/// Whether the working directory is as it was.
pub(super) fn is_work_fresh() -> io::Result<bool> {
    let mode = fs::metadata(WORK)?.mode() & 0o7777;
    Ok(mode == 0o700 && fs::read_dir(WORK)?.next().is_none())
}
