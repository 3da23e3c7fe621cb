//! The foundation's end condition: three processes, joined by token, 100 MB of text.

use std::fs;
use std::path::PathBuf;

use ipdc_tests::job::{parts, sorted_lines};
use ipdc_tests::text::{Text, write_counts};
use ipdc_tests::{JOB, JobDir, SOON, Swarm, alone, eventually, root};

const BYTES: usize = 100_000_000;

/// Rounds a line that make the map of 100 MB take some seconds on each node: time to kill one.
const BURN: u32 = 30_000;

/// Rounds a key that do the same for the reduce.
const BURN_KEY: u32 = 50_000;

/// Writes the text into the first node's folder; gives its path and the native count.
fn text_and_count(swarm: &Swarm) -> (PathBuf, Vec<u8>) {
    let text = Text::make(43, BYTES);
    let path = swarm[0].folder().join("text.txt");
    fs::write(&path, &text).unwrap();
    let mut counts = Vec::new();
    write_counts(&text, &mut counts).unwrap();
    (path, counts)
}

#[test]
fn three_nodes_joined_by_token_count_100_mb_as_one_thread_does_and_give_the_same_cid_twice() {
    let _alone = alone();
    let swarm = Swarm::of(3);
    let (text, expected) = text_and_count(&swarm);
    let example = root().join("examples/wordcount");
    let out = swarm[0].folder().join("out");

    let run = swarm[0].cli(["run", "mr"]).arg(&example).arg("--input").arg(&text);
    let first = run.arg("--out").arg(&out).arg("--json").within(JOB).run().ok().json();
    assert_eq!(first["state"], "done");
    assert!(sorted_lines(&parts(&out)) == expected, "the result differs from the native count");

    let again = swarm[0].cli(["run", "mr"]).arg(&example).arg("--input").arg(&text);
    let second = again.args(["--no-memo", "--json"]).within(JOB).run().ok().json();
    assert_ne!(first["job"], second["job"], "two submissions are two jobs");
    assert_eq!(first["result"], second["result"]);
    assert_ne!(first["report"], second["report"], "the report says who ran what when");

    // Every node did a share: from whom the tasks were, the report says.
    let report = swarm[0].cli(["cat", first["report"].as_str().unwrap()]).run().ok();
    for node in swarm.nodes() {
        assert!(report.text().contains(&node.peer_id()), "{report}a node did nothing");
    }
}

#[test]
fn the_result_is_the_same_when_one_worker_is_killed_in_mid_map_and_another_in_mid_reduce() {
    let _alone = alone();
    let job_dir = JobDir::slow_reduce(BURN, BURN_KEY, 12);

    let undisturbed = {
        let swarm = Swarm::of(3);
        let (text, expected) = text_and_count(&swarm);
        let job = swarm[0].submit(job_dir.path(), text.to_str().unwrap());
        let done = swarm[0].job_done(&job);
        swarm[0].assert_counts(&job, &expected);
        done["result"].clone()
    };

    // Another swarm, that remembers nothing.
    let mut swarm = Swarm::of(3);
    let (text, expected) = text_and_count(&swarm);
    let job = swarm[0].submit(job_dir.path(), text.to_str().unwrap());

    swarm[0].job_until(&job, "some of the map done, not all", |view| {
        let map = &view["stages"][0];
        map["done"].as_u64() > Some(2) && map["done"].as_u64() < map["total"].as_u64()
    });
    let in_map = swarm.worker_of(&job, &[0]).expect("a worker in mid-map");
    swarm[in_map].kill();

    swarm[0].job_until(&job, "the reduce under way", |view| {
        view["stages"][1]["running"].as_u64() > Some(0)
    });
    let in_reduce =
        eventually(SOON, "another worker in mid-reduce", || swarm.worker_of(&job, &[0, in_map]));
    swarm[in_reduce].kill();

    let done = swarm[0].job_done(&job);
    assert_eq!(done["result"], undisturbed);
    swarm[0].assert_counts(&job, &expected);
}
