//! How fast a job gets on: over the last seconds, not since its start.

use std::collections::VecDeque;
use std::time::Duration;

/// What counts as the last seconds: long enough to even out tasks that end together, short enough
/// to show that a worker was lost.
const WINDOW: Duration = Duration::from_secs(5);

/// The longest time left that is told: beyond, it says nothing.
const LEFT_LIMIT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How many bytes were done when, over the last seconds. At most one for each look at the job.
#[derive(Debug, Default)]
pub(super) struct Pace {
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// `done` bytes are done at `at`.
    pub(super) fn note(&mut self, at: Duration, done: u64) {
        self.samples.push_back((at, done));
        // The newest of those that are too old stays: the window begins with it.
        while self.samples.get(1).is_some_and(|(second, _)| *second + WINDOW <= at) {
            self.samples.pop_front();
        }
    }

    /// Bytes a second; 0 when nothing was done, or some of it lost again.
    pub(super) fn bytes_per_s(&self) -> u64 {
        let ends = self.samples.front().zip(self.samples.back());
        let Some(((from, before), (to, now))) = ends else { return 0 };
        let took = to.saturating_sub(*from).as_secs_f64();
        if took > 0.0 { (now.saturating_sub(*before) as f64 / took) as u64 } else { 0 }
    }

    /// The time that `rest` bytes take at this pace.
    pub(super) fn time_for(&self, rest: u64) -> Option<Duration> {
        let seconds = rest as f64 / self.bytes_per_s() as f64;
        let time = Duration::try_from_secs_f64(seconds).ok()?;
        (time <= LEFT_LIMIT).then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pace = Pace::default();
        assert_eq!((pace.bytes_per_s(), pace.time_for(1)), (0, None));
        for second in 0..=10 {
            pace.note(second * S, u64::from(second) * 1_000);
        }
        assert_eq!(pace.bytes_per_s(), 1_000);
        for second in 11..=20 {
            pace.note(second * S, 10_000 + u64::from(second - 10) * 50);
        }
        assert_eq!(pace.bytes_per_s(), 50);
        assert_eq!(pace.time_for(500), Some(10 * S));
        assert_eq!(pace.samples.len(), 6);
    }

    #[test]
    fn nothing_is_promised_of_a_job_that_stands_still_or_goes_back() {
        let mut pace = Pace::default();
        pace.note(S, 1_000);
        pace.note(2 * S, 400);
        assert_eq!((pace.bytes_per_s(), pace.time_for(100)), (0, None));
    }
}
