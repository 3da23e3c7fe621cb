//! Guests that mean harm. Each ends at its limit and is told which, and what it asked for costs the node
//! no more than that.

use super::*;

/// What a guest may run past its time limit, on a machine that is busy with other tests.
const GRACE: Duration = Duration::from_secs(1);

/// Pages that let a guest hand over much in one call, and leave room for two.
const PAGES: u32 = 24 << 4;

/// A library with all imports, `pages` of memory, whose `map` has `body`, and `more` beside it.
fn library(pages: u32, body: &str, more: &str) -> String {
    module(body)
        .replace("(export \"memory\") 1)", &format!("(export \"memory\") {pages})"))
        .replace("(func $inner", &format!("{more} (func $inner"))
}

/// A command with the functions that take pointers, whose `_start` has `body`.
fn command(pages: u32, body: &str) -> String {
    let wasi = |name: &str, params: &str| {
        format!(
            "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {params}) (result i32)))"
        )
    };
    let imports = [
        ("args_get", "i32 i32"),
        ("args_sizes_get", "i32 i32"),
        ("clock_time_get", "i32 i64 i32"),
        ("environ_get", "i32 i32"),
        ("fd_fdstat_get", "i32 i32"),
        ("fd_filestat_get", "i32 i32"),
        ("fd_pread", "i32 i32 i32 i64 i32"),
        ("fd_prestat_dir_name", "i32 i32 i32"),
        ("fd_prestat_get", "i32 i32"),
        ("fd_read", "i32 i32 i32 i32"),
        ("fd_readdir", "i32 i32 i32 i64 i32"),
        ("fd_seek", "i32 i64 i32 i32"),
        ("fd_write", "i32 i32 i32 i32"),
        ("path_filestat_get", "i32 i32 i32 i32 i32"),
        ("path_link", "i32 i32 i32 i32 i32 i32 i32"),
        ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
        ("path_symlink", "i32 i32 i32 i32 i32"),
        ("poll_oneoff", "i32 i32 i32 i32"),
        ("random_get", "i32 i32"),
    ]
    .map(|(name, params)| wasi(name, params))
    .concat();
    format!(
        "(module {imports} (memory (export \"memory\") {pages}) (func (export \"_start\") {body}))"
    )
}

/// `name`, called with these numbers: those of 64 bits end in an `L`.
fn call(name: &str, arguments: &str) -> String {
    let push = |n: &str| match n.strip_suffix('L') {
        Some(n) => format!("(i64.const {n})"),
        None => format!("(i32.const {n})"),
    };
    let pushed: String = arguments.split_whitespace().map(push).collect();
    format!("(call ${name} {pushed})")
}

/// Runs `code` with a limit of `time_ms`: it must end within [`GRACE`] of that, with this error.
fn ends(bench: &mut Bench, code: &str, time_ms: u64, error: &str) -> String {
    bench.limits.time_ms = time_ms;
    // Compiling is none of its time.
    let _ = bench.check(code, "map");
    let started = Instant::now();
    let (found, message) = bench.fails(code);
    let took = started.elapsed();
    let start: String = code.chars().take(4096).collect();
    assert_eq!(found, error, "{message}\n{start}");
    assert!(took < Duration::from_millis(time_ms) + GRACE, "it took {took:?}: {message}\n{start}");
    assert!(message.len() < 4096, "{} bytes of message", message.len());
    message
}

/// A bench whose guests may have 48 MiB.
fn roomy() -> Bench {
    let mut bench = Bench::new();
    bench.limits.memory = 48 << 20;
    bench
}

/// Pointers and lengths in a memory of one page that do not lie in it.
const LIES: [(i64, i64); 8] = [
    (-1, 1),
    (65_535, 2),
    (65_536, 1),
    (0, 65_537),
    (1, -1),
    (-1, -1),
    (0x8000_0000, 0x8000_0000),
    (-65_536, 65_537),
];

