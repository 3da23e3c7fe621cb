//! Packed records, the form in which user code hands over what it emits:
//! `[klen u32][vlen u32][key][value]…`, lengths little-endian, nothing between records.
//!
//! Parsing is checked and copies nothing; bytes from user code are never trusted.

use crate::kind::{RECORD_LIMIT, TaskError};
use crate::message::FailureClass;

/// The bytes before a record's key.
const HEADER: usize = 8;

/// The [`prefix`] of a record's key, its key, its value.
pub(crate) type Prefixed<'a> = (u128, &'a [u8], &'a [u8]);

/// The records of a frame, in order. Ends after the first error.
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn new(frame: &'a [u8]) -> Self {
        Records { rest: frame }
    }

    /// Whether there is nothing more.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next record: the [`prefix`] of its key, its key, its value.
    #[inline]
    pub(crate) fn next_prefixed(&mut self) -> Option<Result<Prefixed<'a>, TaskError>> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((header, body)) = self.rest.split_first_chunk::<HEADER>() else {
            return Some(Err(self.malformed()));
        };
        let [k0, k1, k2, k3, v0, v1, v2, v3] = *header;
        let key_len = u32::from_le_bytes([k0, k1, k2, k3]) as usize;
        let value_len = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
        if key_len.saturating_add(value_len) > RECORD_LIMIT {
            self.rest = &[];
            return Some(Err(too_large(key_len.saturating_add(value_len))));
        }
        if key_len + value_len > body.len() {
            return Some(Err(self.malformed()));
        }
        let prefix = prefix_of_first(key_len, body);
        let (key, body) = body.split_at(key_len);
        let (value, rest) = body.split_at(value_len);
        self.rest = rest;
        Some(Ok((prefix, key, value)))
    }

    fn malformed(&mut self) -> TaskError {
        let rest = std::mem::take(&mut self.rest);
        bad_output(format!(
            "it ends in {} bytes that are no whole record of [klen u32][vlen u32][key][value]",
            rest.len()
        ))
    }
}

impl<'a> Iterator for Records<'a> {
    /// Key and value.
    type Item = Result<(&'a [u8], &'a [u8]), TaskError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_prefixed()?.map(|(_, key, value)| (key, value)))
    }
}

/// The bytes of a key that its [`prefix`] has: all, of most words.
pub(crate) const PREFIX: usize = size_of::<u128>();

/// The first 16 bytes of a key as a number, so that keys that differ there compare at once; zeros
/// where there are none.
#[inline]
pub(crate) fn prefix(key: &[u8]) -> u128 {
    let second = key.get(8..).map_or(0, first_eight);
    u128::from(first_eight(key)) << 64 | u128::from(second)
}

#[inline]
fn first_eight(key: &[u8]) -> u64 {
    // Fewer are read in pieces that overlap: their number is not known when this is compiled, and a
    // copy of such a length costs more than all the rest.
    match key.len() {
        0 => 0,
        1..4 => [0, key.len() / 2, key.len() - 1]
            .into_iter()
            .fold(0, |prefix, at| prefix | u64::from(key[at]) << (56 - 8 * at)),
        4..8 => {
            let (first, last) = (key.first_chunk::<4>(), key.last_chunk::<4>());
            let [first, last] =
                [first, last].map(|four| u32::from_be_bytes(*four.expect("there are four bytes")));
            u64::from(first) << 32 | u64::from(last) << (8 * (8 - key.len()))
        }
        _ => u64::from_be_bytes(*key.first_chunk().expect("there are eight bytes")),
    }
}

/// The [`prefix`] of the first `len` of `bytes`. What comes after them mostly makes 16 of them, and
/// then no branch depends on a length.
#[inline]
pub(crate) fn prefix_of_first(len: usize, bytes: &[u8]) -> u128 {
    match bytes.first_chunk() {
        Some(all) => {
            let others = u128::BITS - 8 * len.min(PREFIX) as u32;
            u128::from_be_bytes(*all) & u128::MAX.checked_shl(others).unwrap_or(0)
        }
        None => prefix(&bytes[..len]),
    }
}

/// What the user's code emitted is not packed records.
pub(crate) fn bad_output(what: impl std::fmt::Display) -> TaskError {
    let message = format!("the guest's output is malformed: {what}");
    TaskError::Failed { class: FailureClass::Guest, code: "IPDC-5350", message }
}

/// A record, or the value that was made of a key's, is over the limit.
pub(crate) fn too_large(len: usize) -> TaskError {
    let message = format!("a record has {len} bytes; at most {RECORD_LIMIT} are allowed");
    TaskError::Failed { class: FailureClass::Guest, code: "IPDC-5351", message }
}

/// Appends a record as a line, `key<TAB>value`. Where key or value is empty the other stands alone, without a
/// tab: so what only sorts or filters lines gives lines. Nothing is escaped.
#[inline]
pub(crate) fn write_line(lines: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    lines.extend_from_slice(key);
    if !key.is_empty() && !value.is_empty() {
        lines.push(b'\t');
    }
    lines.extend_from_slice(value);
    lines.push(b'\n');
}

/// Appends one record to `frame`.
pub(crate) fn write(frame: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for len in [key.len(), value.len()] {
        let len = u32::try_from(len).expect("a record is far below 4 GiB");
        frame.extend_from_slice(&len.to_le_bytes());
    }
    frame.extend_from_slice(key);
    frame.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        let mut frame = Vec::new();
        write(&mut frame, b"key", b"value");
        write(&mut frame, b"", b"");
        let read: Result<Vec<_>, _> = Records::new(&frame).collect();
        assert_eq!(read.ok(), Some(vec![(&b"key"[..], &b"value"[..]), (b"", b"")]));
    }

    #[test]
    fn a_cut_frame_is_refused_wherever_it_is_cut() {
        let mut frame = Vec::new();
        write(&mut frame, b"key", b"value");
        for cut in 1..frame.len() {
            let read: Result<Vec<_>, _> = Records::new(&frame[..cut]).collect();
            assert!(read.is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_near_the_top_of_u32_are_refused() {
        for lens in [[u32::MAX, 1], [1, u32::MAX], [u32::MAX, u32::MAX]] {
            let frame = lens.map(u32::to_le_bytes).concat();
            assert!(Records::new(&frame).next().is_some_and(|record| record.is_err()));
        }
    }

    #[test]
    fn a_prefix_is_the_first_sixteen_bytes_and_zeros_where_there_are_none() {
        let key: Vec<u8> = (0..20).map(|n| if n % 2 == 0 { n } else { 0x80 | n }).collect();
        for len in 0..=key.len() {
            let mut padded = [0; PREFIX];
            let there = len.min(PREFIX);
            padded[..there].copy_from_slice(&key[..there]);
            let expected = u128::from_be_bytes(padded);
            assert_eq!(prefix(&key[..len]), expected, "{len} bytes");
            for all in len..=key.len() {
                assert_eq!(prefix_of_first(len, &key[..all]), expected, "{len} of {all} bytes");
            }
        }
    }
}
