//! Write `map`, `combine` and `reduce` functions for ipdc in Rust.
//!
//! A guest is a library (`crate-type = ["cdylib"]`) built for `wasm32-unknown-unknown`:
//!
//! ```
//! ipdc_guest::map!(count_words);
//!
//! fn count_words(text: &[u8]) {
//!     for word in ipdc_guest::words(text) {
//!         ipdc_guest::emit(word, b"1");
//!     }
//! }
//! # fn main() {
//! # let emitted = ipdc_guest::testing::emitted_by(|| count_words(b"to be or not to be"));
//! # assert_eq!(emitted.len(), 6);
//! # }
//! ```
//!
//! The host calls `map` with whole records (lines), as many as it likes at a time; `combine` and
//! `reduce` with one key and all its values. Records go out in frames of 64 KiB, so [`emit`] is a
//! copy, not a call. The contract itself is in `docs/guest.md`.
//!
//! Compiled for any other target, the imports are replaced by [`testing`], so a guest's functions
//! can be tested with `cargo test`.

use std::cell::RefCell;

use frame::Frame;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static EMITTED: RefCell<Frame> = const { RefCell::new(Frame::new()) };
}

/// Exports the function `$f: fn(&[u8])` as `map`. It gets whole records, and emits.
#[macro_export]
macro_rules! map {
    ($f:path) => {
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn map(_ptr: *const u8, len: usize) {
            $crate::with_input(len, $f);
        }
    };
}

/// Exports the function `$f: fn(&[u8], Values<'_>)` as `reduce`: one key, all its values, in
/// (split, offset) order.
#[macro_export]
macro_rules! reduce {
    ($f:path) => {
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn reduce(_ptr: *const u8, len: usize) {
            $crate::with_input(len, |group| $crate::with_group(group, $f));
        }
    };
}

/// Exports the function `$f: fn(&[u8], Values<'_>)` as `combine`. It must emit under the key it
/// was given, and reducing what it emits must give what reducing its input would.
#[macro_export]
macro_rules! combine {
    ($f:path) => {
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn combine(_ptr: *const u8, len: usize) {
            $crate::with_input(len, |group| $crate::with_group(group, $f));
        }
    };
}

/// Exports the function `$f: fn(&str)` as `run`, for jobs of kind `cl`. It gets an item; what it emits is what the item
/// gives.
#[macro_export]
macro_rules! run {
    ($f:path) => {
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn run(_ptr: *const u8, len: usize) {
            $crate::with_input(len, |item| {
                $f(::core::str::from_utf8(item).expect("an item is text"));
            });
        }
    };
}

/// Exports the function `$f: fn()` as `producer`, for jobs of kind `cl`: each record that it emits is an item.
#[macro_export]
macro_rules! producer {
    ($f:path) => {
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn producer(_ptr: *const u8, len: usize) {
            $crate::with_input(len, |_| $f());
        }
    };
}

/// Hands a record to the host.
#[inline]
pub fn emit(key: &[u8], value: &[u8]) {
    EMITTED.with_borrow_mut(|emitted| emitted.push(key, value));
}

/// Logs a line: `ipdc job logs` shows the last ones of each attempt.
pub fn log(line: &str) {
    host::log(line);
}

/// Names an item for the job: it is worked like the others, once, if the job's `[enqueue]` takes it. In a job without
/// it ends the guest.
#[inline]
pub fn enqueue(item: &str) {
    host::enqueue(item);
}

/// The values of one key.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = take_u32(self.rest);
        let (value, rest) = rest.split_at(len as usize);
        self.rest = rest;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// The buffer that the host writes the next input of `len` bytes into. The host calls this.
// SAFETY: the host asks for this name, and nothing else here has it.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn ipdc_alloc(len: usize) -> *mut u8 {
    INPUT.with_borrow_mut(|input| {
        if input.len() < len {
            input.resize(len, 0);
        }
        input.as_mut_ptr()
    })
}

/// Runs `f` on the first `len` bytes of the input buffer, then hands over what it emitted. Used
/// by the macros.
#[doc(hidden)]
pub fn with_input(len: usize, f: impl FnOnce(&[u8])) {
    INPUT.with_borrow(|input| f(&input[..len]));
    EMITTED.with_borrow_mut(Frame::hand_over);
}

