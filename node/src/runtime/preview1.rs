//! The functions of WASI preview 1, for commands that have stdin, stdout, stderr and the job's side files.
//!
//! | | |
//! |---|---|
//! | here | what there is, and the world around a run: arguments, environment, clock, random numbers |
//! | [`descriptors`] | what works on descriptors and paths |
//! | [`files`] | the files that there are, and what of them is open |
//! | [`device`] | `/dev/ipdc`, where a run asks its host for what WASI has not |
//!
//! No other files, nothing else to write to, no network. The clock stands still, but for sleeps, which pass at once
//! and move it on; random numbers are the same in every run. So what a command computes depends on its module,
//! its side files and its input alone. What needs more answers with an error of WASI's own, which programs
//! know how to report; `docs/decisions/0010-wasi.md` says why these functions are our own.

/// Links functions that work on the guest's memory and on the run: what comes of each is [`answered`].
macro_rules! serve {
    ($linker:ident, |$memory:ident, $process:ident|
        $($name:ident($($argument:ident: $type:ty),*) => $done:expr;)*
    ) => {
        $($linker.func_wrap(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, Process>, $($argument: $type),*| {
                let ($memory, $process) = memory_of(&mut caller)?;
                answered(Done::Ok(()).and_then(|()| $done))
            },
        )?;)*
    };
}

mod descriptors;
pub(super) mod device;
mod files;

use sha2::{Digest as _, Sha256};
use wasmtime::{Caller, ExternType, Linker, Module, Val};

use super::command::{Exit, Process};
use super::imports::{memory_of, slice, slice_mut};
use super::python::Script;
use super::side::Side;
use super::{GuestError, PIECE, shown};
use device::Device;
use files::Files;

/// The module that commands import from.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// The functions that do nothing, and what they answer.
const REFUSED: [(Errno, &[&str]); 2] = [
    (
        Errno::ReadOnly,
        &[
            "path_create_directory",
            "path_filestat_set_times",
            "path_link",
            "path_remove_directory",
            "path_rename",
            "path_symlink",
            "path_unlink_file",
        ],
    ),
    (
        Errno::NotCapable,
        &[
            "fd_advise",
            "fd_allocate",
            "fd_datasync",
            "fd_fdstat_set_rights",
            "fd_filestat_set_size",
            "fd_filestat_set_times",
            "fd_pwrite",
            "fd_renumber",
            "fd_sync",
            "sock_accept",
            "sock_recv",
            "sock_send",
            "sock_shutdown",
        ],
    ),
];

/// The others, which [`link`] has.
const SERVED: [&str; 25] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_filestat_get",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_readdir",
    "fd_seek",
    "fd_tell",
    "fd_write",
    "path_filestat_get",
    "path_open",
    "path_readlink",
    "poll_oneoff",
    "proc_exit",
    "random_get",
    "sched_yield",
];

/// WASI's error numbers, of those that come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{self:?}")]
#[repr(i32)]
enum Errno {
    Success = 0,
    BadDescriptor = 8,
    Invalid = 28,
    IsDirectory = 31,
    TooManyOpen = 33,
    NameTooLong = 37,
    /// A request that is too long.
    TooLong = 35,
    NoEntry = 44,
    NotDirectory = 54,
    ReadOnly = 69,
    /// There is no seeking on a pipe.
    Pipe = 70,
    NotCapable = 76,
}

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// What a run's clock shows when it begins: the first second of 2000, in nanoseconds. Programs take zero
/// for a clock that is broken.
const EPOCH: u64 = 946_684_800_000_000_000;

/// What the clock claims to be good for, in nanoseconds.
const RESOLUTION: u64 = 1_000;

/// The kinds of clocks that there are: real, monotonic, the process's, the thread's.
const CLOCKS: u32 = 4;

/// Events that one `poll_oneoff` may wait for: more than a program without sockets can have.
const EVENTS_LIMIT: u32 = 64;

/// What a run sees of the world beside its stdin.
#[derive(Default)]
pub(super) struct World {
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
    /// Nanoseconds since 1970.
    clock: u64,
    /// Blocks of random bytes drawn.
    drawn: u64,
    files: Files,
    pub(super) device: Device,
    /// Whether it asked which directories it may open.
    looked_for_files: bool,
}

