//! A fetcher against a site that behaves, and one that does not.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::Mutex;

use async_trait::async_trait;
use futures::future::join_all;
use ipdc_jobs::fetch::Agent;
use ipdc_jobs::message::INLINE_LIMIT;
use ipdc_tests::Site;
use ipdc_tests::site::TEXT;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::blocks::store::{self, Store};
use crate::state::Db;

/// Names that mean what a test says, one answer after the other, and the last from then on.
#[derive(Default)]
struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

#[async_trait]
impl Resolve for Names {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(name).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}

impl Names {
    fn mean(&self, name: &str, answers: &[&[&str]]) {
        let answer = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), answers.iter().map(answer).collect());
    }
}

fn loopback() -> Vec<Range> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

/// Rules of a job in a hurry that may ask this machine.
fn hurried() -> Rules {
    let agent = Agent::try_from("wordbot/1.0 (me@example.org)".to_owned()).unwrap();
    Rules {
        private: loopback(),
        robots: false,
        rate: 0.0,
        concurrency: 64,
        max_body: 1 << 20,
        timeout_ms: 2_000,
        ..Rules::of(agent)
    }
}

struct World {
    site: Site,
    names: Arc<Names>,
    fetcher: Fetcher,
}

impl World {
    fn new() -> World {
        Self::with(Options { private: loopback(), rate: None })
    }

    fn with(options: Options) -> World {
        let names = Arc::<Names>::default();
        let fetcher = Fetcher::with(options, None, Arc::clone(&names) as Arc<dyn Resolve>);
        World { site: Site::start(50, 7), names, fetcher }
    }

    async fn get(&self, rules: &Rules, path: &str) -> Fetched {
        self.get_url(rules, &self.site.url(path)).await
    }

    async fn get_url(&self, rules: &Rules, url: &str) -> Fetched {
        self.fetcher.fetch(rules, None, &Request::get(url).unwrap(), &mut Vec::new()).await
    }

    /// The URL of `path` on the site, whose host has this name.
    fn named(&self, name: &str, path: &str) -> String {
        format!("http://{name}:{}{path}", self.site.addr().port())
    }
}

