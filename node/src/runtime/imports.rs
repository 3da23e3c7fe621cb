//! What a guest may call: the functions of the module `ipdc`.
//!
//! Every pointer and length is checked against the guest's memory; a wrong one ends the guest.

use std::fs::File;
use std::ptr::NonNull;

use ipdc_jobs::cl::ITEM_LIMIT;
use ipdc_jobs::kind::{RECORD_LIMIT, TaskError};
use ipdc_jobs::message::{COUNTER_NAME_LIMIT, COUNTERS_LIMIT, Counters};
use wasmtime::{Caller, Extern, Linker, Memory};

use super::calls::{Nobody, Order, Source};
use super::instance::State;
use super::{GuestError, Listener, PIECE};

/// The module that guests import from.
pub(super) const MODULE: &str = "ipdc";

/// What is in it.
pub(super) const NAMES: [&str; 13] = [
    "flush",
    "emit",
    "log",
    "progress",
    "counter",
    "params",
    "input",
    "file_len",
    "file_read",
    "fetch",
    "fetch_head",
    "fetch_body",
    "enqueue",
];

/// What `file_len` and `file_read` answer when the job has no side file of the name.
const NO_FILE: i32 = -1;

/// Bytes of emitted records that are collected before they go on in one piece.
const EMIT_BUFFER: usize = 64 << 10;

/// The longest line of a guest's log; the rest of it is cut off.
pub(super) const LOG_LINE: usize = 1_024;

/// Bytes that one guest may log in all: enough to find a fault, too few to fill a disk.
const LOG_LIMIT: usize = 256 << 10;

/// The last line of a log that has reached its limit.
const LOG_ENDS: &str = "(256 KiB were logged, which is what a guest may log; the rest is not kept)";

/// The most bytes that one `file_read` or `fetch_body` gives: the answer is a signed number.
const READ_LIMIT: u32 = 1 << 30;

/// Where a guest's records go during one call.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), TaskError> + 'a;

/// The guest's way out: records, counts, log, progress.
pub(super) struct Outlet {
    source: Option<NonNull<dyn Source>>,
    pending: Vec<u8>,
    /// What the call under way counted.
    counted: Counters,
    logged: usize,
    pub(super) listener: Box<dyn Listener>,
    /// What the host failed with: it ends the guest, and then the attempt.
    pub(super) failure: Option<TaskError>,
}

impl Outlet {
    pub(super) fn new(listener: Box<dyn Listener>) -> Self {
        Outlet {
            source: None,
            pending: Vec::new(),
            counted: Counters::new(),
            logged: 0,
            listener,
            failure: None,
        }
    }

    /// What the guest emits goes to `source` from now on, until [`Outlet::close`].
    pub(super) fn open(&mut self, source: &mut (dyn Source + '_)) {
        let source: NonNull<dyn Source + '_> = NonNull::from(source);
        // SAFETY: only the lifetime changes. Who opens the outlet, `Instance::run`, `Command::run` and a process's `Run::call_for`, holds the
        // borrow for longer than the pointer stays here: they close the outlet before they return, on every path.
        #[allow(unsafe_code)]
        let source = unsafe {
            std::mem::transmute::<NonNull<dyn Source + '_>, NonNull<dyn Source + 'static>>(source)
        };
        self.source = Some(source);
    }

    /// Lets go of the source.
    pub(super) fn close(&mut self) {
        self.source = None;
    }

    /// The call under way is over, and wrote these files if it ended well; what is pending goes out. What it
    /// counted counts if all of it went well; else its records may be given again.
    pub(super) fn end(
        &mut self,
        ended: Result<Vec<(String, File)>, TaskError>,
    ) -> Result<(), TaskError> {
        let sent = self.send_pending();
        self.pending.clear();
        let counted = std::mem::take(&mut self.counted);
        let files = ended?;
        sent?;
        if let Some(source) = self.source() {
            files.into_iter().try_for_each(|(name, file)| source.file(name, file))?;
        }
        if counted.is_empty() || self.listener.count(counted) {
            Ok(())
        } else {
            Err(GuestError::Counter("too many names".to_owned()).into())
        }
    }

    /// The call under way has ended; the next one.
    pub(super) fn next(&mut self, ended: Result<(), TaskError>) -> Option<Order> {
        // Until there is another, which may take a while, nobody is kept to hear it.
        self.listener = Box::new(Nobody);
        let source = self.source()?;
        source.ended(ended);
        source.next()
    }

    /// What is said from now on is heard by `listener`.
    pub(super) fn turn(&mut self, listener: Box<dyn Listener>) {
        self.logged = 0;
        self.listener = listener;
    }

    fn source(&mut self) -> Option<&mut (dyn Source + 'static)> {
        // SAFETY: between `open` and `close` the source is borrowed by who calls `open`, and
        // used through this pointer alone, from the one thread that runs the guest.
        #[allow(unsafe_code)]
        self.source.as_mut().map(|source| unsafe { source.as_mut() })
    }

    fn send(&mut self, records: &[u8]) -> Result<(), TaskError> {
        self.source().map_or(Ok(()), |source| source.emit(records))
    }

    fn send_pending(&mut self) -> Result<(), TaskError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let sent = self.send(&pending);
        pending.clear();
        self.pending = pending;
        sent
    }

