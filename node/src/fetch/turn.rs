//! How often and how many at a time one host is asked, by all attempts of this node together.
//!
//! A host's turns are its own whatever its port, and for all jobs: a job that asks seldom waits longer, one
//! that asks often finds the host no less busy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipdc_jobs::fetch::Rules;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use url::Url;

/// Hosts that are kept before those that may be asked again anyway are forgotten.
const SWEEP: usize = 1_024;

/// How much later than it should a timer wakes. What is lost by it the next turn gets back, so that the rate is
/// what it should be and not a little less.
const LATE: Duration = Duration::from_millis(2);

/// The turns of all hosts.
pub(super) struct Turns {
    /// The least time between two requests to one host, whatever the job says.
    least: Duration,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

#[derive(Default)]
struct Host {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// Requests under way.
    running: u32,
    /// When the last one was due to begin.
    last: Option<Instant>,
    /// When who asked last may ask again.
    free_at: Option<Instant>,
}

/// One request's turn; it ends when this is dropped.
pub(super) struct Turn {
    host: Arc<Host>,
}

impl Turns {
    pub(super) fn new(least: Duration) -> Turns {
        Turns { least, hosts: Mutex::default() }
    }

    /// Waits until a job with these `rules` may ask the host of `url`, which wants a pause of `delay`.
    pub(super) async fn take(&self, url: &Url, rules: &Rules, delay: Duration) -> Turn {
        let interval = self.interval(rules, delay);
        let turn = self.host(url).enter(rules.concurrency).await;
        loop {
            let begun = turn.host.state().begin(Instant::now(), interval);
            match begun {
                Ok(()) => return turn,
                Err(due) => sleep_until(due).await,
            }
        }
    }

    /// The slowest of all that have a say.
    fn interval(&self, rules: &Rules, delay: Duration) -> Duration {
        rules.interval().max(delay).max(self.least)
    }

    fn host(&self, url: &Url) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= SWEEP && hosts.len().is_power_of_two() {
            hosts.retain(|_, host| Arc::strong_count(host) > 1 || !host.state().is_free());
        }
        Arc::clone(hosts.entry(url.host_str().unwrap_or_default().to_owned()).or_default())
    }
}

impl Host {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until fewer than `most` requests are under way.
    async fn enter(self: &Arc<Self>, most: u32) -> Turn {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if state.running < most {
                    state.running += 1;
                    return Turn { host: Arc::clone(self) };
                }
            }
            freed.await;
        }
    }
}

impl State {
    /// Begins a request, or says when it may.
    fn begin(&mut self, now: Instant, interval: Duration) -> Result<(), Instant> {
        let due = self.last.map_or(now, |last| last + interval);
        if now < due {
            return Err(due);
        }
        let begun = due.max(now.checked_sub(LATE).unwrap_or(now));
        self.last = Some(begun);
        self.free_at = self.free_at.max(Some(begun + interval));
        Ok(())
    }

    fn is_free(&self) -> bool {
        self.running == 0 && self.free_at.is_none_or(|free_at| free_at <= Instant::now())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.host.state().running -= 1;
        // Those that wait may have different limits: each looks for itself.
        self.host.freed.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;
    use ipdc_jobs::fetch::Agent;

    use super::*;

    fn rules(rate: f64, concurrency: u32) -> Rules {
        let agent = Agent::try_from("bot (me@example.org)".to_owned()).unwrap();
        Rules { rate, concurrency, ..Rules::of(agent) }
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_asked_exactly_as_often_as_may_be_although_timers_are_late() {
        let (began, interval) = (Instant::now(), Duration::from_millis(10));
        let mut state = State::default();
        let mut now = began;
        for n in 0..1_000_u32 {
            while let Err(due) = state.begin(now, interval) {
                assert!(due > now);
                now = due + Duration::from_micros(u64::from(n % 7) * 300);
            }
            let due = began + n * interval;
            assert!((due..=due + LATE).contains(&now), "request {n} is {:?} late", now - due);
        }
        // Who did not ask for a while has saved up nothing.
        now += Duration::from_secs(5);
        assert_eq!(state.begin(now, interval), Ok(()));
        assert!(state.begin(now, interval).unwrap_err() >= now + interval - LATE);
    }

    #[test]
    fn the_slowest_of_job_host_and_node_says_how_often() {
        for (rate, delay, least, expected) in
            [(1.0, 5, 0, 5), (0.5, 1, 1, 2), (0.0, 0, 3, 3), (0.0, 0, 0, 0)]
        {
            let turns = Turns::new(Duration::from_secs(least));
            let interval = turns.interval(&rules(rate, 1), Duration::from_secs(delay));
            assert_eq!(interval.as_secs(), expected);
        }
    }

    #[tokio::test]
    async fn no_more_requests_are_under_way_than_may_be_and_none_waits_for_ever() {
        let turns = Turns::new(Duration::ZERO);
        let (running, most) = (AtomicU32::new(0), AtomicU32::new(0));
        let one = async |n: u32| {
            let rules = rules(0.0, 1 + n % 3);
            // Whatever the port.
            let url = url(&format!("http://h:{}/", 80 + n));
            let _turn = turns.take(&url, &rules, Duration::ZERO).await;
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            running.fetch_sub(1, Ordering::SeqCst);
        };
        join_all((0..60).map(one)).await;
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_its_place_and_only_hosts_that_are_free_are_forgotten() {
        let turns = Turns::new(Duration::ZERO);
        let seldom = rules(0.001, 1);
        drop(turns.take(&url("http://h/"), &seldom, Duration::ZERO).await);
        let again = url("http://h/");
        let waits = turns.take(&again, &seldom, Duration::ZERO);
        assert!(tokio::time::timeout(Duration::from_millis(20), waits).await.is_err());
        assert_eq!(turns.host(&again).state().running, 0);
        for n in 0..4 * SWEEP {
            drop(turns.take(&url(&format!("http://h{n}/")), &rules(0.0, 1), Duration::ZERO).await);
        }
        let hosts = turns.hosts.lock().unwrap();
        assert!(hosts.contains_key("h") && hosts.len() <= SWEEP, "{}", hosts.len());
    }
}
