//! The node's ends of what a run of a program has open: stdin, stdout, stderr and, as its descriptor 3, a socket on
//! which it asks its host what WASI commands ask by `/dev/ipdc`.
//!
//! Nothing here waits but [`Pipes::wait`], which has a bound.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipdc_jobs::kind::TaskError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

use super::Trouble;
use super::launcher::Launcher;
use super::order::Order;
use crate::runtime::GuestError;
use crate::runtime::answer::Answer;
use crate::runtime::requests::{REQUEST_LIMIT, Request, Requests, TooLong, answer};

/// Each is there until it is closed, by the program or by us.
pub(super) struct Pipes {
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    asks: Option<UnixStream>,
    /// What the program has not taken of the answers. While there is some, nothing more is done for it.
    replies: VecDeque<Reply>,
}

/// What answers a request: a line, and of a fetch the body after it.
pub(super) struct Reply {
    line: Vec<u8>,
    body: Answer,
    /// Bytes that the program took.
    taken: usize,
}

impl Reply {
    pub(super) fn new(done: Result<String, String>) -> Reply {
        Reply { line: answer(done), body: Answer::default(), taken: 0 }
    }

    pub(super) fn of_fetch(body: Answer) -> Reply {
        let head = String::from_utf8_lossy(body.head()).into_owned();
        Reply { body, ..Reply::new(Ok(head)) }
    }

    fn rest(&self) -> &[u8] {
        match self.line.get(self.taken..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.body.body((self.taken - self.line.len()) as u64),
        }
    }
}

/// What can be done without waiting.
pub(super) struct Ready {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) asks: bool,
    pub(super) launcher: bool,
}

impl Pipes {
    /// Has `launcher` run its program for the attempt `tenant`, with fresh pipes.
    pub(super) fn open(
        launcher: &mut Launcher,
        tenant: u64,
        order: &Order,
    ) -> Result<Pipes, Trouble> {
        let pipe = || io::pipe().map_err(Trouble::of("a pipe"));
        let ((its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr)) =
            (pipe()?, pipe()?, pipe()?);
        let (asks, its_asks) = UnixStream::pair().map_err(Trouble::of("a socket"))?;
        ioctl_fionbio(&stdin, true).map_err(Trouble::of("a pipe"))?;
        asks.set_nonblocking(true).map_err(Trouble::of("a socket"))?;
        let its = [its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd(), its_asks.as_fd()];
        launcher.run(tenant, order, &its)?;
        Ok(Pipes {
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            asks: Some(asks),
            replies: VecDeque::new(),
        })
    }

    /// Whether the program can say nothing more.
    pub(super) fn are_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.asks.is_none()
    }

    /// The program gets no more input.
    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Writes as much of `input` as there is room for; the rest of it, of which there is none when the program takes
    /// no more.
    pub(super) fn write_stdin<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        match self.stdin.as_mut().map(|stdin| stdin.write(input)) {
            Some(Ok(written)) => &input[written..],
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => input,
            _ => &[],
        }
    }

    /// The next bytes of stdout, once it is ready; none at its end.
    pub(super) fn read_stdout<'a>(&mut self, room: &'a mut [u8]) -> Result<&'a [u8], Trouble> {
        take(&mut self.stdout, room)
    }

    /// As [`Pipes::read_stdout`].
    pub(super) fn read_stderr<'a>(&mut self, room: &'a mut [u8]) -> Result<&'a [u8], Trouble> {
        take(&mut self.stderr, room)
    }

    /// Has `ask` do what the program asks, and answers it as far as it takes the answers.
    pub(super) fn serve(
        &mut self,
        requests: &mut Requests,
        room: &mut [u8],
        mut ask: impl FnMut(Request) -> Result<Reply, TaskError>,
    ) -> Result<(), TaskError> {
        if self.replies.is_empty() {
            for part in take(&mut self.asks, room)?.split_inclusive(|&byte| byte == b'\n') {
                let taken = requests.take(part);
                let taken = taken.map_err(|TooLong| GuestError::Line(REQUEST_LIMIT))?;
                self.replies.extend(match taken {
                    None => None,
                    Some(Ok(request)) => Some(ask(request)?),
                    Some(Err(wrong)) => Some(Reply::new(Err(wrong))),
                });
            }
        }
        while let (Some(asks), Some(reply)) = (&mut self.asks, self.replies.front_mut()) {
            match asks.write(reply.rest()) {
                Ok(written) => reply.taken += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It does not want to hear them.
                Err(_) => break,
            }
            if reply.rest().is_empty() {
                self.replies.pop_front();
            }
        }
        self.replies.clear();
        Ok(())
    }

    /// Waits for something to do, `within` this time; on the launcher too, if the program still runs.
    pub(super) fn wait(
        &self,
        launcher: Option<&Launcher>,
        within: Duration,
    ) -> Result<Ready, Trouble> {
        let mut waiting = Vec::with_capacity(5);
        let mut add = |fd, flags| {
            waiting.push(PollFd::from_borrowed_fd(fd, flags));
            waiting.len() - 1
        };
        let answering = if self.replies.is_empty() { PollFlags::IN } else { PollFlags::OUT };
        let stdin = self.stdin.as_ref().map(|pipe| add(pipe.as_fd(), PollFlags::OUT));
        let stdout = self.stdout.as_ref().map(|pipe| add(pipe.as_fd(), PollFlags::IN));
        let stderr = self.stderr.as_ref().map(|pipe| add(pipe.as_fd(), PollFlags::IN));
        let asks = self.asks.as_ref().map(|socket| add(socket.as_fd(), answering));
        let launcher = launcher.map(|launcher| add(launcher.socket(), PollFlags::IN));
        let within = Timespec::try_from(within).expect("some milliseconds are one");
        match poll(&mut waiting, Some(&within)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Trouble::of("its pipes")(error)),
        }
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !waiting[at].revents().is_empty());
        Ok(Ready {
            stdin: is_ready(stdin),
            stdout: is_ready(stdout),
            stderr: is_ready(stderr),
            asks: is_ready(asks),
            launcher: is_ready(launcher),
        })
    }
}

/// The next bytes of `from`, which has some; none, and it is closed, when it is at its end.
fn take<'a>(from: &mut Option<impl Read>, room: &'a mut [u8]) -> Result<&'a [u8], Trouble> {
    let read = match from.as_mut().map_or(Ok(0), |from| from.read(room)) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(&[]),
        // The program went away with answers unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        Err(error) => return Err(Trouble::of("its pipes")(error)),
    };
    if read == 0 {
        *from = None;
    }
    Ok(&room[..read])
}
