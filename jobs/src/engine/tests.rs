//! The engine against a world of a few lines. Each test looks at every action that the engine
//! gives: [`Lab`] panics when one is left over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::*;
use crate::ids::{CODEC_RAW, Cid, FileRef, cid_of};
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
        labels: BTreeSet::new(),
        memory: 1 << 30,
        refuses: None,
    }
}

fn root(text: &str) -> Cid {
    cid_of(CODEC_RAW, text.as_bytes())
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
        workers: None,
        submitter: controller(),
        roster: vec![controller()],
        key: "k".to_owned(),
        submitted_ms: 0,
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
        let reports = vec![Report { task, attempt, outcome, cost }];
        self.note(from, self.engine.epoch, ControllerNote::Report { reports });
    }

    fn good(&mut self, from: PeerId, key: (TaskId, Attempt)) {
        self.report(from, key, Outcome::Done { output: output(key.0), memoized: false });
    }

    fn failed(&mut self, from: PeerId, key: (TaskId, Attempt), class: FailureClass) {
        let (code, message) = ("IPDC-5999".to_owned(), "it broke".to_owned());
        self.report(from, key, Outcome::Failed { class, code, message, log: Vec::new() });
    }

    fn renew(&mut self, from: PeerId, held: &[(TaskId, Attempt)], running: bool) {
        let held = held.iter().map(|(task, attempt)| Held {
            task: *task,
            attempt: *attempt,
            running,
            done: 0,
            total: 100,
        });
        let held = held.collect();
        self.note(from, self.engine.epoch, ControllerNote::Renew { held, free_slots: 0 });
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
    fn is_all(self) {
        assert!(self.said.is_empty(), "nobody looked at {:#?}", self.said);
    }
}

#[test]
fn a_job_of_one_task_runs_to_its_end() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    let (worker, key) = lab.one_assigned();
    lab.good(worker, key);
    let (seq, record) = lab.appending();
    assert!(matches!(record, Record::Committed { task: TaskId(0), .. }));
    assert!(lab.said.is_empty(), "nothing follows before the journal holds it");

    lab.tell(Event::Appended { seq });
    assert_eq!(lab.settled(), (worker, vec![key]));
    let Action::Build { outputs, report } = lab.next() else { panic!("expected a build") };
    let holders = vec![worker];
    assert_eq!(outputs, vec![Output { task: TaskId(0), payload: output(TaskId(0)), holders }]);
    assert_eq!(report.tasks[0].commit.as_ref().map(|commit| commit.worker), Some(worker));
    assert_eq!(lab.engine.progress().phase, Phase::Storing);

    let (result, report) = (root("result"), root("report"));
    lab.tell(Event::ResultBuilt { result, report });
    assert_eq!(lab.appended(), Record::Built { result, report });
    let (keeper, order) = lab.order();
    assert_eq!(keeper, worker);
    assert!(matches!(order, WorkerOrder::Store { roots, .. } if roots == [result, report]));
    lab.note(worker, Epoch(1), ControllerNote::Stored { roots: vec![result, report], error: None });
    let (seq, record) = lab.appending();
    assert!(lab.said.is_empty(), "the user hears of it when it is durable");
    lab.tell(Event::Appended { seq });
    let Record::Ended(end) = record else { panic!("expected the end") };
    assert_eq!((end.state, end.result, &end.note), (EndState::Done, Some(result), &None));
    assert_eq!(lab.next(), Action::Ended(end));
    assert_eq!(lab.goodbyes(), [worker].into());
    assert!(lab.engine.is_over());
    lab.is_all();
}

#[test]
fn nothing_is_said_before_the_epoch_is_durable() {
    let mut lab = Lab::recovered(job(2, 0, &[2]), Vec::new());
    let (seq, record) = lab.appending();
    assert_eq!(record, Record::Epoch { epoch: Epoch(1) });
    lab.wait(5 * S);
    assert!(lab.said.is_empty());
    lab.tell(Event::Appended { seq });
    assert_eq!(lab.assigned().len(), 2);
    lab.is_all();
}

#[test]
fn a_job_without_tasks_is_built_at_once() {
    let mut lab = Lab::new(job(0, 0, &[1]));
    assert!(matches!(lab.next(), Action::Build { outputs, .. } if outputs.is_empty()));
    lab.is_all();
}

