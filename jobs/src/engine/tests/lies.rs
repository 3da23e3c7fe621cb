//! What workers say that is not so, and members that are none of the job's workers.

use super::failing::other_output;
use super::*;
use crate::engine::limits::SLOTS_LIMIT;
use crate::message::{COUNTERS_LIMIT, INLINE_LIMIT, Proof};

impl Lab {
    /// As [`Lab::report`], with a proof of its own and an absurd cost.
    fn claim(&mut self, from: PeerId, key: (TaskId, Attempt), proof: Proof, outcome: Outcome) {
        let cost = Cost { wall_ms: u64::MAX, bytes_out: u64::MAX, ..Cost::default() };
        let (task, attempt) = key;
        let reports = vec![Report { task, attempt, proof, outcome, cost }];
        self.note(from, self.engine.epoch, ControllerNote::Report { reports });
    }
}

#[test]
fn a_report_of_an_attempt_of_another_or_of_nobody_changes_nothing_and_is_remembered() {
    let mut lab = Lab::new(job(1, 0, &[1, 1]));
    let (worker, key) = lab.one_assigned();
    let liar = if worker == peer(1) { peer(2) } else { peer(1) };
    let (task, attempt) = key;
    let lies = [
        key,
        (task, Attempt { n: 9, ..attempt }),
        (task, Attempt { epoch: Epoch(u64::MAX), n: 1 }),
        (TaskId(7), attempt),
        (TaskId(u32::MAX), attempt),
    ];
    for lie in lies {
        lab.claim(liar, lie, Proof(1), other_output());
        assert_eq!(lab.blamed(), liar);
        assert_eq!(lab.settled(), (liar, vec![lie]));
        let (task, attempt) = lie;
        let held =
            Held { task, attempt, proof: Proof(1), running: true, done: 9, total: 9, item: None };
        let note = ControllerNote::Renew { held: vec![held], free_slots: u32::MAX, granted: None };
        lab.note(liar, Epoch(1), note);
        if task == key.0 {
            assert_eq!(lab.blamed(), liar);
            assert_eq!(lab.revoked(), (liar, vec![lie]));
        }
        assert_eq!(lab.said, []);
    }
    lab.good(worker, key);
    assert_eq!(lab.committed(), task);
}

#[test]
fn after_a_take_over_only_who_was_given_an_attempt_is_believed() {
    let mut plan = job(1, 0, &[1, 1]);
    plan.epoch = Epoch(2);
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, Record::Epoch { epoch: Epoch(2) }];
    let mut lab = Lab::recovered(plan, journal);
    lab.said.clear();
    let old = (TaskId(0), Attempt { epoch: Epoch(1), n: 1 });
    // One that guesses, and one that shows what was given to another.
    let stolen = lab.engine.proof(peer(1), old.0, old.1);
    for proof in [Proof::default(), Proof(1), stolen] {
        lab.claim(peer(2), old, proof, other_output());
        // It may be a worker that is too old to prove anything.
        assert_eq!(lab.settled(), (peer(2), vec![old]));
        assert_eq!(lab.said, []);
    }
    lab.good(peer(1), old);
    assert_eq!(lab.committed(), TaskId(0));
}

#[test]
fn an_output_that_its_worker_never_had_is_replaced_by_that_of_another() {
    let mut lab = Lab::new(job(1, 1, &[1, 1]));
    let (liar, key) = lab.one_assigned();
    lab.report(liar, key, other_output());
    assert_eq!(lab.committed(), TaskId(0));
    let (reader, reading) = lab.one_assigned();
    let lost = Outcome::InputLost { tasks: vec![TaskId(0)], message: "nobody has it".to_owned() };
    lab.report(reader, reading, lost);
    let (seq, _) = lab.appending();
    assert_eq!(lab.settled(), (reader, vec![reading]));
    lab.tell(Event::Appended { seq });
    let (honest, again) = lab.one_assigned();
    assert_ne!(honest, liar);
    lab.good(honest, again);
    assert_eq!(lab.committed(), TaskId(0));
    let (worker, last) = lab.one_assigned();
    // What was made of the first does not count, even if somebody made it after all.
    lab.good(reader, reading);
    assert_eq!(lab.settled(), (reader, vec![reading]));
    lab.good(worker, last);
    assert_eq!(lab.committed(), TaskId(1));
}

