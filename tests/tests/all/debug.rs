//! `ipdc job debug`: a task again, at home.

use std::fs;

use ipdc_tests::job::{guest, many_splits, parts};
use ipdc_tests::{JOB, JobDir, Node, Program, Swarm};

use crate::languages::{can_build, new};

#[test]
fn a_task_that_trapped_traps_again_at_home_with_its_log_and_the_place() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 1);
    let job = JobDir::words(0, 1).file("words.wat", guest("log-trap.wat"));
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input).arg("--json");
    let failed = run.within(JOB).run().failed(1, &["IPDC-5301"]).json();
    let id = failed["job"].as_str().unwrap();
    let debug = node.cli(["job", "debug", id, "0"]).within(JOB).run();
    let ended = ["IPDC-5301", "unreachable", "in fail, called by map"];
    let debug = debug.failed(1, &["about to trap", "does not say where in its source"]);
    let _ = debug.says(&ended);
}

/// In each language a function that fails, called by another; `here` marks where.
const FAULTS: [(&str, &str, &str); 3] = [
    (
        "rust",
        "src/lib.rs",
        "ipdc_guest::map!(lines);

fn lines(text: &[u8]) {
    check(text.len()); // here
}

#[inline(never)]
fn check(len: usize) {
    assert!(len > 1 << 30); // here
}
",
    ),
    (
        "c",
        "map.c",
        "#include \"ipdc.h\"

__attribute__((noinline)) static void check(uint32_t len) {
    if (len < 1u << 30) __builtin_trap(); /* here */
}

static void lines(ipdc_bytes text) {
    check(text.len); /* here */
}

IPDC_MAP(lines)
",
    ),
    (
        "wasi",
        "src/main.rs",
        "fn main() {
    check(std::env::args().count()); // here
}

#[inline(never)]
fn check(count: usize) {
    assert!(count > 1 << 30); // here
}
",
    ),
];

#[test]
fn a_task_that_trapped_shows_the_lines_of_its_source_when_its_module_has_them() {
    let mut node = Node::first();
    node.start();
    for (language, file, source) in FAULTS.into_iter().filter(|fault| can_build(fault.0)) {
        let _ = new(node.folder(), &[language, "--lang", language]).ok();
        let job = node.folder().join(language);
        fs::write(job.join(file), source).unwrap();
        let _ = Program::new("sh").arg(job.join("build.sh")).arg("-g").within(JOB).run().ok();
        let failed = node.cli(["run", "mr"]).arg(&job).arg("--json").within(JOB).run();
        let failed = failed.failed(1, &["IPDC-5301"]).json();
        let debug = node.cli(["job", "debug", failed["job"].as_str().unwrap(), "0"]);
        let mut debug = debug.within(JOB).run().failed(1, &["check, ", "called by "]);
        for (at, _) in source.lines().enumerate().filter(|(_, line)| line.contains("here")) {
            debug = debug.says(&[&format!("{file}:{}", at + 1)]);
        }
    }
}

#[test]
fn tasks_of_a_done_job_give_at_home_what_they_gave_in_the_swarm() {
    let swarm = Swarm::of(2);
    let (input, _) = many_splits(swarm[0].folder(), 4);
    let job = JobDir::words(0, 2);
    let id = swarm[0].submit(job.path(), input.to_str().unwrap());
    let _ = swarm[0].job_done(&id);
    let expected = parts(&swarm[0].save_result(&id));
    // Tasks 0 to 3 are the maps, 4 and 5 the reduces.
    for (partition, expected) in expected.iter().enumerate() {
        let out = swarm[0].folder().join(format!("debug-{partition}"));
        let task = (4 + partition).to_string();
        let debug = swarm[0].cli(["job", "debug", &id, &task, "--json"]).arg("--out").arg(&out);
        let ran = debug.within(JOB).run().ok().json();
        assert_eq!(ran["stage"], "reduce");
        assert_eq!(&fs::read(out.join("file-00000")).unwrap(), expected);
    }
    let map = swarm[0].cli(["job", "debug", &id, "2"]).within(JOB).run().ok();
    assert!(map.text().contains("map task 2 ended well"), "{map}");
}

#[test]
fn what_cannot_be_run_at_home_is_said_with_what_to_do() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 1);
    let job = node.submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    let _ = node.job_done(&job);
    let debug = |task: &str| node.cli(["job", "debug", &job, task]).within(JOB).run();
    let _ = debug("2").failed(4, &["IPDC-5003", "no task 2"]);
    // Eight later jobs, and nobody knows any more what the maps of this one gave.
    for later in 0..8 {
        let other = JobDir::words(later + 1, 1);
        let _ = node.job_done(&node.submit(other.path(), input.to_str().unwrap()));
    }
    let _ = debug("1").failed(4, &["IPDC-5004", "task 0", "run the job again"]);
    let _ = debug("0").ok();
}
