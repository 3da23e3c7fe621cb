//! What is on its way into the job's journal.
//!
//! A record is appended first and takes effect when the journal holds it ([`Event::Appended`]):
//! nothing that a crash could take back is ever told to a worker or a user. Effects are applied
//! in the order of the records, by the same code that replays a journal after a crash.
//!
//! [`Event::Appended`]: super::Event::Appended

use std::collections::VecDeque;

use super::types::{Action, Record};

/// The records that are not durable yet.
#[derive(Debug, Default)]
pub(super) struct Journal {
    next: u64,
    pending: VecDeque<(u64, Record)>,
}

impl Journal {
    /// A journal that holds `length` records already.
    pub(super) fn after(length: usize) -> Journal {
        Journal { next: length as u64, pending: VecDeque::new() }
    }

    /// Appends `record`.
    pub(super) fn append(&mut self, record: Record) -> Action {
        let seq = self.next;
        self.next += 1;
        self.pending.push_back((seq, record.clone()));
        Action::Append { seq, record }
    }

    /// The next record that is durable now that `seq` is, in order.
    pub(super) fn durable(&mut self, seq: u64) -> Option<Record> {
        let (first, _) = self.pending.front()?;
        if *first > seq {
            return None;
        }
        self.pending.pop_front().map(|(_, record)| record)
    }
}
