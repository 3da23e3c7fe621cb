//! A file of a result: records as lines, `key<TAB>value`.

use crate::ids::FileRef;
use crate::kind::{FileWriter, Host, Lasting, TaskError};
use crate::message::Payload;
use crate::record;

use super::bad::{self, Skipped};

/// Bytes of lines gathered before they are written.
const WRITE: usize = 64 << 10;

/// Writes a file of lines.
pub(super) struct Lines {
    file: Box<dyn FileWriter>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn create(host: &dyn Host) -> Result<Self, TaskError> {
        Ok(Lines { file: host.create(Lasting::Kept)?, buffer: Vec::new() })
    }

    /// Appends a record.
    #[inline]
    pub(super) fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        record::write_line(&mut self.buffer, key, value);
        if self.buffer.len() >= WRITE {
            self.file.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Ends the file; a task's output that names it, and the records that were `skipped`.
    pub(super) fn finish(mut self, skipped: &[Skipped]) -> Result<Payload, TaskError> {
        self.file.write(&self.buffer)?;
        Ok(bad::with_skipped(&self.file.finish()?, skipped))
    }
}

/// The file that a task's output names.
pub(super) fn file_of(output: &Payload) -> Option<FileRef> {
    match output {
        Payload::Inline(text) => serde_json::from_slice(text).ok(),
        Payload::File(_) => None,
    }
}
