//! What determines the output of a map-reduce task, or of a whole job, for the memo, and which files an output names.

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ids::FileRef;
use crate::kind::Lasting;
use crate::memo::digest_of_inputs;
use crate::message::{Input, Payload};

use super::inputs::Group;
use super::lines;
use super::plan::Body;
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
    let mut hash = Sha256::new();
    let (stage, without) = match &body {
        Body::Sample(groups) => {
            groups.iter().for_each(|group| add_group(&mut hash, group));
            (0_u8, NOT_OF_MAP)
        }
        Body::Map(group) => {
            add_group(&mut hash, group);
            (1, NOT_OF_MAP)
        }
        Body::Reduce(partition) => {
            hash.update(partition.to_be_bytes());
            (2, NOT_OF_REDUCE)
        }
        Body::Top => (3, NOT_OF_REDUCE),
    };
    hash.update(digest_of_inputs(inputs));
    let mut config = config.as_object()?.clone();
    config.retain(|key, _| !without.contains(&key.as_str()));
    let mut text = [&VERSION.to_be_bytes()[..], &[stage], &hash.finalize()].concat();
    // A map of serde_json is sorted by key: the same configuration gives the same bytes.
    serde_json::to_writer(&mut text, &config).ok()?;
    Some(text)
}

/// What determines the result of a job so configured, beside its input, as bytes.
pub(super) fn result(config: &Value) -> Option<Vec<u8>> {
    let mut text = VERSION.to_be_bytes().to_vec();
    serde_json::to_writer(&mut text, config.as_object()?).ok()?;
    Some(text)
}

fn add_group(hash: &mut Sha256, group: &Group) {
    hash.update(group.input.to_be_bytes());
    for split in &group.splits {
        hash.update(split.name.to_bytes());
        let codec = split.packed.as_ref().map(|packed| packed.codec);
        hash.update([codec.map_or(0, |codec| codec as u8 + 1)]);
    }
}

/// The files of an output.
pub(super) fn files(body: &[u8], output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
    if let Body::Sample(_) = Body::decode(body)? {
        return Some(Vec::new());
    }
    // Of any other task, runs for those to come or a file of the result.
    let Some(MapOutput { runs, .. }) = MapOutput::decode(output) else {
        let file = lines::file_of(&Payload::Inline(output.clone()))?;
        return Some(vec![(file, Lasting::Kept)]);
    };
    let files = runs.into_iter().filter_map(|run| match run {
        Run::File(file, _) => Some((file, Lasting::Scratch)),
        Run::Empty | Run::Inline(_) => None,
    });
    Some(files.collect())
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
        let name = cid_of(CODEC_RAW, &offset.to_be_bytes()).to_string();
        let split = json!({"file": file, "offset": offset, "len": 10, "name": name});
        json!({"map": {"splits": [split]}}).to_string().into_bytes()
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
