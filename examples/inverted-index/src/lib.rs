//! An index from words to the documents that have them.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader};

use ipdc_guest::Values;

ipdc_guest::map!(index);
ipdc_guest::reduce!(postings);

thread_local! {
    /// Read once a task, from the side file.
    static STOPWORDS: HashSet<String> = stopwords();
}

fn stopwords() -> HashSet<String> {
    let file = ipdc_guest::file("stopwords");
    file.into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok)).collect()
}

/// Emits each word of a document once, with the document's name and how often the word is in it.
fn index(text: &[u8]) {
    STOPWORDS.with(|stopwords| {
        for line in String::from_utf8_lossy(text).lines() {
            let Some((name, words)) = line.split_once('\t') else {
                if !line.is_empty() {
                    ipdc_guest::count("lines without a tab", 1);
                }
                continue;
            };
            ipdc_guest::count("documents", 1);
            let mut counts = BTreeMap::<String, u64>::new();
            for word in words.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
            {
                *counts.entry(word.to_lowercase()).or_default() += 1;
            }
            for (word, count) in counts.iter().filter(|(word, _)| !stopwords.contains(*word)) {
                ipdc_guest::emit(word.as_bytes(), format!("{name}:{count}").as_bytes());
            }
        }
    });
}

fn postings(word: &[u8], documents: Values<'_>) {
    ipdc_guest::emit(word, &documents.collect::<Vec<_>>().join(&b' '));
}

#[cfg(test)]
mod tests {
    use ipdc_guest::testing::{emitted_by, with_given};

    #[test]
    fn a_word_is_counted_within_its_document_and_stopwords_are_not() {
        let stopwords = ("stopwords".to_owned(), b"the\n".to_vec());
        with_given(|given| given.files = [stopwords].into());
        let emitted =
            emitted_by(|| super::index("one\tThe sea, the SÉA\nno tab\ntwo\tsea\n".as_bytes()));
        let expected = [("sea", "one:1"), ("séa", "one:1"), ("sea", "two:1")];
        let expected =
            expected.map(|(word, at)| (word.as_bytes().to_vec(), at.as_bytes().to_vec()));
        assert_eq!(emitted, expected);
        with_given(|given| assert_eq!(given.counters["documents"], 2));
    }
}
