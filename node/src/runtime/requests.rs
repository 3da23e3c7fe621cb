//! What programs ask their host that WASI has no function for: requests, a line of JSON each, and their answers,
//! another. Wasm commands ask by `/dev/ipdc`, native programs by a descriptor. `docs/guest.md` describes them.

use ipdc_jobs::kind::Given;
use serde::Deserialize;
use serde_json::{Value, json};

use super::imports::Outlet;
use super::{GuestError, shown};

/// The longest request, in bytes: an error with its cause, a URL with headers, or a hundred log lines.
pub(super) const REQUEST_LIMIT: usize = 64 << 10;

/// What can be asked.
#[derive(Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Adds lines to the log.
    Log { text: String },
    /// How far it is.
    Progress { done: u64, total: u64 },
    /// Adds to a counter.
    Count { name: String, by: u64 },
    /// Names an item for the job.
    Enqueue { item: String },
    /// Fetches from the network. The body follows the line of the answer.
    Fetch { request: Value },
    /// What it was run for has ended; the input of the next call.
    Next { error: Option<String> },
    /// Ends the run: it cannot go on, and says why.
    Fail { message: String },
}

/// What became of a request.
pub(super) enum Told {
    /// It was done, or refused with these words.
    Done(Result<(), String>),
    /// The run ends.
    GaveUp(String),
    /// More than an outlet is needed for it.
    Other(Request),
}

impl Request {
    /// Does what needs no more than a way out, and refuses what who was `given` this may not.
    pub(super) fn tell(self, outlet: &mut Outlet, given: &Given) -> Told {
        match self {
            Request::Enqueue { item } => {
                let named = outlet.enqueue(given.enqueue, item.as_bytes());
                Told::Done(named.map_err(|error| error.to_string()))
            }
            Request::Fetch { .. } if given.fetch.is_none() => {
                Told::Done(Err(GuestError::NoFetch.to_string()))
            }
            Request::Log { text } => {
                outlet.log(text.as_bytes());
                Told::Done(Ok(()))
            }
            Request::Progress { done, total } => {
                outlet.listener.progress(done, total);
                Told::Done(Ok(()))
            }
            Request::Count { name, by } => {
                let counted = outlet.count(name.as_bytes(), by);
                Told::Done(counted.map_err(|error| error.to_string()))
            }
            Request::Fail { message } => Told::GaveUp(shown(&message)),
            other => Told::Other(other),
        }
    }
}

/// A request that is coming.
#[derive(Default)]
pub(super) struct Requests {
    begun: Vec<u8>,
}

/// A request has more than [`REQUEST_LIMIT`] bytes.
#[derive(Debug)]
pub(super) struct TooLong;

impl Requests {
    /// Takes bytes up to the end of a line at most; the request, or what is wrong with it, when they are its end.
    pub(super) fn take(&mut self, part: &[u8]) -> Result<Option<Result<Request, String>>, TooLong> {
        if self.begun.len() + part.len() > REQUEST_LIMIT {
            self.begun.clear();
            return Err(TooLong);
        }
        self.begun.extend_from_slice(part);
        if !part.ends_with(b"\n") {
            return Ok(None);
        }
        let request = serde_json::from_slice(&self.begun);
        self.begun.clear();
        Ok(Some(request.map_err(|error| format!("this is no request: {error}"))))
    }
}

/// The line that answers a request: with this JSON, or with why not.
pub(super) fn answer(done: Result<String, String>) -> Vec<u8> {
    match done {
        Ok(ok) => format!("{{\"ok\":{ok}}}\n"),
        Err(error) => format!("{}\n", json!({ "error": error })),
    }
    .into()
}

/// What a request is answered with that asks for nothing.
pub(super) fn nothing() -> String {
    Value::Null.to_string()
}
