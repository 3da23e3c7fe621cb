//! An interpreter that stays: it serves the items of a job's tasks, one task after the other, on a thread of its
//! own, and ends when it was not needed for a while.
//!
//! Owns the thread and the channels to it. A task's attempt borrows it whole: it hands over each call, takes what
//! is emitted on its own thread, and puts the server back into the node's [`Room`](super::room), which ends it
//! when others need its memory.

use std::fs::File;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvError, SendError, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipdc_jobs::ids::JobId;
use ipdc_jobs::kind::{Call, TaskError};
use ipdc_jobs::manifest::Limits;

use super::calls::{Order, Orders, Source};
use super::command::Command;
use super::room::Room;

/// How long a server waits for more: longer than the pauses of a job that is given items by a program, and short
/// enough that nobody minds its memory.
const IDLE: Duration = Duration::from_secs(10);

/// For whose items a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The job, which says all that the code is given.
    pub(super) job: JobId,
    /// The file of its code.
    pub(super) main: String,
    pub(super) function: String,
}

/// An interpreter that waits for calls.
pub(super) struct Server {
    pub(super) key: Key,
    /// An order is sent when it is taken, and else comes back: the server may end while nobody gives it one.
    orders: SyncSender<Order>,
    said: Receiver<Said>,
    /// What came of taking what was emitted.
    taken: Sender<Result<(), TaskError>>,
    thread: JoinHandle<()>,
}

/// What a server says of the call under way.
enum Said {
    Emitted(Vec<u8>),
    Wrote(String, File),
    Again(Call),
    Ended(Result<(), TaskError>),
}

/// Has a server of `key` follow `orders`, of which `first` is the first: one that waits in `room`, or one that
/// runs what `command` makes for such limits.
pub(super) fn serve<C>(room: &Room, key: &Key, command: &C, first: Order, orders: &mut Orders<'_>)
where
    C: Fn(&Limits) -> Command + Clone + Send + 'static,
{
    let mut next = Some(first);
    while let Some(order) = next.take() {
        let limits = order.attempt.allowance.limits;
        let start = || {
            let command = command.clone();
            Server::start(key.clone(), move || command(&limits))
        };
        let server = room.take(key).unwrap_or_else(start);
        next = server.serve(order, orders);
        if next.is_none() && !server.has_ended() {
            room.keep(server);
        } else {
            server.end();
        }
    }
}

impl Server {
    /// One that runs what `command` makes.
    fn start(key: Key, command: impl FnOnce() -> Command + Send + 'static) -> Server {
        let (orders, ordered) = sync_channel(0);
        let (saying, said) = channel();
        let (taken, answers) = channel();
        let function = key.function.clone();
        let thread = thread::spawn(move || {
            let mut link = Link { ordered, saying, answers };
            if let Some(first) = link.next() {
                command().serve(&function, first, &mut link);
            }
        });
        Server { key, orders, said, taken, thread }
    }

    /// Has it follow `order`, and those that come after. Gives back the one that it did not take, for it had just
    /// ended.
    fn serve(&self, mut order: Order, orders: &mut Orders<'_>) -> Option<Order> {
        loop {
            if let Err(SendError(order)) = self.orders.send(order) {
                return Some(order);
            }
            match self.follow(orders) {
                Ok(Some(next)) => order = next,
                // If it broke off, its panic is passed on when it is ended.
                Ok(None) | Err(RecvError) => return None,
            }
        }
    }

    /// Passes on what it says of a call until that has ended; the order after it.
    fn follow(&self, orders: &mut Orders<'_>) -> Result<Option<Order>, RecvError> {
        loop {
            match self.said.recv()? {
                Said::Emitted(frame) => {
                    // Whether it hears that shows in what it says next.
                    let _ = self.taken.send(orders.emit(&frame));
                }
                Said::Wrote(name, file) => {
                    let _ = self.taken.send(orders.file(name, file));
                }
                Said::Again(call) => return Ok(orders.again(call)),
                Said::Ended(ended) => {
                    orders.ended(ended);
                    return Ok(orders.next());
                }
            }
        }
    }

    /// Whether it has ended, which it does when it waited for long.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it, and waits until what it had is given back: it waits for calls, so that is soon.
    pub(super) fn end(self) {
        drop(self.orders);
        if let Err(panic) = self.thread.join() {
            resume_unwind(panic);
        }
    }
}

/// The server's end of its channels.
struct Link {
    ordered: Receiver<Order>,
    saying: Sender<Said>,
    answers: Receiver<Result<(), TaskError>>,
}

impl Link {
    /// Nobody listens when the attempt broke off.
    fn say(&self, said: Said) -> Result<(), TaskError> {
        self.saying.send(said).map_err(|_| TaskError::Stopped)
    }
}

impl Source for Link {
    fn next(&mut self) -> Option<Order> {
        self.ordered.recv_timeout(IDLE).ok()
    }

    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        self.say(Said::Emitted(frame.to_vec()))?;
        self.answers.recv().unwrap_or(Err(TaskError::Stopped))
    }

    fn file(&mut self, name: String, file: File) -> Result<(), TaskError> {
        self.say(Said::Wrote(name, file))?;
        self.answers.recv().unwrap_or(Err(TaskError::Stopped))
    }

    fn again(&mut self, call: Call) -> Option<Order> {
        self.say(Said::Again(call)).ok()?;
        self.ordered.recv().ok()
    }

    fn ended(&mut self, ended: Result<(), TaskError>) {
        let _ = self.say(Said::Ended(ended));
    }
}
