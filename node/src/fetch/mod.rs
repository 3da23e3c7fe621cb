//! Pages from the network, for the guests that may have them.
//!
//! | | |
//! |---|---|
//! | [`request`] | what a guest asks for, and what it gets |
//! | [`error`] | why it gets none |
//! | [`guard`] | which addresses may be asked |
//! | [`connection`] | connections, kept open between requests |
//! | [`turn`] | how often and how many at a time one host is asked |
//! | [`robots`] | the hosts' robots.txt |
//! | [`body`] | a response's body, up to its limit, as sent and decoded |
//! | [`visit`] | one request to one host, and what it sent |
//! | [`pages`] | what was fetched before, and need not be sent again |
//! | [`warc`] | what was fetched, as an archive |
//!
//! One [`Fetcher`] serves all attempts of a node. It keeps to the [`Rules`] of the job and to the node's
//! own; whether the job may fetch at all was judged when its work was taken. It speaks HTTP/1.1,
//! asks with GET and HEAD alone, keeps no cookies, and takes no notice of proxies that the environment names.

mod body;
mod connection;
mod error;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod guard;
mod pages;
mod request;
mod robots;
#[cfg(test)]
mod tests;
mod turn;
mod visit;
mod warc;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipdc_jobs::fetch::{Range, Rules};
use ipdc_jobs::ids::PeerId;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use url::{Position, Url};

use crate::config;
use connection::Connections;
use guard::{Guard, Resolve};
use robots::Cache;
use turn::Turns;
use visit::{Ask, Excess};

pub use error::FetchError;
pub use pages::Pages;
pub use request::{Method, Request, Response};
pub use visit::Visit;
pub use warc::Shelf;

/// Requests under way at a time, for all attempts: each holds a body in memory. As many attempts run as
/// the node has slots, so few machines ever reach it.
const REQUESTS_LIMIT: usize = 64;

/// What a guest gets for a request: a response, or why there is none.
pub type Fetched = Result<Response, FetchError>;

/// What a node's owner says of fetching.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Addresses that are not public and may be asked, if the job asks for them too.
    pub private: Vec<Range>,
    /// Requests a second to one host at most.
    pub rate: Option<u32>,
}

impl Options {
    /// What the settings say.
    #[must_use]
    pub fn of(policy: &config::Policy) -> Options {
        Options { private: policy.fetch_private.clone(), rate: policy.fetch_rate }
    }
}

/// Fetches pages. Clones share it.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    guard: Guard,
    connections: Connections,
    turns: Turns,
    robots: Cache,
    requests: Semaphore,
    pages: Option<Pages>,
}

impl Fetcher {
    /// One that keeps to `options`, and remembers `pages` if it has them. Nothing is set up before the first
    /// request.
    #[must_use]
    pub fn new(options: Options, pages: Option<Pages>) -> Fetcher {
        Self::with(options, pages, Arc::new(guard::Machine::default()))
    }

    fn with(options: Options, pages: Option<Pages>, names: Arc<dyn Resolve>) -> Fetcher {
        let Options { private, rate } = options;
        let least = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        Fetcher {
            shared: Arc::new(Shared {
                guard: Guard::new(private, names),
                connections: Connections::default(),
                turns: Turns::new(least),
                robots: Cache::default(),
                requests: Semaphore::new(REQUESTS_LIMIT),
                pages,
            }),
        }
    }

    /// Does what `request` asks for, by `rules`, for a job of `submitter`; without one, as if nothing had
    /// been fetched before. Redirects to the same host are followed; what was sent
    /// on the way goes to `visits`, also when there is no response in the end.
    ///
    /// It waits for its turn as long as that takes: whoever has no more time drops it.
    ///
    /// # Errors
    /// Why there is no response, for the guest.
    pub async fn fetch(
        &self,
        rules: &Rules,
        submitter: Option<PeerId>,
        request: &Request,
        visits: &mut Vec<Visit>,
    ) -> Fetched {
        let shared = &self.shared;
        let mut room = rules.max_body as usize;
        let (mut left, mut url, mut been) = (rules.timeout(), request.url.clone(), BTreeSet::new());
        loop {
            let delay = shared.allowed(&url, rules).await?;
            let key = submitter.and_then(|submitter| pages::key(submitter, rules, &url, request));
            let known = shared.known(key.as_ref(), &url).await;
            let known = known.filter(|known| known.body.len() <= room);
            let visit = {
                let _turn = shared.turns.take(&url, rules, delay).await;
                let _place = shared.requests.acquire().await.expect("it is never closed");
                let (known, began) = (known.as_ref(), Instant::now());
                let ask = Ask { url: &url, request, rules, known, room, excess: Excess::Refused };
                let visit = timeout(left, shared.visit(&ask)).await;
                left = left.saturating_sub(began.elapsed());
                visit.map_err(|_| FetchError::Timeout(rules.timeout_ms))??
            };
            if let (Some(known), Some(_)) = (known, visit.unchanged_since) {
                // The archive has all of it again, and that it has not changed.
                visits.extend([known.clone(), visit]);
                let response = unpacked(known, None, rules).await?;
                return Ok(Response { revalidated: true, ..response });
            }
            room -= visit.body.len();
            visits.push(visit.clone());
            let goal = visit.goal();
            let Some(next) =
                goal.as_ref().filter(|goal| rules.redirects > 0 && visit.is_near(goal))
            else {
                shared.remember(key, &visit).await;
                return unpacked(visit, goal, rules).await;
            };
            been.insert(std::mem::replace(&mut url, next.clone()));
            if been.contains(&url) || been.len() > rules.redirects as usize {
                return Err(FetchError::Redirects { hops: been.len(), url: url.into() });
            }
        }
    }
}

/// What the guest gets of a visit.
async fn unpacked(visit: Visit, goal: Option<Url>, rules: &Rules) -> Fetched {
    let rules = rules.clone();
    let response = spawn_blocking(move || visit.response(goal, &rules)).await;
    response.expect("unpacking does not panic")
}

impl Shared {
    /// Whether the job's rules, and the host's own, allow to ask for `url`. Gives the pause that the host
    /// asks for between two requests.
    async fn allowed(&self, url: &Url, rules: &Rules) -> Result<Duration, FetchError> {
        let host = url.host_str().unwrap_or_default();
        if !rules.allows_host(host) {
            return Err(FetchError::Host(host.to_owned()));
        }
        if !rules.robots {
            return Ok(Duration::ZERO);
        }
        let robots = self.robots_of(url, rules).await?;
        let path = &url[Position::BeforePath..Position::AfterQuery];
        if !robots.allows(path) {
            return Err(FetchError::Robots(url.as_str().to_owned()));
        }
        Ok(robots.delay().unwrap_or_default())
    }
}
