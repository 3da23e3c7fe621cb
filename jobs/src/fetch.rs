//! What a job may fetch from the network, and how: `[fetch]` of its `job.toml`.
//!
//! A job without it fetches nothing. With it, the job asks for the right to fetch, and only nodes
//! whose policy grants that work for it. [`Rules`] are frozen with the job's configuration; who
//! fetches keeps to them. [`range`] says which addresses are public, [`robots`] reads robots.txt.
//! Nothing here touches the network.

mod range;
mod robots;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use range::{BadRange, Range, is_public};
pub use robots::{ROBOTS_LIMIT, Robots};

use crate::spec::{LIST_LIMIT, Located, Section, SpecError, Unit};

/// The longest user agent, in bytes: a name, a version and an address fit many times.
const AGENT_LIMIT: usize = 256;

/// Requests a second and host that can be asked for, beside 0: from one in some 17 minutes on.
const RATE: std::ops::RangeInclusive<f64> = 0.001..=10_000.0;

/// The most requests to one host at a time.
const CONCURRENCY: std::ops::RangeInclusive<u64> = 1..=64;

/// The longest body that can be asked for: it is in the node's memory while the guest reads it.
const MAX_BODY: std::ops::RangeInclusive<u64> = 1..=64 << 20;

/// The longest that a request may take: as long as a browser would wait.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=600_000;

/// The most redirects that can be followed: as many as browsers do.
const REDIRECTS: std::ops::RangeInclusive<u64> = 0..=20;

/// What a job fetches, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// How it names itself to the hosts that it asks.
    pub agent: Agent,
    /// The hosts that it may ask; all, when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Addresses that it may ask although they are not public. A node must allow them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Range>,
    /// Whether it keeps to the hosts' robots.txt.
    pub robots: bool,
    /// Requests a second to one host at most; 0, as many as there are.
    pub rate: f64,
    /// Requests to one host at a time.
    pub concurrency: u32,
    /// Bytes of a response's body at most, as sent and as decoded.
    pub max_body: u64,
    /// Milliseconds that a request may take, redirects included, waits for its turn not.
    pub timeout_ms: u64,
    /// Redirects that are followed.
    pub redirects: u32,
}

impl Rules {
    /// Those of a job that says nothing but who it is: one request a second, one at a time, 16 MiB,
    /// 30 s, five redirects.
    #[must_use]
    pub fn of(agent: Agent) -> Rules {
        Rules {
            agent,
            hosts: Vec::new(),
            private: Vec::new(),
            robots: true,
            rate: 1.0,
            concurrency: 1,
            max_body: 16 << 20,
            timeout_ms: 30_000,
            redirects: 5,
        }
    }

    /// Reads what was frozen. It came from another node, so it is checked again.
    ///
    /// # Errors
    /// When it is not of the form, or out of range.
    pub fn read(value: &Value) -> Result<Rules, BadRules> {
        let rules = Rules::deserialize(value)?;
        let is_in_range = rules.hosts.len() <= LIST_LIMIT
            && rules.private.len() <= LIST_LIMIT
            && is_rate(rules.rate)
            && CONCURRENCY.contains(&rules.concurrency.into())
            && MAX_BODY.contains(&rules.max_body)
            && TIMEOUT_MS.contains(&rules.timeout_ms)
            && REDIRECTS.contains(&rules.redirects.into());
        if is_in_range { Ok(rules) } else { Err(BadRules::Range) }
    }

    /// Whether the job may ask `host`, which is in lower case.
    #[must_use]
    pub fn allows_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host))
    }

    /// The least time between the beginnings of two requests to one host.
    #[must_use]
    pub fn interval(&self) -> Duration {
        if self.rate > 0.0 { Duration::from_secs_f64(1.0 / self.rate) } else { Duration::ZERO }
    }

    /// The time that a request may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// What a node must grant.
    #[must_use]
    pub fn reach(&self) -> Reach {
        Reach { private: self.private.clone() }
    }
}

/// What a job that fetches asks of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Addresses beside the public ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Range>,
}

/// Rules that nobody could have frozen.
#[derive(Debug, thiserror::Error)]
pub enum BadRules {
    /// They are not of the known form.
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    /// A number or a list is out of range.
    #[error("a number or a list of `fetch` is out of range")]
    Range,
}

