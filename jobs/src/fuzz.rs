//! The decoders of this crate that get bytes from outside, for `fuzz/`: whatever comes, all that they
//! may do with it is return, soon and without much memory.
//!
//! Each has seeds, which our own encoders make: what is almost right leads a decoder astray sooner
//! than noise.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::Code;
use crate::fetch::{Robots, Rules};
use crate::ids::{Attempt, CODEC_RAW, Cid, Epoch, FileRef, JobId, PeerId, TaskId, cid_of};
use crate::kind::{JobFiles, KINDS};
use crate::manifest::{Limits, Manifest, SignedManifest, VERSION};
use crate::message::{
    Assignment, ControllerNote, Cost, FailureClass, Held, Input, Outcome, Payload, Proof, Report,
    ToController, ToWorker, Wanted, WorkerOrder,
};
use crate::steps::{AsStep, Earlier};
use crate::{cl, mr, render, spec};

/// A decoder.
pub struct Decoder {
    /// Its name, and that of the folder of its inputs.
    pub name: &'static str,
    /// Decodes anything.
    pub decode: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// The decoders of this crate.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    let mut decoders = vec![
        Decoder { name: "job_toml", decode: job_toml, seeds: job_toml_seeds },
        Decoder { name: "manifest", decode: manifest, seeds: manifest_seeds },
        Decoder { name: "to_worker", decode: same_again::<ToWorker>, seeds: to_worker_seeds },
        Decoder {
            name: "to_controller",
            decode: same_again::<ToController>,
            seeds: to_controller_seeds,
        },
        Decoder { name: "inputs", decode: same_again::<Vec<Input>>, seeds: inputs_seeds },
        Decoder { name: "fetch_rules", decode: fetch_rules, seeds: fetch_rules_seeds },
        Decoder { name: "robots", decode: robots, seeds: robots_seeds },
    ];
    decoders.extend(mr::fuzz::decoders());
    decoders.extend(cl::fuzz::decoders());
    decoders.extend(render::fuzz::decoders());
    decoders
}

/// Reads JSON. What could be read and is written again reads as the same.
///
/// # Panics
/// When it does not.
pub fn same_again<T: DeserializeOwned + Serialize + PartialEq + Debug>(json: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(json) else { return };
    let written = serde_json::to_vec(&read).expect("what was JSON encodes");
    let again: T = serde_json::from_slice(&written).expect("what was written reads back");
    assert_eq!(again, read);
}

/// The JSON of a value.
///
/// # Panics
/// When it has none.
#[must_use]
pub fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a seed encodes")
}

/// A job directory in which everything is found.
struct AnyDirectory;

impl JobFiles for AnyDirectory {
    fn find(&self, path: &str) -> Option<FileRef> {
        Some(file(path.as_bytes()))
    }

    fn read(&self, _: &FileRef, _: u64) -> io::Result<Bytes> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn head(&self, _: &FileRef, _: usize) -> io::Result<Bytes> {
        Ok(Bytes::from_static(b"#!/bin/sh\n"))
    }

    fn paths(&self) -> Vec<String> {
        ["map.py", "deep/other.py"].map(str::to_owned).into()
    }

    fn interpreter(&self) -> Result<FileRef, String> {
        Ok(file(b"python"))
    }

    fn image(&self, name: &str) -> Result<Cid, String> {
        Ok(file(name.as_bytes()).cid)
    }

