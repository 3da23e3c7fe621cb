//! `job.toml`: what a user writes about a job, parsed and checked whole.
//!
//! This module reads the keys that every kind has and hands each kind the rest as a [`Section`]. All
//! errors are collected, each with its line; nothing stops at the first.
//!
//! A `job.toml` with `[[step]]`s describes several jobs in a row: [`steps`].

mod section;
pub mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;
use toml::de::DeTable;

use crate::fetch::{self, Rules};
use crate::kind::{self, JobFiles, Kind};
use crate::manifest::Limits;
pub(crate) use section::Unit;
pub use section::{LIST_LIMIT, Section};
use section::{instead, line_of};
use steps::Output;

/// The name of the file in a job directory.
pub const FILE: &str = "job.toml";

/// The least memory of an attempt: a guest's stack and one chunk of input.
const MEMORY: RangeInclusive<u64> = 16 << 20..=64 << 30;

/// From a millisecond to a week.
const TIME_MS: RangeInclusive<u64> = 1..=7 * 24 * 3_600_000;

/// Up to a terabyte.
const OUTPUT: RangeInclusive<u64> = 1..=1 << 40;

/// The most workers that can be asked for.
const WORKERS: RangeInclusive<u64> = 1..=10_000;

/// A job as a `job.toml` describes it: what is common to all kinds, and the rest for the kind.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Its name, if it is one of several steps.
    pub step: Option<String>,
    /// The kind's name.
    pub kind: String,
    /// Where its input is; a submission may name another.
    pub input: Option<Located<Source>>,
    /// `[inputs]`, in place of `input`: the same by the guest's names for them.
    pub inputs: BTreeMap<String, Located<Source>>,
    /// Workers asked for.
    pub workers: Option<u32>,
    /// Whether workers may answer from their memos; a submission may say otherwise.
    pub memo: Option<bool>,
    /// Limits of one attempt.
    pub limits: Limits,
    /// `[params]`, free for the guest.
    pub params: serde_json::Map<String, Value>,
    /// `[files]`, side files for the guest: paths in the job directory by the guest's name for them.
    pub files: BTreeMap<String, Located<String>>,
    /// `[fetch]`, when the job asks to fetch from the network.
    pub fetch: Option<Located<Rules>>,
    /// What is left for the kind.
    pub rest: Section,
}

/// Where an input is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// At a path in the job directory, or, if there is none such, behind a CID.
    Named(String),
    /// In what an earlier step gave.
    Step(Output),
}

impl Source {
    /// What `job.toml` names by a text.
    #[must_use]
    pub fn named(&self) -> Option<&str> {
        match self {
            Source::Named(text) => Some(text),
            Source::Step(_) => None,
        }
    }
}

/// A value and the line it stands on, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The line.
    pub line: usize,
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

/// Parses `text`, the contents of `file`, and checks the keys that all kinds have. What is left in
/// [`JobSpec::rest`] its kind checks. Gives the one job, or the steps in their order: at least one.
///
/// # Errors
/// All that is wrong with those keys, in the order of lines.
pub fn parse(text: &str, file: &str) -> Result<Vec<JobSpec>, Vec<SpecError>> {
    let (specs, mut errors) = read(text, file);
    errors.sort_by_key(|error| error.line);
    if errors.is_empty() { Ok(specs) } else { Err(errors) }
}

/// What a submission says over its job's `job.toml`: the inputs are those of the first step, params go to each.
#[derive(Debug, Clone, Copy)]
pub struct Overrides<'a> {
    /// The input: a path in the job directory, or a CID.
    pub input: Option<&'a str>,
    /// Params.
    pub params: &'a serde_json::Map<String, Value>,
    /// Inputs by name: paths in the job directory, or CIDs.
    pub inputs: &'a BTreeMap<String, String>,
}

/// The longest name of an input, in bytes.
pub const INPUT_NAME_LIMIT: usize = 64;

/// What the name of an input is made of: it is a name in a directory, and a word on a command line.
const INPUT_NAME: &str = "1 to 64 letters, digits, `_` and `-`";

