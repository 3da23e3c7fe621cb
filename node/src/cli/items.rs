//! Items of a job: shown as they end, given, and no more given.

use std::io::{BufRead as _, IsTerminal as _};
use std::str::FromStr as _;

use clap::Args;
use ipdc_jobs::engine::{BadGiftKey, GiftKey};
use serde_json::Value;

use super::Session;
use super::error::CliError;
use super::jobs::JobPrefix;
use super::output::{Output, write_stdout};
use super::progress::Progress;
use super::run::Place;
use crate::api::client::Client;
use crate::controller::GIFT_LIMIT;

/// Items that are given at a time.
const BATCH: usize = 1_000;

/// Bytes of items that are given at a time: a list in JSON may be six times as long.
const BATCH_BYTES: usize = GIFT_LIMIT / 8;

#[derive(Debug, Args)]
pub(super) struct ShowItems {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
    /// Only those that failed
    #[arg(long)]
    failed: bool,
}

impl ShowItems {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let progress = Progress::new(session.output);
        show(&mut Place::new(session.home()?)?, &self.id.0, self.failed, &progress).await
    }
}

#[derive(Debug, Args)]
pub(super) struct GiveItems {
    /// The job's ID, or as much of its beginning as no other has
    #[arg(value_name = "ID")]
    id: JobPrefix,
    /// The items; none, the lines of stdin
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
    /// Give no more after these: the job ends when they have
    #[arg(long)]
    close: bool,
    /// A text of yours: the same items given again with it are taken once
    #[arg(long, value_name = "TEXT", value_parser = gift_key)]
    key: Option<String>,
}

/// Checks a key of what is given in batches, each of which has its number behind it.
fn gift_key(text: &str) -> Result<String, BadGiftKey> {
    GiftKey::from_str(text).and_then(|_| key_of_batch(text, u64::MAX)).map(|_| text.to_owned())
}

fn key_of_batch(key: &str, batch: u64) -> Result<GiftKey, BadGiftKey> {
    format!("{key}.{batch}").parse()
}

impl GiveItems {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let (client, id) = (session.client()?, &self.id.0);
        // Who only closes the job types nothing.
        let types_nothing = self.close && std::io::stdin().is_terminal();
        if !self.items.is_empty() || !types_nothing {
            self.give(&client, session.output).await?;
        }
        if self.close {
            client.close(id).await?;
        }
        Ok(())
    }

    async fn give(&self, client: &Client, output: Output) -> Result<(), CliError> {
        let mut given = 0;
        let mut gifts = Gifts::new(client, &self.id.0, self.key.as_deref());
        for item in self.all() {
            let item = item.map_err(CliError::file("read", std::path::Path::new("stdin")))?;
            gifts.add(item).await?;
            given += 1;
        }
        gifts.send().await?;
        output.note(format!("{given} items given"));
        Ok(())
    }

    fn all(&self) -> Box<dyn Iterator<Item = std::io::Result<String>> + '_> {
        if self.items.is_empty() {
            let lines = std::io::stdin().lock().lines();
            return Box::new(lines.filter(|line| !matches!(line, Ok(line) if line.is_empty())));
        }
        Box::new(self.items.iter().cloned().map(Ok))
    }
}

/// Items on their way to a job, in batches.
struct Gifts<'a> {
    client: &'a Client,
    job: &'a str,
    key: Option<&'a str>,
    batch: Vec<Value>,
    bytes: usize,
    /// Batches that were sent.
    sent: u64,
}

impl<'a> Gifts<'a> {
    fn new(client: &'a Client, job: &'a str, key: Option<&'a str>) -> Self {
        Gifts { client, job, key, batch: Vec::new(), bytes: 0, sent: 0 }
    }

    async fn add(&mut self, item: String) -> Result<(), CliError> {
        self.bytes += item.len();
        self.batch.push(Value::from(item));
        if self.batch.len() == BATCH || self.bytes >= BATCH_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what there is.
    async fn send(&mut self) -> Result<(), CliError> {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            let key = self.key.map(|key| key_of_batch(key, self.sent));
            let key = key.transpose().expect("it was checked with the longest number");
            self.client.give(self.job, key, &batch).await?;
            self.sent += 1;
        }
        self.bytes = 0;
        Ok(())
    }
}

/// Prints the job's items as they end, until it has. When the node goes and comes back it goes on where it was.
pub(super) async fn show(
    place: &mut Place,
    id: &str,
    only_failed: bool,
    progress: &Progress,
) -> Result<(), CliError> {
    let has_ended = place.client().job(id).await?.state.is_end();
    let mut shown = Shown { only_failed, progress, had: (!has_ended).then_some(0), heard: false };
    let mut away = None;
    loop {
        let error = match shown.go_on(place.client(), id).await {
            // What ended is there as a whole, or not at all.
            Err(CliError::Node(error)) if !has_ended => error,
            ended => return ended,
        };
        if std::mem::take(&mut shown.heard) {
            away = None;
        }
        place.wait(&mut away, error).await?;
    }
}

/// A list of items on its way to stdout.
struct Shown<'a> {
    only_failed: bool,
    progress: &'a Progress,
    /// How many lines came, of a job that runs.
    had: Option<u64>,
    /// Whether anything came since that was looked at last.
    heard: bool,
}

impl Shown<'_> {
    /// Prints what comes after that which came before.
    async fn go_on(&mut self, client: &Client, id: &str) -> Result<(), CliError> {
        let mut lines = client.items(id, self.had).await?;
        let mut rest = Vec::new();
        while let Some(part) = lines.next_chunk().await? {
            self.heard = true;
            rest.extend_from_slice(&part);
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let text: Vec<u8> = rest.drain(..whole).collect();
            self.put(&text)?;
        }
        Ok(())
    }

    fn put(&mut self, text: &[u8]) -> Result<(), CliError> {
        // Empty ones are signs of life.
        let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.len() > 1);
        let lines: Vec<&[u8]> = lines.collect();
        self.had = self.had.map(|had| had + lines.len() as u64);
        let shown = lines.into_iter().filter(|line| !self.only_failed || is_failed(line));
        let shown = shown.collect::<Vec<_>>().concat();
        let mut written = Ok(());
        self.progress.above(|| written = write_stdout(&shown));
        written
    }
}

/// Whether a line is of an item that failed.
fn is_failed(line: &[u8]) -> bool {
    let row = serde_json::from_slice::<Value>(line);
    row.is_ok_and(|row| row["status"] == "failed")
}
