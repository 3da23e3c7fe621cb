//! Measures the figures, on real processes: nodes on this machine beside a yardstick, in the same minutes.
//!
//! Parts are measured one by one. One that fails says why in its figures' place, and the others go on;
//! what it started is gone with it. After each part the results are on the disk.

mod count;
mod items;
mod job;
mod nodes;
mod peers;
mod python;
mod render;
mod rounds;
mod sort;
mod transfer;

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::figures::Figure;
use crate::native::Native;
use crate::results::{Outcome, Results};
use peers::Peers;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Nodes of a swarm that is measured.
const NODES: usize = 3;

/// The text that the yardstick's own figures for a gibibyte are of.
const SEED: u64 = 42;

/// Characters of a failure's cause that a table shows: its end, where helpers say what went wrong.
const CAUSE: usize = 300;

/// What a part needs to be measured.
struct Bench {
    native: Native,
    /// Repetitions of what is compared with a yardstick.
    rounds: u64,
    peers: Option<Peers>,
}

/// What was measured of a part so far.
type Noted = BTreeMap<Figure, Outcome>;

/// Figures that are measured in one go.
struct Part {
    figures: &'static [Figure],
    measure: fn(&Bench, &mut Noted),
}

const PARTS: &[Part] = &[
    Part { figures: &[Figure::IdleMemory, Figure::IdleCpu], measure: nodes::idle },
    Part { figures: &[Figure::SmallestJob], measure: nodes::smallest_job },
    Part { figures: &[Figure::TwentyNodes], measure: nodes::twenty },
    Part { figures: &[Figure::Binary], measure: nodes::binary },
    Part {
        figures: &[Figure::SmallCountWall, Figure::SmallCountCpu, Figure::SmallCountShare],
        measure: count::small,
    },
    Part {
        figures: &[
            Figure::CountCpu,
            Figure::CountWall,
            Figure::CountShare,
            Figure::CountMoved,
            Figure::CountMemory,
        ],
        measure: count::large,
    },
    Part { figures: &[Figure::Again, Figure::Appended], measure: count::again },
    Part { figures: &[Figure::PythonCount], measure: python::count },
    Part { figures: &[Figure::ItemRate, Figure::ItemMemory], measure: items::many },
    Part { figures: &[Figure::ProcessRate], measure: items::native },
    Part { figures: &[Figure::ItemThereAndBack], measure: items::one },
    Part { figures: &[Figure::CrawlRate, Figure::CrawlPolite], measure: items::crawl },
    Part { figures: &[Figure::Sort], measure: sort::total },
    Part { figures: &[Figure::Ingest], measure: transfer::ingest },
    Part { figures: &[Figure::Transfer], measure: transfer::node_to_node },
    Part { figures: &[Figure::RenderOverhead, Figure::RenderAgain], measure: render::frames },
    Part { figures: &[Figure::ImageArrival, Figure::ImageTransfer], measure: render::image },
    Part { figures: &[Figure::Spark], measure: peers::spark },
    Part { figures: &[Figure::Dask], measure: peers::dask },
    Part { figures: &[Figure::Ray], measure: peers::ray },
];

/// Measures what is asked for.
///
/// # Errors
/// When the results cannot be read or written, or some figure could not be measured.
pub(crate) fn measure(asked: crate::Measure) -> io::Result<()> {
    let crate::Measure { out, only, rounds, yardstick, peers, python } = asked;
    let native = Native::new(yardstick.as_deref());
    let mut results = Results::open(&out, native.describe())?;
    // Better now than after minutes that it cannot be written.
    results.save()?;
    let peers = peers.map(|scripts| Peers::new(&scripts, &python)).transpose()?;
    let bench = Bench { native, rounds, peers };
    let mut failed = Vec::new();
    for part in PARTS.iter().filter(|part| part.is_asked(&only, &bench)) {
        eprintln!("measuring {:?}", part.figures);
        let mut noted = Noted::new();
        let end = catch_unwind(AssertUnwindSafe(|| (part.measure)(&bench, &mut noted)));
        let cause = end.err().map_or_else(|| "it was left out".into(), |why| cause(&*why));
        for &figure in part.figures {
            let outcome = noted.remove(&figure).unwrap_or_else(|| {
                failed.push(figure);
                Outcome::Failed(cause.clone())
            });
            eprintln!("{figure:?}: {outcome:?}");
            results.take(figure, outcome);
        }
        results.save()?;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(format!("could not be measured: {failed:?}")))
    }
}

impl Part {
    /// Whether one of its figures is among `only`; of those that need other programs, only then.
    fn is_asked(&self, only: &[Figure], bench: &Bench) -> bool {
        let needs_peers = [Figure::Spark, Figure::Dask, Figure::Ray]
            .iter()
            .any(|peer| self.figures.contains(peer));
        if only.is_empty() {
            bench.peers.is_some() || !needs_peers
        } else {
            self.figures.iter().any(|figure| only.contains(figure))
        }
    }
}

/// What a panic says, in one line that a table can hold.
fn cause(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    let skipped = line.chars().count().saturating_sub(CAUSE);
    line.chars().skip(skipped).collect()
}

fn reached(value: f64, remark: impl Into<String>) -> Outcome {
    Outcome::Reached { value, remark: remark.into() }
}

/// A folder for what a part makes; gone when it is dropped. Its name is short: programs put sockets
/// into it, whose paths have a limit.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(TempDir::with_prefix("ipdc-b-").expect("a temp folder"))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Removes what a yardstick wrote, so that the next round's is a new file, as all of ours are: on a
/// virtual machine that gives free memory back to its host, a file that is written over costs
/// a tenth of a new one.
fn remove(written: &Path) {
    std::fs::remove_file(written).expect("the yardstick wrote it");
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::figures::TABLES;

    #[test]
    fn each_figure_is_measured_once_and_shown() {
        for figure in Figure::value_variants() {
            let parts = PARTS.iter().filter(|part| part.figures.contains(figure)).count();
            assert_eq!(parts, 1, "{figure:?}");
            let mut rows = TABLES.iter().flat_map(|table| table.rows);
            assert!(rows.any(|row| row.figure == *figure), "{figure:?}");
        }
    }

    #[test]
    fn a_cause_fits_a_table() {
        let panic: Box<dyn Any + Send> =
            Box::new(format!("{}\n--- stderr\na | b\n", "long ".repeat(CAUSE)));
        let cause = cause(&*panic);
        assert!(cause.ends_with("--- stderr a / b"), "{cause}");
        assert_eq!(cause.chars().count(), CAUSE);
    }
}
