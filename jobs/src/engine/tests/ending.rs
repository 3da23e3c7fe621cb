//! The end, and what a take-over finds.

use super::*;
use crate::log::LOG_LIMIT;

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
    lab.finish_looking();
}

/// A job that asks for so much memory, in GiB; [`facts`] have one.
fn asking_for(memory: u64, slots: &[u32]) -> JobPlan {
    let mut plan = job(2, 0, slots);
    plan.manifest.limits.memory = memory << 30;
    plan
}

#[test]
fn a_job_too_large_for_every_node_says_so_and_fails_within_a_minute() {
    let mut lab = Lab::new(asking_for(2, &[1, 1]));
    assert_eq!(
        lab.engine.progress().why.as_deref(),
        Some(
            "no peer can run this: 3 too small (`limits.memory` is 2048 MiB, the largest has 1024 MiB)"
        )
    );
    lab.wait(59 * S);
    assert!(lab.said.is_empty());
    lab.wait(2 * S);
    let error = lab.fails();
    assert_eq!(error.code, "IPDC-5108");
    assert!(error.message.contains("60 s: no peer can run this: 3 too small"), "{error:?}");
    assert_eq!(lab.next(), Action::Over);
    lab.finish_looking();
}

#[test]
fn a_job_too_large_for_every_node_runs_on_a_larger_one_that_joins_in_time() {
    let mut lab = Lab::new(asking_for(2, &[1, 1]));
    lab.wait(59 * S);
    let large = PeerFacts { memory: 2 << 30, ..facts(2) };
    lab.tell(Event::PeerUp { peer: peer(7), facts: large });
    let assigned = lab.assigned();
    assert!(assigned.len() == 2 && assigned.iter().all(|(worker, _)| *worker == peer(7)));
    // While it is away it may come back, which is the stall's business.
    lab.tell(Event::PeerDown { peer: peer(7) });
    lab.wait(600 * S);
    assert!(lab.said.is_empty());
    lab.finish_looking();
}

