//! Merges sorted runs into one stream of records, in key order; records of one key in the order of
//! their runs, and within a run as they are. Runs are given in (split, offset) order, so that is
//! the order in which values reach a reducer.

use zstd::bulk::Decompressor;

use crate::kind::{Host, Lasting, TaskError};

use super::error;
use super::group::{Grouper, How};
use super::run::{Encoder, Reader, Source, reader_memory};
use crate::record::PREFIX;

/// The fewest runs merged at once, whatever the memory: with fewer, passes multiply.
const NARROWEST: usize = 4;

/// The fewest where a reader may hold megabytes, for its records are long: it takes two to merge.
const NARROWEST_OF_WIDE: usize = 2;

/// The most runs merged at once: beyond, a wider merge saves hardly a pass.
const WIDEST: usize = 1024;

/// A merge under way: a tournament of the runs' next records, whose losers are remembered. After
/// the winner has gone on, it plays only those that lost on its way: one comparison a round.
pub(super) struct Merge {
    readers: Vec<Reader>,
    /// What is compared of each reader first, most games without a look at the reader.
    heads: Vec<Head>,
    /// The winner, then the loser of each game; that of game `n` goes on to game `n / 2`.
    games: Vec<usize>,
    zstd: Decompressor<'static>,
}

/// Where a reader stands. Keys of up to 16 bytes are in it whole, so it puts them in order, and the readers
/// of equal ones.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Head {
    /// The next key's [`prefix`](crate::record::prefix).
    start: u128,
    /// `[length of that key, at most LONG, u32][the reader u32]`.
    rest: u64,
}

impl Head {
    /// A head behind all others.
    const NO_MORE: Head = Head { start: u128::MAX, rest: u64::MAX };

    /// The most that is told of a key's length: more than is in the head.
    const LONG: usize = PREFIX + 1;

    fn new(reader: usize, (start, len): (u128, usize)) -> Head {
        Head { start, rest: (len.min(Self::LONG) as u64) << 32 | reader as u64 }
    }

    /// Whether the heads of two readers say nothing of which key comes first.
    #[inline]
    fn is_tie(self, other: Head) -> bool {
        let len = |head: Head| (head.rest >> 32) as usize;
        self.start == other.start && len(self) == Self::LONG && len(other) == Self::LONG
    }
}

impl Merge {
    /// A merge of the runs at `sources`, in their order.
    pub(super) fn open(sources: &[Source], host: &dyn Host) -> Result<Self, TaskError> {
        let mut zstd = Decompressor::new().map_err(|error| error::compression(&error))?;
        let mut readers = Vec::with_capacity(sources.len());
        for source in sources {
            let mut reader = Reader::open(source, host)?;
            if reader.advance(&mut zstd)? {
                readers.push(reader);
            }
        }
        let heads =
            readers.iter().enumerate().map(|(n, reader)| Head::new(n, reader.start())).collect();
        let mut merge = Merge { games: vec![0; readers.len()], heads, readers, zstd };
        merge.play_all();
        Ok(merge)
    }

    /// The current record; none at the end.
    #[inline]
    pub(super) fn record(&self) -> Option<(&[u8], &[u8])> {
        let winner = *self.games.first()?;
        (self.heads[winner] != Head::NO_MORE).then(|| self.readers[winner].record())
    }

    /// Goes to the next record.
    pub(super) fn advance(&mut self) -> Result<(), TaskError> {
        let Some(&(mut winner)) = self.games.first() else { return Ok(()) };
        let reader = &mut self.readers[winner];
        let has_more = self.heads[winner] != Head::NO_MORE && reader.advance(&mut self.zstd)?;
        self.heads[winner] =
            if has_more { Head::new(winner, reader.start()) } else { Head::NO_MORE };
        let mut game = (winner + self.readers.len()) / 2;
        while game > 0 {
            let loser = self.games[game];
            if self.before(loser, winner) {
                self.games[game] = winner;
                winner = loser;
            }
            game /= 2;
        }
        self.games[0] = winner;
        Ok(())
    }

