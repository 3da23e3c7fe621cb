//! Trees of blocks as CAR files: out of one swarm, into another.

use std::fs;

use ipdc_tests::text::Text;
use ipdc_tests::{JOB, Node};
use serde_json::json;

/// Sees to it that a block which nobody has is given up within seconds.
const IMPATIENT: &str = "[blocks]\nstall = \"2s\"";

/// A directory of several blocks; its CID, and the name of one of its files.
fn directory(node: &Node) -> (String, &'static str) {
    let dir = node.folder().join("dir");
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("below/text"), Text::make(1, 9_000_000)).unwrap();
    fs::write(dir.join("small"), "small").unwrap();
    (node.add(&dir), "below/text")
}

/// How long the header and the first block of a CAR are: each has its length in front, seven bits a byte.
fn header_and_root(car: &[u8]) -> usize {
    (0..2).fold(0, |at, _| {
        let len = car[at..].iter().take(5).position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let digits = car[at..at + len].iter().rev();
        at + len + digits.fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f))
    })
}

#[test]
fn a_directory_goes_from_one_swarm_to_another_in_a_file() {
    let (mut one, mut other) = (Node::first(), Node::first());
    one.start();
    other.start();
    let (cid, name) = directory(&one);
    let car = one.cli(["export", &cid]).within(JOB).run().ok().stdout;
    assert!(one.cli(["export", &cid]).within(JOB).run().ok().stdout == car);

    let path = other.folder().join("x.car");
    fs::write(&path, &car).unwrap();
    let imported = other.cli(["import", "x.car", "--json"]).within(JOB).run().ok().json();
    assert_eq!(imported["roots"], json!([cid]));
    assert!(imported["bytes"].as_u64().unwrap() > 9_000_000, "{imported}");
    let _ = other.cli(["gc"]).run().ok();
    let came = other.cli(["cat", &format!("{cid}/{name}")]).within(JOB).run().ok();
    assert!(came.stdout == fs::read(one.folder().join("dir").join(name)).unwrap());
    let piped = other.cli(["import", "-", "--quiet"]).stdin(car.clone()).within(JOB).run().ok();
    assert_eq!(piped.text(), cid);

    // A part of it by its path; and the same over HTTP.
    let below = one.cli(["export", &format!("{cid}/below/text")]).within(JOB).run().ok().stdout;
    assert!(below.len() < car.len() && below.len() > 8_000_000);
    let answer = other.api().get(&format!("/car/{cid}"));
    assert!(answer.status == 200 && answer.body == car);
}

#[test]
fn an_export_fetches_what_is_missing_and_says_what_nobody_has() {
    let mut one = Node::first();
    one.configure(IMPATIENT);
    one.start();
    let (cid, _) = directory(&one);
    let mut other = Node::joined(&one.invite(1));
    other.configure(IMPATIENT);
    other.start().wait_peers(1);
    let car = other.cli(["export", &cid]).within(JOB).run().ok().stdout;
    assert!(car == one.cli(["export", &cid]).within(JOB).run().ok().stdout);

    // A file whose last block is nowhere: that is said before the first byte.
    let mut third = Node::first();
    third.configure(IMPATIENT);
    third.start();
    fs::write(third.folder().join("cut.car"), &car[..car.len() - 1]).unwrap();
    let _ = third.cli(["import", "cut.car"]).within(JOB).run().refused(&["IPDC-3502"]);
    let export = third.cli(["export", &cid]).run().refused(&["IPDC-3301", "baf"]);
    assert!(export.stdout.is_empty(), "{} bytes were written", export.stdout.len());
}

#[test]
fn a_damaged_car_is_refused_early_in_a_long_upload_and_loses_nothing() {
    let mut node = Node::first();
    node.start();
    let (cid, name) = directory(&node);
    let mut car = node.cli(["export", &cid]).within(JOB).run().ok().stdout;
    // In the middle of the second block, with much behind it.
    car[700_000] ^= 1;
    car.extend(vec![0; 64 << 20]);
    fs::write(node.folder().join("bad.car"), &car).unwrap();
    let refused = node.cli(["import", "bad.car"]).within(JOB).run().refused(&["IPDC-3504"]);
    assert!(refused.stderr.contains("at byte"), "{refused}");
    let _ =
        node.cli(["import", "-"]).stdin("hello, world".repeat(20)).run().refused(&["IPDC-3501"]);
    // A part of a tree: the blocks are good, but pinned it cannot be.
    let mut other = Node::first();
    other.configure(IMPATIENT);
    other.start();
    let whole = node.cli(["export", &cid]).within(JOB).run().ok().stdout;
    let part = other.cli(["import", "-"]).stdin(&whole[..header_and_root(&whole)]).run();
    let _ = part.refused(&["IPDC-3401", "baf"]);
    assert_eq!(other.api().get("/pins").ok(), json!([]));

    let kept = node.cli(["cat", &format!("{cid}/{name}")]).within(JOB).run().ok();
    assert!(kept.stdout == fs::read(node.folder().join("dir").join(name)).unwrap());
}

#[test]
fn a_terminal_is_spared() {
    let mut node = Node::first();
    node.start();
    let (cid, _) = directory(&node);
    // `script` gives its command a terminal.
    let command = format!("{} export {cid}; echo exit=$?", ipdc_tests::ipdc().display());
    let script = ipdc_tests::Program::new("script").args(["-qec", &command, "/dev/null"]);
    let shown = script.env("IPDC_HOME", node.home()).run();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("IPDC-1641") && shown.contains("exit=2"), "{shown}");
}
