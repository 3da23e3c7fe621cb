//! What an engine knows: tasks and their attempts, peers, stages. Data and small questions about
//! it; what is done about it is in the other files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::limits::SLOTS_LIMIT;
use super::types::{FailureReport, PeerFacts};
use crate::ids::{Attempt, PeerId, TaskId};
use crate::kind::ItemProgress;
use crate::log::Log;
use crate::message::{Cost, Counters, Payload};

/// Durations kept per stage to know its median: enough to be exact for small stages and close
/// for large ones.
const SAMPLES_KEPT: usize = 512;

/// Where a task is between "to be run" and "decided". Only the journal moves it to and from
/// [`TaskState::Committed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskState {
    /// No output yet.
    Open,
    /// An output is on its way into the journal.
    Committing,
    /// The journal holds its output.
    Committed,
    /// That the output is lost is on its way into the journal.
    Losing,
}

/// One task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) state: TaskState,
    /// Every attempt known, also of earlier epochs when they were taken over.
    pub(super) made: BTreeMap<Attempt, Made>,
    /// The number of this epoch's next attempt.
    pub(super) next_n: u32,
    /// Index of the group of tasks it needs, if it needs any.
    pub(super) group: Option<usize>,
    /// Whether it waits in a queue; in whose, if it has a home.
    pub(super) waiting: Option<Waiting>,
    /// It failed: not to be tried again before this.
    pub(super) retry_at: Option<Duration>,
    pub(super) tries: Tries,
    /// Peers that it should not go to again while there are others.
    pub(super) avoid: BTreeSet<PeerId>,
    /// Peers that failed it: if another one does it, they are to blame.
    pub(super) failed_on: BTreeSet<PeerId>,
    pub(super) failures: Vec<FailureReport>,
    pub(super) commit: Option<Commit>,
    /// Reports to settle when the commit is durable.
    pub(super) to_settle: Vec<(PeerId, Attempt)>,
    /// The newest attempt ever committed: after a loss only later ones count.
    pub(super) last_commit: Option<Attempt>,
    /// The output that was committed last: once something was made of it, a rerun must give the same.
    pub(super) first_output: Option<Payload>,
    /// Attempts up to this one read an output that has been replaced by another.
    pub(super) outdated: Option<Attempt>,
    /// By whose word its output was lost, how often.
    pub(super) lost_by: BTreeMap<PeerId, u32>,
}

/// A task's place in a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) home: Option<PeerId>,
    pub(super) since: Duration,
}

/// What went wrong with a task so far.
#[derive(Debug, Default)]
pub(super) struct Tries {
    pub(super) guest: u32,
    pub(super) other: u32,
    pub(super) deaths: u32,
    pub(super) losses: u32,
    /// Who reported another output than the one that something was made of.
    pub(super) differing: BTreeSet<PeerId>,
}

/// One attempt, from this engine's side.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) worker: PeerId,
    pub(super) fate: Fate,
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Fate {
    /// Its worker has it, or will.
    Live(Live),
    /// Not heard of in time. If its worker names it again while nobody else has the task, it is
    /// taken back.
    Lost,
    /// It ended, or was revoked.
    Closed,
}

/// A live attempt.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) assigned_at: Duration,
    /// Whether the worker named it.
    pub(super) acked: bool,
    /// Since when it runs; none while it waits for a slot. A guess until the worker says.
    pub(super) running_since: Option<Duration>,
    pub(super) lease_until: Duration,
    pub(super) resend_at: Duration,
    pub(super) sends: u32,
    /// When it last got further.
    pub(super) progress_at: Duration,
    pub(super) done: u64,
    /// The item of its that said last how far it is.
    pub(super) item: Option<ItemProgress>,
}

/// A decided output.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    pub(super) attempt: Attempt,
    pub(super) worker: PeerId,
    pub(super) output: Payload,
    pub(super) cost: Cost,
    pub(super) memoized: bool,
    pub(super) counters: Counters,
    pub(super) log: Log,
    /// When; none when an earlier term committed it.
    pub(super) at: Option<Duration>,
    /// Who has its files: the worker, and others that reported the same output.
    pub(super) holders: Vec<PeerId>,
}

impl Task {
    pub(super) fn new(group: Option<usize>) -> Task {
        Task {
            state: TaskState::Open,
            made: BTreeMap::new(),
            next_n: 1,
            group,
            waiting: None,
            retry_at: None,
            tries: Tries::default(),
            avoid: BTreeSet::new(),
            failed_on: BTreeSet::new(),
            failures: Vec::new(),
            commit: None,
            to_settle: Vec::new(),
            last_commit: None,
            first_output: None,
            outdated: None,
            lost_by: BTreeMap::new(),
        }
    }

