//! A file of a result: records as lines, `key<TAB>value`.

use crate::ids::FileRef;
use crate::kind::{Host, Lasting, TaskError};
use crate::lines;
use crate::message::Payload;

use super::bad::{self, Skipped};

/// Writes a file of lines.
pub(super) struct Lines(lines::Lines);

impl Lines {
    pub(super) fn create(host: &dyn Host) -> Result<Self, TaskError> {
        Ok(Lines(lines::Lines::new(host.create(Lasting::Kept)?)))
    }

    /// Appends a record.
    #[inline]
    pub(super) fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        self.0.record(key, value)
    }

    /// Ends the file; a task's output that names it, and the records that were `skipped`.
    pub(super) fn finish(self, skipped: &[Skipped]) -> Result<Payload, TaskError> {
        Ok(bad::with_skipped(&self.0.finish()?, skipped))
    }
}

/// The file that a task's output names.
pub(super) fn file_of(output: &Payload) -> Option<FileRef> {
    match output {
        Payload::Inline(text) => serde_json::from_slice(text).ok(),
        Payload::File(_) => None,
    }
}
