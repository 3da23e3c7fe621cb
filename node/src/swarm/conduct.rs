//! Conduct: members that break the rules, and when they are put out for it.
//!
//! Every room that hears peers says here, by [`Conduct::report`], what one did that no node does,
//! of whatever version, on however slow a link, with however wrong a clock. What can be bad luck is
//! no [`Misdeed`]: a stream that breaks or is late, an expired certificate, a form that is not known
//! here, a message about a job that has just ended.
//!
//! A misdeed costs its peer the stream or the message that it was done with, and is forgotten after
//! a while. Whoever goes on is put out: [`Conduct`] tells the swarm's [keeper](super::peers), which
//! closes its connections; for a time, longer with each, it is neither let in nor dialled.
//!
//! It owns the counts, in memory only, and closes nothing itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipdc_jobs::ids::{JobId, PeerId};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Misdeeds that are not forgotten yet, at which a peer is put out. A node with a fault in its
/// memory does a few in its life; one that means it does so many in a second.
pub const MISDEEDS_LIMIT: u32 = 20;

/// A misdeed is forgotten after each such time: what happens every minute puts nobody out.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// How long a peer is out at first: a program gone wild is stopped or mended within it.
pub const OUT_AT_FIRST: Duration = Duration::from_secs(60);

/// And at most; it doubles each time. Whoever is back for as long starts anew.
pub const OUT_AT_MOST: Duration = Duration::from_secs(3600);

/// Streams beyond a limit that count as one misdeed. One that was broken off may still count here
/// when the next comes, and a node that is busy is slow to notice.
const STREAMS_FOR_ONE: u32 = 10;

/// Peers of which misdeeds are remembered: as many as there can be members.
const RECORDS_LIMIT: usize = 4096;

/// Bytes of a topic that are shown: its rooms and a peer ID.
const TOPIC_SHOWN: usize = 128;

