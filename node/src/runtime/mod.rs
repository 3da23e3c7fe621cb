//! The sandbox that runs user code: WebAssembly core modules and WASI commands, by wasmtime.
//!
//! | | |
//! |---|---|
//! | [`cache`] | modules compiled once, in memory and on disk |
//! | [`instance`] | one instance of a guest, with its limits |
//! | [`imports`] | what a guest may call: module `ipdc` |
//! | [`room`] | the memory that all guests have together |
//! | [`side`] | what it may read beside its input: params and side files |
//! | [`command`] | WASI commands: programs with stdin and stdout |
//! | [`preview1`] | what a command may call |
//! | [`trace`] | where a guest was when it failed |
//! | [`ticker`] | the clock that interrupts a guest, while one runs |
//!
//! What a guest computes depends on its module and input alone: no threads, no clock, no
//! randomness, canonical NaNs. `docs/guest.md` is its side of the contract.

mod cache;
mod command;
mod imports;
mod instance;
mod preview1;
mod room;
mod side;
mod ticker;
mod trace;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Given, Guest, ReadAt, TaskError};
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::{COUNTER_NAME_LIMIT, COUNTERS_LIMIT, Counters, FailureClass};
use tokio_util::sync::CancellationToken;
use wasmtime::{
    Config, Engine, ExternType, FuncType, Module, OptLevel, ValType, WasmBacktraceDetails,
};

use cache::Cache;
use instance::{MemoryCap, State};
use room::Room;
use ticker::Ticker;

pub use trace::{Call, Place};

/// The node's wasm runtime. Clones share it; nothing is set up before the first use.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    room: Room,
    source: WasmBacktraceDetails,
    machine: OnceLock<Machine>,
}

/// What there is once a guest has run.
struct Machine {
    engine: Engine,
    cache: Cache,
    ticker: Ticker,
}

/// What a guest tells its host beside its records, and has read for it.
pub trait Listener: Send {
    /// A reader of a side file.
    ///
    /// # Errors
    /// When its root block cannot be had: the attempt's trouble, not the guest's.
    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError>;
    /// A line it logged, already cut to a sane length.
    fn log(&mut self, line: &str);
    /// How far it says it is.
    fn progress(&mut self, done: u64, total: u64);
    /// Adds what one call counted, of those that ended well; false when its task counts under too
    /// many names.
    fn count(&mut self, counted: Counters) -> bool;
    /// It failed, in these calls, the innermost first.
    fn failed_in(&mut self, _calls: &[Call]) {}
}

/// A guest's fault, or a fault of its module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// It trapped.
    #[error("the guest trapped: {0}")]
    Trap(String),
    /// Its time was up.
    #[error("the guest ran longer than its limit of {0} ms")]
    Time(u64),
    /// It wanted more memory than it may have.
    #[error("the guest wanted more than its limit of {0} bytes of memory")]
    Memory(u64),
    /// A pointer and length that are not within its memory.
    #[error("the guest passed {what} at {ptr}+{len}, outside its memory of {size} bytes")]
    Bounds {
        /// To which function, and as what.
        what: &'static str,
        /// The pointer.
        ptr: u32,
        /// The length.
        len: u32,
        /// The memory's size.
        size: usize,
    },
    /// It counted under a name that no counter may have, or under too many names.
    #[error(
        "the guest counted under {0}: names have 1 to {COUNTER_NAME_LIMIT} bytes of printable UTF-8, and \
         a task counts under at most {COUNTERS_LIMIT} of them"
    )]
    Counter(String),
    /// It is no wasm module.
    #[error("this is no WebAssembly module: {0}")]
    NotWasm(String),
    /// It lacks an export, or has it with another type.
    #[error("the module must export {0}")]
    Export(String),
    /// It wants something that the sandbox does not have.
    #[error("the module imports {0}, which the sandbox does not have")]
    Import(String),
    /// It imports WASI and is no command.
    #[error("the module imports {0}; only a command may, a module that exports `_start`")]
    NoCommand(String),
    /// A command ended with another exit code than 0.
    #[error("the command ended with exit code {0}")]
    Exit(u32),
    /// A command wrote a line that is too long.
    #[error("the command wrote a line of more than {0} bytes")]
    Line(usize),
}

impl GuestError {
    fn code(&self) -> &'static str {
        match self {
            GuestError::Trap(_) => "IPDC-5301",
            GuestError::Time(_) => "IPDC-5302",
            GuestError::Memory(_) => "IPDC-5303",
            GuestError::Bounds { .. } => "IPDC-5304",
            GuestError::NotWasm(_) => "IPDC-5305",
            GuestError::Export(_) => "IPDC-5306",
            GuestError::Import(_) | GuestError::NoCommand(_) => "IPDC-5307",
            GuestError::Counter(_) => "IPDC-5308",
            GuestError::Exit(_) => "IPDC-5310",
            GuestError::Line(_) => "IPDC-5311",
        }
    }
}

