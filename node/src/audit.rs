//! Who was let in and cut off, what was taken in, run and refused, and for whom: a log that is only
//! added to.
//!
//! [`Audit`] is a handle. To note something is to put it into a queue: nobody waits for the disk, and
//! attempts of one job are counted together. The queue is written about once a second, in one
//! transaction; a crash takes what was not written yet. The table is
//! [`state::audit`](crate::state::audit)'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipdc_jobs::ids::{JobId, PeerId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::state::{self, Db, StateError};
use crate::swarm::certificate::now_ms;

/// Notes that wait to be written: a second of more attempts than a node of 64 cores ends.
const QUEUE_LIMIT: usize = 16_384;

/// Between two writes.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// How long attempts of one job are counted together, if it does not end before.
const RUN_INTERVAL: Duration = Duration::from_secs(60);

/// Jobs of which it is remembered that they were refused, and why, so that each controller that asks
/// every minute does not fill the log: as many as a node works for.
const REFUSED_LIMIT: usize = 256;

/// The longest detail, in bytes.
const DETAIL_LIMIT: usize = 512;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was noted, milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub what: What,
    /// Whose nodes or jobs it is about; empty when that is not known.
    pub owner: String,
    /// Which node it is about: the member, the submitter.
    pub peer: Option<PeerId>,
    /// Which job.
    pub job: Option<JobId>,
    /// More, for people.
    pub detail: String,
}

/// The sorts of things that are noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// This node made an invitation.
    Invited,
    /// A node got its certificate by an invitation of this node.
    Joined,
    /// A member connected for the first time.
    Admitted,
    /// A member was cut off.
    Revoked,
    /// The swarm got a new key.
    Rekeyed,
    /// A member broke the rules again and again, and is kept out for a while.
    PutOut,
    /// A job of this node's user was taken in.
    Accepted,
    /// Attempts of a job ended here.
    Ran,
    /// A job was not taken in, or not worked for; a container by hand was not begun.
    Refused,
    /// A container by hand began or ended here.
    Rented,
    /// This node's user paused it.
    Paused,
    /// And resumed it.
    Resumed,
    /// Entries that there was no room for.
    Lost,
}

impl What {
    /// All of them.
    pub const ALL: [What; 13] = [
        What::Invited,
        What::Joined,
        What::Admitted,
        What::Revoked,
        What::Rekeyed,
        What::PutOut,
        What::Accepted,
        What::Ran,
        What::Refused,
        What::Rented,
        What::Paused,
        What::Resumed,
        What::Lost,
    ];

    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            What::Invited => "invited",
            What::Joined => "joined",
            What::Admitted => "admitted",
            What::Revoked => "revoked",
            What::Rekeyed => "rekeyed",
            What::PutOut => "put_out",
            What::Accepted => "accepted",
            What::Ran => "ran",
            What::Refused => "refused",
            What::Rented => "rented",
            What::Paused => "paused",
            What::Resumed => "resumed",
            What::Lost => "lost",
        }
    }

    /// The sort of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<What> {
        What::ALL.into_iter().find(|what| what.name() == name)
    }
}

impl Entry {
    /// An entry about `owner`, noted now.
    #[must_use]
    pub fn now(what: What, owner: &str, detail: impl Into<String>) -> Entry {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_LIMIT));
        Entry { at_ms: now_ms(), what, owner: owner.to_owned(), peer: None, job: None, detail }
    }
}

/// An attempt that ended here.
#[derive(Debug, Clone)]
pub struct Run {
    /// Of which job.
    pub job: JobId,
    /// Whose job that is.
    pub owner: String,
    /// Which node submitted it.
    pub submitter: PeerId,
    /// Whether it gave an output.
    pub is_good: bool,
    /// How long it took, milliseconds.
    pub wall_ms: u64,
    /// Answers of the network that it got.
    pub visits: u64,
}

/// Notes what happens. Clones write the same log.
#[derive(Clone)]
pub struct Audit {
    notes: mpsc::Sender<Note>,
    lost: Arc<AtomicU64>,
    db: Db,
}

