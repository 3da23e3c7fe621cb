//! Python code by the real interpreter, which `make setup-python-wasm` gets.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ipdc_jobs::code::{Code, Python};
use ipdc_jobs::ids::{CODEC_RAW, Cid, FileRef, JobId, cid_of};
use ipdc_jobs::kind::{Call, Calls, Given, Guest, Heard, ReadAt, TaskError};
use ipdc_jobs::manifest::Limits;
use ipdc_jobs::message::Counters;
use tokio_util::sync::CancellationToken;

use crate::runtime::{Allowance, Attempt, Compiler, Listener, Runtime};

/// Where the interpreter lies, and what comes of compiling it, which takes seconds.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python")
}

fn interpreter() -> FileRef {
    let path = folder().join("bin/python.wasm");
    let len = std::fs::metadata(&path).map(|file| file.len());
    let len = len.unwrap_or_else(|error| {
        panic!("{}: {error}: `make setup-python-wasm` gets it", path.display())
    });
    // Not its own CID: it is read for nothing but this.
    FileRef { cid: cid_of(CODEC_RAW, b"python.wasm"), len }
}

fn read(_: &FileRef) -> Result<Bytes, TaskError> {
    Ok(std::fs::read(folder().join("bin/python.wasm")).unwrap().into())
}

/// The files of a job, and what its code said.
#[derive(Clone, Default)]
struct Job {
    files: Vec<(&'static str, &'static [u8])>,
    side: Vec<(&'static str, &'static [u8])>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Listener for Job {
    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        let all = self.files.iter().chain(&self.side).map(|(_, bytes)| *bytes);
        let found = all.chain([ITEM]).find(|bytes| named(bytes) == *file);
        Ok(Box::new(Held(found.unwrap())))
    }
    fn find(&mut self, cid: &Cid) -> Result<Option<FileRef>, TaskError> {
        Ok((*cid == named(ITEM).cid).then(|| named(ITEM)))
    }
    fn log(&mut self, line: &str) {
        self.said.lock().unwrap().push(line.to_owned());
    }
    fn progress(&mut self, done: u64, total: u64) {
        self.said.lock().unwrap().push(format!("{done} of {total}"));
    }
    fn count(&mut self, counted: Counters) -> bool {
        let counted = counted.into_iter().map(|(name, by)| format!("{name} +{by}"));
        self.said.lock().unwrap().extend(counted);
        true
    }
}

struct Held(&'static [u8]);

impl ReadAt for Held {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&mut self, offset: u64, want: usize) -> std::io::Result<Bytes> {
        let rest = &self.0[offset as usize..];
        Ok(Bytes::from_static(&rest[..rest.len().min(want)]))
    }
}

fn named(bytes: &[u8]) -> FileRef {
    FileRef { cid: cid_of(CODEC_RAW, bytes), len: bytes.len() as u64 }
}

/// Items, the last one first, and what came of each.
#[derive(Default)]
struct Items {
    left: Vec<Bytes>,
    now: Option<String>,
    ended: Vec<Result<String, String>>,
}

impl Calls for Items {
    fn next(&mut self) -> Option<Call> {
        assert!(self.now.is_none(), "one at a time");
        let input = self.left.pop()?;
        self.now = Some(String::new());
        let file = Some(("item", named(ITEM)));
        Some(Call {
            file: file.filter(|_| input.starts_with(b"file")),
            input,
            heard: Some(Arc::new(Heard::of(0))),
        })
    }

    fn emit(&mut self, frame: &[u8]) -> Result<(), TaskError> {
        let end = 8 + frame[0] as usize;
        self.now.as_mut().unwrap().push_str(std::str::from_utf8(&frame[8..end]).unwrap());
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: &mut dyn Read) -> Result<(), TaskError> {
        let mut text = String::new();
        bytes.read_to_string(&mut text).unwrap();
        self.now.as_mut().unwrap().push_str(&format!(" {name}={text}"));
        Ok(())
    }

    fn again(&mut self) {
        self.now.as_mut().unwrap().clear();
    }

