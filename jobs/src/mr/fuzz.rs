//! The decoders of this kind: of what workers leave for each other, what controllers say of tasks,
//! what user code emits, and what input is made of.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use zstd::bulk::Decompressor;

use crate::chunk::{FIXED_LIMIT, RecordKind};
use crate::code::Code;
use crate::fuzz::{Decoder, file, json, same_again};
use crate::ids::{FileRef, PeerId};
use crate::kind::{FileWriter, Host, Lasting, Program, ReadAt, TaskError};
use crate::message::{FailureClass, Payload};

use super::bad::Skipped;
use super::config::Config;
use super::inputs::Group;
use super::order::{By, Order};
use super::plan::Body;
use super::run::{Encoder, Reader, Source, width_of};
use super::shuffle::{self, MapOutput, Run};
use super::split::Split;
use super::{Codec, Packed, bad, input, lines, sample};
use crate::record::{self, Records};

/// What the task has that reads: the least that a job may ask for.
const MEMORY: u64 = 16 << 20;

pub(crate) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder { name: "mr_config", decode: config, seeds: config_seeds },
        Decoder { name: "mr_body", decode: body, seeds: body_seeds },
        Decoder { name: "mr_output", decode: output, seeds: output_seeds },
        Decoder { name: "mr_result", decode: result, seeds: result_seeds },
        Decoder { name: "mr_boundaries", decode: boundaries, seeds: boundaries_seeds },
        Decoder { name: "mr_run", decode: run, seeds: run_seeds },
        Decoder { name: "mr_records", decode: records, seeds: records_seeds },
        Decoder { name: "mr_order", decode: order, seeds: order_seeds },
        Decoder { name: "mr_input", decode: whole_input, seeds: input_seeds },
    ]
}

fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    if let Ok(config) = Config::read(&value) {
        let _ = config.given("");
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    let map = file(b"map");
    let step = serde_json::json!({ "builtin": "sum" });
    let small = serde_json::json!({
        "map": map, "combine": step, "reduce": step, "partitions": 4, "params": {}, "files": {},
    });
    let mut large = small.clone();
    for (key, value) in [
        ("reduce", serde_json::json!({ "module": map })),
        ("params", serde_json::json!({ "n": 1, "list": ["a", 1.5, null] })),
        ("files", serde_json::json!({ "stop": map })),
        ("inputs", serde_json::json!(["left", "right"])),
        ("top", 9.into()),
        ("record", serde_json::json!({ "fixed": 9 })),
        ("max_bad_records", 3.into()),
    ] {
        large[key] = value;
    }
    let mut python = small.clone();
    let files = serde_json::json!({ "map.py": map, "words/split.py": map });
    python["map"] = serde_json::json!({ "interpreter": map, "main": "map.py", "files": files });
    vec![json(&small), json(&large), json(&python)]
}

fn body(bytes: &[u8]) {
    same_again::<Body>(bytes);
    let groups = match Body::decode(bytes) {
        Some(Body::Sample(groups)) => groups,
        Some(Body::Map(group)) => vec![group],
        Some(Body::Reduce(_) | Body::Top) | None => return,
    };
    let host = OneFile(Bytes::from_static(b"some\nlines\n"));
    for group in &groups {
        let _ = group.len();
        for split in &group.splits {
            let _ = split.affinity();
            read(split, RecordKind::Lines, &host);
        }
    }
}

fn body_seeds() -> Vec<Vec<u8>> {
    let all = file(b"some\nlines\n");
    let split =
        Split { file: all, offset: 0, len: all.len, name: all.cid, closed: true, packed: None };
    let packed = Some(Packed { codec: Codec::Zstd, path: "a.zst".into() });
    let other = Split { offset: 5, len: 6, closed: false, packed, ..split.clone() };
    let vast = Split { offset: u64::MAX, len: u64::MAX, ..split.clone() };
    let group = Group { splits: vec![split, other], input: 1 };
    let vast = Group { splits: vec![vast; 2], input: u32::MAX };
    let bodies = [
        Body::Sample(vec![group.clone()]),
        Body::Map(group),
        Body::Map(vast),
        Body::Reduce(3),
        Body::Top,
    ];
    bodies.iter().map(json).collect()
}