    fn check(&self, _: &Code, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn job_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (params, inputs) = (serde_json::Map::new(), BTreeMap::new());
    let nothing = spec::Overrides { input: None, params: &params, inputs: &inputs };
    for (spec, config) in
        spec::check(text, spec::FILE, nothing, &AnyDirectory).into_iter().flatten()
    {
        let kind = crate::kind::find(&spec.kind).expect("what was checked has a kind");
        // What we freeze every worker takes.
        assert!(!kind.needs(&config).runtimes.is_empty());
    }
}

fn job_toml_seeds() -> Vec<Vec<u8>> {
    let templates = KINDS.iter().flat_map(|kind| kind.templates());
    let files = templates.flat_map(|template| template.files);
    let tomls = files.filter(|(path, _)| *path == spec::FILE);
    let whole = "kind = \"mr\"\nmap = \"a.wasm\"\nreduce = \"sort\"\norder = \"number\"\ndescending = true\n\
                 partitions = 3\npartition = \"range\"\nmax_bad_records = 2\nrecord = 100\nworkers = 7\nmemo = false\n\
                 [limits]\nmemory = \"64MiB\"\ntime = \"90s\"\noutput = \"1GiB\"\n[params]\nn = 1\nlist = [1.5, \"a\", true]\n\
                 [files]\nstop = \"stop.txt\"\n[inputs]\nleft = \"l\"\nright = \"r\"\n";
    let steps = "workers = 2\n[params]\nn = 1\n[[step]]\nname = \"a\"\nkind = \"cl\"\nrun = \"a.wasm\"\nitems = \"l\"\n\
                 [[step]]\nname = \"b\"\nkind = \"mr\"\nmap = \"a.wasm\"\n[step.inputs]\nall = { step = \"a\" }\n\
                 one = { step = \"a\", path = \"outputs/1\" }\n[step.limits]\ntime = \"9s\"\n";
    let deep = |open: &str, close: &str| {
        format!(
            "kind = \"mr\"\nmap = \"a.wasm\"\n[params]\nx = {}{}",
            open.repeat(500),
            close.repeat(500)
        )
    };
    let dotted = format!("kind = \"mr\"\n[{}a]\nb = 1", "a.".repeat(2000));
    let mut seeds: Vec<_> = tomls.map(|(_, text)| text.as_bytes().to_vec()).collect();
    seeds.extend(
        [whole.to_owned(), steps.to_owned(), deep("[", "]"), deep("{a=", "}"), dotted]
            .map(String::into_bytes),
    );
    seeds
}

fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        claims(&manifest);
    }
    let Ok(signed) = serde_json::from_slice::<SignedManifest>(bytes) else { return };
    let _ = signed.job();
    if let Ok(manifest) = signed.open() {
        claims(&manifest);
    }
}

/// As they are frozen in a job's configuration.
fn fetch_rules(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    let Ok(rules) = Rules::read(&value) else { return };
    let _ = (rules.allows_host("www.example.org"), rules.interval(), rules.agent.product());
    let frozen = serde_json::to_value(&rules).expect("rules encode");
    assert_eq!(Rules::read(&frozen).expect("what is frozen reads back"), rules);
}

fn fetch_rules_seeds() -> Vec<Vec<u8>> {
    let seed = serde_json::json!({
        "agent": "wordbot/1.0 (+https://example.org/bot)", "hosts": ["example.org", "*.example.org"],
        "private": ["127.0.0.0/8", "::1/128"], "robots": true, "rate": 0.5, "concurrency": 2,
        "max_body": 1024, "timeout_ms": 5000, "redirects": 3,
    });
    vec![json(&seed)]
}

/// A path on the first line, and what a host says of it.
fn robots(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (path, text) = bytes.split_at(end);
    let robots = Robots::parse(text, "wordbot");
    let path = String::from_utf8_lossy(path);
    assert!(robots.delay().is_none_or(|delay| delay <= Duration::from_secs(3_600)));
    let _ = (robots.allows(&path), robots.allows("/"));
    assert!(robots.allows("/robots.txt"));
}

fn robots_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "/a/b.gif?q\nUser-agent: *\nDisallow: /*.gif$\nAllow: /a/\nCrawl-delay: 2.5\n".to_owned(),
        "/%E3%83%84\nUser-agent: x\r\nUser-agent: wordbot/2 # c\r\nDisallow: /%e3%83%84*\r\n"
            .to_owned(),
        format!("/{}\nUser-agent: *\nDisallow: /{}b$", "a".repeat(2_000), "*a".repeat(500)),
    ];
    seeds.map(String::into_bytes).into()
}

