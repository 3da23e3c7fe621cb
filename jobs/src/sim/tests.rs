use super::{Broken, Fault, Tally, run};

/// Seeds of one run of the tests: some ten seconds of one core.
const SEEDS: u64 = 2_000;

/// The command that replays one seed.
fn replay(seed: u64) -> String {
    format!("IPDC_SIM_SEED={seed} cargo test -p ipdc-jobs every_job_ends -- --nocapture")
}

/// `IPDC_SIM_SEED=7` runs one seed, `IPDC_SIM_SEED=2000..9000` many.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("IPDC_SIM_SEED") else { return 0..SEEDS };
    let number = |text: &str| text.parse::<u64>().expect("IPDC_SIM_SEED is a number or a range");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&text)..number(&text) + 1,
    }
}

#[test]
fn every_job_ends_as_it_should_whatever_happens() {
    let seeds = seeds();
    let is_whole = seeds == (0..SEEDS);
    let mut sum = Tally::default();
    let mut broken = Vec::new();
    for seed in seeds {
        match run(seed, None) {
            Ok(tally) => sum.add(&tally),
            Err(law) => broken.push(format!("{law}\n  replay: {}", replay(seed))),
        }
    }
    println!("{sum:#?}");
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
    assert_eq!(sum.jobs, sum.done + sum.failed + sum.cancelled, "every job ended, once");
    if is_whole {
        everything_happened(&sum);
    }
}

/// A simulator in which nothing goes wrong shows nothing.
fn everything_happened(sum: &Tally) {
    let Tally { done, failed, cancelled, lost, doubled, reordered, .. } = *sum;
    let Tally { old_orders, old_notes, crashes, controller_crashes, take_overs, .. } = *sum;
    let Tally { scrapped, partitions, clock_jumps, freezes, slow_nodes, wiped_disks, .. } = *sum;
    let Tally { drains, pauses, refusals, failed_attempts, failed_builds, failed_stores, .. } =
        *sum;
    let Tally { memo_hits, memo_losses, misfits, lies, blames, forged, .. } = *sum;
    let Tally { growing, gifts, repeated_gifts, withdrawn, reads, failed_reads, .. } = *sum;
    let Tally { leases, wide, lent, .. } = *sum;
    let engines = sum.engines;
    let seen = [
        ("jobs done", done, 3_200),
        ("jobs failed for a cause", failed, 80),
        ("jobs cancelled", cancelled, 40),
        ("messages lost", lost, 20_000),
        ("messages doubled", doubled, 12_000),
        ("messages out of order", reordered, 20_000),
        ("orders of an older epoch", old_orders, 20),
        ("notes of an older epoch", old_notes, 2_000),
        ("crashes", crashes, 4_000),
        ("crashes of controllers", controller_crashes, 1_600),
        ("take-overs", take_overs, 1_200),
        ("nodes gone for good", scrapped, 200),
        ("partitions", partitions, 2_000),
        ("clock jumps", clock_jumps, 2_000),
        ("freezes", freezes, 1_600),
        ("slow nodes", slow_nodes, 1_600),
        ("wiped disks", wiped_disks, 1_600),
        ("drains", drains, 800),
        ("pauses", pauses, 1_600),
        ("refusals", refusals, 400),
        ("failed attempts", failed_attempts, 2_000),
        ("attempts on nodes too small for them", misfits, 800),
        ("failed builds", failed_builds, 60),
        ("failed stores", failed_stores, 120),
        ("answers from a memo", memo_hits, 3_000),
        ("memos that lost what they had just answered", memo_losses, 200),
        ("lies of a hostile member", lies, 40_000),
        ("lies that were seen through", blames, 8_000),
        ("outputs that a hostile member made up", forged, 80),
        ("jobs whose tasks follow from results", growing, 800),
        ("things given to running jobs", gifts, 800),
        ("things given again", repeated_gifts, 2_000),
        ("items withdrawn", withdrawn, 400),
        ("GPUs leased", leases, 4_000),
        ("attempts that took several slots", wide, 2_000),
        ("times that something else ran", lent, 2_000),
        ("outputs read before their commit", reads, 2_000),
        ("reads that failed", failed_reads, 120),
        ("commits", engines.commits, 40_000),
        ("retries", engines.retries, 8_000),
        ("steals", engines.steals, 4_000),
        ("second attempts of stragglers", engines.speculations, 2_000),
        ("lost outputs", engines.lost_outputs, 4_000),
        ("lost attempts", engines.lost_attempts, 800),
        ("orders sent again", engines.resends, 8_000),
        ("tasks given up", engines.given_up, 4),
        ("workers avoided", engines.blocks, 400),
        ("attempts adopted", engines.adopted, 800),
    ];
    for (what, times, least) in seen {
        assert!(times >= least, "only {times} {what}: {least} are expected of {SEEDS} seeds");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [3, 70, 123] {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

/// The first seed whose run finds the planted mistake, and what it says.
fn found(fault: Fault) -> (u64, Broken) {
    let find = |seed| run(seed, Some(fault)).err().map(|law| (seed, law));
    let found = (0..SEEDS).find_map(find);
    found.unwrap_or_else(|| panic!("no seed below {SEEDS} finds {fault:?}"))
}

#[test]
fn a_second_commit_is_found() {
    let (_, law) = found(Fault::CommitsTwice);
    assert!(matches!(law, Broken::CommittedTwice(_)), "{law}");
}

#[test]
fn belief_in_an_older_epoch_is_found() {
    let (_, law) = found(Fault::BelievesOldEpochs);
    assert!(matches!(law, Broken::OldEpochObeyed(_)), "{law}");
}

#[test]
fn obedience_to_an_older_epoch_is_found() {
    let (_, law) = found(Fault::WorkerObeysOldEpochs);
    assert!(matches!(law, Broken::OldEpochObeyed(_)), "{law}");
}

#[test]
fn a_lost_output_that_is_not_made_again_is_found() {
    let (_, law) = found(Fault::ForgetsLostOutputs);
    // Its readers fail again and again.
    assert!(matches!(law, Broken::NeverEnded(..) | Broken::PassedAround(..)), "{law}");
}

#[test]
fn a_report_settled_before_it_is_durable_is_found() {
    let (_, law) = found(Fault::SettlesBeforeAppend);
    assert!(matches!(law, Broken::SettledTooEarly(_)), "{law}");
}

#[test]
fn an_order_that_is_never_sent_again_is_found() {
    let (_, law) = found(Fault::NeverResends);
    assert!(matches!(law, Broken::NeverEnded(..)), "{law}");
}

#[test]
fn a_slot_that_the_policy_does_not_grant_is_found() {
    let (_, law) = found(Fault::WorkerIgnoresGrants);
    assert!(matches!(law, Broken::BegunAgainstPolicy(_)), "{law}");
}

#[test]
fn a_gift_that_is_taken_again_is_found() {
    let (_, law) = found(Fault::TakesGiftsTwice);
    assert!(matches!(law, Broken::GivenTwice(_)), "{law}");
}

#[test]
fn trust_in_dead_workers_is_found() {
    let (_, law) = found(Fault::TrustsDeadWorkers);
    assert!(matches!(law, Broken::NeverEnded(..)), "{law}");
}
