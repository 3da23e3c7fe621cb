#![allow(clippy::unwrap_used)]

use super::super::tests::Bench;
use super::*;

/// A command whose `_start` has `body`, with two pages of memory. Offset 0 has a list of one piece, 16 is for
/// answers, 256 has `text`, 4096 and on is free.
fn command(text: &str, body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open" (func $open
                (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 256) "{text}")
            (func $piece (param $ptr i32) (param $len i32)
                (i32.store (i32.const 0) (local.get $ptr)) (i32.store (i32.const 4) (local.get $len)))
            (func $put (param $fd i32) (param $ptr i32) (param $len i32)
                (call $piece (local.get $ptr) (local.get $len))
                (if (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16)) (then unreachable)))
            (func (export "_start") {body}))"#
    )
}

/// Copies stdin to stdout, at most `size` bytes at a time.
fn cat(size: u32) -> String {
    command(
        "",
        &format!(
            "(loop $more
                (call $piece (i32.const 4096) (i32.const {size}))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
                (if (i32.load (i32.const 16)) (then
                    (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 16)))
                    (br $more))))"
        ),
    )
}

/// Packed records.
fn packed(records: &[(&str, &str)]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (key, value) in records {
        packed.extend((key.len() as u32).to_le_bytes());
        packed.extend((value.len() as u32).to_le_bytes());
        packed.extend(key.as_bytes());
        packed.extend(value.as_bytes());
    }
    packed
}

#[test]
fn lines_are_records_however_they_are_written() {
    let bench = Bench::new();
    let expected =
        packed(&[("key", "value"), ("no tab", ""), ("", ""), ("two", "ta\tbs"), ("last", "1")]);
    for size in [1, 2, 3, 7, 60_000] {
        let records = bench.map(&cat(size), b"key\tvalue\nno tab\n\ntwo\tta\tbs\nlast\t1").unwrap();
        assert_eq!(records, expected, "{size} bytes at a time");
    }
}

#[test]
fn each_call_is_a_fresh_run() {
    let bench = Bench::new();
    let mut guest = bench.guest(&cat(4)).unwrap();
    assert_eq!(guest.form(), Form::Command);
    for _ in 0..2 {
        let mut records = Vec::new();
        let mut sink = |frame: &[u8]| {
            records.extend_from_slice(frame);
            Ok(())
        };
        guest.call("map", b"one\tfirst", &mut sink).unwrap();
        assert_eq!(records, packed(&[("one", "first")]));
    }
}

#[test]
fn params_and_the_inputs_name_are_in_the_environment() {
    let body = "(drop (call $environ (i32.const 4000) (i32.const 4096)))
        (call $put (i32.const 1) (i32.load (i32.const 4000)) (i32.const 19))
        (call $put (i32.const 1) (i32.const 256) (i32.const 1))
        (call $put (i32.const 1) (i32.load (i32.const 4004)) (i32.const 15))";
    let records = Bench::new().map(&command("\\n", body), b"").unwrap();
    assert_eq!(records, packed(&[("IPDC_PARAMS={\"n\":1}", ""), ("IPDC_INPUT=left", "")]));
}

#[test]
fn a_command_that_reads_nothing_is_no_failure() {
    let bench = Bench::new();
    let code = command(
        "done\\n",
        "(call $put (i32.const 1) (i32.const 256) (i32.const 5)) (call $exit (i32.const 0))",
    );
    assert_eq!(bench.map(&code, b"unread").unwrap(), packed(&[("done", "")]));
}

#[test]
fn a_failed_command_is_quoted() {
    let bench = Bench::new();
    let say = "(call $put (i32.const 2) (i32.const 256) (i32.const 9))";
    let (code, message) =
        bench.fails(&command("no\\nluck  \\n", &format!("{say} (call $exit (i32.const 3))")));
    assert_eq!(code, "IPDC-5310");
    assert!(message.contains("exit code 3: no; luck"), "{message}");
    let (code, message) = bench.fails(&command("no\\nluck  \\n", &format!("{say} unreachable")));
    assert_eq!(code, "IPDC-5301");
    assert!(message.ends_with("no; luck  "), "{message}");
    // Where it failed is known of a fault, and comes after its last words.
    assert_eq!(bench.heard(), ["no", "luck  ", "no", "luck  ", "failed in function 14"]);
}

