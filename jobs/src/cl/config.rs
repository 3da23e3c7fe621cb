//! The part of `job.toml` that is this kind's own, checked against the job directory and frozen.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::code::{self, Code};
use crate::engine::Needs;
use crate::fetch::Rules;
use crate::ids::FileRef;
use crate::kind::{Given, JobFiles};
use crate::spec::{JobSpec, SpecError, Unit};

use super::item::ITEMS_LIMIT;
use super::scope::{self, Scope};

/// How often a failed item is tried again, when the job does not say.
const RETRIES: u32 = 2;

/// The longest output that stands in the result's list, when the job does not say.
const INLINE: u64 = 1 << 10;

/// The most that can be asked for: what a task gives is held in memory, and its items are 256 at most.
const INLINE_LIMIT: u64 = 64 << 10;

/// The most that can be asked for: with pauses that double, the last is a minute after the one before.
const RETRIES_LIMIT: u64 = 100;

/// What determines what a job's items give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is run on each item.
    pub run: Code,
    /// Where the items come from.
    pub items: Source,
    /// How often a failed item is tried again.
    pub retries: u32,
    /// The longest output of an item that stands in the list of the result itself, in bytes; a longer one is a file.
    pub inline: u64,
    /// Whether more items may be given to the job while it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// What it takes of the items that its items name, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueue: Option<Scope>,
    /// How it fetches from the network, if it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Rules>,
    /// `[params]`, as written.
    pub params: serde_json::Map<String, Value>,
    /// `[files]`, by the guest's names.
    pub files: BTreeMap<String, FileRef>,
}

/// Where a job's items come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The job's input: the lines of a file, or the files of a directory.
    Input,
    /// The numbers from `from` up to, not including, `to`.
    Range {
        /// The first.
        from: u64,
        /// The one after the last.
        to: u64,
    },
    /// What this emits when it is run once.
    Producer(Code),
    /// Only what is given to the job while it runs.
    Given,
}

impl Config {
    /// Reads what was frozen. It came from another node, so it is checked again.
    ///
    /// # Errors
    /// When it is not of the form, or out of range.
    pub fn read(value: &Value) -> Result<Self, serde_json::Error> {
        use serde::de::Error as _;
        if let Some(fetch) = value.get("fetch") {
            Rules::read(fetch).map_err(serde_json::Error::custom)?;
        }
        let config = Config::deserialize(value)?;
        if let Source::Range { from, to } = config.items
            && to.checked_sub(from).is_none_or(|count| count > ITEMS_LIMIT)
        {
            return Err(serde_json::Error::custom(format!("{from}..{to} is no range of items")));
        }
        Ok(config)
    }

    /// What a worker must have, and let the job use.
    pub(super) fn needs(&self) -> Needs {
        let producer = match &self.items {
            Source::Producer(code) => Some(code),
            _ => None,
        };
        let fetch = self.fetch.as_ref().map(Rules::reach);
        Needs { fetch, ..Code::needs(producer.into_iter().chain([&self.run])) }
    }

    /// What the job's guests may read and fetch.
    pub(super) fn given(&self) -> Given {
        let params = serde_json::to_vec(&self.params).expect("what was JSON encodes");
        let fetch = self.fetch.clone().map(Arc::new);
        Given {
            params: params.into(),
            files: self.files.clone(),
            fetch,
            enqueue: self.enqueue.is_some(),
            ..Given::default()
        }
    }

    /// Whether its items must be known by their texts: those of one host stay together, and none comes twice.
    pub(super) fn has_frontier(&self) -> bool {
        self.fetch.is_some() || self.enqueue.is_some()
    }
}

/// The guest's name for the file that its item names.
pub(super) const ITEM_FILE: &str = "item";

/// Checks and freezes `spec`.
pub(super) fn of_spec(spec: &JobSpec, files: &dyn JobFiles) -> Result<Config, Vec<SpecError>> {
    let mut section = spec.rest.clone();
    let run = section.required_text("run");
    let run = run.and_then(|path| Code::resolve(&mut section, "run", &path, files));
    let producer = section.text("producer");
    let producer_line = producer.as_ref().map(|path| path.line);
    let producer = producer.and_then(|path| Code::resolve(&mut section, "producer", &path, files));
    let retries = section.integer("retries", 0..=RETRIES_LIMIT);
    let inline = section.measured("inline", Unit::Bytes, 0..=INLINE_LIMIT);
    let open = section.truth("open").unwrap_or_default();
    let mut enqueue = None;
    if let Some(given) = section.section("enqueue") {
        let (scope, wrong) = scope::of_section(given);
        enqueue = Some(scope);
        section.append(wrong);
    }
    let range = spec.input.as_ref().and_then(|items| items.value.named()).and_then(range_of);
    let items_line = spec.input.as_ref().map_or(1, |items| items.line);
    let source = match (producer, range) {
        (Some(producer), None) if spec.input.is_none() => Source::Producer(producer),
        (None, Some(Ok(range))) => range,
        (None, Some(Err(message))) => {
            section.error(items_line, message);
            Source::Given
        }
        (None, None) if spec.input.is_none() && open => Source::Given,
        (None, None) => Source::Input,
        (Some(_), _) => {
            let message = "`producer` and `items` are both given; expected one of them";
            section.error(producer_line.unwrap_or(1), message);
            Source::Given
        }
    };
    if let Some((_, input)) = spec.inputs.first_key_value() {
        section.error(input.line, "a job of items has no `inputs`; expected `items`");
    }
    let mut side_files = BTreeMap::new();
    for (name, path) in &spec.files {
        if name == ITEM_FILE {
            let message =
                "`files.item` is the name of the file that an item names; expected another";
            section.error(path.line, message);
        }
        if let Some(file) = code::find(&mut section, &format!("files.{name}"), path, files) {
            side_files.insert(name.clone(), file);
        }
    }
    let Some(run) = run else { return Err(section.finish()) };
    let config = Config {
        run,
        items: source,
        retries: retries.map_or(RETRIES, |retries| retries as u32),
        inline: inline.unwrap_or(INLINE),
        open,
        enqueue,
        fetch: spec.fetch.as_ref().map(|fetch| fetch.value.clone()),
        params: spec.params.clone(),
        files: side_files,
    };
    let errors = section.finish();
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

/// The range that `items = "from..to"` names; none, when it is no range.
fn range_of(text: &str) -> Option<Result<Source, String>> {
    let (from, to) = text.split_once("..")?;
    let (from, to) = (from.parse::<u64>().ok()?, to.parse::<u64>().ok()?);
    Some(match to.checked_sub(from) {
        Some(0..=ITEMS_LIMIT) => Ok(Source::Range { from, to }),
        Some(count) => Err(format!("`items` are {count} numbers; at most {ITEMS_LIMIT} can be")),
        None => Err(format!("`items` ends before it begins: {text}")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_with_dots_between_are_a_range_and_paths_are_none() {
        assert_eq!(range_of("3..10"), Some(Ok(Source::Range { from: 3, to: 10 })));
        assert_eq!(range_of("3..3"), Some(Ok(Source::Range { from: 3, to: 3 })));
        for path in ["list.txt", "..", "3..", "a..b", "../list", "-1..3"] {
            assert_eq!(range_of(path), None, "{path}");
        }
        assert!(range_of("10..3").unwrap().is_err());
        assert!(range_of("0..99999999999").unwrap().is_err());
    }
}
