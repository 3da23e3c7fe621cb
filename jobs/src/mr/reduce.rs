//! A reduce task: its partition's run of every map task, merged, and what becomes of each key's
//! values written as lines, in key order, or, of a job that wants the greatest only, kept for the
//! last task.

use bytes::Bytes;

use crate::ids::{FileRef, TaskId};
use crate::kind::{Host, TaskError, Work};
use crate::message::{Input, Payload};

use super::bad::{self, Skipped};
use super::builtin::{Builtin, Fold};
use super::config::{Config, Step};
use super::error;
use super::group::{Function, Grouper, GuestGroup, How};
use super::lines::Lines;
use super::map::{share_here, share_in_one_piece};
use super::merge::{self, Merge};
use super::order::Order;
use super::run::Source;
use super::shuffle::{self, Run, run_of};
use super::top::Top;

/// Records between two words about progress: some milliseconds' worth.
const PROGRESS_EVERY: u64 = 1 << 16;

/// The longest index of a map task's runs that is read: far more than 1024 files' names.
const INDEX_LIMIT: usize = 1 << 20;

/// Runs a reduce task on `partition`. Its output is the file of its lines, or its greatest records.
pub(super) fn run(
    config: &Config,
    reduce: &Step,
    partition: u32,
    work: &Work<'_>,
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    // While runs are joined to fewer, values may only be folded where folding again gives the same.
    let (on_the_way, at_last, memory) = match reduce {
        Step::Builtin(builtin) => {
            let on_the_way = match builtin.folds_again() {
                true => How::Fold(Fold::partial(*builtin)),
                false => How::Pass,
            };
            let at_last = match builtin {
                Builtin::Sort => How::Pass,
                builtin => How::Fold(Fold::last(*builtin)),
            };
            // There is no guest to leave room for; what remains is the output's.
            (on_the_way, at_last, host.room() / 4 * 3)
        }
        Step::Code(code) => {
            let limit = share_in_one_piece(host);
            let guest = host.guest(code, config.given(""))?;
            let group = GuestGroup::new(guest, Function::Reduce, limit);
            (How::Pass, How::Guest(group), share_here(host))
        }
    };
    with_sources(config, work, partition, host, |sources, skipped| {
        let sources = merge::narrow(sources, memory, on_the_way, host)?;
        let mut output = Output::create(config, host)?;
        let mut write = |key: &[u8], value: &[u8]| output.write(key, value);
        let mut grouper = Grouper::new(at_last);
        let total = sources.iter().map(Source::len).fold(0, u64::saturating_add);
        let mut merge = Merge::open(&sources, host)?;
        let mut records = 0_u64;
        while let Some((key, value)) = merge.record() {
            grouper.add(key, value, &mut write)?;
            merge.advance()?;
            records += 1;
            if records.is_multiple_of(PROGRESS_EVERY) {
                host.progress(merge.read(), total);
            }
        }
        grouper.end(&mut write)?;
        host.progress(total, total);
        output.finish(skipped, host)
    })
}

/// Gives `run` the run of `partition` of every task before this one, and, for the first partition,
/// which records these left out. Where a run is gone, the error says which task made it.
pub(super) fn with_sources(
    config: &Config,
    work: &Work<'_>,
    partition: u32,
    host: &dyn Host,
    run: impl FnOnce(Vec<Source>, Vec<Skipped>) -> Result<Payload, TaskError>,
) -> Result<Payload, TaskError> {
    let mut makers = Vec::new();
    let sources = sources(work, partition, host, &mut makers);
    let done = sources.and_then(|(sources, skipped)| {
        bad::check(config.max_bad_records, skipped.len())?;
        run(sources, skipped)
    });
    done.map_err(|error| match error {
        TaskError::Missing { file, message, .. } => {
            let made = makers.iter().find(|(_, made)| *made == *file);
            TaskError::Missing { file, task: made.map(|(task, _)| *task), message }
        }
        other => other,
    })
}

/// Notes in `makers` which task made which file.
fn sources(
    work: &Work<'_>,
    partition: u32,
    host: &dyn Host,
    makers: &mut Vec<(TaskId, FileRef)>,
) -> Result<(Vec<Source>, Vec<Skipped>), TaskError> {
    let mut sources = Vec::with_capacity(work.inputs.len());
    let mut skipped = Vec::new();
    for input in work.inputs {
        if let Payload::File(index) = &input.payload {
            makers.push((input.task, *index));
        }
        let (source, bad) = source(input, partition, host)?;
        if partition == 0 {
            skipped.extend(bad);
        }
        if let Some(Source::File { file: run, .. }) = &source {
            makers.push((input.task, *run));
        }
        sources.extend(source);
    }
    Ok((sources, skipped))
}

/// Where the run of `partition` of one task lies, none when it is empty; and what that task left out.
fn source(
    input: &Input,
    partition: u32,
    host: &dyn Host,
) -> Result<(Option<Source>, Vec<Skipped>), TaskError> {
    let whole = matches!(input.payload, Payload::File(_));
    let text: Bytes = shuffle::read(input, INDEX_LIMIT, host)?;
    let (run, skipped) = run_of(&text, partition, whole).map_err(|error| match &input.payload {
        // Its maker named a file that is none of its outputs: it never had one.
        Payload::File(file) => {
            let (file, task) = (Box::new(*file), Some(input.task));
            TaskError::Missing { file, task, message: error.to_string() }
        }
        Payload::Inline(_) => error,
    })?;
    let source = match run {
        Run::Empty => None,
        Run::Inline(bytes) => Some(Source::Inline(bytes)),
        Run::File(file, width) => {
            Some(Source::File { file, holders: input.holders.clone(), width })
        }
    };
    Ok((source, skipped))
}

/// Where a reduce task's records go.
enum Output {
    /// To the result, their keys as they were before they were sorted.
    Lines { lines: Lines, order: Order, key: Vec<u8> },
    /// To the last task.
    Top(Top),
}

impl Output {
    fn create(config: &Config, host: &dyn Host) -> Result<Self, TaskError> {
        Ok(match config.top {
            Some(limit) => Output::Top(Top::new(limit, host)),
            None => {
                let lines = Lines::create(host)?;
                Output::Lines { lines, order: config.order, key: Vec::new() }
            }
        })
    }

    #[inline]
    fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        match self {
            Output::Top(top) => top.add(key, value),
            Output::Lines { lines, order, .. } if order.is_plain() => lines.write(key, value),
            Output::Lines { lines, order, key: decoded } => {
                decoded.clear();
                order.decode(key, decoded).ok_or_else(|| error::corrupt("a run"))?;
                lines.write(decoded, value)
            }
        }
    }

    fn finish(self, skipped: Vec<Skipped>, host: &dyn Host) -> Result<Payload, TaskError> {
        match self {
            Output::Lines { lines, .. } => lines.finish(&skipped),
            Output::Top(top) => top.finish(skipped, host),
        }
    }
}