/// Something that no honest node does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misdeed {
    /// Bytes that no version of the protocol has, or a frame beyond its limit.
    #[error("what it sent on {on} cannot be read: {why}")]
    Garbage {
        /// The protocol.
        on: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A stream beyond those that a peer may have open.
    #[error("it opened more streams of {0} than a peer may have")]
    Streams(&'static str),
    /// A block whose bytes are not those of its CID.
    #[error("it sent other bytes than those of the block it was asked for")]
    WrongBlock,
    /// A certificate, a revocation or an address that its signer never signed.
    #[error("it told of {0}, which is forged")]
    Forged(&'static str),
    /// Facts beyond their limit.
    #[error("it told {0} bytes of facts")]
    Facts(usize),
    /// A topic of the broker where it has no business.
    #[error("it would {verb} {topic}, where it has no business")]
    Topic {
        /// What it would do.
        verb: &'static str,
        /// Where.
        topic: String,
    },
    /// More messages, for long, than any job makes.
    #[error("it floods this node with messages")]
    Flood,
    /// An order for a job of which it is no controller.
    #[error("it gave orders for job {0}, of which it is no controller")]
    Order(JobId),
    /// A note to a job that no worker of the job could have sent.
    #[error("it told job {job} {what}")]
    Note {
        /// The job.
        job: JobId,
        /// What it told.
        what: &'static str,
    },
}

impl Misdeed {
    /// That a peer would `verb` this `topic`.
    #[must_use]
    pub fn topic(verb: &'static str, topic: &str) -> Misdeed {
        let shown = &topic[..topic.floor_char_boundary(TOPIC_SHOWN)];
        Misdeed::Topic { verb, topic: shown.to_owned() }
    }
}

/// A peer that went on.
#[derive(Debug)]
pub(super) struct PutOut {
    pub(super) peer: PeerId,
    /// For how long it is out.
    pub(super) time: Duration,
    /// What it did last.
    pub(super) last: Misdeed,
}

/// Counts misdeeds. Clones count together.
#[derive(Clone)]
pub struct Conduct {
    records: Arc<Mutex<Records>>,
    put_out: mpsc::UnboundedSender<PutOut>,
}

impl Conduct {
    /// A count in which nobody did anything, and whom it puts out. That queue has no limit of its
    /// own: nobody is in it twice within [`OUT_AT_FIRST`].
    pub(super) fn new() -> (Conduct, mpsc::UnboundedReceiver<PutOut>) {
        let (put_out, verdicts) = mpsc::unbounded_channel();
        (Conduct { records: Arc::default(), put_out }, verdicts)
    }

    /// A count of its own that closes no connections: for tests of rooms without a swarm.
    #[must_use]
    pub fn alone() -> Conduct {
        Conduct::new().0
    }

    /// `peer`, as the transport knows it, did this.
    pub fn report(&self, peer: PeerId, misdeed: Misdeed) {
        let now = Instant::now();
        let is_stream = matches!(misdeed, Misdeed::Streams(_));
        if is_stream && !self.records().is_full_of_streams(peer, now) {
            tracing::debug!(%peer, "{misdeed}");
            return;
        }
        let standing = self.records().count(peer, now);
        match standing {
            // What it sent before its connections were closed.
            Standing::Out => tracing::debug!(%peer, "a peer that was put out: {misdeed}"),
            Standing::In(misdeeds) => {
                tracing::warn!(%peer, misdeeds, "a peer misbehaves: {misdeed}")
            }
            Standing::PutOut(time) => {
                tracing::warn!(%peer, misdeeds = MISDEEDS_LIMIT, "a peer misbehaves: {misdeed}");
                // Nobody listens while the swarm stops, and in tests without one.
                let _ = self.put_out.send(PutOut { peer, time, last: misdeed });
            }
        }
    }

    /// For how long `peer` is still out; none if it is not.
    #[must_use]
    pub fn is_out(&self, peer: PeerId) -> Option<Duration> {
        self.records().is_out(peer, Instant::now())
    }

    /// The misdeeds of `peer` that are not forgotten; none of one that was put out.
    #[must_use]
    pub fn misdeeds(&self, peer: PeerId) -> u32 {
        self.records().misdeeds(peer, Instant::now())
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is remembered of peers.
#[derive(Debug, Default)]
struct Records(HashMap<PeerId, Record>);

/// Where a peer stands after a misdeed.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It was out before.
    Out,
    /// It may go on, with so many misdeeds.
    In(u32),
    /// It is put out with this one, for so long.
    PutOut(Duration),
}

impl Records {
    fn count(&mut self, peer: PeerId, now: Instant) -> Standing {
        if !self.has_room_for(peer, now) {
            // Only thousands of members at once can bring this about.
            return Standing::In(1);
        }
        let record = self.0.entry(peer).or_insert_with(|| Record::new(now));
        if record.until > now {
            return Standing::Out;
        }
        record.forgive(now);
        record.misdeeds += 1;
        match record.misdeeds {
            MISDEEDS_LIMIT => Standing::PutOut(record.put_out(now)),
            misdeeds => Standing::In(misdeeds),
        }
    }

    /// Notes a stream beyond a limit. Whether that makes enough of them for a misdeed.
    fn is_full_of_streams(&mut self, peer: PeerId, now: Instant) -> bool {
        if !self.has_room_for(peer, now) {
            return false;
        }
        let record = self.0.entry(peer).or_insert_with(|| Record::new(now));
        record.streams += 1;
        record.streams.is_multiple_of(STREAMS_FOR_ONE)
    }

    /// Whether there is a record of `peer`, or room for one more.
    fn has_room_for(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.0.len() >= RECORDS_LIMIT && !self.0.contains_key(&peer) {
            self.0.retain(|_, record| !record.is_forgotten(now));
        }
        self.0.len() < RECORDS_LIMIT || self.0.contains_key(&peer)
    }

    fn is_out(&self, peer: PeerId, now: Instant) -> Option<Duration> {
        let left = self.0.get(&peer)?.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn misdeeds(&mut self, peer: PeerId, now: Instant) -> u32 {
        self.0.get_mut(&peer).map_or(0, |record| {
            record.forgive(now);
            record.misdeeds
        })
    }
}

/// What is remembered of one peer.
#[derive(Debug)]
struct Record {
    /// Misdeeds, as of `at`.
    misdeeds: u32,
    at: Instant,
    /// Streams beyond a limit, since the first misdeed.
    streams: u32,
    /// How often it was put out, and until when it is or was.
    outs: u32,
    until: Instant,
}

impl Record {
    fn new(now: Instant) -> Record {
        Record { misdeeds: 0, at: now, streams: 0, outs: 0, until: now }
    }

    fn forgive(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs() / FORGIVEN_AFTER.as_secs();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.misdeeds = self.misdeeds.saturating_sub(passed);
        self.at = if self.misdeeds == 0 { now } else { self.at + FORGIVEN_AFTER * passed };
        if self.until + OUT_AT_MOST <= now {
            self.outs = 0;
        }
    }

    /// Puts its peer out and gives for how long.
    fn put_out(&mut self, now: Instant) -> Duration {
        let time = OUT_AT_FIRST.saturating_mul(1 << self.outs.min(16)).min(OUT_AT_MOST);
        self.outs += 1;
        self.misdeeds = 0;
        self.until = now + time;
        time
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let forgiven = self.at + FORGIVEN_AFTER * self.misdeeds;
        forgiven <= now && (self.outs == 0 || self.until + OUT_AT_MOST <= now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Misdeeds of `peer` at `now` until one is not simply counted.
    fn go_on(records: &mut Records, peer: PeerId, now: Instant) -> (u32, Standing) {
        let standings = (1..).map(|n| (n, records.count(peer, now)));
        standings.into_iter().find(|(n, standing)| *standing != Standing::In(*n)).unwrap()
    }

    #[test]
    fn whoever_goes_on_is_put_out_longer_each_time() {
        let mut records = Records::default();
        let (peer, mut now) = (PeerId::random(), Instant::now());
        let mut times = Vec::new();
        for _ in 0..8 {
            let (n, standing) = go_on(&mut records, peer, now);
            let Standing::PutOut(time) = standing else { panic!("{standing:?} after {n}") };
            assert_eq!((n, records.is_out(peer, now)), (MISDEEDS_LIMIT, Some(time)));
            // What was under way adds nothing.
            assert_eq!(records.count(peer, now), Standing::Out);
            now += time;
            assert_eq!(records.is_out(peer, now), None);
            times.push(time);
        }
        assert_eq!(times[..2], [OUT_AT_FIRST, 2 * OUT_AT_FIRST]);
        assert_eq!(times[7], OUT_AT_MOST);
        // After a time without any it is as if there had been none.
        now += OUT_AT_MOST;
        let (_, standing) = go_on(&mut records, peer, now);
        assert_eq!(standing, Standing::PutOut(OUT_AT_FIRST));
    }

    #[test]
    fn what_happens_once_in_a_while_puts_nobody_out() {
        let mut records = Records::default();
        let (peer, mut now) = (PeerId::random(), Instant::now());
        for _ in 0..10 * MISDEEDS_LIMIT {
            assert_eq!(records.count(peer, now), Standing::In(1));
            now += FORGIVEN_AFTER;
        }
        assert_eq!(records.misdeeds(peer, now), 0);
    }

    #[test]
    fn only_so_many_peers_are_remembered_and_the_forgiven_make_room() {
        let mut records = Records::default();
        let (late, mut now) = (PeerId::random(), Instant::now());
        for _ in 0..RECORDS_LIMIT {
            records.count(PeerId::random(), now);
        }
        records.count(late, now);
        assert_eq!(records.misdeeds(late, now), 0);
        now += FORGIVEN_AFTER;
        records.count(late, now);
        assert_eq!((records.misdeeds(late, now), records.0.len()), (1, 1));
    }
}
