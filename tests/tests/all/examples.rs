//! The examples, on data that the tests make, against answers that the tests work out themselves.

use std::path::{Path, PathBuf};

use ipdc_tests::job::parts;
use ipdc_tests::text::Text;
use ipdc_tests::{JOB, Node, root};
use serde_json::Value;

/// Runs `example` on `input` at a node of its own; what it said, and the parts of its result.
fn run(example: &str, input: &Path, more: &[&str]) -> (Value, Vec<Vec<u8>>) {
    let mut node = Node::first();
    node.start();
    let out = node.folder().join("out");
    let run = node.cli(["run", "mr"]).arg(root().join("examples").join(example)).arg("--input");
    let run = run.arg(input).args(more).arg("--out").arg(&out).arg("--json");
    let ran = run.within(JOB).run().ok().json();
    let parts = parts(&out);
    (ran, parts)
}

/// A directory of files, by name.
fn directory(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    std::fs::create_dir(&path).unwrap();
    for (name, bytes) in files {
        std::fs::write(path.join(name), bytes).unwrap();
    }
    (folder, path)
}

#[test]
fn grep_gives_the_lines_that_match_in_order_and_counts_them() {
    let texts = [("a", Text::make(1, 400_000)), ("b", Text::make(2, 300_000))];
    let (_folder, input) = directory(&texts);
    let lines: Vec<&[u8]> =
        texts.iter().flat_map(|(_, text)| text.split_inclusive(|&byte| byte == b'\n')).collect();
    let has = |line: &[u8], word: &[u8]| line.windows(word.len()).any(|part| part == word);
    let wanted = |line: &&&[u8]| has(line, b"br") && has(line, b"st");
    let expected: Vec<&[u8]> = lines.iter().filter(wanted).copied().collect();
    assert!(expected.len() > 100, "{} lines to find", expected.len());
    let (ran, parts) = run("grep", &input, &["--param", "pattern=br.*st|st.*br"]);
    assert_eq!(parts.len(), 2, "a part for each file");
    assert_eq!(parts.concat(), expected.concat());
    assert_eq!(ran["counters"]["lines"], lines.len());
    assert_eq!(ran["counters"]["found"], expected.len());
}

/// Numbers that look random, the same each time.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