    /// Bytes that its readers hold of their runs' blocks and keys.
    #[cfg(test)]
    fn held(&self) -> u64 {
        self.readers.iter().map(Reader::held).sum()
    }

    /// Packed bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.readers.iter().map(Reader::read).sum()
    }

    /// The first round of every game.
    fn play_all(&mut self) {
        let many = self.readers.len();
        // Players come from below: reader `n` as number `many + n`.
        let mut winners: Vec<usize> = (0..many).chain(0..many).collect();
        for game in (1..many).rev() {
            let (a, b) = (winners[2 * game], winners[2 * game + 1]);
            let (winner, loser) = if self.before(b, a) { (b, a) } else { (a, b) };
            winners[game] = winner;
            self.games[game] = loser;
        }
        if let Some(first) = self.games.first_mut() {
            *first = winners[1.min(many - 1)];
        }
    }

    /// Whether the next record of reader `a` comes before that of `b`.
    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        let (left, right) = (self.heads[a], self.heads[b]);
        if !left.is_tie(right) {
            return left < right;
        }
        let key = |reader: usize| self.readers[reader].record().0;
        key(a).cmp(key(b)).then(a.cmp(&b)).is_lt()
    }
}

/// Merges neighbours among `sources` into longer runs, on disk, until all that are left can be
/// merged in `memory` bytes, and no more of them than that takes. What becomes of a key's values on
/// the way, `how` says.
pub(super) fn narrow(
    mut sources: Vec<Source>,
    memory: u64,
    how: How,
    host: &dyn Host,
) -> Result<Vec<Source>, TaskError> {
    let mut grouper = Grouper::new(how);
    let mut encoder = Encoder::new()?;
    let mut at = 0;
    while !fits(&sources, memory) {
        // Each merge puts one run in the place of several; round and round, so that no run is merged
        // again before the others were.
        if at + 1 >= sources.len() {
            at = 0;
        }
        let end = at + too_many(&sources, at, memory);
        let mut file = host.create(Lasting::Scratch)?;
        let mut write =
            |key: &[u8], value: &[u8]| encoder.add(key, value, &mut |bytes| file.write(bytes));
        let mut merge = Merge::open(&sources[at..end], host)?;
        while let Some((key, value)) = merge.record() {
            grouper.add(key, value, &mut write)?;
            merge.advance()?;
        }
        grouper.end(&mut write)?;
        let width = encoder.end(&mut |bytes| file.write(bytes))?;
        let merged = Source::File { file: file.finish()?, holders: Vec::new(), width };
        sources.splice(at..end, [merged]);
        at += 1;
    }
    Ok(sources)
}

/// Whether `sources` can be merged in `memory` bytes.
fn fits(sources: &[Source], memory: u64) -> bool {
    let needed: u64 = sources.iter().map(Source::memory).sum();
    sources.len() <= narrowest(sources) || (sources.len() <= WIDEST && needed <= memory)
}

fn narrowest(sources: &[Source]) -> usize {
    let is_wide = sources.iter().any(|source| source.width() > 0);
    if is_wide { NARROWEST_OF_WIDE } else { NARROWEST }
}