    /// Its live attempts.
    pub(super) fn live(&self) -> impl Iterator<Item = (Attempt, PeerId, &Live)> {
        self.made.iter().filter_map(|(attempt, made)| match &made.fate {
            Fate::Live(live) => Some((*attempt, made.worker, live)),
            Fate::Lost | Fate::Closed => None,
        })
    }

    /// One live attempt, if it is.
    pub(super) fn live_mut(&mut self, attempt: Attempt) -> Option<&mut Live> {
        match &mut self.made.get_mut(&attempt)?.fate {
            Fate::Live(live) => Some(live),
            Fate::Lost | Fate::Closed => None,
        }
    }
}

/// A peer, whether it works for the job or not.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its place in the job's ranking, the lowest first.
    pub(super) rank: [u8; 32],
    pub(super) facts: PeerFacts,
    /// The slots that its policy grants the job's owner, where it said so.
    pub(super) granted: Option<u32>,
    /// When its connection broke; none while it is up.
    pub(super) down_since: Option<Duration>,
    /// Down for longer than the grace: its attempts were given up.
    pub(super) gone: bool,
    /// Live attempts it has, oldest first.
    pub(super) held: Vec<(TaskId, Attempt)>,
    /// Tasks at home here that nobody has been given yet.
    pub(super) queue: BTreeSet<TaskId>,
    pub(super) strikes: u32,
    /// The code of its last failure of its own making.
    pub(super) fault: Option<String>,
    /// Times it was avoided.
    pub(super) blocks: u32,
    pub(super) blocked_until: Option<Duration>,
    /// What it said when it refused, while that holds.
    pub(super) refusal: Option<String>,
    /// Whether it refused when it was last asked.
    pub(super) is_unwilling: bool,
    /// What it said when it last did, for the user.
    pub(super) last_refusal: Option<String>,
    /// Attempts it is given beyond its slots because its memo answers.
    pub(super) ahead: usize,
    /// Whether it had to run a task whose output it gave before: its memo is not what it was.
    pub(super) forgot: bool,
    /// When it last ended an attempt.
    pub(super) last_end: Duration,
    /// Whether it said what it still has, after a take-over.
    pub(super) answered: bool,
    /// When it was last told of a new epoch.
    pub(super) queried_at: Option<Duration>,
}

impl Peer {
    pub(super) fn new(rank: [u8; 32], facts: PeerFacts, now: Duration) -> Peer {
        Peer {
            rank,
            facts,
            granted: None,
            down_since: None,
            gone: false,
            held: Vec::new(),
            queue: BTreeSet::new(),
            strikes: 0,
            fault: None,
            blocks: 0,
            blocked_until: None,
            refusal: None,
            is_unwilling: false,
            last_refusal: None,
            ahead: 0,
            forgot: false,
            last_end: now,
            answered: false,
            queried_at: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.down_since.is_none()
    }

    pub(super) fn is_blocked(&self, now: Duration) -> bool {
        self.blocked_until.is_some_and(|until| now < until)
    }

    /// Attempts of the job that it runs at once.
    pub(super) fn slots(&self) -> usize {
        let slots = self.facts.slots.min(SLOTS_LIMIT);
        self.granted.map_or(slots, |granted| granted.min(slots)) as usize
    }
}

/// A peer on which the job's code did not fit.
#[derive(Debug)]
pub(super) struct Outgrown {
    pub(super) peer: PeerId,
    pub(super) memory: u64,
    pub(super) slots: u32,
    /// What it said.
    pub(super) message: String,
}

impl Outgrown {
    /// Whether the code will not fit on a peer with these facts either: one with no more memory, for
    /// no fewer attempts at a time.
    pub(super) fn covers(&self, facts: &PeerFacts) -> bool {
        facts.memory <= self.memory && facts.slots >= self.slots
    }
}

/// Tasks that some others need all of.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) tasks: Range<u32>,
    /// How many of them have no output that can be had.
    pub(super) missing: u32,
    pub(super) consumers: Vec<TaskId>,
}

/// One stage of the kind.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) total: u32,
    pub(super) done: u32,
    pub(super) weight: u64,
    /// Run times of its attempts, sorted.
    samples: Vec<Duration>,
}

impl Stage {
    /// Notes how long an attempt ran.
    pub(super) fn sample(&mut self, took: Duration) {
        if self.samples.len() < SAMPLES_KEPT {
            let index = self.samples.partition_point(|sample| *sample < took);
            self.samples.insert(index, took);
        }
    }

    /// How long its attempts usually run.
    pub(super) fn median(&self) -> Option<Duration> {
        self.samples.get(self.samples.len() / 2).copied()
    }
}

/// Something to look at again at a certain time. A timer that comes too early does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Attempt(TaskId, Attempt),
    Peer(PeerId),
    Retry(TaskId),
    Assign,
    Finish,
    Stall,
    /// Of a job that is open for more.
    Idle,
}