    fn flush(&mut self, records: &[u8]) -> Result<(), TaskError> {
        self.send_pending()?;
        self.send(records)
    }

    pub(super) fn emit(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        let record = key.len() + value.len();
        if record > RECORD_LIMIT {
            return Err(GuestError::Record(record).into());
        }
        let len = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
        self.pending.extend_from_slice(&len(key));
        self.pending.extend_from_slice(&len(value));
        self.pending.extend_from_slice(key);
        self.pending.extend_from_slice(value);
        if self.pending.len() < EMIT_BUFFER { Ok(()) } else { self.send_pending() }
    }

    pub(super) fn count(&mut self, name: &[u8], by: u64) -> Result<(), GuestError> {
        let start = &name[..name.len().min(COUNTER_NAME_LIMIT)];
        let refused = || GuestError::Counter(format!("`{}`", start.escape_ascii()));
        if name.is_empty() || name.len() > COUNTER_NAME_LIMIT {
            return Err(refused());
        }
        let text = std::str::from_utf8(name).map_err(|_| refused())?;
        if let Some(count) = self.counted.get_mut(text) {
            *count = count.saturating_add(by);
            return Ok(());
        }
        if text.chars().any(char::is_control) || self.counted.len() == COUNTERS_LIMIT {
            return Err(refused());
        }
        self.counted.insert(text.to_owned(), by);
        Ok(())
    }

    /// Names an item for the job, if that is what it `may`.
    pub(super) fn enqueue(&mut self, may: bool, item: &[u8]) -> Result<(), GuestError> {
        let named = match std::str::from_utf8(item) {
            _ if !may => Err("its job has no `[enqueue]`"),
            Ok(item) if item.is_empty() || item.len() > ITEM_LIMIT => {
                Err("it is empty or too long")
            }
            Ok(item) if !self.listener.enqueue(item) => Err("it named as many as it may"),
            Ok(_) => Ok(()),
            Err(_) => Err("it is not UTF-8 text"),
        };
        named.map_err(GuestError::Enqueue)
    }

    pub(super) fn log(&mut self, bytes: &[u8]) {
        if self.logged >= LOG_LIMIT {
            return;
        }
        // What is beyond the limit is not looked at: it may be gigabytes.
        let bytes = &bytes[..bytes.len().min(LOG_LIMIT)];
        for line in String::from_utf8_lossy(bytes).lines() {
            let line = &line[..line.floor_char_boundary(LOG_LINE)];
            self.logged += line.len() + 1;
            self.listener.log(line);
            if self.logged >= LOG_LIMIT {
                self.listener.log(LOG_ENDS);
                return;
            }
        }
    }
}

