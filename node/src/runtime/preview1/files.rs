//! The one directory that a command sees: the job's side files, by their names, to be read.
//!
//! Owns which of them a run has open, and where in each it is. Their bytes come from [`Side`], which streams
//! them.

use std::collections::BTreeMap;

use super::{Errno, STDERR};
use crate::runtime::side::Side;

/// Where programs find the directory.
pub(super) const DIRECTORY: &str = "/job";

/// The directory's descriptor: the first that a program asks about.
pub(super) const DIRECTORY_FD: u32 = STDERR + 1;

/// Files and directories that a run may have open, this one among them: more than programs have at a time, and each takes a name's
/// length of the node's memory.
const OPEN_LIMIT: usize = 256;

/// The kinds of things that there are, by WASI's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Not one that WASI knows: libraries take a character device for a terminal, and flush each line.
    Stream = 0,
    Directory = 3,
    File = 4,
}

/// What can be asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    /// Another one for each file: programs tell by it whether two are the same.
    pub(super) inode: u64,
    /// In bytes.
    pub(super) len: u64,
}

const STREAM: Entry<'_> = Entry { name: "", kind: Kind::Stream, inode: 0, len: 0 };
const ROOT: Entry<'_> = Entry { name: ".", kind: Kind::Directory, inode: 1, len: 0 };

/// The files of the directory, in the order of their names. A name with a `/` is not one of a file here.
pub(super) fn entries(side: &Side) -> impl Iterator<Item = Entry<'_>> {
    let inodes = ROOT.inode + 1..;
    let files = side.files().filter(|(name, _)| !name.contains('/'));
    inodes.zip(files).map(|(inode, (name, file))| Entry {
        name,
        kind: Kind::File,
        inode,
        len: file.len,
    })
}

/// What is at `path`, as seen from the directory.
fn find<'a>(side: &'a Side, path: &[u8]) -> Result<Entry<'a>, Errno> {
    let parts = || path.split(|&byte| byte == b'/');
    if path.starts_with(b"/") || parts().any(|part| part == b"..") {
        return Err(Errno::NotCapable);
    }
    let mut names = parts().filter(|part| !part.is_empty() && *part != b".");
    let Some(name) = names.next() else {
        return if path.is_empty() { Err(Errno::NoEntry) } else { Ok(ROOT) };
    };
    let file = entries(side).find(|entry| entry.name.as_bytes() == name);
    let file = file.ok_or(Errno::NoEntry)?;
    if names.next().is_some() { Err(Errno::NotDirectory) } else { Ok(file) }
}

/// What a run has open beside its streams, by descriptor.
pub(super) struct Files {
    open: BTreeMap<u32, Open>,
    were_opened: bool,
}

enum Open {
    Directory,
    File(Cursor),
}

/// A place in a file.
pub(super) struct Cursor {
    pub(super) name: String,
    /// In bytes from the beginning; may lie beyond the end.
    pub(super) at: u64,
}

impl Default for Files {
    fn default() -> Self {
        let open = BTreeMap::from([(DIRECTORY_FD, Open::Directory)]);
        Files { open, were_opened: false }
    }
}

impl Files {
    /// What `fd` is.
    pub(super) fn entry<'a>(&self, fd: u32, side: &'a Side) -> Result<Entry<'a>, Errno> {
        match self.open.get(&fd) {
            None if fd <= STDERR => Ok(STREAM),
            None => Err(Errno::BadDescriptor),
            Some(Open::Directory) => Ok(ROOT),
            Some(Open::File(cursor)) => find(side, cursor.name.as_bytes()),
        }
    }

    /// What is at `path` below the directory `fd`.
    pub(super) fn find<'a>(
        &self,
        fd: u32,
        path: &[u8],
        side: &'a Side,
    ) -> Result<Entry<'a>, Errno> {
        self.directory(fd)?;
        find(side, path)
    }

    /// Checks that `fd` is the directory.
    pub(super) fn directory(&self, fd: u32) -> Result<(), Errno> {
        match self.open.get(&fd) {
            Some(Open::Directory) => Ok(()),
            Some(Open::File(_)) => Err(Errno::NotDirectory),
            None => Err(Errno::BadDescriptor),
        }
    }

    /// Where in its file `fd` is.
    pub(super) fn cursor(&mut self, fd: u32) -> Result<&mut Cursor, Errno> {
        match self.open.get_mut(&fd) {
            Some(Open::File(cursor)) => Ok(cursor),
            Some(Open::Directory) => Err(Errno::IsDirectory),
            None => Err(Errno::BadDescriptor),
        }
    }

    /// Opens `entry`; its descriptor is the lowest that is free.
    pub(super) fn open(&mut self, entry: Entry<'_>) -> Result<u32, Errno> {
        if self.open.len() == OPEN_LIMIT {
            return Err(Errno::TooManyOpen);
        }
        let is_free = |fd: &u32| !self.open.contains_key(fd);
        let fd = (DIRECTORY_FD..).find(is_free).ok_or(Errno::TooManyOpen)?;
        let open = match entry.kind {
            Kind::File => Open::File(Cursor { name: entry.name.to_owned(), at: 0 }),
            Kind::Directory | Kind::Stream => Open::Directory,
        };
        self.open.insert(fd, open);
        self.were_opened = true;
        Ok(fd)
    }

    /// Whether the run has opened any.
    pub(super) fn were_opened(&self) -> bool {
        self.were_opened
    }

    pub(super) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        self.open.remove(&fd).map(drop).ok_or(Errno::BadDescriptor)
    }
}
