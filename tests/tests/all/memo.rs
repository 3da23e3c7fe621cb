//! The memo: what was made before is not made again, and never in the wrong place.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ipdc_tests::job::{many_splits, words_wat};
use ipdc_tests::text::Text;
use ipdc_tests::{JOB, JobDir, Node, Swarm};
use serde_json::Value;

/// Runs the job with these flags and gives what `--json` says.
fn run(node: &Node, job: &JobDir, input: &Path, flags: &[&str]) -> Value {
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(input);
    let ran = run.args(flags).arg("--json").within(JOB).run().ok().json();
    assert_eq!(ran["state"], "done");
    ran
}

fn memoized(ran: &Value) -> u64 {
    ran["memoized"].as_u64().unwrap()
}

fn tasks(ran: &Value) -> u64 {
    ran["tasks"].as_u64().unwrap()
}

#[test]
fn the_same_job_again_runs_nothing_on_any_node() {
    let swarm = Swarm::of(3);
    let (input, _) = many_splits(swarm[0].folder(), 30);
    let job = JobDir::words(200, 4);
    let first = run(&swarm[0], &job, &input, &[]);
    let again = run(&swarm[0], &job, &input, &[]);
    assert_eq!((memoized(&first), memoized(&again)), (0, 34));
    assert_eq!(first["result"], again["result"]);
    let shown = swarm[0].cli(["job", "show", again["job"].as_str().unwrap()]).run().ok();
    assert!(shown.text().contains("34 remembered"), "{shown}");
}

#[test]
fn the_answers_of_three_memos_come_at_once() {
    /// The figure is 0.3 s for an optimised build with nothing beside it.
    const BOUND: Duration = Duration::from_secs(2);
    let swarm = Swarm::of(3);
    let (input, _) = many_splits(swarm[0].folder(), 256);
    let job = JobDir::words(0, 4);
    let input = swarm[0].add(&input);
    let id = swarm[0].submit(job.path(), &input);
    let first = swarm[0].job_done(&id);
    let started = Instant::now();
    let id = swarm[0].submit(job.path(), &input);
    let again = swarm[0].job_done(&id);
    let took = started.elapsed();
    println!("submitted to done: {took:?}; the job itself: {} s", again["seconds"]);
    assert!(tasks(&again) > 40, "{again}");
    assert_eq!((memoized(&again), &again["result"]), (tasks(&again), &first["result"]));
    assert!(took < BOUND, "{took:?}");
}

#[test]
fn only_what_is_new_in_the_input_is_mapped() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 5);
    let job = JobDir::words(0, 2);
    run(&node, &job, &input, &[]);
    fs::write(input.join("more.txt"), "some more words\n").unwrap();
    let grown = run(&node, &job, &input, &[]);
    // A task may have several small files that follow each other.
    let maps_run = |ran| tasks(ran) - 2 - memoized(ran);
    assert!((1..=2).contains(&maps_run(&grown)) && memoized(&grown) >= 3, "{grown}");
    fs::write(input.join("002.txt"), "quite other words\n").unwrap();
    let changed = run(&node, &job, &input, &[]);
    assert!((1..=2).contains(&maps_run(&changed)) && memoized(&changed) >= 3, "{changed}");
}

#[test]
fn other_code_partitions_params_or_limits_are_another_job() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 3);
    let job = JobDir::words(0, 2);
    let first = run(&node, &job, &input, &[]);
    let toml = fs::read_to_string(job.path().join("job.toml")).unwrap();
    assert_eq!(memoized(&run(&node, &job, &input, &["--param", "n=1"])), 0);
    let with = |toml: &str, rounds| JobDir::new(toml).file("words.wat", words_wat(rounds));
    let partitions = with(&toml.replace("partitions = 2", "partitions = 3"), 0);
    assert_eq!(memoized(&run(&node, &partitions, &input, &[])), 0);
    let limits = with(&format!("{toml}[limits]\nmemory = \"128MiB\"\n"), 0);
    assert_eq!(memoized(&run(&node, &limits, &input, &[])), 0);
    // Its maps are run, and leave the same to the reducers.
    assert_eq!(memoized(&run(&node, &with(&toml, 1), &input, &[])), 2);
    // Another reducer reads what the same maps left.
    let max = with(&toml.replace("reduce = \"sum\"", "reduce = \"max\""), 0);
    assert_eq!(memoized(&run(&node, &max, &input, &[])), 3);
    let again = run(&node, &job, &input, &[]);
    assert_eq!((memoized(&again), &again["result"]), (5, &first["result"]));
}

#[test]
fn the_memo_can_be_left_alone() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 3);
    let job = JobDir::words(0, 1);
    let toml = fs::read_to_string(job.path().join("job.toml")).unwrap();
    let without = JobDir::new(&format!("{toml}memo = false\n")).file("words.wat", words_wat(0));
    run(&node, &without, &input, &[]);
    assert_eq!(memoized(&run(&node, &job, &input, &[])), 0, "nothing was remembered");
    assert_eq!(memoized(&run(&node, &job, &input, &["--no-memo"])), 0);
    assert_eq!(memoized(&run(&node, &without, &input, &[])), 0);
    assert_eq!(memoized(&run(&node, &job, &input, &[])), 4);
}

#[test]
fn a_memo_outlives_its_node_and_its_loss_costs_only_time() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 3);
    // Large enough that its outputs are files.
    fs::write(input.join("large.txt"), Text::make(9, 1 << 20)).unwrap();
    let job = JobDir::words(0, 1);
    let first = run(&node, &job, &input, &[]);
    let used = node.cli(["du", "--json"]).run().ok().json();
    assert!(used["memo"].as_u64() > Some(0), "{used}");
    node.stop();
    node.start();
    assert_eq!(memoized(&run(&node, &job, &input, &[])), tasks(&first));
    // A row whose blocks are gone is no answer.
    node.stop();
    fs::remove_dir_all(node.home().join("scratch")).unwrap();
    node.start();
    let third = run(&node, &job, &input, &[]);
    assert_eq!(memoized(&third), tasks(&first) - 1, "the large split's output is gone");
    node.stop();
    fs::remove_dir_all(node.home().join("scratch")).unwrap();
    fs::remove_dir_all(node.home().join("cache")).unwrap();
    node.start();
    let wiped = run(&node, &job, &input, &[]);
    assert_eq!((memoized(&wiped), &wiped["result"]), (0, &first["result"]));
}

#[test]
fn a_node_killed_in_the_middle_leaves_a_memo_that_can_be_used() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 12);
    let job = JobDir::words(2_000_000, 1);
    let id = node.submit(job.path(), input.to_str().unwrap());
    node.job_until(&id, "some maps done", |view| view["stages"][0]["done"].as_u64() > Some(2));
    node.kill();
    node.start();
    let first = node.job_done(&id);
    let again = run(&node, &job, &input, &[]);
    assert_eq!((memoized(&again), &again["result"]), (13, &first["result"]));
}