#[test]
fn limits_hold_for_commands() {
    let mut bench = Bench::new();
    bench.limits.time_ms = 100;
    assert_eq!(bench.fails(&command("", "(loop (br 0))")).0, "IPDC-5302");
    let grow =
        "(loop (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br 0))";
    assert_eq!(bench.fails(&command("", grow)).0, "IPDC-5303");
    let wild = "(call $put (i32.const 1) (i32.const 131070) (i32.const 9))";
    assert_eq!(bench.fails(&command("", wild)).0, "IPDC-5304");
    let endless = "(loop (call $put (i32.const 1) (i32.const 4096) (i32.const 65536)) (br 0))";
    bench.limits.time_ms = 10_000;
    assert_eq!(bench.fails(&command("", endless)).0, "IPDC-5311");
}

#[test]
fn the_world_of_a_command_is_the_same_each_time_and_sleeps_pass_at_once() {
    let bench = Bench::new();
    // Name, clock, random bytes; a sleep of an hour (its length at 4096 + 24); the clock again.
    let body = "(drop (call $args (i32.const 4000) (i32.const 4004)))
        (call $put (i32.const 1) (i32.const 4004) (i32.const 3))
        (drop (call $random (i32.const 4032) (i32.const 40)))
        (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 4072)))
        (i64.store (i32.const 4120) (i64.const 3600000000000))
        (drop (call $poll (i32.const 4096) (i32.const 8192) (i32.const 1) (i32.const 16)))
        (if (i32.ne (i32.load (i32.const 16)) (i32.const 1)) (then unreachable))
        (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 4080)))
        (if (i64.ne (i64.sub (i64.load (i32.const 4080)) (i64.load (i32.const 4072))) (i64.const 3600000000000))
            (then unreachable))
        (call $put (i32.const 1) (i32.const 4032) (i32.const 48))";
    let first = bench.map(&command("", body), b"").unwrap();
    assert!(first[8..].starts_with(b"map"), "{first:?}");
    assert_eq!(bench.map(&command("", body), b"").unwrap(), first);
}

/// Opens the path of `path`, at 256, below descriptor `fd`: leaves the error number, and the new descriptor at 16.
fn open(path: &str, fd: u32, how: u32, rights: u32) -> String {
    open_at((256, path.len()), fd, how, rights)
}

/// [`open`], of a path anywhere.
fn open_at((at, len): (usize, usize), fd: u32, how: u32, rights: u32) -> String {
    format!(
        "(call $open (i32.const {fd}) (i32.const 0) (i32.const {at}) (i32.const {len}) (i32.const {how})
            (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 16))"
    )
}

/// Traps where `errno` is not `expected`.
fn assert_errno(errno: &str, expected: i32) -> String {
    format!("(if (i32.ne {errno} (i32.const {expected})) (then unreachable))")
}

const READ: u32 = 1 << 1;

#[test]
fn side_files_are_in_the_one_directory_and_can_be_read_from_any_place() {
    let bench = Bench::new();
    // Whole, in reads of what is there (four bytes at most at a time); then from the fifth byte on.
    let body = format!(
        "{}
        (call $piece (i32.const 4096) (i32.const 100))
        {} (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 16)))
        {} (call $put (i32.const 1) (i32.const 261) (i32.const 1))
        (call $piece (i32.const 4096) (i32.const 3))
        {} (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 16)))",
        assert_errno(&open("there", 3, 0, READ), 0),
        assert_errno("(call $read (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 16))", 0),
        assert_errno("(call $seek (i32.const 6) (i64.const 5) (i32.const 0) (i32.const 16))", 0),
        assert_errno("(call $read (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 16))", 0),
    );
    let records = bench.map(&command("there\\n", &body), b"").unwrap();
    assert_eq!(records, packed(&[("side file", ""), ("fil", "")]));
}