#[test]
fn with_three_workers_each_runs_a_quarter_of_25_tasks() {
    let mut lab = Lab::new(job(25, 0, &[2, 2, 2]));
    let mut ran: BTreeMap<PeerId, usize> = BTreeMap::new();
    let mut waiting: BTreeMap<PeerId, VecDeque<(TaskId, Attempt)>> = BTreeMap::new();
    loop {
        for (worker, assignment) in lab.assigned() {
            waiting.entry(worker).or_default().push_back((assignment.task, assignment.attempt));
        }
        // One after another ends a task; the first worker is three times as fast.
        lab.now += 30 * MS;
        let workers: Vec<PeerId> = waiting.keys().copied().collect();
        for (n, worker) in workers.into_iter().enumerate() {
            for _ in 0..if n == 0 { 3 } else { 1 } {
                let next = waiting.get_mut(&worker).and_then(VecDeque::pop_front);
                let Some(key) = next else { continue };
                lab.good(worker, key);
                *ran.entry(worker).or_default() += 1;
            }
        }
        while let Some(Action::Append { .. }) = lab.said.front() {
            let (seq, _) = lab.appending();
            lab.tell(Event::Appended { seq });
        }
        lab.said.retain(|action| {
            !matches!(action, Action::Send { message, .. }
                if matches!(message.body, WorkerOrder::Settled { .. }))
        });
        if matches!(lab.said.front(), Some(Action::Build { .. })) {
            break;
        }
    }
    assert!(ran.values().all(|count| *count >= 7), "{ran:?}");
    assert_eq!(ran.values().sum::<usize>(), 25);
}

#[test]
fn a_second_copy_of_a_report_commits_nothing() {
    let mut lab = Lab::new(job(2, 0, &[2]));
    let assigned = lab.assigned();
    let (worker, first) = (assigned[0].0, (assigned[0].1.task, assigned[0].1.attempt));
    lab.good(worker, first);
    lab.good(worker, first);
    assert_eq!(lab.committed(), first.0);
    lab.good(worker, first);
    assert_eq!(lab.settled(), (worker, vec![first]));
    lab.is_all();
}

#[test]
fn a_report_by_a_worker_that_was_not_asked_commits_nothing() {
    let mut lab = Lab::new(job(1, 0, &[1, 1]));
    let (worker, key) = lab.one_assigned();
    let other = if worker == peer(1) { peer(2) } else { peer(1) };
    lab.good(other, key);
    assert_eq!(lab.settled(), (other, vec![key]));
    lab.good(worker, (key.0, Attempt { n: 7, ..key.1 }));
    assert_eq!(lab.settled().0, worker);
    lab.good(worker, (TaskId(99), key.1));
    assert_eq!(lab.settled().0, worker);
    lab.is_all();
}

#[test]
fn a_task_survives_its_worker() {
    let mut lab = Lab::new(job(1, 0, &[1, 1]));
    let (worker, (task, attempt)) = lab.one_assigned();
    lab.renew(worker, &[(task, attempt)], true);
    lab.tell(Event::PeerDown { peer: worker });
    lab.wait(2 * S);
    assert!(lab.said.is_empty(), "it may come back");
    lab.wait(2 * S);
    let (other, (again, next)) = lab.one_assigned();
    assert_ne!(other, worker);
    assert_eq!((again, next), (task, Attempt { n: 2, ..attempt }));

    // The first one comes back and was not dead: whichever reports first wins.
    lab.tell(Event::PeerUp { peer: worker, facts: facts(1) });
    lab.good(worker, (task, attempt));
    let Record::Committed { worker: winner, .. } = lab.appended() else { panic!("a commit") };
    assert_eq!(winner, worker);
    assert_eq!(lab.settled(), (worker, vec![(task, attempt)]));
    assert_eq!(lab.revoked(), (other, vec![(task, next)]));
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.is_all();
}

#[test]
fn an_order_is_repeated_until_it_is_answered_and_then_renewed() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    let (worker, key) = lab.one_assigned();
    lab.wait(S);
    assert_eq!(lab.one_assigned(), (worker, key));
    lab.wait(S);
    assert_eq!(lab.one_assigned(), (worker, key));
    lab.renew(worker, &[key], true);
    for _ in 0..20 {
        lab.wait(4 * S);
        lab.renew(worker, &[key], true);
    }
    assert!(lab.said.is_empty());
    // Silence for a lease: lost, and tried again, here for want of another.
    lab.wait(13 * S);
    let (_, (task, attempt)) = lab.one_assigned();
    assert_eq!((task, attempt.n), (key.0, 2));
    lab.is_all();
}

