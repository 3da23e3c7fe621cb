//! A map task's side of the shuffle: takes the records that `map` emits, joins those of one key
//! where a combiner says so, and leaves a sorted run for each partition.
//!
//! What a combiner can keep as one number a key lives in a hash table; everything else is kept as
//! it came and sorted. Both stay under their share of the memory by writing what they hold to disk
//! as a sorted run; at the end these are merged. The output is the same bytes, spilled or not:
//! built-ins give the same however values are grouped, and the user's combiner is called once a
//! key, with all its values.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::kind::{Host, Lasting, TaskError};
use crate::message::Payload;

use super::bad::Skipped;
use super::builtin::{Builtin, Fold};
use super::error;
use super::group::{Grouper, GuestGroup, How};
use super::merge::{self, Merge};
use super::order::Order;
use super::record::Records;
use super::run::{Encoder, Source, prefix};
use super::shuffle::{Partitioner, RunsWriter};

/// What joins the values of one key in a map task.
pub(super) enum Combine {
    /// Nothing does.
    None,
    /// A built-in.
    Builtin(Builtin),
    /// The user's `combine`.
    Guest(GuestGroup),
}

/// Takes a map task's records and makes its runs.
pub(super) struct Combiner<'a> {
    host: &'a dyn Host,
    partitioner: Partitioner,
    /// How keys are written, and a key so written.
    order: Order,
    encoded: Vec<u8>,
    /// Bytes to hold before spilling.
    budget: usize,
    store: Store,
    spills: Vec<Source>,
    combine: Combine,
}

impl<'a> Combiner<'a> {
    /// A combiner that holds about `budget` bytes.
    pub(super) fn new(
        host: &'a dyn Host,
        partitioner: Partitioner,
        order: Order,
        combine: Combine,
        budget: usize,
    ) -> Self {
        let store = match combine {
            Combine::Builtin(builtin) if builtin.is_number() => {
                Store::Numbers(Numbers::new(builtin))
            }
            _ => Store::Records(Kept::default()),
        };
        let (spills, encoded) = (Vec::new(), Vec::new());
        Combiner { host, partitioner, order, encoded, budget, store, spills, combine }
    }

    /// Takes the records of `frame`.
    pub(super) fn add(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        for record in Records::new(frame) {
            let (mut key, value) = record?;
            if !self.order.is_plain() {
                self.encoded.clear();
                self.order.encode(key, &mut self.encoded)?;
                key = &self.encoded;
            }
            let used = match &mut self.store {
                Store::Numbers(numbers) => numbers.add(key, value)?,
                Store::Records(kept) => kept.add(key, value),
            };
            if used > self.budget {
                self.spill()?;
            }
        }
        Ok(())
    }

    /// Writes the runs; the map task's output, of which records were `skipped`.
    pub(super) fn finish(mut self, skipped: Vec<Skipped>) -> Result<Payload, TaskError> {
        if self.spills.is_empty() {
            // A table has joined its numbers already.
            let joined = matches!(self.store, Store::Numbers(_));
            let how = if joined { How::Pass } else { self.combine.into_how() };
            let mut output = OutputWriter::new(self.host, how)?;
            self.store.drain(&self.partitioner, &mut |partition, key, value| {
                output.add(partition, key, value)
            })?;
            return output.finish(self.partitioner.count(), skipped);
        }
        self.spill()?;
        let width = merge::width(self.budget as u64);
        let spills = merge::narrow(self.spills, width, How::Pass, self.host)?;
        let mut output = OutputWriter::new(self.host, self.combine.into_how())?;
        let mut merge = Merge::open(&spills, self.host)?;
        while let Some((spilled, value)) = merge.record() {
            let (partition, key) =
                spilled.split_first_chunk().ok_or_else(|| error::corrupt("a spilled run"))?;
            output.add(u32::from_be_bytes(*partition), key, value)?;
            merge.advance()?;
        }
        output.finish(self.partitioner.count(), skipped)
    }

    /// Writes all that is held as a sorted run whose keys begin with their partition, big-endian:
    /// so it is sorted by partition, then key, and merges like any other.
    fn spill(&mut self) -> Result<(), TaskError> {
        let mut file = self.host.create(Lasting::Scratch)?;
        let mut encoder = Encoder::new()?;
        let mut spilled = Vec::new();
        self.store.drain(&self.partitioner, &mut |partition, key, value| {
            spilled.clear();
            spilled.extend_from_slice(&partition.to_be_bytes());
            spilled.extend_from_slice(key);
            encoder.add(&spilled, value, &mut |bytes| file.write(bytes))
        })?;
        encoder.end(&mut |bytes| file.write(bytes))?;
        self.spills.push(Source::File(file.finish()?, Vec::new()));
        Ok(())
    }
}

