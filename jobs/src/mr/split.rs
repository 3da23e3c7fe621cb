//! Splits: the pieces of whole records that the input is cut into, and how they are dealt to map
//! tasks.
//!
//! A file is cut by its content ([`crate::chunk`]). A task gets one split, or several small ones that
//! follow each other. Where one task's splits end and the next one's begin is told by the splits'
//! names too: so of ten thousand small files, one that changes, goes or comes changes a task or two.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{Cid, FileRef, cid_text};
use crate::kind::{PlanError, Tree};

use super::config::Config;
use super::input::{self, Packed};

/// The most map tasks a job may have: a few bytes each in the journal and in every reducer's inputs.
/// Of input over 200 GB each gets more.
pub const MAPS_LIMIT: u64 = 100_000;

/// Bytes of small splits that make a task, about, when there are many: what a large file's chunks
/// have, and for the same reasons.
const GROUP: u64 = 4 << 20;

/// Tasks that are made of small splits, about, when they do not fill as many of [`GROUP`] bytes:
/// enough to keep ten workers busy.
const GROUPS: u64 = 32;

/// Splits of one task, about, however small: their list, of some 200 bytes each, is fetched with
/// the task.
const GROUP_SPLITS: u64 = 512;

/// Whole records that follow each other in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The file they are read from. Where the split is a file of its own within the input's, that.
    pub file: FileRef,
    /// Where the first record begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The CID that these bytes have as a file of their own: the same in whatever file they are.
    #[serde(with = "cid_text")]
    pub name: Cid,
    /// Whether its last byte ends a record, as that of every chunk but a file's last does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// How it is compressed; then it is a whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
}

impl Split {
    /// Draws tasks on the same bytes to the same peer.
    pub(super) fn affinity(&self) -> [u8; 32] {
        Sha256::digest(self.name.to_bytes()).into()
    }
}

/// The splits of every file of `input`, files in the order of their paths. Empty files have none.
pub(super) fn of_input(config: &Config, input: &dyn Tree) -> Result<Vec<Split>, PlanError> {
    let mut splits = Vec::new();
    for (path, file) in input.files()?.into_iter().filter(|(_, file)| file.len > 0) {
        if let Some(codec) = input::codec_of(config.compression, &path, &file, input)? {
            let packed = Some(Packed { codec, path });
            let (len, name) = (file.len, file.cid);
            splits.push(Split { file, offset: 0, len, name, closed: false, packed });
            continue;
        }
        let table = input.chunks(&file, config.record)?;
        let mut start = 0;
        for chunk in &table.chunks {
            let (len, name) = (chunk.len, chunk.name);
            let own = FileRef { cid: name, len };
            let (from, offset) = if table.subtrees { (own, 0) } else { (file, start) };
            start += len;
            let closed = start < file.len;
            splits.push(Split { file: from, offset, len, name, closed, packed: None });
        }
    }
    Ok(splits)
}

/// Deals `splits` to tasks, in their order.
pub(super) fn grouped(splits: &[Split]) -> Result<Vec<&[Split]>, PlanError> {
    let size = group_size(splits.iter().map(|split| split.len).sum());
    let mut groups = Vec::new();
    let (mut start, mut len) = (0, 0);
    for (at, split) in splits.iter().enumerate() {
        len += split.len;
        if ends_group(split, size) || len >= 2 * size || at + 1 == splits.len() {
            groups.push(&splits[start..=at]);
            (start, len) = (at + 1, 0);
        }
    }
    if groups.len() as u64 > MAPS_LIMIT {
        return Err(PlanError::Unfit(format!(
            "the input makes {} map tasks; at most {MAPS_LIMIT} are allowed: put several files into one",
            groups.len()
        )));
    }
    Ok(groups)
}

/// Bytes of a group, about. A power of two, so that it seldom changes when the input grows.
fn group_size(total: u64) -> u64 {
    let wanted = (total / GROUPS).min(GROUP).max(2 * total / MAPS_LIMIT).max(1);
    1 << wanted.ilog2()
}

