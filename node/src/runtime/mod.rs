//! The sandbox that runs user code: WebAssembly core modules and WASI commands, by wasmtime.
//!
//! | | |
//! |---|---|
//! | [`cache`] | modules compiled once, in memory and on disk |
//! | [`compile`] | the compiler, apart and with limits |
//! | [`allowance`] | what the guests of one attempt may take |
//! | [`instance`] | one instance of a guest, with its limits |
//! | [`calls`] | how calls reach it, and what comes of them leaves it |
//! | [`imports`] | what a guest may call: module `ipdc` |
//! | [`room`] | the memory that all guests have together |
//! | [`side`] | what it may read beside its input: params and side files |
//! | [`outbox`] | the files that it writes |
//! | [`answer`] | what came of its last fetch |
//! | [`command`] | WASI commands: programs with stdin and stdout |
//! | [`preview1`] | what a command may call |
//! | [`lines`] | what commands and native programs write, as records and log |
//! | [`requests`] | what both ask their host |
//! | [`process`] | native programs, confined by the kernel |
//! | [`container`] | commands in containers |
//! | [`left`] | the files that both leave |
//! | [`python`] | Python code, by a command that interprets it |
//! | [`server`] | an interpreter that stays for many calls |
//! | [`trace`] | where a guest was when it failed |
//! | [`ticker`] | the clock that interrupts a guest, while one runs |
//!
//! What a guest computes depends on its module and input alone, unless it may fetch: no threads, no clock, no
//! randomness, canonical NaNs. `docs/guest.md` is its side of the contract.

mod allowance;
mod answer;
mod cache;
mod calls;
mod command;
mod compile;
mod container;
mod imports;
mod instance;
mod left;
mod lines;
mod outbox;
mod preview1;
mod process;
mod python;
mod requests;
mod room;
mod server;
mod side;
mod ticker;
mod trace;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ipdc_jobs::code::{Code, Container};
use ipdc_jobs::ids::{Cid, FileRef, JobId};
use ipdc_jobs::kind::{Call, Calls, Given, Guest, RECORD_LIMIT, ReadAt, TaskError};
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::{COUNTER_NAME_LIMIT, COUNTERS_LIMIT, Counters, FailureClass};
use tokio_util::sync::CancellationToken;
use wasmtime::{
    Config, Engine, ExternType, FuncType, InstancePre, Module, OptLevel, ValType,
    WasmBacktraceDetails,
};

use crate::config::Size;
use crate::containers::{self, Containers, Loaded};
use crate::fetch::{Fetched, Request};
use cache::Cache;
use calls::{Orders, Source as _};
use command::{Command, Process};
use instance::{Instance, MemoryCap, STACK_LIMIT, State, TABLE_LIMIT};
use outbox::Outbox;
use python::Script;
use room::Room;
use server::Key;
use side::Side;
use ticker::Ticker;

pub use allowance::Allowance;
pub use calls::Attempt;
pub use compile::{Compiler, MODULE_LIMIT, compile_if_asked};
pub use process::{Options as ProcessOptions, Processes, Trouble, launch_if_asked};
pub use trace::{Frame, Place};

/// Characters of a module's own names, and of what the compiler says, that an error shows.
const SHOWN: usize = 300;

/// How long a look at Python code may take, in milliseconds: all that a manifest can name takes a second, and a
/// small board is ten times slower.
const CHECK_MS: u64 = 30_000;

/// Bytes that a host function works on before it looks whether the guest may go on: some milliseconds'
/// work, whatever is done with them.
const PIECE: usize = 1 << 20;

/// What runs the node's guests. Clones share it; for wasm, nothing is set up before the first use.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
    /// What runs native programs, where somebody may and they can be confined.
    processes: Option<Processes>,
    /// What runs containers.
    containers: Option<Containers>,
}

/// Memory that something which is no guest of a job has.
pub struct Claim(
    #[expect(dead_code, reason = "it is given back when this is dropped")] room::Share,
);

