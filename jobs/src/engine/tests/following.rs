//! Tasks that follow from results, and tasks that stay.

use bytes::Bytes;

use super::*;
use crate::kind::{ItemProgress, TaskSpec};
use crate::sim::growing::{self, Growing};

/// A job of the kind that grows: `roots` from the start, and open for more if it `is_open`.
fn growing_job(roots: u32, is_open: bool, slots: &[u32]) -> JobPlan {
    let mut plan = job(0, 0, slots);
    plan.manifest.config = is_open.into();
    JobPlan { kind: &Growing, tasks: growing::plan(roots), ..plan }
}

/// A good end of a task of that kind, which leads to no other.
fn leaf() -> Outcome {
    let output = Payload::Inline(Bytes::from_static(&[0; 32]));
    Outcome::Done { output, memoized: false, counters: Default::default(), log: Log::default() }
}

#[test]
fn what_is_given_is_told_to_be_taken_when_the_journal_holds_it_and_is_worked_then() {
    let mut lab = Lab::new(growing_job(0, true, &[1]));
    let items = growing::root(1);
    let payload = Payload::Inline(items.clone());
    let give = |ticket| {
        let key = Some("mine".parse().expect("a key"));
        Event::Give { ticket, key, payload: payload.clone(), items: items.clone() }
    };
    lab.tell(give(7));
    let (seq, record) = lab.appending();
    let Record::Given { items: written, key: Some(_) } = record else { panic!("{record:?}") };
    assert_eq!(written, payload);
    lab.tell(give(8));
    assert!(lab.said.is_empty(), "nobody is told before");
    lab.tell(Event::Appended { seq });
    assert_eq!(lab.next(), Action::Given { ticket: 7, first: Ok(0) });
    assert_eq!(lab.next(), Action::Given { ticket: 8, first: Ok(0) });
    lab.tell(give(9));
    assert_eq!(lab.next(), Action::Given { ticket: 9, first: Ok(0) });
    // Roots wait a moment before they begin.
    lab.wait(S);
    let [(worker, assignment)] = &lab.assigned()[..] else { panic!("one task follows") };
    assert_eq!(assignment.body, Payload::Inline(items));

    lab.report(*worker, (assignment.task, assignment.attempt), leaf());
    assert_eq!(lab.committed(), assignment.task);
    assert!(lab.said.is_empty(), "an open job does not end");
    lab.tell(Event::Close);
    assert_eq!(lab.appended(), Record::Closed);
    assert!(matches!(lab.next(), Action::Build { .. }));
    let (key, payload) = (None, output(TaskId(0)));
    lab.tell(Event::Give { ticket: 10, key, payload, items: growing::root(2) });
    assert!(matches!(lab.next(), Action::Given { ticket: 10, first: Err(_) }));
    lab.finish_looking();
}

#[test]
fn a_job_that_is_taken_over_knows_what_it_was_given_and_is_given_more_at_once() {
    let key = |text: &str| Some(text.parse().expect("a key"));
    let given = Record::Given { items: Payload::Inline(growing::root(1)), key: key("a") };
    let journal = vec![Record::Epoch { epoch: Epoch(1) }, given];
    let plan = JobPlan { epoch: Epoch(2), ..growing_job(0, true, &[1]) };
    let mut lab = Lab::recovered(plan, journal);
    let (seq, record) = lab.appending();
    assert_eq!(record, Record::Epoch { epoch: Epoch(2) });
    let give = |ticket, key| {
        let items = growing::root(2);
        Event::Give { ticket, key, payload: Payload::Inline(items.clone()), items }
    };
    lab.tell(give(1, key("a")));
    assert_eq!(lab.next(), Action::Given { ticket: 1, first: Ok(0) });
    lab.tell(give(2, key("b")));
    let (later, _) = lab.appending();
    assert!(later > seq && lab.said.is_empty(), "its term is not in the journal yet");
    lab.tell(Event::Appended { seq: later });
    assert!(lab.said.contains(&Action::Given { ticket: 2, first: Ok(1) }), "{:?}", lab.said);
}

#[test]
fn an_open_job_that_is_given_nothing_for_long_is_closed() {
    let plan = growing_job(0, true, &[1]);
    let idle = plan.limits.idle;
    let mut lab = Lab::new(plan);
    lab.wait(idle - S);
    assert!(lab.said.is_empty());
    lab.wait(S + Limits::default().resend_max);
    assert_eq!(lab.appended(), Record::Closed);
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.finish_looking();
}

#[test]
fn tasks_that_stay_are_with_one_worker_while_it_is_there_and_move_together_when_it_goes() {
    let stay = |n: u8| TaskSpec {
        affinity: Some([1; 32]),
        stays: true,
        delay_ms: 0,
        weight: 1,
        body: growing::root(n.into()),
        ..TaskSpec::default()
    };
    let plan = JobPlan { tasks: (0..8).map(stay).collect(), ..growing_job(0, false, &[1, 1]) };
    let grace = plan.limits.down_grace;
    let mut lab = Lab::new(plan);
    let homes = |given: &[(PeerId, Assignment)]| -> BTreeSet<PeerId> {
        given.iter().map(|(peer, _)| *peer).collect()
    };
    let first = lab.assigned();
    let [home] = homes(&first).into_iter().collect::<Vec<_>>()[..] else { panic!("{first:?}") };
    // The other has nothing to do, for however long.
    let held: Vec<_> = first.iter().map(|(_, a)| (a.task, a.attempt)).collect();
    for _ in 0..10 {
        lab.wait(S);
        lab.renew(home, &held, true);
    }
    assert!(lab.assigned().iter().all(|(peer, _)| *peer == home), "nobody helps out");
    lab.tell(Event::PeerDown { peer: home });
    lab.wait(grace + S);
    let moved = homes(&lab.assigned());
    assert_eq!(moved.len(), 1);
    assert!(!moved.contains(&home));
}

