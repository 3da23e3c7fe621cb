//! Builds what a job leaves behind, and what is too long for a message.
//!
//! The **result** is one directory: the kind's files and a `manifest.json` that holds only what
//! determines them. The **report** says who ran what, when, how long: a file of its own, or, of kinds that
//! have more to say, a directory with it and theirs.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ipdc_jobs::engine::{Event, JobReport, Output};
use ipdc_jobs::ids::{Cid, FileRef, JobId, PeerId, TaskId};
use ipdc_jobs::kind::{self, FileWriter, Finished, Gave, Outputs, ResultFile, TaskError};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::message::{Assignment, INLINE_LIMIT, Payload};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::blocks::Blocks;
use crate::blocks::store::{Add, StoreError, Tier};
use crate::blocks::unixfs::{self, BlockingWriter, Caller, FileBuilder};
use crate::state::pins::Reason;

/// The longest output of one task of the last stage: an index of its files.
pub(super) const OUTPUT_LIMIT: usize = 16 << 20;

/// Files of a result that are fetched at a time: of small ones the second is on its way while the first
/// is flushed, and each may have [`Session::fetch_all`](crate::blocks::fetch::Session::fetch_all)'s 16 MiB
/// in memory.
const FILES: usize = 2;

/// The file of a result that says what determines it.
pub(super) const MANIFEST: &str = "manifest.json";

/// What determines a job's outputs: [`MANIFEST`] in its result. Nothing else may be in it.
#[derive(Serialize)]
struct Determined<'a> {
    kind: &'a str,
    code: String,
    input: String,
    config: &'a serde_json::Value,
}

/// The report: the engine's, and what the kind has to say.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    report: &'a JobReport,
    #[serde(flatten)]
    remarks: serde_json::Map<String, serde_json::Value>,
}

/// Builds result and report, all their blocks on this node's disk and pinned.
pub(super) async fn result(
    context: &Context,
    job: JobId,
    manifest: &Manifest,
    outputs: Vec<Output>,
    report: JobReport,
) -> Event {
    match build(context, job, manifest, &outputs, &report).await {
        Ok((result, report)) => Event::ResultBuilt { result, report },
        Err(BuildFailure::Passing { lost, message }) => Event::BuildFailed { lost, message },
        Err(BuildFailure::Refused { code, message }) => {
            Event::ResultRefused { code: code.to_owned(), message }
        }
    }
}

enum BuildFailure {
    /// Worth another try, when these tasks were run again.
    Passing { lost: Vec<TaskId>, message: String },
    /// The outputs make no result.
    Refused { code: &'static str, message: String },
}

impl BuildFailure {
    /// This node's own trouble, a full disk say.
    fn passing(error: impl std::fmt::Display) -> Self {
        BuildFailure::Passing { lost: vec![], message: error.to_string() }
    }

    /// An output that cannot be had.
    fn lost(task: TaskId, error: impl std::fmt::Display) -> Self {
        BuildFailure::Passing { lost: vec![task], message: error.to_string() }
    }

    /// What the kind says of the outputs.
    fn of_kind(error: TaskError) -> Self {
        match error {
            TaskError::Failed { code, message, .. } => BuildFailure::Refused { code, message },
            TaskError::Missing { task: Some(task), message, .. } => {
                BuildFailure::lost(task, message)
            }
            TaskError::Stopped | TaskError::Missing { .. } => BuildFailure::passing(error),
        }
    }
}

async fn build(
    context: &Context,
    job: JobId,
    manifest: &Manifest,
    outputs: &[Output],
    report: &JobReport,
) -> Result<(Cid, Cid), BuildFailure> {
    let kind = kind::find(&manifest.kind).ok_or_else(|| BuildFailure::Refused {
        code: "IPDC-4001",
        message: format!("this node knows no job kind `{}`", manifest.kind),
    })?;
    // What is fetched and built is safe from collection until it is pinned.
    let add = context.blocks.store().add(Tier::Durable);
    let last = LastStage {
        blocks: context.blocks.clone(),
        outputs: outputs.to_vec(),
        add: add.clone(),
        caller: Caller::new(Handle::current(), CancellationToken::new()),
    };
    let config = manifest.config.clone();
    let finished = tokio::task::spawn_blocking(move || kind.finish(&config, &last)).await;
    let finished = finished.map_err(BuildFailure::passing)?;
    let Finished { files, report: more, remarks } = finished.map_err(BuildFailure::of_kind)?;
    let fetch_all = |files: Vec<ResultFile>| {
        let files = stream::iter(files).map(|file| fetch(context, &add, outputs, file));
        files.buffered(FILES).try_collect::<Vec<_>>()
    };
    let determined = Determined {
        kind: &manifest.kind,
        code: manifest.code.to_string(),
        input: manifest.input.to_string(),
        config: &manifest.config,
    };
    let report = Report { report, remarks };
    // Together: each waits for the disk.
    let (mut entries, mut more, determined, report) = tokio::try_join!(
        fetch_all(files),
        fetch_all(more),
        add_json(context, &add, &determined),
        add_json(context, &add, &report)
    )?;
    let report = if more.is_empty() {
        report.cid
    } else {
        more.push(("report.json".to_owned(), report));
        let built = unixfs::build_dir(&add, context.blocks.store(), more).await;
        built.map_err(BuildFailure::passing)?
    };
    entries.push((MANIFEST.to_owned(), determined));
    let result = unixfs::build_dir(&add, context.blocks.store(), entries)
        .await
        .map_err(BuildFailure::passing)?;
    let pins = context.blocks.pins();
    let reason = Reason::Result(job);
    tokio::try_join!(pins.pin(result, reason), pins.pin(report, reason))
        .map_err(BuildFailure::passing)?;
    Ok((result, report))
}

/// The outputs of the last stage, as their kind sees them.
struct LastStage {
    blocks: Blocks,
    outputs: Vec<Output>,
    add: Add,
    caller: Caller,
}

impl Outputs for LastStage {
    fn count(&self) -> usize {
        self.outputs.len()
    }