/// Links the imports.
pub(super) fn link(linker: &mut Linker<State>) -> Result<(), wasmtime::Error> {
    linker.func_wrap(MODULE, "flush", |mut caller: Caller<'_, State>, ptr: u32, len: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        let mut rest = slice(memory, ptr, len, "records to `flush`")?;
        while !rest.is_empty() {
            let (records, after) = rest.split_at(piece_of(rest));
            let sent = state.outlet.flush(records);
            state.keep(sent)?;
            rest = after;
            if !rest.is_empty() {
                state.check()?;
            }
        }
        Ok::<_, wasmtime::Error>(())
    })?;
    linker.func_wrap(
        MODULE,
        "emit",
        |mut caller: Caller<'_, State>, kp: u32, kl: u32, vp: u32, vl: u32| {
            let (memory, state) = memory_of(&mut caller)?;
            let key = slice(memory, kp, kl, "a key to `emit`")?;
            let value = slice(memory, vp, vl, "a value to `emit`")?;
            let sent = state.outlet.emit(key, value);
            state.keep(sent)
        },
    )?;
    linker.func_wrap(MODULE, "log", |mut caller: Caller<'_, State>, ptr: u32, len: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        state.outlet.log(slice(memory, ptr, len, "a text to `log`")?);
        Ok::<_, wasmtime::Error>(())
    })?;
    linker.func_wrap(
        MODULE,
        "progress",
        |mut caller: Caller<'_, State>, done: u64, total: u64| {
            caller.data_mut().outlet.listener.progress(done, total);
        },
    )?;
    linker.func_wrap(
        MODULE,
        "counter",
        |mut caller: Caller<'_, State>, np: u32, nl: u32, by: u64| {
            let (memory, state) = memory_of(&mut caller)?;
            let name = slice(memory, np, nl, "a name to `counter`")?;
            let counted = state.outlet.count(name, by);
            state.keep(counted.map_err(TaskError::from))
        },
    )?;
    linker.func_wrap(MODULE, "params", |mut caller: Caller<'_, State>, ptr: u32, cap: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        give(memory, ptr, cap, state.side.params(), "room for `params`")
    })?;
    linker.func_wrap(MODULE, "input", |mut caller: Caller<'_, State>, ptr: u32, cap: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        give(memory, ptr, cap, state.side.input(), "room for `input`")
    })?;
    linker.func_wrap(MODULE, "file_len", |mut caller: Caller<'_, State>, np: u32, nl: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        let name = slice(memory, np, nl, "a name to `file_len`")?;
        let len = state.side.len(name).map(|len| i64::try_from(len).unwrap_or(i64::MAX));
        Ok::<_, wasmtime::Error>(len.unwrap_or(NO_FILE.into()))
    })?;
    linker.func_wrap(
        MODULE,
        "file_read",
        |mut caller: Caller<'_, State>, np: u32, nl: u32, offset: u64, ptr: u32, cap: u32| {
            let (memory, state) = memory_of(&mut caller)?;
            let name = slice(memory, np, nl, "a name to `file_read`")?;
            look_up(state, name)?;
            let name = state.side.name(name);
            let cap = cap.min(READ_LIMIT);
            let room = slice_mut(memory, ptr, cap, "room for `file_read`")?;
            let Some(name) = name else { return Ok(NO_FILE) };
            let read = state.read_file(name.as_bytes(), offset, room)?;
            Ok::<_, wasmtime::Error>(read.map_or(NO_FILE, |len| len as i32))
        },
    )?;
    linker.func_wrap(MODULE, "fetch", |mut caller: Caller<'_, State>, ptr: u32, len: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        state.fetch(slice(memory, ptr, len, "a request to `fetch`")?)?;
        Ok::<_, wasmtime::Error>(state.answer.head().len() as u32)
    })?;
    linker.func_wrap(
        MODULE,
        "fetch_head",
        |mut caller: Caller<'_, State>, ptr: u32, cap: u32| {
            let (memory, state) = memory_of(&mut caller)?;
            give(memory, ptr, cap, state.answer.head(), "room for `fetch_head`")
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fetch_body",
        |mut caller: Caller<'_, State>, offset: u64, ptr: u32, cap: u32| {
            let (memory, state) = memory_of(&mut caller)?;
            let cap = cap.min(READ_LIMIT);
            let left = give(memory, ptr, cap, state.answer.body(offset), "room for `fetch_body`")?;
            Ok::<_, wasmtime::Error>(left.min(cap))
        },
    )?;
    linker.func_wrap(MODULE, "enqueue", |mut caller: Caller<'_, State>, ptr: u32, len: u32| {
        let (memory, state) = memory_of(&mut caller)?;
        let named = state.enqueue(slice(memory, ptr, len, "an item to `enqueue`")?);
        state.keep(named.map_err(TaskError::from))
    })?;
    Ok(())
}

fn look_up(state: &mut State, name: &[u8]) -> Result<(), wasmtime::Error> {
    std::str::from_utf8(name).map_or(Ok(()), |name| state.look_up(name).map(drop))
}

/// The length of the first records of `packed` that have about [`PIECE`] bytes: of all of them, where they
/// have no more or are not whole. What receives them checks them.
fn piece_of(packed: &[u8]) -> usize {
    let mut end = 0;
    while end < PIECE {
        let Some(header) = packed.get(end..).and_then(|rest| rest.first_chunk::<8>()) else {
            return packed.len();
        };
        let [k0, k1, k2, k3, v0, v1, v2, v3] = *header;
        let lengths = [[k0, k1, k2, k3], [v0, v1, v2, v3]].map(u32::from_le_bytes);
        end += header.len() + lengths.map(|len| len as usize).iter().sum::<usize>();
    }
    end.min(packed.len())
}

/// Writes what of `bytes` has room in `cap` bytes at `ptr`; the length of them all.
fn give(
    memory: &mut [u8],
    ptr: u32,
    cap: u32,
    bytes: &[u8],
    what: &'static str,
) -> Result<u32, wasmtime::Error> {
    let room = slice_mut(memory, ptr, cap, what)?;
    let fits = room.len().min(bytes.len());
    room[..fits].copy_from_slice(&bytes[..fits]);
    Ok(bytes.len() as u32)
}

/// The guest's memory and what its store holds.
pub(super) fn memory_of<'a, T: 'static>(
    caller: &'a mut Caller<'_, T>,
) -> Result<(&'a mut [u8], &'a mut T), wasmtime::Error> {
    let memory: Memory = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory,
        _ => {
            return Err(wasmtime::Error::from(GuestError::Export("its memory as `memory`".into())));
        }
    };
    Ok(memory.data_and_store_mut(caller))
}

/// `len` bytes at `ptr` of `memory`.
pub(super) fn slice<'a>(
    memory: &'a [u8],
    ptr: u32,
    len: u32,
    what: &'static str,
) -> Result<&'a [u8], GuestError> {
    let (start, size) = (ptr as usize, memory.len());
    let end = start.checked_add(len as usize);
    end.and_then(|end| memory.get(start..end)).ok_or(GuestError::Bounds { what, ptr, len, size })
}

/// [`slice`], to write to.
pub(super) fn slice_mut<'a>(
    memory: &'a mut [u8],
    ptr: u32,
    len: u32,
    what: &'static str,
) -> Result<&'a mut [u8], GuestError> {
    slice(memory, ptr, len, what)?;
    Ok(&mut memory[ptr as usize..][..len as usize])
}
