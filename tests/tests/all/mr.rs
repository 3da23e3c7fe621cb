//! What map-reduce offers beside counting, over several nodes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

use ipdc_tests::job::{many_splits, parts, words_wat};
use ipdc_tests::text::Text;
use ipdc_tests::{JobDir, Node, Swarm, alone, root};

#[test]
fn the_most_frequent_words_are_those_of_a_native_count() {
    let swarm = Swarm::of(2);
    let (input, counts) = many_splits(swarm[0].folder(), 6);
    let toml =
        "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"sum\"\ntop = 10\n";
    let job_dir = JobDir::new(toml).file("words.wat", words_wat(0));
    let job = swarm[0].submit(job_dir.path(), input.to_str().unwrap());
    let done = swarm[0].job_done(&job);
    let stages: Vec<_> = done["stages"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
    assert_eq!(stages, ["map", "reduce", "top"]);

    let out = swarm[0].folder().join("out");
    let _ = swarm[0].cli(["job", "result", &job, "--out"]).arg(&out).run().ok();
    let counts = String::from_utf8(counts).unwrap();
    let count = |line: &&str| line.split_once('\t').unwrap().1.parse::<u64>().unwrap();
    let mut expected: Vec<&str> = counts.lines().collect();
    // Stable: words of the same count stay in their order.
    expected.sort_by_key(|line| std::cmp::Reverse(count(line)));
    expected.truncate(10);
    let found = String::from_utf8(parts(&out).concat()).unwrap();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn ranges_and_with_them_the_result_do_not_depend_on_the_number_of_nodes() {
    let sort = root().join("examples/sort");
    let result = |nodes: usize| {
        let swarm = Swarm::of(nodes);
        let (input, _) = many_splits(swarm[0].folder(), 9);
        let job = swarm[0].submit(&sort, input.to_str().unwrap());
        swarm[0].job_done(&job)["result"].clone()
    };
    assert_eq!(result(1), result(3));
}

#[test]
fn outputs_travel_to_where_they_will_be_read_while_others_are_made() {
    let _alone = alone();
    let swarm = Swarm::of(3);
    let input = swarm[0].folder().join("texts");
    fs::create_dir(&input).unwrap();
    for n in 0..36 {
        // Its words are too many for a message.
        fs::write(input.join(format!("{n:02}.txt")), Text::make(n, 60_000)).unwrap();
    }
    let job_dir = JobDir::words(1_000_000, 3);
    let job = swarm[0].submit(job_dir.path(), input.to_str().unwrap());
    let held = |node: &Node| -> BTreeSet<OsString> {
        let files = fs::read_dir(node.home().join("scratch").join(&job)).into_iter().flatten();
        files.map(|file| file.unwrap().file_name()).collect()
    };
    swarm[0].job_until(&job, "an output on two nodes before all are made", |view| {
        let [a, b, c] = [0, 1, 2].map(|node| held(&swarm[node]));
        let shared = !(a.is_disjoint(&b) && b.is_disjoint(&c) && a.is_disjoint(&c));
        let maps = &view["stages"][0];
        assert!(maps["total"].is_null() || maps["done"] != maps["total"], "all are made: {view:#}");
        shared
    });
    let done = swarm[0].job_done(&job);
    let report = swarm[0].cli(["cat", done["report"].as_str().unwrap()]).run().ok().json();
    let tasks = report["tasks"].as_array().unwrap();
    let fetched = tasks.iter().filter(|task| task["stage"] == "reduce");
    let fetched = fetched.map(|task| task["commit"]["cost"]["fetched"].as_u64().unwrap());
    assert!(fetched.sum::<u64>() > 0, "what came early is counted: {report:#}");
}
