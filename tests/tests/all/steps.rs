//! Steps: jobs in a row from one job directory, by real nodes.

use std::fs;

use ipdc_tests::job::{guest, parts, words_wat};
use ipdc_tests::program::{Running, Signal};
use ipdc_tests::{JOB, JobDir, Node, Program, SOON, Swarm, eventually};
use serde_json::{Value, json};

const TWO: &str = r#"
[[step]]
name = "list"
kind = "cl"
run = "echo.wat"
items = "items"
retries = 0

[[step]]
name = "count"
kind = "mr"
map = "words.wat"
reduce = "sum"
partitions = 1
"#;

/// A job of these steps, whose first has these items.
fn steps(toml: &str, items: &str) -> JobDir {
    let job = JobDir::new(toml).file("echo.wat", guest("echo.wat"));
    job.file("words.wat", words_wat(0)).file("items", items)
}

fn write(job: &JobDir, name: &str, text: &str) {
    fs::write(job.path().join(name), text).unwrap();
}

/// The directory's steps, run to their end: the jobs' views, in their order.
fn run(node: &Node, job: &JobDir) -> Vec<Value> {
    let run = node.cli(["run"]).arg(job.path()).arg("--json");
    let last = run.within(JOB).run().ok().json();
    let views = last_of(node, last["step"]["of"].as_u64().unwrap());
    assert_eq!(views.last().unwrap()["job"], last["job"]);
    for (view, next) in views.iter().zip(&views[1..]) {
        assert_eq!(view["next"], next["job"]);
    }
    views
}

/// The views of the last so many jobs, the oldest first.
fn last_of(node: &Node, count: u64) -> Vec<Value> {
    let mut views = node.api().get("/jobs").ok().as_array().unwrap().clone();
    views.truncate(count as usize);
    views.reverse();
    views
}

fn view(node: &Node, job: &str) -> Value {
    node.api().get(&format!("/jobs/{job}")).ok()
}

/// The job that follows, once it does.
fn next(node: &Node, job: &str) -> String {
    let view = node.job_until(job, "what follows", |view| view["next"].is_string());
    view["next"].as_str().unwrap().to_owned()
}

fn ran(views: &[Value]) -> Vec<bool> {
    views.iter().map(|view| view["same_as"].is_null()).collect()
}

#[test]
fn steps_run_one_after_the_other_and_only_what_changed_is_run_again() {
    let swarm = Swarm::of(2);
    let node = &swarm[0];
    let job = steps(TWO, "one\ntwo\n");
    let out = node.folder().join("out");
    let first = node.cli(["run"]).arg(job.path()).arg("--out").arg(&out).within(JOB).run().ok();
    let _ = first.says(&["step 1/2 list: job", "step 2/2 count: job"]);
    let counts = String::from_utf8(parts(&out).concat()).unwrap();
    assert!(counts.contains("one") && counts.contains("two"), "{counts}");
    let first = last_of(node, 2);
    assert_eq!(ran(&first), [true, true]);
    assert_eq!(first[0]["step"], json!({ "name": "list", "place": 1, "of": 2 }));
    assert_eq!(first[1]["step"], json!({ "name": "count", "place": 2, "of": 2 }));

    let again = run(node, &job);
    assert_eq!(ran(&again), [false, false], "nothing changed");
    for (view, before) in again.iter().zip(&first) {
        assert_eq!((&view["same_as"], &view["tasks"]), (&before["job"], &json!(0)));
        assert_eq!((&view["result"], &view["report"]), (&before["result"], &before["report"]));
    }
    let shown = node.cli(["job", "show", again[1]["job"].as_str().unwrap()]).run().ok();
    assert!(shown.text().contains("2/2 count"), "{shown}");
    assert!(shown.text().contains(first[1]["job"].as_str().unwrap()), "{shown}");
    let items = node.cli(["job", "items", again[0]["job"].as_str().unwrap()]).run().ok();
    assert_eq!(items.text().lines().count(), 2, "{items}");

    write(&job, "words.wat", &words_wat(1));
    assert_eq!(ran(&run(node, &job)), [false, true], "the second step's code changed");
    write(&job, "items", "one\ntwo\nthree\n");
    assert_eq!(ran(&run(node, &job)), [true, true], "the first step's input changed");
    write(&job, "job.toml", &TWO.replace("partitions = 1", "partitions = 1\nmemo = false"));
    assert_eq!(ran(&run(node, &job)), [false, true], "a step that is not to be remembered");
    let all = node.cli(["run"]).arg(job.path()).args(["--no-memo", "--json"]);
    let _ = all.within(JOB).run().ok();
    assert_eq!(ran(&last_of(node, 2)), [true, true]);
    // A job alone has a memo of tasks, and is run.
    let alone = "kind = \"cl\"\nrun = \"echo.wat\"\nitems = \"items\"\nretries = 0\n";
    write(&job, "job.toml", alone);
    let _ = node.cli(["run"]).arg(job.path()).within(JOB).run().ok();
    assert!(last_of(node, 1)[0].get("same_as").is_none());
}

