//! The records with the greatest values: `top = N`.
//!
//! Each task before the last keeps N records at most, and the last one N of all theirs. What is
//! among the N greatest of all is among the N greatest of each task that has it, so nothing is lost
//! on the way. Records are ranked by their values as decimal numbers, the greatest first, then by
//! their keys.

use std::collections::BinaryHeap;

use crate::kind::{Host, TaskError, Work};
use crate::message::Payload;

use super::bad::Skipped;
use super::config::Config;
use super::error;
use super::group::How;
use super::lines::Lines;
use super::map::{share, share_here};
use super::merge::{self, Merge};
use super::order::{number_len, write_number};
use super::reduce;
use super::run::Encoder;
use super::shuffle::RunsWriter;

/// The most records that can be asked for: they are kept in memory.
pub const TOP_LIMIT: u64 = 1_000_000;

/// What a kept record costs besides its bytes: two vectors.
const RECORD_MEMORY: usize = size_of::<(Vec<u8>, Vec<u8>)>();

/// Keeps the first records by rank.
pub(super) struct Top {
    limit: usize,
    /// (rank, value), the last by rank on top. A rank is the bytes that stand for the value, turned
    /// over so that the greatest come first, then the key.
    kept: BinaryHeap<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    /// Bytes that may be kept.
    budget: usize,
    rank: Vec<u8>,
}

impl Top {
    pub(super) fn new(limit: u32, host: &dyn Host) -> Self {
        let budget = usize::try_from(share(host)).unwrap_or(usize::MAX);
        let limit = limit as usize;
        Top { limit, kept: BinaryHeap::new(), bytes: 0, budget, rank: Vec::new() }
    }

    /// Takes a record.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        self.rank.clear();
        write_number(value, &mut self.rank).ok_or_else(|| error::not_a_decimal(key, value))?;
        self.rank.iter_mut().for_each(|byte| *byte = !*byte);
        self.rank.extend_from_slice(key);
        if self.kept.len() == self.limit {
            match self.kept.peek() {
                Some((last, _)) if self.rank < *last => {}
                _ => return Ok(()),
            }
            if let Some((rank, value)) = self.kept.pop() {
                self.bytes -= rank.len() + value.len() + RECORD_MEMORY;
            }
        }
        self.bytes += self.rank.len() + value.len() + RECORD_MEMORY;
        if self.bytes > self.budget {
            return Err(error::top_too_large(self.limit, self.budget));
        }
        self.kept.push((self.rank.clone(), value.to_vec()));
        Ok(())
    }

    /// The task's output: one run, by rank; of its input, records were `skipped`.
    pub(super) fn finish(
        self,
        skipped: Vec<Skipped>,
        host: &dyn Host,
    ) -> Result<Payload, TaskError> {
        let mut runs = RunsWriter::new(host);
        let mut encoder = Encoder::new()?;
        for (rank, value) in self.kept.into_sorted_vec() {
            encoder.add(&rank, &value, &mut |bytes| runs.write(bytes))?;
        }
        let width = encoder.end(&mut |bytes| runs.write(bytes))?;
        runs.end_run(width)?;
        runs.finish(skipped)
    }
}

/// Runs the last task: the first `limit` records of all tasks' before it, as lines.
pub(super) fn run(
    config: &Config,
    limit: u32,
    work: &Work<'_>,
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    reduce::with_sources(config, work, 0, host, |sources, skipped| {
        let sources = merge::narrow(sources, share_here(host), How::Pass, host)?;
        let mut merge = Merge::open(&sources, host)?;
        let mut lines = Lines::create(host)?;
        for _ in 0..limit {
            let Some((rank, value)) = merge.record() else { break };
            let value_len = number_len(rank.iter().map(|byte| !byte));
            let key = value_len.and_then(|len| rank.get(len..));
            lines.write(key.ok_or_else(|| error::corrupt("a run"))?, value)?;
            merge.advance()?;
        }
        lines.finish(&skipped)
    })
}
