//! Packed records, the form in which user code hands over what it emits:
//! `[klen u32][vlen u32][key][value]…`, lengths little-endian, nothing between records.
//!
//! Parsing is checked and copies nothing; bytes from user code are never trusted.

use crate::kind::TaskError;

use super::error::{self, bad_output};

/// The most bytes that a key and its value may have together. Bounds what a merge holds of each
/// of its runs; larger things belong in files of their own.
pub const RECORD_LIMIT: usize = 16 << 20;

/// The bytes before a record's key.
const HEADER: usize = 8;

/// The records of a frame, in order. Ends after the first error.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Records { rest: frame }
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
            return Some(Err(error::too_large(key_len.saturating_add(value_len))));
        }
        if key_len + value_len > body.len() {
            return Some(Err(self.malformed()));
        }
        let (key, body) = body.split_at(key_len);
        let (value, rest) = body.split_at(value_len);
        self.rest = rest;
        Some(Ok((key, value)))
    }
}

/// Appends one record to `frame`.
#[cfg(test)]
pub(super) fn write(frame: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for len in [key.len(), value.len()] {
        let len = u32::try_from(len).expect("a test's record is short");
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
}
