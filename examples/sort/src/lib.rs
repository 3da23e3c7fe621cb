//! Each line is a key without a value; the rest is the built-in sort's.

ipdc_guest::map!(lines);

fn lines(text: &[u8]) {
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        ipdc_guest::emit(line.strip_suffix(b"\n").unwrap_or(line), b"");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_line_is_a_key_empty_ones_too() {
        let emitted = ipdc_guest::testing::emitted_by(|| super::lines(b"b\n\na"));
        let keys: Vec<_> = emitted.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [&b"b"[..], b"", b"a"]);
    }
}