impl From<GuestError> for TaskError {
    fn from(error: GuestError) -> Self {
        TaskError::Failed {
            class: FailureClass::Guest,
            code: error.code(),
            message: error.to_string(),
        }
    }
}

impl Runtime {
    /// A runtime that keeps compiled modules under `directory`, which only this node may write, and
    /// whose guests have `memory` bytes together.
    #[must_use]
    pub fn new(directory: PathBuf, memory: u64) -> Self {
        Self::with(directory, memory, WasmBacktraceDetails::Disable)
    }

    /// As [`Runtime::new`]; and of a guest that fails, its listener hears where in its source it was,
    /// if its module says so. A directory of its own: what is kept of a module is more.
    #[must_use]
    pub fn with_source_lines(directory: PathBuf, memory: u64) -> Self {
        Self::with(directory, memory, WasmBacktraceDetails::Enable)
    }

    fn with(directory: PathBuf, memory: u64, source: WasmBacktraceDetails) -> Self {
        let (room, machine) = (Room::new(memory), OnceLock::new());
        Runtime { shared: Arc::new(Shared { directory, room, source, machine }) }
    }

    /// A fresh instance of the module `code` (wasm, or wat text), which may read what is `given`.
    /// Cancelling `stop` ends a call under way within some 20 ms, with [`TaskError::Stopped`].
    ///
    /// # Errors
    /// When it is no module, imports what there is not, or is too large for `limits` or for what
    /// other guests have left of the node's memory.
    pub fn instantiate(
        &self,
        code: &[u8],
        limits: &Limits,
        stop: CancellationToken,
        listener: Box<dyn Listener>,
        given: Given,
    ) -> Result<Box<dyn Guest>, TaskError> {
        let machine = self.machine();
        let module = machine.cache.module(&machine.engine, code)?;
        let memory = MemoryCap::new(limits.memory, self.shared.room.share());
        let state = State::new(limits, memory, stop, listener, given, machine.ticker.hold());
        if command::is_command(&module) {
            return Ok(Box::new(command::Command::new(&module, state)?));
        }
        Ok(Box::new(instance::Instance::new(&module, state)?))
    }

    /// Checks that `code` is a module that the sandbox can run and that exports `function`, or is
    /// a command, which takes its place.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub fn check_module(&self, code: &[u8], function: &str) -> Result<(), String> {
        let machine = self.machine();
        let module = machine.cache.module(&machine.engine, code).map_err(|e| e.to_string())?;
        let checked = if command::is_command(&module) {
            command::check(&module)
        } else {
            check_imports(&module).and_then(|()| check_exports(&module, function))
        };
        checked.map_err(|error| error.to_string())
    }

    fn machine(&self) -> &Machine {
        self.shared.machine.get_or_init(|| {
            let engine = Engine::new(&config(self.shared.source));
            let engine = engine.expect("the settings below go together");
            Machine {
                cache: Cache::new(self.shared.directory.clone()),
                ticker: Ticker::new(engine.clone()),
                engine,
            }
        })
    }
}

/// Everything that could make two runs differ is off.
fn config(source: WasmBacktraceDetails) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .wasm_backtrace_details(source)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}

fn check_exports(module: &Module, function: &str) -> Result<(), GuestError> {
    let missing = |what: &str| GuestError::Export(what.to_owned());
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(missing("its memory as `memory`"));
    }
    let of_type = |name: &str, params: usize, results: usize| match module.get_export(name) {
        Some(ExternType::Func(f)) => is_i32s(&f, params, results),
        _ => false,
    };
    if !of_type("ipdc_alloc", 1, 1) {
        return Err(missing("`ipdc_alloc(n: i32) -> i32`"));
    }
    if !of_type(function, 2, 0) {
        return Err(missing(&format!("`{function}(ptr: i32, len: i32)`")));
    }
    Ok(())
}

fn check_imports(module: &Module) -> Result<(), GuestError> {
    for import in module.imports() {
        if import.module() != imports::MODULE || !imports::NAMES.contains(&import.name()) {
            let name = format!("`{}` from `{}`", import.name(), import.module());
            let is_wasi = import.module() == preview1::MODULE;
            let wrong = if is_wasi { GuestError::NoCommand } else { GuestError::Import };
            return Err(wrong(name));
        }
    }
    Ok(())
}

fn is_i32s(f: &FuncType, params: usize, results: usize) -> bool {
    f.params().len() == params
        && f.results().len() == results
        && f.params().chain(f.results()).all(|t| matches!(t, ValType::I32))
}

#[cfg(test)]
mod tests;
