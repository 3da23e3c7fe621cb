//! What is emitted, collected until it is worth a call of the host.

use crate::host;

/// Bytes collected before they are handed over; more where a single record has more.
const ROOM: usize = 64 << 10;

/// The bytes before a record's key.
const HEADER: usize = 8;

/// Records in the form in which the host takes them: `[klen u32][vlen u32][key][value]…`.
pub(crate) struct Frame {
    bytes: Vec<u8>,
    /// How many of `bytes` are records.
    used: usize,
}

impl Frame {
    pub(crate) const fn new() -> Frame {
        Frame { bytes: Vec::new(), used: 0 }
    }

    #[inline]
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let len = HEADER + key.len() + value.len();
        if self.bytes.len() - self.used < len {
            self.make_room(len);
        }
        let record = &mut self.bytes[self.used..][..len];
        let (header, record) = record.split_at_mut(HEADER);
        header.copy_from_slice(&(key.len() as u64 | (value.len() as u64) << 32).to_le_bytes());
        let (to_key, to_value) = record.split_at_mut(key.len());
        copy(key, to_key);
        copy(value, to_value);
        self.used += len;
    }

    pub(crate) fn hand_over(&mut self) {
        if self.used > 0 {
            host::flush(&self.bytes[..self.used]);
            self.used = 0;
        }
    }

    #[cold]
    fn make_room(&mut self, len: usize) {
        self.hand_over();
        if self.bytes.len() < len {
            self.bytes.resize(len.max(ROOM), 0);
        }
    }
}

/// Copies between slices of one length. To copy as many bytes as only the run can tell, wasm has an
/// instruction that the host carries out in a call of its own; a few are there sooner in two pieces
/// that overlap.
#[inline]
fn copy(from: &[u8], to: &mut [u8]) {
    match from.len() {
        0 => {}
        len @ 1..4 => [0, len / 2, len - 1].into_iter().for_each(|at| to[at] = from[at]),
        4..=8 => copy_ends::<4>(from, to),
        9..=16 => copy_ends::<8>(from, to),
        _ => to.copy_from_slice(from),
    }
}

/// Copies the first and the last `N` bytes, of at least so many.
#[inline]
fn copy_ends<const N: usize>(from: &[u8], to: &mut [u8]) {
    if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
        to[..N].copy_from_slice(first);
        let end = to.len();
        to[end - N..].copy_from_slice(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn records_of_every_length_arrive_as_they_were() {
        let bytes: Vec<u8> = (0..100_u8).collect();
        let emitted = testing::emitted_by(|| {
            for len in 0..bytes.len() {
                crate::emit(&bytes[..len], &bytes[len..]);
            }
            crate::emit(&vec![7; 2 * ROOM], b"");
            crate::emit(b"", b"");
        });
        for (len, record) in emitted[..bytes.len()].iter().enumerate() {
            assert_eq!(*record, (bytes[..len].to_vec(), bytes[len..].to_vec()));
        }
        assert_eq!(emitted[bytes.len()..], [(vec![7; 2 * ROOM], vec![]), (vec![], vec![])]);
    }
}
