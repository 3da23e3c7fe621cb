//! Reads a split and hands its records on, whole ones, many at a time.
//!
//! What is handed on lies where it was read: only a record that straddles two pieces is copied
//! together. So this path runs at the speed of memory, and holds one piece and one record.

use bytes::Bytes;

use crate::chunk::{RecordKind, Scanner};
use crate::kind::{Host, ReadAt, TaskError};

use super::error;
use super::split::Split;

/// Bytes asked for at a time: the largest block, so that none is read in two.
const PIECE: usize = 2 << 20;

/// The capacity that is kept from one straddling record to the next, in bytes.
const KEPT: usize = 1 << 20;

/// Takes some whole records, and how many bytes of the split were read so far.
pub(super) type Give<'a> = dyn FnMut(&[u8], u64) -> Result<(), TaskError> + 'a;

/// Reads the records of `split` and gives all to `give`. A record has `limit` bytes at most.
pub(super) fn read(
    split: &Split,
    records: RecordKind,
    limit: usize,
    host: &dyn Host,
    give: &mut Give<'_>,
) -> Result<(), TaskError> {
    let mut pieces = Pieces::open(split, host)?;
    let mut scanner = Scanner::new(records);
    // The beginning of a record, which goes on in the next piece.
    let mut begun = Vec::new();
    while let Some(piece) = pieces.next()? {
        let mut rest = &piece[..];
        if !begun.is_empty() {
            let end = scanner.next_end(rest);
            let (now, later) = rest.split_at(end.unwrap_or(rest.len()));
            extend(&mut begun, now, limit)?;
            if end.is_none() {
                continue;
            }
            give(&begun, pieces.read)?;
            begun.clear();
            begun.shrink_to(KEPT);
            rest = later;
        }
        let (whole, later) = rest.split_at(scanner.last_end(rest).unwrap_or(0));
        if !whole.is_empty() {
            give(whole, pieces.read)?;
        }
        scanner.pass(later);
        extend(&mut begun, later, limit)?;
    }
    // The last record of a file may lack its end.
    if begun.is_empty() { Ok(()) } else { give(&begun, pieces.read) }
}

fn extend(record: &mut Vec<u8>, by: &[u8], limit: usize) -> Result<(), TaskError> {
    if record.len() + by.len() > limit {
        return Err(error::record_too_long(limit));
    }
    record.extend_from_slice(by);
    Ok(())
}

/// The bytes of a split, a block or so at a time.
struct Pieces {
    split: Split,
    bytes: Box<dyn ReadAt>,
    /// Bytes of the split read.
    read: u64,
}

impl Pieces {
    fn open(split: &Split, host: &dyn Host) -> Result<Self, TaskError> {
        Ok(Pieces { split: *split, bytes: host.open(&split.file, &[])?, read: 0 })
    }

    fn next(&mut self) -> Result<Option<Bytes>, TaskError> {
        let left = self.split.len - self.read;
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        let bytes = self
            .bytes
            .read_at(self.split.offset + self.read, want)
            .map_err(|error| TaskError::of_read(&self.split.file, error))?;
        if bytes.is_empty() {
            return Err(error::corrupt("the input"));
        }
        self.read += bytes.len() as u64;
        Ok(Some(bytes))
    }
}
