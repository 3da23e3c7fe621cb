//! The items of a job as they end: lines of JSON for who follows it, and what is given to it while it runs.
//!
//! While its engine runs the lines follow its commits. Of a job that ended well they are read from its result and its
//! report, in the order of the items.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use ipdc_jobs::ids::{Cid, JobId};
use ipdc_jobs::kind::{self, Row};
use ipdc_jobs::manifest::Manifest;
use ipdc_jobs::message::{INLINE_LIMIT, Payload};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::io::StreamReader;

use super::{Asked, Context, Controller, FindError, assemble};
use crate::blocks::fetch::Session;
use crate::blocks::pins::PinError;
use crate::blocks::store::{StoreError, Tier};
use crate::blocks::unixfs::{self, FileReader};
use crate::state::pins::Reason;

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
        help("jobs of items are shown while they run, and when they are done (docs/items.md)")
    )]
    None {
        /// The job.
        job: JobId,
        /// Why.
        why: &'static str,
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
    /// The job's items as they end, each a line of JSON. Ends with the job.
    ///
    /// # Errors
    /// When there is no such job, or it has no items.
    pub async fn items(
        &self,
        job: JobId,
    ) -> Result<impl Stream<Item = Result<Bytes, ItemsError>> + Send + 'static, ItemsError> {
        let following = self.live().get(&job).map(|live| Following {
            context: Arc::clone(&self.context),
            manifest: Arc::clone(&live.manifest),
            asked: live.asked.clone(),
            commits: live.commits.clone(),
            taken: 0,
            told: HashSet::new(),
        });
        let view = self.view(job).await?;
        if kind::find(&view.kind).is_none_or(|kind| !kind.has_items()) {
            return Err(ItemsError::None { job, why: "jobs of its kind have none" });
        }
        let rows = match following {
            Some(following) => Rows::Following(self.clone(), job, following),
            None => Rows::Ended(self.ended_items(job, HashSet::new()).await?),
        };
        Ok(stream::try_unfold(rows, Rows::next))
    }

    /// The items of a job that has ended, but for those that were `told`.
    async fn ended_items(&self, job: JobId, told: HashSet<u64>) -> Result<Ended, ItemsError> {
        let view = self.view(job).await?;
        let (Some(result), Some(report)) = (view.result, view.report) else {
            return Err(ItemsError::None { job, why: "it ended without a result" });
        };
        let session = self.context.blocks.session(&[], Tier::Cache);
        let results = lines_of(&session, result, "results.jsonl").await?;
        let costs = lines_of(&session, report, "items.jsonl").await?;
        Ok(Ended { results, costs, told })
    }

    /// Gives an open job more items: a list in JSON. When this returns they are in its journal; the number of the
    /// first.
    ///
    /// # Errors
    /// When there is no such job, or it does not take them.
    pub async fn give(&self, job: JobId, items: Bytes) -> Result<u64, ItemsError> {
        let refused = |why: &str| ItemsError::Refused { job, why: why.to_owned() };
        let asked = self.live().get(&job).map(|live| live.asked.clone());
        let Some(asked) = asked else {
            self.view(job).await?;
            return Err(refused("it has ended"));
        };
        let payload = if items.len() > INLINE_LIMIT {
            let add = self.context.blocks.store().add(Tier::Durable);
            let file = self.context.blocks.add_bytes(&add, &items).await?;
            self.context.blocks.pins().pin(file.cid, Reason::Job(job)).await?;
            Payload::File(file)
        } else {
            Payload::Inline(items.clone())
        };
        let (answer, first) = oneshot::channel();
        let gone = |_| refused("it has ended");
        asked
            .send(Asked::Give { payload, items, answer })
            .await
            .map_err(|_| refused("it has ended"))?;
        first.await.map_err(gone)?.map_err(|why| ItemsError::Refused { job, why })
    }
}

/// The lines of a job's items.
enum Rows {
    Following(Controller, JobId, Following),
    Ended(Ended),
}

impl Rows {
    /// The next lines; none after the last.
    async fn next(self) -> Result<Option<(Bytes, Self)>, ItemsError> {
        let ended = match self {
            Rows::Ended(ended) => ended,
            Rows::Following(controller, job, mut following) => {
                if let Some(lines) = following.next().await? {
                    return Ok(Some((lines, Rows::Following(controller, job, following))));
                }
                // The engine went when all was over. What it had not told by then the result says.
                if following.taken >= *following.commits.borrow() {
                    return Ok(None);
                }
                match controller.ended_items(job, following.told).await {
                    Ok(ended) => ended,
                    Err(ItemsError::None { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        let next = ended.next().await?;
        Ok(next.map(|(lines, ended)| (lines, Rows::Ended(ended))))
    }
}

/// A job that runs, and how much of it was told.
struct Following {
    context: Arc<Context>,
    manifest: Arc<Manifest>,
    asked: mpsc::Sender<Asked>,
    commits: watch::Receiver<usize>,
    /// Outputs that were taken from the engine.
    taken: usize,
    /// The numbers of the items that were told.
    told: HashSet<u64>,
}

impl Following {
    /// The next lines; none when the engine is gone.
    async fn next(&mut self) -> Result<Option<Bytes>, ItemsError> {
        loop {
            let taken = self.taken;
            if self.commits.wait_for(|count| *count > taken).await.is_err() {
                return Ok(None);
            }
            let (answer, gave) = oneshot::channel();
            let asked = Asked::Gave { from: taken, most: BATCH, answer };
            if self.asked.send(asked).await.is_err() {
                return Ok(None);
            }
            let Ok(gave) = gave.await else { return Ok(None) };
            self.taken += gave.len();
            let mut lines = Vec::new();
            for output in gave {
                let gave = assemble::gave(&self.context.blocks, &output).await;
                let gave = gave.map_err(|(_, error)| ItemsError::Line(error.to_string()))?;
                let kind = kind::find(&self.manifest.kind);
                let rows = kind.map(|kind| kind.rows(&self.manifest.config, &gave));
                for row in rows.into_iter().flatten() {
                    self.told.extend(number_of(&row));
                    write_line(&mut lines, row);
                }
            }
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
        }
    }
}

type Text = Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>;

/// A job that is done.
struct Ended {
    results: Text,
    costs: Text,
    /// The numbers of the items that were told before.
    told: HashSet<u64>,
}

impl Ended {
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
