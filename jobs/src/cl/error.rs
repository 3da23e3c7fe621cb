//! What this kind's tasks fail with.

use crate::kind::TaskError;
use crate::message::FailureClass;

/// Something that this kind wrote is not as it was written.
pub(super) fn corrupt(what: &str) -> TaskError {
    TaskError::Failed {
        class: FailureClass::Worker,
        code: "IPDC-5601",
        message: format!("{what} does not read back as it was written"),
    }
}

/// More items than a job may have.
pub(super) fn too_many(limit: u64) -> TaskError {
    let message = format!("there are more than {limit} items, which is what a job may have");
    TaskError::Failed { class: FailureClass::Guest, code: "IPDC-5602", message }
}

/// A producer made what is no item.
pub(super) fn no_item(why: &str) -> TaskError {
    let message = format!("the producer made what is no item: {why}");
    TaskError::Failed { class: FailureClass::Guest, code: "IPDC-5603", message }
}
