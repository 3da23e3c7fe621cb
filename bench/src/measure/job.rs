//! An example run on a swarm: what it cost, and what its report says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipdc_tests::{Node, Swarm, root};
use serde_json::Value;

use crate::native::{Cost, LONG};
use crate::process::cpu;

/// A job that was done.
pub(super) struct Done {
    /// From the start of `ipdc run` to its end; the processor time is that of the nodes.
    pub(super) cost: Cost,
    view: Value,
    report: Value,
}

/// Runs an example on the content `input` from the swarm's first node.
pub(super) fn run(swarm: &Swarm, example: &str, input: &str) -> Done {
    run_at(swarm, &root().join("examples").join(example), input)
}

/// Runs the job in `dir` so.
pub(super) fn run_at(swarm: &Swarm, dir: &Path, input: &str) -> Done {
    let node = &swarm[0];
    let run = node.cli(["run", "mr"]).arg(dir);
    let before = nodes_cpu(swarm);
    let ran = run.args(["--input", input, "--json"]).within(LONG).run().ok();
    let cost = Cost { wall: ran.took, cpu: nodes_cpu(swarm) - before };
    let view = ran.json();
    let report = view["report"].as_str().expect("a done job has a report");
    let report = node.cli(["cat", report]).within(LONG).run().ok().json();
    Done { cost, view, report }
}

/// User and system time of all nodes so far.
pub(super) fn nodes_cpu(swarm: &Swarm) -> Duration {
    swarm.nodes().iter().map(Node::pid).map(cpu).sum()
}

impl Done {
    pub(super) fn id(&self) -> &str {
        self.view["job"].as_str().expect("a job ID")
    }

    /// How long it took by its own clock, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.view["seconds"].as_f64().expect("a done job knows its time")
    }

    /// Tasks, and those of them that were remembered.
    pub(super) fn memoized(&self) -> (u64, u64) {
        let number = |name: &str| self.view[name].as_u64().expect("a number");
        (number("tasks"), number("memoized"))
    }

    /// # Panics
    /// When a task of it was remembered: that is no measure of work.
    pub(super) fn assert_all_worked(&self) {
        assert_eq!(self.memoized().1, 0, "a remembered task is no measure");
    }

    fn commits<'a>(&'a self, stage: &'a str) -> impl Iterator<Item = &'a Value> {
        let tasks = self.report["tasks"].as_array().expect("the report lists tasks").iter();
        tasks.filter(move |task| task["stage"] == stage).map(|task| &task["commit"])
    }

    /// The smallest part of the maps that a node of the swarm did, in percent.
    pub(super) fn least_share(&self, swarm: &Swarm) -> f64 {
        let mut of_node: BTreeMap<String, usize> =
            swarm.nodes().iter().map(|node| (node.peer_id(), 0)).collect();
        for commit in self.commits("map") {
            let worker = commit["worker"].as_str().expect("a done job's tasks are committed");
            *of_node.entry(worker.to_owned()).or_default() += 1;
        }
        let least = of_node.values().min().expect("a swarm has nodes");
        percent(*least, of_node.values().sum())
    }

    /// The maps that were not remembered, all maps, and the share in percent.
    pub(super) fn mapped(&self) -> (usize, usize, f64) {
        let all = self.commits("map").count();
        let worked = self.commits("map").filter(|commit| commit["memoized"] == false).count();
        (worked, all, percent(worked, all))
    }

    /// Bytes that tasks fetched from other nodes, as these say.
    pub(super) fn fetched(&self) -> u64 {
        let tasks = self.report["tasks"].as_array().expect("the report lists tasks").iter();
        tasks.filter_map(|task| task["commit"]["cost"]["fetched"].as_u64()).sum()
    }

    /// Saves its result below `folder`; gives where the parts lie, in order.
    pub(super) fn save(&self, node: &Node, folder: &Path) -> Vec<PathBuf> {
        let save = node.cli(["job", "result", self.id(), "--out"]).arg(folder);
        let _ = save.within(LONG).run().ok();
        let files = std::fs::read_dir(folder).expect("a saved result");
        let mut paths: Vec<PathBuf> =
            files.map(|file| file.expect("a readable folder").path()).collect();
        paths.retain(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"part-"))
        });
        paths.sort();
        paths
    }
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all as f64
}
