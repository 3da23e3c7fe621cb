//! robots.txt, as RFC 9309 has it: which paths of a host a crawler may ask for, and how often.

use std::time::Duration;

use memchr::memmem;

/// Bytes of a robots.txt that are read, as the RFC asks at least; what comes after is not there.
pub const ROBOTS_LIMIT: usize = 500 << 10;

/// Rules that one may have for one crawler: the largest known have some thousands. What comes after is not there.
const RULES_LIMIT: usize = 10_000;

/// The longest pause between two requests that is believed. Who asks for a day asks for no visits.
const DELAY_LIMIT: Duration = Duration::from_secs(3_600);

/// What one robots.txt says to one crawler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Robots {
    rules: Vec<Rule>,
    delay: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// With percent-encoding made the same everywhere; `*` stands for anything, a `$` at the end for
    /// the path's end.
    pattern: Vec<u8>,
    allows: bool,
}

impl Robots {
    /// What `text` says to the crawler of this `product` name: the groups that name it, else those for
    /// `*`, else nothing. Lines that cannot be read are passed over.
    #[must_use]
    pub fn parse(text: &[u8], product: &str) -> Robots {
        let text = &text[..text.len().min(ROBOTS_LIMIT)];
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let (mut named, mut for_all) = (None, Robots::default());
        // Whom the group under way is for, and whether its rules have begun.
        let (mut is_named, mut is_for_all, mut has_rules) = (false, false, false);
        for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let Some((key, value)) = line_parts(line) else { continue };
            if key.eq_ignore_ascii_case(b"user-agent") {
                if std::mem::take(&mut has_rules) {
                    (is_named, is_for_all) = (false, false);
                }
                let name = value.split(|byte| !super::is_product(*byte)).next().unwrap_or_default();
                is_named |= !name.is_empty() && name.eq_ignore_ascii_case(product.as_bytes());
                is_for_all |= value.starts_with(b"*");
                continue;
            }
            let Some(said) = Said::of(key, value) else { continue };
            has_rules = true;
            if is_named {
                named.get_or_insert_with(Robots::default).take(&said);
            }
            if is_for_all {
                for_all.take(&said);
            }
        }
        named.unwrap_or(for_all)
    }

    /// One that forbids everything: what a host has whose robots.txt cannot be had.
    #[must_use]
    pub fn closed() -> Robots {
        Robots { rules: vec![Rule { pattern: b"/".to_vec(), allows: false }], delay: None }
    }

    /// Whether the crawler may ask for `path`, query included. The longest rule that fits decides; of two
    /// of a length the one that allows.
    #[must_use]
    pub fn allows(&self, path: &str) -> bool {
        if path == "/robots.txt" {
            return true;
        }
        let path = normal(path.as_bytes());
        let fitting = self.rules.iter().filter(|rule| fits(&rule.pattern, &path));
        fitting.max_by_key(|rule| (rule.pattern.len(), rule.allows)).is_none_or(|rule| rule.allows)
    }

    /// The least time between two requests (`Crawl-delay`, which the RFC does not have and many do).
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    fn take(&mut self, said: &Said<'_>) {
        match said {
            // An empty one says nothing.
            Said::Path { path: [], .. } => {}
            Said::Path { .. } if self.rules.len() == RULES_LIMIT => {}
            Said::Path { path, allows } => {
                self.rules.push(Rule { pattern: normal(path), allows: *allows });
            }
            Said::Delay(delay) => self.delay = Some(self.delay.unwrap_or_default().max(*delay)),
        }
    }
}

enum Said<'a> {
    Path { path: &'a [u8], allows: bool },
    Delay(Duration),
}

impl Said<'_> {
    fn of<'a>(key: &[u8], value: &'a [u8]) -> Option<Said<'a>> {
        let path = |allows| Some(Said::Path { path: value, allows });
        match key.to_ascii_lowercase().as_slice() {
            b"allow" => path(true),
            b"disallow" => path(false),
            b"crawl-delay" => {
                let seconds: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
                let delay = Duration::try_from_secs_f64(seconds).ok()?;
                Some(Said::Delay(delay.min(DELAY_LIMIT)))
            }
            _ => None,
        }
    }
}

/// `key: value  # comment`, without the blanks.
fn line_parts(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.split(|byte| *byte == b'#').next()?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
}

/// A path with its percent-encoding in one form: what need not be encoded is not, all else is, in capitals.
fn normal(path: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut normal = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let encoded = match (digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (Some(high), Some(low)) if byte == b'%' => Some((high << 4 | low) as u8),
            _ => None,
        };
        at += if encoded.is_some() { 3 } else { 1 };
        let meant = encoded.unwrap_or(byte);
        let is_unreserved = meant.is_ascii_alphanumeric() || b"-._~".contains(&meant);
        if is_unreserved || (encoded.is_none() && meant.is_ascii_graphic()) {
            normal.push(meant);
        } else {
            normal.extend([b'%', HEX[usize::from(meant >> 4)], HEX[usize::from(meant & 15)]]);
        }
    }
    normal
}

