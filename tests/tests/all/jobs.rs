//! Jobs from the command line.

use ipdc_tests::job::{guest, many_splits, parts, sorted_lines, words_wat};
use ipdc_tests::program::Signal;
use ipdc_tests::{JOB, JobDir, Node, Program, SOON, Swarm, eventually, ipdc};

#[test]
fn run_gives_one_json_value_with_what_a_program_needs() {
    let mut node = Node::first();
    node.start();
    let (input, expected) = many_splits(node.folder(), 3);
    let out = node.folder().join("out");
    let job_dir = JobDir::words(0, 2);
    let run = node.cli(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
    let ran = run.arg("--out").arg(&out).arg("--json").within(JOB).run().ok().json();
    assert_eq!(ran["state"], "done");
    assert_eq!(ran["kind"], "mr");
    assert_eq!(ran["tasks"], 3 + 2);
    assert_eq!(ran["memoized"], 0);
    assert!(ran["seconds"].as_f64() > Some(0.0));
    for cid in ["result", "report"] {
        assert!(ran[cid].as_str().unwrap().starts_with("baf"), "{cid}: {ran}");
    }
    let parts = parts(&out);
    assert_eq!(parts.len(), 2);
    assert_eq!(sorted_lines(&parts), expected);
    // What determines the outputs, and nothing else, is beside them.
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert!(!manifest.to_string().contains(ran["job"].as_str().unwrap()), "{manifest:#}");
}

#[test]
fn the_same_job_gives_the_same_cid_and_runs_nothing_again() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 3);
    let job = JobDir::words(0, 2);
    let run = || {
        let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
        run.arg("--json").within(JOB).run().ok().json()
    };
    let (first, second) = (run(), run());
    assert_eq!(first["result"], second["result"]);
    assert_eq!((&first["memoized"], &second["memoized"]), (&0.into(), &5.into()));
}

#[test]
fn the_result_does_not_depend_on_the_number_of_workers() {
    let job = JobDir::words(0, 3);
    let result = |nodes: usize| {
        let swarm = Swarm::of(nodes);
        let (input, _) = many_splits(swarm[0].folder(), 5);
        let id = swarm[0].submit(job.path(), input.to_str().unwrap());
        swarm[0].job_done(&id)["result"].clone()
    };
    assert_eq!(result(1), result(3));
}

#[test]
fn data_goes_to_stdout_and_the_rest_to_stderr() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 1);
    let job_dir = JobDir::words(0, 1);
    let run = node.cli(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
    let ran = run.within(JOB).run().ok();
    assert!(
        !ran.stderr.contains('\u{1b}') && !ran.text().contains('\u{1b}'),
        "{ran}colours, but no terminal"
    );
    assert!(ran.text().contains("baf"), "{ran}expected the result's CID");
}

#[test]
fn jobs_are_listed_shown_and_named_by_unique_prefixes() {
    let mut node = Node::first();
    node.start();
    let (input, expected) = many_splits(node.folder(), 2);
    let job = node.submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    let done = node.job_done(&job);

    let listed = node.cli(["jobs", "--json"]).run().ok().json();
    assert_eq!(listed[0]["job"], job.as_str());
    let prefix = &job[..4];
    let shown = node.cli(["job", "show", prefix, "--json"]).run().ok().json();
    assert_eq!(shown["job"], job.as_str());
    assert_eq!(shown["result"], done["result"]);
    assert!(node.cli(["job", "show", prefix]).run().ok().text().contains(&job));
    let out = node.folder().join("out");
    let _ = node.cli(["job", "result", prefix, "--out"]).arg(&out).run().ok();
    assert_eq!(sorted_lines(&parts(&out)), expected);
    let _ = node.cli(["job", "logs", prefix]).run().ok();

    let _ = node.cli(["job", "show", "2222222"]).run().refused(&["2222222"]);
    // Submit until two begin with the same letter: 33 jobs share 32 letters.
    for _ in 0..33 {
        let _ = node.submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    }
    let all = node.cli(["jobs", "--json"]).run().ok().json();
    let firsts: Vec<char> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|j| j["job"].as_str().unwrap().chars().next().unwrap())
        .collect();
    let twice = firsts
        .iter()
        .find(|first| firsts.iter().filter(|other| other == first).count() > 1)
        .unwrap();
    let _ = node.cli(["job", "show", &twice.to_string()]).run().refused(&["begins the IDs of"]);
}

