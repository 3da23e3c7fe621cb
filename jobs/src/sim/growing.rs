//! A synthetic kind whose tasks follow from results: a forest that grows from its roots and from what is given to
//! it while it runs.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;

use super::work;
use crate::engine::{Needs, Runtime};
use crate::ids::{CODEC_RAW, Cid, FileRef, cid_of};
use crate::kind::{
    Course, Failure, Finished, Host, Items, JobFiles, Kind, Outputs, PlanError, Step, TaskError,
    TaskSpec, Tree, Withdrawn, Work,
};
use crate::message::Payload;
use crate::spec::{JobSpec, SpecError};

/// What the body of each of its tasks begins with; the next byte says how much higher the tree may grow.
const MARK: u8 = b'g';

/// A tree has at most this many tasks below each other.
const HEIGHT: u8 = 4;

/// A job whose tasks lead to others.
pub(crate) struct Growing;

impl Kind for Growing {
    fn name(&self) -> &'static str {
        "growing"
    }

    fn stages(&self) -> &'static [&'static str] {
        &["grow"]
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

    /// `config` says whether the job is open at first.
    fn course(&self, config: &Value, tasks: &[TaskSpec]) -> Option<Box<dyn Course>> {
        let known = tasks.iter().map(|task| task.body.clone()).collect();
        Some(Box::new(Forest {
            known,
            ended: BTreeSet::new(),
            is_open: *config == Value::Bool(true),
        }))
    }

    fn is_output(&self, _: &TaskSpec, output: &Payload) -> bool {
        match output {
            Payload::Inline(bytes) => bytes.len() == 32,
            Payload::File(file) => file.len == 32,
        }
    }

    fn pick(&self, _: &TaskSpec, output: &Payload) -> Payload {
        output.clone()
    }

    fn finish(&self, _: &Value, _: &dyn Outputs) -> Result<Finished, TaskError> {
        Ok(Finished::default())
    }

    fn run(&self, _: &Work<'_>, _: &dyn Host) -> Result<Payload, TaskError> {
        Err(TaskError::Stopped)
    }
}

struct Forest {
    known: BTreeSet<Bytes>,
    ended: BTreeSet<Bytes>,
    is_open: bool,
}

impl Course for Forest {
    fn follow(&mut self, step: Step<'_>) -> Result<Vec<TaskSpec>, TaskError> {
        let next = match step {
            Step::Output { task, output, .. } => {
                self.ended.insert(task.body.clone());
                children(&task.body, output)
            }
            Step::Given(root) => vec![root.clone()],
            Step::Closed => {
                self.is_open = false;
                Vec::new()
            }
        };
        Ok(next.into_iter().filter(|body| self.known.insert(body.clone())).map(task).collect())
    }

    fn check(&self, _: &Bytes) -> Result<(), String> {
        Ok(())
    }

    /// An item is a tree. What its tasks give then is what they would have given: so the result is the same.
    fn withdraw(&self, task: &TaskSpec, items: &BTreeSet<u64>) -> Option<Withdrawn> {
        let tree = task.body.get(2..6).and_then(|tree| tree.try_into().ok());
        let n = u64::from(u32::from_be_bytes(tree?));
        let Payload::Inline(output) = output_of(&task.body) else { return None };
        items.contains(&n).then(|| Withdrawn { output, items: vec![n] })
    }

    /// Of every other tree, a task that fails is given up; as above, the result is the same.
    fn give_up(&self, task: &TaskSpec, _: &Failure) -> Option<Bytes> {
        let is_given_up = task.body.get(5).is_some_and(|tree| tree % 2 == 1);
        let Payload::Inline(output) = output_of(&task.body) else { return None };
        is_given_up.then_some(output)
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn items(&self) -> Items {
        Items { total: self.known.len() as u64, done: self.ended.len() as u64, ..Items::default() }
    }
}

/// Whether this is the body of a task of this kind.
pub(crate) fn is_body(body: &[u8]) -> bool {
    body.first() == Some(&MARK)
}

/// The `n`-th root of a job.
pub(crate) fn root(n: u32) -> Bytes {
    [&[MARK, HEIGHT][..], &n.to_be_bytes()].concat().into()
}

/// The tasks of the first `roots`.
pub(crate) fn plan(roots: u32) -> Vec<TaskSpec> {
    (0..roots).map(|n| task(root(n))).collect()
}

/// Some stay where others of their tree run; some wait before they begin.
fn task(body: Bytes) -> TaskSpec {
    let tree = body.get(2..6).unwrap_or_default();
    let stays = tree.last().is_some_and(|byte| byte % 2 == 0);
    let mut affinity = [0; 32];
    affinity[..tree.len()].copy_from_slice(tree);
    let delay_ms = if body.len().is_multiple_of(3) { 700 } else { 0 };
    TaskSpec {
        affinity: stays.then_some(affinity),
        stays,
        delay_ms,
        weight: 1,
        body,
        ..TaskSpec::default()
    }
}

/// The bodies of the tasks that follow.
fn children(body: &[u8], output: &[u8]) -> Vec<Bytes> {
    let (Some(height @ 1..), Some(first)) = (body.get(1).copied(), output.first()) else {
        return Vec::new();
    };
    let child = |n: u8| {
        let mut child = body.to_vec();
        child[1] = height - 1;
        child.push(n);
        Bytes::from(child)
    };
    (0..first % 3).map(child).collect()
}

/// The bytes of a task's output.
pub(crate) fn output_bytes(body: &[u8]) -> Bytes {
    match work::hash(&[body]) {
        Payload::Inline(bytes) => bytes,
        Payload::File(_) => unreachable!("a hash is short"),
    }
}

/// What a task gives: half of them a file.
pub(crate) fn output_of(body: &[u8]) -> Payload {
    let bytes = output_bytes(body);
    if bytes[1].is_multiple_of(2) {
        return Payload::Inline(bytes);
    }
    Payload::File(FileRef { cid: cid_of(CODEC_RAW, &bytes), len: bytes.len() as u64 })
}

/// The result that a job of these roots must give, whatever happens on the way.
pub(crate) fn expected(roots: impl IntoIterator<Item = u32>) -> Cid {
    let mut open: Vec<Bytes> = roots.into_iter().map(root).collect();
    let mut outputs = Vec::new();
    while let Some(body) = open.pop() {
        outputs.push(output_of(&body));
        open.extend(children(&body, &output_bytes(&body)));
    }
    result_of(outputs.iter())
}

/// The root of the result of these outputs, in whatever order they came.
pub(crate) fn result_of<'a>(outputs: impl Iterator<Item = &'a Payload>) -> Cid {
    let outputs: BTreeSet<String> = outputs.map(|output| format!("{output:?}")).collect();
    cid_of(CODEC_RAW, format!("{outputs:?}").as_bytes())
}

/// The bytes of the output with this CID of a job of these roots.
pub(crate) fn bytes_of(roots: &std::ops::Range<u32>, cid: Cid) -> Option<Bytes> {
    let mut open: Vec<Bytes> = roots.clone().map(root).collect();
    while let Some(body) = open.pop() {
        let bytes = output_bytes(&body);
        if cid_of(CODEC_RAW, &bytes) == cid {
            return Some(bytes);
        }
        open.extend(children(&body, &bytes));
    }
    None
}
