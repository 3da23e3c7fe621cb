//! Whole jobs of items, on guests that are functions: each task is run as soon as it is known, and what it gave is
//! told to the course.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::engine::Runtime;
use crate::fake::{Last, Native, World};
use crate::ids::TaskId;
use crate::kind::{Finished, Step, Withdrawn};
use crate::spec;

const FAIL: &[u8] = b"fail";

/// What `run` is in these jobs: says the item in capitals; `twice` gives two records, `long` a long one.
fn capitals(function: &str, item: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    match (function, item) {
        ("producer", _) => (0..5_000_u32).for_each(|n| emit(format!("made {n}").as_bytes(), b"")),
        (_, b"twice") => ["one", "two"].iter().for_each(|word| emit(b"twice", word.as_bytes())),
        (_, page) if page.starts_with(b"http") => {
            links(page).for_each(|link| emit(b"enqueue", link.as_bytes()))
        }
        (_, b"long") => emit(&vec![b'x'; 5_000], b""),
        _ => emit(&item.to_ascii_uppercase(), b""),
    }
}

/// The links of a page of a site in which page n leads to 2n + 1 and 2n + 2, and to another host.
fn links(page: &[u8]) -> impl Iterator<Item = String> {
    let page = String::from_utf8_lossy(page).into_owned();
    let (site, n) = page.rsplit_once('/').unwrap();
    let (site, n) = (site.to_owned(), n.parse::<u64>().unwrap_or(0));
    let next = [2 * n + 1, 2 * n + 2].map(|n| format!("{site}/{n}#here"));
    next.into_iter().chain(["http://elsewhere.example/".to_owned(), page])
}

fn world() -> World {
    let world = World::new();
    world.name("run.wasm", b"capitals");
    world.module("capitals", capitals as Native);
    world
}

fn config(world: &World, job: &str) -> Value {
    let (params, inputs) = Default::default();
    let nothing = spec::Overrides { input: None, params: &params, inputs: &inputs };
    let text = format!("kind = \"cl\"\nrun = \"run.wasm\"\n{job}");
    spec::check(&text, spec::FILE, nothing, world).unwrap().remove(0).1
}

#[test]
fn a_native_program_is_told_by_its_bytes_and_may_fetch_as_any_code() {
    let world = World::new();
    world.name("tool", b"#!/bin/sh\n");
    world.name("made", b"\0asm\x01\0\0\0");
    world.name("notes", b"nothing that runs");
    let check = |toml: &str| {
        let (params, inputs) = Default::default();
        let nothing = spec::Overrides { input: None, params: &params, inputs: &inputs };
        let text = format!("kind = \"cl\"\nitems = \"0..3\"\n{toml}");
        spec::check(&text, spec::FILE, nothing, &world).map(|mut jobs| jobs.remove(0).1)
    };
    let config = check("run = \"tool\"\n").unwrap();
    assert_eq!(Items.needs(&config).runtimes, [Runtime::Process].into());
    assert_eq!(config["run"]["program"]["len"], 10);
    let crawls = "run = \"tool\"\n[fetch]\nagent = \"bot (me@x)\"\n[enqueue]\ndepth = 1\n";
    assert!(Items.needs(&check(crawls).unwrap()).fetch.is_some());
    // What its name does not say its first bytes do.
    let wasm = check("run = \"made\"\n").unwrap();
    assert_eq!(Items.needs(&wasm).runtimes, [Runtime::Wasm].into());
    for (toml, said) in [
        ("run = \"notes\"\n", "job.toml:3: `notes` cannot be used: it is no program"),
        ("run = \"gone\"\n", "job.toml:3: `run` is \"gone\"; expected a .wasm"),
    ] {
        let errors = check(toml).unwrap_err();
        assert!(errors[0].to_string().starts_with(said), "{errors:?}");
    }
}

/// A job under way.
struct Job<'a> {
    world: &'a World,
    config: Value,
    course: Box<dyn Course>,
    open: VecDeque<TaskSpec>,
    outputs: Vec<(TaskId, Payload)>,
    bodies: Vec<Bytes>,
}

impl<'a> Job<'a> {
    fn new(world: &'a World, job: &str, input: Vec<(String, FileRef)>) -> Self {
        let config = config(world, job);
        let tasks = Items.plan(&config, &world.tree(input)).unwrap();
        let course = Items.course(&config, &tasks).unwrap();
        Job { world, config, course, open: tasks.into(), outputs: Vec::new(), bodies: Vec::new() }
    }

    fn of_lines(world: &'a World, job: &str, lines: &str) -> Self {
        let list = world.put(lines.as_bytes());
        Job::new(world, job, vec![(String::new(), list)])
    }

