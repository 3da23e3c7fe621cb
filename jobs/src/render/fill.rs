//! Placeholders in commands and names of files: `{frame}`, `{frame:04}`, `{left+1}`.
//!
//! Only the names of [`Values`] are placeholders; other braces are the command's own, `${HOME}` and `'{print}'`
//! among them.

/// What placeholders stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Values(Vec<(&'static str, i64)>);

impl Values {
    pub(super) fn with(mut self, name: &'static str, value: impl Into<i64>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// `text` with what its placeholders stand for.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            filled.push_str(before);
            match self.placeholder(from) {
                Some((value, len)) => {
                    filled.push_str(&value);
                    rest = &from[len..];
                }
                None => {
                    filled.push('{');
                    rest = &from[1..];
                }
            }
        }
        filled.push_str(rest);
        filled
    }

    /// Whether `text` has a placeholder of one of these names.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.fill(text) != text
    }

    /// What the placeholder at the beginning of `text` stands for, and its length; none, when there is none.
    fn placeholder(&self, text: &str) -> Option<(String, usize)> {
        let end = text.find('}')?;
        let (what, width) = match text[1..end].split_once(':') {
            Some((what, width)) => (what, width.strip_prefix('0')?.parse().ok()?),
            None => (&text[1..end], 0),
        };
        let (name, more) = match what.find(['+', '-']) {
            Some(at) => (&what[..at], what[at..].parse::<i32>().ok()?),
            None => (what, 0),
        };
        let (_, value) = self.0.iter().find(|(known, _)| *known == name)?;
        let width = if width > WIDTH_LIMIT { return None } else { width };
        Some((format!("{:0width$}", value + i64::from(more)), end + 1))
    }
}

/// The most digits that can be asked for: as many as the largest number has.
const WIDTH_LIMIT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_filled_in_with_width_and_offset() {
        let values = Values::default().with("frame", 7).with("left", 0);
        for (text, filled) in [
            ("frame{frame}.png", "frame7.png"),
            ("{frame:04}-{frame}", "0007-7"),
            ("+SC{left+1} -e {frame-1:03}", "+SC1 -e 006"),
        ] {
            assert_eq!(values.fill(text), filled);
            assert!(values.is_in(text));
        }
    }

    #[test]
    fn other_braces_stay() {
        let values = Values::default().with("frame", 7);
        let own = [
            "${HOME}",
            "awk '{print $1}'",
            "{",
            "}{",
            "{frame:4}",
            "{frames}",
            "{frame:099}",
            "{é}",
        ];
        for text in own {
            assert_eq!(values.fill(text), text);
            assert!(!values.is_in(text));
        }
        assert_eq!(values.fill("{{frame}}"), "{7}");
    }
}
