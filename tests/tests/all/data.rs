//! Files and directories in the swarm.

use std::fs;
use std::path::{Path, PathBuf};

use ipdc_tests::text::Text;
use ipdc_tests::{JOB, JobDir, Node, SOON, Swarm, eventually};

/// A block of 27 bytes that no machine has.
const NOBODYS: &str = "bafkreih7qf2ttx2aqv2pf2nylyj6d6aqtqjwcqbdzfq7sx2wuysv4wnrhy";

/// Sees to it that a block which nobody has is given up within seconds.
const IMPATIENT: &str = "[blocks]\nstall = \"2s\"";

#[test]
fn a_file_comes_back_as_it_was_on_another_node() {
    let swarm = Swarm::of(2);
    let text = Text::make(3, 9_000_000);
    let path = swarm[0].folder().join("text.txt");
    fs::write(&path, &text).unwrap();
    let cid = swarm[0].add(&path);
    assert!(cid.starts_with("baf"), "not a CIDv1: {cid}");

    let cat = swarm[1].cli(["cat", &cid]).within(JOB).run().ok();
    assert!(cat.stdout == text, "{} bytes came back of {}", cat.stdout.len(), text.len());
    let got = swarm[1].folder().join("got.txt");
    let _ = swarm[1].cli(["get", &cid, "--output"]).arg(&got).within(JOB).run().ok();
    assert!(fs::read(got).unwrap() == text);
    let range = swarm[1].cli(["cat", &cid, "--range", "5000000-5000099"]).run().ok();
    assert_eq!(range.stdout, text[5_000_000..5_000_100]);
    let tail = swarm[1].cli(["cat", &cid, "--range", &format!("{}-", text.len() - 7)]).run().ok();
    assert_eq!(tail.stdout, text[text.len() - 7..]);
}

#[test]
fn the_same_bytes_have_the_same_cid_however_they_come() {
    let mut node = Node::first();
    node.start();
    let text = Text::make(4, 5_000_000);
    let path = node.folder().join("text.txt");
    fs::write(&path, &text).unwrap();
    let cid = node.add(&path);
    let piped = node.cli(["add", "-", "--json"]).stdin(text).run().ok().json();
    assert_eq!(piped["cid"], cid.as_str());
    assert_eq!(node.add(&path), cid);
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let mut node = Node::first();
    node.start();
    let dir = node.folder().join("dir");
    fs::create_dir_all(dir.join("below/deep")).unwrap();
    fs::write(dir.join("a.txt"), "a").unwrap();
    fs::write(dir.join("below/ö b.txt"), Text::make(5, 2_000_000)).unwrap();
    fs::write(dir.join("below/deep/empty"), "").unwrap();
    let cid = node.add(&dir);

    let got = node.folder().join("got");
    let _ = node.cli(["get", &cid, "--output"]).arg(&got).run().ok();
    for file in ["a.txt", "below/ö b.txt", "below/deep/empty"] {
        assert!(fs::read(got.join(file)).unwrap() == fs::read(dir.join(file)).unwrap(), "{file}");
    }
    let listed = node.cli(["ls", &cid, "--json"]).run().ok().json();
    let names: Vec<_> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["a.txt", "below"]);
    assert!(node.cli(["ls", &format!("{cid}/below")]).run().ok().text().contains("deep"));
    assert_eq!(node.cli(["cat", &format!("{cid}/a.txt")]).run().ok().stdout, b"a");
    let _ = node.cli(["cat", &format!("{cid}/no.txt")]).run().refused(&["no.txt"]);
    let _ = node.cli(["cat", &cid]).run().refused(&["directory"]);
}

