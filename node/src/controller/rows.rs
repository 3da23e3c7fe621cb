//! The items of a job as they end: lines of JSON for who follows it, and what is given to it while it runs.
//!
//! While its engine runs the lines follow its commits. Of a job that is done they are read from its result and its
//! report, in the order of the items. Of one that ended otherwise the journal is replayed, as long as it is kept.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use ipdc_jobs::engine::{Engine, GiftKey, Output, Record};
use ipdc_jobs::ids::{CODEC_RAW, Cid, FileRef, JobId, cid_of};
use ipdc_jobs::kind::{self, Row};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::message::{INLINE_LIMIT, Payload};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio_util::io::StreamReader;

use super::{Asked, Controller, FindError, assemble, open, plan};
use crate::blocks::fetch::Session;
use crate::blocks::pins::PinError;
use crate::blocks::store::{StoreError, Tier};
use crate::blocks::unixfs::{self, FileReader};
use crate::state::StateError;
use crate::state::jobs::{self, JOURNALS_KEPT};
use crate::state::pins::Reason;
use crate::view::JobState;

/// What tasks gave that is asked of an engine at a time.
const BATCH: usize = 64;

/// Bytes of a result that are read at a time.
const READ: usize = 1 << 20;

/// Bytes of lines that are sent at a time.
const SEND: usize = 64 << 10;

/// The most bytes that can be given at once.
pub const GIFT_LIMIT: usize = 4 << 20;

/// Why a job's items cannot be told, or nothing be given to it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ItemsError {
    /// No such job.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Find(#[from] FindError),
    /// It has none, or they were not kept.
    #[error("job {job} has no items to show: {why}")]
    #[diagnostic(
        code("IPDC-5610"),
        help(
            "`ipdc job show {job}` says of which kind it is and how it ended; what nodes remember of its items is not run again, if you submit it again"
        )
    )]
    None {
        /// The job.
        job: JobId,
        /// Why.
        why: String,
    },
    /// It takes nothing.
    #[error("nothing can be given to job {job}: {why}")]
    #[diagnostic(
        code("IPDC-5611"),
        help(
            "a job with `open = true` in its job.toml takes items until it is closed (docs/items.md)"
        )
    )]
    Refused {
        /// The job.
        job: JobId,
        /// Why.
        why: String,
    },
    /// The database failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
    /// A file of its result could not be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Files(#[from] unixfs::Error),
    /// What was given could not be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// What was given could not be kept.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pin(#[from] PinError),
    /// What a worker gave could not be read.
    #[error("a line cannot be read: {0}")]
    #[diagnostic(code("IPDC-5612"), help("ask again; if it stays so, look at the node's log"))]
    Line(String),
}

impl Controller {
    /// The job's items as they end, each a line of JSON. Ends with the job. Of a job that is done they come in the order
    /// of their numbers; with `after`, in that of their ends, as of every other, without so many of the first.
    ///
    /// # Errors
    /// When there is no such job, or it has no items to show.
    pub async fn items(
        &self,
        job: JobId,
        after: Option<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, ItemsError>> + Send + 'static, ItemsError> {
        let live = self.live().get(&job).map(|live| {
            let source = Source::Live { asked: live.asked.clone(), commits: live.commits.clone() };
            (Arc::clone(&live.manifest), source)
        });
        let view = self.view(job).await?;
        if kind::find(&view.kind).is_none_or(|kind| !kind.has_items()) {
            return Err(ItemsError::None { job, why: "jobs of its kind have none".to_owned() });
        }
        let (manifest, source) = match live {
            Some(live) => live,
            None if view.state == JobState::Done && after.is_none() => {
                let rows = Rows::Result(self.of_result(job, HashSet::new()).await?);
                return Ok(stream::try_unfold(rows, Rows::next));
            }
            None => {
                let (manifest, engine) = self.replayed(job).await?;
                (manifest, Source::Kept(engine))
            }
        };
        let left_out = after.unwrap_or(0);
        let told = HashSet::new();
        let controller = self.clone();
        let ends = Ends { controller, job, manifest, source, taken: 0, told, left_out };
        let rows = Rows::Ends(ends);
        Ok(stream::try_unfold(rows, Rows::next))
    }

    /// The items of a job that is done, but for those that were `told`.
    async fn of_result(&self, job: JobId, told: HashSet<u64>) -> Result<OfResult, ItemsError> {
        let view = self.view(job).await?;
        let (Some(result), Some(report)) = (view.result, view.report) else {
            return Err(ItemsError::None { job, why: "it ended without a result".to_owned() });
        };
        let session = self.context.blocks.session(&[], Tier::Cache);
        let results = lines_of(&session, result, "results.jsonl").await?;
        let costs = lines_of(&session, report, "items.jsonl").await?;
        Ok(OfResult { results, costs, told })
    }

