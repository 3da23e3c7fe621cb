//! Where records end, for each kind of record there is.

use std::fmt;

use memchr::{memchr, memchr_iter, memchr2_iter, memrchr, memrchr_iter, memrchr2_iter};
use serde::{Deserialize, Serialize};

/// The longest record of fixed length, in bytes: more than any such format has, and every job's
/// memory holds one.
pub const FIXED_LIMIT: u32 = 1 << 20;

/// What a record of the input is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A line, with its newline.
    #[default]
    Lines,
    /// Lines up to an empty one, and that.
    Paragraph,
    /// A line whose newline is not between double quotes (RFC 4180, where a quote stands nowhere
    /// but around a field and, doubled, in one).
    Csv,
    /// So many bytes, 1 to [`FIXED_LIMIT`].
    Fixed(u32),
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKind::Lines => f.write_str("lines"),
            RecordKind::Paragraph => f.write_str("paragraph"),
            RecordKind::Csv => f.write_str("csv"),
            RecordKind::Fixed(len) => write!(f, "fixed:{len}"),
        }
    }
}

/// Passes over bytes and knows whether it is inside a record. Carriage returns are bytes of a
/// record like others, except that a line of one alone is empty.
#[derive(Debug, Clone)]
pub struct Scanner {
    kind: RecordKind,
    /// The two bytes passed last; newlines before a file's first. For paragraphs.
    last: [u8; 2],
    /// Whether the last byte was between quotes. For CSV.
    quoted: bool,
    /// Bytes of the record so far. For records of fixed length.
    into: usize,
}

impl Scanner {
    /// One that is at a record's beginning.
    #[must_use]
    pub fn new(kind: RecordKind) -> Self {
        Scanner { kind, last: [b'\n'; 2], quoted: false, into: 0 }
    }

    /// Passes over all of `bytes`.
    pub fn pass(&mut self, bytes: &[u8]) {
        match self.kind {
            RecordKind::Lines => {}
            RecordKind::Paragraph => match *bytes {
                [] => {}
                [one] => self.last = [self.last[1], one],
                [.., one, two] => self.last = [one, two],
            },
            RecordKind::Csv => self.quoted ^= has_odd_quotes(bytes),
            RecordKind::Fixed(len) => self.into = (self.into + bytes.len()) % len as usize,
        }
    }

    /// Passes over `bytes` up to and with the last byte of a record: how many these are. None, and
    /// all are passed, when none of them is the last of a record.
    pub fn next_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = match self.kind {
            RecordKind::Lines => memchr(b'\n', bytes).map(|at| at + 1),
            RecordKind::Paragraph => memchr_iter(b'\n', bytes)
                .find(|&newline| self.is_empty_line(bytes, newline))
                .map(|at| at + 1),
            RecordKind::Csv => {
                let quoted = self.quoted;
                newline_outside(memchr2_iter(b'"', b'\n', bytes), bytes, quoted).map(|at| at + 1)
            }
            RecordKind::Fixed(len) => {
                let left = len as usize - self.into;
                (left <= bytes.len()).then_some(left)
            }
        };
        match end {
            Some(_) => *self = Scanner::new(self.kind),
            None => self.pass(bytes),
        }
        end
    }

    /// How many of `bytes`, of which none is passed, are up to and with the last byte of the last
    /// record that ends in them.
    #[must_use]
    pub fn last_end(&self, bytes: &[u8]) -> Option<usize> {
        match self.kind {
            RecordKind::Lines => memrchr(b'\n', bytes).map(|at| at + 1),
            RecordKind::Paragraph => memrchr_iter(b'\n', bytes)
                .find(|&newline| self.is_empty_line(bytes, newline))
                .map(|at| at + 1),
            RecordKind::Csv => {
                let quoted = self.quoted ^ has_odd_quotes(bytes);
                newline_outside(memrchr2_iter(b'"', b'\n', bytes), bytes, quoted).map(|at| at + 1)
            }
            RecordKind::Fixed(len) => {
                let over = (self.into + bytes.len()) % len as usize;
                bytes.len().checked_sub(over).filter(|&end| end > 0)
            }
        }
    }

    /// Whether the line that ends with the newline at `newline` has nothing else.
    fn is_empty_line(&self, bytes: &[u8], newline: usize) -> bool {
        let before = |back: usize| match newline.checked_sub(back) {
            Some(at) => bytes[at],
            None => self.last[2 - (back - newline)],
        };
        before(1) == b'\n' || (before(1) == b'\r' && before(2) == b'\n')
    }
}

/// The first newline among `marks`, the places of quotes and newlines in `bytes` in either direction,
/// that is outside quotes, where those before the first are `quoted` or not.
fn newline_outside(
    mut marks: impl Iterator<Item = usize>,
    bytes: &[u8],
    mut quoted: bool,
) -> Option<usize> {
    marks.find(|&at| {
        quoted ^= bytes[at] == b'"';
        !quoted && bytes[at] == b'\n'
    })
}

fn has_odd_quotes(bytes: &[u8]) -> bool {
    memchr_iter(b'"', bytes).count() % 2 == 1
}