    fn ended(&mut self, ended: Result<(), TaskError>) {
        let given = self.now.take().unwrap();
        self.ended.push(ended.map(|()| given).map_err(|error| error.to_string()));
    }
}

/// The file of an item that has one.
const ITEM: &[u8] = b"its own";

impl Job {
    /// One of these Python files, the first of which has its functions.
    fn new(files: &[(&'static str, &'static str)]) -> Self {
        let files = files.iter().map(|(path, text)| (*path, text.as_bytes()));
        Job { files: files.collect(), ..Job::default() }
    }

    fn code(&self) -> Code {
        let files = self.files.iter().map(|(path, bytes)| ((*path).to_owned(), named(bytes)));
        let main = self.files[0].0.to_owned();
        Code::Python(Python { interpreter: interpreter(), main, files: files.collect() })
    }

    fn runtime() -> Runtime {
        Runtime::new(folder().join("compiled"), 1 << 30, Compiler::Here)
    }

    fn given(&self) -> Given {
        let side = self.side.iter().map(|(name, bytes)| ((*name).to_owned(), named(bytes)));
        Given {
            params: Bytes::from_static(b"{\"n\": 3, \"deep\": {\"list\": [1.5]}}"),
            files: side.collect(),
            input: "left".to_owned(),
            mute: false,
            fetch: None,
            enqueue: true,
            write: true,
        }
    }

    fn guest(&self) -> Box<dyn Guest> {
        let allowance = Allowance::new(&Limits::default(), CancellationToken::new());
        Job::runtime()
            .instantiate(&self.code(), read, &allowance, Box::new(self.clone()), self.given())
            .unwrap()
    }

    /// What `function` gives for `input`: lines of a key, a tab and a value.
    fn call(&self, function: &str, input: impl AsRef<[u8]>) -> Result<String, String> {
        let mut lines = Vec::new();
        let called = self.guest().call(function, input.as_ref(), &mut |records| {
            let mut rest = records;
            while let Some((lengths, after)) = rest.split_first_chunk::<8>() {
                let [key, value] = [0, 4]
                    .map(|at| u32::from_le_bytes(lengths[at..at + 4].try_into().unwrap()) as usize);
                lines.extend_from_slice(&after[..key]);
                lines.push(b'\t');
                lines.extend_from_slice(&after[key..key + value]);
                lines.push(b'\n');
                rest = &after[key + value..];
            }
            Ok(())
        });
        match called {
            Ok(()) => Ok(String::from_utf8_lossy(&lines).into_owned()),
            Err(TaskError::Failed { message, .. }) => Err(message),
            Err(error) => panic!("{error}"),
        }
    }

    /// What `run` gives for each item, in one interpreter if that can be.
    fn items(&self, items: &[&str]) -> Vec<Result<String, String>> {
        self.task(&Job::runtime(), items, None)
    }

