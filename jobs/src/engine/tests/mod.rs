//! The engine against a world of a few lines. Each test looks at every action that the engine
//! gives: [`Lab`] panics when one is left over.

mod ending;
mod failing;
mod following;
mod lies;
mod running;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::*;
use crate::ids::{CODEC_RAW, Cid, FileRef, cid_of};
use crate::log::Log;
use crate::manifest::{self, Manifest};
use crate::message::{
    Assignment, ControllerNote, Cost, FailureClass, Held, Input, Outcome, Payload, Report,
};
use crate::sim::work::{Hashing, plan};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn peer(n: u8) -> PeerId {
    let hash = multihash::Multihash::wrap(0x12, &[n; 32]).expect("32 bytes fit");
    PeerId::from_multihash(hash).expect("a SHA-256 multihash names a peer")
}

/// The controller's own node, which has no slots unless a test gives it some.
fn controller() -> PeerId {
    peer(0)
}

fn facts(slots: u32) -> PeerFacts {
    PeerFacts {
        slots,
        runtimes: BTreeSet::from([Runtime::Wasm]),
        memory: 1 << 30,
        cpus: 4,
        ..PeerFacts::default()
    }
}

fn root(text: &str) -> Cid {
    cid_of(CODEC_RAW, text.as_bytes())
}

fn done(task: TaskId) -> Outcome {
    logged(task, Log::default())
}

/// A good end whose guests logged.
fn logged(task: TaskId, log: Log) -> Outcome {
    let (output, counters) = (output(task), Default::default());
    Outcome::Done { output, memoized: false, counters, log }
}

fn output(task: TaskId) -> Payload {
    Payload::Inline(format!("output of {task}").into())
}

/// A job with `scatter` tasks and `gather` that need them, on peers 1.. with these slots.
fn job(scatter: u32, gather: u32, slots: &[u32]) -> JobPlan {
    let manifest = Manifest {
        v: manifest::VERSION,
        kind: "hashing".to_owned(),
        code: root("code"),
        input: root("input"),
        config: serde_json::Value::Null,
        limits: manifest::Limits::default(),
        memo: true,
        workers: None,
        submitter: controller(),
        roster: vec![controller()],
        key: "k".to_owned(),
        submitted_ms: 0,
        step: None,
    };
    let workers = slots.iter().zip(1..).map(|(slots, n)| (peer(n), facts(*slots)));
    JobPlan {
        job: JobId::of_manifest(b"job"),
        epoch: Epoch(1),
        controller: controller(),
        manifest_file: FileRef { cid: root("manifest"), len: 8 },
        manifest,
        tasks: plan(scatter, gather),
        kind: &Hashing,
        needs: Needs::default(),
        peers: std::iter::once((controller(), facts(0))).chain(workers).collect(),
        warm: BTreeMap::new(),
        kept: std::sync::Arc::new(|_| None),
        secret: [7; 32],
        limits: Limits::default(),
    }
}

/// An engine and what it said that nobody looked at yet.
struct Lab {
    engine: Engine,
    now: Duration,
    said: VecDeque<Action>,
}

impl Lab {
    /// A new job whose first epoch was written with its acceptance.
    fn new(plan: JobPlan) -> Lab {
        let epoch = plan.epoch;
        Lab::recovered(plan, vec![Record::Epoch { epoch }])
    }

    fn recovered(plan: JobPlan, journal: Vec<Record>) -> Lab {
        let (engine, actions) = Engine::new(plan, S, journal);
        engine.check();
        Lab { engine, now: S, said: actions.into() }
    }

    fn tell(&mut self, event: Event) {
        self.said.extend(self.engine.apply(self.now, event));
        self.engine.check();
    }