fn output(bytes: &[u8]) {
    let text = Bytes::copy_from_slice(bytes);
    for partition in [0, 1] {
        let _ = shuffle::run_of(&text, partition, true);
        let _ = shuffle::pick(partition, &Payload::Inline(text.clone()));
    }
    let Some(output) = MapOutput::decode(&text) else { return };
    assert_eq!(MapOutput::decode(&output.encode()).as_ref(), Some(&output));
    for run in output.runs {
        if let Run::File(file, width) = run {
            let _ = Source::File { file, holders: Vec::new(), width }.memory();
        }
    }
}

fn output_seeds() -> Vec<Vec<u8>> {
    let file = file(b"run");
    let run = Run::Inline(packed(&[(b"key", b"value")]).into());
    let runs = vec![Run::Empty, run, Run::File(file, 0), Run::File(file, 1 << 20)];
    let whole = MapOutput { runs: runs.clone(), skipped: vec![skipped()] };
    let vast = Run::File(FileRef { len: u64::MAX, ..file }, u64::MAX);
    let vast = MapOutput { runs: vec![vast], skipped: Vec::new() };
    let outputs = [MapOutput { runs, skipped: Vec::new() }, whole, vast];
    outputs.map(|output| output.encode().to_vec()).into()
}

fn skipped() -> Skipped {
    let (record, message) = ("bad".to_owned(), "it trapped".to_owned());
    Skipped { split: file(b"split").cid, offset: 9, record, message }
}

fn result(bytes: &[u8]) {
    let output = Payload::Inline(Bytes::copy_from_slice(bytes));
    let _ = lines::file_of(&output);
    let _ = bad::remarks(&[(crate::ids::TaskId(1), output)]);
}

fn result_seeds() -> Vec<Vec<u8>> {
    let of = |skipped: &[Skipped]| match bad::with_skipped(&file(b"part"), skipped) {
        Payload::Inline(text) => text.to_vec(),
        Payload::File(_) => Vec::new(),
    };
    vec![of(&[]), of(&[skipped()])]
}

fn boundaries(bytes: &[u8]) {
    let Some((&partitions, text)) = bytes.split_first() else { return };
    let _ = sample::decode(&Bytes::copy_from_slice(text), partitions.into());
}

fn boundaries_seeds() -> Vec<Vec<u8>> {
    vec![b"\x04\x01a\x02bb\x03ccc".to_vec(), b"\x02\x00".to_vec()]
}

/// Reads a run that came inside a message, and what it would take to read it.
fn run(bytes: &[u8]) {
    let _ = width_of(bytes);
    let source = Source::Inline(Bytes::copy_from_slice(bytes));
    let _ = source.memory();
    let (Ok(mut reader), Ok(mut zstd)) =
        (Reader::open(&source, &OneFile(Bytes::new())), Decompressor::new())
    else {
        return;
    };
    while let Ok(true) = reader.advance(&mut zstd) {
        let (key, value) = reader.record();
        let _ = (key.len() + value.len(), reader.start());
    }
}

fn run_seeds() -> Vec<Vec<u8>> {
    let keys: Vec<_> = (0..400_u32).map(|n| format!("key {:06}", n * n).into_bytes()).collect();
    let many: Vec<_> =
        keys.iter().map(|key| (&key[..], &b"the same value each time"[..])).collect();
    vec![
        packed(&[(b"key", b"value")]),
        packed(&[(b"", b""), (b"a", b""), (b"ab", b"1")]),
        packed(&many),
    ]
}

/// The run of these records.
fn packed(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut run = Vec::new();
    let mut out = |bytes: &[u8]| {
        run.extend_from_slice(bytes);
        Ok(())
    };
    let packed = Encoder::new().and_then(|mut encoder| {
        records.iter().try_for_each(|(key, value)| encoder.add(key, value, &mut out))?;
        encoder.end(&mut out)
    });
    packed.expect("a seed packs");
    run
}

fn records(bytes: &[u8]) {
    let total: usize =
        Records::new(bytes).map_while(Result::ok).map(|(k, v)| k.len() + v.len() + 8).sum();
    assert!(total <= bytes.len());
    let mut prefixed = Records::new(bytes);
    while let Some(Ok((prefix, key, _))) = prefixed.next_prefixed() {
        assert_eq!(prefix, record::prefix(key));
    }
}

fn records_seeds() -> Vec<Vec<u8>> {
    let mut frame = Vec::new();
    for (key, value) in [("key", "value"), ("", ""), ("a key of more than sixteen bytes", "1")] {
        record::write(&mut frame, key.as_bytes(), value.as_bytes());
    }
    vec![frame]
}

