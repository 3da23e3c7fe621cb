//! The directories that a command sees: `/job` with the job's side files, by their names, to be read; `/dev`
//! with its [`device`](super::device); `/ipfs` with every file of the swarm by its CID; `/out`, where it may
//! write, if it runs items; of an interpreter, `/code` with what it runs. A name with slashes is a path through
//! directories below.
//!
//! Owns which of the files a run has open, and where in each it is. Their bytes come from [`Side`], which
//! streams them; what is in [`Side`]'s tree is here by the same paths.

use std::collections::BTreeMap;

use ipdc_jobs::kind::is_path;

use super::{Errno, STDERR};
use crate::runtime::outbox::{OUT, Outbox};
use crate::runtime::side::{CODE, IPFS, JOB, Side};

/// The directories that a program may be given, by their paths: it asks about the descriptors from [`FIRST_FD`]
/// on. `/out` is for items, `/code` an interpreter's.
const GIVEN: [&str; 5] = [JOB, DEV, IPFS, OUT, CODE];

const DEV: &str = "dev";

/// The device's path.
const DEVICE: &str = "dev/ipdc";

/// The descriptor of the first directory that a program is given.
const FIRST_FD: u32 = STDERR + 1;

/// Files and directories that a run may have open, those it is given among them: more than programs have at a time, and each takes a name's
/// length of the node's memory.
const OPEN_LIMIT: usize = 256;

/// The longest path that is looked up; PATH_MAX of most systems.
const PATH_LIMIT: usize = 4096;

/// The kinds of things that there are, by WASI's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Not one that WASI knows: libraries take a character device for a terminal, and flush each line.
    Stream = 0,
    Device = 2,
    Directory = 3,
    File = 4,
}

/// What can be asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// In the tree; of a stream, nothing.
    path: &'a str,
    pub(super) kind: Kind,
    /// Another one for each: programs tell by it whether two are the same.
    pub(super) inode: u64,
    /// In bytes.
    pub(super) len: u64,
}

const STREAM: Entry<'_> = Entry { path: "", kind: Kind::Stream, inode: 0, len: 0 };
const THE_DEVICE: Entry<'_> = Entry { path: DEVICE, kind: Kind::Device, inode: 1, len: 0 };

/// The first file's; those before are the device and the directories that are given.
const FILES_INODE: u64 = 1 + THE_DEVICE.inode + GIVEN.len() as u64;

/// The number of the first file that is written: those that are read have lower ones.
const WRITTEN: u32 = 1 << 30;

impl<'a> Entry<'a> {
    /// What it is called in its directory.
    pub(super) fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is a file that may be written.
    pub(super) fn is_own(&self) -> bool {
        self.kind == Kind::File && is_below(OUT, self.path)
    }

    /// The file with this index.
    fn file(path: &'a str, len: u64, index: u32) -> Self {
        Entry { path, kind: Kind::File, inode: FILES_INODE + u64::from(index), len }
    }

    /// The directory of as many parts as `depth` whose first file has this index.
    fn directory(path: &'a str, depth: usize, index: u32) -> Self {
        let inode = (depth as u64) << 32 | u64::from(index);
        Entry { path, kind: Kind::Directory, inode, len: 0 }
    }
}

