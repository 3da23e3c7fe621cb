//! Errors that travel: what `miette` prints, as data and back.
//!
//! The server sends them, `--json` prints them, a job's view holds the one that ended it.

use std::error::Error;
use std::fmt;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};

/// Body of every answer with a status of 400 and above, and of stderr under `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: Problem,
}

/// An error as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The stable code, `IPDC-xxxx`; each has a page in `docs/errors/`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Why, nearest cause first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do.
    #[serde(default)]
    pub help: Option<String>,
    /// Each thing that is wrong, when there are several: `job.toml:3: …`.
    #[serde(default)]
    pub details: Vec<String>,
}

impl Problem {
    /// The code of an error that has none of its own: a defect of ipdc.
    pub const UNNAMED: &str = "IPDC-1699";

    /// The same error as data. What it gives as [`Diagnostic::related`] becomes the details.
    #[must_use]
    pub fn of(error: &dyn Diagnostic) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Problem {
            code: error.code().map_or_else(|| Self::UNNAMED.into(), |code| code.to_string()),
            message: error.to_string(),
            causes,
            help: error.help().map(|help| help.to_string()),
            details: error.related().into_iter().flatten().map(ToString::to_string).collect(),
        }
    }
}

/// A [`Problem`] as an error again, with its causes and details in their places.
#[derive(Debug)]
pub struct Reported(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: Option<u16>,
    problem: Problem,
    cause: Option<Box<Cause>>,
    details: Vec<Detail>,
}

impl From<Problem> for Reported {
    fn from(problem: Problem) -> Self {
        let cause =
            problem.causes.iter().rev().fold(None, |next, message| {
                Some(Box::new(Cause { message: message.clone(), next }))
            });
        let details = problem.details.iter().cloned().map(Detail).collect();
        Reported(Box::new(Parts { status: None, problem, cause, details }))
    }
}

impl Reported {
    /// The error of an answer that had this HTTP status.
    #[must_use]
    pub fn with_status(problem: Problem, status: u16) -> Self {
        let mut reported = Self::from(problem);
        reported.0.status = Some(status);
        reported
    }

    /// The HTTP status it came with; none when it did not come as an answer's own error.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.problem.message)
    }
}

impl Error for Reported {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

impl Diagnostic for Reported {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.0.problem.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.problem.help.as_ref().map(|help| Box::new(help) as _)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.0.details.is_empty() {
            return None;
        }
        Some(Box::new(self.0.details.iter().map(|detail| detail as _)))
    }
}

/// One of the causes, and those behind it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Cause {
    message: String,
    #[source]
    next: Option<Box<Cause>>,
}

/// One of several things that are wrong.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{0}")]
pub struct Detail(pub String);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error, Diagnostic)]
    #[error("outer")]
    #[diagnostic(code("IPDC-1610"), help("do this"))]
    struct Outer {
        source: std::io::Error,
        #[related]
        wrong: Vec<Detail>,
    }

    #[test]
    fn an_error_travels_whole_and_comes_back() {
        let outer = Outer {
            source: std::io::Error::other("inner"),
            wrong: vec![Detail("job.toml:3: no such key".into())],
        };
        let problem = Problem::of(&outer);
        assert_eq!(problem.code, "IPDC-1610");
        assert_eq!(problem.causes, ["inner"]);
        assert_eq!(problem.help.as_deref(), Some("do this"));
        assert_eq!(problem.details, ["job.toml:3: no such key"]);
        let body = serde_json::to_value(ErrorBody { error: problem.clone() }).unwrap();
        assert_eq!(body["error"]["message"], "outer");
        let back = serde_json::from_value::<ErrorBody>(body).unwrap().error;
        assert_eq!(Problem::of(&Reported::from(back)), problem);
    }

    #[test]
    fn an_error_without_a_code_gets_the_one_for_defects() {
        assert_eq!(Problem::of(&Detail("x".into())).code, Problem::UNNAMED);
    }
}
