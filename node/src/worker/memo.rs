//! What this node made before: outputs of tasks by the names of what determined them.
//!
//! A row of the memo's table names an output and the blocks of its files. The blocks of scratch
//! files lie in [`Tier::Memo`]; those of kept files are durable blocks, which nobody but a job pins.
//! Both may go at any time. So a row is worth something only while all its blocks are here, which
//! is found out by giving them to the job that asks: it then holds them like those it made itself.
//!
//! This node's word is believed by itself only: nothing here is asked for by, or told to, others.
//! What fails is never remembered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use ipdc_jobs::engine::Remembered;
use ipdc_jobs::ids::{Attempt, Cid, FileRef, JobId, PeerId, TaskId, cid_text};
use ipdc_jobs::kind::{self, Kind, Lasting};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::memo::MemoKey;
use ipdc_jobs::message::{Assignment, Counters, Input, Payload};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::attempt::PAYLOAD_LIMIT;
use super::{Parts, admit};
use crate::blocks::store::Tier;
use crate::blocks::unixfs;
use crate::state::memo as table;
use crate::state::pins::Reason;

/// How long a batch of attempts waits for the memo: far longer than it takes, far shorter than
/// running them. Those whose inputs cannot be had within it are run.
const RECALL_BOUND: Duration = Duration::from_secs(2);

/// The longest output that is read to find the files it names.
const OUTPUT_LIMIT: usize = 16 << 20;

/// The most blocks that one output may have to be remembered: 16 GiB of files.
const BLOCKS_LIMIT: usize = 16 << 10;

/// A row of the memo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    output: Payload,
    #[serde(default, skip_serializing_if = "Counters::is_empty")]
    counters: Counters,
    /// Bytes of the files it names.
    bytes_out: u64,
    /// Blocks of its scratch files, in [`Tier::Memo`].
    #[serde(with = "cid_text::list")]
    scratch: Vec<Cid>,
    /// Roots of its kept files.
    #[serde(with = "cid_text::list")]
    kept: Vec<Cid>,
}

/// The outputs of these attempts that are remembered and whole; the job holds their blocks then.
pub(super) async fn recall(
    parts: &Arc<Parts>,
    job: JobId,
    manifest: FileRef,
    assignments: Vec<Assignment>,
) -> Vec<(TaskId, Attempt, Option<Remembered>)> {
    let names: Vec<_> = assignments.iter().map(|a| (a.task, a.attempt)).collect();
    let found = match keys(parts, job, manifest, &assignments).await {
        Some(keys) => find(parts, job, keys).await,
        None => Vec::new(),
    };
    let mut found = found.into_iter();
    let answer = |(task, attempt)| (task, attempt, found.next().flatten());
    names.into_iter().map(answer).collect()
}

/// The key of each attempt; none when the job does not use the memo.
async fn keys(
    parts: &Arc<Parts>,
    job: JobId,
    manifest: FileRef,
    assignments: &[Assignment],
) -> Option<Vec<Option<MemoKey>>> {
    let holders = &assignments.first()?.holders;
    let manifest = admit::manifest(parts, job, manifest, holders).await.ok()?;
    let kind = kind::find(&manifest.kind).filter(|_| manifest.memo)?;
    let key = |assignment| timeout(RECALL_BOUND, key(parts, kind, &manifest, assignment));
    let keys = join_all(assignments.iter().map(key)).await;
    Some(keys.into_iter().map(|key| key.ok().flatten()).collect())
}

async fn key(
    parts: &Parts,
    kind: &dyn Kind,
    manifest: &Manifest,
    assignment: &Assignment,
) -> Option<MemoKey> {
    let body = load(parts, &assignment.holders, &assignment.body).await?;
    let inputs = load(parts, &assignment.holders, &assignment.inputs).await?;
    let inputs: Vec<Input> = serde_json::from_slice(&inputs).ok()?;
    MemoKey::of(kind, &manifest.config, &manifest.limits, &body, &inputs)
}

async fn load(parts: &Parts, holders: &[PeerId], payload: &Payload) -> Option<Bytes> {
    match payload {
        Payload::Inline(bytes) => Some(bytes.clone()),
        Payload::File(file) => {
            let session = parts.blocks.session(holders, Tier::Cache);
            parts.blocks.read(&session, file, PAYLOAD_LIMIT).await.ok()
        }
    }
}

