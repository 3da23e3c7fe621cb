//! What came of a guest's last fetch, kept until the next for the guest to read.

use std::time::Duration;

use bytes::Bytes;
use ipdc_jobs::fetch::Rules;
use ipdc_jobs::kind::TaskError;

use super::instance::no_room;
use super::room::{Room, Share};
use super::{GuestError, Listener};
use crate::fetch::{Fetched, Request};

/// A response or an error, as guests read it.
#[derive(Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    body: Bytes,
    /// The node's memory that it takes.
    _taken: Option<Share>,
}

impl Answer {
    /// Has `listener` do what `request`, JSON, asks of the network, `within` this time.
    ///
    /// # Errors
    /// When the job has no `rules` for that, or `room` no memory; else the listener's.
    pub(super) fn fetch(
        request: &[u8],
        rules: Option<&Rules>,
        room: &Room,
        listener: &mut dyn Listener,
        within: Duration,
    ) -> Result<Answer, TaskError> {
        let rules = rules.ok_or(GuestError::NoFetch)?;
        // Its body, as sent and as unpacked.
        let (wanted, mut taken) = (2 * rules.max_body, room.share());
        if !taken.set(wanted) {
            return Err(no_room(wanted, room.total()));
        }
        let fetched = match Request::parse(request) {
            Ok(request) => listener.fetch(&request, within)?,
            Err(error) => Err(error),
        };
        Ok(Answer::of(fetched, taken))
    }

    /// What was `fetched`, in memory of which as much was `taken` as it could have been.
    fn of(fetched: Fetched, mut taken: Share) -> Answer {
        let (head, body) = match fetched {
            Ok(response) => (response.head(), response.body),
            Err(error) => (error.to_json(), Bytes::new()),
        };
        taken.set(body.len() as u64);
        Answer { head, body, _taken: Some(taken) }
    }

    /// One JSON object: a response's head, or `error`. Empty before the first fetch.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// The body from `offset` on.
    pub(super) fn body(&self, offset: u64) -> &[u8] {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        &self.body[start.min(self.body.len())..]
    }
}
