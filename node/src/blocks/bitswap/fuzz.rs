//! The decoder of what guests say.

use bytes::Bytes;
use ipdc_jobs::fuzz::Decoder;
use ipdc_jobs::ids::{CODEC_RAW, cid_of};

use super::wire::{self, Message, Payload, Want, Wanted};
use crate::blocks::block::Block;
use crate::blocks::fuzz::block_on;

pub(in crate::blocks) fn decoders() -> Vec<Decoder> {
    vec![Decoder { name: "bitswap", decode: messages, seeds }]
}

/// The messages of a stream.
fn messages(mut stream: &[u8]) {
    while let Ok(Some(len)) = block_on(wire::read_length(&mut stream)) {
        let Ok(message) = block_on(wire::read(&mut stream, len)) else { return };
        let again = Message::decode(&message.encode().into());
        assert_eq!(again.ok(), Some(message));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let block = Block::raw(Bytes::from_static(b"leaf"));
    let other = cid_of(CODEC_RAW, b"other");
    let wanted = [
        Wanted::Block { or_dont_have: true },
        Wanted::Have { or_dont_have: false },
        Wanted::Nothing,
    ];
    let asks = Message {
        wants: wanted.map(|what| Want { cid: other, what }).into(),
        full: true,
        ..Message::default()
    };
    let answers = Message {
        payload: vec![Payload::of(&block)],
        presences: vec![(block.cid(), true), (other, false)],
        ..Message::default()
    };
    let mut stream = Vec::new();
    for message in [asks, answers, Message::default()] {
        let _ = block_on(wire::write(&mut stream, &message));
    }
    vec![stream]
}
