//! What becomes of the values of one key: nothing, a built-in, or the user's code.
//!
//! Records come in key order. User code gets one key group a call, packed as
//! `[klen u32][nvalues u32][key]([vlen u32][value])*`, lengths little-endian; a command gets many
//! ([`command`](super::command)).

use crate::kind::{Form, Guest, TaskError};

use super::builtin::Fold;
use super::command::CommandGroups;
use super::error;
use crate::record::Records;

/// Takes the records that come out, in order.
pub(super) type Emit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), TaskError> + 'a;

/// Turns sorted records into what becomes of each key's.
pub(super) struct Grouper {
    how: How,
    /// The key whose values come now.
    key: Vec<u8>,
    open: bool,
}

/// What is done with a key's values.
pub(super) enum How {
    /// They pass, each by itself.
    Pass,
    /// A built-in folds them into one.
    Fold(Fold),
    /// User code makes of them what it likes.
    Guest(GuestGroup),
}

/// User code and what it is called with next.
pub(super) enum GuestGroup {
    /// A function gets one group a call.
    Function(FunctionGroup),
    /// A command gets many a run.
    Command(CommandGroups),
}

/// A function of the user's and the group it is called with next.
pub(super) struct FunctionGroup {
    guest: Box<dyn Guest>,
    function: Function,
    /// `[vlen u32][value]…`; the header is put before it when it is called.
    values: Vec<u8>,
    count: u32,
    packed: Vec<u8>,
    /// Bytes that a group may have.
    limit: usize,
}

/// The exports that take a key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// Emits under the group's key only: what it gives is sorted and partitioned already.
    Combine,
    /// May emit any key.
    Reduce,
}

impl Function {
    pub(super) fn name(self) -> &'static str {
        match self {
            Function::Combine => "combine",
            Function::Reduce => "reduce",
        }
    }
}

impl GuestGroup {
    /// Calls of `guest`, with groups of at most `limit` bytes.
    pub(super) fn new(guest: Box<dyn Guest>, function: Function, limit: usize) -> Self {
        match guest.form() {
            Form::Functions => GuestGroup::Function(FunctionGroup {
                guest,
                function,
                values: Vec::new(),
                count: 0,
                packed: Vec::new(),
                limit,
            }),
            Form::Command => GuestGroup::Command(CommandGroups::new(guest, function, limit)),
        }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        match self {
            GuestGroup::Function(group) => group.add(key, value),
            GuestGroup::Command(groups) => groups.add(key, value),
        }
    }

    fn end_group(&mut self, key: &[u8], emit: &mut Emit<'_>) -> Result<(), TaskError> {
        match self {
            GuestGroup::Function(group) => group.end(key, emit),
            GuestGroup::Command(groups) => groups.end_group(emit),
        }
    }

    fn end(&mut self, emit: &mut Emit<'_>) -> Result<(), TaskError> {
        match self {
            GuestGroup::Function(_) => Ok(()),
            GuestGroup::Command(groups) => groups.end(emit),
        }
    }
}

impl FunctionGroup {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        if self.values.len() + value.len() + 4 > self.limit {
            return Err(error::group_too_large(key, self.limit));
        }
        self.values.extend_from_slice(&length(value).to_le_bytes());
        self.values.extend_from_slice(value);
        self.count += 1;
        Ok(())
    }

    fn end(&mut self, key: &[u8], emit: &mut Emit<'_>) -> Result<(), TaskError> {
        let packed = &mut self.packed;
        packed.clear();
        packed.extend_from_slice(&length(key).to_le_bytes());
        packed.extend_from_slice(&std::mem::take(&mut self.count).to_le_bytes());
        packed.extend_from_slice(key);
        packed.append(&mut self.values);
        let function = self.function;
        self.guest.call(function.name(), packed, &mut |frame| {
            for record in Records::new(frame) {
                let (emitted, value) = record?;
                if function == Function::Combine && emitted != key {
                    return Err(error::foreign_key(key, emitted));
                }
                emit(emitted, value)?;
            }
            Ok(())
        })
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a record has at most RECORD_LIMIT bytes")
}

impl Grouper {
    pub(super) fn new(how: How) -> Self {
        Grouper { how, key: Vec::new(), open: false }
    }

    /// Takes the next record; a new key ends the group before it.
    #[inline]
    pub(super) fn add(
        &mut self,
        key: &[u8],
        value: &[u8],
        emit: &mut Emit<'_>,
    ) -> Result<(), TaskError> {
        if matches!(self.how, How::Pass) {
            return emit(key, value);
        }
        if !self.open || self.key != key {
            self.end_group(emit)?;
            self.key.clear();
            self.key.extend_from_slice(key);
            self.open = true;
        }
        match &mut self.how {
            How::Pass => Ok(()),
            How::Fold(fold) => fold.add(key, value),
            How::Guest(group) => group.add(key, value),
        }
    }

    /// Ends the last group; after it others may come, in an order of their own.
    pub(super) fn end(&mut self, emit: &mut Emit<'_>) -> Result<(), TaskError> {
        self.end_group(emit)?;
        match &mut self.how {
            How::Pass | How::Fold(_) => Ok(()),
            How::Guest(group) => group.end(emit),
        }
    }

    fn end_group(&mut self, emit: &mut Emit<'_>) -> Result<(), TaskError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        match &mut self.how {
            How::Pass => Ok(()),
            How::Fold(fold) => fold.end(&self.key, |value| emit(&self.key, value)),
            How::Guest(group) => group.end_group(&self.key, emit),
        }
    }
}