struct Shared {
    directory: PathBuf,
    compiler: Compiler,
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
    /// The file of this CID, if it is one.
    ///
    /// # Errors
    /// As [`Listener::open`].
    fn find(&mut self, _cid: &Cid) -> Result<Option<FileRef>, TaskError> {
        Ok(None)
    }
    /// Bytes of side files that came from other nodes so far: a read that waits for them costs the
    /// guest no time.
    fn fetched(&self) -> u64 {
        0
    }
    /// Does what it asks of the network, `within` the time that it has left: when that is up, whatever the
    /// answer, it is ended.
    ///
    /// # Errors
    /// When its job may not fetch, the attempt is stopped, or what was fetched cannot be kept.
    fn fetch(&mut self, _request: &Request, _within: Duration) -> Result<Fetched, TaskError> {
        Err(GuestError::NoFetch.into())
    }
    /// It named an item for its job; false when it named as many as it may.
    fn enqueue(&mut self, _item: &str) -> bool {
        false
    }
    /// A line it logged, already cut to a sane length.
    fn log(&mut self, line: &str);
    /// How far it says it is.
    fn progress(&mut self, done: u64, total: u64);
    /// Adds what one call counted, of those that ended well; false when its task counts under too
    /// many names.
    fn count(&mut self, counted: Counters) -> bool;
    /// It failed, in these calls, the innermost first.
    fn failed_in(&mut self, _frames: &[Frame]) {}
}

/// A guest's fault, or a fault of its module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// It trapped.
    #[error("the guest trapped: {0}")]
    Trap(String),
    /// Its time was up.
    #[error("the guest ran longer than {0} ms, its limit (`limits.time` in job.toml)")]
    Time(u64),
    /// It wanted more memory than it may have.
    #[error("the guest wanted more than {} of memory, its limit (`limits.memory` in job.toml)", Size(*.0))]
    Memory(u64),
    /// It wanted larger tables than a guest may have.
    #[error(
        "the guest wanted more than {TABLE_LIMIT} elements in its tables, which is what a guest may have"
    )]
    Table,
    /// A record that is too long to be one.
    #[error("a record has {0} bytes; at most {RECORD_LIMIT} are allowed")]
    Record(usize),
    /// Its module is longer than any that is looked at.
    #[error("the module has {0} bytes; at most {MODULE_LIMIT} are allowed")]
    TooLong(u64),
    /// Its module took too long to compile.
    #[error("the module took more than {0} s to compile, which is what a module may take")]
    CompileTime(u64),
    /// Its module took too much memory to compile.
    #[error("the module took more than {} of memory to compile, which is what a module may take on this node", Size(*.0))]
    CompileMemory(u64),
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
    /// It named items for its job and may not, or may name no more.
    #[error("the guest named an item: {0}")]
    Enqueue(&'static str),
    /// It fetches, and its job does not.
    #[error(
        "the guest fetches from the network, and its job does not ask for that (`[fetch]` in job.toml)"
    )]
    NoFetch,
    /// It wrote more than it may.
    #[error("the guest wrote more than {}, the output limit (`limits.output` in job.toml)", Size(*.0))]
    Output(u64),
    /// It is no wasm module.
    #[error("this is no WebAssembly module: {0}")]
    NotWasm(String),
    /// It lacks an export, or has it with another type.
    #[error("the module must export {0}")]
    Export(String),
    /// It wants something that the sandbox does not have.
    #[error("the module imports {0}, which the sandbox does not have")]
    Import(String),
    /// It wants something as another thing, or with another type, than the sandbox has it.
    #[error("an import of the module is not what the sandbox has: {0}")]
    ImportType(String),
    /// It imports WASI and is no command.
    #[error("the module imports {0}; only a command may, a module that exports `_start`")]
    NoCommand(String),
    /// A command ended with another exit code than 0.
    #[error("the command ended with exit code {0}")]
    Exit(u32),
    /// A native program was ended by a signal.
    #[error("the program was ended by signal {0}")]
    Signal(i32),
    /// A native program had more processes than it may.
    #[error("the program wanted more processes than it may have")]
    Tasks,
    /// What a native program left in `/out` is no files, or too many.
    #[error("what the program left in /out cannot be kept: {0}")]
    Out(String),
    /// A command that does not run what it is given.
    #[error("the command did not say which Python it is")]
    NoPython,
    /// A command said itself why it could not go on.
    #[error("{0}")]
    GaveUp(String),
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
            GuestError::NotWasm(_) | GuestError::NoPython => "IPDC-5305",
            GuestError::Export(_) => "IPDC-5306",
            GuestError::Import(_) | GuestError::ImportType(_) | GuestError::NoCommand(_) => {
                "IPDC-5307"
            }
            GuestError::Counter(_) => "IPDC-5308",
            GuestError::Enqueue(_) => "IPDC-5317",
            GuestError::NoFetch => "IPDC-5502",
            GuestError::Exit(_) => "IPDC-5310",
            GuestError::Signal(_) => "IPDC-5318",
            GuestError::Tasks => "IPDC-5321",
            GuestError::Out(_) => "IPDC-5323",
            GuestError::Line(_) => "IPDC-5311",
            GuestError::TooLong(_) | GuestError::CompileTime(_) | GuestError::CompileMemory(_) => {
                "IPDC-5313"
            }
            GuestError::Table => "IPDC-5314",
            GuestError::GaveUp(_) => "IPDC-5316",
            GuestError::Record(_) => "IPDC-5351",
            GuestError::Output(_) => "IPDC-5404",
        }
    }

    fn of_class(self, class: FailureClass) -> TaskError {
        TaskError::Failed { class, code: self.code(), message: self.to_string() }
    }
}