#[test]
fn a_lost_attempt_that_turns_up_again_is_taken_back() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    let (worker, key) = lab.one_assigned();
    lab.renew(worker, &[key], true);
    lab.tell(Event::PeerDown { peer: worker });
    lab.wait(10 * S);
    assert!(lab.said.is_empty(), "there is nobody else");
    assert_eq!(
        lab.engine.progress().why.as_deref(),
        Some("no peer can run this: 1 away, 1 without slots")
    );
    lab.renew(worker, &[key], true);
    lab.tell(Event::PeerUp { peer: worker, facts: facts(1) });
    lab.wait(2 * S);
    assert!(lab.said.is_empty(), "it runs on");
    lab.good(worker, key);
    assert_eq!(lab.committed(), key.0);
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.is_all();
}

#[test]
fn a_guest_that_fails_on_three_workers_fails_the_job() {
    let mut lab = Lab::new(job(1, 0, &[1, 1, 1, 1]));
    let mut tried = BTreeSet::new();
    for n in 1..=2 {
        let (worker, key) = lab.one_assigned();
        assert_eq!(key.1.n, n);
        assert!(tried.insert(worker), "each try is on another worker");
        lab.failed(worker, key, FailureClass::Guest);
        assert_eq!(lab.settled(), (worker, vec![key]));
        // A second copy counts for nothing.
        lab.failed(worker, key, FailureClass::Guest);
        assert_eq!(lab.settled(), (worker, vec![key]));
        lab.wait(S);
    }
    let (worker, key) = lab.one_assigned();
    assert!(tried.insert(worker));
    lab.failed(worker, key, FailureClass::Guest);
    let (seq, record) = lab.appending();
    assert_eq!(lab.settled(), (worker, vec![key]));
    lab.tell(Event::Appended { seq });
    let Record::Ended(End { state: EndState::Failed, error: Some(error), .. }) = &record else {
        panic!("expected a failure, not {record:?}")
    };
    assert_eq!((error.code.as_str(), error.task), ("IPDC-5999", Some(TaskId(0))));
    assert_eq!(error.message, "task 0 failed 3 times, at last with: it broke");
    assert!(matches!(lab.next(), Action::Ended(_)));
    assert_eq!(lab.goodbyes(), tried);
    assert_eq!(lab.engine.report().tasks[0].failures.len(), 3);
    lab.is_all();
}

#[test]
fn a_worker_that_fails_what_others_finish_is_avoided() {
    let mut plan = job(3, 0, &[1, 1]);
    plan.limits.prefetch = 2;
    let mut lab = Lab::new(plan);
    let bad = peer(1);
    let mut failed = 0;
    let mut is_over = false;
    while !is_over {
        for (worker, assignment) in lab.assigned() {
            let key = (assignment.task, assignment.attempt);
            if worker == bad {
                failed += 1;
                lab.failed(worker, key, FailureClass::Worker);
            } else {
                lab.good(worker, key);
            }
        }
        while let Some(action) = lab.said.pop_front() {
            match action {
                Action::Append { seq, .. } => lab.tell(Event::Appended { seq }),
                Action::Build { .. } => is_over = true,
                Action::Send { to, message }
                    if matches!(message.body, WorkerOrder::Assign { .. }) =>
                {
                    lab.said.push_front(Action::Send { to, message });
                    break;
                }
                _ => {}
            }
        }
        lab.wait(S);
    }
    assert!((1..=3).contains(&failed), "{failed} tasks went to the bad worker");
}

#[test]
fn a_task_that_takes_its_workers_down_fails_the_job() {
    let mut plan = job(1, 0, &[1, 1, 1]);
    plan.limits.deaths = 3;
    let mut lab = Lab::new(plan);
    for n in 1..=3 {
        let (worker, key) = lab.one_assigned();
        assert_eq!(key.1.n, n);
        lab.renew(worker, &[key], true);
        lab.tell(Event::PeerDown { peer: worker });
        lab.wait(4 * S);
    }
    let error = lab.fails();
    assert_eq!(error.code, "IPDC-5101");
    assert_eq!(lab.next(), Action::Over, "nobody is left to tell");
    lab.is_all();
}

