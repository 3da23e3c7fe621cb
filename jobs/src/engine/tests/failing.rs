//! Workers, guests and outputs fail; the job goes on, or fails with the cause.

use super::*;

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
    lab.finish_looking();
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
    lab.finish_looking();
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
    lab.finish_looking();
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
fn a_job_that_waits_for_a_worker_it_avoids_says_why() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    for _ in 0..3 {
        let (worker, key) = lab.one_assigned();
        lab.failed(worker, key, FailureClass::Worker);
        assert_eq!(lab.settled(), (worker, vec![key]));
        lab.wait(S);
    }
    assert_eq!(
        lab.engine.progress().why.as_deref(),
        Some("no peer can run this: 1 avoided after failures (IPDC-5999), 1 without slots")
    );
    lab.finish_looking();
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
    lab.finish_looking();
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
fn a_lost_output_is_made_again_elsewhere() {
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

    lab.good(other, (task, attempt));
    assert_eq!(lab.committed(), task);
    assert_eq!(lab.one_assigned().1.0, key.0);
    lab.finish_looking();
}

#[test]
fn an_output_that_is_made_again_must_be_the_same_once_something_was_made_of_it() {
    let mut lab = Lab::new(job(1, 2, &[1, 1]));
    let (maker, first) = lab.one_assigned();
    lab.good(maker, first);
    assert_eq!(lab.committed(), TaskId(0));
    let readers = lab.assigned();
    let [(one, a), (other, b)] = &readers[..] else { panic!("two consumers: {readers:?}") };
    lab.good(*one, (a.task, a.attempt));
    assert_eq!(lab.committed(), a.task);
    let lost = Outcome::InputLost { tasks: vec![TaskId(0)], message: "nobody has it".to_owned() };
    lab.report(*other, (b.task, b.attempt), lost);
    let (seq, record) = lab.appending();
    assert_eq!(record, Record::Lost { task: TaskId(0) });
    assert_eq!(lab.settled(), (*other, vec![(b.task, b.attempt)]));
    lab.tell(Event::Appended { seq });
    // One worker may be wrong, or lie; two are not.
    let (one, again) = lab.one_assigned();
    lab.report(one, again, other_output());
    assert_eq!(lab.settled(), (one, vec![again]));
    lab.wait(S);
    let (other, again) = lab.one_assigned();
    assert_ne!(other, one);
    lab.report(other, again, other_output());
    assert_eq!(lab.fails().code, "IPDC-5103");
}

/// An output that no honest attempt gives.
pub(super) fn other_output() -> Outcome {
    let output = Payload::Inline("something else".into());
    Outcome::Done { output, memoized: false, counters: Default::default(), log: Log::default() }
}

#[test]
fn a_reader_that_finds_nothing_lost_just_tries_again() {
    let (mut lab, _, reader, key) = with_a_consumer();
    let outcome = Outcome::InputLost { tasks: vec![TaskId(1)], message: "eh?".to_owned() };
    lab.report(reader, key, outcome);
    assert_eq!(lab.settled(), (reader, vec![key]));
    lab.wait(S);
    assert_eq!(lab.one_assigned().1.0, key.0);
    lab.finish_looking();
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
    lab.finish_looking();
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
    lab.finish_looking();
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
    lab.finish_looking();
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
    lab.finish_looking();
}
