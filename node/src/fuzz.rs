//! The decoders of the node that get bytes from outside, for `fuzz/`: of tokens, certificates and
//! tellings, of blocks and what they are made of, of pages from the network, of containers by hand, of submissions and the
//! words of requests. Those
//! of `ipdc-jobs` are in its own `fuzz`.

use std::str::FromStr;

use ipdc_jobs::fuzz::{Decoder, json};
use ipdc_jobs::ids::{CODEC_RAW, JobId, PeerId, cid_of};

use crate::broker::Sender;
use crate::broker::topics::{self, Confinement};
use crate::config::{Hours, Size};
use crate::view::{ByteRange, ContentPath, Submission};
use crate::{blocks, fetch, post, rental, swarm};

/// The decoders of this crate.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    let mut decoders = vec![
        Decoder { name: "submission", decode: submission, seeds: submission_seeds },
        Decoder { name: "letter", decode: post::read_letter, seeds: letter_seeds },
        Decoder { name: "topic", decode: topic, seeds: topic_seeds },
        Decoder { name: "word", decode: word, seeds: word_seeds },
    ];
    decoders.extend(swarm::fuzz::decoders());
    decoders.extend(blocks::fuzz::decoders());
    decoders.extend(fetch::fuzz::decoders());
    decoders.extend(rental::fuzz::decoders());
    decoders
}

/// As it comes over MQTT and HTTP.
fn submission(bytes: &[u8]) {
    if let Ok(submission) = serde_json::from_slice::<Submission>(bytes) {
        let _ = submission.key.as_deref().and_then(topics::submission);
    }
}

fn submission_seeds() -> Vec<Vec<u8>> {
    let cid = cid_of(CODEC_RAW, b"job");
    let by_cid = serde_json::json!({
        "kind": "mr", "job": cid.to_string(), "input": cid.to_string(), "workers": 3, "memo": false,
        "params": { "n": 1, "list": [1.5, null, "a"] }, "key": "mine",
    });
    let by_files = serde_json::json!({
        "kind": "mr", "files": { "job.toml": "kind = \"mr\"", "map.wat": "(module)" },
        "inputs": { "left": cid.to_string(), "right": "data/r" },
    });
    vec![json(&by_cid), json(&by_files)]
}

fn letter_seeds() -> Vec<Vec<u8>> {
    let letters = ipdc_jobs::fuzz::decoders().into_iter().filter_map(|decoder| {
        let named = matches!(decoder.name, "to_worker" | "to_controller");
        let wrap = |body: Vec<u8>| [b"{\"", decoder.name.as_bytes(), b"\":", &body, b"}"].concat();
        named.then(|| (decoder.seeds)().into_iter().map(wrap).collect::<Vec<_>>())
    });
    letters.flatten().collect()
}

/// A topic and a filter, each a line: what any client may name.
fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (topic, filter) = text.split_once('\n').unwrap_or((text, "#"));
    let _ = (topics::job_to_cancel(topic), topics::peer_about_jobs(topic));
    let _ = topics::covers(filter, topic);
    assert!(topics::covers(topic, topic) || topic.contains('#') || topic.contains('+'));
    for sender in [Sender::Local, Sender::Peer(PEER.parse().unwrap_or_else(|_| PeerId::random()))] {
        let rules = Confinement::of(sender);
        let _ = (rules.may_publish(topic, true), rules.may_publish(topic, false));
        let _ = (rules.may_subscribe(filter), rules.may_be_answered_at(topic));
    }
}

/// Somebody.
const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

fn topic_seeds() -> Vec<Vec<u8>> {
    let job = JobId::of_manifest(b"job");
    let seeds = [
        format!("{}\nipdc/v1/jobs/+", topics::cancel(job)),
        format!("ipdc/v1/from/{PEER}/jobs\n$share/group/ipdc/v1/to/{PEER}/#"),
        format!("ipdc/v1/to/{PEER}/x\n+/+/#"),
        "$SYS/x\n#".to_owned(),
    ];
    seeds.map(String::into_bytes).into()
}

/// What people and programs write into requests and settings. What is read and written again reads as the same.
fn word(bytes: &[u8]) {
    fn both_ways<T: FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) {
        if let Ok(read) = text.parse::<T>() {
            let written = read.to_string();
            assert_eq!(written.parse().ok(), Some(read), "{written}");
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    both_ways::<ByteRange>(text);
    both_ways::<ContentPath>(text);
    both_ways::<JobId>(text);
    both_ways::<Size>(text);
    both_ways::<Hours>(text);
}

fn word_seeds() -> Vec<Vec<u8>> {
    let cid = cid_of(CODEC_RAW, b"job");
    let seeds = [
        "0-499".to_owned(),
        "9-".to_owned(),
        format!("/ipfs/{cid}/dir/file"),
        JobId::of_manifest(b"job").to_string(),
        "1.5 GiB".to_owned(),
        "64 kB".to_owned(),
        "22:00-06:30".to_owned(),
    ];
    seeds.map(String::into_bytes).into()
}
