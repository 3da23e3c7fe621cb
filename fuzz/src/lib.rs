//! Every decoder that faces the outside, each with a folder of inputs (`corpus/`), and what it may
//! take to decode one: no panic, soon, without much memory.
//!
//! Two things feed them. The test beside this runs the corpus and changes of it, the same ones each
//! time, wherever tests run. `make fuzz` runs libFuzzer, which looks for inputs that reach new code,
//! for as long as one likes. What either finds becomes a file of the corpus, and stays.

mod heap;
pub mod mutate;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use heap::Heap;
pub use ipdc_jobs::fuzz::Decoder;

/// Bytes that decoding one input may take beside it: two blocks of a run with the longest record
/// there may be.
pub const MEMORY: usize = 64 << 20;

/// How long it may take: a thousand times what it does, for machines that are busy.
pub const TIME: Duration = Duration::from_secs(10);

/// All of them.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    let mut decoders = ipdc_jobs::fuzz::decoders();
    decoders.extend(ipdc_node::fuzz::decoders());
    decoders
}

/// Where the inputs of the decoder `name` lie.
#[must_use]
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// Decodes `input`.
///
/// # Panics
/// When the decoder does, or takes more than it may. The memory is counted where [`Heap`] is the
/// global allocator.
pub fn decode(decoder: &Decoder, input: &[u8]) {
    let (before, started) = (heap::begin(), Instant::now());
    (decoder.decode)(input);
    let (most, took) = (heap::most().saturating_sub(before), started.elapsed());
    assert!(most <= MEMORY + 16 * input.len(), "{}: {most} bytes of memory", decoder.name);
    assert!(took <= TIME, "{}: {took:?}", decoder.name);
}
