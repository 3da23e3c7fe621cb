//! The built-in combiners and reducers, and how they fold the values of a key, one by one.
//!
//! Numbers are decimal integers in text. A map task takes 64-bit numbers only and the result must
//! be one again, but partial sums are kept in 128 bits: so whether a sum overflows depends on the
//! sum, not on how its parts were grouped.

use serde::{Deserialize, Serialize};

use crate::kind::{RECORD_LIMIT, TaskError};
use crate::record;

use super::error;

/// A combiner or reducer that needs no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Builtin {
    /// The sum of the values.
    Sum,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// How many values there are, whatever they are.
    Count,
    /// The first value in the order of the input.
    First,
    /// The values one after the other in the order of the input, with nothing between.
    Concat,
    /// Nothing: each key once, without a value.
    Distinct,
    /// The mean of the values, rounded to six digits after the point.
    Mean,
    /// Every record, in the order of the keys.
    Sort,
}

impl Builtin {
    /// All of them, as named in `job.toml`.
    pub const NAMES: [(&'static str, Builtin); 9] = [
        ("sum", Builtin::Sum),
        ("min", Builtin::Min),
        ("max", Builtin::Max),
        ("count", Builtin::Count),
        ("first", Builtin::First),
        ("concat", Builtin::Concat),
        ("distinct", Builtin::Distinct),
        ("mean", Builtin::Mean),
        ("sort", Builtin::Sort),
    ];

    /// The built-in of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Builtin> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, builtin)| *builtin)
    }

    /// Whether it can join the values of a key within a map task.
    #[must_use]
    pub fn combines(self) -> bool {
        !matches!(self, Builtin::Mean | Builtin::Sort)
    }

    /// Whether folding what it gave gives the same as folding all at once.
    pub(super) fn folds_again(self) -> bool {
        self.combines() && self != Builtin::Count
    }

    /// What joins partial results of this one: counts are summed, the rest join by themselves.
    #[must_use]
    pub fn of_partials(self) -> Builtin {
        if self == Builtin::Count { Builtin::Sum } else { self }
    }

    /// The number that a single `value` stands for, if this built-in is one that keeps a number.
    #[inline]
    pub(super) fn lift(self, key: &[u8], value: &[u8]) -> Result<i64, TaskError> {
        match (self, value) {
            (Builtin::Count, _) => Ok(1),
            (Builtin::Distinct, _) => Ok(0),
            // What a word count emits, 16 million times in 100 MiB of text.
            (_, [digit @ b'0'..=b'9']) => Ok(i64::from(digit - b'0')),
            _ => parse(key, value),
        }
    }

    /// Joins two numbers of one key.
    #[inline]
    pub(super) fn join(self, key: &[u8], a: i128, b: i128) -> Result<i128, TaskError> {
        match self {
            Builtin::Min => Ok(a.min(b)),
            Builtin::Max => Ok(a.max(b)),
            Builtin::Distinct => Ok(a),
            _ => a.checked_add(b).ok_or_else(|| error::overflow(key)),
        }
    }

    /// Whether all it needs of a key's values so far is one number.
    pub(super) fn is_number(self) -> bool {
        use Builtin::{Count, Distinct, Max, Min, Sum};
        matches!(self, Sum | Min | Max | Count | Distinct)
    }

    /// Appends the value that `number` stands for.
    pub(super) fn write(self, text: &mut Vec<u8>, number: i128) {
        if self != Builtin::Distinct {
            write_number(text, number);
        }
    }
}

fn parse<N: std::str::FromStr>(key: &[u8], value: &[u8]) -> Result<N, TaskError> {
    let number = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| error::not_a_number(key, value))
}

/// Folds the values of one key after the other.
pub(super) struct Fold {
    builtin: Builtin,
    /// Whether numbers must fit 64 bits at the end.
    last: bool,
    number: Option<i128>,
    /// How many values there were.
    count: u64,
    bytes: Vec<u8>,
}

impl Fold {
    /// A fold whose results are folded again.
    pub(super) fn partial(builtin: Builtin) -> Self {
        Fold { builtin, last: false, number: None, count: 0, bytes: Vec::new() }
    }

    /// The fold that gives the result.
    pub(super) fn last(builtin: Builtin) -> Self {
        Fold { last: true, ..Self::partial(builtin) }
    }

