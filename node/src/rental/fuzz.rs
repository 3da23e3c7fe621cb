//! The decoders of `/ipdc/containers/1`, of either side, and of what a process in a container sends.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use bytes::Bytes;
use ipdc_jobs::engine::Takes;
use ipdc_jobs::fuzz::{Decoder, json};
use ipdc_jobs::ids::{CODEC_RAW, cid_of};

use super::agent;
use super::wire::{Answer, Ask, Frame, Order};
use crate::blocks::fuzz::block_on;
use crate::problem::Problem;
use crate::view::{Carried, ContainerId, ContainerRequest, TerminalSize};

pub(crate) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "container_ask", decode: asks, seeds: ask_seeds },
        Decoder { name: "container_answer", decode: answers, seeds: answer_seeds },
        Decoder { name: "container_frame", decode: frames, seeds: frame_seeds },
        Decoder { name: "container_request", decode: requests, seeds: request_seeds },
        Decoder { name: "datagram", decode: datagrams, seeds: datagram_seeds },
    ]
}

fn asks(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Ask>(bytes);
}

fn ask_seeds() -> Vec<Vec<u8>> {
    let id = ContainerId(7);
    let order = Order {
        id,
        name: "base:1".to_owned(),
        image: cid_of(CODEC_RAW, b"image"),
        command: vec!["sleep".to_owned(), "1".to_owned()],
        env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        takes: Takes::default(),
        memory: 1 << 20,
        disk: 1,
        time_ms: 1,
        network: false,
        root: true,
        group: Some("web".to_owned()),
    };
    let terminal = Some(TerminalSize { rows: 24, columns: 80 });
    let (command, port) = (vec!["true".to_owned()], NonZeroU16::MAX);
    let asks = [
        Ask::Run(Box::new(order)),
        Ask::List,
        Ask::Extend { id, time_ms: 1 },
        Ask::Remove { id },
        Ask::Logs { id, follow: true },
        Ask::Exec { id, command, terminal },
        Ask::Port { id, port, carries: Carried::Udp },
    ];
    asks.iter().map(json).collect()
}

fn answers(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Answer>(bytes);
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let problem = Problem {
        code: "IPDC-5811".to_owned(),
        message: "there is none".to_owned(),
        causes: Vec::new(),
        help: None,
        details: Vec::new(),
    };
    let answers = [
        Answer::Fetched(1),
        Answer::Containers(Vec::new()),
        Answer::Open,
        Answer::Refused(problem),
    ];
    answers.iter().map(json).collect()
}

fn frames(mut stream: &[u8]) {
    while let Ok(Some(frame)) = block_on(Frame::read(&mut stream)) {
        let mut written = Vec::new();
        let _ = block_on(frame.write(&mut written));
        let again = block_on(Frame::read(&mut written.as_slice())).ok().flatten();
        assert_eq!(again, Some(frame));
    }
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let mut stream = Vec::new();
    for frame in [
        Frame::Bytes(Bytes::from_static(b"out")),
        Frame::Err(Bytes::from_static(b"err")),
        Frame::Eof,
        Frame::Resize(TerminalSize { rows: 1, columns: 2 }),
        Frame::Exit(Some(3)),
        Frame::Exit(None),
        Frame::Broken("why".to_owned()),
    ] {
        let _ = block_on(frame.write(&mut stream));
    }
    vec![stream]
}

fn requests(bytes: &[u8]) {
    let _ = serde_json::from_slice::<ContainerRequest>(bytes);
}

fn request_seeds() -> Vec<Vec<u8>> {
    let request = serde_json::json!({
        "image": "base:1", "command": ["true"], "env": { "A": "b" }, "cpus": 1, "memory": 1,
        "ports": [{ "port": 80, "local": 8080, "carries": "udp" }], "group": "web", "root": true,
    });
    vec![json(&request)]
}

fn datagrams(mut stream: &[u8]) {
    while let Ok(Some(_)) = block_on(agent::read_datagram(&mut stream)) {}
}

fn datagram_seeds() -> Vec<Vec<u8>> {
    let mut stream = Vec::new();
    for datagram in [&b"one"[..], b"", b"two"] {
        let _ = block_on(agent::write_datagram(&mut stream, datagram));
    }
    vec![stream]
}
