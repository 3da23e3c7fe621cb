//! What came of a guest's last fetch, kept until the next for the guest to read.

use bytes::Bytes;

use crate::fetch::Fetched;

/// A response or an error, as guests read it.
#[derive(Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    body: Bytes,
}

impl Answer {
    pub(super) fn of(fetched: Fetched) -> Answer {
        match fetched {
            Ok(response) => Answer { head: response.head(), body: response.body },
            Err(error) => Answer { head: error.to_json(), body: Bytes::new() },
        }
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
