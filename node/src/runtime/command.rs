//! WASI commands: programs that run from `_start` to their end, with their input on stdin and
//! `key<TAB>value` lines on stdout.
//!
//! Each call of the guest is a run of a fresh instance, on the attempt's thread, with the call's
//! input on stdin. What it writes goes on as records, line by line, while it runs; nothing of it is
//! held but one line. What it says on stderr is its log.
//!
//! [`preview1`](super::preview1) has the functions that it may import.

use ipdc_jobs::kind::{Form, Guest, TaskError};
use wasmtime::{ExternType, InstancePre, Linker, Module, Store};

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

impl Guest for Command {
    fn call(&mut self, function: &str, input: &[u8], sink: &mut Sink<'_>) -> Result<(), TaskError> {
        let mut process = self.process.take().expect("a command runs once at a time");
        process.start(function, input);
        process.state.outlet.open(sink);
        let mut store = Store::new(self.program.module().engine(), process);
        store.limiter(|process| process.state.cap());
        store.epoch_deadline_callback(|context| context.data().state.may_go_on());
        store.set_epoch_deadline(1);
        let ran = self.program.instantiate(&mut store).and_then(|instance| {
            instance.get_typed_func::<(), ()>(&mut store, START)?.call(&mut store, ())
        });
        let mut process = store.into_data();
        let ended = process.ended(ran);
        let ended = process.state.outlet.close(ended);
        process.state.end();
        self.process = Some(process);
        ended
    }

    fn form(&self) -> Form {
        Form::Command
    }
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

    /// Takes bytes of what it asks its host.
    pub(super) fn write_device(&mut self, bytes: &[u8]) -> Result<(), wasmtime::Error> {
        self.world.device.write(bytes, &mut self.state.outlet)
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
