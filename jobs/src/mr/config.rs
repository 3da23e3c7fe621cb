//! The part of `job.toml` that is map-reduce's own, checked against the job directory and frozen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::FileRef;
use crate::kind::{Given, JobFiles};
use crate::spec::{JobSpec, Located, Section, SpecError};

use super::builtin::Builtin;
use super::group::Function;

/// The most partitions of a job: each costs a map task a run and the swarm a task.
pub const PARTITIONS_LIMIT: u32 = 1024;

/// The partitions of a job that does not say: a task for each of a handful of workers.
const PARTITIONS: u32 = 4;

/// What determines a map-reduce job's result, beside its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The module whose `map` gets the input.
    pub map: FileRef,
    /// What joins the values of a key within a map task.
    pub combine: Option<Step>,
    /// What makes the result of a key's values; none, when what `map` emits is the result.
    pub reduce: Option<Step>,
    /// Into how many files the result is divided, by key; 0 without `reduce`.
    pub partitions: u32,
    /// `[params]`, as written.
    pub params: serde_json::Map<String, Value>,
    /// `[files]`, by the guest's names.
    pub files: BTreeMap<String, FileRef>,
}

/// What is done with the values of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A built-in.
    Builtin(Builtin),
    /// The user's function, in this module.
    Module(FileRef),
}

/// A frozen configuration that this kind did not write.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// It is not of the known form.
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    /// The number of partitions is out of range.
    #[error("there are {0} partitions; expected 1 to {PARTITIONS_LIMIT}, or 0 without a reducer")]
    Partitions(u32),
}

impl Config {
    /// Reads what was frozen. It came from another node, so it is checked again.
    ///
    /// # Errors
    /// When it is not of the form, or out of range.
    pub fn read(value: &Value) -> Result<Self, BadConfig> {
        let config = Config::deserialize(value)?;
        match (&config.reduce, config.partitions) {
            (Some(_), 1..=PARTITIONS_LIMIT) | (None, 0) => Ok(config),
            (_, partitions) => Err(BadConfig::Partitions(partitions)),
        }
    }

    /// What the job's guests may read, in a task on records of `input`.
    pub(super) fn given(&self, input: &str) -> Given {
        let params = serde_json::to_vec(&self.params).expect("what was JSON encodes");
        Given { params: params.into(), files: self.files.clone(), input: input.to_owned() }
    }
}

/// Checks and freezes `spec`.
pub(super) fn of_spec(spec: &JobSpec, files: &dyn JobFiles) -> Result<Config, Vec<SpecError>> {
    let mut section = spec.rest.clone();
    let map = section.required_text("map");
    let combine = section.text("combine");
    let reduce = section.text("reduce");
    let partitions_line = section.line("partitions");
    let fewest = u64::from(reduce.is_some());
    let partitions = section.integer("partitions", fewest..=u64::from(PARTITIONS_LIMIT));

    let map = map.and_then(|path| module(&mut section, files, "map", &path));
    let combine_step =
        combine.as_ref().and_then(|text| step(&mut section, files, Function::Combine, text));
    let reduce_step =
        reduce.as_ref().and_then(|text| step(&mut section, files, Function::Reduce, text));
    if combine_step == Some(Step::Builtin(Builtin::Count))
        && reduce_step == Some(Step::Builtin(Builtin::Count))
        && let Some(reduce) = &reduce
    {
        let message = "`reduce` would count the counts of `combine = \"count\"`; expected \
                       `reduce = \"sum\"`, which adds them";
        section.error(reduce.line, message);
    }
    if reduce.is_none() {
        // What only a reducer needs.
        let combine = combine.as_ref().map(|combine| ("combine", combine.line));
        let partitions = partitions.filter(|n| *n > 0).and(partitions_line);
        for (key, line) in combine.into_iter().chain(partitions.map(|line| ("partitions", line))) {
            let message = format!(
                "`{key}` is given and `reduce` is missing; expected both, or neither for a job whose \
                 result is what `map` emits"
            );
            section.error(line, message);
        }
    }
    let mut side_files = BTreeMap::new();
    for (name, path) in &spec.files {
        if let Some(file) = find(&mut section, files, &format!("files.{name}"), path) {
            side_files.insert(name.clone(), file);
        }
    }

    let errors = section.finish();
    let default = if reduce_step.is_some() { PARTITIONS } else { 0 };
    match map {
        Some(map) if errors.is_empty() => Ok(Config {
            map,
            combine: combine_step,
            reduce: reduce_step,
            partitions: partitions.map_or(default, |partitions| partitions as u32),
            params: spec.params.clone(),
            files: side_files,
        }),
        _ => Err(errors),
    }
}

