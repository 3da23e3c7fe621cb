//! What this node says of the machine it runs on: of as much of it as the node may use.

pub(crate) mod cgroup;
mod gpu;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sysinfo::{
    CpuRefreshKind, Disks, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate,
    RefreshKind, System,
};
use tokio::sync::watch;

pub use gpu::Gpu;

use crate::swarm::facts::PeerFacts;
use gpu::Gpus;

/// How often processor, memory and disk are looked at: as often as peers are told.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);

fn what() -> RefreshKind {
    RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_cpu_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram())
}

/// The logical processors.
#[must_use]
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Bytes of memory that this process may use: the machine's, or what its control groups leave of it.
#[must_use]
pub fn memory() -> u64 {
    let machine = System::new_with_specifics(what()).total_memory();
    cgroup::memory().map_or(machine, |group| group.limit.min(machine))
}

/// The program that runs now, to be run again in another process.
#[must_use]
pub fn own_program() -> PathBuf {
    // On Linux it is there even when the file has been replaced by a newer one.
    let own = PathBuf::from("/proc/self/exe");
    let named = || std::env::current_exe().unwrap_or_else(|_| "ipdc".into());
    if own.exists() { own } else { named() }
}

/// Looks at the machine.
pub struct Sampler {
    system: System,
    gpus: Gpus,
    home: PathBuf,
}

impl Sampler {
    /// One for the machine, and the disk that holds `home`.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
        Sampler { system: System::new_with_specifics(what()), gpus: Gpus::new(), home }
    }

    /// Writes what is now into `facts`.
    pub fn sample(&mut self, facts: &mut PeerFacts) {
        self.system.refresh_specifics(what());
        let (disk, disk_free) = disk_of(&self.home);
        facts.cpu_use = self.system.global_cpu_usage() / 100.0;
        facts.cpu_others = (facts.cpu_use - self.own_use()).max(0.0);
        facts.memory = self.system.total_memory();
        facts.memory_free = self.system.available_memory();
        if let Some(group) = cgroup::memory() {
            facts.memory = facts.memory.min(group.limit);
            facts.memory_free = facts.memory_free.min(group.free);
        }
        facts.gpus = self.gpus.look();
        facts.disk = disk;
        facts.disk_free = disk_free;
    }

    /// The share of the processors that this process uses.
    fn own_use(&mut self) -> f32 {
        let me = Pid::from_u32(std::process::id());
        let what = ProcessRefreshKind::nothing().with_cpu();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[me]), false, what);
        let cores = self.system.cpus().len().max(1) as f32;
        self.system.process(me).map_or(0.0, |process| process.cpu_usage() / 100.0 / cores)
    }

    /// Keeps `facts` true until nobody reads them any more. `load` says how many attempts run.
    pub async fn watch(mut self, facts: watch::Sender<PeerFacts>, load: impl Fn() -> u32) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SAMPLE_INTERVAL) => {}
                () = facts.closed() => return,
            }
            facts.send_modify(|facts| {
                self.sample(facts);
                facts.load = load();
            });
        }
    }
}

/// Total and free bytes of the disk that holds `path`: of the mounts above it, the deepest.
fn disk_of(path: &Path) -> (u64, u64) {
    let disks = Disks::new_with_refreshed_list();
    let above = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let deepest = above.max_by_key(|disk| disk.mount_point().as_os_str().len());
    deepest.map_or((0, 0), |disk| (disk.total_space(), disk.available_space()))
}
