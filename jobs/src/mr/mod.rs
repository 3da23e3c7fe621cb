//! The map-reduce kind.
//!
//! The input is cut into splits of whole lines ([`split`]). A map task ([`map`]) runs the user's
//! `map` over one; what that emits goes through a combiner ([`combine`]) into a sorted run for each
//! partition ([`run`], [`shuffle`]). A reduce task ([`reduce`]) merges one partition's run of every
//! map task ([`merge`]), gives each key's values to a built-in or the user's `reduce` ([`group`],
//! [`command`], [`builtin`]) and writes lines.
//!
//! *Invariant*: the result's bytes depend on code, configuration and input only. Partitions come
//! from the configuration; values reach a reducer in (split, offset) order; what does not fit the
//! memory goes to disk and comes back the same. Memory, workers, retries, how bytes arrive: none
//! shows in the output.
//!
//! It touches the world only through [`Tree`] and [`Host`].

use std::collections::BTreeSet;

use serde_json::Value;

use crate::engine::Runtime;
use crate::ids::TaskId;
use crate::kind::{
    Host, JobFiles, Kind, PlanError, ResultFile, TaskError, TaskSpec, Template, Tree, Work,
};
use crate::message::Payload;
use crate::spec::{JobSpec, SpecError};

mod builtin;
mod combine;
mod command;
mod config;
mod error;
#[cfg(test)]
mod fake;
mod group;
mod map;
mod merge;
mod plan;
mod record;
mod reduce;
mod run;
mod shuffle;
mod split;
mod template;
#[cfg(test)]
mod tests;

pub use builtin::Builtin;
pub use config::{Config, PARTITIONS_LIMIT, Step};
pub use record::RECORD_LIMIT;
pub use split::{SPLIT, SPLITS_LIMIT, Split};

use plan::Body;

/// Map-reduce.
pub struct MapReduce;

impl Kind for MapReduce {
    fn name(&self) -> &'static str {
        "mr"
    }

    fn stages(&self) -> &'static [&'static str] {
        plan::STAGES
    }

    fn templates(&self) -> &'static [Template] {
        template::TEMPLATES
    }

    fn configure(&self, spec: &JobSpec, files: &dyn JobFiles) -> Result<Value, Vec<SpecError>> {
        let config = config::of_spec(spec, files)?;
        Ok(serde_json::to_value(config).expect("a configuration of strings and numbers encodes"))
    }

    fn runtimes(&self, _: &Value) -> BTreeSet<Runtime> {
        BTreeSet::from([Runtime::Wasm])
    }

    fn plan(&self, config: &Value, input: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
        let config = Config::read(config)
            .map_err(|error| PlanError::Unfit(format!("the job's configuration: {error}")))?;
        plan::tasks(&config, input)
    }

    fn pick(&self, task: &TaskSpec, output: &Payload) -> Payload {
        match Body::decode(&task.body) {
            Some(Body::Reduce(partition)) => shuffle::pick(partition, output),
            _ => output.clone(),
        }
    }

    fn finish(&self, outputs: &[(TaskId, Payload)]) -> Result<Vec<ResultFile>, PlanError> {
        plan::outputs(outputs)
    }

    fn run(&self, work: &Work<'_>, host: &dyn Host) -> Result<Payload, TaskError> {
        let config =
            Config::read(work.config).map_err(|_| error::corrupt("the job's configuration"))?;
        match Body::decode(work.body).ok_or_else(|| error::corrupt("the task"))? {
            Body::Map(split) => map::run(&config, &split, host),
            Body::Reduce(partition) => reduce::run(&config, partition, work, host),
        }
    }
}