/// Whether a group ends with `split`: one in so many bytes, or splits, drawn by its name.
fn ends_group(split: &Split, size: u64) -> bool {
    let drawn = u64::from_be_bytes(*split.affinity().first_chunk().expect("it has 32 bytes"));
    let share = u64::MAX / size;
    drawn <= share.saturating_mul(split.len).saturating_add(u64::MAX / GROUP_SPLITS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::fake::{self, World};
    use crate::ids::{CODEC_RAW, cid_of};

    fn splits_of(texts: &[&[u8]]) -> Vec<Split> {
        let world = World::new();
        let files = texts.iter().enumerate().map(|(n, text)| (format!("f{n}"), world.put(text)));
        of_input(&fake::config(&world), &world.tree(files.collect())).unwrap()
    }

    fn small(n: u32, version: u32, len: u64) -> Split {
        let name = cid_of(CODEC_RAW, &[n.to_be_bytes(), version.to_be_bytes()].concat());
        let file = FileRef { cid: name, len };
        Split { file, offset: 0, len, name, closed: false, packed: None }
    }

    #[test]
    fn splits_join_to_the_file_and_each_ends_a_line() {
        let text: Vec<u8> = (0..900_000_u32)
            .flat_map(|n| format!("line {n} {}\n", "x".repeat(n as usize % 40)).into_bytes())
            .collect();
        let splits = splits_of(&[&text]);
        assert!(splits.len() > 3);
        let mut end = 0;
        for split in &splits {
            assert_eq!(split.offset, end);
            end += split.len;
            assert_eq!(text[end as usize - 1], b'\n');
        }
        assert_eq!(end, text.len() as u64);
    }

    #[test]
    fn empty_files_and_no_files_have_no_splits() {
        assert!(splits_of(&[]).is_empty());
        assert!(grouped(&[]).unwrap().is_empty());
        assert_eq!(splits_of(&[b"", b"a", b""]).len(), 1);
    }

    #[test]
    fn chunks_of_large_files_are_tasks_of_their_own() {
        let splits: Vec<_> = (0..26).map(|n| small(n, 0, (3 << 20) + u64::from(n))).collect();
        assert_eq!(grouped(&splits).unwrap().len(), 26);
    }

    #[test]
    fn little_input_is_still_divided_among_many() {
        let splits: Vec<_> = (0..12).map(|n| small(n, 0, 600)).collect();
        assert_eq!(grouped(&splits).unwrap().len(), 12);
        let splits: Vec<_> = (0..2000).map(|n| small(n, 0, 1500)).collect();
        let groups = grouped(&splits).unwrap();
        assert!((30..120).contains(&groups.len()), "{} groups", groups.len());
    }

    #[test]
    fn many_small_files_make_tasks_of_some_megabytes_that_join_to_the_input() {
        let splits: Vec<_> = (0..10_000).map(|n| small(n, 0, 50_000)).collect();
        let groups = grouped(&splits).unwrap();
        assert!((100..200).contains(&groups.len()), "{} groups", groups.len());
        assert!(groups.concat() == splits);
        for group in groups {
            let len: u64 = group.iter().map(|split| split.len).sum();
            assert!(len < 2 * GROUP + 50_000, "{len}");
        }
    }

    #[test]
    fn a_small_file_that_changes_comes_or_goes_changes_few_tasks() {
        let before: Vec<_> = (0..10_000).map(|n| small(n, 0, 20_000)).collect();
        let old: HashSet<Vec<Cid>> = names(&before);
        for at in [0, 1234, 5000, 9999] {
            let mut changed = before.clone();
            changed[at] = small(at as u32, 1, 21_000);
            let mut fewer = before.clone();
            fewer.remove(at);
            let mut more = before.clone();
            more.insert(at, small(at as u32, 2, 5));
            for after in [changed, fewer, more] {
                let new = names(&after).difference(&old).count();
                assert!((0..=3).contains(&new), "{new} tasks changed with file {at}");
            }
        }
    }

    fn names(splits: &[Split]) -> HashSet<Vec<Cid>> {
        let names = |group: &&[Split]| group.iter().map(|split| split.name).collect();
        grouped(splits).unwrap().iter().map(names).collect()
    }

    #[test]
    fn endless_input_makes_larger_tasks_not_more() {
        assert_eq!(group_size(100 << 30), GROUP);
        assert!((10 << 40) / group_size(10 << 40) < MAPS_LIMIT);
        assert_eq!(group_size(0), 1);
    }
}
