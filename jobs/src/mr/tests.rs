//! Whole jobs over a world in memory, against the same thing done naively.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::chunk::RecordKind;
use crate::code::Code;
use crate::fake::{Last, Native, World};
use crate::ids::PeerId;
use crate::kind::KINDS;
use crate::message::{FailureClass, Input};

/// `map` emits (word, 1), `reduce` and `combine` add.
fn word_count(function: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    if function == "map" {
        for word in input.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            emit(word, b"1");
        }
    } else {
        let (key, values) = group_of(input);
        let sum: i64 =
            values.iter().map(|v| str::from_utf8(v).unwrap().parse::<i64>().unwrap()).sum();
        emit(key, sum.to_string().as_bytes());
    }
}

/// `map` emits (first word, rest of the line); `reduce` and `combine` join with commas.
fn index(function: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    if function == "map" {
        for line in input.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let cut = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
            emit(&line[..cut], &line[cut..]);
        }
    } else {
        let (key, values) = group_of(input);
        emit(key, &values.join(&b','));
    }
}

fn group_of(mut input: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let mut number = || {
        let (number, rest) = input.split_first_chunk().unwrap();
        input = rest;
        u32::from_le_bytes(*number) as usize
    };
    let (key_len, count) = (number(), number());
    let (key, mut rest) = input.split_at(key_len);
    let mut values = Vec::new();
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk().unwrap();
        let (value, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        values.push(value);
        rest = after;
    }
    assert!(rest.is_empty());
    (key, values)
}

/// How a job is run, none of which may show in its result.
#[derive(Debug, Clone)]
struct Conditions {
    memory: u64,
    read_limit: usize,
    frame_limit: usize,
}

const ROOMY: Conditions =
    Conditions { memory: 1 << 30, read_limit: 1 << 20, frame_limit: 64 << 10 };

impl Conditions {
    fn world(&self) -> World {
        let mut world = World::new();
        world.memory = self.memory;
        world.read_limit = self.read_limit;
        world.frame_limit = self.frame_limit;
        world
    }
}

struct Job {
    native: Native,
    combine: &'static str,
    /// Empty in a job of maps only.
    reduce: &'static str,
    partitions: u32,
}

impl Job {
    /// The result's files, in order.
    fn run(&self, texts: &[Vec<u8>], how: &Conditions) -> Result<Vec<Vec<u8>>, TaskError> {
        self.run_in(&how.world(), texts)
    }

    /// As [`Job::run`], with a configuration that was changed.
    fn run_with(
        &self,
        texts: &[Vec<u8>],
        how: &Conditions,
        change: impl FnOnce(&mut Config),
    ) -> Result<Vec<Vec<u8>>, TaskError> {
        let world = how.world();
        let mut config = Config::read(&self.config(&world)).unwrap();
        change(&mut config);
        run_in(&world, &serde_json::to_value(config).unwrap(), texts)
    }

