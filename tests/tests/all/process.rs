//! Native programs as user code. The nodes need what confining takes, root above all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ipdc_tests::job::{many_splits, rows};
use ipdc_tests::site::MAY_FETCH;
use ipdc_tests::{JOB, JobDir, Node, SOON, Site, Swarm, eventually};
use serde_json::Value;

/// Whether these tests are left out: `IPDC_TEST_NO_PROCESS=1` says that programs cannot be confined here.
fn left_out() -> bool {
    let left_out = std::env::var_os("IPDC_TEST_NO_PROCESS").is_some();
    if left_out {
        eprintln!("left out: IPDC_TEST_NO_PROCESS is set");
    }
    left_out
}

/// Has `node` run native programs for the owner of its swarm, with `more` in its settings.
fn allow(node: &mut Node, more: &str) {
    let owner = node.status()["owner"].as_str().unwrap().to_owned();
    node.stop();
    node.configure(&format!(
        "[policy.owners.\"{owner}\"]\nruntimes = [\"wasm\", \"process\"]\n{more}"
    ));
    node.start();
}

/// A started node that runs native programs for its owner, with `more` in its settings; none where these tests are left out.
fn node_that_may(more: &str) -> Option<Node> {
    if left_out() {
        return None;
    }
    let mut node = Node::first();
    node.start();
    allow(&mut node, more);
    Some(node)
}

/// Stops a node that ran native programs: nothing of them is left on the machine.
fn stop(node: &mut Node) {
    let group = format!("ipdc-{}", node.peer_id());
    let processes = node.home().join("processes");
    node.stop();
    let left = below(Path::new("/sys/fs/cgroup"), &group);
    assert!(left.is_none(), "{left:?}");
    assert_eq!(fs::read_dir(processes).unwrap().count(), 0);
}

/// The first directory of this name below `folder`.
fn below(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut folders = entries.filter(|entry| entry.file_type().is_ok_and(|is| is.is_dir()));
    folders.find_map(|entry| match entry.file_name() == name {
        true => Some(entry.path()),
        false => below(&entry.path(), name),
    })
}

/// A job whose items go through the script.
fn items(script: &str, items: &str) -> JobDir {
    limited(script, items, "")
}

/// The same with these `[limits]`.
fn limited(script: &str, items: &str, limits: &str) -> JobDir {
    let toml = format!(
        "kind = \"cl\"\nrun = \"tool\"\nitems = \"{items}\"\nmemo = false\nretries = 0\n[limits]\n{limits}"
    );
    JobDir::new(&toml).file("tool", format!("#!/bin/sh\n{script}"))
}

#[test]
fn a_native_program_runs_where_its_owner_is_named_and_nowhere_else() {
    if left_out() {
        return;
    }
    let mut swarm = Swarm::of(3);
    let job = items("echo \"$1 $(cat) $(id -u)\"", "0..60");
    // Nobody is named yet.
    let id = swarm[0].detach(&job);
    swarm[0].job_until(&id, "that nobody may run it", |view| {
        view["waiting"].as_str().is_some_and(|why| why.contains("the process runtime"))
    });
    let _ = swarm[0].cli(["job", "cancel", &id]).run().ok();

    allow(&mut swarm[1], "");
    swarm.wait_connected();
    let named = swarm[1].peer_id();
    let follow = swarm[0].cli(["run", "cl"]).arg(job.path()).arg("--follow");
    let ran = follow.within(JOB).run().ok();
    let rows = rows(ran.text());
    assert_eq!(rows.len(), 60);
    for row in &rows {
        let output = row["output"].as_str().unwrap();
        let [function, item, uid] = output.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        assert_eq!((function, Some(item)), ("run", row["item"].as_str()), "{row}");
        assert!((61_184..=65_519).contains(&uid.parse().unwrap()), "{row}");
    }
    let workers: BTreeSet<_> = rows.iter().map(|row| row["worker"].as_str().unwrap()).collect();
    assert_eq!(workers, BTreeSet::from([named.as_str()]));
    stop(&mut swarm[1]);
}

#[test]
fn a_local_run_allows_native_programs_when_it_is_told_to() {
    if left_out() {
        return;
    }
    let room = Node::new();
    let job = items("echo \"its $(cat)\"", "0..5");
    let run = || room.cli(["run", "cl"]).arg(job.path()).args(["--follow", "--local", "2"]);
    let _ = run().within(JOB).run().failed(1, &["IPDC-1634", "--allow process"]);
    let ran = run().args(["--allow", "process"]).within(JOB).run().ok();
    assert_eq!(ran.text().matches("\"output\":\"its ").count(), 5, "{ran}");
}

