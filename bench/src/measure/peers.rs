//! The word count beside Spark, Dask and Ray, by the processor time of all that takes part.

use std::path::{Path, PathBuf, absolute};
use std::{fs, io};

use ipdc_tests::{Program, Swarm};

use super::job::{self, nodes_cpu};
use super::rounds::{Rounds, median};
use super::{Bench, Folder, GIB, NODES, Noted, SEED, reached};
use crate::figures::Figure;
use crate::native::LONG;
use crate::process::children_cpu;
use crate::results::Outcome;
use crate::spent::Spent;

/// Rounds at most: a peer needs minutes for each, and its processor time varies little.
const ROUNDS: u64 = 3;

/// Where the peers' programs are.
pub(super) struct Peers {
    scripts: PathBuf,
    python: PathBuf,
}

impl Peers {
    /// # Errors
    /// When there is no working directory that a relative path could be in.
    pub(super) fn new(scripts: &Path, python: &Path) -> io::Result<Self> {
        // Not what a link names: a virtual environment is known by the link to its Python.
        Ok(Peers { scripts: absolute(scripts)?, python: absolute(python)? })
    }
}

pub(super) fn spark(bench: &Bench, noted: &mut Noted) {
    noted.insert(Figure::Spark, against(bench, "wordcount_spark.py", &["df"]));
}

pub(super) fn dask(bench: &Bench, noted: &mut Noted) {
    noted.insert(Figure::Dask, against(bench, "wordcount_dask.py", &[]));
}

pub(super) fn ray(bench: &Bench, noted: &mut Noted) {
    noted.insert(Figure::Ray, against(bench, "wordcount_ray.py", &[]));
}

/// A peer's processor time over ours, for the same file. Ours is that of the nodes and of `ipdc run`;
/// adding the file, which is done once, is told beside.
fn against(bench: &Bench, script: &str, args: &[&str]) -> Outcome {
    let peers = bench.peers.as_ref().expect("`--peers` says where the peers' programs are");
    let folder = Folder::new();
    let (text, counts) = (folder.join("text"), folder.join("counts"));
    bench.native.make_text(GIB, SEED, &text);
    bench.native.count(&text, &counts);
    let counts = fs::read(counts).expect("the native count");
    let distinct = counts.iter().filter(|&&byte| byte == b'\n').count();

    let (mut rounds, mut with_adding) = (Rounds::default(), Vec::new());
    for _ in 0..bench.rounds.min(ROUNDS) {
        let own = std::env::current_exe().expect("a process knows its program");
        let peer = Program::new(own).arg("spent").arg(&peers.python);
        let peer = peer.arg(peers.scripts.join(script)).args(args).arg(&text);
        let peer = peer.env("TMPDIR", folder.join("")).env("RAY_TMPDIR", folder.join(""));
        let peer = peer.dir(folder.join("")).within(LONG).run().ok();
        let said = format!("distinct={distinct} ");
        assert!(peer.text().contains(&said), "{peer}expected {said}");
        let last = peer.text().lines().last().expect("a line is there");
        let spent: Spent = serde_json::from_str(last).expect("what the peer spent");

        let swarm = Swarm::of(NODES);
        let ours = || (nodes_cpu(&swarm) + children_cpu()).as_secs_f64();
        let at_start = ours();
        let input = swarm[0].add(&text);
        let added = ours();
        let done = job::run(&swarm, "wordcount", &input);
        let ended = ours();
        done.assert_all_worked();
        swarm[0].assert_counts(done.id(), &counts);
        rounds.add(ended - added, spent.cpu_s);
        with_adding.push(spent.cpu_s / (ended - at_start));
    }
    let remark = format!(
        "1 GiB, {}; {:.2} × with `ipdc add` counted too",
        rounds.describe(),
        median(with_adding)
    );
    reached(rounds.yardstick_over_ours(), remark)
}