/// A built-in's name or a module with the function.
fn step(
    section: &mut Section,
    files: &dyn JobFiles,
    function: Function,
    text: &Located<String>,
) -> Option<Step> {
    if let Some(builtin) = Builtin::named(&text.value) {
        return Some(Step::Builtin(builtin));
    }
    let name = function.name();
    if !is_module(&text.value) {
        let names = Builtin::NAMES.map(|(name, _)| name).join(", ");
        let message = format!(
            "`{name}` is \"{}\"; expected one of {names}, or a .wasm or .wat file",
            text.value
        );
        section.error(text.line, message);
        return None;
    }
    module(section, files, name, text).map(Step::Module)
}

/// The module at `path`, which must export `function`.
fn module(
    section: &mut Section,
    files: &dyn JobFiles,
    function: &str,
    path: &Located<String>,
) -> Option<FileRef> {
    if !is_module(&path.value) {
        let message = format!("`{function}` is \"{}\"; expected a .wasm or .wat file", path.value);
        section.error(path.line, message);
        return None;
    }
    let file = find(section, files, function, path)?;
    match files.check_module(&file, function) {
        Ok(()) => Some(file),
        Err(why) => {
            section.error(path.line, format!("`{}` cannot be used: {why}", path.value));
            None
        }
    }
}

fn is_module(path: &str) -> bool {
    [".wasm", ".wat"].iter().any(|end| path.ends_with(end))
}

fn find(
    section: &mut Section,
    files: &dyn JobFiles,
    key: &str,
    path: &Located<String>,
) -> Option<FileRef> {
    let file = files.find(&path.value);
    if file.is_none() {
        let message = format!("`{key}` names \"{}\", which is not in the directory", path.value);
        section.error(path.line, message);
    }
    file
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::fake::World;
    use super::*;
    use crate::spec;

    fn check(text: &str) -> Result<Config, Vec<String>> {
        let world = World::new();
        for path in ["map.wasm", "mine.wat", "stop.txt"] {
            world.name(path, path.as_bytes());
        }
        match spec::check(text, spec::FILE, &serde_json::Map::new(), &world) {
            Ok((_, config)) => Ok(Config::read(&config).unwrap()),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_configuration_freezes_what_determines_the_result() {
        let text = "kind = \"mr\"\nmap = \"map.wasm\"\ncombine = \"sum\"\nreduce = \"mine.wat\"\n\
                    workers = 2\n[params]\nn = 1\n[files]\nstop = \"stop.txt\"\n";
        let config = check(text).unwrap();
        assert_eq!(config.combine, Some(Step::Builtin(Builtin::Sum)));
        assert_eq!(config.partitions, PARTITIONS);
        assert!(matches!(config.reduce, Some(Step::Module(file)) if file.len == 8));
        assert_eq!(config.files["stop"].len, 8);
        assert_eq!(config.params["n"], 1);
    }

    #[test]
    fn the_common_errors_and_the_kinds_come_together_in_order() {
        let text = "kind = \"mr\"\nmap = \"gone.wasm\"\nreducer = \"sum\"\nworkers = -1\n\
                    combine = \"summ\"\npartitions = 2000\n[files]\nx = \"y\"\n";
        assert_eq!(
            check(text).unwrap_err(),
            [
                "job.toml:2: `map` names \"gone.wasm\", which is not in the directory",
                "job.toml:3: unknown key `reducer`; did you mean `reduce`?",
                "job.toml:4: `workers` is -1; expected a whole number from 1 to 10000",
                "job.toml:5: `combine` is \"summ\"; expected one of sum, min, max, count, first, \
                 concat, or a .wasm or .wat file",
                "job.toml:5: `combine` is given and `reduce` is missing; expected both, or neither \
                 for a job whose result is what `map` emits",
                "job.toml:6: `partitions` is 2000; expected a whole number from 0 to 1024",
                "job.toml:8: `files.x` names \"y\", which is not in the directory",
            ]
        );
    }

    #[test]
    fn counting_counts_is_refused() {
        let text = "kind = \"mr\"\nmap = \"map.wasm\"\ncombine = \"count\"\nreduce = \"count\"\n";
        let errors = check(text).unwrap_err();
        assert!(errors[0].starts_with("job.toml:4: `reduce` would count"), "{errors:?}");
    }

    #[test]
    fn a_job_without_a_reducer_has_no_partitions() {
        let config = check("kind = \"mr\"\nmap = \"map.wasm\"\n").unwrap();
        assert_eq!((config.reduce, config.partitions), (None, 0));
        assert!(check("kind = \"mr\"\nmap = \"map.wasm\"\npartitions = 0\n").is_ok());
        let errors = check("kind = \"mr\"\nmap = \"map.wasm\"\npartitions = 2\n").unwrap_err();
        assert!(
            errors[0].starts_with("job.toml:3: `partitions` is given and `reduce`"),
            "{errors:?}"
        );
    }

    #[test]
    fn a_configuration_from_elsewhere_is_checked_again() {
        let text = "kind = \"mr\"\nmap = \"map.wasm\"\nreduce = \"sum\"\n";
        let mut value = serde_json::to_value(check(text).unwrap()).unwrap();
        value["partitions"] = 0.into();
        assert!(matches!(Config::read(&value), Err(BadConfig::Partitions(0))));
    }
}
