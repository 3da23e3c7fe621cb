//! Workers that die, stop, or are too few: the job ends all the same, with the same result.

use std::collections::BTreeSet;

use serde_json::Value;

use ipdc_tests::job::many_splits;
use ipdc_tests::{JOB, JobDir, SOON, Swarm, alone, eventually};

/// Rounds a line that make one small split take about half a second.
const BURN: u32 = 100_000_000;
/// Rounds a key that make one partition of theirs take about half a second.
const BURN_KEY: u32 = 8_000_000;
const SPLITS: usize = 12;

/// How many tasks of a stage are `what`; none before the job is planned.
fn count(view: &Value, stage: usize, what: &str) -> u64 {
    view["stages"][stage][what].as_u64().unwrap_or(0)
}

#[test]
fn a_job_survives_a_worker_killed_while_it_maps() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), SPLITS);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    let victim = eventually(SOON, "another node works", || swarm.worker_of(&job, &[0]));
    swarm[victim].kill();
    let done = swarm[0].job_done(&job);
    assert_eq!(count(&done, 0, "done"), SPLITS as u64);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn a_job_survives_a_worker_killed_after_its_map_when_its_outputs_are_lost() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), SPLITS);
    let job_dir = JobDir::slow_reduce(0, BURN_KEY, 6);
    let job = swarm[0].submit(job_dir.path(), input.to_str().unwrap());
    swarm[0].job_until(&job, "the map done", |view| count(view, 0, "done") == SPLITS as u64);
    // Every node has done a share of the map: half a dozen tasks are more than two can hide.
    swarm[2].kill();
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn a_job_survives_a_worker_killed_while_it_reduces() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), SPLITS);
    let job_dir = JobDir::slow_reduce(0, BURN_KEY, 6);
    let job = swarm[0].submit(job_dir.path(), input.to_str().unwrap());
    swarm[0].job_until(&job, "the reduce under way", |view| count(view, 1, "running") > 0);
    let victim = eventually(SOON, "another node reduces", || swarm.worker_of(&job, &[0]));
    swarm[victim].kill();
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn a_job_survives_the_death_of_every_other_node() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), SPLITS);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    eventually(SOON, "another node works", || swarm.worker_of(&job, &[0]));
    swarm[1].kill();
    swarm[2].kill();
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn a_node_that_works_for_others_asks_before_it_stops_and_hands_back_what_it_has() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let (input, expected) = many_splits(swarm[0].folder(), SPLITS);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    let worker = eventually(SOON, "another node works", || swarm.worker_of(&job, &[0]));
    let _ = swarm[worker].cli(["stop"]).run().refused(&["--yes"]);
    assert_eq!(swarm[worker].status()["draining"], false);
    swarm[worker].stop();
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn a_node_that_joins_later_takes_a_share() {
    let _alone = alone();
    let mut swarm = Swarm::of(2);
    let (input, expected) = many_splits(swarm[0].folder(), 24);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    eventually(SOON, "the job runs", || swarm.worker_of(&job, &[0]));
    let third = swarm.join();
    eventually(JOB, "the newcomer works", || (swarm[third].attempts_of(&job) > 0).then_some(()));
    let _ = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
}

#[test]
fn a_job_that_asks_for_more_workers_than_there_are_runs_on_those_and_says_so() {
    let swarm = Swarm::of(2);
    let (input, expected) = many_splits(swarm[0].folder(), 4);
    let job_dir = JobDir::words(0, 2);
    let run = swarm[0].cli(["run", "mr"]).arg(job_dir.path()).args(["--workers", "7", "--json"]);
    let ran = run.arg("--input").arg(input).within(JOB).run().ok();
    let view = ran.json();
    swarm[0].assert_counts(view["job"].as_str().unwrap(), &expected);
    let said = format!(
        "{}{}",
        ran.stderr,
        swarm[0].api().get(&format!("/jobs/{}", view["job"].as_str().unwrap())).ok()
    );
    assert!(
        said.contains('7') && said.contains('2'),
        "{ran}expected to hear of 7 asked and 2 there: {said}"
    );
}

#[test]
fn a_job_that_asks_for_one_worker_runs_on_one() {
    let swarm = Swarm::of(3);
    let (input, _) = many_splits(swarm[0].folder(), 6);
    let job_dir = JobDir::words(0, 2);
    let run = swarm[0].cli(["run", "mr"]).arg(job_dir.path()).args(["--workers", "1", "--json"]);
    let ran = run.arg("--input").arg(input).within(JOB).run().ok().json();
    let report = swarm[0].cli(["cat", ran["report"].as_str().unwrap()]).run().ok().json();
    let workers: BTreeSet<&str> = report["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["commit"]["worker"].as_str().unwrap())
        .collect();
    assert_eq!(workers.len(), 1, "{report:#}");
}