    fn run_in(&self, world: &World, texts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, TaskError> {
        run_in(world, &self.config(world), texts)
    }

    fn config(&self, world: &World) -> Value {
        let module = Code::Module(world.module("guest", self.native));
        let step = |name: &str| match Builtin::named(name) {
            Some(builtin) => Step::Builtin(builtin),
            None => Step::Code(module.clone()),
        };
        let config = Config {
            map: module.clone(),
            combine: (!self.combine.is_empty()).then(|| step(self.combine)),
            reduce: (!self.reduce.is_empty()).then(|| step(self.reduce)),
            partitions: self.partitions,
            record: RecordKind::Lines,
            compression: Compression::ByName,
            max_bad_records: 0,
            partition: Partition::Hash,
            order: Order::default(),
            top: None,
            inputs: Vec::new(),
            params: serde_json::Map::new(),
            files: BTreeMap::new(),
        };
        serde_json::to_value(config).unwrap()
    }
}

/// Runs all tasks of a job one after the other; the result's files, in order.
fn run_in(world: &World, config: &Value, texts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, TaskError> {
    let files = texts.iter().enumerate().map(|(n, text)| (format!("{n:03}"), world.put(text)));
    let tasks = MapReduce.plan(config, &world.tree(files.collect())).unwrap();
    let mut outputs: Vec<Payload> = Vec::new();
    for (n, task) in tasks.iter().enumerate() {
        let Range { start, end } = task.needs;
        let inputs: Vec<Input> = (start..end)
            .map(|need| Input {
                task: TaskId(need),
                payload: MapReduce.pick(task, &outputs[need as usize]),
                holders: vec![PeerId::random()],
            })
            .collect();
        let work = Work { config, task: TaskId(n as u32), body: &task.body, inputs: &inputs };
        outputs.push(MapReduce.run(&work, world)?);
    }
    let last = tasks.iter().map(|task| task.stage).max();
    let last: Vec<_> = (0..)
        .map(TaskId)
        .zip(outputs)
        .filter(|(task, _)| Some(tasks[task.0 as usize].stage) == last)
        .collect();
    let files = MapReduce.finish(config, &Last { world, outputs: last, bodies: Vec::new() })?.files;
    Ok(files.iter().map(|part| world.read(&part.file).unwrap().to_vec()).collect())
}

/// The parts that counting the words of `texts` must give.
fn naive_word_count(texts: &[Vec<u8>], partitions: u32) -> Vec<Vec<u8>> {
    let mut counts = BTreeMap::<&[u8], u64>::new();
    for text in texts {
        for word in text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            *counts.entry(word).or_default() += 1;
        }
    }
    let mut parts = vec![Vec::new(); partitions as usize];
    for (word, count) in counts {
        let part = &mut parts[shuffle::partition(word, partitions) as usize];
        part.extend([word, b"\t", count.to_string().as_bytes(), b"\n"].concat());
    }
    parts
}

/// Text of a vocabulary that grows, so that every memory cap is met at some point.
fn text(words: u32, seed: u32) -> Vec<u8> {
    let mut text = Vec::new();
    let mut state = seed;
    for n in 0..words {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = (state >> 16) % (n / 4 + 1);
        text.extend_from_slice(format!("w{word}").as_bytes());
        text.push(if state.is_multiple_of(9) { b'\n' } else { b' ' });
    }
    text
}

#[test]
fn the_kind_is_registered_under_its_name() {
    assert!(KINDS.iter().any(|kind| kind.name() == "mr"));
}

#[test]
fn a_word_count_is_that_of_a_naive_one_over_several_splits() {
    let texts = vec![text(1_500_000, 1), Vec::new(), text(20, 2)];
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 4 };
    assert_eq!(job.run(&texts, &ROOMY).unwrap(), naive_word_count(&texts, 4));
}

#[test]
fn an_empty_input_gives_empty_parts() {
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 3 };
    for texts in [vec![], vec![Vec::new()], vec![b"\n \n".to_vec()]] {
        assert_eq!(job.run(&texts, &ROOMY).unwrap(), vec![Vec::<u8>::new(); 3]);
    }
}

#[test]
fn memory_does_not_show_in_the_result_whatever_combines() {
    let texts = vec![text(60_000, 3), text(50_000, 4)];
    let expected = naive_word_count(&texts, 5);
    for (combine, reduce) in
        [("sum", "sum"), ("", "sum"), ("", "count"), ("count", "sum"), ("own", "own"), ("", "own")]
    {
        let job = Job { native: word_count, combine, reduce, partitions: 5 };
        assert_eq!(job.run(&texts, &ROOMY).unwrap(), expected, "{combine}, {reduce}");
        for memory in [256 << 10, 4 << 20] {
            let tight = Conditions { memory, read_limit: 1000, frame_limit: 100 };
            assert_eq!(job.run(&texts, &tight).unwrap(), expected, "{combine}, {reduce}, {memory}");
        }
    }
}

#[test]
fn a_tight_memory_does_spill() {
    let texts = vec![text(60_000, 3)];
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 2 };
    let mut files = Vec::new();
    for memory in [1 << 30, 256 << 10] {
        let mut world = World::new();
        world.memory = memory;
        job.run_in(&world, &texts).unwrap();
        files.push(world.count());
    }
    assert!(files[1] > files[0] + 4, "{files:?}");
}

