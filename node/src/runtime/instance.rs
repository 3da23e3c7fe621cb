//! One instance of a guest, with its limits of memory and time.

use std::time::Instant;

use ipdc_jobs::kind::{Call, Guest, TaskError};
use ipdc_jobs::message::FailureClass;
use wasmtime::{
    InstancePre, Linker, Memory, Module, ResourceLimiter, Store, Trap, TypedFunc, UpdateDeadline,
};

use super::allowance::Allowance;
use super::answer::Answer;
use super::calls::{Attempt, Once, Order, Source};
use super::command::GaveUp;
use super::imports::{self, Outlet, Sink};
use super::outbox::Outbox;
use super::room::Share;
use super::side::Side;
use super::ticker::Hold;
use super::{GuestError, PIECE, shown, trace};
use crate::config::Size;

/// Elements of all of a guest's tables: function pointers, of eight bytes of the node's memory each. Large
/// programs have some ten thousand.
pub(super) const TABLE_LIMIT: usize = 1 << 20;

/// Bytes of a guest's call stack, which is the node's memory: wasmtime's own choice. The thread that it runs on
/// has four times as much.
pub(super) const STACK_LIMIT: usize = 512 << 10;

/// Functions of a backtrace that an error names.
const BACKTRACE_LIMIT: usize = 8;

/// What the guest's store holds.
pub(super) struct State {
    pub(super) outlet: Outlet,
    pub(super) side: Side,
    /// What came of the last fetch.
    pub(super) answer: Answer,
    allowance: Allowance,
    memory: MemoryCap,
    /// When the call under way must have ended. Moves on while the host fetches for the guest.
    deadline: Instant,
    _clock: Hold,
}

impl State {
    pub(super) fn new(
        Attempt { allowance, listener }: Attempt,
        memory: MemoryCap,
        side: Side,
        clock: Hold,
    ) -> Self {
        State {
            outlet: Outlet::new(listener),
            side,
            answer: Answer::default(),
            deadline: Instant::now() + allowance.left(),
            allowance,
            memory,
            _clock: clock,
        }
    }

    /// The time of a call begins.
    pub(super) fn begin(&mut self) {
        self.deadline = Instant::now() + self.allowance.left();
    }

    /// The time of a call is over.
    pub(super) fn end(&mut self) {
        self.allowance.set_left(self.deadline.saturating_duration_since(Instant::now()));
    }

    /// From now on it works for this call.
    pub(super) fn turn(&mut self, Order { call, attempt }: Order) -> Call {
        self.allowance = attempt.allowance;
        self.begin();
        self.outlet.turn(attempt.listener);
        self.side.turn(call.file);
        self.answer = Answer::default();
        self.memory.wanted_more = false;
        self.memory.wanted_elements = false;
        call
    }

    /// The instance before is gone, and what it had.
    pub(super) fn renew(&mut self) {
        self.memory.elements = 0;
        self.memory.wanted_more = false;
        self.memory.wanted_elements = false;
    }

    /// Whether it asked for more memory than it may have.
    pub(super) fn wanted_more_memory(&self) -> bool {
        self.memory.wanted_more
    }

    /// What its memory may grow to.
    pub(super) fn cap(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.memory
    }

    /// Keeps the host's own failure for the end of the call, and ends the guest.
    pub(super) fn keep<T>(&mut self, sent: Result<T, TaskError>) -> Result<T, wasmtime::Error> {
        sent.map_err(|failure| {
            self.outlet.failure = Some(failure);
            wasmtime::Error::msg("the host could not do what the guest asked")
        })
    }

    /// Reads of a side file as [`Side::read`] does. The guest is spared the time in which it waits for what
    /// other nodes send, and no other: else reading what is here would be a way to run without end.
    pub(super) fn read_file(
        &mut self,
        name: &[u8],
        offset: u64,
        room: &mut [u8],
    ) -> Result<Option<usize>, wasmtime::Error> {
        let mut filled = 0;
        loop {
            let (began, fetched) = (Instant::now(), self.outlet.listener.fetched());
            let end = room.len().min(filled + PIECE);
            let (from, part) = (offset.saturating_add(filled as u64), &mut room[filled..end]);
            let read = self.side.read(name, from, part, self.outlet.listener.as_mut());
            if self.outlet.listener.fetched() != fetched {
                self.deadline += began.elapsed();
            }
            let Some(read) = self.keep(read)? else { return Ok(None) };
            filled += read;
            if filled < end || filled == room.len() {
                return Ok(Some(filled));
            }
            self.check()?;
        }
    }

