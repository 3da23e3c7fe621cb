//! What was measured, kept: `RESULTS.json`, and made from it `RESULTS.md`, with what a person wrote.
//!
//! A figure stays as it was last measured until it is measured again, so that each row says when
//! and at which commit that was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use ipdc_tests::ipdc;
use serde::{Deserialize, Serialize};

use crate::figures::{Figure, Row, TABLES, Target};

/// From this heading on the page is written by hand, and kept.
const BY_HAND: &str = "## What limits each\n";

/// The results of all figures that were ever measured, and where they are kept.
pub(crate) struct Results {
    page: PathBuf,
    /// What "native" is.
    yardstick: String,
    entries: BTreeMap<Figure, Entry>,
}

/// What came of measuring one figure, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    outcome: Outcome,
    date: String,
    commit: String,
}

/// What came of measuring one figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It was measured.
    Reached {
        /// In the unit of its row.
        value: f64,
        /// What a reader should know beside.
        remark: String,
    },
    /// It could not be measured, for this cause.
    Failed(String),
}

impl Results {
    /// Those kept beside `page`; none where there is nothing yet.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn open(page: &Path, yardstick: String) -> io::Result<Self> {
        let kept = fs::read(page.with_extension("json")).or_else(absent_is_empty)?;
        let entries =
            if kept.is_empty() { BTreeMap::new() } else { serde_json::from_slice(&kept)? };
        Ok(Results { page: page.to_owned(), yardstick, entries })
    }

    /// Takes in what came of measuring `figure`, just now.
    pub(crate) fn take(&mut self, figure: Figure, outcome: Outcome) {
        let date = said("date", &["-u", "+%F %H:%M"]);
        let commit = said("git", &["describe", "--always", "--dirty"]);
        self.entries.insert(figure, Entry { outcome, date, commit });
    }

    /// Writes both files; what was written on the page by hand stays.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub(crate) fn save(&self) -> io::Result<()> {
        let before = fs::read(&self.page).or_else(absent_is_empty)?;
        let kept = serde_json::to_string_pretty(&self.entries)? + "\n";
        fs::write(self.page.with_extension("json"), kept)?;
        fs::write(&self.page, self.text(by_hand(&String::from_utf8_lossy(&before))))
    }

    /// The page, with `by_hand` at its end.
    fn text(&self, by_hand: &str) -> String {
        let mut page = String::from(
            "# Figures\n\nWritten by `make bench` and `make bench-peers`; below the last heading, by hand. \
             `make bench ONLY=sort,ingest` measures a part again.\n\n",
        );
        for (what, value) in [
            ("machine", machine()),
            (
                "versions",
                format!(
                    "{}, {}",
                    said(&ipdc().to_string_lossy(), &["--version"]),
                    said("rustc", &["--version"])
                ),
            ),
            ("native", format!("{}, one thread", self.yardstick)),
        ] {
            writeln!(page, "- {what}: {value}").expect("a string takes every write");
        }
        for table in TABLES {
            write!(
                page,
                "\n## {}\n\n| figure | target | reached | held | | measured |\n|---|---|---|---|---|---|\n",
                table.title
            )
            .expect("a string takes every write");
            page.extend(table.rows.iter().map(|row| line(row, self.entries.get(&row.figure))));
        }
        page + "\n" + by_hand
    }
}

/// A row of a table as a line of the page.
fn line(row: &Row, entry: Option<&Entry>) -> String {
    let Row { what, unit, .. } = row;
    let mut target = match row.target {
        Target::AtMost(target) => format!("≤ {target} {unit}"),
        Target::AtLeast(target) => format!("≥ {target} {unit}"),
        Target::Told => String::new(),
    };
    if let Some(aim) = row.aim {
        write!(target, ", aim {aim}").expect("a string takes every write");
    }
    let Some(Entry { outcome, date, commit }) = entry else {
        return format!("| {what} | {target} | not measured | | | |\n");
    };
    match outcome {
        Outcome::Reached { value, remark } => {
            let held = match row.target.is_met(*value) {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "",
            };
            format!(
                "| {what} | {target} | {value:.2} {unit} | {held} | {remark} | {date}, {commit} |\n"
            )
        }
        Outcome::Failed(cause) => {
            format!("| {what} | {target} | **failed** | **no** | {cause} | {date}, {commit} |\n")
        }
    }
}

fn absent_is_empty(error: io::Error) -> io::Result<Vec<u8>> {
    if error.kind() == io::ErrorKind::NotFound { Ok(Vec::new()) } else { Err(error) }
}

/// The part of a page that is kept.
fn by_hand(page: &str) -> &str {
    page.find(BY_HAND).map_or(BY_HAND, |at| &page[at..])
}

/// What a command prints, in one line; "unknown" where there is no such command.
fn said(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn machine() -> String {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_cpu(sysinfo::CpuRefreshKind::nothing())
            .with_memory(sysinfo::MemoryRefreshKind::everything()),
    );
    let model = system.cpus().first().map_or("unknown", |cpu| cpu.brand());
    let (cores, memory) = (system.cpus().len(), system.total_memory() >> 30);
    let kernel = sysinfo::System::kernel_version().unwrap_or_default();
    format!("{model}, {cores} cores, {memory} GiB, Linux {kernel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(value: f64) -> Outcome {
        Outcome::Reached { value, remark: "a remark".into() }
    }

    #[test]
    fn what_was_written_by_hand_and_what_was_measured_before_stay() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let page = folder.path().join("RESULTS.md");
        let open = || Results::open(&page, "`native`".into()).expect("readable");
        let mut first = open();
        first.take(Figure::SmallestJob, reached(30.0));
        first.save().expect("writable");
        let by_hand = fs::read_to_string(&page).expect("written") + "The disk does.\n";
        fs::write(&page, by_hand).expect("writable");

        let mut second = open();
        second.take(Figure::Sort, Outcome::Failed("no room".into()));
        second.save().expect("writable");
        let text = fs::read_to_string(&page).expect("written");
        assert!(text.ends_with("## What limits each\nThe disk does.\n"), "{text}");
        let rows = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        let smallest = "| smallest job, submit to done, p50 |";
        assert_eq!(rows(&format!("{smallest} ≤ 50 ms | 30.00 ms | yes | a remark |")), 1, "{text}");
        assert_eq!(
            rows(&format!("{smallest} ≤ 25 ms, aim 8 | 30.00 ms | **no** | a remark |")),
            1,
            "{text}"
        );
        assert!(text.contains("| ≤ 3 ×, aim 1.5 | **failed** | **no** | no room |"), "{text}");
    }
}
