//! Nodes as they are: idle, started, with the smallest job.

use std::fs;
use std::time::{Duration, Instant};

use ipdc_tests::api::Api;
use ipdc_tests::{JOB, JobDir, Node, Program, Swarm, ipdc};
use serde_json::{Value, json};

use super::rounds::median;
use super::{Bench, NODES, Noted, reached};
use crate::figures::Figure;
use crate::process::{cpu, resident};

/// Repetitions of the smallest job, and those before that warm the nodes up.
const SMALL: usize = 40;
const WARM_UP: usize = 5;

/// How long an idle node is watched.
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn idle(_: &Bench, noted: &mut Noted) {
    let swarm = Swarm::of(NODES);
    let pids: Vec<u32> = swarm.nodes().iter().map(Node::pid).collect();
    let before: Vec<Duration> = pids.iter().map(|&pid| cpu(pid)).collect();
    std::thread::sleep(IDLE);
    let used =
        pids.iter().zip(before).map(|(&pid, before)| cpu(pid) - before).max().unwrap_or_default();
    let rss = pids.iter().map(|&pid| resident(pid)).max().unwrap_or_default();
    let of = format!("the most of {NODES} nodes, over {} s", IDLE.as_secs());
    noted.insert(Figure::IdleMemory, reached(rss as f64 / 1e6, &of));
    let share = 100.0 * used.as_secs_f64() / IDLE.as_secs_f64();
    noted.insert(Figure::IdleCpu, reached(share, of));
}

pub(super) fn smallest_job(_: &Bench, noted: &mut Noted) {
    let swarm = Swarm::of(NODES);
    let api = swarm[0].api();
    for number in 0..WARM_UP {
        submit_to_done(&api, number);
    }
    let mut took: Vec<f64> =
        (WARM_UP..WARM_UP + SMALL).map(|number| millis(submit_to_done(&api, number))).collect();
    took.sort_by(f64::total_cmp);

    let job = JobDir::words(0, 1);
    let by_command = (0..SMALL / 2).map(|number| {
        let input = swarm[0].folder().join("small");
        fs::write(&input, format!("a small text of a command, number {number}\n"))
            .expect("a writable folder");
        let run = swarm[0].cli(["run", "mr"]).arg(job.path()).arg("--input").arg(input);
        millis(run.arg("--json").run().ok().took)
    });
    let remark = format!(
        "{SMALL} jobs over HTTP, p90 {:.0} ms; `ipdc run` from start to exit p50 {:.0} ms",
        took[took.len() * 9 / 10],
        median(by_command.collect())
    );
    noted.insert(Figure::SmallestJob, reached(median(took), remark));
}

/// A word count of one line that no run before had.
fn small_submission(number: usize) -> Value {
    let toml = "kind = \"mr\"\ninput = \"text\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"sum\"\npartitions = 1\n";
    let files = json!({
        "job.toml": toml,
        "words.wat": ipdc_tests::job::words_wat(0),
        "text": format!("a small text, number {number}\n"),
    });
    json!({ "kind": "mr", "files": files })
}

/// Submits and waits for the end; gives the time between.
fn submit_to_done(api: &Api, number: usize) -> Duration {
    let submission = small_submission(number);
    let start = Instant::now();
    let accepted = api.post("/jobs", &submission).ok();
    let path = format!("/jobs/{}", accepted["job"].as_str().expect("a job ID"));
    let mut since = 0;
    loop {
        let view = api.get(&format!("{path}?wait_s=30&since={since}")).ok();
        match view["state"].as_str() {
            Some("done") => return start.elapsed(),
            Some("queued" | "running") => since = view["version"].as_u64().expect("a version"),
            _ => panic!("the smallest job failed: {view:#}"),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The whole of a smallest job on twenty nodes that are not there yet: more than their getting ready.
pub(super) fn twenty(_: &Bench, noted: &mut Noted) {
    let room = Node::new();
    let input = room.folder().join("small");
    fs::write(&input, "a small text\n").expect("a writable folder");
    let job = JobDir::words(0, 1);
    let run = Program::new(ipdc()).dir(room.folder()).args(["run", "mr"]).arg(job.path());
    let run = run.arg("--input").arg(&input).args(["--local", "20", "--json"]);
    let took = run.within(JOB).run().ok().took;
    let remark = "the whole command: start, one smallest job, stop";
    noted.insert(Figure::TwentyNodes, reached(took.as_secs_f64(), remark));
}

pub(super) fn binary(_: &Bench, noted: &mut Noted) {
    let size = fs::metadata(ipdc()).expect("the program is there").len();
    noted.insert(Figure::Binary, reached(size as f64 / 1e6, ""));
}
