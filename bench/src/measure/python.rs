//! The word count in Python, beside the interpreter itself: the same text through a script that has the
//! sandbox to itself, on the same nodes and all their processors.

use std::fs;
use std::path::Path;

use ipdc_tests::{JobDir, Node, Swarm, root};

use super::rounds::{Rounds, median};
use super::{Bench, Folder, MIB, NODES, Noted, job, reached};
use crate::figures::Figure;
use crate::native::LONG;

/// Enough for some seconds of all processors.
const TEXT: u64 = 100 * MIB;
const TEXT_SEED: u64 = 143;

/// What `make setup-python-wasm` gets.
const INTERPRETER: &str = "target/python/bin/python.wasm";

/// Does with its stdin what a map does with its records, with nothing of ours between: when it is loaded.
const BARE: &str = "import sys\n\nfor line in sys.stdin:\n    for word in line.split():\n        \
                    sys.__stdout__.write(word + '\\t1\\n')\nsys.__stdout__.flush()\n\n\
                    def map(line):\n    pass\n";

/// The same, without a record written.
const SPLITS: &str = "import sys\n\nfor line in sys.stdin:\n    line.split()\n\n\
                      def map(line):\n    pass\n";

pub(super) fn count(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let text = folder.join("text");
    let swarm = Swarm::of(NODES);
    let add = swarm[0].cli(["runtime", "add", "python"]).arg(root().join(INTERPRETER));
    let _ = add.within(LONG).run().ok();
    let example = root().join("examples/wordcount-py");
    let [bare, splits] = [BARE, SPLITS].map(|map| {
        // Its params make it another job: else what the count's reducers gave would be remembered.
        let toml = "kind = \"mr\"\nmap = \"map.py\"\ncombine = \"sum\"\nreduce = \"sum\"\n[params]\nbare = true\n";
        JobDir::new(toml).file("map.py", map)
    });
    // Each node fetches and compiles the interpreter once.
    bench.native.make_text(TEXT / 4, TEXT_SEED - 1, &text);
    job::run_at(&swarm, &example, &swarm[0].add(&text));

    let (mut rounds, mut own, mut split) = (Rounds::default(), Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        bench.native.make_text(TEXT, TEXT_SEED + round, &text);
        let input = swarm[0].add(&text);
        let seconds = |dir: &Path| {
            let done = job::run_at(&swarm, dir, &input);
            (done.cost.wall.as_secs_f64(), done)
        };
        let (ours, done) = seconds(&example);
        check(bench, &swarm[0], &done, &text);
        let (theirs, done) = seconds(bare.path());
        check(bench, &swarm[0], &done, &text);
        rounds.add(ours, theirs);
        own.push(TEXT as f64 / 1e6 / ours);
        split.push(TEXT as f64 / 1e6 / seconds(splits.path()).0);
    }
    let remark = format!(
        "{}; {:.1} MB/s; a script that only splits lines {:.1} MB/s",
        rounds.describe(),
        median(own),
        median(split)
    );
    noted.insert(Figure::PythonCount, reached(rounds.yardstick_over_ours(), remark));
}

/// All of it was worked, and the result is the native count's.
fn check(bench: &Bench, node: &Node, done: &job::Done, text: &Path) {
    done.assert_all_worked();
    let counts = node.folder().join("counts");
    bench.native.count(text, &counts);
    node.assert_counts(done.id(), &fs::read(counts).expect("the native count"));
}
