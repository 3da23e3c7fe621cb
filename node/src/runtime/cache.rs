//! Modules compiled once: the last few in memory, all of them as files.
//!
//! A file is named by the hash of the module and of everything the compiler's output depends on,
//! and begins with the hash of its own content. It is loaded only when this node wrote it (the
//! directory is in the home, mode 0700) and its hash is right; a compiled artefact never comes from
//! a peer. Anything wrong with a file means compiling again.

use std::fs;
use std::hash::{Hash as _, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, Module};

use super::GuestError;

/// Compiled modules kept in memory: a node works for few jobs at once, and each has up to three.
const IN_MEMORY: usize = 24;

const DIGEST: usize = 32;

type Key = [u8; DIGEST];

/// The compiled modules of one engine.
pub(super) struct Cache {
    directory: PathBuf,
    /// The most recently used last.
    loaded: Mutex<Vec<(Key, Module)>>,
    /// Held while compiling: two attempts with the same new module compile it once.
    compiling: Mutex<()>,
}

impl Cache {
    pub(super) fn new(directory: PathBuf) -> Self {
        Cache { directory, loaded: Mutex::default(), compiling: Mutex::default() }
    }

    /// The module `code`, compiled now or before.
    pub(super) fn module(&self, engine: &Engine, code: &[u8]) -> Result<Module, GuestError> {
        let key: Key = Sha256::digest(code).into();
        if let Some(module) = self.recent(&key) {
            return Ok(module);
        }
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = self.recent(&key) {
            return Ok(module);
        }
        let path = self.path(engine, &key);
        let module = match load(engine, &path) {
            Some(module) => module,
            None => {
                let compiled = Module::new(engine, code);
                let module = compiled.map_err(|error| GuestError::NotWasm(first_line(&error)))?;
                if let Err(error) = store(&module, &path) {
                    tracing::warn!(%error, "a compiled module could not be kept");
                }
                module
            }
        };
        let mut loaded = self.loaded();
        if loaded.len() == IN_MEMORY {
            loaded.remove(0);
        }
        loaded.push((key, module.clone()));
        Ok(module)
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

fn load(engine: &Engine, path: &Path) -> Option<Module> {
    let file = fs::read(path).ok()?;
    let (digest, compiled) = file.split_at_checked(DIGEST)?;
    if Sha256::digest(compiled).as_slice() != digest {
        return None;
    }
    // SAFETY: the bytes are what `store` wrote: the file lies in the node's own home, which
    // nobody else may write, and its content has the hash that was written with it.
    #[allow(unsafe_code)]
    let module = unsafe { Module::deserialize(engine, compiled) };
    module.ok()
}

fn store(module: &Module, path: &Path) -> std::io::Result<()> {
    let compiled = module.serialize().map_err(std::io::Error::other)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&Sha256::digest(&compiled))?;
    file.write_all(&compiled)?;
    file.persist(path)?;
    Ok(())
}

/// What the compiler says first; the rest of it is about its own insides.
fn first_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}