/// A job of two stages of which the first is committed: `(consumer's worker, its attempt)`.
fn with_a_consumer() -> (Lab, PeerId, PeerId, (TaskId, Attempt)) {
    let mut lab = Lab::new(job(1, 1, &[1, 1]));
    let (maker, key) = lab.one_assigned();
    lab.good(maker, key);
    assert_eq!(lab.committed(), TaskId(0));
    let assigned = lab.assigned();
    let [(reader, assignment)] = &assigned[..] else { panic!("one consumer") };
    let Payload::Inline(inputs) = &assignment.inputs else { panic!("inputs are inline") };
    let inputs: Vec<Input> = serde_json::from_slice(inputs).expect("inputs decode");
    assert_eq!((inputs[0].task, &inputs[0].holders), (TaskId(0), &vec![maker]));
    let key = (assignment.task, assignment.attempt);
    (lab, maker, *reader, key)
}

#[test]
fn a_lost_output_is_made_again_elsewhere_and_must_be_the_same() {
    let (mut lab, maker, reader, key) = with_a_consumer();
    let lost = |tasks| Outcome::InputLost { tasks, message: "nobody has it".to_owned() };
    lab.report(reader, key, lost(vec![TaskId(0)]));
    let (seq, record) = lab.appending();
    assert_eq!(record, Record::Lost { task: TaskId(0) });
    assert_eq!(lab.settled(), (reader, vec![key]));
    lab.tell(Event::Appended { seq });
    let (other, (task, attempt)) = lab.one_assigned();
    assert_eq!((task, attempt.n), (TaskId(0), 2));
    assert_ne!(other, maker, "its holder lost it once");

    // A late copy of the first report does not bring the lost output back.
    lab.good(maker, (TaskId(0), Attempt { n: 1, ..attempt }));
    assert_eq!(lab.settled().0, maker);

    let different = Payload::Inline("something else".into());
    lab.report(other, (task, attempt), Outcome::Done { output: different, memoized: false });
    let error = lab.fails();
    assert_eq!(error.code, "IPDC-5103");
    lab.goodbyes();
    lab.is_all();
}

#[test]
fn a_reader_that_finds_nothing_lost_just_tries_again() {
    let (mut lab, _, reader, key) = with_a_consumer();
    let outcome = Outcome::InputLost { tasks: vec![TaskId(1)], message: "eh?".to_owned() };
    lab.report(reader, key, outcome);
    assert_eq!(lab.settled(), (reader, vec![key]));
    lab.wait(S);
    assert_eq!(lab.one_assigned().1.0, key.0);
    lab.is_all();
}

#[test]
fn an_output_is_made_again_when_its_holder_stays_away() {
    let (mut lab, maker, reader, key) = with_a_consumer();
    let left = lab.now;
    lab.tell(Event::PeerDown { peer: maker });
    // Whoever has the consumer lives on.
    let mut held = (reader, key);
    while !matches!(lab.said.front(), Some(Action::Append { .. })) {
        if held.0 != maker {
            lab.renew(held.0, &[held.1], true);
        }
        lab.wait(S);
        if let [(worker, assignment), ..] = &lab.assigned()[..] {
            held = (*worker, (assignment.task, assignment.attempt));
        }
    }
    assert_eq!(lab.now - left, lab.engine.plan.limits.holder_gone);
    assert_eq!(lab.appended(), Record::Lost { task: TaskId(0) });
    // It waits behind the consumer, which holds the only slot, as one more.
    let (other, (task, _)) = lab.one_assigned();
    assert_eq!(task, TaskId(0));
    assert_ne!(other, maker);
    lab.is_all();
}

#[test]
fn a_peer_that_lacks_what_the_job_needs_is_not_asked() {
    let mut plan = job(4, 0, &[2, 2, 2]);
    plan.needs.labels.insert("gpu".to_owned());
    plan.manifest.workers = Some(2);
    plan.peers[2].1.labels.insert("gpu".to_owned());
    let mut lab = Lab::new(plan);
    let assigned = lab.assigned();
    assert_eq!(assigned.len(), 4);
    assert!(assigned.iter().all(|(worker, _)| *worker == peer(2)));
    let why = "2 workers were asked for, 1 can be had: 3 without the label `gpu`";
    assert_eq!(lab.engine.progress().why.as_deref(), Some(why));
    lab.is_all();
}

