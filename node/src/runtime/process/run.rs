//! One program as a guest: each call is a run of it, with the call's input on stdin.
//!
//! What it writes goes on as it comes; nothing of it is held but one line. Its stdin is written as far as it reads,
//! so neither waits for the other for ever. Each wait ends when the run's time is up or its attempt is stopped.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Form, Given, Guest, TaskError};
use ipdc_jobs::message::FailureClass;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

use super::Trouble;
use super::group::Events;
use super::launcher::Launcher;
use super::order::{Answer, End, Order};
use super::pool::Processes;
use super::root::WORK;
use crate::runtime::allowance::Allowance;
use crate::runtime::imports::{Outlet, Sink};
use crate::runtime::instance::no_room;
use crate::runtime::lines::{Lines, Words};
use crate::runtime::{GuestError, Listener};

/// How often it is looked whether the attempt was stopped.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes that are taken from a pipe in one piece: as many as it holds.
const PIECE: usize = 64 << 10;

/// Where programs are looked for by name.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program, ready to run.
pub(super) struct Run {
    processes: Processes,
    program: FileRef,
    /// Which attempt it is of.
    tenant: u64,
    allowance: Allowance,
    outlet: Outlet,
    given: Given,
}

impl Run {
    pub(super) fn new(
        processes: Processes,
        (program, tenant): (FileRef, u64),
        allowance: Allowance,
        listener: Box<dyn Listener>,
        given: Given,
    ) -> Self {
        Run { processes, program, tenant, allowance, outlet: Outlet::new(listener), given }
    }

    /// Runs the program once. Its launcher is kept for the next when all went as it should.
    fn run(&mut self, function: &str, input: &[u8]) -> Result<(), TaskError> {
        let limits = self.allowance.limits;
        let mut launcher = self.processes.take(self.tenant, &self.program)?;
        launcher.lay(&self.program, &self.given.files, self.outlet.listener.as_mut())?;
        launcher.limit_memory(limits.memory)?;
        let order = Order {
            arguments: vec![function.to_owned()],
            variables: self.variables(),
            file_size: limits.output,
            fresh: (!launcher.is_of(self.tenant)).then_some(limits.memory),
        };
        let before = launcher.events();
        let until = Instant::now() + self.allowance.left();
        let pipes = Pipes::open(&mut launcher, self.tenant, &order)?;
        let mut stderr = Words::default();
        let answer = self.attend(&launcher, pipes, input, until, &mut stderr);
        self.allowance.set_left(until.saturating_duration_since(Instant::now()));
        stderr.end(&mut self.outlet);
        // A launcher whose program did not end, or that ended itself, is dropped, and with it all that it had.
        let answer = answer?;
        let judged = self.judge(&answer, before, launcher.events());
        if matches!(answer, Answer::Ended(_) | Answer::NotStarted(_)) {
            self.processes.give_back(launcher);
        }
        judged.map_err(|error| match error {
            TaskError::Failed { class: FailureClass::Guest, code, message } => {
                let message = format!("{message}{}", stderr.last());
                TaskError::Failed { class: FailureClass::Guest, code, message }
            }
            other => other,
        })
    }

    /// What the end of a run means, with what happened in its control group `before` it and until `now`.
    fn judge(&self, answer: &Answer, before: Events, now: Events) -> Result<(), TaskError> {
        let memory = self.allowance.limits.memory;
        let error = match answer {
            Answer::Ended(End::Code(0)) => return Ok(()),
            Answer::NotStarted(number) => return Err(not_started(&explain(*number))),
            // Also when that was the end of the launcher.
            _ if now.kills > before.kills && now.full > before.full => GuestError::Memory(memory),
            _ if now.kills > before.kills => return Err(no_room(memory, self.processes.memory())),
            _ if now.refused > before.refused => GuestError::Tasks,
            Answer::Ended(End::Code(code)) => GuestError::Exit(*code as u32),
            Answer::Ended(End::Signal(signal)) => GuestError::Signal(*signal),
            Answer::Failed(why) => return Err(Trouble::new(why).into()),
            Answer::Ready => return Err(Trouble::new("its launcher began anew").into()),
        };
        Err(error.into())
    }

