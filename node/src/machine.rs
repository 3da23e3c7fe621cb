//! What this node says of the machine it runs on.

use std::path::Path;
use std::time::Duration;

use sysinfo::{CpuRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::watch;

use crate::swarm::facts::PeerFacts;

/// How often processor, memory and disk are looked at: as often as peers are told.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);

/// The logical processors.
#[must_use]
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Keeps `facts` true until nobody reads them any more. `home` tells which disk counts.
pub async fn watch(facts: watch::Sender<PeerFacts>, home: &Path) {
    let what = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_cpu_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(what);
    loop {
        system.refresh_specifics(what);
        let (disk, disk_free) = disk_of(home);
        facts.send_modify(|facts| {
            facts.cpu_use = system.global_cpu_usage() / 100.0;
            facts.memory = system.total_memory();
            facts.memory_free = system.available_memory();
            facts.disk = disk;
            facts.disk_free = disk_free;
        });
        tokio::select! {
            () = tokio::time::sleep(SAMPLE_INTERVAL) => {}
            () = facts.closed() => return,
        }
    }
}

/// Total and free bytes of the disk that holds `path`: of the mounts above it, the deepest.
fn disk_of(path: &Path) -> (u64, u64) {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let disks = Disks::new_with_refreshed_list();
    let above = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let deepest = above.max_by_key(|disk| disk.mount_point().as_os_str().len());
    deepest.map_or((0, 0), |disk| (disk.total_space(), disk.available_space()))
}
