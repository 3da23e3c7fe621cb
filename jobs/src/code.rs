//! User code, as `job.toml` names it and as it is frozen with a job.
//!
//! Kinds name code by these types alone: what a path in `job.toml` stands for is decided here, once,
//! and how it is run by the [`Host`](crate::kind::Host).

use serde::{Deserialize, Serialize};

use crate::engine::Runtime;
use crate::ids::FileRef;
use crate::kind::JobFiles;
use crate::spec::{Located, Section};

/// A function of the user's: where its code is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Code {
    /// A WebAssembly module: one that exports the function, or a WASI command.
    Module(FileRef),
}

/// What the path of a module ends with.
const MODULES: [&str; 2] = [".wasm", ".wat"];

impl Code {
    /// What a path to code ends with, for those that gave another text.
    pub const EXPECTED: &str = "a .wasm or .wat file";

    /// Whether `path` names code, by what it ends with.
    #[must_use]
    pub fn is_named_by(path: &str) -> bool {
        MODULES.iter().any(|end| path.ends_with(end))
    }

    /// The code at `path`, which `key` of `section` names: it has a function of the key's name. None,
    /// and an error noted, when it cannot be used.
    pub fn resolve(
        section: &mut Section,
        key: &str,
        path: &Located<String>,
        files: &dyn JobFiles,
    ) -> Option<Code> {
        if !Code::is_named_by(&path.value) {
            let message = format!("`{key}` is \"{}\"; expected {}", path.value, Code::EXPECTED);
            section.error(path.line, message);
            return None;
        }
        let file = find(section, key, path, files)?;
        match files.check_module(&file, key) {
            Ok(()) => Some(Code::Module(file)),
            Err(why) => {
                section.error(path.line, format!("`{}` cannot be used: {why}", path.value));
                None
            }
        }
    }

    /// What a node must have, and let the submitter use, to run it.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        match self {
            Code::Module(_) => Runtime::Wasm,
        }
    }
}

/// The file at `path` of the job directory, which `key` of `section` names. None, and an error noted,
/// when there is none.
pub fn find(
    section: &mut Section,
    key: &str,
    path: &Located<String>,
    files: &dyn JobFiles,
) -> Option<FileRef> {
    let file = files.find(&path.value);
    if file.is_none() {
        let message = format!("`{key}` names \"{}\", which is not in the directory", path.value);
        section.error(path.line, message);
    }
    file
}
