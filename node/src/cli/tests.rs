//! The command line as a whole: its definition, and that the documents say all of it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn the_spelling_that_users_were_promised_is_understood() {
    let cid = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let with_cid = |line: &str| line.replace("CID", cid);
    for line in [
        "init --domain lab",
        "start --detach --listen /ip4/0.0.0.0/tcp/4001 --mqtt 127.0.0.1:0 --http localhost:0",
        "start --bootstrap /ip4/10.0.0.1/tcp/4001 /ip4/10.0.0.2/tcp/4001",
        "stop --yes",
        "status --json",
        "pause",
        "audit --since 2h --owner ada --json",
        "resume",
        "id",
        "invite --ttl 1h --uses 3 --owner ada",
        "join ipdc1-x",
        "join",
        "peers",
        "peers --admission --json",
        "delegate 12D3KooWNF51hdAdYaymp7MDFDHRXVmuGyi88Tp8VfLtXwALstA1",
        "revoke 12D3KooWNF51hdAdYaymp7MDFDHRXVmuGyi88Tp8VfLtXwALstA1",
        "revoke ada",
        "--home /x add a b -",
        "get CID -o out",
        "cat CID/dir/file --range 0-99",
        "ls CID",
        "pin CID",
        "unpin CID",
        "gc",
        "du --quiet",
        "new mr dir/name",
        "new mr name --lang c",
        "run mr dir --workers 3 --input CID --out o --param a=1 --param b=x",
        "run mr --local 3 dir --json",
        "run dir --detach",
        "run mr dir --detach",
        "jobs",
        "job show abc",
        "job logs abc",
        "job logs abc --task 3",
        "job cancel abc -v",
        "job result abc --out dir",
        "completions bash",
    ] {
        let args = with_cid(line);
        let parsed = Cli::try_parse_from(["ipdc"].into_iter().chain(args.split(' ')));
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "run mr dir --local 0",
        "run mr dir --local 65",
        "run mr dir --local 2 --detach",
        "run",
        "run mr dir another",
        "run mr dir --workers 0",
        "new nosuchkind name",
        "new mr name --lang cobol",
        "cat notacid",
        "job show UPPER",
        "job logs abc --task map",
        "status --json --quiet",
        "add",
        "invite --uses 0",
        "invite --ttl soon",
        "start --mqtt nowhere",
    ] {
        assert!(
            Cli::try_parse_from(["ipdc"].into_iter().chain(line.split(' '))).is_err(),
            "{line}"
        );
    }
}

#[test]
fn the_guide_names_every_command_flag_and_exit_code() {
    let guide = fs::read_to_string(repository().join("docs/cli.md")).unwrap();
    let mut missing = Vec::new();
    let mut check = |text: String| {
        if !guide.contains(&text) {
            missing.push(text);
        }
    };
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        check(format!("ipdc {name}"));
        for inner in command.get_subcommands() {
            check(format!("ipdc {name} {}", inner.get_name()));
        }
        for flag in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if let Some(long) = flag.get_long() {
                check(format!("--{long}"));
            }
        }
    }
    for exit in [0, 1, 2, 3, 4, 5, 130] {
        check(format!("| {exit} |"));
    }
    assert_eq!(missing, Vec::<String>::new(), "not in docs/cli.md");
}

#[test]
fn every_page_of_an_error_has_its_code_in_the_title() {
    for entry in fs::read_dir(repository().join("docs/errors")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy();
        if name == "README" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# {name}: ")), "{name}.md has another title");
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
