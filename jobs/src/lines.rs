//! A file of lines: gathered in memory, written in large pieces.

use serde_json::Value;

use crate::ids::FileRef;
use crate::kind::{FileWriter, Row, TaskError};
use crate::record;

/// Bytes of lines gathered before they are written.
const WRITE: usize = 64 << 10;

/// Writes a file of lines.
pub(crate) struct Lines {
    file: Box<dyn FileWriter>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(file: Box<dyn FileWriter>) -> Self {
        Lines { file, buffer: Vec::new() }
    }

    /// Appends a record: `key<TAB>value`, or one of the two alone.
    #[inline]
    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        record::write_line(&mut self.buffer, key, value);
        self.write_full()
    }

    /// Appends a line of JSON.
    pub(crate) fn row(&mut self, row: Row) -> Result<(), TaskError> {
        self.buffer.extend_from_slice(Value::Object(row).to_string().as_bytes());
        self.buffer.push(b'\n');
        self.write_full()
    }

    #[inline]
    fn write_full(&mut self) -> Result<(), TaskError> {
        if self.buffer.len() >= WRITE {
            self.file.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<FileRef, TaskError> {
        self.file.write(&self.buffer)?;
        self.file.finish()
    }
}
