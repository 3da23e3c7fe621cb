//! Jobs of items: as many as go through, one there and back, and the pages of a crawl.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ipdc_tests::site::{MAY_FETCH, Site};
use ipdc_tests::{JobDir, Node, Swarm};
use serde_json::{Value, json};

use super::{Bench, NODES, Noted, reached};
use crate::figures::Figure;
use crate::native::LONG;

/// Items of the large job.
const MANY: u64 = 100_000;

/// Items that are a process each: as many as the peers' programs have.
const NATIVE: u64 = 10_000;

/// Items that go there and back one after the other, and those before that warm the nodes up.
const ONE_BY_ONE: usize = 500;
const WARM_UP: usize = 50;

/// Pages of the site, and of a site that is asked politely.
const PAGES: u32 = 10_000;
const POLITE_PAGES: u32 = 200;
/// Requests a second to that one.
const POLITE_RATE: u32 = 40;

/// Runs the job; how it ended.
fn run(node: &Node, job: &JobDir) -> Value {
    let run = node.cli(["run", "cl"]).arg(job.path()).args(["--no-memo", "--json"]);
    run.within(LONG).run().ok().json()
}

fn seconds(view: &Value) -> f64 {
    view["seconds"].as_f64().expect("a done job knows its time")
}

pub(super) fn many(_: &Bench, noted: &mut Noted) {
    let swarm = Swarm::of(NODES);
    run(&swarm[0], &JobDir::echo("items = \"0..2000\""));
    let view = run(&swarm[0], &JobDir::echo(&format!("items = \"0..{MANY}\"")));
    assert_eq!(view["items"]["done"], MANY);
    let remark = format!("{MANY} items in {} tasks", view["tasks"]);
    noted.insert(Figure::ItemRate, reached(MANY as f64 / seconds(&view), remark));
    let peak = swarm[0].memory("VmHWM");
    noted.insert(Figure::ItemMemory, reached(peak as f64 / 1e6, "its peak"));
}

/// `true`, of which a run is what the system needs for a process.
pub(super) fn native(_: &Bench, noted: &mut Noted) {
    let swarm = Swarm::configured(NODES, "[policy]\nmembers = [\"wasm\", \"process\"]\n");
    let why = &swarm[0].status()["no_process"];
    assert!(why.is_null(), "{why}");
    let program = fs::read("/bin/true").expect("a system with programs");
    let job = |items: u64| {
        let toml = format!("kind = \"cl\"\nrun = \"true\"\nitems = \"0..{items}\"\n");
        JobDir::new(&toml).file("true", &program)
    };
    run(&swarm[0], &job(200));
    let view = run(&swarm[0], &job(NATIVE));
    assert_eq!(view["items"]["done"], NATIVE);
    let remark = format!("{NATIVE} items in {} tasks", view["tasks"]);
    noted.insert(Figure::ProcessRate, reached(NATIVE as f64 / seconds(&view), remark));
}

pub(super) fn one(_: &Bench, noted: &mut Noted) {
    let swarm = Swarm::of(NODES);
    let (node, api) = (&swarm[0], swarm[0].api());
    let id = &node.detach(&JobDir::echo("open = true"));
    let _ = node.job_until(id, "it is open", |view| view["items"].is_object());
    let mut ended = Ended::of(node, id);
    let mut took: Vec<f64> = (0..WARM_UP + ONE_BY_ONE)
        .map(|n| {
            let start = Instant::now();
            let item = format!("item {n}");
            let _ = api.post(&format!("/jobs/{id}/items"), &json!([item])).ok();
            assert_eq!(ended.next()["output"], item.as_str());
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(WARM_UP)
        .collect();
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took[took.len() * percent / 100];
    let remark = format!("{ONE_BY_ONE} over HTTP, p90 {:.1} ms; two flushes to the disk", at(90));
    noted.insert(Figure::ItemThereAndBack, reached(at(50), remark));
    let _ = api.post(&format!("/jobs/{id}/close"), &json!({})).ok();
}

/// Items as they end, by the node's stream.
struct Ended(BufReader<TcpStream>);

impl Ended {
    fn of(node: &Node, job: &str) -> Self {
        let http = node.status()["http"].as_str().expect("an address").to_owned();
        let token =
            fs::read_to_string(node.home().join("api.token")).expect("a running node's token");
        let mut stream = TcpStream::connect(&http).expect("the node answers");
        stream.set_read_timeout(Some(LONG)).expect("a time that is not zero");
        write!(
            stream,
            "GET /v1/jobs/{job}/items HTTP/1.1\r\nHost: {http}\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        )
        .expect("the node reads");
        Ended(BufReader::new(stream))
    }

    /// The next: what else is in the stream are heads and lengths.
    fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).expect("the node writes") > 0, "the job goes on");
            if line.starts_with('{') {
                return serde_json::from_str(&line).expect("a line of JSON");
            }
        }
    }
}

pub(super) fn crawl(_: &Bench, noted: &mut Noted) {
    let swarm = Swarm::configured(NODES, MAY_FETCH);
    let crawl = |pages: u32, seed: u64, fetch: &str| {
        let site = Site::start(pages, seed);
        let view = run(&swarm[0], &JobDir::crawl(&site, "depth = 1000\nitems = 20000", fetch));
        assert_eq!(view["items"]["done"], pages);
        (site, seconds(&view))
    };
    crawl(500, 1, "rate = 0\nconcurrency = 8");
    let (_, took) = crawl(PAGES, 2, "rate = 0\nconcurrency = 8");
    let remark = format!("{PAGES} pages in {took:.1} s, eight at a time, with an archive");
    noted.insert(Figure::CrawlRate, reached(f64::from(PAGES) / took, remark));

    let (site, _) = crawl(POLITE_PAGES, 3, &format!("rate = {POLITE_RATE}"));
    let seen = site.seen();
    let pages: Vec<Duration> =
        seen.iter().filter(|seen| seen.path != "/robots.txt").map(|seen| seen.at).collect();
    let (first, last) = (pages.first().expect("pages"), pages.last().expect("pages"));
    let rate = (pages.len() - 1) as f64 / (*last - *first).as_secs_f64();
    let share = 100.0 * rate / f64::from(POLITE_RATE);
    let remark = format!("{rate:.1} requests a second of {POLITE_RATE}");
    noted.insert(Figure::CrawlPolite, reached(share, remark));
}
