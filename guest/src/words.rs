//! The words of a text, looked for eight bytes at a time.

/// The words of `text`: what lies between ASCII white space, the bytes 9 to 13 and 32.
///
/// ```
/// let words: Vec<_> = ipdc_guest::words(b" to be\r\nor\tnot ").collect();
/// assert_eq!(words, [&b"to"[..], b"be", b"or", b"not"]);
/// ```
#[must_use]
pub fn words(text: &[u8]) -> Words<'_> {
    Words { text, start: 0, at: 0, spaces: spaces_at(text, 0) }
}

/// The iterator that [`words`] gives.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a [u8],
    /// Where the next word begins, or white space before it.
    start: usize,
    /// Where the bytes begin that were looked at last.
    at: usize,
    /// Which of these are white space and not behind us yet, as [`spaces_at`] says.
    spaces: u64,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            while self.spaces == 0 {
                let next = self.at + 8;
                if next >= self.text.len() {
                    let last = &self.text[self.start..];
                    self.start = self.text.len();
                    return Some(last).filter(|last| !last.is_empty());
                }
                self.at = next;
                self.spaces = spaces_at(self.text, next);
            }
            let end = self.at + self.spaces.trailing_zeros() as usize / 8;
            self.spaces &= self.spaces - 1;
            let word = &self.text[self.start..end];
            self.start = end + 1;
            if !word.is_empty() {
                return Some(word);
            }
        }
    }
}

/// Which of the eight bytes from `at` on are white space: for each the top bit of its byte, the first
/// being the lowest. Bytes behind the end are none.
#[inline]
fn spaces_at(text: &[u8], at: usize) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let rest = &text[at..];
    let bytes = u64::from_le_bytes(rest.first_chunk().copied().unwrap_or_else(|| {
        let mut eight = [0; 8];
        eight[..rest.len()].copy_from_slice(rest);
        eight
    }));
    // Sums of seven bits each do not reach the byte above; the top bit tells whether one is at least 128.
    let low = bytes & each(0x7f);
    let from_tab = low + each(128 - 9);
    let behind_return = low + each(128 - 14);
    let not_blank = (low ^ each(b' ')) + each(0x7f);
    ((from_tab & !behind_return) | !not_blank) & !bytes & each(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_splitting_at_each_byte_gives() {
        // Every byte, at every place in eight, next to every kind of neighbour.
        let mut text: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for (n, filler) in [b'a', b' ', b'\t', 8, 14, 31, 33, 0x8d, 0xa0].into_iter().enumerate() {
            text.extend((0..=255).flat_map(|byte| [byte, filler]));
            text.extend([filler].repeat(n));
        }
        for end in 0..text.len() {
            let text = &text[text.len() - end..];
            let is_space = |byte: &u8| matches!(byte, 9..=13 | 32);
            let expected = text.split(is_space).filter(|word| !word.is_empty());
            assert!(words(text).eq(expected), "the last {end} bytes");
        }
    }
}
