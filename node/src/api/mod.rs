//! HTTP for the command line and for programs: loopback only, with the bearer token of the home.
//!
//! Requests and answers are the types of [`crate::view`]. A browser page of another origin cannot
//! use it: `Host` must name the loopback interface and `Origin`, when there is one, too.
//! `openapi.json` describes it all, and is served; `routes.rs` holds it to the truth.

pub mod client;
mod containers;
mod jobs_mqtt;
mod lively;
mod routes;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, middleware};
use miette::Diagnostic;
use tokio::net::TcpListener;

pub(crate) use jobs_mqtt::publish;
pub use jobs_mqtt::serve as serve_mqtt;

use crate::lobby::Guest;
use crate::node::Node;
use crate::problem::{ErrorBody, Problem};

/// What a connection becomes that a command's stdin and stdout go over.
pub(crate) const PROTOCOL: &str = "ipdc-frames";

/// Why HTTP is not served, or a request was refused.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ApiError {
    /// The address cannot be listened on.
    #[error("cannot listen for HTTP on {addr}")]
    #[diagnostic(
        code("IPDC-7001"),
        help(
            "is another program there? choose another with --http HOST:PORT; port 0 picks a free one"
        )
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The address can be reached from outside.
    #[error("the HTTP address {0} is not on this machine's loopback interface")]
    #[diagnostic(
        code("IPDC-7002"),
        help("listen on 127.0.0.1 or [::1]; from elsewhere, go through an SSH tunnel")
    )]
    NotLoopback(SocketAddr),
    /// The token is missing or wrong.
    #[error("the request's bearer token is not this node's")]
    #[diagnostic(code("IPDC-7003"), help("the token is in `api.token` in the node's home"))]
    Unauthorized,
    /// A page of another origin, or a name that is not ours.
    #[error("the request's {0} is not this machine's loopback")]
    #[diagnostic(
        code("IPDC-7004"),
        help("ask http://127.0.0.1:PORT itself, not through another name or page")
    )]
    Foreign(&'static str),
    /// It asks for something that cannot be read.
    #[error("the request cannot be read: {0}")]
    #[diagnostic(code("IPDC-7005"))]
    Malformed(String),
    /// There is no such path.
    #[error("there is nothing at {0}")]
    #[diagnostic(
        code("IPDC-7006"),
        help("docs/http.md lists the paths; compare `ipdc --version` with the node's")
    )]
    NoSuchPath(String),
    /// The body is longer than the path takes.
    #[error("the request's body is too long for this path")]
    #[diagnostic(
        code("IPDC-7007"),
        help(
            "docs/http.md says how long each may be; add what is large with POST /v1/files and name its CID"
        )
    )]
    TooLong,
    /// There is no room for another connection.
    #[error(
        "{} programs are connected to the node by HTTP: that is as many as may be",
        server::CONNECTIONS
    )]
    #[diagnostic(
        code("IPDC-7008"),
        help("ask again later, and let programs close connections that they do not need")
    )]
    Crowded,
    /// The body did not come.
    #[error("the request's body did not come in time")]
    #[diagnostic(code("IPDC-7009"), help("send it as soon as its headers are sent"))]
    Slow,
}

/// Binds the address.
///
/// # Errors
/// When it is in use or not loopback.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, ApiError> {
    if !addr.ip().is_loopback() {
        return Err(ApiError::NotLoopback(addr));
    }
    TcpListener::bind(addr).await.map_err(|source| ApiError::Listen { addr, source })
}

/// Serves until the node stops.
pub async fn serve(listener: TcpListener, node: Arc<Node>, token: String) {
    let stopped = node.stopped();
    let guard = Arc::new(Guard { token });
    let app = routes::router(node).layer(middleware::from_fn_with_state(guard, check));
    server::run(listener, app, stopped).await;
}

struct Guard {
    token: String,
}

async fn check(
    State(guard): State<Arc<Guard>>,
    Extension(guest): Extension<Arc<Guest>>,
    request: Request,
    next: Next,
) -> Response {
    match guard.admit(request.headers()) {
        Ok(()) if guest.prove() => next.run(request).await,
        Ok(()) => Failure::from(ApiError::Crowded).into_response(),
        Err(error) => Failure::from(error).into_response(),
    }
}

