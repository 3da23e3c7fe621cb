//! `ipdc new`: makes a job directory to begin with, out of its kind's templates.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use ipdc_jobs::engine::Runtime;
use ipdc_jobs::kind::{self, KINDS, Template};
use serde::Serialize;

use super::Session;
use super::error::CliError;
use super::output::Answer;

/// Bytes of a job's name: it fits a terminal's line with the commands around it.
const NAME_LIMIT: usize = 64;

/// Make a job directory to begin with
#[derive(Debug, Args)]
pub(super) struct New {
    /// The job's kind
    #[arg(value_parser = PossibleValuesParser::new(KINDS.iter().map(|kind| kind.name())))]
    kind: String,
    /// The directory to make; its last part is the job's name
    #[arg(value_name = "NAME")]
    place: PathBuf,
    /// The language of its code; the first when it is not given
    #[arg(long, value_parser = PossibleValuesParser::new(languages()))]
    lang: Option<String>,
}

/// Every language that some kind has a template in.
fn languages() -> Vec<&'static str> {
    let mut languages = Vec::new();
    for template in KINDS.iter().flat_map(|kind| kind.templates()) {
        if !languages.contains(&template.language) {
            languages.push(template.language);
        }
    }
    languages
}

impl New {
    pub(super) fn run(self, session: &Session) -> Result<(), CliError> {
        let template = self.template()?;
        write(template, &self.place)?;
        // Nodes that are made for one job have no interpreter.
        let nodes = if template.language == Runtime::Python.name() { "" } else { " --local 1" };
        session.output.put(&Made {
            language: template.language,
            build: template.build.map(|script| format!("sh {}", self.place.join(script).display())),
            run: format!("ipdc run {} {}{nodes}", self.kind, self.place.display()),
            path: self.place,
        })
    }

    fn template(&self) -> Result<&'static Template, CliError> {
        let templates = kind::find(&self.kind).map(|kind| kind.templates()).unwrap_or_default();
        let fits = |template: &&Template| {
            self.lang.as_ref().is_none_or(|language| template.language == language)
        };
        templates.iter().find(fits).ok_or_else(|| CliError::Usage {
            what: format!("there is no such job of kind `{}` to begin with", self.kind),
            more: "try another --lang".to_owned(),
        })
    }
}

/// A job directory that was made.
#[derive(Debug, Serialize)]
struct Made {
    path: PathBuf,
    language: &'static str,
    /// The command that builds its code, if it needs one.
    build: Option<String>,
    /// The command that runs it.
    run: String,
}

impl Answer for Made {
    fn text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{} is a job in {}", self.path.display(), self.language)?;
        match &self.build {
            Some(build) => writeln!(to, "build it, then run it:\n  {build}\n  {}", self.run),
            None => writeln!(to, "run it:\n  {}", self.run),
        }
    }

    fn quiet(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.path.display())
    }
}

/// Makes `place` a directory with the template's files, all of them or nothing.
fn write(template: &Template, place: &Path) -> Result<(), CliError> {
    let name = name_of(place)?;
    if place.symlink_metadata().is_ok() {
        return Err(CliError::Exists { path: place.to_owned() });
    }
    let parent = match place.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Renamed whole at the end; removed when anything fails on the way.
    let stage = tempfile::Builder::new()
        .prefix(".ipdc-new-")
        .tempdir_in(parent)
        .map_err(CliError::file("write in", parent))?;
    let staged = stage.path().join("whole");
    for (path, text) in template.files {
        let path = staged.join(path);
        let dir = path.parent().unwrap_or(&staged);
        fs::create_dir_all(dir).map_err(CliError::file("create", dir))?;
        let text = text.replace(Template::NAME, name);
        fs::write(&path, text).map_err(CliError::file("write", &path))?;
    }
    fs::rename(&staged, place).map_err(CliError::file("create", place))
}

/// The job's name: fit for a file, a shell and a comment.
fn name_of(place: &Path) -> Result<&str, CliError> {
    let name = place.file_name().and_then(|name| name.to_str());
    let fits = |name: &&str| {
        name.len() <= NAME_LIMIT
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    name.filter(fits)
        .ok_or_else(|| CliError::JobName { name: place.display().to_string(), limit: NAME_LIMIT })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_written_whole_with_the_jobs_name() {
        let dir = tempfile::tempdir().unwrap();
        for (number, template) in KINDS.iter().flat_map(|kind| kind.templates()).enumerate() {
            let place = dir.path().join(format!("job-{number}"));
            write(template, &place).unwrap();
            for (path, _) in template.files {
                let text = fs::read_to_string(place.join(path)).unwrap();
                assert!(!text.contains(Template::NAME), "{path}");
            }
            let job = fs::read_to_string(place.join("job.toml")).unwrap();
            assert!(job.contains(&format!("# job-{number}:")), "{job}");
            assert!(template.build.is_none_or(|script| place.join(script).is_file()));
        }
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let template = &KINDS[0].templates()[0];
        let place = dir.path().join("job");
        fs::create_dir(&place).unwrap();
        assert!(matches!(write(template, &place), Err(CliError::Exists { .. })));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        let nowhere = dir.path().join("no/job");
        assert!(matches!(write(template, &nowhere), Err(CliError::File { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_fit_for_files_and_shells() {
        for fine in ["a", "word-count_2", "9", "some/dir/name", "/abs/name"] {
            name_of(Path::new(fine)).unwrap();
        }
        let long = "x".repeat(NAME_LIMIT + 1);
        for wrong in ["", ".", "..", "-x", ".x", "a b", "a;b", "naïve", "a/..", "a.b", &long] {
            assert!(name_of(Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}