enum Note {
    Entry(Entry),
    Run(Run),
    /// Nothing more of this job is to come.
    Over(JobId),
    /// Write all there is, then say so.
    Flush(oneshot::Sender<()>),
}

impl Audit {
    /// A log in `db`. Its task ends when the last handle is gone.
    #[must_use]
    pub fn start(db: Db) -> Audit {
        let (notes, queue) = mpsc::channel(QUEUE_LIMIT);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            db: db.clone(),
            lost: Arc::clone(&lost),
            entries: Vec::new(),
            runs: BTreeMap::new(),
            refused: HashMap::new(),
        };
        tokio::spawn(writer.run(queue));
        Audit { notes, lost, db }
    }

    /// Notes something.
    pub fn note(&self, entry: Entry) {
        self.put(Note::Entry(entry));
    }

    /// Notes an attempt that ended.
    pub fn ran(&self, run: Run) {
        self.put(Note::Run(run));
    }

    /// No more attempts of the job are to come.
    pub fn over(&self, job: JobId) {
        self.put(Note::Over(job));
    }

    fn put(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was noted so far is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.notes.send(Note::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }

    /// What happened within the last `since`, of one owner if one is named; the oldest first, and of
    /// very many the newest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(
        &self,
        since: Option<Duration>,
        owner: Option<String>,
    ) -> Result<Vec<Entry>, StateError> {
        self.flush().await;
        let ago = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let since_ms = since.map_or(0, |since| now_ms().saturating_sub(ago(since)));
        state::audit::read(&self.db, since_ms, owner).await
    }
}

/// The attempts of one job that are counted together.
struct Runs {
    owner: String,
    submitter: PeerId,
    since: Instant,
    good: u64,
    others: u64,
    wall_ms: u64,
    visits: u64,
}

impl Runs {
    fn entry(&self, job: JobId) -> Entry {
        let time = humantime::format_duration(Duration::from_millis(self.wall_ms));
        let mut detail = match (self.good, self.others) {
            (good, 0) => format!("{good} attempts, {time}"),
            (good, others) => format!("{good} attempts, {others} without an output, {time}"),
        };
        if self.visits > 0 {
            detail += &format!(", {} answers of the network", self.visits);
        }
        let entry = Entry::now(What::Ran, &self.owner, detail);
        Entry { peer: Some(self.submitter), job: Some(job), ..entry }
    }
}