fn lines_of(bytes: &[u8]) -> Vec<String> {
    String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn sort_gives_every_line_in_order_over_parts_of_like_length() {
    let mut next = random(1);
    // More than one split, so that runs are merged.
    let line = |n: u64, next: &mut dyn FnMut(u64) -> u64| {
        format!("{:08x}{:08x} {n} {}", next(1 << 31), next(1 << 31), "x".repeat(next(80) as usize))
    };
    let mut text: Vec<String> = (0..150_000).map(|n| line(n, &mut next)).collect();
    let input = text.iter().flat_map(|line| [line, "\n"].concat().into_bytes()).collect();
    let (_folder, input) = directory(&[("text", input)]);
    let (ran, parts) = run("sort", &input, &[]);
    let (again, _) = run("sort", &input, &["--workers", "1"]);
    assert_eq!(ran["result"], again["result"]);
    text.sort();
    assert_eq!(parts.len(), 16);
    let fair = parts.concat().len() / 16;
    for (number, part) in parts.iter().enumerate() {
        assert!(part.len().abs_diff(fair) < fair / 2, "part {number}: {} of {fair}", part.len());
    }
    assert!(lines_of(&parts.concat()) == text, "not as `sort` would");
}

#[test]
fn join_gives_each_pair_of_rows_with_the_same_key() {
    let mut next = random(2);
    let people: Vec<(u64, String)> = (0..300).map(|n| (n, format!("name {}", next(50)))).collect();
    let orders: Vec<(u64, u64)> = (0..2000).map(|_| (next(400), next(1000))).collect();
    let mut left = "person,name\n".to_owned();
    people.iter().for_each(|(id, name)| left += &format!("{id},\"{name}\"\n"));
    let mut right = "order,person,price\n".to_owned();
    for (number, (person, price)) in orders.iter().enumerate() {
        right += &format!("{number},{person},{price}\n");
    }
    let (_folder, input) = directory(&[("l.csv", left.into()), ("r.csv", right.into())]);
    let mut expected = vec!["person,name,order,price".to_owned()];
    for (number, (person, price)) in orders.iter().enumerate() {
        for (id, name) in people.iter().filter(|(id, _)| id == person) {
            expected.push(format!("{id},\"{name}\",{number},{price}"));
        }
    }

    let mut node = Node::first();
    node.start();
    let out = node.folder().join("out");
    let [left, right] = [("left", "l.csv"), ("right", "r.csv")]
        .map(|(name, file)| format!("{name}={}", input.join(file).display()));
    let run = node.cli(["run", "mr"]).arg(root().join("examples/join"));
    let run = run.args(["--input", &left, "--input", &right]).arg("--out").arg(&out);
    let ran = run.arg("--json").within(JOB).run().ok().json();
    let mut joined = lines_of(&parts(&out).concat());
    joined.sort();
    expected.sort();
    assert_eq!(joined, expected);
    let is_ordered = |id: &u64| orders.iter().any(|(person, _)| person == id);
    let alone = people.iter().filter(|(id, _)| !is_ordered(id)).count();
    assert_eq!(ran["counters"]["keys in left alone"], alone);

    // Without inputs of its own it runs on the files beside it; one input is too few.
    let run = node.cli(["run", "mr"]).arg(root().join("examples/join"));
    let _ = run.within(JOB).run().ok();
    let run = node.cli(["run", "mr"]).arg(root().join("examples/join")).arg("--input").arg(&input);
    let _ = run.run().refused(&["left, right"]);
}

#[test]
fn access_log_gives_status_codes_and_the_slowest_paths() {
    use std::collections::BTreeMap;
    let mut next = random(3);
    let mut tallies = BTreeMap::<String, [u64; 4]>::new();
    let mut log = String::new();
    for n in 0..20_000_u64 {
        if n.is_multiple_of(1000) {
            log += "::1 - - [10/Oct/2026:13:55:36 +0000] \"-\" 408 0\n";
            continue;
        }
        let path = format!("/page/{}", next(30));
        let status = ["200", "200", "200", "304", "404", "500", "503"][next(7) as usize];
        let (bytes, ms) = (next(5000), next(3000));
        log += &format!(
            "10.0.0.{} - - [10/Oct/2026:13:55:36 +0000] \"GET {path}?q={n} HTTP/1.1\" {status} {bytes} \"-\" \"Mozilla/5.0 (X11)\" {}.{:03}\n",
            n % 250,
            ms / 1000,
            ms % 1000,
        );
        for key in [format!("status\t{status}"), format!("path\t{path}")] {
            let tally = tallies.entry(key).or_default();
            tally[0] += 1;
            tally[1] += u64::from(status.starts_with('5'));
            tally[2] += bytes;
            tally[3] = tally[3].max(ms);
        }
    }
    let (_folder, input) = directory(&[("access.log", log.into_bytes())]);
    let (ran, parts) = run("access-log", &input, &[]);
    let mut lines = lines_of(&parts.concat());
    lines.sort();
    let line = |(key, [a, b, c, d]): (String, [u64; 4])| format!("{key}\t{a}\t{b}\t{c}\t{d}");
    let mut expected: Vec<String> = tallies.into_iter().map(line).collect();
    expected.sort();
    assert_eq!(lines, expected);
    assert_eq!(ran["counters"]["requests"], 19_980);
    assert_eq!(ran["counters"]["lines that are no requests"], 20);
}

#[test]
fn inverted_index_names_the_documents_of_each_word_in_order() {
    use std::collections::BTreeMap;
    let mut next = random(4);
    let words = ["the", "sea", "ship", "is", "old", "storm", "and", "sail"];
    let mut documents = String::new();
    let mut expected = BTreeMap::<&str, Vec<String>>::new();
    for n in 0..3000 {
        let text: Vec<&str> = (0..next(9)).map(|_| words[next(8) as usize]).collect();
        documents += &format!("doc{n}\t{}\n", text.join(", "));
        for word in ["sea", "ship", "old", "storm", "sail"] {
            let count = text.iter().filter(|other| **other == word).count();
            if count > 0 {
                expected.entry(word).or_default().push(format!("doc{n}:{count}"));
            }
        }
    }
    let (_folder, input) = directory(&[("documents", documents.into_bytes())]);
    let (ran, parts) = run("inverted-index", &input, &[]);
    let mut lines = lines_of(&parts.concat());
    lines.sort();
    let line = |(word, documents): (&str, Vec<String>)| format!("{word}\t{}", documents.join(" "));
    assert_eq!(lines, expected.into_iter().map(line).collect::<Vec<_>>());
    assert_eq!(ran["counters"]["documents"], 3000);
}