impl World {
    /// Its name, the one argument, is that of the function it is run for; of an interpreter, the script says
    /// the rest. In its environment are the job's params and the name of the input.
    pub(super) fn new(function: &str, script: Option<&Script>, side: &Side) -> Self {
        let named = || vec![function.into()];
        let own =
            [[b"IPDC_PARAMS=", side.params()].concat(), [b"IPDC_INPUT=", side.input()].concat()];
        World {
            arguments: script.map_or_else(named, |script| script.arguments(function)),
            environment: own.into_iter().chain(script.map(Script::environment)).collect(),
            clock: EPOCH,
            files: Files::new(script.is_some()),
            ..World::default()
        }
    }

    /// Whether it can open files, and has opened none.
    pub(super) fn missed_files(&self) -> bool {
        self.looked_for_files && !self.files.were_opened()
    }

    /// The same in every run, and without a pattern: hashes of 0, 1, 2 and so on.
    fn draw(&mut self, room: &mut [u8]) {
        for part in room.chunks_mut(32) {
            let block = Sha256::digest(self.drawn.to_le_bytes());
            part.copy_from_slice(&block[..part.len()]);
            self.drawn += 1;
        }
    }
}

/// Checks that `module` imports nothing but preview 1.
pub(super) fn check_imports(module: &Module) -> Result<(), GuestError> {
    for import in module.imports() {
        let known = SERVED.contains(&import.name()) || refusal(import.name()).is_some();
        if import.module() != MODULE || !known {
            let name = format!("`{}` from `{}`", shown(import.name()), shown(import.module()));
            return Err(GuestError::Import(name));
        }
    }
    Ok(())
}

/// Links the imports of `module`.
pub(super) fn link(linker: &mut Linker<Process>, module: &Module) -> Result<(), wasmtime::Error> {
    for import in module.imports() {
        if let (Some(errno), ExternType::Func(of_type)) = (refusal(import.name()), import.ty()) {
            linker.func_new(MODULE, import.name(), of_type, move |_, _, results| {
                results.fill(Val::I32(errno as i32));
                Ok(())
            })?;
        }
    }
    link_world(linker)?;
    descriptors::link(linker)
}

/// What a function answers that does nothing.
fn refusal(name: &str) -> Option<Errno> {
    REFUSED.iter().find(|(_, names)| names.contains(&name)).map(|(errno, _)| *errno)
}

fn link_world(linker: &mut Linker<Process>) -> Result<(), wasmtime::Error> {
    serve! { linker, |memory, process|
        args_sizes_get(n: u32, size: u32) => sizes(memory, &process.world.arguments, n, size);
        args_get(list: u32, text: u32) => strings(memory, &process.world.arguments, list, text);
        environ_sizes_get(n: u32, size: u32) => sizes(memory, &process.world.environment, n, size);
        environ_get(list: u32, text: u32) => strings(memory, &process.world.environment, list, text);
        clock_time_get(clock: u32, _precision: u64, at: u32) => {
            time(memory, clock, at, process.world.clock)
        };
        random_get(ptr: u32, len: u32) => {
            for room in slice_mut(memory, ptr, len, "room for `random_get`")?.chunks_mut(PIECE) {
                process.world.draw(room);
                process.state.check()?;
            }
            Ok(())
        };
        poll_oneoff(wanted: u32, events: u32, n: u32, count: u32) => {
            poll(memory, &mut process.world, wanted, events, n, count)
        };
    }
    serve! { linker, |memory, _process|
        clock_res_get(clock: u32, at: u32) => time(memory, clock, at, RESOLUTION);
    }
    linker.func_wrap(MODULE, "sched_yield", || Errno::Success as i32)?;
    linker.func_wrap(MODULE, "proc_exit", |code: u32| -> Result<(), wasmtime::Error> {
        Err(Exit(code).into())
    })?;
    Ok(())
}

/// What a function did. An [`Errno`] is for the command to deal with; any other error ends it.
type Done = Result<(), wasmtime::Error>;

