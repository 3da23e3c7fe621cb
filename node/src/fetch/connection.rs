//! Connections to hosts, plain and by TLS, kept open for the next request.
//!
//! One is kept with the address that it leads to, so that a job which may not ask that address cannot use
//! what another opened. Certificates are checked against those that the machine trusts.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use ipdc_jobs::fetch::Rules;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
#[cfg(test)]
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Origin, Url};

use super::FetchError;
use super::guard::Guard;

/// How long one address may take to answer before the next is tried. A request's own time is over it.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Connections that are kept in all: a few hosts' at a time, some 20 KiB each.
const KEPT_LIMIT: usize = 128;

/// How long one is kept: hosts close them after 5 s (Apache) to 75 s (nginx).
const KEPT_TIME: Duration = Duration::from_secs(15);

/// The longest head of a response: what servers themselves take of a request, many times.
const HEAD_LIMIT: usize = 64 << 10;

/// Headers of a response at most.
const HEADERS_LIMIT: usize = 200;

/// All connections that no request uses now.
#[derive(Default)]
pub(super) struct Connections {
    /// The oldest first.
    kept: Mutex<VecDeque<Connection>>,
    tls: OnceCell<TlsConnector>,
}

/// A connection to a host.
pub(super) struct Connection {
    origin: Origin,
    /// Where it leads to.
    pub(super) address: IpAddr,
    pub(super) sender: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
    since: Instant,
}

impl Connections {
    /// One that is kept, if one leads to the origin of `url` at an address that `is_open`.
    pub(super) fn take(&self, url: &Url, is_open: impl Fn(IpAddr) -> bool) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|old| old.since.elapsed() < KEPT_TIME && !old.sender.is_closed());
        let origin = url.origin();
        let fits = |kept: &Connection| {
            kept.origin == origin && kept.sender.is_ready() && is_open(kept.address)
        };
        // The youngest: the others may be closed sooner.
        let at = kept.iter().rposition(fits)?;
        kept.remove(at)
    }

    /// Keeps one that another request may use.
    pub(super) fn keep(&self, mut connection: Connection) {
        connection.since = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LIMIT {
            kept.pop_front();
        }
        kept.push_back(connection);
    }

    /// A new one to the host of `url`, at the first of its addresses that answers.
    pub(super) async fn open(
        &self,
        url: &Url,
        rules: &Rules,
        guard: &Guard,
    ) -> Result<Connection, FetchError> {
        let mut failure = None;
        for address in guard.addresses(url, rules).await? {
            match timeout(CONNECT_LIMIT, self.open_at(url, address, rules, guard)).await {
                Ok(Err(error @ FetchError::Connect { .. })) => failure = Some(error),
                Ok(done) => return done,
                Err(_) => {
                    let limit = CONNECT_LIMIT.as_secs();
                    failure = Some(cannot(url, &format!("{address} is silent for {limit} s")));
                }
            }
        }
        Err(failure.expect("a host has one address at least"))
    }

    async fn open_at(
        &self,
        url: &Url,
        address: SocketAddr,
        rules: &Rules,
        guard: &Guard,
    ) -> Result<Connection, FetchError> {
        let stream = TcpStream::connect(address).await.map_err(|error| cannot(url, &error))?;
        let own = stream.local_addr().map_err(|error| cannot(url, &error))?;
        // A public address of this machine is behind its firewall from here.
        if own.ip() == address.ip() && !guard.is_named(address.ip(), rules) {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(FetchError::Private { host, address: address.ip().to_string() });
        }
        stream.set_nodelay(true).map_err(|error| cannot(url, &error))?;
        let (sender, driver) = if url.scheme() == "https" {
            let name = match url.host() {
                Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()),
                _ => Ok(ServerName::from(address.ip())),
            };
            let name = name.map_err(|error| cannot(url, &error))?;
            let connected = self.tls().await.connect(name, stream).await;
            shake_hands(url, connected.map_err(|error| cannot(url, &error))?).await?
        } else {
            shake_hands(url, stream).await?
        };
        let (origin, since) = (url.origin(), Instant::now());
        Ok(Connection { origin, address: address.ip(), sender, _driver: driver, since })
    }

    /// Trusts this certificate alone.
    #[cfg(test)]
    pub(super) fn trust(&self, certificate: &CertificateDer<'_>) {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([certificate.clone().into_owned()]);
        let connector = TlsConnector::from(Arc::new(config(roots)));
        assert!(self.tls.set(connector).is_ok(), "nothing was asked yet");
    }

    /// What speaks TLS, with the certificates that the machine trusts. Without any it trusts nobody.
    async fn tls(&self) -> &TlsConnector {
        let connector = async || {
            let trusted = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let mut roots = RootCertStore::empty();
            match trusted {
                Ok(found) => {
                    roots.add_parsable_certificates(found.certs);
                    for error in found.errors {
                        tracing::warn!(%error, "some of the machine's certificates cannot be read");
                    }
                }
                Err(error) => tracing::error!(%error, "the machine's certificates were not read"),
            }
            TlsConnector::from(Arc::new(config(roots)))
        };
        self.tls.get_or_init(connector).await
    }
}

fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.expect("ring has what TLS 1.2 and 1.3 need");
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

type Driven = (SendRequest<Empty<Bytes>>, AbortOnDropHandle<()>);

/// Begins HTTP on `stream`.
async fn shake_hands<S>(url: &Url, stream: S) -> Result<Driven, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    builder.max_buf_size(HEAD_LIMIT).max_headers(HEADERS_LIMIT);
    let shaken = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| cannot(url, &error))?;
    let driver = tokio::spawn(async move {
        // What goes wrong the request hears.
        let _ = connection.await;
    });
    Ok((sender, AbortOnDropHandle::new(driver)))
}

fn cannot(url: &Url, why: &dyn std::fmt::Display) -> FetchError {
    let host = url.host_str().unwrap_or_default().to_owned();
    FetchError::Connect { host, message: why.to_string() }
}
