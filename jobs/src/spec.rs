//! `job.toml`: what a user writes about a job, parsed and checked whole.

use std::fmt;

use serde_json::Value;

use crate::manifest::Limits;

/// A job directory's `job.toml`, the part that is common to all kinds, and the rest for the kind.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// The kind's name.
    pub kind: String,
    /// A path in the job directory or a CID; a submission may name another.
    pub input: Option<String>,
    /// Workers asked for.
    pub workers: Option<u32>,
    /// Limits of one attempt.
    pub limits: Limits,
    /// `[params]`, free for the guest.
    pub params: serde_json::Map<String, Value>,
}

/// One thing that is wrong in a job directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The file, relative to the job directory.
    pub file: String,
    /// The line, from 1; none when it is about the whole file.
    pub line: Option<usize>,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}
