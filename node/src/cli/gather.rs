//! Patterns on the command line: what they match, as one directory.

use std::path::{Path, PathBuf};

use super::error::CliError;

/// What `pattern` matches, in the order of the paths, each with its path below the directory that
/// holds all of them; hidden files only where the pattern says so. Empty when `pattern` is none, or
/// nothing matches.
pub(super) fn matches(pattern: &str) -> Result<Vec<(PathBuf, String)>, CliError> {
    let is_pattern = pattern.contains(['*', '?', '[']);
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let Some(found) = is_pattern.then(|| glob::glob_with(pattern, options).ok()).flatten() else {
        return Ok(Vec::new());
    };
    let found = found.map(|found| {
        found.map_err(|error| CliError::file("read", error.path().to_owned())(error.into()))
    });
    let paths: Vec<PathBuf> = found.collect::<Result<_, _>>()?;
    let above = common_parent(&paths);
    let named = |path: PathBuf| {
        let below = path.strip_prefix(&above).unwrap_or(&path);
        match below.to_str().map(str::to_owned) {
            Some(name) => Ok((path, name)),
            None => Err(CliError::NotAddable { path, why: "its name is not UTF-8" }),
        }
    };
    paths.into_iter().map(named).collect()
}

/// The deepest directory that all of `paths` are in.
fn common_parent(paths: &[PathBuf]) -> PathBuf {
    let mut parents = paths.iter().map(|path| path.parent().unwrap_or(Path::new("")));
    let first = parents.next().unwrap_or(Path::new("")).to_owned();
    parents.fold(first, |common, parent| {
        let both = common.components().zip(parent.components());
        both.take_while(|(one, other)| one == other).map(|(one, _)| one).collect()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_pattern_gives_the_files_it_matches_by_their_paths_below_it() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["logs/a.gz", "logs/b.gz", "logs/c.txt", "logs/.d.gz", "logs/old/e.gz"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let names = |pattern: &str| {
            let pattern = dir.path().join(pattern);
            let found = matches(pattern.to_str().unwrap()).unwrap();
            found.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("logs/*.gz"), ["a.gz", "b.gz"]);
        assert_eq!(names("logs/**/*.gz"), ["a.gz", "b.gz", "old/e.gz"]);
        assert_eq!(names("*/?.txt"), ["c.txt"]);
        assert!(names("logs/*.zst").is_empty());
        assert!(names("logs/a.gz").is_empty(), "a path is no pattern");
    }
}
