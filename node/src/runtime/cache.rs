//! Modules compiled once: the last few in memory, more of them as files.
//!
//! A file is named by the module's name, which is its hash, and by that of everything the compiler's output depends on,
//! and begins with the hash of its own content. It is loaded only when this node wrote it (the
//! directory is in the home, mode 0700) and its hash is right; a compiled artefact never comes from
//! a peer. Anything wrong with a file means compiling again. Those that were used last stay.

use std::fs::{self, File};
use std::hash::{Hash as _, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::TaskError;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;
use wasmtime::{Engine, Module};

use super::GuestError;
use super::compile::{Compiler, MODULE_LIMIT, broken};

/// Compiled modules kept in memory: a node works for few jobs at once, and each has up to three.
const IN_MEMORY: usize = 24;

/// The part of the guests' memory that they may take there, beside the one that was used last.
const MEMORY_PART: u64 = 8;

/// Bytes of files: some hundred large programs, or ten thousand small ones.
const ON_DISK: u64 = 1 << 30;

const DIGEST: usize = 32;

type Key = [u8; DIGEST];

/// The compiled modules of one engine.
pub(super) struct Cache {
    directory: PathBuf,
    compiler: Compiler,
    /// Bytes of `loaded`, about.
    room: u64,
    /// The most recently used last.
    loaded: Mutex<Vec<(Key, Module)>>,
    /// Held while compiling: two attempts with the same new module compile it once, and no more than one
    /// takes the memory for it.
    compiling: Mutex<()>,
}

impl Cache {
    /// Of a node whose guests have `memory` bytes.
    pub(super) fn new(directory: PathBuf, compiler: Compiler, memory: u64) -> Self {
        let (loaded, compiling) = Default::default();
        Cache { directory, compiler, room: memory / MEMORY_PART, loaded, compiling }
    }

    /// The module `file`, compiled now, unless it is told to stop, or before; only then it is `read`.
    pub(super) fn module(
        &self,
        engine: &Engine,
        file: &FileRef,
        read: impl Fn() -> Result<Bytes, TaskError>,
        stop: &CancellationToken,
    ) -> Result<Module, TaskError> {
        if file.len > MODULE_LIMIT as u64 {
            return Err(GuestError::TooLong(file.len).into());
        }
        let key = key(file);
        if let Some(module) = self.recent(&key) {
            return Ok(module);
        }
        let path = self.path(engine, &key);
        // Others do not wait for what we read.
        let code = if path.exists() { None } else { Some(read()?) };
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = self.recent(&key) {
            return Ok(module);
        }
        let module = match load(engine, &path) {
            Some(module) => module,
            None => {
                let code = code.map_or_else(read, Ok)?;
                self.compile(engine, &code, &path, stop)?
            }
        };
        self.keep(key, module.clone());
        Ok(module)
    }

    fn compile(
        &self,
        engine: &Engine,
        code: &[u8],
        path: &Path,
        stop: &CancellationToken,
    ) -> Result<Module, TaskError> {
        fs::create_dir_all(&self.directory).map_err(|error| broken(&error))?;
        let file = NamedTempFile::new_in(&self.directory).map_err(|error| broken(&error))?;
        self.compiler.compile(engine, code, &file, stop)?;
        let module = load(engine, file.path());
        let module = module.ok_or_else(|| broken(&std::io::ErrorKind::InvalidData.into()))?;
        let kept = file.persist(path).map_err(|error| error.error);
        if let Err(error) = kept.and_then(|_| prune(&self.directory, ON_DISK)) {
            tracing::warn!(%error, "a compiled module could not be kept");
        }
        Ok(module)
    }

    fn keep(&self, key: Key, module: Module) {
        let mut loaded = self.loaded();
        loaded.push((key, module));
        let size = |(_, module): &(Key, Module)| {
            let image = module.image_range();
            (image.end as usize - image.start as usize) as u64
        };
        let mut bytes: u64 = loaded.iter().map(size).sum();
        while loaded.len() > 1 && (loaded.len() > IN_MEMORY || bytes > self.room) {
            bytes -= size(&loaded.remove(0));
        }
    }

    fn recent(&self, key: &Key) -> Option<Module> {
        let mut loaded = self.loaded();
        let at = loaded.iter().position(|(known, _)| known == key)?;
        let entry = loaded.remove(at);
        let module = entry.1.clone();
        loaded.push(entry);
        Some(module)
    }

    fn loaded(&self) -> MutexGuard<'_, Vec<(Key, Module)>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, engine: &Engine, key: &Key) -> PathBuf {
        let mut settings = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut settings);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{hex}-{:016x}.cwasm", settings.finish()))
    }
}

/// The length belongs to it: a reader gives so many bytes, whatever is behind the CID.
fn key(file: &FileRef) -> Key {
    let mut hash = Sha256::new();
    hash.update(file.len.to_be_bytes());
    hash.update(file.cid.to_bytes());
    hash.finalize().into()
}

fn load(engine: &Engine, path: &Path) -> Option<Module> {
    let file = fs::read(path).ok()?;
    let (digest, compiled) = file.split_at_checked(DIGEST)?;
    if Sha256::digest(compiled).as_slice() != digest {
        return None;
    }
    // For `prune`. Where it cannot be said, the file is taken for older than it is.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    // SAFETY: the bytes are what `Compiler::compile` wrote: the file lies in the node's own home,
    // which nobody else may write, and its content has the hash that was written with it.
    #[allow(unsafe_code)]
    let module = unsafe { Module::deserialize(engine, compiled) };
    module.ok()
}

/// Removes files that were not used for longest, until the others have at most `most` bytes.
fn prune(directory: &Path, most: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let known = entry.metadata()?;
        files.push((known.modified()?, known.len(), entry.path()));
    }
    files.sort_unstable();
    let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in &files {
        if bytes <= most {
            break;
        }
        fs::remove_file(path)?;
        bytes -= len;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn files_that_were_not_used_for_longest_go_first() {
        let directory = tempfile::tempdir().unwrap();
        for age in 0..5 {
            let file = File::create(directory.path().join(age.to_string())).unwrap();
            file.set_len(10).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        prune(directory.path(), 30).unwrap();
        let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["0", "1", "2"]);
    }
}
