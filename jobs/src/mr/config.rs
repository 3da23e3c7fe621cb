//! The part of `job.toml` that is map-reduce's own, checked against the job directory and frozen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chunk::{FIXED_LIMIT, RecordKind};
use crate::code::{self, Code};
use crate::engine::Needs;
use crate::ids::FileRef;
use crate::kind::{Given, JobFiles};
use crate::spec::{JobSpec, Located, Section, SpecError};

use super::builtin::Builtin;
use super::group::Function;
use super::input::{self, Compression, Form};
use super::inputs::INPUTS_LIMIT;
use super::order::{By, Order};
use super::top::TOP_LIMIT;

/// The most partitions of a job: each costs a map task a run and the swarm a task.
pub const PARTITIONS_LIMIT: u32 = 1024;

/// The partitions of a job that does not say: a task for each of a handful of workers.
const PARTITIONS: u32 = 4;

/// What determines a map-reduce job's result, beside its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The code whose `map` gets the input.
    pub map: Code,
    /// What joins the values of a key within a map task.
    pub combine: Option<Step>,
    /// What makes the result of a key's values; none, when what `map` emits is the result.
    pub reduce: Option<Step>,
    /// Into how many files the result is divided, by key; 0 without `reduce`.
    pub partitions: u32,
    /// What a record of the input is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub record: RecordKind,
    /// How the input is compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
    /// Records that may make `map` trap, and are left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_bad_records: u32,
    /// How keys are shared out among the partitions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub partition: Partition,
    /// The order in which a sort gives its keys.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: Order,
    /// Only so many records make the result: those with the greatest values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub top: Option<u32>,
    /// The names of the job's inputs, sorted; none when it has but one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inputs: Vec<String>,
    /// `[params]`, as written.
    pub params: serde_json::Map<String, Value>,
    /// `[files]`, by the guest's names.
    pub files: BTreeMap<String, FileRef>,
}

/// How keys are shared out among the partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// By a hash: evenly, in no order.
    #[default]
    Hash,
    /// By ranges that a sample of the input gives: every key of a part is before those of the next.
    Range,
}

/// Left out of what is frozen: what a job does not ask for does not change its result's CID.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is done with the values of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A built-in.
    Builtin(Builtin),
    /// The user's function.
    #[serde(rename = "module")]
    Code(Code),
}

impl Step {
    /// The user's code, if it is that.
    fn code(&self) -> Option<&Code> {
        match self {
            Step::Builtin(_) => None,
            Step::Code(code) => Some(code),
        }
    }
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
    /// The length of a record is out of range.
    #[error("a record has {0} bytes; expected 1 to {FIXED_LIMIT}")]
    Record(u32),
    /// The number of records wanted is out of range.
    #[error("the top {0} records are wanted; expected 1 to {TOP_LIMIT}")]
    Top(u32),
}

impl Config {
    /// Reads what was frozen. It came from another node, so it is checked again.
    ///
    /// # Errors
    /// When it is not of the form, or out of range.
    pub fn read(value: &Value) -> Result<Self, BadConfig> {
        let config = Config::deserialize(value)?;
        if let Some(top) = config.top.filter(|top| !(1..=TOP_LIMIT).contains(&u64::from(*top))) {
            return Err(BadConfig::Top(top));
        }
        if let RecordKind::Fixed(len) = config.record
            && !(1..=FIXED_LIMIT).contains(&len)
        {
            return Err(BadConfig::Record(len));
        }
        match (&config.reduce, config.partitions) {
            (Some(_), 1..=PARTITIONS_LIMIT) | (None, 0) => Ok(config),
            (_, partitions) => Err(BadConfig::Partitions(partitions)),
        }
    }

    /// Whether the boundaries of the partitions come from a sample.
    pub(super) fn is_sampled(&self) -> bool {
        self.partition == Partition::Range && self.partitions > 1
    }

    /// What a worker must have, and let the job use.
    pub(super) fn needs(&self) -> Needs {
        let steps = [&self.combine, &self.reduce].into_iter().flatten().filter_map(Step::code);
        Code::needs(steps.chain([&self.map]))
    }