fn is_input_name(name: &str) -> bool {
    (1..=INPUT_NAME_LIMIT).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Parses and checks `text` whole: the common keys, and its kind's with the files they name, with
/// what is said `over` its own. Gives the job, or the steps in their order, each with the configuration
/// that its kind froze.
///
/// # Errors
/// All that is wrong, in the order of lines.
pub fn check(
    text: &str,
    file: &str,
    over: Overrides<'_>,
    files: &dyn JobFiles,
) -> Result<Vec<(JobSpec, Value)>, Vec<SpecError>> {
    let (mut specs, mut errors) = read(text, file);
    if let Some(first) = specs.first_mut() {
        errors.extend(put_inputs(first, file, over));
    }
    let mut checked = Vec::with_capacity(specs.len());
    for mut spec in specs {
        spec.params.extend(over.params.clone());
        match kind::find(&spec.kind).map(|kind| kind.configure(&spec, files)) {
            Some(Ok(config)) => checked.push((spec, config)),
            Some(Err(more)) => errors.extend(steps::of_step(spec.step.as_deref(), more)),
            // That there is no such kind was said.
            None => {}
        }
    }
    errors.sort_by_key(|error| error.line);
    if errors.is_empty() { Ok(checked) } else { Err(errors) }
}

/// Gives the job the inputs that a submission names; what is wrong with them.
fn put_inputs(spec: &mut JobSpec, file: &str, over: Overrides<'_>) -> Vec<SpecError> {
    let mut errors = Vec::new();
    let located = |text: &str| Located { value: Source::Named(text.to_owned()), line: 1 };
    if let Some(input) = over.input.filter(|_| spec.inputs.is_empty()) {
        spec.input = Some(located(input));
    }
    for (name, input) in over.inputs {
        spec.input = None;
        if is_input_name(name) {
            spec.inputs.insert(name.clone(), located(input));
        } else {
            let message = format!("`{name}` cannot be the name of an input; expected {INPUT_NAME}");
            errors.push(SpecError { file: file.to_owned(), line: None, message });
        }
    }
    errors
}

/// What stands in `text`, checked as far as all kinds have it: one job, or the steps.
fn read(text: &str, file: &str) -> (Vec<JobSpec>, Vec<SpecError>) {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut errors: Vec<SpecError> = syntax
        .iter()
        .map(|error| SpecError {
            file: file.to_owned(),
            line: error.span().map(|span| line_of(text, span.start)),
            message: error.message().to_owned(),
        })
        .collect();
    let mut table = table.into_inner();
    let given = table.remove(steps::KEY);
    let mut top = Section::of_table(String::new(), text, file, &table, &mut errors);
    top.knows(steps::KEY);
    if let Some(given) = given {
        let specs = steps::read(top, &given, text, &mut errors);
        return (specs, errors);
    }
    let (spec, more) = read_job(top, &Common::default(), &[]);
    errors.extend(more);
    (vec![spec], errors)
}

/// What can be said once for all steps.
#[derive(Debug, Clone, Default)]
struct Common {
    workers: Option<u32>,
    memo: Option<bool>,
    limits: Limits,
    params: serde_json::Map<String, Value>,
}

impl Common {
    /// What `section` says, and where it says nothing, what was said `before`.
    fn read(section: &mut Section, before: &Common) -> Self {
        let workers = section.integer("workers", WORKERS).map(|workers| workers as u32);
        let memo = section.truth("memo");
        let mut limits = before.limits;
        if let Some(mut given) = section.section("limits") {
            let memory = given.measured("memory", Unit::Bytes, MEMORY);
            let time = given.measured("time", Unit::Milliseconds, TIME_MS);
            let output = given.measured("output", Unit::Bytes, OUTPUT);
            limits = Limits {
                memory: memory.unwrap_or(limits.memory),
                time_ms: time.unwrap_or(limits.time_ms),
                output: output.unwrap_or(limits.output),
            };
            section.append(given.finish());
        }
        let mut params = before.params.clone();
        params.extend(section.section("params").map(Section::into_map).unwrap_or_default());
        let (workers, memo) = (workers.or(before.workers), memo.or(before.memo));
        Common { workers, memo, limits, params }
    }
}

/// The job that `top` describes, after steps of the names `earlier`; what is wrong with it.
fn read_job(mut top: Section, common: &Common, earlier: &[String]) -> (JobSpec, Vec<SpecError>) {
    let kind = top.required_text("kind");
    if let Some(kind) = &kind
        && kind::find(&kind.value).is_none()
    {
        let names: Vec<&str> = kind::KINDS.iter().map(|kind| kind.name()).collect();
        let message = format!("there is no kind `{}`{}", kind.value, instead(&kind.value, &names));
        top.error(kind.line, message);
    }
    let known = kind.as_ref().and_then(|kind| kind::find(&kind.value));
    let input_key = known.map_or("input", Kind::input_key);
    let input =
        top.take(input_key).and_then(|given| source_of(&mut top, input_key, given, earlier));
    let inputs_line = top.line("inputs");
    let mut inputs = BTreeMap::new();
    if let Some(mut section) = top.section("inputs") {
        for (name, given) in section.take_all() {
            if !is_input_name(&name) {
                let message = format!("`inputs.{name}` cannot be its name; expected {INPUT_NAME}");
                section.error(given.line, message);
            } else if let Some(input) = source_of(&mut section, &name, given, earlier) {
                inputs.insert(name, input);
            }
        }
        top.append(section.finish());
    }
    if let (Some(_), Some(line)) = (&input, inputs_line) {
        let message = format!("`inputs` and `{input_key}` are both given; expected one of them");
        top.error(line, message);
    }
    let Common { workers, memo, limits, params } = Common::read(&mut top, common);
    let mut files = BTreeMap::new();
    if let Some(mut section) = top.section("files") {
        files = section.all_texts();
        top.append(section.finish());
    }
    let fetch_line = top.line("fetch").unwrap_or_default();
    let mut fetch = None;
    if let Some(section) = top.section("fetch") {
        let (rules, wrong) = fetch::of_section(section);
        fetch = rules.map(|value| Located { value, line: fetch_line });
        top.append(wrong);
    }
    // What is reported here must not be reported by the kind again.
    let errors = top.take_errors();
    let kind = kind.map(|kind| kind.value).unwrap_or_default();
    let spec = JobSpec {
        step: None,
        kind,
        input,
        inputs,
        workers,
        memo,
        limits,
        params,
        files,
        fetch,
        rest: top,
    };
    (spec, errors)
}

/// Where the input is that was `given` under `key` of `section`, after steps of the names `earlier`.
fn source_of(
    section: &mut Section,
    key: &str,
    given: Located<Value>,
    earlier: &[String],
) -> Option<Located<Source>> {
    let Located { value, line } = given;
    match value {
        Value::String(text) if text.is_empty() => {
            let (path, expected) = (section.path(key), "a path in this directory or a CID");
            section.error(line, format!("`{path}` is empty; expected {expected}"));
            None
        }
        Value::String(text) => Some(Located { value: Source::Named(text), line }),
        Value::Object(map) => {
            let output = steps::output_of(section, key, (map, line), earlier)?;
            Some(Located { value: Source::Step(output), line })
        }
        other => {
            section.unfit(key, line, &other, "a path or a CID in quotes, or { step = \"NAME\" }")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
kind = "mr"
input = "text"
workers = 3
map = "map.wasm"

[limits]
memory = "64 MiB"
time = "90s"
output = "1GiB"

[params]
depth = 3
names = ["a", { b = 1.5 }]

[files]
stop = "stopwords.txt"
"#;

    fn errors(text: &str) -> Vec<String> {
        parse(text, FILE).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_common_key_is_read() {
        let spec = parse(WHOLE, FILE).unwrap().remove(0);
        assert_eq!((&*spec.kind, spec.step), ("mr", None));
        assert_eq!(spec.input.map(|input| input.value), Some(Source::Named("text".into())));
        assert_eq!(spec.workers, Some(3));
        assert_eq!(spec.limits, Limits { memory: 64 << 20, time_ms: 90_000, output: 1 << 30 });
        assert_eq!(spec.params["names"], serde_json::json!(["a", { "b": 1.5 }]));
        assert_eq!(spec.files["stop"], Located { value: "stopwords.txt".into(), line: 17 });
    }

    #[test]
    fn only_the_kind_must_be_said() {
        assert_eq!(errors(""), ["job.toml: `kind` is missing"]);
        assert_eq!(parse("kind = \"mr\"", FILE).unwrap()[0].limits, Limits::default());
    }

    #[test]
    fn all_errors_are_reported_with_line_and_expectation() {
        let text = "kind = \"mrr\"\nworkers = 0\n[limits]\nmemory = \"much\"\ntiem = \"1s\"\ntime = \"99999h\"\n";
        assert_eq!(
            errors(text),
            [
                "job.toml:1: there is no kind `mrr`; did you mean `mr`?",
                "job.toml:2: `workers` is 0; expected a whole number from 1 to 10000",
                "job.toml:4: `limits.memory` is \"much\"; expected a size such as \"256MiB\" (B, KiB, MiB, GiB, TiB)",
                "job.toml:5: unknown key `limits.tiem`; did you mean `time`?",
                "job.toml:6: `limits.time` is \"99999h\"; expected 1ms to 168h",
            ]
        );
    }

    #[test]
    fn broken_syntax_names_its_line_and_the_rest_is_checked_too() {
        let found = errors("kind = \"mr\"\nworkers = \n[limits]\nmemory = 3\n");
        assert!(found.iter().any(|error| error.starts_with("job.toml:2: ")), "{found:?}");
        assert!(found.iter().any(|error| error.contains("`limits.memory` is 3")), "{found:?}");
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let found = errors("kind = \"mr\"\n[params]\nx = 1979-05-27\n");
        assert_eq!(found, ["job.toml:3: a date must be put in quotes"]);
    }
}
