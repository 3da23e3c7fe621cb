//! The interpreters that jobs of this node are frozen with.
//!
//! An interpreter is a file in blocks like any other: whoever runs a job of ours fetches it by the CID in the
//! job's manifest. Owns which one that is: the one that this node's user added, else the one that
//! this version knows ([`KNOWN`]), if any connected node has it. So one node of a swarm gets it, and all can
//! submit. None is believed because another node names it.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use ipdc_jobs::engine::Runtime;
use ipdc_jobs::ids::{Cid, FileRef};
use ipdc_jobs::kind::{ReadAt, TaskError};
use ipdc_jobs::message::Counters;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::blocks::Blocks;
use crate::blocks::fetch::Session;
use crate::blocks::pins::PinError;
use crate::blocks::store::{Add, Tier};
use crate::blocks::unixfs::{self, BlockingReader, Caller};
use crate::runtime::{self, Listener, MODULE_LIMIT};
use crate::state::interpreters::{self as table, Interpreter};
use crate::state::pins::Reason;
use crate::state::{Db, StateError};

/// The Python interpreter that this version knows: CPython 3.12.0 for WASI with its standard library in it,
/// `bin/python.wasm` of the wheel that `ipdc runtime add python` gets (`docs/decisions/0018-python.md`).
pub static KNOWN: LazyLock<FileRef> = LazyLock::new(|| FileRef {
    cid: "bafybeifeoaxbf5dcpzmdcfcgyesbtrmzhyyob3kx37qsjpdei4pjv7zyoy"
        .parse()
        .expect("it is a CID"),
    len: 26_267_204,
});

/// How long a node is looked for that has the known interpreter: those that are connected say at once
/// whether they do, and a user waits for the answer.
const LOOK: Duration = Duration::from_secs(5);

/// Why an interpreter was not taken, or there is none.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum InterpreterError {
    /// There is no such runtime, or it takes none.
    #[error("`{0}` is no runtime that an interpreter can be added for")]
    #[diagnostic(code("IPDC-5201"), help("`ipdc runtime add python` adds one for Python"))]
    UnknownRuntime(String),
    /// The file does not run as one.
    #[error("this file is no {runtime} that the sandbox can run: {why}")]
    #[diagnostic(
        code("IPDC-5202"),
        help(
            "name a CPython for WASI preview 1 with its standard library in it, or none to get the known one"
        )
    )]
    Unfit {
        /// What it was to be.
        runtime: &'static str,
        /// What came of it.
        why: String,
    },
    /// None was added here, and the known one cannot be had.
    #[error(
        "this node has no Python interpreter, and no node that it is connected to has one; `ipdc runtime add python` \
         gets one, on any node of the swarm (with `ipdc run --local`: `--python FILE`)"
    )]
    #[diagnostic(code("IPDC-5203"))]
    None(#[source] Option<Box<unixfs::Error>>),
    /// None was added for this runtime.
    #[error("no interpreter was added here for `{0}`")]
    #[diagnostic(code("IPDC-5204"), help("`ipdc runtime ls` lists those that were"))]
    NotAdded(String),
    /// Its blocks.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Files(#[from] unixfs::Error),
    /// Its pin.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pin(#[from] PinError),
    /// The database.
    #[error(transparent)]
    #[diagnostic(transparent)]
    State(#[from] StateError),
}

/// The interpreters of one node. Clones are handles.
#[derive(Clone)]
pub struct Interpreters {
    db: Db,
    blocks: Blocks,
    runtime: runtime::Runtime,
}

impl Interpreters {
    /// Those that `db` remembers.
    #[must_use]
    pub fn new(db: Db, blocks: Blocks, runtime: runtime::Runtime) -> Self {
        Interpreters { db, blocks, runtime }
    }

    /// Takes the file `cid` for `runtime`, once it has said its version, and keeps it.
    ///
    /// # Errors
    /// When it cannot be had or does not run.
    pub async fn add(&self, runtime: &str, cid: Cid) -> Result<Interpreter, InterpreterError> {
        let runtime = known(runtime)?;
        let session = self.blocks.session(&[], Tier::Durable);
        session.fetch_all(cid, |_| {}).await?;
        let file = unixfs::stat(&session, cid).await?.ok_or(unixfs::Error::NotAFile(cid))?;
        let version = self.version(session, file).await.map_err(|error| {
            InterpreterError::Unfit { runtime: runtime.name(), why: error.to_string() }
        })?;
        self.blocks.pins().pin(cid, Reason::Runtime).await?;
        let before = self.find(runtime.name()).await?;
        let added = Interpreter { runtime: runtime.name().to_owned(), file, version };
        table::set(&self.db, added.clone()).await?;
        if let Some(before) = before.filter(|before| before.file.cid != cid) {
            self.blocks.pins().unpin(before.file.cid, Reason::Runtime).await?;
        }
        Ok(added)
    }

    /// Those that were added.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<Interpreter>, InterpreterError> {
        Ok(table::all(&self.db).await?)
    }

    /// Forgets that of `runtime`. Jobs that were accepted keep it.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn remove(&self, runtime: &str) -> Result<(), InterpreterError> {
        let added = self.find(runtime).await?;
        let added = added.ok_or_else(|| InterpreterError::NotAdded(runtime.to_owned()))?;
        table::forget(&self.db, added.runtime).await?;
        Ok(self.blocks.pins().unpin(added.file.cid, Reason::Runtime).await?)
    }

    /// The one that a job of this node's is frozen with, all of it here as a part of `add`.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn python(&self, add: &Add) -> Result<FileRef, InterpreterError> {
        let own = self.find(Runtime::Python.name()).await?;
        let file = own.map_or(*KNOWN, |own| own.file);
        let session = self.blocks.fetcher().session_for(&[], add.clone());
        let none = |error: unixfs::Error| InterpreterError::None(Some(Box::new(error)));
        let root = timeout(LOOK, session.get(&file.cid)).await;
        root.map_err(|_| InterpreterError::None(None))?.map_err(|error| none(error.into()))?;
        session.fetch_all(file.cid, |_| {}).await.map_err(none)?;
        Ok(file)
    }

    async fn find(&self, runtime: &str) -> Result<Option<Interpreter>, StateError> {
        let all = table::all(&self.db).await?;
        Ok(all.into_iter().find(|interpreter| interpreter.runtime == runtime))
    }

    async fn version(&self, session: Session, file: FileRef) -> Result<String, TaskError> {
        let runtime = self.runtime.clone();
        let opener = Opener::new(self.blocks.clone(), session);
        let asked = tokio::task::spawn_blocking(move || {
            let read = |module: &FileRef| opener.read(module);
            runtime.python_version(&file, read, Box::new(opener.clone()))
        });
        asked.await.expect("asking an interpreter does not panic")
    }
}

