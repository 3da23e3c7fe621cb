//! Images that containers run in: `images ls`, `add`, `rm`.

use std::io::{self, Write};
use std::path::Path;

use clap::{Args, Subcommand};
use ipdc_jobs::ids::Cid;
use serde::Serialize;

use super::Session;
use super::containers::archive;
use super::error::CliError;
use super::output::{Answer, harmless, put_table, size, table};
use super::progress::Progress;
use crate::view::{ImageView, NewImage};

/// Look after images that containers and renderings run in
#[derive(Debug, Args)]
pub(super) struct Images {
    #[command(subcommand)]
    command: Option<ImagesCommand>,
}

#[derive(Debug, Subcommand)]
enum ImagesCommand {
    /// List those that are known here
    Ls,
    /// Bring one into blocks and keep it, so that any node can run it by its CID
    Add {
        /// Its name in this machine's engine, or a file as `docker save` writes it
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Forget some, by their CIDs
    Rm {
        /// The images
        #[arg(value_name = "CID", required = true)]
        cids: Vec<Cid>,
    },
}

impl Images {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = session.client()?;
        match self.command.unwrap_or(ImagesCommand::Ls) {
            ImagesCommand::Ls => session.output.put(&ImageList(client.images().await?)),
            ImagesCommand::Add { image } => {
                let progress = Progress::new(session.output);
                let archive = archive(&client, &image, &progress).await?;
                let file = archive.and_then(|_| Path::new(&image).file_name()?.to_str());
                progress.say("bringing the image into blocks");
                let name = file.unwrap_or(&image).to_owned();
                let new = NewImage { name, archive };
                let added = client.add_image(&new).await?;
                drop(progress);
                session.output.put(&added)
            }
            ImagesCommand::Rm { cids } => {
                for cid in &cids {
                    client.remove_image(cid).await?;
                }
                Ok(())
            }
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct ImageList(Vec<ImageView>);

impl Answer for ImageList {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(&["IMAGE", "NAMES", "IN ENGINE", "KEPT"]);
        for view in &self.0 {
            rows.add_row([
                view.cid.to_string(),
                harmless(&view.names.join(" ")),
                view.loaded.map(size).unwrap_or_default(),
                if view.kept { "yes".into() } else { String::new() },
            ]);
        }
        put_table(to, &rows)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|view| writeln!(to, "{}", view.cid))
    }
}

impl Answer for ImageView {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.cid)
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        self.text(to)
    }
}
