//! Orders of members that are no controllers of the job, and of controllers that mean harm.

use super::*;
use crate::engine::worker::unchecked::UNCHECKED_LIMIT;

/// An order like `assign`, whose manifest is another file.
fn assign_by(name: &[u8], keys: &[Key]) -> WorkerOrder {
    let WorkerOrder::Assign { lease_ms, assignments, .. } = assign(keys) else { unreachable!() };
    let manifest = FileRef { cid: cid_of(CODEC_RAW, name), len: 8 };
    WorkerOrder::Assign { manifest, lease_ms, assignments }
}

/// The answer to the check that was asked for `from`'s sake.
fn checked(from: u8, checked: Result<(), &str>) -> WorkerEvent {
    let claim = |()| CheckedManifest { roster: vec![peer(1), peer(2)], grant: grant("ann", None) };
    let checked = checked.map(claim).map_err(str::to_owned);
    WorkerEvent::ManifestChecked { job: job(1), from: peer(from), checked }
}

#[test]
fn what_a_stranger_to_a_job_claims_of_it_does_not_touch_its_controllers_orders() {
    let mut lab = Lab::new(1);
    // It was first, with a manifest of its own, and says that the job is over.
    lab.order(9, 1, 7, assign_by(b"forged", &[key(3, 1)]));
    assert!(matches!(lab.next(), WorkerAction::CheckManifest { from, .. } if from == peer(9)));
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    assert!(matches!(lab.next(), WorkerAction::CheckManifest { from, .. } if from == peer(1)));
    lab.order(9, 1, 7, WorkerOrder::End);
    lab.next();
    lab.order(9, 1, 7, assign_by(b"forged", &[key(3, 1)]));
    lab.next();
    lab.tell(checked(9, Err("it is another job's")));
    let told = lab.next();
    assert!(matches!(told, WorkerAction::Send { to, .. } if to == peer(9)), "{told:?}");

    lab.tell(checked(1, Ok(())));
    lab.persisted();
    assert_eq!((lab.started(), lab.renewed(1)), (vec![key(0, 1)], vec![key(0, 1)]));
    // A forged manifest that comes late is nothing to the job either.
    lab.tell(checked(9, Err("it is another job's")));
    assert_eq!(lab.worker.load(), (1, 0));
}

#[test]
fn orders_of_who_is_not_on_the_roster_are_not_obeyed_and_are_remembered() {
    let mut lab = Lab::with(1, &[key(0, 1)]);
    let blame = WorkerAction::Blame { peer: peer(9), job: job(1) };
    let orders = [
        WorkerOrder::End,
        WorkerOrder::Revoke { attempts: vec![key(0, 1)] },
        assign(&[key(1, 1)]),
        WorkerOrder::Query,
    ];
    for epoch in [0, 1, 2, u64::MAX] {
        for order in &orders {
            lab.order(9, 1, epoch, order.clone());
            // No term has the number 0.
            let expected = (epoch > 0).then(|| blame.clone());
            assert_eq!(lab.said.pop_front(), expected, "{order:?}");
            assert_eq!(lab.said, []);
        }
    }
    assert_eq!(lab.worker.load(), (1, 0));
    // Also with the job's own, true manifest.
    let mut lab = Lab::new(1);
    lab.order(9, 1, 1, assign(&[key(0, 1)]));
    lab.next();
    lab.tell(checked(9, Ok(())));
    assert_eq!(lab.next(), blame);
    assert_eq!(lab.worker.jobs().count(), 0);
    lab.finish_looking();
}

#[test]
fn a_sender_of_endless_orders_has_few_of_them_kept_and_takes_no_place_of_others() {
    let mut lab = Lab::new(1);
    for n in 0..=255 {
        lab.order(9, n, 1, assign(&[key(0, 1)]));
    }
    let checks = lab.said.drain(..).count();
    assert_eq!(checks, UNCHECKED_LIMIT);
    assert_eq!(lab.worker.jobs().count(), 0);
    lab.order(1, 1, 1, assign(&[key(0, 1)]));
    lab.check_passes(1);
    lab.persisted();
    assert_eq!(lab.started(), [key(0, 1)]);
}

#[test]
fn a_controller_that_settles_nothing_and_leases_nothing_gets_little_of_a_worker() {
    let mut lab = Lab::new(1);
    let order = |assignments: WorkerOrder| match assignments {
        WorkerOrder::Assign { manifest, assignments, .. } => {
            WorkerOrder::Assign { manifest, lease_ms: 0, assignments }
        }
        other => other,
    };
    lab.order(1, 1, 1, order(assign(&[key(0, 1)])));
    lab.check_passes(1);
    lab.memo = (0..10_000).map(TaskId).collect();
    for task in 1..10_000 {
        lab.order(1, 1, 1, order(assign(&[key(task, 1)])));
        lab.said.clear();
    }
    let (_, waiting) = lab.worker.load();
    assert_eq!(waiting, 0);
    let kept = lab.worker.jobs[&job(1)].reports.len();
    assert!(kept <= lab.worker.limits.queue, "{kept}");
    lab.tell(WorkerEvent::Persisted { seq: u64::MAX });
    // The lease of nothing is not renewed without end.
    let due = lab.worker.next_wake().expect("reports are repeated");
    lab.now = due;
    lab.tell(WorkerEvent::Tick);
    assert!(lab.worker.next_wake() > Some(due), "it wakes at once, again and again");
    // Tasks that no job has are not remembered.
    let attempts = (0..1000).map(|n| key(u32::MAX - n, 1)).collect();
    lab.order(1, 1, 1, WorkerOrder::Revoke { attempts });
    assert!(lab.worker.jobs[&job(1)].newest.len() <= 10_000);
}
