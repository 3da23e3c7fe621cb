//! Guests in other languages: the examples, and what `ipdc new` makes, give what they should where
//! their compilers are.

use std::fs;
use std::path::{Path, PathBuf};

use ipdc_tests::job::{before_the_sum, guest, many_splits, parts, words_wat};
use ipdc_tests::text::write_counts;
use ipdc_tests::{JOB, Node, Program, Ran, ipdc, root};

/// Whether a program of this name is on the PATH.
fn there_is(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Whether the compiler of a language can be had; says so when not.
pub(crate) fn can_build(language: &str) -> bool {
    let can = match language {
        "c" => there_is("clang") && there_is("wasm-ld"),
        "as" => there_is("npm"),
        _ => true,
    };
    if !can {
        eprintln!("{language} is left out: there is no compiler");
    }
    can
}

/// The `part-*` files of a job's result, by name, with their CIDs.
fn cids_of_parts(node: &Node, example: &str, input: &str) -> Vec<(String, String)> {
    let id = node.submit(&root().join("examples").join(example), input);
    let view = node.job_done(&id);
    let listed = node.cli(["ls", view["result"].as_str().unwrap(), "--json"]).run().ok().json();
    let entries = listed["entries"].as_array().unwrap_or_else(|| panic!("{listed:#}")).iter();
    let name_and_cid = |entry: &serde_json::Value| {
        (entry["name"].as_str().unwrap().to_owned(), entry["cid"].as_str().unwrap().to_owned())
    };
    entries.map(name_and_cid).filter(|(name, _)| name.starts_with("part-")).collect()
}

#[test]
fn the_word_count_has_the_same_parts_in_every_language() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 5);
    let input = node.add(&input);
    let in_rust = cids_of_parts(&node, "wordcount", &input);
    assert_eq!(in_rust.len(), 4);
    for language in ["wasi", "c", "as"].into_iter().filter(|language| can_build(language)) {
        let parts = cids_of_parts(&node, &format!("wordcount-{language}"), &input);
        assert_eq!(parts, in_rust, "{language}");
    }
}

#[test]
fn functions_in_every_language_combine_and_reduce() {
    let mut node = Node::first();
    node.start();
    let (input, counts) = many_splits(node.folder(), 3);
    for (language, source) in [("c", "echo.c"), ("as", "echo.ts")] {
        if !can_build(language) {
            continue;
        }
        let job = build(&node, language, source);
        fs::write(job.join("words.wat"), words_wat(0)).unwrap();
        let toml = "kind = \"mr\"\nmap = \"words.wat\"\ncombine = \"echo.wasm\"\nreduce = \"echo.wasm\"\npartitions = 1\n";
        fs::write(job.join("job.toml"), toml).unwrap();
        let id = node.submit(&job, input.to_str().unwrap());
        let _ = node.job_done(&id);
        let made = String::from_utf8(parts(&node.save_result(&id)).concat());
        assert_eq!(made, String::from_utf8(before_the_sum(&counts)), "{language}");
    }
}

/// What a guest reads beside its records, in forms that a reader of JSON may stumble over.
const STOPS: &str = r#"kind = "mr"
map = "stops.wasm"
[inputs]
left = "left.txt"
right = "right.txt"
[params]
about = { mark = "}]", more = ["{", -1.5e3, { mark = "\\\"" }], yes = true }
mark = "\"é😀\\\u0001/"
"mark\n" = "of another name"
shortest = 3
[files]
stops = "stops.txt"
"#;

#[test]
fn functions_in_every_language_read_params_side_files_and_the_inputs_name_and_count() {
    let mut node = Node::first();
    node.start();
    for (language, source) in [("c", "stops.c"), ("as", "stops.ts")] {
        if !can_build(language) {
            continue;
        }
        let job = build(&node, language, source);
        fs::write(job.join("job.toml"), STOPS).unwrap();
        fs::write(job.join("stops.txt"), "and\nthe\nwherefore").unwrap();
        fs::write(job.join("left.txt"), "to\nthe\nlongest-word-of-all-the-words\nfour\n").unwrap();
        fs::write(job.join("right.txt"), "wherefore\neightfold\nten\n").unwrap();
        let out = node.folder().join("out");
        let ran = node.cli(["run", "mr"]).arg(&job).args(["--json", "--out"]).arg(&out);
        let ran = ran.within(JOB).run().ok().json();
        let mark = "\"é😀\\\u{1}/";
        let left = format!("{mark}longest-word-of-all-the-words\tleft\n{mark}four\tleft\n");
        let right = format!("{mark}eightfold\tright\n{mark}ten\tright\n");
        let made = String::from_utf8(parts(&out).concat()).unwrap();
        assert_eq!(made, left + &right, "{language}");
        assert_eq!(ran["counters"], serde_json::json!({ "skipped": 3 }), "{language}");
        fs::remove_dir_all(&out).unwrap();
    }
}

/// A job as `new` makes it, in a folder of the node's, with the code `source` in place of its own.
fn build(node: &Node, language: &str, source: &str) -> PathBuf {
    let job = node.folder().join(language);
    let _ = new(node.folder(), &[language, "--lang", language]).ok();
    let (name, ending) = source.split_once('.').unwrap();
    let build = fs::read_to_string(job.join("build.sh")).unwrap();
    let build = build.replace(&format!("map.{ending}"), source);
    fs::write(job.join("build.sh"), build.replace("map.wasm", &format!("{name}.wasm"))).unwrap();
    fs::write(job.join(source), guest(source)).unwrap();
    let _ = Program::new("sh").arg(job.join("build.sh")).within(JOB).run().ok();
    job
}

