//! Sorted runs: records in key order, packed for disk and wire, written and read as streams.
//!
//! A run is a sequence of blocks, `[raw len u32][packed len u32][zstd]`, lengths little-endian; a
//! block that hardly shrinks stands as it is, and its lengths are equal. Unpacked, a block is a sequence of records, each
//! `[shared][suffix len][value len][suffix][value]`, the numbers as LEB128: `shared` bytes of the
//! key are those of the key before it in the block. The blocks of a run depend on its records
//! only, so the same records are the same bytes wherever they are packed.

use std::io;

use bytes::{Bytes, BytesMut};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

use crate::ids::{FileRef, PeerId};
use crate::kind::{Host, RECORD_LIMIT, ReadAt, TaskError};

use super::error;
use crate::record::{PREFIX, prefix, prefix_of_first};

/// The bytes after which a block is closed. Smaller ones compress worse, larger ones make a merge
/// of many runs hold more.
const BLOCK: usize = 32 << 10;

/// The longest block: one that was just short of closing, and a record with its numbers.
const BLOCK_LIMIT: usize = BLOCK + RECORD_LIMIT + 32;

/// What reading one run takes beside what it holds: itself, and what it decompresses with.
const READER_MEMORY: u64 = 8 << 10;

/// What is held of a file that is read through, at most: two blocks of it.
const HELD: u64 = 2 << 20;

/// What a reader of a run holds at most: a block and a key. Another node says what it is of its runs.
const WIDTH_LIMIT: u64 = 2 * BLOCK_LIMIT as u64;

/// What a reader of a run holds at most where no record is long: a block and a key of it. More is told
/// with the run.
const USUAL_WIDTH: u64 = 3 * BLOCK as u64;

/// Bytes that reading a run takes, about, of so many packed bytes and this width (see [`Encoder::end`]).
pub(super) fn reader_memory(len: u64, width: u64) -> u64 {
    READER_MEMORY + width.max(BLOCK as u64) + len.min(HELD)
}

/// zstd's fastest level: a run lives for seconds.
const LEVEL: i32 = 1;

/// After a block that hardly shrank, so many are not even tried: random keys and hashes do not pack,
/// and trying costs more than all the rest.
const UNTRIED: u32 = 15;

const HEADER: usize = 8;

/// Takes the bytes of a run.
pub(super) type Out<'a> = dyn FnMut(&[u8]) -> Result<(), TaskError> + 'a;

/// Packs runs, one after the other.
pub(super) struct Encoder {
    zstd: Compressor<'static>,
    block: Vec<u8>,
    last: Last,
    packed: Vec<u8>,
    /// The longest block of the run so far, and the longest key.
    longest_block: usize,
    longest_key: usize,
    /// Blocks of this run that still go untried.
    untried: u32,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, TaskError> {
        let zstd = Compressor::new(LEVEL).map_err(|error| error::compression(&error))?;
        let (block, packed) = (Vec::new(), Vec::new());
        let last = Last::default();
        Ok(Encoder { zstd, block, last, packed, longest_block: 0, longest_key: 0, untried: 0 })
    }

    /// Appends a record, whose key is not before the last one's.
    pub(super) fn add(
        &mut self,
        key: &[u8],
        value: &[u8],
        out: &mut Out<'_>,
    ) -> Result<(), TaskError> {
        let shared = self.last.replace(key);
        let numbers = [shared, key.len() - shared, value.len()];
        if numbers.iter().all(|number| *number < 0x80) {
            self.block.extend_from_slice(&numbers.map(|number| number as u8));
        } else {
            numbers.iter().for_each(|number| write_number(&mut self.block, *number as u64));
        }
        self.block.extend_from_slice(&key[shared..]);
        self.block.extend_from_slice(value);
        self.longest_key = self.longest_key.max(key.len());
        if self.block.len() >= BLOCK { self.close_block(out) } else { Ok(()) }
    }

    /// Ends the run; the next record begins another. The run's width: what a reader of it holds at
    /// most, a block and a key; or 0, where that is no more than usual.
    pub(super) fn end(&mut self, out: &mut Out<'_>) -> Result<u64, TaskError> {
        if !self.block.is_empty() {
            self.close_block(out)?;
        }
        // What one run was like says nothing of the next.
        self.untried = 0;
        let longest = [&mut self.longest_block, &mut self.longest_key].map(std::mem::take);
        Ok(unusual(longest.iter().sum::<usize>() as u64))
    }