#[test]
fn inputs_name_what_any_earlier_step_gave_and_a_path_in_it() {
    let mut node = Node::first();
    node.start();
    let toml = format!(
        "{}input = {{ step = \"list\", path = \"results.jsonl\" }}\n\
         [[step]]\nname = \"again\"\nkind = \"cl\"\nrun = \"echo.wat\"\n\
         items = {{ step = \"count\", path = \"part-00000\" }}\n\
         [[step]]\nname = \"both\"\nkind = \"mr\"\nmap = \"words.wat\"\nreduce = \"sum\"\npartitions = 1\n\
         [step.inputs]\nlist = {{ step = \"list\" }}\nagain = {{ step = \"again\" }}\nown = \"items\"\n",
        TWO
    );
    let job = steps(&toml, "alpha\nbeta\n");
    let views = run(&node, &job);
    assert_eq!(views.len(), 4);
    let counts = parts(&node.save_result(views[1]["job"].as_str().unwrap())).concat();
    let result = node.save_result(views[2]["job"].as_str().unwrap()).join("results.jsonl");
    let lines = fs::read_to_string(result).unwrap().lines().count();
    assert_eq!(lines, String::from_utf8(counts).unwrap().lines().count(), "a line, an item");
    let both = parts(&node.save_result(views[3]["job"].as_str().unwrap())).concat();
    let both = String::from_utf8(both).unwrap();
    assert!(both.contains("alpha"), "{both}");
    assert!(!both.contains("config"), "what determines a result is no part of the input: {both}");
}

#[test]
fn what_is_wrong_with_a_later_step_is_told_before_anything_is_run() {
    let mut node = Node::first();
    node.start();
    let refused = |toml: &str, words: &[&str]| {
        let job = steps(toml, "one\n");
        let _ = node.cli(["run"]).arg(job.path()).within(JOB).run().failed(2, words);
    };
    let wrong = TWO.replace("words.wat", "gone.wat");
    refused(&wrong, &["IPDC-4004", "job.toml:12: step `count`: `map` names \"gone.wat\""]);
    let wrong = format!("{TWO}input = {{ step = \"lst\" }}\n");
    refused(&wrong, &["job.toml:15: step `count`: no step `lst` is before this one"]);
    let wrong = format!("{TWO}input = \"gone\"\n");
    refused(&wrong, &["job.toml:15: step `count`: `input = \"gone\"` names no file"]);
    let wrong = format!("{TWO}[step.params]\nmuch = \"{}\"\n", "x".repeat(64_900));
    refused(&wrong, &["job.toml: step `count`: the manifest has"]);
    let job = steps(TWO, "one\n");
    let _ = node.cli(["run", "cl"]).arg(job.path()).run().failed(2, &["leave the kind out"]);
    let _ = node.cli(["run", "mrr"]).arg(job.path()).run().failed(2, &["IPDC-4001", "mr, cl"]);
    assert_eq!(node.api().get("/jobs").ok(), json!([]));
}

