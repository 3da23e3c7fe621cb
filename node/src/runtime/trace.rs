//! Where a guest was when it failed: the calls under way, and, in a runtime that keeps what a module
//! says of its source (DWARF), where in the source each of them was.

use std::fmt;

use rustc_demangle::demangle;
use wasmtime::{FrameInfo, FrameSymbol, WasmBacktrace};

use super::shown;

/// The longest name that is looked at, in bytes: with all their types they have some hundred.
const NAME_LIMIT: usize = 4096;

/// A call under way. A call that the compiler put into its caller is one of its own where the
/// module says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The function's name, or its number when the module has no names.
    pub function: String,
    /// Where in it, if the module says so and the runtime keeps it.
    pub place: Option<Place>,
}

/// A line of a guest's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the compiler knew it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        match &self.place {
            Some(Place { file, line }) => write!(f, ", {file}:{line}"),
            None => Ok(()),
        }
    }
}

/// The calls under way when `error` ended them, the innermost first.
pub(super) fn frames(error: &wasmtime::Error) -> Vec<Frame> {
    compiled(error).iter().flat_map(frames_of).collect()
}

/// The functions of these, as any runtime knows them.
pub(super) fn functions(error: &wasmtime::Error) -> impl Iterator<Item = String> {
    compiled(error).iter().map(function)
}

fn compiled(error: &wasmtime::Error) -> &[FrameInfo] {
    error.downcast_ref::<WasmBacktrace>().map_or(&[], WasmBacktrace::frames)
}

fn frames_of(frame: &FrameInfo) -> Vec<Frame> {
    if frame.symbols().is_empty() {
        return vec![Frame { function: function(frame), place: None }];
    }
    let one = |symbol: &FrameSymbol| Frame {
        function: symbol.name().map_or_else(|| function(frame), readable),
        place: place(symbol),
    };
    frame.symbols().iter().map(one).collect()
}

fn place(symbol: &FrameSymbol) -> Option<Place> {
    // Line 0 is what compilers say of code that comes from no line.
    let line = symbol.line().filter(|&line| line > 0)?;
    Some(Place { file: symbol.file()?.to_owned(), line })
}

fn function(frame: &FrameInfo) -> String {
    let unnamed = || format!("function {}", frame.func_index());
    frame.func_name().map_or_else(unnamed, readable)
}

/// A name as it is in the source: compilers of Rust write more into it.
fn readable(name: &str) -> String {
    if name.len() > NAME_LIMIT {
        return shown(name);
    }
    shown(&format!("{:#}", demangle(name)))
}
