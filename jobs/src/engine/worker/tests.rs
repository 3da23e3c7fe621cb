//! The worker machine against a world of a few lines. Each test looks at every action.

use std::collections::VecDeque;

use bytes::Bytes;

use super::*;
use crate::engine::Takes;
use crate::ids::{CODEC_RAW, FileRef, cid_of};
use crate::kind::ItemProgress;
use crate::message::{Counters, FailureClass, Held, Payload, Proof};

mod hostile;

const S: Duration = Duration::from_secs(1);
const LEASE_MS: u64 = 12_000;

fn peer(n: u8) -> PeerId {
    let hash = multihash::Multihash::wrap(0x12, &[n; 32]).expect("32 bytes fit");
    PeerId::from_multihash(hash).expect("a SHA-256 multihash names a peer")
}

fn job(n: u8) -> JobId {
    JobId::of_manifest(&[n])
}

fn manifest() -> FileRef {
    FileRef { cid: cid_of(CODEC_RAW, b"manifest"), len: 8 }
}

fn key(task: u32, n: u32) -> Key {
    (TaskId(task), Attempt { epoch: Epoch(1), n })
}

fn assign(keys: &[Key]) -> WorkerOrder {
    let assignment = |(task, attempt): &Key| Assignment {
        task: *task,
        attempt: *attempt,
        proof: Proof(u64::from(task.0)),
        body: Payload::Inline(Bytes::new()),
        inputs: Payload::Inline(Bytes::from_static(b"[]")),
        holders: Vec::new(),
    };
    let assignments = keys.iter().map(assignment).collect();
    WorkerOrder::Assign { manifest: manifest(), lease_ms: LEASE_MS, assignments }
}

fn done() -> Outcome {
    let output = Payload::Inline(Bytes::from_static(b"out"));
    let (counters, log) = (Counters::default(), Log::default());
    Outcome::Done { output, memoized: false, counters, log }
}

fn grant(owner: &str, slots: Option<u32>) -> Grant {
    Grant { owner: owner.to_owned(), slots, takes: Takes::default() }
}

/// A worker of controllers 1 and 2, who are the roster of every job.
struct Lab {
    worker: Worker,
    now: Duration,
    said: VecDeque<WorkerAction>,
    written: Vec<WorkerRecord>,
    /// Tasks whose outputs are remembered.
    memo: Vec<TaskId>,
}

impl Lab {
    fn new(slots: u32) -> Lab {
        Lab::recovered(slots, Vec::new())
    }

    fn recovered(slots: u32, records: Vec<WorkerRecord>) -> Lab {
        let (worker, actions) = Worker::new(slots, WorkerLimits::default(), S, records);
        Lab { worker, now: S, said: actions.into(), written: Vec::new(), memo: Vec::new() }
    }

    /// A worker that has these attempts of job 1; the first `slots` of them run.
    fn with(slots: u32, keys: &[Key]) -> Lab {
        let mut lab = Lab::new(slots);
        lab.order(1, 1, 1, assign(keys));
        lab.check_passes(1);
        lab.persisted();
        let started = lab.started();
        assert_eq!(started, keys[..keys.len().min(slots as usize)]);
        assert_eq!(lab.renewed(1), keys);
        lab
    }