#[test]
fn a_worker_that_names_an_output_which_is_none_is_blamed_and_the_task_goes_on() {
    let mut lab = Lab::new(growing_job(1, false, &[1, 1]));
    let (worker, (task, attempt)) = lab.one_assigned();
    let file = FileRef { cid: root("a lie"), len: 32 };
    let (output, log) = (Payload::File(file), Log::default());
    let outcome = Outcome::Done { output, memoized: false, counters: Default::default(), log };
    lab.report(worker, (task, attempt), outcome);
    let Action::Read { holders, .. } = lab.next() else { panic!("it is read first") };
    assert_eq!(holders, [worker]);
    let output = Ok(Bytes::from_static(b"not what a task gives"));
    lab.tell(Event::Read { task, attempt, output });
    assert_eq!(lab.blamed(), worker);
    assert_eq!(lab.settled().0, worker);
    lab.wait(S);
    let (other, _) = lab.one_assigned();
    assert_ne!(other, worker);
}

#[test]
fn what_a_task_gave_first_stays_in_its_place_when_it_is_lost_and_given_again() {
    let mut lab = Lab::new(growing_job(1, false, &[1, 1]));
    let (worker, (task, attempt)) = lab.one_assigned();
    lab.report(worker, (task, attempt), leaf());
    assert_eq!(lab.committed(), task);
    let first = lab.engine.gave(0, 9);
    assert_eq!(first.len(), 1);
    let Action::Build { .. } = lab.next() else { panic!("all is done") };
    lab.tell(Event::BuildFailed { lost: vec![task], message: "gone".to_owned() });
    assert_eq!(lab.appended(), Record::Lost { task });
    assert_eq!(lab.engine.gave(0, 9), first);
    lab.wait(S);
    let (other, again) = lab.one_assigned();
    lab.report(other, again, leaf());
    assert_eq!(lab.committed(), task);
    let both = lab.engine.gave(0, 9);
    assert_eq!((both.len(), &both[..1]), (2, &first[..]));
    assert_eq!(both[1].worker, other);
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.finish_looking();
}

#[test]
fn an_item_that_says_how_far_it_is_is_shown_while_it_runs() {
    let mut lab = Lab::new(growing_job(1, false, &[1, 1]));
    let (worker, (task, attempt)) = lab.one_assigned();
    let says = |lab: &mut Lab, item| {
        let proof = lab.engine.proof(worker, task, attempt);
        let held = vec![Held { task, attempt, proof, running: true, done: 0, total: 1, item }];
        let note = ControllerNote::Renew { held, free_slots: 0, granted: None };
        lab.note(worker, lab.engine.epoch, note);
        lab.engine.progress().running_items
    };
    assert_eq!(says(&mut lab, None), []);
    let half = ItemProgress { n: 7, done: 1, total: 2 };
    assert_eq!(says(&mut lab, Some(half)), [half]);
    lab.report(worker, (task, attempt), leaf());
    assert_eq!(lab.committed(), task);
    assert_eq!(lab.engine.progress().running_items, []);
    assert!(matches!(lab.next(), Action::Build { .. }));
    lab.finish_looking();
}

#[test]
fn an_item_that_is_withdrawn_stops_its_attempt_and_is_told_when_the_journal_holds_it() {
    let mut lab = Lab::new(growing_job(20, false, &[1, 1]));
    lab.wait(S);
    let first = lab.assigned();
    let is_inline = |(_, assignment): &&(PeerId, Assignment)| {
        let Payload::Inline(body) = &assignment.body else { return false };
        matches!(growing::output_of(body), Payload::Inline(_))
    };
    let (worker, given) = first.iter().find(is_inline).expect("one of the first is inline");
    let (task, attempt) = (given.task, given.attempt);
    let withdraw = |ticket| {
        let items = BTreeSet::from([u64::from(task.0), 999]);
        Event::Withdraw { ticket, items }
    };
    lab.tell(withdraw(1));
    let (seq, record) = lab.appending();
    let Record::Committed { task: ended, attempt: by, .. } = record else { panic!("{record:?}") };
    assert_eq!(ended, task);
    assert!(by > attempt, "by an attempt of its own");
    assert!(lab.said.is_empty(), "nobody hears of it before it is durable");
    lab.tell(withdraw(2));
    assert_eq!(lab.next(), Action::Withdrawn { ticket: 2, items: vec![] }, "it is on its way");
    lab.tell(Event::Appended { seq });
    assert_eq!(lab.next(), Action::Withdrawn { ticket: 1, items: vec![task.0.into()] });
    assert_eq!(lab.revoked(), (*worker, vec![(task, attempt)]));
    // What its worker had done all the same is settled, and changes nothing.
    lab.assigned();
    lab.report(*worker, (task, attempt), leaf());
    assert_eq!(lab.settled(), (*worker, vec![(task, attempt)]));
    lab.assigned();
    lab.finish_looking();
}
