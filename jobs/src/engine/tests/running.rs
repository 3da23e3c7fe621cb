//! Work is given out, done and committed.

use super::*;
use crate::engine::limits::HINTS_BATCH;
use crate::kind::Kind as _;
use crate::message::Wanted;

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
    let body = lab.engine.spec(TaskId(0)).body.clone();
    let (task, payload) = (TaskId(0), output(TaskId(0)));
    let made = Output { task, worker, body, memoized: false, payload, holders };
    assert_eq!(outputs, vec![made]);
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
    lab.finish_looking();
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
    lab.finish_looking();
}

#[test]
fn a_job_without_tasks_is_built_at_once() {
    let mut lab = Lab::new(job(0, 0, &[1]));
    assert!(matches!(lab.next(), Action::Build { outputs, .. } if outputs.is_empty()));
    lab.finish_looking();
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
fn where_an_output_will_be_read_is_told_while_others_are_made() {
    let mut lab = Lab::new(job(25, 3, &[2, 2, 2]));
    let mut makers: BTreeMap<Cid, PeerId> = BTreeMap::new();
    let mut told: BTreeMap<PeerId, BTreeSet<Cid>> = BTreeMap::new();
    let mut readers: BTreeMap<PeerId, BTreeSet<Cid>> = BTreeMap::new();
    while let Some(action) = lab.said.pop_front() {
        let (to, body) = match action {
            Action::Append { seq, .. } => {
                lab.tell(Event::Appended { seq });
                continue;
            }
            Action::Build { .. } => break,
            Action::Send { to, message } => (to, message.body),
            other => panic!("unexpected {other:?}"),
        };
        match body {
            WorkerOrder::Fetch { files } => {
                assert!(readers.is_empty(), "a hint after all outputs are there");
                for Wanted { file, holders } in files {
                    assert_eq!(holders, [makers[&file.cid]], "who has it is named");
                    assert_ne!(holders, [to], "who made it has it");
                    assert!(told.entry(to).or_default().insert(file.cid), "told twice");
                }
            }
            WorkerOrder::Assign { assignments, .. } => {
                for Assignment { task, attempt, inputs, .. } in assignments {
                    let Payload::Inline(inputs) = inputs else { panic!("short inputs") };
                    let inputs: Vec<Input> =
                        serde_json::from_slice(&inputs).expect("inputs are JSON");
                    for Input { payload, .. } in &inputs {
                        let Payload::Inline(text) = payload else { panic!("short outputs") };
                        readers.entry(to).or_default().insert(cid_of(CODEC_RAW, text));
                    }
                    if inputs.is_empty() {
                        for consumer in 25..28 {
                            let consumer = lab.engine.spec(TaskId(consumer));
                            let picked = Hashing.pick(consumer, &output(task));
                            let Payload::Inline(text) = picked else { panic!("short outputs") };
                            makers.insert(cid_of(CODEC_RAW, &text), to);
                        }
                        lab.now += 30 * MS;
                    }
                    lab.good(to, (task, attempt));
                }
            }
            _ => {}
        }
    }
    let told_of: usize = told.values().map(BTreeSet::len).sum();
    let here = |(peer, read): (&PeerId, &BTreeSet<Cid>)| {
        read.iter().filter(|cid| makers[*cid] == *peer).count()
    };
    let elsewhere = 25 * 3 - readers.iter().map(here).sum::<usize>();
    assert!(told_of + 3 * HINTS_BATCH > elsewhere, "{told_of} of {elsewhere} were told of");
    for (peer, files) in told {
        let read = &readers[&peer];
        assert!(files.is_subset(read), "{peer} was told of files that others read");
    }
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
    lab.finish_looking();
}

#[test]
fn a_report_by_a_worker_that_was_not_asked_commits_nothing() {
    let mut lab = Lab::new(job(1, 0, &[1, 1]));
    let (worker, key) = lab.one_assigned();
    let other = if worker == peer(1) { peer(2) } else { peer(1) };
    lab.good(other, key);
    assert_eq!(lab.blamed(), other);
    assert_eq!(lab.settled(), (other, vec![key]));
    lab.good(worker, (key.0, Attempt { n: 7, ..key.1 }));
    assert_eq!(lab.blamed(), worker);
    assert_eq!(lab.settled().0, worker);
    lab.good(worker, (TaskId(99), key.1));
    assert_eq!(lab.blamed(), worker);
    assert_eq!(lab.settled().0, worker);
    lab.finish_looking();
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
    lab.finish_looking();
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
    lab.finish_looking();
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
    lab.finish_looking();
}

#[test]
fn who_refuses_is_named_with_the_reason_and_asked_again_after_as_long_each_time() {
    let mut lab = Lab::new(job(1, 0, &[1]));
    let block = Limits::default().block;
    for _ in 0..4 {
        let (worker, _) = lab.one_assigned();
        let reason = "only at night".to_owned();
        lab.note(worker, Epoch(1), ControllerNote::Refused { reason: reason.clone() });
        let progress = lab.engine.progress();
        assert_eq!(progress.refusals, [Refusal { peer: worker, reason }]);
        assert!(progress.why.is_some_and(|why| why.contains("only at night")));
        lab.wait(block - S);
        assert!(lab.said.is_empty());
        lab.wait(S);
    }
    let (worker, key) = lab.one_assigned();
    lab.good(worker, key);
    assert_eq!(lab.committed(), key.0);
    assert_eq!(lab.engine.progress().refusals.len(), 1, "it is remembered");
}

#[test]
fn a_paused_worker_gets_nothing_until_it_goes_on_and_then_at_once() {
    let mut lab = Lab::new(job(2, 0, &[1]));
    let held: Vec<_> = lab.assigned().into_iter().map(|(_, a)| (a.task, a.attempt)).collect();
    let paused = PeerFacts { refuses: Some("it is paused".to_owned()), ..facts(1) };
    lab.tell(Event::PeerUp { peer: peer(1), facts: paused });
    let reason = "it is paused".to_owned();
    lab.report(peer(1), held[1], Outcome::Returned { reason });
    assert_eq!(lab.settled(), (peer(1), vec![held[1]]));
    lab.good(peer(1), held[0]);
    assert_eq!(lab.committed(), held[0].0, "what ran may end");
    lab.renew(peer(1), &[], false);
    lab.wait(3600 * S);
    assert!(lab.said.is_empty());
    let why = "no peer can run this: 1 unwilling (it is paused), 1 without slots";
    assert_eq!(lab.engine.progress().why.as_deref(), Some(why));
    lab.tell(Event::PeerUp { peer: peer(1), facts: facts(1) });
    assert_eq!(lab.one_assigned(), (peer(1), (held[1].0, Attempt { epoch: Epoch(1), n: 2 })));
    lab.finish_looking();
}

#[test]
fn a_late_joiner_gets_work() {
    let mut lab = Lab::new(job(1, 0, &[]));
    lab.wait(3600 * S);
    lab.tell(Event::PeerUp { peer: peer(9), facts: facts(1) });
    assert_eq!(lab.one_assigned().0, peer(9));
    lab.finish_looking();
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
    lab.finish_looking();
}

#[test]
fn a_worker_whose_policy_grants_fewer_slots_takes_nothing_that_it_could_not_begin() {
    let mut lab = Lab::new(job(3, 0, &[1]));
    let held: Vec<_> = lab.assigned().into_iter().map(|(_, a)| (a.task, a.attempt)).collect();
    lab.renew(peer(1), &held[..1], true);
    lab.renew(peer(1), &held[1..], false);
    lab.tell(Event::PeerUp { peer: peer(2), facts: facts(4) });
    let free = ControllerNote::Renew { held: vec![], free_slots: 4, granted: Some(1) };
    lab.note(peer(2), Epoch(1), free);
    lab.wait(S);
    assert_eq!(lab.revoked(), (peer(1), vec![held[2]]));
    let (helper, stolen) = lab.one_assigned();
    assert_eq!((helper, stolen.0), (peer(2), held[2].0));
    let (task, attempt) = stolen;
    let proof = crate::message::Proof::default();
    let held = vec![Held { task, attempt, proof, running: true, done: 0, total: 0, item: None }];
    let busy = ControllerNote::Renew { held, free_slots: 3, granted: Some(1) };
    lab.note(peer(2), Epoch(1), busy);
    lab.wait(5 * S);
    let is_given_more = lab.said.iter().any(|action| match action {
        Action::Send { to, message } => {
            *to == peer(2) && matches!(message.body, WorkerOrder::Assign { .. })
        }
        _ => false,
    });
    assert!(!is_given_more, "its other slots are for other owners");
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
    lab.finish_looking();
}

#[test]
fn counters_count_once_for_a_task_however_often_it_is_reported() {
    let mut lab = Lab::new(job(2, 0, &[2]));
    let counted = |task, count| match done(task) {
        Outcome::Done { output, memoized, log, .. } => {
            let counters = [("lines".to_owned(), count)].into();
            Outcome::Done { output, memoized, counters, log }
        }
        other => other,
    };
    let given = lab.assigned();
    let keys: Vec<_> = given.iter().map(|(worker, a)| (*worker, (a.task, a.attempt))).collect();
    let [(worker, first), (_, second)] = keys[..] else { panic!("two tasks") };
    for _ in 0..2 {
        lab.report(worker, first, counted(first.0, 3));
    }
    assert!(lab.engine.progress().counters.is_empty(), "nothing counts before it is durable");
    assert_eq!(lab.committed(), first.0);
    lab.report(worker, first, counted(first.0, 3));
    assert_eq!(lab.settled(), (worker, vec![first]));
    assert_eq!(lab.engine.progress().counters["lines"], 3);
    lab.report(worker, second, counted(second.0, 4));
    assert_eq!(lab.committed(), second.0);
    assert_eq!(lab.engine.progress().counters["lines"], 7);
    let Action::Build { report, .. } = lab.next() else { panic!("expected a build") };
    assert_eq!(report.counters["lines"], 7);
    lab.finish_looking();
}

#[test]
fn what_a_memo_knows_goes_to_it_more_at_a_time_until_it_must_run_something() {
    let mut plan = job(40, 0, &[1, 1]);
    let warm = plan.peers[1].0;
    plan.warm = (0..40).map(|task| (TaskId(task), warm)).collect();
    let mut lab = Lab::new(plan);
    let mut held: Vec<(TaskId, Attempt)> = Vec::new();
    for expected in [3, 6, 12] {
        // The last answer of a round is the last to bring something new.
        for (worker, assignment) in assigned_amid_the_rest(&mut lab) {
            assert_eq!(worker, warm, "the other is idle, and takes nothing");
            held.push((assignment.task, assignment.attempt));
        }
        assert_eq!(held.len(), expected);
        for key in std::mem::take(&mut held) {
            let outcome = Outcome::Done {
                output: output(key.0),
                memoized: true,
                counters: Default::default(),
                log: Log::default(),
            };
            lab.report(warm, key, outcome);
        }
    }
    let assigned = assigned_amid_the_rest(&mut lab);
    assert_eq!(assigned.len(), 40 - 3 - 6 - 12, "all that is left");
    let (worker, first) = &assigned[0];
    lab.good(*worker, (first.task, first.attempt));
    assert_eq!(lab.engine.warm(TaskId(39)), None, "its memo is not what it was");
}

/// The assignments among the actions; the records become durable.
fn assigned_amid_the_rest(lab: &mut Lab) -> Vec<(PeerId, Assignment)> {
    let mut assigned = Vec::new();
    while let Some(action) = lab.said.pop_front() {
        match action {
            Action::Append { seq, .. } => lab.tell(Event::Appended { seq }),
            Action::Send { to, message } => {
                if let WorkerOrder::Assign { assignments, .. } = message.body {
                    assigned.extend(assignments.into_iter().map(|assignment| (to, assignment)));
                }
            }
            _ => {}
        }
    }
    assigned
}
