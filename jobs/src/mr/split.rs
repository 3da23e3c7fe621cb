//! Splits: the ranges of lines that the input is cut into, one for each map task.
//!
//! A file is cut every [`SPLIT`] bytes, each cut moved to just after the next newline. Where it is
//! cut depends on the file alone, so appending changes only what follows the last cut. Only a small
//! window at each cut is read.

use std::io;

use memchr::memchr;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::FileRef;
use crate::kind::{PlanError, ReadAt, Tree};

/// Bytes of a split, about. Large enough that starting a task costs little against running it,
/// small enough that a phone holds one and that a hundred megabytes keep ten workers busy.
pub const SPLIT: u64 = 4 << 20;

/// The most splits a job may have: a few bytes each in the journal and in every reducer's inputs.
/// Input of more than 400 GB is cut into larger ones.
pub const SPLITS_LIMIT: u64 = 100_000;

/// Bytes read at a time to find the newline at a cut: a few lines of text.
const WINDOW: usize = 4 << 10;

/// A range of whole lines of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The file.
    pub file: FileRef,
    /// Where the first line begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Split {
    /// Names the split's bytes: what its map task's output depends on, and what draws tasks on
    /// them to the same peer.
    pub(super) fn name(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.file.cid.to_bytes());
        hash.update(self.offset.to_be_bytes());
        hash.update(self.len.to_be_bytes());
        hash.finalize().into()
    }
}

/// The splits of every file of `input`, files in the order of their paths. Empty files have none.
pub(super) fn of_input(input: &dyn Tree) -> Result<Vec<Split>, PlanError> {
    let files = input.files()?;
    let total: u64 = files.iter().map(|(_, file)| file.len).sum();
    let size = SPLIT.max(total.div_ceil(SPLITS_LIMIT / 2));
    let mut splits = Vec::new();
    for (_, file) in files.iter().filter(|(_, file)| file.len > 0) {
        let mut start = 0;
        // A file of one split is not even opened.
        if file.len > size {
            let mut bytes = input.open(file)?;
            for target in (1..file.len.div_ceil(size)).map(|n| n * size) {
                // A long line may have moved the last cut beyond this one.
                if target <= start {
                    continue;
                }
                let cut = line_start(bytes.as_mut(), target)?;
                splits.push(Split { file: *file, offset: start, len: cut - start });
                start = cut;
            }
        }
        if start < file.len {
            splits.push(Split { file: *file, offset: start, len: file.len - start });
        }
        if splits.len() as u64 > SPLITS_LIMIT {
            return Err(PlanError::Unfit(format!(
                "the input has more than {SPLITS_LIMIT} files; put several into one"
            )));
        }
    }
    Ok(splits)
}

/// The first start of a line at or after `at`, or the end of the file.
fn line_start(bytes: &mut dyn ReadAt, at: u64) -> io::Result<u64> {
    // From the byte before: when that is a newline, a line starts at `at` itself.
    let mut offset = at - 1;
    while offset < bytes.len() {
        let window = bytes.read_at(offset, WINDOW)?;
        if let Some(newline) = memchr(b'\n', &window) {
            return Ok(offset + newline as u64 + 1);
        }
        if window.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += window.len() as u64;
    }
    Ok(bytes.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::fake::World;
    use super::*;

    fn splits_of(texts: &[&[u8]]) -> Vec<Split> {
        let world = World::new();
        let files = texts.iter().enumerate().map(|(n, text)| (format!("f{n}"), world.put(text)));
        of_input(&world.tree(files.collect())).unwrap()
    }

    #[test]
    fn splits_join_to_the_file_and_each_ends_a_line() {
        let text: Vec<u8> = (0..600_000_u32)
            .flat_map(|n| format!("line {n} {}\n", "x".repeat(n as usize % 40)).into_bytes())
            .collect();
        let splits = splits_of(&[&text]);
        assert_eq!(splits.len() as u64, (text.len() as u64).div_ceil(SPLIT));
        let mut end = 0;
        for split in &splits {
            assert_eq!(split.offset, end);
            end += split.len;
            assert_eq!(text[end as usize - 1], b'\n');
        }
        assert_eq!(end, text.len() as u64);
    }

    #[test]
    fn a_line_longer_than_a_split_stays_whole() {
        let mut text = vec![b'x'; 3 * SPLIT as usize];
        text.extend_from_slice(b"\nshort\n");
        let splits = splits_of(&[&text]);
        let ranges: Vec<_> = splits.iter().map(|split| (split.offset, split.len)).collect();
        assert_eq!(ranges, [(0, 3 * SPLIT + 1), (3 * SPLIT + 1, 6)]);
    }

    #[test]
    fn a_cut_that_falls_on_a_line_start_stays_there() {
        let mut text = vec![b'x'; SPLIT as usize - 1];
        text.extend_from_slice(b"\nrest");
        assert_eq!(splits_of(&[&text])[0].len, SPLIT);
    }

    #[test]
    fn empty_files_and_no_files_have_no_splits() {
        assert!(splits_of(&[]).is_empty());
        assert_eq!(splits_of(&[b"", b"a", b""]).len(), 1);
    }
}
