//! A synthetic kind: two stages of hashing, so that every output depends on all that it should.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::growing;
use crate::engine::{Needs, Runtime};
use crate::ids::{CODEC_RAW, Cid, FileRef, TaskId, cid_of};
use crate::kind::{
    Finished, Host, JobFiles, Kind, Lasting, Outputs, PlanError, TaskError, TaskSpec, Tree, Work,
};
use crate::message::{Input, Payload};
use crate::spec::{JobSpec, SpecError};

/// `scatter` tasks hash their body; `gather` tasks hash what they pick from every one of those.
pub(crate) struct Hashing;

impl Kind for Hashing {
    fn name(&self) -> &'static str {
        "hashing"
    }

    fn stages(&self) -> &'static [&'static str] {
        &["scatter", "gather"]
    }

    fn configure(&self, _: &JobSpec, _: &dyn JobFiles) -> Result<Value, Vec<SpecError>> {
        Ok(Value::Null)
    }

    fn needs(&self, _: &Value) -> Needs {
        Needs { runtimes: BTreeSet::from([Runtime::Wasm]), ..Needs::default() }
    }

    fn plan(&self, _: &Value, _: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
        Err(PlanError::Unfit("the simulator plans by itself".to_owned()))
    }

    fn output_files(&self, _: &[u8], output: &Bytes) -> Option<Vec<(FileRef, Lasting)>> {
        let file = FileRef { cid: cid_of(CODEC_RAW, output), len: output.len() as u64 };
        Some(vec![(file, Lasting::Scratch)])
    }

    fn pick(&self, task: &TaskSpec, output: &Payload) -> Payload {
        let Payload::Inline(output) = output else { return output.clone() };
        hash(&[&task.body, output])
    }

    fn finish(&self, _: &Value, _: &dyn Outputs) -> Result<Finished, TaskError> {
        // The simulator puts results together by itself: `result_of`.
        Ok(Finished::default())
    }

    fn run(&self, work: &Work<'_>, _: &dyn Host) -> Result<Payload, TaskError> {
        Ok(output_of(work.body, work.inputs))
    }
}

/// What a task gives.
#[must_use]
pub(crate) fn output_of(body: &[u8], inputs: &[Input]) -> Payload {
    if growing::is_body(body) {
        return growing::output_of(body);
    }
    let picked = inputs.iter().map(|input| match &input.payload {
        Payload::Inline(bytes) => bytes.clone(),
        Payload::File(file) => Bytes::from(file.cid.to_bytes()),
    });
    let parts: Vec<Bytes> = std::iter::once(Bytes::copy_from_slice(body)).chain(picked).collect();
    let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    hash(&parts)
}

/// `scatter` first tasks and `gather` that need them all.
#[must_use]
pub(crate) fn plan(scatter: u32, gather: u32) -> Vec<TaskSpec> {
    let task = |stage: u16, n: u32| TaskSpec {
        stage,
        body: Bytes::copy_from_slice(&[&[stage as u8][..], &n.to_be_bytes()].concat()),
        needs: if stage == 0 { 0..0 } else { 0..scatter },
        affinity: (stage == 0).then(|| Sha256::digest(n.to_be_bytes()).into()),
        weight: 100,
        ..TaskSpec::default()
    };
    let first = (0..scatter).map(|n| task(0, n));
    first.chain((0..gather).map(|n| task(1, n))).collect()
}

/// The result that the job must give, whatever happens on the way.
#[must_use]
pub(crate) fn expected(tasks: &[TaskSpec]) -> Cid {
    let mut outputs: Vec<Payload> = Vec::new();
    for spec in tasks {
        let inputs: Vec<Input> = spec
            .needs
            .clone()
            .map(|needed| Input {
                task: TaskId(needed),
                payload: Hashing.pick(spec, &outputs[needed as usize]),
                holders: Vec::new(),
            })
            .collect();
        outputs.push(output_of(&spec.body, &inputs));
    }
    let last = tasks.iter().map(|spec| spec.stage).max();
    let finals = tasks.iter().zip(outputs).enumerate();
    let finals = finals.filter(|(_, (spec, _))| Some(spec.stage) == last);
    result_of(&finals.map(|(n, (_, output))| (TaskId(n as u32), output)).collect::<Vec<_>>())
}

/// What a memo knows an output by.
#[must_use]
pub(crate) fn name_of(output: &Payload) -> Bytes {
    match output {
        Payload::Inline(bytes) => bytes.clone(),
        Payload::File(file) => file.cid.to_bytes().into(),
    }
}

/// The root of the result directory of these outputs.
#[must_use]
pub(crate) fn result_of(outputs: &[(TaskId, Payload)]) -> Cid {
    cid_of(CODEC_RAW, format!("{outputs:?}").as_bytes())
}

pub(super) fn hash(parts: &[&[u8]]) -> Payload {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Payload::Inline(Bytes::copy_from_slice(&hasher.finalize()))
}