    /// Looks for the file that `name` names by its CID, if it does.
    pub(super) fn look_up(&mut self, name: &str) -> Result<bool, wasmtime::Error> {
        let found = self.side.look_up(name, self.outlet.listener.as_mut());
        self.keep(found)
    }

    /// The call under way has ended so: what is left of it goes out, and the files that it wrote if it ended well.
    pub(super) fn ended(&mut self, ended: Result<(), TaskError>) -> Result<(), TaskError> {
        let files = self.side.outbox.as_mut().map(Outbox::take).transpose();
        let ended = ended.and(files);
        self.outlet.end(ended.map(Option::unwrap_or_default))
    }

    /// Does what `request` asks of the network, as JSON. The guest's time goes on: how long it waits is up to
    /// what it asks for.
    pub(super) fn fetch(&mut self, request: &[u8]) -> Result<(), wasmtime::Error> {
        // The body of the last one is not kept beside the next.
        self.answer = Answer::default();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (rules, room) = (self.side.given().fetch.as_deref(), self.memory.taken.room());
        let fetched = Answer::fetch(request, rules, room, self.outlet.listener.as_mut(), left);
        self.answer = self.keep(fetched)?;
        self.check()
    }

    /// Names an item for the job.
    pub(super) fn enqueue(&mut self, item: &[u8]) -> Result<(), GuestError> {
        self.outlet.enqueue(self.side.given().enqueue, item)
    }

    /// Whether the guest may go on: for what a host function does piece by piece.
    pub(super) fn check(&self) -> Result<(), wasmtime::Error> {
        self.may_go_on().map(drop)
    }

    /// Asked at every tick of the clock.
    pub(super) fn may_go_on(&self) -> Result<UpdateDeadline, wasmtime::Error> {
        if self.allowance.stop.is_cancelled() {
            return Err(Interrupted::Stopped.into());
        }
        if Instant::now() >= self.deadline {
            return Err(Interrupted::Late.into());
        }
        Ok(UpdateDeadline::Continue(1))
    }
}

/// What the guest's memory may grow to.
pub(super) struct MemoryCap {
    bytes: u64,
    /// Set when it asked for more.
    wanted_more: bool,
    /// What its tables have together.
    elements: usize,
    /// Set when it asked for more of these.
    wanted_elements: bool,
    /// What it has of the node's memory.
    taken: Share,
}

impl MemoryCap {
    /// Up to `bytes`, if the node has them.
    pub(super) fn new(bytes: u64, taken: Share) -> Self {
        MemoryCap { bytes, wanted_more: false, elements: 0, wanted_elements: false, taken }
    }
}

impl ResourceLimiter for MemoryCap {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        if desired as u64 > self.bytes {
            self.wanted_more = true;
            return Ok(false);
        }
        // The guest may not go on without: elsewhere it would have had it, and the result may not
        // depend on where it runs. Each run of a command has but one memory, in the place of the last.
        let (wanted, room) = (desired as u64, self.taken.room().total());
        if self.taken.set(wanted) {
            Ok(true)
        } else {
            Err(Interrupted::NoRoom { wanted, room }.into())
        }
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, wasmtime::Error> {
        let elements = self.elements.saturating_add(desired.saturating_sub(current));
        self.wanted_elements |= elements > TABLE_LIMIT;
        if elements > TABLE_LIMIT {
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }
}

#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("stopped")]
    Stopped,
    #[error("late")]
    Late,
    #[error("no room")]
    NoRoom { wanted: u64, room: u64 },
}

/// `module` with what it imports, if it may and there is such a thing.
pub(super) fn linked(module: &Module) -> Result<InstancePre<State>, GuestError> {
    super::check_imports(module)?;
    let mut linker = Linker::new(module.engine());
    let linked = imports::link(&mut linker).and_then(|()| linker.instantiate_pre(module));
    linked.map_err(|error| GuestError::ImportType(shown(&format!("{error:#}"))))
}

/// An instance.
pub(super) struct Instance {
    store: Store<State>,
    instance: wasmtime::Instance,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
}