/// Takes a packed key group apart: `[klen u32][nvalues u32][key]([vlen u32][value])*`. Used by
/// the macros.
#[doc(hidden)]
pub fn with_group(group: &[u8], f: impl FnOnce(&[u8], Values<'_>)) {
    let (klen, rest) = take_u32(group);
    let (left, rest) = take_u32(rest);
    let (key, rest) = rest.split_at(klen as usize);
    f(key, Values { rest, left });
}

fn take_u32(bytes: &[u8]) -> (u32, &[u8]) {
    let (head, rest) = bytes.split_at(4);
    (u32::from_le_bytes([head[0], head[1], head[2], head[3]]), rest)
}

#[cfg(target_arch = "wasm32")]
mod host {
    #[allow(unsafe_code)]
    mod imports {
        #[link(wasm_import_module = "ipdc")]
        unsafe extern "C" {
            pub(super) fn flush(ptr: *const u8, len: usize);
            pub(super) fn log(ptr: *const u8, len: usize);
            pub(super) fn enqueue(ptr: *const u8, len: usize);
        }
    }

    #[allow(unsafe_code)]
    pub(super) fn flush(frame: &[u8]) {
        // SAFETY: the host reads these bytes during the call and keeps nothing of them.
        unsafe { imports::flush(frame.as_ptr(), frame.len()) }
    }

    #[allow(unsafe_code)]
    pub(super) fn log(line: &str) {
        // SAFETY: as in `flush`.
        unsafe { imports::log(line.as_ptr(), line.len()) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn enqueue(item: &str) {
        // SAFETY: as in `flush`.
        unsafe { imports::enqueue(item.as_ptr(), item.len()) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod host {
    pub(super) use crate::testing::{enqueue, flush, log};
}

/// A host for tests on other targets than wasm.
#[cfg(not(target_arch = "wasm32"))]
pub mod testing {
    use std::cell::RefCell;

    thread_local! {
        static FLUSHED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn flush(frame: &[u8]) {
        FLUSHED.with_borrow_mut(|flushed| flushed.extend_from_slice(frame));
    }

    pub(crate) fn enqueue(item: &str) {
        with_given(|given| given.enqueued.push(item.to_owned()));
    }

    /// Writes what fits in `room`, as the host does; how many bytes there are.
    pub(crate) fn give(bytes: &[u8], room: &mut [u8]) -> usize {
        let fits = room.len().min(bytes.len());
        room[..fits].copy_from_slice(&bytes[..fits]);
        bytes.len()
    }

    pub(crate) fn log(line: &str) {
        eprintln!("guest: {line}");
    }

    /// What the guest's functions find beside their input on this thread.
    #[derive(Debug, Default)]
    pub struct Given {
        /// The job's params: one JSON object.
        pub params: Vec<u8>,
        /// The name of the input that the records come from.
        pub input: String,
        /// Side files by name.
        pub files: std::collections::BTreeMap<String, Vec<u8>>,
        /// What was counted so far.
        pub counters: std::collections::BTreeMap<String, u64>,
        /// The items that were named so far.
        pub enqueued: Vec<String>,
        /// Pages of the network by URL.
        pub pages: std::collections::BTreeMap<String, Page>,
    }

    /// A page that is fetched.
    #[derive(Debug, Clone)]
    pub struct Page {
        /// Its status.
        pub status: u16,
        /// Its headers by their names in small letters.
        pub headers: std::collections::BTreeMap<String, String>,
        /// Its body.
        pub body: Vec<u8>,
    }

    thread_local! {
        static GIVEN: RefCell<Given> = RefCell::default();
    }

    /// Runs `f` with what is given on this thread, to set it or to look at it.
    pub fn with_given<T>(f: impl FnOnce(&mut Given) -> T) -> T {
        GIVEN.with_borrow_mut(f)
    }

    /// The records that `f` emits, as (key, value).
    pub fn emitted_by(f: impl FnOnce()) -> Vec<(Vec<u8>, Vec<u8>)> {
        f();
        super::with_input(0, |_| {});
        let flushed = FLUSHED.take();
        let mut rest = flushed.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (klen, after) = super::take_u32(rest);
            let (vlen, after) = super::take_u32(after);
            let (key, after) = after.split_at(klen as usize);
            let (value, after) = after.split_at(vlen as usize);
            records.push((key.to_vec(), value.to_vec()));
            rest = after;
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_records_than_a_frame_holds_arrive_whole_and_in_order() {
        let emitted = testing::emitted_by(|| {
            for n in 0..20_000_u32 {
                emit(&n.to_be_bytes(), b"value");
            }
        });
        assert_eq!(emitted.len(), 20_000);
        assert!(emitted.is_sorted());
    }

    #[test]
    fn a_key_group_comes_apart_as_it_was_packed() {
        let group = b"\x01\0\0\0\x02\0\0\0k\x03\0\0\0one\0\0\0\0";
        with_group(group, |key, values| {
            assert_eq!(key, b"k");
            assert_eq!(values.len(), 2);
            assert_eq!(values.collect::<Vec<_>>(), [b"one".as_slice(), b""]);
        });
    }
}

mod fetch;
mod frame;
mod json;
mod side;
mod words;

pub use fetch::{FetchError, Request, Response, fetch};
pub use side::{File, count, file, input, param, params};
pub use words::{Words, words};