impl Combine {
    /// What becomes of a key's values, spilled ones joined to numbers among them.
    fn into_how(self) -> How {
        match self {
            Combine::None => How::Pass,
            Combine::Builtin(builtin) => How::Fold(Fold::partial(builtin.of_partials())),
            Combine::Guest(group) => How::Guest(group),
        }
    }
}

/// Writes the final runs from records sorted by partition, then key.
struct OutputWriter<'a> {
    grouper: Grouper,
    encoder: Encoder,
    runs: RunsWriter<'a>,
}

impl<'a> OutputWriter<'a> {
    fn new(host: &'a dyn Host, how: How) -> Result<Self, TaskError> {
        Ok(OutputWriter {
            grouper: Grouper::new(how),
            encoder: Encoder::new()?,
            runs: RunsWriter::new(host),
        })
    }

    fn add(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        if partition != self.runs.partition() {
            self.go_to(partition)?;
        }
        let OutputWriter { grouper, encoder, runs } = self;
        grouper.add(key, value, &mut |key, value| {
            encoder.add(key, value, &mut |bytes| runs.write(bytes))
        })
    }

    /// Ends the runs before that of `partition`.
    fn go_to(&mut self, partition: u32) -> Result<(), TaskError> {
        let OutputWriter { grouper, encoder, runs } = self;
        grouper.end(&mut |key, value| encoder.add(key, value, &mut |bytes| runs.write(bytes)))?;
        encoder.end(&mut |bytes| runs.write(bytes))?;
        while runs.partition() < partition {
            runs.end_run()?;
        }
        Ok(())
    }

    fn finish(mut self, partitions: u32, skipped: Vec<Skipped>) -> Result<Payload, TaskError> {
        self.go_to(partitions)?;
        self.runs.finish(skipped)
    }
}

/// Takes (partition, key, value), sorted.
type Drain<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result<(), TaskError> + 'a;

/// What is held in memory.
enum Store {
    Numbers(Numbers),
    Records(Kept),
}

impl Store {
    /// Hands over everything, sorted by partition, then key, then order of arrival; empty after.
    fn drain(&mut self, to: &Partitioner, take: &mut Drain<'_>) -> Result<(), TaskError> {
        match self {
            Store::Numbers(numbers) => numbers.drain(to, take),
            Store::Records(kept) => kept.drain(to, take),
        }
    }
}

/// One number a key.
struct Numbers {
    builtin: Builtin,
    hash: FixedState,
    /// Where each key's slot lies in `slots`.
    index: HashTable<u32>,
    /// In the order in which the keys came.
    slots: Vec<Slot>,
    /// The keys, one after the other.
    keys: Vec<u8>,
}

/// A key and its number. Keys of up to eight bytes compare without a look into [`Numbers::keys`].
#[derive(Clone, Copy)]
struct Slot {
    number: i128,
    prefix: u64,
    start: u32,
    len: u32,
}

impl Slot {
    fn key<'a>(&self, keys: &'a [u8]) -> &'a [u8] {
        &keys[self.start as usize..][..self.len as usize]
    }
}

/// What a key costs besides its bytes: its slot, its place in the index (four bytes and one, with
/// at least 7/16 of the places taken), its place in the order.
const SLOT_MEMORY: usize = size_of::<Slot>() + 12 + size_of::<u128>();

/// The keys that the index has room for at first. A megabyte; a split of text has some 150,000 words,
/// and each time the index grows all of them are hashed again.
const FIRST_KEYS: usize = 200_000;