    /// Runs the next task; what it was.
    fn step(&mut self) -> Option<TaskSpec> {
        let task = self.open.pop_front()?;
        let id = TaskId(self.outputs.len() as u32);
        let work = Work { config: &self.config, task: id, body: &task.body, inputs: &[] };
        let output = Items.run(&work, self.world).unwrap();
        assert!(Items.is_output(&task, &output), "{output:?} is an output of {task:?}");
        let Payload::Inline(bytes) = &output else { panic!("the host shortens") };
        let step = Step::Output { task: &task, output: bytes };
        self.open.extend(self.course.follow(step).unwrap());
        self.outputs.push((id, output));
        self.bodies.push(task.body.clone());
        Some(task)
    }

    fn finish(mut self) -> Made {
        while self.step().is_some() {}
        let items = self.course.items();
        let ended = items.done + items.failed + items.cancelled;
        assert_eq!(items.total, ended, "every item ended");
        let last = Last { world: self.world, outputs: self.outputs, bodies: self.bodies };
        let finished = Items.finish(&self.config, &last).unwrap();
        Made::read(self.world, &finished, items)
    }
}

/// What a job made.
#[derive(Debug, PartialEq)]
struct Made {
    items: crate::kind::Items,
    rows: Vec<Value>,
    files: BTreeMap<String, Bytes>,
    result: String,
}

impl Made {
    fn read(world: &World, finished: &Finished, items: crate::kind::Items) -> Self {
        let read = |file: &crate::kind::ResultFile| {
            (file.name.clone(), world.read(&file.file).expect("what was written is there"))
        };
        let mut files: BTreeMap<_, _> = finished.files.iter().map(read).collect();
        let result = files.remove("results.jsonl").expect("each job has its lines");
        let result = String::from_utf8(result.to_vec()).expect("JSON is text");
        let rows = result.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Made { items, rows, files, result }
    }

    fn outputs(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row["output"].as_str().unwrap_or_default()).collect()
    }
}

#[test]
fn each_line_of_a_list_is_an_item_and_empty_ones_are_none() {
    let world = world();
    let made = Job::of_lines(&world, "items = \"list\"", "a\n\nb\r\ntwice\nc").finish();
    assert_eq!(made.outputs(), ["A", "B", "twice\tone\ntwice\ttwo", "C"]);
    assert_eq!(made.rows[1], json!({"n": 1, "item": "b", "status": "done", "output": "B"}));
    assert_eq!((made.items.done, made.items.failed), (4, 0));
}

#[test]
fn a_long_output_is_a_file_of_the_result() {
    let world = world();
    let made = Job::of_lines(&world, "items = \"list\"", "a\nlong\n").finish();
    let long = &made.files["outputs/1"];
    assert_eq!(long.len(), 5_001);
    assert_eq!(made.rows[1]["bytes"], 5_001);
    assert!(made.rows[1]["cid"].is_string());
}

#[test]
fn the_numbers_of_a_range_are_items() {
    let world = world();
    let made = Job::new(&world, "items = \"7..2507\"", vec![]).finish();
    assert_eq!(made.rows.len(), 2_500);
    assert_eq!(made.rows[2_499]["item"], "2506");
}

#[test]
fn each_file_of_a_directory_is_an_item() {
    let world = world();
    let files = ["a", "b/c"].map(|path| (path.to_owned(), world.put(path.as_bytes())));
    let made = Job::new(&world, "items = \"dir\"", files.to_vec()).finish();
    assert_eq!(made.outputs(), ["A", "B/C"]);
}

#[test]
fn what_a_producer_emits_are_the_items() {
    let world = world();
    let made = Job::new(&world, "producer = \"run.wasm\"", vec![]).finish();
    assert_eq!(made.rows.len(), 5_000);
    assert_eq!(made.rows[4_999]["output"], "MADE 4999");
}

/// Lines enough for several groups.
fn many() -> String {
    (0..9_000).map(|n| format!("item {n}\n")).collect()
}

#[test]
fn however_far_each_task_came_the_result_is_the_same() {
    let world = world();
    let whole = Job::of_lines(&world, "items = \"list\"\nmemo = false", &many()).finish();
    let mut slow = Job::of_lines(&world, "items = \"list\"\nmemo = false", &many());
    let mut n = 0_u64;
    loop {
        // Time passes: most tasks hand something back.
        world.now.pass(Duration::from_millis(n % 700));
        n += 1;
        if slow.step().is_none() {
            break;
        }
    }
    let tasks = slow.outputs.len();
    assert!(tasks > 2_000, "{tasks} tasks: what was left was given out again");
    assert_eq!(slow.finish().result, whole.result);
}

