//! `job.toml`: what a user writes about a job, parsed and checked whole.
//!
//! This module reads the keys that every kind has and hands each kind the rest as a [`Section`]. A
//! section gives each key once, checked, and reports what nobody asked for. All errors are
//! collected, each with its line; nothing stops at the first.
//!
//! A `job.toml` with `[[step]]`s describes several jobs in a row: [`steps`].

pub mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fetch::{self, Rules};
use crate::kind::{self, JobFiles, Kind};
use crate::manifest::Limits;
use steps::Output;

/// The name of the file in a job directory.
pub const FILE: &str = "job.toml";

/// The least memory of an attempt: a guest's stack and one chunk of input.
const MEMORY: RangeInclusive<u64> = 16 << 20..=64 << 30;

/// From a millisecond to a week.
const TIME_MS: RangeInclusive<u64> = 1..=7 * 24 * 3_600_000;

/// Up to a terabyte.
const OUTPUT: RangeInclusive<u64> = 1..=1 << 40;

/// The most texts of a list.
pub const LIST_LIMIT: usize = 1_024;

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

/// What the name of an input is made of: it is a name in a directory, and a word on a command line.
/// The longest name of an input, in bytes.
pub const INPUT_NAME_LIMIT: usize = 64;

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
    top.asked.push(steps::KEY);
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
    let input = top.take(input_key).and_then(|given| top.source(input_key, given, earlier));
    let inputs_line = top.line("inputs");
    let mut inputs = BTreeMap::new();
    if let Some(mut section) = top.section("inputs") {
        for (name, given) in std::mem::take(&mut section.entries) {
            if !is_input_name(&name) {
                let message = format!("`inputs.{name}` cannot be its name; expected {INPUT_NAME}");
                section.error(given.line, message);
            } else if let Some(input) = section.source(&name, given, earlier) {
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
    let errors = std::mem::take(&mut top.errors);
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

/// A table of `job.toml` while it is taken apart: each key that is asked for is taken out, and
/// [`Section::finish`] reports those that nobody asked for.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name; empty for the top.
    name: String,
    file: String,
    entries: Vec<(String, Located<Value>)>,
    /// Lines of the tables and arrays inside, by the place of their entry's key.
    lines: BTreeMap<String, Vec<(String, usize)>>,
    asked: Vec<&'static str>,
    errors: Vec<SpecError>,
}

impl Section {
    fn of_table(
        name: String,
        text: &str,
        file: &str,
        table: &DeTable<'_>,
        errors: &mut Vec<SpecError>,
    ) -> Self {
        let mut entries = Vec::new();
        let mut lines = BTreeMap::new();
        for (key, value) in table {
            let line = line_of(text, key.span().start);
            if let Some(inner) = value.get_ref().as_table() {
                let inner = inner
                    .keys()
                    .map(|key| (key.get_ref().to_string(), line_of(text, key.span().start)));
                lines.insert(key.get_ref().to_string(), inner.collect());
            }
            match json(value) {
                Ok(value) => entries.push((key.get_ref().to_string(), Located { value, line })),
                Err((at, message)) => errors.push(SpecError {
                    file: file.to_owned(),
                    line: Some(line_of(text, at)),
                    message,
                }),
            }
        }
        Section {
            name,
            file: file.to_owned(),
            entries,
            lines,
            asked: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Notes an error at `line`.
    pub fn error(&mut self, line: usize, message: impl Into<String>) {
        let (file, message) = (self.file.clone(), message.into());
        self.errors.push(SpecError { file, line: Some(line), message });
    }

    /// Notes what is wrong with a table inside.
    pub fn append(&mut self, errors: Vec<SpecError>) {
        self.errors.extend(errors);
    }

    /// A value of any type, if the key is there.
    pub fn value(&mut self, key: &'static str) -> Option<Located<Value>> {
        self.take(key)
    }

    /// A text, if the key is there.
    pub fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let Located { value, line } = self.take(key)?;
        match value {
            Value::String(value) => Some(Located { value, line }),
            other => self.unfit(key, line, &other, "a text in quotes"),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str) -> Option<Located<String>> {
        if !self.has(key) {
            let (file, message) = (self.file.clone(), format!("`{}` is missing", self.path(key)));
            self.asked.push(key);
            self.errors.push(SpecError { file, line: None, message });
            return None;
        }
        self.text(key)
    }

    /// The line of a key that was not taken yet.
    #[must_use]
    pub fn line(&self, key: &str) -> Option<usize> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, located)| located.line)
    }

    /// A whole number in `range`, if the key is there.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let Located { value, line } = self.take(key)?;
        match value.as_u64() {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = range.into_inner();
                self.unfit(key, line, &value, &format!("a whole number from {least} to {most}"))
            }
        }
    }

    /// One of `options`, by its name, if the key is there.
    pub fn choice<T: Copy>(&mut self, key: &'static str, options: &[(&str, T)]) -> Option<T> {
        let Located { value, line } = self.take(key)?;
        match options.iter().find(|(name, _)| value == *name) {
            Some((_, option)) => Some(*option),
            None => {
                let names: Vec<_> = options.iter().map(|(name, _)| *name).collect();
                self.unfit(key, line, &value, &format!("one of {}", names.join(", ")))
            }
        }
    }

    /// True or false, if the key is there.
    pub fn truth(&mut self, key: &'static str) -> Option<bool> {
        let Located { value, line } = self.take(key)?;
        match value {
            Value::Bool(truth) => Some(truth),
            other => self.unfit(key, line, &other, "true or false"),
        }
    }

    /// A size or a time in `range`, if the key is there.
    pub(crate) fn measured(
        &mut self,
        key: &'static str,
        unit: Unit,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let Located { value, line } = self.take(key)?;
        let number = match &value {
            Value::String(text) => unit.parse(text),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(_) => {
                let (least, most) = (unit.written(*range.start()), unit.written(*range.end()));
                self.unfit(key, line, &value, &format!("{least} to {most}"))
            }
            None => self.unfit(key, line, &value, unit.expected()),
        }
    }

    /// A table, if the key is there.
    pub fn section(&mut self, key: &'static str) -> Option<Section> {
        let Located { value, line } = self.take(key)?;
        let Value::Object(map) = value else {
            return self.unfit(key, line, &value, &format!("a table, `[{}]`", self.path(key)));
        };
        let lines = self.lines.remove(key).unwrap_or_default();
        Some(self.inner(key, map, line, &lines))
    }

    /// The table `map` under `key`, whose keys stand on these lines, those that are not known on `line`.
    fn inner(
        &self,
        key: &str,
        map: serde_json::Map<String, Value>,
        line: usize,
        lines: &[(String, usize)],
    ) -> Section {
        let line_of = |key: &str| {
            lines.iter().find(|(known, _)| known == key).map_or(line, |(_, line)| *line)
        };
        let entries = map
            .into_iter()
            .map(|(key, value)| {
                let line = line_of(&key);
                (key, Located { value, line })
            })
            .collect();
        Section {
            name: self.path(key),
            file: self.file.clone(),
            entries,
            lines: BTreeMap::new(),
            asked: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// What is wrong with this table: all noted errors, and the keys that nobody asked for.
    #[must_use]
    pub fn finish(mut self) -> Vec<SpecError> {
        for (key, Located { line, .. }) in std::mem::take(&mut self.entries) {
            let message =
                format!("unknown key `{}`{}", self.path(&key), instead(&key, &self.asked));
            self.error(line, message);
        }
        self.errors
    }

    /// A list of texts as what they stand for; empty when the key is not there.
    pub fn list<T>(&mut self, key: &'static str) -> Vec<T>
    where
        T: TryFrom<String>,
        T::Error: fmt::Display,
    {
        let Some(Located { value, line }) = self.take(key) else { return Vec::new() };
        let texts = value.as_array().filter(|texts| texts.len() <= LIST_LIMIT);
        let texts = texts.and_then(|texts| {
            texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        let Some(texts) = texts else {
            let expected = format!("a list of at most {LIST_LIMIT} texts");
            self.error(line, format!("`{}` is {value}; expected {expected}", self.path(key)));
            return Vec::new();
        };
        let texts = texts.into_iter().map(|value| Located { value, line });
        texts.filter_map(|text| self.checked(key, text)).collect()
    }

    /// A text as what it stands for.
    pub fn checked<T>(&mut self, key: &str, text: Located<String>) -> Option<T>
    where
        T: TryFrom<String>,
        T::Error: fmt::Display,
    {
        let Located { value, line } = text;
        let shown = Value::from(value.as_str());
        let checked = T::try_from(value);
        let path = self.path(key);
        checked.map_err(|error| self.error(line, format!("`{path}` has {shown}: {error}"))).ok()
    }

    /// All that is left, as it is.
    fn into_map(self) -> serde_json::Map<String, Value> {
        self.entries.into_iter().map(|(key, located)| (key, located.value)).collect()
    }

    /// All that is left, each of which must be a text.
    fn all_texts(&mut self) -> BTreeMap<String, Located<String>> {
        let mut texts = BTreeMap::new();
        for (key, Located { value, line }) in std::mem::take(&mut self.entries) {
            match value {
                Value::String(value) => {
                    texts.insert(key, Located { value, line });
                }
                other => {
                    let _: Option<()> = self.unfit(&key, line, &other, "a path in quotes");
                }
            }
        }
        texts
    }

    /// Where the input is that was `given` under `key`, after steps of the names `earlier`.
    fn source(
        &mut self,
        key: &str,
        given: Located<Value>,
        earlier: &[String],
    ) -> Option<Located<Source>> {
        let Located { value, line } = given;
        match value {
            Value::String(text) if text.is_empty() => {
                let expected = "a path in this directory or a CID";
                self.error(line, format!("`{}` is empty; expected {expected}", self.path(key)));
                None
            }
            Value::String(text) => Some(Located { value: Source::Named(text), line }),
            Value::Object(map) => {
                let output = steps::output_of(self, key, (map, line), earlier)?;
                Some(Located { value: Source::Step(output), line })
            }
            other => {
                self.unfit(key, line, &other, "a path or a CID in quotes, or { step = \"NAME\" }")
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    fn take(&mut self, key: &'static str) -> Option<Located<Value>> {
        self.asked.push(key);
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        Some(self.entries.remove(at).1)
    }

    /// The key as a reader of the file would name it.
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn unfit<T>(&mut self, key: &str, line: usize, value: &Value, expected: &str) -> Option<T> {
        let message = format!("`{}` is {value}; expected {expected}", self.path(key));
        self.error(line, message);
        None
    }
}

/// `; did you mean …?`, or what there is.
fn instead(word: &str, known: &[&str]) -> String {
    /// Two of a dozen letters wrong is a slip; a third of them is another word.
    const ALIKE: f64 = 0.7;
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(name) if likeness(name) >= ALIKE => format!("; did you mean `{name}`?"),
        _ => format!("; expected one of {}", known.join(", ")),
    }
}

/// What a text with a unit measures.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Milliseconds,
}

impl Unit {
    /// Names and what they are worth, the largest first.
    fn names(self) -> &'static [(&'static str, u64)] {
        match self {
            Unit::Bytes => {
                &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)]
            }
            Unit::Milliseconds => &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)],
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Unit::Bytes => "a size such as \"256MiB\" (B, KiB, MiB, GiB, TiB)",
            Unit::Milliseconds => "a time such as \"10m\" (ms, s, m, h)",
        }
    }

    fn parse(self, text: &str) -> Option<u64> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, worth) = self.names().iter().find(|(name, _)| *name == unit.trim_start())?;
        number.parse::<u64>().ok()?.checked_mul(*worth)
    }

    fn written(self, number: u64) -> String {
        let fits = |(_, worth): &&(&str, u64)| number.is_multiple_of(*worth);
        let (name, worth) = self.names().iter().find(fits).expect("the last unit is worth one");
        format!("{}{name}", number / worth)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count()
}

/// A TOML value as JSON; else where it has none, and why.
fn json(value: &Spanned<DeValue<'_>>) -> Result<Value, (usize, String)> {
    let unfit = |message: &str| (value.span().start, message.to_owned());
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_err(|_| unfit("a whole number must fit 64 bits"))?.into()
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse::<f64>().ok();
            let finite = parsed.and_then(serde_json::Number::from_f64);
            Value::Number(finite.ok_or_else(|| unfit("a number must be finite"))?)
        }
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(_) => return Err(unfit("a date must be put in quotes")),
        DeValue::Array(items) => Value::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
                Ok((std::borrow::Cow::to_string(key.get_ref()), json(value)?))
            };
            Value::Object(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
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
