//! The ways in which a map or reduce task fails, each with its code.

use std::borrow::Cow;
use std::io;

use crate::ids::FileRef;
use crate::kind::TaskError;
use crate::message::FailureClass;

/// The longest part of a key that an error shows, in bytes: enough to know it by.
const KEY_SHOWN: usize = 80;

fn guest(code: &'static str, message: String) -> TaskError {
    TaskError::Failed { class: FailureClass::Guest, code, message }
}

/// What is said when something does not fit the task's memory.
const TOO_LARGE: [&str; 5] = ["IPDC-5355", "IPDC-5356", "IPDC-5360", "IPDC-5370", HELD_TOO_LONG];

/// The error of a task on a node that has less memory than the job allows: where something did not fit,
/// that is the node's failure and not the job's.
pub(super) fn of_the_node(error: TaskError) -> TaskError {
    match error {
        TaskError::Failed { code, message, .. } if TOO_LARGE.contains(&code) => {
            let message = format!("on a node with less memory than the job allows: {message}");
            TaskError::Failed { class: FailureClass::TooSmall, code, message }
        }
        other => other,
    }
}

/// A built-in that works on numbers met something else.
pub(super) fn not_a_number(key: &[u8], value: &[u8]) -> TaskError {
    let (key, value) = (shown(key), shown(value));
    guest(
        "IPDC-5352",
        format!("key `{key}` has the value `{value}`; expected a decimal integer of 64 bits"),
    )
}

/// A key that a sort by number cannot place.
pub(super) fn key_not_a_decimal(key: &[u8]) -> TaskError {
    guest(
        "IPDC-5352",
        format!("the key `{}` is no decimal number, and the sort is by number", shown(key)),
    )
}

/// A value that cannot be ranked.
pub(super) fn not_a_decimal(key: &[u8], value: &[u8]) -> TaskError {
    let (key, value) = (shown(key), shown(value));
    guest(
        "IPDC-5352",
        format!(
            "key `{key}` has the value `{value}`; expected a decimal number, which `top` ranks by"
        ),
    )
}

/// The records that `top` must keep do not fit the memory of the task.
pub(super) fn top_too_large(limit: usize, budget: usize) -> TaskError {
    guest(
        "IPDC-5360",
        format!(
            "the {limit} records with the greatest values have more than {budget} bytes, which do not fit the task's memory"
        ),
    )
}

/// A number left the range of 64 bits.
pub(super) fn overflow(key: &[u8]) -> TaskError {
    guest("IPDC-5353", format!("the number of key `{}` does not fit 64 bits", shown(key)))
}

/// `combine` emitted a record under a key other than its group's.
pub(super) fn foreign_key(key: &[u8], emitted: &[u8]) -> TaskError {
    let (key, emitted) = (shown(key), shown(emitted));
    guest(
        "IPDC-5354",
        format!(
            "`combine` was called for key `{key}` and emitted key `{emitted}`; it may only emit the key it was called for"
        ),
    )
}

/// A command that combines emitted a key that was not in its input, or not there any more.
pub(super) fn unsorted_key(emitted: &[u8]) -> TaskError {
    let emitted = shown(emitted);
    guest(
        "IPDC-5354",
        format!(
            "`combine` emitted key `{emitted}`; a command may only emit keys of its input, in their order"
        ),
    )
}

/// A record that is no line for a command.
pub(super) fn no_line(key: &[u8]) -> TaskError {
    let key = shown(key);
    guest(
        "IPDC-5380",
        format!(
            "a record of key `{key}` cannot be given to a command as a `key<TAB>value` line: its key has a tab or a line's end, or its value a line's end"
        ),
    )
}

/// All values of one key do not fit the memory of the task that reduces them.
pub(super) fn group_too_large(key: &[u8], limit: usize) -> TaskError {
    let key = shown(key);
    guest(
        "IPDC-5355",
        format!(
            "the values of key `{key}` have more than {limit} bytes, which do not fit the task's memory"
        ),
    )
}

/// A record of the input is longer than a task may hold.
pub(super) fn record_too_long(limit: usize) -> TaskError {
    guest(
        "IPDC-5356",
        format!(
            "a record of the input has more than {limit} bytes, which do not fit the task's memory"
        ),
    )
}

/// A compressed file of the input is none, or not whole.
pub(super) fn broken_file(path: &str, file: &FileRef, codec: &str, why: &io::Error) -> TaskError {
    let cid = file.cid;
    let name = if path.is_empty() { format!("{cid}") } else { format!("`{path}` ({cid})") };
    guest("IPDC-5370", format!("file {name} of the input cannot be unpacked as {codec}: {why}"))
}

/// A split ends inside a record, which its tree said it does not.
pub(super) fn open_split(file: &FileRef) -> TaskError {
    guest("IPDC-5373", format!("chunk {} of the input ends inside a record", file.cid))
}

/// More records are bad than the job allows.
pub(super) fn too_many_bad(found: usize, most: u32) -> TaskError {
    guest("IPDC-5371", format!("`map` trapped on {found} records; `max_bad_records` allows {most}"))
}

/// The code of [`held_too_long`].
pub(super) const HELD_TOO_LONG: &str = "IPDC-5372";

/// What `map` emits for one record does not fit the memory that holds it until the call has ended.
pub(super) fn held_too_long(limit: usize) -> TaskError {
    guest(
        HELD_TOO_LONG,
        format!(
            "`map` emitted more than {limit} bytes for one record, a quarter of the task's memory, in a job with `max_bad_records`"
        ),
    )
}

/// Bytes that this kind wrote, or planned, do not read back.
pub(super) fn corrupt(what: &str) -> TaskError {
    let message = format!("{what} does not read back as it was written");
    TaskError::Failed { class: FailureClass::Worker, code: "IPDC-5357", message }
}

/// Compression failed, which only a lack of memory explains.
pub(super) fn compression(error: &io::Error) -> TaskError {
    let message = format!("a run could not be compressed: {error}");
    TaskError::Failed { class: FailureClass::Worker, code: "IPDC-5358", message }
}

fn shown(bytes: &[u8]) -> Cow<'_, str> {
    match bytes.get(..KEY_SHOWN) {
        Some(start) if bytes.len() > KEY_SHOWN => {
            Cow::Owned(format!("{}…", String::from_utf8_lossy(start)))
        }
        _ => String::from_utf8_lossy(bytes),
    }
}
