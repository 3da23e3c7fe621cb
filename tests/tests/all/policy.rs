//! For whom a node works, and when: what it refuses is done elsewhere, and the job says why.

use std::collections::BTreeSet;

use serde_json::Value;

use ipdc_tests::job::many_splits;
use ipdc_tests::{JobDir, Node, SOON, Swarm, alone, eventually};

/// Rounds a line that make one small split take about half a second.
const BURN: u32 = 100_000_000;

/// The peers that ran a task of an ended job.
fn workers(node: &Node, done: &Value) -> BTreeSet<String> {
    let report = node.cli(["cat", done["report"].as_str().unwrap()]).run().ok().json();
    let tasks = report["tasks"].as_array().unwrap();
    tasks.iter().map(|task| task["commit"]["worker"].as_str().unwrap().to_owned()).collect()
}

/// What `node` hears of `peer`: whether it is paused.
fn is_paused(node: &Node, peer: &str) -> bool {
    let peers = node.api().get("/peers").ok();
    let peer = peers.as_array().unwrap().iter().find(|known| known["peer_id"] == peer).cloned();
    peer.unwrap_or_else(|| panic!("no such peer in {peers:#}"))["facts"]["paused"] == true
}

#[test]
fn what_one_node_refuses_another_does_and_the_job_says_who_refused_and_why() {
    let mut swarm = Swarm::of(3);
    let owner = swarm[0].status()["owner"].as_str().unwrap().to_owned();
    swarm[1].stop();
    swarm[1].configure(&format!("[policy.owners.\"{owner}\"]\nruntimes = []"));
    swarm[1].start();
    swarm.wait_connected();
    let refuser = swarm[1].peer_id();
    let (input, expected) = many_splits(swarm[0].folder(), 12);
    let job = swarm[0].submit(JobDir::words(0, 2).path(), input.to_str().unwrap());
    let done = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
    assert!(!workers(&swarm[0], &done).contains(&refuser), "{done:#}");
    let refusals = done["refusals"].as_array().unwrap();
    let [refusal] = &refusals[..] else { panic!("one refused: {done:#}") };
    assert_eq!(refusal["peer"], refuser.as_str());
    let reason = refusal["reason"].as_str().unwrap();
    assert!(reason.contains(&owner) && reason.contains("wasm"), "{reason}");
    let shown = swarm[0].cli(["job", "show", &job]).run().ok();
    assert!(shown.text().contains(&format!("by {refuser}: this node's policy")), "{shown}");
}

#[test]
fn a_paused_node_takes_nothing_and_says_so_until_it_is_resumed_also_over_a_restart() {
    let _alone = alone();
    let mut swarm = Swarm::of(2);
    let paused = swarm[1].peer_id();
    let (input, expected) = many_splits(swarm[0].folder(), 6);
    let job_dir = JobDir::words(BURN, 2);
    let input = input.to_str().unwrap();
    let _ = swarm[1].cli(["pause"]).run().ok();
    assert_eq!(swarm[1].status()["paused"], true);
    eventually(SOON, "the other node hears of it", || is_paused(&swarm[0], &paused).then_some(()));
    swarm[1].kill();
    swarm[1].start();
    swarm.wait_connected();
    assert_eq!(swarm[1].status()["paused"], true);
    eventually(SOON, "the other node hears of it again", || {
        is_paused(&swarm[0], &paused).then_some(())
    });
    let job = swarm[0].submit(job_dir.path(), input);
    let done = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
    assert!(!workers(&swarm[0], &done).contains(&paused), "{done:#}");

    // What its own user submits waits too, and goes on at once when the node does.
    let _ = swarm[0].cli(["pause"]).run().ok();
    let params = ["--no-memo", "--detach", "--json"];
    let run = swarm[0].cli(["run", "mr"]).arg(job_dir.path()).args(["--input", input]).args(params);
    let job = run.run().ok().json()["job"].as_str().unwrap().to_owned();
    swarm[0].job_until(&job, "that it waits, and why", |view| {
        view["waiting"].as_str().is_some_and(|why| why.contains("paused"))
    });
    let _ = swarm[1].cli(["resume"]).run().ok();
    let done = swarm[0].job_done(&job);
    assert_eq!(workers(&swarm[0], &done), BTreeSet::from([paused.clone()]));
    assert_eq!(swarm[1].status()["paused"], false);
}

#[test]
fn a_node_that_is_paused_while_it_works_ends_what_runs_and_hands_back_the_rest() {
    let _alone = alone();
    let swarm = Swarm::of(2);
    let (input, expected) = many_splits(swarm[0].folder(), 12);
    let job = swarm[0].submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    eventually(SOON, "the other node works", || swarm.worker_of(&job, &[0]));
    let _ = swarm[1].cli(["pause"]).run().ok();
    eventually(SOON, "it ends what it runs", || (swarm[1].attempts_of(&job) == 0).then_some(()));
    let done = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
    let report = swarm[0].cli(["cat", done["report"].as_str().unwrap()]).run().ok().json();
    let failures = |task: &Value| task["failures"].as_array().unwrap().len();
    let failed: usize = report["tasks"].as_array().unwrap().iter().map(failures).sum();
    assert_eq!(failed, 0, "nothing that ran was lost: {report:#}");
}

