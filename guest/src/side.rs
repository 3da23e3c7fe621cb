//! What a guest may read beside its input, and what it may count.
//!
//! Everything here, and in [`json`], is `#[inline]`: so a guest that uses none of it is compiled to
//! the same bytes as if it were not there. A module's bytes are part of what a result's CID names.

use std::io;

use crate::json;

/// The answer to a read of a side file that the job does not have.
const NO_FILE: i32 = -1;

/// The job's `[params]`: one JSON object, as bytes.
#[must_use]
#[inline]
pub fn params() -> Vec<u8> {
    whole(host::params)
}

/// One of the job's params: a text as it is, anything else as JSON. None when it is not set.
///
/// Looked up anew in each call: keep it if you need it for every record.
#[must_use]
#[inline]
pub fn param(name: &str) -> Option<String> {
    json::member(&params(), name)
}

/// Which of the job's `[inputs]` the records of this map task come from. Empty in a job with one
/// input and in `reduce`.
#[must_use]
#[inline]
pub fn input() -> String {
    String::from_utf8_lossy(&whole(host::input)).into_owned()
}

/// Adds `by` to the counter `name`. What the attempts that count have counted is added up and shown
/// with the job.
///
/// A name has 1 to 64 bytes without control characters; a task may use 32 of them. The guest is
/// ended for others. A call costs about as much as hashing a line: count in your own variable
/// within a chunk, and call this once.
#[inline]
pub fn count(name: &str, by: u64) {
    host::counter(name, by);
}

/// The job's side file `name` of `[files]`; none when it has none of this name.
#[must_use]
#[inline]
pub fn file(name: &str) -> Option<File> {
    let len = u64::try_from(host::file_len(name)).ok()?;
    Some(File { name: name.to_owned(), len, at: 0 })
}

/// A side file. It is read from its blocks as it is asked for; nothing of it is held but what the
/// guest keeps.
#[derive(Debug, Clone)]
pub struct File {
    name: String,
    len: u64,
    /// Where [`io::Read`] goes on.
    at: u64,
}

impl File {
    /// Its length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        let read = self.read_at(0, &mut bytes);
        bytes.truncate(read);
        bytes
    }

    /// Fills `room` from `offset`, less only where the file ends; how many bytes that were.
    #[inline]
    pub fn read_at(&self, offset: u64, room: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < room.len() {
            let read = host::file_read(&self.name, offset + filled as u64, &mut room[filled..]);
            debug_assert_ne!(read, NO_FILE, "the file was there when it was opened");
            match usize::try_from(read) {
                Ok(read @ 1..) => filled += read,
                _ => break,
            }
        }
        filled
    }
}

/// From the beginning to the end: `BufReader::new(file).lines()` works.
impl io::Read for File {
    #[inline]
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(self.at, room);
        self.at += read as u64;
        Ok(read)
    }
}

/// All that `give` writes: it is asked for the length first.
#[inline]
fn whole(give: impl Fn(&mut [u8]) -> usize) -> Vec<u8> {
    let mut bytes = vec![0; give(&mut [])];
    give(&mut bytes);
    bytes
}

#[cfg(target_arch = "wasm32")]
mod host {
    #[allow(unsafe_code)]
    mod imports {
        #[link(wasm_import_module = "ipdc")]
        unsafe extern "C" {
            pub(super) fn params(ptr: *mut u8, cap: usize) -> usize;
            pub(super) fn input(ptr: *mut u8, cap: usize) -> usize;
            pub(super) fn file_len(name: *const u8, len: usize) -> i64;
            pub(super) fn file_read(
                name: *const u8,
                len: usize,
                offset: u64,
                ptr: *mut u8,
                cap: usize,
            ) -> i32;
            pub(super) fn counter(name: *const u8, len: usize, by: u64);
        }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn params(room: &mut [u8]) -> usize {
        // SAFETY: the host writes within the room, during the call.
        unsafe { imports::params(room.as_mut_ptr(), room.len()) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn input(room: &mut [u8]) -> usize {
        // SAFETY: as in `params`.
        unsafe { imports::input(room.as_mut_ptr(), room.len()) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn file_len(name: &str) -> i64 {
        // SAFETY: the host reads the name during the call.
        unsafe { imports::file_len(name.as_ptr(), name.len()) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn file_read(name: &str, offset: u64, room: &mut [u8]) -> i32 {
        let (ptr, cap) = (room.as_mut_ptr(), room.len());
        // SAFETY: the host reads the name and writes within the room, during the call.
        unsafe { imports::file_read(name.as_ptr(), name.len(), offset, ptr, cap) }
    }

    #[allow(unsafe_code)]
    #[inline]
    pub(super) fn counter(name: &str, by: u64) {
        // SAFETY: as in `file_len`.
        unsafe { imports::counter(name.as_ptr(), name.len(), by) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod host {
    use super::NO_FILE;
    use crate::testing::{give, with_given};

    pub(super) fn params(room: &mut [u8]) -> usize {
        with_given(|given| give(&given.params, room))
    }

    pub(super) fn input(room: &mut [u8]) -> usize {
        with_given(|given| give(given.input.as_bytes(), room))
    }

    pub(super) fn file_len(name: &str) -> i64 {
        with_given(|given| given.files.get(name).map_or(NO_FILE.into(), |file| file.len() as i64))
    }

    pub(super) fn file_read(name: &str, offset: u64, room: &mut [u8]) -> i32 {
        with_given(|given| match given.files.get(name) {
            Some(file) => {
                let rest = &file[(offset as usize).min(file.len())..];
                give(rest, room).min(room.len()) as i32
            }
            None => NO_FILE,
        })
    }

    pub(super) fn counter(name: &str, by: u64) {
        with_given(|given| *given.counters.entry(name.to_owned()).or_default() += by);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;
    use crate::testing::{Given, with_given};

    #[test]
    fn a_guest_reads_what_it_was_given() {
        with_given(|given| {
            *given = Given {
                params: br#"{"word":"to be","n":3}"#.to_vec(),
                input: "left".to_owned(),
                files: [("stop".to_owned(), b"a\nthe\n".to_vec())].into(),
                ..Given::default()
            }
        });
        assert_eq!(param("word").as_deref(), Some("to be"));
        assert_eq!(param("n").as_deref(), Some("3"));
        assert_eq!((param("gone"), input()), (None, "left".to_owned()));
        let stop = file("stop").expect("it was given");
        assert_eq!((stop.len(), stop.bytes()), (6, b"a\nthe\n".to_vec()));
        let mut range = [0; 9];
        assert_eq!((stop.read_at(2, &mut range), &range[..4]), (4, &b"the\n"[..]));
        let lines: Vec<_> = BufReader::new(stop).lines().map_while(Result::ok).collect();
        assert_eq!(lines, ["a", "the"]);
        assert!(file("gone").is_none());
    }

    #[test]
    fn what_a_guest_counts_adds_up() {
        count("bad lines", 2);
        count("bad lines", 3);
        assert_eq!(with_given(|given| given.counters["bad lines"]), 5);
    }
}