impl From<GuestError> for TaskError {
    fn from(error: GuestError) -> Self {
        error.of_class(FailureClass::Guest)
    }
}

/// As much of `text`, which somebody else wrote, as an error shows.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Runtime {
    /// A runtime that keeps compiled modules under `directory`, which only this node may write, and
    /// whose guests have `memory` bytes together.
    #[must_use]
    pub fn new(directory: PathBuf, memory: u64, compiler: Compiler) -> Self {
        Self::with(directory, memory, compiler, WasmBacktraceDetails::Disable)
    }

    /// As [`Runtime::new`], for code of the user that runs it; and of a guest that fails, its listener hears
    /// where in its source it was, if its module says so. A directory of its own: what is kept of a module is more.
    #[must_use]
    pub fn with_source_lines(directory: PathBuf, memory: u64) -> Self {
        Self::with(directory, memory, Compiler::Here, WasmBacktraceDetails::Enable)
    }

    fn with(
        directory: PathBuf,
        memory: u64,
        compiler: Compiler,
        source: WasmBacktraceDetails,
    ) -> Self {
        let (room, machine) = (Room::new(memory), OnceLock::new());
        let shared = Arc::new(Shared { directory, compiler, room, source, machine });
        Runtime { shared, processes: None, containers: None }
    }

    /// The same, which runs native programs too.
    #[must_use]
    pub fn with_processes(self, processes: Option<Processes>) -> Self {
        Runtime { processes, ..self }
    }

    /// The same, which runs containers too.
    #[must_use]
    pub fn with_containers(self, containers: Containers) -> Self {
        Runtime { containers: Some(containers), ..self }
    }

    /// The command of `container`, ready to run in `image`, with these GPUs.
    ///
    /// # Errors
    /// When no containers are run here.
    pub fn container(
        &self,
        container: &Container,
        image: Loaded,
        gpus: Vec<String>,
    ) -> Result<Program, TaskError> {
        let containers = self.containers()?.clone();
        let program = container::Program::new(containers, container.clone(), image, gpus);
        Ok(Program { runtime: self.clone(), form: Form::Container(program) })
    }

    /// So many bytes of the memory that guests have together, until what comes back is dropped; none, if there are not
    /// so many now.
    #[must_use]
    pub fn claim(&self, bytes: u64) -> Option<Claim> {
        let mut share = self.shared.room.share();
        share.set(bytes).then_some(Claim(share))
    }

    /// What runs containers.
    ///
    /// # Errors
    /// When none are run here.
    pub fn containers(&self) -> Result<&Containers, TaskError> {
        let none = || containers::Trouble::Unfit("this is no node");
        Ok(self.containers.as_ref().ok_or_else(none)?)
    }

    /// `code`, ready to run, if it is no container's; `read` gives a module (wasm, or wat text) that is not here compiled.
    ///
    /// # Errors
    /// What `read` fails with; when it is no module, or imports what there is not.
    pub fn program(
        &self,
        code: &Code,
        read: impl Fn(&FileRef) -> Result<Bytes, TaskError>,
        stop: &CancellationToken,
    ) -> Result<Program, TaskError> {
        let module = |file: &FileRef| self.module(file, &read, stop);
        let form = match code {
            Code::Container(_) => {
                return Err(containers::Trouble::Unfit("its image was not brought in").into());
            }
            Code::Process(native) => {
                Form::Process(self.processes()?.program(native, self.shared.room.clone())?)
            }
            Code::Python(python) => {
                Form::Python(command::linked(&module(&python.interpreter)?)?, Script::call(python))
            }
            Code::Module(file) => {
                let module = module(file)?;
                if command::is_command(&module) {
                    Form::Command(command::linked(&module)?)
                } else {
                    Form::Functions(instance::linked(&module)?)
                }
            }
        };
        Ok(Program { runtime: self.clone(), form })
    }

    /// Checks that `code` can be run and has `function`. A module must import what the sandbox has and export
    /// the function, or be a command, which takes its place. Python files, which `listener` opens, must compile,
    /// and the main one have the function; none is run.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub fn check(
        &self,
        code: &Code,
        function: &str,
        read: impl Fn(&FileRef) -> Result<Bytes, TaskError>,
        listener: Box<dyn Listener>,
    ) -> Result<(), String> {
        let module = |file: &FileRef| {
            let module = self.module(file, read, &CancellationToken::new());
            module.map_err(|error| error.to_string())
        };
        let checked = match code {
            // More cannot be said of it where it is not to run.
            Code::Process(_) | Code::Container(_) => Ok(()),
            Code::Python(python) => {
                let script = Script::check(python);
                let module = module(&python.interpreter)?;
                let checked = self.interpret(&module, script, function, listener);
                return checked.map(drop).map_err(|error| error.to_string());
            }
            Code::Module(file) => {
                let module = module(file)?;
                if command::is_command(&module) {
                    command::linked(&module).map(drop)
                } else {
                    instance::linked(&module).and_then(|_| check_exports(&module, function))
                }
            }
        };
        checked.map_err(|error| error.to_string())
    }

    /// The version of the Python interpreter `file`.
    ///
    /// # Errors
    /// When it is none that the sandbox can run.
    pub fn python_version(
        &self,
        file: &FileRef,
        read: impl Fn(&FileRef) -> Result<Bytes, TaskError>,
        listener: Box<dyn Listener>,
    ) -> Result<String, TaskError> {
        let module = self.module(file, read, &CancellationToken::new())?;
        let version = self.interpret(&module, Script::version(), "version", listener)?;
        if version.is_empty() { Err(GuestError::NoPython.into()) } else { Ok(version) }
    }

    /// Runs `script` without input; the key of the first record that it writes.
    fn interpret(
        &self,
        module: &Module,
        script: Script,
        function: &str,
        listener: Box<dyn Listener>,
    ) -> Result<String, TaskError> {
        let limits = Limits { time_ms: CHECK_MS, ..Limits::default() };
        let allowance = Allowance::new(&limits, CancellationToken::new());
        let linked = command::linked(module)?;
        let attempt = Attempt { allowance, listener };
        let mut command = self.command(&linked, Some(script), attempt, Given::default());
        let mut said = String::new();
        command.call(function, b"", &mut |records| {
            let header = records.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
            if let Some(key) = header.and_then(|len| records.get(8..8 + len)) {
                said = shown(&String::from_utf8_lossy(key));
            }
            Ok(())
        })?;
        Ok(said)
    }

    fn command(
        &self,
        linked: &InstancePre<Process>,
        script: Option<Script>,
        attempt: Attempt,
        given: Given,
    ) -> Command {
        let code = script.as_ref().map(|script| script.files.clone()).unwrap_or_default();
        let outbox = given
            .write
            .then(|| Outbox::new(self.shared.directory.clone(), attempt.allowance.limits.output));
        let state = self.state(attempt, Side::tree(given, code, outbox));
        Command::new(linked.clone(), state, script)
    }

    fn state(&self, attempt: Attempt, side: Side) -> State {
        let memory = MemoryCap::new(attempt.allowance.limits.memory, self.shared.room.share());
        State::new(attempt, memory, side, self.machine().ticker.hold())
    }

    fn processes(&self) -> Result<&Processes, Trouble> {
        self.processes.as_ref().ok_or_else(|| Trouble::new("none are run here"))
    }

    fn module(
        &self,
        file: &FileRef,
        read: impl Fn(&FileRef) -> Result<Bytes, TaskError>,
        stop: &CancellationToken,
    ) -> Result<Module, TaskError> {
        let machine = self.machine();
        machine.cache.module(&machine.engine, file, || read(file), stop)
    }

    fn machine(&self) -> &Machine {
        self.shared.machine.get_or_init(|| {
            let engine = Engine::new(&config(self.shared.source));
            let engine = engine.expect("the settings below go together");
            Machine {
                cache: Cache::new(
                    self.shared.directory.clone(),
                    self.shared.compiler.clone(),
                    self.shared.room.total(),
                ),
                ticker: Ticker::new(engine.clone()),
                engine,
            }
        })
    }
}