#[test]
fn records_of_a_megabyte_under_a_tight_memory_give_what_they_give_anyhow() {
    // Long keys and long values, in lines of their own.
    let line = |n: u8, cut: &[u8]| {
        [&[b'a' + n % 7; 20], cut, &vec![b'a' + n % 26; 1 << 20][..], &[b'a' + n, b'\n']].concat()
    };
    let text = |n: u8| [line(n, b" "), line(n + 1, b""), b"short one\n".to_vec()].concat();
    let texts: Vec<_> = (0..20).map(text).collect();
    let job = Job { native: index, combine: "", reduce: "sort", partitions: 2 };
    let mut made = Vec::new();
    for memory in [1 << 30, 16 << 20] {
        let mut world = World::new();
        world.memory = memory;
        made.push((job.run_in(&world, &texts).unwrap(), world.count()));
    }
    let [(roomy, files), (tight, more_files)] = &made[..] else { unreachable!("there are two") };
    assert!(roomy == tight, "the results differ");
    assert!(more_files > files, "nothing was merged on the way");
}

#[test]
fn without_a_reducer_each_map_writes_what_it_emits_in_the_order_of_the_input() {
    fn echo(_: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
        for line in input.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            emit(b"", line);
            emit(&line[..1], b"");
            emit(&line[..1], line);
        }
    }
    let job = Job { native: echo, combine: "", reduce: "", partitions: 0 };
    let texts = [b"a1\na2\n".to_vec(), Vec::new(), b"b".to_vec()];
    for how in [ROOMY, Conditions { memory: 0, read_limit: 1, frame_limit: 1 }] {
        let parts = job.run(&texts, &how).unwrap();
        assert_eq!(parts, [&b"a1\na\na\ta1\na2\na\na\ta2\n"[..], b"b\nb\nb\tb\n"]);
    }
    assert!(job.run(&[], &ROOMY).unwrap().is_empty());
}

#[test]
fn values_keep_the_order_of_the_input() {
    let lines = |from: u32| {
        let line = |n: u32| format!("k{} {n}\n", n % 7).into_bytes();
        (from..from + 500).flat_map(line).collect::<Vec<u8>>()
    };
    let texts = vec![lines(0), lines(500)];
    for (combine, reduce) in [("", "concat"), ("concat", "concat"), ("own", "concat")] {
        let job = Job { native: index, combine, reduce, partitions: 1 };
        for memory in [1 << 30, 64 << 10, 4 << 10] {
            let how = Conditions { memory, ..ROOMY };
            // The user's combiner takes whole groups, which must fit.
            if combine == "own" && memory < 64 << 10 {
                continue;
            }
            let part = job.run(&texts, &how).unwrap().remove(0);
            let part = String::from_utf8(part).unwrap();
            let zero = part.lines().next().unwrap().strip_prefix("k0\t").unwrap();
            let numbers: Vec<u32> = zero.split([' ', ',']).filter_map(|n| n.parse().ok()).collect();
            assert_eq!(numbers, (0..1000).step_by(7).collect::<Vec<_>>(), "{combine} {memory}");
        }
    }
    for combine in ["", "first"] {
        let job = Job { native: index, combine, reduce: "first", partitions: 1 };
        let part = job.run(&texts, &Conditions { memory: 4 << 10, ..ROOMY }).unwrap().remove(0);
        assert!(part.starts_with(b"k0\t 0\nk1\t 1\nk2\t 2\n"));
    }
}

#[test]
fn a_sum_that_overflows_fails_and_names_the_key() {
    fn top(_: &str, _: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
        for value in [i64::MAX.to_string().as_bytes(), b"1"] {
            emit(b"much", value);
        }
    }
    for combine in ["", "sum"] {
        let job = Job { native: top, combine, reduce: "sum", partitions: 1 };
        let error = job.run(&[b"x".to_vec()], &ROOMY).unwrap_err();
        assert!(matches!(error, TaskError::Failed { code: "IPDC-5353", .. }), "{error}");
        assert!(error.to_string().contains("`much`"));
    }
}