    /// The memo knows nothing, unless a test says so by [`Lab::memo`].
    fn tell(&mut self, event: WorkerEvent) {
        let mut asked = Vec::new();
        for action in self.worker.apply(self.now, event) {
            let WorkerAction::Recall { job, assignments, .. } = action else {
                self.said.push_back(action);
                continue;
            };
            let attempts = assignments.iter().map(|assignment| {
                let found = self.memo.contains(&assignment.task).then(|| Remembered {
                    output: Payload::Inline(Bytes::from_static(b"out")),
                    counters: Counters::default(),
                    bytes_out: 3,
                });
                (assignment.task, assignment.attempt, found)
            });
            asked.push(WorkerEvent::Recalled { job, attempts: attempts.collect() });
        }
        asked.into_iter().for_each(|answer| self.tell(answer));
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.worker.next_wake().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.tell(WorkerEvent::Tick);
        }
        self.now = end;
    }

    fn order(&mut self, from: u8, of: u8, epoch: u64, body: WorkerOrder) {
        let message = ToWorker { job: job(of), epoch: Epoch(epoch), body };
        self.tell(WorkerEvent::Message { from: peer(from), message });
    }

    fn check_passes(&mut self, of: u8) {
        let (asked, from) = (job(of), peer(of));
        let check = WorkerAction::CheckManifest { job: asked, manifest: manifest(), from };
        assert_eq!(self.said.pop_front(), Some(check));
        self.judge(of, Ok(grant("ann", None)));
    }

    /// The policy's answer about a job.
    fn judge(&mut self, of: u8, grant: Result<Grant, &str>) {
        let checked = grant.map(|grant| CheckedManifest { roster: vec![peer(1), peer(2)], grant });
        let checked = checked.map_err(str::to_owned);
        self.tell(WorkerEvent::ManifestChecked { job: job(of), from: peer(of), checked });
    }

    fn finish(&mut self, of: u8, (task, attempt): Key, outcome: Option<Outcome>) {
        let cost = Cost::default();
        self.tell(WorkerEvent::Finished { job: job(of), task, attempt, outcome, cost });
    }

    /// Takes out the records that are to be written, and writes them.
    fn persisted(&mut self) -> Vec<WorkerRecord> {
        let mut records = Vec::new();
        let mut last = None;
        self.said.retain(|action| match action {
            WorkerAction::Persist { seq, record } => {
                records.push(record.clone());
                last = Some(*seq);
                false
            }
            _ => true,
        });
        self.written.extend(records.iter().cloned());
        if let Some(seq) = last {
            self.tell(WorkerEvent::Persisted { seq });
        }
        records
    }

    /// Takes out the attempts to start.
    fn started(&mut self) -> Vec<Key> {
        let mut started = Vec::new();
        self.said.retain(|action| match action {
            WorkerAction::Start { assignment, .. } => {
                started.push((assignment.task, assignment.attempt));
                false
            }
            _ => true,
        });
        started
    }

    fn next(&mut self) -> WorkerAction {
        self.said.pop_front().expect("the worker says something")
    }

    /// The next action is a note to this controller.
    fn note(&mut self, to: u8) -> ToController {
        match self.next() {
            WorkerAction::Send { to: whom, message } if whom == peer(to) => message,
            other => panic!("expected a note to {to}, not {other:?}"),
        }
    }

    /// The next action is a renewal of these attempts.
    fn renewed(&mut self, to: u8) -> Vec<Key> {
        match self.note(to).body {
            ControllerNote::Renew { held, .. } => {
                held.iter().map(|Held { task, attempt, .. }| (*task, *attempt)).collect()
            }
            other => panic!("expected a renewal, not {other:?}"),
        }
    }

    /// The next action is a report of these attempts.
    fn reported(&mut self, to: u8) -> Vec<(Key, Outcome)> {
        match self.note(to).body {
            ControllerNote::Report { reports } => {
                reports.into_iter().map(|r| ((r.task, r.attempt), r.outcome)).collect()
            }
            other => panic!("expected a report, not {other:?}"),
        }
    }

    fn finish_looking(self) {
        assert!(self.said.is_empty(), "nobody looked at {:#?}", self.said);
    }
}

#[test]
fn nothing_is_said_of_a_job_before_its_epoch_is_durable() {
    let mut lab = Lab::new(1);
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    lab.check_passes(1);
    let Some(WorkerAction::Persist { seq, record }) = lab.said.pop_front() else {
        panic!("expected a record")
    };
    assert!(matches!(record, WorkerRecord::Epoch { epoch: Epoch(1), .. }));
    assert_eq!(lab.started(), [key(0, 1)], "to begin is no promise");
    lab.wait(5 * S);
    assert!(lab.said.is_empty());
    lab.tell(WorkerEvent::Persisted { seq });
    assert_eq!(lab.renewed(1), [key(0, 1)]);
    lab.finish_looking();
}

