//! Finds lines by a regular expression.

use std::cell::OnceCell;

use regex::bytes::Regex;

ipdc_guest::map!(find);

/// What the job's params say.
struct Wanted {
    pattern: Regex,
    invert: bool,
}

impl Wanted {
    fn read() -> Wanted {
        let pattern = ipdc_guest::param("pattern").expect("the param `pattern` is set");
        let invert = ipdc_guest::param("invert").is_some_and(|invert| invert == "true");
        match Regex::new(&pattern) {
            Ok(pattern) => Wanted { pattern, invert },
            Err(error) => {
                ipdc_guest::log(&format!("the param `pattern` is no regular expression: {error}"));
                panic!("no pattern");
            }
        }
    }
}

thread_local! {
    /// Read and compiled once a task.
    static WANTED: OnceCell<Wanted> = const { OnceCell::new() };
}

fn find(text: &[u8]) {
    WANTED.with(|wanted| {
        let Wanted { pattern, invert } = wanted.get_or_init(Wanted::read);
        let (mut lines, mut found) = (0, 0);
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            lines += 1;
            if pattern.is_match(line) != *invert {
                found += 1;
                // Without a key, the line is the whole of what is written.
                ipdc_guest::emit(b"", line);
            }
        }
        ipdc_guest::count("lines", lines);
        ipdc_guest::count("found", found);
    });
}

#[cfg(test)]
mod tests {
    use ipdc_guest::testing::{emitted_by, with_given};

    #[test]
    fn only_lines_that_match_are_emitted_in_order() {
        with_given(|given| given.params = br#"{"pattern":"^b|x$"}"#.to_vec());
        let emitted = emitted_by(|| super::find(b"abc\nbcd\n\nzx\nb"));
        let lines: Vec<_> = emitted.into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [&b"bcd"[..], b"zx", b"b"]);
        with_given(|given| assert_eq!((given.counters["lines"], given.counters["found"]), (5, 3)));
    }
}
