#![allow(clippy::unwrap_used)]

//! They need what a node needs to confine programs: Linux, root, control groups. Without, they fail and say so; set
//! `IPDC_TEST_NO_PROCESS=1` to leave them out.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipdc_jobs::ids::{CODEC_RAW, Cid, FileRef, cid_of};
use ipdc_jobs::kind::{Given, Guest, ReadAt, TaskError};
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::{Counters, FailureClass};
use ipdc_jobs::native::{Machine, Native};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::{Options, Processes};
use crate::config::Uids;
use crate::runtime::room::Room;
use crate::runtime::{Allowance, Attempt, Listener};

/// A node that runs programs.
struct World {
    processes: Processes,
    folder: TempDir,
    limits: Limits,
    stop: CancellationToken,
    heard: Heard,
}

/// What programs logged, and the files that there are.
#[derive(Clone, Default)]
struct Heard {
    lines: Arc<Mutex<Vec<String>>>,
    files: Arc<Mutex<HashMap<Cid, Bytes>>>,
}

struct Stored(Bytes);

impl ReadAt for Stored {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&mut self, offset: u64, want: usize) -> std::io::Result<Bytes> {
        let from = offset as usize;
        Ok(self.0.slice(from..self.0.len().min(from + want.min(1 << 16))))
    }
}

impl Listener for Heard {
    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        Ok(Box::new(Stored(self.files.lock().unwrap()[&file.cid].clone())))
    }
    fn log(&mut self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
    fn progress(&mut self, done: u64, total: u64) {
        self.log(&format!("{done} of {total}"));
    }
    fn count(&mut self, counted: Counters) -> bool {
        self.log(&format!("{counted:?}"));
        true
    }
}

/// What all programs of a test have together.
const ROOM: u64 = 1 << 30;

fn options(folder: &TempDir, name: &str) -> Options {
    Options {
        program: ipdc_tests::ipdc(),
        folder: folder.path().join("processes"),
        name: name.to_owned(),
        uids: Uids::DYNAMIC,
        memory: ROOM,
        idle: 2,
    }
}

/// A name for a node's control group, for this test alone.
fn name(test: &str) -> String {
    format!("ipdc-test-{}-{test}", std::process::id())
}