    /// Lets time pass, as far as it takes, waking the engine when it wants to be woken.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.engine.next_wake().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.tell(Event::Tick);
        }
        self.now = end;
    }

    fn note(&mut self, from: PeerId, epoch: Epoch, body: ControllerNote) {
        let body = ToController { job: JobId::of_manifest(b"job"), epoch, body };
        self.tell(Event::Message { from, body });
    }

    fn report(&mut self, from: PeerId, (task, attempt): (TaskId, Attempt), outcome: Outcome) {
        let cost = Cost { wall_ms: 100, bytes_out: 10, ..Cost::default() };
        let proof = self.engine.proof(from, task, attempt);
        let reports = vec![Report { task, attempt, proof, outcome, cost }];
        self.note(from, self.engine.epoch, ControllerNote::Report { reports });
    }

    fn good(&mut self, from: PeerId, key: (TaskId, Attempt)) {
        self.report(from, key, done(key.0));
    }

    fn failed(&mut self, from: PeerId, key: (TaskId, Attempt), class: FailureClass) {
        let (code, message) = ("IPDC-5999".to_owned(), "it broke".to_owned());
        self.report(from, key, Outcome::Failed { class, code, message, log: Log::default() });
    }

    fn renew(&mut self, from: PeerId, held: &[(TaskId, Attempt)], running: bool) {
        let held = held.iter().map(|(task, attempt)| Held {
            task: *task,
            attempt: *attempt,
            proof: self.engine.proof(from, *task, *attempt),
            running,
            done: 0,
            total: 100,
            item: None,
        });
        let held = held.collect();
        let note = ControllerNote::Renew { held, free_slots: 0, granted: None };
        self.note(from, self.engine.epoch, note);
    }

    /// The next action.
    fn next(&mut self) -> Action {
        self.said.pop_front().expect("the engine says something")
    }

    /// The next action is an append; the journal holds it at once.
    fn appended(&mut self) -> Record {
        let (seq, record) = self.appending();
        self.tell(Event::Appended { seq });
        record
    }

    /// The next action is an append; it is still on its way.
    fn appending(&mut self) -> (u64, Record) {
        match self.next() {
            Action::Append { seq, record } => (seq, record),
            other => panic!("expected an append, not {other:?}"),
        }
    }

    /// The next action is an order; to whom, and what.
    fn order(&mut self) -> (PeerId, WorkerOrder) {
        match self.next() {
            Action::Send { to, message } => {
                assert_eq!(message.epoch, self.engine.epoch);
                (to, message.body)
            }
            other => panic!("expected an order, not {other:?}"),
        }
    }

    /// The next action blames this peer.
    fn blamed(&mut self) -> PeerId {
        match self.next() {
            Action::Blame { peer, .. } => peer,
            other => panic!("expected blame, not {other:?}"),
        }
    }

    /// The next actions are assignments: all of them, repeated ones once.
    fn assigned(&mut self) -> Vec<(PeerId, Assignment)> {
        let mut assigned = Vec::new();
        while let Some(Action::Send { to, message }) = self.said.front()
            && let WorkerOrder::Assign { assignments, .. } = &message.body
        {
            for assignment in assignments {
                let given = (*to, assignment.clone());
                if !assigned.contains(&given) {
                    assigned.push(given);
                }
            }
            self.said.pop_front();
        }
        assigned
    }

    /// The next actions are assignments; just one.
    fn one_assigned(&mut self) -> (PeerId, (TaskId, Attempt)) {
        let assigned = self.assigned();
        let [(worker, assignment)] = &assigned[..] else {
            panic!("expected one assignment, not {assigned:?}")
        };
        (*worker, (assignment.task, assignment.attempt))
    }

    fn settled(&mut self) -> (PeerId, Vec<(TaskId, Attempt)>) {
        match self.order() {
            (to, WorkerOrder::Settled { attempts }) => (to, attempts),
            other => panic!("expected a settlement, not {other:?}"),
        }
    }

    fn revoked(&mut self) -> (PeerId, Vec<(TaskId, Attempt)>) {
        match self.order() {
            (to, WorkerOrder::Revoke { attempts }) => (to, attempts),
            other => panic!("expected a revocation, not {other:?}"),
        }
    }

    /// The next action is an append of a commit; it becomes durable, and the report is settled.
    fn committed(&mut self) -> TaskId {
        let Record::Committed { task, attempt, worker, .. } = self.appended() else {
            panic!("expected a commit")
        };
        // What the commit brought about comes after the settlement; keep its order.
        assert_eq!(self.settled(), (worker, vec![(task, attempt)]));
        task
    }

    /// The job fails: the end is written and told.
    fn fails(&mut self) -> JobError {
        let Record::Ended(end) = self.appended() else { panic!("expected the end") };
        assert_eq!(self.next(), Action::Ended(end.clone()));
        assert_eq!(end.state, EndState::Failed);
        end.error.expect("a failure has a cause")
    }

    /// Everybody is told of the end and says so.
    fn goodbyes(&mut self) -> BTreeSet<PeerId> {
        let mut told = BTreeSet::new();
        while let Some(Action::Send { to, message }) = self.said.front()
            && message.body == WorkerOrder::End
        {
            told.insert(*to);
            self.said.pop_front();
        }
        for peer in &told {
            self.note(*peer, self.engine.epoch, ControllerNote::Gone);
        }
        assert_eq!(self.next(), Action::Over);
        told
    }

    /// Nobody may end a test before every action was looked at.
    fn finish_looking(self) {
        assert!(self.said.is_empty(), "nobody looked at {:#?}", self.said);
    }
}