    fn close_block(&mut self, out: &mut Out<'_>) -> Result<(), TaskError> {
        let packed = if self.shrinks()? { &self.packed } else { &self.block };
        let lengths = [self.block.len(), packed.len()]
            .map(|len| u32::try_from(len).expect("a block is far below 4 GiB").to_le_bytes());
        out(lengths.as_flattened())?;
        out(packed)?;
        self.longest_block = self.longest_block.max(self.block.len());
        self.block.clear();
        self.last = Last::default();
        Ok(())
    }

    /// Packs the block; whether that saves a quarter of it, and so was worth it.
    fn shrinks(&mut self) -> Result<bool, TaskError> {
        if self.untried > 0 {
            self.untried -= 1;
            return Ok(false);
        }
        self.packed.clear();
        self.packed.reserve(compress_bound(self.block.len()));
        self.zstd
            .compress_to_buffer(&self.block, &mut self.packed)
            .map_err(|error| error::compression(&error))?;
        let shrinks = self.packed.len() < self.block.len() / 4 * 3;
        if !shrinks {
            self.untried = UNTRIED;
        }
        Ok(shrinks)
    }
}

/// The key that was packed last; before the first, an empty one.
#[derive(Default)]
struct Last {
    prefix: u128,
    len: usize,
    /// What the prefix does not have.
    rest: Vec<u8>,
}

impl Last {
    /// Takes `key` in its place; how many bytes the two have in common at their beginning.
    #[inline]
    fn replace(&mut self, key: &[u8]) -> usize {
        let (prefix, rest) = (prefix(key), key.get(PREFIX..).unwrap_or_default());
        let alike = match ((prefix ^ self.prefix).leading_zeros() / 8) as usize {
            PREFIX => PREFIX + rest.iter().zip(&self.rest).take_while(|(a, b)| a == b).count(),
            alike => alike,
        };
        let shared = alike.min(key.len()).min(self.len);
        (self.prefix, self.len) = (prefix, key.len());
        self.rest.clear();
        self.rest.extend_from_slice(rest);
        shared
    }
}

/// Where a run lies.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Here.
    Inline(Bytes),
    /// In a file.
    File {
        file: FileRef,
        /// Who has it.
        holders: Vec<PeerId>,
        /// As [`Encoder::end`] gave it.
        width: u64,
    },
}

impl Source {
    /// Its packed bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Source::Inline(bytes) => bytes.len() as u64,
            Source::File { file, .. } => file.len,
        }
    }

    /// Bytes that a reader of it takes, about.
    pub(super) fn memory(&self) -> u64 {
        reader_memory(self.len(), self.width().min(WIDTH_LIMIT))
    }

    /// What [`Encoder::end`] says of it.
    pub(super) fn width(&self) -> u64 {
        match self {
            Source::Inline(run) => width_of(run),
            Source::File { width, .. } => *width,
        }
    }
}

/// The width of a run that is at hand, or somewhat more: its keys are not looked at, and none is longer
/// than its block.
pub(super) fn width_of(mut run: &[u8]) -> u64 {
    let mut longest = 0;
    while let Some((header, rest)) = run.split_first_chunk() {
        let [raw, packed] = lengths(header);
        longest = longest.max(raw as u64);
        run = rest.get(packed..).unwrap_or_default();
    }
    unusual(2 * longest)
}

/// This width, if it is worth a word.
fn unusual(width: u64) -> u64 {
    if width > USUAL_WIDTH { width } else { 0 }
}

/// The lengths of a block, unpacked and packed.
fn lengths(header: &[u8; HEADER]) -> [usize; 2] {
    let [a, b, c, d, e, f, g, h] = *header;
    [[a, b, c, d], [e, f, g, h]].map(|length| u32::from_le_bytes(length) as usize)
}

/// Reads a run, one record after the other.
pub(super) struct Reader {
    bytes: Box<dyn ReadAt>,
    /// What `bytes` reads, for errors; none for bytes in memory.
    file: Option<FileRef>,
    offset: u64,
    /// The current block as it was read, if it stood there unpacked.
    stored: Bytes,
    /// The current block, if it was packed.
    unpacked: Vec<u8>,
    /// Where the next record begins in the block.
    next: usize,
    key: Vec<u8>,
    prefix: u128,
    value: std::ops::Range<usize>,
}

