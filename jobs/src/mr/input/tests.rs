//! Input of every shape, read as records and through whole jobs.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::super::bad::Skipped;
use super::super::config::Config;
use super::super::{MapReduce, split};
use super::*;
use crate::fake::{self, Last, World};
use crate::ids::{PeerId, TaskId};
use crate::kind::{Kind, Work};
use crate::message::{Input, Payload};

const LIMIT: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Level::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    packed.include_checksum(true).unwrap();
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// The calls that `file` of `world`, all one split, makes, with where each begins.
fn batches(
    world: &World,
    file: &FileRef,
    records: RecordKind,
    packed: Option<Codec>,
) -> Result<Vec<(u64, Vec<u8>)>, TaskError> {
    let packed = packed.map(|codec| Packed { codec, path: "dir/file".into() });
    let split =
        Split { file: *file, offset: 0, len: file.len, name: file.cid, closed: false, packed };
    let mut calls = Vec::new();
    read(&split, records, LIMIT, world, &mut |batch| {
        assert!(batch.read <= file.len);
        calls.push((batch.offset, batch.records.to_vec()));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(calls)
}

fn joined(calls: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (offset, records) in calls {
        assert_eq!(*offset, all.len() as u64, "each call begins where the last one ended");
        all.extend_from_slice(records);
    }
    all
}

/// `map` emits each word with a one.
fn words(_: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    for word in input.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        emit(word, b"1");
    }
}

/// `map` emits the length of each call of its input: only for input whose calls are records.
fn lengths(_: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    emit(input.len().to_string().as_bytes(), b"1");
}

/// What a job made.
struct Made {
    counts: BTreeMap<String, u64>,
    skipped: Vec<Skipped>,
}

/// Runs a job that counts what `native` emits of `files`.
fn run(
    world: &World,
    native: fake::Native,
    change: impl FnOnce(&mut Config),
    files: &[(&str, Vec<u8>)],
) -> Result<Made, TaskError> {
    world.module("guest", native);
    let mut config = fake::config(world);
    change(&mut config);
    let config = serde_json::to_value(config).unwrap();
    let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), world.put(bytes)));
    let tasks = MapReduce.plan(&config, &world.tree(files.collect())).unwrap();
    let mut outputs: Vec<Payload> = Vec::new();
    for (n, task) in tasks.iter().enumerate() {
        let inputs: Vec<Input> = task
            .needs
            .clone()
            .map(|need| Input {
                task: TaskId(need),
                payload: MapReduce.pick(task, &outputs[need as usize]),
                holders: vec![PeerId::random()],
            })
            .collect();
        let work =
            Work { config: &config, task: TaskId(n as u32), body: &task.body, inputs: &inputs };
        outputs.push(MapReduce.run(&work, world)?);
    }
    let last_stage = tasks.last().map(|task| task.stage);
    let numbered = (0..).map(TaskId).zip(outputs);
    let last: Vec<_> =
        numbered.filter(|(task, _)| Some(tasks[task.0 as usize].stage) == last_stage).collect();
    let mut counts = BTreeMap::new();
    let mut finished =
        MapReduce.finish(&config, &Last { world, outputs: last, bodies: Vec::new() })?;
    for part in finished.files {
        for line in String::from_utf8_lossy(&world.read(&part.file).unwrap()).lines() {
            let (key, count) = line.split_once('\t').unwrap();
            *counts.entry(key.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
    }
    let skipped = finished.remarks.remove("skipped");
    let skipped = skipped.map(|list| serde_json::from_value(list).unwrap()).unwrap_or_default();
    Ok(Made { counts, skipped })
}

fn text(lines: u32) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("word{} and w{}\n", n % 100, n % 7).into_bytes()).collect()
}

