//! Jobs of items, and crawls, by real nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ipdc_tests::job::{parts, rows};
use ipdc_tests::site::{self, MAY_FETCH, Site};
use ipdc_tests::{JOB, JobDir, Node, SOON, Swarm, eventually, root};
use serde_json::{Value, json};

fn numbers(rows: &[Value]) -> BTreeSet<u64> {
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

#[test]
fn items_that_fail_are_told_with_error_and_log_and_the_rest_is_done() {
    let swarm = Swarm::of(3);
    let job = JobDir::echo("items = \"list\"\nretries = 1").file("list", "a\n!bad\nb\nc d\n");
    let out = swarm[0].folder().join("out");
    let run = swarm[0].cli(["run", "cl"]).arg(job.path()).arg("--follow").arg("--out").arg(&out);
    let ran = run.within(JOB).run().failed(6, &["IPDC-1643", "1 of the 4 items"]);
    let rows = rows(ran.text());
    assert_eq!(numbers(&rows), (0..4).collect());
    let bad = rows.iter().find(|row| row["n"] == 1).unwrap();
    assert_eq!((&bad["status"], &bad["attempts"]), (&json!("failed"), &json!(2)));
    assert_eq!(bad["error"]["code"], "IPDC-5301");
    assert_eq!(bad["log"], json!(["!bad"]));
    let result = fs::read_to_string(out.join("results.jsonl")).unwrap();
    let good: Vec<_> = rows.iter().filter(|row| row["status"] == "done").collect();
    assert_eq!(good.len(), 3);
    assert_eq!(
        result.lines().next().unwrap(),
        r#"{"item":"a","n":0,"output":"a","status":"done"}"#
    );
    let id = swarm[0].api().get("/jobs").ok()[0]["job"].as_str().unwrap().to_owned();
    let failed = swarm[0].cli(["job", "items", &id, "--failed"]).within(JOB).run().ok();
    assert_eq!(failed.text().lines().count(), 1, "of an ended job too");
    let again = swarm[0].folder().join("again");
    let fetched = swarm[0].cli(["job", "result", &id, "--out"]).arg(&again).within(JOB).run();
    assert_eq!(fetched.failed(6, &["IPDC-1643"]).text().trim(), again.to_str().unwrap());
    assert_eq!(fs::read_to_string(again.join("results.jsonl")).unwrap(), result);
    // The other node that holds the result has the report as well.
    let view = swarm[0].api().get(&format!("/jobs/{id}")).ok();
    assert_eq!(view["items"], json!({"total": 4, "done": 3, "failed": 1, "left_out": 0}));
    let report = format!("{}/items.jsonl", view["report"].as_str().unwrap());
    let report = swarm[1].cli(["cat"]).arg(report).within(JOB).run().ok();
    assert_eq!(report.text().lines().count(), 4);
}

#[test]
fn the_result_of_many_items_is_the_same_on_one_node_and_on_three_and_is_remembered() {
    let job = JobDir::echo("items = \"0..5000\"");
    let result = |nodes: usize| {
        let swarm = Swarm::of(nodes);
        let run = || {
            let run = swarm[0].cli(["run", "cl"]).arg(job.path()).arg("--json");
            run.within(JOB).run().ok().json()
        };
        let first = run();
        assert_eq!(first["items"]["done"], 5000);
        let again = run();
        assert_eq!(again["result"], first["result"]);
        assert_eq!(again["memoized"], again["tasks"], "nothing was run again");
        first["result"].clone()
    };
    assert_eq!(result(1), result(3));
}

#[test]
fn an_open_job_takes_items_until_it_is_closed() {
    let swarm = Swarm::of(2);
    let id = swarm[0].detach(&JobDir::echo("open = true"));
    swarm[0].job_until(&id, "open", |view| view["items"]["total"] == 0);
    let _ = swarm[0].cli(["job", "give", &id, "one", "two"]).within(JOB).run().ok();
    swarm[0].job_until(&id, "two items", |view| view["items"]["done"] == 2);
    let refused = swarm[0].api().post(&format!("/jobs/{id}/items"), &json!([""]));
    assert_eq!(refused.status, 409, "{refused:?}");
    let lines: String = (0..3000).map(|n| format!("line {n}\n")).collect();
    let give = swarm[0].cli(["job", "give", &id, "--close"]).stdin(lines);
    let _ = give.within(JOB).run().says(&["3000 items given"]);
    let view = swarm[0].job_done(&id);
    assert_eq!(view["items"]["done"], 3002);
    let late = swarm[0].cli(["job", "give", &id, "late"]).within(JOB).run();
    let _ = late.failed(5, &["IPDC-5611"]);
}

#[test]
fn a_gift_that_is_given_again_with_its_key_is_taken_once_whatever_happened_meanwhile() {
    let mut swarm = Swarm::of(1);
    let id = swarm[0].detach(&JobDir::echo("open = true"));
    let path = format!("/jobs/{id}/items?key=mine");
    // Long enough that the journal keeps it as a file.
    let items = json!(["a", "b".repeat(5_000)]);
    let first = swarm[0].api().post(&path, &items).ok();
    assert_eq!(first, swarm[0].api().post(&path, &items).ok());
    let give = |node: &Node, with: &[&str]| {
        let lines: String = (0..1500).map(|n| format!("line {n}\n")).collect();
        let give = node.cli(["job", "give", &id, "--key", "other"]).stdin(lines);
        let _ = with.iter().fold(give, |give, arg| give.arg(arg)).within(JOB).run().ok();
    };
    give(&swarm[0], &[]);
    swarm[0].kill();
    swarm[0].start();
    assert_eq!(first, swarm[0].api().post(&path, &items).ok());
    give(&swarm[0], &["--close"]);
    let view = swarm[0].job_done(&id);
    assert_eq!(view["items"]["done"], 1502, "{view:#}");
    let over = || swarm[0].api().post(&format!("/jobs/{id}/items"), &json!(["x"])).status == 409;
    eventually(SOON, "the job is over", || over().then_some(()));
    assert_eq!(first, swarm[0].api().post(&path, &items).ok(), "it was taken before the end");
    let long = "k".repeat(129);
    let refused = swarm[0].api().post(&format!("/jobs/{id}/items?key={long}"), &items);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("IPDC-7005")));
}

