//! The tasks of a map-reduce job and the names of its outputs.
//!
//! Tasks 0 to M-1 are the maps, one a split, in the order of the input; the next P are the
//! reducers, one a partition, each of which needs all the maps. Without a reducer there are no
//! partitions, and the maps' outputs make the result.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::TaskId;
use crate::kind::{PlanError, ResultFile, TaskSpec, Tree};
use crate::message::Payload;

use super::config::Config;
use super::lines;
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
    /// Map this split.
    Map(Split),
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
    let splits = split::of_input(input)?;
    let maps: Range<u32> = 0..u32::try_from(splits.len()).expect("splits are limited");
    let input_len: u64 = splits.iter().map(|split| split.len).sum();
    let map = splits.iter().map(|split| TaskSpec {
        stage: MAP,
        body: Body::Map(*split).encode(),
        needs: 0..0,
        affinity: Some(split.affinity()),
        weight: split.len,
    });
    let reduce = (0..config.partitions).map(|partition| TaskSpec {
        stage: REDUCE,
        body: Body::Reduce(partition).encode(),
        needs: maps.clone(),
        affinity: None,
        weight: input_len / u64::from(config.partitions),
    });
    Ok(map.chain(reduce).collect())
}

/// The names of the last tasks' files in the result.
pub(super) fn outputs(outputs: &[(TaskId, Payload)]) -> Result<Vec<ResultFile>, PlanError> {
    let name = |(part, (task, payload)): (usize, &(TaskId, Payload))| {
        let file = lines::file_of(payload)
            .ok_or_else(|| PlanError::Unfit(format!("the output of task {task} is no file")))?;
        Ok(ResultFile { task: *task, name: format!("part-{part:05}"), file })
    };
    outputs.iter().enumerate().map(name).collect()
}