/// How a job names itself: what is sent as `User-Agent`, with where its owner can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Agent(String);

impl Agent {
    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name by which a robots.txt speaks to it: what comes before the version.
    #[must_use]
    pub fn product(&self) -> &str {
        let end = self.0.bytes().position(|byte| !is_product(byte)).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

/// What RFC 9309 has in a product token.
fn is_product(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_')
}

/// A text that does not say who fetches.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a name and where its owner can be reached, as \"wordbot/1.0 (+https://example.org/bot)\" or \
     \"wordbot (ann@example.org)\": at most {AGENT_LIMIT} printable ASCII characters that begin with a letter"
)]
pub struct BadAgent;

impl TryFrom<String> for Agent {
    type Error = BadAgent;

    fn try_from(text: String) -> Result<Agent, BadAgent> {
        let is_text = text.len() <= AGENT_LIMIT && text.bytes().all(|b| (b' '..=b'~').contains(&b));
        let has_contact = ["://", "@"].iter().any(|sign| text.contains(sign));
        let is_named = text.bytes().next().is_some_and(is_product);
        if is_text && has_contact && is_named { Ok(Agent(text)) } else { Err(BadAgent) }
    }
}

impl From<Agent> for String {
    fn from(agent: Agent) -> String {
        agent.0
    }
}

/// A host's name, or `*.` and the end of names: `*.example.org` is for `a.example.org` and
/// `b.a.example.org`, and not for `example.org`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

impl HostPattern {
    /// Whether `host`, which is in lower case, is one of them.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == self.0,
        }
    }
}

/// A text that is no pattern of hosts.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a host's name as \"example.org\", its address, or \"*.example.org\" for all below"
)]
pub struct BadHost;

impl TryFrom<String> for HostPattern {
    type Error = BadHost;

    fn try_from(text: String) -> Result<HostPattern, BadHost> {
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(is_part) {
            return Err(BadHost);
        }
        Ok(HostPattern(text.to_ascii_lowercase()))
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.0
    }
}

fn is_rate(rate: f64) -> bool {
    rate == 0.0 || RATE.contains(&rate)
}

/// Reads `[fetch]`; none when something in it is wrong, and then what.
pub(crate) fn of_section(mut section: Section) -> (Option<Rules>, Vec<SpecError>) {
    let agent = section.required_text("agent").and_then(|text| section.checked("agent", text));
    let hosts = section.list("hosts");
    let private = section.list("private");
    let robots = section.truth("robots");
    let rate = rate(&mut section);
    let concurrency = section.integer("concurrency", CONCURRENCY);
    let max_body = section.measured("max_body", Unit::Bytes, MAX_BODY);
    let timeout = section.measured("timeout", Unit::Milliseconds, TIMEOUT_MS);
    let redirects = section.integer("redirects", REDIRECTS);
    let rules = agent.map(|agent| {
        let usual = Rules::of(agent);
        Rules {
            hosts,
            private,
            robots: robots.unwrap_or(usual.robots),
            rate: rate.unwrap_or(usual.rate),
            concurrency: concurrency.map_or(usual.concurrency, |n| n as u32),
            max_body: max_body.unwrap_or(usual.max_body),
            timeout_ms: timeout.unwrap_or(usual.timeout_ms),
            redirects: redirects.map_or(usual.redirects, |n| n as u32),
            ..usual
        }
    });
    (rules, section.finish())
}

