//! `[[step]]`: several jobs in a row in one `job.toml`.
//!
//! Each step is a job as any other, with all keys of one, a name of its own, and one thing more that its inputs can
//! be: what an earlier step gave. What is said of `workers`, `memo`, `limits` and `params` outside of the steps holds
//! for each that does not say otherwise.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::DeValue;

use super::section::{Section, line_of};
use super::{Common, INPUT_NAME, JobSpec, SpecError, is_input_name, read_job};

/// The key of the steps.
pub(super) const KEY: &str = "step";

/// The most steps of a `job.toml`: more than a person writes, and what was frozen of them is read in one piece.
pub const STEPS_LIMIT: usize = 64;

/// What an earlier step gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The step's name.
    pub step: String,
    /// What of it: a path in its result; without one, all that it put out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Reads the steps that were `given` in `text`, and what `top` says for all of them.
pub(super) fn read(
    mut top: Section,
    given: &Spanned<DeValue<'_>>,
    text: &str,
    errors: &mut Vec<SpecError>,
) -> Vec<JobSpec> {
    let steps = sections(&mut top, given, text, errors);
    let common = Common::read(&mut top, &Common::default());
    for (key, left) in top.take_all() {
        let message = format!(
            "`{key}` stands outside of the steps, where only `workers`, `memo`, `limits` and `params` can; put it into a [[step]]"
        );
        top.error(left.line, message);
    }
    errors.extend(top.take_errors());
    let mut names: Vec<String> = Vec::with_capacity(steps.len());
    let mut specs = Vec::with_capacity(steps.len());
    for (mut section, line) in steps {
        let name = name_of(&mut section, &names).unwrap_or_else(|| (names.len() + 1).to_string());
        let (mut spec, mut wrong) = read_job(section, &common, &names);
        for error in &mut wrong {
            error.line.get_or_insert(line);
        }
        errors.extend(of_step(Some(&name), wrong));
        spec.step = Some(name.clone());
        names.push(name);
        specs.push(spec);
    }
    specs
}

/// The table of each step, and the line it begins on.
fn sections(
    top: &mut Section,
    given: &Spanned<DeValue<'_>>,
    text: &str,
    errors: &mut Vec<SpecError>,
) -> Vec<(Section, usize)> {
    let line = line_of(text, given.span().start);
    let steps = given.get_ref().as_array().filter(|steps| {
        !steps.is_empty() && steps.iter().all(|step| step.get_ref().as_table().is_some())
    });
    let Some(steps) = steps else {
        top.error(line, "`step` is not a list of tables; expected one or more `[[step]]`");
        return Vec::new();
    };
    if let Some(over) = steps.get(STEPS_LIMIT) {
        let line = line_of(text, over.span().start);
        top.error(line, format!("there are more than {STEPS_LIMIT} steps"));
    }
    let section = |step: &Spanned<DeValue<'_>>| {
        let table = step.get_ref().as_table()?;
        let section = Section::of_table(String::new(), text, top.file(), table, errors);
        Some((section, line_of(text, step.span().start)))
    };
    steps.iter().take(STEPS_LIMIT).filter_map(section).collect()
}

/// The step's name, which none of the `earlier` has.
fn name_of(section: &mut Section, earlier: &[String]) -> Option<String> {
    let name = section.required_text("name")?;
    if !is_input_name(&name.value) {
        let message = format!("`{}` cannot be a step's name; expected {INPUT_NAME}", name.value);
        section.error(name.line, message);
        return None;
    }
    if earlier.contains(&name.value) {
        section.error(name.line, "an earlier step has this name");
    }
    Some(name.value)
}

/// What `key = { step = "NAME", path = "PATH" }` of `section` stands for.
pub(super) fn output_of(
    section: &mut Section,
    key: &str,
    (map, line): (Map<String, Value>, usize),
    earlier: &[String],
) -> Option<Output> {
    let mut inner = section.inner(key, map, line, &[]);
    let (step, path) = (inner.required_text(KEY), inner.text("path"));
    if let Some(step) = step.as_ref().filter(|step| !earlier.contains(&step.value)) {
        let message = match earlier {
            [] => format!("there is no step before, and none `{}`", step.value),
            _ => format!(
                "no step `{}` is before this one; expected one of {}",
                step.value,
                earlier.join(", ")
            ),
        };
        inner.error(line, message);
    }
    if let Some(path) = path.as_ref().filter(|path| path.value.is_empty()) {
        inner.error(path.line, "`path` is empty; leave it out for all that the step put out");
    }
    section.append(inner.finish());
    Some(Output { step: step?.value, path: path.map(|path| path.value) })
}

