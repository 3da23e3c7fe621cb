//! Builds what a job leaves behind, and what is too long for a message.
//!
//! The **result** is one directory: the kind's files and a `manifest.json` that holds only what
//! determines them. The **report** is a file of its own: who ran what, when, how long.

use ipdc_jobs::engine::{Event, JobReport, Output};
use ipdc_jobs::ids::{Cid, FileRef, JobId, TaskId};
use ipdc_jobs::kind::{self, Lasting, ResultFile};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::message::{Assignment, INLINE_LIMIT, Payload};
use serde::Serialize;

use super::Context;
use crate::blocks::BlocksError;

/// The longest output of one task of the last stage: an index of its files.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// What determines a job's outputs: `manifest.json` in its result. Nothing else may be in it.
#[derive(Serialize)]
struct Determined<'a> {
    kind: &'a str,
    code: String,
    input: String,
    config: &'a serde_json::Value,
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
        Err(failure) => Event::BuildFailed {
            lost: failure.lost,
            fatal: failure.fatal,
            message: failure.message,
        },
    }
}

struct BuildFailure {
    lost: Vec<TaskId>,
    fatal: bool,
    message: String,
}

impl From<BlocksError> for BuildFailure {
    fn from(error: BlocksError) -> Self {
        BuildFailure { lost: vec![], fatal: false, message: error.to_string() }
    }
}

async fn build(
    context: &Context,
    job: JobId,
    manifest: &Manifest,
    outputs: &[Output],
    report: &JobReport,
) -> Result<(Cid, Cid), BuildFailure> {
    let fatal = |message: String| BuildFailure { lost: vec![], fatal: true, message };
    let kind = kind::find(&manifest.kind)
        .ok_or_else(|| fatal(format!("this node knows no job kind `{}`", manifest.kind)))?;
    let mut inline = Vec::with_capacity(outputs.len());
    for output in outputs {
        let bytes = match &output.payload {
            Payload::Inline(bytes) => bytes.clone(),
            Payload::File(file) => context
                .blocks
                .read_file(file, OUTPUT_LIMIT, &output.holders, &Default::default())
                .await
                .map_err(|error| lost(output.task, &error))?,
        };
        inline.push((output.task, Payload::Inline(bytes)));
    }
    let files = kind.finish(&inline).map_err(|error| fatal(error.to_string()))?;
    let mut entries = Vec::with_capacity(files.len() + 1);
    for ResultFile { task, name, file } in files {
        let holders = outputs.iter().find(|output| output.task == task).map(|o| o.holders.as_slice());
        let fetched = context.blocks.hold(file.cid, holders.unwrap_or_default()).await;
        fetched.map_err(|error| lost(task, &error))?;
        entries.push((name, file));
    }
    let determined = Determined {
        kind: &manifest.kind,
        code: manifest.code.to_string(),
        input: manifest.input.to_string(),
        config: &manifest.config,
    };
    entries.push(("manifest.json".to_owned(), keep_json(context, &determined).await?));
    let result = context.blocks.make_dir(entries).await?;
    let report = keep_json(context, report).await?.cid;
    for root in [result, report] {
        context.blocks.pin(root, &format!("result {job}")).await?;
    }
    Ok((result, report))
}

fn lost(task: TaskId, error: &impl std::fmt::Display) -> BuildFailure {
    BuildFailure { lost: vec![task], fatal: false, message: error.to_string() }
}

async fn keep_json(context: &Context, value: &impl Serialize) -> Result<FileRef, BlocksError> {
    let mut json = serde_json::to_vec_pretty(value).expect("these types have string keys only");
    json.push(b'\n');
    context.blocks.write_file(&json, Lasting::Kept, None).await
}

/// Moves what is too long for a message into scratch files.
pub(super) async fn shorten(
    context: &Context,
    job: JobId,
    assignment: &mut Assignment,
) -> Result<(), BlocksError> {
    for payload in [&mut assignment.body, &mut assignment.inputs] {
        if let Payload::Inline(bytes) = payload
            && bytes.len() > INLINE_LIMIT
        {
            let file = context.blocks.write_file(bytes, Lasting::Scratch, Some(job)).await?;
            *payload = Payload::File(file);
        }
    }
    Ok(())
}
