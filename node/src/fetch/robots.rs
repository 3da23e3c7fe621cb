//! The hosts' robots.txt: each is fetched once, before the first page, and again when it is old.
//!
//! As RFC 9309 has it: one that is not there allows everything; one that cannot be had, because the host is
//! in trouble, forbids everything for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use ipdc_jobs::fetch::{ROBOTS_LIMIT, Robots, Rules};
use tokio::sync::Mutex as TurnMutex;
use tokio::time::{Instant, timeout};
use url::{Origin, Url};

use super::visit::{Ask, Excess, Visit};
use super::{FetchError, Request, Shared};

/// How long one is believed: the RFC's most.
const FRESH: Duration = Duration::from_secs(24 * 3_600);

/// How long a host whose robots.txt cannot be had is left alone.
const CLOSED: Duration = Duration::from_secs(600);

/// How long one may take to come, each redirect anew.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Redirects that are followed, to other hosts too: the RFC's least.
const REDIRECTS: usize = 5;

/// Those that are kept: as many hosts as a large crawl has on one node, a few hundred bytes each.
const KEPT_LIMIT: usize = 10_000;

/// Those that were fetched.
#[derive(Default)]
pub(super) struct Cache {
    /// By whose it is and to whom it speaks.
    places: Mutex<HashMap<(Origin, String), Place>>,
}

/// Locked while it is fetched: who wants the same waits.
type Place = Arc<TurnMutex<Option<Known>>>;

struct Known {
    robots: Arc<Robots>,
    until: Instant,
}

impl Cache {
    fn place(&self, url: &Url, rules: &Rules) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= KEPT_LIMIT {
            let is_used = |place: &Place| Arc::strong_count(place) > 1;
            let is_fresh = |place: &Place| {
                let known = place.try_lock();
                known.is_ok_and(|known| known.as_ref().is_some_and(Known::is_fresh))
            };
            places.retain(|_, place| is_used(place) || is_fresh(place));
        }
        if places.len() >= KEPT_LIMIT {
            // All are fresh, and of one host as good as of another.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(places.entry((url.origin(), rules.agent.product().to_owned())).or_default())
    }
}

impl Known {
    fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Shared {
    /// What the host of `url` lets a job with these `rules` have.
    ///
    /// # Errors
    /// When nobody is there to have one.
    pub(super) async fn robots_of(
        &self,
        url: &Url,
        rules: &Rules,
    ) -> Result<Arc<Robots>, FetchError> {
        let place = self.robots.place(url, rules);
        let mut known = place.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh()) {
            return Ok(Arc::clone(&known.robots));
        }
        let (robots, fresh) = self.fetch_robots(url, rules).await?;
        let robots = Arc::new(robots);
        *known = Some(Known { robots: Arc::clone(&robots), until: Instant::now() + fresh });
        Ok(robots)
    }

    async fn fetch_robots(
        &self,
        url: &Url,
        rules: &Rules,
    ) -> Result<(Robots, Duration), FetchError> {
        let mut at =
            url.join("/robots.txt").map_err(|error| FetchError::Request(error.to_string()))?;
        for _ in 0..=REDIRECTS {
            let request = Request::get(at.as_str())?;
            let _turn = self.turns.take(&at, rules, Duration::ZERO).await;
            let (room, excess) = (ROBOTS_LIMIT, Excess::Cut);
            let ask = Ask { url: &at, request: &request, rules, known: None, room, excess };
            let visit = match timeout(TIMEOUT, self.visit(&ask)).await {
                Ok(Ok(visit)) => visit,
                // There is no such host, or it may not be asked: the page would fail in the same way.
                Ok(Err(
                    error @ (FetchError::Private { .. }
                    | FetchError::Name { .. }
                    | FetchError::Connect { .. }),
                )) => return Err(error),
                Ok(Err(_)) | Err(_) => return Ok((Robots::closed(), CLOSED)),
            };
            match visit.goal().filter(|goal| rules.allows_host(goal.host_str().unwrap_or_default()))
            {
                Some(goal) => at = goal,
                None => return Ok(said(&visit, rules)),
            }
        }
        Ok((Robots::default(), FRESH))
    }
}

/// What a host's answer says, and for how long.
fn said(visit: &Visit, rules: &Rules) -> (Robots, Duration) {
    let closed = || (Robots::closed(), CLOSED);
    match visit.status {
        status if status.is_success() => match visit.decoded(ROBOTS_LIMIT as u64) {
            Ok(text) => (Robots::parse(&text, rules.agent.product()), FRESH),
            Err(_) => closed(),
        },
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => closed(),
        _ => (Robots::default(), FRESH),
    }
}