/// Whether `path` is below `directory`.
pub(super) fn is_below(directory: &str, path: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The files that have a place here, by their names, in the order of these, each with its index and its length;
/// then those that were written. A name is a path; one that is none has no place.
fn files(side: &Side) -> impl Iterator<Item = (u32, &str, u64)> {
    let files = (0..).zip(side.files()).map(|(index, (name, file))| (index, name, file.len));
    let written = side.outbox.iter().flat_map(Outbox::files);
    let written = written.map(|(path, serial, len)| (WRITTEN.saturating_add(serial), path, len));
    files.filter(|(_, name, _)| is_path(name)).chain(written)
}

/// What is in the directory with this path. Where a file has the name of a directory, that is not shown.
pub(super) fn entries<'a>(side: &'a Side, directory: &'a str) -> impl Iterator<Item = Entry<'a>> {
    let depth = parts(directory.as_bytes()).count() + 1;
    let mut last = "";
    let device = (directory == DEV).then_some(THE_DEVICE);
    let listed = files(side).filter_map(move |(index, name, len)| {
        let below = name.strip_prefix(directory)?.strip_prefix('/')?;
        let Some((part, _)) = below.split_once('/') else {
            return Some(Entry::file(name, len, index));
        };
        let path = &name[..name.len() - below.len() + part.len()];
        let is_new = std::mem::replace(&mut last, path) != path;
        let is_hidden = side.has(path);
        (is_new && !is_hidden).then(|| Entry::directory(path, depth, index))
    });
    device.into_iter().chain(listed)
}

/// The names that a path goes through.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// What is at `path`, as seen from the directory with the path `from`.
fn find<'a>(side: &'a Side, from: &str, path: &[u8]) -> Result<Entry<'a>, Errno> {
    if path.len() > PATH_LIMIT {
        return Err(Errno::NameTooLong);
    }
    if path.starts_with(b"/") || parts(path).any(|part| part == b"..") {
        return Err(Errno::NotCapable);
    }
    if path.is_empty() {
        return Err(Errno::NoEntry);
    }
    at(side, || parts(from.as_bytes()).chain(parts(path)))
}

/// What is at `path`, from the root on.
pub(super) fn there<'a>(path: &str, side: &'a Side) -> Result<Entry<'a>, Errno> {
    at(side, || parts(path.as_bytes()))
}

/// What is at the path that has these parts.
fn at<'a, 'p, P: Iterator<Item = &'p [u8]>>(
    side: &'a Side,
    wanted: impl Fn() -> P,
) -> Result<Entry<'a>, Errno> {
    let is = |path: &str| path.split('/').map(str::as_bytes).eq(wanted());
    if is(DEVICE) {
        return Ok(THE_DEVICE);
    }
    // Each is there, whether it has files or not.
    if let Some((path, inode)) = GIVEN.iter().zip(THE_DEVICE.inode + 1..).find(|(path, _)| is(path))
    {
        return Ok(Entry { path, kind: Kind::Directory, inode, len: 0 });
    }
    let depth = wanted().count();
    let mut is_below_a_file = false;
    for (index, name, len) in files(side) {
        let own = name.split('/').count();
        let is_same = |shared: usize| {
            name.split('/').map(str::as_bytes).take(shared).eq(wanted().take(shared))
        };
        if !is_same(own.min(depth)) {
            continue;
        }
        if own == depth {
            return Ok(Entry::file(name, len, index));
        }
        if own > depth {
            let below: usize = name.split('/').skip(depth).map(|part| part.len() + 1).sum();
            return Ok(Entry::directory(&name[..name.len() - below], depth, index));
        }
        is_below_a_file = true;
    }
    Err(if is_below_a_file { Errno::NotDirectory } else { Errno::NoEntry })
}

/// What a run has open beside its streams, by descriptor.
#[derive(Default)]
pub(super) struct Files {
    open: BTreeMap<u32, Open>,
    /// How many directories a program is given.
    given: u32,
    were_opened: bool,
}

enum Open {
    /// The one with this path.
    Directory(String),
    File(Cursor),
    Device,
}

/// A place in a file.
pub(super) struct Cursor {
    pub(super) name: String,
    /// In bytes from the beginning; may lie beyond the end.
    pub(super) at: u64,
}

impl Files {
    /// What a run finds open, of an interpreter or of another command, for an item or not.
    pub(super) fn new(is_interpreter: bool, is_for_item: bool) -> Self {
        let is_given = |path: &&str| match *path {
            OUT => is_for_item,
            CODE => is_interpreter,
            _ => true,
        };
        let given = GIVEN.into_iter().filter(is_given).map(|path| Open::Directory(path.to_owned()));
        let open: BTreeMap<_, _> = (FIRST_FD..).zip(given).collect();
        Files { given: open.len() as u32, open, were_opened: false }
    }

