//! What came of a guest's last fetch, kept until the next for the guest to read.

use bytes::Bytes;

use super::room::Share;
use crate::fetch::Fetched;

/// A response or an error, as guests read it.
#[derive(Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    body: Bytes,
    /// The node's memory that it takes.
    _taken: Option<Share>,
}

impl Answer {
    /// What was `fetched`, in memory of which as much was `taken` as it could have been.
    pub(super) fn of(fetched: Fetched, mut taken: Share) -> Answer {
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