impl Reader {
    /// A reader that is before the first record of the run at `source`.
    pub(super) fn open(source: &Source, host: &dyn Host) -> Result<Self, TaskError> {
        let (bytes, file): (Box<dyn ReadAt>, _) = match source {
            Source::Inline(bytes) => (Box::new(InMemory(bytes.clone())), None),
            Source::File { file, holders, .. } => (host.open(file, holders)?, Some(*file)),
        };
        Ok(Reader {
            bytes,
            file,
            offset: 0,
            stored: Bytes::new(),
            unpacked: Vec::new(),
            next: 0,
            key: Vec::new(),
            prefix: 0,
            value: 0..0,
        })
    }

    /// Goes to the next record; false at the end of the run.
    pub(super) fn advance(&mut self, zstd: &mut Decompressor<'_>) -> Result<bool, TaskError> {
        if self.next == self.block().len() && !self.next_block(zstd)? {
            return Ok(false);
        }
        match self.read_record() {
            Some(()) => Ok(true),
            None => Err(self.corrupt()),
        }
    }

    /// The current record.
    pub(super) fn record(&self) -> (&[u8], &[u8]) {
        (&self.key, &self.block()[self.value.clone()])
    }

    #[inline]
    fn block(&self) -> &[u8] {
        if self.stored.is_empty() { &self.unpacked } else { &self.stored }
    }

    /// Packed bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.offset
    }

    /// Bytes of its block and key.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        (self.stored.len() + self.unpacked.capacity() + self.key.len()) as u64
    }

    /// The [`prefix`] of the current key, and its length.
    #[inline]
    pub(super) fn start(&self) -> (u128, usize) {
        (self.prefix, self.key.len())
    }

    fn read_record(&mut self) -> Option<()> {
        // Not by `block()`: the key is written while the block is read.
        let block = if self.stored.is_empty() { &self.unpacked[..] } else { &self.stored[..] };
        let mut rest = &block[self.next..];
        let [shared, suffix_len, value_len] = match *rest {
            [shared, suffix, value, ref after @ ..] if (shared | suffix | value) < 0x80 => {
                rest = after;
                [shared, suffix, value].map(usize::from)
            }
            _ => [read_length(&mut rest)?, read_length(&mut rest)?, read_length(&mut rest)?],
        };
        let (suffix, after) = rest.split_at_checked(suffix_len)?;
        if shared > self.key.len() || value_len > after.len() {
            return None;
        }
        // From what is at hand: the key's own bytes are on their way to memory.
        if let Some(bits) = u32::try_from(8 * shared).ok().filter(|bits| *bits < u128::BITS) {
            let kept = self.prefix & !(u128::MAX >> bits);
            self.prefix = kept | prefix_of_first(suffix_len, rest) >> bits;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        let value_at = block.len() - after.len();
        self.value = value_at..value_at + value_len;
        self.next = self.value.end;
        Some(())
    }

    /// Goes to the next block; false at the end of the run.
    fn next_block(&mut self, zstd: &mut Decompressor<'_>) -> Result<bool, TaskError> {
        if self.offset == self.bytes.len() {
            return Ok(false);
        }
        let header = self.read_bytes(HEADER)?;
        let [raw, packed] = lengths(header[..].try_into().expect("so many bytes were read"));
        if raw == 0 || raw > BLOCK_LIMIT || packed > compress_bound(BLOCK_LIMIT) {
            return Err(self.corrupt());
        }
        let bytes = self.read_bytes(packed)?;
        self.unpacked.clear();
        if packed == raw {
            self.stored = bytes;
        } else {
            self.stored = Bytes::new();
            // No more than it takes: there may be a thousand readers.
            self.unpacked.reserve_exact(raw);
            let unpacked = zstd.decompress_to_buffer(&bytes, &mut self.unpacked);
            if unpacked.ok() != Some(raw) {
                return Err(self.corrupt());
            }
        }
        self.next = 0;
        self.key.clear();
        Ok(true)
    }

    /// It is none. Of a file, whose bytes are what its CID says, its maker never had a run: it is as
    /// good as gone.
    fn corrupt(&self) -> TaskError {
        match &self.file {
            Some(file) => {
                let message = format!("file {} is named as a run and is none", file.cid);
                TaskError::Missing { file: Box::new(*file), task: None, message }
            }
            None => error::corrupt("a run"),
        }
    }

    /// The next `want` bytes: shared with what holds them, unless they lie in two pieces of the file.
    fn read_bytes(&mut self, want: usize) -> Result<Bytes, TaskError> {
        let first = self.read_some(want)?;
        if first.len() == want {
            return Ok(first);
        }
        let mut bytes = BytesMut::with_capacity(want);
        bytes.extend_from_slice(&first);
        while bytes.len() < want {
            bytes.extend_from_slice(&self.read_some(want - bytes.len())?);
        }
        Ok(bytes.freeze())
    }

    /// Up to `want` of the next bytes, at least one.
    fn read_some(&mut self, want: usize) -> Result<Bytes, TaskError> {
        let read = self.bytes.read_at(self.offset, want).map_err(|error| match &self.file {
            Some(file) => TaskError::of_read(file, error),
            None => error::corrupt("a run"),
        })?;
        if read.is_empty() {
            return Err(self.corrupt());
        }
        self.offset += read.len() as u64;
        Ok(read)
    }
}