#[test]
fn what_an_items_code_says_of_its_progress_is_in_the_jobs_view() {
    let swarm = Swarm::of(2);
    let wat = "(module (import \"ipdc\" \"progress\" (func $progress (param i64 i64)))
        (memory (export \"memory\") 1)
        (func (export \"ipdc_alloc\") (param i32) (result i32) (i32.const 0))
        (func (export \"run\") (param i32 i32)
          (call $progress (i64.const 1) (i64.const 4))
          (call $progress (i64.const 2) (i64.const 4))
          (loop $again (br $again))))";
    let toml = "kind = \"cl\"\nrun = \"run.wat\"\nitems = \"0..2\"\n[limits]\ntime = \"5m\"\n";
    let id = swarm[0].detach(&JobDir::new(toml).file("run.wat", wat));
    let both = json!([{"n": 0, "done": 2, "total": 4}, {"n": 1, "done": 2, "total": 4}]);
    swarm[0].job_until(&id, "both are half done", |view| view["running_items"] == both);
    let _ = swarm[0].cli(["job", "cancel", &id]).within(JOB).run().ok();
    let view = swarm[0].job_until(&id, "cancelled", |view| view["state"] == "cancelled");
    assert_eq!(view["running_items"], Value::Null, "{view:#}");
}

#[test]
fn items_that_are_cancelled_are_stopped_or_never_begun_and_it_outlives_the_node() {
    let mut swarm = Swarm::of(1);
    let id = swarm[0].detach(&JobDir::echo("open = true"));
    // More than run at once, and several to a task.
    let endless = vec!["?"; 300];
    let _ = swarm[0].api().post(&format!("/jobs/{id}/items"), &json!(["a"])).ok();
    let _ = swarm[0].api().post(&format!("/jobs/{id}/items"), &json!(endless)).ok();
    swarm[0].job_until(&id, "some run", |view| {
        view["items"]["done"] == 1 && view["stages"][0]["running"].as_u64() > Some(0)
    });
    let cancel = |node: &Node, items: std::ops::Range<u32>| -> usize {
        let items = json!({"items": items.collect::<Vec<_>>()});
        let answer = node.api().post(&format!("/jobs/{id}/items/cancel"), &items).ok();
        answer["cancelled"].as_array().unwrap().len()
    };
    assert_eq!(cancel(&swarm[0], 0..200), 199, "all but the one that has ended");
    assert_eq!(cancel(&swarm[0], 0..200), 0, "once");
    swarm[0].kill();
    swarm[0].start();
    let rest = || swarm[0].job_until(&id, "it goes on", |view| view["items"]["cancelled"] == 199);
    assert_eq!(rest()["state"], "running");
    let two = swarm[0].cli(["job", "cancel", &id, "--quiet", "--item", "150", "--item", "299"]);
    assert_eq!(two.within(JOB).run().ok().text(), "299");
    assert_eq!(cancel(&swarm[0], 150..400), 100);
    let _ = swarm[0].cli(["job", "give", &id, "b", "--close"]).within(JOB).run().ok();
    let view = swarm[0].job_done(&id);
    let items = json!({"total": 302, "done": 2, "failed": 0, "cancelled": 300, "left_out": 0});
    assert_eq!(view["items"], items);
    let result = fs::read_to_string(swarm[0].save_result(&id).join("results.jsonl")).unwrap();
    let lines: Vec<_> = result.lines().collect();
    assert_eq!((lines.len(), lines[5]), (302, r#"{"item":"?","n":5,"status":"cancelled"}"#));
}

#[test]
fn what_ended_before_a_job_was_cancelled_is_shown_as_long_as_it_is_kept() {
    let mut swarm = Swarm::of(1);
    let job = JobDir::echo("items = \"list\"\nretries = 0").file("list", "a\n!b\n?\nc\n");
    let id = swarm[0].detach(&job);
    swarm[0].job_until(&id, "three have ended", |view| {
        let ended = |how: &str| view["items"][how].as_u64().unwrap_or(0);
        ended("done") + ended("failed") == 3
    });
    let follower = swarm[0].cli(["job", "items", &id]).within(JOB).start();
    let _ = swarm[0].cli(["job", "cancel", &id]).within(JOB).run().ok();
    swarm[0].job_until(&id, "cancelled", |view| view["state"] == "cancelled");
    assert_eq!(numbers(&rows(follower.wait(JOB).ok().text())), BTreeSet::from([0, 1, 3]));
    swarm[0].stop();
    swarm[0].start();
    let items = swarm[0].cli(["job", "items", &id, "--failed"]).within(JOB).run().ok();
    let failed = rows(items.text());
    assert_eq!((failed.len(), &failed[0]["log"]), (1, &json!(["!b"])));

    for n in 0..8 {
        let _ = swarm[0].job_done(&swarm[0].detach(&JobDir::echo(&format!("items = \"0..{n}\""))));
    }
    let gone = swarm[0].cli(["job", "items", &id]).within(JOB).run();
    let _ = gone.failed(4, &["IPDC-5610", "the last 8 jobs that ended"]);
}

#[test]
fn a_job_of_items_survives_the_death_of_its_controller_and_of_a_worker() {
    let mut swarm = Swarm::of(3);
    let list: String = (0..400).map(|n| format!("~{n}\n")).collect();
    let job = JobDir::echo("items = \"list\"\nmemo = false").file("list", list);
    let id = swarm[0].detach(&job);
    let some = |view: &Value| view["items"]["done"].as_u64() > Some(40);
    swarm[0].job_until(&id, "some are done", some);
    let follower = swarm[0].cli(["job", "items", &id]).within(JOB).start();
    eventually(SOON, "some are followed", || (!follower.stdout().is_empty()).then_some(()));
    let worker = eventually(SOON, "a worker", || swarm.worker_of(&id, &[0]));
    swarm[worker].kill();
    let before = swarm[0].api().get(&format!("/jobs/{id}")).ok()["items"]["done"].as_u64();
    swarm[0].kill();
    swarm[0].start();
    let view = swarm[0].job_done(&id);
    assert_eq!(view["items"]["done"], 400);
    let items = swarm[0].cli(["job", "items", &id]).within(JOB).run().ok();
    assert_eq!(numbers(&rows(items.text())), (0..400).collect());
    let followed = follower.wait(JOB).ok();
    let followed = rows(followed.text());
    assert_eq!((followed.len(), numbers(&followed)), (400, (0..400).collect()), "each once");
    let again = swarm[0].api().get(&format!("/jobs/{id}/items?after=150"));
    let again = rows(std::str::from_utf8(&again.body).unwrap());
    assert_eq!(again, followed[150..], "in the same order");
    assert!(before > Some(40), "{before:?} were in the journal");
}

/// Crawls the site from its first page on: the result, and the view of the job.
fn crawl(swarm: &Swarm, site: &Site, more: &str, fetch: &str) -> (std::path::PathBuf, Value) {
    let id = swarm[0].detach(&JobDir::crawl(site, more, fetch));
    let view = swarm[0].job_done(&id);
    (swarm[0].save_result(&id), view)
}

/// The example on this site, as fast as it can.
fn example(site: &Site) -> JobDir {
    let folder = root().join("examples/crawl");
    let toml = fs::read_to_string(folder.join("job.toml")).unwrap();
    let begin = "[step.fetch]\n";
    assert!(toml.contains(begin) && toml.contains("depth = 20\n"), "{toml}");
    let loopback = format!("{begin}private = [\"127.0.0.0/8\"]\nrate = 0\nconcurrency = 8\n");
    let toml = toml.replace(begin, &loopback).replace("depth = 20\n", "depth = 100\n");
    let code = fs::read(folder.join("crawl.wasm")).expect("make examples");
    JobDir::new(&toml).file("crawl.wasm", code).file("start", site.url("/page/0\n"))
}

/// Lines of `key<TAB>value value …` by key.
fn lists(dir: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = parts(dir).concat();
    let text = String::from_utf8(text).unwrap();
    let list = |line: &str| {
        let (key, values) = line.split_once('\t').unwrap();
        (key.to_owned(), values.split(' ').map(str::to_owned).collect())
    };
    text.lines().map(list).collect()
}

#[test]
fn a_crawl_finds_every_page_of_a_site_once_and_what_came_is_an_index() {
    const PAGES: u32 = 400;
    let swarm = Swarm::configured(3, MAY_FETCH);
    let site = Site::start(PAGES, 7);
    let job = example(&site);
    let ran = swarm[0].cli(["run"]).arg(job.path()).arg("--json").within(JOB).run().ok().json();
    assert_eq!(ran["step"], json!({ "name": "links", "place": 3, "of": 3 }));
    let views = swarm[0].api().get("/jobs").ok();
    let view = |step: &str| {
        let views = views.as_array().unwrap();
        views.iter().find(|view| view["step"]["name"] == step).unwrap().clone()
    };
    let result = |step: &str| swarm[0].save_result(view(step)["job"].as_str().unwrap());
    let (out, view) = (result("crawl"), view("crawl"));
    assert_eq!((&view["items"]["done"], &view["items"]["failed"]), (&json!(PAGES), &json!(0)));
    let asked: Vec<_> = site.paths().into_iter().filter(|path| path != "/robots.txt").collect();
    let once: BTreeSet<_> = asked.iter().collect();
    assert_eq!((asked.len(), once.len()), (PAGES as usize, PAGES as usize), "each page once");
    assert!(site.most_at_once() <= 8, "{} at once", site.most_at_once());

    // What the pages link to, and which have a word, are what the site was made of.
    let mut links: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut words: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for n in 0..PAGES {
        let url = |n: u32| site.url(&format!("/page/{n}"));
        let page = site::page(n, PAGES, 7);
        for to in page.links {
            links.entry(url(to)).or_default().insert(url(n));
        }
        let title = ["page".to_owned(), n.to_string()];
        let links = site::page(n, PAGES, 7).links.into_iter().map(|link| link.to_string());
        for word in page.words.into_iter().chain(title).chain(links) {
            words.entry(word).or_default().insert(url(n));
        }
    }
    assert_eq!(lists(&result("links")), links);
    assert_eq!(lists(&result("words")), words);

    // And an archive that others read: one response a page.
    let archive = fs::read_dir(out.join("archive")).unwrap();
    let bytes = archive.map(|file| fs::read(file.unwrap().path()).unwrap()).collect::<Vec<_>>();
    let responses: usize = bytes
        .iter()
        .map(|bytes| String::from_utf8_lossy(bytes).matches("WARC-Type: response").count())
        .sum();
    assert!(responses >= PAGES as usize, "{responses} responses of {PAGES} pages");
}

#[test]
fn a_maze_ends_at_the_number_of_items_and_depth_is_kept() {
    let swarm = Swarm::configured(1, MAY_FETCH);
    let site = Site::start(300, 3);
    let (_, view) = crawl(&swarm, &site, "depth = 100\nitems = 50", "rate = 0\nconcurrency = 4");
    assert_eq!(view["items"]["total"], 50);
    assert!(view["items"]["left_out"].as_u64() > Some(0));
    let (out, _) = crawl(&swarm, &site, "depth = 1", "rate = 0");
    let result = rows(&fs::read_to_string(out.join("results.jsonl")).unwrap());
    assert!(result.iter().all(|row| row["depth"].as_u64() <= Some(1)), "{result:?}");
    assert_eq!(result.len(), 1 + site::page(0, 300, 3).links.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn without_a_node_that_grants_it_nobody_fetches() {
    let swarm = Swarm::of(1);
    let job =
        JobDir::echo("items = \"0..3\"\n[fetch]\nagent = \"test/1.0 (+https://example.org)\"\n");
    let id = swarm[0].detach(&job);
    let view = swarm[0].job_until(&id, "a reason", |view| view["waiting"].is_string());
    assert!(view["waiting"].as_str().unwrap().contains("fetch"), "{view:#}");
}