#[test]
fn a_step_that_fails_is_named_and_none_follows() {
    let mut node = Node::first();
    node.start();
    let toml = "[[step]]\nname = \"first\"\nkind = \"mr\"\ninput = \"items\"\nmap = \"trap.wat\"\n\
                [[step]]\nname = \"second\"\nkind = \"mr\"\nmap = \"words.wat\"\n";
    let job = steps(toml, "one\n").file("trap.wat", guest("trap.wat"));
    let ran = node.cli(["run"]).arg(job.path()).within(JOB).run();
    let _ = ran.failed(1, &["IPDC-5301", "step `first`: "]);
    let views = node.api().get("/jobs").ok();
    assert_eq!(views.as_array().unwrap().len(), 1, "{views:#}");
    assert_eq!(
        (&views[0]["state"], &views[0]["step"]["name"]),
        (&json!("failed"), &json!("first"))
    );

    // So is one whose input is not there.
    let toml = format!("{TWO}input = {{ step = \"list\", path = \"outputs/7\" }}\n");
    let ran = node.cli(["run"]).arg(steps(&toml, "one\n").path()).within(JOB).run();
    let _ = ran.failed(1, &["IPDC-5620", "step `count` was not begun"]);
    let last = &last_of(&node, 1)[0];
    assert_eq!((&last["state"], &last["stopped"]["code"]), (&json!("done"), &json!("IPDC-5620")));
}

#[test]
fn items_that_failed_do_not_stop_the_steps_and_are_tried_again_the_next_time() {
    let mut node = Node::first();
    node.start();
    let job = steps(TWO, "one\n!bad\n");
    let out = node.folder().join("out");
    let ran = node.cli(["run"]).arg(job.path()).arg("--out").arg(&out).within(JOB).run();
    let _ = ran.failed(6, &["IPDC-1643", "1 of the 2 items"]);
    assert!(!parts(&out).is_empty(), "the last step's result is there");
    let followed = node.cli(["run"]).arg(job.path()).arg("--follow").within(JOB).run();
    let followed = followed.failed(6, &["IPDC-1643"]);
    assert_eq!(followed.text().lines().count(), 2, "{followed}");
    let views = last_of(&node, 2);
    assert_eq!(ran_of(&views), [("list", true), ("count", false)], "failures are not remembered");
}

fn ran_of(views: &[Value]) -> Vec<(&str, bool)> {
    let ran = |view: &Value| view["same_as"].is_null();
    views.iter().map(|view| (view["step"]["name"].as_str().unwrap(), ran(view))).collect()
}

/// Steps of which each takes a while.
fn slow() -> JobDir {
    let toml = format!("memo = false\n{TWO}\n").replace(
        "partitions = 1",
        "partitions = 1\ninput = { step = \"list\", path = \"results.jsonl\" }",
    );
    let items: String = (0..100).map(|n| format!("~{n}\n")).collect();
    steps(&toml, &items).file("words.wat", words_wat(3_000_000))
}

#[test]
fn steps_go_on_after_kills_of_their_node_within_and_between_them() {
    let mut node = Node::first();
    node.start();
    let first = node.detach(&slow());
    let some = |view: &Value| view["items"]["done"].as_u64() > Some(10);
    node.job_until(&first, "some items", some);
    node.kill();
    node.start();
    // Between: as soon as the first is done, whatever of the second is there.
    node.job_until(&first, "its end", |view| view["state"] == "done");
    node.kill();
    node.start();
    let done = view(&node, &first);
    assert_eq!(done["state"], "done", "what was told stays so: {done:#}");
    let second = next(&node, &first);
    node.job_until(&second, "the second runs", |view| view["state"] != "queued");
    node.kill();
    node.start();
    let done = node.job_done(&second);
    assert!(done["result"].is_string() && done["next"].is_null(), "{done:#}");
    assert_eq!(node.api().get("/jobs").ok().as_array().unwrap().len(), 2, "each step once");
}

