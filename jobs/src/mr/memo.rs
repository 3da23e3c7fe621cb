//! What determines a map-reduce task's output, for the memo, and which files an output names.

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

fn add_group(hash: &mut Sha256, group: &Group) {
    hash.update(group.input.to_be_bytes());
    for split in &group.splits {
        hash.update(split.name.to_bytes());
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
        Run::File(file) => Some((file, Lasting::Scratch)),
        Run::Empty | Run::Inline(_) => None,
    });
    Some(files.collect())
}