impl Instance {
    pub(super) fn new(linked: &InstancePre<State>, state: State) -> Result<Self, TaskError> {
        let mut store = Store::new(linked.module().engine(), state);
        store.limiter(State::cap);
        store.epoch_deadline_callback(|context| context.data().may_go_on());
        store.set_epoch_deadline(1);
        // A module may have a function that runs now.
        store.data_mut().begin();
        let instance = linked.instantiate(&mut store);
        store.data_mut().end();
        let instance = instance.map_err(|error| explain(&error, store.data_mut()))?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| GuestError::Export("its memory as `memory`".into()))?;
        let alloc = instance
            .get_typed_func(&mut store, "ipdc_alloc")
            .map_err(|_| GuestError::Export("`ipdc_alloc(n: i32) -> i32`".into()))?;
        Ok(Instance { store, instance, memory, alloc })
    }

    fn call_open(&mut self, function: &str, input: &[u8]) -> Result<(), TaskError> {
        let f: TypedFunc<(u32, u32), ()> = self
            .instance
            .get_typed_func(&mut self.store, function)
            .map_err(|_| GuestError::Export(format!("`{function}(ptr: i32, len: i32)`")))?;
        let len = u32::try_from(input.len()).map_err(|_| GuestError::Memory(self.cap()))?;
        let at = self.alloc.call(&mut self.store, len);
        let ptr = at.map_err(|error| explain(&error, self.store.data_mut()))?;
        let memory = self.memory.data_mut(&mut self.store);
        // Checked first, so that the error names what is wrong.
        imports::slice(memory, ptr, len, "the buffer of `ipdc_alloc`")?;
        memory[ptr as usize..][..input.len()].copy_from_slice(input);
        let called = f.call(&mut self.store, (ptr, len));
        called.map_err(|error| explain(&error, self.store.data_mut()))
    }

    fn cap(&self) -> u64 {
        self.store.data().allowance.limits.memory
    }

    /// Calls `function` with `input`; what comes of it goes to `source`.
    pub(super) fn run(
        &mut self,
        function: &str,
        input: &[u8],
        source: &mut dyn Source,
    ) -> Result<(), TaskError> {
        let state = self.store.data_mut();
        state.begin();
        state.outlet.open(source);
        let called = self.call_open(function, input);
        let state = self.store.data_mut();
        let ended = state.ended(called);
        state.outlet.close();
        state.end();
        ended
    }
}

impl Guest for Instance {
    fn call(&mut self, function: &str, input: &[u8], sink: &mut Sink<'_>) -> Result<(), TaskError> {
        self.run(function, input, &mut Once(sink))
    }
}

/// The node's trouble and not the guest's: another worker may have room for the `wanted` bytes, or, when
/// they are more than this one has for all guests, only a larger one.
pub(super) fn no_room(wanted: u64, room: u64) -> TaskError {
    let class = if wanted > room { FailureClass::TooSmall } else { FailureClass::Worker };
    let message =
        format!("the guest wants {wanted} bytes of memory; this node has {room} for all guests");
    TaskError::Failed { class, code: "IPDC-5312", message }
}

/// What a call's error was about.
pub(super) fn explain(error: &wasmtime::Error, state: &mut State) -> TaskError {
    if let Some(failure) = state.outlet.failure.take() {
        return failure;
    }
    if let Some(GaveUp(why)) = error.downcast_ref() {
        return GuestError::GaveUp(why.clone()).into();
    }
    let interrupted = error.downcast_ref::<Interrupted>();
    match interrupted {
        Some(Interrupted::Stopped) => return TaskError::Stopped,
        Some(Interrupted::NoRoom { wanted, room }) => return no_room(*wanted, *room),
        Some(Interrupted::Late) | None => {}
    }
    state.outlet.listener.failed_in(&trace::frames(error));
    if interrupted.is_some() {
        return GuestError::Time(state.allowance.limits.time_ms).into();
    }
    if let Some(GuestError::Bounds { what, ptr, len, size }) = error.downcast_ref() {
        return GuestError::Bounds { what, ptr: *ptr, len: *len, size: *size }.into();
    }
    if state.memory.wanted_more {
        return GuestError::Memory(state.allowance.limits.memory).into();
    }
    if state.memory.wanted_elements {
        return GuestError::Table.into();
    }
    let what = match error.downcast_ref::<Trap>() {
        Some(trap @ Trap::StackOverflow) => {
            format!("{trap}: it has {}", Size(STACK_LIMIT as u64))
        }
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    GuestError::Trap(format!("{what}{}", backtrace(error))).into()
}

/// ` in f, called by g`.
fn backtrace(error: &wasmtime::Error) -> String {
    let names: Vec<_> = trace::functions(error).take(BACKTRACE_LIMIT).collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(", called by ")) }
}