/// None where the user said that programs cannot be confined.
fn world(test: &str) -> Option<World> {
    if std::env::var_os("IPDC_TEST_NO_PROCESS").is_some() {
        eprintln!("left out: IPDC_TEST_NO_PROCESS is set");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let processes = Processes::start(options(&folder, &name(test)));
    let processes = processes.unwrap_or_else(|trouble| {
        panic!("{trouble}. These tests need root; IPDC_TEST_NO_PROCESS=1 leaves them out")
    });
    let limits = Limits { memory: 64 << 20, time_ms: 20_000, ..Limits::default() };
    let (stop, heard) = (CancellationToken::new(), Heard::default());
    Some(World { processes, folder, limits, stop, heard })
}

impl Drop for World {
    fn drop(&mut self) {
        self.processes.stop();
    }
}

impl World {
    fn file(&self, bytes: &[u8]) -> FileRef {
        let cid = cid_of(CODEC_RAW, bytes);
        self.heard.files.lock().unwrap().insert(cid, Bytes::copy_from_slice(bytes));
        FileRef { cid, len: bytes.len() as u64 }
    }

    /// An instance of this program, for an attempt of its own.
    fn guest(&self, program: &[u8], given: Given) -> Box<dyn Guest> {
        let program = Native { program: self.file(program), machine: None };
        let program = self.processes.program(&program, Room::new(0)).unwrap();
        let allowance = Allowance::new(&self.limits, self.stop.clone());
        Box::new(
            program
                .instantiate(Attempt { allowance, listener: Box::new(self.heard.clone()) }, given),
        )
    }

    /// The records of one run of a shell script.
    fn sh(&self, script: &str, input: &[u8]) -> Result<Vec<(String, String)>, TaskError> {
        call(&mut *self.guest(format!("#!/bin/sh\n{script}").as_bytes(), Given::default()), input)
    }

    /// What the script writes.
    fn says(&self, script: &str) -> String {
        let lines = self.sh(script, b"").unwrap().into_iter();
        lines
            .map(|(key, value)| format!("{key} {value}").trim().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The code and the words of what the script fails with.
    fn fails(&self, script: &str) -> (&'static str, String) {
        match self.sh(script, b"") {
            Err(TaskError::Failed { code, message, .. }) => (code, message),
            other => panic!("{other:?}"),
        }
    }
}

fn call(guest: &mut dyn Guest, input: &[u8]) -> Result<Vec<(String, String)>, TaskError> {
    let mut records = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    guest.call("map", input, &mut |mut frame| {
        while let [k0, k1, k2, k3, v0, v1, v2, v3, rest @ ..] = frame {
            let key = u32::from_le_bytes([*k0, *k1, *k2, *k3]) as usize;
            let end = key + u32::from_le_bytes([*v0, *v1, *v2, *v3]) as usize;
            records.push((text(&rest[..key]), text(&rest[key..end])));
            frame = &rest[end..];
        }
        Ok(())
    })?;
    Ok(records)
}

/// How many processes of the machine have this in their arguments.
fn running(what: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let has = |line: &Vec<u8>| String::from_utf8_lossy(line).contains(what);
    lines.filter(has).count()
}

fn record(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn lines_go_in_and_records_come_out_and_stderr_is_the_log() {
    let Some(world) = world("lines") else { return };
    let script = "echo \"$1\tfunction\"; tr a b; echo one >&2; printf 'last\tline'; echo two >&2";
    let records = world.sh(script, b"a\tx\ncan\n").unwrap();
    let expected =
        [record("map", "function"), record("b", "x"), record("cbn", ""), record("last", "line")];
    assert_eq!(records, expected);
    assert_eq!(*world.heard.lines.lock().unwrap(), ["one", "two"]);
}

#[test]
fn a_program_asks_its_host_by_descriptor_3_and_is_answered_line_by_line() {
    let Some(world) = world("asks") else { return };
    let asks = "echo '{\"call\":\"progress\",\"done\":1,\"total\":2}' >&3; read answer <&3; echo \"$answer\"
        echo 'nonsense' >&3; read answer <&3; echo \"$answer\" | cut -c1-9
        for i in 1 2 3; do echo '{\"call\":\"count\",\"name\":\"seen\",\"by\":2}' >&3; done";
    assert_eq!(world.says(asks), "{\"ok\":null}\n{\"error\":");
    assert_eq!(*world.heard.lines.lock().unwrap(), ["1 of 2", "{\"seen\": 6}"]);
    let (code, message) =
        world.fails("echo '{\"call\":\"fail\",\"message\":\"no luck\"}' >&3; sleep 99");
    assert_eq!((code, message.as_str()), ("IPDC-5316", "no luck"));
    // Who never reads the answers is asked to wait, and its requests count all the same.
    let many = "yes '{\"call\":\"count\",\"name\":\"many\",\"by\":1}' | head -50000 >&3 & sleep 0.2; head -50000 <&3 | wc -l";
    assert_eq!(world.says(many), "50000");
    assert_eq!(world.heard.lines.lock().unwrap().last().unwrap(), "{\"many\": 50000}");
    assert_eq!(world.fails("head -c 100000 /dev/zero >&3; sleep 99").0, "IPDC-5311");
}

#[test]
fn megabytes_pass_both_ways_at_once_and_input_need_not_be_read() {
    let Some(world) = world("megabytes") else { return };
    let input = b"0123456789abcde\n".repeat(1 << 18);
    assert_eq!(world.sh("cat", &input).unwrap().len(), 1 << 18);
    assert_eq!(world.sh("echo done", &input).unwrap(), [record("done", "")]);
    // What closes its stdin and goes on.
    assert_eq!(world.sh("exec <&-; sleep 0.1; echo later", &input).unwrap().len(), 1);
}

#[test]
fn a_program_is_nobody_in_a_place_of_its_own() {
    let Some(world) = world("nobody") else { return };
    let said = world.says(
        "id -u; id -g; id -G; pwd; env | sort | tr '\\n' ' '; echo; ls -A /proc/self/fd | wc -l",
    );
    let [uid, gid, groups, cwd, env, open] = &said.lines().collect::<Vec<_>>()[..] else {
        panic!("{said}")
    };
    assert!(Uids::DYNAMIC.all().contains(&uid.parse().unwrap()), "{said}");
    assert_eq!([gid, groups], [uid, uid]);
    assert_eq!(*cwd, "/work");
    let names: Vec<_> = env.split(' ').filter_map(|one| Some(one.split_once('=')?.0)).collect();
    assert_eq!(
        names,
        ["HOME", "IPDC_FD", "IPDC_INPUT", "IPDC_PARAMS", "LANG", "PATH", "PWD"],
        "{env}"
    );
    // Three, the one by which it asks, and the one that `ls` reads.
    assert_eq!(*open, "5");
    let rights = world.says("grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status");
    for line in rights.lines() {
        let (name, value) = line.split_once(':').unwrap();
        let expected = match name {
            "NoNewPrivs" => "1",
            "Groups" => "",
            _ => "0000000000000000",
        };
        assert_eq!(value.trim(), expected, "{rights}");
    }
}

#[test]
fn nothing_of_the_machine_is_there_but_programs_and_their_settings() {
    let Some(world) = world("nothing") else { return };
    let secret = world.folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let said =
        world.says(&format!("cat {} 2>&1; ls /; ls /proc | grep -c '^[0-9]'", secret.display()));
    assert!(!said.contains("secret\n") && said.contains("No such file"), "{said}");
    for folder in ["home", "root", "var", "run", "sys", "srv", "mnt"] {
        assert!(!said.lines().any(|line| line == folder), "{said}");
    }
    // Its shell, `ls`, `grep` and the launcher: at most these.
    assert!(said.lines().last().unwrap().parse::<u32>().unwrap() <= 4, "{said}");
    let wrote = world.says("for at in / /job /code /etc /usr /dev /proc/sys/kernel/core_pattern; do touch $at/x 2>/dev/null && echo $at; done; true");
    assert_eq!(wrote, "");
}

#[test]
fn the_network_is_out_of_reach_the_machines_own_too() {
    let Some(world) = world("network") else { return };
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = there.local_addr().unwrap().port();
    let script = format!("#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
    let mut guest = world.guest(script.as_bytes(), Given::default());
    let Err(TaskError::Failed { code, message, .. }) = call(&mut *guest, b"") else {
        panic!("it reached the machine")
    };
    assert_eq!(code, "IPDC-5310");
    assert!(message.contains("Network is unreachable"), "{message}");
}

#[test]
fn side_files_and_params_are_there_and_change_with_what_is_given() {
    let Some(world) = world("files") else { return };
    let given = |text: &str| {
        let file = world.file(text.as_bytes());
        let names = ["list", "deep/er/list", "../up", "no//path"];
        let files = names.map(|name| (name.to_owned(), file)).into();
        Given { files, params: Bytes::from_static(b"{\"a\":1}"), ..Given::default() }
    };
    let script =
        b"#!/bin/sh\ncd /job; cat list deep/er/list; find . -type f | sort; echo $IPDC_PARAMS";
    for text in ["one\n", "other\n"] {
        let mut guest = world.guest(script, given(text));
        let said: Vec<_> = call(&mut *guest, b"").unwrap().into_iter().map(|it| it.0).collect();
        let text = text.trim();
        assert_eq!(said, [text, text, "./deep/er/list", "./list", "{\"a\":1}"]);
    }
}

#[test]
fn large_files_of_an_attempt_are_gone_when_it_is_over_and_small_ones_serve_the_next() {
    let Some(world) = world("large") else { return };
    let held = || -> u64 {
        let folders = std::fs::read_dir(world.folder.path().join("processes")).unwrap().flatten();
        let lists = folders.map(|folder| std::fs::read_dir(folder.path().join("job")).unwrap());
        lists.flatten().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    for (bytes, left) in [(1_usize, 1), (40 << 20, 0)] {
        let files = [("large".to_owned(), world.file(&vec![b'x'; bytes]))].into();
        let program =
            Native { program: world.file(b"#!/bin/sh\nwc -c < /job/large\n"), machine: None };
        let program = world.processes.program(&program, Room::new(0)).unwrap();
        let allowance = Allowance::new(&world.limits, world.stop.clone());
        let given = Given { files, ..Given::default() };
        let mut guest = program
            .instantiate(Attempt { allowance, listener: Box::new(world.heard.clone()) }, given);
        for _ in 0..2 {
            let said = call(&mut guest, b"").unwrap();
            assert_eq!(said, [record(&bytes.to_string(), "")]);
            assert_eq!(held(), bytes as u64);
        }
        drop(program);
        assert_eq!(held(), left);
    }
}

#[test]
fn nothing_that_a_run_leaves_is_there_for_the_next() {
    let Some(world) = world("leaves") else { return };
    let leave = "ls -A /work /tmp/ /dev/shm/; echo x > left; mkdir d; echo y > /tmp/d/y; chmod 0 d; (setsid sleep 77071 &)";
    let leave = format!("#!/bin/sh\n{leave}; ls /proc | grep -c '^[0-9]'");
    let mut guest = world.guest(leave.as_bytes(), Given::default());
    let first = call(&mut *guest, b"").unwrap();
    assert_eq!(call(&mut *guest, b"").unwrap().len(), first.len());
    assert_eq!(running("77071"), 0);
    let mut other = world.guest(leave.as_bytes(), Given::default());
    assert_eq!(call(&mut *other, b"").unwrap().len(), first.len());
}

#[test]
fn what_a_program_ends_with_is_said_and_the_next_run_is_as_if_nothing_had_been() {
    let Some(world) = world("ends") else { return };
    let (code, message) = world.fails("echo first; echo oh no >&2; exit 3");
    assert_eq!(code, "IPDC-5310");
    assert!(message.contains("exit code 3: oh no"), "{message}");
    let (code, message) = world.fails("kill -SEGV $$");
    assert_eq!((code, message.as_str()), ("IPDC-5318", "the program was ended by signal 11"));
    assert_eq!(world.says("echo fine"), "fine");
}

#[test]
fn a_program_that_cannot_be_started_here_says_why_and_another_node_may() {
    let Some(world) = world("started") else { return };
    let ended = call(&mut *world.guest(b"#!/usr/bin/no-such-thing\n", Given::default()), b"");
    let elsewhere = if cfg!(target_arch = "s390x") { Machine::Arm } else { Machine::S390x };
    let other = Native { program: world.file(b"\x7fELF"), machine: Some(elsewhere) };
    for (ended, said) in [
        (ended.err(), "interpreter"),
        (world.processes.program(&other, Room::new(0)).err(), "not for this machine"),
    ] {
        let Some(TaskError::Failed { class, code, message }) = ended else { panic!("{ended:?}") };
        assert_eq!((class, code), (FailureClass::Worker, "IPDC-5319"));
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn a_program_that_cannot_be_started_is_told_of_each_item_and_leaves_its_launcher_as_it_was() {
    let Some(world) = world("unstarted") else { return };
    let given = || Given { write: true, ..Given::default() };
    let mut guest = world.guest(b"#!/no/such/interpreter\n", given());
    for _ in 0..3 {
        let Err(TaskError::Failed { code, message, .. }) = call(&mut *guest, b"") else { panic!() };
        assert_eq!(code, "IPDC-5319", "{message}");
    }
    let mut lists = world.guest(b"#!/bin/sh\nls -A /work /out", given());
    for _ in 0..3 {
        let lines = call(&mut *lists, b"").unwrap().into_iter().map(|(key, _)| key);
        assert_eq!(lines.collect::<Vec<_>>(), ["/out:", "", "/work:", "out"]);
    }
}

#[test]
fn a_program_that_wants_too_much_memory_is_ended_and_told_so() {
    let Some(world) = world("memory") else { return };
    for greedy in ["tail /dev/zero", "exec tail /dev/zero", "cat /dev/zero > file; exit 1"] {
        let (code, message) = world.fails(greedy);
        assert_eq!(code, "IPDC-5303", "{greedy}: {message}");
        assert!(message.contains("64 MiB"), "{message}");
    }
    assert_eq!(world.says("echo fine"), "fine");
}

#[test]
fn a_program_that_wants_more_memory_than_its_node_has_is_not_to_blame() {
    let Some(mut world) = world("room") else { return };
    world.limits.memory = ROOM * 2;
    let ended = world.sh("tail /dev/zero", b"");
    let Err(TaskError::Failed { class, code, .. }) = &ended else { panic!("{ended:?}") };
    assert_eq!((*class, *code), (FailureClass::TooSmall, "IPDC-5312"), "{ended:?}");
}

#[test]
fn a_fork_bomb_harms_itself_alone_and_is_told_so() {
    let Some(mut world) = world("bomb") else { return };
    world.limits.memory = 512 << 20;
    let bomb = "n=0; while [ $n -lt 2000 ]; do sleep 77072 & n=$((n+1)); done; wait";
    let (code, message) = world.fails(bomb);
    assert_eq!(code, "IPDC-5321", "{message}");
    assert_eq!(running("77072"), 0);
    assert_eq!(world.says("echo fine"), "fine");
}

#[test]
fn at_its_deadline_a_program_is_gone_with_all_that_it_started() {
    let Some(mut world) = world("deadline") else { return };
    world.limits.time_ms = 300;
    let script =
        "(setsid sh -c 'trap \"\" TERM HUP; sleep 77073' > /dev/null 2>&1 &) ; sleep 77073";
    let (code, _) = world.fails(script);
    assert_eq!(code, "IPDC-5302");
    assert_eq!(running("77073"), 0);
}

#[test]
fn a_program_of_an_attempt_that_is_stopped_is_ended_at_once() {
    let Some(world) = world("stopped") else { return };
    let stop = world.stop.clone();
    let stopping = thread::spawn(move || {
        while running("77074") == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        stop.cancel();
    });
    let ended = world.sh("sleep 77074", b"");
    assert!(matches!(ended, Err(TaskError::Stopped)), "{ended:?}");
    stopping.join().unwrap();
    assert_eq!(running("77074"), 0);
}

#[test]
fn a_launcher_that_was_killed_is_replaced() {
    let Some(world) = world("replaced") else { return };
    assert_eq!(world.says("echo fine"), "fine");
    let me = format!("PPid:\t{}\n", std::process::id());
    let is_mine = |entry: &std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.contains(&me)
    };
    let mut mine = std::fs::read_dir("/proc").unwrap().flatten().filter(is_mine);
    let outer = mine.next().unwrap().file_name().into_string().unwrap();
    kill_process(Pid::from_raw(outer.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let state = || std::fs::read_to_string(format!("/proc/{outer}/stat")).unwrap();
    while !state().contains(") Z ") {
        assert!(Instant::now() < until, "it is not dead: {}", state());
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(world.says("echo fine"), "fine");
}

#[test]
fn what_is_written_without_end_goes_no_further_than_the_limits() {
    let Some(mut world) = world("flood") else { return };
    let (code, _) = world.fails("tr '\\0' x < /dev/zero");
    assert_eq!(code, "IPDC-5311");
    world.limits.output = 1 << 20;
    let (code, message) = world.fails("head -c 2000000 /dev/zero > file; exit 9");
    assert_eq!(code, "IPDC-5310", "{message}");
    world.limits.time_ms = 500;
    assert_eq!(world.fails("yes >&2").0, "IPDC-5302");
    assert!(world.heard.lines.lock().unwrap().len() < 200_000);
}

#[test]
fn when_the_node_is_killed_so_is_what_it_runs_and_the_next_start_sweeps() {
    let Some(world) = world("killed") else { return };
    let node_name = name("killed-other");
    // Another process stands for the node: this test's own program, which runs the test below.
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runtime::process::tests::a_node_that_is_killed", "--ignored"])
        .env("IPDC_TEST_KILLED", world.folder.path())
        .env("IPDC_TEST_NAME", &node_name)
        .spawn()
        .unwrap();
    while running("77075") == 0 {
        assert!(node.try_wait().unwrap().is_none(), "it ended before it was killed");
        thread::sleep(Duration::from_millis(5));
    }
    node.kill().unwrap();
    node.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while running("77075") > 0 {
        assert!(Instant::now() < until, "it outlived its node");
        thread::sleep(Duration::from_millis(5));
    }
    let left = Group::own().unwrap();
    assert!(left.holds(&node_name));
    let next = Processes::start(options(&world.folder, &node_name)).unwrap();
    next.stop();
    assert!(!left.holds(&node_name));
}

#[test]
#[ignore = "a part of the test before, in a process of its own"]
fn a_node_that_is_killed() {
    // Who runs all that is ignored means the long tests.
    let Ok(folder) = std::env::var("IPDC_TEST_KILLED") else { return };
    let folder = tempfile::tempdir_in(folder).unwrap();
    let name = std::env::var("IPDC_TEST_NAME").unwrap();
    let processes = Processes::start(options(&folder, &name)).unwrap();
    let limits = Limits { memory: 64 << 20, time_ms: 60_000, ..Limits::default() };
    let world = World {
        processes,
        folder,
        limits,
        stop: CancellationToken::new(),
        heard: Heard::default(),
    };
    let _ = world.sh("(setsid sleep 77075 &); sleep 77075", b"");
}
