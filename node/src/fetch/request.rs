//! What a guest asks for, and what it gets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{
    self, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::FetchError;

/// The longest request, in bytes of JSON: a URL and some headers.
const REQUEST_LIMIT: usize = 32 << 10;

/// The longest URL: what servers and browsers agree on.
const URL_LIMIT: usize = 8 << 10;

/// Headers that a guest may add.
const HEADERS_LIMIT: usize = 32;

/// Those that are the node's to say: who asks, and how the connection is used.
const OURS: [HeaderName; 10] = [
    HOST,
    USER_AGENT,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    header::ACCEPT_ENCODING,
];

/// How something is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// All of it.
    #[default]
    Get,
    /// The head alone.
    Head,
}

/// One request of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for: http or https, without a fragment.
    pub url: Url,
    /// How.
    pub method: Method,
    /// Headers beside those that the node says.
    pub headers: HeaderMap,
}

/// A request as guests write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: String,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Request {
    /// A GET of `url`.
    ///
    /// # Errors
    /// When it is no http or https URL, too long, or has a password in it.
    pub fn get(url: &str) -> Result<Request, FetchError> {
        let wrong = |why: String| Err(FetchError::Request(why));
        if url.len() > URL_LIMIT {
            return wrong(format!("the URL is longer than {URL_LIMIT} bytes"));
        }
        match url.parse().map(fit) {
            Ok(Ok(url)) => Ok(Request { url, method: Method::Get, headers: HeaderMap::new() }),
            Ok(Err(why)) => wrong(why),
            Err(error) => wrong(format!("{url:?} is no URL: {error}")),
        }
    }

    /// The request that a guest wrote: a JSON object with `url`, and maybe `method` and `headers`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Request, FetchError> {
        let wrong = |why: String| FetchError::Request(why);
        if json.len() > REQUEST_LIMIT {
            return Err(wrong(format!("it is longer than {REQUEST_LIMIT} bytes")));
        }
        let written: Written =
            serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        if written.headers.len() > HEADERS_LIMIT {
            return Err(wrong(format!("it has more than {HEADERS_LIMIT} headers")));
        }
        let mut request = Request { method: written.method, ..Request::get(&written.url)? };
        for (name, value) in written.headers {
            let header = name.parse::<HeaderName>().ok().filter(|name| !is_ours(name));
            let value = HeaderValue::try_from(value).ok();
            let (Some(header), Some(value)) = (header, value) else {
                return Err(wrong(format!("the header {name:?} cannot be sent by a guest")));
            };
            request.headers.insert(header, value);
        }
        Ok(request)
    }
}

fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(name) || name.as_str().starts_with("proxy-")
}

/// `url` without its fragment, if it can be asked for; why not, else.
pub(super) fn fit(mut url: Url) -> Result<Url, String> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("{url} is of neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL has a name or a password in it".to_owned());
    }
    url.set_fragment(None);
    // What is not ASCII takes three times as much in a URL.
    if url.as_str().len() > URL_LIMIT {
        return Err(format!("the URL is longer than {URL_LIMIT} bytes"));
    }
    Ok(url)
}

/// What a host answered, for a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Response {
    /// Where it is from: what was asked for, or where the last redirect that was followed led.
    pub url: String,
    /// Its status.
    pub status: u16,
    /// Its headers by their names in small letters; of several of a name one, with commas between them. What is
    /// not UTF-8 in them is replaced.
    pub headers: BTreeMap<String, String>,
    /// Where a redirect leads that was not followed: to another host, or none should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// When it was asked for, milliseconds since 1970.
    pub fetched_ms: u64,
    /// The address it came from.
    pub ip: IpAddr,
    /// Whether it is from before, and the host says that it has not changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revalidated: bool,
    /// Its body, decoded.
    #[serde(rename = "body", serialize_with = "length")]
    pub body: Bytes,
}

/// The guest reads the body apart, and knows from the head how long it is.
fn length<S: serde::Serializer>(body: &Bytes, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(body.len() as u64)
}

impl Response {
    /// All but the body, and its length: one JSON object.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts encode")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_a_url_and_maybe_how() {
        let text = r#"{"url": "HTTP://Example.org:80/ä b?q#f", "method": "HEAD", "headers": {"Accept": "text/html"}}"#;
        let request = Request::parse(text.as_bytes()).unwrap();
        assert_eq!(request.url.as_str(), "http://example.org/%C3%A4%20b?q");
        assert_eq!(
            (request.method, request.headers["accept"].to_str().unwrap()),
            (Method::Head, "text/html")
        );
        // However an address is written, it is one.
        let odd = Request::get("http://0x7f.1/").unwrap();
        assert_eq!(odd.url.host_str(), Some("127.0.0.1"));
    }

    #[test]
    fn what_no_guest_may_ask_is_refused_with_a_reason() {
        let long = format!(r#"{{"url": "http://x/{}"}}"#, "a".repeat(URL_LIMIT));
        for (request, said) in [
            ("", "EOF"),
            (r#"{"url": "x"}"#, "is no URL"),
            (r#"{"url": "file:///etc/passwd"}"#, "neither http nor https"),
            (r#"{"url": "ftp://x/"}"#, "neither http nor https"),
            (r#"{"url": "http://ann:secret@x/"}"#, "password"),
            (r#"{"url": "http://x/", "method": "POST"}"#, "POST"),
            (r#"{"url": "http://x/", "body": ""}"#, "body"),
            (r#"{"url": "http://x/", "headers": {"Host": "y"}}"#, "\"Host\""),
            (r#"{"url": "http://x/", "headers": {"User-Agent": "y"}}"#, "\"User-Agent\""),
            (r#"{"url": "http://x/", "headers": {"Proxy-Authorization": "y"}}"#, "Proxy-"),
            (r#"{"url": "http://x/", "headers": {"A": "b\r\nHost: y"}}"#, "\"A\""),
            (&long, "longer than"),
        ] {
            let error = Request::parse(request.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), "request");
            assert!(error.to_string().contains(said), "{request}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_a_url_can_be_asked_for(rest in ".{0,40}") {
            if let Ok(Request { url, .. }) = Request::get(&format!("http://h/{rest}")) {
                let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
                proptest::prop_assert!(path.parse::<hyper::Uri>().is_ok(), "{path}");
            }
        }
    }
}