#[test]
fn a_read_at_an_offset_leaves_the_file_where_it_is() {
    let pread =
        "(call $pread (i32.const 6) (i32.const 0) (i32.const 1) (i64.const 5) (i32.const 16))";
    let body = format!(
        "{} (call $piece (i32.const 4096) (i32.const 4))
        {} (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 16)))
        (call $put (i32.const 1) (i32.const 261) (i32.const 1))
        (call $piece (i32.const 4096) (i32.const 4))
        {} (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 16)))
        {} {} {}",
        assert_errno(&open("there", 3, 0, READ), 0),
        assert_errno(pread, 0),
        assert_errno("(call $read (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 16))", 0),
        assert_errno("(call $seek (i32.const 6) (i64.const -5) (i32.const 1) (i32.const 16))", 28),
        assert_errno("(call $close (i32.const 6))", 0),
        assert_errno(pread, 8),
    );
    let records = Bench::new().map(&command("there\\n", &body), b"").unwrap();
    assert_eq!(records, packed(&[("file", ""), ("side", "")]));
}

#[test]
fn what_cannot_be_opened_is_refused_with_an_error_that_programs_know() {
    let bench = Bench::new();
    let (no_entry, not_directory, read_only, not_capable) = (44, 54, 69, 76);
    for (path, fd, how, rights, errno) in [
        ("none", 3, 0, READ, no_entry),
        ("", 3, 0, READ, no_entry),
        ("./there", 3, 0, READ, 0),
        (".", 3, 1 << 1, READ, 0),
        ("there/x", 3, 0, READ, not_directory),
        ("there", 3, 1 << 1, READ, not_directory),
        ("..", 3, 0, READ, not_capable),
        ("x/../there", 3, 0, READ, not_capable),
        ("/there", 3, 0, READ, not_capable),
        ("new", 3, 1, READ, read_only),
        ("there", 3, 1 << 3, READ, read_only),
        ("there", 3, 0, READ | 1 << 6, read_only),
        ("deep/there", 3, 0, READ, 0),
        ("./deep//er/there", 3, 0, READ, 0),
        ("deep", 3, 1 << 1, READ, 0),
        ("deep/", 3, 0, READ, 0),
        ("dee", 3, 0, READ, no_entry),
        ("deep/none", 3, 0, READ, no_entry),
        ("deep/er/there/x", 3, 0, READ, not_directory),
        ("deep/../there", 3, 0, READ, not_capable),
        ("deep/new", 3, 1, READ, read_only),
        ("there", 9, 0, READ, 8),
        ("there", 1, 0, READ, 8),
    ] {
        let body = assert_errno(&open(path, fd, how, rights), errno);
        let opened = bench.map(&command(path, &body), b"");
        assert!(opened.is_ok(), "`{path}` at {fd}, {how}, {rights}: not {errno}: {opened:?}");
    }
}

#[test]
fn a_file_is_opened_from_the_directory_that_it_is_in() {
    let text = "deep/er/there";
    let from = |fd: u32, path: &str, errno: i32| {
        let at = 256 + text.find(path).unwrap();
        assert_errno(&open_at((at, path.len()), fd, 0, READ), errno)
    };
    // Descriptor 6 is `deep`, 7 is `er` in it, and 8 the file in that.
    let steps = [
        from(3, "deep", 0),
        from(6, "er", 0),
        from(7, "there", 0),
        from(6, "er/there", 0),
        from(7, "er/there", 44),
        from(8, "there", 54),
    ];
    let opened = Bench::new().map(&command(text, &steps.concat()), b"");
    assert!(opened.is_ok(), "{opened:?}");
}

#[test]
fn a_command_that_opens_files_without_end_has_too_many() {
    let endless = format!(
        "(loop $more {} (br_if $more (i32.lt_u (i32.load (i32.const 16)) (i32.const 258)))) {}",
        assert_errno(&open("there", 3, 0, READ), 0),
        assert_errno(&open("there", 3, 0, READ), 33),
    );
    let _ = Bench::new().map(&command("there", &endless), b"").unwrap();
}