fn orders() -> [Order; 4] {
    let order = |by, descending| Order { by, descending };
    [
        order(By::Bytes, false),
        order(By::Bytes, true),
        order(By::Number, false),
        order(By::Number, true),
    ]
}

/// A key of any bytes is written and read back, and any bytes are taken for a key that was written.
fn order(bytes: &[u8]) {
    let Some((&which, key)) = bytes.split_first() else { return };
    let order = orders()[usize::from(which) % 4];
    let (mut written, mut again) = (Vec::new(), Vec::new());
    let _ = order.decode(key, &mut again);
    again.clear();
    if order.encode(key, &mut written).is_ok() {
        assert!(order.decode(&written, &mut again).is_some());
        assert_eq!(again, key);
    }
}

fn order_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, order) in (0..).zip(orders()) {
        for key in [&b"-12.50"[..], b"+007", b"0"] {
            let mut written = vec![which];
            order.encode(key, &mut written).expect("a number is a key in any order");
            seeds.extend([written, [&[which], key].concat()]);
        }
    }
    seeds
}

/// Input as it is stored: the first byte says what records it has and how it is compressed.
fn whole_input(bytes: &[u8]) {
    let Some((&how, stored)) = bytes.split_first() else { return };
    let kinds = [
        RecordKind::Lines,
        RecordKind::Paragraph,
        RecordKind::Csv,
        RecordKind::Fixed(u32::from(how).clamp(1, FIXED_LIMIT)),
    ];
    let codec = [None, Some(Codec::Gzip), Some(Codec::Zstd), None][usize::from(how >> 2) % 4];
    let file = file(stored);
    let packed = codec.map(|codec| Packed { codec, path: "input".into() });
    let split = Split { file, offset: 0, len: file.len, name: file.cid, closed: false, packed };
    let host = OneFile(Bytes::copy_from_slice(stored));
    let read = read(&split, kinds[usize::from(how) % 4], &host);
    assert!(codec.is_some() || read == stored.len(), "{read} of {} bytes", stored.len());
}

/// Reads the records of `split`; how many bytes they have.
fn read(split: &Split, records: RecordKind, host: &OneFile) -> usize {
    /// Compressed, a kilobyte may stand for a gigabyte.
    const ENOUGH: usize = 4 << 20;
    let mut read = 0;
    let _ = input::read(split, records, MEMORY as usize / 4, host, &mut |batch| {
        read += batch.records.len();
        Ok(if read < ENOUGH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    });
    read
}

fn input_seeds() -> Vec<Vec<u8>> {
    let text = b"one,\"two\nlines\"\n\nthree\r\n\r\nfour";
    let zst = zstd::bulk::compress(text, 3).expect("a seed packs");
    let mut gz = flate2::read::GzEncoder::new(&text[..], flate2::Compression::best());
    let mut gzip = Vec::new();
    io::Read::read_to_end(&mut gz, &mut gzip).expect("a seed packs");
    // Four megabytes of nothing in a few bytes.
    let large = zstd::bulk::compress(&vec![b'\n'; 4 << 20], 1).expect("a seed packs");
    let seed = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    let mut seeds: Vec<_> = (0..4).map(|kind| seed(kind, text)).collect();
    seeds.extend([seed(4, &gzip), seed(8, &zst), seed(8, &large)]);
    seeds
}

/// A world of one file, whatever it is called.
struct OneFile(Bytes);

fn nothing() -> TaskError {
    let message = "there is nothing here".to_owned();
    TaskError::Failed { class: FailureClass::Worker, code: "", message }
}

impl Host for OneFile {
    fn open(&self, _: &FileRef, _: &[PeerId]) -> Result<Box<dyn ReadAt>, TaskError> {
        Ok(Box::new(OneFile(self.0.clone())))
    }

    fn create(&self, _: Lasting) -> Result<Box<dyn FileWriter>, TaskError> {
        Err(nothing())
    }

    fn program(&self, _: &Code) -> Result<Box<dyn Program>, TaskError> {
        Err(nothing())
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn memory(&self) -> u64 {
        MEMORY
    }

    fn progress(&self, _: u64, _: u64) {}

    fn log(&self, _: &str) {}
}

impl ReadAt for OneFile {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&mut self, offset: u64, want: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(self.0.slice(start..start.saturating_add(want).min(self.0.len())))
    }
}