#[test]
fn every_form_of_the_same_words_gives_the_same_counts() {
    let world = World::new();
    let text = text(40_000);
    let count = |files: &[(&str, Vec<u8>)]| run(&world, words, |_| {}, files).unwrap().counts;
    let expected = count(&[("", text.clone())]);
    assert_eq!(expected["and"], 40_000);
    let (one, two) = text.split_at(text.iter().position(|&byte| byte == b'\n').unwrap() + 1);
    let members = [gzip(one), gzip(two)].concat();
    let frames = [zst(one), zst(b""), zst(two)].concat();
    assert_eq!(count(&[("a.gz", gzip(&text))]), expected);
    assert_eq!(count(&[("a.gz", members)]), expected);
    assert_eq!(count(&[("b.zst", frames)]), expected);
    // The input is the file: its bytes alone tell.
    assert_eq!(count(&[("", gzip(&text))]), expected);
    assert_eq!(count(&[("a.gz", gzip(one)), ("b/c.txt", vec![]), ("d.zst", zst(two))]), expected);
    let crlf: Vec<u8> = text
        .split_inclusive(|&b| b == b'\n')
        .flat_map(|line| [line.strip_suffix(b"\n").unwrap(), b"\r\n"].concat())
        .collect();
    assert_eq!(count(&[("crlf", crlf)]), expected);
    assert_eq!(count(&[("cut", text.strip_suffix(b"\n").unwrap().to_vec())]), expected);
    let small: Vec<(String, Vec<u8>)> = text
        .split_inclusive(|&b| b == b'\n')
        .enumerate()
        .map(|(n, line)| (format!("{n:05}"), line.strip_suffix(b"\n").unwrap().to_vec()))
        .take(2000)
        .collect();
    let small: Vec<(&str, Vec<u8>)> =
        small.iter().map(|(path, line)| (&**path, line.clone())).collect();
    assert_eq!(count(&small)["and"], 2000);
}

#[test]
fn only_a_name_and_bytes_that_agree_make_a_file_a_compressed_one() {
    let world = World::new();
    let packed = gzip(b"hidden\n");
    let seen = |compression, path: &str, bytes: &[u8]| {
        let file = world.put(bytes);
        codec_of(compression, path, &file, &world.tree(vec![])).unwrap()
    };
    assert_eq!(seen(Compression::ByName, "a.gz", &packed), Some(Codec::Gzip));
    assert_eq!(seen(Compression::ByName, "a.txt", &packed), None);
    assert_eq!(seen(Compression::ByName, "a.zst", &packed), None);
    assert_eq!(seen(Compression::ByName, "a.gz", b"plain"), None);
    assert_eq!(seen(Compression::ByName, "a.gz", b"x"), None);
    assert_eq!(seen(Compression::Gzip, "a.txt", &packed), Some(Codec::Gzip));
    assert_eq!(seen(Compression::None, "a.gz", &packed), None);
}

#[test]
fn a_broken_or_cut_off_stream_is_an_error_that_names_the_file() {
    let world = World::new();
    let text = text(3000);
    for (codec, packed) in [(Codec::Gzip, gzip(&text)), (Codec::Zstd, zst(&text))] {
        let whole = world.put(&packed);
        assert!(joined(&batches(&world, &whole, RecordKind::Lines, Some(codec)).unwrap()) == text);
        let mut flipped = packed.clone();
        let middle = packed.len() / 2;
        flipped[middle] ^= 0x10;
        let cut = packed[..packed.len() - 1].to_vec();
        let tail = [&packed[..], b"more"].concat();
        for broken in [flipped, cut, packed[..2].to_vec(), tail] {
            let file = world.put(&broken);
            let error = batches(&world, &file, RecordKind::Lines, Some(codec)).err().unwrap();
            assert!(matches!(error, TaskError::Failed { code: "IPDC-5370", .. }), "{error}");
            assert!(error.to_string().contains("`dir/file`"), "{error}");
        }
    }
}

