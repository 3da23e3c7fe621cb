//! Measurements that alternate with those of a yardstick.
//!
//! What disturbs the machine disturbs both of a round alike, so what counts is the ratio of a round.

/// Seconds that we took and seconds that the yardstick took, round by round.
#[derive(Default)]
pub(super) struct Rounds(Vec<(f64, f64)>);

impl Rounds {
    pub(super) fn add(&mut self, ours: f64, yardstick: f64) {
        self.0.push((ours, yardstick));
    }

    /// Our seconds over the yardstick's: their median.
    pub(super) fn ours_over_yardstick(&self) -> f64 {
        median(self.0.iter().map(|(ours, yardstick)| ours / yardstick).collect())
    }

    /// The yardstick's seconds over ours, which is our rate over its rate.
    pub(super) fn yardstick_over_ours(&self) -> f64 {
        median(self.0.iter().map(|(ours, yardstick)| yardstick / ours).collect())
    }

    /// The seconds' medians, for a remark.
    pub(super) fn describe(&self) -> String {
        let ours = median(self.0.iter().map(|round| round.0).collect());
        let yardstick = median(self.0.iter().map(|round| round.1).collect());
        format!("{ours:.2} s against {yardstick:.2} s, rounds: {}", self.0.len())
    }
}

/// The value in the middle; of an even number of them, the upper one.
///
/// # Panics
/// When there are none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_was_disturbed_does_not_count() {
        let mut rounds = Rounds::default();
        for (ours, yardstick) in [(2.0, 1.0), (8.0, 4.0), (9.0, 1.0), (1.0, 1.0), (2.0, 1.0)] {
            rounds.add(ours, yardstick);
        }
        assert_eq!(rounds.ours_over_yardstick(), 2.0);
        assert_eq!(rounds.yardstick_over_ours(), 0.5);
        assert_eq!(rounds.describe(), "2.00 s against 1.00 s, rounds: 5");
    }
}
