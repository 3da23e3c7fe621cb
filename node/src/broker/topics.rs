//! Every MQTT topic of ipdc, and who may use which.
//!
//! This is the one place that spells a topic. The rules for publishing and subscribing are here
//! too, as pure functions of names: `session.rs` asks, and enforces what it is told.
//!
//! | topic | written by | holds |
//! |---|---|---|
//! | `ipdc/v1/jobs/submit` | local users | a job to run |
//! | `ipdc/v1/submissions/<key>` | the node, retained | the answer to the submission of that key |
//! | `ipdc/v1/jobs/<id>` | the node, retained | a job's state |
//! | `ipdc/v1/jobs/<id>/cancel` | local users | stop that job |
//! | `ipdc/v1/node/<peer>` | the node, retained | whether a peer is present |
//! | `ipdc/v1/from/<peer>/…` | that peer | what it says to this node |
//! | `ipdc/v1/to/<peer>/…` | the node | what that peer may read here |

use ipdc_jobs::ids::{JobId, PeerId};

use super::Sender;

/// Where a local user submits a job.
pub const SUBMIT: &str = "ipdc/v1/jobs/submit";

/// The filter of all cancellations; [`job_to_cancel`] reads the topics it matches.
pub const CANCELS: &str = "ipdc/v1/jobs/+/cancel";

/// The filter of all messages that peers' nodes send about jobs; [`peer_about_jobs`] reads the
/// topics it matches.
pub const FROM_PEERS_ABOUT_JOBS: &str = "ipdc/v1/from/+/jobs";

/// The rooms under `ipdc/v1/` in which only the node writes, save for what [`Confinement`] lets
/// others do.
const ROOMS: [&str; 5] =
    ["ipdc/v1/jobs", "ipdc/v1/submissions", "ipdc/v1/node", "ipdc/v1/from", "ipdc/v1/to"];

/// What MQTT brokers say of themselves, and what is no topic but a way to subscribe.
const RESERVED: [&str; 2] = ["$SYS", "$share"];

/// The longest key of a submission, in bytes: room for a few hashes, far below MQTT's 64 KiB.
pub const KEY_LIMIT: usize = 256;

/// The longest topic or filter of a client, in bytes: twice what the longest of ours takes, with room
/// for a path of names. The broker keeps one with each subscription and each retained message.
pub const TOPIC_LIMIT: usize = 1024;

/// The most levels of a client's topic or filter: matching costs time for each.
pub const LEVELS_LIMIT: usize = 32;

/// Where the answer to the submission named `key` is retained; none when `key` cannot be a topic
/// level: empty, longer than [`KEY_LIMIT`], or with `/`, `+`, `#` or a control character in it.
#[must_use]
pub fn submission(key: &str) -> Option<String> {
    let odd = |c: char| matches!(c, '/' | '+' | '#') || c.is_control();
    let fits = !key.is_empty() && key.len() <= KEY_LIMIT && !key.contains(odd);
    fits.then(|| format!("ipdc/v1/submissions/{key}"))
}

/// Where a job's state is retained.
#[must_use]
pub fn job(id: JobId) -> String {
    format!("ipdc/v1/jobs/{id}")
}

/// Where a local user asks for a job to be cancelled.
#[must_use]
pub fn cancel(id: JobId) -> String {
    format!("ipdc/v1/jobs/{id}/cancel")
}

/// The job that a cancellation's topic names.
#[must_use]
pub fn job_to_cancel(topic: &str) -> Option<JobId> {
    topic.strip_prefix("ipdc/v1/jobs/")?.strip_suffix("/cancel")?.parse().ok()
}

/// Where a peer's presence is retained.
#[must_use]
pub fn node(peer: PeerId) -> String {
    format!("ipdc/v1/node/{peer}")
}

/// Where `sender`'s node writes to another node's broker about jobs.
#[must_use]
pub fn about_jobs(sender: PeerId) -> String {
    format!("ipdc/v1/from/{sender}/jobs")
}

/// The peer whose node wrote to a topic of [`FROM_PEERS_ABOUT_JOBS`].
#[must_use]
pub fn peer_about_jobs(topic: &str) -> Option<PeerId> {
    topic.strip_prefix("ipdc/v1/from/")?.strip_suffix("/jobs")?.parse().ok()
}

/// A topic below `ipdc/v1/to/<peer>/`, which that peer may read here.
#[must_use]
pub fn to_peer(peer: PeerId, rest: &str) -> String {
    format!("ipdc/v1/to/{peer}/{rest}")
}

