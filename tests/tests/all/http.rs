//! Who may use a node's HTTP, and what it says to what is wrong.

use std::io::{Read, Write};
use std::net::TcpStream;

use ipdc_tests::api::Api;
use ipdc_tests::{Node, SOON};
use serde_json::json;

#[test]
fn only_the_holder_of_the_token_is_served() {
    let mut node = Node::first();
    let status = node.start().status();
    let address = status["http"].as_str().unwrap();
    for token in ["", "guess"] {
        let answer = Api::new(address, token).get("/status");
        assert!([401, 403].contains(&answer.status), "token `{token}`: {answer:?}");
        assert!(
            answer.json()["error"]["code"].as_str().unwrap().starts_with("IPDC-7"),
            "{answer:?}"
        );
    }
    assert_eq!(node.api().get("/status").status, 200);
}

#[test]
fn a_connection_is_kept_when_a_request_had_a_body_that_it_did_not_need() {
    let mut node = Node::first();
    let address = node.start().status()["http"].as_str().unwrap().to_owned();
    let token = std::fs::read_to_string(node.home().join("api.token")).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    for path in ["resume", "gc", "resume", "gc"].repeat(10) {
        let (host, token) = (format!("Host: {address}"), token.trim());
        let auth = format!("Authorization: Bearer {token}");
        write!(stream, "POST /v1/{path} HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Length: 2\r\n\r\n")
            .unwrap();
        stream.write_all(b"{}").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut byte = [0];
            let read = stream.read(&mut byte).unwrap();
            assert_eq!(read, 1, "closed after {}", String::from_utf8_lossy(&answer));
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn a_page_in_a_browser_cannot_reach_it_by_another_name_or_from_another_origin() {
    let mut node = Node::first();
    let status = node.start().status();
    let address = status["http"].as_str().unwrap().to_owned();
    let token = std::fs::read_to_string(node.home().join("api.token")).unwrap();
    let ask = |headers: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let token = token.trim();
        write!(stream, "GET /v1/status HTTP/1.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask(&format!("Host: {address}\r\n")), "200");
    assert_eq!(&ask("Host: rebound.example\r\n")[..1], "4");
    assert_eq!(&ask(&format!("Host: {address}\r\nOrigin: https://evil.example\r\n"))[..1], "4");
}

#[test]
fn broken_json_and_wrong_submissions_are_refused_and_change_nothing() {
    let mut node = Node::first();
    node.start();
    let api = node.api();
    let broken = api
        .call("POST", "/jobs", &[("content-type", "application/json")], "{\"kind\": \"mr\", ")
        .unwrap();
    assert_eq!(broken.status / 100, 4, "{broken:?}");
    assert!(broken.json()["error"]["code"].as_str().unwrap().starts_with("IPDC-"));
    for wrong in [
        json!({}),
        json!({"kind": "mr"}),
        json!({"kind": 7}),
        json!([1]),
        json!({"kind": "mr", "job": "bafnonsense"}),
    ] {
        let answer = api.post("/jobs", &wrong);
        assert_eq!(answer.status / 100, 4, "{wrong}: {answer:?}");
        assert!(!answer.json()["error"]["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(api.get("/jobs/aaaaaaaaaaaaaaaaaaaaaaaaaa").status, 404);
    assert_eq!(api.get("/nothing").status, 404);
    assert_eq!(api.get("/jobs").ok(), json!([]));
}

#[test]
fn bytes_come_whole_or_by_range() {
    let mut node = Node::first();
    node.start();
    let api = node.api();
    let added = api.call("POST", "/files", &[], "0123456789").unwrap().ok();
    assert_eq!(added["size"], 10);
    let path = format!("/cat/{}", added["cid"].as_str().unwrap());
    assert_eq!(api.get(&path).body, b"0123456789");
    let range = api.call("GET", &path, &[("range", "bytes=2-4")], ()).unwrap();
    assert_eq!((range.status, range.body.as_slice()), (206, b"234".as_slice()));
}

/// A connection on which a test says what it likes.
struct Raw {
    stream: TcpStream,
    address: String,
    token: String,
}

impl Raw {
    fn of(node: &Node, address: &str) -> Raw {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let token = std::fs::read_to_string(node.home().join("api.token")).unwrap();
        Raw { stream, address: address.to_owned(), token: token.trim().to_owned() }
    }

    /// Asks, and gives the answer's status and error code. The connection stays open.
    fn ask(&mut self, request: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let Raw { stream, address, token } = self;
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Who has said no may hang up.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            let length =
                text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
            if let (Some(length), Some(got)) = (length, body)
                && got >= length.parse().unwrap()
            {
                let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
                let status = text.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, code.unwrap_or_default().to_owned());
            }
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "hung up after {text}");
            answer.extend_from_slice(&piece[..read]);
        }
    }
}

#[test]
fn a_body_that_is_longer_than_its_path_takes_is_refused() {
    let mut node = Node::first();
    let status = node.start().status();
    let address = status["http"].as_str().unwrap();
    let json = "Content-Type: application/json\r\n";
    for (path, limit) in [("/v1/jobs", 1 << 20), ("/v1/invites", 64 << 10), ("/v1/stop", 64 << 10)]
    {
        // JSON that would be right, but for its length.
        let body = format!("{{{}}}", " ".repeat(limit));
        let answer = Raw::of(&node, address).ask(&format!("POST {path}"), json, body.as_bytes());
        assert_eq!(answer, (413, "IPDC-7007".to_owned()), "{path}");
    }
    let file = vec![b'x'; 3 << 20];
    let answer = Raw::of(&node, address).ask("POST /v1/files", "", &file);
    assert_eq!(answer, (200, String::new()), "a file may have any length");
    assert_eq!(node.api().get("/status").status, 200);
}

#[test]
fn a_crowd_that_says_nothing_or_half_a_request_keeps_nobody_out() {
    let mut node = Node::first();
    let status = node.start().status();
    let address = status["http"].as_str().unwrap();
    let mut crowd = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(address).unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: 127").unwrap();
        }
        crowd.push(stream);
        if n % 100 == 99 {
            let answer = Raw::of(&node, address).ask("GET /v1/status", "", &[]);
            assert_eq!(answer, (200, String::new()));
        }
    }
    let first = &mut crowd[0];
    first.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = Vec::new();
    let _ = first.read_to_end(&mut rest);
    assert!(rest.is_empty(), "who waited longest was hung up on");
}

#[test]
fn there_are_as_many_connections_as_there_may_be_and_no_more() {
    let mut node = Node::first();
    let status = node.start().status();
    let address = status["http"].as_str().unwrap();
    let mut open = Vec::new();
    let refused = loop {
        let mut raw = Raw::of(&node, address);
        let answer = raw.ask("GET /v1/pins", "", &[]);
        if answer.0 != 200 {
            break answer;
        }
        open.push(raw);
        assert!(open.len() <= 256, "there is an end to it");
    };
    assert_eq!(refused, (503, "IPDC-7008".to_owned()));
    assert!(open.len() > 200, "only {} were served", open.len());
    assert_eq!(open[0].ask("GET /v1/pins", "", &[]), (200, String::new()), "who is in stays in");
    open.clear();
    ipdc_tests::eventually(SOON, "places that were left are free again", || {
        let answer = Raw::of(&node, address).ask("GET /v1/pins", "", &[]);
        (answer.0 == 200).then_some(())
    });
}

#[test]
#[ignore = "a minute: make test-all"]
fn a_client_that_dawdles_over_its_headers_or_falls_silent_is_hung_up_on() {
    let mut node = Node::first();
    let status = node.start().status();
    let address = status["http"].as_str().unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /v1/status HTTP/1.1\r\n").unwrap();
    let mut idle = Raw::of(&node, address);
    assert_eq!(idle.ask("GET /v1/pins", "", &[]).0, 200);
    let since = std::time::Instant::now();
    for stream in [&mut slow, &mut idle.stream] {
        stream.set_read_timeout(Some(SOON * 2)).unwrap();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        assert!(read.is_ok() && rest.is_empty(), "{read:?}");
        assert!(since.elapsed() > std::time::Duration::from_secs(50));
    }
}
