//! Which addresses may be asked: the public ones, and of others those that both the node's owner and the
//! job name.
//!
//! A name is resolved here, all of its addresses are judged, and the connection goes to one that was: a
//! name that means another address a moment later leads nowhere.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use async_trait::async_trait;
use ipdc_jobs::fetch::{Range, Rules, is_public};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use url::{Host, Url};

use super::FetchError;

/// Addresses of one name that are judged and tried; large sites have some ten.
const ADDRESSES_LIMIT: usize = 32;

/// Names that are looked up at a time: a part of the threads that all rooms share.
const LOOKUPS_LIMIT: usize = 32;

/// Finds the addresses of names.
#[async_trait]
pub(super) trait Resolve: Send + Sync {
    /// The addresses of `name`.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// As the machine does: its hosts file, its name servers.
pub(super) struct Machine {
    /// A look-up holds a thread until the name servers answer, also when nobody waits for it any more.
    lookups: Arc<Semaphore>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { lookups: Arc::new(Semaphore::new(LOOKUPS_LIMIT)) }
    }
}

#[async_trait]
impl Resolve for Machine {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let place = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let name = name.to_owned();
        let found = spawn_blocking(move || {
            let _place = place;
            (name, 0).to_socket_addrs()
        });
        let found = found.await.map_err(io::Error::other)??;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// Judges addresses.
pub(super) struct Guard {
    /// What the node's owner allows beside the public ones.
    private: Vec<Range>,
    names: Arc<dyn Resolve>,
}

impl Guard {
    pub(super) fn new(private: Vec<Range>, names: Arc<dyn Resolve>) -> Guard {
        Guard { private, names }
    }

    /// Whether a job with these rules may ask `address`.
    pub(super) fn is_open(&self, address: IpAddr, rules: &Rules) -> bool {
        is_public(address) || self.is_named(address, rules)
    }

    /// Whether both the node and the job name `address`.
    pub(super) fn is_named(&self, address: IpAddr, rules: &Rules) -> bool {
        let is_in = |ranges: &[Range]| ranges.iter().any(|range| range.contains(address));
        is_in(&self.private) && is_in(&rules.private)
    }

    /// Where the host of `url` is. One address that may not be asked closes all of them: who names it beside
    /// public ones is up to no good.
    pub(super) async fn addresses(
        &self,
        url: &Url,
        rules: &Rules,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let found = match url.host() {
            Some(Host::Ipv4(address)) => Ok(vec![address.into()]),
            Some(Host::Ipv6(address)) => Ok(vec![address.into()]),
            Some(Host::Domain(name)) => self.names.addresses(name).await,
            None => Err(io::Error::other("the URL has no host")),
        };
        let host = url.host_str().unwrap_or_default();
        let nowhere = |message: String| FetchError::Name { host: host.to_owned(), message };
        let found = found.map_err(|error| nowhere(error.to_string()))?;
        if let Some(closed) = found.iter().find(|address| !self.is_open(**address, rules)) {
            let address = closed.to_string();
            return Err(FetchError::Private { host: host.to_owned(), address });
        }
        if found.is_empty() {
            return Err(nowhere("the name means nothing".to_owned()));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let found = found.into_iter().take(ADDRESSES_LIMIT);
        Ok(found.map(|address| SocketAddr::new(address, port)).collect())
    }
}
