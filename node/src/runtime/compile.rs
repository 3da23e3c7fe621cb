//! Compiles modules, in a process of its own.
//!
//! Nothing that can be seen of a module says how long the compiler takes for it, or how much memory:
//! fifty kilobytes can keep it busy for hours. So a node has it run apart, in another process of the
//! same program, which has limits, is the first that the kernel ends when memory is short, and ends
//! with the node. What it gives is a file of the node's own [`cache`](super::cache).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ipdc_jobs::kind::TaskError;
use ipdc_jobs::message::FailureClass;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;
use wasmtime::{Engine, WasmBacktraceDetails};

use super::{GuestError, config, shown};
use crate::machine;

/// The longest module that is looked at, in bytes. The largest known useful one, CPython, has 26 MB.
pub const MODULE_LIMIT: usize = 64 << 20;

/// How long a module may take: CPython takes 5 s of one processor, and a small board is ten times slower.
const TIME: Duration = Duration::from_secs(60);

/// The memory that it may take, where the node has it: three times what CPython takes.
const MEMORY: u64 = 1 << 30;

/// The longest file that may come of it: five times what comes of CPython.
const FILE: u64 = 512 << 20;

/// How often the other process is looked at. A small module takes that long.
const LOOK: Duration = Duration::from_millis(5);

/// The argument that makes a process of this program the one that compiles.
const ARGUMENT: &str = "compile-module";

/// The exit status that says that the module is none; why is on stderr.
const REFUSED: u8 = 3;

/// Where modules are compiled.
#[derive(Clone)]
pub enum Compiler {
    /// In this process and without limits: for code of the user that runs it.
    Here,
    /// In another process of `program`, with `memory` bytes.
    Apart {
        /// `ipdc`.
        program: PathBuf,
        /// In bytes.
        memory: u64,
    },
}

impl Compiler {
    /// In another process of the program that runs now, in a node that has `memory` bytes for guests.
    #[must_use]
    pub fn apart(memory: u64) -> Self {
        Compiler::Apart { program: machine::own_program(), memory: memory.min(MEMORY) }
    }

    /// What comes of the module `code`, written to `to`: its digest, then itself.
    pub(super) fn compile(
        &self,
        engine: &Engine,
        code: &[u8],
        to: &NamedTempFile,
        stop: &CancellationToken,
    ) -> Result<(), TaskError> {
        match self {
            Compiler::Here => {
                let compiled = engine.precompile_module(code);
                let compiled = compiled.map_err(|error| GuestError::NotWasm(cause(&error)))?;
                write(&mut to.as_file(), &compiled).map_err(|error| broken(&error))
            }
            Compiler::Apart { program, memory } => {
                let directory = to.path().parent().unwrap_or(Path::new("."));
                let child = start(program, *memory, code, directory, to.as_file());
                let mut child = child.map_err(|error| broken(&error))?;
                let ended = wait(&mut child, stop);
                if !matches!(ended, Ok(Some(_))) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                match ended.map_err(|error| broken(&error))? {
                    Some(status) if status.success() => Ok(()),
                    Some(status) => Err(explain(status, &mut child, *memory)),
                    None if stop.is_cancelled() => Err(TaskError::Stopped),
                    None => Err(GuestError::CompileTime(TIME.as_secs()).into()),
                }
            }
        }
    }
}

fn start(
    program: &Path,
    memory: u64,
    code: &[u8],
    directory: &Path,
    to: &File,
) -> io::Result<Child> {
    let mut module = tempfile::tempfile_in(directory)?;
    module.write_all(code)?;
    module.rewind()?;
    Command::new(program)
        .args([ARGUMENT, &memory.to_string()])
        .stdin(module)
        .stdout(to.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()
}

/// The status with which it ended; none when it did not in its time, or was not to go on.
fn wait(child: &mut Child, stop: &CancellationToken) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + TIME;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop.is_cancelled() || Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Why the other process failed. A signal is its own end for want of memory, or the kernel's.
fn explain(status: ExitStatus, child: &mut Child, memory: u64) -> TaskError {
    match status.code() {
        Some(_) => {
            let mut said = String::new();
            if let Some(stderr) = child.stderr.take() {
                // It has ended: what it said is all there, and not long.
                let _ = stderr.take(4096).read_to_string(&mut said);
            }
            let first = said.lines().find(|line| !line.is_empty());
            GuestError::NotWasm(shown(first.unwrap_or("the compiler broke"))).into()
        }
        None => {
            // A node with less than others does not speak for them.
            let class = if memory < MEMORY { FailureClass::TooSmall } else { FailureClass::Guest };
            GuestError::CompileMemory(memory).of_class(class)
        }
    }
}

/// The node could not do its part.
pub(super) fn broken(error: &io::Error) -> TaskError {
    TaskError::Failed {
        class: FailureClass::Worker,
        code: "IPDC-5315",
        message: format!("this node could not compile the module: {error}"),
    }
}

fn write(to: &mut impl Write, compiled: &[u8]) -> io::Result<()> {
    to.write_all(&Sha256::digest(compiled))?;
    to.write_all(compiled)
}

/// What the compiler says first; the rest of it is about its own insides.
fn cause(error: &wasmtime::Error) -> String {
    shown(format!("{error:#}").lines().next().unwrap_or_default())
}

/// Compiles the module on stdin, if that is what this process was started for. To be called before
/// there is another thread.
#[must_use]
pub fn compile_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(ARGUMENT)) {
        return None;
    }
    let memory = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(MEMORY);
    Some(match confine(memory).map_err(|error| error.to_string()).and_then(|()| compile_stdin()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(REFUSED)
        }
    })
}

/// Gives this process limits.
fn confine(memory: u64) -> io::Result<()> {
    for (resource, most) in [(Resource::Data, memory), (Resource::Fsize, FILE), (Resource::Core, 0)]
    {
        // What it was given itself cannot be raised.
        let most = getrlimit(resource).maximum.map_or(most, |own| own.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Where that cannot be said the kernel chooses by size, which is as good most often.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    Ok(())
}

fn compile_stdin() -> Result<(), String> {
    let mut code = Vec::new();
    let read = io::stdin().take(MODULE_LIMIT as u64).read_to_end(&mut code);
    read.map_err(|error| error.to_string())?;
    let engine = Engine::new(&config(WasmBacktraceDetails::Disable));
    let compiled = engine.and_then(|engine| engine.precompile_module(&code));
    let compiled = compiled.map_err(|error| cause(&error))?;
    let mut stdout = io::stdout().lock();
    let written = write(&mut stdout, &compiled).and_then(|()| stdout.flush());
    written.map_err(|error| error.to_string())
}