#[test]
fn a_report_is_repeated_until_it_is_settled() {
    let mut lab = Lab::with(1, &[key(0, 1)]);
    lab.finish(1, key(0, 1), Some(done()));
    assert!(matches!(lab.persisted()[..], [WorkerRecord::Report { .. }]));
    assert_eq!(lab.reported(1), [(key(0, 1), done())]);
    lab.wait(4 * S);
    assert_eq!(lab.reported(1).len(), 1, "after 1 s");
    assert_eq!(lab.reported(1).len(), 1, "and 2 s more");
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(0, 1)] });
    assert!(matches!(lab.persisted()[..], [WorkerRecord::Settled { .. }]));
    lab.wait(500 * S);
    assert!(lab.said.is_empty(), "a worker that holds nothing is silent");
    lab.wait(100 * S);
    assert!(lab.renewed(1).is_empty(), "but asks once in a while whether the job is still on");
    lab.finish_looking();
}

#[test]
fn held_attempts_are_renewed_four_times_a_lease() {
    let mut lab = Lab::with(1, &[key(0, 1), key(1, 1)]);
    let (task, attempt) = key(0, 1);
    let item = Some(ItemProgress { n: 3, done: 1, total: 2 });
    lab.tell(WorkerEvent::Progress { job: job(1), task, attempt, done: 5, total: 9, item });
    for _ in 0..4 {
        lab.wait(3 * S);
        let ControllerNote::Renew { held, free_slots, .. } = lab.note(1).body else {
            panic!("expected a renewal")
        };
        let flags: Vec<_> = held.iter().map(|held| (held.running, held.done)).collect();
        assert_eq!((flags, free_slots), (vec![(true, 5), (false, 0)], 0));
        assert_eq!((held[0].item, held[1].item), (item, None));
    }
    lab.finish_looking();
}

#[test]
fn a_late_copy_of_an_assignment_starts_nothing() {
    let mut lab = Lab::with(2, &[key(0, 1)]);
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    assert_eq!(lab.renewed(1), [key(0, 1)], "it is named again, so that it is not repeated");
    lab.finish(1, key(0, 1), Some(done()));
    lab.persisted();
    lab.reported(1);
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(0, 1)] });
    lab.persisted();
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    assert_eq!(lab.renewed(1), []);
    lab.order(1, 1, 1, WorkerOrder::Revoke { attempts: vec![key(3, 2)] });
    lab.order(1, 1, 1, assign(&[key(3, 2)]));
    assert_eq!(lab.renewed(1), [], "the revocation overtook the assignment");
    lab.finish_looking();
}

#[test]
fn an_older_epoch_and_a_stranger_are_not_obeyed() {
    let mut lab = Lab::with(1, &[key(0, 1)]);
    lab.order(2, 1, 2, WorkerOrder::Query);
    assert!(matches!(lab.persisted()[..], [WorkerRecord::Epoch { epoch: Epoch(2), .. }]));
    let note = lab.note(2);
    assert_eq!(note.epoch, Epoch(2));
    assert!(matches!(note.body, ControllerNote::Renew { held, .. } if held.len() == 1));

    lab.order(1, 1, 1, WorkerOrder::End);
    lab.order(1, 1, 2, WorkerOrder::End);
    assert!(lab.said.is_empty(), "the old one, and another of this epoch");
    lab.order(9, 1, 3, WorkerOrder::End);
    assert_eq!(lab.next(), WorkerAction::Blame { peer: peer(9), job: job(1) });
    assert_eq!(lab.worker.epoch_of(job(1)), Some(Epoch(2)));
    lab.finish_looking();
}