/// Whether `outer` matches every topic that `inner` matches. Both are valid filters; a topic name
/// is a filter that matches itself, so this is also whether a filter matches a topic.
#[must_use]
pub fn covers(outer: &str, inner: &str) -> bool {
    // A leading wildcard does not reach the topics that begin with `$`.
    if inner.starts_with('$') && outer.starts_with(['+', '#']) {
        return false;
    }
    let mut inner = inner.split('/');
    for level in outer.split('/') {
        match (level, inner.next()) {
            // `a/#` matches `a` too, so it does not matter whether a level of `inner` is left.
            ("#", _) => return true,
            (_, None | Some("#")) => return false,
            ("+", Some(_)) => {}
            (name, Some(other)) if name == other => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

/// What a sender may do at this node's broker.
#[derive(Debug)]
pub struct Confinement {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Node,
    Local,
    Peer {
        /// The prefix of all topics it may write to.
        writes: String,
        /// The filter of all topics it may read.
        reads: String,
    },
}

impl Confinement {
    /// The rules for `sender`.
    #[must_use]
    pub fn of(sender: Sender) -> Self {
        let kind = match sender {
            Sender::Node => Kind::Node,
            Sender::Local => Kind::Local,
            Sender::Peer(peer) => Kind::Peer {
                writes: format!("ipdc/v1/from/{peer}/"),
                reads: format!("ipdc/v1/to/{peer}/#"),
            },
        };
        Confinement { kind }
    }

    /// Whether it may publish to `topic`, a valid topic name. Peers may not have it retained:
    /// this node's memory is not theirs.
    #[must_use]
    pub fn may_publish(&self, topic: &str, retain: bool) -> bool {
        match &self.kind {
            Kind::Node => true,
            _ if !fits(topic) => false,
            Kind::Local if topic == SUBMIT || job_to_cancel(topic).is_some() => !retain,
            Kind::Local => is_free(topic),
            Kind::Peer { writes, .. } => {
                !retain && topic.strip_prefix(writes.as_str()).is_some_and(|rest| !rest.is_empty())
            }
        }
    }

    /// Whether it may leave a will for `topic`, a valid topic name. The node hears no wills, so one
    /// to a local user's topics of the node would come to nothing, and is refused.
    #[must_use]
    pub fn may_leave_will(&self, topic: &str, retain: bool) -> bool {
        match &self.kind {
            Kind::Local => fits(topic) && is_free(topic),
            _ => self.may_publish(topic, retain),
        }
    }

    /// Whether it may subscribe to `filter`, a valid filter, shared or not. A peer is alone with what
    /// it may read, so it has nothing to share.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        match &self.kind {
            Kind::Node => true,
            Kind::Local => fits(filter),
            Kind::Peer { reads, .. } => fits(filter) && covers(reads, filter),
        }
    }

    /// Whether an answer to it may go to `topic`: an asker must not make the node write where
    /// only the node may.
    #[must_use]
    pub fn may_be_answered_at(&self, topic: &str) -> bool {
        match &self.kind {
            Kind::Node => true,
            _ if !fits(topic) => false,
            Kind::Local => is_free(topic),
            Kind::Peer { reads, .. } => covers(reads, topic),
        }
    }
}

/// Whether a client's topic or filter is neither too long nor too deep.
fn fits(topic: &str) -> bool {
    topic.len() <= TOPIC_LIMIT && topic.split('/').nth(LEVELS_LIMIT).is_none()
}

/// Whether `topic` is nobody's in particular.
pub(super) fn is_free(topic: &str) -> bool {
    let is_in = |room: &str| {
        topic.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !RESERVED.into_iter().chain(ROOMS).any(is_in)
}

#[cfg(test)]
mod tests {
    use mqtt5::topic_matches_filter;
    use proptest::prelude::*;

    use super::*;

    fn peer() -> PeerId {
        PeerId::random()
    }

    /// Short filters over a small alphabet, so that two of them often meet.
    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => "[ab$é]", 1 => Just("+".to_owned()), 1 => Just(String::new())];
        let tail = prop_oneof![2 => Just(""), 1 => Just("/#")];
        (proptest::collection::vec(level, 1..4), tail)
            .prop_map(|(levels, tail)| levels.join("/") + tail)
            .prop_filter("a filter is not empty", |filter| !filter.is_empty())
    }

    /// Topics that `filter` matches, with names no other filter spells, so that whoever matches
    /// all of them matches everything `filter` does.
    fn witnesses(filter: &str) -> Vec<String> {
        let named = filter.replace('+', "x");
        match named.strip_suffix("/#") {
            None => vec![named],
            Some(stem) => {
                let deeper = [format!("{stem}/x"), format!("{stem}/x/x/x/x/x")];
                // A topic name has a character at least.
                Some(stem.to_owned())
                    .filter(|stem| !stem.is_empty())
                    .into_iter()
                    .chain(deeper)
                    .collect()
            }
        }
    }

    proptest! {
        #[test]
        fn a_filter_covers_what_matches_no_more_than_it(outer in filter(), inner in filter()) {
            // What is above `/#` has no name, so it is no topic; `covers` is stricter than it need be.
            prop_assume!(inner != "/#");
            let all = witnesses(&inner).iter().all(|topic| topic_matches_filter(topic, &outer));
            prop_assert_eq!(covers(&outer, &inner), all, "{} over {}", outer, inner);
        }

        #[test]
        fn a_peer_reads_nothing_but_its_own(prefix in "(ipdc/v1/to/)?", inner in filter()) {
            let (me, other) = (peer(), peer());
            let confinement = Confinement::of(Sender::Peer(me));
            for filter in [inner.clone(), format!("{prefix}{inner}"), to_peer(other, &inner)] {
                prop_assert!(!confinement.may_subscribe(&filter), "{}", filter);
                let shared = format!("$share/g/{filter}");
                prop_assert!(!confinement.may_subscribe(&shared), "{}", shared);
            }
            prop_assert!(confinement.may_subscribe(&to_peer(me, &inner)));
            let shared = format!("$share/g/{}", to_peer(me, &inner));
            prop_assert!(!confinement.may_subscribe(&shared), "it has nobody to share it with");
        }

        #[test]
        fn a_peer_writes_nothing_but_its_own(rest in "[a-zé/]{1,12}") {
            let (me, other) = (peer(), peer());
            let confinement = Confinement::of(Sender::Peer(me));
            let own = format!("ipdc/v1/from/{me}/{rest}");
            prop_assert!(confinement.may_publish(&own, false));
            prop_assert!(!confinement.may_publish(&own, true));
            prop_assert!(confinement.may_leave_will(&own, false));
            prop_assert!(!confinement.may_leave_will(&own, true));
            let foreign = [
                rest.clone(),
                format!("ipdc/v1/from/{other}/{rest}"),
                format!("ipdc/v1/from/{me}"),
                to_peer(me, &rest),
                node(me),
                SUBMIT.to_owned(),
            ];
            for topic in &foreign {
                prop_assert!(!confinement.may_publish(topic, false), "{}", topic);
                prop_assert!(!confinement.may_leave_will(topic, false), "{}", topic);
            }
        }
    }

    #[test]
    fn a_topic_that_is_too_long_or_too_deep_is_nobodys() {
        let (local, me) = (Confinement::of(Sender::Local), peer());
        let prefix = format!("ipdc/v1/from/{me}/");
        for topic in ["x".repeat(TOPIC_LIMIT + 1), "/".repeat(LEVELS_LIMIT)] {
            assert!(!local.may_publish(&topic, false), "{topic}");
            assert!(!local.may_leave_will(&topic, false), "{topic}");
            assert!(!local.may_subscribe(&topic), "{topic}");
            assert!(!local.may_be_answered_at(&topic), "{topic}");
            let own = format!("{prefix}{topic}");
            assert!(!Confinement::of(Sender::Peer(me)).may_publish(&own, false), "{own}");
        }
        for topic in ["x".repeat(TOPIC_LIMIT), "/".repeat(LEVELS_LIMIT - 1)] {
            assert!(local.may_publish(&topic, false) && local.may_subscribe(&topic), "{topic}");
        }
    }

    #[test]
    fn a_peer_cannot_subscribe_round_its_own_prefix() {
        let me = peer();
        let confinement = Confinement::of(Sender::Peer(me));
        let around = [
            "#".to_owned(),
            "+/#".to_owned(),
            "ipdc/v1/to/#".to_owned(),
            "ipdc/v1/to/+/#".to_owned(),
            format!("ipdc/v1/+/{me}/#"),
            format!("ipdc/v1/to/{me}+/#"),
            "$share/g".to_owned(),
            "$share/g/#".to_owned(),
            "$SYS/#".to_owned(),
        ];
        for filter in around {
            assert!(!confinement.may_subscribe(&filter), "{filter}");
        }
    }

    #[test]
    fn a_local_user_cannot_speak_for_the_node_or_a_peer() {
        let confinement = Confinement::of(Sender::Local);
        let id = JobId::of_manifest(b"job");
        for topic in
            [SUBMIT.to_owned(), cancel(id), "home/kitchen".into(), "ipdc/v1/jobsite".into()]
        {
            assert!(confinement.may_publish(&topic, false), "{topic}");
        }
        let denied =
            [job(id), node(peer()), about_jobs(peer()), to_peer(peer(), "x"), "$SYS/x".into()];
        for topic in denied.into_iter().chain(submission("key")) {
            assert!(!confinement.may_publish(&topic, false), "{topic}");
            assert!(!confinement.may_leave_will(&topic, false), "{topic}");
            assert!(!confinement.may_be_answered_at(&topic), "{topic}");
        }
        assert!(!confinement.may_leave_will(SUBMIT, false), "the node hears no wills");
        assert!(!confinement.may_publish(SUBMIT, true), "a retained submission would come twice");
        assert!(!confinement.may_be_answered_at(SUBMIT));
    }

    #[test]
    fn topics_read_back_as_written() {
        let (id, from) = (JobId::of_manifest(b"job"), peer());
        assert_eq!(job_to_cancel(&cancel(id)), Some(id));
        assert!(covers(CANCELS, &cancel(id)));
        assert_eq!(peer_about_jobs(&about_jobs(from)), Some(from));
        assert!(covers(FROM_PEERS_ABOUT_JOBS, &about_jobs(from)));
        assert_eq!(job_to_cancel(SUBMIT), None);
    }

    #[test]
    fn a_key_that_is_no_topic_level_names_no_submission() {
        assert_eq!(submission("nightly").as_deref(), Some("ipdc/v1/submissions/nightly"));
        for key in ["", "a/b", "+", "#", "a\0", &"k".repeat(KEY_LIMIT + 1)] {
            assert_eq!(submission(key), None, "{key:?}");
        }
    }
}
