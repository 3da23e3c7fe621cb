//! What is given to a job while it runs, of kinds that have a [`Course`](crate::kind::Course).
//!
//! A gift is taken when the journal holds it, and its giver hears that then. One that has a key is taken once: its
//! giver, who may have lost the answer, gives it again until it hears. The keys are in the journal with the gifts, so
//! that a controller's death changes nothing of that.

use std::collections::{HashMap, VecDeque};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::faults::Fault;
use super::finish::Finish;
use super::limits::GIFT_KEYS_LIMIT;
use super::state::{TaskState, Timer};
use super::types::{Action, Record};
use crate::ids::TaskId;
use crate::kind::Step;
use crate::message::Payload;

/// What its giver knows a gift by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GiftKey(Arc<str>);

/// A text that is no key of a gift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a gift's key has 1 to {limit} bytes; this one has {bytes}", limit = GiftKey::LIMIT)]
pub struct BadGiftKey {
    bytes: usize,
}

impl GiftKey {
    /// The longest, in bytes: three UUIDs.
    pub const LIMIT: usize = 128;
}

impl FromStr for GiftKey {
    type Err = BadGiftKey;

    fn from_str(text: &str) -> Result<Self, BadGiftKey> {
        match text.len() {
            1..=GiftKey::LIMIT => Ok(GiftKey(text.into())),
            bytes => Err(BadGiftKey { bytes }),
        }
    }
}

impl TryFrom<String> for GiftKey {
    type Error = BadGiftKey;

    fn try_from(text: String) -> Result<Self, BadGiftKey> {
        text.parse()
    }
}

impl From<GiftKey> for String {
    fn from(key: GiftKey) -> String {
        key.0.as_ref().to_owned()
    }
}

/// What was given to a job.
#[derive(Default)]
pub(super) struct Gifts {
    /// What the journal does not hold yet, in its order.
    coming: VecDeque<Coming>,
    taken: Taken,
    is_closing: bool,
}

struct Coming {
    key: Option<GiftKey>,
    items: Bytes,
    /// Who waits to hear of it: several, when it was repeated.
    tickets: Vec<u64>,
}

/// Gifts that were taken, by their keys: how many items the job had before each.
#[derive(Default)]
struct Taken {
    firsts: HashMap<GiftKey, u64>,
    /// In the order of the journal, so that each engine of the job forgets the same.
    order: VecDeque<GiftKey>,
}

impl Taken {
    fn note(&mut self, key: GiftKey, first: u64) {
        self.firsts.insert(key.clone(), first);
        self.order.push_back(key);
        if self.order.len() > GIFT_KEYS_LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.firsts.remove(&oldest);
        }
    }
}

impl Engine {
    /// How many items the job had before it took the gift with this key; none, when it took none.
    #[must_use]
    pub fn gift(&self, key: &GiftKey) -> Option<u64> {
        self.ahead.as_ref()?.gifts.taken.firsts.get(key).copied()
    }

    /// The submitter gives more to do; `payload` is how the journal keeps it.
    pub(super) fn on_give(
        &mut self,
        ticket: u64,
        key: Option<GiftKey>,
        payload: Payload,
        items: Bytes,
    ) {
        if let Some(key) = &key
            && self.is_repeated(ticket, key)
        {
            return;
        }
        let is_working = matches!(self.finish, Finish::Working);
        let Some(ahead) = &mut self.ahead else {
            return self.refuse_gift(ticket, "jobs of this kind take nothing while they run");
        };
        if !is_working || ahead.gifts.is_closing || !ahead.course.is_open() {
            return self.refuse_gift(ticket, "it takes nothing more");
        }
        if let Err(why) = ahead.course.check(&items) {
            return self.refuse_gift(ticket, &why);
        }
        ahead.gifts.coming.push_back(Coming { key: key.clone(), items, tickets: vec![ticket] });
        self.append(Record::Given { items: payload, key });
    }

    /// Whether a gift with this key is there, or on its way: who gives it again hears of that one.
    fn is_repeated(&mut self, ticket: u64, key: &GiftKey) -> bool {
        if self.planted.has(Fault::TakesGiftsTwice) {
            return false;
        }
        if let Some(first) = self.gift(key) {
            self.outbox.actions.push(Action::Given { ticket, first: Ok(first) });
            return true;
        }
        let coming = self.ahead.iter_mut().flat_map(|ahead| &mut ahead.gifts.coming);
        let before = coming.into_iter().find(|gift| gift.key.as_ref() == Some(key));
        before.map(|gift| gift.tickets.push(ticket)).is_some()
    }

    fn refuse_gift(&mut self, ticket: u64, why: &str) {
        self.outbox.actions.push(Action::Given { ticket, first: Err(why.to_owned()) });
    }

    /// The submitter gives no more.
    pub(super) fn on_close(&mut self) {
        let is_working = matches!(self.finish, Finish::Working);
        let Some(ahead) = self.ahead.as_mut().filter(|ahead| ahead.course.is_open()) else {
            return;
        };
        if is_working && !std::mem::replace(&mut ahead.gifts.is_closing, true) {
            self.append(Record::Closed);
        }
    }

    /// An open job that was given nothing for long is closed.
    pub(super) fn look_at_idle(&mut self) {
        if !self.is_open() {
            return;
        }
        let due = self.progress_at + self.plan.limits.idle;
        let is_busy = self.tasks.iter().rev().any(|task| task.state != TaskState::Committed);
        if self.now < due || is_busy {
            self.timer(due.max(self.now + self.plan.limits.resend_max), Timer::Idle);
        } else {
            self.on_close();
        }
    }

    /// The journal holds that something was given.
    pub(super) fn follow_gift(&mut self, items: &Payload, key: Option<GiftKey>) -> Vec<TaskId> {
        let Some(ahead) = &mut self.ahead else { return Vec::new() };
        let first = ahead.course.items().total;
        if let Some(key) = key {
            ahead.gifts.taken.note(key, first);
        }
        let bytes = match (ahead.gifts.coming.pop_front(), items) {
            (Some(Coming { items, tickets, .. }), _) => {
                let told =
                    tickets.into_iter().map(|ticket| Action::Given { ticket, first: Ok(first) });
                self.outbox.actions.extend(told);
                Some(items)
            }
            (None, Payload::Inline(bytes)) => Some(bytes.clone()),
            (None, Payload::File(file)) => (self.plan.kept)(file),
        };
        match bytes {
            Some(bytes) => self.follow(Step::Given(&bytes), None),
            None => {
                self.lose_way(
                    "what was given to the job cannot be read any more on this node",
                    None,
                );
                Vec::new()
            }
        }
    }

    /// The journal holds that nothing more is given.
    pub(super) fn follow_close(&mut self) -> Vec<TaskId> {
        self.follow(Step::Closed, None)
    }
}