/// The task that writes.
struct Writer {
    db: Db,
    lost: Arc<AtomicU64>,
    entries: Vec<Entry>,
    runs: BTreeMap<JobId, Runs>,
    /// Why jobs were refused last.
    refused: HashMap<JobId, String>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Note>) {
        let mut write_at = None;
        loop {
            let due = write_at.unwrap_or_else(Instant::now);
            tokio::select! {
                note = queue.recv() => match note {
                    Some(Note::Flush(done)) => {
                        self.end_runs(|_| true);
                        self.write().await;
                        let _ = done.send(());
                    }
                    Some(note) => {
                        self.take(note);
                        write_at = write_at.or_else(|| Some(Instant::now() + WRITE_INTERVAL));
                    }
                    None => break,
                },
                () = sleep_until(due), if write_at.is_some() => {
                    self.end_runs(|runs| runs.since.elapsed() >= RUN_INTERVAL);
                    self.write().await;
                    let is_counting = !self.runs.is_empty();
                    write_at = is_counting.then(|| Instant::now() + WRITE_INTERVAL);
                }
            }
        }
        self.end_runs(|_| true);
        self.write().await;
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Entry(entry) => {
                if !self.is_said_again(&entry) {
                    self.entries.push(entry);
                }
            }
            Note::Run(Run { job, owner, submitter, is_good, wall_ms, visits }) => {
                let since = Instant::now();
                let (good, others) = (0, 0);
                let fresh = Runs { owner, submitter, since, good, others, wall_ms: 0, visits: 0 };
                let runs = self.runs.entry(job).or_insert(fresh);
                runs.good += u64::from(is_good);
                runs.others += u64::from(!is_good);
                runs.wall_ms = runs.wall_ms.saturating_add(wall_ms);
                runs.visits = runs.visits.saturating_add(visits);
            }
            Note::Over(job) => {
                if let Some(runs) = self.runs.remove(&job) {
                    self.entries.push(runs.entry(job));
                }
            }
            Note::Flush(_) => {}
        }
    }

    /// Whether the same was said of the job last time.
    fn is_said_again(&mut self, entry: &Entry) -> bool {
        let (What::Refused, Some(job)) = (entry.what, entry.job) else { return false };
        if self.refused.len() >= REFUSED_LIMIT && !self.refused.contains_key(&job) {
            self.refused.clear();
        }
        let before = self.refused.insert(job, entry.detail.clone());
        before.as_ref() == Some(&entry.detail)
    }

    /// Turns the counts of jobs into entries.
    fn end_runs(&mut self, is_due: impl Fn(&Runs) -> bool) {
        let due: Vec<_> = self.runs.extract_if(.., |_, runs| is_due(runs)).collect();
        self.entries.extend(due.iter().map(|(job, runs)| runs.entry(*job)));
    }

    async fn write(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let detail = format!("{lost} notes came faster than they could be written");
            self.entries.push(Entry::now(What::Lost, "", detail));
        }
        if self.entries.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.entries);
        let count = entries.len() as u64;
        if let Err(error) = state::audit::append(&self.db, entries).await {
            // A full disk: the log says so when it has room again.
            tracing::warn!(%error, count, "the audit log could not be written");
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        libp2p_identity::Keypair::generate_ed25519().public().to_peer_id()
    }

    #[tokio::test]
    async fn attempts_of_one_job_make_one_entry_and_all_is_there_when_it_is_read() {
        let audit = Audit::start(Db::in_memory().unwrap());
        let (job, submitter) = (JobId::of_manifest(b"job"), peer());
        for n in 0..1_000 {
            let is_good = n % 100 != 0;
            let visits = u64::from(n < 3);
            audit.ran(Run { job, owner: "ann".into(), submitter, is_good, wall_ms: 2, visits });
        }
        audit.note(Entry::now(What::Paused, "bob", ""));
        let read = audit.read(Some(Duration::from_secs(60)), Some("ann".into())).await.unwrap();
        let [ran] = &read[..] else { panic!("one entry: {read:?}") };
        assert_eq!((ran.what, ran.peer, ran.job), (What::Ran, Some(submitter), Some(job)));
        assert_eq!(ran.detail, "990 attempts, 10 without an output, 2s, 3 answers of the network");
        assert_eq!(audit.read(None, None).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_refusal_that_is_repeated_is_noted_once_and_one_for_another_reason_again() {
        let audit = Audit::start(Db::in_memory().unwrap());
        let refused = |reason: &str| Entry {
            job: Some(JobId::of_manifest(b"job")),
            ..Entry::now(What::Refused, "ann", reason)
        };
        for reason in ["at night only", "at night only", "in use", "at night only"] {
            audit.note(refused(reason));
        }
        let read = audit.read(None, None).await.unwrap();
        let reasons: Vec<_> = read.iter().map(|entry| entry.detail.as_str()).collect();
        assert_eq!(reasons, ["at night only", "in use", "at night only"]);
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_counted_and_nobody_waits() {
        let audit = Audit::start(Db::in_memory().unwrap());
        // Nothing is taken out before the first await.
        for _ in 0..QUEUE_LIMIT + 7 {
            audit.note(Entry::now(What::Accepted, "ann", ""));
        }
        let read = audit.read(None, Some(String::new())).await.unwrap();
        let [lost] = &read[..] else { panic!("one entry: {read:?}") };
        assert_eq!(lost.what, What::Lost);
        assert!(lost.detail.starts_with("7 notes"), "{}", lost.detail);
    }

    #[test]
    fn every_sort_is_known_by_its_name() {
        for what in What::ALL {
            assert_eq!(What::of_name(what.name()), Some(what));
            assert_eq!(serde_json::to_value(what).unwrap(), what.name());
        }
    }
}