/// Whether `path` begins with what `pattern` stands for. In time of their lengths' sum: what is between two `*` is
/// best found as early as it can be.
fn fits(pattern: &[u8], path: &[u8]) -> bool {
    let (pattern, to_the_end) = match pattern.strip_suffix(b"$") {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let mut pieces = pattern.split(|byte| *byte == b'*');
    let start = pieces.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(start) else { return false };
    let end = if to_the_end { pieces.next_back() } else { None };
    for piece in pieces {
        let Some(at) = memmem::find(rest, piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    match end {
        Some(end) => rest.ends_with(end),
        None => !to_the_end || rest.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn robots(text: &str) -> Robots {
        Robots::parse(text.as_bytes(), "wordbot")
    }

    fn allows(rules: &str, path: &str) -> bool {
        robots(&format!("User-agent: *\n{rules}")).allows(path)
    }

    #[test]
    fn without_a_rule_everything_is_allowed() {
        for text in [
            "",
            "nonsense",
            "Disallow: /",
            "User-agent: other\nDisallow: /",
            "User-agent: *\nDisallow:",
        ] {
            assert!(robots(text).allows("/x"), "{text:?}");
        }
    }

    #[test]
    fn the_longest_rule_decides_and_of_two_the_one_that_allows() {
        // The examples of RFC 9309, section 5.
        let rules = "Disallow: *.gif$\nDisallow: /example/\nAllow: /publications/";
        assert!(allows(rules, "/publications/a"));
        assert!(!allows(rules, "/example/x") && !allows(rules, "/a/b.gif"));
        assert!(allows(rules, "/b.gif?x"));
        let rules = "Allow: /example/page/\nDisallow: /example/page/disallowed.gif";
        assert!(allows(rules, "/example/page/") && !allows(rules, "/example/page/disallowed.gif"));
        assert!(allows("Allow: /page\nDisallow: /page", "/page"));
        assert!(!allows("Allow: /p\nDisallow: /", "/x"));
        assert!(allows("Disallow: /", "/robots.txt"));
    }

    #[test]
    fn patterns_have_wildcards_and_ends() {
        for (pattern, path, fits) in [
            ("/fish", "/fish/salmon.html", true),
            ("/fish", "/Fish.asp", false),
            ("/fish*", "/fish", true),
            ("/*.php", "/folder/any.php.file.html", true),
            ("/*.php$", "/folder/a.php/b.php", true),
            ("/*.php$", "/filename.php?parameters", false),
            ("/fish*.php", "/fishheads/catfish.php?p", true),
            ("/a*b*c$", "/axxbyybzzc", true),
            ("/a*b*c$", "/axxbyybzzcd", false),
            ("$", "/", false),
            ("/$", "/", true),
            ("/a%3cd.html", "/a%3Cd.html", true),
            ("/a%2fb", "/a/b", false),
            ("/%61", "/a", true),
            ("/ツ", "/%E3%83%84", true),
            ("/a%", "/a%", true),
            ("/a*", "/", false),
            ("/*a*a$", "/a", false),
            ("/*a*a$", "/aa", true),
            ("/**$", "/x", true),
        ] {
            assert_eq!(!allows(&format!("Disallow: {pattern}"), path), fits, "{pattern} {path}");
        }
        // What would take others a year.
        let many = format!("/{}", "*a".repeat(5_000));
        assert!(allows(&format!("Disallow: {many}b"), &format!("/{}", "a".repeat(10_000))));
    }

    #[test]
    fn a_crawler_heeds_the_groups_that_name_it_all_of_them_and_else_those_for_all() {
        let text = "User-agent: *\nDisallow: /\n\nUser-Agent: other\nuser-agent: WordBot/2.0 # it\n\
                    Disallow: /a\nUser-agent: third\nDisallow: /c\nUser-agent: wordbot\nDisallow: /b\n";
        let robots = robots(text);
        for (path, allowed) in [("/a", false), ("/b", false), ("/c", true), ("/", true)] {
            assert_eq!(robots.allows(path), allowed, "{path}");
        }
        assert!(!Robots::parse(text.as_bytes(), "wordbotter").allows("/c"));
    }

    #[test]
    fn a_pause_is_believed_within_reason_whatever_ends_the_lines() {
        let pause = |value: &str| {
            robots(&format!("\u{feff}User-agent: *\r\nCrawl-delay: {value}\rDisallow: /x")).delay()
        };
        assert_eq!(pause("2.5"), Some(Duration::from_millis(2_500)));
        assert_eq!(pause("1e9"), Some(DELAY_LIMIT));
        for nonsense in ["-1", "soon", "NaN", "inf"] {
            assert_eq!(pause(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_closed_and_what_is_too_long_is_cut() {
        assert!(!Robots::closed().allows("/") && !Robots::closed().allows("/x?y"));
        let long = format!("User-agent: *\n{}\nDisallow: /", "#".repeat(ROBOTS_LIMIT));
        assert!(robots(&long).allows("/x"));
    }
}