#[test]
fn native_programs_map_combine_and_reduce_as_wasm_does() {
    let Some(mut node) = node_that_may("") else { return };
    let (input, counts) = many_splits(node.folder(), 3);
    let toml =
        "kind = \"mr\"\nmap = \"map\"\ncombine = \"add\"\nreduce = \"add\"\npartitions = 2\n";
    let map = "#!/bin/sh\ntr -s ' \\t\\r' '\\n' | sed '/^$/d; s/$/\\t1/'";
    let add = "#!/bin/sh\nexec awk -F '\\t' '
        $1 != key { if (NR > 1) print key \"\\t\" sum; key = $1; sum = 0 }
        { sum += $2 }
        END { if (NR) print key \"\\t\" sum }'";
    let job = JobDir::new(toml).file("map", map).file("add", add);
    let id = node.submit(job.path(), input.to_str().unwrap());
    let _ = node.job_done(&id);
    node.assert_counts(&id, &counts);
    stop(&mut node);
}

#[test]
fn files_that_a_native_program_leaves_are_what_its_item_gave() {
    let Some(mut node) = node_that_may("[node]\nslots = 1\n") else { return };
    // One slot, so that each item has what the one before left behind, if anything.
    let script = "case $(cat) in
        0) mkdir /out/d && printf zero > /out/0 && chmod 0 /out/0 && seq 100000 > out/d/long && ls out;;
        1) ls -A /out /tmp/out;;
        2) ln -s /etc/passwd /out/link;;
        3) for n in $(seq 65); do : > /out/$n; done;;
        4) head -c 600000 /dev/zero > /out/a; cp /out/a /out/b;;
        5) mkfifo out/pipe;;
        6) rmdir out && ln -s /etc out;;
        7) echo x > out/not; exit 1;;
        8) rmdir out;; esac";
    let job = limited(script, "0..9", "output = \"1MiB\"");
    let out = node.folder().join("out");
    let run = node.cli(["run", "cl"]).arg(job.path()).arg("--out").arg(&out).within(JOB).run();
    let _ = run.failed(6, &["6 of the 9 items"]);
    let results = fs::read_to_string(out.join("results.jsonl")).unwrap();
    let rows = rows(&results);
    let codes: Vec<_> = rows.iter().map(|row| row["error"]["code"].as_str()).collect();
    let no_file = Some("IPDC-5323");
    let (large, failed) = (Some("IPDC-5404"), Some("IPDC-5310"));
    let expected = [None, None, no_file, no_file, large, no_file, no_file, failed, None];
    assert_eq!(codes, expected, "{results}");
    assert_eq!(rows[0]["output"], "0\nd");
    let listed = rows[1]["output"].as_str().unwrap();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["/out:", "/tmp/out:"]);
    assert_eq!(rows[0]["files"]["0"]["bytes"], 4);
    assert_eq!(fs::read_to_string(out.join("files/0/0")).unwrap(), "zero");
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(fs::read_to_string(out.join("files/0/d/long")).unwrap(), numbers);
    let written: Vec<_> = fs::read_dir(out.join("files")).unwrap().collect();
    assert_eq!(written.len(), 1, "no other item gave a file");
    stop(&mut node);
}

