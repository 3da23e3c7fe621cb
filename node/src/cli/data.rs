//! Data: `add`, `get`, `cat`, `ls`, `pin`, `unpin`, `gc`, `du`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use ipdc_jobs::ids::Cid;
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::{Answer, put_table, size, table, write_stdout};
use super::progress::Progress;
use super::transfer::{self, Fetched, Sent};
use crate::view::{ByteRange, Collected, ContentPath, Listing, NodeKind, Pin, Usage};

/// Add files, directories, or stdin to the swarm, and pin them
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Files and directories; `-` is stdin. Symbolic links inside a directory are skipped
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Add {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let progress = Progress::new(session.output);
        let mut all = Vec::new();
        for path in self.paths {
            let sent = transfer::send(&client, &path, &progress).await?;
            for skipped in &sent.skipped {
                let path = skipped.display();
                session.output.note(format!("skipped {path}: neither a file nor a directory"));
            }
            all.push(AddedPath { path, sent });
        }
        drop(progress);
        session.output.put(&AddedPaths(all))
    }
}

#[derive(Debug, Serialize)]
struct AddedPath {
    path: PathBuf,
    #[serde(flatten)]
    sent: Sent,
}

/// One JSON object for one path, an array of them for several.
#[derive(Debug)]
struct AddedPaths(Vec<AddedPath>);

impl Serialize for AddedPaths {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl Answer for AddedPaths {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|AddedPath { path, sent }| {
            writeln!(to, "{}  {}  {}", sent.added.cid, size(sent.added.size), path.display())
        })
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|path| writeln!(to, "{}", path.sent.added.cid))
    }
}

/// Fetch a file or a directory
#[derive(Debug, Args)]
pub(super) struct Get {
    /// What to fetch: a CID, or a path below one
    #[arg(value_name = "CID[/PATH]")]
    from: ContentPath,
    /// Where to put it; without this, its name (or CID) in the working directory
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
}

impl Get {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let goal = self.output.unwrap_or_else(|| match self.from.parts.last() {
            Some(name) => name.into(),
            None => self.from.root.to_string().into(),
        });
        let progress = Progress::new(session.output);
        let fetched = transfer::fetch(&client, &self.from, &goal, &progress).await?;
        drop(progress);
        session.output.put(&Got { path: goal, fetched })
    }
}

#[derive(Debug, Serialize)]
struct Got {
    path: PathBuf,
    #[serde(flatten)]
    fetched: Fetched,
}

impl Answer for Got {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}  {}", self.path.display(), size(self.fetched.size))
    }
}

/// Write a file's bytes to stdout
#[derive(Debug, Args)]
pub(super) struct Cat {
    /// The file: a CID, or a path below one
    #[arg(value_name = "CID[/PATH]")]
    from: ContentPath,
    /// Only these bytes: `0-99` is the first hundred, `100-` all after them
    #[arg(long, value_name = "A-B")]
    range: Option<ByteRange>,
}

impl Cat {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let mut download = session.client()?.cat(&self.from, self.range).await?;
        while let Some(chunk) = download.next_chunk().await? {
            write_stdout(&chunk)?;
        }
        Ok(())
    }
}

/// List a directory
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// The directory: a CID, or a path below one
    #[arg(value_name = "CID[/PATH]")]
    path: ContentPath,
}

impl Ls {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let listing = session.client()?.ls(&self.path).await?;
        session.output.put(&listing)
    }
}

impl Answer for Listing {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        if self.kind == NodeKind::File {
            return writeln!(to, "{}  {}  file", self.cid, size(self.size));
        }
        let mut rows = table(&["NAME", "SIZE", "CID"]);
        for entry in &self.entries {
            let slash = if entry.kind == NodeKind::Dir { "/" } else { "" };
            let name = format!("{}{slash}", entry.name.escape_debug());
            rows.add_row([name, size(entry.size), entry.cid.to_string()]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.entries.iter().try_for_each(|entry| writeln!(to, "{}", entry.name))
    }
}

/// Keep content on this node; without a CID, list what is kept
#[derive(Debug, Args)]
pub(super) struct PinCommand {
    /// What to keep, with all below it
    #[arg(value_name = "CID")]
    cids: Vec<Cid>,
}

impl PinCommand {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        if self.cids.is_empty() {
            return session.output.put(&Pins(client.pins().await?));
        }
        let progress = Progress::new(session.output);
        for cid in &self.cids {
            progress.say(format!("pinning {cid}"));
            client.pin(cid).await?;
        }
        drop(progress);
        session.output.put(&Changed::new("pinned", &self.cids))
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Pins(Vec<Pin>);

impl Answer for Pins {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["CID", "FOR"]);
        for pin in &self.0 {
            rows.add_row([pin.cid.to_string(), pin.reason.clone()]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|pin| writeln!(to, "{}", pin.cid))
    }
}

/// Keep content no more
#[derive(Debug, Args)]
pub(super) struct Unpin {
    /// What not to keep for the user any more; jobs keep what they need
    #[arg(required = true, value_name = "CID")]
    cids: Vec<Cid>,
}

impl Unpin {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        for cid in &self.cids {
            client.unpin(cid).await?;
        }
        session.output.put(&Changed::new("unpinned", &self.cids))
    }
}

#[derive(Debug, Serialize)]
struct Changed {
    #[serde(skip)]
    how: &'static str,
    cids: Vec<String>,
}

impl Changed {
    fn new(how: &'static str, cids: &[Cid]) -> Self {
        Changed { how, cids: cids.iter().map(ToString::to_string).collect() }
    }
}

impl Answer for Changed {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        self.cids.iter().try_for_each(|cid| writeln!(to, "{} {cid}", self.how))
    }
}

/// Remove blocks that nothing needs
#[derive(Debug, Args)]
pub(super) struct Gc {}

impl Gc {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let progress = Progress::new(session.output);
        progress.say("collecting");
        let collected = client.gc().await?;
        drop(progress);
        session.output.put(&collected)
    }
}

impl Answer for Collected {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "removed {} blocks, {}", self.blocks, size(self.bytes))
    }
}

/// Show what the node's home takes
#[derive(Debug, Args)]
pub(super) struct Du {}

impl Du {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let usage = session.client()?.du().await?;
        session.output.put(&usage)
    }
}

impl Answer for Usage {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["WHAT", "SIZE"]);
        rows.add_row(["blocks".to_owned(), size(self.durable)]);
        rows.add_row(["of them pinned".to_owned(), size(self.pinned)]);
        rows.add_row(["running jobs".to_owned(), size(self.scratch)]);
        rows.add_row(["remembered outputs".to_owned(), size(self.memo)]);
        rows.add_row(["caches".to_owned(), size(self.cache)]);
        rows.add_row(["free on the disk".to_owned(), size(self.free)]);
        put_table(to, &rows)
    }
}
