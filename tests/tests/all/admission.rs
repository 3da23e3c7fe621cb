//! Who gets into a swarm, and who does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ipdc_tests::{Node, SOON, eventually};
use serde_json::Value;

#[test]
fn a_token_lets_in_as_many_as_it_says_and_no_more() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let mut second = Node::joined(&token);
    second.start().wait_peers(1);

    let late = Node::new();
    let _ = late.cli(["join", &token]).run().refused(&["used"]);
    first.wait_peers(1);
}

#[test]
fn a_token_is_read_from_standard_input_too() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let mut second = Node::new();
    let _ = second.cli(["join"]).stdin(format!("{token}\n")).run().ok();
    second.start().wait_peers(1);
}

#[test]
fn an_expired_token_is_refused() {
    let mut first = Node::first();
    first.start();
    let token = first.cli(["invite", "--ttl", "1s"]).run().ok().text().to_owned();
    let late = Node::new();
    // Nothing announces that a second has passed.
    std::thread::sleep(Duration::from_millis(2_500));
    let _ = late.cli(["join", &token]).run().refused(&["expired"]);
}

#[test]
fn a_forged_token_is_refused() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let forger = Node::new();
    for place in [token.len() / 3, token.len() / 2, token.len() - 3] {
        let mut forged = token.clone().into_bytes();
        forged[place] = if forged[place] == b'a' { b'b' } else { b'a' };
        let forged = String::from_utf8(forged).unwrap();
        let _ = forger.cli(["join", &forged]).run().refused(&["invitation"]);
    }
    let _ = forger.cli(["join", "nonsense"]).run().refused(&["invitation"]);
    // The true one still works: nothing was used up.
    let _ = forger.cli(["join", &token]).run().ok();
}

#[test]
fn a_home_that_is_in_a_swarm_does_not_join_another() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let other = Node::first();
    let key = std::fs::read(other.home().join("swarm.key")).unwrap();
    let _ = other.cli(["join", &token]).run().refused(&[]);
    assert_eq!(
        std::fs::read(other.home().join("swarm.key")).unwrap(),
        key,
        "its swarm was overwritten"
    );
}

#[test]
fn a_node_without_the_key_gets_nothing_and_harms_nothing() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let status = first.status();
    let listen = status["listen"][0].as_str().unwrap();
    let port = listen.split("/tcp/").nth(1).unwrap().split('/').next().unwrap();

    // What every connection to a closed swarm begins with, a nonce, and then noise in place of
    // what only the key's holders can write.
    let mut stranger = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stranger.set_read_timeout(Some(SOON)).unwrap();
    let noise: Vec<u8> = (0..2_000_u32).map(|i| (i * 31 % 251) as u8).collect();
    // The node may have hung up in the middle of it.
    let _ = stranger.write_all(&noise);
    let mut heard = Vec::new();
    let _ = stranger.read_to_end(&mut heard);
    assert!(heard.len() < 1_000, "the node said {} bytes to a stranger", heard.len());

    // It still lets friends in.
    let mut second = Node::joined(&token);
    second.start().wait_peers(1);
}

#[test]
fn a_certificate_holds_for_one_identity() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let mut member = Node::joined(&token);
    member.start().wait_peers(1);
    member.stop();

    // The member's home, key and certificate and all, with another node's identity.
    let other = Node::first();
    std::fs::copy(other.home().join("identity"), member.home().join("identity")).unwrap();
    member.start_only();
    let impostor = member.process();
    eventually(SOON, "the node refuses, or is refused", || {
        (!impostor.is_running() || impostor.stderr().contains("IPDC-")).then_some(())
    });
    first.wait_peers(0);
}

/// What `ipdc peers --admission` says on `node` of `peer`, when it knows of it.
fn admission(node: &Node, peer: &str) -> Option<Value> {
    let all = node.cli(["peers", "--admission", "--json"]).run().ok().json();
    all.as_array().unwrap().iter().find(|one| one["peer_id"] == peer).cloned()
}

#[test]
fn a_delegate_lets_others_in_and_takes_them_along_when_it_is_revoked() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let mut delegate = Node::joined(&token);
    delegate.start().wait_peers(1);
    let id = delegate.peer_id();
    let _ = delegate.cli(["invite"]).run().failed(5, &["IPDC-2207", "ipdc delegate"]);
    let _ = delegate.cli(["delegate", &id]).run().failed(5, &["IPDC-2207"]);

    let _ = first.cli(["delegate", &id]).run().ok();
    eventually(SOON, "the delegate hears of its right", || {
        admission(&delegate, &id).filter(|one| one["may_invite"] == true)
    });
    let mut guest = Node::joined(&delegate.invite(1));
    guest.start().wait_peers(2);
    let seen = admission(&first, &guest.peer_id()).unwrap();
    assert_eq!(seen["let_in_by"], id.as_str());
    assert_eq!(seen["standing"], "member");
    assert!(admission(&first, &id).unwrap()["let_in_by"].is_null(), "the root let it in");

    let revoked = first.cli(["revoke", &id, "--json"]).run().ok().json();
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 2, "{revoked}");
    first.wait_peers(0);
    // What was answered holds, whatever happens right after.
    first.kill();
    first.start();
    for gone in [&delegate, &guest] {
        let seen = admission(&first, &gone.peer_id()).unwrap();
        assert_eq!(seen["standing"], "revoked", "{seen}");
        assert_eq!(seen["revoked"]["whom"], id.as_str(), "{seen}");
    }
    let text = first.cli(["peers", "--admission"]).run().ok();
    assert!(text.text().contains("revoked by root"), "{text}");
    let _ = first.cli(["revoke", "nobody"]).run().failed(4, &["IPDC-2208", "nobody"]);
}

#[test]
fn a_copied_home_is_kept_out_and_says_why_while_the_other_runs() {
    let mut first = Node::first();
    let token = first.start().invite(1);
    let mut member = Node::joined(&token);
    member.start().wait_peers(1);
    member.stop();
    let mut copy = Node::new();
    std::fs::create_dir(copy.home()).unwrap();
    for entry in std::fs::read_dir(member.home()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.home().join(entry.file_name())).unwrap();
        }
    }
    member.start().wait_peers(1);
    copy.start();
    eventually(SOON, "the copy is told", || {
        copy.process().stderr().contains("same identity").then_some(())
    });
    copy.wait_peers(0);
    // The other one goes; then it is the member.
    member.stop();
    copy.wait_peers(1);
}
