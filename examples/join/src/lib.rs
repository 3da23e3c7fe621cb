//! An inner join of two CSV files, `left` and `right`, by a column of each.

use ipdc_guest::Values;

ipdc_guest::map!(rows);
ipdc_guest::reduce!(join);

/// Put before the rest of a line, for `reduce` to know whose it is.
const LEFT: u8 = b'l';
const RIGHT: u8 = b'r';

/// The side of this task's records, and its column, from 0.
struct Side {
    mark: u8,
    column: usize,
}

impl Side {
    fn read() -> Side {
        let input = ipdc_guest::input();
        let mark = match input.as_str() {
            "left" => LEFT,
            "right" => RIGHT,
            other => panic!("the inputs are `left` and `right`, not `{other}`"),
        };
        let column = ipdc_guest::param(&input).and_then(|column| column.parse::<usize>().ok());
        let column = column.and_then(|column| column.checked_sub(1));
        Side { mark, column: column.expect("the params say the columns, from 1") }
    }
}

thread_local! {
    static SIDE: Side = Side::read();
}

fn rows(text: &[u8]) {
    SIDE.with(|side| {
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let mut fields = fields(line);
            if side.column >= fields.len() {
                ipdc_guest::count("lines without the column", 1);
                continue;
            }
            let key = plain(fields.remove(side.column));
            ipdc_guest::emit(&key, &[&[side.mark], &*fields.join(&b',')].concat());
        }
    });
}

/// All of `left` come before all of `right`: inputs are in the order of their names.
fn join(key: &[u8], rows: Values<'_>) {
    let mut left = Vec::new();
    let mut right = 0_u64;
    for row in rows {
        match row.split_first() {
            Some((&LEFT, rest)) => left.push(rest),
            Some((&RIGHT, rest)) => {
                right += 1;
                for row in &left {
                    let fields = [&quoted(key)[..], row, rest];
                    let fields: Vec<_> = fields.into_iter().filter(|f| !f.is_empty()).collect();
                    ipdc_guest::emit(b"", &fields.join(&b','));
                }
            }
            _ => {}
        }
    }
    ipdc_guest::count("keys in left alone", u64::from(right == 0));
    ipdc_guest::count("keys in right alone", u64::from(left.is_empty()));
}

/// The fields of a line as they stand, quotes and all.
fn fields(line: &[u8]) -> Vec<&[u8]> {
    let mut in_quotes = false;
    line.split(|&byte| {
        in_quotes ^= byte == b'"';
        byte == b',' && !in_quotes
    })
    .collect()
}

/// A field without its quotes.
fn plain(field: &[u8]) -> Vec<u8> {
    match field {
        [b'"', inner @ .., b'"'] => {
            let mut quote = false;
            let mut keep = |byte: u8| {
                // Of two quotes, one.
                quote = byte == b'"' && !quote;
                !quote
            };
            inner.iter().copied().filter(|&byte| keep(byte)).collect()
        }
        field => field.to_vec(),
    }
}

/// A field with quotes where it needs them.
fn quoted(field: &[u8]) -> Vec<u8> {
    if !field.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return field.to_vec();
    }
    let doubled = field.iter().flat_map(|&byte| [byte].repeat(1 + usize::from(byte == b'"')));
    [b'"'].into_iter().chain(doubled).chain([b'"']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipdc_guest::testing::{emitted_by, with_given};

    #[test]
    fn fields_may_be_quoted() {
        let line = br#"1,"a, ""b""",,c"#;
        assert_eq!(fields(line), [&b"1"[..], br#""a, ""b""""#, b"", b"c"]);
        assert_eq!(plain(fields(line)[1]), br#"a, "b""#);
        assert_eq!(quoted(br#"a, "b""#), fields(line)[1]);
        assert_eq!(quoted(b"plain"), b"plain");
    }

    #[test]
    fn a_row_goes_under_its_column_with_the_mark_of_its_side() {
        with_given(|given| {
            given.input = "right".to_owned();
            given.params = br#"{"left":1,"right":2}"#.to_vec();
        });
        let emitted = emitted_by(|| rows(b"100,\"3\",chalk\r\nshort\n"));
        assert_eq!(emitted, [(b"3".to_vec(), b"r100,chalk".to_vec())]);
        with_given(|given| assert_eq!(given.counters["lines without the column"], 1));
    }
}