    /// A job that ended, brought by its journal to where it was then.
    async fn replayed(&self, job: JobId) -> Result<(Arc<Manifest>, Box<Engine>), ItemsError> {
        let none = |why: String| ItemsError::None { job, why };
        let records = self.context.journal(job).await?;
        let Some(Record::Epoch { epoch }) = records.first() else {
            let kept = "a node keeps the journals of the last";
            return Err(none(format!("{kept} {JOURNALS_KEPT} jobs that ended")));
        };
        let stored = jobs::manifest(&self.context.db, job).await?.unwrap_or_default();
        let manifest = open(&stored).map_err(|error| none(error.to_string()))?;
        let file = FileRef { cid: cid_of(CODEC_RAW, &stored), len: stored.len() as u64 };
        let planned = plan(&self.context, (job, *epoch), file, manifest.clone(), Vec::new()).await;
        let (plan, _) = planned.map_err(|error| none(error.message))?;
        // What follows from a long journal may be read from files.
        let replayed = spawn_blocking(move || Engine::new(plan, Duration::ZERO, records).0).await;
        let engine = replayed.map_err(|error| none(error.to_string()))?;
        if engine.has_lost_its_way() {
            return Err(none("this node has not kept all that its tasks gave".to_owned()));
        }
        Ok((Arc::new(manifest), Box::new(engine)))
    }

    /// Gives an open job more items: a list in JSON. When this returns they are in its journal; the number of the
    /// first. Given again with the same key they are taken once.
    ///
    /// # Errors
    /// When there is no such job, or it does not take them.
    pub async fn give(
        &self,
        job: JobId,
        key: Option<GiftKey>,
        items: Bytes,
    ) -> Result<u64, ItemsError> {
        let asked = self.live().get(&job).map(|live| live.asked.clone());
        if let Some(asked) = asked {
            let payload = self.gift(job, &items).await?;
            let (answer, first) = oneshot::channel();
            // An engine that went gives no answer.
            let _ = asked.send(Asked::Give { key: key.clone(), payload, items, answer }).await;
            if let Ok(first) = first.await {
                return first.map_err(|why| ItemsError::Refused { job, why });
            }
        }
        self.view(job).await?;
        // It may have been taken before the job ended.
        if let Some(key) = key
            && let Ok((_, engine)) = self.replayed(job).await
            && let Some(first) = engine.gift(&key)
        {
            return Ok(first);
        }
        Err(ItemsError::Refused { job, why: "it has ended".to_owned() })
    }

    /// Keeps files on this node as long as a job is under way: those that its items name. What is missing here of them
    /// is fetched.
    ///
    /// # Errors
    /// When there is no such job, or it has ended; when a file cannot be had.
    pub async fn keep(&self, job: JobId, files: &[Cid]) -> Result<(), ItemsError> {
        let has_ended = async || self.view(job).await.map(|view| view.state.is_end());
        if !has_ended().await? {
            let (blocks, reason) = (&self.context.blocks, Reason::Job(job));
            let session = blocks.session(&[], Tier::Durable);
            for file in files {
                session.fetch_all(*file, |_| {}).await?;
                blocks.pins().pin(*file, reason).await?;
            }
            if !has_ended().await? {
                return Ok(());
            }
            // It may have let go before of what it had then.
            blocks.pins().release(reason).await?;
        }
        Err(ItemsError::Refused { job, why: "it has ended".to_owned() })
    }

    /// Cancels items of a job, by their numbers. When this returns the journal holds it; those that were, the others
    /// have ended, or will. A job that has ended has none to cancel.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn withdraw(&self, job: JobId, items: BTreeSet<u64>) -> Result<Vec<u64>, FindError> {
        let asked = self.live().get(&job).map(|live| live.asked.clone());
        let Some(asked) = asked else { return self.view(job).await.map(|_| Vec::new()) };
        let (answer, cancelled) = oneshot::channel();
        // An engine that went gives no answer.
        let _ = asked.send(Asked::Withdraw { items, answer }).await;
        Ok(cancelled.await.unwrap_or_default())
    }

    /// What is given, as the journal keeps it.
    async fn gift(&self, job: JobId, items: &Bytes) -> Result<Payload, ItemsError> {
        if items.len() <= INLINE_LIMIT {
            return Ok(Payload::Inline(items.clone()));
        }
        let add = self.context.blocks.store().add(Tier::Durable);
        let file = self.context.blocks.add_bytes(&add, items).await?;
        self.context.blocks.pins().pin(file.cid, Reason::Job(job)).await?;
        Ok(Payload::File(file))
    }
}

/// The lines of a job's items.
enum Rows {
    /// In the order of their ends.
    Ends(Ends),
    /// In the order of their numbers.
    Result(OfResult),
}

impl Rows {
    /// The next lines; none after the last.
    async fn next(self) -> Result<Option<(Bytes, Self)>, ItemsError> {
        let result = match self {
            Rows::Result(result) => result,
            Rows::Ends(mut ends) => {
                if let Some(lines) = ends.next().await? {
                    return Ok(Some((lines, Rows::Ends(ends))));
                }
                match ends.rest().await? {
                    None => return Ok(None),
                    Some(rest) => return Box::pin(rest.next()).await,
                }
            }
        };
        let next = result.next().await?;
        Ok(next.map(|(lines, result)| (lines, Rows::Result(result))))
    }
}

