//! Ranges of users as people write them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Numbers of users from one to another, written `61184-65519`. Root is none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uids {
    first: u32,
    last: u32,
}

impl Uids {
    /// Those that systemd takes for services without a user of their own: nobody has them for good.
    pub const DYNAMIC: Uids = Uids { first: 61_184, last: 65_519 };

    /// Each of them.
    #[must_use]
    pub fn all(self) -> RangeInclusive<u32> {
        self.first..=self.last
    }
}

impl fmt::Display for Uids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A text that names no users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` are no users: expected two numbers above 0, like \"61184-65519\"")]
pub struct BadUids(String);

impl FromStr for Uids {
    type Err = BadUids;

    fn from_str(text: &str) -> Result<Uids, BadUids> {
        let parse = |(first, last): (&str, &str)| {
            let uids = Uids { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
            // The last number of all means nobody to the kernel.
            (0 < uids.first && uids.first <= uids.last && uids.last < u32::MAX).then_some(uids)
        };
        text.split_once('-').and_then(parse).ok_or_else(|| BadUids(text.to_owned()))
    }
}

impl Serialize for Uids {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uids {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_that_are_not_roots_are_users() {
        let uids: Uids = "70000 - 70002".parse().unwrap();
        assert!(uids.all().eq([70_000, 70_001, 70_002]));
        assert_eq!(uids.to_string(), "70000-70002");
        for wrong in ["", "7", "0-5", "6-5", "a-b", "-1-5", "1-4294967295"] {
            assert!(wrong.parse::<Uids>().is_err(), "{wrong}");
        }
    }
}
