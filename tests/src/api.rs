//! A node's HTTP API, as a program would use it.

use std::time::Duration;

use serde_json::Value;
use ureq::http::Request;
use ureq::{Agent, AsSendBody};

/// The longest answer: a long poll's, and then some.
const ANSWER: Duration = Duration::from_secs(120);

/// The most bytes of an answer.
const ANSWER_BYTES: u64 = 1 << 30;

/// Calls to one node, over connections that are kept.
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body's JSON, if the call succeeded.
    ///
    /// # Panics
    /// When it did not, or that is no JSON.
    #[track_caller]
    #[must_use]
    pub fn ok(&self) -> Value {
        assert!(
            self.status < 400,
            "status {}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        self.json()
    }

    /// The body's JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Api {
    /// Of the node that listens at `address` (`host:port`) and gave out `token`.
    #[must_use]
    pub fn new(address: &str, token: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER))
            .proxy(None)
            .build();
        Api { agent: config.into(), base: format!("http://{address}"), token: token.to_owned() }
    }

    /// `GET /v1{path}`.
    ///
    /// # Panics
    /// When the node does not answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// `GET /v1{path}`, of a node that may not be there.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        self.call("GET", path, &[], ())
    }

    /// `POST /v1{path}` of a JSON value.
    ///
    /// # Panics
    /// When the node does not answer.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let sent =
            self.call("POST", path, &[("content-type", "application/json")], body.to_string());
        sent.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Any call, with headers of one's own beside the token.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsSendBody,
    ) -> Result<Answer, ureq::Error> {
        self.call_at(method, &format!("/v1{path}"), headers, body)
    }

    /// As [`Api::call`], of a path that is written out whole.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn call_at(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsSendBody,
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body)?)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec()?;
        Ok(Answer { status, body })
    }
}
