//! What user code logs: lines, of which the last ones are kept.
//!
//! A log is short wherever it is, from the attempt that gathers it to the job's report, so nothing
//! that carries one has to look at its length. It never determines a result, and is never
//! remembered: what a memo answers was not run.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes of one attempt's log, as JSON: some fifty lines as wide as a terminal. A batch of reports,
/// each with the longest of everything, still fits a
/// [message](crate::message::MESSAGE_LIMIT).
pub const LOG_LIMIT: usize = 4 << 10;

/// What the guests of one attempt logged. Written into what carries it, as `log` and
/// `log_left_out`; where nothing was logged, neither is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The last lines, oldest first.
    #[serde(rename = "log", default, skip_serializing_if = "VecDeque::is_empty")]
    pub lines: VecDeque<String>,
    /// Lines before these that were not kept.
    #[serde(rename = "log_left_out", default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it so
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Log {
    /// Bytes of its lines as JSON.
    #[must_use]
    pub fn size(&self) -> usize {
        self.lines.iter().map(|line| size(line)).sum()
    }

    /// As many of its last lines as `limit` bytes hold.
    #[must_use]
    pub fn last(self, limit: usize) -> Log {
        let mut tail = Tail { size: self.size(), log: self };
        tail.shorten(limit);
        tail.log
    }
}

/// Gathers a log.
#[derive(Debug, Default)]
pub struct Tail {
    log: Log,
    size: usize,
}

impl Tail {
    /// Adds a line. The oldest go where there is no room for all.
    pub fn push(&mut self, line: String) {
        self.size += size(&line);
        self.log.lines.push_back(line);
        self.shorten(LOG_LIMIT);
    }

    /// What was gathered since the last time.
    pub fn take(&mut self) -> Log {
        std::mem::take(self).log
    }

    fn shorten(&mut self, limit: usize) {
        while self.size > limit {
            let Some(line) = self.log.lines.pop_front() else { return };
            self.size -= size(&line);
            self.log.left_out = self.log.left_out.saturating_add(1);
        }
    }
}

/// Bytes of a line in a JSON list, at most.
fn size(line: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    // Quotes and a comma.
    line.bytes().map(escaped).sum::<usize>() + 3
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn log_of(lines: impl IntoIterator<Item = String>) -> Log {
        let mut tail = Tail::default();
        lines.into_iter().for_each(|line| tail.push(line));
        tail.take()
    }

    #[test]
    fn the_last_lines_are_kept_and_the_others_counted() {
        let log = log_of((0..10_000).map(|n| format!("line {n}")));
        assert_eq!(log.lines.back().unwrap(), "line 9999");
        assert_eq!(log.left_out + log.lines.len() as u64, 10_000);
        assert!(log.size() <= LOG_LIMIT && log.size() > LOG_LIMIT - 20, "{}", log.size());
        let shorter = log.clone().last(40);
        assert_eq!(shorter.lines, ["line 9997", "line 9998", "line 9999"]);
        assert_eq!(shorter.left_out, 9_997);
        let none = shorter.last(0);
        assert_eq!((none.lines.len(), none.left_out), (0, 10_000));
    }

    #[test]
    fn a_log_is_never_longer_as_json_than_its_size() {
        let lines = ["plain", "", "\"quoted\" \\ß", "\u{0}\u{1b}[2J\u{7f}\t\u{2028}"];
        let log = log_of(lines.map(str::to_owned));
        assert_eq!(log.lines, lines);
        let json = serde_json::to_string(&log.lines).unwrap();
        assert!(json.len() <= log.size() + "[]".len(), "{json}");
    }

    #[test]
    fn a_line_that_is_too_long_by_itself_is_left_out() {
        let log = log_of(["before".to_owned(), "\u{0}".repeat(LOG_LIMIT / 2)]);
        assert_eq!(log, Log { lines: VecDeque::new(), left_out: 2 });
    }

    #[test]
    fn where_nothing_was_logged_nothing_is_written() {
        assert_eq!(serde_json::to_string(&Log::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Log>("{}").unwrap(), Log::default());
    }
}
