//! Guests that fetch, from a site on this machine.

use ipdc_jobs::fetch::{Agent, Rules};
use ipdc_tests::Site;
use ipdc_tests::site::TEXT;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::*;
use crate::fetch::{FetchError, Fetcher, Options};

/// Fetches its input, and emits the head and the body of what comes. Its memory has room for a body of 64 KiB.
const FETCHES: &str = r#"(module
    (import "ipdc" "emit" (func $emit (param i32 i32 i32 i32)))
    (import "ipdc" "fetch" (func $fetch (param i32 i32) (result i32)))
    (import "ipdc" "fetch_head" (func $head (param i32 i32) (result i32)))
    (import "ipdc" "fetch_body" (func $body (param i64 i32 i32) (result i32)))
    (memory (export "memory") 3)
    (func (export "ipdc_alloc") (param i32) (result i32) (i32.const 0))
    (func (export "map") (param $ptr i32) (param $len i32) (local $head i32)
        (local.set $head (call $fetch (local.get $ptr) (local.get $len)))
        (drop (call $head (i32.const 65536) (local.get $head)))
        (call $emit
            (i32.const 65536) (local.get $head)
            (i32.const 131072) (call $body (i64.const 0) (i32.const 131072) (i32.const 65536)))))"#;

/// Fetches for guests as a worker does.
struct Web {
    fetcher: Fetcher,
    rules: Arc<Rules>,
    stop: CancellationToken,
}

impl Listener for Web {
    fn open(&mut self, _: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        Err(TaskError::Stopped)
    }
    fn fetch(&mut self, request: &Request, within: Duration) -> Result<Fetched, TaskError> {
        let mut visits = Vec::new();
        let fetching = timeout(within, self.fetcher.fetch(&self.rules, None, request, &mut visits));
        let fetched = Handle::current().block_on(self.stop.run_until_cancelled(fetching));
        let late = |_| Err(FetchError::Timeout(0));
        Ok(fetched.ok_or(TaskError::Stopped)?.unwrap_or_else(late))
    }
    fn log(&mut self, _: &str) {}
    fn progress(&mut self, _: u64, _: u64) {}
    fn count(&mut self, _: Counters) -> bool {
        true
    }
}

fn rules() -> Rules {
    let agent = Agent::try_from("wordbot (me@example.org)".to_owned()).unwrap();
    let private = vec!["127.0.0.0/8".parse().unwrap()];
    Rules { private, robots: false, rate: 0.0, ..Rules::of(agent) }
}