#[test]
fn a_side_file_that_nobody_has_is_no_fault_of_the_command() {
    let body = format!(
        "{} (call $piece (i32.const 4096) (i32.const 1))
        (drop (call $read (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 16)))",
        assert_errno(&open("lost", 3, 0, READ), 0),
    );
    let lost = Bench::new().map(&command("lost", &body), b"");
    assert!(matches!(lost, Err(TaskError::Missing { .. })), "{lost:?}");
}

/// Writes the request at 256 to the device, and what is read of the answer to stdout. The device is descriptor 6.
fn ask(request: &str) -> String {
    let text = format!("ipdc{}", request.replace('"', "\\\""));
    let open = assert_errno(&open_at((256, 4), 4, 0, READ | 1 << 6), 0);
    let len = request.len() - request.matches("\\n").count();
    command(
        &text,
        &format!(
            "{open}
            (call $put (i32.const 6) (i32.const 260) (i32.const {len}))
            (call $piece (i32.const 4096) (i32.const 4096))
            {} (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 16)))",
            assert_errno(
                "(call $read (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 16))",
                0
            )
        ),
    )
}

#[test]
fn a_command_asks_its_host_through_the_device() {
    let bench = Bench::new();
    let asks = |request: &str| bench.map(&ask(request), b"").unwrap();
    let fine = packed(&[("{\"ok\":null}", "")]);
    assert_eq!(asks(r#"{"call":"log","text":"a word"}\n"#), fine);
    assert_eq!(asks(r#"{"call":"progress","done":1,"total":2}\n"#), fine);
    assert_eq!(asks(r#"{"call":"count","name":"seen","by":2}\n"#), fine);
    assert_eq!(bench.heard(), ["a word", "1/2", "seen +2"]);
    // What is not whole is not answered.
    assert_eq!(asks(r#"{"call":"log","text":"a word"}"#), b"");
    assert_eq!(bench.heard().len(), 3);
    for wrong in [
        "nonsense",
        r#"{"call":"teleport"}"#,
        r#"{"call":"log"}"#,
        r#"{"call":"log","text":"x","more":1}"#,
        r#"{"call":"progress","done":-1,"total":2}"#,
        r#"{"call":"count","name":"","by":2}"#,
    ] {
        let answer = asks(&format!(r"{wrong}\n"));
        assert!(answer[8..].starts_with(b"{\"error\":\""), "{wrong}: {answer:?}");
    }
    assert_eq!(bench.heard().len(), 3);
}

#[test]
fn a_command_that_gives_up_is_quoted_and_runs_no_further() {
    let bench = Bench::new();
    let (code, message) = bench.fails(&ask(r#"{"call":"fail","message":"no luck"}\n"#));
    assert_eq!((code, message.as_str()), ("IPDC-5316", "no luck"));
    assert_eq!(bench.heard(), Vec::<String>::new());
}

#[test]
fn a_request_without_end_is_too_long() {
    let open = assert_errno(&open_at((256, 4), 4, 0, READ | 1 << 6), 0);
    let write = "(call $write (i32.const 6) (i32.const 0) (i32.const 1) (i32.const 16))";
    let body = format!(
        "{open} (call $piece (i32.const 4096) (i32.const 65536)) {} {}",
        assert_errno(write, 0),
        assert_errno(write, 35),
    );
    let _ = Bench::new().map(&command("ipdc", &body), b"").unwrap();
}

#[test]
fn a_command_is_checked_before_it_runs() {
    let bench = Bench::new();
    bench.check(&cat(1), "map").unwrap();
    bench.check(&cat(1), "reduce").unwrap();
    let wrong = |from: &str, to: &str| bench.check(&cat(1).replace(from, to), "map").unwrap_err();
    assert!(wrong("random_get", "teleport").contains("`teleport`"));
    assert!(
        wrong("wasi_snapshot_preview1\" \"random_get", "env\" \"system")
            .contains("`system` from `env`")
    );
    assert!(wrong("(export \"memory\")", "").contains("`memory`"));
    assert!(wrong("\"_start\"", "\"map\"").contains("only a command"));
}
