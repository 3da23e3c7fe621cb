//! How fast a peer is listened to.
//!
//! Whoever says more waits, and what it says next waits in its own streams: nobody else pays for it.
//! That is no misdeed; a worker with much to report may have to.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A measure of what one peer may say: so much at once, and so much a second in the long run.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The time that one unit takes in the long run, in nanoseconds times 1,024.
    per_unit: u64,
    at_once: Duration,
    /// When all that was said so far would have been said at the long run's speed.
    said_by: Instant,
}

impl Pace {
    /// `per_second` units a second, both above 0, `at_once` of them without waiting.
    pub(crate) fn new(per_second: u64, at_once: u64) -> Pace {
        let per_unit = (1_000_000_000 << 10) / per_second;
        let mut pace = Pace { per_unit, at_once: Duration::ZERO, said_by: Instant::now() };
        pace.at_once = pace.time_of(at_once);
        pace
    }

    /// Takes in `units` and waits until there is room for more. Gives how long it waited.
    pub(crate) async fn take(&mut self, units: u64) -> Duration {
        let wait = self.count(units, Instant::now());
        if !wait.is_zero() {
            sleep_until(Instant::now() + wait).await;
        }
        wait
    }

    fn count(&mut self, units: u64, now: Instant) -> Duration {
        self.said_by = self.said_by.max(now) + self.time_of(units);
        self.said_by.saturating_duration_since(now).saturating_sub(self.at_once)
    }

    fn time_of(&self, units: u64) -> Duration {
        Duration::from_nanos(units.saturating_mul(self.per_unit) >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_once_is_free_and_then_each_unit_takes_its_time() {
        let (mut pace, now) = (Pace::new(4, 8), Instant::now());
        assert_eq!(pace.count(8, now), Duration::ZERO);
        assert_eq!(pace.count(1, now), Duration::from_millis(250));
        assert_eq!(pace.count(1, now), Duration::from_millis(500));
        // Silence makes room again, but never more than there was at first.
        let later = now + Duration::from_secs(3600);
        assert_eq!(pace.count(8, later), Duration::ZERO);
        assert_eq!(pace.count(4, later), Duration::from_secs(1));
    }
}