#[test]
fn a_native_program_fetches_and_names_items_through_its_node() {
    const PAGES: u32 = 40;
    let Some(mut node) = node_that_may(MAY_FETCH) else { return };
    let site = Site::start(PAGES, 7);
    let script = r#"#!/bin/sh
        ask() { printf '%s\n' "$1" >&3; IFS= read -r answer <&3; }
        url=$(cat)
        ask '{"call": "fetch", "request": {"url": "'$url'"}}'
        length=$(printf %s "$answer" | sed 's/.*"body":\([0-9]*\).*/\1/')
        head -c $length <&3 > page
        for link in $(grep -o 'href="[^"]*' page | cut -d '"' -f 2 | sort -u); do
            ask '{"call": "enqueue", "item": "'${url%%/page*}$link'"}'
        done
        ask '{"call": "next"}'
        echo "$(wc -c < page) $answer""#;
    let toml = "kind = \"cl\"\nrun = \"crawl\"\nitems = \"start\"\nretries = 0\n[enqueue]\n[fetch]\n\
        agent = \"test/1.0 (+https://example.org)\"\nprivate = [\"127.0.0.0/8\"]\nrate = 0\nconcurrency = 4\n";
    let job = JobDir::new(toml).file("crawl", script).file("start", site.url("/page/0\n"));
    let ran = node.cli(["run", "cl"]).arg(job.path()).arg("--follow").within(JOB).run().ok();
    let rows = rows(ran.text());
    let found: BTreeSet<_> = rows.iter().map(|row| row["item"].as_str().unwrap()).collect();
    let pages: BTreeSet<_> = (0..PAGES).map(|n| site.url(&format!("/page/{n}"))).collect();
    assert_eq!(found, pages.iter().map(String::as_str).collect());
    for row in &rows {
        let (bytes, refused) = row["output"].as_str().unwrap().split_once(' ').unwrap();
        assert!(bytes.parse::<u32>().unwrap() > 100, "{row}");
        assert!(refused.contains("cannot ask that"), "{row}");
    }
    // Without `[fetch]` and `[enqueue]` it is told so.
    let script = r#"printf '%s\n' '{"call": "fetch", "request": {"url": "http://127.0.0.1/"}}' \
            '{"call": "enqueue", "item": "x"}' >&3
        read -r one <&3; read -r two <&3; echo "$one $two""#;
    let job = items(script, "0..1");
    let ran = node.cli(["run", "cl"]).arg(job.path()).arg("--follow").within(JOB);
    let row: Value = serde_json::from_str(ran.run().ok().text()).unwrap();
    let told = row["output"].as_str().unwrap();
    assert!(told.contains("does not ask for that") && told.contains("[enqueue]"), "{told}");
    stop(&mut node);
}

#[test]
fn what_a_native_program_fails_with_is_told_with_its_item() {
    let Some(mut node) = node_that_may("") else { return };
    let script = "case $(cat) in
        0) echo fine;; 1) echo on its log >&2; exit 3;; 2) kill -ABRT $$;;
        3) tail /dev/zero;; 4) sleep 1000;; esac";
    let job = limited(script, "0..5", "time = \"1s\"\nmemory = \"32MiB\"");
    let follow = node.cli(["run", "cl"]).arg(job.path()).arg("--follow");
    let ran = follow.within(JOB).run().failed(6, &["IPDC-1643", "4 of the 5 items"]);
    let mut rows = rows(ran.text());
    rows.sort_by_key(|row| row["n"].as_u64());
    let code = |row: &Value| row["error"]["code"].as_str().map(str::to_owned);
    let codes: Vec<_> = rows.iter().filter_map(code).collect();
    assert_eq!(codes, ["IPDC-5310", "IPDC-5318", "IPDC-5303", "IPDC-5302"], "{ran}");
    assert_eq!(rows[0]["output"], "fine");
    assert_eq!(rows[1]["log"][0], "on its log");
    stop(&mut node);
}

#[test]
fn a_node_that_cannot_confine_programs_says_so_and_does_not_offer_to_run_them() {
    if left_out() {
        return;
    }
    let mut swarm = Swarm::of(2);
    // The one user that there is for programs is somebody else's.
    fs::create_dir_all("/run/ipdc-uids").unwrap();
    let taken = File::create("/run/ipdc-uids/70123").unwrap();
    taken.try_lock().unwrap();
    allow(&mut swarm[1], "[process]\nuids = \"70123-70123\"");
    let why = swarm[1].status()["no_process"].as_str().unwrap().to_owned();
    assert!(why.contains("70123-70123"), "{why}");
    let shown = swarm[1].cli(["status"]).run().ok();
    assert!(shown.text().contains(&why), "{shown}");
    swarm.wait_connected();
    assert!(!offered(&swarm).contains("process"), "{}", offered(&swarm));

    // It is found out at each start.
    drop(taken);
    swarm[1].stop();
    swarm[1].start();
    assert_eq!(swarm[1].status()["no_process"], Value::Null);
    eventually(SOON, "it offers to", || offered(&swarm).contains("process").then_some(()));
    stop(&mut swarm[1]);
}

/// The runtimes that the first node knows the second one to offer.
fn offered(swarm: &Swarm) -> String {
    let (peers, other) = (swarm[0].api().get("/peers").ok(), swarm[1].peer_id());
    let other = peers.as_array().unwrap().iter().find(|peer| peer["peer_id"] == other.as_str());
    other.map(|peer| peer["facts"]["runtimes"].to_string()).unwrap_or_default()
}
