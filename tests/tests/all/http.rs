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
