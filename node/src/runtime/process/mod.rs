//! Native programs: each run in a process of its own, confined by the kernel.
//!
//! | | |
//! |---|---|
//! | [`pool`] | what runs programs on a node: its launchers, and those that have nothing to do |
//! | [`run`] | a program as a guest: one run a call |
//! | [`pipes`] | what a run has open: its input, what it writes, what it asks |
//! | [`launcher`] | a process that starts programs, as the node has it |
//! | [`inside`] | the same, as it is inside |
//! | [`order`] | what the two say to each other |
//! | [`group`] | control groups: memory, processes |
//! | [`root`] | the files that a program sees |
//! | [`uid`] | users that are nobody's |
//!
//! A program runs as a user of its own without any right, in namespaces of its own of processes, files, network and
//! shared memory, in a control group with limits. A launcher has all of these and starts one program at a time in
//! them; between two runs it ends all that was left, and between two attempts it makes a fresh working directory. `docs/process.md`
//! says what holds, `docs/decisions/0021-process.md` why it is so.
//!
//! Linux alone has all that; elsewhere, [`elsewhere`] says that there is none.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod group;
#[cfg(target_os = "linux")]
mod inside;
#[cfg(target_os = "linux")]
mod launcher;
#[cfg(target_os = "linux")]
mod left;
#[cfg(target_os = "linux")]
mod order;
#[cfg(target_os = "linux")]
mod pipes;
#[cfg(target_os = "linux")]
mod pool;
#[cfg(target_os = "linux")]
mod root;
#[cfg(target_os = "linux")]
mod run;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(target_os = "linux")]
mod uid;

#[cfg(target_os = "linux")]
use std::fmt::Display;
use std::path::PathBuf;

use ipdc_jobs::kind::TaskError;
use ipdc_jobs::message::FailureClass;

use crate::config::Uids;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Processes, launch_if_asked};
#[cfg(target_os = "linux")]
pub use {inside::launch_if_asked, pool::Processes};

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::Program;
#[cfg(target_os = "linux")]
pub(super) use pool::Program;

/// How programs run on a node.
#[derive(Debug, Clone)]
pub struct Options {
    /// `ipdc`.
    pub program: PathBuf,
    /// A folder of the node's, which only it may read: here are programs and the files that they are given.
    pub folder: PathBuf,
    /// The node's, and no other node's on the machine.
    pub name: String,
    /// The users that programs may run as.
    pub uids: Uids,
    /// Bytes of memory that all programs of the node have together.
    pub memory: u64,
    /// Launchers that are kept when they have nothing to do.
    pub idle: usize,
}

/// Why a program cannot be run here as it must be.
#[derive(Debug, thiserror::Error)]
#[error("this node could not run a native program confined: {0}")]
pub struct Trouble(String);

impl Trouble {
    pub(crate) fn new(what: &str) -> Trouble {
        Trouble(what.to_owned())
    }

    #[cfg(target_os = "linux")]
    fn of<E: Display>(what: &str) -> impl FnOnce(E) -> Trouble {
        move |error| Trouble(format!("{what}: {error}"))
    }
}

impl From<Trouble> for TaskError {
    fn from(trouble: Trouble) -> Self {
        TaskError::Failed {
            class: FailureClass::Worker,
            code: "IPDC-5320",
            message: trouble.to_string(),
        }
    }
}