    /// Takes the next value of `key`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TaskError> {
        self.count += 1;
        match self.builtin {
            Builtin::Distinct => {}
            Builtin::First if self.count == 1 => self.bytes.extend_from_slice(value),
            Builtin::First => {}
            Builtin::Concat => {
                let len = key.len() + self.bytes.len() + value.len();
                if len > RECORD_LIMIT {
                    return Err(record::too_large(len));
                }
                self.bytes.extend_from_slice(value);
            }
            builtin => {
                let one = if builtin == Builtin::Count { 1 } else { parse::<i128>(key, value)? };
                self.number = Some(match self.number {
                    None => one,
                    Some(number) => builtin.join(key, number, one)?,
                });
            }
        }
        Ok(())
    }

    /// The result of `key`, whose values have all been added; the next is another key's.
    pub(super) fn end<T>(
        &mut self,
        key: &[u8],
        take: impl FnOnce(&[u8]) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        let count = std::mem::take(&mut self.count);
        if let Some(number) = self.number.take() {
            if self.builtin == Builtin::Mean {
                write_mean(&mut self.bytes, number, count);
            } else if self.last && i64::try_from(number).is_err() {
                return Err(error::overflow(key));
            } else {
                write_number(&mut self.bytes, number);
            }
        }
        let taken = take(&self.bytes);
        self.bytes.clear();
        taken
    }
}

/// Appends `sum / count`, rounded half away from zero to six digits, without zeros at its end.
fn write_mean(text: &mut Vec<u8>, sum: i128, count: u64) {
    const MILLION: u128 = 1_000_000;
    let (size, count) = (sum.unsigned_abs(), u128::from(count));
    let millionths = ((size % count) * MILLION * 2 + count) / (count * 2);
    let (whole, part) = (size / count + millionths / MILLION, millionths % MILLION);
    let sign = if sum < 0 && (whole, part) != (0, 0) { "-" } else { "" };
    let part = format!(".{part:06}");
    let part = part.trim_end_matches('0').trim_end_matches('.');
    text.extend_from_slice(format!("{sign}{whole}{part}").as_bytes());
}

/// Appends `number` in decimal.
pub(super) fn write_number(text: &mut Vec<u8>, number: i128) {
    // Most counts have one digit; formatting in full costs more than the rest of the record.
    if let Ok(digit @ 0..=9) = u8::try_from(number) {
        text.push(b'0' + digit);
        return;
    }
    use std::io::Write as _;
    write!(text, "{number}").expect("writing to a vector does not fail");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fold(builtin: Builtin, values: &[&str]) -> Result<String, TaskError> {
        let mut fold = Fold::last(builtin);
        for value in values {
            fold.add(b"k", value.as_bytes())?;
        }
        fold.end(b"k", |value| Ok(String::from_utf8(value.to_vec()).unwrap()))
    }

    #[test]
    fn each_built_in_does_what_its_name_says() {
        let values = ["3", "-5", "11"];
        for (name, expected) in [
            ("sum", "9"),
            ("min", "-5"),
            ("max", "11"),
            ("count", "3"),
            ("first", "3"),
            ("concat", "3-511"),
            ("distinct", ""),
            ("mean", "3"),
        ] {
            assert_eq!(fold(Builtin::named(name).unwrap(), &values).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_mean_is_exact_or_rounded_to_six_digits() {
        for (values, expected) in [
            (&["1", "2"][..], "1.5"),
            (&["-1", "-2", "-2"], "-1.666667"),
            (&["0", "0", "1"], "0.333333"),
            (&["1", "-1"], "0"),
            (&["9223372036854775807", "9223372036854775807"], "9223372036854775807"),
            (&["1999999", "2000000", "2000000"], "1999999.666667"),
            (&["-9223372036854775808"], "-9223372036854775808"),
        ] {
            assert_eq!(fold(Builtin::Mean, values).unwrap(), expected, "{values:?}");
        }
    }

    #[test]
    fn an_overflow_names_its_key_and_does_not_depend_on_order() {
        let top = i64::MAX.to_string();
        assert_eq!(fold(Builtin::Sum, &[&top, "1", "-1"]).unwrap(), top);
        let error = fold(Builtin::Sum, &[&top, "1"]).unwrap_err();
        assert!(error.to_string().contains("key `k`"), "{error}");
    }

    #[test]
    fn what_is_no_number_is_refused_with_key_and_value() {
        for value in ["", "x", "1.5", "1 ", "９"] {
            let error = fold(Builtin::Sum, &[value]).unwrap_err().to_string();
            assert!(error.contains("key `k`") && error.contains(value), "{error}");
        }
        assert!(Builtin::Sum.lift(b"k", b"9223372036854775808").is_err());
    }
}
