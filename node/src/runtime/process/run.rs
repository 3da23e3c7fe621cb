//! One program as a guest: each call is a run of it, with the call's input on stdin.
//!
//! What it writes goes on as it comes; nothing of it is held but one line. Its stdin is written as far as it reads,
//! so neither waits for the other for ever. Each wait ends when the run's time is up or its attempt is stopped.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Form, Given, Guest, TaskError};
use ipdc_jobs::message::FailureClass;
use rustix::io::Errno;

use super::Trouble;
use super::group::Events;
use super::launcher::Launcher;
use super::order::{Answer, End, Order};
use super::pipes::{Pipes, Reply};
use super::pool::Processes;
use super::root::WORK;
use crate::runtime::allowance::Allowance;
use crate::runtime::calls::{Once, Source};
use crate::runtime::imports::{Outlet, Sink};
use crate::runtime::instance::no_room;
use crate::runtime::lines::{Lines, Words};
use crate::runtime::requests::{Request, Requests, Told, nothing};
use crate::runtime::room::Room;
use crate::runtime::{Attempt, GuestError, answer};

/// How often it is looked whether the attempt was stopped.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes that are taken from a pipe in one piece: as many as it holds.
const PIECE: usize = 64 << 10;

/// Where programs are looked for by name.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Files by their paths, each to be read from its beginning.
type Files = Vec<(String, File)>;

/// A program, ready to run.
pub(in crate::runtime) struct Run {
    processes: Processes,
    program: FileRef,
    /// Which attempt it is of.
    tenant: u64,
    allowance: Allowance,
    outlet: Outlet,
    given: Given,
    /// The node's memory for what it fetches.
    room: Room,
}

impl Run {
    pub(super) fn new(
        processes: Processes,
        (program, tenant): (FileRef, u64),
        Attempt { allowance, listener }: Attempt,
        given: Given,
        room: Room,
    ) -> Self {
        Run { processes, program, tenant, allowance, outlet: Outlet::new(listener), given, room }
    }

    /// Runs the program for one call; what comes of it goes to `source`.
    pub(in crate::runtime) fn call_for(
        &mut self,
        function: &str,
        input: &[u8],
        source: &mut dyn Source,
    ) -> Result<(), TaskError> {
        self.outlet.open(source);
        let (ended, launcher) = match self.run(function, input) {
            Ok((ended, launcher)) => (ended, launcher),
            Err(error) => (Err(error), None),
        };
        let ended = self.outlet.end(ended);
        self.outlet.close();
        // The files that came of it take of its memory until they are read.
        launcher.into_iter().for_each(|launcher| self.processes.give_back(launcher));
        ended
    }

    /// Runs the program once. How it ended, with the files that it left; and its launcher, when that may serve others.
    fn run(
        &mut self,
        function: &str,
        input: &[u8],
    ) -> Result<(Result<Files, TaskError>, Option<Launcher>), TaskError> {
        let limits = self.allowance.limits;
        let mut launcher = self.processes.take(self.tenant, &self.program)?;
        launcher.lay(&self.program, &self.given.files, self.outlet.listener.as_mut())?;
        launcher.limit_memory(limits.memory)?;
        let order = Order {
            arguments: vec![function.to_owned()],
            variables: self.variables(),
            file_size: limits.output,
            fresh: (!launcher.is_of(self.tenant)).then_some(limits.memory),
            out: self.given.write,
        };
        let before = launcher.events();
        let until = Instant::now() + self.allowance.left();
        let pipes = Pipes::open(&mut launcher, self.tenant, &order)?;
        let (mut stdout, mut stderr) = (Lines::default(), Words::default());
        let both = (&mut stdout, &mut stderr);
        let answer = self.attend(&launcher, pipes, input, until, both);
        self.allowance.set_left(until.saturating_duration_since(Instant::now()));
        stderr.end(&mut self.outlet);
        // A launcher whose program did not end, or that ended itself, is dropped, and with it all that it had.
        let (answer, files) = answer?;
        let judged = self.judge(&answer, before, launcher.events());
        // A last line without an end is a line.
        let judged = judged.and_then(|()| stdout.end(&mut self.outlet));
        let judged = judged.map_err(|error| match error {
            TaskError::Failed { class: FailureClass::Guest, code, message } => {
                let message = format!("{message}{}", stderr.last());
                TaskError::Failed { class: FailureClass::Guest, code, message }
            }
            other => other,
        });
        let serves_on = matches!(answer, Answer::Ended { .. } | Answer::NotStarted(_));
        let ended = judged.and_then(|()| self.left(answer, files));
        Ok((ended, serves_on.then_some(launcher)))
    }

