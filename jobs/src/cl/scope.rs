//! What a job takes of the items that its items name: `[enqueue]` in `job.toml`.

use std::collections::BTreeSet;

use regex::Regex;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::fetch::HostPattern;
use crate::spec::{Section, SpecError};

use super::item::{ITEM_LIMIT, ITEMS_LIMIT};

/// How far from the first items a job goes, when it does not say.
const DEPTH: u32 = 16;

/// The furthest that can be asked for: a chain of links of which each names the next.
const DEPTH_LIMIT: u64 = 1_000_000;

/// How many items a job has in all, when it does not say.
const ITEMS: u64 = 100_000;

/// The rules by which items that are named become items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// How many items there may be on the way from one of the first to one that is taken.
    pub depth: u32,
    /// How many items the job may have in all.
    pub items: u64,
    /// The hosts of which URLs are taken; those of the first items, when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// What items must begin with, one of these, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix: Vec<String>,
    /// Regular expressions of which an item must match one, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Pattern>,
    /// Regular expressions of which it may match none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Pattern>,
}

/// A regular expression.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl TryFrom<String> for Pattern {
    type Error = regex::Error;

    fn try_from(text: String) -> Result<Pattern, regex::Error> {
        Regex::new(&text).map(Pattern)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0.as_str().to_owned()
    }
}

/// Reads `[enqueue]`.
pub(super) fn of_section(mut section: Section) -> (Scope, Vec<SpecError>) {
    let depth = section.integer("depth", 0..=DEPTH_LIMIT);
    let items = section.integer("items", 1..=ITEMS_LIMIT);
    let scope = Scope {
        depth: depth.map_or(DEPTH, |depth| depth as u32),
        items: items.unwrap_or(ITEMS),
        hosts: section.list("hosts"),
        prefix: section.list("prefix"),
        only: section.list("only"),
        except: section.list("except"),
    };
    (scope, section.finish())
}

/// The rules, ready to judge.
pub(super) struct Gate {
    scope: Scope,
    /// The hosts of the first items, when the job names none.
    first_hosts: Option<BTreeSet<String>>,
}

impl Gate {
    /// The rules of `scope` for a job whose first items are on these hosts.
    pub(super) fn new(scope: &Scope, first_hosts: BTreeSet<String>) -> Gate {
        let first_hosts = scope.hosts.is_empty().then_some(first_hosts);
        Gate { scope: scope.clone(), first_hosts }
    }

    /// An item that was named at this depth, in the form in which it is known; none, when it is not taken.
    pub(super) fn take(&self, named: &str, depth: u32) -> Option<Link> {
        let Scope { depth: deepest, hosts, prefix, only, except, .. } = &self.scope;
        if depth > *deepest || named.is_empty() || named.len() > ITEM_LIMIT {
            return None;
        }
        let link = Link::of(named);
        if let Some(host) = &link.host {
            let is_among = match &self.first_hosts {
                Some(first) => first.contains(host),
                None => hosts.iter().any(|pattern| pattern.matches(host)),
            };
            if !is_among {
                return None;
            }
        }
        let text = &link.text;
        let begins = |prefix: &String| text.starts_with(prefix);
        let matches = |pattern: &Pattern| pattern.0.is_match(text);
        let fits = (prefix.is_empty() || prefix.iter().any(begins))
            && (only.is_empty() || only.iter().any(matches))
            && !except.iter().any(matches);
        fits.then_some(link)
    }
}

/// An item as it is known, and the host that it is asked of, if it is a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) text: String,
    pub(super) host: Option<String>,
}

impl Link {
    /// A URL is known by its normal form without its fragment; what is none, as it is.
    pub(super) fn of(named: &str) -> Link {
        let url = Url::parse(named).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        match url {
            Some(mut url) => {
                url.set_fragment(None);
                let host = url.host_str().map(str::to_owned);
                Link { text: url.into(), host }
            }
            None => Link { text: named.to_owned(), host: None },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            depth: 2,
            items: 10,
            hosts: Vec::new(),
            prefix: Vec::new(),
            only: Vec::new(),
            except: Vec::new(),
        }
    }

    fn pattern(text: &str) -> Pattern {
        text.to_owned().try_into().unwrap()
    }

    fn taken(scope: &Scope, named: &str) -> Option<String> {
        Gate::new(scope, BTreeSet::from(["a.example".to_owned()]))
            .take(named, 1)
            .map(|link| link.text)
    }

    #[test]
    fn a_url_is_known_by_its_normal_form() {
        for named in ["http://A.example:80/x/../y#z", "http://a.example/y", "http://a.example/y#"] {
            assert_eq!(taken(&scope(), named).as_deref(), Some("http://a.example/y"), "{named}");
        }
    }

    #[test]
    fn other_hosts_than_those_of_the_first_items_are_left_out_unless_they_are_named() {
        assert_eq!(taken(&scope(), "http://b.example/"), None);
        let hosts =
            ["*.b.example", "b.example"].map(|host| host.to_owned().try_into().unwrap()).into();
        let named = Scope { hosts, ..scope() };
        assert!(taken(&named, "http://b.example/").is_some());
        assert!(taken(&named, "https://www.b.example/").is_some());
        assert_eq!(taken(&named, "http://a.example/"), None);
    }

    #[test]
    fn prefixes_and_patterns_narrow_what_is_taken() {
        let prefix = Scope { prefix: vec!["http://a.example/docs/".into()], ..scope() };
        assert!(taken(&prefix, "http://a.example/docs/1").is_some());
        assert_eq!(taken(&prefix, "http://a.example/blog/1"), None);
        let patterns =
            Scope { only: vec![pattern(r"\.html$")], except: vec![pattern("print")], ..scope() };
        assert!(taken(&patterns, "http://a.example/1.html").is_some());
        assert_eq!(taken(&patterns, "http://a.example/1.pdf"), None);
        assert_eq!(taken(&patterns, "http://a.example/print/1.html"), None);
    }

    #[test]
    fn what_is_too_deep_is_left_out() {
        let gate = Gate::new(&scope(), BTreeSet::from(["a.example".to_owned()]));
        assert!(gate.take("http://a.example/", 2).is_some());
        assert_eq!(gate.take("http://a.example/", 3), None);
    }

    #[test]
    fn what_is_no_url_has_no_host_and_is_taken_as_it_is() {
        assert_eq!(taken(&scope(), "chapter 7").as_deref(), Some("chapter 7"));
    }
}
