//! `--local N`: no set-up at all.

use std::path::Path;

use ipdc_tests::job::{guest, many_splits, parts, sorted_lines};
use ipdc_tests::program::Signal;
use ipdc_tests::{JOB, JobDir, Node, Program, SOON, Site, alone, eventually, ipdc, root};

/// `ipdc` with no home, and temporary files below `folder`.
fn bare(folder: &Path) -> Program {
    let tmp = folder.join("tmp");
    std::fs::create_dir_all(&tmp).unwrap();
    Program::new(ipdc())
        .env("TMPDIR", &tmp)
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder.join("data"))
        .dir(folder)
}

fn left_behind(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_job_runs_on_three_local_nodes_and_leaves_nothing_behind() {
    let room = Node::new();
    let (input, expected) = many_splits(room.folder(), 6);
    let out = room.folder().join("out");
    let job_dir = JobDir::words(0, 2);
    let run = bare(room.folder()).args(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(input);
    let ran = run.args(["--local", "3", "--json", "--out"]).arg(&out).within(JOB).run().ok();
    assert_eq!(ran.json()["state"], "done");
    assert_eq!(sorted_lines(&parts(&out)), expected);
    assert_eq!(left_behind(room.folder()), Vec::<String>::new(), "{ran}");
}

#[test]
fn an_interrupted_local_run_leaves_nothing_behind() {
    let room = Node::new();
    let (input, _) = many_splits(room.folder(), 6);
    let job_dir = JobDir::words(400_000_000, 2);
    let run = bare(room.folder()).args(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(input);
    let running = run.args(["--local", "2"]).start();
    eventually(SOON, "its nodes have homes", || {
        (!left_behind(room.folder()).is_empty()).then_some(())
    });
    running.signal(Signal::INT);
    let ran = running.wait(SOON);
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    assert_eq!(left_behind(room.folder()), Vec::<String>::new(), "{ran}");
}

#[test]
fn the_example_in_wat_needs_no_tools() {
    let room = Node::new();
    let examples = std::fs::read_dir(root().join("examples")).unwrap();
    let in_wat = examples.map(|entry| entry.unwrap().path()).find(|dir| {
        !dir.join("Cargo.toml").exists()
            && std::fs::read_dir(dir).is_ok_and(|mut files| {
                files.any(|file| file.unwrap().path().extension().is_some_and(|ext| ext == "wat"))
            })
    });
    let in_wat = in_wat.expect("an example in wat");
    let run = bare(room.folder()).args(["run", "mr"]).arg(in_wat).args(["--local", "1", "--json"]);
    assert_eq!(run.within(JOB).run().ok().json()["state"], "done");
}

#[test]
fn after_a_local_run_items_that_failed_are_found_in_the_result() {
    let room = Node::new();
    let job = JobDir::new("kind = \"cl\"\nrun = \"run.wat\"\nitems = \"list\"\nretries = 0\n")
        .file("run.wat", guest("echo.wat"))
        .file("list", "a\n!b\n");
    let out = room.folder().join("out");
    let run = bare(room.folder()).args(["run", "cl"]).arg(job.path());
    let ran = run.args(["--local", "1", "--out"]).arg(&out).within(JOB).run();
    let list = out.join("results.jsonl");
    let ran = ran.failed(6, &["IPDC-1643", list.to_str().unwrap()]);
    assert!(!format!("{ran}").contains("ipdc job items"), "its node is gone: {ran}");
    let failed = std::fs::read_to_string(list).unwrap();
    assert!(failed.lines().nth(1).unwrap().contains("\"status\":\"failed\""), "{failed}");
}

#[test]
fn a_local_run_that_nobody_may_run_ends_with_the_reason_and_what_allows_it() {
    let room = Node::new();
    let site = Site::start(3, 7);
    let crawl = JobDir::crawl(&site, "", "rate = 0");
    let run = || bare(room.folder()).args(["run", "cl"]).arg(crawl.path()).args(["--local", "1"]);
    let why = ["IPDC-1634", "without the right to fetch", "--allow fetch"];
    let _ = run().args(["--allow", "process"]).within(JOB).run().failed(1, &why);
    let out = room.folder().join("out");
    let _ = run().args(["--allow", "fetch"]).within(JOB).run().failed(1, &["IPDC-1634"]);
    let allow = ["--allow", "fetch", "--allow", "private", "--out"];
    let _ = run().args(allow).arg(&out).within(JOB).run().ok();
    let results = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    assert_eq!(results.lines().count(), 3);
}

#[test]
fn twenty_local_nodes_are_one_swarm() {
    let _alone = alone();
    let room = Node::new();
    let (input, expected) = many_splits(room.folder(), 20);
    let out = room.folder().join("out");
    let job_dir = JobDir::words(0, 2);
    let run = bare(room.folder()).args(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(input);
    let _ = run.args(["--local", "20", "--out"]).arg(&out).within(JOB).run().ok();
    assert_eq!(sorted_lines(&parts(&out)), expected);
}