fn known(runtime: &str) -> Result<Runtime, InterpreterError> {
    let python = Runtime::of_name(runtime).filter(|runtime| *runtime == Runtime::Python);
    python.ok_or_else(|| InterpreterError::UnknownRuntime(runtime.to_owned()))
}

/// Opens files for code that is looked at and not run for a job: what it says is not heard. For threads that
/// may block.
#[derive(Clone)]
pub struct Opener {
    blocks: Blocks,
    session: Session,
    caller: Caller,
}

impl Opener {
    /// One that reads through `session`. To be made within the async runtime.
    #[must_use]
    pub fn new(blocks: Blocks, session: Session) -> Self {
        let caller = Caller::new(Handle::current(), CancellationToken::new());
        Opener { blocks, session, caller }
    }

    /// All of a module.
    ///
    /// # Errors
    /// When it is longer than a module may be, or cannot be had.
    pub fn read(&self, module: &FileRef) -> Result<Bytes, TaskError> {
        let read = self.caller.wait(self.blocks.read(&self.session, module, MODULE_LIMIT));
        let read = read.ok_or(TaskError::Stopped)?;
        read.map_err(|error| TaskError::of_read(module, error.into()))
    }
}

impl Listener for Opener {
    fn open(&mut self, file: &FileRef) -> Result<Box<dyn ReadAt>, TaskError> {
        let reader = BlockingReader::open(self.session.clone(), file, self.caller.clone());
        Ok(Box::new(reader.map_err(|error| TaskError::of_read(file, error))?))
    }

    fn log(&mut self, _: &str) {}

    fn progress(&mut self, _: u64, _: u64) {}

    fn count(&mut self, _: Counters) -> bool {
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::blocks::store::{Limits, Store};
    use crate::blocks::unixfs::FileBuilder;

    #[tokio::test]
    async fn what_this_version_knows_is_what_make_and_the_command_line_get() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python.wasm");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| {
            panic!("{}: {error}: `make setup-python-wasm` gets it", path.display())
        });
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Limits::default()).await.unwrap();
        let mut file = FileBuilder::chunked(store.add(Tier::Durable));
        file.write(&bytes).await.unwrap();
        let (added, _) = file.finish_chunks().await.unwrap();
        assert_eq!((added.cid.to_string(), added.len), (KNOWN.cid.to_string(), KNOWN.len));
    }
}
