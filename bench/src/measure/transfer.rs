//! Bytes into a node, and from one node to another.

use ipdc_tests::{Node, Program, Swarm};

use super::rounds::Rounds;
use super::{Bench, Folder, GIB, Noted, SEED, reached, remove};
use crate::figures::Figure;
use crate::native::{LONG, timed};
use crate::plain;

/// `ipdc add` into a new node, beside `sha256sum` of the same file.
pub(super) fn ingest(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let text = folder.join("text");
    bench.native.make_text(GIB, SEED, &text);
    let mut rounds = Rounds::default();
    for _ in 0..bench.rounds {
        let mut node = Node::first();
        node.start();
        let yardstick = timed(Program::new("sha256sum").arg(&text));
        let ours = timed(node.cli(["add"]).arg(&text));
        rounds.add(ours.as_secs_f64(), yardstick.as_secs_f64());
    }
    noted.insert(Figure::Ingest, reached(rounds.yardstick_over_ours(), rounds.describe()));
}

/// `ipdc pin` on a second node, beside the same bytes through a plain TCP connection: pinned content is
/// checked and on the disk, as the yardstick's file is.
pub(super) fn node_to_node(bench: &Bench, noted: &mut Noted) {
    let folder = Folder::new();
    let (text, copy) = (folder.join("text"), folder.join("copy"));
    bench.native.make_text(GIB, SEED, &text);
    let mut rounds = Rounds::default();
    for _ in 0..bench.rounds {
        let swarm = Swarm::of(2);
        let added = swarm[0].cli(["add", "--quiet"]).arg(&text).within(LONG).run().ok();
        let yardstick = plain::transfer(&text, &copy).expect("a plain transfer");
        let ours = timed(swarm[1].cli(["pin", added.text()]));
        remove(&copy);
        rounds.add(ours.as_secs_f64(), yardstick.as_secs_f64());
    }
    let remark = format!("{}; ours is `ipdc pin`", rounds.describe());
    noted.insert(Figure::Transfer, reached(rounds.yardstick_over_ours(), remark));
}
