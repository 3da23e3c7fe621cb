//! The figures that the project promises, measured on real processes: three local nodes beside the
//! native count, in the same minutes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipdc_tests::api::Api;
use ipdc_tests::{JOB, JobDir, Node, Program, Swarm, ipdc, root};
use serde_json::{Value, json};

use crate::process::{children_cpu, cpu, resident};
use crate::results::{Figure, Results};

const NODES: usize = 3;
const MIB: u64 = 1 << 20;
const TEXT: u64 = 100 * MIB;
/// Repetitions of what takes seconds. Each has a text of its own, so that nothing is remembered.
const ROUNDS: u64 = 5;
/// The first text's seed, that of the yardstick's own figures.
const SEED: u64 = 43;
/// Repetitions of the smallest job, and those before that warm the nodes up.
const SMALL: usize = 40;
const WARM_UP: usize = 5;
/// How long an idle node is watched.
const IDLE: Duration = Duration::from_secs(60);

/// Measures everything.
pub(crate) fn all(yardstick: Option<&Path>) -> Results {
    let native = Native::new(yardstick);
    let mut figures = Vec::new();
    let swarm = Swarm::of(NODES);
    let pids: Vec<u32> = swarm.nodes().iter().map(Node::pid).collect();
    step("an idle node");
    figures.extend(idle(&pids));
    step("the smallest job");
    figures.extend(smallest_job(&swarm));
    step("the word count");
    figures.extend(word_count(&swarm, &pids, &native));
    drop(swarm);
    step("twenty local nodes");
    figures.push(twenty());
    figures.push(binary());
    Results { figures, yardstick: native.describe() }
}

fn step(what: &str) {
    eprintln!("measuring {what}");
}

/// The native count: the yardstick beside the clone, else our own.
enum Native {
    Yardstick(PathBuf),
    Own,
}

impl Native {
    fn new(yardstick: Option<&Path>) -> Self {
        yardstick.map_or(Native::Own, |folder| Native::Yardstick(folder.to_owned()))
    }

    fn describe(&self) -> String {
        match self {
            Native::Yardstick(folder) => format!("`{}`", folder.display()),
            Native::Own => "`ipdc-bench native`".into(),
        }
    }

    fn program(&self, name: &str) -> Program {
        match self {
            Native::Yardstick(folder) => Program::new(folder.join("target/release").join(name)),
            Native::Own => {
                Program::new(std::env::current_exe().expect("a process knows its program"))
            }
        }
    }

    fn make_text(&self, seed: u64, path: &Path) {
        let (bytes, seed) = (TEXT.to_string(), seed.to_string());
        let made = match self {
            Native::Yardstick(folder) => {
                self.program("corpus").arg(folder.join("vocab.txt")).args([bytes, seed]).run().ok()
            }
            Native::Own => {
                self.program("").args(["corpus", "--bytes", &bytes, "--seed", &seed]).run().ok()
            }
        };
        fs::write(path, made.stdout).expect("room for the text");
    }

    fn count(&self, text: &Path, out: &Path) -> Cost {
        let program = match self {
            Native::Yardstick(_) => self.program("wordcount").arg(text).arg("1").arg(out),
            Native::Own => self.program("").arg("native").arg(text).arg(out),
        };
        let (before, start) = (children_cpu(), Instant::now());
        let _ = program.run().ok();
        Cost { wall: start.elapsed(), cpu: children_cpu() - before }
    }
}

/// What a count cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn word_count(swarm: &Swarm, pids: &[u32], native: &Native) -> Vec<Figure> {
    let example = root().join("examples/wordcount");
    let folder = swarm[0].folder();
    let nodes_cpu = || pids.iter().map(|&pid| cpu(pid)).sum::<Duration>();
    let (mut natives, mut ours, mut least) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (text, counts) = (folder.join("text"), folder.join("counts"));
        native.make_text(SEED + round, &text);
        let input = swarm[0].add(&text);

        natives.push(native.count(&text, &counts));
        let run = swarm[0].cli(["run", "mr"]).arg(&example).args(["--input", &input, "--json"]);
        let (before, start) = (nodes_cpu(), Instant::now());
        let ran = run.within(JOB).run().ok().json();
        ours.push(Cost { wall: start.elapsed(), cpu: nodes_cpu() - before });

        assert_eq!(ran["memoized"], 0, "a remembered count is no measure");
        let job = ran["job"].as_str().expect("a job ID");
        swarm[0].assert_counts(job, &fs::read(&counts).expect("the native count"));
        least.push(least_share(swarm, ran["report"].as_str().expect("a report")));
    }
    let ratio = |of: fn(&Cost) -> Duration| {
        median(&ours, of).as_secs_f64() / median(&natives, of).as_secs_f64()
    };
    let compared = |of: fn(&Cost) -> Duration| {
        format!(
            "{:.2} s against {:.2} s",
            median(&ours, of).as_secs_f64(),
            median(&natives, of).as_secs_f64()
        )
    };
    let wall = |cost: &Cost| cost.wall;
    let cpu = |cost: &Cost| cost.cpu;
    least.sort_by(f64::total_cmp);
    vec![
        Figure::at_most("100 MiB word count, wall / native", "×", 4.0, ratio(wall))
            .with(compared(wall)),
        Figure::at_most("100 MiB word count, CPU of all nodes / native", "×", 3.0, ratio(cpu))
            .with(compared(cpu)),
        Figure::at_least(
            "least share of the splits on a node",
            "%",
            25.0,
            100.0 * least[least.len() / 2],
        )
        .with(format!(
            "{:.0} to {:.0} % in {ROUNDS} rounds",
            100.0 * least[0],
            100.0 * least[least.len() - 1]
        )),
    ]
}