/// Where what tasks gave is asked for.
enum Source {
    /// Of a job that runs.
    Live { asked: mpsc::Sender<Asked>, commits: watch::Receiver<usize> },
    /// Of one that ended.
    Kept(Box<Engine>),
}

impl Source {
    /// What tasks gave from the `from`-th on, as soon as there is any; nothing when the engine is gone, or has no more.
    async fn gave(&mut self, from: usize) -> Vec<Output> {
        let (asked, commits) = match self {
            Source::Kept(engine) => return engine.gave(from, BATCH),
            Source::Live { asked, commits } => (asked, commits),
        };
        if commits.wait_for(|count| *count > from).await.is_err() {
            return Vec::new();
        }
        let (answer, gave) = oneshot::channel();
        // Who does not answer is gone.
        let _ = asked.send(Asked::Gave { from, most: BATCH, answer }).await;
        gave.await.unwrap_or_default()
    }
}

/// Items in the order of their ends, and how many of them were told.
struct Ends {
    controller: Controller,
    job: JobId,
    manifest: Arc<Manifest>,
    source: Source,
    /// Outputs that were taken from the engine.
    taken: usize,
    /// The numbers of the items that were told.
    told: HashSet<u64>,
    /// How many of those that come first are not told: they were before.
    left_out: u64,
}

impl Ends {
    /// The next lines; none when the engine is gone, or has no more.
    async fn next(&mut self) -> Result<Option<Bytes>, ItemsError> {
        loop {
            let gave = self.source.gave(self.taken).await;
            if gave.is_empty() {
                return Ok(None);
            }
            self.taken += gave.len();
            let mut lines = Vec::new();
            for output in gave {
                let gave = assemble::gave(&self.controller.context.blocks, &output).await;
                let gave = gave.map_err(|(_, error)| ItemsError::Line(error.to_string()))?;
                let kind = kind::find(&self.manifest.kind);
                let rows = kind.map(|kind| kind.rows(&self.manifest.config, &gave));
                for row in rows.into_iter().flatten() {
                    // Of an item that was run again for what it gave, the first counts.
                    if number_of(&row).is_some_and(|n| !self.told.insert(n)) {
                        continue;
                    }
                    if self.left_out > 0 {
                        self.left_out -= 1;
                    } else {
                        write_line(&mut lines, row);
                    }
                }
            }
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
        }
    }

    /// What is still to be told, when the engine went before it had told all.
    async fn rest(self) -> Result<Option<Rows>, ItemsError> {
        match &self.source {
            Source::Live { commits, .. } if self.taken < *commits.borrow() => {}
            _ => return Ok(None),
        }
        match self.controller.replayed(self.job).await {
            Ok((_, engine)) => Ok(Some(Rows::Ends(Ends { source: Source::Kept(engine), ..self }))),
            // In another order nothing can be left out.
            Err(error) if self.left_out > 0 => Err(error),
            Err(error) => match self.controller.of_result(self.job, self.told).await {
                Ok(result) => Ok(Some(Rows::Result(result))),
                Err(_) => Err(error),
            },
        }
    }
}

type Text = Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>;

/// Items of a job that is done, in the order of their numbers.
struct OfResult {
    results: Text,
    costs: Text,
    /// The numbers of the items that were told before.
    told: HashSet<u64>,
}

impl OfResult {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ItemsError> {
        let broken = |error: &dyn std::fmt::Display| ItemsError::Line(error.to_string());
        let mut lines = Vec::new();
        while lines.len() < SEND {
            let result = self.results.next_line().await.map_err(|error| broken(&error))?;
            let cost = self.costs.next_line().await.map_err(|error| broken(&error))?;
            let (Some(result), Some(cost)) = (result, cost) else { break };
            let mut row: Row = serde_json::from_str(&result).map_err(|error| broken(&error))?;
            let cost: Row = serde_json::from_str(&cost).map_err(|error| broken(&error))?;
            row.extend(cost);
            if number_of(&row).is_none_or(|n| !self.told.contains(&n)) {
                write_line(&mut lines, row);
            }
        }
        if lines.is_empty() { Ok(None) } else { Ok(Some((lines.into(), self))) }
    }
}

/// The number of the item that a line is of.
fn number_of(row: &Row) -> Option<u64> {
    row.get("n")?.as_u64()
}

fn write_line(lines: &mut Vec<u8>, row: Row) {
    lines.extend_from_slice(Value::Object(row).to_string().as_bytes());
    lines.push(b'\n');
}

/// The lines of a file in the directory `root`.
async fn lines_of(session: &Session, root: Cid, name: &str) -> Result<Text, unixfs::Error> {
    let file = unixfs::resolve(session, root, name).await?;
    let file = FileReader::open(session.clone(), file).await?;
    let all = 0..file.len();
    let parts = file.stream(all, READ);
    let parts = parts.map_err(std::io::Error::other).boxed();
    let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(StreamReader::new(parts));
    Ok(BufReader::new(reader).lines())
}
