//! One request to one host, and what it sent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HOST, HeaderMap, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, USER_AGENT,
};
use hyper::{StatusCode, Version};
use ipdc_jobs::fetch::Rules;
use url::{Position, Url};

use super::body::{self, BadBody};
use super::request::fit;
use super::{FetchError, Fetched, Method, Request, Response, Shared};

pub(super) use super::body::Excess;
use crate::swarm::certificate::now_ms;

/// What is asked, and how much is taken for an answer.
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    pub(super) request: &'a Request,
    pub(super) rules: &'a Rules,
    /// What was there before: it is asked for only if it changed.
    pub(super) known: Option<&'a Visit>,
    /// Bytes of the body at most.
    pub(super) room: usize,
    pub(super) excess: Excess,
}

/// What a host sent for one request.
#[derive(Debug, Clone)]
pub struct Visit {
    /// What was asked for.
    pub url: Url,
    /// How.
    pub method: Method,
    /// When, milliseconds since 1970.
    pub fetched_ms: u64,
    /// Where it came from.
    pub ip: IpAddr,
    /// The version of HTTP that the host speaks.
    pub version: Version,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as it was sent but for how it was cut for the way.
    pub body: Bytes,
    /// When what is there came, if this says that it has not changed since.
    pub unchanged_since: Option<u64>,
}

impl Shared {
    /// Asks now, on a connection that is kept or on a new one.
    pub(super) async fn visit(&self, ask: &Ask<'_>) -> Result<Visit, FetchError> {
        let Ask { url, request, rules, .. } = ask;
        let fetched_ms = now_ms();
        let (mut connection, response) = loop {
            let kept = self.connections.take(url, |address| self.guard.is_open(address, rules));
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connections.open(url, rules, &self.guard).await?,
            };
            match connection.sender.send_request(message(ask)?).await {
                Ok(response) => break (connection, response),
                // The host may have closed it in this moment. A new one will not be.
                Err(_) if is_kept => {}
                Err(error) => return Err(FetchError::protocol(url, &error)),
            }
        };
        let (head, incoming) = response.into_parts();
        let sent = body::read(incoming, ask.room, ask.excess).await;
        let sent = sent.map_err(|bad| bad.at(url, rules))?;
        let is_unchanged = head.status == StatusCode::NOT_MODIFIED;
        let ip = connection.address;
        if sent.is_whole && connection.sender.ready().await.is_ok() {
            self.connections.keep(connection);
        }
        Ok(Visit {
            url: (*url).clone(),
            method: request.method,
            fetched_ms,
            ip,
            version: head.version,
            status: head.status,
            headers: head.headers,
            body: sent.bytes,
            unchanged_since: is_unchanged
                .then_some(ask.known.map(|known| known.fetched_ms))
                .flatten(),
        })
    }
}

fn message(ask: &Ask<'_>) -> Result<hyper::Request<Empty<Bytes>>, FetchError> {
    let Ask { url, request, rules, .. } = ask;
    let mut message = hyper::Request::new(Empty::new());
    *message.method_mut() = match request.method {
        Method::Get => hyper::Method::GET,
        Method::Head => hyper::Method::HEAD,
    };
    let path = &url[Position::BeforePath..Position::AfterQuery];
    *message.uri_mut() =
        path.parse().map_err(|_| FetchError::Request(format!("{url} has no good path")))?;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let headers = message.headers_mut();
    let text = |text: &str| HeaderValue::try_from(text).expect("it was checked to be plain text");
    headers.insert(HOST, text(host));
    headers.insert(USER_AGENT, text(rules.agent.as_str()));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    headers.extend(request.headers.clone());
    if let Some(known) = ask.known {
        let conditions = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
        for (said, condition) in conditions {
            headers.extend(known.headers.get(said).map(|value| (condition, value.clone())));
        }
    }
    Ok(message)
}

impl Visit {
    /// Where it sends who asked, if it does.
    pub(super) fn goal(&self) -> Option<Url> {
        if !matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = String::from_utf8_lossy(self.headers.get(LOCATION)?.as_bytes());
        fit(self.url.join(&location).ok()?).ok()
    }

    /// Whether a request may be sent on to `goal` as it is: to the same host, and not in the clear what was not.
    pub(super) fn is_near(&self, goal: &Url) -> bool {
        let is_laid_open = self.url.scheme() == "https" && goal.scheme() == "http";
        goal.host() == self.url.host() && !is_laid_open
    }

    /// The body as it was meant, of at most `limit` bytes.
    pub(super) fn decoded(&self, limit: u64) -> Result<Bytes, BadBody> {
        let encoding = self.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        body::decode(&self.body, encoding.unwrap_or_default(), limit)
    }

    /// The response for the guest, with where it may go on. Unpacks: not to be called where others wait.
    pub(super) fn response(self, goal: Option<Url>, rules: &Rules) -> Fetched {
        let body = self.decoded(rules.max_body).map_err(|bad| bad.at(&self.url, rules))?;
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            let header = headers.entry(name.to_string()).or_default();
            let comma = if header.is_empty() { "" } else { ", " };
            *header += &format!("{comma}{value}");
        }
        Ok(Response {
            url: self.url.into(),
            status: self.status.as_u16(),
            headers,
            location: goal.map(String::from),
            fetched_ms: self.fetched_ms,
            ip: self.ip,
            revalidated: false,
            body,
        })
    }
}

impl BadBody {
    fn at(self, url: &Url, rules: &Rules) -> FetchError {
        match self {
            BadBody::TooLarge => FetchError::TooLarge(rules.max_body),
            BadBody::Broken(message) => {
                let host = url.host_str().unwrap_or_default().to_owned();
                FetchError::Protocol { host, message }
            }
        }
    }
}
