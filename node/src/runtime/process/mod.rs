//! Native programs: each run in a process of its own, confined by the kernel.
//!
//! | | |
//! |---|---|
//! | [`run`] | a program as a guest: one run a call |
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
//! Owns the node's folder and control group of programs, and the launchers that have nothing to do.

mod group;
mod inside;
mod launcher;
mod order;
mod root;
mod run;
#[cfg(test)]
mod tests;
mod uid;

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Given, Guest, TaskError};
use ipdc_jobs::message::FailureClass;
use ipdc_jobs::native::Native;

use super::{Allowance, Listener};
use crate::config::Uids;
use group::{Events, Group};
use launcher::Launcher;
use run::Run;

pub use inside::launch_if_asked;

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

/// What runs native programs. Clones share it.
#[derive(Clone)]
pub struct Processes {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    /// Of all programs.
    group: Group,
    idle: Mutex<Vec<Launcher>>,
    /// Counts launchers and attempts.
    next: AtomicU64,
}

/// Why a program cannot be run here as it must be.
#[derive(Debug, thiserror::Error)]
#[error("this node could not run a native program confined: {0}")]
pub struct Trouble(String);

impl Trouble {
    pub(crate) fn new(what: &str) -> Trouble {
        Trouble(what.to_owned())
    }

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

impl Events {
    /// Whether a process was ended since then because the group's own memory was used up.
    fn full_since(self, before: Events) -> bool {
        self.kills > before.kills && self.full > before.full
    }
}

impl Processes {
    /// Ends what a node of the name left behind, and starts a first launcher: so it is known that programs can be
    /// confined here.
    ///
    /// # Errors
    /// When they cannot, and why.
    pub fn start(options: Options) -> Result<Processes, Trouble> {
        let group = Group::own().and_then(|own| own.create(&options.name));
        let group = group.map_err(Trouble::of("its control group"))?;
        group.give_on().map_err(Trouble::of("its control group"))?;
        group.limit_memory(options.memory).map_err(Trouble::of("its memory limit"))?;
        let _ = fs::remove_dir_all(&options.folder);
        fs::create_dir_all(&options.folder).map_err(Trouble::of("its folder"))?;
        let (idle, next) = (Mutex::default(), AtomicU64::new(1));
        let processes = Processes { shared: Arc::new(Shared { options, group, idle, next }) };
        processes.give_back(processes.launcher()?);
        Ok(processes)
    }

    /// Ends every launcher, and what runs there.
    pub fn stop(&self) {
        self.idle().clear();
        if let Err(error) = self.shared.group.remove() {
            tracing::error!(%error, "the control group of native programs is still there");
        }
    }

    /// What runs the program for one attempt.
    ///
    /// # Errors
    /// When it is for another machine.
    pub(super) fn program(&self, native: &Native) -> Result<Program, TaskError> {
        let here = std::env::consts::ARCH;
        if native.machine.is_some_and(|machine| machine.name() != here) {
            return Err(run::not_started(&format!("it is not for this machine, which is {here}")));
        }
        Ok(Program { processes: self.clone(), program: native.program, tenant: self.number() })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Launcher>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    fn launcher(&self) -> Result<Launcher, Trouble> {
        let Options { program, folder, uids, .. } = &self.shared.options;
        let name = self.number().to_string();
        let group = self.shared.group.create(&name).map_err(Trouble::of("its control group"))?;
        Launcher::start(program, folder.join(name), group, *uids)
    }

    /// A launcher that has nothing to do: the attempt's last one, else one that has the program, else any.
    fn take(&self, tenant: u64, program: &FileRef) -> Result<Launcher, Trouble> {
        let mut idle = self.idle();
        let best = idle.iter().position(|one| one.is_of(tenant));
        let best = best.or_else(|| idle.iter().position(|one| one.has(program)));
        let any = idle.len().checked_sub(1);
        match best.or(any) {
            Some(at) => Ok(idle.swap_remove(at)),
            None => {
                drop(idle);
                self.launcher()
            }
        }
    }

    /// Keeps a launcher for the next who needs one.
    fn give_back(&self, launcher: Launcher) {
        let mut idle = self.idle();
        if idle.len() < self.shared.options.idle {
            idle.push(launcher);
        }
    }
}

/// A native program, as one attempt has it.
pub(super) struct Program {
    processes: Processes,
    program: FileRef,
    tenant: u64,
}

impl Program {
    /// An instance, which runs anew at each call.
    pub(super) fn instantiate(
        &self,
        allowance: &Allowance,
        listener: Box<dyn Listener>,
        given: Given,
    ) -> Box<dyn Guest> {
        let program = (self.program, self.tenant);
        Box::new(Run::new(self.processes.clone(), program, allowance.clone(), listener, given))
    }
}