/// What a worker looks at before it believes more.
fn claims(manifest: &Manifest) {
    if let Some(kind) = crate::kind::find(&manifest.kind) {
        let _ = kind.needs(&manifest.config);
    }
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let keypair =
        libp2p_identity::Keypair::ed25519_from_bytes([7; 32]).expect("32 bytes are a key");
    let config = serde_json::json!({
        "map": file(b"map"), "combine": null, "reduce": null, "partitions": 0, "params": {}, "files": {},
    });
    let manifest = Manifest {
        v: VERSION,
        kind: "mr".into(),
        code: file(b"code").cid,
        input: file(b"input").cid,
        config,
        limits: Limits::default(),
        memo: false,
        workers: Some(3),
        submitter: keypair.public().to_peer_id(),
        roster: vec![keypair.public().to_peer_id()],
        key: "key".into(),
        submitted_ms: 1,
        step: None,
    };
    let signed = SignedManifest::sign(&manifest, &keypair).expect("a small manifest is signed");
    let earlier = Earlier {
        step: "before".into(),
        job: JobId::of_manifest(b"before"),
        result: file(b"result").cid,
    };
    let step = AsStep {
        name: "index".into(),
        place: 2,
        of: 3,
        steps: file(b"steps"),
        earlier: vec![earlier],
    };
    let in_a_row = Manifest { step: Some(step), ..manifest.clone() };
    vec![json(&manifest), json(&signed), json(&in_a_row)]
}

/// A file of these bytes.
pub(crate) fn file(bytes: &[u8]) -> FileRef {
    FileRef { cid: cid_of(CODEC_RAW, bytes), len: bytes.len() as u64 }
}

fn peer() -> PeerId {
    let keypair =
        libp2p_identity::Keypair::ed25519_from_bytes([8; 32]).expect("32 bytes are a key");
    keypair.public().to_peer_id()
}

fn attempt() -> Attempt {
    Attempt { epoch: Epoch(2), n: 3 }
}

fn inputs() -> Vec<Input> {
    let payloads =
        [Payload::Inline(Bytes::from_static(b"\x00\xff")), Payload::File(file(b"output"))];
    payloads.map(|payload| Input { task: TaskId(4), payload, holders: vec![peer()] }).into()
}

fn inputs_seeds() -> Vec<Vec<u8>> {
    vec![json(&inputs())]
}

fn to_worker_seeds() -> Vec<Vec<u8>> {
    let assignment = Assignment {
        task: TaskId(1),
        attempt: attempt(),
        proof: Proof(7),
        body: Payload::Inline(Bytes::from_static(b"body")),
        inputs: Payload::File(file(b"inputs")),
        holders: vec![peer()],
    };
    let (manifest, holders) = (file(b"manifest"), vec![peer()]);
    let attempts = vec![(TaskId(1), attempt())];
    let orders = [
        WorkerOrder::Assign { manifest, lease_ms: 5_000, assignments: vec![assignment] },
        WorkerOrder::Revoke { attempts: attempts.clone() },
        WorkerOrder::Settled { attempts },
        WorkerOrder::Query,
        WorkerOrder::Store { manifest, roots: vec![manifest.cid], holders: holders.clone() },
        WorkerOrder::Fetch { files: vec![Wanted { file: manifest, holders }] },
        WorkerOrder::End,
    ];
    let message = |body| ToWorker { job: JobId::of_manifest(b"job"), epoch: Epoch(2), body };
    orders.map(|body| json(&message(body))).into()
}

fn to_controller_seeds() -> Vec<Vec<u8>> {
    let (task, attempt, proof) = (TaskId(1), attempt(), Proof(7));
    let log = crate::log::Log { lines: ["a line".to_owned()].into(), left_out: 3 };
    let counters = BTreeMap::from([("lines".to_owned(), 9)]);
    let outcomes = [
        Outcome::Done {
            output: Payload::File(file(b"out")),
            memoized: true,
            counters,
            log: log.clone(),
        },
        Outcome::Failed {
            class: FailureClass::Guest,
            code: "IPDC-5301".into(),
            message: "it trapped".into(),
            log,
        },
        Outcome::InputLost { tasks: vec![task], message: "gone".into() },
        Outcome::Returned { reason: "stopping".into() },
    ];
    let cost = Cost { wall_ms: 1, bytes_in: 2, bytes_out: 3, fetched: 4 };
    let reports = outcomes.map(|outcome| Report { task, attempt, proof, outcome, cost }).into();
    let held = vec![Held { task, attempt, proof, running: true, done: 1, total: 2, item: None }];
    let notes = [
        ControllerNote::Renew { held, free_slots: 2, granted: Some(1) },
        ControllerNote::Report { reports },
        ControllerNote::Refused { reason: "paused".into() },
        ControllerNote::Stored { roots: vec![file(b"root").cid], error: None },
        ControllerNote::Gone,
    ];
    let message = |body| ToController { job: JobId::of_manifest(b"job"), epoch: Epoch(2), body };
    notes.map(|body| json(&message(body))).into()
}