/// Says of which step these are.
pub(super) fn of_step(
    step: Option<&str>,
    errors: Vec<SpecError>,
) -> impl Iterator<Item = SpecError> {
    let said = step.map(|name| format!("step `{name}`: ")).unwrap_or_default();
    errors
        .into_iter()
        .map(move |error| SpecError { message: format!("{said}{}", error.message), ..error })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fake::World;
    use crate::manifest::Limits;
    use crate::spec::{FILE, Overrides, Source, check, parse};

    fn errors(text: &str) -> Vec<String> {
        parse(text, FILE).unwrap_err().iter().map(ToString::to_string).collect()
    }

    const TWO: &str = r#"
workers = 3

[limits]
memory = "64MiB"

[params]
site = "a"
depth = 1

[[step]]
name = "crawl"
kind = "cl"
items = "seeds"
run = "run.wasm"

[step.limits]
time = "9s"

[[step]]
name = "index"
kind = "mr"
input = { step = "crawl", path = "outputs" }
map = "map.wasm"
workers = 5

[step.params]
depth = 2
"#;

    #[test]
    fn each_step_is_a_job_with_what_is_said_for_all() {
        let steps = parse(TWO, FILE).unwrap();
        let [crawl, index] = &steps[..] else { panic!("{steps:?}") };
        let named = |spec: &JobSpec| (spec.step.clone().unwrap(), spec.kind.clone(), spec.workers);
        assert_eq!(named(crawl), ("crawl".into(), "cl".into(), Some(3)));
        assert_eq!(named(index), ("index".into(), "mr".into(), Some(5)));
        assert_eq!((crawl.limits.memory, crawl.limits.time_ms), (64 << 20, 9_000));
        assert_eq!(index.limits, Limits { memory: 64 << 20, ..Limits::default() });
        let params = |spec: &JobSpec| Value::from(spec.params.clone());
        assert_eq!(params(crawl), serde_json::json!({ "site": "a", "depth": 1 }));
        assert_eq!(params(index), serde_json::json!({ "site": "a", "depth": 2 }));
        let path = Some("outputs".to_owned());
        let output = Source::Step(Output { step: "crawl".into(), path });
        assert_eq!(index.input.as_ref().map(|input| &input.value), Some(&output));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_step_and_line() {
        let text = "kind = \"mr\"\n[[step]]\nname = \"a\"\nkind = \"mr\"\ninput = { step = \"b\" }\n\
                    [[step]]\nname = \"b c\"\nkind = \"mrr\"\n[[step]]\nname = \"a\"\nkind = \"mr\"\n\
                    input = { step = \"z\", path = \"\", pth = \"x\" }\n[step.limits]\ntiem = \"1s\"\n[[step]]\nkind = \"mr\"\n";
        assert_eq!(
            errors(text),
            [
                "job.toml:1: `kind` stands outside of the steps, where only `workers`, `memo`, `limits` and `params` can; put it into a [[step]]",
                "job.toml:5: step `a`: there is no step before, and none `b`",
                "job.toml:7: step `2`: `b c` cannot be a step's name; expected 1 to 64 letters, digits, `_` and `-`",
                "job.toml:8: step `2`: there is no kind `mrr`; did you mean `mr`?",
                "job.toml:10: step `a`: an earlier step has this name",
                "job.toml:12: step `a`: no step `z` is before this one; expected one of a, 2",
                "job.toml:12: step `a`: `path` is empty; leave it out for all that the step put out",
                "job.toml:12: step `a`: unknown key `input.pth`; did you mean `path`?",
                "job.toml:14: step `a`: unknown key `limits.tiem`; did you mean `time`?",
                "job.toml:15: step `4`: `name` is missing",
            ]
        );
        assert_eq!(
            errors("step = 3\n"),
            ["job.toml:1: `step` is not a list of tables; expected one or more `[[step]]`"]
        );
        let many = "[[step]]\nname = \"a\"\nkind = \"mr\"\n".repeat(STEPS_LIMIT + 1);
        let last = format!("job.toml:{}: there are more than 64 steps", 3 * STEPS_LIMIT + 1);
        assert!(errors(&many).contains(&last));
    }

    #[test]
    fn what_a_step_before_gave_is_no_input_of_a_job_alone() {
        let found = errors("kind = \"mr\"\ninput = { step = \"a\" }\nmap = \"map.wasm\"\n");
        assert_eq!(found, ["job.toml:2: there is no step before, and none `a`"]);
    }

    #[test]
    fn a_submission_names_the_first_steps_input_and_params_of_all() {
        let world = World::new();
        for path in ["run.wasm", "map.wasm"] {
            world.name(path, path.as_bytes());
        }
        let params = serde_json::from_value(serde_json::json!({ "depth": 7 })).unwrap();
        let inputs = BTreeMap::new();
        let over = Overrides { input: Some("elsewhere"), params: &params, inputs: &inputs };
        let checked = check(TWO, FILE, over, &world).unwrap();
        let [(crawl, crawling), (index, indexing)] = &checked[..] else { panic!("{checked:?}") };
        let input = crawl.input.as_ref().map(|input| &input.value);
        assert_eq!(input, Some(&Source::Named("elsewhere".into())));
        assert!(matches!(&index.input, Some(input) if matches!(input.value, Source::Step(_))));
        assert_eq!(
            (&crawling["params"]["depth"], &indexing["params"]["depth"]),
            (&7.into(), &7.into())
        );
        let wrong = TWO.replace("map.wasm", "gone.wasm");
        let wrong = check(&wrong, FILE, over, &world).unwrap_err();
        assert_eq!(
            wrong.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["job.toml:24: step `index`: `map` names \"gone.wasm\", which is not in the directory"]
        );
    }
}