#[test]
fn a_sum_may_overflow_on_its_way() {
    fn over_and_back(_: &str, _: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
        for value in ["9223372036854775807", "5", "5", "-9223372036854775807", "-3"] {
            emit(b"a key of more than a prefix has", value.as_bytes());
            emit(b"k", value.as_bytes());
        }
    }
    for combine in ["", "sum"] {
        for memory in [1 << 30, 1 << 10] {
            let job = Job { native: over_and_back, combine, reduce: "sum", partitions: 1 };
            let part = job.run(&[b"x".to_vec()], &Conditions { memory, ..ROOMY }).unwrap();
            let part = String::from_utf8(part.concat()).unwrap();
            assert_eq!(part, "a key of more than a prefix has\t7\nk\t7\n");
        }
    }
}

#[test]
fn a_combiner_may_not_leave_its_key() {
    fn stray(function: &str, _: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
        emit(if function == "map" { b"own" } else { b"other" }, b"");
    }
    let job = Job { native: stray, combine: "own", reduce: "count", partitions: 1 };
    let error = job.run(&[b"x".to_vec()], &ROOMY).unwrap_err();
    assert!(matches!(error, TaskError::Failed { code: "IPDC-5354", .. }), "{error}");
}

#[test]
fn a_group_and_a_line_that_do_not_fit_fail_by_name() {
    let line = [vec![b'x'; 3 << 20], b"\n".to_vec()].concat();
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 1 };
    let error =
        job.run(std::slice::from_ref(&line), &Conditions { memory: 4 << 20, ..ROOMY }).unwrap_err();
    assert!(matches!(error, TaskError::Failed { code: "IPDC-5356", .. }), "{error}");
    job.run(&[line], &ROOMY).unwrap();

    let job = Job { native: word_count, combine: "", reduce: "own", partitions: 1 };
    let error = job.run(&[b"a ".repeat(9000)], &Conditions { memory: 64 << 10, ..ROOMY });
    assert!(matches!(error, Err(TaskError::Failed { code: "IPDC-5355", .. })));
}

#[test]
fn what_does_not_fit_a_small_node_is_no_fault_of_the_job() {
    let mut world = World::new();
    world.room = 4 << 20;
    let line = [vec![b'x'; 3 << 20], b"\n".to_vec()].concat();
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 1 };
    let error = job.run_in(&world, std::slice::from_ref(&line)).unwrap_err();
    let is_the_nodes =
        matches!(error, TaskError::Failed { class: FailureClass::TooSmall, code: "IPDC-5356", .. });
    assert!(is_the_nodes, "{error}");
    let texts = vec![text(60_000, 3)];
    assert_eq!(job.run_in(&world, &texts).unwrap(), naive_word_count(&texts, 1));
}

#[test]
fn a_run_that_nobody_has_is_missing() {
    let world = World::new();
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 2 };
    let config = job.config(&world);
    let input = world.put(&text(40_000, 5));
    let tasks = MapReduce.plan(&config, &world.tree(vec![(String::new(), input)])).unwrap();
    let work = Work { config: &config, task: TaskId(0), body: &tasks[0].body, inputs: &[] };
    let output = MapReduce.run(&work, &world).unwrap();
    let payload = MapReduce.pick(&tasks[1], &output);
    let Payload::Inline(text) = &payload else { unreachable!("two runs' names are short") };
    let (shuffle::Run::File(lost, _), _) = shuffle::run_of(text, 0, false).unwrap() else {
        unreachable!("forty thousand words are more than a message holds")
    };
    world.lose(&lost);
    let inputs = [Input { task: TaskId(0), payload, holders: vec![] }];
    let work = Work { config: &config, task: TaskId(1), body: &tasks[1].body, inputs: &inputs };
    let error = MapReduce.run(&work, &world).unwrap_err();
    let maker = Some(TaskId(0));
    assert!(
        matches!(error, TaskError::Missing { file, task, .. } if *file == lost && task == maker)
    );
}

