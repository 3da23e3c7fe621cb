//! Steps as they are frozen: jobs in a row, each of which may have as its input what those before it gave.
//!
//! When a job directory with `[[step]]`s is submitted, all of them are checked and frozen together, into one file. Each
//! step is a job of its own, whose manifest names that file and says what the steps before it gave. So whoever holds a
//! step's manifest and its result can make the manifest of the next.
//!
//! It owns the form of both. What an input is resolved to, and when a step is begun, is for the controller to say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Cid, FileRef, JobId, cid_text};
use crate::manifest::{Limits, MANIFEST_LIMIT};
pub use crate::spec::steps::{Output, STEPS_LIMIT};

/// The longest file of [`Steps`], in bytes: that of steps whose manifests are all as long as one can be, and once more for
/// what is not in those, the names and paths of inputs.
pub const FILE_LIMIT: usize = 2 * STEPS_LIMIT * MANIFEST_LIMIT;

/// A job directory's steps: a file that the manifest of each of them names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// In their order.
    pub steps: Vec<Step>,
    /// What runs code of theirs that is not compiled, if any needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<FileRef>,
    /// The container images that the steps' commands are in.
    #[serde(default, with = "cid_text::list", skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Cid>,
}

impl Steps {
    /// What their code needs beside the job directory, by CID.
    pub fn code(&self) -> impl Iterator<Item = Cid> {
        self.interpreter.iter().map(|file| file.cid).chain(self.images.iter().copied())
    }
}

/// A step as it was frozen: all of its job's manifest that is known before the steps before it have ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The kind's name.
    pub kind: String,
    /// Where its input is.
    pub input: Input,
    /// What the kind froze.
    pub config: Value,
    /// The limits of one attempt.
    pub limits: Limits,
    /// Whether what is remembered may be used.
    pub memo: bool,
    /// How many workers are asked for.
    pub workers: Option<u32>,
}

/// Where a job's input is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// It reads none.
    None,
    /// Here.
    One(Place),
    /// There are several, by the guest's names for them.
    Named(BTreeMap<String, Place>),
}

/// A place of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Behind this CID.
    Content(#[serde(with = "cid_text")] Cid),
    /// In what an earlier step gave.
    Step(Output),
}

impl Input {
    /// All its places.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let (one, named) = match self {
            Input::None => (None, None),
            Input::One(place) => (Some(place), None),
            Input::Named(places) => (None, Some(places.values())),
        };
        one.into_iter().chain(named.into_iter().flatten())
    }
}

/// Which step a job is: the part of its manifest that says how it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AsStep {
    /// Its name.
    pub name: String,
    /// Its place, from 1.
    pub place: u32,
    /// How many steps there are.
    pub of: u32,
    /// The file of [`Steps`].
    pub steps: FileRef,
    /// What the steps before it gave, in their order.
    pub earlier: Vec<Earlier>,
}

impl AsStep {
    /// Whether a step comes after it.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.place < self.of
    }
}

/// A step that has ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    /// Its name.
    pub step: String,
    /// Its job.
    pub job: JobId,
    /// Its result.
    #[serde(with = "cid_text")]
    pub result: Cid,
}

/// The key under which the step after `job` is submitted: so that it is submitted once, whatever happens meanwhile.
#[must_use]
pub fn next_key(job: JobId) -> String {
    format!("{job}/next")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::{CODEC_RAW, cid_of};

    #[test]
    fn frozen_steps_read_back_as_they_were_written() {
        let cid = cid_of(CODEC_RAW, b"input");
        let output = Output { step: "a".into(), path: None };
        let named = [("l".to_owned(), Place::Content(cid)), ("r".to_owned(), Place::Step(output))];
        let inputs = [Input::None, Input::One(Place::Content(cid)), Input::Named(named.into())];
        assert_eq!(inputs.each_ref().map(|input| input.places().count()), [0, 1, 2]);
        let step = |input| Step {
            name: "a".into(),
            kind: "mr".into(),
            input,
            config: Value::Null,
            limits: Limits::default(),
            memo: true,
            workers: None,
        };
        let steps = Steps { steps: inputs.map(step).into(), interpreter: None, images: Vec::new() };
        let text = serde_json::to_string(&steps).unwrap();
        assert_eq!(serde_json::from_str::<Steps>(&text).unwrap(), steps);
    }
}