/// The smallest part of a job's splits that a node mapped.
fn least_share(swarm: &Swarm, report: &str) -> f64 {
    let report = swarm[0].cli(["cat", report]).run().ok().json();
    let mut of_node: BTreeMap<String, usize> =
        swarm.nodes().iter().map(|node| (node.peer_id(), 0)).collect();
    let tasks = report["tasks"].as_array().expect("the report lists tasks");
    for task in tasks.iter().filter(|task| task["stage"] == "map") {
        let worker = task["commit"]["worker"].as_str().expect("a done job's tasks are committed");
        *of_node.entry(worker.to_owned()).or_default() += 1;
    }
    let (least, all) = (of_node.values().min(), of_node.values().sum::<usize>());
    *least.expect("a swarm has nodes") as f64 / all as f64
}

fn median(costs: &[Cost], of: fn(&Cost) -> Duration) -> Duration {
    let mut sorted: Vec<Duration> = costs.iter().map(of).collect();
    sorted.sort();
    sorted[sorted.len() / 2]
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

fn smallest_job(swarm: &Swarm) -> Vec<Figure> {
    let api = swarm[0].api();
    for number in 0..WARM_UP {
        submit_to_done(&api, number);
    }
    let mut took: Vec<f64> =
        (WARM_UP..WARM_UP + SMALL).map(|number| millis(submit_to_done(&api, number))).collect();
    took.sort_by(f64::total_cmp);

    let job = JobDir::words(0, 1);
    let mut by_command: Vec<f64> = (0..SMALL / 2)
        .map(|number| {
            let input = swarm[0].folder().join("small");
            fs::write(&input, format!("a small text of a command, number {number}\n"))
                .expect("a writable folder");
            let run = swarm[0].cli(["run", "mr"]).arg(job.path()).arg("--input").arg(input);
            millis(run.arg("--json").run().ok().took)
        })
        .collect();
    by_command.sort_by(f64::total_cmp);
    let p50 = |sorted: &[f64]| sorted[sorted.len() / 2];
    vec![Figure::at_most("smallest job, submit to done, p50", "ms", 50.0, p50(&took)).with(
        format!(
            "{SMALL} jobs over HTTP, p90 {:.0} ms; `ipdc run` from start to exit p50 {:.0} ms",
            took[took.len() * 9 / 10],
            p50(&by_command)
        ),
    )]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn idle(pids: &[u32]) -> Vec<Figure> {
    let before: Vec<Duration> = pids.iter().map(|&pid| cpu(pid)).collect();
    std::thread::sleep(IDLE);
    let used =
        pids.iter().zip(before).map(|(&pid, before)| cpu(pid) - before).max().unwrap_or_default();
    let rss = pids.iter().map(|&pid| resident(pid)).max().unwrap_or_default();
    let of = format!("the most of {} nodes, over {} s", pids.len(), IDLE.as_secs());
    vec![
        Figure::at_most("idle node, resident memory", "MB", 40.0, rss as f64 / 1e6)
            .with(of.clone()),
        Figure::at_most(
            "idle node, CPU",
            "% of a core",
            0.5,
            100.0 * used.as_secs_f64() / IDLE.as_secs_f64(),
        )
        .with(of),
    ]
}

/// The whole of a smallest job on twenty nodes that are not there yet: more than their getting ready.
fn twenty() -> Figure {
    let room = Node::new();
    let input = room.folder().join("small");
    fs::write(&input, "a small text\n").expect("a writable folder");
    let job = JobDir::words(0, 1);
    let run = Program::new(ipdc()).dir(room.folder()).args(["run", "mr"]).arg(job.path());
    let run = run.arg("--input").arg(&input).args(["--local", "20", "--json"]);
    let took = run.within(JOB).run().ok().took;
    Figure::at_most("`--local 20` ready", "s", 10.0, took.as_secs_f64())
        .with("the whole command: start, one smallest job, stop".into())
}

fn binary() -> Figure {
    let size = fs::metadata(ipdc()).expect("the program is there").len();
    Figure::at_most("stripped binary", "MB", 45.0, size as f64 / 1e6)
}