#[test]
fn what_another_node_made_up_fails_without_a_panic() {
    let world = World::new();
    let job = Job { native: word_count, combine: "sum", reduce: "sum", partitions: 2 };
    let config = job.config(&world);
    let input = world.put(&text(100, 5));
    let map = MapReduce.plan(&config, &world.tree(vec![(String::new(), input)])).unwrap().remove(0);
    let reduce = plan::Body::Reduce(1);
    let body = serde_json::to_vec(&reduce).unwrap();
    for bytes in [&b""[..], &[1, 1], &[1, 0xff, 0xff, 0xff, 0xff, 0x0f], &[1, 1, 1, 3, 9, 9, 9]] {
        for payload in
            [Payload::Inline(bytes::Bytes::copy_from_slice(bytes)), Payload::File(world.put(bytes))]
        {
            let is_inline = matches!(payload, Payload::Inline(_));
            assert_eq!(MapReduce.is_output(&map, &payload), !is_inline, "{payload:?}");
            let inputs = [Input { task: TaskId(0), payload, holders: vec![] }];
            let work = Work { config: &config, task: TaskId(1), body: &body, inputs: &inputs };
            let error = MapReduce.run(&work, &world).unwrap_err();
            // What lies in a file is its maker's doing, and made again by another.
            let is_as_expected = match &error {
                TaskError::Failed { code, .. } => is_inline && *code == "IPDC-5357",
                TaskError::Missing { task, .. } => !is_inline && *task == Some(TaskId(0)),
                TaskError::Stopped => false,
            };
            assert!(is_as_expected, "{error}");
        }
    }
    let work = Work { config: &Value::Null, task: TaskId(1), body: b"{", inputs: &[] };
    assert!(MapReduce.run(&work, &world).is_err());
}

/// `map` emits each line as a key without a value.
fn lines(_: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    for line in lines_of(input) {
        emit(line, b"");
    }
}

/// `map` emits (what is before the first space, what is after it).
fn pairs(_: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])) {
    for line in lines_of(input) {
        let (key, value) = pair(line);
        emit(key, value);
    }
}

fn pair(line: &[u8]) -> (&[u8], &[u8]) {
    let cut = line.iter().position(|&byte| byte == b' ').unwrap();
    (&line[..cut], &line[cut + 1..])
}

fn lines_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

fn joined<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    lines.into_iter().flat_map(|line| [line, b"\n"].concat()).collect()
}

/// A line `key value` with few keys and numbers of every sort.
fn numbered() -> impl Strategy<Value = String> {
    (0..6_u8, -30..30_i64, prop_oneof![Just(1_i64), Just(10_000_000_000)])
        .prop_map(|(key, number, scale)| format!("k{key} {}", number * scale))
}

/// Texts of such lines.
fn texts_of(line: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let text = prop::collection::vec(line, 0..200).prop_map(|lines| lines.join("\n").into_bytes());
    prop::collection::vec(text, 0..4)
}

fn any_conditions() -> impl Strategy<Value = Conditions> {
    let memory = prop_oneof![0_u64..64, 1000_u64..20_000, Just(1 << 30)];
    (memory, 1_usize..5000, 1_usize..500).prop_map(|(memory, read_limit, frame_limit)| Conditions {
        memory,
        read_limit,
        frame_limit,
    })
}

#[test]
fn a_total_sort_is_even_over_its_parts_and_the_same_whatever_the_memory() {
    let texts = vec![text(60_000, 3), text(50_000, 4)];
    let words = |_: &str, input: &[u8], emit: &mut dyn FnMut(&[u8], &[u8])| {
        word_count("map", input, &mut |word, _| emit(word, b""));
    };
    let job = Job { native: words, combine: "", reduce: "sort", partitions: 7 };
    let by_range = |config: &mut Config| config.partition = Partition::Range;
    let parts = job.run_with(&texts, &ROOMY, by_range).unwrap();
    let mut expected: Vec<&[u8]> = texts
        .iter()
        .flat_map(|text| text.split(u8::is_ascii_whitespace))
        .filter(|word| !word.is_empty())
        .collect();
    expected.sort();
    assert_eq!(parts.concat(), joined(expected.iter().copied()));
    let fair = parts.concat().len() / 7;
    assert!(parts.iter().all(|part| part.len().abs_diff(fair) < fair / 2), "uneven");
    let tight = Conditions { memory: 64 << 10, read_limit: 999, frame_limit: 99 };
    assert_eq!(job.run_with(&texts, &tight, by_range).unwrap(), parts);
}

