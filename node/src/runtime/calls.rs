//! How calls reach a guest, and how what comes of them leaves it.

use std::fs::File;

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Call, Calls, Given, ReadAt, TaskError};
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::Counters;
use tokio_util::sync::CancellationToken;

use super::imports::Sink;
use super::{Allowance, Listener};

/// Where a guest's calls are from. As [`Calls`], which says more.
pub(super) trait Source {
    /// The next call.
    fn next(&mut self) -> Option<Order>;
    /// Records that the call under way emits.
    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError>;
    /// A file that the call under way wrote, to be read from its beginning.
    fn file(&mut self, name: String, file: File) -> Result<(), TaskError>;
    /// The call under way, which this is, is made again; none, where that cannot be.
    fn again(&mut self, call: Call) -> Option<Order>;
    /// The call under way has ended.
    fn ended(&mut self, ended: Result<(), TaskError>);
}

/// A call, and for whom it is.
pub(super) struct Order {
    pub(super) call: Call,
    pub(super) attempt: Attempt,
}

/// For whom a guest works: what it may take, and who hears it.
pub struct Attempt {
    /// Its limits, and what is left of its time.
    pub allowance: Allowance,
    /// Who hears what a guest says.
    pub listener: Box<dyn Listener>,
}

impl Attempt {
    /// Of a guest that waits for its first call.
    pub(super) fn none(limits: &Limits) -> Self {
        let allowance = Allowance::new(limits, CancellationToken::new());
        Attempt { allowance, listener: Box::new(Nobody) }
    }
}

/// Who hears a guest that waits for a call.
pub(super) struct Nobody;

impl Listener for Nobody {
    fn open(&mut self, _: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        Err(TaskError::Stopped)
    }

    fn log(&mut self, _: &str) {}

    fn progress(&mut self, _: u64, _: u64) {}

    fn count(&mut self, _: Counters) -> bool {
        true
    }
}

/// Calls of one attempt.
pub(super) struct Orders<'a> {
    pub(super) calls: &'a mut dyn Calls,
    pub(super) attempts: &'a dyn Fn(&Call) -> Attempt,
}

impl Orders<'_> {
    /// Has `serve` make each call, to a guest of its own that may read what is `given` to all and the call's file.
    pub(super) fn each_alone(
        &mut self,
        given: &Given,
        serve: impl Fn(Attempt, Given, &Call, &mut Self) -> Result<(), TaskError>,
    ) {
        while let Some(Order { call, attempt }) = self.next() {
            let mut given = given.clone();
            given.files.extend(call.file.map(|(name, file)| (name.to_owned(), file)));
            let ended = serve(attempt, given, &call, self);
            self.ended(ended);
        }
    }
}

impl Source for Orders<'_> {
    fn next(&mut self) -> Option<Order> {
        let call = self.calls.next()?;
        Some(Order { attempt: (self.attempts)(&call), call })
    }

    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        self.calls.emit(frame)
    }

    fn file(&mut self, name: String, mut file: File) -> Result<(), TaskError> {
        self.calls.file(&name, &mut file)
    }

    fn again(&mut self, call: Call) -> Option<Order> {
        self.calls.again();
        Some(Order { attempt: (self.attempts)(&call), call })
    }

    fn ended(&mut self, ended: Result<(), TaskError>) {
        self.calls.ended(ended);
    }
}

/// The one call of a guest that is called directly: how it ended is its own answer.
pub(super) struct Once<'a, 'b>(pub(super) &'a mut Sink<'b>);

impl Source for Once<'_, '_> {
    fn next(&mut self) -> Option<Order> {
        None
    }

    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        (self.0)(frame)
    }

    fn file(&mut self, _: String, _: File) -> Result<(), TaskError> {
        Ok(())
    }

    fn again(&mut self, _: Call) -> Option<Order> {
        None
    }

    fn ended(&mut self, _: Result<(), TaskError>) {}
}
