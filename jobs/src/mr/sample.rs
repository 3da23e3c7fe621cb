//! Where a range partition begins and ends: from a sample of the keys that `map` emits.
//!
//! One task before the maps gives `map` the first lines of some splits, the same ones wherever it
//! runs, and cuts the keys that come out into ranges of as many. So the boundaries, and with them
//! the result, depend on code, configuration and input alone.

use bytes::Bytes;

use crate::kind::{Host, TaskError};
use crate::message::Payload;

use super::config::Config;
use super::error;
use super::inputs::Group;
use super::map;
use super::run::{read_length, write_number};
use crate::record::Records;

/// Splits that are looked at, spread evenly: so many that sorted input shows all its ranges, so
/// few that one task reads them in a moment.
const SPLITS: usize = 64;

/// Bytes of input in a sample. At 100 bytes a record some forty for each of a thousand partitions.
const BYTES: usize = 4 << 20;

/// Keys of a sample that are kept: thirty-two for each of as many partitions as there can be.
const KEYS: usize = 1 << 15;

/// Bytes of a key that are kept. The beginning of a key bounds a range as well as the whole.
const KEY_BYTES: usize = 256;

/// The longest list of boundaries: that of 1024 partitions.
pub(super) const BOUNDARIES_LIMIT: usize = 1 << 20;

/// What to look at, of all of a job's groups: the first splits of some.
pub(super) fn choose(groups: &[Group]) -> Vec<Group> {
    let many = groups.len().min(SPLITS);
    let beginning = |n: usize| {
        let Group { splits, input } = &groups[n * groups.len() / many];
        Group { splits: splits.iter().take(1).cloned().collect(), input: *input }
    };
    (0..many).map(beginning).collect()
}

/// Runs the sample task; its output is the boundaries.
pub(super) fn run(
    config: &Config,
    groups: &[Group],
    host: &dyn Host,
) -> Result<Payload, TaskError> {
    let mut keys = Keys { kept: Vec::new(), every: 1, seen: 0 };
    let mut encoded = Vec::new();
    for group in groups {
        map::sample(config, group, BYTES / groups.len(), host, &mut |frame| {
            for record in Records::new(frame) {
                let (key, _) = record?;
                encoded.clear();
                config.order.encode(key, &mut encoded)?;
                keys.add(&encoded);
            }
            Ok(())
        })?;
    }
    Ok(Payload::Inline(encode(&keys.boundaries(config.partitions))))
}

/// Keys of a sample, thinned out evenly as they become too many.
struct Keys {
    kept: Vec<Box<[u8]>>,
    /// One key of so many is kept.
    every: usize,
    seen: usize,
}

impl Keys {
    fn add(&mut self, key: &[u8]) {
        if self.seen.is_multiple_of(self.every) {
            self.kept.push(key[..key.len().min(KEY_BYTES)].into());
            if self.kept.len() == KEYS {
                let mut at = 0..;
                self.kept.retain(|_| at.next().is_some_and(|at: usize| at.is_multiple_of(2)));
                self.every *= 2;
            }
        }
        self.seen += 1;
    }

    /// The first key of each of `partitions` ranges but the first.
    fn boundaries(mut self, partitions: u32) -> Vec<Box<[u8]>> {
        self.kept.sort_unstable();
        let partitions = partitions as usize;
        let at = |n: usize| self.kept.get(n * self.kept.len() / partitions).cloned();
        (1..partitions).map(|n| at(n).unwrap_or_default()).collect()
    }
}

/// `[len][key]…`, lengths as LEB128.
fn encode(boundaries: &[Box<[u8]>]) -> Bytes {
    let mut text = Vec::new();
    for key in boundaries {
        write_number(&mut text, key.len() as u64);
        text.extend_from_slice(key);
    }
    text.into()
}

/// The boundaries of `partitions` ranges, as the sample task gave them.
pub(super) fn decode(text: &Bytes, partitions: u32) -> Result<Vec<Bytes>, TaskError> {
    let mut boundaries: Vec<Bytes> = Vec::new();
    let mut rest: &[u8] = text;
    while !rest.is_empty() {
        let len = read_length(&mut rest);
        let (key, after) = len
            .and_then(|len| rest.split_at_checked(len))
            .ok_or_else(|| error::corrupt("a sample's boundaries"))?;
        boundaries.push(text.slice_ref(key));
        rest = after;
    }
    if boundaries.len() + 1 != partitions as usize || !boundaries.is_sorted() {
        return Err(error::corrupt("a sample's boundaries"));
    }
    Ok(boundaries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn boundaries(keys: impl Iterator<Item = u32>, partitions: u32) -> Vec<Box<[u8]>> {
        let mut sample = Keys { kept: Vec::new(), every: 1, seen: 0 };
        keys.for_each(|key| sample.add(&key.to_be_bytes()));
        assert!(sample.kept.len() <= KEYS);
        sample.boundaries(partitions)
    }

    #[test]
    fn ranges_have_about_as_many_keys_however_many_there_are() {
        for keys in [1000_u32, 300_000] {
            let found = boundaries((0..keys).map(|n| n.wrapping_mul(7919) % keys), 8);
            for (n, boundary) in (1..).zip(&found) {
                let at = u32::from_be_bytes(boundary[..].try_into().unwrap());
                assert!(at.abs_diff(n * keys / 8) < keys / 50, "{n}: {at} of {keys}");
            }
        }
    }

    #[test]
    fn boundaries_read_back_and_others_are_refused() {
        for keys in [0, 1, 100] {
            let found = boundaries(0..keys, 4);
            let text = encode(&found);
            let read = decode(&text, 4).unwrap();
            assert!(read.iter().map(|key| &key[..]).eq(found.iter().map(|key| &key[..])));
            assert!(decode(&text, 5).is_err());
        }
        let text = encode(&boundaries(0..100, 4));
        assert!((0..text.len()).all(|cut| decode(&text.slice(..cut), 4).is_err()));
    }
}