#[test]
fn what_unpacks_to_very_much_is_held_a_piece_at_a_time() {
    let world = World::new();
    let bomb = zst(&b"0\n".repeat(32 << 20));
    assert!(bomb.len() < 20_000);
    let split_file = world.put(&bomb);
    let mut bytes = 0;
    let packed = Some(Packed { codec: Codec::Zstd, path: String::new() });
    let (len, name) = (split_file.len, split_file.cid);
    let split = Split { file: split_file, offset: 0, len, name, closed: false, packed };
    read(&split, RecordKind::Lines, LIMIT, &world, &mut |batch| {
        assert!(batch.records.len() <= 1 << 20);
        bytes += batch.records.len();
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(bytes, 64 << 20);
    // Without a newline it is one record, which has a limit.
    let endless = world.put(&gzip(&vec![b'x'; 64 << 20]));
    let error = batches(&world, &endless, RecordKind::Lines, Some(Codec::Gzip)).unwrap_err();
    assert!(matches!(error, TaskError::Failed { code: "IPDC-5356", .. }), "{error}");
}

#[test]
fn fixed_records_and_paragraphs_come_whole() {
    let mut world = World::new();
    world.read_limit = 7;
    let fixed = |config: &mut Config| config.record = RecordKind::Fixed(10);
    let made = run(&world, lengths, fixed, &[("a", vec![0xff; 100]), ("b", vec![0; 25])]).unwrap();
    let whole: u64 = made.counts.iter().filter(|(len, _)| len.ends_with('0')).map(|(_, n)| n).sum();
    assert_eq!(made.counts.get("5"), Some(&1), "the last may be shorter: {:?}", made.counts);
    assert!(whole >= 6);
    let file = world.put(b"one\nstill one\n\ntwo\r\n\r\nthree");
    let calls = batches(&world, &file, RecordKind::Paragraph, None).unwrap();
    let records: Vec<_> = calls.iter().map(|(_, records)| &records[..]).collect();
    assert_eq!(records, [&b"one\nstill one\n\n"[..], b"two\r\n\r\n", b"three"]);
}

#[test]
fn records_that_trap_are_left_out_listed_and_not_counted() {
    let mut world = World::new();
    world.traps_on = Some(b"poison");
    world.frame_limit = 50;
    let mut lines = text(5000);
    lines.extend_from_slice(b"a poison line\n");
    lines.extend_from_slice(&text(3000));
    lines.extend_from_slice(b"more \xff poison, without an end");
    let files = [("a", lines.clone()), ("b", b"poison\n".to_vec()), ("c", text(10))];
    let most = |most| move |config: &mut Config| config.max_bad_records = most;
    let made = run(&world, words, most(3), &files).unwrap();
    assert_eq!(made.counts["and"], 8010);
    assert!(!made.counts.keys().any(|word| ["poison", "line", "more"].contains(&&**word)));
    let shown: Vec<_> = made.skipped.iter().map(|bad| &*bad.record).collect();
    assert_eq!(shown, ["a poison line\n", "more \u{fffd} poison, without an end", "poison\n"]);
    assert_eq!(made.skipped[0].offset, text(5000).len() as u64);
    assert!(made.skipped[0].message.contains("unreachable"));

    // The job's limit: each file is a task of its own, and each has but two.
    let error = run(&world, words, most(2), &files).err().unwrap();
    assert!(matches!(error, TaskError::Failed { code: "IPDC-5371", .. }), "{error}");
    // A task's limit, and none at all: what the trap said.
    for few in [0, 1] {
        let error = run(&world, words, most(few), &files[..1]).err().unwrap();
        assert!(matches!(error, TaskError::Failed { code: "IPDC-5301", .. }), "{error}");
    }
}

#[test]
fn so_many_records_may_be_bad_in_a_whole_job_whether_it_reduces_or_not() {
    let mut world = World::new();
    world.traps_on = Some(b"poison");
    let one = |n: u32| [text(n), b"poison\n".to_vec()].concat();
    let files = [("a", one(10)), ("b", one(20)), ("c", one(30)), ("d", text(40))];
    let plain = |_: &mut Config| {};
    let maps_only = |config: &mut Config| {
        (config.reduce, config.combine, config.partitions) = (None, None, 0);
    };
    let top = |config: &mut Config| config.top = Some(1000);
    let maps_and_top = |config: &mut Config| (maps_only(config), top(config)).1;
    for shape in [&plain as &dyn Fn(&mut Config), &maps_only, &top, &maps_and_top] {
        let most = |most| {
            move |config: &mut Config| {
                shape(config);
                config.max_bad_records = most;
            }
        };
        let made = run(&world, words, most(3), &files).unwrap();
        let shown: Vec<_> = made.skipped.iter().map(|bad| (&*bad.record, bad.offset)).collect();
        let offset = |n: u32| text(n).len() as u64;
        let poison = |n| ("poison\n", offset(n));
        assert_eq!(shown, [poison(10), poison(20), poison(30)], "in the order of the input");
        // Each task left out one, and might have left out two.
        let error = run(&world, words, most(2), &files).err().unwrap();
        assert!(matches!(error, TaskError::Failed { code: "IPDC-5371", .. }), "{error}");
    }
}

#[test]
fn a_call_that_emits_more_than_is_held_is_halved_and_nothing_is_skipped() {
    let mut world = World::new();
    world.memory = 4 << 10;
    world.frame_limit = 100;
    let allowed = |config: &mut Config| config.max_bad_records = 1;
    let made = run(&world, words, allowed, &[("a", text(2000))]).unwrap();
    assert_eq!(made.counts["and"], 2000);
    assert!(made.skipped.is_empty());
    let line = [b"x ".repeat(500), b"\n".to_vec()].concat();
    let error = run(&world, words, allowed, &[("a", line)]).err().unwrap();
    assert!(matches!(error, TaskError::Failed { code: "IPDC-5372", .. }), "{error}");
}

#[test]
fn a_split_that_ends_inside_a_record_it_should_not_is_an_error() {
    let world = World::new();
    let file = world.put(b"one\ntw");
    let (len, name) = (file.len, file.cid);
    let split = Split { file, offset: 0, len, name, closed: true, packed: None };
    let error =
        read(&split, RecordKind::Lines, LIMIT, &world, &mut |_| Ok(ControlFlow::Continue(())))
            .unwrap_err();
    assert!(matches!(error, TaskError::Failed { code: "IPDC-5373", .. }), "{error}");
}

#[test]
fn a_split_of_another_tree_is_read_from_its_place_in_the_file() {
    let world = World::new();
    let text = text(900_000);
    let tree = world.tree(vec![(String::new(), world.put(&text))]);
    let splits = split::of_input(&fake::config(&world), &tree).unwrap();
    assert!(splits.len() > 1);
    let mut all = Vec::new();
    for split in &splits {
        read(split, RecordKind::Lines, LIMIT, &world, &mut |batch| {
            all.extend_from_slice(batch.records);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    }
    assert!(all == text);
}

proptest! {
    #[test]
    fn records_are_whole_and_join_to_the_file_however_it_is_read(
        text in prop::collection::vec(prop::sample::select(b"ab\"\n\r\n\0\xff".to_vec()), 0..400),
        kind in prop::sample::select(vec![
            RecordKind::Lines, RecordKind::Paragraph, RecordKind::Csv, RecordKind::Fixed(5),
        ]),
        read_limit in 1_usize..100,
    ) {
        let mut world = World::new();
        world.read_limit = read_limit;
        let file = world.put(&text);
        let calls = batches(&world, &file, kind, None).unwrap();
        prop_assert_eq!(joined(&calls), text.clone());
        // Every call but the last ends where a record does.
        let mut scanner = Scanner::new(kind);
        let (mut at, mut ends) = (0, Vec::new());
        while let Some(end) = scanner.next_end(&text[at..]) {
            at += end;
            ends.push(at);
        }
        for (offset, records) in calls.iter().rev().skip(1) {
            prop_assert!(ends.contains(&(*offset as usize + records.len())));
        }
    }
}
