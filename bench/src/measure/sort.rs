//! The total sort: more lines than fit the job's memory, none the same as another, beside `sort`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ipdc_tests::{Program, Swarm};

use super::rounds::{Rounds, median};
use super::{Bench, Folder, GIB, NODES, Noted, SEED, job, reached, remove};
use crate::figures::Figure;
use crate::keys;
use crate::native::timed;
use crate::process::peak;

/// `examples/sort` has 64 MiB of memory, and so has the yardstick.
const MEMORY: &str = "-S64M";

/// 1 GiB, each round on new nodes, which the sorted bytes of the last one do not burden.
pub(super) fn total(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let (lines, sorted) = (folder.join("lines"), folder.join("sorted"));
    let file = File::create(&lines).expect("a writable folder");
    keys::write(SEED, GIB / keys::LINE as u64, &file).expect("room for the lines");
    file.sync_all().expect("room for the lines");

    let (mut rounds, mut cpu, mut memory) = (Rounds::default(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let swarm = Swarm::of(NODES);
        let input = swarm[0].add(&lines);
        let sort = Program::new("sort").args([MEMORY, "-o"]).arg(&sorted).arg(&lines);
        let yardstick = timed(sort.env("LC_ALL", "C").env("TMPDIR", folder.join("")));
        let done = job::run(&swarm, "sort", &input);
        done.assert_all_worked();
        rounds.add(done.cost.wall.as_secs_f64(), yardstick.as_secs_f64());
        cpu.push(done.cost.cpu.as_secs_f64());
        let peaks = swarm.nodes().iter().map(|node| peak(node.pid()));
        memory.push(peaks.max().expect("a swarm has nodes") as f64 / 1e6);
        let parts = done.save(&swarm[0], &folder.join("result"));
        assert_same(&parts, &sorted);
        std::fs::remove_dir_all(folder.join("result")).expect("saved just now");
        remove(&sorted);
    }
    let remark = format!(
        "{}; CPU of all nodes {:.1} s; peak memory of a node {:.0} MB",
        rounds.describe(),
        median(cpu),
        median(memory)
    );
    noted.insert(Figure::Sort, reached(rounds.ours_over_yardstick(), remark));
}

/// # Panics
/// When the parts, one after the other, are not the bytes of `whole`.
fn assert_same(parts: &[PathBuf], whole: &Path) {
    let mut whole = File::open(whole).expect("what `sort` wrote");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for path in parts {
        ours.clear();
        let mut part = File::open(path).expect("a saved part");
        part.read_to_end(&mut ours).expect("a readable part");
        theirs.resize(ours.len(), 0);
        whole.read_exact(&mut theirs).expect("no more bytes than `sort` wrote");
        assert!(ours == theirs, "{} differs from what `sort` wrote", path.display());
    }
    let left = whole.read(&mut [0]).expect("readable");
    assert_eq!(left, 0, "the result ends before what `sort` wrote");
}