/// Code that is ready to run: of wasm, compiled and with what it imports.
pub struct Program {
    runtime: Runtime,
    form: Form,
}

enum Form {
    Functions(InstancePre<State>),
    Command(InstancePre<Process>),
    Python(InstancePre<Process>, Script),
    Process(process::Program),
    Container(container::Program),
}

impl Program {
    /// A fresh instance, which may read what is `given`. When the attempt is stopped, a call ends with
    /// [`TaskError::Stopped`].
    ///
    /// # Errors
    /// When it is too large for its limits or for what other guests have left of the node's memory.
    pub fn instantiate(&self, attempt: Attempt, given: Given) -> Result<Box<dyn Guest>, TaskError> {
        let (linked, script) = match &self.form {
            Form::Functions(linked) => {
                let state = self.runtime.state(attempt, Side::new(given));
                return Ok(Box::new(Instance::new(linked, state)?));
            }
            Form::Command(linked) => (linked, None),
            Form::Python(linked, script) => (linked, Some(script.clone())),
            Form::Process(program) => return Ok(Box::new(program.instantiate(attempt, given))),
            Form::Container(_) => {
                return Err(
                    containers::Trouble::Unfit("it is run for its files, and not called").into()
                );
            }
        };
        Ok(Box::new(self.runtime.command(linked, script, attempt, given)))
    }

