//! The kind of renderings: the frames of a picture that moves, each made by a command in a container.
//!
//! `job.toml` names an image, a command with [placeholders](fill), the frames, and what the command leaves for each
//! ([`config`]). A task is a frame, some frames, or a tile of one ([`plan`]); a worker runs the command for it and
//! keeps the files ([`run`]). Tiles are put together to their frame ([`picture`]), and all frames may be assembled,
//! to a video say, by another command. What that means for the job ([`course`]): a frame that fails for good is
//! told so and the others are kept. All of them make the result ([`finish`]).
//!
//! *Invariant*: which files a frame has depends on its number, the image, the command and the job's files, and not on
//! how frames were shared out.
//!
//! It touches the world only through [`Tree`], [`Host`] and [`Outputs`].

use bytes::Bytes;
use serde_json::Value;

use crate::engine::Needs;
use crate::ids::FileRef;
use crate::kind::{
    Course, Finished, Gave, Host, JobFiles, Kind, Lasting, Outputs, PlanError, Row, TaskError,
    TaskSpec, Tree, Work,
};
use crate::message::{Input, Payload};
use crate::spec::{JobSpec, SpecError};

mod config;
mod course;
mod error;
mod fill;
mod finish;
mod frames;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod memo;
mod output;
mod picture;
mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use config::{Config, Step, Tiles};
pub use frames::{FRAMES_LIMIT, Frames};

use output::Output;
use plan::Body;

/// Frames, rendered in containers.
pub struct Render;

impl Kind for Render {
    fn name(&self) -> &'static str {
        "render"
    }

    fn stages(&self) -> &'static [&'static str] {
        plan::STAGES
    }

    fn reads_input(&self, _: &Value) -> bool {
        false
    }

    fn configure(&self, spec: &JobSpec, files: &dyn JobFiles) -> Result<Value, Vec<SpecError>> {
        let config = config::of_spec(spec, files)?;
        Ok(serde_json::to_value(config).expect("a configuration of strings and numbers encodes"))
    }

    fn needs(&self, config: &Value) -> Needs {
        Config::read(config).map(|config| config.needs()).unwrap_or_default()
    }

    fn plan(&self, config: &Value, _: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
        let config = Config::read(config)
            .map_err(|error| PlanError::Unfit(format!("the job's configuration: {error}")))?;
        Ok(plan::tasks(&config))
    }

    fn course(&self, _: &Value, tasks: &[TaskSpec]) -> Option<Box<dyn Course>> {
        Some(Box::new(course::Progress::new(tasks)))
    }

    fn memo_input(&self, config: &Value, body: &[u8], inputs: &[Input]) -> Option<Vec<u8>> {
        memo::input(config, body, inputs)
    }

    fn memo_result(&self, config: &Value) -> Option<Vec<u8>> {
        memo::result(config)
    }

    fn output_files(&self, _: &[u8], output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
        Output::decode(output)?.files()
    }

    fn is_output(&self, task: &TaskSpec, output: &Payload) -> bool {
        match output {
            Payload::Inline(text) => {
                let body = Body::decode(&task.body);
                body.is_some_and(|body| Output::decode(text).is_some_and(|gave| gave.fits(&body)))
            }
            Payload::File(_) => true,
        }
    }

    fn pick(&self, _: &TaskSpec, output: &Payload) -> Payload {
        output.clone()
    }

    fn adds_to_result(&self, stage: u16) -> bool {
        stage < plan::ASSEMBLE
    }

    fn has_items(&self) -> bool {
        true
    }

    fn rows(&self, config: &Value, gave: &Gave) -> Vec<Row> {
        Config::read(config).map(|config| output::rows(&config, gave)).unwrap_or_default()
    }

    fn finish(&self, config: &Value, outputs: &dyn Outputs) -> Result<Finished, TaskError> {
        let config = Config::read(config).map_err(|_| error::corrupt("the job's configuration"))?;
        finish::result(&config, outputs)
    }

    fn run(&self, work: &Work<'_>, host: &dyn Host) -> Result<Payload, TaskError> {
        let config =
            Config::read(work.config).map_err(|_| error::corrupt("the job's configuration"))?;
        let body = Body::decode(work.body).ok_or_else(|| error::corrupt("the task"))?;
        run::task(&config, &body, work.inputs, host)
    }
}
