//! Makes text, counts its words natively, and measures ipdc against that.

mod measure;
mod process;
mod results;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ipdc_tests::text::{Text, write_counts};

/// What to do.
#[derive(Parser)]
enum Command {
    /// Write the text of a seed to standard output: whole lines, at least so many bytes
    Corpus {
        #[arg(long)]
        bytes: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Count a file's words on one thread: what a correct word count must give
    Native {
        file: PathBuf,
        /// Where the `word<TAB>count` lines go
        #[arg(default_value = "/dev/null")]
        out: PathBuf,
    },
    /// Measure the `ipdc` that lies beside this program
    Measure {
        /// The page to write; what was written there by hand stays
        #[arg(long)]
        out: PathBuf,
        /// A folder with another text generator and native count, built; see ../shared/bench
        #[arg(long)]
        yardstick: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Corpus { bytes, seed } => {
            Text::new(seed).write(bytes, &mut io::stdout().lock()).map(drop)
        }
        Command::Native { file, out } => native(&file, &out),
        Command::Measure { out, yardstick } => measure::all(yardstick.as_deref()).write(&out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipdc-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn native(file: &Path, out: &Path) -> io::Result<()> {
    let start = Instant::now();
    let text = std::fs::read(file)?;
    write_counts(&text, &mut File::create(out)?)?;
    println!("native threads=1 seconds={:.3}", start.elapsed().as_secs_f64());
    Ok(())
}
