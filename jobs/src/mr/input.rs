//! Reads a split and hands its records on, whole ones, many at a time.
//!
//! What is handed on lies where it was read: only a record that straddles two pieces is copied
//! together. So this path runs at the speed of memory, and holds one piece and one record.

use std::io;
use std::ops::ControlFlow;

use bytes::{Buf, Bytes};

use crate::chunk::{RecordKind, Scanner};
use crate::ids::FileRef;
use crate::kind::{Host, ReadAt, TaskError};

use super::error;
use super::split::Split;

mod form;
mod packed;

pub use form::{BAD_RECORDS_LIMIT, Compression};
pub(super) use form::{Form, of_section};
pub(super) use packed::codec_of;
pub use packed::{Codec, Packed};

/// Bytes asked for at a time. One block comes of it, and the others are got and checked meanwhile: the
/// whole of nearly every split.
const AHEAD: usize = 8 << 20;

/// The capacity that is kept from one straddling record to the next, in bytes.
const KEPT: usize = 1 << 20;

/// Some whole records of a split.
pub(super) struct Batch<'a> {
    /// The records, one after the other.
    pub(super) records: &'a [u8],
    /// Where the first begins, in bytes of the split; of a packed one, unpacked.
    pub(super) offset: u64,
    /// Bytes of the split that were read so far.
    pub(super) read: u64,
}

impl<'a> Batch<'a> {
    /// The first of its records: about `bytes` of them, whole ones, one at least.
    pub(super) fn first(&self, bytes: usize, kind: RecordKind) -> Batch<'a> {
        let mut scanner = Scanner::new(kind);
        let (first, rest) = self.records.split_at(bytes.min(self.records.len()));
        scanner.pass(first);
        let len = scanner.next_end(rest).map_or(self.records.len(), |end| first.len() + end);
        Batch { records: &self.records[..len], ..*self }
    }
}

/// Takes the next records of a split; breaks when it wants no more.
pub(super) type Give<'a> = dyn FnMut(&Batch<'_>) -> Result<ControlFlow<()>, TaskError> + 'a;

/// Reads the records of `split` and gives them to `give`. A record, and what unpacking takes, has
/// `limit` bytes at most.
pub(super) fn read(
    split: &Split,
    records: RecordKind,
    limit: usize,
    host: &dyn Host,
    give: &mut Give<'_>,
) -> Result<(), TaskError> {
    let stored = Stored::open(split, host)?;
    let mut pieces: Box<dyn Pieces> = match &split.packed {
        None => Box::new(stored),
        Some(packed) => packed::unpack(stored, packed, limit)?,
    };
    let mut scanner = Scanner::new(records);
    // The beginning of a record, which goes on in the next piece.
    let mut begun = Vec::new();
    // Where that record begins, or the next one to come; and how far the split was read.
    let (mut offset, mut read) = (0, 0);
    while let Some(piece) = pieces.next()? {
        read = piece.read;
        let mut rest = piece.bytes;
        if !begun.is_empty() {
            let end = scanner.next_end(rest);
            let (now, later) = rest.split_at(end.unwrap_or(rest.len()));
            extend(&mut begun, now, limit)?;
            if end.is_none() {
                continue;
            }
            if give(&Batch { records: &begun, offset, read })?.is_break() {
                return Ok(());
            }
            offset += begun.len() as u64;
            begun.clear();
            begun.shrink_to(KEPT);
            rest = later;
        }
        let (whole, later) = rest.split_at(scanner.last_end(rest).unwrap_or(0));
        if !whole.is_empty() {
            if give(&Batch { records: whole, offset, read })?.is_break() {
                return Ok(());
            }
            offset += whole.len() as u64;
        }
        scanner.pass(later);
        extend(&mut begun, later, limit)?;
    }
    match begun.is_empty() {
        true => Ok(()),
        false if split.closed => Err(error::open_split(&split.file)),
        // The last record of a file may lack its end.
        false => give(&Batch { records: &begun, offset, read }).map(drop),
    }
}

fn extend(record: &mut Vec<u8>, by: &[u8], limit: usize) -> Result<(), TaskError> {
    if record.len() + by.len() > limit {
        return Err(error::record_too_long(limit));
    }
    record.extend_from_slice(by);
    Ok(())
}

/// Where a split's bytes come from.
trait Pieces {
    /// The next bytes; none at the end.
    fn next(&mut self) -> Result<Option<Piece<'_>>, TaskError>;
}

struct Piece<'a> {
    bytes: &'a [u8],
    /// Bytes of the split that were read so far.
    read: u64,
}

/// The bytes of a split as they are stored, a block or so at a time.
struct Stored {
    file: FileRef,
    offset: u64,
    len: u64,
    bytes: Box<dyn ReadAt>,
    /// Bytes of the split read.
    read: u64,
    /// The last of them, that nobody took yet.
    piece: Bytes,
}

impl Stored {
    fn open(split: &Split, host: &dyn Host) -> Result<Self, TaskError> {
        let Split { file, offset, len, .. } = *split;
        let bytes = host.open(&file, &[])?;
        Ok(Stored { file, offset, len, bytes, read: 0, piece: Bytes::new() })
    }

    /// Reads the next piece, which is empty at the end only.
    fn fill(&mut self) -> Result<(), TaskError> {
        let left = self.len - self.read;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(AHEAD);
        self.piece = self
            .bytes
            .read_at(self.offset.saturating_add(self.read), want)
            .map_err(|error| TaskError::of_read(&self.file, error))?;
        if self.piece.is_empty() && left > 0 {
            return Err(error::corrupt("the input"));
        }
        self.read += self.piece.len() as u64;
        Ok(())
    }
}

impl Pieces for Stored {
    fn next(&mut self) -> Result<Option<Piece<'_>>, TaskError> {
        self.fill()?;
        let piece = Piece { bytes: &self.piece, read: self.read };
        Ok((!self.piece.is_empty()).then_some(piece))
    }
}

/// For what unpacks. A [`TaskError`] travels inside the other.
impl io::BufRead for Stored {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() {
            self.fill().map_err(io::Error::other)?;
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, len: usize) {
        self.piece.advance(len);
    }
}

impl io::Read for Stored {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut piece = io::BufRead::fill_buf(self)?;
        let len = io::Read::read(&mut piece, to)?;
        io::BufRead::consume(self, len);
        Ok(len)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