#[test]
fn a_failed_item_is_tried_again_and_its_error_is_in_the_result() {
    let mut world = world();
    world.traps_on = Some(FAIL);
    let mut job = Job::of_lines(&world, "items = \"list\"\nretries = 2", "a\nfail\nb\n");
    let mut tries = Vec::new();
    while let Some(task) = job.step() {
        if task.delay_ms > 0 {
            tries.push(task.delay_ms);
        }
    }
    assert_eq!(tries, [1_000, 2_000], "with a pause that doubles");
    let made = job.finish();
    assert_eq!((made.items.done, made.items.failed), (2, 1));
    let failed = json!({"n": 1, "item": "fail", "status": "failed",
        "error": {"code": "IPDC-5301", "message": "unreachable"}});
    assert_eq!(made.rows[1], failed);
}

/// The names in the memo of a job's first tasks.
fn names(world: &World, job: &str, lines: &str) -> BTreeSet<Vec<u8>> {
    let job = Job::of_lines(world, job, lines);
    let name = |task: &TaskSpec| Items.memo_input(&job.config, &task.body, &[]).unwrap();
    job.open.iter().map(name).collect()
}

#[test]
fn the_memo_knows_items_again_whatever_their_numbers_and_how_often_they_may_be_tried() {
    let world = world();
    let before = names(&world, "items = \"list\"", "a\nb\nc\n");
    let after = names(&world, "items = \"other\"\nretries = 9", "new\na\nb\nc\n");
    assert!(before.is_subset(&after), "each item by itself");
    let other = names(&world, "items = \"list\"\n[params]\nx = 1", "a\nb\nc\n");
    assert!(before.is_disjoint(&other), "what the guest reads is part of the name");
    let (before, after) = (many(), format!("new\n{}", many()));
    let [before, after] = [before, after].map(|lines| names(&world, "items = \"list\"", &lines));
    let kept = before.intersection(&after).count();
    assert!(kept + 3 > before.len(), "{kept} of {} groups", before.len());
}

#[test]
fn what_failed_is_not_remembered() {
    let mut world = world();
    world.traps_on = Some(FAIL);
    let mut job = Job::of_lines(&world, "items = \"list\"", "a\nfail\n");
    let files = |job: &mut Job<'_>| {
        let task = job.step().unwrap();
        let Some((_, Payload::Inline(output))) = job.outputs.last() else { unreachable!() };
        Items.output_files(&task.body, output)
    };
    assert_eq!(files(&mut job), Some(vec![]));
    assert_eq!(files(&mut job), None);
}

#[test]
fn an_added_item_leaves_most_groups_at_home() {
    let world = world();
    let homes = |lines: &str| -> BTreeSet<_> {
        let job = Job::of_lines(&world, "items = \"list\"", lines);
        job.open.iter().map(|task| task.affinity.expect("a group has a home")).collect()
    };
    let (before, after) = (homes(&many()), homes(&format!("new\n{}", many())));
    let kept = before.intersection(&after).count();
    assert!(kept + 3 > before.len(), "{kept} of {} groups kept their homes", before.len());
}

