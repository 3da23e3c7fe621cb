//! `export` and `import`: trees of blocks as CAR files, for everyone who is not in the swarm.

use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Args;

use super::Session;
use super::error::CliError;
use super::output::{Answer, size, write_stdout};
use super::progress::Progress;
use super::transfer::STDIN;
use crate::api::client::Meter;
use crate::view::{AddQuery, ContentPath, Imported};

/// Write a file or directory, as the blocks it is made of, to stdout: a CAR
#[derive(Debug, Args)]
pub(super) struct Export {
    /// What to write: a CID, or a path below one
    #[arg(value_name = "CID[/PATH]")]
    from: ContentPath,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        if io::stdout().is_terminal() {
            return Err(CliError::Terminal { path: self.from });
        }
        let mut download = session.client()?.export(&self.from).await?;
        let mut bytes = 0;
        let broken = |bytes| move |source| CliError::BrokenOff { bytes, source };
        while let Some(chunk) = download.next_chunk().await.map_err(broken(bytes))? {
            write_stdout(&chunk)?;
            bytes += chunk.len() as u64;
        }
        Ok(())
    }
}

/// Take in the blocks of a CAR, and pin what it holds
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The CAR; `-` is stdin
    #[arg(value_name = "FILE")]
    path: PathBuf,
}

impl Import {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        let progress = Progress::new(session.output);
        let meter = Meter::default();
        let label = format!("importing {}", self.path.display());
        let query = AddQuery::default();
        let imported = if self.path.as_os_str() == STDIN {
            let importing = client.import(tokio::io::stdin(), query, &meter);
            progress.during(&label, &meter, None, importing).await?
        } else {
            let failed = || CliError::file("read", &self.path);
            let file = fs::File::open(&self.path).map_err(failed())?;
            let len = file.metadata().map_err(failed())?.len();
            let importing = client.import(tokio::fs::File::from_std(file), query, &meter);
            progress.during(&label, &meter, Some(len), importing).await?
        };
        drop(progress);
        session.output.put(&imported)
    }
}

impl Answer for Imported {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        for root in &self.roots {
            writeln!(to, "{root}  {} in {} blocks", size(self.bytes), self.blocks)?;
        }
        Ok(())
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.roots.iter().try_for_each(|root| writeln!(to, "{root}"))
    }
}
