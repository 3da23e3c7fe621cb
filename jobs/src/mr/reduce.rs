//! A reduce task: its partition's run of every map task, merged, and what becomes of each key's
//! values written as `key<TAB>value` lines, in key order.

use bytes::Bytes;

use crate::ids::{FileRef, TaskId};
use crate::kind::{Host, TaskError, Work};
use crate::message::{Input, Payload};

use super::builtin::Fold;
use super::config::{Config, Step};
use super::error;
use super::group::{Function, Grouper, GuestGroup, How};
use super::lines::Lines;
use super::map::{share, share_in_one_piece};
use super::merge::{self, Merge};
use super::run::Source;
use super::shuffle::{Run, run_of};

/// Records between two words about progress: some milliseconds' worth.
const PROGRESS_EVERY: u64 = 1 << 16;

/// The longest index of a map task's runs that is read: far more than 1024 files' names.
const INDEX_LIMIT: u64 = 1 << 20;

/// Runs a reduce task on `partition`. Its output is the file of its lines.
pub(super) fn run(
    config: &Config,
    reduce: &Step,
    partition: u32,
    work: &Work<'_>,
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    let mut makers = Vec::new();
    let reduced = merge_and_reduce(config, reduce, partition, work, host, &mut makers);
    reduced.map_err(|error| match error {
        TaskError::Missing { file, message, .. } => {
            let made = makers.iter().find(|(_, made)| *made == *file);
            TaskError::Missing { file, task: made.map(|(task, _)| *task), message }
        }
        other => other,
    })
}

/// Notes in `makers` which map task made which file.
fn merge_and_reduce(
    config: &Config,
    reduce: &Step,
    partition: u32,
    work: &Work<'_>,
    host: &dyn Host,
    makers: &mut Vec<(TaskId, FileRef)>,
) -> Result<Payload, TaskError> {
    // While runs are joined to fewer, values may only be folded where folding again gives the same.
    let (on_the_way, at_last) = match reduce {
        Step::Builtin(builtin) => (
            if builtin.of_partials() == *builtin {
                How::Fold(Fold::partial(*builtin))
            } else {
                How::Pass
            },
            How::Fold(Fold::last(*builtin)),
        ),
        Step::Module(module) => {
            let limit = share_in_one_piece(host);
            let group =
                GuestGroup::new(host.guest(module, config.given(""))?, Function::Reduce, limit);
            (How::Pass, How::Guest(group))
        }
    };
    let mut sources = Vec::with_capacity(work.inputs.len());
    for input in work.inputs {
        if let Payload::File(index) = &input.payload {
            makers.push((input.task, *index));
        }
        let source = source(input, partition, host)?;
        if let Some(Source::File(run, _)) = &source {
            makers.push((input.task, *run));
        }
        sources.extend(source);
    }
    let sources = merge::narrow(sources, merge::width(share(host)), on_the_way, host)?;

    let mut lines = Lines::create(host)?;
    let mut write = |key: &[u8], value: &[u8]| lines.write(key, value);
    let mut grouper = Grouper::new(at_last);
    let total = sources.iter().map(Source::len).sum();
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
    lines.finish()
}

/// Where the run of `partition` of one map task lies; none when it is empty.
fn source(input: &Input, partition: u32, host: &dyn Host) -> Result<Option<Source>, TaskError> {
    let run = match &input.payload {
        Payload::Inline(text) => run_of(text, partition, false)?,
        Payload::File(file) => run_of(&read_index(file, input, host)?, partition, true)?,
    };
    Ok(match run {
        Run::Empty => None,
        Run::Inline(bytes) => Some(Source::Inline(bytes)),
        Run::File(file) => Some(Source::File(file, input.holders.clone())),
    })
}

fn read_index(file: &FileRef, input: &Input, host: &dyn Host) -> Result<Bytes, TaskError> {
    let len = usize::try_from(file.len.min(INDEX_LIMIT)).expect("the limit is a megabyte");
    let mut index = Vec::with_capacity(len);
    let mut bytes = host.open(file, &input.holders)?;
    while index.len() < len {
        let read = bytes
            .read_at(index.len() as u64, len - index.len())
            .map_err(|error| TaskError::of_read(file, error))?;
        if read.is_empty() {
            return Err(error::corrupt("a map task's output"));
        }
        index.extend_from_slice(&read);
    }
    Ok(index.into())
}