#[test]
fn the_end_stops_what_runs_and_is_answered_when_it_stopped() {
    let mut lab = Lab::with(1, &[key(0, 1), key(1, 1)]);
    lab.order(1, 1, 1, WorkerOrder::End);
    assert_eq!(lab.persisted(), [WorkerRecord::Gone { job: job(1) }]);
    let (task, attempt) = key(0, 1);
    assert_eq!(lab.next(), WorkerAction::Stop { job: job(1), task, attempt });
    lab.order(1, 1, 1, WorkerOrder::End);
    assert!(lab.said.is_empty());
    lab.finish(1, key(0, 1), None);
    assert_eq!(lab.next(), WorkerAction::Forget { job: job(1) });
    assert_eq!(lab.note(1).body, ControllerNote::Gone);
    // It is over: a late assignment does not bring it back, a repeated end is answered.
    lab.order(1, 1, 1, assign(&[key(1, 1)]));
    lab.order(1, 1, 1, WorkerOrder::End);
    assert_eq!(lab.note(1).body, ControllerNote::Gone);
    assert_eq!(lab.worker.jobs().count(), 0);
    lab.finish_looking();
}

#[test]
fn what_is_no_attempt_has_its_gpus_to_itself_and_leaves_attempts_one_slot() {
    let mut lab = Lab::new(3);
    lab.worker = lab.worker.with_gpus(vec![8, 16]);
    let hold = |lab: &mut Lab, id, cpus, gpus| {
        lab.said.clear();
        lab.tell(WorkerEvent::Hold { id, takes: Takes { cpus, gpus, gpu_memory: 0 } });
        match lab.next() {
            WorkerAction::Held { id: of, gpus } if of == id => gpus,
            other => panic!("expected an answer, not {other:?}"),
        }
    };
    assert_eq!(hold(&mut lab, 1, 2, 1), Some(vec![0]));
    assert_eq!(hold(&mut lab, 2, 1, 2), None, "one of the GPUs is taken");
    assert_eq!(hold(&mut lab, 4, 3, 1), Some(vec![1]), "processors can be shared");

    lab.order(1, 1, 1, assign(&[key(0, 1), key(1, 1), key(2, 1)]));
    assert!(matches!(lab.next(), WorkerAction::CheckManifest { .. }));
    // More than there is for attempts now, but not more than the node has.
    lab.judge(1, Ok(Grant { takes: Takes { cpus: 2, ..Takes::default() }, ..grant("ann", None) }));
    lab.persisted();
    assert_eq!(lab.started(), [key(0, 1)]);
    lab.tell(WorkerEvent::LetGo { id: 4 });
    assert_eq!(lab.started(), []);
    lab.tell(WorkerEvent::LetGo { id: 1 });
    assert_eq!(lab.started(), [], "two of three slots are taken, and it takes two");
    lab.finish(1, key(0, 1), Some(done()));
    assert_eq!(lab.started(), [key(1, 1)]);
    assert_eq!(hold(&mut lab, 5, 3, 2), Some(vec![0, 1]), "attempts that run are not waited for");
    lab.tell(WorkerEvent::Drain);
    lab.tell(WorkerEvent::LetGo { id: 5 });
    assert_eq!(hold(&mut lab, 6, 1, 0), None, "the node stops");
}

#[test]
fn slots_are_shared_between_jobs() {
    let mut lab = Lab::with(2, &[key(0, 1), key(1, 1), key(2, 1)]);
    lab.order(2, 2, 1, assign(&[key(0, 1), key(1, 1)]));
    lab.check_passes(2);
    lab.persisted();
    assert_eq!(lab.renewed(2).len(), 2);
    lab.finish(1, key(0, 1), Some(done()));
    assert!(matches!(&lab.said[1], WorkerAction::Start { job: id, .. } if *id == job(2)));
    assert_eq!(lab.started(), [key(0, 1)], "the job that has fewer running goes first");
    lab.persisted();
    lab.reported(1);
    assert_eq!(lab.worker.load(), (2, 2));
    lab.finish_looking();
}

