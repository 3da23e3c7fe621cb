//! Lines to sort: all of one length, no two the same, in no order, and the same for each seed.

use std::io::{self, BufWriter, Write};

/// Bytes of a line, its end among them.
pub(crate) const LINE: usize = 100;

/// What a line is made of: 64 characters, six bits each.
const LETTERS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Letters that hold 64 bits.
const WORD: usize = 11;

/// Writes so many lines of `seed`.
///
/// # Errors
/// When `out` fails.
pub(crate) fn write(seed: u64, lines: u64, out: impl Write) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut line = [b'\n'; LINE];
    for number in 0..lines {
        // A mixed number is as distinct as the number: what follows it need not be.
        let mut bits = mix(number ^ mix(seed));
        for word in line[..LINE - 1].chunks_mut(WORD) {
            let mut left = bits;
            for letter in word {
                *letter = LETTERS[(left & 63) as usize];
                left >>= 6;
            }
            bits = mix(bits);
        }
        out.write_all(&line)?;
    }
    out.flush()
}

/// splitmix64's step: each 64 bits become other 64 bits, no two the same.
fn mix(bits: u64) -> u64 {
    let z = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn lines(seed: u64) -> Vec<Vec<u8>> {
        let mut text = Vec::new();
        write(seed, 10_000, &mut text).expect("memory takes every write");
        text.chunks(LINE).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn lines_are_of_one_length_distinct_and_out_of_order() {
        let lines = lines(1);
        assert!(lines.iter().all(|line| line.len() == LINE && line.ends_with(b"\n")));
        assert!(lines.iter().all(|line| !line[..LINE - 1].contains(&b'\n')));
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len());
        assert!(!lines.is_sorted());
    }

    #[test]
    fn a_seed_names_its_lines() {
        assert_eq!(lines(1), lines(1));
        assert_ne!(lines(1), lines(2));
    }
}
