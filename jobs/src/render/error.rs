//! What this kind's tasks fail with.

use crate::kind::TaskError;
use crate::message::FailureClass;

fn failed(class: FailureClass, code: &'static str, message: String) -> TaskError {
    TaskError::Failed { class, code, message }
}

/// Something that this kind wrote is not as it was written.
pub(super) fn corrupt(what: &str) -> TaskError {
    let message = format!("{what} does not read back as it was written");
    failed(FailureClass::Worker, "IPDC-5701", message)
}

/// The command ended well and did not leave what it was to leave.
pub(super) fn missing(name: &str, left: &[&str]) -> TaskError {
    let left = if left.is_empty() { "nothing".to_owned() } else { left.join(", ") };
    let message = format!(
        "the command ended well and left no `{name}` in /out, as `outputs` in job.toml says it does; it left {left}"
    );
    failed(FailureClass::Guest, "IPDC-5702", message)
}

/// A tile that cannot be put together with the others.
pub(super) fn no_tile(name: &str, why: &str) -> TaskError {
    let message = format!("`{name}` cannot be put together from its tiles: {why}");
    failed(FailureClass::Guest, "IPDC-5703", message)
}
