//! The decoder of files that somebody says are CARs.

use ipdc_jobs::fuzz::Decoder;

use super::{Block, Header, Reader, framed};
use crate::blocks::fuzz::block_on;

pub(in crate::blocks) fn decoders() -> Vec<Decoder> {
    vec![Decoder { name: "car", decode: car, seeds }]
}

fn car(bytes: &[u8]) {
    block_on(async {
        let mut from = Reader { from: bytes, at: 0, end: u64::MAX };
        let Ok(header) = from.header().await else { return };
        if header.version == 2 && from.unwrap_v2().await.is_err() {
            return;
        }
        while let Ok(Some(section)) = from.section().await {
            let _ = Block::check(section.cid, section.bytes);
        }
    });
}

fn seeds() -> Vec<Vec<u8>> {
    let block = Block::raw(b"leaf".as_slice().into());
    let header = Header { roots: vec![block.cid()], version: 1 };
    let header = serde_ipld_dagcbor::to_vec(&header).unwrap_or_default();
    let first = framed(&[&header]);
    let whole = [&first[..], &framed(&[&block.cid().to_bytes(), block.bytes()])].concat();
    // The header of version 2 wraps the first: eleven bytes, and forty of where it lies.
    let pragma = serde_ipld_dagcbor::to_vec(&serde_json::json!({ "version": 2 }));
    let mut second = framed(&[&pragma.unwrap_or_default()]).to_vec();
    second.extend([0; 16]);
    for number in [51, whole.len() as u64, 0] {
        second.extend(number.to_le_bytes());
    }
    second.extend(&whole);
    vec![whole, second]
}
