//! The swarm's key is changed, and the root's kept elsewhere.

use ipdc_tests::job::many_splits;
use ipdc_tests::{JobDir, Node, SOON, Swarm, alone, eventually};
use serde_json::Value;

/// Rounds of work for each word: a split takes seconds.
const BURN: u32 = 100_000_000;

const WORDS: &str = "seven geese over the fen\n";

/// The text of a node's `swarm.key`.
fn swarm_key(node: &Node) -> String {
    std::fs::read_to_string(node.home().join("swarm.key")).unwrap()
}

#[test]
fn a_job_goes_on_while_the_swarm_gets_a_new_key() {
    let _alone = alone();
    let mut swarm = Swarm::of(3);
    let mut away = Node::joined(&swarm[0].invite(1));
    away.start().wait_peers(3);
    let (stranger, away_id) = (swarm_key(&away), away.peer_id());
    away.stop();
    swarm.wait_connected();

    let (input, expected) = many_splits(swarm[0].folder(), 40);
    let job = swarm[1].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    swarm[1].job_until(&job, "some of the map done", |view| {
        view["stages"][0]["done"].as_u64() > Some(1)
    });
    let _ = swarm[1].cli(["rekey"]).run().failed(5, &["IPDC-2207"]);
    let rekeyed = swarm[0].cli(["rekey", "--json"]).run().ok().json();
    assert_eq!(rekeyed["told"].as_array().map(Vec::len), Some(2), "{rekeyed}");
    assert_eq!(rekeyed["away"], Value::from(vec![away_id]));
    for n in 0..3 {
        assert_ne!(swarm_key(&swarm[n]), stranger);
        let audit = swarm[n].cli(["audit"]).run().ok();
        assert!(audit.text().contains("rekeyed"), "{audit}");
    }
    let _ = swarm[1].job_done(&job);
    swarm[1].assert_counts(&job, &expected);

    for n in 0..3 {
        eventually(SOON, "the new key is in use", || {
            swarm[n].process().stderr().contains("new key is in use").then_some(())
        });
    }
    swarm.wait_connected();

    // Who was away is nobody, until its user brings it the key.
    away.start();
    eventually(SOON, "it is left alone", || {
        (ipdc_tests::node::connected(&away.api().get("/peers").ok()) == 0).then_some(())
    });
    away.stop();
    let _ = away.cli(["join", &swarm[0].invite(1)]).run().ok();
    assert_eq!(swarm_key(&away), swarm_key(&swarm[0]));
    away.start().wait_peers(3);
    // A restart finds the new key too.
    swarm[2].stop();
    swarm[2].start().wait_peers(3);
}

#[test]
fn a_lost_root_comes_back_from_its_backup_on_another_member() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let mut member = Node::joined(&token);
    member.start().wait_peers(1);
    let backup = member.folder().join("root.pem");
    let file = backup.to_str().unwrap();
    let _ = member.cli(["root", "export", file]).stdin(WORDS).run().failed(5, &["IPDC-1632"]);
    let _ = first.cli(["root", "export", file]).stdin("short\n").run().failed(2, &["IPDC-2011"]);
    let _ = first.cli(["root", "export", file]).stdin(WORDS).run().ok();
    let _ = first.cli(["root", "export", file]).stdin(WORDS).run().failed(1, &["IPDC-2001"]);
    first.stop();
    drop(first);

    let _ = member.cli(["root", "restore", file]).stdin(WORDS).run().failed(1, &["IPDC-1004"]);
    member.stop();
    let _ = member
        .cli(["root", "restore", file])
        .stdin("seven ducks\n")
        .run()
        .failed(2, &["IPDC-2013"]);
    let other = Node::first();
    let _ = other.cli(["root", "restore", file]).stdin(WORDS).run().failed(2, &["IPDC-1633"]);
    let _ = member.cli(["root", "restore", file]).stdin(WORDS).run().ok();
    let mut late = Node::joined(&member.start().invite(1));
    late.start().wait_peers(1);
    let _ = member.cli(["delegate", &late.peer_id()]).run().ok();

    // And on a machine that had nothing but the backup, a key and an address.
    let mut anew = Node::new();
    let key = late.home().join("swarm.key");
    let address = late.status()["listen"][0].as_str().unwrap().to_owned();
    let _ = anew
        .cli(["root", "restore", file, "--bootstrap", &address, "--swarm-key"])
        .arg(key)
        .stdin(WORDS)
        .run()
        .ok();
    anew.start().wait_peers(2);
    let _ = anew.invite(1);
}
