//! WASI commands: programs that run from `_start` to their end, with their input on stdin and
//! `key<TAB>value` lines on stdout.
//!
//! Each call of the guest is a run of a fresh instance, on the attempt's thread, with the call's
//! input on stdin; where calls are served one after the other, a run may ask for the next when it has
//! answered the last. What it writes goes on as records, line by line, while it runs; nothing of it is
//! held but one line. What it says on stderr is its log.
//!
//! [`preview1`](super::preview1) has the functions that it may import.

use bytes::Bytes;
use ipdc_jobs::kind::{Call, Form, Guest, TaskError};
use wasmtime::{ExternType, InstancePre, Linker, Module, Store};

use super::calls::{Once, Order, Source};
use super::imports::Sink;
use super::instance::{State, explain};
use super::lines::{Lines, Words};
use super::preview1::{self, World};
use super::python::Script;
use super::{GuestError, shown};

/// What a command begins with; a module that exports it is one.
const START: &str = "_start";

/// Whether `module` is a command.
pub(super) fn is_command(module: &Module) -> bool {
    module.get_export(START).is_some()
}

/// `module` with what it imports, if it is a command that the sandbox can run.
pub(super) fn linked(module: &Module) -> Result<InstancePre<Process>, GuestError> {
    check(module)?;
    let mut linker = Linker::new(module.engine());
    let linked = preview1::link(&mut linker, module);
    let linked = linked.and_then(|()| linker.instantiate_pre(module));
    linked.map_err(|error| GuestError::ImportType(shown(&format!("{error:#}"))))
}

fn check(module: &Module) -> Result<(), GuestError> {
    preview1::check_imports(module)?;
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(GuestError::Export("its memory as `memory`".to_owned()));
    }
    match module.get_export(START) {
        Some(ExternType::Func(f)) if f.params().len() + f.results().len() == 0 => Ok(()),
        _ => Err(GuestError::Export(format!("`{START}()`"))),
    }
}

/// A command, ready to run.
pub(super) struct Command {
    program: InstancePre<Process>,
    /// Not there while it runs.
    process: Option<Process>,
}

impl Command {
    /// One that is started with its function's name alone, or, when it is an interpreter, to run `script`.
    pub(super) fn new(program: InstancePre<Process>, state: State, script: Option<Script>) -> Self {
        Command { program, process: Some(Process::new(state, script)) }
    }
}

impl Command {
    /// Makes the `first` call and those that follow, as [`kind::Program::each`](ipdc_jobs::kind::Program::each) says.
    pub(super) fn serve(mut self, function: &str, first: Order, source: &mut dyn Source) {
        let mut next = Some(first);
        while let Some(order) = next.take() {
            let process = self.process();
            let call = process.state.turn(order);
            process.start(function, &call.input);
            process.turn = Some(Turn { call: Some(call), is_first: true });
            let ended = self.run(source);
            next = match self.process().turn.take() {
                // What it did for others may be what was too much for it.
                Some(Turn { call: Some(call), is_first: false })
                    if ended.as_ref().is_err_and(TaskError::is_trap) =>
                {
                    source.again(call)
                }
                Some(Turn { call: Some(_), .. }) => {
                    source.ended(ended);
                    source.next()
                }
                _ => None,
            };
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a command runs once at a time")
    }

    /// Runs it from its start to its end. How the call ended that was under way then.
    fn run(&mut self, source: &mut dyn Source) -> Result<(), TaskError> {
        let mut process = self.process.take().expect("a command runs once at a time");
        process.state.outlet.open(source);
        let mut store = Store::new(self.program.module().engine(), process);
        store.limiter(|process| process.state.cap());
        store.epoch_deadline_callback(|context| context.data().state.may_go_on());
        store.set_epoch_deadline(1);
        let ran = self.program.instantiate(&mut store).and_then(|instance| {
            instance.get_typed_func::<(), ()>(&mut store, START)?.call(&mut store, ())
        });
        let mut process = store.into_data();
        let ended = process.ended(ran);
        let ended = process.state.ended(ended);
        process.state.outlet.close();
        process.state.end();
        self.process = Some(process);
        ended
    }
}

impl Guest for Command {
    fn call(&mut self, function: &str, input: &[u8], sink: &mut Sink<'_>) -> Result<(), TaskError> {
        self.process().start(function, input);
        self.run(&mut Once(sink))
    }

