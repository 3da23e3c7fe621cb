//! The corpus, and changes of it, through every decoder.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use ipdc_fuzz::mutate::{Rng, mutate};
use ipdc_fuzz::{Decoder, Heap, corpus, decode, decoders};

#[global_allocator]
static HEAP: Heap = Heap;

/// Changed inputs of each decoder.
const ROUNDS: u64 = 2_000;

/// The most bytes of one input that is committed, and of all of a decoder.
const INPUT: usize = 8 << 10;
const INPUTS: usize = 32 << 10;

/// Set to write the seeds into the corpus.
const WRITE: &str = "IPDC_FUZZ_WRITE_SEEDS";

/// The files of a decoder's folder.
fn committed(decoder: &Decoder) -> Vec<(String, Vec<u8>)> {
    let folder = corpus(decoder.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn no_input_makes_a_decoder_panic_or_take_more_than_it_may() {
    for decoder in decoders() {
        let inputs: Vec<_> = committed(&decoder).into_iter().map(|(_, input)| input).collect();
        for input in &inputs {
            decode(&decoder, input);
        }
        for round in 0..ROUNDS {
            let input = mutate(&inputs, &mut Rng(round));
            let decoded = std::panic::catch_unwind(|| decode(&decoder, &input));
            if decoded.is_err() {
                let found = std::env::temp_dir().join(format!("found-{}-{round}", decoder.name));
                fs::write(&found, &input).unwrap();
                panic!("{} on {}, the input of round {round}", decoder.name, found.display());
            }
        }
    }
}

#[test]
fn every_decoder_has_its_seeds_in_the_corpus_and_no_folder_is_nobodys() {
    let mut folders = BTreeSet::new();
    for decoder in decoders() {
        assert!(
            folders.insert(decoder.name.to_owned()),
            "two decoders are called {}",
            decoder.name
        );
        let folder = corpus(decoder.name);
        let seeds = (decoder.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", decoder.name);
        for (n, seed) in seeds.iter().enumerate() {
            assert!(seed.len() <= INPUT, "seed {n} of {} has {} bytes", decoder.name, seed.len());
            let path = folder.join(format!("seed-{n}"));
            if std::env::var_os(WRITE).is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, seed).unwrap();
            }
            assert!(
                fs::read(&path).ok().as_ref() == Some(seed),
                "{} is not what its decoder's seeds are now: set {WRITE}=1 to write them",
                path.display()
            );
        }
        let bytes: usize = committed(&decoder).iter().map(|(_, input)| input.len()).sum();
        assert!(bytes <= INPUTS, "the corpus of {} has {bytes} bytes", decoder.name);
    }
    let root = corpus("");
    let found =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.collect::<BTreeSet<_>>(), folders);
}
