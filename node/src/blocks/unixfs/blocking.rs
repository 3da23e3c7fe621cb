//! Files for code that runs on a thread of its own and blocks: the job kinds.
//!
//! Each call hands its waiting to the async runtime and comes back soon after the [`Caller`] is
//! told to stop. Not to be called from within the runtime's own threads.

use std::future::Future;
use std::io;

use bytes::Bytes;
use ipdc_jobs::chunk::{RecordKind, Table};
use ipdc_jobs::ids::{Cid, FileRef};
use ipdc_jobs::kind::{FileWriter, ReadAt, TaskError, Tree};
use ipdc_jobs::message::FailureClass;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Error, FileBuilder, FileReader, Source, files};
use crate::blocks::fetch::FetchError;
use crate::blocks::store::StoreError;
use crate::blocks::tables::{TableError, Tables};

/// A blocking thread's way into the async runtime.
#[derive(Clone)]
pub struct Caller {
    runtime: Handle,
    stop: CancellationToken,
}

impl Caller {
    /// Calls into `runtime` until `stop` is cancelled.
    #[must_use]
    pub fn new(runtime: Handle, stop: CancellationToken) -> Caller {
        Caller { runtime, stop }
    }

    /// Waits for `work`; `None` when told to stop first.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(self.stop.run_until_cancelled(work))
    }

    fn wait_io<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> io::Result<T>
    where
        io::Error: From<E>,
    {
        let stopped = || io::Error::new(io::ErrorKind::Interrupted, TaskError::Stopped);
        self.wait(work).ok_or_else(stopped)?.map_err(io::Error::from)
    }
}

/// A [`FileReader`] for a blocking thread.
pub struct BlockingReader<S> {
    reader: FileReader<S>,
    caller: Caller,
}

impl<S: Source> BlockingReader<S> {
    /// Opens `file`.
    ///
    /// # Errors
    /// As [`FileReader::open_file`]; the kind is `NotFound` when nobody has the root, and
    /// `Interrupted` when the caller was told to stop.
    pub fn open(source: S, file: &FileRef, caller: Caller) -> io::Result<BlockingReader<S>> {
        let reader = caller.wait_io(FileReader::open_file(source, file))?;
        Ok(BlockingReader { reader, caller })
    }
}

impl<S: Source> ReadAt for BlockingReader<S> {
    fn len(&self) -> u64 {
        self.reader.len()
    }

    fn read_at(&mut self, offset: u64, want: usize) -> io::Result<Bytes> {
        match self.reader.held(offset, want) {
            Some(bytes) => Ok(bytes),
            None => self.caller.wait_io(self.reader.read_at(offset, want)),
        }
    }
}

/// A [`FileBuilder`] for a blocking thread.
pub struct BlockingWriter {
    builder: FileBuilder,
    caller: Caller,
}

impl BlockingWriter {
    /// Writes through `builder`.
    #[must_use]
    pub fn new(builder: FileBuilder, caller: Caller) -> BlockingWriter {
        BlockingWriter { builder, caller }
    }
}

impl FileWriter for BlockingWriter {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), TaskError> {
        while !bytes.is_empty() {
            bytes = self.builder.fill(bytes);
            if self.builder.is_full() {
                let flushed = self.caller.wait(self.builder.flush());
                flushed.ok_or(TaskError::Stopped)?.map_err(task_error)?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<FileRef, TaskError> {
        let BlockingWriter { builder, caller } = *self;
        caller.wait(builder.finish()).ok_or(TaskError::Stopped)?.map_err(task_error)
    }
}

/// A file or directory as a job's input, for a blocking thread.
pub struct BlockingTree<S> {
    source: S,
    root: Cid,
    tables: Tables,
    caller: Caller,
}

impl<S> BlockingTree<S> {
    /// The input at `root`, whose files' chunks `tables` tell.
    #[must_use]
    pub fn new(source: S, root: Cid, tables: Tables, caller: Caller) -> BlockingTree<S> {
        BlockingTree { source, root, tables, caller }
    }
}

impl<S: Source> Tree for BlockingTree<S> {
    fn files(&self) -> io::Result<Vec<(String, FileRef)>> {
        self.caller.wait_io(files(&self.source, self.root))
    }

    fn open(&self, file: &FileRef) -> io::Result<Box<dyn ReadAt>> {
        let reader = BlockingReader::open(self.source.clone(), file, self.caller.clone())?;
        Ok(Box::new(reader))
    }

    fn chunks(&self, file: &FileRef, records: RecordKind) -> io::Result<Table> {
        self.caller.wait_io(self.tables.of(&self.source, file, records))
    }
}

fn task_error(error: StoreError) -> TaskError {
    let code = match &error {
        StoreError::Full { .. } => "IPDC-3101",
        StoreError::Io { .. } => "IPDC-3102",
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    let message = format!("{error}{}", cause.unwrap_or_default());
    TaskError::Failed { class: FailureClass::Worker, code, message }
}

impl From<TableError> for io::Error {
    fn from(error: TableError) -> io::Error {
        match error {
            TableError::Read(error) => error.into(),
            TableError::State(error) => io::Error::other(error),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Fetch(FetchError::Missing(_)) | Error::NotFound { .. } => {
                io::ErrorKind::NotFound
            }
            Error::Store(StoreError::Full { .. }) => io::ErrorKind::StorageFull,
            Error::Fetch(_) | Error::Store(_) => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
