//! The controller dies; what it promised stands.

use std::time::Duration;

use serde_json::json;

use ipdc_tests::job::{many_splits, parts, sorted_lines, words_wat};
use ipdc_tests::{JobDir, Swarm, alone};

const BURN: u32 = 100_000_000;

#[test]
fn a_job_accepted_right_before_its_controller_is_killed_goes_on_when_that_is_back() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), 6);
    let input = swarm[0].add(&input);
    let toml =
        "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"sum\"\npartitions = 2\n";
    let submission = json!({
        "kind": "mr", "input": input,
        "files": { "job.toml": toml, "words.wat": words_wat(BURN) },
    });
    let accepted = swarm[0].api().post("/jobs", &submission).ok();
    swarm[0].kill();

    let job = accepted["job"].as_str().unwrap();
    swarm[0].start();
    let _ = swarm[0].job_done(job);
    swarm[0].assert_counts(job, &expected);
}

#[test]
fn a_job_goes_on_where_it_was_when_its_controller_is_killed_in_the_middle() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), 16);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    swarm[0].job_until(&job, "some of the map done", |view| {
        view["stages"][0]["done"].as_u64() > Some(3)
    });
    swarm[0].kill();
    swarm[0].start();
    // It plans the job anew first; what was committed is there when the plan is.
    let view = swarm[0].job_until(&job, "its stages", |view| !view["stages"][0].is_null());
    assert!(view["stages"][0]["done"].as_u64() > Some(3), "what was committed is gone: {view:#}");
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn what_was_said_to_be_done_is_done_after_a_kill() {
    let mut swarm = Swarm::of(2);
    let (input, expected) = many_splits(swarm[0].folder(), 2);
    let job = swarm[0].submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    let before = swarm[0].job_done(&job);
    swarm[0].kill();
    // The result is on one other node too.
    let result = before["result"].as_str().unwrap();
    let out = swarm[1].folder().join("out");
    let _ = swarm[1].cli(["get", result, "--output"]).arg(&out).run().ok();
    assert!(sorted_lines(&parts(&out)) == expected);

    swarm[0].start();
    let after = swarm[0].api().get(&format!("/jobs/{job}")).ok();
    assert_eq!(after["state"], "done");
    assert_eq!(after["result"], before["result"]);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn the_same_key_names_the_same_job_before_and_after_a_kill() {
    let mut swarm = Swarm::of(1);
    let (input, _) = many_splits(swarm[0].folder(), 1);
    let input = swarm[0].add(&input);
    let job = swarm[0].add(JobDir::words(0, 1).path());
    let submission = json!({ "kind": "mr", "job": job, "input": input, "key": "only once" });
    let first = swarm[0].api().post("/jobs", &submission).ok();
    let second = swarm[0].api().post("/jobs", &submission).ok();
    assert_eq!(first["job"], second["job"]);
    swarm[0].kill();
    swarm[0].start();
    let third = swarm[0].api().post("/jobs", &submission).ok();
    assert_eq!(first["job"], third["job"]);
    assert_eq!(swarm[0].api().get("/jobs").ok().as_array().unwrap().len(), 1);
}

#[test]
fn a_job_waits_for_no_one_for_ever() {
    // A stall is found by lack of progress: with its only other worker stopped, not dead, the job
    // still ends within the bound of the leases.
    let _alone = alone();
    let mut swarm = Swarm::of(2);
    let (input, expected) = many_splits(swarm[0].folder(), 8);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    swarm[0].job_until(&job, "some of the map done", |view| {
        view["stages"][0]["done"].as_u64() > Some(0)
    });
    let frozen = swarm[1].take_process();
    frozen.signal(ipdc_tests::program::Signal::STOP);
    let started = std::time::Instant::now();
    let _ = swarm[0].job_done(&job);
    assert!(started.elapsed() < Duration::from_secs(180), "took {:?}", started.elapsed());
    swarm[0].assert_counts(&job, &expected);
}