/// How many of `sources` from `at` on to put into one: two at least, and from there as many as it
/// takes for the rest to fit, as far as they can be merged in `memory` themselves.
fn too_many(sources: &[Source], at: usize, memory: u64) -> usize {
    let mut needed: u64 = sources.iter().map(Source::memory).sum();
    let narrowest = narrowest(sources);
    let (mut len, mut width, mut own) = (0, 0, 0);
    for (many, source) in sources[at..].iter().enumerate() {
        let left = sources.len() - many + 1;
        let enough = needed + reader_memory(len, width) <= memory && left <= WIDEST;
        let full = many >= narrowest && own + source.memory() > memory;
        if many >= 2 && (enough || full || many == WIDEST) {
            return many;
        }
        len += source.len();
        width = width.max(source.width());
        own += source.memory();
        needed -= source.memory();
    }
    sources.len() - at
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::super::run::tests::pack;
    use super::*;
    use crate::fake::World;

    fn run_of(records: &[(Vec<u8>, Vec<u8>)]) -> Source {
        Source::Inline(pack(records).into())
    }

    fn merged(sources: &[Source], host: &World) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut merge = Merge::open(sources, host).unwrap();
        let mut records = Vec::new();
        while let Some((key, value)) = merge.record() {
            records.push((key.to_vec(), value.to_vec()));
            merge.advance().unwrap();
        }
        merge.advance().unwrap();
        assert!(merge.record().is_none());
        records
    }

    proptest! {
        #[test]
        fn a_merge_is_a_stable_sort_of_all_runs_however_narrow(
            keys in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0_u8..3, 0..12), 0..20), 0..40),
            memory in prop_oneof![Just(0_u64), 0..3_000_000_u64],
        ) {
            let host = World::new();
            let mut all = Vec::new();
            let mut sources = Vec::new();
            for (run, mut keys) in keys.into_iter().enumerate() {
                keys.sort();
                let value = |n: usize| format!("{run} {n}").into_bytes();
                let records: Vec<_> =
                    keys.into_iter().enumerate().map(|(n, key)| (key, value(n))).collect();
                sources.push(run_of(&records));
                all.extend(records);
            }
            all.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(&merged(&sources, &host), &all);
            let sources = narrow(sources, memory, How::Pass, &host).unwrap();
            prop_assert!(fits(&sources, memory));
            prop_assert_eq!(&merged(&sources, &host), &all);
        }
    }

    #[test]
    fn long_records_are_merged_in_the_memory_there_is_and_give_the_same() {
        const MIB: usize = 1 << 20;
        // Long values, long keys, and a run whose one long record comes last.
        let records = |run: u8| -> Vec<(Vec<u8>, Vec<u8>)> {
            let long = |n: u8| [vec![n; 9], vec![run; MIB]].concat();
            match run % 3 {
                0 => (0..3).map(|n| (vec![n; 9], long(n))).collect(),
                1 => (0..3).map(|n| (long(n), vec![run])).collect(),
                _ => {
                    (0..200).map(|n| (vec![n], if n < 199 { vec![run] } else { long(n) })).collect()
                }
            }
        };
        let host = World::new();
        let in_file = |run: u8| {
            let mut packed = Vec::new();
            let mut encoder = Encoder::new().unwrap();
            let mut out = |bytes: &[u8]| {
                packed.extend_from_slice(bytes);
                Ok(())
            };
            for (key, value) in records(run) {
                encoder.add(&key, &value, &mut out).unwrap();
            }
            let width = encoder.end(&mut out).unwrap();
            Source::File { file: host.put(&packed), holders: Vec::new(), width }
        };
        let sources: Vec<Source> = (0..15).map(in_file).collect();
        let all = merged(&sources, &host);
        for memory in [6 * MIB as u64, 12 * MIB as u64] {
            let sources = narrow(sources.clone(), memory, How::Pass, &host).unwrap();
            assert!(sources.len() > 1);
            let mut merge = Merge::open(&sources, &host).unwrap();
            let mut most = 0;
            for (key, value) in &all {
                assert!(merge.record() == Some((key, value)));
                most = most.max(merge.held());
                merge.advance().unwrap();
            }
            assert!(merge.record().is_none());
            assert!(most > 2 * MIB as u64 && most <= memory, "{most} of {memory}");
        }
    }

    #[test]
    fn narrowing_merges_no_more_than_it_must() {
        let host = World::new();
        let sources = (0..20_u8).map(|n| run_of(&[(vec![n], vec![])])).collect();
        let left = narrow(sources, 18 * reader_memory(100, 0), How::Pass, &host).unwrap();
        let in_files = left.iter().filter(|source| matches!(source, Source::File { .. })).count();
        assert_eq!((left.len(), in_files), (18, 1));
    }
}
