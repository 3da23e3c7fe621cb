//! The files that a command writes for its item, in `/out`.
//!
//! Owns them until the item has ended: they lie on the node's disk, without names there, and go with this. They
//! can be read, changed and written anywhere, as files are; what became of them is handed over at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use ipdc_jobs::kind::TaskError;
use ipdc_jobs::message::FailureClass;

use super::GuestError;

/// The directory's name in a command's tree.
pub(super) const OUT: &str = "out";

/// Files that an item may have at a time: each takes a descriptor of the node's.
pub(super) const FILES_LIMIT: usize = 64;

/// What a command wrote.
pub(super) struct Outbox {
    /// Where its files lie.
    directory: PathBuf,
    /// By their paths, `out/…`.
    files: BTreeMap<String, Written>,
    /// How many were made.
    made: u32,
    /// Bytes of them all, at most.
    limit: u64,
}

struct Written {
    file: File,
    len: u64,
    /// Which of those that were made it is.
    serial: u32,
}

/// A file cannot be made.
#[derive(Debug)]
pub(super) struct Full;

impl Outbox {
    /// One whose files lie in `directory`, and have `limit` bytes together at most.
    pub(super) fn new(directory: PathBuf, limit: u64) -> Self {
        Outbox { directory, files: BTreeMap::new(), made: 0, limit }
    }

    /// The files' paths, in order, each with its number among those that were made, and its length in bytes.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, u32, u64)> {
        self.files.iter().map(|(path, written)| (path.as_str(), written.serial, written.len))
    }

    /// The length of the file at `path`, in bytes.
    pub(super) fn len(&self, path: &str) -> Option<u64> {
        self.files.get(path).map(|written| written.len)
    }

    /// Makes an empty file at `path`, in the place of what is there. Or says that there are enough.
    pub(super) fn create(&mut self, path: &str) -> Result<Result<(), Full>, TaskError> {
        if !self.files.contains_key(path) && self.files.len() == FILES_LIMIT {
            return Ok(Err(Full));
        }
        let file = tempfile::tempfile_in(&self.directory).map_err(|error| broken(&error))?;
        let serial = self.made;
        self.made += 1;
        self.files.insert(path.to_owned(), Written { file, len: 0, serial });
        Ok(Ok(()))
    }

    /// Writes `bytes` at `offset`, as far behind its end as that may be. None when there is no such file.
    pub(super) fn write(
        &mut self,
        path: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<()>, TaskError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if self.grows_too_large(path, end) {
            return Err(GuestError::Output(self.limit).into());
        }
        let Some(written) = self.files.get_mut(path) else { return Ok(None) };
        written.file.seek(SeekFrom::Start(offset)).map_err(|error| broken(&error))?;
        written.file.write_all(bytes).map_err(|error| broken(&error))?;
        written.len = written.len.max(end);
        Ok(Some(()))
    }

    /// Cuts the file at `path`, or lengthens it with zeros. None when there is no such file.
    pub(super) fn set_len(&mut self, path: &str, len: u64) -> Result<Option<()>, TaskError> {
        if self.grows_too_large(path, len) {
            return Err(GuestError::Output(self.limit).into());
        }
        let Some(written) = self.files.get_mut(path) else { return Ok(None) };
        written.file.set_len(len).map_err(|error| broken(&error))?;
        written.len = len;
        Ok(Some(()))
    }

    fn grows_too_large(&self, path: &str, len: u64) -> bool {
        let others = self.files.iter().filter(|(other, _)| *other != path);
        others.map(|(_, written)| written.len).fold(len, u64::saturating_add) > self.limit
    }

    /// Fills `room` from `offset` of the file at `path`; less only where it ends. None when there is no such file.
    pub(super) fn read(
        &mut self,
        path: &str,
        offset: u64,
        room: &mut [u8],
    ) -> Result<Option<usize>, TaskError> {
        let Some(Written { file, len, .. }) = self.files.get_mut(path) else { return Ok(None) };
        let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let fits = room.len().min(left);
        file.seek(SeekFrom::Start(offset)).map_err(|error| broken(&error))?;
        file.read_exact(&mut room[..fits]).map_err(|error| broken(&error))?;
        Ok(Some(fits))
    }

    /// Removes the file at `path`; whether it was there.
    pub(super) fn remove(&mut self, path: &str) -> bool {
        self.files.remove(path).is_some()
    }

    /// Moves the file at `from` to `to`, in the place of what is there; whether it was there.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(written) = self.files.remove(from) else { return false };
        self.files.insert(to.to_owned(), written);
        true
    }

    /// Takes all files, by their paths below `/out`, each to be read from its beginning.
    pub(super) fn take(&mut self) -> Result<Vec<(String, File)>, TaskError> {
        let taken = std::mem::take(&mut self.files).into_iter().map(|(path, mut written)| {
            written.file.rewind().map_err(|error| broken(&error))?;
            let name = path.split_once('/').map_or("", |(_, name)| name);
            Ok((name.to_owned(), written.file))
        });
        taken.collect()
    }
}

/// The node's disk is full or failing.
fn broken(error: &io::Error) -> TaskError {
    let message = format!("a file that the guest writes cannot be kept: {error}");
    TaskError::Failed { class: FailureClass::Worker, code: "IPDC-5322", message }
}
