//! Cuts a file into chunks by its content, so that an edit or an append changes only the chunks it
//! touches, whoever cuts and however the bytes arrive.
//!
//! The cuts are those of FastCDC with normalised chunking and skipping of the minimum (Xia et al.,
//! USENIX ATC 2016; IEEE TPDS 31, 2020), each moved to just after the end of the record in which it
//! falls ([`records`]). A hash of the last 64 bytes rolls over the file; where it is small enough,
//! there is a cut. *Invariant*: where a chunk ends depends on its own bytes alone, and each begins
//! a record. So after a difference the cuts fall in step again, and a chunk can be read by itself.
//!
//! It owns the constants of the cuts. Changing any, or the hash, changes the names of everybody's
//! chunks: then [`VERSION`] changes too.

use crate::ids::Cid;

mod records;

pub use records::{FIXED_LIMIT, RecordKind, Scanner};

/// The version of the cuts, for whoever remembers some.
pub const VERSION: u32 = 1;

/// No chunk but the last of a file is shorter. Bytes up to here are not even looked at.
pub const MIN: u64 = 2 << 20;

/// Where cuts begin to be likely. With the two thresholds below, chunks have 4 MiB on average: large
/// enough that starting a task costs little against running it, small enough that a phone holds one
/// and that a hundred megabytes keep ten workers busy.
const NORMAL: u64 = 3 << 20;

/// Where a chunk ends at the latest, but for the rest of its last record. One in 150 gets here.
pub const MAX: u64 = 8 << 20;

/// A hash below this is a cut before [`NORMAL`]: one byte in 2^24.
const UNLIKELY: u64 = 1 << (64 - 24);
/// A hash below this is a cut after [`NORMAL`]: one byte in 2^20.
const LIKELY: u64 = 1 << (64 - 20);

/// A chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes.
    pub len: u64,
    /// The CID that its bytes have as a file of their own.
    pub name: Cid,
}

/// The chunks of one file, in order. They join to the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The chunks.
    pub chunks: Vec<Chunk>,
    /// Whether each chunk's name is a subtree of the file's, so that whoever has the file's blocks
    /// has that file too.
    pub subtrees: bool,
}

/// Finds the cuts of one file.
#[derive(Debug, Clone)]
pub struct Chunker {
    scanner: Scanner,
    /// Bytes of the chunk so far.
    len: u64,
    hash: u64,
    /// The cut was found; what is looked for is the end of its record.
    found: bool,
}

impl Chunker {
    /// One that is at a file's beginning.
    #[must_use]
    pub fn new(records: RecordKind) -> Self {
        Chunker { scanner: Scanner::new(records), len: 0, hash: 0, found: false }
    }

    /// Takes the file's next bytes, up to and including the last of the chunk if that is among
    /// them: how many these are. None, when the chunk goes on after all of `bytes`.
    pub fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut passed = 0;
        if !self.found {
            let Some(point) = self.find(bytes) else {
                self.scanner.pass(bytes);
                self.len += bytes.len() as u64;
                return None;
            };
            self.found = true;
            // The last byte before the cut may itself end a record.
            passed = point - 1;
            self.scanner.pass(&bytes[..passed]);
        }
        let end = passed + self.scanner.next_end(&bytes[passed..])?;
        (self.len, self.hash, self.found) = (0, 0, false);
        Some(end)
    }

    /// How many of `bytes` are before the cut, one at least.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        // How many of `bytes` lie before this place in the chunk.
        let until = |place: u64| {
            let left = place.saturating_sub(self.len);
            usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
        };
        let (min, normal, max) = (until(MIN), until(NORMAL), until(MAX));
        let reaches_max = self.len + bytes.len() as u64 >= MAX;
        roll(&mut self.hash, &bytes[min..normal], UNLIKELY)
            .map(|at| min + at)
            .or_else(|| roll(&mut self.hash, &bytes[normal..max], LIKELY).map(|at| normal + at))
            .or(reaches_max.then_some(max))
    }
}

/// Rolls `hash` over `bytes` until it is below `threshold`: how many bytes that took.
fn roll(hash: &mut u64, bytes: &[u8], threshold: u64) -> Option<usize> {
    let mut rolled = *hash;
    let at = bytes.iter().position(|&byte| {
        rolled = (rolled << 1).wrapping_add(GEAR[usize::from(byte)]);
        rolled < threshold
    });
    *hash = rolled;
    at.map(|at| at + 1)
}

/// A random number for each byte.
static GEAR: [u64; 256] = gear();

/// The numbers of splitmix64 (Steele et al., 2014) from a fixed seed.
const fn gear() -> [u64; 256] {
    let mut gear = [0; 256];
    let mut state: u64 = u64::from_be_bytes(*b"ipdc cut");
    let mut n = 0;
    while n < gear.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        gear[n] = z ^ (z >> 31);
        n += 1;
    }
    gear
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