#[test]
fn no_function_believes_a_pointer_or_a_length() {
    let bench = Bench::new();
    for (ptr, len) in LIES {
        for lie in [
            call("flush", &format!("{ptr} {len}")),
            call("emit", &format!("{ptr} {len} 0 1")),
            call("emit", &format!("0 1 {ptr} {len}")),
            call("log", &format!("{ptr} {len}")),
            call("counter", &format!("{ptr} {len} 1L")),
            format!("(drop {})", call("params", &format!("{ptr} {len}"))),
            format!("(drop {})", call("input", &format!("{ptr} {len}"))),
            format!("(drop {})", call("file_len", &format!("{ptr} {len}"))),
            format!("(drop {})", call("file_read", &format!("{ptr} {len} 0L 1024 1"))),
            format!("(drop {})", call("file_read", &format!("16 5 0L {ptr} {len}"))),
        ] {
            let (code, message) = bench.fails(&module(&lie));
            assert_eq!(code, "IPDC-5304", "{lie}: {message}");
        }
    }
    // Where it may just be.
    let edges = [call("flush", "65536 0"), call("log", "65535 1"), call("emit", "65536 0 65535 1")];
    assert!(bench.map(&module(&edges.concat()), b"").is_ok());
}

#[test]
fn no_function_of_wasi_believes_a_pointer_or_a_length() {
    let bench = Bench::new();
    // At 0 a piece that lies, at 8 one that does not, at 64 a clock to wait for.
    for (ptr, len) in LIES {
        let piece = format!(
            "(i32.store (i32.const 0) (i32.const {ptr})) (i32.store (i32.const 4) (i32.const {len}))"
        );
        for lie in [
            call("fd_write", "1 0 1 16"),
            call("fd_write", "2 0 1 16"),
            call("fd_read", "0 0 1 16"),
            call("fd_write", &format!("1 {ptr} 2 16")),
            call("fd_read", &format!("0 {ptr} 2 16")),
            call("random_get", &format!("{ptr} {len}")),
            call("path_open", &format!("3 0 {ptr} {len} 0 2L 0L 0 16")),
            call("path_filestat_get", &format!("3 0 {ptr} {len} 16")),
            call("fd_readdir", &format!("3 {ptr} {len} 0L 16")),
        ] {
            // A list of two pieces may lie in memory where one of its parts would not.
            let (code, message) =
                match bench.map(&command(1, &format!("{piece} (drop {lie})")), b"in") {
                    Err(TaskError::Failed { code, message, .. }) => (code, message),
                    other if lie.contains("const 2)") && ptr == 0 => {
                        assert!(other.is_ok());
                        continue;
                    }
                    other => panic!("{lie} with {ptr}+{len}: {other:?}"),
                };
            assert_eq!(code, "IPDC-5304", "{lie}: {message}");
        }
    }
    for (function, arguments) in [
        ("args_get", "65533 0"),
        ("args_get", "0 65534"),
        ("args_sizes_get", "-4 0"),
        ("environ_get", "0 65530"),
        ("environ_get", "-1 0"),
        ("clock_time_get", "0 0L 65529"),
        ("fd_fdstat_get", "3 65530"),
        ("fd_filestat_get", "3 -64"),
        ("fd_prestat_get", "3 65530"),
        ("fd_prestat_dir_name", "3 65534 -1"),
        ("fd_write", "1 8 0 65533"),
        ("poll_oneoff", "65500 0 1 0"),
        ("poll_oneoff", "64 65510 1 0"),
        ("poll_oneoff", "64 1024 1 -1"),
    ] {
        let lie = format!("(drop {})", call(function, arguments));
        let (code, message) = bench.fails(&command(1, &lie));
        assert_eq!(code, "IPDC-5304", "{lie}: {message}");
    }
}

