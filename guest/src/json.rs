//! As much JSON as it takes to find one member of an object that is known to be well formed: a
//! job's params, the head of a page. What is no text is handed on as JSON, for `serde_json` or `str::parse`.

/// The member `name` of the object `json`: a text without its quotes and escapes, anything else as
/// it stands. None when it is not there.
#[inline]
pub(crate) fn member(json: &[u8], name: &str) -> Option<String> {
    let json = std::str::from_utf8(json).ok()?;
    let mut rest = json.trim_start().strip_prefix('{')?.trim_start();
    while rest.starts_with('"') {
        let (key, after) = cut_value(rest)?;
        let (value, after) = cut_value(after.trim_start().strip_prefix(':')?.trim_start())?;
        if text_of(key)? == name {
            return if value.starts_with('"') { text_of(value) } else { Some(value.to_owned()) };
        }
        rest = after.trim_start().strip_prefix(',')?.trim_start();
    }
    None
}

/// `text` in quotes, as JSON has it.
#[inline]
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Cuts a value off the front of `json`; what comes after it.
#[inline]
fn cut_value(json: &str) -> Option<(&str, &str)> {
    let (mut depth, mut in_text, mut escaped) = (0_u32, false, false);
    for (at, byte) in json.bytes().enumerate() {
        let ends_after = match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' if in_text => {
                escaped = true;
                false
            }
            b'"' => {
                in_text = !in_text;
                !in_text && depth == 0
            }
            _ if in_text => false,
            b'{' | b'[' => {
                depth += 1;
                false
            }
            b'}' | b']' | b',' if depth == 0 => return Some(json.split_at(at)),
            b'}' | b']' => {
                depth -= 1;
                depth == 0
            }
            byte if byte.is_ascii_whitespace() && depth == 0 => return Some(json.split_at(at)),
            _ => false,
        };
        if ends_after {
            return Some(json.split_at(at + 1));
        }
    }
    None
}

/// What a text in quotes says.
#[inline]
fn text_of(json: &str) -> Option<String> {
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut text = String::new();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match rest.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let unit = hex(&mut rest)?;
                let units = match unit {
                    // The first half of a pair.
                    0xd800..0xdc00 => {
                        rest.next().filter(|c| *c == '\\')?;
                        rest.next().filter(|c| *c == 'u')?;
                        vec![unit, hex(&mut rest)?]
                    }
                    _ => vec![unit],
                };
                char::decode_utf16(units).next()?.ok()?
            }
            plain => plain,
        });
    }
    Some(text)
}

#[inline]
fn hex(rest: &mut std::str::Chars<'_>) -> Option<u16> {
    let digits: String = rest.by_ref().take(4).collect();
    u16::from_str_radix(&digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{member, quoted};

    #[test]
    fn what_is_quoted_reads_back() {
        let text = "to \"be\"\n\u{1}é😀\\";
        assert_eq!(
            member(format!("{{\"a\":{}}}", quoted(text)).as_bytes(), "a").as_deref(),
            Some(text)
        );
    }

    #[test]
    fn a_member_is_found_among_others_of_every_form() {
        let json = br#"{"a":{"word":"inner, \"}"},"b":[1,{"c":2}],"n":-1.5e3,"yes":true,
            "word":"to \"be\"\n\u00e9\ud83d\ude00\\","no":null , "last" : "" }"#;
        let found = |name| member(json, name);
        assert_eq!(found("word").as_deref(), Some("to \"be\"\né😀\\"));
        assert_eq!(found("a").as_deref(), Some(r#"{"word":"inner, \"}"}"#));
        assert_eq!(found("b").as_deref(), Some(r#"[1,{"c":2}]"#));
        assert_eq!(found("n").as_deref(), Some("-1.5e3"));
        assert_eq!(found("yes").as_deref(), Some("true"));
        assert_eq!(found("no").as_deref(), Some("null"));
        assert_eq!(found("last").as_deref(), Some(""));
        assert_eq!((found("c"), found("gone"), member(b"{}", "a")), (None, None, None));
    }
}
