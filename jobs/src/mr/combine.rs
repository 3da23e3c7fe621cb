//! A map task's side of the shuffle: takes the records that `map` emits, joins those of one key
//! where a combiner says so, and leaves a sorted run for each partition.
//!
//! What a combiner can keep as one number a key lives in a hash table; everything else is kept as
//! it came and sorted. Both stay under their share of the memory by writing what they hold to disk
//! as a sorted run; at the end these are merged. The output is the same bytes, spilled or not:
//! built-ins give the same however values are grouped, and the user's combiner is called once a
//! key, with all its values.

use std::cmp::Ordering;
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
use super::run::{Encoder, Source};
use super::shuffle::{Partitioner, RunsWriter};
use crate::record::{self, PREFIX, Records, prefix};

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
    /// How keys are written.
    order: Order,
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
        Combiner { host, partitioner, order, budget, store, spills: Vec::new(), combine }
    }

    /// Takes the records of `frame`.
    pub(super) fn add(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        if self.order.is_plain() {
            return self.add_written(frame);
        }
        let (mut written, mut key_written) = (Vec::new(), Vec::new());
        for record in Records::new(frame) {
            let (key, value) = record?;
            key_written.clear();
            self.order.encode(key, &mut key_written)?;
            record::write(&mut written, &key_written, value);
        }
        self.add_written(&written)
    }

    /// Takes the records of `frame`, whose keys are written as runs have them.
    fn add_written(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        let mut records = Records::new(frame);
        let mut looks = Vec::with_capacity(LOOKS);
        while !records.is_empty() {
            let used = match &mut self.store {
                Store::Numbers(numbers) => numbers.add(&mut records, &mut looks)?,
                Store::Records(kept) => kept.add(&mut records)?,
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
        let spills = merge::narrow(self.spills, self.budget as u64, How::Pass, self.host)?;
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
        let width = encoder.end(&mut |bytes| file.write(bytes))?;
        self.spills.push(Source::File { file: file.finish()?, holders: Vec::new(), width });
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
        let width = encoder.end(&mut |bytes| runs.write(bytes))?;
        while runs.partition() < partition {
            // Those after the first are empty.
            runs.end_run(width)?;
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

/// Items that are looked up at once: their places are all over memory, and looks that do not wait for
/// each other take hardly longer than one.
const LOOKS: usize = 32;

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

/// A key and its number. Keys of up to [`PREFIX`] bytes compare without a look into [`Numbers::keys`]:
/// two slots are in a line of the processor's cache, and a key is anywhere.
#[derive(Clone, Copy)]
struct Slot {
    prefix: u128,
    number: i64,
    start: u32,
    len: u32,
}

impl Slot {
    fn compare(&self, other: &Slot, keys: &[u8]) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| {
            let are_whole = self.len.min(other.len) as usize <= PREFIX;
            if are_whole { self.len.cmp(&other.len) } else { self.key(keys).cmp(other.key(keys)) }
        })
    }

    fn key<'a>(&self, keys: &'a [u8]) -> &'a [u8] {
        &keys[self.start as usize..][..self.len as usize]
    }
}

/// A record whose key is looked up.
struct Look<'a> {
    key: &'a [u8],
    number: i64,
    hash: u64,
    prefix: u128,
    /// Where its slot may lie.
    place: Option<u32>,
}

