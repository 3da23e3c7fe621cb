//! Counts words: what is between ASCII white space.

ipdc_guest::map!(words);

fn words(text: &[u8]) {
    for word in ipdc_guest::words(text) {
        ipdc_guest::emit(word, b"1");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_split_at_any_ascii_white_space() {
        let emitted = ipdc_guest::testing::emitted_by(|| super::words(b"a  b\tc\r\n\x0bd e\n"));
        let words: Vec<_> = emitted.into_iter().map(|(word, _)| word).collect();
        assert_eq!(words, [b"a", b"b", b"c", b"d", b"e"]);
    }
}
