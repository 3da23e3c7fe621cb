//! A real Kubo as a guest of the swarm. `make test-all` installs it.

use std::fs;
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;

use ipdc_tests::text::Text;
use ipdc_tests::{JOB, JobDir, Node, Program, eventually, root};

/// Kubo, with a repository and an identity of its own, and the swarm's key.
struct Kubo {
    repo: PathBuf,
    id: String,
}

impl Kubo {
    fn new(node: &Node, name: &str) -> Kubo {
        let keypair = Keypair::generate_ed25519();
        let id = keypair.public().to_peer_id().to_string();
        let key = keypair.to_protobuf_encoding().unwrap();
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let kubo = Kubo { repo: node.folder().join(name), id };
        let swarm_key = node.home().join("swarm.key");
        let init = kubo.program(["init"]).arg(swarm_key).args([&kubo.id, &key]);
        let _ = init.run().ok();
        kubo
    }

    fn program<const N: usize>(&self, args: [&str; N]) -> Program {
        let python = root().join("target/kubo/bin/python");
        assert!(python.exists(), "{} is not there: `make setup-kubo` makes it", python.display());
        let script = root().join("tests/kubo.py");
        // It writes a log where it is.
        let place = self.repo.parent().unwrap();
        Program::new(python).arg(script).arg(&self.repo).args(args).dir(place).within(JOB)
    }

    /// Whether it gets `cid` from `node` to `path` within so many seconds.
    fn gets(&self, node: &Node, cid: &str, seconds: &str, path: &Path) -> bool {
        let get = self.program(["get", seconds, &address(node), cid]).arg(path);
        get.run().status.success()
    }
}

/// Where `node` listens, with its peer ID.
fn address(node: &Node) -> String {
    let status = node.status();
    let listen = status["listen"][0].as_str().unwrap().split("/p2p/").next().unwrap().to_owned();
    format!("{listen}/p2p/{}", status["peer_id"].as_str().unwrap())
}

#[test]
#[ignore = "needs Kubo: make test-all"]
fn kubo_fetches_a_result_leaves_comes_back_and_fetches_more() {
    let mut node = Node::first();
    node.start();
    let text = Text::make(1, 5_000_000);
    let input = node.folder().join("input.txt");
    fs::write(&input, &text).unwrap();
    let job = JobDir::words(0, 1);
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input).arg("--quiet");
    let result = run.within(JOB).run().ok().text().to_owned();
    let added = node.add(&input);

    // Without a pass the swarm's key opens nothing.
    let kubo = Kubo::new(&node, "kubo");
    assert!(!kubo.gets(&node, &result, "10", &node.folder().join("nothing")));

    let _ = node.cli(["admit", &kubo.id, "--guest", "--ttl", "1h"]).run().ok();
    let (first, second, third) =
        (node.folder().join("first"), node.folder().join("second"), node.folder().join("third"));
    let get = kubo.program(["get", "200", &address(&node), &result]).arg(&first);
    let _ = get.arg(&added).arg(&second).run().ok();
    // As another process, which has the blocks of none of this.
    let again = Kubo::new(&node, "kubo-again");
    let _ = node.cli(["admit", &again.id, "--guest"]).run().ok();
    assert!(again.gets(&node, &result, "200", &third));

    let ours = node.folder().join("ours");
    let _ = node.cli(["get", &result, "--output"]).arg(&ours).run().ok();
    for entry in fs::read_dir(&ours).unwrap() {
        let name = entry.unwrap().file_name();
        for theirs in [&first, &third] {
            assert!(fs::read(theirs.join(&name)).unwrap() == fs::read(ours.join(&name)).unwrap());
        }
    }
    assert!(fs::read(second).unwrap() == text);

    let _ = node.cli(["revoke", &kubo.id]).run().ok();
    fs::write(&input, Text::make(3, 100_000)).unwrap();
    let later = node.add(&input);
    assert!(!kubo.gets(&node, &later, "10", &node.folder().join("nothing")));
    assert!(again.gets(&node, &later, "200", &node.folder().join("something")));
}

#[test]
#[ignore = "needs Kubo: make test-all"]
fn what_only_kubo_has_is_got_kept_and_goes_on_as_a_car() {
    let mut node = Node::first();
    node.start();
    let kubo = Kubo::new(&node, "kubo");
    let _ = node.cli(["admit", &kubo.id, "--guest"]).run().ok();
    let text = Text::make(2, 3_000_000);
    let path = node.folder().join("theirs.txt");
    fs::write(&path, &text).unwrap();
    let mut holding = kubo.program(["hold", &address(&node)]).arg(&path).start();
    let cid = eventually(JOB, "Kubo connects and says the CID", || {
        assert!(holding.is_running(), "{holding}Kubo ended");
        holding.stdout().lines().last().map(str::to_owned)
    });
    let got = node.folder().join("got.txt");
    let _ = node.cli(["get", &cid, "--output"]).arg(&got).within(JOB).run().ok();
    assert!(fs::read(&got).unwrap() == text);
    let _ = node.cli(["pin", &cid]).within(JOB).run().ok();
    holding.kill();

    // A tree of Kubo's make, out and in again, is Kubo's tree.
    let car = node.cli(["export", &cid]).within(JOB).run().ok().stdout;
    let mut other = Node::first();
    other.start();
    let import = other.cli(["import", "-", "--quiet"]).stdin(car).within(JOB).run().ok();
    assert_eq!(import.text(), cid);
    assert!(other.cli(["cat", &cid]).within(JOB).run().ok().stdout == text);
}
