//! What the guests of one attempt may take, all of them together: however many instances an attempt
//! makes, one after the other or one for each function, their time is the same; unless what they do is work of
//! its own each time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipdc_jobs::manifest::Limits;
use tokio_util::sync::CancellationToken;

/// One attempt's limits and what is left of its time. Clones share that.
#[derive(Clone)]
pub struct Allowance {
    pub(super) limits: Limits,
    pub(super) stop: CancellationToken,
    left: Arc<Mutex<Duration>>,
}

impl Allowance {
    /// All that `limits` give. Cancelling `stop` ends a call under way within some 20 ms.
    #[must_use]
    pub fn new(limits: &Limits, stop: CancellationToken) -> Self {
        let left = Arc::new(Mutex::new(Duration::from_millis(limits.time_ms)));
        Allowance { limits: *limits, stop, left }
    }

    /// As much again, for work of its own.
    #[must_use]
    pub fn whole(&self) -> Self {
        Allowance::new(&self.limits, self.stop.clone())
    }

    /// The time in which guests may still run.
    pub(super) fn left(&self) -> Duration {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_left(&self, left: Duration) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }
}