    fn form(&self) -> Form {
        Form::Command
    }
}

/// How far a run that serves several calls is.
struct Turn {
    /// The one under way; none, once there was no other.
    call: Option<Call>,
    is_first: bool,
}

/// A command that says itself why it cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct GaveUp(pub(super) String);

/// How a command ended that called `proc_exit`.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(super) struct Exit(pub(super) u32);

/// A run of a command: what its store holds.
pub(super) struct Process {
    pub(super) state: State,
    pub(super) world: World,
    script: Option<Script>,
    /// None, when the run is for one call.
    turn: Option<Turn>,
    stdin: Stdin,
    stdout: Lines,
    stderr: Words,
}

impl Process {
    fn new(state: State, script: Option<Script>) -> Self {
        Process {
            state,
            world: World::default(),
            script,
            turn: None,
            stdin: Stdin::default(),
            stdout: Lines::default(),
            stderr: Words::default(),
        }
    }

    /// Everything as a fresh run finds it, but for the time that is left.
    fn start(&mut self, function: &str, input: &[u8]) {
        self.world = World::new(function, self.script.as_ref(), &self.state.side);
        self.stdin.start(input);
        self.stdout = Lines::default();
        self.stderr = Words::default();
        self.state.renew();
        self.state.begin();
    }

    /// Bytes of stdin into `room`, at least one unless it is at its end.
    pub(super) fn read(&mut self, room: &mut [u8]) -> usize {
        self.stdin.read(room)
    }

    pub(super) fn write_stdout(&mut self, bytes: &[u8]) -> Result<(), wasmtime::Error> {
        let written = self.stdout.write(bytes, &mut self.state.outlet);
        self.state.keep(written)
    }

    /// Takes bytes of what it asks its host, and does what those ask that are whole.
    pub(super) fn write_device(&mut self, bytes: &[u8]) -> Result<(), wasmtime::Error> {
        preview1::ask(self, bytes)
    }

    /// The call under way has ended, with `error` if it failed. The next one's input, if there is one.
    pub(super) fn next(&mut self, error: Option<&str>) -> Result<Option<Bytes>, GaveUp> {
        let gave_up = error.map(|error| GaveUp(shown(error)));
        let Some(Turn { call: under_way, .. }) = &self.turn else {
            return gave_up.map_or(Ok(None), Err);
        };
        if under_way.is_none() {
            return Ok(None);
        }
        self.stderr.end(&mut self.state.outlet);
        let ended = match gave_up {
            None => self.stdout.end(&mut self.state.outlet),
            Some(GaveUp(why)) => Err(GuestError::GaveUp(why).into()),
        };
        self.stdout = Lines::default();
        let ended = self.state.ended(ended);
        let order = self.state.outlet.next(ended);
        self.world.turn(self.state.side.of_call());
        let call = order.map(|order| self.state.turn(order));
        let input = call.as_ref().map(|call| call.input.clone());
        self.turn = Some(Turn { call, is_first: false });
        Ok(input)
    }

    pub(super) fn write_stderr(&mut self, bytes: &[u8]) {
        self.stderr.write(bytes, &mut self.state.outlet);
    }

    /// What the end of a run means; a last line without an end is a line.
    fn ended(&mut self, ran: Result<(), wasmtime::Error>) -> Result<(), TaskError> {
        self.stderr.end(&mut self.state.outlet);
        let error = match ran {
            Ok(()) => return self.stdout.end(&mut self.state.outlet),
            Err(error) => error,
        };
        let failed = match error.downcast_ref::<Exit>() {
            Some(Exit(0)) => return self.stdout.end(&mut self.state.outlet),
            Some(Exit(code)) => GuestError::Exit(*code).into(),
            None => explain(&error, &mut self.state),
        };
        if error.downcast_ref::<GaveUp>().is_some() {
            return Err(failed);
        }
        Err(match failed {
            TaskError::Failed { class, code, message } => {
                let hint = match () {
                    () if self.state.wanted_more_memory() => NO_MEMORY,
                    () if self.world.missed_files() => NO_FILES,
                    () => "",
                };
                let message = format!("{message}{}{hint}", self.stderr.last());
                TaskError::Failed { class, code, message }
            }
            other => other,
        })
    }
}

/// For a command that failed after it was given no more memory.
const NO_MEMORY: &str = " (it wanted more memory than it may have: `limits.memory` in job.toml)";

/// For a command that failed, can open files and has opened none.
const NO_FILES: &str = " (the sandbox has no files but side files, in /job)";

/// A run's input, of which `given` bytes were read.
#[derive(Default)]
struct Stdin {
    bytes: Vec<u8>,
    given: usize,
}

impl Stdin {
    fn start(&mut self, input: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(input);
        self.given = 0;
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        let rest = &self.bytes[self.given..];
        let read = rest.len().min(room.len());
        room[..read].copy_from_slice(&rest[..read]);
        self.given += read;
        read
    }
}

#[cfg(test)]
mod tests;
