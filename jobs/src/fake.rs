//! A worker's world in memory, for the kinds' tests: files by CID, guests that are functions.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use crate::chunk::{Chunk, Chunker, RecordKind, Table};
use crate::code::Code;
use crate::ids::{CODEC_RAW, Cid, FileRef, PeerId, TaskId, cid_of};
use crate::kind::{
    Calls, FileWriter, Gave, Given, Guest, Host, JobFiles, Lasting, Outputs, Program, ReadAt,
    TaskError, Tree,
};
use crate::message::{FailureClass, Payload};

use crate::mr::Config;
use crate::record::{self, Records};

/// A time that a test moves on.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }
}

/// What a native guest does: its function's name and input, and where its records go.
pub(crate) type Native = fn(&str, &[u8], &mut dyn FnMut(&[u8], &[u8]));

/// A configuration whose map is the module `guest` of `world`.
pub(crate) fn config(world: &World) -> Config {
    let map = world.put(b"guest");
    let sum = serde_json::json!({ "builtin": "sum" });
    let config = serde_json::json!({
        "map": map, "combine": sum, "reduce": sum, "partitions": 1, "params": {}, "files": {},
    });
    Config::read(&config).expect("a configuration that is right")
}

/// Files, and guests by the module that names them.
pub(crate) struct World {
    files: Arc<Mutex<HashMap<Cid, Bytes>>>,
    names: Mutex<BTreeMap<String, FileRef>>,
    guests: Mutex<HashMap<Cid, Native>>,
    /// What [`Host::elapsed`] says.
    pub(crate) now: Clock,
    /// What [`Host::memory`] says.
    pub(crate) memory: u64,
    /// What [`Host::room`] says, if it is less.
    pub(crate) room: u64,
    /// The most bytes that a read gives.
    pub(crate) read_limit: usize,
    /// The most bytes of records that a guest hands over at once.
    pub(crate) frame_limit: usize,
    /// Guests trap at the end of a call whose input holds this, after they emitted all.
    pub(crate) traps_on: Option<&'static [u8]>,
}

impl World {
    pub(crate) fn new() -> Self {
        World {
            files: Arc::default(),
            names: Mutex::default(),
            guests: Mutex::default(),
            now: Clock::default(),
            memory: 256 << 20,
            room: u64::MAX,
            read_limit: 1 << 20,
            frame_limit: 64 << 10,
            traps_on: None,
        }
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> FileRef {
        put(&self.files, bytes)
    }

    pub(crate) fn read(&self, file: &FileRef) -> Option<Bytes> {
        locked(&self.files).get(&file.cid).cloned()
    }

    /// Loses a file.
    pub(crate) fn lose(&self, file: &FileRef) {
        locked(&self.files).remove(&file.cid);
    }

    /// How many files there are.
    pub(crate) fn count(&self) -> usize {
        locked(&self.files).len()
    }

    /// Puts a file at `path` of the job directory.
    pub(crate) fn name(&self, path: &str, bytes: &[u8]) -> FileRef {
        let file = self.put(bytes);
        locked(&self.names).insert(path.to_owned(), file);
        file
    }

    /// Adds a module that is `native`.
    pub(crate) fn module(&self, name: &str, native: Native) -> FileRef {
        let file = self.put(name.as_bytes());
        locked(&self.guests).insert(file.cid, native);
        file
    }

    /// An input of these files.
    pub(crate) fn tree(&self, files: Vec<(String, FileRef)>) -> Files<'_> {
        Files { world: self, files }
    }

    fn reader(&self, file: &FileRef) -> Option<Reader> {
        Some(Reader { bytes: self.read(file)?, limit: self.read_limit })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn put(files: &Mutex<HashMap<Cid, Bytes>>, bytes: &[u8]) -> FileRef {
    let cid = cid_of(CODEC_RAW, bytes);
    locked(files).insert(cid, Bytes::copy_from_slice(bytes));
    FileRef { cid, len: bytes.len() as u64 }
}

pub(crate) struct Files<'a> {
    world: &'a World,
    files: Vec<(String, FileRef)>,
}

impl Tree for Files<'_> {
    fn files(&self) -> io::Result<Vec<(String, FileRef)>> {
        Ok(self.files.clone())
    }

    fn open(&self, file: &FileRef) -> io::Result<Box<dyn ReadAt>> {
        let reader = self.world.reader(file).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(reader))
    }

    fn chunks(&self, file: &FileRef, records: RecordKind) -> io::Result<Table> {
        let bytes = self.world.read(file).ok_or(io::ErrorKind::NotFound)?;
        let (mut rest, mut chunks) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let end = Chunker::new(records).cut(rest).unwrap_or(rest.len());
            let (chunk, later) = rest.split_at(end);
            chunks.push(Chunk { len: end as u64, name: cid_of(CODEC_RAW, chunk) });
            rest = later;
        }
        Ok(Table { chunks, subtrees: false })
    }
}

impl JobFiles for World {
    fn find(&self, path: &str) -> Option<FileRef> {
        locked(&self.names).get(path).copied()
    }

