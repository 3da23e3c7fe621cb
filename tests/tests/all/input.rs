//! Input of any shape.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::write::GzEncoder;
use ipdc_tests::job::{parts, sorted_lines, words_wat};
use ipdc_tests::text::{Text, write_counts};
use ipdc_tests::{JOB, JobDir, Node, Swarm};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn counts(text: &[u8]) -> Vec<u8> {
    let mut counts = Vec::new();
    write_counts(text, &mut counts).unwrap();
    counts
}

/// Writes each of these lines to a file of its own below `dir`.
fn write_lines(dir: &Path, lines: &[&[u8]]) {
    fs::create_dir_all(dir).unwrap();
    for (number, line) in lines.iter().enumerate() {
        fs::write(dir.join(format!("{number:05}.txt")), line).unwrap();
    }
}

/// Runs `job` over `input` and gives what it counted.
fn counted(node: &Node, job: &JobDir, input: &str) -> Vec<u8> {
    let out = tempfile::tempdir_in(node.folder()).unwrap();
    let run = node.cli(["run", "mr"]).arg(job.path()).args(["--input", input]);
    let _ = run.arg("--out").arg(out.path()).within(JOB).run().ok();
    sorted_lines(&parts(out.path()))
}

#[test]
fn gzip_zstd_and_small_files_give_the_count_of_the_plain_text() {
    let mut node = Node::first();
    node.start();
    let job = JobDir::words(0, 2);
    let text = Text::make(30, 600_000);
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let (first, rest) = lines.split_at(lines.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);

    let mixed = node.folder().join("mixed");
    write_lines(&mixed.join("small"), first);
    // Two members in one file; another with its last line open.
    let (one, other) = second.split_at(second.len() / 2);
    fs::write(mixed.join("b.gz"), [gzip(&one.concat()), gzip(&other.concat())].concat()).unwrap();
    let open = third.concat();
    let open = open.strip_suffix(b"\n").unwrap();
    fs::write(mixed.join("c.zst"), zstd::encode_all(open, 3).unwrap()).unwrap();
    fs::write(mixed.join("empty"), "").unwrap();
    assert!(counted(&node, &job, mixed.to_str().unwrap()) == counts(&text));

    // The same by a pattern, and what it does not match left out.
    let pattern = mixed.join("*.gz");
    assert!(counted(&node, &job, pattern.to_str().unwrap()) == counts(&second.concat()));

    fs::write(mixed.join("b.gz"), &gzip(&second.concat())[..20_000]).unwrap();
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&mixed);
    let _ = run.within(JOB).run().refused(&["IPDC-5370", "b.gz"]);
}

#[test]
fn several_inputs_need_no_names_and_are_the_same_by_their_names_and_cids() {
    let mut node = Node::first();
    node.start();
    let (a, b) = (node.folder().join("a.txt"), node.folder().join("b.gz"));
    let text = Text::make(34, 20_000);
    fs::write(&a, &text).unwrap();
    fs::write(&b, gzip(&Text::make(35, 20_000))).unwrap();
    let job = JobDir::words(0, 1);
    let run = |inputs: [String; 2]| {
        let run = node.cli(["run", "mr"]).arg(job.path()).arg("--json");
        run.args(inputs.iter().flat_map(|input| ["--input", input])).within(JOB).run()
    };
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let by_path = run([path(&a), path(&b)]).ok().json();
    let save = node.save_result(by_path["job"].as_str().unwrap());
    let both = [text, Text::make(35, 20_000)].concat();
    assert!(sorted_lines(&parts(&save)) == counts(&both));
    let named = run([format!("b={}", b.display()), path(&a)]).ok().json();
    assert_eq!(named["result"], by_path["result"]);
    let by_cid = run([format!("a={}", node.add(&a)), format!("b={}", node.add(&b))]).ok().json();
    assert_eq!(by_cid["result"], by_path["result"]);
    let _ = run([node.add(&a), node.add(&b)]).ok();
    let _ = run([path(&a), path(&a)]).failed(2, &["IPDC-1628", "NAME="]);
}