#[test]
fn what_wasi_has_no_room_for_is_an_error_that_programs_know() {
    let bench = Bench::new();
    let (bad_descriptor, invalid, name_too_long, read_only) = (8, 28, 37, 69);
    for (function, arguments, errno) in [
        ("fd_write", "1 0 1025 16", invalid),
        ("fd_write", "1 0 -1 16", invalid),
        ("fd_read", "0 0 -1 16", invalid),
        ("fd_write", "3 0 1 16", bad_descriptor),
        ("fd_write", "-1 0 1 16", bad_descriptor),
        ("fd_read", "1 0 1 16", bad_descriptor),
        ("fd_pread", "9 0 1 -1L 16", bad_descriptor),
        ("fd_seek", "-1 -1L 7 16", bad_descriptor),
        ("poll_oneoff", "64 1024 0 16", invalid),
        ("poll_oneoff", "64 1024 -1 16", invalid),
        ("path_open", "3 0 0 4097 0 2L 0L 0 16", name_too_long),
        ("path_symlink", "0 1 3 0 1", read_only),
        ("path_link", "3 0 0 1 3 0 1", read_only),
    ] {
        let body = format!(
            "(if (i32.ne {} (i32.const {errno})) (then unreachable))",
            call(function, arguments)
        );
        let ended = bench.map(&command(1, &body), b"");
        assert!(ended.is_ok(), "{function} {arguments} is not {errno}: {ended:?}");
    }
}

#[test]
fn a_guest_that_spins_is_stopped_wherever_it_spins() {
    let mut bench = Bench::new();
    let spin = "(loop (br 0))";
    let in_alloc = module("").replace("(i32.const 1024)", &format!("{spin} (i32.const 1024)"));
    for code in [
        module(spin),
        in_alloc,
        library(1, "", &format!("(func $first {spin}) (start $first)")),
        library(1, "(return_call $again)", "(func $again (return_call $again))"),
        library(1, "(loop (drop (memory.grow (i32.const 0))) (br 0))", ""),
        library(1, "(loop (drop (memory.grow (i32.const -1))) (br 0))", ""),
        library(1, &format!("(loop {} (br 0))", call("progress", "1L 2L")), ""),
        library(1, &format!("(loop {} (br 0))", call("log", "0 60000")), ""),
        library(1, &format!("(loop {} (br 0))", call("counter", "0 3 1L")), ""),
        library(1, &format!("(loop {} (br 0))", call("emit", "0 3 3 5")), ""),
        command(1, spin),
        command(1, &format!("(loop (drop {}) (br 0))", call("poll_oneoff", "64 1024 1 16"))),
        command(1, &format!("(loop (drop {}) (br 0))", call("fd_write", "2 0 1 16"))),
        command(1, &format!("(loop (drop {}) (br 0))", call("random_get", "1024 4096"))),
    ] {
        let message = ends(&mut bench, &code, 100, "IPDC-5302");
        assert!(message.contains("100 ms") && message.contains("limits.time"), "{message}");
    }
}

#[test]
fn one_call_that_takes_long_is_stopped_on_its_way() {
    let mut bench = roomy();
    let size = PAGES << 16;
    // A thousand times the same piece: all of the memory.
    let pieces = format!(
        "(local $at i32)
        (loop $more
            (i32.store (local.get $at) (i32.const 8192))
            (i32.store offset=4 (local.get $at) (i32.const {}))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 8192))))",
        size - 8192
    );
    let lines =
        format!("(memory.fill (i32.const 8192) (i32.const 10) (i32.const {}))", size - 8192);
    for fd in [1, 2] {
        let write = call("fd_write", &format!("{fd} 0 1024 0"));
        let code = command(PAGES, &format!("{pieces} {lines} (drop {write})"));
        let _ = ends(&mut bench, &code, 500, "IPDC-5302");
    }
    // Random numbers, again and again.
    let draw = call("random_get", &format!("0 {size}"));
    let code = command(PAGES, &format!("(loop (drop {draw}) (br 0))"));
    let _ = ends(&mut bench, &code, 200, "IPDC-5302");
}

#[test]
fn records_without_end_in_one_call_are_stopped_on_their_way() {
    let mut bench = roomy();
    bench.limits.time_ms = 200;
    // Three million records of nothing; whoever takes them needs a millisecond for some thousand.
    let code = library(PAGES, &call("flush", &format!("0 {}", PAGES << 16)), "")
        .replace("(data (i32.const 0) \"keyvalue\")", "")
        .replace("(data (i32.const 16) \"therelost\")", "");
    let mut guest = bench.guest(&code).unwrap();
    let (started, mut taken) = (Instant::now(), 0);
    let ended = guest.call("map", b"", &mut |records| {
        taken += records.len();
        std::thread::sleep(Duration::from_micros(records.len() as u64 / 32));
        Ok(())
    });
    let took = started.elapsed();
    assert!(matches!(ended, Err(TaskError::Failed { code: "IPDC-5302", .. })), "{ended:?}");
    assert!(took < Duration::from_millis(200) + GRACE, "{took:?}");
    assert!(taken > 0 && taken < (PAGES << 16) as usize, "{taken}");
}