#[test]
fn what_was_made_of_an_output_counts_no_more_once_another_is_on_its_way_into_the_journal() {
    let mut lab = Lab::new(job(1, 2, &[1, 1, 1]));
    let (liar, key) = lab.one_assigned();
    lab.report(liar, key, other_output());
    assert_eq!(lab.committed(), TaskId(0));
    let readers = lab.assigned();
    let reading = |n: usize| {
        let (worker, assignment): &(PeerId, Assignment) = &readers[n];
        (*worker, (assignment.task, assignment.attempt))
    };
    let ((first, from_first), (second, from_second)) = (reading(0), reading(1));
    let lost = Outcome::InputLost { tasks: vec![TaskId(0)], message: "nobody has it".to_owned() };
    lab.report(second, from_second, lost);
    let (seq, _) = lab.appending();
    assert_eq!(lab.settled(), (second, vec![from_second]));
    lab.tell(Event::Appended { seq });
    let again = lab.assigned();
    let honest = again.iter().find(|(_, assignment)| assignment.task == TaskId(0));
    let (honest, assignment) = honest.expect("it is made again");
    lab.good(*honest, (TaskId(0), assignment.attempt));
    let (seq, record) = lab.appending();
    assert!(matches!(record, Record::Committed { task: TaskId(0), .. }), "{record:?}");
    // Just now comes what was made of the one before.
    lab.good(first, from_first);
    let appended = lab.said.iter().any(|action| matches!(action, Action::Append { .. }));
    assert!(!appended, "{:?}", lab.said);
    lab.tell(Event::Appended { seq });
    let is_given_again = |action: &Action| match action {
        Action::Send {
            message: ToWorker { body: WorkerOrder::Assign { assignments, .. }, .. },
            ..
        } => assignments.iter().any(|assignment| assignment.task == from_first.0),
        _ => false,
    };
    assert!(lab.said.iter().any(is_given_again), "{:?}", lab.said);
}

#[test]
fn an_output_beyond_the_limits_counts_for_nothing() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    let (worker, key) = lab.one_assigned();
    let long = Payload::Inline(vec![0; INLINE_LIMIT + 1].into());
    let many = (0..=COUNTERS_LIMIT as u64).map(|n| (n.to_string(), n)).collect();
    let (memoized, log) = (false, Log::default());
    let (short, counters) = (output(key.0), Default::default());
    for outcome in [
        Outcome::Done { output: long, memoized, counters, log: log.clone() },
        Outcome::Done { output: short, memoized, counters: many, log },
    ] {
        lab.report(worker, key, outcome);
        assert_eq!(lab.blamed(), worker);
        assert_eq!(lab.said, []);
    }
    // Whatever it is said to have cost.
    lab.claim(worker, key, Proof::default(), done(key.0));
    assert_eq!(lab.committed(), key.0);
}

#[test]
fn one_worker_cannot_say_for_all_that_a_job_is_too_large() {
    let mut plan = job(1, 0, &[1, 1, 1]);
    plan.peers[1].1.memory = u64::MAX;
    plan.limits.prefetch = 0;
    plan.warm.insert(TaskId(0), peer(1));
    let mut lab = Lab::new(plan);
    let (liar, key) = lab.one_assigned();
    assert_eq!(liar, peer(1));
    lab.failed(liar, key, FailureClass::TooSmall);
    assert_eq!(lab.settled(), (liar, vec![key]));
    let (other, key) = lab.one_assigned();
    assert_ne!(other, liar);
    lab.good(other, key);
    assert_eq!(lab.committed(), key.0);
}

#[test]
fn one_worker_cannot_have_outputs_made_without_end_by_saying_that_they_are_lost() {
    let mut lab = Lab::new(job(1, 40, &[40, 1]));
    let liar = peer(1);
    let mut losses = 0;
    for _ in 0..5_000 {
        let Some(action) = lab.said.pop_front() else {
            lab.wait(S);
            continue;
        };
        match action {
            Action::Append { seq, record } => {
                losses += u32::from(record == Record::Lost { task: TaskId(0) });
                lab.tell(Event::Appended { seq });
            }
            Action::Send { to, message } => {
                let WorkerOrder::Assign { assignments, .. } = message.body else { continue };
                for Assignment { task, attempt, .. } in assignments {
                    if to == liar && task != TaskId(0) {
                        let tasks = vec![TaskId(0)];
                        let message = "so it says".to_owned();
                        lab.report(to, (task, attempt), Outcome::InputLost { tasks, message });
                    } else {
                        lab.good(to, (task, attempt));
                    }
                }
            }
            Action::Build { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(losses, lab.engine.plan.limits.losses_a_worker);
    let made: u32 = lab.engine.progress().stages.iter().map(|stage| stage.done).sum();
    assert_eq!(made, 41, "all was made, by who can");
}

#[test]
fn a_peer_that_claims_every_slot_of_the_world_is_given_few() {
    let mut lab = Lab::new(job(3_000, 0, &[u32::MAX, 1]));
    let given = lab.assigned().iter().filter(|(to, _)| *to == peer(1)).count();
    let most = (SLOTS_LIMIT + lab.engine.plan.limits.prefetch) as usize;
    assert!(given <= most, "{given}");
}
