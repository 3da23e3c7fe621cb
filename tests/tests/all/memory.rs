//! Nodes that have little memory.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ipdc_tests::job::{guest, many_splits};
use ipdc_tests::text::Text;
use ipdc_tests::{Cgroup, JobDir, Node, root};
use serde_json::Value;

/// What the small node has: half of what one attempt of a job may take by default.
const MEMORY: u64 = 128 << 20;

/// Bytes of text: two tasks that sort it at the same time take more than the node has.
const TEXT: usize = 32 << 20;

/// Set by who cannot make control groups and knows it: without them the small node is left out.
const WITHOUT: &str = "IPDC_TESTS_WITHOUT_CGROUPS";

/// A control group of [`MEMORY`]; none where they are left out.
fn small_group() -> Option<Cgroup> {
    if std::env::var_os(WITHOUT).is_some() {
        eprintln!("left out: {WITHOUT} is set");
        return None;
    }
    Some(Cgroup::with_memory(MEMORY).unwrap_or_else(|error| {
        panic!("no control group can be made here ({error}): run as root, or set {WITHOUT}=1 to leave this out")
    }))
}

#[test]
fn a_job_too_large_for_every_node_says_at_once_why_it_waits() {
    let Some(group) = small_group() else { return };
    let mut node = Node::first();
    node.start_in(&group);
    let (input, _) = many_splits(node.folder(), 1);
    let toml = "kind = \"mr\"\nmap = \"grow.wat\"\nreduce = \"sum\"\n";
    let asks = "[limits]\nmemory = \"512MiB\"\n";
    // One asks for what the node has not; of the other that is found out when it runs.
    for (limits, why) in [
        (asks, "1 too small (`limits.memory` is 512 MiB, the largest has 128 MiB)"),
        ("", "1 too small (the guest wants "),
    ] {
        let job = JobDir::new(&format!("{toml}{limits}")).file("grow.wat", guest("grow.wat"));
        let job = node.submit(job.path(), input.to_str().unwrap());
        let waits = |view: &Value| view["waiting"].as_str().is_some_and(|text| text.contains(why));
        let view = node.job_until(&job, "waiting", waits);
        assert_ne!(view["state"], "failed", "{view:#}");
        let _ = node.cli(["job", "cancel", &job]).run().ok();
    }
}

#[test]
fn a_node_in_128_mb_without_swap_gives_what_any_other_does() {
    let Some(group) = small_group() else { return };
    let (mut small, mut roomy) = (Node::first(), Node::first());
    small.start_in(&group);
    roomy.start();
    let me = &small.api().get("/peers").ok()[0];
    assert_eq!(
        (&me["facts"]["memory"], &me["facts"]["slots"]),
        (&MEMORY.into(), &1.into()),
        "{me:#}"
    );

    let text = small.folder().join("text");
    let bytes = Text::make(7, TEXT);
    fs::write(&text, &bytes).unwrap();
    // A packed file is one split, however long, so a map task has to sort all of it.
    let packed = small.folder().join("packed");
    fs::create_dir(&packed).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let gzip = gzip.finish().unwrap();
    for name in ["a.gz", "b.gz"] {
        fs::write(packed.join(name), &gzip).unwrap();
    }

    let count = JobDir::words(0, 4);
    let sort = root().join("examples/sort");
    let roomy_sort = "kind = \"mr\"\nmap = \"cat.wat\"\nreduce = \"sort\"\npartitions = 2\n";
    let roomy_sort = JobDir::new(roomy_sort).file("cat.wat", guest("cat.wat"));
    for (job, input) in [(count.path(), &text), (&sort, &text), (roomy_sort.path(), &packed)] {
        let result = |node: &Node| {
            let job = node.submit(job, input.to_str().unwrap());
            node.job_done(&job)["result"].clone()
        };
        let (here, there): (Value, Value) = (result(&small), result(&roomy));
        assert_eq!(here, there, "{}", job.display());
        assert_eq!(group.killed(), 0);
    }
    assert!(small.process().is_running());
}