impl Look<'_> {
    /// Whether `slot` is its key's.
    #[inline]
    fn is_at(&self, slot: &Slot, keys: &[u8]) -> bool {
        slot.prefix == self.prefix
            && slot.len as usize == self.key.len()
            && (self.key.len() <= PREFIX || slot.key(keys) == self.key)
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
            slots: Vec::with_capacity(FIRST_KEYS),
            keys: Vec::new(),
        }
    }

    /// Joins the next few of `records` to what their keys have; the bytes held.
    ///
    /// Each look at the index, and then at a slot, waits for memory. Those of several keys do not
    /// depend on each other, so they are done in rounds and wait together.
    fn add<'r>(
        &mut self,
        records: &mut Records<'r>,
        looks: &mut Vec<Look<'r>>,
    ) -> Result<usize, TaskError> {
        looks.clear();
        while looks.len() < LOOKS
            && let Some((prefix, key, value)) = records.next_prefixed().transpose()?
        {
            let number = self.builtin.lift(key, value)?;
            let hash = hash_of(&self.hash, prefix, key);
            looks.push(Look { key, number, hash, prefix, place: None });
        }
        for look in looks.iter_mut() {
            look.place = self.index.find(look.hash, |_| true).copied();
        }
        for look in looks.iter_mut() {
            look.place = look.place.filter(|&at| look.is_at(&self.slots[at as usize], &self.keys));
        }
        for look in looks.iter() {
            match look.place {
                Some(at) => self.join(at, look)?,
                None => self.join_or_insert(look)?,
            }
        }
        Ok(self.slots.len() * SLOT_MEMORY + self.keys.len())
    }

    fn join(&mut self, at: u32, look: &Look<'_>) -> Result<(), TaskError> {
        let slot = &mut self.slots[at as usize];
        let joined = self.builtin.join(look.key, slot.number.into(), look.number.into())?;
        match i64::try_from(joined) {
            Ok(number) => slot.number = number,
            // The slot stays as it is, and the key goes on in another.
            Err(_) => {
                let next = Slot { number: look.number, ..*slot };
                if let Some(place) = self.index.find_mut(look.hash, |&place| place == at) {
                    *place = below_4_gib(self.slots.len());
                }
                self.slots.push(next);
            }
        }
        Ok(())
    }

    fn join_or_insert(&mut self, look: &Look<'_>) -> Result<(), TaskError> {
        let Numbers { hash: state, index, slots, keys, .. } = self;
        let same = |&at: &u32| look.is_at(&slots[at as usize], keys);
        let hash_at = |&at: &u32| {
            let slot = &slots[at as usize];
            hash_of(state, slot.prefix, slot.key(keys))
        };
        match index.entry(look.hash, same, hash_at) {
            Entry::Occupied(entry) => {
                let at = *entry.get();
                self.join(at, look)
            }
            Entry::Vacant(entry) => {
                entry.insert(below_4_gib(slots.len()));
                let (start, len) = (below_4_gib(keys.len()), below_4_gib(look.key.len()));
                slots.push(Slot { number: look.number, prefix: look.prefix, start, len });
                keys.extend_from_slice(look.key);
                Ok(())
            }
        }
    }

    fn drain(&mut self, to: &Partitioner, take: &mut Drain<'_>) -> Result<(), TaskError> {
        self.index.clear();
        let (slots, keys) = (std::mem::take(&mut self.slots), std::mem::take(&mut self.keys));
        let mut text = Vec::new();
        in_order(
            &slots,
            |slot| (to.of(slot.key(&keys)), slot.prefix),
            |a, b| a.compare(b, &keys),
            |partition, slot| {
                text.clear();
                self.builtin.write(&mut text, slot.number.into());
                // The prefix is at hand; the key lies anywhere.
                match slot.prefix.to_be_bytes().get(..slot.len as usize) {
                    Some(short) => take(partition, short, &text),
                    None => take(partition, slot.key(&keys), &text),
                }
            },
        )
    }
}

/// A length within what is held, as it is kept.
#[inline]
fn below_4_gib(len: usize) -> u32 {
    u32::try_from(len).expect("a budget and a record are far below 4 GiB")
}

/// A hash of `key`, of which `prefix` is the prefix.
#[inline]
fn hash_of(state: &FixedState, prefix: u128, key: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u128(prefix);
    if let Some(rest) = key.get(PREFIX..) {
        hasher.write(rest);
    }
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
    /// Keeps the next of `records`; the bytes held.
    #[inline]
    fn add(&mut self, records: &mut Records<'_>) -> Result<usize, TaskError> {
        if let Some((key, value)) = records.next().transpose()? {
            self.keep(key, value);
        }
        Ok(self.records.len() * RECORD_MEMORY + self.bytes.len())
    }

    #[inline]
    fn keep(&mut self, key: &[u8], value: &[u8]) {
        self.records.push(Record {
            start: below_4_gib(self.bytes.len()),
            key_len: below_4_gib(key.len()),
            value_len: below_4_gib(value.len()),
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    fn drain(&mut self, to: &Partitioner, take: &mut Drain<'_>) -> Result<(), TaskError> {
        let (records, bytes) = (std::mem::take(&mut self.records), std::mem::take(&mut self.bytes));
        in_order(
            &records,
            |record| (to.of(record.key(&bytes)), prefix(record.key(&bytes))),
            |a, b| a.key(&bytes).cmp(b.key(&bytes)),
            |partition, record| take(partition, record.key(&bytes), record.value(&bytes)),
        )
    }
}

/// Hands over `items` with their partitions, sorted by partition, then key, then place in `items`.
/// `start_of` gives an item's partition and its key's prefix, `compare` compares the keys.
///
/// What is sorted are numbers, `[partition u32][half of the prefix u64][place u32]`: they compare
/// without a look at the item. Where several share partition and half a prefix, their keys decide.
fn in_order<T: Copy>(
    items: &[T],
    start_of: impl Fn(&T) -> (u32, u128),
    compare: impl Fn(&T, &T) -> Ordering,
    mut take: impl FnMut(u32, T) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    let item = |&entry: &u128| items[entry as u32 as usize];
    let mut order: Vec<u128> = (0_u32..)
        .zip(items)
        .map(|(place, item)| {
            let (partition, prefix) = start_of(item);
            u128::from(partition) << 96 | prefix >> 64 << 32 | u128::from(place)
        })
        .collect();
    order.sort_unstable();
    for alike in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|alike| alike.len() > 1) {
        alike.sort_by(|a, b| compare(&item(a), &item(b)));
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
