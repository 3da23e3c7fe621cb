//! What the documentation promises about itself: a page for each error, and no link into nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use ipdc_tests::root;

/// Files below `dir` whose names end in `ending`, but for what builds leave.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// The error codes in a text: `IPDC-` and four digits.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    let mut pieces = text.split("IPDC-");
    pieces.next();
    pieces
        .filter_map(|piece| piece.get(..4))
        .filter(|code| code.bytes().all(|b| b.is_ascii_digit()))
}

#[test]
fn every_error_code_in_the_sources_has_a_page_and_every_page_a_code() {
    let mut used = BTreeSet::new();
    for folder in ["node/src", "jobs/src"] {
        let is_test = |path: &Path| {
            path.iter().any(|part| ["tests", "tests.rs", "sim"].map(OsStr::new).contains(&part))
        };
        let sources = files(&root().join(folder), ".rs");
        for file in sources.iter().filter(|path| !is_test(path.strip_prefix(root()).unwrap())) {
            let text = fs::read_to_string(file).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let shipped = shipped.split("#[cfg(test)]\n#[allow").next().unwrap();
            used.extend(codes(shipped).map(str::to_owned));
        }
    }
    assert!(used.len() > 20, "only {} codes found", used.len());
    let page = |code: &String| root().join(format!("docs/errors/IPDC-{code}.md"));
    let without: Vec<_> = used.iter().filter(|code| !page(code).exists()).collect();
    assert!(without.is_empty(), "no page in docs/errors for IPDC-… {without:?}");

    let pages = files(&root().join("docs/errors"), ".md");
    let names = pages.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
    let stale: Vec<_> = names
        .filter(|name| name.strip_prefix("IPDC-").is_some_and(|code| !used.contains(code)))
        .collect();
    assert!(stale.is_empty(), "pages for codes that nothing gives: {stale:?}");
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut broken = Vec::new();
    for page in files(&root(), ".md") {
        let text = fs::read_to_string(&page).unwrap();
        // What is quoted is no link.
        let text: String = text.split('`').step_by(2).collect();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            let outside = link.contains("://") || target.is_empty();
            if !outside && !page.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let sources: String = ["node/src", "jobs/src", "tests/tests", "gate/src", "fuzz"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), ".rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.split('|').nth(1));
    let named: Vec<&str> = rows.flat_map(|tests| tests.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 20, "only {} tests are named", named.len());
    let missing: Vec<_> =
        named.iter().filter(|test| !sources.contains(&format!("fn {test}("))).collect();
    assert!(missing.is_empty(), "docs/security.md names tests that are not there: {missing:?}");
}