fn kind(fetched: Fetched) -> &'static str {
    fetched.map_or_else(|error| error.kind(), |_| "a response")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_comes_with_its_head_and_its_body() {
    let world = World::new();
    let page = world.get(&hurried(), "/page/3#part").await.unwrap();
    assert_eq!((page.status, page.url.as_str()), (200, world.site.url("/page/3").as_str()));
    assert!(page.body.starts_with(b"<!doctype html>\n<title>page 3</title>"));
    assert_eq!(page.headers["content-type"], "text/html");
    assert_eq!((page.ip.to_string().as_str(), page.location.clone()), ("127.0.0.1", None));
    let head: serde_json::Value = serde_json::from_slice(&page.head()).unwrap();
    assert_eq!(head["body"], page.body.len());
    let gone = world.get(&hurried(), "/page/9999").await.unwrap();
    assert_eq!((gone.status, &gone.body[..]), (404, &b"there is no such page\n"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_says_its_name_and_a_guest_may_add_headers_but_not_change_it() {
    let world = World::new();
    let request = format!(
        r#"{{"url": "{}", "method": "HEAD", "headers": {{"Accept": "text/html"}}}}"#,
        world.site.url("/page/1")
    );
    let request = Request::parse(request.as_bytes()).unwrap();
    let head = world.fetcher.fetch(&hurried(), None, &request, &mut Vec::new()).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    let [seen] = &world.site.seen()[..] else { panic!("one request") };
    assert_eq!((seen.method.as_str(), seen.headers["accept"].as_str()), ("HEAD", "text/html"));
    assert_eq!(seen.headers["user-agent"], "wordbot/1.0 (me@example.org)");
    assert_eq!(seen.headers["host"], world.site.addr().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_in_which_a_host_misbehaves_ends_in_time_and_has_a_name() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/", silent.local_addr().unwrap());
    let cases = [
        ("/silent", "timeout"),
        ("/drip", "timeout"),
        ("/drip-head", "timeout"),
        ("/slow/60000", "timeout"),
        ("/huge", "too_large"),
        ("/endless", "too_large"),
        ("/bomb", "too_large"),
        ("/headers", "protocol"),
        ("/broken", "protocol"),
        ("/short", "protocol"),
        ("/nonsense", "protocol"),
        ("/round/0", "redirects"),
        ("/loop/0", "redirects"),
    ];
    let began = Instant::now();
    let ask = async |path: &str, expected: &str| {
        let url = if path.is_empty() { silent.clone() } else { world.site.url(path) };
        let mut visits = Vec::new();
        let fetched =
            world.fetcher.fetch(&hurried(), None, &Request::get(&url).unwrap(), &mut visits).await;
        assert_eq!(kind(fetched), expected, "{path}");
        assert!(visits.iter().map(|visit| visit.body.len()).sum::<usize>() <= 1 << 20, "{path}");
    };
    join_all(cases.iter().map(|(path, expected)| ask(path, expected))).await;
    ask("", "timeout").await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // And then serves the next as if nothing had been.
    assert_eq!(world.get(&hurried(), "/gzip").await.unwrap().body, TEXT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_as_it_was_meant_however_it_was_sent() {
    let world = World::new();
    for path in ["/gzip", "/deflate", "/pieces"] {
        assert_eq!(world.get(&hurried(), path).await.unwrap().body, TEXT, "{path}");
    }
    // To the byte.
    let exact = Rules { max_body: TEXT.len() as u64, ..hurried() };
    assert_eq!(kind(world.get(&exact, "/pieces").await), "a response");
    let less = Rules { max_body: TEXT.len() as u64 - 1, ..hurried() };
    assert_eq!(kind(world.get(&less, "/pieces").await), "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_on_one_host_and_others_are_for_the_guest_to_decide() {
    let world = World::new();
    let ask = async |rules: &Rules, path: &str| {
        let mut visits = Vec::new();
        let request = Request::get(&world.site.url(path)).unwrap();
        let fetched = world.fetcher.fetch(rules, None, &request, &mut visits).await;
        (fetched, visits.len())
    };
    let (page, hops) = ask(&hurried(), "/to?/to?/page/1").await;
    assert_eq!((page.unwrap().url, hops), (world.site.url("/page/1"), 3));
    let (other, hops) = ask(&hurried(), "/to?http://other.example/x").await;
    let other = other.unwrap();
    assert_eq!((other.status, other.location.as_deref()), (302, Some("http://other.example/x")));
    assert_eq!(hops, 1);
    for nowhere in ["/to?file:///etc/passwd", "/to?javascript:x", "/to?", "/to?http://"] {
        let (page, _) = ask(&Rules { redirects: 0, ..hurried() }, nowhere).await;
        assert!(page.unwrap().location.is_none_or(|goal| goal.starts_with(&world.site.url("/to"))));
    }
    let none = Rules { redirects: 0, ..hurried() };
    let (page, _) = ask(&none, "/to?/page/1").await;
    assert_eq!(page.unwrap().location, Some(world.site.url("/page/1")));
    let two = Rules { redirects: 2, ..hurried() };
    assert_eq!(ask(&two, "/to?/to?/page/1").await.0.unwrap().status, 200);
    let (round, hops) = ask(&two, "/round/0").await;
    assert_eq!((kind(round), hops), ("redirects", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_public_needs_the_job_and_the_node_to_name_it() {
    let job = |private| Rules { private, ..hurried() };
    for (of_node, of_job, expected) in [
        (loopback(), loopback(), "a response"),
        (loopback(), vec![], "private"),
        (vec![], loopback(), "private"),
        (vec!["10.0.0.0/8".parse().unwrap()], loopback(), "private"),
        (loopback(), vec!["127.0.0.2".parse().unwrap()], "private"),
    ] {
        let world = World::with(Options { private: of_node, rate: None });
        world.names.mean("localhost", &[&["127.0.0.1"]]);
        let rules = job(of_job);
        for host in ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"] {
            assert_eq!(
                kind(world.get_url(&rules, &world.named(host, "/page/1")).await),
                expected,
                "{host}"
            );
        }
        assert_eq!(world.site.seen().is_empty(), expected != "a response");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_name_for_itself_is_refused_too() {
    let site = Site::start(1, 1);
    let fetcher = Fetcher::new(Options::default(), None);
    let request = Request::get(&format!("http://localhost:{}/", site.addr().port())).unwrap();
    let fetched = fetcher.fetch(&hurried(), None, &request, &mut Vec::new()).await;
    assert_eq!(kind(fetched), "private");
    let nobody = Request::get("http://there-is-no-such-host.invalid/").unwrap();
    assert_eq!(kind(fetcher.fetch(&hurried(), None, &nobody, &mut Vec::new()).await), "name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_means_another_address_the_next_time_leads_nowhere() {
    let world = World::with(Options::default());
    let public = "192.0.1.1";
    world.names.mean("rebinds.test", &[&["127.0.0.1"]]);
    world.names.mean("mixed.test", &[&[public, "127.0.0.1"]]);
    world.names.mean("mapped.test", &[&["::ffff:127.0.0.1"]]);
    world.names.mean("translated.test", &[&["64:ff9b::7f00:1"]]);
    world.names.mean("nowhere.test", &[&[]]);
    for name in ["rebinds.test", "mixed.test", "mapped.test", "translated.test"] {
        assert_eq!(
            kind(world.get_url(&hurried(), &world.named(name, "/")).await),
            "private",
            "{name}"
        );
    }
    assert_eq!(kind(world.get_url(&hurried(), "http://nowhere.test/").await), "name");
    // What is judged is what is connected to: nobody asks for the address a second time.
    let url: Url = "http://twice.test/".parse().unwrap();
    world.names.mean("twice.test", &[&[public], &["127.0.0.1"]]);
    let guard = &world.fetcher.shared.guard;
    let judged = guard.addresses(&url, &hurried()).await.unwrap();
    assert_eq!(judged, ["192.0.1.1:80".parse().unwrap()]);
    assert!(guard.addresses(&url, &hurried()).await.is_err());
    assert!(world.site.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_get_by_a_kept_connection_where_it_may_not_go() {
    let world = World::new();
    assert_eq!(kind(world.get(&hurried(), "/page/1").await), "a response");
    let closed = Rules { private: vec![], ..hurried() };
    assert_eq!(kind(world.get(&closed, "/page/1").await), "private");
    assert_eq!(world.site.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_asks_the_hosts_that_it_names_and_no_others_on_the_way_either() {
    let world = World::new();
    world.names.mean("a.test", &[&["127.0.0.1"]]);
    world.names.mean("b.test", &[&["127.0.0.1"]]);
    let rules = Rules { hosts: vec!["a.test".to_owned().try_into().unwrap()], ..hurried() };
    assert_eq!(kind(world.get_url(&rules, &world.named("a.test", "/page/1")).await), "a response");
    assert_eq!(kind(world.get_url(&rules, &world.named("b.test", "/page/1")).await), "host");
    let away = world.named("a.test", &format!("/to?{}", world.named("b.test", "/page/1")));
    let away = world.get_url(&rules, &away).await.unwrap();
    assert_eq!((away.status, away.location), (302, Some(world.named("b.test", "/page/1"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn robots_txt_is_asked_once_and_kept_to() {
    let world = World::new();
    world.site.set_robots("User-agent: wordbot\nDisallow: /page/2\nUser-agent: *\nDisallow: /\n");
    let rules = Rules { robots: true, ..hurried() };
    let both = [world.get(&rules, "/page/1"), world.get(&rules, "/page/2")];
    let kinds: Vec<_> = join_all(both).await.into_iter().map(kind).collect();
    assert_eq!(kinds, ["a response", "robots"]);
    assert_eq!(
        kind(world.get(&rules, "/to?/page/2").await),
        "robots",
        "a redirect is no way round"
    );
    assert_eq!(
        kind(world.get(&hurried(), "/page/2").await),
        "a response",
        "unless the job ignores it"
    );
    let paths = world.site.paths();
    assert_eq!(paths, ["/robots.txt", "/page/1", "/to?/page/2", "/page/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_robots_txt_all_is_allowed_and_one_that_cannot_be_had_allows_nothing() {
    let rules = Rules { robots: true, ..hurried() };
    let open = World::new();
    assert_eq!(kind(open.get(&rules, "/page/1").await), "a response");
    for (answer, expected) in [
        ("503 Busy", "robots"),
        ("429 Slow down", "robots"),
        ("500 Oh", "robots"),
        ("403 No", "a response"),
        ("410 Gone", "a response"),
    ] {
        let host =
            one_answer_a_connection(&format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(kind(open.get_url(&rules, &format!("{host}/page")).await), expected, "{answer}");
    }
    // What may not be asked, or is not there at all: that is what the guest hears.
    let outside = Rules { private: vec![], ..rules.clone() };
    assert_eq!(kind(World::new().get(&outside, "/page/1").await), "private");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(kind(open.get_url(&rules, &format!("http://{gone}/")).await), "connect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robots_txt_may_be_elsewhere_and_is_cut_when_it_is_endless() {
    let rules = Rules { robots: true, ..hurried() };
    let world = World::new();
    world.site.set_robots("User-agent: *\nDisallow: /x");
    let to = world.site.url("/robots.txt");
    let host = one_answer_a_connection(&format!(
        "HTTP/1.1 301 So\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
    ));
    assert_eq!(kind(world.get_url(&rules, &format!("{host}/x")).await), "robots");
    let to = world.site.url("/endless");
    let host = one_answer_a_connection(&format!(
        "HTTP/1.1 301 So\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
    ));
    // Allowed; and what the page itself is told to be is endless too.
    assert_eq!(kind(world.get_url(&rules, &format!("{host}/x")).await), "too_large");
}

/// A host that gives the same answer to every request, and closes the connection after it.
fn one_answer_a_connection(answer: &str) -> String {
    let (listener, answer) = (TcpListener::bind("127.0.0.1:0").unwrap(), answer.to_owned());
    let host = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            if stream.read(&mut request).is_ok_and(|read| read > 0) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_host_closed_is_not_missed() {
    let world = World::new();
    let host = one_answer_a_connection("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for _ in 0..50 {
        assert_eq!(world.get_url(&hurried(), &host).await.unwrap().body, "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_sees_as_many_requests_a_second_as_the_job_says_and_no_more() {
    let world = World::new();
    let (rules, began) = (Rules { rate: 50.0, ..hurried() }, world.site.age());
    let path = |n| if n % 2 == 0 { "/page/1" } else { "/to?/page/2" };
    let all = join_all((0..41).map(|n| world.get(&rules, path(n)))).await;
    assert!(all.into_iter().all(|fetched| kind(fetched) == "a response"));
    let seen = world.site.seen();
    assert_eq!(seen.len(), 61, "redirects take a turn too");
    for (n, seen) in seen.iter().enumerate() {
        let due = began + Duration::from_millis(20) * n as u32;
        assert!(seen.at >= due, "request {n} came at {:?}, due at {due:?}", seen.at);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_may_be_slower_than_the_job_and_a_host_than_both() {
    let world = World::with(Options { private: loopback(), rate: Some(20) });
    world.site.set_robots("User-agent: *\nCrawl-delay: 0.3");
    let (rules, began) = (hurried(), world.site.age());
    join_all((0..5).map(|_| world.get(&rules, "/page/1"))).await;
    assert!(world.site.seen()[4].at >= began + Duration::from_millis(4 * 50));
    let (rules, began) = (Rules { robots: true, ..hurried() }, world.site.age());
    join_all((0..3).map(|_| world.get(&rules, "/page/1"))).await;
    let seen = &world.site.seen()[5..];
    assert_eq!(seen[0].path, "/robots.txt");
    assert!(seen[3].at >= began + Duration::from_millis(2 * 300), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_are_at_a_host_at_a_time_than_the_job_says() {
    let world = World::new();
    let rules = Rules { concurrency: 3, ..hurried() };
    let all = join_all((0..20).map(|_| world.get(&rules, "/slow/20"))).await;
    assert!(all.into_iter().all(|fetched| kind(fetched) == "a response"));
    assert_eq!(world.site.most_at_once(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_has_not_changed_is_not_sent_again_to_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let store =
        Store::open(directory.path(), store::Limits { cache: 16_384, ..store::Limits::default() })
            .await
            .unwrap();
    let pages = Pages::new(Db::in_memory().unwrap(), store);
    let options = Options { private: loopback(), rate: None };
    let fetcher = Fetcher::new(options, Some(pages));
    let (site, me) = (Site::start(50, 7), PeerId::random());
    let ask = async |who, request: String| {
        let request = Request::parse(request.as_bytes()).unwrap();
        let mut visits = Vec::new();
        let page = fetcher.fetch(&hurried(), Some(who), &request, &mut visits).await.unwrap();
        (page, visits)
    };
    let page = |n: u32| format!(r#"{{"url": "{}"}}"#, site.url(&format!("/page/{n}")));
    let plain = || page(3);
    let (first, _) = ask(me, plain()).await;
    assert!(first.body.len() > INLINE_LIMIT, "or it is no block");
    let (again, visits) = ask(me, plain()).await;
    assert!(!first.revalidated && again.revalidated);
    assert_eq!((again.status, &again.body, &again.headers), (200, &first.body, &first.headers));
    // The archive has it whole, with the time it came, and that it has not changed.
    let [before, now] = &visits[..] else { panic!("{visits:?}") };
    assert_eq!((&before.body, before.fetched_ms), (&first.body, first.fetched_ms));
    assert_eq!((now.status.as_u16(), now.unchanged_since), (304, Some(first.fetched_ms)));
    // Another submitter asks as if nothing had been, and so does whoever asks in another way.
    let (other, _) = ask(PeerId::random(), plain()).await;
    assert!(!other.revalidated && other.body == first.body);
    let own = r#", "headers": {"If-None-Match": "\"7-3\""}}"#;
    let (own, visits) = ask(me, plain().replace('}', own)).await;
    assert_eq!((own.status, own.revalidated, visits.len()), (304, false, 1));
    let (french, _) =
        ask(me, plain().replace('}', r#", "headers": {"Accept-Language": "fr"}}"#)).await;
    assert!(!french.revalidated);
    // A body that is gone is sent again.
    for n in [11, 19, 27] {
        ask(me, page(n)).await;
    }
    let (whole, _) = ask(me, plain()).await;
    assert!(!whole.revalidated && whole.body == first.body);
    let seen = site.seen().into_iter().filter(|seen| seen.path == "/page/3");
    let asked = seen.map(|seen| seen.headers.get("if-none-match").cloned());
    let tag = || Some("\"7-3\"".to_owned());
    assert_eq!(asked.collect::<Vec<_>>(), [None, tag(), None, tag(), None, None]);
    // A short one is in the table, and comes from there.
    let (short, _) = ask(me, page(4)).await;
    let (again, _) = ask(me, page(4)).await;
    assert!(short.body.len() <= INLINE_LIMIT && again.revalidated && again.body == short.body);
}

/// A host that speaks TLS, and who vouches for it.
async fn tls_host(certified: &[&str]) -> (u16, CertificateDer<'static>) {
    let names: Vec<_> = certified.iter().map(|name| (*name).to_owned()).collect();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut request = [0; 4096];
                while stream.read(&mut request).await? > 0 {
                    let answer: &[u8] = match request.starts_with(b"GET /down ") {
                        true => b"HTTP/1.1 302 So\r\nLocation: http://good.test/\r\nContent-Length: 0\r\n\r\n",
                        false => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
                    };
                    stream.write_all(answer).await?;
                }
                io::Result::Ok(())
            });
        }
    });
    (port, cert.der().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_by_https_comes_from_who_is_vouched_for_and_from_nobody_else() {
    let world = World::new();
    for name in ["good.test", "other.test"] {
        world.names.mean(name, &[&["127.0.0.1"]]);
    }
    let (port, certificate) = tls_host(&["good.test", "127.0.0.1"]).await;
    let ask = async |fetcher: &Fetcher, name: &str| {
        let request = Request::get(&format!("https://{name}:{port}/")).unwrap();
        fetcher.fetch(&hurried(), None, &request, &mut Vec::new()).await
    };
    // The machine does not know it.
    assert_eq!(kind(ask(&world.fetcher, "good.test").await), "connect");
    let trusting = World::new();
    trusting.names.mean("good.test", &[&["127.0.0.1"]]);
    trusting.names.mean("other.test", &[&["127.0.0.1"]]);
    trusting.fetcher.shared.connections.trust(&certificate);
    for name in ["good.test", "good.test", "127.0.0.1"] {
        assert_eq!(ask(&trusting.fetcher, name).await.unwrap().body, "secret");
    }
    // What was asked for in secret is not asked for in the clear.
    let down =
        trusting.get_url(&hurried(), &format!("https://good.test:{port}/down")).await.unwrap();
    assert_eq!((down.status, down.location.as_deref()), (302, Some("http://good.test/")));
    let wrong_name = ask(&trusting.fetcher, "other.test").await.unwrap_err();
    assert_eq!(wrong_name.kind(), "connect", "{wrong_name}");
    // No TLS where TLS should be.
    let plain = one_answer_a_connection("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let plain = plain.replace("http:", "https:");
    assert_eq!(kind(trusting.get_url(&hurried(), &plain).await), "connect");
}
