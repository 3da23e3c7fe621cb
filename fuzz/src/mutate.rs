//! Changes of an input that lead decoders astray: other bits, numbers at the edges, pieces that are
//! missing, doubled, or another input's. The same numbers give the same changes.

/// Changes made of one input at most.
const CHANGES: usize = 4;

/// Bytes of an input at most: larger ones teach nothing new, and take their time.
const LONGEST: usize = 1 << 16;

/// Lengths and counts that decoders get wrong.
const NUMBERS: [u64; 8] =
    [0, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0xffff_ffff_ffff_ffff];

/// Words that do in text what those numbers do.
const WORDS: [&[u8]; 12] = [
    b"-1",
    b"18446744073709551615",
    b"1e999",
    b"null",
    b"\"\"",
    b"{",
    b"[",
    b"]}",
    b"\\u0000",
    b"/../",
    b"\xff\xfe",
    b"\0",
];

/// Draws numbers: splitmix64.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound.max(1)
    }
}

/// One of `inputs`, changed.
pub fn mutate(inputs: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = inputs[rng.below(inputs.len())].clone();
    for _ in 0..=rng.below(CHANGES) {
        change(&mut input, inputs, rng);
    }
    input.truncate(LONGEST);
    input
}

fn change(input: &mut Vec<u8>, inputs: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.below(input.len() + 1);
    let end = at + rng.below((input.len() - at).min(32) + 1);
    match rng.below(8) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 if at < input.len() => input[at] = rng.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].repeat(1 + rng.below(3));
            input.splice(at..at, piece);
        }
        4 => {
            let number = NUMBERS[rng.below(NUMBERS.len())];
            let size = [1, 2, 4, 8][rng.below(4)];
            let bytes = if rng.below(2) == 0 {
                number.to_le_bytes()
            } else {
                number.swap_bytes().to_be_bytes()
            };
            let end = (at + size).min(input.len());
            input.splice(at..end, bytes[..size].iter().copied());
        }
        5 => drop(input.splice(at..end, WORDS[rng.below(WORDS.len())].iter().copied())),
        6 => {
            let other = &inputs[rng.below(inputs.len())];
            let from = rng.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => input.truncate(at),
    }
}
