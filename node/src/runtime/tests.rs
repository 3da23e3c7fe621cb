#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipdc_jobs::ids::{CODEC_RAW, cid_of};
use ipdc_jobs::manifest::Limits;

use super::*;

mod fetch;
mod hostile;

/// A module whose `map` has `body`, with a memory of one page and a fixed buffer at 1024.
fn module(body: &str) -> String {
    format!(
        r#"(module
            (import "ipdc" "flush" (func $flush (param i32 i32)))
            (import "ipdc" "emit" (func $emit (param i32 i32 i32 i32)))
            (import "ipdc" "log" (func $log (param i32 i32)))
            (import "ipdc" "progress" (func $progress (param i64 i64)))
            (import "ipdc" "counter" (func $counter (param i32 i32 i64)))
            (import "ipdc" "params" (func $params (param i32 i32) (result i32)))
            (import "ipdc" "input" (func $input (param i32 i32) (result i32)))
            (import "ipdc" "file_len" (func $file_len (param i32 i32) (result i64)))
            (import "ipdc" "file_read" (func $file_read (param i32 i32 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "keyvalue")
            (data (i32.const 16) "therelost")
            (func (export "ipdc_alloc") (param i32) (result i32) (i32.const 1024))
            (func $inner {body})
            (func (export "map") (param $ptr i32) (param $len i32) (call $inner)))"#
    )
}

#[derive(Clone, Default)]
struct Heard {
    lines: Arc<Mutex<Vec<String>>>,
    /// Whether side files come from another node, and slowly.
    far: Arc<AtomicBool>,
    fetched: Arc<AtomicU64>,
}

impl Listener for Heard {
    fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
    fn log(&mut self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
    fn progress(&mut self, done: u64, total: u64) {
        self.lines.lock().unwrap().push(format!("{done}/{total}"));
    }
    fn count(&mut self, counted: Counters) -> bool {
        let mut heard = self.lines.lock().unwrap();
        heard.extend(counted.iter().map(|(name, by)| format!("{name} +{by}")));
        counted.values().all(|by| *by < 10)
    }
    fn failed_in(&mut self, calls: &[Frame]) {
        let calls: Vec<_> = calls.iter().map(ToString::to_string).collect();
        self.lines.lock().unwrap().push(format!("failed in {}", calls.join(" of ")));
    }
    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        if file.cid != cid_of(CODEC_RAW, FILE) {
            let message = "nobody has it".to_owned();
            return Err(TaskError::Missing { file: Box::new(*file), task: None, message });
        }
        if self.far.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(300));
            self.fetched.fetch_add(file.len, Ordering::Relaxed);
        }
        Ok(Box::new(Stored))
    }
}

/// The bytes of the one side file there is.
const FILE: &[u8] = b"side file";

/// Reads [`FILE`], four bytes at most at a time.
struct Stored;

impl ReadAt for Stored {
    fn len(&self) -> u64 {
        FILE.len() as u64
    }
    fn read_at(&mut self, offset: u64, want: usize) -> std::io::Result<Bytes> {
        let rest = &FILE[(offset as usize).min(FILE.len())..];
        Ok(Bytes::from_static(&rest[..rest.len().min(want).min(4)]))
    }
}

/// A module, and what reads it.
pub(super) fn module_of(bytes: &[u8]) -> (Code, impl Fn(&FileRef) -> Result<Bytes, TaskError>) {
    let file = FileRef { cid: cid_of(CODEC_RAW, bytes), len: bytes.len() as u64 };
    (Code::Module(file), move |_: &FileRef| Ok(Bytes::copy_from_slice(bytes)))
}

/// What the guests of a test have together.
const ROOM: u64 = 64 << 20;

pub(super) struct Bench {
    _directory: tempfile::TempDir,
    runtime: Runtime,
    pub(super) limits: Limits,
    stop: CancellationToken,
    heard: Heard,
}

impl Runtime {
    /// A fresh instance of `code`.
    pub(super) fn instantiate(
        &self,
        code: &Code,
        read: impl Fn(&FileRef) -> Result<Bytes, TaskError>,
        allowance: &Allowance,
        listener: Box<dyn Listener>,
        given: Given,
    ) -> Result<Box<dyn Guest>, TaskError> {
        let attempt = Attempt { allowance: allowance.clone(), listener };
        self.program(code, read, &allowance.stop)?.instantiate(attempt, given)
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(directory.path().join("wasm"), ROOM, Compiler::Here);
        let limits = Limits { memory: 1 << 20, time_ms: 10_000, ..Limits::default() };
        Bench {
            _directory: directory,
            runtime,
            limits,
            stop: CancellationToken::new(),
            heard: Heard::default(),
        }
    }

