//! User code that means harm, one job after the other on the same node: each ends soon, and says at
//! which limit; the node is as it was, and the next honest job gives what it always does.

use std::path::Path;
use std::time::Duration;

use ipdc_tests::job::{guest, many_splits};
use ipdc_tests::{JOB, JobDir, Node, Ran, SOON, eventually};

/// `reduce` is not summed: each record that a guest gives is written.
const TOML: &str = "kind = \"mr\"\nmap = \"map.wat\"\nreduce = \"sort\"\npartitions = 1\n\
                    [limits]\ntime = \"1s\"\nmemory = \"128MiB\"\noutput = \"1MiB\"\n";

/// The attempts of a task that fails, each a second and one more, and what the command line and the
/// engine take between them on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// What the node may have at most while it works for such jobs, beyond what it had: the guest's limit, as
/// much again for what the task sorts, and blocks on their way.
const PEAK: u64 = 400 << 20;

/// What it may have more when they are over: compiled modules, heaps that are not given back yet.
const LEFT: u64 = 100 << 20;

/// A library whose `map` has `body`, with 16 pages of memory, and `more` in the module.
fn library(body: &str, more: &str) -> String {
    format!(
        "(module
            (import \"ipdc\" \"flush\" (func $flush (param i32 i32)))
            (import \"ipdc\" \"emit\" (func $emit (param i32 i32 i32 i32)))
            (import \"ipdc\" \"log\" (func $log (param i32 i32)))
            (memory (export \"memory\") 16)
            {more}
            (func (export \"ipdc_alloc\") (param i32) (result i32) (i32.const 65536))
            (func $map (export \"map\") (param i32 i32) {body}))"
    )
}

/// A command whose `_start` has `body`.
fn command(body: &str) -> String {
    format!(
        "(module
            (import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))
            (import \"wasi_snapshot_preview1\" \"random_get\" (func $random (param i32 i32) (result i32)))
            (memory (export \"memory\") 1024)
            (func (export \"_start\") (local $at i32) {body}))"
    )
}

fn run(node: &Node, toml: &str, map: &str, input: &Path) -> Ran {
    let job = JobDir::new(toml).file("map.wat", map);
    node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(input).within(JOB).run()
}

fn assert_honest(node: &Node, input: &Path, counts: &[u8]) {
    let id = node.submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    let _ = node.job_done(&id);
    node.assert_counts(&id, counts);
}

#[test]
fn hostile_guests_are_stopped_at_their_limits_and_the_node_goes_on() {
    let mut node = Node::first();
    node.start();
    let (input, counts) = many_splits(node.folder(), 1);
    assert_honest(&node, &input, &counts);
    let before = node.memory("VmRSS");

    let call = "(call $map (i32.const 0) (i32.const 0))";
    // A thousand pieces, each all of the memory, in one call; and lines without end in them.
    let pieces = "(loop $more
            (i32.store (local.get $at) (i32.const 8192))
            (i32.store offset=4 (local.get $at) (i32.const 67100672))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 8192))))
        (memory.fill (i32.const 8192) (i32.const 10) (i32.const 67100672))";
    let write = |fd: u32| {
        command(&format!(
            "{pieces} (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1024) (i32.const 0)))"
        ))
    };
    let draw = "(loop (drop (call $random (i32.const 0) (i32.const 67108864))) (br 0))";
    let grow = "(loop (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br 0))";
    let log = "(loop (call $log (i32.const 0) (i32.const 1048576)) (br 0))";
    let key = "(drop (memory.grow (i32.const 1600)))
        (call $emit (i32.const 0) (i32.const 100000000) (i32.const 0) (i32.const 0))";
    let packed_key = "(drop (memory.grow (i32.const 1600)))
        (i32.store (i32.const 0) (i32.const 100000000)) (call $flush (i32.const 0) (i32.const 100000008))";
    // Records of nothing, where no input is.
    let records = "(loop (call $flush (i32.const 131072) (i32.const 917504)) (br 0))";
    // A function with a thousand results and one with as many parameters, ten thousand times.
    let many = |n| "i64 ".repeat(n);
    let bomb = format!(
        "(func $f (result {}) unreachable) (func $g (param {})) (func {})",
        many(1000),
        many(1000),
        "(call $f) (call $g)".repeat(10_000)
    );
    for (map, said) in [
        (library("(loop (br 0))", ""), &["1000 ms", "limits.time"][..]),
        (library("", "(func $first (loop (br 0))) (start $first)"), &["limits.time"]),
        (library(call, ""), &["call stack exhausted: it has 512 KiB"]),
        (library(grow, ""), &["128 MiB", "limits.memory"]),
        (library("(drop (i32.load (i32.const -4)))", ""), &["out of bounds memory access"]),
        (library("(call $flush (i32.const -1) (i32.const -1))", ""), &["outside its memory"]),
        (library(key, ""), &["100000000 bytes", "at most 16777216"]),
        (library(packed_key, ""), &["100000000 bytes", "at most 16777216"]),
        (library(log, ""), &["limits.time"]),
        (library(records, ""), &["limits."]),
        (library("", &bomb), &["of memory to compile"]),
        (library("", "(table 2000000 funcref)"), &["1048576 elements"]),
        (write(1), &["limits."]),
        (write(2), &["limits.time"]),
        (command(draw), &["limits.time"]),
    ] {
        let ran = run(&node, TOML, &map, &input).refused(said);
        assert!(ran.took < BOUND, "{ran}");
        assert!(node.process().is_running(), "{ran}");
        let peak = node.memory("VmHWM");
        assert!(peak < before + PEAK, "{} MiB at most, {} before: {ran}", peak >> 20, before >> 20);
    }
    // Longer than any module.
    let long =
        JobDir::new(&TOML.replace("map.wat", "map.wasm")).file("map.wasm", vec![0; 65 << 20]);
    let ran = node.cli(["run", "mr"]).arg(long.path()).arg("--input").arg(&input);
    let _ = ran.within(JOB).run().refused(&["map.wasm", "67108864"]);
    // What it writes is gathered in memory before it is output.
    let patient = TOML.replace("1s", "60s");
    let _ = run(&node, &patient, &guest("flood.wat"), &input).refused(&["1 MiB", "limits.output"]);
    assert_honest(&node, &input, &counts);
    // The heaps give back what is free once a second.
    eventually(SOON, format!("memory as before, {} MiB", before >> 20), || {
        (node.memory("VmRSS") < before + LEFT).then_some(())
    });
}

#[test]
#[ignore = "a minute until the compiler is stopped"]
fn a_module_that_takes_for_ever_to_compile_is_given_up_and_holds_nobody_up() {
    let mut node = Node::first();
    node.start();
    let (input, counts) = many_splits(node.folder(), 1);
    assert_honest(&node, &input, &counts);
    // Thousands of loops in each other, and as many variables that each may change.
    let n = 4000;
    let step = |i| format!("(local.set {i} (i32.add (local.get {i}) (i32.const 1)))");
    let steps: String = (0..n).map(step).collect();
    let (open, close) = ("(loop ".repeat(n), ")".repeat(n));
    let bomb = format!(
        "(func (local {}) {open} {steps} (br_if 0 (local.get 0)) {close})",
        "i32 ".repeat(n)
    );
    let job = JobDir::new(TOML).file("map.wat", library("", &bomb));
    let command = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
    let mut compiling = command.start();
    while compiling.is_running() {
        assert_honest(&node, &input, &counts);
    }
    let ran = compiling.wait(JOB).refused(&["60 s to compile"]);
    assert!(ran.took < Duration::from_secs(90), "{ran}");
}
