//! Pages from the network, for jobs with `[fetch]` in their `job.toml`.
//!
//! Everything here is `#[inline]`, as in [`side`](crate::side).

use std::borrow::Cow;
use std::fmt;

use crate::json;

/// Fetches `url`. Redirects to the same host are followed.
///
/// It waits: for the host's turn, as `job.toml` and the host's robots.txt have it, and for the response. In a
/// job without `[fetch]` it ends the guest.
///
/// # Errors
/// When there is no response. A response with a status such as 404 is one.
#[inline]
pub fn fetch(url: &str) -> Result<Response, FetchError> {
    Request::get(url).send()
}

/// What is asked for, where a GET of a URL is not enough.
#[derive(Debug, Clone)]
pub struct Request {
    method: &'static str,
    url: String,
    /// JSON members.
    headers: Vec<String>,
}

impl Request {
    /// All of what is at `url`, which is http or https.
    #[must_use]
    #[inline]
    pub fn get(url: &str) -> Request {
        Request { method: "GET", url: url.to_owned(), headers: Vec::new() }
    }

    /// The head alone.
    #[must_use]
    #[inline]
    pub fn head(url: &str) -> Request {
        Request { method: "HEAD", ..Request::get(url) }
    }

    /// Adds a header. Who asks, and how the connection is used, the node says itself.
    #[must_use]
    #[inline]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push(format!("{}:{}", json::quoted(name), json::quoted(value)));
        self
    }

    /// Asks.
    ///
    /// # Errors
    /// When there is no response.
    #[inline]
    pub fn send(&self) -> Result<Response, FetchError> {
        let (url, headers) = (json::quoted(&self.url), self.headers.join(","));
        let request =
            format!("{{\"method\":\"{}\",\"url\":{url},\"headers\":{{{headers}}}}}", self.method);
        let mut head = vec![0; host::fetch(request.as_bytes())];
        host::fetch_head(&mut head);
        if let Some(error) = json::member(&head, "error") {
            let part = |name| json::member(error.as_bytes(), name).unwrap_or_default();
            return Err(FetchError {
                kind: part("kind"),
                code: part("code"),
                message: part("message"),
            });
        }
        let len = json::member(&head, "body").and_then(|len| len.parse().ok()).unwrap_or(0);
        let (mut body, mut filled) = (vec![0; len], 0);
        while filled < len {
            match host::fetch_body(filled as u64, &mut body[filled..]) {
                0 => break,
                read => filled += read,
            }
        }
        body.truncate(filled);
        Ok(Response { head, body })
    }
}

/// What a host answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// A JSON object.
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Response {
    /// Its status: 200 when all is well.
    #[must_use]
    #[inline]
    pub fn status(&self) -> u16 {
        self.number("status") as u16
    }

    /// Where it is from: what was asked for, or where the last redirect that was followed led.
    #[must_use]
    #[inline]
    pub fn url(&self) -> String {
        json::member(&self.head, "url").unwrap_or_default()
    }

    /// Where a redirect leads that was not followed: to another host.
    #[must_use]
    #[inline]
    pub fn location(&self) -> Option<String> {
        json::member(&self.head, "location")
    }

    /// The header of this name, in small letters; of several with commas between.
    #[must_use]
    #[inline]
    pub fn header(&self, name: &str) -> Option<String> {
        json::member(json::member(&self.head, "headers")?.as_bytes(), name)
    }

    /// When it was asked for, milliseconds since 1970: the one clock that a guest sees.
    #[must_use]
    #[inline]
    pub fn fetched_ms(&self) -> u64 {
        self.number("fetched_ms")
    }

    /// Its body.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Its body as text: what is not UTF-8 in it is replaced.
    #[must_use]
    #[inline]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    #[inline]
    fn number(&self, name: &str) -> u64 {
        json::member(&self.head, name).and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchError {
    /// In a word: `timeout`, `robots`, …; `docs/fetch.md` has all of them.
    pub kind: String,
    /// The code of its page, `IPDC-55xx`.
    pub code: String,
    /// In words.
    pub message: String,
}

impl fmt::Display for FetchError {
    #[inline]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for FetchError {}

#[cfg(target_arch = "wasm32")]
mod host {
    #[allow(unsafe_code)]
    mod imports {
        #[link(wasm_import_module = "ipdc")]
        unsafe extern "C" {
            pub(super) fn fetch(ptr: *const u8, len: usize) -> usize;
            pub(super) fn fetch_head(ptr: *mut u8, cap: usize) -> usize;
            pub(super) fn fetch_body(offset: u64, ptr: *mut u8, cap: usize) -> usize;
        }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn fetch(request: &[u8]) -> usize {
        // SAFETY: the host reads the request during the call.
        unsafe { imports::fetch(request.as_ptr(), request.len()) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn fetch_head(room: &mut [u8]) -> usize {
        // SAFETY: the host writes within the room, during the call.
        unsafe { imports::fetch_head(room.as_mut_ptr(), room.len()) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn fetch_body(offset: u64, room: &mut [u8]) -> usize {
        // SAFETY: as in `fetch_head`.
        unsafe { imports::fetch_body(offset, room.as_mut_ptr(), room.len()) }
    }
}

/// Pages that a test gave, at their URLs.
#[cfg(not(target_arch = "wasm32"))]
mod host {
    use std::cell::RefCell;

    use crate::json;
    use crate::testing::{Page, give, with_given};

    thread_local! {
        static LAST: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
    }

    pub(super) fn fetch(request: &[u8]) -> usize {
        let url = json::member(request, "url").unwrap_or_default();
        let page = with_given(|given| given.pages.get(&url).cloned());
        let url = json::quoted(&url);
        let (head, body) = match page {
            Some(Page { status, headers, body }) => {
                let header = |(name, value): (&String, &String)| {
                    format!("{}:{}", json::quoted(name), json::quoted(value))
                };
                let headers: Vec<_> = headers.iter().map(header).collect();
                let (headers, len) = (headers.join(","), body.len());
                let head = format!(
                    "{{\"url\":{url},\"status\":{status},\"headers\":{{{headers}}},\"body\":{len}}}"
                );
                (head, body)
            }
            None => {
                let error = "\"kind\":\"name\",\"code\":\"IPDC-5507\",\"message\":\"no such page\"";
                (format!("{{\"error\":{{{error}}}}}"), Vec::new())
            }
        };
        let len = head.len();
        LAST.set((head.into_bytes(), body));
        len
    }

    pub(super) fn fetch_head(room: &mut [u8]) -> usize {
        LAST.with_borrow(|(head, _)| give(head, room))
    }

    pub(super) fn fetch_body(offset: u64, room: &mut [u8]) -> usize {
        LAST.with_borrow(|(_, body)| give(&body[offset as usize..], room).min(room.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Page, with_given};

    #[test]
    fn a_guest_gets_the_page_at_a_url_or_hears_why_not() {
        let url = "http://example.org/\"ä\"?q";
        let page = Page {
            status: 404,
            headers: [("content-type".to_owned(), "text/\"odd\"".to_owned())].into(),
            body: b"gone".to_vec(),
        };
        with_given(|given| given.pages.insert(url.to_owned(), page));
        let response = Request::head(url).header("Accept", "a\\b").send().expect("it was given");
        assert_eq!((response.status(), response.url().as_str()), (404, url));
        assert_eq!(response.header("content-type").as_deref(), Some("text/\"odd\""));
        assert_eq!((response.text().as_ref(), response.location()), ("gone", None));
        let error = fetch("http://example.org/").expect_err("it was not");
        assert_eq!(error.to_string(), "IPDC-5507: no such page");
    }
}