    fn read(&self, file: &FileRef, _: u64) -> io::Result<Bytes> {
        World::read(self, file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn head(&self, file: &FileRef, limit: usize) -> io::Result<Bytes> {
        let bytes = JobFiles::read(self, file, file.len)?;
        Ok(bytes.slice(..limit.min(bytes.len())))
    }

    fn paths(&self) -> Vec<String> {
        locked(&self.names).keys().cloned().collect()
    }

    fn interpreter(&self) -> Result<FileRef, String> {
        JobFiles::find(self, "python.wasm").ok_or_else(|| "there is no interpreter".to_owned())
    }

    fn image(&self, name: &str) -> Result<Cid, String> {
        let file = JobFiles::find(self, name).ok_or_else(|| "there is no such image".to_owned())?;
        Ok(file.cid)
    }

    fn check(&self, _: &Code, _: &str) -> Result<(), String> {
        Ok(())
    }
}

struct Reader {
    bytes: Bytes,
    limit: usize,
}

impl ReadAt for Reader {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, want: usize) -> io::Result<Bytes> {
        let start = (offset as usize).min(self.bytes.len());
        let end = (start + want.min(self.limit)).min(self.bytes.len());
        Ok(self.bytes.slice(start..end))
    }
}

impl Host for World {
    fn open(&self, file: &FileRef, _: &[PeerId]) -> Result<Box<dyn ReadAt>, TaskError> {
        match self.reader(file) {
            Some(reader) => Ok(Box::new(reader)),
            None => {
                let message = "nobody has it".to_owned();
                Err(TaskError::Missing { file: Box::new(*file), task: None, message })
            }
        }
    }

    fn create(&self, _: Lasting) -> Result<Box<dyn FileWriter>, TaskError> {
        Ok(Box::new(Writer { files: self.files.clone(), bytes: Vec::new() }))
    }

    fn program(&self, code: &Code) -> Result<Box<dyn Program>, TaskError> {
        let module = code.module().expect("guests here are modules");
        let native = *locked(&self.guests).get(&module.cid).expect("the test added this module");
        let World { frame_limit, traps_on, .. } = *self;
        Ok(Box::new(NativeProgram { native, frame_limit, traps_on }))
    }

    fn elapsed(&self) -> Duration {
        self.now.get()
    }

    fn memory(&self) -> u64 {
        self.memory
    }

    fn room(&self) -> u64 {
        self.memory.min(self.room)
    }

    fn progress(&self, done: u64, total: u64) {
        assert!(done <= total, "{done} of {total}");
    }

    fn log(&self, _: &str) {}
}

/// The outputs of a job's last stage.
pub(crate) struct Last<'a> {
    pub(crate) world: &'a World,
    pub(crate) outputs: Vec<(TaskId, Payload)>,
    /// The body of each task, if it matters.
    pub(crate) bodies: Vec<Bytes>,
}

impl Outputs for Last<'_> {
    fn count(&self) -> usize {
        self.outputs.len()
    }

    fn read(&self, index: usize) -> Result<Gave, TaskError> {
        let (task, Payload::Inline(output)) = &self.outputs[index] else {
            panic!("these tasks give short outputs")
        };
        let (body, output) = (self.bodies.get(index).cloned().unwrap_or_default(), output.clone());
        Ok(Gave { task: *task, worker: PeerId::random(), body, output, memoized: false })
    }

    fn create(&self) -> Result<Box<dyn FileWriter>, TaskError> {
        self.world.create(Lasting::Kept)
    }
}

struct Writer {
    files: Arc<Mutex<HashMap<Cid, Bytes>>>,
    bytes: Vec<u8>,
}

impl FileWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<FileRef, TaskError> {
        Ok(put(&self.files, &self.bytes))
    }
}

struct NativeProgram {
    native: Native,
    frame_limit: usize,
    traps_on: Option<&'static [u8]>,
}

impl Program for NativeProgram {
    fn guest(&self, _: Given) -> Result<Box<dyn Guest>, TaskError> {
        let NativeProgram { native, frame_limit, traps_on } = *self;
        Ok(Box::new(NativeGuest { native, frame_limit, traps_on, broken: false }))
    }

    /// What it emits under the key `enqueue` it names.
    fn each(&self, function: &str, given: &Given, calls: &mut dyn Calls) {
        while let Some(call) = calls.next() {
            let mut guest = self.guest(given.clone()).expect("there is always room");
            let ended = guest.call(function, &call.input, &mut |frame| {
                let mut others = Vec::new();
                for (key, value) in Records::new(frame).flatten() {
                    if key == b"enqueue" {
                        let heard = call.heard.as_ref().expect("items are work of their own");
                        heard.name(&String::from_utf8_lossy(value));
                    } else {
                        record::write(&mut others, key, value);
                    }
                }
                calls.emit(&others)
            });
            calls.ended(ended);
        }
    }
}

struct NativeGuest {
    native: Native,
    frame_limit: usize,
    traps_on: Option<&'static [u8]>,
    /// It trapped: nobody may call it again.
    broken: bool,
}

impl Guest for NativeGuest {
    fn call(
        &mut self,
        function: &str,
        input: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        assert!(!self.broken, "an instance that trapped is not used again");
        let mut frame = Vec::new();
        let mut result = Ok(());
        (self.native)(function, input, &mut |key, value| {
            record::write(&mut frame, key, value);
            if frame.len() >= self.frame_limit && result.is_ok() {
                result = sink(&frame);
                frame.clear();
            }
        });
        result?;
        sink(&frame)?;
        let is_bad = |bad: &&[u8]| input.windows(bad.len()).any(|bytes| bytes == *bad);
        if self.traps_on.as_ref().is_some_and(is_bad) {
            self.broken = true;
            let (class, code) = (FailureClass::Guest, "IPDC-5301");
            return Err(TaskError::Failed { class, code, message: "unreachable".into() });
        }
        Ok(())
    }
}