#[test]
fn a_revoked_attempt_is_stopped_and_makes_room() {
    let mut lab = Lab::with(1, &[key(0, 1), key(1, 1), key(2, 1)]);
    lab.order(1, 1, 1, WorkerOrder::Revoke { attempts: vec![key(0, 1), key(1, 1)] });
    let (task, attempt) = key(0, 1);
    assert_eq!(lab.next(), WorkerAction::Stop { job: job(1), task, attempt });
    assert!(lab.said.is_empty(), "its slot is not free before it stopped");
    lab.finish(1, key(0, 1), None);
    assert_eq!(lab.started(), [key(2, 1)]);
    lab.finish_looking();
}

#[test]
fn a_job_that_policy_refuses_is_refused_with_the_reason() {
    let mut lab = Lab::new(1);
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    let roots = vec![manifest().cid];
    let store = WorkerOrder::Store { manifest: manifest(), roots: roots.clone(), holders: vec![] };
    lab.order(1, 1, 1, store);
    lab.next();
    let checked = Err("not for you".to_owned());
    lab.tell(WorkerEvent::ManifestChecked { job: job(1), from: peer(1), checked });
    let reason = "not for you".to_owned();
    assert_eq!(lab.note(1).body, ControllerNote::Refused { reason: reason.clone() });
    assert_eq!(lab.note(1).body, ControllerNote::Stored { roots, error: Some(reason) });
    assert_eq!(lab.worker.jobs().count(), 0);
    lab.finish_looking();
}

#[test]
fn a_result_is_stored_once_and_answered_each_time() {
    let mut lab = Lab::new(1);
    let (roots, holders) = (vec![manifest().cid], vec![peer(1)]);
    let store =
        WorkerOrder::Store { manifest: manifest(), roots: roots.clone(), holders: holders.clone() };
    lab.order(1, 1, 1, store.clone());
    lab.check_passes(1);
    lab.persisted();
    assert_eq!(lab.next(), WorkerAction::Store { job: job(1), roots: roots.clone(), holders });
    lab.order(1, 1, 1, store.clone());
    assert!(lab.said.is_empty());
    lab.tell(WorkerEvent::StoreDone { job: job(1), roots: roots.clone(), error: None });
    let stored = ControllerNote::Stored { roots, error: None };
    assert_eq!(lab.note(1).body, stored);
    lab.order(1, 1, 1, store);
    assert_eq!(lab.note(1).body, stored);
    lab.finish_looking();
}

#[test]
fn a_job_whose_controller_stays_away_is_dropped() {
    let mut lab = Lab::with(1, &[key(0, 1)]);
    lab.tell(WorkerEvent::PeerDown { peer: peer(1) });
    lab.wait(3599 * S);
    lab.said.retain(|action| !matches!(action, WorkerAction::Send { .. }));
    assert!(lab.said.is_empty(), "it works on meanwhile");
    lab.wait(2 * S);
    lab.persisted();
    let (task, attempt) = key(0, 1);
    assert_eq!(lab.next(), WorkerAction::Stop { job: job(1), task, attempt });
    lab.finish(1, key(0, 1), None);
    assert_eq!(lab.next(), WorkerAction::Forget { job: job(1) });
    lab.finish_looking();
}

#[test]
fn what_was_reported_is_reported_again_after_a_crash() {
    let mut lab = Lab::with(2, &[key(0, 1), key(1, 1)]);
    let failed = Outcome::Failed {
        class: FailureClass::Guest,
        code: "IPDC-5999".to_owned(),
        message: "it broke".to_owned(),
        log: Log::default(),
    };
    lab.finish(1, key(0, 1), Some(done()));
    lab.finish(1, key(1, 1), Some(failed.clone()));
    lab.persisted();
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(0, 1)] });
    lab.persisted();
    let mut lab = Lab::recovered(2, lab.written);
    assert_eq!(lab.worker.epoch_of(job(1)), Some(Epoch(1)));
    lab.check_passes(1);
    assert_eq!(lab.reported(1), [(key(1, 1), failed)]);
    lab.order(1, 1, 1, assign(&[key(1, 1)]));
    assert_eq!(lab.renewed(1), [], "what ended before the crash does not start again");
    lab.finish_looking();
}

