//! `/dev/ipdc`: where a run asks its host for what WASI has no function for. It writes a request, a
//! line of JSON, and reads the answer, another.
//!
//! Owns what of a request has come and what of an answer was not read yet. A request is answered when
//! its line ends; what was left of the answer before is dropped then. `docs/guest.md` describes the calls.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Errno;
use crate::runtime::answer::Answer;
use crate::runtime::command::{GaveUp, Process};
use crate::runtime::{GuestError, shown};

/// The longest request, in bytes: an error with its cause, a URL with headers, or a hundred log lines.
const REQUEST_LIMIT: usize = 64 << 10;

/// What can be asked.
#[derive(Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
enum Call {
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

/// The device, as one run has it.
#[derive(Default)]
pub(in crate::runtime) struct Device {
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Whether the body of the last fetch belongs to the answer.
    has_body: bool,
    /// Bytes of the answer that were read, the body among them.
    given: usize,
}

impl Device {
    /// Takes bytes of a request; all of it, when it is whole.
    fn take(&mut self, part: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        if self.request.len() + part.len() > REQUEST_LIMIT {
            self.request.clear();
            return Err(Errno::TooLong);
        }
        self.request.extend_from_slice(part);
        Ok(part.ends_with(b"\n").then(|| std::mem::take(&mut self.request)))
    }

    /// Bytes of the answer into `room`; none when it was read to its end.
    pub(super) fn read(&mut self, room: &mut [u8], fetched: &Answer) -> usize {
        let rest = match self.answer.get(self.given..) {
            Some(rest) if !rest.is_empty() => rest,
            _ if self.has_body => fetched.body((self.given - self.answer.len()) as u64),
            _ => &[],
        };
        let read = rest.len().min(room.len());
        room[..read].copy_from_slice(&rest[..read]);
        self.given += read;
        read
    }
}

/// Takes bytes of requests that `process` writes, and does what those ask that are whole.
pub(in crate::runtime) fn ask(process: &mut Process, bytes: &[u8]) -> Result<(), wasmtime::Error> {
    for part in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(request) = process.world.device.take(part)? else { continue };
        let call = serde_json::from_slice(&request);
        let has_body = matches!(call, Ok(Call::Fetch { .. }));
        let done = match call {
            Ok(call) => answer(call, process)?,
            Err(error) => Err(format!("this is no request: {error}")),
        };
        let has_body = has_body && done.is_ok();
        let answer = match done {
            Ok(ok) => format!("{{\"ok\":{ok}}}\n"),
            Err(error) => format!("{}\n", json!({ "error": error })),
        };
        let request = std::mem::take(&mut process.world.device.request);
        process.world.device = Device { request, answer: answer.into(), has_body, given: 0 };
    }
    Ok(())
}

/// Does what is asked: the answer, as JSON, or why not. An error ends the run.
fn answer(call: Call, process: &mut Process) -> Result<Result<String, String>, wasmtime::Error> {
    let Process { state, .. } = process;
    let refused = |error: GuestError| error.to_string();
    let done = match call {
        Call::Log { text } => {
            state.outlet.log(text.as_bytes());
            Ok(())
        }
        Call::Progress { done, total } => {
            state.outlet.listener.progress(done, total);
            Ok(())
        }
        Call::Count { name, by } => state.outlet.count(name.as_bytes(), by).map_err(refused),
        Call::Enqueue { item } => state.enqueue(item.as_bytes()).map_err(refused),
        Call::Fetch { .. } if state.side.rules().is_none() => Err(refused(GuestError::NoFetch)),
        Call::Fetch { request } => {
            state.fetch(request.to_string().as_bytes())?;
            return Ok(Ok(String::from_utf8_lossy(state.answer.head()).into_owned()));
        }
        Call::Next { error } => {
            let next = process.next(error.as_deref())?;
            process.state.check()?;
            let text = |input: Bytes| json!(String::from_utf8_lossy(&input));
            return Ok(Ok(next.map_or(Value::Null, text).to_string()));
        }
        Call::Fail { message } => return Err(GaveUp(shown(&message)).into()),
    };
    Ok(done.map(|()| Value::Null.to_string()))
}
