//! WASI commands as user code: ordinary programs, lines in, `key<TAB>value` lines out.

use ipdc_tests::job::{before_the_sum, guest, many_splits, parts, words_wat};
use ipdc_tests::{JOB, JobDir, Node, Ran};

const TOML: &str = "kind = \"mr\"\nmap = \"map.wat\"\nreduce = \"sum\"\npartitions = 1\n";

/// A command that writes `text` to `fd` and ends with `code`.
fn says(fd: u32, text: &str, code: u32) -> String {
    guest("says.wat")
        .replace("(; fd ;)", &fd.to_string())
        .replace("(; code ;)", &code.to_string())
        .replace("(; text ;)", &text.escape_default().to_string())
        .replace("(; length ;)", &text.len().to_string())
}

/// Runs a job over two splits on one node; gives its parts, when it is done.
fn run(job: &JobDir) -> (Node, Ran, Vec<Vec<u8>>) {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 2);
    let out = node.folder().join("out");
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(input);
    let ran = run.arg("--out").arg(&out).within(JOB).run();
    let made = if out.exists() { parts(&out) } else { Vec::new() };
    (node, ran, made)
}

#[test]
fn commands_combine_and_reduce_sorted_lines() {
    let (node, _, _) = run(&JobDir::words(0, 1));
    let (input, counts) = many_splits(node.folder(), 2);
    let toml = "kind = \"mr\"\nmap = \"map.wat\"\ncombine = \"cat.wat\"\nreduce = \"cat.wat\"\npartitions = 1\n";
    let job = JobDir::new(toml).file("map.wat", words_wat(0)).file("cat.wat", guest("cat.wat"));
    let id = node.submit(job.path(), input.to_str().unwrap());
    let _ = node.job_done(&id);
    let made = parts(&node.save_result(&id)).concat();
    let expected = before_the_sum(&counts);
    assert_eq!(String::from_utf8(made), String::from_utf8(expected));
}

#[test]
fn a_command_that_fails_fails_the_job_with_what_it_said() {
    let (node, ran, _) = run(&JobDir::new(TOML).file("map.wat", says(2, "no luck today\n", 7)));
    let ran = ran.refused(&["exit code 7", "no luck today"]);
    let jobs = node.api().get("/jobs").ok();
    let failed = &jobs.as_array().unwrap()[0];
    assert_eq!(failed["error"]["code"], "IPDC-5310", "{ran}{failed:#}");
    let logs = node.cli(["job", "logs", failed["job"].as_str().unwrap()]).run().ok();
    assert!(logs.text().contains("no luck today"), "{ran}{logs}");
}

#[test]
fn a_command_that_reads_nothing_is_done_when_it_ends() {
    let (_, ran, parts) = run(&JobDir::new(TOML).file("map.wat", says(1, "split\t1\n", 0)));
    let _ = ran.ok();
    assert_eq!(parts, [b"split\t2\n"]);
}

#[test]
fn a_command_that_writes_without_end_is_stopped_at_its_output_limit() {
    let toml = format!("{}[limits]\noutput = \"1MiB\"\n", TOML.replace("\"sum\"", "\"count\""));
    let (_, ran, _) = run(&JobDir::new(&toml).file("map.wat", guest("flood.wat")));
    let _ = ran.refused(&["output"]);
}

#[test]
fn a_command_with_functions_that_wasi_has_not_is_refused_by_their_names() {
    let wat = says(1, "", 0).replace("proc_exit", "proc_spawn");
    let (_, ran, _) = run(&JobDir::new(TOML).file("map.wat", wat));
    let _ = ran.refused(&["job.toml:2", "proc_spawn"]);
}

#[test]
fn a_record_that_a_command_gives_up_on_can_be_left_out() {
    let mut node = Node::first();
    node.start();
    let input = node.folder().join("lines");
    std::fs::write(&input, "good\t1\nbad!\t1\nfine\t1\n").unwrap();
    let toml = format!("{TOML}max_bad_records = 1\n");
    let job = JobDir::new(&toml).file("map.wat", guest("picky.wat"));
    let id = node.submit(job.path(), input.to_str().unwrap());
    let _ = node.job_done(&id);
    assert_eq!(parts(&node.save_result(&id)), [b"fine\t1\ngood\t1\n"]);
}