    /// What the job's guests may read, in a task on records of `input`.
    pub(super) fn given(&self, input: &str) -> Given {
        let params = serde_json::to_vec(&self.params).expect("what was JSON encodes");
        Given {
            params: params.into(),
            files: self.files.clone(),
            input: input.to_owned(),
            mute: false,
            ..Given::default()
        }
    }
}

/// Checks and freezes `spec`.
pub(super) fn of_spec(spec: &JobSpec, files: &dyn JobFiles) -> Result<Config, Vec<SpecError>> {
    let mut section = spec.rest.clone();
    let map = section.required_text("map");
    let combine = section.text("combine");
    let form: Form = input::of_section(&mut section);
    let reduce = section.text("reduce");
    let map = map.and_then(|path| Code::resolve(&mut section, "map", &path, files));
    let combine = combine.and_then(|text| step(&mut section, files, Function::Combine, &text));
    let reduce = reduce.and_then(|text| step(&mut section, files, Function::Reduce, &text));
    let has_reducer = spec.rest.line("reduce").is_some();
    let fewest = u64::from(has_reducer);
    let partitions = section.integer("partitions", fewest..=u64::from(PARTITIONS_LIMIT));
    let partitions = partitions.map_or(if has_reducer { PARTITIONS } else { 0 }, |n| n as u32);
    let ways = [("hash", Partition::Hash), ("range", Partition::Range)];
    let partition = section.choice("partition", &ways).unwrap_or_default();
    let by = section.choice("order", &[("bytes", By::Bytes), ("number", By::Number)]);
    let descending = section.truth("descending");
    let top = section.integer("top", 1..=TOP_LIMIT);
    let mut side_files = BTreeMap::new();
    for (name, path) in &spec.files {
        if let Some(file) = code::find(&mut section, &format!("files.{name}"), path, files) {
            side_files.insert(name.clone(), file);
        }
    }
    if let Some(input) = spec.inputs.values().nth(INPUTS_LIMIT) {
        section.error(input.line, format!("there are more than {INPUTS_LIMIT} inputs"));
    }
    if let Some(fetch) = &spec.fetch {
        let message = "a map-reduce job cannot `fetch`: its result would depend on the network";
        section.error(fetch.line, message);
    }
    let Some(map) = map else { return Err(section.finish()) };
    let config = Config {
        map,
        combine,
        reduce,
        partitions,
        partition,
        order: Order { by: by.unwrap_or_default(), descending: descending.unwrap_or_default() },
        top: top.map(|top| top as u32),
        inputs: spec.inputs.keys().cloned().collect(),
        record: form.record,
        compression: form.compression,
        max_bad_records: form.max_bad_records,
        params: spec.params.clone(),
        files: side_files,
    };
    for (key, message) in at_odds(&config, &spec.rest) {
        section.error(spec.rest.line(key).unwrap_or(1), message);
    }
    let errors = section.finish();
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

/// What keys that are fine by themselves say against each other: which one to change, and why.
fn at_odds(config: &Config, given: &Section) -> Vec<(&'static str, String)> {
    let mut odds = Vec::new();
    let is_given = |key: &&str| given.line(key).is_some();
    let reduces = |builtin| config.reduce == Some(Step::Builtin(builtin));
    if !is_given(&"reduce") {
        let partitions = (config.partitions > 0).then_some("partitions");
        for key in ["combine", "partition"].into_iter().filter(is_given).chain(partitions) {
            let message = format!(
                "`{key}` is given and `reduce` is missing; expected both, or neither for a job whose \
                 result is what `map` emits"
            );
            odds.push((key, message));
        }
    }
    if config.combine == Some(Step::Builtin(Builtin::Count)) && reduces(Builtin::Count) {
        let message = "`reduce` would count the counts of `combine = \"count\"`; expected \
                       `reduce = \"sum\"`, which adds them";
        odds.push(("reduce", message.to_owned()));
    }
    if is_given(&"combine") && (reduces(Builtin::Sort) || reduces(Builtin::Mean)) {
        let message = "`combine` joins values that `reduce` needs one by one; expected none";
        odds.push(("combine", message.to_owned()));
    }
    if !reduces(Builtin::Sort) {
        let for_sorts = ["order", "descending"].into_iter().filter(is_given);
        odds.extend(for_sorts.map(|key| (key, format!("`{key}` is for `reduce = \"sort\"`"))));
    }
    if matches!(config.map, Code::Python(_)) && config.record != RecordKind::Lines {
        let message = "`record` is given and `map` is Python, which gets lines; expected \"lines\", \
                       \"jsonl\" or none";
        odds.push(("record", message.to_owned()));
    }
    if config.top.is_some() && (reduces(Builtin::Sort) || config.partition == Partition::Range) {
        let message = "`top` ranks all records by value into one part; expected neither \
                       `reduce = \"sort\"` nor `partition = \"range\"` beside it";
        odds.push(("top", message.to_owned()));
    }
    odds
}

/// A built-in's name, or code with the function.
fn step(
    section: &mut Section,
    files: &dyn JobFiles,
    function: Function,
    text: &Located<String>,
) -> Option<Step> {
    let fits = |builtin: &Builtin| function == Function::Reduce || builtin.combines();
    if let Some(builtin) = Builtin::named(&text.value).filter(fits) {
        return Some(Step::Builtin(builtin));
    }
    let name = function.name();
    if !Code::is_named_by(&text.value, files) {
        let fitting = Builtin::NAMES.iter().filter(|(_, builtin)| fits(builtin));
        let names: Vec<_> = fitting.map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let message = format!(
            "`{name}` is \"{}\"; expected one of {names}, or {}",
            text.value,
            Code::EXPECTED
        );
        section.error(text.line, message);
        return None;
    }
    Code::resolve(section, name, text, files).map(Step::Code)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::Runtime;
    use crate::fake::World;
    use crate::spec;

    fn check(text: &str) -> Result<Config, Vec<String>> {
        let world = World::new();
        for path in ["map.wasm", "mine.wat", "stop.txt"] {
            world.name(path, path.as_bytes());
        }
        check_in(&world, text)
    }

    fn check_in(world: &World, text: &str) -> Result<Config, Vec<String>> {
        let (params, inputs) = (serde_json::Map::new(), BTreeMap::new());
        let nothing = spec::Overrides { input: None, params: &params, inputs: &inputs };
        match spec::check(text, spec::FILE, nothing, world) {
            Ok(checked) => Ok(Config::read(&checked[0].1).unwrap()),
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
        assert!(matches!(config.reduce, Some(Step::Code(Code::Module(file))) if file.len == 8));
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
                 concat, distinct, or a .wasm, .wat or .py file or a native program",
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
    fn what_a_job_does_not_ask_for_leaves_no_trace_in_what_is_frozen() {
        let config = check("kind = \"mr\"\nmap = \"map.wasm\"\nreduce = \"sum\"\n").unwrap();
        let frozen = serde_json::to_value(config).unwrap();
        let keys: Vec<_> = frozen.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["combine", "files", "map", "params", "partitions", "reduce"]);
    }

    #[test]
    fn modules_are_frozen_in_the_form_that_the_results_of_old_jobs_have() {
        let config = check("kind = \"mr\"\nmap = \"map.wasm\"\nreduce = \"mine.wat\"\n").unwrap();
        let frozen = serde_json::to_value(&config).unwrap();
        assert_eq!(frozen["map"], serde_json::to_value(config.map.module()).unwrap());
        assert_eq!(frozen["reduce"]["module"]["len"], 8);
        assert_eq!(config.needs().runtimes, BTreeSet::from([Runtime::Wasm]));
    }

    #[test]
    fn python_code_is_frozen_with_its_interpreter_and_all_it_may_import() {
        let world = World::new();
        for path in ["map.py", "deep/words.py", "text", "python.wasm"] {
            world.name(path, path.as_bytes());
        }
        let text = "kind = \"mr\"\nmap = \"map.py\"\nreduce = \"sum\"\n";
        let config = check_in(&world, text).unwrap();
        let Code::Python(python) = &config.map else { panic!("{:?}", config.map) };
        assert_eq!(python.main, "map.py");
        assert_eq!(python.interpreter.len, "python.wasm".len() as u64);
        assert!(python.files.keys().eq(["deep/words.py", "map.py"]));
        assert_eq!(config.needs().runtimes, BTreeSet::from([Runtime::Python]));
    }

    #[test]
    fn records_that_are_no_lines_are_not_for_python() {
        let world = World::new();
        world.name("map.py", b"");
        world.name("python.wasm", b"");
        let text = "kind = \"mr\"\nmap = \"map.py\"\nrecord = 100\n";
        let errors = check_in(&world, text).unwrap_err();
        assert!(errors[0].starts_with("job.toml:3: `record`"), "{errors:?}");
    }

    #[test]
    fn a_sort_may_have_an_order_and_ranges_and_the_top_a_number() {
        let start = "kind = \"mr\"\nmap = \"map.wasm\"\n";
        let sort = format!(
            "{start}reduce = \"sort\"\norder = \"number\"\ndescending = true\npartition = \"range\"\n"
        );
        let config = check(&sort).unwrap();
        assert_eq!(config.order, Order { by: By::Number, descending: true });
        assert_eq!(config.partition, Partition::Range);
        assert_eq!(check(&format!("{start}top = 10\n")).unwrap().top, Some(10));
        assert_eq!(check(&format!("{start}reduce = \"sum\"\ntop = 1\n")).unwrap().top, Some(1));
        let mut inputs = check(&format!("{start}[inputs]\nb = \"x\"\na = \"y\"\n")).unwrap().inputs;
        assert_eq!((inputs.pop(), inputs.pop()), (Some("b".to_owned()), Some("a".to_owned())));
        for (wrong, said) in [
            ("reduce = \"sum\"\norder = \"number\"\n", "job.toml:4: `order` is for"),
            ("reduce = \"sum\"\ndescending = true\n", "job.toml:4: `descending` is for"),
            (
                "reduce = \"sort\"\norder = \"size\"\n",
                "job.toml:4: `order` is \"size\"; expected one of bytes, number",
            ),
            ("reduce = \"sort\"\ndescending = 1\n", "job.toml:4: `descending` is 1; expected true"),
            ("reduce = \"sort\"\ncombine = \"sum\"\n", "job.toml:4: `combine` joins"),
            ("reduce = \"mean\"\ncombine = \"sum\"\n", "job.toml:4: `combine` joins"),
            ("reduce = \"sum\"\ncombine = \"mean\"\n", "job.toml:4: `combine` is \"mean\""),
            ("reduce = \"sort\"\ntop = 3\n", "job.toml:4: `top` ranks"),
            ("reduce = \"sum\"\npartition = \"range\"\ntop = 3\n", "job.toml:5: `top` ranks"),
            ("top = 0\n", "job.toml:3: `top` is 0"),
            ("partition = \"range\"\n", "job.toml:3: `partition` is given"),
            ("reduce = \"sum\"\npartition = \"key\"\n", "job.toml:4: `partition` is \"key\""),
            ("input = \"x\"\n[inputs]\na = \"y\"\n", "job.toml:4: `inputs` and `input`"),
            ("[fetch]\nagent = \"bot (me@x)\"\n", "job.toml:3: a map-reduce job cannot `fetch`"),
            ("[inputs]\n\"a/b\" = \"y\"\n", "job.toml:4: `inputs.a/b` cannot be its name"),
        ] {
            let errors = check(&format!("{start}{wrong}")).unwrap_err();
            assert!(errors[0].starts_with(said), "{wrong}: {errors:?}");
        }
    }

    #[test]
    fn a_configuration_from_elsewhere_is_checked_again() {
        let text = "kind = \"mr\"\nmap = \"map.wasm\"\nreduce = \"sum\"\n";
        let mut value = serde_json::to_value(check(text).unwrap()).unwrap();
        value["partitions"] = 0.into();
        assert!(matches!(Config::read(&value), Err(BadConfig::Partitions(0))));
    }
}
