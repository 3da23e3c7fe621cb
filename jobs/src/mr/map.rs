//! A map task: its split through the user's `map`; what that emits through the combiner, or, in a job
//! without a reducer, straight into a file of the result or among the greatest.

use memchr::memrchr;

use crate::kind::{Given, Host, ReadAt, TaskError, Work};
use crate::message::Payload;

use super::combine::{Combine, Combiner};
use super::config::{Config, Step};
use super::error;
use super::group::{Function, GuestGroup};
use super::inputs::Piece;
use super::lines::Lines;
use super::record::Records;
use super::sample;
use super::shuffle::{self, Partitioner};
use super::split::Split;
use super::top::Top;

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

/// Runs a map task on `piece`. Without a reducer its output is a file of the result, or its
/// greatest records; with one, its runs.
pub(super) fn run(
    config: &Config,
    piece: &Piece,
    work: &Work<'_>,
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    let given = config.given(piece.input_of(config));
    match (config.reduce, config.top) {
        (None, None) => {
            let mut lines = Lines::create(host)?;
            map(config, &piece.split, given, host, &mut |frame| {
                each_record(frame, |key, value| lines.write(key, value))
            })?;
            lines.finish()
        }
        (None, Some(limit)) => {
            let mut top = Top::new(limit, host);
            map(config, &piece.split, given, host, &mut |frame| {
                each_record(frame, |key, value| top.add(key, value))
            })?;
            top.finish(host)
        }
        (Some(_), _) => {
            let combine = match &config.combine {
                None => Combine::None,
                Some(Step::Builtin(builtin)) => Combine::Builtin(*builtin),
                Some(Step::Module(module)) => {
                    let limit = share_in_one_piece(host);
                    let guest = host.guest(module, given.clone())?;
                    Combine::Guest(GuestGroup::new(guest, Function::Combine, limit))
                }
            };
            let to = partitioner(config, work, host)?;
            let budget = share(host).min(COMBINER_LIMIT) as usize;
            let mut combiner = Combiner::new(host, to, config.order, combine, budget);
            map(config, &piece.split, given, host, &mut |frame| combiner.add(frame))?;
            combiner.finish()
        }
    }
}

/// Which keys go where: by a hash, or by the boundaries that the sample task gave.
fn partitioner(
    config: &Config,
    work: &Work<'_>,
    host: &dyn Host,
) -> Result<Partitioner, TaskError> {
    if !config.is_sampled() {
        return Ok(Partitioner::Hash(config.partitions));
    }
    let sample = work.inputs.first().ok_or_else(|| error::corrupt("a map task's inputs"))?;
    let boundaries = shuffle::read(sample, sample::BOUNDARIES_LIMIT, host)?;
    sample::decode(&boundaries, config.partitions).map(Partitioner::Range)
}

/// Gives the lines at the beginning of a split to the user's `map`, for what keys it emits.
pub(super) fn sample(
    config: &Config,
    piece: &Piece,
    host: &dyn Host,
    sink: &mut Sink<'_>,
) -> Result<(), TaskError> {
    let given = Given { mute: true, ..config.given(piece.input_of(config)) };
    map(config, &piece.split, given, host, sink)
}

/// Takes packed records.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), TaskError> + 'a;

/// Gives `split` to the user's `map`, and what that emits to `sink`.
fn map(
    config: &Config,
    split: &Split,
    given: Given,
    host: &dyn Host,
    sink: &mut Sink<'_>,
) -> Result<(), TaskError> {
    let mut guest = host.guest(&config.map, given)?;
    let mut chunks = Chunks::open(split, host)?;
    while let Some(chunk) = chunks.next_chunk()? {
        guest.call("map", chunk, sink)?;
        host.progress(chunks.read, split.len);
    }
    Ok(())
}

fn each_record(
    frame: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    Records::new(frame).try_for_each(|record| record.and_then(|(key, value)| take(key, value)))
}

/// Reads a split as chunks of whole lines. Where a chunk ends depends on the split alone, not on
/// how its bytes arrive.
struct Chunks {
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

impl Chunks {
    fn open(split: &Split, host: &dyn Host) -> Result<Self, TaskError> {
        let bytes = host.open(&split.file, &[])?;
        let limit = share_in_one_piece(host).max(CHUNK);
        Ok(Chunks { split: *split, bytes, read: 0, buffer: Vec::new(), given: 0, limit })
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
