//! The decoders of this kind: of what controllers say of tasks, and of what workers say they gave.

use crate::fuzz::{Decoder, file, json, same_again};

use super::config::Config;
use super::item::{Body, Found, Items};
use super::output::{End, Ended, Given, Output, Ran};
use super::plan::Group;

/// Items of the tasks that outputs are held against.
const ITEMS: u32 = 8;

pub(crate) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "cl_config", decode: config, seeds: config_seeds },
        Decoder { name: "cl_body", decode: body, seeds: body_seeds },
        Decoder { name: "cl_output", decode: output, seeds: output_seeds },
        Decoder { name: "cl_gift", decode: gift, seeds: gift_seeds },
    ]
}

fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    if let Ok(config) = Config::read(&value) {
        let _ = (config.given(), config.needs());
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    let small = serde_json::json!({
        "run": file(b"run"), "items": "input", "retries": 2, "inline": 1024, "params": {}, "files": {},
    });
    let mut large = small.clone();
    for (key, value) in [
        ("items", serde_json::json!({ "range": { "from": 3, "to": 9 } })),
        ("open", true.into()),
        (
            "enqueue",
            serde_json::json!({
                "depth": 3, "items": 9, "hosts": ["*.example.org"], "prefix": ["http"], "only": ["[a-z]+$"],
                "except": ["x{3}"],
            }),
        ),
        (
            "fetch",
            serde_json::json!({
                "agent": "bot/1.0 (+https://example.org)", "robots": true, "rate": 1.0, "concurrency": 1,
                "max_body": 1024, "timeout_ms": 1000, "redirects": 5,
            }),
        ),
    ] {
        large[key] = value;
    }
    vec![json(&small), json(&large)]
}

fn body(bytes: &[u8]) {
    same_again::<Body>(bytes);
    if let Some(Body::Run { items, .. }) = Body::decode(bytes) {
        // A manifest's worth of them; a task has as many as its controller wrote down.
        for at in 0..items.count().min(ITEMS) {
            let _ = items.number(at);
        }
        let _ = (items.depth(), items.texts().len());
    }
}

fn all_items() -> Vec<Items> {
    let files = vec![("a".to_owned(), file(b"a")), ("b/c".to_owned(), file(b"b"))];
    let found = vec![Found { n: 7, text: "http://a.example/".to_owned() }];
    let (at, len, name) = (10, 90, [7; 32]);
    vec![
        Items::Lines { file: file(b"list"), at, len, skip: 1, first: 3, count: ITEMS, name },
        Items::Range { first: 0, from: 5, count: ITEMS },
        Items::Files { first: 2, files },
        Items::Texts { first: 1, texts: vec!["x".to_owned(), "ß".to_owned()] },
        Items::Found { depth: 2, found },
    ]
}

fn body_seeds() -> Vec<Vec<u8>> {
    let bodies = all_items().into_iter().map(|items| Body::Run { items, tries: 1 });
    bodies.chain([Body::Produce]).map(|body| json(&body)).collect()
}

/// What was held against its task is of use: rows, files and what follows can be made of it.
fn output(bytes: &[u8]) {
    same_again::<Output>(bytes);
    let items = Items::Range { first: 0, from: 0, count: ITEMS };
    let body = Body::Run { items, tries: 0 };
    let Some(output) = Output::of(&body, bytes) else { return };
    let _ = output.files();
    let (Body::Run { items, .. }, Output::Ran(ran)) = (&body, &output) else { return };
    let left: u32 =
        items.without(ran.ended.iter().map(|ended| ended.at)).iter().map(Items::count).sum();
    assert_eq!(left as usize + ran.ended.len(), ITEMS as usize, "each item ended or is left");
    for ended in &ran.ended {
        let _ = ended.result(items);
    }
}

fn output_seeds() -> Vec<Vec<u8>> {
    let ends = [
        End::Output(Given::Text("x\ty".to_owned())),
        End::Output(Given::File(file(b"out"))),
        End::Error { code: "IPDC-5301".to_owned(), message: "it trapped".to_owned() },
    ];
    let ended = |(at, end)| {
        let (log, named) = (vec!["a line".to_owned()], vec!["http://a.example/1".to_owned()]);
        Ended {
            at,
            item: at.to_string(),
            ms: 3,
            log,
            named,
            files: std::collections::BTreeMap::new(),
            end,
        }
    };
    let ran = Ran { ended: (0..).zip(ends).map(ended).collect(), archive: Some(file(b"warc")) };
    let group = Group { at: 0, len: 9, first: 0, count: 3, name: [1; 32] };
    let produced =
        Output::Produced { list: file(b"list"), groups: vec![group], texts: vec!["a".to_owned()] };
    vec![json(&Output::Ran(ran)), json(&produced)]
}

fn gift(bytes: &[u8]) {
    let _ = super::course::texts(&bytes.to_vec().into());
}

fn gift_seeds() -> Vec<Vec<u8>> {
    vec![b"[\"a\", {\"x\": 1}, 7, null]".to_vec()]
}