#[test]
fn only_as_many_work_as_were_asked_for_and_others_replace_them() {
    let mut plan = job(30, 0, &[1, 1, 1, 1, 1]);
    plan.manifest.workers = Some(2);
    let mut lab = Lab::new(plan);
    let first: BTreeSet<PeerId> = lab.assigned().iter().map(|(worker, _)| *worker).collect();
    assert_eq!(first.len(), 2);
    let gone = *first.first().expect("there are two");
    let reason = "not for you".to_owned();
    lab.note(gone, Epoch(1), ControllerNote::Refused { reason });
    let second: BTreeSet<PeerId> = lab.assigned().iter().map(|(worker, _)| *worker).collect();
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(second.is_disjoint(&first));
    lab.is_all();
}

#[test]
fn a_job_that_nobody_can_run_waits_with_a_reason_and_not_for_ever() {
    let mut plan = job(1, 0, &[]);
    plan.limits.stall = 60 * S;
    let mut lab = Lab::new(plan);
    let progress = lab.engine.progress();
    assert_eq!(progress.phase, Phase::Queued);
    assert_eq!(progress.why.as_deref(), Some("no peer can run this: 1 without slots"));
    lab.wait(59 * S);
    assert!(lab.said.is_empty());
    lab.wait(2 * S);
    let error = lab.fails();
    assert_eq!(error.code, "IPDC-5106");
    assert!(error.message.contains("no peer can run this"), "{}", error.message);
    assert_eq!(lab.next(), Action::Over);
    lab.is_all();
}

#[test]
fn a_late_joiner_gets_work() {
    let mut lab = Lab::new(job(1, 0, &[]));
    lab.wait(3600 * S);
    lab.tell(Event::PeerUp { peer: peer(9), facts: facts(1) });
    assert_eq!(lab.one_assigned().0, peer(9));
    lab.is_all();
}

#[test]
fn an_idle_worker_takes_what_has_not_begun_elsewhere() {
    let mut lab = Lab::new(job(3, 0, &[1]));
    let held: Vec<_> = lab.assigned().into_iter().map(|(_, a)| (a.task, a.attempt)).collect();
    assert_eq!(held.len(), 3, "one runs, two are sent ahead");
    lab.renew(peer(1), &held[..1], true);
    lab.renew(peer(1), &held[1..], false);
    lab.tell(Event::PeerUp { peer: peer(2), facts: facts(1) });
    assert!(lab.said.is_empty(), "they may begin at once");
    lab.wait(S);
    assert_eq!(lab.revoked(), (peer(1), vec![held[2]]));
    let (helper, (task, attempt)) = lab.one_assigned();
    assert_eq!((helper, task, attempt.n), (peer(2), held[2].0, 2));
    lab.is_all();
}

#[test]
fn a_straggler_gets_a_rival_and_the_first_report_wins() {
    let mut lab = Lab::new(job(4, 0, &[2, 2]));
    let mut assigned: Vec<_> =
        lab.assigned().into_iter().map(|(w, a)| (w, (a.task, a.attempt))).collect();
    let (slow, stuck) = assigned.pop().expect("four tasks");
    for (worker, key) in assigned {
        lab.good(worker, key);
        assert_eq!(lab.committed(), key.0);
    }
    lab.renew(slow, &[stuck], true);
    lab.wait(1900 * MS);
    assert!(lab.said.is_empty());
    lab.wait(200 * MS);
    let (rival, second) = lab.one_assigned();
    assert_ne!(rival, slow);
    assert_eq!(second.0, stuck.0);
    lab.good(rival, second);
    let Record::Committed { worker, .. } = lab.appended() else { panic!("a commit") };
    assert_eq!(worker, rival);
    assert_eq!(lab.settled(), (rival, vec![second]));
    assert_eq!(lab.revoked(), (slow, vec![stuck]));
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.is_all();
}

#[test]
fn an_attempt_that_does_not_get_on_is_given_up() {
    let mut plan = job(1, 0, &[1, 1]);
    plan.manifest.limits.time_ms = 10_000;
    let mut lab = Lab::new(plan);
    let (worker, key) = lab.one_assigned();
    for _ in 0..14 {
        lab.renew(worker, &[key], true);
        lab.wait(5 * S);
    }
    assert_eq!(lab.revoked(), (worker, vec![key]));
    lab.wait(S);
    assert_ne!(lab.one_assigned().0, worker);
    lab.is_all();
}