    fn read(&self, index: usize) -> Result<Gave, TaskError> {
        let output = &self.outputs[index];
        let read = self.caller.wait(gave(&self.blocks, output)).ok_or(TaskError::Stopped)?;
        read.map_err(|(file, error)| TaskError::Missing {
            file: Box::new(file),
            task: Some(output.task),
            message: error.to_string(),
        })
    }

    fn create(&self) -> Result<Box<dyn FileWriter>, TaskError> {
        let builder = FileBuilder::new(self.add.clone());
        Ok(Box::new(BlockingWriter::new(builder, self.caller.clone())))
    }
}

/// The file's name in the result, and the file, all its blocks on this node's disk.
async fn fetch(
    context: &Context,
    add: &Add,
    outputs: &[Output],
    ResultFile { task, name, file }: ResultFile,
) -> Result<(String, FileRef), BuildFailure> {
    // What was written while the result was put together is here.
    let Some(task) = task else { return Ok((name, file)) };
    // Tasks are numbered in the order of the outputs.
    let made = outputs.binary_search_by_key(&task, |output| output.task);
    let holders = made.map_or(&[][..], |index| &outputs[index].holders);
    let session = context.blocks.fetcher().session_for(holders, add.clone());
    let fetched = session.fetch_all(file.cid, |_| {}).await;
    fetched.map_err(|error| BuildFailure::lost(task, error))?;
    Ok((name, file))
}

/// Brings an output here and keeps it while the job lives; its bytes.
pub(super) async fn keep(
    context: &Context,
    job: JobId,
    file: &FileRef,
    holders: &[PeerId],
) -> Result<Bytes, String> {
    if file.len > OUTPUT_LIMIT as u64 {
        return Err(format!("it has {} bytes; at most {OUTPUT_LIMIT} are read", file.len));
    }
    let session = context.blocks.session(holders, Tier::Durable);
    session.fetch_all(file.cid, |_| {}).await.map_err(|error| error.to_string())?;
    let pinned = context.blocks.pins().pin(file.cid, Reason::Job(job)).await;
    pinned.map_err(|error| error.to_string())?;
    context.blocks.read(&session, file, OUTPUT_LIMIT).await.map_err(|error| error.to_string())
}

/// What a task gave; the file that it lies in, when that cannot be read.
pub(super) async fn gave(
    blocks: &Blocks,
    output: &Output,
) -> Result<Gave, (FileRef, unixfs::Error)> {
    let Output { task, worker, body, memoized, payload, holders } = output;
    let bytes = match payload {
        Payload::Inline(bytes) => bytes.clone(),
        Payload::File(file) => {
            let session = blocks.session(holders, Tier::Cache);
            let read = blocks.read(&session, file, OUTPUT_LIMIT).await;
            read.map_err(|error| (*file, error))?
        }
    };
    let (body, output) = (body.clone(), bytes);
    Ok(Gave { task: *task, worker: *worker, body, output, memoized: *memoized })
}

async fn add_json(
    context: &Context,
    add: &Add,
    value: &impl Serialize,
) -> Result<FileRef, BuildFailure> {
    let mut json = serde_json::to_vec_pretty(value).expect("these types have string keys only");
    json.push(b'\n');
    context.blocks.add_bytes(add, &json).await.map_err(BuildFailure::passing)
}

/// Moves what is too long for a message into scratch files.
pub(super) async fn shorten(
    context: &Context,
    job: JobId,
    assignment: &mut Assignment,
) -> Result<(), StoreError> {
    for payload in [&mut assignment.body, &mut assignment.inputs] {
        if let Payload::Inline(bytes) = payload
            && bytes.len() > INLINE_LIMIT
        {
            let add = context.blocks.store().add(Tier::Scratch(job));
            let file = context.blocks.add_bytes(&add, bytes).await?;
            *payload = Payload::File(file);
        }
    }
    Ok(())
}
