//! The word count: beside the native one, again, and after an append.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use ipdc_tests::{Node, Swarm};

use super::job::{self, Done};
use super::rounds::{Rounds, median};
use super::{Bench, Folder, GIB, MIB, NODES, Noted, SEED, reached};
use crate::figures::Figure;
use crate::process::peak;

/// The text of the small count.
const SMALL: u64 = 100 * MIB;
/// Its first text's seed, that of the yardstick's own figures.
const SMALL_SEED: u64 = 43;

/// What rounds of a count gave.
#[derive(Default)]
struct Counts {
    wall: Rounds,
    cpu: Rounds,
    shares: Vec<f64>,
}

impl Counts {
    /// Counts `text` natively and, added to the swarm, as a job; the results must be the same.
    fn round(&mut self, bench: &Bench, swarm: &Swarm, text: &Path) -> Done {
        let input = swarm[0].add(text);
        let counts = swarm[0].folder().join("counts");
        let native = bench.native.count(text, &counts);
        let done = job::run(swarm, "wordcount", &input);
        done.assert_all_worked();
        swarm[0].assert_counts(done.id(), &fs::read(&counts).expect("the native count"));
        self.wall.add(done.cost.wall.as_secs_f64(), native.wall.as_secs_f64());
        self.cpu.add(done.cost.cpu.as_secs_f64(), native.cpu.as_secs_f64());
        self.shares.push(done.least_share(swarm));
        done
    }

    fn note(self, noted: &mut Noted, [wall, cpu, share]: [Figure; 3]) {
        noted.insert(wall, reached(self.wall.ours_over_yardstick(), self.wall.describe()));
        noted.insert(cpu, reached(self.cpu.ours_over_yardstick(), self.cpu.describe()));
        let least = self.shares.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.shares.iter().copied().fold(0.0, f64::max);
        let remark = format!("{least:.0} to {most:.0} % in {} rounds", self.shares.len());
        noted.insert(share, reached(median(self.shares), remark));
    }
}

/// 100 MiB, on nodes that did as much before: each round has a text of its own, so that nothing is
/// remembered.
pub(super) fn small(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let text = folder.join("text");
    let swarm = Swarm::of(NODES);
    let mut counts = Counts::default();
    for round in 0..bench.rounds {
        bench.native.make_text(SMALL, SMALL_SEED + round, &text);
        counts.round(bench, &swarm, &text);
    }
    let figures = [Figure::SmallCountWall, Figure::SmallCountCpu, Figure::SmallCountShare];
    counts.note(noted, figures);
}

/// 1 GiB, each round on new nodes: nothing is remembered, and their peak of memory is that of a whole
/// life, from start over adding to the end of the job.
pub(super) fn large(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let text = folder.join("text");
    bench.native.make_text(GIB, SEED, &text);
    let mut counts = Counts::default();
    let (mut moved, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let swarm = Swarm::of(NODES);
        let done = counts.round(bench, &swarm, &text);
        moved.push(done.fetched() as f64 / 1e6);
        let peaks = swarm.nodes().iter().map(|node| peak(node.pid()));
        memory.push(peaks.max().expect("a swarm has nodes") as f64 / 1e6);
    }
    counts.note(noted, [Figure::CountWall, Figure::CountCpu, Figure::CountShare]);
    let fetched = "fetched by tasks from other nodes, as the report says";
    noted.insert(Figure::CountMoved, reached(median(moved), fetched));
    let remark = "the most of a node in a round, adding included";
    noted.insert(Figure::CountMemory, reached(median(memory), remark));
}

/// The same count again, then with 1 % more text.
pub(super) fn again(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let (text, more) = (folder.join("text"), folder.join("more"));
    bench.native.make_text(GIB, SEED, &text);
    bench.native.make_text(GIB / 100, SEED + 1, &more);
    let swarm = Swarm::of(NODES);
    let input = swarm[0].add(&text);
    let first = job::run(&swarm, "wordcount", &input);
    first.assert_all_worked();

    let (mut walls, mut own) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let done = job::run(&swarm, "wordcount", &input);
        let (tasks, memoized) = done.memoized();
        assert_eq!(tasks, memoized, "some tasks of the same job were not remembered");
        walls.push(done.cost.wall.as_secs_f64());
        own.push(done.seconds());
    }
    let remark = format!(
        "`ipdc run` from start to exit; {:.2} s by the job's own clock; the first time {:.2} s",
        median(own),
        first.cost.wall.as_secs_f64()
    );
    noted.insert(Figure::Again, reached(median(walls), remark));

    append(&more, &text);
    let input = swarm[0].add(&text);
    let done = job::run(&swarm, "wordcount", &input);
    check(bench, &swarm[0], &done, &text);
    let (worked, all, share) = done.mapped();
    let remark = format!("{worked} of {all}, {:.2} s", done.cost.wall.as_secs_f64());
    noted.insert(Figure::Appended, reached(share, remark));
}

fn append(more: &Path, to: &Path) {
    let mut text = File::options().append(true).open(to).expect("the text");
    io::copy(&mut File::open(more).expect("the text"), &mut text).expect("room for more text");
}

/// A count that was mostly remembered is that of the whole text.
fn check(bench: &Bench, node: &Node, done: &Done, text: &Path) {
    let counts = node.folder().join("counts");
    bench.native.count(text, &counts);
    node.assert_counts(done.id(), &fs::read(counts).expect("the native count"));
}