#[test]
fn a_task_that_does_not_fit_a_node_goes_to_larger_ones_alone_and_fails_without() {
    let mut plan = job(1, 0, &[1, 1, 2]);
    for (peer, gib) in [(1, 1), (2, 2), (3, 4)] {
        plan.peers[peer].1.memory = gib << 30;
    }
    plan.limits.prefetch = 0;
    plan.warm.insert(TaskId(0), peer(2));
    let mut lab = Lab::new(plan);
    let (worker, key) = lab.one_assigned();
    assert_eq!(worker, peer(2));
    lab.failed(worker, key, FailureClass::TooSmall);
    assert_eq!(lab.settled(), (worker, vec![key]));
    // Not there again; the word of one holds for no other.
    let (worker, key) = lab.one_assigned();
    assert_eq!(worker, peer(1));
    lab.failed(worker, key, FailureClass::TooSmall);
    assert_eq!(lab.settled(), (worker, vec![key]));
    // The third may have more for each of its two attempts.
    let (worker, key) = lab.one_assigned();
    assert_eq!(worker, peer(3));
    assert_eq!(lab.engine.progress().why, None);
    lab.failed(worker, key, FailureClass::TooSmall);
    assert_eq!(lab.settled(), (worker, vec![key]));
    let why = lab.engine.progress().why;
    assert_eq!(
        why.as_deref(),
        Some("no peer can run this: 3 too small (it broke), 1 without slots")
    );
    lab.wait(61 * S);
    assert_eq!(lab.fails().code, "IPDC-5108");
    assert!(lab.engine.is_over() || !lab.goodbyes().is_empty());
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
    lab.finish_looking();
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
    lab.finish_looking();
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
fn a_build_that_fails_is_tried_again_so_often_and_then_fails_the_job() {
    let mut lab = Lab::new(job(0, 0, &[]));
    for _ in 0..Limits::default().build_tries {
        assert!(matches!(lab.next(), Action::Build { .. }));
        lab.tell(Event::BuildFailed { lost: vec![], message: "no".to_owned() });
        lab.wait(Limits::default().resend_max);
    }
    assert_eq!(lab.fails().code, "IPDC-5107");
    assert_eq!(lab.next(), Action::Over);
    lab.finish_looking();
}

#[test]
fn outputs_that_make_no_result_fail_the_job_at_once_with_what_the_kind_says() {
    let mut lab = Lab::new(job(0, 0, &[]));
    assert!(matches!(lab.next(), Action::Build { .. }));
    let (code, message) = ("IPDC-5999".to_owned(), "too much of it".to_owned());
    lab.tell(Event::ResultRefused { code: code.clone(), message: message.clone() });
    let error = lab.fails();
    assert_eq!((error.code, error.message), (code, message));
    assert_eq!(lab.next(), Action::Over);
    lab.finish_looking();
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
        counters: Default::default(),
        log: Log::default(),
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
    lab.finish_looking();
}

#[test]
fn what_committed_attempts_logged_is_in_the_journal_and_in_the_report() {
    let log = Log { lines: ["one".to_owned(), "two".to_owned()].into(), left_out: 7 };
    let mut lab = Lab::new(job(1, 0, &[1]));
    let (worker, key) = lab.one_assigned();
    lab.report(worker, key, logged(key.0, log.clone()));
    let committed = lab.appended();
    lab.said.clear();
    let text = serde_json::to_string(&committed).expect("a record encodes");
    assert!(text.contains(r#""log":["one","two"],"log_left_out":7"#), "{text}");
    let logged_in = |engine: &Engine| {
        engine.report().tasks[0].commit.as_ref().expect("it is committed").log.clone()
    };
    assert_eq!(logged_in(&lab.engine), log);

    let mut plan = job(1, 0, &[1]);
    plan.epoch = Epoch(2);
    let read = serde_json::from_str(&text).expect("a record");
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, read];
    assert_eq!(logged_in(&Lab::recovered(plan, journal).engine), log);
}

#[test]
fn a_commit_that_logged_nothing_says_nothing_of_it_and_an_older_journal_is_read() {
    let text = serde_json::to_string(&commit(0, peer(1))).expect("a record encodes");
    assert!(!text.contains("log"), "{text}");
    let read: Record = serde_json::from_str(&text).expect("a record");
    assert_eq!(read, commit(0, peer(1)));
}

#[test]
fn a_job_keeps_logs_as_long_as_it_has_room_also_over_a_take_over() {
    // Each fills an attempt's room; the job has room for 256.
    let full = Log { lines: ["x".repeat(LOG_LIMIT - 3)].into(), left_out: 0 };
    let longer =
        Log { lines: ["too long".repeat(LOG_LIMIT), "last".to_owned()].into(), left_out: 1 };
    let logging = |task| match commit(task, peer(1)) {
        Record::Committed { task, attempt, worker, output, cost, memoized, counters, .. } => {
            let log = full.clone();
            Record::Committed { task, attempt, worker, output, cost, memoized, counters, log }
        }
        other => other,
    };
    let mut plan = job(257, 0, &[2]);
    plan.epoch = Epoch(2);
    let epoch = |n| Record::Epoch { epoch: Epoch(n) };
    let journal = std::iter::once(epoch(1)).chain((0..255).map(logging)).chain([epoch(2)]);
    let mut lab = Lab::recovered(plan, journal.collect());
    lab.said.clear();
    let old = Attempt { epoch: Epoch(1), n: 4 };
    for (task, log) in [(255, &longer), (256, &full)] {
        lab.report(peer(1), (TaskId(task), old), logged(TaskId(task), log.clone()));
        assert_eq!(lab.committed(), TaskId(task));
    }
    let report = lab.engine.report();
    let kept = |task: usize| &report.tasks[task].commit.as_ref().expect("it is committed").log;
    assert_eq!(kept(254), &full);
    assert_eq!(kept(255), &Log { lines: ["last".to_owned()].into(), left_out: 2 });
    assert_eq!(kept(256), &Log { lines: [].into(), left_out: 1 });
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
    let (task, cost) = (TaskId(0), Cost::default());
    let proof = lab.engine.proof(peer(1), task, old);
    let report = Report { task, attempt: old, proof, outcome: done(task), cost };
    let note = ControllerNote::Report { reports: vec![report] };
    lab.note(peer(1), Epoch(1), note.clone());
    assert_eq!(lab.order(), (peer(1), WorkerOrder::Query));
    lab.note(peer(1), Epoch(3), note);
    assert!(lab.said.is_empty());
    assert_eq!(lab.engine.counters().other_epochs, 2);
    lab.finish_looking();
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
    lab.finish_looking();
}

#[test]
fn a_take_over_of_an_ended_job_says_goodbye_once_more() {
    let mut plan = job(1, 0, &[1]);
    plan.epoch = Epoch(2);
    let end = End::of(EndState::Cancelled);
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, Record::Ended(end.clone())];
    let mut lab = Lab::recovered(plan, journal);
    assert_eq!(lab.next(), Action::Ended(end.clone()));
    assert_eq!(lab.engine.end(), Some(&end));
    assert_eq!(lab.goodbyes(), [controller(), peer(1)].into());
    lab.finish_looking();
}