    /// Makes each of `calls` of `function`, as [`Program::each`](ipdc_jobs::kind::Program::each) says, for the
    /// attempt that `attempts` gives. Interpreters stay for later tasks of `job`.
    pub fn each(
        &self,
        function: &str,
        given: &Given,
        calls: &mut dyn Calls,
        attempts: &dyn Fn(&Call) -> Attempt,
        job: Option<JobId>,
    ) {
        let mut orders = Orders { calls, attempts };
        let (linked, script) = match &self.form {
            Form::Functions(linked) => {
                return orders.each_alone(given, |attempt, given, call, orders| {
                    let state = self.runtime.state(attempt, Side::new(given));
                    Instance::new(linked, state)?.run(function, &call.input, orders)
                });
            }
            Form::Process(program) => {
                return orders.each_alone(given, |attempt, given, call, orders| {
                    program.instantiate(attempt, given).call_for(function, &call.input, orders)
                });
            }
            Form::Container(program) => {
                return orders.each_alone(given, |attempt, given, _, orders| {
                    program.call_for(attempt, &given, &self.runtime.shared.room, orders)
                });
            }
            Form::Command(linked) => (linked, None),
            Form::Python(linked, script) => (linked, Some(script)),
        };
        let Some(first) = orders.next() else { return };
        let command = {
            let (runtime, linked) = (self.runtime.clone(), linked.clone());
            let (script, given) = (script.cloned(), given.clone());
            move |limits: &Limits| {
                runtime.command(&linked, script.clone(), Attempt::none(limits), given.clone())
            }
        };
        match (script, job) {
            (Some(script), Some(job)) => {
                let (main, function) = (script.main.clone(), function.to_owned());
                let key = Key { job, main, function };
                server::serve(&self.runtime.shared.room, &key, &command, first, &mut orders);
            }
            _ => command(&first.attempt.allowance.limits).serve(function, first, &mut orders),
        }
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
        .max_wasm_stack(STACK_LIMIT)
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
            let name = format!("`{}` from `{}`", shown(import.name()), shown(import.module()));
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
