//! What runs native programs on a node.
//!
//! Owns the node's folder and control group of programs, and the launchers that have nothing to do.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipdc_jobs::ids::FileRef;
use ipdc_jobs::kind::{Given, TaskError};
use ipdc_jobs::native::Native;

use super::group::Group;
use super::launcher::Launcher;
use super::run::{self, Run};
use super::{Options, Trouble};
use crate::runtime::Attempt;
use crate::runtime::room::Room;

/// Bytes of files on the disk that a launcher may hold while it has nothing to do: most programs, and what is copied
/// again in less time than a launcher needs to start.
const KEPT: u64 = 32 << 20;

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

impl Processes {
    /// Ends what a node of the name left behind, and starts a first launcher: so it is known that programs can be
    /// confined here.
    ///
    /// # Errors
    /// When they cannot, and why.
    pub fn start(options: Options) -> Result<Processes, Trouble> {
        let group = Group::own().and_then(|own| own.create(&options.name));
        let group = group.map_err(Trouble::of("its control group"))?;
        let (idle, next) = (Mutex::default(), AtomicU64::new(1));
        let processes = Processes { shared: Arc::new(Shared { options, group, idle, next }) };
        let prepared = processes.prepare();
        if prepared.is_err() {
            processes.stop();
        }
        prepared.map(|()| processes)
    }

    fn prepare(&self) -> Result<(), Trouble> {
        let Shared { options: Options { folder, memory, .. }, group, .. } = &*self.shared;
        group.give_on().map_err(Trouble::of("its control group"))?;
        group.limit_memory(*memory).map_err(Trouble::of("its memory limit"))?;
        // If something is still there, it cannot be made anew either.
        let _ = fs::remove_dir_all(folder);
        fs::create_dir(folder).map_err(Trouble::of("its folder"))?;
        self.give_back(self.launcher()?);
        Ok(())
    }

    /// Ends every launcher, and what runs there.
    pub fn stop(&self) {
        self.idle().clear();
        if let Err(error) = self.shared.group.remove() {
            tracing::error!(%error, "the control group of native programs is still there");
        }
    }

    /// What runs the program for one attempt; what that fetches is in `room`.
    ///
    /// # Errors
    /// When it is for another machine.
    pub(in crate::runtime) fn program(
        &self,
        native: &Native,
        room: Room,
    ) -> Result<Program, TaskError> {
        let here = std::env::consts::ARCH;
        if native.machine.is_some_and(|machine| machine.name() != here) {
            return Err(run::not_started(&format!("it is not for this machine, which is {here}")));
        }
        let (processes, tenant) = (self.clone(), self.number());
        Ok(Program { processes, program: native.program, tenant, room })
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
        let folder = folder.join(name);
        let started = Launcher::start(program, folder.clone(), group.clone(), *uids);
        if started.is_err() {
            // What is left in spite of that goes when the node stops.
            let _ = group.remove();
            let _ = fs::remove_dir_all(folder);
        }
        started
    }

    /// A launcher that has nothing to do; a new one, if there is none.
    pub(super) fn take(&self, tenant: u64, program: &FileRef) -> Result<Launcher, Trouble> {
        while let Some(mut launcher) = self.take_idle(tenant, program) {
            // The kernel may have ended it, as the first one when the machine's memory was short.
            if launcher.lives() {
                return Ok(launcher);
            }
        }
        self.launcher()
    }

    /// The attempt's last launcher, else one that has the program, else any.
    fn take_idle(&self, tenant: u64, program: &FileRef) -> Option<Launcher> {
        let mut idle = self.idle();
        let best = idle.iter().position(|one| one.is_of(tenant));
        let best = best.or_else(|| idle.iter().position(|one| one.has(program)));
        let any = idle.len().checked_sub(1);
        Some(idle.swap_remove(best.or(any)?))
    }

    /// Bytes of memory that all programs have together.
    pub(super) fn memory(&self) -> u64 {
        self.shared.options.memory
    }

    /// The attempt is over: a launcher that holds much for it goes.
    fn leave(&self, tenant: u64) {
        let goes = |one: &mut Launcher| one.is_of(tenant) && one.bytes() > KEPT;
        let gone: Vec<_> = self.idle().extract_if(.., goes).collect();
        // Ending them takes milliseconds, in which others may want one.
        drop(gone);
    }

    /// Keeps a launcher for the next who needs one.
    pub(super) fn give_back(&self, launcher: Launcher) {
        let mut idle = self.idle();
        if idle.len() < self.shared.options.idle {
            idle.push(launcher);
        }
    }
}

/// A native program, as one attempt has it.
pub(in crate::runtime) struct Program {
    processes: Processes,
    program: FileRef,
    tenant: u64,
    room: Room,
}

impl Program {
    /// An instance, which runs anew at each call.
    pub(in crate::runtime) fn instantiate(&self, attempt: Attempt, given: Given) -> Run {
        let (processes, room) = (self.processes.clone(), self.room.clone());
        Run::new(processes, (self.program, self.tenant), attempt, given, room)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.processes.leave(self.tenant);
    }
}