    /// Its environment: nothing of the node's.
    fn variables(&self) -> Vec<(String, String)> {
        let params = String::from_utf8_lossy(&self.given.params);
        let all = [
            ("PATH", PATH),
            ("HOME", WORK),
            ("LANG", "C.UTF-8"),
            ("IPDC_PARAMS", &params),
            ("IPDC_INPUT", &self.given.input),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Gives it `input` and takes what it writes, until it ended.
    fn attend(
        &mut self,
        launcher: &Launcher,
        mut pipes: Pipes,
        mut input: &[u8],
        until: Instant,
        stderr: &mut Words,
    ) -> Result<Answer, TaskError> {
        let (mut stdout, mut ended) = (Lines::default(), None);
        let mut room = vec![0; PIECE];
        while ended.is_none() || pipes.has_output() {
            if self.allowance.stop.is_cancelled() {
                return Err(TaskError::Stopped);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GuestError::Time(self.allowance.limits.time_ms).into());
            }
            if input.is_empty() || ended.is_some() {
                pipes.stdin = None;
            }
            let ready = pipes.wait(launcher, ended.is_none(), left.min(LOOK))?;
            if ready.stdin
                && let Some(stdin) = &mut pipes.stdin
            {
                match stdin.write(input) {
                    Ok(written) => input = &input[written..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // It need not read all of it.
                    Err(_) => input = &[],
                }
            }
            if ready.stdout
                && let Some(bytes) = take(&mut pipes.stdout, &mut room)?
            {
                stdout.write(bytes, &mut self.outlet)?;
            }
            if ready.stderr
                && let Some(bytes) = take(&mut pipes.stderr, &mut room)?
            {
                stderr.write(bytes, &mut self.outlet);
            }
            if ready.launcher {
                ended = Some(launcher.answer()?);
            }
        }
        // A last line without an end is a line.
        stdout.end(&mut self.outlet)?;
        ended.ok_or(TaskError::Stopped)
    }
}

impl Guest for Run {
    fn call(&mut self, function: &str, input: &[u8], sink: &mut Sink<'_>) -> Result<(), TaskError> {
        self.outlet.open(sink);
        let ran = self.run(function, input);
        self.outlet.close(ran)
    }

    fn form(&self) -> Form {
        Form::Command
    }
}

/// What the number of an error means when a program is started.
fn explain(number: i32) -> String {
    match Errno::from_raw_os_error(number) {
        Errno::NOENT => "this node lacks the interpreter that its first line names, or the loader of its libraries".to_owned(),
        other => io::Error::from(other).to_string(),
    }
}

pub(super) fn not_started(why: &str) -> TaskError {
    TaskError::Failed {
        class: FailureClass::Worker,
        code: "IPDC-5319",
        message: format!("the program cannot be started here: {why}"),
    }
}

/// The node's ends of a run's pipes.
struct Pipes {
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
}

/// What can be done without waiting.
struct Ready {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    launcher: bool,
}

impl Pipes {
    /// Has `launcher` run its program with fresh pipes.
    fn open(launcher: &mut Launcher, tenant: u64, order: &Order) -> Result<Pipes, Trouble> {
        let pipe = || io::pipe().map_err(Trouble::of("a pipe"));
        let ((its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr)) =
            (pipe()?, pipe()?, pipe()?);
        ioctl_fionbio(&stdin, true).map_err(Trouble::of("a pipe"))?;
        let its = [its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()];
        launcher.run(tenant, order, &its)?;
        Ok(Pipes { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) })
    }

    fn has_output(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Waits for something to do, `within` this time; on the launcher, if it `runs` the program.
    fn wait(&self, launcher: &Launcher, runs: bool, within: Duration) -> Result<Ready, Trouble> {
        let socket = launcher.socket();
        let mut waiting = Vec::with_capacity(4);
        let mut add = |there: bool, fd, flags| {
            there.then(|| {
                waiting.push(PollFd::from_borrowed_fd(fd, flags));
                waiting.len() - 1
            })
        };
        let stdin = self.stdin.as_ref().and_then(|pipe| add(true, pipe.as_fd(), PollFlags::OUT));
        let stdout = self.stdout.as_ref().and_then(|pipe| add(true, pipe.as_fd(), PollFlags::IN));
        let stderr = self.stderr.as_ref().and_then(|pipe| add(true, pipe.as_fd(), PollFlags::IN));
        let socket = add(runs, socket, PollFlags::IN);
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
            launcher: is_ready(socket),
        })
    }
}

/// The next bytes of `pipe`, which has some; none, and it is closed, when it is at its end.
fn take<'a>(
    pipe: &mut Option<PipeReader>,
    room: &'a mut [u8],
) -> Result<Option<&'a [u8]>, TaskError> {
    let read = pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(room));
    let read = read.map_err(|error| TaskError::from(Trouble::of("its pipes")(error)))?;
    if read == 0 {
        *pipe = None;
        return Ok(None);
    }
    Ok(Some(&room[..read]))
}
