//! User code that is wrong, in every way that the sandbox must bear.

use ipdc_tests::job::{guest, many_splits};
use ipdc_tests::{JOB, JobDir, Node, Ran, SOON};

const TOML: &str = "kind = \"mr\"\nmap = \"map.wat\"\nreduce = \"sum\"\npartitions = 1\n";

/// Runs a job of one split and one guest on one node; the node must outlive it.
fn run(job: &JobDir) -> (Node, Ran) {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 1);
    let ran = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input).within(JOB).run();
    let next = node.submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    let _ = node.job_done(&next);
    (node, ran)
}

#[test]
fn a_module_that_is_not_wasm_is_refused_before_anything_runs() {
    let toml = TOML.replace("map.wat", "map.wasm");
    let (node, ran) = run(&JobDir::new(&toml).file("map.wasm", "#!/bin/sh\nrm -rf /\n"));
    let _ = ran.refused(&["job.toml:2", "map.wasm", "wasm"]);
    assert_eq!(node.api().get("/jobs").ok().as_array().unwrap().len(), 1, "it became a job");
}

#[test]
fn a_wat_text_with_a_fault_is_refused_where_it_is() {
    let (_, ran) = run(&JobDir::new(TOML)
        .file("map.wat", "(module\n  (func (export \"map\") (param i32 i32) i32.nonsense))"));
    let _ = ran.refused(&["map.wat"]);
}

#[test]
fn a_module_without_its_export_is_refused_by_the_exports_name() {
    let (_, ran) = run(&JobDir::new(TOML).file("map.wat", guest("no-map.wat")));
    let _ = ran.refused(&["map.wat", "map"]);
    let (_, ran) =
        run(&JobDir::new(TOML).file("map.wat", "(module (func (export \"map\") (param i32 i32)))"));
    let _ = ran.refused(&["map.wat", "memory"]);
}

#[test]
fn a_module_that_imports_what_the_sandbox_lacks_is_refused_by_the_imports_name() {
    let wat =
        "(module (import \"env\" \"system\" (func (param i32))) (memory (export \"memory\") 1)
        (func (export \"ipdc_alloc\") (param i32) (result i32) (i32.const 64))
        (func (export \"map\") (param i32 i32)))";
    let (_, ran) = run(&JobDir::new(TOML).file("map.wat", wat));
    let _ = ran.refused(&["system"]);
}

#[test]
fn a_trap_fails_the_job_and_says_so() {
    let (node, ran) = run(&JobDir::new(TOML).file("map.wat", guest("trap.wat")));
    let ran = ran.refused(&["unreachable"]);
    let jobs = node.api().get("/jobs").ok();
    let failed = jobs
        .as_array()
        .unwrap()
        .iter()
        .find(|job| job["state"] == "failed")
        .expect("a failed job")
        .clone();
    assert!(failed["error"]["code"].as_str().unwrap().starts_with("IPDC-5"), "{failed:#}");
    let logs = node.cli(["job", "logs", failed["job"].as_str().unwrap()]).run().ok();
    assert!(logs.text().contains("unreachable"), "{ran}{logs}");
}

#[test]
fn a_guest_that_loops_for_ever_is_stopped_at_its_time_limit() {
    let toml = format!("{TOML}[limits]\ntime = \"500ms\"\n");
    let (_, ran) = run(&JobDir::new(&toml).file("map.wat", guest("forever.wat")));
    let ran = ran.refused(&["time"]);
    assert!(ran.took < SOON, "{ran}");
}

#[test]
fn a_guest_that_grows_without_end_is_stopped_at_its_memory_limit() {
    let toml = format!("{TOML}[limits]\nmemory = \"32MiB\"\n");
    let (_, ran) = run(&JobDir::new(&toml).file("map.wat", guest("grow.wat")));
    let _ = ran.refused(&["memory"]);
}

#[test]
fn a_guest_that_writes_without_end_is_stopped_at_its_output_limit() {
    let toml = format!("{TOML}[limits]\noutput = \"1MiB\"\n");
    let wat = guest("words.wat").replace(
        "(local.set $rounds (i32.const 0) (; rounds a line ;))",
        "(loop $more (call $emit (i32.const 0) (i32.const 65000) (i32.const 0) (i32.const 65000)) (br $more))",
    );
    let (_, ran) = run(&JobDir::new(&toml).file("map.wat", wat));
    let _ = ran.refused(&["output"]);
}