#[test]
fn a_node_takes_in_as_many_jobs_as_its_policy_says_and_an_end_makes_room() {
    let mut node = Node::first();
    node.configure("[policy]\njobs = 2");
    node.start();
    let owner = node.status()["owner"].as_str().unwrap().to_owned();
    let (input, _) = many_splits(node.folder(), 1);
    let _ = node.cli(["pause"]).run().ok();
    let submit = |partitions| {
        let job_dir = JobDir::words(0, partitions);
        let run = node.cli(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
        run.args(["--detach", "--json"]).run()
    };
    let first = submit(1).ok().json()["job"].as_str().unwrap().to_owned();
    let _ = submit(2).ok();
    let refused = submit(3).refused(&["IPDC-4009", &owner, "2 jobs under way", "2 at most"]);
    assert_eq!(refused.status.code(), Some(5), "{refused}");
    let _ = node.cli(["job", "cancel", &first]).run().ok();
    node.job_until(&first, "its end", |view| view["state"] == "cancelled");
    eventually(SOON, "room for one more", || submit(4).status.success().then_some(()));
}

#[test]
fn a_node_holds_no_more_for_an_owner_than_its_policy_says_and_the_job_says_so() {
    let mut swarm = Swarm::of(2);
    swarm[1].stop();
    swarm[1].configure("[policy]\nstored = \"16 B\"");
    swarm[1].start();
    swarm.wait_connected();
    let (input, expected) = many_splits(swarm[0].folder(), 2);
    let job = swarm[0].submit(JobDir::words(0, 2).path(), input.to_str().unwrap());
    let done = swarm[0].job_done(&job);
    swarm[0].assert_counts(&job, &expected);
    let refusals = done["refusals"].as_array().unwrap();
    let [refusal] = &refusals[..] else { panic!("one refused: {done:#}") };
    assert_eq!(refusal["peer"], swarm[1].peer_id());
    let reason = refusal["reason"].as_str().unwrap();
    assert!(reason.contains("bytes stored") && reason.contains("16 at most"), "{reason}");
    let pins = swarm[1].cli(["pin", "--json"]).run().ok();
    assert!(!pins.text().contains("result:"), "{pins}");
}

#[test]
fn the_audit_log_says_who_came_what_was_run_for_whom_and_what_was_refused() {
    let _alone = alone();
    let mut first = Node::first();
    first.start();
    let token = first.cli(["invite", "--owner", "bob"]).run().ok().text().to_owned();
    let mut second = Node::joined(&token);
    second.start().wait_peers(1);
    first.wait_peers(1);
    let ann = first.status()["owner"].as_str().unwrap().to_owned();
    let (first_id, second_id) = (first.peer_id(), second.peer_id());
    let (input, _) = many_splits(first.folder(), 12);
    let job = first.submit(JobDir::words(BURN, 2).path(), input.to_str().unwrap());
    eventually(SOON, "the other node works", || (second.attempts_of(&job) > 0).then_some(()));
    let _ = second.cli(["pause"]).run().ok();
    let _ = first.job_done(&job);
    let log = |node: &Node, owner: &str| {
        let log =
            node.cli(["audit", "--since", "1h", "--owner", owner, "--json"]).run().ok().json();
        let of = |entry: &Value| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(text("owner"), owner, "{log:#}");
            (text("what"), text("peer"), text("job"))
        };
        log.as_array().unwrap().iter().map(of).collect::<BTreeSet<_>>()
    };
    let entry = |what: &str, peer: &str, job: &str| (what.to_owned(), peer.into(), job.into());
    let of_bob = log(&first, "bob");
    for expected in [
        entry("invited", "", ""),
        entry("joined", &second_id, ""),
        entry("admitted", &second_id, ""),
    ] {
        assert!(of_bob.contains(&expected), "{expected:?} in {of_bob:?}");
    }
    assert!(log(&first, &ann).contains(&entry("accepted", &first_id, &job)));
    let of_ann = log(&second, &ann);
    for what in ["ran", "refused"] {
        let expected = entry(what, &first_id, &job);
        assert!(of_ann.contains(&expected), "{expected:?} in {of_ann:?}");
    }
    assert!(log(&second, "bob").contains(&entry("paused", &second_id, "")));

    let _ = first.cli(["revoke", &second_id]).run().ok();
    first.stop();
    first.start();
    let kept = log(&first, "bob");
    assert!(kept.is_superset(&of_bob), "a restart takes nothing: {kept:?}");
    assert!(kept.contains(&entry("revoked", &second_id, "")), "{kept:?}");
}
