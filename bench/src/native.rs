//! The native yardsticks: texts and their word count, by the program beside the clone or by our own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ipdc_tests::Program;

use crate::process::children_cpu;

/// How long a yardstick may take on a machine that others use as well: many times what a gibibyte needs.
pub(crate) const LONG: Duration = Duration::from_secs(1200);

/// The native count: the yardstick beside the clone, else our own.
pub(crate) enum Native {
    Yardstick(PathBuf),
    Own,
}

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Native {
    pub(crate) fn new(yardstick: Option<&Path>) -> Self {
        yardstick.map_or(Native::Own, |folder| Native::Yardstick(folder.to_owned()))
    }

    /// What it is, for the page.
    pub(crate) fn describe(&self) -> String {
        match self {
            Native::Yardstick(_) => "the yardstick of `../shared/bench`".into(),
            Native::Own => "`ipdc-bench native`".into(),
        }
    }

    fn program(&self, name: &str) -> PathBuf {
        match self {
            Native::Yardstick(folder) => folder.join("target/release").join(name),
            Native::Own => std::env::current_exe().expect("a process knows its program"),
        }
    }

    /// Writes the text of `seed`, at least `bytes` long, to `path`, and to the disk: nothing
    /// measured after it shall wait for its pages.
    pub(crate) fn make_text(&self, bytes: u64, seed: u64, path: &Path) {
        let (bytes, seed) = (bytes.to_string(), seed.to_string());
        let mut command = Command::new(self.program("corpus"));
        match self {
            Native::Yardstick(folder) => {
                command.arg(folder.join("vocab.txt")).args([bytes, seed]);
            }
            Native::Own => {
                command.args(["corpus", "--bytes", &bytes, "--seed", &seed]);
            }
        }
        let text = File::create(path).expect("a writable folder");
        let stdout = text.try_clone().expect("a file has more than one handle");
        let made = command.stdin(Stdio::null()).stdout(stdout).status().expect("built");
        assert!(made.success(), "the text could not be made: {made}");
        text.sync_all().expect("room for the text");
    }

    /// Counts the words of `text` into `out`.
    pub(crate) fn count(&self, text: &Path, out: &Path) -> Cost {
        let program = Program::new(self.program("wordcount")).within(LONG);
        let program = match self {
            Native::Yardstick(_) => program.arg(text).arg("1").arg(out),
            Native::Own => program.arg("native").arg(text).arg(out),
        };
        let before = children_cpu();
        let ran = program.run().ok();
        Cost { wall: ran.took, cpu: children_cpu() - before }
    }
}

/// Runs a command that is a yardstick; gives how long it took.
pub(crate) fn timed(program: Program) -> Duration {
    program.within(LONG).run().ok().took
}