    /// The files that a run left which went well.
    fn left(&self, answer: Answer, files: Vec<OwnedFd>) -> Result<Files, TaskError> {
        let Answer::Ended { out, .. } = answer else { return Ok(Vec::new()) };
        let paths = out.map_err(GuestError::Out)?;
        let files: Files = paths.into_iter().zip(files.into_iter().map(File::from)).collect();
        let sizes = files.iter().map(|(_, file)| file.metadata().map(|found| found.len()));
        let bytes: u64 = sizes.sum::<io::Result<u64>>().map_err(Trouble::of("its files"))?;
        let most = self.allowance.limits.output;
        if bytes > most { Err(GuestError::Output(most).into()) } else { Ok(files) }
    }

    /// What the end of a run means, with what happened in its control group `before` it and until `now`.
    fn judge(&self, answer: &Answer, before: Events, now: Events) -> Result<(), TaskError> {
        let memory = self.allowance.limits.memory;
        let error = match answer {
            Answer::Ended { end: End::Code(0), .. } => return Ok(()),
            Answer::NotStarted(number) => return Err(not_started(&explain(*number))),
            // Also when that was the end of the launcher.
            _ if now.kills > before.kills && now.full > before.full => GuestError::Memory(memory),
            _ if now.kills > before.kills => return Err(no_room(memory, self.processes.memory())),
            _ if now.refused > before.refused => GuestError::Tasks,
            Answer::Ended { end: End::Code(code), .. } => GuestError::Exit(*code as u32),
            Answer::Ended { end: End::Signal(signal), .. } => GuestError::Signal(*signal),
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
            ("IPDC_FD", "3"),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Gives it `input`, takes what it writes and does what it asks, until it ended.
    fn attend(
        &mut self,
        launcher: &Launcher,
        mut pipes: Pipes,
        mut input: &[u8],
        until: Instant,
        (stdout, stderr): (&mut Lines, &mut Words),
    ) -> Result<(Answer, Vec<OwnedFd>), TaskError> {
        let (mut requests, mut ended) = (Requests::default(), None);
        let mut room = vec![0; PIECE];
        loop {
            match ended {
                Some(answer) if pipes.are_closed() => return Ok(answer),
                _ if self.allowance.stop.is_cancelled() => return Err(TaskError::Stopped),
                _ => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GuestError::Time(self.allowance.limits.time_ms).into());
            }
            if input.is_empty() || ended.is_some() {
                pipes.close_stdin();
            }
            let ready = pipes.wait(ended.is_none().then_some(launcher), left.min(LOOK))?;
            if ready.stdin {
                input = pipes.write_stdin(input);
            }
            if ready.stdout {
                stdout.write(pipes.read_stdout(&mut room)?, &mut self.outlet)?;
            }
            if ready.stderr {
                stderr.write(pipes.read_stderr(&mut room)?, &mut self.outlet);
            }
            if ready.asks {
                pipes.serve(&mut requests, &mut room, |request| self.ask(request, until))?;
            }
            if ready.launcher {
                ended = Some(launcher.answer()?);
            }
        }
    }
}

impl Run {
    /// Does what the program asks.
    fn ask(&mut self, request: Request, until: Instant) -> Result<Reply, TaskError> {
        let done = match request.tell(&mut self.outlet, &self.given) {
            Told::Done(done) => done.map(|()| nothing()),
            Told::GaveUp(why) => return Err(GuestError::GaveUp(why).into()),
            Told::Other(Request::Fetch { request }) => {
                let (text, rules) = (request.to_string(), self.given.fetch.as_deref());
                let left = until.saturating_duration_since(Instant::now());
                let listener = self.outlet.listener.as_mut();
                let fetched =
                    answer::Answer::fetch(text.as_bytes(), rules, &self.room, listener, left)?;
                return Ok(Reply::of_fetch(fetched));
            }
            Told::Other(_) => Err("a native program cannot ask that".to_owned()),
        };
        Ok(Reply::new(done))
    }
}

impl Guest for Run {
    fn call(&mut self, function: &str, input: &[u8], sink: &mut Sink<'_>) -> Result<(), TaskError> {
        self.call_for(function, input, &mut Once(sink))
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
