//! Makes text, counts its words natively, and measures ipdc against that.

mod figures;
mod keys;
mod measure;
mod native;
mod plain;
mod process;
mod results;
mod spent;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser};
use figures::Figure;
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
    /// Run a command, and say what it and all that it started spent
    Spent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Measure the `ipdc` that lies beside this program
    Measure(Measure),
}

/// What to measure, and how.
#[derive(Args)]
struct Measure {
    /// The page to write; what was written there by hand stays. The results are kept beside it
    #[arg(long)]
    out: PathBuf,
    /// Measure only these figures, and those that come with them; the others stay as they were
    #[arg(long, value_delimiter = ',')]
    only: Vec<Figure>,
    /// Repetitions of what is compared with a yardstick: the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// A folder with another text generator and native count, built; see ../shared/bench
    #[arg(long)]
    yardstick: Option<PathBuf>,
    /// A folder with word counts on Spark, Dask and Ray; without it these are not measured
    #[arg(long)]
    peers: Option<PathBuf>,
    /// The path of a Python that has all three
    #[arg(long, default_value = "/usr/bin/python3")]
    python: PathBuf,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Corpus { bytes, seed } => {
            Text::new(seed).write(bytes, &mut io::stdout().lock()).map(|_| ExitCode::SUCCESS)
        }
        Command::Native { file, out } => native(&file, &out).map(|()| ExitCode::SUCCESS),
        Command::Spent { command } => spent::spent(&command),
        Command::Measure(what) => measure::measure(what).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ipdc-bench: {error}");
        ExitCode::FAILURE
    })
}

fn native(file: &Path, out: &Path) -> io::Result<()> {
    let start = Instant::now();
    let text = std::fs::read(file)?;
    write_counts(&text, &mut File::create(out)?)?;
    println!("native threads=1 seconds={:.3}", start.elapsed().as_secs_f64());
    Ok(())
}
