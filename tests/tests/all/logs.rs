//! What user code logs: shown of every task, whether it failed or not.

use ipdc_tests::job::{guest, many_splits};
use ipdc_tests::{JOB, JobDir, Node, Swarm};
use serde_json::Value;

/// A job of a map task a file, each of which logs so many lines.
fn logging(times: u32) -> JobDir {
    let wat =
        guest("log.wat").replace("(i32.const 2) (; times ;)", &format!("(i32.const {times})"));
    JobDir::new("kind = \"mr\"\nmap = \"log.wat\"\n").file("log.wat", wat)
}

fn logs(node: &Node, job: &str, flags: &[&str]) -> Value {
    node.cli(["job", "logs", job, "--json"]).args(flags).run().ok().json()
}

#[test]
fn what_tasks_logged_is_shown_after_the_end_and_after_a_restart_and_of_a_memo_nothing() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 3);
    let input = node.add(&input);
    let job = node.submit(logging(2).path(), &input);
    let done = node.job_done(&job);
    node.kill();
    node.start();
    let text = node.cli(["job", "logs", &job]).run().ok();
    let lines = (0..3).flat_map(|task| vec![format!("{task} 1.1 mapping"); 2]);
    assert_eq!(text.text(), lines.collect::<Vec<_>>().join("\n"), "{text}");
    let one = logs(&node, &job, &["--task", "1"]);
    assert_eq!(one["lines"].as_array().unwrap().len(), 2, "{one}");
    assert_eq!(
        (&one["lines"][0]["task"], &one["lines"][0]["line"]),
        (&1.into(), &"mapping".into())
    );
    let _ = node.cli(["job", "logs", &job, "--task", "3"]).run().failed(4, &["IPDC-5003"]);
    let report = node.cli(["cat", done["report"].as_str().unwrap()]).run().ok().json();
    assert_eq!(report["tasks"][2]["commit"]["log"], serde_json::json!(["mapping", "mapping"]));

    let again = node.submit(logging(2).path(), &input);
    let again = node.job_done(&again);
    assert_eq!((&again["memoized"], &again["result"]), (&3.into(), &done["result"]));
    assert_eq!(logs(&node, again["job"].as_str().unwrap(), &[])["lines"], serde_json::json!([]));
}

#[test]
fn of_much_the_last_lines_are_shown_and_how_many_are_not() {
    let swarm = Swarm::of(2);
    let (input, _) = many_splits(swarm[0].folder(), 40);
    // All of one attempt's room, and far more.
    let job = swarm[0].submit(logging(5_000).path(), input.to_str().unwrap());
    let _ = swarm[0].job_done(&job);
    let all = logs(&swarm[0], &job, &[]);
    let (lines, left_out) = (all["lines"].as_array().unwrap(), all["left_out"].as_array().unwrap());
    let kept = lines.iter().filter(|line| line["task"] == 7).count() as u64;
    let gone = left_out.iter().find(|gone| gone["task"] == 7).unwrap()["lines"].as_u64().unwrap();
    assert!(kept > 100 && kept + gone == 5_000, "{kept} and {gone}");
    let text = swarm[0].cli(["job", "logs", &job, "--task", "7"]).within(JOB).run().ok();
    assert!(text.text().ends_with(&format!(" {gone} lines before were not kept")), "{text}");
}
