//! Python code: functions of the user's, run by CPython, which is a WASI command like any other.
//!
//! Owns how the interpreter is started and the scripts that it is started with: `glue.py`, which calls
//! the user's function; `errors.py`, which explains what it raised; `ipdc.py`, the module that code can
//! import; `check.py`, which looks at code without running it. What they write can show in a job's outputs: a change of it raises
//! [`ipdc_jobs::memo::ABI`].
//!
//! It starts nothing itself: that is [`command`](super::command)'s.

use std::collections::BTreeMap;

use ipdc_jobs::code::Python;
use ipdc_jobs::ids::FileRef;

/// Calls a function of the user's for what comes on stdin.
const GLUE: &str = include_str!("python/glue.py");

/// Says on stdin's behalf what is wrong with code, if something is.
const CHECK: &str = include_str!("python/check.py");

/// Says what an error was about.
const ERRORS: &str = include_str!("python/errors.py");

/// What code imports as `ipdc`.
const IPDC: &str = include_str!("python/ipdc.py");

/// Says which Python it is.
const VERSION: &str = "import sys; print(sys.version.split()[0])";

/// How the interpreter is started: it writes no compiled files, looks for no packages of a site or a
/// user, nor for modules in a directory that it is not told of; `PYTHONHASHSEED` holds.
const OPTIONS: [&str; 5] = ["-B", "-s", "-S", "-P", "-c"];

/// The order of a set is the same in every run.
const ENVIRONMENT: &str = "PYTHONHASHSEED=0";

/// What an interpreter is to do.
#[derive(Clone)]
pub(super) struct Script {
    source: &'static str,
    pub(super) main: String,
    /// The files that it can import.
    pub(super) files: BTreeMap<String, FileRef>,
}

impl Script {
    /// Calls the function that it is run for.
    pub(super) fn call(python: &Python) -> Self {
        Script { source: GLUE, main: python.main.clone(), files: python.files.clone() }
    }

    /// Gives up where the code cannot be used for the function that it is run for.
    pub(super) fn check(python: &Python) -> Self {
        Script { source: CHECK, ..Script::call(python) }
    }

    /// Writes the interpreter's version.
    pub(super) fn version() -> Self {
        Script { source: VERSION, main: String::new(), files: BTreeMap::new() }
    }

    /// The interpreter's arguments, its name first.
    pub(super) fn arguments(&self, function: &str) -> Vec<Vec<u8>> {
        let script = [self.source, function, &self.main, IPDC, ERRORS];
        std::iter::once("python").chain(OPTIONS).chain(script).map(Into::into).collect()
    }

    /// What is in its environment beside what every command has there.
    pub(super) fn environment(&self) -> Vec<u8> {
        ENVIRONMENT.into()
    }
}

#[cfg(test)]
mod tests;
