//! Text for word counts, and the right answer: the same rules as `../shared/bench`, our own words.
//!
//! The text is made from a seed, so a test or a figure can be had again from two numbers. Words
//! follow Zipf's law, as in a language: few are very frequent, most are rare. Some are not ASCII.

use std::io::{self, Write};

use hashbrown::{HashMap, HashSet};

/// Words in the vocabulary: about what a large novel uses, times ten for the names of a big corpus.
const VOCABULARY: usize = 100_000;

/// The shape of Zipf and Mandelbrot's law, p(rank) = 1/(rank + SHIFT)^EXPONENT, as fitted to English.
const SHIFT: f64 = 2.7;
const EXPONENT: f64 = 1.05;

/// One word in this many is capitalised though it begins no line.
const CAPITALS: u64 = 100;
/// One word in this many has a comma after it.
const COMMAS: u64 = 20;
/// A line has from this many words ...
const WORDS_MIN: u64 = 4;
/// ... to fewer than this many more.
const WORDS_SPREAD: u64 = 13;

/// Bytes handed to the writer at once.
const BUFFER: usize = 1 << 20;

const ONSETS: &[&str] =
    &["b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "br", "st", "tr"];
const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ea", "ou", "y"];
const CODAS: &[&str] = &["", "", "n", "r", "s", "t", "l", "nd"];
/// Syllables that are not ASCII, of two and three bytes a letter.
const FOREIGN: &[&str] =
    &["né", "schö", "år", "ñi", "λο", "γος", "сло", "во", "мир", "言", "葉", "の", "שלו", "कथा"];

/// Numbers from a seed: splitmix64, which is fast and good enough to draw words.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // The upper half: its remainders are fair to one in 2^32 / bound.
        (self.next() >> 32) as usize % bound
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// A word, ready to be written.
struct Word {
    plain: Box<str>,
    capitalised: Box<str>,
}

/// One column of the alias table: `rank` is drawn with this chance, else `alias`.
struct Column {
    /// The chance, as a share of 2^32.
    keep: u64,
    alias: u32,
}

/// An endless text.
pub struct Text {
    rng: Rng,
    words: Vec<Word>,
    /// Walker's alias method: one draw costs one look, however many words there are.
    columns: Vec<Column>,
}

impl Text {
    /// The text of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let words = vocabulary(&mut rng);
        Text { rng, words, columns: alias_table(VOCABULARY) }
    }

    /// The first lines of the text of `seed`, `bytes` and what is left of the last line.
    #[must_use]
    pub fn make(seed: u64, bytes: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes + BUFFER);
        Text::new(seed).write(bytes as u64, &mut text).expect("memory takes every write");
        text
    }

    /// Writes whole lines until there are at least `bytes`; says how many.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn write(&mut self, bytes: u64, out: &mut impl Write) -> io::Result<u64> {
        let mut written = 0;
        let mut buffer = Vec::with_capacity(BUFFER + 4096);
        while written + (buffer.len() as u64) < bytes {
            self.line(&mut buffer);
            if buffer.len() >= BUFFER {
                out.write_all(&buffer)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
        out.write_all(&buffer)?;
        Ok(written + buffer.len() as u64)
    }

    fn line(&mut self, out: &mut Vec<u8>) {
        let count = WORDS_MIN + self.rng.next() % WORDS_SPREAD;
        for place in 0..count {
            let word = self.draw();
            let style = self.rng.next();
            let first = place == 0;
            let last = place == count - 1;
            let word = &self.words[word];
            let capital = first || style.is_multiple_of(CAPITALS);
            out.extend_from_slice(if capital { &word.capitalised } else { &word.plain }.as_bytes());
            if last {
                out.extend_from_slice(b".\n");
            } else if (style >> 32).is_multiple_of(COMMAS) {
                out.extend_from_slice(b", ");
            } else {
                out.push(b' ');
            }
        }
    }

    fn draw(&mut self) -> usize {
        let bits = self.rng.next();
        let rank = (bits >> 32) as usize % self.columns.len();
        let column = &self.columns[rank];
        if bits & 0xFFFF_FFFF < column.keep { rank } else { column.alias as usize }
    }
}