    pub(super) fn guest(&self, code: &str) -> Result<Box<dyn Guest>, TaskError> {
        let listener = Box::new(self.heard.clone());
        let file = |bytes: &[u8], len| FileRef { cid: cid_of(CODEC_RAW, bytes), len };
        let given = Given {
            params: Bytes::from_static(b"{\"n\":1}"),
            files: [
                ("there", 9),
                ("lost", 1),
                ("deep/er/there", 9),
                ("deep/there", 9),
                ("../there", 9),
            ]
            .map(|(name, len)| (name, file(if len == 1 { b"x" } else { FILE }, len)))
            .map(|(name, file)| (name.to_owned(), file))
            .into(),
            input: "left".to_owned(),
            mute: false,
            fetch: None,
            enqueue: false,
            write: false,
        };
        let allowance = Allowance::new(&self.limits, self.stop.clone());
        let (code, read) = module_of(code.as_bytes());
        self.runtime.instantiate(&code, read, &allowance, listener, given)
    }

    pub(super) fn check(&self, code: &str, function: &str) -> Result<(), String> {
        self.check_bytes(code.as_bytes(), function)
    }

    fn check_bytes(&self, code: &[u8], function: &str) -> Result<(), String> {
        let (code, read) = module_of(code);
        self.runtime.check(&code, function, read, Box::new(self.heard.clone()))
    }

    /// What guests logged.
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lines.lock().unwrap().clone()
    }

    /// Calls `map` of `code` with `input`, and gives what it emitted.
    pub(super) fn map(&self, code: &str, input: &[u8]) -> Result<Vec<u8>, TaskError> {
        let mut guest = self.guest(code)?;
        let mut records = Vec::new();
        guest.call("map", input, &mut |packed| {
            records.extend_from_slice(packed);
            Ok(())
        })?;
        Ok(records)
    }

    /// The code of the error that `map` of `code` ends with, and its text.
    pub(super) fn fails(&self, code: &str) -> (&'static str, String) {
        match self.map(code, b"input") {
            Err(TaskError::Failed { code, message, class: FailureClass::Guest }) => (code, message),
            other => panic!("expected the guest to fail, got {other:?}"),
        }
    }
}

const RECORD: &[u8] = b"\x03\0\0\0\x05\0\0\0keyvalue";

#[test]
fn records_arrive_in_the_order_they_were_emitted_and_flushed() {
    let bench = Bench::new();
    let emit = "(call $emit (i32.const 0) (i32.const 3) (i32.const 3) (i32.const 5))";
    let packed =
        r#"(i64.store (i32.const 64) (i64.const 1)) (i32.store8 (i32.const 72) (i32.const 122))"#;
    let flush = "(call $flush (i32.const 64) (i32.const 9))";
    let code = module(&format!("{packed} {emit} {flush} {emit}"));
    let expected = [RECORD, b"\x01\0\0\0\0\0\0\0z", RECORD].concat();
    assert_eq!(bench.map(&code, b"").unwrap(), expected);
}

#[test]
fn a_guest_is_heard() {
    let bench = Bench::new();
    let code = module(
        "(call $log (i32.const 0) (i32.const 3)) (call $progress (i64.const 1) (i64.const 2))",
    );
    bench.map(&code, b"").unwrap();
    assert_eq!(*bench.heard.lines.lock().unwrap(), ["key", "1/2"]);
}

/// A `map` that emits what `get`, a call that writes to 4096, wrote there, and the call's answer,
/// one byte of it, as the key.
fn emits_what(get: &str) -> String {
    module(&format!(
        "(i32.store8 (i32.const 2048) {get})
         (call $emit (i32.const 2048) (i32.const 1) (i32.const 4096) (i32.const 9))"
    ))
}

#[test]
fn a_guest_reads_its_params_and_which_input_it_works_on() {
    let bench = Bench::new();
    let emitted = |get: &str| bench.map(&emits_what(get), b"").unwrap()[8..].to_vec();
    assert_eq!(emitted("(call $params (i32.const 4096) (i32.const 99))"), b"\x07{\"n\":1}\0\0");
    // Where they do not fit, the length says so.
    assert_eq!(emitted("(call $params (i32.const 4096) (i32.const 3))"), b"\x07{\"n\0\0\0\0\0\0");
    assert_eq!(emitted("(call $input (i32.const 4096) (i32.const 9))"), b"\x04left\0\0\0\0\0");
}

