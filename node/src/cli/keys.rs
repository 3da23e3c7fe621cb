//! The keys that all depend on: `rekey`, `root export`, `root restore`.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use connexa::prelude::Multiaddr;
use ipdc_jobs::ids::PeerId;
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::Answer;
use super::setup;
use crate::view;

/// The longest passphrase, in bytes.
const PASSPHRASE_LIMIT: u64 = 1024;

/// Give the swarm a new key, so that the old one opens nothing any more
#[derive(Debug, Args)]
pub(super) struct Rekey {}

impl Rekey {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let rekeyed = session.client()?.rekey().await?;
        if !rekeyed.away.is_empty() {
            session.output.note(
                "who was away cannot connect any more: on each, with the node stopped, `ipdc join TOKEN` \
                 with a token that `ipdc invite` prints from now on; it keeps its jobs and data",
            );
        }
        session.output.put(&rekeyed)
    }
}

impl Answer for view::Rekeyed {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "the swarm's new key is used in {} s", self.switch_s)?;
        self.told.iter().try_for_each(|peer| writeln!(to, "told {peer}"))?;
        self.away.iter().try_for_each(|peer| writeln!(to, "away {peer}"))
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.away.iter().try_for_each(|peer| writeln!(to, "{peer}"))
    }
}

/// Keep the root's key safe elsewhere: who has it decides who is a member
#[derive(Debug, Subcommand)]
pub(super) enum Root {
    Export(Export),
    Restore(Restore),
}

impl Root {
    pub(super) fn run(self, session: &Session) -> Result<(), CliError> {
        match self {
            Root::Export(command) => command.run(session),
            Root::Restore(command) => command.run(session),
        }
    }
}

/// Write the root's key to a file, encrypted with a passphrase
#[derive(Debug, Args)]
pub(super) struct Export {
    /// Where to; nothing may be there
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Export {
    fn run(self, session: &Session) -> Result<(), CliError> {
        let home = session.home()?;
        let passphrase = passphrase(true)?;
        let root = setup::export_root(&home, &self.file, &passphrase)?;
        session
            .output
            .note("keep the file and the passphrase apart; `ipdc root restore FILE` reads it");
        session.output.put(&Kept { root, file: self.file })
    }
}

/// Make this node the one with the root's key, from a backup
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// What `ipdc root export` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where there is no home yet: make one, with the `swarm.key` of any member's home
    #[arg(long, value_name = "FILE")]
    swarm_key: Option<PathBuf>,
    /// With --swarm-key: where a member is, as its `ipdc status` says
    #[arg(long, value_name = "ADDR", requires = "swarm_key")]
    bootstrap: Vec<Multiaddr>,
    /// With --swarm-key: the swarm's name, for people
    #[arg(long, value_name = "NAME", requires = "swarm_key")]
    domain: Option<String>,
}

impl Restore {
    fn run(self, session: &Session) -> Result<(), CliError> {
        let home = session.home()?;
        let passphrase = passphrase(false)?;
        let root = match self.swarm_key {
            None => setup::restore_root(&home, &self.file, &passphrase)?,
            Some(key) => {
                let new = setup::NewHome { domain: self.domain, bootstrap: self.bootstrap };
                setup::root_home(&home, &self.file, &passphrase, &key, new)?
            }
        };
        session.output.note("start the node with `ipdc start`: it may invite, delegate and revoke");
        session.output.put(&Kept { root, file: self.file })
    }
}

/// The answer of `root export` and `root restore`.
#[derive(Debug, Serialize)]
struct Kept {
    root: PeerId,
    file: PathBuf,
}

impl Answer for Kept {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{} holds the key of root {}", self.file.display(), self.root)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.root)
    }
}

/// Asks for the passphrase where there is somebody to ask, twice for a `new` one; else it is the first
/// line of stdin.
fn passphrase(new: bool) -> Result<String, CliError> {
    let stdin = CliError::file("read", "stdin");
    if !io::stdin().is_terminal() {
        let mut text = String::new();
        io::stdin().take(PASSPHRASE_LIMIT).read_to_string(&mut text).map_err(stdin)?;
        return Ok(text.lines().next().unwrap_or_default().to_owned());
    }
    let ask = |what: &str| rpassword::prompt_password(what);
    let first = ask("passphrase: ").map_err(CliError::file("read", "the terminal"))?;
    if new && first != ask("again: ").map_err(CliError::file("read", "the terminal"))? {
        return Err(CliError::Passphrases);
    }
    Ok(first)
}
