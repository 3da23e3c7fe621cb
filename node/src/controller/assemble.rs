//! Builds what a job leaves behind, and what is too long for a message.
//!
//! The **result** is one directory: the kind's files and a `manifest.json` that holds only what
//! determines them. The **report** is a file of its own: who ran what, when, how long.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ipdc_jobs::engine::{Event, JobReport, Output};
use ipdc_jobs::ids::{Cid, FileRef, JobId, TaskId};
use ipdc_jobs::kind::{self, ResultFile, TaskError};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::message::{Assignment, INLINE_LIMIT, Payload};
use serde::Serialize;

use super::Context;
use crate::blocks::store::{Add, StoreError, Tier};
use crate::blocks::unixfs;
use crate::state::pins::Reason;

/// The longest output of one task of the last stage: an index of its files.
const OUTPUT_LIMIT: usize = 16 << 20;

/// Files of a result that are fetched at a time: of small ones the second is on its way while the first
/// is flushed, and each may have [`Session::fetch_all`](crate::blocks::fetch::Session::fetch_all)'s 16 MiB
/// in memory.
const FILES: usize = 2;

/// What determines a job's outputs: `manifest.json` in its result. Nothing else may be in it.
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
    let mut inline = Vec::with_capacity(outputs.len());
    for output in outputs {
        let bytes = match &output.payload {
            Payload::Inline(bytes) => bytes.clone(),
            Payload::File(file) => {
                let session = context.blocks.session(&output.holders, Tier::Cache);
                let read = context.blocks.read(&session, file, OUTPUT_LIMIT).await;
                read.map_err(|error| BuildFailure::lost(output.task, error))?
            }
        };
        inline.push((output.task, Payload::Inline(bytes)));
    }
    let files = kind.finish(&manifest.config, &inline).map_err(BuildFailure::of_kind)?;
    let fetched = stream::iter(files)
        .map(|file| fetch(context, &add, outputs, file))
        .buffered(FILES)
        .try_collect::<Vec<_>>();
    let determined = Determined {
        kind: &manifest.kind,
        code: manifest.code.to_string(),
        input: manifest.input.to_string(),
        config: &manifest.config,
    };
    let report = Report { report, remarks: kind.remarks(&inline) };
    // Together: each waits for the disk.
    let (mut entries, determined, FileRef { cid: report, .. }) = tokio::try_join!(
        fetched,
        add_json(context, &add, &determined),
        add_json(context, &add, &report)
    )?;
    entries.push(("manifest.json".to_owned(), determined));
    let result = unixfs::build_dir(&add, context.blocks.store(), entries)
        .await
        .map_err(BuildFailure::passing)?;
    let pins = context.blocks.pins();
    let reason = Reason::Result(job);
    tokio::try_join!(pins.pin(result, reason), pins.pin(report, reason))
        .map_err(BuildFailure::passing)?;
    Ok((result, report))
}

/// The file's name in the result, and the file, all its blocks on this node's disk.
async fn fetch(
    context: &Context,
    add: &Add,
    outputs: &[Output],
    ResultFile { task, name, file }: ResultFile,
) -> Result<(String, FileRef), BuildFailure> {
    let made = outputs.iter().find(|output| output.task == task);
    let holders = made.map_or(&[][..], |output| &output.holders);
    let session = context.blocks.fetcher().session_for(holders, add.clone());
    let fetched = session.fetch_all(file.cid, |_| {}).await;
    fetched.map_err(|error| BuildFailure::lost(task, error))?;
    Ok((name, file))
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
