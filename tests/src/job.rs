//! Job directories for tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::root;
use crate::site::Site;
use crate::text::{Text, write_counts};

/// A job directory in a temp folder.
pub struct JobDir {
    folder: TempDir,
}

impl JobDir {
    /// One with this `job.toml`.
    ///
    /// # Panics
    /// When the temp folder cannot be written.
    #[must_use]
    pub fn new(toml: &str) -> Self {
        let folder = TempDir::with_prefix("ipdc-job-").expect("a temp folder");
        JobDir { folder }.file("job.toml", toml)
    }

    /// A word count whose map, in wat, does `burn` rounds of nothing a line: it takes as long as a
    /// test wants, and its result is that of any word count.
    #[must_use]
    pub fn words(burn: u32, partitions: u32) -> Self {
        let toml = format!(
            "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"sum\"\npartitions = {partitions}\n"
        );
        Self::new(&toml).file("words.wat", words_wat(burn))
    }

    /// As [`JobDir::words`], with a reduce in wat that does `burn_key` rounds of nothing a key.
    #[must_use]
    pub fn slow_reduce(burn: u32, burn_key: u32, partitions: u32) -> Self {
        let toml = format!(
            "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"sum\"\nreduce = \"slow-sum.wat\"\npartitions = {partitions}\n"
        );
        let slow_sum = burning("slow-sum.wat", "(; rounds a key ;)", burn_key);
        Self::new(&toml).file("words.wat", words_wat(burn)).file("slow-sum.wat", slow_sum)
    }

    /// Items that give themselves, as `more` of `job.toml` says.
    #[must_use]
    pub fn echo(more: &str) -> Self {
        let toml = format!("kind = \"cl\"\nrun = \"echo.wat\"\n{more}");
        Self::new(&toml).file("echo.wat", guest("echo.wat"))
    }

    /// The example's crawler, from the first page of `site` on, with these keys of `[enqueue]` and `[fetch]`.
    ///
    /// # Panics
    /// When the examples are not built.
    #[must_use]
    pub fn crawl(site: &Site, enqueue: &str, fetch: &str) -> Self {
        let code = fs::read(root().join("examples/crawl/crawl.wasm")).expect("make examples");
        let toml = format!(
            "kind = \"cl\"\nrun = \"run.wasm\"\nitems = \"start\"\ninline = \"64KiB\"\nretries = 0\n\
             [enqueue]\n{enqueue}\n[fetch]\nagent = \"test/1.0 (+https://example.org)\"\n\
             private = [\"127.0.0.0/8\"]\n{fetch}\n"
        );
        Self::new(&toml).file("run.wasm", code).file("start", site.url("/page/0\n"))
    }

    /// With one more file.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path().join(name), bytes).expect("a writable temp folder");
        self
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The map of [`JobDir::words`].
#[must_use]
pub fn words_wat(burn: u32) -> String {
    burning("words.wat", "(; rounds a line ;)", burn)
}

/// A guest whose rounds of nothing, marked in its text, are `rounds`.
fn burning(name: &str, mark: &str, rounds: u32) -> String {
    let text = guest(name);
    let nothing = format!("(i32.const 0) {mark}");
    assert!(text.contains(&nothing), "{name} has no `{nothing}`");
    text.replace(&nothing, &format!("(i32.const {rounds})"))
}

/// Lines of JSON, one an item.
///
/// # Panics
/// When one is none.
#[must_use]
pub fn rows(text: &str) -> Vec<Value> {
    let row = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(row).collect()
}

/// A guest of `tests/jobs`.
///
/// # Panics
/// When there is none of this name.
#[must_use]
pub fn guest(name: &str) -> String {
    let path: PathBuf = root().join("tests/jobs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A directory of `files` files with a few lines of text each, below `folder`: a split each, so that
/// a job over little text still has work for every node. Gives it and its native count.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn many_splits(folder: &Path, files: usize) -> (PathBuf, Vec<u8>) {
    /// Bytes of each file: some ten lines.
    const FILE: usize = 600;
    let dir = folder.join("input");
    fs::create_dir_all(&dir).expect("a writable temp folder");
    let mut all = Vec::new();
    for file in 0..files {
        let text = Text::make(file as u64, FILE);
        fs::write(dir.join(format!("{file:03}.txt")), &text).expect("a writable temp folder");
        all.extend(text);
    }
    let mut counts = Vec::new();
    write_counts(&all, &mut counts).expect("memory takes every write");
    (dir, counts)
}

/// `counts` as it was before it was summed: a line `word<TAB>1` for each time that a word was counted.
///
/// # Panics
/// When it is not a word count.
#[must_use]
pub fn before_the_sum(counts: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for line in counts.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let word = key(line);
        let count = std::str::from_utf8(&line[word.len() + 1..]).expect("a number");
        for _ in 0..count.parse().expect("a number") {
            all.extend_from_slice(word);
            all.extend_from_slice(b"\t1\n");
        }
    }
    all
}

/// The parts of a result that was saved to `dir`, one after the other.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn parts(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.retain(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-"))
    });
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable part")).collect()
}

/// The lines of a result, sorted: what a native count writes.
///
/// # Panics
/// When a part is not sorted by its keys, or does not end with a line's end.
#[must_use]
pub fn sorted_lines(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all: Vec<&[u8]> = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        assert!(part.is_empty() || part.ends_with(b"\n"), "part {number} ends inside a line");
        let lines: Vec<&[u8]> = part.split_inclusive(|&byte| byte == b'\n').collect();
        assert!(lines.is_sorted_by_key(|line| key(line)), "part {number} is not sorted by key");
        all.extend(lines);
    }
    all.sort_unstable_by_key(|line| key(line));
    all.concat()
}

fn key(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b'\t').next().unwrap_or(line)
}
