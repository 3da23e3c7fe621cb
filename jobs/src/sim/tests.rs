use super::{Broken, Fault, Tally, run};

/// Seeds of one run of the tests.
const SEEDS: u64 = 500;

/// The command that replays one seed.
fn replay(seed: u64) -> String {
    format!("IPDC_SIM_SEED={seed} cargo test -p ipdc-jobs sim::tests::every_job_ends")
}

fn seeds() -> Vec<u64> {
    match std::env::var("IPDC_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("IPDC_SIM_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

#[test]
fn every_job_ends_as_it_should_whatever_happens() {
    let mut sum = Tally::default();
    let seeds = seeds();
    let mut broken = Vec::new();
    for seed in &seeds {
        match run(*seed, None) {
            Ok(tally) => sum.add(&tally),
            Err(law) => broken.push(format!("{law}\n  replay: {}", replay(*seed))),
        }
    }
    println!("{sum:#?}");
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}