/// `ipdc new mr NAME` and more, in `dir`.
pub(crate) fn new(dir: &Path, args: &[&str]) -> Ran {
    Program::new(ipdc()).dir(dir).args(["new", "mr"]).args(args.iter().copied()).run()
}

/// Makes a job in `language`, builds it and runs it; gives its directory and its one part.
fn made_and_run(node: &Node, language: &str) -> (PathBuf, String) {
    let folder = node.folder();
    let made = new(folder, &[language, "--lang", language, "--json"]).ok().json();
    assert_eq!(made["language"], language);
    for command in [&made["build"], &made["run"]] {
        let Some(command) = command.as_str() else { continue };
        let bin = ipdc().parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path)));
        let command =
            format!("{command}{}", if command.contains("ipdc run") { " --out out" } else { "" });
        let run = Program::new("sh").args(["-c", &command]).dir(folder).within(JOB);
        let _ = run.env("PATH", path.unwrap()).run().ok();
    }
    let out = folder.join("out");
    let part = String::from_utf8(parts(&out).concat()).unwrap();
    fs::remove_dir_all(&out).unwrap();
    (folder.join(language), part)
}

#[test]
fn what_new_makes_in_each_language_is_built_by_one_command_and_counts_words() {
    let room = Node::new();
    for language in ["rust", "c", "as", "wasi"].into_iter().filter(|language| can_build(language)) {
        let (job, part) = made_and_run(&room, language);
        let mut expected = Vec::new();
        write_counts(&fs::read(job.join("text")).unwrap(), &mut expected).unwrap();
        assert_eq!(part, String::from_utf8(expected).unwrap(), "{language}");
    }
}

#[test]
fn what_new_makes_in_wat_runs_as_it_is() {
    let room = Node::new();
    let (job, part) = made_and_run(&room, "wat");
    let text = fs::read_to_string(job.join("text")).unwrap();
    let long = text.lines().filter(|line| line.len() >= 40).count();
    let short = text.lines().count() - long;
    assert_eq!(part, format!("long\t{long}\nshort\t{short}\n"));
}

#[test]
fn new_writes_over_nothing_and_takes_no_odd_names() {
    let room = Node::new();
    let _ = new(room.folder(), &["job"]).ok();
    let _ = new(room.folder(), &["job"]).failed(2, &["IPDC-1612", "job"]);
    let _ = new(room.folder(), &["a job"]).failed(2, &["IPDC-1630", "a job"]);
    let _ = new(room.folder(), &["../.job"]).failed(2, &["IPDC-1630"]);
    assert_eq!(fs::read_dir(room.folder()).unwrap().count(), 1);
}

/// Builds `source` in place of the program that `new` makes, in a folder of the node's; gives the job.
fn build_program(node: &Node, source: &str) -> PathBuf {
    let job = node.folder().join("program");
    let _ = new(node.folder(), &["program", "--lang", "wasi"]).ok();
    fs::write(job.join("src/main.rs"), source).unwrap();
    let _ = Program::new("sh").arg(job.join("build.sh")).within(JOB).run().ok();
    job
}

#[test]
fn a_program_that_wants_a_file_is_told_that_there_are_none() {
    let mut node = Node::first();
    node.start();
    let (input, _) = many_splits(node.folder(), 1);
    let job = build_program(&node, "fn main() { std::fs::read(\"/etc/stop-words\").unwrap(); }\n");
    let run = node.cli(["run", "mr"]).arg(job).arg("--input").arg(input);
    let _ = run.within(JOB).run().refused(&["No such file", "the sandbox has no files", "/job"]);
}

#[test]
fn a_program_reads_side_files_at_any_place_and_can_change_nothing() {
    let mut node = Node::first();
    node.start();
    let job = build_program(&node, &guest("files.rs"));
    let toml = "kind = \"mr\"\nmap = \"map.wasm\"\ninput = \"text\"\n\
        [files]\nstops = \"stops.txt\"\nlarge = \"large.txt\"\n\
        \"lists/de/stops\" = \"stops.txt\"\n\"lists/en\" = \"stops.txt\"\n\"../out\" = \"stops.txt\"\n";
    // Its listing takes more room than libraries have at first.
    let long = "n".repeat(200);
    let toml = format!("{toml}{long} = \"stops.txt\"\n");
    fs::write(job.join("job.toml"), toml).unwrap();
    fs::write(job.join("stops.txt"), "and\nthe\n").unwrap();
    // More than one block.
    let large: String = (0..400_000).map(|line| format!("{line:08}\n")).collect();
    fs::write(job.join("large.txt"), large).unwrap();
    let out = node.folder().join("out");
    let _ = node.cli(["run", "mr"]).arg(&job).arg("--out").arg(&out).within(JOB).run().ok();
    // The numbers are WASI's: 8 not open for that, 28 invalid, 31 a directory, 44 no such file, 54 not a directory, 69 read-only,
    // 76 not capable.
    let expected = format!(
        r#"whole	"and\nthe\n"
lines	400000
end	"00399999 at 3599991"
length	3600000
beyond the end	" at 1099511627776"
folder	["large", "lists", "{long}", "stops"]
folder in it	["de", "en"]
one of no name	Some(44)
in a folder	"and\nthe\n"
a folder's state	true
a folder as a file	Some(31)
above a folder	Some(76)
none	Some(44)
elsewhere	Some(44)
above	Some(76)
as a folder	Some(54)
as a link	Some(28)
new	Some(69)
written	Some(69)
appended	Some(69)
written to what was opened	Some(8)
removed	Some(69)
renamed	Some(69)
new folder	Some(69)
"#
    );
    assert_eq!(String::from_utf8(parts(&out).concat()).unwrap(), expected);
}