#[test]
fn counters_of_a_sample_do_not_count_and_its_boundaries_need_no_more_than_the_input() {
    let world = World::new();
    let job = Job { native: lines, combine: "", reduce: "sort", partitions: 3 };
    let mut config = Config::read(&job.config(&world)).unwrap();
    config.partition = Partition::Range;
    let config = serde_json::to_value(config).unwrap();
    let empty = MapReduce.plan(&config, &world.tree(vec![])).unwrap();
    assert_eq!(empty.len(), 3, "nothing to sample, nothing to map");
    let input = world.put(b"a\nb\nc\n");
    let tasks = MapReduce.plan(&config, &world.tree(vec![(String::new(), input)])).unwrap();
    let stages: Vec<_> = tasks.iter().map(|task| plan::STAGES[usize::from(task.stage)]).collect();
    assert_eq!(stages, ["sample", "map", "reduce", "reduce", "reduce"]);
    assert_eq!((tasks[1].needs.clone(), tasks[2].needs.clone()), (0..1, 1..2));
    assert_eq!(run_in(&world, &config, &[b"c\nb\na\n".to_vec()]).unwrap().concat(), b"a\nb\nc\n");
}

#[test]
fn what_cannot_be_ranked_is_named() {
    let job = Job { native: pairs, combine: "", reduce: "", partitions: 0 };
    let error = job.run_with(&[b"k 1x".to_vec()], &ROOMY, |config| config.top = Some(3));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("key `k`") && error.contains("`1x`"), "{error}");
    let job = Job { native: pairs, combine: "", reduce: "sort", partitions: 1 };
    let by = Order { by: By::Number, descending: false };
    let error = job.run_with(&[b"k 1".to_vec()], &ROOMY, |config| config.order = by).unwrap_err();
    assert!(error.to_string().contains("the key `k`"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_sort_keeps_every_record_in_any_order_under_any_conditions(
        texts in texts_of("-?[0-9]{1,3}(\\.[0-9])? [a-c]{0,2}"),
        (number, descending, range) in any::<(bool, bool, bool)>(),
        partitions in 1_u32..6,
        how in any_conditions(),
    ) {
        let order = Order { by: if number { By::Number } else { By::Bytes }, descending };
        let job = Job { native: pairs, combine: "", reduce: "sort", partitions };
        let parts = job.run_with(&texts, &how, |config| {
            config.order = order;
            config.partition = if range { Partition::Range } else { Partition::Hash };
        });
        let parts = parts.unwrap();
        prop_assert_eq!(parts.len(), partitions as usize);
        let mut expected: Vec<_> = texts.iter().flat_map(|text| lines_of(text)).map(pair).collect();
        let rank = |key: &[u8]| {
            let text = str::from_utf8(key).unwrap();
            if number { text.parse::<f64>().unwrap() } else { 0.0 }
        };
        let compare = |a: &[u8], b: &[u8]| {
            let order = rank(a).partial_cmp(&rank(b)).unwrap().then(a.cmp(b));
            if descending { order.reverse() } else { order }
        };
        expected.sort_by(|a, b| compare(a.0, b.0));
        let line = |(key, value): (&[u8], &[u8])| {
            if value.is_empty() { key.to_vec() } else { [key, b"\t", value].concat() }
        };
        let expected: Vec<Vec<u8>> = expected.into_iter().map(line).collect();
        if range || partitions == 1 {
            prop_assert_eq!(parts.concat(), joined(expected.iter().map(|line| &line[..])));
        } else {
            let mut all: Vec<&[u8]> = parts.iter().flat_map(|part| lines_of(part)).collect();
            let mut expected: Vec<&[u8]> = expected.iter().map(|line| &line[..]).collect();
            all.sort();
            expected.sort();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn the_top_is_that_of_all_records_under_any_conditions(
        texts in texts_of(numbered()),
        top in 1_u32..20,
        (sums, partitions) in (any::<bool>(), 1_u32..6),
        how in any_conditions(),
    ) {
        let how = Conditions { memory: how.memory.max(64 << 10), ..how };
        let (reduce, partitions) = if sums { ("sum", partitions) } else { ("", 0) };
        let job = Job { native: pairs, combine: "", reduce, partitions };
        let parts = job.run_with(&texts, &how, |config| config.top = Some(top)).unwrap();
        let records = texts.iter().flat_map(|text| lines_of(text)).map(pair);
        let records = records.map(|(key, value)| {
            (str::from_utf8(value).unwrap().parse::<i64>().unwrap(), key)
        });
        let mut all: Vec<(i64, &[u8])> = records.collect();
        if sums {
            let mut by_key = BTreeMap::<&[u8], i64>::new();
            all.iter().for_each(|(value, key)| *by_key.entry(key).or_default() += value);
            all = by_key.into_iter().map(|(key, value)| (value, key)).collect();
        }
        all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        all.truncate(top as usize);
        let lines: Vec<Vec<u8>> = all
            .iter()
            .map(|(value, key)| [key, value.to_string().as_bytes()].join(&b'\t'))
            .collect();
        prop_assert_eq!(parts, [joined(lines.iter().map(|line| &line[..]))]);
    }

    #[test]
    fn distinct_and_mean_are_the_naive_ones_under_any_conditions(
        texts in texts_of(numbered()),
        combine in prop_oneof![Just(""), Just("distinct")],
        (partitions, range) in (1_u32..6, any::<bool>()),
        how in any_conditions(),
    ) {
        let mut values = BTreeMap::<&[u8], Vec<i64>>::new();
        for (key, value) in texts.iter().flat_map(|text| lines_of(text)).map(pair) {
            let value = str::from_utf8(value).unwrap().parse().unwrap();
            values.entry(key).or_default().push(value);
        }
        let partition = |config: &mut Config| {
            config.partition = if range { Partition::Range } else { Partition::Hash };
        };
        let sorted = |parts: Vec<Vec<u8>>| {
            let mut lines: Vec<Vec<u8>> =
                parts.iter().flat_map(|part| lines_of(part)).map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        };
        let job = Job { native: pairs, combine, reduce: "distinct", partitions };
        let keys = sorted(job.run_with(&texts, &how, partition).unwrap());
        prop_assert!(keys.iter().map(|key| &key[..]).eq(values.keys().copied()));

        let job = Job { native: pairs, combine: "", reduce: "mean", partitions };
        let means = sorted(job.run_with(&texts, &how, partition).unwrap());
        prop_assert_eq!(means.len(), values.len());
        for (line, (key, values)) in means.iter().zip(values) {
            let cut = line.iter().position(|&byte| byte == b'\t').unwrap();
            prop_assert_eq!(&line[..cut], key);
            let mean: f64 = str::from_utf8(&line[cut + 1..]).unwrap().parse().unwrap();
            let exact = values.iter().map(|value| *value as f64).sum::<f64>() / values.len() as f64;
            prop_assert!((mean - exact).abs() <= 1e-6 + exact.abs() * 1e-9, "{} {}", mean, exact);
        }
    }

    #[test]
    fn any_text_under_any_conditions_gives_the_naive_count(
        texts in prop::collection::vec(
            prop::collection::vec(prop_oneof![Just(b' '), Just(b'\n'), Just(0), b'a'..b'd', any::<u8>()], 0..3000),
            0..4,
        ),
        partitions in 1_u32..9,
        memory in prop_oneof![0_u64..64, 1000_u64..20_000, Just(1 << 30)],
        read_limit in 1_usize..5000,
        frame_limit in 1_usize..500,
        combine in prop_oneof![Just(""), Just("sum")],
    ) {
        let job = Job { native: word_count, combine, reduce: "sum", partitions };
        let how = Conditions { memory, read_limit, frame_limit };
        prop_assert_eq!(job.run(&texts, &how).unwrap(), naive_word_count(&texts, partitions));
    }
}
