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
        // What another node wrote may be any numbers.
        self.splits.iter().fold(0, |sum, split| sum.saturating_add(split.len))
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
        let of_entry = |(path, file): (String, FileRef)| {
            let below = path.strip_prefix(self.name)?;
            if below.is_empty() {
                // The name is the entry's; the file has none, as when it is the only input.
                return Some((String::new(), file));
            }
            below.starts_with('/').then_some((path, file))
        };
        Ok(self.tree.files()?.into_iter().filter_map(of_entry).collect())
    }

    fn open(&self, file: &FileRef) -> io::Result<Box<dyn ReadAt>> {
        self.tree.open(file)
    }

    fn chunks(&self, file: &FileRef, records: RecordKind) -> io::Result<Table> {
        self.tree.chunks(file, records)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fake::{self, World};

    fn config(world: &World, inputs: &[&str]) -> Config {
        let inputs = inputs.iter().map(|name| (*name).to_owned()).collect();
        Config { inputs, ..fake::config(world) }
    }

    #[test]
    fn each_input_has_its_own_files_and_they_come_in_the_order_of_the_names() {
        let world = World::new();
        // As paths, `a.b` is before `a/`; as names, `a` is before `a.b`.
        let names = ["a.b/x", "a/y", "a/z", "ab"];
        let files: Vec<_> =
            names.map(|name| (name.to_owned(), world.put(format!("{name}\n").as_bytes()))).into();
        let tree = world.tree(files.clone());
        let config = config(&world, &["a", "a.b", "c"]);
        let groups = groups(&config, &tree).unwrap();
        let found: Vec<_> =
            groups.iter().map(|group| (group.input_of(&config), group.splits[0].file)).collect();
        assert_eq!(found, [("a", files[1].1), ("a", files[2].1), ("a.b", files[0].1)]);
    }

    #[test]
    fn an_input_that_is_a_packed_file_is_known_by_its_bytes() {
        let world = World::new();
        let gzip = world.put(b"\x1f\x8b\x08 and so on");
        let files = vec![("a".to_owned(), gzip), ("b/plain".to_owned(), gzip)];
        let config = config(&world, &["a", "b"]);
        let groups = groups(&config, &world.tree(files)).unwrap();
        let packed: Vec<_> = groups.iter().map(|group| group.splits[0].packed.is_some()).collect();
        assert_eq!(packed, [true, false], "a file in a directory has a name");
    }

    #[test]
    fn one_input_has_all_files_and_no_name() {
        let world = World::new();
        let config = config(&world, &[]);
        let tree = world.tree(vec![(String::new(), world.put(b"x\n"))]);
        let groups = groups(&config, &tree).unwrap();
        assert_eq!(groups.iter().map(|group| group.input_of(&config)).collect::<Vec<_>>(), [""]);
    }
}
