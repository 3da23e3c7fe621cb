//! The order in which a sort gives its keys.
//!
//! Runs are sorted and merged by the bytes of their keys, and by nothing else. So a key that has
//! another order is written with other bytes, which have that order, and read back at the end.

use serde::{Deserialize, Serialize};

use crate::kind::TaskError;

use super::error;

/// By what keys are compared, and which comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What is compared.
    pub by: By,
    /// The greatest first.
    pub descending: bool,
}

/// What is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The bytes.
    #[default]
    Bytes,
    /// The decimal number that the key is: `-12`, `3.50`. Of any length, exactly; keys of the same
    /// number by their bytes.
    Number,
}

/// Ends a number's digits, each of which is greater.
const END: u8 = 0;

impl Order {
    /// Whether keys are compared as they stand.
    pub(super) fn is_plain(self) -> bool {
        self == Order::default()
    }

    /// Appends to `to` the bytes that stand for `key` in runs.
    pub(super) fn encode(self, key: &[u8], to: &mut Vec<u8>) -> Result<(), TaskError> {
        let start = to.len();
        if self.by == By::Number {
            write_number(key, to).ok_or_else(|| error::key_not_a_decimal(key))?;
        }
        if !self.descending {
            to.extend_from_slice(key);
            return Ok(());
        }
        // A longer key comes before its own beginning: so the end must show, and be greatest.
        for &byte in key {
            to.push(byte);
            if byte == 0 {
                to.push(1);
            }
        }
        to.extend_from_slice(&[0, 0]);
        to[start..].iter_mut().for_each(|byte| *byte = !*byte);
        Ok(())
    }

    /// Appends to `to` the key that `encoded` stands for; none when it was not made by
    /// [`Order::encode`].
    pub(super) fn decode(self, encoded: &[u8], to: &mut Vec<u8>) -> Option<()> {
        let flip = if self.descending { 0xff } else { 0 };
        let mut rest = encoded;
        if self.by == By::Number {
            rest = &rest[number_len(rest.iter().map(|byte| byte ^ flip))?..];
        }
        if !self.descending {
            to.extend_from_slice(rest);
            return Some(());
        }
        let mut bytes = rest.iter().map(|byte| !byte);
        loop {
            match bytes.next()? {
                0 => match bytes.next()? {
                    0 => return bytes.next().is_none().then_some(()),
                    _ => to.push(0),
                },
                byte => to.push(byte),
            }
        }
    }
}

/// Appends bytes that compare as the decimal number `text` does, none of which is a beginning of
/// another's; none when it is no number.
///
/// `[sign][digits before the point u32][digits][END]`, zeros at either end left out; the bits of a
/// negative one turned over after the sign.
pub(super) fn write_number(text: &[u8], to: &mut Vec<u8>) -> Option<()> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let point = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let (whole, part) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if whole.len() + part.len() == 0 || ![whole, part].concat().iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = whole.iter().take_while(|&&digit| digit == b'0').count();
    let whole = &whole[zeros..];
    let zeros = part.iter().rev().take_while(|&&digit| digit == b'0').count();
    let part = &part[..part.len() - zeros];
    let is_zero = whole.is_empty() && part.is_empty();
    to.push(match (is_zero, negative) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 2,
    });
    let start = to.len();
    let len = u32::try_from(whole.len()).expect("a key is far below 4 GiB");
    to.extend_from_slice(&len.to_be_bytes());
    to.extend_from_slice(whole);
    to.extend_from_slice(part);
    to.push(END);
    if negative && !is_zero {
        to[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
    Some(())
}

/// How many of `bytes` [`write_number`] wrote.
pub(super) fn number_len(mut bytes: impl Iterator<Item = u8>) -> Option<usize> {
    let flip = if bytes.next()? == 0 { 0xff } else { 0 };
    let after_lengths = bytes.skip(size_of::<u32>());
    let digits = after_lengths.map(|byte| byte ^ flip).position(|byte| byte == END)?;
    Some(1 + size_of::<u32>() + digits + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(order: Order, key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        order.encode(key, &mut bytes).unwrap();
        let mut back = Vec::new();
        order.decode(&bytes, &mut back).unwrap();
        assert_eq!(back, key, "{order:?}");
        bytes
    }

    #[test]
    fn numbers_of_any_length_are_in_order() {
        let sorted = [
            "-100000000000000000000000000000000",
            "-99999999999999999999999999999999",
            "-10.5",
            "-10.49",
            "-10",
            "-9",
            "-0.5",
            "-0.05",
            "0",
            "0.049",
            "0.05",
            ".5",
            "1",
            "1.0",
            "+2",
            "9",
            "010",
            "10.25",
            "10.3",
            "18446744073709551616",
            "18446744073709551617",
        ];
        let order = |descending| Order { by: By::Number, descending };
        let up: Vec<_> = sorted.iter().map(|n| encoded(order(false), n.as_bytes())).collect();
        assert!(up.is_sorted(), "{up:?}");
        let down: Vec<_> = sorted.iter().map(|n| encoded(order(true), n.as_bytes())).collect();
        assert!(down.iter().rev().is_sorted(), "{down:?}");
        for wrong in ["", "-", ".", "1e5", "1.2.3", " 1", "x", "0x10", "--1", "NaN"] {
            assert!(order(false).encode(wrong.as_bytes(), &mut Vec::new()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn keys_come_back_and_descend_whatever_is_in_them(
            a in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(255), any::<u8>()], 0..6),
            b in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(255), any::<u8>()], 0..6),
        ) {
            let down = Order { by: By::Bytes, descending: true };
            prop_assert_eq!(encoded(down, &a).cmp(&encoded(down, &b)), b.cmp(&a));
        }

        #[test]
        fn numbers_compare_as_numbers(a in any::<i64>(), b in -1000_i64..1000) {
            let up = Order { by: By::Number, descending: false };
            let (x, y) = (encoded(up, a.to_string().as_bytes()), encoded(up, b.to_string().as_bytes()));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn what_was_made_up_is_no_key(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            for (by, descending) in [(By::Number, false), (By::Number, true), (By::Bytes, true)] {
                let _ = Order { by, descending }.decode(&bytes, &mut Vec::new());
            }
        }
    }
}
