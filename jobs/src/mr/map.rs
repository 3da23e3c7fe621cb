//! A map task: its splits through the user's `map`, what that emits through the combiner.

use crate::kind::{Host, TaskError};
use crate::message::Payload;

use super::bad::Mapper;
use super::combine::{Combine, Combiner};
use super::config::{Config, Step};
use super::group::{Function, GuestGroup};
use super::input;
use super::split::Split;

/// The most bytes that the combiner holds: beyond, its table outgrows every cache anyway.
const COMBINER_LIMIT: u64 = 64 << 20;

/// The share of an attempt's memory that the combiner, the longest record and a key group may each
/// have, the rest being the guest's.
const SHARE: u64 = 4;

/// The longest record that is read whatever the memory is, in bytes: what a block may have.
const RECORD_MIN: usize = 1 << 20;

/// The bytes of a task's memory that one of its parts may have.
pub(super) fn share(host: &dyn Host) -> u64 {
    host.memory() / SHARE
}

/// As [`share`], for what is held in one piece.
pub(super) fn share_in_one_piece(host: &dyn Host) -> usize {
    // Lengths in the sandbox have 32 bits, signed in some languages.
    share(host).min(1 << 30) as usize
}

/// Runs a map task on `splits`.
pub(super) fn run(
    config: &Config,
    splits: &[Split],
    host: &dyn Host,
) -> Result<Payload, TaskError> {
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
    let limit = share_in_one_piece(host).max(RECORD_MIN);
    let total: u64 = splits.iter().map(|split| split.len).sum();
    let mut mapper = Mapper::new(config, host, share_in_one_piece(host))?;
    let mut done = 0;
    for split in splits {
        input::read(split, config.record, limit, host, &mut |batch| {
            mapper.map(split, batch, &mut |frame| combiner.add(frame))?;
            host.progress(done + batch.read, total);
            Ok(())
        })?;
        done += split.len;
    }
    combiner.finish(mapper.into_skipped())
}
