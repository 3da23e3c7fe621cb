//! Bad records: those that make the user's `map` trap, found, left out and written down.
//!
//! A job that allows some holds what a call emits until the call has ended well; what it counts
//! does not count before ([`Guest::call`]). When one traps, its records are halved and each half is
//! given to a fresh instance, until the bad one stands alone. So what is left out, like all else,
//! depends on code and input only. The list travels in the outputs: a map task's own with its runs,
//! the job's with that of the first reducer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chunk::{RecordKind, Scanner};
use crate::ids::{Cid, FileRef, TaskId, cid_text};
use crate::kind::{Form, Given, Guest, Host, TaskError};
use crate::message::Payload;

use super::config::Config;
use super::error;
use super::input::Batch;
use super::split::Split;

/// Bytes of a bad record that the report shows: enough to know it by.
const RECORD_SHOWN: usize = 80;

/// Bytes of records for one run of a command, about: nearly every split whole, so that starting a
/// slow language's runtime costs little, and no more than a small node can hold.
const RUN: usize = 8 << 20;

/// Characters of a trap's message that the report shows: its cause and the innermost functions.
const MESSAGE_SHOWN: usize = 200;

/// The key of the list in outputs and reports.
const KEY: &str = "skipped";

/// A record that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// The split that it is in: a file of its own, by that name, if ipdc added the input.
    #[serde(with = "cid_text")]
    pub split: Cid,
    /// Where it begins, in bytes of the split; of a compressed one, unpacked.
    pub offset: u64,
    /// Its first bytes, as text.
    pub record: String,
    /// What the trap said.
    pub message: String,
}

/// The user's `map`, which gets all records but the bad ones.
pub(super) struct Mapper<'a> {
    config: &'a Config,
    given: Given,
    host: &'a dyn Host,
    guest: Box<dyn Guest>,
    /// Records for a command's next run, and where the first begins in its split.
    gathered: Vec<u8>,
    begun: u64,
    /// The most bytes that one call may emit while they are held.
    limit: usize,
    /// The frames that the call under way emitted, and where each ends.
    held: Vec<u8>,
    ends: Vec<usize>,
    skipped: Vec<Skipped>,
}

/// Takes what `map` emits.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), TaskError> + 'a;

impl<'a> Mapper<'a> {
    /// One that holds at most `limit` bytes of what a call emits.
    pub(super) fn new(
        config: &'a Config,
        given: Given,
        host: &'a dyn Host,
        limit: usize,
    ) -> Result<Self, TaskError> {
        let guest = host.guest(&config.map, given.clone())?;
        Ok(Mapper {
            config,
            given,
            host,
            guest,
            gathered: Vec::new(),
            begun: 0,
            limit,
            held: Vec::new(),
            ends: Vec::new(),
            skipped: Vec::new(),
        })
    }

    /// Gives some records of `split` to `map`, and what it emits to `sink`. A command is not run for
    /// a few: they are kept until there are more.
    pub(super) fn map(
        &mut self,
        split: &Split,
        batch: &Batch<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), TaskError> {
        if self.guest.form() == Form::Functions {
            return self.give(split, batch, sink);
        }
        if self.gathered.is_empty() {
            self.begun = batch.offset;
        }
        self.gathered.extend_from_slice(batch.records);
        if self.gathered.len() < RUN { Ok(()) } else { self.end_split(split, sink) }
    }