#[test]
fn ten_thousand_small_files_are_some_dozen_tasks() {
    let mut node = Node::first();
    node.start();
    let text = Text::make(31, 900_000);
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').take(10_000).collect();
    assert_eq!(lines.len(), 10_000);
    let dir = node.folder().join("many");
    write_lines(&dir, &lines);
    let (cid, job) = (node.add(&dir), JobDir::words(0, 1));
    let id = node.submit(job.path(), &cid);
    let tasks = node.job_done(&id)["tasks"].as_u64().unwrap();
    assert!((20..150).contains(&tasks), "{tasks} tasks");
    node.assert_counts(&id, &counts(&lines.concat()));
}

#[test]
fn a_line_of_64_mebibytes_needs_the_memory_and_says_so() {
    let mut node = Node::first();
    node.start();
    let input = node.folder().join("line");
    let mut text = b"word ".repeat((64 << 20) / 5 + 1);
    text.extend_from_slice(b"\nlast\n");
    fs::write(&input, &text).unwrap();
    let job = JobDir::words(0, 1);
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
    let _ = run.within(JOB).run().refused(&["IPDC-5356", "67108864"]);
    let toml = fs::read_to_string(job.path().join("job.toml")).unwrap();
    let job = job.file("job.toml", toml + "[limits]\nmemory = \"512MiB\"\n");
    assert_eq!(counted(&node, &job, input.to_str().unwrap()), counts(&text));
}

#[test]
fn a_file_is_cut_alike_wherever_the_job_begins() {
    let swarm = Swarm::of(2);
    let text = Text::make(32, 15_000_000);
    let path = swarm[0].folder().join("text");
    fs::write(&path, &text).unwrap();
    let (cid, job) = (swarm[0].add(&path), JobDir::words(0, 2));
    let views = [0, 1].map(|node| {
        let id = swarm[node].submit(job.path(), &cid);
        swarm[node].job_done(&id)
    });
    assert_eq!(views[0]["result"], views[1]["result"]);
    assert_eq!(views[0]["tasks"], views[1]["tasks"]);
    assert!(views[0]["tasks"].as_u64().unwrap() > 2 + 2, "{}", views[0]);
}

#[test]
fn records_that_trap_are_listed_in_the_report_and_too_many_fail_the_job() {
    let mut node = Node::first();
    node.start();
    let input = node.folder().join("input");
    let text = Text::make(33, 200_000);
    let (before, after) = text.split_at(text.iter().position(|&byte| byte == b'\n').unwrap() + 1);
    fs::write(&input, [before, b"this is bad! indeed\n", after].concat()).unwrap();

    let touchy = words_wat(0)
        .replace(
            "(if (i32.eq (local.get $byte) (i32.const 10))",
            "(if (i32.eq (local.get $byte) (i32.const 33)) (then unreachable))\n\
             (if (i32.eq (local.get $byte) (i32.const 10))",
        )
        .replace(
            "(module",
            "(module (import \"ipdc\" \"counter\" (func $count (param i32 i32 i64)))",
        )
        .replace("(data", "(data (i32.const 8) \"lines\")\n(data")
        .replace("(call $burn)", "(call $count (i32.const 8) (i32.const 5) (i64.const 1))");
    let toml = "kind = \"mr\"\nmap = \"words.wat\"\nreduce = \"count\"\n";
    let job = JobDir::new(toml).file("words.wat", touchy);
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
    let _ = run.within(JOB).run().refused(&["IPDC-5301"]);

    let job = job.file("job.toml", format!("{toml}max_bad_records = 1\n"));
    assert!(counted(&node, &job, input.to_str().unwrap()) == counts(&text));
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&input);
    let ran = run.arg("--json").within(JOB).run().ok().json();
    // The calls that trapped had counted lines that were given again.
    assert_eq!(ran["counters"]["lines"], text.iter().filter(|&&byte| byte == b'\n').count());
    let report = node.cli(["cat", ran["report"].as_str().unwrap()]).run().ok().json();
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 1, "{report:#}");
    assert_eq!(skipped[0]["record"], "this is bad! indeed\n");
    assert_eq!(skipped[0]["offset"], before.len());
    assert!(skipped[0]["message"].as_str().unwrap().contains("unreachable"), "{report:#}");

    // So many in the whole job, also where no task sees what the others left out.
    let dir = node.folder().join("two");
    write_lines(&dir, &[b"bad!\n", b"worse!\n"]);
    let job = job.file("job.toml", "kind = \"mr\"\nmap = \"words.wat\"\nmax_bad_records = 1\n");
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--input").arg(&dir);
    let _ = run.within(JOB).run().refused(&["IPDC-5371", "2 records"]);
}