#[test]
fn a_stopping_node_hands_back_what_waits_and_takes_nothing_new() {
    let mut lab = Lab::with(1, &[key(0, 1), key(1, 1)]);
    lab.tell(WorkerEvent::Drain);
    lab.persisted();
    let reason = "the node is stopping".to_owned();
    let returned = Outcome::Returned { reason: reason.clone() };
    assert_eq!(lab.reported(1), [(key(1, 1), returned)]);
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(1, 1)] });
    lab.order(1, 1, 1, assign(&[key(2, 1)]));
    lab.order(2, 2, 1, assign(&[key(0, 1)]));
    lab.persisted();
    let returned = Outcome::Returned { reason: reason.clone() };
    assert_eq!(lab.reported(1), [(key(2, 1), returned)], "only that: the other one runs on");
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(2, 1)] });
    assert_eq!(lab.note(2).body, ControllerNote::Refused { reason });
    lab.finish(1, key(0, 1), Some(done()));
    lab.persisted();
    assert_eq!(lab.reported(1).len(), 1, "what ran may end");
    lab.finish_looking();
}

#[test]
fn what_runs_may_end_when_the_policy_turns_against_its_job_and_the_rest_goes_back() {
    let mut lab = Lab::with(1, &[key(0, 1), key(1, 1)]);
    lab.judge(1, Err("it is paused"));
    lab.persisted();
    let returned = Outcome::Returned { reason: "it is paused".to_owned() };
    assert_eq!(lab.reported(1), [(key(1, 1), returned.clone())]);
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(1, 1)] });
    lab.order(1, 1, 1, assign(&[key(2, 1)]));
    lab.persisted();
    let check = WorkerAction::CheckManifest { job: job(1), manifest: manifest(), from: peer(1) };
    assert_eq!(lab.next(), check, "it may be willing by now");
    assert_eq!(lab.reported(1), [(key(2, 1), returned)]);
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(2, 1)] });
    lab.finish(1, key(0, 1), Some(done()));
    lab.persisted();
    assert_eq!(lab.reported(1).len(), 1, "what ran ended");
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(0, 1)] });
    lab.judge(1, Ok(grant("ann", None)));
    lab.persisted();
    lab.order(1, 1, 1, assign(&[key(2, 2)]));
    assert_eq!(lab.started(), [key(2, 2)]);
    assert_eq!(lab.renewed(1), [key(2, 2)]);
    lab.finish_looking();
}

#[test]
fn the_jobs_of_one_owner_share_the_slots_that_it_is_granted() {
    let mut lab = Lab::new(3);
    for of in [1, 2] {
        lab.order(of, of, 1, assign(&[key(0, 1), key(1, 1)]));
        lab.judge(of, Ok(grant("ann", Some(1))));
        lab.persisted();
    }
    let granted = lab.said.iter().filter_map(|action| match action {
        WorkerAction::Send {
            message: ToController { body: ControllerNote::Renew { granted, .. }, .. },
            ..
        } => Some(*granted),
        _ => None,
    });
    assert_eq!(granted.collect::<Vec<_>>(), [Some(1); 2], "the controllers hear of it");
    let (running, _) = lab.worker.load();
    assert_eq!((lab.started(), running), (vec![key(0, 1)], 1), "two slots stay free");
    lab.judge(2, Ok(grant("bob", None)));
    assert_eq!(lab.started(), [key(0, 1), key(1, 1)], "another owner is not bound by it");
    lab.finish(1, key(0, 1), None);
    assert_eq!(lab.started(), [key(1, 1)]);
}