#[test]
fn items_can_be_given_to_an_open_job_until_it_is_closed() {
    let world = world();
    let mut job = Job::new(&world, "open = true", vec![]);
    assert!(job.course.is_open() && job.step().is_none());
    for bad in ["[]", "{}", "[\"\"]", "nothing"] {
        assert!(job.course.check(&Bytes::from(bad)).is_err(), "{bad}");
    }
    let given = Bytes::from(r#"["a", {"x": 1}, 7]"#);
    job.course.check(&given).unwrap();
    let tasks = job.course.follow(Step::Given(&given)).unwrap();
    job.open.extend(tasks);
    job.course.follow(Step::Closed).unwrap();
    assert!(!job.course.is_open());
    assert_eq!(job.finish().outputs(), ["A", r#"{"X":1}"#, "7"]);
}

#[test]
fn items_that_are_withdrawn_are_cancelled_and_the_others_of_their_tasks_run() {
    let world = world();
    let mut job = Job::new(&world, "items = \"0..2500\"", vec![]);
    let ended = job.step().unwrap();
    let unwanted = BTreeSet::from([0, 7, 2_499, 9_999]);
    assert_eq!(job.course.withdraw(&ended, &unwanted), None, "they have ended");
    let mut cancelled = Vec::new();
    for task in std::mem::take(&mut job.open) {
        match job.course.withdraw(&task, &unwanted) {
            None => job.open.push_back(task),
            Some(Withdrawn { output, items }) => {
                cancelled.extend(items);
                assert!(!Items.is_output(&task, &Payload::Inline(output.clone())), "of a worker");
                let step = Step::Output { task: &task, output: &output };
                job.open.extend(job.course.follow(step).unwrap());
                job.outputs.push((TaskId(job.outputs.len() as u32), Payload::Inline(output)));
                job.bodies.push(task.body.clone());
                assert_eq!(job.course.withdraw(&task, &unwanted), None, "once");
            }
        }
    }
    assert_eq!(cancelled.last(), Some(&2_499));
    let made = job.finish();
    assert_eq!(made.items.cancelled, cancelled.len() as u64);
    assert_eq!(made.items.done, 2_500 - made.items.cancelled);
    let last = json!({"n": 2_499, "item": "2499", "status": "cancelled"});
    assert_eq!((made.rows.len(), &made.rows[2_499]), (2_500, &last));
}

#[test]
fn what_a_worker_makes_up_is_no_output() {
    let world = world();
    let mut job = Job::of_lines(&world, "items = \"list\"", "a\nb\n");
    let task = job.step().unwrap();
    let says = |text: &str| Items.is_output(&task, &Payload::Inline(text.to_owned().into()));
    let ended = r#"{"at":0,"item":"a","output":"A"}"#;
    assert!(says(&format!("{{\"ran\":{{\"ended\":[{ended}]}}}}")));
    for lie in [
        "{}".to_owned(),
        "{\"ran\":{\"ended\":[]}}".to_owned(),
        format!("{{\"ran\":{{\"ended\":[{ended},{ended}]}}}}"),
        "{\"ran\":{\"ended\":[{\"at\":1,\"item\":\"a\",\"output\":\"A\"}]}}".to_owned(),
        "{\"produced\":{\"list\":{\"cid\":\"bafkqaaa\",\"len\":0},\"groups\":[]}}".to_owned(),
    ] {
        assert!(!says(&lie), "{lie}");
    }
}

#[test]
fn what_items_name_becomes_items_each_once_as_deep_as_the_job_says() {
    let world = world();
    let job = "items = \"list\"\n[enqueue]\ndepth = 3";
    let made = Job::of_lines(&world, job, "http://a.example/0\n").finish();
    // 1 + 2 + 4 + 8 pages.
    assert_eq!(made.items.total, 15);
    let items: BTreeSet<_> = made.rows.iter().map(|row| row["item"].as_str().unwrap()).collect();
    assert_eq!(items.len(), 15);
    assert!(items.contains("http://a.example/14") && !items.contains("http://a.example/15"));
    assert!(items.iter().all(|item| !item.contains("elsewhere")), "{items:?}");
    // Each of the 8 deepest named 2 that are too deep and itself once more; each page one of another host.
    assert_eq!(made.items.left_out, 15 + 8 * 3);
    assert_eq!(made.rows.last().unwrap()["depth"], 3);
}

#[test]
fn a_maze_of_links_ends_at_the_number_of_items_that_a_job_may_have() {
    let world = world();
    let job = "items = \"list\"\n[enqueue]\ndepth = 1000\nitems = 3000";
    let made = Job::of_lines(&world, job, "http://a.example/0\n").finish();
    assert_eq!(made.items.total, 3_000);
    assert!(made.items.left_out > 0);
}

#[test]
fn items_of_one_host_stay_together_and_few_of_its_tasks_are_open() {
    let world = world();
    let hosts: String =
        (0..20).map(|n| format!("http://h{n}.example/0\nhttp://h{n}.example/5\n")).collect();
    let fetch = "[fetch]\nagent = \"bot/1.0 (+https://example.org/bot)\"\nrate = 0";
    let job = format!("items = \"list\"\n[enqueue]\ndepth = 9\n{fetch}");
    let mut job = Job::of_lines(&world, &job, &hosts);
    let mut homes: BTreeMap<String, BTreeSet<[u8; 32]>> = BTreeMap::new();
    let mut open = BTreeMap::<[u8; 32], i32>::new();
    for task in &job.open {
        *open.entry(task.affinity.unwrap()).or_default() += 1;
    }
    loop {
        let before = job.open.len();
        let Some(task) = job.step() else { break };
        let home = task.affinity.expect("a URL has a lane");
        assert!(task.stays);
        *open.get_mut(&home).unwrap() -= 1;
        for more in job.open.iter().skip(before - 1) {
            let count = open.entry(more.affinity.unwrap()).or_default();
            *count += 1;
            assert!(*count <= 2, "{count} tasks of a lane are open");
        }
        let Some(Body::Run { items, .. }) = Body::decode(&task.body) else { unreachable!() };
        for text in items.texts() {
            let host = text.split('/').nth(2).unwrap().to_owned();
            homes.entry(host).or_default().insert(home);
        }
    }
    assert_eq!(homes.len(), 20);
    assert!(homes.values().all(|lanes| lanes.len() == 1), "each host has one lane");
    let lanes: BTreeSet<_> = homes.values().flatten().collect();
    assert!(lanes.len() > 10, "{} lanes", lanes.len());
    assert_eq!(job.finish().items.failed, 0);
}
