//! A map task: its splits through the user's `map`; what that emits through the combiner, or, in a
//! job without a reducer, straight into a file of the result or among the greatest.

use std::ops::ControlFlow;

use crate::kind::{Given, Host, TaskError, Work};
use crate::message::Payload;

use super::bad::{Mapper, Sink, Skipped};
use super::combine::{Combine, Combiner};
use super::config::{Config, Step};
use super::error;
use super::group::{Function, GuestGroup};
use super::input;
use super::inputs::Group;
use super::lines::Lines;
use super::sample;
use super::shuffle::{self, Partitioner};
use super::top::Top;
use crate::record::Records;

/// The most bytes that the combiner holds: beyond, its table outgrows every cache anyway.
const COMBINER_LIMIT: u64 = 64 << 20;

/// The share of an attempt's memory that the combiner, the longest record and a key group may each
/// have, the rest being the guest's.
const SHARE: u64 = 4;

/// The longest record that is read whatever the memory is, in bytes: what a block may have.
const RECORD_MIN: usize = 1 << 20;

/// The bytes of a task's memory that one of its parts may have. Where the node has less than the job
/// allows, no more than half of that: a part that does not fit then is the node's failure
/// ([`error::of_the_node`]).
pub(super) fn share(host: &dyn Host) -> u64 {
    (host.memory() / SHARE).min(host.room() / 2)
}

/// The same for what goes to disk when it outgrows its share.
pub(super) fn share_here(host: &dyn Host) -> u64 {
    host.room() / SHARE
}

/// As [`share`], for what is held in one piece.
pub(super) fn share_in_one_piece(host: &dyn Host) -> usize {
    // Lengths in the sandbox have 32 bits, signed in some languages.
    share(host).min(1 << 30) as usize
}

/// Runs a map task on `group`. Without a reducer its output is a file of the result, or its
/// greatest records; with one, its runs.
pub(super) fn run(
    config: &Config,
    group: &Group,
    work: &Work<'_>,
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    let given = config.given(group.input_of(config));
    match (&config.reduce, config.top) {
        (None, None) => {
            let mut lines = Lines::create(host)?;
            let skipped = map(config, group, given, host, &mut |frame| {
                each_record(frame, |key, value| lines.write(key, value))
            })?;
            lines.finish(&skipped)
        }
        (None, Some(limit)) => {
            let mut top = Top::new(limit, host);
            let skipped = map(config, group, given, host, &mut |frame| {
                each_record(frame, |key, value| top.add(key, value))
            })?;
            top.finish(skipped, host)
        }
        (Some(_), _) => {
            let combine = match &config.combine {
                None => Combine::None,
                Some(Step::Builtin(builtin)) => Combine::Builtin(*builtin),
                Some(Step::Code(code)) => {
                    let limit = share_in_one_piece(host);
                    let guest = host.guest(code, given.clone())?;
                    Combine::Guest(GuestGroup::new(guest, Function::Combine, limit))
                }
            };
            let to = partitioner(config, work, host)?;
            let budget = share_here(host).min(COMBINER_LIMIT) as usize;
            let mut combiner = Combiner::new(host, to, config.order, combine, budget);
            let skipped = map(config, group, given, host, &mut |frame| combiner.add(frame))?;
            combiner.finish(skipped)
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

/// Gives all records of `group` to the user's `map`, and what that emits to `sink`. Which records
/// it could not take.
fn map(
    config: &Config,
    group: &Group,
    given: Given,
    host: &dyn Host,
    sink: &mut Sink<'_>,
) -> Result<Vec<Skipped>, TaskError> {
    let limit = record_limit(host);
    let total = group.len();
    let mut mapper = Mapper::new(config, given, host, share_in_one_piece(host))?;
    let mut done = 0;
    for split in &group.splits {
        input::read(split, config.record, limit, host, &mut |batch| {
            mapper.map(split, batch, sink)?;
            host.progress(done + batch.read, total);
            Ok(ControlFlow::Continue(()))
        })?;
        mapper.end_split(split, sink)?;
        done += split.len;
    }
    Ok(mapper.into_skipped())
}

/// Gives about `bytes` of whole records from the beginning of the group's first split to the user's
/// `map`, for what keys it emits.
pub(super) fn sample(
    config: &Config,
    group: &Group,
    bytes: usize,
    host: &dyn Host,
    sink: &mut Sink<'_>,
) -> Result<(), TaskError> {
    let Some(split) = group.splits.first() else { return Ok(()) };
    let given = Given { mute: true, ..config.given(group.input_of(config)) };
    let mut mapper = Mapper::new(config, given, host, share_in_one_piece(host))?;
    let mut left = bytes;
    input::read(split, config.record, record_limit(host), host, &mut |batch| {
        let batch = batch.first(left, config.record);
        mapper.map(split, &batch, sink)?;
        left = left.saturating_sub(batch.records.len());
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    mapper.end_split(split, sink)
}

/// The longest record, in bytes.
fn record_limit(host: &dyn Host) -> usize {
    share_in_one_piece(host).max(RECORD_MIN)
}

fn each_record(
    frame: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    Records::new(frame).try_for_each(|record| record.and_then(|(key, value)| take(key, value)))
}
