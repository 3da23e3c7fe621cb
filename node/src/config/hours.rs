//! Hours of the day as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A part of each day, written `22:00-07:00`, or the whole of it, written as nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hours(Option<Part>);

/// From a minute of the day to another one, which may be of the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    from: u16,
    to: u16,
}

impl Hours {
    /// The whole day.
    pub const ALL: Hours = Hours(None);

    /// Whether the minute (from midnight) is one of them.
    #[must_use]
    pub fn has(self, minute: u32) -> bool {
        self.0.is_none_or(|Part { from, to }| {
            let (from, to) = (u32::from(from), u32::from(to));
            if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
        })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Part { from, to }) = self.0 else { return Ok(()) };
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// A text that names no hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` are no hours: expected some like \"22:00-07:00\", or \"\" for all day")]
pub struct BadHours(String);

impl FromStr for Hours {
    type Err = BadHours;

    fn from_str(text: &str) -> Result<Hours, BadHours> {
        if text.is_empty() {
            return Ok(Hours::ALL);
        }
        let part = text.split_once('-').and_then(|(from, to)| {
            let (from, to) = (minute(from.trim())?, minute(to.trim())?);
            (from != to && from < DAY).then_some(Part { from, to })
        });
        part.map(|part| Hours(Some(part))).ok_or_else(|| BadHours(text.to_owned()))
    }
}

/// The minute of the day that `HH:MM` names; `24:00` is its end.
fn minute(text: &str) -> Option<u16> {
    let number = |digits: &str| {
        let is_plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        is_plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Hours, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_go_over_midnight_and_end_before_their_last_minute() {
        let has = |hours: &str, times: [u32; 3]| {
            let hours: Hours = hours.parse().unwrap();
            assert_eq!(hours.to_string().parse(), Ok(hours));
            times.map(|time| hours.has(time))
        };
        assert_eq!(has("08:30-17:00", [509, 510, 1020]), [false, true, false]);
        assert_eq!(has("22:00-07:00", [1320, 0, 420]), [true, true, false]);
        assert_eq!(has("18:00-24:00", [1439, 0, 1080]), [true, false, true]);
        assert_eq!(has("", [0, 700, 1439]), [true; 3]);
    }

    #[test]
    fn what_is_no_time_of_day_is_refused() {
        for wrong in
            ["8:00-9:00", "08:00", "08:00-08:00", "24:00-08:00", "08:60-09:00", "25:00-26:00", "-"]
        {
            assert_eq!(wrong.parse::<Hours>(), Err(BadHours(wrong.into())), "{wrong}");
        }
    }
}