#[test]
fn after_a_restart_nothing_begins_before_the_policy_was_asked_again() {
    let written = Lab::with(1, &[key(0, 1)]).written;
    let mut lab = Lab::recovered(1, written);
    let check = lab.next();
    assert!(matches!(check, WorkerAction::CheckManifest { .. }), "{check:?}");
    lab.order(1, 1, 1, assign(&[key(1, 1)]));
    assert_eq!(lab.renewed(1), [key(1, 1)]);
    assert_eq!(lab.started(), []);
    lab.judge(1, Ok(grant("ann", None)));
    assert_eq!(lab.started(), [key(1, 1)]);
    lab.finish_looking();
}

#[test]
fn a_question_about_an_unknown_job_is_answered_with_nothing() {
    let mut lab = Lab::new(3);
    lab.order(1, 1, 7, WorkerOrder::Query);
    let held = Vec::new();
    let note = lab.note(1);
    assert_eq!(note.epoch, Epoch(7));
    assert_eq!(note.body, ControllerNote::Renew { held, free_slots: 3, granted: None });
    lab.finish_looking();
}

#[test]
fn what_the_memo_has_is_reported_at_once_without_a_slot_or_a_record() {
    let mut lab = Lab::with(1, &[key(0, 1)]);
    lab.memo = vec![TaskId(1), TaskId(2)];
    lab.order(1, 1, 1, assign(&[key(1, 1), key(2, 1), key(3, 1)]));
    let output = Payload::Inline(Bytes::from_static(b"out"));
    let (counters, log) = (Counters::default(), Log::default());
    let hit = Outcome::Done { output, memoized: true, counters, log };
    assert_eq!(lab.renewed(1).len(), 4, "they are held while the memo is asked");
    assert_eq!(lab.reported(1), [(key(1, 1), hit.clone()), (key(2, 1), hit)]);
    assert_eq!(lab.worker.load(), (1, 1), "the slot is taken: the last one waits");
    lab.order(1, 1, 1, WorkerOrder::Settled { attempts: vec![key(1, 1), key(2, 1)] });
    assert_eq!(lab.written.len(), 1, "the epoch");
    lab.finish_looking();
}

#[test]
fn an_attempt_whose_memo_is_asked_counts_as_begun() {
    // What has not begun is given to whoever is idle, who would ask its own memo, and so on in turns.
    let mut lab = Lab::with(2, &[key(0, 1)]);
    let message = ToWorker { job: job(1), epoch: Epoch(1), body: assign(&[key(1, 1)]) };
    let said = lab.worker.apply(lab.now, WorkerEvent::Message { from: peer(1), message });
    let renewed = said.into_iter().find_map(|action| match action {
        WorkerAction::Send { message, .. } => match message.body {
            ControllerNote::Renew { held, .. } => Some(held),
            _ => None,
        },
        _ => None,
    });
    let begun: Vec<bool> = renewed.expect("a renewal").iter().map(|held| held.running).collect();
    assert_eq!(begun, [true, true]);
}

#[test]
fn an_attempt_that_is_revoked_while_the_memo_is_asked_is_not_started() {
    let mut lab = Lab::new(1);
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    let checked = Ok(CheckedManifest { roster: vec![peer(1)], grant: grant("ann", None) });
    lab.next();
    let message = WorkerEvent::ManifestChecked { job: job(1), from: peer(1), checked };
    let asked = lab.worker.apply(lab.now, message);
    assert!(asked.iter().any(|action| matches!(action, WorkerAction::Recall { .. })));
    lab.order(1, 1, 1, WorkerOrder::Revoke { attempts: vec![key(0, 1)] });
    let (task, attempt) = key(0, 1);
    lab.tell(WorkerEvent::Recalled { job: job(1), attempts: vec![(task, attempt, None)] });
    assert_eq!(lab.worker.load(), (0, 0));
    lab.finish_looking();
}