    /// A task of such items, of a job for which interpreters stay.
    fn task(
        &self,
        runtime: &Runtime,
        items: &[&str],
        job: Option<JobId>,
    ) -> Vec<Result<String, String>> {
        let left = items.iter().rev().map(|item| Bytes::copy_from_slice(item.as_bytes()));
        let mut calls = Items { left: left.collect(), ..Items::default() };
        let stop = CancellationToken::new();
        let limits = Limits { memory: 64 << 20, ..Limits::default() };
        let attempt = |_: &Call| {
            let allowance = Allowance::new(&limits, stop.clone());
            Attempt { allowance, listener: Box::new(self.clone()) }
        };
        let program = runtime.program(&self.code(), read, &stop).unwrap();
        program.each("run", &self.given(), &mut calls, &attempt, job);
        assert!(calls.now.is_none());
        calls.ended
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    fn check(&self, function: &str) -> Result<(), String> {
        Job::runtime().check(&self.code(), function, read, Box::new(self.clone()))
    }
}

/// A job of one file, whose `map` has `body`.
fn map(text: &'static str) -> Job {
    Job::new(&[("map.py", text)])
}

#[test]
fn words_are_counted() {
    let job = map("def map(line):\n    for word in line.split():\n        yield word, 1\n\n\
                   def reduce(key, values):\n    return sum(int(value) for value in values)\n");
    assert_eq!(job.call("map", "a b a\n\nb\nlast").unwrap(), "a\t1\nb\t1\na\t1\nb\t1\nlast\t1\n");
    assert_eq!(job.call("reduce", "a\t1\na\t20\nb\t1\n").unwrap(), "a\t21\nb\t1\n");
    assert_eq!(job.call("map", "").unwrap(), "");
}

#[test]
fn what_a_function_gives_is_written_in_the_order_and_the_words_it_has() {
    let gives = |body: &str| {
        let text = format!("def map(line):\n    {body}\n");
        map(text.leak()).call("map", "x")
    };
    for (body, lines) in [
        ("return None", ""),
        ("return []", ""),
        ("return [('a', 1), ['b', 2.5], (b'c', True), ('d', '')]", "a\t1\nb\t2.5\nc\t1\nd\t\n"),
        ("yield 7, 10 ** 30", "7\t1000000000000000000000000000000\n"),
        ("yield 'a', 'x\\ty'", "a\tx\ty\n"),
        ("yield 'ä', 'ö'; yield 'a', 2; yield 'a', 1; yield 'b', 2", "ä\tö\na\t2\na\t1\nb\t2\n"),
        ("yield 'a', 1.0; yield 'a', 1; yield 'a', True", "a\t1.0\na\t1\na\t1\n"),
    ] {
        assert_eq!(gives(body).as_deref(), Ok(lines), "{body}");
    }
    for (body, why) in [
        ("yield 'a'", "map.py: in map: TypeError: gave 'a'; expected a key and a value"),
        ("yield 'ab'", "gave 'ab'; expected a key and a value"),
        ("yield 'a', 1, 2", "gave ('a', 1, 2); expected a key and a value"),
        ("yield 'a\\tb', 1", "gave the key 'a\\tb'; a key has no tab and no newline"),
        ("yield 'a\\n', 'b'", "a key has no tab and no newline"),
        ("yield 'a', 'b\\n'", "gave the value 'b\\n' for 'a'; a value has no newline"),
        ("yield 'a', None", "gave None as a value; expected str, bytes, int or float"),
        ("return 7", "TypeError: 'int' object is not iterable"),
    ] {
        let said = gives(body).unwrap_err();
        assert!(said.contains(why), "{body}: {said}");
    }
}

#[test]
fn a_reducer_may_give_a_value_several_or_records_and_leave_values_unread() {
    let gives = |body: &str| {
        let text = format!("def reduce(key, values):\n    {body}\n");
        map(text.leak()).call("reduce", "a\t1\na\t2\nb\t3\nc\t\n")
    };
    for (body, lines) in [
        ("return key.upper()", "a\tA\nb\tB\nc\tC\n"),
        ("return (next(values), 1)", "1\t1\n3\t1\n\t1\n"),
        ("return list(values)", "a\t1\na\t2\nb\t3\nc\t\n"),
        ("yield from values", "a\t1\na\t2\nb\t3\nc\t\n"),
        ("yield key + key, len(list(values))", "aa\t2\nbb\t1\ncc\t1\n"),
        ("return None", ""),
    ] {
        assert_eq!(gives(body).as_deref(), Ok(lines), "{body}");
    }
}

#[test]
fn an_item_is_given_whole_and_the_answer_is_written_as_it_is() {
    let gives = |body: &str| {
        let text = format!("def run(item):\n    {body}\n");
        map(text.leak()).call("run", "one\ntwo")
    };
    assert_eq!(gives("return item.replace('\\n', ' ')").unwrap(), "one two\t\n");
    assert_eq!(gives("return {'lines': item.count('\\n') + 1}").unwrap(), "{\"lines\": 2}\t\n");
    assert_eq!(gives("return b'raw'").unwrap(), "raw\t\n");
    assert_eq!(gives("pass").unwrap(), "");
}

#[test]
fn one_interpreter_runs_many_items_and_each_ends_on_its_own() {
    let job =
        map("import random, time\n\nseen = []\n\ndef run(item):\n    seen.append(item)\n    \
         if item == 'bad':\n        return 1 // 0\n    \
         if item == 'exit':\n        raise SystemExit(7)\n    \
         if item == 'luck':\n        return f'{random.random()} {time.time()}'\n    \
         return f'{item} after {len(seen) - 1}'\n");
    let gave = job.items(&["luck", "a", "bad", "", "exit", "luck", "ü"]);
    let failed = |why: &str| Err(why.to_owned());
    assert_eq!(gave[0], gave[5]);
    assert_eq!(gave[1], Ok("a after 1".to_owned()));
    assert_eq!(
        gave[2],
        failed("map.py:8: in run: ZeroDivisionError: integer division or modulo by zero")
    );
    assert_eq!(gave[3], Ok(" after 3".to_owned()));
    assert_eq!(gave[4], failed("map.py:10: in run: SystemExit: 7"));
    assert_eq!(gave[6], Ok("ü after 6".to_owned()));
}

#[test]
fn an_item_that_has_too_little_memory_after_others_is_run_in_an_interpreter_of_its_own() {
    let job = map(
        "held = []\n\ndef run(item):\n    held.append('x' * int(item))\n    return len(held)\n",
    );
    let gave = job.items(&["30000000", "1", "30000000", "90000000", "2"]);
    let well: Vec<_> = gave.iter().map(|gave| gave.as_deref().unwrap_or("failed")).collect();
    assert_eq!(well, ["1", "2", "1", "failed", "1"]);
    assert!(gave[3].as_ref().unwrap_err().ends_with("`limits.memory` in job.toml)"), "{gave:?}");
}

#[test]
fn an_interpreter_stays_for_the_next_task_of_its_job_and_goes_when_others_need_its_memory() {
    let job = map(
        "seen = []\n\ndef run(item):\n    seen.append(item)\n    print(item)\n    return len(seen)\n",
    );
    let runtime = Runtime::new(folder().join("compiled"), 60 << 20, Compiler::Here);
    let id = |n: &[u8]| Some(JobId::of_manifest(n));
    let gave = |job: &Job, items: &[&str], id| {
        let gave: Vec<_> = job.task(&runtime, items, id).into_iter().map(Result::unwrap).collect();
        gave.concat()
    };
    assert_eq!(gave(&job, &["a", "b"], id(b"one")), "12");
    let other = Job { said: Arc::default(), ..job.clone() };
    assert_eq!(gave(&other, &["c"], id(b"one")), "3");
    assert_eq!((job.said().join(" "), other.said().join(" ")), ("a b".into(), "c".into()));
    assert_eq!(gave(&job, &["d"], id(b"two")), "1", "another job's has not seen it");
    let large = map("def run(item):\n    return len('x' * 40_000_000)\n");
    assert_eq!(gave(&large, &["e"], None), "40000000");
    assert_eq!(gave(&job, &["f"], id(b"one")), "1", "a new one");
}

#[test]
fn an_item_has_its_own_file_and_no_other_item_s() {
    let job = map("import os\n\nlast = None\n\ndef run(item):\n    global last\n    \
         if item == 'stale':\n        return os.read(last, 9)\n    \
         if not os.path.exists('/job/item'):\n        return 'none'\n    \
         last = os.open('/job/item', os.O_RDONLY)\n    return os.read(last, 3).decode() + f' of {item}'\n");
    let gave = job.items(&["file 1", "none", "file 2", "stale"]);
    assert_eq!(gave[0].as_deref(), Ok("its of file 1"));
    assert_eq!(gave[1].as_deref(), Ok("none"));
    assert_eq!(gave[2].as_deref(), Ok("its of file 2"));
    assert!(gave[3].as_ref().unwrap_err().contains("FileNotFoundError"), "{gave:?}");
}

/// What `run` with this body gives for an item, and a second that leaves no traces of it.
fn writes(body: &'static str) -> Result<String, String> {
    let text = format!(
        "import os\n\ndef run(item):\n    if not item:\n        return '|'.join(os.listdir('/out'))\n    {body}\n"
    );
    let mut gave = map(text.leak()).items(&["x", ""]);
    assert_eq!(gave.pop().unwrap().unwrap(), "", "{body}");
    gave.pop().unwrap()
}

#[test]
fn an_item_writes_files_as_anywhere_and_they_are_handed_over_with_what_it_gives() {
    for (body, gave) in [
        ("open('/out/a', 'w').write('one')", " a=one"),
        (
            "f = open('/out/a', 'wb'); f.write(b'one'); f.seek(1); f.write(b'N'); f.close(); return 'ok'",
            "ok a=oNe",
        ),
        (
            "open('/out/a', 'w').write('one'); open('/out/a', 'a').write(' two'); return open('/out/a').read()",
            "one two a=one two",
        ),
        ("open('/out/a', 'w').write('one'); open('/out/a', 'w').write('2')", " a=2"),
        (
            "os.makedirs('/out/d/e', exist_ok=True); open('/out/d/e/f', 'w').write('deep'); return os.listdir('/out/d')[0]",
            "e d/e/f=deep",
        ),
        (
            "open('/out/t', 'w').write('moved'); os.rename('/out/t', '/out/u'); return os.path.exists('/out/t')",
            "false u=moved",
        ),
        ("open('/out/t', 'w').close(); os.remove('/out/t'); open('/out/e', 'w').close()", " e="),
        (
            "f = open('/out/a', 'w+'); f.write('longer'); f.truncate(4); f.flush(); os.fsync(f.fileno()); return os.stat('/out/a').st_size",
            "4 a=long",
        ),
        (
            "import zipfile; z = zipfile.ZipFile('/out/z', 'w'); z.writestr('n', 'in it'); z.close(); \
          os.rename('/out/z', '/out/y'); text = zipfile.ZipFile('/out/y').read('n').decode(); os.remove('/out/y'); return text",
            "in it",
        ),
    ] {
        assert_eq!(writes(body), Ok(gave.to_owned()), "{body}");
    }
}

#[test]
fn a_file_that_may_not_be_written_is_refused_and_a_failed_item_hands_over_none() {
    for (body, why) in [
        ("open('/out/a', 'w').write('x'); raise ValueError('so')", "ValueError: so"),
        ("open('/job/a', 'w')", "[Errno 69]"),
        ("open('/out/../a', 'w')", "[Errno 76]"),
        ("open('/out/' + 'n' * 300, 'w')", "[Errno 37]"),
        ("open('/out/a', 'x').close(); open('/out/a', 'x')", "FileExistsError"),
        ("open('/out/a/b', 'w').close(); open('/out/a', 'w')", "IsADirectoryError"),
        ("open('/out/a', 'w').close(); open('/out/a/b', 'w')", "NotADirectoryError"),
        ("return open('/out/none').read()", "FileNotFoundError"),
        ("[open(f'/out/{n}', 'w').close() for n in range(65)]", "No space left"),
        ("f = open('/out/a', 'wb'); f.seek(1 << 50); f.write(b'x'); f.flush()", "output limit"),
    ] {
        let said = writes(body).unwrap_err();
        assert!(said.contains(why), "{body}: {said}");
    }
}

#[test]
fn an_item_reads_a_file_of_the_swarm_by_its_cid() {
    let job = map("def run(item):\n    return open(f'/ipfs/{item}').read()\n");
    let (there, other) = (named(ITEM).cid.to_string(), named(b"other").cid.to_string());
    let gave = job.items(&[&there, &other, "no-cid", &there]);
    assert_eq!((gave[0].as_deref(), gave[3].as_deref()), (Ok("its own"), Ok("its own")));
    for gave in &gave[1..3] {
        assert!(gave.as_ref().unwrap_err().contains("FileNotFoundError"), "{gave:?}");
    }
}

#[test]
fn fetching_and_naming_items_are_refused_where_the_job_does_not_ask_for_them() {
    let job = map(
        "import ipdc\n\ndef run(item):\n    if item:\n        ipdc.enqueue(item)\n    ipdc.fetch('http://x/')\n",
    );
    let gave = job.items(&["more", ""]);
    assert!(gave[0].as_ref().unwrap_err().contains("it named as many as it may"), "{gave:?}");
    let why = "map.py:6: in run: ValueError: the guest fetches from the network, and its job does not ask";
    assert!(gave[1].as_ref().unwrap_err().starts_with(why), "{gave:?}");
}

#[test]
fn a_producer_gives_items_a_line_each() {
    let job = map("def producer():\n    yield from ('a', 7, b'c d')\n");
    assert_eq!(job.call("producer", "").unwrap(), "a\t\n7\t\nc d\t\n");
    let wrong = map("def producer():\n    return ['a\\nb']\n").call("producer", "");
    assert!(wrong.unwrap_err().contains("an item has no newline"));
}

#[test]
fn bytes_that_are_no_text_come_through() {
    let job = map("def map(line):\n    yield line, len(line)\n");
    let mut records = Vec::new();
    let mut sink = |frame: &[u8]| {
        records.extend_from_slice(&frame[8..]);
        Ok(())
    };
    job.guest().call("map", b"\xff\xfe\r\xc3\xa4\n", &mut sink).unwrap();
    assert_eq!(records, b"\xff\xfe\r\xc3\xa44");
}

#[test]
fn large_inputs_and_long_lines_are_whole() {
    let job = map("def map(line):\n    yield line[:1], len(line)\n");
    let long = "y".repeat(3 << 20);
    let many: String = (0..100_000).map(|n| format!("x{n}\n")).collect();
    let lines = job.call("map", format!("{long}\n{many}z")).unwrap();
    assert_eq!(lines.lines().count(), 100_002);
    assert!(lines.starts_with(&format!("y\t{}\nx\t2\n", long.len())));
    assert!(lines.ends_with("x\t6\nz\t1\n"));
}

#[test]
fn files_beside_it_and_packages_are_imported_and_side_files_read() {
    let mut job = Job::new(&[
        (
            "jobs/count.py",
            "import beside\nfrom words.split import parts\n\ndef map(line):\n    \
          for part in parts(line):\n        yield part, beside.ONE + len(open('/job/stop').read())\n",
        ),
        ("jobs/beside.py", "ONE = 1\n"),
        ("words/__init__.py", ""),
        (
            "words/split.py",
            "import re\n\ndef parts(line):\n    return re.findall('[a-z]+', line)\n",
        ),
    ]);
    job.side.push(("stop", b"four"));
    assert_eq!(job.call("map", "ab, cd").unwrap(), "ab\t5\ncd\t5\n");
}

#[test]
fn the_module_ipdc_speaks_to_the_node() {
    let job =
        map("import ipdc\n\ndef map(line):\n    ipdc.log('hello')\n    ipdc.progress(1, 2)\n    \
         ipdc.count('seen')\n    ipdc.count('seen', 2)\n    print('printed')\n    \
         yield ipdc.input, ipdc.params['n'] + ipdc.params['deep']['list'][0]\n");
    assert_eq!(job.call("map", "x").unwrap(), "left\t4.5\n");
    assert_eq!(job.said(), ["hello", "1 of 2", "printed", "seen +3"]);
    let job = map("import ipdc\n\ndef map(line):\n    ipdc.count('')\n");
    let said = job.call("map", "x").unwrap_err();
    assert!(said.starts_with("map.py:4: in map: ValueError: the guest counted under ``"), "{said}");
}

#[test]
fn an_error_is_told_with_its_place_and_its_traceback_is_in_the_log() {
    let job = Job::new(&[
        ("map.py", "import beside\n\ndef map(line):\n    yield beside.share(len(line)), 1\n"),
        ("beside.py", "def share(n):\n    return 1 // n\n"),
    ]);
    let said = job.call("map", "x\n\n").unwrap_err();
    assert_eq!(
        said,
        "beside.py:2: in share: ZeroDivisionError: integer division or modulo by zero"
    );
    let log = job.said().join("\n");
    let expected = "Traceback (most recent call last):\n  File \"map.py\", line 4, in map\n    \
                    yield beside.share(len(line)), 1\n";
    assert!(log.starts_with(expected), "{log}");
    assert!(log.ends_with("ZeroDivisionError: integer division or modulo by zero"), "{log}");
    assert!(!log.contains("<string>"), "{log}");
}

#[test]
fn what_the_sandbox_lacks_is_said() {
    for (body, lack) in [
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "no network"),
        ("import urllib.request; urllib.request.urlopen('http://localhost/')", "no network"),
        ("import threading; threading.Thread(target=print).start()", "no threads"),
        ("import subprocess; subprocess.run(['ls'])", "no processes"),
        ("import os; os.fork()", "no processes"),
        ("open('/etc/passwd')", "no files but those of the job"),
        ("open('/job/new', 'w')", "no files but those of the job"),
        ("import numpy", "no packages"),
        ("x = 'x' * (1 << 29)", "no more memory"),
    ] {
        let text = format!("def map(line):\n    {body}\n");
        let said = map(text.leak()).call("map", "x").unwrap_err();
        assert!(said.starts_with("map.py:2: in map: "), "{body}: {said}");
        assert!(
            said.ends_with(')') && said.contains(&format!("(the sandbox has {lack}")),
            "{said}"
        );
    }
}