/// What `map` of `code` emits for `request`, as a guest of a job with these rules: head and body.
async fn fetches(
    bench: Bench,
    code: &'static str,
    rules: Option<Rules>,
    request: Value,
) -> Result<(Value, Vec<u8>), TaskError> {
    let run = move || {
        let rules = rules.map(Arc::new);
        let options =
            Options { private: vec!["127.0.0.0/8".parse().unwrap()], ..Options::default() };
        let (fetcher, stop) = (Fetcher::new(options, None), bench.stop.clone());
        let web = |rules| Box::new(Web { fetcher, rules, stop }) as Box<dyn Listener>;
        let heard = || Box::new(bench.heard.clone()) as Box<dyn Listener>;
        let listener = rules.clone().map_or_else(heard, web);
        let allowance = Allowance::new(&bench.limits, bench.stop.clone());
        let given = Given { fetch: rules, ..Given::default() };
        let (code, read) = module_of(code.as_bytes());
        let mut guest = bench.runtime.instantiate(&code, read, &allowance, listener, given)?;
        let mut emitted = Vec::new();
        guest.call("map", request.to_string().as_bytes(), &mut |packed| {
            emitted.extend_from_slice(packed);
            Ok(())
        })?;
        let (lens, records) = emitted.split_at(8);
        let klen = u32::from_le_bytes(lens[..4].try_into().unwrap()) as usize;
        let head = serde_json::from_slice(&records[..klen]).unwrap();
        Ok((head, records[klen..].to_vec()))
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_the_head_and_the_body_of_what_it_fetches() {
    let site = Site::start(1, 1);
    let request = json!({ "url": site.url("/gzip"), "headers": { "X-Mine": "1" } });
    let (head, body) = fetches(Bench::new(), FETCHES, Some(rules()), request).await.unwrap();
    assert_eq!((&head["status"], &head["body"]), (&json!(200), &json!(TEXT.len())), "{head}");
    assert_eq!(head["headers"]["content-encoding"], "gzip");
    assert_eq!(body, TEXT.as_bytes());
    assert_eq!(site.seen()[0].headers["x-mine"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_gets_nothing_reads_why_and_goes_on() {
    let site = Site::start(1, 1);
    for (url, kind, code) in [
        (site.url("/short"), "protocol", "IPDC-5511"),
        ("http://10.0.0.1/".to_owned(), "private", "IPDC-5506"),
        ("gopher://x/".to_owned(), "request", "IPDC-5503"),
    ] {
        let request = json!({ "url": url });
        let (head, body) = fetches(Bench::new(), FETCHES, Some(rules()), request).await.unwrap();
        let error = &head["error"];
        assert_eq!((&error["kind"], &error["code"]), (&json!(kind), &json!(code)), "{head}");
        assert!(error["message"].as_str().unwrap().len() > 10 && body.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_job_asks_for_no_fetch_is_ended_by_its_first() {
    let site = Site::start(1, 1);
    let request = json!({ "url": site.url("/page/0") });
    match fetches(Bench::new(), FETCHES, None, request).await {
        Err(TaskError::Failed { code: "IPDC-5502", class: FailureClass::Guest, .. }) => {}
        other => panic!("expected the guest to be ended, got {other:?}"),
    }
    assert!(site.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_waits_for_the_network_is_ended_in_its_time_and_stopped_at_once() {
    let site = Site::start(1, 1);
    let request = json!({ "url": site.url("/silent") });
    let mut bench = Bench::new();
    bench.limits.time_ms = 300;
    let began = Instant::now();
    match fetches(bench, FETCHES, Some(rules()), request.clone()).await {
        Err(TaskError::Failed { code: "IPDC-5302", .. }) => {}
        other => panic!("expected the time to be up, got {other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let bench = Bench::new();
    let stop = bench.stop.clone();
    let ended = tokio::spawn(fetches(bench, FETCHES, Some(rules()), request));
    while site.seen().len() < 2 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    stop.cancel();
    assert!(matches!(ended.await.unwrap(), Err(TaskError::Stopped)));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_reads_an_answer_it_never_got_reads_nothing() {
    const READS: &str = r#"(module
        (import "ipdc" "emit" (func $emit (param i32 i32 i32 i32)))
        (import "ipdc" "fetch_head" (func $head (param i32 i32) (result i32)))
        (import "ipdc" "fetch_body" (func $body (param i64 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "{}")
        (func (export "ipdc_alloc") (param i32) (result i32) (i32.const 1024))
        (func (export "map") (param i32 i32)
            (call $emit (i32.const 0) (i32.const 2)
                (i32.const 0)
                (i32.add (call $head (i32.const 0) (i32.const 0))
                    (call $body (i64.const -1) (i32.const 64) (i32.const 64))))))"#;
    let (head, body) = fetches(Bench::new(), READS, None, json!({})).await.unwrap();
    assert_eq!((head, body), (json!({}), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_fetches_is_memory_of_the_node_and_given_back() {
    let site = Site::start(1, 1);
    let request = json!({ "url": site.url("/gzip") });
    // Half of what guests have together is for the body as sent, half for what it unpacks to; the guest has some too.
    let all = Rules { max_body: ROOM / 2, ..rules() };
    match fetches(Bench::new(), FETCHES, Some(all), request.clone()).await {
        Err(TaskError::Failed { code: "IPDC-5312", class: FailureClass::Worker, .. }) => {}
        other => panic!("expected no room, got {other:?}"),
    }
    let fits = Rules { max_body: ROOM / 2 - (1 << 20), ..rules() };
    let fetched = fetches(Bench::new(), FETCHES, Some(fits), request.clone()).await;
    assert_eq!(fetched.unwrap().0["status"], 200);
}
