//! Status codes and paths of an access log in the Common or Combined format.
//!
//! Keys are `status<TAB>200` and `path<TAB>/index.html`; their values are tallies of four numbers,
//! which `combine` and `reduce` join.

use ipdc_guest::Values;

ipdc_guest::map!(requests);
ipdc_guest::combine!(join);
ipdc_guest::reduce!(join);

/// What is known of some requests, written `requests<TAB>errors<TAB>bytes<TAB>slowest in ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    requests: u64,
    errors: u64,
    bytes: u64,
    slowest_ms: u64,
}

impl Tally {
    fn read(text: &[u8]) -> Option<Tally> {
        let mut numbers = std::str::from_utf8(text).ok()?.split('\t').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Tally { requests: next()?, errors: next()?, bytes: next()?, slowest_ms: next()? })
    }

    fn write(self) -> String {
        let Tally { requests, errors, bytes, slowest_ms } = self;
        format!("{requests}\t{errors}\t{bytes}\t{slowest_ms}")
    }

    fn join(self, other: Tally) -> Tally {
        Tally {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            bytes: self.bytes + other.bytes,
            slowest_ms: self.slowest_ms.max(other.slowest_ms),
        }
    }
}

/// One line of the log.
struct Request<'a> {
    /// Without what follows a `?`.
    path: &'a str,
    status: &'a str,
    tally: Tally,
}

impl<'a> Request<'a> {
    /// `host ident user [date] "METHOD path PROTOCOL" status bytes …`
    fn parse(line: &'a str, per_ms: f64) -> Option<Request<'a>> {
        let (_, rest) = line.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let path = request.split(' ').nth(1)?.split('?').next()?;
        let mut fields = rest.split_ascii_whitespace();
        let (status, bytes) = (fields.next()?, fields.next()?);
        if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let time = fields.next_back().and_then(|time| time.parse::<f64>().ok());
        let tally = Tally {
            requests: 1,
            errors: u64::from(status.starts_with('5')),
            bytes: bytes.parse().unwrap_or(0),
            slowest_ms: time.map_or(0, |time| (time * per_ms).round() as u64),
        };
        Some(Request { path, status, tally })
    }
}

thread_local! {
    /// Milliseconds that the unit of the log's times has.
    static PER_MS: f64 = match ipdc_guest::param("time").as_deref() {
        Some("us") => 0.001,
        _ => 1000.0,
    };
}

fn requests(text: &[u8]) {
    let per_ms = PER_MS.with(|per_ms| *per_ms);
    let (mut requests, mut others) = (0, 0);
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line = String::from_utf8_lossy(line);
        let Some(Request { path, status, tally }) = Request::parse(&line, per_ms) else {
            others += 1;
            continue;
        };
        requests += 1;
        let value = tally.write();
        ipdc_guest::emit(format!("status\t{status}").as_bytes(), value.as_bytes());
        ipdc_guest::emit(format!("path\t{path}").as_bytes(), value.as_bytes());
    }
    ipdc_guest::count("requests", requests);
    ipdc_guest::count("lines that are no requests", others);
}

fn join(key: &[u8], tallies: Values<'_>) {
    let tally = tallies.filter_map(Tally::read).fold(Tally::default(), Tally::join);
    ipdc_guest::emit(key, tally.write().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMBINED: &str = r#"10.0.0.1 - bob [10/Oct/2000:13:55:36 -0700] "GET /a?x=1 HTTP/1.1" 503 2326 "http://r/" "Mozilla/5.0 (X)" 0.25"#;

    #[test]
    fn common_and_combined_lines_are_read() {
        let request = Request::parse(COMBINED, 1000.0).expect("a request");
        assert_eq!((request.path, request.status), ("/a", "503"));
        let expected = Tally { requests: 1, errors: 1, bytes: 2326, slowest_ms: 250 };
        assert_eq!(request.tally, expected);
        let common = r#"h - - [d] "HEAD / HTTP/1.0" 304 -"#;
        let expected = Tally { requests: 1, ..Tally::default() };
        assert_eq!(Request::parse(common, 1000.0).expect("a request").tally, expected);
        for wrong in ["", "x", r#"h - - [d] "-" 400 0"#, r#"h - - [d] "GET / HTTP/1.0" x 1"#] {
            assert!(Request::parse(wrong, 1000.0).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_tally_reads_back() {
        let tally = Tally { requests: 3, errors: 1, bytes: 10, slowest_ms: 7 };
        assert_eq!(Tally::read(tally.write().as_bytes()), Some(tally));
    }
}