#[test]
fn a_cancelled_job_ends_and_stays_ended() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 4);
    let toml = "kind = \"mr\"\nmap = \"forever.wat\"\nreduce = \"sum\"\npartitions = 1\n";
    let forever = JobDir::new(toml).file("forever.wat", guest("forever.wat"));
    let job = node.submit(forever.path(), input.to_str().unwrap());
    node.job_until(&job, "an attempt under way", |view| {
        view["stages"][0]["running"].as_u64() > Some(0)
    });
    let _ = node.cli(["job", "cancel", &job]).run().ok();
    node.job_until(&job, "cancelled", |view| view["state"] == "cancelled");
    eventually(SOON, "its attempts end", || (node.attempts_of(&job) == 0).then_some(()));
    let _ = node.cli(["job", "result", &job]).run().refused(&["cancelled"]);
    node.kill();
    node.start();
    let view = node.api().get(&format!("/jobs/{job}")).ok();
    assert_eq!(view["state"], "cancelled");
}

#[test]
fn without_a_node_run_says_how_to_get_one() {
    let node = Node::first();
    let (input, _) = many_splits(node.folder(), 1);
    let job_dir = JobDir::words(0, 1);
    let run = node.cli(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
    let _ = run.run().refused(&["ipdc start", "--local"]);
    let nowhere = Program::new(ipdc()).env("IPDC_HOME", node.folder().join("nowhere"));
    let job_dir = JobDir::words(0, 1);
    let run = nowhere.args(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
    let _ = run.run().refused(&["--local"]);
}

#[test]
fn an_interrupted_run_says_what_becomes_of_the_job_and_loses_nothing() {
    let mut node = Node::first();
    node.start();
    let (input, expected) = many_splits(node.folder(), 6);
    let job_dir = JobDir::words(100_000_000, 1);
    let run = node.cli(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
    let running = run.start();
    let job = eventually(SOON, "the job runs", || {
        let jobs = node.api().get("/jobs").ok();
        let job = jobs.as_array().unwrap().first()?.clone();
        (job["state"] == "running").then(|| job["job"].as_str().unwrap().to_owned())
    });
    running.signal(Signal::INT);
    let ran = running.wait(SOON);
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    assert!(ran.stderr.contains(&job[..8]), "{ran}expected to hear of job {job}");
    let view = node
        .job_until(&job, "the end", |view| view["state"] == "done" || view["state"] == "cancelled");
    if view["state"] == "done" {
        let out = node.folder().join("out");
        let _ = node.cli(["job", "result", &job, "--out"]).arg(&out).run().ok();
        assert_eq!(sorted_lines(&parts(&out)), expected);
    }
    // The node takes the next job.
    let next = node.submit(JobDir::words(0, 1).path(), input.to_str().unwrap());
    let _ = node.job_done(&next);
}

#[test]
fn a_wrong_job_toml_is_refused_with_file_line_and_what_was_expected() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 1);
    let cases: &[(&str, &[&str])] = &[
        ("kind = \"mr\"\nmap = words.wat\n", &["job.toml:2"]),
        (
            "kind = \"mr\"\nmap = \"words.wat\"\nreduce = \"sum\"\npartitons = 4\n",
            &["job.toml:4", "partitons", "partitions"],
        ),
        (
            "kind = \"mr\"\nmap = \"missing.wat\"\nreduce = \"sum\"\n",
            &["job.toml:2", "missing.wat"],
        ),
        ("kind = \"mr\"\nmap = \"words.wat\"\nreduce = \"sun\"\n", &["job.toml:3", "sun", "sum"]),
        ("kind = \"mr\"\nreduce = \"sum\"\n", &["job.toml", "map"]),
        (
            "kind = \"mr\"\nmap = \"words.wat\"\nreduce = \"sum\"\npartitions = 0\n",
            &["job.toml:4", "partitions"],
        ),
        (
            "kind = \"mr\"\nmap = \"words.wat\"\nreduce = \"sum\"\npartitions = \"four\"\n",
            &["job.toml:4", "partitions"],
        ),
        ("kind = \"mrr\"\nmap = \"words.wat\"\nreduce = \"sum\"\n", &["job.toml:1", "mrr", "mr"]),
        ("kind = \"mr\"\nmap = \"../words.wat\"\nreduce = \"sum\"\n", &["job.toml:2"]),
        (
            "kind = \"mr\"\nmap = \"words.wat\"\nreduce = \"sum\"\n[limits]\nmemory = -1\n",
            &["job.toml:5", "memory"],
        ),
    ];
    for (toml, words) in cases {
        let job = JobDir::new(toml).file("words.wat", words_wat(0));
        let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
        let ran = run.run().refused(words);
        assert!(ran.took < SOON / 2, "{ran}");
    }
    // Two faults are told at once.
    let job = JobDir::new("kind = \"mr\"\nmap = \"missing.wat\"\nreduce = \"sun\"\n");
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
    let _ = run.run().refused(&["job.toml:2", "job.toml:3"]);
    assert_eq!(
        node.api().get("/jobs").ok().as_array().unwrap().len(),
        0,
        "a wrong job was accepted"
    );
}

#[test]
fn a_directory_without_job_toml_is_refused() {
    let mut node = Node::first();
    node.start();
    let empty = node.folder().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let _ = node.cli(["run", "mr"]).arg(&empty).run().refused(&["job.toml"]);
    let _ = node.cli(["run", "mr", "no/such/dir"]).run().refused(&["no/such/dir"]);
    let _ = node
        .cli(["run", "nokind"])
        .arg(JobDir::words(0, 1).path())
        .run()
        .refused(&["nokind", "mr"]);
}

#[test]
fn the_exit_code_says_what_kind_of_failure_it_was() {
    let mut node = Node::first();
    let code = |program: Program| program.run().status.code();
    assert_eq!(code(node.cli(["jobs"])), Some(3), "no node runs");
    node.start();
    assert_eq!(code(node.cli(["frobnicate"])), Some(2), "no such command");
    assert_eq!(code(node.cli(["run", "mr"])), Some(2), "an argument is missing");
    assert_eq!(code(node.cli(["job", "show", "zzzz"])), Some(4), "no such job");
    let job = JobDir::new("kind = \"mr\"\n");
    assert_eq!(code(node.cli(["run", "mr"]).arg(job.path())), Some(2), "a wrong job");
    let (input, _) = many_splits(node.folder(), 1);
    let job = JobDir::words(0, 1).file("words.wat", guest("trap.wat"));
    let failing = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
    assert_eq!(code(failing.within(JOB)), Some(1), "a failed job");
}

#[test]
fn help_and_version_need_no_home() {
    let node = Node::new();
    assert!(node.cli(["--help"]).run().ok().text().contains("invite"));
    let version = node.cli(["--version"]).run().ok();
    assert!(version.text().starts_with("ipdc "), "{version}");
}

#[test]
fn an_error_is_json_for_those_who_ask_for_it() {
    let node = Node::first();
    let ran = node.cli(["jobs", "--json"]).run();
    let error: serde_json::Value =
        serde_json::from_str(&ran.stderr).unwrap_or_else(|e| panic!("{ran}{e}"));
    assert!(error["error"]["code"].as_str().unwrap().starts_with("IPDC-"), "{ran}");
    assert!(error["error"]["help"].as_str().unwrap().contains("ipdc start"), "{ran}");
    assert_eq!(ran.text(), "");
}

#[test]
fn an_empty_input_gives_an_empty_result() {
    let mut node = Node::first();
    node.start();
    let input = node.folder().join("empty.txt");
    std::fs::write(&input, "").unwrap();
    let out = node.folder().join("out");
    let job_dir = JobDir::words(0, 2);
    let run = node.cli(["run", "mr"]).arg(job_dir.path()).arg("--input").arg(&input);
    let _ = run.arg("--out").arg(&out).within(JOB).run().ok();
    assert_eq!(sorted_lines(&parts(&out)), b"");
}

#[test]
fn why_a_job_waits_is_said_where_no_progress_is_drawn() {
    let mut node = Node::first();
    node.start();
    let job = JobDir::new("kind = \"cl\"\nrun = \"run\"\nitems = \"0..2\"\n")
        .file("run", "#!/bin/sh\ntrue\n");
    let mut run = node.cli(["run"]).arg(job.path()).start();
    let why = "waits: no peer can run this";
    eventually(SOON, "it says why", || run.stderr().contains(why).then_some(()));
    assert_eq!(run.stderr().matches(why).count(), 1);
    run.kill();
}