#[test]
fn code_that_has_used_up_its_memory_is_told_where_and_which_limit_that_was() {
    for text in [
        "def map(line):\n    held = []\n    while True:\n        held.append('x' * 10_000)\n",
        "held = []\ndef map(line):\n    while True:\n        held.append('x' * 10_000)\n",
    ] {
        let said = map(text).call("map", "x").unwrap_err();
        assert!(said.starts_with("map.py:4: in map: MemoryError"), "{said}");
        assert!(said.ends_with("(the sandbox has no more memory: `limits.memory` in job.toml)"));
    }
}

#[test]
fn code_is_looked_at_before_it_runs() {
    let files = |text: &'static str| {
        Job::new(&[("map.py", text), ("deep/other.py", "import nothing\n"), ("more.py", "x = 1\n")])
    };
    for fine in [
        "def map(line): pass",
        "if True:\n    from deep.other import map",
        "map = lambda line: None",
        "from deep.other import *",
    ] {
        files(fine).check("map").unwrap_or_else(|why| panic!("{fine}: {why}"));
    }
    for (wrong, why) in [
        ("def reduce(key): pass", "map.py: there is no function `map`; expected `def map(…)`"),
        ("def map(line):\n    return (\n", "map.py:2: SyntaxError: '(' was never closed"),
        ("def map(line):\n  pass\n pass\n", "map.py:3: IndentationError: "),
        ("return 1\ndef map(line): pass\n", "map.py:1: SyntaxError: 'return' outside function"),
    ] {
        let said = files(wrong).check("map").unwrap_err();
        assert!(said.starts_with(why), "{wrong}: {said}");
    }
    let other = Job::new(&[("map.py", "def map(line): pass"), ("other.py", "x = = 1\n")]);
    assert!(other.check("map").unwrap_err().starts_with("other.py:1: SyntaxError"));
}

#[test]
fn two_runs_are_alike() {
    let job = map("import random, time\n\ndef map(line):\n    \
         yield hash(line), f'{list(set(line))} {random.random()} {time.time()} {id(line)}'\n");
    assert_eq!(job.call("map", "some letters").unwrap(), job.call("map", "some letters").unwrap());
}

#[test]
fn a_module_that_is_no_python_is_no_interpreter() {
    let file = named(b"(module (func (export \"_start\")))");
    let read = |_: &FileRef| Ok(Bytes::from_static(b"(module (func (export \"_start\")))"));
    let asked = Job::runtime().python_version(&file, read, Box::new(Job::default()));
    assert!(matches!(asked, Err(TaskError::Failed { code: "IPDC-5306", .. })), "{asked:?}");
    let asked = Job::runtime().python_version(&interpreter(), self::read, Box::new(Job::default()));
    assert_eq!(asked.unwrap(), "3.12.0");
}