/// What a function answers: an error number, or, where it ends the command, an error.
fn answered(done: Done) -> Result<i32, wasmtime::Error> {
    match done.map_err(|error| error.downcast::<Errno>()) {
        Ok(()) => Ok(Errno::Success as i32),
        Err(Ok(errno)) => Ok(errno as i32),
        Err(Err(error)) => Err(error),
    }
}

fn number(memory: &[u8], at: u32) -> Result<u32, GuestError> {
    let bytes = slice(memory, at, 4, "a list of pieces")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("it has four bytes")))
}

fn put(memory: &mut [u8], at: u32, bytes: &[u8]) -> Done {
    let room = slice_mut(memory, at, bytes.len() as u32, "room for an answer")?;
    room.copy_from_slice(bytes);
    Ok(())
}

fn time(memory: &mut [u8], clock: u32, at: u32, nanoseconds: u64) -> Done {
    if clock < CLOCKS {
        put(memory, at, &nanoseconds.to_le_bytes())
    } else {
        Err(Errno::Invalid.into())
    }
}

/// How many strings there are, and their bytes in all, each with a zero at its end.
fn sizes(memory: &mut [u8], strings: &[Vec<u8>], n: u32, size: u32) -> Done {
    let total: usize = strings.iter().map(|text| text.len() + 1).sum();
    put(memory, n, &(strings.len() as u32).to_le_bytes())?;
    put(memory, size, &(total as u32).to_le_bytes())
}

/// Writes the strings to `text` and a pointer to each to `list`.
fn strings(memory: &mut [u8], strings: &[Vec<u8>], list: u32, text: u32) -> Done {
    let (mut list, mut text) = (list, text);
    for string in strings {
        put(memory, list, &text.to_le_bytes())?;
        put(memory, text, string)?;
        text = text.saturating_add(string.len() as u32);
        put(memory, text, &[0])?;
        (list, text) = (list.saturating_add(4), text.saturating_add(1));
    }
    Ok(())
}

/// Bytes of what a program waits for, as it says so, and of what came of it.
const WANTED: u32 = 48;
const EVENT: u32 = 32;

/// Waits for the first of `n` things. Descriptors are always ready; a clock is at once, by moving on.
fn poll(
    memory: &mut [u8],
    world: &mut World,
    wanted: u32,
    events: u32,
    n: u32,
    count: u32,
) -> Done {
    if n == 0 || n > EVENTS_LIMIT {
        return Err(Errno::Invalid.into());
    }
    let wanted = slice(memory, wanted, n * WANTED, "what to wait for")?;
    let wanted: Vec<_> =
        wanted.chunks_exact(WANTED as usize).map(|one| Wanted::read(one, world.clock)).collect();
    let due = wanted.iter().map(|one| one.due).min().unwrap_or_default();
    world.clock = world.clock.max(due);
    let mut ready = 0;
    for one in wanted.iter().filter(|one| one.due <= due) {
        put(memory, events.saturating_add(ready * EVENT), &one.event())?;
        ready += 1;
    }
    put(memory, count, &ready.to_le_bytes())
}

/// One thing that a program waits for.
struct Wanted {
    /// The program's own name for it.
    name: [u8; 8],
    kind: u8,
    /// When it is there, by the clock; zero for at once.
    due: u64,
}

impl Wanted {
    /// `[name u64][kind u8 at 8]`, and of a clock `[time u64 at 24][whether that is absolute u16 at 40]`.
    fn read(one: &[u8], now: u64) -> Self {
        const CLOCK: u8 = 0;
        let eight = |at: usize| one[at..at + 8].try_into().expect("it has eight bytes");
        let (kind, time) = (one[8], u64::from_le_bytes(eight(24)));
        let due = match (kind, one[40] & 1) {
            (CLOCK, 1) => time,
            (CLOCK, _) => now.saturating_add(time),
            _ => 0,
        };
        Wanted { name: eight(0), kind, due }
    }

    /// `[name u64][error u16][kind u8]`, then how many bytes are there: at least one.
    fn event(&self) -> [u8; EVENT as usize] {
        let mut event = [0; EVENT as usize];
        event[..8].copy_from_slice(&self.name);
        event[10] = self.kind;
        event[16] = 1;
        event
    }
}
