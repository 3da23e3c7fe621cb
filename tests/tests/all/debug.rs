//! `ipdc job debug`: a task again, at home.

use std::fs;

use ipdc_tests::job::{guest, many_splits, parts};
use ipdc_tests::{JOB, JobDir, Node, Swarm};

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
    let _ =
        debug.failed(1, &["about to trap", "IPDC-5301", "unreachable", "in fail, called by map"]);
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
