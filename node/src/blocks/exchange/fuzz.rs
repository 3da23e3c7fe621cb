//! The decoders of `/ipdc/blocks/1`, of either side.

use std::time::Duration;

use bytes::Bytes;
use ipdc_jobs::fuzz::Decoder;
use ipdc_jobs::ids::{CODEC_RAW, cid_of};

use super::wire::{self, Answer};
use crate::blocks::fuzz::block_on;

/// Nothing is waited for: what comes is all here.
const SILENCE: Duration = Duration::from_secs(1);

pub(in crate::blocks) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "block_request", decode: requests, seeds: request_seeds },
        Decoder { name: "block_answer", decode: answers, seeds: answer_seeds },
    ]
}

fn requests(mut stream: &[u8]) {
    while let Ok(Some(cids)) = block_on(wire::read_request(&mut stream)) {
        let mut written = Vec::new();
        let _ = block_on(wire::write_request(&mut written, &cids));
        let again = block_on(wire::read_request(&mut written.as_slice())).ok().flatten();
        assert_eq!(again, Some(cids));
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    let cids: Vec<_> = (0..3_u8).map(|n| cid_of(CODEC_RAW, &[n])).collect();
    let mut stream = Vec::new();
    for cids in [&cids[..], &cids[..1], &[]] {
        let _ = block_on(wire::write_request(&mut stream, cids));
    }
    vec![stream]
}

fn answers(mut stream: &[u8]) {
    while block_on(wire::read_answer(&mut stream, SILENCE)).is_ok() {}
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let block = |bytes: &'static [u8]| Answer::Block(Bytes::from_static(bytes));
    let mut stream = Vec::new();
    for answer in [block(b"some bytes"), Answer::NotHeld, Answer::Unable, block(b"")] {
        let _ = block_on(wire::write_answer(&mut stream, &answer));
    }
    vec![stream]
}
