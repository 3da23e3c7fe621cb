//! A map task: its split through the user's `map`, what that emits through the combiner.

use memchr::memrchr;

use crate::kind::{Host, Pieces, ReadAt, TaskError};
use crate::message::Payload;

use super::combine::{Combine, Combiner};
use super::config::{Config, Step};
use super::error;
use super::group::{Function, GuestGroup};
use super::split::Split;

/// Bytes of whole lines given to `map` at once, about: so many that a call costs nothing, so few
/// that the guest needs little memory.
const CHUNK: usize = 1 << 20;

/// The most bytes that the combiner holds: beyond, its table outgrows every cache anyway.
const COMBINER_LIMIT: u64 = 64 << 20;

/// The share of an attempt's memory that the combiner, the longest line and a key group may each
/// have, the rest being the guest's.
const SHARE: u64 = 4;

/// The bytes of a task's memory that one of its parts may have.
pub(super) fn share(host: &dyn Host) -> u64 {
    host.memory() / SHARE
}

/// As [`share`], for what is held in one piece.
pub(super) fn share_in_one_piece(host: &dyn Host) -> usize {
    // Lengths in the sandbox have 32 bits, signed in some languages.
    share(host).min(1 << 30) as usize
}

/// Runs a map task on `split`.
pub(super) fn run(config: &Config, split: &Split, host: &dyn Host) -> Result<Payload, TaskError> {
    let mut guest = host.guest(&config.map)?;
    let combine = match &config.combine {
        None => Combine::None,
        Some(Step::Builtin(builtin)) => Combine::Builtin(*builtin),
        Some(Step::Module(module)) => {
            let limit = share_in_one_piece(host);
            Combine::Guest(GuestGroup::new(host.guest(module)?, Function::Combine, limit))
        }
    };
    let budget = share(host).min(COMBINER_LIMIT) as usize;
    let mut combiner = Combiner::new(host, config.partitions, combine, budget);
    let mut chunks = Chunks { lines: Lines::open(split, host)?, host };
    guest.feed("map", &mut chunks, &mut |frame| combiner.add(frame))?;
    host.progress(split.len, split.len);
    combiner.finish()
}

/// The chunks of a split, and word of how many of its bytes are done when the next is asked for.
struct Chunks<'a> {
    lines: Lines,
    host: &'a dyn Host,
}

impl Pieces for Chunks<'_> {
    fn next(&mut self) -> Result<Option<&[u8]>, TaskError> {
        self.host.progress(self.lines.read, self.lines.split.len);
        self.lines.next_chunk()
    }
}

/// Reads a split as chunks of whole lines. Where a chunk ends depends on the split alone, not on
/// how its bytes arrive.
struct Lines {
    split: Split,
    bytes: Box<dyn ReadAt>,
    /// Bytes of the split read.
    read: u64,
    /// The chunk given last, then what was read beyond it.
    buffer: Vec<u8>,
    given: usize,
    /// The longest line, in bytes.
    limit: usize,
}

impl Lines {
    fn open(split: &Split, host: &dyn Host) -> Result<Self, TaskError> {
        let bytes = host.open(&split.file, &[])?;
        let limit = share_in_one_piece(host).max(CHUNK);
        Ok(Lines { split: *split, bytes, read: 0, buffer: Vec::new(), given: 0, limit })
    }

    /// The next lines; none at the end of the split.
    fn next_chunk(&mut self) -> Result<Option<&[u8]>, TaskError> {
        self.buffer.drain(..self.given);
        let mut target = CHUNK;
        self.given = loop {
            self.fill(target)?;
            if self.read == self.split.len {
                break self.buffer.len();
            }
            if let Some(newline) = memrchr(b'\n', &self.buffer) {
                break newline + 1;
            }
            if target >= self.limit {
                return Err(error::line_too_long(self.limit));
            }
            target += CHUNK;
        };
        Ok((self.given > 0).then(|| &self.buffer[..self.given]))
    }

    /// Reads until the buffer has `target` bytes or the split ends.
    fn fill(&mut self, target: usize) -> Result<(), TaskError> {
        while self.buffer.len() < target && self.read < self.split.len {
            let rest = usize::try_from(self.split.len - self.read).unwrap_or(usize::MAX);
            let want = rest.min(target - self.buffer.len());
            let bytes = self
                .bytes
                .read_at(self.split.offset + self.read, want)
                .map_err(|error| TaskError::of_read(&self.split.file, error))?;
            if bytes.is_empty() {
                return Err(error::corrupt("the input"));
            }
            self.read += bytes.len() as u64;
            self.buffer.extend_from_slice(&bytes);
        }
        Ok(())
    }
}