#[test]
fn a_guest_reads_a_side_file_in_ranges() {
    let bench = Bench::new();
    let emitted = |get: &str| bench.map(&emits_what(get), b"").unwrap()[8..].to_vec();
    let read = |offset: u64, room: u32| {
        emitted(&format!(
            "(call $file_read (i32.const 16) (i32.const 5) (i64.const {offset}) (i32.const 4096) (i32.const {room}))"
        ))
    };
    assert_eq!(emitted("(i32.wrap_i64 (call $file_len (i32.const 16) (i32.const 5)))")[0], 9);
    assert_eq!(read(0, 60), b"\x09side file");
    assert_eq!(read(5, 3), b"\x03fil\0\0\0\0\0\0");
    assert_eq!(read(9, 3)[0], 0);
    assert_eq!(read(u64::MAX, 3)[0], 0);
}

#[test]
fn a_side_file_that_is_not_there_is_an_answer_and_one_that_is_lost_ends_the_attempt() {
    let bench = Bench::new();
    let call = |name: u32, len: u32| {
        format!(
            "(call $file_read (i32.const {name}) (i32.const {len}) (i64.const 0) (i32.const 4096) (i32.const 9))"
        )
    };
    assert_eq!(bench.map(&emits_what(&call(0, 3)), b"").unwrap()[8], 0xff);
    let len = emits_what("(i32.wrap_i64 (call $file_len (i32.const 0) (i32.const 3)))");
    assert_eq!(bench.map(&len, b"").unwrap()[8], 0xff);
    let lost = bench.map(&emits_what(&call(21, 4)), b"");
    assert!(matches!(lost, Err(TaskError::Missing { .. })), "{lost:?}");
}

#[test]
fn a_guest_counts_under_names_that_people_can_read() {
    let bench = Bench::new();
    let count = |ptr: u32, len: u32, by: u32| {
        let call = format!("(call $counter (i32.const {ptr}) (i32.const {len}) (i64.const {by}))");
        module(&call)
    };
    bench.map(&count(0, 3, 7), b"").unwrap();
    assert_eq!(*bench.heard.lines.lock().unwrap(), ["key +7"]);
    // A call that traps counts nothing; the next one does.
    let touchy = count(0, 3, 5).replace(
        "(call $inner)",
        "(call $inner) (if (i32.eq (i32.load8_u (local.get $ptr)) (i32.const 33)) (then unreachable))",
    );
    let mut guest = bench.guest(&touchy).unwrap();
    let mut call = |input: &[u8]| guest.call("map", input, &mut |_| Ok(()));
    assert!(call(b"!").unwrap_err().is_trap());
    call(b"fine").unwrap();
    let heard = bench.heard.lines.lock().unwrap().clone();
    assert_eq!(heard, ["key +7", "failed in function 11", "key +5"]);
    // Without a name, with control characters, too long, one too many.
    for (ptr, len, by) in [(0, 0, 1), (30, 1, 1), (0, 65, 1), (0, 3, 10)] {
        assert_eq!(bench.fails(&count(ptr, len, by)).0, "IPDC-5308");
    }
}

#[test]
fn what_is_not_wasm_is_said_to_be_none() {
    let bench = Bench::new();
    assert_eq!(bench.fails("\0asm but not really").0, "IPDC-5305");
    assert_eq!(bench.fails("(module").0, "IPDC-5305");
    assert!(bench.check_bytes(b"ELF", "map").is_err());
}

#[test]
fn a_missing_export_is_named() {
    let bench = Bench::new();
    let check = |code: &str, function| bench.check(code, function);
    assert_eq!(check(&module(""), "map"), Ok(()));
    assert!(check(&module(""), "reduce").unwrap_err().contains("`reduce(ptr: i32, len: i32)`"));
    assert!(check("(module)", "map").unwrap_err().contains("memory"));
    let no_alloc = r#"(module (memory (export "memory") 1))"#;
    assert!(check(no_alloc, "map").unwrap_err().contains("ipdc_alloc"));
    assert_eq!(bench.fails(no_alloc).0, "IPDC-5306");
}

#[test]
fn a_wish_for_the_world_outside_is_refused() {
    let bench = Bench::new();
    let code = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#;
    assert!(bench.check(code, "map").unwrap_err().contains("fd_write"));
    assert_eq!(bench.fails(code).0, "IPDC-5307");
}

#[test]
fn a_trap_names_where_it_was() {
    let bench = Bench::new();
    let (code, message) = bench.fails(&module("unreachable"));
    assert_eq!(code, "IPDC-5301");
    assert!(message.contains("unreachable") && message.contains("inner"), "{message}");
}

#[test]
fn a_guest_that_fails_in_any_way_says_in_which_calls() {
    let mut bench = Bench::new();
    bench.limits.time_ms = 100;
    for body in ["unreachable", "(loop (br 0))", "(call $log (i32.const -1) (i32.const 1))"] {
        let _ = bench.fails(&module(body));
    }
    assert_eq!(bench.heard(), ["failed in inner of function 11"; 3]);
}