#[test]
fn what_a_stopping_node_hands_back_runs_elsewhere_at_once() {
    let mut lab = Lab::new(job(1, 0, &[1, 1]));
    let (worker, key) = lab.one_assigned();
    lab.report(worker, key, Outcome::Returned { reason: "the node is stopping".to_owned() });
    let (settled, other) = (lab.settled(), lab.one_assigned().0);
    assert_eq!(settled, (worker, vec![key]));
    assert_ne!(other, worker);
    assert!(lab.engine.report().tasks[0].failures.is_empty(), "nobody is to blame");
    lab.is_all();
}

#[test]
fn a_controller_that_slept_blames_nobody() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    let (worker, key) = lab.one_assigned();
    lab.renew(worker, &[key], true);
    lab.now += 3600 * S;
    lab.tell(Event::Tick);
    assert!(lab.said.is_empty());
    lab.renew(worker, &[key], true);
    lab.wait(5 * S);
    assert!(lab.said.is_empty());
    lab.is_all();
}

#[test]
fn a_cancelled_job_ends_cancelled_and_only_once() {
    let mut lab = Lab::new(job(2, 0, &[1]));
    let held = lab.assigned();
    lab.tell(Event::Cancel);
    lab.tell(Event::Cancel);
    let (seq, record) = lab.appending();
    let key = (held[0].1.task, held[0].1.attempt);
    lab.good(peer(1), key);
    assert!(lab.said.is_empty(), "the end is on its way: nothing else is written");
    lab.tell(Event::Appended { seq });
    assert!(matches!(&record, Record::Ended(end) if end.state == EndState::Cancelled));
    assert!(matches!(lab.next(), Action::Ended(_)));
    assert_eq!(lab.goodbyes(), [peer(1)].into());
    // A worker that did not hear it asks and is told.
    lab.renew(peer(1), &[key], true);
    assert_eq!(lab.order(), (peer(1), WorkerOrder::End));
    lab.is_all();
}

/// A job with its result built and its copy asked of a first node.
fn storing(slots: &[u32]) -> Lab {
    let mut lab = Lab::new(job(0, 0, slots));
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.tell(Event::ResultBuilt { result: root("result"), report: root("report") });
    assert!(matches!(lab.appended(), Record::Built { .. }));
    lab
}

#[test]
fn a_result_goes_to_another_node_when_the_first_cannot_hold_it() {
    let mut lab = storing(&[1, 1]);
    let roots = vec![root("result"), root("report")];
    let (first, _) = lab.order();
    lab.wait(S);
    assert_eq!(lab.order().0, first, "the order is repeated");
    let error = Some("the disk is full".to_owned());
    lab.note(first, Epoch(1), ControllerNote::Stored { roots: roots.clone(), error });
    let (second, _) = lab.order();
    assert_ne!(second, first);
    lab.note(second, Epoch(1), ControllerNote::Stored { roots, error: None });
    let Record::Ended(end) = lab.appended() else { panic!("expected the end") };
    assert_eq!((end.state, &end.note), (EndState::Done, &None));
    assert_eq!(lab.next(), Action::Ended(end));
    lab.goodbyes();
    lab.is_all();
}

#[test]
fn a_result_that_nobody_else_can_hold_is_done_with_a_note() {
    let mut lab = storing(&[1]);
    let (keeper, _) = lab.order();
    let (roots, error) = (vec![root("result"), root("report")], Some("full".to_owned()));
    lab.note(keeper, Epoch(1), ControllerNote::Stored { roots, error });
    let Record::Ended(end) = lab.appended() else { panic!("expected the end") };
    assert_eq!(end.state, EndState::Done);
    assert!(end.note.is_some());
    assert_eq!(lab.next(), Action::Ended(end));
    lab.goodbyes();

    let mut lab = storing(&[]);
    let Record::Ended(end) = lab.appended() else { panic!("expected the end") };
    assert_eq!(end.note.as_deref(), Some("there was no other node to hold a copy of the result"));
    lab.said.clear();
}

#[test]
fn a_build_that_fails_is_tried_again_and_a_fatal_one_fails_the_job() {
    let mut lab = Lab::new(job(0, 0, &[]));
    let failed = |fatal| Event::BuildFailed { lost: vec![], fatal, message: "no".to_owned() };
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.tell(failed(false));
    lab.wait(S);
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.tell(failed(true));
    assert_eq!(lab.fails().code, "IPDC-5107");
    assert_eq!(lab.next(), Action::Over);
    lab.is_all();
}