/// Appends `number` as LEB128.
pub(super) fn write_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Takes a LEB128 number off the front of `from`.
pub(super) fn read_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes a length that memory can have.
pub(super) fn read_length(from: &mut &[u8]) -> Option<usize> {
    usize::try_from(read_number(from)?).ok()
}

/// A run that came inside a message.
struct InMemory(Bytes);

impl ReadAt for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&mut self, offset: u64, want: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let end = start.saturating_add(want).min(self.0.len());
        Ok(self.0.slice(start..end))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::fake::World;

    type Records = Vec<(Vec<u8>, Vec<u8>)>;

    /// The run of these records.
    pub(in crate::mr) fn pack(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut run = Vec::new();
        let mut encoder = Encoder::new().unwrap();
        let mut out = |bytes: &[u8]| {
            run.extend_from_slice(bytes);
            Ok(())
        };
        for (key, value) in records {
            encoder.add(key, value, &mut out).unwrap();
        }
        encoder.end(&mut out).unwrap();
        run
    }

    fn unpack(run: Vec<u8>) -> Result<Records, TaskError> {
        let host = World::new();
        let mut reader = Reader::open(&Source::Inline(run.into()), &host)?;
        let mut zstd = Decompressor::new().unwrap();
        let mut records = Vec::new();
        while reader.advance(&mut zstd)? {
            let (key, value) = reader.record();
            records.push((key.to_vec(), value.to_vec()));
        }
        Ok(records)
    }

    #[test]
    fn a_run_of_many_blocks_reads_back_as_written() {
        let records: Vec<_> = (0..40_000_u32)
            .map(|n| (format!("key {n:08}").into_bytes(), vec![b'v'; n as usize % 5]))
            .collect();
        assert_eq!(unpack(pack(&records)).unwrap(), records);
    }

    #[test]
    fn what_does_not_pack_is_kept_as_it_is_and_what_does_is_packed() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state ^ state >> 31).wrapping_mul(0xff51_afd7_ed55_8ccd).to_be_bytes().to_vec()
        };
        let mut noise: Vec<_> = (0..20_000).map(|_| (random(), random())).collect();
        noise.sort();
        let raw = 20_000 * (4 + 8 + 3);
        let run = pack(&noise);
        assert!(run.len() > raw * 9 / 10, "{} of {raw}", run.len());
        assert_eq!(unpack(run).unwrap(), noise);
        let text: Vec<_> =
            noise.into_iter().map(|(key, _)| (key, b"the same each time".repeat(3))).collect();
        let run = pack(&text);
        assert!(run.len() < raw, "{} of {raw}", run.len());
        assert_eq!(unpack(run).unwrap(), text);
    }

    #[test]
    fn a_damaged_run_is_an_error_wherever_the_damage_is() {
        let records: Vec<_> = (0..50_u8).map(|n| (vec![n, n], vec![n])).collect();
        let run = pack(&records);
        for cut in 1..run.len() {
            assert!(unpack(run[..cut].to_vec()).is_err(), "cut at {cut}");
        }
        for at in 0..HEADER {
            let mut damaged = run.clone();
            damaged[at] ^= 0x80;
            assert!(unpack(damaged).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn numbers_read_back_and_longer_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut text = Vec::new();
            write_number(&mut text, number);
            assert_eq!(read_number(&mut text.as_slice()), Some(number));
        }
        assert_eq!(read_number(&mut [0xff; 9].as_slice()), None);
        assert_eq!(read_number(&mut [0xff; 10].as_slice()), None);
    }
}
