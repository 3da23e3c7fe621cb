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
