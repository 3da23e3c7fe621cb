//! The tasks of a map-reduce job and the names of its outputs.
//!
//! In the order of their numbers: where keys go by range, one task that samples the input; the maps,
//! each of a few splits, in the order of the input; where there is a reducer, the reduce tasks, one a
//! partition, each of which needs all the maps; where the greatest are wanted, one task that needs
//! all of those before it. The outputs of the last make the result.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::TaskId;
use crate::kind::{PlanError, ResultFile, TaskError, TaskSpec, Tree};
use crate::message::Payload;

use super::config::Config;
use super::error;
use super::inputs::{self, Group};
use super::lines;
use super::sample;
use super::split::Split;

/// The places of the stages in [`STAGES`].
const SAMPLE: u16 = 0;
const MAP: u16 = 1;
const REDUCE: u16 = 2;
const TOP: u16 = 3;

/// The stages in order; a job has those that it needs.
pub(super) const STAGES: &[&str] = &["sample", "map", "reduce", "top"];

/// What a task is to do: the form of [`TaskSpec::body`], in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body {
    /// Sample these splits for the boundaries of the partitions.
    Sample(Vec<Group>),
    /// Map these splits.
    Map(Group),
    /// Reduce this partition.
    Reduce(u32),
    /// Find the first of all by rank.
    Top,
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
    let groups = inputs::groups(config, input)?;
    let input_len: u64 = groups.iter().map(Group::len).sum();
    let mut tasks = Tasks(Vec::with_capacity(groups.len() + config.partitions as usize + 2));
    let sample = (config.is_sampled() && !groups.is_empty())
        .then(|| task(SAMPLE, &Body::Sample(sample::choose(&groups)), 0..0));
    let sampled = tasks.add(sample);
    let maps = tasks.add(groups.iter().map(|group| TaskSpec {
        // What follows the first split may change without it.
        affinity: group.splits.first().map(Split::affinity),
        weight: group.len(),
        ..task(MAP, &Body::Map(group.clone()), sampled.clone())
    }));
    let reduces = tasks.add((0..config.partitions).map(|partition| TaskSpec {
        affinity: Some(reduce_affinity(config, partition)),
        weight: input_len / u64::from(config.partitions),
        ..task(REDUCE, &Body::Reduce(partition), maps.clone())
    }));
    let before = if config.reduce.is_some() { reduces } else { maps };
    tasks.add(config.top.map(|_| task(TOP, &Body::Top, before)));
    Ok(tasks.0)
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

/// Tasks in the order of their numbers.
struct Tasks(Vec<TaskSpec>);

impl Tasks {
    /// Adds `more`; their numbers.
    fn add(&mut self, more: impl IntoIterator<Item = TaskSpec>) -> Range<u32> {
        let count = |tasks: &Vec<TaskSpec>| u32::try_from(tasks.len()).expect("splits are limited");
        let first = count(&self.0);
        self.0.extend(more);
        first..count(&self.0)
    }
}

/// A task that may run anywhere and weighs nothing.
fn task(stage: u16, body: &Body, needs: Range<u32>) -> TaskSpec {
    TaskSpec { stage, body: body.encode(), needs, ..TaskSpec::default() }
}

/// The names of the last tasks' files in the result.
pub(super) fn outputs(outputs: &[(TaskId, Payload)]) -> Result<Vec<ResultFile>, TaskError> {
    let name = |(part, (task, payload)): (usize, &(TaskId, Payload))| {
        let file = lines::file_of(payload)
            .ok_or_else(|| error::corrupt(&format!("the output of task {task}")))?;
        Ok(ResultFile { task: Some(*task), name: format!("part-{part:05}"), file })
    };
    outputs.iter().enumerate().map(name).collect()
}