#[test]
fn an_endless_loop_ends_at_its_time_limit() {
    let mut bench = Bench::new();
    bench.limits.time_ms = 100;
    assert_eq!(bench.fails(&module("(loop (br 0))")).0, "IPDC-5302");
}

#[test]
fn a_stopped_guest_ends_soon() {
    let bench = Bench::new();
    let stop = bench.stop.clone();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            stop.cancel();
        });
        let ended = bench.map(&module("(loop (br 0))"), b"");
        assert!(matches!(ended, Err(TaskError::Stopped)), "{ended:?}");
    });
    assert!(started.elapsed() < Duration::from_millis(bench.limits.time_ms));
}

#[test]
fn memory_without_end_ends_at_the_limit() {
    let bench = Bench::new();
    let grow =
        "(loop (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br 0))";
    assert_eq!(bench.fails(&module(grow)).0, "IPDC-5303");
    let born_large = r#"(module (memory (export "memory") 64))"#;
    assert_eq!(bench.fails(born_large).0, "IPDC-5303");
}

#[test]
fn a_guest_for_which_the_node_has_no_memory_is_the_nodes_failure() {
    let mut bench = Bench::new();
    bench.limits.memory = 2 * ROOM;
    let grow = |bytes: u64| module(&format!("(drop (memory.grow (i32.const {})))", bytes >> 16));
    for _ in 0..2 {
        let failed = bench.map(&grow(ROOM), b"input");
        let Err(TaskError::Failed { class: FailureClass::TooSmall, code, .. }) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(code, "IPDC-5312");
        // What one guest had, the next one can have, and not two at a time.
        let mut one = bench.guest(&grow(ROOM / 2)).unwrap();
        one.call("map", b"input", &mut |_| Ok(())).unwrap();
        let failed = bench.map(&grow(ROOM / 2), b"input");
        let is_busy = matches!(failed, Err(TaskError::Failed { class: FailureClass::Worker, .. }));
        assert!(is_busy, "{failed:?}");
    }
}

#[test]
fn pointers_outside_memory_are_caught() {
    let bench = Bench::new();
    for body in [
        "(call $flush (i32.const 65530) (i32.const 7))",
        "(call $flush (i32.const -1) (i32.const -1))",
        "(call $emit (i32.const 0) (i32.const 3) (i32.const 70000) (i32.const 1))",
        "(call $log (i32.const 65536) (i32.const 1))",
    ] {
        assert_eq!(bench.fails(&module(body)).0, "IPDC-5304", "{body}");
    }
    let wild = module("").replace("(i32.const 1024)", "(i32.const 65534)");
    assert_eq!(bench.fails(&wild).0, "IPDC-5304");
}

#[test]
fn a_sinks_failure_ends_the_guest_and_is_passed_on() {
    let bench = Bench::new();
    let code = module("(loop (call $flush (i32.const 0) (i32.const 8)) (br 0))");
    let listener = Box::new(bench.heard.clone());
    let (code, read) = module_of(code.as_bytes());
    let mut guest = bench
        .runtime
        .instantiate(
            &code,
            read,
            &Allowance::new(&bench.limits, bench.stop.clone()),
            listener,
            Given::default(),
        )
        .unwrap();
    let full = || TaskError::Failed {
        class: FailureClass::Worker,
        code: "IPDC-3101",
        message: "full".into(),
    };
    let ended = guest.call("map", b"", &mut |_| Err(full()));
    assert!(matches!(ended, Err(TaskError::Failed { code: "IPDC-3101", .. })), "{ended:?}");
}

#[test]
fn a_log_without_end_is_cut() {
    let bench = Bench::new();
    let code = module(
        "(local $n i32) (loop (call $log (i32.const 0) (i32.const 60000)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if 0 (i32.lt_u (local.get $n) (i32.const 10000))))",
    );
    bench.map(&code, b"").unwrap();
    let heard = bench.heard.lines.lock().unwrap();
    assert!(heard.iter().map(|line| line.len() + 1).sum::<usize>() <= 260 << 10);
    assert!(heard.iter().all(|line| line.len() <= 1_024));
}

#[test]
fn a_compiled_module_is_found_again_and_a_rotten_one_is_made_anew() {
    let bench = Bench::new();
    let code = module("(call $log (i32.const 0) (i32.const 3))");
    bench.map(&code, b"").unwrap();
    let directory = bench._directory.path().join("wasm");
    let file = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    let mut rotten = whole.clone();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    std::fs::write(&file, &rotten).unwrap();
    let again = Bench { runtime: Runtime::new(directory, ROOM, Compiler::Here), ..Bench::new() };
    again.map(&code, b"").unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), whole);
}