impl Numbers {
    fn new(builtin: Builtin) -> Self {
        Numbers {
            builtin,
            hash: FixedState::default(),
            index: HashTable::with_capacity(FIRST_KEYS),
            slots: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Joins `value` to what `key` has; the bytes held.
    #[inline]
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<usize, TaskError> {
        let number = self.builtin.lift(key, value)?;
        let Numbers { builtin, hash: state, index, slots, keys } = self;
        let (hash, prefix) = (hash_of(state, key), prefix(key));
        let same = |&at: &u32| {
            let slot = &slots[at as usize];
            slot.prefix == prefix
                && slot.len as usize == key.len()
                && (key.len() <= 8 || slot.key(keys) == key)
        };
        match index.entry(hash, same, |&at| hash_of(state, slots[at as usize].key(keys))) {
            Entry::Occupied(entry) => {
                let slot = &mut slots[*entry.get() as usize];
                slot.number = builtin.join(key, slot.number, number)?;
            }
            Entry::Vacant(entry) => {
                entry.insert(below_4_gib(slots.len()));
                let (start, len) = (below_4_gib(keys.len()), below_4_gib(key.len()));
                slots.push(Slot { number, prefix, start, len });
                keys.extend_from_slice(key);
            }
        }
        Ok(slots.len() * SLOT_MEMORY + keys.len())
    }

    fn drain(&mut self, to: &Partitioner, take: &mut Drain<'_>) -> Result<(), TaskError> {
        self.index.clear();
        let (slots, keys) = (std::mem::take(&mut self.slots), std::mem::take(&mut self.keys));
        let mut text = Vec::new();
        in_order(
            &slots,
            to,
            |slot| slot.key(&keys),
            |partition, slot| {
                text.clear();
                self.builtin.write(&mut text, slot.number);
                take(partition, slot.key(&keys), &text)
            },
        )
    }
}

/// A length within what is held, as it is kept.
#[inline]
fn below_4_gib(len: usize) -> u32 {
    u32::try_from(len).expect("a budget and a record are far below 4 GiB")
}

#[inline]
fn hash_of(state: &FixedState, key: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// Records as they came.
#[derive(Default)]
struct Kept {
    records: Vec<Record>,
    /// Keys and values, one after the other.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Record {
    start: u32,
    key_len: u32,
    value_len: u32,
}

impl Record {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..][..self.key_len as usize]
    }

    fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize + self.key_len as usize..][..self.value_len as usize]
    }
}

/// What a record costs besides its bytes: itself and its place in the order.
const RECORD_MEMORY: usize = size_of::<Record>() + size_of::<u128>();

impl Kept {
    /// Keeps a record; the bytes held.
    #[inline]
    fn add(&mut self, key: &[u8], value: &[u8]) -> usize {
        self.records.push(Record {
            start: below_4_gib(self.bytes.len()),
            key_len: below_4_gib(key.len()),
            value_len: below_4_gib(value.len()),
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.records.len() * RECORD_MEMORY + self.bytes.len()
    }

    fn drain(&mut self, to: &Partitioner, take: &mut Drain<'_>) -> Result<(), TaskError> {
        let (records, bytes) = (std::mem::take(&mut self.records), std::mem::take(&mut self.bytes));
        in_order(
            &records,
            to,
            |record| record.key(&bytes),
            |partition, record| take(partition, record.key(&bytes), record.value(&bytes)),
        )
    }
}

/// Items that are looked up at once: their places are all over memory, and looks that do not wait for
/// each other take hardly longer than one.
const LOOKS: usize = 32;

/// Hands over `items` with their partitions, sorted by partition, then key, then place in `items`.
///
/// What is sorted are numbers, `[partition u32][prefix of the key u64][place u32]`: they compare
/// without a look at the key. Where several share partition and prefix, their keys decide.
fn in_order<'k, T: Copy>(
    items: &[T],
    to: &Partitioner,
    key_of: impl Fn(&T) -> &'k [u8],
    mut take: impl FnMut(u32, T) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    let item = |&entry: &u128| items[entry as u32 as usize];
    let mut order: Vec<u128> = (0_u32..)
        .zip(items)
        .map(|(place, item)| {
            let key = key_of(item);
            u128::from(to.of(key)) << 96 | u128::from(prefix(key)) << 32 | u128::from(place)
        })
        .collect();
    order.sort_unstable();
    for alike in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|alike| alike.len() > 1) {
        alike.sort_by(|a, b| key_of(&item(a)).cmp(key_of(&item(b))));
    }
    let mut looked_up = Vec::with_capacity(LOOKS);
    for entries in order.chunks(LOOKS) {
        looked_up.extend(entries.iter().map(item));
        for (entry, item) in entries.iter().zip(looked_up.drain(..)) {
            take((entry >> 96) as u32, item)?;
        }
    }
    Ok(())
}