    /// Gives what is kept of `split`.
    pub(super) fn end_split(
        &mut self,
        split: &Split,
        sink: &mut Sink<'_>,
    ) -> Result<(), TaskError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut records = std::mem::take(&mut self.gathered);
        let batch = Batch { records: &records, offset: self.begun, read: 0 };
        let given = self.give(split, &batch, sink);
        records.clear();
        self.gathered = records;
        given
    }

    fn give(
        &mut self,
        split: &Split,
        batch: &Batch<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), TaskError> {
        if self.config.max_bad_records == 0 {
            return self.guest.call("map", batch.records, sink);
        }
        let Err(error) = self.call_held(batch.records) else { return self.send_held(sink) };
        if !error.is_trap() && !is_over(&error) {
            return Err(error);
        }
        self.guest = self.host.guest(&self.config.map, self.given.clone())?;
        let Some(half) = halve(self.config.record, batch.records) else {
            return self.skip(split, batch, error);
        };
        let (first, second) = batch.records.split_at(half);
        self.give(split, &Batch { records: first, ..*batch }, sink)?;
        let offset = batch.offset + half as u64;
        self.give(split, &Batch { records: second, offset, ..*batch }, sink)
    }

    /// What was left out.
    pub(super) fn into_skipped(self) -> Vec<Skipped> {
        self.skipped
    }

    fn call_held(&mut self, records: &[u8]) -> Result<(), TaskError> {
        let Mapper { guest, held, ends, limit, .. } = self;
        held.clear();
        ends.clear();
        guest.call("map", records, &mut |frame| {
            if held.len() + frame.len() > *limit {
                return Err(error::held_too_long(*limit));
            }
            held.extend_from_slice(frame);
            ends.push(held.len());
            Ok(())
        })
    }

    fn send_held(&mut self, sink: &mut Sink<'_>) -> Result<(), TaskError> {
        let mut start = 0;
        self.ends
            .iter()
            .try_for_each(|&end| sink(&self.held[std::mem::replace(&mut start, end)..end]))
    }

    fn skip(
        &mut self,
        split: &Split,
        batch: &Batch<'_>,
        error: TaskError,
    ) -> Result<(), TaskError> {
        if !error.is_trap() || self.skipped.len() == self.config.max_bad_records as usize {
            return Err(error);
        }
        let shown = &batch.records[..batch.records.len().min(RECORD_SHOWN)];
        self.skipped.push(Skipped {
            split: split.name,
            offset: batch.offset,
            record: String::from_utf8_lossy(shown).into_owned(),
            message: error.to_string().chars().take(MESSAGE_SHOWN).collect(),
        });
        Ok(())
    }
}

/// Whether a call emitted more than is held: fewer records emit less.
fn is_over(error: &TaskError) -> bool {
    matches!(error, TaskError::Failed { code: error::HELD_TOO_LONG, .. })
}

/// Where whole `records` can be cut in two, near the middle; none when there is only one.
fn halve(kind: RecordKind, records: &[u8]) -> Option<usize> {
    let middle = records.len() / 2;
    let mut scanner = Scanner::new(kind);
    let (first, second) = records.split_at(middle);
    scanner.last_end(first).or_else(|| {
        scanner.pass(first);
        let end = middle + scanner.next_end(second)?;
        (end < records.len()).then_some(end)
    })
}

/// `output`, a file's name, and beside it what was left out.
pub(super) fn with_skipped(file: &FileRef, skipped: &[Skipped]) -> Payload {
    let mut output = serde_json::to_value(file).expect("a file's name encodes");
    if !skipped.is_empty() {
        output[KEY] = serde_json::to_value(skipped).expect("a list of texts and numbers encodes");
    }
    Payload::Inline(output.to_string().into())
}

/// What the outputs that make the result say was left out.
pub(super) fn listed(outputs: &[(TaskId, Payload)]) -> Vec<Value> {
    let lists = outputs.iter().filter_map(|(_, output)| match output {
        Payload::Inline(text) => serde_json::from_slice::<Value>(text).ok(),
        Payload::File(_) => None,
    });
    let skipped = lists.filter_map(|mut output| match output.get_mut(KEY)?.take() {
        Value::Array(skipped) => Some(skipped),
        _ => None,
    });
    skipped.flatten().collect()
}

/// Whether a whole job may leave out so many. No task looks at more than its own, so this is asked
/// wherever all of them come together first: by the first reducer, or of a job without one when its
/// result is put together.
pub(super) fn check(most: u32, found: usize) -> Result<(), TaskError> {
    if found > most as usize { Err(error::too_many_bad(found, most)) } else { Ok(()) }
}

/// What is to be said of a job's outputs in its report: what was left out, if anything.
pub(super) fn remarks(outputs: &[(TaskId, Payload)]) -> serde_json::Map<String, Value> {
    let skipped = listed(outputs);
    if skipped.is_empty() {
        return serde_json::Map::new();
    }
    serde_json::Map::from_iter([(KEY.to_owned(), Value::Array(skipped))])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_are_halved_between_two_of_them() {
        let lines = RecordKind::Lines;
        assert_eq!(halve(lines, b"a\nb\nc\nd\n"), Some(4));
        assert_eq!(halve(lines, b"a\nlong long\n"), Some(2));
        assert_eq!(halve(lines, b"long long\na\n"), Some(10));
        assert_eq!(halve(lines, b"long long\na"), Some(10));
        assert_eq!(halve(lines, b"one\n"), None);
        assert_eq!(halve(lines, b"x"), None);
        assert_eq!(halve(RecordKind::Csv, b"\"a\nb\nc\nd\"\n"), None);
        assert_eq!(halve(RecordKind::Fixed(3), b"abcdefghi"), Some(3));
    }
}