#[test]
fn what_is_pinned_stays_and_what_is_not_is_collected() {
    let mut node = Node::first();
    node.configure(IMPATIENT);
    node.start();
    let write = |name: &str, seed| {
        let path = node.folder().join(name);
        fs::write(&path, Text::make(seed, 3_000_000)).unwrap();
        node.add(&path)
    };
    let (kept, dropped) = (write("kept", 6), write("dropped", 7));
    let before = node.cli(["du", "--json"]).run().ok().json();
    assert!(before["pinned"].as_u64() > Some(6_000_000), "{before}");
    let _ = node.cli(["unpin", &dropped]).run().ok();
    let _ = node.cli(["gc"]).run().ok();
    assert_eq!(
        node.cli(["cat", &kept]).run().ok().stdout.len(),
        fs::read(node.folder().join("kept")).unwrap().len()
    );
    let _ = node.cli(["cat", &dropped]).within(SOON).run().refused(&[&dropped]);
    let after = node.cli(["du", "--json"]).run().ok().json();
    assert!(after["durable"].as_u64() < before["durable"].as_u64(), "{before} then {after}");
    let _ = node.cli(["pin", &kept]).run().ok();
}

#[test]
fn a_block_that_nobody_has_is_given_up_in_time_and_who_was_asked_is_named() {
    let swarm = Swarm::configured(3, IMPATIENT);
    let cat = swarm[0].cli(["cat", NOBODYS]).run();
    let took = cat.took;
    let asked: Vec<String> = [1, 2].map(|node| swarm[node].peer_id()).to_vec();
    let cat = cat.refused(&[NOBODYS]);
    for peer in &asked {
        assert!(
            cat.stderr.contains(&peer[peer.len() - 6..]),
            "{cat}expected to hear that {peer} was asked"
        );
    }
    assert!(took < SOON / 2, "{cat}");

    let job = JobDir::words(0, 1);
    let run = swarm[0].cli(["run", "mr"]).arg(job.path()).args(["--input", NOBODYS]);
    let run = run.run().refused(&[NOBODYS]);
    for peer in &asked {
        assert!(
            run.stderr.contains(&peer[peer.len() - 6..]),
            "{run}expected to hear that {peer} was asked"
        );
    }
}

#[test]
fn what_is_no_cid_is_refused() {
    let mut node = Node::first();
    node.start();
    let _ = node.cli(["cat", "bafnonsense"]).run().refused(&["bafnonsense"]);
    let _ = node.cli(["add", "no/such/file"]).run().refused(&["no/such/file"]);
}

/// Files below `dir`, whatever their depth.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_block_that_went_bad_on_the_disk_is_dropped_and_fetched_again() {
    let mut swarm = Swarm::configured(2, IMPATIENT);
    let text = Text::make(8, 100_000);
    let path = swarm[0].folder().join("text.txt");
    fs::write(&path, &text).unwrap();
    let cid = swarm[0].add(&path);
    assert!(swarm[1].cli(["cat", &cid]).run().ok().stdout == text);
    let _ = swarm[1].cli(["pin", &cid]).run().ok();

    // What a bad disk does, while the node is away and remembers nothing.
    swarm[1].kill();
    let mut spoilt = 0;
    for file in files(&swarm[1].home()) {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == &text[50_000..50_064]) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
            spoilt += 1;
        }
    }
    assert!(spoilt > 0, "no file of the home holds the block's bytes");
    swarm[1].start().wait_peers(1);
    assert!(swarm[1].cli(["cat", &cid]).run().ok().stdout == text, "corrupt bytes were given out");

    // It was mended, not only avoided: now the node has it by itself.
    swarm[0].kill();
    swarm[1].wait_peers(0);
    let mended = swarm[1].cli(["cat", &cid]).run().ok();
    assert!(mended.stdout == text);
}

#[test]
fn a_corrupt_block_that_nobody_else_has_is_an_error_not_wrong_bytes() {
    let mut node = Node::first();
    node.configure(IMPATIENT);
    node.start();
    let text = Text::make(9, 100_000);
    let path = node.folder().join("text.txt");
    fs::write(&path, &text).unwrap();
    let cid = node.add(&path);
    node.kill();
    for file in files(&node.home()) {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == &text[..64]) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
        }
    }
    node.start();
    let _ = node.cli(["cat", &cid]).run().refused(&["baf"]);
    // Adding it again mends it.
    assert_eq!(node.add(&path), cid);
    let cat = eventually(SOON, "the block is whole", || {
        let cat = node.cli(["cat", &cid]).run();
        cat.status.success().then_some(cat)
    });
    assert!(cat.stdout == text);
}
