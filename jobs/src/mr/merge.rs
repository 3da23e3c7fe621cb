//! Merges sorted runs into one stream of records, in key order; records of one key in the order of
//! their runs, and within a run as they are. Runs are given in (split, offset) order, so that is
//! the order in which values reach a reducer.

use std::cmp::Ordering;

use zstd::bulk::Decompressor;

use crate::kind::{Host, Lasting, TaskError};

use super::error;
use super::group::{Grouper, How};
use super::run::{Encoder, READER_MEMORY, Reader, Source};

/// The fewest runs merged at once, whatever the memory: with fewer, passes multiply.
const NARROWEST: u64 = 4;

/// The most runs merged at once: beyond, a wider merge saves hardly a pass.
const WIDEST: u64 = 512;

/// How many runs to merge at once in `memory` bytes.
pub(super) fn width(memory: u64) -> usize {
    (memory / READER_MEMORY).clamp(NARROWEST, WIDEST) as usize
}

/// A merge under way.
pub(super) struct Merge {
    readers: Vec<Reader>,
    /// Indices of the readers that have a record, as a binary heap with the least on top.
    heap: Vec<usize>,
    zstd: Decompressor<'static>,
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
        let mut merge = Merge { heap: (0..readers.len()).collect(), readers, zstd };
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(at);
        }
        Ok(merge)
    }

    /// The current record; none at the end.
    #[inline]
    pub(super) fn record(&self) -> Option<(&[u8], &[u8])> {
        self.heap.first().map(|&least| self.readers[least].record())
    }

    /// Goes to the next record.
    pub(super) fn advance(&mut self) -> Result<(), TaskError> {
        if let Some(&least) = self.heap.first() {
            if !self.readers[least].advance(&mut self.zstd)? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        Ok(())
    }

    /// Packed bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.readers.iter().map(Reader::read).sum()
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.before(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    /// Whether the record at place `a` of the heap comes before the one at `b`.
    fn before(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.heap[a], self.heap[b]);
        match self.readers[a].compare_keys(&self.readers[b]) {
            Ordering::Less => true,
            Ordering::Equal => a < b,
            Ordering::Greater => false,
        }
    }
}

/// Merges neighbours among `sources` into longer runs, on disk, until at most `width` are left.
/// What becomes of a key's values on the way, `how` says.
pub(super) fn narrow(
    mut sources: Vec<Source>,
    width: usize,
    how: How,
    host: &dyn Host,
) -> Result<Vec<Source>, TaskError> {
    let mut grouper = Grouper::new(how);
    let mut encoder = Encoder::new()?;
    while sources.len() > width {
        let mut longer = Vec::with_capacity(sources.len().div_ceil(width));
        for neighbours in sources.chunks(width) {
            let mut file = host.create(Lasting::Scratch)?;
            let mut write =
                |key: &[u8], value: &[u8]| encoder.add(key, value, &mut |bytes| file.write(bytes));
            let mut merge = Merge::open(neighbours, host)?;
            while let Some((key, value)) = merge.record() {
                grouper.add(key, value, &mut write)?;
                merge.advance()?;
            }
            grouper.end(&mut write)?;
            encoder.end(&mut |bytes| file.write(bytes))?;
            longer.push(Source::File(file.finish()?, Vec::new()));
        }
        sources = longer;
    }
    Ok(sources)
}
