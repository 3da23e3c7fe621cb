//! What programs with stdin and stdout write: records on stdout, a line each; their log on stderr.
//!
//! Owns the line that has begun; what was whole before it went on. Wasm commands and native programs share this.

use std::collections::VecDeque;

use ipdc_jobs::kind::{RECORD_LIMIT, TaskError};
use memchr::memchr;

use super::GuestError;
use super::imports::{LOG_LINE, Outlet};

/// The longest line of output: a record.
const LINE_LIMIT: usize = RECORD_LIMIT;

/// Lines of stderr that an error shows: a message and where it comes from.
const LAST_WORDS: usize = 5;

/// Makes records of lines.
#[derive(Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn write(&mut self, mut bytes: &[u8], outlet: &mut Outlet) -> Result<(), TaskError> {
        while let Some(newline) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..newline], &bytes[newline + 1..]);
            if self.begun.is_empty() {
                emit(line, outlet)?;
            } else {
                self.begin(line)?;
                emit(&self.begun, outlet)?;
                self.begun.clear();
            }
            bytes = rest;
        }
        self.begin(bytes)
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        if self.begun.len() + bytes.len() > LINE_LIMIT {
            return Err(GuestError::Line(LINE_LIMIT).into());
        }
        self.begun.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn end(&mut self, outlet: &mut Outlet) -> Result<(), TaskError> {
        let last = std::mem::take(&mut self.begun);
        if last.is_empty() { Ok(()) } else { emit(&last, outlet) }
    }
}

/// A line is a key and, after the first tab, a value.
fn emit(line: &[u8], outlet: &mut Outlet) -> Result<(), TaskError> {
    match memchr(b'\t', line) {
        Some(tab) => outlet.emit(&line[..tab], &line[tab + 1..]),
        None => outlet.emit(line, b""),
    }
}

/// Makes log lines of what comes on stderr, and remembers the last ones.
#[derive(Default)]
pub(super) struct Words {
    begun: Vec<u8>,
    last: VecDeque<String>,
}

impl Words {
    pub(super) fn write(&mut self, bytes: &[u8], outlet: &mut Outlet) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = LOG_LINE.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < part.len() {
                self.end(outlet);
            }
        }
    }

    pub(super) fn end(&mut self, outlet: &mut Outlet) {
        if self.begun.is_empty() {
            return;
        }
        outlet.log(&self.begun);
        if self.last.len() == LAST_WORDS {
            self.last.pop_front();
        }
        self.last.push_back(String::from_utf8_lossy(&self.begun).into_owned());
        self.begun.clear();
    }

    /// `: what it said last`, when it said something.
    pub(super) fn last(&self) -> String {
        let lines: Vec<_> = self.last.iter().map(String::as_str).collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
    }
}