/// What is remembered under each key, and whole. A row that is not is dropped.
async fn find(parts: &Parts, job: JobId, keys: Vec<Option<MemoKey>>) -> Vec<Option<Remembered>> {
    let asked = keys.iter().flatten().copied().collect();
    let rows = match table::find(&parts.memo, asked).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "the memo cannot be read");
            return Vec::new();
        }
    };
    // All at once: their pins share one flush.
    let claim = async |key: &Option<MemoKey>| claim(parts, job, rows.get(&(*key)?)?).await;
    let found = join_all(keys.iter().map(claim)).await;
    let is_broken = |(key, found): (Option<MemoKey>, &Option<Remembered>)| {
        key.filter(|key| found.is_none() && rows.contains_key(key))
    };
    let broken: Vec<MemoKey> = keys.into_iter().zip(&found).filter_map(is_broken).collect();
    if !broken.is_empty()
        && let Err(error) = table::forget(&parts.memo, broken).await
    {
        tracing::warn!(%error, "the memo cannot be written");
    }
    found
}

/// The output of a row, its blocks from now on held for `job`; none when one of them is gone.
async fn claim(parts: &Parts, job: JobId, row: &str) -> Option<Remembered> {
    let Entry { output, counters, bytes_out, scratch, kept } = serde_json::from_str(row).ok()?;
    if !scratch.is_empty() {
        let linked = parts.blocks.store().link(scratch, Tier::Memo, Tier::Scratch(job)).await;
        linked.ok().filter(|linked| *linked)?;
    }
    for root in kept {
        parts.blocks.pins().pin(root, Reason::Job(job)).await.ok()?;
    }
    Some(Remembered { output, counters, bytes_out })
}

/// Remembers what a task gave. Its files must still be the job's. That it could not be remembered
/// is no failure of the task's.
pub(super) async fn remember(
    parts: &Parts,
    job: JobId,
    key: MemoKey,
    kind: &dyn Kind,
    body: &[u8],
    output: &Payload,
    counters: Counters,
) {
    match entry(parts, kind, body, output).await {
        Ok(Some(entry)) => {
            let entry = Entry { counters, ..entry };
            let (from, to) = (Tier::Scratch(job), Tier::Memo);
            let linked = parts.blocks.store().link(entry.scratch.clone(), from, to).await;
            match linked {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%job, %error, "a task's output cannot be remembered");
                    return;
                }
            }
            let text = serde_json::to_string(&entry).expect("a row of names encodes");
            if let Err(error) = table::remember(&parts.memo, key, text).await {
                tracing::warn!(%job, %error, "the memo cannot be written");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%job, %error, "a task's output cannot be remembered"),
    }
}

/// The row for an output; none when it has too many blocks, or a form its kind does not know.
async fn entry(
    parts: &Parts,
    kind: &dyn Kind,
    body: &[u8],
    output: &Payload,
) -> Result<Option<Entry>, unixfs::Error> {
    let blocks = &parts.blocks;
    let mut entry = Entry {
        output: output.clone(),
        counters: Counters::new(),
        bytes_out: 0,
        scratch: Vec::new(),
        kept: Vec::new(),
    };
    let bytes = match output {
        Payload::Inline(bytes) => bytes.clone(),
        Payload::File(file) => {
            entry.bytes_out += file.len;
            entry.scratch.extend(blocks.tree(file.cid).await?);
            let session = blocks.session(&[], Tier::Cache);
            blocks.read(&session, file, OUTPUT_LIMIT).await?
        }
    };
    let Some(files) = kind.output_files(body, &bytes) else { return Ok(None) };
    for (file, lasting) in files {
        entry.bytes_out += file.len;
        match lasting {
            Lasting::Scratch => entry.scratch.extend(blocks.tree(file.cid).await?),
            Lasting::Kept => entry.kept.push(file.cid),
        }
    }
    Ok(Some(entry).filter(|entry| entry.scratch.len() <= BLOCKS_LIMIT))
}
