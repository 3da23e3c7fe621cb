//! Why a guest gets no response: an answer like another, that it can go on with.

use miette::Diagnostic as _;
use serde_json::json;
use url::Url;

use crate::config::Size;

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum FetchError {
    /// The guest's request makes no sense.
    #[error("the request cannot be made: {0}")]
    #[diagnostic(code("IPDC-5503"), help("docs/fetch.md says what a request is"))]
    Request(String),
    /// The job does not want to ask this host.
    #[error("`{0}` is none of the hosts in `fetch.hosts` of job.toml")]
    #[diagnostic(code("IPDC-5504"), help("add it to `hosts` under [fetch] in job.toml"))]
    Host(String),
    /// The host does not want to be asked.
    #[error("the host's robots.txt does not allow {0}")]
    #[diagnostic(
        code("IPDC-5505"),
        help("leave it out: the host's owner does not want it fetched")
    )]
    Robots(String),
    /// The address is somebody's own network.
    #[error("{host} is at {address}, which is not public")]
    #[diagnostic(
        code("IPDC-5506"),
        help(
            "`private` under [fetch] in job.toml and `fetch_private` in the node's ipdc.toml must both allow it"
        )
    )]
    Private {
        /// The host, as it was asked for.
        host: String,
        /// Its address.
        address: String,
    },
    /// The host has no address.
    #[error("`{host}` has no address: {message}")]
    #[diagnostic(
        code("IPDC-5507"),
        help("is the name right, and can the node reach a name server?")
    )]
    Name {
        /// The host.
        host: String,
        /// What the machine said.
        message: String,
    },
    /// Nobody answers there, or the answer is not to be trusted.
    #[error("no connection to {host}: {message}")]
    #[diagnostic(code("IPDC-5508"), help("is the host up, and is its certificate good?"))]
    Connect {
        /// The host.
        host: String,
        /// What happened.
        message: String,
    },
    /// It took too long.
    #[error("no whole response within {0} ms")]
    #[diagnostic(
        code("IPDC-5509"),
        help("raise `timeout` under [fetch] in job.toml, or leave it out")
    )]
    Timeout(u64),
    /// There is too much of it.
    #[error("the response has more than {}, as sent or as decoded", Size(*.0))]
    #[diagnostic(
        code("IPDC-5510"),
        help("raise `max_body` under [fetch] in job.toml, or leave it out")
    )]
    TooLarge(u64),
    /// It is no HTTP, or broken.
    #[error("{host} sent no good response: {message}")]
    #[diagnostic(code("IPDC-5511"), help("the host's software is at fault, or the line to it"))]
    Protocol {
        /// The host.
        host: String,
        /// What is wrong.
        message: String,
    },
    /// The host sends the guest round.
    #[error("after {hops} redirects still no page, at {url}")]
    #[diagnostic(
        code("IPDC-5512"),
        help("raise `redirects` under [fetch] in job.toml, unless it goes in a circle")
    )]
    Redirects {
        /// How many were followed.
        hops: usize,
        /// Where the last led.
        url: String,
    },
}

impl FetchError {
    /// What the host of `url` sent, or did not send, is no response.
    pub(super) fn protocol(url: &Url, error: &hyper::Error) -> FetchError {
        let host = url.host_str().unwrap_or_default().to_owned();
        FetchError::Protocol { host, message: chain(error) }
    }

    /// A word for it, for the guest.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            FetchError::Request(_) => "request",
            FetchError::Host(_) => "host",
            FetchError::Robots(_) => "robots",
            FetchError::Private { .. } => "private",
            FetchError::Name { .. } => "name",
            FetchError::Connect { .. } => "connect",
            FetchError::Timeout(_) => "timeout",
            FetchError::TooLarge(_) => "too_large",
            FetchError::Protocol { .. } => "protocol",
            FetchError::Redirects { .. } => "redirects",
        }
    }

    /// What the guest reads in place of a response's head: one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let code = self.code().map(|code| code.to_string());
        let error = json!({ "kind": self.kind(), "code": code, "message": self.to_string() });
        json!({ "error": error }).to_string().into()
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
