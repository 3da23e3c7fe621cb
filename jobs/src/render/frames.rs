//! Which frames a job has: `1-24`, `0-100x5`, `3,7,9-12`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most frames of a job: an hour of film.
pub const FRAMES_LIMIT: u64 = 100_000;

/// The longest text that names frames, in bytes: it is part of the job's manifest.
const TEXT_LIMIT: usize = 4 << 10;

/// The frames of a job by their numbers: spans, of which none is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frames {
    spans: Vec<Span>,
}

/// Every `step`-th number from `from` to `to`, which may be one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u32,
    to: u32,
    step: u32,
}

/// Why a text names no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrames {
    /// It is not of the form.
    #[error("expected frames such as \"1-24\", \"0-100x5\" or \"3,7,9-12\"")]
    Form,
    /// A span ends before it begins.
    #[error("{0}-{1} ends before it begins")]
    Backwards(u32, u32),
    /// There are too many.
    #[error("it names {0} frames; at most {FRAMES_LIMIT} can be")]
    TooMany(u64),
    /// It is too long.
    #[error("it has {0} bytes; at most {TEXT_LIMIT} can be")]
    TooLong(usize),
}

impl Frames {
    /// Their numbers, rising, each once.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        let each = |span: &Span| (span.from..=span.to).step_by(span.step as usize);
        let mut numbers: Vec<u32> = self.spans.iter().flat_map(each).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

impl Span {
    fn of(text: &str) -> Result<Span, BadFrames> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| BadFrames::Form);
        let (range, step) = match text.split_once('x') {
            Some((range, step)) => (range, number(step)?),
            None => (text, 1),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(range)?, number(range)?),
        };
        match (from <= to, step) {
            (_, 0) => Err(BadFrames::Form),
            (false, _) => Err(BadFrames::Backwards(from, to)),
            (true, step) => Ok(Span { from, to, step }),
        }
    }

    fn count(self) -> u64 {
        u64::from((self.to - self.from) / self.step) + 1
    }
}

impl TryFrom<String> for Frames {
    type Error = BadFrames;

    fn try_from(text: String) -> Result<Self, BadFrames> {
        if text.len() > TEXT_LIMIT {
            return Err(BadFrames::TooLong(text.len()));
        }
        let spans = text.split(',').map(Span::of).collect::<Result<Vec<_>, _>>()?;
        match spans.iter().map(|span| span.count()).sum() {
            0..=FRAMES_LIMIT => Ok(Frames { spans }),
            count => Err(BadFrames::TooMany(count)),
        }
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Span { from, to, step }) in self.spans.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match (from == to, step) {
                (true, _) => write!(f, "{comma}{from}")?,
                (false, 1) => write!(f, "{comma}{from}-{to}")?,
                (false, step) => write!(f, "{comma}{from}-{to}x{step}")?,
            }
        }
        Ok(())
    }
}

impl From<Frames> for String {
    fn from(frames: Frames) -> String {
        frames.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frames(text: &str) -> Result<Frames, BadFrames> {
        Frames::try_from(text.to_owned())
    }

    #[test]
    fn spans_steps_and_single_frames_are_read_and_written_again() {
        assert_eq!(frames("1-4").unwrap().numbers(), [1, 2, 3, 4]);
        assert_eq!(frames("0-10x5").unwrap().numbers(), [0, 5, 10]);
        assert_eq!(frames("9-11, 3,10").unwrap().numbers(), [3, 9, 10, 11]);
        for text in ["1-24", "0-100x5", "3,7,9-12"] {
            assert_eq!(frames(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_frames_is_refused_with_the_reason() {
        for text in ["", "a", "1-", "-3", "1..5", "1-5x0", "1-5x", "1,,2", "4294967296"] {
            assert_eq!(frames(text), Err(BadFrames::Form), "{text}");
        }
        assert_eq!(frames("5-1"), Err(BadFrames::Backwards(5, 1)));
        assert_eq!(frames("0-4294967295"), Err(BadFrames::TooMany(1 << 32)));
        assert_eq!(frames(&"1,".repeat(3000)), Err(BadFrames::TooLong(6000)));
    }
}
