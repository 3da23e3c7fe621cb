//! libFuzzer on the decoder that `IPDC_FUZZ` names; `make fuzz` runs it.

#![no_main]

use std::sync::LazyLock;

use ipdc_fuzz::{Decoder, Heap};

#[global_allocator]
static HEAP: Heap = Heap;

static DECODER: LazyLock<Decoder> = LazyLock::new(|| {
    let name = std::env::var("IPDC_FUZZ").unwrap_or_default();
    let mut decoders = ipdc_fuzz::decoders();
    match decoders.iter().position(|decoder| decoder.name == name) {
        Some(at) => decoders.swap_remove(at),
        None => {
            let names: Vec<_> = decoders.iter().map(|decoder| decoder.name).collect();
            panic!("IPDC_FUZZ names a decoder: one of {}", names.join(", "))
        }
    }
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| ipdc_fuzz::decode(&DECODER, input));