/// Leaves the node's database as a crash does after a step's journal says that it is done, and before the next one
/// is accepted.
fn tear(node: &Node, first: &str, second: &str) {
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('PRAGMA foreign_keys = ON'); \
                  db.execute('UPDATE jobs SET ended = NULL WHERE id = ?', [sys.argv[2]]); \
                  db.execute('DELETE FROM jobs WHERE id = ?', [sys.argv[3]]); db.commit()";
    let python = Program::new("python3").args(["-c", script]).arg(node.home().join("ipdc.db"));
    let _ = python.args([first, second]).run().ok();
}

#[test]
fn a_crash_between_the_end_of_a_step_and_the_next_one_stops_nothing() {
    let mut node = Node::first();
    node.start();
    let views = run(&node, &steps(TWO, "one\n"));
    let [first, second] = [0, 1].map(|step: usize| views[step]["job"].as_str().unwrap().to_owned());
    node.stop();
    tear(&node, &first, &second);
    node.start();
    let again = next(&node, &first);
    assert_ne!(again, second);
    let done = node.job_done(&again);
    assert_eq!((&done["result"], done.get("same_as")), (&views[1]["result"], None));
    let shown = view(&node, &first);
    assert_eq!((&shown["result"], &shown["state"]), (&views[0]["result"], &json!("done")));
    // The next one is there, and the first one's end was not written.
    node.stop();
    tear(&node, &first, "none");
    node.start();
    assert_eq!(next(&node, &first), again);
    assert_eq!(node.api().get("/jobs").ok().as_array().unwrap().len(), 2);
}

#[test]
fn a_cancelled_step_is_the_last_and_the_first_jobs_id_reaches_the_one_under_way() {
    let mut node = Node::first();
    node.start();
    let job = slow();
    let first = node.detach(&job);
    node.job_until(&first, "some items", |view| view["items"]["done"].as_u64() > Some(5));
    let _ = node.cli(["job", "cancel", &first]).run().ok();
    let ended = node.job_until(&first, "its end", |view| view["state"] == "cancelled");
    assert!(ended["next"].is_null(), "{ended:#}");
    assert_eq!(node.api().get("/jobs").ok().as_array().unwrap().len(), 1);

    let job = steps(TWO, "one\n").file("words.wat", guest("forever.wat"));
    let first = node.detach(&job);
    let second = next(&node, &first);
    let _ = node.cli(["job", "cancel", &first]).run().ok();
    node.job_until(&second, "its end", |view| view["state"] == "cancelled");
    assert_eq!(view(&node, &first)["state"], "done");

    // Ctrl-C means the step under way.
    let running = node.cli(["run"]).arg(job.path()).start();
    let third = eventually(SOON, "the second step", || {
        let newest = last_of(&node, 1).remove(0);
        let is_new = newest["step"]["name"] == "count" && newest["job"] != second.as_str();
        is_new.then(|| newest["job"].as_str().unwrap().to_owned())
    });
    let told = |running: &Running| running.stderr().contains("step 1/2 list").then_some(());
    eventually(SOON, "it follows the second step", || told(&running));
    running.signal(Signal::INT);
    let ran = running.wait(SOON);
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    assert_eq!(view(&node, &third)["state"], "cancelled");
}

#[test]
fn steps_are_submitted_over_http_by_files_and_go_on_by_themselves() {
    let mut node = Node::first();
    node.start();
    let files = json!({
        "job.toml": TWO, "echo.wat": guest("echo.wat"), "words.wat": words_wat(0), "items": "one\n",
    });
    let submission = json!({ "files": files, "key": "steps", "params": { "n": 1 } });
    let accepted = node.api().post("/jobs", &submission).ok();
    let first = accepted["job"].as_str().unwrap();
    let again = node.api().post("/jobs", &submission).ok();
    assert_eq!(again["job"], first, "the key is that of the first step");
    let second = next(&node, first);
    let done = node.job_done(&second);
    assert!(done["result"].is_string(), "{done:#}");
    assert!(node.save_result(&second).join("part-00000").exists());
}
