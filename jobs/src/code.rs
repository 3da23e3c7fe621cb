//! User code, as `job.toml` names it and as it is frozen with a job.
//!
//! Kinds name code by these types alone: what a path in `job.toml` stands for is decided here, once,
//! and how it is run by the [`Host`](crate::kind::Host).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::{Needs, Runtime, Takes};
use crate::ids::{Cid, FileRef, cid_text};
use crate::kind::JobFiles;
use crate::native::{HEAD, Native};
use crate::spec::{Located, Section};

/// A function of the user's: where its code is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Code {
    /// A WebAssembly module: one that exports the function, or a WASI command.
    Module(FileRef),
    /// A Python function.
    Python(Python),
    /// A native program.
    Process(Native),
    /// A command in a container.
    Container(Container),
}

/// A command and the image that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// A directory in the form of the OCI image layout (OCI Image Format Specification, version 1).
    #[serde(with = "cid_text")]
    pub image: Cid,
    /// In place of the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// What comes after the entrypoint.
    pub command: Vec<String>,
    /// Whether it has a network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
    /// What it takes of its node.
    #[serde(default, skip_serializing_if = "Takes::is_usual")]
    pub takes: Takes,
}

/// Python code and what runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// CPython, as a WASI command.
    pub interpreter: FileRef,
    /// The file with the function, one of `files`.
    pub main: String,
    /// The job directory's Python files, by their paths in it: what the code may import.
    pub files: BTreeMap<String, FileRef>,
}

/// What the path of a module ends with.
const MODULES: [&str; 2] = [".wasm", ".wat"];

/// What a WebAssembly module begins with, however it is named.
const WASM: &[u8] = b"\0asm";

/// What the path of a Python file ends with.
const PYTHON: &str = ".py";

/// Python files of a job directory: each function that is Python names them all in the job's
/// manifest, where three of these take half the room.
const PYTHON_FILES_LIMIT: usize = 100;

impl Code {
    /// What code is, for those that gave another text.
    pub const EXPECTED: &str = "a .wasm, .wat or .py file or a native program";

    /// Whether `path` names code: by what it ends with, or because it is there.
    #[must_use]
    pub fn is_named_by(path: &str, files: &dyn JobFiles) -> bool {
        Form::named(path).is_some() || files.find(path).is_some()
    }

    /// The code at `path`, which `key` of `section` names: it has a function of the key's name. None,
    /// and an error noted, when it cannot be used.
    pub fn resolve(
        section: &mut Section,
        key: &str,
        path: &Located<String>,
        files: &dyn JobFiles,
    ) -> Option<Code> {
        if !Code::is_named_by(&path.value, files) {
            let message = format!("`{key}` is \"{}\"; expected {}", path.value, Code::EXPECTED);
            section.error(path.line, message);
            return None;
        }
        let file = find(section, key, path, files)?;
        let code = match Form::named(&path.value) {
            Some(Form::Module) => Ok(Code::Module(file)),
            Some(Form::Python) => Python::of(&path.value, files).map(Code::Python),
            None => Code::by_head(file, files),
        };
        let checked = code.and_then(|code| files.check(&code, key).map(|()| code));
        match checked {
            Ok(code) => Some(code),
            Err(why) => {
                section.error(path.line, format!("`{}` cannot be used: {why}", path.value));
                None
            }
        }
    }

    /// The code in a file whose name says nothing.
    fn by_head(file: FileRef, files: &dyn JobFiles) -> Result<Code, String> {
        let head = files.head(&file, HEAD).map_err(|error| error.to_string())?;
        if head.starts_with(WASM) {
            return Ok(Code::Module(file));
        }
        Native::of(file, &head).map(Code::Process).map_err(|error| error.to_string())
    }

    /// What a node must have, and let the submitter use, to run all of these.
    pub fn needs<'a>(all: impl IntoIterator<Item = &'a Code>) -> Needs {
        let mut needs = Needs::default();
        for code in all {
            needs.runtimes.insert(code.runtime());
            match code {
                Code::Process(Native { machine: Some(machine), .. }) => {
                    needs.labels.insert(machine.label());
                }
                // An attempt takes the same, whichever of the job's commands it runs.
                Code::Container(Container { network, takes, .. }) => {
                    needs.network |= network;
                    needs.takes.cpus = needs.takes.cpus.max(takes.cpus);
                    needs.takes.gpus = needs.takes.gpus.max(takes.gpus);
                    needs.takes.gpu_memory = needs.takes.gpu_memory.max(takes.gpu_memory);
                }
                _ => {}
            }
        }
        needs
    }

    /// What runs it.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        match self {
            Code::Module(_) => Runtime::Wasm,
            Code::Python(_) => Runtime::Python,
            Code::Process(_) => Runtime::Process,
            Code::Container(_) => Runtime::Container,
        }
    }

    /// The file that runs: the code itself, or what interprets it. None, where that is an image of files.
    #[must_use]
    pub fn module(&self) -> Option<&FileRef> {
        match self {
            Code::Module(file) => Some(file),
            Code::Python(python) => Some(&python.interpreter),
            Code::Process(native) => Some(&native.program),
            Code::Container(_) => None,
        }
    }
}

/// A form of code that the end of its path names.
enum Form {
    Module,
    Python,
}

impl Form {
    fn named(path: &str) -> Option<Form> {
        if path.ends_with(PYTHON) {
            return Some(Form::Python);
        }
        MODULES.iter().any(|end| path.ends_with(end)).then_some(Form::Module)
    }
}

impl Python {
    /// The file at the path `main`, with those it may import.
    fn of(main: &str, files: &dyn JobFiles) -> Result<Self, String> {
        let all = files.paths().into_iter().filter(|path| path.ends_with(PYTHON));
        let all = all.filter_map(|path| {
            let file = files.find(&path)?;
            Some((path, file))
        });
        let all: BTreeMap<_, _> = all.collect();
        if all.len() > PYTHON_FILES_LIMIT {
            return Err(format!(
                "the directory has {} Python files; at most {PYTHON_FILES_LIMIT} can be part of a job",
                all.len()
            ));
        }
        Ok(Python { interpreter: files.interpreter()?, main: main.to_owned(), files: all })
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
