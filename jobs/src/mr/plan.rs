//! The tasks of a map-reduce job and the names of its outputs.
//!
//! Tasks 0 to M-1 are the maps, each of a few splits, in the order of the input; the next P are the
//! reducers, one a partition, each of which needs all the maps.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::TaskId;
use crate::kind::{PlanError, ResultFile, TaskSpec, Tree};
use crate::message::Payload;

use super::config::Config;
use super::reduce;
use super::split::{self, Split};

/// The place of the map stage in [`STAGES`].
const MAP: u16 = 0;
const REDUCE: u16 = 1;

/// The stages in order.
pub(super) const STAGES: &[&str] = &["map", "reduce"];

/// What a task is to do: the form of [`TaskSpec::body`], in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body {
    /// Map these splits.
    Map(Vec<Split>),
    /// Reduce this partition.
    Reduce(u32),
}

impl Body {
    fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a split of numbers and a CID encodes").into()
    }

    /// What [`Body::encode`] wrote; none for anything else.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// The job's tasks.
pub(super) fn tasks(config: &Config, input: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
    let splits = split::of_input(config, input)?;
    let groups = split::grouped(&splits)?;
    let maps: Range<u32> = 0..u32::try_from(groups.len()).expect("map tasks are limited");
    let input_len: u64 = splits.iter().map(|split| split.len).sum();
    let map = groups.iter().map(|group| TaskSpec {
        stage: MAP,
        body: Body::Map(group.to_vec()).encode(),
        needs: 0..0,
        // What follows the first may change without it.
        affinity: group.first().map(Split::affinity),
        weight: group.iter().map(|split| split.len).sum(),
    });
    let reduce = (0..config.partitions).map(|partition| TaskSpec {
        stage: REDUCE,
        body: Body::Reduce(partition).encode(),
        needs: maps.clone(),
        affinity: Some(reduce_affinity(config, partition)),
        weight: input_len / u64::from(config.partitions),
    });
    Ok(map.chain(reduce).collect())
}

/// Draws a job's reduce task to the peer that ran it before, whose memo may know its output.
fn reduce_affinity(config: &Config, partition: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(
        serde_json::to_vec(config).expect("a configuration of strings and numbers encodes"),
    );
    hash.update(partition.to_be_bytes());
    hash.finalize().into()
}

/// The names of the reducers' files in the result.
pub(super) fn outputs(outputs: &[(TaskId, Payload)]) -> Result<Vec<ResultFile>, PlanError> {
    let name = |(partition, (task, payload)): (usize, &(TaskId, Payload))| {
        let file = reduce::output_of(payload)
            .ok_or_else(|| PlanError::Unfit(format!("the output of task {task} is no file")))?;
        Ok(ResultFile { task: *task, name: format!("part-{partition:05}"), file })
    };
    outputs.iter().enumerate().map(name).collect()
}
