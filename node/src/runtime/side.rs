//! What a guest may read beside its input: the job's params, its side files, and which of several
//! inputs its records come from.
//!
//! Side files are read in ranges, as they are asked for: no more of one is held here than the block
//! that was read last.

use std::collections::BTreeMap;

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Given, ReadAt, TaskError};
use ipdc_jobs::manifest::MANIFEST_LIMIT;

use super::Listener;
use super::outbox::Outbox;

/// Side files that are open at once. A guest that reads more of them by turns waits for each to be
/// opened again, which is a look into the store.
const OPEN_LIMIT: usize = 16;

/// The longest name that is looked up: what names there are is in the job's manifest.
const NAME_LIMIT: usize = MANIFEST_LIMIT;

/// Where a command's side files are in its tree.
pub(super) const JOB: &str = "job";

/// Where it finds files by their CIDs.
pub(super) const IPFS: &str = "ipfs";

/// How the names of those begin.
const BY_CID: &str = "ipfs/";

/// Files by CID that one call may find: each is remembered until its end.
const FOUND_LIMIT: usize = 1_024;

/// Where its code is, if it is one that runs code.
pub(super) const CODE: &str = "code";

/// A guest's view of what it was given.
pub(super) struct Side {
    given: Given,
    /// The file of the call under way, of a command that serves several, if it has one.
    of_call: Option<String>,
    /// The names of files that were found by their CIDs, for the call under way.
    found: Vec<String>,
    /// What it writes, if it may.
    pub(super) outbox: Option<Outbox>,
    open: BTreeMap<Vec<u8>, Box<dyn ReadAt>>,
}

impl Side {
    pub(super) fn new(given: Given) -> Self {
        Side { given, of_call: None, found: Vec::new(), outbox: None, open: BTreeMap::new() }
    }

    /// What a command sees: side files and its own code as one tree of files, `job/…` and `code/…`, and what it
    /// writes, `out/…`.
    pub(super) fn tree(
        given: Given,
        code: BTreeMap<String, FileRef>,
        outbox: Option<Outbox>,
    ) -> Self {
        let under = |folder: &'static str, files: BTreeMap<String, FileRef>| {
            files.into_iter().map(move |(name, file)| (format!("{folder}/{name}"), file))
        };
        let files = under(JOB, given.files).chain(under(CODE, code)).collect();
        Side { outbox, ..Side::new(Given { files, ..given }) }
    }

    /// In the tree, in the place of the last call's file, there is this one, if any. What was opened for that call is not
    /// for this.
    pub(super) fn turn(&mut self, file: Option<(&'static str, FileRef)>) {
        self.open.clear();
        for gone in self.found.drain(..).chain(self.of_call.take()) {
            self.given.files.remove(&gone);
        }
        if let Some((name, file)) = file {
            let name = format!("{JOB}/{name}");
            self.given.files.insert(name.clone(), file);
            self.of_call = Some(name);
        }
    }

    /// The name of the file of the call under way.
    pub(super) fn of_call(&self) -> Option<&str> {
        self.of_call.as_deref()
    }

    /// The params, as one JSON object.
    pub(super) fn params(&self) -> &[u8] {
        &self.given.params
    }

    /// The name of the input that the records come from.
    pub(super) fn input(&self) -> &[u8] {
        self.given.input.as_bytes()
    }

    /// What it is given.
    pub(super) fn given(&self) -> &Given {
        &self.given
    }

    /// The side files by name, in the order of the names.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &FileRef)> {
        self.given.files.iter().map(|(name, file)| (name.as_str(), file))
    }

    /// The name of a side file, if there is one of the name `name`.
    pub(super) fn name(&self, name: &[u8]) -> Option<String> {
        let name = (name.len() <= NAME_LIMIT).then(|| std::str::from_utf8(name).ok())??;
        self.given.files.contains_key(name).then(|| name.to_owned())
    }

    /// Looks for the file that `name` names by its CID, `ipfs/…`, unless it is known. True when it is there then.
    pub(super) fn look_up(
        &mut self,
        name: &str,
        listener: &mut dyn Listener,
    ) -> Result<bool, TaskError> {
        if self.given.files.contains_key(name) {
            return Ok(true);
        }
        let cid = name.strip_prefix(BY_CID).and_then(|cid| cid.parse().ok());
        let (Some(cid), true) = (cid, self.found.len() < FOUND_LIMIT) else { return Ok(false) };
        let Some(file) = listener.find(&cid)? else { return Ok(false) };
        self.given.files.insert(name.to_owned(), file);
        self.found.push(name.to_owned());
        Ok(true)
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.files.contains_key(name)
            || self.outbox.as_ref().is_some_and(|outbox| outbox.len(name).is_some())
    }

    /// The length of the side file `name`, in bytes; none when there is none.
    pub(super) fn len(&self, name: &[u8]) -> Option<u64> {
        let written = || self.outbox.as_ref()?.len(std::str::from_utf8(name).ok()?);
        self.file(name).map(|file| file.len).or_else(written)
    }

    /// Fills `room` from `offset` of the side file `name`; less only where the file ends. None when
    /// there is no such file.
    pub(super) fn read(
        &mut self,
        name: &[u8],
        offset: u64,
        room: &mut [u8],
        listener: &mut dyn Listener,
    ) -> Result<Option<usize>, TaskError> {
        let Some(file) = self.file(name) else {
            let name = std::str::from_utf8(name).unwrap_or_default();
            let written = self.outbox.as_mut().map(|outbox| outbox.read(name, offset, room));
            return written.unwrap_or(Ok(None));
        };
        if !self.open.contains_key(name) {
            if self.open.len() == OPEN_LIMIT {
                self.open.pop_first();
            }
            self.open.insert(name.to_vec(), listener.open(&file)?);
        }
        let reader = self.open.get_mut(name).expect("it was opened above");
        let mut filled = 0;
        while filled < room.len() && offset.saturating_add(filled as u64) < file.len {
            let read = reader
                .read_at(offset + filled as u64, room.len() - filled)
                .map_err(|error| TaskError::of_read(&file, error))?;
            if read.is_empty() {
                break;
            }
            room[filled..][..read.len()].copy_from_slice(&read);
            filled += read.len();
        }
        Ok(Some(filled))
    }

    fn file(&self, name: &[u8]) -> Option<FileRef> {
        if name.len() > NAME_LIMIT {
            return None;
        }
        self.given.files.get(std::str::from_utf8(name).ok()?).copied()
    }
}
