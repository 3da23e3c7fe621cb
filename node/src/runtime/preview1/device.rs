//! `/dev/ipdc`: where a run writes [requests](crate::runtime::requests) and reads the answers.
//!
//! Owns what of an answer was not read yet. A request is answered when its line ends; what was left of the answer
//! before is dropped then.

use bytes::Bytes;
use serde_json::{Value, json};

use super::Errno;
use crate::runtime::answer::Answer;
use crate::runtime::command::{GaveUp, Process};
use crate::runtime::requests::{Request, Requests, Told, TooLong, answer, nothing};

/// The device, as one run has it.
#[derive(Default)]
pub(in crate::runtime) struct Device {
    requests: Requests,
    answer: Vec<u8>,
    /// Whether the body of the last fetch belongs to the answer.
    has_body: bool,
    /// Bytes of the answer that were read, the body among them.
    given: usize,
}

impl Device {
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
        let taken = process.world.device.requests.take(part);
        let Some(request) = taken.map_err(|TooLong| Errno::TooLong)? else { continue };
        let fetches = matches!(request, Ok(Request::Fetch { .. }));
        let done = match request {
            Ok(request) => serve(request, process)?,
            Err(wrong) => Err(wrong),
        };
        let device = &mut process.world.device;
        (device.has_body, device.given) = (fetches && done.is_ok(), 0);
        device.answer = answer(done);
    }
    Ok(())
}

/// Does what is asked: what answers it, or why not. An error ends the run.
fn serve(
    request: Request,
    process: &mut Process,
) -> Result<Result<String, String>, wasmtime::Error> {
    let Process { state, .. } = process;
    let other = match request.tell(&mut state.outlet, state.side.given()) {
        Told::Done(done) => return Ok(done.map(|()| nothing())),
        Told::GaveUp(why) => return Err(GaveUp(why).into()),
        Told::Other(other) => other,
    };
    match other {
        Request::Fetch { request } => {
            state.fetch(request.to_string().as_bytes())?;
            Ok(Ok(String::from_utf8_lossy(state.answer.head()).into_owned()))
        }
        Request::Next { error } => {
            let next = process.next(error.as_deref())?;
            process.state.check()?;
            let text = |input: Bytes| json!(String::from_utf8_lossy(&input));
            Ok(Ok(next.map_or(Value::Null, text).to_string()))
        }
        _ => Ok(Err("a command cannot ask that".to_owned())),
    }
}