#[test]
fn the_records_of_a_long_flush_arrive_whole_and_in_their_order() {
    let bench = roomy();
    // Records of 8 + 100,000 bytes, 200 of them, each with its number at the beginning of its value.
    let write = "(local $n i32) (local $at i32)
        (local.set $at (i32.const 65536))
        (loop $more
            (i32.store offset=4 (local.get $at) (i32.const 100000))
            (i32.store offset=8 (local.get $at) (local.get $n))
            (local.set $at (i32.add (local.get $at) (i32.const 100008)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 200))))";
    let code = library(PAGES, &format!("{write} {}", call("flush", "65536 20001600")), "");
    let mut guest = bench.guest(&code).unwrap();
    let (mut calls, mut records) = (0, Vec::new());
    guest
        .call("map", b"", &mut |packed| {
            calls += 1;
            assert_eq!(packed.len() % 100_008, 0, "a record was cut");
            records.extend(packed.chunks(100_008).map(|record| record[8]));
            Ok(())
        })
        .unwrap();
    assert!(calls > 10, "{calls}");
    assert_eq!(records, (0..200).collect::<Vec<u8>>());
}

#[test]
fn a_record_that_is_too_long_is_refused_before_it_is_copied() {
    let mut bench = roomy();
    let key = call("emit", &format!("0 {} 0 0", 17 << 20));
    let message = ends(&mut bench, &library(PAGES, &key, ""), 10_000, "IPDC-5351");
    assert!(message.contains(&(17 << 20).to_string()), "{message}");
    let value = call("emit", &format!("0 1 0 {}", 16 << 20));
    let _ = ends(&mut bench, &library(PAGES, &value, ""), 10_000, "IPDC-5351");
    let fits = call("emit", &format!("0 1 0 {}", (16 << 20) - 1));
    assert!(bench.map(&library(PAGES, &fits, ""), b"").is_ok());
}

#[test]
fn reading_what_is_here_costs_time_and_waiting_for_others_none() {
    let mut bench = Bench::new();
    let read = call("file_read", "16 5 0L 2048 9");
    let code = library(1, &format!("(loop (drop {read}) (br 0))"), "");
    let _ = ends(&mut bench, &code, 100, "IPDC-5302");
    // A wait as long as three limits, for a block that came from elsewhere.
    bench.heard.far.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.limits.time_ms = 100;
    assert!(bench.map(&library(1, &format!("(drop {read})"), ""), b"").is_ok());
}

#[test]
fn all_instances_of_an_attempt_share_its_time() {
    let mut bench = Bench::new();
    bench.limits.time_ms = 200;
    let allowance = Allowance::new(&bench.limits, bench.stop.clone());
    let spin = module("(loop (br 0))");
    for most in [Duration::from_millis(200), Duration::ZERO] {
        let listener = Box::new(bench.heard.clone());
        let (code, read) = module_of(spin.as_bytes());
        let guest = bench.runtime.instantiate(&code, read, &allowance, listener, Given::default());
        let started = Instant::now();
        let ended = guest.unwrap().call("map", b"", &mut |_| Ok(()));
        assert!(matches!(ended, Err(TaskError::Failed { code: "IPDC-5302", .. })), "{ended:?}");
        assert!(started.elapsed() < most + GRACE / 2, "{:?}", started.elapsed());
    }
}