fn rate(section: &mut Section) -> Option<f64> {
    let Located { value, line } = section.value("rate")?;
    let rate = value.as_f64().filter(|rate| is_rate(*rate));
    if rate.is_none() {
        let (least, most) = RATE.into_inner();
        let expected = format!("{least} to {most} requests a second, or 0 for no limit");
        section.error(line, format!("`fetch.rate` is {value}; expected {expected}"));
    }
    rate
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec;

    fn rules(text: &str) -> Result<Rules, Vec<String>> {
        let job = format!("kind = \"mr\"\n[fetch]\n{text}");
        match spec::parse(&job, spec::FILE) {
            Ok(mut specs) => Ok(specs.remove(0).fetch.unwrap().value),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    const AGENT: &str = "agent = \"wordbot/1.0 (+https://example.org/bot)\"\n";

    #[test]
    fn a_job_that_says_who_it_is_gets_polite_defaults() {
        let rules = rules(AGENT).unwrap();
        assert_eq!(rules, Rules::of(rules.agent.clone()));
        assert_eq!(rules.agent.product(), "wordbot");
        assert!(rules.robots);
        assert_eq!((rules.interval(), rules.concurrency), (Duration::from_secs(1), 1));
        assert!(rules.allows_host("anything.example"));
    }

    #[test]
    fn everything_can_be_said_and_is_frozen_and_read_back() {
        let rules = rules(&format!(
            "{AGENT}hosts = [\"Example.org\", \"*.example.net\"]\nprivate = [\"127.0.0.0/8\", \"10.1.2.3\"]\n\
             robots = false\nrate = 0.5\nconcurrency = 4\nmax_body = \"1MiB\"\ntimeout = \"5s\"\nredirects = 0\n"
        ));
        let rules = rules.unwrap();
        assert_eq!(rules.interval(), Duration::from_secs(2));
        assert_eq!(rules.private, ["127.0.0.0/8".parse().unwrap(), "10.1.2.3".parse().unwrap()]);
        assert_eq!((rules.robots, rules.concurrency, rules.redirects), (false, 4, 0));
        assert_eq!((rules.max_body, rules.timeout_ms), (1 << 20, 5_000));
        let frozen = serde_json::to_value(&rules).unwrap();
        assert_eq!(Rules::read(&frozen).unwrap(), rules);
    }

    #[test]
    fn hosts_are_matched_whole_or_by_their_end() {
        let rules = rules(&format!("{AGENT}hosts = [\"example.org\", \"*.example.net\"]")).unwrap();
        for (host, expected) in [
            ("example.org", true),
            ("a.example.org", false),
            ("badexample.org", false),
            ("example.net", false),
            ("a.example.net", true),
            ("b.a.example.net", true),
            (".example.net", false),
            ("badexample.net", false),
        ] {
            assert_eq!(rules.allows_host(host), expected, "{host}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_reported_with_its_line_and_what_was_expected() {
        let errors = rules(
            "agent = \"wordbot\"\nhosts = [\"https://example.org\"]\nprivate = [\"10.0.0.0/33\"]\n\
             rate = -1\nconcurrency = 0\nmax_body = \"1GiB\"\ntimeout = 5\nredirect = 1\n",
        )
        .unwrap_err();
        let expected = [
            "job.toml:3: `fetch.agent` has \"wordbot\": expected a name and where",
            "job.toml:4: `fetch.hosts` has \"https://example.org\": expected a host's name",
            "job.toml:5: `fetch.private` has \"10.0.0.0/33\": expected",
            "job.toml:6: `fetch.rate` is -1; expected 0.001 to 10000 requests a second",
            "job.toml:7: `fetch.concurrency` is 0; expected a whole number from 1 to 64",
            "job.toml:8: `fetch.max_body` is \"1GiB\"; expected 1B to 64MiB",
            "job.toml:9: `fetch.timeout` is 5; expected a time",
            "job.toml:10: unknown key `fetch.redirect`; did you mean `redirects`?",
        ];
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(rules("").unwrap_err(), ["job.toml: `fetch.agent` is missing"]);
    }

    #[test]
    fn who_fetches_cannot_smuggle_a_header_into_its_name() {
        for text in ["bot@x\\r\\nHost: y", "bot@\\u00e9", "(bot@x)", "bot@\\u0000"] {
            assert!(rules(&format!("agent = \"{text}\"")).is_err(), "{text}");
        }
    }

    #[test]
    fn rules_from_elsewhere_are_checked_again() {
        let mut frozen = serde_json::to_value(rules(AGENT).unwrap()).unwrap();
        for (key, wrong) in [
            ("rate", Value::from(1e9)),
            ("concurrency", 65.into()),
            ("max_body", 0.into()),
            ("timeout_ms", 1.into()),
            ("redirects", 21.into()),
            ("agent", "nobody".into()),
            ("hosts", serde_json::json!([""])),
        ] {
            let right = frozen.as_object_mut().unwrap().insert(key.to_owned(), wrong);
            assert!(Rules::read(&frozen).is_err(), "{key}");
            match right {
                Some(right) => frozen[key] = right,
                None => drop(frozen.as_object_mut().unwrap().remove(key)),
            }
        }
        assert!(Rules::read(&frozen).is_ok());
    }
}