    /// The path of what a program names below the directory `fd`: its parts, whether it is there or not.
    pub(super) fn path(&self, fd: u32, path: &[u8]) -> Result<String, Errno> {
        if path.len() > PATH_LIMIT {
            return Err(Errno::NameTooLong);
        }
        if path.starts_with(b"/") || parts(path).any(|part| part == b"..") {
            return Err(Errno::NotCapable);
        }
        let all = parts(self.directory(fd)?.as_bytes()).chain(parts(path));
        let all: Result<Vec<_>, _> = all.map(std::str::from_utf8).collect();
        Ok(all.map_err(|_| Errno::Invalid)?.join("/"))
    }

    /// The path of a directory that a program is given, as it is to know it.
    pub(super) fn given(&self, fd: u32) -> Result<String, Errno> {
        let is_given = (FIRST_FD..FIRST_FD + self.given).contains(&fd);
        let directory = is_given.then(|| self.directory(fd)).ok_or(Errno::BadDescriptor)??;
        Ok(format!("/{directory}"))
    }

    /// Whether `fd` is the device.
    pub(super) fn is_device(&self, fd: u32) -> bool {
        matches!(self.open.get(&fd), Some(Open::Device))
    }

    /// What `fd` is.
    pub(super) fn entry<'a>(&self, fd: u32, side: &'a Side) -> Result<Entry<'a>, Errno> {
        match self.open.get(&fd) {
            None if fd <= STDERR => Ok(STREAM),
            None => Err(Errno::BadDescriptor),
            Some(Open::Directory(path)) => at(side, || parts(path.as_bytes())),
            Some(Open::File(cursor)) if cursor.name.is_empty() => Err(Errno::NoEntry),
            Some(Open::File(cursor)) => there(&cursor.name, side),
            Some(Open::Device) => Ok(THE_DEVICE),
        }
    }

    /// What is at `path` below the directory `fd`.
    pub(super) fn find<'a>(
        &self,
        fd: u32,
        path: &[u8],
        side: &'a Side,
    ) -> Result<Entry<'a>, Errno> {
        find(side, self.directory(fd)?, path)
    }

    /// The path of the directory `fd`.
    pub(super) fn directory(&self, fd: u32) -> Result<&str, Errno> {
        match self.open.get(&fd) {
            Some(Open::Directory(path)) => Ok(path),
            Some(Open::File(_) | Open::Device) => Err(Errno::NotDirectory),
            None => Err(Errno::BadDescriptor),
        }
    }

    /// Where in its file `fd` is.
    pub(super) fn cursor(&mut self, fd: u32) -> Result<&mut Cursor, Errno> {
        match self.open.get_mut(&fd) {
            Some(Open::File(cursor)) => Ok(cursor),
            Some(Open::Directory(_)) => Err(Errno::IsDirectory),
            Some(Open::Device) => Err(Errno::Pipe),
            None => Err(Errno::BadDescriptor),
        }
    }

    /// Opens `entry`, to go on from its byte `at`; its descriptor is the lowest that is free.
    pub(super) fn open(&mut self, entry: Entry<'_>, at: u64) -> Result<u32, Errno> {
        if self.open.len() == OPEN_LIMIT {
            return Err(Errno::TooManyOpen);
        }
        let is_free = |fd: &u32| !self.open.contains_key(fd);
        let fd = (FIRST_FD..).find(is_free).ok_or(Errno::TooManyOpen)?;
        let path = entry.path.to_owned();
        let open = match entry.kind {
            Kind::File => Open::File(Cursor { name: path, at }),
            Kind::Device => Open::Device,
            Kind::Directory | Kind::Stream => Open::Directory(path),
        };
        self.were_opened |= !matches!(open, Open::Device);
        self.open.insert(fd, open);
        Ok(fd)
    }

    /// Whether the run has opened any.
    pub(super) fn were_opened(&self) -> bool {
        self.were_opened
    }

    /// The files that `are_gone` are no more: who has one open finds nothing there, whatever takes its name.
    pub(super) fn forget(&mut self, are_gone: impl Fn(&str) -> bool) {
        for open in self.open.values_mut() {
            if let Open::File(cursor) = open
                && are_gone(&cursor.name)
            {
                cursor.name.clear();
            }
        }
    }

    pub(super) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        self.open.remove(&fd).map(drop).ok_or(Errno::BadDescriptor)
    }
}
