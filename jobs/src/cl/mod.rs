//! The kind of independent items: a list, each worked alone.
//!
//! The list is a file of lines, the files of a directory, a range of numbers, what a producer of the user's makes
//! ([`plan`]), or what is given to the job while it runs. A task is some of them ([`item`]): few at first where
//! they are few, more where each takes no time. A worker runs the user's `run` on one after the other, each with a
//! fresh instance and a time of its own ([`run`]), and hands back those it has not begun when it has worked for a
//! while. What follows from that ([`course`]) is decided by what the tasks gave ([`output`]) alone: those left are
//! given out again in the right portions, failed ones are tried again. All of them make the result ([`finish`]).
//!
//! *Invariant*: which items there are and what each gave does not depend on how they were shared out.
//!
//! It touches the world only through [`Tree`], [`Host`] and [`Outputs`].

use bytes::Bytes;
use serde_json::Value;

use crate::engine::Needs;
use crate::ids::FileRef;
use crate::kind::{
    Course, Finished, Gave, Host, JobFiles, Kind, Lasting, Outputs, PlanError, Row, TaskError,
    TaskSpec, Template, Tree, Work,
};
use crate::message::{Input, Payload};
use crate::spec::{JobSpec, SpecError};

mod config;
mod course;
mod error;
mod finish;
mod frontier;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod item;
mod memo;
mod output;
mod plan;
mod run;
mod scope;
mod template;
#[cfg(test)]
mod tests;

pub use config::{Config, Source};
pub use item::{ITEM_LIMIT, ITEMS_LIMIT};
pub use scope::{Pattern, Scope};

use item::Body;
use output::Output;

/// Independent items.
pub struct Items;

impl Kind for Items {
    fn name(&self) -> &'static str {
        "cl"
    }

    fn stages(&self) -> &'static [&'static str] {
        plan::STAGES
    }

    fn templates(&self) -> &'static [Template] {
        template::TEMPLATES
    }

    fn input_key(&self) -> &'static str {
        "items"
    }

    fn reads_input(&self, config: &Value) -> bool {
        Config::read(config).is_ok_and(|config| config.items == Source::Input)
    }

    fn configure(&self, spec: &JobSpec, files: &dyn JobFiles) -> Result<Value, Vec<SpecError>> {
        let config = config::of_spec(spec, files)?;
        Ok(serde_json::to_value(config).expect("a configuration of strings and numbers encodes"))
    }

    fn needs(&self, config: &Value) -> Needs {
        Config::read(config).map(|config| config.needs()).unwrap_or_default()
    }

    fn plan(&self, config: &Value, input: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
        let config = Config::read(config)
            .map_err(|error| PlanError::Unfit(format!("the job's configuration: {error}")))?;
        plan::tasks(&config, input)
    }

    fn course(&self, config: &Value, tasks: &[TaskSpec]) -> Option<Box<dyn Course>> {
        let config = Config::read(config).ok()?;
        Some(Box::new(course::Progress::new(&config, tasks)))
    }

    fn memo_input(&self, config: &Value, body: &[u8], _: &[Input]) -> Option<Vec<u8>> {
        memo::input(config, body)
    }

    fn memo_result(&self, config: &Value) -> Option<Vec<u8>> {
        memo::result(config)
    }

    fn output_files(&self, body: &[u8], output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
        Output::of(&Body::decode(body)?, output)?.files()
    }

    fn is_output(&self, task: &TaskSpec, output: &Payload) -> bool {
        match output {
            Payload::Inline(text) => {
                let output = Body::decode(&task.body).and_then(|body| Output::of(&body, text));
                output.is_some_and(|output| !output.has_cancelled())
            }
            Payload::File(_) => true,
        }
    }

    fn pick(&self, _: &TaskSpec, output: &Payload) -> Payload {
        output.clone()
    }

    fn has_items(&self) -> bool {
        true
    }

    fn rows(&self, config: &Value, gave: &Gave) -> Vec<Row> {
        Config::read(config).map(|config| output::rows(config.retries, gave)).unwrap_or_default()
    }

    fn finish(&self, config: &Value, outputs: &dyn Outputs) -> Result<Finished, TaskError> {
        let config = Config::read(config).map_err(|_| error::corrupt("the job's configuration"))?;
        finish::result(&config, outputs)
    }

    fn run(&self, work: &Work<'_>, host: &dyn Host) -> Result<Payload, TaskError> {
        let config =
            Config::read(work.config).map_err(|_| error::corrupt("the job's configuration"))?;
        match Body::decode(work.body).ok_or_else(|| error::corrupt("the task"))? {
            Body::Produce => run::produce(&config, host),
            Body::Run { items, .. } => run::items(&config, &items, host),
        }
    }
}