/// Distinct words, the short ones first, as the frequent words of a language are short.
fn vocabulary(rng: &mut Rng) -> Vec<Word> {
    let mut seen = HashSet::new();
    let mut words = Vec::with_capacity(VOCABULARY);
    while words.len() < VOCABULARY {
        let longest = (words.len() + 1).ilog10().max(1) as usize;
        let mut plain = String::new();
        for _ in 0..=rng.below(longest) {
            if rng.below(30) == 0 {
                plain.push_str(rng.of(FOREIGN));
            } else {
                plain.push_str(rng.of(ONSETS));
                plain.push_str(rng.of(VOWELS));
                plain.push_str(rng.of(CODAS));
            }
        }
        if seen.insert(plain.clone()) {
            let mut letters = plain.chars();
            let capitalised =
                letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
            words.push(Word { plain: plain.into(), capitalised });
        }
    }
    words
}

fn alias_table(len: usize) -> Vec<Column> {
    let law: Vec<f64> = (1..=len).map(|rank| (rank as f64 + SHIFT).powf(-EXPONENT)).collect();
    let mean = law.iter().sum::<f64>() / len as f64;
    let mut share: Vec<f64> = law.iter().map(|p| p / mean).collect();
    let mut alias: Vec<usize> = (0..len).collect();
    let (mut poor, mut rich): (Vec<usize>, Vec<usize>) = (0..len).partition(|&i| share[i] < 1.0);
    // Each poor column is filled up to one by a rich one, which may become poor itself.
    while let (Some(small), Some(&large)) = (poor.pop(), rich.last()) {
        alias[small] = large;
        share[large] -= 1.0 - share[small];
        if share[large] < 1.0 {
            rich.pop();
            poor.push(large);
        }
    }
    let column = |(share, alias): (f64, usize)| Column {
        keep: (share.min(1.0) * 4_294_967_296.0) as u64,
        alias: alias as u32,
    };
    share.into_iter().zip(alias).map(column).collect()
}

/// How often each word of `text` occurs, sorted by the words' bytes. Words are what stands between
/// ASCII white space (bytes 9 to 13, and 32).
#[must_use]
pub fn count_words(text: &[u8]) -> Vec<(&[u8], u64)> {
    let mut counts: HashMap<&[u8], u64, foldhash::fast::RandomState> = HashMap::default();
    for word in text.split(|byte| matches!(byte, 9..=13 | 32)) {
        if !word.is_empty() {
            *counts.entry(word).or_insert(0) += 1;
        }
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_unstable();
    sorted
}

/// Writes `word<TAB>count` lines: the exact bytes that a word count of `text` must give.
///
/// # Errors
/// What `out` fails with.
pub fn write_counts(text: &[u8], out: &mut impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(BUFFER, out);
    for (word, count) in count_words(text) {
        out.write_all(word)?;
        writeln!(out, "\t{count}")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_text_and_another_seed_another() {
        assert_eq!(Text::make(7, 100_000), Text::make(7, 100_000));
        assert_ne!(Text::make(7, 1_000), Text::make(8, 1_000));
    }

    #[test]
    fn the_text_is_whole_lines_of_utf8_with_frequent_and_rare_words() {
        let text = Text::make(1, 2_000_000);
        assert!(text.len() >= 2_000_000 && text.ends_with(b".\n"));
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(!text.is_ascii());
        let counts = count_words(text.as_bytes());
        let total: u64 = counts.iter().map(|(_, n)| n).sum();
        let most = counts.iter().map(|(_, n)| *n).max().unwrap_or(0);
        assert!(most > total / 100, "the most frequent word has {most} of {total}");
        assert!(counts.len() > 20_000, "only {} distinct words", counts.len());
    }

    #[test]
    fn words_are_what_stands_between_ascii_white_space() {
        let mut out = Vec::new();
        write_counts(b" b\ta\x0bb\n\ra\xc2\xa0a  b", &mut out).expect("memory");
        assert_eq!(out, b"a\t1\na\xc2\xa0a\t1\nb\t3\n");
    }
}