#[test]
fn recursion_without_end_fills_the_guests_own_stack() {
    let mut bench = Bench::new();
    for more in [
        "(func $down (call $down))",
        "(func $down (call $up)) (func $up (call $down))",
        "(table 1 funcref) (elem (i32.const 0) $down) (func $down (call_indirect (i32.const 0)))",
        "(func $down (local i64 i64 i64 i64 i64 i64 i64 i64) (call $down) (call $down))",
    ] {
        let message = ends(&mut bench, &library(1, "(call $down)", more), 10_000, "IPDC-5301");
        assert!(message.contains("call stack exhausted: it has 512 KiB"), "{message}");
    }
}

#[test]
fn memory_may_be_filled_to_its_limit_and_not_beyond() {
    let mut bench = Bench::new();
    let grow = |pages: i32| format!("(i32.eq (memory.grow (i32.const {pages})) (i32.const -1))");
    let to_the_edge = format!(
        "(if {} (then unreachable)) (memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576))",
        grow(15)
    );
    assert!(bench.map(&library(1, &to_the_edge, ""), b"").is_ok());
    for pages in [16, 65_535, -1, i32::MIN] {
        let code = library(1, &format!("(if {} (then unreachable))", grow(pages)), "");
        let message = ends(&mut bench, &code, 10_000, "IPDC-5303");
        assert!(message.contains("1 MiB") && message.contains("limits.memory"), "{message}");
    }
    for beyond in ["(i32.load (i32.const 1048573))", "(i32.load offset=4294967295 (i32.const -1))"]
    {
        let code = library(16, &format!("(drop {beyond})"), "");
        let message = ends(&mut bench, &code, 10_000, "IPDC-5301");
        assert!(message.contains("out of bounds memory access"), "{message}");
    }
}

#[test]
fn tables_have_a_limit_all_together() {
    let mut bench = Bench::new();
    let grow = "(loop (if (i32.eq (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1)) (then unreachable)) (br 0))";
    let many: String = (0..50).map(|_| "(table 100000 funcref)").collect();
    for (body, more) in [
        (grow, "(table $t 0 funcref)"),
        ("", "(table 1048577 funcref)"),
        ("", "(table 4294967295 funcref)"),
        ("", many.as_str()),
    ] {
        let message = ends(&mut bench, &library(1, body, more), 10_000, "IPDC-5314");
        assert!(message.contains("1048576"), "{message}");
    }
    // Each run of a command has tables of its own.
    let code = command(1, "").replace("(func (export", "(table 1000000 funcref) (func (export");
    let mut guest = bench.guest(&code).unwrap();
    for _ in 0..3 {
        guest.call("map", b"", &mut |_| Ok(())).unwrap();
    }
}

#[test]
fn what_is_logged_or_named_without_end_is_not_even_looked_at() {
    let bench = roomy();
    let size = PAGES << 16;
    // Bytes that are no text would be three times as long as text.
    let fill = format!("(memory.fill (i32.const 0) (i32.const 0xff) (i32.const {size}))");
    let log = call("log", &format!("0 {size}"));
    let started = Instant::now();
    let code = library(PAGES, &format!("{fill} {log} {log}"), "");
    assert!(bench.map(&code, b"").is_ok());
    assert!(started.elapsed() < GRACE * 3, "{:?}", started.elapsed());
    let heard = bench.heard();
    assert!(heard.iter().all(|line| line.len() <= 1024));
    assert!(heard.len() < 3, "{}", heard.len());

    let lines = fill.replace("0xff", "10");
    let bench = roomy();
    assert!(bench.map(&library(PAGES, &format!("{lines} {log} {log}"), ""), b"").is_ok());
    let heard = bench.heard();
    assert!(heard.last().unwrap().contains("256 KiB"), "{:?}", heard.last());
    assert!(heard.len() <= (256 << 10) + 1, "{}", heard.len());

    let mut bench = roomy();
    let count = call("counter", &format!("0 {size} 1L"));
    let _ = ends(&mut bench, &library(PAGES, &format!("{fill} {count}"), ""), 10_000, "IPDC-5308");
    let name = format!(
        "(if (i32.ne {} (i32.const -1)) (then unreachable))",
        call("file_read", &format!("0 {size} 0L 0 0"))
    );
    assert!(bench.map(&library(PAGES, &name, ""), b"").is_ok());
}