impl Guard {
    fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // Of two hosts, one is a lie.
        let is_one = headers.get_all(header::HOST).iter().count() == 1;
        if !is_one || !text(header::HOST).is_some_and(is_loopback) {
            return Err(ApiError::Foreign("Host"));
        }
        for origin in headers.get_all(header::ORIGIN) {
            let host = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
            if !host.is_some_and(is_loopback) {
                return Err(ApiError::Foreign("Origin"));
            }
        }
        let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let right = given.is_some_and(|given| same(given.as_bytes(), self.token.as_bytes()));
        if right { Ok(()) } else { Err(ApiError::Unauthorized) }
    }
}

/// Whether `host` (`name` or `name:port`) is the loopback interface by a name that no DNS server
/// can give to another.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// Equality that takes as long wherever the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// An error on its way out.
pub(crate) struct Failure(Problem);

impl<E: Diagnostic> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(Problem::of(&error))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = status_of(&self.0.code);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

/// The HTTP status that goes with an error's code.
fn status_of(code: &str) -> StatusCode {
    match code {
        "IPDC-7003" => StatusCode::UNAUTHORIZED,
        "IPDC-7004" | "IPDC-2207" | "IPDC-2209" => StatusCode::FORBIDDEN,
        // What a node's policy does not let its peer do.
        code if code.starts_with("IPDC-54") => StatusCode::FORBIDDEN,
        "IPDC-7005" | "IPDC-5002" | "IPDC-5202" | "IPDC-2006" | "IPDC-2211" => {
            StatusCode::BAD_REQUEST
        }
        code if code.starts_with("IPDC-35") => StatusCode::BAD_REQUEST,
        "IPDC-7006" | "IPDC-5001" | "IPDC-5003" | "IPDC-5004" | "IPDC-5201" | "IPDC-5204"
        | "IPDC-3204" | "IPDC-3301" | "IPDC-2208" | "IPDC-5610" | "IPDC-5811" => {
            StatusCode::NOT_FOUND
        }
        "IPDC-7007" => StatusCode::PAYLOAD_TOO_LARGE,
        "IPDC-7008" => StatusCode::SERVICE_UNAVAILABLE,
        "IPDC-7009" => StatusCode::REQUEST_TIMEOUT,
        "IPDC-5812" | "IPDC-5816" | "IPDC-5817" => StatusCode::BAD_REQUEST,
        "IPDC-5814" | "IPDC-5820" | "IPDC-5823" | "IPDC-5824" => StatusCode::CONFLICT,
        "IPDC-1501" | "IPDC-2010" | "IPDC-2210" | "IPDC-4007" | "IPDC-5611" => StatusCode::CONFLICT,
        "IPDC-4009" => StatusCode::TOO_MANY_REQUESTS,
        code if code.starts_with("IPDC-4") => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.clone(), header::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_loopback_names_with_the_token_are_let_in() {
        let guard = Guard { token: "secret".into() };
        let (host, auth, origin) = (header::HOST, header::AUTHORIZATION, header::ORIGIN);
        let good = [(host.clone(), "127.0.0.1:80"), (auth.clone(), "Bearer secret")];
        assert!(guard.admit(&headers(&good)).is_ok());
        let rebound = [(host.clone(), "evil.example:80"), (auth.clone(), "Bearer secret")];
        assert!(matches!(guard.admit(&headers(&rebound)), Err(ApiError::Foreign("Host"))));
        let page = [good[0].clone(), good[1].clone(), (origin, "https://evil.example")];
        assert!(matches!(guard.admit(&headers(&page)), Err(ApiError::Foreign("Origin"))));
        let mut two = headers(&good);
        two.append(host.clone(), header::HeaderValue::from_static("evil.example"));
        assert!(matches!(guard.admit(&two), Err(ApiError::Foreign("Host"))));
        let nowhere = [good[0].clone(), good[1].clone(), (header::ORIGIN, "null")];
        assert!(matches!(guard.admit(&headers(&nowhere)), Err(ApiError::Foreign("Origin"))));
        let wrong = [(host, "localhost"), (auth, "Bearer secreT")];
        assert!(matches!(guard.admit(&headers(&wrong)), Err(ApiError::Unauthorized)));
        assert!(matches!(guard.admit(&headers(&good[..1])), Err(ApiError::Unauthorized)));
    }
}
