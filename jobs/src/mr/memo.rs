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
        Body::Map(splits) => {
            let mut hash = Sha256::new();
            for split in splits {
                hash.update(split.name.to_bytes());
            }
            (NOT_OF_MAP, hash.finalize())
        }
        Body::Reduce(partition) => {
            let mut hash = Sha256::new();
            hash.update(partition.to_be_bytes());
            hash.update(digest_of_inputs(inputs));
            (NOT_OF_REDUCE, hash.finalize())
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
