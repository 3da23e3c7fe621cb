//! `/dev/ipdc`: where a run asks its host for what WASI has no function for. It writes a request, a
//! line of JSON, and reads the answer, another.
//!
//! Owns what of a request has come and what of an answer was not read yet. A request is answered when
//! its line ends; what was left of the answer before is dropped then. `docs/guest.md` describes the calls.

use ipdc_jobs::kind::TaskError;
use serde::Deserialize;
use serde_json::json;

use super::Errno;
use crate::runtime::command::GaveUp;
use crate::runtime::imports::Outlet;
use crate::runtime::shown;

/// The longest request, in bytes: an error with its cause, or a hundred log lines.
pub(in crate::runtime) const REQUEST_LIMIT: usize = 64 << 10;

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
    /// Ends the run: it cannot go on, and says why.
    Fail { message: String },
}

/// Why a request has no answer.
pub(in crate::runtime) enum Ended {
    /// It has more than [`REQUEST_LIMIT`] bytes.
    TooLong,
    /// The run cannot go on, and says why.
    GaveUp(String),
}

/// The device, as one run has it.
#[derive(Default)]
pub(in crate::runtime) struct Device {
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Bytes of the answer that were read.
    given: usize,
}

impl Device {
    /// Takes bytes of requests, and does what those ask that are whole.
    pub(in crate::runtime) fn write(
        &mut self,
        bytes: &[u8],
        outlet: &mut Outlet,
    ) -> Result<(), wasmtime::Error> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let answer = self.take(part, outlet).map_err(|ended| match ended {
                Ended::TooLong => wasmtime::Error::from(Errno::TooLong),
                Ended::GaveUp(why) => GaveUp(why).into(),
            })?;
            if let Some(answer) = answer {
                self.answer = answer;
                self.given = 0;
            }
        }
        Ok(())
    }

    /// Takes bytes of one request; the line that answers it, when they are its end.
    pub(in crate::runtime) fn take(
        &mut self,
        part: &[u8],
        outlet: &mut Outlet,
    ) -> Result<Option<Vec<u8>>, Ended> {
        if self.request.len() + part.len() > REQUEST_LIMIT {
            self.request.clear();
            return Err(Ended::TooLong);
        }
        self.request.extend_from_slice(part);
        if !part.ends_with(b"\n") {
            return Ok(None);
        }
        let request = std::mem::take(&mut self.request);
        answer(&request, outlet).map(Some)
    }

    /// Bytes of the answer into `room`; none when it was read to its end.
    pub(super) fn read(&mut self, room: &mut [u8]) -> usize {
        let rest = &self.answer[self.given..];
        let read = rest.len().min(room.len());
        room[..read].copy_from_slice(&rest[..read]);
        self.given += read;
        read
    }
}

/// Does what `request` asks; the line that answers it. An error ends the run.
fn answer(request: &[u8], outlet: &mut Outlet) -> Result<Vec<u8>, Ended> {
    let done = match serde_json::from_slice(request) {
        Ok(Call::Log { text }) => {
            outlet.log(text.as_bytes());
            Ok(())
        }
        Ok(Call::Progress { done, total }) => {
            outlet.listener.progress(done, total);
            Ok(())
        }
        Ok(Call::Count { name, by }) => {
            outlet.count(name.as_bytes(), by).map_err(|error| TaskError::from(error).to_string())
        }
        Ok(Call::Fail { message }) => return Err(Ended::GaveUp(shown(&message))),
        Err(error) => Err(format!("this is no request: {error}")),
    };
    let answer = match done {
        Ok(()) => json!({ "ok": null }),
        Err(error) => json!({ "error": error }),
    };
    Ok(format!("{answer}\n").into_bytes())
}
