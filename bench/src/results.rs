//! `bench/RESULTS.md`: the figures, on what machine, and beside them what a person wrote.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use ipdc_tests::ipdc;

/// From this heading on the file is written by hand, and kept.
const BY_HAND: &str = "## What limits each\n";

/// Everything that was measured.
pub(crate) struct Results {
    /// In the order of the table.
    pub(crate) figures: Vec<Figure>,
    /// What "native" is.
    pub(crate) yardstick: String,
}

/// One figure and its target.
pub(crate) struct Figure {
    name: &'static str,
    unit: &'static str,
    target: Target,
    reached: f64,
    detail: String,
}

enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    /// One that must not be above `target`.
    pub(crate) fn at_most(
        name: &'static str,
        unit: &'static str,
        target: f64,
        reached: f64,
    ) -> Self {
        Figure { name, unit, target: Target::AtMost(target), reached, detail: String::new() }
    }

    /// One that must not be below `target`.
    pub(crate) fn at_least(
        name: &'static str,
        unit: &'static str,
        target: f64,
        reached: f64,
    ) -> Self {
        Figure { name, unit, target: Target::AtLeast(target), reached, detail: String::new() }
    }

    /// With what a reader should know beside.
    pub(crate) fn with(mut self, detail: String) -> Self {
        self.detail = detail;
        self
    }

    fn row(&self) -> String {
        let (sign, target, holds) = match self.target {
            Target::AtMost(target) => ("≤", target, self.reached <= target),
            Target::AtLeast(target) => ("≥", target, self.reached >= target),
        };
        let Figure { name, unit, reached, detail, .. } = self;
        let verdict = if holds { "yes" } else { "**no**" };
        format!(
            "| {name} | {sign} {target} {unit} | {reached:.2} {unit} | {verdict} | {detail} |\n"
        )
    }
}

impl Results {
    /// The page, with `by_hand` at its end.
    fn page(&self, by_hand: &str) -> String {
        let mut page = String::from(
            "# Figures\n\nWritten by `make bench`; below the last heading, by hand.\n\n",
        );
        for (what, value) in [
            ("machine", machine()),
            ("date", said("date", &["-u", "+%F %H:%M UTC"])),
            ("commit", said("git", &["describe", "--always", "--dirty"])),
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
        page += "\n| figure | target | reached | held | |\n|---|---|---|---|---|\n";
        page.extend(self.figures.iter().map(Figure::row));
        page + "\n" + by_hand
    }

    /// Writes the page to `path`; what was written there by hand stays.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let before = match fs::read_to_string(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            before => before.unwrap_or_default(),
        };
        fs::write(path, self.page(by_hand(&before)))
    }
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

    #[test]
    fn what_was_written_by_hand_stays() {
        let figure = Figure::at_most("a figure", "ms", 5.0, 7.25).with("a detail".into());
        let results = Results { figures: vec![figure], yardstick: "`native`".into() };
        let first = results.page(by_hand(""));
        assert!(first.contains("| a figure | ≤ 5 ms | 7.25 ms | **no** | a detail |"), "{first}");
        let edited = first + "The disk does.\n";
        let second = results.page(by_hand(&edited));
        assert!(second.ends_with("## What limits each\nThe disk does.\n"), "{second}");
        assert_eq!(second.matches("a figure").count(), 1);
    }
}
