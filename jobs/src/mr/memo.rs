//! What determines a map-reduce task's output, for the memo, and which files an output names.

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ids::FileRef;
use crate::kind::Lasting;
use crate::memo::digest_of_inputs;
use crate::message::{Input, Payload};

use super::plan::Body;
use super::reduce;
use super::shuffle::{MapOutput, Run};

/// The version of what map and reduce tasks write. A change that can show in an output of either
/// (the shuffle's form, a built-in, where lines end) raises it.
const VERSION: u32 = 1;

/// The parts of the configuration that a map task's output does not depend on.
const NOT_OF_MAP: &[&str] = &["reduce"];

/// The parts that a reduce task's output does not depend on, its inputs being named by themselves.
const NOT_OF_REDUCE: &[&str] = &["map", "combine"];

/// What determines the output of the task, as bytes.
pub(super) fn input(config: &Value, body: &[u8], inputs: &[Input]) -> Option<Vec<u8>> {
    let body = Body::decode(body)?;
    let (without, what) = match &body {
        Body::Map(split) => (NOT_OF_MAP, split.name()),
        Body::Reduce(partition) => {
            let mut hash = Sha256::new();
            hash.update(partition.to_be_bytes());
            hash.update(digest_of_inputs(inputs));
            (NOT_OF_REDUCE, hash.finalize().into())
        }
    };
    let mut config = config.as_object()?.clone();
    config.retain(|key, _| !without.contains(&key.as_str()));
    let stage = u8::from(matches!(body, Body::Reduce(_)));
    let mut text = [&VERSION.to_be_bytes()[..], &[stage], &what].concat();
    // A map of serde_json is sorted by key: the same configuration gives the same bytes.
    serde_json::to_writer(&mut text, &config).ok()?;
    Some(text)
}

/// The files of an output.
pub(super) fn files(body: &[u8], output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
    match Body::decode(body)? {
        Body::Map(_) => {
            let runs = MapOutput::decode(output)?.runs.into_iter();
            let files = runs.filter_map(|run| match run {
                Run::File(file) => Some((file, Lasting::Scratch)),
                Run::Empty | Run::Inline(_) => None,
            });
            Some(files.collect())
        }
        Body::Reduce(_) => {
            let file = reduce::output_of(&Payload::Inline(output.clone()))?;
            Some(vec![(file, Lasting::Kept)])
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::{CODEC_RAW, PeerId, TaskId, cid_of};
    use crate::manifest::Limits;
    use crate::memo::MemoKey;
    use crate::mr::MapReduce;

    fn config() -> Value {
        json!({"map": "m", "combine": null, "reduce": "sum", "partitions": 2, "params": {"n": 1}})
    }

    fn map(offset: u64) -> Vec<u8> {
        let cid = cid_of(CODEC_RAW, b"input");
        let file = serde_json::to_value(FileRef { cid, len: 100 }).unwrap();
        json!({"map": {"file": file, "offset": offset, "len": 10}}).to_string().into_bytes()
    }

    fn key(config: &Value, body: &[u8], inputs: &[Input]) -> MemoKey {
        MemoKey::of(&MapReduce, config, &Limits::default(), body, inputs).unwrap()
    }

    fn with(name: &str, value: Value) -> Value {
        let mut config = config();
        config[name] = value;
        config
    }

    #[test]
    fn a_map_task_is_named_by_all_but_the_reducer() {
        let same = key(&config(), &map(0), &[]);
        assert_eq!(key(&with("reduce", json!("max")), &map(0), &[]), same);
        let others = [
            with("map", json!("other")),
            with("combine", json!("sum")),
            with("partitions", json!(3)),
            with("params", json!({"n": 2})),
            with("a key of tomorrow", json!(1)),
        ];
        for other in &others {
            assert_ne!(key(other, &map(0), &[]), same, "{other}");
        }
        assert_ne!(key(&config(), &map(10), &[]), same);
        let limits = Limits { memory: 1, ..Limits::default() };
        assert_ne!(MemoKey::of(&MapReduce, &config(), &limits, &map(0), &[]), Some(same));
    }

    #[test]
    fn a_reduce_task_is_named_by_what_it_reads_whoever_made_it() {
        let input = |text: &'static str, task| Input {
            task: TaskId(task),
            payload: Payload::Inline(Bytes::from_static(text.as_bytes())),
            holders: vec![PeerId::random()],
        };
        let body = br#"{"reduce":1}"#;
        let same = key(&config(), body, &[input("a", 0), input("b", 1)]);
        assert_eq!(key(&config(), body, &[input("a", 5), input("b", 6)]), same);
        let other_map = with("map", json!("other"));
        assert_eq!(key(&other_map, body, &[input("a", 0), input("b", 1)]), same);
        assert_ne!(key(&config(), body, &[input("b", 0), input("a", 1)]), same);
        assert_ne!(key(&config(), body, &[input("ab", 0), input("", 1)]), same);
        assert_ne!(key(&config(), br#"{"reduce":0}"#, &[input("a", 0), input("b", 1)]), same);
    }

    #[test]
    fn what_the_kind_did_not_write_has_no_name() {
        assert_eq!(input(&config(), b"nonsense", &[]), None);
        assert_eq!(files(b"nonsense", &Bytes::new()), None);
        assert_eq!(files(&map(0), &Bytes::from_static(b"nonsense")), None);
    }
}
