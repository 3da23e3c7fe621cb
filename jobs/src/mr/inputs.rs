//! A job's inputs: one, or several by name. Several are the entries of one directory, in the order
//! of their names; each map task works on records of one of them, and its guest can ask of which.

use std::io;

use serde::{Deserialize, Serialize};

use crate::chunk::{RecordKind, Table};
use crate::ids::FileRef;
use crate::kind::{PlanError, ReadAt, Tree};

use super::config::Config;
use super::split::{self, Split};

/// The most inputs of a job: a join of more tables than a person can keep apart.
pub const INPUTS_LIMIT: usize = 64;

/// What a map task works on: splits that follow each other, of one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    /// The records.
    pub(super) splits: Vec<Split>,
    /// Index into [`Config::inputs`]; 0 when there is but one.
    #[serde(default)]
    pub(super) input: u32,
}

impl Group {
    /// The name of its input; empty when there is but one.
    pub(super) fn input_of<'a>(&self, config: &'a Config) -> &'a str {
        config.inputs.get(self.input as usize).map_or("", String::as_str)
    }

    /// Bytes of its splits.
    pub(super) fn len(&self) -> u64 {
        self.splits.iter().map(|split| split.len).sum()
    }
}

/// The splits of every input, dealt to tasks, in the order of (input, file, offset).
pub(super) fn groups(config: &Config, tree: &dyn Tree) -> Result<Vec<Group>, PlanError> {
    let group = |input: u32, splits: &[Split]| Group { splits: splits.to_vec(), input };
    if config.inputs.is_empty() {
        let splits = split::of_input(config, tree)?;
        return Ok(split::grouped(&splits)?.into_iter().map(|splits| group(0, splits)).collect());
    }
    let mut groups = Vec::new();
    for (input, name) in (0..).zip(&config.inputs) {
        let splits = split::of_input(config, &Entry { tree, name })?;
        groups.extend(split::grouped(&splits)?.into_iter().map(|splits| group(input, splits)));
    }
    Ok(groups)
}

/// One entry of a directory: a file, or all that is below it.
struct Entry<'a> {
    tree: &'a dyn Tree,
    name: &'a str,
}

impl Tree for Entry<'_> {
    fn files(&self) -> io::Result<Vec<(String, FileRef)>> {
        let mut files = self.tree.files()?;
        files.retain(|(path, _)| {
            path.strip_prefix(self.name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        Ok(files)
    }

    fn open(&self, file: &FileRef) -> io::Result<Box<dyn ReadAt>> {
        self.tree.open(file)
    }

    fn chunks(&self, file: &FileRef, records: RecordKind) -> io::Result<Table> {
        self.tree.chunks(file, records)
    }
}