fn commit(task: u32, worker: PeerId) -> Record {
    let task = TaskId(task);
    Record::Committed {
        task,
        attempt: Attempt { epoch: Epoch(1), n: 1 },
        worker,
        output: output(task),
        cost: Cost::default(),
        memoized: false,
    }
}

#[test]
fn a_take_over_keeps_what_was_committed_and_adopts_what_runs() {
    let mut plan = job(3, 0, &[2, 2]);
    plan.epoch = Epoch(2);
    plan.peers.remove(0);
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, commit(1, peer(1))];
    let mut lab = Lab::recovered(plan, journal);
    assert_eq!(lab.appended(), Record::Epoch { epoch: Epoch(2) });
    let asked: BTreeSet<PeerId> = [lab.order(), lab.order()]
        .into_iter()
        .filter_map(|(to, order)| (order == WorkerOrder::Query).then_some(to))
        .collect();
    assert_eq!(asked, [peer(1), peer(2)].into());
    assert!(lab.said.is_empty(), "nothing is given out before the workers were asked");

    // One worker still runs task 0; the other has the report of task 2.
    let old = Attempt { epoch: Epoch(1), n: 4 };
    lab.renew(peer(1), &[(TaskId(0), old), (TaskId(1), old)], true);
    assert_eq!(lab.revoked(), (peer(1), vec![(TaskId(1), old)]), "that one is decided");
    lab.good(peer(2), (TaskId(2), old));
    assert_eq!(lab.committed(), TaskId(2));
    lab.renew(peer(2), &[], false);
    lab.wait(S);
    assert!(lab.said.is_empty(), "task 0 runs on");
    lab.good(peer(1), (TaskId(0), old));
    assert_eq!(lab.committed(), TaskId(0));
    assert!(matches!(lab.next(), Action::Build { .. }));
    assert_eq!(lab.engine.counters().adopted, 2);
    lab.is_all();
}

#[test]
fn a_note_of_an_older_epoch_changes_nothing_but_is_answered() {
    let mut plan = job(1, 0, &[1]);
    plan.epoch = Epoch(2);
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, Record::Epoch { epoch: Epoch(2) }];
    let mut lab = Lab::recovered(plan, journal);
    lab.said.clear();
    lab.wait(5 * S);
    lab.said.clear();
    let old = Attempt { epoch: Epoch(1), n: 1 };
    let output = Outcome::Done { output: output(TaskId(0)), memoized: false };
    let report = Report { task: TaskId(0), attempt: old, outcome: output, cost: Cost::default() };
    let note = ControllerNote::Report { reports: vec![report] };
    lab.note(peer(1), Epoch(1), note.clone());
    assert_eq!(lab.order(), (peer(1), WorkerOrder::Query));
    lab.note(peer(1), Epoch(3), note);
    assert!(lab.said.is_empty());
    assert_eq!(lab.engine.counters().other_epochs, 2);
    lab.is_all();
}

#[test]
fn a_take_over_after_the_result_was_built_does_not_build_it_again() {
    let mut plan = job(1, 0, &[1]);
    plan.epoch = Epoch(2);
    let (result, report) = (root("result"), root("report"));
    let built = Record::Built { result, report };
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, commit(0, peer(1)), built];
    let mut lab = Lab::recovered(plan, journal);
    assert_eq!(lab.appended(), Record::Epoch { epoch: Epoch(2) });
    let orders: Vec<WorkerOrder> = (0..3).map(|_| lab.order().1).collect();
    assert_eq!(orders[..2], [WorkerOrder::Query, WorkerOrder::Query]);
    assert!(matches!(orders[2], WorkerOrder::Store { .. }));
    lab.is_all();
}

#[test]
fn a_take_over_of_an_ended_job_says_goodbye_once_more() {
    let mut plan = job(1, 0, &[1]);
    plan.epoch = Epoch(2);
    let end =
        End { state: EndState::Cancelled, result: None, report: None, error: None, note: None };
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, Record::Ended(end.clone())];
    let mut lab = Lab::recovered(plan, journal);
    assert_eq!(lab.next(), Action::Ended(end.clone()));
    assert_eq!(lab.engine.end(), Some(&end));
    assert_eq!(lab.goodbyes(), [controller(), peer(1)].into());
    lab.is_all();
}