#[test]
fn names_in_a_module_may_be_long_and_errors_stay_short() {
    let mut bench = Bench::new();
    let long = "n".repeat(90_000);
    let trap = format!("(func ${long} unreachable)");
    let message =
        ends(&mut bench, &library(1, &format!("(call ${long})"), &trap), 10_000, "IPDC-5301");
    assert!(message.contains("nnn"), "{message}");
    let import = format!("(module (import \"{long}\" \"{long}\" (func)))");
    let _ = ends(&mut bench, &import, 10_000, "IPDC-5307");
    let unknown = format!("(module (func (call ${long})))");
    let _ = ends(&mut bench, &unknown, 10_000, "IPDC-5305");
}

#[test]
fn what_is_no_module_the_sandbox_takes_is_refused_for_what_it_is() {
    let mut bench = Bench::new();
    for (code, error) in [
        ("", "IPDC-5305"),
        ("\0asm", "IPDC-5305"),
        ("\0asm\x01\0\0\0\x01", "IPDC-5305"),
        ("\0asm\x01\0\0\0\x0a\u{7f}\u{7f}", "IPDC-5305"),
        ("(component)", "IPDC-5305"),
        ("(module (memory 1) (memory 1))", "IPDC-5305"),
        ("(module (memory i64 1))", "IPDC-5305"),
        ("(module (memory 1 1 shared))", "IPDC-5305"),
        ("(module (type (struct)))", "IPDC-5305"),
        ("(module (import \"ipdc\" \"flush\" (memory 1)))", "IPDC-5307"),
        ("(module (import \"ipdc\" \"flush\" (func (param i64))))", "IPDC-5307"),
        ("(module (import \"ipdc\" \"fetch\" (func)))", "IPDC-5307"),
        ("(module (memory (export \"memory\") 1) (data (i32.const 65536) \"x\"))", "IPDC-5301"),
        ("(module (func $f unreachable) (start $f))", "IPDC-5301"),
    ] {
        let message = ends(&mut bench, code, 10_000, error);
        assert!(!message.is_empty());
    }
    let mistyped = "(module (import \"ipdc\" \"flush\" (func (param i64))))";
    assert!(bench.check(mistyped, "map").unwrap_err().contains("flush"));
    let long = "(;".to_owned() + &" ".repeat(MODULE_LIMIT) + ";)";
    let message = ends(&mut bench, &long, 10_000, "IPDC-5313");
    assert!(message.contains(&MODULE_LIMIT.to_string()), "{message}");
}

#[test]
fn two_runs_of_whatever_looks_for_a_difference_give_the_same() {
    let bench = Bench::new();
    // What was left in memory, how large that is, NaNs with a sign and a payload, and all that WASI gives.
    let pure = library(
        1,
        &format!(
            "(i32.store (i32.const 2048) (memory.size))
            (f64.store (i32.const 2056) (f64.div (f64.const -0) (f64.const 0)))
            (f32.store (i32.const 2064) (f32.sqrt (f32.const -1)))
            (f64.store (i32.const 2072) (f64.promote_f32 (f32.const nan:0x12345)))
            {}",
            call("emit", "0 1024 1024 32768")
        ),
        "",
    );
    let world = command(
        1,
        &format!(
            "{} (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 32768))
            (drop {})",
            [
                call("args_get", "1024 1040"),
                call("environ_get", "1064 1100"),
                call("clock_time_get", "0 0L 2048"),
                call("clock_time_get", "1 0L 2056"),
                call("clock_time_get", "2 0L 2064"),
                call("random_get", "4096 4096"),
                call("fd_readdir", "3 8192 4096 0L 12288"),
                call("fd_filestat_get", "3 12296"),
                call("poll_oneoff", "64 16384 1 20480"),
            ]
            .map(|call| format!("(drop {call})"))
            .concat(),
            call("fd_write", "1 0 1 8"),
        ),
    );
    for code in [pure, world] {
        let first = bench.map(&code, b"input").unwrap();
        assert!(first.len() > 30_000, "{}", first.len());
        assert!(bench.map(&code, b"input").unwrap() == first);
        assert!(Bench::new().map(&code, b"input").unwrap() == first, "in another runtime");
    }
}
