//! The map-reduce kind.
//!
//! The inputs ([`inputs`]) are cut into splits of whole records ([`split`]). A map task ([`map`]) reads some
//! ([`input`]) and runs the user's `map` over them; what that emits goes through a combiner ([`combine`]) into a sorted run for each
//! partition ([`run`], [`shuffle`]). A reduce task ([`reduce`]) merges one partition's run of every
//! map task ([`merge`]), gives each key's values to a built-in or the user's `reduce` ([`group`],
//! [`command`], [`builtin`]) and writes lines ([`lines`]). Without a reducer each map task writes them.
//!
//! Keys go to partitions by a hash, or by ranges that a first task finds ([`sample`]); a sort may
//! have an order of its own ([`order`]); of a job that wants only the greatest a last task takes
//! them from all the others' ([`top`]).
//!
//! *Invariant*: the result's bytes depend on code, configuration and input only. Partitions come
//! from the configuration; values reach a reducer in (split, offset) order; what does not fit the
//! memory goes to disk and comes back the same. Memory, workers, retries, how bytes arrive: none
//! shows in the output.
//!
//! It touches the world only through [`Tree`] and [`Host`].

use bytes::Bytes;
use serde_json::Value;

use crate::engine::{Needs, Runtime};
use crate::ids::{FileRef, TaskId};
use crate::kind::{
    Finished, Host, JobFiles, Kind, Lasting, Outputs, PlanError, TaskError, TaskSpec, Template,
    Tree, Work,
};
use crate::message::{Input, Payload};
use crate::spec::{JobSpec, SpecError};

mod bad;
mod builtin;
mod combine;
mod command;
mod config;
mod error;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod group;
mod input;
mod inputs;
mod lines;
mod map;
mod memo;
mod merge;
mod order;
mod plan;
mod reduce;
mod run;
mod sample;
mod shuffle;
mod split;
mod template;
#[cfg(test)]
mod tests;
mod top;

pub use bad::Skipped;
pub use builtin::Builtin;
pub use config::{Config, PARTITIONS_LIMIT, Partition, Step};
pub use input::{BAD_RECORDS_LIMIT, Codec, Compression, Packed};
pub use inputs::INPUTS_LIMIT;
pub use order::{By, Order};
pub use split::{MAPS_LIMIT, Split};
pub use top::TOP_LIMIT;

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

    fn needs(&self, config: &Value) -> Needs {
        // What cannot be read is never run; it is judged like what every node has.
        let wasm = || Needs { runtimes: [Runtime::Wasm].into(), ..Needs::default() };
        Config::read(config).map_or_else(|_| wasm(), |config| config.needs())
    }

    fn plan(&self, config: &Value, input: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
        let config = Config::read(config)
            .map_err(|error| PlanError::Unfit(format!("the job's configuration: {error}")))?;
        plan::tasks(&config, input)
    }

    fn memo_input(&self, config: &Value, body: &[u8], inputs: &[Input]) -> Option<Vec<u8>> {
        memo::input(config, body, inputs)
    }

    fn memo_result(&self, config: &Value) -> Option<Vec<u8>> {
        memo::result(config)
    }

    fn output_files(&self, body: &[u8], output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
        memo::files(body, output)
    }

    fn is_output(&self, task: &TaskSpec, output: &Payload) -> bool {
        match output {
            Payload::Inline(text) => memo::files(&task.body, text).is_some(),
            Payload::File(_) => true,
        }
    }

    fn pick(&self, task: &TaskSpec, output: &Payload) -> Payload {
        match Body::decode(&task.body) {
            Some(Body::Reduce(partition)) => shuffle::pick(partition, output),
            _ => output.clone(),
        }
    }

    fn finish(&self, config: &Value, outputs: &dyn Outputs) -> Result<Finished, TaskError> {
        let config = Config::read(config).map_err(|_| error::corrupt("the job's configuration"))?;
        let read = |index| {
            let gave = outputs.read(index)?;
            Ok((gave.task, Payload::Inline(gave.output)))
        };
        let outputs: Vec<(TaskId, Payload)> =
            (0..outputs.count()).map(read).collect::<Result<_, _>>()?;
        bad::check(config.max_bad_records, bad::listed(&outputs).len())?;
        let (files, remarks) = (plan::outputs(&outputs)?, bad::remarks(&outputs));
        Ok(Finished { files, remarks, ..Finished::default() })
    }

    fn run(&self, work: &Work<'_>, host: &dyn Host) -> Result<Payload, TaskError> {
        let config =
            Config::read(work.config).map_err(|_| error::corrupt("the job's configuration"))?;
        let done = match Body::decode(work.body).ok_or_else(|| error::corrupt("the task"))? {
            Body::Sample(groups) => sample::run(&config, &groups, host),
            Body::Map(group) => map::run(&config, &group, work, host),
            Body::Reduce(partition) => {
                let reduce = config.reduce.as_ref();
                let reduce = reduce.ok_or_else(|| error::corrupt("the job's configuration"))?;
                reduce::run(&config, reduce, partition, work, host)
            }
            Body::Top => {
                let limit = config.top.ok_or_else(|| error::corrupt("the job's configuration"))?;
                top::run(&config, limit, work, host)
            }
        };
        let is_short = host.room() < host.memory();
        done.map_err(|error| if is_short { error::of_the_node(error) } else { error })
    }
}
